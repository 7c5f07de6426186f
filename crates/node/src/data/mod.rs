//! Stored state: documents of entities, and deals over what they have.

mod ask;
mod beat;
mod commits;
mod deal;
mod document;
pub(crate) mod keeper;
mod options;
mod records;
mod sheets;

pub use ask::{Ask, Told, key_of};
pub use beat::{Beat, BeatAsk, Life, bury_all};
pub use commits::CommitError;
pub(crate) use commits::CommitOutcome;
pub use deal::{Commit, Deal, Pledge, Reading, holder};
pub(crate) use deal::{Desk, Wishes};
pub use document::{Document, DocumentError, FieldReader, read_document, write_document};
pub(crate) use keeper::{Act, Keeper};
pub use keeper::{Stats, Trouble};
pub use options::Options;
pub use records::{Batch, Draft, Record, RecordAsk, RecordError, RecordTold, Snapshot};
pub use sheets::{BadDocument, Changes, OWN, Sheets};
