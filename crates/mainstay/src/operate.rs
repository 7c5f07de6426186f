//! Looking at the processes of a cluster on this machine, and telling them what to do: what `mainstay status`,
//! `drain`, `restart` and `upgrade` do. It works for every game, and needs nothing but its cluster file.

mod top;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tables::{Limits, parse};

use crate::config::Developer;
use crate::control;
use crate::up::SUPERVISOR;
pub use crate::up::{Replacement, Trial};
pub use top::{stat_line, top};

/// How one process is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessState {
    /// Its name in the cluster file.
    pub name: String,
    /// `running`, `not ready` (it runs, but does not answer, is not known to the others, or its store is away),
    /// `starting`, `stopping`, `waiting` (for its restart), `crash loop`, `stopped`, or `gone` for one
    /// without a supervisor that does not answer.
    pub state: String,
    /// Its number at the system.
    pub pid: Option<u64>,
    /// How often its supervisor started it again.
    pub restarts: Option<u64>,
    /// How it ended last.
    pub ended: Option<String>,
    /// What it says of itself; nothing if it does not answer. See [`figure`](Self::figure).
    pub said: Option<Value>,
}

impl ProcessState {
    /// One of its figures: `up_s`, `cpu_ms`, `cpu_percent` (of one core, over 6 s), `memory_bytes`, `turn_ms` (for how long
    /// a worker is in one turn), `delay_ms` (how long a message waits for its worker), `turns`, `sessions`, `entities`,
    /// `scenes`, `late_steps`, `tick_lag_ms`, `rooms`, `rooms_max`, `queue` (messages that wait for services), `jobs` (jobs that wait for
    /// pull workers, of all groups; over a server all processes say the same), `mail`, `calls`, `requests`, `busy`, `discards`, `timeouts`, `panics`, `connections`,
    /// `frames`, `frames_down`.
    pub fn figure(&self, name: &str) -> Option<u64> {
        self.said.as_ref()?.get(name)?.as_u64()
    }
}

/// Why nothing could be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperateError {
    /// Correct it.
    #[error("{0}")]
    File(String),
    /// It runs on another machine, or not at all.
    #[error("nothing of {0} runs on this machine")]
    NotUp(PathBuf),
    /// What it answered.
    #[error("{0}")]
    Refused(String),
}

/// A cluster file's data folder: where its processes can be found. That of the developer whom
/// `MAINSTAY_DEVELOPER` names, or else the file.
///
/// # Errors
///
/// `File` if it cannot be read.
pub fn data_of(file: &Path) -> Result<PathBuf, OperateError> {
    data_of_developer(file, std::env::var("MAINSTAY_DEVELOPER").ok())
}

fn data_of_developer(file: &Path, named: Option<String>) -> Result<PathBuf, OperateError> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let problem = |text: String| OperateError::File(format!("{}: {text}", file.display()));
    let bytes = std::fs::read(file).map_err(|error| problem(error.to_string()))?;
    let source = file.display().to_string();
    let value = parse(&source, &bytes, &Limits::default());
    let value = value.map_err(|problem| OperateError::File(problem.to_string()))?;
    let text = |name: &str| value.get(name).and_then(|value| value.as_text());
    let data = folder.join(text("data").unwrap_or("data"));
    Ok(Developer::called(named.or_else(|| text("developer").map(str::to_owned))).folder(&data))
}

/// How the processes that keep their things in `data` are. Asks them all; each answers at once or has a second.
pub fn status(data: &Path) -> Vec<ProcessState> {
    let mut states: Vec<ProcessState> = Vec::new();
    let supervised = control::ask(data, SUPERVISOR, "status", "");
    for row in
        supervised.as_ref().and_then(|said| said["processes"].as_array()).into_iter().flatten()
    {
        let text = |name: &str| row[name].as_str().map(str::to_owned);
        states.push(ProcessState {
            name: text("name").unwrap_or_default(),
            state: text("state").unwrap_or_default(),
            pid: row["pid"].as_u64(),
            restarts: row["restarts"].as_u64(),
            ended: text("ended"),
            said: None,
        });
    }
    for name in control::names(data) {
        if !states.iter().any(|state| state.name == name) {
            states.push(ProcessState { name, state: "gone".to_owned(), ..Default::default() });
        }
    }
    std::thread::scope(|scope| {
        for state in &mut states {
            scope.spawn(|| {
                state.said = control::ask(data, &state.name, "status", "");
                if let Some(said) = state.said.as_ref().filter(|_| state.state == "gone") {
                    let waits = said["ready"] == false && !waits_of(said).is_empty();
                    state.state = if waits { "not ready" } else { "running" }.to_owned();
                    state.pid = state.figure("pid");
                }
            });
        }
    });
    states
}

/// Has a process finish: it leaves the registry, lets its clients go, saves, and ends, and its supervisor does
/// not start it again. An order that was given before changes nothing.
///
/// # Errors
///
/// `NotUp`, or `Refused` with the names there are.
pub fn drain(data: &Path, name: &str) -> Result<(), OperateError> {
    order(data, "drain", name)
}

/// Has a supervisor start a process that was drained.
///
/// # Errors
///
/// As [`drain`].
pub fn start(data: &Path, name: &str) -> Result<(), OperateError> {
    order(data, "start", name)
}

/// Has the supervisor replace processes one after the other by new ones, each started beside the old one, which
/// ends when the new one is ready. Gives the order's number for [`progress`].
///
/// # Errors
///
/// As [`drain`]; nothing has begun then.
pub fn replace(data: &Path, what: &Replacement) -> Result<u64, OperateError> {
    let said = control::ask(data, SUPERVISOR, "replace", &what.to_text())
        .ok_or_else(|| OperateError::NotUp(data.to_path_buf()))?;
    match said.get("error").and_then(Value::as_str) {
        Some(error) => Err(OperateError::Refused(error.to_owned())),
        None => Ok(said["number"].as_u64().unwrap_or_default()),
    }
}

/// How far the supervisor is with the newest order to [`replace`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Which order; 0 if there was none.
    pub number: u64,
    /// What was done, a line for each.
    pub lines: Vec<String>,
    /// Whether all is done, or it was given up.
    pub over: bool,
    /// Why it was given up.
    pub failed: Option<String>,
}

/// How far the supervisor is. `None` if none answers.
pub fn progress(data: &Path) -> Option<Progress> {
    let said = control::ask(data, SUPERVISOR, "progress", "")?;
    let lines = said["lines"].as_array().into_iter().flatten();
    Some(Progress {
        number: said["number"].as_u64()?,
        lines: lines.filter_map(|line| line.as_str().map(str::to_owned)).collect(),
        over: said["over"].as_bool().unwrap_or_default(),
        failed: said["failed"].as_str().map(str::to_owned),
    })
}

/// Marks the release that runs as final, and gives its number: older builds do not start any more, so an upgrade
/// cannot be taken back. Doing it again changes nothing.
///
/// # Errors
///
/// `NotUp`, or `Refused` while processes of several releases run, or if the game numbers none.
pub fn mark_final(data: &Path) -> Result<u64, OperateError> {
    let states = status(data);
    let running: Vec<_> = states
        .iter()
        .filter_map(|state| Some((state.name.as_str(), state.figure("release")?)))
        .collect();
    let Some((name, release)) = running.first().copied() else {
        return Err(OperateError::NotUp(data.to_path_buf()));
    };
    let refuse = |why: String| Err(OperateError::Refused(why));
    if let Some((other, differs)) = running.iter().find(|(_, other)| *other != release) {
        return refuse(format!(
            "{name} runs release {release} and {other} release {differs}: finish the upgrade first"
        ));
    }
    if release == 0 {
        return refuse("the game numbers no releases: add `.release(1)` to its `App`".to_owned());
    }
    let said = control::ask(data, name, "final", "");
    let said = said.ok_or_else(|| OperateError::NotUp(data.to_path_buf()))?;
    match (said["final_release"].as_u64(), said["error"].as_str()) {
        (Some(last), _) if last == release => Ok(last),
        (Some(last), _) => refuse(format!("release {last} is final already, {release} is older")),
        (None, error) => refuse(error.unwrap_or("it does not know this order").to_owned()),
    }
}

fn order(data: &Path, order: &str, name: &str) -> Result<(), OperateError> {
    let said = control::ask(data, SUPERVISOR, order, name)
        .or_else(|| control::ask(data, name, order, name))
        .ok_or_else(|| OperateError::NotUp(data.to_path_buf()))?;
    match said.get("error").and_then(Value::as_str) {
        Some(error) => Err(OperateError::Refused(error.to_owned())),
        None => Ok(()),
    }
}

/// A table for people. With the states of `passed` before, it shows what happened each second since.
pub fn table(states: &[ProcessState], before: Option<(&[ProcessState], Duration)>) -> String {
    let head = [
        "process", "state", "pid", "up", "restarts", "cpu", "turn", "lag", "rooms", "queue",
        "jobs", "clients", "sessions", "entities", "mail", "turns/s", "frames/s",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for state in states {
        let shown = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
        let rate = |name: &str| {
            let (states, passed) = before?;
            let old = states.iter().find(|old| old.name == state.name && old.pid == state.pid)?;
            let more = state.figure(name)?.checked_sub(old.figure(name)?)?;
            Some(more as f64 / passed.as_secs_f64().max(0.001))
        };
        let per_second =
            |name: &str| rate(name).map_or("-".to_owned(), |rate| format!("{rate:.0}"));
        let cpu = rate("cpu_ms").map_or("-".to_owned(), |rate| format!("{:.0} %", rate / 10.0));
        rows.push(vec![
            state.name.clone(),
            state.state.clone(),
            shown(state.pid),
            state.figure("up_s").map_or("-".to_owned(), |up| format!("{up} s")),
            shown(state.restarts),
            cpu,
            state.figure("turn_ms").map_or("-".to_owned(), |turn| format!("{turn} ms")),
            state.figure("tick_lag_ms").map_or("-".to_owned(), |lag| format!("{lag} ms")),
            rooms(state),
            shown(state.figure("queue")),
            shown(state.figure("jobs")),
            shown(state.figure("connections")),
            shown(state.figure("sessions")),
            shown(state.figure("entities")),
            shown(state.figure("mail")),
            per_second("turns"),
            per_second("frames"),
        ]);
    }
    let mut out = String::new();
    put_rows(&mut out, &rows);
    for state in states {
        if let Some(ended) = state.ended.as_ref().filter(|_| state.said.is_none()) {
            let _ = writeln!(out, "{} ended: {ended}", state.name);
        }
    }
    for state in states {
        for what in state.said.iter().flat_map(waits_of) {
            let _ = writeln!(out, "{} is waiting for {what}", state.name);
        }
        put_stores(&mut out, state);
    }
    out
}

/// What a process says that it waits for.
fn waits_of(said: &Value) -> Vec<&str> {
    said["waits"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Says how the servers of stores are, by the watcher that is elected.
fn put_stores(out: &mut String, state: &ProcessState) {
    let stores = state.said.as_ref().and_then(|said| said.get("stores")?.as_array());
    let elected = |store: &&Value| store["elected"].as_bool().unwrap_or_default();
    for store in stores.into_iter().flatten().filter(elected) {
        let servers = store["servers"].as_array().into_iter().flatten();
        let server = |server: &Value| {
            let text = |name: &str| server[name].as_str().unwrap_or_default().to_owned();
            format!("{} {}", text("name"), text("state"))
        };
        let servers: Vec<String> = servers.map(server).collect();
        let label = store["store"].as_str().unwrap_or_default();
        let _ = write!(out, "{label}: {}", servers.join(", "));
        let last = &store["failover"];
        if let (Some(from), Some(to), Some(stage)) =
            (last["from"].as_str(), last["to"].as_str(), last["stage"].as_str())
        {
            let _ = write!(out, "; last failover: {from} to {to}, {stage}");
        }
        let _ = writeln!(out, " (watched by {})", state.name);
    }
}

/// Rooms, and how many there may be if that is limited.
fn rooms(state: &ProcessState) -> String {
    match (state.figure("rooms"), state.figure("rooms_max")) {
        (Some(rooms), Some(max @ 1..)) => format!("{rooms}/{max}"),
        (Some(rooms), _) => rooms.to_string(),
        (None, _) => "-".to_owned(),
    }
}

/// Writes rows of equal length, the first two columns to the left.
fn put_rows(out: &mut String, rows: &[Vec<String>]) {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(at, (cell, width))| match at {
                0 | 1 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn a36_processes_of_a_developer_are_found_in_their_folder() {
        let folder = std::env::temp_dir().join(format!("mainstay-data-of-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("cluster.json");
        let found = |text: &str, named: Option<&str>| {
            std::fs::write(&file, text).unwrap();
            let data = data_of_developer(&file, named.map(str::to_owned)).unwrap();
            data.strip_prefix(&folder).unwrap().display().to_string()
        };
        assert_eq!(found("{}", None), "data");
        assert_eq!(found("{}", Some("ann")), "data/@ann");
        assert_eq!(found(r#"{"developer": "bob", "data": "kept"}"#, None), "kept/@bob");
        assert_eq!(found(r#"{"developer": "bob"}"#, Some("ann")), "data/@ann");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn k5_the_table_shows_what_happens_each_second() {
        let state = |name: &str, turns: u64, cpu: u64| ProcessState {
            name: name.to_owned(),
            state: "running".to_owned(),
            pid: Some(7),
            restarts: Some(1),
            ended: None,
            said: Some(
                json!({"waits": if name == "gate" { json!(["the coordinator"]) } else { json!([]) }, "up_s": 61, "cpu_ms": cpu, "turn_ms": 3, "turns": turns, "sessions": 2, "mail": 0,
                    "tick_lag_ms": 4, "rooms": 3, "rooms_max": 8, "queue": 5, "jobs": 9}),
            ),
        };
        let ended = Some("signal: 9 (SIGKILL)".to_owned());
        let down = ProcessState {
            name: "node-10".to_owned(),
            state: "waiting".to_owned(),
            ended,
            ..Default::default()
        };
        let mut watcher = state("watch", 0, 0);
        watcher.said = Some(json!({"stores": [
            {"store": "store", "elected": true,
             "servers": [{"name": "a:1", "state": "down"}, {"name": "b:2", "state": "primary"}],
             "failover": {"from": "a:1", "to": "b:2", "stage": "done"}},
            {"store": "stores.accounts", "elected": false, "servers": [], "failover": null},
        ]}));
        let stores = table(std::slice::from_ref(&watcher), None);
        assert_eq!(
            stores.lines().last(),
            Some(
                "store: a:1 down, b:2 primary; last failover: a:1 to b:2, done (watched by watch)"
            )
        );
        let before = [state("gate", 100, 1_000), down.clone()];
        let now = [state("gate", 350, 1_500), down];
        let shown = table(&now, Some((&before, Duration::from_millis(500))));
        expect![[r#"
            process  state    pid    up  restarts    cpu  turn   lag  rooms  queue  jobs  clients  sessions  entities  mail  turns/s  frames/s
            gate     running    7  61 s         1  100 %  3 ms  4 ms    3/8      5     9        -         2         -     0      500         -
            node-10  waiting    -     -         -      -     -     -      -      -     -        -         -         -     -        -         -
            node-10 ended: signal: 9 (SIGKILL)
            gate is waiting for the coordinator
        "#]]
        .assert_eq(&shown);
    }
}
