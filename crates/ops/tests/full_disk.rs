//! A log whose disk is full: lines are lost and counted, and nobody waits. The log is one per
//! process, and the disk a small one in memory, so the test runs itself as a child.

#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ops::log::{Log, Options, RollOptions};

const CHILD: &str = "MAINSTAY_LOG_DISK_CHILD";
const NAME: &str = "a_full_disk_loses_counted_lines_and_holds_up_nobody";

/// A command that sees `folder` as an empty disk of 512 KiB, if this system lets us have one.
fn on_small_disk(folder: &Path) -> Option<Command> {
    let script = "mount -t tmpfs -o size=512k none \"$0\" && exec \"$@\"";
    ["-m", "-rm"].into_iter().find_map(|flags| {
        let command = || {
            let mut command = Command::new("unshare");
            command.args([flags, "sh", "-c", script]).arg(folder);
            command
        };
        let probe = command().arg("true").stderr(Stdio::null()).status();
        probe.is_ok_and(|status| status.success()).then(command)
    })
}

#[test]
fn a_full_disk_loses_counted_lines_and_holds_up_nobody() {
    if let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) {
        return fill(&folder);
    }
    let folder = std::env::temp_dir().join(format!("mainstay-full-log-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let Some(mut command) = on_small_disk(&folder) else {
        println!("skipped: neither root nor user namespaces give a disk of our own here");
        return;
    };
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", NAME, "--nocapture", "--test-threads=1"]).env(CHILD, &folder);
    let status = command.status().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(status.success(), "{status}");
}

fn fill(folder: &Path) {
    let ballast = folder.join("ballast");
    std::fs::write(&ballast, vec![1; 300 << 10]).unwrap();
    let files = RollOptions {
        folder: folder.to_owned(),
        name: "test".to_owned(),
        file_bytes_max: 32 << 10,
        files_max: 1_000,
    };
    let options = Options { console: false, files: Some(files), ..Options::default() };
    let log = Log::start(&options).unwrap();
    let (began, mut lines) = (Instant::now(), 0u64);
    while log.lost() == 0 || lines < 20_000 {
        tracing::info!("line {lines} of many that do not all fit on so small a disk");
        lines += 1;
        assert!(began.elapsed() < Duration::from_secs(60), "it was held up at line {lines}");
    }
    log.flush();
    let lost = log.lost();
    assert!(lost > 0 && lost < lines, "{lost} of {lines}");
    // Room again: it goes on, and says how many are missing.
    std::fs::remove_file(&ballast).unwrap();
    tracing::info!("there is room again");
    log.flush();
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let text: String =
        entries.map(|entry| std::fs::read_to_string(entry.path()).unwrap()).collect();
    assert!(text.contains("line 0 of many"), "the first lines were written");
    assert!(text.contains("there is room again"), "{} bytes", text.len());
    assert!(text.contains("log lines lost)"), "it is told that lines are missing");
}
