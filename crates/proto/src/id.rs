use std::fmt;

/// Hashes a name to a 32-bit id (FNV-1a over its UTF-8 bytes, then a finaliser).
///
/// Every kind and method id on the wire is made by this function, so it never changes.
/// `const`, so that ids are computed at compile time.
pub const fn name_hash(name: &str) -> u32 {
    let bytes = name.as_bytes();
    let mut hash: u32 = 0x811c_9dc5;
    let mut at = 0;
    while at < bytes.len() {
        hash ^= bytes[at] as u32;
        hash = hash.wrapping_mul(0x0100_0193);
        at += 1;
    }
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^ (hash >> 13)
}

/// Identifies an entity kind or service: the hash of its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KindId(pub u32);

impl KindId {
    /// The id of the kind called `name`.
    pub const fn of(name: &str) -> Self {
        KindId(name_hash(name))
    }
}

/// Identifies a remote method within its kind: the hash of its path.
///
/// The path of an entity's own method is its name (`"add"`); that of a component's
/// method is `"field.method"` (`"bag.use_item"`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MethodId(pub u32);

impl MethodId {
    /// The id of the method with `path`.
    pub const fn of(path: &str) -> Self {
        MethodId(name_hash(path))
    }

    /// The id of a method with its whole path: a component's `"bag.use_item"` is combined of its
    /// parts as [`in_component`](Self::in_component) does, from the right.
    pub fn of_path(path: &str) -> Self {
        let (fields, method) = path.rsplit_once('.').unwrap_or(("", path));
        let inner = MethodId::of(method);
        fields
            .rsplit('.')
            .filter(|field| !field.is_empty())
            .fold(inner, |inner, field| MethodId::in_component(name_hash(field), inner))
    }

    /// The id of `field.method`, made of the ids of both halves.
    ///
    /// Components know only their own half, so the combination works on hashes.
    pub const fn in_component(field: u32, method: MethodId) -> Self {
        let mixed = field.rotate_left(13) ^ method.0.wrapping_mul(0x9e37_79b1);
        MethodId(mixed ^ (mixed >> 15))
    }
}

/// How far the names of a kind reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The whole cluster: there is one of each key.
    #[default]
    Global,
    /// One zone: each has its own.
    Zone,
    /// One channel, such as the shop that players come from: each has its own.
    Channel,
}

/// One zone or channel, by number: the hash of its name. What is local to it has the number in its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(u32);

impl Namespace {
    /// That of what is global; also the only one of a cluster that names no zones, or no channels.
    pub const NONE: Namespace = Namespace(0);
    /// None at all: nothing is there.
    pub const NOWHERE: Namespace = Namespace(NAMESPACE_MAX);

    /// The zone called `name`.
    pub const fn zone(name: &str) -> Self {
        Namespace::of(Scope::Zone, name)
    }

    /// The channel called `name`.
    pub const fn channel(name: &str) -> Self {
        Namespace::of(Scope::Channel, name)
    }

    /// The zone or channel called `name`; [`NONE`](Self::NONE) for what is global.
    pub const fn of(scope: Scope, name: &str) -> Self {
        let salt = match scope {
            Scope::Global => return Namespace::NONE,
            Scope::Zone => 0x7a6f_6e65,
            Scope::Channel => 0x6368_616e,
        };
        let hash = (name_hash(name) ^ salt).wrapping_mul(0x9e37_79b1);
        // Neither 0 nor the greatest.
        Namespace((hash ^ hash >> 15) % (NAMESPACE_MAX - 1) + 1)
    }
}

/// The greatest number of a namespace.
const NAMESPACE_MAX: u32 = (1 << (64 - LOCAL_KEY_BITS)) - 1;
/// Bits of a local entity's own key.
const LOCAL_KEY_BITS: u32 = 40;
/// The greatest key of an entity that is local to a zone or channel: whose number is above it.
pub const LOCAL_KEY_MAX: u64 = (1 << LOCAL_KEY_BITS) - 1;

/// One life of a node: random, never reused. Zero means "no particular node".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// Stands where no node is meant, as in the id of a keyed entity.
    pub const NONE: Incarnation = Incarnation(0);
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Names one entity of the cluster.
///
/// A keyed entity has `home == Incarnation::NONE` and may live anywhere; a room has the
/// incarnation that made it and is gone with it. A room's lowest 8 key bits name its worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityId {
    /// What it is.
    pub kind: KindId,
    /// The only node it can live on, or `NONE`.
    pub home: Incarnation,
    /// Which one of its kind.
    pub key: u64,
}

impl EntityId {
    /// The keyed entity of `kind` with `key`.
    pub const fn keyed(kind: KindId, key: u64) -> Self {
        EntityId { kind, home: Incarnation::NONE, key }
    }

    /// The keyed entity of `kind`, which is local, with `key` in a zone or channel. A key over
    /// [`LOCAL_KEY_MAX`] is nowhere: it never names something elsewhere.
    pub const fn local(kind: KindId, within: Namespace, key: u64) -> Self {
        let within = if key > LOCAL_KEY_MAX { Namespace::NOWHERE } else { within };
        EntityId::keyed(kind, (within.0 as u64) << LOCAL_KEY_BITS | key & LOCAL_KEY_MAX)
    }

    /// The zone or channel of an entity whose kind is local. Meaningless for others.
    pub const fn namespace(self) -> Namespace {
        Namespace((self.key >> LOCAL_KEY_BITS) as u32)
    }

    /// Which of a node's `workers` (1..=256) this entity lives on.
    ///
    /// Keyed entities with one key share a worker whatever their kind, so that what belongs to
    /// one player stays together.
    pub const fn worker(self, workers: u8) -> u8 {
        if self.home.0 != 0 {
            return (self.key & 0xff) as u8;
        }
        let spread = self.key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((spread >> 32) % workers as u64) as u8
    }
}

impl fmt::Display for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.home == Incarnation::NONE {
            write!(f, "{:08x}/{}", self.kind.0, self.key)
        } else {
            write!(f, "{:08x}@{}/{}", self.kind.0, self.home, self.key)
        }
    }
}

/// Names a session: 128 random bits, equal to its ticket's id.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Names an account, as the login service numbers them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(pub u64);
