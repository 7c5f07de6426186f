//! What the cluster file says of zones and developers, among processes.

use std::sync::mpsc::channel;
use std::time::Instant;

use mainstay::node::session::Binding;
use mainstay::proto::ticket::derived_key;

use super::cluster::{Layout, PATIENCE, ring};
use super::*;

/// Each zone has its own.
#[entity(zone)]
#[derive(Default)]
struct Gatehouse {
    passed: u64,
}

#[rpc]
impl Gatehouse {
    #[request(client)]
    fn pass(&mut self) -> u64 {
        self.passed += 1;
        self.passed
    }

    #[invoke(server)]
    fn passed(&mut self) -> u64 {
        self.passed
    }

    /// How many passed the next gatehouse of the same zone, and those of another.
    #[request(client)]
    async fn elsewhere(&mut self, cx: &mut Cx<Self>, zone: String) -> (String, String) {
        let shown = |passed: Result<u64, CallError>| match passed {
            Ok(passed) => passed.to_string(),
            Err(CallError::NotFound(_)) => "not found".to_owned(),
            Err(error) => error.to_string(),
        };
        let near = cx.entity::<Gatehouse>(cx.key() + 1).passed().await;
        let far = Ref::<Gatehouse>::local(Namespace::zone(&zone), cx.key());
        (shown(near), shown(cx.at(far).passed().await))
    }
}

/// Each player has a stream to a gatehouse of each zone.
pub(super) fn app() -> App {
    App::new("gatehouses").entity::<Gatehouse>().bindings(|_| {
        let bind = |zone: &str| Binding {
            name: zone.to_owned(),
            target: Ref::<Gatehouse>::local(Namespace::zone(zone), 1).id(),
        };
        Ok(["east", "west", "north"].map(bind).into())
    })
}

/// Asks until it is answered.
fn ask<A: Message + Clone, R: Message + Send + 'static>(
    player: &mut Polled,
    zone: &str,
    method: &str,
    arguments: &A,
) -> R {
    let (start, (sender, answer)) = (Instant::now(), channel());
    let mut asked = false;
    loop {
        if !asked && player.core().is_bound(zone) {
            let sender = sender.clone();
            let then = move |_: &mut _, reply: Result<R, _>| drop(sender.send(reply));
            asked = player.request_then(zone, MethodId::of(method), arguments, then).is_ok();
        }
        while player.poll().is_some() {}
        match answer.try_recv() {
            Ok(Ok(answer)) => return answer,
            Ok(Err(_)) => asked = false,
            Err(_) => rest(),
        }
        assert!(start.elapsed() < PATIENCE, "{zone} does not answer");
    }
}

/// A process was of one zone at most, and whatever the attribute said, all zones shared a service.
#[test]
fn x19_the_cluster_file_says_of_which_zones_a_process_is() {
    let node = |name: &str, zone: &str| {
        format!(
            r#""{name}": {{"roles": ["node"], "workers": 1, "zone": {zone}, "listen": {{"mesh": "127.0.0.1:0"}}}}"#
        )
    };
    let others = [node("both", r#"["east", "west"]"#), node("north", r#""north""#)].join(",");
    let zones = r#""zones": {"east": {}, "west": {}, "north": {}},"#;
    let layout = Layout::with("gatehouses", zones, &others);
    let start = |process| layout.start_game("gatehouses", process, &[]);
    let mut gate = start("gate");
    let _both = start("both");
    let mut ann = stubborn_player(gate.address(), None);
    let mut pass = |zone: &str| ask::<_, u64>(&mut ann, zone, "pass", &());
    assert_eq!(["east", "east", "west"].map(&mut pass), [1, 2, 1]);
    // The north has nobody yet, and none of the others stands in for it.
    let mut far = |from: &str, to: &str| {
        ask::<_, (String, String)>(&mut ann, from, "elsewhere", &(to.to_owned(),))
    };
    let shown = |near: &str, far: &str| (near.to_owned(), far.to_owned());
    assert_eq!(far("west", "east"), shown("0", "2"));
    assert_eq!(far("east", "north"), shown("0", "not found"));
    let _north = start("north");
    assert_eq!(ask::<_, u64>(&mut ann, "north", "pass", &()), 1);
    let mut far = |from: &str, to: &str| {
        ask::<_, (String, String)>(&mut ann, from, "elsewhere", &(to.to_owned(),))
    };
    assert_eq!(far("north", "east"), shown("0", "2"));
    assert_eq!(far("east", "north"), shown("0", "1"));
}

/// Two who try something with one file, in one folder: neither sees the other's processes or lets the
/// other's players in, and what one keeps is not there for the other.
#[test]
fn a36_two_developers_with_one_cluster_file_never_see_each_other() {
    let layout = Layout::new("developers", "");
    let start = |process, developer: &str| {
        let setting = format!("developer={developer}");
        layout.start_game("bells", process, &["--set", &setting])
    };
    let player = |gate: &Address, developer: &str| {
        player_with(&derived_key(&KEY, developer), gate.clone(), 7, None)
    };
    let mut gates = ["ann", "bob"].map(|developer| start("gate", developer));
    let gates = [gates[0].address(), gates[1].address()];
    let _of_bob = start("node", "bob");
    let mut bob = player(&gates[1], "bob");
    assert_eq!(ring(&mut bob).0, 1);
    // Ann's ticket, and one of the keys in the file, are of no use there.
    for mut stranger in [player(&gates[1], "ann"), stubborn_player(gates[1].clone(), None)] {
        assert!(told(&mut stranger).contains("ticket"));
    }
    // Ann's gate has no node, although there is one.
    let mut ann = player(&gates[0], "ann");
    let waits = Instant::now();
    while waits.elapsed() < Duration::from_secs(2) {
        while ann.poll().is_some() {}
        assert!(!ann.core().is_bound("bell"));
        rest();
    }
    let _of_ann = start("node", "ann");
    assert_eq!(ring(&mut ann).0, 1);
    assert_eq!(ring(&mut bob).0, 2);
    assert_eq!(ring(&mut ann).0, 2);
}
