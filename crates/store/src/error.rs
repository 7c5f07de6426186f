use crate::ledger::{Currency, ItemId, TxnId};
use crate::record::{Lock, RecordId};
use crate::slots::Slot;
use crate::types::{Incarnation, Key, Owner};

/// Why a shard did not do what was asked. Each variant says what the caller can do.
///
/// Except for [`Error::Unknown`], nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The shard failed over: activate again all that you own in it.
    #[error("the shard is at generation {current} by now")]
    Generation {
        /// The shard's generation.
        current: u64,
    },
    /// Final for this claim: somebody else has, or nobody has, the entity. Drop it at once.
    #[error("the claim on {key} has ended; it stands as {owner:?}")]
    Fenced {
        /// The entity.
        key: Key,
        /// Its owner row, `None` if it was never activated.
        owner: Option<Owner>,
    },
    /// The documents are not at the version that the write builds on: load and decide again.
    #[error("{key} is at version {current}")]
    Conflict {
        /// The entity.
        key: Key,
        /// Its version.
        current: u64,
    },
    /// A node that is not known to be dead has the entity: send to it, or try later.
    #[error("{key} belongs to {}, epoch {}", owner.incarnation, owner.epoch)]
    Owned {
        /// The entity.
        key: Key,
        /// Its owner row.
        owner: Owner,
    },
    /// Final: that incarnation was declared dead. A node told so of itself drops all that it owns
    /// in the shard and comes back as a new incarnation.
    #[error("{0} is dead")]
    Dead(Incarnation),
    /// That incarnation never beat in this shard: beat first.
    #[error("{0} never beat in this shard")]
    UnknownNode(Incarnation),
    /// The node beat since it was seen, so it lives: watch on from here.
    #[error("{incarnation} is at beat {current}")]
    BeatMoved {
        /// The node.
        incarnation: Incarnation,
        /// Its beat counter.
        current: u64,
    },
    /// The holder's ledger moved since it was read: read and decide again.
    #[error("the ledger of {holder} is at version {current}")]
    LedgerMoved {
        /// The holder.
        holder: Key,
        /// Its ledger version.
        current: u64,
    },
    /// The record is not at the version that the write builds on: read and decide again.
    #[error("{id} is at version {current}")]
    RecordConflict {
        /// The record.
        id: RecordId,
        /// Its version.
        current: u64,
    },
    /// Another record has the value, of which there may be one in that index: choose another value.
    #[error("a value of the index {index} is that of {by} already")]
    Taken {
        /// The index.
        index: Box<str>,
        /// Who has the value.
        by: RecordId,
    },
    /// Somebody else has the record to itself: try later. Whoever has seen the lock unchanged for
    /// its expiry may break it.
    #[error("{id} is locked")]
    Locked {
        /// The record.
        id: RecordId,
        /// Its lock.
        lock: Lock,
    },
    /// Final for that lock: it was given back or broken. What was to be written under it is not.
    #[error("the lock on {0} has ended")]
    LockLost(RecordId),
    /// The ledger's rules do not allow it: tell whoever asked. No part was done.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A mistake in the caller: the id stands for another transaction already.
    #[error("{0} was committed with another content")]
    TxnReused(TxnId),
    /// A mistake in the caller: divide it, or store less.
    #[error("too large: {what} of {size}, at most {max}")]
    TooLarge {
        /// What is too large, with its unit.
        what: &'static str,
        /// How large it is.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// A mistake in the caller that another try does not mend.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// Too much is waiting: back off, then retry.
    #[error("the store's queue is full")]
    Busy,
    /// Nothing was done: the server of the store cannot be reached, or refuses. Back off, then
    /// retry; the store connects again by itself.
    #[error("the store's server is away: {0}")]
    Unavailable(String),
    /// Its slot is another shard's: ask that. A [`Store`](crate::Store) over all shards does so by
    /// itself.
    #[error("{slot} is with shard {to:?}, version {version}")]
    Moved {
        /// The slot.
        slot: Slot,
        /// The shard that has it; empty if this one does not know.
        to: String,
        /// The version since which it is there.
        version: u64,
        /// The move.
        token: u64,
        /// The slot's generation.
        generation: u64,
    },
    /// Nothing was done: its slot is about to be another shard's. Retry soon.
    #[error("{slot} is moving")]
    Moving {
        /// The slot.
        slot: Slot,
        /// The move.
        token: u64,
        /// Whether it is coming, not going.
        is_arriving: bool,
    },
    /// Final for this move: it was given up, or another has begun.
    #[error("the move of {0} has ended")]
    MoveEnded(Slot),
    /// It concerns two shards, so it cannot be one transaction: do it in steps, each in one shard.
    #[error("it concerns shards {one:?} and {other:?}: no transaction is across shards")]
    AcrossShards {
        /// One of the shards.
        one: String,
        /// Another.
        other: String,
    },
    /// The row exists and cannot be read: keep away from it and restore it from a backup.
    #[error("a stored row is damaged: {table} {key}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The row's key in hexadecimal.
        key: String,
    },
    /// Nothing was done, and nothing will be: the process has to open the store anew.
    #[error("the store has stopped: {0}")]
    Stopped(String),
    /// It may have been done or not. Look the transaction up or load the entity (in an embedded
    /// store after it was opened anew, on a server as soon as it answers); never repeat it
    /// blindly.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// What the ledger does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A balance would become negative.
    #[error("{holder} has {has} of {currency}, {needs} are needed")]
    Insufficient {
        /// Whose balance.
        holder: Key,
        /// In which currency.
        currency: Currency,
        /// The balance.
        has: u64,
        /// The amount to take.
        needs: u64,
    },
    /// A balance would not fit 64 bits.
    #[error("the balance of {holder} in {currency} would overflow")]
    Overflow {
        /// Whose balance.
        holder: Key,
        /// In which currency.
        currency: Currency,
    },
    /// An item of that id exists, or did once.
    #[error("{0} was made before")]
    ItemExists(ItemId),
    /// The item is not with that holder.
    #[error("{item} is not with {holder}")]
    NotHeld {
        /// The item.
        item: ItemId,
        /// Who should have it.
        holder: Key,
    },
    /// The item is not what it was when its way to another shard was planned: plan anew.
    #[error("{0} was changed meanwhile")]
    ItemChanged(ItemId),
    /// The holder has as many items as one may have.
    #[error("{0} has no room for another item")]
    ItemsFull(Key),
    /// The holder has as many currencies as one may have.
    #[error("{0} has no room for another currency")]
    CurrenciesFull(Key),
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process, or another handle of this one, has it open.
    #[error("{0} is in use by another process; an embedded store is for one")]
    InUse(String),
    /// The file is there but empty: it was truncated. Restore it, or remove it to start anew.
    #[error("{0} is empty, which no store ever is; restore it from a backup")]
    Empty(String),
    /// The file was written by a newer version: update, or restore a backup.
    #[error("{path} has format {found}, this version knows up to {known}")]
    Newer {
        /// The file.
        path: String,
        /// Its format.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// The file is no store of Mainstay, or is damaged: restore it from a backup.
    #[error("{path} cannot be read as a store: {reason}")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The server cannot be reached: see that it runs and that the address is right, then retry.
    #[error("{server} cannot be reached: {reason}")]
    Away {
        /// Where it should be.
        server: String,
        /// What happened.
        reason: String,
    },
    /// The server does not let us in: mend user, password, database or rights.
    #[error("{server} refuses: {reason}")]
    Denied {
        /// Where it is.
        server: String,
        /// What it said.
        reason: String,
    },
    /// The server could lose what it has acknowledged: set what is named there, or accept the loss
    /// (`ServerOptions::accept_loss`).
    #[error("{server} may lose what it acknowledged: {reason}")]
    NotDurable {
        /// Where it is.
        server: String,
        /// What to set there.
        reason: String,
    },
    /// A mistake in the address or options.
    #[error("the store's address is of no use: {0}")]
    Malformed(String),
    /// The shards of a set do not belong together as they are named.
    #[error("these shards do not make a store: {0}")]
    Shards(String),
    /// The operating system refused.
    #[error("cannot open {path}: {source}")]
    Io {
        /// The file or folder.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}
