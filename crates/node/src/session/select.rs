use std::collections::BTreeSet;

use proto::AccountId;
use proto::link::{
    Act, Forward, LinkFrame, PRESENT_MAX, Present, PushTo, Select, Selected, Tag, Whom, WorkerId,
};

use super::home::{Session, SessionLink};
use super::{Delivery, Homes, Outlet, Places, Scope};

impl Homes {
    /// Notes whether a session is logged in, and as what.
    pub(super) fn tag(&mut self, tag: &Tag<'_>) {
        let session = self.sessions.get_mut(&tag.account);
        let Some(session) = session.filter(|session| session.id == tag.session) else { return };
        session.logged_in = tag.logged_in;
        let tags: BTreeSet<&str> = tag.tags.iter().copied().collect();
        session.tags = tags.into_iter().map(Box::from).collect();
    }

    /// Pushes to sessions that are chosen, or ends them, and says how many there were.
    pub(super) fn select<O: Outlet, P: Places + ?Sized>(
        &mut self,
        io: &mut Scope<'_, O, P>,
        from: WorkerId,
        select: &Select<'_>,
    ) {
        let (chosen, unknown) = self.choose(select);
        self.stats.selected += chosen.len() as u64;
        self.stats.unknown += unknown.len() as u64;
        let mut reached = 0;
        let mut present = Vec::new();
        for account in chosen {
            match select.act {
                Act::Kick { code, reason } => {
                    self.kick(io, account, code, reason);
                    reached += 1;
                }
                Act::Look { first, max } => {
                    reached += 1;
                    if account >= first && present.len() < PRESENT_MAX.min(max as usize) {
                        present.extend(self.sessions.get(&account).map(|found| found.present()));
                    }
                }
                Act::Push { method, mode, body } => {
                    let stream =
                        self.sessions.get(&account).and_then(|session| session.first_stream());
                    let Some((owner, slot)) = stream else { continue };
                    let frame = LinkFrame::Forward(Forward { slot, method, mode, body });
                    let sent = io.out.send(owner, |bytes| frame.encode(owner.worker, bytes));
                    reached += u32::from(sent);
                }
            }
        }
        let selected = Selected { ticket: select.ticket, reached, unknown, present };
        io.out.control(from, &LinkFrame::Selected(selected));
    }

    /// The accounts whose sessions fit, each once, and those that have none here.
    fn choose(&self, select: &Select<'_>) -> (BTreeSet<AccountId>, Vec<AccountId>) {
        let except: BTreeSet<AccountId> = select.except.iter().copied().collect();
        let fits = |session: &&Session| {
            let has = |tag: &&str| session.tags.binary_search_by(|own| (**own).cmp(tag)).is_ok();
            !except.contains(&session.account) && select.tags.iter().all(has)
        };
        let all = self.sessions.values().map(|session| &**session).filter(fits);
        match &select.whom {
            Whom::All => (all.map(|s| s.account).collect(), Vec::new()),
            Whom::LoggedIn => {
                (all.filter(|s| s.logged_in).map(|s| s.account).collect(), Vec::new())
            }
            Whom::NotLoggedIn => {
                (all.filter(|s| !s.logged_in).map(|s| s.account).collect(), Vec::new())
            }
            Whom::Accounts(accounts) => {
                let (known, unknown): (Vec<AccountId>, Vec<AccountId>) =
                    accounts.iter().partition(|account| self.sessions.contains_key(account));
                let sessions = known.iter().filter_map(|account| self.sessions.get(account));
                (
                    sessions.map(|session| &**session).filter(fits).map(|s| s.account).collect(),
                    unknown,
                )
            }
        }
    }
}

impl Session {
    fn present(&self) -> Present {
        let gate = match self.link {
            SessionLink::Attached { gate, .. } => Some(gate),
            SessionLink::Waiting { .. } => None,
        };
        let (account, since_ms, logged_in) = (self.account, self.since_ms, self.logged_in);
        Present { account, since_ms, logged_in, gate }
    }
}

impl From<PushTo> for Delivery {
    fn from(mode: PushTo) -> Self {
        match mode {
            PushTo::Reliable => Delivery::Reliable,
            PushTo::Latest(key) => Delivery::Latest(key),
            PushTo::Unreliable => Delivery::Unreliable,
        }
    }
}
