//! A balance that grows by one with each commit, so that none can be lost or done twice unnoticed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use store::*;

use crate::database::patiently;

const GOLD: Currency = Currency(1);
const BANK: Key = Key(1);
/// Nothing that is waited for takes so long but by a fault.
const PATIENCE: Duration = Duration::from_secs(90);

pub fn mint(id: u128) -> Transaction {
    let mint = LedgerOp::Mint { holder: BANK, currency: GOLD, amount: 1 };
    Transaction::new(TxnId(id), 1).with(mint)
}

pub fn gold(store: &Store) -> u64 {
    let holdings = patiently(|| store.holdings(BANK).wait()).unwrap();
    holdings.balances.get(&GOLD).copied().unwrap_or(0)
}

/// Commits by all stores, one after the other in each, while `meanwhile` runs, which is given a
/// function that waits for so many more of them. All that was acknowledged is there in the end, once.
pub fn commits_meanwhile(stores: &[Store], meanwhile: impl FnOnce(&dyn Fn(u64))) {
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let done: Vec<Vec<u128>> = std::thread::scope(|scope| {
        let workers = stores.iter().enumerate().map(|(number, store)| {
            let (stop, acknowledged) = (&stop, &acknowledged);
            scope.spawn(move || {
                let mut done = Vec::new();
                for step in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let id = 1 + number as u128 * 1_000_000 + step;
                    match patiently(|| store.commit(mint(id)).wait()) {
                        Ok(_) => done.push(id),
                        Err(Error::Unknown(_)) => {
                            let known = patiently(|| store.lookup(TxnId(id)).wait()).unwrap();
                            done.extend(known.map(|receipt| receipt.id.0));
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                done
            })
        });
        let workers: Vec<_> = workers.collect();
        meanwhile(&|count| {
            let (before, begun) = (acknowledged.load(Ordering::Relaxed), Instant::now());
            while acknowledged.load(Ordering::Relaxed) < before + count {
                assert!(begun.elapsed() < PATIENCE, "nobody is answered");
                std::thread::yield_now();
            }
        });
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let done: Vec<u128> = done.into_iter().flatten().collect();
    let store = &stores[0];
    assert_eq!(gold(store), done.len() as u64);
    for id in done {
        assert!(store.lookup(TxnId(id)).wait().unwrap().is_some(), "{id} was acknowledged");
    }
    assert_eq!(store.verify().wait().unwrap().faults, Vec::<String>::new());
}
