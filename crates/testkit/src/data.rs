//! The store of a simulated cluster: in memory, asked over a network that takes its time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use env::Instant;
use node::data::{Ask, Life, Told};
use proto::Incarnation;
use store::{Limits, Store};

use crate::net::{Happening, Net};

/// A request on its way to the store, or an answer back.
#[derive(Debug)]
pub(crate) enum Post {
    Ask(Ask),
    Told(Told),
}

/// How long a request or an answer is under way, and how often nodes beat.
const WAY: Duration = Duration::from_micros(500);
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// The one store of the cluster.
#[derive(Debug)]
pub(crate) struct Shelf {
    store: Store,
}

impl Shelf {
    pub(crate) fn new() -> Self {
        Shelf { store: Store::memory(Limits::default()) }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// A node tells that it lives; gives what its workers are to know.
    pub(crate) fn beat(
        &self,
        now: Instant,
        node: Incarnation,
        number: usize,
        net: &mut Net,
    ) -> Life {
        net.at(now + BEAT_EVERY, Happening::Beat(number));
        match self.store.beat(store::Incarnation(node.0)).wait() {
            Ok(pulse) => Life::Alive(now, pulse.generation),
            Err(_) => Life::Dead,
        }
    }

    /// Does what a worker asks; the answer comes back later.
    pub(crate) fn ask(&self, now: Instant, ask: Ask, (node, worker): (usize, u8), net: &mut Net) {
        let told = Arc::new(Mutex::new(None));
        let cell = Arc::clone(&told);
        ask.submit(&self.store, move |answer| {
            *cell.lock().expect("nobody else has it") = Some(answer);
        });
        let told = told.lock().expect("nobody else has it").take();
        let told = told.expect("a store in memory answers at once");
        net.at(now + WAY, Happening::Data(node, worker, Box::new(Post::Told(told))));
    }
}

/// Puts a worker's requests on their way.
pub(crate) fn send(now: Instant, ask: Ask, (node, worker): (usize, u8), net: &mut Net) {
    net.at(now + WAY, Happening::Data(node, worker, Box::new(Post::Ask(ask))));
}
