//! Names of entities.

use std::fmt;
use std::marker::PhantomData;

use proto::codec::{DecodeError, Decoder, Message};
use proto::schema::{SchemaBuilder, Shape};
use proto::{EntityId, Incarnation, LOCAL_KEY_MAX, Namespace, Scope};

use crate::entity::Entity;

/// Names an entity of kind `T` anywhere in the cluster, also after it moved.
pub struct Ref<T> {
    pub(super) id: EntityId,
    pub(super) kind: PhantomData<fn() -> T>,
}

impl<T: Entity> Ref<T> {
    /// The keyed entity with `key`. Of a kind that is local, that of a cluster that names no zones, or no
    /// channels: elsewhere name one with [`local`](Self::local).
    pub const fn keyed(key: u64) -> Self {
        match T::KIND.scope {
            Scope::Global => Ref { id: EntityId::keyed(T::KIND.id, key), kind: PhantomData },
            Scope::Zone | Scope::Channel => Ref::within(Namespace::NONE, key),
        }
    }

    /// The entity with `key` of that zone or channel; also from another one. Keys of local kinds go up to
    /// [`LOCAL_KEY_MAX`]: a greater one is not found.
    ///
    /// `T` is declared `zone` or `channel`, or this does not compile.
    pub const fn local(within: Namespace, key: u64) -> Self {
        const {
            let is_global = matches!(T::KIND.scope, Scope::Global);
            assert!(
                !is_global,
                "the kind is global: declare it `zone` or `channel`, or use `keyed`"
            );
        }
        Ref::within(within, key)
    }

    pub(super) const fn within(within: Namespace, key: u64) -> Self {
        Ref { id: EntityId::local(T::KIND.id, within, key), kind: PhantomData }
    }

    /// The keyed entity that is stored under this key.
    pub(crate) fn stored(key: u64) -> Self {
        Ref { id: EntityId::keyed(T::KIND.id, key), kind: PhantomData }
    }

    /// The room with this key at a node.
    pub(crate) fn room(home: Incarnation, key: u64) -> Self {
        Ref { id: EntityId { kind: T::KIND.id, home, key }, kind: PhantomData }
    }

    /// The entity with this id, if it is of kind `T`.
    pub fn from_id(id: EntityId) -> Option<Self> {
        (id.kind == T::KIND.id).then_some(Ref { id, kind: PhantomData })
    }

    /// Which entity of the cluster.
    pub const fn id(self) -> EntityId {
        self.id
    }

    /// Its key.
    pub const fn key(self) -> u64 {
        own_key(T::KIND.scope, self.id)
    }
}

/// An entity's key without the number of its zone or channel.
const fn own_key(scope: Scope, id: EntityId) -> u64 {
    match scope {
        Scope::Global => id.key,
        Scope::Zone | Scope::Channel => id.key & LOCAL_KEY_MAX,
    }
}

impl<T> Clone for Ref<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Ref<T> {}

impl<T> PartialEq for Ref<T> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl<T> Eq for Ref<T> {}

impl<T> PartialOrd for Ref<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Ref<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.id.cmp(&other.id)
    }
}

impl<T> std::hash::Hash for Ref<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl<T: Entity> fmt::Debug for Ref<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", T::KIND.name, self.key())
    }
}

/// Travels as an array of two numbers: home and key.
impl<T: Entity> Message for Ref<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.id.home.0, self.id.key).encode(out);
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let (home, key) = <(u64, u64)>::decode(d)?;
        let id = EntityId { kind: T::KIND.id, home: Incarnation(home), key };
        Ok(Ref { id, kind: PhantomData })
    }

    fn shape(s: &mut SchemaBuilder) -> Shape {
        <(u64, u64)>::shape(s)
    }
}
