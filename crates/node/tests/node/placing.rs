//! Rooms that are made wherever there is room.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use cluster::{Load, NoPlace};
use node::rt::{Outside, Ref};
use node::{PlaceError, Reservation};
use proto::Incarnation;

use super::*;

/// Nothing that is waited for takes so long but by a fault.
const PATIENCE: Duration = Duration::from_secs(60);

static HELD: AtomicBool = AtomicBool::new(false);

#[entity(root = node::rt, room, create = Battle::new)]
#[derive(Default)]
struct Battle {
    rounds: u64,
}

impl Battle {
    fn new(_: u64) -> Self {
        Battle::default()
    }
}

/// Nobody says how it is made.
#[entity(root = node::rt, room)]
struct Riddle;

#[rpc(root = node::rt)]
impl Riddle {}

/// Lets workers go that hang, also if a test fails.
struct Release;

impl Drop for Release {
    fn drop(&mut self) {
        HELD.store(false, Ordering::SeqCst);
    }
}

#[rpc(root = node::rt)]
impl Battle {
    #[invoke(server)]
    fn fight(&mut self) -> u64 {
        self.rounds += 1;
        self.rounds
    }

    #[tell(server)]
    fn end(&mut self, cx: &mut Cx<Self>) {
        cx.destroy();
    }

    /// Keeps its worker until the test lets it go.
    #[tell(server)]
    fn hang(&mut self) {
        while HELD.load(Ordering::SeqCst) {
            thread::park_timeout(Duration::from_millis(5));
        }
    }
}

impl Process {
    fn field(&mut self, name: &str, rooms_max: u32, roles: &[&str]) -> NodeHandle {
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        let options = NodeOptions { rooms_max, roles, ..options(name, 2) };
        let app = NodeApp::new().kind::<Battle>().kind::<Riddle>();
        Node::start(&app, options, self.env(Key::shared(&[7; 32]))).expect("the node starts")
    }

    /// Waits until each of the nodes has reported a load that `holds`.
    fn until(&self, nodes: &[&NodeHandle], holds: impl Fn(&Load) -> bool) {
        let (mut loads, clock, begun) = (self.cluster.loads(), Clock::system(), Instant::now());
        let mut all = false;
        while !all {
            let now = clock.now();
            loads.take(now);
            let of = |node: &&NodeHandle| loads.of(now, node.incarnation());
            all = nodes.iter().all(|node| of(node).is_some_and(|(load, _)| holds(&load)));
            assert!(begun.elapsed() < PATIENCE, "no such report");
            thread::park_timeout(Duration::from_millis(10));
        }
    }
}

/// Runs something on a node that places rooms, until it is not `Full` because nothing has been reported yet.
fn placed<R: Send + 'static, F: Future<Output = Result<R, PlaceError>> + 'static>(
    node: &NodeHandle,
    act: impl Fn(Outside) -> F + Clone + Send + 'static,
) -> R {
    let begun = Instant::now();
    loop {
        let done = node.spawn(1, act.clone()).blocking_recv().expect("its worker lives");
        match done {
            Ok(value) => return value,
            Err(PlaceError::NoPlace(NoPlace::Full)) => {
                assert!(begun.elapsed() < PATIENCE, "all nodes are full or silent");
                thread::park_timeout(Duration::from_millis(20));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn spawn(node: &NodeHandle) -> Ref<Battle> {
    placed(node, |out| async move { out.placing::<Battle>().spawn().await })
}

fn reserve(node: &NodeHandle) -> Result<Reservation, PlaceError> {
    let reserve = |out: Outside| async move { out.placing::<Battle>().reserve().await };
    node.spawn(1, reserve).blocking_recv().expect("its worker lives")
}

fn take(node: &NodeHandle, seat: Reservation) -> Result<Ref<Battle>, PlaceError> {
    let take = |out: Outside| async move { out.placing::<Battle>().take(&seat).await };
    node.spawn(0, take).blocking_recv().expect("its worker lives")
}

/// So many rooms, by node; each answers.
fn rooms(node: &NodeHandle, count: usize) -> BTreeMap<Incarnation, usize> {
    let mut found = BTreeMap::new();
    for _ in 0..count {
        let room = spawn(node);
        let fights = node.spawn(0, move |out| async move { out.at(room).fight().await });
        assert_eq!(fights.blocking_recv().expect("its worker lives"), Ok(1));
        *found.entry(room.id().home).or_default() += 1;
    }
    found
}

#[test]
fn d8_rooms_are_made_at_all_nodes_and_d15_at_a_new_one_at_once() {
    let mut process = Process::new();
    let first = process.field("a", 0, &[]);
    let second = process.field("b", 0, &[]);
    process.until(&[&first, &second], |_| true);
    // Until the worker has heard of both: what it made by then is at one, and is made up for at the other.
    let begun = Instant::now();
    loop {
        let found = rooms(&first, 40);
        if found.len() == 2 && found.values().all(|count| *count >= 5) {
            break;
        }
        let loads = [&first, &second].map(|node| node.load());
        assert!(begun.elapsed() < PATIENCE, "not spread: {found:?} with {loads:?}");
    }
    process.until(&[&first, &second], |load| load.rooms >= 5);
    let third = process.field("c", 0, &[]);
    let begun = Instant::now();
    while !rooms(&first, 3).contains_key(&third.incarnation()) {
        assert!(begun.elapsed() < PATIENCE, "the new one gets nothing");
    }
    // One that goes in order gets nothing from the moment it says so.
    third.stop();
    let found = rooms(&first, 20);
    assert!(!found.contains_key(&third.incarnation()), "{found:?}");
}

#[test]
fn d8_no_node_gets_more_rooms_than_it_takes_whoever_places_them() {
    let mut process = Process::new();
    let nodes = [process.field("a", 3, &[]), process.field("b", 3, &[])];
    let all = [&nodes[0], &nodes[1]];
    process.until(&all, |load| load.free_slots() == Some(3));
    let mut made = Vec::new();
    let begun = Instant::now();
    // Two choosers in turn, which do not know of each other.
    for n in 0.. {
        match reserve(all[n % 2]) {
            Ok(seat) => {
                assert!(["a", "b"].contains(&seat.name()) && seat.ticket() != 0, "{seat:?}");
                let room = take(all[1 - n % 2], seat.clone()).unwrap();
                assert_eq!(room.id().home, seat.node());
                // Once, by whomever.
                assert_eq!(take(all[0], seat), Err(PlaceError::NoPlace(NoPlace::Gone)));
                made.push(room);
            }
            Err(error) => assert_eq!(error, PlaceError::NoPlace(NoPlace::Full)),
        }
        if made.len() == 6 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{} rooms", made.len());
        thread::park_timeout(Duration::from_millis(5));
    }
    process.until(&all, |load| load.free_slots() == Some(0));
    for node in all {
        assert_eq!(reserve(node), Err(PlaceError::NoPlace(NoPlace::Full)));
    }
    let room = made.pop().unwrap();
    let end = all[1].spawn(0, move |out| async move { out.at(room).end() });
    assert_eq!(end.blocking_recv().unwrap(), Ok(()));
    // Its slot is free again, and given away.
    let next = placed(all[0], |out| async move { out.placing::<Battle>().reserve().await });
    assert_eq!(next.node(), room.id().home);
}

#[test]
fn d8_a_reserved_place_on_a_node_that_died_is_placed_again() {
    let mut process = Process::new();
    let asks = process.field("asks", 0, &[]);
    let dies = process.field("dies", 0, &["battle"]);
    let lives = process.field("lives", 0, &["battle"]);
    process.until(&[&asks, &dies, &lives], |_| true);
    let mut seat = None;
    let begun = Instant::now();
    while seat.as_ref().is_none_or(|seat: &Reservation| seat.node() != dies.incarnation()) {
        let fits =
            |out: Outside| async move { out.placing::<Battle>().role("battle").reserve().await };
        seat = Some(placed(&asks, fits));
        assert!(begun.elapsed() < PATIENCE, "that node is never chosen");
    }
    // Gone before it could be taken.
    drop(dies);
    let room = take(&asks, seat.unwrap()).unwrap();
    assert_eq!(room.id().home, lives.incarnation(), "what was wanted still is");
    let none =
        asks.spawn(0, |out| async move { out.placing::<Battle>().role("none").spawn().await });
    let none = none.blocking_recv().unwrap();
    assert_eq!(none, Err(PlaceError::NoPlace(NoPlace::Nowhere)));
    let riddle = asks.spawn(0, |out| async move { out.placing::<Riddle>().spawn().await });
    let riddle = riddle.blocking_recv().unwrap();
    assert!(matches!(riddle, Err(PlaceError::Call(CallError::Failed(_)))), "{riddle:?}");
}

#[test]
fn d15_a_node_that_hangs_is_not_chosen() {
    let mut process = Process::new();
    let well = process.field("well", 0, &[]);
    let ill = process.field("ill", 0, &[]);
    process.until(&[&well, &ill], |_| true);
    let _release = Release;
    HELD.store(true, Ordering::SeqCst);
    for worker in 0..2 {
        let hang = ill.spawn(worker, |out| async move {
            let room = out.spawn(Battle::default()).expect("there is room");
            out.at(room).hang()
        });
        assert_eq!(hang.blocking_recv().unwrap(), Ok(()));
    }
    process.until(&[&ill], |load| load.mail_delay >= Duration::from_millis(500));
    // Once that has reached the workers.
    let begun = Instant::now();
    while rooms(&well, 1).contains_key(&ill.incarnation()) {
        assert!(begun.elapsed() < PATIENCE, "it is still chosen");
    }
    let found = rooms(&well, 20);
    assert_eq!(found.keys().collect::<Vec<_>>(), [&well.incarnation()]);
}
