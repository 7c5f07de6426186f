//! What a worker asks of the store, and what it is told.

use proto::EntityId;
use store::{
    Activate, Activated, Claim, Entity, Error, Holdings, Key, Receipt, Save, Store, Transaction,
    TxnId,
};

use super::records::{RecordAsk, RecordTold};

/// A request to the store. Exactly one [`Told`] answers each.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Ask {
    /// Take these entities.
    Activate(Vec<(EntityId, Activate)>),
    /// Write what changed.
    Save(EntityId, Save),
    /// Give an entity back.
    Release(EntityId, Claim, u64),
    /// Read an entity, to learn what became of a write.
    Load(EntityId, u64),
    /// Do a transaction.
    Commit(u64, Box<Transaction>),
    /// Learn whether a transaction was done.
    LookUp(u64, TxnId),
    /// Read what a holder has.
    Holdings(u64, Key),
    /// Read, write or lock records.
    Record(u64, RecordAsk),
}

/// An answer of the store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Told {
    /// What became of each activation.
    Activated(Vec<(EntityId, Result<Activated, Error>)>),
    /// What became of a write under that epoch.
    Saved(EntityId, u64, Result<u64, Error>),
    /// What became of a release under that epoch.
    Released(EntityId, u64, Result<(), Error>),
    /// An entity as it is stored, asked for under that epoch.
    Loaded(EntityId, u64, Result<Option<Entity>, Error>),
    /// What became of a transaction.
    Committed(u64, Result<Receipt, Error>),
    /// Whether a transaction was done.
    LookedUp(u64, Result<Option<Receipt>, Error>),
    /// What a holder has.
    Held(u64, Result<Holdings, Error>),
    /// What became of a request about records.
    Record(u64, Result<RecordTold, Error>),
}

impl Ask {
    /// Puts the request to `store`; `tell` gets the answer, perhaps at once, perhaps on the
    /// store's thread.
    pub fn submit(self, store: &Store, tell: impl FnOnce(Told) + Send + 'static) {
        match self {
            Ask::Activate(asks) => {
                let (ids, asks): (Vec<_>, Vec<_>) = asks.into_iter().unzip();
                store.activate_many(asks).on_ready(move |result| {
                    let each = match result {
                        Ok(each) => ids.into_iter().zip(each).collect(),
                        Err(error) => ids.into_iter().map(|id| (id, Err(error.clone()))).collect(),
                    };
                    tell(Told::Activated(each));
                });
            }
            Ask::Save(id, save) => {
                let epoch = save.claim.epoch;
                store.save(save).on_ready(move |result| tell(Told::Saved(id, epoch, result)));
            }
            Ask::Release(id, claim, version) => {
                let epoch = claim.epoch;
                let answer = store.release(claim, version);
                answer.on_ready(move |result| tell(Told::Released(id, epoch, result)));
            }
            Ask::Load(id, epoch) => {
                let answer = store.load(key_of(id));
                answer.on_ready(move |result| tell(Told::Loaded(id, epoch, result)));
            }
            Ask::Commit(tag, txn) => {
                store.commit(*txn).on_ready(move |result| tell(Told::Committed(tag, result)));
            }
            Ask::LookUp(tag, id) => {
                store.lookup(id).on_ready(move |result| tell(Told::LookedUp(tag, result)));
            }
            Ask::Holdings(tag, holder) => {
                store.holdings(holder).on_ready(move |result| tell(Told::Held(tag, result)));
            }
            Ask::Record(tag, ask) => {
                ask.submit(store, move |result| tell(Told::Record(tag, result)))
            }
        }
    }
}

/// Under which key an entity is stored: its kind, then its key.
pub fn key_of(id: EntityId) -> Key {
    Key(u128::from(id.kind.0) << 64 | u128::from(id.key))
}
