//! Promises of single rows of the feature list, as a game's author sees them.

use std::time::Duration;

use mainstay::client::End;
use mainstay::prelude::*;
use mainstay::proto::frame::Status;
use mainstay::testkit::{ClientError, Cluster, Event, Faults, Game, Player, sim_options};

use crate::support::{Boxed, all, clients, millis, refused, secs};

// -- kinds of services --

/// A singleton: all callers mean the same one.
#[entity(singleton)]
#[derive(Default)]
struct Board {
    lines: Vec<String>,
}

#[rpc]
impl Board {
    #[request(client)]
    #[invoke]
    fn write(&mut self, line: String) -> u32 {
        self.lines.push(line);
        self.lines.len() as u32
    }
}

/// A stateless service in front of it.
#[service]
#[derive(Default)]
struct Clerk;

#[rpc]
impl Clerk {
    #[request(client)]
    async fn note(&self, cx: &mut Cx<Self>, line: String) -> Result<u32, String> {
        cx.service::<Board>().write(line).await.map_err(|error| error.to_string())
    }
}

#[mainstay::test(seed = 2)]
async fn a2_one_singleton_answers_everybody(cluster: Cluster) {
    let app = App::new("board").entity::<Board>().entity::<Clerk>();
    let app = app.bind::<Board>("board", |_| 0).bind::<Clerk>("clerk", |_| 0);
    let game = cluster.start(&app);
    let mut seen = Vec::new();
    for player in clients(&game, 1..=6).await {
        let line = ("x".to_owned(),);
        seen.push(player.request::<_, u32>("board", "write", &line).await.unwrap());
        seen.push(player.request::<_, u32>("clerk", "note", &line).await.unwrap());
    }
    assert_eq!(seen, (1..=12).collect::<Vec<_>>());
}

#[entity(name = "board")]
#[derive(Default)]
struct OtherBoard;

#[rpc]
impl OtherBoard {
    #[request(client)]
    fn read(&self) -> u32 {
        0
    }
}

#[test]
#[should_panic(expected = "two kinds or services of app \"two\" are called \"board\"")]
fn a3_two_kinds_of_one_name_are_refused() {
    let _ = App::new("two").entity::<Board>().entity::<OtherBoard>();
}

// -- entities that are made, named and gone --

#[entity(room)]
struct Room {
    guests: u64,
    bar: Component<Bar>,
}

#[rpc]
impl Room {
    #[invoke]
    fn knock(&mut self) -> u64 {
        self.guests += 1;
        self.guests
    }

    #[invoke]
    fn close(&mut self, cx: &mut Cx<Self>) {
        cx.destroy();
    }
}

#[component(of = Room)]
#[derive(Default)]
struct Bar {
    drinks: u64,
}

#[rpc]
impl Bar {
    #[invoke]
    fn pour(&mut self) -> u64 {
        self.drinks += 1;
        self.drinks
    }
}

#[entity]
#[derive(Default)]
struct Hall {
    rooms: Vec<Ref<Room>>,
}

#[rpc]
impl Hall {
    #[request(client)]
    fn open(&mut self, cx: &mut Cx<Self>) -> Result<Ref<Room>, String> {
        let room = Room { guests: 0, bar: Component::default() };
        let room = cx.spawn(room).map_err(|error| error.to_string())?;
        self.rooms.push(room);
        Ok(room)
    }

    /// References are stored, sent and called, also to a component.
    #[request(client)]
    async fn visit(&mut self, cx: &mut Cx<Self>, room: Ref<Room>) -> Result<(u64, u64), String> {
        visit(cx, room).await
    }

    #[request(client)]
    async fn visit_first(&mut self, cx: &mut Cx<Self>, hall: u64) -> Result<(u64, u64), String> {
        let room = cx.entity::<Hall>(hall).first().await.map_err(|error| error.to_string())?;
        visit(cx, room.ok_or("no room")?).await
    }

    #[invoke]
    fn first(&self) -> Option<Ref<Room>> {
        self.rooms.first().copied()
    }

    #[request(client)]
    async fn close(&mut self, cx: &mut Cx<Self>) -> Result<(), String> {
        let room = self.rooms.pop().ok_or("no room")?;
        cx.at(room).close().await.map_err(|error| error.to_string())
    }
}

async fn visit(cx: &Cx<Hall>, room: Ref<Room>) -> Result<(u64, u64), String> {
    let guests = cx.at(room).knock().await.map_err(|error| format!("{error:?}"))?;
    let drinks = cx.at(room).bar().pour().await.map_err(|error| format!("{error:?}"))?;
    Ok((guests, drinks))
}

fn halls() -> App {
    App::new("halls").entity::<Room>().entity::<Hall>().agent::<Hall>("hall")
}

#[mainstay::test(seed = 3)]
async fn a10_references_are_stored_sent_and_called(cluster: Cluster) {
    let game = cluster.start(&halls());
    let ann = game.client(1).await;
    let room: Ref<Room> = ann.request("hall", "open", &()).await.unwrap();
    // From everywhere in the cluster, by a reference that a client or an entity kept.
    for (n, other) in (0..).step_by(2).zip(clients(&game, 2..=9).await) {
        assert_eq!(other.request("hall", "visit", &(room,)).await, Ok((n + 1, n + 1)));
        assert_eq!(other.request("hall", "visit_first", &(1u64,)).await, Ok((n + 2, n + 2)));
    }
}

#[mainstay::test(seed = 4)]
async fn a10_who_is_gone_says_so_at_once(cluster: Cluster) {
    let game = cluster.start(&halls());
    let ann = game.client(1).await;
    let room: Ref<Room> = ann.request("hall", "open", &()).await.unwrap();
    ann.request::<_, ()>("hall", "close", &()).await.unwrap();
    for player in clients(&game, 2..=8).await {
        player.bound("hall").await;
        let begun = game.now();
        let error = player.request::<_, (u64, u64)>("hall", "visit", &(room,)).await.unwrap_err();
        let text: String = error.app().expect("the method's own error");
        assert!(text.starts_with("Gone"), "{text}");
        assert!(game.now() - begun < millis(500), "at once");
    }
}

/// Only server code makes entities: naming a type, a key or a stream makes none.
#[test]
fn a4_no_message_makes_an_entity() {
    let mut cluster = testkit::Cluster::new(sim_options(&halls(), 5, Faults::none()));
    let ann = cluster.client(1);
    assert!(cluster.run_until(secs(5), |cluster| cluster.core(ann).is_bound("hall")));
    for forged in [Ref::<Room>::keyed(99), Ref::<Room>::keyed(u64::MAX)] {
        let error = cluster.request::<_, (u64, u64)>(ann, "hall", "visit", &(forged,)).unwrap_err();
        let text: String = error.app().expect("the method's own error");
        assert!(text.starts_with("NotFound"), "{text}");
    }
    for method in ["knock", "created", "room", ""] {
        let answer = cluster.request::<_, u64>(ann, "hall", method, &());
        assert_eq!(answer, refused(Status::UnknownMethod));
    }
    let stats = cluster.worker_stats();
    let count = |name: &str| {
        let kinds = stats.iter().flat_map(|worker| &worker.host.kinds);
        kinds.filter(|kind| kind.kind == name).map(|kind| kind.entities).sum::<usize>()
    };
    assert_eq!((count("room"), count("hall")), (0, 1));
}

#[entity]
#[derive(Default)]
struct Glass {
    sips: u64,
}

#[rpc]
impl Glass {
    #[request(client)]
    fn sip(&mut self) -> u64 {
        self.sips += 1;
        self.sips
    }

    #[request(client)]
    fn shatter(&mut self) -> u64 {
        self.sips = 99;
        panic!("it broke");
    }
}

fn glasses() -> App {
    App::new("glass").entity::<Glass>().agent::<Glass>("glass")
}

#[mainstay::test(seed = 6)]
async fn a4_a_failing_entity_is_restarted_then_quarantined(cluster: Cluster) {
    let game = cluster.start(&glasses());
    let (ann, bob) = (game.client(1).await, game.client(2).await);
    assert_eq!(ann.request("glass", "sip", &()).await, Ok(1u64));
    assert_eq!(bob.request("glass", "sip", &()).await, Ok(1u64));
    assert_eq!(ann.request::<_, u64>("glass", "shatter", &()).await, refused(Status::Failed));
    assert_eq!(ann.request("glass", "sip", &()).await, Ok(1u64), "it starts again as created");
    for _ in 0..2 {
        assert_eq!(ann.request::<_, u64>("glass", "shatter", &()).await, refused(Status::Failed));
    }
    assert_eq!(ann.request::<_, u64>("glass", "sip", &()).await, refused(Status::Unavailable));
    assert_eq!(bob.request("glass", "sip", &()).await, Ok(2u64), "its neighbours go on");
}

// -- calls --

#[entity]
#[derive(Default)]
struct Chain;

#[rpc]
impl Chain {
    /// Calls the first of `path`, which calls the next, and so on.
    #[request(client)]
    #[invoke]
    async fn pass(
        &mut self,
        cx: &mut Cx<Self>,
        path: Vec<u64>,
        wait_ms: u64,
    ) -> Result<String, String> {
        cx.sleep(Duration::from_millis(wait_ms)).await;
        let Some((next, rest)) = path.split_first() else { return Ok("end".to_owned()) };
        match cx.entity::<Chain>(*next).pass(rest.to_vec(), wait_ms).await {
            Ok(text) => Ok(text),
            Err(Failure::App(text)) => Err(text),
            Err(Failure::Call(CallError::Cycle { ring })) => Err(format!("ring of {}", ring.len())),
            Err(Failure::Call(error)) => Err(format!("{error:?}")),
        }
    }
}

fn chains() -> App {
    App::new("chain").entity::<Chain>().agent::<Chain>("chain")
}

#[mainstay::test(seed = 7)]
async fn a9_a_ring_of_calls_fails_at_once(cluster: Cluster) {
    let game = cluster.start(&chains());
    let players = clients(&game, 1..=4).await;
    let begun = game.now();
    for path in [vec![1u64], vec![2, 1], vec![2, 3, 4, 1], vec![5, 6, 7, 8, 9, 6]] {
        let answer = players[0].request::<_, String>("chain", "pass", &(path.clone(), 0u64)).await;
        let text: String = answer.unwrap_err().app().expect("the method's own error");
        assert!(text.starts_with("ring of"), "{path:?}: {text}");
    }
    let open = vec![2u64, 3, 4, 5, 6];
    assert_eq!(players[0].request("chain", "pass", &(open, 0u64)).await, Ok("end".to_owned()));
    // Each waits for the next at the same time: the ring is closed by whoever comes last.
    let round = players.iter().zip([2, 3, 4, 1]).map(|(player, next)| -> Boxed<'_, _> {
        Box::pin(
            async move { player.request::<_, String>("chain", "pass", &(vec![next], 50u64)).await },
        )
    });
    let answers = all(round).await;
    assert!(answers.iter().any(Result::is_err), "{answers:?}");
    assert!(answers.iter().any(Result::is_ok), "{answers:?}");
    assert!(game.now() - begun < secs(3), "nobody waited for a deadline");
}

#[client]
trait Mate {
    #[call]
    fn confirm(question: String) -> bool;
    #[call(deadline = "300ms")]
    fn quick(question: String) -> bool;
}

#[entity]
#[derive(Default)]
struct Desk {
    log: Vec<String>,
}

#[rpc]
impl Desk {
    #[request(client)]
    async fn ask_back(&mut self, cx: &mut Cx<Self>) -> (u64, u64, String) {
        let Some(peer) = cx.peers().pop() else { return (0, 0, "nobody".to_owned()) };
        cx.sleep(Duration::from_millis(100)).await;
        let begun = cx.now();
        let slow = cx.client::<Mate>(&peer).confirm("sure?".to_owned()).await;
        let middle = cx.now();
        let quick = cx.client::<Mate>(&peer).quick("sure?".to_owned()).await;
        let spans = [middle - begun, cx.now() - middle].map(|span| span.as_millis() as u64);
        (spans[0], spans[1], format!("{} {}", kind_of(&slow), kind_of(&quick)))
    }

    /// Asks the next desk, giving it `wait_ms`.
    #[request(client)]
    async fn delegate(&mut self, cx: &mut Cx<Self>, key: u64, wait_ms: u64) -> (String, u64) {
        let begun = cx.now();
        let call = cx.entity::<Desk>(key).middle(key + 1).deadline(Duration::from_millis(wait_ms));
        let answer = call.await;
        (kind_of(&answer), (cx.now() - begun).as_millis() as u64)
    }

    #[invoke]
    async fn middle(&mut self, cx: &mut Cx<Self>, key: u64) -> u64 {
        let begun = cx.now();
        let answer = cx.entity::<Desk>(key).slow().await;
        let took = (cx.now() - begun).as_millis();
        self.log.push(format!("{took} {}", kind_of(&answer)));
        1
    }

    #[invoke]
    async fn slow(&mut self, cx: &mut Cx<Self>) -> u64 {
        let begun = cx.now();
        cx.sleep(Duration::from_secs(30)).await;
        let took = (cx.now() - begun).as_millis();
        self.log.push(format!("{took} cancelled {}", cx.is_cancelled()));
        1
    }

    #[request(client)]
    async fn log_of(&mut self, cx: &mut Cx<Self>, key: u64) -> Vec<String> {
        cx.entity::<Desk>(key).log().await.unwrap_or_default()
    }

    #[invoke]
    fn log(&self) -> Vec<String> {
        self.log.clone()
    }
}

/// The variant of the error, or `ok`.
fn kind_of<T, E: std::fmt::Debug>(answer: &Result<T, E>) -> String {
    match answer {
        Ok(_) => "ok".to_owned(),
        Err(error) => {
            let text = format!("{error:?}");
            text.split([' ', '(']).next().unwrap_or_default().to_owned()
        }
    }
}

fn desks() -> App {
    App::new("desks").entity::<Desk>().agent::<Desk>("desk")
}

#[mainstay::test(seed = 8)]
async fn a12_a_client_that_never_answers_costs_the_deadline(cluster: Cluster) {
    let game = cluster.start(&desks());
    let ann = game.client(1).await;
    // What the client has not published cannot be called.
    let (_, _, errors): (u64, u64, String) = ann.request("desk", "ask_back", &()).await.unwrap();
    assert_eq!(errors, "UnknownMethod UnknownMethod");
    // A client that cannot be heard of for a while.
    let silence = async {
        game.sleep(millis(50)).await;
        (0..2).for_each(|gate| game.kill_gate(gate, secs(6)));
        Ok((0, 0, String::new()))
    };
    let ask = ann.request::<_, (u64, u64, String)>("desk", "ask_back", &());
    let both: [Boxed<'_, _>; 2] = [Box::pin(ask), Box::pin(silence)];
    let (slow, quick, errors) = all(both).await.swap_remove(0).unwrap();
    assert_eq!(errors, "Timeout Timeout");
    assert!((2_000..2_050).contains(&slow), "{slow}");
    assert!((300..350).contains(&quick), "{quick}");
}

#[mainstay::test(seed = 9)]
async fn a14_deadlines_travel_and_a_turn_is_never_dropped(cluster: Cluster) {
    let game = cluster.start(&desks());
    let ann = game.client(1).await;
    for key in [10u64, 20, 30, 40] {
        let (what, after): (String, u64) =
            ann.request("desk", "delegate", &(key, 500u64)).await.unwrap();
        assert!(what == "Timeout" && (500..530).contains(&after), "{what} after {after}");
        game.sleep(secs(1)).await;
        // The calls below ended with it, though their own deadline was 4 s, and the code after
        // them ran.
        for key in [key, key + 1] {
            let log: Vec<String> = ann.request("desk", "log_of", &(key,)).await.unwrap();
            assert_eq!(log.len(), 1, "{log:?}");
            let span: u64 = log[0].split(' ').next().unwrap().parse().unwrap();
            assert!((450..560).contains(&span), "{log:?}");
        }
    }
}

#[entity(mailbox_max = 4)]
#[derive(Default)]
struct Clinic {
    treated: u64,
}

#[rpc]
impl Clinic {
    #[request(client)]
    async fn treat(&mut self, cx: &mut Cx<Self>) -> u64 {
        cx.sleep(Duration::from_millis(100)).await;
        self.treated += 1;
        self.treated
    }
}

#[mainstay::test(seed = 10)]
async fn a15_a_full_mailbox_is_busy_at_once(cluster: Cluster) {
    let app = App::new("clinic").entity::<Clinic>().bind::<Clinic>("clinic", |_| 1);
    let game = cluster.start(&app);
    let players = clients(&game, 1..=10).await;
    for player in &players {
        player.bound("clinic").await;
    }
    let begun = game.now();
    let answers = all(players.iter().map(|player| -> Boxed<'_, _> {
        let game = game.clone();
        Box::pin(async move {
            let answer = player.request::<_, u64>("clinic", "treat", &()).await;
            (answer, game.now() - begun)
        })
    }))
    .await;
    let busy: Vec<_> = answers.iter().filter(|(answer, _)| answer.is_err()).collect();
    assert_eq!(busy.len(), 5, "one is treated and four wait: {answers:?}");
    for (answer, took) in busy {
        assert_eq!(*answer, refused(Status::Busy));
        assert!(*took < millis(100), "{took:?}");
    }
}

#[entity]
#[derive(Default)]
struct Club {
    entered: u64,
}

#[rpc]
impl Club {
    #[request(client, rate = "3/s")]
    fn enter(&mut self) -> u64 {
        self.entered += 1;
        self.entered
    }

    #[request(client, level = 1)]
    fn back_room(&mut self) -> u64 {
        self.entered += 100;
        self.entered
    }

    #[tell(server)]
    fn clean(&mut self) {
        self.entered = 0;
    }

    #[invoke(operator)]
    fn count(&self) -> u64 {
        self.entered
    }

    #[request(client, alias = "old_door", alias = "older_door")]
    fn door(&mut self) -> String {
        "open".to_owned()
    }

    fn helper(&self) -> u64 {
        self.entered
    }
}

fn club() -> App {
    App::new("club").entity::<Club>().agent::<Club>("club")
}

#[mainstay::test(seed = 11)]
async fn a21_levels_and_rates_are_checked_before_the_handler(cluster: Cluster) {
    assert_eq!(Club { entered: 3 }.helper(), 3);
    let game = cluster.start(&club());
    let ann = game.client(1).await;
    assert_eq!(ann.request::<_, u64>("club", "back_room", &()).await, refused(Status::Denied));
    for method in ["clean", "count"] {
        assert_eq!(ann.request::<_, u64>("club", method, &()).await, refused(Status::Denied));
    }
    assert_eq!(ann.request::<_, u64>("club", "helper", &()).await, refused(Status::UnknownMethod));
    ann.tell("club", "clean", &()).unwrap();
    for n in 1..=3u64 {
        assert_eq!(ann.request("club", "enter", &()).await, Ok(n));
    }
    let told = |event: &Event| matches!(event, Event::Refused { status: Status::Denied, .. });
    assert_eq!(ann.events().iter().filter(|event| told(event)).count(), 1);
    assert_eq!(ann.request::<_, u64>("club", "enter", &()).await, refused(Status::Busy));
    // Another client is not slowed by it, and later there is room again.
    let bob = game.client(2).await;
    assert_eq!(bob.request("club", "enter", &()).await, Ok(1u64));
    game.sleep(secs(1)).await;
    assert_eq!(ann.request("club", "enter", &()).await, Ok(4u64));
}

#[mainstay::test(seed = 12)]
async fn a44_old_names_still_work(cluster: Cluster) {
    let game = cluster.start(&club());
    let ann = game.client(1).await;
    for name in ["door", "old_door", "older_door"] {
        assert_eq!(ann.request("club", name, &()).await, Ok("open".to_owned()));
    }
    let never = ann.request::<_, String>("club", "oldest_door", &()).await;
    assert_eq!(never, refused(Status::UnknownMethod));
}

#[mainstay::test(seed = 13, faults = Faults::all())]
async fn a28_a_repeat_over_a_broken_connection_gets_the_first_answer(cluster: Cluster) {
    let game = cluster.start(&glasses());
    let ann = game.client(1).await;
    for n in 1..=60u64 {
        let request = ann.request::<_, u64>("glass", "sip", &());
        // Cut before, while or after it is under way, in turn.
        let cut = async {
            if !n.is_multiple_of(3) {
                game.sleep(millis(n % 7)).await;
                ann.cut();
            }
            Ok(n)
        };
        let both: [Boxed<'_, _>; 2] = [Box::pin(request), Box::pin(cut)];
        assert_eq!(all(both).await, [Ok(n), Ok(n)]);
    }
}

/// Links break between any two bytes: a call ends with its answer or an error within its
/// deadline, and nothing of it stays.
#[test]
fn a32_a_lost_message_is_a_timeout_and_leaves_nothing() {
    let faults = Faults { cut_link: 150, late_end: 300, late_max: secs(1), ..Faults::none() };
    let mut options = sim_options(&chains(), 14, faults);
    options.nodes = 3;
    let mut cluster = testkit::Cluster::new(options);
    let ann = cluster.client(1);
    cluster.run_until(secs(60), |cluster| cluster.core(ann).is_bound("chain"));
    let mut ends = [0; 3];
    for round in 0..200u64 {
        let path: Vec<u64> = (2..6).map(|n| n + round * 4).collect();
        let begun = cluster.now();
        match cluster.request::<_, String>(ann, "chain", "pass", &(path, 0u64)) {
            Ok(text) => {
                assert_eq!(text, "end");
                ends[0] += 1;
            }
            Err(ClientError::App(_)) => ends[1] += 1,
            Err(_) => ends[2] += 1,
        }
        assert!(cluster.now() - begun < secs(31), "no longer than the client's deadline");
    }
    assert!(ends[0] > 50 && ends[1] > 5, "{ends:?}");
    cluster.heal();
    cluster.run_for(secs(10));
    assert_eq!(cluster.open_requests(), 0);
    for worker in cluster.worker_stats() {
        let open: u64 = worker.host.kinds.iter().map(|kind| u64::from(kind.calls)).sum();
        assert_eq!((open, worker.host.turns), (0, 0));
    }
}

#[entity]
#[derive(Default)]
struct Bouncer;

#[rpc]
impl Bouncer {
    #[tell(client)]
    fn insult(&mut self, cx: &mut Cx<Self>) {
        for peer in cx.peers() {
            cx.kick(&peer, CloseCode::Kicked, "mind your manners");
        }
    }
}

#[mainstay::test(seed = 15)]
async fn c14_a_handler_kicks_with_a_reason(cluster: Cluster) {
    let game = cluster.start(&App::new("door").entity::<Bouncer>().agent::<Bouncer>("door"));
    let (ann, bob) = (game.client(1).await, game.client(2).await);
    ann.bound("door").await;
    ann.tell("door", "insult", &()).unwrap();
    game.sleep(secs(1)).await;
    let end = ann.events().into_iter().find_map(|event| match event {
        Event::Ended { end } => Some(end),
        _ => None,
    });
    let reason = "mind your manners".to_owned();
    assert_eq!(end, Some(End::Server { code: CloseCode::Kicked, reason }));
    assert!(!bob.events().iter().any(|event| matches!(event, Event::Ended { .. })));
    assert_eq!((game.left().sessions, game.left().streams), (1, 1), "nothing of it is left");
}

// -- notices --

#[derive(Clone, Debug, PartialEq, Message)]
struct Score {
    team: u8,
    points: u32,
}

#[entity(mailbox_max = 8)]
#[derive(Default)]
struct Fan {
    heard: Vec<(u8, u32)>,
}

type FanMessage = <Fan as mainstay::node::Entity>::Message;

#[rpc]
impl Fan {
    #[request(client)]
    fn listen(&mut self, cx: &mut Cx<Self>) {
        cx.subscribe("scores", FanMessage::Hear);
    }

    #[request(client)]
    fn leave(&mut self, cx: &mut Cx<Self>) {
        cx.unsubscribe("scores");
    }

    #[tell(server)]
    async fn hear(&mut self, cx: &mut Cx<Self>, score: Score) {
        // The team with number 9 is a slow one to cheer for.
        if score.team == 9 {
            cx.sleep(Duration::from_secs(3)).await;
        }
        self.heard.push((score.team, score.points));
    }

    #[request(client)]
    fn heard(&mut self) -> Vec<(u8, u32)> {
        std::mem::take(&mut self.heard)
    }

    /// Tells whoever listens; gives how long that took, in microseconds of simulated time.
    #[request(client)]
    fn announce(&mut self, cx: &mut Cx<Self>, team: u8, count: u32) -> u64 {
        let begun = cx.now();
        for points in 1..=count {
            cx.notify("scores", &Score { team, points });
        }
        (cx.now() - begun).as_micros() as u64
    }
}

fn fans() -> App {
    App::new("fans").entity::<Fan>().agent::<Fan>("fan")
}

#[mainstay::test(seed = 21)]
async fn a33_notices_reach_whoever_listens(cluster: Cluster) {
    let game = cluster.start(&fans());
    let players = clients(&game, 1..=8).await;
    let source = &players[0];
    let announce =
        async |team: u8| source.request::<_, u64>("fan", "announce", &(team, 2u32)).await;
    // With no listener the message goes nowhere.
    assert_eq!(announce(1).await, Ok(0));
    for fan in &players[1..] {
        fan.request::<_, ()>("fan", "listen", &()).await.unwrap();
    }
    game.sleep(secs(1)).await;
    assert_eq!(announce(2).await, Ok(0));
    game.sleep(secs(1)).await;
    for fan in &players[1..] {
        let heard: Vec<(u8, u32)> = fan.request("fan", "heard", &()).await.unwrap();
        assert_eq!(heard, [(2, 1), (2, 2)], "in order, on every worker of every node");
        fan.request::<_, ()>("fan", "leave", &()).await.unwrap();
    }
    assert_eq!(announce(3).await, Ok(0));
    game.sleep(secs(1)).await;
    for fan in &players {
        assert_eq!(fan.request("fan", "heard", &()).await, Ok(Vec::<(u8, u32)>::new()));
    }
}

#[mainstay::test(seed = 22)]
async fn a33_a_slow_listener_does_not_slow_the_source(cluster: Cluster) {
    let game = cluster.start(&fans());
    let players = clients(&game, 1..=4).await;
    for fan in &players[1..] {
        fan.request::<_, ()>("fan", "listen", &()).await.unwrap();
    }
    game.sleep(secs(1)).await;
    let begun = game.now();
    // More than a listener's mailbox holds, and each takes seconds.
    assert_eq!(players[0].request("fan", "announce", &(9u8, 50u32)).await, Ok(0u64));
    assert!(game.now() - begun < millis(500), "the source did not wait");
    game.sleep(secs(60)).await;
    for fan in &players[1..] {
        let heard: Vec<(u8, u32)> = fan.request("fan", "heard", &()).await.unwrap();
        assert!((8..=10).contains(&heard.len()), "only what its own mailbox held: {heard:?}");
    }
}

// -- time --

#[entity]
#[derive(Default)]
struct Watch {
    log: Vec<String>,
    begun: u64,
}

impl Watch {
    fn note(&mut self, cx: &Cx<Self>, what: &str) {
        // Exact within one tick of the wheel.
        let at = (cx.now().as_millis() - self.begun) / 10 * 10;
        self.log.push(format!("{at} {what}"));
    }
}

#[rpc]
impl Watch {
    #[timer]
    fn ring(&mut self, cx: &mut Cx<Self>, what: String) {
        self.note(cx, &what);
    }

    #[timer]
    async fn slow_ring(&mut self, cx: &mut Cx<Self>, what: String) {
        cx.sleep(Duration::from_millis(30)).await;
        self.note(cx, &what);
    }

    #[request(client)]
    fn keys(&mut self, cx: &mut Cx<Self>) -> (bool, bool, u32, bool, bool) {
        self.begun = cx.now().as_millis();
        for n in 1..=3 {
            cx.after(Duration::from_secs(n)).key("alarm").ring(format!("alarm {n}"));
        }
        let lone = cx.after(Duration::from_secs(2)).key("lone").ring("lone".to_owned());
        let first = cx.after(Duration::from_secs(1)).key("pair").ring("pair 1".to_owned());
        cx.after(Duration::from_secs(1)).key("pair").ring("pair 2".to_owned());
        // A handle takes one away, a key all; taking away what is gone is harmless.
        let one = cx.cancel_timer(first) && !cx.cancel_timer(first) && cx.has_timer("pair");
        let had = cx.has_timer("alarm") && cx.has_timer_id(lone);
        let count = cx.cancel("alarm") as u32;
        let gone = !cx.has_timer("alarm") && cx.cancel("alarm") == 0 && cx.cancel("never") == 0;
        (one, had, count, gone, cx.has_timer_id(lone))
    }

    #[request(client)]
    fn repeats(&mut self, cx: &mut Cx<Self>) {
        self.begun = cx.now().as_millis();
        let span = Duration::from_millis;
        cx.after(Duration::ZERO).ring("next turn".to_owned());
        cx.every(span(50), span(200), 3).ring("thrice".to_owned());
        cx.every(span(1_000), span(1_000), Times::Forever).key("ever").ring("ever".to_owned());
        cx.every(span(70), span(110), 2).slow_ring("slow".to_owned());
    }

    #[request(client)]
    fn log(&mut self, cx: &mut Cx<Self>) -> Vec<String> {
        cx.cancel("ever");
        std::mem::take(&mut self.log)
    }

    #[request(client)]
    fn end(&mut self, cx: &mut Cx<Self>) {
        let often = Duration::from_millis(10);
        cx.every(often, often, Times::Forever).report("timer".to_owned());
        cx.destroy();
    }

    #[timer]
    fn report(&mut self, cx: &mut Cx<Self>, what: String) {
        let _ = cx.entity::<Witness>(1).saw(what);
    }

    #[request(client)]
    fn shake(&mut self, cx: &mut Cx<Self>) {
        let until = cx.now().as_millis() + 150;
        let often = Duration::from_millis(100);
        cx.every(often, often, 4).shaky(until);
    }

    #[timer]
    fn shaky(&mut self, cx: &mut Cx<Self>, until: u64) {
        assert!(cx.now().as_millis() >= until, "too early");
        let _ = cx.entity::<Witness>(1).saw("steady".to_owned());
    }

    #[request(client)]
    async fn wait(&mut self, cx: &mut Cx<Self>) -> (u64, bool) {
        let begun = cx.now();
        cx.next_turn().await;
        cx.sleep(Duration::from_millis(250)).await;
        let waited = cx.timeout(Duration::from_millis(100), cx.sleep(Duration::from_secs(9))).await;
        ((cx.now() - begun).as_millis() as u64, waited.is_err())
    }

    #[request(client, interleave)]
    async fn wait_long(this: This<Self>, cx: &mut Cx<Self>) -> u64 {
        cx.sleep(Duration::from_secs(3)).await;
        let _ = cx.entity::<Witness>(1).saw(format!("woken {}", cx.is_cancelled()));
        this.with(|watch| watch.begun)
    }

    #[request(client, interleave)]
    async fn end_now(this: This<Self>, cx: &mut Cx<Self>) -> u64 {
        cx.destroy();
        this.with(|watch| watch.begun)
    }
}

#[entity]
#[derive(Default)]
struct Witness {
    seen: Vec<String>,
}

#[rpc]
impl Witness {
    #[tell(server)]
    fn saw(&mut self, what: String) {
        self.seen.push(what);
    }

    #[request(client)]
    fn tell_all(&mut self) -> Vec<String> {
        std::mem::take(&mut self.seen)
    }
}

fn watches() -> App {
    let app = App::new("watches").entity::<Watch>().entity::<Witness>();
    app.agent::<Watch>("watch").bind::<Witness>("witness", |_| 1)
}

async fn watch_log(game: &Game, player: &Player, span: Duration) -> String {
    game.sleep(span).await;
    let log: Vec<String> = player.request("watch", "log", &()).await.unwrap();
    log.join("\n")
}

#[mainstay::test(seed = 16)]
async fn m1_a_key_has_many_timers_and_a_handle_one(cluster: Cluster) {
    let game = cluster.start(&watches());
    let ann = game.client(1).await;
    let seen = ann.request("watch", "keys", &()).await;
    assert_eq!(seen, Ok((true, true, 3u32, true, true)));
    assert_eq!(watch_log(&game, &ann, secs(5)).await, "1000 pair 2\n2000 lone");
}

#[mainstay::test(seed = 17)]
async fn m2_repeats_start_and_go_on_as_told(cluster: Cluster) {
    let game = cluster.start(&watches());
    let ann = game.client(1).await;
    ann.request::<_, ()>("watch", "repeats", &()).await.unwrap();
    expect_test::expect![[r#"
        0 next turn
        50 thrice
        100 slow
        210 slow
        250 thrice
        450 thrice
        1000 ever
        2000 ever
        3000 ever"#]]
    .assert_eq(&watch_log(&game, &ann, millis(3_500)).await);
    assert_eq!(watch_log(&game, &ann, secs(3)).await, "", "cancelled by its key");
}

#[mainstay::test(seed = 23)]
async fn m2_a_callback_that_panics_does_not_end_its_repeats(cluster: Cluster) {
    let game = cluster.start(&watches());
    let ann = game.client(1).await;
    ann.request::<_, ()>("watch", "shake", &()).await.unwrap();
    game.sleep(secs(2)).await;
    let seen: Vec<String> = ann.request("witness", "tell_all", &()).await.unwrap();
    assert_eq!(seen, ["steady"; 3]);
}

#[mainstay::test(seed = 18)]
async fn m3_no_callback_after_destroy(cluster: Cluster) {
    let game = cluster.start(&watches());
    let (ann, bob) = (game.client(1).await, game.client(2).await);
    ann.request::<_, ()>("watch", "end", &()).await.unwrap();
    game.sleep(secs(1)).await;
    let seen: Vec<String> = bob.request("witness", "tell_all", &()).await.unwrap();
    assert_eq!(seen, Vec::<String>::new());
}

#[mainstay::test(seed = 19)]
async fn m7_waits_take_the_time_they_say(cluster: Cluster) {
    let game = cluster.start(&watches());
    let ann = game.client(1).await;
    let (waited, elapsed): (u64, bool) = ann.request("watch", "wait", &()).await.unwrap();
    assert!(elapsed && (350..=372).contains(&waited), "{waited}");
}

#[mainstay::test(seed = 20)]
async fn m7_waiting_ends_with_the_entity(cluster: Cluster) {
    let game = cluster.start(&watches());
    let (ann, bob) = (game.client(1).await, game.client(2).await);
    ann.bound("watch").await;
    let begun = game.now();
    let end = async {
        game.sleep(millis(100)).await;
        ann.request::<_, u64>("watch", "end_now", &()).await
    };
    let wait = ann.request::<_, u64>("watch", "wait_long", &());
    let both: [Boxed<'_, _>; 2] = [Box::pin(wait), Box::pin(end)];
    let answers = all(both).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert!(game.now() - begun < secs(1), "at once");
    // A turn that has started is not dropped half-way: what came after its wait ran, once.
    game.sleep(secs(5)).await;
    let seen: Vec<String> = bob.request("witness", "tell_all", &()).await.unwrap();
    assert_eq!(seen, ["woken true"]);
}
