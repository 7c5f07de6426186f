//! The attributes and derives of Mainstay.
//!
//! Generated paths start at `::mainstay::rt`, or at the `root` given in the attribute.

mod message;

use proc_macro::TokenStream;

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
