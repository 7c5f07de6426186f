//! One frame of every kind, and more where a field can be special.

use proto::frame::{CloseCode, DownFrame, Seen, SeenGroup, Status, StreamUp, UpFrame, Welcome};
use proto::link::{
    Act, Admission, Call, Check, Forward, GroupId, HandOver, HandedState, HandedStream, Held,
    HomeFrame, Leads, LinkFrame, MoveStep, Named, Past, Present, PushTo, Report, Select, Selected,
    Shift, Slot, Tag, Wanted, Whom, WorkerId,
};
use proto::{AccountId, EntityId, Incarnation, KindId, MethodId, SessionId};

const BIG: u64 = u64::MAX;
const METHOD: MethodId = MethodId(0x0102_0304);
const KIND: KindId = KindId(0xdead_beef);
const SESSION: SessionId = SessionId([0xab; 16]);
const ACCOUNT: AccountId = AccountId(77);
const CONN: Slot = Slot { index: 5, generation: 300 };
const SLOT: Slot = Slot { index: u32::MAX, generation: u32::MAX };
const GATE: WorkerId = WorkerId { node: Incarnation(0x1122_3344_5566_7788), worker: 3 };
const OWNER: WorkerId = WorkerId { node: Incarnation(9), worker: 255 };
const GROUP: GroupId = GroupId { node: Incarnation(9), worker: 1, slot: CONN };

/// A client's frames, with names for vectors.
pub fn up() -> Vec<(&'static str, UpFrame<'static>)> {
    let stream = |stream, frame| UpFrame::Stream { stream, frame };
    vec![
        ("hello", UpFrame::Hello { version: 1, features: 0, interface: BIG, agent: "test 1.0" }),
        (
            "hello without agent",
            UpFrame::Hello { version: 1, features: 300, interface: 0, agent: "" },
        ),
        ("login", UpFrame::Login { ticket: b"a ticket", proof: [0x11; 32] }),
        (
            "resume",
            UpFrame::Resume {
                token: b"a token",
                proof: [0x22; 32],
                generation: 2,
                streams: vec![
                    Seen { handle: 1, number: 0 },
                    Seen { handle: u32::MAX, number: 1 << 40 },
                ],
                groups: vec![SeenGroup { group: u32::MAX, stream: 1, number: 8 }],
            },
        ),
        (
            "resume of nothing",
            UpFrame::Resume {
                token: b"",
                proof: [0; 32],
                generation: 1,
                streams: vec![],
                groups: vec![],
            },
        ),
        ("tell", stream(1, StreamUp::Tell { number: 1, ack: 0, method: METHOD, body: &[0x90] })),
        (
            "tell that may be lost",
            stream(1, StreamUp::Tell { number: 0, ack: 3, method: METHOD, body: &[0x91, 0x05] }),
        ),
        (
            "request",
            stream(
                300,
                StreamUp::Request {
                    number: 129,
                    ack: 128,
                    method: METHOD,
                    deadline_ms: 4000,
                    body: &[0x92, 0x01, 0xa1, 0x61],
                },
            ),
        ),
        (
            "request without body",
            stream(
                1,
                StreamUp::Request { number: 2, ack: 0, method: METHOD, deadline_ms: 0, body: &[] },
            ),
        ),
        (
            "answer",
            stream(
                1,
                StreamUp::Answer { number: 3, ack: 1, call: 1, status: Status::Ok, body: &[0xc3] },
            ),
        ),
        (
            "answer with the method's error",
            stream(
                1,
                StreamUp::Answer {
                    number: 4,
                    ack: 2,
                    call: BIG,
                    status: Status::App,
                    body: &[0x00],
                },
            ),
        ),
        ("ack", stream(1, StreamUp::Ack { ack: 70_000 })),
        ("ping", UpFrame::Ping { token: 0 }),
        ("pong", UpFrame::Pong { token: BIG }),
        ("close", UpFrame::Close { code: CloseCode::Goodbye, reason: "" }),
    ]
}

/// A gate's frames to a client.
pub fn down() -> Vec<(&'static str, DownFrame<'static>)> {
    let welcome = |resumed| {
        DownFrame::Welcome(Welcome {
            session: SESSION,
            generation: 1,
            resumed,
            token: b"a token",
            resume_window_ms: 60_000,
            heartbeat_ms: 6_000,
            frame_bytes_max: 65_536,
        })
    };
    vec![
        (
            "challenge",
            DownFrame::Challenge {
                version: 1,
                features: 0,
                nonce: [0x33; 16],
                wall_ms: 1_800_000_000_000,
            },
        ),
        ("welcome after login", welcome(false)),
        ("welcome after resume", welcome(true)),
        ("bound", DownFrame::Bound { stream: 1, kind: KIND, epoch: 1, name: "avatar" }),
        ("unbound", DownFrame::Unbound { stream: 1, code: CloseCode::GoingAway }),
        ("resumed", DownFrame::Resumed { stream: 1, epoch: 2, applied: 40, durable: 30 }),
        (
            "reply",
            DownFrame::Reply {
                stream: 1,
                number: 1,
                ack: 1,
                request: 1,
                status: Status::Ok,
                body: &[0x05],
            },
        ),
        (
            "reply timeout",
            DownFrame::Reply {
                stream: 1,
                number: 2,
                ack: 2,
                request: 2,
                status: Status::Timeout,
                body: &[],
            },
        ),
        (
            "push",
            DownFrame::Push { stream: 1, number: 3, ack: 2, method: METHOD, body: &[0x91, 0xc0] },
        ),
        (
            "call",
            DownFrame::Call {
                stream: 1,
                number: 4,
                ack: 2,
                call: 1,
                deadline_ms: 2000,
                method: METHOD,
                body: &[0x90],
            },
        ),
        ("ack", DownFrame::Ack { stream: 1, applied: 9, durable: 8 }),
        (
            "cast to a live group",
            DownFrame::Cast { group: 7, number: 0, method: METHOD, body: &[0x91, 0x01] },
        ),
        (
            "cast to a reliable group",
            DownFrame::Cast { group: u32::MAX, number: BIG, method: METHOD, body: &[] },
        ),
        ("joined", DownFrame::Joined { group: 7, stream: 1, kind: KIND, number: 12, name: "düne" }),
        ("left", DownFrame::Left { group: 7, stream: 300 }),
        ("fault", DownFrame::Fault { stream: 1, number: 5, status: Status::Unavailable }),
        ("ping", DownFrame::Ping { token: 12 }),
        ("pong", DownFrame::Pong { token: 0 }),
        ("close", DownFrame::Close { code: CloseCode::Kicked, reason: "be nice" }),
    ]
}

/// Frames between workers.
pub fn link() -> Vec<LinkFrame<'static>> {
    let (conn, session, account, generation) = (CONN, SESSION, ACCOUNT, 2);
    let seen = || vec![Seen { handle: 1, number: 2 }];
    let room = EntityId { kind: KIND, home: Incarnation(9), key: 0x0103 };
    let avatar = EntityId::keyed(KIND, BIG);
    vec![
        LinkFrame::Hello {
            version: 1,
            cluster: "test",
            from: GATE,
            name: "gate-1",
            nonce: [4; 16],
        },
        LinkFrame::Prove { proof: [5; 32] },
        LinkFrame::Ping { token: 1 },
        LinkFrame::Pong { token: BIG },
        LinkFrame::Begin { number: 300 },
        LinkFrame::Up { slot: SLOT, frame: &[4, 1, 0, 4, 3, 2, 1, 0x90] },
        LinkFrame::Down { conn, frame: &[0x19, 1, 2, 0] },
        LinkFrame::Cast { group: GROUP, frame: &[0, 4, 3, 2, 1] },
        LinkFrame::Join {
            group: GROUP,
            conn,
            stream: 2,
            handle: GROUP.handle(),
            kind: KIND,
            number: 3,
            name: "g",
        },
        LinkFrame::Leave { group: GROUP, conn, stream: 2 },
        LinkFrame::Disband { group: GROUP },
        LinkFrame::Open(Admission {
            conn,
            session,
            account,
            expires_ms: 1_800_000_000_000,
            since_ms: 1_799_999_940_000,
            level: 2,
            name: "Ada",
            address: "::1",
        }),
        LinkFrame::Resume {
            conn,
            session,
            account,
            level: 2,
            generation,
            streams: seen(),
            groups: vec![SeenGroup { group: 7, stream: 1, number: 2 }],
        },
        LinkFrame::Detached { conn, session, account, generation, code: CloseCode::Idle },
        LinkFrame::Logout { session, account, generation },
        LinkFrame::Welcome {
            conn,
            session,
            account,
            generation,
            resumed: true,
            resume_window_ms: 60_000,
        },
        LinkFrame::Close { conn, code: CloseCode::Replaced, reason: "elsewhere" },
        LinkFrame::Route {
            conn,
            stream: 1,
            owner: OWNER,
            slot: SLOT,
            kind: KIND,
            epoch: 1,
            name: "avatar",
            announce: true,
        },
        LinkFrame::Unroute { conn, stream: 1, code: CloseCode::SessionLost },
        LinkFrame::Bind {
            session,
            account,
            level: 2,
            stream: 1,
            target: avatar,
            home: OWNER,
            gate: GATE,
            conn,
            generation,
            name: "avatar",
        },
        LinkFrame::Bound { session, account, stream: 1, slot: SLOT, epoch: 4 },
        LinkFrame::NotBound { session, account, stream: 1, status: Status::NotFound },
        LinkFrame::Attach { slot: SLOT, gate: GATE, conn, generation, seen: 5, groups: seen() },
        LinkFrame::Detach { slot: SLOT, generation, code: CloseCode::Idle },
        LinkFrame::Unbind { slot: SLOT, code: CloseCode::Goodbye },
        LinkFrame::Lost { session, account, stream: 1, code: CloseCode::SlowReader },
        LinkFrame::Rebind { session, account, name: "battle", target: room },
        LinkFrame::Release { session, account, name: "battle" },
        LinkFrame::Kick { account, session, code: CloseCode::Kicked, reason: "rule 3" },
        LinkFrame::Call(Call {
            call: Some(SLOT),
            from: OWNER,
            target: room,
            method: METHOD,
            remaining_ms: 3999,
            sender: Some(room),
            chain: vec![avatar],
            body: &[0x90],
        }),
        LinkFrame::Call(Call {
            call: None,
            from: OWNER,
            target: avatar,
            method: METHOD,
            remaining_ms: 0,
            sender: None,
            chain: vec![],
            body: &[],
        }),
        LinkFrame::Answer { call: SLOT, status: Status::Ok, body: &[0xc0] },
        LinkFrame::Cancel { call: SLOT },
        LinkFrame::Probe { origin: GATE, call: SLOT, target: room, seen: 1 },
        LinkFrame::Ring { call: SLOT },
        LinkFrame::GiveBack { entity: avatar },
        LinkFrame::StoreAway,
        LinkFrame::Move { entity: avatar, number: 9, step: MoveStep::Last, body: &[1, 2] },
        LinkFrame::Moved { entity: avatar, at: OWNER },
        LinkFrame::Forwarded { from: GATE, hops: 1, payload: &[0x63, 0] },
        LinkFrame::Marker { entity: avatar, number: 300 },
        LinkFrame::Passed { entity: avatar, number: 300 },
        LinkFrame::StreamPassed {
            entity: avatar,
            session: SESSION,
            stream: 2,
            from: GATE,
            to: OWNER,
            payload: &[0x10, 0],
        },
        LinkFrame::StreamMoved { session: SESSION, account: AccountId(7), stream: 2, slot: SLOT },
        LinkFrame::Tag(Tag {
            session: SESSION,
            account: AccountId(7),
            logged_in: true,
            tags: vec!["zone:1", "vip"],
        }),
        LinkFrame::Select(Select {
            ticket: 5,
            whom: Whom::Accounts(vec![AccountId(7), AccountId(300)]),
            tags: vec!["vip"],
            except: vec![AccountId(8)],
            act: Act::Push { method: METHOD, mode: PushTo::Latest(3), body: &[0x91, 0x01] },
        }),
        LinkFrame::Select(Select {
            ticket: 6,
            whom: Whom::LoggedIn,
            tags: vec![],
            except: vec![],
            act: Act::Kick { code: CloseCode::GoingAway, reason: "restart" },
        }),
        LinkFrame::Select(Select {
            ticket: 7,
            whom: Whom::All,
            tags: vec![],
            except: vec![],
            act: Act::Look { first: AccountId(300), max: 100 },
        }),
        LinkFrame::Selected(Selected {
            ticket: 5,
            reached: 1,
            unknown: vec![AccountId(300)],
            present: vec![],
        }),
        LinkFrame::Selected(Selected {
            ticket: 7,
            reached: 2,
            unknown: vec![],
            present: vec![
                Present {
                    account: AccountId(300),
                    since_ms: 1_700_000_000_000,
                    logged_in: true,
                    gate: Some(GATE),
                },
                Present { account: AccountId(301), since_ms: 0, logged_in: false, gate: None },
            ],
        }),
        LinkFrame::Forward(Forward {
            slot: SLOT,
            method: METHOD,
            mode: PushTo::Reliable,
            body: &[0x91, 0x01],
        }),
        LinkFrame::Publish { subject: "zone.1.news", body: &[0x91, 0x01] },
        LinkFrame::Listen { subject: "zone.1.news", on: true },
        LinkFrame::Relay { subject: "zone.1.news", body: &[0x91, 0x01] },
    ]
    .into_iter()
    .chain(homes())
    .chain(shifts())
    .collect()
}

fn homes() -> Vec<LinkFrame<'static>> {
    let (session, account) = (SESSION, ACCOUNT);
    let avatar = EntityId { kind: KIND, home: Incarnation::NONE, key: 300 };
    let room = EntityId { kind: KIND, home: Incarnation(9), key: 1 };
    let agent = Named { stream: 1, target: avatar, name: "agent" };
    let arena = Named { stream: 300, target: room, name: "room" };
    let handed = |stream, state| {
        let (required, lasting) = (true, false);
        let (is_doubtful, is_contested, may_be_told, tries) = (false, true, true, 2);
        HandedStream {
            stream,
            required,
            lasting,
            is_doubtful,
            is_contested,
            may_be_told,
            tries,
            state,
        }
    };
    let groups = vec![Seen { handle: 6, number: 400 }];
    let session_on_its_way = |conn, streams| {
        HomeFrame::HandOver(HandOver {
            ticket: 300,
            session,
            account,
            level: 2,
            generation: 3,
            since_ms: 1_700_000_000_000,
            next_stream: 301,
            given: vec![1..4, 65_536..65_537],
            gate: GATE,
            conn,
            left_ms: 60_000,
            logged_in: true,
            tags: vec!["vip"],
            streams,
        })
    };
    let report = |conn| {
        HomeFrame::Report(Report {
            conn,
            session,
            account,
            level: 2,
            generation: 3,
            since_ms: 1_700_000_000_000,
            lost: OWNER,
            last_stream: 300,
            streams: vec![agent, arena],
        })
    };
    let held = |tags| {
        HomeFrame::Held(Held {
            session,
            account,
            level: 2,
            generation: 3,
            slot: SLOT,
            lost: OWNER,
            stream: agent,
            tags,
        })
    };
    let frames = vec![
        HomeFrame::Wanted(Wanted { conn: CONN, since_ms: 1, streams: vec![agent, arena] }),
        HomeFrame::Homed { conn: CONN, session, account, generation: 3 },
        HomeFrame::Adopt { slot: SLOT, session, account, stream: 1 },
        HomeFrame::Unlisted { slot: SLOT },
        HomeFrame::Check(Check {
            slot: SLOT,
            session,
            account,
            stream: 1,
            generation: 3,
            is_attached: true,
        }),
        HomeFrame::Leads(Leads {
            conn: CONN,
            session,
            account,
            generation: 3,
            streams: vec![1, 300],
        }),
        HomeFrame::Seek { session, account },
        HomeFrame::Sought { session, account, is_here: true },
        report(Some(CONN)),
        report(None),
        held(None),
        held(Some((true, vec!["vip", "zone:1"]))),
        HomeFrame::Over { session, account, code: CloseCode::Kicked },
        session_on_its_way(
            Some(CONN),
            vec![
                handed(agent, HandedState::Bound { owner: OWNER, slot: SLOT }),
                handed(arena, HandedState::Asked { owner: OWNER, generation: 3, seen: 9, groups }),
                handed(agent, HandedState::Pausing),
            ],
        ),
        session_on_its_way(None, vec![]),
        HomeFrame::Past(Past {
            ticket: 301,
            used: vec![(session, account, 1_700_000_000_000)],
            ended: vec![(session, account, CloseCode::Replaced, 60_000)],
        }),
        HomeFrame::Taken { ticket: 300 },
        HomeFrame::Pass { from: GATE, hops: 1, payload: &[0x49, 7] },
        HomeFrame::Settled { layout: BIG },
    ];
    frames.into_iter().map(LinkFrame::Home).collect()
}

/// Of connections that go on at another gate.
fn shifts() -> Vec<LinkFrame<'static>> {
    let (session, account) = (SESSION, ACCOUNT);
    let to = Slot { index: 300, generation: 2 };
    let frames = [
        Shift::Session { conn: CONN, session, account, generation: 3, gate: GATE, to },
        Shift::SessionDone { conn: CONN, streams: Some(vec![1, 300]) },
        Shift::SessionDone { conn: CONN, streams: None },
        Shift::Stream { slot: SLOT, conn: CONN, stream: 300, gate: GATE, to },
        Shift::StreamDone { conn: CONN, stream: 300, done: true },
        Shift::StreamDone { conn: CONN, stream: 300, done: false },
        Shift::Member { group: GROUP, conn: to, stream: 1 },
    ];
    frames.into_iter().map(LinkFrame::Shift).collect()
}

/// Names the kind of a client's frame. Fails to compile when a kind is added, so that a sample
/// is added too.
pub fn up_kind(frame: &UpFrame<'_>) -> &'static str {
    match frame {
        UpFrame::Hello { .. } => "hello",
        UpFrame::Login { .. } => "login",
        UpFrame::Resume { .. } => "resume",
        UpFrame::Stream { frame: StreamUp::Tell { .. }, .. } => "tell",
        UpFrame::Stream { frame: StreamUp::Request { .. }, .. } => "request",
        UpFrame::Stream { frame: StreamUp::Answer { .. }, .. } => "answer",
        UpFrame::Stream { frame: StreamUp::Ack { .. }, .. } => "ack",
        UpFrame::Ping { .. } => "ping",
        UpFrame::Pong { .. } => "pong",
        UpFrame::Close { .. } => "close",
    }
}

/// As [`up_kind`].
pub fn down_kind(frame: &DownFrame<'_>) -> &'static str {
    match frame {
        DownFrame::Challenge { .. } => "challenge",
        DownFrame::Welcome(_) => "welcome",
        DownFrame::Bound { .. } => "bound",
        DownFrame::Unbound { .. } => "unbound",
        DownFrame::Resumed { .. } => "resumed",
        DownFrame::Reply { .. } => "reply",
        DownFrame::Push { .. } => "push",
        DownFrame::Call { .. } => "call",
        DownFrame::Ack { .. } => "ack",
        DownFrame::Cast { .. } => "cast",
        DownFrame::Joined { .. } => "joined",
        DownFrame::Left { .. } => "left",
        DownFrame::Fault { .. } => "fault",
        DownFrame::Ping { .. } => "ping",
        DownFrame::Pong { .. } => "pong",
        DownFrame::Close { .. } => "close",
    }
}

/// As [`up_kind`].
pub fn link_kind(frame: &LinkFrame<'_>) -> &'static str {
    match frame {
        LinkFrame::Hello { .. } => "hello",
        LinkFrame::Prove { .. } => "prove",
        LinkFrame::Ping { .. } => "ping",
        LinkFrame::Pong { .. } => "pong",
        LinkFrame::Begin { .. } => "begin",
        LinkFrame::Up { .. } => "up",
        LinkFrame::Down { .. } => "down",
        LinkFrame::Cast { .. } => "cast",
        LinkFrame::Join { .. } => "join",
        LinkFrame::Leave { .. } => "leave",
        LinkFrame::Disband { .. } => "disband",
        LinkFrame::Open(_) => "open",
        LinkFrame::Resume { .. } => "resume",
        LinkFrame::Detached { .. } => "detached",
        LinkFrame::Logout { .. } => "logout",
        LinkFrame::Welcome { .. } => "welcome",
        LinkFrame::Close { .. } => "close",
        LinkFrame::Route { .. } => "route",
        LinkFrame::Unroute { .. } => "unroute",
        LinkFrame::Bind { .. } => "bind",
        LinkFrame::Bound { .. } => "bound",
        LinkFrame::NotBound { .. } => "not_bound",
        LinkFrame::Attach { .. } => "attach",
        LinkFrame::Detach { .. } => "detach",
        LinkFrame::Unbind { .. } => "unbind",
        LinkFrame::Lost { .. } => "lost",
        LinkFrame::Rebind { .. } => "rebind",
        LinkFrame::Release { .. } => "release",
        LinkFrame::Kick { .. } => "kick",
        LinkFrame::Call(_) => "call",
        LinkFrame::Answer { .. } => "answer",
        LinkFrame::Cancel { .. } => "cancel",
        LinkFrame::Probe { .. } => "probe",
        LinkFrame::Ring { .. } => "ring",
        LinkFrame::GiveBack { .. } => "give_back",
        LinkFrame::StoreAway => "store_away",
        LinkFrame::Tag(_) => "tag",
        LinkFrame::Select(_) => "select",
        LinkFrame::Selected(_) => "selected",
        LinkFrame::Forward(_) => "forward",
        LinkFrame::Publish { .. } => "publish",
        LinkFrame::Listen { .. } => "listen",
        LinkFrame::Relay { .. } => "relay",
        LinkFrame::Home(frame) => match frame {
            HomeFrame::Wanted(_) => "wanted",
            HomeFrame::Homed { .. } => "homed",
            HomeFrame::Adopt { .. } => "adopt",
            HomeFrame::Report(_) => "report",
            HomeFrame::Held(_) => "held",
            HomeFrame::Over { .. } => "over",
            HomeFrame::HandOver(_) => "hand_over",
            HomeFrame::Past(_) => "past",
            HomeFrame::Taken { .. } => "taken",
            HomeFrame::Pass { .. } => "pass",
            HomeFrame::Settled { .. } => "settled",
            HomeFrame::Unlisted { .. } => "unlisted",
            HomeFrame::Check(_) => "check",
            HomeFrame::Leads(_) => "leads",
            HomeFrame::Seek { .. } => "seek",
            HomeFrame::Sought { .. } => "sought",
        },
        LinkFrame::Shift(frame) => match frame {
            Shift::Session { .. } => "shift_session",
            Shift::SessionDone { .. } => "session_shifted",
            Shift::Stream { .. } => "shift_stream",
            Shift::StreamDone { .. } => "stream_shifted",
            Shift::Member { .. } => "shifted_member",
        },
        LinkFrame::Move { .. } => "move",
        LinkFrame::Moved { .. } => "moved",
        LinkFrame::Forwarded { .. } => "forwarded",
        LinkFrame::Marker { .. } => "marker",
        LinkFrame::Passed { .. } => "passed",
        LinkFrame::StreamPassed { .. } => "stream_passed",
        LinkFrame::StreamMoved { .. } => "stream_moved",
    }
}
