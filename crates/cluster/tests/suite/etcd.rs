//! What only a cluster of servers can go through.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cluster::{Cluster, Contest, EtcdOptions, Expect, Lost, Watch};
use env::Clock;
use etcd_client::Client;

use crate::bench::*;

fn attach(endpoints: &[String]) -> Cluster {
    let mut etcd = EtcdOptions::new(endpoints.iter().cloned(), "test/");
    etcd.request_wait = Duration::from_secs(2);
    etcd.alive_every = Duration::from_secs(1);
    Cluster::etcd(etcd, options(), &Clock::system()).unwrap()
}

/// One etcd for one case.
pub fn bench() -> Option<Bench> {
    if servers::skipped() {
        return None;
    }
    let etcd = servers::Etcd::start().unwrap();
    let clock = Clock::system();
    Some(Bench { attach: Box::new(move || attach(&[etcd.url()])), clock, slow: true })
}

/// A cluster of three.
struct Three(Vec<servers::Etcd>);

impl Three {
    fn start() -> Option<Three> {
        if servers::skipped() {
            return None;
        }
        Some(Three(servers::Etcd::cluster(3).unwrap()))
    }

    fn urls(&self) -> Vec<String> {
        self.0.iter().map(servers::Etcd::url).collect()
    }

    fn attach(&self) -> Cluster {
        let cluster = attach(&self.urls());
        eventually("etcd is there", || is_there(&cluster));
        cluster
    }

    /// The number of the member that leads.
    fn leader(&self) -> usize {
        let mut found = None;
        eventually("there is a leader", || {
            found = self.0.iter().position(|member| {
                by_hand(&[member.url()], async |client| {
                    let status = client.status().await.unwrap();
                    status.leader() == status.header().unwrap().member_id()
                })
            });
            found.is_some()
        });
        found.unwrap()
    }

    /// Ends all members, does something to their folders, and starts them again.
    fn restart(&self, meanwhile: impl FnOnce()) {
        self.0.iter().for_each(|member| member.kill());
        meanwhile();
        // They wait for each other, so all are started first.
        std::thread::scope(|scope| {
            for member in &self.0 {
                scope.spawn(|| member.start_again().unwrap());
            }
        });
    }

    fn folders(&self) -> Vec<std::path::PathBuf> {
        self.0.iter().map(|member| member.folder().join("data")).collect()
    }
}

/// What another program does at etcd.
fn by_hand<R>(endpoints: &[String], work: impl AsyncFnOnce(&mut Client) -> R) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = Client::connect(endpoints, None).await.unwrap();
        work(&mut client).await
    })
}

fn is_there(cluster: &Cluster) -> bool {
    cluster.old_since().is_none()
}

/// Processes with a node each, a leader among them, a name, and a watch that sums up.
struct Play {
    clusters: [Cluster; 2],
    lives: [Life; 2],
    contests: [Contest; 2],
    watch: Watch,
    sum: BTreeMap<String, Vec<u8>>,
    fence: u64,
    written: u64,
}

impl Play {
    fn start(three: &Three) -> Play {
        let clusters = [three.attach(), three.attach()];
        let lives = [Life::start(&clusters[0], "a"), Life::start(&clusters[1], "b")];
        let line = |at: usize| clusters[at].contend("leader", lives[at].node).unwrap();
        let contests = [line(0), line(1)];
        clusters[0].put("name/x", *b"", Some(lives[0].node), Expect::Absent).unwrap();
        let watch = clusters[1].watch("set/");
        let sum = BTreeMap::new();
        let mut play = Play { clusters, lives, contests, watch, sum, fence: 0, written: 0 };
        play.check();
        play
    }

    /// Everything works, and nothing went back.
    fn check(&mut self) {
        let [a, b] = self.clusters.clone();
        let (a, b) = (&a, &b);
        eventually("both are connected", || is_there(a) && is_there(b));
        eventually("all nodes are back", || names(a) == "a b" && names(b) == "a b");
        eventually("the name is back", || b.get("name/x").is_some());
        let (_, fence) = self.leader();
        assert!(fence >= self.fence, "{fence} after {}", self.fence);
        self.fence = fence;
        self.written += 1;
        let value = self.written.to_string().into_bytes();
        eventually("a setting is written", || {
            // Not over anything: a try of before whose answer was lost may still come.
            let expect = a.get("set/n").map_or(Expect::Absent, |now| Expect::Changed(now.changed));
            a.put("set/n", value.clone(), None, expect).is_ok()
        });
        eventually("the watch adds up", || {
            for change in self.watch.take() {
                match change.now {
                    Some(now) => self.sum.insert(change.key.to_string(), now.value.to_vec()),
                    None => self.sum.remove(&*change.key),
                };
            }
            let all = b.range("set/").0.into_iter();
            let all = all.map(|(key, now)| (key.to_string(), now.value.to_vec()));
            self.sum == all.collect() && self.sum.get("set/n") == Some(&value)
        });
    }

    /// Who leads, and under which number, once exactly one does. Whoever has lost lines up again, which
    /// may be needed at any time: a member that goes on may still drop what it held.
    fn leader(&mut self) -> (usize, u64) {
        let mut leader = None;
        eventually("somebody leads", || {
            for (at, contest) in self.contests.iter_mut().enumerate() {
                let polled = contest.poll_won(&mut Context::from_waker(Waker::noop()));
                if polled == Poll::Ready(Err(Lost)) {
                    *contest = self.clusters[at].contend("leader", self.lives[at].node).unwrap();
                }
            }
            let fences = self.contests.iter().enumerate();
            let held = fences.filter_map(|(at, contest)| Some((at, contest.fence()?)));
            let held: Vec<_> = held.collect();
            leader = held.first().copied().filter(|_| held.len() == 1);
            leader.is_some()
        });
        leader.unwrap()
    }

    /// Hands the lead over: the next number is higher.
    fn check_next(&mut self) {
        self.check();
        let (leads, before) = self.leader();
        let (cluster, node) = (&self.clusters[leads], self.lives[leads].node);
        let old =
            std::mem::replace(&mut self.contests[leads], cluster.contend("leader", node).unwrap());
        drop(old);
        self.check();
        assert!(self.fence > before, "{} after {before}", self.fence);
    }
}

#[test]
fn one_member_is_killed_and_the_leader_stands_still() {
    let Some(three) = Three::start() else { return };
    let mut play = Play::start(&three);
    three.0[0].kill();
    play.check_next();
    three.0[0].start_again().unwrap();
    play.check_next();
    let leader = three.leader();
    three.0[leader].freeze();
    play.check_next();
    three.0[leader].thaw();
    play.check_next();
}

#[test]
fn all_members_stop_for_a_while_and_what_is_known_stays() {
    let Some(three) = Three::start() else { return };
    let mut play = Play::start(&three);
    let [a, b] = play.clusters.clone();
    let mut late = None;
    three.restart(|| {
        eventually("etcd is missed", || !is_there(&a) && !is_there(&b));
        let start = std::time::Instant::now();
        // Longer than a lease.
        eventually("time passes", || start.elapsed() > LEASE * 2);
        assert_eq!((names(&a).as_str(), names(&b).as_str()), ("a b", "a b"));
        assert!(b.get("name/x").is_some() && b.get("set/n").is_some());
        assert!(play.contests.iter().all(|contest| contest.fence().is_none()));
        // A process that starts now is listed later.
        late = Some(Life::begin(&a, info("late")));
    });
    eventually("the late one is listed", || names(&b).contains("late"));
    drop(late);
    eventually("the late one leaves", || names(&b) == "a b");
    play.check_next();
}

#[test]
fn an_emptied_etcd_is_filled_again_and_numbers_rise() {
    let Some(three) = Three::start() else { return };
    let mut play = Play::start(&three);
    for _ in 0..2 {
        let folders = three.folders();
        let directory = play.clusters[0].directory();
        three
            .restart(|| folders.iter().for_each(|folder| std::fs::remove_dir_all(folder).unwrap()));
        let before = play.fence;
        play.check_next();
        assert!(play.fence > before);
        // Nobody was off the list for it.
        for life in &play.lives {
            assert!(directory.node(life.node).is_some());
            assert!(play.clusters[0].directory().node(life.node).is_some());
        }
    }
}

#[test]
fn a_copy_of_earlier_is_restored_and_numbers_rise() {
    let Some(three) = Three::start() else { return };
    let mut play = Play::start(&three);
    let folders = three.folders();
    let copy = |folder: &std::path::Path| folder.with_extension("copy");
    let run = |program: &str, from: &std::path::Path, to: &std::path::Path| {
        let done = std::process::Command::new(program).arg("-a").arg(from).arg(to).status();
        assert!(done.unwrap().success());
    };
    three.restart(|| folders.iter().for_each(|folder| run("cp", folder, &copy(folder))));
    play.check_next();
    let (settings, fence) = (play.written, play.fence);
    play.check_next();
    assert!(play.written > settings && play.fence > fence);
    let before = play.fence;
    three.restart(|| {
        for folder in &folders {
            std::fs::remove_dir_all(folder).unwrap();
            run("cp", &copy(folder), folder);
        }
    });
    play.check_next();
    assert!(play.fence > before);
}

#[test]
fn a_watch_that_fell_behind_what_is_kept_reads_again() {
    let Some(three) = Three::start() else { return };
    let mut play = Play::start(&three);
    let b = &play.clusters[1];
    // Everybody is cut off, while another program goes on and throws the history away.
    let member = &three.0[0];
    let lagging = attach(&[member.url()]);
    eventually("it is there", || is_there(&lagging) && lagging.get("set/n").is_some());
    let mut watch = lagging.watch("set/");
    assert_eq!(watch.take().len(), 1);
    member.freeze();
    for n in 0..50 {
        eventually("b writes on", || {
            b.put("set/other", n.to_string().into_bytes(), None, Expect::Any).is_ok()
        });
    }
    eventually("b deletes", || b.delete("set/n", Expect::Any).is_ok());
    let others: Vec<_> = three.0[1..].iter().map(servers::Etcd::url).collect();
    by_hand(&others, async |client| {
        let revision = client.get("x", None).await.unwrap().header().unwrap().revision();
        client.compact(revision, None).await.unwrap();
    });
    member.thaw();
    // What was asked of the frozen member may still be done, so the last to come is not known.
    let mut sum = BTreeMap::from([("set/n".to_owned(), 0)]);
    eventually("it adds up", || {
        for change in watch.take() {
            match change.now {
                Some(now) => sum.insert(change.key.to_string(), now.changed),
                None => sum.remove(&*change.key),
            };
        }
        let all = b.range("set/").0.into_iter().map(|(key, now)| (key.to_string(), now.changed));
        sum == all.collect() && sum.contains_key("set/other") && !sum.contains_key("set/n")
    });
    play.check_next();
}

/// A setting may be written by any tool, and what the game's check refuses does not come in.
#[test]
fn settings_come_from_other_tools_too() {
    let Some(three) = Three::start() else { return };
    let a = three.attach();
    a.add_check("config/", |_, value| match value {
        b"bad" => Err("bad".to_owned()),
        _ => Ok(()),
    });
    let mut watch = a.watch("config/");
    let mut heard = || {
        let mut last = None;
        eventually("it is heard", || {
            last = watch.take().pop().and_then(|change| change.now);
            last.is_some()
        });
        last.unwrap().value
    };
    let put = |key: &str, value: &str| {
        by_hand(&three.urls(), async |client| drop(client.put(key, value, None).await.unwrap()));
    };
    put("test/k/config/rate", "5");
    assert_eq!(&*heard(), b"5");
    put("test/k/config/rate", "bad");
    put("test/k/config/rate", "6");
    assert_eq!(&*heard(), b"6");
    a.put("config/rate", *b"7", None, Expect::Any).unwrap();
    let read = by_hand(&three.urls(), async |client| {
        client.get("test/k/config/rate", None).await.unwrap().take_kvs().remove(0).value().to_vec()
    });
    assert_eq!(read, b"7");
    // What is not even ours breaks nothing.
    put("test/k/node/nonsense", "x");
    put("test/else", "x");
    let _life = Life::start(&a, "a");
    assert_eq!(names(&a), "a");
}
