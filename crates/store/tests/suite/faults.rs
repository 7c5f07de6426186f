//! Files that are not what they should be, and queues that are full.

use store::*;

use crate::folder::Folder;

fn filled(folder: &Folder) -> Verdict {
    let store = Store::embedded(folder.file(), Options::default()).unwrap();
    for id in 1..=50u128 {
        let data = vec![id as u8; 300];
        let make = LedgerOp::Make { item: ItemId(id), kind: ItemKind(1), holder: Key(2), data };
        drop(store.commit(Transaction::new(TxnId(id), 1).with(make)));
    }
    store.verify().wait().unwrap();
    drop(store);
    let store = Store::embedded(folder.file(), Options::default()).unwrap();
    store.verify().wait().unwrap()
}

#[test]
fn a_second_opener_is_told() {
    let folder = Folder::new("second");
    let store = Store::embedded(folder.file(), Options::default()).unwrap();
    let second = Store::embedded(folder.file(), Options::default());
    assert!(matches!(second, Err(OpenError::InUse(_))), "{second:?}");
    drop(store);
    assert!(Store::embedded(folder.file(), Options::default()).is_ok());
}

#[test]
fn truncated_and_foreign_files_are_refused() {
    let folder = Folder::new("truncated");
    let verdict = filled(&folder);
    assert_eq!(verdict.faults, Vec::<String>::new());
    let whole = std::fs::read(folder.file()).unwrap();
    std::fs::write(folder.file(), b"").unwrap();
    let empty = Store::embedded(folder.file(), Options::default());
    assert!(matches!(empty, Err(OpenError::Empty(_))), "{empty:?}");
    std::fs::write(folder.file(), b"name = \"a file of another program\"\n".repeat(400)).unwrap();
    let foreign = Store::embedded(folder.file(), Options::default());
    assert!(matches!(foreign, Err(OpenError::Damaged { .. })), "{foreign:?}");
    std::fs::write(folder.file(), &whole[..whole.len() / 2]).unwrap();
    // The library below asserts some of this in debug builds; either way nothing is served.
    let half = std::panic::catch_unwind(|| Store::embedded(folder.file(), Options::default()));
    assert!(!matches!(half, Ok(Ok(_))));
    std::fs::write(folder.file(), &whole).unwrap();
    let store = Store::embedded(folder.file(), Options::default()).unwrap();
    assert_eq!(store.verify().wait(), Ok(verdict));
    let missing = Store::embedded(folder.file().join("deep"), Options::default());
    assert!(matches!(missing, Err(OpenError::Io { .. })), "{missing:?}");
}

#[test]
fn flipped_bits_are_found_or_harmless() {
    let folder = Folder::new("flipped");
    let verdict = filled(&folder);
    let whole = std::fs::read(folder.file()).unwrap();
    let mut random = env::Random::from_seed(3);
    // Where the rows' bytes stand, so that most flips hit something.
    let rows: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] != 0).collect();
    let mut found = 0;
    for _ in 0..60 {
        let mut bytes = whole.clone();
        let at = *random.pick(&rows).unwrap();
        bytes[at] ^= 1 << random.below(8);
        std::fs::write(folder.file(), &bytes).unwrap();
        let served = std::panic::catch_unwind(|| {
            let store = Store::embedded(folder.file(), Options::default()).map_err(drop)?;
            store.verify().wait().map_err(drop)
        });
        match served {
            Ok(Ok(seen)) if seen == verdict => {}
            Ok(Ok(seen)) => {
                assert!(!seen.faults.is_empty(), "a flip at {at} was served: {seen:?}");
                found += 1;
            }
            Ok(Err(())) | Err(_) => found += 1,
        }
    }
    assert!(found > 10, "only {found} of 60 flips hit anything");
}
