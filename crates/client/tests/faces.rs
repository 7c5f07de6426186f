//! The async and the polled client against a server behind a real port.

use std::time::{Duration, Instant};

use client::fake::{FakeGate, STREAM, method};
use client::{Address, CallError, Client, End, Event, Events, Grant, Limits, Options, Polled};
use proto::frame::CloseCode;

fn grant(ticket: &str) -> Grant {
    let (session, expires) = (Default::default(), env::WallTime(u64::MAX));
    Grant { ticket: ticket.into(), secret: [7; 32], session, expires }
}

fn options(address: Address) -> Options {
    let limits = Limits { retry_first: Duration::from_millis(10), ..Limits::default() };
    Options { limits, ..Options::new(address) }
}

async fn until(events: &mut Events, wanted: impl Fn(&Event) -> bool) -> Event {
    let found = async {
        loop {
            let event = events.next().await.expect("the client runs");
            if wanted(&event) {
                return event;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), found).await.expect("the event comes")
}

async fn plays(address: Address, gate: &FakeGate) {
    let (client, mut events) = Client::connect(options(address), grant("ada")).await.unwrap();
    let echoed: (u64, String) =
        client.request(STREAM, method::ECHO, &(7u64, "x".to_owned())).await.unwrap();
    assert_eq!(echoed, (7, "x".to_owned()));
    let none: Vec<u8> = client.request(STREAM, method::ECHO, &()).await.unwrap();
    assert!(none.is_empty(), "no arguments travel as an empty list");
    let failed = client.request::<_, u64>(STREAM, method::FAIL, &("no".to_owned(),)).await;
    assert_eq!(failed.unwrap_err().app(), Some(("no".to_owned(),)));
    let wrong = client.request::<_, String>(STREAM, method::ECHO, &(7u64,)).await;
    assert!(matches!(wrong, Err(CallError::BadReply(_))));

    // Many at once, with the connection cut in their midst.
    let requests: Vec<_> = (0..100u64)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move {
                if n == 50 {
                    client.cut().await;
                }
                client.request::<_, (u64,)>(STREAM, method::ECHO, &(n,)).await
            })
        })
        .collect();
    for (n, request) in requests.into_iter().enumerate() {
        assert_eq!(request.await.unwrap(), Ok((n as u64,)));
    }
    until(&mut events, |event| matches!(event, Event::Connected { resumed: true, .. })).await;
    let stats = client.stats().await;
    assert_eq!((stats.logins, stats.resumes, stats.losses), (1, 1, 1));

    // A call of the server, and its answer.
    client.publish(method::CALL).await;
    client.tell(STREAM, method::CALL, &(5u64,)).await.unwrap();
    let called = until(&mut events, |event| matches!(event, Event::Call { .. })).await;
    let Event::Call { call, body, .. } = called else { unreachable!() };
    let (number,): (u64,) = proto::decode(&body).unwrap();
    client.answer(call, &(number + 1)).await;
    let answered: Vec<u8> = client.request(STREAM, method::ECHO, &()).await.unwrap();
    assert!(answered.is_empty());
    assert_eq!(gate.with(|server| server.answers[0].1.clone()), [6]);

    // Pushes come in order.
    for n in 0..20u64 {
        client.tell(STREAM, method::PUSH, &(n,)).await.unwrap();
    }
    for n in 0..20u64 {
        let pushed = until(&mut events, |event| matches!(event, Event::Push { .. })).await;
        let Event::Push { body, .. } = pushed else { unreachable!() };
        assert_eq!(proto::decode::<(u64,)>(&body), Ok((n,)));
    }

    gate.with(|server| server.close_all(CloseCode::Kicked));
    let ended = until(&mut events, |event| matches!(event, Event::Ended { .. })).await;
    assert!(matches!(ended, Event::Ended { end: End::Server { code: CloseCode::Kicked, .. } }));
    let late = client.request::<_, ()>(STREAM, method::ECHO, &()).await;
    assert!(matches!(late, Err(CallError::Ended(_))));
    client.login(grant("ada again")).await;
    until(&mut events, |event| matches!(event, Event::Bound { .. })).await;
    drop(client);
    while events.next().await.is_some() {}
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn async_client_plays_over_tcp_and_websocket() {
    runtime().block_on(async {
        let gate = FakeGate::start();
        plays(gate.tcp(), &gate).await;
        let gate = FakeGate::start();
        plays(gate.web_socket(), &gate).await;
        // The dropped client has said goodbye.
        while gate.with(|server| server.bound_sessions()) > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn async_client_is_told_why_it_may_not_play() {
    runtime().block_on(async {
        let gate = FakeGate::start();
        let refused = Client::connect(options(gate.tcp()), grant("bad")).await;
        assert!(matches!(refused, Err(End::Server { code: CloseCode::Ticket, .. })));
        // A port that was open a moment ago and is closed now.
        let address = gate.tcp();
        drop(gate);
        let mut options = options(address);
        options.limits.tries_max = Some(2);
        assert_eq!(Client::connect(options, grant("ada")).await.unwrap_err(), End::Unreachable);
    });
}

#[test]
fn async_client_goes_on_without_a_reader_of_its_events() {
    runtime().block_on(async {
        let gate = FakeGate::start();
        let (client, events) = Client::connect(options(gate.tcp()), grant("ada")).await.unwrap();
        drop(events);
        for n in 0..2_000u64 {
            client.tell(STREAM, method::PUSH, &(n,)).await.unwrap();
            if n % 100 == 0 {
                let _: Vec<u8> = client.request(STREAM, method::ECHO, &()).await.unwrap();
            }
        }
    });
}

/// Polls until `done` says so.
fn drive(polled: &mut Polled, mut done: impl FnMut(&mut Polled, Option<Event>) -> bool) {
    let start = Instant::now();
    loop {
        let event = polled.poll();
        let idle = event.is_none();
        if done(polled, event) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "it does not come to pass");
        if idle {
            std::thread::yield_now();
        }
    }
}

fn polls(address: Address, gate: &FakeGate) {
    use std::cell::RefCell;
    use std::rc::Rc;
    let mut polled = Polled::new(options(address), grant("bob"));
    let answers = Rc::new(RefCell::new(Vec::new()));
    for n in 0..50u64 {
        let answers = answers.clone();
        polled
            .request_then(STREAM, method::ECHO, &(n,), move |_, result: Result<(u64,), _>| {
                answers.borrow_mut().push(result.unwrap().0);
            })
            .unwrap();
    }
    drive(&mut polled, |polled, _| {
        if answers.borrow().len() == 20 {
            polled.cut();
        }
        answers.borrow().len() == 50
    });
    assert_eq!(*answers.borrow(), (0..50).collect::<Vec<_>>());
    polled.tell(STREAM, method::PUSH, &(3u64,)).unwrap();
    drive(&mut polled, |_, event| matches!(event, Some(Event::Push { .. })));
    polled.close();
    drive(&mut polled, |_, event| matches!(event, Some(Event::Ended { end: End::Goodbye })));
    drive(&mut polled, |polled, _| {
        polled.poll();
        gate.with(|server| server.bound_sessions()) == 0
    });
}

#[test]
fn polled_client_plays_over_tcp_and_websocket() {
    let gate = FakeGate::start();
    polls(gate.tcp(), &gate);
    polls(gate.web_socket(), &gate);
}
