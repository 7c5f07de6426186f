use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use env::Instant;
use proto::Incarnation;

use crate::attached::Place;
use crate::keys::Keys;
use crate::shared::State;
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
    key: Arc<str>,
    node: Incarnation,
    /// The revision that made the key, if the coordinator is in this process.
    created: Option<u64>,
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
        let (key, created) = self.change(|state| match state.attached.is_some() {
            true => Ok((ask(state, name, node)?, None)),
            false => enter(state, name, node).map(|(key, created)| (key, Some(created))),
        })?;
        if let Some(driver) = &self.shared.driver {
            driver.wake();
        }
        Ok(Contest { cluster: self.clone(), name: name.to_owned(), key, node, created })
    }

    /// Who holds `name` as far as this process knows, and the fencing number.
    pub fn holder(&self, name: &str) -> Option<(Incarnation, u64)> {
        let state = self.lock();
        let (_, first) = first(&state.keys, name)?;
        Some((first.owner?, first.created))
    }

    /// Whether `fence` is that of the holder of `name` as far as this process knows. Whoever
    /// guards something valuable also remembers the greatest number it has seen.
    pub fn is_current(&self, name: &str, fence: u64) -> bool {
        self.holder(name).is_some_and(|(_, current)| current == fence)
    }
}

impl Contest {
    /// The fencing number if this is the holder. Numbers of later holders are higher. `None` also
    /// while nobody has confirmed the node's lease for the time of a lease.
    pub fn fence(&self) -> Option<u64> {
        match self.standing(&self.cluster.lock()) {
            Standing::First(fence) => Some(fence),
            Standing::Waiting | Standing::Lost => None,
        }
    }

    /// As [`fence`](Self::fence); the waker of `cx` hears when this is first in line or lost.
    /// Nobody else in the line is woken then.
    pub fn poll_won(&self, cx: &mut Context<'_>) -> Poll<Result<u64, Lost>> {
        let mut state = self.cluster.lock();
        match self.standing(&state) {
            Standing::Lost => Poll::Ready(Err(Lost)),
            Standing::First(fence) => Poll::Ready(Ok(fence)),
            Standing::Waiting => {
                state.contests.waiting.insert(self.key.clone(), cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn standing(&self, state: &State) -> Standing {
        let created = match (self.created, &state.attached) {
            (Some(created), _) => created,
            (None, Some(attached)) => match attached.place(&self.key) {
                Place::Made(created) if created <= state.keys.revision() => created,
                Place::Made(_) | Place::Asked => return Standing::Waiting,
                Place::Lost => return Standing::Lost,
            },
            (None, None) => return Standing::Lost,
        };
        if state.keys.get(&self.key).is_none_or(|key| key.created != created) {
            return Standing::Lost;
        }
        let is_first = first(&state.keys, &self.name).is_some_and(|(key, _)| *key == self.key);
        let now = self.cluster.shared.driver.as_ref().map_or(Instant::ZERO, |d| d.clock.now());
        let is_sure = |attached: &crate::attached::Attached| attached.is_sure(now, self.node);
        if is_first && state.attached.as_ref().is_none_or(is_sure) {
            Standing::First(created)
        } else {
            Standing::Waiting
        }
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
        self.cluster.change(|state| {
            state.contests.waiting.remove(&self.key);
            if let Some(attached) = &mut state.attached {
                attached.leave(&self.key);
            } else if state.keys.get(&self.key).map(|key| key.created) == self.created {
                let _ = state.keys.delete(&self.key, Expect::Any);
            }
        });
        if let Some(driver) = &self.cluster.shared.driver {
            driver.wake();
        }
    }
}

/// How a place in a line stands.
enum Standing {
    First(u64),
    Waiting,
    Lost,
}

/// Gets in line at a coordinator elsewhere.
fn ask(state: &mut State, name: &str, node: Incarnation) -> Result<Arc<str>, KeyError> {
    let attached = state.attached.as_mut().filter(|attached| attached.has(node));
    let attached = attached.ok_or(KeyError::NotListed(node))?;
    let own = format!("{PREFIX}{name}/{}/", attached.name_of(node).unwrap_or_default());
    let key: Arc<str> = format!("{own}{node}-{}", attached.next_place()).into();
    attached.contend(node, own, &key);
    Ok(key)
}

/// Gets in line at the coordinator of this process.
fn enter(state: &mut State, name: &str, node: Incarnation) -> Result<(Arc<str>, u64), KeyError> {
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
    Ok((key.into(), created))
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
    /// Takes out all wakers.
    pub(crate) fn take_all(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.waiting).into_values().collect()
    }

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
