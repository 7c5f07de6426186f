use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use mainstay::Exit;
use mainstay::bus::{Accepted, Bus, Delivery, Options, Trigger};
use mainstay::config::BusPlace;
use mainstay::env::Clock;

#[derive(clap::Args)]
pub struct Arguments {
    /// Where it goes, such as `work.mail.7`.
    subject: String,
    /// What it says; without it, what comes on the standard input.
    body: Option<String>,
    #[command(flatten)]
    place: Place,
    /// The topic as the game declares it, such as `work.>`: without it the event may be lost.
    #[arg(long)]
    topic: Option<String>,
    /// What the game declares the topic as.
    #[arg(long, default_value = "at-least-once", requires = "topic")]
    class: Class,
    /// Of events with the same key one is taken.
    #[arg(long)]
    key: Option<String>,
}

/// Which bus, and how long it is tried.
#[derive(clap::Args)]
pub struct Place {
    /// The bus, with user and password: `nats://..`, `tls://..`, `amqp://..` or `amqps://..`. Given
    /// several times for the servers of one cluster.
    /// Without it the addresses in the environment variable `MAINSTAY_BUS`, joined by commas.
    #[arg(long)]
    bus: Vec<String>,
    /// The cluster file that names the bus; its password is taken from where the file says.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["bus", "prefix"])]
    cluster: Option<PathBuf>,
    /// What the names of all topics at the bus begin with: the name of the cluster, unless its file says
    /// otherwise.
    #[arg(long, default_value = "mainstay")]
    prefix: String,
    /// The zone or developer whose names these are.
    #[arg(long)]
    scope: Option<String>,
    /// For how many seconds it is tried.
    #[arg(long, default_value_t = 10)]
    within: u64,
}

impl Place {
    /// For how long it is tried.
    pub fn within(&self) -> Duration {
        Duration::from_secs(self.within)
    }

    /// The bus, which need not answer yet.
    pub fn open(&self, clock: &Clock) -> anyhow::Result<Bus> {
        let options = Options { answer_wait: self.within(), ..Options::default() };
        let bus = match &self.cluster {
            Some(file) => of_file(file, options, clock)?,
            None => self.of_address(options, clock)?,
        };
        Ok(self.scope.as_deref().map_or_else(|| Ok(bus.clone()), |name| bus.scope(name))?)
    }

    /// What the names of its subjects begin with, with a dot.
    pub fn scope(&self) -> String {
        self.scope.as_ref().map_or_else(String::new, |scope| format!("{scope}."))
    }

    fn of_address(&self, options: Options, clock: &Clock) -> anyhow::Result<Bus> {
        let from_environment = || std::env::var("MAINSTAY_BUS").unwrap_or_default();
        let urls = match self.bus.is_empty() {
            true => from_environment().split(',').map(str::to_owned).collect(),
            false => self.bus.clone(),
        };
        anyhow::ensure!(
            urls != [""],
            "name the bus by --bus or in MAINSTAY_BUS, or the cluster file that does by --cluster"
        );
        Ok(Bus::connect(&urls, &self.prefix, options, clock)?)
    }
}

/// The bus that a cluster file names.
fn of_file(file: &Path, options: Options, clock: &Clock) -> anyhow::Result<Bus> {
    let place = BusPlace::of_file(file, std::env::var("MAINSTAY_DEVELOPER").ok())?;
    anyhow::ensure!(
        place.is_shared(),
        "{} names no server of a bus, so each process has one in its memory, which nobody else reaches and \
         which ends with it. Name one there, \"bus\": {{\"nats\": \"nats://HOST:4222\"}} or \
         {{\"rabbitmq\": \"amqp://HOST:5672\"}}, and restart the game",
        file.display()
    );
    Ok(mainstay::open_bus(&place, options, clock)?)
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Class {
    AtLeastOnce,
    Durable,
}

impl Arguments {
    /// Sends one event, and says what became of it.
    pub fn run(self) -> anyhow::Result<Exit> {
        let clock = Clock::system();
        let within = self.place.within();
        let bus = self.place.open(&clock)?;
        match (&self.topic, self.class) {
            (None, _) => {}
            (Some(topic), Class::AtLeastOnce) => bus.declare(topic, Delivery::AtLeastOnce)?,
            (Some(topic), Class::Durable) => bus.declare(topic, Delivery::Durable)?,
        }
        let body = match self.body {
            Some(body) => body.into_bytes(),
            None => {
                let mut body = Vec::new();
                std::io::stdin().read_to_end(&mut body).context("standard input")?;
                body
            }
        };
        // Nothing confirms what may be lost, so it is heard itself.
        let mut own = match self.topic {
            None => Some(bus.subscribe(&self.subject)?),
            Some(_) => None,
        };
        if let Some(own) = &mut own {
            anyhow::ensure!(own.wait_ready(within), "the bus is not there");
        }
        let trigger = Trigger::new(bus, &clock, within);
        let accepted = trigger.send(&self.subject, self.key.as_deref(), body.clone())?;
        let end = clock.now() + within;
        while let Some(own) = &mut own {
            match own.try_next() {
                Some(message) if message.body() == body => break,
                Some(_) => {}
                None if clock.now() > end => anyhow::bail!("the bus did not take it in time"),
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        match accepted {
            Accepted::New => println!("accepted"),
            Accepted::Repeated => println!("accepted before"),
        }
        Ok(Exit::Well)
    }
}
