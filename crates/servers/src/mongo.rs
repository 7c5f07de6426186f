use std::fs;

use rustix::process::Signal;

use crate::error::Error;
use crate::instance::{Instance, Plan, Program, arguments, instance};
use crate::program::mongo_python;

/// Starts the server from Python, with what the Rust driver needs corrected on the way.
const PROGRAM: &str = include_str!("mongo.py");

/// A server that speaks MongoDB's protocol: the independent implementation `mongoeco`, with its data in SQLite.
///
/// It is **not** MongoDB. What is shown with it is shown for the protocol and for the driver, not for replica sets,
/// their elections or their write concerns.
#[derive(Debug)]
pub struct Mongo {
    instance: Instance,
}

instance!(Mongo);

impl Mongo {
    /// Starts one.
    pub fn start() -> Result<Self, Error> {
        let path = mongo_python();
        if !path.exists() {
            return Err(Error::Missing("the MongoDB-compatible server".to_owned()));
        }
        let instance = Instance::prepare(Plan {
            server: "mongo",
            user: None,
            stop: Signal::TERM,
            probe: crate::probe::mongo,
        })?;
        let this = Self { instance };
        let program = this.folder().join("serve.py");
        fs::write(&program, PROGRAM).map_err(Error::system("program of the server"))?;
        let flags = arguments![program, this.port().to_string(), this.folder().join("data.db")];
        this.set_programs(vec![Program { path, arguments: flags, environment: vec![] }]);
        this.start_again()?;
        Ok(this)
    }

    /// `mongodb://..`
    pub fn url(&self) -> String {
        format!("mongodb://127.0.0.1:{}/?directConnection=true", self.port())
    }
}
