use std::time::Duration;

use env::{Instant, Random};

use super::asks::{Asks, Opened, Output};
use super::note::{Note, Outcome, unseal};
use super::types::{AnswerError, Ask, AskError, End, Gone, Owner, Right};
use crate::{Answer, Options};

const SECOND: Duration = Duration::from_secs(1);

fn desk(seed: u64) -> Asks {
    Asks::new(Options::default(), Random::from_seed(seed))
}

fn at(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(ms)
}

fn ask(desk: &mut Asks, wait: Duration) -> (Opened, Right) {
    let owner = Some(Owner { client: 1, part: 2 });
    let ask = Ask { owner, ends: Some(Gone::Away), wait };
    let opened = desk.ask(at(0), "ask.x", ask, b"what?").unwrap();
    let (right, body) = unseal(&opened.body).unwrap();
    assert_eq!(body, b"what?");
    (opened, right)
}

fn told<T>(answer: &mut Answer<T>) -> Option<T> {
    answer.wait(Duration::ZERO).map(|told| told.unwrap())
}

/// What a desk has to say to others, each note once.
fn notes(desk: &mut Asks) -> Vec<(u128, Vec<u8>)> {
    std::iter::from_fn(|| desk.poll_output())
        .map(|output| match output {
            Output::Tell(to, note) => (to, note),
            other => panic!("{other:?}"),
        })
        .collect()
}

/// Brings the notes from one desk to the other, and back what that says to them.
fn exchange(from: &mut Asks, to: &mut Asks) {
    for (whom, note) in notes(from) {
        assert_eq!(whom, to.id());
        to.handle_note(&note);
    }
    for (whom, note) in notes(to) {
        assert_eq!(whom, from.id());
        from.handle_note(&note);
    }
}

#[test]
fn notes_that_are_lost_are_said_again_and_count_once() {
    let (mut asker, mut worker) = (desk(1), desk(2));
    let (mut opened, right) = ask(&mut asker, 60 * SECOND);
    let mut claim = worker.claim(at(0), right);
    assert_eq!(notes(&mut worker).len(), 1, "and it is lost");
    worker.handle_timeout(at(249));
    assert_eq!(notes(&mut worker), []);
    assert_eq!(worker.poll_timeout(), Some(at(250)));
    worker.handle_timeout(at(250));
    assert_eq!((told(&mut claim), asker.queued("ask.x")), (None, 1));
    exchange(&mut worker, &mut asker);
    assert_eq!((told(&mut claim), asker.queued("ask.x")), (Some(Ok(())), 0));
    // The answer arrives, what is said to it does not.
    let mut said = worker.answer(at(300), right, Outcome::Value(b"that".to_vec()));
    let [(_, answer)] = notes(&mut worker).try_into().unwrap();
    asker.handle_note(&answer);
    assert_eq!(told(&mut opened.answer), Some(Ok(b"that".to_vec())));
    assert_eq!(notes(&mut asker).len(), 1, "and it is lost");
    worker.handle_timeout(at(550));
    exchange(&mut worker, &mut asker);
    assert_eq!(told(&mut said), Some(Ok(())));
    assert_eq!((asker.counters.answered, asker.counters.refused), (1, 0));
    // Another answer by the same right is none.
    let mut second = worker.answer(at(600), right, Outcome::Value(b"this".to_vec()));
    exchange(&mut worker, &mut asker);
    assert_eq!(told(&mut second), Some(Err(AnswerError::Refused(End::Used))));
    assert_eq!(asker.counters.refused, 1);
    assert_eq!(worker.poll_timeout(), None);
}

#[test]
fn who_is_silent_holds_up_the_next_worker_no_longer_than_one_note_takes() {
    let (mut asker, mut worker) = (desk(1), desk(2));
    let [first, second, third] = [0; 3].map(|_| ask(&mut asker, 60 * SECOND).1);
    let unreachable = |ms| Some(Err(AnswerError::Unreachable(Duration::from_millis(ms))));
    let mut claim = worker.claim(at(0), first);
    (1..=20).for_each(|times| worker.handle_timeout(at(times * 250 - 1)));
    assert_eq!(told(&mut claim), None);
    worker.handle_timeout(at(5_249));
    assert_eq!(told(&mut claim), unreachable(5_000));
    assert!(notes(&mut worker).len() > 15);
    let mut claim = worker.claim(at(6_000), first);
    assert_eq!(notes(&mut worker).len(), 1, "and it is lost");
    worker.handle_timeout(at(6_250));
    assert_eq!(told(&mut claim), unreachable(250));
    // An answer is worth more.
    let mut answer = worker.answer(at(7_000), first, Outcome::Unanswered);
    worker.handle_timeout(at(7_250));
    assert_eq!(told(&mut answer), None);
    // It is heard of again: then it is waited for as before.
    exchange(&mut worker, &mut asker);
    assert_eq!(told(&mut answer), Some(Ok(())));
    let mut claim = worker.claim(at(8_000), second);
    worker.handle_timeout(at(8_250));
    assert_eq!(told(&mut claim), None);
    exchange(&mut worker, &mut asker);
    assert_eq!(told(&mut claim), Some(Ok(())));
    // Nobody says it in its place.
    let mut claim = worker.claim(at(9_000), third);
    for call in 0..10 {
        worker.handle_note(&Note::Verdict { from: 7, call, refused: None }.encode());
    }
    assert_eq!(told(&mut claim), None);
    exchange(&mut worker, &mut asker);
    assert_eq!(told(&mut claim), Some(Ok(())));
}

#[test]
fn what_expires_or_is_cleared_is_withdrawn_and_remembered_for_a_while() {
    let mut asker = desk(1);
    let (mut opened, right) = ask(&mut asker, SECOND);
    let (mut other, cleared) = ask(&mut asker, 2 * SECOND);
    assert_eq!(asker.poll_timeout(), Some(at(1_000)));
    asker.handle_timeout(at(999));
    assert_eq!(told(&mut opened.answer), None);
    asker.handle_timeout(at(1_000));
    assert_eq!(told(&mut opened.answer), Some(Err(AskError::Timeout(SECOND))));
    let withdrawn = |message| Some(Output::Withdraw("ask.x".into(), message));
    assert_eq!(asker.poll_output(), withdrawn(opened.message));
    assert_eq!(asker.clear(1).queued, 1);
    assert_eq!(told(&mut other.answer), Some(Err(AskError::Cleared)));
    assert_eq!(asker.poll_output(), withdrawn(other.message));
    assert_eq!((asker.queued("ask.x"), asker.poll_timeout()), (0, None));
    let mut claim = |right| told(&mut asker.claim(at(1_000), right)).unwrap();
    assert_eq!(claim(right), Err(AnswerError::Refused(End::Expired)));
    assert_eq!(claim(cleared), Err(AnswerError::Refused(End::Cleared)));
    // What is forgotten has expired.
    for _ in 0..5_000 {
        let (opened, _) = ask(&mut asker, SECOND);
        asker.withdraw(opened.number);
    }
    let mut claim = asker.claim(at(1_000), cleared);
    assert_eq!(told(&mut claim), Some(Err(AnswerError::Refused(End::Expired))));
}
