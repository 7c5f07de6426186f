//! Workers, entities, components, services, sessions and groups.

pub mod pattern;
pub mod route;
pub mod session;
