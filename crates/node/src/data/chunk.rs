//! Chunks of maps: where a spot lies, and what is stored of a chunk. Pure.

use std::collections::BTreeMap;
use std::fmt;

use proto::KindId;
use proto::codec::{DecodeError, Decoder, put_array, put_binary, put_f64, put_int, put_uint};
use store::{CHUNK_KIND, RecordId};

use super::map::{Grid, MapError};

/// Chunks of one region on each side. Stored: it never changes.
const REGION: i32 = 8;
/// The form in which chunks are written.
const FORMAT: u64 = 1;

/// A place on a map. Its numbers may be fractions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spot {
    /// Which layer: each is a plane of its own.
    pub layer: i32,
    /// To the east.
    pub x: f64,
    /// To the north.
    pub y: f64,
    /// Above the ground. Chunks are not split by it.
    pub z: f64,
}

impl Spot {
    /// A place on the ground.
    pub const fn new(layer: i32, x: f64, y: f64) -> Self {
        Spot { layer, x, y, z: 0.0 }
    }

    /// The same at a height.
    #[must_use]
    pub const fn at_height(self, z: f64) -> Self {
        Spot { z, ..self }
    }

    /// Whether both are in one cell: their numbers are equal without the fractions.
    pub fn shares_cell(&self, other: &Spot) -> bool {
        let cell = |spot: &Spot| (spot.layer, spot.x.floor(), spot.y.floor(), spot.z.floor());
        cell(self) == cell(other)
    }

    /// The square of the distance.
    pub(super) fn distance_squared(&self, other: &Spot) -> f64 {
        let (x, y, z) = (self.x - other.x, self.y - other.y, self.z - other.z);
        x * x + y * y + z * z
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {}, {}) of layer {}", self.x, self.y, self.z, self.layer)
    }
}

/// A square of a map, stored as one record if anything lies in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId {
    /// Its layer.
    pub layer: i32,
    /// Its place, in chunks.
    pub x: i32,
    /// Its place, in chunks.
    pub y: i32,
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chunk ({}, {}) of layer {}", self.x, self.y, self.layer)
    }
}

impl ChunkId {
    /// The region that it is in, whose chunks are in one slot and so in one shard.
    pub(super) fn region(self) -> (i32, i32, i32) {
        (self.layer, self.x.div_euclid(REGION), self.y.div_euclid(REGION))
    }
}

/// What is declared of a map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plane {
    map: u32,
    edge: f64,
    extent: f64,
    things_max: usize,
    bytes_max: usize,
}

impl Plane {
    pub fn of<G: Grid>() -> Self {
        const {
            assert!(G::CHUNK >= 1.0 && G::CHUNK <= G::EXTENT, "a chunk is a cell at least");
            assert!(G::EXTENT / G::CHUNK < 1e9, "chunks have 32-bit numbers");
            assert!(G::BYTES_MAX <= 1 << 20, "a record has 1 MiB at most");
        }
        Plane {
            map: KindId::of(G::NAME).0,
            edge: G::CHUNK,
            extent: G::EXTENT,
            things_max: G::THINGS_MAX,
            bytes_max: G::BYTES_MAX,
        }
    }

    fn number(&self, at: f64) -> i32 {
        // Within the extent, which was checked against the range.
        (at / self.edge).floor() as i32
    }

    /// Where a spot lies.
    pub fn chunk_of(&self, spot: &Spot) -> Result<ChunkId, MapError> {
        let is_inside = |at: f64| at.abs() <= self.extent;
        if !(is_inside(spot.x) && is_inside(spot.y) && is_inside(spot.z)) {
            return Err(MapError::Outside { spot: *spot, extent: self.extent });
        }
        Ok(ChunkId { layer: spot.layer, x: self.number(spot.x), y: self.number(spot.y) })
    }

    /// The chunks that a rectangle touches, by their regions; what is outside the map is left out.
    pub fn chunks_within(
        &self,
        layer: i32,
        (from, to): ((f64, f64), (f64, f64)),
        chunks_max: usize,
    ) -> Result<BTreeMap<(i32, i32, i32), Vec<ChunkId>>, MapError> {
        if !(from.0 <= to.0 && from.1 <= to.1) {
            return Err(MapError::Malformed(
                "a rectangle goes from its lesser corner to its greater",
            ));
        }
        if from.0 > self.extent
            || from.1 > self.extent
            || to.0 < -self.extent
            || to.1 < -self.extent
        {
            return Ok(BTreeMap::new());
        }
        let number = |at: f64| self.number(at.clamp(-self.extent, self.extent));
        let (xs, ys) = (number(from.0)..=number(to.0), number(from.1)..=number(to.1));
        let count = |range: &std::ops::RangeInclusive<i32>| {
            (i64::from(*range.end()) - i64::from(*range.start()) + 1) as u64
        };
        let chunks = count(&xs).saturating_mul(count(&ys));
        if chunks > chunks_max as u64 {
            return Err(MapError::TooWide { chunks, max: chunks_max });
        }
        let mut regions: BTreeMap<_, Vec<ChunkId>> = BTreeMap::new();
        for x in xs {
            for y in ys.clone() {
                let chunk = ChunkId { layer, x, y };
                regions.entry(chunk.region()).or_default().push(chunk);
            }
        }
        Ok(regions)
    }

    /// The square that a chunk covers.
    pub fn square(&self, chunk: ChunkId) -> ((f64, f64), (f64, f64)) {
        let (x, y) = (f64::from(chunk.x) * self.edge, f64::from(chunk.y) * self.edge);
        ((x, y), (x + self.edge, y + self.edge))
    }

    /// The record in which a chunk is stored: map, layer and region decide the slot.
    pub fn record_of(&self, chunk: ChunkId) -> RecordId {
        let (layer, x, y) = chunk.region();
        let ordered = |n: i32| (n as u32 ^ 1 << 31).to_be_bytes();
        let parts = [layer, x, y, chunk.x, chunk.y].map(ordered);
        let key = [&self.map.to_be_bytes()[..], parts.as_flattened()].concat();
        RecordId { kind: CHUNK_KIND, key }
    }

    /// The chunk that is stored under a key; `None` if it is of another map.
    pub fn chunk_of_key(&self, key: &[u8]) -> Option<ChunkId> {
        let numbers = key.strip_prefix(&self.map.to_be_bytes())?;
        let (numbers, rest) = numbers.as_chunks::<4>();
        let [layer, _, _, x, y] = numbers else { return None };
        let number = |bytes: &[u8; 4]| (u32::from_be_bytes(*bytes) ^ 1 << 31) as i32;
        let chunk = ChunkId { layer: number(layer), x: number(x), y: number(y) };
        (rest.is_empty() && self.record_of(chunk).key == key).then_some(chunk)
    }

    /// The key before all of this map.
    pub fn first_key(&self) -> Vec<u8> {
        self.map.to_be_bytes().to_vec()
    }
}

/// Something on a map, as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stored {
    pub spot: Spot,
    pub bytes: Vec<u8>,
}

impl Stored {
    /// For a saga, together with its number.
    pub fn to_argument(&self, id: u64) -> Vec<u8> {
        let mut out = Vec::new();
        put_array(&mut out, 6);
        put_int(&mut out, self.spot.layer.into());
        put_thing(&mut out, id, self);
        out
    }

    pub fn from_argument(bytes: &[u8]) -> Result<(u64, Self), DecodeError> {
        let mut d = Decoder::new(bytes);
        d.array()?;
        let layer = i32::try_from(d.int()?).unwrap_or(i32::MAX);
        let found = take_thing(&mut d, layer)?;
        d.leave();
        d.end()?;
        Ok(found)
    }
}

fn put_thing(out: &mut Vec<u8>, id: u64, thing: &Stored) {
    put_uint(out, id);
    put_f64(out, thing.spot.x);
    put_f64(out, thing.spot.y);
    put_f64(out, thing.spot.z);
    put_binary(out, &thing.bytes);
}

fn take_thing(d: &mut Decoder<'_>, layer: i32) -> Result<(u64, Stored), DecodeError> {
    let id = d.uint()?;
    let spot = Spot { layer, x: d.f64()?, y: d.f64()?, z: d.f64()? };
    let bytes = d.binary()?;
    d.charge(bytes.len())?;
    Ok((id, Stored { spot, bytes: bytes.to_vec() }))
}

/// What lies in a chunk.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Chunk {
    pub things: BTreeMap<u64, Stored>,
}

/// Room for the head of a chunk and of each thing.
const HEAD: usize = 64;

impl Chunk {
    /// What is stored of it; `None` if nothing is in it.
    pub fn to_bytes(&self, plane: &Plane) -> Option<Vec<u8>> {
        if self.things.is_empty() {
            return None;
        }
        let mut out = Vec::with_capacity(self.bytes());
        put_array(&mut out, 3);
        put_uint(&mut out, FORMAT);
        put_f64(&mut out, plane.edge);
        put_array(&mut out, self.things.len());
        for (id, thing) in &self.things {
            put_array(&mut out, 5);
            put_thing(&mut out, *id, thing);
        }
        Some(out)
    }

    /// Reads what is stored of `chunk`. The error says what is wrong.
    pub fn read(plane: &Plane, chunk: ChunkId, bytes: &[u8]) -> Result<Self, String> {
        let things = Self::decode(plane, chunk.layer, bytes)?;
        let is_here = |thing: &Stored| plane.chunk_of(&thing.spot) == Ok(chunk);
        match things.iter().find(|(_, thing)| !is_here(thing)) {
            Some((id, thing)) => Err(format!("{id} at {} is not of it", thing.spot)),
            None => Ok(Chunk { things }),
        }
    }

    fn decode(plane: &Plane, layer: i32, bytes: &[u8]) -> Result<BTreeMap<u64, Stored>, String> {
        let text = |error: DecodeError| error.to_string();
        let mut d = Decoder::new(bytes);
        let mut things = BTreeMap::new();
        d.array().map_err(text)?;
        let format = d.uint().map_err(text)?;
        if format > FORMAT {
            return Err(format!("it has form {format}, this release knows up to {FORMAT}"));
        }
        let edge = d.f64().map_err(text)?;
        if edge != plane.edge {
            return Err(format!(
                "it was written with chunks of {edge}, here they have {}",
                plane.edge
            ));
        }
        for _ in 0..d.array().map_err(text)? {
            d.array().map_err(text)?;
            let (id, thing) = take_thing(&mut d, layer).map_err(text)?;
            d.leave();
            things.insert(id, thing);
        }
        d.leave();
        d.leave();
        d.end().map_err(text)?;
        Ok(things)
    }

    fn bytes(&self) -> usize {
        HEAD + self.things.values().map(|thing| HEAD + thing.bytes.len()).sum::<usize>()
    }

    /// Whether it is within its limits.
    pub fn check(&self, plane: &Plane, chunk: ChunkId) -> Result<(), MapError> {
        let (things, bytes) = (self.things.len(), self.bytes());
        let (things_max, bytes_max) = (plane.things_max, plane.bytes_max);
        if things > things_max || bytes > bytes_max {
            return Err(MapError::ChunkFull { chunk, things, things_max, bytes, bytes_max });
        }
        Ok(())
    }
}
