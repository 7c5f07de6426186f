//! NATS as bus.
//!
//! Under the prefix, `P.live.SUBJECT` carries what may be lost, over core NATS. What may not is published to
//! `P.kept.SUBJECT`, which one JetStream stream per declared topic takes; each group and each listener is a
//! consumer of it. A message leaves its stream when all of them are done with it. `P.dead.SUBJECT` is the stream
//! of dead letters.

mod consume;
mod dead;
mod proof;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::{CreateStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::message::{Acker, PublishMessage};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, AckKind, ErrorCode};
use async_nats::{Client, ConnectOptions, Event, HeaderMap};
use env::Clock;
use futures_util::StreamExt;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use proof::{Doubt, Streams, Told};

use super::front::{Listening, Live, Order, Outgoing};
use super::{LAST_WORDS, PAUSES, Remote, Shared};
use crate::types::Accepted;
use crate::{Delivery, Error, Options};

/// How NATS servers are reached.
#[derive(Clone, Debug)]
pub struct NatsOptions {
    /// Their addresses, such as `nats://10.0.0.1:4222` or `tls://..`; user and password, or a token, may stand in
    /// them.
    pub urls: Vec<String>,
    /// The first word of all subjects.
    pub prefix: String,
    /// A credentials file (`.creds`).
    pub credentials: Option<std::path::PathBuf>,
    /// How many servers keep what may not be lost.
    pub replicas: usize,
    /// How long one request may take before it is made again.
    pub request_wait: Duration,
}

impl NatsOptions {
    /// One copy, requests within 3 s.
    pub fn new(urls: impl IntoIterator<Item = String>, prefix: &str) -> Self {
        NatsOptions {
            urls: urls.into_iter().collect(),
            prefix: prefix.to_owned(),
            credentials: None,
            replicas: 1,
            request_wait: Duration::from_secs(3),
        }
    }
}

/// Carries the id that listeners see, also of replays.
const ID: &str = "Mainstay-Id";
/// Names the group that a replay is for.
const ONLY: &str = "Mainstay-Only";

pub(crate) fn start(
    nats: NatsOptions,
    options: Options,
    clock: &Clock,
) -> std::io::Result<Arc<Remote>> {
    super::start("nats", options, clock, move |shared| run(shared, nats))
}

/// What the tasks of one connection share.
struct Line {
    shared: Arc<Shared>,
    nats: NatsOptions,
    client: Client,
    jetstream: jetstream::Context,
    /// How each message that is here is acknowledged.
    ackers: Mutex<Ackers>,
    streams: Mutex<Streams>,
}

#[derive(Default)]
struct Ackers {
    next: u64,
    by_tag: BTreeMap<u64, (Arc<Acker>, Option<Taken>)>,
}

/// A message that is here, as it stands in its stream.
#[derive(Clone, Debug)]
struct Taken {
    stream: String,
    /// Without prefix and space.
    subject: String,
    id: u128,
    body: Arc<[u8]>,
}

impl Line {
    fn ackers(&self) -> MutexGuard<'_, Ackers> {
        self.ackers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, acker: Acker, taken: Option<Taken>) -> u64 {
        let mut ackers = self.ackers();
        ackers.next += 1;
        let tag = ackers.next;
        ackers.by_tag.insert(tag, (Arc::new(acker), taken));
        tag
    }

    fn subject(&self, space: &str, subject: &str) -> String {
        format!("{}.{space}.{subject}", self.nats.prefix)
    }

    /// The subject without prefix and space.
    fn bare(&self, subject: &str) -> Option<String> {
        let rest = subject.strip_prefix(&self.nats.prefix)?.strip_prefix('.')?;
        rest.split_once('.').map(|(_, bare)| bare.to_owned())
    }

    fn stream(&self, topic: &str) -> String {
        format!("{}-{}", name(&self.nats.prefix), name(topic))
    }

    /// Tells the server of a message. It comes again if that is lost.
    fn settle(self: &Arc<Self>, tag: u64, is_done: bool) {
        let Some((acker, taken)) = self.ackers().by_tag.remove(&tag) else { return };
        let line = self.clone();
        tokio::spawn(async move {
            let kind = if is_done { AckKind::Ack } else { AckKind::Nak(None) };
            let server = proof::server(&line);
            match (acker.ack_with(kind).await, taken.filter(|_| is_done)) {
                (Err(error), _) => tracing::debug!(%error, "an acknowledgement was lost"),
                (Ok(()), Some(taken)) => {
                    let stream = taken.stream.clone();
                    proof::told(&line, stream, Told { what: Doubt::Done(taken), server });
                }
                (Ok(()), None) => {}
            }
        });
    }
}

/// A pattern as a part of a name that JetStream takes.
fn name(pattern: &str) -> String {
    pattern.replace('.', "+").replace('*', "@").replace('>', "=")
}

async fn run(shared: Arc<Shared>, nats: NatsOptions) {
    let Some(client) = connect(&shared, &nats).await else { return };
    let mut jetstream = jetstream::new(client.clone());
    jetstream.set_timeout(nats.request_wait);
    let (ackers, streams) = (Mutex::default(), Mutex::default());
    let line = Arc::new(Line { shared: shared.clone(), nats, client, jetstream, ackers, streams });
    tokio::spawn(publish(line.clone()));
    tokio::spawn(stay_alive(line.clone()));
    let mut ears: BTreeMap<u64, Vec<JoinHandle<()>>> = BTreeMap::new();
    while !shared.is_stopped() {
        let _ = timeout(shared.next_timeout(), shared.orders.notified()).await;
        shared.handle_timeout();
        work(&line, &mut ears);
    }
    work(&line, &mut ears);
    // What was settled last is told if the server is there.
    tokio::task::yield_now().await;
    let _ = timeout(LAST_WORDS, async {
        sleep(PAUSES.0).await;
        let _ = line.client.flush().await;
    })
    .await;
}

async fn connect(shared: &Shared, nats: &NatsOptions) -> Option<Client> {
    loop {
        let presence = shared.presence.clone();
        let mut options = ConnectOptions::new()
            .name("mainstay")
            .retry_on_initial_connect()
            .max_reconnects(None)
            .connection_timeout(nats.request_wait)
            .ping_interval(nats.request_wait)
            .reconnect_delay_callback(|attempts| {
                let factor = 1 << attempts.min(6) as u32;
                (PAUSES.0 * factor).min(PAUSES.1)
            })
            .event_callback(move |event| {
                match event {
                    Event::Connected => presence.set_away(false),
                    Event::Disconnected | Event::Closed => presence.set_away(true),
                    _ => {}
                }
                async move { tracing::info!(%event, "NATS") }
            });
        // The client takes no notice of what stands in an address.
        if let Some((user, password)) = nats.urls.iter().find_map(|url| in_address(url)) {
            options = match password {
                Some(password) => options.user_and_password(user, password),
                None => options.token(user),
            };
        }
        if let Some(path) = &nats.credentials {
            match std::fs::read_to_string(path).and_then(|text| options.credentials(&text)) {
                Ok(with) => options = with,
                Err(error) => {
                    tracing::error!(%error, ?path, "credentials of NATS cannot be read");
                    sleep(PAUSES.1).await;
                    if shared.is_stopped() {
                        return None;
                    }
                    continue;
                }
            }
        }
        match options.connect(nats.urls.clone()).await {
            Ok(client) => return Some(client),
            Err(error) => tracing::error!(%error, "NATS cannot be connected; trying on"),
        }
        sleep(PAUSES.1).await;
        if shared.is_stopped() {
            return None;
        }
    }
}

/// User and password in an address, or a token alone.
fn in_address(url: &str) -> Option<(String, Option<String>)> {
    let (_, rest) = url.split_once("://")?;
    let (who, _) = rest.split('/').next()?.rsplit_once('@')?;
    let (user, password) = who.split_once(':').map_or((who, None), |(u, p)| (u, Some(p)));
    Some((unescape(user), password.map(unescape)))
}

/// Undoes `%41` and the like.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let code = code.and_then(|two| u8::from_str_radix(two, 16).ok());
        match code.filter(|_| first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Does what the front orders.
fn work(line: &Arc<Line>, ears: &mut BTreeMap<u64, Vec<JoinHandle<()>>>) {
    while let Some(order) = line.shared.act(|front, _| front.poll_order()) {
        match order {
            Order::Declare { topic, delivery } => {
                tokio::spawn(make(line.clone(), topic, delivery));
            }
            Order::Listen(listening) => {
                ears.insert(listening.ear, consume::listen(line, listening));
            }
            Order::Unlisten { ear } => {
                for task in ears.remove(&ear).into_iter().flatten() {
                    task.abort();
                }
            }
            Order::Settle { tag, is_done } => line.settle(tag, is_done),
            Order::SetAside { tag, dead } => {
                tokio::spawn(dead::set_aside(line.clone(), tag, dead));
            }
            Order::Dead { scope, max, sender } => {
                tokio::spawn(dead::list(line.clone(), scope, max, sender));
            }
            Order::Bury { dead, replay, sender } => {
                tokio::spawn(dead::bury(line.clone(), dead, replay, sender));
            }
            Order::Waiting { group, kept, sender } => {
                tokio::spawn(consume::waiting(line.clone(), group, kept, sender));
            }
        }
    }
}

/// Makes the stream of a topic, however long that takes.
async fn make(line: Arc<Line>, topic: String, delivery: Delivery) {
    let options = &line.shared.options;
    let config = Config {
        name: line.stream(&topic),
        subjects: vec![line.subject("kept", &topic)],
        retention: RetentionPolicy::Interest,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        max_messages: i64::try_from(options.kept_messages_max).unwrap_or(i64::MAX),
        num_replicas: line.nats.replicas,
        duplicate_window: options.ids_wait,
        ..Config::default()
    };
    let mut pause = PAUSES.0;
    while line.shared.lock().is_declared(&topic) {
        let made = line.jetstream.create_or_update_stream(config.clone()).await;
        let Err(error) = made else {
            return line.shared.act(|front, _| front.topic_made(&topic, None));
        };
        let refusal = match error.kind() {
            CreateStreamErrorKind::JetStreamUnavailable
                if line.client.connection_state() == State::Connected =>
            {
                Some("switch JetStream on in the server, or declare it at most once".to_owned())
            }
            CreateStreamErrorKind::JetStream(error) if is_final(error.error_code()) => {
                Some(format!("the server says: {error}"))
            }
            _ => None,
        };
        if let Some(advice) = refusal {
            tracing::error!(topic, %delivery, advice, "NATS refuses a topic; trying on");
            line.shared.act(|front, _| front.topic_made(&topic, Some((delivery, advice))));
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Whether only an operator can help.
fn is_final(code: ErrorCode) -> bool {
    [
        ErrorCode::JETSTREAM_NOT_ENABLED,
        ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT,
        ErrorCode::STREAM_SUBJECT_OVERLAP,
        ErrorCode::STREAM_NAME_EXIST,
    ]
    .contains(&code)
}

/// Publishes what waits, in its order.
async fn publish(line: Arc<Line>) {
    loop {
        let posted = line.shared.posts.notified();
        while let Some(live) = line.shared.next_live() {
            publish_live(&line, live).await;
        }
        loop {
            let next = line.shared.lock().next_post();
            let Some(post) = next else { break };
            publish_kept(&line, post).await;
        }
        // Topics become ready without a word to this task.
        let _ = timeout(PAUSES.0, posted).await;
    }
}

async fn publish_live(line: &Line, live: Live) {
    let subject = line.subject("live", &live.subject);
    let body = bytes(&live.body);
    let sent = match live.id {
        None => line.client.publish(subject, body).await,
        Some(id) => {
            let mut headers = HeaderMap::new();
            headers.insert(ID, hex(id));
            line.client.publish_with_headers(subject, headers, body).await
        }
    };
    if let Err(error) = sent {
        tracing::debug!(%error, "what may be lost was lost");
    }
}

async fn publish_kept(line: &Arc<Line>, post: Outgoing) {
    let subject = line.subject("kept", &post.subject);
    let message = PublishMessage::build()
        .payload(bytes(&post.body))
        .message_id(hex(post.id))
        .header(ID, hex(post.id));
    let (line, number) = (line.clone(), post.number);
    let server = proof::server(&line);
    let sent = match line.jetstream.send_publish(subject, message).await {
        Ok(sent) => sent,
        Err(error) => {
            tracing::debug!(%error, "not published; trying on");
            sleep(PAUSES.0).await;
            return line.shared.act(|front, _| front.send_again(number));
        }
    };
    tokio::spawn(async move {
        let answer = sent.await;
        let refusal = match answer {
            Ok(ack) => {
                let accepted = if ack.duplicate { Accepted::Repeated } else { Accepted::New };
                let what = Doubt::Posted(number, accepted);
                return proof::told(&line, ack.stream, Told { what, server });
            }
            Err(error) if is_full(&error) && !post.is_again => Error::Busy(post.subject),
            Err(error) => {
                tracing::debug!(%error, "not confirmed; trying on");
                if error.kind() == PublishErrorKind::StreamNotFound {
                    line.shared.act(|front, _| front.topic_lost(&post.topic));
                }
                sleep(PAUSES.0).await;
                return line.shared.act(|front, _| front.send_again(number));
            }
        };
        line.shared.act(|front, _| front.confirmed(number, Err(refusal)));
    });
}

/// Whether a stream has no room.
fn is_full(error: &jetstream::context::PublishError) -> bool {
    let source = std::error::Error::source(error);
    let source = source.and_then(|source| source.downcast_ref::<jetstream::Error>());
    source.is_some_and(|source| source.error_code() == ErrorCode::STREAM_STORE_FAILED)
}

/// Tells the server that what is here and not finished is still looked after.
async fn stay_alive(line: Arc<Line>) {
    loop {
        sleep(line.shared.options.silence_wait / 3).await;
        let tags = line.shared.lock().tags();
        let ackers: Vec<_> = {
            let ackers = line.ackers();
            tags.iter().filter_map(|tag| Some(ackers.by_tag.get(tag)?.0.clone())).collect()
        };
        for acker in ackers {
            if let Err(error) = acker.ack_with(AckKind::Progress).await {
                tracing::debug!(%error, "a sign of life was lost");
            }
        }
    }
}

/// Listens over core NATS for one listener.
async fn hear(line: Arc<Line>, listening: Listening) {
    let Listening { ear, pattern, group, after, .. } = listening;
    let subject = line.subject("live", &pattern);
    line.shared.live_said(after).await;
    let mut pause = PAUSES.0;
    loop {
        let heard = match &group {
            None => line.client.subscribe(subject.clone()).await,
            Some(group) => {
                let queue = format!("{}/{}", name(group), name(&pattern));
                line.client.queue_subscribe(subject.clone(), queue).await
            }
        };
        match heard {
            Ok(mut messages) => {
                echo(&line).await;
                line.shared.act(|front, _| front.part_ready(ear));
                while let Some(message) = messages.next().await {
                    consume::deliver_live(&line, ear, message);
                }
            }
            Err(error) => tracing::warn!(%error, "NATS: not listened to; trying on"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Returns when the server has worked off all that was said to it on this connection.
async fn echo(line: &Line) {
    loop {
        let inbox = line.client.new_inbox();
        if let Ok(mut answers) = line.client.subscribe(inbox.clone()).await
            && line.client.publish(inbox, "".into()).await.is_ok()
            && let Ok(Some(_)) = timeout(line.nats.request_wait, answers.next()).await
        {
            return;
        }
        sleep(PAUSES.0).await;
    }
}

fn bytes(body: &Arc<[u8]>) -> bytes::Bytes {
    bytes::Bytes::from_owner(body.clone())
}

fn hex(id: u128) -> String {
    format!("{id:032x}")
}

fn unhex(text: &str) -> Option<u128> {
    u128::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_from_an_address() {
        let read = |url| in_address(url);
        let pair = |user: &str, password: &str| Some((user.into(), Some(password.into())));
        assert_eq!(read("nats://a:b@host:4222"), pair("a", "b"));
        assert_eq!(read("tls://a:p%40ss%2F@host/x@y"), pair("a", "p@ss/"));
        assert_eq!(read("nats://token@host"), Some(("token".into(), None)));
        assert_eq!(read("nats://a:50%@host"), pair("a", "50%"));
        assert_eq!(read("nats://host:4222"), None);
    }
}
