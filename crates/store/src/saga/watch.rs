//! Finds sagas that are under way.

use std::collections::BTreeMap;

use env::Instant;

use super::ids::PLACE_KIND;
use super::{SagaId, SagaOptions};
use crate::record::Record;

/// Looks which sagas are under way, and says which have been for so long that somebody may have to
/// go on with them. Pure; whoever owns it carries the list, [`KIND`](Self::KIND) from place to place.
#[derive(Debug)]
pub struct SagaWatch {
    options: SagaOptions,
    /// What was seen at which place, and since when.
    seen: BTreeMap<u32, (SagaId, Instant)>,
    /// What the list has said so far, while it is read.
    reading: Option<BTreeMap<u32, SagaId>>,
    next_at: Instant,
}

impl SagaWatch {
    /// The kind of record that is listed.
    pub const KIND: u32 = PLACE_KIND;
    /// How many at once.
    pub const PAGE: usize = 1_024;

    /// Looks for the first time `first` from now.
    pub fn new(options: SagaOptions, first: Instant) -> Self {
        SagaWatch { options, seen: BTreeMap::new(), reading: None, next_at: first }
    }

    /// When it wants to look.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.reading.is_none().then_some(self.next_at)
    }

    /// Whether to list now, from the beginning.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let is_due = self.reading.is_none() && now >= self.next_at;
        if is_due {
            self.reading = Some(BTreeMap::new());
        }
        is_due
    }

    /// A page of the list; gives after which key the next begins, if there is more.
    pub fn handle_page(&mut self, page: &[(Vec<u8>, Record)]) -> Option<Vec<u8>> {
        let reading = self.reading.as_mut()?;
        for (key, record) in page {
            let place = <[u8; 4]>::try_from(&key[..]).map(u32::from_be_bytes);
            if let (Ok(place), Some(id)) = (place, Self::id_of(record)) {
                reading.insert(place, id);
            }
        }
        page.last().map(|(key, _)| key.clone())
    }

    /// The saga that has a place.
    pub(super) fn id_of(record: &Record) -> Option<SagaId> {
        let body = record.body.as_deref()?;
        Some(SagaId(u128::from_be_bytes(body.try_into().ok()?)))
    }

    /// The list is at its end: which sagas to go on with, and where they were seen. Those that
    /// `is_here` knows are being driven here.
    pub fn handle_end(
        &mut self,
        now: Instant,
        is_here: impl Fn(SagaId) -> bool,
    ) -> Vec<(SagaId, u32)> {
        self.next_at = now + self.options.watch_every;
        let Some(found) = self.reading.take() else { return Vec::new() };
        self.seen.retain(|place, (id, _)| found.get(place) == Some(id));
        let mut old = Vec::new();
        for (place, id) in found {
            let (_, since) = *self.seen.entry(place).or_insert((id, now));
            if now.since(since) >= self.options.stale_after / 2 && !is_here(id) {
                old.push((id, place));
            }
        }
        old
    }

    /// The list could not be read.
    pub fn handle_failed(&mut self, now: Instant) {
        self.reading = None;
        self.next_at = now + self.options.watch_every;
    }
}
