//! Disks that fail under a store: a failing sync, by a library that stands before the system's, and
//! a full disk, by a small one in memory.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use store::*;

use crate::folder::Folder;

const CHILD: &str = "MAINSTAY_STORE_DISK_CHILD";
const COPY: &str = "MAINSTAY_STORE_DISK_COPY";
const GOLD: Currency = Currency(1);
const PLAYER: Key = Key(5);

/// The backend goes by the file's name.
fn open(path: &Path) -> Result<Store, OpenError> {
    #[cfg(feature = "sqlite")]
    if path.extension().is_some_and(|ending| ending == "sqlite") {
        return Store::sqlite(path, Options::default());
    }
    Store::embedded(path, Options::default())
}

fn files(folder: &Folder, name: &str) -> Vec<PathBuf> {
    let file = folder.file().with_file_name(name);
    let all = [
        file.with_extension("redb"),
        #[cfg(feature = "sqlite")]
        file.with_extension("sqlite"),
    ];
    all.into()
}

/// Not a test by itself: commits until it is told an error, says what it was told, and copies
/// what lies on the disk.
#[test]
fn disk_child() {
    let Some(path) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    match open(&path) {
        Ok(store) => commit_until_it_fails(&store),
        Err(error) => println!("\nrefused {error}"),
    }
    let Some(copy) = std::env::var_os(COPY).map(PathBuf::from) else { return };
    let name = path.file_name().unwrap();
    for ending in ["", "-wal", "-shm"] {
        let mut name = name.to_owned();
        name.push(ending);
        let from = path.with_file_name(&name);
        if from.exists() {
            std::fs::copy(from, copy.with_file_name(&name)).unwrap();
        }
    }
}

fn commit_until_it_fails(store: &Store) {
    let first = store.audit(0, usize::MAX).wait().unwrap().len() as u128 + 1;
    for id in first..first + 5_000 {
        let data = vec![id as u8; 4_000];
        let make = LedgerOp::Make { item: ItemId(id), kind: ItemKind(1), holder: Key(id), data };
        let mint = LedgerOp::Mint { holder: PLAYER, currency: GOLD, amount: 3 };
        match store.commit(Transaction::new(TxnId(id), 1).with(make).with(mint)).wait() {
            Ok(_) => println!("\ndone {id}"),
            Err(error) => {
                println!("\nfailed {error}");
                break;
            }
        }
    }
    for _ in 0..3 {
        let mint = LedgerOp::Mint { holder: PLAYER, currency: GOLD, amount: 1 };
        match store.commit(Transaction::new(TxnId(1 << 100), 1).with(mint)).wait() {
            Ok(_) => println!("\nafterwards it went on"),
            Err(error) => println!("\nafterwards {error}"),
        }
    }
}

/// What the child said.
#[derive(Debug, Default)]
struct Said {
    done: u128,
    failed: String,
    afterwards: Vec<String>,
}

fn run(mut command: Command) -> Said {
    let Output { status, stdout, .. } = command.stderr(Stdio::inherit()).output().unwrap();
    let text = String::from_utf8(stdout).unwrap();
    assert!(status.success(), "the child did not end well: {text}");
    let mut said = Said::default();
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("done", id)) => said.done = id.parse().unwrap(),
            Some(("failed" | "refused", reason)) => said.failed = reason.to_owned(),
            Some(("afterwards", reason)) => said.afterwards.push(reason.to_owned()),
            _ => {}
        }
    }
    said
}

fn child(store: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "disk::disk_child", "--nocapture", "--test-threads=1"])
        .env(CHILD, store);
    command
}

/// All that was acknowledged is there, and nothing is there in part.
fn check(path: &Path, done: u128) {
    let store = open(path).unwrap();
    let verdict = store.verify().wait().unwrap();
    assert_eq!(verdict.faults, Vec::<String>::new());
    let there = store.audit(0, usize::MAX).wait().unwrap().len() as u128;
    assert!(there >= done && there <= done + 1, "{done} acknowledged, {there} there");
    assert_eq!(verdict.currencies.get(&GOLD).copied().unwrap_or(0), 3 * there);
    assert_eq!(verdict.items.get(&ItemKind(1)).copied().unwrap_or(0), there);
}

const FAILING_SYNC: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>

/* Fails the syncs from number FAIL_FROM on, FAIL_TIMES of them. */
static int fails(void) {
    static int count;
    int now = __sync_add_and_fetch(&count, 1);
    int from = atoi(getenv("FAIL_FROM")), times = atoi(getenv("FAIL_TIMES"));
    return now >= from && now - from < times;
}

#define SYNC(name) \
    int name(int file) { \
        static int (*real)(int); \
        if (!real) real = (int (*)(int)) dlsym(RTLD_NEXT, #name); \
        if (fails()) { errno = EIO; return -1; } \
        return real(file); \
    }
SYNC(fsync)
SYNC(fdatasync)
"#;

fn failing_sync(folder: &Folder) -> PathBuf {
    let (source, library) =
        (folder.file().with_file_name("sync.c"), folder.file().with_file_name("sync.so"));
    std::fs::write(&source, FAILING_SYNC).unwrap();
    let words = [OsStr::new("-shared"), OsStr::new("-fPIC"), OsStr::new("-o"), library.as_ref()];
    let built = Command::new("cc").args(words).arg(&source).arg("-ldl").status();
    assert!(built.expect("a C compiler, which Rust links with").success());
    library
}

/// A sync that failed was tried again and then succeeded, though the system had thrown the pages
/// away ("fsyncgate"): what was acknowledged next was not there after the next start.
#[test]
fn after_a_failed_sync_nothing_more_is_acknowledged() {
    let folder = Folder::new("sync");
    let library = failing_sync(&folder);
    for store in files(&folder, "store") {
        drop(open(&store).unwrap());
        let mut done = 0;
        // Once only, and for ever; at once, and after some have gone well.
        for (from, times) in [(1, 1), (2, 1), (9, 1), (12, 1_000_000), (23, 1)] {
            let mut command = child(&store);
            command.env("LD_PRELOAD", &library);
            command.env("FAIL_FROM", from.to_string()).env("FAIL_TIMES", times.to_string());
            let said = run(command);
            assert!(!said.failed.is_empty(), "{store:?} {from}: {said:?}");
            for reason in &said.afterwards {
                assert!(reason.starts_with("the store has stopped"), "{store:?}: {reason}");
            }
            done = said.done.max(done);
            let there = open(&store).unwrap().audit(0, usize::MAX).wait().unwrap().len() as u128;
            check(&store, done.max(there));
            done = there;
        }
        assert!(done > 0, "{store:?}: no commit went well");
    }
}

/// A command that sees `folder` as an empty disk of 4 MiB, if this system lets us have one.
fn small_disk(folder: &Path, store: &Path, copy: &Path) -> Option<Command> {
    for flags in ["-m", "-rm"] {
        let script = "mount -t tmpfs -o size=4m none \"$0\" && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args([flags, "sh", "-c", script]).arg(folder);
        let mut probe = Command::new("unshare");
        probe.args([flags, "sh", "-c", script]).arg(folder).arg("true").stderr(Stdio::null());
        if probe.status().is_ok_and(|status| status.success()) {
            let child = child(store);
            command.arg(child.get_program()).args(child.get_args());
            command.env(CHILD, store).env(COPY, copy);
            return Some(command);
        }
    }
    None
}

#[test]
fn a_full_disk_ends_the_store_and_loses_nothing() {
    let folder = Folder::new("full");
    let disk = folder.file().with_file_name("disk");
    std::fs::create_dir(&disk).unwrap();
    for copy in files(&folder, "store") {
        let store = disk.join(copy.file_name().unwrap());
        let Some(command) = small_disk(&disk, &store, &copy) else {
            println!("skipped: neither root nor user namespaces give a disk of our own here");
            return;
        };
        let said = run(command);
        assert!(said.done > 20, "{said:?}");
        assert!(!said.failed.is_empty(), "{said:?}");
        for reason in &said.afterwards {
            assert!(reason.starts_with("the store has stopped"), "{store:?}: {reason}");
        }
        check(&copy, said.done);
    }
}
