//! The schema: rendering, the lock, and what counts as breaking.

use expect_test::{Expect, expect};
use macros::Message;
use proto::codec::Message as _;
use proto::schema::{
    Callers, Delivery, Field, Form, Interface, Lock, LockError, Method, Pattern, Presence, Schema,
    SchemaBuilder, Shape, compare,
};
use proto::{KindId, MethodId};

#[derive(Message)]
#[message(root = proto)]
#[allow(dead_code)]
struct Item {
    name: String,
    #[message(range = 1..=100, default = 1)]
    count: u32,
    #[message(retired)]
    old: (),
    tree: Option<Box<Item>>,
}

#[derive(Message)]
#[message(root = proto)]
#[allow(dead_code)]
enum Shout {
    Quiet,
    #[message(id = 9)]
    Trade(Page<Item>),
    #[message(fallback)]
    Other,
}

#[derive(Message)]
#[message(root = proto)]
#[allow(dead_code)]
struct Page<T> {
    #[message(len = ..=50)]
    items: Vec<T>,
}

fn interface(name: &str, form: Form, methods: Vec<Method>) -> Interface {
    let methods = methods.into_iter().map(|method| (method.path.clone(), method)).collect();
    Interface {
        name: name.into(),
        id: KindId::of(name),
        form,
        aliases: vec!["Old".into()],
        methods,
    }
}

fn sample() -> Schema {
    let mut builder = SchemaBuilder::new();
    let mut say = Method::new("bag.say", Pattern::Request);
    say.callers = Callers { client: true, server: true, operator: false };
    say.args = vec![
        Field::new("what", Shout::shape(&mut builder)).presence(Presence::Required),
        Field::new("loud", Shape::F32).presence(Presence::Default).finite(),
    ];
    say.reply = Some(Shape::Tuple(vec![Shape::U8, Shape::Reference("Avatar".into())]));
    say.error = Some(Shape::Text);
    say.aliases = vec!["bag.shout".into()];
    (say.level, say.deadline_ms, say.rate, say.idempotent) = (1, 4000, Some("30/s".into()), true);
    let mut audit = Method::new("audit", Pattern::Invoke);
    audit.callers.server = true;
    let mut frame = Method::new("frame", Pattern::Sync);
    frame.delivery = Delivery::Latest(None);
    frame.args = vec![Field::new("data", Shape::Bytes)];
    builder.interface(interface("Avatar", Form::Entity, vec![say, audit]));
    let mut client = interface("ArenaClient", Form::Client, vec![frame]);
    client.aliases.clear();
    builder.interface(client);
    builder.finish().unwrap()
}

/// The text of a lock, for damaging.
pub fn sample_lock() -> String {
    Lock::new(sample()).render()
}

#[test]
fn lock_text_is_readable_and_comes_back() {
    let lock = Lock::new(sample());
    expect![[r#"
        # interface.lock, format 1: what this game promises to older peers.
        # Written by `MAINSTAY_INTERFACE=update cargo test`, verified by every `cargo test`. Commit it, do not edit it.
        client 6ec4a005d9a8a979

        client-interface ArenaClient d9a53cdf
          method frame ca7a7305 sync nobody
            arg data bytes
            latest

        entity Avatar 61075303
          alias Old
          method audit 6f0f6b63 invoke server
          method bag.say df95dc13 request client,server
            alias bag.shout
            arg what Shout
            arg loud f32 default finite
            reply tuple<u8,ref<Avatar>>
            error text
            level 1
            deadline 4000
            rate 30/s
            idempotent

        struct Item
          field name text
          field count u32 default range=1..=100
          field old unit retired
          field tree option<Item>

        struct Page_Item
          field items list<Item> len=..=50

        enum Shout
          variant 0 Quiet
          variant 9 Trade
            field 0 Page_Item
          variant 10 Other
          fallback 10
    "#]]
    .assert_eq(&lock.render());
    assert_eq!(Lock::parse(&lock.render()), Ok(lock.clone()));
    assert_eq!(lock.verify(&sample()), Ok(()));
}

#[test]
fn every_cut_or_garbled_lock_is_an_error_not_a_panic() {
    let text = Lock::new(sample()).render();
    for cut in 0..text.len() {
        let cut_text = &text[..text.floor_char_boundary(cut)];
        // What is cut off at a line's end may still read, but then the hash or schema differs.
        if let Ok(lock) = Lock::parse(cut_text) {
            assert!(lock.verify(&sample()).is_err() || cut + 1 >= text.len(), "{cut}");
        }
    }
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let garbled = text.replacen(line, &format!("{line} %"), 1);
        assert!(Lock::parse(&garbled) != Ok(Lock::new(sample())), "{line}");
    }
}

#[test]
fn json_is_stable() {
    let json = sample().to_json();
    let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        parsed["interfaces"]["Avatar"]["methods"]["bag.say"]["args"][0]["shape"]["type"],
        "Shout"
    );
    assert_eq!(parsed["types"]["Item"]["struct"][3]["shape"]["option"]["type"], "Item");
    assert_eq!(parsed["types"]["Shout"]["fallback"], 10);
    assert_eq!(json, sample().to_json());
}

#[test]
fn hash_covers_only_what_clients_see() {
    let hash = sample().interface_hash();
    let mut other = sample();
    let avatar = other.interfaces.get_mut("Avatar").unwrap();
    avatar.methods.remove("audit");
    avatar.methods.get_mut("bag.say").unwrap().rate = None;
    avatar.methods.get_mut("bag.say").unwrap().callers.operator = true;
    assert_eq!(other.interface_hash(), hash);
    let avatar = other.interfaces.get_mut("Avatar").unwrap();
    avatar.methods.get_mut("bag.say").unwrap().args.pop();
    assert_ne!(other.interface_hash(), hash);
}

#[test]
fn contradictions_are_refused() {
    let mut builder = SchemaBuilder::new();
    Item::shape(&mut builder);
    mod other {
        #[derive(macros::Message)]
        #[message(root = proto, name = "Item")]
        #[allow(dead_code)]
        pub struct Thing(pub Option<Option<u8>>);
    }
    other::Thing::shape(&mut builder);
    let twice = Method { aliases: vec!["b".into()], ..Method::new("a", Pattern::Tell) };
    let mut kind = interface("K", Form::Entity, vec![twice, Method::new("b", Pattern::Tell)]);
    kind.methods.get_mut("b").unwrap().reply = Some(Shape::Option(Box::new(Shape::Unit)));
    builder.interface(kind);
    builder.interface(interface("L", Form::Service, vec![]));
    expect![[r#"
        the declarations contradict each other:
        it::schema::Item and it::schema::contradictions_are_refused::other::Thing are both called Item: give one of them #[message(name = "..")]
        L (as Old) and K (as Old) have one id: rename one of them
        K.b (as b) and K.a (as b) have one id: rename one of them
        K.b: the answer is an option of an option or of (), which travels as one nil: use an enum"#]]
    .assert_eq(&builder.finish().unwrap_err().to_string());
}

pub const BASE: &str = "
entity Avatar ID
  alias Hero
  method use ID request client
    alias utilize
    arg item Item
    arg times u8 default
    reply u32
    error Fault
    idempotent
  method stop ID tell server
client-interface Screen ID
  method show ID sync nobody
    arg all list<Item>
struct Item
  field name text
  field count u32 range=1..=100
  field note text default
enum Fault
  variant 0 Empty
  variant 1 Busy
    field seconds u32
enum Open
  variant 0 A
  variant 9 Unknown
  fallback 9
document Avatar/self 2 1
  field level u32 default range=..=100
  field items list<Item> default
  field speed f32 default
document record/guild 1 1
  field title text default
";

/// Puts the right ids where `ID` stands.
fn schema(text: &str) -> Schema {
    let lines = text.lines().map(|line| {
        let mut words = line.split_whitespace();
        let id = match (words.next(), words.next()) {
            (Some("method"), Some(path)) => MethodId::of_path(path).0,
            (Some(_), Some(name)) => KindId::of(name).0,
            _ => 0,
        };
        line.replace("ID", &format!("{id:08x}"))
    });
    Schema::from_text(&lines.collect::<Vec<_>>().join("\n")).unwrap()
}

/// Shows what changes when `from` in the base is replaced by `to`: `!` breaks, `c` clients see it.
fn check(from: &str, to: &str, expected: Expect) {
    assert!(BASE.contains(from), "{from}");
    let changes = compare(&schema(BASE), &schema(&BASE.replacen(from, to, 1)));
    let lines = changes.iter().map(|change| {
        let breaks = if change.breaking { "!" } else { "-" };
        let client = if change.client { "c" } else { "s" };
        format!("{breaks}{client} {change}")
    });
    expected.assert_eq(&lines.collect::<Vec<_>>().join("\n"));
}

#[test]
fn nothing_changed() {
    check("entity", "entity", expect![""]);
}

#[test]
fn removed_and_renamed_methods() {
    check(
        "  method stop ID tell server\n",
        "",
        expect![[r#"!s Avatar.stop: was removed: keep it, or give its successor `alias = ".."`"#]],
    );
    check(
        "method stop ID tell server",
        "method halt ID tell server\n    alias stop",
        expect!["-s Avatar.stop: is called halt now"],
    );
    check(
        "    alias utilize\n",
        "",
        expect![
            "!c Avatar.use: alias utilize was removed, which peers and documents may still use"
        ],
    );
    check(
        "method stop ID tell server",
        "method stop ID tell server\n  method more ID tell server",
        expect!["-s Avatar.more: is new"],
    );
}

/// A field that was removed or had another type was no mistake that anything noticed: what was stored of
/// it was gone, or the document could not be read, with the release that came next.
#[test]
fn f1_what_is_stored_may_grow_and_is_never_lost() {
    check(
        "  field speed f32 default\n",
        "",
        expect![
            "!s Avatar/self.speed: was removed, and what is stored of it would be lost: raise the version, with a step from the older type (`from = OldType`)"
        ],
    );
    check(
        "  field items list<Item> default\n  field speed f32 default\n",
        "  field speed f32 default\n",
        expect![
            "!s Avatar/self.items: speed stands in its place: new fields go to the end, and none changes its place; or raise the version, with a step from the older type (`from = OldType`)"
        ],
    );
    check(
        "field speed f32",
        "field speed text",
        expect![
            "!s Avatar/self.speed: was f32 and is text, as which it cannot be read: raise the version, with a step from the older type (`from = OldType`)"
        ],
    );
    check(
        "document Avatar/self 2 1\n  field level u32 default range=..=100\n",
        "document Avatar/self 3 1\n",
        expect!["-s Avatar/self: version 2 became 3, by steps"],
    );
    check(
        "document Avatar/self 2 1\n  field level u32 default range=..=100\n",
        "document Avatar/self 3 3\n",
        expect![
            "!s Avatar/self: no step leads from version 2 to 3: name the older type with `#[document(version = .., from = OldType)]`"
        ],
    );
    check(
        "document Avatar/self 2 1",
        "document Avatar/self 1 1",
        expect!["!s Avatar/self: version 2 became 1: documents of 2 are refused"],
    );
    check(
        "document record/guild 1 1\n  field title text default\n",
        "",
        expect![
            "!s record/guild: was removed: what is stored of it would be read by nobody any more; keep it"
        ],
    );
    check(
        "  field title text default\n",
        "  field name text default\n  field motto text default\n",
        expect!["-s record/guild.title: is called name now\n-s record/guild.motto: field is new"],
    );
    check(
        "range=..=100",
        "range=..=90",
        expect!["!s Avatar/self.level: range was ..=100 and is ..=90: older writers send more"],
    );
    // What is stored is of no matter to clients, which keep their interface.
    let (old, new) = (schema(BASE), schema(&BASE.replace("speed f32", "speed f64")));
    assert_eq!(old.interface_hash(), new.interface_hash());
}

#[test]
fn renamed_and_removed_kinds() {
    check(
        "entity Avatar ID\n",
        "entity Body ID\n  alias Avatar\n",
        expect!["-c Avatar: is called Body now"],
    );
    check(
        "entity Avatar ID\n  alias Hero",
        "entity Avatar2 ID\n  alias Hero",
        expect![[r#"
            !c Avatar: entity was removed: keep it, or give its successor `alias = ".."`
            -c Avatar2: entity is new"#]],
    );
    check(
        "entity Avatar",
        "service Avatar",
        expect!["!c Avatar: entity became service: choose another name"],
    );
}

#[test]
fn method_signatures() {
    check(
        "request client",
        "tell server",
        expect![[r#"
            !c Avatar.use: request became tell: add a new method instead
            !c Avatar.use: a client may no longer call it
            -c Avatar.use: a server may call it now"#]],
    );
    check(
        "reply u32",
        "reply u64",
        expect!["!c Avatar.use: its reply was u32 and is u64: add a new method instead"],
    );
    check("    reply u32\n", "", expect!["!c Avatar.use: has no reply (u32) any more"]);
    check(
        "    arg times u8 default\n",
        "    arg times u8 default\n    arg far u8\n",
        expect![
            "!c Avatar.use.far: argument is new and older writers do not have it: give it a default"
        ],
    );
    check(
        "    arg times u8 default\n",
        "    arg times u8 default\n    arg far u8 default\n    level 2\n",
        expect![[r#"
            -c Avatar.use.far: argument is new
            -c Avatar.use: level 0 became 2"#]],
    );
    check(
        "    idempotent\n",
        "",
        expect![[r#"
            !c Avatar.use: is no longer idempotent, but older callers repeat it
            -c Avatar.use: delivery, deadline, rate or idempotence changed"#]],
    );
}

#[test]
fn struct_fields() {
    check(
        "  field count",
        "  field size u8 default\n  field count",
        expect![
            "!c Item.count: field size stands in its place: new ones go to the end, and none changes its place"
        ],
    );
    check(
        "  field note text default\n",
        "",
        expect!["!c Item.note: field was removed: keep its place with #[message(retired)]"],
    );
    check("note text default", "note unit retired", expect!["-c Item.note: field is retired"]);
    check(
        "count u32 range=1..=100",
        "count unit retired",
        expect![
            "!c Item.count: field is retired, but the last release cannot do without it: release it with a default first"
        ],
    );
    check(
        "count u32 range=1..=100",
        "amount u32 range=1..=200",
        expect![[r#"
        -c Item.count: is called amount now
        -c Item.count: range was 1..=100 and is 1..=200"#]],
    );
    check(
        "range=1..=100",
        "range=1..100",
        expect!["!c Item.count: range was 1..=100 and is 1..100: older writers send more"],
    );
    check(
        "count u32",
        "count u64",
        expect!["!c Item.count: was u32 and is u64: retire it and add a new one"],
    );
    check(
        "note text default",
        "note text",
        expect!["!c Item.note: field lost its default, older writers may lack it"],
    );
    check(
        "note text default\n",
        "note text default\n  field more map<u8,list<text>> default\n",
        expect!["-c Item.more: field is new"],
    );
    check(
        "note text default\n",
        "note text default\n  field more map<u8,list<text>>\n",
        expect!["!c Item.more: field is new and older writers do not have it: give it a default"],
    );
}

#[test]
fn enums() {
    check("variant 1 Busy", "variant 1 Slow", expect!["-c Fault::Busy: is called Slow now"]);
    check(
        "variant 0 Empty",
        "variant 2 Empty",
        expect![[r#"
            !c Fault::Empty: number 0 was removed: keep it
            !c Fault::Empty: is new, and the last release has no fallback for it: release the enum with a #[message(fallback)] variant first"#]],
    );
    check("variant 0 A", "variant 0 A\n  variant 1 B", expect!["-s Open::B: is new"]);
    check(
        "variant 9 Unknown\n  fallback 9",
        "variant 9 Unknown",
        expect!["!s Open: its fallback 9 was removed"],
    );
    check(
        "    field seconds u32",
        "    field millis u32",
        expect!["-c Fault::Busy.seconds: is called millis now"],
    );
    check(
        "variant 0 Empty\n  variant 1 Busy\n    field seconds u32",
        "variant 0 Busy\n    field seconds u32\n  variant 1 Empty",
        expect![[r#"
            !c Fault::Empty: its number 0 is Busy's now: give each its old id
            !c Fault::Busy: its number 1 is Empty's now: give each its old id"#]],
    );
}

#[test]
fn a_renamed_type_is_compared_with_what_it_was() {
    let renamed = BASE.replace("Item", "Thing");
    let changes = compare(&schema(BASE), &schema(&renamed));
    assert_eq!(
        changes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["Item: is called Thing now"]
    );
    let changed = renamed.replace("count u32", "count i32");
    let changes = compare(&schema(BASE), &schema(&changed));
    assert!(changes.iter().any(|change| change.breaking), "{changes:?}");
}

/// Method ids went by position, and the interface hash was computed but never compared: adding a
/// method broke every old peer, and nobody noticed.
#[test]
fn x17_ids_come_from_names_and_the_hash_is_compared() {
    let first = Lock::new(schema(BASE));
    let grown =
        schema(&BASE.replace("  method stop", "  method aaa ID request client\n  method stop"));
    assert_eq!(
        grown.interfaces["Avatar"].methods["use"].id,
        first.schema.interfaces["Avatar"].methods["use"].id
    );
    assert!(matches!(first.verify(&grown), Err(LockError::OutOfDate(_))));
    let second = first.update(grown, false).unwrap();
    assert!(second.accepts_client(first.schema.interface_hash()));
    assert!(second.accepts_client(second.schema.interface_hash()));
    assert!(!second.accepts_client(12345));
    assert_eq!(Lock::parse(&second.render()), Ok(second));
}

#[test]
fn breaking_on_purpose_retires_the_id_for_ever() {
    let first = Lock::new(schema(BASE));
    let cut = || schema(&BASE.replace("request client", "request server"));
    assert!(matches!(first.verify(&cut()), Err(LockError::Breaking(_))));
    assert!(first.update(cut(), false).is_err());
    let second = first.update(cut(), true).unwrap();
    assert!(!second.accepts_client(first.schema.interface_hash()));

    let removed = schema(&BASE.replace("  method stop ID tell server\n", ""));
    let third = first.update(removed, true).unwrap();
    assert_eq!(third.retired.keys().collect::<Vec<_>>(), ["Avatar.stop"]);
    let error = third.update(schema(BASE), false).unwrap_err().to_string();
    assert!(error.contains("reuses the id"), "{error}");
    assert_eq!(Lock::parse(&third.render()), Ok(third.clone()));
    assert!(third.update(schema(BASE), true).unwrap().retired.is_empty());
}
