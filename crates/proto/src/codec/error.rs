use std::fmt;

/// Why bytes are no value of the wanted type, and where.
///
/// Displays as `items[3].count: 250 is outside 1..=100`. May be shown to the peer that sent the
/// bytes: it holds nothing of our own state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    problem: Problem,
    /// Innermost first, since it grows while the error travels outwards.
    path: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(&'static str),
    Index(usize),
}

/// What is wrong with the bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The bytes end inside the value.
    #[error("bytes end inside the value")]
    Truncated,
    /// Bytes follow the value.
    #[error("{0} bytes follow the value")]
    Trailing(usize),
    /// Another type of value stands here.
    #[error("{found} where {expected} is wanted")]
    Type {
        /// What the reader wants.
        expected: &'static str,
        /// What stands there.
        found: &'static str,
    },
    /// A number does not fit its type, or is outside the range that its field declares.
    #[error("{found} is outside {allowed}")]
    Range {
        /// The number.
        found: String,
        /// What the field allows.
        allowed: &'static str,
    },
    /// A text, list or map has a length that its field does not allow.
    #[error("length {found} is outside {allowed}")]
    Length {
        /// Characters of a text, items of a list or map, bytes of a binary.
        found: usize,
        /// What the field allows.
        allowed: &'static str,
    },
    /// A fixed array or tuple has another number of items.
    #[error("{found} items where {expected} are wanted")]
    Count {
        /// Items wanted.
        expected: usize,
        /// Items announced.
        found: usize,
    },
    /// A text is not UTF-8.
    #[error("text is not UTF-8")]
    Utf8,
    /// A field without a default is missing.
    #[error("field is missing")]
    Missing,
    /// An enum without a fallback variant has no variant of this number.
    #[error("no variant has number {0}")]
    Variant(u64),
    /// A map has a key twice, or a set an item twice.
    #[error("key stands twice")]
    Duplicate,
    /// Values are nested deeper than [`DEPTH_MAX`](super::DEPTH_MAX).
    #[error("values are nested deeper than {0}")]
    Depth(usize),
    /// The value would take more memory than the decoder's budget.
    #[error("value takes more than {0} bytes of memory")]
    Memory(usize),
}

impl DecodeError {
    /// An error at the place where the decoder stands.
    #[cold]
    pub fn new(problem: Problem) -> Self {
        DecodeError(Box::new(Inner { problem, path: Vec::new() }))
    }

    /// What is wrong.
    pub fn problem(&self) -> &Problem {
        &self.0.problem
    }

    /// The path of the value that is wrong, such as `items[3].count`; empty for the whole.
    pub fn path(&self) -> String {
        use fmt::Write;
        let mut text = String::new();
        for step in self.0.path.iter().rev() {
            match step {
                Step::Field(name) if text.is_empty() => text.push_str(name),
                Step::Field(name) => {
                    text.push('.');
                    text.push_str(name);
                }
                Step::Index(index) => {
                    let _ = write!(text, "[{index}]");
                }
            }
        }
        text
    }

    /// Says that the error happened within field `name`.
    #[cold]
    #[must_use]
    pub fn within(mut self, name: &'static str) -> Self {
        self.0.path.push(Step::Field(name));
        self
    }

    /// Says that the error happened within item `index`.
    #[cold]
    #[must_use]
    pub fn at(mut self, index: usize) -> Self {
        self.0.path.push(Step::Index(index));
        self
    }
}

impl From<Problem> for DecodeError {
    fn from(problem: Problem) -> Self {
        DecodeError::new(problem)
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.path.is_empty() {
            write!(f, "{}", self.0.problem)
        } else {
            write!(f, "{}: {}", self.path(), self.0.problem)
        }
    }
}

impl std::error::Error for DecodeError {}
