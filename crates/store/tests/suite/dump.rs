//! Copies of a whole store, from any backend into any other.

use std::io::{self, Cursor, Read, Seek, SeekFrom};

use store::dump::check;
use store::*;

use crate::conformance::A;
use crate::folder::Folder;

const GOLD: Currency = Currency(1);

/// Entities, balances, items, messages and a dead node.
fn fill(store: &Store) {
    fill_some(store, 40);
}

fn fill_some(store: &Store, entities: u128) {
    let generation = store.beat(A).wait().unwrap().generation;
    for key in 1..=entities {
        let ask = Activate { key: Key(key), generation, incarnation: A, reclaim: None };
        let claim = store.activate(ask).wait().unwrap().claim;
        let patch = Patch::from([("self".to_owned(), Some(vec![key as u8; 90]))]);
        let mut txn = Transaction::new(TxnId(key), generation);
        txn.writes = vec![Save { claim, version: 0, patch }];
        txn.messages = vec![Message { topic: "news".to_owned(), body: vec![1, 2, 3] }];
        let data = vec![key as u8; 20];
        let make = LedgerOp::Make { item: ItemId(key), kind: ItemKind(3), holder: Key(key), data };
        let mint = LedgerOp::Mint { holder: Key(key), currency: GOLD, amount: 5 };
        store.commit(txn.with(make).with(mint)).wait().unwrap();
    }
    store.mark_dead(A, 1).wait().unwrap();
}

fn copy(store: &Store) -> (Vec<u8>, DumpSummary) {
    let mut bytes = Vec::new();
    let summary = store.export(&mut bytes, 77).unwrap();
    (bytes, summary)
}

/// What a reader of the store sees.
fn seen(store: &Store) -> String {
    let verdict = store.verify().wait().unwrap();
    assert_eq!(verdict.faults, Vec::<String>::new());
    let audit = store.audit(0, usize::MAX).wait().unwrap();
    let outbox = store.outbox(0, usize::MAX).wait().unwrap();
    let entity = store.load(Key(7)).wait().unwrap();
    let held = store.holdings(Key(7)).wait().unwrap();
    let receipt = store.lookup(TxnId(9)).wait().unwrap();
    let node = store.node(A).wait().unwrap();
    format!("{verdict:?} {audit:?} {outbox:?} {entity:?} {held:?} {receipt:?} {node:?}")
}

/// Every backend that is built in, empty.
fn backends(folder: &Folder) -> Vec<Store> {
    let options = Options::default;
    vec![
        Store::memory(Limits::default()),
        Store::embedded(folder.file(), options()).unwrap(),
        #[cfg(feature = "sqlite")]
        Store::sqlite(folder.file().with_extension("sqlite"), options()).unwrap(),
    ]
}

#[test]
fn a_copy_goes_from_any_backend_into_any_other() {
    let folder = Folder::new("dump");
    let mut from = backends(&folder);
    fill(&from[0]);
    let (bytes, summary) = copy(&from[0]);
    assert_eq!(summary.rows["entity"], 40);
    for store in &from[1..] {
        assert_eq!(store.import(&mut Cursor::new(&bytes), false).unwrap(), summary);
    }
    let expected = seen(&from[0]);
    for store in from.drain(..) {
        assert_eq!(seen(&store), expected);
        let (again, same) = copy(&store);
        assert!(again == bytes && same == summary, "{store:?} gives another copy");
        let back = Folder::new("dump-back");
        for target in backends(&back) {
            target.import(&mut Cursor::new(&bytes), false).unwrap();
            assert_eq!(seen(&target), expected, "{store:?} to {target:?}");
        }
    }
}

#[test]
fn a_store_that_holds_something_is_replaced_only_if_told() {
    let (source, target) = (Store::memory(Limits::default()), Store::memory(Limits::default()));
    fill(&source);
    let (bytes, _) = copy(&source);
    let mint = LedgerOp::Mint { holder: Key(99), currency: Currency(2), amount: 1 };
    target.commit(Transaction::new(TxnId(1), 1).with(mint)).wait().unwrap();
    let before = copy(&target).0;
    let refused = target.import(&mut Cursor::new(&bytes), false);
    assert!(matches!(refused, Err(DumpError::NotEmpty)), "{refused:?}");
    assert_eq!(copy(&target).0, before);
    target.import(&mut Cursor::new(&bytes), true).unwrap();
    assert_eq!(seen(&target), seen(&source));
}

#[test]
fn a_truncated_or_changed_copy_is_refused_before_anything_is_written() {
    let source = Store::memory(Limits::default());
    fill_some(&source, 8);
    let (bytes, _) = copy(&source);
    let target = Store::memory(Limits::default());
    let untouched = copy(&target).0;
    let mut random = env::Random::from_seed(5);
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << random.below(8);
        let flipped = check(&mut changed.as_slice());
        assert!(flipped.is_err(), "a flip at {at} was taken: {flipped:?}");
        assert!(check(&mut &bytes[..at]).is_err(), "cut at {at}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(check(&mut longer.as_slice()).is_err());
    for wrong in [&bytes[..bytes.len() - 1], b"", b"SQLite format 3\0 and so on, long enough"] {
        assert!(target.import(&mut Cursor::new(wrong), true).is_err());
    }
    assert_eq!(copy(&target).0, untouched);
    let mut newer = bytes.clone();
    newer[8] = 2;
    let sum = crc32fast::hash(&newer[..28]);
    newer[28..32].copy_from_slice(&sum.to_le_bytes());
    let refused = check(&mut newer.as_slice()).unwrap_err().to_string();
    assert_eq!(refused, "it has copy format 2, this release knows up to 1");
}

/// A file whose disk fails at the second reading.
struct Failing<'f> {
    file: Cursor<&'f [u8]>,
    rewinds: u32,
    left: usize,
}

impl Read for Failing<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.rewinds > 0 {
            let most = bytes.len().min(self.left);
            if most == 0 {
                return Err(io::Error::other("the disk fails"));
            }
            self.left -= most;
            return self.file.read(&mut bytes[..most]);
        }
        self.file.read(bytes)
    }
}

impl Seek for Failing<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        if !matches!(to, SeekFrom::Current(0)) {
            self.rewinds += 1;
        }
        self.file.seek(to)
    }
}

#[test]
fn an_import_that_broke_off_keeps_nodes_away_until_it_is_repeated() {
    let source = Store::memory(Limits::default());
    fill(&source);
    // So that there are several blocks, and some of them are written.
    let generation = source.generation().wait().unwrap();
    let me = Incarnation(3);
    source.beat(me).wait().unwrap();
    for key in 1_000..1_008u128 {
        let ask = Activate { key: Key(key), generation, incarnation: me, reclaim: None };
        let claim = source.activate(ask).wait().unwrap().claim;
        let patch = Patch::from([("self".to_owned(), Some(vec![7; 500_000]))]);
        source.save(Save { claim, version: 0, patch }).wait().unwrap();
    }
    let (bytes, summary) = copy(&source);
    let target = Store::memory(Limits::default());
    for left in [1, 500_000, 3_000_000, bytes.len() - 1] {
        let mut file = Failing { file: Cursor::new(&bytes), rewinds: 0, left };
        let broken = target.import(&mut file, false);
        assert!(matches!(broken, Err(DumpError::Io(_))), "{broken:?}");
        let beat = target.beat(A).wait().unwrap_err().to_string();
        assert!(beat.contains("run the import again"), "{beat}");
    }
    assert_eq!(target.import(&mut Cursor::new(&bytes), false).unwrap(), summary);
    assert_eq!(copy(&target).0, bytes);
    assert!(target.beat(Incarnation(9)).wait().is_ok());
}

#[test]
fn a_row_that_cannot_be_read_is_not_copied() {
    let folder = Folder::new("dump-damaged");
    {
        let store = Store::embedded(folder.file(), Options::default()).unwrap();
        fill(&store);
    }
    let mut whole = std::fs::read(folder.file()).unwrap();
    let needle = [21u8; 90];
    let found = whole.windows(90).position(|bytes| bytes == needle).expect("the document is there");
    // Every place where the page stands, also of earlier commits.
    let mut from = found;
    while let Some(next) = whole[from..].windows(90).position(|bytes| bytes == needle) {
        whole[from + next + 5] ^= 4;
        from += next + 90;
    }
    std::fs::write(folder.file(), &whole).unwrap();
    let refused = std::panic::catch_unwind(|| {
        let store = Store::embedded(folder.file(), Options::default())?;
        store.export(&mut Vec::new(), 1).map_err(|error| match error {
            DumpError::Store(error) => {
                OpenError::Damaged { path: String::new(), reason: error.to_string() }
            }
            other => panic!("{other}"),
        })
    });
    assert!(!matches!(refused, Ok(Ok(_))), "a damaged row was copied");
}
