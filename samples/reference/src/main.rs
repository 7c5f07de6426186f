//! The arena as it is played in earnest: three gates, three scene nodes and two service nodes on etcd,
//! NATS, PostgreSQL and Redis. It is the same game, by the same code, as the one-process demo.
//!
//! `cargo run --release -p reference` starts private servers in a temporary folder, writes the cluster
//! file and looks after the eight processes until Ctrl-C. `mainstay status`, `drain`, `restart` and the
//! rest work on the cluster file that it names. What is typed kills processes and servers (`kill redis`) and starts
//! servers again (`start redis`), to see that players go on.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use mainstay::{Exit, operate};
use reference::{Servers, orders};

/// Plays the arena on eight processes and real servers, all on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the first gate takes in clients; the others have the next two ports.
    #[arg(long, default_value = "127.0.0.1:7000")]
    listen: SocketAddr,
    /// Folder of the cluster file, keys and logs. What players own is in the servers, which end with this.
    #[arg(long, default_value = "reference-data")]
    data: PathBuf,
}

fn main() -> Exit {
    // The supervisor starts this program again for each process.
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--cluster") {
        return mainstay::run_with(arena::app(), words.into_iter(), |_| {});
    }
    match play(&Arguments::parse()) {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("error: {error:#}");
            Exit::NotStarted
        }
    }
}

fn play(arguments: &Arguments) -> anyhow::Result<Exit> {
    let servers = Arc::new(Servers::start()?);
    let file = servers.write_cluster_file(&arguments.data, arguments.listen)?;
    println!("the cluster file is {}", file.display());
    println!("{}", orders::HELP);
    let (running, data) = (Arc::downgrade(&servers), operate::data_of(&file)?);
    std::thread::spawn(move || orders::follow(std::io::stdin().lock(), &running, &data));
    let words = ["--cluster".to_owned(), file.display().to_string(), "--up".to_owned()];
    Ok(mainstay::run_with(arena::app(), words.into_iter(), |_| {}))
}
