//! What the attributes say when a declaration is wrong.

use expect_test::{Expect, expect};
use proc_macro2::TokenStream;

/// The messages of all errors in expanded code, one a line.
fn errors(expanded: syn::Result<TokenStream>) -> String {
    let tokens = expanded.unwrap_or_else(syn::Error::into_compile_error);
    let mut lines = Vec::new();
    collect(tokens, &mut lines);
    lines.join("\n")
}

/// Finds `compile_error! { "text" }` wherever it stands.
fn collect(tokens: TokenStream, lines: &mut Vec<String>) {
    let mut after_name = false;
    for tree in tokens {
        match tree {
            proc_macro2::TokenTree::Group(group) => {
                if after_name && let Ok(text) = syn::parse2::<syn::LitStr>(group.stream()) {
                    lines.push(text.value());
                }
                collect(group.stream(), lines);
                after_name = false;
            }
            proc_macro2::TokenTree::Ident(ident) => after_name = ident == "compile_error",
            _ => {}
        }
    }
}

fn check_rpc(methods: &str, expected: Expect) {
    let item = format!("impl Counter {{ {methods} }}").parse().unwrap();
    expected.assert_eq(&errors(crate::rpc::expand(TokenStream::new(), item)));
}

fn check_client(methods: &str, expected: Expect) {
    let item = format!("trait Page {{ {methods} }}").parse().unwrap();
    expected.assert_eq(&errors(crate::client::expand(TokenStream::new(), item)));
}

fn check_service(methods: &str, expected: Expect) {
    let item = format!("trait Shop {{ {methods} }}");
    let item = syn::parse_str(&item).unwrap();
    expected.assert_eq(&errors(crate::service::expand(TokenStream::new(), item)));
}

fn check_entity(attr: &str, item: &str, expected: Expect) {
    let item = syn::parse_str(item).unwrap();
    expected.assert_eq(&errors(crate::entity::expand(attr.parse().unwrap(), item, "Keyed")));
}

#[test]
fn callers_must_be_stated() {
    check_rpc(
        "#[request] fn a(&mut self) -> u8 { 0 }
         #[tell] fn b(&mut self) {}
         #[tell(client, client)] fn c(&mut self) {}
         #[tell(anyone)] fn d(&mut self) {}",
        expect![[r#"
            who may call this? write `#[request(client)]` (a server's call is `#[invoke]`); nothing is callable unless stated
            who may call this? write `#[tell(client)]`, `#[tell(server)]` or `#[tell(client, server)]`; nothing is callable unless stated
            caller named twice
            unknown option; known here: the callers `client`, `server`, `operator`, and `deadline = "4s"`, `level = 1`, `rate = "30/s"`, `interleave`, `idempotent`, `latest`, `alias = "old_name"`"#]],
    );
}

#[test]
fn unmarked_methods_stay_private_and_need_nothing() {
    check_rpc("fn helper<T>(&self, (a, b): (T, &str)) -> &str { b }", expect![[r#""#]]);
}

#[test]
fn patterns_and_results_must_fit() {
    check_rpc(
        "#[tell(client)] fn a(&mut self) -> u8 { 0 }
         #[tell(client)] #[invoke] fn b(&mut self) {}
         #[invoke] #[invoke] fn c(&mut self) {}
         #[call] fn d(&mut self) {}
         #[timer] fn e(&mut self) -> u8 { 0 }
         #[timer] #[invoke] fn f(&mut self) {}
         #[invoke] fn g(&mut self) -> Result<u8> { Ok(0) }
         #[invoke] fn h(&self) -> &str { \"\" }
         #[invoke(latest)] fn i(&mut self) {}
         #[timer(every = 1)] fn j(&mut self) {}
         #[event] fn k(&mut self) {}
         #[event] #[timer] fn l(&mut self, x: u8) {}",
        expect![[r#"
            a tell has no answer: drop the return value, or make it a `request` or `invoke`
            a tell has no answer and a request or invoke has one: write two methods
            `invoke` is stated twice
            `call` belongs to a `#[client]` interface; on an entity or service write `#[request(client)]` or `#[invoke]`
            nobody waits for a timer: give nothing back, or `Result<(), E>` to have the error reported
            a timer, hook or event runs by itself; for a method that is also called from elsewhere write a second one
            write `Result<T, E>` with both types: callers see the error type `E`
            an answer travels, so it is an owned value: clone what is borrowed
            `latest` drops older messages, so nobody may wait for an answer: it goes with `tell`
            takes no arguments: write `#[timer]`, `#[hook]` or `#[event]`
            an event takes what was published, as its one argument, and gives nothing back
            a method is a timer, a hook or an event: one of them"#]],
    );
}

#[test]
fn receivers_must_fit() {
    check_rpc(
        "#[invoke] fn a(self) {}
         #[invoke] fn b(count: u8) {}
         #[invoke] async fn c(this: This<Self>) {}
         #[invoke(interleave)] async fn d(&mut self) {}
         #[invoke(interleave)] fn e(this: This<Self>) {}",
        expect![[r#"
            an entity stays where it is: take `&mut self`, or `this: This<Self>` in an `interleave` method
            needs a receiver: `&mut self` (or `this: This<Self>` with `interleave`)
            `this: This<Self>` lets other turns run in between: mark the method `interleave`, or take `&mut self`
            an `interleave` method shares its entity with other turns: take `this: This<Self>` and use `this.with(|state| ..)`
            `interleave` says what may happen at an await: make it an `async fn`"#]],
    );
}

#[test]
fn arguments_are_named_owned_values_with_known_limits() {
    check_rpc(
        "#[invoke] fn a(&mut self, name: &str) {}
         #[invoke] fn b(&mut self, (x, y): (u8, u8)) {}
         #[invoke] fn c(&mut self, it: impl Into<u8>) {}
         #[invoke] fn d(&mut self, x: u8, cx: &mut Cx<Self>) {}
         #[invoke] fn e<T>(&mut self, x: T) {}
         #[invoke] fn f(&mut self, #[arg(most = 3)] x: u8) {}
         #[invoke] fn g(&mut self, #[arg(range = 3)] x: u8) {}",
        expect![[r#"
            a remote argument travels, so it is an owned value: `String` for `&str`, `Vec<T>` for `&[T]`
            a remote argument needs a plain name: it appears in the schema and in stubs
            a remote argument needs one named type
            the context comes right after the receiver
            a remote method has one encoding, so it takes no type or lifetime parameters
            unknown; known on an argument: `range = 1..=100`, `len = ..=64`, `finite`, `default`, `default = ..`
            write a range such as `1..=100` or `..=64`"#]],
    );
}

#[test]
fn options_say_how_they_are_written() {
    check_rpc(
        "#[invoke(deadline = \"4 parsecs\")] fn a(&mut self) {}
         #[invoke(deadline = \"0s\")] fn b(&mut self) {}
         #[request(client, rate = \"many\")] fn c(&mut self) {}
         #[request(client, level = 300)] fn d(&mut self) {}
         #[tell(client, latest(z))] fn e(&mut self, x: u8) {}",
        expect![[r#"
            write a span of time such as "250ms" or "4s"
            write a span of time such as "250ms" or "4s"
            write a rate such as "30/s" or "5/10s"
            number too large to fit in target type
            no argument has this name"#]],
    );
}

#[test]
fn names_and_former_names_tell_methods_apart() {
    check_rpc(
        "#[invoke] fn buy(&mut self) {}
         #[invoke(alias = \"buy\")] fn purchase(&mut self) {}
         #[invoke(alias = \"gone\")] fn a(&mut self) {}
         #[invoke(alias = \"gone\")] fn b(&mut self) {}
         #[invoke] fn use_item(&mut self) {}
         #[invoke] fn use__item(&mut self) {}",
        expect![[r#"
            `buy` already names the method `buy`
            `gone` already names the method `a`
            `use_item` and `use__item` are too alike: rename one"#]],
    );
}

#[test]
fn hooks_have_known_names_and_arguments() {
    check_rpc(
        "#[hook] fn on_start(&mut self) {}
         #[hook] fn created(&mut self, cx: &mut Cx<Self>, peer: Peer) {}
         #[hook] fn online(&mut self, peer: &Peer, code: CloseCode) {}
         #[hook] async fn destroyed(&mut self) {}
         #[hook] fn loaded(&mut self) -> u8 { 0 }",
        expect![[r#"
            no point in an entity's life has this name; there are: created, loaded, online, offline, before_save, before_move, moved, daily, reloaded, destroyed, step
            `created` takes nothing besides the context
            `online` takes at most the peer: `peer: &Peer`
            nothing is waited for after the end: make it a plain `fn`
            nobody reads what a hook gives back: no return value"#]],
    );
}

#[test]
fn client_interfaces_are_functions_without_bodies() {
    check_client(
        "#[sync] fn a(name: String) {}
         fn b();
         #[sync] fn c(&self);
         #[sync] fn d() -> u8;
         #[call(latest)] fn e() -> u8;
         #[sync(latest, unreliable)] fn f();
         #[sync(often)] fn g();
         #[sync(deadline = \"2s\")] fn h();
         #[sync] async fn i();
         #[sync] #[call] fn j();
         const K: u8;",
        expect![[r#"
            the client has the body: end with `;`
            how is this sent? write `#[sync]`, `#[sync(latest)]`, `#[sync(unreliable)]`, `#[multicast]` (groups only) or `#[call]` (with an answer)
            leave out `self`: the client is somewhere else
            nobody waits for this: drop the return value, or make it a `#[call]`
            a server waits for the answer to a call, so it can be neither `latest` nor `unreliable`
            `latest` is reliable in that the newest arrives: choose one
            unknown option; known here: `latest`, `latest(argument)`, `unreliable`, `alias = ".."`, and for `call` `deadline = "2s"`
            without an answer there is no deadline
            whether it waits is up to the client: drop `async`
            one pattern is enough
            a client interface has functions only"#]],
    );
}

#[test]
fn service_interfaces_are_stateless_remote_methods() {
    check_service(
        "fn a(&self);
         #[invoke] fn b(&mut self);
         #[timer] fn c(&self);
         #[invoke] fn d(&self) {}
         type E;",
        expect![[r#"
            a service's trait holds remote methods only: state pattern and callers, such as `#[request(client)]` or `#[invoke]`; helpers belong to the implementing type
            a service is stateless and its turns run side by side: take `&self`
            timers and hooks are up to the implementing type, not to the interface
            a service's trait states what callers see: no bodies
            a service has methods only"#]],
    );
}

/// An attribute said in which namespace a service is. Its argument was ignored.
#[test]
fn x19_a_scope_takes_no_argument_and_is_said_once() {
    check_entity(
        "zone = \"east\"",
        "struct A;",
        expect![[
            r#"`zone` takes no argument: each zone has its own, and the cluster file says of which zones a process is"#
        ]],
    );
    check_entity(
        "channel(\"ios\")",
        "struct A;",
        expect![[
            r#"`channel` takes no argument: each channel has its own, and the cluster file says of which channels a process is"#
        ]],
    );
    check_entity("global = true", "struct A;", expect!["`global` takes no argument"]);
    check_entity(
        "zone, global",
        "struct A;",
        expect!["it is `zone` already: write one of `zone`, `channel`, `global`"],
    );
    check_entity(
        "room, zone",
        "struct A;",
        expect![
            "a room is where it was made: choose its zone as it is placed, `cx.placing().zone(..)`"
        ],
    );
}

#[test]
fn kinds_have_plain_types_and_known_options() {
    check_entity(
        "",
        "struct A<T> { x: T }",
        expect!["an entity kind has one name and one encoding, so it takes no parameters"],
    );
    check_entity(
        "rooms",
        "struct A;",
        expect![[
            r#"unknown option; known here: `name = ".."`, `alias = ".."`, `room`, `singleton`, `zone`, `channel`, `global`, `document`, `store = ".."`, `create = path`, `mailbox_max = 64`, `calls_max = 16`, `turns_max = 16`, `in_flight_max = 888`, `steps_per_second = 20`, `on_panic = restart`, `root = path`"#
        ]],
    );
    check_entity(
        "mailbox_max = 0",
        "struct A;",
        expect!["nothing would get in: leave it out or raise it"],
    );
    check_entity(
        "store = \"accounts\"",
        "struct A;",
        expect!["what has no `document` is kept in no store"],
    );
    check_entity("on_panic = ignore", "struct A;", expect!["write `restart` or `remove`"]);
    check_entity("name = \"\"", "struct A;", expect!["a name has 1 to 64 bytes"]);
    let component = |attr: &str| {
        let item = "struct Bag;".parse().unwrap();
        errors(crate::entity::expand_component(attr.parse().unwrap(), item))
    };
    expect!["of which entity? write `#[component(of = Avatar)]`"].assert_eq(&component(""));
    expect!["unknown option; known here: `of = Entity`, `needs(Other)`"]
        .assert_eq(&component("of = Avatar, after(Wallet)"));
}

#[test]
fn tests_are_async_and_take_the_cluster() {
    let test = |item: &str| {
        errors(crate::test::expand("seed = 1".parse().unwrap(), item.parse().unwrap()))
    };
    expect!["a test against a cluster waits for answers: make it an `async fn`"]
        .assert_eq(&test("fn a(cluster: Cluster) {}"));
    expect!["takes the cluster as its one argument: `cluster: Cluster`"]
        .assert_eq(&test("async fn a() {}"));
    expect![[r#""#]].assert_eq(&test("async fn a(cluster: Cluster) {}"));
}
