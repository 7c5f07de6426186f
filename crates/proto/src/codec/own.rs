//! Arguments of timers and events, which need not be messages: those that are can be encoded.
//!
//! Which is the case is found by the order in which a method's receiver is looked for (autoref
//! specialisation, after David Tolnay's case study of it), in code that macros write.

use std::marker::PhantomData;

use super::{DecodeError, Decoder, Fields, Message, Problem};

/// A value that may be a message.
#[doc(hidden)]
#[derive(Debug)]
pub struct MaybeMessage<'a, T>(pub &'a T);

/// A type that may be a message.
#[doc(hidden)]
#[derive(Debug)]
pub struct MaybeType<T>(pub PhantomData<T>);

/// It is one.
#[doc(hidden)]
pub trait IsMessage {
    /// Appends it.
    fn put(&self, out: &mut Vec<u8>) -> bool;
}

/// It is none.
#[doc(hidden)]
pub trait IsNone {
    /// Appends nothing: `false`.
    fn put(&self, out: &mut Vec<u8>) -> bool;
}

impl<T: Message> IsMessage for MaybeMessage<'_, T> {
    fn put(&self, out: &mut Vec<u8>) -> bool {
        self.0.encode(out);
        true
    }
}

impl<T> IsNone for &MaybeMessage<'_, T> {
    fn put(&self, _: &mut Vec<u8>) -> bool {
        false
    }
}

/// It is one.
#[doc(hidden)]
pub trait IsReadable<T> {
    /// Takes the field.
    fn take(
        &self,
        fields: &mut Fields,
        d: &mut Decoder<'_>,
        name: &'static str,
    ) -> Result<T, DecodeError>;
}

/// It is none.
#[doc(hidden)]
pub trait IsUnreadable<T> {
    /// Takes nothing: an error.
    fn take(
        &self,
        fields: &mut Fields,
        d: &mut Decoder<'_>,
        name: &'static str,
    ) -> Result<T, DecodeError>;
}

impl<T: Message> IsReadable<T> for MaybeType<T> {
    fn take(
        &self,
        fields: &mut Fields,
        d: &mut Decoder<'_>,
        name: &'static str,
    ) -> Result<T, DecodeError> {
        fields.required::<T>(d, name)
    }
}

impl<T> IsUnreadable<T> for &MaybeType<T> {
    fn take(
        &self,
        _: &mut Fields,
        _: &mut Decoder<'_>,
        name: &'static str,
    ) -> Result<T, DecodeError> {
        Err(DecodeError::new(Problem::Missing).within(name))
    }
}
