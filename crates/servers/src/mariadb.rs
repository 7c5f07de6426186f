use std::fs;

use rustix::process::Signal;

use crate::error::Error;
use crate::instance::{Instance, Plan, Program, arguments, instance};
use crate::postgres::keep;
use crate::process::copy;
use crate::program::{cache, find};

/// A MariaDB server. Every acknowledged commit is synced.
#[derive(Debug)]
pub struct Mariadb {
    instance: Instance,
}

instance!(Mariadb);

impl Mariadb {
    /// Starts one with an empty database `mainstay` and the user `root`, who needs no password.
    pub fn start() -> Result<Self, Error> {
        Self::start_with(&[])
    }

    /// As [`start`](Self::start), with flags of `mariadbd` after ours.
    pub fn start_with(flags: &[&str]) -> Result<Self, Error> {
        let path = find("mariadbd")?;
        let instance = Instance::prepare(Plan {
            server: "mariadb",
            user: Some("mysql"),
            stop: Signal::TERM,
            probe: crate::probe::mariadb,
        })?;
        let this = Self { instance };
        let data = this.folder().join("data");
        let datadir = format!("--datadir={}", data.display());
        let template = cache().join("mariadb");
        if template.join("mainstay").exists() {
            copy(&template, &data).map_err(Error::system("copy of the prepared data folder"))?;
        } else {
            let install = arguments![
                "--no-defaults",
                &datadir,
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
                "--innodb-log-file-size=16M",
            ];
            this.run(&find("mariadb-install-db")?, &install)?;
            // A database is a folder.
            fs::create_dir(data.join("mainstay")).map_err(Error::system("database folder"))?;
            keep(&data, &template);
        }
        let socket = this.folder().join("socket");
        let mut all = arguments![
            "--no-defaults",
            datadir,
            format!("--socket={}", socket.display()),
            format!("--port={}", this.port()),
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=16M",
            "--innodb-flush-log-at-trx-commit=1",
            "--sync-binlog=1",
        ];
        all.extend(flags.iter().map(Into::into));
        this.set_programs(vec![Program { path, arguments: all, environment: vec![] }]);
        this.start_again()?;
        Ok(this)
    }

    /// `mysql://..` with user and database.
    pub fn url(&self) -> String {
        format!("mysql://root@127.0.0.1:{}/mainstay", self.port())
    }
}
