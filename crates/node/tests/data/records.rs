//! Data that no entity owns: whoever was slower is told, and locks end with their holders.

use std::cell::Cell;
use std::time::Duration;

use macros::{Document, entity, rpc};
use node::data::{Ask, Batch, Deal, RecordAsk, RecordError};
use node::rt::{Cx, Ref};
use node::{Entity, Host};
use store::{Change, Currency, Error, Key, LedgerOp, RecordId, RecordWrite, Transaction, TxnId};

use crate::game::Avatar;
use crate::rig::{Rig, said};

const SECOND: Duration = Duration::from_secs(1);
const GOLD: Currency = Currency(1);

#[derive(Clone, Debug, Default, PartialEq, Document)]
#[document(root = node::rt, record = "guild", key = (u64, String))]
pub struct Guild {
    #[persist(len = ..=12)]
    pub title: String,
    #[persist]
    pub members: u64,
}

fn key(name: &str) -> (u64, String) {
    (1, name.to_owned())
}

/// Works on guilds.
#[entity(root = node::rt)]
#[derive(Default)]
struct Clerk {}

fn told<T: std::fmt::Debug>(result: Result<T, RecordError>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(RecordError::Conflict { current, .. }) => format!("conflict {current}"),
        Err(RecordError::Locked(_)) => "locked".to_owned(),
        Err(RecordError::LockLost(_)) => "lock lost".to_owned(),
        Err(other) => other.to_string(),
    }
}

#[rpc(root = node::rt)]
impl Clerk {
    #[invoke(server)]
    async fn read(&mut self, cx: &mut Cx<Self>, name: String) -> String {
        let read = cx.read_record::<Guild>(&key(&name)).await;
        told(
            read.map(|guild| {
                guild.map(|guild| (guild.version(), guild.title.clone(), guild.members))
            }),
        )
    }

    #[invoke(server)]
    async fn list(&mut self, cx: &mut Cx<Self>) -> String {
        let mut after = None;
        let mut found = Vec::new();
        loop {
            match cx.list_records::<Guild>(after.as_ref(), 2).await {
                Ok(page) if page.is_empty() => return found.join(" "),
                Ok(page) => {
                    after = page.last().map(|(key, _)| key.clone());
                    found.extend(page.into_iter().map(|(key, guild)| key.1 + "=" + &guild.title));
                }
                Err(error) => return error.to_string(),
            }
        }
    }

    /// Reads, ponders for so long, then writes.
    #[invoke(server)]
    async fn rename(&mut self, cx: &mut Cx<Self>, name: String, title: String, ms: u64) -> String {
        let mut draft = match cx.draft_record::<Guild>(&key(&name)).await {
            Ok(draft) => draft,
            Err(error) => return told::<()>(Err(error)),
        };
        cx.sleep(Duration::from_millis(ms)).await;
        draft.title = title;
        told(cx.write_records(Batch::new().put(draft)).await)
    }

    /// Renames a guild as the holder of a lock with that number, who ponders for so long.
    #[invoke(server)]
    async fn guarded(&mut self, cx: &mut Cx<Self>, fence: u64, name: String, ms: u64) -> String {
        let mut draft = match cx.draft_record::<Guild>(&key(&name)).await {
            Ok(draft) => draft,
            Err(error) => return told::<()>(Err(error)),
        };
        draft.title = fence.to_string();
        let batch = match cx.fenced("market", fence, Batch::new().put(draft)).await {
            Ok(batch) => batch,
            Err(error) => return told::<()>(Err(error)),
        };
        cx.sleep(Duration::from_millis(ms)).await;
        told(cx.write_records(batch).await)
    }

    /// Opens a guild so many times at once, and then lets go of it or writes each.
    #[invoke(server)]
    async fn open(&mut self, cx: &mut Cx<Self>, times: u64, drop: bool) -> String {
        let (mut drafts, mut told_of) = (Vec::new(), Vec::new());
        for _ in 0..times {
            match cx.draft_record::<Guild>(&key("owls")).await {
                Ok(draft) => drafts.push(draft),
                Err(error) => return told::<()>(Err(error)),
            }
        }
        for (n, mut draft) in (0..).zip(drafts) {
            if drop {
                told_of.push(draft.version().to_string());
                continue;
            }
            draft.members = 10 + n;
            told_of.push(told(cx.write_records(Batch::new().put(draft)).await));
        }
        told_of.join(" ")
    }

    /// The level of an avatar as of at most so many milliseconds ago.
    #[invoke(server)]
    async fn look(&mut self, cx: &mut Cx<Self>, avatar: u64, ms: u64) -> String {
        let of = Ref::<Avatar>::keyed(avatar);
        let peek = cx.peek(of, Duration::from_millis(ms)).await;
        told(peek.map(|avatar| avatar.map(|avatar| avatar.level)))
    }

    /// What is shown of a guild and of an avatar, as of at most so many milliseconds ago.
    #[invoke(server)]
    async fn show(&mut self, cx: &mut Cx<Self>, name: String, avatar: u64, ms: u64) -> String {
        let age_max = Duration::from_millis(ms);
        let guild = cx.read_record_aged::<Guild>(&key(&name), age_max).await;
        let guild = told(guild.map(|guild| guild.map(|guild| guild.title.clone())));
        let avatar = cx.peek(Ref::<Avatar>::keyed(avatar), age_max).await;
        let seen = told(avatar.map(|avatar| {
            avatar.map(|avatar| {
                (
                    avatar.level,
                    avatar.seen,
                    avatar.bag.with(|bag| bag.slots.len()),
                    avatar.version(),
                )
            })
        }));
        format!("{guild} {seen}")
    }

    /// The same with the guild to itself; `wait` for it and `expiry` of the lock in milliseconds.
    #[invoke(server, deadline = "60s")]
    async fn reserve(&mut self, cx: &mut Cx<Self>, title: String, ms: u64, wait: u64) -> String {
        let wait = Duration::from_millis(wait);
        let mut draft = match cx.lock_record::<Guild>(&key("owls"), SECOND, wait).await {
            Ok(draft) => draft,
            Err(error) => return told::<()>(Err(error)),
        };
        cx.sleep(Duration::from_millis(ms)).await;
        draft.title = draft.title.clone() + &title;
        told(cx.write_records(Batch::new().put(draft)).await)
    }

    /// Holds it for so many times half its expiry, and says each time that it is still there.
    #[invoke(server, deadline = "60s")]
    async fn hold(&mut self, cx: &mut Cx<Self>, times: u64) -> String {
        let draft = match cx.lock_record::<Guild>(&key("owls"), SECOND, SECOND).await {
            Ok(draft) => draft,
            Err(error) => return told::<()>(Err(error)),
        };
        for _ in 0..times {
            cx.sleep(SECOND / 2).await;
            if let Err(error) = cx.renew_record(&draft).await {
                return told::<()>(Err(error));
            }
        }
        "held".to_owned()
    }

    #[invoke(server, deadline = "60s")]
    async fn join(&mut self, cx: &mut Cx<Self>, name: String, times: u64) -> String {
        for _ in 0..times {
            let join = |guild: &mut Guild| guild.members += 1;
            if let Err(error) = cx.update_record::<Guild, ()>(&key(&name), join).await {
                return told::<()>(Err(error));
            }
        }
        "joined".to_owned()
    }

    /// Founds a guild for 60 gold of the treasury, if nobody has founded the one before.
    #[invoke(server)]
    async fn found(&mut self, cx: &mut Cx<Self>, id: u64, name: String, before: String) -> String {
        let drafts = (
            cx.draft_record::<Guild>(&key(&name)).await,
            cx.read_records::<Guild>(&[key(&before)]).await,
        );
        let (Ok(mut draft), Ok(mut others)) = drafts else { return "not read".to_owned() };
        if draft.exists() {
            return "exists".to_owned();
        }
        draft.title = name;
        let mut batch = Batch::new().put(draft);
        if let Some(other) = others.pop().flatten() {
            batch = batch.unchanged(&other);
        }
        let deal = Deal::new(TxnId(u128::from(id)), "found").burn(Key(5), GOLD, 60);
        match deal.writing(batch) {
            Ok(deal) => match cx.commit(deal).await {
                Ok(_) => "founded".to_owned(),
                Err(error) => error.to_string(),
            },
            Err(error) => told::<()>(Err(error)),
        }
    }

    #[invoke(server)]
    async fn disband(&mut self, cx: &mut Cx<Self>, name: String) -> String {
        match cx.draft_record::<Guild>(&key(&name)).await {
            Ok(draft) => told(cx.write_records(Batch::new().remove(draft)).await),
            Err(error) => told::<()>(Err(error)),
        }
    }
}

fn register(host: &mut Host) {
    host.register::<Clerk>();
    host.register::<Avatar>();
}

fn rig() -> Rig {
    said();
    Rig::new(register, vec![Clerk::KIND.id, Avatar::KIND.id])
}

fn read(rig: &mut Rig, node: usize, name: &'static str) -> String {
    rig.call(node, move |out| async move { out.entity::<Clerk>(9).read(name.to_owned()).await })
        .unwrap()
}

fn rename(rig: &mut Rig, node: usize, name: &'static str, title: &'static str) -> String {
    let call = rig.call(node, move |out| async move {
        out.entity::<Clerk>(1).rename(name.to_owned(), title.to_owned(), 0).await
    });
    call.unwrap()
}

#[test]
fn f4_what_was_never_written_is_none_or_its_default() {
    let mut rig = rig();
    let node = rig.start();
    assert_eq!(read(&mut rig, node, "owls"), "None");
    assert_eq!(rename(&mut rig, node, "owls", "Owls"), "()");
    assert_eq!(read(&mut rig, node, "owls"), r#"Some((1, "Owls", 0))"#);
    // What did not change is not written.
    assert_eq!(rename(&mut rig, node, "owls", "Owls"), "()");
    assert_eq!(read(&mut rig, node, "owls"), r#"Some((1, "Owls", 0))"#);
    for (name, title) in [("bats", "Bats"), ("cats", "Cats"), ("gnats", "Gnats")] {
        rename(&mut rig, node, name, title);
    }
    let gone = rig
        .call(node, |out| async move { out.entity::<Clerk>(1).disband("cats".to_owned()).await });
    assert_eq!(gone.unwrap(), "()");
    let list = rig.call(node, |out| async move { out.entity::<Clerk>(1).list().await });
    assert_eq!(list.unwrap(), "bats=Bats owls=Owls gnats=Gnats");
}

#[test]
fn f6_the_slower_of_two_writers_is_told_and_overwrites_nothing() {
    let mut rig = rig();
    let (one, two) = (rig.start(), rig.start());
    rename(&mut rig, one, "owls", "Owls");
    let mut slow = rig.begin(one, |out| async move {
        out.entity::<Clerk>(1).rename("owls".to_owned(), "slow".to_owned(), 500).await
    });
    rig.run_for(Duration::from_millis(100));
    assert_eq!(rename(&mut rig, two, "owls", "quick"), "()", "reading locks nothing");
    assert_eq!(rig.finish(&mut slow).unwrap(), "conflict 2");
    assert_eq!(read(&mut rig, one, "owls"), r#"Some((2, "quick", 0))"#);
}

/// Opening a record for writing replaced its version, so that who only looked pushed out who wrote; two
/// writes within one tick of the clock had one version; and a missing key crashed on its way to the error.
#[test]
fn x29_opening_and_reading_change_nothing_for_other_writers() {
    let mut rig = rig();
    let (one, two) = (rig.start(), rig.start());
    let clerk = |rig: &mut Rig, node, drop| {
        rig.call(node, move |out| async move { out.entity::<Clerk>(7).open(3, drop).await })
            .unwrap()
    };
    // Of what is not there, and of what is: three who open it, and one who writes.
    for version in 0..2 {
        assert_eq!(clerk(&mut rig, two, true), format!("{version} {version} {version}"));
        assert_eq!(rename(&mut rig, one, "owls", ["Owls", "Elks"][version]), "()");
    }
    // All three write within one instant: one counts, whatever the clock says.
    let told = clerk(&mut rig, two, false);
    assert_eq!(told, "() conflict 3 conflict 3");
    let gone = |rig: &mut Rig, name: &'static str| {
        rig.call(
            one,
            move |out| async move { out.entity::<Clerk>(1).disband(name.to_owned()).await },
        )
        .unwrap()
    };
    assert_eq!(gone(&mut rig, "nobody"), "()", "there is nothing to remove, which is no fault");
    assert_eq!(read(&mut rig, one, "nobody"), "None");
    assert!(read(&mut rig, one, "owls").starts_with("Some((3, "));
}

/// A holder that was cut off wrote over what the next one had written.
#[test]
fn d9_a_late_holder_of_a_lock_is_refused_by_its_number() {
    let mut rig = rig();
    let (one, two) = (rig.start(), rig.start());
    let guarded = |rig: &mut Rig, node, fence, name: &str| {
        let name = name.to_owned();
        rig.call(
            node,
            move |out| async move { out.entity::<Clerk>(3).guarded(fence, name, 0).await },
        )
        .unwrap()
    };
    assert_eq!(guarded(&mut rig, one, 5, "owls"), "()");
    assert_eq!(guarded(&mut rig, one, 5, "owls"), "()");
    assert_eq!(guarded(&mut rig, two, 9, "bats"), "()");
    for name in ["owls", "bats", "cats"] {
        assert_eq!(guarded(&mut rig, one, 5, name), "lock lost");
    }
    assert_eq!(read(&mut rig, one, "owls"), r#"Some((1, "5", 0))"#);
    // One that has shown its number, and is overtaken before it writes.
    let mut slow = rig.begin(two, |out| async move {
        out.entity::<Clerk>(4).guarded(9, "cats".to_owned(), 500).await
    });
    rig.run_for(Duration::from_millis(100));
    assert_eq!(guarded(&mut rig, one, 12, "owls"), "()");
    assert_eq!(rig.finish(&mut slow).unwrap(), "conflict 3");
    assert_eq!(read(&mut rig, one, "cats"), "None");
    // One holder alone does not disturb itself.
    let mut again = rig.begin(one, |out| async move {
        out.entity::<Clerk>(4).guarded(12, "cats".to_owned(), 500).await
    });
    rig.run_for(Duration::from_millis(100));
    assert_eq!(guarded(&mut rig, one, 12, "owls"), "()");
    assert_eq!(rig.finish(&mut again).unwrap(), "()");
}

#[test]
fn f6_the_retry_helper_counts_each_change_once() {
    let mut rig = rig();
    let (one, two) = (rig.start(), rig.start());
    let mut joins: Vec<_> = [one, two, one, two]
        .into_iter()
        .zip(1..)
        .map(|(node, clerk)| {
            rig.begin(node, move |out| async move {
                out.entity::<Clerk>(clerk).join("owls".to_owned(), 10).await
            })
        })
        .collect();
    for join in &mut joins {
        assert_eq!(rig.finish(join).unwrap(), "joined");
    }
    assert!(read(&mut rig, one, "owls").ends_with("40))"));
}

#[test]
fn f9_a_lock_makes_others_wait_for_their_turn() {
    let mut rig = rig();
    let (one, two) = (rig.start(), rig.start());
    let reserve = |title: &'static str, ms, wait| {
        move |out: node::Outside| async move {
            out.entity::<Clerk>(2).reserve(title.to_owned(), ms, wait).await
        }
    };
    let mut first = rig.begin(one, reserve("a", 600, 0));
    rig.run_for(Duration::from_millis(50));
    let mut second = rig.begin(two, reserve("b", 0, 5_000));
    rig.run_for(Duration::from_millis(50));
    assert_eq!(rename(&mut rig, two, "owls", "over"), "locked");
    assert_eq!(rig.finish(&mut first).unwrap(), "()");
    assert_eq!(rig.finish(&mut second).unwrap(), "()");
    assert_eq!(read(&mut rig, one, "owls"), r#"Some((2, "ab", 0))"#);
}

#[test]
fn f9_a_holder_that_says_it_is_there_keeps_the_lock_and_gives_it_back_unwritten() {
    let mut rig = rig();
    let (one, two) = (rig.start(), rig.start());
    let mut held = rig.begin(one, |out| async move { out.entity::<Clerk>(1).hold(6).await });
    rig.run_for(Duration::from_millis(50));
    let mut next = rig.begin(two, |out| async move {
        out.entity::<Clerk>(1).reserve("b".to_owned(), 0, 20_000).await
    });
    rig.run_for(Duration::from_millis(2_500));
    assert!(rig.peek(&mut next).is_none(), "longer than the expiry");
    assert_eq!(rig.finish(&mut held).unwrap(), "held");
    assert_eq!(rig.finish(&mut next).unwrap(), "()");
}

#[test]
fn f9_the_lock_of_a_holder_that_stands_still_ends_and_its_late_write_is_refused() {
    let mut rig = rig();
    let (one, two) = (rig.start(), rig.start());
    let mut late = rig.begin(one, |out| async move {
        out.entity::<Clerk>(1).reserve("late".to_owned(), 200, 0).await
    });
    rig.run_for(Duration::from_millis(50));
    rig.freeze(one, true);
    let short =
        rig.call(
            two,
            |out| async move { out.entity::<Clerk>(2).reserve("b".to_owned(), 0, 300).await },
        );
    assert_eq!(short.unwrap(), "locked", "not before its expiry");
    let next = rig.call(two, |out| async move {
        out.entity::<Clerk>(1).reserve("b".to_owned(), 0, 5_000).await
    });
    assert_eq!(next.unwrap(), "()");
    rig.freeze(one, false);
    assert_eq!(rig.finish(&mut late).unwrap(), "lock lost");
    assert_eq!(read(&mut rig, two, "owls"), r#"Some((1, "b", 0))"#);
}

#[test]
fn f7_records_and_a_payment_are_one() {
    let mut rig = rig();
    let node = rig.start();
    let mint = LedgerOp::Mint { holder: Key(5), currency: GOLD, amount: 100 };
    rig.store.commit(Transaction::new(TxnId(1), 1).with(mint)).wait().unwrap();
    let mut found = |id, name: &'static str| {
        let call = rig.call(node, move |out| async move {
            out.entity::<Clerk>(1).found(id, name.to_owned(), "owls".to_owned()).await
        });
        call.unwrap()
    };
    assert_eq!(found(2, "owls"), "founded");
    assert_eq!(found(3, "owls"), "exists");
    let refused = found(4, "bats");
    assert!(refused.contains("40") && refused.contains("60"), "{refused}");
    assert_eq!(read(&mut rig, node, "bats"), "None", "not paid, not founded");
}

#[test]
fn f2_a_record_that_cannot_be_read_or_written_is_an_error_and_never_empty() {
    let mut rig = rig();
    let node = rig.start();
    let long = rename(&mut rig, node, "owls", "far too long a title");
    assert!(long.contains("title"), "{long}");
    let id = RecordId { kind: proto::KindId::of("guild").0, key: proto::encode(&key("owls")) };
    let change = Change::Put(vec![0xc1, 0xc1]);
    let damaged = RecordWrite { id, version: 0, change, fence: None, unlock: false };
    rig.store.write_records(1, vec![damaged]).wait().unwrap();
    assert!(read(&mut rig, node, "owls").contains("cannot be read"));
    assert!(rename(&mut rig, node, "owls", "Owls").contains("cannot be read"));
    rig.refuse = Some(|_| Some(Error::Unavailable("gone".to_owned())));
    assert_eq!(read(&mut rig, node, "bats"), "the store cannot be reached now");
}

/// Who only looks names how old it may be, disturbs no owner, and gets an error for what cannot be read.
#[test]
fn f22_who_only_looks_says_how_old_it_may_be() {
    let mut rig = rig();
    let (one, two) = (rig.start(), rig.start());
    let show = |rig: &mut Rig| {
        let call = rig.call(two, |out| async move {
            out.entity::<Clerk>(2).show("owls".to_owned(), 1, 1_500).await
        });
        call.unwrap()
    };
    assert_eq!(show(&mut rig), "None None");
    assert_eq!(rename(&mut rig, one, "owls", "Owls"), "()");
    let rise = rig.call(one, |out| async move { out.entity::<Avatar>(1).rise(5).await });
    assert_eq!(rise, Ok(5));
    assert_eq!(show(&mut rig), r#"Some("Owls") None"#, "it is not saved yet");
    rig.run_for(2 * SECOND);
    assert_eq!(show(&mut rig), r#"Some("Owls") Some((5, 0, 0, 1))"#);
    let owner = rig.call(one, |out| async move { out.entity::<Avatar>(1).climb(0).await });
    assert_eq!(owner, Ok((5, 1)), "its owner still has it, under its first epoch");

    // Until then a copy of it is young enough.
    rig.run_for(2 * SECOND);
    rig.refuse = Some(|ask| match ask {
        Ask::Record(_, RecordAsk::ReadAged(_, age) | RecordAsk::Peek(_, age)) => {
            let asked = age.as_millis();
            Some(Error::Unavailable(format!("asked for {asked}")))
        }
        _ => None,
    });
    let away = "the store cannot be reached now";
    assert_eq!(show(&mut rig), format!("{away} {away}"), "that is how it is asked");
    rig.refuse = None;
    let key = node::data::key_of(Ref::<Avatar>::keyed(7).id());
    let me = store::Incarnation(100);
    let ask = store::Activate { key, generation: 1, incarnation: me, reclaim: None };
    let claim = rig.store.activate(ask).wait().unwrap().claim;
    let patch = store::Patch::from([("self".to_owned(), Some(vec![0xc1]))]);
    rig.store.save(store::Save { claim, version: 0, patch }).wait().unwrap();
    let damaged = rig.call(two, |out| async move {
        out.entity::<Clerk>(2).show("owls".to_owned(), 7, 1_500).await
    });
    assert!(damaged.unwrap().contains("cannot be read"));
}

thread_local! {
    /// Readings of entities that reached the store.
    static LOOKS: Cell<usize> = const { Cell::new(0) };
}

/// Each look at what somebody else owns asked the store anew, however many looked at the same.
#[test]
fn f16_many_who_look_at_the_same_cause_one_reading_and_copies_end_with_their_age() {
    let mut rig = rig();
    let (one, two) = (rig.start(), rig.start());
    let rise = |rig: &mut Rig| {
        rig.call(one, |out| async move { out.entity::<Avatar>(1).rise(5).await }).unwrap();
        rig.run_for(2 * SECOND);
    };
    rise(&mut rig);
    let begin = |rig: &mut Rig, who: u64, ms: u64| {
        rig.begin(
            two,
            move |out| async move { out.entity::<Clerk>(who).look(1, ms).await.unwrap() },
        )
    };
    rig.refuse = Some(|ask| {
        let is_look = matches!(ask, Ask::Record(_, RecordAsk::Peek(..)));
        LOOKS.set(LOOKS.get() + usize::from(is_look));
        None
    });
    let mut looks: Vec<_> = (10..60).map(|who| begin(&mut rig, who, 4_000)).collect();
    assert!(looks.iter_mut().all(|look| rig.finish(look) == "Some(5)"));
    assert_eq!(LOOKS.get(), 1);

    let look = |rig: &mut Rig, who, ms| {
        let mut look = begin(rig, who, ms);
        rig.finish(&mut look)
    };
    // The owner goes on. What is seen is old, but never older than it may be.
    rise(&mut rig);
    assert_eq!(look(&mut rig, 2, 10_000), "Some(5)", "it may be as old as that");
    assert_eq!(look(&mut rig, 3, 3_000), "Some(10)");
    assert_eq!(LOOKS.get(), 2);
    rise(&mut rig);
    assert_eq!(look(&mut rig, 4, 0), "Some(15)");

    // A fault is nobody's copy.
    rig.away = true;
    assert_eq!(look(&mut rig, 5, 0), "the store cannot be reached now");
    rig.away = false;
    assert_eq!(look(&mut rig, 6, 0), "Some(15)");
}

/// Whoever asked a node without a store waited for ever.
#[test]
fn a_node_without_a_store_says_so_at_once() {
    let mut rig = rig();
    rig.kept = false;
    let node = rig.start();
    assert_eq!(read(&mut rig, node, "owls"), "the store cannot be reached now");
    let found = rig.call(node, |out| async move {
        out.entity::<Clerk>(1).found(2, "owls".to_owned(), "bats".to_owned()).await
    });
    assert_eq!(found.unwrap(), "not read");
}
