use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::error::Error;
use crate::instance::{Instance, Plan, Program, arguments, instance};
use crate::process::copy;
use crate::program::{cache, find};

/// How long a standby may take to have what its primary has.
const STANDBY_WAIT: Duration = Duration::from_secs(90);

/// A PostgreSQL server. Every acknowledged commit is synced.
#[derive(Debug)]
pub struct Postgres {
    instance: Instance,
}

instance!(Postgres);

impl Postgres {
    /// Starts one with an empty database `postgres` and the user `postgres`, who needs no password.
    pub fn start() -> Result<Self, Error> {
        Self::start_with(&[])
    }

    /// As [`start`](Self::start), with settings of `postgresql.conf` over ours.
    pub fn start_with(settings: &[(&str, &str)]) -> Result<Self, Error> {
        let this = Self::prepare()?;
        let template = cache().join("postgres");
        let data = this.data();
        if template.join("PG_VERSION").exists() {
            copy(&template, &data).map_err(Error::system("copy of the prepared data folder"))?;
        } else {
            let flags = arguments!["-U", "postgres", "--auth=trust", "-N", "-D", &data];
            this.run(&find("initdb")?, &flags)?;
            keep(&data, &template);
        }
        this.start_programs(settings)?;
        Ok(this)
    }

    /// Starts a standby that streams from `primary`; reads only until [`promote`](Self::promote).
    pub fn standby(primary: &Self, settings: &[(&str, &str)]) -> Result<Self, Error> {
        let this = Self::prepare()?;
        let port = primary.port().to_string();
        let flags = arguments![
            "-h",
            "127.0.0.1",
            "-p",
            port,
            "-U",
            "postgres",
            "-D",
            this.data(),
            "-R",
            "-X",
            "stream",
            "--checkpoint=fast",
            "--no-sync",
        ];
        this.run(&find("pg_basebackup")?, &flags)?;
        this.start_programs(settings)?;
        Ok(this)
    }

    /// Waits until a standby has all that its primary has by now.
    pub fn await_primary(&self, primary: &Self) -> Result<(), Error> {
        let position = primary.sql("SELECT pg_current_wal_lsn()")?;
        let (position, start) = (position.trim(), Instant::now());
        let there = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'");
        while self.sql(&there)?.trim() != "t" {
            let waited = start.elapsed();
            if waited > STANDBY_WAIT {
                let what = "have what its primary has";
                return Err(Error::Late { server: "postgres", what, waited, log: self.log() });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Runs a statement as the administrator; what it answers.
    pub fn sql(&self, sql: &str) -> Result<String, Error> {
        let port = self.port().to_string();
        let words = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-qAtc", sql];
        let output = Command::new(find("psql")?).args(words).output();
        let output = output.map_err(Error::system("psql"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let output = format!("{sql}: {}", String::from_utf8_lossy(&output.stderr));
        Err(Error::Program { program: "psql".to_owned(), output })
    }

    /// Makes a standby a primary.
    pub fn promote(&self) -> Result<(), Error> {
        let flags = arguments!["promote", "-w", "-D", self.data()];
        self.run(&find("pg_ctl")?, &flags)
    }

    /// `postgres://..` with user and database.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port())
    }

    fn prepare() -> Result<Self, Error> {
        find("initdb")?;
        let instance = Instance::prepare(Plan {
            server: "postgres",
            user: Some("postgres"),
            stop: Signal::INT,
            probe: crate::probe::postgres,
        })?;
        Ok(Self { instance })
    }

    fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    fn start_programs(&self, settings: &[(&str, &str)]) -> Result<(), Error> {
        let port = self.port().to_string();
        let ours = [
            ("listen_addresses", "127.0.0.1"),
            ("port", port.as_str()),
            ("unix_socket_directories", ""),
            ("shared_buffers", "32MB"),
            ("fsync", "on"),
            ("synchronous_commit", "on"),
            ("jit", "off"),
        ];
        let mut flags = arguments!["-D", self.data()];
        for (name, value) in ours.iter().chain(settings) {
            flags.extend(arguments!["-c", format!("{name}={value}")]);
        }
        let path = find("postgres")?;
        self.set_programs(vec![Program { path, arguments: flags, environment: vec![] }]);
        self.start_again()
    }
}

/// Keeps a fresh data folder for the next start. Others may do the same at once: the first rename wins.
pub(crate) fn keep(data: &std::path::Path, template: &std::path::Path) {
    let mine = template.with_extension(std::process::id().to_string());
    let kept = copy(data, &mine).and_then(|()| fs::rename(&mine, template));
    if kept.is_err() {
        let _ = fs::remove_dir_all(&mine);
    }
}
