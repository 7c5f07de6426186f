use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use cluster::{Cluster, Directory, NodeInfo, Placement, SESSION_KIND};
use env::Instant;
use mesh::{Mesh, SendError};
use proto::link::{LinkFrame, WorkerId};
use proto::{AccountId, EntityId, Incarnation, KindId};

use crate::host::routes::Routes;
use crate::host::{Place, Router};
use crate::session::{Outlet, Places};
use crate::topics::NodeBus;
use crate::users::UserLane;

/// Where frames of the session cores go: to the mesh.
pub(super) struct Links<'a> {
    pub mesh: &'a mut Mesh,
    pub now: Instant,
    pub unsent: &'a mut u64,
}

impl Links<'_> {
    pub fn count(&mut self, sent: Result<(), SendError>) -> bool {
        if let Err(error) = sent {
            *self.unsent += 1;
            tracing::debug!(%error, "a frame is not sent");
        }
        sent.is_ok()
    }
}

impl Outlet for Links<'_> {
    fn send(&mut self, to: WorkerId, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let sent = self.mesh.send(self.now, to, write);
        self.count(sent)
    }

    fn control(&mut self, to: WorkerId, frame: &LinkFrame<'_>) {
        let sent = self.mesh.send_reply(self.now, to, |bytes| frame.encode(to.worker, bytes));
        self.count(sent);
    }

    fn reaches(&self, node: Incarnation) -> bool {
        !self.mesh.is_down(node)
    }
}

/// Where entities are, as this worker's directory has it.
pub(super) struct View {
    pub me: WorkerId,
    pub workers: u8,
    pub directory: RefCell<Arc<Directory>>,
    pub users: Rc<UserLane>,
    pub routes: Rc<Routes>,
    pub bus: RefCell<Option<NodeBus>>,
    pub placement: Rc<RefCell<Placement>>,
    pub cluster: RefCell<Option<Cluster>>,
}

impl View {
    /// Where an entity is placed, whether or not it has moved elsewhere.
    pub fn placed(&self, entity: EntityId) -> Option<WorkerId> {
        if entity.home == self.me.node {
            let worker = entity.worker(self.workers);
            return (worker < self.workers).then_some(WorkerId { node: self.me.node, worker });
        }
        self.directory.borrow().owner_hint(entity)
    }
}

fn workers_of(info: &NodeInfo) -> impl Iterator<Item = WorkerId> + use<> {
    let node = info.incarnation;
    (0..info.workers).map(move |worker| WorkerId { node, worker })
}

impl Places for View {
    fn worker_of(&self, entity: EntityId) -> Option<WorkerId> {
        let moved = self.routes.find(entity);
        let listed = moved.filter(|at| self.directory.borrow().node(at.node).is_some());
        listed.or_else(|| self.placed(entity))
    }

    fn home_of(&self, account: AccountId) -> Option<WorkerId> {
        self.directory.borrow().home(account)
    }

    fn homes(&self) -> Vec<WorkerId> {
        let directory = self.directory.borrow();
        directory.offering(SESSION_KIND).flat_map(workers_of).collect()
    }

    fn former_homes(&self) -> Vec<WorkerId> {
        let directory = self.directory.borrow();
        directory.nodes().filter(|info| info.offers(SESSION_KIND)).flat_map(workers_of).collect()
    }

    fn workers(&self) -> Vec<WorkerId> {
        self.directory.borrow().workers().collect()
    }

    fn home_layout(&self) -> u64 {
        self.directory.borrow().home_layout()
    }

    fn is_listed(&self, node: Incarnation) -> bool {
        self.directory.borrow().node(node).is_some()
    }

    fn is_followed(&self, node: Incarnation) -> bool {
        self.directory.borrow().is_followed(node)
    }
}

impl Router for View {
    fn place(&self, entity: EntityId) -> Place {
        match self.placed(entity) {
            Some(at) if at == self.me => Place::Here,
            Some(at) if at.node == self.me.node => Place::Worker(at.worker),
            Some(at) => Place::Node(at),
            None if entity.home == Incarnation::NONE => Place::Unknown,
            None => Place::Gone,
        }
    }

    fn offers_alone(&self, kind: KindId) -> Option<(Incarnation, u8)> {
        self.directory.borrow().offers_alone(kind)
    }

    fn routes(&self) -> Option<Rc<Routes>> {
        Some(Rc::clone(&self.routes))
    }

    fn lists(&self, node: Incarnation) -> bool {
        self.directory.borrow().node(node).is_some()
    }

    fn users(&self) -> Option<Rc<UserLane>> {
        Some(Rc::clone(&self.users))
    }

    fn placement(&self) -> Option<Rc<RefCell<Placement>>> {
        Some(Rc::clone(&self.placement))
    }

    fn found_at(&self, node: Incarnation) -> Option<(String, Vec<SocketAddr>)> {
        let directory = self.directory.borrow();
        directory.node(node).map(|info| (info.name.clone(), info.mesh.clone()))
    }

    fn is_leaving(&self) -> bool {
        self.directory.borrow().node(self.me.node).is_some_and(|info| info.draining)
    }

    fn cluster(&self) -> Option<Cluster> {
        self.cluster.borrow().clone()
    }

    fn bus(&self) -> Option<NodeBus> {
        self.bus.borrow().clone()
    }
}
