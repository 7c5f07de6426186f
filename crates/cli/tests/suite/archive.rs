//! `mainstay data archive` on stores that a test fills.

use mainstay::store::{
    Change, Currency, Key, LedgerOp, Options, RecordId, RecordWrite, Store, Transaction, TxnId,
};

use crate::command::{Folder, mainstay, well};

/// Accounts 1 to 3, of which nothing but an empty roster is there, last used in 2001; the third has
/// coins. Of account 4 no use is written down.
fn filled(folder: &Folder) -> String {
    std::fs::create_dir_all(folder.join("data")).unwrap();
    let store = Store::embedded(folder.join("data/local.store"), Options::default()).unwrap();
    let put = |name, account: u64, body: Vec<u8>| RecordWrite {
        id: RecordId {
            kind: mainstay::proto::name_hash(name),
            key: mainstay::proto::encode(&account),
        },
        version: 0,
        change: Change::Put(body),
        fence: None,
        unlock: false,
    };
    // Schema version, then the fields, as MessagePack.
    let mut seen = vec![0x94, 1, 0xcf];
    seen.extend(1_000_000_000_000u64.to_be_bytes());
    seen.extend([0x90, 0xc0]);
    let mut writes: Vec<_> = (1..=4).map(|n| put("roles.roster", n, vec![0x92, 1, 0x90])).collect();
    writes.extend((1..=3).map(|n| put("roles.account", n, seen.clone())));
    store.write_records(1, writes).wait().unwrap();
    let op = LedgerOp::Mint { holder: Key(9 << 64 | 3), currency: Currency(1), amount: 5 };
    store.commit(Transaction::new(TxnId(1), 1).with(op)).wait().unwrap();
    folder.text("data")
}

#[test]
fn f26_the_archive_command_says_what_it_would_do_and_does_it_when_told() {
    let folder = Folder::new("archive");
    let data = filled(&folder);
    let to = format!("embedded:{}", folder.text("archive.store"));
    let words = ["data", "archive", "--data", &data, "--archive", &to];
    let run = |more: &[&str]| well(&[&words[..], more].concat());

    let said = run(&["--idle-days", "180"]);
    for part in [
        "2 accounts can go, unused for 180 days; 1 stay by a reason, 0 are in use",
        "account 1, last used 2001-09-09T01:46:40Z",
        "account 3 stays: money",
        "of 1 accounts no use is written down",
        "nothing was changed",
    ] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
    assert!(!folder.join("archive.store").exists(), "looking makes nothing");
    assert_eq!(run(&["--idle-days", "180"]), said, "nothing has moved");

    let purse = Store::embedded(folder.join("world.store"), Options::default()).unwrap();
    let op = LedgerOp::Mint { holder: Key(9 << 64 | 1), currency: Currency(1), amount: 5 };
    purse.commit(Transaction::new(TxnId(1), 1).with(op)).wait().unwrap();
    drop(purse);
    let world = format!("{{\"embedded\": {:?}}}", folder.text("world.store"));
    let said = run(&["--idle-days", "180", "--purse", &world]);
    assert!(said.contains("account 1 stays: money"), "{said}");
    let file = folder.text("cluster.json");
    let text = format!(
        r#"{{"cluster": "arena", "store": {{"embedded": "{data}/local.store"}},
            "stores": {{"world": {world}}}, "processes": {{"local": {{"roles": ["node"]}}}}}}"#
    );
    std::fs::write(&file, text).unwrap();
    let of_file = ["data", "archive", "--cluster", &file, "--archive", &to, "--idle-days", "180"];
    assert!(well(&of_file).contains("account 1 stays: money"));

    assert!(run(&["--idle-days", "180", "--apply"]).contains("2 accounts are archived"));
    let said = run(&["--idle-days", "180"]);
    assert!(said.contains("0 accounts can go"), "{said}");
    assert!(said.contains("1 stay by a reason, 1 are in use"), "{said}");
    assert!(run(&["--idle-days", "180", "--allow", "money", "--apply"]).contains("1 accounts"));

    assert!(run(&["--back", "2"]).contains("with --apply"));
    assert!(run(&["--back", "2", "--apply"]).contains("account 2 is back"));
    let (found, said) = mainstay(&[&words[..], &["--back", "2", "--apply"]].concat());
    assert!(!found && said.contains("account 2 is not archived"), "{said}");
    for store in [format!("embedded:{data}/local.store"), to.clone()] {
        assert!(well(&["data", "verify", "--store", &store]).contains("the ledger adds up"));
    }
}

#[test]
fn f26_bad_input_to_the_archive_command_says_what_to_do() {
    let folder = Folder::new("archive");
    let data = filled(&folder);
    let to = format!("embedded:{}", folder.text("archive.store"));
    let same = format!("embedded:{data}/local.store");
    for (more, expected) in [
        (vec!["--archive", &*to], "--idle-days"),
        (vec!["--archive", &to, "--idle-days", "1"], "write 2 or more"),
        (vec!["--archive", &same, "--idle-days", "9"], "is the store itself: name another one"),
        (vec!["--archive", "nonsense", "--idle-days", "9"], "names no store"),
        (vec!["--archive", &to, "--back", "1", "--apply"], "name the one that accounts went to"),
        (vec!["--archive", &to, "--idle-days", "9", "--limit", "0"], "--limit"),
    ] {
        let (went_well, said) =
            mainstay(&[&["data", "archive", "--data", &data], &more[..]].concat());
        assert!(!went_well && said.contains(expected), "{more:?}: {said}");
    }
    assert!(!folder.join("archive.store").exists());
}
