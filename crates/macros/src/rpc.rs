//! `#[rpc]` on an impl block: remote methods, timers and hooks of one module.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, ImplItem, ItemImpl, Path, Result, Type};

use crate::dispatch::{self, Shape};
use crate::method::{self, Caller, Method, Output, PatternName, Receiver, Role};
use crate::options::{Options, Rate};
use crate::{stub, wire};

/// The methods of one module, read and checked.
pub struct Interface {
    /// Where generated paths start.
    pub root: Path,
    /// The type that has the methods.
    pub owner: Ident,
    /// Remote methods and timers, in their order.
    pub methods: Vec<Method>,
    pub hooks: Vec<Method>,
}

/// Expands `#[rpc] impl Counter { .. }`.
pub fn expand(attr: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let root = crate::read_root(attr)?;
    let mut block: ItemImpl = syn::parse2(item)?;
    let owner = owner_of(&block)?;
    let mut problems: Option<Error> = None;
    let mut interface =
        Interface { root, owner: owner.clone(), methods: Vec::new(), hooks: Vec::new() };
    for item in &mut block.items {
        let ImplItem::Fn(function) = item else { continue };
        match method::read(&mut function.attrs, &mut function.sig, &owner) {
            Ok(None) => {}
            Ok(Some(method)) => interface.add(method, &mut problems),
            Err(error) => crate::combine(&mut problems, error),
        }
    }
    interface.check_names(&mut problems);
    let generated = interface.generate(Shape::State, &TokenStream::new());
    let problems = problems.map(Error::into_compile_error);
    Ok(quote! {
        #block
        #problems
        #generated
    })
}

fn owner_of(block: &ItemImpl) -> Result<Ident> {
    if let Some((path, _)) = &block.trait_ {
        return Err(Error::new(
            path.span(),
            "`#[rpc]` stands on the type's own impl block; for an interface that several types \
             implement write `#[service]` on the trait",
        ));
    }
    if !block.generics.params.is_empty() {
        return Err(Error::new(
            block.generics.span(),
            "an entity kind has one name and one encoding, so it takes no parameters",
        ));
    }
    match &*block.self_ty {
        Type::Path(path) => match path.path.get_ident() {
            Some(ident) => Ok(ident.clone()),
            None => Err(Error::new(path.span(), "write the bare name of the type")),
        },
        other => Err(Error::new(other.span(), "write the bare name of the type")),
    }
}

/// The points of an entity's life: hook method, variant, set, arguments after the context.
const HOOKS: [(&str, &str, &str, usize); 11] = [
    ("created", "Created", "CREATED", 0),
    ("loaded", "Loaded", "LOADED", 0),
    ("online", "Online", "ONLINE", 1),
    ("offline", "Offline", "OFFLINE", 2),
    ("before_save", "BeforeSave", "BEFORE_SAVE", 0),
    ("before_move", "BeforeMove", "BEFORE_MOVE", 0),
    ("moved", "Moved", "MOVED", 0),
    ("daily", "Daily", "DAILY", 0),
    ("reloaded", "Reloaded", "RELOADED", 0),
    ("destroyed", "Destroyed", "DESTROYED", 0),
    ("step", "Step", "STEP", 1),
];

impl Interface {
    fn add(&mut self, method: Method, problems: &mut Option<Error>) {
        if !matches!(method.role, Role::Hook) {
            self.methods.push(method);
            return;
        }
        match check_hook(&method) {
            Ok(()) => self.hooks.push(method),
            Err(error) => crate::combine(problems, error),
        }
    }

    /// Names and former names must tell methods apart.
    fn check_names(&self, problems: &mut Option<Error>) {
        for (at, method) in self.methods.iter().enumerate() {
            for alias in &method.options.aliases {
                let text = alias.value();
                let taken = self.methods.iter().enumerate().find(|(other, known)| {
                    known.name == text
                        || *other < at && known.options.aliases.iter().any(|a| a.value() == text)
                });
                if let Some((_, known)) = taken {
                    let text = format!("`{text}` already names the method `{}`", known.name);
                    crate::combine(problems, Error::new(alias.span(), text));
                }
            }
            let variant = method.variant();
            let twin = self.methods[..at].iter().find(|known| known.variant() == variant);
            if let Some(twin) = twin {
                let text =
                    format!("`{}` and `{}` are too alike: rename one", twin.name, method.name);
                crate::combine(problems, Error::new(method.ident.span(), text));
            }
        }
    }

    /// Everything besides the impl block itself. `extra` stands where `__Message` is in scope.
    pub fn generate(&self, shape: Shape, extra: &TokenStream) -> TokenStream {
        let Interface { root, owner, .. } = self;
        let checks = self.route_checks();
        let structs = stub::structs(self);
        let impls = stub::impls(self);
        let enums = wire::enums(self);
        let wire = wire::functions(self);
        let infos = self.methods.iter().map(|method| info(root, method));
        let dispatch = dispatch::dispatch(self, shape);
        let position = self.methods.iter().enumerate().map(|(at, method)| {
            let variant = method.variant();
            quote!(__Message::#variant(..) => #at,)
        });
        let hooks = self.hook_functions();
        let describe = wire::describe(self);
        let stub::Names { stub: stub_name, timers, ids, events } = stub::Names::of(owner);
        let make_ids = stub::make_ids(self);
        quote! {
            #checks
            #structs
            #[allow(warnings, clippy::all, clippy::pedantic)]
            const _: () = {
                #enums
                #impls
                #extra

                impl #root::Methods for #owner {
                    type Message = __Message;
                    type Reply = __Reply;
                    type Stub<'c, __P: #root::Part<Module = Self>> = #stub_name<'c, __P>;
                    type Timers<'c, __P: #root::Part<Module = Self>> = #timers<'c, __P>;
                    type Ids = #ids;
                    type Events<__P: #root::Part<Module = Self>> = #events<__P>;

                    const METHODS: &'static [#root::MethodInfo] = &[#(#infos),*];

                    #dispatch

                    #[inline]

                    fn position(__message: &Self::Message) -> usize {
                        match *__message { #(#position)* }
                    }

                    #wire

                    #[inline]

                    fn stub<__P: #root::Part<Module = Self>>(
                        __link: #root::Link<'_, __P::Owner>,
                    ) -> Self::Stub<'_, __P> {
                        #stub_name { link: __link, part: ::core::marker::PhantomData }
                    }

                    fn timers<__P: #root::Part<Module = Self>>(
                        __schedule: #root::Schedule<'_, __P::Owner>,
                    ) -> Self::Timers<'_, __P> {
                        #timers { schedule: __schedule, part: ::core::marker::PhantomData }
                    }

                    fn events<__P: #root::Part<Module = Self>>() -> Self::Events<__P> {
                        #events { part: ::core::marker::PhantomData }
                    }

                    #make_ids
                    #hooks
                    #describe
                }
            };
        }
    }

    /// Makes the compiler ask the table whether the routes carry the patterns.
    fn route_checks(&self) -> TokenStream {
        let root = &self.root;
        let mut checks = TokenStream::new();
        for method in &self.methods {
            if let Role::Remote(marks) = &method.role {
                for mark in marks {
                    let pattern = mark.pattern.variant();
                    for (caller, span) in &mark.callers {
                        let route = match caller {
                            Caller::Client => quote!(ClientGateService),
                            Caller::Server | Caller::Operator => quote!(ServiceBusService),
                        };
                        // An operator's call comes from a console, with or without an answer.
                        if *caller == Caller::Operator && mark.pattern == PatternName::Request {
                            continue;
                        }
                        checks.extend(route_check(root, &pattern, &route, *span));
                    }
                }
            }
            if let Receiver::Exclusive = method.receiver {
                let root = crate::at(root, method.ident.span());
                let owner = &self.owner;
                checks.extend(quote_spanned! {method.ident.span()=>
                    const _: () = ::core::assert!(
                        !<#owner as #root::Module>::SERVICE,
                        "a service is stateless and its turns run side by side: take `&self`"
                    );
                });
            }
        }
        checks
    }

    fn hook_functions(&self) -> TokenStream {
        let root = &self.root;
        let set = |hooks: &mut dyn Iterator<Item = &Method>| {
            hooks.fold(quote!(#root::Hooks::NONE), |set, hook| {
                let name = format_ident!("{}", known_hook(hook).expect("checked").2);
                quote!(#set.and(#root::Hooks::#name))
            })
        };
        let all = set(&mut self.hooks.iter());
        let later = set(&mut self.hooks.iter().filter(|hook| hook.is_async));
        let now_arms = self.hooks.iter().filter(|hook| !hook.is_async).map(|hook| {
            let (pattern, call) = hook_call(root, hook, &quote!(self), &quote!(__cx));
            quote!(#pattern => #call,)
        });
        let later_arms = self.hooks.iter().filter(|hook| hook.is_async).map(|hook| {
            let (pattern, call) = hook_call(root, hook, &quote!(__this), &quote!(__cx));
            quote!(#pattern => {
                let mut __this = __state.borrow_mut();
                #call.await
            })
        });
        quote! {
            const HOOKS: #root::Hooks = #all;
            const HOOKS_ASYNC: #root::Hooks = #later;

            fn hook_now(
                &mut self,
                __cx: &mut #root::Cx<<Self as #root::Module>::Owner>,
                __hook: &#root::Hook,
            ) {
                match __hook {
                    #(#now_arms)*
                    _ => {}
                }
            }

            async fn hook_later(
                __state: ::std::rc::Rc<::core::cell::RefCell<Self>>,
                __cx: &mut #root::Cx<<Self as #root::Module>::Owner>,
                __hook: &#root::Hook,
            ) {
                match __hook {
                    #(#later_arms)*
                    _ => __state.borrow_mut().hook_now(__cx, __hook),
                }
            }
        }
    }
}

/// Makes the compiler ask the table whether `route` carries `pattern`; a refusal points at `span`.
pub fn route_check(root: &Path, pattern: &Ident, route: &TokenStream, span: Span) -> TokenStream {
    let root = crate::at(root, span);
    quote_spanned! {span=>
        const _: () = match #root::carries(#root::Pattern::#pattern, #root::Route::#route) {
            #root::Carry::Yes => (),
            #root::Carry::No(why) => ::core::panic!("{}", why),
        };
    }
}

fn known_hook(hook: &Method) -> Option<&'static (&'static str, &'static str, &'static str, usize)> {
    HOOKS.iter().find(|(name, ..)| *name == hook.name)
}

fn check_hook(hook: &Method) -> Result<()> {
    let span = hook.ident.span();
    let Some((name, _, _, arguments)) = known_hook(hook) else {
        let names: Vec<_> = HOOKS.iter().map(|(name, ..)| *name).collect();
        return Err(Error::new(
            span,
            format!("no point in an entity's life has this name; there are: {}", names.join(", ")),
        ));
    };
    if !matches!(hook.receiver, Receiver::Exclusive | Receiver::Shared) {
        return Err(Error::new(span, "a hook takes `&mut self` or `&self`"));
    }
    if !matches!(hook.output, Output::Unit) {
        return Err(Error::new(span, "nobody reads what a hook gives back: no return value"));
    }
    if hook.args.len() > *arguments {
        let wanted = match arguments {
            1 if *name == "step" => "at most the steps that are due: `steps: Steps`",
            1 => "at most the peer: `peer: &Peer`",
            2 => "at most the peer and the code: `peer: &Peer, code: CloseCode`",
            _ => "nothing besides the context",
        };
        return Err(Error::new(span, format!("`{name}` takes {wanted}")));
    }
    if hook.is_async && *name == "step" {
        return Err(Error::new(span, "a step does not wait: make it a plain `fn`"));
    }
    if hook.is_async && *name == "destroyed" {
        return Err(Error::new(span, "nothing is waited for after the end: make it a plain `fn`"));
    }
    Ok(())
}

/// The pattern of a hook and the call of its method.
fn hook_call(
    root: &Path,
    hook: &Method,
    this: &TokenStream,
    cx: &TokenStream,
) -> (TokenStream, TokenStream) {
    let (_, variant, _, arguments) = known_hook(hook).expect("checked");
    let variant = format_ident!("{variant}");
    let pattern = match arguments {
        0 => quote!(#root::Hook::#variant),
        1 => quote!(#root::Hook::#variant(__peer)),
        _ => quote!(#root::Hook::#variant(__peer, __code)),
    };
    let ident = &hook.ident;
    let context = hook.takes_cx.then(|| quote!(#cx,));
    let peer = hook.args.first().map(|arg| {
        if arg.by_reference {
            quote!(__peer,)
        } else {
            quote!(::core::clone::Clone::clone(__peer),)
        }
    });
    let code = hook.args.get(1).map(|_| quote!(*__code,));
    (pattern, quote!(#this.#ident(#context #peer #code)))
}

/// The description of one method.
fn info(root: &Path, method: &Method) -> TokenStream {
    let name = &method.name;
    let Some(pattern) = method.pattern() else {
        return quote!(#root::MethodInfo::timer(#name));
    };
    let pattern = match pattern {
        PatternName::Request | PatternName::Invoke => pattern.variant(),
        // Any other one is refused by the table of routes.
        _ => Ident::new("Tell", Span::call_site()),
    };
    let [client, server, operator] =
        [Caller::Client, Caller::Server, Caller::Operator].map(|caller| method.allows(caller));
    let Options { deadline_ms, level, rate, interleave, idempotent, aliases, latest, .. } =
        &method.options;
    let latest = match latest {
        None => quote!(Keep),
        Some(None) => quote!(Method),
        Some(Some(key)) => {
            let position = method.args.iter().position(|arg| arg.ident == *key).unwrap_or(0);
            let position = u8::try_from(position).unwrap_or(u8::MAX);
            quote!(Argument(#position))
        }
    };
    let deadline_ms = deadline_ms.unwrap_or(0);
    let rate = match rate {
        None => quote!(::core::option::Option::None),
        Some(Rate { count, per_ms }) => {
            quote!(::core::option::Option::Some(#root::Rate { count: #count, per_ms: #per_ms }))
        }
    };
    let interleave = match (interleave, method.is_async) {
        (Some(_), _) => quote!(true),
        (None, true) => quote!(<Self as #root::Module>::SERVICE),
        (None, false) => quote!(false),
    };
    let plain = !method.is_async;
    quote! {
        #root::MethodInfo {
            aliases: &[#(#aliases),*],
            callers: #root::Callers { client: #client, server: #server, operator: #operator },
            level: #level,
            deadline_ms: #deadline_ms,
            idempotent: #idempotent,
            interleave: #interleave,
            plain: #plain,
            latest: #root::Latest::#latest,
            rate: #rate,
            ..#root::MethodInfo::new(#name, #root::Pattern::#pattern)
        }
    }
}
