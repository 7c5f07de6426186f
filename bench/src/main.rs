//! `bench NAME`: measures Mainstay next to the physical limit in the same run.

mod arena;
mod calls;
#[cfg(feature = "layout")]
mod chaos;
mod crash;
mod entity;
mod gate;
#[cfg(feature = "layout")]
mod layout;
mod node;
mod raw;
#[cfg(feature = "layout")]
mod rolling;
mod store;
mod switch;
mod tick;
mod timers;
mod traders;

use std::process::{ExitCode, Termination as _};

const HELP: &str = "\
bench NAME

  arena    a thousand bots in one arena at 20 steps a second, gate hop included
  calls    calls between entities of two nodes over TCP, next to tarpc and NATS
  chaos    the reference layout with a fault every 15 seconds, under players who trade
           (--minutes N, --seed N, --players N, --only N: one fault of the plan; one-way cuts between
           processes need root, --no-cuts goes without)
  crash    a server killed at random points under trades and saves, its database and the data processes
           between them too: what was promised is there (--backend NAME, --kills N, --seed N, or
           --outage SECONDS for databases that are away once under load; NAME is embedded, sqlite,
           postgres, mysql, mongodb, redis, proxy for a data process over an embedded store, or
           \"2 proxies\" for two over PostgreSQL; all of them, 200 times each and the last four 20
           times, take about two hours)
  entity   local messages, calls and idle entities, next to actor libraries
  gate     client, gate, entity and back; WebSocket; idle memory; a storm of connections
  rolling  2,000 strict bots on the reference layout while all its processes are restarted, five times over
           (--players N, --rounds N, --role gate|scene|service, --kill PROCESS, --seed N)
  recovery a process killed (kill -9) with 100,000 players unsaved, on the embedded store and on PostgreSQL:
           how long until they play again, what is lost
  raw      the limit: a bare epoll echo server under the common load generator
  store    the embedded store: saves, transactions, a storm of logins, next to bare redb
  store-server
           a store on PostgreSQL, next to direct loops over it; needs --features servers
  switch   what players wait for when a stream is switched, an avatar moves, a gate or a node is killed; how evenly
           places are given, how soon 5,000 services are seen (all, or some of: local crash placing listing
           handover)
  tick     how late ticks come at 20 and 60 Hz while a core is loaded to 70 %
  timers   one million timers on the wheel, next to Tokio's

Build with --release. Exit code 1 means that a goal was missed, 2 that it could not be measured.
";

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        // As a sentence: a backtrace says nothing to whoever wrote a wrong option.
        eprintln!("{error:#}");
        ExitCode::from(2)
    })
}

fn run() -> anyhow::Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let met = match args[..] {
        ["--help" | "-h"] | [_, "--help" | "-h"] => {
            print!("{HELP}");
            return Ok(ExitCode::SUCCESS);
        }
        ["arena"] => arena::run()?,
        ["calls"] => calls::run()?,
        ["calls", in_flight, count] => calls::run_alone(in_flight, count)?,
        ["calls-core"] => calls::run_core()?,
        ["calls-count", each] => calls::run_count(each)?,
        #[cfg(feature = "layout")]
        ["chaos", ref options @ ..] => chaos::run(options)?,
        ["crash", ref options @ ..] => crash::run(options)?,
        ["entity"] => entity::run()?,
        ["entity-core"] => entity::run_core()?,
        ["entity-count", what, count] => entity::run_count(what, count)?,
        ["entity-across"] => entity::run_across()?,
        ["gate"] => gate::run()?,
        ["gate-core"] => gate::run_core()?,
        ["node-core"] => node::run()?,
        ["gate", connections, window] => gate::run_shape(connections, window)?,
        ["gate", connections, window, seconds] => {
            gate::run_load_only(connections, window, seconds)?
        }
        ["raw"] => raw::run()?,
        ["recovery"] => store::run_recovery()?,
        #[cfg(feature = "layout")]
        ["rolling", ref options @ ..] => rolling::run(options)?,
        ["store"] => store::run()?,
        #[cfg(feature = "servers")]
        ["store-server"] => store::run_server()?,
        ["switch", ref parts @ ..] => switch::run(parts)?,
        ["tick"] => tick::run()?,
        ["timers"] => timers::run()?,
        // What the benchmarks start as processes of their own.
        ["child-crash", file, process] => {
            return crash::child(file, process).map(|()| ExitCode::SUCCESS);
        }
        ["child-recovery", store, place] => {
            return store::recovery_child(store, place).map(|()| ExitCode::SUCCESS);
        }
        #[cfg(feature = "layout")]
        ["child-layout", chaos::GAME, ref options @ ..] => {
            return Ok(chaos::child(options)?.report());
        }
        #[cfg(feature = "layout")]
        ["child-layout", "rolling", ref options @ ..] => {
            return Ok(layout::child(rolling::app(), options).report());
        }
        #[cfg(feature = "layout")]
        ["child-layout", "switch", ref options @ ..] => {
            return Ok(layout::child(switch::app(), options).report());
        }
        ["child-arena"] => return arena::child().map(|()| ExitCode::SUCCESS),
        ["child-broadcast", bytes] => {
            return arena::child_broadcast(bytes.parse()?).map(|()| ExitCode::SUCCESS);
        }
        ["child-gate", node] => return gate::child_gate(node).map(|()| ExitCode::SUCCESS),
        ["child-node"] => return gate::child_node().map(|()| ExitCode::SUCCESS),
        ["child-gate-and-node"] => {
            return gate::child_gate_and_node().map(|()| ExitCode::SUCCESS);
        }
        ["child-raw-echo", port] => {
            return raw::raw_echo(port.parse()?).map(|()| ExitCode::SUCCESS);
        }
        ["child-sockets-echo"] => return raw::sockets_echo().map(|()| ExitCode::SUCCESS),
        _ => {
            eprint!("{HELP}");
            return Ok(ExitCode::from(2));
        }
    };
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
