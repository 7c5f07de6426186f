use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::error::Error;
use crate::instance::{Instance, Plan, Program, arguments, instance};
use crate::postgres::keep;
use crate::process::copy;
use crate::program::{cache, find};

/// How long a replica may take to have what its primary has, in seconds.
const REPLICA_WAIT: u64 = 90;

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

    /// Starts one that waits with each commit until a replica has received it (semi-synchronous, without end).
    pub fn start_semi_sync() -> Result<Self, Error> {
        Self::start_with(&[
            "--server-id=1",
            "--log-bin=binlog",
            "--rpl-semi-sync-master-enabled=ON",
            "--rpl-semi-sync-master-wait-point=AFTER_SYNC",
            "--rpl-semi-sync-master-timeout=3600000",
        ])
    }

    /// Starts one that replicates from `primary`, which writes a binary log; reads only until
    /// [`promote`](Self::promote). Returns once it has all that the primary has.
    pub fn replica(primary: &Self) -> Result<Self, Error> {
        let this = Self::start_with(&[
            "--server-id=2",
            "--log-bin=binlog",
            "--log-slave-updates=ON",
            "--read-only=ON",
            "--rpl-semi-sync-slave-enabled=ON",
        ])?;
        let port = primary.port();
        this.sql(&format!(
            "CHANGE MASTER TO master_host = '127.0.0.1', master_port = {port}, \
             master_user = 'root', master_use_gtid = slave_pos; START SLAVE"
        ))?;
        this.await_primary(primary)?;
        Ok(this)
    }

    /// Waits until a replica has all that its primary has by now.
    pub fn await_primary(&self, primary: &Self) -> Result<(), Error> {
        let position = primary.sql("SELECT @@GLOBAL.gtid_binlog_pos")?;
        let position = position.trim();
        self.sql(&format!("SELECT MASTER_GTID_WAIT('{position}', {REPLICA_WAIT})")).map(drop)
    }

    /// Makes a replica a primary, once all that it has received is done.
    pub fn promote(&self) -> Result<(), Error> {
        self.sql("STOP SLAVE IO_THREAD")?;
        let start = Instant::now();
        while !self.sql("SHOW SLAVE STATUS\\G")?.contains("Slave has read all relay log") {
            let waited = start.elapsed();
            if waited > Duration::from_secs(REPLICA_WAIT) {
                let what = "apply what it had received";
                return Err(Error::Late { server: "mariadb", what, waited, log: self.log() });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.sql("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = OFF").map(drop)
    }

    /// Runs statements as the administrator; what they answer, without names of columns.
    pub fn sql(&self, sql: &str) -> Result<String, Error> {
        let port = self.port().to_string();
        let words =
            ["--no-defaults", "-h", "127.0.0.1", "-P", &port, "-u", "root", "-N", "-e", sql];
        let output = Command::new(find("mariadb")?).args(words).output();
        let output = output.map_err(Error::system("mariadb"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let output = format!("{sql}: {}", String::from_utf8_lossy(&output.stderr));
        Err(Error::Program { program: "mariadb".to_owned(), output })
    }

    /// `mysql://..` with user and database.
    pub fn url(&self) -> String {
        format!("mysql://root@127.0.0.1:{}/mainstay", self.port())
    }
}
