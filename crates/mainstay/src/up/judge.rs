use std::collections::BTreeMap;

use serde_json::Value;

use super::rollout::Facts;

/// A rate or a time that is so many times that of the others is bad.
const TIMES: f64 = 2.0;
/// So many steps tell what a step takes.
const STEPS_MIN: u64 = 30;
/// So many messages tell what a message takes.
const MESSAGES_MIN: u64 = 200;
/// Below these nothing is slow, in microseconds.
const STEP_US_MIN: f64 = 300.0;
const MESSAGE_US_MIN: f64 = 500.0;

/// The middle of each bucket of handling times, in microseconds; see `node::BUCKETS_US`.
const MIDDLES_US: [f64; 13] = [
    5.0,
    30.0,
    75.0,
    300.0,
    750.0,
    3_000.0,
    7_500.0,
    30_000.0,
    75_000.0,
    300_000.0,
    750_000.0,
    3_000_000.0,
    10_000_000.0,
];

/// What a process says of its work since it started.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Figures {
    /// Which life of it.
    pub pid: u64,
    pub up_s: f64,
    pub panics: u64,
    /// Messages by the time they took.
    pub handled: [u64; MIDDLES_US.len()],
    /// By kind of scene: steps, and what one takes in microseconds as a moving mean.
    pub steps: BTreeMap<String, (u64, f64)>,
}

impl Figures {
    /// Reads them from what a process answers.
    pub fn read(said: &Value) -> Figures {
        let mut figures = Figures {
            pid: said["pid"].as_u64().unwrap_or_default(),
            up_s: said["up_ms"].as_f64().unwrap_or_default() / 1_000.0,
            panics: said["panics"].as_u64().unwrap_or_default(),
            ..Figures::default()
        };
        for (count, value) in
            figures.handled.iter_mut().zip(said["handled"].as_array().into_iter().flatten())
        {
            *count = value.as_u64().unwrap_or_default();
        }
        for (kind, value) in said["steps"].as_object().into_iter().flatten() {
            let steps = value["count"].as_u64().unwrap_or_default();
            let took = value["took_us"].as_f64().unwrap_or_default();
            figures.steps.insert(kind.clone(), (steps, took));
        }
        figures
    }

    /// What was added to `old`, or since the start if that was another life.
    fn since(&self, old: &Figures) -> Figures {
        if self.pid != old.pid {
            return self.clone();
        }
        let mut new = self.clone();
        new.up_s -= old.up_s;
        new.panics = new.panics.saturating_sub(old.panics);
        for (count, old) in new.handled.iter_mut().zip(old.handled) {
            *count = count.saturating_sub(old);
        }
        new
    }

    fn panics_each_second(&self) -> f64 {
        self.panics as f64 / self.up_s.max(1.0)
    }

    /// What a message takes about, if there were enough.
    fn message_us(&self) -> Option<f64> {
        let count: u64 = self.handled.iter().sum();
        let sum: f64 =
            self.handled.iter().zip(MIDDLES_US).map(|(count, us)| *count as f64 * us).sum();
        (count >= MESSAGES_MIN).then(|| sum / count as f64)
    }
}

/// Compares processes of a new build with those of the old one.
#[derive(Debug, Default)]
pub(super) struct Judge {
    marks: BTreeMap<String, Mark>,
}

/// How all were when a process was replaced.
#[derive(Debug)]
struct Mark {
    crashes: u32,
    figures: BTreeMap<String, Figures>,
}

impl Judge {
    /// The process called `name` is replaced now; `facts` are still those of the old one.
    pub fn mark(&mut self, name: &str, facts: &[Facts]) {
        let crashes = facts.iter().find(|fact| fact.name == name).map_or(0, |fact| fact.crashes);
        let figures = facts.iter().filter_map(|f| Some((f.name.clone(), f.figures.clone()?)));
        self.marks.insert(name.to_owned(), Mark { crashes, figures: figures.collect() });
    }

    /// What is worse with a replaced process than it was with the old one or is with the others; `is_new` says which
    /// others do not count.
    pub fn verdict(
        &self,
        name: &str,
        facts: &[Facts],
        is_new: &dyn Fn(&str) -> bool,
    ) -> Option<String> {
        let mark = self.marks.get(name)?;
        let fact = facts.iter().find(|fact| fact.name == name)?;
        if fact.crashes != mark.crashes {
            return Some(format!("it has ended: {}", fact.ended));
        }
        let now = fact.figures.as_ref()?;
        let before = mark.figures.get(name);
        if before.is_some_and(|before| now.pid == before.pid) {
            // It has not said anything since it was replaced.
            return None;
        }
        let others = facts.iter().filter(|other| other.name != name && !is_new(&other.name));
        let others =
            others.filter_map(|f| Some(f.figures.as_ref()?.since(mark.figures.get(&f.name)?)));
        let reference: Vec<Figures> = before.cloned().into_iter().chain(others).collect();
        judge(now, &reference)
    }
}

/// What is worse than with any of `reference`.
fn judge(now: &Figures, reference: &[Figures]) -> Option<String> {
    let panics = reference.iter().map(Figures::panics_each_second).fold(0.0, f64::max);
    if now.panics > 0 && now.panics_each_second() > panics * TIMES {
        return Some(format!("{} handlers panicked in {:.0} s", now.panics, now.up_s));
    }
    for (kind, (steps, took)) in &now.steps {
        let usual = reference.iter().filter_map(|old| old.steps.get(kind));
        let usual = usual.filter(|(steps, _)| *steps >= STEPS_MIN).map(|(_, took)| *took);
        let usual =
            usual.fold(None, |most: Option<f64>, took| Some(most.map_or(took, |m| m.max(took))));
        if let Some(usual) = usual
            && *steps >= STEPS_MIN
            && *took > (usual * TIMES).max(STEP_US_MIN)
        {
            return Some(format!("a step of {kind} takes {took:.0} us instead of {usual:.0}"));
        }
    }
    let usual = reference.iter().filter_map(Figures::message_us);
    let usual = usual.fold(None, |most: Option<f64>, us| Some(most.map_or(us, |m| m.max(us))))?;
    let took = now.message_us()?;
    (took > (usual * TIMES).max(MESSAGE_US_MIN))
        .then(|| format!("a message takes about {took:.0} us instead of {usual:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(panics: u64, few: [u64; 7], step: Option<(u64, f64)>) -> Figures {
        let mut handled = [0; MIDDLES_US.len()];
        handled[..7].copy_from_slice(&few);
        let steps = step.map(|step| ("field".to_owned(), step)).into_iter().collect();
        Figures { pid: 7, up_s: 20.0, panics, handled, steps }
    }

    const QUICK: [u64; 7] = [900, 100, 0, 0, 0, 0, 0];

    #[test]
    fn h9_a_build_is_bad_if_its_handlers_panic_more_than_those_of_the_others() {
        let well = figures(0, QUICK, None);
        assert_eq!(judge(&well, std::slice::from_ref(&well)), None);
        let bad = judge(&figures(3, QUICK, None), std::slice::from_ref(&well));
        assert_eq!(bad.as_deref(), Some("3 handlers panicked in 20 s"));
        // As many as there are with the old build say nothing of the new one.
        assert_eq!(judge(&figures(3, QUICK, None), &[figures(2, QUICK, None), well]), None);
    }

    #[test]
    fn h9_a_build_is_bad_if_its_steps_or_messages_take_more_than_twice_as_long() {
        let usual = [figures(0, QUICK, Some((1_000, 400.0)))];
        let step = |count, us| judge(&figures(0, QUICK, Some((count, us))), &usual);
        assert_eq!(step(500, 700.0), None);
        assert_eq!(step(29, 1_200.0), None, "too few to tell");
        let bad = "a step of field takes 1200 us instead of 400";
        assert_eq!(step(500, 1_200.0).as_deref(), Some(bad));
        // What is quick all the same is not slow.
        let quick = [figures(0, QUICK, Some((1_000, 50.0)))];
        assert_eq!(judge(&figures(0, QUICK, Some((1_000, 150.0))), &quick), None);
        let messages = |handled| judge(&figures(0, handled, None), &usual);
        assert_eq!(messages([0, 0, 0, 1_000, 0, 0, 0]), None);
        assert_eq!(messages([0, 0, 0, 0, 0, 100, 0]), None, "too few to tell");
        assert!(messages([0, 0, 0, 0, 1_000, 0, 0]).is_some());
        assert_eq!(judge(&figures(0, [0, 0, 0, 0, 0, 300, 0], None), &[]), None);
    }
}
