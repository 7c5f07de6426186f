//! The texts generated from a schema, as golden files. `UPDATE_EXPECT=1` writes them anew.

use std::collections::{BTreeMap, BTreeSet};

use expect_test::expect_file;
use macros::Message;
use proto::schema::{
    Callers, Delivery, Field, Form, Interface, Method, Pattern, Presence, Schema, SchemaBuilder,
};
use proto::{Bytes, EntityId, KindId, Message as _, SessionId, schema_rs, schema_ts};

#[derive(Message)]
#[message(root = proto)]
#[allow(dead_code)]
struct Item {
    id: u64,
    #[message(range = "1..=99")]
    count: u32,
    #[message(len = "..=20", default)]
    label: String,
    #[message(retired)]
    colour: u8,
    #[message(default)]
    owner: Option<Place>,
}

#[derive(Default, Message)]
#[message(root = proto)]
#[allow(dead_code)]
struct Place(#[message(finite)] f32, f32);

#[derive(Message)]
#[message(root = proto)]
#[allow(dead_code)]
enum Mood {
    Calm,
    Angry,
    #[message(id = 9, fallback)]
    Unknown,
}

#[derive(Message)]
#[message(root = proto)]
#[allow(dead_code)]
enum Deed {
    Rest,
    Move { to: Place, steps: Vec<i16> },
    Give(Item, u8),
}

/// Holds itself, in a box and in a list.
#[derive(Message)]
#[message(root = proto)]
#[allow(dead_code)]
struct Node {
    next: Option<Box<Node>>,
    children: Vec<Node>,
    #[message(default = Mood::Calm)]
    mood: Mood,
}

#[derive(Message)]
#[message(root = proto)]
#[allow(dead_code)]
enum ShopError {
    Poor { missing: u64 },
    Closed,
}

type Everything = (
    bool,
    [u8; 3],
    BTreeMap<String, Vec<Option<i64>>>,
    BTreeSet<u16>,
    Bytes,
    (EntityId, SessionId),
    f64,
);

fn method(path: &str, pattern: Pattern, args: Vec<Field>) -> Method {
    Method {
        callers: Callers { client: true, ..Callers::default() },
        args,
        ..Method::new(path, pattern)
    }
}

fn interface(name: &str, form: Form, methods: Vec<Method>) -> Interface {
    Interface {
        name: name.to_owned(),
        id: KindId::of(name),
        form,
        aliases: Vec::new(),
        methods: methods.into_iter().map(|method| (method.path.clone(), method)).collect(),
    }
}

fn game() -> Schema {
    let s = &mut SchemaBuilder::new();
    let item = Item::shape(s);
    let mood = Mood::shape(s);
    let deed = Deed::shape(s);
    let error = ShopError::shape(s);
    let everything = Everything::shape(s);
    let node = Node::shape(s);
    let number = u32::shape(s);
    let text = String::shape(s);
    let avatar = interface(
        "avatar",
        Form::Entity,
        vec![
            Method {
                reply: Some(mood.clone()),
                deadline_ms: 1500,
                ..method("act", Pattern::Request, vec![Field::new("deed", deed.clone())])
            },
            method("rest", Pattern::Tell, Vec::new()),
            method("think", Pattern::Tell, vec![Field::new("body", node)]),
            Method {
                delivery: Delivery::Latest(Some("class".to_owned())),
                ..method(
                    "steer",
                    Pattern::Tell,
                    vec![
                        Field::new("class", text.clone()),
                        Field::new("angle", number.clone()).range("0..=359"),
                    ],
                )
            },
            Method {
                reply: Some(Option::<Item>::shape(s)),
                error: Some(error.clone()),
                ..method(
                    "bag.use_item",
                    Pattern::Request,
                    vec![
                        Field::new("id", u64::shape(s)),
                        Field::new("count", number.clone()).presence(Presence::Default),
                    ],
                )
            },
            Method { callers: Callers::default(), ..method("secret", Pattern::Invoke, Vec::new()) },
        ],
    );
    let shop = interface(
        "shop",
        Form::Service,
        vec![
            Method {
                reply: Some(<()>::shape(s)),
                error: Some(error.clone()),
                ..method("buy", Pattern::Request, vec![Field::new("items", Vec::<Item>::shape(s))])
            },
            Method {
                reply: Some(everything.clone()),
                ..method("echo", Pattern::Request, vec![Field::new("value", everything)])
            },
        ],
    );
    let client = interface(
        "arena_client",
        Form::Client,
        vec![
            method("joined", Pattern::Sync, vec![Field::new("name", text.clone())]),
            method("shrunk", Pattern::Multicast, vec![Field::new("edge", f32::shape(s))]),
            Method {
                reply: Some(bool::shape(s)),
                ..method("confirm", Pattern::Call, vec![Field::new("question", text)])
            },
            Method {
                reply: Some(item),
                error: Some(error),
                ..method("choose", Pattern::Call, vec![Field::new("mood", mood)])
            },
        ],
    );
    for interface in [avatar, shop, client] {
        s.interface(interface);
    }
    std::mem::take(s).finish().unwrap()
}

#[test]
fn typescript_of_a_schema() {
    expect_file!["../golden/game.ts"].assert_eq(&schema_ts::typescript(&game()));
}

#[test]
fn rust_of_a_schema() {
    expect_file!["../golden/game.rs"].assert_eq(&schema_rs::rust(&game()));
}

#[test]
fn generated_texts_do_not_depend_on_the_order_of_declarations() {
    let text = schema_ts::typescript(&game());
    assert_eq!(text, schema_ts::typescript(&game()));
}
