//! Live connections that go from a gate to its successor, while their players are silent: how long until the last
//! is there, next to a bare loop that sends as many sockets to another thread, which polls them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use env::Clock;
use proto::Incarnation;
use transport::pass::{self, PASSED_MAX};
use transport::{Options, Sockets};

use super::Line;
use crate::raw::{Load, SERVER_CPU, hold, spawn_child};

const CONNECTIONS: usize = 9_000;
const GOAL_MS: f64 = 80.0;
const WAIT: Duration = Duration::from_secs(30);

/// As many sockets, sent and polled elsewhere, without anything around it.
fn bare() -> anyhow::Result<Duration> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let mut pairs = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        pairs.push((TcpStream::connect(address)?, listener.accept()?.0));
    }
    let (clients, taken): (Vec<TcpStream>, Vec<TcpStream>) = pairs.into_iter().unzip();
    let (ours, theirs) = UnixStream::pair()?;
    let begun = Instant::now();
    let polls = std::thread::spawn(move || {
        let mut sockets = Sockets::new(Options::default(), Clock::system())?;
        while let Some((_, descriptors)) = pass::receive(&theirs)? {
            for descriptor in descriptors {
                sockets.adopt(TcpStream::from(descriptor))?;
            }
        }
        anyhow::Ok((sockets.len(), begun.elapsed()))
    });
    let mut taken = taken.into_iter();
    loop {
        let part: Vec<TcpStream> = taken.by_ref().take(PASSED_MAX).collect();
        if part.is_empty() {
            break;
        }
        let descriptors: Vec<_> = part.iter().map(AsFd::as_fd).collect();
        pass::send(&ours, b"x", &descriptors)?;
    }
    drop(ours);
    let (count, took) = polls.join().ok().context("the thread has panicked")??;
    ensure!(count == CONNECTIONS, "{count} came");
    drop(clients);
    Ok(took)
}

/// # Errors
///
/// See [`super::run`].
pub fn run() -> anyhow::Result<Vec<Line>> {
    let reference = bare()?;
    let node = spawn_child(&["child-node"], SERVER_CPU)?;
    let start = |life| crate::gate::start_gate(node.addr(), Incarnation(life));
    let (old, new) = (start(101)?, start(102)?);
    let load = |addr: SocketAddr, connections| Load { addr, connections, ..Load::default() };
    // The node knows the other gate then.
    let first = hold(&load(new.addresses()[0], 1), |_| crate::gate::player(1_000_000))?;
    let at_old = load(old.addresses()[0], CONNECTIONS);
    let mut players = hold(&at_old, |index| crate::gate::player(index as u64 + 1))?;
    players.ask_each()?;
    let (ours, theirs) = UnixStream::pair()?;
    new.taker().take(theirs);
    let begun = Instant::now();
    let given = old.give_to(&ours)?;
    // Each worker answers when it has taken what was sent before.
    let there = new.connections(usize::MAX, WAIT).len();
    let took = begun.elapsed();
    ensure!(given.given == CONNECTIONS, "only {} went over", given.given);
    ensure!(there == CONNECTIONS + first.len(), "only {there} are there");
    old.stop();
    old.join()?;
    let answered = players.ask_each()?;
    println!(
        "{CONNECTIONS} live connections of two gates in this process and a node in another; sent after {:.1} ms; \
         then each asked and was answered within {:.1} ms, none was closed",
        given.took.as_secs_f64() * 1e3,
        answered.as_secs_f64() * 1e3,
    );
    new.stop();
    let ms = |took: Duration| took.as_secs_f64() * 1e3;
    Ok(vec![Line {
        what: "9,000 live connections go to the next gate, with their sessions, until it has the last",
        beside: "bare sockets, sent and polled",
        reference: ms(reference),
        figure: ms(took),
        goal: GOAL_MS,
        unit: "ms",
    }])
}
