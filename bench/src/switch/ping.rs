//! Clients that ask again as soon as they are answered, and know how long they waited.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use mainstay::client::{Event, Grant, Options, Polled, RequestId};
use mainstay::proto::MethodId;

/// Nobody waits so long but by a fault.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at all clients.
const LOOK_EVERY: Duration = Duration::from_micros(300);

/// What one asks.
#[derive(Clone, Debug)]
pub struct Question {
    pub stream: &'static str,
    pub method: &'static str,
    /// The encoded arguments.
    pub body: Vec<u8>,
    /// From an answer to the next question.
    pub pause: Duration,
}

/// One client.
pub struct Ping {
    player: Polled,
    question: Question,
    open: Option<RequestId>,
    ask_at: Instant,
    answered_at: Option<Instant>,
    first_at: Option<Instant>,
    /// The longest time from one answer to the next since it was last asked for it.
    worst: Duration,
    /// The last answer.
    answer: Vec<u8>,
    answers: u64,
    logins: u32,
}

impl Ping {
    pub fn new(options: Options, grant: Grant, question: Question) -> Ping {
        Ping {
            player: Polled::new(options, grant),
            question,
            open: None,
            ask_at: Instant::now(),
            answered_at: None,
            first_at: None,
            worst: Duration::ZERO,
            answer: Vec::new(),
            answers: 0,
            logins: 0,
        }
    }

    /// Asks for something beside; what is answered does not matter.
    pub fn order(&mut self, stream: &str, method: &str, body: &[u8]) -> anyhow::Result<()> {
        self.player.request(stream, MethodId::of(method), body, None)?;
        Ok(())
    }

    pub fn is_in(&self) -> bool {
        self.answers > 0
    }

    pub fn answer(&self) -> &[u8] {
        &self.answer
    }

    pub fn first_at(&self) -> Option<Instant> {
        self.first_at
    }

    pub fn answered_at(&self) -> Option<Instant> {
        self.answered_at
    }

    /// The longest time between two answers since this was called last.
    pub fn take_worst(&mut self) -> Duration {
        std::mem::take(&mut self.worst)
    }

    fn turn(&mut self) -> anyhow::Result<()> {
        while let Some(event) = self.player.poll() {
            match event {
                Event::Reply { request, result } if self.open == Some(request) => {
                    self.open = None;
                    let now = Instant::now();
                    match result {
                        Ok(answer) => {
                            let before = self.answered_at.replace(now).unwrap_or(now);
                            self.first_at.get_or_insert(now);
                            self.worst = self.worst.max(now - before);
                            self.answer = answer;
                            self.answers += 1;
                            self.ask_at = now + self.question.pause;
                        }
                        Err(_) => self.ask_at = now + Duration::from_millis(5),
                    }
                }
                Event::Connected { resumed: false, .. } => self.logins += 1,
                Event::Ended { end, .. } => bail!("a session has ended: {end:?}"),
                _ => {}
            }
        }
        ensure!(self.logins <= 1, "somebody had to log in again");
        if self.open.is_none() && Instant::now() >= self.ask_at {
            let Question { stream, method, body, .. } = &self.question;
            // Not bound just now: at the next turn.
            let asked = self.player.request(stream, MethodId::of(method), body, Some(PATIENCE));
            self.open = asked.ok();
        }
        Ok(())
    }
}

/// Lets all go on until `holds`.
pub fn run_until(
    pings: &mut [Ping],
    what: &str,
    mut holds: impl FnMut(&mut [Ping]) -> bool,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        for ping in pings.iter_mut() {
            ping.turn()?;
        }
        if holds(pings) {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Lets all go on for a while.
pub fn run_for(pings: &mut [Ping], time: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    run_until(pings, "a while", |_| begun.elapsed() >= time)
}
