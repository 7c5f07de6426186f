use std::mem;
use std::time::Duration;

use env::Instant;

/// How long a worker looks for mail before it sleeps: as long as it may take to wake a thread whose
/// core is asleep, in a virtual machine 50 to 100 µs. Where both are awake an answer comes within a
/// few.
pub(super) const LOOK: Duration = Duration::from_micros(200);

/// How long it looks before it looks at its sockets, too.
pub(super) const MOMENT: Duration = Duration::from_micros(5);

/// How long it looks at its links before it sleeps: about as much as falling asleep and being woken
/// costs the two ends of a link, so that looking in vain at most doubles the price.
pub(super) const LOOK_AT_LINKS: Duration = Duration::from_micros(50);

/// Most chances that are let pass after looking was in vain.
const SKIP_MAX: u32 = 256;

/// Whether it is worth while to look for mail for a while before sleeping: where the other worker
/// has no core of its own, or nothing to say, it is not, and is tried less and less often.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Chances that are let pass before the next try.
    skip: u32,
    /// How many after that one, if it is in vain.
    next_skip: u32,
}

impl Patience {
    /// Whether to look this time.
    pub fn looks(&mut self) -> bool {
        let looks = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        looks
    }

    /// What came of it.
    pub fn saw(&mut self, mail: bool) {
        if mail {
            self.next_skip = 0;
        } else {
            self.skip = self.next_skip;
            self.next_skip = (self.next_skip * 2).clamp(2, SKIP_MAX);
        }
    }
}

/// Whether to look at the links for a while before sleeping. Who answers at once, on a core of its
/// own, is heard sooner than a thread falls asleep and is woken, and at a lower price.
#[derive(Debug, Default)]
pub(super) struct LinkWatch {
    patience: Patience,
    /// Something came since the worker slept or looked.
    heard: bool,
    /// Since when it looks.
    began: Option<Instant>,
    /// Something came while it looked last.
    pays: bool,
}

impl LinkWatch {
    /// Something came over a link.
    #[inline]
    pub fn heard(&mut self) {
        self.heard = true;
        if self.began.take().is_some() {
            self.pays = true;
            self.patience.saw(true);
        }
    }

    /// Whether to look once more instead of sleeping.
    pub fn looks(&mut self, now: Instant) -> bool {
        let began = match self.began {
            Some(began) => began,
            None if mem::take(&mut self.heard) && self.patience.looks() => now,
            None => return false,
        };
        let goes_on = now < began + LOOK_AT_LINKS;
        self.began = goes_on.then_some(began);
        if !goes_on {
            self.pays = false;
            self.patience.saw(false);
        }
        goes_on
    }

    /// Whether who is at the other end was at work while this worker was: it has its own core, and
    /// can begin with a part of what it will be told.
    #[inline]
    pub fn pays(&self) -> bool {
        self.pays
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What looks gave, each a microsecond after the one before.
    fn watch_for(watch: &mut LinkWatch, from: u64, looks: u64) -> String {
        let look = |at| if watch.looks(Instant::from_nanos(at * 1_000)) { '+' } else { '.' };
        (from..from + looks).map(look).collect()
    }

    #[test]
    fn links_are_looked_at_after_they_said_something_and_only_for_a_while() {
        let mut watch = LinkWatch::default();
        assert_eq!(watch_for(&mut watch, 1, 3), "...");
        watch.heard();
        assert_eq!(watch_for(&mut watch, 10, 55), format!("{}.....", "+".repeat(50)));
        assert!(!watch.pays());
        // In vain: the next chances are let pass.
        watch.heard();
        assert!(watch.looks(Instant::from_nanos(70_000)));
        watch.heard();
        assert!(watch.pays());
        assert_eq!(watch_for(&mut watch, 80, 3), "+++");
    }

    #[test]
    fn links_that_stay_silent_are_looked_at_less_and_less_often() {
        let (mut watch, mut begun) = (LinkWatch::default(), 0);
        for chance in 1..=10_000u64 {
            watch.heard();
            let at = chance * 1_000_000;
            begun += u32::from(watch.looks(Instant::from_nanos(at)));
            assert!(!watch.looks(Instant::from_nanos(at + 100_000)));
        }
        assert!(begun < 60, "{begun}");
    }

    fn looks_in(patience: &mut Patience, chances: u32, mail: bool) -> u32 {
        let mut looks = 0;
        for _ in 0..chances {
            if patience.looks() {
                looks += 1;
                patience.saw(mail);
            }
        }
        looks
    }

    #[test]
    fn looking_in_vain_becomes_rare_and_one_success_brings_it_back() {
        let mut patience = Patience::default();
        assert_eq!(looks_in(&mut patience, 100, true), 100);
        assert!(looks_in(&mut patience, 10_000, false) < 60);
        // The next try may be far off, but it comes.
        assert!(looks_in(&mut patience, SKIP_MAX + 101, true) > 100);
        assert_eq!(looks_in(&mut patience, 100, true), 100);
    }
}
