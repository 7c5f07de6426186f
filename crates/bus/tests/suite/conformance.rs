//! One list of cases, run on every backend.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bus::{Accepted, Bus, Delivery, Error, Listen, Options};
use env::Clock;

use crate::bench::*;
use crate::desk;

/// What a case says: whether the backend gave it, or refused it as it must.
type Case = (&'static str, fn(&Bench) -> &'static str);

const PASSES: &str = "passes";
const REFUSED: &str = "refused";
/// The backend gives less, and `docs/semantics.md` says so.
const REPEATS: &str = "repeats";
/// There is no server that could do it.
const NONE: &str = "-";

const CASES: &[Case] = &[
    ("listeners get what they listen to, in order", listeners_get_what_they_listen_to),
    ("a message without listeners goes nowhere", without_listeners_it_goes_nowhere),
    ("at most once: a slow listener loses its own mail only", a_slow_listener_loses_its_own),
    ("at most once: one of a group gets it", one_of_a_group_gets_it),
    ("at least once: refused while a listener is full", refused_while_a_listener_is_full),
    ("at least once: given again, in the end set aside", given_again_and_set_aside),
    ("dead letters go back to who failed, to nobody else", dead_letters_are_replayed),
    ("a group shares the work, a leaver's goes to others", a_group_shares_the_work),
    ("who dies with work in hand loses none of it", who_dies_loses_no_work),
    ("a worker gets what it has credits for", a_worker_gets_what_it_asks_for),
    ("a lease that runs out gives the work to another", a_lease_runs_out),
    ("an id is taken once", an_id_is_taken_once),
    ("an id is taken once, from whichever process", an_id_is_taken_once_from_all),
    ("durable: a group keeps its mail while nobody is there", a_durable_group_keeps_its_mail),
    ("durable: the server killed, nothing accepted is lost", a_killed_server_loses_nothing),
    ("the server frozen: nothing waits, nothing is lost", a_frozen_server_delays_only),
    ("bad declarations are refused", bad_declarations_are_refused),
    ("limits and bad names are refused", limits_and_bad_names_are_refused),
    ("scopes do not meet", scopes_do_not_meet),
    ("many sources: nothing lost, each in its order", many_sources_lose_nothing),
    ("waiting may be cancelled and loses nothing", waiting_may_be_cancelled),
    ("what waits for a group is counted", what_waits_is_counted),
    ("asked: an answer comes once, from whichever process", desk::an_answer_comes_once),
    ("asked: used, expired and forged rights are refused", desk::bad_rights_are_refused),
    ("asked: an owner's is cleared, or its answer dropped", desk::an_owner_is_cleared),
    ("asked: as many wait as may, then it is busy", desk::asking_is_bounded),
];

/// Starts what one run of all cases needs, and makes a bench for each.
type Backend = (&'static str, fn() -> Option<Box<dyn Fn(Options) -> Bench>>);

const EMBEDDED: Backend = ("embedded", || {
    Some(Box::new(|options| {
        let bus = Bus::embedded(options, &Clock::system());
        Bench { attach: Box::new(move || bus.clone()), server: None }
    }))
});

#[cfg(feature = "nats")]
const NATS: Backend = ("nats", crate::servers_of_buses::nats);
#[cfg(feature = "rabbitmq")]
const RABBITMQ: Backend = ("rabbitmq", crate::servers_of_buses::rabbitmq);

#[test]
fn embedded_bus_conforms() {
    run_all(EMBEDDED);
}

fn run_all(backend: Backend) {
    let Some(make) = backend.1() else { return };
    for (name, case) in CASES {
        println!("{name}: {}", case(&make(options())));
    }
}

/// Prints backends × cases: `cargo test -p bus --all-features backends_and_cases -- --nocapture`.
#[test]
fn table_of_backends_and_cases() {
    let backends = [
        EMBEDDED,
        #[cfg(feature = "nats")]
        NATS,
        #[cfg(feature = "rabbitmq")]
        RABBITMQ,
    ];
    let only = std::env::var("MAINSTAY_BUS_CASE").unwrap_or_default();
    let cases: Vec<_> = CASES.iter().filter(|(name, _)| name.contains(&only)).collect();
    let mut lines: Vec<String> = cases.iter().map(|(name, _)| format!("{name:<56}")).collect();
    let mut heads = format!("{:<56}", "case");
    let mut failed = Vec::new();
    for (backend, start) in backends {
        heads += &format!(" {backend:>9}");
        let make = start();
        for ((name, case), line) in cases.iter().zip(&mut lines) {
            let run = || make.as_ref().map_or("skipped", |make| case(&make(options())));
            let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            *line += &format!(" {:>9}", ran.as_ref().unwrap_or(&"FAILS"));
            if ran.is_err() {
                failed.push((backend, *name));
            }
        }
    }
    println!("{heads}");
    lines.iter().for_each(|line| println!("{line}"));
    assert_eq!(failed, []);
}

// ---- at most once ----

fn listeners_get_what_they_listen_to(bench: &Bench) -> &'static str {
    let [source, a, b] = [bench.attach(), bench.attach(), bench.attach()];
    let mut one = subscribe(&a, "chat.guild.7");
    let mut all = subscribe(&b, "chat.>");
    let mut star = subscribe(&a, "chat.*.7");
    for (subject, text) in [("chat.guild.7", "a"), ("chat.guild.8", "b"), ("chat.zone.7", "c")] {
        send(&source, subject, text).unwrap();
    }
    send(&source, "chat.guild.7", "d").unwrap();
    assert_eq!(take(&mut one, 2), "a d");
    assert_eq!(take(&mut all, 4), "a b c d");
    let message = next(&mut star);
    assert_eq!((message.subject(), text(&message)), ("chat.guild.7", "a".to_owned()));
    assert_eq!(take(&mut star, 2), "c d");
    PASSES
}

fn without_listeners_it_goes_nowhere(bench: &Bench) -> &'static str {
    let bus = bench.attach();
    bus.declare("kept.>", Delivery::AtLeastOnce).unwrap();
    for subject in ["loose.a", "kept.a"] {
        assert_eq!(send(&bus, subject, "early"), Ok(Accepted::New));
        let mut late = subscribe(&bus, subject);
        send(&bus, subject, "late").unwrap();
        assert_eq!(take(&mut late, 1), "late");
    }
    PASSES
}

fn a_slow_listener_loses_its_own(bench: &Bench) -> &'static str {
    let [source, listener] = [bench.attach(), bench.attach()];
    let mut slow = subscribe(&listener, "stats");
    let mut fast = subscribe(&listener, "stats");
    for n in 0..10 {
        send(&source, "stats", &n.to_string()).unwrap();
        assert_eq!(take(&mut fast, 1), n.to_string());
    }
    eventually("the slow one lost the rest", || slow.dropped() == 6);
    assert_eq!(take(&mut slow, 4), "0 1 2 3");
    assert_eq!((fast.dropped(), listener.counters().dropped), (0, 6));
    PASSES
}

fn one_of_a_group_gets_it(bench: &Bench) -> &'static str {
    let [source, a, b] = [bench.attach(), bench.attach(), bench.attach()];
    let mut one = listen(&a, Listen::to("loose.*").in_group("g"));
    let mut two = listen(&b, Listen::to("loose.*").in_group("g"));
    let mut other = listen(&b, Listen::to("loose.*").in_group("h"));
    let mut got = BTreeSet::new();
    for n in 0..20 {
        send(&source, "loose.x", &n.to_string()).unwrap();
        assert_eq!(take(&mut other, 1), n.to_string());
        eventually("one of the two has it", || {
            let message = one.try_next().or_else(|| two.try_next());
            message.is_some_and(|message| got.insert(text(&message)))
        });
    }
    assert_eq!(got.len(), 20);
    assert!(one.try_next().is_none() && two.try_next().is_none());
    PASSES
}

// ---- at least once ----

fn refused_while_a_listener_is_full(bench: &Bench) -> &'static str {
    let [source, a, b] = [bench.attach(), bench.attach(), bench.attach()];
    for bus in [&source, &a, &b] {
        bus.declare("work.>", Delivery::AtLeastOnce).unwrap();
    }
    let mut slow = subscribe(&a, "work.save");
    let mut fast = subscribe(&b, "work.save");
    let mut sent = 0;
    let refused = loop {
        match send(&source, "work.save", &sent.to_string()) {
            Ok(_) => sent += 1,
            Err(error) => break error,
        }
        let _ = take(&mut fast, 1);
        assert!(sent < 100, "refused in the end");
    };
    assert_eq!(refused, Error::Busy("work.save".into()));
    let expected: Vec<_> = (0..sent).map(|n| n.to_string()).collect();
    assert_eq!(take(&mut slow, sent), expected.join(" "));
    // What a refused one left anywhere is handed out once, as its retry is the same message.
    send_on(&source, "work.save", "end");
    assert!(take_until(&mut slow, "end").len() <= 1);
    assert_eq!(source.counters().dropped + a.counters().dropped + b.counters().dropped, 0);
    PASSES
}

fn given_again_and_set_aside(bench: &Bench) -> &'static str {
    let [source, worker] = [bench.attach(), bench.attach()];
    for bus in [&source, &worker] {
        bus.declare("work.>", Delivery::AtLeastOnce).unwrap();
    }
    let mut mail = listen(&worker, Listen::to("work.mail").in_group("readers").credits(1));
    source.publish_once("work.mail", 77, *b"a").unwrap().wait(LONG).unwrap().unwrap();
    send(&source, "work.mail", "b").unwrap();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _message = next(&mut mail);
        // Without the hook: what it prints would stand beside the table.
        std::panic::resume_unwind(Box::new("the handler fails"));
    }));
    assert!(result.is_err());
    let mut attempts = vec![1];
    let mut finished = 0;
    // What else waits may come between.
    while attempts.len() < 3 || finished < 1 {
        let message = next(&mut mail);
        if text(&message) == "b" {
            finished += 1;
            message.done();
            continue;
        }
        assert_eq!(message.id(), Some(77));
        attempts.push(message.attempt());
        if message.attempt() == 3 {
            message.fail("no such account");
        }
    }
    assert_eq!(attempts, [1, 2, 3]);
    let mut dead = Vec::new();
    eventually("it is set aside", || {
        dead = source.dead(10).wait(LONG).unwrap().unwrap();
        !dead.is_empty()
    });
    let letter = &dead[0];
    assert_eq!((dead.len(), &*letter.body, letter.id, letter.attempts), (1, &b"a"[..], 77, 3));
    assert!(letter.subject.ends_with("work.mail"));
    assert_eq!((letter.group.as_deref(), &*letter.cause), (Some("readers"), "no such account"));
    assert_eq!(worker.counters().dead, 1);
    PASSES
}

fn dead_letters_are_replayed(bench: &Bench) -> &'static str {
    let [source, worker] = [bench.attach(), bench.attach()];
    for bus in [&source, &worker] {
        bus.declare("work.>", Delivery::AtLeastOnce).unwrap();
    }
    let mut failing = listen(&worker, Listen::to("work.x").in_group("failing"));
    let mut fine = listen(&worker, Listen::to("work.x").in_group("fine"));
    for text in ["a", "b"] {
        send(&source, "work.x", text).unwrap();
    }
    assert_eq!(take(&mut fine, 2), "a b");
    eventually("both are set aside", || {
        if let Some(message) = failing.try_next() {
            message.fail("not today");
        }
        source.dead(10).wait(LONG).unwrap().unwrap().len() == 2
    });
    let dead = source.dead(10).wait(LONG).unwrap().unwrap();
    assert_eq!(source.dead(1).wait(LONG).unwrap().unwrap().len(), 1);
    let (b, a): (Vec<_>, Vec<_>) = dead.into_iter().partition(|dead| &*dead.body == b"b");
    assert_eq!(source.discard(&b[0]).wait(LONG).unwrap(), Ok(()));
    assert_eq!(source.replay(&a[0]).wait(LONG).unwrap(), Ok(()));
    assert_eq!(source.replay(&a[0]).wait(LONG).unwrap(), Err(Error::NotFound));
    assert_eq!(source.dead(10).wait(LONG).unwrap().unwrap(), []);
    let again = next(&mut failing);
    assert_eq!((text(&again), again.attempt(), again.id()), ("a".into(), 1, Some(a[0].id)));
    again.done();
    send(&source, "work.x", "end").unwrap();
    assert_eq!(take_until(&mut failing, "end"), [""; 0]);
    assert_eq!(take_until(&mut fine, "end"), [""; 0]);
    PASSES
}

fn a_group_shares_the_work(bench: &Bench) -> &'static str {
    let [source, a, b] = [bench.attach(), bench.attach(), bench.attach()];
    for bus in [&source, &a, &b] {
        bus.declare("work.>", Delivery::AtLeastOnce).unwrap();
    }
    let one_of = || Listen::to("work.*").in_group("savers").credits(1);
    let mut one = listen(&a, one_of());
    let mut two = listen(&b, one_of());
    let mut watcher = subscribe(&b, "work.x");
    for text in ["a", "b", "c", "d"] {
        send(&source, "work.x", text).unwrap();
    }
    assert_eq!(take(&mut watcher, 4), "a b c d");
    let held = next(&mut one);
    let mut got: BTreeSet<String> = [take(&mut two, 1), take(&mut two, 1)].into();
    got.insert(text(&held));
    assert_eq!(got.len(), 3, "nobody has what another has");
    // It goes with one message in hand.
    drop(one);
    drop(held);
    got.extend([take(&mut two, 1), take(&mut two, 1)]);
    assert_eq!(got.into_iter().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    PASSES
}

fn who_dies_loses_no_work(bench: &Bench) -> &'static str {
    let [source, dying, heir] = [bench.attach(), bench.attach(), bench.attach()];
    for bus in [&source, &dying, &heir] {
        bus.declare("work.>", Delivery::AtLeastOnce).unwrap();
    }
    let one_of = || Listen::to("work.x").in_group("g").credits(2);
    let mut first = listen(&dying, one_of());
    for text in ["a", "b", "c"] {
        send(&source, "work.x", text).unwrap();
    }
    let held = next(&mut first);
    let mut second = listen(&heir, one_of());
    drop((held, first, dying));
    let got: BTreeSet<_> = (0..3).map(|_| take(&mut second, 1)).collect();
    assert_eq!(got.into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
    PASSES
}

fn a_worker_gets_what_it_asks_for(bench: &Bench) -> &'static str {
    let [source, a, b] = [bench.attach(), bench.attach(), bench.attach()];
    for bus in [&source, &a, &b] {
        bus.declare("work.>", Delivery::AtLeastOnce).unwrap();
    }
    let one_of = |credits| Listen::to("work.*").in_group("g").credits(credits);
    let mut stuck = listen(&a, one_of(1));
    send(&source, "work.x", "0").unwrap();
    let held = next(&mut stuck);
    let mut busy = listen(&b, one_of(2));
    for n in 1..10 {
        send_on(&source, "work.x", &n.to_string());
        assert_eq!(take(&mut busy, 1), n.to_string());
        assert!(stuck.try_next().is_none(), "it has no credit");
    }
    // Two at once for who asks for two.
    send_on(&source, "work.x", "a");
    send_on(&source, "work.x", "b");
    let both = [next(&mut busy), next(&mut busy)];
    assert!(busy.try_next().is_none());
    drop(both);
    let got: BTreeSet<_> = (0..2).map(|_| take(&mut busy, 1)).collect();
    assert_eq!(got.into_iter().collect::<Vec<_>>(), ["a", "b"]);
    held.done();
    PASSES
}

fn what_waits_is_counted(bench: &Bench) -> &'static str {
    let [source, worker] = [bench.attach(), bench.attach()];
    for bus in [&source, &worker] {
        bus.declare("work.>", Delivery::AtLeastOnce).unwrap();
    }
    let mut group = listen(&worker, Listen::to("work.x").in_group("g").credits(1));
    // Whoever shares the bus may ask. A server counts in its time.
    let waiting = |expected| {
        let count = || source.waiting("work.x", "g").wait(LONG).unwrap();
        eventually("the count", || count() == Ok(expected));
    };
    waiting(0);
    assert_eq!(source.waiting("work.x", "nobody").wait(LONG).unwrap(), Ok(0));
    send(&source, "work.x", "a").unwrap();
    let held = next(&mut group);
    for text in ["b", "c"] {
        send(&source, "work.x", text).unwrap();
    }
    waiting(2);
    held.done();
    assert_eq!(take(&mut group, 2), "b c");
    waiting(0);
    drop(group);
    waiting(0);
    PASSES
}

fn a_lease_runs_out(bench: &Bench) -> &'static str {
    let [source, a, b] = [bench.attach(), bench.attach(), bench.attach()];
    for bus in [&source, &a, &b] {
        bus.declare("work.>", Delivery::AtLeastOnce).unwrap();
    }
    let short = Duration::from_millis(300);
    let mut hung = listen(&a, Listen::to("work.x").in_group("g").credits(1).lease(short));
    send(&source, "work.x", "a").unwrap();
    let held = next(&mut hung);
    assert_eq!(held.attempt(), 1);
    let mut other = listen(&b, Listen::to("work.x").in_group("g").credits(1));
    let again = next(&mut other);
    assert_eq!((text(&again), again.attempt(), again.id()), ("a".into(), 2, held.id()));
    assert_eq!(a.counters().expired, 1);
    // Too late: it is not its any more.
    held.done();
    again.fail("no");
    let third = next(&mut other);
    assert_eq!(third.attempt(), 3);
    third.done();
    // One that says that it takes longer keeps it.
    drop(other);
    send(&source, "work.x", "b").unwrap();
    let held = next(&mut hung);
    let end = std::time::Instant::now() + short * 3;
    while std::time::Instant::now() < end {
        held.extend();
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let expired = a.counters().expired;
    held.done();
    assert!(expired <= 2, "{expired}");
    PASSES
}

fn an_id_is_taken_once(bench: &Bench) -> &'static str {
    let bus = bench.attach();
    bus.declare("work.>", Delivery::AtLeastOnce).unwrap();
    let mut listener = subscribe(&bus, "work.pay");
    let publish = |id| {
        let answer = bus.publish_once("work.pay", id, id.to_string().as_bytes());
        answer.and_then(|mut answer| answer.wait(LONG).unwrap())
    };
    assert_eq!(publish(7), Ok(Accepted::New));
    assert_eq!(publish(7), Ok(Accepted::Repeated));
    assert_eq!(publish(8), Ok(Accepted::New));
    assert_eq!(take(&mut listener, 2), "7 8");
    // What was refused may be tried again under its id.
    let refused = (10..100).find(|id| publish(*id).is_err()).expect("full in the end");
    take(&mut listener, (refused - 10) as usize);
    eventually("it is taken now", || publish(refused) == Ok(Accepted::New));
    assert_eq!(take(&mut listener, 1), refused.to_string());
    PASSES
}

fn an_id_is_taken_once_from_all(bench: &Bench) -> &'static str {
    let [one, two, a, b] = [(); 4].map(|()| bench.attach());
    for bus in [&one, &two, &a, &b] {
        bus.declare("work.>", Delivery::AtLeastOnce).unwrap();
    }
    let group = || Listen::to("work.pay").in_group("g").credits(1);
    let publish = |bus: &Bus| bus.publish_once("work.pay", 7, *b"a").unwrap().wait(LONG).unwrap();
    let mut first = listen(&a, group());
    assert_eq!(publish(&one), Ok(Accepted::New));
    assert_eq!(take(&mut first, 1), "a");
    // Another process publishes the same, and another would get it.
    let mut second = listen(&b, group());
    drop(first);
    let again = publish(&two).unwrap();
    send_on(&one, "work.pay", "end");
    match take_until(&mut second, "end").len() {
        0 => assert_eq!(again, Accepted::Repeated),
        // There ids are known to processes only: what came was told to be new.
        1 => {
            assert_eq!(again, Accepted::New);
            assert!(format!("{one:?}").contains("rabbitmq"));
            return REPEATS;
        }
        more => panic!("{more} of one"),
    }
    PASSES
}

// ---- durable ----

/// Whether the backend gives durable topics; otherwise it must say so clearly.
fn is_durable(bus: &Bus) -> bool {
    match bus.declare("orders.>", Delivery::Durable) {
        Ok(()) => true,
        Err(error) => {
            let error = error.to_string();
            assert!(error.contains("is declared durable, which the"), "{error}");
            assert!(error.contains("cannot give: use NATS or RabbitMQ"), "{error}");
            false
        }
    }
}

fn a_durable_group_keeps_its_mail(bench: &Bench) -> &'static str {
    let source = bench.attach();
    if !is_durable(&source) {
        return REFUSED;
    }
    let worker = bench.attach();
    assert!(is_durable(&worker));
    drop(listen(&worker, Listen::to("orders.*").in_group("shop")));
    drop(worker);
    for text in ["a", "b", "c"] {
        send(&source, "orders.new", text).unwrap();
    }
    drop(source);
    let worker = bench.attach();
    assert!(is_durable(&worker));
    let mut shop = listen(&worker, Listen::to("orders.*").in_group("shop"));
    // What the server had sent to the member that left comes again, after the others.
    let taken = take(&mut shop, 3);
    let mut texts: Vec<_> = taken.split(' ').collect();
    texts.sort_unstable();
    assert_eq!(texts, ["a", "b", "c"]);
    PASSES
}

fn a_killed_server_loses_nothing(bench: &Bench) -> &'static str {
    let Some(server) = &bench.server else { return NONE };
    let [source, worker] = [bench.attach(), bench.attach()];
    assert!(is_durable(&source) && is_durable(&worker));
    let mut shop = listen(&worker, Listen::to("orders.*").in_group("shop"));
    // RabbitMQ 3.10 forgets a queue if it is killed within half a second after that was made.
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_secs(2) {
        send_on(&source, "orders.new", "in use");
        assert_eq!(take(&mut shop, 1), "in use");
    }
    send(&source, "orders.new", "before").unwrap();
    let presence = source.presence();
    eventually("it says that the server is there", || !presence.is_away());
    server.kill();
    eventually("it says that the server is away", || presence.is_away());
    // Taken while the server is away, and told when it is safe.
    let publish = || source.publish_once("orders.new", 9, *b"meanwhile").unwrap();
    let mut pending = publish();
    assert!(pending.wait(Duration::from_millis(100)).is_none());
    let mut given_up =
        source.publish_within("orders.new", 5, *b"urgent", Duration::from_millis(50)).unwrap();
    let late = given_up.wait(LONG).unwrap().unwrap_err();
    assert!(matches!(late, Error::Unconfirmed { .. }), "{late}");
    server.start_again();
    eventually("it says that the server is there again", || !presence.is_away());
    // A server that lost acknowledgements may think itself full until they are told again.
    eventually("what waited is accepted", || match pending.wait(LONG).unwrap() {
        Ok(accepted) => accepted == Accepted::New,
        Err(error) => {
            assert_eq!(error, Error::Busy("orders.new".into()));
            pending = publish();
            false
        }
    });
    send_on(&source, "orders.new", "after");
    let got = take_until(&mut shop, "after");
    let seen: BTreeSet<_> = got.iter().map(String::as_str).collect();
    assert!(seen.is_superset(&["before", "meanwhile"].into()), "{got:?}");
    assert_eq!(seen.len(), got.len(), "each once: {got:?}");
    // Listeners of what may be lost hear again too.
    let mut loose = subscribe(&worker, "loose");
    send(&source, "loose", "a").unwrap();
    assert_eq!(take(&mut loose, 1), "a");
    PASSES
}

fn a_frozen_server_delays_only(bench: &Bench) -> &'static str {
    let Some(server) = &bench.server else { return NONE };
    let [source, worker] = [bench.attach(), bench.attach()];
    assert!(is_durable(&source) && is_durable(&worker));
    let mut shop = listen(&worker, Listen::to("orders.*").in_group("shop"));
    server.freeze();
    let begin = std::time::Instant::now();
    let mut pending = source.publish("orders.new", *b"a").unwrap();
    assert!(begin.elapsed() < Duration::from_secs(1), "nothing waits for it");
    assert!(pending.wait(Duration::from_millis(300)).is_none());
    server.thaw();
    assert_eq!(pending.wait(LONG).unwrap(), Ok(Accepted::New));
    assert_eq!(take(&mut shop, 1), "a");
    PASSES
}

// ---- everything else ----

fn bad_declarations_are_refused(bench: &Bench) -> &'static str {
    let bus = bench.attach();
    bus.declare("work.>", Delivery::AtLeastOnce).unwrap();
    bus.declare("work.>", Delivery::AtLeastOnce).unwrap();
    let error = bus.declare("work.>", Delivery::AtMostOnce).unwrap_err();
    assert!(error.to_string().contains("make them the same"), "{error}");
    let error = bus.declare("*.mail", Delivery::AtLeastOnce).unwrap_err();
    assert!(matches!(error, Error::Overlap { .. }), "{error}");
    assert!(matches!(bus.declare("", Delivery::AtMostOnce), Err(Error::BadSubject(_))));
    let _listener = subscribe(&bus, "later.x");
    let error = bus.declare("later.>", Delivery::AtLeastOnce).unwrap_err();
    assert!(matches!(error, Error::Late { .. }), "{error}");
    // The refusals changed nothing, and the strongest of several declarations holds.
    bus.declare("work.trivial", Delivery::AtMostOnce).unwrap();
    let _hoarder = subscribe(&bus, "work.trivial");
    let refused = (0..100).find_map(|_| send(&bus, "work.trivial", "x").err());
    assert!(refused.is_some());
    PASSES
}

fn limits_and_bad_names_are_refused(bench: &Bench) -> &'static str {
    let bus = bench.attach();
    assert!(matches!(bus.subscribe("a..b"), Err(Error::BadSubject(_))));
    assert!(matches!(bus.subscribe_group("a.b", "g g"), Err(Error::BadSubject(_))));
    assert!(matches!(send(&bus, "a.*", "x"), Err(Error::BadSubject(_))));
    assert!(matches!(bus.scope("a b"), Err(Error::BadSubject(_))));
    let long = "x".repeat(1001);
    assert_eq!(send(&bus, "a", &long), Err(Error::TooLong { bytes: 1001, max: 1000 }));
    PASSES
}

fn scopes_do_not_meet(bench: &Bench) -> &'static str {
    let [a, b] = [bench.attach(), bench.attach()];
    let [east, west] = [a.scope("east").unwrap(), b.scope("west").unwrap()];
    east.declare("work.>", Delivery::AtLeastOnce).unwrap();
    west.declare("work.>", Delivery::AtLeastOnce).unwrap();
    for subject in ["work.x", "chat"] {
        let mut there = subscribe(&east, ">");
        let mut here = subscribe(&west, ">");
        send(&west, subject, "a").unwrap();
        send(&east, subject, "b").unwrap();
        let message = next(&mut there);
        assert_eq!((message.subject(), text(&message)), (subject, "b".into()));
        message.done();
        assert_eq!(take(&mut here, 1), "a");
    }
    PASSES
}

fn many_sources_lose_nothing(bench: &Bench) -> &'static str {
    const SOURCES: usize = 4;
    const EACH: usize = 50;
    let worker = bench.attach();
    worker.declare("work.>", Delivery::AtLeastOnce).unwrap();
    let mut subscription = listen(&worker, Listen::to("work.z").in_group("g").credits(1));
    let sources: Vec<_> = (0..SOURCES).map(|_| bench.attach()).collect();
    for source in &sources {
        source.declare("work.>", Delivery::AtLeastOnce).unwrap();
    }
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (number, source) in sources.iter().enumerate() {
            let done = &done;
            scope.spawn(move || {
                for n in 0..EACH {
                    send_on(source, "work.z", &format!("{number} {n}"));
                }
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        let mut expected = [0; SOURCES];
        while expected != [EACH; SOURCES] {
            let message = next(&mut subscription);
            let text = text(&message);
            let (source, n) = text.split_once(' ').unwrap();
            let (source, n): (usize, usize) = (source.parse().unwrap(), n.parse().unwrap());
            assert_eq!(n, expected[source], "each source in its order");
            expected[source] += 1;
            message.done();
        }
    });
    assert_eq!(done.load(Ordering::SeqCst), SOURCES);
    PASSES
}

fn waiting_may_be_cancelled(bench: &Bench) -> &'static str {
    let [source, worker] = [bench.attach(), bench.attach()];
    for bus in [&source, &worker] {
        bus.declare("work.>", Delivery::AtLeastOnce).unwrap();
    }
    let mut listener = subscribe(&worker, "work.a");
    assert!(within(Duration::from_millis(10), listener.next()).is_none());
    let mut other = listen(&worker, Listen::to("work.a").in_group("g"));
    assert!(within(Duration::from_millis(10), other.next()).is_none());
    for text in ["x", "y"] {
        send(&source, "work.a", text).unwrap();
    }
    assert_eq!((take(&mut listener, 2), take(&mut other, 2)), ("x y".into(), "x y".into()));
    PASSES
}
