//! Meshes joined by a net that jumps time: scripts in, traces out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use env::{Instant, Random};
use expect_test::{Expect, expect};
use proto::Incarnation;
use proto::frame::put_frame;
use proto::link::{LinkFrame, WorkerId};

use crate::{Key, LinkId, Mesh, Options, Output, PeerInfo, SendError, local_frames};

const OWN_PUBLISH: u8 = 0x50;

struct Net {
    now: Instant,
    meshes: Vec<Mesh>,
    /// The other end of each open link.
    wires: BTreeMap<(usize, LinkId), (usize, LinkId)>,
    /// Of nodes with several workers, the mesh that takes connections.
    accepts: BTreeMap<usize, usize>,
    /// Nodes that nobody can connect to.
    unreachable: BTreeSet<usize>,
    /// Nodes whose bytes get lost while their connections stand.
    frozen: BTreeSet<usize>,
    /// Bytes are delivered in pieces of this size.
    piece: usize,
    trace: String,
}

fn id(node: usize) -> WorkerId {
    WorkerId { node: Incarnation(node as u64 + 1), worker: 0 }
}

fn name(node: usize) -> String {
    char::from(b'a' + node as u8).to_string()
}

impl Net {
    fn new(count: usize, options: &Options) -> Self {
        Self::with(count, |_| (options.clone(), Key::shared(&[1; 32])))
    }

    fn with(count: usize, config: impl Fn(usize) -> (Options, Key)) -> Self {
        let meshes = (0..count)
            .map(|node| {
                let (options, key) = config(node);
                let random = Random::from_seed(node as u64);
                let mut mesh = Mesh::new(id(node), &name(node), options, key, random);
                for peer in (0..count).filter(|peer| *peer != node) {
                    let info = PeerInfo { name: name(peer), addresses: Vec::new() };
                    mesh.set_peer(id(peer).node, info);
                }
                mesh
            })
            .collect();
        Net {
            now: Instant::ZERO + Duration::from_secs(1),
            meshes,
            wires: BTreeMap::new(),
            accepts: BTreeMap::new(),
            unreachable: BTreeSet::new(),
            frozen: BTreeSet::new(),
            piece: usize::MAX,
            trace: String::new(),
        }
    }

    fn send(&mut self, from: usize, to: usize, text: &str) -> Result<(), SendError> {
        self.meshes[from].send(self.now, id(to), |out| put_text(out, 0, text))
    }

    /// Does what all meshes ask for until none asks.
    fn settle(&mut self) {
        loop {
            let mut quiet = true;
            for node in 0..self.meshes.len() {
                while let Some(output) = self.meshes[node].poll_output() {
                    quiet = false;
                    self.act(node, output);
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn act(&mut self, node: usize, output: Output) {
        match output {
            Output::Dial { link, to, .. } => {
                let to = to.0 as usize - 1;
                self.note(format!("{} dials {}", name(node), name(to)));
                if self.unreachable.contains(&to) {
                    self.meshes[node].handle_connect_failed(self.now, link);
                    return;
                }
                let to = *self.accepts.get(&to).unwrap_or(&to);
                if let Ok(other) = self.meshes[to].handle_accepted(self.now) {
                    self.wires.insert((node, link), (to, other));
                    self.wires.insert((to, other), (node, link));
                    self.meshes[node].handle_connected(self.now, link);
                } else {
                    self.meshes[node].handle_connect_failed(self.now, link);
                }
            }
            Output::Flush(link) => {
                let bytes = std::mem::take(self.meshes[node].output(link));
                let Some(&(to, other)) = self.wires.get(&(node, link)) else { return };
                if !self.frozen.contains(&node) {
                    self.deliver(to, other, &bytes);
                }
            }
            Output::Close(link) => {
                if let Some((to, other)) = self.wires.remove(&(node, link)) {
                    self.wires.remove(&(to, other));
                    self.meshes[to].handle_closed(self.now, other);
                }
            }
            Output::PeerUp(peer) => {
                self.note(format!("{}: {} up", name(node), name(peer.0 as usize - 1)));
            }
            Output::PeerDown(peer) => {
                self.note(format!("{}: {} down", name(node), name(peer.0 as usize - 1)));
            }
        }
    }

    fn deliver(&mut self, to: usize, link: LinkId, bytes: &[u8]) {
        for piece in bytes.chunks(self.piece.min(bytes.len().max(1))) {
            let mut input = piece;
            while let Some(frame) = self.meshes[to].next_frame(self.now, link, &mut input) {
                let from = name(frame.from.node.0 as usize - 1);
                let text = text_of(&frame.payload).to_owned();
                self.note(format!("{} has {text:?} from {from}", name(to)));
            }
            assert!(input.is_empty());
        }
    }

    /// Adds a second worker of node 1, and gives its mesh's place.
    fn add_worker(&mut self, options: &Options) -> usize {
        let me = WorkerId { worker: 1, ..id(1) };
        let (key, random) = (Key::shared(&[1; 32]), Random::from_seed(99));
        let mut mesh = Mesh::new(me, &name(1), options.clone(), key, random);
        mesh.set_peer(id(0).node, PeerInfo { name: name(0), addresses: Vec::new() });
        self.meshes.push(mesh);
        self.meshes.len() - 1
    }

    /// Has node 0's connection end at its own side alone. Gives the other end.
    fn leave(&mut self) -> (usize, LinkId) {
        let (&(_, link), &other) = self.wires.iter().find(|((node, _), _)| *node == 0).unwrap();
        self.wires.clear();
        self.meshes[0].handle_closed(self.now, link);
        other
    }

    /// What a mesh has for other workers of its node.
    fn batches(&mut self, node: usize) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.meshes[node].poll_local()).map(|(_, batch)| batch).collect()
    }

    /// What a worker reads in such batches.
    fn read(&mut self, node: usize, batches: &[Vec<u8>]) -> Vec<String> {
        let mut texts = Vec::new();
        for batch in batches {
            let mut frames = local_frames(batch);
            while let Some((_, payload)) = self.meshes[node].next_local(self.now, &mut frames) {
                texts.push(text_of(payload).to_owned());
            }
        }
        texts
    }

    /// Breaks all connections between two nodes.
    fn cut(&mut self, one: usize, two: usize) {
        let wires = std::mem::take(&mut self.wires);
        for ((node, link), (to, other)) in wires {
            if (node, to) == (one, two) || (node, to) == (two, one) {
                self.meshes[node].handle_closed(self.now, link);
            } else {
                self.wires.insert((node, link), (to, other));
            }
        }
        self.settle();
    }

    /// Lets time pass, from deadline to deadline.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let next = self.meshes.iter().filter_map(Mesh::poll_timeout).min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = at.max(self.now);
            for mesh in &mut self.meshes {
                mesh.handle_timeout(self.now);
            }
        }
        self.now = end;
        self.settle();
    }

    fn note(&mut self, line: String) {
        writeln!(self.trace, "{line}").unwrap();
    }

    fn check(&mut self, expect: Expect) {
        expect.assert_eq(&std::mem::take(&mut self.trace));
    }
}

fn put_text(out: &mut Vec<u8>, worker: u8, text: &str) {
    LinkFrame::Publish { subject: text, body: b"" }.encode(worker, out);
}

fn text_of(payload: &[u8]) -> &str {
    match LinkFrame::decode(payload) {
        Ok((_, LinkFrame::Publish { subject, .. })) => subject,
        other => panic!("not ours: {other:?}"),
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_first_frame_dials_and_is_kept_until_the_link_is_up() {
    let mut net = Net::new(2, &Options::default());
    net.piece = 3;
    net.send(0, 1, "one").unwrap();
    net.send(0, 1, "two").unwrap();
    net.settle();
    net.send(0, 1, "three").unwrap();
    net.send(1, 0, "back").unwrap();
    net.settle();
    net.check(expect![[r#"
        a dials b
        b: a up
        a: b up
        b has "one" from a
        b has "two" from a
        b has "three" from a
        a has "back" from b
    "#]]);
    assert_eq!(net.meshes[0].counters().links_up, 1);
    assert_eq!(net.meshes[1].counters().dials, 0);
}

#[test]
fn both_dial_at_once_and_each_keeps_its_link() {
    let mut net = Net::new(2, &Options::default());
    net.send(0, 1, "a1").unwrap();
    net.send(1, 0, "b1").unwrap();
    net.settle();
    for round in 2..5 {
        net.send(0, 1, &format!("a{round}")).unwrap();
        net.send(1, 0, &format!("b{round}")).unwrap();
        net.settle();
    }
    net.check(expect![[r#"
        a dials b
        b dials a
        b: a up
        a has "b1" from b
        a: b up
        b has "a1" from a
        b has "a2" from a
        a has "b2" from b
        b has "a3" from a
        a has "b3" from b
        b has "a4" from a
        a has "b4" from b
    "#]]);
    // Both connections stand; nobody was cut off for having lost a race.
    assert_eq!(net.wires.len(), 4);
    net.wait(20 * SECOND);
    assert_eq!(net.wires.len(), 4);
}

#[test]
fn a_broken_link_is_told_and_made_again_for_ever() {
    let mut net = Net::new(2, &Options::default());
    net.send(0, 1, "one").unwrap();
    net.settle();
    net.unreachable.extend([0, 1]);
    net.cut(0, 1);
    net.check(expect![[r#"
        a dials b
        b: a up
        a: b up
        b has "one" from a
        a: b down
        b: a down
    "#]]);
    // Mail waits its time, then fails loudly; then sending fails at once.
    net.send(0, 1, "lost").unwrap();
    net.wait(4 * SECOND);
    assert_eq!(net.send(0, 1, "refused"), Err(SendError::Down));
    assert!(net.trace.ends_with("a: b down\n") || net.trace.contains("a: b down\n"));
    assert!(net.meshes[0].counters().pending_dropped_bytes > 0);
    net.wait(3600 * SECOND);
    let dials = net.meshes[0].counters().dials;
    assert!((360..900).contains(&dials), "{dials} dials in an hour");
    net.unreachable.clear();
    net.trace.clear();
    net.wait(11 * SECOND);
    net.send(0, 1, "again").unwrap();
    net.settle();
    assert!(net.trace.contains("a: b up\n"), "{}", net.trace);
    assert!(net.trace.ends_with("b has \"again\" from a\n"), "{}", net.trace);
}

/// A node that had lost its link sent a newer cast on the next one. The older cast, which was
/// still on its way on the lost link, came after it, for the receiver had not heard of the loss.
#[test]
fn what_comes_late_on_a_link_that_was_left_is_dropped() {
    let mut net = Net::new(2, &Options::default());
    net.send(0, 1, "first").unwrap();
    net.settle();
    let (&(_, link), &(_, other)) = net.wires.iter().find(|((from, _), _)| *from == 0).unwrap();
    net.send(0, 1, "late").unwrap();
    let late = std::mem::take(net.meshes[0].output(link));
    // Only one side hears of the end.
    net.wires.clear();
    net.meshes[0].handle_closed(net.now, link);
    net.wait(SECOND);
    net.send(0, 1, "newer").unwrap();
    net.settle();
    net.deliver(1, other, &late);
    net.settle();
    net.check(expect![[r#"
        a dials b
        b: a up
        a: b up
        b has "first" from a
        a: b down
        a dials b
        a: b up
        b: a down
        b: a up
        b has "newer" from a
    "#]]);
}

/// Seed 201 of the test of links that break while entities move: the next link went to another worker of
/// the node, and what the older link's worker passed on came behind what came by the next.
#[test]
fn what_another_worker_passes_on_late_is_dropped() {
    let options = Options { workers: 2, ..Options::default() };
    let mut net = Net::new(2, &options);
    let second = net.add_worker(&options);
    let to = WorkerId { worker: 1, ..id(1) };
    let send = |net: &mut Net, text: &str| {
        net.meshes[0].send(net.now, to, |out| put_text(out, 1, text)).unwrap();
        net.settle();
    };
    send(&mut net, "first");
    let batches = net.batches(1);
    assert_eq!(net.read(second, &batches), ["first"]);
    send(&mut net, "late");
    let late = net.batches(1);
    net.leave();
    net.accepts.insert(1, second);
    net.wait(SECOND);
    net.trace.clear();
    send(&mut net, "newer");
    assert_eq!(net.trace, "c has \"newer\" from a\n");
    assert_eq!(net.read(second, &late), [""; 0]);
    assert_eq!(net.meshes[second].counters().late_dropped, 1);
    // The other way round: the older link is this worker's own.
    net.meshes[0].send(net.now, to, |out| put_text(out, 1, "late again")).unwrap();
    let (&(_, link), _) = net.wires.iter().find(|((node, _), _)| *node == 0).unwrap();
    let late = std::mem::take(net.meshes[0].output(link));
    let (_, other) = net.leave();
    net.accepts.insert(1, 1);
    net.wait(SECOND);
    send(&mut net, "newest");
    let batches = net.batches(1);
    assert_eq!(net.read(second, &batches), ["newest"]);
    net.trace.clear();
    net.settle();
    assert_eq!(net.trace, "c: a down\n", "what was to be sent by it is lost as well");
    net.deliver(second, other, &late);
    assert_eq!(net.trace, "c: a down\n");
}

#[test]
fn senders_that_are_gone_are_forgotten() {
    let options = Options { workers: 2, ..Options::default() };
    let mut net = Net::new(2, &options);
    for number in 0..10_000 {
        let from = WorkerId { node: Incarnation(1000 + number), worker: 0 };
        let mut lane = crate::local::Lane::default();
        let mark = crate::local::Mark { from, link: 1 };
        lane.push(mark, |out| put_text(out, 0, "x"));
        assert_eq!(net.read(0, &[lane.bytes]), ["x"]);
    }
    assert!(net.meshes[0].senders_known() <= 1024);
}

#[test]
fn a_frozen_peer_is_noticed_and_a_busy_one_is_not_cut_off() {
    let mut net = Net::new(2, &Options::default());
    net.send(0, 1, "one").unwrap();
    net.wait(60 * SECOND);
    net.check(expect![[r#"
        a dials b
        b: a up
        a: b up
        b has "one" from a
    "#]]);
    net.frozen.insert(1);
    net.unreachable.insert(1);
    for _ in 0..29 {
        net.wait(SECOND);
        // Only what comes from b counts as its sign of life.
        let _ = net.send(0, 1, "hello?");
    }
    assert_eq!(net.meshes[0].counters().silent, 1);
    assert!(net.trace.contains("a: b down"));
}

#[test]
fn a_peer_that_only_sends_lives() {
    // Its pongs get lost as well, but data counts.
    let mut net = Net::new(2, &Options::default());
    net.send(0, 1, "one").unwrap();
    net.settle();
    for _ in 0..40 {
        net.wait(5 * SECOND);
        net.send(1, 0, "busy").unwrap();
    }
    assert_eq!(net.meshes[0].counters().silent, 0);
    assert_eq!(net.meshes[0].counters().links_up, 1);
}

#[test]
fn strangers_are_refused_and_counted() {
    let refused = |config: fn(usize) -> (Options, Key)| {
        let mut net = Net::with(2, config);
        net.send(0, 1, "secret").unwrap();
        net.wait(10 * SECOND);
        assert!(!net.trace.contains("secret") && !net.trace.contains("up"), "{}", net.trace);
        net.meshes[1].counters()
    };
    let counters = refused(|node| {
        let cluster = ["one", "two"][node].to_owned();
        (Options { cluster, ..Options::default() }, Key::shared(&[1; 32]))
    });
    assert!(counters.refused_cluster > 1);
    let counters = refused(|node| (Options::default(), Key::shared(&[node as u8; 32])));
    assert!(counters.refused_key > 1);
    let counters = refused(|node| {
        (Options::default(), if node == 0 { Key::none() } else { Key::shared(&[1; 32]) })
    });
    assert!(counters.refused_key > 1);
}

#[test]
fn of_several_addresses_the_first_to_answer_wins() {
    let address = |n: u8| std::net::SocketAddr::from(([10, 0, 0, n], 7000));
    let mut net = Net::new(2, &Options::default());
    let info = PeerInfo { name: "b".into(), addresses: (1..=4).map(address).collect() };
    net.meshes[0].set_peer(id(1).node, info);
    let mut dials = Vec::new();
    let dialed = |net: &mut Net, dials: &mut Vec<(LinkId, String)>| {
        net.now += Duration::from_millis(250);
        net.meshes[0].handle_timeout(net.now);
        while let Some(output) = net.meshes[0].poll_output() {
            let Output::Dial { link, address, .. } = output else { panic!("{output:?}") };
            dials.push((link, address.unwrap().ip().to_string()));
        }
        dials.iter().map(|(_, ip)| ip.as_str()).collect::<Vec<_>>().join(" ")
    };
    net.send(0, 1, "one").unwrap();
    assert_eq!(dialed(&mut net, &mut dials), "10.0.0.1 10.0.0.2");
    // A failure does not wait for the next one's turn.
    net.meshes[0].handle_connect_failed(net.now, dials[1].0);
    assert_eq!(dialed(&mut net, &mut dials), "10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4");
    assert_eq!(dialed(&mut net, &mut dials), "10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4");
    let links: Vec<LinkId> = dials.iter().map(|(link, _)| *link).collect();
    for link in [links[2], links[0]] {
        let other = net.meshes[1].handle_accepted(net.now).unwrap();
        net.wires.insert((0, link), (1, other));
        net.wires.insert((1, other), (0, link));
    }
    net.meshes[0].handle_connected(net.now, links[2]);
    net.settle();
    net.check(expect![[r#"
        b: a up
        a: b up
        b has "one" from a
    "#]]);
    // The slower ones were cancelled, and nobody dials any more.
    assert_eq!(net.wires.len(), 2);
    net.wait(20 * SECOND);
    net.check(expect![[""]]);
    assert_eq!(net.meshes[0].links_held(), (1, 0));
    assert_eq!(net.meshes[0].counters().dials, 4);
    assert_eq!(net.meshes[0].round_trip(id(1).node), Some(Duration::ZERO));
}

#[test]
fn another_node_at_the_address_is_not_taken_for_the_one_meant() {
    let mut net = Net::new(2, &Options::default());
    // b restarted under a new incarnation, but a still dials the old one.
    let old = Incarnation(77);
    net.meshes[0].remove_peer(id(1).node);
    net.meshes[0].set_peer(old, PeerInfo { name: "b".into(), addresses: Vec::new() });
    let to = WorkerId { node: old, worker: 0 };
    net.meshes[0].send(net.now, to, |out| put_text(out, 0, "for the old one")).unwrap();
    let Some(Output::Dial { link, .. }) = net.meshes[0].poll_output() else { panic!() };
    let other = net.meshes[1].handle_accepted(net.now).unwrap();
    net.wires.insert((0, link), (1, other));
    net.wires.insert((1, other), (0, link));
    net.meshes[0].handle_connected(net.now, link);
    net.settle();
    net.check(expect![[""]]);
    assert_eq!(net.meshes[0].counters().refused_identity, 1);
    // A node that dials itself by mistake meets its own name.
    let mut raw = Vec::new();
    let link = net.meshes[1].handle_accepted(net.now).unwrap();
    put_frame(&mut raw, |out| hello(id(1), "b").encode(0, out));
    net.deliver(1, link, &raw);
    assert_eq!(net.meshes[1].counters().refused_identity, 1);
}

fn hello(from: WorkerId, name: &str) -> LinkFrame<'_> {
    LinkFrame::Hello { version: 1, cluster: "mainstay", from, name, nonce: [9; 16] }
}

#[test]
fn hostile_bytes_close_the_link_and_nothing_else() {
    let frame = |frame: &LinkFrame<'_>| {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, |out| frame.encode(0, out));
        bytes
    };
    let hello_of = |version| LinkFrame::Hello {
        version,
        cluster: "mainstay",
        from: id(0),
        name: "a",
        nonce: [9; 16],
    };
    let mut long = vec![0x01, 0, 1, 8];
    long.extend_from_slice(b"mainstay");
    long.extend_from_slice(&[1; 9]);
    proto::put_blob(&mut long, &[b'n'; 257]);
    long.extend_from_slice(&[9; 16]);
    let mut long_name = Vec::new();
    put_frame(&mut long_name, |out| out.extend_from_slice(&long));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty frame", vec![0]),
        ("endless varint", vec![0xff; 16]),
        ("huge length", vec![0xff, 0xff, 0xff, 0xff, 0x0f]),
        ("mail before proof", frame(&LinkFrame::Publish { subject: "x", body: b"" })),
        ("ping before proof", frame(&LinkFrame::Ping { token: 1 })),
        ("proof before hello", frame(&LinkFrame::Prove { proof: [0; 32] })),
        ("other version", frame(&hello_of(2))),
        ("long name", long_name),
        ("zero incarnation", frame(&hello(WorkerId::default(), "z"))),
        ("two hellos", [frame(&hello_of(1)), frame(&hello_of(1))].concat()),
        (
            "wrong proof",
            [frame(&hello_of(1)), frame(&LinkFrame::Prove { proof: [0; 32] })].concat(),
        ),
        ("unknown kind", vec![2, 0xff, 0]),
    ];
    for (what, bytes) in cases {
        for piece in [1, usize::MAX] {
            let mut net = Net::new(2, &Options::default());
            net.piece = piece;
            let link = net.meshes[1].handle_accepted(net.now).unwrap();
            net.deliver(1, link, &bytes);
            let mut outputs = std::iter::from_fn(|| net.meshes[1].poll_output());
            assert!(outputs.any(|output| output == Output::Close(link)), "{what}");
            // What comes after goes nowhere.
            net.deliver(1, link, &bytes);
            assert_eq!(net.trace, "", "{what}");
            assert_eq!(net.meshes[1].links_held(), (0, 0), "{what}");
            net.send(0, 1, "still there").unwrap();
            net.settle();
            assert!(net.trace.ends_with("b has \"still there\" from a\n"), "{what}");
        }
    }
}

#[test]
fn who_connects_and_says_nothing_is_closed() {
    let mut net = Net::new(1, &Options { handshakes_max: 2, ..Options::default() });
    let first = net.meshes[0].handle_accepted(net.now).unwrap();
    let second = net.meshes[0].handle_accepted(net.now).unwrap();
    assert!(net.meshes[0].handle_accepted(net.now).is_err());
    net.now += 5 * SECOND;
    net.meshes[0].handle_timeout(net.now);
    let outputs: Vec<_> = std::iter::from_fn(|| net.meshes[0].poll_output()).collect();
    assert_eq!(outputs, [Output::Close(first), Output::Close(second)]);
    assert_eq!(net.meshes[0].counters().handshake_failures, 2);
    assert!(net.meshes[0].handle_accepted(net.now).is_ok());
}

#[test]
fn a_full_queue_refuses_requests_then_replies_end_the_link() {
    let options = Options {
        queue_bytes_soft: 1000,
        queue_bytes_hard: 2000,
        frame_bytes_max: 300,
        ..Options::default()
    };
    let mut net = Net::new(2, &options);
    net.send(0, 1, "open").unwrap();
    net.settle();
    let text = "x".repeat(200);
    let (bytes, max) = (301, options.frame_bytes_max);
    let sent = net.meshes[0].send(net.now, id(1), |out| out.extend_from_slice(&[0x50; 301]));
    assert_eq!(sent, Err(SendError::TooLong { bytes, max }));
    let sent = (0..20).take_while(|_| net.send(0, 1, &text).is_ok()).count();
    assert_eq!(sent, 5);
    assert_eq!(net.send(0, 1, &text), Err(SendError::Full));
    let now = net.now;
    let reply = |net: &mut Net| net.meshes[0].send_reply(now, id(1), |out| put_text(out, 0, &text));
    let replies = (0..20).take_while(|_| reply(&mut net).is_ok()).count();
    assert_eq!(replies, 5);
    net.trace.clear();
    net.settle();
    assert_eq!(net.meshes[0].counters().overflows, 1);
    assert!(net.trace.starts_with("a: b down\n"), "{}", net.trace);
}

#[test]
fn a_run_of_frames_is_taken_whole_where_a_link_has_room_and_else_not_at_all() {
    let options = Options { queue_bytes_soft: 100, frame_bytes_max: 50, ..Options::default() };
    let mut net = Net::new(2, &options);
    let mut run = Vec::new();
    for text in ["one", "two", "three"] {
        put_frame(&mut run, |out| put_text(out, 0, text));
    }
    let other_worker = WorkerId { worker: 0, ..id(0) };
    for to in [id(1), id(5), other_worker] {
        assert!(!net.meshes[0].send_run(to, &run, 20), "{to:?} has no link");
    }
    net.send(0, 1, "zero").unwrap();
    net.settle();
    net.trace.clear();
    assert!(!net.meshes[0].send_run(id(1), &run, 51), "one is too long");
    assert!(net.meshes[0].send_run(id(1), &run, 20));
    net.send(0, 1, "four").unwrap();
    assert!(!net.meshes[0].send_run(id(1), &[0; 100], 20), "there is no room");
    net.settle();
    let had = ["one", "two", "three", "four"].map(|text| format!("b has {text:?} from a\n"));
    assert_eq!(net.trace, had.concat());
}

#[test]
fn unknown_nodes_and_workers_are_gone() {
    let mut net = Net::new(2, &Options::default());
    assert_eq!(net.send(0, 5, "x"), Err(SendError::Unknown));
    let worker = WorkerId { worker: 9, ..id(0) };
    let sent = net.meshes[0].send(net.now, worker, |out| put_text(out, 9, "x"));
    assert_eq!(sent, Err(SendError::Unknown));
    net.send(0, 1, "one").unwrap();
    net.settle();
    net.meshes[0].remove_peer(id(1).node);
    assert_eq!(net.send(0, 1, "x"), Err(SendError::Unknown));
    net.settle();
    assert!(net.trace.contains("a: b down") && net.trace.contains("b: a down"));
    assert!(net.meshes[0].peer(id(1).node).is_none());
}

#[test]
fn frames_for_other_workers_go_to_their_lanes() {
    let options = Options { workers: 3, ..Options::default() };
    let mut net = Net::new(2, &options);
    let to = |worker| WorkerId { worker, ..id(1) };
    for (worker, text) in [(2, "one"), (1, "two"), (2, "three"), (7, "nobody")] {
        net.meshes[0].send(net.now, to(worker), |out| put_text(out, worker, text)).unwrap();
    }
    net.settle();
    let own = WorkerId { worker: 2, ..id(1) };
    net.meshes[1].send(net.now, own, |out| put_text(out, 2, "own")).unwrap();
    net.meshes[1].send(net.now, id(1), |out| put_text(out, 0, "loop")).unwrap();
    let mesh = &mut net.meshes[1];
    let mut read = Vec::new();
    while let Some((worker, batch)) = mesh.poll_local() {
        let mut frames = local_frames(&batch);
        while let Some((from, payload)) = mesh.next_local(net.now, &mut frames) {
            read.push((worker, from.node.0, text_of(payload).to_owned()));
        }
        mesh.recycle(batch);
    }
    let expected = [(2, 1, "one"), (2, 1, "three"), (2, 2, "own"), (1, 1, "two"), (0, 2, "loop")];
    assert_eq!(read, expected.map(|(worker, from, text)| (worker, from, text.to_owned())));
    assert_eq!(mesh.counters().local_dropped, 1);
    assert_eq!(mesh.counters().forwarded, 3);
}

#[test]
fn a_lane_without_room_rests_and_keeps_its_order() {
    let options = Options { workers: 2, queue_bytes_soft: 100, ..Options::default() };
    let mut mesh = Mesh::new(id(0), "a", options, Key::none(), Random::from_seed(1));
    let to = WorkerId { worker: 1, ..id(0) };
    let now = Instant::ZERO;
    mesh.send(now, to, |out| put_text(out, 1, "one")).unwrap();
    let (worker, batch) = mesh.poll_local().unwrap();
    mesh.send(now, to, |out| put_text(out, 1, "two")).unwrap();
    mesh.handle_local_full(worker, batch);
    mesh.send(now, to, |out| put_text(out, 1, "three")).unwrap();
    assert!(mesh.poll_local().is_none());
    while mesh.send(now, to, |out| put_text(out, 1, "fill")).is_ok() {}
    assert_eq!(mesh.counters().full, 1);
    mesh.handle_local_room(1);
    let (_, batch) = mesh.poll_local().unwrap();
    let mut frames = local_frames(&batch);
    let next = || mesh.next_local(now, &mut frames).map(|(_, payload)| text_of(payload));
    let texts: Vec<_> = std::iter::from_fn(next).collect();
    assert_eq!(texts[..4], ["one", "two", "three", "fill"]);
    assert!(mesh.poll_local().is_none());
}

#[test]
fn the_kinds_of_the_link_itself_are_below_all_others() {
    let mut payload = Vec::new();
    put_text(&mut payload, 0, "x");
    assert_eq!(payload[0], OWN_PUBLISH);
    for (frame, own) in [
        (LinkFrame::Ping { token: 1 }, true),
        (LinkFrame::Pong { token: 1 }, true),
        (LinkFrame::Prove { proof: [0; 32] }, true),
        (LinkFrame::Up { slot: Default::default(), frame: b"" }, false),
    ] {
        payload.clear();
        frame.encode(0, &mut payload);
        assert_eq!(payload[0] < 0x10, own);
    }
}
