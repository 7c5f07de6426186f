//! Calls and their answers, without a [`LinkFrame`](super::LinkFrame) between.

use super::fields::{put_entity, read_entity};
use super::{CHAIN_MAX, Call, Slot, kind, read_slot, read_worker};
use crate::WireError;
use crate::frame::Status;
use crate::id::{EntityId, Incarnation, MethodId};
use crate::varint::{Reader, VARINT_BYTES_MAX, put_header, write_varint};

const ENTITY_BYTES_MAX: usize = 13 + VARINT_BYTES_MAX;

/// Kind, worker, whether somebody waits, slot, sending worker, target, method, remaining time, length of
/// the chain, an entity of it.
const CALL_HEADER_BYTES_MAX: usize =
    2 + 1 + 2 * VARINT_BYTES_MAX + 9 + ENTITY_BYTES_MAX + 4 + 10 + 1 + ENTITY_BYTES_MAX;

/// Appends a `Call` payload for destination `worker`.
#[inline]
pub fn put_call(out: &mut Vec<u8>, worker: u8, call: &Call<'_>) {
    put_header(out, |header: &mut [u8; CALL_HEADER_BYTES_MAX]| {
        header[0] = kind::CALL;
        header[1] = worker;
        header[2] = u8::from(call.call.is_some());
        let mut at = 3;
        if let Some(slot) = call.call {
            at = write_varint(header, at, u64::from(slot.index));
            at = write_varint(header, at, u64::from(slot.generation));
        }
        at = write_bytes(header, at, call.from.node.0.to_le_bytes());
        header[at] = call.from.worker;
        at = write_entity(header, at + 1, call.target);
        at = write_bytes(header, at, call.method.0.to_le_bytes());
        at = write_varint(header, at, u64::from(call.remaining_ms));
        let length = call.chain.len() + usize::from(call.sender.is_some());
        at = write_varint(header, at, length as u64);
        match call.sender {
            // Mostly there is a sender alone.
            Some(sender) if length == 1 => write_entity(header, at, sender),
            _ => at,
        }
    });
    if !call.chain.is_empty() {
        for entity in call.chain.iter().chain(&call.sender) {
            put_entity(out, *entity);
        }
    }
    out.extend_from_slice(call.body);
}

#[inline]
fn write_bytes<const N: usize, const M: usize>(
    header: &mut [u8; N],
    at: usize,
    bytes: [u8; M],
) -> usize {
    header[at..at + M].copy_from_slice(&bytes);
    at + M
}

#[inline]
fn write_entity<const N: usize>(header: &mut [u8; N], at: usize, id: EntityId) -> usize {
    let mut at = write_bytes(header, at, id.kind.0.to_le_bytes());
    let has_home = id.home != Incarnation::NONE;
    header[at] = u8::from(has_home);
    at += 1;
    if has_home {
        at = write_bytes(header, at, id.home.0.to_le_bytes());
    }
    write_varint(header, at, id.key)
}

/// Reads a `Call` payload; the worker that it is for was looked at before. `None` if it is another
/// kind or malformed.
#[inline]
pub fn read_call(payload: &[u8]) -> Option<Call<'_>> {
    let [kind::CALL, _, fields @ ..] = payload else { return None };
    Call::decode(&mut Reader::new(fields)).ok()
}

impl<'a> Call<'a> {
    #[inline]
    pub(super) fn decode(r: &mut Reader<'a>) -> Result<Self, WireError> {
        let call = match r.byte()? {
            0 => None,
            1 => Some(read_slot(r)?),
            _ => return Err(WireError::Range),
        };
        let from = read_worker(r)?;
        let target = read_entity(r)?;
        let method = MethodId(r.u32()?);
        let remaining_ms = r.varint_u32()?;
        let length = r.varint()?;
        if length > CHAIN_MAX as u64 {
            return Err(WireError::Range);
        }
        // Mostly there is a sender alone, which needs no memory.
        let mut chain = Vec::new();
        for _ in 1..length {
            chain.push(read_entity(r)?);
        }
        let sender = if length > 0 { Some(read_entity(r)?) } else { None };
        Ok(Call { call, from, target, method, remaining_ms, sender, chain, body: r.take_rest() })
    }
}

/// Appends an `Answer` payload for destination `worker`, whose body `write` produces; it gives the
/// status.
#[inline]
pub fn put_answer(
    out: &mut Vec<u8>,
    worker: u8,
    call: Slot,
    write: impl FnOnce(&mut Vec<u8>) -> Status,
) {
    let mut status_at = out.len();
    put_header(out, |header: &mut [u8; 2 + 2 * VARINT_BYTES_MAX + 1]| {
        header[0] = kind::ANSWER;
        header[1] = worker;
        let at = write_varint(header, 2, u64::from(call.index));
        let at = write_varint(header, at, u64::from(call.generation));
        status_at += at;
        at + 1
    });
    // All statuses are varints of one byte.
    out[status_at] = write(out) as u8;
}

/// Reads an `Answer` payload. `None` if it is another kind or malformed.
#[inline]
pub fn read_answer(payload: &[u8]) -> Option<(Slot, Status, &[u8])> {
    let [kind::ANSWER, _, fields @ ..] = payload else { return None };
    let mut reader = Reader::new(fields);
    let call = read_slot(&mut reader).ok()?;
    let status = Status::from_code(reader.varint().ok()?);
    Some((call, status, reader.take_rest()))
}
