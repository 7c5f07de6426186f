use std::time::Duration;

/// What a client holds, waits for and sends at most.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Longest frame taken from the server before it let us in, in bytes.
    pub greeting_bytes_max: usize,
    /// Longest frame taken from the server after that, in bytes.
    pub frame_bytes_max: usize,
    /// Most commands of one stream kept until the server has applied them.
    pub resend_frames_max: usize,
    /// Most bytes of bodies of one stream kept until the server has applied them.
    pub resend_bytes_max: usize,
    /// Most requests without an answer, over all streams.
    pub requests_max: usize,
    /// Most server calls that wait for our answer; further ones are answered `Busy`.
    pub calls_max: usize,
    /// Most streams, bound or asked for by name.
    pub streams_max: usize,
    /// Most keys of `tell_latest` that wait for the next flush, over all streams.
    pub latest_max: usize,
    /// Most bytes that wait for a server that does not read; more breaks the connection.
    pub outgoing_bytes_max: usize,
    /// How long a request waits for its answer if it does not say.
    pub request_wait: Duration,
    /// How long connecting may take.
    pub connect_wait: Duration,
    /// How long the server may take to let us in.
    pub handshake_wait: Duration,
    /// A ping goes out this often; a shorter interval named by the server wins.
    pub heartbeat: Duration,
    /// Silence of this many heartbeats breaks the connection.
    pub missed_max: u32,
    /// An acknowledgement waits at most this long for a frame to ride on.
    pub ack_wait: Duration,
    /// The pause before the first reconnect; each further one is twice as long.
    pub retry_first: Duration,
    /// The longest pause between reconnects.
    pub retry_max: Duration,
    /// Reconnects in a row that may fail before the session ends; `None` tries for ever.
    pub tries_max: Option<u32>,
    /// A connection that held this long makes the next pause short again.
    pub stable_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            greeting_bytes_max: 4 * 1024,
            frame_bytes_max: 1024 * 1024,
            resend_frames_max: 256,
            resend_bytes_max: 64 * 1024,
            requests_max: 256,
            calls_max: 64,
            streams_max: 64,
            latest_max: 64,
            outgoing_bytes_max: 1024 * 1024,
            request_wait: Duration::from_secs(5),
            connect_wait: Duration::from_secs(3),
            handshake_wait: Duration::from_secs(5),
            heartbeat: Duration::from_secs(6),
            missed_max: 3,
            ack_wait: Duration::from_secs(1),
            retry_first: Duration::from_millis(600),
            retry_max: Duration::from_secs(10),
            tries_max: Some(6),
            stable_after: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// The pause before reconnect number `streak` (1, 2, ...) in a row, without jitter.
    pub(crate) fn pause(&self, streak: u32) -> Duration {
        let mut pause = self.retry_first;
        for _ in 1..streak {
            if pause >= self.retry_max {
                break;
            }
            pause *= 2;
        }
        pause.min(self.retry_max)
    }
}
