//! What is stored of a struct: `#[derive(Document)]` writes the trait, this reads and writes it.
//!
//! A document is one MessagePack array: its schema version, its fields in their order, and what a
//! newer writer of the same version added after them, which is kept as it is.

use std::fmt::Display;

use super::index::IndexValue;
use proto::codec::{DecodeError, Decoder, Message, put_array, put_uint};
use proto::schema::{Field, SchemaBuilder, StoredDocument};

/// A struct whose marked fields are saved as one sub-document. `#[derive(Document)]` writes it.
pub trait Document: Sized {
    /// The schema version that is written; it rises with each change that needs a step.
    const VERSION: u32;
    /// The oldest schema version that can be read, by the steps that lead from there.
    const OLDEST: u32 = Self::VERSION;
    /// How many fields are saved.
    const FIELDS: usize;

    /// Whether some of its fields are in an index.
    const INDEXED: bool = false;

    /// What is saved, for the schema.
    fn describe_fields(schema: &mut SchemaBuilder) -> Vec<Field> {
        let _ = schema;
        Vec::new()
    }

    /// What it has in its indexes.
    fn indexes(&self) -> Vec<IndexValue> {
        Vec::new()
    }

    /// Appends the saved fields.
    fn write_fields(&self, out: &mut Vec<u8>);

    /// Holds the saved fields against their limits.
    ///
    /// # Errors
    ///
    /// The first field that is outside.
    fn check(&self) -> Result<(), DecodeError>;

    /// Takes the saved fields. One that was never written keeps its value, or takes the default that is
    /// declared for it.
    ///
    /// # Errors
    ///
    /// What is wrong with the bytes. `self` may have taken some of them: throw it away.
    fn read_fields(&mut self, fields: &mut FieldReader<'_>) -> Result<(), DecodeError>;

    /// Takes a document of the older version `found`, by the steps that lead from there.
    ///
    /// # Errors
    ///
    /// [`DocumentError::NoStep`] if none does, or what a step said.
    fn upgrade(&mut self, found: u32, bytes: &[u8]) -> Result<(), DocumentError> {
        let _ = bytes;
        Err(DocumentError::NoStep { found, known: Self::VERSION })
    }
}

/// Adds what is stored of `D` under `name` to a schema.
pub fn describe_document<D: Document>(name: &str, schema: &mut SchemaBuilder) {
    let fields = D::describe_fields(schema);
    schema.document(name, StoredDocument { version: D::VERSION, oldest: D::OLDEST, fields });
}

/// Why a document cannot be read or written. Each variant says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// A newer release wrote it: let that release have the entity.
    #[error("it has schema version {found}, this release knows up to {known}")]
    Newer {
        /// Its version.
        found: u32,
        /// The version of this release.
        known: u32,
    },
    /// Declare the step: `#[document(version = 3, from = OldType)]`.
    #[error("no step leads from schema version {found} to {known}")]
    NoStep {
        /// Its version.
        found: u32,
        /// The version of this release.
        known: u32,
    },
    /// A step refused what it was given: correct the step or the document.
    #[error("the step to schema version {to} failed: {problem}")]
    Step {
        /// The version that it leads to.
        to: u32,
        /// What it said.
        problem: String,
    },
    /// The bytes are no document of this type, or a field is outside its limits.
    #[error(transparent)]
    Invalid(#[from] DecodeError),
}

impl DocumentError {
    /// What a step said. For generated code.
    pub fn step(to: u32, problem: impl Display) -> Self {
        DocumentError::Step { to, problem: problem.to_string() }
    }
}

/// What a newer writer of the same version put after the fields that are known here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    count: usize,
    bytes: Vec<u8>,
}

/// The fields of one stored document, first to last.
#[derive(Debug)]
pub struct FieldReader<'a> {
    d: Decoder<'a>,
    left: usize,
}

impl FieldReader<'_> {
    /// Takes field `name`. `None` if its writer did not have it, or had retired it.
    ///
    /// # Errors
    ///
    /// What is wrong with its bytes.
    pub fn take<T: Message>(&mut self, name: &'static str) -> Result<Option<T>, DecodeError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        if self.d.rest().first() == Some(&0xc0) {
            // Types that read nil themselves (options, unit) do so.
            let mut ahead = self.d.clone();
            return Ok(match T::decode(&mut ahead) {
                Ok(value) => {
                    self.d = ahead;
                    Some(value)
                }
                Err(_) => {
                    self.d.take_nil();
                    None
                }
            });
        }
        T::decode(&mut self.d).map(Some).map_err(|error| error.within(name))
    }

    fn tail(mut self) -> Result<Tail, DecodeError> {
        let from = self.d.rest();
        for _ in 0..self.left {
            self.d.skip()?;
        }
        self.d.leave();
        self.d.end()?;
        let bytes = from[..from.len() - self.d.rest().len()].to_vec();
        Ok(Tail { count: self.left, bytes })
    }
}

/// Reads `bytes` into a fresh value; older versions by their steps.
///
/// # Errors
///
/// See [`DocumentError`]; `document` is to be thrown away then.
pub fn read_document<D: Document>(document: &mut D, bytes: &[u8]) -> Result<(), DocumentError> {
    read(document, bytes).map(|_| ())
}

/// Appends `document` after it was held against its limits.
///
/// # Errors
///
/// The first field that is outside; nothing was appended.
pub fn write_document<D: Document>(document: &D, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    write(document, &Tail::default(), out)
}

pub(crate) fn read<D: Document>(document: &mut D, bytes: &[u8]) -> Result<Tail, DocumentError> {
    let mut d = Decoder::new(bytes);
    let count = d.array()?;
    let version = d.uint()?;
    let found = u32::try_from(version).unwrap_or(u32::MAX);
    if found > D::VERSION {
        return Err(DocumentError::Newer { found, known: D::VERSION });
    }
    if found < D::VERSION {
        document.upgrade(found, bytes)?;
        document.check()?;
        return Ok(Tail::default());
    }
    let mut fields = FieldReader { d, left: count.saturating_sub(1) };
    document.read_fields(&mut fields)?;
    let tail = fields.tail()?;
    document.check()?;
    Ok(tail)
}

pub(crate) fn write<D: Document>(
    document: &D,
    tail: &Tail,
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    document.check()?;
    put_array(out, 1 + D::FIELDS + tail.count);
    put_uint(out, u64::from(D::VERSION));
    document.write_fields(out);
    out.extend_from_slice(&tail.bytes);
    Ok(())
}
