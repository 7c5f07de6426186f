//! Orders about users from any program that may use the bus: push to them, close them.

use bus::Delivery;
use proto::MethodId;
use proto::codec::Bytes;
use proto::frame::CloseCode;
use proto::{AccountId, encode};

use crate::cx::PushMode;
use crate::pull::{Done, Queue, Work};
use crate::users::Chosen;

/// The topic of orders about users.
pub const USERS_TOPIC: &str = "users.orders";

/// What is to be done with which users. Any language can write it: a MessagePack array, described at
/// [`encode`](Self::encode).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsersOrder {
    /// `accounts`, `all`, `logged_in` or `not_logged_in`.
    pub whom: String,
    /// For `accounts`: which.
    pub accounts: Vec<u64>,
    /// Only those that have all these tags, 32 at most.
    pub tags: Vec<String>,
    /// Not these accounts.
    pub except: Vec<u64>,
    /// `push`, or `close`.
    pub act: String,
    /// The name of the client's method, or the reason that the clients are told.
    pub text: String,
    /// The method's arguments, as the client reads them.
    pub arguments: Vec<u8>,
}

type Wire = (String, Vec<u64>, Vec<String>, Vec<u64>, String, String, Bytes);

impl UsersOrder {
    /// The array `[whom, accounts, tags, except, act, text, arguments]`, the last one as binary.
    pub fn encode(&self) -> Vec<u8> {
        let UsersOrder { whom, accounts, tags, except, act, text, arguments } = self.clone();
        let wire: Wire = (whom, accounts, tags, except, act, text, Bytes(arguments));
        encode(&wire)
    }

    /// The pull workers that carry orders out. Run them where sessions are at home.
    pub fn queue() -> Queue {
        Queue::topic("users", (USERS_TOPIC, Delivery::AtLeastOnce), carry_out)
    }
}

async fn carry_out(wire: Wire, work: Work) -> Done {
    let (whom, accounts, tags, except, act, text, arguments) = wire;
    if tags.len() > proto::link::TAGS_MAX {
        return Err(format!("{} tags are too many", tags.len()).into());
    }
    let users = work.users();
    let chosen = match whom.as_str() {
        "accounts" => users.many(accounts.into_iter().map(AccountId)),
        "all" => users.all(),
        "logged_in" => users.logged_in(),
        "not_logged_in" => users.not_logged_in(),
        other => return Err(format!("{other:?} names no users").into()),
    };
    let chosen = tags.iter().fold(chosen, |chosen, tag| Chosen::with_tag(chosen, tag));
    let chosen = chosen.without(except.into_iter().map(AccountId));
    match act.as_str() {
        "push" => chosen.push_raw(MethodId::of(&text), PushMode::Reliable, arguments.0),
        "close" => chosen.kick(CloseCode::Kicked, &text),
        other => return Err(format!("{other:?} is nothing that can be done with users").into()),
    }
    let outcome = chosen.outcome().await;
    tracing::info!(act, ?outcome, "an order about users");
    Ok(())
}
