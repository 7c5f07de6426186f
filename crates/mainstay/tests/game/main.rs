//! Games as their authors write them, in simulated clusters and real processes.

mod leading;
mod moving;
mod regressions;
mod rows;
mod singletons;
mod support;
mod zones;
