//! The bus as a node and its entities reach it.

use std::fmt;
use std::sync::Arc;

use bus::{Accepted, Answer, Bus, Delivery, Desk, Error, matches};
use proto::codec::Message;

use crate::cx::{Cx, Outside};
use crate::entity::Entity;
use crate::host::hub::Hub;
use crate::pull::{Job, subject_of};

/// A bus, and what the game declared on it. A cheap clone.
///
/// One that is shared with other processes carries all topics. One within the process carries those
/// that may lose nothing; the others go from node to node over the mesh.
#[derive(Clone)]
pub struct NodeBus {
    bus: Bus,
    shared: bool,
    kept: Arc<[String]>,
    desk: Option<Desk>,
}

impl NodeBus {
    /// Declares `topics` on a bus. `shared` tells whether other processes are on it too.
    ///
    /// # Errors
    ///
    /// What the bus cannot give: refuse to start.
    pub fn new(
        bus: Bus,
        shared: bool,
        topics: impl IntoIterator<Item = (String, Delivery)>,
    ) -> Result<Self, Error> {
        let mut kept = Vec::new();
        for (topic, delivery) in topics {
            bus.declare(&topic, delivery)?;
            if delivery.is_kept() {
                kept.push(topic);
            }
        }
        Ok(NodeBus { bus, shared, kept: kept.into(), desk: None })
    }

    /// The same with a desk, which a game needs that has questions.
    #[must_use]
    pub fn with_desk(self, desk: Desk) -> Self {
        NodeBus { desk: Some(desk), ..self }
    }

    /// The desk, if it has one.
    pub fn desk(&self) -> Option<&Desk> {
        self.desk.as_ref()
    }

    /// The bus itself.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Whether other processes are on it too.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Whether nothing of `topic` may be lost.
    pub fn keeps(&self, topic: &str) -> bool {
        self.kept.iter().any(|pattern| matches(pattern, topic))
    }

    /// Whether `topic` goes over the bus, and not over the mesh.
    pub(crate) fn carries(&self, topic: &str) -> bool {
        self.shared || self.keeps(topic)
    }
}

impl fmt::Debug for NodeBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeBus").field("bus", &self.bus).field("shared", &self.shared).finish()
    }
}

impl Hub {
    /// Sends to the subscribers of a topic, and tells when it is safe.
    fn publish(
        &self,
        topic: &str,
        id: Option<u128>,
        body: Vec<u8>,
    ) -> Result<Answer<Accepted>, Error> {
        match self.router.bus().filter(|bus| bus.carries(topic)) {
            Some(bus) => match id {
                Some(id) => bus.bus.publish_once(topic, id, body),
                None => bus.bus.publish(topic, body),
            },
            None => {
                self.notify(topic, body);
                Ok(Answer::given(Ok(Accepted::New)))
            }
        }
    }

    fn submit<J: Job>(&self, id: Option<u128>, job: &J) -> Result<Answer<Accepted>, Error> {
        let subject = subject_of(J::QUEUE, job.group());
        let Some(bus) = self.router.bus() else { return Err(Error::Unavailable("queue's")) };
        assert!(
            bus.keeps(&subject),
            "the router of queue {:?} chose the group {:?}, which the app's queue does not have",
            J::QUEUE,
            job.group()
        );
        self.publish(&subject, id, proto::encode(job))
    }

    /// Whether entities may listen to a topic.
    fn check_topic(&self, topic: &str) {
        let kept = self.router.bus().is_some_and(|bus| bus.keeps(topic));
        assert!(
            !kept,
            "{topic:?} may lose nothing, and an entity may be gone when it comes: take it by pull \
             workers (`App::queue`, `App::consume`), which call the entity"
        );
    }
}

macro_rules! publishing {
    ($($header:tt)*) => {
        $($header)* {
            /// Sends to all subscribers of `topic`, whoever they are, in the class that the app declares for
            /// it. With none it goes nowhere. What became of it is not told: see [`publish`](Self::publish).
            pub fn notify<M: Message>(&self, topic: &str, message: &M) {
                let hub = self.bus_hub();
                hub.poke();
                if let Err(error) = hub.publish(topic, None, proto::encode(message)) {
                    tracing::warn!(topic, %error, "a message was not taken by the bus");
                }
            }

            /// As [`notify`](Self::notify), and tells when the message is safe, if its topic may lose nothing:
            /// `cx.publish("deeds", &deed)?.await?`. The answer may be dropped.
            ///
            /// # Errors
            ///
            /// `Busy` while a listener is full, `BadSubject`, `TooLong`; here or in the answer.
            pub fn publish<M: Message>(
                &self,
                topic: &str,
                message: &M,
            ) -> Result<Answer<Accepted>, Error> {
                let hub = self.bus_hub();
                hub.poke();
                hub.publish(topic, None, proto::encode(message))
            }

            /// As [`publish`](Self::publish), but what was published under this `id` before is not handed
            /// out again, if the topic may lose nothing.
            ///
            /// # Errors
            ///
            /// As `publish`.
            pub fn publish_once<M: Message>(
                &self,
                topic: &str,
                id: u128,
                message: &M,
            ) -> Result<Answer<Accepted>, Error> {
                let hub = self.bus_hub();
                hub.poke();
                hub.publish(topic, Some(id), proto::encode(message))
            }

            /// Gives a job to the pull workers of its queue, in the group that its router function chooses.
            /// When the answer is there, it is not lost any more.
            ///
            /// # Errors
            ///
            /// `Busy` when that group's queue is full: tell whoever asked.
            ///
            /// # Panics
            ///
            /// If the app has no such queue or group.
            pub fn submit<J: Job>(&self, job: &J) -> Result<Answer<Accepted>, Error> {
                let hub = self.bus_hub();
                hub.poke();
                hub.submit(None, job)
            }

            /// As [`submit`](Self::submit), but of jobs under one `id` one is done.
            ///
            /// # Errors
            ///
            /// As `submit`.
            ///
            /// # Panics
            ///
            /// As `submit`.
            pub fn submit_once<J: Job>(
                &self,
                id: u128,
                job: &J,
            ) -> Result<Answer<Accepted>, Error> {
                let hub = self.bus_hub();
                hub.poke();
                hub.submit(Some(id), job)
            }
        }
    };
}

publishing!(impl<E: Entity> Cx<E>);
publishing!(impl Outside);

impl<E: Entity> Cx<E> {
    fn bus_hub(&self) -> &Hub {
        self.hub()
    }

    /// Listens to `topic`: each message of it becomes the message that `make` makes. Listening
    /// twice replaces. Ends with the entity.
    ///
    /// # Panics
    ///
    /// If the app declares that the topic may lose nothing: that is for pull workers.
    pub fn subscribe<M: Message>(&self, topic: &str, make: impl Fn(M) -> E::Message + 'static) {
        self.hub().check_topic(topic);
        self.shard().subscribe(
            self.index(),
            topic,
            Box::new(move |body| proto::decode::<M>(body).map(&make)),
        );
    }

    /// Stops listening to `topic`.
    pub fn unsubscribe(&self, topic: &str) {
        self.shard().unsubscribe(self.index(), topic);
    }
}

impl Outside {
    fn bus_hub(&self) -> &Hub {
        self.hub_of()
    }
}
