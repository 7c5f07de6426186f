//! Each server starts, answers, survives a crash with its port, stands still when frozen, and leaves nothing behind.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use servers::{Error, Etcd, Instance, Mariadb, Mongo, Nats, Postgres, Rabbitmq, Redis, Sentinel};

/// The protocol's probe is what `start_again` waits for, so a restart that returns is one that answers.
fn check<S: std::ops::Deref<Target = Instance>>(start: impl FnOnce() -> Result<S, Error>) {
    if servers::skipped() {
        return;
    }
    let server = start().unwrap();
    let folder = server.folder().to_owned();
    let port = server.port();
    assert!(!processes(&folder).is_empty(), "{server:?} runs somewhere else", server = &*server);
    server.kill();
    assert!(processes(&folder).is_empty(), "killed: {}", server.log());
    server.start_again().unwrap();
    server.freeze();
    let states: Vec<_> = processes(&folder).iter().map(|process| state(process)).collect();
    assert!(states.iter().all(|state| state == "T"), "frozen: {states:?}");
    server.thaw();
    server.stop().unwrap();
    assert!(processes(&folder).is_empty(), "stopped: {}", server.log());
    server.start_again().unwrap();
    assert_eq!(server.port(), port);
    drop(server);
    assert!(processes(&folder).is_empty());
    assert!(!folder.exists());
}

/// Processes that work in the folder, as paths in `/proc`.
fn processes(folder: &Path) -> Vec<PathBuf> {
    let all = Path::new("/proc").read_dir().unwrap().flatten().map(|entry| entry.path());
    let within =
        |path: &PathBuf| path.join("cwd").read_link().is_ok_and(|cwd| cwd.starts_with(folder));
    all.filter(within).collect()
}

fn state(process: &Path) -> String {
    let text = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
    let after_name = text.rsplit(')').next().unwrap_or_default();
    after_name.split_whitespace().next().unwrap_or_default().to_owned()
}

#[test]
fn postgres_crashes_and_comes_back() {
    check(Postgres::start);
}

#[test]
fn postgres_standby_is_promoted() {
    if servers::skipped() {
        return;
    }
    let primary = Postgres::start().unwrap();
    let standby = Postgres::standby(&primary, &[]).unwrap();
    primary.kill();
    standby.promote().unwrap();
}

#[test]
fn mariadb_crashes_and_comes_back() {
    check(Mariadb::start);
}

#[test]
fn redis_crashes_and_comes_back() {
    check(Redis::start);
}

#[test]
fn sentinel_makes_a_replica_the_primary() {
    if servers::skipped() {
        return;
    }
    let primary = Redis::start().unwrap();
    let replica = Redis::replica(&primary).unwrap();
    let sentinel = Sentinel::start(&primary, "main", 1).unwrap();
    await_that(|| ask(&sentinel, "SENTINEL replicas main").contains(&replica.port().to_string()));
    primary.kill();
    await_that(|| {
        ask(&sentinel, "SENTINEL get-master-addr-by-name main")
            .contains(&replica.port().to_string())
    });
}

fn ask(server: &Instance, command: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    let mut answer = vec![0; 4096];
    let read = stream.read(&mut answer).unwrap_or(0);
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

fn await_that(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited for a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn mongo_crashes_and_comes_back() {
    check(Mongo::start);
}

#[test]
fn etcd_crashes_and_comes_back() {
    check(Etcd::start);
}

#[test]
fn etcd_works_on_with_two_of_three_members() {
    if servers::skipped() {
        return;
    }
    let members = Etcd::cluster(3).unwrap();
    members[0].kill();
    members[1].stop().unwrap();
    members[1].start_again().unwrap();
}

#[test]
fn nats_crashes_and_comes_back() {
    check(Nats::start);
}

#[test]
fn rabbitmq_crashes_and_comes_back() {
    check(Rabbitmq::start);
}

/// A test process that is killed cannot drop anything; its servers end all the same, also frozen ones.
#[test]
fn servers_end_with_the_process_that_started_them() {
    if servers::skipped() {
        return;
    }
    const CHILD: &str = "MAINSTAY_SERVERS_CHILD";
    if let Ok(file) = std::env::var(CHILD) {
        let postgres = Postgres::start().unwrap();
        postgres.freeze();
        std::fs::write(file, postgres.folder().to_str().unwrap()).unwrap();
        loop {
            std::thread::park();
        }
    }
    let file = std::env::temp_dir().join(format!("mainstay-child-{}", std::process::id()));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "servers_end_with_the_process_that_started_them"])
        .env(CHILD, &file)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let folder = || std::fs::read_to_string(&file).ok().filter(|path| !path.is_empty());
    await_that(|| folder().is_some());
    let folder = PathBuf::from(folder().unwrap());
    assert!(!processes(&folder).is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    await_that(|| processes(&folder).is_empty() && !folder.exists());
    std::fs::remove_file(file).unwrap();
}
