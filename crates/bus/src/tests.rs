//! The conformance suite of a bus: what every backend must do.

use std::panic::AssertUnwindSafe;

use super::*;

fn bus() -> Bus {
    let options = Options { queue_messages_max: 4, attempts_max: 3, ..Options::default() };
    let bus = Bus::embedded(options);
    bus.declare("work.>", Delivery::AtLeastOnce).unwrap();
    bus
}

fn send(bus: &Bus, subject: &str, text: &str) -> Result<usize, Error> {
    bus.publish(subject, text.as_bytes())
}

/// Takes all that waits and finishes with it.
fn drain(subscription: &mut Subscription) -> String {
    let mut texts = Vec::new();
    while let Some(message) = subscription.try_next() {
        texts.push(String::from_utf8(message.body().to_vec()).unwrap());
        message.done();
    }
    texts.join(" ")
}

#[test]
fn listeners_get_what_they_listen_to_in_order() {
    let bus = bus();
    assert_eq!(send(&bus, "chat.guild.7", "nobody"), Ok(0));
    let mut one = bus.subscribe("chat.guild.7").unwrap();
    let mut all = bus.subscribe("chat.>").unwrap();
    let mut star = bus.subscribe("chat.*.7").unwrap();
    assert_eq!(send(&bus, "chat.guild.7", "a"), Ok(3));
    assert_eq!(send(&bus, "chat.guild.8", "b"), Ok(1));
    assert_eq!(send(&bus, "chat.zone.7", "c"), Ok(2));
    assert_eq!(drain(&mut one), "a");
    assert_eq!(drain(&mut all), "a b c");
    assert_eq!(drain(&mut star), "a c");
    drop(all);
    assert_eq!(send(&bus, "chat.guild.8", "d"), Ok(0));
    assert_eq!(bus.counters().unheard, 2);
}

#[test]
fn a_slow_listener_loses_its_own_mail_only() {
    let bus = bus();
    let mut slow = bus.subscribe("stats").unwrap();
    let mut fast = bus.subscribe("stats").unwrap();
    for n in 0..10 {
        assert_eq!(send(&bus, "stats", &n.to_string()), Ok(2));
        assert_eq!(drain(&mut fast), n.to_string());
    }
    assert_eq!(drain(&mut slow), "0 1 2 3");
    assert_eq!((slow.dropped(), fast.dropped(), bus.counters().dropped), (6, 0, 6));
}

#[test]
fn what_may_not_be_lost_is_refused_instead() {
    let bus = bus();
    let mut slow = bus.subscribe("work.save").unwrap();
    let mut fast = bus.subscribe("work.save").unwrap();
    for n in 0..4 {
        assert_eq!(send(&bus, "work.save", &n.to_string()), Ok(2));
        drain(&mut fast);
    }
    assert_eq!(send(&bus, "work.save", "4"), Err(Error::Busy("work.save".into())));
    assert_eq!(drain(&mut fast), "", "refused for one is refused for all");
    assert_eq!(drain(&mut slow), "0 1 2 3");
    assert_eq!(send(&bus, "work.save", "4"), Ok(2));
    assert_eq!(bus.counters().dropped, 0);
}

#[test]
fn an_unfinished_message_comes_again_and_is_set_aside_in_the_end() {
    let bus = bus();
    let mut worker = bus.subscribe("work.mail").unwrap();
    send(&bus, "work.mail", "a").unwrap();
    send(&bus, "work.mail", "b").unwrap();
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let _message = worker.try_next().unwrap();
        panic!("the handler fails");
    }));
    assert!(result.is_err());
    let again = worker.try_next().unwrap();
    assert_eq!((again.body(), again.attempt()), (&b"a"[..], 2));
    drop(again);
    drop(worker.try_next().unwrap());
    assert_eq!(drain(&mut worker), "b");
    assert_eq!(bus.counters().dead, 1);
    let dead = bus.take_dead();
    assert_eq!((dead[0].0.as_str(), &*dead[0].1), ("work.mail", &b"a"[..]));
    assert!(bus.take_dead().is_empty());
}

#[test]
fn a_group_shares_the_work_and_takes_over_what_a_member_leaves() {
    let bus = bus();
    let mut one = bus.subscribe_group("work.*", "savers").unwrap();
    let mut two = bus.subscribe_group("work.*", "savers").unwrap();
    let mut watcher = bus.subscribe("work.x").unwrap();
    for text in ["a", "b", "c", "d"] {
        assert_eq!(send(&bus, "work.x", text), Ok(2));
    }
    assert_eq!(drain(&mut watcher), "a b c d");
    let held = one.try_next().unwrap();
    assert_eq!(held.body(), b"a");
    // It goes with one message in hand and one in its queue.
    drop(one);
    drop(held);
    let mut rest: Vec<_> = drain(&mut two).split(' ').map(str::to_owned).collect();
    rest.sort();
    assert_eq!(rest, ["a", "b", "c", "d"]);
    // The last member goes: the next one finds what was left.
    drop(watcher);
    send(&bus, "work.x", "e").unwrap();
    drop(two);
    let mut three = bus.subscribe_group("work.*", "savers").unwrap();
    assert_eq!(drain(&mut three), "e");
    drop(three);
    assert_eq!(send(&bus, "work.x", "f"), Ok(0));
}

#[test]
fn what_is_in_hand_counts_as_waiting() {
    let bus = bus();
    let mut hoarder = bus.subscribe("work.h").unwrap();
    let mut hands = Vec::new();
    while send(&bus, "work.h", "x").is_ok() {
        hands.push(hoarder.try_next().unwrap());
    }
    assert_eq!(hands.len(), 4);
    hands.pop().unwrap().done();
    assert_eq!(send(&bus, "work.h", "x"), Ok(1));
}

#[test]
fn a_full_member_does_not_stop_its_group() {
    let bus = bus();
    let mut slow = bus.subscribe_group("work.y", "g").unwrap();
    let mut fast = bus.subscribe_group("work.y", "g").unwrap();
    for n in 0..12 {
        assert_eq!(send(&bus, "work.y", &n.to_string()), Ok(1), "{n}");
        drain(&mut fast);
    }
    assert_eq!(drain(&mut slow).split(' ').count(), 4);
}

#[test]
fn an_id_is_taken_once() {
    let bus = bus();
    let mut listener = bus.subscribe("work.pay").unwrap();
    assert_eq!(bus.publish_once("work.pay", 7, *b"a"), Ok(1));
    assert_eq!(bus.publish_once("work.pay", 7, *b"a"), Ok(0));
    assert_eq!(bus.publish_once("work.pay", 8, *b"b"), Ok(1));
    assert_eq!(drain(&mut listener), "a b");
    // What was refused may be tried again under its id.
    for id in 10..14 {
        bus.publish_once("work.pay", id, *b"x").unwrap();
    }
    assert!(bus.publish_once("work.pay", 14, *b"y").is_err());
    drain(&mut listener);
    assert_eq!(bus.publish_once("work.pay", 14, *b"y"), Ok(1));
}

#[test]
fn what_cannot_be_given_is_refused_at_start() {
    let bus = bus();
    let error = bus.declare("orders.>", Delivery::Durable).unwrap_err().to_string();
    assert_eq!(
        error,
        "\"orders.>\" is declared durable, which the embedded bus cannot give: set bus = \"nats\" \
         in the cluster file, or declare it at least once"
    );
    bus.declare("work.>", Delivery::AtLeastOnce).unwrap();
    let error = bus.declare("work.>", Delivery::AtMostOnce).unwrap_err();
    assert!(error.to_string().contains("make them the same"));
    // The refusal changed nothing, and the strongest of several declarations holds.
    bus.declare("work.trivial", Delivery::AtMostOnce).unwrap();
    let _listener = bus.subscribe("work.trivial").unwrap();
    for _ in 0..4 {
        send(&bus, "work.trivial", "x").unwrap();
    }
    assert!(send(&bus, "work.trivial", "x").is_err());
}

#[test]
fn limits_and_bad_names_are_refused() {
    let options = Options { subscriptions_max: 1, message_bytes_max: 3, ..Options::default() };
    let bus = Bus::embedded(options);
    assert!(matches!(bus.subscribe("a..b"), Err(Error::BadSubject(_))));
    assert!(matches!(send(&bus, "a.*", "x"), Err(Error::BadSubject(_))));
    assert!(matches!(bus.declare("", Delivery::AtMostOnce), Err(Error::BadSubject(_))));
    assert_eq!(send(&bus, "a", "four"), Err(Error::TooLong { bytes: 4, max: 3 }));
    let only = bus.subscribe("a").unwrap();
    assert_eq!(bus.subscribe("a").unwrap_err(), Error::Full(1));
    drop(only);
    bus.subscribe("a").unwrap();
}

#[test]
fn waiting_ends_with_the_next_message_and_may_be_cancelled() {
    use std::sync::atomic::{AtomicU32, Ordering};
    struct Count(AtomicU32);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let count = Arc::new(Count(AtomicU32::new(0)));
    let waker = count.clone().into();
    let mut cx = Context::from_waker(&waker);
    let bus = bus();
    let mut listener = bus.subscribe("a").unwrap();
    {
        let mut waiting = std::pin::pin!(listener.next());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
    }
    send(&bus, "a", "x").unwrap();
    send(&bus, "a", "y").unwrap();
    assert_eq!(count.0.load(Ordering::SeqCst), 1, "one wake for both");
    let mut waiting = std::pin::pin!(listener.next());
    let Poll::Ready(message) = waiting.as_mut().poll(&mut cx) else { panic!() };
    assert_eq!(message.body(), b"x");
}

#[test]
fn many_threads_lose_nothing_that_may_not_be_lost() {
    let bus = bus();
    let mut worker = bus.subscribe_group("work.z", "g").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let bus = &bus;
            scope.spawn(move || {
                for n in 0..500u32 {
                    let body: Arc<[u8]> = (thread * 1000 + n).to_le_bytes().as_slice().into();
                    while bus.publish("work.z", body.clone()).is_err() {
                        std::thread::yield_now();
                    }
                }
            });
        }
        let mut next = [0; 4];
        while next != [500; 4] {
            let Some(message) = worker.try_next() else {
                std::thread::yield_now();
                continue;
            };
            let value = u32::from_le_bytes(message.body().try_into().unwrap());
            let thread = (value / 1000) as usize;
            assert_eq!(value % 1000, next[thread], "each source in its order");
            next[thread] += 1;
            message.done();
        }
    });
}
