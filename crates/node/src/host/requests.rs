//! Requests of clients that were taken and are not over: each ends by its deadline.

use std::rc::Rc;

use env::Instant;
use proto::frame::Status;

use super::hub::{Hub, bump};
use super::turns::TurnId;
use crate::cx::Peer;

/// A client's request that was taken and whose message is not over yet.
pub(crate) struct OpenRequest {
    /// Who asked; `None` in a free place.
    peer: Option<Peer>,
    pub tag: u64,
    pub deadline: Instant,
    /// The entity that has it: shard and position.
    pub at: (u16, u32),
    /// The open turn that serves it; none while it waits in the mailbox.
    pub turn: TurnId,
    /// Whether the client was told that its time is over. The request keeps its place as long as
    /// its message is there, which names it.
    answered: bool,
    /// Its deadline, while its entity moves: nobody but its new owner may answer then.
    paused: Option<Instant>,
}

impl OpenRequest {
    /// Who asked.
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// Whether it waits for its answer.
    pub fn is_open(&self) -> bool {
        !self.answered
    }

    /// Its deadline, also while its entity moves.
    pub fn until(&self) -> Instant {
        self.paused.unwrap_or(self.deadline)
    }
}

/// A request that is over.
pub(crate) struct Ended {
    pub peer: Peer,
    pub tag: u64,
    /// Whether it had become an open turn.
    pub had_turn: bool,
    /// Whether the client has its answer.
    pub answered: bool,
}

/// The requests of all clients of a worker.
#[derive(Default)]
pub(crate) struct Requests {
    places: Vec<OpenRequest>,
    free: Vec<u32>,
}

impl Requests {
    #[inline(always)]
    pub fn insert(&mut self, peer: Peer, tag: u64, deadline: Instant, at: (u16, u32)) -> u32 {
        let index = match self.free.pop() {
            Some(index) => index,
            None => self.grow(),
        };
        // Part by part: a copy of a whole that was just put together waits for its parts.
        let place = &mut self.places[index as usize];
        place.peer = Some(peer);
        place.tag = tag;
        place.deadline = deadline;
        place.at = at;
        place.turn = TurnId::NONE;
        place.answered = false;
        place.paused = None;
        index
    }

    #[inline(never)]
    fn grow(&mut self) -> u32 {
        self.places.push(OpenRequest {
            peer: None,
            tag: 0,
            deadline: Instant::NEVER,
            at: (0, 0),
            turn: TurnId::NONE,
            answered: false,
            paused: None,
        });
        self.places.len() as u32 - 1
    }

    /// Frees a place.
    #[inline(always)]
    pub fn remove(&mut self, index: u32) -> Option<Ended> {
        let place = self.places.get_mut(index as usize)?;
        let peer = place.peer.take()?;
        self.free.push(index);
        let had_turn = !place.turn.is_none();
        Some(Ended { peer, tag: place.tag, had_turn, answered: place.answered })
    }

    #[inline]
    pub fn get(&self, index: u32) -> Option<&OpenRequest> {
        self.places.get(index as usize).filter(|place| place.peer.is_some())
    }

    /// The request became an open turn.
    pub fn serve(&mut self, index: u32, turn: TurnId) {
        if let Some(place) = self.places.get_mut(index as usize) {
            place.turn = turn;
        }
    }

    /// Has the requests that wait for the entity at `at` wait without end, or again until their time.
    pub fn pause(&mut self, at: (u16, u32), paused: bool) {
        for place in self.places.iter_mut().filter(|place| place.peer.is_some() && place.at == at) {
            if paused {
                place.paused.get_or_insert(place.deadline);
                place.deadline = Instant::NEVER;
            } else if let Some(deadline) = place.paused.take() {
                place.deadline = deadline;
            }
        }
    }

    /// Those that are not answered and fulfil `test`.
    fn open(
        &mut self,
        test: impl Fn(&OpenRequest) -> bool,
    ) -> impl Iterator<Item = &mut OpenRequest> {
        let places = self.places.iter_mut();
        places.filter(move |place| place.peer.is_some() && !place.answered && test(place))
    }

    fn next_deadline(&mut self) -> Instant {
        self.open(|_| true).map(|request| request.deadline).min().unwrap_or(Instant::NEVER)
    }
}

impl Hub {
    /// Ends the requests whose time is over: the client is told, what their turns wait for fails,
    /// and those that still lie in a mailbox are taken out. Gives the next deadline.
    pub fn sweep_requests(self: &Rc<Self>, now: Instant) -> Instant {
        let expired: Vec<_> = {
            let mut requests = self.requests.borrow_mut();
            let expired = requests.open(|request| request.deadline <= now).filter_map(|request| {
                request.answered = true;
                let OpenRequest { tag, at, turn, .. } = *request;
                request.peer().map(|peer| (peer.slot(), tag, at, turn))
            });
            expired.collect()
        };
        let mut held = Vec::new();
        for (peer, tag, at, turn) in expired {
            bump(&self.count.timeouts);
            self.clients.borrow_mut().reply(peer, tag, Status::Timeout);
            match turn.is_none() {
                true => held.push(at),
                false => self.cancel_turn(turn),
            }
        }
        self.drop_unwanted(held);
        self.requests.borrow_mut().next_deadline()
    }

    /// The stream `peer` has ended, so nobody waits for its requests any more.
    pub fn end_requests_of(self: &Rc<Self>, peer: &Peer) {
        let mut turns = Vec::new();
        let mut held = Vec::new();
        for request in self.requests.borrow_mut().open(|request| request.peer() == Some(peer)) {
            if request.turn.is_none() {
                request.deadline = Instant::ZERO;
                held.push(request.at);
            } else {
                turns.push(request.turn);
            }
        }
        turns.into_iter().for_each(|turn| self.cancel_turn(turn));
        self.drop_unwanted(held);
    }

    /// Empties mailboxes of requests that nobody waits for.
    fn drop_unwanted(&self, mut held: Vec<(u16, u32)>) {
        held.sort_unstable();
        held.dedup();
        for (shard, entity) in held {
            self.any_shard(usize::from(shard)).drop_unwanted(entity);
        }
    }
}
