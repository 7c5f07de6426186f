//! One client of a run: what it sent, what it must hear, and what it has heard.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mainstay::env::{Instant, Random};
use mainstay::node::session::SecondLogin;
use mainstay::proto::MethodId;
use mainstay::proto::frame::{CloseCode, Status};
use testkit::{CallError, ClientId, Cluster, End, Event, Options, RequestId, TellId};

use crate::book::{DENIED, Life, Shared, answer};

/// How long a command may wait to be handled while its connection holds: a broken link is learnt of
/// late, by gates and workers that stall one after the other, before they break the connection too.
const PROGRESS_MAX: Duration = Duration::from_secs(15);

/// Where a client stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Playing,
    /// It has said goodbye.
    Left,
    /// Its program is gone without a word.
    Gone,
    /// The server has ended its session.
    Ended,
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Unknown,
    /// It has its answer, so it was handled.
    Done,
    /// It will never be handled, as far as the client was told.
    NotSent,
    /// Nobody knows: it may have been handled.
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Command {
    /// The handle of the agent's stream by which it went; `None` if it went elsewhere.
    agent: Option<u32>,
    is_tell: bool,
    fate: Fate,
    since: Instant,
}

struct Open {
    n: u64,
    method: &'static str,
    expected: u64,
    /// The answer 0 stands for a call of the handler that failed.
    may_fail: bool,
    since: Instant,
    until: Instant,
}

/// What a whole run has, for each of its clients.
#[derive(Clone, Copy, Debug, Default)]
pub struct Laws {
    /// Nothing goes wrong by itself, so every request must be answered, unless its client has
    /// broken its connection meanwhile and its time is over.
    pub is_calm: bool,
    /// A second login is refused.
    pub refuses_second: bool,
    pub window: Duration,
    /// So little is kept for clients that are away that sessions may be lost by it.
    pub may_overflow: bool,
    /// So few casts are kept that clients may miss some, and must be told.
    pub may_miss_casts: bool,
    /// Nodes are killed and drained.
    pub nodes_die: bool,
    /// How long a command may wait where more goes wrong than that.
    pub patience: Duration,
    /// The streams that a login begins with: until all were there it may be refused yet.
    pub streams: &'static [&'static str],
}

impl Laws {
    /// Draws what is special in a run, one in so many of them each: second logins that are refused, little kept for
    /// clients that are away, few casts kept.
    pub fn draw(&mut self, random: &mut Random, odds: [u64; 3], options: &mut Options) {
        let sessions = &mut options.sessions;
        let [refuses, overflows, misses] = odds;
        if random.chance(1, refuses) {
            self.refuses_second = true;
            sessions.second_login = SecondLogin::Refuse;
        }
        if random.chance(1, overflows) {
            self.may_overflow = true;
            sessions.held_frames_max = 6;
        }
        if random.chance(1, misses) {
            self.may_miss_casts = true;
            sessions.group_ring_frames_max = 3;
        }
        sessions.resume_window = self.window;
    }

    /// A lost node is taken off the list late, and what lived there is opened anew after that.
    fn progress_max(&self) -> Duration {
        let usual = if self.nodes_die { 2 * PROGRESS_MAX } else { PROGRESS_MAX };
        usual.max(self.patience)
    }
}

pub struct Player {
    pub id: ClientId,
    pub life: Life,
    pub account: u64,
    pub standing: Standing,
    /// The account has logged in again since.
    pub is_followed: bool,
    /// Another client of the account was there when this one began.
    pub follows: bool,
    /// That one was not let in yet, so it may come in later than this one.
    pub follows_outsider: bool,
    laws: Laws,
    book: Shared,
    n: u64,
    commands: BTreeMap<u64, Command>,
    tells: BTreeMap<TellId, u64>,
    open: BTreeMap<RequestId, Open>,
    pub was_in: bool,
    connected_at: Instant,
    /// When it was last seen without a connection.
    broken_at: Instant,
    /// Streams with commands that are not known to be handled: the last that is, and since when.
    pending: BTreeMap<u32, (u64, Instant)>,
    /// Streams that were bound at some time.
    bound: BTreeSet<String>,
    /// The last numbered message of each stream, by the stream's tag.
    told: BTreeMap<u64, u64>,
    newest: BTreeMap<u64, u64>,
    asked: BTreeSet<(u64, u64)>,
    /// The last cast of each group.
    casts: BTreeMap<u64, u64>,
    sparks: BTreeMap<u64, u64>,
    /// Casts that each group has announced to be missing.
    missed: BTreeMap<String, u64>,
    /// Groups whose room the client has entered anew, so that what was before does not matter.
    entered: BTreeSet<String>,
    /// Groups whose next cast may be any later one.
    leaps: BTreeSet<String>,
    pub heard: Heard,
}

/// How much a client has heard, to see that a run was about something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heard {
    pub answers: u64,
    pub errors: u64,
    pub pushes: u64,
    pub casts: u64,
    pub calls: u64,
    pub missed: u64,
    pub unconfirmed: u64,
    pub rebound: u64,
    pub endings: [u64; 4],
}

impl Heard {
    pub fn add(&mut self, other: &Heard) {
        self.answers += other.answers;
        self.errors += other.errors;
        self.pushes += other.pushes;
        self.casts += other.casts;
        self.calls += other.calls;
        self.missed += other.missed;
        self.unconfirmed += other.unconfirmed;
        self.rebound += other.rebound;
        for (mine, theirs) in self.endings.iter_mut().zip(other.endings) {
            *mine += theirs;
        }
    }
}

impl Player {
    pub fn new(cluster: &mut Cluster, book: &Shared, account: u64, laws: Laws) -> Self {
        let id = cluster.client(account);
        cluster.publish(id, "confirm");
        let life = id.0 as Life + 1;
        book.open().born(life, account);
        Player {
            id,
            life,
            account,
            standing: Standing::Playing,
            is_followed: false,
            follows: false,
            follows_outsider: false,
            laws,
            book: book.clone(),
            n: 0,
            commands: BTreeMap::new(),
            tells: BTreeMap::new(),
            open: BTreeMap::new(),
            was_in: false,
            connected_at: cluster.now(),
            broken_at: cluster.now(),
            pending: BTreeMap::new(),
            bound: BTreeSet::new(),
            told: BTreeMap::new(),
            newest: BTreeMap::new(),
            asked: BTreeSet::new(),
            casts: BTreeMap::new(),
            sparks: BTreeMap::new(),
            missed: BTreeMap::new(),
            entered: BTreeSet::new(),
            leaps: BTreeSet::new(),
            heard: Heard::default(),
        }
    }

    /// From now on every request must be answered.
    pub fn calm_from_now(&mut self) {
        self.laws.is_calm = true;
    }

    pub fn is_playing(&self) -> bool {
        self.standing == Standing::Playing
    }

    /// Whether it waits for nothing.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    fn violation(&self, text: &str) {
        self.book.open().violation(format!("{text} (client {} of {})", self.life, self.account));
    }

    /// It says goodbye.
    pub fn leave(&mut self, cluster: &mut Cluster) {
        self.standing = Standing::Left;
        cluster.leave(self.id);
    }

    /// Its program ends without a word. `silent`: its connection does not show it either.
    pub fn abandon(&mut self, cluster: &mut Cluster, silent: bool) {
        self.standing = Standing::Gone;
        cluster.abandon(self.id, silent);
    }

    // -- out --

    /// Sends a request with `more` arguments after life and number.
    pub fn request(
        &mut self,
        cluster: &mut Cluster,
        (stream, method): (&'static str, &'static str),
        more: Option<u64>,
        wait: Duration,
    ) {
        let (n, agent) = (self.n + 1, self.agent(cluster, stream));
        let way = (stream, method);
        let started = match more {
            Some(more) => cluster.start(self.id, way, &(self.life, n, more), wait),
            None => cluster.start(self.id, way, &(self.life, n), wait),
        };
        let Ok(request) = started else { return };
        self.n = n;
        let (is_tell, fate, since) = (false, Fate::Unknown, cluster.now());
        self.commands.insert(n, Command { agent, is_tell, fate, since });
        let account = if stream == "agent" { self.account } else { 0 };
        let expected = answer(account, self.life, n);
        let may_fail = matches!(method, "chain" | "duel" | "enter" | "buy" | "pay");
        let since = cluster.now();
        let until = since + wait;
        self.open.insert(request, Open { n, method, expected, may_fail, since, until });
    }

    pub fn tell(
        &mut self,
        cluster: &mut Cluster,
        (stream, method): (&'static str, &'static str),
        more: Option<u64>,
    ) {
        let (n, agent) = (self.n + 1, self.agent(cluster, stream));
        let told = match more {
            Some(more) => cluster.tell(self.id, stream, method, &(self.life, n, more)),
            None => cluster.tell(self.id, stream, method, &(self.life, n)),
        };
        if let Ok(tell) = told {
            self.n = n;
            self.tells.insert(tell, n);
            let (is_tell, fate, since) = (true, Fate::Unknown, cluster.now());
            self.commands.insert(n, Command { agent, is_tell, fate, since });
        }
    }

    /// The handle of the stream if it is the agent's.
    fn agent(&self, cluster: &Cluster, stream: &str) -> Option<u32> {
        cluster.core(self.id).handle(stream).filter(|_| stream == "agent")
    }

    // -- in --

    /// Looks at all that has come since the last time. `answers`: whether it answers calls.
    pub fn look(&mut self, cluster: &mut Cluster, answers: bool) {
        if self.standing == Standing::Gone {
            return;
        }
        if cluster.core(self.id).is_connected() {
            self.connected_at = cluster.now();
        } else {
            self.broken_at = cluster.now();
        }
        for event in cluster.events(self.id) {
            self.event(cluster, event, answers);
        }
        let open: Vec<_> = self.open.keys().copied().collect();
        for request in open {
            if let Some(result) = cluster.take_result(self.id, request) {
                let open = self.open.remove(&request).expect("just listed");
                self.resolved(&open, result);
            }
        }
        self.check_progress(cluster);
        let late = cluster.now();
        // A client that is done has no request open; the others keep their deadlines.
        if self.open.values().any(|open| open.until + Duration::from_millis(500) < late) {
            self.violation("deadline: a request has no end");
            self.open.clear();
        }
    }

    /// While a connection holds, what is sent on it is handled.
    fn check_progress(&mut self, cluster: &Cluster) {
        let (core, now) = (cluster.core(self.id), cluster.now());
        let mut pending = BTreeMap::new();
        for (stream, _, handled) in core.progress().filter(|(_, sent, handled)| sent > handled) {
            let known = self.pending.get(&stream).filter(|(before, _)| *before == handled);
            let since = known.map_or(now, |(_, since)| *since).max(self.broken_at);
            if now - since > self.laws.progress_max() && core.is_connected() {
                self.violation(&format!("dead: nothing after {handled} of {stream} was handled"));
            }
            pending.insert(stream, (handled, since));
        }
        self.pending = pending;
    }

    fn resolved(&mut self, open: &Open, result: Result<Vec<u8>, CallError>) {
        let fate = match result {
            Ok(body) => {
                self.heard.answers += 1;
                match mainstay::proto::decode::<u64>(&body) {
                    Ok(value) if value == open.expected => self.deal(open, true),
                    Ok(0) if open.may_fail => {}
                    Ok(DENIED) if open.method == "pay" => self.deal(open, false),
                    other => self.violation(&format!(
                        "answers: {} {} was answered {other:?} instead of {}",
                        open.method, open.n, open.expected
                    )),
                }
                Fate::Done
            }
            Err(error) => {
                self.heard.errors += 1;
                self.failed(open, &error)
            }
        };
        if let Some(command) = self.commands.get_mut(&open.n) {
            command.fate = fate;
        }
    }

    /// The client was told what became of a deal.
    fn deal(&self, open: &Open, done: bool) {
        if open.method == "pay" {
            self.book.open().deals.push((self.account, (self.life, open.n), done));
        }
    }

    fn failed(&self, open: &Open, error: &CallError) -> Fate {
        // Its streams may end before it hears that a later login took over.
        let is_replaced = self.is_followed && !self.laws.refuses_second;
        let is_over =
            !self.is_playing() || is_replaced && matches!(error, CallError::Refused(Status::Gone));
        let is_late = matches!(error, CallError::Timeout | CallError::NotSent);
        let had_no_time = is_late && self.broken_at >= open.since;
        // Rooms come and go.
        if self.laws.is_calm && !is_over && open.method != "hit" && !had_no_time {
            self.violation(&format!("calm: {} {} failed: {error}", open.method, open.n));
        }
        match error {
            CallError::NotSent => Fate::NotSent,
            CallError::Timeout => Fate::Lost,
            CallError::Ended(_) if is_over => Fate::Lost,
            // Its stream went away with it under way.
            CallError::Refused(Status::Gone | Status::Unavailable | Status::NotFound) => Fate::Lost,
            CallError::Refused(Status::Timeout) => Fate::Lost,
            error => {
                self.violation(&format!("answers: {} {} failed: {error}", open.method, open.n));
                Fate::Lost
            }
        }
    }

    fn event(&mut self, cluster: &mut Cluster, event: Event, answers: bool) {
        let life = self.life;
        cluster.note(|| {
            let text: String = format!("{event:?}").chars().take(200).collect();
            format!("client {} (life {life}) hears {text}", life - 1)
        });
        match event {
            Event::Connected { .. } => self.was_in = true,
            Event::Bound { stream, .. } => {
                let again = !self.commands.is_empty() && &*stream == "agent";
                self.heard.rebound += u64::from(again);
                if &*stream != "room" {
                    self.bound.insert(stream.to_string());
                }
            }
            Event::Lost { .. } => self.broken_at = cluster.now(),
            Event::Unconfirmed { tell, sent, .. } => {
                self.heard.unconfirmed += 1;
                self.told_of(tell, if sent { Fate::Lost } else { Fate::NotSent });
            }
            Event::Push { method, body, .. } => self.push(method, &body),
            Event::Cast { method, body, group } => self.cast(&group, method, &body),
            Event::Joined { group, missed, .. } => {
                if self.entered.remove(&*group) {
                    // It may have come in while away, and for too long.
                    if self.laws.may_miss_casts {
                        self.leaps.insert(group.to_string());
                    }
                    return;
                }
                if missed == 0 {
                    return;
                }
                self.heard.missed += missed;
                if !self.laws.may_miss_casts {
                    self.violation(&format!("casts: {missed} of {group} are missing"));
                }
                *self.missed.entry(group.to_string()).or_insert(0) += missed;
            }
            Event::Call { call, body, .. } => {
                let Some((tag, q)) = self.pair(&body) else { return };
                self.heard.calls += 1;
                if !self.asked.insert((tag, q)) {
                    self.violation("twice: a call of the server came again");
                }
                if answers {
                    let _ = cluster.answer(self.id, call, &answer(tag, 0, q));
                }
            }
            Event::Refused { tell, status, .. } => {
                match tell {
                    Some(tell) => self.told_of(tell, Fate::NotSent),
                    None => self.violation("tells: one without a name was refused"),
                }
                let gone = matches!(status, Status::Unavailable | Status::NotFound | Status::Gone);
                if self.laws.is_calm && self.is_playing() || !gone {
                    self.violation(&format!("tells: one was refused: {status:?}"));
                }
            }
            Event::RolledBack { .. } => {
                self.violation("answers: an entity that never crashed was rolled back");
            }
            Event::Ended { end } => self.ended(cluster.now(), &end),
            _ => {}
        }
    }

    /// The fate of a tell is known.
    fn told_of(&mut self, tell: TellId, fate: Fate) {
        let n = self.tells[&tell];
        let command = self.commands.get_mut(&n).expect("tells are commands");
        let before = std::mem::replace(&mut command.fate, fate);
        if before != Fate::Unknown {
            self.violation(&format!("tells: {n} was {before:?} and then {fate:?}"));
        }
    }

    fn pair(&self, body: &[u8]) -> Option<(u64, u64)> {
        let pair = mainstay::proto::decode::<(u64, u64)>(body).ok();
        if pair.is_none() {
            self.violation("answers: a message cannot be read");
        }
        pair
    }

    fn push(&mut self, method: MethodId, body: &[u8]) {
        let Some((tag, k)) = self.pair(body) else { return };
        self.heard.pushes += 1;
        if method == MethodId::of("told") {
            let last = self.told.entry(tag).or_insert(0);
            let expected = *last + 1;
            *last = k;
            if k != expected {
                self.violation(&format!("pushes: {k} of stream {tag} instead of {expected}"));
            }
        } else if method == MethodId::of("newest") {
            let last = self.newest.entry(tag).or_insert(0);
            let before = std::mem::replace(last, k);
            if k <= before {
                self.violation(&format!("latest: {k} of stream {tag} after {before}"));
            }
        } else if method == MethodId::of("entered") {
            let group = format!("reliable {tag}");
            self.missed.remove(&group);
            self.entered.insert(group);
            self.casts.insert(tag, k);
        }
    }

    fn cast(&mut self, group: &str, method: MethodId, body: &[u8]) {
        let Some((tag, k)) = self.pair(body) else { return };
        self.heard.casts += 1;
        if method == MethodId::of("spark") {
            let last = self.sparks.entry(tag).or_insert(0);
            let before = std::mem::replace(last, k);
            if k <= before {
                self.violation(&format!("casts: live {k} of group {tag} after {before}"));
            }
            return;
        }
        let missed = self.missed.remove(group).unwrap_or(0);
        let may_leap = self.leaps.remove(group);
        let Some(last) = self.casts.get_mut(&tag) else {
            return self.violation("casts: one came before its room was entered");
        };
        let expected = *last + 1 + missed;
        *last = k;
        if k != expected && !(may_leap && k > expected) {
            self.violation(&format!("casts: {k} of group {tag} instead of {expected}"));
        }
    }

    fn ended(&mut self, now: Instant, end: &End) {
        if self.standing != Standing::Playing {
            return;
        }
        self.standing = Standing::Ended;
        let End::Server { code, reason } = end else {
            return self.violation(&format!("session: it ended: {end}"));
        };
        // The server may have learnt of a break long before the client.
        let away = now - self.connected_at + Duration::from_secs(14);
        let allowed = match code {
            CloseCode::Replaced => {
                self.heard.endings[0] += 1;
                self.is_followed || self.follows_outsider
            }
            CloseCode::AlreadyPlaying => {
                self.heard.endings[1] += 1;
                let others = self.follows || self.is_followed;
                self.laws.refuses_second && others && !self.was_in
            }
            // Its login came through, the welcome did not: the ticket is used up.
            CloseCode::Ticket => {
                self.heard.endings[2] += 1;
                !self.was_in
            }
            CloseCode::SessionLost => {
                self.heard.endings[3] += 1;
                let within = self.laws.window + Duration::from_secs(20);
                let is_forgotten = self.book.open().both_died(now, within);
                let is_half_in = self.bound.len() < self.laws.streams.len();
                self.laws.may_overflow || is_half_in || away >= self.laws.window || is_forgotten
            }
            _ => false,
        };
        if !allowed {
            self.violation(&format!("session: it ended: {code:?} {reason}"));
        }
    }

    // -- the end --

    /// Looks back at all commands: what was answered must have been handled, what was not sent
    /// must not, and none may be missing without a word.
    pub fn audit(&self) {
        let book = self.book.open();
        // The last command of each stream that was handled: nothing before it may have been left out.
        let handled = self.commands.iter().filter(|(n, _)| book.is_applied(self.life, **n));
        let newest: BTreeMap<u32, u64> =
            handled.filter_map(|(n, c)| Some((c.agent?, *n))).collect();
        let mut problems = Vec::new();
        for (&n, command) in &self.commands {
            let applied = book.is_applied(self.life, n);
            match command.fate {
                Fate::Done if !applied => problems.push(format!("answers: {n} never ran")),
                Fate::NotSent if applied => problems.push(format!("answers: {n} ran, not sent")),
                // The others are requests whose client is gone, which may run out of time.
                // It was in the mailbox of an entity that ended with its node.
                Fate::Unknown if book.node_end > Some(command.since) => {}
                Fate::Unknown if command.is_tell && !applied => {
                    if command.agent.is_some_and(|stream| newest.get(&stream) > Some(&n)) {
                        problems.push(format!("order: tell {n} was left out"));
                    } else if self.standing != Standing::Gone {
                        problems.push(format!("tells: {n} was lost without a word"));
                    }
                }
                _ => {}
            }
        }
        drop(book);
        for problem in problems {
            self.violation(&problem);
        }
    }
}
