//! Two builds of one game in one cluster, under a supervisor: `letters-first` and `letters-next`, which has a method
//! more, one less, and a field more in its document.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mainstay::client::{Address, CallError, Event, Grant, Options, Polled};
use mainstay::env::{Clock, Random, WallTime};
use mainstay::operate::{self, Replacement, Trial};
use mainstay::prelude::*;
use mainstay::proto::MethodId;
use mainstay::proto::frame::Status;
use mainstay::proto::ticket::{Claims, TicketKeys};

const FIRST: &str = env!("CARGO_BIN_EXE_letters-first");
const NEXT: &str = env!("CARGO_BIN_EXE_letters-next");

const KEY: [u8; 32] = [0xab; 32];

/// Nothing that is waited for takes so long but by a fault.
const PATIENCE: Duration = Duration::from_secs(90);

/// The hash of a build's interface, as its clients are made for it.
fn interface(build: &str) -> u64 {
    let said = Command::new(build).arg("--schema").output().unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    u64::from_str_radix(schema["interface_hash"].as_str().unwrap(), 16).unwrap()
}

/// A gate and two nodes that are up, in a folder that goes with them.
struct Up {
    folder: PathBuf,
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Up {
    fn new(build: &str) -> Up {
        let folder =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("letters-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let key = KEY.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let store = folder.join("letters.store").display().to_string();
        let text = format!(
            r#"{{
                "cluster": "letters", "keys": {{"tickets": [{{"id": 1, "key": "{key}"}}]}},
                "store": {{"sqlite": {store:?}}}, "options": {{"registry": {{"lease": "3s"}}}},
                "processes": {{
                    "gate": {{"roles": ["gate"], "listen": {{"clients": "127.0.0.1:0", "mesh": 0}}}},
                    "node": {{"roles": ["node"], "workers": 1, "count": 2, "listen": {{"mesh": 0}}}},
                }},
            }}"#
        );
        std::fs::write(folder.join("cluster.json"), text).unwrap();
        let mut child = Command::new(build)
            .args(["--cluster", &folder.join("cluster.json").display().to_string(), "--up"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let pipes: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for pipe in pipes {
            let said = said.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    *said.lock().unwrap() += &(line + "\n");
                }
            });
        }
        let up = Up { folder, child, said };
        until(&up, "all are ready", || {
            let states = operate::status(&up.data());
            states.len() == 3 && states.iter().all(|state| state.state == "running")
        });
        up
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    fn gate(&self) -> Address {
        let states = operate::status(&self.data());
        let gate = states.iter().find(|state| state.name == "gate").unwrap();
        let said = gate.said.as_ref().unwrap();
        Address::tcp(said["addresses"][0].as_str().unwrap())
    }

    /// Has processes run from another build, one after the other, while all play; gives why it was given up.
    fn upgrade(&self, names: &[&str], build: &str, desks: &mut [Desk]) -> Option<String> {
        let trial = Trial { binary: Some(build.into()), canaries: 0, watch: Duration::default() };
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let order = Replacement { names, upgrade: Some(trial), ..Replacement::default() };
        let number = operate::replace(&self.data(), &order).unwrap();
        let mut last = operate::Progress::default();
        until(self, "an upgrade", || {
            desks.iter_mut().for_each(|desk| desk.play(self));
            last = operate::progress(&self.data()).unwrap_or_default();
            last.number == number && last.over
        });
        last.failed
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn until(up: &Up, what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what} takes too long: {}", up.said());
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A player at a desk.
struct Desk {
    polled: Polled,
    account: u64,
    /// What is to be there: counted from answers.
    letters: u64,
    seals: u64,
    answer: Answer<u64>,
}

/// An answer, once it is there; nothing if nothing is asked.
type Answer<R> = Arc<Mutex<Option<Option<Result<R, CallError>>>>>;

impl Desk {
    /// A player whose client was made for `interface`.
    fn open(address: Address, account: u64, interface: u64) -> Desk {
        let wall = Clock::system().wall();
        let expires = WallTime(wall.0 + 600_000);
        let name = "Ann".to_owned();
        let claims = Claims { account: AccountId(account), level: 0, name, issued: wall, expires };
        let grant: Grant = TicketKeys::new(vec![(1, KEY)]).issue(&mut Random::from_os(), claims);
        let mut options = Options::new(address);
        options.identity.interface = interface;
        let polled = Polled::new(options, grant);
        Desk { polled, account, letters: 0, seals: 0, answer: Answer::default() }
    }

    /// Takes what has come; the session must not have ended.
    fn poll(&mut self, up: &Up) {
        while let Some(event) = self.polled.poll() {
            let ended = matches!(event, Event::Ended { .. });
            assert!(!ended, "the session of {} has ended: {event:?} {}", self.account, up.said());
        }
    }

    /// Writes letters, one after the other: each counts once.
    fn play(&mut self, up: &Up) {
        self.poll(up);
        let answered = self.answer.lock().unwrap().as_mut().map(Option::take);
        match answered {
            None => self.begin("write", &()),
            Some(None) => {}
            Some(Some(answer)) => {
                *self.answer.lock().unwrap() = None;
                match answer {
                    Ok(letters) => {
                        let account = self.account;
                        let due = self.letters + 1;
                        assert_eq!(letters, due, "letters of {account}: {}", up.said());
                        self.letters = letters;
                    }
                    // Nothing was done.
                    Err(CallError::Refused(Status::Unavailable) | CallError::NotSent) => {}
                    Err(error) => panic!("{}: {error:?} {}", self.account, up.said()),
                }
            }
        }
    }

    fn begin(&mut self, method: &str, arguments: &impl Message) {
        *self.answer.lock().unwrap() = Some(None);
        let answer = self.answer.clone();
        let then = move |_: &mut _, reply| *answer.lock().unwrap() = Some(Some(reply));
        let method = MethodId::of(method);
        // Refused while it is not bound or too much is on its way.
        if self.polled.request_then("desk", method, arguments, then).is_err() {
            *self.answer.lock().unwrap() = None;
        }
    }

    /// Finishes the letter that is being written.
    fn rest(&mut self, up: &Up) {
        until(up, "a letter", || {
            if self.answer.lock().unwrap().is_some() {
                self.play(up);
            }
            self.answer.lock().unwrap().is_none()
        });
    }

    /// What its desk answers, once it can be reached.
    fn ask<R: Message + Send + 'static>(
        &mut self,
        up: &Up,
        method: &str,
        arguments: &impl Message,
    ) -> Result<R, CallError> {
        self.rest(up);
        let answer: Answer<R> = Answer::default();
        let mut asked = false;
        let mut told = None;
        until(up, method, || {
            self.poll(up);
            if !asked {
                let answer = answer.clone();
                let then = move |_: &mut _, reply| *answer.lock().unwrap() = Some(Some(reply));
                let method = MethodId::of(method);
                asked = self.polled.request_then("desk", method, arguments, then).is_ok();
            }
            match answer.lock().unwrap().take().flatten() {
                Some(Err(CallError::Refused(Status::Unavailable) | CallError::NotSent)) => {
                    asked = false;
                }
                other => told = other,
            }
            told.is_some()
        });
        told.unwrap()
    }

    fn release(&mut self, up: &Up) -> u32 {
        self.ask(up, "release", &()).unwrap()
    }

    fn seal(&mut self, up: &Up) {
        let seals = self.ask(up, "seal", &());
        assert_eq!(seals, Ok(self.seals + 1), "seals of {}: {}", self.account, up.said());
        self.seals += 1;
    }
}

/// What ends the session of a client that is not let in.
fn refusal(up: &Up, interface: u64) -> String {
    let mut player = Desk::open(up.gate(), 99, interface);
    let mut end = String::new();
    until(up, "a refusal", || {
        let mut events = std::iter::from_fn(|| player.polled.poll());
        let ended = events.find(|event| matches!(event, Event::Ended { .. }));
        end = ended.map_or_else(String::new, |event| format!("{event:?}"));
        !end.is_empty()
    });
    end
}

fn enter(up: &Up, accounts: std::ops::Range<u64>, interface: u64) -> Vec<Desk> {
    accounts.map(|account| Desk::open(up.gate(), account, interface)).collect()
}

/// Old and new binaries in one cluster: everybody plays on, what one side does not have is said, what is stored is
/// read by both and kept whole, and the way back is open until the new release is final.
#[test]
fn h9_old_and_new_builds_play_together_and_the_way_back_is_open_until_one_is_final() {
    const UNKNOWN: Result<u64, CallError> = Err(CallError::Refused(Status::UnknownMethod));
    let [first, next] = [FIRST, NEXT].map(interface);
    assert_ne!(first, next);
    let up = Up::new(FIRST);
    let mut desks = enter(&up, 1..9, first);
    assert!(desks.iter_mut().all(|desk| desk.release(&up) == 1));
    let told = refusal(&up, next);
    assert!(told.contains("update needed"), "{told}");

    // There, with clients of both interfaces.
    assert_eq!(up.upgrade(&[], NEXT, &mut desks), None, "{}", up.said());
    let mut visitors = enter(&up, 11..13, next);
    for desk in desks.iter_mut().chain(&mut visitors) {
        assert_eq!(desk.release(&up), 2);
        desk.seal(&up);
    }
    let told = refusal(&up, 77);
    assert!(told.contains("update needed"), "{told}");
    drop(visitors);

    // And back: what the new build stored is read by the old one, which changes it.
    assert_eq!(up.upgrade(&[], FIRST, &mut desks), None, "{}", up.said());
    assert!(desks.iter_mut().all(|desk| desk.release(&up) == 1));
    assert!(desks.iter_mut().all(|desk| desk.ask(&up, "seal", &()) == UNKNOWN));

    // One node of each, and clients of both interfaces by the old gate.
    assert_eq!(up.upgrade(&["node-1"], NEXT, &mut desks), None, "{}", up.said());
    let mut visitors = enter(&up, 21..25, next);
    let releases: Vec<u32> = desks.iter_mut().map(|desk| desk.release(&up)).collect();
    let find = |release| releases.iter().position(|other| *other == release);
    let (Some(old), Some(new)) = (find(1), find(2)) else { panic!("all are at {releases:?}") };
    for (desk, release) in desks.iter_mut().zip(&releases) {
        match release {
            1 => assert_eq!(desk.ask(&up, "seal", &()), UNKNOWN),
            // No field was lost on the way back.
            _ => desk.seal(&up),
        }
        let frank: Result<u64, CallError> = desk.ask(&up, "frank", &());
        assert_eq!(frank, if *release == 1 { Ok(desk.letters) } else { UNKNOWN });
    }
    for visitor in &mut visitors {
        match visitor.release(&up) {
            1 => assert_eq!(visitor.ask(&up, "seal", &()), UNKNOWN),
            _ => visitor.seal(&up),
        }
    }
    // Between nodes of both builds.
    for (from, to, unknown) in [(old, new, "stamps_of"), (new, old, "seals_of")] {
        let (letters, key) = (desks[to].letters, (desks[to].account,));
        let told: Result<String, CallError> = desks[from].ask(&up, "letters_of", &key);
        assert_eq!(told, Ok(letters.to_string()));
        let told: Result<String, CallError> = desks[from].ask(&up, unknown, &key);
        assert_eq!(told.as_deref(), Ok("not there"));
    }
    let error = operate::mark_final(&up.data()).unwrap_err().to_string();
    assert!(error.contains("finish the upgrade first"), "{error}");

    // The rest; then it is final.
    desks.append(&mut visitors);
    assert_eq!(up.upgrade(&["node-2", "gate"], NEXT, &mut desks), None, "{}", up.said());
    for desk in &mut desks {
        assert_eq!(desk.release(&up), 2);
        desk.seal(&up);
    }
    // Who still has the first release's client comes in, because the next one accepts it.
    let mut late = enter(&up, 31..32, first);
    assert_eq!(late[0].release(&up), 2);
    assert_eq!(operate::mark_final(&up.data()).unwrap(), 2);
    let failed = up.upgrade(&["node-1"], FIRST, &mut desks).unwrap_or_default();
    assert!(failed.contains("the successor of node-1 has ended"), "{failed} {}", up.said());
    assert!(up.said().contains("release 2 is marked final"), "{}", up.said());
    for desk in &mut desks {
        assert_eq!(desk.release(&up), 2);
        desk.seal(&up);
    }
}
