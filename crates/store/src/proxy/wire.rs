//! Requests and answers as bytes, with the writer and reader of rows.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::dump::{Place, RawRow};
use crate::error::{Error, Refusal};
use crate::index::IndexEntry;
use crate::ledger::{
    AuditEntry, Currency, Holdings, Item, ItemId, ItemKind, LedgerOp, Message, Outgoing, Receipt,
    Supply, Transaction, TxnId, Verdict,
};
use crate::record::{Change, Lock, LockAsk, Record, RecordId, RecordWrite, Records};
use crate::row::{Damaged, Reader, Writer};
use crate::rules::Of;
use crate::slots::Slot;
use crate::types::{
    Activate, Activated, Claim, Entity, Incarnation, Key, NodeBeat, Owner, Pulse, Save,
};

/// Names in errors that another process may tell, and their bytes.
const NAMES_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 128;

/// Names in errors are literals of the program. Those that another process tells are kept here for ever,
/// which is why they are few.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<BTreeMap<String, &'static str>>);

impl Names {
    fn name(&self, text: &str) -> &'static str {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = names.get(text) {
            return name;
        }
        if names.len() >= NAMES_MAX || text.len() > NAME_BYTES_MAX {
            return "as the data process says";
        }
        let name: &'static str = Box::leak(text.to_owned().into_boxed_str());
        names.insert(text.to_owned(), name);
        name
    }
}

/// What is read.
pub(super) struct In<'a> {
    r: Reader<'a>,
    names: &'a Names,
}

impl<'a> In<'a> {
    pub fn new(bytes: &'a [u8], names: &'a Names) -> Self {
        In { r: Reader::new(bytes), names }
    }

    /// Nothing may be left.
    pub fn end(&self) -> Result<(), Damaged> {
        if self.r.is_empty() { Ok(()) } else { Err(Damaged) }
    }
}

/// What can be sent.
pub(super) trait Wire: Sized {
    fn put(&self, w: &mut Writer);
    fn take(r: &mut In<'_>) -> Result<Self, Damaged>;

    fn put_all(all: &[Self], w: &mut Writer) {
        w.count(all.len());
        all.iter().for_each(|one| one.put(w));
    }

    fn take_all(r: &mut In<'_>) -> Result<Vec<Self>, Damaged> {
        // No more than there are bytes, so nothing is allocated for a count alone.
        (0..r.r.count()?).map(|_| Self::take(r)).collect()
    }
}

impl Wire for u8 {
    fn put(&self, w: &mut Writer) {
        w.u8(*self);
    }

    fn take(r: &mut In<'_>) -> Result<Self, Damaged> {
        r.r.u8()
    }

    fn put_all(all: &[Self], w: &mut Writer) {
        w.blob(all);
    }

    fn take_all(r: &mut In<'_>) -> Result<Vec<Self>, Damaged> {
        r.r.blob()
    }
}

macro_rules! numbers {
    ($($type:ident)*) => {$(
        impl Wire for $type {
            fn put(&self, w: &mut Writer) {
                w.$type(*self);
            }

            fn take(r: &mut In<'_>) -> Result<Self, Damaged> {
                r.r.$type()
            }
        }
    )*};
}

numbers!(u32 u64 u128);

impl Wire for usize {
    fn put(&self, w: &mut Writer) {
        w.u64(*self as u64);
    }

    fn take(r: &mut In<'_>) -> Result<Self, Damaged> {
        Ok(usize::try_from(r.r.u64()?).unwrap_or(usize::MAX))
    }
}

impl Wire for i128 {
    fn put(&self, w: &mut Writer) {
        w.u128(*self as u128);
    }

    fn take(r: &mut In<'_>) -> Result<Self, Damaged> {
        Ok(r.r.u128()? as i128)
    }
}

impl Wire for bool {
    fn put(&self, w: &mut Writer) {
        w.u8(u8::from(*self));
    }

    fn take(r: &mut In<'_>) -> Result<Self, Damaged> {
        r.r.flag()
    }
}

impl Wire for () {
    fn put(&self, _: &mut Writer) {}

    fn take(_: &mut In<'_>) -> Result<Self, Damaged> {
        Ok(())
    }
}

impl Wire for String {
    fn put(&self, w: &mut Writer) {
        w.text(self);
    }

    fn take(r: &mut In<'_>) -> Result<Self, Damaged> {
        r.r.text()
    }
}

impl Wire for Box<str> {
    fn put(&self, w: &mut Writer) {
        w.text(self);
    }

    fn take(r: &mut In<'_>) -> Result<Self, Damaged> {
        r.r.text().map(String::into_boxed_str)
    }
}

impl Wire for &'static str {
    fn put(&self, w: &mut Writer) {
        w.text(self);
    }

    fn take(r: &mut In<'_>) -> Result<Self, Damaged> {
        let text = r.r.text()?;
        Ok(r.names.name(&text))
    }
}

impl Wire for Duration {
    fn put(&self, w: &mut Writer) {
        w.u64(u64::try_from(self.as_micros()).unwrap_or(u64::MAX));
    }

    fn take(r: &mut In<'_>) -> Result<Self, Damaged> {
        r.r.u64().map(Duration::from_micros)
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, w: &mut Writer) {
        T::put_all(self, w);
    }

    fn take(r: &mut In<'_>) -> Result<Self, Damaged> {
        T::take_all(r)
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, w: &mut Writer) {
        w.u8(u8::from(self.is_some()));
        if let Some(value) = self {
            value.put(w);
        }
    }

    fn take(r: &mut In<'_>) -> Result<Self, Damaged> {
        r.r.flag()?.then(|| T::take(r)).transpose()
    }
}

impl<T: Wire, E: Wire> Wire for Result<T, E> {
    fn put(&self, w: &mut Writer) {
        w.u8(u8::from(self.is_err()));
        match self {
            Ok(value) => value.put(w),
            Err(error) => error.put(w),
        }
    }

    fn take(r: &mut In<'_>) -> Result<Self, Damaged> {
        Ok(if r.r.flag()? { Err(E::take(r)?) } else { Ok(T::take(r)?) })
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, w: &mut Writer) {
        self.0.put(w);
        self.1.put(w);
    }

    fn take(r: &mut In<'_>) -> Result<Self, Damaged> {
        Ok((A::take(r)?, B::take(r)?))
    }
}

impl<K: Wire + Ord, V: Wire> Wire for BTreeMap<K, V> {
    fn put(&self, w: &mut Writer) {
        w.count(self.len());
        for (key, value) in self {
            key.put(w);
            value.put(w);
        }
    }

    fn take(r: &mut In<'_>) -> Result<Self, Damaged> {
        (0..r.r.count()?).map(|_| Ok((K::take(r)?, V::take(r)?))).collect()
    }
}

macro_rules! wrappers {
    ($($type:ident)*) => {$(
        impl Wire for $type {
            fn put(&self, w: &mut Writer) {
                self.0.put(w);
            }

            fn take(r: &mut In<'_>) -> Result<Self, Damaged> {
                Wire::take(r).map($type)
            }
        }
    )*};
}

wrappers!(Key Incarnation TxnId ItemId ItemKind Currency);

impl Wire for Slot {
    fn put(&self, w: &mut Writer) {
        w.u32(self.0.into());
    }

    fn take(r: &mut In<'_>) -> Result<Self, Damaged> {
        u16::try_from(r.r.u32()?).map(Slot).map_err(|_| Damaged)
    }
}

impl Wire for LedgerOp {
    fn put(&self, w: &mut Writer) {
        w.op(self);
    }

    fn take(r: &mut In<'_>) -> Result<Self, Damaged> {
        r.r.op()
    }
}

macro_rules! structs {
    ($($type:ident { $($field:ident),* })*) => {$(
        impl Wire for $type {
            fn put(&self, w: &mut Writer) {
                // Every field, so that a new one is not forgotten here.
                let $type { $($field),* } = self;
                $($field.put(w);)*
            }

            fn take(r: &mut In<'_>) -> Result<Self, Damaged> {
                $(let $field = Wire::take(r)?;)*
                Ok($type { $($field),* })
            }
        }
    )*};
}

structs! {
    Pulse { generation, beat }
    NodeBeat { incarnation, alive, beat }
    Owner { epoch, incarnation, released }
    Claim { key, generation, epoch, incarnation }
    Entity { owner, version, documents }
    Activate { key, generation, incarnation, reclaim }
    Activated { claim, version, documents }
    Save { claim, version, patch }
    Message { topic, body }
    Transaction {
        id, generation, writes, claims, ledgers, records, ops, messages, note, at_ms, slot
    }
    Receipt { id, sequence, versions, ledgers, balances }
    Item { kind, holder, last_txn, data }
    Holdings { version, balances, items }
    Outgoing { sequence, txn, message }
    AuditEntry { sequence, txn, at_ms, ops, claims, note }
    Supply { made, destroyed }
    Verdict { rows, currencies, items, transit, items_transit, faults }
    RecordId { kind, key }
    Record { version, body, lock }
    Lock { fence, beat, expiry_ms }
    Records { generation, records }
    LockAsk { id, expiry_ms, seen }
    RecordWrite { id, version, change, fence, unlock }
    IndexEntry { index, value, unique }
    Place { table, key }
    RawRow { place, bytes }
}

macro_rules! enums {
    ($($type:ident { $($number:literal $form:ident $({ $($field:ident),* })? $(( $($value:ident),* ))?;)* })*) => {$(
        impl Wire for $type {
            fn put(&self, w: &mut Writer) {
                match self {
                    $($type::$form $({ $($field),* })? $(( $($value),* ))? => {
                        w.u8($number);
                        $($($field.put(w);)*)?
                        $($($value.put(w);)*)?
                    })*
                }
            }

            fn take(r: &mut In<'_>) -> Result<Self, Damaged> {
                Ok(match r.r.u8()? {
                    $($number => {
                        $($(let $field = Wire::take(r)?;)*)?
                        $($(let $value = Wire::take(r)?;)*)?
                        $type::$form $({ $($field),* })? $(( $($value),* ))?
                    })*
                    _ => return Err(Damaged),
                })
            }
        }
    )*};
}

enums! {
    Of {
        1 Currency(currency);
        2 Items(kind);
    }
    Change {
        1 Keep;
        2 Put(body);
        3 Remove;
        4 Indexed { body, entries };
    }
    Refusal {
        1 Insufficient { holder, currency, has, needs };
        2 Overflow { holder, currency };
        3 ItemExists(item);
        4 NotHeld { item, holder };
        5 ItemChanged(item);
        6 ItemsFull(holder);
        7 CurrenciesFull(holder);
    }
    Error {
        1 Generation { current };
        2 Fenced { key, owner };
        3 Conflict { key, current };
        4 Owned { key, owner };
        5 Dead(incarnation);
        6 UnknownNode(incarnation);
        7 BeatMoved { incarnation, current };
        8 LedgerMoved { holder, current };
        9 RecordConflict { id, current };
        10 Locked { id, lock };
        11 LockLost(id);
        12 Refused(refusal);
        13 TxnReused(id);
        14 TooLarge { what, size, max };
        15 Malformed(what);
        16 Busy;
        17 Unavailable(why);
        18 Moved { slot, to, version, token, generation };
        19 Moving { slot, token, is_arriving };
        20 MoveEnded(slot);
        21 AcrossShards { one, other };
        22 Corrupt { table, key };
        23 Stopped(why);
        24 Unknown(why);
        25 Taken { index, by };
    }
}
