use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use redb::StorageBackend;

use super::*;
use crate::ledger::{Currency, LedgerOp, Transaction, TxnId};
use crate::record::{Change, RecordId, RecordWrite};
use crate::store::Store;
use crate::types::{Incarnation, Key};

/// A disk that loses power: what was not synced when it did is there or not, each write by chance.
#[derive(Debug, Default)]
struct Disk {
    image: Mutex<Image>,
    sync_fails: AtomicBool,
    held_sync: Mutex<Option<Held>>,
    syncs: AtomicUsize,
    on_close: Mutex<Option<Sender<()>>>,
    reads: AtomicUsize,
    read_bytes: AtomicUsize,
}

/// A sync that says that it has begun, and then waits for its end.
#[derive(Debug)]
struct Held {
    begun: Sender<()>,
    end: Receiver<End>,
}

#[derive(Debug)]
enum End {
    Well,
    Fails,
    Panics,
}

#[derive(Debug, Default)]
struct Image {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
}

#[derive(Debug, Clone)]
enum Pending {
    Len(usize),
    Write(usize, Vec<u8>),
}

impl Pending {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Pending::Len(len) => to.resize(*len, 0),
            Pending::Write(at, bytes) => {
                let end = at + bytes.len();
                to.resize(to.len().max(end), 0);
                to[*at..end].copy_from_slice(bytes);
            }
        }
    }
}

impl Disk {
    fn of(durable: Vec<u8>) -> Arc<Disk> {
        let image = Image { now: durable.clone(), durable, pending: Vec::new() };
        Arc::new(Disk { image: Mutex::new(image), ..Disk::default() })
    }

    /// Holds the next sync back until it is told how to end. Nothing is told before it has begun.
    fn hold_sync(&self) -> (Receiver<()>, Sender<End>) {
        let ((begun, begins), (go, end)) = (channel(), channel());
        *self.held_sync.lock().unwrap() = Some(Held { begun, end });
        (begins, go)
    }

    /// What stands on the disk if the power goes now.
    fn cut(&self, random: &mut env::Random) -> Vec<u8> {
        let image = self.image.lock().unwrap();
        let mut left = image.durable.clone();
        for pending in &image.pending {
            // The length of a file is a journalled part of it; blocks come in any order.
            if matches!(pending, Pending::Len(_)) || random.chance(1, 2) {
                pending.apply(&mut left);
            }
        }
        left
    }
}

#[derive(Debug)]
struct OnDisk(Arc<Disk>);

impl StorageBackend for OnDisk {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.0.image.lock().unwrap().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        self.0.read_bytes.fetch_add(out.len(), Ordering::Relaxed);
        let image = self.0.image.lock().unwrap();
        let bytes = image.now.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.change(Pending::Len(len as usize))
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.0.syncs.fetch_add(1, Ordering::SeqCst);
        let held = self.0.held_sync.lock().unwrap().take();
        let end = held.map_or(End::Well, |held| {
            held.begun.send(()).unwrap();
            held.end.recv().unwrap()
        });
        assert!(!matches!(end, End::Panics), "a bug in the engine");
        if matches!(end, End::Fails) || self.0.sync_fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("the disk is gone"));
        }
        let mut image = self.0.image.lock().unwrap();
        image.durable = image.now.clone();
        image.pending.clear();
        Ok(())
    }

    fn close(&self) -> Result<(), io::Error> {
        if let Some(told) = self.0.on_close.lock().unwrap().take() {
            told.send(()).unwrap();
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.change(Pending::Write(offset as usize, data.to_vec()))
    }
}

impl OnDisk {
    fn change(&self, pending: Pending) -> Result<(), io::Error> {
        let mut image = self.0.image.lock().unwrap();
        pending.apply(&mut image.now);
        image.pending.push(pending);
        Ok(())
    }
}

/// Small regions keep the image, which is copied at each sync, at some hundred kilobytes.
fn database(disk: &Arc<Disk>) -> Database {
    let mut builder = Database::builder();
    builder.set_cache_size(1 << 20);
    builder.create_with_backend(OnDisk(Arc::clone(disk))).unwrap()
}

fn founded() -> Arc<Disk> {
    let disk = Disk::of(Vec::new());
    let database = database(&disk);
    Embedded::found(&database).unwrap();
    drop(database);
    disk
}

fn store(disk: &Arc<Disk>, options: Options) -> Store {
    Store::of_embedded(Embedded::start(database(disk), "test", options).unwrap())
}

fn mint(id: u64) -> Transaction {
    let mint = LedgerOp::Mint { holder: Key(1), currency: Currency(1), amount: 1 };
    Transaction::new(TxnId(id.into()), 1).with(mint)
}

#[test]
fn a_failed_sync_is_the_end() {
    let disk = founded();
    let store = store(&disk, Options::default());
    store.commit(mint(1)).wait().unwrap();
    disk.sync_fails.store(true, Ordering::SeqCst);
    let unknown = store.commit(mint(2)).wait();
    assert!(
        matches!(&unknown, Err(Error::Unknown(why)) if why.contains("disk is gone")),
        "{unknown:?}"
    );
    // Were the next sync believed, it would lie: the pages that failed are marked clean by then.
    disk.sync_fails.store(false, Ordering::SeqCst);
    for _ in 0..3 {
        assert!(matches!(store.commit(mint(3)).wait(), Err(Error::Stopped(_))));
        assert!(matches!(store.beat(Incarnation(1)).wait(), Err(Error::Stopped(_))));
        assert!(matches!(store.load(Key(1)).wait(), Err(Error::Stopped(_))));
        assert!(matches!(store.verify().wait(), Err(Error::Stopped(_))));
    }
}

#[test]
fn power_cuts_lose_nothing_that_was_answered() {
    let mut random = env::Random::from_seed(11);
    let mut left = founded().image.lock().unwrap().durable.clone();
    let mut next = 1;
    for round in 0..25 {
        let disk = Disk::of(left);
        let store = store(&disk, Options { batch_ops_max: 8, ..Options::default() });
        let verdict = store.verify().wait().unwrap();
        assert_eq!(verdict.faults, Vec::<String>::new(), "round {round}");
        let there = verdict.currencies.get(&Currency(1)).copied().unwrap_or(0);
        assert!(there + 1 >= next.into(), "round {round}: {} answered, {there} there", next - 1);
        next = there as u64 + 1;
        // Some are answered; of the rest the thread is somewhere when the power goes.
        let answers: Vec<_> = (next..next + 20).map(|id| store.commit(mint(id))).collect();
        let waited = random.index(answers.len());
        for answer in answers.into_iter().take(waited) {
            answer.wait().unwrap();
        }
        left = disk.cut(&mut random);
        next += waited as u64;
    }
}

/// Keeps the rules of a batch in a job until told to go on.
fn hold(store: &Store) -> (Sender<()>, crate::Answer<()>) {
    let (go, waits) = channel();
    let (at_work, working) = channel();
    let answer = store.submit(0, move |_| {
        at_work.send(()).unwrap();
        // Either way it goes on.
        let _ = waits.recv();
        Ok(())
    });
    working.recv().unwrap();
    (go, answer)
}

#[test]
fn a_full_queue_is_busy_at_once() {
    let options = Options { queue_ops_max: 4, queue_bytes_max: 1_000, ..Options::default() };
    let store = store(&founded(), options);
    let (go, _held) = hold(&store);
    let answers: Vec<_> = (0..5).map(|_| store.beat(Incarnation(1))).collect();
    go.send(()).unwrap();
    let said: Vec<_> = answers.into_iter().map(|a| a.wait().map(|pulse| pulse.beat)).collect();
    assert_eq!(said, [Ok(1), Ok(2), Ok(3), Ok(4), Err(Error::Busy)]);

    let (go, _held) = hold(&store);
    let note = |id| Transaction { note: "x".repeat(250), ..mint(id) };
    let answers: Vec<_> = (1..=4).map(|id| store.commit(note(id))).collect();
    go.send(()).unwrap();
    let said: Vec<_> = answers.into_iter().map(|a| a.wait().map(|r| r.sequence)).collect();
    assert_eq!(said, [Ok(1), Ok(2), Err(Error::Busy), Err(Error::Busy)], "bytes are limited too");
}

#[test]
fn what_waits_is_one_durable_transaction() {
    let store = store(&founded(), Options::default());
    let (go, _held) = hold(&store);
    let (told, hears) = channel();
    for id in 1..=50 {
        let told = told.clone();
        store.commit(mint(id)).on_ready(move |receipt| told.send(receipt).unwrap());
    }
    let snapshot = store.verify().wait().unwrap();
    assert_eq!(snapshot.currencies.len(), 0, "nothing is there before it is durable");
    assert!(hears.try_recv().is_err(), "and nothing is answered");
    go.send(()).unwrap();
    for sequence in 1..=50 {
        assert_eq!(hears.recv().unwrap().unwrap().sequence, sequence);
    }
}

/// How many coins the minted holder has, as the batch that asks sees it.
fn coins(store: &Store) -> crate::Answer<u64> {
    store.submit(0, |s| Ok(crate::rules::holdings(s, Key(1))?.balances[&Currency(1)]))
}

/// Commits `mint(1)`, says when it is being answered, and ends that only when told to. The store is to
/// be on [`hold`] meanwhile: what is answered before anybody listens is heard on the listener's thread.
fn answer_slowly(store: &Store) -> (Receiver<()>, Sender<()>) {
    let (begins, answering) = channel();
    let (answer, ends) = channel();
    store.commit(mint(1)).on_ready(move |said| {
        said.unwrap();
        begins.send(()).unwrap();
        // Either way it goes on.
        let _ = ends.recv();
    });
    (answering, answer)
}

/// A store that is at a sync of `mint(1)`, with the end of that sync and what becomes of it and of each
/// of those that came later: the minting of a second coin, a job that reads it, and a look at the
/// holder.
fn at_sync(disk: &Arc<Disk>) -> (Store, Sender<End>, Receiver<(u8, Result<u64, Error>)>) {
    let store = store(disk, Options::default());
    let (begins, end) = disk.hold_sync();
    let (told, hears) = channel();
    let tell = |n| {
        let told = told.clone();
        move |said| told.send((n, said)).unwrap()
    };
    let (first, second, last) = (tell(1), tell(2), tell(4));
    store.commit(mint(1)).on_ready(move |said| first(said.map(|receipt| receipt.sequence)));
    begins.recv().unwrap();
    store.commit(mint(2)).on_ready(move |said| second(said.map(|receipt| receipt.sequence)));
    coins(&store).on_ready(tell(3));
    store.holdings(Key(1)).on_ready(move |said| last(said.map(|held| held.version)));
    (store, end, hears)
}

#[test]
fn what_comes_during_a_sync_is_answered_after_it() {
    let disk = founded();
    let (store, end, hears) = at_sync(&disk);
    let snapshot = store.verify().wait().unwrap();
    assert_eq!(snapshot.currencies.len(), 0, "nothing is there before it is durable");
    assert!(hears.try_recv().is_err(), "and nothing is answered");
    end.send(End::Well).unwrap();
    let said: Vec<_> = (0..4).map(|_| hears.recv().unwrap()).collect();
    assert_eq!(said, [(1, Ok(1)), (2, Ok(2)), (3, Ok(2)), (4, Ok(2))]);
    assert_eq!(store.verify().wait().unwrap().currencies[&Currency(1)], 2);
}

/// Whether all of [`at_sync`] got an error, and the first another than those behind it, of which
/// nothing was done.
fn all_failed(hears: &Receiver<(u8, Result<u64, Error>)>, first: &str) {
    for _ in 0..4 {
        match hears.recv().unwrap() {
            (1, Err(Error::Unknown(why))) => assert!(why.contains(first), "{why}"),
            (2.., Err(Error::Stopped(_))) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_failed_sync_takes_with_it_what_waits_for_it() {
    let disk = founded();
    let (store, end, hears) = at_sync(&disk);
    end.send(End::Fails).unwrap();
    all_failed(&hears, "disk is gone");
    assert!(matches!(store.commit(mint(3)).wait(), Err(Error::Stopped(_))));
    drop(store);
    let left = disk.image.lock().unwrap().durable.clone();
    let again = self::store(&Disk::of(left), Options::default());
    let verdict = again.verify().wait().unwrap();
    assert_eq!((verdict.faults.len(), verdict.currencies.len()), (0, 0), "{verdict:?}");
    assert_eq!(again.commit(mint(2)).wait().unwrap().sequence, 1, "its id is free");
}

#[test]
fn an_engine_that_panics_takes_with_it_what_waits_for_it() {
    let disk = founded();
    let (store, end, hears) = at_sync(&disk);
    end.send(End::Panics).unwrap();
    all_failed(&hears, "thread ended");
    assert!(matches!(store.commit(mint(3)).wait(), Err(Error::Stopped(_))));
}

#[test]
fn what_comes_while_a_batch_is_answered_is_run_and_waits() {
    let disk = founded();
    let store = store(&disk, Options::default());
    let (go, _held) = hold(&store);
    let (answering, answer) = answer_slowly(&store);
    go.send(()).unwrap();
    answering.recv().unwrap();
    let syncs = disk.syncs.load(Ordering::SeqCst);
    // Without it the next batch could begin before all of it is there: so little wakes no thread.
    let (go, _held) = hold(&store);
    let (told, hears) = channel();
    let (ran, has_run) = channel();
    let tell = told.clone();
    store.commit(mint(2)).on_ready(move |said| tell.send(said.map(|_| 0)).unwrap());
    let look = store.submit(0, move |s| {
        let held = crate::rules::holdings(s, Key(1))?.balances[&Currency(1)];
        ran.send(held).unwrap();
        Ok(held)
    });
    look.on_ready(move |said| told.send(said).unwrap());
    go.send(()).unwrap();
    assert_eq!(has_run.recv().unwrap(), 2, "the second coin is there for those behind it");
    assert_eq!(store.verify().wait().unwrap().currencies[&Currency(1)], 1, "and for nobody else");
    assert_eq!(disk.syncs.load(Ordering::SeqCst), syncs);
    assert!(hears.try_recv().is_err());
    answer.send(()).unwrap();
    assert_eq!([hears.recv().unwrap(), hears.recv().unwrap()], [Ok(0), Ok(2)]);
    assert_eq!(disk.syncs.load(Ordering::SeqCst), syncs + 2, "one transaction, synced twice");
}

#[test]
fn what_only_reads_is_no_transaction() {
    let disk = founded();
    let store = store(&disk, Options::default());
    store.commit(mint(1)).wait().unwrap();
    let syncs = disk.syncs.load(Ordering::SeqCst);
    let (go, _held) = hold(&store);
    let coins = coins(&store);
    let again = store.commit(mint(1));
    let refused = store.commit(Transaction { generation: 9, ..mint(2) });
    go.send(()).unwrap();
    assert_eq!((coins.wait(), again.wait().map(|r| r.sequence)), (Ok(1), Ok(1)));
    assert!(matches!(refused.wait(), Err(Error::Generation { current: 1 })));
    assert_eq!(disk.syncs.load(Ordering::SeqCst), syncs);
}

#[test]
fn a_transaction_is_done_once_wherever_in_a_batch_it_is_asked_for_again() {
    let store = store(&founded(), Options::default());
    store.commit(mint(1)).wait().unwrap();
    let (go, _held) = hold(&store);
    // All behind the first that writes run over the tables that they write.
    let beat = store.beat(Incarnation(1));
    let burn = LedgerOp::Burn { holder: Key(1), currency: Currency(1), amount: 2 };
    let burn = Transaction::new(TxnId(3), 1).with(burn);
    let other = Transaction { note: "another".to_owned(), ..mint(1) };
    let asked = [mint(1), mint(2), mint(2), burn.clone(), burn, other, mint(4)];
    let answers = asked.map(|txn| store.commit(txn));
    go.send(()).unwrap();
    beat.wait().unwrap();
    let said = answers.map(|answer| answer.wait().map(|receipt| receipt.sequence));
    // Done again, the second burning would be refused: nothing is left.
    let reused = Err(Error::TxnReused(TxnId(1)));
    assert_eq!(said, [Ok(1), Ok(2), Ok(2), Ok(3), Ok(3), reused, Ok(4)]);
    let verdict = store.verify().wait().unwrap();
    assert_eq!((verdict.faults.len(), verdict.currencies[&Currency(1)]), (0, 1), "{verdict:?}");
    assert_eq!(store.lookup(TxnId(1)).wait().unwrap().unwrap().sequence, 1);
}

#[test]
fn a_job_that_panics_leaves_the_batch_before_it_alone() {
    let store = store(&founded(), Options::default());
    let (go, _held) = hold(&store);
    let (answering, answer) = answer_slowly(&store);
    let first = store.commit(mint(5));
    go.send(()).unwrap();
    answering.recv().unwrap();
    let (go, held) = hold(&store);
    let broken = store.submit(0, |_| -> Result<(), Error> { panic!("a bug in a rule") });
    let after = store.commit(mint(2));
    go.send(()).unwrap();
    assert!(matches!(held.wait(), Err(Error::Unknown(_))));
    assert!(matches!(broken.wait(), Err(Error::Unknown(_))));
    assert!(matches!(after.wait(), Err(Error::Unknown(_))));
    answer.send(()).unwrap();
    assert_eq!(first.wait().unwrap().sequence, 2);
    assert!(matches!(store.commit(mint(3)).wait(), Err(Error::Stopped(_))));
}

#[test]
fn what_comes_during_a_sync_is_one_batch_as_far_as_its_limits_go() {
    // With quick repair a transaction is synced twice.
    for (batch_ops_max, txns) in [(1_000, 2), (8, 4)] {
        let disk = founded();
        let store = store(&disk, Options { batch_ops_max, ..Options::default() });
        let (begins, end) = disk.hold_sync();
        let before = disk.syncs.load(Ordering::SeqCst);
        let first = store.commit(mint(1));
        begins.recv().unwrap();
        let answers: Vec<_> = (2..22).map(|id| store.commit(mint(id))).collect();
        end.send(End::Well).unwrap();
        for answer in [first].into_iter().chain(answers) {
            answer.wait().unwrap();
        }
        assert_eq!(disk.syncs.load(Ordering::SeqCst) - before, 2 * txns, "{batch_ops_max}");
    }
}

#[test]
fn what_comes_while_rules_run_is_of_their_batch_as_far_as_its_limits_go() {
    // With quick repair a transaction is synced twice.
    for (batch_ops_max, txns) in [(1_000, 1), (8, 3)] {
        let disk = founded();
        let store = store(&disk, Options { batch_ops_max, ..Options::default() });
        let before = disk.syncs.load(Ordering::SeqCst);
        let (go, held) = hold(&store);
        let answers: Vec<_> = (1..=20).map(|id| store.commit(mint(id))).collect();
        go.send(()).unwrap();
        held.wait().unwrap();
        for (sequence, answer) in (1..).zip(answers) {
            assert_eq!(answer.wait().unwrap().sequence, sequence);
        }
        assert_eq!(disk.syncs.load(Ordering::SeqCst) - before, 2 * txns, "{batch_ops_max}");
    }
}

#[test]
fn a_store_is_dropped_with_batches_under_way() {
    let disk = founded();
    let (store, end, hears) = at_sync(&disk);
    let dropping = std::thread::spawn(move || drop(store));
    end.send(End::Well).unwrap();
    dropping.join().unwrap();
    let said: Vec<_> = hears.try_iter().map(|(n, said)| (n, said.is_ok())).collect();
    assert_eq!(said, [(1, true), (2, true), (3, true), (4, true)], "all before the file is closed");
    let again = self::store(&disk, Options::default());
    assert_eq!(again.verify().wait().unwrap().currencies[&Currency(1)], 2);
}

#[test]
fn the_last_handle_may_be_dropped_by_an_answer() {
    let disk = founded();
    let (closed, closes) = channel();
    *disk.on_close.lock().unwrap() = Some(closed);
    let (store, end, hears) = at_sync(&disk);
    let store = Arc::new(Mutex::new(Some(store)));
    let taken = Arc::clone(&store);
    let answer = store.lock().unwrap().as_ref().unwrap().commit(mint(3));
    answer.on_ready(move |_| drop(taken.lock().unwrap().take()));
    end.send(End::Well).unwrap();
    closes.recv().unwrap();
    assert_eq!(hears.try_iter().filter(|(_, said)| said.is_ok()).count(), 4);
    assert!(store.lock().unwrap().is_none());
}

#[test]
fn a_job_that_panics_ends_the_store_and_answers_all() {
    let store = store(&founded(), Options::default());
    let (go, held) = hold(&store);
    let broken = store.submit(0, |_| -> Result<(), Error> { panic!("a bug in a rule") });
    let after = store.commit(mint(1));
    go.send(()).unwrap();
    assert!(matches!(held.wait(), Err(Error::Unknown(_))), "it is of the same batch");
    assert!(matches!(broken.wait(), Err(Error::Unknown(_))));
    assert!(matches!(after.wait(), Err(Error::Unknown(_))));
    // The thread may still be on its way out: then the queue refuses what it had taken in.
    let late = store.commit(mint(2)).wait();
    assert!(matches!(late, Err(Error::Stopped(_) | Error::Unknown(_))), "{late:?}");
}

#[test]
fn a_newer_format_is_refused() {
    let disk = founded();
    let base = database(&disk);
    let txn = base.begin_write().unwrap();
    let mut rows = Batch::new(MemoryTables::default());
    let limits = Limits::default();
    let mut stage = Stage::new(&rows, &limits);
    stage.put(Table::Meta, b"format", &3u64);
    let writes = stage.into_staged();
    rows.apply(writes);
    Writing::new(&txn).write(&rows.into_parts().0).unwrap();
    txn.commit().unwrap();
    let refused = Embedded::start(base, "test", Options::default()).map(drop);
    assert!(matches!(refused, Err(OpenError::Newer { found: 3, known: 2, .. })), "{refused:?}");
}

#[test]
fn a_store_from_before_slots_is_opened() {
    let disk = founded();
    let base = database(&disk);
    let txn = base.begin_write().unwrap();
    assert!(txn.delete_table(definition(Table::Slot)).unwrap());
    txn.commit().unwrap();
    let store = Store::of_embedded(Embedded::start(base, "test", Options::default()).unwrap());
    assert_eq!(store.verify().wait().unwrap().faults, Vec::<String>::new());
    assert_eq!(store.beat(crate::types::Incarnation(1)).wait().unwrap().beat, 1);
}

/// Of a store with 9.6 million cells of a map (9,408 chunks of 1,024) the start reads as little as of one
/// with a few, and a search reads the pages on its way.
#[test]
fn f24_a_store_that_starts_reads_as_little_of_a_large_map_as_of_a_small_one() {
    let opened = |chunks: u32| {
        let disk = founded();
        let filled = store(&disk, Options::default());
        let write = |n: u32| {
            let key = [&[7; 12][..], &(n / 64).to_be_bytes(), &u64::from(n).to_be_bytes()].concat();
            let id = RecordId { kind: crate::CHUNK_KIND, key };
            let change = Change::Put(vec![1; 100]);
            RecordWrite { id, version: 0, change, fence: None, unlock: false }
        };
        let all: Vec<_> = (0..chunks).map(write).collect();
        for some in all.chunks(64) {
            drop(filled.write_records(1, some.to_vec()));
        }
        filled.generation().wait().unwrap();
        drop(filled);
        let count = |disk: &Disk| {
            let bytes = disk.read_bytes.swap(0, Ordering::Relaxed);
            (disk.reads.swap(0, Ordering::Relaxed), bytes)
        };
        // A debug build of redb looks at all pages when it opens a file, a release build does not: it
        // loads the allocator's state, which the last commit has written.
        let database = database(&disk);
        count(&disk);
        let store =
            Store::of_embedded(Embedded::start(database, "test", Options::default()).unwrap());
        let pulse = store.beat(Incarnation(1)).wait().unwrap();
        assert_eq!(pulse.generation, 1);
        let at_start = count(&disk);
        let found =
            store.records(all[..64.min(all.len())].iter().map(|write| write.id.clone()).collect());
        let found = found.wait().unwrap().records;
        assert!(found.iter().all(|record| record.version == 1));
        (at_start, count(&disk), disk.image.lock().unwrap().now.len())
    };
    let (small, _, _) = opened(64);
    let (large, search, size) = opened(9_408);
    assert!(large.0 <= small.0 + 16, "reads at the start: {large:?}, of a small map {small:?}");
    assert!(large.1 <= small.1 + (128 << 10), "bytes at the start: {large:?}, {small:?}");
    assert!(large.1 + search.1 < size / 4, "{large:?} and {search:?} of {size} bytes");
}
