//! The roles of an account: the characters that a player can play as.
//!
//! [`install`] gives each login a stream `roles`, on which it lists, creates, deletes and restores
//! its own roles. Game code loads and saves what belongs to a role, and moves roles between
//! servers, through the same entity: `cx.entity::<Roles>(account).load(role)`.
//!
//! Whose roles they are is decided by the session, whose ticket was checked at login; nothing that
//! a client says names an account. Everything is durable when it is answered: an account's roster,
//! the names that are taken on a server, and each role are records, written together.
//!
//! ```
//! # use mainstay::prelude::*;
//! let app = roles::install(App::new("tale"), roles::Options::default());
//! # let _ = app;
//! ```
#![forbid(unsafe_code)]

mod archive;
mod records;
mod roles;

use std::time::Duration;

use mainstay::prelude::*;

pub use archive::{Archive, ArchiveError, IDLE_DAYS_MIN, MONEY, Moved, Rules, Survey};
pub use records::Role;
pub use roles::{Loaded, Roles, RolesError};

/// What holds for all accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Roles that an account may have, on all servers together; deleted ones count while they can
    /// be restored. At most 32.
    pub roles_max: usize,
    /// Characters of a name, at least and at most 32.
    pub name_len_min: usize,
    /// Characters of a name at most.
    pub name_len_max: usize,
    /// How long a deleted role can be restored.
    pub keep_deleted: Duration,
    /// The servers on which roles can be made; empty: any number is one.
    pub servers: Vec<u32>,
    /// Bytes of what belongs to a role.
    pub data_bytes_max: usize,
}

impl Default for Options {
    /// 8 roles, names of 2 to 16 characters, 7 days, any server, 64 KiB.
    fn default() -> Self {
        Options {
            roles_max: 8,
            name_len_min: 2,
            name_len_max: 16,
            keep_deleted: Duration::from_secs(7 * 24 * 3_600),
            servers: Vec::new(),
            data_bytes_max: 64 << 10,
        }
    }
}

/// Adds the roles of accounts to a game.
#[must_use]
pub fn install(app: App, options: Options) -> App {
    add(app, move || Roles::new(options.clone()))
}

/// As [`install`], with an archive: an account that `mainstay data archive` or [`Archive::take`] moved
/// there comes back when it is used.
///
/// Every process that has the roles needs the same archive, so with several it is a server's or a
/// SQLite file.
#[must_use]
pub fn install_with_archive(app: App, options: Options, archive: Archive) -> App {
    add(app, move || Roles::new(options.clone()).with_archive(archive.clone()))
}

fn add(app: App, make: impl Fn() -> Roles + Clone + Send + Sync + 'static) -> App {
    app.entity_with::<Roles>(move |_| make())
        .record::<records::Account>()
        .record::<records::Roster>()
        .record::<records::TakenName>()
        .record::<records::RoleData>()
        .agent::<Roles>("roles")
}
