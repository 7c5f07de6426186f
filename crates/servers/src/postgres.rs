use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::error::Error;
use crate::instance::{Instance, Plan, Program, arguments, instance};
use crate::process::copy;
use crate::program::{cache, find};

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
