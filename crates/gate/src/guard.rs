use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use env::Instant;
use proto::AccountId;

use crate::bucket::{Bucket, Price};
use crate::{Options, Rule};

/// Most networks or accounts whose rates are remembered at a time.
const REMEMBERED_MAX: usize = 65_536;

/// Most bans held; more are refused.
const BANS_MAX: usize = 100_000;

/// A range of addresses: an address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// The network of `address` whose first `prefix` bits are equal; a longer prefix than the
    /// address has bits is cut. IPv4 inside IPv6 counts as IPv4.
    pub fn new(address: IpAddr, prefix: u8) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let prefix = prefix.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                Network { address: IpAddr::V4((v4.to_bits() & mask).into()), prefix }
            }
            IpAddr::V6(v6) => {
                let prefix = prefix.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                Network { address: IpAddr::V6((v6.to_bits() & mask).into()), prefix }
            }
        }
    }

    /// This one address.
    pub fn host(address: IpAddr) -> Self {
        Network::new(address, 128)
    }

    /// The range that one subscriber usually has: /24 of IPv4, /64 of IPv6.
    fn of_subscriber(address: IpAddr) -> Self {
        Network::new(address, if address.to_canonical().is_ipv4() { 24 } else { 64 })
    }
}

/// Whom a ban is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Banned {
    /// All connections from these addresses.
    Network(Network),
    /// One account, wherever it comes from.
    Account(AccountId),
}

/// Who may connect and log in: counts per address, rates per network and account, bans.
#[derive(Debug)]
pub(crate) struct Guard {
    connections: BTreeMap<IpAddr, u32>,
    networks: Rates<Network>,
    accounts: Rates<AccountId>,
    denied: Rates<AccountId>,
    bans: BTreeMap<Banned, Instant>,
    /// How many bans there are of each prefix length, so that a lookup tries only those.
    v4_prefixes: BTreeMap<u8, usize>,
    v6_prefixes: BTreeMap<u8, usize>,
    per_address_max: u32,
    spare_loopback: bool,
}

impl Guard {
    pub(crate) fn new(options: &Options) -> Self {
        Guard {
            connections: BTreeMap::new(),
            networks: Rates::new(Price::new(options.handshakes_per_network)),
            accounts: Rates::new(Price::new(options.logins_per_account)),
            denied: Rates::new(Price::new(options.denied)),
            bans: BTreeMap::new(),
            v4_prefixes: BTreeMap::new(),
            v6_prefixes: BTreeMap::new(),
            per_address_max: options.connections_per_address_max,
            spare_loopback: options.spare_loopback,
        }
    }

    /// Takes note of a connection from `address`, or tells which rule forbids it.
    pub(crate) fn open(&mut self, now: Instant, address: IpAddr) -> Result<(), Rule> {
        let address = address.to_canonical();
        if self.is_banned(now, address) {
            return Err(Rule::Banned);
        }
        if !(self.spare_loopback && address.is_loopback()) {
            if self.connections.get(&address).copied().unwrap_or(0) >= self.per_address_max {
                return Err(Rule::AddressConnections);
            }
            if !self.networks.take(now, Network::of_subscriber(address)) {
                return Err(Rule::NetworkHandshakes);
            }
        }
        *self.connections.entry(address).or_insert(0) += 1;
        Ok(())
    }

    /// Takes note of a connection of `account` that was admitted elsewhere; `false` if it is banned.
    pub(crate) fn adopt(&mut self, now: Instant, address: IpAddr, account: AccountId) -> bool {
        let address = address.to_canonical();
        let is_banned = self.bans.get(&Banned::Account(account)).is_some_and(|until| *until > now);
        if is_banned || self.is_banned(now, address) {
            return false;
        }
        *self.connections.entry(address).or_insert(0) += 1;
        true
    }

    /// A connection from `address` is gone.
    pub(crate) fn closed(&mut self, address: IpAddr) {
        let address = address.to_canonical();
        if let Some(count) = self.connections.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.connections.remove(&address);
            }
        }
    }

    /// Takes note of a login of `account`, or tells which rule forbids it.
    pub(crate) fn login(&mut self, now: Instant, account: AccountId) -> Result<(), Rule> {
        if self.bans.get(&Banned::Account(account)).is_some_and(|until| *until > now) {
            return Err(Rule::Banned);
        }
        if self.accounts.take(now, account) { Ok(()) } else { Err(Rule::AccountLogins) }
    }

    /// Takes note that `account` asked for what it may not have; `false` if it did so too often.
    pub(crate) fn denied(&mut self, now: Instant, account: AccountId) -> bool {
        self.denied.take(now, account)
    }

    pub(crate) fn is_banned(&self, now: Instant, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let prefixes = if address.is_ipv4() { &self.v4_prefixes } else { &self.v6_prefixes };
        prefixes.keys().any(|prefix| {
            let network = Banned::Network(Network::new(address, *prefix));
            self.bans.get(&network).is_some_and(|until| *until > now)
        })
    }

    /// Bans until a point in time; `false` if there are too many bans already.
    pub(crate) fn ban(&mut self, whom: Banned, until: Instant) -> bool {
        if self.bans.len() >= BANS_MAX && !self.bans.contains_key(&whom) {
            return false;
        }
        if self.bans.insert(whom, until).is_none()
            && let Some((prefixes, prefix)) = self.prefixes(whom)
        {
            *prefixes.entry(prefix).or_insert(0) += 1;
        }
        true
    }

    /// Lifts a ban; `false` if there was none.
    pub(crate) fn lift(&mut self, whom: Banned) -> bool {
        if self.bans.remove(&whom).is_none() {
            return false;
        }
        if let Some((prefixes, prefix)) = self.prefixes(whom) {
            let count = prefixes.get_mut(&prefix).expect("each ban is counted");
            *count -= 1;
            if *count == 0 {
                prefixes.remove(&prefix);
            }
        }
        true
    }

    fn prefixes(&mut self, whom: Banned) -> Option<(&mut BTreeMap<u8, usize>, u8)> {
        match whom {
            Banned::Account(_) => None,
            Banned::Network(Network { address: IpAddr::V4(_), prefix }) => {
                Some((&mut self.v4_prefixes, prefix))
            }
            Banned::Network(Network { address: IpAddr::V6(_), prefix }) => {
                Some((&mut self.v6_prefixes, prefix))
            }
        }
    }

    /// Forgets what no longer holds anyone back.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.networks.sweep(now);
        self.accounts.sweep(now);
        self.denied.sweep(now);
        let over: Vec<Banned> =
            self.bans.iter().filter(|(_, until)| **until <= now).map(|(whom, _)| *whom).collect();
        for whom in over {
            self.lift(whom);
        }
    }

    /// Addresses, networks, accounts and bans remembered now.
    pub(crate) fn remembered(&self) -> usize {
        let accounts = self.accounts.buckets.len() + self.denied.buckets.len();
        let rates = self.networks.buckets.len() + accounts;
        self.connections.len() + rates + self.bans.len()
    }
}

/// One bucket for each key that is not full.
#[derive(Debug)]
pub(crate) struct Rates<K> {
    price: Price,
    buckets: BTreeMap<K, Bucket>,
    /// Shared by all new keys while too many are remembered.
    crowd: Bucket,
    swept_at: Instant,
}

impl<K: Ord + Copy> Rates<K> {
    pub(crate) const fn new(price: Price) -> Self {
        Rates { price, buckets: BTreeMap::new(), crowd: Bucket::full(), swept_at: Instant::ZERO }
    }

    pub(crate) fn take(&mut self, now: Instant, key: K) -> bool {
        if let Some(bucket) = self.buckets.get_mut(&key) {
            return bucket.take(now, self.price, 1);
        }
        if self.buckets.len() >= REMEMBERED_MAX
            && now.since(self.swept_at) >= Duration::from_millis(100)
        {
            self.sweep(now);
        }
        if self.buckets.len() >= REMEMBERED_MAX {
            return self.crowd.take(now, self.price, 1);
        }
        let mut bucket = Bucket::full();
        let taken = bucket.take(now, self.price, 1);
        self.buckets.insert(key, bucket);
        taken
    }

    pub(crate) fn sweep(&mut self, now: Instant) {
        self.swept_at = now;
        self.buckets.retain(|_, bucket| !bucket.is_full(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rate;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_cut_and_compare() {
        let mapped = Network::new(address("::ffff:10.1.2.3"), 24);
        assert_eq!(mapped, Network::new(address("10.1.2.200"), 24));
        assert_ne!(mapped, Network::new(address("10.1.3.3"), 24));
        assert_eq!(Network::new(address("10.1.2.3"), 0), Network::new(address("9.9.9.9"), 0));
        assert_eq!(Network::host(address("::1")), Network::new(address("::1"), 128));
    }

    #[test]
    fn ban_holds_for_its_network_and_time() {
        let mut guard = Guard::new(&Options::default());
        let start = Instant::from_nanos(1);
        let until = start + Duration::from_secs(10);
        let whom = Banned::Network(Network::new(address("10.1.2.3"), 24));
        assert!(guard.ban(whom, until));
        assert!(guard.ban(Banned::Network(Network::host(address("2001:db8::1"))), Instant::NEVER));
        assert!(guard.is_banned(start, address("10.1.2.77")));
        assert!(!guard.is_banned(start, address("10.1.3.77")));
        assert!(guard.is_banned(start, address("2001:db8::1")));
        assert!(!guard.is_banned(until, address("10.1.2.77")));
        guard.sweep(until);
        assert!(!guard.lift(whom));
        assert_eq!(guard.remembered(), 1);
    }

    #[test]
    fn crowd_of_networks_shares_one_bucket_and_memory_stays_bounded() {
        let mut rates = Rates::new(Price::new(Rate::new(1, 2)));
        let now = Instant::from_nanos(1_000_000_000);
        let admitted =
            (0..REMEMBERED_MAX as u64 + 1_000).filter(|key| rates.take(now, *key)).count();
        assert_eq!(admitted, REMEMBERED_MAX + 2);
        assert_eq!(rates.buckets.len(), REMEMBERED_MAX);
        rates.sweep(now + Duration::from_secs(1));
        assert_eq!(rates.buckets.len(), 0);
    }
}
