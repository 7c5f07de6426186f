//! Maps of any size: things at places, stored by chunks, of which only those exist in which something
//! lies.
//!
//! Nothing of a map is read before somebody asks for a part of it, and nobody owns it: whoever edits it
//! reads the chunks concerned and writes them at their versions, again if somebody else was faster.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use proto::codec::Message;
use store::{Amend, Amends, CHUNK_KIND, Change, Error, RecordWrite, SagaPlan, SagaStep, SagaWork};

use super::chunk::{Chunk, ChunkId, Plane, Spot, Stored};
use super::records::{Batch, RecordAsk, RecordError, RecordTold};
use crate::cx::Cx;
use crate::entity::Entity;

/// Chunks that one edit may concern.
const EDIT_CHUNKS_MAX: usize = 64;
/// Chunks that one search may look at.
const SEARCH_CHUNKS_MAX: usize = 1_024;
/// How often an edit is tried.
const TRIES: u32 = 16;

/// A map. What it declares is stored with it: a chunk that was written with another edge is refused.
pub trait Grid: 'static {
    /// Names the map for ever.
    const NAME: &'static str;
    /// What lies on it.
    type Thing: Message;
    /// How long a side of a chunk is. What is often edited together should be in one chunk, or in the
    /// same square of 8 times 8 chunks, which is always in one shard.
    const CHUNK: f64 = 32.0;
    /// How far x, y and z may be from zero.
    const EXTENT: f64 = 1_048_576.0;
    /// Things of one chunk.
    const THINGS_MAX: usize = 1_024;
    /// Bytes of one chunk: of each thing its own and 64, and 64.
    const BYTES_MAX: usize = 256 << 10;
}

/// Why a map was not read or edited. Each variant says what the caller can do.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// Final: a place must have three numbers within the extent, which NaN is not.
    #[error("{spot} is not within {extent} of the map's middle")]
    Outside {
        /// The place.
        spot: Spot,
        /// How far it may be.
        extent: f64,
    },
    /// Put it elsewhere, or remove something first.
    #[error("{chunk} is full: {things} things of {things_max}, {bytes} bytes of {bytes_max}")]
    ChunkFull {
        /// The chunk.
        chunk: ChunkId,
        /// Things it would have.
        things: usize,
        /// Things it may have.
        things_max: usize,
        /// Bytes it would have.
        bytes: usize,
        /// Bytes it may have.
        bytes_max: usize,
    },
    /// Something of that number is not in the chunk of that place: look for it anew.
    #[error("{id} is not in {chunk}")]
    NotThere {
        /// What was looked for.
        id: u64,
        /// Where.
        chunk: ChunkId,
    },
    /// The cell has something in it, or the chunk something of that number.
    #[error("{spot} is taken by {by}")]
    Taken {
        /// The place.
        spot: Spot,
        /// What has it.
        by: u64,
    },
    /// A search looks at too much: ask for less at once.
    #[error("{chunks} chunks would be looked at, at most {max} are")]
    TooWide {
        /// How many.
        chunks: u64,
        /// The limit.
        max: usize,
    },
    /// The chunks of the edit are in two shards, so they cannot be written together: split it, or move
    /// by a saga ([`Map::relocation`]).
    #[error("its chunks are in shards {one:?} and {other:?}")]
    AcrossShards {
        /// One of the shards.
        one: String,
        /// Another.
        other: String,
    },
    /// A mistake in the caller that another try does not mend.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// What the store says.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl From<Error> for MapError {
    fn from(error: Error) -> Self {
        match error {
            Error::AcrossShards { one, other } => MapError::AcrossShards { one, other },
            other => MapError::Record(other.into()),
        }
    }
}

/// Something that lies on a map.
#[derive(Clone, Debug, PartialEq)]
pub struct Found<T> {
    /// Its number.
    pub id: u64,
    /// Where it lies.
    pub spot: Spot,
    /// What it is.
    pub thing: T,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq)]
pub struct Search<T> {
    /// At most as many as were asked for.
    pub found: Vec<Found<T>>,
    /// Whether there is more.
    pub more: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Put(u64, Spot, Vec<u8>),
    Place(u64, Spot, Vec<u8>),
    Relocate(u64, Spot, Spot),
    Remove(u64, Spot),
}

/// Changes of a map that are done together or not at all. Numbers are the game's: whoever names a thing
/// names where it lies, too.
#[must_use = "nothing is done before it is given to `Map::edit` or `Map::prepare`"]
pub struct Edit<G> {
    steps: Vec<Step>,
    of: PhantomData<fn() -> G>,
}

impl<G> fmt::Debug for Edit<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Edit").field(&self.steps).finish()
    }
}

impl<G> Clone for Edit<G> {
    fn clone(&self) -> Self {
        Edit { steps: self.steps.clone(), of: PhantomData }
    }
}

impl<G> Default for Edit<G> {
    fn default() -> Self {
        Edit { steps: Vec::new(), of: PhantomData }
    }
}

impl<G: Grid> Edit<G> {
    /// Nothing yet.
    pub fn new() -> Self {
        Edit::default()
    }

    /// Puts a thing there, in place of what its chunk has under that number.
    pub fn put(self, id: u64, spot: Spot, thing: &G::Thing) -> Self {
        self.step(Step::Put(id, spot, proto::encode(thing)))
    }

    /// Puts a thing there if nothing else is in that cell (see [`Spot::shares_cell`]) and nothing of
    /// that number in its chunk; else [`MapError::Taken`].
    pub fn place(self, id: u64, spot: Spot, thing: &G::Thing) -> Self {
        self.step(Step::Place(id, spot, proto::encode(thing)))
    }

    /// Moves a thing from the chunk of one place to another place; [`MapError::NotThere`],
    /// [`MapError::Taken`] if the other chunk has something of that number.
    pub fn relocate(self, id: u64, from: Spot, to: Spot) -> Self {
        self.step(Step::Relocate(id, from, to))
    }

    /// Removes a thing from the chunk of that place; [`MapError::NotThere`].
    pub fn remove(self, id: u64, spot: Spot) -> Self {
        self.step(Step::Remove(id, spot))
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    fn chunks(&self, plane: &Plane) -> Result<BTreeSet<ChunkId>, MapError> {
        let mut chunks = BTreeSet::new();
        for step in &self.steps {
            match step {
                Step::Put(_, spot, _) | Step::Place(_, spot, _) | Step::Remove(_, spot) => {
                    chunks.insert(plane.chunk_of(spot)?);
                }
                Step::Relocate(_, from, to) => {
                    chunks.extend([plane.chunk_of(from)?, plane.chunk_of(to)?]);
                }
            }
        }
        if chunks.len() > EDIT_CHUNKS_MAX {
            let chunks = chunks.len() as u64;
            return Err(MapError::TooWide { chunks, max: EDIT_CHUNKS_MAX });
        }
        Ok(chunks)
    }

    fn apply(&self, plane: &Plane, chunks: &mut BTreeMap<ChunkId, Chunk>) -> Result<(), MapError> {
        for step in &self.steps {
            step.apply(plane, chunks)?;
        }
        chunks.iter().try_for_each(|(id, chunk)| chunk.check(plane, *id))
    }
}

impl Step {
    fn apply(&self, plane: &Plane, chunks: &mut BTreeMap<ChunkId, Chunk>) -> Result<(), MapError> {
        match self {
            Step::Put(id, spot, bytes) => {
                let things = &mut chunks.entry(plane.chunk_of(spot)?).or_default().things;
                things.insert(*id, Stored { spot: *spot, bytes: bytes.clone() });
            }
            Step::Place(id, spot, bytes) => {
                let things = &mut chunks.entry(plane.chunk_of(spot)?).or_default().things;
                if let Some((by, _)) = things.iter().find(|(_, other)| other.spot.shares_cell(spot))
                {
                    return Err(MapError::Taken { spot: *spot, by: *by });
                }
                insert_new(things, *id, Stored { spot: *spot, bytes: bytes.clone() })?;
            }
            Step::Relocate(id, from, to) => {
                let thing = take(plane, chunks, *id, from)?;
                let things = &mut chunks.entry(plane.chunk_of(to)?).or_default().things;
                insert_new(things, *id, Stored { spot: *to, ..thing })?;
            }
            Step::Remove(id, spot) => {
                take(plane, chunks, *id, spot)?;
            }
        }
        Ok(())
    }
}

fn insert_new(things: &mut BTreeMap<u64, Stored>, id: u64, thing: Stored) -> Result<(), MapError> {
    match things.entry(id) {
        Entry::Vacant(free) => {
            free.insert(thing);
            Ok(())
        }
        Entry::Occupied(other) => Err(MapError::Taken { spot: other.get().spot, by: id }),
    }
}

fn take(
    plane: &Plane,
    chunks: &mut BTreeMap<ChunkId, Chunk>,
    id: u64,
    spot: &Spot,
) -> Result<Stored, MapError> {
    let chunk = plane.chunk_of(spot)?;
    let things = &mut chunks.entry(chunk).or_default().things;
    things.remove(&id).ok_or(MapError::NotThere { id, chunk })
}

/// The name of a change that sagas make on a map.
fn change_name<G: Grid>(what: &str) -> String {
    format!("map {what} {}", G::NAME)
}

/// Adds the changes that move things of a map from shard to shard.
pub(crate) fn add_map<G: Grid>(amends: &mut Amends) {
    let add =
        |amends: &mut Amends, what: &str, change: fn(&Plane, &mut Chunk, u64, Stored) -> _| {
            amends.add(change_name::<G>(what), move |body, with| {
                let plane = Plane::of::<G>();
                let (id, thing) = Stored::from_argument(with).map_err(|error| error.to_string())?;
                let of = plane.chunk_of(&thing.spot).map_err(|error| error.to_string())?;
                let mut chunk = match body {
                    Some(bytes) => Chunk::read(&plane, of, bytes)?,
                    None => Chunk::default(),
                };
                change(&plane, &mut chunk, id, thing)?;
                Ok(chunk.to_bytes(&plane))
            });
        };
    add(amends, "take", |_, chunk, id, thing| match chunk.things.remove(&id) {
        Some(found) if found == thing => Ok(()),
        _ => Err(format!("{id} is not there any more, or was changed")),
    });
    add(amends, "put", |plane, chunk, id, thing| {
        let spot = thing.spot;
        insert_new(&mut chunk.things, id, thing).map_err(|error| error.to_string())?;
        let of = plane.chunk_of(&spot).map_err(|error| error.to_string())?;
        chunk.check(plane, of).map_err(|error| error.to_string())
    });
    // What was taken must find room again, so limits do not count here; and what was put there under its
    // number meanwhile stays.
    add(amends, "back", |_, chunk, id, thing| {
        chunk.things.entry(id).or_insert(thing);
        Ok(())
    });
}

/// A map as an entity reaches it: see [`Cx::map`].
pub struct Map<'a, E: Entity, G> {
    cx: &'a Cx<E>,
    of: PhantomData<fn() -> G>,
}

impl<E: Entity, G: Grid> fmt::Debug for Map<'_, E, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Map").field(&G::NAME).finish()
    }
}

/// A chunk as it was read.
struct Read {
    version: u64,
    existed: bool,
    chunk: Chunk,
}

impl<E: Entity> Cx<E> {
    /// A map. Getting it asks for nothing.
    pub fn map<G: Grid>(&self) -> Map<'_, E, G> {
        Map { cx: self, of: PhantomData }
    }
}

impl<E: Entity, G: Grid> Map<'_, E, G> {
    async fn read(
        &self,
        plane: &Plane,
        chunks: &[ChunkId],
    ) -> Result<(u64, BTreeMap<ChunkId, Read>), MapError> {
        let ids = chunks.iter().map(|chunk| plane.record_of(*chunk)).collect::<Vec<_>>();
        let told = self.cx.ask_of_records(0, RecordAsk::Read(ids.clone())).await?;
        let RecordTold::Read(found) = told else { return Err(RecordError::Unknown.into()) };
        let mut all = BTreeMap::new();
        for ((chunk, id), stored) in chunks.iter().zip(ids).zip(found.records) {
            let existed = stored.body.is_some();
            let read = stored.body.map(|bytes| Chunk::read(plane, *chunk, &bytes));
            let read = read
                .transpose()
                .map_err(|problem| MapError::Record(RecordError::Unreadable { id, problem }))?;
            let chunk_read =
                Read { version: stored.version, existed, chunk: read.unwrap_or_default() };
            all.insert(*chunk, chunk_read);
        }
        Ok((found.generation, all))
    }

    /// Reads what an edit concerns and makes the writes that it is, to be done with a
    /// [`Deal`](crate::data::Deal) or by [`Cx::write_records`]. They hold only if nobody else was faster.
    ///
    /// # Errors
    ///
    /// See [`MapError`].
    pub async fn prepare(&self, edit: &Edit<G>) -> Result<Batch, MapError> {
        let plane = Plane::of::<G>();
        let (generation, writes) = self.writes(&plane, edit).await?;
        Ok(Batch::of(generation, writes))
    }

    async fn writes(
        &self,
        plane: &Plane,
        edit: &Edit<G>,
    ) -> Result<(u64, Vec<RecordWrite>), MapError> {
        let ids: Vec<ChunkId> = edit.chunks(plane)?.into_iter().collect();
        let (generation, read) = self.read(plane, &ids).await?;
        let mut chunks: BTreeMap<_, _> =
            read.iter().map(|(id, read)| (*id, read.chunk.clone())).collect();
        edit.apply(plane, &mut chunks)?;
        let writes = read.into_iter().map(|(id, read)| {
            let after = chunks.remove(&id).unwrap_or_default();
            let change = match after.to_bytes(plane) {
                _ if after == read.chunk => Change::Keep,
                Some(bytes) => Change::Put(bytes),
                None if read.existed => Change::Remove,
                None => Change::Keep,
            };
            let id = plane.record_of(id);
            RecordWrite { id, version: read.version, change, fence: None, unlock: false }
        });
        Ok((generation, writes.collect()))
    }

    /// Does an edit, all or nothing; durable when this is done. It is tried again, at most 16 times, if
    /// somebody else edits the same chunks.
    ///
    /// # Errors
    ///
    /// See [`MapError`]; nothing was done, except perhaps with [`RecordError::Unknown`]: look then.
    pub async fn edit(&self, edit: Edit<G>) -> Result<(), MapError> {
        let plane = Plane::of::<G>();
        let mut tries = 0;
        loop {
            let (generation, writes) = self.writes(&plane, &edit).await?;
            if writes.iter().all(|write| write.change == Change::Keep) {
                return Ok(());
            }
            let told = self.cx.ask_of_records(0, RecordAsk::Write(generation, writes)).await;
            match told.map_err(MapError::from) {
                Ok(_) => return Ok(()),
                Err(MapError::Record(error)) if error.is_conflict() && tries + 1 < TRIES => {
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
            let pause = self.cx.random(|random| random.below(1 << tries.min(6)));
            self.cx.sleep(Duration::from_millis(1 + pause)).await;
        }
    }

    /// Puts a thing there; see [`Edit::put`].
    ///
    /// # Errors
    ///
    /// As [`edit`](Self::edit).
    pub async fn put(&self, id: u64, spot: Spot, thing: &G::Thing) -> Result<(), MapError> {
        self.edit(Edit::new().put(id, spot, thing)).await
    }

    /// Puts a thing into a free cell; see [`Edit::place`].
    ///
    /// # Errors
    ///
    /// As [`edit`](Self::edit).
    pub async fn place(&self, id: u64, spot: Spot, thing: &G::Thing) -> Result<(), MapError> {
        self.edit(Edit::new().place(id, spot, thing)).await
    }

    /// Moves a thing; see [`Edit::relocate`].
    ///
    /// # Errors
    ///
    /// As [`edit`](Self::edit); [`MapError::AcrossShards`]: see [`relocation`](Self::relocation).
    pub async fn relocate(&self, id: u64, from: Spot, to: Spot) -> Result<(), MapError> {
        self.edit(Edit::new().relocate(id, from, to)).await
    }

    /// Removes a thing; see [`Edit::remove`].
    ///
    /// # Errors
    ///
    /// As [`edit`](Self::edit).
    pub async fn remove(&self, id: u64, spot: Spot) -> Result<(), MapError> {
        self.edit(Edit::new().remove(id, spot)).await
    }

    /// The saga that moves a thing to wherever it is to be, also in another shard: give it to
    /// [`Cx::saga`]. The thing lies nowhere while it goes on, and is back where it was if it is changed
    /// before, or if there is no room. The host must know the map (`App::map`).
    ///
    /// # Errors
    ///
    /// [`MapError::NotThere`] and what reading it gives.
    pub async fn relocation(&self, id: u64, from: Spot, to: Spot) -> Result<SagaPlan, MapError> {
        let plane = Plane::of::<G>();
        let (source, target) = (plane.chunk_of(&from)?, plane.chunk_of(&to)?);
        let (_, read) = self.read(&plane, &[source]).await?;
        let stored = read.into_values().next().and_then(|read| read.chunk.things.get(&id).cloned());
        let thing = stored.ok_or(MapError::NotThere { id, chunk: source })?;
        let amend = |what: &str, chunk, thing: &Stored| {
            let (record, by) = (plane.record_of(chunk), change_name::<G>(what));
            SagaWork::new().amend(Amend { record, by, with: thing.to_argument(id) })
        };
        let moved = Stored { spot: to, bytes: thing.bytes.clone() };
        let taken = SagaStep::new("take", amend("take", source, &thing));
        Ok(SagaPlan::new(format!("{id} moves on map {}", G::NAME))
            .step(taken.undone_by(amend("back", source, &thing)))
            .step(SagaStep::new("put", amend("put", target, &moved))))
    }

    /// What has that number in the chunk of that place.
    ///
    /// # Errors
    ///
    /// What reading it gives.
    pub async fn get(&self, id: u64, spot: Spot) -> Result<Option<Found<G::Thing>>, MapError> {
        let plane = Plane::of::<G>();
        let chunk = plane.chunk_of(&spot)?;
        let (_, mut read) = self.read(&plane, &[chunk]).await?;
        let thing = read.get_mut(&chunk).and_then(|read| read.chunk.things.remove(&id));
        thing.map(|thing| found::<G>(&plane, chunk, id, thing)).transpose()
    }

    /// What lies in a rectangle of a layer, edges included, at any height, at most `max`. The parts that are in one region (8 times 8 chunks) are of one
    /// moment.
    ///
    /// # Errors
    ///
    /// [`MapError::TooWide`] if it touches more than 1,024 chunks; what reading gives.
    pub async fn within(
        &self,
        layer: i32,
        from: (f64, f64),
        to: (f64, f64),
        max: usize,
    ) -> Result<Search<G::Thing>, MapError> {
        let plane = Plane::of::<G>();
        let mut all = Vec::new();
        for chunks in plane.chunks_within(layer, (from, to), SEARCH_CHUNKS_MAX)?.into_values() {
            for (chunk, read) in self.read(&plane, &chunks).await?.1 {
                for (id, thing) in read.chunk.things {
                    let Spot { x, y, .. } = thing.spot;
                    if (from.0..=to.0).contains(&x) && (from.1..=to.1).contains(&y) {
                        if all.len() == max {
                            return Ok(Search { found: all, more: true });
                        }
                        all.push(found::<G>(&plane, chunk, id, thing)?);
                    }
                }
            }
        }
        Ok(Search { found: all, more: false })
    }

    /// What lies at most so far from a place, in its layer, the nearest first, at most `max`.
    ///
    /// # Errors
    ///
    /// As [`within`](Self::within).
    pub async fn around(
        &self,
        spot: Spot,
        radius: f64,
        max: usize,
    ) -> Result<Search<G::Thing>, MapError> {
        if radius.is_nan() || radius < 0.0 {
            return Err(MapError::Malformed("a radius is not less than zero"));
        }
        let plane = Plane::of::<G>();
        plane.chunk_of(&spot)?;
        let (from, to) = ((spot.x - radius, spot.y - radius), (spot.x + radius, spot.y + radius));
        let mut near = Vec::new();
        let regions = plane.chunks_within(spot.layer, (from, to), SEARCH_CHUNKS_MAX)?;
        for mut chunks in regions.into_values() {
            chunks.retain(|chunk| {
                let ((left, low), (right, high)) = plane.square(*chunk);
                let nearest =
                    Spot { x: spot.x.clamp(left, right), y: spot.y.clamp(low, high), ..spot };
                nearest.distance_squared(&spot) <= radius * radius
            });
            if chunks.is_empty() {
                continue;
            }
            for (chunk, read) in self.read(&plane, &chunks).await?.1 {
                let things = read.chunk.things.into_iter();
                let things = things
                    .map(|(id, thing)| (thing.spot.distance_squared(&spot), id, chunk, thing));
                near.extend(things.filter(|(distance, ..)| *distance <= radius * radius));
            }
            near.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
            near.truncate(max.saturating_add(1));
        }
        let more = near.len() > max;
        let kept = near.into_iter().take(max);
        let kept = kept.map(|(_, id, chunk, thing)| found::<G>(&plane, chunk, id, thing));
        Ok(Search { found: kept.collect::<Result<_, _>>()?, more })
    }

    /// The chunks in which something lies, region by region, after `after`, at most `max`: for tools
    /// that go over a whole map. None are left when it gives none.
    ///
    /// # Errors
    ///
    /// What reading gives.
    pub async fn walk(
        &self,
        after: Option<ChunkId>,
        max: usize,
    ) -> Result<Vec<(ChunkId, Vec<Found<G::Thing>>)>, MapError> {
        let plane = Plane::of::<G>();
        let after = after.map_or_else(|| plane.first_key(), |chunk| plane.record_of(chunk).key);
        let ask = RecordAsk::List(CHUNK_KIND, Some(after), max);
        let RecordTold::List(page) = self.cx.ask_of_records(0, ask).await? else {
            return Err(RecordError::Unknown.into());
        };
        let mut all = Vec::new();
        for (key, stored) in page {
            // What comes after this map is another's.
            let Some(chunk) = plane.chunk_of_key(&key) else { break };
            let bytes = stored.body.unwrap_or_default();
            let read = Chunk::read(&plane, chunk, &bytes).map_err(|problem| {
                let id = plane.record_of(chunk);
                MapError::Record(RecordError::Unreadable { id, problem })
            })?;
            let things = read.things.into_iter();
            let things = things.map(|(id, thing)| found::<G>(&plane, chunk, id, thing));
            all.push((chunk, things.collect::<Result<_, _>>()?));
        }
        Ok(all)
    }
}

fn found<G: Grid>(
    plane: &Plane,
    chunk: ChunkId,
    id: u64,
    thing: Stored,
) -> Result<Found<G::Thing>, MapError> {
    let Stored { spot, bytes } = thing;
    match proto::decode::<G::Thing>(&bytes) {
        Ok(thing) => Ok(Found { id, spot, thing }),
        Err(error) => {
            let problem = format!("{id} at {spot}: {error}");
            Err(RecordError::Unreadable { id: plane.record_of(chunk), problem }.into())
        }
    }
}
