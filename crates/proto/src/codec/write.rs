//! The smallest MessagePack form of each kind of value.

/// Appends nil.
#[inline]
pub fn put_nil(out: &mut Vec<u8>) {
    out.push(0xc0);
}

/// Appends a bool.
#[inline]
pub fn put_bool(out: &mut Vec<u8>, value: bool) {
    out.push(0xc2 | u8::from(value));
}

/// Appends an unsigned integer in its smallest form.
#[inline]
pub fn put_uint(out: &mut Vec<u8>, value: u64) {
    if value < 0x80 {
        out.push(value as u8);
    } else if value <= 0xff {
        out.extend_from_slice(&[0xcc, value as u8]);
    } else if value <= 0xffff {
        put_head(out, 0xcd, (value as u16).to_be_bytes());
    } else if value <= 0xffff_ffff {
        put_head(out, 0xce, (value as u32).to_be_bytes());
    } else {
        put_head(out, 0xcf, value.to_be_bytes());
    }
}

/// Appends a signed integer in its smallest form; one that is not negative is written as
/// [`put_uint`] does.
#[inline]
pub fn put_int(out: &mut Vec<u8>, value: i64) {
    if value >= 0 {
        put_uint(out, value as u64);
    } else if value >= -32 {
        out.push(value as i8 as u8);
    } else if value >= i64::from(i8::MIN) {
        out.extend_from_slice(&[0xd0, value as i8 as u8]);
    } else if value >= i64::from(i16::MIN) {
        put_head(out, 0xd1, (value as i16).to_be_bytes());
    } else if value >= i64::from(i32::MIN) {
        put_head(out, 0xd2, (value as i32).to_be_bytes());
    } else {
        put_head(out, 0xd3, value.to_be_bytes());
    }
}

/// Appends a 32-bit float.
#[inline]
pub fn put_f32(out: &mut Vec<u8>, value: f32) {
    put_head(out, 0xca, value.to_be_bytes());
}

/// Appends a 64-bit float.
#[inline]
pub fn put_f64(out: &mut Vec<u8>, value: f64) {
    put_head(out, 0xcb, value.to_be_bytes());
}

/// Appends a text.
#[inline]
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = text.len();
    if len < 32 {
        out.push(0xa0 | len as u8);
    } else if len <= 0xff {
        out.extend_from_slice(&[0xd9, len as u8]);
    } else {
        put_len(out, len, 0xda, 0xdb);
    }
    out.extend_from_slice(text.as_bytes());
}

/// Appends binary data.
#[inline]
pub fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = bytes.len();
    if len <= 0xff {
        out.extend_from_slice(&[0xc4, len as u8]);
    } else {
        put_len(out, len, 0xc5, 0xc6);
    }
    out.extend_from_slice(bytes);
}

/// Appends the head of an array; `len` values must follow.
#[inline]
pub fn put_array(out: &mut Vec<u8>, len: usize) {
    if len < 16 {
        out.push(0x90 | len as u8);
    } else {
        put_len(out, len, 0xdc, 0xdd);
    }
}

/// Appends the head of a map; `len` pairs of key and value must follow.
#[inline]
pub fn put_map(out: &mut Vec<u8>, len: usize) {
    if len < 16 {
        out.push(0x80 | len as u8);
    } else {
        put_len(out, len, 0xde, 0xdf);
    }
}

#[inline]
fn put_head<const N: usize>(out: &mut Vec<u8>, head: u8, value: [u8; N]) {
    out.push(head);
    out.extend_from_slice(&value);
}

/// A length of 16 or 32 bits after its head byte.
///
/// # Panics
///
/// If `len` is over `u32::MAX`, which no frame and no document reaches.
#[inline]
fn put_len(out: &mut Vec<u8>, len: usize, short: u8, long: u8) {
    match u16::try_from(len) {
        Ok(len) => put_head(out, short, len.to_be_bytes()),
        Err(_) => {
            let len = u32::try_from(len).expect("no value has over 4 Gi items");
            put_head(out, long, len.to_be_bytes());
        }
    }
}
