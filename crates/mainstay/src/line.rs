//! What the supervisor says to a process over its input, beside its ports: who comes after it, and who was before.

/// What goes with the way to a successor.
#[cfg(unix)]
pub(crate) const SUCCESSOR: &[u8] = b"successor";
/// What goes with the way to a predecessor.
#[cfg(unix)]
pub(crate) const PREDECESSOR: &[u8] = b"predecessor";

#[cfg(not(unix))]
pub(crate) use elsewhere::{Line, Way};
#[cfg(unix)]
pub(crate) use unix::{Line, Way, introduce};

/// Sockets go from one process to another on Unix alone: elsewhere nobody is heard of.
#[cfg(not(unix))]
mod elsewhere {
    use std::io::Read;

    /// Never there.
    pub(crate) enum Way {}

    #[derive(Clone, Default)]
    pub(crate) struct Line;

    impl Line {
        pub(crate) fn follow(&self, mut input: impl Read) {
            let mut rest = [0; 64];
            while input.read(&mut rest).is_ok_and(|read| read > 0) {}
        }

        pub(crate) fn take_over_with(&self, _gate: &gate::Server) {}

        pub(crate) fn take_successor(&self) -> Option<Way> {
            None
        }
    }
}

#[cfg(unix)]
mod unix {
    use std::io;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

    use transport::pass;

    use super::{PREDECESSOR, SUCCESSOR};

    /// A way to another life of this process.
    pub(crate) type Way = UnixStream;

    /// Gives two processes a way to each other: `old` is to end, `new` to take its place.
    pub(crate) fn introduce(old: impl AsFd, new: impl AsFd) -> io::Result<()> {
        let (to_new, to_old) = UnixStream::pair()?;
        pass::send(old, SUCCESSOR, &[to_new.as_fd()])?;
        pass::send(new, PREDECESSOR, &[to_old.as_fd()])
    }

    /// The ways to other lives of this process, as the supervisor gives them. A cheap clone.
    #[derive(Clone, Default)]
    pub(crate) struct Line(Arc<Mutex<Ways>>);

    #[derive(Default)]
    struct Ways {
        successor: Option<UnixStream>,
        predecessor: Option<UnixStream>,
        /// Who takes over what the predecessor has.
        taker: Option<gate::Taker>,
    }

    impl Line {
        /// Hears what the supervisor says on `input`, until that ends.
        pub(crate) fn follow(&self, input: impl AsFd) {
            while let Ok(Some((word, ways))) = pass::receive(input.as_fd()) {
                let Some(way) = ways.into_iter().next().map(UnixStream::from) else { continue };
                let mut known = self.ways();
                match &word[..] {
                    SUCCESSOR => known.successor = Some(way),
                    PREDECESSOR => known.predecessor = Some(way),
                    // A newer supervisor.
                    _ => {}
                }
                known.take_over();
            }
        }

        /// The gate is there that takes over the connections of a predecessor.
        pub(crate) fn take_over_with(&self, gate: &gate::Server) {
            let mut known = self.ways();
            known.taker = Some(gate.taker());
            known.take_over();
        }

        /// The way to the successor, if there is one.
        pub(crate) fn take_successor(&self) -> Option<Way> {
            self.ways().successor.take()
        }

        fn ways(&self) -> MutexGuard<'_, Ways> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl Ways {
        fn take_over(&mut self) {
            if let Some(taker) = &self.taker
                && let Some(way) = self.predecessor.take()
            {
                taker.take(way);
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use std::io::{Read, Write};

        use super::*;

        #[test]
        fn two_lives_of_a_process_are_introduced_to_each_other() {
            let (to_old, old) = UnixStream::pair().unwrap();
            let (to_new, new) = UnixStream::pair().unwrap();
            introduce(&to_old, &to_new).unwrap();
            // What a newer supervisor says is passed over.
            pass::send(&to_old, b"something", &[]).unwrap();
            pass::send(&to_old, b"something", &[to_new.as_fd()]).unwrap();
            drop((to_old, to_new));
            let (first, second) = (Line::default(), Line::default());
            first.follow(&old);
            second.follow(&new);
            let mut way = first.take_successor().expect("a way");
            assert!(first.take_successor().is_none() && second.take_successor().is_none());
            way.write_all(b"hello").unwrap();
            drop(way);
            let mut said = String::new();
            let mut way = second.ways().predecessor.take().expect("a way back");
            way.read_to_string(&mut said).unwrap();
            assert_eq!(said, "hello");
        }
    }
}
