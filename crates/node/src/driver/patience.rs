use std::time::Duration;

/// How long a worker looks for mail before it sleeps: as long as it may take to wake a thread whose
/// core is asleep, in a virtual machine 50 to 100 µs. Where both are awake an answer comes within a
/// few.
pub(super) const LOOK: Duration = Duration::from_micros(200);

/// How long it looks before it looks at its sockets, too.
pub(super) const MOMENT: Duration = Duration::from_micros(5);

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

#[cfg(test)]
mod tests {
    use super::*;

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
