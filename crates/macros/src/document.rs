//! `#[derive(Document)]`, and the part of `#[entity(document)]` that loads and saves.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{
    Attribute, Data, DeriveInput, Error, Expr, ExprLit, ExprRange, Field, Fields, ItemStruct, Lit,
    LitInt, LitStr, Path, Result, Type,
};

use self::index::{Expanded, Index};
use crate::method::plain_name;

mod index;

/// `#[document(..)]` on the type.
struct Options {
    root: Path,
    version: u32,
    from: Option<Path>,
    step: Option<Path>,
    record: Option<LitStr>,
    key: Option<Type>,
    store: Option<LitStr>,
    indexes: Vec<Index>,
}

/// One saved field.
struct Saved {
    ident: syn::Ident,
    name: String,
    ty: Type,
    /// What one that was never written takes; nothing: it stays as it is.
    default: Option<TokenStream>,
    checks: TokenStream,
    /// The same limits, for the schema.
    limits: TokenStream,
}

/// Writes the `Document` implementation of a struct.
pub fn derive(input: TokenStream) -> Result<TokenStream> {
    let input: DeriveInput = syn::parse2(input)?;
    let Data::Struct(data) = &input.data else {
        return Err(Error::new(input.ident.span(), "a document is a struct with named fields"));
    };
    if !input.generics.params.is_empty() {
        return Err(Error::new(input.generics.span(), "a document takes no parameters"));
    }
    let mut options = Options::read(&input)?;
    let fields: Vec<Saved> = match &data.fields {
        Fields::Named(named) => saved(named.named.iter(), &options.root)?,
        Fields::Unit => Vec::new(),
        Fields::Unnamed(fields) => {
            return Err(Error::new(fields.span(), "a document is a struct with named fields"));
        }
    };
    if let Fields::Named(named) = &data.fields {
        options.indexes.extend(index::of_each(&named.named)?);
    }
    let indexes = index::expand(&input, &options, &fields)?;
    Ok(implement(&input, &options, &fields, &indexes))
}

impl Options {
    fn read(input: &DeriveInput) -> Result<Self> {
        let mut options = Options {
            root: crate::default_root(),
            version: 1,
            from: None,
            step: None,
            record: None,
            key: None,
            store: None,
            indexes: Vec::new(),
        };
        for attr in input.attrs.iter().filter(|attr| attr.path().is_ident("document")) {
            attr.parse_nested_meta(|meta| {
                if meta.path.is_ident("root") {
                    options.root = meta.value()?.call(Path::parse_mod_style)?;
                } else if meta.path.is_ident("version") {
                    let number: LitInt = meta.value()?.parse()?;
                    options.version = number.base10_parse()?;
                    if options.version == 0 {
                        return Err(Error::new(number.span(), "versions begin at 1"));
                    }
                } else if meta.path.is_ident("from") {
                    options.from = Some(meta.value()?.call(Path::parse_mod_style)?);
                } else if meta.path.is_ident("step") {
                    options.step = Some(meta.value()?.call(Path::parse_mod_style)?);
                } else if meta.path.is_ident("record") {
                    options.record = Some(meta.value()?.parse()?);
                } else if meta.path.is_ident("index") || meta.path.is_ident("unique") {
                    options.indexes.push(Index::of_fields(&meta)?);
                } else if meta.path.is_ident("store") {
                    options.store = Some(meta.value()?.parse()?);
                } else if meta.path.is_ident("key") {
                    options.key = Some(meta.value()?.parse()?);
                } else {
                    return Err(meta.error(
                        "unknown option; known here: `version = 2`, `from = OldType`, \
                         `step = path`, `record = \"name\"`, `key = Type`, `store = \"name\"`, `index(a, b)`, `unique(a, b)`, \
                         `root = path`",
                    ));
                }
                Ok(())
            })?;
        }
        if options.step.is_some() && options.from.is_none() {
            return Err(Error::new(
                input.ident.span(),
                "a step leads from an older type: name it with `from = OldType`",
            ));
        }
        if let (None, Some(store)) = (&options.record, &options.store) {
            let what = "only records name a store here: an entity does so in `#[entity(document, store = ..)]`";
            return Err(Error::new(store.span(), what));
        }
        match (&options.record, &options.key) {
            (Some(name), _) if name.value().is_empty() => {
                Err(Error::new(name.span(), "a record has a name"))
            }
            (Some(name), None) => {
                Err(Error::new(name.span(), "a record has a key: add `key = u64` or another type"))
            }
            (None, Some(key)) => {
                Err(Error::new(key.span(), "only records have a key: add `record = \"name\"`"))
            }
            _ => Ok(options),
        }
    }
}

fn saved<'a>(fields: impl Iterator<Item = &'a Field>, root: &Path) -> Result<Vec<Saved>> {
    let mut all = Vec::new();
    for field in fields {
        let (Some(attr), Some(ident)) = (mark(&field.attrs), &field.ident) else { continue };
        // A component saves a sub-document of its own.
        if component(&field.ty) {
            continue;
        }
        let name = plain_name(ident);
        let (mut default, mut checks, mut limits) = (None, TokenStream::new(), TokenStream::new());
        if !matches!(attr.meta, syn::Meta::Path(_)) {
            attr.parse_nested_meta(|meta| {
                if meta.path.is_ident("default") {
                    default = Some(if meta.input.peek(syn::Token![=]) {
                        meta.value()?.parse::<Expr>()?.to_token_stream()
                    } else {
                        quote!(::core::default::Default::default())
                    });
                } else if meta.path.is_ident("range") {
                    let range = range(meta.value()?.parse()?)?;
                    let text = text(&range);
                    limits.extend(quote!(.range(#text)));
                    checks.extend(
                        quote!(#root::codec::check_range(&self.#ident, #range, #name, #text)?;),
                    );
                } else if meta.path.is_ident("len") {
                    let range = range(meta.value()?.parse()?)?;
                    let text = text(&range);
                    limits.extend(quote!(.len(#text)));
                    checks.extend(
                        quote!(#root::codec::check_length(&self.#ident, #range, #name, #text)?;),
                    );
                } else if meta.path.is_ident("finite") {
                    limits.extend(quote!(.finite()));
                    checks.extend(quote!(#root::codec::check_finite(&self.#ident, #name)?;));
                } else {
                    return Err(meta.error(
                        "unknown option; known here: `default`, `default = ..`, `range = 1..=100`, \
                         `len = ..=20`, `finite`",
                    ));
                }
                Ok(())
            })?;
        }
        let (ident, ty) = (ident.clone(), field.ty.clone());
        all.push(Saved { ident, name, ty, default, checks, limits });
    }
    Ok(all)
}

fn implement(
    input: &DeriveInput,
    options: &Options,
    fields: &[Saved],
    indexes: &Expanded,
) -> TokenStream {
    let Options { root, version, from, step, record, key, store, indexes: _ } = options;
    let Expanded { queries, values } = indexes;
    let ident = &input.ident;
    let count = fields.len();
    let idents: Vec<_> = fields.iter().map(|field| &field.ident).collect();
    let types: Vec<_> = fields.iter().map(|field| &field.ty).collect();
    let names: Vec<_> = fields.iter().map(|field| &field.name).collect();
    let checks = fields.iter().map(|field| &field.checks);
    let limits = fields.iter().map(|field| &field.limits);
    let oldest =
        from.as_ref().map(|from| quote!(const OLDEST: u32 = <#from as #root::Document>::OLDEST;));
    let takes = fields.iter().map(|Saved { ident, default, .. }| match default {
        Some(default) => quote!(self.#ident = #ident.unwrap_or_else(|| #default);),
        None => quote!(if let ::core::option::Option::Some(__value) = #ident {
            self.#ident = __value;
        }),
    });
    let upgrade = from.as_ref().map(|from| {
        let made = match step {
            Some(step) => quote_spanned! {step.span()=>
                #step(__old).map_err(|__problem| {
                    #root::DocumentError::step(#version, __problem)
                })?
            },
            None => quote_spanned!(from.span()=> ::core::convert::From::from(__old)),
        };
        quote! {
            fn upgrade(
                &mut self,
                __found: u32,
                __bytes: &[u8],
            ) -> ::core::result::Result<(), #root::DocumentError> {
                const _: () = ::core::assert!(
                    <#from as #root::Document>::VERSION < #version,
                    "a step leads from a type of an older version"
                );
                let mut __old: #from = ::core::default::Default::default();
                #root::read_document(&mut __old, __bytes)?;
                let __new: Self = #made;
                #(self.#idents = __new.#idents;)*
                ::core::result::Result::Ok(())
            }
        }
    });
    let store = store.as_ref().map(|name| quote!(const STORE: &'static str = #name;));
    let record = record.as_ref().map(|name| {
        quote! {
            #[automatically_derived]
            impl #root::Record for #ident {
                const NAME: &'static str = #name;
                #store
                type Key = #key;
            }
        }
    });
    quote! {
        #record
        #queries

        #[automatically_derived]
        #[allow(warnings, clippy::all, clippy::pedantic)]
        impl #root::Document for #ident {
            const VERSION: u32 = #version;
            const FIELDS: usize = #count;
            #oldest
            #values

            fn describe_fields(
                __schema: &mut #root::schema::SchemaBuilder,
            ) -> ::std::vec::Vec<#root::schema::Field> {
                ::std::vec![#(
                    #root::schema::Field::new(#names, <#types as #root::Message>::shape(__schema))
                        .presence(#root::schema::Presence::Default)
                        #limits
                ),*]
            }

            fn write_fields(&self, __out: &mut ::std::vec::Vec<u8>) {
                #(<#types as #root::Message>::encode(&self.#idents, __out);)*
            }

            fn check(&self) -> ::core::result::Result<(), #root::DecodeError> {
                #(#checks)*
                ::core::result::Result::Ok(())
            }

            fn read_fields(
                &mut self,
                __fields: &mut #root::FieldReader<'_>,
            ) -> ::core::result::Result<(), #root::DecodeError> {
                #(let #idents = __fields.take::<#types>(#names)?;)*
                #(#takes)*
                ::core::result::Result::Ok(())
            }

            #upgrade
        }
    }
}

/// `load` and `save` of an entity with documents: its own, and one of each component marked
/// `#[persist]`.
pub fn functions(root: &Path, item: &ItemStruct) -> TokenStream {
    let (mut fields, mut types) = (Vec::new(), Vec::new());
    if let Fields::Named(named) = &item.fields {
        for field in &named.named {
            if let Some(ident) = &field.ident
                && component(&field.ty)
                && mark(&field.attrs).is_some()
            {
                fields.push(ident);
                types.push(&field.ty);
            }
        }
    }
    let names: Vec<_> = fields.iter().map(|ident| plain_name(ident)).collect();
    quote! {
        fn load(
            &mut self,
            __sheets: &mut #root::Sheets,
        ) -> ::core::result::Result<(), #root::BadDocument> {
            __sheets.load(#root::OWN, self)?;
            #(__sheets.load(#names, &mut *self.#fields.borrow())?;)*
            ::core::result::Result::Ok(())
        }

        fn save(&self, __sheets: &mut #root::Sheets) {
            __sheets.save(#root::OWN, self);
            #(__sheets.save(#names, &*self.#fields.borrow());)*
            __sheets.save_indexes(<Self as #root::Entity>::KIND.name);
        }

        fn describe_documents(__schema: &mut #root::schema::SchemaBuilder) {
            let __kind = <Self as #root::Entity>::KIND.name;
            #root::describe_document::<Self>(&[__kind, #root::OWN].join("/"), __schema);
            #(<#types>::describe_stored(
                &[__kind, #names].join("/"),
                __schema,
            );)*
        }
    }
}

fn mark(attrs: &[Attribute]) -> Option<&Attribute> {
    attrs.iter().find(|attr| attr.path().is_ident("persist"))
}

fn component(ty: &Type) -> bool {
    let Type::Path(path) = ty else { return false };
    path.path.segments.last().is_some_and(|last| last.ident == "Component")
}

fn range(expr: Expr) -> Result<ExprRange> {
    let expr = match expr {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => text.parse::<Expr>()?,
        other => other,
    };
    match expr {
        Expr::Range(range) if range.start.is_some() || range.end.is_some() => Ok(range),
        other => Err(Error::new(other.span(), "write a range such as `1..=100` or `..=64`")),
    }
}

fn text(range: &ExprRange) -> String {
    range.to_token_stream().to_string().replace(' ', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the compiler says about a declaration.
    fn refusal(input: TokenStream) -> String {
        derive(input).expect_err("it should be refused").to_string()
    }

    #[test]
    fn what_is_no_document_is_refused() {
        assert!(
            refusal(quote!(
                enum E {
                    A,
                }
            ))
            .contains("named fields")
        );
        assert!(
            refusal(quote!(
                struct S(u8);
            ))
            .contains("named fields")
        );
        assert!(
            refusal(quote!(
                struct S<T> {
                    a: T,
                }
            ))
            .contains("no parameters")
        );
        assert!(
            refusal(quote!(
                #[document(version = 0)]
                struct S {}
            ))
            .contains("begin at 1")
        );
        assert!(
            refusal(quote!(
                #[document(step = f)]
                struct S {}
            ))
            .contains("from = OldType")
        );
        assert!(
            refusal(quote!(
                #[document(record = "guild")]
                struct S {}
            ))
            .contains("key = u64")
        );
        assert!(
            refusal(quote!(
                #[document(store = "far")]
                struct S {}
            ))
            .contains("only records")
        );
        assert!(
            refusal(quote!(
                #[document(key = u64)]
                struct S {}
            ))
            .contains("only records")
        );
        assert!(
            refusal(quote!(
                struct S {
                    #[index]
                    a: u8,
                }
            ))
            .contains("add `#[persist]`")
        );
        assert!(
            refusal(quote!(
                struct S {
                    #[persist]
                    #[index(unique)]
                    a: u8,
                }
            ))
            .contains("unique index is of records")
        );
        assert!(
            refusal(quote!(
                #[document(index(a, b))]
                struct S {
                    #[persist]
                    a: u8,
                }
            ))
            .contains("fields marked")
        );
        assert!(
            refusal(quote!(
                #[document(color)]
                struct S {}
            ))
            .contains("known here")
        );
        assert!(
            refusal(quote!(
                struct S {
                    #[persist(rnage = 1..)]
                    a: u8,
                }
            ))
            .contains("known here")
        );
    }
}
