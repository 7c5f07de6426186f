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
    /// Nothing was done: wait for the coordinator, then retry.
    #[error("the coordinator is not there: nothing was written")]
    Unavailable,
    /// It may have been done, or be done yet: read, then write on with `Expect::Changed`, which
    /// keeps a late first attempt from undoing what came after it.
    #[error("the coordinator went away before it answered: the outcome is unknown")]
    Unknown,
}

/// Keys with revisions, owners and a history: what locks, elections, names and settings are made
/// of. Pure.
#[derive(Debug)]
pub(crate) struct Keys {
    options: KeyOptions,
    revision: u64,
    keys: BTreeMap<Arc<str>, Key>,
    history: VecDeque<Change>,
    /// All changes after this revision are in the history.
    kept_after: u64,
}

/// Keys under which nodes are listed where the coordinator is not in this process.
pub(crate) const NODE_PREFIX: &str = "node/";

/// The longest listing of a node, in bytes: it says what all its kinds declare.
const NODE_BYTES_MAX: usize = 1 << 20;

/// Whether changes under an owner are the coordinator's own business.
pub(crate) fn reserved(key: &str) -> Option<&'static str> {
    let contest = key.starts_with(crate::contest::PREFIX).then_some(crate::contest::RESERVED);
    contest.or_else(|| {
        key.starts_with(NODE_PREFIX).then_some("keys under node/ are written by registering only")
    })
}

impl Keys {
    pub(crate) fn new(options: KeyOptions) -> Self {
        Self::load(options, 0, [])
    }

    /// Keys as they were at `revision`.
    pub(crate) fn load(
        options: KeyOptions,
        revision: u64,
        keys: impl IntoIterator<Item = (Arc<str>, Key)>,
    ) -> Self {
        let keys = keys.into_iter().collect();
        Keys { options, revision, keys, history: VecDeque::new(), kept_after: revision }
    }

    /// Forgets the history up to now.
    pub(crate) fn forget(&mut self) {
        self.history.clear();
        self.kept_after = self.revision;
    }

    /// Begins to count above `revision`.
    pub(crate) fn raise(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    /// Becomes what somebody else has at `revision`: what differs is noted as changes, several of
    /// one key as one.
    pub(crate) fn replace(&mut self, revision: u64, now: Vec<(Arc<str>, Key)>) {
        let now: BTreeMap<Arc<str>, Key> = now.into_iter().collect();
        let mut changes = Vec::new();
        for (key, was) in &self.keys {
            if now.get(key).is_none_or(|now| now.created != was.created) {
                changes.push(Change { revision: 0, key: key.clone(), now: None });
            }
        }
        let news = now.iter().filter(|(key, now)| self.keys.get(*key) != Some(*now));
        changes.extend(news.map(|(key, now)| Change {
            revision: 0,
            key: key.clone(),
            now: Some(now.clone()),
        }));
        self.keys = now;
        self.revision = self.revision.max(revision);
        for change in changes {
            self.remember(Change { revision: self.revision, ..change });
        }
    }

    /// Whether keys as somebody else has them cannot follow from what is known here: history was
    /// lost or changed there.
    #[cfg(feature = "etcd")]
    pub(crate) fn contradict(&self, revision: u64, now: &[(Arc<str>, Key)]) -> bool {
        let known = |(key, now): &(Arc<str>, Key)| {
            now.changed > self.revision || self.keys.get(key) == Some(now)
        };
        revision < self.revision || (self.revision > 0 && !now.iter().all(known))
    }

    /// Takes over changes that somebody else made; those already known are passed over.
    pub(crate) fn apply(&mut self, changes: Vec<Change>) {
        let known = self.revision;
        for change in changes.into_iter().filter(|change| change.revision > known) {
            match &change.now {
                Some(now) => drop(self.keys.insert(change.key.clone(), now.clone())),
                None => drop(self.keys.remove(&change.key)),
            }
            self.revision = self.revision.max(change.revision);
            self.remember(change);
        }
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
        self.check_form(key, &value)?;
        self.check(key, expect)?;
        self.check_room(key)?;
        let before = self.keys.get(key);
        self.revision += 1;
        let created = before.map_or(self.revision, |before| before.created);
        let now = Key { value, created, changed: self.revision, owner };
        let key: Arc<str> = key.into();
        self.keys.insert(key.clone(), now.clone());
        self.note(key, Some(now));
        Ok(self.revision)
    }

    /// Whether key and value are what may be written at all.
    pub(crate) fn check_form(&self, key: &str, value: &[u8]) -> Result<(), KeyError> {
        let invalid = |problem: &str| {
            Err(KeyError::Invalid { key: key.to_owned(), problem: problem.to_owned() })
        };
        if key.is_empty() || key.len() > KEY_BYTES_MAX || key.chars().any(char::is_control) {
            return invalid("a key is 1 to 256 bytes without control characters");
        }
        let is_node = key.starts_with(NODE_PREFIX);
        let bytes_max = if is_node { NODE_BYTES_MAX } else { self.options.value_bytes_max };
        if value.len() > bytes_max {
            return invalid(&format!("the value is over {bytes_max} bytes"));
        }
        Ok(())
    }

    /// Whether one more key would be too much.
    pub(crate) fn check_room(&self, key: &str) -> Result<(), KeyError> {
        if !self.keys.contains_key(key) && self.keys.len() >= self.options.keys_max {
            return Err(KeyError::Full(self.keys.len()));
        }
        Ok(())
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
        if revision < self.kept_after {
            return Err(KeyError::Compacted(self.kept_after + 1));
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
        self.remember(Change { revision: self.revision, key, now });
    }

    fn remember(&mut self, change: Change) {
        if self.history.len() >= self.options.history_max
            && let Some(forgotten) = self.history.pop_front()
        {
            self.kept_after = forgotten.revision;
        }
        self.history.push_back(change);
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
