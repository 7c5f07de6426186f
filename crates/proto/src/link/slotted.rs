//! The frames that clients' traffic is made of, without a [`LinkFrame`](super::LinkFrame) between.

use super::{Slot, kind, read_slot};
use crate::varint::{Reader, VARINT_BYTES_MAX, put_header, write_varint};

/// Appends an `Up` payload without building a `LinkFrame`; the gate's hot path.
/// `head` and `fields` are the client's payload around its stream handle.
#[inline]
pub fn put_up(out: &mut Vec<u8>, worker: u8, slot: Slot, head: u8, fields: &[u8]) {
    put_header(out, |header: &mut [u8; SLOT_HEADER_BYTES_MAX]| {
        let end = write_slot_header(header, kind::UP, worker, slot);
        header[end] = head;
        end + 1
    });
    out.extend_from_slice(fields);
}

/// Appends a `Down` payload whose client frame `write` produces; the node's hot path.
#[inline]
pub fn put_down(out: &mut Vec<u8>, worker: u8, conn: Slot, write: impl FnOnce(&mut Vec<u8>)) {
    put_header(out, |header: &mut [u8; SLOT_HEADER_BYTES_MAX]| {
        write_slot_header(header, kind::DOWN, worker, conn)
    });
    write(out);
}

/// A numbered frame for a client without its tail: the fields that follow head, stream, number and
/// acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct NumberedDown {
    pub head: u8,
    pub stream: u32,
    pub number: u64,
    pub ack: u64,
}

/// Appends a `Down` payload with a numbered frame, whose tail `write` produces: as [`put_down`],
/// with all headers in one go.
#[inline]
pub fn put_numbered_down(
    out: &mut Vec<u8>,
    worker: u8,
    conn: Slot,
    frame: NumberedDown,
    write: impl FnOnce(&mut Vec<u8>),
) {
    put_header(out, |header: &mut [u8; SLOT_HEADER_BYTES_MAX + 3 * VARINT_BYTES_MAX]| {
        let at = write_slot_header(header, kind::DOWN, worker, conn);
        header[at] = frame.head;
        let at = write_varint(header, at + 1, u64::from(frame.stream));
        let at = write_varint(header, at, frame.number);
        write_varint(header, at, frame.ack)
    });
    write(out);
}

/// Kind, worker, slot, and the head byte of a client's frame.
const SLOT_HEADER_BYTES_MAX: usize = 2 + 2 * VARINT_BYTES_MAX + 1;

#[inline]
fn write_slot_header<const N: usize>(
    header: &mut [u8; N],
    kind: u8,
    worker: u8,
    slot: Slot,
) -> usize {
    header[0] = kind;
    header[1] = worker;
    let at = write_varint(header, 2, u64::from(slot.index));
    write_varint(header, at, u64::from(slot.generation))
}

/// Reads a `Down` payload without building a `LinkFrame`; the gate's hot path.
/// `None` if it is another kind or malformed.
#[inline]
pub fn read_down(payload: &[u8]) -> Option<(Slot, &[u8])> {
    read_slotted(kind::DOWN, payload)
}

/// Reads an `Up` payload without building a `LinkFrame`; the node's hot path.
/// `None` if it is another kind or malformed.
#[inline]
pub fn read_up(payload: &[u8]) -> Option<(Slot, &[u8])> {
    read_slotted(kind::UP, payload)
}

#[inline]
fn read_slotted(kind: u8, payload: &[u8]) -> Option<(Slot, &[u8])> {
    let mut reader = Reader::new(payload);
    if reader.byte() != Ok(kind) {
        return None;
    }
    reader.byte().ok()?;
    let slot = read_slot(&mut reader).ok()?;
    Some((slot, reader.take_rest()))
}
