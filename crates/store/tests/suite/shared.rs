//! SQLite files: shared by several handles as by several processes, and refused when damaged.

use store::*;

use crate::conformance::{A, B};
use crate::folder::Folder;

const GOLD: Currency = Currency(1);
const BANK: Key = Key(1);

fn open(folder: &Folder) -> Store {
    Store::sqlite(folder.file(), Options::default()).unwrap()
}

#[test]
fn several_handles_share_one_file_and_lose_nothing() {
    let folder = Folder::new("shared");
    let stores: Vec<Store> = (0..3).map(|_| open(&folder)).collect();
    std::thread::scope(|scope| {
        for (number, store) in stores.iter().enumerate() {
            scope.spawn(move || {
                for step in 0..100 {
                    let id = TxnId(1 + number as u128 * 1_000 + step);
                    let mint = LedgerOp::Mint { holder: BANK, currency: GOLD, amount: 1 };
                    let txn = Transaction::new(id, 1).with(mint);
                    store.commit(txn).wait().unwrap();
                }
            });
        }
    });
    for store in &stores {
        assert_eq!(store.holdings(BANK).wait().unwrap().balances[&GOLD], 300);
        assert_eq!(store.verify().wait().unwrap().faults, Vec::<String>::new());
    }
}

#[test]
fn an_owner_behind_another_handle_is_respected() {
    let folder = Folder::new("shared");
    let (one, two) = (open(&folder), open(&folder));
    one.beat(A).wait().unwrap();
    two.beat(B).wait().unwrap();
    let ask = |incarnation| Activate { key: Key(7), generation: 1, incarnation, reclaim: None };
    let taken = one.activate(ask(A)).wait().unwrap();
    assert!(matches!(two.activate(ask(B)).wait(), Err(Error::Owned { .. })));
    two.mark_dead(A, 1).wait().unwrap();
    assert_eq!(two.activate(ask(B)).wait().unwrap().claim.epoch, 2);
    let patch = Patch::from([("bag".to_owned(), Some(vec![1]))]);
    let late = one.save(Save { claim: taken.claim, version: 0, patch }).wait();
    assert!(matches!(late, Err(Error::Fenced { .. })));
}

#[test]
fn empty_and_foreign_files_are_refused() {
    let folder = Folder::new("refused");
    std::fs::write(folder.file(), b"").unwrap();
    let empty = Store::sqlite(folder.file(), Options::default());
    assert!(matches!(empty, Err(OpenError::Empty(_))), "{empty:?}");
    std::fs::write(folder.file(), b"name = \"a file of another program\"\n".repeat(400)).unwrap();
    let foreign = Store::sqlite(folder.file(), Options::default());
    assert!(matches!(foreign, Err(OpenError::Damaged { .. })), "{foreign:?}");
    let missing = Store::sqlite(folder.file().join("deep"), Options::default());
    assert!(matches!(missing, Err(OpenError::Io { .. })), "{missing:?}");
    // And the other way round.
    let folder = Folder::new("refused");
    drop(open(&folder));
    let other = Store::embedded(folder.file(), Options::default());
    assert!(matches!(other, Err(OpenError::Damaged { .. })), "{other:?}");
}

#[test]
fn flipped_bits_are_never_served_as_rows() {
    let folder = Folder::new("flipped");
    let store = open(&folder);
    for id in 1..=40 {
        let make = LedgerOp::Make {
            item: ItemId(id),
            kind: ItemKind(1),
            holder: BANK,
            data: vec![0xab; 50],
        };
        store.commit(Transaction::new(TxnId(id), 1).with(make)).wait().unwrap();
    }
    let verdict = store.verify().wait().unwrap();
    drop(store);
    let whole = std::fs::read(folder.file()).unwrap();
    let mut random = env::Random::from_seed(5);
    let rows: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] != 0).collect();
    let mut found = 0;
    for _ in 0..60 {
        let mut bytes = whole.clone();
        let at = *random.pick(&rows).unwrap();
        bytes[at] ^= 1 << random.below(8);
        std::fs::write(folder.file(), &bytes).unwrap();
        let Ok(store) = Store::sqlite(folder.file(), Options::default()) else {
            found += 1;
            continue;
        };
        match store.verify().wait() {
            Ok(seen) if seen == verdict => {}
            Ok(seen) => {
                found += 1;
                assert_ne!(seen.faults, Vec::<String>::new(), "byte {at}");
            }
            Err(_) => found += 1,
        }
        drop(store);
        for ending in ["redb-wal", "redb-shm"] {
            let _ = std::fs::remove_file(folder.file().with_extension(ending));
        }
    }
    assert!(found >= 30, "only {found} of 60 flips were found");
}
