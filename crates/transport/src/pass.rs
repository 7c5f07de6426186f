//! Descriptors that go from one process to another over a Unix socket.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Most descriptors in one message; Linux takes 253.
pub const PASSED_MAX: usize = 128;

/// The longest text of a message, in bytes.
pub const BODY_BYTES_MAX: usize = 1 << 20;

const SPACE: usize = cmsg_space!(ScmRights(PASSED_MAX));

/// Sends a text with descriptors, [`PASSED_MAX`] at most. Waits until the other side has room.
///
/// # Errors
///
/// What the system says; `InvalidInput` for too much of either.
pub fn send(to: impl AsFd, body: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let length = u32::try_from(body.len()).ok().filter(|len| *len as usize <= BODY_BYTES_MAX);
    let (Some(length), true) = (length, descriptors.len() <= PASSED_MAX) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let head = length.to_le_bytes();
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(
            control.push(SendAncillaryMessage::ScmRights(descriptors)),
            "there is room for PASSED_MAX"
        );
    }
    // The descriptors go with the first byte of the length.
    let slices = [IoSlice::new(&head), IoSlice::new(body)];
    let sent = again(|| sendmsg(&to, &slices, &mut control, SendFlags::NOSIGNAL))?;
    let mut rest = Socket(to.as_fd());
    if sent < head.len() {
        rest.write_all(&head[sent..])?;
    }
    rest.write_all(&body[sent.saturating_sub(head.len())..])
}

/// Receives the next message, or nothing if the other side has ended. Waits for it.
///
/// # Errors
///
/// What the system says; `InvalidData` for what [`send`] does not send. The socket is of no more use then.
pub fn receive(from: impl AsFd) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut head = [0; 4];
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got =
        again(|| recvmsg(&from, &mut [IoSliceMut::new(&mut head)], &mut control, flags))?.bytes;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    if got == 0 {
        return Ok(None);
    }
    let mut rest = Socket(from.as_fd());
    rest.read_exact(&mut head[got..])?;
    let length = u32::from_le_bytes(head) as usize;
    if length > BODY_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
    }
    let mut body = vec![0; length];
    rest.read_exact(&mut body)?;
    Ok(Some((body, descriptors)))
}

/// A blocking socket as a stream of bytes.
struct Socket<'a>(BorrowedFd<'a>);

impl Read for Socket<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        again(|| rustix::io::read(self.0, &mut *into))
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        again(|| rustix::net::send(self.0, bytes, SendFlags::NOSIGNAL))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn again<T>(mut act: impl FnMut() -> Result<T, Errno>) -> io::Result<T> {
    loop {
        match act() {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}
