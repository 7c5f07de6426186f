//! Reading of append-only arrays: structs, argument lists and the fields of enum variants.

use std::fmt::Display;
use std::ops::RangeBounds;

use super::decoder::range;
use super::{DecodeError, Decoder, Finite, Length, Message, Problem};

/// The fields of one struct or argument list, first to last.
///
/// Begin, read each declared field in its order, then `end`. What the writer did not know is
/// missing at the end; what the reader does not know is skipped.
#[derive(Debug)]
#[must_use = "`end` skips the fields that the reader does not know"]
pub struct Fields {
    left: usize,
}

impl Fields {
    /// Takes the head of the array.
    #[inline]
    pub fn begin(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Fields { left: d.array()? })
    }

    /// Takes field `name`.
    ///
    /// # Errors
    ///
    /// [`Problem::Missing`] if the writer did not have it.
    #[inline]
    pub fn required<T: Message>(
        &mut self,
        d: &mut Decoder<'_>,
        name: &'static str,
    ) -> Result<T, DecodeError> {
        if self.left == 0 {
            return Err(DecodeError::new(Problem::Missing).within(name));
        }
        self.left -= 1;
        T::decode(d).map_err(|error| error.within(name))
    }

    /// Takes field `name`, or `default` if the writer did not have it. A nil in a place where `T`
    /// cannot be nil also gives the default: the writer has retired the field.
    #[inline]
    pub fn or_else<T: Message>(
        &mut self,
        d: &mut Decoder<'_>,
        name: &'static str,
        default: impl FnOnce() -> T,
    ) -> Result<T, DecodeError> {
        if self.left == 0 {
            return Ok(default());
        }
        self.left -= 1;
        if d.rest().first() == Some(&0xc0) {
            // Types that read nil themselves (options, unit) do so.
            let mut ahead = d.clone();
            return Ok(match T::decode(&mut ahead) {
                Ok(value) => {
                    *d = ahead;
                    value
                }
                Err(_) => {
                    d.take_nil();
                    default()
                }
            });
        }
        T::decode(d).map_err(|error| error.within(name))
    }

    /// Skips a retired field, whatever its writer put there.
    #[inline]
    pub fn retired(&mut self, d: &mut Decoder<'_>) -> Result<(), DecodeError> {
        if self.left > 0 {
            self.left -= 1;
            d.skip()?;
        }
        Ok(())
    }

    /// Skips what the reader does not know.
    #[inline]
    pub fn end(self, d: &mut Decoder<'_>) -> Result<(), DecodeError> {
        for _ in 0..self.left {
            d.skip()?;
        }
        d.leave();
        Ok(())
    }
}

/// The number of an enum's variant, then its fields.
///
/// A variant is `number` or `[number, fields...]`. Either form is read for any variant, so that a
/// variant may gain its first field.
#[derive(Debug)]
#[must_use = "`end` skips the fields that the reader does not know"]
pub struct VariantFields {
    /// The fields after the number.
    pub fields: Fields,
    in_array: bool,
}

impl VariantFields {
    /// Takes the number; gives it and the fields.
    #[inline]
    pub fn begin(d: &mut Decoder<'_>) -> Result<(u64, Self), DecodeError> {
        if !d.is_array() {
            let number = d.uint()?;
            return Ok((number, VariantFields { fields: Fields { left: 0 }, in_array: false }));
        }
        let mut fields = Fields::begin(d)?;
        if fields.left == 0 {
            return Err(Problem::Missing.into());
        }
        fields.left -= 1;
        let number = d.uint()?;
        Ok((number, VariantFields { fields, in_array: true }))
    }

    /// Skips what the reader does not know.
    #[inline]
    pub fn end(self, d: &mut Decoder<'_>) -> Result<(), DecodeError> {
        if self.in_array { self.fields.end(d) } else { Ok(()) }
    }
}

/// Refuses a value outside `bounds`; `allowed` shows them. NaN is outside every range.
///
/// # Errors
///
/// [`Problem::Range`] within field `name`.
#[inline]
pub fn check_range<T: PartialOrd + Display>(
    value: &T,
    bounds: impl RangeBounds<T>,
    name: &'static str,
    allowed: &'static str,
) -> Result<(), DecodeError> {
    if bounds.contains(value) { Ok(()) } else { Err(range(value, allowed).within(name)) }
}

/// Refuses a text, list, map or binary whose length is outside `bounds`; `allowed` shows them.
///
/// # Errors
///
/// [`Problem::Length`] within field `name`.
#[inline]
pub fn check_length<T: Length>(
    value: &T,
    bounds: impl RangeBounds<usize>,
    name: &'static str,
    allowed: &'static str,
) -> Result<(), DecodeError> {
    let found = value.length();
    if bounds.contains(&found) {
        return Ok(());
    }
    Err(DecodeError::new(Problem::Length { found, allowed }).within(name))
}

/// Refuses NaN and the infinities.
///
/// # Errors
///
/// [`Problem::Range`] within field `name`.
#[inline]
pub fn check_finite<T: Finite + Display>(value: &T, name: &'static str) -> Result<(), DecodeError> {
    if value.is_finite() { Ok(()) } else { Err(range(value, "finite numbers").within(name)) }
}
