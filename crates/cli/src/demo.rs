use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use bots::{KeyGrants, Load, Options, Stopper, Swarm};
use mainstay::client::Address;
use mainstay::env::Clock;
use mainstay::{Exit, Running};

/// Accounts of the demo's bots: the same at each start, so that they do not fill the data folder.
const FIRST_BOT: u64 = 1 << 62;
/// Bots of the demo play until it ends.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

#[derive(clap::Args)]
pub struct Demo {
    /// Bots that play beside you.
    #[arg(long, default_value_t = 100)]
    bots: u32,
    /// Where the page and the players come in.
    #[arg(long, default_value = "127.0.0.1:7000")]
    listen: SocketAddr,
    /// Folder of keys, logs and what players own; start again with the same and it is all there.
    #[arg(long, default_value = "data")]
    data: PathBuf,
    /// Overrides a setting, such as `options.session.resume_window="2min"`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

impl Demo {
    pub fn run(self) -> anyhow::Result<Exit> {
        let mut words = vec![
            "--listen".to_owned(),
            self.listen.to_string(),
            "--data".to_owned(),
            self.data.display().to_string(),
        ];
        for setting in &self.settings {
            words.extend(["--set".to_owned(), setting.clone()]);
        }
        let mut crowd = None;
        let exit = mainstay::run_with(arena::app(), words.into_iter(), |running| {
            if self.bots > 0 {
                match Crowd::start(running, self.bots) {
                    Ok(started) => crowd = Some(started),
                    Err(error) => eprintln!("no bots: {error:#}"),
                }
            }
            println!("press Ctrl-C to stop; the console is at /console");
        });
        if let Some(crowd) = crowd {
            crowd.stop();
        }
        Ok(exit)
    }
}

/// The demo's own bots, on a thread of theirs.
struct Crowd {
    stopper: Stopper,
    thread: JoinHandle<()>,
}

impl Crowd {
    fn start(running: &Running, players: u32) -> anyhow::Result<Crowd> {
        let address = running.addresses().first().context("there is no gate to come in by")?;
        let grants = KeyGrants::new(running.ticket_keys(), Clock::system(), FIRST_BOT);
        let mut load = Load::steady(players, FOR_EVER);
        load.ramp = Duration::from_millis(u64::from(players) * 5);
        let options = Options::new(Address::tcp(address.to_string()), load);
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("bots".to_owned()).spawn(move || {
            let size = 250;
            let swarm = Swarm::new(options, grants, move |_| Box::new(arena::BotPlayer::new(size)));
            match swarm {
                Ok(swarm) => {
                    let _ = tell.send(Ok(swarm.stopper()));
                    // The summary is of no interest: the server is going down.
                    let _ = swarm.run(|_| {});
                }
                Err(error) => {
                    let _ = tell.send(Err(error));
                }
            }
        })?;
        let stopper = told.recv().context("the bots' thread ended")??;
        Ok(Crowd { stopper, thread })
    }

    fn stop(self) {
        self.stopper.stop();
        let _ = self.thread.join();
    }
}
