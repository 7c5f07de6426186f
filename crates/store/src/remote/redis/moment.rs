//! One moment of a shard, seen while commits go on: the rows as they are by now, and what commits replaced since. Pure.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::{Failure, Found, Page, Place, Table, number};

/// What was replaced since the moment.
#[derive(Debug)]
pub(super) struct Moment {
    /// Names the server's list of what is replaced.
    watch: String,
    /// How much of that list is known or of before.
    known: usize,
    /// The rows as they were at the moment, of those that changed since.
    before: BTreeMap<Place, Found>,
}

impl Moment {
    /// From what the script says when it begins.
    pub fn new(begun: &[Vec<u8>]) -> Result<Self, Failure> {
        let known = begun.get(2).and_then(|known| number(known.clone()));
        match (begun.get(1), known) {
            (Some(watch), Some(known)) => Ok(Self {
                watch: String::from_utf8_lossy(watch).into_owned(),
                known: known as usize,
                before: BTreeMap::new(),
            }),
            _ => Err(Failure::Lost("a moment that cannot be read".to_owned())),
        }
    }

    pub fn watch(&self) -> &str {
        &self.watch
    }

    pub fn known(&self) -> usize {
        self.known
    }

    /// Takes in what is new in the list: table, key and old row by turns.
    pub fn learn(&mut self, new: Vec<Vec<u8>>) -> Result<(), Failure> {
        self.known += new.len();
        let mut new = new.into_iter();
        while let (Some(table), Some(key), Some(row)) = (new.next(), new.next(), new.next()) {
            let table = Table::ALL.into_iter().find(|known| known.name().as_bytes() == table);
            // No rule reads the tables that are not of every backend.
            let Some(table) = table else { continue };
            // The first time that it was replaced counts.
            self.before.entry((table, key)).or_insert(Some(row).filter(|row| !row.is_empty()));
        }
        Ok(())
    }

    /// A row of the moment, from how it is now.
    pub fn row(&self, place: &Place, now: Found) -> Found {
        self.before.get(place).cloned().unwrap_or(now)
    }

    /// Rows of the moment from a key on, from how they are now: to `last`, or to the table's end.
    pub fn page(&self, table: Table, from: &[u8], last: Option<&[u8]>, now: Page) -> Page {
        let end = match last {
            Some(last) => Bound::Included((table, last.to_vec())),
            None => Bound::Unbounded,
        };
        let before = self.before.range((Bound::Included((table, from.to_vec())), end));
        let before = before.take_while(|((of, _), _)| *of == table);
        let mut rows: BTreeMap<_, _> = now.into_iter().collect();
        for ((_, key), row) in before {
            match row {
                Some(row) => rows.insert(key.clone(), row.clone()),
                None => rows.remove(key),
            };
        }
        rows.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(replaced: &[(&str, &str)]) -> Moment {
        let begun = ["7", "1", "3"].map(|text| text.as_bytes().to_vec());
        let mut moment = Moment::new(&begun).unwrap();
        for (key, row) in replaced {
            moment.learn(["entity", key, row].map(|text| text.as_bytes().to_vec()).into()).unwrap();
        }
        moment
    }

    fn page(rows: &[(&str, &str)]) -> Page {
        rows.iter().map(|(key, row)| (key.as_bytes().to_vec(), row.as_bytes().to_vec())).collect()
    }

    #[test]
    fn rows_are_as_they_were_whatever_became_of_them() {
        // `a` was changed twice, `b` removed, `c` made, `d` left alone.
        let moment = moment(&[("a", "old"), ("b", "gone"), ("c", ""), ("a", "between")]);
        let now = page(&[("a", "new"), ("c", "made"), ("d", "same")]);
        let then = page(&[("a", "old"), ("b", "gone"), ("d", "same")]);
        assert_eq!(moment.page(Table::Entity, b"", None, now), then);
        let place = |key: &str| (Table::Entity, key.as_bytes().to_vec());
        assert_eq!(moment.row(&place("c"), Some(b"made".to_vec())), None);
        assert_eq!(moment.row(&place("d"), Some(b"same".to_vec())), Some(b"same".to_vec()));
        assert_eq!(moment.known(), 3 + 12);
    }

    #[test]
    fn rows_beyond_a_page_wait_for_the_next() {
        let moment = moment(&[("a", "before"), ("c", "gone"), ("x", "later")]);
        let now = page(&[("b", "1"), ("d", "2")]);
        let then = page(&[("b", "1"), ("c", "gone"), ("d", "2")]);
        assert_eq!(moment.page(Table::Entity, b"b", Some(b"d"), now), then);
        assert_eq!(moment.page(Table::Item, b"", None, Page::new()), Page::new());
    }
}
