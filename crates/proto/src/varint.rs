use crate::WireError;

/// The most bytes one varint takes.
pub const VARINT_BYTES_MAX: usize = 10;

/// Appends `value` as an LEB128 varint: 7 bits a byte, lowest first, high bit set on all but the last.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, value: u64) {
    if value < 0x80 {
        out.push(value as u8);
    } else if value < 0x4000 {
        out.extend_from_slice(&[value as u8 | 0x80, (value >> 7) as u8]);
    } else {
        put_header(out, |bytes: &mut [u8; VARINT_BYTES_MAX]| write_varint(bytes, 0, value));
    }
}

/// Appends a short header that `write` puts together in place; it gives the length.
///
/// A header made elsewhere would have to be copied, which means a call, or waiting for its bytes to
/// be read back.
#[inline]
pub(crate) fn put_header<const N: usize>(
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut [u8; N]) -> usize,
) {
    let start = out.len();
    out.extend_from_slice(&[0; N]);
    let header = out[start..].first_chunk_mut().expect("it was just appended");
    let len = write(header);
    out.truncate(start + len);
}

/// Writes `value` at `bytes[at..]` and gives where it ends. For headers that are put together
/// before they are appended in one go.
#[inline]
pub(crate) fn write_varint<const N: usize>(bytes: &mut [u8; N], at: usize, value: u64) -> usize {
    let (mut at, mut rest) = (at, value);
    while rest >= 0x80 {
        bytes[at] = rest as u8 | 0x80;
        rest >>= 7;
        at += 1;
    }
    bytes[at] = rest as u8;
    at + 1
}

/// How many bytes [`put_varint`] writes for `value`.
pub const fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Reads header fields from a frame, front to back.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    #[inline]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// What has not been read yet.
    #[inline]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Takes one byte.
    #[inline]
    pub fn byte(&mut self) -> Result<u8, WireError> {
        let (&first, rest) = self.rest.split_first().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(first)
    }

    /// Takes one byte that is 0 or 1.
    pub fn flag(&mut self) -> Result<bool, WireError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Range),
        }
    }

    /// Takes one varint. Longer than needed or over 64 bits is refused, so that every value has
    /// one encoding.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, WireError> {
        // Most are handles, small numbers and lengths of one byte, then numbers of two.
        match *self.rest {
            [first, ref rest @ ..] if first < 0x80 => {
                self.rest = rest;
                Ok(u64::from(first))
            }
            [first, second, ref rest @ ..] if second < 0x80 && second > 0 => {
                self.rest = rest;
                Ok(u64::from(first & 0x7f) | u64::from(second) << 7)
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, WireError> {
        // Places in tables and their generations, mostly: up to eight bytes at once.
        if let Some(next) = self.rest.first_chunk::<8>() {
            let word = u64::from_le_bytes(*next);
            let ends = !word & 0x8080_8080_8080_8080;
            if ends != 0 {
                // The highest bit of the last byte: 7, 15 and so on.
                let last = ends.trailing_zeros();
                let word = word & u64::MAX >> (63 - last);
                if last > 7 && word >> (last - 7) == 0 {
                    return Err(WireError::Varint);
                }
                self.rest = &self.rest[last as usize / 8 + 1..];
                return Ok(join_sevens(word));
            }
        }
        let mut value = 0u64;
        for at in 0..VARINT_BYTES_MAX {
            let byte = *self.rest.get(at).ok_or(WireError::Truncated)?;
            let bits = u64::from(byte & 0x7f);
            if at == 9 && byte > 1 {
                return Err(WireError::Varint);
            }
            value |= bits << (7 * at);
            if byte & 0x80 == 0 {
                if byte == 0 && at > 0 {
                    return Err(WireError::Varint);
                }
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
        }
        Err(WireError::Varint)
    }

    /// Takes a varint that must fit 32 bits.
    #[inline]
    pub fn varint_u32(&mut self) -> Result<u32, WireError> {
        u32::try_from(self.varint()?).map_err(|_| WireError::Range)
    }

    /// Takes exactly `len` bytes.
    #[inline]
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        if len > self.rest.len() {
            return Err(WireError::Truncated);
        }
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(taken)
    }

    /// Takes `N` bytes as an array.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    /// Takes a little-endian `u32`.
    #[inline]
    pub fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Takes a little-endian `u64`.
    #[inline]
    pub fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Takes a varint length and that many bytes, at most `max`.
    pub fn blob(&mut self, max: usize) -> Result<&'a [u8], WireError> {
        let len = usize::try_from(self.varint()?).map_err(|_| WireError::Range)?;
        if len > max {
            return Err(WireError::Range);
        }
        self.bytes(len)
    }

    /// Takes a blob that must be UTF-8.
    pub fn text(&mut self, max: usize) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.blob(max)?).map_err(|_| WireError::Utf8)
    }

    /// Takes everything that is left.
    #[inline]
    pub fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Succeeds if nothing is left.
    #[inline]
    pub fn end(&self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(WireError::Trailing) }
    }
}

/// The lower seven bits of each byte of `word`, side by side: bytes are joined to pairs, those to
/// fours, and those to one.
#[inline]
const fn join_sevens(word: u64) -> u64 {
    let pairs = word & 0x007f_007f_007f_007f | (word & 0x7f00_7f00_7f00_7f00) >> 1;
    let fours = pairs & 0x0000_3fff_0000_3fff | (pairs & 0x3fff_0000_3fff_0000) >> 2;
    fours & 0x0fff_ffff | (fours & 0x0fff_ffff_0000_0000) >> 4
}

/// Appends a varint length and `bytes`.
pub fn put_blob(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
