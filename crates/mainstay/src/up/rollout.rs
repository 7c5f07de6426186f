use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use env::Instant;

use super::judge::{Figures, Judge};

/// What is to be replaced, and how.
#[derive(Clone, Debug)]
pub(super) struct Order {
    /// The processes, in the order of their turns.
    pub names: Vec<String>,
    /// Those of them that cannot run beside their successor: they end first.
    pub alone: BTreeSet<String>,
    /// How long a successor may take until it is ready, and the cluster until all are well.
    pub ready_max: Duration,
    /// If it is for another build.
    pub upgrade: Option<Upgrade>,
}

/// How another build is tried out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Upgrade {
    /// So many are replaced first and watched.
    pub canaries: usize,
    /// For so long.
    pub watch: Duration,
}

/// From which build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Build {
    /// The one that was ordered.
    New,
    /// The one that it ran from before.
    Old,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Start the successor of a process beside it.
    Prepare(String, Build),
    /// Make the successor the process, and tell the old one to end.
    Switch(String),
    /// End the successor; the process stays.
    GiveUp(String),
    /// Have a process end, without a successor.
    End(String),
    /// Start it again.
    Begin(String, Build),
    /// Tell people.
    Say(String),
}

/// How one process is.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub name: String,
    /// One word for people.
    pub state: &'static str,
    /// It is to run.
    pub wanted: bool,
    /// It does not run.
    pub down: bool,
    /// It runs, answers, and is ready for work.
    pub ready: bool,
    /// How often it ended by itself so far, and how last.
    pub crashes: u32,
    pub ended: String,
    pub next: Next,
    /// Its predecessor still ends.
    pub leaving: bool,
    /// What went wrong when its last predecessor ended.
    pub left: Option<String>,
    /// What it says of its work.
    pub figures: Option<Figures>,
}

/// How a successor is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Next {
    #[default]
    None,
    Starting,
    Ready,
    /// It has ended, in this way.
    Ended(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// All have to be well before the next one.
    Between {
        by: Instant,
    },
    /// A successor starts.
    Starting {
        name: String,
        by: Instant,
    },
    /// The old one leaves.
    Leaving {
        name: String,
    },
    /// One that cannot have a successor beside it ends.
    Ending {
        name: String,
    },
    /// It comes back.
    Returning {
        name: String,
        by: Instant,
        crashes: u32,
    },
    /// The first ones of a new build show how they do.
    Watching {
        until: Instant,
    },
    Over,
}

/// Replaces processes one after the other, and stops at the first that is not well; an upgrade takes back then
/// what it did. Pure: call [`poll`](Self::poll) until it gives `None`, whenever something has changed or time has passed.
#[derive(Debug)]
pub(super) struct Rollout {
    order: Order,
    queue: VecDeque<String>,
    /// Replaced so far.
    done: Vec<String>,
    judge: Judge,
    watched: bool,
    /// Why all goes back to the old build.
    back: Option<String>,
    stage: Stage,
    /// What is to be done first of all.
    acts: VecDeque<Act>,
    outcome: Option<Result<(), String>>,
}

impl Rollout {
    pub fn new(order: Order, now: Instant) -> Self {
        Rollout {
            queue: order.names.iter().cloned().collect(),
            stage: Stage::Between { by: now + order.ready_max },
            watched: order.upgrade.is_none_or(|upgrade| upgrade.canaries == 0),
            order,
            done: Vec::new(),
            judge: Judge::default(),
            back: None,
            acts: VecDeque::new(),
            outcome: None,
        }
    }

    /// How it went, when it is over.
    pub fn outcome(&self) -> Option<&Result<(), String>> {
        self.outcome.as_ref().filter(|_| self.acts.is_empty())
    }

    /// Whether it is at this process, so that nobody else may do something with it.
    pub fn is_at(&self, name: &str) -> bool {
        match &self.stage {
            Stage::Starting { name: at, .. }
            | Stage::Leaving { name: at }
            | Stage::Ending { name: at }
            | Stage::Returning { name: at, .. } => at == name,
            Stage::Between { .. } | Stage::Watching { .. } | Stage::Over => false,
        }
    }

    /// Ends it where it is.
    pub fn stop(&mut self, why: &str) -> Option<Act> {
        let act = match &self.stage {
            Stage::Starting { name, .. } => Some(Act::GiveUp(name.clone())),
            _ => None,
        };
        self.end(Err(why.to_owned()));
        act
    }

    /// What is to be done now.
    pub fn poll(&mut self, now: Instant, facts: &[Facts]) -> Option<Act> {
        loop {
            if let Some(act) = self.acts.pop_front() {
                return Some(act);
            }
            if self.outcome.is_some() {
                return None;
            }
            if self.back.is_none()
                && matches!(self.stage, Stage::Between { .. } | Stage::Watching { .. })
                && let Some(bad) = self.verdict(facts)
            {
                self.fail(now, bad);
                continue;
            }
            let before = self.stage.clone();
            self.step(now, facts);
            if before == self.stage && self.acts.is_empty() && self.outcome.is_none() {
                return None;
            }
        }
    }

    fn step(&mut self, now: Instant, facts: &[Facts]) {
        let fact = |name: &str| facts.iter().find(|fact| fact.name == name);
        match self.stage.clone() {
            Stage::Between { by } => self.begin_next(now, by, facts),
            Stage::Starting { name, by } => match fact(&name).map(|fact| &fact.next) {
                Some(Next::Ready) => {
                    self.judge.mark(&name, facts);
                    self.stage = Stage::Leaving { name: name.clone() };
                    self.acts.push_back(Act::Switch(name));
                }
                Some(Next::Ended(how)) => {
                    self.acts.push_back(Act::GiveUp(name.clone()));
                    self.fail(
                        now,
                        format!("the successor of {name} has ended: {how}; {name} stays"),
                    );
                }
                Some(Next::Starting) if now >= by => {
                    self.acts.push_back(Act::GiveUp(name.clone()));
                    let max = self.order.ready_max.as_secs();
                    let why = format!(
                        "the successor of {name} was not ready within {max} s; {name} stays"
                    );
                    self.fail(now, why);
                }
                Some(Next::Starting) => {}
                // The old one has crashed meanwhile, and its successor is there already.
                Some(Next::None) | None => {
                    self.judge.mark(&name, facts);
                    self.stage = Stage::Leaving { name };
                }
            },
            Stage::Leaving { name } => {
                let Some(fact) = fact(&name).filter(|fact| !fact.leaving) else { return };
                self.say(format!("{name} is replaced"));
                self.done.push(name.clone());
                match &fact.left {
                    Some(how) => self.fail(now, format!("the old {name} has ended badly: {how}")),
                    None => self.stage = Stage::Between { by: now + self.order.ready_max },
                }
            }
            Stage::Ending { name } => {
                let Some(fact) = fact(&name).filter(|fact| fact.down) else { return };
                let by = now + self.order.ready_max;
                self.stage = Stage::Returning { name: name.clone(), by, crashes: fact.crashes };
                self.acts.push_back(Act::Begin(name, self.build()));
            }
            Stage::Returning { name, by, crashes } => {
                let Some(fact) = fact(&name) else { return };
                if !fact.ready && fact.crashes == crashes && now < by {
                    return;
                }
                self.judge.mark(&name, facts);
                self.done.push(name.clone());
                if fact.ready && fact.crashes == crashes {
                    self.say(format!("{name} is back"));
                    self.stage = Stage::Between { by: now + self.order.ready_max };
                } else if fact.crashes != crashes {
                    self.fail(now, format!("{name} did not come back: {}", fact.ended));
                } else {
                    let max = self.order.ready_max.as_secs();
                    self.fail(now, format!("{name} was not ready again within {max} s"));
                }
            }
            Stage::Watching { until } if now >= until => {
                self.watched = true;
                self.say("the first ones do well; the others follow".to_owned());
                self.stage = Stage::Between { by: now + self.order.ready_max };
            }
            Stage::Watching { .. } | Stage::Over => {}
        }
    }

    fn begin_next(&mut self, now: Instant, by: Instant, facts: &[Facts]) {
        // On the way back nothing is waited for that may be ill because of what is taken back.
        let ill = facts.iter().find(|fact| fact.wanted && !fact.ready);
        if let (Some(ill), None) = (ill, &self.back) {
            if now >= by {
                self.fail(now, format!("{} is {}", ill.name, describe(ill)));
            }
            return;
        }
        let canaries = self.order.upgrade.map_or(0, |upgrade| upgrade.canaries);
        if let Some(upgrade) = self.order.upgrade
            && self.back.is_none()
            && !self.watched
            && (self.done.len() >= canaries || self.queue.is_empty())
        {
            let seconds = upgrade.watch.as_secs();
            self.say(format!("{} on trial for {seconds} s", self.done.join(", ")));
            self.stage = Stage::Watching { until: now + upgrade.watch };
            return;
        }
        let Some(name) = self.queue.pop_front() else {
            let back = self.back.take();
            let back = back.map(|why| format!("{why}; all run from the old build again"));
            self.end(back.map_or(Ok(()), Err));
            return;
        };
        if self.order.alone.contains(&name) {
            self.say(format!("{name} ends, and starts again after that"));
            self.stage = Stage::Ending { name: name.clone() };
            self.acts.push_back(Act::End(name));
            return;
        }
        self.say(format!("the successor of {name} starts"));
        self.stage = Stage::Starting { name: name.clone(), by: now + self.order.ready_max };
        self.acts.push_back(Act::Prepare(name, self.build()));
    }

    /// What is wrong with what was upgraded.
    fn verdict(&self, facts: &[Facts]) -> Option<String> {
        self.order.upgrade?;
        let done = |name: &str| self.done.iter().any(|done| done == name);
        facts.iter().filter(|fact| done(&fact.name)).find_map(|fact| {
            let bad = self.judge.verdict(&fact.name, facts, &done)?;
            Some(format!("{}: {bad}", fact.name))
        })
    }

    fn build(&self) -> Build {
        if self.back.is_some() { Build::Old } else { Build::New }
    }

    fn fail(&mut self, now: Instant, why: String) {
        if self.order.upgrade.is_none() || self.done.is_empty() || self.back.is_some() {
            let why = match self.back.take() {
                Some(first) => format!("{first}; going back to the old build failed too: {why}"),
                None => why,
            };
            self.end(Err(why));
            return;
        }
        self.say(format!("{why}; going back to the old build"));
        self.queue = std::mem::take(&mut self.done).into_iter().rev().collect();
        self.back = Some(why);
        self.stage = Stage::Between { by: now + self.order.ready_max };
    }

    fn say(&mut self, line: String) {
        self.acts.push_back(Act::Say(line));
    }

    fn end(&mut self, outcome: Result<(), String>) {
        self.stage = Stage::Over;
        self.outcome.get_or_insert(outcome);
    }
}

fn describe(fact: &Facts) -> String {
    match fact.state {
        "running" => "running, but not ready".to_owned(),
        state if fact.ended.is_empty() => state.to_owned(),
        state => format!("{state}; it ended last: {}", fact.ended),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    fn well(name: &str) -> Facts {
        Facts {
            name: name.to_owned(),
            state: "running",
            wanted: true,
            ready: true,
            figures: Some(Figures { pid: 1, up_s: 100.0, ..Figures::default() }),
            ..Facts::default()
        }
    }

    struct Script {
        rollout: Rollout,
        facts: Vec<Facts>,
        out: String,
    }

    impl Script {
        fn new(names: &[&str], upgrade: Option<Upgrade>) -> Script {
            let order = Order {
                names: names.iter().map(|name| (*name).to_owned()).collect(),
                alone: BTreeSet::new(),
                ready_max: Duration::from_secs(60),
                upgrade,
            };
            let facts = names.iter().map(|name| well(name)).collect();
            Script { rollout: Rollout::new(order, at(0)), facts, out: String::new() }
        }

        fn fact(&mut self, name: &str) -> &mut Facts {
            self.facts.iter_mut().find(|fact| fact.name == name).unwrap()
        }

        fn poll(&mut self, seconds: u64) {
            use std::fmt::Write;
            while let Some(act) = self.rollout.poll(at(seconds), &self.facts) {
                match &act {
                    Act::Prepare(name, _) => self.fact(name).next = Next::Starting,
                    Act::GiveUp(name) => self.fact(name).next = Next::None,
                    Act::Switch(name) => {
                        let fact = self.fact(name);
                        (fact.next, fact.leaving) = (Next::None, true);
                        if let Some(figures) = &mut fact.figures {
                            *figures = Figures { pid: figures.pid + 1, ..Figures::default() };
                        }
                    }
                    _ => {}
                }
                writeln!(self.out, "{seconds} s {act:?}").unwrap();
            }
            if let Some(outcome) = self.rollout.outcome() {
                writeln!(self.out, "{seconds} s {outcome:?}").unwrap();
            }
        }

        /// Its successor is ready at once, and the old one gone.
        fn pass(&mut self, seconds: u64, name: &str) {
            self.fact(name).next = Next::Ready;
            self.poll(seconds);
            self.fact(name).leaving = false;
            self.poll(seconds);
        }

        fn check(&self, expected: Expect) {
            expected.assert_eq(&self.out);
        }
    }

    #[test]
    fn h9_the_next_one_waits_until_the_old_one_has_left_and_all_are_well() {
        let mut script = Script::new(&["a", "b"], None);
        script.poll(0);
        script.fact("a").next = Next::Ready;
        script.poll(1);
        script.poll(20);
        script.fact("a").leaving = false;
        script.fact("b").ready = false;
        script.poll(21);
        script.fact("b").ready = true;
        script.poll(30);
        script.pass(31, "b");
        script.check(expect![[r#"
            0 s Say("the successor of a starts")
            0 s Prepare("a", New)
            1 s Switch("a")
            21 s Say("a is replaced")
            30 s Say("the successor of b starts")
            30 s Prepare("b", New)
            31 s Switch("b")
            31 s Say("b is replaced")
            31 s Ok(())
        "#]]);
    }

    #[test]
    fn h9_a_restart_stops_at_the_first_that_is_not_well() {
        let mut script = Script::new(&["a", "b"], None);
        script.poll(0);
        script.fact("a").next = Next::Ready;
        script.poll(1);
        // What the old one could not save stops it.
        script.fact("a").left = Some("not all was finished (exit 1)".to_owned());
        script.fact("a").leaving = false;
        script.poll(2);
        script.check(expect![[r#"
            0 s Say("the successor of a starts")
            0 s Prepare("a", New)
            1 s Switch("a")
            2 s Say("a is replaced")
            2 s Err("the old a has ended badly: not all was finished (exit 1)")
        "#]]);
        let mut script = Script::new(&["a", "b"], None);
        script.poll(0);
        script.pass(1, "a");
        script.fact("b").next = Next::Ended("exit status: 7".to_owned());
        script.poll(2);
        script.check(expect![[r#"
            0 s Say("the successor of a starts")
            0 s Prepare("a", New)
            1 s Switch("a")
            1 s Say("a is replaced")
            1 s Say("the successor of b starts")
            1 s Prepare("b", New)
            2 s GiveUp("b")
            2 s Err("the successor of b has ended: exit status: 7; b stays")
        "#]]);
        let mut script = Script::new(&["a", "b"], None);
        script.fact("b").ready = false;
        script.fact("b").state = "crash loop";
        script.fact("b").ended = "signal: 9".to_owned();
        script.poll(59);
        script.poll(60);
        script.check(expect![[r#"
            60 s Err("b is crash loop; it ended last: signal: 9")
        "#]]);
    }

    #[test]
    fn h9_an_upgrade_watches_the_first_and_takes_all_back_when_one_does_badly() {
        let upgrade = Upgrade { canaries: 1, watch: Duration::from_secs(30) };
        let mut script = Script::new(&["a", "b", "c"], Some(upgrade));
        script.poll(0);
        script.pass(1, "a");
        script.fact("a").figures.as_mut().unwrap().up_s = 29.0;
        script.poll(30);
        script.poll(31);
        script.pass(32, "b");
        // The second one panics when the third is on its way: all that was done is taken back.
        script.fact("b").figures.as_mut().unwrap().panics = 2;
        script.pass(33, "c");
        script.pass(34, "c");
        script.pass(35, "b");
        script.pass(36, "a");
        script.check(expect![[r#"
            0 s Say("the successor of a starts")
            0 s Prepare("a", New)
            1 s Switch("a")
            1 s Say("a is replaced")
            1 s Say("a on trial for 30 s")
            31 s Say("the first ones do well; the others follow")
            31 s Say("the successor of b starts")
            31 s Prepare("b", New)
            32 s Switch("b")
            32 s Say("b is replaced")
            32 s Say("the successor of c starts")
            32 s Prepare("c", New)
            33 s Switch("c")
            33 s Say("c is replaced")
            33 s Say("b: 2 handlers panicked in 0 s; going back to the old build")
            33 s Say("the successor of c starts")
            33 s Prepare("c", Old)
            34 s Switch("c")
            34 s Say("c is replaced")
            34 s Say("the successor of b starts")
            34 s Prepare("b", Old)
            35 s Switch("b")
            35 s Say("b is replaced")
            35 s Say("the successor of a starts")
            35 s Prepare("a", Old)
            36 s Switch("a")
            36 s Say("a is replaced")
            36 s Err("b: 2 handlers panicked in 0 s; all run from the old build again")
        "#]]);
    }
}
