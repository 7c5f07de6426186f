//! Turns that are open when their entity ends, and calls that ask again.

use std::cell::{Cell, RefCell};
use std::task::{Poll, Waker};
use std::time::Duration;

use expect_test::expect;
use macros::{entity, rpc};
use node::rt::{Cx, This};
use node::{HostOptions, Locks, Place, Ref};
use proto::frame::CloseCode;

use crate::actor::brief;
use crate::rig::{Map, Rig, say, trace, worker};

thread_local! {
    static GATE: RefCell<(bool, Option<Waker>)> = const { RefCell::new((false, None)) };
    static RUNS: Cell<u32> = const { Cell::new(0) };
}

/// Waits for something that nobody but the test can end.
async fn foreign() {
    std::future::poll_fn(|context| {
        GATE.with_borrow_mut(|(open, waker)| {
            if *open {
                return Poll::Ready(());
            }
            *waker = Some(context.waker().clone());
            Poll::Pending
        })
    })
    .await;
}

fn open_gate() {
    let waker = GATE.with_borrow_mut(|(open, waker)| {
        *open = true;
        waker.take()
    });
    waker.into_iter().for_each(Waker::wake);
}

/// Changes its items over several awaits.
#[entity(root = node::rt)]
#[derive(Default)]
struct Store {
    locks: Locks<u64>,
    log: Vec<String>,
}

#[rpc(root = node::rt)]
impl Store {
    #[invoke(interleave, deadline = "1s")]
    async fn refit(this: This<Self>, cx: &mut Cx<Self>, item: u64, ms: u64) -> String {
        let locks = this.with(|this| this.locks.clone());
        let held = cx.timeout(Duration::from_secs(30), locks.acquire(item)).await;
        if held.is_err() {
            return format!("gave up item {item}");
        }
        this.with(|this| this.log.push(format!("{item}+{ms}")));
        cx.sleep(Duration::from_millis(ms)).await;
        this.with(|this| this.log.push(format!("{item}-{ms}")));
        this.with(|this| this.log.join(" "))
    }
}

#[entity(root = node::rt)]
#[derive(Default)]
struct Worker {
    done: u64,
}

#[rpc(root = node::rt)]
impl Worker {
    #[invoke(interleave)]
    async fn tidy_up(this: This<Self>, cx: &mut Cx<Self>) -> u64 {
        cx.sleep(Duration::from_secs(3_600)).await;
        say("tidies up");
        let asked = cx.entity::<Worker>(2).count().await;
        say(format!("calls fail: {}", asked.is_err()));
        this.with(|this| this.done += 1);
        7
    }

    #[invoke(interleave)]
    async fn tick(_this: This<Self>, cx: &mut Cx<Self>) -> u64 {
        loop {
            cx.sleep(Duration::from_secs(1)).await;
            say("ticks");
        }
    }

    #[invoke(interleave)]
    async fn wait_outside(_this: This<Self>) -> u64 {
        foreign().await;
        say("the outside is done");
        8
    }

    #[invoke]
    fn count(&mut self) -> u64 {
        self.done
    }

    #[invoke]
    fn leave(&mut self, cx: &mut Cx<Self>) -> bool {
        cx.destroy();
        true
    }

    #[invoke(idempotent, deadline = "3s")]
    async fn deaf(&mut self, cx: &mut Cx<Self>, hears_after: u32) -> u32 {
        let run = RUNS.with(|runs| {
            runs.set(runs.get() + 1);
            runs.get()
        });
        if run < hears_after {
            cx.sleep(Duration::from_secs(60)).await;
        }
        run
    }

    #[hook]
    fn destroyed(&mut self) {
        say(format!("destroyed, {} done", self.done));
    }
}

fn rig() -> Rig {
    GATE.with_borrow_mut(|gate| *gate = (false, None));
    RUNS.with(|runs| runs.set(0));
    let mut rig = Rig::new(HostOptions::default());
    rig.host().register::<Worker>();
    rig
}

/// Destroying an entity dropped its interleaved turns wherever they stood, though no turn that
/// has started is ever dropped.
#[test]
fn m7_open_turns_run_to_their_end_when_their_entity_ends() {
    for by_itself in [false, true] {
        let mut rig = rig();
        let outside = rig.outside();
        rig.start(
            "tidy",
            outside.entity::<Worker>(1).tidy_up().deadline(Duration::from_secs(9_999)),
        );
        rig.settle();
        if by_itself {
            assert_eq!(rig.now_done(outside.entity::<Worker>(1).leave()), Ok(true));
        } else {
            assert!(rig.host().destroy(Ref::<Worker>::keyed(1).id(), CloseCode::Goodbye));
        }
        rig.settle();
        expect![[r#"
            tidies up
            calls fail: true
            destroyed, 1 done
            0ms tidy: Ok(7)
        "#]]
        .assert_eq(&trace());
        assert!(rig.host().is_quiet());
        assert!(rig.events().contains("Gone"));
        assert_eq!(rig.host().find(Ref::<Worker>::keyed(1).id()), None);
    }
}

#[test]
fn a_turn_that_loops_ends_with_its_entity() {
    let mut rig = rig();
    let outside = rig.outside();
    let ticks = outside.entity::<Worker>(1).tick().deadline(Duration::from_secs(9_999));
    rig.start("tick", async move { brief(ticks.await) });
    rig.pass(Duration::from_millis(1_500));
    rig.host().destroy(Ref::<Worker>::keyed(1).id(), CloseCode::Goodbye);
    rig.settle();
    expect![[r#"
        ticks
        ticks
        destroyed, 0 done
        1500ms tick: "Gone(1)"
    "#]]
    .assert_eq(&trace());
    assert_eq!(rig.host().stats().kinds[0].entities, 0);
}

#[test]
fn a_turn_that_waits_for_the_outside_has_the_time_of_a_call_to_end() {
    for in_time in [true, false] {
        let mut rig = rig();
        let outside = rig.outside();
        let waits = outside.entity::<Worker>(1).wait_outside().deadline(Duration::from_secs(99));
        rig.start("wait", async move { brief(waits.await) });
        rig.settle();
        rig.host().destroy(Ref::<Worker>::keyed(1).id(), CloseCode::Goodbye);
        rig.pass(Duration::from_secs(3));
        // Nothing new comes in meanwhile.
        let late = outside.entity::<Worker>(1).count();
        assert_eq!(rig.now_done(async move { brief(late.await) }), "Gone(1)");
        if in_time {
            open_gate();
            rig.settle();
            assert_eq!(trace(), "the outside is done\ndestroyed, 0 done\n3000ms wait: \"8\"\n");
        } else {
            rig.pass(Duration::from_millis(1_010));
            let text = trace();
            assert!(text.starts_with("destroyed, 0 done\n400"), "{text}");
            assert!(text.ends_with("ms wait: \"Gone(1)\"\n"), "{text}");
        }
        assert_eq!(rig.host().stats().kinds[0].entities, 0);
    }
}

#[test]
fn a16_turns_side_by_side_lock_the_object_that_they_change() {
    let mut rig = rig();
    rig.host().register::<Store>();
    let outside = rig.outside();
    let refit = |item, ms| outside.entity::<Store>(1).refit(item, ms);
    rig.start("a", refit(1, 100));
    rig.start("b", refit(1, 50));
    rig.start("c", refit(2, 70));
    rig.pass(Duration::from_millis(200));
    expect![[r#"
        70ms c: Ok("1+100 2+70 2-70")
        100ms a: Ok("1+100 2+70 2-70 1-100")
        150ms b: Ok("1+100 2+70 2-70 1-100 1+50 1-50")
    "#]]
    .assert_eq(&trace());
    // Who waits gives up with its turn's deadline, and holds nobody up.
    rig.start("long", outside.entity::<Store>(1).refit(1, 5_000).deadline(Duration::from_secs(9)));
    let late = refit(1, 1);
    rig.start("late", async move { brief(late.await) });
    rig.pass(Duration::from_secs(2));
    assert!(trace().starts_with("120"), "a second after it was asked");
    assert_eq!(rig.host().stats().turns, 1);
    rig.pass(Duration::from_secs(4));
    trace();
    rig.start("next", refit(1, 0));
    rig.pass(Duration::from_millis(10));
    assert!(trace().contains("next: Ok("));
}

/// The engine had no retries, and those that games wrote ran purchases twice.
#[test]
fn a14_only_idempotent_methods_are_retried() {
    let mut rig = rig();
    let outside = rig.outside();
    // Three tries share three seconds; what served the ones before was told to end.
    let call = outside.entity::<Worker>(1).deaf(3).retry(2);
    rig.start("third", async move { brief(call.await) });
    rig.pass(Duration::from_secs(4));
    let text = trace();
    assert!(text.starts_with("20") && text.ends_with("ms third: \"3\"\n"), "{text}");
    // None left: the time in all is the deadline's.
    RUNS.with(|runs| runs.set(0));
    let call = outside.entity::<Worker>(1).deaf(9).retry(1).deadline(Duration::from_secs(1));
    rig.start("none", async move { brief(call.await) });
    rig.pass(Duration::from_secs(4));
    let text = trace();
    assert!(text.starts_with("50") && text.contains("ms none: \"Timeout(1 1.0"), "{text}");
    assert_eq!(RUNS.with(Cell::get), 2);
    let call = outside.entity::<Worker>(1).count().retry(2);
    let refused = rig.now_done(async move { brief(call.await) });
    assert_eq!(refused, "BadArgument(`count` is not declared `idempotent`: no retries)");
    assert!(rig.host().is_quiet());
}

#[test]
fn a14_a_retry_reaches_a_target_that_is_back() {
    GATE.with_borrow_mut(|gate| *gate = (false, None));
    RUNS.with(|runs| runs.set(0));
    let map = Map::default();
    let id = Ref::<Worker>::keyed(1).id();
    map.fixed.borrow_mut().insert(id, Place::Away);
    let mut rig = Rig::many(HostOptions::default(), &[worker(1, 0)], &map);
    rig.host().register::<Worker>();
    let outside = rig.outside();
    let call = outside.entity::<Worker>(1).deaf(0).retry(2);
    rig.start("back", async move { brief(call.await) });
    rig.pass(Duration::from_millis(500));
    map.fixed.borrow_mut().clear();
    rig.pass(Duration::from_secs(1));
    let text = trace();
    assert!(text.starts_with("10") && text.ends_with("ms back: \"1\"\n"), "{text}");
}
