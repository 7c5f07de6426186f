use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Consumer, ErrorKind};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Line, ONLY, PAUSES, text};
use crate::answer::Sender;
use crate::remote::front::{Incoming, Kept, Listening};
use crate::{Delivery as Class, Error, Options};

/// So often may a quorum queue give out a message: more than any listener lets it.
const DELIVERIES_MAX: i64 = 1 << 30;

/// Starts the tasks of a listener.
pub fn listen(line: &Arc<Line>, tags: &Arc<AtomicU64>, listening: Listening) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(consume(line.clone(), tags.clone(), listening.clone(), None));
    for (_, filter, class) in listening.kept.clone() {
        let part = Some((filter, class));
        tasks.spawn(consume(line.clone(), tags.clone(), listening.clone(), part));
    }
    tasks
}

/// One part of a listener: what may be lost, or one topic that may not. Tries on while the
/// connection lasts.
async fn consume(
    line: Arc<Line>,
    tags: Arc<AtomicU64>,
    listening: Listening,
    part: Option<(String, Class)>,
) {
    let ear = listening.ear;
    let mut is_ready = false;
    let mut pause = PAUSES.0;
    if part.is_none() {
        line.shared.live_said(listening.after).await;
    }
    loop {
        match open(&line, &listening, part.as_ref()).await {
            Ok((channel, mut consumer)) => {
                if !std::mem::replace(&mut is_ready, true) {
                    line.shared.act(|front, _| front.part_ready(ear));
                }
                pause = PAUSES.0;
                while let Some(Ok(delivery)) = consumer.next().await {
                    let incoming = match &part {
                        None => incoming(delivery, None),
                        Some(_) => {
                            let acker = delivery.acker.clone();
                            let tag = tags.fetch_add(1, Ordering::Relaxed) + 1;
                            line.ackers().insert(tag, (acker, channel.clone()));
                            incoming(delivery, Some(tag))
                        }
                    };
                    line.shared.deliver(ear, incoming);
                }
            }
            Err(error) => {
                let pattern = &listening.pattern;
                tracing::warn!(%error, pattern, "RabbitMQ: not listened to; trying on");
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Tells how many messages wait for a group and were not given out.
pub async fn waiting(line: Arc<Line>, group: String, kept: Vec<Kept>, sender: Sender<u64>) {
    let mut all = 0;
    for (topic, filter, _) in &kept {
        match count(&line, &group, filter).await {
            Ok(count) => all += u64::from(count),
            Err(error) if is_absent(error.kind()) => {}
            Err(error) => {
                tracing::debug!(%error, topic, "RabbitMQ: nobody knows how much waits");
                return sender.send(Err(Error::Unavailable("rabbitmq")));
            }
        }
    }
    sender.send(Ok(all));
}

async fn count(line: &Line, group: &str, filter: &str) -> Result<u32, lapin::Error> {
    // A queue that is not there ends its channel.
    let channel = line.connection.create_channel().await?;
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let queue = of_group(line, "kept", group, filter);
    let queue = channel.queue_declare(queue, options, FieldTable::default()).await?;
    Ok(queue.message_count())
}

pub fn is_absent(error: &ErrorKind) -> bool {
    matches!(error, ErrorKind::ProtocolError(error) if error.get_id() == 404)
}

/// The name of a group's queue.
fn of_group(line: &Line, space: &str, group: &str, filter: &str) -> ShortString {
    line.name(space, &format!("{group}.{filter}"))
}

async fn open(
    line: &Line,
    listening: &Listening,
    part: Option<&(String, Class)>,
) -> Result<(Channel, Consumer), lapin::Error> {
    let channel = line.connection.create_channel().await?;
    let Listening { pattern, group, name, credits, .. } = listening;
    let (space, filter) = part.map_or(("live", pattern), |(filter, _)| ("kept", filter));
    let queue = match group {
        Some(group) => of_group(line, space, group, filter),
        None => line.name(space, name),
    };
    let (options, arguments) = match part {
        None => {
            let exclusive = group.is_none();
            let options =
                QueueDeclareOptions { exclusive, auto_delete: true, ..Default::default() };
            (options, FieldTable::default())
        }
        Some((_, class)) => {
            let is_forever = group.is_some() && *class == Class::Durable;
            let options = QueueDeclareOptions { durable: true, ..Default::default() };
            (options, quorum(&line.shared.options, is_forever))
        }
    };
    channel.queue_declare(queue.clone(), options, arguments).await?;
    let exchange = ShortString::from(format!("{}.{space}", line.prefix));
    let (bind, nothing) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(queue.clone(), exchange, key(filter).into(), bind, nothing).await?;
    let no_ack = part.is_none();
    if !no_ack {
        let credits = u16::try_from(*credits).unwrap_or(u16::MAX);
        channel.basic_qos(credits, BasicQosOptions::default()).await?;
    }
    let options = BasicConsumeOptions { no_ack, ..Default::default() };
    let consumer = channel.basic_consume(queue, "".into(), options, FieldTable::default()).await?;
    Ok((channel, consumer))
}

/// A queue that refuses what it has no room for.
fn quorum(options: &Options, is_forever: bool) -> FieldTable {
    let number = |count: usize| AMQPValue::LongLongInt(i64::try_from(count).unwrap_or(i64::MAX));
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert("x-max-length".into(), number(options.kept_messages_max));
    arguments.insert("x-overflow".into(), text("reject-publish"));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERIES_MAX));
    if !is_forever {
        let idle = usize::try_from(options.idle_wait.as_millis()).unwrap_or(usize::MAX);
        arguments.insert("x-expires".into(), number(idle));
    }
    arguments
}

/// A pattern as AMQP writes it; there `#` is for no word as well.
fn key(pattern: &str) -> String {
    match pattern.strip_suffix('>') {
        Some(rest) => format!("{rest}*.#"),
        None => pattern.to_owned(),
    }
}

fn incoming(delivery: Delivery, tag: Option<u64>) -> Incoming {
    let properties = delivery.properties;
    let id = properties.message_id().as_ref();
    let id = id.and_then(|id| u128::from_str_radix(id.as_str(), 16).ok());
    let header = |name: &str| properties.headers().as_ref()?.inner().get(name).cloned();
    // A quorum queue says how often it has given out a message before.
    let before = match header("x-delivery-count") {
        Some(AMQPValue::LongLongInt(count)) => u32::try_from(count).unwrap_or(0),
        Some(AMQPValue::LongInt(count)) => u32::try_from(count).unwrap_or(0),
        Some(AMQPValue::ShortInt(count)) => u32::try_from(count).unwrap_or(0),
        Some(AMQPValue::ShortShortInt(count)) => u32::try_from(count).unwrap_or(0),
        _ => u32::from(delivery.redelivered),
    };
    let only = match header(ONLY) {
        Some(AMQPValue::LongString(group)) => {
            Some(String::from_utf8_lossy(group.as_bytes()).into_owned())
        }
        _ => None,
    };
    Incoming {
        subject: delivery.routing_key.as_str().to_owned(),
        body: delivery.data.into(),
        id,
        attempts: before.saturating_add(1),
        tag,
        only,
    }
}
