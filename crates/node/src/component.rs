use std::cell::{RefCell, RefMut};
use std::fmt;
use std::rc::Rc;

use proto::schema::SchemaBuilder;

use crate::data::{Document, describe_document};

/// A component as a field of its entity. It has a borrow of its own, so that handlers of the
/// entity and of its components can reach it without holding the whole entity. A cheap clone is the
/// same component: an `interleave` handler takes one out of the state before it waits.
pub struct Component<C> {
    cell: Rc<RefCell<C>>,
}

impl<C: Document> Component<C> {
    /// Adds what is stored of it to a schema. For generated code.
    pub fn describe_stored(name: &str, schema: &mut SchemaBuilder) {
        describe_document::<C>(name, schema);
    }
}

impl<C> Component<C> {
    /// Puts `value` into a component.
    pub fn new(value: C) -> Self {
        Component { cell: Rc::new(RefCell::new(value)) }
    }

    /// Lends the component to `with`.
    ///
    /// # Panics
    ///
    /// If it is lent already: a component's own `&mut self` handler has `self` and must not ask
    /// for itself again.
    pub fn with<R>(&self, with: impl FnOnce(&mut C) -> R) -> R {
        with(&mut self.borrow())
    }

    /// Borrows the component. Do not hold it across an `await`.
    ///
    /// # Panics
    ///
    /// As [`with`](Self::with).
    pub fn borrow(&self) -> RefMut<'_, C> {
        match self.cell.try_borrow_mut() {
            Ok(borrow) => borrow,
            Err(_) => panic!(
                "component {} is borrowed already: its own handler has it as `self`",
                std::any::type_name::<C>()
            ),
        }
    }

    /// The shared cell itself, for generated code that runs a handler on it.
    pub fn cell(&self) -> Rc<RefCell<C>> {
        Rc::clone(&self.cell)
    }
}

impl<C> Clone for Component<C> {
    fn clone(&self) -> Self {
        Component { cell: Rc::clone(&self.cell) }
    }
}

impl<C: Default> Default for Component<C> {
    fn default() -> Self {
        Component::new(C::default())
    }
}

impl<C: fmt::Debug> fmt::Debug for Component<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.cell, f)
    }
}
