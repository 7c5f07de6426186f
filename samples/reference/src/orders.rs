//! What one may type while the layout runs: to see for oneself that players notice nothing.

use std::io::BufRead;
use std::path::Path;
use std::process::Command;
use std::sync::Weak;

use anyhow::{Context as _, bail, ensure};
use mainstay::operate;
use servers::Instance;

use crate::Servers;

/// What can be ordered.
pub const HELP: &str = "\
type `kill NAME` to kill a process or server as a crash would, `start NAME` to start a killed server again:
gate-1..3, scene-1..3, service-1..2 (they come back by themselves), etcd-1..3, nats, postgres, redis";

/// Does what the lines of `input` say, one after the other, until they or the servers end. Says what was done.
pub fn follow(input: impl BufRead, servers: &Weak<Servers>, data: &Path) {
    for line in input.lines().map_while(Result::ok) {
        let Some(servers) = servers.upgrade() else { return };
        match carry_out(&line, &servers, data) {
            Ok(done) => println!("{done}"),
            Err(error) => println!("not done: {error:#}"),
        }
    }
}

fn carry_out(line: &str, servers: &Servers, data: &Path) -> anyhow::Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match (words.as_slice(), words.get(1).and_then(|name| servers.by_name(name))) {
        (["kill", name], Some(server)) => {
            server.kill();
            Ok(format!("{name} is killed"))
        }
        (["start", name], Some(server)) => {
            server.start_again().with_context(|| format!("starting {name}"))?;
            Ok(format!("{name} is back"))
        }
        (["kill", name], None) => {
            kill(name, data)?;
            Ok(format!("{name} is killed"))
        }
        _ => bail!(HELP),
    }
}

/// Kills a process of the game.
fn kill(name: &str, data: &Path) -> anyhow::Result<()> {
    let states = operate::status(data);
    let state = states.iter().find(|state| state.name == name);
    let pid = state.and_then(|state| state.pid).with_context(|| format!("no {name} runs"))?;
    let status = Command::new("kill").args(["-KILL", &pid.to_string()]).status()?;
    ensure!(status.success(), "kill: {status}");
    Ok(())
}

impl Servers {
    /// One of them: `etcd-1`, `nats`, `postgres`, `redis`.
    pub fn by_name(&self, name: &str) -> Option<&Instance> {
        match name {
            "nats" => Some(&self.nats),
            "postgres" => Some(&self.postgres),
            "redis" => Some(&self.redis),
            _ => {
                let member = name.strip_prefix("etcd-")?.parse::<usize>().ok()?.checked_sub(1)?;
                self.etcd.get(member).map(|etcd| &**etcd)
            }
        }
    }
}
