//! Scenes: fixed steps, who sees what, and what each client must be told. Pure and deterministic.
//!
//! A scene's loop is: take the inputs, run the systems on the [`ecs`] world, write what changed to
//! a [`Board`], and let each [`Viewer`] write one packet for its client.
#![forbid(unsafe_code)]

mod board;
mod grid;
mod packet;
mod stepper;
mod viewer;

/// The entity-component world that scenes use (the `hecs` crate).
pub use hecs as ecs;

pub use board::{Board, COMPONENTS_MAX, Layout, LayoutError, ReplicaId};
pub use grid::{Grid, GridOptions};
pub use packet::{Mirror, PacketError, Replica};
pub use stepper::{Stepper, StepperOptions, Steps};
pub use viewer::{Viewer, ViewerOptions, Written};
