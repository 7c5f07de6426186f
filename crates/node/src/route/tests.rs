//! Each test feeds a small script to a router and compares the trace of hooks and outputs.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use env::Instant;
use expect_test::{Expect, expect};

use super::*;

/// What handlers work on here: a trace that all share.
#[derive(Clone, Default)]
struct Log(Rc<RefCell<String>>);

impl Log {
    fn line(&self, text: impl std::fmt::Display) {
        writeln!(self.0.borrow_mut(), "{text}").unwrap();
    }
}

/// A router with its trace, a clock and the async handlers at work.
struct Bench {
    router: Router<Log>,
    log: Log,
    now: Instant,
    later: Vec<Later>,
}

impl Bench {
    fn new(routes: Routes<Log>) -> Self {
        Self::with(routes, Options::default())
    }

    fn with(routes: Routes<Log>, options: Options) -> Self {
        let mut log = Log::default();
        let now = Instant::ZERO;
        let router = Router::start(routes, options, now, &mut log, None).unwrap();
        Bench { router, log, now, later: Vec::new() }
    }

    fn open(&mut self, connection: u64) -> &mut Self {
        let peer = Peer {
            connection,
            address: format!("10.0.0.{connection}:5"),
            endpoint: "gate".to_owned(),
        };
        self.router.handle_open(self.now, &mut self.log, peer);
        self.drain()
    }

    fn ask(&mut self, connection: u64, sequence: u64, command: u32, body: &str) -> &mut Self {
        self.send(connection, Some(sequence), command, body)
    }

    fn send(
        &mut self,
        connection: u64,
        sequence: Option<u64>,
        command: u32,
        body: &str,
    ) -> &mut Self {
        let asked = Asked { command, sequence, body: body.into() };
        match self.router.handle_request(self.now, &mut self.log, connection, asked) {
            Started::Done => {}
            Started::Later(later) => self.later.push(later),
        }
        self.drain()
    }

    /// Polls the async handlers once.
    fn poll(&mut self) -> &mut Self {
        let mut cx = Context::from_waker(Waker::noop());
        for mut later in std::mem::take(&mut self.later) {
            match later.work.as_mut().poll(&mut cx) {
                Poll::Pending => self.later.push(later),
                Poll::Ready(result) => {
                    self.router.handle_finished(self.now, &mut self.log, later.id, result);
                }
            }
        }
        self.drain()
    }

    fn wait(&mut self, millis: u64) -> &mut Self {
        let end = self.now + Duration::from_millis(millis);
        while let Some(at) = self.router.poll_timeout().filter(|at| *at <= end) {
            self.now = at;
            self.router.handle_timeout(at, &mut self.log);
            self.drain();
        }
        self.now = end;
        self
    }

    fn drain(&mut self) -> &mut Self {
        self.router.handle_answers(self.now, &mut self.log);
        while let Some(output) = self.router.poll_output() {
            let ms = self.now.as_millis();
            match output {
                Output::Answer { connection, sequence, answer } => {
                    let body = String::from_utf8(answer.body).unwrap();
                    let code = answer.code;
                    self.log
                        .line(format_args!("{ms} answer {connection}#{sequence} {code} {body}"));
                }
                Output::Close { connection, reason } => {
                    self.log.line(format_args!("{ms} close {connection}: {reason}"));
                }
                Output::Report { place, failure } => {
                    self.log.line(format_args!("{ms} report {place}: {failure}"));
                }
            }
        }
        self
    }

    fn check(&mut self, expected: Expect) {
        expected.assert_eq(&std::mem::take(&mut *self.log.0.borrow_mut()));
    }
}

fn echo(cx: &mut Log, request: &mut Request) -> Result<(), Failure> {
    cx.line("handler");
    let body = request.take_body();
    Ok(request.answer(body)?)
}

/// Hooks that only leave a line with `name`.
fn traced(name: &'static str) -> Hooks<Log> {
    Hooks::new()
        .start_worker(move |cx: &mut Log| {
            cx.line(format_args!("start {name}"));
            Ok(())
        })
        .stop_worker(move |cx: &mut Log| {
            cx.line(format_args!("stop {name}"));
            Ok(())
        })
        .open_connection(move |cx: &mut Log, peer: &Peer| {
            cx.line(format_args!("open {name} {}", peer.address));
            Ok(())
        })
        .close_connection(move |cx: &mut Log, _: &Peer| {
            cx.line(format_args!("closed {name}"));
            Ok(())
        })
        .client_come(move |cx: &mut Log, _: &Peer| {
            cx.line(format_args!("come {name}"));
            Ok(())
        })
        .client_gone(move |cx: &mut Log, _: &Peer| {
            cx.line(format_args!("gone {name}"));
            Ok(())
        })
        .first_request(move |cx: &mut Log, _: &mut Request| {
            cx.line(format_args!("first {name}"));
            Ok(())
        })
        .before_request(move |cx: &mut Log, _: &mut Request| {
            cx.line(format_args!("before {name}"));
            Ok(())
        })
        .after_request(move |cx: &mut Log, info: &RequestInfo, failure: Option<&Failure>| {
            let end = failure.map_or("well", Failure::text);
            cx.line(format_args!("after {name} {} {end}", info.route));
            Ok(())
        })
        .before_response(move |cx: &mut Log, _: &RequestInfo, answer: &mut Answer| {
            cx.line(format_args!("before response {name} {}", answer.code));
            Ok(())
        })
        .after_response(move |cx: &mut Log, _: &RequestInfo, answer: &Answer| {
            cx.line(format_args!("after response {name} {}", answer.code));
            Ok(())
        })
}

#[test]
fn hooks_run_from_app_to_blueprint_and_back() {
    let chat = Blueprint::new("chat")
        .route(10, echo)
        .hooks(traced("chat"))
        .app_hooks(traced("chat for all"));
    let shop = Blueprint::new("shop")
        .route(20, echo)
        .hooks(traced("shop"))
        .app_hooks(traced("shop for all"));
    let routes = Routes::new("game").hooks(traced("app")).blueprint(chat).blueprint(shop);
    let mut bench = Bench::new(routes);
    bench.check(expect![[r#"
        start app
        start chat for all
        start chat
        start shop for all
        start shop
    "#]]);
    bench.open(1).ask(1, 7, 20, "gold").check(expect![[r#"
        open app 10.0.0.1:5
        open chat for all 10.0.0.1:5
        open chat 10.0.0.1:5
        open shop for all 10.0.0.1:5
        open shop 10.0.0.1:5
        first app
        first chat for all
        first chat
        first shop for all
        first shop
        before app
        before chat for all
        before shop for all
        before shop
        handler
        after shop shop:20 well
        after chat for all shop:20 well
        after shop for all shop:20 well
        after app shop:20 well
        before response app 0
        before response chat for all 0
        before response shop for all 0
        before response shop 0
        after response shop 0
        after response chat for all 0
        after response shop for all 0
        after response app 0
        0 answer 1#7 0 gold
    "#]]);
    bench.ask(1, 8, 10, "hello").check(expect![[r#"
        before app
        before chat for all
        before shop for all
        before chat
        handler
        after chat chat:10 well
        after chat for all chat:10 well
        after shop for all chat:10 well
        after app chat:10 well
        before response app 0
        before response chat for all 0
        before response shop for all 0
        before response chat 0
        after response chat 0
        after response chat for all 0
        after response shop for all 0
        after response app 0
        0 answer 1#8 0 hello
    "#]]);
    let Bench { router, log, now, .. } = &mut bench;
    router.handle_come(*now, log, 1);
    router.handle_closed(*now, log, 1);
    router.stop(*now, log);
    bench.check(expect![[r#"
        come app
        come chat for all
        come chat
        come shop for all
        come shop
        gone app
        gone chat for all
        gone chat
        gone shop for all
        gone shop
        closed app
        closed chat for all
        closed chat
        closed shop for all
        closed shop
        stop shop
        stop shop for all
        stop chat
        stop chat for all
        stop app
    "#]]);
}

#[test]
fn request_tells_command_body_address_and_endpoint() {
    let routes = Routes::new("game").route(3, |cx: &mut Log, request: &mut Request| {
        cx.line(format_args!(
            "{} {:?} {} {}",
            request.command(),
            std::str::from_utf8(request.body()),
            request.address(),
            request.endpoint()
        ));
        Ok(request.answer_code(5, "five")?)
    });
    Bench::new(routes).open(1).ask(1, 1, 3, "x").check(expect![[r#"
        3 Ok("x") 10.0.0.1:5 gate
        0 answer 1#1 5 five
    "#]]);
}

#[test]
fn unknown_command_and_failing_handlers_answer_with_codes_and_keep_the_connection() {
    let routes = Routes::new("game")
        .route(1, |_: &mut Log, _: &mut Request| Err(Failure::new("no luck")))
        .route(2, |_: &mut Log, _: &mut Request| Err(Failure::with_code(-7, "full")))
        .route(3, |_: &mut Log, _: &mut Request| panic!("bug {}", 3))
        .route(4, echo);
    Bench::new(routes)
        .open(1)
        .ask(1, 1, 99, "")
        .ask(1, 2, 1, "")
        .ask(1, 3, 2, "")
        .ask(1, 4, 3, "")
        .ask(1, 5, 4, "still here")
        .check(expect![[r#"
            0 answer 1#1 -10000 
            0 report app:1: no luck (code -10001)
            0 answer 1#2 -10001 
            0 report app:2: full (code -7)
            0 answer 1#3 -7 
            0 report app:3: panicked: bug 3 (code -10001)
            0 answer 1#4 -10001 
            handler
            0 answer 1#5 0 still here
        "#]]);
}

/// X21: errors in hooks were swallowed, so that a failing login hook let the request through.
#[test]
fn x21_failing_before_hook_stops_the_request() {
    let login = |cx: &mut Log, request: &mut Request| {
        cx.line("login check");
        match request.body() {
            b"secret" => Ok(()),
            b"panic" => panic!("check broke"),
            _ => Err(Failure::with_code(-1, "not logged in")),
        }
    };
    let later = |cx: &mut Log, _: &mut Request| {
        cx.line("later hook");
        Ok(())
    };
    let routes = Routes::new("game")
        .before_request(login)
        .before_request(later)
        .after_request(|cx: &mut Log, _: &RequestInfo, _: Option<&Failure>| {
            cx.line("after");
            Ok(())
        })
        .route(1, echo);
    Bench::new(routes)
        .open(1)
        .ask(1, 1, 1, "wrong")
        .ask(1, 2, 1, "panic")
        .ask(1, 3, 1, "secret")
        .check(expect![[r#"
            login check
            0 report app:1: not logged in (code -1)
            0 answer 1#1 -1 
            login check
            0 report app:1: panicked: check broke (code -10001)
            0 answer 1#2 -10001 
            login check
            later hook
            handler
            after
            0 answer 1#3 0 secret
        "#]]);
}

#[test]
fn before_hook_may_interrupt_with_an_answer_of_its_own() {
    let routes = Routes::new("game")
        .before_request(|_: &mut Log, request: &mut Request| {
            request.interrupt(302, "elsewhere");
            Ok(())
        })
        .route(1, echo);
    Bench::new(routes).open(1).ask(1, 1, 1, "x").check(expect![[r#"
        0 answer 1#1 302 elsewhere
    "#]]);
}

#[test]
fn first_request_hook_runs_once_and_again_after_a_failure() {
    let tries = Rc::new(RefCell::new(0));
    let hooks = Hooks::new().first_request(move |cx: &mut Log, _: &mut Request| {
        *tries.borrow_mut() += 1;
        cx.line(format_args!("first, try {}", tries.borrow()));
        if *tries.borrow() == 1 { Err(Failure::new("not ready")) } else { Ok(()) }
    });
    Bench::new(Routes::new("game").hooks(hooks).route(1, echo))
        .open(1)
        .ask(1, 1, 1, "a")
        .ask(1, 2, 1, "b")
        .ask(1, 3, 1, "c")
        .check(expect![[r#"
            first, try 1
            0 report app:1: not ready (code -10001)
            0 answer 1#1 -10001 
            first, try 2
            handler
            0 answer 1#2 0 b
            handler
            0 answer 1#3 0 c
        "#]]);
}

#[test]
fn a_request_is_answered_at_most_once() {
    let routes = Routes::new("game")
        .route(1, |cx: &mut Log, request: &mut Request| {
            request.answer("first")?;
            cx.line(format_args!("{:?}", request.answer("second")));
            cx.line(format_args!("{:?}", request.responder().map(drop)));
            Ok(())
        })
        .route(2, |cx: &mut Log, request: &mut Request| {
            cx.line(format_args!("{:?}", request.answer("to nobody")));
            Ok(())
        });
    Bench::new(routes).open(1).ask(1, 1, 1, "").send(1, None, 2, "").check(expect![[r#"
        Err(Used)
        Err(Used)
        0 answer 1#1 0 first
        Err(NotAsked)
    "#]]);
}

#[test]
fn a_responder_dropped_without_an_answer_is_an_error_at_once() {
    let routes = Routes::new("game").route(1, |_: &mut Log, _: &mut Request| Ok(())).route(
        2,
        |_: &mut Log, request: &mut Request| {
            drop(request.responder()?);
            Ok(())
        },
    );
    Bench::new(routes).open(1).ask(1, 1, 1, "").ask(1, 2, 2, "").check(expect![[r#"
        0 answer 1#1 -10002 
        0 answer 1#2 -10002 
    "#]]);
}

#[test]
fn a_responder_moved_to_a_thread_answers_from_there() {
    let held = Rc::new(RefCell::new(None));
    let keep = held.clone();
    let routes = Routes::new("game").route(1, move |cx: &mut Log, request: &mut Request| {
        *keep.borrow_mut() = Some(request.responder()?);
        cx.line("moved");
        Ok(())
    });
    let mut bench = Bench::new(routes);
    bench.open(1).ask(1, 1, 1, "");
    let responder = held.borrow_mut().take().unwrap();
    std::thread::spawn(move || responder.answer("from a thread")).join().unwrap();
    bench.drain().check(expect![[r#"
        moved
        0 answer 1#1 0 from a thread
    "#]]);
    assert_eq!(bench.router.pending(), 0);
}

#[test]
fn a_ticket_is_answered_once_or_times_out() {
    let tickets = Rc::new(RefCell::new(Vec::new()));
    let keep = tickets.clone();
    let routes = Routes::new("game").route(1, move |_: &mut Log, request: &mut Request| {
        keep.borrow_mut().push(request.responder()?.into_ticket());
        Ok(())
    });
    let mut bench = Bench::new(routes);
    bench.open(1).ask(1, 1, 1, "").ask(1, 2, 1, "");
    let ticket = tickets.borrow()[0];
    for body in ["from afar", "again"] {
        let answer = Answer { code: OK, body: body.into() };
        bench.router.handle_ticket(bench.now, &mut bench.log, ticket, answer);
    }
    bench.drain().wait(5_000).check(expect![[r#"
        0 answer 1#1 0 from afar
        4000 answer 1#2 -10003 
    "#]]);
    assert_eq!(bench.router.refused_answers(), 1);
}

#[test]
fn async_handlers_wait_side_by_side_and_fail_with_codes() {
    let routes = Routes::new("game")
        .after_request(|cx: &mut Log, info: &RequestInfo, failure: Option<&Failure>| {
            cx.line(format_args!("after {} {}", info.route, failure.is_some()));
            Ok(())
        })
        .route_async(1, |cx: Log, mut request: Request| async move {
            cx.line("begin");
            let mut turns = 0;
            std::future::poll_fn(|_| {
                turns += 1;
                if turns == 2 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            match request.body() {
                b"well" => Ok(request.answer("done")?),
                b"bug" => panic!("bug"),
                _ => Err(Failure::with_code(-9, "bad body")),
            }
        });
    Bench::new(routes)
        .open(1)
        .ask(1, 1, 1, "well")
        .ask(1, 2, 1, "other")
        .ask(1, 3, 1, "bug")
        .poll()
        .poll()
        .check(expect![[r#"
            begin
            begin
            begin
            after app:1 false
            after app:1 true
            after app:1 true
            0 answer 1#1 0 done
            0 answer 1#2 -9 
            0 report app:1: bad body (code -9)
            0 answer 1#3 -10001 
            0 report app:1: panicked: bug (code -10001)
        "#]]);
}

#[test]
fn close_follows_the_answers_of_its_turn() {
    let routes = Routes::new("game").route(1, |_: &mut Log, request: &mut Request| {
        request.close();
        Ok(request.answer("bye")?)
    });
    let mut bench = Bench::new(routes);
    bench.open(1).ask(1, 1, 1, "").check(expect![[r#"
        0 answer 1#1 0 bye
        0 close 1: closed by its handler
    "#]]);
}

#[test]
fn answers_to_a_closed_connection_go_nowhere() {
    let held = Rc::new(RefCell::new(None));
    let keep = held.clone();
    let routes = Routes::new("game").route(1, move |_: &mut Log, request: &mut Request| {
        *keep.borrow_mut() = Some(request.responder()?);
        Ok(())
    });
    let mut bench = Bench::new(routes);
    bench.open(1).ask(1, 1, 1, "");
    bench.router.handle_closed(bench.now, &mut bench.log, 1);
    held.borrow_mut().take().unwrap().answer("too late");
    bench.drain().wait(10_000).check(expect![[r#""#]]);
    assert_eq!((bench.router.pending(), bench.router.refused_answers()), (0, 1));
    assert_eq!(bench.router.poll_timeout(), None, "nothing is left behind");
}

#[test]
fn over_the_limit_a_request_is_busy() {
    let held = Rc::new(RefCell::new(Vec::new()));
    let routes = Routes::new("game").route(1, move |_: &mut Log, request: &mut Request| {
        held.borrow_mut().push(request.responder()?);
        Ok(())
    });
    let options = Options { requests_max: 2, ..Options::default() };
    let mut bench = Bench::with(routes, options);
    bench.open(1).ask(1, 1, 1, "").ask(1, 2, 1, "").ask(1, 3, 1, "");
    bench.wait(4_000).check(expect![[r#"
        0 answer 1#3 -10004 
        4000 answer 1#1 -10003 
        4000 answer 1#2 -10003 
    "#]]);
}

#[test]
fn response_hooks_change_and_veto_answers() {
    let hooks =
        Hooks::new().before_response(|_: &mut Log, _: &RequestInfo, answer: &mut Answer| {
            match &*answer.body {
                b"secret" => Err(Failure::with_code(-3, "must not leave")),
                _ => {
                    answer.body.push(b'!');
                    Ok(())
                }
            }
        });
    Bench::new(Routes::new("game").hooks(hooks).route(1, echo))
        .open(1)
        .ask(1, 1, 1, "hello")
        .ask(1, 2, 1, "secret")
        .check(expect![[r#"
            handler
            0 answer 1#1 0 hello!
            handler
            0 report before_response of app:1: must not leave (code -3)
            0 answer 1#2 -3 
        "#]]);
}

#[test]
fn repeat_timers_do_not_drift_and_go_on_after_a_failure() {
    let count = Rc::new(RefCell::new(0));
    let routes =
        Routes::new("game").repeat_timer(Duration::from_millis(300), move |cx: &mut Log| {
            *count.borrow_mut() += 1;
            cx.line(format_args!("tick {}", count.borrow()));
            if *count.borrow() == 2 { Err(Failure::new("hiccup")) } else { Ok(()) }
        });
    let mut bench = Bench::new(routes);
    bench.wait(1_000).check(expect![[r#"
        tick 1
        tick 2
        600 report repeat timer 1 of app: hiccup (code -10001)
        tick 3
    "#]]);
    // A stall of a second: one late tick, then the old rhythm.
    bench.now = Instant::from_nanos(2_050_000_000);
    bench.router.handle_timeout(bench.now, &mut bench.log);
    assert_eq!(bench.router.poll_timeout(), Some(Instant::from_nanos(2_100_000_000)));
}

#[test]
fn idle_connections_are_closed() {
    let routes = Routes::new("game").idle_timeout(Duration::from_secs(1)).route(1, echo);
    Bench::new(routes).open(1).open(2).wait(600).ask(2, 1, 1, "alive").wait(600).wait(600).check(
        expect![[r#"
            handler
            600 answer 2#1 0 alive
            1000 close 1: idle
            1600 close 2: idle
        "#]],
    );
}

#[test]
fn an_open_hook_that_fails_closes_the_connection() {
    let hooks = Hooks::new().open_connection(|_: &mut Log, peer: &Peer| match peer.connection {
        1 => Err(Failure::new("banned")),
        _ => Ok(()),
    });
    Bench::new(Routes::new("game").hooks(hooks)).open(1).open(2).check(expect![[r#"
        0 report open_connection of app: banned (code -10001)
        0 close 1: open hook failed
    "#]]);
}

#[test]
fn wrong_declarations_are_refused_at_start() {
    let start = |routes: Routes<Log>| {
        let result =
            Router::start(routes, Options::default(), Instant::ZERO, &mut Log::default(), None);
        result.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let blueprint = |name: &str, command| Blueprint::new(name).route(command, echo);
    let game = || Routes::new("game");
    let lines = [
        start(game().route(1, echo).route(1, echo)),
        start(game().route(1, echo).blueprint(blueprint("chat", 1))),
        start(game().blueprint(blueprint("chat", 1)).blueprint(blueprint("shop", 1))),
        start(game().blueprint(blueprint("chat", 1)).blueprint(blueprint("chat", 2))),
        start(game().repeat_timer(Duration::ZERO, |_: &mut Log| Ok(()))),
        start(game().idle_timeout(Duration::ZERO)),
        start(game().hooks(Hooks::new().start_worker(|_: &mut Log| Err(Failure::new("no disk"))))),
    ];
    expect![[r#"
        command 1 is handled twice: by app:1 and by app:1
        command 1 is handled twice: by app:1 and by chat:1
        command 1 is handled twice: by chat:1 and by shop:1
        blueprint chat is registered twice
        repeat timer 1 of app has a time of zero
        idle timeout of game has a time of zero
        start hook of app failed: no disk (code -10001)"#]]
    .assert_eq(&lines.join("\n"));
}
