//! What a process does about a coordinator that is not its own: pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use env::Instant;
use proto::Incarnation;

use crate::answer;
use crate::keys::{Keys, NODE_PREFIX};
use crate::registry::fit;
use crate::wire::{Reply, Request, encode_node};
use crate::{Directory, Error, Expect, KeyError, NodeInfo};

/// Most requests that wait or are under way, the bookkeeping's own not counted.
const REQUESTS_MAX: usize = 4096;
/// Most nodes remembered that were not admitted.
const REFUSED_MAX: usize = 64;

/// How one listing went, for who waits.
pub(crate) type Listed = Result<(), Error>;

/// What this process wants the coordinator to hold, and what it asked for.
///
/// It is told of connections, replies and time, and asked for requests by
/// [`poll_request`](Self::poll_request) until there is none. What it wants it asks for anew after
/// each connection and each lease that ran out, for ever.
#[derive(Debug)]
pub(crate) struct Attached {
    lease: Duration,
    nodes_max: usize,
    connected: bool,
    heard_at: Option<Instant>,
    next_id: u64,
    own: BTreeMap<Incarnation, Own>,
    /// Keys of this process that nobody needs any more.
    garbage: BTreeSet<String>,
    queue: VecDeque<(u64, Request, Asker)>,
    sent: BTreeMap<u64, (Request, Asker)>,
    refused: BTreeMap<String, String>,
    /// What became of places in lines.
    places: BTreeMap<Arc<str>, Place>,
    /// Answers that wait until this process sees what they speak of.
    unseen: Vec<(u64, answer::Sender<Reply>, Reply)>,
}

/// A node of this process.
#[derive(Debug)]
struct Own {
    info: NodeInfo,
    stage: Stage,
    /// When the lease is due to be renewed.
    renew_at: Instant,
    /// When the coordinator was last known to hold the lease.
    leased_at: Option<Instant>,
    /// Without a sign of life from the node until then it is not renewed any more.
    well_until: Instant,
    /// Keys that the node owns.
    claims: BTreeMap<String, Arc<[u8]>>,
    told: Vec<answer::Sender<Listed>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing is asked for.
    Idle,
    /// The lease is asked for.
    Leasing,
    /// The lease stands, the listing is asked for.
    Listing,
    /// The node is listed.
    Listed,
    /// The node gave no sign of life, and has to register again.
    Lapsed,
}

/// A place in a line, from the side of who stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is asked for.
    Asked,
    /// It was made at this revision.
    Made(u64),
    /// It was not made, or nobody knows.
    Lost,
}

#[derive(Debug)]
enum Asker {
    /// Somebody who waits.
    User(answer::Sender<Reply>, Instant),
    Lease(Incarnation),
    Listing(Incarnation),
    Claim(Incarnation),
    Place(Arc<str>),
    Nobody,
}

impl Attached {
    pub fn new(lease: Duration, nodes_max: usize) -> Self {
        Attached {
            lease,
            nodes_max,
            connected: false,
            heard_at: None,
            next_id: 0,
            own: BTreeMap::new(),
            garbage: BTreeSet::new(),
            queue: VecDeque::new(),
            sent: BTreeMap::new(),
            refused: BTreeMap::new(),
            places: BTreeMap::new(),
            unseen: Vec::new(),
        }
    }

    // ---- what the process wants ----

    /// Wants a node listed. Gives where its first outcome will be told.
    pub fn register(&mut self, now: Instant, info: NodeInfo) -> Option<answer::Answer<Listed>> {
        let node = info.incarnation;
        let well_until = now + self.lease;
        if let Some(own) = self.own.get_mut(&node) {
            own.well_until = well_until;
            let changed = own.info != info;
            own.info = info;
            match own.stage {
                Stage::Lapsed => {
                    own.stage = Stage::Idle;
                    own.renew_at = now;
                }
                Stage::Listed | Stage::Listing if changed => self.ask_listing(node),
                _ => {}
            }
            return None;
        }
        let (tell, told) = answer::channel();
        let own = Own {
            info,
            stage: Stage::Idle,
            renew_at: now,
            leased_at: None,
            well_until,
            claims: BTreeMap::new(),
            told: vec![tell],
        };
        self.own.insert(node, own);
        Some(told)
    }

    /// A sign of life of a node.
    pub fn renew(&mut self, now: Instant, node: Incarnation) -> Result<(), Error> {
        let own = self.own.get_mut(&node).filter(|own| own.stage != Stage::Lapsed);
        own.ok_or(Error::NotListed(node))?.well_until = now + self.lease;
        Ok(())
    }

    /// Wants a node off the list. Gives where the outcome will be told, if it was on it.
    pub fn deregister(&mut self, now: Instant, node: Incarnation) -> Option<answer::Answer<Reply>> {
        let own = self.own.remove(&node)?;
        if own.stage == Stage::Idle && own.leased_at.is_none() {
            return None;
        }
        self.ask(now + self.lease, Request::End { node })
    }

    /// Has a node of another process taken off the list.
    pub fn bury(&mut self, node: Incarnation) {
        self.push(Request::Delete { key: node_key(node), expect: Expect::Any }, Asker::Nobody);
    }

    /// Whether a node is one of this process's and not lapsed.
    pub fn has(&self, node: Incarnation) -> bool {
        self.own.get(&node).is_some_and(|own| own.stage != Stage::Lapsed)
    }

    /// The name of a node of this process.
    pub fn name_of(&self, node: Incarnation) -> Option<&str> {
        self.own.get(&node).map(|own| own.info.name.as_str())
    }

    /// Whether the node's lease may be taken to stand: it was confirmed less than a lease ago.
    pub fn is_sure(&self, now: Instant, node: Incarnation) -> bool {
        let leased_at = self.own.get(&node).and_then(|own| own.leased_at);
        leased_at.is_some_and(|at| now.since(at) < self.lease)
    }

    /// Asks for something; `None` if too much is asked for already.
    pub fn ask(&mut self, until: Instant, request: Request) -> Option<answer::Answer<Reply>> {
        if self.queue.len() + self.sent.len() >= REQUESTS_MAX {
            return None;
        }
        let (tell, told) = answer::channel();
        self.push(request, Asker::User(tell, until));
        Some(told)
    }

    /// A number for a place in a line that no other place of this process has.
    pub fn next_place(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Asks for a place in a line.
    pub fn contend(&mut self, node: Incarnation, own: String, key: &Arc<str>) {
        self.places.insert(key.clone(), Place::Asked);
        let request = Request::Contend { own, key: key.to_string(), node };
        self.push(request, Asker::Place(key.clone()));
    }

    /// Whether a place in a line is said to be a node's of this process, which knows nothing of it.
    pub fn is_stale(&self, key: &str, node: Incarnation) -> bool {
        self.own.contains_key(&node) && !self.places.contains_key(key)
    }

    /// What became of a place in a line.
    pub fn place(&self, key: &str) -> Place {
        self.places.get(key).copied().unwrap_or(Place::Lost)
    }

    /// Gives a place in a line up.
    pub fn leave(&mut self, key: &str) {
        if self.places.remove(key).is_some() {
            self.throw_away(key.to_owned());
        }
    }

    /// Nodes that were not admitted, and why.
    pub fn refused(&self) -> &BTreeMap<String, String> {
        &self.refused
    }

    /// When the coordinator was last heard of, if it is not connected now.
    pub fn old_since(&self) -> Option<Option<Instant>> {
        (!self.connected).then_some(self.heard_at)
    }

    // ---- what the driver tells ----

    /// The coordinator is there, and all its keys are known.
    pub fn handle_connected(&mut self, now: Instant) {
        self.connected = true;
        self.heard_at = Some(now);
        for own in self.own.values_mut().filter(|own| own.stage != Stage::Lapsed) {
            own.stage = Stage::Idle;
            own.renew_at = now;
        }
        for key in self.garbage.clone() {
            self.push(Request::Delete { key, expect: Expect::Any }, Asker::Nobody);
        }
    }

    /// The coordinator is away: nobody knows what became of what it was asked for.
    pub fn handle_disconnected(&mut self, now: Instant) {
        if std::mem::take(&mut self.connected) {
            self.heard_at = Some(now);
        }
        for (_, (request, asker)) in std::mem::take(&mut self.sent) {
            self.give_up(request, asker, KeyError::Unknown);
        }
        for (id, request, asker) in std::mem::take(&mut self.queue) {
            match asker {
                // Not sent yet: whoever waits has time.
                Asker::User(..) => self.queue.push_back((id, request, asker)),
                asker => self.give_up(request, asker, KeyError::Unavailable),
            }
        }
    }

    /// What came of a request.
    pub fn handle_reply(&mut self, now: Instant, id: u64, reply: Reply, keys: &Keys) {
        let Some((request, asker)) = self.sent.remove(&id) else { return };
        match asker {
            Asker::User(tell, _) => self.answer(request, tell, reply, keys.revision()),
            Asker::Lease(node) => self.handle_leased(now, node, &reply),
            Asker::Listing(node) => self.handle_listed(now, node, reply),
            Asker::Claim(node) => {
                if let (Reply::Failed(KeyError::Conflict { .. }), Request::Put { key, .. }) =
                    (&reply, &request)
                    && keys.get(key).is_some_and(|key| key.owner != Some(node))
                    && let Some(own) = self.own.get_mut(&node)
                {
                    // Not our own of before, but somebody else's by now.
                    own.claims.remove(key);
                }
            }
            Asker::Place(key) => {
                let made = match reply {
                    Reply::Done { revision, .. } => Place::Made(revision),
                    _ => Place::Lost,
                };
                if let Some(place) = self.places.get_mut(&key) {
                    *place = made;
                }
            }
            Asker::Nobody => {
                if let Request::Delete { key, .. } = request {
                    self.garbage.remove(&key);
                }
            }
        }
    }

    /// The keys known reach up to `revision`; `directory` is what they list.
    pub fn handle_news(&mut self, now: Instant, revision: u64, directory: &Directory) {
        let seen = self.unseen.extract_if(.., |(at, ..)| *at <= revision);
        seen.for_each(|(_, tell, reply)| tell.send(reply));
        let nodes: Vec<Incarnation> = self.own.keys().copied().collect();
        for node in nodes {
            let own = &self.own[&node];
            match own.stage {
                Stage::Listed if directory.node(node).is_none() => self.start_again(now, node),
                // It does not wait for the next look if what kept it off may be gone.
                Stage::Idle if !own.told.is_empty() => self.start_again(now, node),
                _ => {}
            }
        }
    }

    /// Renews, and gives up what waited too long.
    pub fn handle_timeout(&mut self, now: Instant, directory: &Directory) {
        let overdue = |asker: &Asker| matches!(asker, Asker::User(_, until) if *until <= now);
        let (late, kept): (Vec<_>, Vec<_>) =
            self.queue.drain(..).partition(|(_, _, asker)| overdue(asker));
        self.queue = kept.into();
        for (_, request, asker) in late {
            self.give_up(request, asker, KeyError::Unavailable);
        }
        let late: Vec<_> =
            self.sent.extract_if(.., |_, (_, asker)| overdue(asker)).map(|(_, one)| one).collect();
        for (request, asker) in late {
            self.give_up(request, asker, KeyError::Unknown);
        }
        let nodes: Vec<Incarnation> = self.own.keys().copied().collect();
        for node in nodes {
            let own = self.own.get_mut(&node).expect("listed above");
            if own.stage == Stage::Lapsed {
                continue;
            }
            if own.well_until <= now {
                own.stage = Stage::Lapsed;
                own.leased_at = None;
                own.claims.clear();
                self.push(Request::End { node }, Asker::Nobody);
            } else if self.connected && own.renew_at <= now {
                self.renew_or_list(now, node, directory);
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has work.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = self.own.values().filter(|own| own.stage != Stage::Lapsed);
        let own = own.flat_map(|own| {
            [Some(own.well_until), self.connected.then_some(own.renew_at)].into_iter().flatten()
        });
        let askers = self.queue.iter().map(|(.., asker)| asker);
        let askers = askers.chain(self.sent.values().map(|(_, asker)| asker));
        let waits = askers.filter_map(|asker| match asker {
            Asker::User(_, until) => Some(*until),
            _ => None,
        });
        own.chain(waits).min()
    }

    /// The next request to send, if the coordinator is there.
    pub fn poll_request(&mut self) -> Option<(u64, Request)> {
        if !self.connected {
            return None;
        }
        let (id, request, asker) = self.queue.pop_front()?;
        self.sent.insert(id, (request.clone(), asker));
        Some((id, request))
    }

    // ---- inside ----

    fn push(&mut self, request: Request, asker: Asker) {
        self.next_id += 1;
        self.queue.push_back((self.next_id, request, asker));
    }

    /// Has a key of this process deleted, whenever that is possible.
    pub fn throw_away(&mut self, key: String) {
        self.garbage.insert(key.clone());
        if self.connected {
            self.push(Request::Delete { key, expect: Expect::Any }, Asker::Nobody);
        }
    }

    fn start_again(&mut self, now: Instant, node: Incarnation) {
        if let Some(own) = self.own.get_mut(&node) {
            own.stage = Stage::Idle;
            own.renew_at = now;
        }
    }

    fn renew_or_list(&mut self, now: Instant, node: Incarnation, directory: &Directory) {
        let (lease, nodes_max) = (self.lease, self.nodes_max);
        let own = self.own.get_mut(&node).expect("one of ours");
        own.renew_at = now + lease / 3;
        let is_listed = own.stage == Stage::Listed;
        let mut others = directory.nodes().filter(|other| other.incarnation != node);
        // Of two that do not understand each other the greater incarnation gives way, so that
        // both sides decide alike when they came at the same time.
        let rivals = |other: &&NodeInfo| !is_listed || other.incarnation < node;
        let mut admitted = others.by_ref().filter(rivals).try_for_each(|o| fit(&own.info, o));
        let count = directory.nodes().count();
        if admitted.is_ok() && directory.node(node).is_none() && count >= nodes_max {
            admitted = Err(Error::Full(count));
        }
        if let Err(error) = admitted {
            self.refuse(now, node, error);
            return;
        }
        if own.stage == Stage::Idle {
            own.stage = Stage::Leasing;
        }
        self.push(Request::Lease { node, ttl: lease }, Asker::Lease(node));
    }

    fn refuse(&mut self, now: Instant, node: Incarnation, error: Error) {
        let lease = self.lease;
        let Some(own) = self.own.get_mut(&node) else { return };
        let (name, text) = (own.info.name.clone(), error.to_string());
        own.renew_at = now + lease / 3;
        let was_listed = own.leased_at.take().is_some();
        own.stage = Stage::Idle;
        let told = std::mem::take(&mut own.told);
        if was_listed {
            self.push(Request::End { node }, Asker::Nobody);
        }
        if self.refused.len() < REFUSED_MAX || self.refused.contains_key(&name) {
            self.refused.insert(name, text);
        }
        for tell in told {
            tell.send(Err(error.clone()));
        }
    }

    fn handle_leased(&mut self, now: Instant, node: Incarnation, reply: &Reply) {
        let Some(own) = self.own.get_mut(&node) else { return };
        match reply {
            Reply::Leased { fresh } => {
                own.leased_at = Some(now);
                if *fresh || own.stage != Stage::Listed {
                    let claims = own.claims.clone();
                    self.ask_listing(node);
                    for (key, value) in claims {
                        let expect = Expect::Absent;
                        let request = Request::Put { key, value, owner: Some(node), expect };
                        self.push(request, Asker::Claim(node));
                    }
                }
            }
            _ => own.stage = Stage::Idle,
        }
    }

    fn ask_listing(&mut self, node: Incarnation) {
        let own = self.own.get_mut(&node).expect("one of ours");
        own.stage = Stage::Listing;
        let value = encode_node(&own.info).into();
        let key = node_key(node);
        let request = Request::Put { key, value, owner: Some(node), expect: Expect::Any };
        self.push(request, Asker::Listing(node));
    }

    fn handle_listed(&mut self, now: Instant, node: Incarnation, reply: Reply) {
        let retry = self.lease / 10;
        let Some(own) = self.own.get_mut(&node) else { return };
        match reply {
            Reply::Done { .. } => {
                own.stage = Stage::Listed;
                self.refused.remove(&own.info.name);
                own.told.drain(..).for_each(|tell| tell.send(Ok(())));
            }
            _ => {
                own.stage = Stage::Idle;
                own.renew_at = now + retry;
            }
        }
    }

    fn answer(&mut self, request: Request, tell: answer::Sender<Reply>, reply: Reply, seen: u64) {
        let Reply::Done { revision, .. } = reply else { return tell.send(reply) };
        match request {
            Request::Put { key, value, owner: Some(node), .. } => {
                if let Some(own) = self.own.get_mut(&node) {
                    own.claims.insert(key, value);
                }
            }
            Request::Delete { key, .. } => {
                self.own.values_mut().for_each(|own| drop(own.claims.remove(&key)));
            }
            _ => {}
        }
        // Who has written finds what it wrote.
        if revision <= seen {
            tell.send(reply);
        } else {
            self.unseen.push((revision, tell, reply));
        }
    }

    fn give_up(&mut self, request: Request, asker: Asker, error: KeyError) {
        match asker {
            Asker::User(tell, _) => tell.send(Reply::Failed(error)),
            Asker::Place(key) => {
                if let Some(place) = self.places.get_mut(&key) {
                    *place = Place::Lost;
                }
                self.throw_away(key.to_string());
            }
            Asker::Nobody => {
                if let Request::End { node } = request {
                    // Its lease runs out by itself.
                    tracing::debug!(%node, "a lease could not be ended");
                }
            }
            Asker::Lease(_) | Asker::Listing(_) | Asker::Claim(_) => {}
        }
    }
}

/// The key under which a node is listed.
pub(crate) fn node_key(node: Incarnation) -> String {
    format!("{NODE_PREFIX}{node}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Key, KeyOptions};

    const NODE: Incarnation = Incarnation(7);

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    /// Sends what is due and answers it; gives the keys that were asked for.
    fn turn(attached: &mut Attached, now: Instant, keys: &mut Keys, fresh: bool) -> String {
        attached.handle_timeout(now, &Directory::default());
        let mut asked = Vec::new();
        while let Some((id, request)) = attached.poll_request() {
            let reply = match request {
                Request::Lease { .. } => Reply::Leased { fresh },
                Request::Put { key, value, owner, expect } => {
                    asked.push(key.clone());
                    match keys.put(&key, value, owner, expect) {
                        Ok(revision) => Reply::Done { revision, existed: true },
                        Err(error) => Reply::Failed(error),
                    }
                }
                other => panic!("{other:?}"),
            };
            attached.handle_reply(now, id, reply, keys);
        }
        asked.join(" ")
    }

    /// A process came to its coordinator again, found the names of its node there still, took the
    /// refusal to write them for somebody else's claim, and never wrote them again.
    #[test]
    fn names_that_are_still_there_are_written_again_after_the_next_loss() {
        let mut attached = Attached::new(Duration::from_secs(15), 9);
        let mut keys = Keys::new(KeyOptions::default());
        let told = attached.register(at(0), NodeInfo::new("a", NODE)).unwrap();
        attached.handle_connected(at(0));
        assert_eq!(turn(&mut attached, at(0), &mut keys, true), "node/0000000000000007");
        assert_eq!(told.wait(Duration::ZERO), Some(Ok(())));
        let expect = Expect::Absent;
        let put = |key: &str| {
            let (key, value) = (key.to_owned(), b"".as_slice().into());
            Request::Put { key, value, owner: Some(NODE), expect }
        };
        for key in ["mine", "lost"] {
            drop(attached.ask(at(9), put(key)));
        }
        turn(&mut attached, at(0), &mut keys, false);
        attached.handle_disconnected(at(1));
        attached.handle_connected(at(2));
        let all = "node/0000000000000007 lost mine";
        assert_eq!(turn(&mut attached, at(2), &mut keys, false), all);
        // Now all is lost, and somebody else is faster with one of them.
        attached.handle_disconnected(at(3));
        let key = Key { value: [].into(), created: 9, changed: 9, owner: Some(Incarnation(8)) };
        keys = Keys::load(KeyOptions::default(), 9, [("lost".into(), key)]);
        attached.handle_connected(at(4));
        assert_eq!(turn(&mut attached, at(4), &mut keys, true), all);
        attached.handle_disconnected(at(5));
        attached.handle_connected(at(6));
        assert_eq!(turn(&mut attached, at(6), &mut keys, true), "node/0000000000000007 mine");
    }

    #[test]
    fn what_waits_for_an_absent_coordinator_is_kept_and_given_up_in_time() {
        let mut attached = Attached::new(Duration::from_secs(15), 9);
        let request = Request::Delete { key: "x".into(), expect: Expect::Any };
        let told = attached.ask(at(4), request.clone()).unwrap();
        assert_eq!(attached.poll_request(), None);
        attached.handle_disconnected(at(1));
        assert_eq!(attached.poll_timeout(), Some(at(4)));
        attached.handle_timeout(at(4), &Directory::default());
        let unavailable = Some(Reply::Failed(KeyError::Unavailable));
        assert_eq!(told.wait(Duration::ZERO), unavailable);
        // What was sent may have been done.
        let told = attached.ask(at(9), request.clone()).unwrap();
        attached.handle_connected(at(5));
        assert!(attached.poll_request().is_some_and(|(_, sent)| sent == request));
        attached.handle_disconnected(at(6));
        assert_eq!(told.wait(Duration::ZERO), Some(Reply::Failed(KeyError::Unknown)));
    }

    #[test]
    fn a_node_without_a_sign_of_life_is_not_renewed() {
        let mut attached = Attached::new(Duration::from_secs(15), 9);
        let mut keys = Keys::new(KeyOptions::default());
        let _ = attached.register(at(0), NodeInfo::new("a", NODE));
        attached.handle_connected(at(0));
        turn(&mut attached, at(0), &mut keys, true);
        attached.renew(at(10), NODE).unwrap();
        assert!(attached.is_sure(at(14), NODE));
        attached.handle_timeout(at(25), &Directory::default());
        assert_eq!(
            attached.poll_request().map(|(_, request)| request),
            Some(Request::End { node: NODE })
        );
        assert_eq!(attached.renew(at(25), NODE), Err(Error::NotListed(NODE)));
        assert!(!attached.is_sure(at(25), NODE));
        assert!(attached.register(at(26), NodeInfo::new("a", NODE)).is_none());
        assert_eq!(turn(&mut attached, at(26), &mut keys, true), "node/0000000000000007");
    }
}
