//! How a message reaches its method.

use proc_macro2::TokenStream;
use quote::quote;

use crate::method::{Method, Output, Receiver, Role};
use crate::rpc::Interface;

/// Where the methods are found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// On the state itself.
    State,
    /// On an object behind the state: a service declared as a trait.
    Object,
}

/// The `dispatch` function of `Methods`.
pub fn dispatch(interface: &Interface, shape: Shape) -> TokenStream {
    let root = &interface.root;
    let body = match shape {
        Shape::State => {
            let arms = interface.methods.iter().map(|method| {
                let pattern = pattern(method);
                let verb = on_state(interface, method);
                quote!(#pattern => #verb,)
            });
            quote!(match __message { #(#arms)* })
        }
        Shape::Object => quote! {
            let __this = ::std::rc::Rc::clone(&__turn.state().borrow().this);
            __this.__dispatch(__turn, __message)
        },
    };
    quote! {
        #[inline]
        fn dispatch<__W>(
            __turn: #root::Turn<<Self as #root::Module>::Owner, Self>,
            __message: Self::Message,
            __wrap: __W,
        ) -> #root::Step
        where
            __W: ::core::ops::Fn(Self::Reply) -> <<Self as #root::Module>::Owner as #root::Entity>::Reply
                + ::core::marker::Copy
                + 'static,
        {
            #body
        }
    }
}

/// `__Message::Add(__a0, __a1)`.
pub fn pattern(method: &Method) -> TokenStream {
    let variant = method.variant();
    let binds = crate::wire::binds(method);
    quote!(__Message::#variant(#(#binds),*))
}

fn on_state(interface: &Interface, method: &Method) -> TokenStream {
    let root = &interface.root;
    let owner = &interface.owner;
    let ident = &method.ident;
    let binds = crate::wire::binds(method);
    let (context, context_mut) = match method.takes_cx {
        true => (quote!(__cx,), quote!(&mut __cx,)),
        false => (quote!(), quote!()),
    };
    if !method.is_async {
        let call = quote!(__this.#ident(#context #(#binds),*));
        return finish_now(method, &call);
    }
    let future = match method.receiver {
        Receiver::This => quote! {
            <#owner>::#ident(#root::This::new(__state), #context_mut #(#binds),*).await
        },
        Receiver::Shared => quote! {
            let __this = __state.borrow();
            __this.#ident(#context_mut #(#binds),*).await
        },
        Receiver::Exclusive | Receiver::None => quote! {
            let mut __this = __state.borrow_mut();
            __this.#ident(#context_mut #(#binds),*).await
        },
    };
    finish_later(method, &future)
}

/// The verb for a plain handler whose call is `call`.
pub fn finish_now(method: &Method, call: &TokenStream) -> TokenStream {
    let variant = method.variant();
    match (&method.role, &method.output) {
        (Role::Remote(_), _) if method.answers() => {
            quote!(__turn.call(move |__this, __cx| __wrap(__Reply::#variant(#call))))
        }
        (Role::Timer, Output::Fallible { .. }) => {
            quote!(__turn.tell_result(move |__this, __cx| #call))
        }
        _ => quote!(__turn.tell(move |__this, __cx| { #call; })),
    }
}

/// The verb for an async handler whose statements are `body`.
pub fn finish_later(method: &Method, body: &TokenStream) -> TokenStream {
    let variant = method.variant();
    match (&method.role, &method.output) {
        (Role::Remote(_), _) if method.answers() => quote! {
            __turn.run(move |__state, mut __cx| async move {
                let __value = { #body };
                __wrap(__Reply::#variant(__value))
            })
        },
        (Role::Timer, Output::Fallible { .. }) => quote! {
            __turn.run_result(move |__state, mut __cx| async move {
                let __value = { #body };
                __value
            })
        },
        _ => quote! {
            __turn.run_quiet(move |__state, mut __cx| async move {
                let __value = { #body };
            })
        },
    }
}
