use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use cluster::{Cluster, Placement};
use proto::link::WorkerId;
use proto::{EntityId, Incarnation, KindId};

use super::routes::Routes;
use crate::topics::NodeBus;
use crate::users::UserLane;

/// Where an entity is, as far as this worker has heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this worker, or it is to be made here.
    Here,
    /// On another worker of this node.
    Worker(u8),
    /// On a worker of another node.
    Node(WorkerId),
    /// Nowhere any more: its node is dead.
    Gone,
    /// No node offers its kind.
    Unknown,
    /// Its node cannot be reached now.
    Away,
}

/// Tells the host where a message must go whose target it does not hold itself.
pub trait Router {
    /// Where `id` lives or is to be made.
    fn place(&self, id: EntityId) -> Place;

    /// The only node that offers `kind`, and how many workers it has, if that is known.
    fn offers_alone(&self, kind: KindId) -> Option<(Incarnation, u8)> {
        let _ = kind;
        None
    }

    /// The way to the cluster's users, if there is one.
    fn users(&self) -> Option<Rc<UserLane>> {
        None
    }

    /// Where entities are that have moved, if others of this worker ask as well.
    #[doc(hidden)]
    fn routes(&self) -> Option<Rc<Routes>> {
        None
    }

    /// Whether the node is known to be there.
    fn lists(&self, node: Incarnation) -> bool {
        let _ = node;
        true
    }

    /// What chooses nodes for new rooms, if there is a list of nodes.
    #[doc(hidden)]
    fn placement(&self) -> Option<Rc<RefCell<Placement>>> {
        None
    }

    /// Name of a listed node and where others reach it.
    fn found_at(&self, node: Incarnation) -> Option<(String, Vec<SocketAddr>)> {
        let _ = node;
        None
    }

    /// Whether this node is going down: nothing new is made here.
    fn is_leaving(&self) -> bool {
        false
    }

    /// The coordinator, if there is one.
    #[doc(hidden)]
    fn cluster(&self) -> Option<Cluster> {
        None
    }

    /// The bus, if there is one.
    fn bus(&self) -> Option<NodeBus> {
        None
    }
}

/// A router for one worker on its own: everything is here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Router for Alone {
    fn place(&self, _: EntityId) -> Place {
        Place::Here
    }
}
