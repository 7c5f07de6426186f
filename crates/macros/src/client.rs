//! `#[client]` on a trait: what a client lets servers call.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote};
use syn::parse::Parser;
use syn::spanned::Spanned;
use syn::{Attribute, Error, ItemTrait, LitStr, Path, Result, TraitItem, TraitItemFn};

use crate::arg::Arg;
use crate::method::{self, Method, Output, PatternName, Receiver, plain_name, snake};
use crate::options::Options;
use crate::wire;

/// How a server reaches a method.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// One client or a group.
    Sync,
    /// A group only.
    Multicast,
    /// One client, with an answer.
    Call,
    /// What the table of routes refuses.
    Other(PatternName),
}

struct Push {
    method: Method,
    way: Way,
    span: Span,
}

/// Expands `#[client] trait ArenaClient { .. }`.
pub fn expand(attr: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let mut item: ItemTrait = syn::parse2(item)?;
    let mut root = crate::default_root();
    let mut name = LitStr::new(&snake(&plain_name(&item.ident)), item.ident.span());
    let mut aliases: Vec<LitStr> = Vec::new();
    let parser = syn::meta::parser(|meta| {
        if meta.path.is_ident("root") {
            root = meta.value()?.call(Path::parse_mod_style)?;
        } else if meta.path.is_ident("name") {
            name = meta.value()?.parse()?;
        } else if meta.path.is_ident("alias") {
            aliases.push(meta.value()?.parse()?);
        } else {
            return Err(meta.error("unknown option; known here: `name = \"..\"`, `alias = \"..\"`"));
        }
        Ok(())
    });
    parser.parse2(attr)?;
    if !item.generics.params.is_empty() || !item.supertraits.is_empty() {
        return Err(Error::new(
            item.ident.span(),
            "a client interface has one name and one encoding: no parameters, no supertraits",
        ));
    }
    let mut problems: Option<Error> = None;
    let mut pushes = Vec::new();
    for member in &mut item.items {
        match read_member(member, &item.ident) {
            Ok(push) => pushes.push(push),
            Err(error) => crate::combine(&mut problems, error),
        }
    }
    let problems = problems.map(Error::into_compile_error);
    let generated = generate(&root, &item, &name, &aliases, &pushes);
    Ok(quote! {
        #problems
        #generated
    })
}

fn read_member(member: &mut TraitItem, owner: &proc_macro2::Ident) -> Result<Push> {
    let TraitItem::Fn(TraitItemFn { attrs, sig, default, .. }) = member else {
        return Err(Error::new(member.span(), "a client interface has functions only"));
    };
    if let Some(body) = default {
        return Err(Error::new(body.span(), "the client has the body: end with `;`"));
    }
    if let Some(token) = &sig.asyncness {
        return Err(Error::new(token.span(), "whether it waits is up to the client: drop `async`"));
    }
    let mut found: Option<(Way, Span)> = None;
    let mut options = Options::default();
    let mut problem = Ok(());
    attrs.retain(|attr| {
        let Some(way) = way_of(attr) else { return true };
        if problem.is_ok() {
            problem = match found {
                Some(_) => Err(Error::new(attr.span(), "one pattern is enough")),
                None => read_options(attr, &mut options),
            };
        }
        found = Some((way, attr.path().span()));
        false
    });
    problem?;
    let Some((way, span)) = found else {
        return Err(Error::new(
            sig.ident.span(),
            "how is this sent? write `#[sync]`, `#[sync(latest)]`, `#[sync(unreliable)]`, \
             `#[multicast]` (groups only) or `#[call]` (with an answer)",
        ));
    };
    let method = method::read_function(attrs, sig, owner, options)?;
    check(&method, way)?;
    Ok(Push { method, way, span })
}

fn way_of(attr: &Attribute) -> Option<Way> {
    let name = attr.path().get_ident()?.to_string();
    Some(match name.as_str() {
        "sync" => Way::Sync,
        "multicast" => Way::Multicast,
        "call" => Way::Call,
        "tell" => Way::Other(PatternName::Tell),
        "request" => Way::Other(PatternName::Request),
        "invoke" => Way::Other(PatternName::Invoke),
        "notify" => Way::Other(PatternName::Notify),
        _ => return None,
    })
}

fn read_options(attr: &Attribute, options: &mut Options) -> Result<()> {
    if matches!(attr.meta, syn::Meta::Path(_)) {
        return Ok(());
    }
    attr.parse_nested_meta(|meta| {
        let name = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
        match name.as_str() {
            "latest" | "unreliable" | "alias" | "deadline" => options.read(&name, &meta),
            _ => Err(meta.error(
                "unknown option; known here: `latest`, `latest(argument)`, `unreliable`, \
                 `alias = \"..\"`, and for `call` `deadline = \"2s\"`",
            )),
        }
    })
}

fn check(method: &Method, way: Way) -> Result<()> {
    let span = method.ident.span();
    if !matches!(method.receiver, Receiver::None) {
        return Err(Error::new(span, "leave out `self`: the client is somewhere else"));
    }
    let answers = way == Way::Call;
    if !answers && !matches!(method.output, Output::Unit) {
        return Err(Error::new(
            span,
            "nobody waits for this: drop the return value, or make it a `#[call]`",
        ));
    }
    if answers && (method.options.latest.is_some() || method.options.unreliable) {
        return Err(Error::new(
            span,
            "a server waits for the answer to a call, so it can be neither `latest` nor \
             `unreliable`",
        ));
    }
    if !answers && method.options.deadline_ms.is_some() {
        return Err(Error::new(span, "without an answer there is no deadline"));
    }
    if method.options.latest.is_some() && method.options.unreliable {
        return Err(Error::new(
            span,
            "`latest` is reliable in that the newest arrives: choose one",
        ));
    }
    if let Some(Some(key)) = &method.options.latest
        && !method.args.iter().any(|arg| arg.ident == *key)
    {
        return Err(Error::new(key.span(), "no argument has this name"));
    }
    Ok(())
}

fn generate(
    root: &Path,
    item: &ItemTrait,
    name: &LitStr,
    aliases: &[LitStr],
    pushes: &[Push],
) -> TokenStream {
    let (vis, ident, attrs) = (&item.vis, &item.ident, &item.attrs);
    let stub = format_ident!("{ident}Stub");
    let cast = format_ident!("{ident}Cast");
    let stub_docs = format!("Calls the methods of one client that has [`{ident}`].");
    let cast_docs = format!("Sends to a group of clients that have [`{ident}`].");
    let checks = pushes.iter().map(|push| route_check(root, push));
    let infos = pushes.iter().map(|push| info(root, &push.method, push.way));
    let stub_methods = pushes.iter().enumerate().filter_map(|(at, push)| match push.way {
        Way::Sync => Some(sender(root, at, push, false)),
        Way::Call => Some(caller(root, at, push)),
        Way::Multicast | Way::Other(_) => None,
    });
    let cast_methods = pushes.iter().enumerate().filter_map(|(at, push)| match push.way {
        Way::Sync | Way::Multicast => Some(sender(root, at, push, true)),
        Way::Call | Way::Other(_) => None,
    });
    let describe = pushes.iter().enumerate().map(|(at, push)| describe(root, at, push));
    quote! {
        #(#attrs)*
        #[derive(Clone, Copy, Debug)]
        #vis enum #ident {}

        #[doc = #stub_docs]
        #[allow(dead_code)]
        #vis struct #stub<'c> {
            link: #root::ClientLink<'c>,
        }

        #[doc = #cast_docs]
        #[allow(dead_code)]
        #vis struct #cast<'c> {
            link: #root::GroupLink<'c>,
        }

        #(#checks)*

        #[allow(warnings, clippy::all, clippy::pedantic)]
        const _: () = {
            const __METHODS: &[#root::ClientMethod] = &[#(#infos),*];
            const _: () = #root::distinct_methods(__METHODS);

            impl #root::ClientInterface for #ident {
                type Stub<'c> = #stub<'c>;
                type Cast<'c> = #cast<'c>;
                const NAME: &'static str = #name;
                const METHODS: &'static [#root::ClientMethod] = __METHODS;

                fn stub(__link: #root::ClientLink<'_>) -> Self::Stub<'_> {
                    #stub { link: __link }
                }

                fn cast(__link: #root::GroupLink<'_>) -> Self::Cast<'_> {
                    #cast { link: __link }
                }

                fn describe(__schema: &mut #root::schema::SchemaBuilder) {
                    let mut __methods = ::std::vec::Vec::new();
                    #(#describe)*
                    #root::describe_client(#name, &[#(#aliases),*], __methods, __schema);
                }
            }

            impl<'c> #stub<'c> {
                /// Waits at most `deadline` for answers, instead of what the methods declare.
                #[must_use]
                pub fn within(mut self, deadline: ::core::time::Duration) -> Self {
                    self.link = self.link.within(deadline);
                    self
                }

                #(#stub_methods)*
            }

            impl<'c> #cast<'c> {
                #(#cast_methods)*
            }
        };
    }
}

fn route_check(root: &Path, push: &Push) -> TokenStream {
    let (pattern, route) = match push.way {
        Way::Sync | Way::Call => (PatternName::Sync, quote!(ServiceGateClient)),
        Way::Multicast => (PatternName::Multicast, quote!(ServiceGateClients)),
        Way::Other(pattern) => (pattern, quote!(ServiceGateClient)),
    };
    crate::rpc::route_check(root, &pattern.variant(), &route, push.span)
}

fn info(root: &Path, method: &Method, way: Way) -> TokenStream {
    let name = &method.name;
    let aliases = &method.options.aliases;
    let answers = way == Way::Call;
    let deadline = match method.options.deadline_ms {
        Some(ms) => quote!(#ms),
        None => quote!(#root::ClientMethod::DEADLINE_MS),
    };
    quote! {
        #root::ClientMethod {
            aliases: &[#(#aliases),*],
            answers: #answers,
            deadline_ms: #deadline,
            ..#root::ClientMethod::new(#name)
        }
    }
}

/// A closure that writes the arguments.
fn body(root: &Path, args: &[Arg]) -> TokenStream {
    let idents: Vec<_> = args.iter().map(|arg| arg.ident.clone()).collect();
    let refs = idents.iter().map(|ident| quote!(let #ident = &#ident;));
    let writes = wire::encode_args(root, args, &idents);
    quote! {
        |__out: &mut ::std::vec::Vec<u8>| {
            #(#refs)*
            #writes
        }
    }
}

/// A method without an answer; a group's tells whether there is such a group.
fn sender(root: &Path, at: usize, push: &Push, to_group: bool) -> TokenStream {
    let Method { ident, docs, .. } = &push.method;
    let (names, types) = (push.method.arg_idents(), push.method.arg_types());
    let body = body(root, &push.method.args);
    let mode = match &push.method.options {
        Options { unreliable: true, .. } => quote!(#root::PushMode::Unreliable),
        Options { latest: Some(None), .. } => quote! {
            #root::PushMode::Latest(#root::latest_key(
                __METHODS[#at].id,
                ::core::option::Option::None,
            ))
        },
        Options { latest: Some(Some(key)), .. } => quote! {
            #root::PushMode::Latest(#root::latest_key(
                __METHODS[#at].id,
                ::core::option::Option::Some(&|__out: &mut ::std::vec::Vec<u8>| {
                    #root::codec::Message::encode(&#key, __out);
                }),
            ))
        },
        _ => quote!(#root::PushMode::Reliable),
    };
    let output = to_group.then(|| quote!(-> #root::Told));
    quote! {
        #(#docs)*
        pub fn #ident(&self, #(#names: #types),*) #output {
            let __mode = #mode;
            self.link.push(&__METHODS[#at], __mode, #body)
        }
    }
}

/// A method with an answer.
fn caller(root: &Path, at: usize, push: &Push) -> TokenStream {
    let Method { ident, docs, .. } = &push.method;
    let (names, types) = (push.method.arg_idents(), push.method.arg_types());
    let body = body(root, &push.method.args);
    let (output, finish) = match &push.method.output {
        Output::Fallible { ok, error } => (
            quote!(::core::result::Result<#ok, #root::Failure<#error>>),
            quote!(#root::answer_or_error::<#ok, #error>),
        ),
        _ => {
            let ty = push.method.answer_type();
            (quote!(::core::result::Result<#ty, #root::CallError>), quote!(#root::answer_of::<#ty>))
        }
    };
    quote! {
        #(#docs)*
        pub fn #ident(&self, #(#names: #types),*) -> #root::ClientAnswer<#output> {
            self.link.call(&__METHODS[#at], #body, #finish)
        }
    }
}

fn describe(root: &Path, at: usize, push: &Push) -> TokenStream {
    let pattern = match push.way {
        Way::Multicast => quote!(Multicast),
        Way::Call => quote!(Call),
        Way::Sync | Way::Other(_) => quote!(Sync),
    };
    let types = wire::describe_types(root, &push.method, push.way == Way::Call);
    quote! {{
        let mut __method = #root::describe_client_method(
            &__METHODS[#at],
            #root::schema::Pattern::#pattern,
        );
        #types
        __methods.push(__method);
    }}
}
