//! What the attribute macros write, run by the host. Every test runs twice: with local calls as
//! typed values, and with every call encoded and decoded.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use env::{Clock, Instant, WallTime};
use expect_test::{Expect, expect};
use node::rt::{
    CallError, CloseCode, Component, Cx, Entity, Failure, Group, MethodId, Outside, Peer, Ref,
    Status, This, Times,
};
use node::{
    Activation, ClientMessage, ClientOut, ClientRequest, Event, Host, HostOptions, HostSetup,
    PeerInfo, Target,
};
use proto::link::Slot;
use proto::schema::SchemaBuilder;
use proto::{AccountId, Bytes, SessionId};

use macros::{Message, client, component, entity, rpc, service};

// -- a host with a clock that only the test moves --

struct Bench {
    host: Host,
    now: Instant,
    events: Vec<String>,
}

impl Bench {
    fn new(encode_all: bool) -> Self {
        let (clock, _) = Clock::manual(WallTime(1_700_000_000_000));
        let options = HostOptions { encode_all, ..HostOptions::default() };
        let now = clock.now();
        let host = Host::new(options, HostSetup::alone(clock, 7));
        Bench { host, now, events: Vec::new() }
    }

    /// Runs all that is ready; what is published comes back, as a worker would bring it.
    fn turn(&mut self) {
        loop {
            while self.host.turn(self.now, WallTime(self.now.as_millis())) == Some(self.now) {}
            let mut published = Vec::new();
            while let Some(event) = self.host.poll_event() {
                match event {
                    Event::Publish { topic, body } => published.push((topic, body)),
                    other => self.events.push(format!("{other:?}")),
                }
            }
            if published.is_empty() {
                return;
            }
            for (topic, body) in published {
                self.host.handle_publish(&topic, &body);
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        self.turn();
        while let Some(at) = self.host.next_turn().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.turn();
        }
        self.now = end;
        self.turn();
    }

    /// Runs code outside of entities to its end, jumping over waits.
    fn run<F: Future>(&mut self, code: impl FnOnce(Outside) -> F) -> F::Output {
        let mut future = pin!(code(self.host.outside()));
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        for _ in 0..1_000 {
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return output;
            }
            self.turn();
            if !woken.0.swap(false, Ordering::Relaxed)
                && let Some(at) = self.host.next_turn()
            {
                self.now = self.now.max(at);
                self.turn();
            }
        }
        panic!("the code waits for ever");
    }

    /// Has a keyed entity of kind `E` and a client bound to it.
    fn bind<E: Entity>(&mut self, key: u64, account: u64) -> (Target, Peer) {
        let id = Ref::<E>::keyed(key).id();
        let target = match self.host.activate(id) {
            Activation::Ready(target) => target,
            other => panic!("{other:?}"),
        };
        let peer = Peer::new(PeerInfo {
            slot: Slot { index: account as u32, generation: 1 },
            session: SessionId([account as u8; 16]),
            account: AccountId(account),
            level: 1,
            handle: 1,
            stream: "test".into(),
        });
        self.host.online(target, &peer);
        self.turn();
        (target, peer)
    }

    /// Sends what a client would; gives the reply if it was a request.
    fn deliver(
        &mut self,
        to: &(Target, Peer),
        method: MethodId,
        body: &[u8],
        request: bool,
    ) -> Result<Option<(Status, Vec<u8>)>, Status> {
        let request = request.then_some(ClientRequest { tag: 5, wait: None });
        let message = ClientMessage { method, body, request };
        self.host.deliver_client(self.now, to.0, &to.1, message)?;
        self.wait(Duration::from_secs(10));
        let mut reply = None;
        self.host.drain_clients(|out| {
            if let ClientOut::Reply { tag: 5, status, body, .. } = out {
                reply = Some((status, body.to_vec()));
            }
        });
        Ok(reply)
    }

    fn ask(&mut self, to: &(Target, Peer), method: MethodId, body: &[u8]) -> String {
        match self.deliver(to, method, body, true) {
            Ok(Some((status, body))) => format!("{status:?} {body:02x?}"),
            Ok(None) => "no reply".to_owned(),
            Err(status) => format!("refused {status:?}"),
        }
    }
}

/// Whether the code outside was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a test in both modes. What the first leaves behind is compared with what is expected, the
/// second with the first.
fn both(test: impl Fn(Bench)) {
    FIRST.with(|first| *first.borrow_mut() = Some(VecDeque::new()));
    test(Bench::new(false));
    let first = FIRST.with(|first| first.borrow_mut().take());
    SECOND.with(|second| *second.borrow_mut() = first.unwrap_or_default());
    test(Bench::new(true));
}

/// What handlers leave behind: shared by the entities of one test through their creation.
type Trace = Rc<RefCell<Vec<String>>>;

thread_local! {
    /// The trace of the test on this thread, for entities that are made by their key.
    static TRACE: Trace = Trace::default();
    /// Traces of the run in the first mode, while it runs.
    static FIRST: RefCell<Option<VecDeque<String>>> = RefCell::default();
    /// What is left of them in the second.
    static SECOND: RefCell<VecDeque<String>> = RefCell::default();
}

fn note(line: impl Into<String>) {
    TRACE.with(|trace| trace.borrow_mut().push(line.into()));
}

fn check(expected: &Expect) {
    let text = TRACE.with(|trace| std::mem::take(&mut *trace.borrow_mut())).join("\n");
    expect_in_turn(expected, text);
}

/// Compares in the first mode with what is expected, in the second with the first.
fn expect_in_turn(expected: &Expect, text: String) {
    let is_first = FIRST.with(|first| {
        let mut first = first.borrow_mut();
        if let Some(first) = &mut *first {
            first.push_back(text.clone());
        }
        first.is_some()
    });
    if is_first {
        expected.assert_eq(&text);
    } else {
        assert_eq!(SECOND.with(|second| second.borrow_mut().pop_front()), Some(text));
    }
}

// -- an entity --

#[derive(Clone, Debug, PartialEq, Message)]
#[message(root = proto)]
enum BuyError {
    Poor { missing: u64 },
    Closed,
}

/// Counts.
#[entity(root = node::rt, mailbox_max = 16, alias = "tally")]
#[derive(Default)]
struct Counter {
    count: u64,
}

#[rpc(root = node::rt)]
impl Counter {
    /// Adds and gives the sum.
    #[request(client, rate = "100/s", level = 1)]
    #[invoke(deadline = "2s", idempotent, alias = "plus")]
    fn add(&mut self, cx: &mut Cx<Self>, #[arg(range = 1..=100)] count: u64) -> u64 {
        let _ = cx.key();
        self.count += count;
        self.count
    }

    #[invoke]
    fn get(&self) -> u64 {
        self.count
    }

    #[request(client)]
    #[invoke]
    async fn buy(&mut self, cx: &mut Cx<Self>, price: u64) -> Result<u64, BuyError> {
        cx.sleep(Duration::from_millis(30)).await;
        match self.count.checked_sub(price) {
            Some(left) => {
                self.count = left;
                Ok(left)
            }
            None if price > 1_000 => Err(BuyError::Closed),
            None => Err(BuyError::Poor { missing: price - self.count }),
        }
    }

    #[tell(client, server)]
    fn name(&mut self, #[arg(len = "1..=3")] name: String, _others: Vec<Option<u8>>) {
        note(format!("named {name}"));
    }

    #[tell(client, latest)]
    fn aim(&mut self, angle: u16) {
        note(format!("aims at {angle}"));
    }

    #[invoke]
    async fn relay(&mut self, cx: &mut Cx<Self>, to: Ref<Self>, count: u64) -> Result<u64, String> {
        cx.at(to).add(count).await.map_err(|error| error.to_string())
    }

    #[invoke(operator)]
    fn reset(&mut self) {
        self.count = 0;
    }

    #[timer]
    fn regen(&mut self, cx: &mut Cx<Self>, amount: u64, label: String) {
        self.count += amount;
        note(format!("{label} {} at {}", self.count, cx.now().as_millis()));
    }

    #[timer]
    async fn late(&mut self, cx: &mut Cx<Self>) -> Result<(), String> {
        cx.sleep(Duration::from_millis(5)).await;
        Err("no luck".to_owned())
    }

    #[invoke]
    fn start(&mut self, cx: &mut Cx<Self>) {
        let every = Duration::from_millis(100);
        cx.every(every, every, 3).key("regen").regen(2, "tick".to_owned());
        cx.after(Duration::from_millis(150)).late();
    }

    #[invoke(interleave)]
    async fn watch(this: This<Self>, cx: &mut Cx<Self>, rounds: u32) -> Vec<u64> {
        let mut seen = Vec::new();
        for _ in 0..rounds {
            cx.sleep(Duration::from_millis(20)).await;
            seen.push(this.with(|state| state.count));
        }
        seen
    }

    fn helper(&self) -> u64 {
        self.count * 2
    }
}

#[test]
fn calls_answer_with_values_and_with_the_methods_own_errors() {
    both(|mut bench| {
        bench.host.register::<Counter>();
        bench.run(|out| async move {
            let counter = out.entity::<Counter>(1);
            assert_eq!(counter.add(5).await, Ok(5));
            assert_eq!(counter.add(7).await, Ok(12));
            assert_eq!(counter.get().await, Ok(12));
            assert_eq!(counter.buy(10).await, Ok(2));
            let poor = BuyError::Poor { missing: 8 };
            assert_eq!(counter.buy(10).await, Err(Failure::App(poor)));
            assert_eq!(counter.buy(5_000).await, Err(Failure::App(BuyError::Closed)));
            assert_eq!(counter.relay(Ref::keyed(2), 3).await, Ok(3));
            assert_eq!(out.entity::<Counter>(2).get().await, Ok(3));
            assert_eq!(out.operator().entity::<Counter>(2).reset().await, Ok(()));
            assert_eq!(out.entity::<Counter>(2).get().await, Ok(0));
            assert_eq!(Counter { count: 4 }.helper(), 8);
        });
    });
}

#[test]
fn arguments_outside_their_limits_never_reach_the_handler() {
    both(|mut bench| {
        bench.host.register::<Counter>();
        let problem = bench.run(|out| async move {
            let counter = out.entity::<Counter>(1);
            assert!(matches!(counter.add(0).await, Err(CallError::BadArgument { .. })));
            let told = counter.name("Alexander".to_owned(), Vec::new());
            assert_eq!(counter.get().await, Ok(0));
            told.unwrap_err().to_string()
        });
        assert!(problem.ends_with("name: length 9 is outside 1..=3"), "{problem}");
        let client = bench.bind::<Counter>(1, 3);
        let ids = Counter::methods();
        assert_eq!(bench.ask(&client, ids.add, &[0x91, 9]), "Ok [09]");
        assert_eq!(bench.ask(&client, ids.add, &[0x91, 101]), "refused BadArgument");
        assert_eq!(bench.ask(&client, ids.add, &[0x91, 0xa1, b'x']), "refused BadArgument");
        // X14: missing arguments are errors, never silently defaults.
        assert_eq!(bench.ask(&client, ids.add, &[0x90]), "refused BadArgument");
        assert_eq!(bench.ask(&client, ids.add, &[]), "refused BadArgument");
        // An argument that only a later release knows is skipped.
        assert_eq!(bench.ask(&client, ids.add, &[0x92, 1, 7]), "Ok [0a]");
        check(&expect![""]);
    });
}

/// X13: any method was callable by anybody.
#[test]
fn x13_only_declared_callers_may_call() {
    both(|mut bench| {
        bench.host.register::<Counter>();
        let client = bench.bind::<Counter>(1, 3);
        let ids = Counter::methods();
        for denied in [ids.get, ids.relay, ids.reset, ids.start, ids.watch] {
            assert_eq!(bench.ask(&client, denied, &[0x90]), "refused Denied");
        }
        for unknown in [MethodId::of("regen"), MethodId::of("helper"), MethodId::of("created")] {
            let answer = bench.ask(&client, unknown, &[0x92, 1, 0xa0]);
            assert!(["refused Denied", "refused UnknownMethod"].contains(&&*answer), "{answer}");
        }
        assert_eq!(bench.ask(&client, ids.buy, &[0x91, 3]), "App [92, 00, 03]");
        // A44: the former name still works.
        assert_eq!(bench.ask(&client, MethodId::of("plus"), &[0x91, 3]), "Ok [03]");
        let body = [0x92, 0xa2, b'm', b'e', 0x92, 0xc0, 1];
        assert_eq!(bench.deliver(&client, ids.name, &body, false), Ok(None));
        // A27: of what waits, only the newest counts.
        for angle in [1, 2, 3] {
            let message = ClientMessage { method: ids.aim, body: &[0x91, angle], request: None };
            bench.host.deliver_client(bench.now, client.0, &client.1, message).unwrap();
        }
        bench.turn();
        let denied = bench.run(|out| async move { out.entity::<Counter>(1).reset().await });
        assert!(matches!(denied, Err(CallError::Denied(_))));
        check(&expect![[r#"
            named me
            aims at 3"#]]);
    });
}

#[test]
fn timers_call_methods_with_arguments() {
    both(|mut bench| {
        bench.host.register::<Counter>();
        bench.run(|out| async move { out.entity::<Counter>(1).start().await }).unwrap();
        bench.wait(Duration::from_secs(1));
        check(&expect![[r#"
            tick 2 at 1100
            tick 4 at 1200
            tick 6 at 1300"#]]);
    });
}

#[test]
fn interleave_methods_see_what_others_do_in_between() {
    both(|mut bench| {
        bench.host.register::<Counter>();
        let (seen, sum) = bench.run(|out| async move {
            let counter = out.entity::<Counter>(1);
            let mut watch = pin!(counter.watch(3));
            let mut add = pin!(async {
                for _ in 0..3 {
                    counter.add(1).await.unwrap();
                }
                counter.get().await
            });
            let mut sum = None;
            let seen = std::future::poll_fn(|context| {
                let seen = watch.as_mut().poll(context);
                if sum.is_none()
                    && let Poll::Ready(value) = add.as_mut().poll(context)
                {
                    sum = Some(value);
                }
                seen
            })
            .await;
            (seen, sum)
        });
        assert_eq!((seen, sum), (Ok(vec![3, 3, 3]), Some(Ok(3))));
    });
}

#[test]
fn tables_name_methods_aliases_and_limits() {
    let mut text = String::new();
    for method in Counter::KIND.methods {
        let callers = method.callers;
        text.push_str(&format!(
            "{} {:?} {}{}{} level {} deadline {} {:?}{}{} {:?}\n",
            method.path(),
            method.pattern,
            if callers.client { "c" } else { "-" },
            if callers.server { "s" } else { "-" },
            if callers.operator { "o" } else { "-" },
            method.level,
            method.deadline_ms,
            method.rate.map(|rate| (rate.count, rate.per_ms)),
            if method.idempotent { " idempotent" } else { "" },
            if method.interleave { " interleave" } else { "" }.to_owned()
                + if method.latest != node::Latest::Keep { " latest" } else { "" },
            method.aliases,
        ));
    }
    expect![[r#"
        add Some(Request) cs- level 1 deadline 2000 Some((100, 1000)) idempotent ["plus"]
        get Some(Invoke) -s- level 0 deadline 0 None []
        buy Some(Request) cs- level 0 deadline 0 None []
        name Some(Tell) cs- level 0 deadline 0 None []
        aim Some(Tell) c-- level 0 deadline 0 None latest []
        relay Some(Invoke) -s- level 0 deadline 0 None []
        reset Some(Invoke) --o level 0 deadline 0 None []
        regen None --- level 0 deadline 0 None []
        late None --- level 0 deadline 0 None []
        start Some(Invoke) -s- level 0 deadline 0 None []
        watch Some(Invoke) -s- level 0 deadline 0 None interleave []
    "#]]
    .assert_eq(&text);
    assert_eq!((Counter::KIND.name, Counter::KIND.aliases), ("counter", &["tally"][..]));
    assert_eq!(Counter::KIND.mailbox_max, 16);
}

// -- components --

/// A player.
#[entity(root = node::rt)]
#[derive(Default)]
struct Avatar {
    hello: u32,
    shop: Component<Stall>,
    bag: Component<Bag>,
    wallet: Component<Wallet>,
}

#[rpc(root = node::rt)]
impl Avatar {
    #[request(client)]
    #[invoke]
    fn greet(&mut self, cx: &mut Cx<Self>) -> u32 {
        self.hello += 1;
        self.hello + self.wallet.with(|wallet| wallet.coins) as u32 + cx.peers().len() as u32
    }

    #[hook]
    fn created(&mut self, _cx: &mut Cx<Self>) {
        note("avatar created");
    }

    #[hook]
    fn destroyed(&mut self) {
        note("avatar destroyed");
    }

    #[hook]
    fn offline(&mut self, _cx: &mut Cx<Self>, peer: &Peer, code: CloseCode) {
        note(format!("avatar offline {} {code:?}", peer.account().0));
    }

    #[invoke]
    fn end(&mut self, cx: &mut Cx<Self>) {
        cx.destroy();
    }
}

/// What a player carries.
#[component(of = Avatar, needs(Wallet), root = node::rt)]
#[derive(Default)]
struct Bag {
    items: Vec<u32>,
}

#[rpc(root = node::rt)]
impl Bag {
    #[request(client)]
    #[invoke]
    fn use_item(&mut self, cx: &mut Cx<Avatar>, item: u32) -> Result<u32, String> {
        let at = self.items.iter().position(|known| *known == item);
        let at = at.ok_or_else(|| format!("no item {item}"))?;
        self.items.remove(at);
        cx.with(|avatar| avatar.wallet.with(|wallet| wallet.coins += 1));
        Ok(self.items.len() as u32)
    }

    #[tell(server)]
    async fn give(&mut self, cx: &mut Cx<Avatar>, item: u32) {
        cx.next_turn().await;
        self.items.push(item);
        cx.every(Duration::from_secs(1), Duration::from_secs(1), Times::Count(2)).bag().rot(item);
    }

    #[timer]
    fn rot(&mut self, item: u32) {
        note(format!("{item} rots, {} left", self.items.len()));
    }

    #[hook]
    async fn created(&mut self, cx: &mut Cx<Avatar>) {
        cx.next_turn().await;
        note("bag created");
    }

    #[hook]
    fn destroyed(&mut self) {
        note("bag destroyed");
    }

    #[hook]
    fn offline(&mut self) {
        panic!("the bag broke");
    }
}

/// What is published on the topic `bonus`.
#[derive(Debug, Message)]
#[message(root = proto)]
struct Bonus {
    coins: u64,
}

#[component(of = Avatar, root = node::rt)]
#[derive(Default)]
struct Wallet {
    coins: u64,
}

#[rpc(root = node::rt)]
impl Wallet {
    #[invoke(interleave)]
    async fn wait_for(this: This<Self>, cx: &mut Cx<Avatar>, coins: u64) -> u64 {
        while this.with(|wallet| wallet.coins) < coins {
            cx.sleep(Duration::from_millis(10)).await;
        }
        this.with(|wallet| wallet.coins)
    }

    #[event]
    fn bonus(&mut self, bonus: Bonus) {
        self.coins += bonus.coins;
    }

    #[hook]
    fn created(&mut self, cx: &mut Cx<Avatar>) {
        note("wallet created");
        cx.subscribe("bonus", Avatar::events().wallet().bonus());
    }

    #[hook]
    fn destroyed(&mut self) {
        note("wallet destroyed");
    }

    #[hook]
    fn offline(&mut self) {
        note("wallet offline");
    }
}

#[component(of = Avatar, needs(Bag, Wallet), root = node::rt)]
#[derive(Default)]
struct Stall;

#[rpc(root = node::rt)]
impl Stall {
    #[hook]
    fn created(&mut self) {
        note("stall created");
    }
}

#[test]
fn components_are_reached_as_typed_fields() {
    both(|mut bench| {
        bench.host.register::<Avatar>();
        bench.run(|out| async move {
            let avatar = out.entity::<Avatar>(1);
            assert_eq!(avatar.greet().await, Ok(1));
            let none = avatar.bag().use_item(4).await;
            assert_eq!(none, Err(Failure::App("no item 4".to_owned())));
            avatar.bag().give(4).unwrap();
            avatar.bag().give(5).unwrap();
            assert_eq!(avatar.bag().use_item(4).await, Ok(1));
            assert_eq!(avatar.wallet().wait_for(1).await, Ok(1));
            assert_eq!(avatar.greet().await, Ok(3));
            // A33: whoever listens gets what is published.
            out.notify("bonus", &Bonus { coins: 10 });
            out.notify("nobody listens", &Bonus { coins: 10 });
            assert_eq!(avatar.wallet().wait_for(5).await, Ok(11));
        });
        bench.wait(Duration::from_secs(5));
        let client = bench.bind::<Avatar>(1, 9);
        let ids = Avatar::methods();
        assert_eq!(bench.ask(&client, ids.greet, &[0x90]), "Ok [0f]");
        assert_eq!(bench.ask(&client, ids.bag().use_item, &[0x91, 5]), "Ok [00]");
        assert_eq!(bench.ask(&client, ids.wallet().wait_for, &[0x91, 5]), "refused Denied");
        assert_eq!(ids.bag().use_item, MethodId::of_path("bag.use_item"));
        // Not by the bare name: a component's methods belong to its field.
        assert_eq!(
            bench.ask(&client, Bag::methods().use_item, &[0x91, 5]),
            "refused UnknownMethod"
        );
        check(&expect![[r#"
            wallet created
            bag created
            stall created
            avatar created
            4 rots, 1 left
            5 rots, 1 left
            4 rots, 1 left
            5 rots, 1 left"#]]);
    });
}

/// X16: components could not be torn down, and destroyed entities stayed registered.
#[test]
fn x16_components_start_in_order_and_end_in_reverse() {
    both(|mut bench| {
        bench.host.register::<Avatar>();
        let client = bench.bind::<Avatar>(1, 9);
        bench.wait(Duration::from_millis(100));
        check(&expect![[r#"
            wallet created
            bag created
            stall created
            avatar created"#]]);
        bench.host.offline(client.0, &client.1, CloseCode::Goodbye, true);
        bench.wait(Duration::from_millis(100));
        // The bag's hook panics: it is reported by name, the others still run.
        check(&expect![[r#"
            avatar offline 9 Goodbye
            wallet offline"#]]);
        let events = &bench.events;
        assert!(events.iter().any(|event| event.contains("the bag broke")), "{events:?}");
        bench.run(|out| async move { out.entity::<Avatar>(1).end().await }).unwrap();
        bench.wait(Duration::from_millis(100));
        check(&expect![[r#"
            avatar destroyed
            bag destroyed
            wallet destroyed"#]]);
        assert_eq!(bench.host.find(Ref::<Avatar>::keyed(1).id()), None);
    });
}

#[path = "macros/in_place.rs"]
mod in_place;
#[path = "macros/scenes.rs"]
mod scenes;
#[path = "macros/services.rs"]
mod services;
use services::{BankService, Dice};

// -- clients --

/// What the arena tells its players.
#[client(root = node::rt)]
trait ArenaClient {
    /// Somebody joined.
    #[sync]
    fn joined(name: String);
    #[sync(latest)]
    fn frame(data: Bytes);
    #[sync(latest(id))]
    fn moved(id: u32, x: f32);
    #[sync(unreliable)]
    fn spark(at: u32);
    #[multicast]
    fn shrunk(edge: u32);
    #[call]
    fn confirm(question: String) -> bool;
    #[call(deadline = "300ms")]
    fn choose(#[arg(range = 1..=3)] among: u8) -> Result<u8, String>;
}

#[entity(root = node::rt)]
#[derive(Default)]
struct Arena {
    group: Option<Group<ArenaClient>>,
}

#[rpc(root = node::rt)]
impl Arena {
    #[hook]
    fn created(&mut self, cx: &mut Cx<Self>) {
        self.group = Some(cx.group::<ArenaClient>("arena"));
    }

    #[hook]
    fn online(&mut self, cx: &mut Cx<Self>, peer: Peer) {
        if let Some(group) = &self.group {
            group.join(cx, &peer);
            cx.cast(group).joined(format!("account {}", peer.account().0));
        }
    }

    #[request(client)]
    async fn ask_back(&mut self, cx: &mut Cx<Self>) -> String {
        let Some(peer) = cx.peers().pop() else { return "nobody".to_owned() };
        let client = cx.client::<ArenaClient>(&peer);
        client.moved(1, 0.5);
        client.moved(2, 0.5);
        client.moved(1, 0.75);
        client.frame(Bytes(vec![1, 2]));
        client.spark(3);
        if let Some(group) = &self.group {
            cx.cast(group).shrunk(9);
        }
        let sure = client.confirm("sure?".to_owned()).await;
        let choice = client.choose(3).await;
        let late = cx.client::<ArenaClient>(&peer).within(Duration::from_millis(50));
        let late = late.confirm("again?".to_owned()).await;
        format!("{sure:?} {choice:?} {}", late.unwrap_err())
    }
}

#[test]
fn servers_push_to_clients_and_call_them() {
    both(|mut bench| {
        bench.host.register::<Arena>();
        let client = bench.bind::<Arena>(1, 4);
        let ids = Arena::methods();
        let message = ClientMessage {
            method: ids.ask_back,
            body: &[0x90],
            request: Some(ClientRequest { tag: 5, wait: None }),
        };
        bench.host.deliver_client(bench.now, client.0, &client.1, message).unwrap();
        let mut lines = Vec::new();
        let mut answers = vec![(Status::App, vec![0xa2, b'n', b'o']), (Status::Ok, vec![0xc3])];
        for _ in 0..60 {
            bench.wait(Duration::from_millis(20));
            let mut calls = Vec::new();
            bench.host.drain_clients(|out| {
                if let ClientOut::Call { tag, .. } = out {
                    calls.push(tag);
                }
                lines.push(match out {
                    ClientOut::Push { mode, body, .. } => format!("push {mode:?} {body:02x?}"),
                    ClientOut::GroupCast { mode, body, .. } => format!("cast {mode:?} {body:02x?}"),
                    ClientOut::Call { wait, body, .. } => format!("call {wait:?} {body:02x?}"),
                    ClientOut::Reply { status, body, .. } => {
                        format!("reply {status:?} {}", String::from_utf8_lossy(body))
                    }
                    ClientOut::GroupOpen { name, .. } => format!("open {name}"),
                    ClientOut::GroupJoin { .. } => "join".to_owned(),
                    other => format!("{other:?}"),
                });
            });
            for tag in calls {
                if let Some((status, body)) = answers.pop() {
                    bench.host.client_answered(tag, status, &body);
                }
            }
        }
        expect_in_turn(
            &expect![[r#"
            open arena
            join
            cast Reliable [91, a9, 61, 63, 63, 6f, 75, 6e, 74, 20, 34]
            push Latest(9732497834231199686) [92, 01, ca, 3f, 00, 00, 00]
            push Latest(9732496734719571475) [92, 02, ca, 3f, 00, 00, 00]
            push Latest(9732497834231199686) [92, 01, ca, 3f, 40, 00, 00]
            push Latest(10519020409087184697) [91, c4, 02, 01, 02]
            push Unreliable [91, 03]
            cast Reliable [91, 09]
            call 2s [91, a5, 73, 75, 72, 65, 3f]
            call 300ms [91, 03]
            call 50ms [91, a6, 61, 67, 61, 69, 6e, 3f]
            reply Ok �BOk(true) Err(App("no")) no reply from 00000000/0 within 50.51904ms"#]],
            lines.join("\n"),
        );
    });
}

// -- schema --

#[test]
fn declarations_describe_themselves() {
    let mut schema = SchemaBuilder::new();
    Counter::describe(&mut schema);
    Avatar::describe(&mut schema);
    Dice::describe(&mut schema);
    BankService::describe(&mut schema);
    <ArenaClient as node::rt::ClientInterface>::describe(&mut schema);
    expect![[r#"

        client-interface arena_client aaded3f0
          method choose 97e49cd4 call server
            arg among u8 range=1..=3
            reply u8
            error text
            deadline 300
          method confirm a84d9801 call server
            arg question text
            reply bool
            deadline 2000
          method frame ca7a7305 sync server
            arg data bytes
            latest
          method joined ffc8ab55 sync server
            arg name text
          method moved cdb782a4 sync server
            arg id u32
            arg x f32
            latest id
          method shrunk 55db3efd multicast server
            arg edge u32
          method spark 38eadf8f sync server
            arg at u32
            unreliable

        entity avatar 6e670e73
          method bag.give fbc9cdc8 tell server
            arg item u32
          method bag.use_item 37ed3d94 request client,server
            arg item u32
            reply u32
            error text
          method end f802ac27 invoke server
            reply unit
          method greet 75397b8b request client,server
            reply u32
          method wallet.wait_for 8a1b8826 invoke server
            arg coins u64
            reply u64

        service bank dcbfbe1c
          method balance 9f5e7def request client,server
            arg account u64
            reply u64
            error text
          method name df2a9a56 invoke server
            reply text
          method remember e90a33c8 tell server
            arg what text

        entity counter cccfc188
          alias tally
          method add c62c347f request client,server
            alias plus
            arg count u64 range=1..=100
            reply u64
            level 1
            deadline 2000
            rate 100/s
            idempotent
          method aim 2f73a77a tell client
            arg angle u16
            latest
          method buy 9b461b7c request client,server
            arg price u64
            reply u64
            error BuyError
          method get 04f8a2cd invoke server
            reply u64
          method name df2a9a56 tell client,server
            arg name text len=1..=3
            arg others list<option<u8>>
          method relay 5452c8d1 invoke server
            arg to tuple<u64,u64>
            arg count u64
            reply u64
            error text
          method reset f2479baf invoke operator
            reply unit
          method start 3369e3bf invoke server
            reply unit
          method watch df523dd3 invoke server
            arg rounds u32
            reply list<u64>

        service dice fdcf5f4e
          method roll 21d0ef84 invoke server
            arg wait u64
            reply u64
          method sides e4026a8d request client,server
            reply u8

        enum BuyError
          variant 0 Poor
            field missing u64
          variant 1 Closed
    "#]]
    .assert_eq(&schema.finish().unwrap().to_text());
}
