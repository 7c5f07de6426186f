//! Games as their authors write them, in simulated clusters and real processes.

mod regressions;
mod rows;
mod support;
