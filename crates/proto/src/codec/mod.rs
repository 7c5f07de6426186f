//! MessagePack bodies: what travels inside frames and lies in documents.
//!
//! Structs are arrays that only grow at their end, enums are numbers; `docs/protocol.md` states
//! the rules. `#[derive(Message)]` writes the implementations.

mod decoder;
mod dump;
mod error;
mod fields;
mod own;
mod types;
mod write;

pub use decoder::{DEPTH_MAX, Decoder, MEMORY_BYTES_MAX, memory_budget};
pub use dump::Dump;
pub use error::{DecodeError, Problem};
pub use fields::{Fields, VariantFields, check_finite, check_length, check_range};
#[doc(hidden)]
pub use own::{IsMessage, IsNone, IsReadable, IsUnreadable, MaybeMessage, MaybeType};
pub use types::{Bytes, Finite, Length};
pub use write::{
    put_array, put_binary, put_bool, put_f32, put_f64, put_int, put_map, put_nil, put_text,
    put_uint,
};

use crate::schema::{SchemaBuilder, Shape};

/// A value that can travel: as an argument, a reply, an error, a document field.
///
/// `decode` reads exactly what `encode` wrote, and what an adjacent release of the same type
/// wrote. Maps with random order have no implementation, so that equal values have equal bytes.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot travel in a message",
    label = "needs `#[derive(Message)]`",
    note = "HashMap and HashSet are refused, their order is random: use BTreeMap or BTreeSet",
    note = "usize and isize differ between machines: use u64 or i64; for binary data use `Bytes`"
)]
pub trait Message: Sized {
    /// Appends the MessagePack form of `self`.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads one value.
    ///
    /// # Errors
    ///
    /// What is wrong with the bytes and at which field. The decoder's position is then undefined.
    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError>;

    /// Describes the type to a schema, adding the named types that it uses.
    fn shape(s: &mut SchemaBuilder) -> Shape;

    /// Appends the items of a list, without its head. For types of which many are quicker written
    /// together; the bytes are those of one after the other.
    #[doc(hidden)]
    #[inline]
    fn encode_items(items: &[Self], out: &mut Vec<u8>) {
        for item in items {
            item.encode(out);
        }
    }

    /// Reads `len` items of a list, for which the memory is charged already.
    #[doc(hidden)]
    #[inline]
    fn decode_items(d: &mut Decoder<'_>, len: usize) -> Result<Vec<Self>, DecodeError> {
        one_by_one(d, len)
    }
}

/// Reads `len` items of a list.
#[inline]
fn one_by_one<T: Message>(d: &mut Decoder<'_>, len: usize) -> Result<Vec<T>, DecodeError> {
    let mut items = Vec::with_capacity(len);
    for index in 0..len {
        items.push(T::decode(d).map_err(|error| error.at(index))?);
    }
    Ok(items)
}

/// The bytes of one value.
pub fn encode<T: Message>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    value.encode(&mut out);
    out
}

/// Appends the bytes of one value.
pub fn encode_into<T: Message>(value: &T, out: &mut Vec<u8>) {
    value.encode(out);
}

/// Reads one value that takes up all of `bytes`.
///
/// # Errors
///
/// As [`Message::decode`], and [`Problem::Trailing`] if bytes are left over.
pub fn decode<T: Message>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut d = Decoder::new(bytes);
    let value = T::decode(&mut d)?;
    d.end()?;
    Ok(value)
}
