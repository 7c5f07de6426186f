use std::io;
use std::time::Duration;

/// Why a server could not be started, stopped or reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It must be installed first.
    #[error(
        "{0} is not installed: `cargo xtask setup` installs it, MAINSTAY_SKIP_SERVERS=1 skips what needs it"
    )]
    Missing(String),
    /// The server ended instead of becoming ready.
    #[error("{server} ended with {status} before it was ready:\n{log}")]
    Ended {
        /// Which server.
        server: &'static str,
        /// Its exit status.
        status: String,
        /// The end of what it printed.
        log: String,
    },
    /// The server did not do in time what it was asked.
    #[error("{server} did not {what} within {waited:?}:\n{log}")]
    Late {
        /// Which server.
        server: &'static str,
        /// What was waited for.
        what: &'static str,
        /// For how long.
        waited: Duration,
        /// The end of what it printed.
        log: String,
    },
    /// A program that prepares the data failed.
    #[error("{program} failed:\n{output}")]
    Program {
        /// Which program.
        program: String,
        /// What it printed.
        output: String,
    },
    /// Files, processes or ports of this machine.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}
