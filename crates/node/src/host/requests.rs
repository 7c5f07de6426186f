//! Requests of clients that were taken and are not over: each ends by its deadline.

use std::rc::Rc;

use env::Instant;
use proto::frame::Status;

use super::hub::{Hub, bump};
use super::turns::TurnId;
use crate::cx::Peer;

/// A client's request that was taken and whose message is not over yet.
pub(crate) struct OpenRequest {
    pub peer: Peer,
    pub tag: u64,
    pub deadline: Instant,
    /// The entity that has it: shard and position.
    pub at: (u16, u32),
    /// The open turn that serves it; none while it waits in the mailbox.
    pub turn: TurnId,
}

struct Entry {
    request: OpenRequest,
    /// Whether the client was told that its time is over. The entry stays as long as its message
    /// does, which names it.
    answered: bool,
}

/// The requests of all clients of a worker.
#[derive(Default)]
pub(crate) struct Requests {
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
}

impl Requests {
    #[inline(always)]
    pub fn insert(&mut self, peer: Peer, tag: u64, deadline: Instant, at: (u16, u32)) -> u32 {
        let index = match self.free.pop() {
            Some(index) => index,
            None => self.grow(),
        };
        let request = OpenRequest { peer, tag, deadline, at, turn: TurnId::NONE };
        // A free place holds nothing to be dropped, so the parts go straight into it.
        std::mem::forget(self.slots[index as usize].replace(Entry { request, answered: false }));
        index
    }

    #[inline(never)]
    fn grow(&mut self) -> u32 {
        self.slots.push(None);
        self.slots.len() as u32 - 1
    }

    /// Frees an entry. Gives whether the client has its answer.
    #[inline(always)]
    pub fn remove(&mut self, index: u32) -> Option<(OpenRequest, bool)> {
        let Entry { request, answered } = self.slots.get_mut(index as usize)?.take()?;
        self.free.push(index);
        Some((request, answered))
    }

    #[inline]
    pub fn get(&self, index: u32) -> Option<&OpenRequest> {
        self.slots.get(index as usize)?.as_ref().map(|entry| &entry.request)
    }

    /// The request became an open turn.
    pub fn serve(&mut self, index: u32, turn: TurnId) {
        if let Some(Some(entry)) = self.slots.get_mut(index as usize) {
            entry.request.turn = turn;
        }
    }

    /// Those that are not answered and fulfil `test`.
    fn open(&mut self, test: impl Fn(&OpenRequest) -> bool) -> impl Iterator<Item = &mut Entry> {
        let entries = self.slots.iter_mut().flatten();
        entries.filter(move |entry| !entry.answered && test(&entry.request))
    }

    fn next_deadline(&mut self) -> Instant {
        self.open(|_| true).map(|entry| entry.request.deadline).min().unwrap_or(Instant::NEVER)
    }
}

impl Hub {
    /// Ends the requests whose time is over: the client is told, what their turns wait for fails,
    /// and those that still lie in a mailbox are taken out. Gives the next deadline.
    pub fn sweep_requests(self: &Rc<Self>, now: Instant) -> Instant {
        let expired: Vec<_> = {
            let mut requests = self.requests.borrow_mut();
            let expired = requests.open(|request| request.deadline <= now).map(|entry| {
                entry.answered = true;
                let OpenRequest { peer, tag, at, turn, .. } = &entry.request;
                (peer.slot(), *tag, *at, *turn)
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
        for entry in self.requests.borrow_mut().open(|request| request.peer == *peer) {
            let request = &mut entry.request;
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
