use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use mainstay::Exit;
use mainstay::operate::{self, Replacement, Trial};

/// How long a supervisor may say nothing while it is at work.
const SILENCE_MAX: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub struct Restart {
    /// The process, as `mainstay status` shows it, and the cluster file; with `--rolling` only the file.
    #[arg(value_names = ["PROCESS", "FILE"], num_args = 0..=2)]
    words: Vec<String>,
    /// All processes, one after the other, gates last; stops at the first that is not well.
    #[arg(long)]
    rolling: bool,
    #[command(flatten)]
    how: How,
}

#[derive(clap::Args)]
pub struct Upgrade {
    /// The process, as `mainstay status` shows it, and the cluster file; with `--rolling` only the file.
    #[arg(value_names = ["PROCESS", "FILE"], num_args = 0..=2)]
    words: Vec<String>,
    /// All processes, one after the other, gates last.
    #[arg(long)]
    rolling: bool,
    /// The new build. Without it the file that is now where the old one was.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// So many processes are upgraded first and watched before the others follow.
    #[arg(long, default_value_t = 1, value_name = "N")]
    canary: usize,
    /// For how many seconds they are watched.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    watch: u64,
    /// Upgrades nothing: marks the release that runs as final. Older builds do not start any more.
    #[arg(long = "final", conflicts_with_all = ["rolling", "binary"])]
    is_final: bool,
    #[command(flatten)]
    how: How,
}

#[derive(clap::Args)]
struct How {
    /// Has those that cannot run beside their successors end first, with a pause.
    #[arg(long)]
    in_place: bool,
    /// For how many seconds each may be not ready.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    within: u64,
}

impl Restart {
    /// Gives the order, and shows what is done until it is over.
    pub fn run(self) -> anyhow::Result<Exit> {
        let (names, file) = whom(&self.words, self.rolling)?;
        follow(&file, &self.how.into_order(names))
    }
}

impl Upgrade {
    /// Gives the order, and shows what is done until it is over.
    pub fn run(self) -> anyhow::Result<Exit> {
        if self.is_final {
            return mark_final(&self.words);
        }
        let (names, file) = whom(&self.words, self.rolling)?;
        let binary = self.binary.map(|path| {
            std::path::absolute(&path).with_context(|| format!("cannot find {}", path.display()))
        });
        let mut order = self.how.into_order(names);
        order.upgrade = Some(Trial {
            binary: binary.transpose()?,
            canaries: self.canary,
            watch: Duration::from_secs(self.watch),
        });
        follow(&file, &order)
    }
}

impl How {
    fn into_order(self, names: Vec<String>) -> Replacement {
        let ready_max = Duration::from_secs(self.within.max(1));
        Replacement { names, in_place: self.in_place, ready_max, upgrade: None }
    }
}

/// The processes, none for all, and the file.
fn whom(words: &[String], rolling: bool) -> anyhow::Result<(Vec<String>, PathBuf)> {
    let file = |at: usize| words.get(at).map_or("cluster.json", String::as_str).into();
    match (rolling, words) {
        (true, [] | [_]) => Ok((Vec::new(), file(0))),
        (true, _) => bail!("`--rolling` is for all processes: name only the cluster file"),
        (false, []) => bail!("name a process, or say `--rolling` for all, one after the other"),
        (false, [process, ..]) => Ok((vec![process.clone()], file(1))),
    }
}

fn mark_final(words: &[String]) -> anyhow::Result<Exit> {
    if words.len() > 1 {
        bail!("`--final` is for the whole cluster: name only the cluster file");
    }
    let file = words.first().map_or("cluster.json", String::as_str);
    let release = operate::mark_final(&operate::data_of(Path::new(file))?)?;
    println!("release {release} is final");
    Ok(Exit::Well)
}

fn follow(file: &Path, order: &Replacement) -> anyhow::Result<Exit> {
    let data = operate::data_of(file)?;
    let number = operate::replace(&data, order)?;
    let (mut shown, mut heard_at) = (0, Instant::now());
    loop {
        let progress = operate::progress(&data).filter(|progress| progress.number == number);
        let Some(progress) = progress else {
            if heard_at.elapsed() > SILENCE_MAX {
                bail!("the supervisor does not answer any more; see `mainstay status`");
            }
            std::thread::sleep(Duration::from_millis(200));
            continue;
        };
        heard_at = Instant::now();
        for line in progress.lines.iter().skip(shown) {
            println!("{line}");
        }
        shown = progress.lines.len();
        if let Some(why) = progress.failed {
            println!("stopped: {why}");
            return Ok(Exit::Unfinished);
        }
        if progress.over {
            println!("done");
            return Ok(Exit::Well);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
