//! The bus as its users see it, on every backend.

mod bench;
mod conformance;
mod desk;
#[cfg(any(feature = "nats", feature = "rabbitmq"))]
mod servers_of_buses;
mod trigger;
