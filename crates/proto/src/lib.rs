//! Mainstay's wire: ids, frames, codecs, streams and tickets. Pure: no sockets, no clock.
#![forbid(unsafe_code)]

pub mod codec;
mod error;
pub mod frame;
mod id;
pub mod link;
pub mod schema;
pub mod schema_rs;
pub mod schema_ts;
pub mod stream;
pub mod ticket;
mod varint;

pub use codec::{Bytes, DecodeError, Decoder, Message, decode, encode, encode_into};
pub use error::WireError;
pub use id::{
    AccountId, EntityId, Incarnation, KindId, LOCAL_KEY_MAX, MethodId, Namespace, Scope, SessionId,
    name_hash,
};
pub use varint::{Reader, VARINT_BYTES_MAX, put_blob, put_varint, varint_len};
