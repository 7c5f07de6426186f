use std::sync::Arc;

use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel};
use tokio::time::sleep;

use super::consume::is_absent;
use super::{Line, ONLY, PAUSES, Put, hex, text};
use crate::answer::Sender;
use crate::{Dead, Error};

const PLACE: &str = "mainstay-place";
const SUBJECT: &str = "mainstay-subject";
const GROUP: &str = "mainstay-group";
const ATTEMPTS: &str = "mainstay-attempts";
const CAUSE: &str = "mainstay-cause";

fn queue(line: &Line) -> ShortString {
    format!("{}.dead", line.prefix).into()
}

/// A channel of its own: what is looked at on it is back in its place when it closes. None if there are no
/// letters yet. Who looks at them changes nothing of how their queue is set up.
async fn open(line: &Line) -> Result<Option<Channel>, lapin::Error> {
    let channel = line.connection.create_channel().await?;
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    match channel.queue_declare(queue(line), options, FieldTable::default()).await {
        Ok(_) => Ok(Some(channel)),
        Err(error) if is_absent(error.kind()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes their queue: the oldest go when it is full.
async fn make_queue(line: &Line) -> Result<(), lapin::Error> {
    let channel = line.connection.create_channel().await?;
    let max = i64::try_from(line.shared.options.dead_max).unwrap_or(i64::MAX);
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(max));
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue(line), options, arguments).await?;
    Ok(())
}

/// Keeps a dead letter; only then the message is done with.
pub async fn set_aside(line: Arc<Line>, tag: u64, dead: Dead) {
    while line.connection.status().connected() {
        match keep(&line, &dead).await {
            Ok(Put::Taken) => return line.settle(tag, true),
            Ok(_) => tracing::debug!("no room for a dead letter"),
            Err(error) => tracing::debug!(%error, "a dead letter waits"),
        }
        sleep(PAUSES.1).await;
    }
}

async fn keep(line: &Line, dead: &Dead) -> Result<Put, lapin::Error> {
    make_queue(line).await?;
    let mut headers = FieldTable::default();
    headers.insert(PLACE.into(), text(hex(dead.place)));
    headers.insert(SUBJECT.into(), text(dead.subject.clone()));
    headers.insert(ATTEMPTS.into(), AMQPValue::LongUInt(dead.attempts));
    headers.insert(CAUSE.into(), text(dead.cause.clone()));
    if let Some(group) = &dead.group {
        headers.insert(GROUP.into(), text(group.clone()));
    }
    let properties =
        BasicProperties::default().with_message_id(hex(dead.id).into()).with_headers(headers);
    line.put(("".into(), queue(line)), &dead.body, properties).await
}

pub async fn list(line: Arc<Line>, scope: String, max: usize, sender: Sender<Vec<Dead>>) {
    let _alone = line.undertaker.lock().await;
    let listed = read(&line, &scope, max).await;
    sender.send(listed.map_err(|error| {
        tracing::warn!(%error, "dead letters could not be read");
        Error::Unavailable("rabbitmq")
    }));
}

async fn read(line: &Line, scope: &str, max: usize) -> Result<Vec<Dead>, lapin::Error> {
    let Some(channel) = open(line).await? else { return Ok(Vec::new()) };
    let mut letters = Vec::new();
    while letters.len() < max
        && let Some(message) = channel.basic_get(queue(line), BasicGetOptions::default()).await?
    {
        letters.extend(letter(&message).filter(|letter| letter.subject.starts_with(scope)));
    }
    channel.close(200, "read".into()).await?;
    Ok(letters)
}

fn letter(message: &BasicGetMessage) -> Option<Dead> {
    let properties = &message.delivery.properties;
    let headers = properties.headers().as_ref()?.inner();
    let string = |name: &str| match headers.get(name) {
        Some(AMQPValue::LongString(text)) => {
            Some(String::from_utf8_lossy(text.as_bytes()).into_owned())
        }
        _ => None,
    };
    let number = |text: &str| u128::from_str_radix(text, 16).ok();
    Some(Dead {
        subject: string(SUBJECT)?,
        id: number(properties.message_id().as_ref()?.as_str())?,
        body: message.delivery.data.as_slice().into(),
        group: string(GROUP),
        attempts: match headers.get(ATTEMPTS) {
            Some(AMQPValue::LongUInt(attempts)) => *attempts,
            _ => 0,
        },
        cause: string(CAUSE)?,
        place: number(&string(PLACE)?)?,
    })
}

pub async fn bury(line: Arc<Line>, dead: Dead, replay: bool, sender: Sender<()>) {
    let _alone = line.undertaker.lock().await;
    sender.send(match try_bury(&line, &dead, replay).await {
        Ok(result) => result,
        Err(error) => {
            tracing::warn!(%error, "a dead letter could not be taken away");
            Err(Error::Unavailable("rabbitmq"))
        }
    });
}

async fn try_bury(
    line: &Line,
    dead: &Dead,
    replay: bool,
) -> Result<Result<(), Error>, lapin::Error> {
    let Some(channel) = open(line).await? else { return Ok(Err(Error::NotFound)) };
    let mut result = Err(Error::NotFound);
    while let Some(message) = channel.basic_get(queue(line), BasicGetOptions::default()).await? {
        if letter(&message).is_none_or(|letter| letter.place != dead.place) {
            continue;
        }
        let put = if replay { again(line, dead).await? } else { Put::Taken };
        result = match put {
            Put::Taken => {
                message.delivery.acker.ack(BasicAckOptions::default()).await?;
                Ok(())
            }
            Put::Refused => Err(Error::Busy(dead.subject.clone())),
            Put::Unheard => Err(Error::unheard(dead)),
        };
        break;
    }
    channel.close(200, "done".into()).await?;
    Ok(result)
}

async fn again(line: &Line, dead: &Dead) -> Result<Put, lapin::Error> {
    let mut headers = FieldTable::default();
    headers.insert(ONLY.into(), text(dead.group.clone().unwrap_or_default()));
    let properties =
        BasicProperties::default().with_message_id(hex(dead.id).into()).with_headers(headers);
    let exchange = format!("{}.kept", line.prefix).into();
    line.put((exchange, dead.subject.as_str().into()), &dead.body, properties).await
}
