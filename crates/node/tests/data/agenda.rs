//! Timers that are part of a document.

use std::time::Duration;

use env::WallTime;
use macros::{Document, entity, rpc};
use node::Host;
use node::data::{Agenda, Overdue};
use node::rt::Cx;

use crate::rig::{Rig, said, say};

const SECOND: Duration = Duration::from_secs(1);

/// A house where things get ready.
#[entity(root = node::rt, document)]
#[derive(Default, Document)]
#[document(root = node::rt)]
struct House {
    #[persist]
    agenda: Agenda,
    /// What got ready, in its order.
    #[persist]
    ready: Vec<String>,
}

#[rpc(root = node::rt)]
impl House {
    #[invoke(server)]
    fn build(&mut self, cx: &mut Cx<Self>, name: String, seconds: u64) -> u64 {
        let at = WallTime(cx.wall().0 + seconds * 1_000);
        let id = self.agenda.set(name, at, []).unwrap();
        self.arm(cx);
        id
    }

    #[invoke(server)]
    fn grow(&mut self, cx: &mut Cx<Self>, name: String, seconds: u64, each: bool) {
        let overdue = if each { Overdue::Each } else { Overdue::Once };
        let every = Duration::from_secs(seconds);
        let first = WallTime(cx.wall().0 + seconds * 1_000);
        self.agenda.set_every(name, first, every, overdue, []).unwrap();
        self.arm(cx);
    }

    #[invoke(server)]
    fn look(&mut self) -> Vec<String> {
        self.ready.clone()
    }

    #[timer]
    fn work_off(&mut self, cx: &mut Cx<Self>) {
        while let Some(entry) = self.agenda.take_due(cx.wall()) {
            say(format!("{} {}", entry.key, entry.id));
            self.ready.push(entry.key);
        }
        self.arm(cx);
    }

    #[hook]
    fn loaded(&mut self, cx: &mut Cx<Self>) {
        self.arm(cx);
    }
}

impl House {
    fn arm(&self, cx: &mut Cx<Self>) {
        cx.cancel("agenda");
        if let Some(wait) = self.agenda.wait(cx.wall()) {
            cx.after(wait).key("agenda").work_off();
        }
    }
}

fn register(host: &mut Host) {
    host.register::<House>();
}

fn rig() -> Rig {
    said();
    Rig::new(register, vec![<House as node::Entity>::KIND.id])
}

fn build(rig: &mut Rig, node: usize, name: &str, seconds: u64) {
    let name = name.to_owned();
    let built =
        rig.call(node, move |out| async move { out.entity::<House>(1).build(name, seconds).await });
    built.unwrap();
}

fn look(rig: &mut Rig, node: usize) -> Vec<String> {
    let mut seen = None;
    for _ in 0..30 {
        let looked = rig.call(node, |out| async move { out.entity::<House>(1).look().await });
        if let Ok(ready) = looked {
            seen = Some(ready);
            break;
        }
        rig.run_for(SECOND);
    }
    seen.expect("it is loaded in the end")
}

#[test]
fn m5_what_is_due_while_nobody_was_there_comes_late_and_in_order() {
    let mut rig = rig();
    let first = rig.start();
    build(&mut rig, first, "roof", 40);
    build(&mut rig, first, "wall", 30);
    build(&mut rig, first, "door", 5);
    build(&mut rig, first, "tower", 7_200);
    rig.run_for(8 * SECOND);
    assert_eq!(said(), ["door 3"]);
    // It ends without a word, and nothing runs for an hour.
    rig.kill(first);
    rig.run_for(3_600 * SECOND);
    let second = rig.start();
    rig.run_for(10 * SECOND);
    look(&mut rig, second);
    rig.run_for(SECOND);
    assert_eq!(look(&mut rig, second), ["door", "wall", "roof"]);
    assert_eq!(said(), ["wall 2", "roof 1"]);
    rig.run_for(3_600 * SECOND);
    assert_eq!(look(&mut rig, second), ["door", "wall", "roof", "tower"]);
}

/// Its node is killed at each tenth of a second around the time when an entry is due and is saved: it is taken again
/// under the same id unless what it did is kept.
#[test]
fn m5_an_entry_is_taken_again_with_its_id_until_what_it_did_is_kept() {
    let (mut again, mut kept) = (0, 0);
    for tenth in 0..30 {
        let mut rig = rig();
        let first = rig.start();
        build(&mut rig, first, "roof", 3);
        rig.run_for(2_500 * Duration::from_millis(1));
        rig.run_for(tenth * Duration::from_millis(100));
        rig.kill(first);
        let before = said();
        let second = rig.start();
        rig.run_for(10 * SECOND);
        look(&mut rig, second);
        rig.run_for(SECOND);
        assert_eq!(look(&mut rig, second), ["roof"], "it is done once in what is kept");
        let after = said();
        assert!(before.len() <= 1 && after.len() <= 1, "{before:?} {after:?}");
        assert!(before.iter().chain(&after).all(|line| line == "roof 1"), "{before:?} {after:?}");
        again += usize::from(before.len() + after.len() == 2);
        kept += usize::from(after.is_empty());
    }
    assert!(again > 0 && kept > 0, "{again} were taken again, {kept} were kept");
}

#[test]
fn m5_what_repeats_is_caught_up_with_as_it_says() {
    let mut rig = rig();
    let first = rig.start();
    for (name, each) in [("rent", true), ("weeds", false)] {
        let name = name.to_owned();
        let grown = rig.call(first, move |out| async move {
            out.entity::<House>(1).grow(name, 100, each).await
        });
        grown.unwrap();
    }
    rig.run_for(5 * SECOND);
    rig.kill(first);
    rig.run_for(450 * SECOND);
    let second = rig.start();
    rig.run_for(10 * SECOND);
    look(&mut rig, second);
    rig.run_for(SECOND);
    let ready = look(&mut rig, second);
    let count = |name: &str| ready.iter().filter(|ready| *ready == name).count();
    assert_eq!((count("rent"), count("weeds")), (4, 1), "{ready:?}");
}
