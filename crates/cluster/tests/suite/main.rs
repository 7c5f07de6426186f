//! The coordinator as its users see it, on every backend.

mod bench;
mod conformance;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "etcd")]
mod guarded;
mod local;
