//! When a confirmation is believed.
//!
//! A server that is told to end (seen with 2.9.10: `stream.stop`) strikes a stream off its list, then lets the
//! stream's consumers go, and only then the stream: what is published in between is confirmed and dropped, because
//! nobody seems to want it. So a confirmation counts once the same server has told, asked after it, that the stream
//! is still on its list: when it confirmed, the consumers were there. One question stands for all confirmations of
//! a stream that came before it.

use std::mem;
use std::sync::Arc;

use tokio::time::sleep;

use super::{Line, PAUSES};
use crate::types::Accepted;

/// What a server has confirmed, and is not believed yet.
#[derive(Debug)]
pub(super) struct Told {
    /// Of the post.
    pub number: u64,
    pub accepted: Accepted,
    /// The server that was there when it was published: each start of one has an id of its own.
    pub server: String,
}

/// Which server is there.
pub(super) fn server(line: &Line) -> String {
    line.client.server_info().server_id
}

/// A stream has confirmed a message: who published it is told once that is certain, else it is published again.
pub(super) fn told(line: &Arc<Line>, stream: String, told: Told) {
    let mut all = line.told();
    if let Some(waiting) = all.get_mut(&stream) {
        waiting.push(told);
        return;
    }
    all.insert(stream.clone(), vec![told]);
    drop(all);
    tokio::spawn(prove(line.clone(), stream));
}

/// Runs as long as there is something to be proven of a stream.
async fn prove(line: Arc<Line>, stream: String) {
    loop {
        let mut asked = mem::take(line.told().get_mut(&stream).expect("only this task removes it"));
        if asked.is_empty() {
            let mut all = line.told();
            // One may have come between the two lines above.
            if all[&stream].is_empty() {
                all.remove(&stream);
                return;
            }
            continue;
        }
        let is_listed = is_listed(&line, &stream).await;
        if !is_listed {
            // What came while the question was open may be of the same end.
            asked.append(line.told().get_mut(&stream).expect("only this task removes it"));
            sleep(PAUSES.0).await;
        }
        let server = server(&line);
        line.shared.act(|front, _| {
            for told in asked {
                if is_listed && told.server == server {
                    front.confirmed(told.number, Ok(told.accepted));
                } else {
                    front.doubted(told.number, told.accepted);
                }
            }
        });
    }
}

/// Whether the server still has a stream, and so had its consumers until now.
pub(super) async fn is_listed(line: &Line, stream: &str) -> bool {
    match line.jetstream.get_stream(stream).await {
        Ok(_) => true,
        Err(error) => {
            tracing::debug!(stream, %error, "NATS confirmed and may be ending; trying on");
            false
        }
    }
}
