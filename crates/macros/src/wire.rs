//! The message and reply enums and their encodings.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{ExprRange, Path};

use crate::arg::Arg;
use crate::method::{Method, Output, Role};
use crate::rpc::Interface;

/// Names that cannot clash with what the user's types are called.
pub fn binds(method: &Method) -> Vec<Ident> {
    (0..method.args.len()).map(|at| format_ident!("__a{at}")).collect()
}

/// `__Message` and `__Reply`.
pub fn enums(interface: &Interface) -> TokenStream {
    let messages = interface.methods.iter().map(|method| {
        let variant = method.variant();
        let types = method.arg_types();
        quote!(#variant(#(#types),*))
    });
    let replies = interface.methods.iter().filter(|method| method.answers()).map(|method| {
        let variant = method.variant();
        let ty = method.answer_type();
        quote!(#variant(#ty))
    });
    quote! {
        #[doc(hidden)]
        pub enum __Message { #(#messages),* }
        #[doc(hidden)]
        pub enum __Reply { #(#replies),* }
    }
}

/// The four functions that encode and decode.
pub fn functions(interface: &Interface) -> TokenStream {
    let root = &interface.root;
    let encode_messages = interface.methods.iter().map(|method| encode_message(root, method));
    let decode_messages = interface.methods.iter().enumerate().map(|(at, method)| {
        let variant = method.variant();
        let binds = binds(method);
        let reads = match method.role {
            Role::Remote(_) => decode_args(root, method),
            _ => decode_own(root, method),
        };
        quote!(#at => { #reads __Message::#variant(#(#binds),*) })
    });
    let answering = || interface.methods.iter().enumerate().filter(|(_, method)| method.answers());
    let encode_replies = answering().map(|(_, method)| encode_reply(root, method));
    let decode_replies = answering().map(|(at, method)| decode_reply(root, at, method));
    quote! {
        fn encode_message(__message: &Self::Message, __out: &mut ::std::vec::Vec<u8>) {
            match *__message { #(#encode_messages)* }
        }

        fn decode_message(
            __position: usize,
            __body: &[u8],
        ) -> ::core::result::Result<Self::Message, #root::codec::DecodeError> {
            let mut __decoder = #root::codec::Decoder::new(__body);
            let __d = &mut __decoder;
            let __message = match __position {
                #(#decode_messages)*
                _ => return ::core::result::Result::Err(#root::codec::Problem::Missing.into()),
            };
            #[allow(unreachable_code)]
            {
                __d.end()?;
                ::core::result::Result::Ok(__message)
            }
        }

        fn encode_reply(__reply: &Self::Reply, __out: &mut ::std::vec::Vec<u8>) -> #root::Status {
            match *__reply { #(#encode_replies)* }
        }

        fn decode_reply(
            __position: usize,
            __status: #root::Status,
            __body: &[u8],
        ) -> ::core::result::Result<Self::Reply, #root::codec::DecodeError> {
            let mut __decoder = #root::codec::Decoder::new(__body);
            let __d = &mut __decoder;
            let __reply = match (__position, __status) {
                #(#decode_replies)*
                _ => return ::core::result::Result::Err(#root::codec::Problem::Missing.into()),
            };
            #[allow(unreachable_code)]
            {
                __d.end()?;
                ::core::result::Result::Ok(__reply)
            }
        }
    }
}

fn encode_message(root: &Path, method: &Method) -> TokenStream {
    let variant = method.variant();
    if !matches!(method.role, Role::Remote(_)) {
        return encode_own(root, method);
    }
    let binds = binds(method);
    let writes = encode_args(root, &method.args, &binds);
    quote! {
        __Message::#variant(#(ref #binds),*) => { #writes }
    }
}

/// A message of the entity to itself. It leaves its entity only together with it, so its arguments
/// need not be messages; if they are not, it does not come along.
fn encode_own(root: &Path, method: &Method) -> TokenStream {
    let variant = method.variant();
    let (count, binds) = (method.args.len(), binds(method));
    quote! {
        __Message::#variant(#(ref #binds),*) => {
            #[allow(unused_imports)]
            use #root::codec::{IsMessage as _, IsNone as _};
            let __start = __out.len();
            #root::codec::put_array(__out, #count);
            let __whole = true #(&& (&#root::codec::MaybeMessage(#binds)).put(__out))*;
            if !__whole {
                __out.truncate(__start);
                #root::codec::put_array(__out, 0);
            }
        }
    }
}

/// Statements that read what [`encode_own`] wrote.
fn decode_own(root: &Path, method: &Method) -> TokenStream {
    let reads = method.args.iter().zip(binds(method)).map(|(arg, bind)| {
        let Arg { name, ty, .. } = arg;
        quote! {
            let #bind: #ty = (&#root::codec::MaybeType::<#ty>(::core::marker::PhantomData))
                .take(&mut __fields, __d, #name)?;
        }
    });
    quote! {
        #[allow(unused_imports)]
        use #root::codec::{IsReadable as _, IsUnreadable as _};
        #[allow(unused_mut)]
        let mut __fields = #root::codec::Fields::begin(__d)?;
        #(#reads)*
        __fields.end(__d)?;
    }
}

/// Statements that append the arguments, which are the references in `binds`, to `__out`.
pub fn encode_args(root: &Path, args: &[Arg], binds: &[Ident]) -> TokenStream {
    let count = args.len();
    let writes = args.iter().zip(binds).map(|(arg, bind)| {
        let ty = &arg.ty;
        let root = crate::at(root, ty.span());
        quote_spanned!(ty.span()=> <#ty as #root::codec::Message>::encode(#bind, __out);)
    });
    quote! {
        #root::codec::put_array(__out, #count);
        #(#writes)*
    }
}

/// Statements that read the arguments into their binds and check their limits.
fn decode_args(root: &Path, method: &Method) -> TokenStream {
    let reads = method.args.iter().zip(binds(method)).map(|(arg, bind)| {
        let Arg { name, ty, .. } = arg;
        let checks = arg_checks(root, arg, &quote!(&#bind));
        let read = match &arg.default {
            None => quote_spanned!(ty.span()=> __fields.required::<#ty>(__d, #name)?),
            Some(default) => {
                quote_spanned!(ty.span()=> __fields.or_else::<#ty>(__d, #name, || #default)?)
            }
        };
        quote! {
            let #bind: #ty = #read;
            #checks
        }
    });
    quote! {
        let mut __fields = #root::codec::Fields::begin(__d)?;
        #(#reads)*
        __fields.end(__d)?;
    }
}

/// Statements that hold the argument in `value` against its limits, leaving with `?`.
pub fn arg_checks(root: &Path, arg: &Arg, value: &TokenStream) -> TokenStream {
    let name = &arg.name;
    let mut checks = TokenStream::new();
    if let Some(range) = &arg.range {
        let text = range_text(range);
        checks.extend(quote!(#root::codec::check_range(#value, #range, #name, #text)?;));
    }
    if let Some(range) = &arg.len {
        let text = range_text(range);
        checks.extend(quote!(#root::codec::check_length(#value, #range, #name, #text)?;));
    }
    if arg.finite {
        checks.extend(quote!(#root::codec::check_finite(#value, #name)?;));
    }
    checks
}

/// The range as people write it, without the spaces that tokens get.
fn range_text(range: &ExprRange) -> String {
    range.to_token_stream().to_string().replace(' ', "")
}

fn encode_reply(root: &Path, method: &Method) -> TokenStream {
    let variant = method.variant();
    let encode = |ty: &TokenStream| quote_spanned!(ty.span()=> <#ty as #root::codec::Message>::encode(__value, __out););
    match &method.output {
        Output::Fallible { ok, error } => {
            let (ok, error) = (encode(ok), encode(error));
            quote! {
                __Reply::#variant(::core::result::Result::Ok(ref __value)) => {
                    #ok
                    #root::Status::Ok
                }
                __Reply::#variant(::core::result::Result::Err(ref __value)) => {
                    #error
                    #root::Status::App
                }
            }
        }
        _ => {
            let write = encode(&method.answer_type());
            quote! {
                __Reply::#variant(ref __value) => {
                    #write
                    #root::Status::Ok
                }
            }
        }
    }
}

fn decode_reply(root: &Path, at: usize, method: &Method) -> TokenStream {
    let variant = method.variant();
    let decode = |ty: &TokenStream| {
        let root = crate::at(root, ty.span());
        quote_spanned!(ty.span()=> <#ty as #root::codec::Message>::decode(__d)?)
    };
    match &method.output {
        Output::Fallible { ok, error } => {
            let (ok, error) = (decode(ok), decode(error));
            quote! {
                (#at, #root::Status::Ok) => {
                    __Reply::#variant(::core::result::Result::Ok(#ok))
                }
                (#at, #root::Status::App) => {
                    __Reply::#variant(::core::result::Result::Err(#error))
                }
            }
        }
        _ => {
            let value = decode(&method.answer_type());
            quote! {
                (#at, #root::Status::Ok) => __Reply::#variant(#value),
            }
        }
    }
}

/// The `describe` function of `Methods`.
pub fn describe(interface: &Interface) -> TokenStream {
    let root = &interface.root;
    let methods = interface
        .methods
        .iter()
        .enumerate()
        .filter(|(_, method)| matches!(method.role, Role::Remote(_)))
        .map(|(at, method)| {
            let types = describe_types(root, method, method.answers());
            quote! {{
                let mut __method =
                    #root::describe_method(__field, &<Self as #root::Methods>::METHODS[#at]);
                #types
                __methods.push(__method);
            }}
        });
    quote! {
        fn describe(
            __field: &str,
            __schema: &mut #root::schema::SchemaBuilder,
        ) -> ::std::vec::Vec<#root::schema::Method> {
            let mut __methods = ::std::vec::Vec::new();
            #(#methods)*
            __methods
        }
    }
}

/// Statements that fill in the types and the delivery of `__method`.
pub fn describe_types(root: &Path, method: &Method, answers: bool) -> TokenStream {
    let shape = |ty: &TokenStream| {
        let root = crate::at(root, ty.span());
        quote_spanned!(ty.span()=> <#ty as #root::codec::Message>::shape(__schema))
    };
    let args = method.args.iter().map(|arg| {
        let name = &arg.name;
        let shape = shape(&arg.ty);
        let range = arg.range.as_ref().map(|range| {
            let text = range_text(range);
            quote!(.range(#text))
        });
        let len = arg.len.as_ref().map(|range| {
            let text = range_text(range);
            quote!(.len(#text))
        });
        let finite = arg.finite.then(|| quote!(.finite()));
        let presence =
            arg.default.is_some().then(|| quote!(.presence(#root::schema::Presence::Default)));
        quote!(#root::schema::Field::new(#name, #shape) #presence #range #len #finite)
    });
    let some = |shape| quote!(::core::option::Option::Some(#shape));
    let none = quote!(::core::option::Option::None);
    let (reply, error) = match &method.output {
        Output::Fallible { ok, error } => (some(shape(ok)), some(shape(error))),
        _ if answers => (some(shape(&method.answer_type())), none.clone()),
        _ => (none.clone(), none.clone()),
    };
    let delivery = match &method.options.latest {
        Some(None) => quote!(Latest(#none)),
        Some(Some(arg)) => {
            let name = crate::method::plain_name(arg);
            quote!(Latest(::core::option::Option::Some(#name.into())))
        }
        None if method.options.unreliable => quote!(Unreliable),
        None => quote!(Reliable),
    };
    quote! {
        __method.args = ::std::vec![#(#args),*];
        __method.reply = #reply;
        __method.error = #error;
        __method.delivery = #root::schema::Delivery::#delivery;
    }
}
