//! Users: whoever plays, addressed by account, by whether they are logged in, and by tags,
//! wherever in the cluster their sessions are at home.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use env::Instant;
use proto::frame::CloseCode;
use proto::link::{PRESENT_MAX, Present, PushTo, Selected, Slot, TAGS_MAX, Whom};
use proto::{AccountId, MethodId};

use crate::cx::{GroupSlot, Peer, PushMode};
use crate::host::hub::Hub;
use crate::push::{ClientInterface, GroupLink, Port, Told};

/// Most acts on users that wait for the end of a turn; further ones are dropped and logged.
const WISHES_MAX: usize = 65_536;

/// How long homes may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(4);

/// The users of the cluster, as an entity or other server code reaches them.
///
/// A user is an account with a session. What it is logged in as is the game's word, beyond the
/// ticket: a session is not logged in until [`log_in`](Self::log_in).
pub struct Users {
    lane: Rc<UserLane>,
    hub: Rc<Hub>,
}

impl Users {
    pub(crate) fn new(hub: &Rc<Hub>) -> Self {
        let lane = hub.router.users().unwrap_or_default();
        Users { lane, hub: Rc::clone(hub) }
    }

    /// Marks the session of a client as logged in, with these tags instead of those before.
    /// A session that comes back after a break is still what it was.
    ///
    /// # Panics
    ///
    /// If there are more than 32 tags.
    pub fn log_in(&self, peer: &Peer, tags: &[&str]) {
        assert!(tags.len() <= TAGS_MAX, "a session has at most {TAGS_MAX} tags");
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        self.wish(Wish::Tag { peer: peer.slot(), logged_in: true, tags });
    }

    /// Marks the session of a client as not logged in, without tags. It goes on.
    pub fn log_out(&self, peer: &Peer) {
        self.wish(Wish::Tag { peer: peer.slot(), logged_in: false, tags: Vec::new() });
    }

    /// The user with this account.
    pub fn one(&self, account: AccountId) -> Chosen {
        self.choose(Whom::Accounts(vec![account]))
    }

    /// The users with these accounts.
    pub fn many(&self, accounts: impl IntoIterator<Item = AccountId>) -> Chosen {
        self.choose(Whom::Accounts(accounts.into_iter().collect()))
    }

    /// All users, logged in or not.
    pub fn all(&self) -> Chosen {
        self.choose(Whom::All)
    }

    /// All that are logged in.
    pub fn logged_in(&self) -> Chosen {
        self.choose(Whom::LoggedIn)
    }

    /// All that are not logged in.
    pub fn not_logged_in(&self) -> Chosen {
        self.choose(Whom::NotLoggedIn)
    }

    fn choose(&self, whom: Whom) -> Chosen {
        Chosen {
            lane: Rc::clone(&self.lane),
            hub: Rc::clone(&self.hub),
            whom,
            tags: Vec::new(),
            except: BTreeSet::new(),
            tickets: RefCell::default(),
        }
    }

    fn wish(&self, wish: Wish) {
        self.hub.poke();
        self.lane.push(wish);
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").finish_non_exhaustive()
    }
}

/// Users that were chosen, for something to be done with all of them at once.
///
/// What is done reaches each user's home, and from there its client on its session's first stream.
/// No order is promised between this and what entities push themselves.
pub struct Chosen {
    lane: Rc<UserLane>,
    hub: Rc<Hub>,
    whom: Whom,
    tags: Vec<String>,
    except: BTreeSet<AccountId>,
    /// Acts so far, whose outcome may be asked for.
    tickets: RefCell<Vec<u64>>,
}

impl Chosen {
    /// Only those that have this tag, among others.
    ///
    /// # Panics
    ///
    /// If more than 32 tags are asked for.
    #[must_use]
    pub fn with_tag(mut self, tag: &str) -> Self {
        assert!(self.tags.len() < TAGS_MAX, "at most {TAGS_MAX} tags can be asked for");
        self.tags.push(tag.to_owned());
        self
    }

    /// Not these.
    #[must_use]
    pub fn without(mut self, accounts: impl IntoIterator<Item = AccountId>) -> Self {
        self.except.extend(accounts);
        self
    }

    /// The methods of all their clients.
    pub fn client<C: ClientInterface>(&self) -> C::Cast<'_> {
        C::cast(GroupLink::to(self))
    }

    /// Sends to all their clients; `body` are the arguments.
    pub fn push_raw(&self, method: MethodId, mode: PushMode, body: Vec<u8>) {
        let mode = match mode {
            PushMode::Reliable => PushTo::Reliable,
            PushMode::Latest(key) => PushTo::Latest(key),
            PushMode::Unreliable => PushTo::Unreliable,
        };
        self.act(OwnedAct::Push { method, mode, body });
    }

    /// Ends their sessions; a code that lets a client resume only closes its connection. The
    /// clients are told code and reason.
    pub fn kick(&self, code: CloseCode, reason: &str) {
        self.act(OwnedAct::Kick { code, reason: reason.to_owned() });
    }

    /// Who they are, in the order of their accounts: from `first` on, at most `max` of them and at most
    /// 1,024. [`Outcome::reached`] counts all. For the next page ask from behind the last account on.
    ///
    /// Homes answer from what they know: a session is told of from its login on until it ends, or
    /// until a lost client's time to resume is over.
    pub async fn look(self, first: AccountId, max: usize) -> Outcome {
        let max = max.min(PRESENT_MAX);
        self.act(OwnedAct::Look { first, max: max as u32 });
        let mut outcome = self.outcome().await;
        outcome.present.sort_unstable_by_key(|present| present.account);
        // While nodes come and go two homes may tell of one.
        outcome.present.dedup_by_key(|present| present.account);
        outcome.present.truncate(max);
        outcome
    }

    /// What became of everything done with them, when all homes have answered or 4 s after.
    pub async fn outcome(self) -> Outcome {
        let mut outcome = Outcome { complete: true, ..Outcome::default() };
        let tickets = self.tickets.borrow().clone();
        for ticket in tickets {
            poll_fn(|context| self.lane.poll(ticket, context, &mut outcome)).await;
        }
        outcome.unknown.sort_unstable();
        outcome.unknown.dedup();
        outcome
    }

    fn act(&self, act: OwnedAct) {
        self.hub.poke();
        let ticket = self.lane.ask();
        self.tickets.borrow_mut().push(ticket);
        let (whom, tags) = (self.whom.clone(), self.tags.clone());
        let except = self.except.iter().copied().collect();
        self.lane.push(Wish::Select { ticket, whom, tags, except, act });
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        for ticket in self.tickets.borrow().iter() {
            self.lane.forget(*ticket);
        }
    }
}

impl fmt::Debug for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chosen")
            .field("whom", &self.whom)
            .field("tags", &self.tags)
            .field("except", &self.except)
            .finish_non_exhaustive()
    }
}

impl Port for Chosen {
    fn push(&self, _: &Peer, _: MethodId, _: PushMode, _: &dyn Fn(&mut Vec<u8>)) {
        unreachable!("chosen users are reached all together");
    }

    fn call(
        &self,
        _: &Peer,
        _: MethodId,
        _: Duration,
        _: &dyn Fn(&mut Vec<u8>),
    ) -> crate::call::ClientCall {
        unreachable!("chosen users are reached all together");
    }

    fn cast(
        &self,
        _: GroupSlot,
        method: MethodId,
        mode: PushMode,
        body: &dyn Fn(&mut Vec<u8>),
    ) -> Told {
        let mut bytes = Vec::new();
        body(&mut bytes);
        self.push_raw(method, mode, bytes);
        Told(Ok(()))
    }
}

/// What became of acts on users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Users that were chosen and reached, counted once for each act.
    pub reached: u64,
    /// Accounts that were named but have no session.
    pub unknown: Vec<AccountId>,
    /// Whether all homes have answered.
    pub complete: bool,
    /// Those that [`Chosen::look`] asked for.
    pub present: Vec<Present>,
}

/// Acts on users on their way from entities to the worker, and the answers on their way back.
#[derive(Debug, Default)]
pub struct UserLane {
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    wishes: Vec<Wish>,
    asked: BTreeMap<u64, Asked>,
    last_ticket: u64,
}

/// Something that is to be done with users.
#[derive(Debug)]
pub(crate) enum Wish {
    Tag { peer: Slot, logged_in: bool, tags: Vec<String> },
    Select { ticket: u64, whom: Whom, tags: Vec<String>, except: Vec<AccountId>, act: OwnedAct },
}

#[derive(Debug)]
pub(crate) enum OwnedAct {
    Push { method: MethodId, mode: PushTo, body: Vec<u8> },
    Kick { code: CloseCode, reason: String },
    Look { first: AccountId, max: u32 },
}

/// An act whose outcome may be asked for.
#[derive(Debug, Default)]
struct Asked {
    /// Answers that are still to come; `None` before it is on its way.
    waits: Option<u32>,
    until: Instant,
    outcome: Outcome,
    waker: Option<Waker>,
}

impl UserLane {
    fn push(&self, wish: Wish) {
        let mut state = self.state.borrow_mut();
        if state.wishes.len() >= WISHES_MAX {
            tracing::error!("too many acts on users in one turn: one is dropped");
            return;
        }
        state.wishes.push(wish);
    }

    fn ask(&self) -> u64 {
        let mut state = self.state.borrow_mut();
        state.last_ticket += 1;
        let ticket = state.last_ticket;
        state.asked.insert(ticket, Asked::default());
        ticket
    }

    fn forget(&self, ticket: u64) {
        self.state.borrow_mut().asked.remove(&ticket);
    }

    fn poll(&self, ticket: u64, context: &mut Context<'_>, sum: &mut Outcome) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        let Some(asked) = state.asked.get_mut(&ticket) else { return Poll::Ready(()) };
        if asked.waits != Some(0) {
            asked.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        sum.reached += asked.outcome.reached;
        sum.unknown.append(&mut asked.outcome.unknown);
        sum.present.append(&mut asked.outcome.present);
        sum.complete &= asked.outcome.complete;
        state.asked.remove(&ticket);
        Poll::Ready(())
    }

    /// What entities want done, in order.
    pub(crate) fn take(&self) -> Vec<Wish> {
        std::mem::take(&mut self.state.borrow_mut().wishes)
    }

    /// An act is on its way in `frames` frames; `unknown` need not be asked for, and not `complete`
    /// means that some home could not be asked.
    pub(crate) fn sent(
        &self,
        now: Instant,
        ticket: u64,
        frames: u32,
        unknown: Vec<AccountId>,
        complete: bool,
    ) {
        if let Some(asked) = self.state.borrow_mut().asked.get_mut(&ticket) {
            asked.waits = Some(frames);
            asked.until = now + ANSWER_WAIT;
            asked.outcome = Outcome { unknown, complete, ..Outcome::default() };
            asked.wake_if_done();
        }
    }

    /// A home has answered.
    pub(crate) fn answered(&self, selected: &Selected) {
        let mut state = self.state.borrow_mut();
        let Some(asked) = state.asked.get_mut(&selected.ticket) else { return };
        let Some(waits @ 1..) = asked.waits else { return };
        asked.waits = Some(waits - 1);
        asked.outcome.reached += u64::from(selected.reached);
        asked.outcome.unknown.extend(&selected.unknown);
        asked.outcome.present.extend(&selected.present);
        asked.wake_if_done();
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let state = self.state.borrow();
        let open = state.asked.values().filter(|asked| asked.waits.is_some_and(|n| n > 0));
        open.map(|asked| asked.until).min()
    }

    /// Stops waiting for homes that are silent.
    pub(crate) fn handle_timeout(&self, now: Instant) {
        for asked in self.state.borrow_mut().asked.values_mut() {
            if asked.waits.is_some_and(|waits| waits > 0) && asked.until <= now {
                asked.waits = Some(0);
                asked.outcome.complete = false;
                asked.wake_if_done();
            }
        }
    }
}

impl Asked {
    fn wake_if_done(&mut self) {
        if self.waits == Some(0)
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(lane: &UserLane, ticket: u64) -> Option<Outcome> {
        let mut outcome = Outcome { complete: true, ..Outcome::default() };
        let context = &mut Context::from_waker(Waker::noop());
        lane.poll(ticket, context, &mut outcome).is_ready().then_some(outcome)
    }

    #[test]
    fn outcomes_wait_for_all_homes_but_not_for_ever() {
        let lane = UserLane::default();
        let now = Instant::ZERO;
        let selected = |ticket, reached, unknown: &[u64]| Selected {
            ticket,
            reached,
            unknown: unknown.iter().copied().map(AccountId).collect(),
            present: Vec::new(),
        };
        let (whole, part, nobody) = (lane.ask(), lane.ask(), lane.ask());
        assert_eq!(poll(&lane, whole), None);
        lane.sent(now, whole, 2, vec![AccountId(9)], true);
        lane.sent(now, part, 2, vec![], true);
        lane.sent(now, nobody, 0, vec![], false);
        lane.answered(&selected(whole, 3, &[]));
        lane.answered(&selected(part, 1, &[]));
        assert_eq!(poll(&lane, whole), None);
        lane.answered(&selected(whole, 1, &[4]));
        // A second answer of one home, or one to nobody's question, changes nothing.
        lane.answered(&selected(whole, 1, &[4]));
        lane.answered(&selected(77, 1, &[]));
        let unknown = [9, 4].map(AccountId).into();
        assert_eq!(
            poll(&lane, whole),
            Some(Outcome { reached: 4, unknown, complete: true, present: vec![] })
        );
        let none = Outcome::default();
        assert_eq!(poll(&lane, nobody), Some(none));
        let end = lane.poll_timeout().expect("one waits still");
        lane.handle_timeout(now);
        assert_eq!(poll(&lane, part), None);
        lane.handle_timeout(end);
        let outcome = Outcome { reached: 1, ..Outcome::default() };
        assert_eq!(poll(&lane, part), Some(outcome));
        assert_eq!(lane.poll_timeout(), None);
        assert!(lane.state.borrow().asked.is_empty(), "nothing is left");
    }
}
