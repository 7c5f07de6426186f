//! The end that an entity comes to.

use super::*;
use proto::Reader;

/// How often it is asked after mail that went another way before the entity is not taken: whoever has
/// that mail does not know where to send it.
const ASKS_MAX: u8 = 3;

/// An entity on its way here.
#[derive(Debug)]
pub(super) struct Incoming {
    pub from: WorkerId,
    number: u64,
    /// What it takes along, as far as it has come.
    parcel: Vec<u8>,
    whole: bool,
    /// Whether the other end was told that all of it is here.
    pub told: bool,
    /// Messages that came after it was packed.
    late: Vec<Vec<u8>>,
    /// Whether it is asked for at the store.
    asked: bool,
    /// When to see what became of the other end.
    pub look_at: Instant,
    until: Instant,
    pins: bool,
    /// How often it was asked after mail that went another way.
    asks: u8,
}

type Step = (WorkerId, EntityId, u64);

impl Worker {
    pub(super) fn reserve(
        &mut self,
        now: Instant,
        from: WorkerId,
        id: EntityId,
        number: u64,
        pins: bool,
    ) {
        let known = self.moves.coming.get(&id).map(|coming| (coming.from, coming.number));
        let busy = known.is_some_and(|(of, before)| of != from || before >= number);
        let may_come = self.host.may_come(id)
            && self.offers(id.kind)
            && !self.is_draining()
            && self.keeper_of(id).is_some_and(|keeper| keeper.takes() && !keeper.holds(id))
            && !self.moves.out.contains_key(&id)
            && self.moves.coming.len() < INCOMING_MAX;
        if busy && known != Some((from, number)) || !may_come {
            return self.send_step(from, id, number, MoveStep::Refused, &[]);
        }
        let coming = Incoming {
            from,
            number,
            parcel: Vec::new(),
            whole: false,
            told: false,
            late: Vec::new(),
            asked: false,
            look_at: now + KEEP,
            until: now + KEEP,
            pins,
            asks: 0,
        };
        if known != Some((from, number)) {
            self.host.not_coming(id, from);
            self.moves.coming.insert(id, coming);
        }
        self.send_step(from, id, number, MoveStep::Reserved, &[]);
    }

    fn coming(&mut self, (from, id, number): Step) -> Option<&mut Incoming> {
        let coming = self.moves.coming.get_mut(&id)?;
        (coming.from == from && coming.number == number).then_some(coming)
    }

    pub(super) fn take_part(&mut self, now: Instant, step: Step, body: &[u8], is_last: bool) {
        let (from, id, number) = step;
        let Some(coming) = self.coming(step) else {
            // It would be lost: the other end has to know.
            return self.send_step(from, id, number, MoveStep::Refused, &[]);
        };
        if coming.whole {
            return;
        }
        coming.parcel.extend_from_slice(body);
        if coming.parcel.len() > PARCEL_BYTES_MAX {
            self.moves.coming.remove(&id);
            return self.send_step(from, id, number, MoveStep::Refused, &[]);
        }
        if !is_last {
            return;
        }
        coming.whole = true;
        (coming.look_at, coming.until) = (now + STEP_WAIT, now + KEEP);
        self.tell_arrived(id);
    }

    /// Says that all of it is here, once what was sent to it from here is there. Later mail waits. Gives
    /// whether it was said.
    pub(super) fn tell_arrived(&mut self, id: EntityId) -> bool {
        let Some(coming) = self.moves.coming.get_mut(&id) else { return false };
        let (from, number) = (coming.from, coming.number);
        if !coming.whole || coming.told {
            return false;
        }
        if !self.host.coming(id, from, &mut coming.asks) {
            if coming.asks > ASKS_MAX {
                self.moves.coming.remove(&id);
                self.send_step(from, id, number, MoveStep::Refused, &[]);
            }
            return false;
        }
        coming.told = true;
        self.send_step(from, id, number, MoveStep::Arrived, &[]);
        true
    }

    pub(super) fn take_go(&mut self, now: Instant, step: Step, body: &[u8]) {
        let (from, id, number) = step;
        let Some(coming) = self.coming(step).filter(|coming| coming.whole) else {
            return self.send_step(from, id, number, MoveStep::Refused, &[]);
        };
        coming.late.push(body.to_vec());
        self.ask_for(now, id);
    }

    /// Asks the store for an entity whose parcel is here. Only if nobody had it since it was packed is
    /// it taken for what it was.
    fn ask_for(&mut self, now: Instant, id: EntityId) {
        let Some(coming) = self.moves.coming.get_mut(&id) else { return };
        (coming.asked, coming.look_at) = (true, coming.until);
        let until = coming.until;
        let _ = self.host.activate(id);
        self.carry_events(now);
        self.host.settle_route(id, self.me);
        if let Some(keeper) = self.keeper_of(id) {
            keeper.expect(id, until);
            keeper.handle_free(now, id);
        }
    }

    /// The other end has said nothing for a while, or its node is not reached any more.
    pub(super) fn incoming_late(&mut self, now: Instant, id: EntityId) {
        let Some(coming) = self.moves.coming.get(&id) else { return };
        if !coming.whole {
            self.moves.coming.remove(&id);
        } else if now >= coming.until {
            if let Some(coming) = self.moves.coming.remove(&id) {
                self.give_up_coming(now, id, &coming);
            }
        } else if !coming.told {
            // What was sent to it from here is under way, and would come behind what is sent to it here.
            if let Some(coming) = self.moves.coming.get_mut(&id) {
                coming.look_at = now + STEP_WAIT / 4;
            }
        } else if !coming.asked {
            self.ask_for(now, id);
        }
    }

    /// It does not come: the other end may go on, and mail for it goes there.
    pub(super) fn give_up_coming(&mut self, now: Instant, id: EntityId, coming: &Incoming) {
        let _ = now;
        self.host.not_coming(id, coming.from);
        self.send_step(coming.from, id, coming.number, MoveStep::Refused, &[]);
    }

    pub(super) fn forget_coming(&mut self, now: Instant, step: Step) {
        let (from, id, _) = step;
        if self.coming(step).is_none() {
            return;
        }
        self.moves.coming.remove(&id);
        // What waits for it here goes to where it stays.
        self.host.not_coming(id, from);
        self.handle_moved(now, id, from, from);
    }

    /// The entity is this node's.
    pub(super) fn take_over(
        &mut self,
        now: Instant,
        id: EntityId,
        stored: (Documents, Claim),
    ) -> Option<(Documents, Claim)> {
        let coming = self.moves.coming.remove(&id)?;
        let mut reader = Reader::new(&coming.parcel);
        let fits = reader.u64().and_then(|generation| Ok((generation, reader.u64()?)));
        let fits = fits.is_ok_and(|(generation, epoch)| {
            follows(Claim { generation, epoch, ..stored.1 }, stored.1)
        });
        if !fits || !coming.whole {
            // Somebody had it since, or nothing came along: it begins with its documents alone.
            self.host.settle_route(id, self.me);
            self.send_step(coming.from, id, coming.number, MoveStep::Refused, &[]);
            return Some(stored);
        }
        let Some(seat) = self.host.find(id) else { return Some(stored) };
        let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
        let host = &mut self.host;
        let peers = match self.streams.arrive(now, &mut out, (host, seat), id, &mut reader) {
            Ok(peers) => peers,
            Err(error) => {
                self.bad_frame(coming.from, error.to_string());
                return Some(stored);
            }
        };
        let (documents, claim) = stored;
        let stored = (documents.clone(), claim);
        let packed = (reader.take_rest(), &coming.late[..]);
        if let Err(problem) = self.host.arrive(id, stored, packed, &peers) {
            tracing::error!(entity = %id, "what it took along is of no use: {problem}");
            let code = proto::frame::CloseCode::Unavailable;
            let mut out = Links { mesh: &mut self.mesh, now, unsent: &mut self.unsent };
            self.streams.entity_gone(&mut out, id, code, &[]);
            return Some((documents, claim));
        }
        self.moves.stats.came += 1;
        if coming.pins {
            self.moves.pinned.insert(id);
        }
        self.send_step(coming.from, id, coming.number, MoveStep::Done, &[]);
        self.host.settle_route(id, self.me);
        None
    }
}
