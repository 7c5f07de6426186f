//! Stored state: documents of entities, and deals over what they have.

mod agenda;
mod ask;
mod beat;
mod chunk;
mod commits;
mod deal;
mod document;
mod fence;
mod index;
pub(crate) mod keeper;
mod map;
mod moving;
mod options;
mod peeks;
mod records;
mod report;
mod sagas;
mod saves;
mod sheets;
mod stalled;
mod stores;

pub use agenda::{Agenda, AgendaFull, Entry, Overdue};
pub use ask::{Ask, Told, key_of};
pub use beat::{Beat, BeatAsk, Life, bury_all};
pub use chunk::{ChunkId, Spot};
pub use commits::CommitError;
pub(crate) use commits::CommitOutcome;
pub use deal::{Commit, Deal, Pledge, Reading, holder};
pub(crate) use deal::{Desk, Wishes};
pub use document::{
    Document, DocumentError, FieldReader, describe_document, read_document, write_document,
};
pub use fence::LockError;
pub use index::{EntityHits, IndexValue, Query, RecordHits};
pub(crate) use keeper::{Act, Keeper};
pub(crate) use map::add_map;
pub use map::{Edit, Found as MapFound, Grid, Map, MapError, Search};
#[doc(hidden)]
pub use options::Mutant;
pub use options::Options;
pub use peeks::Peek;
pub use records::{Batch, Draft, Record, RecordAsk, RecordError, RecordTold, Snapshot};
pub use report::{Stats, Trouble};
pub use sagas::{Change, amend};
pub(crate) use sagas::{SagaWish, Sagas, add_change};
pub(crate) use sheets::Found;
pub use sheets::{BadDocument, Changes, OWN, Sheets};
pub(crate) use stores::Stores;
