//! Connections between a store's handle and a data process: both prove that they have the cluster's key,
//! then everything is sealed. docs/protocol.md has the bytes.

use std::io::{self, Read, Write};

use ring::{aead, hkdf, hmac};

/// What a connection begins with, and the version of what follows.
const MAGIC: [u8; 5] = *b"MSYD\x01";
/// The longest name of a store, or of one of its shards: `NAME/SHARD`.
pub(super) const NAME_MAX: usize = 65;
/// The longest frame, sealed. What one answer may have is limited by the store, and is below this.
pub(super) const FRAME_MAX: usize = 96 << 20;
const TAG: usize = 16;
/// Bytes that are made room for before they have come.
const AHEAD: usize = 64 << 10;

pub(super) type Nonce = [u8; 32];

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Refused {
    /// It ended, or said something else.
    Broken(String),
    /// The other side does not have the key.
    Key,
    /// It has no such store.
    Store,
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Refused::Broken(error.to_string())
    }
}

/// Seals what goes out.
pub(super) struct Sealer {
    key: aead::LessSafeKey,
    count: u64,
}

/// Opens what comes in.
pub(super) struct Opener {
    key: aead::LessSafeKey,
    count: u64,
}

fn nonce(count: &mut u64) -> aead::Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&count.to_le_bytes());
    *count += 1;
    aead::Nonce::assume_unique_for_key(bytes)
}

impl Sealer {
    /// Appends a frame to what is to be sent.
    pub fn seal(&mut self, body: &[u8], out: &mut Vec<u8>) {
        let length = u32::try_from(body.len() + TAG).expect("frames are limited");
        let head = length.to_le_bytes();
        out.extend_from_slice(&head);
        let start = out.len();
        out.extend_from_slice(body);
        let nonce = nonce(&mut self.count);
        let tag =
            self.key.seal_in_place_separate_tag(nonce, aead::Aad::from(head), &mut out[start..]);
        out.extend_from_slice(tag.expect("frames are limited").as_ref());
    }
}

impl Opener {
    /// Reads a frame.
    pub fn open(&mut self, from: &mut impl Read) -> io::Result<Vec<u8>> {
        let mut head = [0; 4];
        from.read_exact(&mut head)?;
        let length = u32::from_le_bytes(head) as usize;
        if !(TAG..=FRAME_MAX).contains(&length) {
            return Err(io::Error::other("a frame of a length that cannot be"));
        }
        let mut bytes = Vec::with_capacity(length.min(AHEAD));
        while bytes.len() < length {
            // Room grows with what has come, not with what was announced.
            let start = bytes.len();
            bytes.resize(start + (length - start).min(start.max(AHEAD)), 0);
            from.read_exact(&mut bytes[start..])?;
        }
        let nonce = nonce(&mut self.count);
        let opened = self.key.open_in_place(nonce, aead::Aad::from(head), &mut bytes);
        let length =
            opened.map_err(|_| io::Error::other("a frame that was not sealed for us"))?.len();
        bytes.truncate(length);
        Ok(bytes)
    }
}

struct Secrets {
    key: hmac::Key,
    transcript: Vec<u8>,
    raw: Vec<u8>,
}

impl Secrets {
    fn new(key: &[u8], name: &str, [client, server]: [&Nonce; 2]) -> Self {
        let mut transcript = MAGIC.to_vec();
        transcript.push(name.len() as u8);
        transcript.extend_from_slice(name.as_bytes());
        transcript.extend_from_slice(client);
        transcript.extend_from_slice(server);
        Secrets { key: hmac::Key::new(hmac::HMAC_SHA256, key), transcript, raw: key.to_vec() }
    }

    fn said(&self, who: &str) -> Vec<u8> {
        [who.as_bytes(), &self.transcript].concat()
    }

    fn proof(&self, who: &str) -> hmac::Tag {
        hmac::sign(&self.key, &self.said(who))
    }

    fn is_proof(&self, who: &str, proof: &[u8]) -> bool {
        hmac::verify(&self.key, &self.said(who), proof).is_ok()
    }

    fn sealing(&self, direction: &str) -> aead::LessSafeKey {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, &self.transcript);
        let info = ["mainstay data ".as_bytes(), direction.as_bytes()];
        let secret = salt.extract(&self.raw);
        let key = secret.expand(&info, &aead::CHACHA20_POLY1305);
        let key = key.expect("a key is short enough");
        aead::LessSafeKey::new(aead::UnboundKey::from(key))
    }

    fn sealer(&self, direction: &str) -> Sealer {
        Sealer { key: self.sealing(direction), count: 0 }
    }

    fn opener(&self, direction: &str) -> Opener {
        Opener { key: self.sealing(direction), count: 0 }
    }
}

/// Asks for a store; `random` is never used twice.
pub(super) fn ask(
    stream: &mut (impl Read + Write),
    key: &[u8],
    name: &str,
    random: Nonce,
) -> Result<(Sealer, Opener), Refused> {
    let mut hello = MAGIC.to_vec();
    hello.push(u8::try_from(name.len()).map_err(|_| Refused::Store)?);
    hello.extend_from_slice(name.as_bytes());
    hello.extend_from_slice(&random);
    stream.write_all(&hello)?;
    let (mut server, mut proof) = ([0; 32], [0; 32]);
    stream.read_exact(&mut server)?;
    stream.read_exact(&mut proof)?;
    let secrets = Secrets::new(key, name, [&random, &server]);
    if !secrets.is_proof("data", &proof) {
        return Err(Refused::Key);
    }
    stream.write_all(secrets.proof("node").as_ref())?;
    let mut opener = secrets.opener("data to node");
    // Who does not believe the proof says nothing more.
    match opener.open(stream)?.as_slice() {
        [0] => Ok((secrets.sealer("node to data"), opener)),
        _ => Err(Refused::Store),
    }
}

/// Lets a peer in that has the key: the name of the store it wants, and how to talk to it. `has` says
/// whether there is one of that name.
pub(super) fn answer(
    stream: &mut (impl Read + Write),
    key: &[u8],
    random: Nonce,
    has: impl FnOnce(&str) -> bool,
) -> Result<(String, Sealer, Opener), Refused> {
    let mut head = [0; MAGIC.len() + 1];
    stream.read_exact(&mut head)?;
    let length = usize::from(head[MAGIC.len()]);
    if head[..MAGIC.len()] != MAGIC || length > NAME_MAX {
        return Err(Refused::Broken("it speaks something else".to_owned()));
    }
    let (mut name, mut client) = (vec![0; length], [0; 32]);
    stream.read_exact(&mut name)?;
    stream.read_exact(&mut client)?;
    let name = String::from_utf8(name).map_err(|_| Refused::Store)?;
    let secrets = Secrets::new(key, &name, [&client, &random]);
    stream.write_all(&random)?;
    stream.write_all(secrets.proof("data").as_ref())?;
    let mut proof = [0; 32];
    stream.read_exact(&mut proof)?;
    if !secrets.is_proof("node", &proof) {
        return Err(Refused::Key);
    }
    let mut sealer = secrets.sealer("data to node");
    let (is_there, mut first) = (has(&name), Vec::new());
    sealer.seal(&[u8::from(!is_there)], &mut first);
    stream.write_all(&first)?;
    if !is_there {
        return Err(Refused::Store);
    }
    Ok((name, sealer, secrets.opener("node to data")))
}
