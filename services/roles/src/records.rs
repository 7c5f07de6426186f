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
