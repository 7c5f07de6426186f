//! Questions to pull workers: asked by clients and entities, answered from wherever.

use std::future::poll_fn;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Instant;

use mainstay::bus::Cleared;
#[cfg(feature = "nats")]
use mainstay::bus::{Ask, Bus, Desk, Subscription};
use mainstay::client::CallError as Refusal;
use mainstay::config::{Config, Input, Keys, Role};
use mainstay::node::Outside;
use mainstay::proto::frame::Status;
#[cfg(feature = "nats")]
use mainstay::proto::{decode, encode};
use mainstay::{AppError, Running, StartError};

use super::*;

/// Nothing that is waited for takes so long but by a fault.
const PATIENCE: Duration = Duration::from_secs(60);

/// Done for as long as its client is connected.
#[derive(Clone, Message)]
struct Errand {
    what: String,
}

impl Question for Errand {
    type Answer = String;

    const QUEUE: &'static str = "errands";
    const WAIT: Duration = PATIENCE;
    const CLEARED: Option<Gone> = Some(Gone::Away);

    fn group(&self) -> &str {
        "runners"
    }
}

impl ClientQuestion for Errand {
    const SERVICE: &'static str = "errand";
}

/// Done for as long as its client has a session.
#[derive(Clone, Message)]
struct Favour {
    what: String,
}

impl Question for Favour {
    type Answer = String;

    const QUEUE: &'static str = "favours";
    const WAIT: Duration = PATIENCE;
}

impl ClientQuestion for Favour {
    const SERVICE: &'static str = "favour";
}

/// Whom an errand is passed to.
#[entity]
#[derive(Default)]
struct Clerk {
    kept: Option<RightTo<String>>,
}

#[rpc]
impl Clerk {
    /// Answers somebody's errand, and says what became of it.
    #[invoke(server, deadline = "60s")]
    async fn answer(&mut self, cx: &mut Cx<Self>, right: RightTo<String>, text: String) -> String {
        let text = format!("{text} by {}", std::process::id());
        match cx.answer(right, &text).await {
            Ok(()) => "taken".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[invoke(server, deadline = "60s")]
    fn keep(&mut self, right: RightTo<String>) {
        self.kept = Some(right);
    }

    /// As `answer`, what it keeps.
    #[invoke(server, deadline = "60s")]
    async fn give(&mut self, cx: &mut Cx<Self>) -> String {
        let right = self.kept.clone().expect("it keeps one");
        self.answer(cx, right, "given".to_owned()).await
    }

    /// Asks for itself.
    #[invoke(server, deadline = "60s")]
    async fn send(&mut self, cx: &mut Cx<Self>, what: String) -> String {
        said(cx.ask(&Errand { what }).await)
    }
}

fn said(answer: Result<String, AskError>) -> String {
    answer.unwrap_or_else(|error| format!("no: {error}"))
}

/// Stays shut until the test opens it, and knows what the runners began.
#[derive(Clone, Default)]
struct Door(Arc<Mutex<Behind>>);

#[derive(Default)]
struct Behind {
    open: bool,
    waiting: Vec<Waker>,
    begun: Vec<String>,
}

impl Door {
    fn open(&self) {
        let mut behind = self.0.lock().unwrap();
        behind.open = true;
        behind.waiting.drain(..).for_each(Waker::wake);
    }

    fn begun(&self) -> Vec<String> {
        self.0.lock().unwrap().begun.clone()
    }

    fn close(&self) {
        self.0.lock().unwrap().open = false;
    }

    async fn pass(&self, what: &str) {
        self.0.lock().unwrap().begun.push(what.to_owned());
        poll_fn(|cx| {
            let mut behind = self.0.lock().unwrap();
            if behind.open || !what.starts_with("hold") {
                return Poll::Ready(());
            }
            behind.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// What a runner does, and says of it.
async fn run<Q: Question<Answer = String>>(
    (question, what): (Q, String),
    work: Work,
    door: Door,
) -> Answered<String> {
    work.notify("begun", &what);
    door.pass(&what).await;
    let (order, clerk) = what.split_once(' ').unwrap_or((&what, ""));
    let clerk = || Ok::<_, std::num::ParseIntError>(work.entity::<Clerk>(clerk.parse()?));
    match order {
        "fail" => Err("the road is closed".into()),
        "once" if work.attempt() == 1 => panic!("a clumsy runner"),
        "linger" if work.attempt() == 1 => std::future::pending().await,
        // Says that somebody else will answer, and has told nobody.
        "forget" => Ok(Reply::Elsewhere),
        "keep" => {
            clerk()?.keep(work.right(&question)).await?;
            work.notify("kept", &what);
            Ok(Reply::Elsewhere)
        }
        "pass" => {
            clerk()?.answer(work.right(&question), "passed".to_owned()).await?;
            Ok(Reply::Elsewhere)
        }
        // Passes it on and answers all the same.
        "both" => {
            clerk()?.answer(work.right(&question), "first".to_owned()).await?;
            Ok(Reply::Now("second".to_owned()))
        }
        _ => Ok(Reply::Now(format!("done: {what} at try {}", work.attempt()))),
    }
}

/// Its roles are one with clients and services, one with pull workers, and one with whom they pass the
/// right to answer to.
pub fn app() -> App {
    app_with(Door::default())
}

fn app_with(door: Door) -> App {
    let errands = {
        let door = door.clone();
        Queue::answering(move |errand: Errand, work| {
            let what = errand.what.clone();
            run((errand, what), work, door.clone())
        })
    };
    let favours = Queue::answering(move |favour: Favour, work| {
        let what = favour.what.clone();
        run((favour, what), work, door.clone())
    });
    App::new("errands")
        .entity::<Clerk>()
        .feed::<Errand>()
        .feed::<Favour>()
        .queue(errands.group(Pull::new("runners").limit(PATIENCE)))
        .queue(favours.group(Pull::new("all").limit(PATIENCE)))
        .role("front", Role::new().gate().sessions().entities(["errand", "favour"]))
        .role("runners", Role::new().entities(["errands", "favours"]))
        .role("clerks", Role::new().entities(["clerk"]))
}

const ALONE: &str = r#"{
    "cluster": "errands",
    "options": {"bus": {"asks_queued_max": 2, "attempts_max": 2}},
    "processes": {"all": {
        "roles": ["front", "runners", "clerks"], "workers": 2, "listen": {"clients": "127.0.0.1:0"},
    }},
}"#;

fn start(app: &App, text: &str) -> Result<Running, StartError> {
    let input = Input::of_text("errands.json", text);
    let config = Config::from_input(&input, &app.role_names()).unwrap();
    let keys = Keys { tickets: vec![(1, KEY)], ..Keys::default() };
    Running::start(app, &config.cluster, &config.processes[0], &keys)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what} takes too long");
        rest();
    }
}

fn outside<R: Send + 'static, F: Future<Output = R> + 'static>(
    running: &Running,
    act: impl FnOnce(Outside) -> F + Send + 'static,
) -> R {
    running.node().unwrap().spawn(0, act).blocking_recv().unwrap()
}

fn send(running: &Running, what: &'static str) -> String {
    outside(running, move |out| async move {
        out.entity::<Clerk>(1).send(what.to_owned()).await.unwrap()
    })
}

fn metric(running: &Running, sort: &str) -> String {
    metric_of(running, "errands", "runners", sort)
}

fn metric_of(running: &Running, queue: &str, group: &str, sort: &str) -> String {
    let line = format!("{sort}{{node=\"all\",queue=\"{queue}\",group=\"{group}\"}} ");
    let text = running.metrics().render_openmetrics();
    let found = text.lines().find_map(|found| found.strip_prefix(&line));
    found.unwrap_or_else(|| panic!("no {line} in {text}")).to_owned()
}

/// Somebody at the gate.
struct Player {
    polled: Polled,
    answers: Receiver<Result<String, Refusal>>,
    sender: std::sync::mpsc::Sender<Result<String, Refusal>>,
}

impl Player {
    fn new(running: &Running, account: u64) -> Player {
        let address = Address::tcp(running.addresses()[0].to_string());
        let mut polled = player_of(address, account, None);
        until("a login", || {
            while polled.poll().is_some() {}
            ["errand", "favour"].iter().all(|service| polled.core().is_bound(service))
        });
        let (sender, answers) = channel();
        Player { polled, answers, sender }
    }

    fn ask(&mut self, what: &str) {
        self.ask_of("errand", &Errand { what: what.to_owned() });
    }

    fn ask_favour(&mut self, what: &str) {
        self.ask_of("favour", &Favour { what: what.to_owned() });
    }

    fn ask_of<Q: Message + Clone>(&mut self, service: &str, question: &Q) {
        let sender = self.sender.clone();
        let then = move |_: &mut Polled, reply| sender.send(reply).unwrap();
        let args = (question.clone(),);
        self.polled.request_then(service, MethodId::of("ask"), &args, then).unwrap();
        while self.polled.poll().is_some() {}
    }

    fn answer(&mut self) -> Result<String, Refusal> {
        let mut answer = None;
        until("an answer", || {
            while self.polled.poll().is_some() {}
            answer = self.answers.try_recv().ok();
            answer.is_some()
        });
        answer.unwrap()
    }

    fn asks(&mut self, what: &str) -> Result<String, Refusal> {
        self.ask(what);
        self.answer()
    }

    /// Comes back when she is polled again.
    fn lose_connection(&mut self) {
        self.polled.cut();
        while self.polled.poll().is_some() {}
    }

    /// Goes for good.
    fn leave(&mut self) {
        self.polled.close();
        while self.polled.poll().is_some() {}
    }
}

#[test]
fn c16_clients_requests_are_answered_by_pull_workers_and_a_full_queue_is_busy() {
    let door = Door::default();
    let running = start(&app_with(door.clone()), ALONE).unwrap();
    let mut ann = Player::new(&running, 1);
    assert_eq!(ann.asks("bread"), Ok("done: bread at try 1".to_owned()));
    // One that fails is done again; when nobody can do it, the client is told.
    assert_eq!(ann.asks("once"), Ok("done: once at try 2".to_owned()));
    assert_eq!(ann.asks("fail"), Err(Refusal::Refused(Status::Failed)));
    assert_eq!(ann.asks("forget"), Err(Refusal::Refused(Status::Failed)));
    // The only worker is held: two wait, the next is busy, for whichever client.
    ann.ask("hold");
    until("the errand", || door.begun().ends_with(&["hold".to_owned()]));
    ann.ask("milk");
    ann.ask("eggs");
    until("both wait", || metric(&running, "work_waiting") == "2");
    assert_eq!(ann.asks("salt"), Err(Refusal::Refused(Status::Busy)));
    let mut bob = Player::new(&running, 2);
    assert_eq!(bob.asks("salt"), Err(Refusal::Refused(Status::Busy)));
    let busy = "asks_busy_total{node=\"all\"} 2\n";
    until("it is counted", || running.metrics().render_openmetrics().contains(busy));
    door.open();
    for what in ["hold", "milk", "eggs"] {
        assert_eq!(ann.answer(), Ok(format!("done: {what} at try 1")));
    }
    assert_eq!(bob.asks("salt"), Ok("done: salt at try 1".to_owned()));
    // What is no question is refused before it is one.
    let bad = ann.polled.request("errand", MethodId::of("ask"), &[0x91, 0x01], None).unwrap();
    let mut told = None;
    until("the refusal", || {
        if let Some(Event::Reply { request, result, .. }) = ann.polled.poll() {
            assert_eq!(request, bad);
            told = Some(result.map(drop));
        }
        told.is_some()
    });
    assert_eq!(told, Some(Err(Refusal::Refused(Status::BadArgument))));
}

#[test]
fn e10_what_a_client_asked_is_cleared_as_it_goes_and_what_runs_is_not_answered() {
    let door = Door::default();
    let running = start(&app_with(door.clone()), ALONE).unwrap();
    let waiting = |expected: [&str; 2]| {
        until("the count", || {
            let favours = metric_of(&running, "favours", "all", "work_waiting");
            [metric(&running, "work_waiting"), favours] == expected
        });
    };
    let mut ann = Player::new(&running, 1);
    ann.ask("hold");
    ann.ask_favour("hold a favour");
    until("both", || door.begun().len() == 2);
    ann.ask("never");
    ann.ask_favour("later");
    let mut bob = Player::new(&running, 2);
    bob.ask("bread");
    waiting(["2", "1"]);
    // Errands end with the connection, favours with the session.
    ann.lose_connection();
    waiting(["1", "1"]);
    door.open();
    assert_eq!(bob.answer(), Ok("done: bread at try 1".to_owned()));
    // What ran has ended, and its answer went nowhere.
    assert_eq!(metric(&running, "work_refused_total"), "1");
    waiting(["0", "0"]);
    // She comes back to what became of all that she asked.
    let mut told: Vec<_> = (0..4).map(|_| ann.answer()).collect();
    told.sort_by_key(|told| told.clone().unwrap_or_default());
    let done = |what: &str| Ok(format!("done: {what} at try 1"));
    let cleared = Err(Refusal::Timeout);
    assert_eq!(told, [cleared.clone(), cleared, done("hold a favour"), done("later")]);
    let mut begun = door.begun();
    begun.sort();
    assert_eq!(begun, ["bread", "hold", "hold a favour", "later"]);
    // When she goes for good nothing is left.
    door.close();
    ann.ask_favour("hold another");
    until("the favour", || door.begun().len() == 5);
    ann.ask_favour("never either");
    waiting(["0", "1"]);
    ann.leave();
    waiting(["0", "0"]);
    door.open();
    let refused = || metric_of(&running, "favours", "all", "work_refused_total");
    until("the favour's end", || refused() == "1");
    assert_eq!(door.begun().len(), 5);
}

#[test]
fn e10_what_a_client_asked_is_cleared_on_request() {
    let door = Door::default();
    let running = start(&app_with(door.clone()), ALONE).unwrap();
    let mut ann = Player::new(&running, 1);
    ann.ask("hold");
    until("the errand", || door.begun() == ["hold"]);
    ann.ask("never");
    until("it waits", || metric(&running, "work_waiting") == "1");
    let cleared = outside(&running, |out| async move { out.clear_asked(AccountId(1)) });
    assert_eq!(cleared, Cleared { queued: 1, begun: 1 });
    for _ in 0..2 {
        assert_eq!(ann.answer(), Err(Refusal::Timeout));
    }
    door.open();
    assert_eq!(ann.asks("bread"), Ok("done: bread at try 1".to_owned()));
    assert_eq!(door.begun(), ["hold", "bread"]);
}

#[test]
fn e13_a_worker_passes_the_right_to_answer_on_and_it_is_good_once() {
    let running = start(&app(), ALONE).unwrap();
    let process = std::process::id();
    assert_eq!(send(&running, "bread"), "done: bread at try 1");
    assert_eq!(send(&running, "pass 7"), format!("passed by {process}"));
    assert_eq!(send(&running, "both 7"), format!("first by {process}"));
    until("the second answer", || metric(&running, "work_refused_total") == "1");
    assert_eq!(send(&running, "forget"), "no: its worker gave no answer");
    assert_eq!(send(&running, "fail"), "no: no worker could do it: the road is closed");
}

#[test]
fn c16_a_feed_without_its_queue_is_refused() {
    let app = App::new("errands").feed::<Errand>();
    let text = ALONE.replace(r#""front", "runners", "clerks""#, r#""gate", "node""#);
    let input = Input::of_text("errands.json", &text);
    let config = Config::from_input(&input, &app.role_names()).unwrap();
    let no_queue = AppError::NoQueue { service: "errand", queue: "errands" };
    assert_eq!(config.check_app(&app), Err(no_queue.clone()));
    assert_eq!(
        no_queue.to_string(),
        "clients' requests to \"errand\" feed the queue \"errands\", which the app does not have: add \
         `.queue(Queue::answering(..))` for it"
    );
    assert!(matches!(start(&app, &text), Err(StartError::App(AppError::NoQueue { .. }))));
}

/// A folder with a cluster file of three processes that share a server, and the process that clients reach.
#[cfg(feature = "nats")]
struct Town {
    front: Option<Running>,
    bus: Bus,
    folder: PathBuf,
}

#[cfg(feature = "nats")]
impl Town {
    fn new(url: &str) -> Town {
        let folder = std::env::temp_dir().join(format!("mainstay-town-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let data = folder.join("data").display().to_string();
        let key = KEY.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let process = |name: &str, more: &str| {
            format!(
                r#"{name:?}: {{
                    "roles": [{name:?}], "workers": 1, "listen": {{"mesh": "127.0.0.1:0"{more}}},
                }}"#
            )
        };
        let text = format!(
            r#"{{"cluster": "errands", "data": {data:?}, "bus": {{"nats": {url:?}}},
            "keys": {{"tickets": [{{"id": 1, "key": "{key}"}}], "mesh": "{key}"}},
            "options": {{
                "registry": {{"lease": "3s"}}, "bus": {{"silence_wait": "2s", "asks_queued_max": 2}},
            }},
            "processes": {{{}, {}, {}}}}}"#,
            process("front", r#", "clients": "127.0.0.1:0""#),
            process("runners", ""),
            process("clerks", ""),
        );
        std::fs::write(folder.join("cluster.json"), &text).unwrap();
        let app = app();
        let input = Input::of_text("cluster.json", &text);
        let config = Config::from_input(&input, &app.role_names()).unwrap();
        let keys = Keys { tickets: vec![(1, KEY)], mesh: Some(KEY), ..Keys::default() };
        let front = config.process("front").unwrap();
        let front = Running::start(&app, &config.cluster, front, &keys).unwrap();
        let options = mainstay::bus::Options { answer_wait: PATIENCE, ..Default::default() };
        let bus = Bus::connect(&[url.to_owned()], "errands", options, &Clock::system()).unwrap();
        for questions in ["ask.errands.runners", "ask.favours.all"] {
            bus.declare(questions, Delivery::Durable).unwrap();
        }
        Town { front: Some(front), bus, folder }
    }

    fn front(&self) -> &Running {
        self.front.as_ref().expect("it runs")
    }

    fn start(&self, process: &str) -> Game {
        let file = self.folder.join("cluster.json").display().to_string();
        let data = self.folder.join(process);
        Game::spawn_game("errands", data, &["--cluster", &file, "--process", process])
    }

    fn hear(&self, topic: &str) -> Subscription {
        let mut ear = self.bus.subscribe(topic).unwrap();
        assert!(ear.wait_ready(PATIENCE));
        ear
    }

    /// Has a clerk answer what it keeps, and hears what became of that.
    fn give(&self, clerk: u64) -> String {
        outside(
            self.front(),
            move |out| async move { out.entity::<Clerk>(clerk).give().await.unwrap() },
        )
    }

    /// How many jobs wait, as the process with the workers tells everybody.
    fn jobs(&self) -> Option<u64> {
        let states = mainstay::operate::status(&self.folder.join("data"));
        states.iter().find(|state| state.name == "runners")?.figure("jobs")
    }
}

#[cfg(feature = "nats")]
impl Drop for Town {
    fn drop(&mut self) {
        drop(self.front.take());
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The next text on a topic.
#[cfg(feature = "nats")]
fn next(ear: &mut Subscription) -> String {
    let mut text = None;
    until("a word", || {
        text = ear.try_next().map(|message| decode(message.body()).unwrap());
        text.is_some()
    });
    text.unwrap()
}

/// Whether it is done, at whichever try: a server gives out again what it hears nothing of for 2 s.
#[cfg(feature = "nats")]
fn is_done(what: &str, told: &str) -> bool {
    told.starts_with(&format!("done: {what} at try "))
}

/// Questions of clients of one process are done by the pull workers of a second one, and answered by
/// whoever these passed the right to, in a third.
#[cfg(feature = "nats")]
#[test]
fn e13_over_nats_an_answer_comes_from_a_third_process_and_is_refused_when_it_is_late() {
    if servers::skipped() {
        return;
    }
    let server = servers::Nats::start().unwrap();
    let town = Town::new(&server.url());
    let [mut begun, mut kept] = ["begun", "kept"].map(|topic| town.hear(topic));
    let mut runners = town.start("runners");
    let clerks = town.start("clerks");
    // A program that is no part of the game asks until the groups are there.
    let options = mainstay::bus::Options::default();
    let desk = Desk::open(&town.bus, options, &Clock::system(), Random::from_os()).unwrap();
    let ask = |whom: &str, what: &str| {
        let ask = Ask { owner: None, ends: None, wait: Duration::from_secs(2) };
        let question = encode(&Errand { what: what.to_owned() });
        desk.ask(whom, ask, &question).unwrap().wait(PATIENCE).unwrap()
    };
    for questions in ["ask.errands.runners", "ask.favours.all"] {
        until("the first answer", || {
            let told = ask(questions, "milk");
            told.is_ok_and(|answer| is_done("milk", &decode::<String>(&answer).unwrap()))
        });
    }
    let mut ann = Player::new(town.front(), 1);
    assert!(is_done("bread", &ann.asks("bread").unwrap()));
    let clerk = clerks.child.id();
    until("the clerk", || ann.asks("pass 7") == Ok(format!("passed by {clerk}")));
    assert_eq!(ann.asks("both 7"), Ok(format!("first by {clerk}")));
    // The answer to what was cleared is refused, and answers nobody else.
    let mut bob = Player::new(town.front(), 2);
    bob.ask_favour("keep 8");
    until("his right", || next(&mut kept) == "keep 8");
    bob.lose_connection();
    ann.ask("keep 7");
    until("her right", || next(&mut kept) == "keep 7");
    let cleared = outside(town.front(), |out| async move { out.clear_asked(AccountId(1)) });
    assert_eq!(cleared, Cleared { queued: 0, begun: 1 });
    assert_eq!(ann.answer(), Err(Refusal::Timeout));
    let refused = |how: &str| format!("the right to answer {how}");
    assert_eq!(town.give(7), refused("was cleared: nobody waits for the answer"));
    assert_eq!(town.give(8), "taken");
    // The first answer he hears is his own, over another connection than he asked by.
    assert_eq!(bob.answer(), Ok(format!("given by {clerk}")));
    assert_eq!(town.give(8), refused("was used before"));
    // So is the answer to what nobody waits for any longer.
    until("one that is kept in time", || {
        let told = ask("ask.errands.runners", "keep 9");
        assert!(told.is_err(), "{told:?}");
        let texts = std::iter::from_fn(|| kept.try_next());
        texts.map(|text| decode::<String>(text.body()).unwrap()).any(|text| text == "keep 9")
    });
    assert_eq!(town.give(9), refused("has expired: nobody waits for the answer"));
    // The process that holds a question is killed. Meanwhile others wait, as many as may, and one is
    // cleared as its client goes.
    ann.ask("linger");
    until("the errand", || next(&mut begun) == "linger");
    ann.ask("eggs");
    bob.ask("never");
    until("both wait", || town.jobs() == Some(2));
    assert_eq!(ann.asks("salt"), Err(Refusal::Refused(Status::Busy)));
    bob.leave();
    runners.child.kill().unwrap();
    runners.child.wait().unwrap();
    // Also while nobody works on them it is shown how many wait.
    let waiting = "work_waiting{node=\"front\",queue=\"errands\",group=\"runners\"} 2\n";
    until("it is shown", || town.front().metrics().render_openmetrics().contains(waiting));
    let _again = town.start("runners");
    let mut told = [ann.answer().unwrap(), ann.answer().unwrap()];
    told.sort();
    assert!(is_done("eggs", &told[0]) && is_done("linger", &told[1]), "{told:?}");
    until("nothing waits", || town.jobs() == Some(0));
    let said: Vec<String> = std::iter::from_fn(|| begun.try_next())
        .map(|message| decode(message.body()).unwrap())
        .collect();
    assert!(!said.contains(&"never".to_owned()), "{said:?}");
}
