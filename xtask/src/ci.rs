use crate::shell::{Steps, has, run};
use crate::{setup, tidy};

/// Simulation seeds of one CI run.
const SEEDS: &str = "500";

/// Everything, from a fresh machine.
pub fn all() -> anyhow::Result<()> {
    let mut steps = Steps::default();
    steps.step("set-up", setup::install)?;
    static_checks(&mut steps)?;
    tests(&mut steps)?;
    steps.step("release build", || {
        run(".", "cargo", &["build", "--release", "-p", "cli", "-p", "sim"])
    })?;
    steps.step("simulation", simulation)?;
    steps.step("TypeScript and browser", browser)?;
    steps.report();
    Ok(())
}

/// Seeds of a hundred that may fail for now: the simulator finds more than is mended yet, see row
/// N6 of `docs/status.md`. The goal is 0.
const FAILING_PERCENT_MAX: usize = 4;

fn simulation() -> anyhow::Result<()> {
    let arguments = ["run", "-q", "--release", "-p", "sim", "--", "--seeds", SEEDS, "--keep-going"];
    let text = crate::shell::read_all("cargo", &arguments)?;
    println!("{text}");
    anyhow::ensure!(text.contains("simulated hours"), "the simulation did not run to its end");
    let numbers =
        text.lines().filter_map(|line| line.trim().strip_prefix("seed ")?.split_once(": "));
    let failing: std::collections::BTreeSet<_> = numbers.map(|(seed, _)| seed).collect();
    println!(
        "{} of {SEEDS} seeds fail, which is a known gap, not a pass: {failing:?}",
        failing.len()
    );
    let most = SEEDS.parse::<usize>()? * FAILING_PERCENT_MAX / 100;
    anyhow::ensure!(failing.len() <= most, "more than {most} seeds fail");
    Ok(())
}

/// What to run while working.
pub fn quick() -> anyhow::Result<()> {
    let mut steps = Steps::default();
    static_checks(&mut steps)?;
    tests(&mut steps)?;
    steps.report();
    Ok(())
}

/// TypeScript SDK tests, then the arena in headless Chromium.
pub fn browser() -> anyhow::Result<()> {
    run("sdk/typescript", "npm", &["run", "check"])?;
    run(".", "cargo", &["build", "--release", "-p", "cli"])?;
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
            run(".", "cargo", &["test", "-q", "--workspace", "--lib", "--bins", "--tests"])
        }
    })?;
    steps.step("documentation examples", || {
        run(".", "cargo", &["test", "-q", "--workspace", "--doc"])
    })
}
