//! Topics: who listens on this worker, and what is said.

use std::collections::BTreeMap;
use std::rc::Rc;

use proto::codec::DecodeError;

use super::event::Event;
use super::hub::{Hub, bump};
use super::mail::{Body, Mail, Origin, Sender};
use super::shard::Shard;
use crate::entity::Entity;

/// Makes an entity's message of a topic's.
type Hear<E> = Rc<dyn Fn(&[u8]) -> Result<<E as Entity>::Message, DecodeError>>;

/// The entities of a shard that listen, by topic.
pub(crate) struct Ears<E: Entity> {
    topics: BTreeMap<String, BTreeMap<u32, Hear<E>>>,
}

impl<E: Entity> Ears<E> {
    pub fn new() -> Self {
        Ears { topics: BTreeMap::new() }
    }
}

impl Hub {
    /// Something is said. The driver carries it to all workers that listen, this one included.
    pub fn notify(&self, topic: &str, body: Vec<u8>) {
        self.event(Event::Publish { topic: topic.to_owned(), body });
    }

    /// One more shard listens, or one less.
    fn listen(&self, topic: &str, more: bool) {
        let mut topics = self.topics.borrow_mut();
        let count = topics.entry(topic.to_owned()).or_default();
        if more {
            *count += 1;
            if *count == 1 {
                self.event(Event::Subscribe(topic.to_owned()));
            }
        } else {
            *count -= 1;
            if *count == 0 {
                topics.remove(topic);
                self.event(Event::Unsubscribe(topic.to_owned()));
            }
        }
    }
}

impl<E: Entity> Shard<E> {
    pub fn subscribe(
        &self,
        entity: u32,
        topic: &str,
        hear: Box<dyn Fn(&[u8]) -> Result<E::Message, DecodeError>>,
    ) {
        let mut ears = self.ears.borrow_mut();
        let listeners = ears.topics.entry(topic.to_owned()).or_default();
        let first = listeners.is_empty();
        listeners.insert(entity, Rc::from(hear));
        if first {
            self.hub.listen(topic, true);
        }
    }

    pub fn unsubscribe(&self, entity: u32, topic: &str) {
        let mut ears = self.ears.borrow_mut();
        let Some(listeners) = ears.topics.get_mut(topic) else { return };
        if listeners.remove(&entity).is_some() && listeners.is_empty() {
            ears.topics.remove(topic);
            self.hub.listen(topic, false);
        }
    }

    pub fn unsubscribe_all(&self, entity: u32) {
        let mut ears = self.ears.borrow_mut();
        if ears.topics.is_empty() {
            return;
        }
        let mut over = Vec::new();
        for (topic, listeners) in &mut ears.topics {
            if listeners.remove(&entity).is_some() && listeners.is_empty() {
                over.push(topic.clone());
            }
        }
        for topic in over {
            ears.topics.remove(&topic);
            self.hub.listen(&topic, false);
        }
    }

    /// Something was said: every listener gets it as a message, if its mailbox has room.
    pub fn hear(&self, topic: &str, body: &[u8]) {
        let listeners: Vec<(u32, Hear<E>)> = match self.ears.borrow().topics.get(topic) {
            Some(found) => found.iter().map(|(at, hear)| (*at, Rc::clone(hear))).collect(),
            None => return,
        };
        for (entity, hear) in listeners {
            match hear(body) {
                Ok(message) => {
                    let mut cells = self.cells.borrow_mut();
                    if cells.get(entity).is_none() || self.accepts(&cells, entity).is_err() {
                        continue;
                    }
                    let method = E::method(&message) as u16;
                    let mail = Mail {
                        origin: Origin::Tell,
                        sender: Sender::OWN,
                        method,
                        body: Body::Message(message),
                    };
                    self.push(&mut cells, entity, mail);
                }
                Err(error) => {
                    bump(&self.hub.count.bad_arguments);
                    tracing::warn!(kind = E::KIND.name, topic, "cannot be read: {error}");
                }
            }
        }
    }
}
