//! Gates that give live connections to another gate, as to a successor.

use std::time::Duration;

use env::Instant;
use proto::Incarnation;
use proto::link::{Slot, WorkerId};

use crate::Cluster;
use crate::net::{End, Happening, Place};

/// How long what a gate holds of a connection is on its way to the next one.
const WAY: Duration = Duration::from_millis(1);

impl Cluster {
    /// Has a gate give all connections that can go to another one, which goes on beside it. Tells how many
    /// have a place there.
    pub fn shift_gate(&mut self, from: usize, to: usize) -> usize {
        let now = self.now();
        let Some(gate) = self.gates[from].gate.as_mut().filter(|_| from != to) else { return 0 };
        let offers = gate.offer(now, usize::MAX, |_| true);
        let next = WorkerId { node: self.gates[to].incarnation, worker: 0 };
        let mut count = 0;
        for (slot, offer) in offers {
            let place = self.gates[to].gate.as_mut().and_then(|gate| gate.reserve(now, &offer));
            let gate = self.gates[from].gate.as_mut().expect("it has made an offer");
            match place {
                Some(place) => gate.shift(now, slot, (next, place)),
                None => gate.stay(now, slot),
            }
            count += usize::from(place.is_some());
        }
        self.notes.add(now, || format!("gate {from} gives {count} connections to gate {to}"));
        self.settle(Place::Gate(to));
        self.settle(Place::Gate(from));
        count
    }

    /// The sockets that a gate lets go are the next gate's at once; what it held of them comes later.
    pub(crate) fn carry_shifts(&mut self, number: usize) {
        let now = self.now();
        while let Some(gate) = &mut self.gates[number].gate
            && let Some((slot, next, to)) = gate.poll_left()
        {
            let state = gate.export(now, slot).unwrap_or_default();
            let end = End::Conn(number, slot);
            let Some(at) = self.gate_of(next.node) else {
                self.net.hang_up(now, end);
                continue;
            };
            let is_open = self.net.reseat(end, End::Conn(at, to));
            self.net.at(now + WAY, Happening::Shifted(next.node, to, state, is_open));
        }
    }

    pub(crate) fn handle_shifted(
        &mut self,
        now: Instant,
        (next, to): (Incarnation, Slot),
        state: &[u8],
        is_open: bool,
    ) {
        let Some(at) = self.gate_of(next) else { return };
        let Some(gate) = &mut self.gates[at].gate else { return };
        if gate.import(now, to, state).is_err() {
            self.net.hang_up(now, End::Conn(at, to));
        } else if !is_open {
            gate.handle_closed(now, to);
        }
        self.settle(Place::Gate(at));
    }

    fn gate_of(&self, life: Incarnation) -> Option<usize> {
        self.gates.iter().position(|seat| seat.incarnation == life && seat.gate.is_some())
    }
}
