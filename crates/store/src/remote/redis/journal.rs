//! The journal of a shard in Redis, as workers see it.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::redis::{Cmd, FromRedisValue, Value};

use super::{JOURNAL, Redis, RedisLink, bytes, list, lost, number};
use crate::dump::RawRow;
use crate::error::OpenError;
use crate::landing::{Aside, Away, Beginning, Entry, Journal, Life, encode};
use crate::remote::{ConnectError, Failure, Server};
use crate::row;
use crate::rules::{self, raw};
use crate::tables::{Table, Writes};

/// How long other adopters are kept out by one that gives no sign of life, in milliseconds.
const ADOPTING_MS: u64 = 15_000;

/// A connection that is made when it is needed.
pub(crate) struct RedisJournal {
    redis: Arc<Redis>,
    /// With the name of the server's life, see [`Redis::link`].
    link: Option<(RedisLink, String)>,
    refused: Option<OpenError>,
    /// How many connections were made, and which of them an adoption was begun on.
    links: u64,
    adopting: u64,
    /// Tells those who want to land apart.
    token: u64,
    lease_ms: u64,
}

impl RedisJournal {
    pub fn new(redis: Arc<Redis>, token: u64) -> Self {
        let lease = redis.journal.as_ref().map_or(0, |journal| journal.lease.as_millis() as u64);
        RedisJournal {
            redis,
            link: None,
            refused: None,
            links: 0,
            adopting: 0,
            token,
            lease_ms: lease.max(1),
        }
    }

    async fn link(&mut self) -> Result<&mut (RedisLink, String), Away> {
        if self.link.is_none() {
            let link = self.redis.link().await.map_err(|error| match error {
                ConnectError::Away(reason) => Away(reason),
                ConnectError::Refused(error) => {
                    let reason = error.to_string();
                    self.refused = Some(error);
                    Away(reason)
                }
            })?;
            self.link = Some(link);
            self.links += 1;
        }
        Ok(self.link.as_mut().expect("just made"))
    }

    async fn ask<T: FromRedisValue>(
        &mut self,
        arguments: impl FnOnce(&mut Cmd),
    ) -> Result<T, Away> {
        let (link, _) = self.link().await?;
        let mut command = link.script(JOURNAL);
        arguments(&mut command);
        let answer = command.query_async(&mut link.connection).await;
        answer.map_err(|error| {
            self.link = None;
            Away(error.to_string())
        })
    }

    async fn lists(&mut self, arguments: impl FnOnce(&mut Cmd)) -> Result<Vec<Vec<u8>>, Away> {
        let answer = self.ask::<Value>(arguments).await?;
        list(Some(answer)).map_err(|failure| match failure {
            Failure::Lost(reason) | Failure::Retry(reason) => Away(reason),
        })
    }

    async fn does(&mut self, arguments: impl FnOnce(&mut Cmd)) -> Result<bool, Away> {
        Ok(self.ask::<u64>(arguments).await? == 1)
    }

    /// As [`RedisJournal::does`] on the connection on which the adoption was begun.
    async fn goes_on(&mut self, arguments: impl FnOnce(&mut Cmd)) -> Result<bool, Away> {
        if self.link.is_none() || self.links != self.adopting {
            return Err(Away("the connection of the adoption broke".to_owned()));
        }
        self.does(arguments).await
    }

    /// How a run begins, as arguments.
    async fn beginning(&mut self, beginning: &Beginning) -> Result<Cmd, Away> {
        let server = self.link().await?.1.clone();
        let mut part = Cmd::new();
        part.arg(beginning.run).arg(server).arg(beginning.landed).arg(encode(&beginning.writes));
        put(&mut part, &beginning.writes);
        Ok(part)
    }
}

fn put(command: &mut Cmd, writes: &Writes) {
    for ((table, key), row) in writes {
        command.arg(table.name()).arg(key.as_slice()).arg(row.as_deref().unwrap_or_default());
    }
}

/// Adds the arguments of one command to another.
fn append(command: &mut Cmd, part: &Cmd) {
    for argument in part.args_iter() {
        if let ::redis::Arg::Simple(bytes) = argument {
            command.arg(bytes);
        }
    }
}

impl RedisLink {
    /// What the journal is at; asks to land for as long as `lease_ms` if that is not 0.
    pub(super) async fn life(
        &mut self,
        token: u64,
        lease_ms: u64,
        server: &str,
    ) -> Result<Life, Away> {
        let mut command = self.script(JOURNAL);
        command.arg("life").arg(token).arg(lease_ms).arg(rules::GENERATION_KEY);
        let answer = command.query_async::<Value>(&mut self.connection).await;
        let away = |failure| match failure {
            Failure::Lost(reason) | Failure::Retry(reason) => Away(reason),
        };
        let answer = answer.map_err(|error| away(lost(&error)))?;
        let parts = list(Some(answer)).map_err(away)?;
        let is = |at: usize| number(parts.get(at).cloned().unwrap_or_default());
        let generation = parts
            .get(9)
            .and_then(|row| row::decode::<u64>(Table::Meta, rules::GENERATION_KEY, row).ok());
        Ok(Life {
            run: is(0),
            is_intact: server.is_empty() || parts.get(1).is_some_and(|of| of == server.as_bytes()),
            has_rows: is(8) == Some(1),
            position: is(4).unwrap_or(0),
            landed: is(2).unwrap_or(0),
            backlog_bytes: is(3).unwrap_or(0),
            lag_ms: is(5).unwrap_or(0),
            aside: is(6).unwrap_or(0),
            leads: is(7) == Some(1),
            generation,
            now_ms: is(10).unwrap_or(0),
        })
    }
}

impl Journal for RedisJournal {
    fn shown(&self) -> String {
        self.redis.shown()
    }

    fn refused(&mut self) -> Option<OpenError> {
        self.refused.take()
    }

    async fn life(&mut self, lead: bool) -> Result<Life, Away> {
        let (token, lease_ms) = (self.token, if lead { self.lease_ms } else { 0 });
        let (link, server) = self.link().await?;
        let life = link.life(token, lease_ms, server).await;
        if life.is_err() {
            self.link = None;
        }
        life
    }

    async fn entries(&mut self, after: u64, bytes_max: usize) -> Result<Vec<Entry>, Away> {
        let found = self.lists(|command| {
            command.arg("entries").arg(after).arg(bytes_max.max(1));
        });
        let mut found = found.await?.into_iter();
        let mut entries = Vec::new();
        while let (Some(position), Some(total), Some(bytes)) =
            (found.next(), found.next(), found.next())
        {
            let foreign = || Away("an entry that is none of ours".to_owned());
            let position = number(position).ok_or_else(foreign)?;
            entries.push(Entry { position, total: number(total).ok_or_else(foreign)?, bytes });
        }
        Ok(entries)
    }

    async fn landed(&mut self, run: u64, (position, total): (u64, u64)) -> Result<(), Away> {
        let told = self.does(|command| {
            command.arg("landed").arg(run).arg(position).arg(total);
        });
        told.await.map(drop)
    }

    async fn aside(&mut self) -> Result<Aside, Away> {
        let answer = self.ask::<Value>(|command| _ = command.arg("aside")).await?;
        let pairs: Vec<Vec<u8>> = match answer {
            Value::Map(pairs) => {
                pairs.into_iter().flat_map(|(name, row)| [bytes(name), bytes(row)]).collect()
            }
            other => list(Some(other)).unwrap_or_default(),
        };
        Ok(pairs.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
    }

    async fn put_aside(&mut self, changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> Result<(), Away> {
        let put = self.does(|command| {
            command.arg("put aside");
            for (name, row) in changes {
                command.arg(name).arg(row.unwrap_or_default());
            }
        });
        put.await.map(drop)
    }

    async fn begin(&mut self, token: u64) -> Result<bool, Away> {
        let begun =
            self.does(|command| _ = command.arg("begin").arg(token).arg(ADOPTING_MS)).await?;
        self.adopting = self.links;
        Ok(begun)
    }

    async fn renew(&mut self, token: u64, old: u64, beginning: &Beginning) -> Result<bool, Away> {
        let part = self.beginning(beginning).await?;
        self.goes_on(|command| append(command.arg("renew").arg(token).arg(old), &part)).await
    }

    async fn clear(&mut self, token: u64) -> Result<bool, Away> {
        self.goes_on(|command| {
            command.arg("clear").arg(token);
            for table in Table::ALL.into_iter().chain([Table::Writer]) {
                command.arg(table.name()).arg(format!("{}:keys", table.name()));
            }
            for name in ["life", "journal", "aside", "commits", "watch", "undo", "primary"] {
                command.arg(name);
            }
        })
        .await
    }

    async fn fill(&mut self, token: u64, rows: Vec<RawRow>) -> Result<bool, Away> {
        self.goes_on(|command| {
            command.arg("fill").arg(token).arg(ADOPTING_MS);
            for RawRow { place, bytes } in rows {
                let table = raw::table(place.table).expect("rows are of tables that are known");
                command.arg(table.name()).arg(place.key).arg(bytes);
            }
        })
        .await
    }

    async fn open(&mut self, token: u64, beginning: &Beginning) -> Result<bool, Away> {
        let part = self.beginning(beginning).await?;
        self.goes_on(|command| append(command.arg("open").arg(token), &part)).await
    }
}
