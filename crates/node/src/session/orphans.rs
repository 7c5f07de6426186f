//! Streams whose session's home is lost: they go on, and are told of to whoever is the home now.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use env::Instant;
use proto::frame::CloseCode;
use proto::link::{Held, HomeFrame, LinkFrame, Named, Slot, WorkerId};
use proto::{AccountId, Incarnation, SessionId};

use super::ports::Entities;
use super::stream::Stream;
use super::streams::find_mut;
use super::{Mutant, Outlet, Places, Scope, Streams};

/// How often a home that does not answer is told again.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// How often homes are asked after some of the streams here, at most.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Frames for a home that is lost, kept for the next one.
const OWED_MAX: usize = 64;

/// Ends of sessions that are kept in mind.
const ENDINGS_MAX: usize = 20_000;

/// What a worker's streams have lost of their homes.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    streams: BTreeMap<u32, Orphan>,
    /// Sessions that homes have ended: should such a home be lost before all have heard of it, the
    /// next one is told.
    endings: VecDeque<(Instant, Ending)>,
    /// The stream of which its home is asked next, and when.
    ask_next: u32,
    ask_at: Instant,
    layout: Option<u64>,
}

#[derive(Debug)]
struct Orphan {
    /// When it is given up.
    until: Instant,
    tell_at: Instant,
    /// For the home, encoded.
    owed: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug)]
struct Ending {
    session: SessionId,
    account: AccountId,
    code: CloseCode,
    home: WorkerId,
}

impl Orphans {
    pub fn has(&self, index: u32) -> bool {
        self.streams.contains_key(&index)
    }

    pub fn forget(&mut self, index: u32) {
        self.streams.remove(&index);
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.streams.values().map(|orphan| orphan.tell_at.min(orphan.until)).min()
    }

    /// Keeps a frame for the home of a stream that has none. `false`: it has one.
    fn keep(&mut self, index: u32, frame: &LinkFrame<'_>) -> bool {
        let Some(orphan) = self.streams.get_mut(&index) else { return false };
        if orphan.owed.len() < OWED_MAX {
            let mut payload = Vec::new();
            frame.encode(0, &mut payload);
            orphan.owed.push(payload);
        }
        true
    }
}

/// Tells whoever is the home of a stream's session now that the stream is here. `lost` is the home that it
/// had; without one it is only asked whether it knows the stream.
fn tell<O: Outlet, P: Places + ?Sized, S, C>(
    io: &mut Scope<'_, O, P>,
    stream: &Stream<S, C>,
    lost: WorkerId,
) {
    let info = &stream.info;
    // Nodes may not agree on who is home: the one that has spoken for the session is asked as long as it is there.
    let is_question = lost.node == Incarnation::NONE;
    let known = Some(stream.home).filter(|home| is_question && io.places.is_listed(home.node));
    let Some(home) = known.or_else(|| io.places.home_of(info.account)) else { return };
    let tags = stream.tags.as_deref();
    let held = Held {
        session: info.session,
        account: info.account,
        level: info.level,
        generation: stream.generation,
        slot: info.slot,
        lost,
        stream: Named { stream: stream.info.handle, target: stream.target, name: &info.stream },
        tags: tags.map(|(logged_in, tags)| (*logged_in, tags.iter().map(|tag| &**tag).collect())),
    };
    io.out.control(home, &LinkFrame::Home(HomeFrame::Held(held)));
}

impl<E: Entities> Streams<E> {
    /// When [`mind_orphans`](Self::mind_orphans) has something to do.
    pub fn orphans_timeout(&self) -> Option<Instant> {
        let asks = (!self.table.is_empty()).then_some(self.orphans.ask_at);
        self.orphans.poll_timeout().into_iter().chain(asks).min()
    }

    /// Asks homes whether streams are still theirs, of each stream twice in a resume window: what a home
    /// said of a stream's end may have been lost, and nobody would ever say it again.
    fn ask_homes<O: Outlet, P: Places + ?Sized>(&mut self, io: &mut Scope<'_, O, P>) {
        if self.table.is_empty() || self.orphans.ask_at > io.now {
            return;
        }
        let is_first = self.orphans.ask_at == Instant::ZERO;
        let (len, span) = (self.table.len() as u32, self.options.resume_window / 2);
        let pause = (span / len).max(ASK_EVERY);
        self.orphans.ask_at = io.now + pause;
        if is_first {
            return;
        }
        let share = (u128::from(len) * pause.as_nanos()).div_ceil(span.as_nanos().max(1));
        for _ in 0..share.min(u128::from(len)) {
            let index = self.orphans.ask_next % len;
            self.orphans.ask_next = (index + 1) % len;
            let Some(stream) = self.table[index as usize].stream.as_ref() else { continue };
            if !self.orphans.has(index) {
                tell(io, stream, WorkerId::default());
            }
        }
    }

    /// The list of nodes has changed: what is known of sessions with other homes now is told to
    /// those, before anything else is.
    pub fn handle_nodes<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        entities: &mut E,
    ) {
        let layout = io.places.home_layout();
        if self.orphans.layout.replace(layout) == Some(layout) {
            return;
        }
        while let Some((until, _)) = self.orphans.endings.front()
            && *until <= io.now
        {
            self.orphans.endings.pop_front();
        }
        for (_, Ending { session, account, code, home }) in &mut self.orphans.endings {
            let now = io.places.home_of(*account).filter(|now| now.node != home.node);
            if let Some(now) = now {
                *home = now;
                let (session, account, code) = (*session, *account, *code);
                let over = HomeFrame::Over { session, account, code };
                io.out.control(now, &LinkFrame::Home(over));
            }
        }
        self.orphans.streams.values_mut().for_each(|orphan| orphan.tell_at = io.now);
        self.mind_orphans(io, entities);
    }

    /// The homes at `node` are lost, or the way to them: its streams wait for whoever is the home.
    pub(super) fn lose_homes(&mut self, now: Instant, node: Incarnation) -> Vec<Slot> {
        let is_mutant = self.options.mutant == Some(Mutant::OrphansEnded);
        let mut over = Vec::new();
        for (index, entry) in (0u32..).zip(&self.table) {
            let Some(stream) = entry.stream.as_ref() else { continue };
            if stream.home.node != node {
                continue;
            }
            if is_mutant {
                over.push(Slot { index, generation: entry.generation });
                continue;
            }
            let until = now + self.options.resume_window;
            self.orphans.streams.entry(index).or_insert(Orphan {
                until,
                tell_at: now,
                owed: Vec::new(),
            });
        }
        over
    }

    /// Tells homes of the streams that have lost theirs, and gives up those that found none.
    pub fn mind_orphans<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        entities: &mut E,
    ) {
        self.ask_homes(io);
        let mut over = Vec::new();
        for (&index, orphan) in &mut self.orphans.streams {
            let entry = &self.table[index as usize];
            let stream = entry.stream.as_ref().expect("orphans are streams");
            if orphan.until <= io.now {
                over.push(Slot { index, generation: entry.generation });
                continue;
            }
            if orphan.tell_at > io.now {
                continue;
            }
            orphan.tell_at = io.now + TELL_EVERY;
            tell(io, stream, stream.home);
        }
        for slot in over {
            self.end(io.out, entities, slot, CloseCode::SessionLost);
        }
    }

    /// Tells the home of a stream's session something, or keeps it while that is lost.
    pub(super) fn tell_home<O: Outlet>(
        &mut self,
        out: &mut O,
        slot: Slot,
        home: WorkerId,
        frame: &LinkFrame<'_>,
    ) {
        if !self.orphans.keep(slot.index, frame) {
            out.control(home, frame);
        }
    }

    /// A home has taken over the session of a stream.
    pub(super) fn adopt<O: Outlet>(
        &mut self,
        out: &mut O,
        home: WorkerId,
        slot: Slot,
        (session, account, handle): (SessionId, AccountId, u32),
    ) {
        let found = find_mut(&mut self.table, slot).filter(|stream| stream.info.session == session);
        let Some(stream) = found else {
            let code = CloseCode::Unavailable;
            out.control(home, &LinkFrame::Lost { session, account, stream: handle, code });
            return;
        };
        stream.home = home;
        let Some(orphan) = self.orphans.streams.remove(&slot.index) else { return };
        for payload in orphan.owed {
            let (_, frame) = LinkFrame::decode(&payload).expect("it was written here");
            out.control(home, &frame);
        }
    }

    /// The client of a stream does not know it. If it did once it was told that the stream has ended, and
    /// neither end could go on where the other stands: the name is to lead to a new one.
    pub(super) fn unlisted<O: Outlet>(&mut self, out: &mut O, entities: &mut E, slot: Slot) {
        let Some(stream) = find_mut(&mut self.table, slot) else { return };
        if !stream.was_used() {
            return;
        }
        let (session, account, code) =
            (stream.info.session, stream.info.account, CloseCode::Unavailable);
        let lost = LinkFrame::Lost { session, account, stream: stream.info.handle, code };
        out.control(stream.home, &lost);
        self.end(out, entities, slot, code);
    }

    /// A home has ended the session of a stream.
    pub(super) fn note_ending(
        &mut self,
        now: Instant,
        slot: Slot,
        home: WorkerId,
        code: CloseCode,
    ) {
        // A stream may end by itself with these, and a goodbye is known to the gate.
        if matches!(code, CloseCode::Goodbye | CloseCode::Unavailable) {
            return;
        }
        let Some(stream) = find_mut(&mut self.table, slot) else { return };
        let (session, account) = (stream.info.session, stream.info.account);
        if self.orphans.endings.len() >= ENDINGS_MAX {
            self.orphans.endings.pop_front();
        }
        let until = now + self.options.resume_window;
        let ending = Ending { session, account, code, home };
        self.orphans.endings.push_back((until, ending));
    }

    /// A session gets a new stream to `target`: one of its streams there that has lost its home
    /// was replaced by it.
    pub(super) fn end_orphans<O: Outlet>(
        &mut self,
        out: &mut O,
        entities: &mut E,
        (session, target): (SessionId, proto::EntityId),
    ) {
        if self.orphans.streams.is_empty() {
            return;
        }
        let is_it = |index: &&u32| {
            let stream = self.table[**index as usize].stream.as_ref();
            stream.is_some_and(|s| s.info.session == session && s.target == target)
        };
        let replaced: Vec<u32> = self.orphans.streams.keys().filter(is_it).copied().collect();
        for index in replaced {
            let slot = self.slot_of(index);
            self.end(out, entities, slot, CloseCode::Unavailable);
        }
    }
}

/// The gate of a connection cannot be reached from here: what is sent on the connection would not come
/// here, so it has to be another one.
pub(super) fn cut_off(
    out: &mut impl Outlet,
    home: WorkerId,
    (session, account): (SessionId, AccountId),
) {
    let (code, reason) = (CloseCode::Unavailable, "the way to an entity broke");
    out.control(home, &LinkFrame::Kick { account, session, code, reason });
}
