use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use bots::{Churn, GuestGrants, Load, Options, Progress, Swarm};
use mainstay::Exit;
use mainstay::client::Address;

#[derive(clap::Args)]
pub struct Bots {
    /// How many play.
    #[arg(long, default_value_t = 100)]
    players: u32,
    /// How long they play once all are in, in seconds.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// The server's page: tickets come from there, and players go in there.
    #[arg(long, default_value = "http://127.0.0.1:7000")]
    url: String,
    /// Over WebSocket instead of TCP.
    #[arg(long)]
    websocket: bool,
    /// Players of one arena.
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u32).range(10..=2000))]
    arena: u32,
    /// Mean seconds until each bot's connection is cut (it resumes); 0 cuts none.
    #[arg(long, default_value_t = 0)]
    cut_every: u64,
    /// Mean seconds until each bot logs out and in again; 0 lets them stay.
    #[arg(long, default_value_t = 0)]
    leave_every: u64,
}

impl Bots {
    pub fn run(self) -> anyhow::Result<Exit> {
        let authority = self.url.strip_prefix("http://").context("the url starts with http://")?;
        let authority = authority.trim_end_matches('/');
        let address =
            if self.websocket { Address::websocket(authority) } else { Address::tcp(authority) };
        let churn = Churn {
            cut_every: Duration::from_secs(self.cut_every),
            leave_every: Duration::from_secs(self.leave_every),
        };
        let load = Load::steady(self.players, Duration::from_secs(self.seconds)).churn(churn);
        let options = Options::new(address, load);
        let grants = GuestGrants::new(&self.url)?;
        let size = self.arena;
        let swarm = Swarm::new(options, grants, move |_| Box::new(arena::BotPlayer::new(size)))?;
        let live = std::io::stderr().is_terminal();
        let summary = swarm.run(|progress| show(progress, live))?;
        if live {
            eprintln!();
        }
        println!("{summary}");
        Ok(if summary.passed() { Exit::Well } else { Exit::Unfinished })
    }
}

/// On a terminal one line that changes, elsewhere a line every ten seconds.
fn show(progress: &Progress, live: bool) {
    if live {
        eprint!("\r\x1b[K{progress}");
        let _ = std::io::stderr().flush();
    } else if progress.elapsed.as_secs().is_multiple_of(10) {
        eprintln!("{progress}");
    }
}
