//! Rows as bytes, as `docs/store-format.md` describes them.

use crate::error::Error;
use crate::ledger::{Currency, ItemId, ItemKind, LedgerOp, TxnId};
use crate::tables::Table;
use crate::types::{Claim, Incarnation, Key};

/// Version of the rows written here; the first byte of each.
const ROW_VERSION: u8 = 1;

/// Writes little-endian numbers and counted bytes.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn new() -> Self {
        Writer::default()
    }

    /// With room for so many bytes.
    pub fn with_room(bytes: usize) -> Self {
        Writer { bytes: Vec::with_capacity(bytes) }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub fn u8(&mut self, n: u8) {
        self.bytes.push(n);
    }

    pub fn u32(&mut self, n: u32) {
        self.bytes.extend_from_slice(&n.to_le_bytes());
    }

    pub fn u64(&mut self, n: u64) {
        self.bytes.extend_from_slice(&n.to_le_bytes());
    }

    pub fn u128(&mut self, n: u128) {
        self.bytes.extend_from_slice(&n.to_le_bytes());
    }

    pub fn key(&mut self, key: Key) {
        self.u128(key.0);
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn count(&mut self, n: usize) {
        self.u32(u32::try_from(n).expect("limits keep counts below 4 billion"));
    }

    pub fn blob(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    pub fn text(&mut self, text: &str) {
        self.blob(text.as_bytes());
    }

    pub fn claim(&mut self, claim: &Claim) {
        self.key(claim.key);
        self.u64(claim.generation);
        self.u64(claim.epoch);
        self.u64(claim.incarnation.0);
    }

    pub fn op(&mut self, op: &LedgerOp) {
        match op {
            LedgerOp::Make { item, kind, holder, data } => {
                self.u8(1);
                self.u128(item.0);
                self.u32(kind.0);
                self.key(*holder);
                self.blob(data);
            }
            LedgerOp::Move { item, from, to } => {
                self.u8(2);
                self.u128(item.0);
                self.key(*from);
                self.key(*to);
            }
            LedgerOp::Change { item, holder, data } => {
                self.u8(3);
                self.u128(item.0);
                self.key(*holder);
                self.blob(data);
            }
            LedgerOp::Destroy { item, holder } => {
                self.u8(4);
                self.u128(item.0);
                self.key(*holder);
            }
            LedgerOp::Mint { holder, currency, amount } => {
                self.u8(5);
                self.key(*holder);
                self.u32(currency.0);
                self.u64(*amount);
            }
            LedgerOp::Burn { holder, currency, amount } => {
                self.u8(6);
                self.key(*holder);
                self.u32(currency.0);
                self.u64(*amount);
            }
            LedgerOp::Pay { from, to, currency, amount } => {
                self.u8(7);
                self.key(*from);
                self.key(*to);
                self.u32(currency.0);
                self.u64(*amount);
            }
            LedgerOp::SendItem { item, kind, holder, data }
            | LedgerOp::ReceiveItem { item, kind, holder, data } => {
                self.u8(if matches!(op, LedgerOp::SendItem { .. }) { 8 } else { 9 });
                self.u128(item.0);
                self.u32(kind.0);
                self.key(*holder);
                self.blob(data);
            }
            LedgerOp::Send { holder, currency, amount }
            | LedgerOp::Receive { holder, currency, amount } => {
                self.u8(if matches!(op, LedgerOp::Send { .. }) { 10 } else { 11 });
                self.key(*holder);
                self.u32(currency.0);
                self.u64(*amount);
            }
        }
    }
}

/// The row or part of it cannot be read.
#[derive(Debug)]
pub(crate) struct Damaged;

/// Reads what a [`Writer`] wrote, and refuses everything else.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Damaged> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(Damaged)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        Ok(self.take(N)?.try_into().expect("took N bytes"))
    }

    pub fn u8(&mut self) -> Result<u8, Damaged> {
        Ok(self.array::<1>()?[0])
    }

    pub fn flag(&mut self) -> Result<bool, Damaged> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Damaged),
        }
    }

    pub fn u32(&mut self) -> Result<u32, Damaged> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, Damaged> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn u128(&mut self) -> Result<u128, Damaged> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    pub fn key(&mut self) -> Result<Key, Damaged> {
        Ok(Key(self.u128()?))
    }

    /// A count of things of at least one byte each, so never more than bytes are left.
    pub fn count(&mut self) -> Result<usize, Damaged> {
        let n = self.u32()? as usize;
        if n > self.rest.len() { Err(Damaged) } else { Ok(n) }
    }

    pub fn blob(&mut self) -> Result<Vec<u8>, Damaged> {
        self.bytes().map(<[u8]>::to_vec)
    }

    pub fn text(&mut self) -> Result<String, Damaged> {
        self.str().map(str::to_owned)
    }

    /// A text where it lies.
    pub fn str(&mut self) -> Result<&'a str, Damaged> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Damaged)
    }

    /// A blob where it lies.
    pub fn bytes(&mut self) -> Result<&'a [u8], Damaged> {
        let n = self.count()?;
        self.take(n)
    }

    pub fn hash(&mut self) -> Result<[u8; 32], Damaged> {
        self.array()
    }

    pub fn claim(&mut self) -> Result<Claim, Damaged> {
        Ok(Claim {
            key: self.key()?,
            generation: self.u64()?,
            epoch: self.u64()?,
            incarnation: Incarnation(self.u64()?),
        })
    }

    pub fn op(&mut self) -> Result<LedgerOp, Damaged> {
        let kind = self.u8()?;
        let item = |r: &mut Self| r.u128().map(ItemId);
        let currency = |r: &mut Self| r.u32().map(Currency);
        Ok(match kind {
            1 => LedgerOp::Make {
                item: item(self)?,
                kind: ItemKind(self.u32()?),
                holder: self.key()?,
                data: self.blob()?,
            },
            2 => LedgerOp::Move { item: item(self)?, from: self.key()?, to: self.key()? },
            3 => LedgerOp::Change { item: item(self)?, holder: self.key()?, data: self.blob()? },
            4 => LedgerOp::Destroy { item: item(self)?, holder: self.key()? },
            5 => LedgerOp::Mint {
                holder: self.key()?,
                currency: currency(self)?,
                amount: self.u64()?,
            },
            6 => LedgerOp::Burn {
                holder: self.key()?,
                currency: currency(self)?,
                amount: self.u64()?,
            },
            7 => LedgerOp::Pay {
                from: self.key()?,
                to: self.key()?,
                currency: currency(self)?,
                amount: self.u64()?,
            },
            8 => LedgerOp::SendItem {
                item: item(self)?,
                kind: ItemKind(self.u32()?),
                holder: self.key()?,
                data: self.blob()?,
            },
            9 => LedgerOp::ReceiveItem {
                item: item(self)?,
                kind: ItemKind(self.u32()?),
                holder: self.key()?,
                data: self.blob()?,
            },
            10 => LedgerOp::Send {
                holder: self.key()?,
                currency: currency(self)?,
                amount: self.u64()?,
            },
            11 => LedgerOp::Receive {
                holder: self.key()?,
                currency: currency(self)?,
                amount: self.u64()?,
            },
            _ => return Err(Damaged),
        })
    }

    pub fn txn(&mut self) -> Result<TxnId, Damaged> {
        Ok(TxnId(self.u128()?))
    }
}

/// What can stand in a row.
pub(crate) trait Row: Sized {
    /// About how many bytes it takes, better some more than fewer.
    fn room(&self) -> usize {
        32
    }

    fn put(&self, w: &mut Writer);
    fn take(r: &mut Reader<'_>) -> Result<Self, Damaged>;
}

/// The stored bytes of `row`: version, body, checksum over table, key, version and body.
pub(crate) fn encode<R: Row>(table: Table, key: &[u8], row: &R) -> Vec<u8> {
    encode_with(table, key, row.room(), |w| row.put(w))
}

/// As [`encode`], of a row of about `room` bytes that `put` writes.
pub(crate) fn encode_with(
    table: Table,
    key: &[u8],
    room: usize,
    put: impl FnOnce(&mut Writer),
) -> Vec<u8> {
    // Version and checksum are beside it.
    let mut w = Writer::with_room(5 + room);
    w.u8(ROW_VERSION);
    put(&mut w);
    let sum = checksum(table, key, w.bytes());
    w.u32(sum);
    w.bytes
}

/// Reads stored bytes, which must be whole and belong to that table and key.
pub(crate) fn decode<R: Row>(table: Table, key: &[u8], stored: &[u8]) -> Result<R, Error> {
    decode_with(table, key, stored, R::take)
}

/// As [`decode`], of a row that `take` reads and may leave where it lies.
pub(crate) fn decode_with<'b, R>(
    table: Table,
    key: &[u8],
    stored: &'b [u8],
    take: impl FnOnce(&mut Reader<'b>) -> Result<R, Damaged>,
) -> Result<R, Error> {
    let read = || {
        let (body, sum) = stored.split_last_chunk::<4>().ok_or(Damaged)?;
        if u32::from_le_bytes(*sum) != checksum(table, key, body) {
            return Err(Damaged);
        }
        let mut r = Reader::new(body);
        if r.u8()? != ROW_VERSION {
            return Err(Damaged);
        }
        let row = take(&mut r)?;
        if r.rest.is_empty() { Ok(row) } else { Err(Damaged) }
    };
    read().map_err(|Damaged| Error::Corrupt { table: table.name(), key: hex(key) })
}

fn checksum(table: Table, key: &[u8], body: &[u8]) -> u32 {
    crc(&[&[table as u8, key.len() as u8], key, body])
}

/// CRC-32 (IEEE) over pieces that follow each other.
pub(crate) fn crc(pieces: &[&[u8]]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    pieces.iter().for_each(|piece| sum.update(piece));
    sum.finalize()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    push_hex(&mut text, bytes);
    text
}

pub(crate) fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    text.reserve(2 * bytes.len());
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)]);
        text.push(DIGITS[usize::from(byte & 15)]);
    }
}
