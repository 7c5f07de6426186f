//! What a run has shown, whichever suite it was of.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::player::Heard;

/// Names and how often each was seen, in an order that is the same for all runs of a suite.
#[derive(Clone, Debug, Default)]
pub struct Tally(pub Vec<(&'static str, u64)>);

impl Tally {
    /// Adds what another run has seen.
    pub fn add(&mut self, other: &Tally) {
        if self.0.is_empty() {
            self.0.clone_from(&other.0);
            return;
        }
        for ((name, count), (of, more)) in self.0.iter_mut().zip(&other.0) {
            assert_eq!(name, of, "runs of one suite count the same");
            *count += more;
        }
    }
}

/// How often the rare states were seen that a good run must come through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sights {
    pub heard: Heard,
    pub duplicates: u64,
    pub replayed: u64,
    pub repeated: u64,
    pub stale: u64,
    pub overflows: u64,
    pub resumes_refused: u64,
    pub second_logins: u64,
    pub expired: u64,
    pub logins_refused: u64,
    pub cycles: u64,
    pub timeouts: u64,
    pub chains: u64,
    pub confirmed: u64,
    pub alarms: u64,
    pub goodbyes: u64,
    pub handed_over: u64,
    pub rebuilt: u64,
    pub held: u64,
    pub passed: u64,
}

impl Sights {
    /// Names and numbers; each must be seen in a long run.
    pub fn list(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("answers", self.heard.answers),
            ("failed requests", self.heard.errors),
            ("pushes", self.heard.pushes),
            ("casts", self.heard.casts),
            ("calls to clients", self.heard.calls),
            ("... answered", self.confirmed),
            ("links of call chains", self.chains),
            ("cycles of calls", self.cycles),
            ("calls over their deadline", self.timeouts),
            ("alarms rung once", self.alarms),
            ("streams opened anew", self.heard.rebound),
            ("duplicates suppressed", self.duplicates),
            ("messages replayed", self.replayed),
            ("answers given again", self.repeated),
            ("late frames of old connections", self.stale),
            ("resumes refused", self.resumes_refused),
            ("casts missed and told so", self.heard.missed),
            ("tells of unknown outcome", self.heard.unconfirmed),
            ("overflows", self.overflows),
            ("second logins", self.second_logins),
            ("... replaced the first", self.heard.endings[0]),
            ("... refused", self.heard.endings[1]),
            ("used tickets refused", self.heard.endings[2]),
            ("clients told of a lost session", self.heard.endings[3]),
            ("resume windows over", self.expired),
            ("logins refused", self.logins_refused),
            ("goodbyes", self.goodbyes),
        ]
    }

    /// What happens only where nodes die.
    pub fn of_homes(&self) -> [(&'static str, u64); 4] {
        [
            ("sessions handed over", self.handed_over),
            ("sessions put together again", self.rebuilt),
            ("frames that waited for a session", self.held),
            ("frames passed on to a new home", self.passed),
        ]
    }
}

/// What a run has shown.
pub struct Outcome {
    pub violations: Vec<String>,
    pub faults: Tally,
    pub sights: Tally,
    pub hash: u64,
    pub simulated: Duration,
    pub notes: Vec<String>,
}

/// Plays; gives what is violated if it panics.
pub fn caught(play: impl FnOnce()) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(play)).err()?;
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    Some(format!("panic: {}", text.unwrap_or_else(|| "with no message".to_owned())))
}
