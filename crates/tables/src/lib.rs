//! Enhanced JSON: comments, trailing commas, typed macros; and reading it into typed options
//! with errors that name file, line, column and the nearest valid name.
//!
//! Pure: bytes in, values out. Whoever calls it reads the files.
#![forbid(unsafe_code)]

mod expand;
mod nearest;
mod parse;
mod place;
mod read;
mod units;
mod value;

pub use nearest::nearest;
pub use parse::{Limits, parse, setting};
pub use place::{Place, Problem};
pub use read::{Item, Problems, Section};
pub use units::{parse_bytes, parse_duration, show_bytes, show_duration};
pub use value::{Data, Entry, Leaf, Map, Value};
