use std::time::Duration;

use expect_test::expect;
use macros::{component, entity, rpc, service};
use node::rt::{Component, Cx};
use node::{Activation, Event, HostOptions, Ref};
use proto::frame::{CloseCode, Status};

use crate::actor::{Actor, brief};
use crate::rig::{Rig, say, trace};

const SECOND: Duration = Duration::from_secs(1);

/// A room with two components.
#[entity(root = node::rt, room)]
#[derive(Default)]
struct Room {
    bag: Component<Bag>,
    purse: Component<Purse>,
    name: String,
}

#[rpc(root = node::rt)]
impl Room {
    #[hook]
    fn created(&mut self, cx: &mut Cx<Self>) {
        say(format!("{} created, key {}", self.name, cx.key()));
    }

    #[hook]
    fn destroyed(&mut self, cx: &mut Cx<Self>) {
        say(format!("{} destroyed, timer {}", self.name, cx.has_timer("t")));
    }

    #[invoke]
    fn name(&mut self) -> String {
        self.name.clone()
    }

    #[tell(server)]
    fn close(&mut self, cx: &mut Cx<Self>) {
        cx.after(SECOND).key("t").late();
        cx.destroy();
        say("closing");
    }

    #[invoke]
    async fn linger(&mut self, cx: &mut Cx<Self>, ms: u64) -> bool {
        cx.destroy();
        cx.sleep(Duration::from_millis(ms)).await;
        say("lingered");
        true
    }

    #[timer]
    fn late(&mut self) {
        say("must not be");
    }
}

#[component(root = node::rt, of = Room)]
#[derive(Default)]
struct Bag {
    items: Vec<u64>,
}

#[rpc(root = node::rt)]
impl Bag {
    #[hook]
    fn destroyed(&mut self) {
        panic!("bag is torn");
    }

    #[invoke]
    fn put(&mut self, cx: &mut Cx<Room>, item: u64) -> u64 {
        self.items.push(item);
        // A sibling is reached through the entity.
        cx.with(|room| room.purse.with(|purse| purse.coins += item));
        self.items.len() as u64
    }
}

#[component(root = node::rt, of = Room)]
#[derive(Default)]
struct Purse {
    coins: u64,
}

#[rpc(root = node::rt)]
impl Purse {
    #[hook]
    fn destroyed(&mut self) {
        say(format!("purse had {}", self.coins));
    }

    #[invoke]
    async fn count(&mut self, cx: &mut Cx<Room>) -> u64 {
        cx.next_turn().await;
        self.coins
    }
}

/// Has no state worth keeping.
#[service(root = node::rt)]
#[derive(Default)]
struct Adder;

#[rpc(root = node::rt)]
impl Adder {
    #[invoke]
    async fn add(&self, cx: &mut Cx<Self>, a: u64, b: u64) -> u64 {
        cx.sleep(Duration::from_millis(10)).await;
        a + b
    }
}

/// Hears of news.
#[entity(root = node::rt)]
#[derive(Default)]
struct Listener;

#[rpc(root = node::rt)]
impl Listener {
    #[tell(server)]
    fn listen(&mut self, cx: &mut Cx<Self>) {
        cx.subscribe("news", Listener::events().heard());
    }

    #[event]
    fn heard(&mut self, cx: &mut Cx<Self>, text: String) {
        say(format!("{} heard {text}", cx.key()));
    }

    #[tell(server)]
    fn leave(&mut self, cx: &mut Cx<Self>) {
        cx.destroy();
    }

    #[invoke]
    async fn read(&mut self, cx: &mut Cx<Self>, n: u64) -> u64 {
        cx.blocking(move || n * 2).await.unwrap()
    }
}

fn rig() -> Rig {
    let mut rig = Rig::new(HostOptions::default());
    rig.host().register::<Room>();
    rig.host().register::<Adder>();
    rig.host().register::<Actor>();
    rig
}

fn room(name: &str) -> Room {
    Room { name: name.to_owned(), ..Room::default() }
}

/// Inherited components and destroy crashed in the old engine, and destroyed entities stayed
/// registered.
#[test]
fn x16_destroy_runs_all_hooks_unregisters_and_answers_what_waits() {
    let mut rig = rig();
    let outside = rig.outside();
    let hall = outside.spawn(room("hall")).unwrap();
    assert_eq!(rig.now_done(outside.at(hall).bag().put(5)), Ok(1));
    assert_eq!(rig.now_done(outside.at(hall).purse().count()), Ok(5));
    outside.at(hall).close().unwrap();
    let waiting = outside.at(hall).name();
    rig.start("waiting", async move { brief(waiting.await).replace("256", "KEY") });
    rig.pass(Duration::from_secs(3));
    expect![[r#"
        hall created, key 256
        closing
        hall destroyed, timer true
        purse had 5
        0ms waiting: "Gone(KEY)"
    "#]]
    .assert_eq(&trace());
    // Nothing of it is left.
    let stats = rig.host().stats();
    assert_eq!((stats.kinds[0].entities, stats.kinds[0].timers, stats.alarms), (0, 0, 0));
    assert_eq!(rig.host().find(hall.id()), None);
    let later = outside.at(hall).name();
    assert_eq!(rig.now_done(async move { brief(later.await) }), "Gone(256)");
    assert_eq!(brief(outside.at(hall).close().map(|()| 0)), "Gone(256)");
    let events = rig.events();
    assert!(events.contains("HookFailed"), "{events}");
    assert!(events.contains("component: \"bag\", text: \"bag is torn\""), "{events}");
    assert!(events.contains("Gone ") && events.contains("Goodbye"), "{events}");
}

#[test]
fn destroy_waits_for_the_turn_that_asked_for_it() {
    let mut rig = rig();
    let outside = rig.outside();
    let hall = outside.spawn(room("hall")).unwrap();
    rig.start("linger", outside.at(hall).linger(100));
    let waiting = outside.at(hall).name();
    rig.start("waiting", async move { brief(waiting.await) });
    rig.pass(SECOND);
    expect![[r#"
        hall created, key 256
        lingered
        hall destroyed, timer false
        purse had 0
        100ms linger: Ok(true)
        100ms waiting: "Gone(256)"
    "#]]
    .assert_eq(&trace());
}

#[test]
fn rooms_are_only_spawned_and_never_made_by_name() {
    let mut rig = rig();
    let outside = rig.outside();
    let by_key = outside.entity::<Room>(7).name();
    assert_eq!(rig.now_done(async move { brief(by_key.await) }), "NotFound(7)");
    let hall = outside.spawn(room("hall")).unwrap();
    let yard = outside.spawn(room("yard")).unwrap();
    assert_ne!(hall.id(), yard.id());
    assert_eq!(rig.now_done(outside.at(yard).name()), Ok("yard".into()));
    // One that was never made, and one of a node that nobody knows.
    let mut id = hall.id();
    id.key = 99 << 8;
    let never = outside.at(Ref::<Room>::from_id(id).unwrap()).name();
    assert_eq!(rig.now_done(async move { brief(never.await) }), "NotFound(25344)");
    // A kind that this node does not offer.
    assert!(outside.spawn(Listener).is_err());
    assert_eq!(rig.host().stats().kinds[0].entities, 2);
}

#[test]
fn entities_are_bounded() {
    let mut rig = Rig::new(HostOptions { entities_max: 2, ..HostOptions::default() });
    rig.host().register::<Actor>();
    let outside = rig.outside();
    for key in [1, 2] {
        assert_eq!(rig.now_done(outside.entity::<Actor>(key).add(1)), Ok(1));
    }
    let third = outside.entity::<Actor>(3).add(1);
    assert_eq!(rig.now_done(async move { brief(third.await) }), "Busy(3)");
    rig.host().destroy(Ref::<Actor>::keyed(1).id(), CloseCode::Goodbye);
    assert_eq!(rig.now_done(outside.entity::<Actor>(3).add(1)), Ok(1));
}

#[test]
fn services_run_side_by_side_and_singletons_keep_state() {
    let mut rig = rig();
    let outside = rig.outside();
    rig.start("a", outside.service::<Adder>().add(1, 2));
    rig.start("b", outside.service::<Adder>().add(3, 4));
    rig.pass(SECOND);
    expect![[r#"
        10ms a: Ok(3)
        10ms b: Ok(7)
    "#]]
    .assert_eq(&trace());
}

#[test]
fn mail_waits_while_an_entity_loads() {
    let options = HostOptions { activate_by_event: true, mailbox_max: 2, ..HostOptions::default() };
    let mut rig = Rig::new(options);
    rig.host().register::<Actor>();
    let outside = rig.outside();
    let id = Ref::<Actor>::keyed(1).id();
    for name in ["a", "b", "c"] {
        let call = outside.entity::<Actor>(1).add(1);
        rig.start(name, async move { brief(call.await) });
    }
    rig.settle();
    assert!(matches!(rig.host().activate(id), Activation::Loading));
    assert!(matches!(rig.host().poll_event(), Some(Event::Activate(of)) if of == id));
    assert!(rig.host().poll_event().is_none(), "asked for once");
    rig.pass(SECOND);
    rig.host().handle_activated(id, Ok(()));
    rig.settle();
    assert!(matches!(rig.host().activate(id), Activation::Ready(_)));
    // Another one cannot be loaded.
    let call = outside.entity::<Actor>(2).add(1);
    rig.start("d", async move { brief(call.await) });
    rig.settle();
    rig.host().handle_activated(Ref::<Actor>::keyed(2).id(), Err(Status::Unavailable));
    rig.settle();
    expect![[r#"
        0ms c: "Busy(1)"
        1000ms a: "1"
        1000ms b: "2"
        1000ms d: "Unavailable(2)"
    "#]]
    .assert_eq(&trace());
    assert_eq!(rig.host().stats().kinds[0].entities, 1);
}

#[test]
fn topics_reach_those_who_listen() {
    let mut rig = Rig::new(HostOptions::default());
    rig.host().register::<Listener>();
    let outside = rig.outside();
    for key in [1, 2] {
        outside.entity::<Listener>(key).listen().unwrap();
    }
    rig.settle();
    assert_eq!(rig.events(), "Subscribe(\"news\")\n");
    outside.notify("news", &"rain".to_owned());
    outside.notify("other", &1u64);
    let mut published = Vec::new();
    while let Some(event) = rig.host().poll_event() {
        if let Event::Publish { topic, body } = event {
            published.push((topic, body));
        }
    }
    for (topic, body) in &published {
        rig.host().handle_publish(topic, body);
    }
    rig.host().handle_publish("news", &[0xc1]);
    rig.settle();
    expect![[r#"
        1 heard rain
        2 heard rain
    "#]]
    .assert_eq(&trace());
    outside.entity::<Listener>(1).leave().unwrap();
    outside.entity::<Listener>(2).leave().unwrap();
    rig.settle();
    assert!(rig.events().contains("Unsubscribe(\"news\")"));
}

#[test]
fn blocking_work_is_awaited() {
    let mut rig = Rig::new(HostOptions::default());
    rig.host().register::<Listener>();
    let outside = rig.outside();
    assert_eq!(rig.now_done(outside.entity::<Listener>(1).read(21)), Ok(42));
}

#[test]
fn host_lets_go_of_everything_when_it_is_dropped() {
    let mut rig = rig();
    let outside = rig.outside();
    let alive = std::rc::Rc::new(());
    rig.start("slow", outside.entity::<Actor>(1).slow(10_000));
    let held = std::rc::Rc::clone(&alive);
    let call = outside.entity::<Actor>(1).add(1);
    rig.start("held", async move {
        let _held = held;
        call.await
    });
    rig.settle();
    drop(outside);
    drop(rig);
    assert_eq!(std::rc::Rc::strong_count(&alive), 1);
}
