//! Copies of entities for those who only look at them.

mod far;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use self::far::{Far, Redis};
use crate::answer::{Answer, Sender, channel};
use crate::error::{Error, OpenError};
use crate::store::Store;
use crate::types::{Entity, Key};

/// How a [`Cache`] works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheOptions {
    /// How long after it was read from the store something may still be answered.
    pub age_max: Duration,
    /// Copies in this process; beyond, the oldest go.
    pub entries_max: usize,
    /// Callers that may wait; one more is [`Busy`](Error::Busy).
    pub waiting_max: usize,
    /// How long the shared cache may take to answer before the store is asked.
    pub reply_wait: Duration,
    /// How long it is left alone after it failed.
    pub pause: Duration,
    /// What the keys in Redis begin with. Shards differ in it.
    pub prefix: String,
}

impl Default for CacheOptions {
    fn default() -> Self {
        CacheOptions {
            age_max: Duration::from_secs(2),
            entries_max: 100_000,
            waiting_max: 65_536,
            reply_wait: Duration::from_millis(250),
            pause: Duration::from_secs(1),
            prefix: "mainstay:cache:0".to_owned(),
        }
    }
}

/// How often what was found where.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct CacheCounts {
    /// In this process, also by waiting for somebody who asked before.
    pub near: u64,
    /// In Redis.
    pub far: u64,
    /// In the store.
    pub store: u64,
    /// Times that Redis was asked in vain because it was away.
    pub away: u64,
}

/// Copies of entities: near ones in this process, and far ones in Redis, which many processes share.
///
/// For looking at what others own. It decides nothing and owners never load from it, so a cache that is away, empty or
/// wiped only makes reading slower. What it answers was true at most `age_max` ago; the age of far copies is taken by
/// Redis' clock alone, so the bound holds as long as that clock is not set back. A cheap clone.
#[derive(Clone)]
pub struct Cache {
    shared: Arc<Shared>,
    asked: mpsc::Sender<Ask>,
}

enum Ask {
    Load(Key),
    Remove(Key),
}

struct Shared {
    options: CacheOptions,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<Key, Entry>,
    /// In the order in which they came, with those that were replaced meanwhile.
    order: VecDeque<(Key, Instant)>,
    waiting: usize,
    counts: CacheCounts,
}

type Loaded = Option<Arc<Entity>>;

enum Entry {
    /// Somebody asked for it; all who come meanwhile wait for the same answer.
    Loading {
        waiting: Vec<Sender<Loaded>>,
        changed: bool,
    },
    Ready {
        entity: Loaded,
        until: Instant,
    },
}

impl Cache {
    /// Copies in this process, and in the Redis at `url` (`redis://host:port/database`).
    ///
    /// Redis need not be there, nor keep anything: `maxmemory-policy allkeys-lru` without persistence is right for it.
    pub fn redis(store: Store, url: &str, options: CacheOptions) -> Result<Self, OpenError> {
        let shared = Shared::new(options);
        let heard = {
            let shared = Arc::clone(&shared);
            Arc::new(move |key| shared.forget(key))
        };
        let redis = Redis::new(url, &shared.options, heard)?;
        Self::start(store, Some(redis), shared)
    }

    /// Copies in this process alone.
    pub fn near(store: Store, options: CacheOptions) -> Result<Self, OpenError> {
        Self::start(store, None, Shared::new(options))
    }

    fn start(store: Store, redis: Option<Redis>, shared: Arc<Shared>) -> Result<Self, OpenError> {
        let (asked, asks) = mpsc::channel(shared.options.waiting_max.max(1));
        let io = |source| OpenError::Io { path: "thread of the cache".to_owned(), source };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
        let serving = serve(Arc::clone(&shared), store, redis, asks);
        let thread = std::thread::Builder::new().name("cache".to_owned());
        // It ends when the last handle is dropped.
        thread.spawn(move || runtime.block_on(serving)).map_err(io)?;
        Ok(Cache { shared, asked })
    }

    /// An entity as it was at most `age_max` ago; `None` if it was not there.
    ///
    /// Many who ask for the same at once cause one reading. Errors: as [`Store::load`], and [`Error::Busy`].
    pub fn load(&self, key: Key) -> Answer<Option<Arc<Entity>>> {
        let (sender, answer) = channel();
        let mut state = self.shared.lock();
        let is_full = state.waiting >= self.shared.options.waiting_max;
        match state.entries.get_mut(&key) {
            Some(Entry::Ready { entity, until }) if Instant::now() < *until => {
                let entity = entity.clone();
                state.counts.near += 1;
                drop(state);
                sender.send(Ok(entity));
                return answer;
            }
            _ if is_full => {
                drop(state);
                sender.send(Err(Error::Busy));
                return answer;
            }
            Some(Entry::Loading { waiting, .. }) => {
                waiting.push(sender);
                state.waiting += 1;
                state.counts.near += 1;
                return answer;
            }
            _ => {}
        }
        state.entries.insert(key, Entry::Loading { waiting: vec![sender], changed: false });
        state.waiting += 1;
        drop(state);
        if self.asked.try_send(Ask::Load(key)).is_err() {
            self.shared.finish(key, Err(Error::Busy), Instant::now());
        }
        answer
    }

    /// Forgets the copies of an entity that has changed, here and in Redis, which tells the other processes. So the next
    /// reading sees it sooner; where word of it is lost, copies end by their age.
    pub fn forget(&self, key: Key) {
        self.shared.forget(Some(key));
        // Too much to do: the copy in Redis ends by its age.
        let _ = self.asked.try_send(Ask::Remove(key));
    }

    /// How often what was found where.
    pub fn counts(&self) -> CacheCounts {
        self.shared.lock().counts
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Shared {
    fn new(options: CacheOptions) -> Arc<Self> {
        Arc::new(Shared { options, state: Mutex::default() })
    }

    /// Keeps no copy of an entity, or of any, that was read before now.
    fn forget(&self, key: Option<Key>) {
        let mut state = self.lock();
        match key {
            Some(key) => {
                if let Some(entry) = state.entries.get_mut(&key)
                    && !entry.is_loading_anew()
                {
                    state.entries.remove(&key);
                }
            }
            None => state.entries.retain(|_, entry| entry.is_loading_anew()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers all who wait, and keeps what was found until then, unless it has changed meanwhile; whether it has not.
    fn finish(&self, key: Key, result: Result<Loaded, Error>, until: Instant) -> bool {
        let mut state = self.lock();
        let (waiting, changed) = match state.entries.remove(&key) {
            Some(Entry::Loading { waiting, changed }) => (waiting, changed),
            _ => (Vec::new(), true),
        };
        state.waiting -= waiting.len();
        if let Ok(entity) = &result
            && !changed
        {
            state.entries.insert(key, Entry::Ready { entity: entity.clone(), until });
            state.order.push_back((key, until));
        }
        while state.order.len() > self.options.entries_max {
            let Some((old, until)) = state.order.pop_front() else { break };
            let is_that =
                |entry: &Entry| matches!(entry, Entry::Ready { until: its, .. } if *its == until);
            if state.entries.get(&old).is_some_and(is_that) {
                state.entries.remove(&old);
            }
        }
        drop(state);
        for sender in waiting {
            sender.send(result.clone());
        }
        !changed
    }
}

impl Entry {
    /// Whether somebody waits for it, who is told then that it has changed.
    fn is_loading_anew(&mut self) -> bool {
        match self {
            Entry::Loading { changed, .. } => {
                *changed = true;
                true
            }
            Entry::Ready { .. } => false,
        }
    }
}

async fn serve(
    shared: Arc<Shared>,
    store: Store,
    redis: Option<Redis>,
    mut asks: mpsc::Receiver<Ask>,
) {
    while let Some(ask) = asks.recv().await {
        let (shared, store, redis) = (Arc::clone(&shared), store.clone(), redis.clone());
        tokio::spawn(async move {
            match (ask, redis) {
                (Ask::Load(key), redis) => load(&shared, &store, redis, key).await,
                (Ask::Remove(key), Some(redis)) => redis.remove(key).await,
                (Ask::Remove(_), None) => {}
            }
        });
    }
}

async fn load(shared: &Shared, store: &Store, redis: Option<Redis>, key: Key) {
    let mut since = None;
    if let Some(redis) = &redis {
        match redis.get(key).await {
            Far::Hit(entity, until) => {
                shared.lock().counts.far += 1;
                shared.finish(key, Ok(entity.map(Arc::new)), until);
                return;
            }
            Far::Miss(found) => since = Some(found),
            Far::Away => shared.lock().counts.away += 1,
        }
    }
    shared.lock().counts.store += 1;
    let until = Instant::now() + shared.options.age_max;
    let result = store.load(key).await.map(|entity| entity.map(Arc::new));
    let unchanged = shared.finish(key, result.clone(), until);
    if !unchanged {
        return;
    }
    if let (Ok(entity), Some(redis), Some(since)) = (result, redis, since) {
        redis.put(key, entity.as_deref(), since).await;
    }
}
