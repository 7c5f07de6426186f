//! When it is certain what became of a message.
//!
//! A server that is told to end (seen with 2.9.10: `stream.stop`) strikes a stream off its list, then lets the
//! stream's consumers go, and only then the stream. In between nobody seems to want anything: what is published is
//! confirmed and dropped, and what one consumer is done with is dropped for all. So what a stream was told counts
//! once the same server has said, asked after it, that it still lists the stream: until then the consumers were
//! there. One question stands for all that came before it. What does not count is published again under its id,
//! which a server that has it knows.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::State;
use tokio::time::sleep;

use super::{Line, PAUSES, Taken};
use crate::types::Accepted;

/// The pause between two questions about one stream.
const PAUSE: Duration = Duration::from_millis(1);

/// What was said to a stream or by it and is not certain yet.
#[derive(Debug)]
pub(super) struct Told {
    pub what: Doubt,
    /// The server that was there before: each start of one has an id of its own.
    pub server: String,
}

#[derive(Debug)]
pub(super) enum Doubt {
    /// The post of this number was confirmed.
    Posted(u64, Accepted),
    /// A listener is done with it.
    Done(Taken),
}

/// What is known of each stream.
#[derive(Debug, Default)]
pub(super) struct Streams(BTreeMap<String, Stream>);

#[derive(Debug, Default)]
struct Stream {
    told: Vec<Told>,
    is_asked_about: bool,
    /// It was seen last with one consumer or none: what that is done with nobody else waits for.
    is_alone: bool,
}

impl Streams {
    fn stream(&mut self, name: &str) -> &mut Stream {
        if !self.0.contains_key(name) {
            self.0.insert(name.to_owned(), Stream::default());
        }
        self.0.get_mut(name).expect("it is there now")
    }
}

/// Which server is there.
pub(super) fn server(line: &Line) -> String {
    line.client.server_info().server_id
}

/// Something was said to a stream or by it: it counts once that is certain, else the message is published again.
pub(super) fn told(line: &Arc<Line>, name: String, told: Told) {
    let is_first = {
        let mut streams = line.streams();
        let stream = streams.stream(&name);
        stream.told.push(told);
        !mem::replace(&mut stream.is_asked_about, true)
    };
    if is_first {
        tokio::spawn(prove(line.clone(), name));
    }
}

/// Runs as long as there is something to be proven of a stream.
async fn prove(line: Arc<Line>, name: String) {
    loop {
        let mut told = {
            let mut streams = line.streams();
            let stream = streams.stream(&name);
            stream.is_asked_about = !stream.told.is_empty();
            mem::take(&mut stream.told)
        };
        if told.is_empty() {
            return;
        }
        let state = state(&line, &name).await;
        let is_alone = {
            let mut streams = line.streams();
            let stream = streams.stream(&name);
            match &state {
                Some(state) => stream.is_alone = state.consumer_count < 2,
                // What came while the question was open may be of the same end.
                None => told.append(&mut stream.told),
            }
            stream.is_alone
        };
        if state.is_none() {
            sleep(PAUSES.0).await;
        }
        let server = server(&line);
        let now = line.shared.clock.now();
        line.shared.act(|front, _| {
            for told in told {
                let is_certain = state.is_some() && told.server == server;
                match told.what {
                    Doubt::Posted(number, accepted) if is_certain => {
                        front.confirmed(number, Ok(accepted));
                    }
                    Doubt::Posted(number, accepted) => front.doubted(number, accepted),
                    Doubt::Done(Taken { subject, id, body, .. }) if !is_certain && !is_alone => {
                        front.publish_again(now, subject, id, body);
                    }
                    Doubt::Done(_) => {}
                }
            }
        });
        sleep(PAUSE).await;
    }
}

/// How a stream is that the server still lists, and so had its consumers until now.
pub(super) async fn state(line: &Line, name: &str) -> Option<State> {
    match line.jetstream.get_stream(name).await {
        Ok(stream) => Some(stream.cached_info().state.clone()),
        Err(error) => {
            tracing::debug!(name, %error, "a stream of NATS may be ending");
            None
        }
    }
}
