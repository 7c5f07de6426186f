//! A node: it owns players, saves them and trades for them, and finds their shards by itself.

use std::collections::BTreeMap;

use mainstay::env::Random;
use mainstay::store::{
    Activate, Claim, Error, Incarnation, Key, LedgerOp, Patch, Save, ShardInfo, Slot, SlotAsk,
    SlotState, SlotTold, Transaction, TxnId,
};

use super::book::Book;
use super::{GOLD, PLAYERS, REPLY_MS, Reply, SHARDS, Want, home};

/// How often a request is answered that its slot moves before the move is ended by this node.
const PATIENCE: u32 = 20;
/// Requests under way.
const OPEN_MAX: usize = 6;

struct Owned {
    claim: Claim,
    version: u64,
    /// The number in its document.
    steps: u64,
    /// Something about it is under way.
    busy: bool,
}

/// A request until it is answered for good.
struct Open {
    player: u64,
    slot: Slot,
    want: Want,
    sent: u64,
    /// Whether an earlier try may have been done.
    unsure: bool,
    patience: u32,
    /// Wait until then before asking again.
    next: u64,
}

/// Where a slot is believed to be.
#[derive(Clone, Copy)]
struct Place {
    shard: usize,
    version: u64,
    moved: Option<(u64, u64)>,
}

pub(super) struct Node {
    at: usize,
    pub me: Incarnation,
    pub life: u64,
    map: BTreeMap<Slot, Place>,
    generations: [u64; SHARDS.len()],
    owned: BTreeMap<u64, Owned>,
    /// Epochs under which players stood as this node's.
    reclaim: BTreeMap<u64, u64>,
    open: BTreeMap<u64, Open>,
    number: u64,
    calm: bool,
    /// In the calm, each player is reached once more.
    reached: BTreeMap<u64, u64>,
}

/// Asks all shards what they have.
fn ask_all() -> impl Iterator<Item = (u64, usize, Want)> {
    (0..SHARDS.len()).map(|shard| (0, shard, Want::Slots(SlotAsk::Describe)))
}

type Asks = Vec<(u64, usize, Want)>;

impl Node {
    pub fn new(at: usize, random: &mut Random) -> Self {
        Node {
            at,
            me: Incarnation(random.u64()),
            life: 1,
            map: BTreeMap::new(),
            generations: [1; SHARDS.len()],
            owned: BTreeMap::new(),
            reclaim: BTreeMap::new(),
            open: BTreeMap::new(),
            number: 0,
            calm: false,
            reached: BTreeMap::new(),
        }
    }

    /// Another life: it knows nothing but what the shards were at the beginning.
    pub fn begin_anew(&mut self, random: &mut Random) {
        let (life, number) = (self.life + 1, self.number);
        *self = Node { life, number, ..Node::new(self.at, random) };
    }

    pub fn calm_down(&mut self) {
        self.calm = true;
    }

    fn place(&self, slot: Slot) -> Place {
        let first = Place { shard: home(slot.0), version: 1, moved: None };
        self.map.get(&slot).copied().unwrap_or(first)
    }

    /// What it does in a moment: asks again what was not answered, and begins something new.
    pub fn tick(&mut self, now: u64, random: &mut Random, book: &mut Book) -> Asks {
        let mut asks = Vec::new();
        let again: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, open)| now >= open.next && (open.sent == 0 || now > open.sent + REPLY_MS))
            .map(|(number, _)| *number)
            .collect();
        for number in again {
            if self.open.get(&number).is_some_and(|open| open.sent > 0) {
                self.open.entry(number).and_modify(|open| open.unsure = true);
            }
            asks.extend(self.send(now, number));
        }
        if self.open.len() >= OPEN_MAX {
            return asks;
        }
        let mine = |player: &u64| *player as usize % 3 == self.at;
        let player = random.below(PLAYERS);
        match self.owned.get_mut(&player) {
            // Each player is one node's, and now and then somebody else wants it.
            None if (mine(&player) || random.chance(1, 20))
                && !self.open.values().any(|open| open.player == player) =>
            {
                let (key, incarnation) = (Key(player.into()), self.me);
                let reclaim = self.reclaim.get(&player).copied();
                let ask = Activate { key, generation: 0, incarnation, reclaim };
                asks.extend(self.begin(now, player, Want::Activate(ask)));
            }
            Some(owned) if !owned.busy && random.chance(1, 2) => {
                owned.busy = true;
                let steps = owned.steps + 1;
                let patch = Patch::from([("steps".to_owned(), Some(steps.to_le_bytes().to_vec()))]);
                let save = Save { claim: owned.claim, version: owned.version, patch };
                asks.extend(self.begin(now, player, Want::Save(save)));
            }
            Some(owned) if !owned.busy => {
                let claim = owned.claim;
                let other = random.below(PLAYERS);
                let (from, to) = (Key(player.into()), Key(other.into()));
                let [one, two] = [from, to].map(|key| self.place(Slot::of(key)).shard);
                let to = if one == two && player != other { to } else { Key(from.0 | 1 << 100) };
                let id = TxnId(u128::from(random.u64()) << 64 | u128::from(random.u64()));
                let (currency, amount) = (GOLD, 1 + random.below(3));
                let pay = LedgerOp::Pay { from, to, currency, amount };
                let mut txn = Transaction::new(id, 0).with(pay);
                txn.claims.push(claim);
                book.began(&txn);
                if let Some(owned) = self.owned.get_mut(&player) {
                    owned.busy = true;
                }
                asks.extend(self.begin(now, player, Want::Commit(Box::new(txn))));
            }
            _ => {}
        }
        asks
    }

    fn begin(&mut self, now: u64, player: u64, want: Want) -> Option<(u64, usize, Want)> {
        self.number += 1;
        let slot = Slot::of(Key(player.into()));
        let open = Open { player, slot, want, sent: 0, unsure: false, patience: 0, next: 0 };
        self.open.insert(self.number, open);
        self.send(now, self.number)
    }

    fn send(&mut self, now: u64, number: u64) -> Option<(u64, usize, Want)> {
        let slot = self.open.get(&number)?.slot;
        let shard = self.place(slot).shard;
        let generation = self.generations[shard];
        let open = self.open.get_mut(&number)?;
        open.sent = now;
        let mut want = open.want.clone();
        if let Want::Commit(txn) = &mut want {
            txn.generation = generation;
        }
        Some((number, shard, want))
    }

    pub fn hear(
        &mut self,
        now: u64,
        number: u64,
        shard: usize,
        reply: Reply,
        book: &mut Book,
    ) -> Asks {
        if let Reply::Generation(Ok(generation)) = reply {
            self.generations[shard] = self.generations[shard].max(generation);
            return Vec::new();
        }
        if let Reply::Slots(Ok(SlotTold::Shard(info))) = reply {
            self.learn(shard, &info);
            return Vec::new();
        }
        let Some(open) = self.open.get(&number) else { return Vec::new() };
        let (slot, player) = (open.slot, open.player);
        let error = match &reply {
            Reply::Activated(Err(error)) => Some(error.clone()),
            Reply::Saved(Err(error)) => Some(error.clone()),
            Reply::Committed(Err(error)) => Some(error.clone()),
            Reply::LookedUp(Err(error)) => Some(error.clone()),
            _ => None,
        };
        match error {
            Some(error @ (Error::Moved { .. } | Error::Moving { .. })) => {
                self.redirect(now, number, shard, slot, &error, book)
            }
            Some(Error::Generation { .. }) => {
                // It is taken anew; what is under way is asked for until its outcome is known.
                self.owned.remove(&player);
                let mut asks = vec![(0, shard, Want::Generation)];
                let open = self.open.get_mut(&number);
                match open.map(|open| (&open.want, open.unsure)) {
                    Some((Want::Commit(txn), true)) => {
                        // Whether an earlier try was done: there is no later one.
                        let id = txn.id;
                        self.open.entry(number).and_modify(|open| open.want = Want::LookUp(id));
                        asks.extend(self.send(now, number));
                    }
                    _ => drop(self.open.remove(&number)),
                }
                asks
            }
            _ => {
                self.settle(number, player, reply, book);
                Vec::new()
            }
        }
    }

    fn redirect(
        &mut self,
        now: u64,
        number: u64,
        shard: usize,
        slot: Slot,
        error: &Error,
        book: &mut Book,
    ) -> Asks {
        let of = match error {
            Error::Moved { slot, .. } | Error::Moving { slot, .. } => *slot,
            _ => slot,
        };
        self.part(number, slot, of);
        let place = self.place(of);
        let mut asks = Vec::new();
        match error {
            Error::Moved { to, version, token, generation, .. } => {
                book.redirected += 1;
                if let Some(shard) = SHARDS.iter().position(|name| name == to)
                    && *version > place.version
                {
                    let moved = Some((*token, *generation));
                    self.map.insert(of, Place { shard, version: *version, moved });
                    asks.extend(self.send(now, number));
                    return asks;
                }
                if to.is_empty() || place.shard == shard {
                    asks.extend(ask_all());
                }
            }
            Error::Moving { token, is_arriving: true, .. } => {
                book.taken_over += 1;
                match place.moved.filter(|(by, _)| by == token) {
                    Some((_, generation)) => {
                        let slots = vec![(of, place.version, generation)];
                        let ask = SlotAsk::Arrive { slots, token: *token };
                        asks.push((0, shard, Want::Slots(ask)));
                    }
                    // It is not the one that the last shard spoke of.
                    None => asks.extend(ask_all()),
                }
            }
            Error::Moving { token, .. } => {
                let open = self.open.get_mut(&number).expect("it was just there");
                open.patience += 1;
                if open.patience.is_multiple_of(PATIENCE) {
                    book.thawed += 1;
                    let ask = SlotAsk::Thaw { slots: vec![of], token: *token };
                    asks.push((0, shard, Want::Slots(ask)));
                }
            }
            _ => {}
        }
        if let Some(open) = self.open.get_mut(&number) {
            open.next = now + 100;
            open.sent = 0;
        }
        asks
    }

    /// Takes in what a shard has. What it gave up to one that does not serve it yet is taken over.
    fn learn(&mut self, shard: usize, info: &ShardInfo) {
        for slot in &info.slots {
            let place = self.place(slot.slot);
            let to = SHARDS.iter().position(|name| *name == slot.peer);
            if slot.state.is_here() && slot.version >= place.version {
                let (version, moved) = (slot.version, None);
                self.map.insert(slot.slot, Place { shard, version, moved });
            } else if let (SlotState::Gone | SlotState::Cleaned, Some(to)) = (slot.state, to)
                && slot.version > place.version
            {
                let (version, moved) = (slot.version, Some((slot.token, slot.offset)));
                self.map.insert(slot.slot, Place { shard: to, version, moved });
            }
        }
    }

    /// A deal whose other side is in another shard by now is not to be done any more; it may have
    /// been.
    fn part(&mut self, number: u64, slot: Slot, of: Slot) {
        if of != slot
            && self.place(of).shard != self.place(slot).shard
            && let Some(open) = self.open.get_mut(&number)
            && let Want::Commit(txn) = &open.want
        {
            open.want = Want::LookUp(txn.id);
        }
    }

    /// The end of a request.
    fn settle(&mut self, number: u64, player: u64, reply: Reply, book: &mut Book) {
        let Some(open) = self.open.remove(&number) else { return };
        match (reply, open.want) {
            (Reply::Activated(Ok(taken)), _) => {
                self.reclaim.insert(player, taken.claim.epoch);
                let steps = taken.documents.get("steps").map_or(0, |bytes| {
                    u64::from_le_bytes(bytes.as_slice().try_into().expect("eight bytes"))
                });
                book.taken(player, &taken.claim, taken.version, steps);
                let (claim, version) = (taken.claim, taken.version);
                self.owned.insert(player, Owned { claim, version, steps, busy: false });
                if self.calm {
                    self.reached.insert(player, steps);
                }
            }
            (Reply::Activated(Err(Error::Owned { owner, .. })), _) => {
                if owner.incarnation == self.me {
                    self.reclaim.insert(player, owner.epoch);
                } else if self.calm {
                    // It has one that lives: that is enough.
                    self.reached.insert(player, 0);
                }
            }
            (Reply::Saved(Ok(version)), Want::Save(save)) => {
                let steps = save.patch["steps"].as_deref().expect("it is put");
                let steps = u64::from_le_bytes(steps.try_into().expect("eight bytes"));
                book.saved(player, &save.claim, version, steps);
                if let Some(owned) = self.of_claim(player, &save.claim) {
                    (owned.version, owned.steps, owned.busy) = (version, steps, false);
                }
            }
            // An earlier try was done, or somebody else has it: it is read anew.
            (Reply::Saved(Err(Error::Conflict { current, .. })), Want::Save(save))
                if open.unsure && current == save.version + 1 =>
            {
                self.settle_again(number, player, save, current, book);
            }
            (Reply::Committed(Ok(receipt)), _) => {
                book.acknowledged(receipt.id);
                self.free(player);
            }
            (Reply::LookedUp(Ok(found)), _) => {
                found.into_iter().for_each(|receipt| book.acknowledged(receipt.id));
                self.free(player);
            }
            (Reply::Committed(Err(Error::Refused(_) | Error::AcrossShards { .. })), _) => {
                self.free(player);
            }
            _ => drop(self.owned.remove(&player)),
        }
    }

    fn settle_again(
        &mut self,
        number: u64,
        player: u64,
        save: Save,
        version: u64,
        book: &mut Book,
    ) {
        let open = Open {
            player,
            slot: Slot::of(Key(player.into())),
            want: Want::Save(save),
            sent: 0,
            unsure: false,
            patience: 0,
            next: 0,
        };
        self.open.insert(number, open);
        self.settle(number, player, Reply::Saved(Ok(version)), book);
    }

    fn of_claim(&mut self, player: u64, claim: &Claim) -> Option<&mut Owned> {
        self.owned.get_mut(&player).filter(|owned| owned.claim == *claim)
    }

    fn free(&mut self, player: u64) {
        if let Some(owned) = self.owned.get_mut(&player) {
            owned.busy = false;
        }
    }

    /// In the calm it reached all its players.
    pub fn judge(&self, book: &mut Book) {
        for player in (0..PLAYERS).filter(|player| *player as usize % 3 == self.at) {
            if !self.owned.contains_key(&player) && !self.reached.contains_key(&player) {
                let slot = Slot::of(Key(player.into()));
                let open = self.open.values().filter(|open| open.player == player);
                let open: Vec<_> = open.map(|open| (&open.want, open.next)).collect();
                let at = (self.at, self.place(slot).shard, &open, self.open.len());
                book.violation(format!("player {player} was never reached: {at:?}"));
            }
        }
    }
}
