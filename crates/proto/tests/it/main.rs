//! Tests of the wire: one binary, so that they link once.

mod document;
mod message;
mod samples;
mod schema;
mod stream;
mod vectors;
mod wire;
