use std::collections::VecDeque;
use std::time::Duration;

use proto::EntityId;
use proto::frame::{CloseCode, Status};
use proto::link::Slot;

use super::shard::Target;

/// What a host has to tell its driver, beside messages.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A message came for a keyed entity that is not loaded: load it and answer with
    /// [`Host::handle_activated`](super::Host::handle_activated). Its mail waits meanwhile.
    Activate(EntityId),
    /// An entity that was loading is there, or not.
    Activated {
        /// Which.
        id: EntityId,
        /// Where it is, or why it is not.
        result: Result<Target, Status>,
    },
    /// An entity was removed: its streams and groups end.
    Gone {
        /// Which.
        id: EntityId,
        /// Where it was.
        target: Target,
        /// What its clients are told.
        code: CloseCode,
        /// Streams of clients that came while it ended, of which it has not heard.
        newcomers: Vec<Slot>,
    },
    /// An entity has moved to another node: its groups end here.
    Departed {
        /// Which.
        id: EntityId,
        /// Where it was.
        target: Target,
    },
    /// A handler panicked; its call failed.
    Panicked {
        /// Whose.
        id: EntityId,
        /// Path of the method, or `hook`.
        method: String,
        /// What the panic said.
        text: String,
    },
    /// An entity panicked three times within a minute and is shut off.
    Quarantined(EntityId),
    /// A component's hook panicked or ended with an error; the others ran.
    HookFailed {
        /// Whose.
        id: EntityId,
        /// Which component.
        component: &'static str,
        /// What it said.
        text: String,
    },
    /// A timer's callback answered with an error or panicked; its repeats go on.
    TimerFailed {
        /// Whose.
        id: EntityId,
        /// Path of the method.
        method: String,
        /// What it said.
        text: String,
    },
    /// A handler took long.
    Slow {
        /// Whose: kind, method path, position of the entity in its shard.
        kind: &'static str,
        /// Path of the method, or `hook`.
        method: String,
        /// The entity, if it is still there.
        id: Option<EntityId>,
        /// How long it took.
        took: Duration,
        /// How many messages shared that time; it was not measured apart.
        shared: u32,
    },
    /// A message for the subscribers of a topic.
    Publish {
        /// The topic.
        topic: String,
        /// The encoded message.
        body: Vec<u8>,
    },
    /// The first entity of this worker listens to a topic.
    Subscribe(String),
    /// The last entity of this worker stopped listening to a topic.
    Unsubscribe(String),
}

/// Most events kept for a driver that does not ask.
const EVENTS_MAX: usize = 65_536;

pub(crate) struct Events {
    queue: VecDeque<Event>,
    pub lost: u64,
}

impl Events {
    pub fn new() -> Self {
        Events { queue: VecDeque::new(), lost: 0 }
    }

    pub fn push(&mut self, event: Event) {
        let must_stay = matches!(
            event,
            Event::Activate(_)
                | Event::Activated { .. }
                | Event::Gone { .. }
                | Event::Departed { .. }
        );
        if self.queue.len() >= EVENTS_MAX && !must_stay {
            self.lost += 1;
            return;
        }
        self.queue.push_back(event);
    }

    pub fn pop(&mut self) -> Option<Event> {
        self.queue.pop_front()
    }
}
