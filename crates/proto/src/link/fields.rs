//! Fields that several link frames have, and the longest frames' own.

use super::{GroupId, Slot, WorkerId};
use crate::WireError;
use crate::frame::{TEXT_BYTES_MAX, put_text};
use crate::id::{AccountId, EntityId, Incarnation, KindId, SessionId};
use crate::varint::{Reader, put_varint};

/// A client asks to be admitted: its ticket was opened and its proof checked by the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Admission<'a> {
    pub conn: Slot,
    pub session: SessionId,
    pub account: AccountId,
    /// End of the ticket's life, wall-clock milliseconds. A used ticket is remembered until then.
    pub expires_ms: u64,
    /// When the gate took it, by its wall clock: homes may hear of it much later.
    pub since_ms: u64,
    /// Login level of the account, compared with what methods ask for.
    pub level: u8,
    pub name: &'a str,
    /// The client's address as text, for logs and bans.
    pub address: &'a str,
}

impl<'a> Admission<'a> {
    pub(super) fn decode(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Admission {
            conn: read_slot(r)?,
            session: SessionId(r.array()?),
            account: AccountId(r.varint()?),
            expires_ms: r.varint()?,
            since_ms: r.varint()?,
            level: r.byte()?,
            name: r.text(TEXT_BYTES_MAX)?,
            address: r.text(TEXT_BYTES_MAX)?,
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_slot(out, self.conn);
        out.extend_from_slice(&self.session.0);
        put_varint(out, self.account.0);
        put_varint(out, self.expires_ms);
        put_varint(out, self.since_ms);
        out.push(self.level);
        put_text(out, self.name);
        put_text(out, self.address);
    }
}

/// Reads a slot.
#[inline]
pub fn read_slot(r: &mut Reader<'_>) -> Result<Slot, WireError> {
    Ok(Slot { index: r.varint_u32()?, generation: r.varint_u32()? })
}

/// Appends a slot.
pub fn put_slot(out: &mut Vec<u8>, slot: Slot) {
    put_varint(out, u64::from(slot.index));
    put_varint(out, u64::from(slot.generation));
}

/// Reads a worker.
#[inline]
pub fn read_worker(r: &mut Reader<'_>) -> Result<WorkerId, WireError> {
    Ok(WorkerId { node: Incarnation(r.u64()?), worker: r.byte()? })
}

/// Appends a worker.
pub fn put_worker(out: &mut Vec<u8>, id: WorkerId) {
    out.extend_from_slice(&id.node.0.to_le_bytes());
    out.push(id.worker);
}

pub(super) fn read_group(r: &mut Reader<'_>) -> Result<GroupId, WireError> {
    Ok(GroupId { node: Incarnation(r.u64()?), worker: r.byte()?, slot: read_slot(r)? })
}

pub(super) fn put_group(out: &mut Vec<u8>, id: GroupId) {
    out.extend_from_slice(&id.node.0.to_le_bytes());
    out.push(id.worker);
    put_slot(out, id.slot);
}

/// An entity id: kind, then one byte that tells whether a home follows, then the key.
#[inline]
pub(super) fn read_entity(r: &mut Reader<'_>) -> Result<EntityId, WireError> {
    let kind = KindId(r.u32()?);
    let home = match r.byte()? {
        0 => Incarnation::NONE,
        1 => Incarnation(r.u64()?),
        _ => return Err(WireError::Range),
    };
    Ok(EntityId { kind, home, key: r.varint()? })
}

pub(super) fn put_entity(out: &mut Vec<u8>, id: EntityId) {
    out.extend_from_slice(&id.kind.0.to_le_bytes());
    if id.home == Incarnation::NONE {
        out.push(0);
    } else {
        out.push(1);
        out.extend_from_slice(&id.home.0.to_le_bytes());
    }
    put_varint(out, id.key);
}
