//! A whole cluster in one thread: gates, nodes and clients on a virtual clock, over a network that
//! breaks as a seed says. The same cores run as in production; only what moves their bytes differs.
#![forbid(unsafe_code)]

mod clients;
mod cluster;
mod coordinator;
mod disk;
mod faults;
mod net;
mod nodes;
mod notes;
mod places;
mod shifts;
mod trace;
mod vault;
mod wire;

pub use client::{CallError, CallId, End, Event, RequestId, TellId};
pub use clients::{ClientId, RequestResult};
pub use cluster::{Cluster, Left, Options, Register};
pub use coordinator::{CenterCounts, CenterFaults};
pub use faults::{Counts, Faults};
#[doc(hidden)]
pub use gate::Mutant as GateMutant;
pub use net::Site;
pub use nodes::CoordinatorFaults;
pub use trace::Trace;
#[doc(hidden)]
pub use vault::StoreMutant;
pub use vault::{Fact, StoreCounts, StoreFaults};
pub use wire::Cut;

/// Runs `test` against a new cluster: what `#[mainstay::test]` expands to.
///
/// # Panics
///
/// If the test does, after printing the seed and how to run it again.
pub fn run(name: &str, options: Options, test: impl FnOnce(&mut Cluster)) {
    let seed = options.seed;
    let mut cluster = Cluster::new(options);
    let run = std::panic::AssertUnwindSafe(|| test(&mut cluster));
    if let Err(panic) = std::panic::catch_unwind(run) {
        eprintln!("{name} failed with seed {seed}; the same seed fails the same way again");
        std::panic::resume_unwind(panic);
    }
}
