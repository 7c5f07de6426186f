//! Files of a store that are cut at every kind of place: refused, or what is served is whole.

use std::path::{Path, PathBuf};

use store::*;

use crate::conformance::A;
use crate::folder::Folder;

const GOLD: Currency = Currency(1);
const COMMITS: u128 = 40;

type OpenFn = fn(&Path) -> Result<Store, OpenError>;

fn embedded(path: &Path) -> Result<Store, OpenError> {
    Store::embedded(path, Options::default())
}

/// Commits one after the other, each durable before the next: gold and an item, and a document.
fn fill(store: &Store) {
    let generation = store.beat(A).wait().unwrap().generation;
    for id in 1..=COMMITS {
        let ask = Activate { key: Key(id), generation, incarnation: A, reclaim: None };
        let claim = store.activate(ask).wait().unwrap().claim;
        let patch = Patch::from([("self".to_owned(), Some(vec![id as u8; 300]))]);
        let mut txn = Transaction::new(TxnId(id), generation);
        txn.writes = vec![Save { claim, version: 0, patch }];
        let holder = Key(id);
        let make =
            LedgerOp::Make { item: ItemId(id), kind: ItemKind(1), holder, data: vec![7; 500] };
        let mint = LedgerOp::Mint { holder, currency: GOLD, amount: 3 };
        store.commit(txn.with(make).with(mint)).wait().unwrap();
    }
}

/// How many of the commits are there, or an error that says that something is wrong; and what is
/// served although it was never there as a whole.
fn whole_commits(store: &Store) -> Result<(u128, Option<String>), String> {
    let text = |error: Error| error.to_string();
    let verdict = store.verify().wait().map_err(text)?;
    if let Some(fault) = verdict.faults.first() {
        return Err(fault.clone());
    }
    let there = store.audit(0, usize::MAX).wait().map_err(text)?.len() as u128;
    let mut wrong = None;
    for id in 1..=COMMITS {
        let entity = store.load(Key(id)).wait().map_err(text)?;
        let stored = entity.and_then(|entity| entity.documents.get("self").cloned());
        let held = store.holdings(Key(id)).wait().map_err(text)?;
        let gold = held.balances.get(&GOLD).copied();
        let has_receipt = store.lookup(TxnId(id)).wait().map_err(text)?.is_some();
        let seen = (stored, gold, held.items.len(), has_receipt);
        let due = match id <= there {
            true => (Some(vec![id as u8; 300]), Some(3), 1, true),
            false => (None, None, 0, false),
        };
        if seen != due {
            wrong = Some(format!("of {there} commits number {id} is {seen:?}"));
        }
    }
    Ok((there, wrong))
}

/// The lengths to which a file of `len` bytes is cut: around its headers and each of its parts, and
/// anywhere.
fn lengths(len: usize, header: usize, part: usize) -> Vec<usize> {
    let mut random = env::Random::from_seed(len as u64);
    let mut all: Vec<usize> = vec![1, 15, 16, 17, header - 1, header, header + 1];
    for start in (header % part..len).step_by(part) {
        all.extend([start.saturating_sub(1), start, start + 1, start + 24, start + part / 2]);
    }
    all.extend((0..30).map(|_| random.below(len as u64) as usize));
    all.retain(|cut| (1..len).contains(cut));
    all.sort_unstable();
    all.dedup();
    // A long file has many parts that are alike.
    let every = all.len().div_ceil(150);
    all.into_iter().step_by(every).collect()
}

/// How many commits are there; a panic of a library below serves nobody.
fn look(path: &Path, open: OpenFn) -> Result<u128, String> {
    let seen = std::panic::catch_unwind(|| {
        open(path).map_err(|error| error.to_string()).and_then(|store| whole_commits(&store))
    });
    let (there, wrong) = seen.unwrap_or_else(|_| Err("a panic".to_owned()))?;
    assert_eq!(wrong, None);
    Ok(there)
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn cut_main_file(name: &str, open: OpenFn) {
    let folder = Folder::new(name);
    let file = folder.file();
    fill(&open(&file).unwrap());
    assert_eq!(look(&file, open), Ok(COMMITS));
    let bytes = std::fs::read(&file).unwrap();
    let (mut refused, lengths) = (0, lengths(bytes.len(), 100, 4_096));
    for cut in &lengths {
        for ending in ["-wal", "-shm"] {
            drop(std::fs::remove_file(with_ending(&file, ending)));
        }
        std::fs::write(&file, &bytes[..*cut]).unwrap();
        match look(&file, open) {
            Ok(there) => assert_eq!(there, COMMITS, "cut to {cut} of {}", bytes.len()),
            Err(_) => refused += 1,
        }
    }
    println!("{refused} of {} were refused", lengths.len());
    assert!(refused > lengths.len() / 2, "{refused} of {} were refused", lengths.len());
}

#[test]
fn a_cut_file_is_refused_or_whole() {
    cut_main_file("cut", embedded);
}

#[cfg(feature = "sqlite")]
mod of_sqlite {
    use super::*;

    fn sqlite(path: &Path) -> Result<Store, OpenError> {
        Store::sqlite(path, Options::default())
    }

    /// A file and its log as a crash leaves them, and beside them the index of the log.
    fn crashed(folder: &Folder) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let file = folder.file();
        let store = sqlite(&file).unwrap();
        fill(&store);
        let read = |ending: &str| std::fs::read(with_ending(&file, ending)).unwrap();
        let left = (read(""), read("-wal"), read("-shm"));
        drop(store);
        left
    }

    fn put(file: &Path, (main, wal, shm): (&[u8], &[u8], &[u8])) {
        std::fs::write(file, main).unwrap();
        std::fs::write(with_ending(file, "-wal"), wal).unwrap();
        std::fs::write(with_ending(file, "-shm"), shm).unwrap();
    }

    #[test]
    fn a_cut_sqlite_file_is_refused_or_whole() {
        cut_main_file("cut-sqlite", sqlite);
    }

    /// The frames of its log have 24 bytes before each page, after a header of 32.
    #[test]
    fn a_cut_log_of_sqlite_gives_whole_commits_up_to_the_cut() {
        let folder = Folder::new("cut-wal");
        let (main, wal, shm) = crashed(&folder);
        let file = folder.file();
        put(&file, (&main, &wal, &shm));
        assert_eq!(look(&file, sqlite), Ok(COMMITS), "a crash loses nothing");
        let mut seen = std::collections::BTreeSet::new();
        let mut last = 0;
        for cut in lengths(wal.len(), 32, 4_096 + 24) {
            put(&file, (&main, &wal[..cut], &shm));
            // Before the first commit there may be no table yet, which is refused.
            let there = look(&file, sqlite).unwrap_or(0);
            assert!(there >= last, "{there} at {cut}, {last} before");
            last = there;
            seen.insert(there);
        }
        assert!(seen.len() > 10, "{seen:?}");
    }

    #[test]
    fn flipped_bits_in_a_log_of_sqlite_give_whole_commits_before_them() {
        let folder = Folder::new("flip-wal");
        let (main, wal, shm) = crashed(&folder);
        let file = folder.file();
        let mut random = env::Random::from_seed(17);
        let mut hit = 0;
        for _ in 0..80 {
            let mut flipped = wal.clone();
            let at = random.below(wal.len() as u64) as usize;
            flipped[at] ^= 1 << random.below(8);
            put(&file, (&main, &flipped, &shm));
            hit += u32::from(look(&file, sqlite) != Ok(COMMITS));
        }
        assert!(hit > 40, "only {hit} of 80 flips hit anything");
    }

    /// The index is made anew by whoever is the first to open the file.
    #[test]
    fn a_damaged_index_of_the_log_is_harmless() {
        let folder = Folder::new("shm");
        let (main, wal, shm) = crashed(&folder);
        let file = folder.file();
        let mut random = env::Random::from_seed(18);
        for round in 0..40 {
            let mut bad = shm.clone();
            if round % 2 == 0 {
                bad.truncate(random.below(shm.len() as u64) as usize);
            } else {
                (0..50).for_each(|_| bad[random.below(2_000) as usize] ^= 1 << random.below(8));
            }
            put(&file, (&main, &wal, &bad));
            assert_eq!(look(&file, sqlite), Ok(COMMITS), "round {round}");
        }
    }
}
