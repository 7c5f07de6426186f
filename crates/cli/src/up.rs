use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use mainstay::Exit;
use mainstay::operate;

#[derive(clap::Args)]
pub struct Up {
    /// The cluster file.
    file: PathBuf,
    /// The game's program, such as `target/release/my-game`. Without it the arena sample is run.
    #[arg(long, value_name = "PROGRAM")]
    game: Option<PathBuf>,
    /// Starts only the processes of this host, as the file calls it.
    #[arg(long)]
    host: Option<String>,
    /// Overrides a setting in each process, such as `options.log.levels=debug`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// After how many seconds a process that is silent or stuck is killed and started again.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    stall_after: u64,
}

impl Up {
    /// A game's program looks after its own processes; the arena is in this one.
    pub fn run(self) -> anyhow::Result<Exit> {
        let mut words = vec!["--cluster".to_owned(), self.file.display().to_string()];
        words.extend(["--up".to_owned(), "--stall-after".to_owned(), self.stall_after.to_string()]);
        if let Some(host) = self.host {
            words.extend(["--host".to_owned(), host]);
        }
        for setting in self.settings {
            words.extend(["--set".to_owned(), setting]);
        }
        let Some(game) = self.game else {
            words.extend(["--up-word".to_owned(), "serve".to_owned()]);
            return Ok(mainstay::run_with(arena::app(), words.into_iter(), |_| {}));
        };
        run_game(&game, &words)
    }
}

/// Becomes the game's program, so that signals and the end of this process are its own.
#[cfg(unix)]
fn run_game(game: &Path, words: &[String]) -> anyhow::Result<Exit> {
    use std::os::unix::process::CommandExt;
    let error = Command::new(game).args(words).exec();
    Err(error).with_context(|| format!("cannot run {}", game.display()))
}

#[cfg(not(unix))]
fn run_game(game: &Path, words: &[String]) -> anyhow::Result<Exit> {
    let status = Command::new(game).args(words).status();
    let status = status.with_context(|| format!("cannot run {}", game.display()))?;
    Ok(match status.code() {
        Some(0) => Exit::Well,
        Some(2) => Exit::NotStarted,
        _ => Exit::Unfinished,
    })
}

#[derive(clap::Args)]
pub struct Status {
    /// The cluster file.
    #[arg(default_value = "cluster.json")]
    file: PathBuf,
    /// Shows it anew every second, with what happens each second, until Ctrl-C.
    #[arg(long)]
    watch: bool,
}

impl Status {
    /// Ends well if all processes run.
    pub fn run(self) -> anyhow::Result<Exit> {
        let data = operate::data_of(&self.file)?;
        let mut before = operate::status(&data);
        if before.is_empty() {
            println!("nothing of {} runs on this machine", self.file.display());
            return Ok(Exit::Unfinished);
        }
        // What happens each second needs two looks.
        let mut begun = Instant::now();
        loop {
            let pause = if self.watch { 1_000 } else { 250 };
            std::thread::sleep(Duration::from_millis(pause));
            let states = operate::status(&data);
            let passed = begun.elapsed();
            begun = Instant::now();
            if self.watch {
                // Clears the screen, as `top` does.
                print!("\x1b[2J\x1b[H");
            }
            print!("{}", operate::table(&states, Some((&before, passed))));
            if !self.watch {
                let well = states.iter().all(|state| state.state == "running");
                return Ok(if well { Exit::Well } else { Exit::Unfinished });
            }
            before = states;
        }
    }
}

#[derive(clap::Args)]
pub struct Top {
    /// The cluster file.
    #[arg(default_value = "cluster.json")]
    file: PathBuf,
    /// Shows it once, after a second, and ends.
    #[arg(long)]
    once: bool,
    /// Appends a line of JSON with all figures to this file each second.
    #[arg(long, value_name = "PATH")]
    to: Option<PathBuf>,
}

impl Top {
    /// Shows what happens each second until Ctrl-C.
    pub fn run(self) -> anyhow::Result<Exit> {
        let data = operate::data_of(&self.file)?;
        let clock = mainstay::env::Clock::system();
        let mut to = match &self.to {
            None => None,
            Some(path) => {
                let opened = std::fs::OpenOptions::new().create(true).append(true).open(path);
                Some(opened.with_context(|| format!("cannot write to {}", path.display()))?)
            }
        };
        let mut before = operate::status(&data);
        if before.is_empty() {
            println!("nothing of {} runs on this machine", self.file.display());
            return Ok(Exit::Unfinished);
        }
        let mut begun = Instant::now();
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let states = operate::status(&data);
            let passed = begun.elapsed();
            begun = Instant::now();
            if let Some(to) = &mut to {
                writeln!(to, "{}", operate::stat_line(clock.wall(), &states))?;
            }
            if !self.once {
                // Clears the screen, as `top` does.
                print!("\x1b[2J\x1b[H");
            }
            print!("{}", operate::top(&states, Some((&before, passed))));
            if self.once {
                return Ok(Exit::Well);
            }
            before = states;
        }
    }
}

#[derive(clap::Args)]
pub struct Drain {
    /// The process, as `mainstay status` shows it.
    process: String,
    /// The cluster file.
    #[arg(default_value = "cluster.json")]
    file: PathBuf,
    /// Starts it again instead, after it was drained.
    #[arg(long)]
    undo: bool,
    /// For how many seconds its end is waited for.
    #[arg(long, default_value_t = 60)]
    within: u64,
}

impl Drain {
    /// Gives the order, and waits until it is done.
    pub fn run(self) -> anyhow::Result<Exit> {
        let data = operate::data_of(&self.file)?;
        match self.undo {
            true => operate::start(&data, &self.process)?,
            false => operate::drain(&data, &self.process)?,
        }
        let end = Instant::now() + Duration::from_secs(self.within);
        loop {
            let states = operate::status(&data);
            let state = states.iter().find(|state| state.name == self.process);
            let word = state.map_or("gone", |state| state.state.as_str());
            let done = match self.undo {
                true => word == "running",
                false => word == "stopped" || word == "gone",
            };
            if done {
                let ended = state.and_then(|state| state.ended.as_ref()).filter(|_| !self.undo);
                let how = ended.map(|ended| format!(": {ended}")).unwrap_or_default();
                println!("{} is {word}{how}", self.process);
                return Ok(Exit::Well);
            }
            if Instant::now() > end {
                println!("{} is still {word}; the order stands", self.process);
                return Ok(Exit::Unfinished);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
