//! Jobs that are killed between any two writes, and jobs that run beside others.

use std::path::PathBuf;

use mainstay::store::{Currency, LedgerOp, Limits, Options, Transaction, TxnId};

use super::*;
use crate::records::Role;

const NOW: u64 = 1_000 * DAY_MS;
const BOUGHT: [u8; 3] = [1, 2, 3];

fn rules() -> Rules {
    Rules { idle_days: 100, accounts_max: 100, ..Rules::default() }
}

fn memory() -> Store {
    Store::memory(Limits::default())
}

fn put<R: Record<Key = u64>>(store: &Store, key: u64, value: &R) {
    let id = id_of::<R>(key);
    let found = store.records(vec![id.clone()]).wait().unwrap();
    let mut bytes = Vec::new();
    write_document(value, &mut bytes).unwrap();
    let change = RecordChange::Put(bytes);
    let version = found.records[0].version;
    let write = RecordWrite { id, version, change, fence: None, unlock: false };
    store.write_records(found.generation, vec![write]).wait().unwrap();
}

fn get<R: Record<Key = u64>>(store: &Store, key: u64) -> Option<R> {
    decoded(key, &store.records(vec![id_of::<R>(key)]).wait().unwrap().records[0]).unwrap()
}

fn role(id: u64) -> Role {
    Role { id, server: 1, name: format!("Mira{id}"), ..Role::default() }
}

/// An account with two roles, last used on that day.
fn account(store: &Store, number: u64, day: u64) {
    let seen = Account { seen_ms: day * DAY_MS, ..Account::default() };
    put(store, number, &seen);
    let roles = vec![role(number * 10), role(number * 10 + 1)];
    for role in &roles {
        let data = Bytes::from(BOUGHT.to_vec());
        put(store, role.id, &RoleData { account: number, data });
    }
    put(store, number, &Roster { roles });
}

/// Whether a store has the whole account; panics if it has a part.
fn has(store: &Store, number: u64) -> bool {
    let roster = get::<Roster>(store, number);
    let data = [10, 11].map(|id| get::<RoleData>(store, number * 10 + id - 10));
    match (&roster, &data) {
        (None, [None, None]) => false,
        (Some(roster), [Some(one), Some(other)]) => {
            assert_eq!(roster.roles.len(), 2);
            assert!(one.data[..] == BOUGHT && other.data[..] == BOUGHT);
            true
        }
        parts => panic!("a part of the account: {parts:?}"),
    }
}

fn cut_after(archive: &Store, writes: usize) -> Archive {
    let writes_left = Some(Arc::new(AtomicUsize::new(writes)));
    Archive { store: archive.clone(), writes_left }
}

/// Two embedded stores, which a process that is killed leaves on the disk.
struct Disk(PathBuf);

impl Disk {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Disk(path)
    }

    fn open(&self) -> [Store; 2] {
        ["live", "archive"]
            .map(|name| Store::embedded(self.0.join(name), Options::default()).unwrap())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn f26_a_job_that_is_killed_at_any_step_loses_and_doubles_nothing() {
    for writes in 0..=4 {
        let disk = Disk::new(&format!("archive-{writes}"));
        {
            let [live, archive] = disk.open();
            account(&live, 1, 10);
            let archive = cut_after(&archive, writes);
            let taken = archive.take(&live, 1, NOW, &rules());
            assert_eq!(taken.is_ok(), writes >= 2, "{writes}: {taken:?}");
            if writes >= 2 {
                let back = archive.bring_back(&live, 1, NOW);
                assert_eq!(back.is_ok(), writes >= 4, "{writes}: {back:?}");
            }
        }
        // The next process.
        let [live, store] = disk.open();
        let is_live = has(&live, 1);
        let named = get::<Account>(&live, 1).unwrap().archived;
        assert_eq!(is_live, writes != 2, "{writes}");
        assert_eq!(named.is_none(), is_live, "the mark and the records change together");
        let archive = Archive::new(store.clone());
        let swept = archive.sweep(&live).unwrap();
        assert_eq!(swept, u64::from([1, 3].contains(&writes)), "{writes}: leftovers go");
        assert!(has(&live, 1) != has(&store, 1), "{writes}: it is in one of the stores");
        if !is_live {
            assert_eq!(archive.bring_back(&live, 1, NOW), Ok(Moved::Done));
        } else if writes < 3 {
            assert_eq!(archive.take(&live, 1, NOW, &rules()), Ok(Moved::Done));
            assert!(!has(&live, 1) && has(&store, 1));
            assert_eq!(archive.bring_back(&live, 1, NOW), Ok(Moved::Done));
        }
        assert!(has(&live, 1) && !has(&store, 1));
        assert_eq!(get::<Account>(&live, 1).unwrap().seen_ms, NOW, "who came back is in use");
        for store in [&live, &store] {
            assert_eq!(store.verify().wait().unwrap().faults, Vec::<String>::new());
        }
    }
}

#[test]
fn f26_who_has_money_or_duties_stays_unless_allowed() {
    let live = memory();
    for number in 1..=5 {
        account(&live, number, 10);
    }
    account(&live, 6, 950);
    put(&live, 7, &Roster { roles: vec![role(70)] });
    let guild = Account {
        seen_ms: 10 * DAY_MS,
        keeps: vec!["guild leader".to_owned()],
        ..Account::default()
    };
    put(&live, 2, &guild);
    // One holder is the account's, one a role's; kinds do not matter.
    for (txn, holder) in [(1, 77 << 64 | 3), (2, 78 << 64 | 41)] {
        let op = LedgerOp::Mint { holder: Key(holder), currency: Currency(1), amount: 5 };
        live.commit(Transaction::new(TxnId(txn), 1).with(op)).wait().unwrap();
    }
    let survey = Archive::survey(&live, &[], NOW, &rules()).unwrap();
    assert_eq!(survey.idle.keys().copied().collect::<Vec<_>>(), [1, 5]);
    let kept: Vec<_> = survey.kept.iter().map(|(number, why)| (*number, why.join(","))).collect();
    let expected = [(2, "guild leader"), (3, MONEY), (4, MONEY)];
    assert_eq!(kept, expected.map(|(number, why)| (number, why.to_owned())));
    assert_eq!((survey.active, survey.unknown.len(), survey.is_cut), (1, 1, false));
    let purse = memory();
    let op = LedgerOp::Mint { holder: Key(79 << 64 | 5), currency: Currency(1), amount: 5 };
    purse.commit(Transaction::new(TxnId(1), 1).with(op)).wait().unwrap();
    let survey = Archive::survey(&live, &[purse], NOW, &rules()).unwrap();
    assert_eq!(
        survey.idle.keys().copied().collect::<Vec<_>>(),
        [1],
        "money in another store counts"
    );

    let archive = Archive::new(memory());
    assert_eq!(
        archive.take(&live, 2, NOW, &rules()),
        Ok(Moved::Stays),
        "its duty is looked at again"
    );
    assert_eq!(archive.take(&live, 6, NOW, &rules()), Ok(Moved::Stays), "so is its time");
    let mut all = rules();
    all.allow = [MONEY, "guild leader"].map(str::to_owned).into();
    let survey = Archive::survey(&live, &[], NOW, &all).unwrap();
    assert_eq!((survey.idle.len(), survey.kept.len()), (5, 0));
    assert_eq!(archive.take(&live, 3, NOW, &all), Ok(Moved::Done));
    let held = live.holdings(Key(77 << 64 | 3)).wait().unwrap();
    assert_eq!(held.balances[&Currency(1)], 5, "money does not go along");
    let few = Rules { accounts_max: 2, ..all };
    assert!(Archive::survey(&live, &[], NOW, &few).unwrap().is_cut);

    assert_eq!(archive.begin(&live, 7, NOW), Ok(Moved::Done));
    assert_eq!(archive.begin(&live, 7, NOW), Ok(Moved::Stays));
    assert_eq!(get::<Account>(&live, 7).unwrap().seen_ms, NOW);
}

#[test]
fn f26_whoever_comes_back_while_the_job_runs_stays() {
    let (live, store) = (memory(), memory());
    account(&live, 1, 10);
    // The copy is written, and before the next step the player is seen.
    assert!(cut_after(&store, 1).take(&live, 1, NOW, &rules()).is_err());
    put(&live, 1, &Account { seen_ms: NOW, ..Account::default() });
    let archive = Archive::new(store.clone());
    assert_eq!(archive.take(&live, 1, NOW, &rules()), Ok(Moved::Stays));
    assert!(has(&live, 1) && !has(&store, 1), "and the leftover is gone");
    assert_eq!(archive.bring_back(&live, 1, NOW), Ok(Moved::Stays));
}

#[test]
fn f26_a_wrong_or_older_archive_is_refused() {
    let (live, store) = (memory(), memory());
    account(&live, 1, 10);
    let archive = Archive::new(store.clone());
    assert_eq!(archive.take(&live, 1, NOW, &rules()), Ok(Moved::Done));
    let wrong = Archive::new(memory());
    let refused = ArchiveError::NoCopy { account: 1, wanted: 1, found: 0 };
    assert_eq!(wrong.bring_back(&live, 1, NOW), Err(refused.clone()));
    assert!(refused.to_string().contains("name the archive that it went to"));
    // A live store from before it was archived loses to nobody: both keep what they have.
    put(&live, 1, &Roster { roles: vec![role(10)] });
    assert_eq!(archive.bring_back(&live, 1, NOW), Err(ArchiveError::Both(1)));
    assert_eq!(archive.sweep(&live), Ok(0));
    assert!(has(&store, 1));
}
