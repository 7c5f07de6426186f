//! `cargo xtask`: everything that checks the project.

mod ci;
mod setup;
mod shell;
mod tidy;

use anyhow::bail;

const HELP: &str = "\
cargo xtask COMMAND

  ci       install what is missing, then format, clippy, tidy, tests, simulation, browser
  quick    the same without installing, simulation and browser: what to run while working
  setup    only install what is missing (Chromium, servers, Node packages); needs root for apt-get
  tidy     only the house rules: crate table, lengths, protocol, status rows
  browser  only the TypeScript and browser tests
";

fn main() -> anyhow::Result<()> {
    let command = std::env::args().nth(1);
    match command.as_deref() {
        Some("ci") => ci::all(),
        Some("quick") => ci::quick(),
        Some("setup") => setup::install(),
        Some("tidy") => tidy::check(),
        Some("browser") => ci::browser(),
        Some("help" | "--help" | "-h") | None => {
            print!("{HELP}");
            Ok(())
        }
        Some(other) => bail!("there is no `{other}`\n\n{HELP}"),
    }
}
