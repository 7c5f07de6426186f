//! Bugs of engines before this one, by their numbers in the list of old mistakes. Each test begins
//! with the story of its bug. Others stand next to the code that they are about.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mainstay::bots::{Bot, KeyGrants, Load, Script, Summary, Swarm, Tag};
use mainstay::client::{Address, Polled};
use mainstay::config::{Config, Input, Keys, Role, Roles};
use mainstay::env::{Clock, IdMaker, WallTime};
use mainstay::prelude::*;
use mainstay::proto::MethodId;
use mainstay::proto::frame::Status;
use mainstay::proto::ticket::TicketKeys;
use mainstay::tables::{Data, Limits, parse};
use mainstay::testkit::{ClientError, Cluster, Event, Faults, Player, sim_options};
use mainstay::{Running, Stopped};

use crate::support::{Boxed, all, clients, millis, refused, secs};

// -- a shop, whose handlers wait for its stores --

/// Waits for a store in every handler.
#[entity(mailbox_max = 8)]
#[derive(Default)]
struct Shop {
    sold: u64,
}

#[rpc]
impl Shop {
    /// Sells from the store `key`; the buyer is whoever called, also after the wait.
    #[request(client)]
    async fn buy(&mut self, cx: &mut Cx<Self>, key: u64) -> Result<(u64, u64), String> {
        let before = self.sold;
        let got = cx.entity::<Store>(key).take(key * 1_000).await.map_err(|e| e.to_string())?;
        // Nobody else had the shop meanwhile.
        self.sold = before + 1;
        match cx.caller() {
            Caller::Client(peer) => Ok((got, peer.account().0)),
            other => Err(format!("{other:?}")),
        }
    }

    /// Buys from two stores at once.
    #[request(client)]
    async fn buy_both(&mut self, cx: &mut Cx<Self>, a: u64, b: u64) -> Result<(u64, u64), String> {
        let (first, second) = (cx.entity::<Store>(a), cx.entity::<Store>(b));
        let (first, second) = (first.take(a * 1_000), second.take(b * 1_000));
        let calls: [Boxed<'_, _>; 2] = [Box::pin(first), Box::pin(second)];
        let got = all(calls).await;
        match (&got[0], &got[1]) {
            (Ok(a), Ok(b)) => Ok((*a, *b)),
            other => Err(format!("{other:?}")),
        }
    }

    #[request(client)]
    fn sold(&self) -> u64 {
        self.sold
    }

    #[request(client, deadline = "2s")]
    async fn never(&mut self, cx: &mut Cx<Self>) -> u64 {
        cx.sleep(Duration::from_secs(3_600)).await;
        1
    }
}

#[entity(mailbox_max = 64)]
#[derive(Default)]
struct Store;

#[rpc]
impl Store {
    #[invoke]
    async fn take(&mut self, cx: &mut Cx<Self>, mark: u64) -> u64 {
        cx.sleep(Duration::from_millis(20)).await;
        mark + cx.key()
    }
}

fn shops() -> App {
    App::new("shops").entity::<Shop>().entity::<Store>().agent::<Shop>("shop")
}

/// Replies queued behind requests on one shared semaphore: once every permit was held by a handler
/// that waited for a reply, no reply was read any more, and the process starved until time-outs.
///
/// Here every shop has its mailbox full of handlers that will wait, all stores are asked at once,
/// and calls of an entity are limited; whoever was taken is answered.
#[test]
fn x10_replies_do_not_queue_behind_requests() {
    let mut options = sim_options(&shops(), 10, Faults::none());
    // As tight as a worker can be: few calls in flight, little mail.
    options.host.entity_calls_max = 1;
    options.host.mail_max = 64;
    options.host.worker_queue_max = 16;
    let mut cluster = testkit::Cluster::new(options);
    let players: Vec<_> = (1..=8).map(|account| cluster.client(account)).collect();
    let bound = |cluster: &testkit::Cluster| {
        players.iter().all(|player| cluster.core(*player).is_bound("shop"))
    };
    assert!(cluster.run_until(secs(10), bound));
    let mut open = Vec::new();
    for (n, player) in players.iter().cycle().take(8 * 12).enumerate() {
        let arguments = mainstay::client::encode_args(&(n as u64 % 3 + 1,));
        let wait = secs(10);
        let buy = MethodId::of("buy");
        let request = cluster.start_request(*player, "shop", buy, &arguments, wait).unwrap();
        open.push((*player, request));
    }
    let begun = cluster.now();
    assert!(cluster.run_until(secs(4), |cluster| cluster.open_requests() == 0), "all are done");
    let mut ends = [0; 2];
    for (player, request) in open {
        match cluster.take_result(player, request).expect("all are done") {
            Ok(_) => ends[0] += 1,
            Err(ClientError::Refused(Status::Busy)) => ends[1] += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    // Each shop handles one and holds eight; the others were told at once.
    assert!(ends[0] >= 8 * 9 && ends[1] >= 8 * 2, "{ends:?}");
    assert!(cluster.now() - begun < secs(3), "{:?}", cluster.now() - begun);
}

/// Two handlers of one entity mixed at every await, so that each overwrote what the other did.
///
/// Here the second waits until the first is done, across its awaits.
#[mainstay::test(seed = 11)]
async fn x11_handlers_of_one_entity_do_not_mix(cluster: Cluster) {
    let app = App::new("shops").entity::<Shop>().entity::<Store>().bind::<Shop>("shop", |_| 1);
    let game = cluster.start(&app);
    let players = clients(&game, 1..=8).await;
    let buy = |player: &Player| -> Boxed<'static, _> {
        let player = player.clone();
        Box::pin(async move { player.request::<_, (u64, u64)>("shop", "buy", &(5u64,)).await })
    };
    let answers = all(players.iter().map(buy)).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(players[0].request("shop", "sold", &()).await, Ok(8u64));
}

// -- errors --

#[derive(Clone, Debug, PartialEq, Message)]
enum OrderError {
    OutOfStock { left: u32 },
}

#[entity]
#[derive(Default)]
struct Counter;

#[rpc]
impl Counter {
    #[request(client)]
    fn order(
        &mut self,
        #[arg(range = 1..=10)] count: u32,
        name: String,
    ) -> Result<u32, OrderError> {
        match name.as_str() {
            "panic" => panic!("password=hunter2 at 10.0.0.7"),
            "empty" => Err(OrderError::OutOfStock { left: 3 }),
            _ => Ok(count),
        }
    }

    #[request(client)]
    fn list(&mut self, length: u32) -> Vec<u32> {
        (0..length).collect()
    }

    #[invoke]
    fn secret(&mut self) -> u64 {
        42
    }

    #[invoke(operator)]
    fn reload(&mut self) -> u64 {
        43
    }

    #[timer]
    fn restock(&mut self) {}
}

fn counters() -> App {
    App::new("counter").entity::<Counter>().agent::<Counter>("counter")
}

/// Errors were strings in a pair with the value, and callers forgot to look; the text of internal
/// errors reached peers; a limit in the decoder broke large replies.
///
/// Here an error is another type than the value, internal text stays inside, and a reply of nearly
/// the largest size arrives whole.
#[test]
fn x12_errors_are_typed_and_tell_nothing_inside() {
    let mut cluster = testkit::Cluster::new(sim_options(&counters(), 12, Faults::none()));
    let ann = cluster.client(1);
    let order = |cluster: &mut testkit::Cluster, count: u32, name: &str| {
        cluster.request::<_, u32>(ann, "counter", "order", &(count, name.to_owned()))
    };
    assert_eq!(order(&mut cluster, 5, "apples"), Ok(5));
    let error = order(&mut cluster, 5, "empty").unwrap_err();
    assert_eq!(error.app(), Some(OrderError::OutOfStock { left: 3 }));
    assert_eq!(order(&mut cluster, 11, "apples"), refused(Status::BadArgument));
    // All that a client learns of a panic is that there was one.
    assert_eq!(order(&mut cluster, 5, "panic"), refused(Status::Failed));
    assert!(!format!("{:?}", cluster.events(ann)).contains("hunter2"));
    let long: Vec<u32> = cluster.request(ann, "counter", "list", &(40_000u32,)).unwrap();
    assert_eq!((long.len(), long.last()), (40_000, Some(&39_999)));
}

/// Any marked method could be called by anybody, a message could create any entity type, and
/// reloading the cluster was open to clients.
///
/// Here a client calls what names clients, at entities that the server bound it to, and nothing
/// it says makes an entity.
#[test]
fn x13_clients_make_nothing_and_call_only_what_is_theirs() {
    let mut cluster = testkit::Cluster::new(sim_options(&counters(), 13, Faults::none()));
    let ann = cluster.client(1);
    assert!(cluster.run_until(secs(5), |cluster| cluster.core(ann).is_bound("counter")));
    for method in ["secret", "reload"] {
        let answer = cluster.request::<_, u64>(ann, "counter", method, &());
        assert_eq!(answer, refused(Status::Denied));
    }
    for method in ["restock", "created", "daily", "destroyed", "reloaded", "helper"] {
        let answer = cluster.request::<_, u64>(ann, "counter", method, &());
        assert!(answer == refused(Status::UnknownMethod) || answer == refused(Status::Denied));
    }
    // A stream that the server did not bind leads nowhere.
    let body = mainstay::client::encode_args(&());
    for stream in ["counter2", "Counter", "store"] {
        let secret = MethodId::of("secret");
        if let Ok(request) = cluster.start_request(ann, stream, secret, &body, secs(2)) {
            assert!(cluster.run_until(secs(5), |cluster| cluster.open_requests() == 0));
            assert!(cluster.take_result(ann, request).expect("it ended").is_err());
        }
    }
    let stats = cluster.worker_stats();
    let kinds = stats.iter().flat_map(|worker| &worker.host.kinds);
    assert_eq!(kinds.map(|kind| kind.entities).sum::<usize>(), 1, "only its own");
    let denied: u64 = stats.iter().map(|worker| worker.host.denied).sum();
    assert!(denied >= 2, "refusals are counted");
}

/// Arguments that were missing or of another type were silently replaced by defaults, and the
/// code that should have reported it was broken itself.
///
/// Here they are refused before the handler runs, and counted.
#[test]
fn x14_missing_arguments_are_errors() {
    let mut cluster = testkit::Cluster::new(sim_options(&counters(), 14, Faults::none()));
    let ann = cluster.client(1);
    let mut ask = |body: &[u8]| {
        let order = MethodId::of("order");
        let request = cluster.start_request(ann, "counter", order, body, secs(5)).unwrap();
        assert!(cluster.run_until(secs(10), |cluster| cluster.open_requests() == 0));
        cluster.take_result(ann, request).expect("it ended")
    };
    let whole = mainstay::client::encode_args(&(5u32, "x".to_owned()));
    assert_eq!(ask(&whole), Ok(vec![5]));
    // No arguments, too few, of another type, not an array, cut, nothing.
    let bad: [&[u8]; 7] = [
        &[0x90],
        &[0x91, 5],
        &[0x92, 0xa1, b'5', 0xa1, b'x'],
        &[0x92, 0xc0, 0xa1, b'x'],
        &[0x05],
        &whole[..whole.len() - 1],
        &[],
    ];
    for body in bad {
        assert_eq!(ask(body), refused(Status::BadArgument), "{body:02x?}");
    }
    let refusals: u64 = cluster.worker_stats().iter().map(|w| w.host.bad_arguments).sum();
    assert_eq!(refusals, bad.len() as u64);
}

/// The path of a remote call was built up in a field that all calls shared, so two at once mixed
/// their targets; and one handler object held "the current client", so that an answer went to
/// whoever had called last.
///
/// Here two calls of one handler reach the entities they name, and each handler knows its own
/// caller, also after its awaits.
#[mainstay::test(seed = 15)]
async fn x15_calls_at_once_keep_their_targets_and_their_callers(cluster: Cluster) {
    let app = App::new("shops")
        .entity::<Shop>()
        .entity::<Store>()
        .bind::<Shop>("shop", |l| l.account.0 % 2);
    let game = cluster.start(&app);
    let players = clients(&game, 1..=8).await;
    let both = |(n, player): (usize, &Player)| -> Boxed<'static, _> {
        let (player, n) = (player.clone(), n as u64);
        Box::pin(async move {
            let (a, b) = (n + 10, n + 50);
            let got = player.request::<_, (u64, u64)>("shop", "buy_both", &(a, b)).await;
            assert_eq!(got, Ok((a * 1_001, b * 1_001)));
            let got = player.request::<_, (u64, u64)>("shop", "buy", &(a,)).await;
            assert_eq!(got, Ok((a * 1_001, n + 1)), "the account of the caller");
        })
    };
    all(players.iter().enumerate().map(both)).await;
}

/// Calls without a time-out leaked, and operations that failed never completed.
///
/// Here whatever was taken ends exactly once: by its answer, by its deadline, or with the session;
/// and nothing stays behind.
#[test]
fn x18_every_call_and_operation_ends() {
    let mut cluster = testkit::Cluster::new(sim_options(&shops(), 18, Faults::all()));
    let players: Vec<_> = (1..=6).map(|account| cluster.client(account)).collect();
    let mut open = Vec::new();
    for round in 0..40u64 {
        for player in &players {
            let (method, body) = match round % 4 {
                0 => ("never", mainstay::client::encode_args(&())),
                1 => ("no such method", mainstay::client::encode_args(&())),
                _ => ("buy", mainstay::client::encode_args(&(round % 5,))),
            };
            let method = MethodId::of(method);
            let started = cluster.start_request(*player, "shop", method, &body, secs(8));
            open.extend(started.ok().map(|request| (*player, request)));
        }
        cluster.run_for(millis(250));
    }
    // One leaves, one cannot come back in time, and the rest wait.
    cluster.leave(players[0]);
    cluster.run_for(secs(10));
    cluster.heal();
    cluster.run_for(secs(20));
    assert_eq!(cluster.open_requests(), 0);
    assert!(open.len() > 100);
    for (player, request) in open {
        assert!(cluster.take_result(player, request).is_some(), "each has its result");
    }
    for worker in cluster.worker_stats() {
        let calls: u64 = worker.host.kinds.iter().map(|kind| u64::from(kind.calls)).sum();
        assert_eq!(calls, 0);
        assert_eq!(worker.streams.open_requests, 0);
    }
}

// -- what is refused --

#[client]
trait Board {
    #[sync]
    fn news(text: String);
}

/// Opens a group and casts to it.
#[entity]
#[derive(Default)]
struct Town {
    group: Option<Group<Board>>,
}

#[rpc]
impl Town {
    #[request(client)]
    fn open(&mut self, cx: &mut Cx<Self>) {
        self.group = Some(cx.group::<Board>("town"));
    }

    #[request(client)]
    fn cry(&mut self, cx: &mut Cx<Self>) -> Result<(), String> {
        let group = self.group.as_ref().ok_or("not open")?;
        cx.cast(group).news("hear".into()).ok().map_err(|error| error.to_string())
    }

    #[invoke]
    fn treasure(&mut self) -> u64 {
        1_000
    }
}

fn towns() -> App {
    App::new("towns").entity::<Town>().agent::<Town>("town")
}

/// A cast to a group that its worker had no room for went nowhere, without a word to the sender.
#[test]
fn a30_a_group_that_could_not_be_opened_is_an_error_to_who_casts() {
    for (room, answer) in [(1, Ok(())), (0, Err("the group is closed"))] {
        let mut options = sim_options(&towns(), 30, Faults::none());
        options.sessions.groups_max = room;
        let mut cluster = testkit::Cluster::new(options);
        let player = cluster.client(1);
        cluster.request::<_, ()>(player, "town", "open", &()).unwrap();
        let cried = cluster.request::<_, ()>(player, "town", "cry", &());
        match (cried, answer) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(text)) => {
                let error: Option<String> = error.app();
                assert!(error.as_deref().is_some_and(|error| error.starts_with(text)), "{error:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// An app that bound each login to a kind that it forgot to offer started, and let nobody in.
#[test]
fn a_stream_that_leads_to_no_kind_is_refused_at_start() {
    let wrong = [
        (App::new("towns").agent::<Town>("town"), "add `.entity::<..>()`"),
        (towns().agent::<Town>("town"), "two streams of each login are called \"town\""),
    ];
    for (app, says) in wrong {
        let config = Config::from_input(&Input::of_text("c.json", ONE), &app.role_names());
        let config = config.unwrap();
        let process = &config.processes[0];
        let error = Running::start(&app, "test", process, &Keys::default()).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

/// Who called what only servers may call was refused for ever, and could go on trying.
#[test]
fn a21_who_keeps_calling_what_it_may_not_call_is_banned() {
    let mut options = sim_options(&towns(), 21, Faults::none());
    (options.gate.denied.per_second, options.gate.denied.burst) = (1, 5);
    let mut cluster = testkit::Cluster::new(options);
    let (thief, other) = (cluster.client(1), cluster.client(2));
    let mut denied = 0;
    for _ in 0..20 {
        match cluster.request::<_, u64>(thief, "town", "treasure", &()) {
            Err(ClientError::Refused(Status::Denied)) => denied += 1,
            result => assert!(result.is_err(), "{result:?}"),
        }
    }
    assert!((5..=6).contains(&denied), "{denied}");
    assert_eq!(cluster.request(other, "town", "open", &()), Ok(()));
    let refused: u64 = cluster
        .worker_stats()
        .iter()
        .flat_map(|worker| &worker.methods)
        .filter(|(kind, method, _)| (*kind, method.as_str()) == ("town", "treasure"))
        .map(|(.., stats)| stats.refused)
        .sum();
    assert_eq!(refused, 6);
}

// -- timers --

#[entity]
#[derive(Default)]
struct Clockwork {
    rings: u32,
    failures: u32,
    times: Vec<u64>,
}

#[rpc]
impl Clockwork {
    #[request(client)]
    fn start(&mut self, cx: &mut Cx<Self>, stop_at: u32, times: u32) {
        let often = Duration::from_millis(100);
        cx.every(often, often, times).key("ring").ring(stop_at);
        cx.every(often, often, 4).fail();
        cx.every(often, often, 4).go_on();
    }

    #[timer]
    fn ring(&mut self, cx: &mut Cx<Self>, stop_at: u32) {
        self.rings += 1;
        self.times.push(cx.now().as_millis());
        if self.rings == stop_at {
            assert!(cx.has_timer("ring"), "one whose last callback runs still counts");
            assert_eq!(cx.cancel("ring"), 1);
            assert!(!cx.has_timer("ring"));
        }
    }

    #[timer]
    fn fail(&mut self) -> Result<(), String> {
        self.failures += 1;
        Err("no luck".to_owned())
    }

    #[timer]
    fn go_on(&mut self) {
        self.failures += 100;
    }

    #[request(client)]
    fn state(&mut self) -> (u32, u32, Vec<u64>) {
        (self.rings, self.failures, self.times.clone())
    }
}

/// A repeating timer could not be cancelled from its own callback, nor in its last round; a
/// callback that failed ended it; it drifted, and followed the wall clock.
///
/// Here a callback cancels its own timer, in the last round too; failures leave the repeats going;
/// the steps are as even as the wheel's ticks. (The wheel's removal and wrap-around are tested
/// with the wheel, against a sorted map.)
#[mainstay::test(seed = 35)]
async fn x35_a_repeat_is_cancelled_by_its_own_callback(cluster: Cluster) {
    let app = App::new("clocks").entity::<Clockwork>().agent::<Clockwork>("clock");
    let game = cluster.start(&app);
    // Cancelled in the middle, in the last round, and not at all.
    for (account, stop_at, times, wanted) in [(1, 3, 50, 3), (2, 5, 5, 5), (3, 99, 7, 7)] {
        let player = game.client(account).await;
        player.request::<_, ()>("clock", "start", &(stop_at, times)).await.unwrap();
        game.sleep(secs(2)).await;
        let (rings, failures, at): (u32, u32, Vec<u64>) =
            player.request("clock", "state", &()).await.unwrap();
        assert_eq!((rings, failures), (wanted, 404));
        let first = at[0];
        for (n, at) in at.iter().enumerate() {
            let late = at - first + 10 - n as u64 * 100;
            assert!(late <= 20, "step {n} is at {} ms", at - first);
        }
    }
}

// -- files and ids --

/// The macro block was compulsory, floats and booleans became strings, macros inside text were not
/// expanded, and typing errors in names passed.
///
/// Here the block is optional, macros keep their type, text is searched, and a name that nobody
/// knows is refused with its place and the nearest one that exists.
#[test]
fn x36_enhanced_json_keeps_types_and_finds_typos() {
    let read = |text: &str| parse("t.json", text.as_bytes(), &Limits::default());
    assert!(read("{\"a\": 1}").is_ok(), "no block is needed");
    let text = r#"{
        "rate": "$RATE$", "on": "$ON$", "url": "http://$HOST$:$PORT$/",
        "$MACRO$": {"RATE": 2.5, "ON": true, "HOST": "localhost", "PORT": 80},
    }"#;
    let value = read(text).unwrap();
    let data = |name: &str| &value.get(name).unwrap().data;
    assert!(matches!(data("rate"), Data::Float(rate) if *rate == 2.5), "{:?}", data("rate"));
    assert!(matches!(data("on"), Data::Bool(true)));
    assert_eq!(value.get("url").unwrap().as_text(), Some("http://localhost:80/"));
    let wrong = read("{\"$MACRO$\": {\"HOST\": 1},\n \"a\": \"$HSOT$\"}").unwrap_err().to_string();
    assert!(wrong.starts_with("t.json:2:") && wrong.contains("$HOST$"), "{wrong}");
    // And a typing error in a setting.
    let input = Input::of_text("c.json", "{\"options\": {\"gate\": {\"hartbeat\": \"6s\"}}}");
    let wrong = Config::from_input(&input, &Roles::standard([])).unwrap_err().to_string();
    assert!(wrong.contains("c.json:1:") && wrong.contains("heartbeat"), "{wrong}");
}

/// The counter of an id ran over into its time field after 9,999, and two threads could make the
/// same id.
///
/// Here ids of one millisecond borrow from the next, keep growing when the clock steps back, and
/// any number of threads may share one maker.
#[test]
fn x41_ids_never_run_over_or_repeat() {
    let wall = WallTime(IdMaker::EPOCH.0 + 1_000_000);
    let maker = Arc::new(IdMaker::new(7));
    let threads: Vec<_> = (0..4u64)
        .map(|thread| {
            let maker = maker.clone();
            std::thread::spawn(move || {
                // Each with a clock of its own that also steps back.
                let at = |n: u64| WallTime(wall.0 - (n % 3) * 500 - thread);
                (0..20_000).map(|n| maker.make(at(n))).collect::<Vec<_>>()
            })
        })
        .collect();
    let made: Vec<Vec<u64>> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    for ids in &made {
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "they grow");
        assert!(ids.iter().all(|id| IdMaker::node_of(*id) == 7), "nothing runs over");
    }
    let distinct: BTreeSet<u64> = made.iter().flatten().copied().collect();
    assert_eq!(distinct.len(), 80_000);
}

// -- processes --

const KEY: [u8; 32] = [7; 32];

/// Starts a game as one process on a port of the system's choice.
fn start(app: &App, text: &str) -> Running {
    let config = Config::from_input(&Input::of_text("c.json", text), &app.role_names());
    let config = config.expect("the cluster file is valid");
    let keys = Keys { tickets: vec![(1, KEY)], mesh: None, console: None };
    Running::start(app, &config.cluster, &config.processes[0], &keys).expect("it starts")
}

const ONE: &str = r#"{
    "cluster": "test",
    "processes": {
        "all": {"roles": ["gate", "node"], "workers": 2, "listen": {"clients": "127.0.0.1:0"}},
    },
}"#;

/// On a stop nothing was saved or told: connections were just cut, and what was lost was anybody's
/// guess.
///
/// Here clients are told that the server goes away, sessions end in order, and the process reports
/// what it closed and whether all of it was finished. (Saving comes with the data service.)
#[test]
fn x42_stopping_tells_clients_and_reports() {
    let running = start(&counters(), ONE);
    let address = Address::tcp(running.addresses()[0].to_string());
    let mut options = mainstay::client::Options::new(address);
    options.limits.tries_max = Some(2);
    let mut players: Vec<Polled> = (1..=3)
        .map(|account| {
            let grant = running.ticket(AccountId(account), "player", secs(60));
            Polled::new(options.clone(), grant)
        })
        .collect();
    for player in &mut players {
        while !player.core().is_bound("counter") {
            player.poll();
            std::thread::yield_now();
        }
    }
    let Stopped { connections, sessions, streams, unfinished, .. } = running.stop(Duration::ZERO);
    assert_eq!((connections, sessions, streams), (3, 3, 3));
    assert!(unfinished.is_empty(), "{unfinished:?}");
    for player in &mut players {
        let told = loop {
            match player.poll() {
                Some(event @ (Event::Lost { .. } | Event::Ended { .. })) => break event,
                _ => std::thread::yield_now(),
            }
        };
        assert!(format!("{told:?}").contains("GoingAway"), "{told:?}");
    }
}

/// Asks for lists and checks every answer; bot 2 expects something else.
struct Buyer {
    picky: bool,
    asked: u32,
}

impl Script for Buyer {
    fn on_tick(&mut self, bot: &mut Bot<'_>) {
        self.asked += 1;
        let arguments = (self.asked % 50,);
        bot.request("counter", MethodId::of("list"), &arguments, u64::from(self.asked % 50));
    }

    fn on_reply(&mut self, bot: &mut Bot<'_>, tag: Tag, result: Result<Vec<u8>, ClientError>) {
        let Ok(body) = result else { return };
        let list: Vec<u32> = mainstay::proto::decode(&body).unwrap_or_default();
        let good = list.len() as u64 == tag && (!self.picky || bot.index() != 2);
        bot.check(good, || format!("{} instead of {tag}", list.len()));
    }
}

fn play(address: Address, picky: bool) -> Summary {
    let mut options = mainstay::bots::Options::new(address, Load::steady(8, millis(400)));
    options.tick = millis(20);
    let grants = KeyGrants::new(TicketKeys::new(vec![(1, KEY)]), Clock::system(), 100);
    let swarm = Swarm::new(options, grants, |_| Box::new(Buyer { picky, asked: 0 })).unwrap();
    swarm.run(|_| {}).unwrap()
}

/// Simulated clients ran for ever and checked nothing, and no system had an automated test.
///
/// Here bots walk the real path to a real game, check every answer, come to an end, and say
/// whether all was well; one wrong answer fails the run. (Bots that stop are tested with the bots.)
#[test]
fn x43_simulated_clients_check_and_end() {
    let running = start(&counters(), ONE);
    let address = || Address::tcp(running.addresses()[0].to_string());
    let good = play(address(), false);
    assert!(good.passed() && good.answers > 20, "{good}");
    let bad = play(address(), true);
    assert!(!bad.passed() && bad.wrong_answers > 0 && bad.lost_sessions == 0, "{bad}");
    let stopped = running.stop(Duration::ZERO);
    assert_eq!((stopped.connections, stopped.sessions), (0, 0), "all have said goodbye");
}

/// The framework fixed which roles there are: adding one meant editing the framework, a game in
/// one process was impossible, and five outside systems had to run before the first message.
///
/// Here roles are the game's own names, one process without any gate is a valid game, and nothing
/// else runs.
#[test]
fn x44_roles_belong_to_the_game_and_one_process_needs_no_gate() {
    let app = counters()
        .role("kiosk", Role::new().entities(["counter"]))
        .role("everything", Role::new().gate().sessions().all_entities());
    let text = r#"{
        "cluster": "test",
        "processes": {"only": {"roles": ["kiosk"], "workers": 1}},
    }"#;
    let running = start(&app, text);
    assert!(running.gate().is_none() && running.addresses().is_empty());
    let node = running.node().expect("it holds entities");
    let answer =
        node.spawn(0, |outside| async move { outside.entity::<Counter>(1).secret().await });
    assert_eq!(answer.blocking_recv().unwrap(), Ok(42));
    assert!(running.stop(Duration::ZERO).unfinished.is_empty());

    let all = ONE.replace("\"gate\", \"node\"", "\"everything\"");
    let running = start(&app, &all);
    assert!(play(Address::tcp(running.addresses()[0].to_string()), false).passed());
    running.stop(Duration::ZERO);

    // A role that the game did not declare is refused with its place and the nearest name.
    let wrong = all.replace("everything", "kioks");
    let wrong = Config::from_input(&Input::of_text("c.json", &wrong), &app.role_names());
    let wrong = wrong.unwrap_err().to_string();
    assert!(wrong.contains("c.json:4:") && wrong.contains("kiosk"), "{wrong}");
}
