//! Releases of a game, by number: the last one that is marked final, so that no older build comes back.

use std::time::Duration;

use cluster::{Cluster, Expect, KeyError};
use env::Clock;

/// The coordinator's key with the number of the final release.
const FINAL: &str = "release/final";
/// How often the coordinator is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The number of the final release; 0 if none is.
pub(crate) fn last(cluster: &Cluster) -> u32 {
    let key = cluster.get(FINAL);
    let text = key.and_then(|key| String::from_utf8(key.value.to_vec()).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Has no older release come back. A final one that is later stays.
pub(crate) fn mark(cluster: &Cluster, release: u32) -> Result<(), KeyError> {
    if release > last(cluster) {
        cluster.put(FINAL, release.to_string().into_bytes(), None, Expect::Any)?;
    }
    Ok(())
}

/// Gives the number of the final release if `release` is older. Waits for the coordinator until `wait` is over, or
/// it refuses this process; one that is away then cannot say.
pub(crate) fn later(cluster: &Cluster, clock: &Clock, wait: Duration, release: u32) -> Option<u32> {
    let until = clock.now() + wait;
    let waits = || cluster.old_since().is_some() && cluster.shut_out().is_none();
    while waits() && clock.now() < until {
        std::thread::park_timeout(LOOK_EVERY);
    }
    Some(last(cluster)).filter(|last| release < *last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h9_an_older_release_than_the_final_one_is_told_so() {
        let cluster = Cluster::embedded(cluster::Options::default());
        let clock = Clock::system();
        let later = |release| later(&cluster, &clock, Duration::ZERO, release);
        assert_eq!([0, 1, 2].map(later), [None; 3]);
        mark(&cluster, 2).unwrap();
        assert_eq!([0, 1, 2, 3].map(later), [Some(2), Some(2), None, None]);
        // It never goes back.
        mark(&cluster, 1).unwrap();
        assert_eq!(last(&cluster), 2);
        // What nobody understands keeps nobody away.
        cluster.put(FINAL, &b"two"[..], None, Expect::Any).unwrap();
        assert_eq!(later(0), None);
    }
}
