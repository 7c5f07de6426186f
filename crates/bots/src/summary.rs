use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use client::CallError;

use crate::Histogram;

/// How many complaints are kept as text.
const COMPLAINTS_MAX: usize = 10;

/// Where a run stands, once a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Time since the start.
    pub elapsed: Duration,
    /// Bots that should play by now.
    pub started: u32,
    /// Bots that are connected now.
    pub connected: u32,
    /// Bots that have failed for good.
    pub failed: u32,
    /// Requests answered so far.
    pub answers: u64,
    /// Requests answered since the last progress.
    pub answers_now: u64,
    /// Messages pushed to the bots since the last progress.
    pub messages_now: u64,
    /// Answers and messages that were not as they should be.
    pub wrong_answers: u64,
    /// Sessions that ended against the bots' will.
    pub lost_sessions: u64,
    /// How often a session went on after a break.
    pub resumes: u64,
    /// Median time from request to answer, over the whole run.
    pub rtt_p50: Duration,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>4}s  {}/{} connected  {} answers/s  {} messages/s  p50 {:.1} ms  \
             {} wrong  {} lost  {} resumed  {} failed",
            self.elapsed.as_secs(),
            self.connected,
            self.started,
            self.answers_now,
            self.messages_now,
            self.rtt_p50.as_secs_f64() * 1e3,
            self.wrong_answers,
            self.lost_sessions,
            self.resumes,
            self.failed,
        )
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Bots that should have played.
    pub players: u32,
    /// Bots that were connected when the time was over.
    pub connected: u32,
    /// Bots that stopped: never let in, given up, without any sign for too long, or with a script
    /// that panicked.
    pub failed: u32,
    /// Requests sent.
    pub requests: u64,
    /// Requests answered, with a value or the method's own error.
    pub answers: u64,
    /// Requests that ended otherwise and were not excused by the script, by the reason.
    pub failed_requests: BTreeMap<&'static str, u64>,
    /// Pushes, casts and calls that came.
    pub messages: u64,
    /// Answers and messages that a script found wrong.
    pub wrong_answers: u64,
    /// Sessions that ended against the bots' will.
    pub lost_sessions: u64,
    /// Logins.
    pub logins: u64,
    /// How often a session went on after a break.
    pub resumes: u64,
    /// Tickets that the login service did not give at once.
    pub grant_failures: u64,
    /// From request to answer.
    pub rtt: Histogram,
    /// From ping to pong.
    pub ping: Histogram,
    /// Bytes received by all bots.
    pub bytes_in: u64,
    /// Bytes sent by all bots.
    pub bytes_out: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// The first complaints, for people.
    pub complaints: Vec<String>,
}

impl Summary {
    /// Whether everything was as it should be.
    pub fn passed(&self) -> bool {
        self.failed == 0
            && self.wrong_answers == 0
            && self.lost_sessions == 0
            && self.failed_requests.is_empty()
            && self.connected == self.players
    }

    /// Mean bytes that a bot received.
    pub fn bytes_in_per_bot(&self) -> u64 {
        self.bytes_in / u64::from(self.players.max(1))
    }

    /// Mean bytes that a bot sent.
    pub fn bytes_out_per_bot(&self) -> u64 {
        self.bytes_out / u64::from(self.players.max(1))
    }

    pub(crate) fn complain(&mut self, text: impl FnOnce() -> String) {
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(text());
        }
    }

    pub(crate) fn failed_request(&mut self, error: &CallError) {
        *self.failed_requests.entry(reason(error)).or_default() += 1;
    }
}

/// One word for the reason of a failed request.
fn reason(error: &CallError) -> &'static str {
    use proto::frame::Status;
    match error {
        CallError::Timeout => "timeout",
        CallError::NotSent => "not sent",
        CallError::RolledBack => "rolled back",
        CallError::Full { .. } => "full",
        CallError::TooLong { .. } => "too long",
        CallError::NotBound(_) => "not bound",
        CallError::Ended(_) => "session ended",
        CallError::Refused(Status::Busy) => "busy",
        CallError::Refused(Status::Gone) => "gone",
        CallError::Refused(Status::Denied) => "denied",
        CallError::Refused(Status::Unavailable) => "unavailable",
        CallError::Refused(Status::BadArgument) => "bad argument",
        CallError::Refused(Status::UnknownMethod) => "unknown method",
        _ => "other",
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |span: Duration| span.as_secs_f64() * 1e3;
        let verdict = if self.passed() { "PASS" } else { "FAIL" };
        let Summary { players, connected, failed, .. } = self;
        writeln!(
            f,
            "{verdict}  {players} players, {connected} connected at the end, {failed} failed"
        )?;
        writeln!(
            f,
            "      {} requests, {} answers, {} messages, {} wrong answers",
            self.requests, self.answers, self.messages, self.wrong_answers
        )?;
        writeln!(
            f,
            "      {} logins, {} resumes, {} lost sessions",
            self.logins, self.resumes, self.lost_sessions
        )?;
        for (name, histogram) in [("answer", &self.rtt), ("ping", &self.ping)] {
            writeln!(
                f,
                "      {name:<6} p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
                ms(histogram.percentile(500)),
                ms(histogram.percentile(900)),
                ms(histogram.percentile(990)),
                ms(histogram.max()),
            )?;
        }
        let seconds = self.elapsed.as_secs_f64().max(0.001);
        write!(
            f,
            "      per bot {} bytes in, {} bytes out ({:.0} and {:.0} a second) in {seconds:.1} s",
            self.bytes_in_per_bot(),
            self.bytes_out_per_bot(),
            self.bytes_in_per_bot() as f64 / seconds,
            self.bytes_out_per_bot() as f64 / seconds,
        )?;
        for (reason, count) in &self.failed_requests {
            write!(f, "\n      {count} requests failed: {reason}")?;
        }
        for complaint in &self.complaints {
            write!(f, "\n      - {complaint}")?;
        }
        Ok(())
    }
}
