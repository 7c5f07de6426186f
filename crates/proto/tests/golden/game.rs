// Generated from the interface of the game; do not edit.
#![allow(dead_code, missing_docs, non_camel_case_types, clippy::all)]

/// What tells messages of which only the newest matters apart.
fn key_of<T: proto::Message>(value: &T) -> u64 {
    let bytes = proto::encode(value);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Hash of the interface, for the handshake.
pub const INTERFACE_HASH: u64 = 0x0225b6b826a2ba81;

#[derive(Clone, Debug, PartialEq, macros::Message)]
#[message(root = proto)]
pub enum Deed {
    #[message(id = 0)]
    Rest,
    #[message(id = 1)]
    Move {
        to: Place,
        steps: Vec<i16>,
    },
    #[message(id = 2)]
    Give(
        Item,
        u8,
    ),
}

#[derive(Clone, Debug, PartialEq, macros::Message)]
#[message(root = proto)]
pub struct Item {
    pub id: u64,
    #[message(range = "1..=99")]
    pub count: u32,
    #[message(default = Default::default(), len = "..=20")]
    pub label: String,
    #[message(retired)]
    pub colour: (),
    #[message(default = Default::default())]
    pub owner: Option<Place>,
}

#[derive(Clone, Debug, PartialEq, macros::Message)]
#[message(root = proto)]
pub enum Mood {
    #[message(id = 0)]
    Calm,
    #[message(id = 1)]
    Angry,
    #[message(id = 9, fallback)]
    Unknown,
}

#[derive(Clone, Debug, PartialEq, macros::Message)]
#[message(root = proto)]
pub struct Node {
    pub next: Option<Box<Node>>,
    pub children: Vec<Node>,
    #[message(default = Mood::Calm)]
    pub mood: Mood,
}

#[derive(Clone, Debug, PartialEq, macros::Message)]
#[message(root = proto)]
pub struct Place(
    #[message(finite)]
    pub f32,
    pub f32,
);

#[derive(Clone, Debug, PartialEq, macros::Message)]
#[message(root = proto)]
pub enum ShopError {
    #[message(id = 0)]
    Poor {
        missing: u64,
    },
    #[message(id = 1)]
    Closed,
}

/// What servers tell a client by `arena_client`.
#[derive(Clone, Debug, PartialEq)]
pub enum ArenaClientPush {
    Joined { name: String },
    Shrunk { edge: f32 },
}

impl ArenaClientPush {
    /// The ids of its methods.
    pub const METHODS: &[proto::MethodId] = &[proto::MethodId(0xffc8ab55), proto::MethodId(0x55db3efd)];

    /// Reads the arguments of `method`; `None` if it is of another interface.
    pub fn read(method: proto::MethodId, body: &[u8]) -> Option<Result<Self, proto::DecodeError>> {
        Self::METHODS.contains(&method).then(|| Self::decode(method, body))
    }

    fn decode(method: proto::MethodId, body: &[u8]) -> Result<Self, proto::DecodeError> {
        let d = &mut proto::Decoder::new(body);
        #[allow(unused_mut)]
        let mut fields = proto::codec::Fields::begin(d)?;
        let message = match method.0 {
            0xffc8ab55 => {
                let name = fields.required(d, "name")?;
                ArenaClientPush::Joined { name }
            }
            0x55db3efd => {
                let edge = fields.required(d, "edge")?;
                ArenaClientPush::Shrunk { edge }
            }
            _ => return Err(proto::codec::Problem::Missing.into()),
        };
        fields.end(d)?;
        d.end()?;
        Ok(message)
    }
}

/// What servers ask a client by `arena_client`. Publish `METHODS`; answer with `Client::answer` or `refuse`.
#[derive(Clone, Debug, PartialEq)]
pub enum ArenaClientCall {
    /// Answer with a `Item`, or refuse with a `ShopError`.
    Choose { mood: Mood },
    /// Answer with a `bool`.
    Confirm { question: String },
}

impl ArenaClientCall {
    /// The ids of its methods.
    pub const METHODS: &[proto::MethodId] = &[proto::MethodId(0x97e49cd4), proto::MethodId(0xa84d9801)];

    /// Reads the arguments of `method`; `None` if it is of another interface.
    pub fn read(method: proto::MethodId, body: &[u8]) -> Option<Result<Self, proto::DecodeError>> {
        Self::METHODS.contains(&method).then(|| Self::decode(method, body))
    }

    fn decode(method: proto::MethodId, body: &[u8]) -> Result<Self, proto::DecodeError> {
        let d = &mut proto::Decoder::new(body);
        #[allow(unused_mut)]
        let mut fields = proto::codec::Fields::begin(d)?;
        let message = match method.0 {
            0x97e49cd4 => {
                let mood = fields.required(d, "mood")?;
                ArenaClientCall::Choose { mood }
            }
            0xa84d9801 => {
                let question = fields.required(d, "question")?;
                ArenaClientCall::Confirm { question }
            }
            _ => return Err(proto::codec::Problem::Missing.into()),
        };
        fields.end(d)?;
        d.end()?;
        Ok(message)
    }
}

/// The component `bag` of the entity `avatar`.
#[derive(Clone, Copy)]
pub struct AvatarBagStub<'c> {
    client: &'c client::Client,
    stream: &'c str,
}

impl<'c> AvatarBagStub<'c> {
    /// Calls over the stream called `stream`.
    pub fn new(client: &'c client::Client, stream: &'c str) -> Self {
        Self { client, stream }
    }

    /// `bag.use_item`. Its own error is a `ShopError`: `error.app()`.
    pub async fn use_item(&self, id: u64, count: u32) -> Result<Option<Item>, client::CallError> {
        let mut body = Vec::new();
        proto::codec::put_array(&mut body, 2);
        proto::encode_into(&id, &mut body);
        proto::encode_into(&count, &mut body);
        let deadline = None;
        client::decode_reply(self.client.request_bytes(self.stream, proto::MethodId(0x37ed3d94), body, deadline).await)
    }
}

/// Calls the entity `avatar` behind a stream.
#[derive(Clone, Copy)]
pub struct AvatarStub<'c> {
    client: &'c client::Client,
    stream: &'c str,
}

impl<'c> AvatarStub<'c> {
    /// Calls over the stream called `stream`.
    pub fn new(client: &'c client::Client, stream: &'c str) -> Self {
        Self { client, stream }
    }

    /// The methods of the component `bag`.
    pub fn bag(self) -> AvatarBagStub<'c> {
        AvatarBagStub::new(self.client, self.stream)
    }

    /// `act`.
    pub async fn act(&self, deed: Deed) -> Result<Mood, client::CallError> {
        let mut body = Vec::new();
        proto::codec::put_array(&mut body, 1);
        proto::encode_into(&deed, &mut body);
        let deadline = Some(std::time::Duration::from_millis(1500));
        client::decode_reply(self.client.request_bytes(self.stream, proto::MethodId(0x12ed85c3), body, deadline).await)
    }

    /// `rest`.
    pub async fn rest(&self) -> Result<client::TellId, client::CallError> {
        let mut body = Vec::new();
        proto::codec::put_array(&mut body, 0);
        self.client.tell_bytes(self.stream, proto::MethodId(0x3eafe7fe), body).await
    }

    /// `steer`.
    pub async fn steer(&self, class: String, angle: u32) -> Result<(), client::CallError> {
        let mut body = Vec::new();
        proto::codec::put_array(&mut body, 2);
        proto::encode_into(&class, &mut body);
        proto::encode_into(&angle, &mut body);
        self.client.tell_latest_bytes(self.stream, proto::MethodId(0x10779505), key_of(&class), body).await
    }

    /// `think`.
    pub async fn think(&self, body_: Node) -> Result<client::TellId, client::CallError> {
        let mut body = Vec::new();
        proto::codec::put_array(&mut body, 1);
        proto::encode_into(&body_, &mut body);
        self.client.tell_bytes(self.stream, proto::MethodId(0x6ac73d17), body).await
    }
}

/// Calls the service `shop` behind a stream.
#[derive(Clone, Copy)]
pub struct ShopStub<'c> {
    client: &'c client::Client,
    stream: &'c str,
}

impl<'c> ShopStub<'c> {
    /// Calls over the stream called `stream`.
    pub fn new(client: &'c client::Client, stream: &'c str) -> Self {
        Self { client, stream }
    }

    /// `buy`. Its own error is a `ShopError`: `error.app()`.
    pub async fn buy(&self, items: Vec<Item>) -> Result<(), client::CallError> {
        let mut body = Vec::new();
        proto::codec::put_array(&mut body, 1);
        proto::encode_into(&items, &mut body);
        let deadline = None;
        client::decode_reply(self.client.request_bytes(self.stream, proto::MethodId(0x9b461b7c), body, deadline).await)
    }

    /// `echo`.
    pub async fn echo(&self, value: (bool, [u8; 3], std::collections::BTreeMap<String, Vec<Option<i64>>>, std::collections::BTreeSet<u16>, proto::Bytes, (proto::EntityId, proto::SessionId), f64)) -> Result<(bool, [u8; 3], std::collections::BTreeMap<String, Vec<Option<i64>>>, std::collections::BTreeSet<u16>, proto::Bytes, (proto::EntityId, proto::SessionId), f64), client::CallError> {
        let mut body = Vec::new();
        proto::codec::put_array(&mut body, 1);
        proto::encode_into(&value, &mut body);
        let deadline = None;
        client::decode_reply(self.client.request_bytes(self.stream, proto::MethodId(0xd3a3595d), body, deadline).await)
    }
}
