use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};

use super::calls::serve;
use super::link::{self, Refused};
use super::wire::{In, Names, Wire};
use crate::error::{Error, Refusal};
use crate::ledger::{Currency, ItemId, LedgerOp, Transaction, TxnId};
use crate::options::Limits;
use crate::record::{Lock, RecordId};
use crate::row::Writer;
use crate::slots::Slot;
use crate::store::Store;
use crate::types::{Claim, Incarnation, Key, Owner, Patch, Save};

fn bytes(value: &impl Wire) -> Vec<u8> {
    let mut w = Writer::new();
    value.put(&mut w);
    w.into_bytes()
}

fn comes_back<T: Wire + PartialEq + std::fmt::Debug>(value: &T) {
    let (names, sent) = (Names::default(), bytes(value));
    let mut r = In::new(&sent, &names);
    assert_eq!(T::take(&mut r).ok().as_ref(), Some(value));
    assert!(r.end().is_ok());
    for cut in 0..sent.len() {
        // Shorter is never the same, and never a panic.
        let cut = T::take(&mut In::new(&sent[..cut], &names));
        assert_ne!(cut.ok().as_ref(), Some(value), "{value:?}");
    }
}

#[test]
fn f14_errors_and_requests_come_as_they_were() {
    let (key, id) = (Key(7 << 90), RecordId { kind: 7, key: b"guild".to_vec() });
    let owner = Owner { epoch: 3, incarnation: Incarnation(9), released: true };
    let refused = Refusal::Insufficient { holder: key, currency: Currency(1), has: 4, needs: 5 };
    let moved = Error::Moved {
        slot: Slot(1_000),
        to: "west".to_owned(),
        version: 4,
        token: 5,
        generation: 6,
    };
    let errors = [
        Error::Generation { current: 7 },
        Error::Fenced { key, owner: Some(owner) },
        Error::Fenced { key, owner: None },
        Error::Owned { key, owner },
        Error::Dead(Incarnation(1)),
        Error::RecordConflict { id: id.clone(), current: 8 },
        Error::Taken { index: "guild/title".into(), by: id.clone() },
        Error::Locked { id, lock: Lock { fence: 1, beat: 2, expiry_ms: 3 } },
        Error::Refused(refused),
        Error::Refused(Refusal::ItemExists(ItemId(4))),
        Error::TooLarge { what: "bytes of a record", size: 9, max: 8 },
        Error::Malformed("a record is written twice"),
        Error::Busy,
        Error::Corrupt { table: "record", key: "00ff".to_owned() },
        Error::AcrossShards { one: "a".to_owned(), other: "b".to_owned() },
        moved,
        Error::Unknown("cut".to_owned()),
    ];
    errors.iter().for_each(comes_back);
    let claim = Claim { key, generation: 1, epoch: 2, incarnation: Incarnation(3) };
    let patch = Patch::from([("bag".to_owned(), Some(vec![1, 2])), ("old".to_owned(), None)]);
    let mut txn = Transaction::new(TxnId(77), 1).with(LedgerOp::Mint {
        holder: key,
        currency: Currency(1),
        amount: 5,
    });
    txn.writes.push(Save { claim, version: 4, patch });
    txn.ledgers = BTreeMap::from([(key, 3)]);
    comes_back(&txn);
}

#[test]
fn f14_what_cannot_be_read_is_refused_and_does_nothing() {
    let store = Store::memory(Limits::default());
    let mut random = env::Random::from_seed(14);
    let (mut served, mut refused) = (0, 0);
    for round in 0..20_000u32 {
        let number = random.below(40) as u8;
        let length = random.below(80) as usize;
        // Small numbers, so that counts and flags are sometimes right.
        let small = round % 2 == 0;
        let bytes: Vec<u8> = (0..length)
            .map(|_| if small { random.below(3) as u8 } else { random.below(256) as u8 })
            .collect();
        match serve(&store, number, &bytes, |told, _| assert!(!told.is_empty())) {
            Ok(()) => served += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(served > 100 && refused > 1_000, "{served} {refused}");
    assert_eq!(store.verify().wait().unwrap().faults, Vec::<String>::new());
}

/// Both directions of a connection in memory: what one writes, the other reads.
#[derive(Default)]
struct Pipe {
    from: Cursor<Vec<u8>>,
    to: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.from.read(out)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.to.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Who only listens to a connection and plays it back is not let in: the other's number is a new one.
#[test]
fn f14_a_connection_that_is_played_back_is_refused() {
    let (listener, key) = (std::net::TcpListener::bind("127.0.0.1:0").unwrap(), [5; 32]);
    let at = listener.local_addr().unwrap();
    let client = std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(at).unwrap();
        link::ask(&mut stream, &key, "", [1; 32]).map(drop)
    });
    let (stream, _) = listener.accept().unwrap();
    let mut heard = Heard { stream, bytes: Vec::new() };
    assert!(link::answer(&mut heard, &key, [2; 32], |_| true).is_ok());
    assert!(client.join().unwrap().is_ok());
    let again = |random| {
        let mut pipe = Pipe { from: Cursor::new(heard.bytes.clone()), ..Pipe::default() };
        link::answer(&mut pipe, &key, random, |_| true).map(drop)
    };
    assert!(again([2; 32]).is_ok(), "the same numbers are the same connection");
    assert!(matches!(again([3; 32]), Err(Refused::Key)));
}

/// Keeps what is read.
struct Heard {
    stream: std::net::TcpStream,
    bytes: Vec<u8>,
}

impl Read for Heard {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.stream.read(out)?;
        self.bytes.extend_from_slice(&out[..count]);
        Ok(count)
    }
}

impl Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

#[test]
fn f14_frames_that_were_changed_cut_or_announced_too_long_are_refused() {
    let (listener, key) = (std::net::TcpListener::bind("127.0.0.1:0").unwrap(), [5; 32]);
    let at = listener.local_addr().unwrap();
    let client = std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(at).unwrap();
        link::ask(&mut stream, &key, "world", [1; 32]).ok().map(|(sealer, _)| sealer)
    });
    let (mut stream, _) = listener.accept().unwrap();
    let answered = link::answer(&mut stream, &key, [2; 32], |name| name == "world");
    let Ok((name, _, mut opener)) = answered else { panic!("it has the key") };
    assert_eq!(name, "world");
    let mut sealer = client.join().unwrap().expect("it is let in");
    let mut sent = Vec::new();
    sealer.seal(b"all the gold", &mut sent);
    // Each frame has a number of its own, so what is tried first has to be right.
    assert_eq!(opener.open(&mut Cursor::new(&sent)).unwrap(), b"all the gold");
    assert!(opener.open(&mut Cursor::new(&sent)).is_err(), "it is not taken twice");
    let mut second = Vec::new();
    sealer.seal(b"more", &mut second);
    sealer.seal(b"more", &mut second);
    let half = second.len() / 2;
    for bit in 0..half * 8 {
        let mut changed = second[half..].to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(opener.open(&mut Cursor::new(&changed)).is_err());
    }
    let long = [u32::MAX.to_le_bytes().as_slice(), &[0; 64]].concat();
    assert!(opener.open(&mut Cursor::new(&long)).is_err());
    let announced = [(90u32 << 20).to_le_bytes().as_slice(), &[0; 64]].concat();
    assert!(opener.open(&mut Cursor::new(&announced)).is_err(), "nothing comes after its head");
}
