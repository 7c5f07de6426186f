use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use proto::link::WorkerId;
use proto::schema::Schema;
use proto::{AccountId, EntityId, Incarnation, KindId, Namespace, Scope};

/// The kind whose offer makes a node a home of sessions.
pub const SESSION_KIND: KindId = KindId::of("session");

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its name in the cluster file; survives restarts, and placement goes by it.
    pub name: String,
    /// This life of it.
    pub incarnation: Incarnation,
    /// Where other nodes reach it, best first; empty if only its own process can.
    pub mesh: Vec<SocketAddr>,
    /// What it is configured to run.
    pub roles: Vec<String>,
    /// The zones that its process is configured to be of.
    pub zones: Vec<String>,
    /// The channels that its process is configured to be of.
    pub channels: Vec<String>,
    /// The entity kinds and services it offers.
    pub kinds: Vec<KindId>,
    /// Those of them that are local to a zone or channel: it offers them in those that it is of. One
    /// that is of none is of the only one of a cluster that names none.
    pub local: Vec<(KindId, Scope)>,
    /// What it waits for before it can do anything: such a node offers nothing. Empty if it does not wait; at
    /// most 1,024 bytes.
    pub waits_for: String,
    /// Whether its workers hand on to each other what is said to a topic: it gets one copy.
    pub relays: bool,
    /// How many workers hold entities: ids `0..workers`. At least 1.
    pub workers: u8,
    /// Its share of keyed entities next to others, 1..=64. From configuration, never from load.
    pub weight: u32,
    /// Hash of the interface it was built with, as clients see it.
    pub interface: u64,
    /// What its kinds declare, for the registry to compare; `None` is compared with nothing.
    pub schema: Option<Arc<Schema>>,
    /// It is going down: it keeps what it has and gets nothing new.
    pub draining: bool,
    /// When it began, in milliseconds of its wall clock: of two lives of one name the one that
    /// began later gets what both could have.
    pub started_ms: u64,
}

impl NodeInfo {
    /// A node with one worker and weight 1 that offers nothing yet.
    pub fn new(name: impl Into<String>, incarnation: Incarnation) -> Self {
        NodeInfo {
            name: name.into(),
            incarnation,
            mesh: Vec::new(),
            roles: Vec::new(),
            zones: Vec::new(),
            channels: Vec::new(),
            kinds: Vec::new(),
            local: Vec::new(),
            waits_for: String::new(),
            relays: true,
            workers: 1,
            weight: 1,
            interface: 0,
            schema: None,
            draining: false,
            started_ms: 0,
        }
    }

    /// Whether it offers `kind`.
    pub fn offers(&self, kind: KindId) -> bool {
        self.kinds.contains(&kind)
    }

    /// Whether a keyed entity may be there: it offers the kind, in the zone or channel of the entity.
    pub fn may_have(&self, entity: EntityId) -> bool {
        let scope = self.scope_of(entity.kind);
        let within = || self.namespaces(scope).any(|within| within == entity.namespace());
        self.offers(entity.kind) && (scope == Scope::Global || within())
    }

    /// The namespaces of `scope` that it is of.
    pub fn namespaces(&self, scope: Scope) -> impl Iterator<Item = Namespace> {
        let names = match scope {
            Scope::Global => &[][..],
            Scope::Zone => &self.zones,
            Scope::Channel => &self.channels,
        };
        let none = names.is_empty().then_some(Namespace::NONE);
        none.into_iter().chain(names.iter().map(move |name| Namespace::of(scope, name)))
    }

    pub(crate) fn scope_of(&self, kind: KindId) -> Scope {
        let found = self.local.iter().find(|(local, _)| *local == kind);
        found.map_or(Scope::Global, |(_, scope)| *scope)
    }
}

/// All nodes at one moment, and where that puts things. Immutable; a new one replaces it.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    revision: u64,
    nodes: BTreeMap<Incarnation, Arc<NodeInfo>>,
    offers: BTreeMap<(KindId, Namespace), Vec<Offer>>,
    /// Kinds that are local to a zone or channel.
    local: BTreeSet<KindId>,
}

/// A node as a candidate for one kind.
#[derive(Clone, Debug)]
struct Offer {
    node: Incarnation,
    /// Hash of its name.
    seed: u64,
    weight: u32,
    workers: u8,
    started_ms: u64,
}

impl Directory {
    /// The directory of `nodes` as of `revision`.
    pub fn new(revision: u64, nodes: impl IntoIterator<Item = Arc<NodeInfo>>) -> Self {
        let nodes: BTreeMap<_, _> =
            nodes.into_iter().map(|info| (info.incarnation, info)).collect();
        let mut offers: BTreeMap<_, Vec<Offer>> = BTreeMap::new();
        let mut local = BTreeSet::new();
        for info in nodes.values().filter(|info| !info.draining) {
            for kind in &info.kinds {
                let offer = Offer {
                    node: info.incarnation,
                    seed: hash_bytes(info.name.as_bytes()),
                    weight: info.weight,
                    workers: info.workers,
                    started_ms: info.started_ms,
                };
                for within in info.namespaces(info.scope_of(*kind)) {
                    offers.entry((*kind, within)).or_default().push(offer.clone());
                }
            }
            local.extend(info.local.iter().map(|(kind, _)| *kind));
        }
        Directory { revision, nodes, offers, local }
    }

    /// Grows with every change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// All nodes, by incarnation.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().map(Arc::as_ref)
    }

    /// One node, if it is listed.
    pub fn node(&self, incarnation: Incarnation) -> Option<&NodeInfo> {
        self.nodes.get(&incarnation).map(Arc::as_ref)
    }

    /// The node called `name`, unless it waits; the greatest incarnation if two lives of it are listed.
    pub fn node_named(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes().filter(|info| info.name == name && info.waits_for.is_empty()).last()
    }

    /// The nodes that offer `kind`, which is global, and take new entities, by incarnation.
    pub fn offering(&self, kind: KindId) -> impl Iterator<Item = &NodeInfo> {
        self.offers
            .get(&(kind, Namespace::NONE))
            .into_iter()
            .flatten()
            .filter_map(|offer| self.node(offer.node))
    }

    /// The only node that offers `kind`, and how many workers it has. `None` for a kind that is local.
    pub fn offers_alone(&self, kind: KindId) -> Option<(Incarnation, u8)> {
        if self.local.contains(&kind) {
            return None;
        }
        match &self.offers.get(&(kind, Namespace::NONE))?[..] {
            [only] => Some((only.node, only.workers)),
            _ => None,
        }
    }

    /// The worker that is the home of the account's session. `None` if no node offers sessions.
    pub fn home(&self, account: AccountId) -> Option<WorkerId> {
        self.owner_hint(EntityId::keyed(SESSION_KIND, account.0))
    }

    /// Names the choice of homes: the same in all directories that give each account the same home,
    /// whatever else they differ in.
    pub fn home_layout(&self) -> u64 {
        let offers = self.offers.get(&(SESSION_KIND, Namespace::NONE)).into_iter().flatten();
        offers.fold(0x1a_7007, |layout, offer| {
            let size = u64::from(offer.weight) << 8 | u64::from(offer.workers);
            mix(mix(mix(layout ^ offer.node.0) ^ offer.seed ^ offer.started_ms) ^ size)
        })
    }

    /// Whether another life of the same name is listed that began later, and does not wait.
    pub fn is_followed(&self, incarnation: Incarnation) -> bool {
        let Some(info) = self.node(incarnation) else { return false };
        let later = |other: &NodeInfo| {
            (other.started_ms, other.incarnation) > (info.started_ms, incarnation)
        };
        let works = |other: &NodeInfo| other.name == info.name && other.waits_for.is_empty();
        self.nodes().any(|other| works(other) && later(other))
    }

    /// All workers of all nodes, by incarnation.
    pub fn workers(&self) -> impl Iterator<Item = WorkerId> {
        self.nodes().flat_map(|info| {
            let node = info.incarnation;
            (0..info.workers).map(move |worker| WorkerId { node, worker })
        })
    }

    /// The worker where `entity` should be, unless its owner row says otherwise.
    ///
    /// A room is at its node, if that is still listed. A keyed entity goes by weighted rendezvous
    /// hashing (Thaler and Ravishankar 1998) over the nodes that offer its kind: when a node
    /// comes or goes, only what it gains or had moves. The kind itself is not hashed, so that
    /// what shares a key shares a worker wherever the same nodes offer both. A local one goes over those
    /// of its zone or channel.
    pub fn owner_hint(&self, entity: EntityId) -> Option<WorkerId> {
        if entity.home != Incarnation::NONE {
            let info = self.node(entity.home)?;
            let worker = entity.worker(info.workers);
            return (worker < info.workers).then_some(WorkerId { node: entity.home, worker });
        }
        let is_local = self.local.contains(&entity.kind);
        let within = if is_local { entity.namespace() } else { Namespace::NONE };
        let offers = self.offers.get(&(entity.kind, within))?;
        if let [only] = &offers[..] {
            return Some(WorkerId { node: only.node, worker: entity.worker(only.workers) });
        }
        let key = mix(entity.key ^ 0x6d61_696e_7374_6179);
        // A later life of the same name wins the tie.
        let order = |offer: &&Offer| (offer.score(key), offer.started_ms, offer.node);
        let best = offers.iter().max_by_key(order)?;
        Some(WorkerId { node: best.node, worker: entity.worker(best.workers) })
    }
}

impl Offer {
    /// The best of `weight` draws: of all draws of all nodes each is equally likely to be the
    /// highest, so a node wins in proportion to its weight, in integers alone.
    fn score(&self, key: u64) -> u64 {
        (0..u64::from(self.weight)).map(|draw| mix(key ^ mix(self.seed ^ draw))).max().unwrap_or(0)
    }
}

/// FNV-1a, 64 bits.
fn hash_bytes(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AVATAR: KindId = KindId::of("avatar");

    fn node(name: &str, incarnation: u64, weight: u32) -> Arc<NodeInfo> {
        let mut info = NodeInfo::new(name, Incarnation(incarnation));
        info.kinds = vec![AVATAR, SESSION_KIND];
        info.weight = weight;
        info.workers = 4;
        Arc::new(info)
    }

    fn owners(directory: &Directory, keys: u64) -> Vec<Incarnation> {
        let owner = |key| directory.owner_hint(EntityId::keyed(AVATAR, key)).unwrap().node;
        (0..keys).map(owner).collect()
    }

    #[test]
    fn shares_follow_weights() {
        let nodes = [node("a", 1, 1), node("b", 2, 1), node("c", 3, 2)];
        let directory = Directory::new(1, nodes);
        let owners = owners(&directory, 40_000);
        let share = |n| owners.iter().filter(|owner| owner.0 == n).count();
        for (node, expected) in [(1, 10_000), (2, 10_000), (3, 20_000)] {
            let got = share(node);
            assert!(got.abs_diff(expected) < expected / 20, "node {node} has {got}");
        }
    }

    #[test]
    fn a36_what_is_local_is_placed_among_the_nodes_of_its_zone_and_nowhere_else() {
        let zoned = |name: &str, incarnation, zones: &[&str]| {
            let info = NodeInfo::clone(&node(name, incarnation, 1));
            let zones = zones.iter().map(ToString::to_string).collect();
            let local = vec![(AVATAR, Scope::Zone)];
            Arc::new(NodeInfo { zones, local, ..info })
        };
        let nodes =
            [zoned("a", 1, &["east"]), zoned("b", 2, &["east", "west"]), zoned("c", 3, &["west"])];
        let directory = Directory::new(1, nodes);
        let owners = |within| {
            let owner = |key| directory.owner_hint(EntityId::local(AVATAR, within, key));
            (0..50).filter_map(owner).map(|at| at.node.0).collect::<BTreeSet<_>>()
        };
        assert_eq!(owners(Namespace::zone("east")), [1, 2].into());
        assert_eq!(owners(Namespace::zone("west")), [2, 3].into());
        let others = [
            Namespace::zone("north"),
            Namespace::channel("east"),
            Namespace::NONE,
            Namespace::NOWHERE,
        ];
        assert!(others.into_iter().all(|within| owners(within).is_empty()));
        // Nor does a key that reaches over its bits lead into another zone.
        let east = EntityId::local(AVATAR, Namespace::zone("east"), 7);
        let over = EntityId::local(AVATAR, Namespace::NONE, east.key);
        assert_eq!(directory.owner_hint(over), None);
        assert_eq!(directory.offers_alone(AVATAR), None);
        // Homes of sessions are of the whole cluster.
        assert!(directory.home(AccountId(1)).is_some());
        let may_have = |n, id| directory.node(Incarnation(n)).unwrap().may_have(id);
        assert_eq!([1, 2, 3].map(|n| may_have(n, east)), [true, true, false]);
    }

    #[test]
    fn d16_a_successor_that_waits_has_not_taken_over() {
        let life = |incarnation, waits_for: &str| {
            let info = NodeInfo::clone(&node("a", incarnation, 1));
            Arc::new(NodeInfo { waits_for: waits_for.to_owned(), started_ms: incarnation, ..info })
        };
        for (waits_for, newest) in [("the store", 1), ("", 2)] {
            let directory = Directory::new(1, [life(1, ""), life(2, waits_for)]);
            assert_eq!(directory.node_named("a").unwrap().incarnation, Incarnation(newest));
            assert_eq!(directory.is_followed(Incarnation(1)), newest == 2);
        }
    }

    #[test]
    fn only_what_a_lost_node_had_moves() {
        let nodes = [node("a", 1, 1), node("b", 2, 3), node("c", 3, 2)];
        let before = owners(&Directory::new(1, nodes.clone()), 5_000);
        let after = owners(&Directory::new(2, [nodes[0].clone(), nodes[2].clone()]), 5_000);
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || before.0 == 2);
        }
    }

    #[test]
    fn a_restart_under_the_same_name_changes_no_place() {
        let before = owners(&Directory::new(1, [node("a", 1, 1), node("b", 2, 1)]), 1_000);
        let after = owners(&Directory::new(2, [node("a", 9, 1), node("b", 2, 1)]), 1_000);
        let named = |owner: &Incarnation| if owner.0 == 2 { 'b' } else { 'a' };
        assert!(before.iter().map(named).eq(after.iter().map(named)));
        // While both lives are listed the later one gets what is new.
        let both = [node("a", 1, 1), node("a", 9, 1)];
        assert!(owners(&Directory::new(3, both), 100).iter().all(|owner| owner.0 == 9));
    }

    /// Incarnations are random, so the greater one is not the later one.
    #[test]
    fn of_two_lives_of_a_name_the_one_that_began_later_is_home() {
        let life = |incarnation, started_ms| {
            let info = NodeInfo::clone(&node("a", incarnation, 1));
            Arc::new(NodeInfo { started_ms, ..info })
        };
        let directory = Directory::new(1, [life(9, 1_000), life(3, 2_000), node("b", 5, 1)]);
        let homes = (0..50).map(|account| directory.home(AccountId(account)).unwrap().node.0);
        assert_eq!(homes.collect::<std::collections::BTreeSet<_>>(), [3, 5].into());
        let followed = |n| directory.is_followed(Incarnation(n));
        assert_eq!([3, 5, 9].map(followed), [false, false, true]);
    }

    #[test]
    fn the_layout_of_homes_changes_with_the_homes_alone() {
        let nodes = [node("a", 1, 1), node("b", 2, 1)];
        let layout = Directory::new(1, nodes.clone()).home_layout();
        let mut gate = NodeInfo::new("gate", Incarnation(7));
        gate.workers = 2;
        let more = nodes.iter().cloned().chain([Arc::new(gate)]);
        assert_eq!(Directory::new(5, more).home_layout(), layout);
        let mut leaving = NodeInfo::clone(&nodes[1]);
        leaving.draining = true;
        let without = Directory::new(6, [nodes[0].clone(), Arc::new(leaving)]).home_layout();
        assert_ne!(without, layout);
        assert_eq!(Directory::new(7, [nodes[0].clone()]).home_layout(), without);
    }

    #[test]
    fn session_and_avatar_share_a_worker() {
        let directory = Directory::new(1, [node("a", 1, 1), node("b", 2, 1)]);
        for account in 0..200 {
            let avatar = directory.owner_hint(EntityId::keyed(AVATAR, account));
            assert_eq!(directory.home(AccountId(account)), avatar);
        }
    }

    #[test]
    fn rooms_stay_and_draining_nodes_get_nothing() {
        let mut leaving = NodeInfo::clone(&node("a", 1, 1));
        leaving.draining = true;
        let directory = Directory::new(1, [Arc::new(leaving), node("b", 2, 1)]);
        assert!(owners(&directory, 50).iter().all(|owner| owner.0 == 2));
        let room = |home, key| EntityId { kind: AVATAR, home: Incarnation(home), key };
        let at = |node, worker| Some(WorkerId { node: Incarnation(node), worker });
        assert_eq!(directory.owner_hint(room(1, 0x503)), at(1, 3));
        // Ids come from peers: a worker that is not there, a node that is gone.
        assert_eq!(directory.owner_hint(room(1, 0x504)), None);
        assert_eq!(directory.owner_hint(room(7, 0x503)), None);
        assert_eq!(directory.owner_hint(EntityId::keyed(KindId::of("none"), 1)), None);
    }
}
