use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use client::{Core, End, Grant, Identity, Line, Next, RequestId};
use env::{Instant, Random};
use transport::Token;

use crate::bot::Wish;
use crate::swarm::Options;
use crate::{Bot, Script, Summary, Tag};

/// Pause before a bot asks for a ticket again.
pub(crate) const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Where the whole run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Playing,
    /// Scripts begin nothing new; open requests end.
    Settling,
    Leaving,
}

/// One bot, with all that is its own.
pub(crate) struct Player {
    pub(crate) index: u32,
    pub(crate) script: Box<dyn Script>,
    pub(crate) random: Random,
    pub(crate) line: Option<Line>,
    pub(crate) socket: Option<Token>,
    pub(crate) attempt: u32,
    pub(crate) asked: BTreeMap<RequestId, (Tag, Instant)>,
    pub(crate) state: State,
    /// It has asked for its first ticket.
    pub(crate) begun: bool,
    /// Whether the server has let it in since its last ticket.
    pub(crate) admitted: bool,
    /// Logins in a row that failed.
    pub(crate) refused: u32,
    /// It said goodbye itself, so an end is no loss.
    pub(crate) leaving: bool,
    pub(crate) heard_at: Instant,
    pub(crate) ping: Option<Duration>,
    pub(crate) tick_at: Option<Instant>,
    pub(crate) cut_at: Option<Instant>,
    pub(crate) leave_at: Option<Instant>,
    pub(crate) armed: Option<(Instant, env::TimerKey)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Asks for a ticket then.
    Resting(Instant),
    /// Has asked for a ticket.
    Asking,
    Playing,
    Failed,
    Gone,
}

impl Player {
    pub(crate) fn new(index: u32, script: Box<dyn Script>, random: Random, start: Instant) -> Self {
        Player {
            index,
            script,
            random,
            line: None,
            socket: None,
            attempt: 0,
            asked: BTreeMap::new(),
            state: State::Resting(start),
            begun: false,
            admitted: false,
            refused: 0,
            leaving: false,
            heard_at: start,
            ping: None,
            tick_at: None,
            cut_at: None,
            leave_at: None,
            armed: None,
        }
    }

    pub(crate) fn core(&mut self) -> &mut Core {
        self.line.as_mut().expect("a playing bot has a line").core_mut()
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.core().is_connected())
    }

    pub(crate) fn log_in(&mut self, now: Instant, grant: Grant, options: &Options) {
        self.state = State::Playing;
        self.admitted = false;
        self.leaving = false;
        self.heard_at = now;
        match &mut self.line {
            Some(line) => line.core_mut().login(now, grant),
            None => {
                let identity = Identity { agent: "mainstay-bots".into(), interface: 0 };
                let limits = options.limits.clone();
                let mut core = Core::new(identity, limits, grant, self.random.fork());
                core.start(now);
                // Which address is meant is the swarm's choice; only its framing counts here.
                let turn = self.index as usize % options.addresses.len();
                let mut addresses = options.addresses.clone();
                addresses.rotate_left(turn);
                self.line = Some(Line::new(core, addresses.into()));
            }
        }
    }

    /// Says goodbye.
    pub(crate) fn leave(&mut self) {
        self.leaving = true;
        self.core().close();
    }

    pub(crate) fn give_up(&mut self) {
        self.leave();
        self.state = State::Failed;
    }

    /// Calls the script. One that panics has failed.
    pub(crate) fn play(
        &mut self,
        now: Instant,
        summary: &mut Summary,
        call: impl FnOnce(&mut dyn Script, &mut Bot<'_>),
    ) {
        if self.state != State::Playing || self.leaving {
            return;
        }
        let Player { index, script, random, line, asked, .. } = self;
        let core = line.as_mut().expect("a playing bot has a line").core_mut();
        let mut wish = Wish::Nothing;
        let index = *index;
        let result = catch_unwind(AssertUnwindSafe(|| {
            let wish = &mut wish;
            let mut bot = Bot { index, now, core, random, asked, summary, wish };
            call(&mut **script, &mut bot);
        }));
        if result.is_err() {
            summary.complain(|| format!("bot {index}: its script panicked"));
            wish = Wish::Fail;
        }
        match wish {
            Wish::Nothing => {}
            Wish::Leave => self.leave(),
            Wish::Fail => self.give_up(),
        }
    }

    /// The session is over; usually another one follows.
    pub(crate) fn ended(
        &mut self,
        now: Instant,
        summary: &mut Summary,
        options: &Options,
        phase: Phase,
        end: &End,
    ) {
        self.asked.clear();
        self.tick_at = None;
        self.cut_at = None;
        self.leave_at = None;
        if self.state == State::Failed {
            return;
        }
        if phase == Phase::Leaving {
            self.state = State::Gone;
            return;
        }
        if self.leaving {
            self.state = State::Resting(now);
            return;
        }
        let index = self.index;
        if self.admitted {
            summary.lost_sessions += 1;
            summary.complain(|| format!("bot {index}: lost its session: {end}"));
        } else {
            summary.complain(|| format!("bot {index}: not let in: {end}"));
        }
        self.refused += 1;
        let again = matches!(end.next(), Next::Login | Next::Later);
        let is_final = !again || self.refused >= options.logins_max;
        self.state = if is_final { State::Failed } else { State::Resting(now + ASK_AGAIN) };
    }

    /// When something is due.
    pub(crate) fn wake_at(&self, phase: Phase) -> Option<Instant> {
        match self.state {
            State::Resting(at) if phase != Phase::Leaving => Some(at),
            State::Playing => {
                let line = self.line.as_ref().and_then(Line::poll_timeout);
                let own = [self.tick_at, self.cut_at, self.leave_at];
                let own = own.into_iter().filter(|_| phase == Phase::Playing).flatten().min();
                [line, own].into_iter().flatten().min()
            }
            _ => None,
        }
    }
}
