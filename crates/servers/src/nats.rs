use rustix::process::Signal;

use crate::error::Error;
use crate::instance::{Instance, Plan, Program, arguments, instance};
use crate::program::find;

/// A NATS server with JetStream.
///
/// JetStream of this server answers before it syncs: what it acknowledged survives [`kill`](Instance::kill), not a
/// machine that loses power.
#[derive(Debug)]
pub struct Nats {
    instance: Instance,
}

instance!(Nats);

impl Nats {
    /// Starts one.
    pub fn start() -> Result<Self, Error> {
        let path = find("nats-server")?;
        let instance = Instance::prepare(Plan {
            server: "nats",
            user: None,
            stop: Signal::TERM,
            probe: crate::probe::nats,
        })?;
        let this = Self { instance };
        let (port, folder) = (this.port().to_string(), this.folder().join("jetstream"));
        let flags = arguments!["-a", "127.0.0.1", "-p", port, "-js", "-sd", folder];
        this.set_programs(vec![Program { path, arguments: flags, environment: vec![] }]);
        this.start_again()?;
        Ok(this)
    }

    /// `nats://..`
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port())
    }
}
