//! The embedded coordinator of several processes of one host: one of them hosts it, all attach.
//!
//! In its folder, `lock` is held by the process that hosts, `address` says where it listens and
//! what shows that one may come in, `state` is what it keeps. When the host is gone, whoever gets
//! the lock first goes on from `state`.

mod client;
mod file;
mod place;
mod server;

pub(crate) use client::{Wake, run};
pub(crate) use place::Place;

use std::io::{self, Read, Write};

/// The longest message, in bytes.
const FRAME_BYTES_MAX: usize = 8 << 20;

fn write_frame(stream: &mut impl Write, body: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend((body.len() as u32).to_le_bytes());
    frame.extend(body);
    stream.write_all(&frame)
}

/// Reads one message of `bytes_max` at most.
fn read_frame(stream: &mut impl Read, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
    }
    // Grows with what comes, so that a length alone allocates nothing.
    let mut body = Vec::new();
    stream.by_ref().take(length as u64).read_to_end(&mut body)?;
    if body.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(body)
}
