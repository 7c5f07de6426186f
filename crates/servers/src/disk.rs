use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::Error;

/// A pattern as of the shell: syncs of files and folders whose paths it fits fail under the library of
/// [`failing_sync`].
pub const SYNC_FAILS: &str = "SYNC_FAILS";

const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int fails(int file) {
    char link[64], path[4096];
    const char *pattern = getenv("SYNC_FAILS");
    if (!pattern) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fnmatch(pattern, path, 0) == 0;
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

/// A library in `folder` that a command loads by `LD_PRELOAD`: syncs fail as [`SYNC_FAILS`] says.
///
/// # Errors
/// There is no C compiler, which Rust links with.
pub fn failing_sync(folder: &Path) -> Result<PathBuf, Error> {
    let (source, library) = (folder.join("sync.c"), folder.join("sync.so"));
    std::fs::write(&source, LIBRARY).map_err(Error::system("source of a library"))?;
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
    let built = cc.output().map_err(Error::system("cc"))?;
    if built.status.success() {
        return Ok(library);
    }
    let output = String::from_utf8_lossy(&built.stderr).into_owned();
    Err(Error::Program { program: "cc".to_owned(), output })
}

/// The beginning of a command that sees `folder` as an empty disk of `bytes` of its own, gone with the command: the
/// program and its arguments follow. `None`, with a line that says so, where this system lets us have none.
pub fn small_disk(folder: &Path, bytes: usize) -> Option<Command> {
    let script = format!("mount -t tmpfs -o size={bytes} none \"$0\" && exec \"$@\"");
    let command = |flags: &str| {
        let mut command = Command::new("unshare");
        command.args([flags, "sh", "-c", &script]).arg(folder);
        command
    };
    let works = |flags: &&str| {
        let probe = command(flags).arg("true").stderr(Stdio::null()).status();
        probe.is_ok_and(|status| status.success())
    };
    let flags = ["-m", "-rm"].into_iter().find(works);
    if flags.is_none() {
        println!("skipped: neither root nor user namespaces give a disk of our own here");
    }
    flags.map(command)
}
