//! `docs/vectors/*.json`: what every SDK is held against. This code makes them; the test fails if
//! a file differs. `UPDATE_VECTORS=1 cargo test -p proto vectors` writes them anew, which is right
//! only for additions: what stands in a released file never changes.

use std::fs;
use std::path::Path;

use env::{Random, WallTime};
use macros::Message;
use proto::codec::{DecodeError, Decoder, Problem};
use proto::frame::{
    CloseCode, DownFrame, Seen, SeenGroup, Status, StreamUp, UpFrame, put_frame, split_frame,
};
use proto::schema::{Schema, SchemaBuilder, Shape};
use proto::ticket::{Claims, ResumeClaims, TicketKeys, login_proof, resume_proof};
use proto::{
    AccountId, Bytes, EntityId, Incarnation, KindId, Message, MethodId, Reader, SessionId,
    WireError, encode, name_hash, put_blob, put_varint,
};
use serde_json::{Map, Value, json};

use crate::samples;

/// Compares `value` with the file, or writes it.
fn check(file: &str, value: &Value) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/vectors");
    let text = serde_json::to_string_pretty(value).unwrap() + "\n";
    let path = folder.join(file);
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        fs::create_dir_all(&folder).unwrap();
        fs::write(&path, text).unwrap();
        return;
    }
    let stands = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stands == text,
        "docs/vectors/{file} is not what the code makes; if the code is right, run \
         `UPDATE_VECTORS=1 cargo test -p proto vectors` and review the difference"
    );
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 64-bit numbers are decimal texts: they do not fit a JSON number everywhere.
fn wide(number: u64) -> String {
    number.to_string()
}

fn error_name(error: WireError) -> &'static str {
    match error {
        WireError::Truncated => "truncated",
        WireError::Varint => "varint",
        WireError::Range => "range",
        WireError::Utf8 => "utf8",
        WireError::Trailing => "trailing",
        WireError::Empty => "empty",
        WireError::TooLong { .. } => "too_long",
        WireError::Kind(_) => "kind",
        other => panic!("name {other:?} here and in docs/protocol.md"),
    }
}

fn seen(items: &[Seen]) -> Value {
    items.iter().map(|item| json!({ "handle": item.handle, "number": wide(item.number) })).collect()
}

fn seen_groups(items: &[SeenGroup]) -> Value {
    let fields = |item: &SeenGroup| json!({ "group": item.group, "stream": item.stream, "number": wide(item.number) });
    items.iter().map(fields).collect()
}

fn up_fields(frame: &UpFrame<'_>) -> Value {
    match frame {
        UpFrame::Hello { version, features, interface, agent } => json!({
            "version": version, "features": wide(*features), "interface": wide(*interface),
            "agent": agent,
        }),
        UpFrame::Login { ticket, proof } => json!({ "ticket": hex(ticket), "proof": hex(proof) }),
        UpFrame::Resume { token, proof, generation, streams, groups } => json!({
            "token": hex(token), "proof": hex(proof), "generation": wide(*generation),
            "streams": seen(streams), "groups": seen_groups(groups),
        }),
        UpFrame::Stream { stream, frame } => match frame {
            StreamUp::Tell { number, ack, method, body } => json!({
                "stream": stream, "number": wide(*number), "ack": wide(*ack), "method": method.0,
                "body": hex(body),
            }),
            StreamUp::Request { number, ack, method, deadline_ms, body } => json!({
                "stream": stream, "number": wide(*number), "ack": wide(*ack), "method": method.0,
                "deadline_ms": deadline_ms, "body": hex(body),
            }),
            StreamUp::Answer { number, ack, call, status, body } => json!({
                "stream": stream, "number": wide(*number), "ack": wide(*ack), "call": wide(*call),
                "status": *status as u8, "body": hex(body),
            }),
            StreamUp::Ack { ack } => json!({ "stream": stream, "ack": wide(*ack) }),
        },
        UpFrame::Ping { token } | UpFrame::Pong { token } => json!({ "token": wide(*token) }),
        UpFrame::Close { code, reason } => close_fields(*code, reason),
    }
}

fn close_fields(code: CloseCode, reason: &str) -> Value {
    json!({ "code": code as u8, "reason": reason })
}

fn down_fields(frame: &DownFrame<'_>) -> Value {
    match frame {
        DownFrame::Challenge { version, features, nonce, wall_ms } => json!({
            "version": version, "features": wide(*features), "nonce": hex(nonce),
            "wall_ms": wide(*wall_ms),
        }),
        DownFrame::Welcome(welcome) => json!({
            "session": hex(&welcome.session.0), "generation": wide(welcome.generation),
            "resumed": welcome.resumed, "token": hex(welcome.token),
            "resume_window_ms": welcome.resume_window_ms, "heartbeat_ms": welcome.heartbeat_ms,
            "frame_bytes_max": welcome.frame_bytes_max,
        }),
        DownFrame::Bound { stream, kind, epoch, name } => {
            json!({ "stream": stream, "kind": kind.0, "epoch": wide(*epoch), "name": name })
        }
        DownFrame::Unbound { stream, code } => json!({ "stream": stream, "code": *code as u8 }),
        DownFrame::Resumed { stream, epoch, applied, durable } => json!({
            "stream": stream, "epoch": wide(*epoch), "applied": wide(*applied),
            "durable": wide(*durable),
        }),
        DownFrame::Reply { stream, number, ack, request, status, body } => json!({
            "stream": stream, "number": wide(*number), "ack": wide(*ack),
            "request": wide(*request), "status": *status as u8, "body": hex(body),
        }),
        DownFrame::Push { stream, number, ack, method, body } => json!({
            "stream": stream, "number": wide(*number), "ack": wide(*ack), "method": method.0,
            "body": hex(body),
        }),
        DownFrame::Call { stream, number, ack, call, deadline_ms, method, body } => json!({
            "stream": stream, "number": wide(*number), "ack": wide(*ack), "call": wide(*call),
            "deadline_ms": deadline_ms, "method": method.0, "body": hex(body),
        }),
        DownFrame::Ack { stream, applied, durable } => {
            json!({ "stream": stream, "applied": wide(*applied), "durable": wide(*durable) })
        }
        DownFrame::Cast { group, number, method, body } => json!({
            "group": group, "number": wide(*number), "method": method.0, "body": hex(body),
        }),
        DownFrame::Joined { group, stream, kind, number, name } => json!({
            "group": group, "stream": stream, "kind": kind.0, "number": wide(*number),
            "name": name,
        }),
        DownFrame::Left { group, stream } => json!({ "group": group, "stream": stream }),
        DownFrame::Fault { stream, number, status } => {
            json!({ "stream": stream, "number": wide(*number), "status": *status as u8 })
        }
        DownFrame::Ping { token } | DownFrame::Pong { token } => json!({ "token": wide(*token) }),
        DownFrame::Close { code, reason } => close_fields(*code, reason),
    }
}

/// `type`, then the fields.
fn vector(name: &str, kind: &str, payload: &[u8], fields: Value) -> Value {
    let mut frame = Vec::new();
    put_frame(&mut frame, |out| out.extend_from_slice(payload));
    json!({
        "name": name, "type": kind, "payload": hex(payload), "frame": hex(&frame),
        "fields": fields,
    })
}

/// Payloads that are refused, whatever side they come from.
fn hostile() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let with = |start: &[u8], write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = start.to_vec();
        write(&mut out);
        out
    };
    let hello = [0x01, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    vec![
        ("up", "nothing", vec![]),
        ("up", "head with a flag", vec![0x84, 1, 1, 0, 0, 0, 0, 0]),
        ("up", "head that only a gate sends", vec![0x12]),
        ("up", "head that nobody sends", vec![0x1f]),
        ("up", "hello whose agent is too long", with(&hello, &|out| put_blob(out, &[b'x'; 257]))),
        ("up", "hello whose agent is no text", with(&hello, &|out| put_blob(out, &[0xff]))),
        ("up", "hello with a byte too many", with(&hello, &|out| out.extend([0, 0]))),
        ("up", "login with a short proof", with(&[0x02, 1, 9], &|out| out.extend([0; 31]))),
        (
            "up",
            "login that announces a huge ticket",
            with(&[0x02], &|out| put_varint(out, 1 << 60)),
        ),
        (
            "up",
            "login with a ticket over the limit",
            with(&[0x02], &|out| {
                put_blob(out, &[0; 1025]);
                out.extend([0; 32]);
            }),
        ),
        (
            "up",
            "resume that announces 257 streams",
            with(&[0x03, 0], &|out| {
                out.extend([0; 32]);
                out.push(1);
                put_varint(out, 257);
            }),
        ),
        (
            "up",
            "resume that announces streams it does not have",
            with(&[0x03, 0], &|out| {
                out.extend([0; 32]);
                out.extend([1, 100]);
            }),
        ),
        ("up", "tell to a stream over 32 bits", with(&[0x04], &|out| put_varint(out, 1 << 32))),
        ("up", "tell whose number is longer than needed", vec![0x04, 1, 0x81, 0x00, 0, 1, 2, 3, 4]),
        (
            "up",
            "tell whose number is over 64 bits",
            with(&[0x04, 1], &|out| {
                out.extend([0xff; 9]);
                out.push(0x7f);
            }),
        ),
        ("up", "tell cut in its method", vec![0x04, 1, 1, 0, 1, 2, 3]),
        ("up", "request without a deadline", vec![0x05, 1, 1, 0, 1, 2, 3, 4]),
        ("up", "ack with a body", vec![0x07, 1, 5, 0]),
        ("up", "close whose reason is cut", vec![0x0a, 0, 5, b'h', b'i']),
        ("down", "nothing", vec![]),
        ("down", "head that only a client sends", vec![0x04, 1, 1, 0, 0, 0, 0, 0]),
        ("down", "challenge with a short nonce", with(&[0x11, 1, 0], &|out| out.extend([0; 15]))),
        (
            "down",
            "welcome whose flag is neither 0 nor 1",
            with(&[0x12], &|out| {
                out.extend([0; 16]);
                out.extend([1, 2, 0, 0, 0, 0]);
            }),
        ),
        ("down", "bound whose name is no text", vec![0x13, 1, 0, 0, 0, 0, 1, 2, 0xc3, 0x28]),
        ("down", "reply cut before its status", vec![0x16, 1, 1, 0, 1]),
        ("down", "left with a byte too many", vec![0x1b + 1, 1, 2, 0]),
        ("down", "cast to a group over 32 bits", with(&[0x1a], &|out| put_varint(out, u64::MAX))),
    ]
}

fn bad_frames(wanted: &str) -> Value {
    let bad = hostile().into_iter().filter(|(side, ..)| *side == wanted);
    bad.map(|(side, name, payload)| {
        let error = match side {
            "up" => UpFrame::decode(&payload).unwrap_err(),
            _ => DownFrame::decode(&payload).unwrap_err(),
        };
        json!({ "name": name, "payload": hex(&payload), "error": error_name(error) })
    })
    .collect()
}

fn splits() -> Value {
    let cases: Vec<(&str, usize, Vec<u8>)> = vec![
        ("nothing yet", 16, vec![]),
        ("one frame", 16, vec![2, 8, 1]),
        ("three frames and the start of a fourth", 16, vec![2, 8, 1, 2, 9, 1, 2, 8, 2, 5, 4]),
        ("length in two bytes", 200, [&[0x80, 0x01][..], &[7; 128]].concat()),
        ("half a length", 200, vec![0x80]),
        ("exactly the limit", 4, vec![4, 1, 2, 3, 4]),
        ("over the limit, known before its bytes", 4, vec![5]),
        (
            "far over the limit",
            65_536,
            vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        ),
        ("zero length", 16, vec![2, 8, 1, 0]),
        ("length longer than needed", 16, vec![0x82, 0x00, 8, 1]),
        ("length over 64 bits", 16, vec![0xff; 11]),
    ];
    let shown = cases.into_iter().map(|(name, max, bytes)| {
        let (mut payloads, mut at, mut error) = (Vec::new(), 0, None);
        loop {
            match split_frame(&bytes[at..], max) {
                Ok(Some((payload, taken))) => {
                    payloads.push(hex(payload));
                    at += taken;
                }
                Ok(None) => break,
                Err(found) => {
                    error = Some(error_name(found));
                    break;
                }
            }
        }
        let mut shown = json!({
            "name": name, "max": max, "bytes": hex(&bytes), "payloads": payloads,
            "rest": hex(&bytes[at..]),
        });
        if let Some(error) = error {
            shown["error"] = json!(error);
        }
        shown
    });
    shown.collect()
}

#[test]
fn vectors_frames() {
    let up = samples::up().into_iter().map(|(name, frame)| {
        let mut payload = Vec::new();
        frame.encode(&mut payload);
        vector(name, samples::up_kind(&frame), &payload, up_fields(&frame))
    });
    let down = samples::down().into_iter().map(|(name, frame)| {
        let mut payload = Vec::new();
        frame.encode(&mut payload);
        vector(name, samples::down_kind(&frame), &payload, down_fields(&frame))
    });
    check(
        "frames.json",
        &json!({
            "about": "Frames of the client leg. Bytes are hex, 64-bit fields decimal texts. \
                      `payload` is a frame without its length, `frame` with it.",
            "preface": hex(&proto::frame::PREFACE),
            "version": proto::frame::VERSION,
            "up": up.collect::<Value>(),
            "down": down.collect::<Value>(),
            "bad_up": bad_frames("up"),
            "bad_down": bad_frames("down"),
            "split": splits(),
        }),
    );
}

#[test]
fn vectors_links() {
    let frames = samples::link().into_iter().map(|frame| {
        let mut payload = Vec::new();
        frame.encode(7, &mut payload);
        json!({ "type": samples::link_kind(&frame), "worker": 7, "payload": hex(&payload) })
    });
    check(
        "links.json",
        &json!({
            "about": "Frames between workers, for worker 7, without their length. They are held \
                      still so that two adjacent releases understand each other.",
            "frames": frames.collect::<Value>(),
        }),
    );
}

#[test]
fn vectors_varints() {
    let values = [0, 1, 127, 128, 300, 16_383, 16_384, 1 << 32, (1 << 53) + 1, u64::MAX];
    let good = values.into_iter().map(|value| {
        let mut out = Vec::new();
        put_varint(&mut out, value);
        json!({ "value": wide(value), "bytes": hex(&out) })
    });
    let hostile: [(&str, &[u8]); 6] = [
        ("nothing", &[]),
        ("cut", &[0x80]),
        ("zero in two bytes", &[0x80, 0x00]),
        ("127 in two bytes", &[0xff, 0x00]),
        ("65 bits", &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]),
        ("eleven bytes", &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01]),
    ];
    let bad = hostile.into_iter().map(|(name, bytes)| {
        let error = Reader::new(bytes).varint().unwrap_err();
        json!({ "name": name, "bytes": hex(bytes), "error": error_name(error) })
    });
    check(
        "varints.json",
        &json!({ "good": good.collect::<Value>(), "bad": bad.collect::<Value>() }),
    );
}

#[test]
fn vectors_names() {
    let names = ["", "a", "add", "Counter", "avatar", "use_item", "düne", "session"];
    let hashes = names.into_iter().map(|name| json!({ "name": name, "hash": name_hash(name) }));
    let paths = ["add", "bag.use_item", "bag.slot.use_item"];
    let methods =
        paths.into_iter().map(|path| json!({ "path": path, "id": MethodId::of_path(path).0 }));
    check(
        "names.json",
        &json!({
            "about": "Kind and method ids: hashes of names; the id of a component's method \
                      combines those of its parts.",
            "names": hashes.collect::<Value>(),
            "methods": methods.collect::<Value>(),
        }),
    );
}

#[test]
fn vectors_proofs() {
    let cases: [([u8; 32], [u8; 16], &[u8], u64); 3] = [
        ([0; 32], [0; 16], b"", 1),
        ([0x0b; 32], [0x0c; 16], b"a ticket", 2),
        ([0xff; 32], [0x01; 16], &[0x5a; 200], u64::MAX),
    ];
    let login = cases.iter().map(|(secret, nonce, ticket, _)| {
        json!({
            "secret": hex(secret), "nonce": hex(nonce), "ticket": hex(ticket),
            "proof": hex(&login_proof(secret, nonce, ticket)),
        })
    });
    let resume = cases.iter().map(|(secret, nonce, token, generation)| {
        json!({
            "secret": hex(secret), "nonce": hex(nonce), "token": hex(token),
            "generation": wide(*generation),
            "proof": hex(&resume_proof(secret, nonce, token, *generation)),
        })
    });
    check(
        "proofs.json",
        &json!({
            "about": "What a client answers to a gate's nonce, and how tickets are sealed (for \
                      login services in other languages).",
            "login": login.collect::<Value>(),
            "resume": resume.collect::<Value>(),
            "sealed": sealed(),
        }),
    );
}

fn sealed() -> Value {
    let keys = TicketKeys::new(vec![(3, [0x42; 32])]);
    let mut random = Random::from_seed(1);
    let claims = Claims {
        account: AccountId(1_000_000),
        level: 1,
        name: "Ada".into(),
        issued: WallTime(1_800_000_000_000),
        expires: WallTime(1_800_000_060_000),
    };
    let grant = keys.issue(&mut random, claims.clone());
    let resume = ResumeClaims {
        session: grant.session,
        account: claims.account,
        secret: grant.secret,
        level: 1,
        expires: WallTime(1_800_000_120_000),
    };
    let token = keys.seal_resume(&mut random, &resume);
    assert!(keys.open_ticket(&grant.ticket, claims.issued).is_ok());
    json!({
        "key_id": 3,
        "key": hex(&[0x42; 32]),
        "session": hex(&grant.session.0),
        "secret": hex(&grant.secret),
        "account": wide(claims.account.0),
        "level": claims.level,
        "name": claims.name,
        "issued_ms": wide(claims.issued.0),
        "expires_ms": wide(claims.expires.0),
        "ticket": hex(&grant.ticket),
        "token_expires_ms": wide(resume.expires.0),
        "token": hex(&token),
    })
}

#[derive(Message)]
#[message(root = proto)]
#[allow(dead_code)]
struct Item {
    name: String,
    #[message(range = 1..=100)]
    count: u32,
    #[message(default = 7)]
    weight: u16,
    #[message(retired)]
    color: (),
    #[message(default)]
    parts: Vec<Item>,
}

#[derive(Message)]
#[message(root = proto)]
enum Order {
    Stop,
    #[message(id = 3)]
    Go(f32, f32),
    Say {
        #[message(len = 1..=5)]
        text: String,
    },
    #[message(fallback)]
    Unknown,
}

#[derive(Message)]
#[message(root = proto)]
enum Side {
    Left,
    Right,
}

fn item(name: &str, parts: Vec<Item>) -> Item {
    Item { name: name.into(), count: 1, weight: 300, color: (), parts }
}

/// A value with its shape and bytes.
struct Case {
    name: &'static str,
    shape: Shape,
    bytes: Vec<u8>,
}

fn case<T: Message>(name: &'static str, s: &mut SchemaBuilder, value: &T) -> Case {
    Case { name, shape: T::shape(s), bytes: encode(value) }
}

fn values(s: &mut SchemaBuilder) -> Vec<Case> {
    let deep = item("chest", vec![item("lid", vec![]), item("lock", vec![item("key", vec![])])]);
    vec![
        case("nil", s, &()),
        case("false", s, &false),
        case("true", s, &true),
        case("0", s, &0u8),
        case("127", s, &127u32),
        case("128", s, &128u32),
        case("255", s, &255u32),
        case("256", s, &256u32),
        case("65535", s, &65_535u32),
        case("65536", s, &65_536u32),
        case("2^32-1", s, &u32::MAX),
        case("2^32", s, &(1u64 << 32)),
        case("2^53+1", s, &((1u64 << 53) + 1)),
        case("2^64-1", s, &u64::MAX),
        case("-1", s, &-1i8),
        case("-32", s, &-32i8),
        case("-33", s, &-33i8),
        case("-128", s, &-128i16),
        case("-129", s, &-129i16),
        case("-32769", s, &-32_769i32),
        case("-2^31", s, &i32::MIN),
        case("-2^31-1", s, &(i64::from(i32::MIN) - 1)),
        case("-2^63", s, &i64::MIN),
        case("signed and not negative", s, &200i32),
        case("half", s, &0.5f32),
        case("third", s, &(1.0f64 / 3.0)),
        case("infinity", s, &f64::INFINITY),
        case("empty text", s, &String::new()),
        case("text", s, &"grüße".to_owned()),
        case("text of 31 bytes", s, &"x".repeat(31)),
        case("text of 32 bytes", s, &"x".repeat(32)),
        case("text of 256 bytes", s, &"x".repeat(256)),
        case("bytes", s, &Bytes(vec![1, 2, 255])),
        case("256 bytes", s, &Bytes(vec![9; 256])),
        case("no option", s, &None::<u32>),
        case("an option", s, &Some(5u32)),
        case("list", s, &vec![1u8, 200]),
        case("list of 16", s, &vec![(); 16]),
        case("array", s, &[true, false]),
        case("tuple", s, &(1u8, "a".to_owned())),
        case("map", s, &std::collections::BTreeMap::from([("a".to_owned(), 1u8), ("b".into(), 2)])),
        case("set", s, &std::collections::BTreeSet::from([3u8, 1, 2])),
        case("kind id", s, &KindId::of("avatar")),
        case("account id", s, &AccountId(77)),
        case("session id", s, &SessionId([7; 16])),
        case("keyed entity", s, &EntityId::keyed(KindId(5), u64::MAX)),
        case("room", s, &EntityId { kind: KindId(5), home: Incarnation(1 << 60), key: 258 }),
        case("wall time", s, &WallTime(1_800_000_000_000)),
        case("struct", s, &deep),
        case("variant without fields", s, &Order::Stop),
        case("variant with places", s, &Order::Go(0.5, -1.0)),
        case("variant with names", s, &Order::Say { text: "hi".into() }),
        case("fallback", s, &Order::Unknown),
        case("plain enum", s, &Side::Right),
    ]
}

/// Bytes that are read too, though no Mainstay writes them.
fn readable(s: &mut SchemaBuilder) -> Vec<Case> {
    let (item, order, side) = (Item::shape(s), Order::shape(s), Side::shape(s));
    let case = |name, shape: &Shape, bytes: &[u8]| Case {
        name,
        shape: shape.clone(),
        bytes: bytes.to_vec(),
    };
    vec![
        case("5 in 16 bits", &Shape::U8, &[0xcd, 0, 5]),
        case("5 in 64 signed bits", &Shape::U32, &[0xd3, 0, 0, 0, 0, 0, 0, 0, 5]),
        case("-1 in 32 bits", &Shape::I8, &[0xd2, 0xff, 0xff, 0xff, 0xff]),
        case("integer for a float", &Shape::F32, &[0x03]),
        case("narrow float for a wide one", &Shape::F64, &[0xca, 0x3f, 0, 0, 0]),
        case("wide float for a narrow one", &Shape::F32, &[0xcb, 0x3f, 0xe0, 0, 0, 0, 0, 0, 0]),
        case("short text in a long form", &Shape::Text, &[0xdb, 0, 0, 0, 1, b'a']),
        case(
            "short list in a long form",
            &Shape::List(Box::new(Shape::U8)),
            &[0xdd, 0, 0, 0, 1, 5],
        ),
        case("struct of an older writer", &item, &[0x92, 0xa1, b'a', 1]),
        case(
            "struct of a newer writer",
            &item,
            &[0x97, 0xa1, b'a', 1, 2, 0xc0, 0x90, 0x92, 1, 2, 0xc3],
        ),
        case("struct with a field that its writer retired", &item, &[0x93, 0xa1, b'a', 1, 0xc0]),
        case("retired field with a value", &item, &[0x94, 0xa1, b'a', 1, 2, 0x91, 0x80]),
        case("unknown variant", &order, &[0x63]),
        case("unknown variant with fields", &order, &[0x93, 0x63, 1, 0x81, 1, 2]),
        case("variant that has gained a field", &side, &[0x92, 1, 5]),
        case("variant in an array alone", &side, &[0x91, 0]),
    ]
}

/// Bytes that are refused.
fn refused(s: &mut SchemaBuilder) -> Vec<Case> {
    let (item, order, side) = (Item::shape(s), Order::shape(s), Side::shape(s));
    let case = |name, shape: &Shape, bytes: &[u8]| Case {
        name,
        shape: shape.clone(),
        bytes: bytes.to_vec(),
    };
    let list = |shape: Shape| Shape::List(Box::new(shape));
    let mut nested = vec![0x92, 0xa1, b'a', 1];
    nested.truncate(0);
    for _ in 0..17 {
        nested.extend([0x95, 0xa1, b'a', 1, 2, 0xc0, 0x91]);
    }
    vec![
        case("nothing", &Shape::U8, &[]),
        case("256 for 8 bits", &Shape::U8, &[0xcd, 1, 0]),
        case("-1 for an unsigned", &Shape::U32, &[0xff]),
        case("2^63 for a signed", &Shape::I64, &[0xcf, 0x80, 0, 0, 0, 0, 0, 0, 0]),
        case("text for a number", &Shape::U8, &[0xa1, b'5']),
        case("number for a bool", &Shape::Bool, &[0x01]),
        case("nil for a text", &Shape::Text, &[0xc0]),
        case("text for bytes", &Shape::Bytes, &[0xa1, b'5']),
        case("the unused byte", &Shape::U8, &[0xc1]),
        case("text cut", &Shape::Text, &[0xa5, b'a']),
        case("text that is none", &Shape::Text, &[0xa2, 0xc3, 0x28]),
        case("number cut", &Shape::U32, &[0xce, 0, 0]),
        case(
            "list that announces 4 billion items",
            &list(Shape::U64),
            &[0xdd, 0xff, 0xff, 0xff, 0xff],
        ),
        case(
            "map that announces 65535 pairs",
            &Shape::Map(Box::new(Shape::U8), Box::new(Shape::U8)),
            &[0xde, 0xff, 0xff, 1, 1],
        ),
        case("a byte too many", &Shape::U8, &[5, 5]),
        case(
            "map with a key twice",
            &Shape::Map(Box::new(Shape::U8), Box::new(Shape::U8)),
            &[0x82, 1, 1, 1, 2],
        ),
        case("set with an item twice", &Shape::Set(Box::new(Shape::U8)), &[0x92, 1, 1]),
        case("array of another length", &Shape::Array(Box::new(Shape::U8), 2), &[0x93, 1, 2, 3]),
        case("tuple of another length", &Shape::Tuple(vec![Shape::U8, Shape::U8]), &[0x91, 1]),
        case("session id of another length", &Shape::SessionId, &[0xc4, 1, 0]),
        case("float over 32 bits", &Shape::F32, &[0xcb, 0x7f, 0xe0, 0, 0, 0, 0, 0, 0]),
        case("struct without a field it needs", &item, &[0x91, 0xa1, b'a']),
        case("struct as a map", &item, &[0x80]),
        case("number outside its range", &item, &[0x92, 0xa1, b'a', 101]),
        case(
            "wrong deep inside",
            &item,
            &[0x95, 0xa1, b'a', 1, 2, 0xc0, 0x91, 0x92, 0xa1, b'b', 0xc3],
        ),
        case("nested too deep", &item, &nested),
        case("unknown variant without a fallback", &side, &[0x02]),
        case("variant without its number", &side, &[0x90]),
        case("text over its length", &order, &[0x92, 4, 0xa6, b'a', b'b', b'c', b'd', b'e', b'f']),
        case("text under its length", &order, &[0x92, 4, 0xa0]),
        case("newer field cut", &item, &[0x96, 0xa1, b'a', 1, 2, 0xc0, 0x90]),
    ]
}

/// Reads with the type that the shape was made of.
fn read(schema: &Schema, shape: &Shape, bytes: &[u8]) -> Result<Value, DecodeError> {
    fn typed<T: Message>(bytes: &[u8]) -> Result<(), DecodeError> {
        proto::decode::<T>(bytes).map(drop)
    }
    let text = shape.to_string();
    match text.as_str() {
        "unit" => typed::<()>(bytes),
        "bool" => typed::<bool>(bytes),
        "u8" => typed::<u8>(bytes),
        "u16" => typed::<u16>(bytes),
        "u32" => typed::<u32>(bytes),
        "u64" => typed::<u64>(bytes),
        "i8" => typed::<i8>(bytes),
        "i16" => typed::<i16>(bytes),
        "i32" => typed::<i32>(bytes),
        "i64" => typed::<i64>(bytes),
        "f32" => typed::<f32>(bytes),
        "f64" => typed::<f64>(bytes),
        "text" => typed::<String>(bytes),
        "bytes" => typed::<Bytes>(bytes),
        "kind" => typed::<KindId>(bytes),
        "entity" => typed::<EntityId>(bytes),
        "account" => typed::<AccountId>(bytes),
        "session" => typed::<SessionId>(bytes),
        "wall" => typed::<WallTime>(bytes),
        "option<u32>" => typed::<Option<u32>>(bytes),
        "list<u8>" => typed::<Vec<u8>>(bytes),
        "list<u64>" => typed::<Vec<u64>>(bytes),
        "list<unit>" => typed::<Vec<()>>(bytes),
        "array<bool, 2>" => typed::<[bool; 2]>(bytes),
        "array<u8, 2>" => typed::<[u8; 2]>(bytes),
        "tuple<u8, text>" => typed::<(u8, String)>(bytes),
        "tuple<u8, u8>" => typed::<(u8, u8)>(bytes),
        "map<text, u8>" => typed::<std::collections::BTreeMap<String, u8>>(bytes),
        "map<u8, u8>" => typed::<std::collections::BTreeMap<u8, u8>>(bytes),
        "set<u8>" => typed::<std::collections::BTreeSet<u8>>(bytes),
        "Item" => typed::<Item>(bytes),
        "Order" => typed::<Order>(bytes),
        "Side" => typed::<Side>(bytes),
        other => panic!("say here which type has shape {other}"),
    }?;
    Ok(show(schema, shape, &mut Decoder::new(bytes)))
}

/// The JSON of a value that is known to be good, read by its shape alone: this holds the schema
/// against the codec.
fn show(schema: &Schema, shape: &Shape, d: &mut Decoder<'_>) -> Value {
    let all = |shape: &Shape, d: &mut Decoder<'_>| -> Value {
        let len = d.array().unwrap();
        let items = (0..len).map(|_| show(schema, shape, d)).collect();
        d.leave();
        items
    };
    match shape {
        Shape::Unit => d.nil().map(|()| Value::Null).unwrap(),
        Shape::Bool => json!(d.bool().unwrap()),
        Shape::U8 | Shape::U16 | Shape::U32 | Shape::KindId | Shape::MethodId => {
            json!(d.uint().unwrap())
        }
        Shape::I8 | Shape::I16 | Shape::I32 => json!(d.int().unwrap()),
        Shape::U64 | Shape::Incarnation | Shape::AccountId | Shape::WallTime => {
            json!(wide(d.uint().unwrap()))
        }
        Shape::I64 => json!(d.int().unwrap().to_string()),
        Shape::F32 | Shape::F64 => match d.f64().unwrap() {
            finite if finite.is_finite() => json!(finite),
            other => json!(other.to_string()),
        },
        Shape::Text => json!(d.text().unwrap()),
        Shape::Bytes | Shape::SessionId => json!(hex(d.binary().unwrap())),
        Shape::EntityId | Shape::Reference(_) => {
            let parts = [Shape::KindId, Shape::Incarnation, Shape::U64];
            d.array().unwrap();
            let [kind, home, key] = parts.map(|part| show(schema, &part, d));
            d.leave();
            json!({ "kind": kind, "home": home, "key": key })
        }
        Shape::Option(item) => {
            if d.take_nil() {
                Value::Null
            } else {
                show(schema, item, d)
            }
        }
        Shape::List(item) | Shape::Set(item) | Shape::Array(item, _) => all(item, d),
        Shape::Tuple(items) => {
            d.array().unwrap();
            let shown = items.iter().map(|item| show(schema, item, d)).collect();
            d.leave();
            shown
        }
        Shape::Map(key, value) => {
            let len = d.map().unwrap();
            let pair = |d: &mut Decoder<'_>| json!([show(schema, key, d), show(schema, value, d)]);
            let pairs = (0..len).map(|_| pair(d)).collect();
            d.leave();
            pairs
        }
        Shape::Named(name) => show_named(schema, name, d),
    }
}

fn show_named(schema: &Schema, name: &str, d: &mut Decoder<'_>) -> Value {
    use proto::schema::TypeBody;
    match &schema.types[name] {
        TypeBody::Struct(fields) => {
            let mut left = d.array().unwrap();
            let shown = show_fields(schema, fields, &mut left, d);
            (0..left).for_each(|_| d.skip().unwrap());
            d.leave();
            shown
        }
        TypeBody::Enum { variants, fallback } => {
            let in_array = d.is_array();
            let mut left = if in_array { d.array().unwrap() - 1 } else { 0 };
            let number = d.uint().unwrap();
            let known = variants.iter().find(|variant| variant.number == number);
            let variant = known.unwrap_or_else(|| {
                variants.iter().find(|variant| Some(variant.number) == *fallback).unwrap()
            });
            let fields = show_fields(schema, &variant.fields, &mut left, d);
            (0..left).for_each(|_| d.skip().unwrap());
            if in_array {
                d.leave();
            }
            json!({ "variant": variant.name, "fields": fields })
        }
    }
}

/// The fields that are there, by name. What takes its default is left out.
fn show_fields(
    schema: &Schema,
    fields: &[proto::schema::Field],
    left: &mut usize,
    d: &mut Decoder<'_>,
) -> Value {
    use proto::schema::Presence;
    let mut shown = Map::new();
    for field in fields.iter().take(*left) {
        *left -= 1;
        match field.presence {
            Presence::Retired => d.skip().unwrap(),
            Presence::Default if d.take_nil() => {}
            _ => {
                shown.insert(field.name.clone(), show(schema, &field.shape, d));
            }
        }
    }
    Value::Object(shown)
}

fn problem_name(problem: &Problem) -> &'static str {
    match problem {
        Problem::Truncated => "truncated",
        Problem::Trailing(_) => "trailing",
        Problem::Type { .. } => "type",
        Problem::Range { .. } => "range",
        Problem::Length { .. } => "length",
        Problem::Count { .. } => "count",
        Problem::Utf8 => "utf8",
        Problem::Missing => "missing",
        Problem::Variant(_) => "variant",
        Problem::Duplicate => "duplicate",
        Problem::Depth(_) => "depth",
        Problem::Memory(_) => "memory",
        other => panic!("name {other:?} here and in docs/protocol.md"),
    }
}

#[test]
fn vectors_messages() {
    let mut builder = SchemaBuilder::new();
    let (values, reads, refused) =
        (values(&mut builder), readable(&mut builder), refused(&mut builder));
    let schema = builder.finish().unwrap();
    let types: Value = serde_json::from_str(&schema.to_json()).unwrap();
    let shape_json = |shape: &Shape| shape.to_string().replace(' ', "");
    let good = |case: &Case| {
        let value = read(&schema, &case.shape, &case.bytes)
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        json!({
            "name": case.name, "shape": shape_json(&case.shape), "bytes": hex(&case.bytes),
            "value": value,
        })
    };
    let bad = |case: &Case| {
        let error = read(&schema, &case.shape, &case.bytes).expect_err(case.name);
        json!({
            "name": case.name, "shape": shape_json(&case.shape), "bytes": hex(&case.bytes),
            "problem": problem_name(error.problem()), "path": error.path(),
        })
    };
    check(
        "messages.json",
        &json!({
            "about": "MessagePack bodies. `values` are written and read, `reads` are only read, \
                      `refused` are errors. Shapes are those of `interface.lock`; `types` is the \
                      part of that name of `mainstay schema`. In `value`, 64-bit numbers are \
                      decimal texts, binary is hex, maps are lists of pairs, and fields that take \
                      their defaults are left out.",
            "types": types["types"],
            "values": values.iter().map(good).collect::<Value>(),
            "reads": reads.iter().map(good).collect::<Value>(),
            "refused": refused.iter().map(bad).collect::<Value>(),
        }),
    );
}

/// Statuses and close codes by number, so that SDKs name them alike.
#[test]
fn vectors_codes() {
    let status = |code: u64| format!("{:?}", Status::from_code(code));
    let close = |code: u64| {
        let found = CloseCode::from_code(code);
        json!({ "code": code, "name": format!("{found:?}"), "may_resume": found.may_resume() })
    };
    check(
        "codes.json",
        &json!({
            "about": "The last line of each is how an unknown number reads.",
            "status": (0..=14).map(|code| json!({ "code": code, "name": status(code) })).collect::<Value>(),
            "close": (0..=14).map(close).collect::<Value>(),
        }),
    );
}
