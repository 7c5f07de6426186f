use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{Change, Cluster, Key};

/// Follows the keys that begin with a prefix, for ever and without gap: whatever became of the
/// coordinator and however late this is asked, what [`take`](Self::take) gave adds up to what
/// there is. Several changes of one key may come as one.
#[derive(Debug)]
pub struct Watch {
    cluster: Cluster,
    prefix: String,
    /// Up to where; `None` before the first look.
    revision: Option<u64>,
    /// What was given, by the revision of its last change.
    given: BTreeMap<Arc<str>, u64>,
}

impl Cluster {
    /// Follows the keys that begin with `prefix`. The first changes are the keys there are.
    /// [`on_change`](Self::on_change) tells of news.
    pub fn watch(&self, prefix: &str) -> Watch {
        let given = BTreeMap::new();
        Watch { cluster: self.clone(), prefix: prefix.to_owned(), revision: None, given }
    }
}

impl Watch {
    /// What changed since this was last asked, in order. A value that a check of this process
    /// refuses is passed over, and the old one stays.
    pub fn take(&mut self) -> Vec<Change> {
        let known = self.revision.map(|from| self.cluster.changes_after(from, &self.prefix));
        let changes = match known {
            Some(Ok(changes)) => changes,
            None | Some(Err(_)) => self.reload(),
        };
        let last = changes.last().map(|change| change.revision);
        self.revision = self.revision.max(last);
        changes.into_iter().filter(|change| self.accept(change)).collect()
    }

    fn reload(&mut self) -> Vec<Change> {
        let (all, revision) = self.cluster.range(&self.prefix);
        let all: BTreeMap<Arc<str>, Key> = all.into_iter().collect();
        let gone = self.given.keys().filter(|key| !all.contains_key(*key));
        let gone = gone.map(|key| Change { revision, key: key.clone(), now: None });
        let news = all.iter().filter(|(key, now)| self.given.get(*key) != Some(&now.changed));
        let news = news.map(|(key, now)| Change {
            revision: now.changed,
            key: key.clone(),
            now: Some(now.clone()),
        });
        let mut changes: Vec<Change> = news.chain(gone).collect();
        changes.sort_by_key(|change| change.revision);
        self.revision = Some(revision);
        changes
    }

    fn accept(&mut self, change: &Change) -> bool {
        let Some(now) = &change.now else { return self.given.remove(&change.key).is_some() };
        if let Err(problem) = self.cluster.shared.judge(&change.key, &now.value) {
            tracing::error!(key = %change.key, problem, "a value is refused, the old one stays");
            return false;
        }
        self.given.insert(change.key.clone(), now.changed);
        true
    }
}
