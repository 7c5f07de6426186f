use std::fmt::{self, Write};

use super::{DecodeError, Decoder};

/// Shows MessagePack bytes of unknown type as one line of text, for logs and captures.
///
/// Arrays in `[]`, maps in `{}`, texts quoted, binary as `0x..`. Longer than `chars_max` ends in
/// `...`; broken bytes end in what is wrong with them.
#[derive(Clone, Copy, Debug)]
pub struct Dump<'a> {
    /// The bytes; several values may follow each other.
    pub bytes: &'a [u8],
    /// About how many characters to show.
    pub chars_max: usize,
}

impl fmt::Display for Dump<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut d = Decoder::new(self.bytes);
        let mut text = String::new();
        while !d.rest().is_empty() && text.len() < self.chars_max {
            if !text.is_empty() {
                text.push(' ');
            }
            if let Err(error) = self.value(&mut d, &mut text) {
                let _ = write!(text, "<{error}>");
                break;
            }
        }
        if text.len() > self.chars_max || !d.rest().is_empty() && !text.ends_with('>') {
            let cut = text.floor_char_boundary(self.chars_max);
            text.truncate(cut);
            text.push_str("...");
        }
        f.write_str(&text)
    }
}

impl Dump<'_> {
    fn value(&self, d: &mut Decoder<'_>, text: &mut String) -> Result<(), DecodeError> {
        let head = d.rest().first().copied().unwrap_or(0xc1);
        match head {
            0xc0 => {
                d.nil()?;
                text.push_str("nil");
            }
            0xc2 | 0xc3 => push(text, d.bool()?),
            0x00..=0x7f | 0xcc..=0xcf => push(text, d.uint()?),
            0xe0..=0xff | 0xd0..=0xd3 => push(text, d.int()?),
            0xca | 0xcb => {
                let _ = write!(text, "{:?}", d.f64()?);
            }
            0xa0..=0xbf | 0xd9..=0xdb => {
                let found = d.text()?;
                let cut = found.floor_char_boundary(self.chars_max);
                let _ = write!(text, "{:?}", &found[..cut]);
            }
            0xc4..=0xc6 => {
                text.push_str("0x");
                for byte in d.binary()?.iter().take(self.chars_max) {
                    let _ = write!(text, "{byte:02x}");
                }
            }
            0x90..=0x9f | 0xdc | 0xdd => {
                let len = d.array()?;
                self.values(d, text, len, ['[', ']'], false)?;
            }
            0x80..=0x8f | 0xde | 0xdf => {
                let len = d.map()?;
                self.values(d, text, len, ['{', '}'], true)?;
            }
            _ => {
                d.skip()?;
                text.push_str("ext");
            }
        }
        Ok(())
    }

    fn values(
        &self,
        d: &mut Decoder<'_>,
        text: &mut String,
        len: usize,
        brackets: [char; 2],
        pairs: bool,
    ) -> Result<(), DecodeError> {
        text.push(brackets[0]);
        for index in 0..len {
            if index > 0 {
                text.push_str(", ");
            }
            if text.len() > self.chars_max {
                break;
            }
            self.value(d, text)?;
            if pairs {
                text.push_str(": ");
                self.value(d, text)?;
            }
        }
        text.push(brackets[1]);
        d.leave();
        Ok(())
    }
}

fn push(text: &mut String, value: impl fmt::Display) {
    let _ = write!(text, "{value}");
}
