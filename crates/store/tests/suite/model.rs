//! Random operations on a shard and on a naive model of it, which must answer the same.

use std::collections::{BTreeMap, BTreeSet};

use env::Random;
use store::*;

use crate::folder::Folder;

/// What the shard should be, written down as simply as possible: an operation works on a copy, which
/// replaces the model if it succeeded.
#[derive(Debug, Clone, Default)]
struct Model {
    generation: u64,
    nodes: BTreeMap<Incarnation, (bool, u64)>,
    entities: BTreeMap<Key, Entity>,
    balances: BTreeMap<(Key, Currency), u64>,
    ledgers: BTreeMap<Key, u64>,
    items: BTreeMap<ItemId, Option<Key>>,
    done: Vec<(Transaction, Receipt)>,
}

#[derive(Debug, Clone)]
enum Op {
    Beat(Incarnation),
    MarkDead(Incarnation, u64),
    Raise(u64),
    Activate(Activate),
    Release(Claim, u64),
    Save(Save),
    Load(Key),
    Commit(Transaction),
    Lookup(TxnId),
    Holdings(Key),
}

#[derive(Debug, PartialEq)]
enum Said {
    Number(u64),
    Activated(Activated),
    Entity(Option<Entity>),
    Receipt(Option<Receipt>),
    Holdings(u64, BTreeMap<Currency, u64>, BTreeSet<ItemId>),
}

type Outcome = Result<Said, Error>;

impl Model {
    fn apply(&mut self, op: &Op) -> Outcome {
        let mut next = self.clone();
        let said = next.try_apply(op)?;
        *self = next;
        Ok(said)
    }

    fn try_apply(&mut self, op: &Op) -> Outcome {
        Ok(match op {
            Op::Beat(node) => {
                let (alive, beat) = self.nodes.entry(*node).or_insert((true, 0));
                if !*alive {
                    return Err(Error::Dead(*node));
                }
                *beat += 1;
                Said::Number(*beat)
            }
            Op::MarkDead(node, seen) => match self.nodes.get_mut(node) {
                None => return Err(Error::UnknownNode(*node)),
                Some((false, _)) => Said::Number(0),
                Some((alive, beat)) if beat == seen => {
                    *alive = false;
                    Said::Number(0)
                }
                Some(&mut (_, current)) => {
                    return Err(Error::BeatMoved { incarnation: *node, current });
                }
            },
            Op::Raise(current) => {
                self.at(*current)?;
                self.generation += 1;
                Said::Number(self.generation)
            }
            Op::Activate(ask) => Said::Activated(self.activate(ask)?),
            Op::Release(claim, version) => {
                self.claimed(claim, Some(*version))?.owner.released = true;
                Said::Number(0)
            }
            Op::Save(save) => Said::Number(self.save(save)?),
            Op::Load(key) => Said::Entity(self.entities.get(key).cloned()),
            Op::Commit(txn) => Said::Receipt(Some(self.commit(txn)?)),
            Op::Lookup(id) => Said::Receipt(self.receipt(*id).map(|(_, receipt)| receipt.clone())),
            Op::Holdings(key) => {
                let balances =
                    self.balances.iter().filter(|((of, _), amount)| of == key && **amount > 0);
                let items = self.items.iter().filter(|(_, holder)| **holder == Some(*key));
                Said::Holdings(
                    self.ledgers.get(key).copied().unwrap_or(0),
                    balances.map(|((_, currency), amount)| (*currency, *amount)).collect(),
                    items.map(|(item, _)| *item).collect(),
                )
            }
        })
    }

    fn at(&self, generation: u64) -> Result<(), Error> {
        let current = self.generation;
        if generation == current { Ok(()) } else { Err(Error::Generation { current }) }
    }

    fn receipt(&self, id: TxnId) -> Option<&(Transaction, Receipt)> {
        self.done.iter().find(|(txn, _)| txn.id == id)
    }

    fn activate(&mut self, ask: &Activate) -> Result<Activated, Error> {
        self.at(ask.generation)?;
        match self.nodes.get(&ask.incarnation) {
            None => return Err(Error::UnknownNode(ask.incarnation)),
            Some((false, _)) => return Err(Error::Dead(ask.incarnation)),
            Some((true, _)) => {}
        }
        let owner = Owner { epoch: 0, incarnation: ask.incarnation, released: true };
        let fresh = Entity { owner, version: 0, documents: Documents::new() };
        let entity = self.entities.entry(ask.key).or_insert(fresh);
        let owner = entity.owner;
        let orphan = self.nodes.get(&owner.incarnation).is_some_and(|(alive, _)| !alive);
        let own = owner.incarnation == ask.incarnation && ask.reclaim == Some(owner.epoch);
        if !(owner.released || orphan || own) {
            return Err(Error::Owned { key: ask.key, owner });
        }
        let epoch = owner.epoch + 1;
        entity.owner = Owner { epoch, incarnation: ask.incarnation, released: false };
        let Activate { key, generation, incarnation, .. } = *ask;
        let claim = Claim { key, generation, epoch, incarnation };
        Ok(Activated { claim, version: entity.version, documents: entity.documents.clone() })
    }

    fn claimed(&mut self, claim: &Claim, version: Option<u64>) -> Result<&mut Entity, Error> {
        self.at(claim.generation)?;
        let owner = Owner { epoch: claim.epoch, incarnation: claim.incarnation, released: false };
        let found = self.entities.get_mut(&claim.key);
        let fenced = |owner| Error::Fenced { key: claim.key, owner };
        let entity = found.ok_or(fenced(None))?;
        if entity.owner != owner {
            return Err(fenced(Some(entity.owner)));
        }
        if version.is_some_and(|version| version != entity.version) {
            return Err(Error::Conflict { key: claim.key, current: entity.version });
        }
        Ok(entity)
    }

    fn save(&mut self, save: &Save) -> Result<u64, Error> {
        let entity = self.claimed(&save.claim, Some(save.version))?;
        for (name, document) in &save.patch {
            entity.documents.remove(name);
            entity.documents.extend(document.clone().map(|document| (name.clone(), document)));
        }
        entity.version += 1;
        Ok(entity.version)
    }

    fn commit(&mut self, txn: &Transaction) -> Result<Receipt, Error> {
        let content = |txn: &Transaction| {
            let patches = txn.writes.iter().map(|write| (write.claim.key, write.patch.clone()));
            (patches.collect::<Vec<_>>(), txn.ops.clone(), txn.note.clone())
        };
        if let Some((first, receipt)) = self.receipt(txn.id) {
            let same = content(first) == content(txn);
            return if same { Ok(receipt.clone()) } else { Err(Error::TxnReused(txn.id)) };
        }
        self.at(txn.generation)?;
        for claim in &txn.claims {
            self.claimed(claim, None)?;
        }
        let mut versions = BTreeMap::new();
        for write in &txn.writes {
            versions.insert(write.claim.key, self.save(write)?);
        }
        for (&holder, version) in &txn.ledgers {
            let current = self.ledgers.get(&holder).copied().unwrap_or(0);
            if current != *version {
                return Err(Error::LedgerMoved { holder, current });
            }
        }
        let (mut holders, mut moved) = (BTreeSet::new(), BTreeSet::new());
        for op in &txn.ops {
            self.step(op, &mut holders, &mut moved)?;
        }
        let mut ledgers = BTreeMap::new();
        for holder in holders {
            let version = self.ledgers.entry(holder).or_default();
            *version += 1;
            ledgers.insert(holder, *version);
        }
        let balances = moved.into_iter().map(|of| (of, self.balances[&of])).collect();
        let sequence = self.done.len() as u64 + 1;
        let receipt = Receipt { id: txn.id, sequence, versions, ledgers, balances };
        self.done.push((txn.clone(), receipt.clone()));
        Ok(receipt)
    }

    fn step(
        &mut self,
        op: &LedgerOp,
        holders: &mut BTreeSet<Key>,
        moved: &mut BTreeSet<(Key, Currency)>,
    ) -> Result<(), Error> {
        let (from, to, currency, amount) = match *op {
            LedgerOp::Mint { holder, currency, amount } => (None, Some(holder), currency, amount),
            LedgerOp::Burn { holder, currency, amount }
            | LedgerOp::Send { holder, currency, amount } => (Some(holder), None, currency, amount),
            LedgerOp::Receive { holder, currency, amount } => {
                (None, Some(holder), currency, amount)
            }
            LedgerOp::SendItem { .. } | LedgerOp::ReceiveItem { .. } => {
                unreachable!("they are not drawn")
            }
            LedgerOp::Pay { from, to, currency, amount } => {
                (Some(from), Some(to), currency, amount)
            }
            LedgerOp::Make { item, holder, .. } => {
                if self.items.contains_key(&item) {
                    return Err(Refusal::ItemExists(item).into());
                }
                self.items.insert(item, Some(holder));
                holders.insert(holder);
                return Ok(());
            }
            LedgerOp::Move { item, from, to } => return self.hand(item, from, Some(to), holders),
            LedgerOp::Change { item, holder, .. } => {
                return self.hand(item, holder, Some(holder), holders);
            }
            LedgerOp::Destroy { item, holder } => return self.hand(item, holder, None, holders),
        };
        if let Some(holder) = from {
            let balance = self.balances.entry((holder, currency)).or_default();
            let (has, needs) = (*balance, amount);
            *balance = has.checked_sub(needs).ok_or(Refusal::Insufficient {
                holder,
                currency,
                has,
                needs,
            })?;
        }
        if let Some(holder) = to {
            let balance = self.balances.entry((holder, currency)).or_default();
            let sum = balance.checked_add(amount);
            *balance = sum.ok_or(Refusal::Overflow { holder, currency })?;
        }
        for holder in [from, to].into_iter().flatten() {
            holders.insert(holder);
            moved.insert((holder, currency));
        }
        Ok(())
    }

    fn hand(
        &mut self,
        item: ItemId,
        from: Key,
        to: Option<Key>,
        holders: &mut BTreeSet<Key>,
    ) -> Result<(), Error> {
        if self.items.get(&item) != Some(&Some(from)) {
            return Err(Refusal::NotHeld { item, holder: from }.into());
        }
        self.items.insert(item, to);
        holders.extend([Some(from), to].into_iter().flatten());
        Ok(())
    }
}

/// Draws operations that succeed about as often as not.
struct Draw {
    random: Random,
    claims: Vec<Claim>,
    tried: Vec<Transaction>,
}

impl Draw {
    fn key(&mut self) -> Key {
        Key(u128::from(self.random.below(4)))
    }

    fn node(&mut self) -> Incarnation {
        Incarnation(self.random.below(4))
    }

    fn near(&mut self, n: u64) -> u64 {
        if self.random.chance(1, 8) {
            n.wrapping_add(self.random.below(3)).saturating_sub(1)
        } else {
            n
        }
    }

    fn claim(&mut self) -> Claim {
        let key = self.key();
        let node = self.node();
        // Mostly a recent one.
        let back = self.random.below(1 + self.claims.len().min(6) as u64) as usize;
        let known = self.claims.len().checked_sub(1 + back).map(|at| self.claims[at]);
        let made_up = Claim { key, generation: 1, epoch: 1, incarnation: node };
        known.filter(|_| self.random.chance(19, 20)).unwrap_or(made_up)
    }

    fn save(&mut self, model: &Model) -> Save {
        let claim = self.claim();
        let version = model.entities.get(&claim.key).map_or(0, |entity| entity.version);
        let version = self.near(version);
        let name = ["bag", "pet", "quest"][self.random.index(3)].to_owned();
        let document = self.random.chance(3, 4).then(|| self.random.bytes::<4>().to_vec());
        Save { claim, version, patch: Patch::from([(name, document)]) }
    }

    fn ledger_op(&mut self) -> LedgerOp {
        let (holder, to, item) = (self.key(), self.key(), ItemId(self.random.below(12).into()));
        let (currency, amount) = (Currency(self.random.u32() % 2), 1 + self.random.below(9));
        match self.random.below(18) {
            16 => LedgerOp::Send { holder, currency, amount },
            17 => LedgerOp::Receive { holder, currency, amount },
            0 => LedgerOp::Mint { holder, currency, amount: u64::MAX },
            1..=4 => LedgerOp::Mint { holder, currency, amount: amount * 3 },
            5 => LedgerOp::Burn { holder, currency, amount },
            6..=9 => LedgerOp::Pay { from: holder, to, currency, amount },
            10..=11 => LedgerOp::Make { item, kind: ItemKind(1), holder, data: vec![1] },
            12..=13 => LedgerOp::Move { item, from: holder, to },
            14 => LedgerOp::Change { item, holder, data: vec![2] },
            _ => LedgerOp::Destroy { item, holder },
        }
    }

    fn txn(&mut self, model: &Model) -> Transaction {
        if !self.tried.is_empty() && self.random.chance(1, 4) {
            let mut again = self.random.pick(&self.tried).unwrap().clone();
            again.generation = model.generation;
            if self.random.chance(1, 4) {
                again.note.push('?');
            }
            return again;
        }
        let mut txn = Transaction::new(TxnId(self.random.below(1_000).into()), model.generation);
        txn.generation = self.near(txn.generation);
        for _ in 0..self.random.below(3) {
            let save = self.save(model);
            if txn.writes.iter().all(|write| write.claim.key != save.claim.key) {
                txn.writes.push(save);
            }
        }
        let claim = self.claim();
        if self.random.chance(1, 3) && txn.writes.iter().all(|write| write.claim.key != claim.key) {
            txn.claims.push(claim);
        }
        if self.random.chance(1, 3) {
            let holder = self.key();
            let version = model.ledgers.get(&holder).copied().unwrap_or(0);
            txn.ledgers.insert(holder, self.near(version));
        }
        txn.ops = (0..self.random.below(4)).map(|_| self.ledger_op()).collect();
        self.tried.push(txn.clone());
        txn
    }

    fn op(&mut self, model: &Model) -> Op {
        let node = self.node();
        match self.random.below(40) {
            0..=4 => Op::Beat(node),
            5 if self.random.chance(1, 2) => {
                // One node never dies, so that there is always somebody to go on.
                let node = Incarnation(node.0 % 3);
                let beat = model.nodes.get(&node).map_or(0, |(_, beat)| *beat);
                Op::MarkDead(node, if self.random.chance(1, 3) { beat } else { beat + 1 })
            }
            6 if self.random.chance(1, 4) => {
                let near = self.near(model.generation);
                Op::Raise(self.near(near))
            }
            5..=13 => {
                let key = self.key();
                let epoch = model.entities.get(&key).map(|entity| entity.owner.epoch);
                let reclaim = epoch.filter(|_| self.random.chance(1, 2));
                let generation = self.near(model.generation);
                Op::Activate(Activate { key, generation, incarnation: node, reclaim })
            }
            14..=15 => {
                let claim = self.claim();
                let version = model.entities.get(&claim.key).map_or(0, |entity| entity.version);
                Op::Release(claim, self.near(version))
            }
            16..=22 => Op::Save(self.save(model)),
            23..=24 => Op::Load(self.key()),
            25 => Op::Lookup(TxnId(self.random.below(1_000).into())),
            26..=27 => Op::Holdings(self.key()),
            _ => Op::Commit(self.txn(model)),
        }
    }
}

fn ask_shard(shard: &mut Shard, op: &Op) -> Outcome {
    match op {
        Op::Beat(node) => shard.beat(*node).map(|pulse| Said::Number(pulse.beat)),
        Op::MarkDead(node, beat) => shard.mark_dead(*node, *beat).map(|()| Said::Number(0)),
        Op::Raise(current) => shard.raise_generation(*current).map(Said::Number),
        Op::Activate(ask) => shard.activate(ask).map(Said::Activated),
        Op::Release(claim, version) => shard.release(claim, *version).map(|()| Said::Number(0)),
        Op::Save(save) => shard.save(save).map(Said::Number),
        Op::Load(key) => shard.load(*key).map(Said::Entity),
        Op::Commit(txn) => shard.commit(txn).map(|receipt| Said::Receipt(Some(receipt))),
        Op::Lookup(id) => shard.lookup(*id).map(Said::Receipt),
        Op::Holdings(key) => shard.holdings(*key).map(held),
    }
}

/// Asks without waiting; the closure waits for the answer.
fn ask_store(store: &Store, op: &Op) -> Box<dyn FnOnce() -> Outcome> {
    fn later<T: 'static>(answer: Answer<T>, say: fn(T) -> Said) -> Box<dyn FnOnce() -> Outcome> {
        Box::new(move || answer.wait().map(say))
    }
    match op {
        Op::Beat(node) => later(store.beat(*node), |pulse| Said::Number(pulse.beat)),
        Op::MarkDead(node, beat) => later(store.mark_dead(*node, *beat), |()| Said::Number(0)),
        Op::Raise(current) => later(store.raise_generation(*current), Said::Number),
        Op::Activate(ask) => later(store.activate(*ask), Said::Activated),
        Op::Release(claim, version) => later(store.release(*claim, *version), |()| Said::Number(0)),
        Op::Save(save) => later(store.save(save.clone()), Said::Number),
        Op::Load(key) => later(store.load(*key), Said::Entity),
        Op::Commit(txn) => later(store.commit(txn.clone()), |r| Said::Receipt(Some(r))),
        Op::Lookup(id) => later(store.lookup(*id), Said::Receipt),
        Op::Holdings(key) => later(store.holdings(*key), held),
    }
}

fn held(holdings: Holdings) -> Said {
    let items = holdings.items.into_keys().collect();
    Said::Holdings(holdings.version, holdings.balances, items)
}

/// Draws operations and what the model says of each.
fn script(seed: u64, ops: usize) -> Vec<(Op, Outcome)> {
    let mut model = Model { generation: 1, ..Model::default() };
    let random = Random::from_seed(seed);
    let mut draw = Draw { random, claims: Vec::new(), tried: Vec::new() };
    let mut step = || {
        let op = draw.op(&model);
        let outcome = model.apply(&op);
        if let Ok(Said::Activated(taken)) = &outcome {
            draw.claims.push(taken.claim);
        }
        (op, outcome)
    };
    (0..ops).map(|_| step()).collect()
}

fn compare(seed: u64, at: usize, op: &Op, expected: &Outcome, got: &Outcome) {
    assert!(
        expected == got,
        "seed {seed}, operation {at}: {op:?}\nmodel: {expected:?}\nstore: {got:?}"
    );
}

#[test]
fn shard_answers_as_the_model_does() {
    let mut outcomes = BTreeMap::<_, u32>::new();
    for seed in 0..100 {
        let mut shard = Shard::new(Limits::default());
        for (at, (op, expected)) in script(seed, 400).iter().enumerate() {
            let got = ask_shard(&mut shard, op);
            compare(seed, at, op, expected, &got);
            *outcomes.entry((word(op), got.map_or_else(word, |_| "Ok".to_owned()))).or_default() +=
                1;
        }
        assert_eq!(shard.verify().unwrap().faults, Vec::<String>::new(), "seed {seed}");
    }
    // A weak script would prove nothing: what can be refused was, and what can succeed did.
    let kinds = [
        ("Beat", "Ok Dead"),
        ("MarkDead", "Ok BeatMoved UnknownNode"),
        ("Raise", "Ok Generation"),
        ("Activate", "Ok Owned Dead UnknownNode Generation"),
        ("Release", "Ok Fenced Conflict Generation"),
        ("Save", "Ok Fenced Conflict Generation"),
        ("Commit", "Ok Fenced Conflict Generation LedgerMoved Refused TxnReused"),
    ];
    for (op, answers) in kinds {
        for answer in answers.split(' ') {
            let seen = outcomes.get(&(op.to_owned(), answer.to_owned())).copied().unwrap_or(0);
            assert!(seen >= 20, "{op} was answered {answer} {seen} times: {outcomes:#?}");
        }
    }
}

/// The first word of how something is shown: its variant.
fn word(of: impl std::fmt::Debug) -> String {
    format!("{of:?}").split(['(', ' ']).next().unwrap_or_default().to_owned()
}

#[test]
fn embedded_store_answers_as_the_model_does() {
    answers_as_the_model_does(|path, options| Store::embedded(path, options).unwrap());
}

#[cfg(feature = "sqlite")]
#[test]
fn sqlite_store_answers_as_the_model_does() {
    answers_as_the_model_does(|path, options| Store::sqlite(path, options).unwrap());
}

fn answers_as_the_model_does(open: fn(std::path::PathBuf, Options) -> Store) {
    for seed in 1_000..1_004 {
        let folder = Folder::new("model");
        let options = Options { batch_ops_max: 8, ..Options::default() };
        for (part, ops) in script(seed, 600).chunks(150).enumerate() {
            // Each part goes on in a store that was closed and opened.
            let store = open(folder.file(), options.clone());
            let answers: Vec<_> = ops.iter().map(|(op, _)| ask_store(&store, op)).collect();
            for (at, ((op, expected), answer)) in ops.iter().zip(answers).enumerate() {
                compare(seed, part * 150 + at, op, expected, &answer());
            }
            assert_eq!(store.verify().wait().unwrap().faults, Vec::<String>::new());
        }
    }
}
