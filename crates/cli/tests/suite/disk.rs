//! Disks that fail under `mainstay data export`: no half a copy passes for one.

#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mainstay::store::{ItemId, ItemKind, Key, LedgerOp, Options, Store, Transaction, TxnId};

use crate::command::Folder;

/// A store of some hundred KiB.
fn filled(folder: &Folder) -> PathBuf {
    let file = folder.join("data/local.store");
    std::fs::create_dir_all(folder.join("data")).unwrap();
    let store = Store::embedded(&file, Options::default()).unwrap();
    for id in 1..=100 {
        let (item, data) = (ItemId(id), vec![id as u8; 3_000]);
        let make = LedgerOp::Make { item, kind: ItemKind(1), holder: Key(id), data };
        store.commit(Transaction::new(TxnId(id), 1).with(make)).wait().unwrap();
    }
    file
}

fn export(data: &Path, copy: &Path) -> Vec<String> {
    let folder = data.parent().unwrap();
    let (copy, folder) = (copy.display().to_string(), folder.display().to_string());
    vec!["data".to_owned(), "export".to_owned(), copy, "--data".to_owned(), folder]
}

fn left_in(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).collect()
}

/// Fails to sync the files whose names end in `.part`.
const FAILING_SYNC: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int fails(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path);
    return length > 5 && memcmp(path + length - 5, ".part", 5) == 0;
}

#define SYNC(name) \
    int name(int file) { \
        static int (*real)(int); \
        if (!real) real = (int (*)(int)) dlsym(RTLD_NEXT, #name); \
        if (fails(file)) { errno = EIO; return -1; } \
        return real(file); \
    }
SYNC(fsync)
SYNC(fdatasync)
"#;

#[test]
fn an_export_whose_sync_fails_leaves_no_copy() {
    let folder = Folder::new("export-sync");
    let data = filled(&folder);
    let (source, library) = (folder.join("sync.c"), folder.join("sync.so"));
    std::fs::write(&source, FAILING_SYNC).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
    assert!(cc.status().expect("a C compiler, which Rust links with").success());
    let copies = folder.join("copies");
    std::fs::create_dir(&copies).unwrap();
    let words = export(&data, &copies.join("copy"));
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        command.args(&words);
        command
    };
    let failed = command().env("LD_PRELOAD", &library).output().unwrap();
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(!failed.status.success() && said.contains("was not written"), "{said}");
    assert!(left_in(&copies).is_empty());
    assert!(command().output().unwrap().status.success(), "and without it, it is written");
}

#[test]
fn an_export_onto_a_full_disk_leaves_no_copy() {
    let folder = Folder::new("export-full");
    let data = filled(&folder);
    let small = folder.join("small");
    std::fs::create_dir(&small).unwrap();
    // What is left on the small disk is told as the last line.
    let script = "mount -t tmpfs -o size=64k none \"$0\" || exit 77; \"$@\"; \
                  code=$?; echo \"left: $(ls -A \"$0\")\"; exit $code";
    for flags in ["-m", "-rm"] {
        let mut command = Command::new("unshare");
        command.args([flags, "sh", "-c", script]).arg(&small);
        command.arg(env!("CARGO_BIN_EXE_mainstay")).args(export(&data, &small.join("copy")));
        let Ok(done) = command.stdin(Stdio::null()).output() else { continue };
        let said = [done.stdout, done.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        if done.status.code() == Some(77) || !said.contains("left:") {
            continue;
        }
        assert!(!done.status.success() && said.contains("was not written"), "{said}");
        assert!(said.contains("left: \n"), "{said}");
        return;
    }
    println!("skipped: neither root nor user namespaces give a disk of our own here");
}
