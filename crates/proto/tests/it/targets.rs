//! What hostile bytes must not do, one function per decoder. Plain tests run them over damaged
//! samples; `fuzz/` runs the same functions over whatever the fuzzer finds.
//!
//! None may panic. What reads well must also write and read back the same.

use std::collections::{BTreeMap, BTreeSet};

use env::{Random, WallTime};
use macros::Message;
use proto::codec::{Decoder, Dump};
use proto::frame::{DownFrame, UpFrame, put_frame, split_frame};
use proto::link::{self, LinkFrame};
use proto::schema::{Lock, Schema, Shape, compare};
use proto::ticket::{Claims, ResumeClaims, TicketKeys};
use proto::{
    AccountId, Bytes, EntityId, Reader, SessionId, decode, encode, put_varint, varint_len,
};

/// A target and its name.
pub type Target = (&'static str, fn(&[u8]));

/// All targets of this file.
pub const ALL: &[Target] = &[
    ("up_frame", up_frame),
    ("down_frame", down_frame),
    ("link_frame", link_frame),
    ("split", split),
    ("varint", varint),
    ("message", message),
    ("ticket", ticket),
    ("lock", lock),
    ("shape", shape),
];

/// A client's frame.
pub fn up_frame(data: &[u8]) {
    let Ok(frame) = UpFrame::decode(data) else { return };
    let mut out = Vec::new();
    frame.encode(&mut out);
    assert_eq!(UpFrame::decode(&out), Ok(frame));
    // Only unknown codes, which are read as known ones, change their length.
    assert!(out.len() <= data.len());
}

/// A gate's frame.
pub fn down_frame(data: &[u8]) {
    let Ok(frame) = DownFrame::decode(data) else { return };
    let mut out = Vec::new();
    frame.encode(&mut out);
    assert_eq!(DownFrame::decode(&out), Ok(frame));
    assert!(out.len() <= data.len());
}

/// A frame between workers.
pub fn link_frame(data: &[u8]) {
    let read = link::read_down(data);
    let Ok((worker, frame)) = LinkFrame::decode(data) else { return };
    let mut out = Vec::new();
    frame.encode(worker, &mut out);
    assert_eq!(link::destination(&out), Ok(worker));
    if let LinkFrame::Down { conn, frame } = frame {
        assert_eq!(read, Some((conn, frame)));
    } else {
        assert_eq!(read, None);
    }
    assert_eq!(LinkFrame::decode(&out), Ok((worker, frame)));
    assert!(out.len() <= data.len());
}

/// A stream of frames: however it is cut, the same frames and the same error come out.
pub fn split(data: &[u8]) {
    const MAX: usize = 300;
    let (mut frames, mut at) = (Vec::new(), 0);
    let whole = loop {
        match split_frame(&data[at..], MAX) {
            Ok(Some((payload, taken))) => {
                assert!(!payload.is_empty() && payload.len() <= MAX);
                assert_eq!(taken, payload.len() + varint_len(payload.len() as u64));
                frames.push(payload);
                at += taken;
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    let mut written = Vec::new();
    for frame in &frames {
        put_frame(&mut written, |out| out.extend_from_slice(frame));
    }
    assert_eq!(written, data[..at]);
    // What waits for more never exceeds one frame and its length.
    assert!(whole.is_err() || data.len() - at < MAX + varint_len(MAX as u64));
    let (mut buffer, mut count) = (Vec::new(), 0);
    for byte in data {
        buffer.push(*byte);
        match split_frame(&buffer, MAX) {
            Ok(Some((payload, taken))) => {
                assert_eq!((payload, taken), (frames[count], buffer.len()));
                count += 1;
                buffer.clear();
            }
            Ok(None) => {}
            Err(error) => {
                assert_eq!((Err(error), count), (whole, frames.len()));
                return;
            }
        }
    }
    assert_eq!((Ok(()), count), (whole, frames.len()));
}

/// Header fields.
pub fn varint(data: &[u8]) {
    let mut reader = Reader::new(data);
    while let Ok(value) = reader.varint() {
        let mut out = Vec::new();
        put_varint(&mut out, value);
        let read = data.len() - reader.rest().len();
        assert!(data[..read].ends_with(&out));
    }
    let mut reader = Reader::new(data);
    while reader.blob(64).is_ok() {}
    let mut reader = Reader::new(data);
    while reader.text(64).is_ok() {}
}

/// One of each type that travels.
#[derive(Clone, Debug, PartialEq, Message)]
#[message(root = proto)]
pub struct Everything {
    unit: (),
    flag: bool,
    small: (u8, u16, u32, u64),
    signed: (i8, i16, i32, i64),
    #[message(finite)]
    half: f32,
    #[message(range = -1.0..=1.0)]
    whole: f64,
    #[message(len = ..=10)]
    text: String,
    bytes: Bytes,
    option: Option<String>,
    list: Vec<Option<u16>>,
    three: [u8; 3],
    set: BTreeSet<i16>,
    map: BTreeMap<String, Vec<u8>>,
    ids: (EntityId, AccountId, SessionId),
    #[message(retired)]
    gone: (),
    /// For the corpus too.
    pub choice: Vec<Choice>,
    #[message(default)]
    inner: Option<Box<Everything>>,
    #[message(default = 7)]
    late: u32,
}

/// An enum with all kinds of variants.
#[derive(Clone, Debug, PartialEq, Message)]
#[message(root = proto)]
pub enum Choice {
    Nothing,
    Place(u8, String),
    #[message(id = 40)]
    Name {
        #[message(range = 1..)]
        a: i32,
        #[message(default)]
        b: Vec<Choice>,
    },
    #[message(fallback)]
    Other(u32),
}

/// A value of everything, for the corpus.
pub fn everything(depth: u32) -> Everything {
    Everything {
        unit: (),
        flag: true,
        small: (200, 60_000, 4_000_000_000, u64::MAX),
        signed: (-100, -30_000, -2_000_000_000, i64::MIN),
        half: 0.5,
        whole: -0.25,
        text: "grüße".into(),
        bytes: Bytes(vec![0, 255]),
        option: Some("x".repeat(40)),
        list: vec![None, Some(1), Some(1000)],
        three: [1, 2, 3],
        set: BTreeSet::from([-1, 0, 300]),
        map: BTreeMap::from([("a".into(), vec![1]), ("b".into(), vec![])]),
        ids: (EntityId::default(), AccountId(7), SessionId([7; 16])),
        gone: (),
        choice: vec![
            Choice::Nothing,
            Choice::Place(1, "p".into()),
            Choice::Name { a: 5, b: vec![Choice::Other(99)] },
        ],
        inner: (depth > 0).then(|| Box::new(everything(depth - 1))),
        late: 8,
    }
}

/// A body.
pub fn message(data: &[u8]) {
    let shown = Dump { bytes: data, chars_max: 200 }.to_string();
    assert!(shown.len() <= 1000, "{} characters", shown.len());
    let mut d = Decoder::new(data);
    let skipped = d.skip().and_then(|()| d.end()).is_ok();
    if let Ok(value) = decode::<Everything>(data) {
        assert!(skipped);
        let bytes = encode(&value);
        assert_eq!(decode::<Everything>(&bytes).as_ref(), Ok(&value));
        assert_eq!(encode(&decode::<Everything>(&bytes).expect("it was just read")), bytes);
    }
    if let Ok(value) = decode::<Vec<Choice>>(data) {
        assert_eq!(decode::<Vec<Choice>>(&encode(&value)), Ok(value));
    }
    let _ = decode::<BTreeMap<u64, BTreeSet<String>>>(data);
    let _ = decode::<Vec<Vec<Vec<()>>>>(data);
}

/// The key, ticket and token that [`ticket`] knows.
pub fn tickets() -> (TicketKeys, [Vec<u8>; 2]) {
    let keys = TicketKeys::new(vec![(1, [1; 32]), (2, [2; 32])]);
    let mut random = Random::from_seed(1);
    let claims = Claims {
        account: AccountId(1),
        level: 0,
        name: "Ada".into(),
        issued: WallTime(0),
        expires: WallTime(u64::MAX),
    };
    let grant = keys.issue(&mut random, claims);
    let resume = ResumeClaims {
        session: grant.session,
        account: AccountId(1),
        secret: grant.secret,
        level: 0,
        expires: WallTime(u64::MAX),
    };
    let token = keys.seal_resume(&mut random, &resume);
    (keys, [grant.ticket, token])
}

/// A ticket or token: nothing opens but the two that were made.
pub fn ticket(data: &[u8]) {
    let (keys, [ticket, token]) = tickets();
    let now = WallTime(1_000);
    assert_eq!(keys.open_ticket(data, now).is_ok(), data == ticket);
    assert_eq!(keys.open_resume(data, now).is_ok(), data == token);
}

/// The text of `interface.lock`.
pub fn lock(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(schema) = Schema::from_text(text) {
        let again = Schema::from_text(&schema.to_text()).expect("it was just written");
        assert_eq!(again.to_text(), schema.to_text());
        let _ = (compare(&Schema::default(), &schema), compare(&schema, &Schema::default()));
        assert!(compare(&schema, &schema).iter().all(|change| !change.breaking));
        let _ = schema.to_json();
    }
    if let Ok(lock) = Lock::parse(text) {
        assert_eq!(Lock::parse(&lock.render()), Ok(lock));
    }
}

/// The text of a shape.
pub fn shape(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(shape) = Shape::parse(text) {
        assert_eq!(Shape::parse(&shape.to_string()), Some(shape));
    }
}
