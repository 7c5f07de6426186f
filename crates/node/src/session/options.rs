use std::time::Duration;

use proto::frame::{RESUME_GROUPS_MAX, RESUME_STREAMS_MAX};

/// What happens when an account that is playing logs in a second time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecondLogin {
    /// The first session ends with `Replaced`; the second is admitted.
    #[default]
    KickFirst,
    /// The second is closed with `AlreadyPlaying`, unless the first only waits for a resume.
    Refuse,
}

/// Limits and waits of sessions, streams and groups. Each counts per worker unless it says
/// otherwise.
#[derive(Clone, Debug)]
pub struct Options {
    /// What a second login of an account does.
    pub second_login: SecondLogin,
    /// How long a session without a connection waits for its client.
    pub resume_window: Duration,
    /// Most sessions that this worker is home of; further logins are closed with `Unavailable`.
    pub sessions_max: usize,
    /// Most streams of one session; a further binding is refused. At most
    /// [`RESUME_STREAMS_MAX`](proto::frame::RESUME_STREAMS_MAX) count, so that a client can name
    /// them all when it comes back.
    pub session_streams_max: usize,
    /// Most used tickets remembered; at the limit logins are refused rather than one forgotten.
    pub used_tickets_max: usize,
    /// Most ended sessions whose end is remembered for a late resume; the oldest go first.
    pub ended_max: usize,
    /// How long an owner may take to open a stream before it counts as away.
    pub bind_wait: Duration,
    /// Pause before the second try to open a stream; doubles with each try.
    pub bind_pause: Duration,
    /// Longest pause between tries.
    pub bind_pause_max: Duration,
    /// Tries for a stream that a login or a handler asked for. One that was open before and lost
    /// its owner is tried again for as long as the session lives.
    pub bind_tries: u32,

    /// Most streams that end at this worker's entities.
    pub streams_max: usize,
    /// Most frames of one stream that its client may leave unacknowledged while it is connected;
    /// beyond it the connection is closed with `SlowReader`, which the client may resume.
    pub unacked_frames_max: usize,
    /// The same in bytes of bodies.
    pub unacked_bytes_max: usize,
    /// Most frames added to one stream while its client is away; beyond it the session is lost.
    pub held_frames_max: usize,
    /// The same in bytes of bodies.
    pub held_bytes_max: usize,
    /// Most `latest` values kept for one stream while its client is away; further keys are dropped.
    pub held_latest_max: usize,
    /// Most requests of one stream that wait for their answer; a further one is answered `Busy`.
    pub open_requests_max: usize,
    /// Most calls to one client that wait for its answer; a further one fails with `Busy`.
    pub open_calls_max: usize,
    /// Most bytes of one message to clients; leaves room for the headers of a link frame.
    pub body_bytes_max: usize,
    /// How long a client may take to answer a call, unless the method says otherwise.
    pub call_wait: Duration,
    /// How long a handled frame may stay unacknowledged when nothing is sent that could carry the
    /// acknowledgement.
    pub ack_wait: Duration,

    /// Most groups.
    pub groups_max: usize,
    /// Most members of one group.
    pub group_members_max: usize,
    /// Most groups that one stream is a member of; a further join is refused. All streams of a
    /// session together have at most [`RESUME_GROUPS_MAX`](proto::frame::RESUME_GROUPS_MAX), so
    /// that a client can name them all when it comes back: the equal share of a stream is a limit
    /// too.
    pub stream_groups_max: usize,
    /// Most casts of a reliable group kept for members that are away.
    pub group_ring_frames_max: usize,
    /// The same in bytes of bodies.
    pub group_ring_bytes_max: usize,

    /// Switches one safety off. Only the simulator sets this, to prove that it would notice.
    #[doc(hidden)]
    pub mutant: Option<Mutant>,
}

/// A safety of sessions that the simulator can switch off.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A command that was handled before is handled again.
    DuplicatesTaken,
    /// What a client has missed is not sent again.
    NothingReplayed,
    /// A home admits a resume that a newer one has overtaken.
    AnyGeneration,
    /// A home does not remember used tickets.
    TicketsForgotten,
    /// A home believes that the end of an earlier connection is the end of the present one.
    StaleDetachTaken,
    /// A node that is to go leads no client away.
    NobodyLed,
    /// A session without a connection waits for ever.
    WindowEndless,
    /// The owners of a session's streams do not hear of its end.
    EndsUntold,
    /// Reliable casts that a member has missed are not sent again.
    CastsForgotten,
    /// A repeated request does not get its first answer.
    AnswersForgotten,
    /// A call to a client has no deadline.
    CallsEndless,
    /// What a client has not acknowledged does not move with its stream.
    RingNotMoved,
    /// Mail for an entity that moved does not wait for what was sent the old way.
    MarkerNotAwaited,
    /// A frame of a client's earlier connection is taken for one of the present one.
    StaleFramesTaken,
    /// What comes for a session that is on its way to its new home does not wait for it.
    NothingHeld,
    /// A new home of a session does not tell its gate and the owners of its streams.
    MovesUntold,
    /// A stream ends when the home of its session is lost.
    OrphansEnded,
}

impl Options {
    /// How many streams a session may have.
    pub(super) fn session_streams(&self) -> usize {
        self.session_streams_max.min(RESUME_STREAMS_MAX)
    }

    /// How many groups a stream may be in.
    pub(super) fn stream_groups(&self) -> usize {
        self.stream_groups_max.min(RESUME_GROUPS_MAX / self.session_streams().max(1))
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            second_login: SecondLogin::default(),
            resume_window: Duration::from_secs(60),
            sessions_max: 100_000,
            session_streams_max: 16,
            used_tickets_max: 400_000,
            ended_max: 20_000,
            bind_wait: Duration::from_secs(4),
            bind_pause: Duration::from_millis(100),
            bind_pause_max: Duration::from_secs(5),
            bind_tries: 5,
            streams_max: 200_000,
            unacked_frames_max: 4_096,
            unacked_bytes_max: 1024 * 1024,
            held_frames_max: 256,
            held_bytes_max: 64 * 1024,
            held_latest_max: 32,
            open_requests_max: 64,
            open_calls_max: 64,
            body_bytes_max: 1024 * 1024 - 1024,
            call_wait: Duration::from_secs(2),
            ack_wait: Duration::from_secs(1),
            groups_max: 20_000,
            group_members_max: 20_000,
            stream_groups_max: 10,
            group_ring_frames_max: 256,
            group_ring_bytes_max: 64 * 1024,
            mutant: None,
        }
    }
}
