//! Disks that fail under the command: no half a copy passes for one, and no keys are used that may be
//! gone after a power cut.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mainstay::store::{ItemId, ItemKind, Key, LedgerOp, Options, Store, Transaction, TxnId};
use servers::{SYNC_FAILS, failing_sync, small_disk};

use crate::command::{Folder, well};

/// A store of some hundred KiB.
fn filled(folder: &Folder) -> String {
    std::fs::create_dir_all(folder.join("data")).unwrap();
    let store = Store::embedded(folder.join("data/local.store"), Options::default()).unwrap();
    for id in 1..=100 {
        let (item, data) = (ItemId(id), vec![id as u8; 3_000]);
        let make = LedgerOp::Make { item, kind: ItemKind(1), holder: Key(id), data };
        store.commit(Transaction::new(TxnId(id), 1).with(make)).wait().unwrap();
    }
    folder.text("data")
}

fn left_in(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).collect()
}

/// Runs a command to its end: whether it went well, and what it said.
fn said(mut command: Command) -> (bool, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// The command where syncs of what fits `pattern` fail.
fn unsynced(library: &Path, pattern: &str, words: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
    command.args(words).env("LD_PRELOAD", library).env(SYNC_FAILS, pattern);
    said(command)
}

#[test]
fn an_export_whose_sync_fails_leaves_the_copy_that_was_there() {
    let folder = Folder::new("export-sync");
    let data = filled(&folder);
    let library = failing_sync(&folder.join("")).unwrap();
    let copies = folder.join("copies");
    std::fs::create_dir(&copies).unwrap();
    let copy = copies.join("copy").display().to_string();
    let words = ["data", "export", &copy, "--data", &data, "--force"];
    let (went_well, told) = unsynced(&library, "*.part", &words);
    assert!(!went_well && told.contains("was not written"), "{told}");
    assert_eq!(left_in(&copies), Vec::<PathBuf>::new());
    // Its name may be lost: nobody is told that it is written.
    let (went_well, told) = unsynced(&library, "*/copies", &words);
    assert!(!went_well && told.contains("a power cut may take it"), "{told}");
    assert!(!told.contains("is written"), "{told}");
    well(&words);
    let whole = std::fs::read(&copy).unwrap();
    let (went_well, told) = unsynced(&library, "*.part", &words);
    assert!(!went_well && told.contains("was not written"), "{told}");
    assert!(std::fs::read(&copy).unwrap() == whole, "the older copy is as it was");
    assert_eq!(left_in(&copies).len(), 1);
}

#[test]
fn an_export_onto_a_full_disk_leaves_no_copy() {
    let folder = Folder::new("export-full");
    let data = filled(&folder);
    let small = folder.join("small");
    std::fs::create_dir(&small).unwrap();
    let Some(mut command) = small_disk(&small, 64 << 10) else { return };
    // What is left on the small disk is told as the last line.
    let script = "\"$@\"; code=$?; echo \"left: $(ls -A \"$0\")\"; exit $code";
    command.args(["sh", "-c", script]).arg(&small).arg(env!("CARGO_BIN_EXE_mainstay"));
    let copy = small.join("copy").display().to_string();
    command.args(["data", "export", &copy, "--data", &data]);
    let (went_well, told) = said(command);
    assert!(!went_well && told.contains("was not written"), "{told}");
    assert!(told.contains("No space left"), "{told}");
    assert!(told.contains("left: \n"), "{told}");
}

const DEMO: [&str; 6] = ["demo", "--bots", "0", "--listen", "127.0.0.1:0", "--data"];

#[test]
fn keys_that_cannot_be_kept_are_not_used() {
    let folder = Folder::new("keys-sync");
    let library = failing_sync(&folder.join("")).unwrap();
    let data = folder.text("data");
    let words: Vec<&str> = DEMO.into_iter().chain([data.as_str()]).collect();
    let (went_well, told) = unsynced(&library, "*/keys.json.*", &words);
    assert!(!went_well && told.contains("keys cannot be kept here"), "{told}");
    assert_eq!(left_in(&folder.join("data")), Vec::<PathBuf>::new(), "no draft with keys in it");
    // The name of the file is as much needed as what is in it.
    let (went_well, told) = unsynced(&library, "*/data", &words);
    assert!(!went_well && told.contains("keys cannot be kept here"), "{told}");
}

#[test]
fn a_full_disk_leaves_no_draft_of_keys() {
    let folder = Folder::new("keys-full");
    let small = folder.join("small");
    std::fs::create_dir(&small).unwrap();
    let Some(mut command) = small_disk(&small, 64 << 10) else { return };
    let script = "cat /dev/zero >\"$0/ballast\" 2>/dev/null; \
                  \"$@\"; code=$?; echo \"left: $(ls -A \"$0\")\"; exit $code";
    command.args(["sh", "-c", script]).arg(&small).arg(env!("CARGO_BIN_EXE_mainstay"));
    command.args(DEMO).arg(&small);
    let (went_well, told) = said(command);
    assert!(!went_well && told.contains("keys cannot be kept here"), "{told}");
    assert!(told.contains("No space left") && told.contains("left: ballast\n"), "{told}");
}
