use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType, Stream};
use futures_util::StreamExt;
use tokio::time::sleep;

use super::{ID, Line, ONLY, PAUSES, bytes, hex, name, proof, unhex};
use crate::answer::Sender;
use crate::{Dead, Error};

const GROUP: &str = "Mainstay-Group";
const ATTEMPTS: &str = "Mainstay-Attempts";
const CAUSE: &str = "Mainstay-Cause";

/// When the server forgets who read the letters.
const FORGOTTEN: Duration = Duration::from_secs(10);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The stream of dead letters: the oldest go when it is full.
async fn stream(line: &Line) -> Result<Stream, Failure> {
    let name = format!("{}-dead", name(&line.nats.prefix));
    let max = line.shared.options.dead_max;
    let config = Config {
        name: name.clone(),
        subjects: vec![line.subject("dead", ">")],
        discard: DiscardPolicy::Old,
        storage: StorageType::File,
        max_messages: i64::try_from(max).unwrap_or(i64::MAX),
        num_replicas: line.nats.replicas,
        ..Config::default()
    };
    line.jetstream.create_or_update_stream(config).await?;
    Ok(line.jetstream.get_stream(name).await?)
}

/// Keeps a dead letter; only then the message is done with.
pub async fn set_aside(line: Arc<Line>, tag: u64, dead: Dead) {
    let mut pause = PAUSES.0;
    loop {
        match keep(&line, &dead).await {
            Ok(()) => return line.settle(tag, true),
            Err(error) => tracing::debug!(%error, "a dead letter waits"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

async fn keep(line: &Line, dead: &Dead) -> Result<(), Failure> {
    stream(line).await?;
    let mut message = PublishMessage::build()
        .payload(bytes(&dead.body))
        .message_id(hex(dead.place))
        .header(ID, hex(dead.id))
        .header(ATTEMPTS, dead.attempts.to_string())
        // Headers are lines.
        .header(CAUSE, dead.cause.replace(['\r', '\n'], " "));
    if let Some(group) = &dead.group {
        message = message.header(GROUP, group.as_str());
    }
    let subject = line.subject("dead", &dead.subject);
    line.jetstream.send_publish(subject, message).await?.await?;
    Ok(())
}

pub async fn list(line: Arc<Line>, scope: String, max: usize, sender: Sender<Vec<Dead>>) {
    let listed = read(&line, &scope, max).await;
    sender.send(listed.map_err(|error| {
        tracing::warn!(%error, "dead letters could not be read");
        Error::Unavailable("nats")
    }));
}

async fn read(line: &Line, scope: &str, max: usize) -> Result<Vec<Dead>, Failure> {
    let stream = stream(line).await?;
    let config = pull::Config {
        ack_policy: AckPolicy::None,
        filter_subject: line.subject("dead", &format!("{scope}>")),
        inactive_threshold: FORGOTTEN,
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await?;
    let mut letters = Vec::new();
    let mut messages = consumer.fetch().max_messages(max).messages().await?;
    while let Some(message) = messages.next().await {
        let message = message?;
        let place = message.info()?.stream_sequence;
        let Some(headers) = &message.headers else { continue };
        letters.extend(letter(line, (&message.subject, headers, &message.payload), place));
    }
    Ok(letters)
}

fn letter(
    line: &Line,
    (subject, headers, body): (&str, &HeaderMap, &[u8]),
    place: u64,
) -> Option<Dead> {
    let header = |name| header(headers, name);
    Some(Dead {
        subject: line.bare(subject)?,
        id: unhex(header(ID)?)?,
        body: body.into(),
        group: header(GROUP).map(str::to_owned),
        attempts: header(ATTEMPTS)?.parse().ok()?,
        cause: header(CAUSE).unwrap_or_default().to_owned(),
        place: u128::from(place),
    })
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.as_str())
}

pub async fn bury(line: Arc<Line>, dead: Dead, replay: bool, sender: Sender<()>) {
    sender.send(match try_bury(&line, &dead, replay).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::NotFound),
        Err(error) => {
            tracing::warn!(%error, "a dead letter could not be taken away");
            Err(Error::Unavailable("nats"))
        }
    });
}

/// Tells whether the letter was there.
async fn try_bury(line: &Line, dead: &Dead, replay: bool) -> Result<bool, Failure> {
    let stream = stream(line).await?;
    let Ok(place) = u64::try_from(dead.place) else { return Ok(false) };
    let Ok(message) = stream.get_raw_message(place).await else { return Ok(false) };
    let found = (&*message.subject, &message.headers, &*message.payload);
    if letter(line, found, place).is_none_or(|letter| letter.id != dead.id) {
        return Ok(false);
    }
    if replay {
        // Two who replay one letter at once publish the same message.
        let again = PublishMessage::build()
            .payload(bytes(&dead.body))
            .message_id(format!("replay-{place}-{}", hex(dead.id)))
            .header(ID, hex(dead.id))
            .header(ONLY, dead.group.clone().unwrap_or_default());
        let subject = line.subject("kept", &dead.subject);
        let server = proof::server(line);
        let told = line.jetstream.send_publish(subject, again).await?.await?;
        if proof::state(line, &told.stream).await.is_none() || proof::server(line) != server {
            return Err("whether it was replayed is not known".into());
        }
    }
    Ok(stream.delete_message(place).await.unwrap_or(false))
}
