use std::collections::BTreeMap;
use std::fmt;

use crate::record::RecordWrite;
use crate::row::Writer;
use crate::slots::Slot;
use crate::types::{Claim, Key, Save};

/// Names a transaction for ever. Make it before the first try and keep it with what was asked, so
/// that each later try carries the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxnId(pub u128);

/// Names an item for ever: never used again, not even after the item is gone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId(pub u128);

/// Names a currency.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency(pub u32);

/// Names what sort of thing an item is; the ledger counts items by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemKind(pub u32);

macro_rules! shown {
    ($type:ident, $word:literal, $format:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($word, " ", $format), self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "(", $format, ")"), self.0)
            }
        }
    };
}
shown!(TxnId, "transaction", "{:x}");
shown!(ItemId, "item", "{:x}");
shown!(Currency, "currency", "{}");
shown!(ItemKind, "item kind", "{}");

/// One change of the ledger. A holder is any [`Key`]: an entity, a shop, an escrow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerOp {
    /// Makes an item that never was.
    Make {
        /// Its id.
        item: ItemId,
        /// What it is.
        kind: ItemKind,
        /// Who gets it.
        holder: Key,
        /// What the game keeps of it.
        data: Vec<u8>,
    },
    /// Hands an item over.
    Move {
        /// The item.
        item: ItemId,
        /// Who must have it.
        from: Key,
        /// Who gets it.
        to: Key,
    },
    /// Replaces what the game keeps of an item.
    Change {
        /// The item.
        item: ItemId,
        /// Who must have it.
        holder: Key,
        /// The new data.
        data: Vec<u8>,
    },
    /// Destroys an item. Its id stays used.
    Destroy {
        /// The item.
        item: ItemId,
        /// Who must have it.
        holder: Key,
    },
    /// Makes currency.
    Mint {
        /// Who gets it.
        holder: Key,
        /// Of which currency.
        currency: Currency,
        /// How much.
        amount: u64,
    },
    /// Destroys currency.
    Burn {
        /// Whose balance falls.
        holder: Key,
        /// Of which currency.
        currency: Currency,
        /// How much.
        amount: u64,
    },
    /// Pays from one holder to another.
    Pay {
        /// Whose balance falls.
        from: Key,
        /// Whose balance rises.
        to: Key,
        /// Of which currency.
        currency: Currency,
        /// How much.
        amount: u64,
    },
    /// Sends an item off to another shard or store. From then on it is in transit, and nowhere else
    /// but in the saga that does it.
    SendItem {
        /// The item.
        item: ItemId,
        /// What it must be.
        kind: ItemKind,
        /// Who must have it.
        holder: Key,
        /// What the game must keep of it.
        data: Vec<u8>,
    },
    /// Takes in an item that is in transit.
    ReceiveItem {
        /// The item.
        item: ItemId,
        /// What it is.
        kind: ItemKind,
        /// Who gets it.
        holder: Key,
        /// What the game keeps of it.
        data: Vec<u8>,
    },
    /// Sends currency off to another shard or store; see [`SendItem`](Self::SendItem).
    Send {
        /// Whose balance falls.
        holder: Key,
        /// Of which currency.
        currency: Currency,
        /// How much.
        amount: u64,
    },
    /// Takes in currency that is in transit.
    Receive {
        /// Whose balance rises.
        holder: Key,
        /// Of which currency.
        currency: Currency,
        /// How much.
        amount: u64,
    },
}

/// A message that leaves the store only if its transaction was committed; see
/// [`Store::outbox`](crate::Store::outbox).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// For whom it is.
    pub topic: String,
    /// What is said.
    pub body: Vec<u8>,
}

/// Changes that happen together or not at all, once.
///
/// It is done if no transaction of its id was done before, all `writes`, `claims`, `ledgers` and
/// `records` are as the shard has them, and the ledger allows each step of `ops` in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Its name for ever.
    pub id: TxnId,
    /// The shard's generation.
    pub generation: u64,
    /// Documents to write, each entity at most once. An empty patch compares and raises the version.
    pub writes: Vec<Save>,
    /// Further claims that must hold, of entities that are not written.
    pub claims: Vec<Claim>,
    /// Ledger versions that must be current, by holder. 0: the holder never held anything.
    pub ledgers: BTreeMap<Key, u64>,
    /// Records to write, each at most once.
    pub records: Vec<RecordWrite>,
    /// What changes in the ledger, in this order.
    pub ops: Vec<LedgerOp>,
    /// What is to be told once it is done.
    pub messages: Vec<Message>,
    /// Why, for the audit.
    pub note: String,
    /// When, for the audit and for [`Store::forget`](crate::Store::forget): milliseconds since 1970.
    pub at_ms: u64,
    /// The slot whose shard does it, if nothing else in it says so. One that does nothing and names
    /// none uses up its id in all shards.
    pub slot: Option<Slot>,
}

impl Transaction {
    /// A transaction that does nothing yet.
    pub fn new(id: TxnId, generation: u64) -> Self {
        Transaction {
            id,
            generation,
            writes: Vec::new(),
            claims: Vec::new(),
            ledgers: BTreeMap::new(),
            records: Vec::new(),
            ops: Vec::new(),
            messages: Vec::new(),
            note: String::new(),
            at_ms: 0,
            slot: None,
        }
    }

    /// What a second try under the same id must have in common with the first: SHA-256 of what is
    /// to be changed (patches with their keys, ledger operations, messages, note, records).
    ///
    /// Generation, claims, versions, slot and time are left out: a second try after a failover has others.
    pub fn content_hash(&self) -> [u8; 32] {
        let mut w = Writer::with_room(self.bytes());
        self.put_content(&mut w);
        let digest = ring::digest::digest(&ring::digest::SHA256, w.bytes());
        digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    fn put_content(&self, w: &mut Writer) {
        w.count(self.writes.len());
        for write in &self.writes {
            w.key(write.claim.key);
            w.count(write.patch.len());
            for (name, document) in &write.patch {
                w.text(name);
                w.u8(u8::from(document.is_some()));
                w.blob(document.as_deref().unwrap_or_default());
            }
        }
        w.count(self.ops.len());
        for op in &self.ops {
            w.op(op);
        }
        w.count(self.messages.len());
        for message in &self.messages {
            w.text(&message.topic);
            w.blob(&message.body);
        }
        w.text(&self.note);
        // Without any, the content is that of a time without records.
        if !self.records.is_empty() {
            w.count(self.records.len());
            for record in &self.records {
                record.put_content(w);
            }
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        let documents = self.writes.iter().map(Save::bytes).sum::<usize>();
        let messages = self.messages.iter().map(|m| m.topic.len() + m.body.len()).sum::<usize>();
        let ops = self.ops.iter().map(LedgerOp::bytes).sum::<usize>();
        let records = self.records.iter().map(RecordWrite::bytes).sum::<usize>();
        documents + messages + ops + records + self.note.len() + 64 * (1 + self.claims.len())
    }
}

impl LedgerOp {
    pub(crate) fn bytes(&self) -> usize {
        let data = match self {
            LedgerOp::Make { data, .. }
            | LedgerOp::Change { data, .. }
            | LedgerOp::SendItem { data, .. }
            | LedgerOp::ReceiveItem { data, .. } => data.len(),
            _ => 0,
        };
        64 + data
    }
}

impl Save {
    pub(crate) fn bytes(&self) -> usize {
        let size = |(name, document): (&String, &Option<Vec<u8>>)| {
            name.len() + document.as_ref().map_or(0, Vec::len)
        };
        64 + self.patch.iter().map(size).sum::<usize>()
    }
}

/// What a committed transaction did. Every try of the same transaction gets the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The transaction.
    pub id: TxnId,
    /// Its place among the shard's transactions; the first is 1.
    pub sequence: u64,
    /// The versions of the written entities after it.
    pub versions: BTreeMap<Key, u64>,
    /// The ledger versions of the holders it touched, after it.
    pub ledgers: BTreeMap<Key, u64>,
    /// The balances it touched, after it.
    pub balances: BTreeMap<(Key, Currency), u64>,
}

/// An item as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// Who has it; `None` once it is destroyed.
    pub holder: Option<Key>,
    /// The transaction that last touched it.
    pub last_txn: TxnId,
    /// What the game keeps of it.
    pub data: Vec<u8>,
}

/// All that a holder has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Rises by one with each transaction that touches the holder. 0: never touched.
    pub version: u64,
    /// The balances that are not zero.
    pub balances: BTreeMap<Currency, u64>,
    /// The items.
    pub items: BTreeMap<ItemId, Item>,
}

/// A message of the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Its place in the outbox; consumers skip what they have had.
    pub sequence: u64,
    /// The transaction that sent it.
    pub txn: TxnId,
    /// The message.
    pub message: Message,
}

/// One committed transaction as the audit keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its place; see [`Receipt::sequence`].
    pub sequence: u64,
    /// The transaction.
    pub txn: TxnId,
    /// When, by the clock of whoever committed it: milliseconds since 1970.
    pub at_ms: u64,
    /// What changed in the ledger.
    pub ops: Vec<LedgerOp>,
    /// The claims it showed, written entities first.
    pub claims: Vec<Claim>,
    /// Why.
    pub note: String,
}

/// How much of something was made and destroyed since the shard began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Supply {
    /// Made.
    pub made: u128,
    /// Destroyed.
    pub destroyed: u128,
}

/// What [`Store::verify`](crate::Store::verify) found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Rows that were read.
    pub rows: u64,
    /// What is held now, by currency.
    pub currencies: BTreeMap<Currency, u128>,
    /// How many there are now, by kind of item.
    pub items: BTreeMap<ItemKind, u128>,
    /// What went to other shards and stores less what came from there, by currency. Over all of them
    /// it is what sagas have in transit.
    pub transit: BTreeMap<Currency, i128>,
    /// The same of items, by kind.
    pub items_transit: BTreeMap<ItemKind, i128>,
    /// What does not add up, one line each; at most 100. Empty: all is well.
    pub faults: Vec<String>,
}
