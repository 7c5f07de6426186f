use std::time::Duration;

use env::Instant;

/// When a process is started again, and when it is taken for stalled.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// The pause before the first restart; each further one is twice as long.
    pub pause: Duration,
    /// The longest pause.
    pub pause_max: Duration,
    /// A process that ran so long begins with the shortest pause again.
    pub steady_after: Duration,
    /// So many restarts without a steady run are an alarm.
    pub alarm_after: u32,
    /// A process is killed that says nothing, or whose worker is in one turn, for so long.
    pub stall_after: Duration,
    /// How long it may take to say something first.
    pub start_max: Duration,
    /// How long it may take to end when it is told to.
    pub stop_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            pause: Duration::from_millis(250),
            pause_max: Duration::from_secs(30),
            steady_after: Duration::from_secs(60),
            alarm_after: 5,
            stall_after: Duration::from_secs(30),
            start_max: Duration::from_secs(60),
            stop_max: Duration::from_secs(35),
        }
    }
}

/// What is to be done with a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Start it.
    Start,
    /// Tell it to end.
    Finish,
    /// End it.
    Kill(&'static str),
    /// Tell the operator that it does not stay up.
    Alarm(u32),
}

/// Looks after one process. Pure: call [`poll`](Self::poll) until it gives `None` after each input, and when
/// time has passed.
#[derive(Debug)]
pub(super) struct Minder {
    limits: Limits,
    state: State,
    wanted: bool,
    pause: Duration,
    /// Restarts since it last ran steadily, and in all.
    tries: u32,
    restarts: u32,
    alarm: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It does not run.
    Down { until: Instant },
    /// It was told to run, and said something last at `heard`.
    Up { since: Instant, heard: Option<Instant>, told: bool },
    /// It was told to end.
    Ending { by: Instant, killed: bool },
}

impl Minder {
    /// A process that is to be started at once.
    pub fn new(limits: Limits, now: Instant) -> Self {
        Minder {
            pause: limits.pause,
            limits,
            state: State::Down { until: now },
            wanted: true,
            tries: 0,
            restarts: 0,
            alarm: false,
        }
    }

    /// Whether it is to run, from now on.
    pub fn want(&mut self, now: Instant, wanted: bool) {
        if wanted && !self.wanted {
            self.pause = self.limits.pause;
            self.tries = 0;
            if let State::Down { until } = &mut self.state {
                *until = now;
            }
        }
        self.wanted = wanted;
    }

    /// Whether it is to run.
    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Whether it does not run.
    pub fn is_down(&self) -> bool {
        matches!(self.state, State::Down { .. })
    }

    /// How often it was started again.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// One word for people.
    pub fn word(&self) -> &'static str {
        match self.state {
            State::Down { .. } if !self.wanted => "stopped",
            State::Down { .. } if self.tries >= self.limits.alarm_after => "crash loop",
            State::Down { .. } => "waiting",
            State::Up { heard: None, .. } => "starting",
            State::Up { .. } => "running",
            State::Ending { .. } => "stopping",
        }
    }

    /// It has said something, and for how long a worker of it is in one turn.
    pub fn handle_heard(&mut self, now: Instant, turn: Duration) {
        if let State::Up { heard, .. } = &mut self.state
            && turn < self.limits.stall_after
        {
            *heard = Some(now);
        }
    }

    /// Another one that is ready has taken its place.
    pub fn handle_switched(&mut self, now: Instant) {
        self.pause = self.limits.pause;
        self.tries = 0;
        self.state = State::Up { since: now, heard: Some(now), told: false };
    }

    /// How long it may take to end when it is told to.
    pub fn stop_max(&self) -> Duration {
        self.limits.stop_max
    }

    /// It has ended, or could not be started.
    pub fn handle_exit(&mut self, now: Instant) {
        if let State::Up { since, .. } = self.state
            && now - since >= self.limits.steady_after
        {
            self.pause = self.limits.pause;
            self.tries = 0;
        }
        self.state = State::Down { until: now };
        if !self.wanted {
            return;
        }
        self.state = State::Down { until: now + self.pause };
        self.pause = (self.pause * 2).min(self.limits.pause_max);
        self.tries += 1;
        self.restarts += 1;
        self.alarm |= self.tries == self.limits.alarm_after;
    }

    /// What is to be done now.
    pub fn poll(&mut self, now: Instant) -> Option<Act> {
        if std::mem::take(&mut self.alarm) {
            return Some(Act::Alarm(self.tries));
        }
        match self.state {
            State::Down { until } if self.wanted && now >= until => {
                self.state = State::Up { since: now, heard: None, told: false };
                Some(Act::Start)
            }
            State::Down { .. } => None,
            State::Up { .. } if !self.wanted => {
                self.state = State::Ending { by: now + self.limits.stop_max, killed: false };
                Some(Act::Finish)
            }
            State::Up { since, heard, told: false } => {
                let (silent, why) = match heard {
                    Some(heard) => (now - heard >= self.limits.stall_after, "it has stalled"),
                    None => (now - since >= self.limits.start_max, "it did not start in time"),
                };
                if !silent {
                    return None;
                }
                self.state = State::Up { since, heard, told: true };
                Some(Act::Kill(why))
            }
            State::Ending { by, killed: false } if now >= by => {
                self.state = State::Ending { by, killed: true };
                Some(Act::Kill("it did not end in time"))
            }
            State::Up { .. } | State::Ending { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn started() -> Minder {
        let mut minder = Minder::new(Limits::default(), at(0));
        assert_eq!(minder.poll(at(0)), Some(Act::Start));
        minder
    }

    #[test]
    fn k11_pauses_between_restarts_grow_and_a_crash_loop_is_an_alarm() {
        let mut minder = started();
        let (mut now, mut pauses, mut alarms) = (0, Vec::new(), 0);
        for _ in 0..9 {
            minder.handle_exit(at(now));
            let begun = now;
            loop {
                match minder.poll(at(now)) {
                    Some(Act::Start) => break,
                    Some(Act::Alarm(tries)) => {
                        assert_eq!((tries, minder.word()), (5, "crash loop"));
                        alarms += 1;
                    }
                    Some(act) => panic!("{act:?}"),
                    None => now += 50,
                }
            }
            pauses.push(now - begun);
        }
        assert_eq!(pauses, [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        assert_eq!((alarms, minder.restarts()), (1, 9));
        // After a steady run it begins anew.
        minder.handle_heard(at(now), Duration::ZERO);
        minder.handle_exit(at(now + 60_000));
        assert_eq!(minder.poll(at(now + 60_249)), None);
        assert_eq!(minder.poll(at(now + 60_250)), Some(Act::Start));
    }

    #[test]
    fn k11_who_says_nothing_or_stays_in_one_turn_is_killed_once() {
        let mut minder = started();
        assert_eq!(minder.poll(at(59_999)), None);
        minder.handle_heard(at(50_000), Duration::ZERO);
        assert_eq!(minder.poll(at(79_999)), None);
        // It answers, but a worker of it does not come back from its turn.
        minder.handle_heard(at(79_999), Duration::from_secs(30));
        assert_eq!(minder.poll(at(80_000)), Some(Act::Kill("it has stalled")));
        assert_eq!(minder.poll(at(90_000)), None);
        let mut silent = started();
        assert_eq!(silent.poll(at(60_000)), Some(Act::Kill("it did not start in time")));
    }

    #[test]
    fn k17_one_that_is_not_wanted_ends_in_time_or_is_killed_and_stays_down() {
        let mut minder = started();
        minder.want(at(10), false);
        assert_eq!(minder.poll(at(10)), Some(Act::Finish));
        assert_eq!((minder.poll(at(35_009)), minder.word()), (None, "stopping"));
        assert_eq!(minder.poll(at(35_010)), Some(Act::Kill("it did not end in time")));
        minder.handle_exit(at(35_020));
        assert_eq!((minder.poll(at(99_000)), minder.word()), (None, "stopped"));
        minder.want(at(99_000), true);
        assert_eq!(minder.poll(at(99_000)), Some(Act::Start));
        assert_eq!(minder.restarts(), 0);
    }
}
