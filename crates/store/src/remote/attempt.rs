//! One attempt at a batch: the rows fetched so far, and the rules run over them. Pure.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::{Found, Page, Place};
use crate::error::Error;
use crate::options::Limits;
use crate::queue::Job;
use crate::row;
use crate::rules;
use crate::tables::{Read, Stage, Table, Visit, Writes};

/// Rows whose last known values are worth guessing by: few, and read by nearly every rule.
const REMEMBERED: [Table; 3] = [Table::Meta, Table::Node, Table::Slot];
const REMEMBERED_MAX: usize = 4_096;

/// Rows as they were, to guess what rules will read before anything is fetched.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    rows: BTreeMap<Place, Found>,
}

impl Remembered {
    /// Keeps what an attempt saw and wrote.
    pub fn learn(&mut self, attempt: &Attempt) {
        if self.rows.len() > REMEMBERED_MAX {
            self.rows.clear();
        }
        let seen = attempt.rows.iter().chain(&attempt.writes);
        for (place, found) in seen.filter(|(place, _)| REMEMBERED.contains(&place.0)) {
            self.rows.insert(place.clone(), found.clone());
        }
    }

    /// The shard's generation as it was seen last.
    pub fn generation(&self) -> Option<u64> {
        let place: Place = (Table::Meta, rules::GENERATION_KEY.to_vec());
        let row = self.rows.get(&place)?.as_ref()?;
        row::decode(place.0, &place.1, row).ok()
    }
}

/// What rules asked for that is not there yet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub rows: BTreeSet<Place>,
    /// Scans, each from where what is known of it ends.
    pub pages: BTreeSet<Place>,
}

impl Wanted {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.pages.is_empty()
    }
}

/// The rows that a scan from some place showed.
#[derive(Debug, Default)]
struct Scanned {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Where the next page starts, `None` after the last.
    next: Option<Vec<u8>>,
}

/// What is known of the shard in one attempt, and what the jobs done so far wrote.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    rows: BTreeMap<Place, Found>,
    scans: BTreeMap<Place, Scanned>,
    writes: Writes,
    bytes: usize,
    done: usize,
}

impl Attempt {
    /// What the rules read first, as far as it can be guessed from rows as they were.
    pub fn guess(jobs: &mut [Box<dyn Job>], remembered: &Remembered, limits: &Limits) -> Wanted {
        let mut attempt = Attempt::default();
        let mut asked = BTreeSet::new();
        let wanted = {
            attempt.rows.clone_from(&remembered.rows);
            let view =
                View { known: &attempt, wanted: RefCell::default(), asked: RefCell::default() };
            for job in jobs {
                job.probe(&mut Stage::new(&view, limits));
            }
            asked.append(&mut view.asked.borrow_mut());
            view.wanted.into_inner()
        };
        // What is remembered has to be read again.
        Wanted { rows: wanted.rows.into_iter().chain(asked).collect(), pages: wanted.pages }
    }

    /// Takes in rows that were fetched.
    pub fn learn_rows(&mut self, places: Vec<Place>, found: Vec<Found>) {
        assert_eq!(places.len(), found.len(), "a link answers for every row it was asked for");
        for (place, found) in places.into_iter().zip(found) {
            self.bytes += place.1.len() + found.as_ref().map_or(0, Vec::len);
            self.rows.insert(place, found);
        }
    }

    /// Takes in a page that was fetched from `from` on, of at most `max` rows.
    pub fn learn_page(&mut self, from: &Place, page: Page, max: usize) {
        let (table, start) = from;
        // The scan that ends where this page begins goes on.
        let ends_here = |(place, scan): &(&Place, &mut Scanned)| {
            place.0 == *table && scan.next.as_ref() == Some(start)
        };
        let next = (page.len() >= max).then(|| page.last().map(|(key, _)| after(key))).flatten();
        self.bytes += page.iter().map(|(key, row)| key.len() + row.len()).sum::<usize>();
        let scan = match self.scans.iter_mut().find(ends_here) {
            Some((_, scan)) => scan,
            None => self.scans.entry(from.clone()).or_default(),
        };
        scan.rows.extend(page);
        scan.next = next;
    }

    /// How many rows the next page from here should have: as many as the scan has already.
    pub fn page_size(&self, from: &Place) -> usize {
        let (table, start) = from;
        let scans = self.scans.iter().filter(|(place, _)| place.0 == *table);
        let here = scans.filter(|(_, scan)| scan.next.as_ref() == Some(start));
        here.map(|(_, scan)| scan.rows.len()).max().unwrap_or(0)
    }

    /// Runs the jobs that are not done yet, in their order, until one lacks rows. Those behind it
    /// are only looked at: they must see what it writes.
    pub fn pass(&mut self, jobs: &mut [Box<dyn Job>], limits: &Limits) -> Wanted {
        let mut wanted = Wanted::default();
        let mut at = self.done;
        while let Some(job) = jobs.get_mut(at) {
            let view = View { known: self, wanted: RefCell::default(), asked: RefCell::default() };
            let mut stage = Stage::new(&view, limits);
            if wanted.is_empty() {
                let is_done = job.run(&mut stage);
                let writes = stage.into_writes();
                wanted = view.wanted.into_inner();
                if wanted.is_empty() {
                    self.done += 1;
                    if is_done {
                        self.bytes += writes.values().flatten().map(Vec::len).sum::<usize>();
                        self.writes.extend(writes);
                    }
                }
            } else {
                job.probe(&mut stage);
                let more = view.wanted.into_inner();
                wanted.rows.extend(more.rows);
                wanted.pages.extend(more.pages);
            }
            at += 1;
        }
        wanted
    }

    /// Runs one job by itself, which only reads: whether it is done and no error, or what it lacks.
    pub fn look(&self, job: &mut Box<dyn Job>, limits: &Limits, done: &mut bool) -> Wanted {
        let view = View { known: self, wanted: RefCell::default(), asked: RefCell::default() };
        let is_done = job.run(&mut Stage::new(&view, limits));
        let wanted = view.wanted.into_inner();
        *done = is_done && wanted.is_empty();
        wanted
    }

    /// How many jobs are done, from the first on.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Bytes of what was fetched and written.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn writes(&self) -> &Writes {
        &self.writes
    }

    pub fn write(&mut self, place: Place, row: Vec<u8>) {
        self.writes.insert(place, Some(row));
    }
}

/// The smallest key above `key`.
fn after(key: &[u8]) -> Vec<u8> {
    let mut next = key.to_vec();
    next.push(0);
    next
}

/// What a rule sees: what was written before it over what was fetched. What is not known reads as if
/// it were not there, and is noted, so that one look notes as much as possible.
struct View<'a> {
    known: &'a Attempt,
    wanted: RefCell<Wanted>,
    asked: RefCell<BTreeSet<Place>>,
}

impl Read for View<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let place = (table, key.to_vec());
        if let Some(written) = self.known.writes.get(&place) {
            return Ok(written.clone());
        }
        if let Some(found) = self.known.rows.get(&place) {
            let found = found.clone();
            self.asked.borrow_mut().insert(place);
            return Ok(found);
        }
        self.wanted.borrow_mut().rows.insert(place);
        Ok(None)
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        let start = (table, from.to_vec());
        let Some(scan) = self.known.scans.get(&start) else {
            self.wanted.borrow_mut().pages.insert(start);
            return Ok(());
        };
        let written = self.known.writes.range((Bound::Included(start), Bound::Unbounded));
        let mut written = written.take_while(|((of, _), _)| *of == table).peekable();
        let mut fetched = scan.rows.iter().peekable();
        loop {
            // What is written replaces or hides the fetched row of the same key.
            let key = match (fetched.peek(), written.peek()) {
                (Some((fetched, _)), Some(((_, written), _))) => (*fetched).min(written),
                (Some((fetched, _)), None) => fetched,
                (None, Some(((_, written), _))) => written,
                (None, None) => break,
            };
            if scan.next.as_ref().is_some_and(|next| key >= next) {
                break;
            }
            let row = fetched.next_if(|(fetched, _)| *fetched == key).map(|(_, row)| row);
            let over = written.next_if(|((_, written), _)| written == key).map(|(_, row)| row);
            let row = match over {
                Some(row) => row.as_ref(),
                None => row,
            };
            if let Some(row) = row
                && !visit(key, row)?
            {
                return Ok(());
            }
        }
        if let Some(next) = &scan.next {
            self.wanted.borrow_mut().pages.insert((table, next.clone()));
        }
        Ok(())
    }

    fn is_far(&self) -> bool {
        true
    }
}
