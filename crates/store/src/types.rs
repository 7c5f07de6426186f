use std::collections::BTreeMap;
use std::fmt;

/// Names one entity, and with it its owner row and documents, within a shard.
///
/// The caller decides what the 16 bytes are (a kind and a key, or a hash of a compound key). Keys
/// sort as big-endian numbers, so what shares the high bits lies together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u128);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:x})", self.0)
    }
}

/// One life of a node: random, never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incarnation({:x})", self.0)
    }
}

/// The answer to a beat: what the shard is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    /// The shard's generation; every write has to name it.
    pub generation: u64,
    /// The node's beat counter after this beat; the first is 1.
    pub beat: u64,
}

/// The row of a node in a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeBeat {
    /// Whose row it is.
    pub incarnation: Incarnation,
    /// False for ever once it was false.
    pub alive: bool,
    /// How often the node has beaten.
    pub beat: u64,
}

/// Who has, or last had, an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Rises by one with each activation; the first owner has 1.
    pub epoch: u64,
    /// The node that activated it.
    pub incarnation: Incarnation,
    /// True if that node gave it back and nobody took it since.
    pub released: bool,
}

/// What an owner shows with every write: which activation gave it the entity.
///
/// Plain data: of a trade between two nodes, one sends the claims of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The entity.
    pub key: Key,
    /// The shard's generation at activation.
    pub generation: u64,
    /// The epoch that the activation set.
    pub epoch: u64,
    /// The owner.
    pub incarnation: Incarnation,
}

/// The sub-documents of an entity by name.
pub type Documents = BTreeMap<String, Vec<u8>>;

/// Changes of sub-documents by name: `Some` replaces or adds, `None` removes. What is not named
/// stays as it is.
pub type Patch = BTreeMap<String, Option<Vec<u8>>>;

/// An entity as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entity {
    /// Who has it.
    pub owner: Owner,
    /// How often its documents were written. 0: activated, but never saved.
    pub version: u64,
    /// Its documents.
    pub documents: Documents,
}

/// Asks for one entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activate {
    /// The entity.
    pub key: Key,
    /// The shard's generation, from [`Pulse`].
    pub generation: u64,
    /// Who asks. It must have beaten before, and be alive.
    pub incarnation: Incarnation,
    /// `Some(epoch)` takes an entity that stands as the asker's own under exactly that epoch: after
    /// an activation whose answer was lost, or after the shard's generation rose. An entity that
    /// is free, released or orphaned is given regardless of this.
    pub reclaim: Option<u64>,
}

/// A successful activation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activated {
    /// To be shown with every write from now on.
    pub claim: Claim,
    /// The version that the next write has to name. 0: the entity is new.
    pub version: u64,
    /// The documents as the last owner left them.
    pub documents: Documents,
}

/// A write of sub-documents of one entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Save {
    /// The owner's claim.
    pub claim: Claim,
    /// The version that this write builds on.
    pub version: u64,
    /// What changed.
    pub patch: Patch,
}
