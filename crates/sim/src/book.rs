//! What entities and clients of one run have seen, and what of it should not have been.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mainstay::env::{FastMap, Instant};
use mainstay::proto::{EntityId, SessionId};

/// How much later than its deadline a call may end: as long as a worker stalls, and a little.
pub const SLACK: Duration = Duration::from_millis(2_000);

/// The answer to a command that asks for a deal which was not done.
pub const DENIED: u64 = 2;

/// Names one client of the run, through all its connections.
pub type Life = u64;

/// The right answer to command `n` of a client, at the entity with `key`.
pub fn answer(key: u64, life: Life, n: u64) -> u64 {
    let mut hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ life.rotate_left(32) ^ n;
    hash = (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (hash ^ (hash >> 32)) | 1
}

/// A handle on the [`Book`] of a run: entities hold one, so does the script.
#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<Book>>);

impl Shared {
    pub fn open(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Alarm {
    due: Instant,
    holder: u64,
    dropped: bool,
}

/// All that is checked at the entities' side.
#[derive(Default)]
pub struct Book {
    violations: Vec<String>,
    /// Commands of clients that entities have handled, by client: number and where.
    applied: BTreeMap<Life, FastMap<u64, EntityId>>,
    /// The last number of each client at each entity.
    last: BTreeMap<(EntityId, Life), u64>,
    admitted: BTreeSet<SessionId>,
    /// When tickets let a session begin, in a run where nodes may not agree on who is home; and those
    /// that did it twice, with the first time.
    pub admissions: Option<BTreeMap<SessionId, Instant>>,
    pub admitted_twice: Vec<Instant>,
    /// Nodes die in this run, and what they have in memory with them.
    pub nodes_die: bool,
    /// Entities may be taken by another node while they move: the one that had them drops them as it would if it died.
    pub entities_move: bool,
    /// When the script looked last.
    pub now: Instant,
    pub node_deaths: Vec<Instant>,
    pub gate_deaths: Vec<Instant>,
    /// When a node was last killed or made to go.
    pub node_end: Option<Instant>,
    /// When nodes stood still.
    stops: Vec<(Instant, Instant)>,
    /// Deals that clients were told of: account, command, and whether it was done.
    pub deals: Vec<(u64, (Life, u64), bool)>,
    calls: BTreeMap<u64, (Instant, Duration, &'static str)>,
    calls_made: u64,
    tags: u64,
    /// Whose each client is.
    accounts: BTreeMap<Life, u64>,
    /// Clients that entities believe to be bound to them.
    peers: BTreeMap<(EntityId, u64), u64>,
    alarms: BTreeMap<u64, Alarm>,
    alarms_made: u64,
    pub cycles: u64,
    pub chains: u64,
    pub answered_by_clients: u64,
    pub alarms_rung: u64,
}

impl Book {
    pub fn violation(&mut self, text: impl Into<String>) {
        // The first few tell the story.
        if self.violations.len() < 20 {
            self.violations.push(text.into());
        }
    }

    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    // -- commands --

    /// Command `n` of a client is handled by `entity` now.
    pub fn applied(&mut self, entity: EntityId, life: Life, n: u64) {
        if let Some(before) = self.applied.entry(life).or_default().insert(n, entity) {
            let text = format!("client {life}'s command {n} was handled by {before} and {entity}");
            self.violation(format!("twice: {text}"));
        }
        let last = self.last.entry((entity, life)).or_insert(0);
        if n <= *last {
            let text = format!("client {life}'s command {n} came to {entity} after {last}");
            self.violation(format!("order: {text}"));
        } else {
            *last = n;
        }
    }

    /// A client of `account` begins.
    pub fn born(&mut self, life: Life, account: u64) {
        self.accounts.insert(life, account);
    }

    /// A command of client `life` came over a stream of `account`.
    pub fn came(&mut self, life: Life, account: u64) {
        if self.accounts.get(&life) != Some(&account) {
            self.violation(format!("routes: a command of client {life} came from {account}"));
        }
    }

    pub fn is_applied(&self, life: Life, n: u64) -> bool {
        self.applied.get(&life).is_some_and(|known| known.contains_key(&n))
    }

    // -- sessions --

    /// A home admits a login.
    pub fn admitted(&mut self, session: SessionId) {
        let now = self.now;
        if let Some(admissions) = &mut self.admissions {
            // Whether that may be is known when it is known what nodes take for true.
            self.admitted_twice.extend(admissions.insert(session, now));
            return;
        }
        if !self.admitted.insert(session) {
            self.violation("ticket: one ticket has let two sessions begin");
        }
    }

    /// A stream begins: gives the number that names it from now on.
    pub fn tag(&mut self) -> u64 {
        self.tags += 1;
        self.tags
    }

    pub fn online(&mut self, entity: EntityId, tag: u64) {
        self.peers.insert((entity, tag), tag);
    }

    pub fn offline(&mut self, entity: EntityId, tag: u64) {
        self.peers.remove(&(entity, tag));
    }

    /// An entity is gone with a client at it.
    pub fn seat_dropped(&mut self, entity: EntityId, tag: u64) {
        if self.nodes_die || self.entities_move {
            self.offline(entity, tag);
        }
    }

    /// The entities that believe clients to be bound to them, once for each.
    pub fn peers(&self) -> impl Iterator<Item = EntityId> {
        self.peers.keys().map(|(entity, _)| *entity)
    }

    // -- calls --

    /// A call that ends by `limit` begins.
    pub fn call_begins(&mut self, now: Instant, limit: Duration, what: &'static str) -> u64 {
        self.calls_made += 1;
        self.calls.insert(self.calls_made, (now, limit, what));
        self.calls_made
    }

    pub fn call_ends(&mut self, now: Instant, call: u64) {
        let Some((from, limit, what)) = self.calls.remove(&call) else {
            return self.violation("calls: a call has ended twice");
        };
        let took = now - from;
        if took > limit + SLACK + self.stopped(from, now) {
            self.violation(format!("deadline: {what} took {took:?} of {limit:?}"));
        }
    }

    /// A node stands still: nothing ends there meanwhile.
    pub fn stands_still(&mut self, from: Instant, to: Instant) {
        self.stops.push((from, to));
    }

    /// How long nodes stood still between two moments, all together.
    fn stopped(&self, from: Instant, to: Instant) -> Duration {
        let within = |(began, ended): &(Instant, Instant)| (*ended).min(to) - (*began).max(from);
        self.stops.iter().map(within).sum()
    }

    /// Nobody waits for a call any more.
    pub fn call_dropped(&mut self, call: u64) {
        if self.nodes_die {
            self.calls.remove(&call);
        }
    }

    /// Whether a gate and a node were killed so close to each other, not long before `now`, that
    /// what they knew of a session may have been known to nobody else.
    pub fn both_died(&self, now: Instant, within: Duration) -> bool {
        let is_near = |one: &Instant, other: &Instant| {
            (*one).max(*other) - (*one).min(*other) <= Duration::from_secs(12)
        };
        let recent = |at: &&Instant| now - **at <= within;
        let nodes = self.node_deaths.iter().filter(recent);
        nodes.clone().any(|node| self.gate_deaths.iter().any(|gate| is_near(node, gate)))
    }

    pub fn calls_open(&self) -> Vec<&'static str> {
        self.calls.values().map(|(_, _, what)| *what).collect()
    }

    // -- alarms --

    /// An alarm is set that `holder` holds: an entity, as long as it is on one node.
    pub fn alarm_set(&mut self, due: Instant, holder: u64) -> u64 {
        self.alarms_made += 1;
        self.alarms.insert(self.alarms_made, Alarm { due, holder, dropped: false });
        self.alarms_made
    }

    pub fn alarm_rings(&mut self, now: Instant, alarm: u64) {
        self.alarms_rung += 1;
        match self.alarms.remove(&alarm) {
            None => self.violation(format!("timers: alarm {alarm} has rung twice")),
            Some(alarm) if now < alarm.due => {
                self.violation(format!("timers: {alarm:?} has rung at {now:?}"));
            }
            Some(_) => {}
        }
    }

    /// The entity of an alarm has come here with it.
    pub fn alarm_held(&mut self, alarm: u64, holder: u64) {
        if let Some(alarm) = self.alarms.get_mut(&alarm) {
            (alarm.holder, alarm.dropped) = (holder, false);
        }
    }

    /// The entity of an alarm is gone.
    pub fn alarm_dropped(&mut self, alarm: u64, holder: u64) {
        if let Some(alarm) = self.alarms.get_mut(&alarm).filter(|alarm| alarm.holder == holder) {
            alarm.dropped = true;
        }
    }

    /// Alarms that have not rung although nothing took them.
    pub fn alarms_open(&self) -> usize {
        self.alarms.values().filter(|alarm| !(alarm.dropped && self.nodes_die)).count()
    }
}
