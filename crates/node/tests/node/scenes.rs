//! Scenes of a zone that tell each other things, wherever they are.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bus::Bus;
use node::rt::Ref;
use node::{NodeBus, PublishStats};

use super::*;

/// Nothing that is waited for takes so long but by a fault.
const PATIENCE: Duration = Duration::from_secs(60);
const NEWS: &str = "zone.east.news";

static HELD: AtomicBool = AtomicBool::new(true);

/// Lets the worker go that hangs, also if the test fails.
struct Release;

impl Drop for Release {
    fn drop(&mut self) {
        HELD.store(false, Ordering::SeqCst);
    }
}

#[entity(root = node::rt, room)]
#[derive(Default)]
struct Field {
    heard: Vec<u64>,
}

type FieldMessage = <Field as node::Entity>::Message;

#[rpc(root = node::rt)]
impl Field {
    #[invoke(server)]
    fn listen(&mut self, cx: &mut Cx<Self>) {
        cx.subscribe(NEWS, FieldMessage::Hear);
    }

    #[tell(server)]
    fn hear(&mut self, _cx: &mut Cx<Self>, said: String) {
        self.heard.push(said[..8].parse().expect("its number"));
    }

    #[invoke(server)]
    fn heard(&mut self) -> Vec<u64> {
        self.heard.clone()
    }

    /// Tells all scenes of the zone as many things, each of about so many bytes.
    #[invoke(server)]
    fn say(&mut self, cx: &mut Cx<Self>, from: u64, count: u64, bytes: u64) {
        for n in from..from + count {
            cx.notify(NEWS, &format!("{n:08}{}", "x".repeat(bytes as usize)));
        }
    }

    /// Keeps its worker until the test lets it go.
    #[tell(server)]
    fn hang(&mut self) {
        while HELD.load(Ordering::SeqCst) {
            thread::park_timeout(Duration::from_millis(5));
        }
    }
}

/// A node as if it were another process: its links are TCP.
fn start(cluster: &Cluster, name: &str, workers: u8, bus: Option<&Bus>) -> NodeHandle {
    let seed = u64::from(workers) << 8 | name.len() as u64;
    let mut process = Process { cluster: cluster.clone(), board: Board::new(), seed };
    let mut env = process.env(Key::shared(&[7; 32]));
    env.bus = bus.map(|bus| NodeBus::new(bus.clone(), true, []).expect("it declares nothing"));
    let mut options =
        NodeOptions { mesh_listen: Some("127.0.0.1:0".parse().unwrap()), ..options(name, workers) };
    // What one node cannot take is soon more than its link holds.
    options.mesh.queue_bytes_soft = 256 * 1024;
    Node::start(&NodeApp::new().kind::<Field>(), options, env).expect("the node starts")
}

/// A scene on each worker of a node.
fn fields(node: &NodeHandle) -> Vec<Ref<Field>> {
    let field = |worker| {
        let made = node.spawn(worker, |outside| async move { outside.spawn(Field::default()) });
        made.blocking_recv().expect("the worker runs").expect("there is room")
    };
    (0..node.workers()).map(field).collect()
}

/// The zone: a source, and those who listen.
struct Zone<'a> {
    source: &'a NodeHandle,
    from: Ref<Field>,
    said: u64,
}

impl Zone<'_> {
    fn say(&mut self, count: u64, bytes: u64) {
        let (from, first) = (self.from, self.said + 1);
        let said = self.source.spawn(0, move |outside| async move {
            outside.at(from).say(first, count, bytes).await
        });
        said.blocking_recv().expect("the worker runs").expect("it answers");
        self.said += count;
    }

    fn heard(&self, field: Ref<Field>) -> Vec<u64> {
        let heard =
            self.source.spawn(0, move |outside| async move { outside.at(field).heard().await });
        heard.blocking_recv().expect("the worker runs").unwrap_or_default()
    }

    /// Has all of them listen, and waits until they are heard of by all.
    fn gather(&mut self, fields: &[Ref<Field>]) {
        let begun = Instant::now();
        for field in fields.iter().copied() {
            let mut listens = false;
            while !listens {
                let told = self
                    .source
                    .spawn(0, move |outside| async move { outside.at(field).listen().await });
                listens = told.blocking_recv().expect("the worker runs").is_ok();
                assert!(begun.elapsed() < PATIENCE, "{field:?} is not there");
            }
        }
        while !fields.iter().all(|field| self.heard(*field).last() == Some(&self.said)) {
            self.say(1, 0);
            thread::park_timeout(Duration::from_millis(20));
            assert!(begun.elapsed() < PATIENCE, "not all are heard of");
        }
    }

    /// Waits until they have heard all that was said after `after`, each once and in order.
    fn until_heard(&self, fields: &[Ref<Field>], after: u64) {
        let begun = Instant::now();
        for field in fields {
            let all: Vec<u64> = (after + 1..=self.said).collect();
            let mut heard = Vec::new();
            while heard.last() != Some(&self.said) {
                assert!(begun.elapsed() < PATIENCE, "{field:?} heard {heard:?} of {all:?}");
                heard = self.heard(*field).into_iter().filter(|n| *n > after).collect();
            }
            assert_eq!(heard, all);
        }
    }
}

fn stats(node: &NodeHandle) -> PublishStats {
    let workers = node.stats().workers;
    let each = workers.iter().flatten().map(|worker| worker.publishes);
    each.fold(PublishStats::default(), |sum, one| PublishStats {
        sent: sum.sent + one.sent,
        heard: sum.heard + one.heard,
        lost: sum.lost + one.lost,
    })
}

#[test]
fn e14_what_is_said_to_many_scenes_goes_once_to_each_node() {
    let cluster = Cluster::embedded(cluster::Options::default());
    let nodes = [("one", 1), ("two", 4), ("three", 2)];
    let nodes = nodes.map(|(name, workers)| start(&cluster, name, workers, None));
    let all: Vec<Vec<Ref<Field>>> = nodes.iter().map(fields).collect();
    let (from, listeners) = (all[0][0], all.concat());
    let mut zone = Zone { source: &nodes[0], from, said: 0 };
    zone.gather(&listeners);
    let (said, before) = (zone.said, nodes.each_ref().map(stats));
    zone.say(40, 100);
    zone.until_heard(&listeners, said);
    let after = nodes.each_ref().map(stats);
    let more = |at: usize, of: fn(&PublishStats) -> u64| of(&after[at]) - of(&before[at]);
    assert_eq!([0, 1, 2].map(|at| more(at, |stats| stats.sent)), [80, 0, 0]);
    assert_eq!([0, 1, 2].map(|at| more(at, |stats| stats.heard)), [0, 40, 40]);
    assert_eq!([0, 1, 2].map(|at| more(at, |stats| stats.lost)), [0; 3]);
}

/// The same over a bus that other processes are on.
#[test]
fn e14_the_bus_has_one_listener_for_each_node() {
    let cluster = Cluster::embedded(cluster::Options::default());
    let bus = Bus::embedded(bus::Options::default(), &Clock::system());
    let nodes = [("one", 1), ("two", 4), ("three", 2)];
    let nodes = nodes.map(|(name, workers)| start(&cluster, name, workers, Some(&bus)));
    let all: Vec<Vec<Ref<Field>>> = nodes.iter().map(fields).collect();
    // The source does not listen itself.
    let (from, listeners) = (all[0][0], all[1..].concat());
    let mut zone = Zone { source: &nodes[0], from, said: 0 };
    zone.gather(&listeners);
    let (said, before) = (zone.said, bus.counters());
    zone.say(40, 100);
    zone.until_heard(&listeners, said);
    let after = bus.counters();
    assert_eq!(after.published - before.published, 40);
    assert_eq!(after.delivered - before.delivered, 80);
    assert!(nodes.iter().all(|node| stats(node).sent == 0), "nothing goes over the mesh");
}

/// One that took nothing any more held up what was meant for all.
#[test]
fn e14_a_slow_node_delays_no_other() {
    let cluster = Cluster::embedded(cluster::Options::default());
    let nodes = [("one", 1), ("two", 2), ("slow", 1)];
    let nodes = nodes.map(|(name, workers)| start(&cluster, name, workers, None));
    let all: Vec<Vec<Ref<Field>>> = nodes.iter().map(fields).collect();
    let mut zone = Zone { source: &nodes[0], from: all[0][0], said: 0 };
    zone.gather(&all[1..].concat());
    let (said, before) = (zone.said, stats(&nodes[0]).lost);
    let slow = all[2][0];
    let _release = Release;
    drop(nodes[2].spawn(0, move |outside| async move { outside.at(slow).hang() }));
    // Until its link holds no more, and some way on: the others hear everything.
    let (mut more, begun) = (10, Instant::now());
    while more > 0 {
        zone.say(10, 10_000);
        zone.until_heard(&all[1], zone.said - 10);
        more -= u64::from(stats(&nodes[0]).lost > before);
        assert!(begun.elapsed() < PATIENCE, "nothing was lost: the node is not slow");
    }
    zone.until_heard(&all[1], said);
    HELD.store(false, Ordering::SeqCst);
    // It goes on with what its link held, and hears what is said from now on.
    let begun = Instant::now();
    while zone.heard(slow).last() != Some(&zone.said) {
        zone.say(1, 0);
        thread::park_timeout(Duration::from_millis(20));
        assert!(begun.elapsed() < PATIENCE, "it hears nothing any more");
    }
    assert!(zone.heard(slow).len() < zone.said as usize, "it missed some");
}
