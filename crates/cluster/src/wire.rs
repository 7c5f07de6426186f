//! How nodes, keys and requests are written: MessagePack arrays that only grow at their end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proto::codec::{
    DecodeError, Decoder, put_array, put_binary, put_bool, put_nil, put_text, put_uint,
};
use proto::schema::Schema;
use proto::{Incarnation, KindId, Scope};

use crate::{Change, Expect, Key, KeyError, NodeInfo};

/// The version that starts every file and connection.
pub(crate) const VERSION: u64 = 1;

/// Something of another process that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(String);

impl Malformed {
    pub fn new(what: &str) -> Self {
        Malformed(what.to_owned())
    }
}

impl From<DecodeError> for Malformed {
    fn from(error: DecodeError) -> Self {
        Malformed(error.to_string())
    }
}

fn malformed<T>(what: &str) -> Result<T, Malformed> {
    Err(Malformed::new(what))
}

/// What a coordinator is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Begins or prolongs the lease of a node.
    Lease { node: Incarnation, ttl: Duration },
    /// Ends the lease of a node: what it owns goes.
    End { node: Incarnation },
    /// Writes a key.
    Put { key: String, value: Arc<[u8]>, owner: Option<Incarnation>, expect: Expect },
    /// Deletes a key.
    Delete { key: String, expect: Expect },
    /// Writes `key`, a place in a line, and deletes those under `own` of other owners.
    Contend { own: String, key: String, node: Incarnation },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// It is done as of `revision`; of a deletion, whether there was such a key.
    Done { revision: u64, existed: bool },
    /// The lease stands; `fresh` if it did not before.
    Leased { fresh: bool },
    /// It was not done.
    Failed(KeyError),
}

/// From a process to the coordinator's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// The first: what shows that it may, and the last revision that it knows.
    Hello {
        token: String,
        seen: u64,
    },
    Request {
        id: u64,
        request: Request,
    },
}

/// From the coordinator's process to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tell {
    /// A part of all keys.
    Part(Vec<(Arc<str>, Key)>),
    /// The keys told so far are all, as of this revision.
    All(u64),
    Changes(Vec<Change>),
    Reply {
        id: u64,
        reply: Reply,
    },
    /// Nothing but a sign of life.
    Alive,
}

// ---- nodes ----

pub(crate) fn encode_node(info: &NodeInfo) -> Vec<u8> {
    let mut out = Vec::new();
    put_array(&mut out, 18);
    put_uint(&mut out, VERSION);
    put_text(&mut out, &info.name);
    put_uint(&mut out, info.incarnation.0);
    put_array(&mut out, info.mesh.len());
    info.mesh.iter().for_each(|address| put_text(&mut out, &address.to_string()));
    put_array(&mut out, info.roles.len());
    info.roles.iter().for_each(|role| put_text(&mut out, role));
    put_array(&mut out, info.kinds.len());
    info.kinds.iter().for_each(|kind| put_uint(&mut out, u64::from(kind.0)));
    put_uint(&mut out, u64::from(info.workers));
    put_uint(&mut out, u64::from(info.weight));
    put_uint(&mut out, info.interface);
    match &info.schema {
        Some(schema) => put_text(&mut out, &schema.to_text()),
        None => put_nil(&mut out),
    }
    put_bool(&mut out, info.draining);
    put_uint(&mut out, info.started_ms);
    // Where releases look that know one zone.
    put_text(&mut out, info.zones.first().map_or("", String::as_str));
    for names in [&info.zones, &info.channels] {
        put_array(&mut out, names.len());
        names.iter().for_each(|name| put_text(&mut out, name));
    }
    put_array(&mut out, info.local.len() * 2);
    for (kind, scope) in &info.local {
        put_uint(&mut out, u64::from(kind.0));
        put_uint(&mut out, *scope as u64);
    }
    put_text(&mut out, &info.waits_for);
    put_bool(&mut out, info.relays);
    out
}

/// Reads a node, and its declarations through `schema`, which may know the text already.
pub(crate) fn decode_node(
    bytes: &[u8],
    schema: impl FnOnce(&str) -> Option<Arc<Schema>>,
) -> Result<NodeInfo, Malformed> {
    let d = &mut Decoder::new(bytes);
    let fields = d.array()?;
    if fields < 11 || d.uint()? != VERSION {
        return malformed("a node of an unknown version");
    }
    let name = d.text()?.to_owned();
    let mut info = NodeInfo::new(name, Incarnation(d.uint()?));
    list(d, |d| {
        let address: Option<SocketAddr> = d.text()?.parse().ok();
        info.mesh.extend(address);
        Ok(())
    })?;
    list(d, |d| {
        info.roles.push(d.text()?.to_owned());
        Ok(())
    })?;
    list(d, |d| {
        info.kinds.push(KindId(small(d.uint()?)?));
        Ok(())
    })?;
    info.workers = small(d.uint()?)?;
    info.weight = small(d.uint()?)?;
    info.interface = d.uint()?;
    if !d.take_nil() {
        info.schema = schema(d.text()?);
    }
    info.draining = d.bool()?;
    if fields > 11 {
        info.started_ms = d.uint()?;
    }
    if fields > 12 {
        let zone = d.text()?;
        info.zones.extend((!zone.is_empty()).then(|| zone.to_owned()));
    }
    if fields > 15 {
        info.zones.clear();
        for names in [&mut info.zones, &mut info.channels] {
            list(d, |d| {
                names.push(d.text()?.to_owned());
                Ok(())
            })?;
        }
        let mut kind = None;
        list(d, |d| {
            match kind.take() {
                None => kind = Some(KindId(small(d.uint()?)?)),
                Some(kind) => info.local.push((kind, scope(d.uint()?)?)),
            }
            Ok(())
        })?;
    }
    if fields > 16 {
        info.waits_for = d.text()?.to_owned();
    }
    info.relays = fields > 17 && d.bool()?;
    for _ in 18..fields {
        d.skip()?;
    }
    d.leave();
    d.end()?;
    match crate::registry::check(&info) {
        Ok(()) => Ok(info),
        Err(error) => malformed(&error.to_string()),
    }
}

fn scope(number: u64) -> Result<Scope, Malformed> {
    let all = [Scope::Global, Scope::Zone, Scope::Channel];
    let found = all.into_iter().find(|scope| *scope as u64 == number);
    found.ok_or_else(|| Malformed(format!("{number} is no scope")))
}

fn small<T: TryFrom<u64>>(number: u64) -> Result<T, Malformed> {
    T::try_from(number).map_err(|_| Malformed(format!("{number} is too great")))
}

// ---- keys ----

fn put_owner(out: &mut Vec<u8>, owner: Option<Incarnation>) {
    put_uint(out, owner.map_or(0, |owner| owner.0));
}

fn owner(d: &mut Decoder<'_>) -> Result<Option<Incarnation>, Malformed> {
    Ok(Some(Incarnation(d.uint()?)).filter(|owner| *owner != Incarnation::NONE))
}

pub(crate) fn put_key(out: &mut Vec<u8>, key: &Key) {
    put_binary(out, &key.value);
    put_uint(out, key.created);
    put_uint(out, key.changed);
    put_owner(out, key.owner);
}

pub(crate) fn key(d: &mut Decoder<'_>) -> Result<Key, Malformed> {
    let value = d.binary()?.into();
    Ok(Key { value, created: d.uint()?, changed: d.uint()?, owner: owner(d)? })
}

/// Reads an array, item by item.
fn list<'b>(
    d: &mut Decoder<'b>,
    mut item: impl FnMut(&mut Decoder<'b>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    for _ in 0..d.array()? {
        item(d)?;
    }
    d.leave();
    Ok(())
}

// ---- requests ----

fn put_expect(out: &mut Vec<u8>, expect: Expect) {
    let (kind, revision) = match expect {
        Expect::Any => (0, 0),
        Expect::Absent => (1, 0),
        Expect::Changed(revision) => (2, revision),
    };
    put_uint(out, kind);
    put_uint(out, revision);
}

fn expect(d: &mut Decoder<'_>) -> Result<Expect, Malformed> {
    match (d.uint()?, d.uint()?) {
        (0, _) => Ok(Expect::Any),
        (1, _) => Ok(Expect::Absent),
        (2, revision) => Ok(Expect::Changed(revision)),
        _ => malformed("an unknown condition"),
    }
}

fn put_request(out: &mut Vec<u8>, request: &Request) {
    match request {
        Request::Lease { node, ttl } => {
            put_uint(out, 0);
            put_uint(out, node.0);
            put_uint(out, ttl.as_millis() as u64);
        }
        Request::End { node } => {
            put_uint(out, 1);
            put_uint(out, node.0);
        }
        Request::Put { key, value, owner, expect } => {
            put_uint(out, 2);
            put_text(out, key);
            put_binary(out, value);
            put_owner(out, *owner);
            put_expect(out, *expect);
        }
        Request::Delete { key, expect } => {
            put_uint(out, 3);
            put_text(out, key);
            put_expect(out, *expect);
        }
        Request::Contend { own, key, node } => {
            put_uint(out, 4);
            put_text(out, own);
            put_text(out, key);
            put_uint(out, node.0);
        }
    }
}

fn request(d: &mut Decoder<'_>) -> Result<Request, Malformed> {
    Ok(match d.uint()? {
        0 => Request::Lease { node: Incarnation(d.uint()?), ttl: Duration::from_millis(d.uint()?) },
        1 => Request::End { node: Incarnation(d.uint()?) },
        2 => Request::Put {
            key: d.text()?.to_owned(),
            value: d.binary()?.into(),
            owner: owner(d)?,
            expect: expect(d)?,
        },
        3 => Request::Delete { key: d.text()?.to_owned(), expect: expect(d)? },
        4 => Request::Contend {
            own: d.text()?.to_owned(),
            key: d.text()?.to_owned(),
            node: Incarnation(d.uint()?),
        },
        _ => return malformed("an unknown request"),
    })
}

fn put_reply(out: &mut Vec<u8>, reply: &Reply) {
    match reply {
        Reply::Done { revision, existed } => {
            put_uint(out, 0);
            put_uint(out, *revision);
            put_bool(out, *existed);
        }
        Reply::Leased { fresh } => {
            put_uint(out, 1);
            put_bool(out, *fresh);
        }
        Reply::Failed(error) => {
            put_uint(out, 2);
            put_error(out, error);
        }
    }
}

fn put_error(out: &mut Vec<u8>, error: &KeyError) {
    let mut put = |kind, number, text: &str, more: &str| {
        put_uint(out, kind);
        put_uint(out, number);
        put_text(out, text);
        put_text(out, more);
    };
    match error {
        KeyError::Conflict { key, changed } => put(0, *changed, key, ""),
        KeyError::Compacted(revision) => put(1, *revision, "", ""),
        KeyError::Invalid { key, problem } => put(2, 0, key, problem),
        KeyError::NotListed(node) => put(3, node.0, "", ""),
        KeyError::Full(keys) => put(4, *keys as u64, "", ""),
        KeyError::Unavailable => put(5, 0, "", ""),
        KeyError::Unknown => put(6, 0, "", ""),
    }
}

fn error(d: &mut Decoder<'_>) -> Result<KeyError, Malformed> {
    let (kind, number, text, more) = (d.uint()?, d.uint()?, d.text()?, d.text()?);
    Ok(match kind {
        0 => KeyError::Conflict { key: text.to_owned(), changed: number },
        1 => KeyError::Compacted(number),
        2 => KeyError::Invalid { key: text.to_owned(), problem: more.to_owned() },
        3 => KeyError::NotListed(Incarnation(number)),
        4 => KeyError::Full(small(number)?),
        5 => KeyError::Unavailable,
        _ => KeyError::Unknown,
    })
}

fn reply(d: &mut Decoder<'_>) -> Result<Reply, Malformed> {
    Ok(match d.uint()? {
        0 => Reply::Done { revision: d.uint()?, existed: d.bool()? },
        1 => Reply::Leased { fresh: d.bool()? },
        2 => Reply::Failed(error(d)?),
        _ => return malformed("an unknown reply"),
    })
}

// ---- between processes ----

impl Ask {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Ask::Hello { token, seen } => {
                put_uint(&mut out, 0);
                put_uint(&mut out, VERSION);
                put_text(&mut out, token);
                put_uint(&mut out, *seen);
            }
            Ask::Request { id, request } => {
                put_uint(&mut out, 1);
                put_uint(&mut out, *id);
                put_request(&mut out, request);
            }
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Ask, Malformed> {
        let d = &mut Decoder::new(bytes);
        let ask = match d.uint()? {
            0 if d.uint()? == VERSION => {
                Ask::Hello { token: d.text()?.to_owned(), seen: d.uint()? }
            }
            0 => return malformed("another version"),
            1 => Ask::Request { id: d.uint()?, request: request(d)? },
            _ => return malformed("an unknown question"),
        };
        d.end()?;
        Ok(ask)
    }
}

impl Tell {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Tell::Part(items) => {
                put_uint(&mut out, 0);
                put_array(&mut out, items.len());
                for (name, key) in items {
                    put_text(&mut out, name);
                    put_key(&mut out, key);
                }
            }
            Tell::All(revision) => {
                put_uint(&mut out, 1);
                put_uint(&mut out, *revision);
            }
            Tell::Changes(changes) => {
                put_uint(&mut out, 2);
                put_array(&mut out, changes.len());
                for change in changes {
                    put_uint(&mut out, change.revision);
                    put_text(&mut out, &change.key);
                    match &change.now {
                        Some(now) => put_key(&mut out, now),
                        None => put_nil(&mut out),
                    }
                }
            }
            Tell::Reply { id, reply } => {
                put_uint(&mut out, 3);
                put_uint(&mut out, *id);
                put_reply(&mut out, reply);
            }
            Tell::Alive => put_uint(&mut out, 4),
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Tell, Malformed> {
        let d = &mut Decoder::with_memory(bytes, 16 << 20);
        let tell = match d.uint()? {
            0 => {
                let mut items = Vec::new();
                list(d, |d| {
                    items.push((d.text()?.into(), key(d)?));
                    Ok(())
                })?;
                Tell::Part(items)
            }
            1 => Tell::All(d.uint()?),
            2 => {
                let mut changes = Vec::new();
                list(d, |d| {
                    let (revision, name) = (d.uint()?, d.text()?.into());
                    let now = if d.take_nil() { None } else { Some(key(d)?) };
                    changes.push(Change { revision, key: name, now });
                    Ok(())
                })?;
                Tell::Changes(changes)
            }
            3 => Tell::Reply { id: d.uint()?, reply: reply(d)? },
            4 => Tell::Alive,
            _ => return malformed("an unknown message"),
        };
        d.end()?;
        Ok(tell)
    }
}
