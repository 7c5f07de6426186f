//! What is kept.

use mainstay::prelude::*;

/// One role as lists show it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct Role {
    /// Names it for ever.
    pub id: u64,
    /// The server that it lives on.
    pub server: u32,
    /// What others see. No two of one server have the same.
    pub name: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it was deleted, in milliseconds since 1970.
    pub deleted_ms: Option<u64>,
}

/// The roles of one account, in the order in which they were made.
#[derive(Debug, Default, Document)]
#[document(record = "roles.roster", key = u64)]
pub struct Roster {
    #[persist(len = ..=32)]
    pub roles: Vec<Role>,
}

/// When an account was used, and where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Document)]
#[document(record = "roles.account", key = u64)]
pub struct Account {
    /// When it was last used, in milliseconds since 1970; up to a day may be missing.
    #[persist]
    pub seen_ms: u64,
    /// Why it is not archived, such as a guild that it leads.
    #[persist(len = ..=16)]
    pub keeps: Vec<String>,
    /// Which copy in the archive has its roster and roles; `None`: they are here.
    #[persist]
    pub archived: Option<u64>,
}

/// That a name is taken on a server: the key is the server and the name in lower case.
#[derive(Debug, Default, Document)]
#[document(record = "roles.name", key = (u32, String))]
pub struct TakenName {
    /// By which role.
    #[persist]
    pub role: u64,
    /// Until when, in milliseconds since 1970, if that role is deleted.
    #[persist]
    pub until_ms: Option<u64>,
}

/// What belongs to a role.
#[derive(Debug, Default, Document)]
#[document(record = "roles.data", key = u64)]
pub struct RoleData {
    /// The account that it is of.
    #[persist]
    pub account: u64,
    /// What the game keeps.
    #[persist]
    pub data: Bytes,
}
