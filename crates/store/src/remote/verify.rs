//! Reads a whole shard as it is at one moment.

use std::cell::RefCell;
use std::collections::BTreeMap;

use tokio::runtime::Runtime;

use super::driver::{connect, within};
use super::options::ServerOptions;
use super::{ConnectError, Failure, Found, Link, Mode, Place, Server};
use crate::error::Error;
use crate::ledger::Verdict;
use crate::rules;
use crate::tables::{Read, Stage, Table, Visit};

const PAGE: usize = 1_024;

/// Blocks until all is read.
pub(super) fn verify<S: Server>(
    runtime: &Runtime,
    server: &S,
    options: &ServerOptions,
) -> Result<Verdict, Error> {
    let unavailable = |failure| match failure {
        Failure::Retry(reason) | Failure::Lost(reason) => Error::Unavailable(reason),
    };
    let link = runtime.block_on(async {
        let mut reason = String::new();
        let mut found = None;
        for host in 0..server.hosts() {
            match connect(server, options, host).await {
                Ok(link) => {
                    found = Some(link);
                    break;
                }
                Err(ConnectError::Away(why)) => reason = why,
                Err(ConnectError::Refused(error)) => reason = error.to_string(),
            }
        }
        let mut link = found.ok_or(Error::Unavailable(reason))?;
        within(options.reply_wait, link.begin(Mode::Read, &[])).await.map_err(unavailable)?;
        Ok::<_, Error>(link)
    })?;
    let moment = Moment {
        runtime,
        options,
        link: RefCell::new(link),
        ahead: RefCell::default(),
        failed: RefCell::default(),
    };
    let verdict = rules::verify(&mut Stage::new(&moment, &options.store.limits));
    match moment.failed.into_inner() {
        Some(failure) => Err(unavailable(failure)),
        None => verdict,
    }
}

/// The rows of one moment. A page is fetched together with the rows that will be looked up for it.
struct Moment<'a, L> {
    runtime: &'a Runtime,
    options: &'a ServerOptions,
    link: RefCell<L>,
    ahead: RefCell<BTreeMap<Place, Found>>,
    failed: RefCell<Option<Failure>>,
}

impl<L: Link> Moment<'_, L> {
    fn read<T>(&self, trip: impl Future<Output = Result<T, Failure>>) -> Result<T, Error> {
        self.runtime.block_on(within(self.options.reply_wait, trip)).map_err(|failure| {
            let error = Error::Unavailable(format!("{failure:?}"));
            self.failed.borrow_mut().get_or_insert(failure);
            error
        })
    }

    fn look_ahead(&self, table: Table, page: &[(Vec<u8>, Vec<u8>)]) -> Result<(), Error> {
        let look = |(key, row): &(Vec<u8>, Vec<u8>)| rules::looked_up(table, key, row);
        let places: Vec<Place> = page.iter().filter_map(look).collect();
        let found = match places[..] {
            [] => Vec::new(),
            _ => self.read(self.link.borrow_mut().get_many(&places))?,
        };
        *self.ahead.borrow_mut() = places.into_iter().zip(found).collect();
        Ok(())
    }
}

impl<L: Link> Read for Moment<'_, L> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let place = (table, key.to_vec());
        if let Some(found) = self.ahead.borrow().get(&place) {
            return Ok(found.clone());
        }
        let mut link = self.link.borrow_mut();
        let found = self.read(link.get_many(&[place]))?;
        Ok(found.into_iter().next().flatten())
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        let mut from = from.to_vec();
        loop {
            // The visitor may read rows of its own.
            let page = self.read(self.link.borrow_mut().page(table, &from, PAGE))?;
            self.look_ahead(table, &page)?;
            let is_last = page.len() < PAGE;
            for (key, row) in page {
                if !visit(&key, &row)? {
                    return Ok(());
                }
                from = key;
            }
            if is_last {
                return Ok(());
            }
            from.push(0);
        }
    }
}
