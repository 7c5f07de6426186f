//! Copies in Redis, which many processes share.

use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind,
    RedisError, Value,
};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::CacheOptions;
use crate::error::OpenError;
use crate::rules;
use crate::types::{Entity, Key};

const GET: &str = include_str!("get.lua");
const PUT: &str = include_str!("put.lua");

/// What was found.
pub(super) enum Far {
    /// A copy that may be used until then.
    Hit(Option<Entity>, Instant),
    /// None; the server's time before it was looked for, for [`Redis::put`].
    Miss(Since),
    /// Nobody to ask.
    Away,
}

/// A time by Redis' clock, in microseconds.
pub(super) struct Since(Vec<u8>);

/// A Redis server, connected when it is needed. A cheap clone.
#[derive(Clone)]
pub(super) struct Redis {
    client: Client,
    options: CacheOptions,
    line: Arc<Mutex<Line>>,
    heard: Heard,
}

/// Called with the key of a copy that another process changed or removed, or without one if any may have been.
pub(super) type Heard = Arc<dyn Fn(Option<Key>) + Send + Sync>;

/// The connection that all share.
#[derive(Default)]
struct Line {
    link: Option<MultiplexedConnection>,
    /// When to try again after it failed.
    next_try: Option<Instant>,
}

impl Redis {
    pub fn new(url: &str, options: &CacheOptions, heard: Heard) -> Result<Self, OpenError> {
        let malformed = |error: RedisError| OpenError::Malformed(error.to_string());
        let info = url.into_connection_info().map_err(malformed)?;
        // This version tells of changes on the connection that asks.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings)).map_err(malformed)?;
        Ok(Self { client, options: options.clone(), line: Arc::default(), heard })
    }

    async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        let (heard, prefix) = (Arc::clone(&self.heard), self.name_of_all());
        let configuration = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.options.reply_wait))
            .set_response_timeout(Some(self.options.reply_wait))
            .set_push_sender(move |push: PushInfo| {
                hear(&push, &prefix, &*heard);
                Ok::<_, ::redis::aio::SendError>(())
            });
        let mut link =
            self.client.get_multiplexed_async_connection_with_config(&configuration).await?;
        // To Redis (7.0) what a script writes is never the connection's own: word of each copy put here comes
        // back, and the next reading finds it far. To take it for one's own would miss that of others.
        let mut track = ::redis::cmd("CLIENT");
        track.arg("TRACKING").arg("ON").arg("BCAST").arg("PREFIX").arg(self.name_of_all());
        track.arg("NOLOOP").query_async::<Value>(&mut link).await?;
        Ok(link)
    }

    fn name_of_all(&self) -> String {
        format!("{}:", self.options.prefix)
    }

    fn name(&self, key: Key) -> String {
        format!("{}{:032x}", self.name_of_all(), key.0)
    }

    /// Has a command done, if there is a connection or one can be had.
    async fn ask(&self, command: &Cmd) -> Option<Value> {
        let mut link = {
            // Held while one connects: the others need the same.
            let mut line = self.line.lock().await;
            if line.next_try.is_some_and(|next_try| Instant::now() < next_try) {
                return None;
            }
            if line.link.is_none() {
                match self.connect().await {
                    Ok(link) => line.link = Some(link),
                    Err(error) => self.lose(&mut line, &error),
                }
            }
            line.link.clone()?
        };
        let answer = command.query_async(&mut link).await;
        match answer {
            Ok(value) => {
                self.line.lock().await.next_try = None;
                Some(value)
            }
            Err(error) => {
                self.lose(&mut *self.line.lock().await, &error);
                None
            }
        }
    }

    fn lose(&self, line: &mut Line, error: &RedisError) {
        if line.next_try.is_none() {
            tracing::warn!(%error, "the shared cache is away: all is read from the store");
        }
        line.link = None;
        line.next_try = Some(Instant::now() + self.options.pause);
    }

    async fn script(&self, script: &str, key: Key, arguments: &[Vec<u8>]) -> Option<Vec<Value>> {
        let mut command = ::redis::cmd("EVAL");
        command.arg(script).arg(1).arg(self.name(key)).arg(arguments);
        Some(match self.ask(&command).await? {
            Value::Array(items) => items,
            other => vec![other],
        })
    }

    /// Looks for a copy.
    pub async fn get(&self, key: Key) -> Far {
        // A copy is as old as it was when it was asked for, not when the answer came.
        let asked = Instant::now();
        let Some(answer) = self.script(GET, key, &[]).await else { return Far::Away };
        let mut parts = answer.into_iter().map(|part| match part {
            Value::BulkString(bytes) => bytes,
            _ => Vec::new(),
        });
        let since = Since(parts.next().unwrap_or_default());
        let (Some(left), Some(row)) = (parts.next(), parts.next()) else { return Far::Miss(since) };
        let left = String::from_utf8(left).ok().and_then(|left| left.parse().ok()).unwrap_or(0);
        let until = asked + Duration::from_millis(left).min(self.options.age_max);
        if row.is_empty() {
            return Far::Hit(None, until);
        }
        match rules::entity_of_row(key, &row) {
            // What is damaged here is whole in the store.
            None => Far::Miss(since),
            entity => Far::Hit(entity, until),
        }
    }

    /// Keeps a copy of what was read after `since`.
    pub async fn put(&self, key: Key, entity: Option<&Entity>, since: Since) {
        let row = entity.map_or_else(Vec::new, |entity| rules::row_of_entity(key, entity));
        let version = entity.map_or(0, |entity| entity.version);
        let age_max = self.options.age_max.as_millis().to_string();
        let arguments = [since.0, age_max.into_bytes(), version.to_string().into_bytes(), row];
        self.script(PUT, key, &arguments).await;
    }

    /// Removes a copy.
    pub async fn remove(&self, key: Key) {
        let mut command = ::redis::cmd("DEL");
        command.arg(self.name(key));
        self.ask(&command).await;
    }
}

/// What Redis says of changes: a list of names, or nothing if all is gone.
fn hear(push: &PushInfo, prefix: &str, heard: &dyn Fn(Option<Key>)) {
    match (&push.kind, push.data.first()) {
        // Changes may be missed from here on.
        (PushKind::Disconnection, _) => heard(None),
        (PushKind::Invalidate, Some(Value::Array(names))) => {
            for name in names {
                let Value::BulkString(name) = name else { continue };
                let name = str::from_utf8(name).ok().and_then(|name| name.strip_prefix(prefix));
                let key = name.and_then(|digits| u128::from_str_radix(digits, 16).ok());
                key.into_iter().for_each(|key| heard(Some(Key(key))));
            }
        }
        (PushKind::Invalidate, _) => heard(None),
        _ => {}
    }
}
