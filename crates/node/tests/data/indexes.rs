//! Documents are found by what they have: the index is written with the document, or not at all.

use std::time::Duration;

use macros::{Document, component, entity, rpc};
use node::data::{Batch, Deal, RecordError, key_of, write_document};
use node::rt::{Component, Cx};
use node::{Entity, Host};
use proto::EntityId;
use store::{Activate, Change, Incarnation, Patch, RecordId, RecordWrite, Save, TxnId};

use crate::rig::{Rig, said};

#[derive(Clone, Debug, Default, PartialEq, Document)]
#[document(root = node::rt, record = "club", key = u64, index(realm, level), unique(realm, title))]
struct Club {
    #[persist]
    #[index(unique)]
    crest: Option<u32>,
    #[persist]
    title: String,
    #[persist]
    realm: u32,
    #[persist]
    #[index]
    level: i64,
}

#[entity(root = node::rt, document)]
#[derive(Default, Document)]
#[document(root = node::rt)]
struct Hero {
    #[persist(range = ..=100)]
    #[index]
    level: u64,
    #[persist]
    #[index]
    clan: String,
    #[persist]
    purse: Component<Purse>,
}

#[component(root = node::rt, of = Hero)]
#[derive(Default, Document)]
#[document(root = node::rt)]
struct Purse {
    #[persist]
    #[index]
    pockets: u32,
}

#[rpc(root = node::rt)]
impl Purse {}

#[rpc(root = node::rt)]
impl Hero {
    #[invoke(server)]
    fn be(&mut self, level: u64, clan: String, pockets: u32) {
        self.level = level;
        self.clan = clan;
        self.purse.borrow().pockets = pockets;
    }

    /// A level that is to be paid for, by someone who has nothing.
    #[invoke(server)]
    async fn buy(&mut self, cx: &mut Cx<Self>, level: u64) -> bool {
        let before = std::mem::replace(&mut self.level, level);
        let deal = Deal::new(TxnId(9), "buy").burn(cx.holder(), store::Currency(1), 1);
        let done = cx.commit_with(self, deal).await.is_ok();
        if !done {
            self.level = before;
        }
        done
    }
}

#[entity(root = node::rt)]
#[derive(Default)]
struct Seeker {}

fn told<T: std::fmt::Debug>(result: Result<T, RecordError>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(RecordError::Taken { index, .. }) => format!("taken: {index}"),
        Err(other) => other.to_string(),
    }
}

#[rpc(root = node::rt)]
impl Seeker {
    #[invoke(server)]
    async fn put(&mut self, cx: &mut Cx<Self>, key: u64, title: String, level: i64) -> String {
        let mut draft = match cx.draft_record::<Club>(&key).await {
            Ok(draft) => draft,
            Err(error) => return told::<()>(Err(error)),
        };
        *draft = Club { crest: Some(key as u32 % 100), title, realm: 1, level };
        told(cx.write_records(Batch::new().put(draft)).await)
    }

    #[invoke(server)]
    async fn remove(&mut self, cx: &mut Cx<Self>, key: u64) -> String {
        match cx.draft_record::<Club>(&key).await {
            Ok(draft) => told(cx.write_records(Batch::new().remove(draft)).await),
            Err(error) => told::<()>(Err(error)),
        }
    }

    /// Clubs of a level, in pages of two: by that index, and by the one over the realm as well.
    #[invoke(server)]
    async fn clubs(&mut self, cx: &mut Cx<Self>, level: i64) -> String {
        let mut answers = Vec::new();
        for query in [Club::by_level(&level), Club::by_realm_and_level(&1, &level)] {
            let (mut next, mut keys) = (Some(query), Vec::new());
            while let Some(query) = next {
                match cx.find_records(query, 2).await {
                    Ok(hits) => {
                        assert!(hits.found.len() <= 2);
                        keys.extend(
                            hits.found.into_iter().map(|(key, club)| (key, club.title.clone())),
                        );
                        next = hits.next;
                    }
                    Err(error) => return error.to_string(),
                }
            }
            keys.sort();
            answers.push(keys);
        }
        assert_eq!(answers[0], answers[1]);
        format!("{:?}", answers[0])
    }

    #[invoke(server)]
    async fn titled(&mut self, cx: &mut Cx<Self>, title: String) -> String {
        let found = cx.find_records(Club::by_realm_and_title(&1, &title), 9).await;
        told(found.map(|hits| hits.found.into_iter().map(|(key, _)| key).collect::<Vec<_>>()))
    }

    #[invoke(server)]
    async fn index(&mut self, cx: &mut Cx<Self>) -> String {
        let (mut after, mut pages) = (None, 0);
        loop {
            match cx.index_records::<Club>(after.as_ref(), 2).await {
                Ok(None) => return pages.to_string(),
                Ok(last) => after = last,
                Err(error) => return told::<()>(Err(error)),
            }
            pages += 1;
        }
    }

    #[invoke(server)]
    async fn heroes(
        &mut self,
        cx: &mut Cx<Self>,
        level: u64,
        clan: String,
        pockets: u32,
    ) -> String {
        let level = cx.find_entities::<Hero, _>(Hero::by_level(&level), 9).await;
        let clan = cx.find_entities::<Hero, _>(Hero::by_clan(&clan), 9).await;
        let pockets = Purse::by_pockets(&pockets).within("purse");
        let pockets = cx.find_entities::<Hero, _>(pockets, 9).await;
        let keys = |found: Vec<node::rt::Ref<Hero>>| -> Vec<u64> {
            found.into_iter().map(|hero| hero.id().key).collect()
        };
        let level = told(level.map(|hits| keys(hits.found)));
        let clan = told(clan.map(|hits| keys(hits.found)));
        let pockets = told(pockets.map(|hits| keys(hits.found)));
        [level, clan, pockets].join(" ")
    }
}

fn register(host: &mut Host) {
    host.register::<Seeker>();
    host.register::<Hero>();
}

fn rig() -> Rig {
    said();
    Rig::new(register, vec![Seeker::KIND.id, Hero::KIND.id])
}

/// Calls the method with these arguments of the entity of that key.
macro_rules! call {
    ($rig:expr, $node:expr, $kind:ident $key:literal . $method:ident ( $($arg:expr),* )) => {
        $rig.call($node, |out| async move { out.entity::<$kind>($key).$method($($arg),*).await })
            .unwrap()
    };
}

fn no_faults(rig: &Rig) {
    assert_eq!(rig.store.verify().wait().unwrap().faults, Vec::<String>::new());
}

#[test]
fn f1_records_are_found_by_fields_alone_and_together() {
    let mut rig = rig();
    let node = rig.start();
    for (key, title, level) in [(1, "Owls", 5), (2, "Elks", 5), (3, "Bats", 5), (4, "Cats", -5)] {
        assert_eq!(call!(rig, node, Seeker 1.put(key, title.to_owned(), level)), "()");
    }
    let all = r#"[(1, "Owls"), (2, "Elks"), (3, "Bats")]"#;
    assert_eq!(call!(rig, node, Seeker 1.clubs(5)), all);
    assert_eq!(call!(rig, node, Seeker 1.clubs(-5)), r#"[(4, "Cats")]"#);
    assert_eq!(call!(rig, node, Seeker 1.put(2, "Elks".to_owned(), 6)), "()");
    assert_eq!(call!(rig, node, Seeker 1.remove(3)), "()");
    assert_eq!(call!(rig, node, Seeker 1.clubs(5)), r#"[(1, "Owls")]"#);
    assert_eq!(call!(rig, node, Seeker 1.clubs(6)), r#"[(2, "Elks")]"#);
    assert_eq!(call!(rig, node, Seeker 1.titled("Bats".to_owned())), "[]");
    no_faults(&rig);
}

#[test]
fn f2_a_unique_field_refuses_a_second_and_loses_nothing() {
    let mut rig = rig();
    let node = rig.start();
    assert_eq!(call!(rig, node, Seeker 1.put(1, "Owls".to_owned(), 5)), "()");
    assert_eq!(call!(rig, node, Seeker 1.put(2, "Elks".to_owned(), 5)), "()");
    let second = call!(rig, node, Seeker 1.put(2, "Owls".to_owned(), 7));
    assert_eq!(second, "taken: club/realm+title");
    assert_eq!(call!(rig, node, Seeker 1.put(101, "Bats".to_owned(), 7)), "taken: club/crest");
    assert_eq!(call!(rig, node, Seeker 1.clubs(7)), "[]");
    assert_eq!(call!(rig, node, Seeker 1.clubs(5)), r#"[(1, "Owls"), (2, "Elks")]"#);
    assert_eq!(call!(rig, node, Seeker 1.titled("Owls".to_owned())), "[1]");
    assert_eq!(call!(rig, node, Seeker 1.remove(1)), "()");
    assert_eq!(call!(rig, node, Seeker 1.put(2, "Owls".to_owned(), 7)), "()");
    assert_eq!(call!(rig, node, Seeker 1.titled("Owls".to_owned())), "[2]");
    no_faults(&rig);
}

#[test]
fn f1_entities_are_found_as_they_were_saved() {
    let mut rig = rig();
    let node = rig.start();
    call!(rig, node, Hero 1.be(3, "red".to_owned(), 2));
    call!(rig, node, Hero 2.be(3, "blue".to_owned(), 1));
    rig.run_for(Duration::from_secs(2));
    let look = |rig: &mut Rig| call!(rig, node, Seeker 1.heroes(3, "red".to_owned(), 2));
    assert_eq!(look(&mut rig), "[1, 2] [1] [1]");
    // What is not saved for its limits is not found, and what else changed is.
    call!(rig, node, Hero 2.be(101, "red".to_owned(), 2));
    rig.run_for(Duration::from_secs(2));
    assert_eq!(look(&mut rig), "[1, 2] [1] [1, 2]");
    call!(rig, node, Hero 2.be(4, "red".to_owned(), 2));
    // A deal that is refused takes what it would have written of the index with it.
    assert!(!call!(rig, node, Hero 1.buy(50)));
    rig.run_for(Duration::from_secs(2));
    assert_eq!(look(&mut rig), "[1] [1, 2] [1, 2]");
    assert_eq!(call!(rig, node, Seeker 1.heroes(50, String::new(), 0)), "[] [] []");
    // Whoever has it next finds the same.
    rig.kill(node);
    let next = rig.start();
    rig.run_for(Duration::from_secs(10));
    call!(rig, next, Hero 1.be(4, "red".to_owned(), 2));
    rig.run_for(Duration::from_secs(2));
    let found = call!(rig, next, Seeker 1.heroes(4, "red".to_owned(), 2));
    assert_eq!(found, "[1, 2] [1, 2] [1, 2]");
    no_faults(&rig);
}

/// As a release wrote it that had no indexes.
#[derive(Default, Document)]
#[document(root = node::rt, record = "club", key = u64)]
struct OldClub {
    #[persist]
    crest: Option<u32>,
    #[persist]
    title: String,
    #[persist]
    realm: u32,
    #[persist]
    level: i64,
}

#[derive(Default, Document)]
#[document(root = node::rt)]
struct OldHero {
    #[persist]
    level: u64,
    #[persist]
    clan: String,
}

#[test]
fn f1_documents_from_before_an_index_stand_in_it_once_they_are_written_or_indexed() {
    let mut rig = rig();
    let kind = proto::KindId::of("club").0;
    for key in 1..=3u64 {
        let title = if key == 3 { 1 } else { key }.to_string();
        let old = OldClub { crest: None, title, realm: 1, level: 5 };
        let mut body = Vec::new();
        write_document(&old, &mut body).unwrap();
        let id = RecordId { kind, key: proto::encode(&key) };
        let change = Change::Put(body);
        let write = RecordWrite { id, version: 0, change, fence: None, unlock: false };
        rig.store.write_records(1, vec![write]).wait().unwrap();
    }
    let me = Incarnation(5);
    rig.store.beat(me).wait().unwrap();
    let key = key_of(EntityId::keyed(Hero::KIND.id, 7));
    let ask = Activate { key, generation: 1, incarnation: me, reclaim: None };
    let claim = rig.store.activate(ask).wait().unwrap().claim;
    let mut body = Vec::new();
    write_document(&OldHero { level: 3, clan: "red".to_owned() }, &mut body).unwrap();
    let patch = Patch::from([("self".to_owned(), Some(body))]);
    rig.store.save(Save { claim, version: 0, patch }).wait().unwrap();
    rig.store.release(claim, 1).wait().unwrap();

    let node = rig.start();
    assert_eq!(call!(rig, node, Seeker 1.clubs(5)), "[]");
    // Two have a title of which there may be one: said, not chosen. That all have no crest is nothing.
    assert_eq!(call!(rig, node, Seeker 1.index()), "taken: club/realm+title");
    for key in 1..=3 {
        assert_eq!(call!(rig, node, Seeker 1.put(key, key.to_string(), 5)), "()");
    }
    assert_eq!(call!(rig, node, Seeker 1.index()), "2");
    assert_eq!(call!(rig, node, Seeker 1.clubs(5)), r#"[(1, "1"), (2, "2"), (3, "3")]"#);

    let nobody = call!(rig, node, Seeker 1.heroes(3, "red".to_owned(), 0));
    assert_eq!(nobody, "[] [] []");
    assert!(!call!(rig, node, Hero 7.buy(9)), "it is active, and changes nothing");
    rig.run_for(Duration::from_secs(2));
    let found = call!(rig, node, Seeker 1.heroes(3, "red".to_owned(), 0));
    assert_eq!(found, "[7] [7] [7]");
    no_faults(&rig);
}
