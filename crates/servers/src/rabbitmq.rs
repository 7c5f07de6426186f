use std::fs;

use rustix::process::Signal;

use crate::error::Error;
use crate::instance::{Instance, Plan, Program, arguments, instance};
use crate::port::Port;
use crate::program::find;

/// A RabbitMQ server, with a name service (`epmd`) of its own.
#[derive(Debug)]
pub struct Rabbitmq {
    instance: Instance,
    _distribution: Port,
    _names: Port,
}

instance!(Rabbitmq);

impl Rabbitmq {
    /// Starts one with the user `guest`, whose password is `guest`.
    pub fn start() -> Result<Self, Error> {
        let (server, names) = (find("rabbitmq-server")?, find("epmd")?);
        let instance = Instance::prepare(Plan {
            server: "rabbitmq",
            user: Some("rabbitmq"),
            stop: Signal::TERM,
            probe: crate::probe::rabbitmq,
        })?;
        let this = Self { instance, _distribution: Port::reserve()?, _names: Port::reserve()? };
        let folder = this.folder();
        fs::write(folder.join("plugins"), "[].").map_err(Error::system("list of plugins"))?;
        let names_port = this._names.number.to_string();
        let environment = vec![
            ("HOME", folder.into()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
            ("ERL_EPMD_PORT", names_port.clone().into()),
            ("RABBITMQ_NODENAME", format!("mainstay{}@localhost", this.port()).into()),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".into()),
            ("RABBITMQ_NODE_PORT", this.port().to_string().into()),
            ("RABBITMQ_DIST_PORT", this._distribution.number.to_string().into()),
            ("RABBITMQ_MNESIA_BASE", folder.join("data").into()),
            ("RABBITMQ_LOG_BASE", folder.join("logs").into()),
            ("RABBITMQ_CONFIG_FILE", folder.join("none").into()),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("plugins").into()),
            ("RABBITMQ_PID_FILE", folder.join("pid").into()),
            (
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1}".into(),
            ),
        ];
        let names = Program {
            path: names,
            arguments: arguments!["-port", names_port, "-address", "127.0.0.1"],
            environment: vec![],
        };
        let server = Program { path: server, arguments: vec![], environment };
        this.set_programs(vec![names, server]);
        this.start_again()?;
        Ok(this)
    }

    /// `amqp://..` with user and password.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port())
    }
}
