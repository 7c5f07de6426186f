use std::collections::BTreeMap;

use env::Instant;
use proto::AccountId;
use proto::link::{ACCOUNTS_MAX, Act, LinkFrame, Select, Whom, WorkerId};

use super::Worker;
use super::links::Links;
use crate::session::Places;
use crate::users::{OwnedAct, Wish};

/// One frame for one home: whom, and whom not.
type Part = (WorkerId, Whom, Vec<AccountId>);

impl Worker {
    /// Sends what entities want done with users on its way. Gives whether there was anything.
    pub(super) fn carry_users(&mut self, now: Instant) -> bool {
        let wishes = self.view.users.take();
        let busy = !wishes.is_empty();
        for wish in wishes {
            match wish {
                Wish::Tag { peer, logged_in, tags } => {
                    let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
                    let tags = tags.iter().map(String::as_str).collect();
                    self.streams.tag(&mut out, peer, logged_in, tags);
                }
                Wish::Select { ticket, whom, tags, except, act } => {
                    let (parts, unknown) = self.parts(whom, &except);
                    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
                    let act = match &act {
                        OwnedAct::Push { method, mode, body } => {
                            Act::Push { method: *method, mode: *mode, body }
                        }
                        OwnedAct::Kick { code, reason } => Act::Kick { code: *code, reason },
                        &OwnedAct::Look { first, max } => Act::Look { first, max },
                    };
                    let (mut frames, mut complete) = (0, true);
                    for (home, whom, except) in parts {
                        let tags = tags.clone();
                        let select = LinkFrame::Select(Select { ticket, whom, tags, except, act });
                        let write = |bytes: &mut Vec<u8>| select.encode(home.worker, bytes);
                        let sent = self.mesh.send(now, home, write).is_ok();
                        frames += u32::from(sent);
                        complete &= sent;
                    }
                    self.view.users.sent(now, ticket, frames, unknown, complete);
                }
            }
        }
        busy
    }

    /// Divides a choice among the homes; accounts that can have no home are unknown.
    fn parts(&self, whom: Whom, except: &[AccountId]) -> (Vec<Part>, Vec<AccountId>) {
        let Whom::Accounts(accounts) = whom else {
            let mut of_home: BTreeMap<WorkerId, Vec<AccountId>> = BTreeMap::new();
            for account in except {
                if let Some(home) = self.view.home_of(*account) {
                    of_home.entry(home).or_default().push(*account);
                }
            }
            let part = |home: WorkerId| {
                let mut except = of_home.remove(&home).unwrap_or_default();
                if except.len() > ACCOUNTS_MAX {
                    tracing::error!(max = ACCOUNTS_MAX, "too many users are left out at one home");
                    except.truncate(ACCOUNTS_MAX);
                }
                (home, whom.clone(), except)
            };
            return (self.view.homes().into_iter().map(part).collect(), Vec::new());
        };
        let mut of_home: BTreeMap<WorkerId, Vec<AccountId>> = BTreeMap::new();
        let mut unknown = Vec::new();
        for account in accounts.into_iter().filter(|account| !except.contains(account)) {
            match self.view.home_of(account) {
                Some(home) => of_home.entry(home).or_default().push(account),
                None => unknown.push(account),
            }
        }
        let parts = of_home.into_iter().flat_map(|(home, accounts)| {
            let chunks: Vec<Part> = accounts
                .chunks(ACCOUNTS_MAX)
                .map(|chunk| (home, Whom::Accounts(chunk.to_vec()), Vec::new()))
                .collect();
            chunks
        });
        (parts.collect(), unknown)
    }
}
