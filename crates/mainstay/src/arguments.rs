use std::path::PathBuf;
use std::time::Duration;

/// The command line of a game's own binary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) cluster: Option<PathBuf>,
    pub(crate) process: Option<String>,
    pub(crate) settings: Vec<String>,
    pub(crate) listen: Option<String>,
    pub(crate) data: Option<PathBuf>,
    /// For `--up`: which machine, how this program's arguments begin, and when a process has stalled.
    pub(crate) host: Option<String>,
    pub(crate) up_words: Vec<String>,
    pub(crate) up_program: Option<PathBuf>,
    pub(crate) stall_after: Option<Duration>,
    pub(crate) wish: Wish,
}

/// What the binary is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Wish {
    #[default]
    Run,
    Up,
    Help,
    Check,
    Show,
    Schema(SchemaForm),
    Ticket(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SchemaForm {
    Json,
    TypeScript,
    Lock,
}

pub(crate) const HELP: &str = "\
Runs the game server.

  --cluster FILE     the cluster file; without one, everything runs in this process
  --process NAME     which process of the cluster file to be
  --set a.b=value    overrides one setting; may be given several times
  --listen ADDRESS   where clients come in, when there is no cluster file (default 127.0.0.1:7000)
  --data FOLDER      where keys, stores and logs are kept (default ./data)

  --up               starts all processes of the cluster file and looks after them: one that ends or
                     stalls is started again. Ctrl-C stops all, gates first
  --host NAME        with --up: only the processes of this host, as the file calls it
  --stall-after SECONDS
                     with --up: a process that is silent or stuck for so long is killed (default 30)

  --check            checks the cluster file and ends
  --show             prints every effective setting with its origin and ends
  --schema           prints the interface as JSON and ends
  --schema-ts        prints a TypeScript client for it and ends
  --lock             prints interface.lock and ends
  --ticket ACCOUNT   prints a ticket for an account number and ends
  --help             prints this and ends
";

impl Arguments {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let mut arguments = Arguments::default();
        while let Some(word) = words.next() {
            let (name, inline) = match word.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (word.as_str(), None),
            };
            let mut value =
                || inline.clone().or_else(|| words.next()).ok_or(format!("`{name}` needs a value"));
            match name {
                "--cluster" => arguments.cluster = Some(value()?.into()),
                "--process" => arguments.process = Some(value()?),
                "--set" => arguments.settings.push(value()?),
                "--listen" => arguments.listen = Some(value()?),
                "--data" => arguments.data = Some(value()?.into()),
                "--up" => arguments.wish = Wish::Up,
                "--host" => arguments.host = Some(value()?),
                // How `mainstay up` has its own subcommand come first; of no use to people.
                "--up-word" => arguments.up_words.push(value()?),
                // For programs that stand before the game, such as those that set limits.
                "--up-program" => arguments.up_program = Some(value()?.into()),
                "--stall-after" => {
                    let text = value()?;
                    let seconds = text.parse().ok().filter(|seconds| (1..=3_600).contains(seconds));
                    let seconds =
                        seconds.ok_or(format!("`{text}` is no number of seconds, 1 to 3600"))?;
                    arguments.stall_after = Some(Duration::from_secs(seconds));
                }
                "--check" => arguments.wish = Wish::Check,
                "--show" => arguments.wish = Wish::Show,
                "--schema" => arguments.wish = Wish::Schema(SchemaForm::Json),
                "--schema-ts" => arguments.wish = Wish::Schema(SchemaForm::TypeScript),
                "--lock" => arguments.wish = Wish::Schema(SchemaForm::Lock),
                "--ticket" => {
                    let account = value()?;
                    let number = account.parse();
                    let number = number.map_err(|_| format!("`{account}` is no account number"))?;
                    arguments.wish = Wish::Ticket(number);
                }
                "--help" | "-h" => arguments.wish = Wish::Help,
                other => return Err(format!("there is no option `{other}`; `--help` lists all")),
            }
        }
        Ok(arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_read_in_both_forms() {
        let read = parse("--cluster c.json --set=a.b=1 --set x=y --process gate-1").unwrap();
        assert_eq!(read.cluster, Some("c.json".into()));
        assert_eq!(read.settings, ["a.b=1", "x=y"]);
        assert_eq!(read.process.as_deref(), Some("gate-1"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(
            parse("--port 1").unwrap_err(),
            "there is no option `--port`; `--help` lists all"
        );
        assert_eq!(parse("--cluster").unwrap_err(), "`--cluster` needs a value");
        assert_eq!(parse("--ticket bob").unwrap_err(), "`bob` is no account number");
    }
}
