//! Logs: structured, asynchronous, rolled. The caller's thread formats the line and hands it over;
//! a thread of its own writes. A full queue loses lines, never time, and counts them.

mod format;
mod roll;
mod sink;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, fmt, reload};

use format::Lines;
pub use roll::RollOptions;
use sink::{Shared, Sink};

/// Where logs go and what they hold.
#[derive(Clone, Debug)]
pub struct Options {
    /// Levels by target: `"info"`, or `"info,gate=debug,node::host=trace"`.
    pub levels: String,
    /// Show lines on standard error, coloured if it is a terminal.
    pub console: bool,
    /// Rolled files; `None` writes none.
    pub files: Option<RollOptions>,
    /// Lines that may wait to be written before further ones are dropped and counted.
    pub queue_lines_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { levels: "info".to_owned(), console: true, files: None, queue_lines_max: 16_384 }
    }
}

/// Why logging could not start or change.
#[derive(Debug)]
#[non_exhaustive]
pub enum LogError {
    /// The levels are not readable.
    Levels(String),
    /// A word stands alone that is no level, such as `inof`.
    NoLevel(String),
    /// The folder or file cannot be written.
    Folder {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another log was started in this process before.
    Started,
}

impl std::fmt::Display for LogError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LogError::Levels(levels) => write!(
                f,
                "log levels `{levels}` are not readable: write `info` or `info,gate=debug`"
            ),
            LogError::NoLevel(word) => write!(
                f,
                "log levels: `{word}` is not one of off, error, warn, info, debug and trace; for \
                 all that the target `{word}` says, write `{word}=trace`"
            ),
            LogError::Folder { path, error } => {
                write!(f, "cannot write logs to {}: {error}", path.display())
            }
            LogError::Started => f.write_str("logging was started before in this process"),
        }
    }
}

impl std::error::Error for LogError {}

/// A running log. Dropping it writes what is still queued.
pub struct Log {
    sinks: Vec<Arc<Sink>>,
    levels: reload::Handle<Targets, tracing_subscriber::Registry>,
}

impl Log {
    /// Starts logging for this process and writes the last lines on a panic too.
    ///
    /// The one thing of Mainstay that is one per process, because `tracing`'s default is.
    ///
    /// # Errors
    ///
    /// If the levels are not readable, the folder cannot be written, or a log was started before.
    pub fn start(options: &Options) -> Result<Log, LogError> {
        let (levels, handle) = reload::Layer::new(parse(&options.levels)?);
        let mut sinks = Vec::new();
        let mut layers = Vec::new();
        if options.console {
            let colour = io::IsTerminal::is_terminal(&io::stderr());
            let sink = Sink::start(Box::new(io::stderr()), options.queue_lines_max);
            sinks.push(sink.clone());
            layers.push(
                fmt::layer().event_format(Lines { colour }).with_writer(Shared(sink)).boxed(),
            );
        }
        if let Some(files) = &options.files {
            let file = roll::Roll::open(files.clone())
                .map_err(|error| LogError::Folder { path: files.folder.clone(), error })?;
            let sink = Sink::start(Box::new(file), options.queue_lines_max);
            sinks.push(sink.clone());
            let lines = Lines { colour: false };
            layers.push(fmt::layer().event_format(lines).with_writer(Shared(sink)).boxed());
        }
        let subscriber = tracing_subscriber::registry().with(levels).with(layers);
        tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Started)?;
        flush_on_panic(sinks.clone());
        Ok(Log { sinks, levels: handle })
    }

    /// Changes the levels of the running log.
    ///
    /// # Errors
    ///
    /// If the levels are not readable; the old ones stay.
    pub fn set_levels(&self, levels: &str) -> Result<(), LogError> {
        let targets = parse(levels)?;
        self.levels.reload(targets).map_err(|_| LogError::Levels(levels.to_owned()))
    }

    /// Lines lost since the start because a queue was full or a file could not be written.
    pub fn lost(&self) -> u64 {
        self.sinks.iter().map(|sink| sink.lost()).sum()
    }

    /// Waits until everything queued so far is written.
    pub fn flush(&self) {
        self.sinks.iter().for_each(|sink| sink.flush());
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush();
    }
}

fn parse(levels: &str) -> Result<Targets, LogError> {
    // `Targets` takes a word that stands alone for a target, so that a mistyped level would
    // silence everything else.
    let words = levels.split(',').map(str::trim);
    let mut alone = words.filter(|word| !word.is_empty() && !word.contains('='));
    if let Some(word) = alone.find(|word| word.parse::<LevelFilter>().is_err()) {
        return Err(LogError::NoLevel(word.to_owned()));
    }
    let targets: Targets = levels.parse().map_err(|_| LogError::Levels(levels.to_owned()))?;
    // A bare target list would silence all else, warnings too.
    Ok(match targets.default_level() {
        Some(level) if level > LevelFilter::OFF => targets,
        _ => targets.with_default(LevelFilter::WARN),
    })
}

fn flush_on_panic(sinks: Vec<Arc<Sink>>) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        let what = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(target: "panic", place, "{what}");
        sinks.iter().for_each(|sink| sink.flush());
        before(panic);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k1_a_mistyped_level_is_refused_and_never_taken_for_a_target() {
        for good in
            ["info", "INFO", "info,gate=debug", "gate=debug", " warn , node::host=trace", ""]
        {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["inof", "info,gate", "gate,debug"] {
            assert!(matches!(parse(bad), Err(LogError::NoLevel(_))), "{bad}");
        }
        assert!(matches!(parse("gate=debgu"), Err(LogError::Levels(_))));
        let told = parse("inof").unwrap_err().to_string();
        assert!(told.contains("`inof`") && told.contains("`inof=trace`"), "{told}");
    }
}
