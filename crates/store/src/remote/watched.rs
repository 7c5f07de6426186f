//! The servers of one store as those who watch them see them, each by itself.

use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

use super::driver::{connect, runtime, within};
use super::options::ServerOptions;
use super::{CommitFailure, ConnectError, Failure, Link, Mode, Place, Server};
use crate::error::OpenError;
use crate::row;
use crate::rules;
use crate::tables::{Table, Writes};
use crate::watcher::{Failover, Seen};

/// Asks that may wait; a watcher asks each server once a second.
const ASKS_MAX: usize = 1_024;

/// A server of several that can be watched.
pub(crate) trait Watch: Server {
    /// A connection to one of them, whether it takes writes or not.
    type Line;

    /// Whether another server that takes writes has all that was acknowledged, always.
    const LOSES_NOTHING: bool = false;

    /// Which servers there are.
    fn list(&self) -> impl Future<Output = Result<Listed, String>>;

    /// Connects to one of them.
    fn line(&self, name: &str) -> impl Future<Output = Result<Self::Line, String>>;

    /// Asks it how it is.
    fn see(&self, line: &mut Self::Line) -> impl Future<Output = Result<Seen, String>>;

    /// Has `to` take writes in the place of `from`, or their manager choose another. Well done if it takes
    /// writes already.
    fn promote(&self, from: &str, to: &str) -> impl Future<Output = Result<(), String>>;
}

/// The servers of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listed {
    /// Their names, as `host:port`.
    pub names: Vec<String>,
    /// The one that their manager says takes writes, if they have a manager.
    pub primary: Option<String>,
}

/// What [`Servers`] are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAsk {
    /// Which there are.
    List,
    /// How one of them is. One that has not answered yet is not asked again.
    Look(String),
    /// Have another promoted.
    Promote(Failover),
    /// Raise the generation at the server that has taken over, unless that was done for this failover.
    Raise(Failover),
}

/// What [`Servers`] answer, or why they do not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerTold {
    /// Which there are.
    Listed(Result<Listed, String>),
    /// How one is.
    Seen(String, Result<Seen, String>),
    /// What became of a promotion.
    Promoted(Failover, Result<(), String>),
    /// The generation as it is now.
    Raised(Failover, Result<u64, String>),
}

/// The servers of one store, asked by a thread of their own. Dropping it ends what is under way.
pub struct Servers {
    asks: Option<mpsc::Sender<ServerAsk>>,
    thread: Option<JoinHandle<()>>,
}

/// Hears the answers.
type Tell = Box<dyn Fn(ServerTold)>;

impl Servers {
    /// Those of a PostgreSQL database; see [`Store::postgres`](crate::Store::postgres). `promote_wait` is how
    /// long a promotion may take. `tell` is called on the thread that asks.
    #[cfg(feature = "postgres")]
    pub fn postgres(
        url: &str,
        options: ServerOptions,
        promote_wait: Duration,
        tell: impl Fn(ServerTold) + Send + 'static,
    ) -> Result<Self, OpenError> {
        Self::start(super::Postgres::new(url, &options)?, (options, promote_wait), tell)
    }

    /// Those of a MariaDB or MySQL database; else as `Servers::postgres`.
    #[cfg(feature = "mysql")]
    pub fn mysql(
        url: &str,
        options: ServerOptions,
        promote_wait: Duration,
        tell: impl Fn(ServerTold) + Send + 'static,
    ) -> Result<Self, OpenError> {
        Self::start(super::Mysql::new(url, &options)?, (options, promote_wait), tell)
    }

    /// Those that Redis' sentinels know; else as `Servers::postgres`.
    #[cfg(feature = "redis")]
    pub fn redis(
        url: &str,
        options: ServerOptions,
        promote_wait: Duration,
        tell: impl Fn(ServerTold) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let server = super::Redis::new(url, &options, None)?.only_found();
        Self::start(server, (options, promote_wait), tell)
    }

    /// The members of a MongoDB replica set; else as `Servers::postgres`.
    #[cfg(feature = "mongodb")]
    pub fn mongodb(
        url: &str,
        options: ServerOptions,
        promote_wait: Duration,
        tell: impl Fn(ServerTold) + Send + 'static,
    ) -> Result<Self, OpenError> {
        Self::start(super::Mongodb::new(url, &options)?, (options, promote_wait), tell)
    }

    fn start<S: Watch>(
        server: S,
        (options, promote_wait): (ServerOptions, Duration),
        tell: impl Fn(ServerTold) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let shown = server.shown();
        let system = |source| OpenError::Io { path: shown.clone(), source };
        let own = runtime().map_err(system)?;
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let thread = std::thread::Builder::new().name("store watch".to_owned());
        let run = move || {
            let tell: Tell = Box::new(tell);
            let all = All { server: Arc::new(server), options, promote_wait, tell };
            LocalSet::new().block_on(&own, run(Rc::new(all), asked));
        };
        Ok(Servers { asks: Some(asks), thread: Some(thread.spawn(run).map_err(system)?) })
    }

    /// Asks something; what is too much is not asked.
    pub fn ask(&self, ask: ServerAsk) {
        if let Some(asks) = &self.asks {
            let _ = asks.try_send(ask);
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.asks.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What all tasks of the thread have.
struct All<S> {
    server: Arc<S>,
    options: ServerOptions,
    promote_wait: Duration,
    tell: Tell,
}

async fn run<S: Watch>(all: Rc<All<S>>, mut asked: mpsc::Receiver<ServerAsk>) {
    // Each server is asked by a task of its own, so that one that hangs holds up no other.
    let mut looks: BTreeMap<String, mpsc::Sender<()>> = BTreeMap::new();
    let (listing, lists) = mpsc::channel(1);
    spawn_local(list(Rc::clone(&all), lists));
    while let Some(ask) = asked.recv().await {
        match ask {
            ServerAsk::List => drop(listing.try_send(())),
            ServerAsk::Look(name) => {
                let look = looks.entry(name).or_insert_with_key(|name| {
                    let (look, looks) = mpsc::channel(1);
                    spawn_local(watch(Rc::clone(&all), name.clone(), looks));
                    look
                });
                let _ = look.try_send(());
            }
            ServerAsk::Promote(failover) => {
                let all = Rc::clone(&all);
                spawn_local(async move {
                    let asked = all.server.promote(&failover.from, &failover.to);
                    let late = |_| Err(format!("not within {:?}", all.promote_wait));
                    let done = timeout(all.promote_wait, asked).await.unwrap_or_else(late);
                    (all.tell)(ServerTold::Promoted(failover, done));
                });
            }
            ServerAsk::Raise(failover) => {
                let all = Rc::clone(&all);
                spawn_local(async move {
                    let done = match S::LOSES_NOTHING {
                        true => Ok(0),
                        false => raise(&*all.server, &all.options, &failover).await,
                    };
                    (all.tell)(ServerTold::Raised(failover, done));
                });
            }
        }
    }
}

async fn list<S: Watch>(all: Rc<All<S>>, mut lists: mpsc::Receiver<()>) {
    while lists.recv().await.is_some() {
        let late = |_| Err(format!("no answer within {:?}", all.options.reply_wait));
        let asked = timeout(all.options.reply_wait, all.server.list()).await;
        (all.tell)(ServerTold::Listed(asked.unwrap_or_else(late)));
    }
}

/// Asks one server again and again over one connection, if that holds.
async fn watch<S: Watch>(all: Rc<All<S>>, name: String, mut looks: mpsc::Receiver<()>) {
    let mut line = None;
    while looks.recv().await.is_some() {
        let look = async {
            let mut own = match line.take() {
                Some(own) => own,
                None => all.server.line(&name).await?,
            };
            let seen = all.server.see(&mut own).await?;
            Ok((own, seen))
        };
        let late = |_| Err(format!("no answer within {:?}", all.options.reply_wait));
        let seen = match timeout(all.options.reply_wait, look).await.unwrap_or_else(late) {
            Ok((own, seen)) => {
                line = Some(own);
                Ok(seen)
            }
            Err(reason) => Err(reason),
        };
        (all.tell)(ServerTold::Seen(name.clone(), seen));
    }
}

/// Ends all claims from before a failover, once: the same commit writes a row that names it.
async fn raise<S: Server>(
    server: &S,
    options: &ServerOptions,
    failover: &Failover,
) -> Result<u64, String> {
    let names = server.names();
    let host = names.iter().position(|name| *name == failover.to).unwrap_or(0);
    let mut link = connect(server, options, host).await.map_err(|error| match error {
        ConnectError::Away(reason) => reason,
        ConnectError::Refused(error) => error.to_string(),
    })?;
    let place = link.place().or_else(|| names.get(host).cloned());
    if place.as_ref().is_some_and(|place| *place != failover.to) {
        return Err(format!("{} takes writes", place.unwrap_or_default()));
    }
    let mut mark = failover.begun_by.to_be_bytes().to_vec();
    mark.extend(failover.number.to_be_bytes());
    let places: [Place; 2] = [(Table::Writer, mark), (Table::Meta, rules::GENERATION_KEY.to_vec())];
    let lost = |failure: Failure| match failure {
        Failure::Retry(reason) | Failure::Lost(reason) => reason,
    };
    let found = within(options.reply_wait, link.begin(Mode::Write, &places)).await.map_err(lost)?;
    let [mark, generation] = places;
    let current = found.get(1).cloned().flatten();
    let current = current.map(|row| row::decode::<u64>(generation.0, &generation.1, &row));
    let current = current.transpose().map_err(|error| error.to_string())?;
    let current =
        current.ok_or_else(|| "all that was stored there is gone: restore it".to_owned())?;
    // A server that knows by itself that it took over has done so when we connected.
    if S::SEES_LOSS || found.first().is_some_and(Option::is_some) {
        within(options.reply_wait, link.abort()).await.map_err(lost)?;
        return Ok(current);
    }
    let row = row::encode(generation.0, &generation.1, &(current + 1));
    let named = row::encode(mark.0, &mark.1, &1_u64);
    let writes = Writes::from([(mark, Some(named)), (generation, Some(row))]);
    let commit = async {
        link.commit(&writes).await.map_err(|failure| match failure {
            CommitFailure::Retry(reason)
            | CommitFailure::Lost(reason)
            | CommitFailure::Unknown(reason) => Failure::Lost(reason),
        })
    };
    within(options.reply_wait, commit).await.map_err(lost)?;
    Ok(current + 1)
}
