//! What a worker does when live connections go to a successor, or come from a predecessor.

use env::Instant;
use proto::Reader;
use proto::link::{Slot, WorkerId};

use super::Loop;
use crate::Closing;
use crate::driver::client::Client;
use crate::driver::handover::{Handed, Offers};

impl Loop {
    /// Chooses connections that can go elsewhere, and reads them no more.
    pub(super) fn offer(&mut self, now: Instant, max: usize) -> Offers {
        let clients = &self.clients;
        let may = |slot: Slot| {
            let client = clients.get(slot.index as usize).and_then(Option::as_ref);
            client.is_some_and(|(at, client)| *at == slot && client.save(&mut Vec::new()))
        };
        self.gate.offer(now, max, may)
    }

    /// Gives away the connections that can go.
    pub(super) fn give(&mut self, now: Instant) {
        while let Some((slot, gate, to)) = self.gate.poll_left() {
            self.give_one(now, slot, (gate, to));
        }
        if !self.gate.is_shifting() {
            self.giving = None;
        }
    }

    fn give_one(&mut self, now: Instant, slot: Slot, (gate, to): (WorkerId, Slot)) {
        let mut state = Vec::new();
        let Some(token) = self.client(slot).filter(|c| c.save(&mut state)).map(|c| c.token) else {
            return self.close_client(now, slot, Closing::Now);
        };
        let Ok(stream) = self.sockets.detach(token) else {
            return self.close_client(now, slot, Closing::Now);
        };
        self.clients[slot.index as usize] = None;
        self.by_token[token.index()] = Slot::default();
        state.extend(self.gate.export(now, slot).unwrap_or_default());
        if let Some(giving) = &self.giving {
            // If nobody takes it, the client finds it closed and resumes.
            let _ = giving.send(Handed { worker: gate.worker, slot: to, stream, state });
        }
    }

    /// Makes places for connections that a predecessor offers.
    pub(super) fn reserve(
        &mut self,
        now: Instant,
        offers: &[Vec<u8>],
    ) -> Vec<Option<(WorkerId, Slot)>> {
        let me = self.gate.mesh().me();
        offers.iter().map(|offer| self.gate.reserve(now, offer).map(|slot| (me, slot))).collect()
    }

    /// Takes a connection that comes from a predecessor. If it cannot be taken its client finds it closed.
    pub(super) fn import(&mut self, now: Instant, handed: Handed) {
        let Handed { slot, stream, state, .. } = handed;
        let token = match self.sockets.adopt(stream) {
            Ok(token) => token,
            Err(error) => return tracing::warn!(%error, "a connection cannot be taken over"),
        };
        let mut r = Reader::new(&state);
        let Some(client) = Client::restore(token, &mut r) else {
            return self.sockets.close(token);
        };
        if let Err(error) = self.gate.import(now, slot, r.take_rest()) {
            tracing::debug!(%error, "a connection is not taken over");
            return self.sockets.close(token);
        }
        self.add_client(slot, client);
        // What its former gate could not write.
        self.write_client(now, slot);
    }
}
