use std::time::Duration;

use env::WallTime;
use serde_json::{Value, json};

use super::{ProcessState, put_rows};

/// How the buckets of handling times are called; see `node::BUCKETS_US`.
const TIMES: [&str; 13] = [
    "<10us", "<50us", "<100us", "<500us", "<1ms", "<5ms", "<10ms", "<50ms", "<100ms", "<500ms",
    "<1s", "<5s", "more",
];

/// What happens in the processes, for people: with the states of `passed` before, counters are shown as what
/// was added each second; without, as totals.
pub fn top(states: &[ProcessState], before: Option<(&[ProcessState], Duration)>) -> String {
    let mut out = String::new();
    put_rows(&mut out, &processes(states, before));
    let times = times(states, before);
    if times.len() > 1 {
        out.push_str("\nmessages by the time they took\n");
        put_rows(&mut out, &times);
    }
    let work = work(states, before);
    if work.len() > 1 {
        out.push_str("\npull workers\n");
        put_rows(&mut out, &work);
    }
    out
}

/// One line of JSON with everything that the processes say, for a file.
pub fn stat_line(wall: WallTime, states: &[ProcessState]) -> String {
    let processes = states.iter().map(|state| {
        json!({
            "name": state.name, "state": state.state, "pid": state.pid,
            "restarts": state.restarts, "said": state.said,
        })
    });
    json!({"unix_ms": wall.0, "processes": processes.collect::<Vec<_>>()}).to_string()
}

/// A counter of one process: what was added each second, or all there was.
struct Counter<'a> {
    before: Option<(&'a [ProcessState], Duration)>,
    state: &'a ProcessState,
}

impl Counter<'_> {
    fn show(&self, read: impl Fn(&Value) -> Option<u64>) -> String {
        let Some(now) = self.state.said.as_ref().and_then(&read) else { return "-".to_owned() };
        let Some((states, passed)) = self.before else { return now.to_string() };
        let old =
            states.iter().find(|old| (&old.name, old.pid) == (&self.state.name, self.state.pid));
        let old = old.and_then(|old| read(old.said.as_ref()?));
        match old.and_then(|old| now.checked_sub(old)) {
            Some(more) => format!("{:.0}", more as f64 / passed.as_secs_f64().max(0.001)),
            None => "-".to_owned(),
        }
    }
}

fn processes(
    states: &[ProcessState],
    before: Option<(&[ProcessState], Duration)>,
) -> Vec<Vec<String>> {
    let head = [
        "process", "state", "cpu", "memory", "turn", "delay", "clients", "sessions", "entities",
        "scenes", "queued", "calls", "in", "out", "turns", "discards", "timeouts", "panics",
        "late",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for state in states {
        let level = |name: &str, unit: &str| {
            state.figure(name).map_or("-".to_owned(), |value| format!("{value}{unit}"))
        };
        let count = |name: &str| Counter { before, state }.show(|said| said.get(name)?.as_u64());
        let memory = state.figure("memory_bytes");
        rows.push(vec![
            state.name.clone(),
            state.state.clone(),
            level("cpu_percent", " %"),
            memory.map_or("-".to_owned(), |bytes| format!("{} MiB", bytes >> 20)),
            level("turn_ms", " ms"),
            level("delay_ms", " ms"),
            level("connections", ""),
            level("sessions", ""),
            level("entities", ""),
            level("scenes", ""),
            level("mail", ""),
            level("calls", ""),
            count("frames"),
            count("frames_down"),
            count("turns"),
            count("discards"),
            count("timeouts"),
            count("panics"),
            count("late_steps"),
        ]);
    }
    rows
}

fn times(states: &[ProcessState], before: Option<(&[ProcessState], Duration)>) -> Vec<Vec<String>> {
    let head = ["process", ""].iter().chain(&TIMES);
    let mut rows = vec![head.map(|text| (*text).to_owned()).collect::<Vec<_>>()];
    let handles = |state: &&ProcessState| {
        let handled = state.said.as_ref().and_then(|said| said.get("handled")?.as_array());
        handled.is_some_and(|all| all.iter().any(|count| count != 0))
    };
    for state in states.iter().filter(handles) {
        let counts = (0..TIMES.len()).map(|at| {
            Counter { before, state }.show(|said| said.get("handled")?.get(at)?.as_u64())
        });
        rows.push([state.name.clone(), String::new()].into_iter().chain(counts).collect());
    }
    rows
}

fn work(states: &[ProcessState], before: Option<(&[ProcessState], Duration)>) -> Vec<Vec<String>> {
    let head =
        ["process", "group", "workers", "busy", "idle", "waiting", "done", "failed", "over_limit"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for state in states {
        let groups = state.said.as_ref().and_then(|said| said.get("work")?.as_object());
        for (name, group) in groups.into_iter().flatten() {
            let level = |what: &str| group[what].as_u64().unwrap_or_default();
            let count = |what: &str| {
                Counter { before, state }
                    .show(|said| said.get("work")?.get(name)?.get(what)?.as_u64())
            };
            let (workers, busy) = (level("workers"), level("busy"));
            rows.push(vec![
                state.name.clone(),
                name.clone(),
                workers.to_string(),
                busy.to_string(),
                workers.saturating_sub(busy).to_string(),
                level("waiting").to_string(),
                count("done"),
                count("failed"),
                count("over_limit"),
            ]);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn k5_top_shows_differences_each_second_times_in_buckets_and_who_is_idle() {
        let state = |name: &str, frames: u64, quick: u64| ProcessState {
            name: name.to_owned(),
            state: "running".to_owned(),
            pid: Some(7),
            said: Some(json!({
                "cpu_percent": 31, "memory_bytes": 50 << 20, "turn_ms": 0, "delay_ms": 4, "mail": 2,
                "frames": frames, "handled": [quick, 0, 0, 0, 0, 2, 0, 0, 1, 0, 0, 0, 0],
                "work": {"mail.slow": {"workers": 4, "busy": 3, "waiting": 9, "done": quick}},
            })),
            ..ProcessState::default()
        };
        let silent = ProcessState { name: "node-2".to_owned(), ..ProcessState::default() };
        let before = [state("node-1", 100, 1_000), silent.clone()];
        let now = [state("node-1", 400, 1_500), silent];
        let shown = top(&now, Some((&before, Duration::from_millis(500))));
        expect![[r#"
            process  state     cpu  memory  turn  delay  clients  sessions  entities  scenes  queued  calls   in  out  turns  discards  timeouts  panics  late
            node-1   running  31 %  50 MiB  0 ms   4 ms        -         -         -       -       2      -  600    -      -         -         -       -     -
            node-2               -       -     -      -        -         -         -       -       -      -    -    -      -         -         -       -     -

            messages by the time they took
            process    <10us  <50us  <100us  <500us  <1ms  <5ms  <10ms  <50ms  <100ms  <500ms  <1s  <5s  more
            node-1      1000      0       0       0     0     0      0      0       0       0    0    0     0

            pull workers
            process  group      workers  busy  idle  waiting  done  failed  over_limit
            node-1   mail.slow        4     3     1        9  1000       -           -
        "#]].assert_eq(&shown);
        // A process that is another one by now has no difference to that.
        let mut other = before.clone();
        other[0].pid = Some(8);
        assert!(!top(&now, Some((&other, Duration::from_secs(1)))).contains("300"));
        let line = stat_line(WallTime(5), &now);
        assert!(line.starts_with(r#"{"unix_ms":5,"processes":[{"name":"node-1""#), "{line}");
    }
}
