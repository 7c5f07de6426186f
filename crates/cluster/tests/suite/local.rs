//! What several processes of one machine go through with their embedded coordinator.

use std::process::{Child, Command, Stdio};

use cluster::{Cluster, Expect, KeyError};
use env::Clock;

use crate::bench::*;

/// Tells the child which folder to attach to.
const FOLDER: &str = "CLUSTER_FOLDER";

fn attach(folder: &Folder) -> Cluster {
    Cluster::attach(folder.path(), options(), &Clock::system()).unwrap()
}

fn is_there(cluster: &Cluster) -> bool {
    cluster.old_since().is_none()
}

/// Not a test of its own: a process that attaches, lists a node and lives on.
#[test]
fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let cluster = Cluster::attach(folder.as_ref(), options(), &Clock::system()).unwrap();
    let life = Life::start(&cluster, "child");
    let contest = cluster.contend("leader", life.node).unwrap();
    eventually("the child leads", || contest.fence().is_some());
    cluster.put("config/by", *b"child", None, Expect::Any).unwrap();
    std::thread::park();
}

/// Another process that hosts.
fn spawn(folder: &Folder) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["local::child", "--exact", "--nocapture"])
        .env(FOLDER, folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn the_next_process_goes_on_when_the_host_is_killed() {
    let folder = Folder::new("killed");
    let mut child = spawn(&folder);
    let lock = || std::fs::read_to_string(folder.path().join("address"));
    eventually("the child hosts", || lock().is_ok());
    let clusters = [attach(&folder), attach(&folder)];
    let lives = [Life::start(&clusters[0], "a"), Life::start(&clusters[1], "b")];
    let [a, b] = &clusters;
    eventually("the child has set it", || a.get("config/by").is_some());
    let before = lock().unwrap();
    let (leader, fence) = a.holder("leader").unwrap();
    let contest = a.contend("leader", lives[0].node).unwrap();
    eventually("it is in line", || b.range("contest/leader/").0.len() == 2);
    b.put("name/x", *b"", Some(lives[1].node), Expect::Absent).unwrap();
    let mut watch = b.watch("");
    let known = watch.take().len();
    assert!(known >= 5, "two settings, three nodes, two in line: {known}");

    child.kill().unwrap();
    child.wait().unwrap();
    eventually("another process hosts", || lock().unwrap() != before && is_there(a) && is_there(b));
    // What was set is still there, and nobody was off the list for it.
    assert_eq!(&*b.get("config/by").unwrap().value, b"child");
    assert!(names(a).contains("a b"));
    eventually("the dead one leaves", || names(a) == "a b");
    eventually("its lock is free", || contest.fence().is_some_and(|next| next > fence));
    eventually("b knows it", || !b.is_current("leader", fence));
    assert_ne!(b.holder("leader").map(|(node, _)| node), Some(leader));
    eventually("the name is back", || a.get("name/x").is_some());
    let revision = a.put("config/by", *b"a", None, Expect::Any).unwrap();
    assert!(revision > fence);
    eventually("the watch hears it", || {
        watch.take().iter().any(|change| {
            &*change.key == "config/by"
                && change.now.as_ref().is_some_and(|now| &*now.value == b"a")
        })
    });
}

/// A host that stands still is no reason for two: its lock is held, everybody waits, reads go on.
#[cfg(unix)]
#[test]
fn a_host_that_stands_still_is_waited_for() {
    let folder = Folder::new("frozen");
    let mut child = spawn(&folder);
    let lock = || std::fs::read_to_string(folder.path().join("address"));
    eventually("the child hosts", || lock().is_ok());
    let a = attach(&folder);
    let _life = Life::start(&a, "a");
    eventually("all is there", || a.get("config/by").is_some() && names(&a) == "a child");
    let signal = |name: &str| {
        let pid = child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    };
    signal("-STOP");
    eventually("it is missed", || !is_there(&a));
    assert_eq!(names(&a), "a child");
    assert!(a.get("config/by").is_some());
    let written = a.put("config/by", *b"a", None, Expect::Any);
    assert_eq!(written, Err(KeyError::Unavailable));
    signal("-CONT");
    eventually("it is back", || is_there(&a));
    // Nobody could renew while it stood still, and nobody is dead for it.
    assert_eq!(names(&a), "a child");
    a.put("config/by", *b"a", None, Expect::Any).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn settings_and_numbers_survive_all_processes() {
    let folder = Folder::new("all");
    let mut last = 0;
    for round in 0..3 {
        let cluster = attach(&folder);
        eventually("it is there", || is_there(&cluster));
        assert_eq!(cluster.get("config/round").is_some(), round > 0);
        let life = Life::start(&cluster, "a");
        let contest = cluster.contend("leader", life.node).unwrap();
        eventually("it leads", || contest.fence().is_some());
        assert!(contest.fence().unwrap() > last);
        last = contest.fence().unwrap();
        let value = round.to_string().into_bytes();
        cluster.put("config/round", value, None, Expect::Any).unwrap();
        // All at once, as when the machine stops.
        std::mem::forget(contest);
    }
}

#[test]
fn a_state_that_cannot_be_read_is_put_aside() {
    let folder = Folder::new("broken");
    std::fs::create_dir_all(folder.path()).unwrap();
    std::fs::write(folder.path().join("state"), vec![7; 10_000]).unwrap();
    std::fs::write(folder.path().join("address"), "nonsense").unwrap();
    let cluster = attach(&folder);
    let _life = Life::start(&cluster, "a");
    assert_eq!(names(&cluster), "a");
    assert!(folder.path().join("state.bad").exists());
}

/// Tells the child which folder is its small disk.
#[cfg(target_os = "linux")]
const DISK: &str = "CLUSTER_DISK";

/// Not a test of its own: a coordinator whose disk is full for a while.
#[cfg(target_os = "linux")]
#[test]
fn disk_child() {
    let Some(disk) = std::env::var_os(DISK).map(std::path::PathBuf::from) else { return };
    let (place, ballast) = (disk.join("place"), disk.join("ballast"));
    let attach = || {
        let options = cluster::Options { answer_wait: LEASE, ..options() };
        Cluster::attach(&place, options, &Clock::system()).unwrap()
    };
    let cluster = attach();
    cluster.put("config/by", *b"us", None, Expect::Any).unwrap();
    drop(cluster);
    std::fs::write(&ballast, vec![1; 16 << 20]).unwrap_err();
    let cluster = attach();
    let written = cluster.put("config/by", *b"nobody", None, Expect::Any);
    assert_eq!(written, Err(KeyError::Unavailable));
    std::fs::remove_file(&ballast).unwrap();
    eventually("there is room again", || is_there(&cluster));
    assert_eq!(&*cluster.get("config/by").unwrap().value, b"us");
    assert!(!place.join("state.bad").exists());
    // And it fills while the coordinator works.
    std::fs::write(&ballast, vec![1; 16 << 20]).unwrap_err();
    let large = |n: u64| vec![n as u8; 60 << 10];
    let key = |n: u64| format!("config/large-{n}");
    let refused = (0..1_000).find(|n| cluster.put(&key(*n), large(*n), None, Expect::Any).is_err());
    let refused = refused.expect("it is full");
    std::fs::remove_file(&ballast).unwrap();
    eventually("somebody hosts again", || is_there(&cluster));
    for n in 0..refused {
        assert!(cluster.get(&key(n)).is_some_and(|found| *found.value == *large(n)), "{n}");
    }
    cluster.put(&key(refused), large(refused), None, Expect::Any).unwrap();
    println!("it went well");
}

/// The state was put aside because it could not be written, and all settings were gone; or the lock was
/// held for ever by a host that had failed to say where it is.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_takes_no_settings_and_hosting_goes_on_when_there_is_room() {
    let folder = Folder::new("full");
    std::fs::create_dir_all(folder.path()).unwrap();
    let Some(mut command) = servers::small_disk(folder.path(), 12 << 20) else { return };
    command.arg(std::env::current_exe().unwrap()).env(DISK, folder.path());
    command.args(["local::disk_child", "--exact", "--nocapture"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(said.contains("it went well"), "{said}");
}

/// Whoever is on this machine may connect, but not come in.
#[test]
fn who_does_not_show_the_token_is_cut_off() {
    use std::io::{Read, Write};
    let folder = Folder::new("token");
    let cluster = attach(&folder);
    eventually("it is there", || is_there(&cluster));
    let address = std::fs::read_to_string(folder.path().join("address")).unwrap();
    let socket = address.split_whitespace().next().unwrap();
    let hello = |token: &str| {
        let mut body = vec![0x00, 0x01, 0xd9, token.len() as u8];
        body.extend(token.as_bytes());
        body.push(0x00);
        [&(body.len() as u32).to_le_bytes()[..], &body].concat()
    };
    let right = address.split_whitespace().nth(1).unwrap();
    let wrong = "0".repeat(32);
    let cases = [hello(&wrong), vec![0xff; 64], vec![1, 0, 0, 0, 0xc1], hello(right)];
    for (at, bytes) in cases.iter().enumerate() {
        let mut stream = std::net::TcpStream::connect(socket).unwrap();
        stream.write_all(bytes).unwrap();
        let heard = stream.read(&mut [0; 16]);
        // Only the last hears anything.
        assert_eq!(heard.is_ok_and(|count| count > 0), at == 3, "case {at}");
    }
    assert!(is_there(&cluster));
}
