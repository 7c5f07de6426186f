//! Players who trade, and what must be there of it afterwards: for benchmarks in which things fail.

pub mod game;
mod model;

use env::{Clock, Random, WallTime};
use mainstay::client::{CallError, Client, Grant};
use mainstay::prelude::Message;
use mainstay::proto::frame::Status;
use mainstay::proto::ticket::{Claims, TicketKeys};
use mainstay::proto::{AccountId, MethodId};
use std::time::{Duration, Instant};

pub use model::{Model, Op};

/// Items from which on a player destroys some: nobody holds more than the store's limit.
const ITEMS_KEPT: usize = 200;
/// How long a player that was just started is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A ticket for an account, good for a minute.
pub fn grant(keys: &TicketKeys, account: u64) -> Grant {
    let issued = Clock::system().wall();
    let expires = WallTime(issued.0 + 60_000);
    let name = format!("trader {account}");
    let claims = Claims { account: AccountId(account), level: 0, name, issued, expires };
    keys.issue(&mut Random::from_os(), claims)
}

/// Asks a player's entity, again for half a minute while it is being activated, waits for the store or has not
/// answered in time: for what may run twice.
pub async fn ask<A: Message, R: Message>(
    client: &Client,
    method: &str,
    arguments: &A,
) -> Result<R, CallError> {
    let begun = Instant::now();
    loop {
        match client.request("me", MethodId::of(method), arguments).await {
            Err(CallError::Refused(Status::Unavailable) | CallError::Timeout)
                if begun.elapsed() < PATIENCE =>
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            other => return other,
        }
    }
}

/// What a player does next. What it gives away is no longer among its `items`.
pub fn choose(random: &mut Random, account: u64, items: &mut Vec<u64>, players: u64) -> Op {
    // Odd ones never write their documents with a deal, so that their levels are D1 alone.
    match random.below(4) {
        0 if account.is_multiple_of(2) => Op::Train,
        0 | 1 if items.len() > ITEMS_KEPT => Op::Melt { item: take(random, items) },
        1 | 2 if !items.is_empty() => {
            let item = take(random, items);
            Op::Sell { item, to: 1 + (account + random.below(players - 1)) % players }
        }
        _ => Op::Mint,
    }
}

fn take(random: &mut Random, items: &mut Vec<u64>) -> u64 {
    let at = random.below(items.len() as u64) as usize;
    items.swap_remove(at)
}

/// Has it done as transaction `id`. `sell` is the method by which it sells.
pub async fn trade(client: &Client, sell: &str, id: u64, op: Op) -> Result<u64, CallError> {
    let method = MethodId::of(match op {
        Op::Mint => "mint",
        Op::Order => "order",
        Op::Train => "train",
        Op::Sell { .. } => sell,
        Op::Melt { .. } => "melt",
    });
    match op {
        Op::Mint | Op::Order | Op::Train => client.request("me", method, &(id,)).await,
        Op::Sell { item, to } => client.request("me", method, &(id, item, to)).await,
        Op::Melt { item } => client.request("me", method, &(id, item)).await,
    }
}

/// Notes among a player's `items` how it ended.
pub fn note(items: &mut Vec<u64>, id: u64, op: Op, done: &Result<u64, CallError>) {
    match (done, op) {
        (Ok(_), Op::Mint | Op::Order) => items.push(id),
        // Not done, for want of gold or because two asked each other.
        (Err(CallError::App(_)), Op::Sell { item, .. } | Op::Melt { item }) => items.push(item),
        _ => {}
    }
}
