//! Tickets, resume tokens and the proofs that make them useless to a thief.
//!
//! A login service issues a [`Grant`]: a sealed ticket and a secret. The client shows the ticket
//! and proves that it knows the secret by a keyed answer to the gate's nonce. A gate opens the
//! ticket alone, with a key of the cluster. `docs/protocol.md` gives the layout.

use std::fmt;
use std::hint::black_box;

use env::{Random, WallTime};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;

use crate::WireError;
use crate::frame::{TEXT_BYTES_MAX, TICKET_BYTES_MAX};
use crate::id::{AccountId, SessionId};
use crate::varint::{Reader, put_blob, put_varint};

/// How far ahead of a gate's clock that of the login service may be, in milliseconds.
pub const CLOCK_SKEW_MS: u64 = 60_000;

const VERSION: u8 = 1;
const TICKET: u8 = 1;
const RESUME: u8 = 2;
const PASS: u8 = 3;
const LABEL: &[u8] = b"mainstay sealed v1";
const LOGIN_LABEL: &[u8] = b"mainstay login v1";
const RESUME_LABEL: &[u8] = b"mainstay resume v1";
const DERIVE_LABEL: &[u8] = b"mainstay derived v1";

/// What a login service says about a player.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Who it is.
    pub account: AccountId,
    /// Login level, compared with what methods ask for.
    pub level: u8,
    /// Shown to others; at most [`TEXT_BYTES_MAX`] bytes, what is over is left off.
    pub name: String,
    /// When the ticket was made.
    pub issued: WallTime,
    /// From when on it is refused.
    pub expires: WallTime,
}

/// What a client gets from a login service.
#[derive(Clone, PartialEq, Eq)]
pub struct Grant {
    /// Shown to the gate.
    pub ticket: Vec<u8>,
    /// Never leaves the client.
    pub secret: [u8; 32],
    /// The session that will be opened.
    pub session: SessionId,
    /// From when on the ticket is refused.
    pub expires: WallTime,
}

/// An opened ticket. Good only together with a proof made with `secret`.
#[derive(Clone, PartialEq, Eq)]
pub struct Opened {
    /// What the login service said.
    pub claims: Claims,
    /// The session to open.
    pub session: SessionId,
    /// What the client must prove to know.
    pub secret: [u8; 32],
}

/// What a resume token holds.
#[derive(Clone, PartialEq, Eq)]
pub struct ResumeClaims {
    /// The session to go on with.
    pub session: SessionId,
    /// Its account.
    pub account: AccountId,
    /// What the client must prove to know.
    pub secret: [u8; 32],
    /// Login level.
    pub level: u8,
    /// From when on the token is refused.
    pub expires: WallTime,
}

/// Why a ticket or token is refused. May be shown to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// There is none.
    #[error("ticket is missing")]
    Missing,
    /// It is shorter than any, longer than allowed, or of another version.
    #[error("ticket is malformed")]
    Malformed,
    /// It was sealed with a key that this cluster does not have (any more).
    #[error("ticket was sealed with key {0}, which is not known here")]
    UnknownKey(u8),
    /// It was changed, or sealed by somebody else.
    #[error("ticket is not from this cluster, or was changed")]
    Forged,
    /// One of ticket, resume token and pass was shown where another is wanted.
    #[error("tickets, resume tokens and passes do not stand for each other")]
    Purpose,
    /// Its time is over.
    #[error("ticket has expired: get a new one")]
    Expired,
    /// It was made in the future: one of the clocks is wrong.
    #[error("ticket is not valid yet: check the clocks of login service and gate")]
    NotYet,
}

impl From<WireError> for TicketError {
    fn from(_: WireError) -> Self {
        TicketError::Malformed
    }
}

/// The cluster's ticket keys.
///
/// The first key seals, all open: a new key is first added at the end on every gate, then moved to
/// the front, then the old one is removed when its last token has expired.
#[derive(Clone)]
pub struct TicketKeys {
    keys: Vec<(u8, LessSafeKey)>,
}

impl TicketKeys {
    /// Keys with their ids.
    ///
    /// # Panics
    ///
    /// Without any key, or if two share an id: whoever reads the cluster file checks that.
    pub fn new(keys: Vec<(u8, [u8; 32])>) -> Self {
        assert!(!keys.is_empty(), "tickets need a key");
        let mut ring: Vec<(u8, LessSafeKey)> = Vec::new();
        for (id, key) in keys {
            assert!(ring.iter().all(|(other, _)| *other != id), "ticket key id {id} stands twice");
            let key = UnboundKey::new(&CHACHA20_POLY1305, &key).expect("the key has 32 bytes");
            ring.push((id, LessSafeKey::new(key)));
        }
        TicketKeys { keys: ring }
    }

    /// Makes a ticket for a new session.
    pub fn issue(&self, random: &mut Random, claims: Claims) -> Grant {
        let session = SessionId(random.bytes());
        let secret = random.bytes();
        let expires = claims.expires;
        let opened = Opened { claims, session, secret };
        let mut plain = Vec::with_capacity(128);
        opened.encode(&mut plain);
        Grant { ticket: self.seal(random, plain), secret, session, expires }
    }

    /// Opens a ticket. It is not proven yet that the client owns it: see [`login_proof`].
    ///
    /// # Errors
    ///
    /// Why it is not good at `now`.
    pub fn open_ticket(&self, ticket: &[u8], now: WallTime) -> Result<Opened, TicketError> {
        let mut buffer = [0; TICKET_BYTES_MAX];
        let opened = Opened::decode(self.open(ticket, &mut buffer)?)?;
        if opened.claims.issued.0 > now.0.saturating_add(CLOCK_SKEW_MS) {
            return Err(TicketError::NotYet);
        }
        if now >= opened.claims.expires {
            return Err(TicketError::Expired);
        }
        Ok(opened)
    }

    /// Makes a resume token.
    pub fn seal_resume(&self, random: &mut Random, claims: &ResumeClaims) -> Vec<u8> {
        let mut plain = Vec::with_capacity(128);
        claims.encode(&mut plain);
        self.seal(random, plain)
    }

    /// Opens a resume token. It is not proven yet that the client owns it: see [`resume_proof`].
    ///
    /// # Errors
    ///
    /// Why it is not good at `now`.
    pub fn open_resume(&self, token: &[u8], now: WallTime) -> Result<ResumeClaims, TicketError> {
        let mut buffer = [0; TICKET_BYTES_MAX];
        let claims = ResumeClaims::decode(self.open(token, &mut buffer)?)?;
        if now >= claims.expires { Err(TicketError::Expired) } else { Ok(claims) }
    }

    /// Makes a pass: who shows it to the login service is that account again.
    ///
    /// It has no end of its own. It is good as long as the cluster has the key that sealed it, so a
    /// login service gives a new one with each ticket.
    pub fn seal_pass(&self, random: &mut Random, account: AccountId) -> Vec<u8> {
        let mut plain = vec![VERSION, PASS];
        put_varint(&mut plain, account.0);
        self.seal(random, plain)
    }

    /// Opens a pass. Whoever has it is the account: it belongs into a client's own storage only.
    ///
    /// # Errors
    ///
    /// Why it is not good.
    pub fn open_pass(&self, pass: &[u8]) -> Result<AccountId, TicketError> {
        let mut buffer = [0; TICKET_BYTES_MAX];
        let mut reader = Reader::new(self.open(pass, &mut buffer)?);
        read_purpose(&mut reader, PASS)?;
        let account = AccountId(reader.varint()?);
        reader.end()?;
        Ok(account)
    }

    /// `key id | nonce | sealed`. The nonce is random: at 1,000 seals a second a key's nonces
    /// repeat within a century with a chance under 10^-9.
    fn seal(&self, random: &mut Random, mut plain: Vec<u8>) -> Vec<u8> {
        let (id, key) = &self.keys[0];
        let nonce: [u8; NONCE_LEN] = random.bytes();
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(associated(*id)),
            &mut plain,
        )
        .expect("what is sealed is short");
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + plain.len());
        sealed.push(*id);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&plain);
        sealed
    }

    fn open<'b>(
        &self,
        sealed: &[u8],
        buffer: &'b mut [u8; TICKET_BYTES_MAX],
    ) -> Result<&'b [u8], TicketError> {
        if sealed.is_empty() {
            return Err(TicketError::Missing);
        }
        if sealed.len() > TICKET_BYTES_MAX {
            return Err(TicketError::Malformed);
        }
        let mut reader = Reader::new(sealed);
        let id = reader.byte()?;
        let nonce = reader.array()?;
        let body = reader.take_rest();
        if body.len() < CHACHA20_POLY1305.tag_len() {
            return Err(TicketError::Malformed);
        }
        let known = self.keys.iter().find(|(known, _)| *known == id);
        let (_, key) = known.ok_or(TicketError::UnknownKey(id))?;
        let buffer = &mut buffer[..body.len()];
        buffer.copy_from_slice(body);
        key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(associated(id)), buffer)
            .map(|plain| &*plain)
            .map_err(|_| TicketError::Forged)
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only the ids: the keys stay out of logs.
        f.debug_list().entries(self.keys.iter().map(|(id, _)| id)).finish()
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("session", &self.session).finish_non_exhaustive()
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("claims", &self.claims)
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ResumeClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResumeClaims")
            .field("session", &self.session)
            .field("account", &self.account)
            .field("level", &self.level)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// What is authenticated besides the sealed part.
fn associated(id: u8) -> [u8; LABEL.len() + 1] {
    let mut data = [id; LABEL.len() + 1];
    data[..LABEL.len()].copy_from_slice(LABEL);
    data
}

impl Opened {
    fn encode(&self, out: &mut Vec<u8>) {
        put_common(out, TICKET, self.session, &self.secret, self.claims.account);
        out.push(self.claims.level);
        put_varint(out, self.claims.issued.0);
        put_varint(out, self.claims.expires.0);
        let cut = self.claims.name.floor_char_boundary(TEXT_BYTES_MAX);
        put_blob(out, &self.claims.name.as_bytes()[..cut]);
    }

    fn decode(plain: &[u8]) -> Result<Self, TicketError> {
        let mut reader = Reader::new(plain);
        let (session, secret, account) = read_common(&mut reader, TICKET)?;
        let level = reader.byte()?;
        let issued = WallTime(reader.varint()?);
        let expires = WallTime(reader.varint()?);
        let name = reader.text(TEXT_BYTES_MAX)?.to_owned();
        reader.end()?;
        let claims = Claims { account, level, name, issued, expires };
        Ok(Opened { claims, session, secret })
    }
}

impl ResumeClaims {
    fn encode(&self, out: &mut Vec<u8>) {
        put_common(out, RESUME, self.session, &self.secret, self.account);
        out.push(self.level);
        put_varint(out, self.expires.0);
    }

    fn decode(plain: &[u8]) -> Result<Self, TicketError> {
        let mut reader = Reader::new(plain);
        let (session, secret, account) = read_common(&mut reader, RESUME)?;
        let level = reader.byte()?;
        let expires = WallTime(reader.varint()?);
        reader.end()?;
        Ok(ResumeClaims { session, account, secret, level, expires })
    }
}

fn put_common(
    out: &mut Vec<u8>,
    purpose: u8,
    session: SessionId,
    secret: &[u8; 32],
    account: AccountId,
) {
    out.extend_from_slice(&[VERSION, purpose]);
    out.extend_from_slice(&session.0);
    out.extend_from_slice(secret);
    put_varint(out, account.0);
}

fn read_common(
    reader: &mut Reader<'_>,
    purpose: u8,
) -> Result<(SessionId, [u8; 32], AccountId), TicketError> {
    read_purpose(reader, purpose)?;
    Ok((SessionId(reader.array()?), reader.array()?, AccountId(reader.varint()?)))
}

fn read_purpose(reader: &mut Reader<'_>, purpose: u8) -> Result<(), TicketError> {
    if reader.byte()? != VERSION {
        return Err(TicketError::Malformed);
    }
    if reader.byte()? == purpose { Ok(()) } else { Err(TicketError::Purpose) }
}

/// What a client answers to the gate's `nonce` to log in with `ticket`.
pub fn login_proof(secret: &[u8; 32], nonce: &[u8; 16], ticket: &[u8]) -> [u8; 32] {
    prove(secret, &[LOGIN_LABEL, nonce, ticket])
}

/// What a client answers to the gate's `nonce` to resume with `token`, asking for `generation`.
pub fn resume_proof(
    secret: &[u8; 32],
    nonce: &[u8; 16],
    token: &[u8],
    generation: u64,
) -> [u8; 32] {
    prove(secret, &[RESUME_LABEL, nonce, token, &generation.to_le_bytes()])
}

/// Whether two proofs are equal, in a time that does not tell where they differ.
pub fn is_same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let difference = a.iter().zip(b).fold(0, |all, (a, b)| black_box(all | (a ^ b)));
    difference == 0
}

/// The key of `name` that only those can make who have `secret`: what is sealed or proven by one of
/// them, the others refuse.
pub fn derived_key(secret: &[u8; 32], name: &str) -> [u8; 32] {
    prove(secret, &[DERIVE_LABEL, name.as_bytes()])
}

/// HMAC-SHA256 over the parts, one after the other. Each caller's parts have fixed lengths but
/// one, so no two lists of parts give the same text.
fn prove(secret: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    for part in parts {
        context.update(part);
    }
    let mut proof = [0; 32];
    proof.copy_from_slice(context.sign().as_ref());
    proof
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime(1_000_000);

    fn claims() -> Claims {
        Claims {
            account: AccountId(77),
            level: 2,
            name: "Ada".into(),
            issued: NOW,
            expires: WallTime(NOW.0 + 60_000),
        }
    }

    fn keys(ids: &[u8]) -> TicketKeys {
        TicketKeys::new(ids.iter().map(|&id| (id, [id; 32])).collect())
    }

    fn issue(keys: &TicketKeys) -> Grant {
        keys.issue(&mut Random::from_seed(1), claims())
    }

    #[test]
    fn a_ticket_opens_to_what_was_sealed() {
        let keys = keys(&[1]);
        let grant = issue(&keys);
        let opened = keys.open_ticket(&grant.ticket, NOW).unwrap();
        assert_eq!(opened.claims, claims());
        assert_eq!((opened.session, opened.secret), (grant.session, grant.secret));
        assert!(grant.ticket.len() <= TICKET_BYTES_MAX);
    }

    #[test]
    fn a_pass_names_its_account_and_opens_nothing_else() {
        let keys = keys(&[1]);
        let pass = keys.seal_pass(&mut Random::from_seed(2), AccountId(u64::MAX));
        assert_eq!(keys.open_pass(&pass), Ok(AccountId(u64::MAX)));
        assert_eq!(keys.open_ticket(&pass, NOW), Err(TicketError::Purpose));
        assert_eq!(keys.open_resume(&pass, NOW), Err(TicketError::Purpose));
        assert_eq!(keys.open_pass(&issue(&keys).ticket), Err(TicketError::Purpose));
        assert_eq!(keys.open_pass(b""), Err(TicketError::Missing));
        for at in 0..pass.len() * 8 {
            let mut changed = pass.clone();
            changed[at / 8] ^= 1 << (at % 8);
            assert!(keys.open_pass(&changed).is_err(), "bit {at}");
        }
    }

    #[test]
    fn resume_tokens_are_short() {
        let claims = ResumeClaims {
            session: SessionId([255; 16]),
            account: AccountId(u64::MAX),
            secret: [255; 32],
            level: 255,
            expires: WallTime(u64::MAX),
        };
        let token = keys(&[1]).seal_resume(&mut Random::from_seed(1), &claims);
        assert!(token.len() <= crate::frame::TOKEN_BYTES_MAX, "{} bytes", token.len());
    }

    #[test]
    fn a_long_name_is_cut_at_a_character() {
        let keys = keys(&[1]);
        let name = "ü".repeat(500);
        let grant = keys.issue(&mut Random::from_seed(1), Claims { name, ..claims() });
        let opened = keys.open_ticket(&grant.ticket, NOW).unwrap();
        assert_eq!(opened.claims.name, "ü".repeat(TEXT_BYTES_MAX / 2));
        assert!(grant.ticket.len() <= TICKET_BYTES_MAX);
    }

    #[test]
    fn missing_truncated_and_oversized_tickets_are_refused() {
        let keys = keys(&[1]);
        let ticket = issue(&keys).ticket;
        assert_eq!(keys.open_ticket(&[], NOW).unwrap_err(), TicketError::Missing);
        for cut in 1..ticket.len() {
            let error = keys.open_ticket(&ticket[..cut], NOW).unwrap_err();
            let wanted = if cut < 29 { TicketError::Malformed } else { TicketError::Forged };
            assert_eq!(error, wanted, "cut at {cut}");
        }
        let long = [&ticket[..], &[0; TICKET_BYTES_MAX]].concat();
        assert_eq!(keys.open_ticket(&long, NOW).unwrap_err(), TicketError::Malformed);
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let keys = keys(&[1]);
        let ticket = issue(&keys).ticket;
        for bit in 0..ticket.len() * 8 {
            let mut changed = ticket.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let error = keys.open_ticket(&changed, NOW).unwrap_err();
            if bit < 8 {
                assert_eq!(error, TicketError::UnknownKey(changed[0]));
            } else {
                assert_eq!(error, TicketError::Forged);
            }
        }
    }

    #[test]
    fn foreign_tickets_are_refused() {
        let foreign = TicketKeys::new(vec![(1, [99; 32])]);
        let ticket = issue(&foreign).ticket;
        assert_eq!(keys(&[1]).open_ticket(&ticket, NOW).unwrap_err(), TicketError::Forged);
        let known_as_2 = TicketKeys::new(vec![(2, [99; 32])]);
        let error = known_as_2.open_ticket(&ticket, NOW).unwrap_err();
        assert_eq!(error, TicketError::UnknownKey(1));
        // The id is authenticated too: one key under two ids opens only what it sealed as such.
        let mut renamed = ticket.clone();
        renamed[0] = 2;
        assert_eq!(known_as_2.open_ticket(&renamed, NOW).unwrap_err(), TicketError::Forged);
    }

    #[test]
    fn tickets_have_a_beginning_and_an_end() {
        let keys = keys(&[1]);
        let ticket = issue(&keys).ticket;
        let at = |ms| keys.open_ticket(&ticket, WallTime(ms)).err();
        assert_eq!(at(NOW.0 - CLOCK_SKEW_MS - 1), Some(TicketError::NotYet));
        assert_eq!(at(NOW.0 - CLOCK_SKEW_MS), None);
        assert_eq!(at(NOW.0 + 59_999), None);
        assert_eq!(at(NOW.0 + 60_000), Some(TicketError::Expired));
    }

    #[test]
    fn keys_rotate_without_refusing_anyone() {
        let old = issue(&keys(&[1])).ticket;
        let new = issue(&keys(&[2, 1])).ticket;
        assert_eq!((old[0], new[0]), (1, 2));
        assert!(keys(&[1, 2]).open_ticket(&new, NOW).is_ok());
        assert!(keys(&[2, 1]).open_ticket(&old, NOW).is_ok());
        assert_eq!(keys(&[2]).open_ticket(&old, NOW).unwrap_err(), TicketError::UnknownKey(1));
    }

    #[test]
    fn tokens_and_tickets_do_not_stand_for_each_other() {
        let keys = keys(&[1]);
        let grant = issue(&keys);
        let resume = ResumeClaims {
            session: grant.session,
            account: AccountId(77),
            secret: grant.secret,
            level: 2,
            expires: WallTime(NOW.0 + 1),
        };
        let token = keys.seal_resume(&mut Random::from_seed(2), &resume);
        assert_eq!(keys.open_resume(&token, NOW), Ok(resume));
        let late = WallTime(NOW.0 + 1);
        assert_eq!(keys.open_resume(&token, late).unwrap_err(), TicketError::Expired);
        assert_eq!(keys.open_ticket(&token, NOW).unwrap_err(), TicketError::Purpose);
        assert_eq!(keys.open_resume(&grant.ticket, NOW).unwrap_err(), TicketError::Purpose);
    }

    #[test]
    fn a_proof_is_good_for_one_nonce_ticket_and_generation() {
        let (secret, nonce) = ([1; 32], [2; 16]);
        let proof = login_proof(&secret, &nonce, b"ticket");
        assert!(is_same(&proof, &login_proof(&secret, &nonce, b"ticket")));
        assert!(!is_same(&proof, &login_proof(&[3; 32], &nonce, b"ticket")));
        assert!(!is_same(&proof, &login_proof(&secret, &[3; 16], b"ticket")));
        assert!(!is_same(&proof, &login_proof(&secret, &nonce, b"other")));
        let resume = resume_proof(&secret, &nonce, b"ticket", 1);
        assert!(!is_same(&proof, &resume));
        assert!(!is_same(&resume, &resume_proof(&secret, &nonce, b"ticket", 2)));
    }

    #[test]
    fn secrets_stay_out_of_logs() {
        let keys = keys(&[1]);
        let grant = issue(&keys);
        let opened = keys.open_ticket(&grant.ticket, NOW).unwrap();
        let shown = format!("{keys:?} {grant:?} {opened:?}");
        assert!(!shown.contains("secret") && shown.starts_with("[1] Grant"), "{shown}");
    }
}
