//! An app of routes as a service on a host.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use env::{Clock, Instant, WallTime};
use expect_test::{Expect, expect};
use proto::frame::{CloseCode, Status};
use proto::link::Slot;
use proto::{AccountId, Bytes, EntityId, KindId, MethodId, SessionId};

use super::*;
use crate::cx::PeerInfo;
use crate::entity::Entity;
use crate::host::{Activation, ClientMessage, ClientOut, ClientRequest, Host, HostSetup, Target};
use crate::options::HostOptions;

thread_local! {
    /// Where command 5 puts its responders.
    static HELD: RefCell<Vec<Responder>> = RefCell::default();
}

struct Chat;

impl RouteApp for Chat {
    const NAME: &'static str = "chat";
    const OPTIONS: Options = Options { requests_max: 888, answer_wait: Duration::from_secs(2) };

    fn routes() -> Routes<RouteCx<Chat>> {
        let hooks = Hooks::new()
            .client_come(|_: &mut RouteCx<Chat>, peer: &Peer| match peer.address.as_str() {
                "account 13" => Err(Failure::new("banned")),
                _ => Ok(()),
            })
            .before_request(|_: &mut RouteCx<Chat>, request: &mut Request| {
                if request.body() == b"spam" {
                    return Err(Failure::with_code(7, "spam"));
                }
                Ok(())
            });
        let bank = Blueprint::new("bank").route_async(4, |cx: RouteCx<Chat>, request| async move {
            cx.sleep(Duration::from_millis(50)).await;
            ask_bank(cx, request).await
        });
        Routes::new("chat")
            .hooks(hooks)
            .blueprint(bank)
            .idle_timeout(Duration::from_secs(30))
            .route(1, |_: &mut RouteCx<Chat>, request: &mut Request| {
                let answer = format!(
                    "{} on {}: {}",
                    request.address(),
                    request.endpoint(),
                    String::from_utf8_lossy(request.body())
                );
                Ok(request.answer(answer)?)
            })
            .route(2, |_: &mut RouteCx<Chat>, _: &mut Request| panic!("bug"))
            .route(3, |_: &mut RouteCx<Chat>, request: &mut Request| {
                // Nobody answers from elsewhere.
                let _ = request.responder()?.into_ticket();
                Ok(())
            })
            .route(5, |_: &mut RouteCx<Chat>, request: &mut Request| {
                let responder = request.responder()?;
                HELD.with(|held| held.borrow_mut().push(responder));
                Ok(())
            })
    }
}

async fn ask_bank(cx: RouteCx<Chat>, mut request: Request) -> Result<(), Failure> {
    let balance = cx.service::<Routed<Bank>>().ask(1, request.take_body()).await;
    let balance = balance.map_err(|error| Failure::new(error.to_string()))?;
    Ok(request.answer_code(balance.code, balance.body)?)
}

struct Bank;

impl RouteApp for Bank {
    const NAME: &'static str = "bank";

    fn routes() -> Routes<RouteCx<Bank>> {
        Routes::new("bank").route(1, |_: &mut RouteCx<Bank>, request: &mut Request| {
            let who = request.endpoint().to_owned();
            Ok(request.answer_code(3, format!("{who}: 100"))?)
        })
    }
}

struct Twice;

impl RouteApp for Twice {
    const NAME: &'static str = "twice";

    fn routes() -> Routes<RouteCx<Twice>> {
        let echo = |_: &mut RouteCx<Twice>, request: &mut Request| Ok(request.answer("")?);
        Routes::new("twice").route(1, echo).route(1, echo)
    }
}

struct Bench {
    host: Host,
    now: Instant,
    lines: Vec<String>,
    tag: u64,
}

impl Bench {
    fn new() -> Self {
        let (clock, _) = Clock::manual(WallTime(0));
        let now = clock.now();
        // Every call is encoded, so that the encodings are tried too.
        let options = HostOptions { encode_all: true, ..HostOptions::default() };
        let mut host = Host::new(options, HostSetup::alone(clock, 1));
        host.register::<Routed<Chat>>();
        host.register::<Routed<Bank>>();
        Bench { host, now, lines: Vec::new(), tag: 0 }
    }

    fn bind(&mut self, account: u64) -> (Target, crate::cx::Peer) {
        let id = EntityId::keyed(KindId::of("chat"), 0);
        let Activation::Ready(target) = self.host.activate(id) else { panic!("not offered") };
        let peer = crate::cx::Peer::new(PeerInfo {
            slot: Slot { index: account as u32, generation: 2 },
            session: SessionId([1; 16]),
            account: AccountId(account),
            level: 0,
            handle: 1,
            stream: "chat".into(),
        });
        self.host.online(target, &peer);
        self.wait(Duration::ZERO);
        (target, peer)
    }

    fn ask(&mut self, to: &(Target, crate::cx::Peer), command: u32, body: &str) {
        self.tag += 1;
        let request = Some(ClientRequest { tag: self.tag, wait: None });
        self.send(to, "route", request, command, body);
    }

    fn send(
        &mut self,
        to: &(Target, crate::cx::Peer),
        method: &str,
        request: Option<ClientRequest>,
        command: u32,
        body: &str,
    ) {
        let body = proto::encode(&(command, Bytes(body.into())));
        let message = ClientMessage { method: MethodId::of(method), body: &body, request };
        self.host.deliver_client(self.now, to.0, &to.1, message).unwrap();
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            while self.host.turn(self.now, WallTime(0)) == Some(self.now) {}
            match self.host.next_turn().filter(|at| *at <= end) {
                Some(at) => self.now = self.now.max(at),
                None => break,
            }
        }
        self.now = end;
        self.host.drain_clients(|out| {
            self.lines.push(match out {
                ClientOut::Reply { tag, status: Status::Ok, body, .. } => {
                    let (code, body) = proto::decode::<(i32, Bytes)>(body).unwrap();
                    format!("{tag}: {code} {}", String::from_utf8_lossy(&body))
                }
                ClientOut::Unbind { name, .. } => format!("unbind {name}"),
                other => format!("{other:?}"),
            });
        });
    }

    fn check(&mut self, expected: Expect) {
        expected.assert_eq(&std::mem::take(&mut self.lines).join("\n"));
    }
}

#[test]
fn clients_ask_by_command_numbers_over_their_stream() {
    let mut bench = Bench::new();
    let client = bench.bind(4);
    for (command, body) in [(1, "hello"), (99, ""), (2, ""), (1, "spam"), (4, "me"), (1, "again")] {
        bench.ask(&client, command, body);
    }
    bench.send(&client, "send", None, 1, "one way");
    bench.wait(Duration::from_secs(1));
    bench.check(expect![[r#"
        1: 0 account 4 on chat: hello
        2: -10000 
        3: -10001 
        4: 7 
        6: 0 account 4 on chat: again
        5: 3 mesh: 100"#]]);
}

#[test]
fn an_answer_from_a_thread_wakes_the_waiting_turn() {
    let mut bench = Bench::new();
    let client = bench.bind(4);
    bench.ask(&client, 5, "");
    bench.wait(Duration::from_millis(1));
    bench.check(expect![[r#""#]]);
    let responder = HELD.with(|held| held.borrow_mut().pop()).unwrap();
    std::thread::spawn(move || responder.answer("from a thread")).join().unwrap();
    bench.wait(Duration::from_millis(1));
    bench.check(expect!["1: 0 from a thread"]);
}

#[test]
fn what_is_never_answered_fails_in_time_and_idle_streams_end() {
    let mut bench = Bench::new();
    let client = bench.bind(4);
    bench.ask(&client, 3, "");
    bench.wait(Duration::from_secs(40));
    bench.check(expect![[r#"
        1: -10003 
        unbind chat"#]]);
    bench.host.offline(client.0, &client.1, CloseCode::Goodbye, true);
    bench.wait(Duration::from_secs(120));
    bench.check(expect![[r#""#]]);
}

#[test]
fn a_client_that_a_hook_refuses_loses_its_stream() {
    let mut bench = Bench::new();
    bench.bind(13);
    bench.bind(14);
    bench.check(expect!["unbind chat"]);
}

#[test]
fn entities_and_server_code_ask_by_the_stub() {
    let mut bench = Bench::new();
    let out = bench.host.outside();
    let mut ask = pin!(async move { out.service::<Routed<Bank>>().ask(1, "").await });
    let mut context = Context::from_waker(Waker::noop());
    assert!(ask.as_mut().poll(&mut context).is_pending());
    bench.wait(Duration::from_millis(1));
    let Poll::Ready(answer) = ask.as_mut().poll(&mut context) else { panic!("no answer") };
    assert_eq!(answer, Ok(Answer { code: 3, body: b"inside: 100".to_vec() }));
}

#[test]
fn a_wrong_declaration_is_found_before_anything_runs() {
    assert!(Routed::<Chat>::check().is_ok());
    let error = Routed::<Twice>::check().unwrap_err().to_string();
    expect!["command 1 is handled twice: by app:1 and by app:1"].assert_eq(&error);
    assert_eq!(<Routed<Twice> as Entity>::KIND.name, "twice");
}
