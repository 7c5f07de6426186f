use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use env::{Instant, Random};

use super::note::{FRAME_BYTES_MAX, Note, Outcome, seal};
use super::types::{AnswerError, Ask, AskError, Cleared, DeskCounters, End, Gone, Owner, Right};
use crate::answer::{Sender, channel};
use crate::{Answer, Error, Options};

/// Ends that are remembered, so that who comes late hears how it ended.
const ENDS_KEPT: usize = 4096;
/// Claims and answers that wait for a verdict.
const CALLS_MAX: usize = 65_536;
/// A claim or answer without a verdict is said again after this, and given up after that.
const AGAIN: Duration = Duration::from_millis(250);
const VERDICT_WAIT: Duration = Duration::from_secs(5);
/// Desks that are remembered not to have answered.
const SILENT_MAX: usize = 1024;

pub(super) type Asked = Result<Vec<u8>, AskError>;
pub(super) type Verdict = Result<(), AnswerError>;

/// The pure core of a desk: what was asked here and has no answer, and what others were told and have
/// not said a word to.
///
/// After each call what [`Asks::poll_output`] gives is to be published.
pub(super) struct Asks {
    id: u128,
    options: Options,
    random: Random,
    open: BTreeMap<u64, Open>,
    deadlines: BTreeSet<(Instant, u64)>,
    by_owner: BTreeSet<(Owner, u64)>,
    /// How many of the open ones have not begun, by subject.
    queued: BTreeMap<Arc<str>, usize>,
    ends: BTreeMap<u64, Ended>,
    next_number: u64,
    calls: BTreeMap<u64, Call>,
    repeats: BTreeSet<(Instant, u64)>,
    next_call: u64,
    /// Whoever let a call run out and said nothing since: its process is gone, or cut off. Claims wait for
    /// it no longer than for one note, so that what it left in a queue does not hold up the workers.
    silent: BTreeSet<u128>,
    output: VecDeque<Output>,
    pub counters: DeskCounters,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// A note for a desk.
    Tell(u128, Vec<u8>),
    /// A note for all others.
    TellAll(Vec<u8>),
    /// The message with that id need not be given out any more.
    Withdraw(Arc<str>, u128),
}

/// What was asked and has no answer.
struct Open {
    token: u128,
    message: u128,
    subject: Arc<str>,
    ask: Ask,
    until: Instant,
    begun: bool,
    sender: Sender<Asked>,
}

struct Ended {
    token: u128,
    end: End,
    /// Whose answer was taken: that may be said again.
    by: Option<(u128, u64)>,
}

/// What another desk was told.
struct Call {
    desk: u128,
    bytes: Vec<u8>,
    again: Instant,
    until: Instant,
    waited: Duration,
    sender: Sender<Verdict>,
}

/// What is to be published for what is asked.
pub(super) struct Opened {
    pub number: u64,
    pub message: u128,
    pub body: Vec<u8>,
    pub answer: Answer<Asked>,
}

impl Asks {
    pub fn new(options: Options, mut random: Random) -> Self {
        Asks {
            id: u128::from_le_bytes(random.bytes()),
            options,
            random,
            open: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            by_owner: BTreeSet::new(),
            queued: BTreeMap::new(),
            ends: BTreeMap::new(),
            next_number: 1,
            calls: BTreeMap::new(),
            repeats: BTreeSet::new(),
            next_call: 1,
            silent: BTreeSet::new(),
            output: VecDeque::new(),
            counters: DeskCounters::default(),
        }
    }

    pub fn id(&self) -> u128 {
        self.id
    }

    // ---- asking ----

    pub fn ask(
        &mut self,
        now: Instant,
        subject: &str,
        ask: Ask,
        body: &[u8],
    ) -> Result<Opened, AskError> {
        let max = self.options.asks_queued_max;
        let queued = self.queued.get(subject).copied().unwrap_or(0);
        if queued >= max || self.open.len() >= self.options.asks_max {
            self.counters.busy += 1;
            let max = if queued >= max { max } else { self.options.asks_max };
            return Err(AskError::Busy { subject: subject.to_owned(), max });
        }
        let number = self.next_number;
        self.next_number += 1;
        let right = Right { desk: self.id, number, token: self.random_id() };
        let message = self.random_id();
        let (sender, answer) = channel();
        let subject: Arc<str> = subject.into();
        *self.queued.entry(subject.clone()).or_default() += 1;
        let until = now + ask.wait;
        self.deadlines.insert((until, number));
        self.by_owner.extend(ask.owner.map(|owner| (owner, number)));
        let token = right.token;
        let open = Open { token, message, subject, ask, until, begun: false, sender };
        self.open.insert(number, open);
        self.counters.asked += 1;
        Ok(Opened { number, message, body: seal(&right, body), answer })
    }

    /// Nobody waits for it any more.
    pub fn withdraw(&mut self, number: u64) {
        if let Some(open) = self.end(number, End::Cleared, None) {
            self.dequeue(&open);
        }
    }

    /// Clears all that was asked for a client.
    pub fn clear(&mut self, client: u64) -> Cleared {
        let part = |part| Owner { client, part };
        let all = self.by_owner.range((part(0), 0)..=(part(u128::MAX), u64::MAX));
        let numbers = all.map(|(_, number)| *number).collect();
        self.clear_all(numbers)
    }

    /// Clears what was asked for an owner and ends as it is gone in this way.
    pub fn owner_gone(&mut self, owner: Owner, gone: Gone) -> Cleared {
        let all = self.by_owner.range((owner, 0)..=(owner, u64::MAX)).map(|(_, number)| *number);
        let ends = |number: &u64| self.open[number].ask.ends.is_some_and(|ends| ends <= gone);
        let numbers = all.filter(ends).collect();
        self.clear_all(numbers)
    }

    fn clear_all(&mut self, numbers: Vec<u64>) -> Cleared {
        let mut cleared = Cleared::default();
        for number in numbers {
            let Some(open) = self.end(number, End::Cleared, None) else { continue };
            if open.begun {
                cleared.begun += 1;
            } else {
                cleared.queued += 1;
            }
            self.dequeue(&open);
            open.sender.send(Ok(Err(AskError::Cleared)));
        }
        self.counters.cleared += (cleared.queued + cleared.begun) as u64;
        cleared
    }

    /// Has all other desks clear what was asked for a client.
    pub fn clear_elsewhere(&mut self, client: u64) {
        let note = Note::Clear { from: self.id, client };
        self.output.push_back(Output::TellAll(note.encode()));
    }

    /// How many wait for the workers of `subject`, as far as was asked here.
    pub fn queued(&self, subject: &str) -> usize {
        self.queued.get(subject).copied().unwrap_or(0)
    }

    fn dequeue(&mut self, open: &Open) {
        if !open.begun {
            self.output.push_back(Output::Withdraw(open.subject.clone(), open.message));
        }
    }

    fn end(&mut self, number: u64, end: End, by: Option<(u128, u64)>) -> Option<Open> {
        let open = self.open.remove(&number)?;
        self.deadlines.remove(&(open.until, number));
        if let Some(owner) = open.ask.owner {
            self.by_owner.remove(&(owner, number));
        }
        if !open.begun {
            self.leave(&open.subject);
        }
        if self.ends.len() >= ENDS_KEPT {
            self.ends.pop_first();
        }
        self.ends.insert(number, Ended { token: open.token, end, by });
        Some(open)
    }

    fn leave(&mut self, subject: &Arc<str>) {
        if let Some(queued) = self.queued.get_mut(subject) {
            *queued -= 1;
            if *queued == 0 {
                self.queued.remove(subject);
            }
        }
    }

    fn random_id(&mut self) -> u128 {
        u128::from_le_bytes(self.random.bytes())
    }

    // ---- answering ----

    /// A worker is about to begin what the right is for.
    pub fn claim(&mut self, now: Instant, right: Right) -> Answer<Verdict> {
        if right.desk == self.id {
            return Answer::given(Ok(self.judge_claim(&right)));
        }
        let wait = if self.silent.contains(&right.desk) { AGAIN } else { VERDICT_WAIT };
        let (from, call) = (self.id, self.next_call);
        self.call((now, wait), right.desk, &Note::Claim { from, call, right })
    }

    /// Uses the right.
    pub fn answer(&mut self, now: Instant, right: Right, outcome: Outcome) -> Answer<Verdict> {
        let (from, call) = (self.id, self.next_call);
        if right.desk == self.id {
            self.next_call += 1;
            return Answer::given(Ok(self.judge_answer(&right, (from, call), outcome)));
        }
        let bytes = match &outcome {
            Outcome::Value(body) => body.len() + FRAME_BYTES_MAX,
            Outcome::Failed(_) | Outcome::Unanswered => 0,
        };
        let max = self.options.message_bytes_max;
        if bytes > max {
            return Answer::given(Ok(Err(Error::TooLong { bytes, max }.into())));
        }
        self.call((now, VERDICT_WAIT), right.desk, &Note::Answer { from, call, right, outcome })
    }

    fn call(
        &mut self,
        (now, wait): (Instant, Duration),
        desk: u128,
        note: &Note,
    ) -> Answer<Verdict> {
        if self.calls.len() >= CALLS_MAX {
            return Answer::given(Ok(Err(Error::Busy("desk".to_owned()).into())));
        }
        let number = self.next_call;
        self.next_call += 1;
        let (sender, answer) = channel();
        let bytes = note.encode();
        self.output.push_back(Output::Tell(desk, bytes.clone()));
        let again = now + AGAIN;
        self.repeats.insert((again, number));
        let call = Call { desk, bytes, again, until: now + wait, waited: wait, sender };
        self.calls.insert(number, call);
        answer
    }

    fn judge_claim(&mut self, right: &Right) -> Verdict {
        self.judge(right)?;
        if let Some(open) = self.open.get_mut(&right.number)
            && !std::mem::replace(&mut open.begun, true)
        {
            let subject = open.subject.clone();
            self.leave(&subject);
        }
        Ok(())
    }

    fn judge_answer(&mut self, right: &Right, by: (u128, u64), outcome: Outcome) -> Verdict {
        let again = self
            .ends
            .get(&right.number)
            .is_some_and(|ended| ended.token == right.token && ended.by == Some(by));
        if again {
            return Ok(());
        }
        self.judge(right).inspect_err(|_| self.counters.refused += 1)?;
        let Some(open) = self.end(right.number, End::Used, Some(by)) else { return Ok(()) };
        self.counters.answered += 1;
        open.sender.send(Ok(match outcome {
            Outcome::Value(body) => Ok(body),
            Outcome::Failed(cause) => Err(AskError::Failed(cause)),
            Outcome::Unanswered => Err(AskError::Unanswered),
        }));
        Ok(())
    }

    /// Whether the right holds.
    fn judge(&self, right: &Right) -> Verdict {
        let refused = |end| Err(AnswerError::Refused(end));
        if let Some(open) = self.open.get(&right.number) {
            return if open.token == right.token { Ok(()) } else { refused(End::Forged) };
        }
        match self.ends.get(&right.number) {
            Some(ended) if ended.token == right.token => refused(ended.end),
            Some(_) => refused(End::Forged),
            None if right.number >= self.next_number => refused(End::Forged),
            None => refused(End::Expired),
        }
    }

    // ---- notes and time ----

    /// A note came from another desk.
    pub fn handle_note(&mut self, bytes: &[u8]) {
        let Some(note) = Note::decode(bytes) else {
            self.counters.unreadable += 1;
            return;
        };
        let from = match note {
            Note::Claim { from, call, right } => {
                let verdict = self.judge_claim(&right);
                self.tell_verdict(from, call, &verdict);
                from
            }
            Note::Answer { from, call, right, outcome } => {
                let verdict = self.judge_answer(&right, (from, call), outcome);
                self.tell_verdict(from, call, &verdict);
                from
            }
            Note::Verdict { from, call, refused } => {
                if self.calls.get(&call).is_some_and(|call| call.desk == from) {
                    let verdict = refused.map_or(Ok(()), |end| Err(AnswerError::Refused(end)));
                    self.hang_up(call, verdict);
                }
                from
            }
            Note::Clear { from, client } => {
                if from != self.id {
                    self.clear(client);
                }
                from
            }
        };
        self.silent.remove(&from);
    }

    fn tell_verdict(&mut self, to: u128, call: u64, verdict: &Verdict) {
        let refused = match verdict {
            Err(AnswerError::Refused(end)) => Some(*end),
            _ => None,
        };
        let note = Note::Verdict { from: self.id, call, refused };
        self.output.push_back(Output::Tell(to, note.encode()));
    }

    fn hang_up(&mut self, number: u64, verdict: Verdict) {
        if let Some(call) = self.calls.remove(&number) {
            self.repeats.remove(&(call.again, number));
            call.sender.send(Ok(verdict));
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(until, number)) = self.deadlines.first()
            && until <= now
        {
            let Some(open) = self.end(number, End::Expired, None) else { break };
            self.counters.expired += 1;
            self.dequeue(&open);
            open.sender.send(Ok(Err(AskError::Timeout(open.ask.wait))));
        }
        while let Some(&(again, number)) = self.repeats.first()
            && again <= now
        {
            self.repeats.remove(&(again, number));
            let Some(call) = self.calls.get_mut(&number) else { break };
            if call.until <= now {
                let (desk, waited) = (call.desk, call.waited);
                self.hang_up(number, Err(AnswerError::Unreachable(waited)));
                if self.silent.len() >= SILENT_MAX {
                    self.silent.pop_first();
                }
                self.silent.insert(desk);
                continue;
            }
            call.again = now + AGAIN;
            self.repeats.insert((call.again, number));
            self.output.push_back(Output::Tell(call.desk, call.bytes.clone()));
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let again = self.repeats.first().map(|(at, _)| *at);
        deadline.into_iter().chain(again).min()
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }
}
