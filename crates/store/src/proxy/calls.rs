//! What a data process is asked.

use std::time::Duration;

use super::wire::{In, Names, Wire};
use crate::answer::Answer;
use crate::dump::{Place, RawRow};
use crate::error::Error;
use crate::ledger::{
    AuditEntry, Holdings, Item, ItemId, Outgoing, Receipt, Supply, Transaction, TxnId, Verdict,
};
use crate::record::{Lock, LockAsk, Record, RecordId, RecordWrite, Records};
use crate::row::{Damaged, Writer};
use crate::rules::{Activations, Of};
use crate::store::Store;
use crate::types::{Activate, Activated, Claim, Entity, Incarnation, Key, NodeBeat, Pulse, Save};

/// What to do with a request whose answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// Ask again: it changes nothing, or nothing more the second time.
    Ask,
    /// Look the transaction up.
    LookUp(TxnId),
    /// Nobody knows.
    Unknown,
}

/// A request.
#[expect(private_bounds, reason = "nobody outside sends anything")]
pub(crate) trait Call: Wire {
    /// What is answered.
    type Told: Wire + Send + 'static;
    /// Its number, for ever.
    const NUMBER: u8;

    fn again(&self) -> Again;
}

macro_rules! calls {
    ($($number:literal $name:ident { $($field:ident: $type:ty),* } -> $told:ty,
        $again:expr, $method:ident;)*) =>
    {
        $(
            pub(crate) struct $name {
                $(pub $field: $type),*
            }

            impl Wire for $name {
                fn put(&self, w: &mut Writer) {
                    let $name { $($field),* } = self;
                    $($field.put(w);)*
                    let _ = w;
                }

                fn take(r: &mut In<'_>) -> Result<Self, Damaged> {
                    $(let $field = Wire::take(r)?;)*
                    let _ = r;
                    Ok($name { $($field),* })
                }
            }

            impl Call for $name {
                type Told = $told;
                const NUMBER: u8 = $number;

                fn again(&self) -> Again {
                    let again: fn(&Self) -> Again = $again;
                    again(self)
                }
            }
        )*

        /// The numbers of all calls, and what they are called in metrics.
        pub(super) const CALLS: &[(u8, &str)] = &[$(($number, stringify!($method))),*];

        /// Has a request done; `tell` gets the answer's bytes, and the error if it is one, perhaps on the
        /// store's thread.
        pub(super) fn serve(
            store: &Store,
            number: u8,
            bytes: &[u8],
            tell: impl FnOnce(Vec<u8>, Option<&Error>) + Send + 'static,
        ) -> Result<(), Damaged> {
            let names = Names::default();
            let mut r = In::new(bytes, &names);
            match number {
                $($number => {
                    let $name { $($field),* } = $name::take(&mut r)?;
                    r.end()?;
                    let answer: Answer<$told> = store.$method($($field),*);
                    answer.on_ready(move |told| {
                        let mut w = Writer::new();
                        told.put(&mut w);
                        tell(w.into_bytes(), told.as_ref().err());
                    });
                })*
                _ => return Err(Damaged),
            }
            Ok(())
        }
    };
}

calls! {
    1 Beat { incarnation: Incarnation } -> Pulse, |_| Again::Ask, beat;
    2 Nodes {} -> Vec<NodeBeat>, |_| Again::Ask, nodes;
    3 Node { incarnation: Incarnation } -> Option<NodeBeat>, |_| Again::Ask, node;
    4 MarkDead { incarnation: Incarnation, beat: u64 } -> (), |_| Again::Ask, mark_dead;
    5 Generation {} -> u64, |_| Again::Ask, generation;
    6 RaiseGeneration { current: u64 } -> u64, |_| Again::Unknown, raise_generation;
    7 ActivateOne { ask: Activate } -> Activated, |_| Again::Unknown, activate;
    8 ActivateMany { asks: Vec<Activate> } -> Activations, |_| Again::Unknown, activate_many;
    9 Release { claim: Claim, version: u64 } -> (), |_| Again::Unknown, release;
    10 SaveOne { save: Save } -> u64, |_| Again::Unknown, save;
    11 Load { key: Key } -> Option<Entity>, |_| Again::Ask, load;
    12 Commit { txn: Transaction } -> Receipt, |call| Again::LookUp(call.txn.id), commit;
    13 Lookup { id: TxnId } -> Option<Receipt>, |_| Again::Ask, lookup;
    14 HoldingsOf { holder: Key } -> Holdings, |_| Again::Ask, holdings;
    15 ItemOf { id: ItemId } -> Option<Item>, |_| Again::Ask, item;
    16 SupplyOf { of: Of } -> Supply, |_| Again::Ask, supply;
    17 Outbox { after: u64, max: usize } -> Vec<Outgoing>, |_| Again::Ask, outbox;
    18 OutboxAck { up_to: u64 } -> usize, |_| Again::Ask, outbox_ack;
    19 Audit { after: u64, max: usize } -> Vec<AuditEntry>, |_| Again::Ask, audit;
    20 Forget { before_ms: u64 } -> usize, |_| Again::Ask, forget;
    21 ReadRecords { ids: Vec<RecordId> } -> Records, |_| Again::Ask, records;
    22 ScanRecords { kind: u32, after: Option<Vec<u8>>, max: usize }
        -> Vec<(Vec<u8>, Record)>, |_| Again::Ask, scan_records;
    23 WriteRecords { generation: u64, writes: Vec<RecordWrite> }
        -> Vec<u64>, |_| Again::Unknown, write_records;
    24 LockRecord { ask: LockAsk } -> (Lock, Records), |_| Again::Unknown, lock_record;
    25 RenewLock { id: RecordId, fence: u64 } -> (), |_| Again::Ask, renew_lock;
    26 UnlockRecord { id: RecordId, fence: u64 } -> (), |_| Again::Unknown, unlock_record;
    27 Verify {} -> Verdict, |_| Again::Ask, verify;
    28 LoadAged { key: Key, age_max: Duration } -> Option<Entity>, |_| Again::Ask, load_aged;
    29 ReadRecordsAged { ids: Vec<RecordId>, age_max: Duration }
        -> Records, |_| Again::Ask, records_aged;
    30 ScanRecordsAged { kind: u32, after: Option<Vec<u8>>, max: usize, age_max: Duration }
        -> Vec<(Vec<u8>, Record)>, |_| Again::Ask, scan_records_aged;
    31 Rows { after: Option<Place>, bytes_max: usize } -> Vec<RawRow>, |_| Again::Ask, rows;
    32 ShardNames {} -> Vec<String>, |_| Again::Ask, shard_names;
}
