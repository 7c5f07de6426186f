//! `#[index]` on fields, and `#[document(index(a, b))]`.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use syn::meta::ParseNestedMeta;
use syn::punctuated::Punctuated;
use syn::{DeriveInput, Error, Field, Meta, Result, Token, Type};

use super::{Options, Saved, mark};
use crate::method::plain_name;

/// An index over some fields.
pub(super) struct Index {
    fields: Vec<Ident>,
    unique: bool,
}

impl Index {
    /// `index(a, b)` or `unique(a, b)` on the type.
    pub fn of_fields(meta: &ParseNestedMeta<'_>) -> Result<Self> {
        let list;
        syn::parenthesized!(list in meta.input);
        let fields = list.parse_terminated(syn::parse::Parse::parse, Token![,])?;
        let fields: Vec<Ident> = Punctuated::<Ident, Token![,]>::into_iter(fields).collect();
        if fields.is_empty() {
            return Err(meta.error("an index has fields: `index(realm, level)`"));
        }
        Ok(Index { fields, unique: meta.path.is_ident("unique") })
    }
}

/// Those of single fields: `#[index]` and `#[index(unique)]`.
pub(super) fn of_each<'a>(fields: impl IntoIterator<Item = &'a Field>) -> Result<Vec<Index>> {
    let mut all = Vec::new();
    for field in fields {
        let Some(ident) = &field.ident else { continue };
        for attr in field.attrs.iter().filter(|attr| attr.path().is_ident("index")) {
            let mut unique = false;
            if !matches!(attr.meta, Meta::Path(_)) {
                attr.parse_nested_meta(|meta| {
                    unique = meta.path.is_ident("unique");
                    if unique { Ok(()) } else { Err(meta.error("known here: `unique`")) }
                })?;
            }
            if mark(&field.attrs).is_none() {
                return Err(Error::new(
                    ident.span(),
                    "only what is saved has an index: add `#[persist]`",
                ));
            }
            all.push(Index { fields: vec![ident.clone()], unique });
        }
    }
    Ok(all)
}

/// What indexes bring with them.
pub(super) struct Expanded {
    /// One function for each, which makes what is looked for.
    pub queries: TokenStream,
    /// What a document has in each.
    pub values: TokenStream,
}

pub(super) fn expand(input: &DeriveInput, options: &Options, saved: &[Saved]) -> Result<Expanded> {
    let Options { root, indexes, record, .. } = options;
    let (ident, vis) = (&input.ident, &input.vis);
    if indexes.is_empty() {
        return Ok(Expanded { queries: TokenStream::new(), values: TokenStream::new() });
    }
    let (mut queries, mut values) = (Vec::new(), Vec::new());
    for index in indexes {
        let unique = index.unique;
        if unique && record.is_none() {
            return Err(Error::new(
                index.fields[0].span(),
                "a unique index is of records: an entity is saved after it has changed, when nobody can be \
                 told any more that somebody else has the value. Claim it by a record",
            ));
        }
        let names: Vec<String> = index.fields.iter().map(plain_name).collect();
        let name = names.join("+");
        let mut types = Vec::new();
        for field in &index.fields {
            let known = saved.iter().find(|saved| saved.ident == *field);
            let known = known.ok_or_else(|| {
                Error::new(field.span(), "an index is over fields marked `#[persist]`")
            })?;
            types.push(&known.ty);
        }
        let fields = &index.fields;
        values.push(quote! {
            #root::IndexValue {
                name: #name,
                value: {
                    let mut __value = ::std::vec::Vec::new();
                    #(<#types as #root::Message>::encode(&self.#fields, &mut __value);)*
                    __value
                },
                unique: #unique,
            }
        });
        let function = format_ident!("by_{}", names.join("_and_"));
        let takes = types.iter().map(|ty| if is_text(ty) { quote!(&str) } else { quote!(&#ty) });
        let encodes = index.fields.iter().zip(&types).map(|(field, ty)| match is_text(ty) {
            true => quote! {
                <#ty as #root::Message>::encode(&::std::borrow::ToOwned::to_owned(#field), &mut __value);
            },
            false => quote!(<#ty as #root::Message>::encode(#field, &mut __value);),
        });
        let doc = format!("Looks for those with this in the index of `{}`.", names.join("`, `"));
        queries.push(quote! {
            #[doc = #doc]
            #vis fn #function(#(#fields: #takes),*) -> #root::Query<Self> {
                let mut __value = ::std::vec::Vec::new();
                #(#encodes)*
                #root::Query::new(#name, __value, #unique)
            }
        });
    }
    Ok(Expanded {
        queries: quote! {
            #[automatically_derived]
            #[allow(dead_code)]
            impl #ident {
                #(#queries)*
            }
        },
        values: quote! {
            const INDEXED: bool = true;

            fn indexes(&self) -> ::std::vec::Vec<#root::IndexValue> {
                let mut __values = ::std::vec![#(#values),*];
                // Nothing is not a value of which there may be one.
                __values.retain(|__value| !__value.unique || __value.value != [0xc0]);
                __values
            }
        },
    })
}

fn is_text(ty: &Type) -> bool {
    let Type::Path(path) = ty else { return false };
    path.path.segments.last().is_some_and(|last| last.ident == "String" && last.arguments.is_none())
}
