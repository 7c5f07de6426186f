use std::collections::BTreeMap;

use super::*;
use crate::Random;

const START: Instant = Instant::from_nanos(3_000_000_007);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn fired(wheel: &mut Wheel<u64>, now: Instant) -> Vec<u64> {
    let mut all = Vec::new();
    wheel.advance(now, |_, value| all.push(value));
    all
}

#[test]
fn zero_delay_fires_at_the_next_advance_even_within_a_tick() {
    let mut wheel = Wheel::new(START, ms(10));
    wheel.insert(START, 1);
    wheel.insert(Instant::ZERO, 2);
    assert_eq!(wheel.next_deadline(), Some(START));
    assert_eq!(fired(&mut wheel, START), [1, 2]);
    let now = START + ms(1);
    assert_eq!(fired(&mut wheel, now), []);
    wheel.insert(now, 3);
    wheel.insert(now + ms(1), 4);
    assert_eq!(wheel.next_deadline(), Some(now));
    assert_eq!(fired(&mut wheel, now), [3]);
    assert_eq!(fired(&mut wheel, now + ms(1)), [], "rounded up to the end of its tick");
    assert_eq!(fired(&mut wheel, START + ms(10)), [4]);
    assert!(wheel.is_empty());
}

#[test]
fn never_early_and_less_than_a_tick_late() {
    for delay in [0, 1, 9, 10, 11, 2_549, 2_560, 2_561, 163_840, 10_485_760, 42_949_672_960] {
        for offset in [0, 1, 2_559, 163_839] {
            let mut wheel = Wheel::new(START, ms(10));
            let now = START + ms(offset);
            wheel.advance(now, |_, _| {});
            let at = now + ms(delay);
            wheel.insert(at, 1);
            let mut steps = 0;
            let mut time = now;
            let late = loop {
                let due = wheel.next_deadline().expect("the timer waits");
                time = time.max(due);
                if !fired(&mut wheel, time).is_empty() {
                    break time - at;
                }
                assert!(time < at + ms(10));
                steps += 1;
            };
            assert!(time >= at && late < ms(10), "{delay} ms fired {late:?} late");
            assert!(steps <= 5, "{delay} ms woke {steps} times for nothing");
        }
    }
}

#[test]
fn far_future_beyond_the_slots_is_as_exact() {
    let mut wheel = Wheel::new(START, ms(10));
    let year = Duration::from_secs(365 * 86_400);
    let delays = [year, year * 2, year * 3, year * 50];
    for (n, delay) in delays.iter().enumerate() {
        wheel.insert(START + *delay, n as u64);
    }
    wheel.insert(Instant::NEVER, 99);
    for (n, delay) in delays.iter().enumerate() {
        assert_eq!(fired(&mut wheel, START + (*delay - ms(1))), []);
        assert_eq!(fired(&mut wheel, START + *delay + ms(9)), [n as u64]);
    }
    assert_eq!(fired(&mut wheel, START + year * 500), [], "NEVER does not come");
    assert_eq!(wheel.len(), 1);
}

#[test]
fn cancelling_what_is_gone_is_harmless() {
    let mut wheel = Wheel::new(START, ms(10));
    let first = wheel.insert(START + ms(20), 1);
    let second = wheel.insert(START + ms(20), 2);
    assert_eq!(wheel.get(first), Some(&1));
    assert_eq!(wheel.deadline(first), Some(START + ms(20)));
    assert_eq!(wheel.cancel(first), Some(1));
    assert_eq!(wheel.cancel(first), None);
    let third = wheel.insert(START + ms(30), 3);
    assert_eq!(third.index, first.index, "the node is used again");
    assert_eq!(wheel.cancel(first), None, "an old key does not hit the new timer");
    assert_eq!(fired(&mut wheel, START + ms(30)), [2, 3]);
    assert_eq!(wheel.cancel(second), None);
    assert_eq!(wheel.get_mut(third), None);
}

/// A repeat used to be uncancellable from its own callback, and the last round's timer lived on.
/// A polled timer may cancel others that are due in the same advance, and set new ones.
#[test]
fn timers_due_together_can_cancel_each_other() {
    let mut wheel = Wheel::new(START, ms(10));
    let a = wheel.insert(START + ms(10), 1);
    let b = wheel.insert(START + ms(10), 2);
    let c = wheel.insert(START + ms(10), 3);
    wheel.handle_timeout(START + ms(10));
    assert_eq!(wheel.poll(), Some((a, 1)));
    assert_eq!(wheel.cancel(b), Some(2));
    wheel.insert(START + ms(10), 4);
    assert_eq!(wheel.poll(), Some((c, 3)));
    assert_eq!(wheel.poll(), None, "a zero delay waits for the next advance, so nothing spins");
    assert_eq!(fired(&mut wheel, START + ms(10)), [4]);
}

#[test]
fn a_clock_that_jumps_fires_all_in_order() {
    let mut wheel = Wheel::new(START, ms(10));
    for n in (0..5_000).rev() {
        wheel.insert(START + ms(n * 100), n);
    }
    let all = fired(&mut wheel, START + ms(1_000_000));
    assert_eq!(all, (0..5_000).collect::<Vec<_>>());
}

#[test]
fn memory_is_given_back_when_all_are_gone() {
    let mut wheel = Wheel::new(START, ms(10));
    let empty = wheel.heap_bytes();
    let keys: Vec<_> = (0..200_000).map(|n| wheel.insert(START + ms(n), n)).collect();
    assert!(wheel.heap_bytes() - empty <= 64 * 200_000, "{} bytes", wheel.heap_bytes());
    for key in &keys {
        assert!(wheel.cancel(*key).is_some());
    }
    assert_eq!(wheel.heap_bytes(), empty);
    let again = wheel.insert(START, 1);
    assert!(!keys.contains(&again));
    assert_eq!(wheel.cancel(keys[0]), None);
    wheel.clear();
    assert!(wheel.is_empty() && wheel.next_deadline().is_none());
}

#[test]
fn a_timer_takes_at_most_64_bytes() {
    assert!(size_of::<Node<u64>>() <= 40);
    assert!(size_of::<Node<[u64; 4]>>() <= 64);
}

/// Timers by (tick, order of insertion): slow and plainly right.
#[derive(Default)]
struct Model {
    waiting: BTreeMap<(u64, u64), TimerKey>,
    inserted: u64,
}

fn random_delay(random: &mut Random, tick: u64) -> Duration {
    // Every level is as likely as every other, and its edges are hit often.
    let bits = random.below(38);
    let around = 1u64 << bits;
    let ticks = match random.below(3) {
        0 => random.below(around),
        1 => around - 1 + random.below(3),
        _ => around + random.below(around),
    };
    Duration::from_nanos(
        ticks.saturating_mul(tick).saturating_sub(random.below(2) * random.below(tick)),
    )
}

fn check_against_model(seed: u64) {
    let mut random = Random::from_seed(seed);
    let tick: u64 = *random.pick(&[10_000_000, 1_000_000, 1, 16_666_667]).expect("some");
    let mut now = Instant::from_nanos(random.below(1 << 40));
    let start = now;
    // Half of the runs begin just before all digits of the tick wrap at once.
    if random.chance(1, 2) {
        now += Duration::from_nanos(tick.saturating_mul((1 << 32) - 3));
    }
    let mut wheel = Wheel::new(start, Duration::from_nanos(tick));
    let mut model = Model::default();
    wheel.advance(now, |_, _| panic!("nothing to fire"));
    let mut advanced = now;
    for _ in 0..400 {
        match random.below(10) {
            0..=4 => {
                let at = now + random_delay(&mut random, tick);
                let wanted = (at.since(start).as_nanos() as u64).div_ceil(tick);
                // What is due already fires in the next advance, before all others.
                let order = if at <= advanced { 0 } else { wanted };
                let number = model.inserted;
                model.waiting.insert((order, number), wheel.insert(at, number));
                model.inserted += 1;
            }
            5..=6 if !model.waiting.is_empty() => {
                let at = random.index(model.waiting.len());
                let (&place, &key) = model.waiting.iter().nth(at).expect("within");
                model.waiting.remove(&place);
                assert_eq!(wheel.cancel(key), Some(place.1), "seed {seed}");
            }
            7 => {
                if let Some(at) = wheel.next_deadline() {
                    let first = model.waiting.keys().next().expect("as the wheel").0;
                    let exact = start + Duration::from_nanos(first.saturating_mul(tick));
                    let exact = exact.max(advanced);
                    assert!(at <= exact, "seed {seed}: would sleep past {exact} until {at}");
                    now = now.max(at);
                } else {
                    assert!(model.waiting.is_empty(), "seed {seed}");
                }
            }
            _ => now += random_delay(&mut random, tick),
        }
        if random.chance(1, 3) {
            advanced = now;
            let current = now.since(start).as_nanos() as u64 / tick;
            let later = model.waiting.split_off(&(current + 1, 0));
            let due = std::mem::replace(&mut model.waiting, later);
            let expected: Vec<u64> = due.keys().map(|(_, number)| *number).collect();
            let mut keys = due.into_values();
            let mut got = Vec::new();
            wheel.advance(now, |key, value| {
                assert_eq!(Some(key), keys.next(), "seed {seed}");
                got.push(value);
            });
            assert_eq!(got, expected, "seed {seed}");
        }
        assert_eq!(wheel.len(), model.waiting.len(), "seed {seed}");
    }
}

#[test]
fn agrees_with_a_sorted_map_across_every_wrap_around() {
    for seed in 0..400 {
        check_against_model(seed);
    }
}
