//! Bots against a server behind a real port.

use std::time::Duration;

use bots::{
    Bot, Churn, GrantError, GrantSource, KeyGrants, Load, Options, Script, Summary, Swarm, Tag,
};
use client::fake::{FakeGate, STREAM, method};
use client::{Address, CallError, Event, Grant};
use proto::frame::CloseCode;
use proto::ticket::TicketKeys;

/// Echoes numbers without end, and now and then has one pushed back.
#[derive(Default)]
struct Echoes {
    next: u64,
    pushed: u64,
    heard: u64,
}

impl Echoes {
    fn ask(&mut self, bot: &mut Bot<'_>) {
        self.next += 1;
        bot.request(STREAM, method::ECHO, &(self.next,), self.next);
    }
}

impl Script for Echoes {
    fn on_connected(&mut self, bot: &mut Bot<'_>, resumed: bool) {
        if !resumed {
            *self = Echoes::default();
            self.ask(bot);
        }
    }

    fn on_reply(&mut self, bot: &mut Bot<'_>, tag: Tag, result: Result<Vec<u8>, CallError>) {
        if let Ok(body) = result {
            bot.check(proto::decode(&body) == Ok((tag,)), || format!("{tag} became {body:?}"));
        }
    }

    fn on_event(&mut self, bot: &mut Bot<'_>, event: &Event) {
        if let Event::Push { body, .. } = event {
            self.heard += 1;
            let heard = self.heard;
            bot.check(proto::decode(body) == Ok((heard,)), || format!("push {heard}: {body:?}"));
        }
    }

    fn on_tick(&mut self, bot: &mut Bot<'_>) {
        self.ask(bot);
        if bot.is_bound(STREAM) {
            self.pushed += 1;
            bot.tell(STREAM, method::PUSH, &(self.pushed,));
        }
    }
}

fn keys() -> KeyGrants {
    KeyGrants::new(TicketKeys::new(vec![(1, [3; 32])]), env::Clock::system(), 1)
}

fn options(address: Address, load: Load) -> Options {
    let mut options = Options::new(address, load);
    options.tick = Duration::from_millis(50);
    options.limits.retry_first = Duration::from_millis(10);
    options.limits.retry_max = Duration::from_millis(50);
    options
}

fn run(options: Options, script: impl FnMut(u32) -> Box<dyn Script>) -> Summary {
    Swarm::new(options, keys(), script).unwrap().run(|_| {}).unwrap()
}

fn load(players: u32, millis: u64) -> Load {
    Load::steady(players, Duration::from_millis(millis))
}

/// X43: simulated clients ran for ever without checking anything. These end, check every answer, and
/// say whether all went well.
#[test]
fn bots_check_every_answer_over_tcp_and_websocket() {
    let gate = FakeGate::start();
    let mut options = options(gate.tcp(), load(60, 600));
    options.addresses.push(gate.web_socket());
    let summary = run(options, |_| Box::new(Echoes::default()));
    assert!(summary.passed(), "{summary}");
    assert_eq!((summary.connected, summary.logins, summary.resumes), (60, 60, 0));
    assert!(summary.answers > 400 && summary.messages > 300, "{summary}");
    assert_eq!(summary.rtt.count(), summary.answers);
    assert!(summary.bytes_in_per_bot() > 100 && summary.bytes_out_per_bot() > 100);
    assert_eq!(gate.with(|server| server.bound_sessions()), 0, "all have said goodbye");
}

#[test]
fn churn_loses_no_session_and_no_answer() {
    let gate = FakeGate::start();
    let churn =
        Churn { cut_every: Duration::from_millis(150), leave_every: Duration::from_millis(400) };
    let summary =
        run(options(gate.tcp(), load(40, 1_000).churn(churn)), |_| Box::new(Echoes::default()));
    assert_eq!((summary.wrong_answers, summary.lost_sessions), (0, 0), "{summary}");
    assert!(summary.passed(), "{summary}");
    assert!(summary.resumes > 40 && summary.logins > 60, "{summary}");
}

#[test]
fn wrong_answers_are_counted() {
    struct Picky;
    impl Script for Picky {
        fn on_tick(&mut self, bot: &mut Bot<'_>) {
            bot.request(STREAM, method::ECHO, &(1u64,), 1);
        }

        fn on_reply(&mut self, bot: &mut Bot<'_>, _: Tag, result: Result<Vec<u8>, CallError>) {
            let index = bot.index();
            bot.check(index != 2 || result.is_err(), || "not what bot 2 wants".to_owned());
        }
    }
    let gate = FakeGate::start();
    let summary = run(options(gate.tcp(), load(4, 300)), |_| Box::new(Picky));
    assert!(!summary.passed() && summary.wrong_answers > 0 && summary.failed == 0, "{summary}");
    assert_eq!(summary.complaints[0], "bot 2: not what bot 2 wants");
    assert!(summary.to_string().starts_with("FAIL  4 players, 4 connected at the end, 0 failed"));
}

/// X43: simulated clients that had stopped were not noticed.
#[test]
fn bots_that_stop_have_failed() {
    struct Stops(u32);
    impl Script for Stops {
        fn on_tick(&mut self, bot: &mut Bot<'_>) {
            match self.0 {
                0 => bot.request(STREAM, method::ECHO, &(), 0),
                1 => panic!("a mistake in a script"),
                2 => bot.fail("nothing to do"),
                // Bot 3 does nothing at all.
                _ => {}
            }
        }
    }
    let gate = FakeGate::start();
    let mut options = options(gate.tcp(), load(4, 2_500));
    options.stall_after = Duration::from_millis(900);
    let summary = run(options, |index| Box::new(Stops(index)));
    assert_eq!((summary.failed, summary.connected), (3, 1), "{summary}");
    let text = summary.complaints.join("\n");
    for wanted in ["bot 1: its script panicked", "bot 2: nothing to do", "bot 3: nothing heard"] {
        assert!(text.contains(wanted), "{text}");
    }
}

#[test]
fn requests_without_an_answer_and_lost_sessions_fail_the_run() {
    struct Asks;
    impl Script for Asks {
        fn on_connected(&mut self, bot: &mut Bot<'_>, _: bool) {
            bot.request(STREAM, method::MUTE, &(), 0);
        }
    }
    let gate = FakeGate::start();
    let mut quick = options(gate.tcp(), load(3, 400));
    quick.limits.request_wait = Duration::from_millis(100);
    let summary = run(quick.clone(), |_| Box::new(Asks));
    assert_eq!(summary.failed_requests["timeout"], 3, "{summary}");
    assert!(!summary.passed());

    struct Kicks;
    impl Script for Kicks {}
    gate.with(|server| server.forgets = true);
    let churn = Churn { cut_every: Duration::from_millis(50), ..Churn::default() };
    quick.load = quick.load.churn(churn);
    let summary = run(quick, |_| Box::new(Kicks));
    assert!(summary.lost_sessions >= 3 && !summary.passed(), "{summary}");
}

#[test]
fn bots_without_ticket_or_server_have_failed() {
    struct Nothing;
    impl GrantSource for Nothing {
        fn grant(&mut self, index: u32) -> Result<Grant, GrantError> {
            match index {
                0 => Err(GrantError::Malformed("closed".into())),
                _ => keys().grant(index).map(|grant| Grant { ticket: b"bad".to_vec(), ..grant }),
            }
        }
    }
    let gate = FakeGate::start();
    let mut options = options(gate.tcp(), load(2, 200));
    options.settle_wait = Duration::from_millis(100);
    let swarm = Swarm::new(options.clone(), Nothing, |_| Box::new(Echoes::default())).unwrap();
    let summary = swarm.run(|_| {}).unwrap();
    assert_eq!((summary.failed, summary.connected), (2, 0), "{summary}");
    assert!(summary.grant_failures > 0);

    gate.with(|server| server.close_all(CloseCode::Kicked));
    drop(gate);
    let summary = run(options, |_| Box::new(Echoes::default()));
    assert_eq!((summary.failed, summary.connected), (2, 0), "{summary}");
}

#[test]
fn a_swarm_can_be_stopped_early() {
    let gate = FakeGate::start();
    let load = Load { ramp: Duration::from_secs(3_600), ..load(1_000, 3_600_000) };
    let options = options(gate.tcp(), load);
    let swarm = Swarm::new(options, keys(), |_| Box::new(Echoes::default())).unwrap();
    let stopper = swarm.stopper();
    let mut lines = Vec::new();
    let summary = swarm
        .run(|progress| {
            lines.push(progress.to_string());
            stopper.stop();
        })
        .unwrap();
    assert!(summary.passed() && summary.players == 1, "{summary}");
    assert!(lines[0].starts_with("   1s  1/1 connected"), "{lines:?}");
}
