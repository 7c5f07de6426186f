//! `#[entity]`, `#[component]` and `#[service]` on a struct.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::parse::Parser;
use syn::spanned::Spanned;
use syn::{Error, Fields, GenericArgument, ItemStruct, Path, PathArguments, Result, Token, Type};

use crate::kind::Kind;
use crate::method::{camel, plain_name};
use crate::stub::Names;

/// A field of type `Component<C>`.
struct Part {
    field: Ident,
    name: String,
    /// Its variant in the entity's message and reply enums.
    variant: Ident,
    /// The type that stands for it in stubs.
    marker: Ident,
    ty: Type,
}

/// Expands `#[entity] struct Avatar { .. }` and `#[service] struct Shop { .. }`.
pub fn expand(attr: TokenStream, item: ItemStruct, class: &'static str) -> Result<TokenStream> {
    let kind = Kind::read(attr, class)?;
    no_parameters(&item)?;
    let parts = parts(&item);
    let root = &kind.root;
    let ident = &item.ident;
    let service = class == "Service";
    if service && let Some(part) = parts.first() {
        return Err(Error::new(part.field.span(), "a service is stateless: it has no components"));
    }
    let mut create = kind.create(ident);
    if kind.document.is_some() {
        create.extend(crate::document::functions(root, &item));
    }
    let entity = match parts.is_empty() {
        true => alone(&kind, &kind.name_of(ident), ident, &create),
        false => composed(&kind, ident, &parts, &create),
    };
    let module = module(root, ident, &quote!(#ident), &[], service);
    Ok(quote! {
        #item

        #[allow(warnings, clippy::all, clippy::pedantic)]
        const _: () = {
            #module
            #entity
        };
    })
}

/// Expands `#[component(of = Avatar, needs(Wallet))] struct Bag { .. }`.
pub fn expand_component(attr: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let item: ItemStruct = syn::parse2(item)?;
    no_parameters(&item)?;
    let mut root = crate::default_root();
    let mut owner: Option<Path> = None;
    let mut needs: Vec<Path> = Vec::new();
    let parser = syn::meta::parser(|meta| {
        if meta.path.is_ident("of") {
            owner = Some(meta.value()?.call(Path::parse_mod_style)?);
        } else if meta.path.is_ident("root") {
            root = meta.value()?.call(Path::parse_mod_style)?;
        } else if meta.path.is_ident("needs") {
            let list;
            syn::parenthesized!(list in meta.input);
            needs.extend(list.parse_terminated(Path::parse_mod_style, Token![,])?);
        } else {
            return Err(meta.error("unknown option; known here: `of = Entity`, `needs(Other)`"));
        }
        Ok(())
    });
    parser.parse2(attr)?;
    let Some(owner) = owner else {
        return Err(Error::new(
            Span::call_site(),
            "of which entity? write `#[component(of = Avatar)]`",
        ));
    };
    let module = module(&root, &item.ident, &quote!(#owner), &needs, false);
    Ok(quote! {
        #item

        #[allow(warnings, clippy::all, clippy::pedantic)]
        const _: () = { #module };
    })
}

fn no_parameters(item: &ItemStruct) -> Result<()> {
    if item.generics.params.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        item.generics.span(),
        "an entity kind has one name and one encoding, so it takes no parameters",
    ))
}

/// `impl Module`.
pub fn module(
    root: &Path,
    ident: &Ident,
    owner: &TokenStream,
    needs: &[Path],
    service: bool,
) -> TokenStream {
    let name = plain_name(ident);
    quote! {
        impl #root::Module for #ident {
            type Owner = #owner;
            const NAME: &'static str = ::core::concat!(::core::module_path!(), "::", #name);
            const NEEDS: &'static [&'static str] = &[#(<#needs as #root::Module>::NAME),*];
            const SERVICE: bool = #service;
        }
    }
}

fn parts(item: &ItemStruct) -> Vec<Part> {
    let Fields::Named(fields) = &item.fields else { return Vec::new() };
    fields
        .named
        .iter()
        .filter_map(|field| {
            let field_ident = field.ident.clone()?;
            let Type::Path(path) = &field.ty else { return None };
            let last = path.path.segments.last().filter(|last| last.ident == "Component")?;
            let PathArguments::AngleBracketed(list) = &last.arguments else { return None };
            let Some(GenericArgument::Type(ty)) = list.args.first() else { return None };
            let name = plain_name(&field_ident);
            Some(Part {
                variant: format_ident!("{}", camel(&name), span = field_ident.span()),
                marker: format_ident!("__Part{}", camel(&name)),
                field: field_ident,
                name,
                ty: ty.clone(),
            })
        })
        .collect()
}

/// An entity without components: its own part is all of it.
pub fn alone(kind: &Kind, name: &str, ident: &Ident, create: &TokenStream) -> TokenStream {
    let root = &kind.root;
    let hooks = quote!(<#ident as #root::Methods>::HOOKS);
    let info = kind.info(name, &hooks);
    let steps = kind.check_steps(ident, &hooks);
    quote! {
        #steps

        impl #ident {
            /// What of it can listen to topics: `cx.subscribe("news", X::events().hear())`.
            pub fn events() -> <#ident as #root::Methods>::Events<#root::Own<#ident>> {
                <#ident as #root::Methods>::events::<#root::Own<#ident>>()
            }
        }

        impl #root::OwnPart for #ident {
            fn own_message(
                __message: <Self as #root::Methods>::Message,
            ) -> <Self as #root::Entity>::Message {
                __message
            }

            fn own_reply(
                __reply: <Self as #root::Entity>::Reply,
            ) -> ::core::option::Option<<Self as #root::Methods>::Reply> {
                ::core::option::Option::Some(__reply)
            }
        }

        const __COUNT: usize = <#ident as #root::Methods>::METHODS.len();
        const __TABLE: [#root::MethodInfo; __COUNT] =
            #root::method_table::<__COUNT>(&[("", <#ident as #root::Methods>::METHODS)]);

        impl #root::Entity for #ident {
            type Message = <#ident as #root::Methods>::Message;
            type Reply = <#ident as #root::Methods>::Reply;
            type Stub<'c> = <#ident as #root::Methods>::Stub<'c, #root::Own<#ident>>;
            type Timers<'c> = <#ident as #root::Methods>::Timers<'c, #root::Own<#ident>>;

            const KIND: &'static #root::KindInfo = &#info;

            #create

            #[inline]

            fn dispatch(__turn: #root::Turn<Self>, __message: Self::Message) -> #root::Step {
                <Self as #root::Methods>::dispatch(__turn, __message, |__reply| __reply)
            }

            fn hook(__turn: #root::Turn<Self>, __hook: #root::Hook) -> #root::Step {
                if <Self as #root::Methods>::HOOKS_ASYNC.has(__hook.bit()) {
                    __turn.run_quiet(move |__state, mut __cx| async move {
                        <Self as #root::Methods>::hook_later(__state, &mut __cx, &__hook).await;
                    })
                } else {
                    __turn.tell(move |__this, __cx| {
                        <Self as #root::Methods>::hook_now(__this, __cx, &__hook);
                    })
                }
            }

            #[inline]

            fn method(__message: &Self::Message) -> usize {
                <Self as #root::Methods>::position(__message)
            }

            fn encode_message(__message: &Self::Message, __out: &mut ::std::vec::Vec<u8>) {
                <Self as #root::Methods>::encode_message(__message, __out);
            }

            fn decode_message(
                __method: usize,
                __body: &[u8],
            ) -> ::core::result::Result<Self::Message, #root::DecodeError> {
                <Self as #root::Methods>::decode_message(__method, __body)
            }

            fn encode_reply(
                __reply: &Self::Reply,
                __out: &mut ::std::vec::Vec<u8>,
            ) -> #root::Status {
                <Self as #root::Methods>::encode_reply(__reply, __out)
            }

            fn decode_reply(
                __method: usize,
                __status: #root::Status,
                __body: &[u8],
            ) -> ::core::result::Result<Self::Reply, #root::DecodeError> {
                <Self as #root::Methods>::decode_reply(__method, __status, __body)
            }

            #[inline]

            fn stub(__link: #root::Link<'_, Self>) -> Self::Stub<'_> {
                <Self as #root::Methods>::stub::<#root::Own<Self>>(__link)
            }

            fn timers(__schedule: #root::Schedule<'_, Self>) -> Self::Timers<'_> {
                <Self as #root::Methods>::timers::<#root::Own<Self>>(__schedule)
            }

            fn describe(__schema: &mut #root::schema::SchemaBuilder) {
                let __methods = <Self as #root::Methods>::describe("", __schema);
                #root::describe_kind(<Self as #root::Entity>::KIND, __methods, __schema);
                <Self as #root::Entity>::describe_documents(__schema);
            }
        }
    }
}

/// An entity with components: messages and replies are of its own part or of one of them.
fn composed(kind: &Kind, ident: &Ident, parts: &[Part], create: &TokenStream) -> TokenStream {
    let root = &kind.root;
    let types: Vec<_> = parts.iter().map(|part| &part.ty).collect();
    let variants: Vec<_> = parts.iter().map(|part| &part.variant).collect();
    let fields: Vec<_> = parts.iter().map(|part| &part.field).collect();
    let names: Vec<_> = parts.iter().map(|part| &part.name).collect();
    let hooks = quote! {
        <#ident as #root::Methods>::HOOKS #(.and(<#types as #root::Methods>::HOOKS))*
    };
    let info = kind.info(&kind.name_of(ident), &hooks);
    let steps = kind.check_steps(ident, &hooks);
    let joints = parts.iter().map(|part| joint(root, ident, part));
    let coding = coding(root, ident, parts);
    let hook = hook(root, ident, parts);
    let accessors = accessors(root, ident, parts);
    quote! {
        #steps

        #[doc(hidden)]
        pub enum __Whole {
            __Own(<#ident as #root::Methods>::Message),
            #(#variants(<#types as #root::Methods>::Message)),*
        }
        #[doc(hidden)]
        pub enum __Answer {
            __Own(<#ident as #root::Methods>::Reply),
            #(#variants(<#types as #root::Methods>::Reply)),*
        }

        impl #root::OwnPart for #ident {
            fn own_message(__message: <Self as #root::Methods>::Message) -> __Whole {
                __Whole::__Own(__message)
            }

            fn own_reply(
                __reply: __Answer,
            ) -> ::core::option::Option<<Self as #root::Methods>::Reply> {
                match __reply {
                    __Answer::__Own(__reply) => ::core::option::Option::Some(__reply),
                    _ => ::core::option::Option::None,
                }
            }
        }

        impl #ident {
            /// What of it can listen to topics: `cx.subscribe("news", X::events().hear())`.
            pub fn events() -> <#ident as #root::Methods>::Events<#root::Own<#ident>> {
                <#ident as #root::Methods>::events::<#root::Own<#ident>>()
            }
        }

        #(#joints)*
        #accessors

        const __COUNT: usize = <#ident as #root::Methods>::METHODS.len()
            #(+ <#types as #root::Methods>::METHODS.len())*;
        const __TABLE: [#root::MethodInfo; __COUNT] = #root::method_table::<__COUNT>(&[
            ("", <#ident as #root::Methods>::METHODS),
            #((#names, <#types as #root::Methods>::METHODS)),*
        ]);

        impl #root::Entity for #ident {
            type Message = __Whole;
            type Reply = __Answer;
            type Stub<'c> = <#ident as #root::Methods>::Stub<'c, #root::Own<#ident>>;
            type Timers<'c> = <#ident as #root::Methods>::Timers<'c, #root::Own<#ident>>;

            const KIND: &'static #root::KindInfo = &#info;

            #create

            #[inline]

            fn dispatch(__turn: #root::Turn<Self>, __message: __Whole) -> #root::Step {
                match __message {
                    __Whole::__Own(__message) => {
                        <Self as #root::Methods>::dispatch(__turn, __message, __Answer::__Own)
                    }
                    #(__Whole::#variants(__message) => {
                        let __cell = __turn.state().borrow().#fields.cell();
                        <#types as #root::Methods>::dispatch(
                            __turn.on(__cell),
                            __message,
                            __Answer::#variants,
                        )
                    })*
                }
            }

            #hook
            #coding

            #[inline]

            fn stub(__link: #root::Link<'_, Self>) -> Self::Stub<'_> {
                <Self as #root::Methods>::stub::<#root::Own<Self>>(__link)
            }

            fn timers(__schedule: #root::Schedule<'_, Self>) -> Self::Timers<'_> {
                <Self as #root::Methods>::timers::<#root::Own<Self>>(__schedule)
            }

            fn describe(__schema: &mut #root::schema::SchemaBuilder) {
                let mut __methods = <Self as #root::Methods>::describe("", __schema);
                #(__methods.extend(<#types as #root::Methods>::describe(#names, __schema));)*
                #root::describe_kind(<Self as #root::Entity>::KIND, __methods, __schema);
                <Self as #root::Entity>::describe_documents(__schema);
            }
        }
    }
}

/// The place of one component.
fn joint(root: &Path, ident: &Ident, part: &Part) -> TokenStream {
    let Part { variant, marker, ty, .. } = part;
    quote! {
        // Its parameters make it as visible as the types it stands for.
        #[doc(hidden)]
        pub struct #marker<__E, __C>(::core::marker::PhantomData<fn() -> (__E, __C)>);

        impl #root::Part for #marker<#ident, #ty> {
            type Owner = #ident;
            type Module = #ty;

            fn message(__message: <#ty as #root::Methods>::Message) -> __Whole {
                __Whole::#variant(__message)
            }

            fn reply(
                __reply: __Answer,
            ) -> ::core::option::Option<<#ty as #root::Methods>::Reply> {
                match __reply {
                    __Answer::#variant(__reply) => ::core::option::Option::Some(__reply),
                    _ => ::core::option::Option::None,
                }
            }
        }
    }
}

/// `stub.bag()`, `timers.bag()` and `methods().bag()`.
fn accessors(root: &Path, ident: &Ident, parts: &[Part]) -> TokenStream {
    let Names { stub, timers, ids, events } = Names::of(ident);
    let functions =
        |make: &dyn Fn(&Part) -> TokenStream| -> TokenStream { parts.iter().map(make).collect() };
    let stubs = functions(&|Part { field, name, marker, ty, .. }| {
        let docs = format!("The methods of the component `{name}`.");
        quote! {
            #[doc = #docs]
            pub fn #field(
                &self,
            ) -> <#ty as #root::Methods>::Stub<'c, #marker<#ident, #ty>> {
                <#ty as #root::Methods>::stub::<#marker<#ident, #ty>>(::core::clone::Clone::clone(&self.link))
            }
        }
    });
    let starts = functions(&|Part { field, name, marker, ty, .. }| {
        let docs = format!("The timers of the component `{name}`.");
        quote! {
            #[doc = #docs]
            pub fn #field(
                self,
            ) -> <#ty as #root::Methods>::Timers<'c, #marker<#ident, #ty>> {
                <#ty as #root::Methods>::timers::<#marker<#ident, #ty>>(self.schedule)
            }
        }
    });
    let hears = functions(&|Part { field, name, marker, ty, .. }| {
        let docs = format!("What of the component `{name}` can listen to topics.");
        quote! {
            #[doc = #docs]
            pub fn #field(self) -> <#ty as #root::Methods>::Events<#marker<#ident, #ty>> {
                <#ty as #root::Methods>::events::<#marker<#ident, #ty>>()
            }
        }
    });
    let tables = functions(&|Part { field, name, ty, .. }| {
        let docs = format!("The ids of the methods of the component `{name}`.");
        quote! {
            #[doc = #docs]
            pub fn #field(self) -> <#ty as #root::Methods>::Ids {
                <#ty as #root::Methods>::ids(#name)
            }
        }
    });
    quote! {
        impl<'c> #stub<'c, #root::Own<#ident>> { #stubs }
        impl<'c> #timers<'c, #root::Own<#ident>> { #starts }
        impl #events<#root::Own<#ident>> { #hears }
        impl #ids { #tables }
    }
}

/// The functions that encode and decode, by parts.
fn coding(root: &Path, ident: &Ident, parts: &[Part]) -> TokenStream {
    let types: Vec<_> = parts.iter().map(|part| &part.ty).collect();
    let variants: Vec<_> = parts.iter().map(|part| &part.variant).collect();
    // Where each component's methods begin in the table.
    let bases: Vec<_> = (0..parts.len())
        .map(|at| {
            let before = &types[..at];
            quote! {
                (<#ident as #root::Methods>::METHODS.len()
                    #(+ <#before as #root::Methods>::METHODS.len())*)
            }
        })
        .collect();
    quote! {
        #[inline]
        fn method(__message: &__Whole) -> usize {
            match __message {
                __Whole::__Own(__message) => <Self as #root::Methods>::position(__message),
                #(__Whole::#variants(__message) => {
                    #bases + <#types as #root::Methods>::position(__message)
                })*
            }
        }

        fn encode_message(__message: &__Whole, __out: &mut ::std::vec::Vec<u8>) {
            match __message {
                __Whole::__Own(__message) => {
                    <Self as #root::Methods>::encode_message(__message, __out);
                }
                #(__Whole::#variants(__message) => {
                    <#types as #root::Methods>::encode_message(__message, __out);
                })*
            }
        }

        fn decode_message(
            __method: usize,
            __body: &[u8],
        ) -> ::core::result::Result<__Whole, #root::DecodeError> {
            if __method < <Self as #root::Methods>::METHODS.len() {
                return <Self as #root::Methods>::decode_message(__method, __body)
                    .map(__Whole::__Own);
            }
            #(if __method < #bases + <#types as #root::Methods>::METHODS.len() {
                return <#types as #root::Methods>::decode_message(__method - #bases, __body)
                    .map(__Whole::#variants);
            })*
            ::core::result::Result::Err(#root::codec::Problem::Missing.into())
        }

        fn encode_reply(__reply: &__Answer, __out: &mut ::std::vec::Vec<u8>) -> #root::Status {
            match __reply {
                __Answer::__Own(__reply) => {
                    <Self as #root::Methods>::encode_reply(__reply, __out)
                }
                #(__Answer::#variants(__reply) => {
                    <#types as #root::Methods>::encode_reply(__reply, __out)
                })*
            }
        }

        fn decode_reply(
            __method: usize,
            __status: #root::Status,
            __body: &[u8],
        ) -> ::core::result::Result<__Answer, #root::DecodeError> {
            if __method < <Self as #root::Methods>::METHODS.len() {
                return <Self as #root::Methods>::decode_reply(__method, __status, __body)
                    .map(__Answer::__Own);
            }
            #(if __method < #bases + <#types as #root::Methods>::METHODS.len() {
                return <#types as #root::Methods>::decode_reply(
                    __method - #bases, __status, __body,
                )
                .map(__Answer::#variants);
            })*
            ::core::result::Result::Err(#root::codec::Problem::Missing.into())
        }
    }
}

/// The `hook` function. On the way up components come first, each after those it needs, then the
/// entity; on the way down it is the other way round.
fn hook(root: &Path, ident: &Ident, parts: &[Part]) -> TokenStream {
    let types: Vec<_> = parts.iter().map(|part| &part.ty).collect();
    let fields: Vec<_> = parts.iter().map(|part| &part.field).collect();
    let names: Vec<_> = parts.iter().map(|part| &part.name).collect();
    let positions: Vec<_> = (0..parts.len()).collect();
    let count = parts.len();
    let whole = plain_name(ident);
    let refuse = quote_spanned!(ident.span()=> ::core::panic!("{}", __problem.text()));
    let now_own = quote! {
        #root::guard(&__reporter, #whole, || {
            <Self as #root::Methods>::hook_now(__this, __cx, &__hook);
        });
    };
    let later_own = quote! {
        #root::guarded(&__reporter, #whole, <Self as #root::Methods>::hook_later(
            ::std::rc::Rc::clone(&__state),
            &mut __cx,
            &__hook,
        ))
        .await;
    };
    quote! {
        fn hook(__turn: #root::Turn<Self>, __hook: #root::Hook) -> #root::Step {
            const UP: [usize; #count] = match #root::start_order([
                #(#root::Needs {
                    field: #names,
                    name: <#types as #root::Module>::NAME,
                    needs: <#types as #root::Module>::NEEDS,
                }),*
            ]) {
                ::core::result::Result::Ok(__order) => __order,
                ::core::result::Result::Err(__problem) => #refuse,
            };
            const LATER: #root::Hooks = <#ident as #root::Methods>::HOOKS_ASYNC
                #(.and(<#types as #root::Methods>::HOOKS_ASYNC))*;
            let __down = ::core::matches!(
                __hook,
                #root::Hook::Offline(..) | #root::Hook::BeforeSave | #root::Hook::BeforeMove
                    | #root::Hook::Destroyed
            );
            let __order = move |__at: usize| UP[if __down { UP.len() - 1 - __at } else { __at }];
            if LATER.has(__hook.bit()) {
                return __turn.run_quiet(move |__state, mut __cx| async move {
                    let __reporter = __cx.reporter();
                    if __down { #later_own }
                    for __at in 0..UP.len() {
                        match __order(__at) {
                            #(#positions => {
                                let __cell = __state.borrow().#fields.cell();
                                #root::guarded(&__reporter, #names, <#types as #root::Methods>::hook_later(
                                    __cell,
                                    &mut __cx,
                                    &__hook,
                                ))
                                .await;
                            })*
                            _ => {}
                        }
                    }
                    if !__down { #later_own }
                });
            }
            __turn.tell(move |__this, __cx| {
                let __reporter = __cx.reporter();
                if __down { #now_own }
                for __at in 0..UP.len() {
                    match __order(__at) {
                        #(#positions => {
                            let __cell = __this.#fields.cell();
                            #root::guard(&__reporter, #names, || {
                                <#types as #root::Methods>::hook_now(
                                    &mut __cell.borrow_mut(), __cx, &__hook,
                                );
                            });
                        })*
                        _ => {}
                    }
                }
                if !__down { #now_own }
            })
        }
    }
}
