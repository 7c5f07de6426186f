//! Topics and queues of a game: in one process, and in two over a server.

#[cfg(feature = "nats")]
use std::collections::BTreeSet;
use std::time::Instant;

#[cfg(feature = "nats")]
use mainstay::bus::{Bus, Subscription};
use mainstay::config::{Config, Input, Keys};
#[cfg(feature = "nats")]
use mainstay::proto::{decode, encode};
use mainstay::{AppError, Running, StartError};

use super::*;

/// Nothing that is waited for takes so long but by a fault.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Message)]
pub(super) struct Letter {
    pub(super) to: u64,
    pub(super) text: String,
}

impl Job for Letter {
    const QUEUE: &'static str = "letters";

    fn group(&self) -> &str {
        if self.text.starts_with("parcel") { "parcels" } else { "post" }
    }
}

/// What somebody did with a letter or heard: who, what, in which process, at which try.
#[derive(Clone, Debug, Message, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Word {
    pub(super) who: u64,
    pub(super) text: String,
    pub(super) process: u32,
    pub(super) attempt: u32,
}

#[entity]
#[derive(Default)]
struct Desk {}

type DeskMessage = <Desk as mainstay::node::Entity>::Message;

#[rpc]
impl Desk {
    /// Takes a letter, and listens to the news from then on.
    #[invoke(server)]
    async fn deliver(&mut self, cx: &mut Cx<Self>, text: String, attempt: u32) -> bool {
        cx.subscribe("news", DeskMessage::Hear);
        let word = Word { who: cx.key(), text, process: std::process::id(), attempt };
        cx.notify("delivered", &word);
        match cx.publish("deeds.delivery", &word) {
            Ok(answer) => answer.await.is_ok(),
            Err(_) => false,
        }
    }

    #[tell(server)]
    fn hear(&mut self, cx: &mut Cx<Self>, text: String) {
        let word = Word { who: cx.key(), text, process: std::process::id(), attempt: 0 };
        cx.notify("heard", &word);
    }

    /// Logs the player in, with this tag.
    #[request(client)]
    fn enter(&mut self, cx: &mut Cx<Self>, tag: String) {
        let peers = cx.peers();
        peers.iter().for_each(|peer| cx.users().log_in(peer, &[&tag]));
    }

    #[invoke(server)]
    async fn send(&mut self, cx: &mut Cx<Self>, to: u64, text: String) -> String {
        match cx.submit(&Letter { to, text }) {
            Ok(answer) => format!("{:?}", answer.await),
            Err(error) => format!("{error:?}"),
        }
    }

    /// Must not be: nothing of that topic may be lost.
    #[invoke(server)]
    fn listen_to_deeds(&mut self, cx: &mut Cx<Self>) {
        cx.subscribe("deeds.delivery", DeskMessage::Hear);
    }
}

/// May fall before there is anything to await.
fn take(letter: Letter, work: Work) -> impl Future<Output = Done> {
    assert!(letter.text != "drop" || work.attempt() > 1, "dropped at the door");
    carry(letter, work)
}

async fn carry(letter: Letter, work: Work) -> Done {
    let word = |text: &str| Word {
        who: letter.to,
        text: text.to_owned(),
        process: std::process::id(),
        attempt: work.attempt(),
    };
    match (letter.text.as_str(), work.attempt()) {
        ("poison", _) => return Err("nobody can read it".into()),
        ("panic", 1) => panic!("a clumsy postman"),
        ("hold" | "parcel: hold", 1) => {
            work.notify("held", &word("held"));
            std::future::pending().await
        }
        (text, attempt) => {
            work.entity::<Desk>(letter.to).deliver(text.to_owned(), attempt).await?;
        }
    }
    Ok(())
}

pub fn app() -> App {
    app_with(Delivery::AtLeastOnce)
}

fn app_with(deeds: Delivery) -> App {
    let post = Pull::new("post").workers(2).limit(PATIENCE);
    let parcels = Pull::new("parcels").limit(Duration::from_millis(200));
    App::new("post")
        .entity::<Desk>()
        .queue(Queue::new(take).group(post).group(parcels))
        .topic("chat.*", Delivery::AtMostOnce)
        .agent::<Desk>("desk")
        .users_from_bus()
        .consume(("deeds.>", deeds), "ledger", async |word: Word, work: Work| {
            work.notify("booked", &word);
            Ok(())
        })
}

const ALONE: &str = r#"{
    "cluster": "post",
    "options": {"bus": {"queue_messages_max": 4}},
    "processes": {"all": {"roles": ["node"], "workers": 2}},
}"#;

fn start(app: &App, text: &str) -> Result<Running, StartError> {
    let input = Input::of_text("post.json", text);
    let config = Config::from_input(&input, &app.role_names()).unwrap();
    let keys = Keys { tickets: vec![(1, [7; 32])], ..Keys::default() };
    Running::start(app, &config.cluster, &config.processes[0], &keys)
}

/// Asks the entity `key` something.
fn ask<R: Send + 'static, F: Future<Output = Result<R, CallError>> + 'static>(
    running: &Running,
    act: impl FnOnce(mainstay::node::Outside) -> F + Send + 'static,
) -> R {
    let answer = running.node().unwrap().spawn(0, act);
    answer.blocking_recv().unwrap().unwrap()
}

fn send(running: &Running, to: u64, text: &'static str) -> String {
    ask(running, move |out| async move { out.entity::<Desk>(1).send(to, text.to_owned()).await })
}

fn metric(running: &Running, line: &str) -> Option<String> {
    let text = running.metrics().render_openmetrics();
    let found = text.lines().find(|found| found.starts_with(line));
    found.and_then(|found| found.rsplit(' ').next()).map(str::to_owned)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what} takes too long");
        rest();
    }
}

#[test]
fn e5_pull_workers_of_one_process_do_each_job_and_repeat_what_failed() {
    let running = start(&app(), ALONE).unwrap();
    let done = |group: &str, sort: &str| {
        let line = format!("work_{sort}_total{{node=\"all\",queue=\"letters\",group=\"{group}\"}}");
        metric(&running, &line).unwrap_or_default()
    };
    for to in 2..6 {
        assert_eq!(send(&running, to, "hello"), "Ok(New)");
        until("a letter", || done("post", "done") == (to - 1).to_string());
    }
    // A panic is the job's alone: it comes again, and the worker goes on.
    assert_eq!(send(&running, 2, "panic"), "Ok(New)");
    until("the repeated letter", || done("post", "done") == "5");
    assert_eq!(send(&running, 2, "drop"), "Ok(New)");
    until("the dropped letter", || done("post", "done") == "6");
    assert_eq!(done("post", "failed"), "2");
    // What the desks published on a topic that may lose nothing was booked by its group.
    until("the ledger", || {
        metric(&running, "work_done_total{node=\"all\",queue=\"ledger\"").as_deref() == Some("6")
    });
}

#[test]
fn e9_a_job_over_its_limit_is_broken_off_and_comes_again() {
    let running = start(&app(), ALONE).unwrap();
    assert_eq!(send(&running, 7, "parcel: hold"), "Ok(New)");
    let of = |sort: &str| {
        let labels = "{node=\"all\",queue=\"letters\",group=\"parcels\"}";
        metric(&running, &format!("work_{sort}_total{labels}"))
    };
    until("the second try", || of("done").as_deref() == Some("1"));
    assert_eq!(of("over_limit").as_deref(), Some("1"));
}

#[test]
fn e8_each_group_has_a_queue_of_its_own_and_a_full_one_is_busy() {
    let running = start(&app(), ALONE).unwrap();
    // In hands or waiting, four are taken.
    for n in 0..4 {
        assert_eq!(send(&running, 7, "hold"), "Ok(New)", "{n}");
    }
    let said = send(&running, 7, "hold");
    assert!(said.starts_with("Busy"), "{said}");
    // The other group has room.
    assert_eq!(send(&running, 8, "parcel"), "Ok(New)");
    let labels = "work_done_total{node=\"all\",queue=\"letters\",group=\"parcels\"}";
    until("the parcel", || metric(&running, labels).as_deref() == Some("1"));
}

#[test]
fn e3_an_entity_cannot_listen_to_what_may_not_be_lost() {
    let running = start(&app(), ALONE).unwrap();
    let listen = |out: mainstay::node::Outside| async move {
        Ok(out.entity::<Desk>(1).listen_to_deeds().await.is_err())
    };
    assert!(ask(&running, listen));
}

#[test]
fn e2_a_class_that_the_bus_cannot_give_is_refused_at_check_and_start() {
    let config = |text: &str, app: &App| {
        Config::from_input(&Input::of_text("post.json", text), &app.role_names()).unwrap()
    };
    let durable = app_with(Delivery::Durable);
    let refused = config(ALONE, &durable).check_app(&durable).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "\"deeds.>\" is declared durable, and the embedded bus keeps nothing over a restart: name a \
         server, \"bus\": {\"nats\": \"nats://HOST:4222\"} or {\"rabbitmq\": \"amqp://HOST:5672\"}, or \
         declare it at least once"
    );
    assert!(matches!(start(&durable, ALONE), Err(StartError::App(AppError::BusCannotGive(_)))));
    let two = ALONE.replace(r#""workers": 2"#, r#""count": 2, "listen": {"mesh": 7101}"#);
    let refused = config(&two, &app()).check_app(&app()).unwrap_err().to_string();
    assert!(refused.contains("within one process, and several run entities"), "{refused}");
    let nats =
        two.replace("\"processes\"", r#""bus": {"nats": "nats://10.0.0.1:4222"}, "processes""#);
    assert_eq!(config(&nats, &durable).check_app(&durable), Ok(()));
}

/// Any program that may use the bus pushes to users and closes them, by tags and without some.
#[cfg(feature = "nats")]
#[test]
fn e11_a_program_pushes_to_users_and_closes_them_by_tags_and_without_some() {
    use mainstay::node::{USERS_TOPIC, UsersOrder};
    if servers::skipped() {
        return;
    }
    let server = servers::Nats::start_guarded("game", "secret").unwrap();
    let [plain, guarded] = [server.url().replace("game:secret@", "game@"), server.url()];
    let all =
        r#""all": {"roles": ["gate", "node"], "workers": 2, "listen": {"clients": "127.0.0.1:0"}}"#;
    let text = format!(
        r#"{{"cluster": "post", "bus": {{"nats": {{"url": {plain:?}, "password": "secret"}}}},
        "processes": {{{all}}}}}"#
    );
    let running = start(&app(), &text).unwrap();
    let mut players: Vec<(u64, Polled)> = [1, 2, 3]
        .map(|account| {
            let grant = running.ticket(AccountId(account), "somebody", PATIENCE);
            let address = Address::tcp(running.addresses()[0].to_string());
            (account, Polled::new(mainstay::client::Options::new(address), grant))
        })
        .into();
    let (sender, entered) = std::sync::mpsc::channel();
    for (account, player) in &mut players {
        until("a login", || {
            while player.poll().is_some() {}
            player.core().is_bound("desk")
        });
        let tag = if *account < 3 { "vip" } else { "guest" };
        let sender = sender.clone();
        let told = move |_: &mut _, reply: Result<(), _>| sender.send(reply).unwrap();
        player.request_then("desk", MethodId::of("enter"), &(tag.to_owned(),), told).unwrap();
        until("the tag", || {
            while player.poll().is_some() {}
            entered.try_recv().is_ok()
        });
    }
    let options = mainstay::bus::Options { answer_wait: PATIENCE, ..Default::default() };
    let bus = Bus::connect(&[guarded], "post", options, &Clock::system()).unwrap();
    bus.declare(USERS_TOPIC, Delivery::AtLeastOnce).unwrap();
    let order = |whom: &str, tags: &[&str], except: &[u64], act: &str, text: &str| {
        let order = UsersOrder {
            whom: whom.to_owned(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            except: except.to_vec(),
            act: act.to_owned(),
            text: text.to_owned(),
            arguments: encode(&("rain".to_owned(),)),
            accounts: Vec::new(),
        };
        let mut answer = bus.publish(USERS_TOPIC, order.encode()).unwrap();
        assert!(answer.wait(PATIENCE).unwrap().is_ok());
    };
    // The first hears only the second order: it is excluded from the first.
    order("logged_in", &["vip"], &[1], "push", "hear");
    let mut said = Vec::new();
    let poll = |players: &mut Vec<(u64, Polled)>, said: &mut Vec<(u64, String)>| {
        for (account, player) in players {
            while let Some(event) = player.poll() {
                match event {
                    Event::Push { method, body, .. } => {
                        assert_eq!(decode::<(String,)>(&body).unwrap().0, "rain");
                        let late = method == MethodId::of("late");
                        said.push((*account, if late { "late" } else { "hear" }.to_owned()));
                    }
                    Event::Ended { .. } => said.push((*account, format!("{event:?}"))),
                    _ => {}
                }
            }
        }
    };
    until("the push", || {
        poll(&mut players, &mut said);
        !said.is_empty()
    });
    order("all", &[], &[], "push", "late");
    until("the second push", || {
        poll(&mut players, &mut said);
        said.iter().filter(|(_, what)| what == "late").count() == 3
    });
    let first: Vec<u64> =
        said.iter().filter(|(_, what)| what == "hear").map(|(who, _)| *who).collect();
    assert_eq!(first, [2]);
    said.clear();
    order("logged_in", &["guest"], &[], "close", "the inn is closed");
    until("the end", || {
        poll(&mut players, &mut said);
        !said.is_empty()
    });
    assert!(said[0].0 == 3 && said[0].1.contains("the inn is closed"), "{said:?}");
    order("logged_in", &["guest"], &[], "sing", "");
    until("the dead letter", || {
        let dead = bus.dead(8).wait(PATIENCE).unwrap().unwrap();
        dead.iter().any(|dead| dead.cause.contains("\"sing\" is nothing"))
    });
}

/// A folder with a cluster file of two nodes in it.
#[cfg(feature = "nats")]
struct Post(PathBuf);

#[cfg(feature = "nats")]
impl Post {
    fn new(url: &str) -> Post {
        let folder = std::env::temp_dir().join(format!("mainstay-post-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let text = format!(
            r#"{{"cluster": "post", "bus": {{"nats": {url:?}}},
            "options": {{"registry": {{"lease": "3s"}}, "bus": {{"silence_wait": "2s"}}}},
            "processes": {{"node": {{
                "roles": ["node"], "workers": 1, "count": 2, "listen": {{"mesh": "127.0.0.1:0"}},
            }}}}}}"#
        );
        std::fs::write(folder.join("cluster.json"), text).unwrap();
        Post(folder)
    }

    fn start(&self, process: &str) -> Game {
        let file = self.0.join("cluster.json").display().to_string();
        let data = self.0.join(process);
        Game::spawn_game("post", data, &["--cluster", &file, "--process", process])
    }
}

#[cfg(feature = "nats")]
impl Drop for Post {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The next word on a topic.
#[cfg(feature = "nats")]
fn next(ear: &mut Subscription) -> Word {
    let start = Instant::now();
    loop {
        if let Some(message) = ear.try_next() {
            let word = decode(message.body()).unwrap();
            message.done();
            return word;
        }
        assert!(start.elapsed() < PATIENCE, "nothing was said");
        rest();
    }
}

/// A program that is no part of the game gives jobs, which entities and workers of two processes do
/// together; the jobs that one of them holds when it is killed are done by the other.
#[cfg(feature = "nats")]
#[test]
fn e7_two_processes_share_queues_and_topics_over_nats_and_a_killed_one_loses_no_job() {
    if servers::skipped() {
        return;
    }
    let server = servers::Nats::start().unwrap();
    let options = mainstay::bus::Options {
        answer_wait: PATIENCE,
        silence_wait: Duration::from_secs(2),
        ..Default::default()
    };
    let bus = Bus::connect(&[server.url()], "post", options, &Clock::system()).unwrap();
    bus.declare("work.letters.post", Delivery::Durable).unwrap();
    let mut ears = ["delivered", "heard", "held", "booked"].map(|to| bus.subscribe(to).unwrap());
    assert!(ears.iter_mut().all(|ear| ear.wait_ready(PATIENCE)));
    let [delivered, heard, held, booked] = &mut ears;
    let post = Post::new(&server.url());
    let mut games = [post.start("node-1"), post.start("node-2")];
    let submit = |to: u64, text: &str| {
        let job = encode(&Letter { to, text: text.to_owned() });
        bus.publish("work.letters.post", job)
    };
    // One after the other comes to find the group, which is made by the first node that starts.
    until("the first letter", || {
        let accepted = submit(0, "first").unwrap().wait(PATIENCE).unwrap();
        assert!(accepted.is_ok(), "{accepted:?}");
        std::thread::park_timeout(Duration::from_millis(300));
        delivered.try_next().is_some()
    });
    // Entities of both nodes get letters; which worker brings them, nobody knows.
    let (mut desks, mut processes) = (BTreeSet::new(), BTreeSet::new());
    until("desks on both nodes", || {
        for to in 1..=24 {
            submit(to, "hello").unwrap();
        }
        while desks.len() < 24 {
            let word = next(delivered);
            if word.text == "hello" {
                desks.insert(word.who);
                processes.insert(word.process);
            }
        }
        let both = processes.len() == 2;
        if !both {
            desks.clear();
        }
        both
    });
    assert_eq!(next(booked).attempt, 1);
    // Whoever listens in either process hears what is published outside of both.
    bus.publish("news", encode(&"rain".to_owned())).unwrap();
    let mut heard_in = BTreeSet::new();
    let mut who = BTreeSet::new();
    while who.len() < 24 {
        let word = next(heard);
        if word.who > 0 {
            assert_eq!(word.text, "rain");
            who.insert(word.who);
            heard_in.insert(word.process);
        }
    }
    assert_eq!(heard_in, processes);
    // The process that holds a job is killed.
    submit(3, "hold").unwrap();
    let holder = next(held);
    let game = games.iter_mut().find(|game| game.child.id() == holder.process).unwrap();
    game.child.kill().unwrap();
    game.child.wait().unwrap();
    let again = loop {
        let word = next(delivered);
        if word.text == "hold" {
            break word;
        }
    };
    assert!(again.attempt > 1 && again.process != holder.process, "{again:?}");
    // What nobody can do is set aside with its cause.
    submit(3, "poison").unwrap();
    let mut dead = Vec::new();
    until("the dead letter", || {
        dead = bus.dead(8).wait(PATIENCE).unwrap().unwrap();
        !dead.is_empty()
    });
    assert_eq!((dead[0].attempts, dead[0].cause.as_str()), (5, "nobody can read it"));
}
