//! RabbitMQ as bus.
//!
//! Two topic exchanges carry all: `P.live` what may be lost, `P.kept` what may not. Who listens to the first has a
//! queue that goes with it; each group and each listener of the second has a quorum queue, which refuses what it has
//! no room for. `P.dead` is the queue of dead letters.

mod consume;
mod dead;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use env::Clock;
use lapin::options::{
    BasicAckOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions,
    ExchangeDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::uri::AMQPUri;
use lapin::{
    Acker, BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind,
};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::front::{Live, Order, Outgoing};
use super::{LAST_WORDS, PAUSES, Remote, Shared};
use crate::types::Accepted;
use crate::{Error, Options};

/// How a RabbitMQ server or cluster is reached.
#[derive(Clone, Debug)]
pub struct RabbitmqOptions {
    /// Its addresses, such as `amqps://user:password@10.0.0.1:5671/vhost`. One at a time is spoken to; when it does
    /// not answer, the next.
    pub urls: Vec<String>,
    /// What the names of all exchanges and queues begin with.
    pub prefix: String,
    /// How long opening a connection may take, and how long a server may be silent before it is given up.
    pub request_wait: Duration,
}

impl RabbitmqOptions {
    /// Silent for 4 s at most.
    pub fn new(urls: impl IntoIterator<Item = String>, prefix: &str) -> Self {
        let (urls, prefix) = (urls.into_iter().collect(), prefix.to_owned());
        RabbitmqOptions { urls, prefix, request_wait: Duration::from_secs(4) }
    }
}

/// How often the connection is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// The longest name that AMQP knows, in bytes.
const NAME_BYTES_MAX: usize = 255;
const PERSISTENT: u8 = 2;
/// Names the group that a replay is for.
const ONLY: &str = "mainstay-only";

pub(crate) fn start(
    rabbitmq: RabbitmqOptions,
    options: Options,
    clock: &Clock,
) -> std::io::Result<Arc<Remote>> {
    super::start("rabbitmq", options, clock, move |shared| run(shared, rabbitmq))
}

/// What the tasks of one connection share.
struct Line {
    shared: Arc<Shared>,
    prefix: String,
    connection: Connection,
    /// For what may be lost; nothing is confirmed on it.
    live: Channel,
    request_wait: Duration,
    ackers: Mutex<BTreeMap<u64, (Acker, Channel)>>,
    /// One at a time goes through the dead letters.
    undertaker: tokio::sync::Mutex<()>,
}

impl Line {
    async fn open(
        shared: &Arc<Shared>,
        rabbitmq: &RabbitmqOptions,
        number: usize,
    ) -> Result<Arc<Line>, lapin::Error> {
        let count = rabbitmq.urls.len().max(1);
        let url = rabbitmq.urls.get(number % count).map_or("amqp://127.0.0.1", String::as_str);
        let mut uri: AMQPUri = url.parse().map_err(|error| {
            tracing::error!(error, "the address of RabbitMQ is none");
            lapin::Error::from(std::io::Error::other("bad address"))
        })?;
        // Silence of two heartbeats ends a connection.
        let seconds = rabbitmq.request_wait.as_secs().div_ceil(2);
        uri.query.heartbeat = Some(u16::try_from(seconds).unwrap_or(u16::MAX).max(1));
        let properties = ConnectionProperties::default().with_connection_name("mainstay".into());
        let connection = Connection::connect_uri(uri, properties).await?;
        let live = connection.create_channel().await?;
        let prefix = rabbitmq.prefix.clone();
        for space in ["live", "kept"] {
            let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
            let name = format!("{prefix}.{space}");
            let nothing = FieldTable::default();
            live.exchange_declare(name.into(), ExchangeKind::Topic, options, nothing).await?;
        }
        let ackers = Mutex::default();
        let undertaker = tokio::sync::Mutex::default();
        let shared = shared.clone();
        let request_wait = rabbitmq.request_wait;
        Ok(Arc::new(Line { shared, prefix, request_wait, connection, live, ackers, undertaker }))
    }

    /// A channel on which all is confirmed.
    async fn confirming(&self) -> Result<Channel, lapin::Error> {
        let channel = self.connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    }

    fn ackers(&self) -> MutexGuard<'_, BTreeMap<u64, (Acker, Channel)>> {
        self.ackers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, space: &str, name: &str) -> ShortString {
        let whole = format!("{}.{space}.{name}", self.prefix);
        if whole.len() <= NAME_BYTES_MAX {
            return whole.into();
        }
        // FNV-1a, 64 bits.
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = whole.bytes().fold(0xcbf2_9ce4_8422_2325, step);
        let mut end = NAME_BYTES_MAX - 17;
        while !whole.is_char_boundary(end) {
            end -= 1;
        }
        format!("{}~{hash:016x}", &whole[..end]).into()
    }

    /// Tells the server of a message. It comes again if that is lost.
    fn settle(&self, tag: u64, is_done: bool) {
        // One of an earlier connection comes again anyway.
        let Some((acker, channel)) = self.ackers().remove(&tag) else { return };
        tokio::spawn(async move {
            let told = if is_done {
                acker.ack(BasicAckOptions::default()).await
            } else {
                acker.nack(BasicNackOptions { requeue: true, ..Default::default() }).await
            };
            if let Err(error) = told {
                tracing::debug!(%error, "an acknowledgement was lost");
            }
            drop(channel);
        });
    }

    /// Publishes what may not be lost.
    async fn put(
        &self,
        (exchange, key): (ShortString, ShortString),
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<Put, lapin::Error> {
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let properties = properties.with_delivery_mode(PERSISTENT);
        let channel = self.confirming().await?;
        let sent = channel.basic_publish(exchange, key, options, body, properties).await?;
        let confirmed = timeout(self.request_wait, sent).await;
        Ok(match confirmed {
            Ok(Ok(Confirmation::Ack(None))) => Put::Taken,
            Ok(Ok(Confirmation::Ack(Some(_)))) => Put::Unheard,
            _ => Put::Refused,
        })
    }
}

/// What became of what was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Put {
    Taken,
    /// There was no room for it, or no word came.
    Refused,
    /// No queue is there for it.
    Unheard,
}

async fn run(shared: Arc<Shared>, rabbitmq: RabbitmqOptions) {
    let (mut pause, mut is_told) = (PAUSES.0, false);
    let mut tags = 0;
    for number in 0.. {
        let opening = Line::open(&shared, &rabbitmq, number);
        let opened = timeout(rabbitmq.request_wait, opening).await;
        match opened {
            Ok(Ok(line)) => {
                (pause, is_told) = (PAUSES.0, false);
                shared.presence.set_away(false);
                tracing::info!("RabbitMQ is there");
                tags = serve(&line, tags).await;
                if shared.is_stopped() {
                    let close = line.connection.close(200, "bye".into());
                    let _ = timeout(LAST_WORDS, close).await;
                    return;
                }
                shared.presence.set_away(true);
                tracing::warn!("RabbitMQ is away; trying on");
                shared.act(|front, _| {
                    front.disconnected();
                    front.send_all_again();
                });
            }
            failed if !is_told => {
                is_told = true;
                let error = failed.map_err(|late| late.to_string());
                let error = error.and_then(|opened| opened.map_err(|error| error.to_string()));
                tracing::warn!(error = error.err(), "RabbitMQ is not there; trying on");
            }
            _ => {}
        }
        let until = shared.clock.now() + pause;
        pause = (pause * 2).min(PAUSES.1);
        while shared.clock.now() < until {
            shared.handle_timeout();
            forget_orders(&shared);
            if shared.is_stopped() {
                return;
            }
            sleep(shared.next_timeout().min(LOOK)).await;
        }
    }
}

/// What is ordered while the server is away: declarations and listeners are told when it is back, acknowledgements
/// have nobody to go to.
fn forget_orders(shared: &Shared) {
    while let Some(order) = shared.act(|front, _| front.poll_order()) {
        match order {
            Order::Dead { sender, .. } => sender.send(Err(Error::Unavailable("rabbitmq"))),
            Order::Bury { sender, .. } => sender.send(Err(Error::Unavailable("rabbitmq"))),
            Order::Waiting { sender, .. } => sender.send(Err(Error::Unavailable("rabbitmq"))),
            _ => {}
        }
    }
}

/// Works over one connection until it breaks; gives the last tag used.
async fn serve(line: &Arc<Line>, tags: u64) -> u64 {
    let shared = &line.shared;
    let tags = Arc::new(AtomicU64::new(tags));
    let mut tasks: BTreeMap<u64, JoinSet<()>> = BTreeMap::new();
    forget_orders(shared);
    let (kept, listening) = shared.act(|front, _| (front.kept(), front.listening()));
    for (topic, _) in kept {
        shared.act(|front, _| front.topic_made(&topic, None));
    }
    for listening in listening {
        tasks.insert(listening.ear, consume::listen(line, &tags, listening));
    }
    let mut publisher = JoinSet::new();
    publisher.spawn(publish(line.clone()));
    while !shared.is_stopped() && line.connection.status().connected() {
        let _ = timeout(shared.next_timeout().min(LOOK), shared.orders.notified()).await;
        shared.handle_timeout();
        work(line, &tags, &mut tasks);
    }
    work(line, &tags, &mut tasks);
    if shared.is_stopped() {
        // What was settled last is told if the server is there.
        sleep(PAUSES.0).await;
    }
    tags.load(Ordering::Relaxed)
}

/// Does what the front orders.
fn work(line: &Arc<Line>, tags: &Arc<AtomicU64>, tasks: &mut BTreeMap<u64, JoinSet<()>>) {
    while let Some(order) = line.shared.act(|front, _| front.poll_order()) {
        match order {
            Order::Declare { topic, .. } => {
                line.shared.act(|front, _| front.topic_made(&topic, None));
            }
            Order::Listen(listening) => {
                tasks.insert(listening.ear, consume::listen(line, tags, listening));
            }
            Order::Unlisten { ear } => drop(tasks.remove(&ear)),
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

/// Publishes what waits, in its order, as long as the connection lasts.
async fn publish(line: Arc<Line>) {
    while line.connection.status().connected() {
        match line.confirming().await {
            Ok(kept) => publish_over(&line, &kept).await,
            Err(error) => tracing::debug!(%error, "RabbitMQ: nothing can be published; trying on"),
        }
        // Nobody knows what became of the rest. A queue that was not there yet when the server
        // came back says nothing for ever to a channel that published to it.
        line.shared.act(|front, _| front.send_all_again());
        sleep(LOOK).await;
    }
}

/// Until a confirmation is missing.
async fn publish_over(line: &Arc<Line>, kept: &Channel) {
    let mut confirms = JoinSet::new();
    loop {
        let posted = line.shared.posts.notified();
        while let Some(live) = line.shared.next_live() {
            publish_live(line, live).await;
        }
        loop {
            let next = line.shared.lock().next_post();
            let Some(post) = next else { break };
            if publish_kept(line, kept, post, &mut confirms).await.is_err() {
                return;
            }
        }
        while let Some(confirmed) = confirms.try_join_next() {
            if !matches!(confirmed, Ok(true)) {
                return;
            }
        }
        // Topics become ready without a word to this task.
        let _ = timeout(LOOK, posted).await;
    }
}

async fn publish_live(line: &Line, live: Live) {
    let mut properties = BasicProperties::default();
    if let Some(id) = live.id {
        properties = properties.with_message_id(hex(id).into());
    }
    let (exchange, key) = (format!("{}.live", line.prefix), live.subject);
    let options = BasicPublishOptions::default();
    let sent =
        line.live.basic_publish(exchange.into(), key.into(), options, &live.body, properties);
    if let Err(error) = sent.await {
        tracing::debug!(%error, "what may be lost was lost");
    }
}

/// The task that it leaves tells whether the confirmation came.
async fn publish_kept(
    line: &Arc<Line>,
    kept: &Channel,
    post: Outgoing,
    confirms: &mut JoinSet<bool>,
) -> Result<(), lapin::Error> {
    let properties = BasicProperties::default()
        .with_message_id(hex(post.id).into())
        .with_delivery_mode(PERSISTENT);
    let (exchange, key) = (format!("{}.kept", line.prefix), post.subject.clone());
    let options = BasicPublishOptions::default();
    let sent = kept.basic_publish(exchange.into(), key.into(), options, &post.body, properties);
    let sent = sent.await?;
    let (shared, wait) = (line.shared.clone(), line.request_wait);
    confirms.spawn(async move {
        let Ok(Ok(confirmation)) = timeout(wait, sent).await else { return false };
        let result = match confirmation.is_ack() {
            true => Ok(Accepted::New),
            false => Err(Error::Busy(post.subject)),
        };
        shared.act(|front, _| front.confirmed(post.number, result));
        true
    });
    Ok(())
}

fn hex(id: u128) -> String {
    format!("{id:032x}")
}

fn text(text: impl Into<LongString>) -> AMQPValue {
    AMQPValue::LongString(text.into())
}
