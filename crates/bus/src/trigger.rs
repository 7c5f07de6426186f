use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use env::{Clock, Random};

use crate::types::Accepted;
use crate::{Bus, Error};

/// Sends events into a game from any program: each is accepted by the bus, or comes back with the
/// reason within the time that was set for it.
///
/// A cheap clone that many threads may use at once. Credentials are those of the bus. How sure an
/// accepted event is, is the delivery class that its topic is declared with.
#[derive(Clone, Debug)]
pub struct Trigger {
    bus: Bus,
    clock: Clock,
    within: Duration,
    undelivered: Arc<Mutex<VecDeque<Undelivered>>>,
}

/// An event that was not accepted in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{subject:?} was not delivered: {cause}")]
pub struct Undelivered {
    /// Where it should have gone.
    pub subject: String,
    /// Sent again under this, it is still the same event.
    pub id: u128,
    /// What it says.
    pub body: Arc<[u8]>,
    /// Why it was not accepted.
    pub cause: Error,
}

/// Most events kept that were not accepted.
const UNDELIVERED_MAX: usize = 1024;
/// The first and the longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

impl Trigger {
    /// Sends over `bus`, whose topics are declared already, each event for `within` at most.
    pub fn new(bus: Bus, clock: &Clock, within: Duration) -> Self {
        Trigger { bus, clock: clock.clone(), within, undelivered: Arc::default() }
    }

    /// Sends an event and blocks until it is accepted, or its time is over. Of events with the
    /// same `key` the bus takes one; without a key each is one of its own.
    ///
    /// # Errors
    ///
    /// The event itself, which is also kept for [`send_again`](Self::send_again).
    pub fn send(
        &self,
        subject: &str,
        key: Option<&str>,
        body: impl Into<Arc<[u8]>>,
    ) -> Result<Accepted, Box<Undelivered>> {
        let id = key.map_or_else(|| u128::from_le_bytes(Random::from_os().bytes()), key_id);
        self.deliver(subject, id, body.into())
    }

    /// Events that were not accepted, oldest first; the newest 1,024 are kept.
    pub fn undelivered(&self) -> Vec<Undelivered> {
        self.lock().iter().cloned().collect()
    }

    /// Sends all that was not accepted once more, each for its time; tells how many were accepted.
    pub fn send_again(&self) -> usize {
        let all = std::mem::take(&mut *self.lock());
        let deliver = |one: &Undelivered| self.deliver(&one.subject, one.id, one.body.clone());
        all.iter().filter(|one| deliver(one).is_ok()).count()
    }

    fn deliver(
        &self,
        subject: &str,
        id: u128,
        body: Arc<[u8]>,
    ) -> Result<Accepted, Box<Undelivered>> {
        let cause = match self.try_until(subject, id, &body) {
            Ok(accepted) => return Ok(accepted),
            Err(cause) => cause,
        };
        let undelivered = Undelivered { subject: subject.to_owned(), id, body, cause };
        let mut all = self.lock();
        if all.len() == UNDELIVERED_MAX {
            all.pop_front();
        }
        all.push_back(undelivered.clone());
        Err(Box::new(undelivered))
    }

    fn try_until(&self, subject: &str, id: u128, body: &Arc<[u8]>) -> Result<Accepted, Error> {
        let end = self.clock.now() + self.within;
        let mut pause = PAUSES.0;
        loop {
            let left = end - self.clock.now();
            let published = self.bus.publish_within(subject, id, body.clone(), left);
            let unconfirmed = Error::Unconfirmed { subject: subject.into(), waited: self.within };
            // The bus gives up by itself; the second more is for its thread.
            let told = published.and_then(|mut answer| {
                let waited = answer.wait(left + Duration::from_secs(1));
                waited.unwrap_or(Err(unconfirmed))
            });
            match told {
                Err(Error::Busy(_) | Error::Unavailable(_)) if self.clock.now() + pause < end => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(PAUSES.1);
                }
                told => return told,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Undelivered>> {
        self.undelivered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// FNV-1a, 128 bits: keys are names that a program gives, not secrets.
fn key_id(key: &str) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    key.bytes().fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_hashed_as_the_algorithm_says() {
        assert_eq!(key_id(""), 0x6c62272e07bb014262b821756295c58d);
        assert_eq!(key_id("a"), 0xd228cb696f1a8caf78912b704e4a8964);
    }
}
