//! `derive(Message)`: what travels, what grows, what is refused.

use std::collections::{BTreeMap, BTreeSet};

use macros::Message;
use proto::codec::{Dump, Message as _, Problem};
use proto::schema::{SchemaBuilder, Shape};
use proto::{AccountId, Bytes, EntityId, KindId, SessionId, decode, encode};

#[derive(Clone, Debug, PartialEq, Message)]
#[message(root = proto)]
struct Item {
    name: String,
    #[message(range = 1..=100)]
    count: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Message)]
#[message(root = proto)]
struct Grown {
    a: u32,
    #[message(default = 7)]
    b: u32,
    #[message(default)]
    c: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Message)]
#[message(root = proto)]
enum Shout {
    Quiet,
    Say(String),
    #[message(id = 9)]
    Trade {
        what: Vec<Item>,
        #[message(default)]
        note: String,
    },
    #[message(fallback)]
    Other(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Message)]
#[message(root = proto)]
enum Color {
    Red,
    Green = 4,
    Blue,
}

fn round_trip<T: proto::Message + PartialEq + std::fmt::Debug>(value: T) {
    let bytes = encode(&value);
    assert_eq!(decode::<T>(&bytes).as_ref(), Ok(&value), "{bytes:02x?}");
    // At every byte of short values, near the head of long ones.
    for cut in 0..bytes.len().min(300) {
        assert!(decode::<T>(&bytes[..cut]).is_err(), "{cut} of {bytes:02x?}");
    }
    let mut longer = bytes.clone();
    longer.push(0xc0);
    assert_eq!(decode::<T>(&longer).unwrap_err().problem(), &Problem::Trailing(1));
    let mut d = proto::Decoder::new(&bytes);
    d.skip().unwrap();
    d.end().unwrap();
}

#[test]
fn every_type_comes_back() {
    for value in [0, 1, 127, 128, 255, 256, 65_535, 65_536, u64::from(u32::MAX), u64::MAX] {
        round_trip(value);
        round_trip(AccountId(value));
    }
    for value in [0, -1, -32, -33, -128, -129, -32_768, -32_769, i64::MIN, i64::MAX, 127, 128] {
        round_trip(value);
    }
    for len in [0, 1, 15, 16, 31, 32, 255, 256, 65_535, 65_536] {
        round_trip("x".repeat(len));
        round_trip(Bytes(vec![7; len]));
        round_trip(vec![true; len]);
        round_trip((0..len as u32).map(|n| (n, n % 2 == 0)).collect::<BTreeMap<_, _>>());
    }
    round_trip((1.5f32, -2.25f64, (), true));
    round_trip(Some(Box::new(3i8)));
    round_trip(None::<u8>);
    round_trip([1u16, 2, 3]);
    round_trip(BTreeSet::from(["b".to_owned(), "a".to_owned()]));
    round_trip(EntityId::keyed(KindId::of("avatar"), u64::MAX));
    round_trip(SessionId([9; 16]));
    round_trip(Item { name: "sword".into(), count: 3 });
    round_trip(Shout::Quiet);
    round_trip(Shout::Say("hi".into()));
    round_trip(Shout::Trade { what: vec![Item { name: "a".into(), count: 1 }], note: "n".into() });
    round_trip(Shout::Other(77));
    round_trip(Color::Blue);
}

#[test]
fn numbers_and_arrays_as_documented() {
    assert_eq!(encode(&Color::Red), [0]);
    assert_eq!(encode(&Color::Blue), [5]);
    assert_eq!(encode(&Shout::Quiet), [0]);
    assert_eq!(encode(&Shout::Say("hi".into())), [0x92, 1, 0xa2, b'h', b'i']);
    assert_eq!(encode(&Item { name: "a".into(), count: 1 }), [0x92, 0xa1, b'a', 1]);
}

#[test]
fn missing_tail_takes_defaults_and_unknown_tail_is_skipped() {
    let full = Grown { a: 1, b: 2, c: Some("c".into()) };
    assert_eq!(decode::<Grown>(&encode(&full)), Ok(full));
    let old = encode(&(1u32,));
    assert_eq!(decode::<Grown>(&old), Ok(Grown { a: 1, b: 7, c: None }));
    let newer = encode(&(1u32, 2u32, "c".to_owned(), vec![vec![1u8, 2]], Some(5u64)));
    assert_eq!(decode::<Grown>(&newer), Ok(Grown { a: 1, b: 2, c: Some("c".into()) }));
    let retired = encode(&(1u32, (), ()));
    assert_eq!(decode::<Grown>(&retired), Ok(Grown { a: 1, b: 7, c: None }));
    let error = decode::<Grown>(&[0x90]).unwrap_err();
    assert_eq!(error.to_string(), "a: field is missing");
}

#[test]
fn unknown_variants_fall_back_or_fail() {
    assert_eq!(decode::<Shout>(&[77]), Ok(Shout::Other(77)));
    assert_eq!(decode::<Shout>(&encode(&(77u32, "future".to_owned()))), Ok(Shout::Other(77)));
    assert_eq!(decode::<Color>(&[3]).unwrap_err().problem(), &Problem::Variant(3));
    // A variant that has gained fields since is still this variant.
    assert_eq!(decode::<Color>(&encode(&(4u32, 1u8))), Ok(Color::Green));
}

#[test]
fn errors_name_the_field() {
    let bytes = encode(&(9u32, vec![("a".to_owned(), 1u32), ("b".to_owned(), 250)]));
    let error = decode::<Shout>(&bytes).unwrap_err();
    assert_eq!(error.to_string(), "what[1].count: 250 is outside 1..=100");
    let error = decode::<Item>(&encode(&(1u8, 1u8))).unwrap_err();
    assert_eq!(error.to_string(), "name: an integer where a text is wanted");
    assert_eq!(decode::<u8>(&encode(&256u32)).unwrap_err().to_string(), "256 is outside 0..=255");
}

#[test]
fn shapes_and_dump() {
    let mut builder = SchemaBuilder::new();
    assert_eq!(Shout::shape(&mut builder), Shape::Named("Shout".into()));
    let schema = builder.finish().unwrap();
    assert_eq!(schema.types.keys().collect::<Vec<_>>(), ["Item", "Shout"]);
    let bytes = encode(&Shout::Trade { what: vec![], note: "n".into() });
    assert_eq!(Dump { bytes: &bytes, chars_max: 80 }.to_string(), r#"[9, [], "n"]"#);
}

const NAME_MAX: usize = 4;

#[derive(Clone, Debug, PartialEq, Message)]
#[message(root = proto)]
struct Limited {
    #[message(len = 1..=NAME_MAX)]
    name: String,
    #[message(range = "-1.0..=1.0")]
    steer: f32,
    #[message(finite)]
    x: f64,
    #[message(len = ..=2, default)]
    r#type: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Message)]
#[message(root = proto, transparent)]
struct Meters(#[message(range = 0..=9_000)] u32);

#[derive(Clone, Debug, PartialEq, Message)]
#[message(root = proto)]
struct Pair<A, B>(A, B);

#[derive(Clone, Debug, PartialEq, Message)]
#[message(root = proto)]
struct Nothing;

#[derive(Clone, Debug, PartialEq, Message)]
#[message(root = proto)]
struct Chain {
    next: Option<Box<Chain>>,
}

#[test]
fn limits_of_fields_hold() {
    let good = Limited { name: "übel".into(), steer: -1.0, x: 5.0, r#type: vec![1, 2] };
    round_trip(good.clone());
    let refused = |bad: Limited| decode::<Limited>(&encode(&bad)).unwrap_err().to_string();
    let name = String::new();
    assert_eq!(refused(Limited { name, ..good.clone() }), "name: length 0 is outside 1..=NAME_MAX");
    let name = "abcde".to_owned();
    assert_eq!(refused(Limited { name, ..good.clone() }), "name: length 5 is outside 1..=NAME_MAX");
    let steer = 1.5;
    assert_eq!(refused(Limited { steer, ..good.clone() }), "steer: 1.5 is outside -1.0..=1.0");
    let steer = f32::NAN;
    assert_eq!(refused(Limited { steer, ..good.clone() }), "steer: NaN is outside -1.0..=1.0");
    let x = f64::INFINITY;
    assert_eq!(refused(Limited { x, ..good.clone() }), "x: inf is outside finite numbers");
    let r#type = vec![1, 2, 3];
    assert_eq!(refused(Limited { r#type, ..good }), "type: length 3 is outside ..=2");
}

#[test]
fn transparent_generic_and_empty_structs() {
    assert_eq!(encode(&Meters(5)), [5]);
    round_trip(Meters(9_000));
    assert!(decode::<Meters>(&encode(&9_001u32)).is_err());
    round_trip(Pair(1u8, "a".to_owned()));
    round_trip(Pair(Pair(1u8, 2u8), Nothing));
    assert_eq!(encode(&Nothing), [0x90]);
    let mut builder = SchemaBuilder::new();
    let shape = Vec::<Pair<Pair<u8, Meters>, Nothing>>::shape(&mut builder);
    assert_eq!(shape.to_string(), "list<Pair_Pair_u8_u32_Nothing>");
    let schema = builder.finish().unwrap();
    let names: Vec<_> = schema.types.keys().collect();
    assert_eq!(names, ["Nothing", "Pair_Pair_u8_u32_Nothing", "Pair_u8_u32"]);
}

/// Nothing deep makes us recurse without end, on the way in.
#[test]
fn nesting_has_a_limit() {
    let chain = |depth| {
        (0..depth).fold(Chain { next: None }, |inner, _| Chain { next: Some(Box::new(inner)) })
    };
    // A link takes two levels: its array and its box.
    round_trip(chain(15));
    let error = decode::<Chain>(&encode(&chain(16))).unwrap_err();
    assert_eq!(error.problem(), &Problem::Depth(32));
    // What is skipped may be nested as deep as it likes.
    let mut deep = vec![0x92, 0xc0];
    deep.extend(vec![0x91; 100_000]);
    deep.push(0xc0);
    assert_eq!(decode::<Chain>(&deep), Ok(Chain { next: None }));
    let mut endless = vec![0x92, 0xc0];
    endless.extend(vec![0xdd; 100_000]);
    assert_eq!(decode::<Chain>(&endless).unwrap_err().problem(), &Problem::Truncated);
}

/// A forged length led to unlimited buffering, and small items may blow up in memory.
#[test]
fn memory_has_a_budget() {
    let forged = [0xdd, 0xff, 0xff, 0xff, 0xff, 0, 0];
    assert_eq!(decode::<Vec<u64>>(&forged).unwrap_err().problem(), &Problem::Truncated);
    // A nil is one byte here and 8 KiB there.
    type Big = Option<[u64; 1024]>;
    let nils = encode(&vec![(); 60_000]);
    let error = decode::<Vec<Big>>(&nils).unwrap_err();
    assert!(matches!(error.problem(), Problem::Memory(_)), "{error}");
    assert_eq!(decode::<Vec<Big>>(&encode(&vec![(); 2])).unwrap(), [None, None]);
    // What real messages need fits.
    round_trip(vec![String::new(); 60_000]);
    round_trip((0..20_000u32).map(|n| (n, String::new())).collect::<BTreeMap<_, _>>());
}
