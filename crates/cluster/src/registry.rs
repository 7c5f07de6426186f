use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use env::Instant;
use proto::schema::compare;
use proto::{Incarnation, KindId, Scope};

use crate::{Directory, KeyOptions, NodeInfo};

/// Limits of a registry.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a node stays listed without renewing; it renews every third of this.
    pub lease: Duration,
    /// Most nodes listed at once.
    pub nodes_max: usize,
    /// How long a coordinator outside this process is waited for.
    pub answer_wait: Duration,
    /// Limits of keys.
    pub keys: KeyOptions,
}

impl Default for Options {
    /// Lease 15 s, 1,024 nodes, answers within 4 s, 65,536 keys.
    fn default() -> Self {
        Options {
            lease: Duration::from_secs(15),
            nodes_max: 1024,
            answer_wait: Duration::from_secs(4),
            keys: KeyOptions::default(),
        }
    }
}

/// Why a node was not listed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Correct the field and register again.
    #[error("node {node:?} cannot be listed: {field} {problem}")]
    Invalid {
        /// The name it gave.
        node: String,
        /// The field at fault.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Take nodes down or raise the limit.
    #[error("{0} nodes are listed already: raise nodes_max")]
    Full(usize),
    /// Deploy a release that understands the other one, or take the other nodes down first.
    #[error(
        "node {node:?} is not admitted: it and node {with:?} do not understand each other \
         ({problem})"
    )]
    Incompatible {
        /// Its name.
        node: String,
        /// The listed node that it does not fit.
        with: String,
        /// The first declaration that breaks one of them.
        problem: String,
    },
    /// The lease ran out or was never there: register again.
    #[error("node {0} is not listed: register it again")]
    NotListed(Incarnation),
}

/// The list of nodes with their leases. Pure: time is an argument.
#[derive(Debug)]
pub struct Registry {
    options: Options,
    leases: BTreeMap<Incarnation, Lease>,
    directory: Arc<Directory>,
    /// Nodes that left since they were last asked for.
    gone: Vec<Incarnation>,
    /// Nodes that were not admitted, by name, and why. The newest of each.
    refused: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Lease {
    info: Arc<NodeInfo>,
    ends: Instant,
}

const TEXT_BYTES_MAX: usize = 64;
/// Longest text of what a node waits for.
const WAITS_BYTES_MAX: usize = 1_024;
const LIST_MAX: usize = 4096;
const WEIGHT_MAX: u32 = 64;
/// Most nodes remembered that were not admitted.
const REFUSED_MAX: usize = 64;

impl Registry {
    /// An empty one at revision 1.
    pub fn new(options: Options) -> Self {
        let directory = Arc::new(Directory::new(1, []));
        Registry {
            options,
            leases: BTreeMap::new(),
            directory,
            gone: Vec::new(),
            refused: BTreeMap::new(),
        }
    }

    /// See [`Cluster::register`](crate::Cluster::register).
    pub fn register(&mut self, now: Instant, info: NodeInfo) -> Result<(), Error> {
        check(&info)?;
        let listed = self.leases.get(&info.incarnation);
        if listed.is_none_or(|lease| lease.info.schema != info.schema)
            && let Err(error) = self.fits(&info)
        {
            if self.refused.len() < REFUSED_MAX || self.refused.contains_key(&info.name) {
                self.refused.insert(info.name, error.to_string());
            }
            return Err(error);
        }
        self.refused.remove(&info.name);
        if listed.is_none() && self.leases.len() >= self.options.nodes_max {
            return Err(Error::Full(self.leases.len()));
        }
        let changed = listed.is_none_or(|lease| *lease.info != info);
        let node = info.incarnation;
        let ends = now + self.options.lease;
        self.leases.insert(node, Lease { info: Arc::new(info), ends });
        if changed {
            self.publish();
        }
        Ok(())
    }

    /// Whether a node and those that are listed understand each other: of two releases one must
    /// be such that the other may follow it.
    fn fits(&self, info: &NodeInfo) -> Result<(), Error> {
        self.leases.values().try_for_each(|lease| fit(info, &lease.info))
    }

    /// Nodes that were not admitted, by name, and why.
    pub fn refused(&self) -> &BTreeMap<String, String> {
        &self.refused
    }

    /// See [`Cluster::renew`](crate::Cluster::renew).
    pub fn renew(&mut self, now: Instant, node: Incarnation) -> Result<(), Error> {
        let lease = self.leases.get_mut(&node).ok_or(Error::NotListed(node))?;
        lease.ends = now + self.options.lease;
        Ok(())
    }

    /// See [`Cluster::deregister`](crate::Cluster::deregister).
    pub fn deregister(&mut self, node: Incarnation) {
        if self.leases.remove(&node).is_some() {
            self.gone.push(node);
            self.publish();
        }
    }

    /// Drops nodes whose lease ran out by `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let ended = self.leases.extract_if(.., |_, lease| lease.ends <= now);
        let before = self.gone.len();
        self.gone.extend(ended.map(|(node, _)| node));
        if self.gone.len() != before {
            self.publish();
        }
    }

    /// When the first lease runs out.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.leases.values().map(|lease| lease.ends).min()
    }

    /// The nodes listed now.
    pub fn directory(&self) -> Arc<Directory> {
        self.directory.clone()
    }

    /// Shows what another registry lists, in place of an own list.
    pub(crate) fn show(&mut self, nodes: impl IntoIterator<Item = Arc<NodeInfo>>) {
        let revision = self.directory.revision() + 1;
        self.directory = Arc::new(Directory::new(revision, nodes));
    }

    /// Whether a node's lease stands.
    pub(crate) fn lists(&self, node: Incarnation) -> bool {
        self.leases.contains_key(&node)
    }

    /// The nodes that left since this was last asked.
    pub(crate) fn take_gone(&mut self) -> Vec<Incarnation> {
        std::mem::take(&mut self.gone)
    }

    fn publish(&mut self) {
        let revision = self.directory.revision() + 1;
        let nodes = self.leases.values().map(|lease| lease.info.clone());
        self.directory = Arc::new(Directory::new(revision, nodes));
    }
}

/// Whether two nodes understand each other.
pub(crate) fn fit(info: &NodeInfo, other: &NodeInfo) -> Result<(), Error> {
    // A node that is started again may come before its former self has left.
    if other.name == info.name {
        return Ok(());
    }
    let incompatible = |problem| {
        Err(Error::Incompatible { node: info.name.clone(), with: other.name.clone(), problem })
    };
    let differs = |(kind, _): &&(KindId, Scope)| {
        info.offers(*kind) && other.offers(*kind) && info.scope_of(*kind) != other.scope_of(*kind)
    };
    if let Some((kind, _)) = info.local.iter().chain(&other.local).find(differs) {
        let interfaces = info.schema.iter().flat_map(|schema| schema.interfaces.values());
        let known = interfaces.into_iter().find(|interface| interface.id == *kind);
        let name = known.map_or_else(|| format!("{:08x}", kind.0), |known| known.name.clone());
        return incompatible(format!(
            "kind {name} is {} here and {} there: each would look for it where the other has none",
            scope_word(info.scope_of(*kind)),
            scope_word(other.scope_of(*kind)),
        ));
    }
    let (Some(schema), Some(theirs)) = (&info.schema, &other.schema) else { return Ok(()) };
    if Arc::ptr_eq(schema, theirs) || schema == theirs {
        return Ok(());
    }
    // What only one of them has is called in vain there, and the caller is told so.
    let breaks =
        |old, new| compare(old, new).into_iter().find(|change| change.breaking && !change.absent);
    if let (Some(problem), Some(_)) = (breaks(theirs, schema), breaks(schema, theirs)) {
        return incompatible(problem.to_string());
    }
    Ok(())
}

fn scope_word(scope: Scope) -> &'static str {
    match scope {
        Scope::Global => "global",
        Scope::Zone => "local to a zone",
        Scope::Channel => "local to a channel",
    }
}

/// Whether a node may be listed at all.
pub(crate) fn check(info: &NodeInfo) -> Result<(), Error> {
    let invalid = |field, problem| Err(Error::Invalid { node: info.name.clone(), field, problem });
    let is_word = |text: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !text.is_empty() && text.len() <= TEXT_BYTES_MAX && text.chars().all(known)
    };
    if !is_word(&info.name) {
        return invalid("name", "must be 1 to 64 of a-z A-Z 0-9 - _ .");
    }
    if info.incarnation == Incarnation::NONE {
        return invalid("incarnation", "must not be zero");
    }
    if !info.roles.iter().all(|role| is_word(role)) {
        return invalid("roles", "must each be 1 to 64 of a-z A-Z 0-9 - _ .");
    }
    if !info.zones.iter().chain(&info.channels).all(|name| is_word(name)) {
        return invalid("zones, channels", "must each be 1 to 64 of a-z A-Z 0-9 - _ .");
    }
    let lists = [
        info.roles.len(),
        info.kinds.len(),
        info.mesh.len(),
        info.zones.len(),
        info.channels.len(),
        info.local.len(),
    ];
    if lists.into_iter().any(|length| length > LIST_MAX) {
        return invalid(
            "roles, kinds, mesh, zones, channels, local",
            "must have 4,096 entries at most",
        );
    }
    if info.waits_for.len() > WAITS_BYTES_MAX {
        return invalid("waits_for", "must have 1,024 bytes at most");
    }
    if info.workers == 0 {
        return invalid("workers", "must be at least 1");
    }
    if info.weight == 0 || info.weight > WEIGHT_MAX {
        return invalid("weight", "must be 1 to 64");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::schema::{Form, Interface, Method, Pattern, Schema, SchemaBuilder, Shape};

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    fn names(registry: &Registry) -> String {
        let directory = registry.directory();
        directory.nodes().map(|info| info.name.as_str()).collect::<Vec<_>>().join(" ")
    }

    fn schema(methods: &[(&str, bool)]) -> Option<Arc<Schema>> {
        let methods = methods.iter().map(|(name, number)| {
            let mut method = Method::new(name, Pattern::Invoke);
            method.callers.server = true;
            method.reply = Some(if *number { Shape::U64 } else { Shape::Text });
            (method.path.clone(), method)
        });
        let mut builder = SchemaBuilder::new();
        builder.interface(Interface {
            name: "bank".into(),
            id: KindId::of("bank"),
            form: Form::Entity,
            aliases: Vec::new(),
            methods: methods.collect(),
        });
        Some(Arc::new(builder.finish().unwrap()))
    }

    /// Nodes of releases that did not understand each other formed one cluster, and every call
    /// between them failed in its own way.
    #[test]
    fn a23_an_incompatible_node_is_not_admitted() {
        let mut registry = Registry::new(Options::default());
        let node = |name: &str, incarnation, schema| {
            let info = NodeInfo::new(name, Incarnation(incarnation));
            NodeInfo { schema, ..info }
        };
        let first = schema(&[("pay", true)]);
        registry.register(at(0), node("a", 1, first.clone())).unwrap();
        // The next release, and the one before it, on whichever comes first.
        registry.register(at(0), node("b", 2, schema(&[("pay", true), ("save", true)]))).unwrap();
        registry.register(at(0), node("c", 3, first)).unwrap();
        // A gate says nothing and fits.
        registry.register(at(0), NodeInfo::new("gate", Incarnation(4))).unwrap();
        // One that has a method more and one less: both play on with what both know.
        let other = schema(&[("save", true), ("lend", true)]);
        registry.register(at(0), node("e", 6, other)).unwrap();
        registry.deregister(Incarnation(6));
        let other = schema(&[("pay", false)]);
        let error = registry.register(at(0), node("d", 5, other.clone())).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("node \"d\" is not admitted: it and node \"a\""), "{text}");
        assert!(text.contains("bank.pay"), "{text}");
        assert_eq!(names(&registry), "a b c gate");
        assert_eq!(registry.refused().keys().collect::<Vec<_>>(), ["d"]);
        // Once the others are gone it may come.
        for incarnation in 1..=3 {
            registry.deregister(Incarnation(incarnation));
        }
        registry.register(at(1), node("d", 5, other)).unwrap();
        assert!(registry.refused().is_empty());
    }

    /// Each of them would look for the other's where there is none.
    #[test]
    fn a36_nodes_that_do_not_agree_what_is_local_are_not_listed_together() {
        let node = |name: &str, incarnation, local: &[(KindId, Scope)]| {
            let info = NodeInfo::new(name, Incarnation(incarnation));
            NodeInfo { kinds: vec![KindId::of("bank")], local: local.to_vec(), ..info }
        };
        let zoned = [(KindId::of("bank"), Scope::Zone)];
        for (first, second) in [(&zoned[..], &[][..]), (&[][..], &zoned[..])] {
            let mut registry = Registry::new(Options::default());
            registry.register(at(0), node("a", 1, first)).unwrap();
            let error = registry.register(at(0), node("b", 2, second)).unwrap_err().to_string();
            let [here, there] = match second {
                [] => ["global", "local to a zone"],
                _ => ["local to a zone", "global"],
            };
            assert!(error.contains(&format!("is {here} here and {there} there")), "{error}");
            registry.register(at(0), node("c", 3, first)).unwrap();
        }
    }

    #[test]
    fn a_lease_runs_out_unless_renewed() {
        let mut registry = Registry::new(Options::default());
        registry.register(at(0), NodeInfo::new("a", Incarnation(1))).unwrap();
        registry.register(at(5), NodeInfo::new("b", Incarnation(2))).unwrap();
        assert_eq!(registry.poll_timeout(), Some(at(15)));
        registry.renew(at(10), Incarnation(1)).unwrap();
        assert_eq!(registry.poll_timeout(), Some(at(20)));
        registry.handle_timeout(at(20));
        assert_eq!(names(&registry), "a");
        let refused = registry.renew(at(21), Incarnation(2)).unwrap_err();
        assert_eq!(refused.to_string(), "node 0000000000000002 is not listed: register it again");
        registry.register(at(21), NodeInfo::new("b", Incarnation(2))).unwrap();
        assert_eq!(names(&registry), "a b");
    }

    #[test]
    fn what_cannot_be_listed_is_refused_with_the_field() {
        let mut registry = Registry::new(Options { nodes_max: 1, ..Options::default() });
        let good = NodeInfo::new("a", Incarnation(1));
        let mut refuse = |change: &dyn Fn(&mut NodeInfo)| {
            let mut info = good.clone();
            change(&mut info);
            registry.register(at(0), info).unwrap_err().to_string()
        };
        assert!(refuse(&|info| info.name = "a b".into()).contains("name must be"));
        assert!(refuse(&|info| info.incarnation = Incarnation::NONE).contains("incarnation"));
        assert!(refuse(&|info| info.workers = 0).contains("workers"));
        assert!(refuse(&|info| info.weight = 65).contains("weight"));
        assert!(refuse(&|info| info.roles = vec!["x".repeat(65)]).contains("roles"));
        registry.register(at(0), good).unwrap();
        let refused = registry.register(at(0), NodeInfo::new("b", Incarnation(2))).unwrap_err();
        assert_eq!(refused, Error::Full(1));
    }
}
