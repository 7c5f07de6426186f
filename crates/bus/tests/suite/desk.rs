//! Asking those who work on a queue, and answering from wherever: cases of the conformance suite.

use std::time::Duration;

use bus::{
    AnswerError, Ask, AskError, Bus, Cleared, Delivery, Desk, End, Error, Gone, Listen, Message,
    Options, Owner, Right, Subscription,
};
use env::{Clock, Random};

use crate::bench::*;

/// Three processes, each with a desk: one asks, one works, one answers for it.
struct Office {
    asker: Desk,
    worker: Desk,
    clerk: Desk,
    jobs: Subscription,
    asker_bus: Bus,
}

impl Office {
    fn new(bench: &Bench, options: &Options) -> Office {
        let buses = [bench.attach(), bench.attach(), bench.attach()];
        for bus in &buses {
            bus.declare("ask.>", Delivery::AtLeastOnce).unwrap();
        }
        let [asker, worker, clerk] = [0, 1, 2].map(|at: usize| {
            let random = Random::from_os();
            Desk::open(&buses[at], options.clone(), &Clock::system(), random).unwrap()
        });
        let one = Listen::to("ask.x").in_group("g").credits(1);
        let jobs = listen(&buses[1], one);
        let [asker_bus, ..] = buses;
        Office { asker, worker, clerk, jobs, asker_bus }
    }

    fn ask(&self, ask: Ask, body: &str) -> bus::Asked {
        self.asker.ask("ask.x", ask, body.as_bytes()).unwrap()
    }

    /// The next job, and the right to answer it.
    fn job(&mut self) -> (Message, Right, String) {
        let message = next(&mut self.jobs);
        let (right, body) = Desk::open_letter(message.body()).unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        (message, right, body)
    }
}

const FOR_NOBODY: Ask = Ask { owner: None, ends: None, wait: LONG };

/// For a part of this client, as long as that is not away.
fn of(client: u64) -> Ask {
    Ask { owner: Some(part_of(client)), ends: Some(Gone::Away), wait: LONG }
}

fn part_of(client: u64) -> Owner {
    Owner { client, part: 7 }
}

fn said(mut verdict: bus::Verdict) -> Result<(), AnswerError> {
    verdict.wait(LONG).expect("a verdict in time")
}

fn refused(end: End) -> Result<(), AnswerError> {
    Err(AnswerError::Refused(end))
}

/// An answer comes once, from whoever has the right, in whichever process.
pub fn an_answer_comes_once(bench: &Bench) -> &'static str {
    let mut office = Office::new(bench, &options());
    let asked = office.ask(FOR_NOBODY, "two and two");
    let (message, right, body) = office.job();
    assert_eq!(body, "two and two");
    assert_eq!(said(office.worker.claim(right)), Ok(()));
    message.done();
    // The worker passes the right on, as bytes in whatever message.
    let passed = Right::from_bytes(right.to_bytes());
    assert_eq!(passed, right);
    assert_eq!(said(office.clerk.answer(passed, b"four".to_vec())), Ok(()));
    assert_eq!(within(LONG, asked).unwrap(), Ok(b"four".to_vec()));
    // Whoever kept the right uses it in vain, and nobody else's question is answered by it.
    let mut other = office.ask(FOR_NOBODY, "three and three");
    let (message, second, _) = office.job();
    assert_eq!(said(office.worker.answer(right, b"five".to_vec())), refused(End::Used));
    assert_eq!(said(office.worker.claim(right)), refused(End::Used));
    assert_eq!(other.wait(Duration::ZERO), None);
    assert_eq!(said(office.worker.claim(second)), Ok(()));
    assert_eq!(said(office.worker.fail(second, "too hard")), Ok(()));
    message.done();
    assert_eq!(other.wait(LONG), Some(Err(AskError::Failed("too hard".into()))));
    let asked = office.ask(FOR_NOBODY, "and?");
    let (message, third, _) = office.job();
    assert_eq!(said(office.clerk.leave_unanswered(third)), Ok(()));
    message.done();
    assert_eq!(within(LONG, asked).unwrap(), Err(AskError::Unanswered));
    assert_eq!(office.asker.counters().answered, 3);
    "passes"
}

/// Expired and forged rights are refused, and one of a process that is gone leads nowhere.
pub fn bad_rights_are_refused(bench: &Bench) -> &'static str {
    let mut office = Office::new(bench, &options());
    let short = Duration::from_millis(1);
    let asked = office.ask(Ask { wait: short, ..FOR_NOBODY }, "quick");
    let early = within(LONG, asked).unwrap().unwrap_err();
    // A server may not have confirmed it by then.
    let late = matches!(&early, AskError::Timeout(waited) if *waited == short)
        || matches!(&early, AskError::Bus(Error::Unconfirmed { .. }));
    assert!(late, "{early:?}");
    let mut waiting = office.ask(FOR_NOBODY, "slow");
    let right = loop {
        let (message, right, body) = office.job();
        let verdict = said(office.worker.claim(right));
        message.done();
        if body == "slow" {
            assert_eq!(verdict, Ok(()));
            break right;
        }
        assert!([refused(End::Expired), refused(End::Cleared)].contains(&verdict), "{verdict:?}");
    };
    let mut bytes = right.to_bytes();
    bytes[39] ^= 1;
    let forged = Right::from_bytes(bytes);
    assert_eq!(said(office.clerk.answer(forged, b"mine".to_vec())), refused(End::Forged));
    // One that was never given.
    let mut bytes = right.to_bytes();
    bytes[23] = 1;
    assert_eq!(said(office.clerk.claim(Right::from_bytes(bytes))), refused(End::Forged));
    assert_eq!(waiting.wait(Duration::ZERO), None);
    let long = vec![0; 1001];
    let told = said(office.clerk.answer(right, long));
    assert!(matches!(told, Err(AnswerError::Bus(Error::TooLong { .. }))), "{told:?}");
    drop(waiting);
    assert_eq!(said(office.clerk.answer(right, b"late".to_vec())), refused(End::Cleared));
    // No desk has that name.
    let nowhere = Right::from_bytes([7; 40]);
    let told = said(office.clerk.answer(nowhere, b"hello".to_vec()));
    assert!(matches!(told, Err(AnswerError::Unreachable(_))), "{told:?}");
    assert_eq!(Desk::open_letter(b"no envelope"), None);
    "passes"
}

/// What is cleared and has not begun is not begun; of what has begun the answer is dropped.
pub fn an_owner_is_cleared(bench: &Bench) -> &'static str {
    let options = Options { kept_messages_max: 64, queue_messages_max: 64, ..options() };
    let mut office = Office::new(bench, &options);
    let mut begun = office.ask(of(1), "begun");
    let (message, right, _) = office.job();
    assert_eq!(said(office.worker.claim(right)), Ok(()));
    // Its owner's other question, one that outlives its owner, and somebody else's.
    let mut queued = office.ask(of(1), "queued");
    let mut staying = office.ask(Ask { ends: Some(Gone::Ended), ..of(1) }, "staying");
    let mut other = office.ask(of(2), "other");
    assert_eq!(office.asker.queued("ask.x"), 3);
    let other_part = Owner { part: 8, ..part_of(1) };
    assert_eq!(office.asker.owner_gone(other_part, Gone::Ended), Cleared::default());
    assert_eq!(office.asker.owner_gone(part_of(1), Gone::Away), Cleared { queued: 1, begun: 1 });
    assert_eq!(begun.wait(LONG), Some(Err(AskError::Cleared)));
    assert_eq!(queued.wait(LONG), Some(Err(AskError::Cleared)));
    assert_eq!(said(office.worker.answer(right, b"too late".to_vec())), refused(End::Cleared));
    message.done();
    let mut done = Vec::new();
    while done.len() < 2 {
        let (message, right, body) = office.job();
        match said(office.worker.claim(right)) {
            Ok(()) => {
                done.push(body.clone());
                assert_eq!(said(office.worker.answer(right, body.into_bytes())), Ok(()));
            }
            // A server still has what was cleared.
            verdict => assert_eq!((verdict, body.as_str()), (refused(End::Cleared), "queued")),
        }
        message.done();
    }
    done.sort();
    assert_eq!(done, ["other", "staying"]);
    assert_eq!(staying.wait(LONG), Some(Ok(b"staying".to_vec())));
    assert_eq!(other.wait(LONG), Some(Ok(b"other".to_vec())));
    // Another process clears what this one asked.
    let mut last = office.ask(Ask { ends: None, ..of(3) }, "last");
    eventually("it is cleared from elsewhere", || {
        let here = office.clerk.clear(3);
        assert_eq!(here, Cleared::default());
        last.wait(Duration::from_millis(100)) == Some(Err(AskError::Cleared))
    });
    assert_eq!(office.asker.counters().cleared, 3);
    "passes"
}

/// As many wait for a worker as may, then it is busy at once; room comes back as they are cleared.
pub fn asking_is_bounded(bench: &Bench) -> &'static str {
    let narrow = Options { asks_queued_max: 2, asks_max: 3, ..options() };
    let mut office = Office::new(bench, &narrow);
    let held = office.ask(of(1), "a");
    let (_message, right, _) = office.job();
    assert_eq!(said(office.worker.claim(right)), Ok(()));
    let waiting = [office.ask(of(1), "b"), office.ask(of(2), "c")];
    let busy = |max| AskError::Busy { subject: "ask.x".into(), max };
    let more = || office.asker.ask("ask.x", of(1), b"d").map(drop);
    assert_eq!(more(), Err(busy(2)));
    assert_eq!(office.asker.owner_gone(part_of(2), Gone::Ended), Cleared { queued: 1, begun: 0 });
    let third = office.ask(of(1), "d");
    drop(waiting);
    drop(third);
    let rest: Vec<_> = ["e", "f"].map(|body| office.ask(of(1), body)).into();
    assert_eq!(more(), Err(busy(2)));
    drop(rest);
    drop(held);
    assert_eq!(office.asker.queued("ask.x"), 0);
    let told = office.asker.ask("ask x", of(1), b"d").map(drop);
    assert_eq!(told, Err(AskError::Bus(Error::BadSubject("ask x".into()))));
    assert_eq!(office.asker.queued("ask x"), 0);
    let told = office.asker.ask("ask.x", of(1), &[0; 1001]).map(drop);
    assert!(matches!(told, Err(AskError::Bus(Error::TooLong { .. }))), "{told:?}");
    // Notes of nobody's are counted and change nothing.
    let desk = u128::from_le_bytes(right.to_bytes()[..16].try_into().unwrap());
    send(&office.asker_bus, &format!("mainstay.desk.{desk:032x}"), "hello").unwrap();
    eventually("it is counted", || office.asker.counters().unreadable == 1);
    "passes"
}
