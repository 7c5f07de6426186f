//! Taking, saving, giving back; and what happens when the store does not play along.

use std::time::Duration;

use macros::{entity, rpc};
use node::data::{Ask, Options, Trouble, key_of, read_document};
use node::rt::{CallError, Cx, Ref};
use node::{Entity, Host};
use store::{Error, Limits};

use crate::game::Avatar;
use crate::rig::{Pending, Rig, said};

const SECOND: Duration = Duration::from_secs(1);

fn register(host: &mut Host) {
    host.register::<Avatar>();
}

fn rig() -> Rig {
    said();
    Rig::new(register, vec![Avatar::KIND.id])
}

fn rise(rig: &mut Rig, node: usize, key: u64, n: u64) -> Result<u64, CallError> {
    rig.call(node, move |out| async move { out.entity::<Avatar>(key).rise(n).await })
}

fn begin_rise(rig: &mut Rig, node: usize, key: u64, n: u64) -> Pending<Result<u64, CallError>> {
    rig.begin(node, move |out| async move { out.entity::<Avatar>(key).rise(n).await })
}

fn leave(rig: &mut Rig, node: usize, key: u64) {
    rig.call(node, move |out| async move { out.entity::<Avatar>(key).leave().await }).unwrap();
}

fn stored(rig: &Rig, key: u64) -> store::Entity {
    let key = key_of(Ref::<Avatar>::keyed(key).id());
    rig.store.load(key).wait().unwrap().expect("it was activated once")
}

fn count(rig: &Rig, name: &str) -> usize {
    rig.asked.iter().filter(|asked| **asked == name).count()
}

#[test]
fn an_entity_is_loaded_saved_and_given_back() {
    let mut rig = rig();
    let node = rig.start();
    assert_eq!(rise(&mut rig, node, 1, 5), Ok(5));
    assert_eq!(stored(&rig, 1).version, 0, "nothing is written before its time");
    rig.run_for(2 * SECOND);
    assert_eq!(stored(&rig, 1).version, 1);
    leave(&mut rig, node, 1);
    rig.run_for(SECOND);
    assert!(stored(&rig, 1).owner.released);
    // What is marked comes back; the rest begins anew.
    let look = rig.call(node, |out| async move { out.entity::<Avatar>(1).look().await });
    assert_eq!(look, Ok((5, 0)));
    assert_eq!(said(), ["loaded 0", "before save 5", "before save 5", "loaded 5"]);
}

#[test]
fn many_changes_are_one_write_and_unchanged_parts_stay_unwritten() {
    let mut rig = rig();
    let node = rig.start();
    for _ in 0..50 {
        rise(&mut rig, node, 1, 1).unwrap();
    }
    rig.run_for(2 * SECOND);
    assert_eq!(count(&rig, "save"), 1);
    let first = stored(&rig, 1);
    assert_eq!(first.documents.keys().collect::<Vec<_>>(), ["bag", "self"]);
    rig.call(node, |out| async move { out.entity::<Avatar>(1).bag().put(4).await }).unwrap();
    rig.run_for(2 * SECOND);
    let second = stored(&rig, 1);
    assert_eq!((second.version, &second.documents["self"]), (2, &first.documents["self"]));
    assert_ne!(second.documents["bag"], first.documents["bag"]);
    // Looking changes nothing, so nothing is written.
    rig.call(node, |out| async move { out.entity::<Avatar>(1).look().await }).unwrap();
    rig.run_for(2 * SECOND);
    assert_eq!(count(&rig, "save"), 2);
}

#[test]
fn a_change_is_saved_within_its_second() {
    let mut rig = rig();
    let node = rig.start();
    rise(&mut rig, node, 1, 1).unwrap();
    let saved = rig.hand.now();
    while stored(&rig, 1).version == 0 {
        rig.run_for(Duration::from_millis(1));
    }
    let took = rig.hand.now() - saved;
    assert!(took <= SECOND + Duration::from_millis(10), "{took:?}");
    rig.run_for(Duration::from_millis(5));
    assert_eq!(rig.worker(node).stats().data.lag, Duration::ZERO);
}

fn level(rig: &Rig, key: u64) -> u64 {
    let mut avatar = Avatar::default();
    match stored(rig, key).documents.get("self") {
        Some(bytes) => read_document(&mut avatar, bytes).unwrap(),
        None => return 0,
    }
    avatar.level
}

/// A turn that waited for another player had its own to itself for seconds. What had been answered
/// before was not saved as long, and a crash took it all.
#[test]
fn what_was_answered_before_a_long_turn_is_saved_in_its_time() {
    let mut rig = rig();
    let node = rig.start();
    rise(&mut rig, node, 1, 5).unwrap();
    rig.run_for(SECOND / 2);
    let mut turn =
        rig.begin(node, |out| async move { out.entity::<Avatar>(1).ponder(3_900).await });
    rig.run_for(SECOND / 2);
    // As it was between turns; what the turn has done so far is not there.
    assert_eq!(level(&rig, 1), 5);
    rig.run_for(2 * SECOND);
    assert_eq!(level(&rig, 1), 5);
    assert_eq!(rig.finish(&mut turn), Ok(7));
    rig.run_for(SECOND);
    assert_eq!(level(&rig, 1), 7);
}

#[test]
fn turn_after_turn_does_not_put_saving_off() {
    let mut rig = rig();
    let node = rig.start();
    rise(&mut rig, node, 1, 1).unwrap();
    // There is always one under way, and others wait.
    let begin = |rig: &mut Rig| {
        rig.begin(node, |out| async move { out.entity::<Avatar>(1).ponder(170).await })
    };
    let mut turns: std::collections::VecDeque<_> = (0..3).map(|_| begin(&mut rig)).collect();
    let mut told = Vec::new();
    for _ in 0..40 {
        let level = rig.finish(&mut turns.pop_front().unwrap()).unwrap();
        turns.push_back(begin(&mut rig));
        told.push((rig.hand.now(), level));
        let old = told.iter().rfind(|(at, _)| rig.hand.now() - *at > SECOND);
        let stored = self::level(&rig, 1);
        assert!(old.is_none_or(|(_, level)| stored >= *level), "{stored} of {old:?}");
    }
    assert!(count(&rig, "save") <= 9, "{} saves in seven seconds", count(&rig, "save"));
}

#[test]
fn a_slow_store_is_written_to_earlier() {
    let mut rig = rig();
    let node = rig.start();
    rig.way = Duration::from_millis(100);
    for (n, most) in [(1, 1_200), (2, 1_000), (3, 1_000)] {
        rise(&mut rig, node, 1, 1).unwrap();
        let told = rig.hand.now();
        while level(&rig, 1) < n {
            rig.run_for(Duration::from_millis(1));
        }
        // Written, but not yet answered.
        let took = rig.hand.now() - told;
        assert!(took <= Duration::from_millis(most), "{n}: {took:?}");
        rig.run_for(SECOND);
    }
}

/// A transaction waited for the save before it. What changed meanwhile went out with it, under the
/// older value that the transaction wrote, and was never written.
#[test]
fn what_changes_while_a_deal_waits_is_saved_after_it() {
    let mut rig = rig();
    let node = rig.start();
    rise(&mut rig, node, 1, 1).unwrap();
    rig.run_for(SECOND / 2);
    rig.cut(node, true);
    rig.run_for(SECOND / 2);
    let mut deal =
        rig.begin(node, |out| async move { out.entity::<Avatar>(1).train_aside(9).await });
    rise(&mut rig, node, 1, 10).unwrap();
    rig.run_for(SECOND + SECOND / 2);
    rig.cut(node, false);
    assert_eq!(rig.finish(&mut deal), Ok("ok 1".to_owned()));
    rig.run_for(2 * SECOND);
    assert_eq!(level(&rig, 1), 12);
}

#[test]
fn logins_at_once_are_asked_for_together() {
    let mut rig = rig();
    let node = rig.start();
    let mut calls: Vec<_> = (1..=500).map(|key| begin_rise(&mut rig, node, key, key)).collect();
    for (call, key) in calls.iter_mut().zip(1..) {
        assert_eq!(rig.finish(call), Ok(key));
    }
    assert_eq!(count(&rig, "activate"), 2, "500 entities, at most 256 in a request");
}

#[test]
fn a_document_of_somebody_else_is_not_touched() {
    let mut rig = rig();
    let (a, b) = (rig.start(), rig.start());
    rise(&mut rig, a, 1, 5).unwrap();
    let id = Ref::<Avatar>::keyed(1).id();
    assert_eq!(rise(&mut rig, b, 1, 1), Err(CallError::Unavailable(id)));
    leave(&mut rig, a, 1);
    rig.run_for(SECOND);
    // It is tried again, and what the first owner saved is there.
    assert_eq!(rise(&mut rig, b, 1, 1), Ok(6));
    assert_eq!(rise(&mut rig, a, 1, 1), Err(CallError::Unavailable(id)));
}

/// ProfileStore and others: a load that failed gave default data, which was then saved over the
/// real ones.
#[test]
fn a_load_error_is_never_an_empty_document() {
    let mut rig = rig();
    let node = rig.start();
    rise(&mut rig, node, 1, 5).unwrap();
    leave(&mut rig, node, 1);
    rig.run_for(SECOND);
    let id = Ref::<Avatar>::keyed(1).id();
    rig.refuse = Some(|ask| matches!(ask, Ask::Activate(_)).then_some(Error::Busy));
    assert_eq!(rise(&mut rig, node, 1, 1), Err(CallError::Unavailable(id)));
    // While it rests, callers are told at once, and nobody asks the store.
    let asked = count(&rig, "activate");
    assert_eq!(rise(&mut rig, node, 1, 1), Err(CallError::Unavailable(id)));
    assert_eq!(count(&rig, "activate"), asked);
    rig.refuse = None;
    rig.run_for(SECOND);
    assert_eq!(rise(&mut rig, node, 1, 1), Ok(6));
}

/// A killed database was back for 4 s before the saves that it had missed were tried again.
#[test]
fn what_a_store_that_was_away_missed_is_saved_as_soon_as_it_is_back() {
    let mut rig = rig();
    let node = rig.start();
    for key in 1..=8 {
        rise(&mut rig, node, key, 5).unwrap();
    }
    rig.run_for(2 * SECOND);
    for key in 1..=8 {
        rise(&mut rig, node, key, 1).unwrap();
    }
    rig.away = true;
    let saves = count(&rig, "save");
    rig.run_for(30 * SECOND);
    let tries = count(&rig, "save") - saves;
    assert!(tries < 8 * 20, "it is not asked without a pause: {tries}");
    rig.away = false;
    // The next beat is answered within a second.
    rig.run_for(SECOND + SECOND / 10);
    for key in 1..=8 {
        assert_eq!(stored(&rig, key).version, 2, "player {key}");
    }
}

/// Another shard that answers must not have those of one that is away asked for without end.
#[test]
fn saves_that_fail_while_other_requests_succeed_keep_their_pauses() {
    let mut rig = rig();
    let node = rig.start();
    rise(&mut rig, node, 1, 5).unwrap();
    rig.refuse =
        Some(|ask| matches!(ask, Ask::Save(..)).then(|| Error::Unavailable("away".to_owned())));
    // Beats are answered each second.
    rig.run_for(40 * SECOND);
    let tries = count(&rig, "save");
    assert!((5..60).contains(&tries), "{tries} in 40 s");
}

#[test]
fn unreadable_documents_are_set_aside_and_reported() {
    let mut rig = rig();
    let node = rig.start();
    rise(&mut rig, node, 1, 5).unwrap();
    leave(&mut rig, node, 1);
    rig.run_for(SECOND);
    // A newer release saves it with a version that nobody here knows.
    let me = store::Incarnation(9);
    let generation = rig.store.beat(me).wait().unwrap().generation;
    let key = key_of(Ref::<Avatar>::keyed(1).id());
    let ask = store::Activate { key, generation, incarnation: me, reclaim: None };
    let taken = rig.store.activate(ask).wait().unwrap();
    let patch = store::Patch::from([("self".to_owned(), Some(vec![0x92, 0x09, 0x05]))]);
    let save = store::Save { claim: taken.claim, version: taken.version, patch };
    let version = rig.store.save(save).wait().unwrap();
    rig.store.release(taken.claim, version).wait().unwrap();

    let id = Ref::<Avatar>::keyed(1).id();
    assert_eq!(rise(&mut rig, node, 1, 1), Err(CallError::Failed(id)));
    rig.run_for(SECOND);
    let after = stored(&rig, 1);
    assert!(after.owner.released, "another release may have it");
    assert_eq!((after.version, &after.documents["self"][..]), (version, &[0x92, 0x09, 0x05][..]));
    // It is not read in vain with each call.
    let asked = count(&rig, "activate");
    assert_eq!(rise(&mut rig, node, 1, 1), Err(CallError::Failed(id)));
    assert_eq!(count(&rig, "activate"), asked);
    let problem =
        "sub-document \"self\": it has schema version 9, this release knows up to 1".to_owned();
    assert_eq!(rig.troubles(node), [Trouble::Unreadable { id, problem }]);
}

/// X30: two servers saved one entity over each other, whole document each time.
#[test]
fn x30_a_stale_owner_writes_nothing_and_drops_the_entity() {
    let mut rig = rig();
    let (a, b) = (rig.start(), rig.start());
    rise(&mut rig, a, 1, 5).unwrap();
    rig.run_for(2 * SECOND);
    rise(&mut rig, a, 1, 100).unwrap();
    // Its process stands still with a change that is not saved; the other takes over.
    rig.freeze(a, true);
    rig.run_for(8 * SECOND);
    assert_eq!(rise(&mut rig, b, 1, 1), Ok(6));
    rig.freeze(a, false);
    rig.run_for(2 * SECOND);
    assert_eq!(rise(&mut rig, b, 1, 1), Ok(7));
    let id = Ref::<Avatar>::keyed(1).id();
    let troubles = rig.troubles(a);
    assert!(troubles.contains(&Trouble::Lost(id)), "{troubles:?}");
    assert!(troubles.contains(&Trouble::Dead), "{troubles:?}");
    assert_eq!(rise(&mut rig, a, 1, 1), Err(CallError::Unavailable(id)));
    rig.run_for(2 * SECOND);
    assert_eq!(stored(&rig, 1).owner.incarnation, store::Incarnation(101));
}

#[test]
fn a_node_cut_off_from_the_store_parks_before_anyone_can_take_over() {
    let mut rig = rig();
    let (a, b) = (rig.start(), rig.start());
    rise(&mut rig, a, 1, 5).unwrap();
    rig.run_for(2 * SECOND);
    rig.cut(a, true);
    let id = Ref::<Avatar>::keyed(1).id();
    let mut last_here = rig.hand.now();
    let cut_at = last_here;
    let mut first_there = None;
    while first_there.is_none() {
        let mut here = begin_rise(&mut rig, a, 1, 1);
        rig.run_for(Duration::from_millis(5));
        if rig.peek(&mut here).is_some_and(|answer| answer.is_ok()) {
            last_here = rig.hand.now();
        }
        match rise(&mut rig, b, 1, 1) {
            Ok(level) => {
                assert_eq!(level, 6, "what was never saved is not there");
                first_there = Some(rig.hand.now());
            }
            Err(error) => assert_eq!(error, CallError::Unavailable(id)),
        }
        rig.run_for(Duration::from_millis(50));
        assert!(rig.hand.now() - cut_at < 20 * SECOND, "nobody takes over");
    }
    let first_there = first_there.unwrap();
    assert!(last_here - cut_at <= 5 * SECOND, "it parks: {:?}", last_here - cut_at);
    assert!(first_there > last_here);
    // Its late writes are refused, and it drops what it had.
    rig.cut(a, false);
    rig.run_for(3 * SECOND);
    assert_eq!(rise(&mut rig, b, 1, 1), Ok(7));
    assert_eq!(rise(&mut rig, a, 1, 1), Err(CallError::Unavailable(id)));
    assert!(rig.troubles(a).contains(&Trouble::Parked(true)));
}

#[test]
fn a_short_break_parks_nobody_and_loses_nothing() {
    let mut rig = rig();
    let (a, _b) = (rig.start(), rig.start());
    rise(&mut rig, a, 1, 5).unwrap();
    rig.cut(a, true);
    rig.run_for(3 * SECOND);
    assert_eq!(rise(&mut rig, a, 1, 1), Ok(6), "play goes on in memory");
    rig.cut(a, false);
    rig.run_for(2 * SECOND);
    assert_eq!(rig.troubles(a), []);
    let mut avatar = Avatar::default();
    node::data::read_document(&mut avatar, &stored(&rig, 1).documents["self"]).unwrap();
    assert_eq!(avatar.level, 6);
}

#[test]
fn a_killed_node_loses_at_most_its_last_second() {
    let mut rig = rig();
    let (a, b) = (rig.start(), rig.start());
    for _ in 0..40 {
        rise(&mut rig, a, 1, 1).unwrap();
        rig.run_for(Duration::from_millis(100));
    }
    rig.kill(a);
    rig.run_for(8 * SECOND);
    let level = rise(&mut rig, b, 1, 0).unwrap();
    assert!((29..=40).contains(&level), "{level} of 40, ten a second");
}

#[test]
fn a_lost_answer_to_an_activation_is_reclaimed() {
    let mut rig = rig();
    let node = rig.start();
    rig.lose_answers = 1;
    assert_eq!(rise(&mut rig, node, 1, 1), Ok(1));
    assert_eq!(stored(&rig, 1).owner.epoch, 2);
    // Twice in a row the caller is told.
    rig.lose_answers = 2;
    let id = Ref::<Avatar>::keyed(2).id();
    assert_eq!(rise(&mut rig, node, 2, 1), Err(CallError::Unavailable(id)));
    rig.run_for(SECOND);
    assert_eq!(rise(&mut rig, node, 2, 1), Ok(1));
}

/// A node that was told nothing kept an entity from everybody for ever.
#[test]
fn an_entity_that_was_taken_without_an_answer_is_given_back() {
    let mut rig = rig();
    let (a, b) = (rig.start(), rig.start());
    rig.lose_answers = 2;
    let id = Ref::<Avatar>::keyed(1).id();
    assert_eq!(rise(&mut rig, a, 1, 1), Err(CallError::Unavailable(id)));
    assert!(!stored(&rig, 1).owner.released);
    rig.run_for(12 * SECOND);
    assert!(stored(&rig, 1).owner.released, "nobody there wants it");
    assert_eq!(rise(&mut rig, b, 1, 1), Ok(1));
}

#[test]
fn a_lost_answer_to_a_save_is_resolved_by_reading() {
    let mut rig = rig();
    let node = rig.start();
    rise(&mut rig, node, 1, 1).unwrap();
    rig.lose_answers = 1;
    rig.run_for(3 * SECOND);
    assert_eq!(count(&rig, "load"), 1);
    rise(&mut rig, node, 1, 1).unwrap();
    rig.run_for(3 * SECOND);
    let mut avatar = Avatar::default();
    node::data::read_document(&mut avatar, &stored(&rig, 1).documents["self"]).unwrap();
    assert_eq!(avatar.level, 2);
    assert_eq!(rig.troubles(node), []);
}

#[test]
fn f11_an_entity_that_cannot_be_saved_stays_owned_and_is_retried() {
    let mut rig = rig();
    let (a, b) = (rig.start(), rig.start());
    rise(&mut rig, a, 1, 5).unwrap();
    rig.refuse = Some(|ask| matches!(ask, Ask::Save(..)).then_some(Error::Busy));
    leave(&mut rig, a, 1);
    rig.run_for(3 * SECOND);
    let id = Ref::<Avatar>::keyed(1).id();
    assert_eq!(rise(&mut rig, b, 1, 1), Err(CallError::Unavailable(id)), "not from old data");
    // Nor here: a call waits until the old one is saved and given back.
    let mut call = begin_rise(&mut rig, a, 1, 1);
    rig.run_for(SECOND);
    assert!(rig.peek(&mut call).is_none());
    rig.refuse = None;
    assert_eq!(rig.finish(&mut call), Ok(6));
    assert_eq!(stored(&rig, 1).owner.epoch, 2);
}

#[test]
fn a_poison_document_is_set_aside_and_holds_up_nobody() {
    let mut rig = Rig::with(
        register,
        vec![Avatar::KIND.id],
        Options::default(),
        Limits { entity_bytes_max: 200, ..Limits::default() },
    );
    let node = rig.start();
    for _ in 0..100 {
        rig.call(node, |out| async move { out.entity::<Avatar>(1).bag().put(400).await }).unwrap();
    }
    rise(&mut rig, node, 2, 3).unwrap();
    rig.run_for(3 * SECOND);
    assert_eq!(stored(&rig, 2).version, 1);
    assert_eq!(stored(&rig, 1).version, 0);
    let troubles = rig.troubles(node);
    assert!(
        matches!(&troubles[..], [Trouble::Poisoned { id, .. }] if id.key == 1),
        "told once: {troubles:?}"
    );
    let stats = rig.worker(node).stats().data;
    assert_eq!((stats.poisoned, stats.dirty_bytes), (1, 0));
    // It goes on in memory, and is tried again slowly.
    let before = count(&rig, "save");
    rise(&mut rig, node, 1, 1).unwrap();
    rig.run_for(10 * SECOND);
    assert_eq!(count(&rig, "save"), before);
}

#[test]
fn f2_a_value_outside_its_limits_is_refused_on_write_and_the_rest_is_saved() {
    let mut rig = rig();
    let node = rig.start();
    rig.call(node, |out| async move {
        out.entity::<Avatar>(1).call_it("far too long a name".into())?;
        out.entity::<Avatar>(1).bag().put(4).await
    })
    .unwrap();
    rig.run_for(2 * SECOND);
    let saved = stored(&rig, 1);
    assert_eq!(saved.documents.keys().collect::<Vec<_>>(), ["bag"]);
    let id = Ref::<Avatar>::keyed(1).id();
    let problem = "sub-document \"self\": name: length 19 is outside ..=8".to_owned();
    assert_eq!(rig.troubles(node), [Trouble::Invalid { id, problem }]);
    rig.call(node, |out| async move { out.entity::<Avatar>(1).call_it("short".into()) }).unwrap();
    rig.run_for(2 * SECOND);
    assert_eq!(stored(&rig, 1).documents.len(), 2);
}

#[test]
fn too_much_unsaved_holds_entities_until_the_store_has_caught_up() {
    let mut rig = Rig::with(
        register,
        vec![Avatar::KIND.id],
        Options { dirty_bytes_max: 2_000, ..Options::default() },
        Limits::default(),
    );
    let node = rig.start();
    rig.refuse = Some(|ask| matches!(ask, Ask::Save(..)).then_some(Error::Busy));
    for key in 1..=200 {
        rise(&mut rig, node, key, 1).unwrap();
    }
    rig.run_for(2 * SECOND);
    // What was written once has a size; from now on it counts.
    rig.refuse = None;
    rig.run_for(6 * SECOND);
    rig.refuse = Some(|ask| matches!(ask, Ask::Save(..)).then_some(Error::Busy));
    let mut calls: Vec<_> = (1..=200).map(|key| begin_rise(&mut rig, node, key, 1)).collect();
    rig.run_for(2 * SECOND);
    assert!(rig.worker(node).stats().data.parked);
    let mut more = begin_rise(&mut rig, node, 1, 1);
    rig.run_for(SECOND);
    assert!(rig.peek(&mut more).is_none(), "it waits");
    rig.refuse = None;
    assert_eq!(rig.finish(&mut more), Ok(3));
    for call in &mut calls {
        assert_eq!(rig.finish(call), Ok(2));
    }
    assert_eq!(rig.troubles(node).last(), Some(&Trouble::Parked(false)));
}

#[test]
fn a_panic_goes_back_to_what_was_given_to_the_store() {
    let mut rig = rig();
    let node = rig.start();
    rise(&mut rig, node, 1, 5).unwrap();
    rig.run_for(2 * SECOND);
    let fell = rig.call(node, |out| async move { out.entity::<Avatar>(1).fall().await });
    assert!(matches!(fell, Err(CallError::Failed(_))));
    assert_eq!(rise(&mut rig, node, 1, 1), Ok(6));
    rig.run_for(2 * SECOND);
    assert_eq!(stored(&rig, 1).owner.epoch, 1, "it was never given back");
}

#[test]
fn an_entity_is_saved_between_its_turns_never_inside_one() {
    let mut rig = rig();
    let node = rig.start();
    rise(&mut rig, node, 1, 1).unwrap();
    let ponder = rig.call(node, |out| async move { out.entity::<Avatar>(1).ponder(2_500).await });
    assert_eq!(ponder, Ok(3));
    // As it was before the turn.
    assert_eq!((stored(&rig, 1).version, level(&rig, 1)), (1, 1));
    rig.run_for(2 * SECOND);
    assert_eq!((stored(&rig, 1).version, level(&rig, 1)), (2, 3));
}

#[test]
fn a_store_that_fails_over_has_everything_taken_again() {
    let mut rig = rig();
    let node = rig.start();
    rise(&mut rig, node, 1, 5).unwrap();
    rig.run_for(2 * SECOND);
    rig.store.raise_generation(1).wait().unwrap();
    rig.run_for(2 * SECOND);
    assert_eq!(rise(&mut rig, node, 1, 1), Ok(6));
    assert!(rig.troubles(node).contains(&Trouble::FailedOver));
    assert_eq!(stored(&rig, 1).owner.epoch, 2);
}

#[test]
fn a_node_that_stops_saves_and_gives_back_all() {
    let mut rig = rig();
    let (a, b) = (rig.start(), rig.start());
    for key in 1..=20 {
        rise(&mut rig, a, key, key).unwrap();
    }
    let now = rig.hand.now();
    let wall = env::WallTime(0);
    rig.worker(a).stop(now, wall, proto::frame::CloseCode::GoingAway, "down");
    rig.run_for(Duration::from_millis(100));
    assert!(rig.worker(a).is_saved());
    let id = Ref::<Avatar>::keyed(1).id();
    assert_eq!(rise(&mut rig, a, 1, 1), Err(CallError::Unavailable(id)), "it takes no more");
    for key in 1..=20 {
        assert_eq!(rise(&mut rig, b, key, 0), Ok(key));
    }
}

/// Makes an avatar rise by two calls, of which at least the second is answered in place.
#[entity(root = node::rt)]
#[derive(Default)]
struct Trainer;

#[rpc(root = node::rt)]
impl Trainer {
    #[invoke]
    async fn train(&mut self, cx: &mut Cx<Self>, key: u64) -> Result<u64, String> {
        let avatar = cx.entity::<Avatar>(key);
        avatar.rise(1).await.map_err(|error| error.to_string())?;
        avatar.rise(1).await.map_err(|error| error.to_string())
    }
}

#[test]
fn what_calls_in_place_change_is_saved_and_stands_still_with_the_rest() {
    said();
    let register = |host: &mut Host| {
        register(host);
        host.register::<Trainer>();
    };
    let mut rig = Rig::new(register, vec![Avatar::KIND.id, Trainer::KIND.id]);
    let node = rig.start();
    let train = |out: node::Outside| async move { out.entity::<Trainer>(1).train(1).await };
    assert_eq!(rig.call(node, train).unwrap(), 2);
    rig.run_for(2 * SECOND);
    assert_eq!(rig.call(node, train).unwrap(), 4);
    rig.run_for(2 * SECOND);
    let mut avatar = Avatar::default();
    node::data::read_document(&mut avatar, &stored(&rig, 1).documents["self"]).unwrap();
    assert_eq!((stored(&rig, 1).version, avatar.level), (2, 4));
    rig.cut(node, true);
    rig.run_for(Duration::from_millis(5_500));
    assert!(rig.worker(node).stats().data.parked);
    let mut waits = rig.begin(node, train);
    rig.run_for(SECOND);
    assert!(rig.peek(&mut waits).is_none(), "it stands still");
    rig.cut(node, false);
    assert_eq!(rig.finish(&mut waits).unwrap(), 6);
}

/// A node that was stopped while its store was away said of all that it had that it was not saved.
#[test]
fn d16_only_what_changed_since_is_unsaved_if_the_store_is_away_at_the_end() {
    let mut rig = rig();
    let node = rig.start();
    for key in [1, 2] {
        rise(&mut rig, node, key, 1).unwrap();
    }
    rig.run_for(2 * SECOND);
    rig.refuse = Some(|ask| {
        let away = matches!(ask, Ask::Save(..) | Ask::Release(..));
        away.then(|| Error::Unavailable("away".to_owned()))
    });
    rise(&mut rig, node, 2, 1).unwrap();
    let (now, wall) = (rig.hand.now(), env::WallTime(0));
    rig.worker(node).stop(now, wall, proto::frame::CloseCode::GoingAway, "down");
    rig.run_for(2 * SECOND);
    assert_eq!((rig.worker(node).is_saved(), rig.worker(node).unsaved()), (false, 1));
    rig.refuse = None;
    rig.run_for(10 * SECOND);
    assert_eq!((rig.worker(node).is_saved(), rig.worker(node).unsaved()), (true, 0));
    assert_eq!((level(&rig, 1), level(&rig, 2)), (1, 2));
}
