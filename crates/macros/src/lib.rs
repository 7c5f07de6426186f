//! The attributes and derives of Mainstay.
//!
//! Generated paths start at `::mainstay::rt`, or at the `root` given in the attribute.

mod arg;
mod client;
mod dispatch;
mod document;
mod entity;
mod kind;
mod message;
mod method;
mod options;
mod rpc;
mod service;
mod stub;
mod test;
#[cfg(test)]
mod tests;
mod wire;

use proc_macro::TokenStream;
use syn::parse::Parser;
use syn::{Error, Item, Path};

/// Makes a struct an entity kind. Its methods stand in one `#[rpc]` block of the same module.
///
/// Fields of type `Component<C>` are its components. Options: `name = ".."` (else the type's name
/// in snake case), `alias = ".."` (a former name), `room` (only by spawn), `singleton`, `zone` or
/// `channel` (each has its own; else `global`: one in the cluster),
/// `create = path` (a `fn(u64) -> Self`; else `Default`), `document` (kept in the store; the type
/// and its components marked `#[persist]` derive `Document`), `store = "accounts"` (not in the default store but in the one that
/// the cluster file names so), `mailbox_max`, `calls_max`, `turns_max`, `on_panic = restart | remove`, `steps_per_second = 20` (a scene, with a step hook).
#[proc_macro_attribute]
pub fn entity(attr: TokenStream, item: TokenStream) -> TokenStream {
    let expanded =
        syn::parse2(item.into()).and_then(|item| entity::expand(attr.into(), item, "Keyed"));
    finish(expanded)
}

/// Makes a struct a component: `#[component(of = Avatar, needs(Wallet))]`. Its methods stand in
/// one `#[rpc]` block of the same module; what it needs starts before it.
#[proc_macro_attribute]
pub fn component(attr: TokenStream, item: TokenStream) -> TokenStream {
    finish(entity::expand_component(attr.into(), item.into()))
}

/// Makes a struct a stateless service, or a trait the interface of one that any plain struct may
/// implement: `#[service] trait Shop` gives `ShopService`, which callers name and which
/// `ShopService::new(implementation)` makes. `#[service(zone)]` or `#[service(channel)]`: each zone or
/// channel has its own; `#[service(global)]`, one for the whole cluster, is what is not said otherwise.
#[proc_macro_attribute]
pub fn service(attr: TokenStream, item: TokenStream) -> TokenStream {
    let expanded = syn::parse2(item.into()).and_then(|item| match item {
        Item::Struct(item) => entity::expand(attr.into(), item, "Service"),
        Item::Trait(item) => service::expand(attr.into(), item),
        other => Err(Error::new_spanned(other, "a service is a struct or a trait")),
    });
    finish(expanded)
}

/// Makes the marked methods of an impl block remote methods, timers and hooks.
///
/// `#[tell(client)]`, `#[request(client)]`, `#[invoke]` state pattern and callers (`client`,
/// `server`, `operator`); nothing is callable unless stated. With them go `deadline = "4s"`,
/// `level = 1`, `rate = "30/s"`, `interleave`, `idempotent`, `latest`, `alias = "old_name"`.
/// `#[timer]` methods run when a timer fires, `#[hook]` methods at the point of an entity's life
/// that their name states, `#[event]` methods when something is published on a topic
/// (`cx.subscribe("news", Reader::events().hear())`). Arguments may have limits: `#[arg(range = 1..=100, len = ..=64)]`.
/// Unmarked methods are private helpers.
#[proc_macro_attribute]
pub fn rpc(attr: TokenStream, item: TokenStream) -> TokenStream {
    finish(rpc::expand(attr.into(), item.into()))
}

/// Makes a trait the interface of a client: what it lets servers call.
///
/// `#[sync]` sends to one client or a group, `#[sync(latest)]` and `#[sync(latest(argument))]`
/// keep only the newest, `#[sync(unreliable)]` may be lost, `#[multicast]` is for groups only, and
/// `#[call]` has an answer.
#[proc_macro_attribute]
pub fn client(attr: TokenStream, item: TokenStream) -> TokenStream {
    finish(client::expand(attr.into(), item.into()))
}

/// Runs an async test against a simulated cluster: `#[mainstay::test(seed = 1, faults = ..)]`.
#[proc_macro_attribute]
pub fn test(attr: TokenStream, item: TokenStream) -> TokenStream {
    finish(test::expand(attr.into(), item.into()))
}

/// Lets a struct or enum travel: as argument, reply, error or document field.
///
/// A struct is an array of its fields and grows only at its end; an enum is a number, or an array
/// of a number and fields. On the type: `name = "Other"`, `root = path`, `transparent` (a struct
/// of one field travels as that field). On a field: `default` or `default = expr` (a missing or
/// retired field takes it), `retired` (the place stays, nil is written), `range = 1..=100`,
/// `len = ..=20`, `finite`. On a variant: `id = 3`, `fallback` (stands for unknown numbers; may
/// hold one `u32`, the number).
#[proc_macro_derive(Message, attributes(message, arg))]
pub fn message(input: TokenStream) -> TokenStream {
    message::derive(input.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Lets a struct be saved as a sub-document of an entity: the entity's own, or a component's.
///
/// Fields marked `#[persist]` are saved, in their order; the list grows only at its end. On a field:
/// `#[persist(default = expr)]` (one that was never written takes it, else it stays as the entity
/// was made), `range = 1..=100`, `len = ..=20`, `finite`; their types are `Message`s. On the type:
/// `#[document(version = 2, from = OldType, step = path)]`: documents of older versions are read as
/// `OldType`, which is `Default` and a `Document` of a lower version, and made new by `From`, or by
/// `step`, a `fn(OldType) -> Result<Self, impl Display>`.
///
/// `#[index]` on such a field has documents found by it: `Guild::by_leader(&7)` is what
/// `cx.find_records` and `cx.find_entities` look for. `#[document(index(realm, level))]` is over several
/// fields (`Guild::by_realm_and_level`). Of records, `#[index(unique)]` and `#[document(unique(realm, title))]`
/// let one alone have a value; `None` is no such value.
#[proc_macro_derive(Document, attributes(document, persist, index))]
pub fn document(input: TokenStream) -> TokenStream {
    document::derive(input.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

fn finish(expanded: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    expanded.unwrap_or_else(Error::into_compile_error).into()
}

/// Where generated paths start unless the attribute says otherwise.
fn default_root() -> Path {
    syn::parse_quote!(::mainstay::rt)
}

/// The same path with all its tokens at `span`, so that errors point there.
fn at(path: &Path, span: proc_macro2::Span) -> proc_macro2::TokenStream {
    let respanned = quote::ToTokens::to_token_stream(path).into_iter().map(|mut tree| {
        tree.set_span(span);
        tree
    });
    respanned.collect()
}

/// Reads an attribute that has no option but `root = path`.
fn read_root(attr: proc_macro2::TokenStream) -> syn::Result<Path> {
    let mut root = default_root();
    let parser = syn::meta::parser(|meta| {
        if !meta.path.is_ident("root") {
            return Err(meta.error("unknown option; the methods have theirs"));
        }
        root = meta.value()?.call(Path::parse_mod_style)?;
        Ok(())
    });
    parser.parse2(attr)?;
    Ok(root)
}

/// Collects errors, so that one compilation shows all of them.
fn combine(problems: &mut Option<Error>, error: Error) {
    match problems {
        None => *problems = Some(error),
        Some(first) => first.combine(error),
    }
}
