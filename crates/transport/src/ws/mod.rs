//! WebSocket (RFC 6455): the handshake and the frames, without sockets.
//!
//! A message carries a piece of the byte stream that plain TCP would carry, so [`Decoder`] gives
//! payload piece by piece, in place, and nothing is collected.

mod frame;
mod handshake;

pub use frame::{
    CloseCode, Control, Decoder, MASK_HEADER_BYTES_MAX, Piece, Role, put_close, put_masked,
    put_pong, wrap_binary,
};
pub use handshake::{
    Answer, HEAD_BYTES_MAX, HEADERS_MAX, UpgradeError, UpgradeOptions, check_answer, request,
    upgrade,
};
