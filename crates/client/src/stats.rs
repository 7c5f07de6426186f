use std::time::Duration;

/// Counters of one session, and what its pings measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The last round trip, or `None` before the first.
    pub rtt: Option<Duration>,
    /// Smoothed round trip: an eighth of each new one (RFC 6298).
    pub rtt_smooth: Duration,
    /// Smoothed change between round trips: a sixteenth of each new one (RFC 3550).
    pub jitter: Duration,
    /// Payload bytes received, without the transport's own.
    pub bytes_in: u64,
    /// Payload bytes handed out for sending.
    pub bytes_out: u64,
    /// Frames received.
    pub frames_in: u64,
    /// Frames handed out for sending.
    pub frames_out: u64,
    /// How often a login succeeded.
    pub logins: u64,
    /// How often the session went on after a break.
    pub resumes: u64,
    /// How often a connection broke.
    pub losses: u64,
    /// Requests taken.
    pub requests: u64,
    /// Commands sent again after a break.
    pub resent: u64,
    /// Frames for streams or groups that we do not have.
    pub strays: u64,
}

impl Stats {
    pub(crate) fn measured(&mut self, rtt: Duration) {
        match self.rtt {
            None => self.rtt_smooth = rtt,
            Some(before) => {
                self.rtt_smooth = (self.rtt_smooth * 7 + rtt) / 8;
                self.jitter = (self.jitter * 15 + rtt.abs_diff(before)) / 16;
            }
        }
        self.rtt = Some(rtt);
    }
}
