//! What a run has shown, whichever suite it was of.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

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
