//! What nodes and the store say to each other, over a network that loses, doubles and delays it.
//!
//! A node's end answers every request itself when none comes: with `Unknown`, since it may have been
//! done or may still be, or with `Unavailable` if nobody listened.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use env::Instant;
use node::data::{Ask, BeatAsk, Life, Told};
use store::{Error, NodeBeat, Pulse};

use crate::cluster::Cluster;
use crate::net::{Happening, Place};
use crate::vault::{Next, Taken};

/// A request to the store.
#[derive(Clone, Debug)]
pub(crate) enum Want {
    Ask(Ask),
    Beat(BeatAsk, store::Incarnation),
}

/// Its answer.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Told(Told),
    Beat(BeatTold),
}

#[derive(Clone, Debug)]
pub(crate) enum BeatTold {
    Beat(Result<Pulse, Error>),
    Nodes(Result<Vec<NodeBeat>, Error>),
    Marked(store::Incarnation, Result<(), Error>),
}

/// How a node is cut off from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing passes.
    Both,
    /// Requests arrive and are done; answers do not come back.
    Answers,
    /// Connections are refused: the node knows that nothing is done.
    Refused,
}

/// How long a node waits for an answer before it takes the outcome for unknown.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// How long a request or an answer is under way at least, and by how much that varies.
const WAY: Duration = Duration::from_micros(200);
const WAY_SPREAD: u64 = 800;

/// Requests that wait for an answer.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    next: u64,
    open: BTreeMap<u64, Open>,
    /// When to stop waiting for which.
    expiry: VecDeque<(Instant, u64)>,
    /// Whether somebody will look at `expiry`.
    armed: bool,
}

#[derive(Debug)]
struct Open {
    node: usize,
    life: u32,
    /// The worker; `None` is the node's heart.
    worker: Option<u8>,
    want: Want,
}

impl Cluster {
    /// Puts a request on its way to the store.
    pub(crate) fn send_to_store(
        &mut self,
        now: Instant,
        node: usize,
        worker: Option<u8>,
        want: Want,
    ) {
        let wire = &mut self.wire;
        wire.next += 1;
        let id = wire.next;
        let seat = &self.nodes[node];
        wire.open.insert(id, Open { node, life: seat.life, worker, want: want.clone() });
        wire.expiry.push_back((now + ANSWER_WAIT, id));
        if !std::mem::replace(&mut wire.armed, true) {
            self.net.at(now + ANSWER_WAIT, Happening::Expire);
        }
        match seat.cut {
            Some(Cut::Both) => return,
            Some(Cut::Refused) => return self.refuse_later(now, id),
            Some(Cut::Answers) | None => {}
        }
        let vault = &mut self.vault;
        if vault.strikes(vault.faults.lose_request) {
            vault.counts.requests_lost += 1;
            return;
        }
        if vault.strikes(vault.faults.duplicate) {
            vault.counts.duplicates += 1;
            let at = now + self.way();
            self.net.at(at, Happening::Request(id, Box::new(want.clone())));
        }
        let at = now + self.way();
        self.net.at(at, Happening::Request(id, Box::new(want)));
    }

    fn way(&mut self) -> Duration {
        let vault = &mut self.vault;
        let mut way = WAY + vault.up_to(Duration::from_micros(WAY_SPREAD));
        if vault.strikes(vault.faults.delay) {
            vault.counts.delays += 1;
            way += vault.up_to(vault.faults.delay_max);
        }
        way
    }

    fn refuse_later(&mut self, now: Instant, id: u64) {
        let Some(open) = self.wire.open.get(&id) else { return };
        let error = Error::Unavailable("nobody listens".to_owned());
        let reply = Box::new(fail(&open.want, error));
        self.net.at(now + Duration::from_millis(1), Happening::Reply(id, reply));
    }

    pub(crate) fn handle_request(&mut self, now: Instant, id: u64, want: Want) {
        self.trace.note(now, 4, id, &[]);
        match self.vault.take(id, want) {
            Taken::Waits => self.work_at_store(now),
            Taken::Refused => self.refuse_later(now, id),
            // No answer comes, so that its outcome is unknown.
            Taken::Unknown => {}
        }
    }

    /// Lets the store do what waits.
    pub(crate) fn work_at_store(&mut self, now: Instant) {
        if let Some(next) = self.vault.work(now) {
            self.follow_store(now, next);
        }
        let early = self.vault.told_early();
        self.send_answers(now, early);
    }

    fn follow_store(&mut self, now: Instant, next: Next) {
        match next {
            Next::Sync(life, takes) => self.net.at(now + takes, Happening::Synced(life)),
            Next::Answer(answers) => self.send_answers(now, answers),
            Next::Ended(away) => {
                self.notes.add(now, || format!("the store ends for {away:?}"));
                self.net.at(now + away, Happening::StoreStart);
            }
        }
    }

    pub(crate) fn handle_synced(&mut self, now: Instant, life: u64) {
        if !self.vault.is_life(life) {
            return;
        }
        if self.vault.stalled_until > now {
            let at = self.vault.stalled_until;
            return self.net.at(at, Happening::Synced(life));
        }
        let next = self.vault.synced(now);
        self.follow_store(now, next);
        if self.vault.is_up() {
            self.work_at_store(now);
        }
    }

    pub(crate) fn handle_store_start(&mut self, now: Instant) {
        if self.vault.is_up() {
            return;
        }
        self.notes.add(now, || "the store is back".to_owned());
        self.vault.start();
    }

    fn send_answers(&mut self, now: Instant, answers: Vec<(u64, Reply)>) {
        for (id, reply) in answers {
            let vault = &mut self.vault;
            if vault.strikes(vault.faults.lose_answer) {
                vault.counts.answers_lost += 1;
                continue;
            }
            let at = now + self.way();
            self.net.at(at, Happening::Reply(id, Box::new(reply)));
        }
    }

    /// An answer arrives at its node, which may have given up waiting.
    pub(crate) fn handle_reply(&mut self, now: Instant, id: u64, reply: Reply) {
        let Some(open) = self.wire.open.get(&id) else { return };
        let (node, worker) = (open.node, open.worker);
        let cut = matches!(self.nodes[node].cut, Some(Cut::Both | Cut::Answers));
        if cut && !is_own(&reply) {
            return;
        }
        if let Some(until) = self.node_stalled_until(node, worker).filter(|until| *until > now) {
            return self.net.at(until, Happening::Reply(id, Box::new(reply)));
        }
        let Some(open) = self.wire.open.remove(&id) else { return };
        self.deliver_reply(now, &open, reply);
    }

    /// Ends the requests for which no answer came in time.
    pub(crate) fn handle_expire(&mut self, now: Instant) {
        self.wire.armed = false;
        while let Some((at, id)) = self.wire.expiry.front().copied() {
            if at > now && self.wire.open.contains_key(&id) {
                self.wire.armed = true;
                self.net.at(at, Happening::Expire);
                return;
            }
            self.wire.expiry.pop_front();
            let Some(open) = self.wire.open.get(&id) else { continue };
            let (node, worker) = (open.node, open.worker);
            let error = Error::Unknown("no answer in time".to_owned());
            let reply = fail(&open.want, error);
            if self.nodes[node].life != open.life {
                self.wire.open.remove(&id);
                continue;
            }
            self.vault.counts.unknown_outcomes += 1;
            match self.node_stalled_until(node, worker).filter(|until| *until > now) {
                Some(until) => self.net.at(until, Happening::Reply(id, Box::new(reply))),
                None => {
                    let open = self.wire.open.remove(&id).expect("just seen");
                    self.deliver_reply(now, &open, reply);
                }
            }
        }
    }

    fn deliver_reply(&mut self, now: Instant, open: &Open, reply: Reply) {
        let seat = &mut self.nodes[open.node];
        if seat.life != open.life {
            return;
        }
        self.trace.note(now, 5, open.node as u64, &[]);
        match (reply, open.worker) {
            (Reply::Told(told), Some(worker)) => {
                let note = &mut self.notes;
                note.add(now, || format!("node {} hears {}", open.node, short(&told)));
                if let Some(seat) = seat.workers.get_mut(usize::from(worker)) {
                    seat.worker.handle_told(now, told);
                    self.settle(Place::Worker(open.node, worker));
                }
            }
            (Reply::Beat(told), _) => {
                match told {
                    BeatTold::Beat(result) => seat.beat.handle_beat(now, result),
                    BeatTold::Nodes(result) => seat.beat.handle_nodes(now, result),
                    BeatTold::Marked(who, result) => seat.beat.handle_marked(who, result),
                }
                self.work_heart(now, open.node);
            }
            (Reply::Told(_), None) => unreachable!("hearts beat"),
        }
    }

    /// Lets the thread of a node that beats do what is due.
    pub(crate) fn work_heart(&mut self, now: Instant, node: usize) {
        let seat = &mut self.nodes[node];
        if seat.workers.is_empty() {
            return;
        }
        seat.beat.handle_timeout(now);
        let me = store::Incarnation(seat.info.incarnation.0);
        let asks: Vec<_> = std::iter::from_fn(|| seat.beat.poll_ask()).collect();
        let lives: Vec<_> = std::iter::from_fn(|| seat.beat.poll_life()).collect();
        let next = seat.beat.poll_timeout();
        if seat.beat_at != next {
            seat.beat_at = next;
            self.net.at(next, Happening::Beat(node));
        }
        for ask in asks {
            self.send_to_store(now, node, None, Want::Beat(ask, me));
        }
        for life in lives {
            if let Life::Buried(_) | Life::Dead = life {
                self.notes.add(now, || format!("node {node} hears {life:?}"));
            }
            if life == Life::Away {
                self.nodes[node].said_away = Some(now);
            }
            self.nodes[node].is_dead |= life == Life::Dead;
            self.nodes[node].buried += u64::from(matches!(life, Life::Buried(_)));
            for worker in 0..self.options.workers {
                let seat = &mut self.nodes[node].workers[usize::from(worker)];
                seat.worker.handle_life(now, life.clone());
                self.settle(Place::Worker(node, worker));
            }
        }
    }

    /// Once a simulated second: something happens to the store, by chance.
    pub(crate) fn strike_store(&mut self, now: Instant) {
        if !self.vault.is_up() {
            return;
        }
        let faults = self.vault.faults.clone();
        if self.vault.strikes(faults.stall) {
            self.vault.counts.stalls += 1;
            let span = self.vault.up_to(faults.stall_max);
            self.stall_store(span);
        }
        if self.vault.strikes(faults.lie) {
            let span = self.vault.up_to(faults.lie_max);
            self.notes.add(now, || format!("syncs lie for {span:?}"));
            self.vault.lies_until = now + span;
        }
        let more = if self.vault.lies_until > now { 10 } else { 1 };
        let power = self.vault.strikes(faults.power_cut * more);
        if power || self.vault.strikes(faults.crash) {
            let next = self.vault.crash(power);
            self.follow_store(now, next);
        }
    }
}

/// Whether the node's own end gave the answer, because none came.
fn is_own(reply: &Reply) -> bool {
    match reply {
        Reply::Told(Told::Saved(_, _, Err(error)))
        | Reply::Told(Told::Released(_, _, Err(error)))
        | Reply::Told(Told::Loaded(_, _, Err(error)))
        | Reply::Told(Told::Committed(_, Err(error)))
        | Reply::Told(Told::LookedUp(_, Err(error)))
        | Reply::Told(Told::Held(_, Err(error)))
        | Reply::Told(Told::Record(_, Err(error)))
        | Reply::Beat(BeatTold::Beat(Err(error)))
        | Reply::Beat(BeatTold::Nodes(Err(error)))
        | Reply::Beat(BeatTold::Marked(_, Err(error))) => {
            matches!(error, Error::Unavailable(_) | Error::Unknown(_))
        }
        Reply::Told(Told::Activated(each)) => {
            let is_own = |error: &Error| matches!(error, Error::Unavailable(_) | Error::Unknown(_));
            each.iter().any(|(_, result)| result.as_ref().is_err_and(is_own))
        }
        _ => false,
    }
}

/// What a node is told instead of an answer.
fn fail(want: &Want, error: Error) -> Reply {
    Reply::Told(match want {
        Want::Beat(BeatAsk::Nodes, _) => return Reply::Beat(BeatTold::Nodes(Err(error))),
        Want::Beat(BeatAsk::MarkDead(who, _), _) => {
            return Reply::Beat(BeatTold::Marked(*who, Err(error)));
        }
        Want::Beat(..) => return Reply::Beat(BeatTold::Beat(Err(error))),
        Want::Ask(Ask::Activate(asks)) => {
            Told::Activated(asks.iter().map(|(id, _)| (*id, Err(error.clone()))).collect())
        }
        Want::Ask(Ask::Save(id, save)) => Told::Saved(*id, save.claim.epoch, Err(error)),
        Want::Ask(Ask::Release(id, claim, _)) => Told::Released(*id, claim.epoch, Err(error)),
        Want::Ask(Ask::Load(id, epoch)) => Told::Loaded(*id, *epoch, Err(error)),
        Want::Ask(Ask::Commit(tag, _)) => Told::Committed(*tag, Err(error)),
        Want::Ask(Ask::LookUp(tag, _)) => Told::LookedUp(*tag, Err(error)),
        Want::Ask(Ask::Holdings(tag, _)) => Told::Held(*tag, Err(error)),
        Want::Ask(Ask::Record(tag, _)) => Told::Record(*tag, Err(error)),
        Want::Ask(other) => unreachable!("the simulated store knows no {other:?}"),
    })
}

fn short(told: &Told) -> String {
    let text = format!("{told:?}");
    text.chars().take(200).collect()
}
