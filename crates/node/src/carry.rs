//! What an entity takes along when it moves to another node, beside its document.

use proto::{EntityId, Message};

use crate::cx::Cx;
use crate::entity::Entity;

impl<E: Entity> Cx<E> {
    /// In the hook `before_move`: takes a value along that is not part of the document. The hook
    /// `moved` finds it under the same name, with [`carried`](Self::carried). An entity with more than
    /// 1 MiB under one name, or 8 MiB in all, stays where it is.
    pub fn carry<M: Message>(&self, name: &str, value: &M) {
        let place = (self.shard().index, self.index());
        let mut carried = self.hub().carried.borrow_mut();
        carried.entry(place).or_default().insert(name.to_owned(), proto::encode(value));
    }

    /// In the hook `moved`: what was taken along under that name, once. `None` if nothing was, or if it
    /// is no such value.
    pub fn carried<M: Message>(&self, name: &str) -> Option<M> {
        let place = (self.shard().index, self.index());
        let mut all = self.hub().carried.borrow_mut();
        let carried = all.get_mut(&place)?;
        let value = carried.remove(name)?;
        if carried.is_empty() {
            all.remove(&place);
        }
        drop(all);
        match proto::decode(&value) {
            Ok(value) => Some(value),
            Err(error) => {
                let id: EntityId = self.id();
                tracing::error!(entity = %id, name, "what was carried cannot be read: {error}");
                None
            }
        }
    }
}
