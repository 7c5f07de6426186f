use env::Instant;
use proto::WireError;
use proto::frame::{TEXT_BYTES_MAX, put_frame};
use proto::link::{LinkFrame, WorkerId};
use std::time::Duration;

use crate::assembler::Assembler;
use crate::key::{Key, Party, Side, Transcript};

/// Version of the link protocol that this build speaks.
pub(crate) const VERSION: u8 = 1;

/// Longest frame before the peer has proven itself, in bytes: two names and a nonce.
pub(crate) const HANDSHAKE_BYTES_MAX: usize = 2 * TEXT_BYTES_MAX + 64;

/// Frame kinds below this belong to the link itself.
pub(crate) const OWN_KINDS_END: u8 = 0x10;

/// Who we are, as told in every handshake.
#[derive(Debug)]
pub(crate) struct Identity {
    pub id: WorkerId,
    pub name: String,
    pub cluster: String,
    pub key: Key,
}

/// One link: its handshake, its heartbeat and its queue.
#[derive(Debug)]
pub(crate) struct Link {
    pub side: Side,
    pub stage: Stage,
    /// Position of the peer: known for dialed links, for accepted ones once they are up.
    pub peer: Option<u32>,
    /// What is to be sent.
    pub out: Vec<u8>,
    /// A flush was announced and not yet made.
    pub listed: bool,
    /// It carried a frame of a user, either way.
    pub used: bool,
    /// It carried a frame of a user of the other side, or its `Begin`.
    pub carries: bool,
    /// Which of the other side's links it is, as its `Begin` has it; 0 before that, and for one of an
    /// older release.
    pub number: u64,
    pub assembler: Assembler,
    pub(crate) nonce: [u8; 16],
    pub(crate) remote: Remote,
    /// End of the current stage; once up, the moment of the next heartbeat.
    pub deadline: Instant,
    heard: Instant,
    pings: u32,
    /// When the last ping left; the token of its pong.
    pinged_at: Instant,
    pub round_trip: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Waits for the driver to connect.
    Dialing,
    /// Waits for the peer's hello.
    Hello,
    /// Waits for the peer's proof.
    Prove,
    Up,
}

/// The other side, as it says it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remote {
    pub id: WorkerId,
    pub name: String,
    nonce: [u8; 16],
}

/// What a frame of the handshake led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Wait,
    /// The peer is proven.
    Up,
    Refuse(Reason),
}

/// Why a link is closed by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Version,
    Cluster,
    Key,
    Identity,
    Protocol(WireError),
    Silent,
    Overflow,
    Slow,
    Removed,
    /// Another dial to the same node was faster.
    Superseded,
    /// The other side sends on another link by now.
    Left,
    /// The driver says that it is closed.
    Gone,
}

/// What the heartbeat asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    Fine,
    Ping,
    Dead,
}

impl Link {
    pub(crate) fn new(side: Side, stage: Stage, nonce: [u8; 16], deadline: Instant) -> Self {
        Link {
            side,
            stage,
            peer: None,
            out: Vec::new(),
            listed: false,
            used: false,
            carries: false,
            number: 0,
            assembler: Assembler::default(),
            nonce,
            remote: Remote::default(),
            deadline,
            heard: Instant::ZERO,
            pings: 0,
            pinged_at: Instant::NEVER,
            round_trip: None,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.stage == Stage::Up
    }

    pub(crate) fn put_hello(&mut self, me: &Identity) {
        let hello = LinkFrame::Hello {
            version: VERSION,
            cluster: &me.cluster,
            from: me.id,
            name: &me.name,
            nonce: self.nonce,
        };
        put_frame(&mut self.out, |out| hello.encode(0, out));
    }

    fn put_proof(&mut self, me: &Identity) {
        let proof = me.key.prove(self.side, &self.transcript(me));
        put_frame(&mut self.out, |out| LinkFrame::Prove { proof }.encode(0, out));
    }

    fn transcript<'a>(&'a self, me: &'a Identity) -> Transcript<'a> {
        let us = Party { id: me.id, name: &me.name, nonce: self.nonce };
        let they = Party { id: self.remote.id, name: &self.remote.name, nonce: self.remote.nonce };
        let (dialer, acceptor) = match self.side {
            Side::Dialer => (us, they),
            Side::Acceptor => (they, us),
        };
        Transcript { cluster: &me.cluster, dialer, acceptor }
    }

    /// Takes a frame of the handshake. `expected` is whom we dialed, node and name.
    ///
    /// The dialer proves first, so that who only scans our port learns no proof of ours.
    pub(crate) fn handle_handshake(
        &mut self,
        me: &Identity,
        expected: Option<(proto::Incarnation, &str)>,
        payload: &[u8],
    ) -> Step {
        let frame = match LinkFrame::decode(payload) {
            Ok((_, frame)) => frame,
            Err(error) => return Step::Refuse(Reason::Protocol(error)),
        };
        match (self.stage, frame) {
            (Stage::Hello, LinkFrame::Hello { version, cluster, from, name, nonce }) => {
                if version != VERSION {
                    return Step::Refuse(Reason::Version);
                }
                if cluster != me.cluster {
                    return Step::Refuse(Reason::Cluster);
                }
                let is_expected =
                    expected.is_none_or(|(node, wanted)| node == from.node && wanted == name);
                // Our own nonce back to us is somebody holding up a mirror.
                if from.node == me.id.node
                    || from.node == proto::Incarnation::NONE
                    || nonce == self.nonce
                    || !is_expected
                {
                    return Step::Refuse(Reason::Identity);
                }
                self.remote = Remote { id: from, name: name.to_owned(), nonce };
                self.stage = Stage::Prove;
                match self.side {
                    Side::Dialer => self.put_proof(me),
                    Side::Acceptor => self.put_hello(me),
                }
                Step::Wait
            }
            (Stage::Prove, LinkFrame::Prove { proof }) => {
                if !me.key.verify(self.side.other(), &self.transcript(me), &proof) {
                    return Step::Refuse(Reason::Key);
                }
                if self.side == Side::Acceptor {
                    self.put_proof(me);
                }
                self.stage = Stage::Up;
                Step::Up
            }
            _ => Step::Refuse(Reason::Protocol(WireError::Kind(payload[0]))),
        }
    }

    /// Takes a frame of a link that is up, if it belongs to the link itself.
    pub(crate) fn handle_own(&mut self, now: Instant, payload: &[u8]) -> Result<bool, WireError> {
        if *payload.first().ok_or(WireError::Truncated)? >= OWN_KINDS_END {
            return Ok(false);
        }
        match LinkFrame::decode(payload)?.1 {
            LinkFrame::Ping { token } => {
                put_frame(&mut self.out, |out| LinkFrame::Pong { token }.encode(0, out));
                Ok(true)
            }
            LinkFrame::Pong { token } => {
                if token == self.pinged_at.as_nanos() {
                    self.round_trip = Some(now - self.pinged_at);
                }
                Ok(true)
            }
            _ => Err(WireError::Kind(payload[0])),
        }
    }

    /// Notes a sign of life.
    pub(crate) fn hear(&mut self, now: Instant) {
        self.heard = now;
        self.pings = 0;
    }

    /// Starts the heartbeat.
    pub(crate) fn start_beat(&mut self, now: Instant, heartbeat: Duration) {
        self.hear(now);
        self.deadline = now + heartbeat;
    }

    /// Looks whether the peer was silent for too long. Sets the next `deadline`.
    pub(crate) fn beat(&mut self, now: Instant, heartbeat: Duration, missed_max: u32) -> Beat {
        let due = self.heard + heartbeat * (self.pings + 1);
        if now < due {
            self.deadline = due;
            return Beat::Fine;
        }
        if self.pings == missed_max {
            return Beat::Dead;
        }
        self.pings += 1;
        self.deadline = self.heard + heartbeat * (self.pings + 1);
        self.pinged_at = now;
        let token = now.as_nanos();
        put_frame(&mut self.out, |out| LinkFrame::Ping { token }.encode(0, out));
        Beat::Ping
    }
}
