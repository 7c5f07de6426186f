use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Processes that work in `folder` or below: a server with all it started, also what left its process group.
pub(crate) fn within(folder: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    ids.filter(|id| {
        fs::read_link(format!("/proc/{id}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
    })
    .filter_map(Pid::from_raw)
    .collect()
}

/// Sends `signal` until each process in `folder` had it: new ones may appear meanwhile.
pub(crate) fn signal_all(folder: &Path, signal: Signal) {
    let mut told = Vec::new();
    loop {
        let new: Vec<_> = within(folder).into_iter().filter(|pid| !told.contains(pid)).collect();
        if new.is_empty() {
            return;
        }
        for pid in new {
            // It may be gone already, which is as good.
            let _ = kill_process(pid, signal);
            told.push(pid);
        }
    }
}

/// Whether each thread of each process in `folder` stands still: a stop signal takes its time.
pub(crate) fn all_stopped(folder: &Path) -> bool {
    within(folder).into_iter().all(|pid| {
        let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_pid()));
        tasks.is_ok_and(|tasks| tasks.flatten().all(|task| stopped(&task.path())))
    })
}

fn stopped(task: &Path) -> bool {
    // The state follows the name, which stands in parentheses. A thread that is gone counts.
    fs::read_to_string(task.join("stat")).map_or(true, |text| {
        let state = text.rsplit(") ").next().and_then(|rest| rest.chars().next());
        matches!(state, Some('T' | 't' | 'Z' | 'X'))
    })
}

/// Calls `done` until it holds, at most for `limit`; whether it held.
pub(crate) fn poll(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if done() {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// User and group of `name`, if this process may become it and it exists.
pub(crate) fn user(name: &str) -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let text = fs::read_to_string("/etc/passwd").ok()?;
    let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Gives a folder and all in it to `user`.
pub(crate) fn give(folder: &Path, user: (u32, u32)) -> std::io::Result<()> {
    std::os::unix::fs::lchown(folder, Some(user.0), Some(user.1))?;
    if folder.symlink_metadata()?.is_dir() {
        for entry in fs::read_dir(folder)? {
            give(&entry?.path(), user)?;
        }
    }
    Ok(())
}

/// Copies a folder with all in it.
pub(crate) fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()))?;
        } else {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    fs::set_permissions(to, fs::metadata(from)?.permissions())
}
