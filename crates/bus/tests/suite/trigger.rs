//! Events from any program.

use std::time::Duration;

use bus::{Accepted, Bus, Delivery, Error, Listen, Options, Trigger};
use env::Clock;

use crate::bench::*;

fn embedded() -> Bus {
    let bus = Bus::embedded(options(), &Clock::system());
    bus.declare("work.>", Delivery::AtLeastOnce).unwrap();
    bus
}

/// Sure delivery once blocked its caller for ever.
#[test]
fn x34_a_trigger_comes_back_in_its_time_and_can_be_sent_again() {
    let bus = embedded();
    let mut worker = listen(&bus, Listen::to("work.x").in_group("g"));
    let trigger = Trigger::new(bus, &Clock::system(), Duration::from_millis(200));
    for n in 0..4 {
        assert_eq!(trigger.send("work.x", None, n.to_string().as_bytes()), Ok(Accepted::New));
    }
    let late = trigger.send("work.x", Some("fifth"), *b"4").unwrap_err();
    assert_eq!((&*late.body, &late.cause), (&b"4"[..], &Error::Busy("work.x".into())));
    assert_eq!(trigger.undelivered(), [*late]);
    assert_eq!(take(&mut worker, 4), "0 1 2 3");
    assert_eq!(trigger.send_again(), 1);
    assert_eq!(trigger.undelivered(), []);
    // It is the same event under its key.
    assert_eq!(trigger.send("work.x", Some("fifth"), *b"4"), Ok(Accepted::Repeated));
    assert_eq!(take(&mut worker, 1), "4");
    let wrong = trigger.send("work.*", None, *b"x").unwrap_err();
    assert!(matches!(wrong.cause, Error::BadSubject(_)));
}

#[test]
fn e12_many_threads_share_a_trigger_and_lose_nothing() {
    let bus = embedded();
    let mut worker = listen(&bus, Listen::to("work.x").in_group("g"));
    let trigger = Trigger::new(bus, &Clock::system(), LONG);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let trigger = &trigger;
            scope.spawn(move || {
                for n in 0..20 {
                    let text = format!("{thread} {n}");
                    trigger.send("work.x", Some(&text), text.as_bytes()).unwrap();
                }
            });
        }
        let all: std::collections::BTreeSet<_> = (0..80).map(|_| take(&mut worker, 1)).collect();
        assert_eq!(all.len(), 80);
    });
}

#[test]
fn addresses_of_no_bus_are_refused() {
    let connect = |urls: &[&str]| {
        let urls: Vec<String> = urls.iter().map(|url| (*url).to_owned()).collect();
        Bus::connect(&urls, "p", Options::default(), &Clock::system()).unwrap_err().to_string()
    };
    assert!(connect(&[]).contains("needs an address"));
    let secret = connect(&["http://me:secret@there"]);
    assert!(secret.contains("http://there") && !secret.contains("secret"), "{secret}");
    assert!(connect(&["nats://a", "amqp://b"]).contains("all of one kind"));
}

/// The inner port was once open to all.
#[cfg(feature = "nats")]
#[test]
fn e11_without_credentials_nothing_comes_in() {
    if servers::skipped() {
        return;
    }
    let server = servers::Nats::start_guarded("game", "secret").unwrap();
    let connect = |url: String| {
        let options = Options { answer_wait: LONG, ..options() };
        Bus::connect(&[url], "guarded", options, &Clock::system()).unwrap()
    };
    let game = connect(server.url());
    game.declare("work.>", Delivery::AtLeastOnce).unwrap();
    let mut worker = listen(&game, Listen::to("work.x").in_group("g"));
    let open = format!("nats://127.0.0.1:{}", server.port());
    let wrong = format!("nats://game:guess@127.0.0.1:{}", server.port());
    for url in [open, wrong] {
        let options = Options { answer_wait: Duration::from_millis(300), ..options() };
        let stranger = Bus::connect(&[url], "guarded", options, &Clock::system()).unwrap();
        // A server that lets nobody in is as one that is away: it is tried on.
        stranger.declare("work.>", Delivery::AtLeastOnce).unwrap();
        let trigger = Trigger::new(stranger, &Clock::system(), Duration::from_millis(500));
        let refused = trigger.send("work.x", None, *b"forged").unwrap_err();
        assert!(matches!(refused.cause, Error::Unconfirmed { .. }), "{refused}");
    }
    let named = connect(server.url());
    named.declare("work.>", Delivery::AtLeastOnce).unwrap();
    Trigger::new(named, &Clock::system(), LONG).send("work.x", None, *b"real").unwrap();
    assert_eq!(take(&mut worker, 1), "real");
}
