//! Calls to plain methods, which are answered where they are made.

use super::*;

/// Answers at once.
#[entity(root = node::rt)]
#[derive(Default)]
pub struct Desk {
    heard: Vec<String>,
}

#[rpc(root = node::rt)]
impl Desk {
    #[hook]
    fn created(&mut self, _cx: &mut Cx<Self>) {
        note("desk made");
    }

    #[hook]
    fn destroyed(&mut self, _cx: &mut Cx<Self>) {
        note("desk gone");
    }

    #[tell(server)]
    fn leave(&mut self, text: String) {
        self.heard.push(text);
    }

    #[invoke]
    fn read(&mut self) -> Vec<String> {
        std::mem::take(&mut self.heard)
    }

    #[invoke]
    fn sign(&mut self, name: String) -> u64 {
        note(name.clone());
        self.heard.push(name);
        self.heard.len() as u64
    }

    /// Tells itself and whoever calls before it answers.
    #[invoke]
    fn spread(&mut self, cx: &mut Cx<Self>) -> String {
        let told = cx.at(cx.me()).leave("from itself".to_owned());
        let back = cx.entity::<Guest>(1).hear("from the desk".to_owned());
        format!("{told:?} {back:?} {:?}", cx.caller())
    }

    #[invoke]
    fn limited(&mut self, #[arg(range = 1..=3)] count: u64) -> u64 {
        count
    }

    #[invoke]
    fn crash(&mut self) -> u64 {
        panic!("as it is told");
    }

    #[invoke]
    fn close(&mut self, cx: &mut Cx<Self>) -> u64 {
        cx.destroy();
        self.heard.len() as u64
    }
}

/// Calls.
#[entity(root = node::rt)]
#[derive(Default)]
pub struct Guest;

#[rpc(root = node::rt)]
impl Guest {
    #[tell(server)]
    fn hear(&mut self, text: String) {
        note(format!("guest hears {text}"));
    }

    #[invoke]
    async fn letters(&mut self, cx: &mut Cx<Self>) {
        let desk = cx.entity::<Desk>(1);
        for letters in [1, 0, 2] {
            for at in 0..letters {
                desk.leave(format!("{letters}.{at}")).unwrap();
            }
            note(format!("{:?}", desk.read().await));
        }
    }

    #[invoke]
    async fn signs(&mut self, cx: &mut Cx<Self>, name: String, times: u64) -> u64 {
        let mut last = 0;
        for _ in 0..times {
            last = cx.entity::<Desk>(1).sign(name.clone()).await.unwrap();
        }
        last
    }

    #[invoke]
    async fn spreads(&mut self, cx: &mut Cx<Self>) {
        let desk = cx.entity::<Desk>(1);
        note(desk.spread().await.unwrap());
        note(format!("{:?}", desk.read().await));
    }

    #[invoke]
    async fn fails(&mut self, cx: &mut Cx<Self>) {
        let desk = cx.entity::<Desk>(1);
        note(format!("{:?}", desk.sign("before".to_owned()).await));
        note(format!("{:?}", desk.limited(9).await.map_err(|error| error.to_string())));
        note(format!("{:?}", desk.crash().await));
        note(format!("{:?}", desk.sign("after".to_owned()).await));
    }

    #[invoke]
    async fn closes(&mut self, cx: &mut Cx<Self>) {
        let desk = cx.entity::<Desk>(1);
        note(format!("{:?}", desk.sign("before".to_owned()).await));
        note(format!("{:?}", desk.close().await));
        note(format!("{:?}", desk.sign("after".to_owned()).await));
    }
}

/// A host with a desk that is idle.
fn opened(mut bench: Bench) -> Bench {
    bench.host.register::<Desk>();
    bench.host.register::<Guest>();
    bench.run(|out| async move { out.entity::<Desk>(1).read().await }).unwrap();
    check(&expect!["desk made"]);
    bench
}

#[test]
fn call_in_place_comes_after_what_was_told_before_it() {
    both(|bench| {
        let mut bench = opened(bench);
        bench.run(|out| async move { out.entity::<Guest>(1).letters().await }).unwrap();
        check(&expect![[r#"
            Ok(["1.0"])
            Ok([])
            Ok(["2.0", "2.1"])"#]]);
    });
}

/// Everybody else had to wait for a turn that called on and on.
#[test]
fn calls_in_place_give_way_after_a_batch() {
    both(|bench| {
        let mut bench = opened(bench);
        bench.run(|out| async move {
            let mut a = pin!(out.entity::<Guest>(1).signs("a".to_owned(), 80));
            let mut b = pin!(out.entity::<Guest>(2).signs("b".to_owned(), 40));
            let (mut a_done, mut b_done) = (false, false);
            std::future::poll_fn(move |context| {
                a_done = a_done || a.as_mut().poll(context).is_ready();
                b_done = b_done || b.as_mut().poll(context).is_ready();
                if a_done && b_done { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        });
        let signed = TRACE.with(|trace| trace.take());
        let runs = signed.chunk_by(|one, other| one == other);
        let runs: Vec<String> = runs.map(|run| format!("{} x {}", run[0], run.len())).collect();
        note(runs.join(", "));
        check(&expect!["a x 33, b x 1, a x 33, b x 1, a x 14, b x 38"]);
    });
}

#[test]
fn what_a_handler_in_place_tells_is_handled_after_it() {
    both(|bench| {
        let mut bench = opened(bench);
        bench.run(|out| async move { out.entity::<Guest>(1).spreads().await }).unwrap();
        check(&expect![[r#"
            Ok(()) Ok(()) Entity(EntityId { kind: KindId(3145354713), home: Incarnation(0), key: 1 })
            Ok(["from itself"])
            guest hears from the desk"#]]);
    });
}

#[test]
fn panic_in_place_fails_the_call_and_not_the_turn_that_calls() {
    both(|bench| {
        let mut bench = opened(bench);
        bench.run(|out| async move { out.entity::<Guest>(1).fails().await }).unwrap();
        check(&expect![[r#"
            before
            Ok(1)
            Err("a33950cb/1 refused an argument: count: 9 is outside 1..=3")
            Err(Failed(EntityId { kind: KindId(2738442443), home: Incarnation(0), key: 1 }))
            desk made
            after
            Ok(1)"#]]);
        assert_eq!(bench.host.stats().panics, 1);
        assert!(bench.host.is_quiet());
    });
}

#[test]
fn entity_that_ends_in_place_is_made_again_by_the_next_call() {
    both(|bench| {
        let mut bench = opened(bench);
        bench.run(|out| async move { out.entity::<Guest>(1).closes().await }).unwrap();
        check(&expect![[r#"
            before
            Ok(1)
            desk gone
            Ok(1)
            desk made
            after
            Ok(1)"#]]);
        assert!(bench.host.is_quiet());
    });
}

/// A turn that nobody waits for any more calls nobody, also not in place.
#[test]
fn call_in_place_of_a_turn_that_is_over_is_cancelled() {
    /// Calls when its caller has given up.
    #[entity(root = node::rt)]
    #[derive(Default)]
    pub struct Late;

    #[rpc(root = node::rt)]
    impl Late {
        #[invoke(deadline = "1s")]
        async fn visit(&mut self, cx: &mut Cx<Self>) -> u64 {
            cx.sleep(Duration::from_secs(5)).await;
            note(format!("{:?}", cx.entity::<Desk>(1).sign("late".to_owned()).await));
            0
        }
    }

    both(|bench| {
        let mut bench = opened(bench);
        bench.host.register::<Late>();
        let visit = bench.run(|out| async move { out.entity::<Late>(1).visit().await });
        assert!(matches!(visit, Err(CallError::Timeout { .. })), "{visit:?}");
        bench.wait(Duration::from_secs(10));
        check(&expect![
            "Err(Cancelled(EntityId { kind: KindId(2738442443), home: Incarnation(0), key: 1 }))"
        ]);
    });
}
