//! Tests of the wire: one binary, so that they link once.

mod document;
mod generate;
mod hostile;
mod message;
mod samples;
mod schema;
mod stream;
mod targets;
mod vectors;
mod wire;
