use std::path::Path;
use std::process::{ExitCode, Termination};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use cluster::Cluster;
use env::{Clock, Random};
use node::NodeHandle;
use ops::{Signal, Signals};
use proto::schema::Lock;
use proto::ticket::TicketKeys;
use proto::{AccountId, Incarnation};
use transport::Listeners;

use crate::arguments::{Arguments, HELP, SchemaForm, Wish};
use crate::config::{Config, Input, Process, Vault};
use crate::control::{self, Control};
use crate::line::Line;
use crate::process::{Running, Surroundings, alone_because, claims};
use crate::up::{GONE, Member, Plan, Replacement, STANDBY, SUPERVISED, SUPERVISOR};
use crate::vitals::{self, Vitals};
use crate::waiting::Waits;
use crate::{App, release};

/// The mean pause between two tries to reach what a start waits for; those of many processes spread.
const PAUSE: Duration = Duration::from_millis(500);
const SIGNAL_LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often the store is looked at.
const STORE_LOOK_EVERY: Duration = Duration::from_millis(500);

/// How a game ended, as the process's exit code: 0 well, 1 not all was finished, 2 never started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything was finished.
    Well,
    /// Something was not finished; the log lists it.
    Unfinished,
    /// It did not start; the message says why.
    NotStarted,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        match self {
            Exit::Well => ExitCode::SUCCESS,
            Exit::Unfinished => ExitCode::from(1),
            Exit::NotStarted => ExitCode::from(2),
        }
    }
}

/// Runs a game as this process's command line says, until it is told to stop.
pub fn run(app: App) -> Exit {
    run_with(app, std::env::args().skip(1), |_| {})
}

/// As [`run`], with the command line given, and `started` called when clients can come in.
pub fn run_with(
    app: App,
    arguments: impl Iterator<Item = String>,
    started: impl FnOnce(&Running),
) -> Exit {
    match begin(&app, arguments, started) {
        Ok(exit) => exit,
        Err(message) => {
            eprintln!("{message}");
            Exit::NotStarted
        }
    }
}

fn begin(
    app: &App,
    arguments: impl Iterator<Item = String>,
    started: impl FnOnce(&Running),
) -> Result<Exit, String> {
    let arguments = Arguments::parse(arguments)?;
    match &arguments.wish {
        Wish::Help => print!("{HELP}"),
        Wish::Schema(form) => print_schema(app, *form)?,
        Wish::Check => {
            let path = arguments.cluster.as_deref().ok_or("`--check` needs `--cluster FILE`")?;
            let config = Config::check(path, &app.role_names()).map_err(|e| e.to_string())?;
            config.check_app(app).map_err(|error| format!("{}: {error}", path.display()))?;
            println!("{}: {} processes, no fault found", path.display(), config.processes.len());
        }
        Wish::Show => show(app, &arguments)?,
        Wish::Ticket(account) => print_ticket(app, &arguments, *account)?,
        Wish::Up => return up(app, &arguments),
        Wish::Run => return serve(app, &arguments, started),
    }
    Ok(Exit::Well)
}

fn load(app: &App, arguments: &Arguments) -> Result<(Config, Process), String> {
    let mut settings = arguments.settings.clone();
    if arguments.cluster.is_none() {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        // Without a file all stores are files beside each other, unless they are named by hand.
        let data = arguments.data.clone().unwrap_or_else(|| "data".into());
        let is_set = |name: &&str| {
            let own = format!("stores.{name}.");
            arguments.settings.iter().any(|setting| setting.starts_with(&own))
        };
        for name in app.store_names().into_iter().filter(|name| !is_set(name)) {
            let file = data.join(format!("local.{name}.store")).display().to_string();
            settings.push(format!("stores.{name}.embedded={}", quoted(&file)));
        }
        if let Some(listen) = &arguments.listen {
            settings.push(format!("processes.local.listen.clients={}", quoted(listen)));
        }
        if let Some(data) = &arguments.data {
            settings.push(format!("data={}", quoted(&data.display().to_string())));
        }
    } else if arguments.listen.is_some() || arguments.data.is_some() {
        return Err("`--listen` and `--data` are for running without a cluster file".to_owned());
    }
    let path = arguments.cluster.as_deref();
    let input = Input::of_process(path, &settings).map_err(|error| error.to_string())?;
    let config =
        Config::from_input(&input, &app.role_names()).map_err(|error| error.to_string())?;
    let process = config.choose(arguments.process.as_deref())?.clone();
    Ok((config, process))
}

fn keys(config: &Config, data: &Path) -> Result<crate::config::Keys, String> {
    let resolved = config.keys.resolve(&Vault::system(), data, &mut Random::from_os());
    resolved.map_err(|problems| {
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        lines.join("\n")
    })
}

/// Starts all processes of the cluster file and looks after them.
fn up(app: &App, arguments: &Arguments) -> Result<Exit, String> {
    let signals =
        Signals::listen().map_err(|error| format!("cannot listen to signals: {error}"))?;
    let path = arguments.cluster.as_deref().ok_or("`--up` needs `--cluster FILE`")?;
    let read = move || {
        let config = Config::load(Some(path), &arguments.settings, &app.role_names());
        let config = config.map_err(|error| error.to_string())?;
        config.check_app(app).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok::<_, String>(config)
    };
    let config = read()?;
    // Made once, and not by each process for itself.
    keys(&config, &config.data)?;
    let members = move || {
        let config = read()?;
        let hosts = |host: &str| arguments.host.as_deref().is_none_or(|wanted| wanted == host);
        let all = config.processes.iter().filter(|process| hosts(&process.host));
        let members: Vec<Member> = all.map(|process| member_of(app, process)).collect();
        match members.is_empty() {
            false => Ok(members),
            true => {
                let host = arguments.host.clone().unwrap_or_default();
                Err(format!("{} has no process on the host {host:?}", path.display()))
            }
        }
    };
    let plan = Plan {
        file: path.to_path_buf(),
        data: config.data.clone(),
        program: arguments.up_program.clone(),
        words: arguments.up_words.clone(),
        settings: arguments.settings.clone(),
        stall_after: arguments.stall_after,
    };
    crate::up::run(plan, Box::new(members), signals)
}

/// What the supervisor has to know of a process.
fn member_of(app: &App, process: &Process) -> Member {
    let clients = process.clients.iter().map(|at| (*at, process.gate_workers.unwrap_or(1)));
    let pages = process.web.iter().chain(&process.console).map(|at| (*at, 1));
    Member {
        name: process.name.clone(),
        gate: process.runs.gate,
        data: process.runs.data,
        listen: clients.chain(pages).collect(),
        alone: alone_because(app, process),
        stop_max: process.options.drain.node_max + Duration::from_secs(5),
    }
}

/// How far the process is, for those who ask from outside.
#[derive(Clone, Default)]
struct Stage {
    waits: Waits,
    /// Once it runs: how it is, and the list of nodes.
    runs: Arc<OnceLock<(Vitals, Cluster)>>,
}

/// Lets others of this machine ask how the process is, and tell it to end. It runs without that as well.
fn open_control(stage: &Stage, process: &Process, release: u32) -> Option<Control> {
    let (stage, starting) = (stage.clone(), process.clone());
    let begun = std::time::Instant::now();
    let answer = move |order: &str, _: &str| match (order, stage.runs.get()) {
        ("status", Some((vitals, ..))) => vitals.show(),
        ("status", None) => vitals::of_start(&starting, release, begun.elapsed(), &stage.waits),
        ("final", Some((_, nodes))) => match release::mark(nodes, release) {
            Ok(()) => serde_json::json!({"final_release": release::last(nodes)}),
            Err(error) => serde_json::json!({"error": error.to_string()}),
        },
        ("final", None) => serde_json::json!({"error": "it is still starting: ask again"}),
        ("drain", _) => match ops::tell_process(std::process::id(), Signal::Finish) {
            Ok(()) => serde_json::json!({"state": "stopping"}),
            Err(error) => serde_json::json!({"error": error.to_string()}),
        },
        (other, _) => serde_json::json!({"error": format!("there is no order {other:?}")}),
    };
    // One that is to replace another is asked under a name of its own until it does.
    let name = match std::env::var_os(SUPERVISED).is_some_and(|value| value == STANDBY) {
        true => control::successor_of(&process.name),
        false => process.name.clone(),
    };
    match Control::open(&process.data, &name, Box::new(answer)) {
        Ok(control) => Some(control),
        Err(error) => {
            tracing::warn!(%error, "no port for `mainstay status` and `mainstay drain`");
            None
        }
    }
}

/// The ports that a supervisor keeps open for this process.
fn take_ports() -> Listeners {
    #[cfg(unix)]
    if is_supervised() {
        return Listeners::receive(std::io::stdin()).unwrap_or_else(|error| {
            eprintln!("no ports come from the supervisor: {error}");
            Listeners::default()
        });
    }
    Listeners::default()
}

/// Former lives of this process whose end the supervisor saw.
fn known_to_be_gone() -> Vec<Incarnation> {
    let all = std::env::var(GONE).unwrap_or_default();
    all.split(',').filter_map(|life| life.parse().ok()).map(Incarnation).collect()
}

fn is_supervised() -> bool {
    std::env::var_os(SUPERVISED).is_some()
}

/// Has the supervisor replace this process by a new one.
fn ask_for_a_successor(process: &Process) {
    if !is_supervised() {
        tracing::warn!("HUP: starting a successor needs a supervisor; going on as before");
        return;
    }
    let wish = Replacement { names: vec![process.name.clone()], ..Replacement::default() };
    let said = control::ask(&process.data, SUPERVISOR, "replace", &wish.to_text());
    match said.as_ref().map(|said| said["error"].as_str()) {
        Some(None) => tracing::info!("HUP: the supervisor starts a successor"),
        Some(Some(error)) => tracing::warn!(error, "HUP: no successor"),
        None => tracing::warn!("HUP: the supervisor does not answer; going on as before"),
    }
}

/// Hears what the supervisor says, and ends this process when it has gone, in whatever way: nobody would look
/// after it.
fn follow_supervisor() -> Line {
    let line = Line::default();
    if is_supervised() {
        let heard = line.clone();
        std::thread::spawn(move || {
            heard.follow(std::io::stdin());
            let _ = ops::tell_process(std::process::id(), Signal::Finish);
        });
    }
    line
}

fn serve(app: &App, arguments: &Arguments, started: impl FnOnce(&Running)) -> Result<Exit, String> {
    // First of all, so that a signal during the start is honoured.
    let mut signals =
        Signals::listen().map_err(|error| format!("cannot listen to signals: {error}"))?;
    let (listeners, gone) = (take_ports(), known_to_be_gone());
    let line = follow_supervisor();
    let (config, process) = load(app, arguments)?;
    let log = start_log(&process)?;
    let keys = keys(&config, &process.data)?;
    let (stage, mut control, mut told) = (Stage::default(), None, None);
    let release = app.release_number();
    let mut patience = |what: &str| {
        if waits_anew(what, &stage.waits) && control.is_none() {
            control = open_control(&stage, &process, release);
        }
        told = pause(&mut signals);
        told.is_none()
    };
    let around = Surroundings { listeners, gone, patience: Some(&mut patience) };
    let running = match Running::start_at(app, &config.cluster, &process, &keys, around) {
        Ok(running) => running,
        Err(error) => match told {
            None => return Err(format!("{} cannot start: {error}", process.name)),
            Some(signal) => {
                tracing::info!(?signal, "stopped before it ran");
                return Ok(Exit::Well);
            }
        },
    };
    for address in running.addresses() {
        println!("{} is ready: http://{address}", app.name());
    }
    tracing::info!(process = process.name, roles = ?process.roles, "started");
    stage.waits.set(None);
    let _ = stage.runs.set((Vitals::of(&running, &process), running.listing().0));
    // One that hangs while it starts says nothing, so that its supervisor ends it.
    let control = control.or_else(|| open_control(&stage, &process, release));
    started(&running);
    if let Some(gate) = running.gate() {
        line.take_over_with(gate);
    }
    if let Some(node) = running.watched() {
        std::thread::spawn(move || mind_the_store(&node));
    }
    let mut signal = signals.newest().unwrap_or_else(|| signals.wait());
    while signal == Signal::Replace {
        ask_for_a_successor(&process);
        signal = signals.wait();
    }
    let span = match signal {
        Signal::Finish => Duration::from_secs(2).min(process.options.drain.node_max),
        _ => Duration::ZERO,
    };
    tracing::info!(?signal, "stopping");
    let give_up = process.options.drain.node_max;
    std::thread::spawn(move || force(signals, give_up));
    drop(control);
    let successor = line.take_successor().filter(|_| signal == Signal::Finish);
    let stopped = running.stop_for(span, successor);
    tracing::info!(
        connections = stopped.connections,
        given = stopped.given,
        sessions = stopped.sessions,
        streams = stopped.streams,
        "stopped"
    );
    for what in &stopped.unfinished {
        tracing::error!("not finished: {what}");
    }
    if log.as_ref().is_some_and(|log| log.lost() > 0) {
        tracing::warn!("log lines were lost");
    }
    drop(log);
    Ok(if stopped.unfinished.is_empty() { Exit::Well } else { Exit::Unfinished })
}

/// Says for what the process waits, if that is news.
fn waits_anew(what: &str, waits: &Waits) -> bool {
    let is_news = waits.get().as_deref() != Some(what);
    if is_news {
        tracing::warn!("waiting for {what}");
        waits.set(Some(what.to_owned()));
    }
    is_news
}

/// Lets a moment pass before the next try. Gives the signal by which the process is to end instead.
fn pause(signals: &mut Signals) -> Option<Signal> {
    let pause = PAUSE.mul_f64(0.5 + Random::from_os().unit_f64());
    let until = std::time::Instant::now() + pause;
    loop {
        match signals.newest() {
            None | Some(Signal::Replace) => {}
            told => return told,
        }
        let left = until.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return None;
        }
        std::thread::sleep(left.min(SIGNAL_LOOK_EVERY));
    }
}

/// Ends the process when its store has failed: what is on the disk is known by a new start only.
fn mind_the_store(node: &Weak<NodeHandle>) {
    while let Some(node) = node.upgrade() {
        if let Some(reason) = node.store_failed() {
            tracing::error!(reason, "the store has failed: the process ends");
            eprintln!("the store has failed: {reason}");
            std::process::exit(1);
        }
        drop(node);
        std::thread::sleep(STORE_LOOK_EVERY);
    }
}

/// Ends the process at a second signal, or when stopping takes too long.
fn force(mut signals: Signals, most: Duration) {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        signals.wait();
        let _ = tell.send("a second signal");
    });
    let why = told.recv_timeout(most).unwrap_or("the limit for stopping");
    tracing::error!("forced to end by {why}; what was not finished is lost");
    eprintln!("forced to end by {why}");
    std::process::exit(1);
}

fn start_log(process: &Process) -> Result<Option<ops::log::Log>, String> {
    let log = &process.options.log;
    let files = log.files.then(|| ops::log::RollOptions {
        folder: process.data.join("log"),
        name: process.name.clone(),
        file_bytes_max: log.file_bytes_max,
        files_max: log.files_max,
    });
    let options = ops::log::Options {
        levels: log.levels.clone(),
        console: log.console,
        files,
        queue_lines_max: log.queue_lines_max,
    };
    match ops::log::Log::start(&options) {
        Ok(log) => Ok(Some(log)),
        // Whoever calls us as a library may have a log of its own.
        Err(ops::log::LogError::Started) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

fn show(app: &App, arguments: &Arguments) -> Result<(), String> {
    let (config, process) = load(app, arguments)?;
    for value in config.effective(&process) {
        println!("{} = {}    // {}", value.path, value.value, value.origin);
    }
    Ok(())
}

fn print_schema(app: &App, form: SchemaForm) -> Result<(), String> {
    let schema = app.schema().map_err(|error| error.to_string())?;
    match form {
        SchemaForm::Json => println!("{}", schema.to_json()),
        SchemaForm::TypeScript => print!("{}", proto::schema_ts::typescript(&schema)),
        SchemaForm::Lock => print!("{}", Lock::new(schema).render()),
    }
    Ok(())
}

fn print_ticket(app: &App, arguments: &Arguments, account: u64) -> Result<(), String> {
    let (config, process) = load(app, arguments)?;
    let keys = TicketKeys::new(keys(&config, &process.data)?.tickets);
    let name = format!("account {account}");
    let life = process.options.guests.ticket_life;
    let claims = claims(&Clock::system(), AccountId(account), &name, life);
    let grant = keys.issue(&mut Random::from_os(), claims);
    let text = web::GrantText::new(&grant);
    println!("{}", serde_json::to_string_pretty(&text).expect("plain text is JSON"));
    Ok(())
}
