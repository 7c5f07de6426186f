//! Questions to pull workers: asked at one node, done at another, answered from a third.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use bus::{AnswerError, AskError, Bus, Delivery, Desk, End};
use env::metrics::Registry;
use macros::Message;
use node::{Answered, NodeBus, Question, Queue, Reply, RightTo, Work};
use tokio::sync::Notify;

use super::*;

/// Nothing that is waited for takes so long but by a fault.
const PATIENCE: Duration = Duration::from_secs(60);

/// The worker's word to go on that holds a sum of 7.
static LET_GO: Notify = Notify::const_new();

#[derive(Clone, Message)]
#[message(root = proto)]
struct Sum {
    parts: Vec<u64>,
}

impl Question for Sum {
    type Answer = u64;

    const QUEUE: &'static str = "sums";
    const WAIT: Duration = PATIENCE;
}

/// Nobody waits long for that.
#[derive(Clone, Message)]
#[message(root = proto)]
struct Guess;

impl Question for Guess {
    type Answer = u64;

    const QUEUE: &'static str = "guesses";
    const WAIT: Duration = Duration::from_millis(20);
}

/// Three nodes with a desk each, as if they were processes: one asks, one works, one answers.
struct Hall {
    asker: NodeHandle,
    clerk: NodeHandle,
    _worker: NodeHandle,
    /// What the workers were given and did not answer: sums, and guesses.
    passed: Receiver<RightTo<u64>>,
    guesses: Receiver<RightTo<u64>>,
    bus: Bus,
    metrics: Registry,
}

impl Hall {
    fn new(options: bus::Options) -> Hall {
        let clock = Clock::system();
        let bus = Bus::embedded(options.clone(), &clock);
        let ((sums, passed), (guessed, guesses)) = (channel(), channel());
        let mut process = Process::new();
        let metrics = Registry::new();
        let mut start = |name: &str, works: bool| {
            let queues = queues(&sums, &guessed);
            let app = queues.iter().fold(NodeApp::new().kind::<Counter>(), |app, queue| {
                app.queue(queue.clone(), works)
            });
            let topics = queues.iter().flat_map(|queue| queue.topics(false));
            let on = NodeBus::new(bus.clone(), false, topics).unwrap();
            let desk = Desk::open(&bus, options.clone(), &clock, Random::from_os()).unwrap();
            let env = process.env(Key::shared(&[7; 32]));
            let env = NodeEnv { bus: Some(on.with_desk(desk)), metrics: metrics.clone(), ..env };
            Node::start(&app, self::options(name, 1), env).expect("the node starts")
        };
        let worker = start("worker", true);
        let (asker, clerk) = (start("asker", false), start("clerk", false));
        Hall { asker, clerk, _worker: worker, passed, guesses, bus, metrics }
    }

    fn ask<Q: Question + Clone + Sync>(&self, question: &Q) -> Answers<Q::Answer> {
        let question = question.clone();
        self.asker.spawn(0, move |out| async move { out.ask(&question).await })
    }

    fn answer(&self, right: &RightTo<u64>, with: u64) -> Result<(), AnswerError> {
        let right = right.clone();
        let answer = move |out: node::rt::Outside| async move { out.answer(right, &with).await };
        self.clerk.spawn(0, answer).blocking_recv().unwrap()
    }

    fn count(&self, queue: &str, sort: &str) -> u64 {
        let samples = self.metrics.samples();
        let of = |label: &(_, _)| *label == ("queue".into(), queue.into());
        let found = samples.iter().find(|it| it.name == sort && it.labels.iter().any(of));
        found.unwrap_or_else(|| panic!("{sort} of {queue}: {samples:?}")).value as u64
    }
}

type Answers<A> = tokio::sync::oneshot::Receiver<Result<A, AskError>>;

/// Sums of nothing, and guesses, are passed on.
fn queues(sums: &Sender<RightTo<u64>>, guesses: &Sender<RightTo<u64>>) -> [Queue; 2] {
    let (sums, guesses) = (sums.clone(), guesses.clone());
    let pass = |sender: &Sender<RightTo<u64>>, right| -> Answered<u64> {
        sender.send(right)?;
        Ok(Reply::Elsewhere)
    };
    [
        Queue::answering(move |sum: Sum, work: Work| {
            let sums = sums.clone();
            async move {
                match &sum.parts[..] {
                    [] => pass(&sums, work.right(&sum)),
                    [7] => {
                        drop(pass(&sums, work.right(&sum)));
                        LET_GO.notified().await;
                        Ok(Reply::Now(7))
                    }
                    [13] => Err("nobody likes it".into()),
                    parts => Ok(Reply::Now(parts.iter().sum())),
                }
            }
        }),
        Queue::answering(move |guess: Guess, work: Work| {
            let guesses = guesses.clone();
            async move { pass(&guesses, work.right(&guess)) }
        }),
    ]
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what} takes too long");
        thread::park_timeout(Duration::from_millis(1));
    }
}

#[test]
fn e13_a_node_answers_what_another_asked_a_third_and_a_late_answer_reaches_nobody() {
    let hall = Hall::new(bus::Options::default());
    let sum = |parts: &[u64]| hall.ask(&Sum { parts: parts.to_vec() });
    assert_eq!(sum(&[2, 3]).blocking_recv().unwrap(), Ok(5));
    let mut first = sum(&[]);
    let right = hall.passed.recv_timeout(PATIENCE).unwrap();
    let mut second = sum(&[]);
    let other = hall.passed.recv_timeout(PATIENCE).unwrap();
    assert!(first.try_recv().is_err(), "the worker's end is no answer");
    assert_eq!(hall.answer(&right, 1), Ok(()));
    assert_eq!(first.blocking_recv().unwrap(), Ok(1));
    assert_eq!(hall.answer(&right, 2), Err(AnswerError::Refused(End::Used)));
    assert!(second.try_recv().is_err(), "it answered somebody else");
    assert_eq!(hall.answer(&other, 3), Ok(()));
    assert_eq!(second.blocking_recv().unwrap(), Ok(3));
    // A guess that a worker comes to in time is passed on, but not answered in time.
    let mut late = None;
    until("a guess that is begun", || {
        let told = hall.ask(&Guess).blocking_recv().unwrap();
        assert_eq!(told, Err(AskError::Timeout(Guess::WAIT)));
        late = hall.guesses.try_recv().ok();
        late.is_some()
    });
    let third = sum(&[]);
    let right = hall.passed.recv_timeout(PATIENCE).unwrap();
    assert_eq!(hall.answer(&late.unwrap(), 4), Err(AnswerError::Refused(End::Expired)));
    assert_eq!(hall.answer(&right, 5), Ok(()));
    assert_eq!(third.blocking_recv().unwrap(), Ok(5));
}

#[test]
fn e7_who_asked_is_told_that_nobody_could_do_it_and_what_nobody_asked_is_not_begun() {
    let hall = Hall::new(bus::Options { attempts_max: 2, ..bus::Options::default() });
    let told = hall.ask(&Sum { parts: vec![13] }).blocking_recv().unwrap();
    assert_eq!(told, Err(AskError::Failed("nobody likes it".to_owned())));
    let dead = || hall.bus.dead(8).wait(PATIENCE).unwrap().unwrap();
    until("the dead letter", || !dead().is_empty());
    assert_eq!((dead()[0].attempts, &*dead()[0].cause), (2, "nobody likes it"));
    // Without an envelope it is a dead letter, too; whoever asked in this one is not there.
    let subject = "ask.sums.all";
    hall.bus.declare(subject, Delivery::AtLeastOnce).unwrap();
    let body = proto::encode(&Sum { parts: vec![1] });
    let letter = [&[1][..], &[7; 40], &body].concat();
    for body in [body, letter] {
        assert!(hall.bus.publish(subject, body).unwrap().wait(PATIENCE).unwrap().is_ok());
    }
    until("the question of nobody", || hall.count("sums", "work_skipped") == 1);
    assert_eq!(hall.count("sums", "work_failed"), 4);
    assert_eq!(dead().len(), 2);
    assert_eq!(&*dead()[1].cause, "nobody asked for it: ask it with `cx.ask`");
    // The worker goes on.
    let told = hall.ask(&Sum { parts: vec![4] }).blocking_recv().unwrap();
    assert_eq!(told, Ok(4));
}

#[test]
fn c16_as_many_questions_wait_as_may_and_those_dropped_make_room() {
    let hall = Hall::new(bus::Options { asks_queued_max: 2, ..bus::Options::default() });
    let held = hall.ask(&Sum { parts: vec![7] });
    hall.passed.recv_timeout(PATIENCE).unwrap();
    let told = hall.asker.spawn(0, |out| async move {
        let sum = Sum { parts: vec![6] };
        let asked = [out.ask(&sum), out.ask(&sum)];
        let full = out.ask(&sum).await;
        drop(asked);
        LET_GO.notify_one();
        (full, out.ask(&sum).await)
    });
    let full = AskError::Busy { subject: "ask.sums.all".to_owned(), max: 2 };
    assert_eq!(told.blocking_recv().unwrap(), (Err(full), Ok(6)));
    assert_eq!(held.blocking_recv().unwrap(), Ok(7));
    // Those that were dropped were not begun.
    until("both", || hall.count("sums", "work_done") == 2);
}
