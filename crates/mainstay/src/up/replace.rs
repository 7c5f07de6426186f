//! Carries out what a [`Rollout`] decides.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::Supervisor;
use super::kept::Kept;
use super::program::Program;
use super::rollout::{Act, Build, Facts, Order, Rollout, Upgrade};

/// Lines of a rollout that are kept.
const LINES_MAX: usize = 10_000;

/// What is to be replaced by new processes of the same names, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// The processes, in any order; none means all that are to run.
    pub names: Vec<String>,
    /// Those that cannot run beside their successors may end first.
    pub in_place: bool,
    /// How long each may take until it is ready, and the cluster until all are, before the next.
    pub ready_max: Duration,
    /// Whether it is for another build that is taken back if it does badly.
    pub upgrade: Option<Trial>,
}

/// How another build is tried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The new build; without it the file that is now where the old one was.
    pub binary: Option<PathBuf>,
    /// So many processes are replaced first and watched. With 0 none waits for that.
    pub canaries: usize,
    /// For how long they are watched.
    pub watch: Duration,
}

impl Default for Replacement {
    /// All, from what is at their paths now, with a minute for each.
    fn default() -> Self {
        let ready_max = Duration::from_secs(60);
        Replacement { names: Vec::new(), in_place: false, ready_max, upgrade: None }
    }
}

impl Replacement {
    /// As text for the supervisor's port.
    pub(crate) fn to_text(&self) -> String {
        let upgrade = self.upgrade.as_ref().map(|upgrade| {
            json!({
                "binary": upgrade.binary.as_ref().map(|path| path.display().to_string()),
                "canaries": upgrade.canaries,
                "watch_ms": upgrade.watch.as_millis() as u64,
            })
        });
        let ready_max = self.ready_max.as_millis() as u64;
        json!({
            "names": self.names, "in_place": self.in_place, "ready_max_ms": ready_max,
            "upgrade": upgrade,
        })
        .to_string()
    }

    fn read(text: &str) -> Option<Replacement> {
        let value: Value = serde_json::from_str(text).ok()?;
        let name = |name: &Value| name.as_str().map(str::to_owned);
        let upgrade = value.get("upgrade").filter(|upgrade| !upgrade.is_null());
        let upgrade = upgrade.map(|upgrade| {
            Some(Trial {
                binary: upgrade["binary"].as_str().map(PathBuf::from),
                canaries: usize::try_from(upgrade["canaries"].as_u64()?).ok()?,
                watch: Duration::from_millis(upgrade["watch_ms"].as_u64()?),
            })
        });
        Some(Replacement {
            names: value["names"].as_array()?.iter().map(name).collect::<Option<_>>()?,
            in_place: value["in_place"].as_bool()?,
            ready_max: Duration::from_millis(value["ready_max_ms"].as_u64()?),
            upgrade: match upgrade {
                Some(upgrade) => Some(upgrade?),
                None => None,
            },
        })
    }
}

/// A rollout with its build and what it said.
pub(super) struct Work {
    number: u64,
    rollout: Rollout,
    /// For an upgrade: what to start. A restart takes what is at each one's path.
    program: Option<Program>,
    lines: Vec<String>,
}

impl Work {
    pub fn is_at(&self, name: &str) -> bool {
        self.rollout.outcome().is_none() && self.rollout.is_at(name)
    }
}

impl Supervisor<'_> {
    /// Answers the order to replace processes.
    pub(super) fn begin_by_order(&mut self, text: &str) -> Value {
        let begun = match Replacement::read(text) {
            Some(wish) => self.begin(&wish),
            None => Err("the order cannot be read: use the same release of `mainstay`".to_owned()),
        };
        match begun {
            Ok(number) => json!({"number": number}),
            Err(error) => json!({"error": error}),
        }
    }

    /// Begins to replace processes, as the file has them now.
    pub(super) fn begin(&mut self, wish: &Replacement) -> Result<u64, String> {
        if self.stopping.is_some() {
            return Err("all processes are stopping".to_owned());
        }
        if self.work.as_ref().is_some_and(|work| work.rollout.outcome().is_none()) {
            return Err("something is being replaced: wait until that is over".to_owned());
        }
        if let Some(name) = wish.names.iter().find(|name| self.find(name).is_none()) {
            return Err(self.no_such(name));
        }
        let members = (self.read)()?;
        for kept in &mut self.kept {
            let Some(member) = members.iter().find(|member| member.name == kept.member.name) else {
                return Err(format!(
                    "{} is not in the file any more: only `mainstay up` anew takes processes away",
                    kept.name()
                ));
            };
            kept.member = member.clone();
        }
        let chosen = |kept: &&Kept| match wish.names.is_empty() {
            // One that was drained stays down.
            true => kept.minder.is_wanted(),
            false => wish.names.iter().any(|name| name == kept.name()),
        };
        let mut chosen: Vec<&Kept> = self.kept.iter().filter(chosen).collect();
        // Gates last: clients move once, and come to nodes that are new already.
        chosen.sort_by_key(|kept| kept.member.gate);
        if let Some(down) = chosen.iter().find(|kept| !kept.minder.is_wanted()) {
            let name = down.name();
            return Err(format!("{name} is stopped: start it with `mainstay drain --undo {name}`"));
        }
        let alone: Vec<_> = chosen.iter().filter(|kept| kept.member.alone.is_some()).collect();
        if let Some((kept, why)) = alone.first().and_then(|k| Some((k, k.member.alone.as_ref()?)))
            && !wish.in_place
        {
            return Err(format!(
                "{} cannot run beside its successor: {why}. Or let it end first, with a pause: --in-place",
                kept.name()
            ));
        }
        let alone: BTreeSet<String> = alone.iter().map(|kept| kept.name().to_owned()).collect();
        let names: Vec<String> = chosen.iter().map(|kept| kept.name().to_owned()).collect();
        let program = match wish.upgrade.as_ref().map(|upgrade| &upgrade.binary) {
            None | Some(None) => {
                // Said before anything ends.
                chosen.iter().try_for_each(|kept| open(kept.program.path()).map(drop))?;
                None
            }
            Some(Some(path)) => Some(open(path)?),
        };
        for kept in &mut self.kept {
            kept.before = None;
        }
        let order = Order {
            names,
            alone,
            ready_max: wish.ready_max,
            upgrade: wish
                .upgrade
                .as_ref()
                .map(|upgrade| Upgrade { canaries: upgrade.canaries, watch: upgrade.watch }),
        };
        self.works += 1;
        let rollout = Rollout::new(order, self.clock.now());
        self.work = Some(Work { number: self.works, rollout, program, lines: Vec::new() });
        Ok(self.works)
    }

    /// What was done so far.
    pub(super) fn progress(&self) -> Value {
        let Some(work) = &self.work else { return json!({"number": 0, "lines": []}) };
        json!({
            "number": work.number,
            "lines": work.lines,
            "over": work.rollout.outcome().is_some(),
            "failed": work.rollout.outcome().and_then(|outcome| outcome.as_ref().err()),
        })
    }

    /// Goes on with what is being replaced.
    pub(super) fn replace(&mut self) {
        loop {
            let now = self.clock.now();
            let facts: Vec<Facts> = self.kept.iter().map(|kept| kept.facts(now)).collect();
            let Some(work) = &mut self.work else { return };
            if work.rollout.outcome().is_some() {
                return;
            }
            let Some(act) = work.rollout.poll(now, &facts) else {
                if let Some(Err(why)) = work.rollout.outcome() {
                    eprintln!("replacing has stopped: {why}");
                }
                return;
            };
            self.carry_out(act);
        }
    }

    /// Breaks off what is being replaced.
    pub(super) fn stop_work(&mut self, why: &str) {
        if let Some(act) = self.work.as_mut().and_then(|work| work.rollout.stop(why)) {
            self.carry_out(act);
        }
        self.kept.iter_mut().for_each(|kept| kept.returns = false);
    }

    fn carry_out(&mut self, act: Act) {
        let now = self.clock.now();
        let Some(work) = &mut self.work else { return };
        let find = |all: &mut Vec<Kept>, name: &str| all.iter().position(|k| k.name() == name);
        match act {
            Act::Say(line) => {
                println!("{line}");
                if work.lines.len() < LINES_MAX {
                    work.lines.push(line);
                }
            }
            Act::Prepare(name, build) => {
                let Some(at) = find(&mut self.kept, &name) else { return };
                let kept = &mut self.kept[at];
                let begun = build_of(kept, work.program.as_ref(), build)
                    .and_then(|program| kept.prepare(now, &self.plan, &program));
                if let Err(error) = begun {
                    kept.fail_next(error);
                }
            }
            Act::Switch(name) => {
                if let Some(at) = find(&mut self.kept, &name) {
                    self.kept[at].switch(now, &self.plan);
                }
            }
            Act::GiveUp(name) => {
                if let Some(at) = find(&mut self.kept, &name) {
                    self.kept[at].give_up(now, &self.plan);
                }
            }
            Act::End(name) => {
                if let Some(at) = find(&mut self.kept, &name) {
                    self.kept[at].returns = true;
                    self.kept[at].minder.want(now, false);
                }
            }
            Act::Begin(name, build) => {
                let Some(at) = find(&mut self.kept, &name) else { return };
                let kept = &mut self.kept[at];
                match build_of(kept, work.program.as_ref(), build) {
                    Ok(program) => {
                        kept.before = Some(std::mem::replace(&mut kept.program, program));
                    }
                    Err(error) => eprintln!("{name} starts from its old build: {error}"),
                }
                kept.returns = false;
                kept.minder.want(now, true);
            }
        }
    }

    fn find(&self, name: &str) -> Option<&Kept> {
        self.kept.iter().find(|kept| kept.name() == name)
    }
}

/// What a process is to be started from.
fn build_of(kept: &Kept, new: Option<&Program>, build: Build) -> Result<Program, String> {
    match (build, new) {
        (Build::New, Some(new)) => Ok(new.clone()),
        // Whatever is there now.
        (Build::New, None) => open(kept.program.path()),
        (Build::Old, _) => Ok(kept.before.clone().unwrap_or_else(|| kept.program.clone())),
    }
}

fn open(path: &std::path::Path) -> Result<Program, String> {
    Program::open(path).map_err(|error| format!("cannot start {}: {error}", path.display()))
}
