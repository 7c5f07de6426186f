use std::path::PathBuf;

use mainstay::Exit;
use mainstay::config::{Config, difference};

#[derive(clap::Args)]
pub struct Check {
    /// The cluster file.
    #[arg(required_unless_present = "describe")]
    file: Option<PathBuf>,
    /// Shows how a second file differs from the first.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Prints every key that a cluster file may hold, with unit, range and default.
    #[arg(long)]
    describe: bool,
}

impl Check {
    /// The arena's roles and kinds are the ones known here; a game checks its own file by
    /// `cargo run -- --cluster FILE --check`.
    pub fn run(self) -> anyhow::Result<Exit> {
        if self.describe {
            print!("{}", Config::describe());
            return Ok(Exit::Well);
        }
        let app = arena::app();
        let roles = app.role_names();
        let file = self.file.expect("clap asks for it");
        let config = Config::check(&file, &roles).map_err(anyhow::Error::new)?;
        config.check_app(&app)?;
        println!("{}: {} processes, no fault found", file.display(), config.processes.len());
        if let Some(against) = self.against {
            let second = Config::check(&against, &roles).map_err(anyhow::Error::new)?;
            for change in difference(&config, &second) {
                let side = |value: &Option<(String, String)>| match value {
                    Some((value, place)) => format!("{value} ({place})"),
                    None => "nothing".to_owned(),
                };
                println!("{}: {} -> {}", change.path, side(&change.old), side(&change.new));
            }
        }
        Ok(Exit::Well)
    }
}
