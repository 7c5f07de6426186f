use std::fmt;
use std::sync::Arc;

/// Where a value was written: a file with line and column, or another source such as an
/// environment variable, which has no lines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    source: Arc<str>,
    line: u32,
    column: u32,
}

impl Place {
    /// A place in the file `source`. `line` and `column` count from 1, columns in characters.
    pub fn at(source: Arc<str>, line: u32, column: u32) -> Self {
        Place { source, line, column }
    }

    /// A source without lines.
    pub fn whole(source: &str) -> Self {
        Place { source: source.into(), line: 0, column: 0 }
    }

    /// The file or other source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The line from 1, or 0 in a source without lines.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// The column in characters from 1, or 0 in a source without lines.
    pub fn column(&self) -> u32 {
        self.column
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            f.write_str(&self.source)
        } else {
            write!(f, "{}:{}:{}", self.source, self.line, self.column)
        }
    }
}

/// One thing that is wrong with a file: `file:line:column: path.to.key: message`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// The keys that lead there, joined by dots; empty for errors of the text itself.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "{}: {}", self.place, self.message)
        } else {
            write!(f, "{}: {}: {}", self.place, self.path, self.message)
        }
    }
}
