use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail};

/// The root of the checkout.
pub fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies in the root").to_path_buf()
}

/// Runs a program in `folder` (from the root), shows its output, fails if it fails.
pub fn run(folder: &str, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    println!("$ {program} {}", arguments.join(" "));
    let status = Command::new(program)
        .args(arguments)
        .current_dir(root().join(folder))
        .status()
        .with_context(|| format!("could not start `{program}`: is it installed?"))?;
    if !status.success() {
        bail!("`{program} {}` failed: {status}", arguments.join(" "));
    }
    Ok(())
}

/// Runs a program and gives its standard output.
pub fn read(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .output()
        .with_context(|| format!("could not start `{program}`: is it installed?"))?;
    if !output.status.success() {
        bail!("`{program}` failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Whether a program can be started.
pub fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// The named steps of one run, with the time each took.
#[derive(Default)]
pub struct Steps {
    done: Vec<(String, f64)>,
}

impl Steps {
    /// Runs one step; the first failure ends the run.
    pub fn step(
        &mut self,
        name: &str,
        work: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        println!("\n==> {name}");
        let start = Instant::now();
        work().with_context(|| format!("step `{name}`"))?;
        self.done.push((name.to_owned(), start.elapsed().as_secs_f64()));
        Ok(())
    }

    /// Prints the table of times.
    pub fn report(&self) {
        println!("\n{:40} {:>8}", "step", "seconds");
        for (name, seconds) in &self.done {
            println!("{name:40} {seconds:>8.1}");
        }
        let total: f64 = self.done.iter().map(|(_, seconds)| seconds).sum();
        println!("{:40} {total:>8.1}\nall passed", "total");
    }
}
