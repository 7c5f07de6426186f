//! Stubs: what callers call, what timers are started on, and the table of ids.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};

use crate::method::{Caller, Method, Output, Role};
use crate::rpc::Interface;
use crate::wire;

/// The names of what is generated for one module.
pub struct Names {
    pub stub: Ident,
    pub timers: Ident,
    pub ids: Ident,
    pub events: Ident,
}

impl Names {
    pub fn of(owner: &Ident) -> Self {
        Names {
            stub: format_ident!("{owner}Stub"),
            timers: format_ident!("{owner}Timers"),
            ids: format_ident!("{owner}Methods"),
            events: format_ident!("{owner}Events"),
        }
    }
}

/// The four structs.
pub fn structs(interface: &Interface) -> TokenStream {
    let root = &interface.root;
    let owner = &interface.owner;
    let Names { stub, timers, ids, events } = Names::of(owner);
    let event_docs = format!("What of [`{owner}`] can listen to topics, for `cx.subscribe`.");
    let stub_docs = format!("Calls the methods of a [`{owner}`].");
    let timer_docs = format!("Starts the timers of a [`{owner}`].");
    let id_docs = format!("The ids of the methods of [`{owner}`], for clients and tools.");
    let fields = remote(interface).map(|method| {
        let ident = &method.ident;
        let docs = format!("The id of `{}`.", method.name);
        quote!(#[doc = #docs] pub #ident: #root::MethodId)
    });
    let methods_docs = "The ids of its remote methods.";
    quote! {
        #[doc = #stub_docs]
        #[allow(private_bounds, private_interfaces, dead_code)]
        pub struct #stub<'c, __P: #root::Part<Module = #owner>> {
            link: #root::Link<'c, __P::Owner>,
            part: ::core::marker::PhantomData<__P>,
        }

        #[doc = #timer_docs]
        #[allow(private_bounds, private_interfaces, dead_code)]
        pub struct #timers<'c, __P: #root::Part<Module = #owner>> {
            schedule: #root::Schedule<'c, __P::Owner>,
            part: ::core::marker::PhantomData<__P>,
        }

        #[doc = #event_docs]
        #[allow(private_bounds, private_interfaces, dead_code)]
        pub struct #events<__P: #root::Part<Module = #owner>> {
            part: ::core::marker::PhantomData<__P>,
        }

        #[doc = #id_docs]
        #[derive(Clone, Copy, Debug)]
        #[allow(dead_code)]
        pub struct #ids { #(#fields),* }

        #[allow(dead_code)]
        impl #owner {
            #[doc = #methods_docs]
            pub fn methods() -> #ids {
                <Self as #root::Methods>::ids("")
            }
        }
    }
}

fn remote(interface: &Interface) -> impl Iterator<Item = &Method> {
    interface.methods.iter().filter(|method| matches!(method.role, Role::Remote(_)))
}

/// The `ids` function of `Methods`.
pub fn make_ids(interface: &Interface) -> TokenStream {
    let root = &interface.root;
    let ids = Names::of(&interface.owner).ids;
    let fields = remote(interface).map(|method| {
        let (ident, name) = (&method.ident, &method.name);
        quote!(#ident: #root::method_id(__field, #name))
    });
    quote! {
        fn ids(__field: &str) -> Self::Ids {
            #ids { #(#fields),* }
        }
    }
}

/// The methods on stubs and timers. Stands where `__Message` and `__Reply` are in scope.
pub fn impls(interface: &Interface) -> TokenStream {
    let root = &interface.root;
    let owner = &interface.owner;
    let Names { stub, timers, events, .. } = Names::of(owner);
    let hears = interface
        .methods
        .iter()
        .filter(|method| matches!(method.role, Role::Event))
        .map(|method| hear(interface, method));
    let calls = remote(interface)
        .filter(|method| method.allows(Caller::Server) || method.allows(Caller::Operator))
        .map(|method| call(interface, method));
    let starts = interface
        .methods
        .iter()
        .filter(|method| matches!(method.role, Role::Timer))
        .map(|method| start(interface, method));
    quote! {
        #[allow(dead_code, private_interfaces, private_bounds, clippy::all, clippy::pedantic)]
        impl<'c, __P: #root::Part<Module = #owner>> #stub<'c, __P> {
            #(#calls)*
        }

        #[allow(private_bounds)]
        impl<__P: #root::Part<Module = #owner>> ::core::clone::Clone for #stub<'_, __P> {
            fn clone(&self) -> Self {
                #stub {
                    link: ::core::clone::Clone::clone(&self.link),
                    part: ::core::marker::PhantomData,
                }
            }
        }

        #[allow(dead_code, private_interfaces, private_bounds, clippy::all, clippy::pedantic)]
        impl<'c, __P: #root::Part<Module = #owner>> #timers<'c, __P> {
            /// Files the timer under `key`; many may share one.
            #[must_use]
            pub fn key(
                mut self,
                key: impl ::core::convert::Into<::std::borrow::Cow<'static, str>>,
            ) -> Self {
                self.schedule = self.schedule.key(key);
                self
            }

            #(#starts)*
        }

        #[allow(dead_code, private_interfaces, private_bounds, clippy::all, clippy::pedantic)]
        impl<__P: #root::Part<Module = #owner>> #events<__P> {
            #(#hears)*
        }
    }
}

/// A method of the stub.
fn call(interface: &Interface, method: &Method) -> TokenStream {
    let root = &interface.root;
    let Method { ident, docs, .. } = method;
    let variant = method.variant();
    let (names, types) = (method.arg_idents(), method.arg_types());
    let message = quote!(__P::message(__Message::#variant(#(#names),*)));
    let problem = problem(interface, method);
    if !method.answers() {
        let refuse = problem.map(|problem| {
            quote! {
                if let ::core::option::Option::Some(__problem) = #problem {
                    return self.link.tell_refused(__problem);
                }
            }
        });
        // Part of the code that tells: a tenth of its instructions were for passing things on.
        return quote! {
            #(#docs)*
            #[inline(always)]
            pub fn #ident(
                &self,
                #(#names: #types),*
            ) -> ::core::result::Result<(), #root::CallError> {
                #refuse
                self.link.tell(#message)
            }
        };
    }
    let (output, outcome) = outcome(interface, method);
    let refuse = problem.map(|problem| {
        quote! {
            if let ::core::option::Option::Some(__problem) = #problem {
                return self.link.refused(__problem, __outcome);
            }
        }
    });
    quote! {
        #(#docs)*
        pub fn #ident(&self, #(#names: #types),*) -> #root::Call<__P::Owner, #output> {
            let __outcome: #root::CallEnd<<__P::Owner as #root::Entity>::Reply, #output> = #outcome;
            #refuse
            self.link.call(#message, __outcome)
        }
    }
}

/// What a call gives, and what makes it of the call's end.
fn outcome(interface: &Interface, method: &Method) -> (TokenStream, TokenStream) {
    let root = &interface.root;
    let variant = method.variant();
    let (ok, err, some) = (
        quote!(::core::result::Result::Ok),
        quote!(::core::result::Result::Err),
        quote!(::core::option::Option::Some),
    );
    match &method.output {
        Output::Fallible { ok: value, error } => (
            quote!(::core::result::Result<#value, #root::Failure<#error>>),
            quote! {
                #root::CallEnd {
                    replied: |__reply| ::core::task::Poll::Ready(match __P::reply(__reply) {
                        #some(__Reply::#variant(#ok(__value))) => #ok(__value),
                        #some(__Reply::#variant(#err(__error))) => #err(#root::Failure::App(__error)),
                        _ => #err(#root::Failure::Call(#root::wrong_reply())),
                    }),
                    failed: |__error| #err(#root::Failure::Call(__error)),
                }
            },
        ),
        _ => {
            let value = method.answer_type();
            (
                quote!(::core::result::Result<#value, #root::CallError>),
                quote! {
                    #root::CallEnd {
                        replied: |__reply| ::core::task::Poll::Ready(match __P::reply(__reply) {
                            #some(__Reply::#variant(__value)) => #ok(__value),
                            _ => #err(#root::wrong_reply()),
                        }),
                        failed: |__error| #err(__error),
                    }
                },
            )
        }
    }
}

/// An expression of type `Option<String>`: which argument is outside its limits. `None` if no
/// argument has any.
fn problem(interface: &Interface, method: &Method) -> Option<TokenStream> {
    let root = &interface.root;
    let checks: TokenStream = method
        .args
        .iter()
        .map(|arg| {
            let ident = &arg.ident;
            wire::arg_checks(root, arg, &quote!(&#ident))
        })
        .collect();
    if checks.is_empty() {
        return None;
    }
    Some(quote! {
        (|| -> ::core::result::Result<(), #root::codec::DecodeError> {
            #checks
            ::core::result::Result::Ok(())
        })()
        .err()
        .map(|__error| ::std::string::ToString::to_string(&__error))
    })
}

/// A method of the timers.
fn start(interface: &Interface, method: &Method) -> TokenStream {
    let root = &interface.root;
    let Method { ident, docs, .. } = method;
    let variant = method.variant();
    let (names, types) = (method.arg_idents(), method.arg_types());
    quote! {
        #(#docs)*
        pub fn #ident(self, #(#names: #types),*) -> #root::TimerId {
            self.schedule.start(move || {
                __P::message(__Message::#variant(#(::core::clone::Clone::clone(&#names)),*))
            })
        }
    }
}

/// A method of the events.
fn hear(interface: &Interface, method: &Method) -> TokenStream {
    let root = &interface.root;
    let Method { ident, docs, .. } = method;
    let variant = method.variant();
    let types = method.arg_types();
    quote! {
        #(#docs)*
        pub fn #ident(self) -> fn(#(#types),*) -> <__P::Owner as #root::Entity>::Message {
            |__published| __P::message(__Message::#variant(__published))
        }
    }
}
