//! Restarts all processes of the reference layout, gates included, under players who number and check everything.
//!
//! Nobody may have to log in again, no request to a service may fail, and no numbered message may be lost, doubled
//! or come out of order. What players wait for meanwhile is told.

mod bot;
mod count;
mod game;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use env::Clock;
use mainstay::App;
use mainstay::bots::{Histogram, KeyGrants, Load, Options, Stopper, Summary, Swarm};
use mainstay::client::Address;
use mainstay::operate::Replacement;
use mainstay::proto::ticket::TicketKeys;
use reference::Servers;

use crate::layout::{self, Layout};
use bot::{Part, Shared, Strict};
use count::{Counts, Pauses, Sessions, demands, goal};

/// Where the kinds of [`game`] run, beside what the sample's file says.
const SETTINGS: [&str; 2] = [
    "roles.service.entities=[\"avatar\", \"clerk\", \"scale\"]",
    "roles.scene.entities=[\"lobby\", \"field\", \"desk\"]",
];
/// How long players play undisturbed first, to see what they wait for then.
const CALM: Duration = Duration::from_secs(10);
/// How long they may take to come in, and at the end to add up what they sent.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often the usual bot does something.
const TICK: Duration = Duration::from_secs(2);
/// How often a bot does that only looks how long answers take.
const PROBE_TICK: Duration = Duration::from_millis(50);
/// How often a bot of the arena steers.
const ARENA_TICK: Duration = Duration::from_millis(100);
/// So long a bot may take to come in after the one before.
const RAMP_EACH: Duration = Duration::from_millis(5);
/// What is started by names that begin so.
const ROLES: [&str; 3] = ["scene", "service", "gate"];

#[derive(Debug)]
struct Plan {
    players: u32,
    /// How many of them only look how long answers take, twenty times a second.
    probes: u32,
    /// How many of them are in an arena as well.
    arena: u32,
    rounds: u32,
    /// Only processes of these roles are restarted.
    roles: Vec<&'static str>,
    /// This one is killed in the first round: what must not happen shows then.
    kill: Option<String>,
    seed: u64,
}

/// The game of the processes: the arena, and what the strict bots play with.
pub fn app() -> App {
    game::app()
}

/// `bench rolling [--players N] [--rounds N] [--role ROLE] [--kill PROCESS] [--seed N]`.
///
/// # Errors
///
/// The layout does not start, or the players cannot come in.
pub fn run(arguments: &[&str]) -> anyhow::Result<bool> {
    let plan = read(arguments)?;
    println!("{} players, {} rounds, seed {}", plan.players, plan.rounds, plan.seed);
    let mut layout =
        Layout::start(layout::Plan { game: "rolling", settings: &SETTINGS, arguments: &[] })?;
    println!("the layout is up: {}", layout.file().display());
    let Servers { etcd, nats, postgres, redis } = &layout.servers;
    let members: Vec<u16> = etcd.iter().map(|member| member.port()).collect();
    println!(
        "etcd {members:?}, nats {}, postgres {}, redis {}",
        nats.port(),
        postgres.port(),
        redis.port()
    );
    let shared = Arc::new(Shared::default());
    let mut crowd = Crowd::start(&plan, layout.gates(), &layout.keys()?, &shared)?;
    let restarted = play(&plan, &mut layout, &mut crowd, &shared);
    // Without the counts: players still write to them while they leave.
    let (sessions, summaries) = crowd.end()?;
    shared.counts().add_not_taken(&summaries);
    let mut failed = restarted?;
    if !layout.stop()? {
        failed.push("not all ended well when they were stopped".to_owned());
    }
    let met = report(&shared.counts(), &sessions, &summaries, &failed);
    match met {
        true => layout.clear(),
        false => println!("logs are in {}", layout.data().display()),
    }
    Ok(met)
}

fn read(arguments: &[&str]) -> anyhow::Result<Plan> {
    let mut plan = Plan {
        players: 2_000,
        probes: 0,
        arena: 0,
        rounds: 5,
        roles: Vec::new(),
        kill: None,
        seed: 1,
    };
    let (mut probes, mut arena) = (None, None);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let value = *words.next().with_context(|| format!("{word} needs a value"))?;
        let number = || value.parse::<u32>().with_context(|| format!("{word} takes a number"));
        match *word {
            "--players" => plan.players = number()?,
            "--probes" => probes = Some(number()?),
            "--arena" => arena = Some(number()?),
            "--rounds" => plan.rounds = number()?,
            "--role" => {
                let role = ROLES.into_iter().find(|role| *role == value);
                plan.roles.push(role.with_context(|| format!("no role {value}: {ROLES:?}"))?);
            }
            "--kill" => plan.kill = Some(value.to_owned()),
            "--seed" => plan.seed = value.parse().context("--seed is a number")?,
            _ => bail!(
                "unknown option {word}: --players, --probes, --arena, --rounds, --role, --kill, --seed"
            ),
        }
    }
    if plan.roles.is_empty() {
        plan.roles = ROLES.to_vec();
    }
    plan.probes = probes.unwrap_or(plan.players / 50);
    plan.arena = arena.unwrap_or(plan.players / 20);
    ensure!(plan.probes + plan.arena <= plan.players, "more probes and fighters than players");
    Ok(plan)
}

/// Restarts everything while the players play; gives what went wrong with that.
fn play(
    plan: &Plan,
    layout: &mut Layout,
    crowd: &mut Crowd,
    shared: &Shared,
) -> anyhow::Result<Vec<String>> {
    let all = u64::from(plan.players);
    crowd.until("all players are in", || shared.ready.load(Ordering::Relaxed) == all)?;
    println!("all players are in");
    shared.begin("nothing");
    std::thread::sleep(CALM);
    let mut failed = Vec::new();
    let states = layout.states();
    let names: Vec<String> = states.into_iter().map(|state| state.name).collect();
    let names: Vec<String> =
        names.into_iter().filter(|name| plan.roles.contains(&role_of(name))).collect();
    for round in 1..=plan.rounds {
        let begun = Instant::now();
        let mut told = 0;
        if let Some(name) = plan.kill.as_ref().filter(|_| round == 1) {
            println!("{name} is killed");
            layout::tell("-KILL", layout.pid(name)?)?;
        }
        let what = Replacement { names: names.clone(), ..Replacement::default() };
        let progress = layout.replace(&what, |progress| {
            for line in &progress.lines[told..] {
                let starts = line.strip_prefix("the successor of ");
                if let Some(name) = starts.and_then(|line| line.strip_suffix(" starts")) {
                    shared.begin(role_of(name));
                }
                println!("{:>6.1} s  round {round}: {line}", begun.elapsed().as_secs_f64());
            }
            told = progress.lines.len();
        })?;
        if let Some(why) = progress.failed {
            println!("round {round} was given up: {why}");
            failed.push(why);
        }
        layout.until_ready(PATIENCE)?;
        let counts = shared.counts();
        println!(
            "round {round} took {:.1} s; so far {} answers of services, {} failed, {} wrong",
            begun.elapsed().as_secs_f64(),
            counts.answers,
            counts.failed.values().sum::<u64>(),
            counts.wrong,
        );
    }
    // What the last restart left has its time, too.
    std::thread::sleep(CALM);
    shared.quiet.store(true, Ordering::Relaxed);
    let settled = crowd.until("all is added up", || shared.counts().settled == all);
    if let Err(error) = settled {
        println!("{error:#}");
    }
    Ok(failed)
}

/// The role of the process of that name.
fn role_of(name: &str) -> &'static str {
    let known = ROLES.into_iter().find(|role| name.starts_with(role));
    known.unwrap_or("another")
}

/// The players: several swarms, each in a thread.
struct Crowd {
    stoppers: Vec<Stopper>,
    threads: Vec<std::thread::JoinHandle<anyhow::Result<Summary>>>,
}

impl Crowd {
    fn start(
        plan: &Plan,
        gates: &[SocketAddr],
        keys: &TicketKeys,
        shared: &Arc<Shared>,
    ) -> anyhow::Result<Crowd> {
        let usual = Part { every: 1, probes: false, arena: None };
        let fighter = Part {
            every: (TICK.as_millis() / ARENA_TICK.as_millis()) as u32,
            arena: Some(plan.arena.clamp(10, 2_000)),
            ..usual
        };
        let rest = plan.players - plan.probes - plan.arena;
        let swarms = [
            (rest, TICK, usual),
            (plan.probes, PROBE_TICK, Part { probes: true, ..usual }),
            (plan.arena, ARENA_TICK, fighter),
        ];
        let mut crowd = Crowd { stoppers: Vec::new(), threads: Vec::new() };
        let mut account = 1;
        for (at, (players, tick, part)) in swarms.into_iter().enumerate() {
            if players == 0 {
                continue;
            }
            // It is stopped long before.
            let mut load = Load::steady(players, Duration::from_secs(24 * 3_600));
            load.ramp = RAMP_EACH * players;
            let addresses = gates.iter().map(|gate| Address::tcp(gate.to_string()));
            let addresses: Vec<Address> = addresses.collect();
            let first = addresses.first().context("there is no gate")?.clone();
            let seed = plan.seed.wrapping_add(at as u64);
            let options = Options { addresses, tick, seed, ..Options::new(first, load) };
            let grants = KeyGrants::new(keys.clone(), Clock::system(), account);
            account += u64::from(players);
            let strict = {
                let shared = shared.clone();
                move |_| -> Box<dyn mainstay::bots::Script> {
                    Box::new(Strict::new(shared.clone(), part))
                }
            };
            let (tell, told) = std::sync::mpsc::channel();
            crowd.threads.push(std::thread::spawn(move || {
                let swarm = Swarm::new(options, grants, strict)?;
                let _ = tell.send(swarm.stopper());
                Ok(swarm.run(|_| {})?)
            }));
            // Without one the swarm did not begin, which its thread tells.
            crowd.stoppers.extend(told.recv());
        }
        Ok(crowd)
    }

    /// Waits until that holds.
    fn until(&mut self, what: &str, mut holds: impl FnMut() -> bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !holds() {
            ensure!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
            ensure!(!self.threads.iter().any(|t| t.is_finished()), "the players have ended");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Has all leave; gives what their drivers counted.
    fn end(self) -> anyhow::Result<(Sessions, Vec<Summary>)> {
        self.stoppers.iter().for_each(Stopper::stop);
        let mut sessions = Sessions::default();
        let mut summaries = Vec::new();
        for thread in self.threads {
            let summary = thread.join().ok().context("a swarm has panicked")??;
            sessions.players += u64::from(summary.players);
            sessions.logins += summary.logins;
            sessions.lost += summary.lost_sessions;
            sessions.resumes += summary.resumes;
            let away = summary.players - summary.connected.min(summary.players);
            sessions.failed += u64::from(summary.failed.max(away));
            sessions.wrong += summary.wrong_answers;
            summaries.push(summary);
        }
        Ok((sessions, summaries))
    }
}

/// Prints what was counted; gives whether every demand is met. Pauses are told, and decide nothing.
fn report(counts: &Counts, sessions: &Sessions, of: &[Summary], failed: &[String]) -> bool {
    println!();
    for summary in of {
        println!("{summary}\n");
    }
    let Sessions { players, logins, resumes, .. } = sessions;
    println!("{players} players, {logins} logins, {} breaks, {resumes} resumes", counts.breaks);
    println!(
        "{} answers of services, {} messages to stored entities, {} of theirs",
        counts.answers, counts.up.sent, counts.down.sent
    );
    println!(
        "{} answers of entities that are not stored, which began anew under a player {} times",
        counts.room_answers, counts.lives
    );
    for (reason, count) in &counts.room_failed {
        println!("  {count} requests and messages ended with such an entity: {reason}");
    }
    for (reason, count) in &counts.failed {
        println!("  {count} requests to services failed: {reason}");
    }
    for text in failed.iter().chain(&counts.complaints) {
        println!("  - {text}");
    }
    println!("\nwhat players waited for                        p50       p99     worst");
    for (role, pauses) in &counts.pauses {
        print_pauses(role, pauses);
    }
    println!();
    let demands = demands(counts, sessions, failed.len() as u64);
    for demand in &demands {
        let verdict = match demand.is_met() {
            true => "met".to_owned(),
            false => format!("missed by {}", demand.counted - demand.allowed),
        };
        println!("{:<62} {:>6}  {verdict}", demand.what, demand.counted);
    }
    let met = demands.iter().all(count::Demand::is_met);
    println!("\nall of them: {}", if met { "met" } else { "missed" });
    met
}

fn print_pauses(role: &str, pauses: &Pauses) {
    let lines = [
        ("longest answer of a service", &pauses.services),
        ("longest answer of an unstored entity", &pauses.rooms),
        ("from a break to the resume", &pauses.breaks),
    ];
    println!("while {role} is restarted");
    let ms = |span: Duration| format!("{:.1} ms", span.as_secs_f64() * 1e3);
    for (what, histogram) in lines {
        if histogram.count() == 0 {
            continue;
        }
        let [p50, p99, worst] = figures(histogram).map(ms);
        let goal = goal(role).map_or(String::new(), |goal| judge(histogram, goal));
        println!("  {what:<38} {p50:>10} {p99:>10} {worst:>10}  {goal}");
    }
}

fn figures(histogram: &Histogram) -> [Duration; 3] {
    [histogram.percentile(500), histogram.percentile(990), histogram.max()]
}

fn judge(histogram: &Histogram, goal: Duration) -> String {
    let p99 = histogram.percentile(990);
    if p99 <= goal {
        return format!("p99 within {goal:?}: met");
    }
    let over = p99.as_secs_f64() / goal.as_secs_f64();
    format!("p99 within {goal:?}: missed by {over:.1}x")
}
