use std::borrow::Cow;

use proto::WireError;
use proto::frame::split_frame;

/// Cuts a stream of bytes into frames. Holds memory only while a frame is half there.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    partial: Vec<u8>,
}

impl Assembler {
    /// Whether no frame is half there.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.partial.is_empty()
    }

    /// Takes the next whole frame off `input`, or all of `input` if there is none.
    ///
    /// Only a frame that came in several pieces is copied. What is kept never exceeds a frame of
    /// `max` bytes, and grows only as bytes arrive.
    pub(crate) fn next<'b>(
        &mut self,
        input: &mut &'b [u8],
        max: usize,
    ) -> Result<Option<Cow<'b, [u8]>>, WireError> {
        if self.partial.is_empty() {
            if input.is_empty() {
                return Ok(None);
            }
            if let Some((payload, used)) = split_frame(input, max)? {
                *input = &input[used..];
                return Ok(Some(Cow::Borrowed(payload)));
            }
            self.partial.extend_from_slice(input);
            *input = &[];
            return Ok(None);
        }
        // The length first, byte by byte: it is at most a few bytes.
        let (len, start) = loop {
            if let Some(found) = length(&self.partial, max)? {
                break found;
            }
            let Some((&byte, rest)) = input.split_first() else { return Ok(None) };
            self.partial.push(byte);
            *input = rest;
        };
        let missing = start + len - self.partial.len();
        let (taken, rest) = input.split_at(missing.min(input.len()));
        self.partial.extend_from_slice(taken);
        *input = rest;
        if taken.len() < missing {
            return Ok(None);
        }
        let mut frame = std::mem::take(&mut self.partial);
        frame.drain(..start);
        Ok(Some(Cow::Owned(frame)))
    }
}

/// The length of a frame and where its payload starts, if the length is all there.
fn length(bytes: &[u8], max: usize) -> Result<Option<(usize, usize)>, WireError> {
    let mut reader = proto::Reader::new(bytes);
    match reader.varint() {
        Ok(0) => Err(WireError::Empty),
        Ok(len) if len > max as u64 => Err(WireError::TooLong { len, max }),
        Ok(len) => Ok(Some((len as usize, bytes.len() - reader.rest().len()))),
        Err(WireError::Truncated) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::frame::put_frame;

    fn frames(pieces: &[&[u8]], max: usize) -> Result<Vec<Vec<u8>>, WireError> {
        let mut assembler = Assembler::default();
        let mut frames = Vec::new();
        for piece in pieces {
            let mut input = *piece;
            while let Some(frame) = assembler.next(&mut input, max)? {
                frames.push(frame.into_owned());
            }
            assert!(input.is_empty());
            assert!(assembler.partial.len() <= max + 3);
        }
        Ok(frames)
    }

    #[test]
    fn any_cut_gives_the_same_frames() {
        let expected: Vec<Vec<u8>> = [1, 127, 128, 300, 5, 1000].map(|n| vec![n as u8; n]).into();
        let mut bytes = Vec::new();
        for frame in &expected {
            put_frame(&mut bytes, |out| out.extend_from_slice(frame));
        }
        for first in 0..bytes.len() {
            for second in [first, first + 1, first + 129, bytes.len()] {
                let second = second.clamp(first, bytes.len());
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(frames(&pieces, 1000).unwrap(), expected);
            }
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(frames(&single, 1000).unwrap(), expected);
    }

    #[test]
    fn bad_lengths_are_refused_whole_or_in_pieces() {
        let cases: [(&[u8], WireError); 3] = [
            (&[0], WireError::Empty),
            (&[0xe9, 0x07, 1], WireError::TooLong { len: 1001, max: 1000 }),
            (&[0x80, 0x00], WireError::Varint),
        ];
        for (bytes, error) in cases {
            assert_eq!(frames(&[bytes], 1000), Err(error));
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(frames(&single, 1000), Err(error));
        }
        // A length that never ends.
        assert_eq!(frames(&[&[0xff; 4], &[0xff; 9]], 1000), Err(WireError::Varint));
    }
}
