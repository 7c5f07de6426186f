//! `mainstay trigger` against a bus with credentials.

use std::time::{Duration, Instant};

use mainstay::bus::{Bus, Delivery, Listen, Options, Subscription};
use mainstay::env::Clock;
use mainstay::node::{USERS_TOPIC, UsersOrder};

use crate::command::{Folder, mainstay, well};

const LONG: Duration = Duration::from_secs(60);

fn next(worker: &mut Subscription) -> (String, String) {
    let end = Instant::now() + LONG;
    loop {
        if let Some(message) = worker.try_next() {
            let text = String::from_utf8_lossy(message.body()).into_owned();
            let subject = message.subject().to_owned();
            message.done();
            return (subject, text);
        }
        assert!(Instant::now() < end, "an event in time");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn e11_the_command_sends_an_event_to_workers_and_needs_credentials() {
    if servers::skipped() {
        return;
    }
    let server = servers::Nats::start_guarded("game", "secret").unwrap();
    let url = server.url();
    let options = Options { answer_wait: LONG, ..Options::default() };
    let bus =
        Bus::connect(std::slice::from_ref(&url), "mainstay", options, &Clock::system()).unwrap();
    bus.declare("work.>", Delivery::Durable).unwrap();
    let mut worker = bus.listen(Listen::to("work.>").in_group("workers")).unwrap();
    let mut chat = bus.subscribe("chat.*").unwrap();
    assert!(worker.wait_ready(LONG) && chat.wait_ready(LONG));
    let kept = |body: &str| {
        let topic = ["--topic", "work.>", "--class", "durable", "--key", "k1", "--within", "60"];
        well(&[&["trigger", "work.mail", body, "--bus", &url], &topic[..]].concat())
    };
    assert_eq!(kept("hello"), "accepted\n");
    assert_eq!(next(&mut worker), ("work.mail".to_owned(), "hello".to_owned()));
    assert_eq!(kept("hello"), "accepted before\n");
    let said = well(&["trigger", "chat.world", "hi", "--bus", &url, "--within", "60"]);
    assert_eq!(said, "accepted\n");
    assert_eq!(next(&mut chat), ("chat.world".to_owned(), "hi".to_owned()));
    let stranger = url.replace("game:secret@", "");
    let forged = ["trigger", "chat.world", "forged", "--bus", &stranger, "--within", "1"];
    let (went_well, said) = mainstay(&forged);
    assert!(!went_well && said.contains("the bus is not there"), "{said}");
    assert!(chat.try_next().is_none());
}

#[test]
fn e11_the_command_orders_what_is_done_with_users() {
    if servers::skipped() {
        return;
    }
    let server = servers::Nats::start().unwrap();
    let url = server.url();
    let options = Options { answer_wait: LONG, ..Options::default() };
    let bus = Bus::connect(std::slice::from_ref(&url), "inn", options, &Clock::system()).unwrap();
    bus.declare(USERS_TOPIC, Delivery::AtLeastOnce).unwrap();
    let mut node = bus.listen(Listen::to(USERS_TOPIC).in_group("users")).unwrap();
    assert!(node.wait_ready(LONG));
    let place = ["--bus", &url, "--prefix", "inn", "--within", "60"];
    let mut order = |words: &[&str]| {
        assert_eq!(well(&[words, &place[..]].concat()), "accepted\n");
        let end = Instant::now() + LONG;
        loop {
            if let Some(message) = node.try_next() {
                let body = message.body().to_vec();
                message.done();
                return body;
            }
            assert!(Instant::now() < end, "an order in time");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    };
    let push = UsersOrder {
        whom: "logged_in".to_owned(),
        tags: vec!["vip".to_owned()],
        except: vec![7, 8],
        act: "push".to_owned(),
        text: "hear".to_owned(),
        arguments: mainstay::proto::encode(&("rain".to_owned(), -5i32, true, 0.5f64)),
        accounts: Vec::new(),
    };
    let words =
        ["users", "push", "hear", "[\"rain\", -5, true, 0.5]", "--logged-in", "--tag", "vip"];
    let said = order(&[&words[..], &["--except", "7", "--except", "8"]].concat());
    assert_eq!(said, push.encode());
    let close = UsersOrder {
        whom: "accounts".to_owned(),
        accounts: vec![3],
        act: "close".to_owned(),
        text: "the inn is closed".to_owned(),
        ..UsersOrder::default()
    };
    assert_eq!(order(&["users", "close", "the inn is closed", "--account", "3"]), close.encode());
    let (went_well, said) = mainstay(&["users", "push", "hear", "7", "--bus", &url]);
    assert!(!went_well && said.contains("JSON array"), "{said}");
}

/// Has a worker fail over jobs until they are set aside.
fn set_aside(bus: &Bus, worker: &mut Subscription, subjects: &[&str]) {
    for subject in subjects {
        let body = format!("job of\n{subject}").into_bytes();
        bus.publish(subject, body).unwrap().wait(LONG).unwrap().unwrap();
    }
    let end = Instant::now() + LONG;
    while bus.dead(10).wait(LONG).unwrap().unwrap().len() < subjects.len() {
        match worker.try_next() {
            Some(message) => message.fail("no\nstamps"),
            None => std::thread::park_timeout(Duration::from_millis(5)),
        }
        assert!(Instant::now() < end, "dead letters in time");
    }
}

#[test]
fn e3_the_command_lists_dead_letters_and_replays_them() {
    if servers::skipped() {
        return;
    }
    let server = servers::Nats::start_guarded("game", "secret").unwrap();
    let folder = Folder::new("dead-letters");
    let (file, password) = (folder.text("cluster.json"), folder.join("password"));
    std::fs::write(&password, "secret\n").unwrap();
    let address = server.url().replace("game:secret@", "game@");
    let text = format!(
        r#"{{"cluster": "inn", "roles": {{"of-this-game": ["gate"]}}, "processes": {{"a": {{"roles": ["of-this-game"]}}}},
            "bus": {{"nats": {{"url": "{address}", "password": {{"file": "password"}}}}}}}}"#
    );
    std::fs::write(&file, text).unwrap();
    let letters = |words: &[&str]| {
        let place = ["--cluster", &file, "--within", "60"];
        mainstay(&[&["dead-letters"], words, &place[..]].concat())
    };
    let went = |words: &[&str]| {
        let (went_well, said) = letters(words);
        assert!(went_well, "{words:?}: {said}");
        said
    };
    assert_eq!(went(&["list"]), "no dead letters\n");

    let options = Options { answer_wait: LONG, attempts_max: 1, ..Options::default() };
    let clock = Clock::system();
    let bus = Bus::connect(&[server.url()], "inn", options, &clock).unwrap();
    bus.declare("work.>", Delivery::Durable).unwrap();
    let mut worker = bus.listen(Listen::to("work.>").in_group("workers")).unwrap();
    assert!(worker.wait_ready(LONG));
    set_aside(&bus, &mut worker, &["work.mail.1", "work.mail.2", "work.save"]);
    let listed = went(&["list", "--bodies"]);
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 7, "{listed}");
    let (id, rest) = lines[0].split_once("  ").unwrap();
    assert_eq!(id.len(), 32);
    assert_eq!(rest, "work.mail.1  workers  1 attempts  18 bytes  no stamps");
    assert_eq!((lines[1], lines[6]), (r"    job of\nwork.mail.1", "3 dead letters"));
    assert!(
        went(&["list", "--limit", "1"]).ends_with("3 dead letters, the first 1 shown: --limit\n")
    );
    assert_eq!(went(&["list", "--group", "others"]), "no dead letters\n");
    assert_eq!(went(&["list", "--subject", "work.mail.*"]).lines().count(), 3);

    assert_eq!(went(&["replay", &id[..20]]), "1 dead letter replayed\n");
    assert_eq!(next(&mut worker), ("work.mail.1".to_owned(), "job of\nwork.mail.1".to_owned()));
    assert_eq!(went(&["replay", "--subject", "work.mail.>"]), "1 dead letter replayed\n");
    assert_eq!(next(&mut worker).0, "work.mail.2");
    assert_eq!(went(&["discard", "--all"]), "1 dead letter discarded\n");
    assert_eq!(went(&["replay", "--all"]), "0 dead letters replayed\n");
    assert!(worker.try_next().is_none());

    let failed = |words: &[&str], why: &str| {
        let (went_well, said) = mainstay(&[&["dead-letters"], words].concat());
        assert!(!went_well && said.contains(why), "{words:?}: {said}");
    };
    failed(&["replay", "0"], "name the bus by --bus or in MAINSTAY_BUS, or the cluster file");
    failed(&["replay", &id[..20], "--cluster", &file], "no dead letter has an id that begins with");
    failed(&["replay", "--cluster", &file], "<IDS>");
    failed(&["list", "--cluster", &file, "--subject", "work.."], "is no subject");
    std::fs::write(&password, "guess").unwrap();
    failed(&["list", "--cluster", &file, "--within", "1"], "does not let this user in");
    std::fs::write(&file, r#"{"cluster": "inn"}"#).unwrap();
    failed(&["list", "--cluster", &file], "names no server of a bus");
    std::fs::write(&file, r#"{"cluster": "inn", "bus": {"nats": "http://there"}}"#).unwrap();
    failed(&["list", "--cluster", &file], "is no address of this bus");
}
