//! Sessions: who plays, over which connection, with which entities, and what must not get lost.
//!
//! Three pure parts. [`Homes`] judges: it admits logins and resumes and knows each session's
//! bindings. [`Streams`] carries: it stands at the bound entity and makes frames arrive in order
//! and at most once across connections. [`Groups`] multiplies: one cast reaches many clients and
//! goes once to each gate. They speak [`LinkFrame`]s through an [`Outlet`] and know nothing of
//! sockets, of clocks or of what an entity is.

mod audit;
mod groups;
mod handles;
mod home;
mod homes;
mod kept;
mod leading;
mod login;
mod merge;
mod moves;
mod moving;
mod options;
mod orphans;
mod ports;
mod rebuild;
mod seek;
mod select;
mod shift;
mod shown;
mod stream;
mod streams;

pub use groups::{GroupError, Groups};
pub use homes::Homes;
pub use login::{Binding, Bindings, HomeStats, Login, Refusal, SessionInfo};
#[doc(hidden)]
pub use options::Mutant;
pub use options::{Options, SecondLogin};
pub use ports::{Delivery, Entities, FromClient, Opening, PeerInfo, StreamStats};
pub use streams::Streams;

use env::{Instant, WallTime};
use proto::frame::Seen;
use proto::link::{LinkFrame, WorkerId};
use proto::{AccountId, EntityId, Incarnation};

/// Takes link frames on their way to other workers, this one included.
pub trait Outlet {
    /// Appends one payload that `write` produces, unless the way to `to` is full or closed.
    ///
    /// Gives whether it was taken. `write` is given the destination worker's buffer.
    fn send(&mut self, to: WorkerId, write: impl FnOnce(&mut Vec<u8>)) -> bool;

    /// Appends a frame that must not be refused for lack of space: there are few of them, each
    /// caused by one frame or event that came in.
    fn control(&mut self, to: WorkerId, frame: &LinkFrame<'_>);

    /// Whether what is sent to a node may arrive; if not, it is lost without another word.
    fn reaches(&self, _node: Incarnation) -> bool {
        true
    }
}

/// Knows where entities live, as far as this worker has heard.
pub trait Places {
    /// The worker that holds or would make `entity`. `None` if no node offers its kind now.
    fn worker_of(&self, entity: EntityId) -> Option<WorkerId>;

    /// The worker that is home to the sessions of `account`. `None` if no node offers sessions.
    fn home_of(&self, account: AccountId) -> Option<WorkerId>;

    /// All workers that are home to sessions.
    fn homes(&self) -> Vec<WorkerId> {
        Vec::new()
    }

    /// All workers that may be home to sessions still: those of nodes that are to go, too.
    fn former_homes(&self) -> Vec<WorkerId> {
        self.homes()
    }

    /// All workers of all nodes, gates too.
    fn workers(&self) -> Vec<WorkerId> {
        Vec::new()
    }

    /// Names the choice of homes: another one where accounts have other homes.
    fn home_layout(&self) -> u64 {
        0
    }

    /// Whether a node is there at all.
    fn is_listed(&self, _node: Incarnation) -> bool {
        true
    }

    /// Whether a later life of the same node is there.
    fn is_followed(&self, _node: Incarnation) -> bool {
        false
    }
}

/// What the outside lends to the session cores for one step.
pub struct Scope<'a, O, P: ?Sized> {
    /// The time of this turn.
    pub now: Instant,
    /// Wall-clock time of this turn, for the life of tickets only.
    pub wall: WallTime,
    /// Where frames go.
    pub out: &'a mut O,
    /// Where entities are.
    pub places: &'a P,
}

/// The number that a client saw last of `handle`; 0 if it does not list it.
pub(crate) fn seen_of(items: &[Seen], handle: u32) -> u64 {
    items.iter().find(|item| item.handle == handle).map_or(0, |item| item.number)
}
