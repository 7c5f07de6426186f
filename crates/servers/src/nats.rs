use std::fs;

use rustix::process::Signal;

use crate::error::Error;
use crate::instance::{Instance, Plan, Program, arguments, instance};
use crate::port::Port;
use crate::program::find;

const LOOPBACK: &str = "127.0.0.1";

/// A NATS server with JetStream.
///
/// JetStream of this server answers before it syncs: what it acknowledged survives [`kill`](Instance::kill), not a
/// machine that loses power.
#[derive(Debug)]
pub struct Nats {
    instance: Instance,
    mqtt: Port,
    /// Name and password, with a colon between and an `@` behind.
    credentials: String,
}

instance!(Nats);

impl Nats {
    /// Starts one that speaks MQTT as well.
    pub fn start() -> Result<Self, Error> {
        let this = Self::prepare(true, None, LOOPBACK)?;
        this.start_again()?;
        Ok(this)
    }

    /// As [`start`](Self::start), at all addresses of this machine.
    pub fn start_open() -> Result<Self, Error> {
        let this = Self::prepare(true, None, "0.0.0.0")?;
        this.start_again()?;
        Ok(this)
    }

    /// Starts one without JetStream, and so without MQTT.
    pub fn start_core() -> Result<Self, Error> {
        let this = Self::prepare(false, None, LOOPBACK)?;
        this.start_again()?;
        Ok(this)
    }

    /// Starts one that lets in nobody but this user.
    pub fn start_guarded(user: &str, password: &str) -> Result<Self, Error> {
        let this = Self::prepare(true, Some((user, password)), LOOPBACK)?;
        this.start_again()?;
        Ok(this)
    }

    fn prepare(
        has_jetstream: bool,
        user: Option<(&str, &str)>,
        address: &str,
    ) -> Result<Self, Error> {
        let path = find("nats-server")?;
        let instance = Instance::prepare(Plan {
            server: "nats",
            user: None,
            stop: Signal::TERM,
            probe: if has_jetstream { crate::probe::nats } else { crate::probe::nats_core },
        })?;
        let credentials = user.map(|(user, password)| format!("{user}:{password}@"));
        let credentials = credentials.unwrap_or_default();
        let this = Self { instance, mqtt: Port::reserve()?, credentials };
        let port = this.port().to_string();
        let mut flags = arguments!["-a", address, "-p", port];
        if has_jetstream {
            let file = this.folder().join("settings");
            let mqtt = this.mqtt.number;
            let settings =
                format!("server_name: mainstay\nmqtt {{ host: 127.0.0.1, port: {mqtt} }}\n");
            fs::write(&file, settings).map_err(Error::system("settings of NATS"))?;
            flags.extend(arguments!["-js", "-sd", this.folder().join("jetstream"), "-c", file]);
        }
        if let Some((user, password)) = user {
            flags.extend(arguments!["--user", user, "--pass", password]);
        }
        this.set_programs(vec![Program { path, arguments: flags, environment: vec![] }]);
        Ok(this)
    }

    /// Where it speaks MQTT, on 127.0.0.1.
    pub fn mqtt_port(&self) -> u16 {
        self.mqtt.number
    }

    /// `nats://..`, with user and password if it is guarded.
    pub fn url(&self) -> String {
        format!("nats://{}127.0.0.1:{}", self.credentials, self.port())
    }
}
