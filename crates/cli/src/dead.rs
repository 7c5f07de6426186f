use anyhow::{Context, bail, ensure};
use mainstay::Exit;
use mainstay::bus::{Answer, Bus, Dead, Error, is_pattern, matches};
use mainstay::env::Clock;

use crate::trigger::Place;

/// More than this many are not read at once: each may be as long as a message.
const LETTERS_MAX: usize = 10_000;

#[derive(clap::Args)]
pub struct DeadLetters {
    #[command(subcommand)]
    act: Act,
}

#[derive(clap::Subcommand)]
enum Act {
    /// Lists them, the oldest first: id, subject, group, attempts, bytes and cause.
    List {
        #[command(flatten)]
        which: Which,
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Shows what each says, too.
        #[arg(long)]
        bodies: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Gives them once more to the group that failed over them, and to nobody else.
    ///
    /// Mend the cause first: one that fails as often again is a dead letter again. One whose group the bus
    /// has forgotten, because nobody was in it for long, stays until somebody is.
    Replay(Chosen),
    /// Takes them away for good.
    Discard(Chosen),
}

/// Which of them; all that is given must fit.
#[derive(clap::Args)]
struct Which {
    /// Those of subjects that this pattern matches, such as `work.>`.
    #[arg(long, value_name = "PATTERN")]
    subject: Option<String>,
    /// Those of this group.
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
}

#[derive(clap::Args)]
struct Chosen {
    /// Their ids as `list` shows them, or the beginnings of those.
    #[arg(required_unless_present_any = ["subject", "group", "all"])]
    ids: Vec<String>,
    #[command(flatten)]
    which: Which,
    /// All there are.
    #[arg(long, conflicts_with_all = ["ids", "subject", "group"])]
    all: bool,
    #[command(flatten)]
    place: Place,
}

impl DeadLetters {
    /// Does what is said, and tells how many letters it was done to.
    pub fn run(self) -> anyhow::Result<Exit> {
        match self.act {
            Act::List { which, limit, bodies, place } => list(&which, limit, bodies, &place),
            Act::Replay(chosen) => chosen.each("replayed", Bus::replay),
            Act::Discard(chosen) => chosen.each("discarded", Bus::discard),
        }
    }
}

fn list(which: &Which, limit: usize, bodies: bool, place: &Place) -> anyhow::Result<Exit> {
    let bus = place.open(&Clock::system())?;
    let letters = which.of(&bus, place)?;
    for letter in letters.iter().take(limit) {
        println!("{}", line(letter));
        if bodies {
            println!("    {}", String::from_utf8_lossy(&letter.body).escape_debug());
        }
    }
    match letters.len() {
        0 => println!("no dead letters"),
        all if all > limit => println!("{all} dead letters, the first {limit} shown: --limit"),
        all => println!("{}", count(all)),
    }
    Ok(Exit::Well)
}

fn line(letter: &Dead) -> String {
    let Dead { subject, id, body, group, attempts, cause, .. } = letter;
    let group = group.as_deref().unwrap_or("-");
    let bytes = body.len();
    format!(
        "{id:032x}  {subject}  {group}  {attempts} attempts  {bytes} bytes  {}",
        cause.escape_debug()
    )
}

fn count(all: usize) -> String {
    format!("{all} dead letter{}", if all == 1 { "" } else { "s" })
}

impl Which {
    /// Those that there are at the bus now.
    fn of(&self, bus: &Bus, place: &Place) -> anyhow::Result<Vec<Dead>> {
        let pattern = self.subject.as_ref().map(|pattern| format!("{}{pattern}", place.scope()));
        if let Some(pattern) = pattern.as_ref().filter(|pattern| !is_pattern(pattern)) {
            bail!(Error::BadSubject(pattern.clone()));
        }
        let mut letters = answered(place, || bus.dead(LETTERS_MAX))?;
        letters.retain(|letter| {
            let is_there = pattern.as_ref().is_none_or(|of| matches(of, &letter.subject));
            is_there && (self.group.is_none() || self.group == letter.group)
        });
        Ok(letters)
    }
}

impl Chosen {
    /// Ends badly if one of them is left.
    fn each(self, what: &str, act: impl Fn(&Bus, &Dead) -> Answer<()>) -> anyhow::Result<Exit> {
        let bus = self.place.open(&Clock::system())?;
        let mut letters = self.which.of(&bus, &self.place)?;
        if !self.ids.is_empty() {
            letters = chosen(letters, &self.ids)?;
        }
        let (mut done, mut left) = (0, 0);
        for letter in &letters {
            match answered(&self.place, || act(&bus, letter)) {
                Ok(()) => done += 1,
                // Somebody else was faster.
                Err(error) if matches!(error.downcast_ref(), Some(Error::NotFound)) => {}
                Err(error) => {
                    left += 1;
                    eprintln!("{:032x} stays: {error:#}", letter.id);
                }
            }
        }
        println!("{} {what}", count(done));
        Ok(if left == 0 { Exit::Well } else { Exit::Unfinished })
    }
}

/// Those whose ids begin so. One message may be a letter of several groups.
fn chosen(letters: Vec<Dead>, ids: &[String]) -> anyhow::Result<Vec<Dead>> {
    let begins = |letter: &Dead, id: &String| format!("{:032x}", letter.id).starts_with(id);
    for id in ids {
        let mut found = letters.iter().filter(|letter| begins(letter, id));
        let first = found.next().with_context(|| {
            format!(
                "no dead letter has an id that begins with {id:?}: see `mainstay dead-letters list`"
            )
        })?;
        ensure!(
            found.all(|other| other.id == first.id),
            "several ids begin with {id:?}: give more digits"
        );
    }
    let is_one = |letter: &Dead| ids.iter().any(|id| begins(letter, id));
    Ok(letters.into_iter().filter(is_one).collect())
}

/// What the bus says within the time; asked again while its server is not there yet.
fn answered<T>(place: &Place, ask: impl Fn() -> Answer<T>) -> anyhow::Result<T> {
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
    let clock = Clock::system();
    let end = clock.now() + place.within();
    loop {
        match ask().wait(end - clock.now()) {
            Some(Err(Error::Unavailable(_))) if clock.now() + PAUSE < end => {
                std::thread::sleep(PAUSE);
            }
            Some(Err(Error::Unavailable(_))) | None => bail!(
                "the bus is not there, or does not let this user in: see its address, user and password; \
                 tried for {:?} (--within)",
                place.within()
            ),
            Some(told) => return Ok(told?),
        }
    }
}
