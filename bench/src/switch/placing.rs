//! How evenly places are given out between two reports of load.

use std::time::Duration;

use cluster::{Directory, Load, NodeInfo, Placement, PlacementOptions, Wanted};
use env::{Instant, Random};
use proto::{Incarnation, KindId};

use super::Line;

const NODES: u64 = 10;
const PLACEMENTS: u64 = 1_000;
const GOAL_PERCENT: f64 = 20.0;
const RUNS: u64 = 100;

/// The largest share's and the smallest share's distance from an even one, in percent of that.
fn unevenness(given: &[u64]) -> f64 {
    let even = given.iter().sum::<u64>() as f64 / given.len() as f64;
    let off = given.iter().map(|given| (*given as f64 / even - 1.0).abs());
    off.fold(0.0, f64::max) * 100.0
}

fn place(seed: u64) -> anyhow::Result<f64> {
    let kind = KindId::of("room");
    let infos = (1..=NODES).map(|node| {
        let mut info = NodeInfo::new(format!("node-{node}"), Incarnation(node));
        info.kinds = vec![kind];
        std::sync::Arc::new(info)
    });
    let mut placement = Placement::new(PlacementOptions::default(), Random::from_seed(seed));
    placement.set_directory(std::sync::Arc::new(Directory::new(1, infos)));
    let now = Instant::from_nanos(1_000_000_000);
    for node in 1..=NODES {
        let load = Load { cpu: 0.2, ..Load::default() };
        placement.handle_report(now, Incarnation(node), load);
    }
    let mut given = [0; NODES as usize];
    for number in 0..PLACEMENTS {
        // All within the five seconds between two reports.
        let seat =
            placement.reserve(now + number as u32 * Duration::from_millis(5), &Wanted::of(kind))?;
        given[seat.node.0 as usize - 1] += 1;
    }
    Ok(unevenness(&given))
}

/// # Errors
///
/// See [`super::run`].
pub fn run() -> anyhow::Result<Vec<Line>> {
    let (mut worst, mut random_worst) = (0.0f64, 0.0f64);
    for seed in 0..RUNS {
        worst = worst.max(place(seed)?);
        let mut random = Random::from_seed(seed);
        let mut given = [0; NODES as usize];
        (0..PLACEMENTS).for_each(|_| given[random.below(NODES) as usize] += 1);
        random_worst = random_worst.max(unevenness(&given));
    }
    Ok(vec![Line {
        what: "1,000 placements on ten nodes between two reports, the worst of 100 runs, off an even share",
        beside: "at random",
        reference: random_worst,
        figure: worst,
        goal: GOAL_PERCENT,
        unit: "%",
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_that_is_farthest_off_counts() {
        assert!((unevenness(&[10, 10, 10, 10]) - 0.0).abs() < 1e-9);
        assert!((unevenness(&[10, 10, 5, 15]) - 50.0).abs() < 1e-9);
        assert!((unevenness(&[40, 0, 0, 0]) - 300.0).abs() < 1e-9);
    }
}
