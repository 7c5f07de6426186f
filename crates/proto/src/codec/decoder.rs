use super::{DecodeError, Problem};

/// How deep arrays, maps and boxes may be nested in one value.
pub const DEPTH_MAX: usize = 32;

/// The most memory, in bytes, that one decoded value may take, however long its bytes are.
pub const MEMORY_BYTES_MAX: usize = 64 << 20;

/// The memory, in bytes, that a value of `len` encoded bytes may take: 64 for each, and 64 KiB.
///
/// Small items grow in memory (an empty text is one byte on the wire and 24 here), so without a
/// budget a frame within its limit could take hundreds of times its size.
pub const fn memory_budget(len: usize) -> usize {
    let budget = len.saturating_mul(64).saturating_add(64 * 1024);
    if budget < MEMORY_BYTES_MAX { budget } else { MEMORY_BYTES_MAX }
}

/// Reads MessagePack values, front to back.
///
/// Nothing is allocated before it is known that the bytes can hold it.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
    depth: usize,
    memory: usize,
    memory_max: usize,
}

impl<'a> Decoder<'a> {
    /// Reads from the start of `bytes` with the [`memory_budget`] of their length.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self::with_memory(bytes, memory_budget(bytes.len()))
    }

    /// Reads from the start of `bytes`; the values may take `memory_max` bytes of heap.
    pub fn with_memory(bytes: &'a [u8], memory_max: usize) -> Self {
        Decoder { rest: bytes, depth: 0, memory: memory_max, memory_max }
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Succeeds if nothing is left.
    pub fn end(&self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(Problem::Trailing(left).into()),
        }
    }

    /// Takes a nil, if one stands here.
    #[inline]
    pub fn take_nil(&mut self) -> bool {
        match self.rest.split_first() {
            Some((0xc0, rest)) => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// Takes a nil.
    pub fn nil(&mut self) -> Result<(), DecodeError> {
        if self.take_nil() { Ok(()) } else { Err(self.unexpected("nil")) }
    }

    /// Takes a bool.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        let value = match self.rest.first() {
            Some(0xc2) => false,
            Some(0xc3) => true,
            _ => return Err(self.unexpected("a bool")),
        };
        self.rest = &self.rest[1..];
        Ok(value)
    }

    /// Takes an integer of any form that is not negative and fits 64 bits.
    #[inline]
    pub fn uint(&mut self) -> Result<u64, DecodeError> {
        match self.rest.split_first() {
            Some((&first, rest)) if first < 0x80 => {
                self.rest = rest;
                Ok(u64::from(first))
            }
            _ => self.long_uint(),
        }
    }

    /// Takes `count` integers, if all of them are below 128: each is a byte then.
    pub(super) fn small_uints(&mut self, count: usize) -> Option<&'a [u8]> {
        let (small, rest) = self.rest.split_at_checked(count)?;
        if !small.is_ascii() {
            return None;
        }
        self.rest = rest;
        Some(small)
    }

    fn long_uint(&mut self) -> Result<u64, DecodeError> {
        let (value, rest) = match *self.rest {
            [0xcc, a, ref rest @ ..] => (u64::from(a), rest),
            [0xcd, a, b, ref rest @ ..] => (u64::from(u16::from_be_bytes([a, b])), rest),
            [0xce, a, b, c, d, ref rest @ ..] => {
                (u64::from(u32::from_be_bytes([a, b, c, d])), rest)
            }
            [0xcf, a, b, c, d, e, f, g, h, ref rest @ ..] => {
                (u64::from_be_bytes([a, b, c, d, e, f, g, h]), rest)
            }
            _ => match self.integer()? {
                Integer::Unsigned(value) => return Ok(value),
                Integer::Negative(value) => return Err(range(value, "0..=18446744073709551615")),
            },
        };
        self.rest = rest;
        Ok(value)
    }

    /// Takes an integer of any form that fits 64 bits with a sign.
    #[inline]
    pub fn int(&mut self) -> Result<i64, DecodeError> {
        match self.integer()? {
            Integer::Negative(value) => Ok(value),
            Integer::Unsigned(value) => i64::try_from(value)
                .map_err(|_| range(value, "-9223372036854775808..=9223372036854775807")),
        }
    }

    /// Takes an integer of any form.
    fn integer(&mut self) -> Result<Integer, DecodeError> {
        let head = *self.rest.first().ok_or(Problem::Truncated)?;
        let value = match head {
            0x00..=0x7f => Integer::Unsigned(u64::from(head)),
            0xe0..=0xff => Integer::Negative(i64::from(head as i8)),
            0xcc => Integer::Unsigned(u64::from(self.after_head::<1>()?[0])),
            0xcd => Integer::Unsigned(u64::from(u16::from_be_bytes(self.after_head()?))),
            0xce => Integer::Unsigned(u64::from(u32::from_be_bytes(self.after_head()?))),
            0xcf => Integer::Unsigned(u64::from_be_bytes(self.after_head()?)),
            0xd0 => signed(i64::from(i8::from_be_bytes(self.after_head()?))),
            0xd1 => signed(i64::from(i16::from_be_bytes(self.after_head()?))),
            0xd2 => signed(i64::from(i32::from_be_bytes(self.after_head()?))),
            0xd3 => signed(i64::from_be_bytes(self.after_head()?)),
            _ => return Err(self.unexpected("an integer")),
        };
        let len = match head {
            0xcc | 0xd0 => 2,
            0xcd | 0xd1 => 3,
            0xce | 0xd2 => 5,
            0xcf | 0xd3 => 9,
            _ => 1,
        };
        self.rest = &self.rest[len..];
        Ok(value)
    }

    /// Takes a float of either width, or an integer, as some writers send whole floats.
    pub fn f64(&mut self) -> Result<f64, DecodeError> {
        let head = *self.rest.first().ok_or(Problem::Truncated)?;
        let (value, len) = match head {
            0xca => (f64::from(f32::from_be_bytes(self.after_head()?)), 5),
            0xcb => (f64::from_be_bytes(self.after_head()?), 9),
            0x00..=0x7f | 0xe0..=0xff | 0xcc..=0xd3 => {
                return Ok(match self.integer()? {
                    Integer::Unsigned(value) => value as f64,
                    Integer::Negative(value) => value as f64,
                });
            }
            _ => return Err(self.unexpected("a number")),
        };
        self.rest = &self.rest[len..];
        Ok(value)
    }

    /// Takes a number as [`f64`](Self::f64) does and rounds it to 32 bits.
    pub fn f32(&mut self) -> Result<f32, DecodeError> {
        if let [0xca, a, b, c, d, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(f32::from_be_bytes([*a, *b, *c, *d]));
        }
        let wide = self.f64()?;
        let value = wide as f32;
        if value.is_infinite() && wide.is_finite() {
            return Err(range(wide, "what 32 bits can hold"));
        }
        Ok(value)
    }

    /// Takes a text without copying it.
    pub fn text(&mut self) -> Result<&'a str, DecodeError> {
        let head = *self.rest.first().ok_or(Problem::Truncated)?;
        let (len, start) = match head {
            0xa0..=0xbf => (usize::from(head & 0x1f), 1),
            0xd9 => (usize::from(self.after_head::<1>()?[0]), 2),
            0xda => (usize::from(u16::from_be_bytes(self.after_head()?)), 3),
            0xdb => (u32::from_be_bytes(self.after_head()?) as usize, 5),
            _ => return Err(self.unexpected("a text")),
        };
        let bytes = self.body(start, len)?;
        std::str::from_utf8(bytes).map_err(|_| Problem::Utf8.into())
    }

    /// Takes binary data without copying it.
    pub fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let head = *self.rest.first().ok_or(Problem::Truncated)?;
        let (len, start) = match head {
            0xc4 => (usize::from(self.after_head::<1>()?[0]), 2),
            0xc5 => (usize::from(u16::from_be_bytes(self.after_head()?)), 3),
            0xc6 => (u32::from_be_bytes(self.after_head()?) as usize, 5),
            _ => return Err(self.unexpected("binary data")),
        };
        self.body(start, len)
    }

    /// Takes the head of an array and goes one level down; gives the number of items that follow,
    /// which the remaining bytes can hold. Call [`leave`](Self::leave) after the last item.
    #[inline]
    pub fn array(&mut self) -> Result<usize, DecodeError> {
        let head = *self.rest.first().ok_or(Problem::Truncated)?;
        let (len, start) = match head {
            0x90..=0x9f => (usize::from(head & 0x0f), 1),
            0xdc => (usize::from(u16::from_be_bytes(self.after_head()?)), 3),
            0xdd => (u32::from_be_bytes(self.after_head()?) as usize, 5),
            _ => return Err(self.unexpected("an array")),
        };
        self.rest = &self.rest[start..];
        if len > self.rest.len() {
            return Err(Problem::Truncated.into());
        }
        self.enter()?;
        Ok(len)
    }

    /// Takes the head of a map and goes one level down; gives the number of pairs that follow,
    /// which the remaining bytes can hold. Call [`leave`](Self::leave) after the last pair.
    pub fn map(&mut self) -> Result<usize, DecodeError> {
        let head = *self.rest.first().ok_or(Problem::Truncated)?;
        let (len, start) = match head {
            0x80..=0x8f => (usize::from(head & 0x0f), 1),
            0xde => (usize::from(u16::from_be_bytes(self.after_head()?)), 3),
            0xdf => (u32::from_be_bytes(self.after_head()?) as usize, 5),
            _ => return Err(self.unexpected("a map")),
        };
        self.rest = &self.rest[start..];
        if len > self.rest.len() / 2 {
            return Err(Problem::Truncated.into());
        }
        self.enter()?;
        Ok(len)
    }

    /// Whether an array stands here.
    #[inline]
    pub fn is_array(&self) -> bool {
        matches!(self.rest.first(), Some(0x90..=0x9f | 0xdc | 0xdd))
    }

    /// Goes one level down.
    ///
    /// # Errors
    ///
    /// [`Problem::Depth`] below [`DEPTH_MAX`].
    #[inline]
    pub fn enter(&mut self) -> Result<(), DecodeError> {
        if self.depth == DEPTH_MAX {
            return Err(Problem::Depth(DEPTH_MAX).into());
        }
        self.depth += 1;
        Ok(())
    }

    /// Goes one level up, after [`enter`](Self::enter), [`array`](Self::array) or
    /// [`map`](Self::map).
    #[inline]
    pub fn leave(&mut self) {
        self.depth -= 1;
    }

    /// Takes `bytes` of heap out of the budget, before they are allocated.
    ///
    /// # Errors
    ///
    /// [`Problem::Memory`] if the budget does not hold them.
    #[inline]
    pub fn charge(&mut self, bytes: usize) -> Result<(), DecodeError> {
        match self.memory.checked_sub(bytes) {
            Some(left) => {
                self.memory = left;
                Ok(())
            }
            None => Err(Problem::Memory(self.memory_max).into()),
        }
    }

    /// Takes one value of any type and gives it up. Needs no memory, however deep it is nested.
    pub fn skip(&mut self) -> Result<(), DecodeError> {
        let mut open = 1u64;
        while open > 0 {
            // Each open value takes a byte at least.
            if open > self.rest.len() as u64 {
                return Err(Problem::Truncated.into());
            }
            open = open - 1 + self.skip_one()?;
        }
        Ok(())
    }

    /// Takes one head with its own data; gives the number of values inside it.
    fn skip_one(&mut self) -> Result<u64, DecodeError> {
        let head = *self.rest.first().ok_or(Problem::Truncated)?;
        let (start, len, inside) = match head {
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (1, 0, 0),
            0x80..=0x8f => (1, 0, 2 * u64::from(head & 0x0f)),
            0x90..=0x9f => (1, 0, u64::from(head & 0x0f)),
            0xa0..=0xbf => (1, usize::from(head & 0x1f), 0),
            0xc1 => return Err(self.unexpected("a value")),
            0xc4 | 0xd9 => (2, usize::from(self.after_head::<1>()?[0]), 0),
            0xc5 | 0xda => (3, usize::from(u16::from_be_bytes(self.after_head()?)), 0),
            0xc6 | 0xdb => (5, u32::from_be_bytes(self.after_head()?) as usize, 0),
            0xc7 => (3, usize::from(self.after_head::<1>()?[0]), 0),
            0xc8 => (4, usize::from(u16::from_be_bytes(self.after_head()?)), 0),
            0xc9 => (6, u32::from_be_bytes(self.after_head()?) as usize, 0),
            0xca | 0xce | 0xd2 => (5, 0, 0),
            0xcb | 0xcf | 0xd3 => (9, 0, 0),
            0xcc | 0xd0 => (2, 0, 0),
            0xcd | 0xd1 => (3, 0, 0),
            0xd4..=0xd8 => (2, 1 << (head - 0xd4), 0),
            0xdc => (3, 0, u64::from(u16::from_be_bytes(self.after_head()?))),
            0xdd => (5, 0, u64::from(u32::from_be_bytes(self.after_head()?))),
            0xde => (3, 0, 2 * u64::from(u16::from_be_bytes(self.after_head()?))),
            0xdf => (5, 0, 2 * u64::from(u32::from_be_bytes(self.after_head()?))),
        };
        self.body(start, len)?;
        Ok(inside)
    }

    /// Takes `start` bytes of head and `len` of body; gives the body.
    fn body(&mut self, start: usize, len: usize) -> Result<&'a [u8], DecodeError> {
        let rest = self.rest.get(start..).ok_or(Problem::Truncated)?;
        if len > rest.len() {
            return Err(Problem::Truncated.into());
        }
        let (body, rest) = rest.split_at(len);
        self.rest = rest;
        Ok(body)
    }

    /// The `N` bytes after the head byte, which is there.
    fn after_head<const N: usize>(&self) -> Result<[u8; N], DecodeError> {
        match self.rest[1..].first_chunk::<N>() {
            Some(bytes) => Ok(*bytes),
            None => Err(Problem::Truncated.into()),
        }
    }

    #[cold]
    fn unexpected(&self, expected: &'static str) -> DecodeError {
        match self.rest.first() {
            None => Problem::Truncated.into(),
            Some(&head) => Problem::Type { expected, found: name_of(head) }.into(),
        }
    }
}

enum Integer {
    Unsigned(u64),
    Negative(i64),
}

fn signed(value: i64) -> Integer {
    match u64::try_from(value) {
        Ok(value) => Integer::Unsigned(value),
        Err(_) => Integer::Negative(value),
    }
}

#[cold]
pub(super) fn range(found: impl ToString, allowed: &'static str) -> DecodeError {
    Problem::Range { found: found.to_string(), allowed }.into()
}

const fn name_of(head: u8) -> &'static str {
    match head {
        0x00..=0x7f | 0xe0..=0xff | 0xcc..=0xd3 => "an integer",
        0x80..=0x8f | 0xde | 0xdf => "a map",
        0x90..=0x9f | 0xdc | 0xdd => "an array",
        0xa0..=0xbf | 0xd9..=0xdb => "a text",
        0xc0 => "nil",
        0xc1 => "the unused byte 0xc1",
        0xc2 | 0xc3 => "a bool",
        0xc4..=0xc6 => "binary data",
        0xca | 0xcb => "a float",
        0xc7..=0xc9 | 0xd4..=0xd8 => "an extension",
    }
}
