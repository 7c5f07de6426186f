//! What a struct looks like in the store, and how older and newer ones are read.

use macros::{Document, Message};
use node::data::{DocumentError, read_document, write_document};

#[derive(Clone, Debug, Default, PartialEq, Message)]
#[message(root = proto)]
struct Pet {
    name: String,
    #[message(default = 3)]
    lives: u8,
}

#[derive(Clone, Debug, Default, PartialEq, Document)]
#[document(root = node::rt)]
struct HeroV1 {
    #[persist]
    full_name: String,
    #[persist]
    gold: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Document)]
#[document(root = node::rt, version = 2, from = HeroV1, step = split)]
struct HeroV2 {
    #[persist]
    first: String,
    #[persist]
    last: String,
    #[persist]
    gold: i64,
}

fn split(old: HeroV1) -> Result<HeroV2, String> {
    let (first, last) = old.full_name.split_once(' ').ok_or("a name has two parts")?;
    Ok(HeroV2 { first: first.to_owned(), last: last.to_owned(), gold: old.gold.into() })
}

#[derive(Clone, Debug, PartialEq, Document)]
#[document(root = node::rt, version = 3, from = HeroV2)]
struct Hero {
    #[persist(len = ..=20)]
    first: String,
    #[persist]
    last: String,
    #[persist(range = 0..=1_000_000)]
    gold: i64,
    #[persist]
    pets: Vec<Pet>,
    #[persist(default = 7)]
    luck: u8,
    #[persist]
    mood: u8,
    /// Not kept.
    steps: u64,
}

impl From<HeroV2> for Hero {
    fn from(old: HeroV2) -> Self {
        let HeroV2 { first, last, gold } = old;
        Hero { first, last, gold, ..Hero::fresh() }
    }
}

impl Hero {
    fn fresh() -> Self {
        Hero {
            first: String::new(),
            last: String::new(),
            gold: 0,
            pets: Vec::new(),
            luck: 1,
            mood: 5,
            steps: 9,
        }
    }
}

fn bytes_of<D: node::data::Document>(document: &D) -> Vec<u8> {
    let mut out = Vec::new();
    write_document(document, &mut out).expect("it is within its limits");
    out
}

#[test]
fn a_document_comes_back_as_it_was() {
    let hero = Hero {
        first: "Ada".into(),
        gold: 12,
        pets: vec![Pet { name: "Tom".into(), lives: 9 }],
        ..Hero::fresh()
    };
    let mut back = Hero { steps: 4, ..Hero::fresh() };
    read_document(&mut back, &bytes_of(&hero)).unwrap();
    assert_eq!(back, Hero { steps: 4, ..hero });
}

#[test]
fn documents_of_older_versions_go_through_every_step() {
    let oldest = HeroV1 { full_name: "Ada Lovelace".into(), gold: 5 };
    let mut hero = Hero::fresh();
    read_document(&mut hero, &bytes_of(&oldest)).unwrap();
    assert_eq!(
        hero,
        Hero { first: "Ada".into(), last: "Lovelace".into(), gold: 5, ..Hero::fresh() }
    );
    // A step that refuses is an error, not an empty hero.
    let nameless = HeroV1 { full_name: "Ada".into(), gold: 5 };
    let error = read_document(&mut Hero::fresh(), &bytes_of(&nameless)).unwrap_err();
    assert_eq!(error, DocumentError::Step { to: 2, problem: "a name has two parts".into() });
}

#[test]
fn documents_of_newer_versions_are_refused_with_both_numbers() {
    let mut old = HeroV1::default();
    let error = read_document(&mut old, &bytes_of(&Hero::fresh())).unwrap_err();
    assert_eq!(error, DocumentError::Newer { found: 3, known: 1 });
    let mut odd = Hero::fresh();
    let error = read_document(&mut odd, &[0x91, 0x00]).unwrap_err();
    assert_eq!(error, DocumentError::NoStep { found: 0, known: 1 });
}

#[test]
fn fields_that_were_never_written_take_their_default_or_stay_fresh() {
    // Version, first, last, gold.
    let mut short = Vec::new();
    proto::codec::put_array(&mut short, 4);
    proto::codec::put_uint(&mut short, 3);
    proto::codec::put_text(&mut short, "Ada");
    proto::codec::put_text(&mut short, "L");
    proto::codec::put_uint(&mut short, 8);
    let mut hero = Hero::fresh();
    read_document(&mut hero, &short).unwrap();
    assert_eq!((hero.gold, hero.luck, hero.mood), (8, 7, 5));
}

#[test]
fn values_outside_their_limits_are_neither_written_nor_read() {
    let rich = Hero { gold: 1_000_001, ..Hero::fresh() };
    let mut out = Vec::new();
    let error = write_document(&rich, &mut out).unwrap_err();
    assert_eq!(error.to_string(), "gold: 1000001 is outside 0..=1_000_000");
    assert!(out.is_empty());
    let old = HeroV2 { first: "a".repeat(21), ..HeroV2::default() };
    let error = read_document(&mut Hero::fresh(), &bytes_of(&old)).unwrap_err();
    assert_eq!(error.to_string(), "first: length 21 is outside ..=20");
}

#[test]
fn damaged_documents_are_errors_and_never_panic() {
    let whole = bytes_of(&Hero { pets: vec![Pet::default(); 3], ..Hero::fresh() });
    for cut in 0..whole.len() {
        assert!(read_document(&mut Hero::fresh(), &whole[..cut]).is_err(), "cut at {cut}");
    }
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << bit;
            let _ = read_document(&mut Hero::fresh(), &flipped);
        }
    }
}
