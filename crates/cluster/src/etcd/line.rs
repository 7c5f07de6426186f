use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use env::{Clock, WallTime};
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, Error, EventType,
    GetOptions, Identity, KeyValue, KvClient, PutOptions, ResponseHeader, TlsOptions, Txn, TxnOp,
    TxnOpResponse, TxnResponse, WatchOptions, WatchStream,
};
use proto::Incarnation;
use tokio::time::timeout;

use super::{EtcdOptions, EtcdTls, value};
use crate::host::first_revision;
use crate::shared::Shared;
use crate::wire::{Reply, Request};
use crate::{Change, Expect, KEY_BYTES_MAX, Key, KeyError};

/// The longest answer, in bytes: all keys come in one.
const ANSWER_BYTES_MAX: usize = 512 << 20;
/// Nobody was there if nobody said so for this long, as the walls' clocks have it.
const BEAT_MAX: Duration = Duration::from_secs(60);
/// Somebody says so this often.
const BEAT_EVERY: Duration = Duration::from_secs(10);
/// etcd takes 128 operations in one transaction.
const OPERATIONS_MAX: usize = 100;

/// etcd's leases of this process's nodes.
pub(super) type Leases = BTreeMap<Incarnation, i64>;

/// A request under way.
pub(super) type Work = Pin<Box<dyn Future<Output = Result<(Reply, Leases), Broken>>>>;

/// Why a member is left for the next.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("{0}")]
    Etcd(#[from] Error),
    #[error("{0}")]
    Other(&'static str),
    /// A file cannot be used.
    #[error("{0}")]
    File(String),
}

impl Broken {
    /// Why etcd does not let this process in, and what to do; `None` if it may just be away.
    pub fn shut_out(&self, etcd: &EtcdOptions) -> Option<String> {
        let error = match self {
            Broken::Etcd(error) => error,
            Broken::File(problem) => return Some(problem.clone()),
            Broken::Other(_) => return None,
        };
        let told = whole(error);
        let has = |part: &str| told.contains(part);
        let user = etcd.user.as_ref().map_or("", |user| &user.name);
        let prefix = &etcd.prefix;
        Some(if has("authentication failed") {
            format!("etcd knows no user {user:?} with this password: correct `user` and `password`")
        } else if has("user name is empty") {
            "etcd lets in users only: name one in `user`, with its `password`".to_owned()
        } else if has("authentication is not enabled") {
            format!(
                "etcd asks for no users, and {user:?} is named: switch that on in etcd (`etcdctl auth \
                     enable`), or leave `user` out"
            )
        } else if has("permission denied") {
            format!(
                "etcd does not let the user {user:?} read and write below {prefix:?}: grant it \
                     (`etcdctl role grant-permission ROLE --prefix=true readwrite {prefix}`)"
            )
        } else if has("invalid peer certificate") {
            format!(
                "the certificate of etcd is not believed ({told}): name who has signed it in \
                     `authorities`"
            )
        } else if has("received fatal alert") {
            format!(
                "etcd does not accept the encrypted connection ({told}): see `certificate` and `key`"
            )
        } else {
            return None;
        })
    }
}

/// An error with its causes.
fn whole(error: &Error) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |one| one.source());
    let mut told: Vec<String> = Vec::new();
    for cause in causes.map(ToString::to_string) {
        // Many repeat what caused them.
        if !told.iter().any(|said| said.contains(&cause)) {
            told.push(cause);
        }
    }
    told.join(": ")
}

/// What encrypted connections begin with.
fn tls_options(tls: &EtcdTls) -> Result<TlsOptions, Broken> {
    let read = |what: &str, path: &Path| {
        let bytes = std::fs::read(path);
        bytes
            .map_err(|error| Broken::File(format!("{what} of etcd in {}: {error}", path.display())))
    };
    let options = match &tls.authorities {
        Some(path) => {
            TlsOptions::new().ca_certificate(Certificate::from_pem(read("the authorities", path)?))
        }
        None => TlsOptions::new().with_webpki_roots(),
    };
    Ok(match &tls.certificate {
        Some((certificate, key)) => options.identity(Identity::from_pem(
            read("the certificate for members", certificate)?,
            read("the key for members", key)?,
        )),
        None => options,
    })
}

pub(super) fn silent() -> Broken {
    Broken::Other("no answer in time")
}

pub(super) fn over() -> Broken {
    Broken::Other("nobody is left")
}

/// What a watch tells.
#[derive(Debug, Default)]
pub(super) struct News {
    pub changes: Vec<Change>,
    beat: Option<u64>,
}

/// A connection to one member, with a watch on all keys.
pub(super) struct Line {
    act: Act,
    watch: WatchStream,
    /// The wall's time at which somebody last said to be there.
    beat: u64,
}

/// What one request needs.
#[derive(Clone)]
struct Act {
    client: Client,
    prefix: String,
    wait: Duration,
    era: Era,
}

/// What is added to etcd's revisions, and etcd's revision of the key that says so.
#[derive(Clone, Copy, Debug)]
struct Era {
    base: u64,
    set: i64,
}

/// All there is at one moment.
struct Everything {
    era: Option<Era>,
    beat: u64,
    keys: Vec<KeyValue>,
    revision: i64,
}

async fn within<T>(
    wait: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Broken> {
    Ok(timeout(wait, work).await.map_err(|_| silent())??)
}

fn revision(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(0, ResponseHeader::revision)
}

fn number(kv: &KeyValue) -> u64 {
    kv.value_str().ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl Era {
    fn told(self, revision: i64) -> u64 {
        self.base.saturating_add(revision.max(0) as u64)
    }

    /// A key as others see it; `None` if it is none of ours.
    fn key(self, name: &[u8], kv: &KeyValue) -> Option<(Arc<str>, Key)> {
        let name = std::str::from_utf8(name).ok().filter(|name| name.len() <= KEY_BYTES_MAX)?;
        let (owner, value) = value::decode(kv.value());
        let created = self.told(kv.create_revision());
        let changed = self.told(kv.mod_revision());
        Some((name.into(), Key { value: value.into(), created, changed, owner }))
    }
}

impl Line {
    /// Connects to a member, reads everything, tells it, and watches from there.
    pub async fn open(
        etcd: &EtcdOptions,
        member: usize,
        shared: &Weak<Shared>,
        clock: &Clock,
    ) -> Result<Line, Broken> {
        let endpoint = etcd.endpoints.get(member % etcd.endpoints.len().max(1));
        let endpoint = endpoint.ok_or(Broken::Other("no member of etcd is named"))?;
        let mut options = ConnectOptions::new()
            .with_connect_timeout(etcd.request_wait.min(Duration::from_secs(1)))
            .with_keep_alive(etcd.alive_every, etcd.alive_every)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            // A token that etcd has forgotten costs one more round trip, not the connection.
            .with_auto_token_refresh(true);
        if let Some(user) = &etcd.user {
            options = options.with_user(&user.name, &user.password);
        }
        if endpoint.starts_with("https://") {
            options = options.with_tls(tls_options(&etcd.tls)?);
        }
        let wait = etcd.request_wait;
        let client = within(wait, Client::connect([endpoint], Some(options))).await?;
        let era = Era { base: 0, set: 0 };
        let mut act = Act { client, prefix: etcd.prefix.clone(), wait, era };
        loop {
            let everything = act.read_everything().await?;
            let Some(shared) = shared.upgrade() else { return Err(over()) };
            let seen = shared.keys_seen();
            let wall = clock.wall();
            let Some(era) = everything.era else {
                act.set_era(None, first_revision(wall).max(seen + 1), wall).await?;
                continue;
            };
            act.era = era;
            let all = act.keys(&everything.keys);
            let told = era.told(everything.revision);
            let was_empty =
                seen == 0 && wall.0.saturating_sub(everything.beat) > BEAT_MAX.as_millis() as u64;
            if was_empty || shared.contradict(told, &all) {
                let base = first_revision(wall).max(seen + 1).max(told + 1);
                tracing::warn!(was_empty, "etcd may have lost what it knew: a new era begins");
                act.set_era(Some(era), base, wall).await?;
                continue;
            }
            let options =
                WatchOptions::new().with_prefix().with_start_revision(everything.revision + 1);
            let watching = act.client.watch(etcd.prefix.clone(), Some(options));
            let watch = timeout(wait, watching).await.map_err(|_| silent())??;
            shared.set_shut_out(None);
            shared.handle_all(clock.now(), told, all);
            return Ok(Line { act, watch, beat: everything.beat });
        }
    }

    /// The next changes. Safe to cancel.
    pub async fn news(&mut self) -> Result<News, Broken> {
        let told = self.watch.message().await?.ok_or(Broken::Other("the watch ended"))?;
        if told.canceled() {
            return Err(match told.compact_revision() {
                0 => Broken::Other("the watch was ended"),
                _ => Broken::Other("the watch fell behind what is kept"),
            });
        }
        let mut news = News::default();
        for event in told.events() {
            let Some(kv) = event.kv() else { continue };
            let name = kv.key().strip_prefix(self.act.prefix.as_bytes()).unwrap_or_default();
            match name {
                b"era" if kv.mod_revision() != self.act.era.set => {
                    return Err(Broken::Other("a new era began"));
                }
                b"beat" => news.beat = Some(number(kv)),
                _ => {
                    let Some(name) = name.strip_prefix(b"k/") else { continue };
                    let Some((key, now)) = self.act.era.key(name, kv) else { continue };
                    let now = (event.event_type() == EventType::Put).then_some(now);
                    let revision = self.act.era.told(kv.mod_revision());
                    news.changes.push(Change { revision, key, now });
                }
            }
        }
        Ok(news)
    }

    /// Takes note of what is not for others.
    pub fn note(&mut self, news: &News) {
        self.beat = news.beat.unwrap_or(self.beat);
    }

    /// Does what is asked for.
    pub fn act(&self, request: Request, leases: Leases) -> Work {
        Box::pin(self.act.clone().act(request, leases))
    }

    /// Sees whether anybody answers, and says that somebody is there if it is time to.
    pub fn look(&self, wall: WallTime, leases: Leases) -> Work {
        let mut act = self.act.clone();
        let due = wall.0.saturating_sub(self.beat) >= BEAT_EVERY.as_millis() as u64;
        Box::pin(async move {
            let beat = act.name("beat");
            let operation = match due {
                true => TxnOp::put(beat, wall.0.to_string(), None),
                false => TxnOp::get(beat, None),
            };
            let answer = act.commit(Vec::new(), vec![operation], Vec::new()).await?;
            if !answer.succeeded() {
                return Err(Broken::Other("a new era began"));
            }
            Ok((Reply::Leased { fresh: false }, leases))
        })
    }
}

impl Act {
    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn key_name(&self, key: &str) -> String {
        format!("{}k/{key}", self.prefix)
    }

    fn keys(&self, all: &[KeyValue]) -> Vec<(Arc<str>, Key)> {
        let skip = self.key_name("").len();
        all.iter().filter_map(|kv| self.era.key(kv.key().get(skip..)?, kv)).collect()
    }

    fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Era, beat and keys as of one revision.
    async fn read_everything(&mut self) -> Result<Everything, Broken> {
        let prefix = Some(GetOptions::new().with_prefix());
        let operations = vec![
            TxnOp::get(self.name("era"), None),
            TxnOp::get(self.name("beat"), None),
            TxnOp::get(self.key_name(""), prefix),
        ];
        let answer = within(self.wait, self.kv().txn(Txn::new().and_then(operations))).await?;
        let mut parts = answer.op_responses().into_iter().map(|part| match part {
            TxnOpResponse::Get(mut get) => get.take_kvs(),
            _ => Vec::new(),
        });
        let mut next = || parts.next().unwrap_or_default();
        let (era, beat, keys) = (next(), next(), next());
        let era = era.first().map(|kv| Era { base: number(kv), set: kv.mod_revision() });
        let beat = beat.first().map_or(0, number);
        Ok(Everything { era, beat, keys, revision: revision(answer.header()) })
    }

    /// Sets a new era, if nobody else has set one meanwhile.
    async fn set_era(&mut self, old: Option<Era>, base: u64, wall: WallTime) -> Result<(), Broken> {
        let set = old.map_or(0, |era| era.set);
        let unchanged = Compare::mod_revision(self.name("era"), CompareOp::Equal, set);
        let operations = vec![
            TxnOp::put(self.name("era"), base.to_string(), None),
            TxnOp::put(self.name("beat"), wall.0.to_string(), None),
        ];
        let txn = Txn::new().when(vec![unchanged]).and_then(operations);
        within(self.wait, self.kv().txn(txn)).await?;
        Ok(())
    }

    /// A transaction under the era that is known here.
    async fn commit(
        &mut self,
        mut conditions: Vec<Compare>,
        then: Vec<TxnOp>,
        otherwise: Vec<TxnOp>,
    ) -> Result<TxnResponse, Broken> {
        let era = self.name("era");
        conditions.push(Compare::mod_revision(era, CompareOp::Equal, self.era.set));
        let txn = Txn::new().when(conditions).and_then(then).or_else(otherwise);
        within(self.wait, self.kv().txn(txn)).await
    }

    async fn act(
        mut self,
        request: Request,
        mut leases: Leases,
    ) -> Result<(Reply, Leases), Broken> {
        let reply = match request {
            Request::Lease { node, ttl } => self.lease(node, ttl, &mut leases).await?,
            Request::End { node } => self.end(node, &mut leases).await?,
            Request::Put { key, value, owner, expect } => {
                let lease = match owner.map(|owner| leases.get(&owner).copied().ok_or(owner)) {
                    None => None,
                    Some(Ok(lease)) => Some(lease),
                    Some(Err(node)) => {
                        return Ok((Reply::Failed(KeyError::NotListed(node)), leases));
                    }
                };
                let options = lease.map(|lease| PutOptions::new().with_lease(lease));
                let value = value::encode(owner, &value);
                let put = TxnOp::put(self.key_name(&key), value, options);
                self.write(key, expect, vec![put], owner, &mut leases).await?
            }
            Request::Delete { key, expect } => {
                let delete = TxnOp::delete(self.key_name(&key), None);
                self.write(key, expect, vec![delete], None, &mut leases).await?
            }
            Request::Contend { own, key, node } => {
                self.contend(&own, key, node, &mut leases).await?
            }
        };
        Ok((reply, leases))
    }

    /// Prolongs the lease of a node, or begins one.
    async fn lease(
        &mut self,
        node: Incarnation,
        ttl: Duration,
        leases: &mut Leases,
    ) -> Result<Reply, Broken> {
        if let Some(id) = leases.get(&node).copied() {
            match within(self.wait, self.client.lease_keep_alive(id)).await {
                Ok(_) => return Ok(Reply::Leased { fresh: false }),
                Err(Broken::Etcd(Error::LeaseKeepAliveError(_))) => drop(leases.remove(&node)),
                Err(broken) => return Err(broken),
            }
        }
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let granted = within(self.wait, self.client.lease_grant(seconds as i64, None)).await?;
        leases.insert(node, granted.id());
        Ok(Reply::Leased { fresh: true })
    }

    /// Takes a node off the list, then all else that it owns.
    async fn end(&mut self, node: Incarnation, leases: &mut Leases) -> Result<Reply, Broken> {
        let Some(id) = leases.remove(&node) else {
            return Ok(Reply::Done { revision: 0, existed: false });
        };
        let key = crate::attached::node_key(node);
        let delete = vec![TxnOp::delete(self.key_name(&key), None)];
        let reply = self.write(key, Expect::Any, delete, None, leases).await?;
        match within(self.wait, self.client.lease_revoke(id)).await {
            // It is over already.
            Ok(_) | Err(Broken::Etcd(Error::GRpcStatus(_))) => Ok(reply),
            Err(broken) => Err(broken),
        }
    }

    async fn contend(
        &mut self,
        own: &str,
        key: String,
        node: Incarnation,
        leases: &mut Leases,
    ) -> Result<Reply, Broken> {
        let Some(lease) = leases.get(&node).copied() else {
            return Ok(Reply::Failed(KeyError::NotListed(node)));
        };
        let prefix = Some(GetOptions::new().with_prefix());
        let mut kv = self.kv();
        let found = within(self.wait, kv.get(self.key_name(own), prefix)).await?;
        let former = found.kvs().iter().filter(|kv| value::decode(kv.value()).0 != Some(node));
        let delete = |kv: &KeyValue| TxnOp::delete(kv.key(), Some(DeleteOptions::new()));
        let mut operations: Vec<TxnOp> = former.take(OPERATIONS_MAX).map(delete).collect();
        let options = PutOptions::new().with_lease(lease);
        let value = value::encode(Some(node), &[]);
        operations.push(TxnOp::put(self.key_name(&key), value, Some(options)));
        self.write(key, Expect::Absent, operations, Some(node), leases).await
    }

    /// Writes under a condition on `key`, the key of the last operation.
    async fn write(
        &mut self,
        key: String,
        expect: Expect,
        operations: Vec<TxnOp>,
        owner: Option<Incarnation>,
        leases: &mut Leases,
    ) -> Result<Reply, Broken> {
        let name = self.key_name(&key);
        let condition = match expect {
            Expect::Any => None,
            Expect::Absent => Some(Compare::version(name.clone(), CompareOp::Equal, 0)),
            Expect::Changed(changed) => {
                // One of an earlier era is older than all there is.
                let of_etcd = changed.checked_sub(self.era.base).unwrap_or(u64::MAX >> 1);
                Some(Compare::mod_revision(name.clone(), CompareOp::Equal, of_etcd as i64))
            }
        };
        let look = vec![TxnOp::get(name, None), TxnOp::get(self.name("era"), None)];
        let answer = match self.commit(condition.into_iter().collect(), operations, look).await {
            Err(Broken::Etcd(Error::GRpcStatus(status)))
                if status.message().contains("lease not found") =>
            {
                let node = owner.unwrap_or(Incarnation::NONE);
                leases.remove(&node);
                return Ok(Reply::Failed(KeyError::NotListed(node)));
            }
            answer => answer?,
        };
        if !answer.succeeded() {
            return self.refused(key, &answer);
        }
        // A deletion of nothing has no revision of its own.
        let existed = match answer.op_responses().last() {
            Some(TxnOpResponse::Delete(delete)) => delete.deleted() > 0,
            _ => true,
        };
        let told = self.era.told(revision(answer.header()));
        Ok(Reply::Done { revision: if existed { told } else { 0 }, existed })
    }

    /// Why a write was not made.
    fn refused(&self, key: String, answer: &TxnResponse) -> Result<Reply, Broken> {
        let mut found = answer.op_responses().into_iter().map(|part| match part {
            TxnOpResponse::Get(get) => get.kvs().first().map_or(0, KeyValue::mod_revision),
            _ => 0,
        });
        let (changed, era) = (found.next().unwrap_or(0), found.next().unwrap_or(0));
        if era != self.era.set {
            return Err(Broken::Other("a new era began"));
        }
        let changed = if changed == 0 { 0 } else { self.era.told(changed) };
        Ok(Reply::Failed(KeyError::Conflict { key, changed }))
    }
}
