//! Scripted players: one thread drives thousands of them over real connections, checks every
//! answer, and says at the end whether all went well.
#![forbid(unsafe_code)]

mod bot;
mod grants;
mod histogram;
mod load;
mod player;
mod summary;
mod swarm;

pub use bot::{Bot, Script, Tag};
pub use grants::{GrantError, GrantSource, GuestGrants, KeyGrants};
pub use histogram::Histogram;
pub use load::{Churn, Load};
pub use summary::{Progress, Summary};
pub use swarm::{Options, Stopper, Swarm, SwarmError};
