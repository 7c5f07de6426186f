use std::ops::Range;
use std::{iter, mem};

use proto::link::HANDLE_RUNS_MAX;

/// The handles that a session gives its streams, each of them once.
///
/// Which handles it gave is remembered as runs, the last of them at most: which name another one
/// had, that its client has from another home, is not known here. Most sessions have one run, which
/// takes no memory of its own.
#[derive(Clone, Debug)]
pub(super) struct Handles {
    /// What the next stream gets. The last run ends here.
    next: u32,
    /// Where the last run begins; at `next` if it is empty.
    first: u32,
    earlier: Option<Box<Earlier>>,
}

/// The runs before the last, none of them empty.
#[derive(Clone, Debug, Default)]
struct Earlier {
    runs: Vec<Range<u32>>,
}

impl Handles {
    /// None has been given out; the first is `next`.
    pub fn from(next: u32) -> Self {
        Handles { next, first: next, earlier: None }
    }

    /// Those in `given` have been given out; what comes is `next`.
    pub fn with_given(next: u32, given: &[Range<u32>]) -> Self {
        let mut handles = Handles::from(next);
        for run in given {
            if run.end == next {
                handles.first = run.start.min(next);
            } else {
                handles.remember(run.clone());
            }
        }
        handles
    }

    /// What the next stream gets.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Leaves out what is below `next`.
    pub fn skip_to(&mut self, next: u32) {
        if next > self.next {
            let last = mem::replace(&mut self.first, next)..mem::replace(&mut self.next, next);
            self.remember(last);
        }
    }

    /// Gives one out.
    pub fn take(&mut self) -> u32 {
        let handle = self.next;
        self.next += 1;
        handle
    }

    /// Whether it gave that one out, as far as it remembers.
    pub fn gave(&self, handle: u32) -> bool {
        self.runs().any(|run| run.contains(&handle))
    }

    /// The last runs that were given out, [`HANDLE_RUNS_MAX`] of them at most.
    pub fn given(&self) -> Vec<Range<u32>> {
        self.runs().filter(|run| !run.is_empty()).collect()
    }

    fn runs(&self) -> impl Iterator<Item = Range<u32>> {
        let earlier = self.earlier.iter().flat_map(|earlier| earlier.runs.iter().cloned());
        earlier.chain(iter::once(self.first..self.next))
    }

    fn remember(&mut self, run: Range<u32>) {
        if run.is_empty() {
            return;
        }
        let runs = &mut self.earlier.get_or_insert_default().runs;
        // The last run counts too.
        if runs.len() + 1 >= HANDLE_RUNS_MAX {
            runs.remove(0);
        }
        runs.push(run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_that_were_given_out_are_known_by_their_last_runs() {
        let mut handles = Handles::from(1);
        let mut given = Vec::new();
        for run in 0..=HANDLE_RUNS_MAX as u32 {
            handles.skip_to(100 * run);
            given.push([handles.take(), handles.take()]);
        }
        assert_eq!(given[..2], [[1, 2], [100, 101]]);
        for handles in [handles.clone(), Handles::with_given(handles.next(), &handles.given())] {
            assert_eq!(handles.given().len(), HANDLE_RUNS_MAX);
            assert_eq!(given[0].map(|handle| handles.gave(handle)), [false; 2], "the oldest run");
            assert!(given[1..].iter().flatten().all(|handle| handles.gave(*handle)));
            assert!([0, 3, 99, 102, 802].iter().all(|handle| !handles.gave(*handle)));
        }
        handles.skip_to(5);
        assert_eq!(handles.take(), 802, "none is given out twice");
    }

    #[test]
    fn a_session_that_gave_out_one_run_takes_no_memory_for_it() {
        let mut handles = Handles::from(1);
        for handle in 1..10 {
            assert_eq!(handles.take(), handle);
        }
        assert!(handles.earlier.is_none());
        let skipped = Handles::with_given(40, &handles.given());
        assert!(skipped.given().into_iter().eq(iter::once(1..10)));
        assert!(size_of::<Handles>() <= 16);
    }
}
