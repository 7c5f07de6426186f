use std::time::Duration;

use expect_test::expect;
use macros::{client, entity, rpc};
use node::rt::{Cx, Group, MethodId, Peer, Status};
use node::{
    Activation, Caller, ClientMessage, ClientOut, ClientRequest, Entity, HostOptions, PeerInfo,
    Ref, Target,
};
use proto::frame::CloseCode;
use proto::link::Slot;
use proto::{AccountId, EntityId, Incarnation, SessionId};

use crate::actor::short;
use crate::rig::{Rig, say, trace};

#[client(root = node::rt)]
trait Screen {
    #[sync]
    fn show(text: String);
    #[sync(latest)]
    fn score(points: u64);
    #[call(deadline = "1s")]
    fn confirm(question: String) -> bool;
}

/// Serves clients.
#[entity(root = node::rt)]
#[derive(Default)]
struct Desk {
    sum: u64,
    group: Option<Group<Screen>>,
}

#[rpc(root = node::rt)]
impl Desk {
    #[request(client)]
    fn add(&mut self, cx: &mut Cx<Self>, n: u64) -> u64 {
        self.sum += n;
        if let Caller::Client(peer) = cx.caller() {
            cx.client::<Screen>(&peer).show(format!("added {n}"));
        }
        self.sum
    }

    #[request(client)]
    async fn add_later(&mut self, cx: &mut Cx<Self>, n: u64, ms: u64) -> Result<u64, String> {
        cx.sleep(Duration::from_millis(ms)).await;
        if n > 100 {
            return Err("too much".into());
        }
        self.sum += n;
        Ok(self.sum)
    }

    #[request(client, deadline = "2s")]
    async fn never(&mut self, cx: &mut Cx<Self>) -> u64 {
        cx.sleep(Duration::from_secs(3_600)).await;
        say(format!("never ends, cancelled {}", cx.is_cancelled()));
        1
    }

    #[invoke]
    async fn hold(&mut self, cx: &mut Cx<Self>) -> bool {
        cx.sleep(Duration::from_secs(20)).await;
        true
    }

    #[tell(client)]
    fn say(&mut self, cx: &mut Cx<Self>, text: String) {
        let Caller::Client(peer) = cx.caller() else { panic!("not a client") };
        say(format!("{} of account {} says {text}", peer.stream(), peer.account().0));
    }

    #[tell(client, latest)]
    fn aim(&mut self, angle: u64) {
        say(format!("aims at {angle}"));
    }

    #[tell(client, latest(unit))]
    fn steer(&mut self, angle: u64, unit: u64) {
        say(format!("unit {unit} steers to {angle}"));
    }

    #[tell(client, rate = "2/s")]
    fn shout(&mut self, text: String) {
        say(format!("shouts {text}"));
    }

    #[request(client, level = 3)]
    fn ban(&mut self) -> bool {
        true
    }

    #[invoke]
    fn audit(&mut self) -> u64 {
        self.sum
    }

    #[request(client)]
    async fn ask_back(&mut self, cx: &mut Cx<Self>) -> String {
        let Caller::Client(peer) = cx.caller() else { panic!("not a client") };
        format!("{:?}", cx.client::<Screen>(&peer).confirm("sure?".into()).await)
    }

    #[tell(client)]
    fn gather(&mut self, cx: &mut Cx<Self>) {
        let group = cx.group::<Screen>("all");
        for peer in cx.peers() {
            group.join(cx, &peer);
        }
        cx.cast(&group).show("welcome".into());
        cx.cast(&group).score(7);
        self.group = Some(group);
    }

    #[request(client)]
    fn cast_again(&mut self, cx: &mut Cx<Self>) -> String {
        let Some(group) = &self.group else { return "no group".into() };
        match cx.cast(group).show("again".into()).ok() {
            Ok(()) => "sent".into(),
            Err(error) => error.to_string(),
        }
    }

    #[request(client)]
    fn send_to(&mut self, cx: &mut Cx<Self>, node: u64, key: u64) -> String {
        let Caller::Client(peer) = cx.caller() else { return "nobody".into() };
        let id = EntityId { kind: Attic::KIND.id, home: Incarnation(node), key };
        let attic = Ref::<Attic>::from_id(id).expect("its kind");
        cx.bind(&peer, "attic", attic).map_or_else(|error| short(&error), |()| "bound".into())
    }

    #[request(client)]
    fn send_up(&mut self, cx: &mut Cx<Self>) -> u64 {
        let Caller::Client(peer) = cx.caller() else { return 0 };
        let attic = cx.spawn(Attic).expect("it is offered");
        cx.bind(&peer, "attic", attic).expect("it is there");
        attic.key()
    }

    #[tell(client)]
    fn panic_now(&mut self) {
        panic!("told to");
    }

    #[hook]
    fn online(&mut self, cx: &mut Cx<Self>, peer: &Peer) {
        say(format!("online {}, {} peers", peer.account().0, cx.peers().len()));
    }

    #[hook]
    fn offline(&mut self, cx: &mut Cx<Self>, peer: &Peer, code: CloseCode) {
        say(format!("offline {} {code:?}, {} peers", peer.account().0, cx.peers().len()));
    }
}

#[entity(root = node::rt, room)]
struct Attic;

#[rpc(root = node::rt)]
impl Attic {}

struct Table {
    rig: Rig,
    target: Target,
}

impl Table {
    fn new() -> Self {
        Table::with(HostOptions::default())
    }

    fn with(options: HostOptions) -> Self {
        let mut rig = Rig::new(options);
        rig.host().register::<Desk>();
        let Activation::Ready(target) = rig.host().activate(Ref::<Desk>::keyed(1).id()) else {
            panic!("it is made at once");
        };
        Table { rig, target }
    }

    fn peer(&self, account: u64, level: u8) -> Peer {
        Peer::new(PeerInfo {
            slot: Slot { index: account as u32, generation: 1 },
            session: SessionId([account as u8; 16]),
            account: AccountId(account),
            level,
            handle: 1,
            stream: "desk".into(),
        })
    }

    fn send(
        &mut self,
        peer: &Peer,
        method: &str,
        body: Vec<u8>,
        tag: Option<u64>,
    ) -> Result<(), Status> {
        let request = tag.map(|tag| ClientRequest { tag, wait: None });
        self.send_as(peer, method, body, request)
    }

    fn send_as(
        &mut self,
        peer: &Peer,
        method: &str,
        body: Vec<u8>,
        request: Option<ClientRequest>,
    ) -> Result<(), Status> {
        let now = self.rig.now();
        let message = ClientMessage { method: MethodId::of_path(method), body: &body, request };
        let target = self.target;
        self.rig.host().deliver_client(now, target, peer, message)
    }

    /// What goes to clients, as text.
    fn out(&mut self) -> String {
        let mut text = String::new();
        let name = |method: MethodId| {
            let known = ["show", "score", "confirm"];
            known.into_iter().find(|name| MethodId::of(name) == method).unwrap_or("?")
        };
        self.rig.host().drain_clients(|out| {
            let line = match out {
                ClientOut::Push { peer, method, mode, body } => {
                    format!("push {} {} {mode:?} {}", peer.index, name(method), show(body))
                }
                ClientOut::Reply { peer, tag, status, body } => {
                    format!("reply {} to {tag} {status:?} {}", peer.index, show(body))
                }
                ClientOut::Call { peer, method, wait, body, .. } => {
                    format!("call {} {} {wait:?} {}", peer.index, name(method), show(body))
                }
                ClientOut::GroupCast { group, method, mode, body } => {
                    format!("cast {} {} {mode:?} {}", group.0.index, name(method), show(body))
                }
                ClientOut::GroupJoin { group, peer } => {
                    format!("join {} {}", group.0.index, peer.index)
                }
                ClientOut::GroupOpen { owner, group, name, .. } => {
                    format!("open {} {name} {}", group.0.index, owner.is_some())
                }
                other => format!("{other:?}"),
            };
            text.push_str(line.trim_end());
            text.push('\n');
        });
        // Modes of pushes name their key by a hash.
        text.lines()
            .map(|line| match line.split_once("Latest(") {
                Some((before, after)) => {
                    format!("{before}Latest{}\n", after.split_once(')').unwrap().1)
                }
                None => format!("{line}\n"),
            })
            .collect()
    }
}

fn show(body: &[u8]) -> String {
    if body.is_empty() {
        return String::new();
    }
    proto::codec::Dump { bytes: body, chars_max: 100 }.to_string()
}

#[test]
fn request_is_answered_after_what_its_handler_pushed() {
    let mut table = Table::new();
    let peer = table.peer(7, 0);
    table.send(&peer, "add", proto::encode(&(5u64,)), Some(41)).unwrap();
    table.send(&peer, "add", proto::encode(&(6u64,)), Some(42)).unwrap();
    table.rig.settle();
    expect![[r#"
        push 7 show Reliable ["added 5"]
        reply 7 to 41 Ok 5
        push 7 show Reliable ["added 6"]
        reply 7 to 42 Ok 11
    "#]]
    .assert_eq(&table.out());
}

#[test]
fn every_request_taken_gets_exactly_one_reply() {
    let mut table = Table::new();
    let peer = table.peer(7, 0);
    table.send(&peer, "add_later", proto::encode(&(5u64, 10u64)), Some(1)).unwrap();
    table.send(&peer, "add_later", proto::encode(&(500u64, 10u64)), Some(2)).unwrap();
    table.send(&peer, "panic_now", vec![0x90], None).unwrap();
    table.send(&peer, "add", proto::encode(&(1u64,)), Some(3)).unwrap();
    table.rig.pass(Duration::from_secs(1));
    expect![[r#"
        reply 7 to 1 Ok 5
        reply 7 to 2 App "too much"
        push 7 show Reliable ["added 1"]
        reply 7 to 3 Ok 1
    "#]]
    .assert_eq(&table.out());
    // Also when the entity goes away under it, and when it waits too long to be handled.
    table.send(&peer, "add_later", proto::encode(&(5u64, 60_000u64)), Some(4)).unwrap();
    table.send(&peer, "add", proto::encode(&(5u64,)), Some(5)).unwrap();
    table.rig.pass(Duration::from_secs(3));
    assert_eq!(table.out(), "");
    let id = Ref::<Desk>::keyed(1).id();
    assert!(table.rig.host().destroy(id, CloseCode::Goodbye));
    table.rig.settle();
    // The turn saw its sleep end early and could still answer.
    expect![[r#"
        reply 7 to 5 Gone
        reply 7 to 4 Ok 6
    "#]]
    .assert_eq(&table.out());
    assert_eq!(table.send(&peer, "add", proto::encode(&(5u64,)), Some(6)), Err(Status::Gone));
}

#[test]
fn who_may_call_is_checked_before_anything_is_decoded() {
    let mut table = Table::new();
    let (guest, admin) = (table.peer(7, 0), table.peer(8, 3));
    let rubbish = || vec![0xc1, 0xff];
    // Only servers may.
    assert_eq!(table.send(&guest, "audit", rubbish(), Some(1)), Err(Status::Denied));
    // Nobody may.
    assert_eq!(table.send(&guest, "online", rubbish(), None), Err(Status::UnknownMethod));
    // A request for a tell, a tell for a request.
    assert_eq!(table.send(&guest, "say", rubbish(), Some(1)), Err(Status::Denied));
    assert_eq!(table.send(&guest, "add", rubbish(), None), Err(Status::Denied));
    // Level.
    assert_eq!(table.send(&guest, "ban", rubbish(), Some(1)), Err(Status::Denied));
    assert_eq!(table.send(&admin, "ban", rubbish(), Some(1)), Err(Status::BadArgument));
    assert_eq!(table.send(&admin, "ban", proto::encode(&()), Some(1)), Err(Status::BadArgument));
    assert_eq!(table.send(&admin, "ban", vec![0x90], Some(1)), Ok(()));
    // Missing arguments are errors.
    assert_eq!(table.send(&guest, "add", vec![0x90], Some(1)), Err(Status::BadArgument));
    table.rig.settle();
    expect![[r#"
        reply 8 to 1 Ok true
    "#]]
    .assert_eq(&table.out());
    let stats = table.rig.host().stats();
    assert_eq!((stats.denied, stats.bad_arguments), (4, 3));
    // By method, also those that never ran.
    let methods = table.rig.host().method_stats();
    let refused: Vec<String> = methods
        .iter()
        .filter(|(.., stats)| stats.refused > 0)
        .map(|(kind, path, stats)| format!("{kind}.{path} {}", stats.refused))
        .collect();
    assert_eq!(refused, ["desk.add 2", "desk.say 1", "desk.ban 3", "desk.audit 1"]);
}

#[test]
fn identity_comes_from_the_session() {
    let mut table = Table::new();
    for account in [7, 8] {
        let peer = table.peer(account, 0);
        table.send(&peer, "say", proto::encode(&("hi".to_owned(),)), None).unwrap();
    }
    table.rig.settle();
    expect![[r#"
        desk of account 7 says hi
        desk of account 8 says hi
    "#]]
    .assert_eq(&trace());
}

#[test]
fn latest_tell_replaces_the_older_one_that_waits() {
    let mut table = Table::new();
    let (one, two) = (table.peer(7, 0), table.peer(8, 0));
    for angle in [10u64, 20, 30] {
        table.send(&one, "aim", proto::encode(&(angle,)), None).unwrap();
        table.send(&one, "say", proto::encode(&(angle.to_string(),)), None).unwrap();
    }
    table.send(&two, "aim", proto::encode(&(99u64,)), None).unwrap();
    table.rig.settle();
    expect![[r#"
        desk of account 7 says 10
        desk of account 7 says 20
        aims at 30
        desk of account 7 says 30
        aims at 99
    "#]]
    .assert_eq(&trace());
    assert_eq!(table.rig.host().stats().replaced, 2);
}

/// `latest(argument)` had no effect at the server: in a full mailbox nothing was replaced at all.
#[test]
fn a27_latest_of_an_argument_replaces_only_the_same_value() {
    let mut table = Table::with(HostOptions { mailbox_max: 4, ..HostOptions::default() });
    let (one, two) = (table.peer(7, 0), table.peer(8, 0));
    let steer = |table: &mut Table, peer: &Peer, angle: u64, unit: u64| {
        table.send(peer, "steer", proto::encode(&(angle, unit)), None)
    };
    for angle in [10, 20, 30] {
        assert_eq!(steer(&mut table, &one, angle, 1), Ok(()));
        assert_eq!(steer(&mut table, &one, angle, 2_000), Ok(()));
        assert_eq!(steer(&mut table, &two, angle, 1), Ok(()));
    }
    // Full with others: what has a key that waits still gets in, what has none does not.
    assert_eq!(table.send(&one, "aim", proto::encode(&(5u64,)), None), Ok(()));
    assert_eq!(steer(&mut table, &one, 40, 1), Ok(()));
    assert_eq!(steer(&mut table, &one, 40, 3), Err(Status::Busy));
    // What cannot be read replaces nothing.
    assert_eq!(table.send(&one, "steer", vec![0x90], None), Err(Status::BadArgument));
    table.rig.settle();
    expect![[r#"
        unit 2000 steers to 30
        unit 1 steers to 30
        aims at 5
        unit 1 steers to 40
    "#]]
    .assert_eq(&trace());
    assert_eq!(table.rig.host().stats().replaced, 7);
}

#[test]
fn rate_of_a_method_holds_per_client() {
    let mut table = Table::new();
    let (one, two) = (table.peer(7, 0), table.peer(8, 0));
    let text = || proto::encode(&("x".to_owned(),));
    let shout = |table: &mut Table, peer: &Peer| table.send(peer, "shout", text(), None).is_ok();
    assert_eq!([(); 4].map(|()| shout(&mut table, &one)), [true, true, false, false]);
    assert!(shout(&mut table, &two));
    table.rig.pass(Duration::from_millis(500));
    assert_eq!([(); 2].map(|()| shout(&mut table, &one)), [true, false]);
    assert_eq!(one.refused(), 3);
}

#[test]
fn full_mailbox_refuses_clients_at_once() {
    let mut table = Table::with(HostOptions { mailbox_max: 2, ..HostOptions::default() });
    let peer = table.peer(7, 0);
    let text = || proto::encode(&("x".to_owned(),));
    assert_eq!(table.send(&peer, "say", text(), None), Ok(()));
    assert_eq!(table.send(&peer, "say", text(), None), Ok(()));
    assert_eq!(table.send(&peer, "say", text(), None), Err(Status::Busy));
}

#[test]
fn server_calls_client_and_waits_no_longer_than_its_deadline() {
    let mut table = Table::new();
    let peer = table.peer(7, 0);
    table.send(&peer, "ask_back", vec![0x90], Some(1)).unwrap();
    table.rig.settle();
    let mut tag = 0;
    table.rig.host().drain_clients(|out| {
        if let ClientOut::Call { tag: of, wait, .. } = out {
            assert_eq!(wait, Duration::from_secs(1));
            tag = of;
        }
    });
    table.rig.host().client_answered(tag, Status::Ok, &proto::encode(&true));
    table.rig.settle();
    expect![[r#"
        reply 7 to 1 Ok "Ok(true)"
    "#]]
    .assert_eq(&table.out());
    // Silent, then too late.
    table.send(&peer, "ask_back", vec![0x90], Some(2)).unwrap();
    table.rig.pass(Duration::from_millis(1_010));
    let out = table.out();
    assert!(out.contains("reply 7 to 2 Ok \"Err(Timeout"), "{out}");
    table.rig.host().client_answered(tag + 1, Status::Ok, &proto::encode(&true));
    assert_eq!(table.rig.host().stats().late_replies, 1);
    // Gone.
    table.send(&peer, "ask_back", vec![0x90], Some(3)).unwrap();
    table.rig.settle();
    let target = table.target;
    table.rig.host().offline(target, &peer, CloseCode::Goodbye, true);
    table.rig.settle();
    let out = table.out();
    assert!(out.contains("reply 7 to 3 Ok \"Err(Gone"), "{out}");
    assert_eq!(table.rig.host().stats().client_calls, 0);
}

#[test]
fn bound_clients_are_known_and_can_be_grouped() {
    let mut table = Table::new();
    let (one, two) = (table.peer(7, 0), table.peer(8, 0));
    let target = table.target;
    table.rig.host().online(target, &one);
    table.rig.host().online(target, &two);
    table.send(&one, "gather", vec![0x90], None).unwrap();
    table.rig.settle();
    expect![[r#"
        open 1 all true
        join 1 7
        join 1 8
        cast 1 show Reliable ["welcome"]
        cast 1 score Latest [7]
    "#]]
    .assert_eq(&table.out());
    // Away, back, and gone for good.
    table.rig.host().offline(target, &one, CloseCode::Idle, false);
    table.rig.settle();
    table.rig.host().online(target, &one);
    table.rig.settle();
    table.rig.host().offline(target, &one, CloseCode::Goodbye, true);
    table.rig.settle();
    expect![[r#"
        online 7, 2 peers
        online 8, 2 peers
        offline 7 Idle, 2 peers
        online 7, 2 peers
        offline 7 Goodbye, 1 peers
    "#]]
    .assert_eq(&trace());
}

/// Sending a player to a room that had just ended did nothing, and the player waited for ever.
#[test]
fn a_bind_that_leads_nowhere_is_an_error_to_its_entity() {
    let mut table = Table::new();
    table.rig.host().register::<Attic>();
    let peer = table.peer(7, 0);
    table.send(&peer, "send_up", vec![0x90], Some(1)).unwrap();
    table.rig.settle();
    let out = table.out();
    assert!(out.starts_with("Bind {") && out.contains("reply 7 to 1 Ok 256"), "{out}");
    let to = |node: u64, key: u64| proto::encode(&(node, key));
    table.send(&peer, "send_to", to(1, 256), Some(2)).unwrap();
    table.rig.settle();
    assert!(table.out().contains("reply 7 to 2 Ok \"bound\""));
    // Ended; never made; on a worker that there is not; a room by its key.
    let id = EntityId { kind: Attic::KIND.id, home: Incarnation(1), key: 256 };
    assert!(table.rig.host().destroy(id, CloseCode::Goodbye));
    for (tag, (node, key)) in (3..).zip([(1, 256), (1, 99 << 8), (1, 9), (0, 5)]) {
        table.send(&peer, "send_to", to(node, key), Some(tag)).unwrap();
    }
    table.rig.settle();
    expect![[r#"
        reply 7 to 3 Ok "Gone(256)"
        reply 7 to 4 Ok "NotFound(25344)"
        reply 7 to 5 Ok "NotFound(9)"
        reply 7 to 6 Ok "NotFound(5)"
    "#]]
    .assert_eq(&table.out());
}

/// A push to a group that was gone went nowhere, and whoever sent it never knew.
#[test]
fn a30_a_cast_to_a_closed_group_is_an_error_to_its_sender() {
    let mut table = Table::new();
    let peer = table.peer(7, 0);
    table.send(&peer, "gather", vec![0x90], None).unwrap();
    table.send(&peer, "cast_again", vec![0x90], Some(1)).unwrap();
    let mut group = None;
    table.rig.settle();
    table.rig.host().drain_clients(|out| {
        if let ClientOut::GroupOpen { group: opened, .. } = out {
            group = Some(opened);
        }
    });
    // The worker had no room for it, for one.
    table.rig.host().group_gone(group.unwrap());
    table.send(&peer, "cast_again", vec![0x90], Some(2)).unwrap();
    table.rig.settle();
    expect![[r#"
        reply 7 to 2 Ok "the group is closed: open another one with `cx.group`"
    "#]]
    .assert_eq(&table.out());
}

/// A handler that waited kept its entity for as long as it liked: the client had long given up,
/// everybody behind it ran into their own deadlines, and the request stayed open at the server.
#[test]
fn a14_a_clients_request_ends_at_its_deadline() {
    let mut table = Table::new();
    let peer = table.peer(7, 0);
    table.send(&peer, "never", vec![0x90], Some(1)).unwrap();
    table.send(&peer, "add", proto::encode(&(5u64,)), Some(2)).unwrap();
    table.rig.pass(Duration::from_millis(1_990));
    assert_eq!(table.out(), "");
    table.rig.pass(Duration::from_millis(20));
    expect![[r#"
        reply 7 to 1 Timeout
        push 7 show Reliable ["added 5"]
        reply 7 to 2 Ok 5
    "#]]
    .assert_eq(&table.out());
    expect![[r#"
        never ends, cancelled true
    "#]]
    .assert_eq(&trace());
    // What the handler gave in the end reached nobody: one answer each.
    let stats = table.rig.host().stats();
    assert_eq!((stats.turns, stats.late_replies, stats.timeouts), (0, 1, 1));
    assert!(table.rig.host().is_quiet());
}

#[test]
fn a14_the_smaller_of_the_methods_and_the_clients_time_counts() {
    let mut table = Table::new();
    let peer = table.peer(7, 0);
    let ask = |table: &mut Table, method: &str, body: Vec<u8>, wait_ms: u64| {
        let wait = Some(Duration::from_millis(wait_ms));
        let request = Some(ClientRequest { tag: wait_ms, wait });
        table.send_as(&peer, method, body, request).unwrap();
        let begun = table.rig.millis();
        loop {
            table.rig.pass(Duration::from_millis(10));
            let out = table.out();
            if !out.is_empty() {
                return format!("{} after {}ms", out.trim(), table.rig.millis() - begun);
            }
        }
    };
    let never = vec![0x90];
    assert_eq!(
        ask(&mut table, "never", never.clone(), 60_000),
        "reply 7 to 60000 Timeout after 2010ms"
    );
    assert_eq!(ask(&mut table, "never", never, 500), "reply 7 to 500 Timeout after 510ms");
    // A method without a time of its own takes the client's, up to a minute.
    let later = |ms: u64| proto::encode(&(1u64, ms));
    assert_eq!(
        ask(&mut table, "add_later", later(9_000), 10_000),
        "reply 7 to 10000 Ok 1 after 9000ms"
    );
    let out = ask(&mut table, "add_later", later(90_000), 3_600_000);
    assert_eq!(out, "reply 7 to 3600000 Timeout after 60010ms");
}

#[test]
fn a14_a_request_that_waits_behind_others_leaves_the_mailbox_at_its_deadline() {
    let mut table = Table::new();
    let peer = table.peer(7, 0);
    let outside = table.rig.outside();
    let held = outside.entity::<Desk>(1).hold().deadline(Duration::from_secs(60));
    table.rig.start("held", held);
    for tag in 1..=3 {
        table.send(&peer, "add", proto::encode(&(tag,)), Some(tag)).unwrap();
        table.send(&peer, "say", proto::encode(&(tag.to_string(),)), None).unwrap();
    }
    table.rig.pass(Duration::from_millis(4_010));
    expect![[r#"
        reply 7 to 1 Timeout
        reply 7 to 2 Timeout
        reply 7 to 3 Timeout
    "#]]
    .assert_eq(&table.out());
    let stats = table.rig.host().stats();
    assert_eq!((stats.kinds[0].mail, stats.expired_mail, stats.turns), (3, 3, 1));
    table.rig.pass(Duration::from_secs(20));
    expect![[r#"
        desk of account 7 says 1
        desk of account 7 says 2
        desk of account 7 says 3
        20000ms held: Ok(true)
    "#]]
    .assert_eq(&trace());
    assert_eq!(table.out(), "");
}

#[test]
fn a14_requests_end_with_the_stream_of_their_client() {
    let mut table = Table::new();
    let (one, two) = (table.peer(7, 0), table.peer(8, 0));
    table.send(&one, "never", vec![0x90], Some(1)).unwrap();
    table.send(&one, "add", proto::encode(&(5u64,)), Some(2)).unwrap();
    table.send(&two, "add", proto::encode(&(6u64,)), Some(3)).unwrap();
    table.rig.settle();
    let target = table.target;
    // Away is not gone: it may come back for its answer.
    table.rig.host().offline(target, &one, CloseCode::Idle, false);
    table.rig.settle();
    assert_eq!(table.out(), "");
    table.rig.host().offline(target, &one, CloseCode::Goodbye, true);
    table.rig.settle();
    // The one under way came to its end, the one that waited never began.
    expect![[r#"
        reply 7 to 2 Timeout
        reply 7 to 1 Ok 1
        push 8 show Reliable ["added 6"]
        reply 8 to 3 Ok 6
    "#]]
    .assert_eq(&table.out());
    assert_eq!(table.rig.host().stats().turns, 0);
}
