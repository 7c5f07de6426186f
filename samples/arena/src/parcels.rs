use std::collections::BTreeMap;

use mainstay::env::Random;
use mainstay::prelude::*;

use crate::messages::Parcel;
use crate::{rules, wallet};

/// What the players of an arena have collected and their avatars do not have yet.
///
/// A player's parcels go out one after the other, each again with the same number until the
/// avatar has it, also after the player has left.
#[derive(Clone, Debug, Default, PartialEq, Message)]
pub(crate) struct Parcels {
    open: BTreeMap<u64, Open>,
}

#[derive(Clone, Debug, Default, PartialEq, Message)]
struct Open {
    /// Collected since the parcel that is on its way.
    next: Parcel,
    sent: Option<Parcel>,
    is_waiting: bool,
}

impl Parcels {
    /// What the next parcel of an account has so far.
    pub fn of(&mut self, account: u64) -> &mut Parcel {
        &mut self.open.entry(account).or_default().next
    }

    /// Whether everything has arrived.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The parcels to be sent in this second: each account has its own within
    /// [`rules::PARCEL_SECONDS`], so that a crowd does not come at once.
    pub fn due(&mut self, second: u64, random: &mut Random) -> Vec<(u64, Parcel)> {
        let is_due =
            |account: u64| account.wrapping_add(second).is_multiple_of(rules::PARCEL_SECONDS);
        let waiting =
            self.open.iter_mut().filter(|(account, open)| is_due(**account) && !open.is_waiting);
        let due = waiting.map(|(account, open)| {
            let parcel = open.sent.get_or_insert_with(|| Parcel {
                id: wallet::parcel_id(random),
                ..std::mem::take(&mut open.next)
            });
            open.is_waiting = true;
            (*account, parcel.clone())
        });
        due.collect()
    }

    /// What became of an account's parcel: unless it arrived, it is sent again.
    pub fn answered(&mut self, account: u64, has_arrived: bool) {
        let Some(open) = self.open.get_mut(&account) else { return };
        open.is_waiting = false;
        if has_arrived {
            open.sent = None;
            if open.next == Parcel::default() {
                self.open.remove(&account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parcel_is_sent_until_it_has_arrived_and_the_next_waits_for_it() {
        let (mut parcels, mut random) = (Parcels::default(), Random::from_seed(1));
        let mut due = |parcels: &mut Parcels| {
            (0..rules::PARCEL_SECONDS).flat_map(|n| parcels.due(n, &mut random)).collect::<Vec<_>>()
        };
        parcels.of(7).coins += 5;
        let first = due(&mut parcels);
        assert_eq!(first.len(), 1);
        assert_eq!((first[0].0, first[0].1.coins), (7, 5));
        parcels.of(7).coins += 1;
        assert_eq!(due(&mut parcels), [], "its answer is not here");
        parcels.answered(7, false);
        assert_eq!(due(&mut parcels), first, "the same again");
        parcels.answered(7, true);
        let second = due(&mut parcels);
        assert_eq!(second[0].1.coins, 1);
        assert_ne!(second[0].1.id, first[0].1.id);
        assert!(!parcels.is_empty());
        parcels.answered(7, true);
        assert!(parcels.is_empty());
    }
}
