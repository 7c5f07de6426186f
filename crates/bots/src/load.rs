use std::time::Duration;

/// How many bots play, and when.
#[derive(Clone, Debug)]
pub struct Load {
    /// How many.
    pub players: u32,
    /// Over this time they log in, evenly.
    pub ramp: Duration,
    /// So long they play after that.
    pub steady: Duration,
    /// What disturbs them.
    pub churn: Churn,
}

/// What disturbs each bot at random; zero means never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Churn {
    /// Mean time until its connection is cut; it resumes.
    pub cut_every: Duration,
    /// Mean time until it logs out and in again.
    pub leave_every: Duration,
}

impl Load {
    /// `players` that come within `players` milliseconds and play undisturbed for `steady`.
    pub fn steady(players: u32, steady: Duration) -> Self {
        let ramp = Duration::from_millis(u64::from(players));
        Load { players, ramp, steady, churn: Churn::default() }
    }

    /// Adds disturbances.
    #[must_use]
    pub fn churn(mut self, churn: Churn) -> Self {
        self.churn = churn;
        self
    }

    /// When player `index` logs in, from the start.
    pub(crate) fn start_of(&self, index: u32) -> Duration {
        self.ramp * index / self.players.max(1)
    }
}

/// A random wait with mean `mean`: memoryless, so that disturbances do not fall in step.
pub(crate) fn wait(random: &mut env::Random, mean: Duration) -> Option<Duration> {
    if mean.is_zero() {
        return None;
    }
    let unit = (1.0 - random.unit_f64()).max(f64::MIN_POSITIVE);
    Some(mean.mul_f64(-unit.ln()))
}
