//! Streams against a naive model: random sends, acknowledgements, breaks and resumes.

use std::rc::Rc;

use env::Random;
use proto::stream::{Answers, Arrival, Inbound, Limits, Outbound, Overflow};

/// What a stream must do, written as simply as possible: all frames ever sent, one number.
struct Model {
    sent: Vec<(u32, usize)>,
    acked: usize,
}

impl Model {
    fn waiting(&self) -> &[(u32, usize)] {
        &self.sent[self.acked..]
    }

    fn bytes(&self) -> usize {
        self.waiting().iter().map(|(_, bytes)| bytes).sum()
    }
}

#[test]
fn outbound_does_as_the_model() {
    let limits = Limits { frames_max: 10, bytes_max: 100 };
    for seed in 0..200 {
        let mut random = Random::from_seed(seed);
        let mut stream = Outbound::new(limits);
        let mut model = Model { sent: Vec::new(), acked: 0 };
        for step in 0..300u32 {
            if random.chance(6, 10) {
                let bytes = random.below(40) as usize;
                let fits = model.waiting().len() < 10
                    && (model.waiting().is_empty() || model.bytes() + bytes <= 100);
                let wanted = if fits {
                    model.sent.push((step, bytes));
                    Ok(model.sent.len() as u64)
                } else {
                    Err(Overflow { frames: model.waiting().len(), bytes: model.bytes() })
                };
                assert_eq!(stream.push(step, bytes), wanted, "seed {seed} step {step}");
            } else {
                // Old, fitting and forged acknowledgements.
                let number = random.below(model.sent.len() as u64 + 3);
                let known = number <= model.sent.len() as u64;
                assert_eq!(stream.acknowledge(number), known, "seed {seed} step {step}");
                if known {
                    model.acked = model.acked.max(number as usize);
                }
            }
            assert_eq!(stream.last(), model.sent.len() as u64);
            assert_eq!(stream.next_number(), stream.last() + 1);
            assert_eq!(stream.acked(), model.acked as u64);
            assert_eq!((stream.len(), stream.bytes()), (model.waiting().len(), model.bytes()));
            assert_eq!(stream.is_empty(), model.waiting().is_empty());
            let kept: Vec<_> = stream.kept().map(|(number, frame)| (number, *frame)).collect();
            let wanted: Vec<_> = (model.acked as u64 + 1..)
                .zip(model.waiting().iter().map(|(frame, _)| *frame))
                .collect();
            assert_eq!(kept, wanted, "seed {seed} step {step}");
        }
    }
}

#[test]
fn one_frame_over_the_byte_limit_passes_alone() {
    let mut stream = Outbound::new(Limits { frames_max: 2, bytes_max: 10 });
    assert_eq!(stream.push('a', 1000), Ok(1));
    assert_eq!(stream.push('b', 0), Err(Overflow { frames: 1, bytes: 1000 }));
    assert!(stream.acknowledge(1));
    assert_eq!(stream.push('c', 5), Ok(2));
}

#[test]
fn inbound_lets_each_number_through_once_and_in_order() {
    for seed in 0..200 {
        let mut random = Random::from_seed(seed);
        let mut inbound = Inbound::default();
        let mut applied = 0;
        let mut told = 0;
        for _ in 0..500 {
            let number = 1 + random.below(applied + 3);
            let wanted = match number {
                n if n <= applied => Arrival::Duplicate,
                n if n == applied + 1 => Arrival::Next,
                _ => Arrival::Gap,
            };
            assert_eq!(inbound.arrive(number), wanted);
            if wanted == Arrival::Next {
                applied = number;
            }
            assert_eq!(inbound.applied(), applied);
            assert_eq!(inbound.owes(), told < applied);
            assert_eq!(inbound.is_due(), applied - told >= Inbound::UNTOLD_MAX);
            if random.chance(1, 40) {
                assert_eq!(inbound.tell(), applied);
                told = applied;
            }
        }
        let resumed = Inbound::resume_after(applied);
        assert_eq!((resumed.applied(), resumed.owes()), (applied, false));
    }
}

/// Both halves over a path that breaks at any moment: nothing is lost, doubled or reordered.
#[test]
fn frames_cross_breaking_connections_once_and_in_order() {
    for seed in 0..300 {
        let mut random = Random::from_seed(seed);
        let mut sender = Outbound::new(Limits { frames_max: 50, bytes_max: 10_000 });
        let mut receiver = Inbound::default();
        let (mut produced, mut handled) = (Vec::new(), Vec::new());
        // What is under way: frames one way, acknowledgements the other.
        let (mut forth, mut back) = (Vec::new(), Vec::new());
        let mut next = 0u32;
        for _ in 0..400 {
            match random.below(10) {
                0..=3 => {
                    if let Ok(number) = sender.push(next, 1) {
                        forth.push((number, next));
                        produced.push(next);
                        next += 1;
                    }
                }
                4..=6 if !forth.is_empty() => {
                    let (number, frame) = forth.remove(0);
                    match receiver.arrive(number) {
                        Arrival::Next => handled.push(frame),
                        Arrival::Duplicate => {}
                        Arrival::Gap => panic!("seed {seed}: gap before {number}"),
                    }
                    if receiver.is_due() || random.chance(1, 3) {
                        back.push(receiver.tell());
                    }
                }
                7..=8 if !back.is_empty() => assert!(sender.acknowledge(back.remove(0))),
                9 => {
                    // The connection breaks; the resume tells what was handled, the rest follows.
                    forth.clear();
                    back.clear();
                    assert!(sender.acknowledge(receiver.tell()));
                    forth.extend(sender.kept().map(|(number, frame)| (number, *frame)));
                }
                _ => {}
            }
        }
        assert!(sender.acknowledge(receiver.tell()));
        for (number, frame) in sender.kept() {
            assert_eq!(receiver.arrive(number), Arrival::Next);
            handled.push(*frame);
        }
        assert_eq!(handled, produced, "seed {seed}");
    }
}

#[test]
fn answers_are_kept_by_number_and_bytes() {
    let mut answers = Answers::default();
    let answer = |text: &str| -> Rc<[u8]> { text.as_bytes().into() };
    for number in 1..=100 {
        answers.keep(number, answer(&format!("answer {number}")));
    }
    assert_eq!(answers.find(36), None);
    assert_eq!(answers.find(37), Some(&answer("answer 37")));
    assert_eq!(answers.find(100), Some(&answer("answer 100")));
    assert_eq!(answers.find(101), None);
    let big: Rc<[u8]> = vec![1; Answers::BYTES_MAX / 2].into();
    answers.keep(101, big.clone());
    answers.keep(102, big.clone());
    assert_eq!(answers.find(100), None);
    assert_eq!(answers.find(101), Some(&big));
    let huge: Rc<[u8]> = vec![1; 2 * Answers::BYTES_MAX].into();
    answers.keep(103, huge.clone());
    assert_eq!((answers.find(102), answers.find(103)), (None, Some(&huge)));
}
