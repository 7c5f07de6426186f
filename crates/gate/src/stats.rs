/// Why the gate held something back. One counter each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Rule {
    /// The worker has as many connections as it may have.
    Connections,
    /// The address has as many connections as it may have.
    AddressConnections,
    /// The network opens connections too fast.
    NetworkHandshakes,
    /// The account logs in too often.
    AccountLogins,
    /// The address or account is banned.
    Banned,
    /// Only places for operators are left.
    OperatorPlaces,
    /// The gate is draining.
    Draining,
    /// No complete login in time.
    HandshakeTime,
    /// A frame is longer than allowed.
    FrameBytes,
    /// Bytes that the protocol does not allow.
    Protocol,
    /// The client speaks another version.
    Version,
    /// Ticket, token or proof is not good.
    Ticket,
    /// The session's home did not answer in time, or there is none.
    HomeWait,
    /// A client that is not logged in does not read what it asked for.
    OutputBeforeLogin,
    /// More was held for a login under way than allowed.
    Held,
    /// A begun frame came too slowly.
    SlowSender,
    /// The client read too slowly.
    SlowReader,
    /// Unnumbered output that a newer one of its kind replaced.
    Merged,
    /// The client was silent too long.
    Silent,
    /// The session sent too many frames.
    Messages,
    /// The session sent too many bytes.
    Bytes,
    /// Unnumbered frames dropped because the session is over its rate.
    Thinned,
    /// A frame for a stream that leads nowhere.
    Unroutable,
    /// More streams than a session may have.
    Streams,
    /// More groups than a connection may be in.
    Groups,
    /// A policy refused a frame.
    Policy,
    /// The link to the owner was full, so the client was not read for a while.
    Paused,
    /// A node was lost and sessions with it.
    NodeLost,
    /// An account asked too often for what it may not have, and is banned.
    Denied,
    /// A link frame for a connection or group that is no more.
    Stale,
    /// A link frame that could not be read.
    LinkFrame,
}

impl Rule {
    /// All rules, in the order of their numbers.
    pub const ALL: [Rule; 31] = [
        Rule::Connections,
        Rule::AddressConnections,
        Rule::NetworkHandshakes,
        Rule::AccountLogins,
        Rule::Banned,
        Rule::OperatorPlaces,
        Rule::Draining,
        Rule::HandshakeTime,
        Rule::FrameBytes,
        Rule::Protocol,
        Rule::Version,
        Rule::Ticket,
        Rule::HomeWait,
        Rule::OutputBeforeLogin,
        Rule::Held,
        Rule::SlowSender,
        Rule::SlowReader,
        Rule::Merged,
        Rule::Silent,
        Rule::Messages,
        Rule::Bytes,
        Rule::Thinned,
        Rule::Unroutable,
        Rule::Streams,
        Rule::Groups,
        Rule::Policy,
        Rule::Paused,
        Rule::NodeLost,
        Rule::Denied,
        Rule::Stale,
        Rule::LinkFrame,
    ];

    /// The rule's name in metrics and on the console.
    pub const fn name(self) -> &'static str {
        match self {
            Rule::Connections => "connections",
            Rule::AddressConnections => "address_connections",
            Rule::NetworkHandshakes => "network_handshakes",
            Rule::AccountLogins => "account_logins",
            Rule::Banned => "banned",
            Rule::OperatorPlaces => "operator_places",
            Rule::Draining => "draining",
            Rule::HandshakeTime => "handshake_time",
            Rule::FrameBytes => "frame_bytes",
            Rule::Protocol => "protocol",
            Rule::Version => "version",
            Rule::Ticket => "ticket",
            Rule::HomeWait => "home_wait",
            Rule::OutputBeforeLogin => "output_before_login",
            Rule::Held => "held",
            Rule::SlowSender => "slow_sender",
            Rule::SlowReader => "slow_reader",
            Rule::Merged => "merged",
            Rule::Silent => "silent",
            Rule::Messages => "messages",
            Rule::Bytes => "bytes",
            Rule::Thinned => "thinned",
            Rule::Unroutable => "unroutable",
            Rule::Streams => "streams",
            Rule::Groups => "groups",
            Rule::Policy => "policy",
            Rule::Paused => "paused",
            Rule::NodeLost => "node_lost",
            Rule::Denied => "denied",
            Rule::Stale => "stale",
            Rule::LinkFrame => "link_frame",
        }
    }
}

/// What a gate worker holds now and has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections now, logged in or not.
    pub connections: u64,
    /// Admitted sessions now.
    pub sessions: u64,
    /// Logins and resumes that wait for their home now.
    pub waiting: u64,
    /// Groups with members here now.
    pub groups: u64,
    /// Memberships in those groups now.
    pub members: u64,
    /// Routes of streams now.
    pub routes: u64,
    /// Connections accepted since the start.
    pub opened: u64,
    /// Sessions admitted by a login since the start.
    pub logins: u64,
    /// Sessions admitted by a resume since the start.
    pub resumes: u64,
    /// Live connections taken over from a predecessor since the start.
    pub taken: u64,
    /// Live connections given to a successor since the start.
    pub given: u64,
    /// Bytes received from clients.
    pub bytes_in: u64,
    /// Bytes written to clients.
    pub bytes_out: u64,
    /// Frames forwarded from clients to owners.
    pub frames_up: u64,
    /// Frames forwarded from owners to clients.
    pub frames_down: u64,
    /// Casts received from group owners.
    pub casts: u64,
    /// Copies of casts queued for clients.
    pub copies: u64,
    hits: Hits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hits([u64; Rule::ALL.len()]);

impl Default for Hits {
    fn default() -> Self {
        Hits([0; Rule::ALL.len()])
    }
}

impl Stats {
    /// How often `rule` held something back.
    pub fn hits(&self, rule: Rule) -> u64 {
        self.hits.0[rule as usize]
    }

    /// The rules that held something back, with their counts.
    pub fn rules(&self) -> impl Iterator<Item = (Rule, u64)> + '_ {
        Rule::ALL.iter().map(|rule| (*rule, self.hits(*rule))).filter(|(_, hits)| *hits > 0)
    }

    pub(crate) fn hit(&mut self, rule: Rule) {
        self.hits.0[rule as usize] += 1;
    }

    pub(crate) fn hit_times(&mut self, rule: Rule, times: u64) {
        self.hits.0[rule as usize] += times;
    }

    /// Adds those of another worker.
    pub fn add(&mut self, other: &Stats) {
        let Stats {
            connections,
            sessions,
            waiting,
            groups,
            members,
            routes,
            opened,
            logins,
            resumes,
            taken,
            given,
            bytes_in,
            bytes_out,
            frames_up,
            frames_down,
            casts,
            copies,
            hits,
        } = self;
        *connections += other.connections;
        *sessions += other.sessions;
        *waiting += other.waiting;
        *groups += other.groups;
        *members += other.members;
        *routes += other.routes;
        *opened += other.opened;
        *logins += other.logins;
        *resumes += other.resumes;
        *taken += other.taken;
        *given += other.given;
        *bytes_in += other.bytes_in;
        *bytes_out += other.bytes_out;
        *frames_up += other.frames_up;
        *frames_down += other.frames_down;
        *casts += other.casts;
        *copies += other.copies;
        for (mine, theirs) in hits.0.iter_mut().zip(other.hits.0) {
            *mine += theirs;
        }
    }
}
