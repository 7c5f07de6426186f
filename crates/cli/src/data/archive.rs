use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use mainstay::Exit;
use mainstay::env::Clock;
use mainstay::store::Store;
use roles::{Archive as Target, IDLE_DAYS_MIN, MONEY, Moved, Rules, Survey};

use super::open::Where;
use super::time;

/// Accounts that are written out one by one.
const SHOWN_MAX: usize = 50;

#[derive(clap::Args)]
pub struct Archive {
    /// The store that they go to, named like `--store`; it must be another one, and not be used for
    /// anything else.
    #[arg(long, value_name = "STORE")]
    archive: String,
    /// Days without use after which an account goes.
    #[arg(long, value_name = "DAYS", required_unless_present = "back")]
    idle_days: Option<u64>,
    /// A further store of the game, named like `--store`, in which coins and items are looked for too;
    /// may be given several times. Those of a cluster file are looked into by themselves.
    #[arg(long, value_name = "STORE")]
    purse: Vec<String>,
    /// Takes also what this reason would keep: `money`, or a reason that the game gave. May be
    /// given several times.
    #[arg(long, value_name = "REASON")]
    allow: Vec<String>,
    /// Accounts in one run, at most.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Does it.
    #[arg(long)]
    apply: bool,
    /// Brings this account back instead; with --apply.
    #[arg(long, value_name = "ACCOUNT", conflicts_with_all = ["idle_days", "allow"])]
    back: Option<u64>,
    #[command(flatten)]
    place: Where,
}

impl Archive {
    pub fn run(self) -> anyhow::Result<Exit> {
        if let Some(days) = self.idle_days {
            ensure!(
                days >= IDLE_DAYS_MIN,
                "--idle-days {days} is too few: write {IDLE_DAYS_MIN} or more, for use is written \
                 down once a day"
            );
        }
        let live = self.place.open_one()?;
        let make = self.apply && self.back.is_none();
        let archive = self.place.open_other(&self.archive, make)?.map(Target::new);
        let now = Clock::system().wall().0;
        if let Some(account) = self.back {
            return self.bring_back(&live, archive, account, now);
        }
        let rules = Rules {
            idle_days: self.idle_days.unwrap_or_default(),
            allow: BTreeSet::from_iter(self.allow.iter().cloned()),
            accounts_max: self.limit as usize,
        };
        let purses = self.place.open_further(&self.purse)?;
        let survey = Target::survey(&live, &purses, now, &rules)?;
        tell(&survey, &rules);
        let Some(archive) = archive.filter(|_| self.apply) else {
            println!("nothing was changed; with --apply it is");
            return Ok(Exit::Well);
        };
        let swept = archive.sweep(&live)?;
        if swept > 0 {
            println!("{swept} copies of a run that was cut off are removed");
        }
        for account in &survey.unknown {
            archive.begin(&live, *account, now)?;
        }
        let (mut taken, mut stayed) = (0, 0);
        for account in survey.idle.keys() {
            match archive.take(&live, *account, now, &rules)? {
                Moved::Done => taken += 1,
                Moved::Stays => stayed += 1,
            }
        }
        println!("{taken} accounts are archived");
        if stayed > 0 {
            println!("{stayed} were used meanwhile and stay");
        }
        Ok(Exit::Well)
    }

    fn bring_back(
        &self,
        live: &Store,
        archive: Option<Target>,
        account: u64,
        now: u64,
    ) -> anyhow::Result<Exit> {
        let archive = archive.with_context(|| {
            format!("there is no store {}: name the one that accounts went to", self.archive)
        })?;
        if !self.apply {
            println!(
                "account {account} would be brought back if it is archived; with --apply it is"
            );
            return Ok(Exit::Well);
        }
        Ok(match archive.bring_back(live, account, now)? {
            Moved::Done => {
                println!("account {account} is back");
                Exit::Well
            }
            Moved::Stays => {
                println!("account {account} is not archived");
                Exit::Unfinished
            }
        })
    }
}

fn tell(survey: &Survey, rules: &Rules) {
    println!(
        "{} accounts can go, unused for {} days; {} stay by a reason, {} are in use",
        survey.idle.len(),
        rules.idle_days,
        survey.kept.len(),
        survey.active
    );
    for (account, seen) in survey.idle.iter().take(SHOWN_MAX) {
        println!("  account {account}, last used {}", time::shown(*seen));
    }
    for (account, reasons) in survey.kept.iter().take(SHOWN_MAX) {
        println!("  account {account} stays: {}", reasons.join(", "));
    }
    if survey.idle.len().max(survey.kept.len()) > SHOWN_MAX {
        println!("  of each only the first {SHOWN_MAX} are shown");
    }
    if survey.kept.values().flatten().any(|reason| reason == MONEY) {
        println!(
            "  --allow {MONEY} takes those too; coins and items themselves stay where they are"
        );
    }
    if !survey.unknown.is_empty() {
        println!(
            "  of {} accounts no use is written down: their days begin with the first --apply",
            survey.unknown.len()
        );
    }
    if survey.is_cut {
        println!("  there are more: run it again, or with a larger --limit");
    }
}
