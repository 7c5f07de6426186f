use std::time::Duration;

use env::Instant;

/// How a scene keeps its pace.
#[derive(Clone, Copy, Debug)]
pub struct StepperOptions {
    /// Steps per second, 1 to 128.
    pub steps_per_second: u32,
    /// Most steps made up in one go after a stall; the rest is skipped, so the loop never spirals.
    pub catch_up_max: u32,
}

impl Default for StepperOptions {
    /// 20 steps a second, at most 2 made up.
    fn default() -> Self {
        StepperOptions { steps_per_second: 20, catch_up_max: 2 }
    }
}

/// Tells when the next step is due and how many are due now.
///
/// Steps stand at fixed points of the clock (`start + n × period`), so lateness never adds up.
#[derive(Debug)]
pub struct Stepper {
    options: StepperOptions,
    start: Instant,
    /// Number of the next step.
    next: u64,
    skipped: u64,
}

/// The steps that are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    /// Number of the first step to run.
    pub first: u64,
    /// How many to run, one after the other.
    pub count: u32,
    /// Steps that were dropped because the scene was too late for them.
    pub skipped: u64,
    /// How late the first due step is.
    pub late: Duration,
}

impl Stepper {
    /// Starts with step 0 at `start`.
    ///
    /// # Panics
    ///
    /// If the rate is not between 1 and 128 steps a second.
    pub fn new(options: StepperOptions, start: Instant) -> Self {
        assert!((1..=128).contains(&options.steps_per_second), "a scene runs at 1 to 128 steps/s");
        Stepper { options, start, next: 0, skipped: 0 }
    }

    /// Time between two steps.
    pub fn period(&self) -> Duration {
        Duration::from_nanos(1_000_000_000 / u64::from(self.options.steps_per_second))
    }

    /// When the next step is due.
    pub fn poll_timeout(&self) -> Instant {
        self.due_at(self.next)
    }

    /// Steps dropped since the start.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Advances to `now`: gives the steps to run now, if any.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Steps> {
        let due_at = self.poll_timeout();
        if now < due_at {
            return None;
        }
        let late = now - due_at;
        let elapsed = (now - self.start).as_nanos() * u128::from(self.options.steps_per_second);
        let due = (elapsed / 1_000_000_000) as u64 + 1 - self.next;
        let count = due.min(u64::from(self.options.catch_up_max.max(1)));
        let skipped = due - count;
        // The skipped steps are the oldest: the clients want the newest state.
        let first = self.next + skipped;
        self.next += due;
        self.skipped += skipped;
        Some(Steps { first, count: count as u32, skipped, late })
    }

    /// When `step` is, or was, due.
    pub fn at(&self, step: u64) -> Instant {
        self.due_at(step)
    }

    fn due_at(&self, step: u64) -> Instant {
        // Rounded up, so that a step that is due by this is due by the count of elapsed time too.
        let rate = u128::from(self.options.steps_per_second);
        let nanos = (u128::from(step) * 1_000_000_000).div_ceil(rate);
        self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn steps_stand_at_fixed_points_and_lateness_does_not_add_up() {
        let mut stepper = Stepper::new(StepperOptions::default(), at(1000));
        let mut trace = String::new();
        for ms in [999, 1000, 1003, 1050, 1058, 1100, 1149, 1151] {
            if let Some(steps) = stepper.handle_timeout(at(ms)) {
                trace += &format!("{ms}: {} x{} late {:?}\n", steps.first, steps.count, steps.late);
            }
        }
        expect_test::expect![[r#"
            1000: 0 x1 late 0ns
            1050: 1 x1 late 0ns
            1100: 2 x1 late 0ns
            1151: 3 x1 late 1ms
        "#]]
        .assert_eq(&trace);
    }

    #[test]
    fn a_long_stall_skips_the_oldest_steps() {
        let mut stepper = Stepper::new(StepperOptions::default(), at(0));
        stepper.handle_timeout(at(0));
        let steps = stepper.handle_timeout(at(500)).unwrap();
        assert_eq!((steps.first, steps.count, steps.skipped), (9, 2, 8));
        assert_eq!(stepper.poll_timeout(), at(550));
    }

    #[test]
    fn odd_rates_do_not_drift() {
        let options = StepperOptions { steps_per_second: 60, catch_up_max: 1 };
        let mut stepper = Stepper::new(options, at(0));
        let mut count = 0;
        let mut now = at(0);
        while now <= at(10_000) {
            count += u64::from(stepper.handle_timeout(now).is_some());
            now = stepper.poll_timeout();
        }
        assert_eq!((count, stepper.skipped()), (601, 0));
    }
}
