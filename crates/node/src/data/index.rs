//! Indexes of documents: `#[index]` on a field, kept by the store with the document itself.

use std::fmt;
use std::marker::PhantomData;

use proto::Scope;
use store::{INDEX_KIND, IndexEntry, IndexHit, Indexed, RecordId};

use super::document::Document;
use super::records::{Read, Record, RecordAsk, RecordError, RecordTold, Snapshot};
use super::sheets::OWN;
use crate::cx::{Cx, Ref};
use crate::entity::Entity;

/// Records of one page, and entities: more are asked for by [`RecordHits::next`] and its like.
const RECORDS_MAX: usize = 64;
const ENTITIES_MAX: usize = 1_024;

/// What a document has in one of its indexes. For generated code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexValue {
    /// The index: its fields.
    pub name: &'static str,
    /// Its fields as messages, one behind the other.
    pub value: Vec<u8>,
    /// Whether one record alone may have it.
    pub unique: bool,
}

/// What is looked for in an index of documents `D`: `Guild::by_leader(&7)`, as `#[index]` on the field
/// writes it.
pub struct Query<D> {
    value: IndexValue,
    sheet: &'static str,
    after: Option<Vec<u8>>,
    of: PhantomData<fn() -> D>,
}

impl<D> fmt::Debug for Query<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Query").field("value", &self.value).field("sheet", &self.sheet).finish()
    }
}

impl<D> Clone for Query<D> {
    fn clone(&self) -> Self {
        let Query { value, sheet, after, of } = self;
        Query { value: value.clone(), sheet, after: after.clone(), of: *of }
    }
}

impl<D: Document> Query<D> {
    /// For generated code.
    pub fn new(name: &'static str, value: Vec<u8>, unique: bool) -> Self {
        let value = IndexValue { name, value, unique };
        Query { value, sheet: OWN, after: None, of: PhantomData }
    }

    /// The same of a component: the name of its field in the entity. Without it the entity's own fields are
    /// meant.
    pub fn within(self, component: &'static str) -> Self {
        Query { sheet: component, ..self }
    }

    fn behind(&self, at: &[u8]) -> Self {
        Query { after: Some(at.to_vec()), ..self.clone() }
    }
}

/// Records that have a value, in an order of their own that stays.
#[derive(Debug)]
pub struct RecordHits<R: Record> {
    /// Their keys, and what they said when they were read.
    pub found: Vec<(R::Key, Snapshot<R>)>,
    /// Asks for those behind them; `None`: there are none.
    pub next: Option<Query<R>>,
}

/// Entities that have saved a value, in an order of their own that stays.
#[derive(Debug)]
pub struct EntityHits<E: Entity, D: Document = E> {
    /// Who they are.
    pub found: Vec<Ref<E>>,
    /// Asks for those behind them; `None`: there are none.
    pub next: Option<Query<D>>,
}

/// The name of an index is that of the record or of the entity's kind, of the sub-document, and its own.
pub(super) fn entry_of(of: &str, sheet: &str, value: &IndexValue) -> IndexEntry {
    let IndexValue { name, value, unique } = value.clone();
    let parts = [of, sheet, name];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    IndexEntry { index: parts.join("/"), value, unique }
}

impl<E: Entity> Cx<E> {
    /// Index rows from where `query` goes on, at most `max`; and whether none come behind them.
    async fn hits<D>(
        &self,
        store: usize,
        entry: &IndexEntry,
        query: &Query<D>,
        max: usize,
    ) -> Result<(Vec<IndexHit>, bool), RecordError> {
        let after = query.after.clone().unwrap_or_else(|| entry.prefix());
        let ask = RecordAsk::List(INDEX_KIND, Some(after), max);
        let RecordTold::List(found) = self.ask_of_records(store, ask).await? else {
            return Err(RecordError::Unknown);
        };
        entry.hits(found).ok_or_else(|| RecordError::Unreadable {
            id: RecordId { kind: INDEX_KIND, key: entry.prefix() },
            problem: "a row of the index is none".to_owned(),
        })
    }

    /// Records that have what `query` looks for, at most `max` (64), each as it was read: what was changed
    /// between the look into the index and the reading is not among them.
    ///
    /// # Errors
    ///
    /// As [`read_record`](Self::read_record).
    pub async fn find_records<R: Record>(
        &self,
        mut query: Query<R>,
        max: usize,
    ) -> Result<RecordHits<R>, RecordError> {
        let (entry, store) = (entry_of(R::NAME, "", &query.value), self.store_of::<R>()?);
        let (max, mut found) = (max.clamp(1, RECORDS_MAX), Vec::new());
        loop {
            let (hits, ends) = self.hits(store, &entry, &query, max - found.len()).await?;
            if let Some(last) = hits.last() {
                query = query.behind(&last.at);
            }
            let ids = hits.into_iter().filter_map(|hit| match hit.of {
                Indexed::Record(id) => Some(id),
                Indexed::Entity(_) => None,
            });
            let ids: Vec<RecordId> = ids.collect();
            if !ids.is_empty() {
                for read in self.read_stored::<R>(ids, None).await? {
                    let has = read.bytes.is_some() && read.value.indexes().contains(&query.value);
                    if has {
                        found.push((read.key()?, Snapshot(read)));
                    }
                }
            }
            if ends || found.len() >= max {
                let next = (!ends).then_some(query);
                return Ok(RecordHits { found, next });
            }
        }
    }

    /// Entities of kind `K` that have saved what `query` looks for, at most `max` (1,024), whether they are
    /// active or not; if the kind is local, those of this zone or channel. What their owners changed in the last
    /// second may not be saved yet.
    ///
    /// # Errors
    ///
    /// [`RecordError::Unavailable`].
    pub async fn find_entities<K: Entity, D: Document>(
        &self,
        mut query: Query<D>,
        max: usize,
    ) -> Result<EntityHits<K, D>, RecordError> {
        let store = self.hub().stores.borrow().of_kind(K::KIND.id);
        let entry = entry_of(K::KIND.name, query.sheet, &query.value);
        let scope = K::KIND.scope;
        let within = (scope != Scope::Global).then(|| self.namespace(scope));
        let (max, mut found) = (max.clamp(1, ENTITIES_MAX), Vec::new());
        loop {
            let (hits, ends) = self.hits(store, &entry, &query, max - found.len()).await?;
            if let Some(last) = hits.last() {
                query = query.behind(&last.at);
            }
            found.extend(hits.into_iter().filter_map(|hit| match hit.of {
                // One index has those of all zones.
                Indexed::Entity(key) => {
                    let found = Ref::<K>::stored(key.0 as u64);
                    let is_mine = within.is_none_or(|within| found.id().namespace() == within);
                    is_mine.then_some(found)
                }
                Indexed::Record(_) => None,
            }));
            if ends || found.len() >= max {
                let next = (!ends).then_some(query);
                return Ok(EntityHits { found, next });
            }
        }
    }

    /// Has up to `max` (64) records behind `after` stand in their indexes, also those that were declared since
    /// they were written; gives the last one's key, behind which to go on. `None`: all are.
    ///
    /// # Errors
    ///
    /// [`RecordError::Conflict`] if somebody else wrote one meanwhile, [`RecordError::Taken`] if two have a
    /// value of which there may be one: nothing of that page was written. Else as
    /// [`write_records`](Self::write_records).
    pub async fn index_records<R: Record>(
        &self,
        after: Option<&R::Key>,
        max: usize,
    ) -> Result<Option<R::Key>, RecordError> {
        let mut page = self.list_records::<R>(after, max.clamp(1, RECORDS_MAX)).await?;
        let mut batch = super::Batch::new();
        for (key, _) in &page {
            batch = batch.index(self.draft_record::<R>(key).await?);
        }
        self.write_records(batch).await?;
        Ok(page.pop().map(|(key, _)| key))
    }
}

impl<R: Record> Read<R> {
    fn key(&self) -> Result<R::Key, RecordError> {
        proto::decode::<R::Key>(&self.id.key).map_err(|error| RecordError::Unreadable {
            id: self.id.clone(),
            problem: format!("its key: {error}"),
        })
    }
}
