//! `#[service]` on a trait: an interface that any plain struct may implement.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use syn::spanned::Spanned;
use syn::{Error, ItemTrait, Result, ReturnType, TraitItem, TraitItemFn};

use crate::dispatch::{self, Shape};
use crate::entity;
use crate::kind::Kind;
use crate::method::{self, Method, Receiver, Role};
use crate::rpc::Interface;
use crate::wire;

/// Expands `#[service] trait Shop { .. }`.
pub fn expand(attr: TokenStream, mut item: ItemTrait) -> Result<TokenStream> {
    let kind = Kind::read(attr, "Service")?;
    if !item.generics.params.is_empty() || !item.supertraits.is_empty() {
        return Err(Error::new(
            item.ident.span(),
            "a service has one name and one encoding: no parameters, no supertraits",
        ));
    }
    let service = format_ident!("{}Service", item.ident);
    let mut interface = Interface {
        root: kind.root.clone(),
        owner: service.clone(),
        methods: Vec::new(),
        hooks: Vec::new(),
    };
    let mut problems: Option<Error> = None;
    for member in &mut item.items {
        match read_member(member, &service) {
            Ok(method) => interface.methods.push(method),
            Err(error) => crate::combine(&mut problems, error),
        }
    }
    if item.items.is_empty() {
        crate::combine(&mut problems, Error::new(item.ident.span(), "a service has methods"));
    }
    let problems = problems.map(Error::into_compile_error);
    item.supertraits.push(syn::parse_quote!('static));
    let generated = interface.generate(Shape::Object, &dispatcher(&item, &interface));
    let object = object(&kind, &item, &interface);
    Ok(quote! {
        #item
        #problems
        #object
        #generated
    })
}

fn read_member(member: &mut TraitItem, service: &Ident) -> Result<Method> {
    let TraitItem::Fn(function) = member else {
        return Err(Error::new(member.span(), "a service has methods only"));
    };
    if let Some(body) = &function.default {
        return Err(Error::new(
            body.span(),
            "a service's trait states what callers see: no bodies",
        ));
    }
    let found = method::read(&mut function.attrs, &mut function.sig, service)?;
    let Some(method) = found else {
        return Err(Error::new(
            function.sig.ident.span(),
            "a service's trait holds remote methods only: state pattern and callers, such as \
             `#[request(client)]` or `#[invoke]`; helpers belong to the implementing type",
        ));
    };
    if !matches!(method.role, Role::Remote(_)) {
        return Err(Error::new(
            function.sig.ident.span(),
            "timers and hooks are up to the implementing type, not to the interface",
        ));
    }
    if !matches!(method.receiver, Receiver::Shared) {
        return Err(Error::new(
            function.sig.ident.span(),
            "a service is stateless and its turns run side by side: take `&self`",
        ));
    }
    rewrite_async(function);
    Ok(method)
}

/// `async fn f() -> T` becomes `fn f() -> impl Future<Output = T>`; implementations may write
/// either.
fn rewrite_async(function: &mut TraitItemFn) {
    if function.sig.asyncness.take().is_none() {
        return;
    }
    let output = match &function.sig.output {
        ReturnType::Default => quote!(()),
        ReturnType::Type(_, ty) => quote!(#ty),
    };
    function.sig.output = syn::parse_quote!(-> impl ::core::future::Future<Output = #output>);
}

/// The struct that holds whatever implements the trait, and how it dispatches.
fn object(kind: &Kind, item: &ItemTrait, interface: &Interface) -> TokenStream {
    let root = &kind.root;
    let (vis, name) = (&item.vis, &item.ident);
    let service = &interface.owner;
    let docs = format!("An implementation of the service [`{name}`], whoever wrote it.");
    let create = quote! {
        fn create(_: u64) -> ::core::option::Option<Self> {
            ::core::option::Option::None
        }
    };
    let object = object_trait(item);
    let entity = entity::alone(kind, &kind.name_of(name), service, &create);
    let module = entity::module(root, service, &quote!(#service), &[], true);
    quote! {
        #[doc = #docs]
        #vis struct #service {
            this: ::std::rc::Rc<dyn #object>,
        }

        #[doc(hidden)]
        #vis trait #object {
            fn __dispatch(
                self: ::std::rc::Rc<Self>,
                turn: #root::Turn<#service>,
                message: <#service as #root::Methods>::Message,
            ) -> #root::Step;
        }

        impl #service {
            /// Serves with `implementation`.
            #vis fn new(implementation: impl #name) -> Self {
                #service { this: ::std::rc::Rc::new(implementation) }
            }
        }

        #[allow(warnings, clippy::all, clippy::pedantic)]
        const _: () = {
            #module
            #entity
        };
    }
}

/// The name of the object-safe trait that the holder calls.
fn object_trait(item: &ItemTrait) -> Ident {
    format_ident!("__{}Object", item.ident)
}

/// Implements the object-safe trait for every implementation of the service's.
fn dispatcher(item: &ItemTrait, interface: &Interface) -> TokenStream {
    let root = &interface.root;
    let name = &item.ident;
    let service = &interface.owner;
    let object = object_trait(item);
    let arms = interface.methods.iter().map(|method| {
        let pattern = dispatch::pattern(method);
        let ident = &method.ident;
        let binds = wire::binds(method);
        let verb = if method.is_async {
            let context = method.takes_cx.then(|| quote!(&mut __cx,));
            let call = quote!(<__T as #name>::#ident(&*__object, #context #(#binds),*).await);
            dispatch::finish_later(method, &call)
        } else {
            let context = method.takes_cx.then(|| quote!(__cx,));
            let call = quote!(<__T as #name>::#ident(&*__object, #context #(#binds),*));
            dispatch::finish_now(method, &call)
        };
        quote!(#pattern => #verb,)
    });
    quote! {
        impl<__T: #name> #object for __T {
            fn __dispatch(
                self: ::std::rc::Rc<Self>,
                __turn: #root::Turn<#service>,
                __message: __Message,
            ) -> #root::Step {
                let __object = self;
                let __wrap = |__reply: __Reply| __reply;
                match __message { #(#arms)* }
            }
        }
    }
}
