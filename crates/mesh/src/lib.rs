//! Links among the workers of nodes and gates.
//!
//! Each worker holds one [`Mesh`]: pure, without sockets or clock. Its driver moves bytes between
//! links and sockets and does what [`Mesh::poll_output`] says.
#![forbid(unsafe_code)]

mod assembler;
mod key;
mod link;
mod local;
mod mesh;
mod options;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod wire_tests;
mod wires;

pub use key::Key;
pub use local::{LocalFrames, local_frames};
pub use mesh::{Frame, Mesh, Output};
pub use options::{Counters, LinkId, Options, PeerInfo, Refused, SendError};
pub use wires::{Heard, PeerChange, Wires};
