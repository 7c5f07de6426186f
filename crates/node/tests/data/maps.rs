//! Maps: what lies where, stored by chunks of which only those exist in which something is.

use std::cell::RefCell;

use macros::{Message, entity, rpc};
use node::data::{Deal, Edit, Grid, MapError, MapFound, RecordError, Search, Spot};
use node::rt::Cx;
use node::{Entity, Host};
use store::{
    CHUNK_KIND, Change, Currency, Key, LedgerOp, Limits, RecordId, RecordWrite, SagaEnd, SagaId,
    Store, Transaction, TxnId,
};

use crate::rig::{Rig, said};

const GOLD: Currency = Currency(1);

#[derive(Clone, Debug, PartialEq, Message)]
#[message(root = proto)]
struct Building {
    kind: String,
}

struct World;

impl Grid for World {
    const NAME: &'static str = "world";
    type Thing = Building;
    const THINGS_MAX: usize = 4;
    const BYTES_MAX: usize = 1_000;
    const EXTENT: f64 = 10_000.0;
}

/// The same map with chunks of another edge, as a careless release may declare it.
struct Coarse;

impl Grid for Coarse {
    const NAME: &'static str = "world";
    type Thing = Building;
    const CHUNK: f64 = 64.0;
}

#[entity(root = node::rt)]
#[derive(Default)]
struct Surveyor {}

fn house(kind: &str) -> Building {
    Building { kind: kind.to_owned() }
}

fn told<T: std::fmt::Debug>(result: Result<T, MapError>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(MapError::Record(RecordError::Conflict { .. })) => "conflict".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn listed(search: Result<Search<Building>, MapError>) -> String {
    let text = search.map(|search| {
        let name = |found: &MapFound<Building>| format!("{}={}", found.id, found.thing.kind);
        let names: Vec<_> = search.found.iter().map(name).collect();
        names.join(" ") + if search.more { " .." } else { "" }
    });
    text.unwrap_or_else(|error| error.to_string())
}

thread_local! {
    /// The edit that a surveyor is to do next.
    static EDIT: RefCell<Option<Edit<World>>> = const { RefCell::new(None) };
}

#[rpc(root = node::rt)]
impl Surveyor {
    #[invoke(server)]
    async fn edit(&mut self, cx: &mut Cx<Self>) -> String {
        let edit = EDIT.take().expect("an edit was set");
        told(cx.map::<World>().edit(edit).await)
    }

    #[invoke(server)]
    async fn put(&mut self, cx: &mut Cx<Self>, id: u64, at: (i32, f64, f64)) -> String {
        let spot = Spot::new(at.0, at.1, at.2);
        told(cx.map::<World>().put(id, spot, &house("hut")).await)
    }

    #[invoke(server)]
    async fn kind_of(&mut self, cx: &mut Cx<Self>, id: u64, at: (f64, f64)) -> String {
        let found = cx.map::<World>().get(id, Spot::new(0, at.0, at.1)).await;
        told(found.map(|found| found.map(|found| (found.spot.x, found.thing.kind))))
    }

    #[invoke(server)]
    async fn coarse(&mut self, cx: &mut Cx<Self>) -> String {
        let found = cx.map::<Coarse>().get(1, Spot::new(0, 1.0, 1.0)).await;
        told(found.map(|found| found.map(|found| found.id)))
    }

    #[invoke(server)]
    async fn within(&mut self, cx: &mut Cx<Self>, area: (f64, f64, f64, f64), max: u64) -> String {
        let (from, to) = ((area.0, area.1), (area.2, area.3));
        listed(cx.map::<World>().within(0, from, to, max as usize).await)
    }

    #[invoke(server)]
    async fn around(
        &mut self,
        cx: &mut Cx<Self>,
        at: (f64, f64, f64),
        radius: f64,
        max: u64,
    ) -> String {
        let spot = Spot::new(0, at.0, at.1).at_height(at.2);
        listed(cx.map::<World>().around(spot, radius, max as usize).await)
    }

    /// Names of all chunks with the number of things in each.
    #[invoke(server)]
    async fn walk(&mut self, cx: &mut Cx<Self>) -> String {
        let (mut after, mut all) = (None, Vec::new());
        loop {
            match cx.map::<World>().walk(after, 2).await {
                Ok(page) if page.is_empty() => return all.join(" "),
                Ok(page) => {
                    after = page.last().map(|(chunk, _)| *chunk);
                    let text = |(chunk, things): &(node::data::ChunkId, Vec<_>)| {
                        format!("{},{}:{}", chunk.x, chunk.y, things.len())
                    };
                    all.extend(page.iter().map(text));
                }
                Err(error) => return error.to_string(),
            }
        }
    }

    #[invoke(server, deadline = "60s")]
    async fn travel(
        &mut self,
        cx: &mut Cx<Self>,
        saga: u64,
        from: (f64, f64),
        to: (f64, f64),
    ) -> String {
        let (from, to) = (Spot::new(0, from.0, from.1), Spot::new(0, to.0, to.1));
        let plan = match cx.map::<World>().relocation(1, from, to).await {
            Ok(plan) => plan,
            Err(error) => return error.to_string(),
        };
        match cx.saga(SagaId(saga.into()), plan).await {
            Ok(SagaEnd::Done) => "done".to_owned(),
            Ok(SagaEnd::Undone { step, why }) => format!("undone at {step}: {why}"),
            Err(error) => error.to_string(),
        }
    }

    /// Builds for 60 gold of the treasury.
    #[invoke(server)]
    async fn build(&mut self, cx: &mut Cx<Self>, id: u64) -> String {
        let edit = Edit::new().place(id, Spot::new(0, 5.5, id as f64), &house("mill"));
        let batch = match cx.map::<World>().prepare(&edit).await {
            Ok(batch) => batch,
            Err(error) => return error.to_string(),
        };
        let deal = Deal::new(TxnId(id.into()), "build").burn(Key(5), GOLD, 60);
        match deal.writing(batch) {
            Ok(deal) => match cx.commit(deal).await {
                Ok(_) => "built".to_owned(),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        }
    }
}

fn register(host: &mut Host) {
    host.register::<Surveyor>();
    host.register_map::<World>();
}

fn rig() -> Rig {
    said();
    let mut rig = Rig::new(register, vec![Surveyor::KIND.id]);
    rig.start();
    rig
}

fn edit(rig: &mut Rig, edit: Edit<World>) -> String {
    EDIT.set(Some(edit));
    rig.call(
        0,
        |outside| async move { outside.entity::<Surveyor>(1).edit().await.expect("it answers") },
    )
}

fn within(rig: &mut Rig, area: (f64, f64, f64, f64), max: u64) -> String {
    rig.call(0, move |outside| async move {
        outside.entity::<Surveyor>(1).within(area, max).await.expect("it answers")
    })
}

fn around(rig: &mut Rig, at: (f64, f64, f64), radius: f64, max: u64) -> String {
    rig.call(0, move |outside| async move {
        outside.entity::<Surveyor>(1).around(at, radius, max).await.expect("it answers")
    })
}

fn walk(rig: &mut Rig) -> String {
    rig.call(
        0,
        |outside| async move { outside.entity::<Surveyor>(1).walk().await.expect("it answers") },
    )
}

fn at(x: f64, y: f64) -> Spot {
    Spot::new(0, x, y)
}

fn rows(store: &Store) -> usize {
    store.scan_records(CHUNK_KIND, None, 1_000).wait().expect("it is read").len()
}

#[test]
fn f24_rows_exist_only_where_something_is() {
    let mut rig = rig();
    assert_eq!(rows(&rig.store), 0);
    let far = Edit::new()
        .put(1, at(1.5, 2.25), &house("hut"))
        .put(2, at(-0.5, 2.0), &house("well"))
        .put(3, at(-9_999.0, 9_999.0).at_height(-3.5), &house("lair"))
        .put(4, Spot::new(7, 1.5, 2.25), &house("mine"));
    assert_eq!(edit(&mut rig, far), "()");
    // Layers and quarters are chunks of their own: four for forty thousand cells and more.
    assert_eq!(rows(&rig.store), 4);
    assert_eq!(within(&mut rig, (-1.0, 2.0, 1.5, 2.25), 9), "2=well 1=hut");
    assert_eq!(edit(&mut rig, Edit::new().remove(3, at(-9_999.0, 9_999.0))), "()");
    assert_eq!((rows(&rig.store), walk(&mut rig).as_str()), (3, "-1,0:1 0,0:1 0,0:1"));
    // What comes back is there again.
    assert_eq!(edit(&mut rig, Edit::new().put(5, at(-9_999.0, 9_999.0), &house("den"))), "()");
    assert_eq!(rows(&rig.store), 4);
}

#[test]
fn f24_an_edit_is_all_or_nothing() {
    let mut rig = rig();
    let two = Edit::new().put(1, at(1.0, 1.0), &house("hut")).put(2, at(40.0, 1.0), &house("inn"));
    assert_eq!(edit(&mut rig, two), "()");
    let clash = Edit::new().relocate(1, at(1.0, 1.0), at(50.0, 1.0)).remove(3, at(40.0, 1.0));
    assert_eq!(edit(&mut rig, clash), "3 is not in chunk (1, 0) of layer 0");
    assert_eq!(within(&mut rig, (0.0, 0.0, 64.0, 64.0), 9), "1=hut 2=inn");
    let fine = Edit::new().relocate(1, at(1.0, 1.0), at(50.5, 1.0)).remove(2, at(40.0, 1.0));
    assert_eq!(edit(&mut rig, fine), "()");
    assert_eq!(within(&mut rig, (0.0, 0.0, 64.0, 64.0), 9), "1=hut");
    let kind_of = rig.call(0, |outside| async move {
        outside.entity::<Surveyor>(1).kind_of(1, (60.0, 31.0)).await.expect("it answers")
    });
    assert_eq!(kind_of, "Some((50.5, \"hut\"))", "by its number and chunk");
}

#[test]
fn f24_bad_places_and_full_chunks_are_told_and_change_nothing() {
    let mut rig = rig();
    let mut refused = |step: Edit<World>, why: &str| {
        let first = step.put(9, at(3.0, 3.0), &house("x"));
        assert_eq!(edit(&mut rig, first), why);
        assert_eq!(rows(&rig.store), 0, "{why}");
    };
    let nan = at(f64::NAN, 1.0);
    let hut = house("hut");
    refused(
        Edit::new().put(1, nan, &hut),
        "(NaN, 1, 0) of layer 0 is not within 10000 of the map's middle",
    );
    let below = at(0.0, 1.0).at_height(f64::NEG_INFINITY);
    refused(
        Edit::new().put(1, below, &hut),
        "(0, 1, -inf) of layer 0 is not within 10000 of the map's middle",
    );
    refused(
        Edit::new().put(1, at(0.0, 1.0), &hut).relocate(1, at(0.0, 1.0), at(0.0, 10_000.5)),
        "(0, 10000.5, 0) of layer 0 is not within 10000 of the map's middle",
    );
    refused(Edit::new().remove(1, at(0.0, 1.0)), "1 is not in chunk (0, 0) of layer 0");
    refused(
        Edit::new().place(1, at(4.25, 4.5), &hut).place(2, at(4.75, 4.0), &hut),
        "(4.75, 4, 0) of layer 0 is taken by 1",
    );
    let five = (1..=4).fold(Edit::new(), |edit, id| edit.put(id, at(id as f64, 0.0), &hut));
    refused(five, "chunk (0, 0) of layer 0 is full: 5 things of 4, 407 bytes of 1000");
    let palace = house(&"o".repeat(900));
    refused(
        Edit::new().put(1, at(0.0, 1.0), &palace),
        "chunk (0, 0) of layer 0 is full: 2 things of 4, 1099 bytes of 1000",
    );
    let wide = (0..65).fold(Edit::new(), |edit, n| edit.put(n, at(n as f64 * 32.0, 0.0), &hut));
    refused(wide, "65 chunks would be looked at, at most 64 are");

    assert_eq!(
        within(&mut rig, (0.0, 0.0, 9_000.0, 9_000.0), 9),
        "79524 chunks would be looked at, at most 1024 are"
    );
    let malformed = "malformed: a rectangle goes from its lesser corner to its greater";
    assert_eq!(within(&mut rig, (5.0, 0.0, 4.0, 1.0), 9), malformed);
    assert_eq!(within(&mut rig, (f64::NAN, 0.0, 4.0, 1.0), 9), malformed);
    let radius = "malformed: a radius is not less than zero";
    assert_eq!(around(&mut rig, (0.0, 0.0, 0.0), f64::NAN, 9), radius);
    assert_eq!(around(&mut rig, (0.0, 0.0, 0.0), -1.0, 9), radius);
    assert_eq!(within(&mut rig, (20_000.0, 0.0, 30_000.0, 1.0), 9), "", "nothing is there");
}

#[test]
fn f24_searches_give_what_is_near_and_no_more_than_asked() {
    let mut rig = rig();
    let spots = [(1, 0.0, 0.0), (2, 3.0, 4.0), (3, -3.0, -4.5), (4, 40.0, 0.0), (5, 0.0, -70.0)];
    let all = spots
        .iter()
        .fold(Edit::new(), |edit, (id, x, y)| edit.put(*id, at(*x, *y), &house(&format!("h{id}"))));
    let all = all.put(6, at(0.0, 1.0).at_height(30.0), &house("tower"));
    assert_eq!(edit(&mut rig, all), "()");
    assert_eq!(around(&mut rig, (0.0, 0.0, 0.0), 5.0, 9), "1=h1 2=h2");
    assert_eq!(around(&mut rig, (0.0, 0.0, 0.0), 6.0, 9), "1=h1 2=h2 3=h3");
    assert_eq!(around(&mut rig, (0.0, 0.0, 30.0), 6.0, 9), "6=tower");
    assert_eq!(around(&mut rig, (0.0, 0.0, 0.0), 70.0, 4), "1=h1 2=h2 3=h3 6=tower ..");
    assert_eq!(around(&mut rig, (0.0, 0.0, 0.0), 70.0, 6), "1=h1 2=h2 3=h3 6=tower 4=h4 5=h5");
    assert_eq!(within(&mut rig, (-4.0, -5.0, 3.0, 4.0), 9), "3=h3 1=h1 2=h2 6=tower");
    assert_eq!(within(&mut rig, (-4.0, -5.0, 3.0, 4.0), 2), "3=h3 1=h1 ..");
}

#[test]
fn f24_two_who_edit_a_chunk_at_once_lose_nothing() {
    let mut rig = rig();
    rig.start();
    let mut calls: Vec<_> = (0..4u64)
        .map(|id| {
            rig.begin((id % 2) as usize, move |outside| async move {
                let by = outside.entity::<Surveyor>(10 + id);
                by.put(id, (0, 1.0 + id as f64, 0.0)).await.expect("it answers")
            })
        })
        .collect();
    for call in &mut calls {
        assert_eq!(rig.finish(call), "()");
    }
    assert_eq!(within(&mut rig, (0.0, 0.0, 9.0, 9.0), 9), "0=hut 1=hut 2=hut 3=hut");
    assert!(rig.asked.iter().filter(|name| **name == "record").count() > 8, "some tried again");
}

#[test]
fn f24_a_building_and_its_price_are_one() {
    let mut rig = rig();
    let mint = LedgerOp::Mint { holder: Key(5), currency: GOLD, amount: 100 };
    rig.store.commit(Transaction::new(TxnId(900), 1).with(mint)).wait().unwrap();
    let mut build = |id| {
        rig.call(0, move |outside| async move {
            outside.entity::<Surveyor>(1).build(id).await.expect("it answers")
        })
    };
    assert_eq!(build(1), "built");
    assert!(build(2).contains("60 are needed"), "40 are left");
    assert_eq!(within(&mut rig, (0.0, 0.0, 9.0, 9.0), 9), "1=mill");
}

#[test]
fn f24_a_damaged_chunk_is_an_error_and_never_empty() {
    let mut rig = rig();
    assert_eq!(edit(&mut rig, Edit::new().put(1, at(1.0, 1.0), &house("hut"))), "()");
    let coarse = rig.call(0, |outside| async move {
        outside.entity::<Surveyor>(1).coarse().await.expect("it answers")
    });
    // Chunks of the other declaration lie elsewhere, but this one has the same numbers.
    assert!(coarse.contains("it was written with chunks of 32, here they have 64"), "{coarse}");
    let (key, record) = rig.store.scan_records(CHUNK_KIND, None, 9).wait().unwrap().remove(0);
    let body = record.body.expect("it is there");
    for cut in 0..body.len() {
        let (record, _) = (RecordId { kind: CHUNK_KIND, key: key.clone() }, ());
        let version = rig.store.records(vec![record.clone()]).wait().unwrap().records[0].version;
        let change = Change::Put(body[..cut].to_vec());
        let write = RecordWrite { id: record, version, change, fence: None, unlock: false };
        rig.store.write_records(1, vec![write]).wait().unwrap();
        let found = within(&mut rig, (0.0, 0.0, 9.0, 9.0), 9);
        assert!(found.contains("cannot be read"), "{found}");
        let refused = edit(&mut rig, Edit::new().put(2, at(1.0, 1.0), &house("hut")));
        assert!(refused.contains("cannot be read"), "{refused}");
    }
}

/// A spot near zero and one whose region is in the other shard.
fn apart(store: &Store) -> (f64, f64) {
    let shards = |spot: f64| {
        let region = (spot / 256.0).floor() as i32;
        let ordered = |n: i32| (n as u32 ^ 1 << 31).to_be_bytes();
        let map = proto::KindId::of("world").0.to_be_bytes();
        let parts = [map, ordered(0), ordered(region), ordered(0)].concat();
        let id = RecordId { kind: CHUNK_KIND, key: [&parts[..], &[0; 8]].concat() };
        RecordWrite { id, version: 0, change: Change::Keep, fence: None, unlock: false }
    };
    let generation = store.generation().wait().unwrap();
    let is_apart = |spot: &f64| {
        let both = vec![shards(1.0), shards(*spot)];
        matches!(
            store.write_records(generation, both).wait(),
            Err(store::Error::AcrossShards { .. })
        )
    };
    let far = (1..30).map(|n| f64::from(n) * 256.0 + 1.0).find(is_apart);
    (1.0, far.expect("regions are spread"))
}

#[test]
fn f24_what_would_be_in_two_shards_is_refused_and_moved_by_a_saga() {
    said();
    let mut rig = Rig::new(register, vec![Surveyor::KIND.id]);
    let shard = |name: &str| (name.to_owned(), Store::memory(Limits::default()));
    rig.store = Store::sharded(vec![shard("a"), shard("b")]).expect("they are new");
    rig.start();
    let (near, far) = apart(&rig.store);
    assert_eq!(edit(&mut rig, Edit::new().put(1, at(near, 1.0), &house("cart"))), "()");
    // Within a region of 8 times 8 chunks everything is in one shard.
    let (from, to) = (at(near, 1.0), at(250.0, 250.0));
    assert_eq!(edit(&mut rig, Edit::new().relocate(1, from, to)), "()");
    let away = Edit::new().relocate(1, to, at(far, 1.0));
    assert!(edit(&mut rig, away).starts_with("its chunks are in shards"));

    let travel = |rig: &mut Rig, saga, from: (f64, f64), to: (f64, f64)| {
        rig.call(0, move |outside| async move {
            outside.entity::<Surveyor>(1).travel(saga, from, to).await.expect("it answers")
        })
    };
    assert_eq!(travel(&mut rig, 1, (250.0, 250.0), (far, 1.0)), "done");
    assert_eq!(within(&mut rig, (far, 0.0, far, 9.0), 9), "1=cart");
    assert_eq!(within(&mut rig, (0.0, 0.0, 255.0, 255.0), 9), "");

    let full = (2..6).fold(Edit::new(), |edit, id| edit.put(id, at(near, 1.0), &house("hut")));
    assert_eq!(edit(&mut rig, full), "()");
    let undone = travel(&mut rig, 2, (far, 1.0), (near, 1.0));
    assert!(undone.starts_with("undone at put: chunk (0, 0) of layer 0 is full"), "{undone}");
    assert_eq!(within(&mut rig, (far, 0.0, far, 9.0), 9), "1=cart", "it is back");
    let gone = travel(&mut rig, 3, (near, 1.0), (far, 1.0));
    assert_eq!(gone, "1 is not in chunk (0, 0) of layer 0");
}

/// A map of 3,072 times 3,136 cells, 9.6 million, with something in each chunk, is not looked at when
/// a node starts, and a search reads the chunks that it is about in one request.
#[test]
fn f24_starting_asks_for_nothing_of_a_map_however_large() {
    let fill = |store: &Store| {
        let map = proto::KindId::of("world").0.to_be_bytes();
        let ordered = |n: i32| (n as u32 ^ 1 << 31).to_be_bytes();
        let write = |x: i32, y: i32| {
            let parts = [map, ordered(0), ordered(x / 8), ordered(y / 8), ordered(x), ordered(y)];
            let id = RecordId { kind: CHUNK_KIND, key: parts.concat() };
            let mut body = vec![0x93, 1];
            proto::codec::put_f64(&mut body, 32.0);
            body.extend([0x91, 0x95, 7]);
            for at in [f64::from(x) * 32.0, f64::from(y) * 32.0, 0.0] {
                proto::codec::put_f64(&mut body, at);
            }
            proto::codec::put_binary(&mut body, &proto::encode(&house("hut")));
            RecordWrite { id, version: 0, change: Change::Put(body), fence: None, unlock: false }
        };
        let all: Vec<_> = (0..96).flat_map(|x| (0..98).map(move |y| write(x, y))).collect();
        for some in all.chunks(64) {
            store.write_records(1, some.to_vec()).wait().expect("it is new");
        }
        all.len()
    };
    let asked_at_start = |cells: bool| {
        said();
        let mut rig = Rig::new(register, vec![Surveyor::KIND.id]);
        let chunks = if cells { fill(&rig.store) } else { 0 };
        rig.start();
        rig.run_for(std::time::Duration::from_secs(5));
        (rig.asked.clone(), chunks, rig)
    };
    let (empty, _, _) = asked_at_start(false);
    let (full, chunks, mut rig) = asked_at_start(true);
    assert_eq!((empty, chunks * 32 * 32 > 9_600_000), (full.clone(), true));

    assert_eq!(within(&mut rig, (0.0, 0.0, 40.0, 40.0), 9), "7=hut 7=hut 7=hut 7=hut");
    assert_eq!(rig.asked.len(), full.len() + 1, "{:?}", &rig.asked[full.len()..]);
}
