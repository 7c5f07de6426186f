use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::{HeaderMap, Message, jetstream};
use futures_util::StreamExt;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::{ID, Line, ONLY, PAUSES, Taken, hear, name, unhex};
use crate::answer::Sender;
use crate::remote::front::{Incoming, Kept, Listening};
use crate::{Delivery, Error};

/// How long a request for messages waits at the server.
const ASK: Duration = Duration::from_secs(5);

/// Starts the tasks of a listener.
pub fn listen(line: &Arc<Line>, listening: Listening) -> Vec<JoinHandle<()>> {
    let mut tasks = vec![tokio::spawn(hear(line.clone(), listening.clone()))];
    for (topic, filter, delivery) in listening.kept.clone() {
        let line = line.clone();
        let consumed = (topic, filter, delivery);
        tasks.push(tokio::spawn(consume(line, listening.clone(), consumed)));
    }
    tasks
}

/// Asks for messages of one topic, for ever.
async fn consume(line: Arc<Line>, listening: Listening, of: (String, String, Delivery)) {
    let (topic, filter, delivery) = of;
    let mut is_ready = false;
    let mut pause = PAUSES.0;
    loop {
        match open(&line, &listening, (&topic, &filter, delivery)).await {
            Ok(consumer) => {
                if !std::mem::replace(&mut is_ready, true) {
                    line.shared.act(|front, _| front.part_ready(listening.ear));
                }
                pause = PAUSES.0;
                let broken = pull(&line, listening.ear, &consumer).await;
                tracing::debug!(topic, error = broken, "NATS: asking anew");
            }
            Err(error) => tracing::debug!(topic, error, "NATS: no consumer yet"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Tells how many messages wait for a group and were not given out.
pub async fn waiting(line: Arc<Line>, group: String, kept: Vec<Kept>, sender: Sender<u64>) {
    let mut all = 0;
    for (topic, filter, _) in &kept {
        let stream = line.jetstream.get_stream_no_info(line.stream(topic)).await;
        let Ok(stream) = stream else { return sender.send(Err(Error::Unavailable("nats"))) };
        match stream.consumer_info(of_group(&group, filter)).await {
            Ok(info) => all += info.num_pending,
            Err(error) if is_absent(&error.kind()) => {}
            Err(error) => {
                tracing::debug!(%error, topic, "NATS: nobody knows how much waits");
                return sender.send(Err(Error::Unavailable("nats")));
            }
        }
    }
    sender.send(Ok(all));
}

fn is_absent(error: &ConsumerInfoErrorKind) -> bool {
    matches!(error, ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound)
}

/// The name of a group's consumer.
pub fn of_group(group: &str, filter: &str) -> String {
    format!("{}-{}", name(group), name(filter))
}

async fn open(
    line: &Line,
    listening: &Listening,
    (topic, filter, delivery): (&str, &str, Delivery),
) -> Result<Consumer<Config>, String> {
    if !line.shared.lock().is_made(topic) {
        return Err("its topic is not made".to_owned());
    }
    let options = &line.shared.options;
    // A durable group is kept for ever; who listens alone is forgotten soon after its process.
    let (own_name, idle) = match &listening.group {
        Some(group) if delivery == Delivery::Durable => (of_group(group, filter), Duration::ZERO),
        Some(group) => (of_group(group, filter), options.idle_wait),
        None => (listening.name.clone(), options.idle_wait),
    };
    let config = Config {
        durable_name: Some(own_name),
        deliver_policy: DeliverPolicy::New,
        ack_policy: AckPolicy::Explicit,
        ack_wait: options.silence_wait,
        max_deliver: -1,
        max_ack_pending: -1,
        filter_subject: line.subject("kept", filter),
        inactive_threshold: idle,
        ..Config::default()
    };
    let made = line.jetstream.create_consumer_on_stream(config, line.stream(topic)).await;
    made.map_err(|error| {
        let text = error.to_string();
        if text.contains("stream not found") {
            line.shared.act(|front, _| front.topic_lost(topic));
        }
        text
    })
}

/// Asks for as many messages as there are credits for, until something is wrong.
async fn pull(line: &Arc<Line>, ear: u64, consumer: &Consumer<Config>) -> String {
    loop {
        let freed = line.shared.room.notified();
        let room = line.shared.lock().room(ear);
        if room == 0 {
            // A settled message may have freed a credit between the two lines above.
            let _ = timeout(PAUSES.0 * 4, freed).await;
            continue;
        }
        let asked = consumer.batch().max_messages(room).expires(ASK).messages().await;
        let mut batch = match asked {
            Ok(batch) => batch,
            Err(error) => return error.to_string(),
        };
        loop {
            // The server answers each request in its time; one that does not has forgotten it.
            match timeout(ASK + line.nats.request_wait, batch.next()).await {
                Ok(Some(Ok(message))) => deliver(line, ear, message),
                Ok(Some(Err(error))) => return error.to_string(),
                Ok(None) => break,
                Err(_) => return "a request was forgotten".to_owned(),
            }
        }
    }
}

fn deliver(line: &Arc<Line>, ear: u64, message: jetstream::Message) {
    let (attempts, sequence, stream) = match message.info() {
        Ok(info) => (
            u32::try_from(info.delivered).unwrap_or(u32::MAX),
            info.stream_sequence,
            info.stream.to_owned(),
        ),
        Err(error) => {
            tracing::warn!(%error, "NATS: a message without its particulars");
            return;
        }
    };
    let (message, acker) = message.split();
    let Some(subject) = line.bare(&message.subject) else { return };
    let header = |name| header(message.headers.as_ref(), name);
    let (own_id, only) = (header(ID).and_then(|id| unhex(&id)), header(ONLY));
    let body: Arc<[u8]> = message.payload.as_ref().into();
    // A replay is for one group alone, which loses nothing by finishing with it.
    let taken = own_id.filter(|_| only.is_none()).map(|id| {
        let (subject, body) = (subject.clone(), body.clone());
        Taken { stream, subject, id, body }
    });
    let tag = line.keep(acker, taken);
    // One that another program published has no id of ours: its place in the stream is one.
    let id = Some(own_id.unwrap_or(u128::from(sequence)));
    let incoming = Incoming { subject, body, id, attempts, tag: Some(tag), only };
    line.shared.deliver(ear, incoming);
}

pub fn deliver_live(line: &Arc<Line>, ear: u64, message: Message) {
    let Some(subject) = line.bare(&message.subject) else { return };
    let id = header(message.headers.as_ref(), ID).and_then(|id| unhex(&id));
    let body = message.payload.as_ref().into();
    let incoming = Incoming { subject, body, id, attempts: 1, tag: None, only: None };
    line.shared.deliver(ear, incoming);
}

fn header(headers: Option<&HeaderMap>, name: &str) -> Option<String> {
    headers?.get(name).map(|value| value.as_str().to_owned())
}
