//! `mainstay trigger` against a bus with credentials.

use std::time::{Duration, Instant};

use mainstay::bus::{Bus, Delivery, Listen, Options, Subscription};
use mainstay::env::Clock;
use mainstay::node::{USERS_TOPIC, UsersOrder};

use crate::command::{mainstay, well};

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
