//! Buses with servers, for the conformance suite, and what only they can go through.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bus::{Bus, Options};
use env::Clock;

use crate::bench::*;

/// One server for all cases; each has a prefix of its own.
#[cfg(feature = "nats")]
pub fn nats() -> Option<Box<dyn Fn(Options) -> Bench>> {
    if servers::skipped() {
        return None;
    }
    let server = Arc::new(servers::Nats::start().unwrap());
    let next = AtomicU32::new(0);
    Some(Box::new(move |options| {
        let prefix = format!("t{}", next.fetch_add(1, Ordering::Relaxed));
        let url = server.url();
        let attach = move || attach_nats(&url, &prefix, options.clone());
        Bench { attach: Box::new(attach), server: Some(server.clone()) }
    }))
}

#[cfg(feature = "nats")]
fn attach_nats(url: &str, prefix: &str, options: Options) -> Bus {
    let mut nats = bus::NatsOptions::new([url.to_owned()], prefix);
    nats.request_wait = std::time::Duration::from_secs(2);
    Bus::nats(nats, options, &Clock::system()).unwrap()
}

macro_rules! server {
    ($name:ty) => {
        impl Server for $name {
            fn kill(&self) {
                servers::Instance::kill(self);
            }
            fn start_again(&self) {
                servers::Instance::start_again(self).unwrap();
            }
            fn freeze(&self) {
                servers::Instance::freeze(self);
            }
            fn thaw(&self) {
                servers::Instance::thaw(self);
            }
        }
    };
}

#[cfg(feature = "nats")]
server!(servers::Nats);

/// A topic that may lose nothing needs JetStream: a server without it is found out at start.
#[cfg(feature = "nats")]
#[test]
fn nats_without_jetstream_refuses_what_may_not_be_lost() {
    if servers::skipped() {
        return;
    }
    let server = servers::Nats::start_core().unwrap();
    let bus = attach_nats(&server.url(), "core", options());
    let error = bus.declare("work.>", bus::Delivery::AtLeastOnce).unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"work.>\" is declared at least once, which the nats bus cannot give: switch JetStream \
         on in the server, or declare it at most once"
    );
    let mut heard = subscribe(&bus, "chat");
    send(&bus, "chat", "hello").unwrap();
    assert_eq!(take(&mut heard, 1), "hello");
}

/// A server of version 2.9 that is told to end confirms what it drops, because the groups of a topic go before it,
/// and drops for all of them what one is done with.
#[cfg(feature = "nats")]
#[test]
fn what_nats_confirms_in_its_last_moments_is_not_lost() {
    use std::collections::BTreeSet;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;

    const ENDS: usize = 10;
    const BETWEEN: usize = 300;
    if servers::skipped() {
        return;
    }
    let server = servers::Nats::start().unwrap();
    let attach = || attach_nats(&server.url(), "end", Options::default());
    let (publisher, worker) = (attach(), attach());
    for bus in [&publisher, &worker] {
        bus.declare("work", bus::Delivery::AtLeastOnce).unwrap();
    }
    let group = |name| listen(&worker, bus::Listen::to("work").in_group(name));
    let mut groups = ["one", "other"].map(|name| (group(name), BTreeSet::new()));
    let work = |groups: &mut [(bus::Subscription, BTreeSet<String>)]| {
        for (heard, done) in groups {
            while let Some(message) = heard.try_next() {
                done.insert(text(&message));
                message.done();
            }
        }
    };
    let (number, confirmed) = (AtomicU32::new(0), Mutex::new(BTreeSet::new()));
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Publishers end however this ends.
        let ends = Ends(&ended);
        for _ in 0..8 {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    let text = number.fetch_add(1, Ordering::Relaxed).to_string();
                    send_on(&publisher, "work", &text);
                    confirmed.lock().unwrap().insert(text);
                }
            });
        }
        for _ in 0..ENDS {
            let before = confirmed.lock().unwrap().len();
            eventually("more is confirmed", || {
                work(&mut groups);
                confirmed.lock().unwrap().len() > before + BETWEEN
            });
            server.stop().unwrap();
            servers::Instance::start_again(&server).unwrap();
        }
        drop(ends);
    });
    let confirmed = confirmed.into_inner().unwrap();
    eventually("each group hears all that was confirmed", || {
        work(&mut groups);
        groups.iter().all(|(_, done)| confirmed.is_subset(done))
    });
}

#[cfg(feature = "nats")]
struct Ends<'a>(&'a std::sync::atomic::AtomicBool);

#[cfg(feature = "nats")]
impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A stock client of MQTT reaches a service that listens on the bus, and receives what is pushed.
#[cfg(feature = "nats")]
#[test]
fn a35_an_mqtt_client_reaches_a_service_and_receives_a_push() {
    use std::io::Read;
    use std::process::{Command, Stdio};

    if servers::skipped() {
        return;
    }
    let server = servers::Nats::start().unwrap();
    let bus = attach_nats(&server.url(), "game", options());
    let mut service = listen(&bus, bus::Listen::to("greet.*").in_group("greeters"));
    let mqtt = |program: &str| {
        let mut command = Command::new(program);
        let port = server.mqtt_port().to_string();
        command.args(["-h", "127.0.0.1", "-p", &port, "-q", "1"]);
        command
    };
    let mut client = mqtt("mosquitto_sub")
        .args(["-t", "game/live/push/ann", "-C", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let sent = mqtt("mosquitto_pub").args(["-t", "game/live/greet/ann", "-m", "hello"]).status();
    assert!(sent.unwrap().success());
    let message = next(&mut service);
    assert_eq!((message.subject(), text(&message)), ("greet.ann", "hello".to_owned()));
    // What is pushed before the server knows of it goes nowhere.
    let mut ended = None;
    eventually("the client has one message and ends", || {
        send(&bus, "push.ann", "welcome").unwrap();
        ended = client.try_wait().unwrap();
        ended.is_some()
    });
    let mut output = String::new();
    client.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert_eq!((output.trim(), ended.unwrap().success()), ("welcome", true));
}

#[cfg(feature = "rabbitmq")]
pub fn rabbitmq() -> Option<Box<dyn Fn(Options) -> Bench>> {
    if servers::skipped() {
        return None;
    }
    let server = Arc::new(servers::Rabbitmq::start().unwrap());
    let next = AtomicU32::new(0);
    Some(Box::new(move |options| {
        let prefix = format!("t{}", next.fetch_add(1, Ordering::Relaxed));
        let url = server.url();
        let attach = move || {
            let mut rabbitmq = bus::RabbitmqOptions::new([url.clone()], &prefix);
            rabbitmq.request_wait = std::time::Duration::from_secs(4);
            Bus::rabbitmq(rabbitmq, options.clone(), &Clock::system()).unwrap()
        };
        Bench { attach: Box::new(attach), server: Some(server.clone()) }
    }))
}

#[cfg(feature = "rabbitmq")]
server!(servers::Rabbitmq);

/// What nobody listens to is not kept by a server: a replay to a group that was forgotten would be the end of it.
#[cfg(any(feature = "nats", feature = "rabbitmq"))]
fn replay_needs_who_failed(make: &dyn Fn(Options) -> Bench) {
    use bus::{Delivery, Error, Listen};
    use std::time::Duration;

    let bus = make(Options { idle_wait: Duration::from_secs(1), ..options() }).attach();
    bus.declare("work.>", Delivery::AtLeastOnce).unwrap();
    let dead = || bus.dead(10).wait(LONG).unwrap().unwrap();
    assert_eq!(dead(), [], "none before the first");
    let workers = || listen(&bus, Listen::to("work.*").in_group("workers"));
    // How soon a server forgets is its own affair.
    let refused = [2, 4, 8, 16, 32].into_iter().find_map(|pause| {
        let mut failing = workers();
        send(&bus, "work.x", "a").unwrap();
        eventually("it is set aside", || {
            if let Some(message) = failing.try_next() {
                message.fail("not today");
            }
            !dead().is_empty()
        });
        drop(failing);
        std::thread::sleep(Duration::from_secs(pause));
        let letters = dead();
        let told = bus.replay(&letters[0]).wait(LONG).unwrap();
        told.err().map(|error| (error, letters))
    });
    let (error, letters) = refused.expect("the group is forgotten");
    let (subject, group) = ("work.x".to_owned(), Some("workers".to_owned()));
    assert_eq!(error, Error::Unheard { subject, group });
    assert_eq!(dead(), letters);
    let mut again = workers();
    assert_eq!(bus.replay(&letters[0]).wait(LONG).unwrap(), Ok(()));
    assert_eq!(take(&mut again, 1), "a");
}

#[cfg(feature = "nats")]
#[test]
fn nats_keeps_a_dead_letter_whose_group_is_gone() {
    let Some(make) = nats() else { return };
    replay_needs_who_failed(&make);
}

#[cfg(feature = "rabbitmq")]
#[test]
fn rabbitmq_keeps_a_dead_letter_whose_group_is_gone() {
    let Some(make) = rabbitmq() else { return };
    replay_needs_who_failed(&make);
}
