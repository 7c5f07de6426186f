//! Locks of the coordinator, and the guard in the store that refuses who had one before.

use std::future::poll_fn;
use std::time::Duration;

use cluster::{Contest, KeyError, Lost};
use macros::Document;

use super::records::{Batch, RecordError, id_of};
use crate::cx::Cx;
use crate::entity::Entity;

/// The greatest number under which something was written for a lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Document)]
#[document(root = crate::rt, record = "mainstay.fence", key = String)]
pub(crate) struct Fence {
    #[persist]
    number: u64,
}

/// Why there is no lock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Others had it all the time: try later.
    #[error("{name} is still held by another after {waited:?}")]
    Held {
        /// The lock.
        name: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The node's lease has ended meanwhile, or a later life of it took over: try later.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// The coordinator refuses, or there is none.
    #[error(transparent)]
    Refused(#[from] KeyError),
}

impl<E: Entity> Cx<E> {
    /// Has the lock `name` to itself, among all of the cluster, waiting at most `wait` for others to drop theirs. It
    /// is given back when what this gives is dropped, and lost with the node's lease. Because one that was lost may not be
    /// known to be so yet, what is done under it is shown to be so: [`fenced`](Self::fenced).
    ///
    /// # Errors
    ///
    /// See [`LockError`].
    pub async fn lock(&self, name: &str, wait: Duration) -> Result<Contest, LockError> {
        let cluster = self.hub().router.cluster().ok_or(KeyError::Unavailable)?;
        let contest = cluster.contend(name, self.hub().me.node)?;
        match self.timeout(wait, poll_fn(|context| contest.poll_won(context))).await {
            Ok(won) => won.map(|_| contest).map_err(LockError::from),
            Err(_) => Err(LockError::Held { name: name.to_owned(), waited: wait }),
        }
    }

    /// Adds to a batch that it is written by the holder of the lock `name`, whose number is `fence`
    /// ([`Contest::fence`]): nothing of it is written once a later holder has written something so. The batch is for
    /// records of the default store, in one shard.
    ///
    /// # Errors
    ///
    /// [`RecordError::LockLost`] if a later holder has; writing the batch gives
    /// [`RecordError::Conflict`] if one does so in between.
    pub async fn fenced(&self, name: &str, fence: u64, batch: Batch) -> Result<Batch, RecordError> {
        let key = name.to_owned();
        let mut seen = self.draft_record::<Fence>(&key).await?;
        if seen.number > fence {
            return Err(RecordError::LockLost(id_of::<Fence>(&key)));
        }
        if seen.number < fence {
            seen.number = fence;
        }
        // Also if it stays as it is: nobody may have raised it meanwhile.
        Ok(batch.put(seen))
    }
}
