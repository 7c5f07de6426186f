//! Pull workers that are replaced while they have tasks.

use mainstay::bus::{Bus, Subscription};
use mainstay::proto::{decode, encode};

use super::bus::{Letter, Word};
use super::*;

/// Takes what was said on a topic since.
fn hear(ear: &mut Subscription, words: &mut Vec<Word>) {
    while let Some(message) = ear.try_next() {
        words.push(decode(message.body()).unwrap());
        message.done();
    }
}

/// A signal once restarted all workers at once, each lost the one task that it had in hand, and meanwhile nobody
/// did any.
#[test]
fn x33_hup_replaces_workers_one_after_the_other_and_no_task_is_lost() {
    if servers::skipped() {
        return;
    }
    let server = servers::Nats::start().unwrap();
    let options = mainstay::bus::Options { answer_wait: PATIENCE, ..Default::default() };
    let bus = Bus::connect(&[server.url()], "bells", options, &Clock::system()).unwrap();
    bus.declare("work.letters.post", Delivery::Durable).unwrap();
    let mut ears = ["delivered", "held"].map(|to| bus.subscribe(to).unwrap());
    assert!(ears.iter_mut().all(|ear| ear.wait_ready(PATIENCE)));
    let [delivered, held] = &mut ears;
    let place = format!(r#""bus": {{"nats": {:?}}},"#, server.url());
    let nodes = ["east", "west"];
    let node = |name| {
        format!(r#""{name}": {{"roles": ["node"], "workers": 1, "listen": {{"mesh": 0}}}},"#)
    };
    let lease = Duration::from_secs(3);
    let up = Up::of("post", "tasks", (&place, &nodes.map(node).concat()), lease);
    let submit = |to: u64, text: &str| {
        let job = encode(&Letter { to, text: text.to_owned() });
        let accepted = bus.publish("work.letters.post", job).unwrap().wait(PATIENCE).unwrap();
        assert!(accepted.is_ok(), "{accepted:?}");
    };

    // Each node has two tasks in hand, which do not end.
    let (mut taken, mut done) = (Vec::new(), Vec::new());
    (1..=4).for_each(|to| submit(to, "hold"));
    up.until("all hands are full", || {
        hear(held, &mut taken);
        taken.len() == 4
    });
    let first = nodes.map(|name| up.pid(name));
    let of = |pid: u64| taken.iter().filter(|word| u64::from(word.process) == pid).count();
    assert_eq!(first.map(of), [2, 2], "{taken:?}");

    // More comes in while they are replaced.
    up.tell("-HUP", u64::from(up.child.id()));
    let mut given = 4;
    up.until("both are replaced", || {
        given += 1;
        submit(given, "hello");
        hear(delivered, &mut done);
        let states = up.states();
        let runs = |name: &&str| states.iter().any(|of| of.name == *name && of.state == "running");
        assert!(nodes.iter().any(runs), "nobody does any: {states:?}");
        operate::progress(&up.data()).is_some_and(|progress| progress.over)
    });
    let progress = operate::progress(&up.data()).unwrap();
    assert_eq!(progress.failed, None, "{progress:?} {}", up.said());
    let replaced = |name| progress.lines.contains(&format!("{name} is replaced"));
    assert!(nodes.into_iter().all(replaced), "{progress:?}");
    assert!(nodes.iter().zip(first).all(|(name, pid)| up.pid(name) != pid));
    up.until("all tasks are done", || {
        hear(delivered, &mut done);
        let who: BTreeSet<u64> = done.iter().map(|word| word.who).collect();
        who.len() as u64 == given
    });
    // What was in hand was given back, and done by another process.
    let again = done.iter().filter(|word| word.who <= 4);
    let came_back = |word: &Word| word.attempt > 1 && word.text == "hold";
    assert!(again.clone().all(came_back), "{done:?}");
    assert_eq!(again.map(|word| word.who).collect::<BTreeSet<_>>().len(), 4);
}
