//! Clients: the real core, and what tests ask of it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use client::{CallError, Core, Event, Identity, Limits, Output, RequestId, Transport};
use env::{Instant, Random};
use proto::MethodId;
use proto::ticket::Grant;

use crate::net::{Callee, End, Happening, Net, PipeId};

/// Names a client of the simulated cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId(pub usize);

/// How a request ended: the encoded answer, or why there is none.
pub type RequestResult = Result<Vec<u8>, CallError>;

pub(crate) struct ClientSeat {
    pub(crate) core: Core,
    pub(crate) pipe: Option<PipeId>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) results: BTreeMap<RequestId, RequestResult>,
    pub(crate) ended: bool,
    /// Its program is gone: nothing happens here any more.
    pub(crate) gone: bool,
    wake_at: Option<Instant>,
    number: usize,
}

impl ClientSeat {
    pub(crate) fn new(number: usize, grant: Grant, random: Random, tries_max: u32) -> Self {
        let limits = Limits {
            tries_max: Some(tries_max),
            retry_max: Duration::from_secs(3),
            ..Limits::default()
        };
        let identity = Identity { agent: "simulated".into(), interface: 0 };
        ClientSeat {
            core: Core::new(identity, limits, grant, random),
            pipe: None,
            events: VecDeque::new(),
            results: BTreeMap::new(),
            ended: false,
            gone: false,
            wake_at: None,
            number,
        }
    }

    /// Carries out what the core wants and takes its events.
    pub(crate) fn settle(&mut self, now: Instant, gates: usize, net: &mut Net) {
        if self.gone {
            return;
        }
        if self.core.poll_timeout().is_some_and(|at| at <= now) {
            self.core.handle_timeout(now);
        }
        let end = End::Client(self.number);
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Connect { attempt } => {
                    net.hang_up(now, end);
                    let gate = (attempt as usize + self.number) % gates;
                    net.open(now, end, Callee::Gate(gate));
                }
                Output::Flush => {
                    let bytes = std::mem::take(self.core.outgoing());
                    if self.core.is_asking() {
                        net.send_admission(now, end, bytes);
                    } else {
                        net.send(now, end, bytes);
                    }
                }
                Output::Close => {
                    self.pipe = None;
                    net.hang_up(now, end);
                }
            }
        }
        while let Some(event) = self.core.poll_event() {
            match event {
                Event::Reply { request, result } => {
                    let twice = self.results.insert(request, result);
                    assert!(twice.is_none(), "a request resolves once");
                }
                Event::Ended { .. } => {
                    self.ended = true;
                    self.events.push_back(event);
                }
                Event::Connected { resumed: true, .. } => {
                    net.counts.resumes += 1;
                    self.events.push_back(event);
                }
                event => self.events.push_back(event),
            }
        }
        if let Some(next) = self.core.poll_timeout() {
            let next = next.max(now + Duration::from_micros(100));
            if !self.wake_at.is_some_and(|at| at <= next && at > now) {
                self.wake_at = Some(next);
                net.at(next, Happening::WakeClient(self.number));
            }
        }
    }

    pub(crate) fn connected(&mut self, now: Instant, pipe: PipeId) {
        self.pipe = Some(pipe);
        // The WebSocket's handshake stands in for the preface; the frames are the same.
        self.core.handle_connected(now, Transport::WebSocket);
    }

    pub(crate) fn closed(&mut self, now: Instant) {
        self.pipe = None;
        if !self.gone {
            self.core.handle_closed(now);
        }
    }

    pub(crate) fn request(
        &mut self,
        now: Instant,
        stream: &str,
        method: MethodId,
        body: &[u8],
        wait: Duration,
    ) -> Result<RequestId, CallError> {
        self.core.request(now, stream, method, body, Some(wait))
    }
}
