//! Data processes that are lost, stand still or lie.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use env::metrics::Registry;
use store::*;

pub const KEY: [u8; 32] = [9; 32];
const PATIENCE: Duration = Duration::from_secs(60);

pub fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Those stores, with figures that nobody looks at.
pub fn parts(stores: Vec<(String, Store)>) -> DataParts<'static> {
    DataParts { stores, key: &KEY, metrics: Registry::new() }
}

pub fn serve(store: &Store) -> DataService {
    let stores = vec![(String::new(), store.clone())];
    DataService::start(anywhere(), parts(stores), DataOptions::default()).unwrap()
}

fn options() -> ProxyOptions {
    ProxyOptions {
        silence_wait: Duration::from_secs(3),
        away_wait: Duration::from_secs(20),
        ..ProxyOptions::default()
    }
}

fn open(addresses: &[SocketAddr]) -> Result<Store, OpenError> {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    Store::proxy(&addresses, "", &KEY, options())
}

/// A way to a data process, or another server, that can be stopped or cut.
pub struct Way {
    pub address: SocketAddr,
    mode: Arc<AtomicU8>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

pub const OPEN: u8 = 0;
/// Requests arrive, answers do not.
const NO_ANSWERS: u8 = 1;
/// Nothing arrives.
pub const NOTHING: u8 = 2;

impl Way {
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(anywhere()).unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, streams) = (Arc::new(AtomicU8::new(OPEN)), Arc::new(Mutex::new(Vec::new())));
        let (of_thread, kept) = (Arc::clone(&mode), Arc::clone(&streams));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(target) else { continue };
                let both = [client.try_clone().unwrap(), server.try_clone().unwrap()];
                kept.lock().unwrap().extend(both);
                let there = (client.try_clone().unwrap(), server.try_clone().unwrap());
                for (mut from, mut to, at_most) in
                    [(there.0, there.1, NO_ANSWERS), (server, client, OPEN)]
                {
                    let mode = Arc::clone(&of_thread);
                    std::thread::spawn(move || {
                        let mut bytes = [0; 65_536];
                        while let Ok(count @ 1..) = from.read(&mut bytes) {
                            if mode.load(Ordering::SeqCst) <= at_most {
                                drop(to.write_all(&bytes[..count]));
                            }
                        }
                        drop(to.shutdown(Shutdown::Both));
                    });
                }
            }
        });
        Way { address, mode, streams }
    }

    pub fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
    }

    pub fn cut(&self) {
        for stream in self.streams.lock().unwrap().drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

fn mint(id: u128) -> Transaction {
    let mint = LedgerOp::Mint { holder: Key(1), currency: Currency(1), amount: 1 };
    Transaction::new(TxnId(id), 1).with(mint)
}

fn gold(store: &Store) -> u64 {
    let holdings = store.holdings(Key(1)).wait().unwrap();
    holdings.balances.get(&Currency(1)).copied().unwrap_or(0)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// One process is asked at a time, and which one is by chance: open until it is the one behind the way.
fn open_by_way(behind: &DataService, addresses: &[SocketAddr]) -> Store {
    let begun = Instant::now();
    loop {
        let store = open(addresses).unwrap();
        if behind.connections() == 1 {
            return store;
        }
        assert!(begun.elapsed() < PATIENCE);
        drop(store);
        until("nobody is connected", || behind.connections() == 0);
    }
}

#[test]
fn f14_what_was_done_by_a_process_that_is_lost_is_looked_up_at_another() {
    let store = Store::memory(Limits::default());
    let (one, other) = (serve(&store), serve(&store));
    let way = Way::to(one.address());
    let proxy = open_by_way(&one, &[way.address, other.address()]);
    proxy.commit(mint(1)).wait().unwrap();

    way.set(NO_ANSWERS);
    let done = proxy.commit(mint(2));
    let claim = {
        let me = Incarnation(5);
        store.beat(me).wait().unwrap();
        let ask = Activate { key: Key(7), generation: 1, incarnation: me, reclaim: None };
        store.activate(ask).wait().unwrap().claim
    };
    let saved = proxy.save(Save { claim, version: 0, patch: Patch::new() });
    let read = proxy.holdings(Key(1));
    until("it was done", || {
        gold(&store) == 2 && store.load(Key(7)).wait().unwrap().unwrap().version == 1
    });
    way.cut();
    assert_eq!(done.wait().map(|receipt| receipt.id), Ok(TxnId(2)), "it was done once, and found");
    assert!(matches!(saved.wait(), Err(Error::Unknown(_))), "nobody says whether it was done");
    assert_eq!(read.wait().unwrap().balances[&Currency(1)], 2, "it is read again");
    assert_eq!(gold(&proxy), 2);
}

#[test]
fn f14_what_never_arrived_is_unknown_and_never_done_by_itself() {
    let store = Store::memory(Limits::default());
    let (one, other) = (serve(&store), serve(&store));
    let way = Way::to(one.address());
    let proxy = open_by_way(&one, &[way.address, other.address()]);
    way.set(NOTHING);
    let (lost, read) = (proxy.commit(mint(1)), proxy.generation());
    // It says nothing: that ends the connection without anybody's help.
    let unknown = lost.wait();
    assert!(matches!(unknown, Err(Error::Unknown(_))), "{unknown:?}");
    assert_eq!(read.wait(), Ok(1));
    assert_eq!(proxy.lookup(TxnId(1)).wait(), Ok(None));
    assert_eq!(gold(&proxy), 0);
    proxy.commit(mint(1)).wait().unwrap();
    assert_eq!(gold(&store), 1);
}

#[test]
fn f14_while_all_are_away_requests_wait_and_then_fail_clearly() {
    let store = Store::memory(Limits::default());
    let one = serve(&store);
    let address = one.address();
    let wait = Duration::from_millis(300);
    let options = ProxyOptions { away_wait: wait, ..options() };
    let proxy = Store::proxy(&[address.to_string()], "", &KEY, options).unwrap();
    proxy.commit(mint(1)).wait().unwrap();
    drop(one);
    until("it is away", || matches!(proxy.generation().wait(), Err(Error::Unavailable(_))));
    let refused = proxy.commit(mint(2)).wait();
    assert!(matches!(refused, Err(Error::Unavailable(_))), "nothing was sent: {refused:?}");
    let stores = vec![(String::new(), store.clone())];
    let back = DataService::start(address, parts(stores), DataOptions::default()).unwrap();
    until("it is back", || proxy.generation().wait() == Ok(1));
    assert_eq!(back.connections(), 1);
    assert_eq!(gold(&proxy), 1);
}

#[test]
fn f14_who_has_another_key_or_asks_for_another_store_is_refused() {
    let store = Store::memory(Limits::default());
    let service = serve(&store);
    let at = [service.address().to_string()];
    let refused = |name: &str, key: &[u8]| {
        Store::proxy(&at, name, key, options()).map(drop).unwrap_err().to_string()
    };
    assert!(refused("", &[8; 32]).contains("it does not have the cluster's key"));
    assert!(refused("world", &KEY).contains("it has no store \"world\""));
    let nobody = ProxyOptions { open_wait: Duration::from_millis(100), ..options() };
    let nobody = Store::proxy(&["127.0.0.1:1".to_owned()], "", &KEY, nobody);
    assert!(matches!(nobody, Err(OpenError::Away { .. })));
    assert!(matches!(Store::proxy(&[], "", &KEY, options()), Err(OpenError::Malformed(_))));
    // Whoever speaks something else is closed, and others are served.
    for said in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"MSYD\x01\xff", b"MSYD\x02\0", &[0; 200]] {
        let mut stream = TcpStream::connect(service.address()).unwrap();
        drop(stream.write_all(said));
        drop(stream.shutdown(Shutdown::Write));
        let mut heard = Vec::new();
        drop(stream.read_to_end(&mut heard));
        assert_eq!(heard, b"", "nothing is told to it");
    }
    until("they are closed", || service.connections() == 0);
    assert_eq!(open(&[service.address()]).unwrap().generation().wait(), Ok(1));
}

/// Two handles commit through two data processes, which end one after the other and come back: nothing that
/// was told is lost or done twice.
#[test]
fn f14_data_processes_end_and_come_back_under_load() {
    let store = Store::memory(Limits::default());
    let mut services: Vec<Option<DataService>> = (0..2).map(|_| Some(serve(&store))).collect();
    let at: Vec<SocketAddr> = services.iter().flatten().map(|service| service.address()).collect();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let done: Vec<u128> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2u128)
            .map(|number| {
                let (stop, proxy) = (&stop, open(&at).unwrap());
                scope.spawn(move || {
                    let mut done = Vec::new();
                    for id in (1 + number * 1_000_000).. {
                        if stop.load(Ordering::SeqCst) {
                            break;
                        }
                        match proxy.commit(mint(id)).wait() {
                            Ok(_) => done.push(id),
                            Err(Error::Unknown(_)) => {
                                let found = proxy.lookup(TxnId(id)).wait().unwrap();
                                done.extend(found.map(|receipt| receipt.id.0));
                            }
                            Err(error) => panic!("{error:?}"),
                        }
                    }
                    done
                })
            })
            .collect();
        for turn in 0..6 {
            let before = gold(&store);
            until("they go on", || gold(&store) > before + 50);
            let number = turn % 2;
            services[number] = None;
            let before = gold(&store);
            until("they go on through the other", || gold(&store) > before + 50);
            let stores = vec![(String::new(), store.clone())];
            let again = DataService::start(at[number], parts(stores), DataOptions::default());
            services[number] = Some(again.unwrap());
        }
        stop.store(true, Ordering::SeqCst);
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(done.iter().all(|id| store.lookup(TxnId(*id)).wait().unwrap().is_some()));
    let committed = store.audit(0, usize::MAX).wait().unwrap();
    assert_eq!(gold(&store), store.supply(Of::Currency(Currency(1))).wait().unwrap().made as u64);
    assert!(done.len() as u64 <= gold(&store) && !committed.is_empty());
    assert_eq!(store.verify().wait().unwrap().faults, Vec::<String>::new());
}

/// What a data process did is in its metrics: what was asked of which store, what was refused and who was not let in.
#[test]
fn f14_what_a_data_process_did_is_counted() {
    let metrics = Registry::new();
    let stores = vec![
        (String::new(), Store::memory(Limits::default())),
        ("world".to_owned(), Store::memory(Limits::default())),
    ];
    let parts = DataParts { stores, key: &KEY, metrics: metrics.clone() };
    let service = DataService::start(anywhere(), parts, DataOptions::default()).unwrap();
    let value = |name: &str, label: &str| {
        let is_it = |labels: &[(String, String)]| match label {
            "" => labels.is_empty(),
            label => labels.iter().any(|(_, value)| value == label),
        };
        let samples = metrics.samples();
        let found = samples.iter().find(|sample| sample.name == name && is_it(&sample.labels));
        found.map_or(0.0, |sample| sample.value)
    };
    let at = [service.address().to_string()];
    let proxy = Store::proxy(&at, "", &KEY, options()).unwrap();
    until("it is connected", || value("data_connections", "") == 1.0);
    proxy.commit(mint(1)).wait().unwrap();
    proxy.commit(mint(2)).wait().unwrap();
    assert_eq!(proxy.lookup(TxnId(3)).wait(), Ok(None));
    let world = Store::proxy(&at, "world", &KEY, options()).unwrap();
    world.beat(Incarnation(1)).wait().unwrap();
    let burn = LedgerOp::Burn { holder: Key(1), currency: Currency(1), amount: 1 };
    let burnt = world.commit(Transaction::new(TxnId(1), 1).with(burn)).wait();
    assert!(matches!(burnt, Err(Error::Refused(_))), "{burnt:?}");
    let told = ["commit", "lookup", "beat", "save"].map(|call| value("data_requests", call));
    assert_eq!(told, [3.0, 1.0, 1.0, 0.0]);
    let took = ["default", "world"].map(|store| value("data_request_seconds", store));
    assert_eq!(took, [3.0, 2.0]);
    assert_eq!((value("data_errors", "refused"), value("data_errors", "busy")), (1.0, 0.0));
    assert_eq!(value("data_requests_under_way", ""), 0.0);
    assert!(value("data_received_bytes", "") > 0.0 && value("data_sent_bytes", "") > 0.0);
    for (name, key) in [("", [8; 32]), ("nothing", KEY)] {
        assert!(matches!(Store::proxy(&at, name, &key, options()), Err(OpenError::Denied { .. })));
    }
    let refused = || ["key", "store"].map(|why| value("data_connections_refused", why));
    // The peer knows before the data process does that it has the wrong key.
    until("both are counted", || {
        refused() == [0.0, 1.0] && value("data_connections_refused", "silent") == 1.0
    });
    drop((proxy, world));
    until("nobody is connected", || value("data_connections", "") == 0.0);
}

/// A copy is made through a data process, of a shard by its own name, and is taken in by whoever has the store itself.
#[test]
fn f14_copies_and_shards_are_reached_through_a_data_process() {
    let shards = ["east", "west"].map(|name| (name.to_owned(), Store::memory(Limits::default())));
    let set = Store::sharded(shards.into()).unwrap();
    set.commit(mint(1)).wait().unwrap();
    let stores =
        vec![(String::new(), Store::memory(Limits::default())), ("world".to_owned(), set.clone())];
    let service = DataService::start(anywhere(), parts(stores), DataOptions::default()).unwrap();
    let at = [service.address().to_string()];
    let open = |name: &str| Store::proxy(&at, name, &KEY, options()).unwrap();
    assert_eq!(open("world").shard_names().wait(), Ok(vec!["east".to_owned(), "west".to_owned()]));
    assert_eq!(open("").shard_names().wait(), Ok(Vec::new()));
    assert!(matches!(open("world").rows(None, 1_000).wait(), Err(Error::Malformed(_))));
    let mut copies = Vec::new();
    for (name, shard) in set.shards() {
        let (mut here, mut there) = (Vec::new(), Vec::new());
        let summary = open(&format!("world/{name}")).export(&mut there, 5).unwrap();
        assert_eq!(summary, shard.export(&mut here, 5).unwrap());
        assert_eq!(here, there);
        copies.push(there);
    }
    let nobody = Store::proxy(&at, "world/north", &KEY, options());
    assert!(matches!(nobody, Err(OpenError::Denied { .. })));

    let taken = open("").import(&mut std::io::Cursor::new(&copies[0]), true);
    assert!(matches!(taken, Err(DumpError::Store(Error::Malformed(_)))), "{taken:?}");
    assert_eq!(open("").nodes().wait(), Ok(Vec::new()));
}
