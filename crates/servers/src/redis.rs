use std::fs;

use rustix::process::Signal;

use crate::error::Error;
use crate::instance::{Instance, Plan, Program, arguments, instance};
use crate::program::find;

/// A Redis server.
#[derive(Debug)]
pub struct Redis {
    instance: Instance,
}

instance!(Redis);

impl Redis {
    /// Starts one that syncs every write before it answers (`appendfsync always`).
    pub fn start() -> Result<Self, Error> {
        Self::start_with(&[])
    }

    /// Starts a replica of `primary`.
    pub fn replica(primary: &Self) -> Result<Self, Error> {
        Self::start_with(&["--replicaof", "127.0.0.1", &primary.port().to_string()])
    }

    /// As [`start`](Self::start), with flags of `redis-server` after ours, which win.
    pub fn start_with(flags: &[&str]) -> Result<Self, Error> {
        let path = find("redis-server")?;
        let instance = Instance::prepare(plan("redis"))?;
        let this = Self { instance };
        let mut all = arguments![
            "--bind",
            "127.0.0.1",
            "--port",
            this.port().to_string(),
            "--dir",
            this.folder(),
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
        ];
        all.extend(flags.iter().map(Into::into));
        this.set_programs(vec![Program { path, arguments: all, environment: vec![] }]);
        this.start_again()?;
        Ok(this)
    }

    /// `redis://..`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port())
    }
}

/// A Redis Sentinel.
#[derive(Debug)]
pub struct Sentinel {
    instance: Instance,
}

instance!(Sentinel);

impl Sentinel {
    /// Starts one that watches `primary` under `name` and takes it for down after one second; `quorum` of them must
    /// agree.
    pub fn start(primary: &Redis, name: &str, quorum: u32) -> Result<Self, Error> {
        let path = find("redis-sentinel")?;
        let instance = Instance::prepare(plan("sentinel"))?;
        let this = Self { instance };
        let file = this.folder().join("sentinel.conf");
        let text = format!(
            "bind 127.0.0.1\nport {}\ndir {}\nsentinel monitor {name} 127.0.0.1 {} {quorum}\n\
             sentinel down-after-milliseconds {name} 1000\nsentinel failover-timeout {name} 5000\n",
            this.port(),
            this.folder().display(),
            primary.port()
        );
        fs::write(&file, text).map_err(Error::system("configuration of a sentinel"))?;
        let flags = arguments![file, "--sentinel"];
        this.set_programs(vec![Program { path, arguments: flags, environment: vec![] }]);
        this.start_again()?;
        Ok(this)
    }

    /// `redis://..`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port())
    }
}

fn plan(server: &'static str) -> Plan {
    Plan { server, user: None, stop: Signal::TERM, probe: crate::probe::redis }
}
