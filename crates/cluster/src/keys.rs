use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use proto::Incarnation;

/// Limits of a key-value store of the coordinator.
#[derive(Clone, Debug)]
pub struct KeyOptions {
    /// Most keys.
    pub keys_max: usize,
    /// Longest value, in bytes.
    pub value_bytes_max: usize,
    /// How many changes are kept for those who follow.
    pub history_max: usize,
}

impl Default for KeyOptions {
    /// 65,536 keys, values of 64 KiB, 4,096 changes.
    fn default() -> Self {
        KeyOptions { keys_max: 65_536, value_bytes_max: 64 * 1024, history_max: 4096 }
    }
}

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 256;

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The value.
    pub value: Arc<[u8]>,
    /// The revision that made the key: grows with each making, so it fences who had it before.
    pub created: u64,
    /// The revision of the last change.
    pub changed: u64,
    /// The node whose lease holds the key, if any: it goes with that node.
    pub owner: Option<Incarnation>,
}

/// What must be true for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// There is no such key.
    Absent,
    /// The key's last change is of this revision.
    Changed(u64),
}

/// One change, as those who follow see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its revision.
    pub revision: u64,
    /// The key.
    pub key: Arc<str>,
    /// What it is now; `None` if it is gone.
    pub now: Option<Key>,
}

/// Why a key was not written or followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Somebody was faster: read it again, decide, retry.
    #[error("{key:?} was changed at revision {changed}")]
    Conflict {
        /// The key.
        key: String,
        /// Revision of its last change; 0 if there is no such key.
        changed: u64,
    },
    /// Changes since then are no longer kept: read all and follow from there.
    #[error("changes before revision {0} are no longer kept: read again")]
    Compacted(u64),
    /// Correct the key or the value.
    #[error("{key:?} cannot be written: {problem}")]
    Invalid {
        /// The key.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// The node's lease ran out: register it again first.
    #[error("node {0} is not listed: register it again")]
    NotListed(Incarnation),
    /// Delete keys or raise the limit.
    #[error("{0} keys are held already: raise keys_max")]
    Full(usize),
}

/// Keys with revisions, owners and a history: what locks, elections, names and settings are made
/// of. Pure.
#[derive(Debug)]
pub(crate) struct Keys {
    options: KeyOptions,
    revision: u64,
    keys: BTreeMap<Arc<str>, Key>,
    history: VecDeque<Change>,
}

impl Keys {
    pub(crate) fn new(options: KeyOptions) -> Self {
        Keys { options, revision: 0, keys: BTreeMap::new(), history: VecDeque::new() }
    }

    /// Revision of the last change; 0 before the first.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Key> {
        self.keys.get(key)
    }

    /// All keys that begin with `prefix`, in order.
    pub(crate) fn range(&self, prefix: &str) -> impl Iterator<Item = (&Arc<str>, &Key)> {
        let from = self
            .keys
            .range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        from.take_while(move |(key, _)| key.starts_with(prefix))
    }

    pub(crate) fn put(
        &mut self,
        key: &str,
        value: Arc<[u8]>,
        owner: Option<Incarnation>,
        expect: Expect,
    ) -> Result<u64, KeyError> {
        let invalid = |problem: &str| {
            Err(KeyError::Invalid { key: key.to_owned(), problem: problem.to_owned() })
        };
        if key.is_empty() || key.len() > KEY_BYTES_MAX || key.chars().any(char::is_control) {
            return invalid("a key is 1 to 256 bytes without control characters");
        }
        if value.len() > self.options.value_bytes_max {
            return invalid(&format!("the value is over {} bytes", self.options.value_bytes_max));
        }
        self.check(key, expect)?;
        let before = self.keys.get(key);
        if before.is_none() && self.keys.len() >= self.options.keys_max {
            return Err(KeyError::Full(self.keys.len()));
        }
        self.revision += 1;
        let created = before.map_or(self.revision, |before| before.created);
        let now = Key { value, created, changed: self.revision, owner };
        let key: Arc<str> = key.into();
        self.keys.insert(key.clone(), now.clone());
        self.note(key, Some(now));
        Ok(self.revision)
    }

    /// Whether there was such a key.
    pub(crate) fn delete(&mut self, key: &str, expect: Expect) -> Result<bool, KeyError> {
        self.check(key, expect)?;
        let Some((key, _)) = self.keys.remove_entry(key) else { return Ok(false) };
        self.revision += 1;
        self.note(key, None);
        Ok(true)
    }

    /// Deletes the keys of a node that is gone.
    pub(crate) fn end_owner(&mut self, node: Incarnation) {
        let owned = self.keys.iter().filter(|(_, key)| key.owner == Some(node));
        let owned: Vec<Arc<str>> = owned.map(|(key, _)| key.clone()).collect();
        for key in owned {
            let _ = self.delete(&key, Expect::Any);
        }
    }

    /// The changes after `revision` to keys that begin with `prefix`, in order.
    pub(crate) fn changes_after(
        &self,
        revision: u64,
        prefix: &str,
    ) -> Result<Vec<Change>, KeyError> {
        let oldest = self.history.front().map_or(self.revision + 1, |change| change.revision);
        if revision + 1 < oldest {
            return Err(KeyError::Compacted(oldest));
        }
        let newer = self.history.iter().filter(|change| change.revision > revision);
        Ok(newer.filter(|change| change.key.starts_with(prefix)).cloned().collect())
    }

    fn check(&self, key: &str, expect: Expect) -> Result<(), KeyError> {
        let changed = self.keys.get(key).map_or(0, |key| key.changed);
        let is_met = match expect {
            Expect::Any => true,
            Expect::Absent => changed == 0,
            Expect::Changed(revision) => changed == revision,
        };
        if is_met { Ok(()) } else { Err(KeyError::Conflict { key: key.to_owned(), changed }) }
    }

    fn note(&mut self, key: Arc<str>, now: Option<Key>) {
        if self.history.len() >= self.options.history_max {
            self.history.pop_front();
        }
        self.history.push_back(Change { revision: self.revision, key, now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        let options = KeyOptions { keys_max: 3, value_bytes_max: 8, history_max: 4 };
        Keys::new(options)
    }

    fn put(keys: &mut Keys, key: &str, value: &str, expect: Expect) -> Result<u64, KeyError> {
        keys.put(key, value.as_bytes().into(), None, expect)
    }

    #[test]
    fn of_two_writers_one_wins() {
        let mut keys = keys();
        assert_eq!(put(&mut keys, "a", "1", Expect::Absent), Ok(1));
        let error = put(&mut keys, "a", "2", Expect::Absent).unwrap_err();
        assert_eq!(error, KeyError::Conflict { key: "a".into(), changed: 1 });
        assert_eq!(put(&mut keys, "a", "2", Expect::Changed(1)), Ok(2));
        assert!(put(&mut keys, "a", "3", Expect::Changed(1)).is_err());
        assert_eq!(keys.get("a").map(|key| (key.created, key.changed)), Some((1, 2)));
        assert!(keys.delete("a", Expect::Changed(1)).is_err());
        assert_eq!(keys.delete("a", Expect::Changed(2)), Ok(true));
        assert_eq!(keys.delete("a", Expect::Any), Ok(false));
        // Made anew it has a higher number than all before.
        assert_eq!(put(&mut keys, "a", "4", Expect::Absent), Ok(4));
        assert_eq!(keys.get("a").unwrap().created, 4);
    }

    #[test]
    fn who_follows_misses_nothing_or_is_told_to_read_again() {
        let mut keys = keys();
        for n in 1..=3 {
            put(&mut keys, "a/x", &n.to_string(), Expect::Any).unwrap();
        }
        put(&mut keys, "b", "", Expect::Any).unwrap();
        let revisions =
            |changes: Vec<Change>| changes.iter().map(|change| change.revision).collect::<Vec<_>>();
        assert_eq!(keys.changes_after(1, "a/").map(revisions), Ok(vec![2, 3]));
        assert_eq!(keys.changes_after(4, "").map(revisions), Ok(vec![]));
        keys.delete("a/x", Expect::Any).unwrap();
        assert_eq!(keys.changes_after(0, ""), Err(KeyError::Compacted(2)));
        let last = keys.changes_after(4, "").unwrap().pop().unwrap();
        assert_eq!((&*last.key, last.now), ("a/x", None));
        let all: Vec<_> = keys.range("").map(|(key, _)| key.to_string()).collect();
        assert_eq!(all, ["b"]);
    }

    #[test]
    fn limits_are_kept() {
        let mut keys = keys();
        assert!(put(&mut keys, "", "", Expect::Any).is_err());
        assert!(put(&mut keys, &"k".repeat(257), "", Expect::Any).is_err());
        assert!(put(&mut keys, "a\n", "", Expect::Any).is_err());
        assert!(put(&mut keys, "a", "123456789", Expect::Any).is_err());
        for key in ["a", "b", "c"] {
            put(&mut keys, key, "", Expect::Any).unwrap();
        }
        assert_eq!(put(&mut keys, "d", "", Expect::Any), Err(KeyError::Full(3)));
        put(&mut keys, "c", "again", Expect::Any).unwrap();
    }
}
