use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::{GetStreamByNameErrorKind, GetStreamErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType, Stream};
use futures_util::StreamExt;
use tokio::time::sleep;

use super::consume::of_group;
use super::{ID, Line, ONLY, PAUSES, bytes, hex, name, proof, unhex};
use crate::answer::Sender;
use crate::{Dead, Error, matches};

const GROUP: &str = "Mainstay-Group";
const ATTEMPTS: &str = "Mainstay-Attempts";
const CAUSE: &str = "Mainstay-Cause";

/// When the server forgets who read the letters.
const FORGOTTEN: Duration = Duration::from_secs(10);

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn stream_name(line: &Line) -> String {
    format!("{}-dead", name(&line.nats.prefix))
}

/// The stream of dead letters, if there is one. Who looks into it changes nothing of how it is set up.
async fn stream(line: &Line) -> Result<Option<Stream>, Failure> {
    match line.jetstream.get_stream(stream_name(line)).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(error)
                if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                Ok(None)
            }
            _ => Err(error.into()),
        },
    }
}

/// Makes the stream of dead letters: the oldest go when it is full.
async fn make_stream(line: &Line) -> Result<(), Failure> {
    let max = line.shared.options.dead_max;
    let config = Config {
        name: stream_name(line),
        subjects: vec![line.subject("dead", ">")],
        discard: DiscardPolicy::Old,
        storage: StorageType::File,
        max_messages: i64::try_from(max).unwrap_or(i64::MAX),
        num_replicas: line.nats.replicas,
        ..Config::default()
    };
    line.jetstream.create_or_update_stream(config).await?;
    Ok(())
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
    make_stream(line).await?;
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
    let Some(stream) = stream(line).await? else { return Ok(Vec::new()) };
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
        Ok(result) => result,
        Err(error) => {
            tracing::warn!(%error, "a dead letter could not be taken away");
            Err(Error::Unavailable("nats"))
        }
    });
}

async fn try_bury(line: &Line, dead: &Dead, replay: bool) -> Result<Result<(), Error>, Failure> {
    const GONE: Result<(), Error> = Err(Error::NotFound);
    let Some(stream) = stream(line).await? else { return Ok(GONE) };
    let Ok(place) = u64::try_from(dead.place) else { return Ok(GONE) };
    let Ok(message) = stream.get_raw_message(place).await else { return Ok(GONE) };
    let found = (&*message.subject, &message.headers, &*message.payload);
    if letter(line, found, place).is_none_or(|letter| letter.id != dead.id) {
        return Ok(GONE);
    }
    if replay && !is_heard(line, dead).await? {
        return Ok(Err(Error::unheard(dead)));
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
    Ok(if stream.delete_message(place).await.unwrap_or(false) { Ok(()) } else { GONE })
}

/// Whether a replay has somebody to go to: a stream does not keep what has no consumer.
async fn is_heard(line: &Line, dead: &Dead) -> Result<bool, Failure> {
    let found = line.jetstream.stream_by_subject(line.subject("kept", &dead.subject)).await;
    let topic = match found {
        Ok(topic) => topic,
        Err(error) if error.kind() == GetStreamByNameErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let stream = line.jetstream.get_stream_no_info(topic).await?;
    let mut consumers = stream.consumers();
    while let Some(consumer) = consumers.next().await {
        let consumer = consumer?;
        let Some(filter) = line.bare(&consumer.config.filter_subject) else { continue };
        let is_theirs = match &dead.group {
            Some(group) => consumer.name == of_group(group, &filter),
            // Who listens alone has a name by chance.
            None => !consumer.name.ends_with(&of_group("", &filter)),
        };
        if is_theirs && matches(&filter, &dead.subject) {
            return Ok(true);
        }
    }
    Ok(false)
}
