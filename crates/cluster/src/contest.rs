use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use proto::Incarnation;

use crate::keys::Keys;
use crate::{Cluster, Expect, Key, KeyError};

/// Where contests keep their keys: `contest/NAME/NODE/NUMBER`.
pub(crate) const PREFIX: &str = "contest/";

pub(crate) const RESERVED: &str = "keys under contest/ are written by contests only";

/// A place in the line for something that one holder may have: a lock, a leadership.
///
/// Who is first in line holds it. The place is given up by dropping this, and lost with the
/// node's lease. A holder cannot know that it was not cut off a moment ago: what it does goes
/// under its [`fence`](Self::fence), and who it does it to refuses lower numbers than it has seen.
#[derive(Debug)]
pub struct Contest {
    cluster: Cluster,
    name: String,
    key: String,
    created: u64,
}

/// The place in the line is lost: the node's lease ended, or a later life of it took over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the place in the line is lost: contend again")]
pub struct Lost;

impl Cluster {
    /// Gets in line for `name`, which may not have a slash. A node's earlier lives leave the line.
    ///
    /// # Errors
    ///
    /// `NotListed` if the node's lease does not stand; `Invalid` for a bad name.
    pub fn contend(&self, name: &str, node: Incarnation) -> Result<Contest, KeyError> {
        if name.is_empty() || name.contains('/') {
            let problem = "a contest's name is not empty and has no slash".to_owned();
            return Err(KeyError::Invalid { key: name.to_owned(), problem });
        }
        let (key, created) = self.change(|state| {
            let directory = state.registry.directory();
            let info = directory.node(node).ok_or(KeyError::NotListed(node))?;
            let own = format!("{PREFIX}{name}/{}/", info.name);
            let former = state.keys.range(&own).filter(|(_, key)| key.owner != Some(node));
            let former: Vec<Arc<str>> = former.map(|(key, _)| key.clone()).collect();
            for key in former {
                state.keys.delete(&key, Expect::Any)?;
            }
            let key = format!("{own}{}", state.keys.revision() + 1);
            let created = state.keys.put(&key, [].into(), Some(node), Expect::Absent)?;
            Ok((key, created))
        })?;
        Ok(Contest { cluster: self.clone(), name: name.to_owned(), key, created })
    }

    /// Who holds `name` now, and the fencing number.
    pub fn holder(&self, name: &str) -> Option<(Incarnation, u64)> {
        let state = self.lock();
        let (_, first) = first(&state.keys, name)?;
        Some((first.owner?, first.created))
    }

    /// Whether `fence` is that of the holder of `name`.
    pub fn is_current(&self, name: &str, fence: u64) -> bool {
        self.holder(name).is_some_and(|(_, current)| current == fence)
    }
}

impl Contest {
    /// The fencing number if this is the holder. Numbers of later holders are higher.
    pub fn fence(&self) -> Option<u64> {
        self.cluster.is_current(&self.name, self.created).then_some(self.created)
    }

    /// As [`fence`](Self::fence); the waker of `cx` hears when this is first in line or lost.
    /// Nobody else in the line is woken then.
    pub fn poll_won(&self, cx: &mut Context<'_>) -> Poll<Result<u64, Lost>> {
        let mut state = self.cluster.lock();
        if state.keys.get(&self.key).is_none_or(|key| key.created != self.created) {
            return Poll::Ready(Err(Lost));
        }
        if first(&state.keys, &self.name).is_some_and(|(key, _)| **key == *self.key) {
            return Poll::Ready(Ok(self.created));
        }
        state.contests.waiting.insert(self.key.as_str().into(), cx.waker().clone());
        Poll::Pending
    }

    /// Waits until this is first in line; gives the fencing number.
    ///
    /// # Errors
    ///
    /// [`Lost`]: contend again.
    pub async fn won(&self) -> Result<u64, Lost> {
        poll_fn(|cx| self.poll_won(cx)).await
    }
}

impl Drop for Contest {
    fn drop(&mut self) {
        let created = self.created;
        self.cluster.change(|state| {
            state.contests.waiting.remove(self.key.as_str());
            if state.keys.get(&self.key).is_some_and(|key| key.created == created) {
                let _ = state.keys.delete(&self.key, Expect::Any);
            }
        });
    }
}

/// The first in line for `name`.
fn first<'k>(keys: &'k Keys, name: &str) -> Option<(&'k Arc<str>, &'k Key)> {
    keys.range(&format!("{PREFIX}{name}/")).min_by_key(|(_, key)| key.created)
}

/// Who waits for a place in a line to become the first.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    waiting: BTreeMap<Arc<str>, Waker>,
}

impl Waiters {
    /// Takes out the wakers of those who became first or were removed after revision `before`.
    pub(crate) fn after_change(&mut self, keys: &Keys, before: u64) -> Vec<Waker> {
        if self.waiting.is_empty() || keys.revision() == before {
            return Vec::new();
        }
        let is_due = |key: &str| {
            let name = key.strip_prefix(PREFIX).and_then(|rest| rest.split('/').next());
            let first = name.and_then(|name| first(keys, name));
            keys.get(key).is_none() || first.is_some_and(|(first, _)| **first == *key)
        };
        self.waiting.extract_if(.., |key, _| is_due(key)).map(|(_, waker)| waker).collect()
    }
}
