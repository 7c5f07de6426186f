use std::path::PathBuf;

use crate::shell::{Steps, has, root, run};
use crate::{setup, tidy};

/// Simulation seeds of one CI run; each mutant must be noticed within as many.
const SEEDS: &str = "500";

/// What is simulated.
const SUITES: [&str; 4] = ["sessions", "data", "slots", "cluster"];

/// Everything, from a fresh machine.
pub fn all() -> anyhow::Result<()> {
    let mut steps = Steps::default();
    steps.step("set-up", setup::install)?;
    static_checks(&mut steps)?;
    tests(&mut steps)?;
    steps.step("release build", release_build)?;
    steps.step("simulation", simulation)?;
    steps.step("mutants", mutants)?;
    steps.step("TypeScript and browser", browser)?;
    steps.report();
    Ok(())
}

fn simulation() -> anyhow::Result<()> {
    SUITES.iter().try_for_each(|suite| simulate(&["--suite", suite, "--seeds", SEEDS]))
}

/// Built together: what is built alone has other features of the same crates, and they are built twice.
fn release_build() -> anyhow::Result<()> {
    run(".", "cargo", &["build", "--release", "-p", "cli", "-p", "sim", "-p", "reference"])
}

fn simulate(args: &[&str]) -> anyhow::Result<()> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let sim = root().join(target).join("release/sim");
    run(".", &sim.display().to_string(), args)
}

/// A safety that is switched off must be noticed.
fn mutants() -> anyhow::Result<()> {
    SUITES.iter().try_for_each(|suite| simulate(&["--suite", suite, "--mutants", SEEDS]))
}

/// What to run while working.
pub fn quick() -> anyhow::Result<()> {
    let mut steps = Steps::default();
    static_checks(&mut steps)?;
    tests(&mut steps)?;
    steps.report();
    Ok(())
}

/// TypeScript SDK tests, then the arena in headless Chromium: in one process, and on the reference layout while
/// all of that is killed.
pub fn browser() -> anyhow::Result<()> {
    run("sdk/typescript", "npm", &["run", "check"])?;
    release_build()?;
    run("samples/arena/browser", "npm", &["test"])
}

fn static_checks(steps: &mut Steps) -> anyhow::Result<()> {
    steps.step("format", || run(".", "cargo", &["fmt", "--all", "--check"]))?;
    steps.step("tidy", tidy::check)?;
    steps.step("clippy", || {
        run(
            ".",
            "cargo",
            &[
                "clippy",
                "-q",
                "--workspace",
                "--all-targets",
                "--all-features",
                "--",
                "-D",
                "warnings",
            ],
        )
    })?;
    // What the first command builds: without the features, other code may be unused.
    steps.step("clippy of the default build", || {
        run(".", "cargo", &["clippy", "-q", "-p", "cli", "--", "-D", "warnings"])
    })
}

fn tests(steps: &mut Steps) -> anyhow::Result<()> {
    steps.step("tests", || {
        if has("cargo-nextest") {
            run(
                ".",
                "cargo",
                &["nextest", "run", "--workspace", "--all-features", "--no-fail-fast"],
            )
        } else {
            run(
                ".",
                "cargo",
                &["test", "-q", "--workspace", "--all-features", "--lib", "--bins", "--tests"],
            )
        }
    })?;
    steps.step("documentation examples", || {
        run(".", "cargo", &["test", "-q", "--workspace", "--all-features", "--doc"])
    })
}
