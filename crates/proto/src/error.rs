/// Why bytes from a peer could not be read. Any of them ends the connection they came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The frame ends inside a field.
    #[error("frame ends inside a field")]
    Truncated,
    /// A varint is longer than it needs to be, or does not fit 64 bits.
    #[error("varint is too long")]
    Varint,
    /// A number or length is outside what the field allows.
    #[error("field is out of its range")]
    Range,
    /// Text is not UTF-8.
    #[error("text is not UTF-8")]
    Utf8,
    /// The frame has bytes after its last field.
    #[error("frame has bytes after its last field")]
    Trailing,
    /// The frame is empty; a zero-length frame closes the connection.
    #[error("frame is empty")]
    Empty,
    /// The frame is longer than the limit that holds now.
    #[error("frame of {len} bytes is over the limit of {max}")]
    TooLong {
        /// Announced length, in bytes.
        len: u64,
        /// Limit, in bytes.
        max: usize,
    },
    /// The frame kind is unknown, or may not come from this side.
    #[error("frame kind {0:#04x} is not known here")]
    Kind(u8),
}
