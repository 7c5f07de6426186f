//! Slots of a shard: which it has, and the steps of moving them. See `docs/decisions/0008`.

use std::collections::{BTreeMap, BTreeSet};

use super::rows::{FORMAT, HolderRow, TxnRow, moved_currency_key, moved_kind_key};
use super::{at_most, check_generation, generation, raw};
use crate::error::Error;
use crate::ledger::{Item, Supply};
use crate::options::Mutant;
use crate::row::{self, Damaged, Reader, Row, Writer};
use crate::slots::{
    Moving, SLOTS, ShardInfo, Slot, SlotAsk, SlotInfo, SlotState, SlotSums, SlotTold,
};
use crate::tables::{Stage, Table};
use crate::types::Key;

/// Stands in `meta` of a shard of a set.
pub(crate) const SHARD: &[u8] = b"shard";
/// The format of a store with slots.
pub(crate) const SHARD_FORMAT: u64 = 2;

/// Rows looked at, and bytes given, in one step of a move.
const STEP_ROWS: usize = 2_000;
const STEP_BYTES: usize = 512 << 10;
/// Marks taken off in one step.
const TAKE_MAX: usize = 256;

/// The tables of which slots have rows, in the order in which they are copied.
const COPIED: [Table; 7] = [
    Table::Meta,
    Table::Node,
    Table::Entity,
    Table::Holder,
    Table::Txn,
    Table::Held,
    Table::Record,
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlotRow {
    pub state: SlotState,
    pub version: u64,
    pub offset: u64,
    /// The shard's generation when the move began.
    pub generation: u64,
    pub token: u64,
    /// Of the source: the number of the last step that took marks off. Of the target: 0 while
    /// something of earlier tries is left, then the number of the next step that brings rows.
    pub taken: u64,
    /// How often it was tried to move the slot, wherever it was then.
    pub tries: u64,
    pub peer: String,
}

impl Row for SlotRow {
    fn put(&self, w: &mut Writer) {
        w.u8(self.state as u8);
        let SlotRow { version, offset, generation, token, taken, tries, .. } = *self;
        for n in [version, offset, generation, token, taken, tries] {
            w.u64(n);
        }
        w.text(&self.peer);
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let state = match r.u8()? {
            0 => SlotState::Here,
            1 => SlotState::Copying,
            2 => SlotState::Frozen,
            3 => SlotState::Gone,
            4 => SlotState::Cleaned,
            5 => SlotState::Arriving,
            _ => return Err(Damaged),
        };
        let (version, offset, generation) = (r.u64()?, r.u64()?, r.u64()?);
        let (token, taken, tries, peer) = (r.u64()?, r.u64()?, r.u64()?, r.text()?);
        Ok(SlotRow { state, version, offset, generation, token, taken, tries, peer })
    }
}

#[derive(Debug, Clone)]
struct ShardRow {
    name: String,
    plan: Vec<String>,
}

impl Row for ShardRow {
    fn put(&self, w: &mut Writer) {
        w.text(&self.name);
        w.count(self.plan.len());
        self.plan.iter().for_each(|name| w.text(name));
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let name = r.text()?;
        let plan = (0..r.count()?).map(|_| r.text()).collect::<Result<_, _>>()?;
        Ok(ShardRow { name, plan })
    }
}

impl Row for SlotSums {
    fn put(&self, w: &mut Writer) {
        for sums in [&self.currencies, &self.items] {
            w.count(sums.len());
            for (of, sum) in sums {
                w.u32(*of);
                w.u128(*sum);
            }
        }
    }

    fn take(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut sums = [BTreeMap::new(), BTreeMap::new()];
        for sums in &mut sums {
            for _ in 0..r.count()? {
                sums.insert(r.u32()?, r.u128()?);
            }
        }
        let [currencies, items] = sums;
        Ok(SlotSums { currencies, items })
    }
}

/// Keys of the table: slots, the shard itself, marks, sums of what arrives, ids that arrived.
const SHARD_KEY: [u8; 1] = [1];

fn slot_key(slot: Slot) -> [u8; 3] {
    tagged(0, slot)
}

fn tagged(tag: u8, slot: Slot) -> [u8; 3] {
    let [high, low] = slot.0.to_be_bytes();
    [tag, high, low]
}

fn mark_key(slot: Slot, table: Table, key: &[u8]) -> Vec<u8> {
    [&tagged(2, slot)[..], &[table as u8], key].concat()
}

fn sums_key(slot: Slot) -> [u8; 3] {
    tagged(3, slot)
}

fn arrived_key(at_ms: u64, txn: &[u8]) -> Vec<u8> {
    [&[4][..], &at_ms.to_be_bytes(), txn].concat()
}

/// Whether a row of the table can be read.
pub(super) fn check_row(key: &[u8], stored: &[u8]) -> Result<(), Error> {
    let table = Table::Slot;
    match key.first() {
        Some(0) => row::decode::<SlotRow>(table, key, stored).map(drop),
        Some(1) => row::decode::<ShardRow>(table, key, stored).map(drop),
        Some(2 | 4) => row::decode::<()>(table, key, stored),
        Some(3) => row::decode::<SlotSums>(table, key, stored).map(drop),
        _ => Err(super::commit::corrupt(table, key)),
    }
}

/// The slot that a row belongs to; `None` if it belongs to the shard. That of an item is its
/// holder's.
pub(crate) fn slot_of_row(table: Table, key: &[u8]) -> Option<Slot> {
    let key_of = |bytes: &[u8]| {
        let bytes = bytes.first_chunk::<16>()?;
        Some(Slot::of(Key(u128::from_be_bytes(*bytes))))
    };
    match table {
        Table::Entity | Table::Holder | Table::Held => key_of(key),
        Table::Meta if key.first() == Some(&b'+') && key.len() == 18 => key_of(&key[2..]),
        Table::Record => {
            let (kind, key) = key.split_first_chunk::<4>()?;
            Some(Slot::of_record_key(u32::from_be_bytes(*kind), key))
        }
        _ => None,
    }
}

fn slot_row(s: &Stage<'_>, slot: Slot) -> Result<Option<SlotRow>, Error> {
    s.row(Table::Slot, &slot_key(slot))
}

fn put_slot(s: &mut Stage<'_>, slot: Slot, row: &SlotRow) {
    s.put(Table::Slot, &slot_key(slot), row);
}

/// The row of a slot that this shard serves; else where it is.
pub(crate) fn serves(s: &Stage<'_>, slot: Slot) -> Result<SlotRow, Error> {
    let unfenced = s.limits.mutant == Some(Mutant::SlotsUnfenced);
    let away =
        |to, version, token, generation| Error::Moved { slot, to, version, token, generation };
    let Some(row) = slot_row(s, slot)? else { return Err(away(String::new(), 0, 0, 0)) };
    match row.state {
        SlotState::Gone if unfenced => {
            let offset = row.offset.wrapping_sub(generation(s)?);
            Ok(SlotRow { state: SlotState::Here, offset, ..row })
        }
        SlotState::Here | SlotState::Copying | SlotState::Frozen => Ok(row),
        SlotState::Gone | SlotState::Cleaned => {
            Err(away(row.peer, row.version, row.token, row.offset))
        }
        SlotState::Arriving => Err(Error::Moving { slot, token: row.token, is_arriving: true }),
    }
}

/// What is to be marked because it was written in a slot that is being copied. An error if
/// something may not be written here.
pub(crate) fn marks(
    s: &Stage<'_>,
    written: &BTreeSet<(Table, Vec<u8>)>,
    touched: &BTreeSet<Slot>,
) -> Result<Vec<Vec<u8>>, Error> {
    let unfenced = s.limits.mutant == Some(Mutant::SlotsUnfenced);
    let mut rows = BTreeMap::new();
    let of_rows = written.iter().filter_map(|(table, key)| slot_of_row(*table, key));
    for slot in of_rows.chain(touched.iter().copied()) {
        if rows.contains_key(&slot) {
            continue;
        }
        let row = serves(s, slot)?;
        if row.state == SlotState::Frozen && !unfenced {
            return Err(Error::Moving { slot, token: row.token, is_arriving: false });
        }
        rows.insert(slot, row.state);
    }
    rows.retain(|_, state| *state == SlotState::Copying);
    let mut marks = Vec::new();
    if rows.is_empty() {
        return Ok(marks);
    }
    for (table, key) in written {
        match slot_of_row(*table, key) {
            Some(slot) if rows.contains_key(&slot) => marks.push(mark_key(slot, *table, key)),
            None if *table == Table::Txn => {
                marks.extend(rows.keys().map(|slot| mark_key(*slot, *table, key)));
            }
            _ => {}
        }
    }
    Ok(marks)
}

/// The generation that claims on a key have to name.
pub(crate) fn generation_of(s: &Stage<'_>, key: Key) -> Result<u64, Error> {
    let generation = generation(s)?;
    if !s.is_sharded() {
        return Ok(generation);
    }
    Ok(generation.wrapping_add(serves(s, Slot::of(key))?.offset))
}

/// Which slots have their rows counted here.
pub(crate) fn counted(s: &Stage<'_>) -> Result<Option<BTreeSet<Slot>>, Error> {
    if s.row::<u64>(Table::Meta, SHARD)?.is_none() {
        return Ok(None);
    }
    Ok(Some(slot_rows(s)?.iter().filter(|(_, row)| row.state.is_here()).map(|(s, _)| *s).collect()))
}

fn slot_rows(s: &Stage<'_>) -> Result<Vec<(Slot, SlotRow)>, Error> {
    let mut rows = Vec::new();
    s.scan(Table::Slot, &[0], &mut |key, stored| {
        let [0, high, low] = *key else { return Ok(false) };
        let slot = Slot(u16::from_be_bytes([high, low]));
        rows.push((slot, row::decode(Table::Slot, key, stored)?));
        Ok(true)
    })?;
    Ok(rows)
}

/// One step.
pub(crate) fn step(s: &mut Stage<'_>, ask: &SlotAsk) -> Result<SlotTold, Error> {
    s.leave_slots_unchecked();
    match ask {
        SlotAsk::Describe => describe(s),
        SlotAsk::Found { name, plan, slots } => found(s, name, plan, slots),
        SlotAsk::Leave { slots, to, token } => leave(s, slots, to, *token),
        SlotAsk::Expect { slots, from, token } => expect(s, slots, from, *token),
        SlotAsk::Clear { slots, token, back, after } => {
            clear(s, slots, (*token, *back), after.as_ref())
        }
        SlotAsk::Page { slots, after } => page(s, slots, after.as_ref()),
        SlotAsk::Fill { slots, token, number, rows, at_ms } => {
            fill(s, slots, (*token, *number), rows, *at_ms)
        }
        SlotAsk::Take { slots, token, number } => take(s, slots, *token, *number),
        SlotAsk::Freeze { slots, token } => {
            each(s, slots, |row| leaving(row, *token), |row| row.state = SlotState::Frozen)
        }
        SlotAsk::Thaw { slots, token } => {
            let mut back = Vec::new();
            for &slot in slots {
                // Others of a group may be in another move by now, or gone by this one.
                let is_back = |row: &SlotRow| {
                    leaving(row, *token) || (row.state == SlotState::Here && row.token == *token)
                };
                if let Some(mut row) = slot_row(s, slot)?.filter(is_back) {
                    // The move's name stays, so that no late step of it begins it again.
                    row = SlotRow { state: SlotState::Here, peer: String::new(), ..row };
                    put_slot(s, slot, &row);
                    back.push((slot, row.tries));
                }
            }
            Ok(SlotTold::Left(back))
        }
        SlotAsk::Sums { slots, token } => sums(s, slots, *token),
        SlotAsk::CutOver { slots, token } => cut_over(s, slots, *token),
        SlotAsk::Arrive { slots, token } => arrive(s, slots, *token),
        SlotAsk::Drop { slots, token } => {
            for slot in slots {
                // The row stays, so that no late step of this try begins it again.
                if let Some(mut row) = slot_row(s, *slot)?.filter(|row| arriving(row, *token)) {
                    row = SlotRow { state: SlotState::Cleaned, peer: String::new(), ..row };
                    put_slot(s, *slot, &row);
                    s.remove(Table::Slot, &sums_key(*slot));
                }
            }
            Ok(SlotTold::Done)
        }
    }
}

fn leaving(row: &SlotRow, token: u64) -> bool {
    matches!(row.state, SlotState::Copying | SlotState::Frozen) && row.token == token
}

fn arriving(row: &SlotRow, token: u64) -> bool {
    row.state == SlotState::Arriving && row.token == token
}

/// Another move has begun, or this one was given up.
fn ended(slot: Slot) -> Error {
    Error::MoveEnded(slot)
}

/// Changes rows of slots that all have to be as `holds` says.
fn each(
    s: &mut Stage<'_>,
    slots: &[Slot],
    holds: impl Fn(&SlotRow) -> bool,
    change: impl Fn(&mut SlotRow),
) -> Result<SlotTold, Error> {
    for &slot in slots {
        let mut row = slot_row(s, slot)?.filter(&holds).ok_or(ended(slot))?;
        change(&mut row);
        put_slot(s, slot, &row);
    }
    Ok(SlotTold::Done)
}

fn describe(s: &Stage<'_>) -> Result<SlotTold, Error> {
    let shard: Option<ShardRow> = s.row(Table::Slot, &SHARD_KEY)?;
    let mut is_empty = true;
    for table in Table::ALL.into_iter().filter(|table| ![Table::Meta, Table::Slot].contains(table))
    {
        s.scan(table, &[], &mut |_, _| {
            is_empty = false;
            Ok(false)
        })?;
    }
    let slots = slot_rows(s)?.into_iter().map(|(slot, row)| {
        let SlotRow { state, version, peer, token, offset, .. } = row;
        SlotInfo { slot, state, version, peer, token, offset }
    });
    Ok(SlotTold::Shard(Box::new(ShardInfo {
        shard: shard.map(|row| (row.name, row.plan)),
        is_empty,
        generation: generation(s)?,
        slots: slots.collect(),
    })))
}

fn found(
    s: &mut Stage<'_>,
    name: &str,
    plan: &[String],
    slots: &[Slot],
) -> Result<SlotTold, Error> {
    if let Some(known) = s.row::<ShardRow>(Table::Slot, &SHARD_KEY)? {
        if known.name == name {
            return Ok(SlotTold::Done);
        }
        return Err(Error::Stopped(format!("it is shard {:?}, not {name:?}", known.name)));
    }
    s.put(Table::Slot, &SHARD_KEY, &ShardRow { name: name.to_owned(), plan: plan.to_vec() });
    s.put(Table::Meta, SHARD, &1u64);
    s.put(Table::Meta, FORMAT, &SHARD_FORMAT);
    for &slot in slots {
        let row = SlotRow {
            state: SlotState::Here,
            version: 1,
            offset: 0,
            generation: 0,
            token: 0,
            taken: 0,
            tries: 0,
            peer: String::new(),
        };
        put_slot(s, slot, &row);
    }
    Ok(SlotTold::Done)
}

fn leave(s: &mut Stage<'_>, slots: &[Slot], to: &str, token: u64) -> Result<SlotTold, Error> {
    let (generation, mut left) = (generation(s)?, Vec::new());
    for &slot in slots {
        let mut row = serves(s, slot)?;
        if row.token == token && row.state == SlotState::Here {
            return Err(ended(slot));
        }
        if row.token == token {
            // This step was done before.
            left.push((slot, row.tries));
            continue;
        }
        let tries = row.tries + 1;
        row = SlotRow { state: SlotState::Copying, generation, token, taken: 0, tries, ..row };
        to.clone_into(&mut row.peer);
        put_slot(s, slot, &row);
        left.push((slot, tries));
    }
    Ok(SlotTold::Left(left))
}

fn expect(
    s: &mut Stage<'_>,
    slots: &[(Slot, u64)],
    from: &str,
    token: u64,
) -> Result<SlotTold, Error> {
    let generation = generation(s)?;
    for &(slot, tries) in slots {
        let (version, taken) = match slot_row(s, slot)? {
            None => (0, 1),
            Some(row) if arriving(&row, token) => continue,
            // A later try has begun since, perhaps also ended.
            Some(row) if row.tries >= tries => return Err(ended(slot)),
            Some(row) => match row.state {
                SlotState::Cleaned => (row.version, 1),
                SlotState::Arriving => (row.version, 0),
                SlotState::Gone => return Err(Error::Malformed("the slot is still to be cleared")),
                _ => return Err(Error::Malformed("the slot is in that shard already")),
            },
        };
        let (state, peer) = (SlotState::Arriving, from.to_owned());
        let row = SlotRow { state, version, offset: 0, generation, token, taken, tries, peer };
        put_slot(s, slot, &row);
    }
    Ok(SlotTold::Done)
}

/// Table, key and bytes of a row.
type Walked = (Table, Vec<u8>, Vec<u8>);

/// The rows of slots after a place: at most so many are looked at. And where to go on.
fn walk(
    s: &Stage<'_>,
    slots: &BTreeSet<Slot>,
    after: Option<&(u8, Vec<u8>)>,
    wants: impl Fn(Table) -> bool,
) -> Result<(Vec<Walked>, Option<(u8, Vec<u8>)>), Error> {
    let begin = match after {
        Some((table, _)) => {
            let at = COPIED.iter().position(|known| *known as u8 == *table);
            at.ok_or(Error::Malformed("a table that slots have no rows of"))?
        }
        None => 0,
    };
    let (mut rows, mut bytes, mut seen) = (Vec::new(), 0, 0);
    for (at, table) in COPIED.into_iter().enumerate().skip(begin).filter(|(_, t)| wants(*t)) {
        let mut from = Vec::new();
        if let Some((_, key)) = after.filter(|_| at == begin) {
            from.clone_from(key);
            from.push(0);
        }
        let mut stopped = None;
        s.scan(table, &from, &mut |key, stored| {
            let is_of = match table {
                Table::Node => true,
                Table::Txn => concerns(key, stored, slots)?,
                _ => slot_of_row(table, key).is_some_and(|slot| slots.contains(&slot)),
            };
            if is_of {
                bytes += key.len() + stored.len();
                rows.push((table, key.to_vec(), stored.to_vec()));
            }
            seen += 1;
            let goes_on = seen < STEP_ROWS && bytes < STEP_BYTES;
            if !goes_on {
                stopped = Some(key.to_vec());
            }
            Ok(goes_on)
        })?;
        if let Some(key) = stopped {
            return Ok((rows, Some((table as u8, key))));
        }
    }
    Ok((rows, None))
}

/// Whether a transaction has to be known where these slots are. One whose receipt names nobody has
/// to be wherever it may be asked for again.
fn concerns(key: &[u8], stored: &[u8], slots: &BTreeSet<Slot>) -> Result<bool, Error> {
    let TxnRow { receipt, .. } = row::decode(Table::Txn, key, stored)?;
    let mut keys = receipt.versions.keys().chain(receipt.ledgers.keys()).peekable();
    Ok(keys.peek().is_none() || keys.any(|key| slots.contains(&Slot::of(*key))))
}

fn set(slots: &[Slot]) -> Result<BTreeSet<Slot>, Error> {
    at_most("slots of a move", slots.len(), SLOTS.into())?;
    Ok(slots.iter().copied().collect())
}

fn page(s: &Stage<'_>, slots: &[Slot], after: Option<&(u8, Vec<u8>)>) -> Result<SlotTold, Error> {
    let (rows, next) = walk(s, &set(slots)?, after, |_| true)?;
    // All are read before one is looked at: what is not there yet is fetched in one go.
    for (table, key, _) in &rows {
        item_of(*table, key).map(|id| s.row::<Item>(Table::Item, id)).transpose()?;
    }
    let mut moving = Vec::new();
    for (table, key, row) in rows {
        put_moving(s, &mut moving, table, key, Some(row))?;
    }
    Ok(SlotTold::Rows(moving, next))
}

/// The item of which a row says who holds it.
fn item_of(table: Table, key: &[u8]) -> Option<&[u8]> {
    (table == Table::Held).then(|| key.get(16..)).flatten()
}

/// A row and, if it says who holds an item, the item.
fn put_moving(
    s: &Stage<'_>,
    moving: &mut Vec<Moving>,
    table: Table,
    key: Vec<u8>,
    row: Option<Vec<u8>>,
) -> Result<(), Error> {
    if row.is_some()
        && let Some(id) = item_of(table, &key)
    {
        let item: Item = s.row(Table::Item, id)?.ok_or(super::commit::corrupt(table, &key))?;
        let row = Some(row::encode(Table::Item, id, &item));
        moving.push(Moving { table: Table::Item as u8, key: id.to_vec(), row });
    }
    moving.push(Moving { table: table as u8, key, row });
    Ok(())
}

fn take(s: &mut Stage<'_>, slots: &[Slot], token: u64, number: u64) -> Result<SlotTold, Error> {
    let mut marks = Vec::new();
    for &slot in slots {
        let prefix = tagged(2, slot);
        s.scan(Table::Slot, &prefix, &mut |key, _| {
            let goes = key.starts_with(&prefix) && marks.len() < TAKE_MAX;
            if goes {
                marks.push(key.to_vec());
            }
            Ok(goes)
        })?;
    }
    let next = (marks.len() >= TAKE_MAX).then(|| (0, Vec::new()));
    let mut moving = Vec::new();
    for mark in &marks {
        let (table, key) =
            mark[3..].split_first().ok_or(super::commit::corrupt(Table::Slot, mark))?;
        let table = raw::table(*table).ok_or(super::commit::corrupt(Table::Slot, mark))?;
        let row = s.stored(table, key)?;
        put_moving(s, &mut moving, table, key.to_vec(), row)?;
    }
    each(s, slots, |row| leaving(row, token) && row.taken + 1 == number, |row| row.taken = number)?;
    marks.iter().for_each(|mark| s.remove(Table::Slot, mark));
    Ok(SlotTold::Rows(moving, next))
}

fn fill(
    s: &mut Stage<'_>,
    slots: &[Slot],
    (token, number): (u64, u64),
    rows: &[Moving],
    at_ms: u64,
) -> Result<SlotTold, Error> {
    let slots = set(slots)?;
    let generation = generation(s)?;
    let mut done = 0;
    for &slot in &slots {
        let ready =
            |row: &SlotRow| arriving(row, token) && row.taken > 0 && row.generation == generation;
        let mut row = slot_row(s, slot)?.filter(ready).ok_or(ended(slot))?;
        if row.taken == number + 1 {
            done += 1;
            continue;
        }
        if row.taken != number {
            return Err(ended(slot));
        }
        row.taken += 1;
        put_slot(s, slot, &row);
    }
    if done == slots.len() {
        // What came since may be newer.
        return Ok(SlotTold::Done);
    }
    let mut sums = BTreeMap::new();
    for Moving { table, key, row } in rows {
        let table = raw::table(*table).ok_or(Error::Malformed("a table that is not known"))?;
        if let Some(row) = row {
            raw::check(table, key, row)?;
        }
        let slot = slot_of_row(table, key);
        if slot.is_some_and(|slot| !slots.contains(&slot)) {
            return Err(Error::Malformed("a row of another slot"));
        }
        if let Some(slot) = slot
            && [Table::Holder, Table::Held].contains(&table)
        {
            if let std::collections::btree_map::Entry::Vacant(entry) = sums.entry(slot) {
                let known: Option<SlotSums> = s.row(Table::Slot, &sums_key(slot))?;
                entry.insert(known.unwrap_or_default());
            }
            let sums = sums.get_mut(&slot).expect("put above");
            count(s, sums, table, key, row.as_deref())?;
        }
        put_arrived(s, table, key, row.as_ref(), at_ms)?;
    }
    for (slot, sums) in sums {
        s.put(Table::Slot, &sums_key(slot), &sums);
    }
    Ok(SlotTold::Done)
}

/// Counts a row that replaces what was known of it.
fn count(
    s: &Stage<'_>,
    sums: &mut SlotSums,
    table: Table,
    key: &[u8],
    row: Option<&[u8]>,
) -> Result<(), Error> {
    if table == Table::Holder {
        let before: HolderRow = s.row(table, key)?.unwrap_or_default();
        let after = row.map(|row| row::decode::<HolderRow>(table, key, row)).transpose()?;
        for (currency, amount) in before.balances {
            let sum = sums.currencies.entry(currency.0).or_default();
            *sum = sum.saturating_sub(amount.into());
        }
        for (currency, amount) in after.unwrap_or_default().balances {
            *sums.currencies.entry(currency.0).or_default() += u128::from(amount);
        }
        return Ok(());
    }
    let was = s.row::<()>(table, key)?.is_some();
    if was == row.is_some() {
        return Ok(());
    }
    let corrupt = super::commit::corrupt(table, key);
    let kind = match s.row::<Item>(Table::Item, key.get(16..).unwrap_or_default())? {
        Some(item) => item.kind.0,
        None => return Err(corrupt),
    };
    let sum = sums.items.entry(kind).or_default();
    *sum = if was { sum.saturating_sub(1) } else { *sum + 1 };
    Ok(())
}

fn put_arrived(
    s: &mut Stage<'_>,
    table: Table,
    key: &[u8],
    row: Option<&Vec<u8>>,
    at_ms: u64,
) -> Result<(), Error> {
    match (table, row) {
        (Table::Txn, Some(row)) => {
            if s.stored(table, key)?.is_none() {
                s.put_raw(table, key, row.clone());
                s.put(Table::Slot, &arrived_key(at_ms, key), &());
            }
        }
        // What was forgotten there may be forgotten here in its own time.
        (Table::Txn, None) => {}
        (Table::Node, Some(row)) => put_node(s, key, row)?,
        (Table::Held, None) => {
            s.remove(table, key);
            remove_item(s, key)?;
        }
        (_, Some(row)) => s.put_raw(table, key, row.clone()),
        (_, None) => s.remove(table, key),
    }
    Ok(())
}

/// Removes the item that a row of `held` names, if it is still with that holder.
fn remove_item(s: &mut Stage<'_>, held: &[u8]) -> Result<(), Error> {
    let Some((holder, id)) = held.split_first_chunk::<16>() else { return Ok(()) };
    let holder = Key(u128::from_be_bytes(*holder));
    let item: Option<Item> = s.row(Table::Item, id)?;
    if item.and_then(|item| item.holder) == Some(holder) {
        s.remove(Table::Item, id);
    }
    Ok(())
}

/// A node that the target does not know yet, and every node that is dead.
fn put_node(s: &mut Stage<'_>, key: &[u8], row: &[u8]) -> Result<(), Error> {
    let mut other = key.to_vec();
    let Some(tag) = other.first_mut() else { return Ok(()) };
    *tag ^= 1;
    let is_dead = key[0] == 1;
    if s.stored(Table::Node, key)?.is_some()
        || (!is_dead && s.stored(Table::Node, &other)?.is_some())
    {
        return Ok(());
    }
    s.put_raw(Table::Node, key, row.to_vec());
    if is_dead {
        s.remove(Table::Node, &other);
    }
    Ok(())
}

fn sums(s: &Stage<'_>, slots: &[Slot], token: u64) -> Result<SlotTold, Error> {
    let mut all = Vec::new();
    for &slot in slots {
        slot_row(s, slot)?.filter(|row| arriving(row, token)).ok_or(ended(slot))?;
        all.push((slot, s.row(Table::Slot, &sums_key(slot))?.unwrap_or_default()));
    }
    Ok(SlotTold::Sums(all))
}

fn cut_over(
    s: &mut Stage<'_>,
    slots: &[(Slot, u64, SlotSums)],
    token: u64,
) -> Result<SlotTold, Error> {
    for (slot, ..) in slots {
        let (prefix, mut marked) = (tagged(2, *slot), false);
        s.scan(Table::Slot, &prefix, &mut |key, _| {
            marked = key.starts_with(&prefix);
            Ok(false)
        })?;
        let row = slot_row(s, *slot)?.ok_or(ended(*slot))?;
        let is_done = row.state == SlotState::Gone && row.token == token;
        if marked && !is_done {
            return Err(Error::Malformed("what changed is not copied yet"));
        }
    }
    let (current, mut gone) = (generation(s)?, Vec::new());
    for (slot, tries, sums) in slots {
        let mut row = slot_row(s, *slot)?.ok_or(ended(*slot))?;
        if row.state != SlotState::Gone || row.token != token {
            if row.state != SlotState::Frozen || row.token != token || row.tries != *tries {
                return Err(ended(*slot));
            }
            // What was copied may be of a time that a failover took back.
            check_generation(s, row.generation)?;
            row.state = SlotState::Gone;
            row.version += 1;
            row.offset = row.offset.wrapping_add(current);
            put_slot(s, *slot, &row);
            transfer(s, sums, false)?;
        }
        gone.push((*slot, row.version, row.offset));
    }
    Ok(SlotTold::Gone(gone))
}

fn arrive(s: &mut Stage<'_>, slots: &[(Slot, u64, u64)], token: u64) -> Result<SlotTold, Error> {
    for &(slot, version, generation) in slots {
        // Else somebody did it before, and the slot may have gone on since.
        let Some(mut row) = slot_row(s, slot)?.filter(|row| arriving(row, token)) else { continue };
        // A failover of this shard since the move began raises the slot's generation too.
        let offset = generation.wrapping_sub(row.generation);
        let (state, peer) = (SlotState::Here, String::new());
        row = SlotRow { state, version, offset, token: 0, taken: 0, peer, ..row };
        put_slot(s, slot, &row);
        let sums: SlotSums = s.row(Table::Slot, &sums_key(slot))?.unwrap_or_default();
        s.remove(Table::Slot, &sums_key(slot));
        transfer(s, &sums, true)?;
    }
    Ok(SlotTold::Done)
}

/// Notes what came from or went to another shard.
pub(crate) fn transfer(s: &mut Stage<'_>, sums: &SlotSums, came: bool) -> Result<(), Error> {
    use crate::ledger::{Currency, ItemKind};
    let currencies = sums.currencies.iter().map(|(of, n)| (moved_currency_key(Currency(*of)), *n));
    let items = sums.items.iter().map(|(of, n)| (moved_kind_key(ItemKind(*of)), *n));
    for (key, n) in currencies.chain(items).filter(|(_, n)| *n > 0) {
        let mut supply: Supply = s.row(Table::Supply, &key)?.unwrap_or_default();
        let side = if came { &mut supply.made } else { &mut supply.destroyed };
        *side += n;
        s.put(Table::Supply, &key, &supply);
    }
    Ok(())
}

fn clear(
    s: &mut Stage<'_>,
    slots: &[Slot],
    (token, back): (u64, bool),
    after: Option<&(u8, Vec<u8>)>,
) -> Result<SlotTold, Error> {
    let mut left = BTreeSet::new();
    for &slot in slots {
        // What this move brought is removed only once it is given up.
        let goes = |row: &SlotRow| {
            row.state == SlotState::Gone || (arriving(row, token) && (back || row.taken == 0))
        };
        if slot_row(s, slot)?.is_some_and(|row| goes(&row)) {
            left.insert(slot);
        }
    }
    if left.is_empty() {
        return Ok(SlotTold::Next(None));
    }
    let shared = [Table::Txn, Table::Node];
    let (rows, mut next) = walk(s, &left, after, |table| !shared.contains(&table))?;
    let mut marks = Vec::new();
    if next.is_none() {
        for &slot in &left {
            let prefix = tagged(2, slot);
            s.scan(Table::Slot, &prefix, &mut |key, _| {
                let goes = key.starts_with(&prefix) && marks.len() < STEP_ROWS;
                if goes {
                    marks.push(key.to_vec());
                }
                Ok(goes)
            })?;
        }
        if marks.len() >= STEP_ROWS {
            next = after.cloned().or(Some((Table::Meta as u8, Vec::new())));
        }
    }
    for (table, key, _) in rows {
        if table == Table::Held {
            remove_item(s, &key)?;
        }
        s.remove(table, &key);
    }
    marks.iter().for_each(|mark| s.remove(Table::Slot, mark));
    if next.is_none() {
        for slot in left {
            let Some(mut row) = slot_row(s, slot)? else { continue };
            if row.state == SlotState::Gone {
                row.state = SlotState::Cleaned;
            } else {
                row.taken = 1;
                s.remove(Table::Slot, &sums_key(slot));
            }
            put_slot(s, slot, &row);
        }
    }
    Ok(SlotTold::Next(next))
}

/// Forgets ids that came with slots before a time; how many.
pub(super) fn forget_arrived(
    s: &Stage<'_>,
    before_ms: u64,
    max: usize,
) -> Result<Vec<Vec<u8>>, Error> {
    let mut gone = Vec::new();
    s.scan(Table::Slot, &[4], &mut |key, _| {
        let at = key.get(1..9).and_then(|at| at.try_into().ok()).map(u64::from_be_bytes);
        let goes = key[0] == 4 && gone.len() < max && at.is_some_and(|at| at < before_ms);
        if goes {
            gone.push(key.to_vec());
        }
        Ok(goes)
    })?;
    Ok(gone)
}

/// Removes what [`forget_arrived`] found.
pub(super) fn remove_arrived(s: &mut Stage<'_>, gone: &[Vec<u8>]) {
    for key in gone {
        s.remove(Table::Txn, &key[9..]);
        s.remove(Table::Slot, key);
    }
}
