//! What players notice when something of the cluster changes: a stream that leads elsewhere, an avatar that moves,
//! a gate or a node that is killed, or a gate that is replaced; and how evenly and how fast a large cluster works. Each figure stands beside
//! its reference of the same run.

#[cfg(feature = "layout")]
mod crash;
mod handover;
mod listing;
mod local;
mod ping;
mod placing;

use std::time::Duration;

#[cfg(feature = "layout")]
pub use crash::app;

/// One line of the table.
struct Line {
    what: &'static str,
    /// What it is held against, and what that was in this run.
    beside: &'static str,
    reference: f64,
    figure: f64,
    goal: f64,
    unit: &'static str,
}

impl Line {
    /// A line of waits, by their 99th percentiles in milliseconds.
    fn waits(
        what: &'static str,
        beside: &'static str,
        (reference, waits): (&mut [Duration], &mut [Duration]),
        goal_ms: f64,
    ) -> Line {
        let (reference, figure) = (p99_ms(reference), p99_ms(waits));
        Line { what, beside, reference, figure, goal: goal_ms, unit: "ms" }
    }

    fn show(&self) -> bool {
        let Line { what, beside, reference, figure, goal, unit } = self;
        let ratio = figure / reference.max(1e-9);
        println!(
            "{what}\n    {figure:.2} {unit}; {beside} {reference:.2} {unit}, ratio {ratio:.1}"
        );
        crate::gate::judge(what, *figure, *goal)
    }
}

/// The 99th percentile; the worst of fewer than a hundred.
fn p99_ms(waits: &mut [Duration]) -> f64 {
    waits.sort_unstable();
    let at = (waits.len() * 99).div_ceil(100).saturating_sub(1);
    waits.get(at).map_or(f64::INFINITY, |wait| wait.as_secs_f64() * 1e3)
}

/// `bench switch`, or only the parts that are named.
///
/// # Errors
///
/// Something does not start, or somebody is never answered again.
pub fn run(parts: &[&str]) -> anyhow::Result<bool> {
    let all: [(&str, fn() -> anyhow::Result<Vec<Line>>); 5] = [
        ("local", local::run),
        #[cfg(feature = "layout")]
        ("crash", crash::run),
        #[cfg(not(feature = "layout"))]
        ("crash", || anyhow::bail!("needs --features layout")),
        ("placing", placing::run),
        ("listing", listing::run),
        ("handover", handover::run),
    ];
    if let Some(unknown) = parts.iter().find(|part| all.iter().all(|(name, _)| name != *part)) {
        anyhow::bail!("there is no part {unknown}: local, crash, placing, listing, handover");
    }
    println!("{}", crate::gate::load_average());
    let mut met = true;
    for (name, part) in all {
        if parts.is_empty() || parts.contains(&name) {
            for line in part()? {
                met &= line.show();
            }
        }
    }
    Ok(met)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_waits_that_there_are() {
        let ms = |count: u64| (1..=count).rev().map(Duration::from_millis).collect::<Vec<_>>();
        assert!((p99_ms(&mut ms(1)) - 1.0).abs() < 1e-9);
        assert!((p99_ms(&mut ms(50)) - 50.0).abs() < 1e-9);
        assert!((p99_ms(&mut ms(100)) - 99.0).abs() < 1e-9);
        assert!((p99_ms(&mut ms(1_000)) - 990.0).abs() < 1e-9);
        assert!(p99_ms(&mut []).is_infinite());
        let line = Line::waits("a", "b", (&mut ms(100), &mut ms(200)), 150.0);
        assert!(!line.show(), "198 ms are more than 150");
    }
}
