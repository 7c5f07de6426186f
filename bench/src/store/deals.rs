//! Transactions put straight to a store.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use env::Random;
use node::data::bury_all;
use store::{
    Activate, Claim, Currency, Error, Incarnation, Key, LedgerOp, Options, Patch, Receipt, Save,
    Store, Transaction, TxnId,
};

use super::player::BAG_BYTES;
use super::{Meter, Rate};

pub const IN_FLIGHT: usize = 8_192;
const PAIRS: usize = 16_384;
const GOLD: Currency = Currency(1);

/// What a transaction changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// A 200-byte sub-document of each of two entities.
    Documents,
    /// The balances of two holders: one pays the other.
    Balances,
}

impl Shape {
    /// The table of the rows it changes.
    pub fn table(self) -> &'static str {
        match self {
            Shape::Documents => "entity",
            Shape::Balances => "holder",
        }
    }
}

type Done = (usize, Result<Receipt, Error>);

/// Pairs that deal with each other, one transaction of each pair at a time.
pub struct Deals {
    store: Store,
    shape: Shape,
    /// How many transactions are in flight at once.
    pub in_flight: usize,
    generation: u64,
    /// Two for each pair; none where only balances move.
    claims: Vec<(Claim, u64)>,
    ready: VecDeque<usize>,
    random: Random,
    count: u64,
    done: Receiver<Done>,
    tell: Sender<Done>,
}

impl Deals {
    pub fn open(path: &Path, shape: Shape) -> anyhow::Result<Self> {
        Self::over(Store::embedded(path, Options::default())?, shape)
    }

    pub fn over(store: Store, shape: Shape) -> anyhow::Result<Self> {
        bury_all(&store)?;
        let mut random = Random::from_os();
        let me = Incarnation(random.u64());
        let generation = store.beat(me).wait()?.generation;
        let (tell, done) = channel();
        let mut ready: Vec<usize> = (0..PAIRS).collect();
        Random::from_seed(4).shuffle(&mut ready);
        let mut deals = Deals {
            store,
            shape,
            in_flight: IN_FLIGHT,
            generation,
            claims: Vec::new(),
            ready: ready.into(),
            random,
            count: 0,
            done,
            tell,
        };
        match shape {
            Shape::Documents => deals.take(me)?,
            Shape::Balances => deals.endow()?,
        }
        Ok(deals)
    }

    fn take(&mut self, incarnation: Incarnation) -> anyhow::Result<()> {
        let generation = self.generation;
        let ask = |n| Activate { key: key(n), generation, incarnation, reclaim: None };
        let asks: Vec<Activate> = (0..2 * PAIRS).map(ask).collect();
        for asks in asks.chunks(1_024) {
            for taken in self.store.activate_many(asks.to_vec()).wait()? {
                let taken = taken?;
                self.claims.push((taken.claim, taken.version));
            }
        }
        Ok(())
    }

    /// Gives everybody something to pay with.
    fn endow(&mut self) -> anyhow::Result<()> {
        let holders: Vec<usize> = (0..2 * PAIRS).collect();
        let mut answers = Vec::new();
        for holders in holders.chunks(64) {
            let mut txn = Transaction::new(self.id(), self.generation);
            for n in holders {
                let mint = LedgerOp::Mint { holder: key(*n), currency: GOLD, amount: 1 << 20 };
                txn = txn.with(mint);
            }
            answers.push(self.store.commit(txn));
        }
        for answer in answers {
            answer.wait()?;
        }
        Ok(())
    }

    /// Transactions done a second, from the first that is put to the last that is answered.
    pub fn run(&mut self, span: Duration) -> anyhow::Result<Rate> {
        let meter = Meter::begin();
        let (mut open, mut answered) = (0, 0u64);
        while open < self.in_flight {
            self.begin();
            open += 1;
        }
        while open > 0 {
            let (pair, result) = self.done.recv()?;
            let receipt = result?;
            open -= 1;
            answered += 1;
            for n in [2 * pair, 2 * pair + 1] {
                if let Some((claim, version)) = self.claims.get_mut(n) {
                    *version = receipt.versions[&claim.key];
                }
            }
            self.ready.push_back(pair);
            if meter.elapsed() < span {
                self.begin();
                open += 1;
            }
        }
        Ok(meter.rate(answered))
    }

    fn begin(&mut self) {
        let pair = self.ready.pop_front().expect("there are more pairs than may be in flight");
        let txn = self.transaction(pair);
        let tell = self.tell.clone();
        self.store.commit(txn).on_ready(move |result| {
            // Nobody hears the last ones of a run that failed.
            let _ = tell.send((pair, result));
        });
    }

    fn transaction(&mut self, pair: usize) -> Transaction {
        self.count += 1;
        let txn = Transaction::new(self.id(), self.generation);
        let (one, other) = (2 * pair, 2 * pair + 1);
        match self.shape {
            Shape::Documents => {
                let save = |n: usize| {
                    let (claim, version) = self.claims[n];
                    let bag = vec![self.count as u8; BAG_BYTES];
                    Save { claim, version, patch: Patch::from([("bag".to_owned(), Some(bag))]) }
                };
                let writes = vec![save(one), save(other)];
                Transaction { writes, ledgers: BTreeMap::new(), ..txn }
            }
            Shape::Balances => {
                let (from, to) =
                    if self.count.is_multiple_of(2) { (one, other) } else { (other, one) };
                let (from, to) = (key(from), key(to));
                txn.with(LedgerOp::Pay { from, to, currency: GOLD, amount: 1 })
            }
        }
    }

    fn id(&mut self) -> TxnId {
        TxnId(u128::from(self.random.u64()) << 64 | u128::from(self.random.u64()))
    }
}

/// Spread over the table, as the keys of those who happen to deal are.
fn key(n: usize) -> Key {
    let spread = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Key(1 << 64 | u128::from(spread))
}
