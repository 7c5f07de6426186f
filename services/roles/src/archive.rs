//! Accounts that nobody uses, kept in a second store until somebody comes back.
//!
//! No step needs a lock, for each write names the versions that it was decided on. An account goes
//! in two writes: a copy into the archive, then, in one write, the mark on the account and the removal
//! of its records. It comes back in two: the records and the mark, then the removal of the copy.
//! So between any two of them the live store alone says which of both counts, and a copy that does
//! not count is a leftover, which the next run removes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
#[cfg(test)]
use std::sync::{Arc, atomic::AtomicUsize, atomic::Ordering};

use mainstay::node::data::{read_document, write_document};
use mainstay::prelude::*;
use mainstay::proto::{KindId, encode};
use mainstay::store::dump::Place;
use mainstay::store::{
    Change as RecordChange, Error, Key, Record as Stored, RecordId, RecordWrite, Store,
};

use crate::records::{Account, RoleData, Roster};

/// The reason that keeps an account which has coins or items.
pub const MONEY: &str = "money";
/// The shortest time after which an account may be taken: that it is used is written once a day,
/// and clocks may differ.
pub const IDLE_DAYS_MIN: u64 = 2;
pub(crate) const DAY_MS: u64 = 24 * 3_600 * 1_000;

/// Number of the table of holders; see docs/store-format.md.
const HOLDERS: u8 = 3;
const PAGE_BYTES: usize = 1 << 20;
const PAGE_RECORDS: usize = 1_000;
/// Records that one request reads.
const READ_MAX: usize = 64;

/// What is looked for.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Days without use, at least [`IDLE_DAYS_MIN`]; fewer count as that.
    pub idle_days: u64,
    /// Reasons that do not keep an account this time, such as [`MONEY`].
    pub allow: BTreeSet<String>,
    /// Idle accounts that one survey names at most.
    pub accounts_max: usize,
}

/// What a survey found. Nothing was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Accounts that can be taken, with when they were used last, in milliseconds since 1970.
    pub idle: BTreeMap<u64, u64>,
    /// Idle accounts that stay, and why.
    pub kept: BTreeMap<u64, Vec<String>>,
    /// How many were used within the time.
    pub active: u64,
    /// Accounts from before their use was written. Their time begins with [`Archive::begin`].
    pub unknown: BTreeSet<u64>,
    /// Whether there are more than `accounts_max`: survey again after these are taken.
    pub is_cut: bool,
}

/// What became of one account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// It is where it should be.
    Done,
    /// It was used or kept meanwhile, or was there already: it stays as it is.
    Stays,
}

/// Why an account was not moved. Each variant says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveError {
    /// One of the two stores: once it answers, run the job again.
    Store(Error),
    /// A record cannot be read by this release: use the release that wrote it.
    Unreadable {
        /// Whose.
        account: u64,
        /// Why.
        problem: String,
    },
    /// The archive is not the one that the account went to, or an older copy of it: name the right one.
    NoCopy {
        /// Whose.
        account: u64,
        /// Which copy the live store names.
        wanted: u64,
        /// Which one is there; 0: none.
        found: u64,
    },
    /// The account is in the archive and has records in the live store all the same: neither is
    /// touched. One of the stores was restored to another time; restore both to one.
    Both(u64),
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ArchiveError::Store(error) => write!(f, "{error}; run it again once the store answers"),
            ArchiveError::Unreadable { account, problem } => write!(
                f,
                "account {account} cannot be read: {problem}; use the release that wrote it"
            ),
            ArchiveError::NoCopy { account, wanted, found } => write!(
                f,
                "account {account} is in copy {wanted} of an archive, this one has copy {found}: \
                 name the archive that it went to"
            ),
            ArchiveError::Both(account) => write!(
                f,
                "account {account} is archived and in the live store too, and neither was touched: \
                 one store was restored to another time, restore both to the same"
            ),
        }
    }
}

impl std::error::Error for ArchiveError {}

impl From<Error> for ArchiveError {
    fn from(error: Error) -> Self {
        ArchiveError::Store(error)
    }
}

/// The store that has the accounts which nobody uses. A cheap clone.
///
/// It must be another store than the live one, and one of its own for each live store.
#[derive(Clone)]
pub struct Archive {
    store: Store,
    /// Writes that are still done before the process is as good as killed.
    #[cfg(test)]
    writes_left: Option<Arc<AtomicUsize>>,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive").finish_non_exhaustive()
    }
}

/// The records of one account in one store, at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    generation: u64,
    /// Account, roster, then what belongs to each role.
    ids: Vec<RecordId>,
    stored: Vec<Stored>,
    roles: Vec<u64>,
}

impl Parts {
    /// The number of the copy, if it is one: the version of the account's record.
    pub(crate) fn version(&self) -> u64 {
        if self.stored[0].body.is_some() { self.stored[0].version } else { 0 }
    }

    /// The roster as it is stored.
    pub(crate) fn roster(&self) -> Option<&Vec<u8>> {
        self.stored[1].body.as_ref()
    }

    /// What belongs to each role, as it is stored.
    pub(crate) fn data(&self) -> impl Iterator<Item = (u64, &Vec<u8>)> {
        let bodies = self.stored[2..].iter().map(|stored| stored.body.as_ref());
        self.roles.iter().copied().zip(bodies).filter_map(|(role, body)| Some((role, body?)))
    }

    /// Writes that make of these records what `change` says of each, at these versions.
    fn writes(&self, change: impl Fn(usize) -> RecordChange) -> Vec<RecordWrite> {
        let each = self.ids.iter().zip(&self.stored).enumerate();
        let write = |(place, (id, stored)): (usize, (&RecordId, &Stored))| RecordWrite {
            id: id.clone(),
            version: stored.version,
            change: change(place),
            fence: None,
            unlock: false,
        };
        each.map(write).collect()
    }

    /// Removes what is there.
    fn removal(&self) -> Vec<RecordWrite> {
        self.writes(|place| match self.stored[place].body {
            Some(_) => RecordChange::Remove,
            None => RecordChange::Keep,
        })
    }
}

fn id_of<R: Record<Key = u64>>(key: u64) -> RecordId {
    RecordId { kind: KindId::of(R::NAME).0, key: encode(&key) }
}

fn decoded<R: Record>(account: u64, stored: &Stored) -> Result<Option<R>, ArchiveError> {
    let Some(bytes) = &stored.body else { return Ok(None) };
    let mut value = R::default();
    read_document(&mut value, bytes)
        .map_err(|error| ArchiveError::Unreadable { account, problem: error.to_string() })?;
    Ok(Some(value))
}

fn encoded(account: u64, value: &Account) -> Result<Vec<u8>, ArchiveError> {
    let mut bytes = Vec::new();
    write_document(value, &mut bytes)
        .map_err(|error| ArchiveError::Unreadable { account, problem: error.to_string() })?;
    Ok(bytes)
}

/// Reads the records of an account that has those roles.
fn parts(store: &Store, account: u64, roles: Vec<u64>) -> Result<Parts, ArchiveError> {
    let mut ids = vec![id_of::<Account>(account), id_of::<Roster>(account)];
    ids.extend(roles.iter().map(|role| id_of::<RoleData>(*role)));
    let found = store.records(ids.clone()).wait()?;
    Ok(Parts { generation: found.generation, ids, stored: found.records, roles })
}

/// As [`parts`], with the roles that the roster of this store names.
fn parts_here(store: &Store, account: u64) -> Result<Parts, ArchiveError> {
    loop {
        let first = parts(store, account, Vec::new())?;
        let roster: Roster = decoded(account, &first.stored[1])?.unwrap_or_default();
        let roles = roster.roles.iter().map(|role| role.id).collect();
        let all = parts(store, account, roles)?;
        // Else somebody was between the two.
        if all.stored[1] == first.stored[1] {
            return Ok(all);
        }
    }
}

impl Archive {
    /// The archive in that store.
    pub fn new(store: Store) -> Self {
        Archive {
            store,
            #[cfg(test)]
            writes_left: None,
        }
    }

    fn write(
        &self,
        store: &Store,
        generation: u64,
        writes: Vec<RecordWrite>,
    ) -> Result<Option<Vec<u64>>, ArchiveError> {
        #[cfg(test)]
        if let Some(left) = &self.writes_left {
            let take = |left: usize| left.checked_sub(1);
            if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
                return Err(Error::Stopped("killed".to_owned()).into());
            }
        }
        match store.write_records(generation, writes).wait() {
            Ok(versions) => Ok(Some(versions)),
            Err(Error::RecordConflict { .. } | Error::Locked { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Looks for accounts that can be taken. Coins and items are looked for in the live store and in
    /// `purses`: the further stores of the game, or their shards.
    ///
    /// # Errors
    ///
    /// See [`ArchiveError`].
    pub fn survey(
        live: &Store,
        purses: &[Store],
        now_ms: u64,
        rules: &Rules,
    ) -> Result<Survey, ArchiveError> {
        let mut survey = Survey::default();
        // Whose money is looked for: accounts and roles by the number that a holder's key ends with.
        let mut owners: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        let mut after = None;
        'pages: loop {
            let kind = KindId::of(Roster::NAME).0;
            let page = live.scan_records(kind, after, PAGE_RECORDS).wait()?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for piece in page.chunks(READ_MAX) {
                let ids = piece.iter().map(|(key, _)| RecordId {
                    kind: KindId::of(Account::NAME).0,
                    key: key.clone(),
                });
                let accounts = live.records(ids.collect()).wait()?.records;
                for ((key, roster), account) in piece.iter().zip(&accounts) {
                    let number = number_of(key)?;
                    survey.count(number, now_ms, rules, decoded(number, account)?);
                    if !survey.idle.contains_key(&number) {
                        continue;
                    }
                    let roster: Roster = decoded(number, roster)?.unwrap_or_default();
                    for id in roster.roles.iter().map(|role| role.id).chain([number]) {
                        owners.entry(id).or_default().insert(number);
                    }
                    if survey.idle.len() >= rules.accounts_max {
                        survey.is_cut = true;
                        break 'pages;
                    }
                }
            }
        }
        if !rules.allow.contains(MONEY) {
            for store in std::iter::once(live).chain(purses) {
                survey.keep_with_money(store, &owners)?;
            }
        }
        Ok(survey)
    }

    /// Begins the time of an account from before its use was written.
    ///
    /// # Errors
    ///
    /// See [`ArchiveError`].
    pub fn begin(&self, live: &Store, account: u64, now_ms: u64) -> Result<Moved, ArchiveError> {
        let parts = parts(live, account, Vec::new())?;
        if parts.stored[0].body.is_some() {
            return Ok(Moved::Stays);
        }
        let begun = encoded(account, &Account { seen_ms: now_ms, ..Account::default() })?;
        let mut writes = parts.writes(|_| RecordChange::Put(begun.clone()));
        writes.truncate(1);
        Ok(moved(self.write(live, parts.generation, writes)?.is_some()))
    }

    /// Moves one account that a survey named from the live store into the archive. Its idle time and
    /// what keeps it are looked at again, its money is not: that stays where it is in any case.
    ///
    /// # Errors
    ///
    /// See [`ArchiveError`]; whatever was done, the account is in one of the stores.
    pub fn take(
        &self,
        live: &Store,
        number: u64,
        now_ms: u64,
        rules: &Rules,
    ) -> Result<Moved, ArchiveError> {
        if parts(&self.store, number, Vec::new())?.version() > 0 {
            self.discard(live, number)?;
        }
        let roles = parts_here(live, number)?.roles;
        // Before the live store is read: who reads that later has written here later.
        let before = parts(&self.store, number, roles)?;
        let found = parts_here(live, number)?;
        let account: Option<Account> = decoded(number, &found.stored[0])?;
        let Some(mut account) = account.filter(|account| account.archived.is_none()) else {
            return Ok(Moved::Stays);
        };
        let is_idle = account.is_idle(now_ms, rules) && account.reasons(rules).is_empty();
        if !is_idle || found.roster().is_none() || found.roles != before.roles {
            return Ok(Moved::Stays);
        }
        let copy = before.writes(|place| match &found.stored[place].body {
            Some(body) => RecordChange::Put(body.clone()),
            None => RecordChange::Keep,
        });
        let Some(versions) = self.write(&self.store, before.generation, copy)? else {
            return Ok(Moved::Stays);
        };
        account.archived = Some(versions[0]);
        let mut writes = found.removal();
        writes[0].change = RecordChange::Put(encoded(number, &account)?);
        if self.write(live, found.generation, writes)?.is_some() {
            return Ok(Moved::Done);
        }
        self.discard(live, number)?;
        Ok(Moved::Stays)
    }

    /// Moves one account back into the live store.
    ///
    /// # Errors
    ///
    /// See [`ArchiveError`]; whatever was done, the account is in one of the stores.
    pub fn bring_back(
        &self,
        live: &Store,
        number: u64,
        now_ms: u64,
    ) -> Result<Moved, ArchiveError> {
        let account: Option<Account> =
            decoded(number, &parts(live, number, Vec::new())?.stored[0])?;
        let Some(wanted) = account.and_then(|account| account.archived) else {
            return Ok(Moved::Stays);
        };
        let copy = self.copy(number, wanted)?;
        let here = parts(live, number, copy.roles.clone())?;
        let account: Option<Account> = decoded(number, &here.stored[0])?;
        let Some(account) = account.filter(|account| account.archived == Some(wanted)) else {
            return Ok(Moved::Stays);
        };
        if here.stored[1..].iter().any(|stored| stored.body.is_some()) {
            return Err(ArchiveError::Both(number));
        }
        let account = Account { seen_ms: now_ms, archived: None, ..account };
        let mut writes = here.writes(|place| match &copy.stored[place].body {
            Some(body) => RecordChange::Put(body.clone()),
            None => RecordChange::Keep,
        });
        writes[0].change = RecordChange::Put(encoded(number, &account)?);
        if self.write(live, here.generation, writes)?.is_none() {
            return Ok(Moved::Stays);
        }
        self.remove(&copy)?;
        Ok(Moved::Done)
    }

    /// The copy that the live store names.
    pub(crate) fn copy(&self, number: u64, wanted: u64) -> Result<Parts, ArchiveError> {
        let copy = parts_here(&self.store, number)?;
        if copy.version() != wanted || copy.roster().is_none() {
            return Err(ArchiveError::NoCopy { account: number, wanted, found: copy.version() });
        }
        Ok(copy)
    }

    /// Removes a copy whose account is back, unless another was put there meanwhile.
    pub(crate) fn remove(&self, copy: &Parts) -> Result<(), ArchiveError> {
        self.write(&self.store, copy.generation, copy.removal())?;
        Ok(())
    }

    /// Removes what jobs that were cut off left here: copies of accounts that the live store has.
    /// The answer says how many.
    ///
    /// # Errors
    ///
    /// See [`ArchiveError`].
    pub fn sweep(&self, live: &Store) -> Result<u64, ArchiveError> {
        let (mut swept, mut after) = (0, None);
        loop {
            let kind = KindId::of(Account::NAME).0;
            let page = self.store.scan_records(kind, after, PAGE_RECORDS).wait()?;
            let Some((last, _)) = page.last() else { return Ok(swept) };
            after = Some(last.clone());
            for (key, _) in &page {
                swept += u64::from(self.discard(live, number_of(key)?)? == Moved::Done);
            }
        }
    }

    /// Removes a copy that does not count.
    fn discard(&self, live: &Store, number: u64) -> Result<Moved, ArchiveError> {
        let copy = parts_here(&self.store, number)?;
        let here = parts(live, number, Vec::new())?;
        let account: Option<Account> = decoded(number, &here.stored[0])?;
        let counts = account.is_none_or(|account| account.archived.is_some());
        if counts || here.roster().is_none() || copy.version() == 0 {
            return Ok(Moved::Stays);
        }
        // Written as it is, so that no job which decided earlier can still make this copy count.
        let mut writes = here.writes(|place| match &here.stored[place].body {
            Some(body) if place == 0 => RecordChange::Put(body.clone()),
            _ => RecordChange::Keep,
        });
        writes.truncate(1);
        if self.write(live, here.generation, writes)?.is_none() {
            return Ok(Moved::Stays);
        }
        Ok(moved(self.write(&self.store, copy.generation, copy.removal())?.is_some()))
    }
}

fn moved(was_done: bool) -> Moved {
    if was_done { Moved::Done } else { Moved::Stays }
}

fn number_of(key: &[u8]) -> Result<u64, ArchiveError> {
    let number = mainstay::proto::decode::<u64>(key);
    number.map_err(|error| ArchiveError::Unreadable { account: 0, problem: error.to_string() })
}

impl Account {
    fn is_idle(&self, now_ms: u64, rules: &Rules) -> bool {
        let span = rules.idle_days.max(IDLE_DAYS_MIN).saturating_mul(DAY_MS);
        now_ms.saturating_sub(self.seen_ms) >= span
    }

    /// What keeps it.
    fn reasons(&self, rules: &Rules) -> Vec<String> {
        self.keeps.iter().filter(|reason| !rules.allow.contains(*reason)).cloned().collect()
    }
}

impl Survey {
    fn count(&mut self, number: u64, now_ms: u64, rules: &Rules, account: Option<Account>) {
        let Some(account) = account else {
            self.unknown.insert(number);
            return;
        };
        if !account.is_idle(now_ms, rules) {
            self.active += 1;
            return;
        }
        let reasons = account.reasons(rules);
        if reasons.is_empty() {
            self.idle.insert(number, account.seen_ms);
        } else {
            self.kept.insert(number, reasons);
        }
    }

    /// Keeps whoever has coins or items, whatever kind of entity holds them.
    fn keep_with_money(
        &mut self,
        store: &Store,
        owners: &BTreeMap<u64, BTreeSet<u64>>,
    ) -> Result<(), ArchiveError> {
        let mut after = Place { table: HOLDERS, key: Vec::new() };
        while !owners.is_empty() {
            let rows = store.rows(Some(after), PAGE_BYTES).wait()?;
            let Some(last) = rows.last() else { break };
            after = last.place.clone();
            for row in rows.iter().filter(|row| row.place.table == HOLDERS) {
                let Ok(key) = <[u8; 16]>::try_from(row.place.key.as_slice()) else { continue };
                let key = Key(u128::from_be_bytes(key));
                let Some(numbers) = owners.get(&(key.0 as u64)) else { continue };
                let held = store.holdings(key).wait()?;
                if held.items.is_empty() && held.balances.values().all(|amount| *amount == 0) {
                    continue;
                }
                for number in numbers {
                    if self.idle.remove(number).is_some() {
                        self.kept.insert(*number, vec![MONEY.to_owned()]);
                    }
                }
            }
            if after.table != HOLDERS {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
