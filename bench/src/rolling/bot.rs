//! A player that numbers all it sends and believes nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arena::BotPlayer;
use env::Instant;
use mainstay::bots::{Bot, Script, Tag};
use mainstay::client::{CallError, Event};
use mainstay::prelude::Message;
use mainstay::proto::{self, MethodId};

use super::count::{Counts, Order};
use super::game::{Account, CLERK, DESK, SCALE};

const ASK: MethodId = MethodId::of("ask");
const NOTE: MethodId = MethodId::of("note");
const WEIGH: MethodId = MethodId::of("weigh");
const TOLD: MethodId = MethodId::of("told");
const NOTED: MethodId = MethodId::of("noted");

/// The streams that lead to services, which must not fail whatever is restarted.
const SERVICES: [&str; 2] = [CLERK, SCALE];

/// What all bots share with whoever restarts the processes.
#[derive(Debug, Default)]
pub struct Shared {
    /// Which restart is under way: an index into `stages`.
    stage: AtomicU32,
    stages: Mutex<Vec<&'static str>>,
    /// Nothing new is sent; what was sent is added up.
    pub quiet: AtomicBool,
    /// Players that have all their streams.
    pub ready: AtomicU64,
    counts: Mutex<Counts>,
}

impl Shared {
    /// What is waited for from now on is because of a process of `role`.
    pub fn begin(&self, role: &'static str) {
        let mut stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        stages.push(role);
        self.stage.store(stages.len() as u32, Ordering::Relaxed);
    }

    pub fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn role(&self, stage: u32) -> Option<&'static str> {
        let stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        stages.get((stage as usize).checked_sub(1)?).copied()
    }
}

/// What one bot does.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// It does something at every so many ticks.
    pub every: u32,
    /// It only asks, to see how long that takes.
    pub probes: bool,
    /// It plays in an arena of that many as well.
    pub arena: Option<u32>,
}

/// What is checked, without anything of a connection.
#[derive(Debug, Default)]
struct Checks {
    /// Who it is, for complaints.
    name: u32,
    /// The last number sent to the clerk.
    sent: u64,
    told: Order,
    weighed: u64,
    /// The last number sent to the desk.
    desk_sent: u64,
    life: u64,
    /// Something for the desk was refused, which the bot was told: so much may be missing there.
    refused: bool,
    /// What the desk told in its present life.
    noted: Order,
    /// The numbers that it noted, over all its lives.
    about: Order,
    settled: bool,
}

impl Checks {
    fn told(&mut self, counts: &mut Counts, body: &[u8]) {
        let Some((number, heard)) = self.read::<(u64, u64)>(counts, body) else { return };
        let (name, last) = (self.name, self.told.last);
        if !self.told.hear(number) {
            counts.complain(|| format!("bot {name}: was told {number} after {last}"));
        }
        let sent = self.sent;
        counts.check(heard <= sent, || format!("bot {name}: sent {sent}, and {heard} was heard"));
    }

    /// An answer of the clerk to request `asked`.
    fn asked(&mut self, counts: &mut Counts, asked: u64, body: &[u8]) {
        let Some(account) = self.read::<Account>(counts, body) else { return };
        let (name, told) = (self.name, self.told.last);
        let is_right = account.asked == asked && account.heard.last == asked;
        counts.check(is_right, || format!("bot {name}: asked with {asked}, got {account:?}"));
        let is_in_order = account.told <= told;
        counts.check(is_in_order, || {
            format!("bot {name}: an answer overtook messages: {} of {told}", account.told)
        });
    }

    /// Adds up what was sent and heard, by the clerk's last answer.
    fn settle(&mut self, counts: &mut Counts, body: &[u8]) {
        let Some(account) = self.read::<Account>(counts, body) else { return };
        let before = counts.up.faults() + counts.down.faults();
        counts.up.add(self.sent, &account.heard);
        counts.down.add(account.told, &self.told);
        if before != counts.up.faults() + counts.down.faults() {
            let (name, sent, told) = (self.name, self.sent, &self.told);
            counts.complain(|| format!("bot {name}: sent {sent}, heard {told:?}; {account:?}"));
        }
        counts.rooms.add(self.noted.last, &self.noted);
        // Over its lives a desk may miss some, which the bot was told of.
        let about = Order { missing: Default::default(), forgotten: 0, ..self.about.clone() };
        counts.rooms.add(self.about.last, &about);
        counts.settled += 1;
        self.settled = true;
    }

    fn weighed(&mut self, counts: &mut Counts, number: u64, body: &[u8]) {
        let name = self.name;
        let Some(sum) = self.read::<u64>(counts, body) else { return };
        let right = number.wrapping_add(u64::from(name));
        counts.check(sum == right, || format!("bot {name}: {number} weighs {sum}, not {right}"));
    }

    fn noted(&mut self, counts: &mut Counts, body: &[u8]) {
        let Some((life, number, about)) = self.read::<(u64, u64, u64)>(counts, body) else {
            return;
        };
        self.live(counts, life);
        let (name, last) = (self.name, self.noted.last);
        if !self.noted.hear(number) {
            counts.complain(|| format!("bot {name}: the desk told {number} after {last}"));
        }
        let (doubled, reordered) = (self.about.doubled, self.about.reordered);
        self.about.hear(about);
        if (doubled, reordered) != (self.about.doubled, self.about.reordered) {
            let last = self.about.last;
            counts.complain(|| format!("bot {name}: {about} was noted after {last}"));
        }
    }

    /// An answer of the desk.
    fn seated(&mut self, counts: &mut Counts, asked: u64, body: &[u8]) {
        let Some(account) = self.read::<Account>(counts, body) else { return };
        self.live(counts, account.life);
        let name = self.name;
        let order = &account.heard;
        let lost = if self.refused { 0 } else { order.lost(asked) };
        let is_right = account.asked == asked
            && order.last == asked
            && lost + order.doubled + order.reordered == 0
            && account.told <= self.noted.last;
        let noted = &self.noted;
        counts.check(is_right, || {
            format!("bot {name}: asked the desk with {asked}, got {account:?}; {noted:?}")
        });
    }

    /// The desk speaks in this life; what it told in the one before is added up.
    fn live(&mut self, counts: &mut Counts, life: u64) {
        if life == self.life {
            return;
        }
        counts.lives += u64::from(self.life != 0);
        self.life = life;
        self.refused = false;
        let noted = std::mem::take(&mut self.noted);
        counts.rooms.add(noted.last, &noted);
    }

    fn read<M: Message>(&self, counts: &mut Counts, body: &[u8]) -> Option<M> {
        let read = proto::decode::<M>(body);
        let name = self.name;
        counts.check(read.is_ok(), || format!("bot {name}: cannot be read: {body:?}"));
        read.ok()
    }
}

/// What a request was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Ask,
    Weigh,
    Sit,
    Last,
}

/// Tags of its own requests begin here; those of the arena are below.
const OWN: Tag = 1 << 32;

/// A strict bot.
pub struct Strict {
    shared: Arc<Shared>,
    part: Part,
    checks: Checks,
    arena: Option<BotPlayer>,
    /// Its open requests: what, with which number, since when, and during which restart.
    open: BTreeMap<Tag, (What, u64, Instant, u32)>,
    tags: Tag,
    ticks: u32,
    acts: u32,
    is_ready: bool,
    lost_at: Option<Instant>,
    /// The longest it waited during each restart, for services and for the desk.
    longest: BTreeMap<u32, [Duration; 2]>,
}

impl Strict {
    pub fn new(shared: Arc<Shared>, part: Part) -> Self {
        Strict {
            shared,
            part,
            checks: Checks::default(),
            arena: part.arena.map(BotPlayer::new),
            open: BTreeMap::new(),
            tags: OWN,
            ticks: 0,
            acts: 0,
            is_ready: false,
            lost_at: None,
            longest: BTreeMap::new(),
        }
    }

    fn request<A: Message>(
        &mut self,
        bot: &mut Bot<'_>,
        (stream, method): (&str, MethodId),
        args: &A,
        (what, number): (What, u64),
    ) {
        self.tags += 1;
        let stage = self.shared.stage.load(Ordering::Relaxed);
        self.open.insert(self.tags, (what, number, bot.now(), stage));
        bot.request(stream, method, args, self.tags);
    }

    fn ask(&mut self, bot: &mut Bot<'_>, what: What) {
        self.checks.sent += 1;
        let number = self.checks.sent;
        self.request(bot, (CLERK, ASK), &(number,), (what, number));
    }

    /// One round of what it does all the time.
    fn act(&mut self, bot: &mut Bot<'_>) {
        if !self.part.probes && bot.is_bound(CLERK) {
            self.checks.sent += 1;
            bot.tell(CLERK, NOTE, &(self.checks.sent,));
        }
        if bot.is_bound(CLERK) {
            self.ask(bot, What::Ask);
        }
        self.acts += 1;
        if !self.part.probes && self.acts.is_multiple_of(2) && bot.is_bound(SCALE) {
            self.checks.weighed += 1;
            let number = self.checks.weighed;
            let args = (number, u64::from(bot.index()));
            self.request(bot, (SCALE, WEIGH), &args, (What::Weigh, number));
        }
        if self.part.probes || !bot.is_bound(DESK) {
            return;
        }
        // What the desk is told is numbered for itself.
        self.checks.desk_sent += 1;
        let number = self.checks.desk_sent;
        if number.is_multiple_of(2) {
            self.request(bot, (DESK, ASK), &(number,), (What::Sit, number));
        } else {
            bot.tell(DESK, NOTE, &(number,));
        }
    }

    /// Adds up the pauses.
    fn tell_pauses(&mut self, counts: &mut Counts) {
        for (stage, [services, rooms]) in std::mem::take(&mut self.longest) {
            let Some(role) = self.shared.role(stage) else { continue };
            let pauses = counts.pauses.entry(role).or_default();
            pauses.services.record(services);
            if !rooms.is_zero() {
                pauses.rooms.record(rooms);
            }
        }
    }

    fn answered(&mut self, bot: &Bot<'_>, tag: Tag, body: &[u8]) {
        let Some((what, number, since, stage)) = self.open.remove(&tag) else { return };
        let waited = bot.now() - since;
        let longest = self.longest.entry(stage).or_default();
        let longest = &mut longest[usize::from(what == What::Sit)];
        *longest = waited.max(*longest);
        let shared = self.shared.clone();
        let counts = &mut *shared.counts();
        match what {
            What::Sit => counts.room_answers += 1,
            _ => counts.answers += 1,
        }
        match what {
            What::Ask => self.checks.asked(counts, number, body),
            What::Weigh => self.checks.weighed(counts, number, body),
            What::Sit => self.checks.seated(counts, number, body),
            What::Last => {
                self.checks.asked(counts, number, body);
                self.checks.settle(counts, body);
                self.tell_pauses(counts);
            }
        }
    }

    fn failed(&mut self, bot: &Bot<'_>, tag: Tag, error: &CallError) {
        let Some((what, number, since, _)) = self.open.remove(&tag) else { return };
        let waited = bot.now() - since;
        let (index, text) = (bot.index(), error.to_string());
        let mut counts = self.shared.counts();
        if what == What::Sit {
            self.checks.refused = true;
            *counts.room_failed.entry(text).or_default() += 1;
            return;
        }
        let stream = if what == What::Weigh { SCALE } else { CLERK };
        counts.fail(stream, &text);
        counts.complain(|| format!("bot {index}: {what:?} {number}: {text} after {waited:?}"));
    }

    /// What became of a tell that was not handled, or of which that is not known.
    fn untold(&mut self, bot: &Bot<'_>, stream: &str, text: &str) {
        let index = bot.index();
        let mut counts = self.shared.counts();
        if stream == DESK {
            self.checks.refused = true;
            *counts.room_failed.entry(text.to_owned()).or_default() += 1;
        } else if SERVICES.contains(&stream) {
            counts.fail(stream, text);
            counts.complain(|| format!("bot {index}: {stream}: {text}"));
        }
    }

    fn cut(&self, bot: &Bot<'_>, stream: &str, text: &str) {
        if SERVICES.contains(&stream) {
            let index = bot.index();
            let mut counts = self.shared.counts();
            counts.cut_streams += 1;
            counts.complain(|| format!("bot {index}: {stream}: {text}"));
        }
    }
}

impl Script for Strict {
    fn on_connected(&mut self, bot: &mut Bot<'_>, resumed: bool) {
        self.checks.name = bot.index();
        if let Some(since) = self.lost_at.take() {
            let role = self.shared.role(self.shared.stage.load(Ordering::Relaxed));
            let mut counts = self.shared.counts();
            let pauses = counts.pauses.entry(role.unwrap_or("nothing")).or_default();
            pauses.breaks.record(bot.now() - since);
        }
        if let Some(arena) = &mut self.arena {
            arena.on_connected(bot, resumed);
        }
    }

    fn on_event(&mut self, bot: &mut Bot<'_>, event: &Event) {
        match event {
            Event::Push { stream, method, body } if **stream == *CLERK && *method == TOLD => {
                return self.checks.told(&mut self.shared.counts(), body);
            }
            Event::Push { stream, method, body } if **stream == *DESK && *method == NOTED => {
                return self.checks.noted(&mut self.shared.counts(), body);
            }
            Event::Unbound { stream, code } => self.cut(bot, stream, &format!("ended: {code:?}")),
            // A service has nothing to forget.
            Event::RolledBack { stream, durable, sent } if **stream == *CLERK => {
                self.cut(bot, stream, &format!("back to {durable} of {sent}"));
            }
            Event::Refused { stream, status, .. } => {
                self.untold(bot, stream, &format!("a message was refused: {status:?}"));
            }
            Event::Unconfirmed { stream, sent, .. } => {
                self.untold(bot, stream, &format!("a message ended with its stream, sent: {sent}"));
            }
            Event::Lost { .. } => {
                self.lost_at.get_or_insert(bot.now());
                self.shared.counts().breaks += 1;
            }
            _ => {}
        }
        if let Some(arena) = &mut self.arena {
            arena.on_event(bot, event);
        }
    }

    fn on_reply(&mut self, bot: &mut Bot<'_>, tag: Tag, result: Result<Vec<u8>, CallError>) {
        match (tag >= OWN, result) {
            (true, Ok(body)) => self.answered(bot, tag, &body),
            (true, Err(error)) => self.failed(bot, tag, &error),
            (false, result) => {
                if let Err(error) = result.as_ref().map_err(ToString::to_string) {
                    *self.shared.counts().room_failed.entry(error).or_default() += 1;
                }
                if let Some(arena) = &mut self.arena {
                    arena.on_reply(bot, tag, result);
                }
            }
        }
    }

    fn on_tick(&mut self, bot: &mut Bot<'_>) {
        if !self.is_ready {
            self.is_ready = [CLERK, SCALE, DESK].into_iter().all(|stream| bot.is_bound(stream));
            self.shared.ready.fetch_add(u64::from(self.is_ready), Ordering::Relaxed);
            return;
        }
        if self.shared.quiet.load(Ordering::Relaxed) {
            let is_asking = self.open.values().any(|(what, ..)| *what == What::Last);
            if !self.checks.settled && !is_asking && bot.is_bound(CLERK) {
                self.ask(bot, What::Last);
            }
            return;
        }
        self.ticks += 1;
        if self.ticks.is_multiple_of(self.part.every) {
            self.act(bot);
        }
        if let Some(arena) = &mut self.arena {
            arena.on_tick(bot);
        }
    }

    // What fails is counted here, by what it was.
    fn excuses(&self, _error: &CallError) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> (Checks, Counts) {
        (Checks { name: 7, ..Checks::default() }, Counts::default())
    }

    fn account(asked: u64, heard: &[u64], told: u64, life: u64) -> Vec<u8> {
        let mut order = Order::default();
        for number in heard {
            order.hear(*number);
        }
        proto::encode(&Account { asked, heard: order, told, life })
    }

    #[test]
    fn who_is_told_right_has_nothing_to_complain_of() {
        let (mut checks, mut counts) = checks();
        checks.sent = 2;
        checks.told(&mut counts, &proto::encode(&(1u64, 1u64)));
        checks.asked(&mut counts, 2, &account(2, &[1, 2], 1, 0));
        checks.weighed(&mut counts, 4, &proto::encode(&11u64));
        checks.noted(&mut counts, &proto::encode(&(5u64, 1u64, 1u64)));
        checks.seated(&mut counts, 2, &account(2, &[1, 2], 1, 5));
        // Another life of the desk, which has heard nothing of the first.
        checks.noted(&mut counts, &proto::encode(&(9u64, 1u64, 5u64)));
        checks.settle(&mut counts, &account(2, &[1, 2], 1, 0));
        assert_eq!((counts.wrong, counts.settled, counts.lives), (0, 1, 1));
        assert_eq!((counts.up.sent, counts.down.sent), (2, 1));
        let faults = [counts.up, counts.down, counts.rooms];
        assert!(faults.iter().all(|way| way.lost + way.doubled + way.reordered == 0), "{faults:?}");
        assert!(counts.complaints.is_empty(), "{:?}", counts.complaints);
    }

    type Tell = fn(&mut Checks, &mut Counts);

    #[test]
    fn who_is_told_wrong_counts_it() {
        let wrong: [(&str, Tell); 7] = [
            ("another's answer", |checks, counts| {
                checks.asked(counts, 2, &account(3, &[1, 2], 0, 0))
            }),
            ("one behind", |checks, counts| checks.asked(counts, 2, &account(2, &[1], 0, 0))),
            ("it overtook", |checks, counts| checks.asked(counts, 2, &account(2, &[1, 2], 1, 0))),
            ("no number", |checks, counts| checks.asked(counts, 2, b"nonsense")),
            ("a wrong sum", |checks, counts| checks.weighed(counts, 4, &proto::encode(&12u64))),
            ("never sent", |checks, counts| checks.told(counts, &proto::encode(&(1u64, 99u64)))),
            ("a gap at the desk", |checks, counts| {
                checks.seated(counts, 4, &account(4, &[1, 2, 4], 0, 5));
            }),
        ];
        for (what, tell) in wrong {
            let (mut checks, mut counts) = checks();
            tell(&mut checks, &mut counts);
            assert_eq!(counts.wrong, 1, "{what}: {:?}", counts.complaints);
        }
    }

    #[test]
    fn what_is_lost_on_either_way_shows_when_all_is_added_up() {
        let (mut checks, mut counts) = checks();
        checks.sent = 4;
        for (number, heard) in [(1u64, 1u64), (3, 2), (3, 2)] {
            checks.told(&mut counts, &proto::encode(&(number, heard)));
        }
        checks.settle(&mut counts, &account(4, &[1, 2, 2, 4], 4, 0));
        assert_eq!((counts.up.lost, counts.up.doubled, counts.up.reordered), (1, 1, 0));
        assert_eq!((counts.down.lost, counts.down.doubled), (2, 1), "2 and 4 never came");
    }

    #[test]
    fn a_desk_may_forget_with_its_life_but_not_within_it_and_never_notes_twice() {
        let (mut checks, mut counts) = checks();
        for (life, number, about) in [(5u64, 1u64, 1u64), (5, 3, 2), (9, 1, 6), (9, 2, 6)] {
            checks.noted(&mut counts, &proto::encode(&(life, number, about)));
        }
        checks.settle(&mut counts, &account(0, &[], 0, 0));
        assert_eq!((counts.rooms.lost, counts.rooms.doubled), (1, 1));
        assert_eq!((counts.lives, counts.wrong), (1, 0));
        // What it was told to be refused may be missing, in this life.
        checks.refused = true;
        checks.seated(&mut counts, 9, &account(9, &[6, 7, 9], 2, 9));
        assert_eq!(counts.wrong, 0);
        checks.seated(&mut counts, 9, &account(9, &[6, 7, 9], 0, 4));
        assert_eq!(counts.wrong, 1);
    }
}
