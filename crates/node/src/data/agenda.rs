//! Timers that are part of a document.

use std::time::Duration;

use env::WallTime;
use macros::Message;

/// Entries of one agenda.
const ENTRIES_MAX: usize = 1_024;
/// The longest wait that is told: the wall clock may be set meanwhile.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What becomes of the times of a repeated entry that passed while the entity was not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// Each is due, one after the other.
    Each,
    /// They are due as one.
    Once,
}

/// Timers that are kept with an entity: a field marked `#[persist]` of its document or of a component's.
///
/// They are saved in the same write as everything else that the entity changed, so they survive whatever it
/// survives: a restart, a move, a crash of its node. What is due is taken in the order of its times, late
/// after an outage, and taking it is a change like any other. A turn that takes an entry and does what it
/// is for is therefore saved as a whole or not at all; after a crash before that, the entry is due again, under the
/// same id, which makes a good id for what must not be done twice elsewhere.
///
/// The entity itself sets an ordinary timer for [`Agenda::wait`], when it is loaded and after each change:
///
/// ```ignore
/// fn arm(&self, cx: &mut Cx<Self>) {
///     cx.cancel("agenda");
///     if let Some(wait) = self.agenda.wait(cx.wall()) {
///         cx.after(wait).key("agenda").work_off();
///     }
/// }
/// ```
///
/// An entity that nobody has called since its node ended is not loaded for it: its entries are due when it is loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
#[message(root = proto)]
pub struct Agenda {
    /// The id of the last entry that was made.
    last: u64,
    /// In the order in which they are due.
    entries: Vec<Entry>,
}

/// An entry of an [`Agenda`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
#[message(root = proto)]
pub struct Entry {
    /// Of this occurrence: no other of the agenda has or had it, and it is the same whenever it is due again.
    pub id: u64,
    /// What it was put under.
    pub key: String,
    /// When it is due: milliseconds since 1970.
    pub at_ms: u64,
    /// What the game put in.
    pub body: Vec<u8>,
    /// How often it repeats, 0 if not.
    every_ms: u64,
    /// Whether what passed is due as one.
    once: bool,
}

/// There is no room for another entry: take or cancel some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an agenda has at most {ENTRIES_MAX} entries")]
pub struct AgendaFull;

impl Agenda {
    /// Adds an entry that is due once; its id. A key may have many entries.
    ///
    /// # Errors
    ///
    /// [`AgendaFull`] at 1,024 entries.
    pub fn set(
        &mut self,
        key: impl Into<String>,
        at: WallTime,
        body: impl Into<Vec<u8>>,
    ) -> Result<u64, AgendaFull> {
        self.add(Entry { key: key.into(), at_ms: at.0, body: body.into(), ..Entry::default() })
    }

    /// Adds an entry that is due at `first` and then at every `interval` (at least a millisecond), until it is cancelled.
    /// Each occurrence has an id of its own; the first one's is given.
    ///
    /// # Errors
    ///
    /// [`AgendaFull`] at 1,024 entries.
    pub fn set_every(
        &mut self,
        key: impl Into<String>,
        first: WallTime,
        interval: Duration,
        overdue: Overdue,
        body: impl Into<Vec<u8>>,
    ) -> Result<u64, AgendaFull> {
        self.add(Entry {
            key: key.into(),
            at_ms: first.0,
            body: body.into(),
            every_ms: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1),
            once: overdue == Overdue::Once,
            ..Entry::default()
        })
    }

    fn add(&mut self, entry: Entry) -> Result<u64, AgendaFull> {
        if self.entries.len() >= ENTRIES_MAX {
            return Err(AgendaFull);
        }
        self.last += 1;
        let entry = Entry { id: self.last, ..entry };
        let place = self.entries.partition_point(|other| other.order() < entry.order());
        self.entries.insert(place, entry);
        Ok(self.last)
    }

    /// Removes all entries under a key; how many. None is no error.
    pub fn cancel(&mut self, key: &str) -> usize {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.key != key);
        before - self.entries.len()
    }

    /// Takes the next entry that is due, the earliest first and of one time the one that was set first. A repeated one is put
    /// back for its next time.
    pub fn take_due(&mut self, now: WallTime) -> Option<Entry> {
        if self.entries.first()?.at_ms > now.0 {
            return None;
        }
        let entry = self.entries.remove(0);
        if let Some(passed) = (now.0 - entry.at_ms).checked_div(entry.every_ms) {
            // What passed is skipped if it is due as one.
            let passed = if entry.once { passed } else { 0 };
            let step = entry.every_ms.saturating_mul(passed + 1);
            let next = Entry { at_ms: entry.at_ms.saturating_add(step), ..entry.clone() };
            // There is room: one was just taken.
            let _ = self.add(next);
        }
        Some(entry)
    }

    /// How long until the next entry is due, zero if one is, at most a minute: look again then. `None` if there is none.
    pub fn wait(&self, now: WallTime) -> Option<Duration> {
        let next = self.entries.first()?;
        Some(Duration::from_millis(next.at_ms.saturating_sub(now.0)).min(WAIT_MAX))
    }

    /// The entries in the order in which they are due.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

impl Entry {
    fn order(&self) -> (u64, u64) {
        (self.at_ms, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(agenda: &mut Agenda, now: u64) -> Vec<(String, u64, u64)> {
        std::iter::from_fn(|| agenda.take_due(WallTime(now)))
            .map(|entry| (entry.key, entry.at_ms, entry.id))
            .collect()
    }

    fn at(key: &str, at_ms: u64, id: u64) -> (String, u64, u64) {
        (key.to_owned(), at_ms, id)
    }

    #[test]
    fn what_is_due_comes_in_the_order_of_its_times_each_once() {
        let mut agenda = Agenda::default();
        agenda.set("b", WallTime(200), [1]).unwrap();
        agenda.set("a", WallTime(100), [2]).unwrap();
        agenda.set("c", WallTime(200), [3]).unwrap();
        agenda.set("later", WallTime(900), []).unwrap();
        assert_eq!(agenda.wait(WallTime(40)), Some(Duration::from_millis(60)));
        assert_eq!(taken(&mut agenda, 99), []);
        assert_eq!(taken(&mut agenda, 500), [at("a", 100, 2), at("b", 200, 1), at("c", 200, 3)]);
        assert_eq!(taken(&mut agenda, 500), []);
        assert_eq!(agenda.cancel("later"), 1);
        assert_eq!(agenda.wait(WallTime(500)), None);
    }

    #[test]
    fn what_repeats_is_caught_up_with_as_it_says_and_keeps_its_phase() {
        let mut agenda = Agenda::default();
        let minute = Duration::from_millis(60);
        agenda.set_every("each", WallTime(100), minute, Overdue::Each, []).unwrap();
        agenda.set_every("once", WallTime(110), minute, Overdue::Once, []).unwrap();
        let due = taken(&mut agenda, 300);
        let each: Vec<_> = due.iter().filter(|one| one.0 == "each").map(|one| one.1).collect();
        let once: Vec<_> = due.iter().filter(|one| one.0 == "once").map(|one| one.1).collect();
        assert_eq!((each, once), (vec![100, 160, 220, 280], vec![110]));
        let mut ids: Vec<_> = due.iter().map(|one| one.2).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), due.len(), "each occurrence has its own id");
        let next: Vec<_> = agenda.entries().iter().map(|entry| entry.at_ms).collect();
        assert_eq!(next, [340, 350]);
    }

    #[test]
    fn an_agenda_is_bounded_and_comes_back_as_it_was() {
        let mut agenda = Agenda::default();
        for n in 0..ENTRIES_MAX as u64 {
            agenda.set("k", WallTime(n), n.to_le_bytes()).unwrap();
        }
        assert_eq!(agenda.set("k", WallTime(0), []), Err(AgendaFull));
        let bytes = proto::codec::encode(&agenda);
        let back: Agenda = proto::codec::decode(&bytes).unwrap();
        assert_eq!(back, agenda);
        // A repeated one among as many as there may be goes on.
        let mut full = Agenda::default();
        full.set_every("r", WallTime(1), Duration::from_millis(5), Overdue::Each, []).unwrap();
        for _ in 1..ENTRIES_MAX {
            full.set("k", WallTime(900), []).unwrap();
        }
        assert_eq!(taken(&mut full, 11).len(), 3);
        assert_eq!(full.entries().len(), ENTRIES_MAX);
    }
}
