//! A move of slots from one shard to another, step by step. Pure: whoever drives it asks the shards.

use std::collections::VecDeque;

use crate::error::Error;
use crate::slots::{Moving, Slot, SlotAsk, SlotSums, SlotTold};

/// Which of the two shards a step is asked of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that has the slots.
    From,
    /// The one that gets them.
    To,
}

/// How a move has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MoveEnd {
    /// The target has the slots.
    Moved,
    /// The source has them, as before.
    GivenUp(Error),
    /// It was past its commit point when it could not go on: the target has the slots, and begins to
    /// serve them when it is first asked.
    Behind(Error),
}

/// How far a move is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MoveCounts {
    /// Rows that were copied.
    pub rows: u64,
    /// Of those, rows that were copied again because they had changed.
    pub again: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// Moves slots. Between any two of its steps it may be dropped for ever: before the commit point the
/// source goes on serving the slots, after it the target begins to.
///
/// Ask what [`poll_ask`](Self::poll_ask) gives, and tell [`handle`](Self::handle) the answer, until
/// it gives none.
#[derive(Debug)]
pub struct SlotMove {
    slots: Vec<Slot>,
    names: [String; 2],
    token: u64,
    at_ms: u64,
    /// The number of this try, for each slot.
    tried: Vec<(Slot, u64)>,
    step: Step,
    /// What is to be copied before the next step.
    fills: VecDeque<Vec<Moving>>,
    takes: u64,
    filled: u64,
    rounds: u32,
    tries: u32,
    counts: MoveCounts,
    end: Option<MoveEnd>,
    why: Option<Error>,
}

type Place = Option<(u8, Vec<u8>)>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    ClearOld(Place),
    Leave,
    Expect,
    ClearTry(Place),
    Page(Place),
    CatchUp,
    Freeze,
    LastChanges,
    Sums,
    CutOver(Vec<(Slot, u64, SlotSums)>),
    Arrive(Vec<(Slot, u64, u64)>),
    ClearSource(Place),
    Thaw,
    ClearBack(Place),
    Drop,
    End,
}

/// Rounds of copying what has changed before nothing more may change.
const ROUNDS_MAX: u32 = 8;
/// Tries of a step whose outcome is not known, or that cannot be done yet.
const TRIES_MAX: u32 = 100;

impl SlotMove {
    /// A move of `slots` between the shards of these names. `token` is its own name: random, never
    /// used before. `at_ms`: milliseconds since 1970.
    pub fn new(slots: Vec<Slot>, from: &str, to: &str, token: u64, at_ms: u64) -> Self {
        SlotMove {
            slots,
            names: [from.to_owned(), to.to_owned()],
            token: token.max(1),
            at_ms,
            tried: Vec::new(),
            step: Step::ClearOld(None),
            fills: VecDeque::new(),
            takes: 0,
            filled: 0,
            rounds: 0,
            tries: 0,
            counts: MoveCounts::default(),
            end: None,
            why: None,
        }
    }

    /// What it copied so far.
    pub fn counts(&self) -> &MoveCounts {
        &self.counts
    }

    /// How it ended, once it did.
    pub fn end(&self) -> Option<&MoveEnd> {
        self.end.as_ref()
    }

    /// The step under way, for whoever watches.
    pub fn step(&self) -> &'static str {
        match &self.step {
            _ if !self.fills.is_empty() => "fill",
            Step::ClearOld(_) | Step::ClearTry(_) => "clear the target",
            Step::Leave => "leave",
            Step::Expect => "expect",
            Step::Page(_) => "copy",
            Step::CatchUp => "catch up",
            Step::Freeze => "freeze",
            Step::LastChanges => "copy the last changes",
            Step::Sums => "add up",
            Step::CutOver(_) => "cut over",
            Step::Arrive(_) => "arrive",
            Step::ClearSource(_) => "clear the source",
            Step::Thaw | Step::ClearBack(_) | Step::Drop => "give up",
            Step::End => "ended",
        }
    }

    /// Whether the slots are the target's by now.
    pub fn is_past_commit(&self) -> bool {
        matches!(self.step, Step::Arrive(_) | Step::ClearSource(_))
    }

    /// What to ask, and of whom; `None` once it has ended. The same until it is answered.
    pub fn poll_ask(&self) -> Option<(Side, SlotAsk)> {
        let (slots, token) = (self.slots.clone(), self.token);
        if let Some(rows) = self.fills.front() {
            let (number, rows, at_ms) = (self.filled + 1, rows.clone(), self.at_ms);
            return Some((Side::To, SlotAsk::Fill { slots, token, number, rows, at_ms }));
        }
        let clear = |after: &Place, slots, token| {
            let back = matches!(self.step, Step::ClearBack(_));
            SlotAsk::Clear { slots, token, back, after: after.clone() }
        };
        Some(match &self.step {
            // Not under this move's name: what arrives is not to be touched before it is fenced.
            Step::ClearOld(after) => (Side::To, clear(after, slots, 0)),
            Step::Leave => (Side::From, SlotAsk::Leave { slots, to: self.names[1].clone(), token }),
            Step::Expect => {
                let (slots, from) = (self.tried.clone(), self.names[0].clone());
                (Side::To, SlotAsk::Expect { slots, from, token })
            }
            Step::ClearTry(after) | Step::ClearBack(after) => {
                (Side::To, clear(after, slots, token))
            }
            Step::Page(after) => (Side::From, SlotAsk::Page { slots, after: after.clone() }),
            Step::CatchUp | Step::LastChanges => {
                (Side::From, SlotAsk::Take { slots, token, number: self.takes + 1 })
            }
            Step::Freeze => (Side::From, SlotAsk::Freeze { slots, token }),
            Step::Sums => (Side::To, SlotAsk::Sums { slots, token }),
            Step::CutOver(sums) => (Side::From, SlotAsk::CutOver { slots: sums.clone(), token }),
            Step::Arrive(gone) => (Side::To, SlotAsk::Arrive { slots: gone.clone(), token }),
            Step::ClearSource(after) => (Side::From, clear(after, slots, token)),
            Step::Thaw => (Side::From, SlotAsk::Thaw { slots, token }),
            Step::Drop => (Side::To, SlotAsk::Drop { slots, token }),
            Step::End => return None,
        })
    }

    /// What became of what [`poll_ask`](Self::poll_ask) gave.
    pub fn handle(&mut self, told: Result<SlotTold, Error>) {
        match told {
            Ok(told) => {
                self.tries = 0;
                match self.fills.pop_front() {
                    Some(_) => self.filled += 1,
                    None => self.go_on(told),
                }
            }
            Err(error) => self.failed(error),
        }
    }

    fn go_on(&mut self, told: SlotTold) {
        self.step = match (std::mem::replace(&mut self.step, Step::End), told) {
            (Step::ClearOld(_), SlotTold::Next(None)) => Step::Leave,
            (Step::ClearOld(_), SlotTold::Next(next)) => Step::ClearOld(next),
            (Step::Leave, SlotTold::Left(tried)) => {
                self.tried = tried;
                Step::Expect
            }
            (Step::Expect, _) => Step::ClearTry(None),
            (Step::ClearTry(_), SlotTold::Next(None)) => Step::Page(None),
            (Step::ClearTry(_), SlotTold::Next(next)) => Step::ClearTry(next),
            (Step::Page(_), SlotTold::Rows(rows, next)) => {
                self.copy(rows);
                next.map_or(Step::CatchUp, |next| Step::Page(Some(next)))
            }
            (Step::CatchUp, SlotTold::Rows(rows, more)) => {
                self.took(rows);
                self.rounds += 1;
                let goes_on = more.is_some() && self.rounds < ROUNDS_MAX;
                if goes_on { Step::CatchUp } else { Step::Freeze }
            }
            (Step::Freeze, _) => Step::LastChanges,
            (Step::LastChanges, SlotTold::Rows(rows, more)) => {
                self.took(rows);
                if more.is_some() { Step::LastChanges } else { Step::Sums }
            }
            (Step::Sums, SlotTold::Sums(sums)) => {
                let tries = |slot: Slot| self.tried.iter().find(|tried| tried.0 == slot);
                let each = sums.into_iter();
                let each = each.map(|(slot, sums)| (slot, tries(slot).map_or(0, |of| of.1), sums));
                Step::CutOver(each.collect())
            }
            (Step::CutOver(_), SlotTold::Gone(gone)) => Step::Arrive(gone),
            (Step::Arrive(_), _) => Step::ClearSource(None),
            (Step::ClearSource(_), SlotTold::Next(None)) => {
                self.end = Some(MoveEnd::Moved);
                Step::End
            }
            (Step::ClearSource(_), SlotTold::Next(next)) => Step::ClearSource(next),
            (Step::Thaw, SlotTold::Left(back)) => {
                // What the source does not say is back may be the target's.
                self.slots = back.into_iter().map(|(slot, _)| slot).collect();
                if self.slots.is_empty() {
                    self.give_up_for_good();
                    Step::End
                } else {
                    Step::ClearBack(None)
                }
            }
            (Step::ClearBack(_), SlotTold::Next(None)) => Step::Drop,
            (Step::ClearBack(_), SlotTold::Next(next)) => Step::ClearBack(next),
            (Step::Drop, _) => {
                self.give_up_for_good();
                Step::End
            }
            (step, _) => {
                self.step = step;
                let wrong = Error::Malformed("another answer than that was asked for");
                return self.failed(wrong);
            }
        };
    }

    fn copy(&mut self, rows: Vec<Moving>) {
        self.counts.rows += rows.len() as u64;
        let bytes = |row: &Moving| row.key.len() + row.row.as_ref().map_or(0, Vec::len);
        self.counts.bytes += rows.iter().map(bytes).sum::<usize>() as u64;
        if !rows.is_empty() {
            self.fills.push_back(rows);
        }
    }

    fn took(&mut self, rows: Vec<Moving>) {
        self.takes += 1;
        self.counts.again += rows.len() as u64;
        self.copy(rows);
    }

    fn failed(&mut self, error: Error) {
        let passes = matches!(
            error,
            Error::Unknown(_) | Error::Busy | Error::Unavailable(_) | Error::Moving { .. }
        );
        // Asking once more for marks that were taken off is refused, and the move begins anew.
        if passes && self.tries < TRIES_MAX {
            self.tries += 1;
            return;
        }
        self.tries = 0;
        match self.step {
            // Nobody knows what became of the commit point, or it is passed: the shards do.
            Step::CutOver(_) if passes => self.end = Some(MoveEnd::Behind(error)),
            Step::Arrive(_) => self.end = Some(MoveEnd::Behind(error)),
            // What is left there goes with the next move.
            Step::ClearSource(_) => self.end = Some(MoveEnd::Moved),
            Step::Thaw | Step::ClearBack(_) | Step::Drop => {
                self.why.get_or_insert(error);
                self.give_up_for_good();
            }
            Step::ClearOld(_) => self.end = Some(MoveEnd::GivenUp(error)),
            _ => {
                self.why = Some(error);
                self.fills.clear();
                self.step = Step::Thaw;
                return;
            }
        }
        self.fills.clear();
        self.step = Step::End;
    }

    fn give_up_for_good(&mut self) {
        let why = self.why.take().unwrap_or(Error::Busy);
        self.end = Some(MoveEnd::GivenUp(why));
    }
}
