use super::{Slot, WorkerId, put_slot, put_worker, read_slot, read_worker};
use crate::WireError;
use crate::frame::{CloseCode, TEXT_BYTES_MAX, put_text};
use crate::id::{AccountId, MethodId, SessionId};
use crate::varint::{Reader, put_varint};

/// The most tags of one session, and the most that one selection asks for.
pub const TAGS_MAX: usize = 32;

/// The most accounts that one selection lists or leaves out; a longer list takes several frames.
pub const ACCOUNTS_MAX: usize = 4_096;

/// The most sessions that one answer tells of.
pub const PRESENT_MAX: usize = 1_024;

/// From the owner of a stream to the home of its session: the session is logged in with these
/// tags, or is not logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Tag<'a> {
    pub session: SessionId,
    pub account: AccountId,
    pub logged_in: bool,
    pub tags: Vec<&'a str>,
}

/// From anywhere to a home: does `act` with the sessions that are chosen, and answers with
/// [`Selected`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Select<'a> {
    pub ticket: u64,
    pub whom: Whom,
    /// Only sessions with all of these.
    pub tags: Vec<&'a str>,
    /// Not these.
    pub except: Vec<AccountId>,
    pub act: Act<'a>,
}

/// Which sessions of a home are chosen, before tags and exceptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Those of these accounts.
    Accounts(Vec<AccountId>),
    /// All.
    All,
    /// All that are logged in.
    LoggedIn,
    /// All that are not.
    NotLoggedIn,
}

/// What is done with the chosen sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Act<'a> {
    /// Sends this to the client, on its session's first stream.
    Push { method: MethodId, mode: PushTo, body: &'a [u8] },
    /// Ends the session, or only its connection if the code lets it resume.
    Kick { code: CloseCode, reason: &'a str },
    /// Tells of the sessions, in the order of their accounts, from `first` on and at most `max`.
    Look { first: AccountId, max: u32 },
}

/// How a push treats a client that is away or slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushTo {
    /// Numbered: arrives once, in order.
    Reliable,
    /// Of each key the newest.
    Latest(u64),
    /// May be lost.
    Unreliable,
}

/// The answer to [`Select`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// As it came with the question.
    pub ticket: u64,
    /// How many sessions were chosen.
    pub reached: u32,
    /// Listed accounts that have no session here.
    pub unknown: Vec<AccountId>,
    /// What was asked to be told of, in the order of accounts.
    pub present: Vec<Present>,
}

/// A session, as whoever asks who is online is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present {
    /// Whose it is.
    pub account: AccountId,
    /// Since when, in milliseconds since 1970 by the clock of its home's node; 0 if nobody is left who knows.
    pub since_ms: u64,
    /// Whether the game has logged it in.
    pub logged_in: bool,
    /// The gate that its client is connected to; `None` while it waits for a resume.
    pub gate: Option<WorkerId>,
}

/// From a home to the owner of a stream: a push for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Forward<'a> {
    pub slot: Slot,
    pub method: MethodId,
    pub mode: PushTo,
    pub body: &'a [u8],
}

impl<'a> Tag<'a> {
    pub(super) fn decode(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Tag {
            session: SessionId(r.array()?),
            account: AccountId(r.varint()?),
            logged_in: r.flag()?,
            tags: read_tags(r)?,
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.session.0);
        put_varint(out, self.account.0);
        out.push(u8::from(self.logged_in));
        put_tags(out, &self.tags);
    }
}

impl<'a> Select<'a> {
    pub(super) fn decode(r: &mut Reader<'a>) -> Result<Self, WireError> {
        let ticket = r.varint()?;
        let whom = match r.byte()? {
            0 => Whom::Accounts(read_accounts(r)?),
            1 => Whom::All,
            2 => Whom::LoggedIn,
            3 => Whom::NotLoggedIn,
            _ => return Err(WireError::Range),
        };
        let tags = read_tags(r)?;
        let except = read_accounts(r)?;
        let act = match r.byte()? {
            0 => {
                let method = MethodId(r.u32()?);
                Act::Push { method, mode: PushTo::decode(r)?, body: r.take_rest() }
            }
            1 => {
                let code = CloseCode::from_code(r.varint()?);
                Act::Kick { code, reason: r.text(TEXT_BYTES_MAX)? }
            }
            2 => Act::Look { first: AccountId(r.varint()?), max: r.varint_u32()? },
            _ => return Err(WireError::Range),
        };
        Ok(Select { ticket, whom, tags, except, act })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.ticket);
        match &self.whom {
            Whom::Accounts(accounts) => {
                out.push(0);
                put_accounts(out, accounts);
            }
            Whom::All => out.push(1),
            Whom::LoggedIn => out.push(2),
            Whom::NotLoggedIn => out.push(3),
        }
        put_tags(out, &self.tags);
        put_accounts(out, &self.except);
        match self.act {
            Act::Kick { code, reason } => {
                out.push(1);
                put_varint(out, code as u64);
                put_text(out, reason);
            }
            Act::Look { first, max } => {
                out.push(2);
                put_varint(out, first.0);
                put_varint(out, u64::from(max));
            }
            Act::Push { method, mode, body } => {
                out.push(0);
                out.extend_from_slice(&method.0.to_le_bytes());
                mode.encode(out);
                out.extend_from_slice(body);
            }
        }
    }
}

impl PushTo {
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(match r.byte()? {
            0 => PushTo::Reliable,
            1 => PushTo::Latest(r.u64()?),
            2 => PushTo::Unreliable,
            _ => return Err(WireError::Range),
        })
    }

    fn encode(self, out: &mut Vec<u8>) {
        match self {
            PushTo::Reliable => out.push(0),
            PushTo::Latest(key) => {
                out.push(1);
                out.extend_from_slice(&key.to_le_bytes());
            }
            PushTo::Unreliable => out.push(2),
        }
    }
}

impl Selected {
    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let (ticket, reached, unknown) = (r.varint()?, r.varint_u32()?, read_accounts(r)?);
        let count = r.varint()?;
        if count > PRESENT_MAX as u64 {
            return Err(WireError::Range);
        }
        let present = (0..count).map(|_| Present::decode(r)).collect::<Result<_, _>>()?;
        Ok(Selected { ticket, reached, unknown, present })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.ticket);
        put_varint(out, u64::from(self.reached));
        put_accounts(out, &self.unknown);
        put_varint(out, self.present.len() as u64);
        self.present.iter().for_each(|present| present.encode(out));
    }
}

impl Present {
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Present {
            account: AccountId(r.varint()?),
            since_ms: r.varint()?,
            logged_in: r.flag()?,
            gate: if r.flag()? { Some(read_worker(r)?) } else { None },
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.account.0);
        put_varint(out, self.since_ms);
        out.push(u8::from(self.logged_in));
        out.push(u8::from(self.gate.is_some()));
        if let Some(gate) = self.gate {
            put_worker(out, gate);
        }
    }
}

impl<'a> Forward<'a> {
    pub(super) fn decode(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Forward {
            slot: read_slot(r)?,
            method: MethodId(r.u32()?),
            mode: PushTo::decode(r)?,
            body: r.take_rest(),
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_slot(out, self.slot);
        out.extend_from_slice(&self.method.0.to_le_bytes());
        self.mode.encode(out);
        out.extend_from_slice(self.body);
    }
}

fn read_tags<'a>(r: &mut Reader<'a>) -> Result<Vec<&'a str>, WireError> {
    let count = r.varint()?;
    if count > TAGS_MAX as u64 {
        return Err(WireError::Range);
    }
    (0..count).map(|_| r.text(TEXT_BYTES_MAX)).collect()
}

fn put_tags(out: &mut Vec<u8>, tags: &[&str]) {
    put_varint(out, tags.len() as u64);
    tags.iter().for_each(|tag| put_text(out, tag));
}

fn read_accounts(r: &mut Reader<'_>) -> Result<Vec<AccountId>, WireError> {
    let count = r.varint()?;
    if count > ACCOUNTS_MAX as u64 {
        return Err(WireError::Range);
    }
    (0..count).map(|_| Ok(AccountId(r.varint()?))).collect()
}

fn put_accounts(out: &mut Vec<u8>, accounts: &[AccountId]) {
    put_varint(out, accounts.len() as u64);
    accounts.iter().for_each(|account| put_varint(out, account.0));
}
