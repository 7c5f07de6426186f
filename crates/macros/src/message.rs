//! `#[derive(Message)]`.

use std::collections::BTreeMap;

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::spanned::Spanned;
use syn::{
    Attribute, Data, DataEnum, DeriveInput, Error, Expr, ExprLit, ExprRange, Field, Fields, Lit,
    LitInt, LitStr, Path, Result, Variant,
};

/// Writes the `Message` implementation of a struct or enum.
pub fn derive(input: TokenStream) -> Result<TokenStream> {
    let input: DeriveInput = syn::parse2(input)?;
    let options = TypeOptions::read(&input)?;
    let bodies = match &input.data {
        Data::Struct(data) => {
            let fields = read_fields(&data.fields)?;
            if options.transparent {
                return transparent(&input, &options, &data.fields, &fields);
            }
            struct_bodies(&options, &data.fields, &fields)
        }
        Data::Enum(data) => {
            if options.transparent {
                return Err(Error::new(input.ident.span(), "only a struct can be transparent"));
            }
            enum_bodies(&options, data)?
        }
        Data::Union(_) => {
            return Err(Error::new(
                input.ident.span(),
                "a union cannot travel: nothing tells which field holds; use an enum",
            ));
        }
    };
    implement(&input, &options, bodies)
}

/// The bodies of the trait's functions.
struct Bodies {
    encode: TokenStream,
    decode: TokenStream,
    /// An expression of type `TypeBody`.
    shape: TokenStream,
}

/// `#[message(..)]` on the type.
struct TypeOptions {
    root: Path,
    name: Option<LitStr>,
    transparent: bool,
}

impl TypeOptions {
    fn read(input: &DeriveInput) -> Result<Self> {
        let mut options =
            TypeOptions { root: syn::parse_quote!(::mainstay::rt), name: None, transparent: false };
        for attr in ours(&input.attrs) {
            attr.parse_nested_meta(|meta| {
                if meta.path.is_ident("root") {
                    options.root = meta.value()?.call(Path::parse_mod_style)?;
                } else if meta.path.is_ident("name") {
                    let name: LitStr = meta.value()?.parse()?;
                    let text = name.value();
                    if text.is_empty() || !text.chars().all(|c| c.is_alphanumeric() || c == '_') {
                        return Err(Error::new(name.span(), "a name has letters, digits and _"));
                    }
                    options.name = Some(name);
                } else if meta.path.is_ident("transparent") {
                    options.transparent = true;
                } else {
                    return Err(meta.error(
                        "unknown option; known on a type: `name = \"..\"`, `transparent`, `root = ..`",
                    ));
                }
                Ok(())
            })?;
        }
        Ok(options)
    }
}

/// One field with its `#[message(..)]` options.
struct FieldPlan {
    /// The name in schemas and errors: the identifier without `r#`, or the position.
    name: String,
    ty: TokenStream,
    /// `Some` if its absence is allowed.
    default: Option<TokenStream>,
    retired: bool,
    range: Option<ExprRange>,
    len: Option<ExprRange>,
    finite: bool,
    span: Span,
}

impl FieldPlan {
    fn read(field: &Field, index: usize) -> Result<Self> {
        let name = match &field.ident {
            Some(ident) => plain_name(ident),
            None => index.to_string(),
        };
        let mut plan = FieldPlan {
            name,
            ty: field.ty.to_token_stream(),
            default: None,
            retired: false,
            range: None,
            len: None,
            finite: false,
            span: field.ty.span(),
        };
        for attr in ours(&field.attrs) {
            attr.parse_nested_meta(|meta| {
                if meta.path.is_ident("default") {
                    plan.default = Some(if meta.input.peek(syn::Token![=]) {
                        let expr: Expr = meta.value()?.parse()?;
                        expr.to_token_stream()
                    } else {
                        quote!(::core::default::Default::default())
                    });
                } else if meta.path.is_ident("retired") {
                    plan.retired = true;
                } else if meta.path.is_ident("range") {
                    plan.range = Some(read_range(meta.value()?.parse()?)?);
                } else if meta.path.is_ident("len") {
                    plan.len = Some(read_range(meta.value()?.parse()?)?);
                } else if meta.path.is_ident("finite") {
                    plan.finite = true;
                } else {
                    return Err(meta.error(
                        "unknown option; known on a field: `default`, `default = ..`, `retired`, \
                         `range = 1..=100`, `len = ..=20`, `finite`",
                    ));
                }
                Ok(())
            })?;
        }
        let checked = plan.range.is_some() || plan.len.is_some() || plan.finite;
        if plan.retired && (checked || plan.default.is_some()) {
            return Err(Error::new(
                plan.span,
                "a retired field is not read, so nothing else can be said about it",
            ));
        }
        Ok(plan)
    }

    /// A statement that reads the field into `bind`.
    fn decode(&self, root: &Path, bind: &Ident, list: &TokenStream) -> TokenStream {
        let FieldPlan { name, ty, .. } = self;
        if self.retired {
            return quote! {
                #list.retired(d)?;
                let #bind: #ty = ::core::default::Default::default();
            };
        }
        let read = match &self.default {
            None => quote!(#list.required(d, #name)?),
            Some(default) => quote!(#list.or_else(d, #name, || #default)?),
        };
        let checks = self.checks(root, bind);
        quote! {
            let #bind: #ty = #read;
            #checks
        }
    }

    /// Statements that hold the value in `bind` against its limits.
    fn checks(&self, root: &Path, bind: &Ident) -> TokenStream {
        let name = &self.name;
        let mut checks = TokenStream::new();
        if let Some(range) = &self.range {
            let text = range_text(range);
            checks.extend(quote!(#root::codec::check_range(&#bind, #range, #name, #text)?;));
        }
        if let Some(range) = &self.len {
            let text = range_text(range);
            checks.extend(quote!(#root::codec::check_length(&#bind, #range, #name, #text)?;));
        }
        if self.finite {
            checks.extend(quote!(#root::codec::check_finite(&#bind, #name)?;));
        }
        checks
    }

    /// A statement that writes the field, which is the reference `from`.
    fn encode(&self, root: &Path, from: &TokenStream) -> TokenStream {
        let ty = &self.ty;
        if self.retired {
            quote!(#root::codec::put_nil(out);)
        } else {
            quote!(<#ty as #root::codec::Message>::encode(#from, out);)
        }
    }

    /// An expression of type `Field`.
    fn shape(&self, root: &Path) -> TokenStream {
        let FieldPlan { name, ty, .. } = self;
        let presence = match (&self.default, self.retired) {
            (_, true) => quote!(Retired),
            (Some(_), false) => quote!(Default),
            (None, false) => quote!(Required),
        };
        let shape = if self.retired {
            quote!(#root::schema::Shape::Unit)
        } else {
            quote!(<#ty as #root::codec::Message>::shape(s))
        };
        let range = self.range.as_ref().map(|range| {
            let text = range_text(range);
            quote!(.range(#text))
        });
        let len = self.len.as_ref().map(|range| {
            let text = range_text(range);
            quote!(.len(#text))
        });
        let finite = self.finite.then(|| quote!(.finite()));
        quote! {
            #root::schema::Field::new(#name, #shape)
                .presence(#root::schema::Presence::#presence) #range #len #finite
        }
    }
}

fn read_fields(fields: &Fields) -> Result<Vec<FieldPlan>> {
    fields.iter().enumerate().map(|(index, field)| FieldPlan::read(field, index)).collect()
}

fn struct_bodies(options: &TypeOptions, fields: &Fields, plans: &[FieldPlan]) -> Bodies {
    let root = &options.root;
    let binds = binds(plans);
    let list = quote!(fields);
    let count = plans.len();
    let writes = plans.iter().enumerate().map(|(index, plan)| {
        let member = member(fields, index);
        plan.encode(root, &quote!(&self.#member))
    });
    let reads = plans.iter().zip(&binds).map(|(plan, bind)| plan.decode(root, bind, &list));
    let value = construct(quote!(Self), fields, &binds);
    let shapes = plans.iter().map(|plan| plan.shape(root));
    Bodies {
        encode: quote! {
            #root::codec::put_array(out, #count);
            #(#writes)*
        },
        decode: quote! {
            #[allow(unused_mut)]
            let mut fields = #root::codec::Fields::begin(d)?;
            #(#reads)*
            fields.end(d)?;
            ::core::result::Result::Ok(#value)
        },
        shape: quote!(#root::schema::TypeBody::Struct(::std::vec![#(#shapes),*])),
    }
}

/// A variant with its number.
struct VariantPlan<'a> {
    variant: &'a Variant,
    number: u64,
    fallback: bool,
    fields: Vec<FieldPlan>,
}

impl VariantPlan<'_> {
    /// Whether it is a fallback that keeps the unknown number.
    fn keeps_number(&self) -> bool {
        self.fallback && !self.fields.is_empty()
    }
}

fn enum_bodies(options: &TypeOptions, data: &DataEnum) -> Result<Bodies> {
    let root = &options.root;
    let plans = plan_variants(data)?;
    let writes = plans.iter().map(|plan| encode_variant(root, plan));
    let reads = plans.iter().filter(|plan| !plan.keeps_number()).map(|plan| {
        let number = plan.number;
        let body = decode_variant(root, plan);
        quote!(#number => { #body })
    });
    let unknown = match plans.iter().find(|plan| plan.fallback) {
        None => quote! {
            return ::core::result::Result::Err(#root::codec::Problem::Variant(number).into());
        },
        Some(plan) if plan.keeps_number() => {
            let name = &plan.variant.ident;
            let bind = format_ident!("number");
            let number = quote! {
                ::core::primitive::u32::try_from(number)
                    .map_err(|_| #root::codec::Problem::Variant(number))?
            };
            let value = construct(quote!(Self::#name), &plan.variant.fields, &[bind]);
            quote!(let number = #number; #value)
        }
        Some(plan) => {
            let name = &plan.variant.ident;
            construct(quote!(Self::#name), &plan.variant.fields, &[])
        }
    };
    let shapes = plans.iter().map(|plan| {
        let VariantPlan { number, .. } = plan;
        let name = plain_name(&plan.variant.ident);
        let fields = plan.fields.iter().filter(|_| !plan.fallback).map(|field| field.shape(root));
        quote! {
            #root::schema::Variant {
                number: #number,
                name: #name.into(),
                fields: ::std::vec![#(#fields),*],
            }
        }
    });
    let fallback = match plans.iter().find(|plan| plan.fallback) {
        None => quote!(::core::option::Option::None),
        Some(VariantPlan { number, .. }) => quote!(::core::option::Option::Some(#number)),
    };
    Ok(Bodies {
        encode: quote!(match self { #(#writes)* }),
        decode: quote! {
            #[allow(unused_mut)]
            let (number, mut variant) = #root::codec::VariantFields::begin(d)?;
            let value = match number {
                #(#reads)*
                _ => { #unknown }
            };
            variant.end(d)?;
            ::core::result::Result::Ok(value)
        },
        shape: quote! {
            #root::schema::TypeBody::Enum {
                variants: ::std::vec![#(#shapes),*],
                fallback: #fallback,
            }
        },
    })
}

/// Numbers the variants: `id`, else the discriminant, else one more than the variant before.
fn plan_variants(data: &DataEnum) -> Result<Vec<VariantPlan<'_>>> {
    if data.variants.is_empty() {
        return Err(Error::new(
            Span::call_site(),
            "an enum without variants has no values to send",
        ));
    }
    let mut plans: Vec<VariantPlan<'_>> = Vec::new();
    let mut taken: BTreeMap<u64, &Ident> = BTreeMap::new();
    let mut next = Some(0u64);
    for variant in &data.variants {
        let (id, fallback) = read_variant(variant)?;
        let number = match (id, &variant.discriminant) {
            (Some(id), _) => id,
            (None, Some((_, expr))) => discriminant(expr)?,
            (None, None) => next.ok_or_else(|| {
                Error::new(variant.ident.span(), "no number is left: give it #[message(id = ..)]")
            })?,
        };
        if number > u64::from(u32::MAX) {
            return Err(Error::new(variant.ident.span(), "a variant's number fits 32 bits"));
        }
        if let Some(other) = taken.insert(number, &variant.ident) {
            return Err(Error::new(
                variant.ident.span(),
                format!("`{}` and `{other}` both have number {number}", variant.ident),
            ));
        }
        next = number.checked_add(1);
        let fields = read_fields(&variant.fields)?;
        if fallback {
            check_fallback(variant, &plans, &fields)?;
        }
        plans.push(VariantPlan { variant, number, fallback, fields });
    }
    Ok(plans)
}

fn check_fallback(
    variant: &Variant,
    before: &[VariantPlan<'_>],
    fields: &[FieldPlan],
) -> Result<()> {
    if before.iter().any(|plan| plan.fallback) {
        return Err(Error::new(variant.ident.span(), "only one variant can be the fallback"));
    }
    let fits = match fields {
        [] => true,
        [field] => field.ty.to_string() == "u32",
        _ => false,
    };
    if fits {
        return Ok(());
    }
    Err(Error::new(
        variant.fields.span(),
        "a fallback holds nothing, or one `u32`: the number that was unknown",
    ))
}

fn read_variant(variant: &Variant) -> Result<(Option<u64>, bool)> {
    let (mut id, mut fallback) = (None, false);
    for attr in ours(&variant.attrs) {
        attr.parse_nested_meta(|meta| {
            if meta.path.is_ident("id") {
                let number: LitInt = meta.value()?.parse()?;
                id = Some(number.base10_parse()?);
            } else if meta.path.is_ident("fallback") {
                fallback = true;
            } else {
                return Err(meta.error("unknown option; known on a variant: `id = 3`, `fallback`"));
            }
            Ok(())
        })?;
    }
    Ok((id, fallback))
}

fn discriminant(expr: &Expr) -> Result<u64> {
    match expr {
        Expr::Lit(ExprLit { lit: Lit::Int(number), .. }) => number.base10_parse(),
        other => Err(Error::new(
            other.span(),
            "its number must be a literal that is not negative: write #[message(id = ..)]",
        )),
    }
}

fn encode_variant(root: &Path, plan: &VariantPlan<'_>) -> TokenStream {
    let name = &plan.variant.ident;
    let number = plan.number;
    let binds = binds(&plan.fields);
    let pattern = construct(quote!(Self::#name), &plan.variant.fields, &binds);
    if plan.keeps_number() {
        let bind = &binds[0];
        return quote! {
            #pattern => #root::codec::put_uint(out, ::core::primitive::u64::from(*#bind)),
        };
    }
    if plan.fields.is_empty() {
        return quote!(#pattern => #root::codec::put_uint(out, #number),);
    }
    let count = plan.fields.len() + 1;
    let writes = plan.fields.iter().zip(&binds).map(|(field, bind)| {
        let write = field.encode(root, &quote!(#bind));
        if field.retired { quote!(let _ = #bind; #write) } else { write }
    });
    quote! {
        #pattern => {
            #root::codec::put_array(out, #count);
            #root::codec::put_uint(out, #number);
            #(#writes)*
        }
    }
}

fn decode_variant(root: &Path, plan: &VariantPlan<'_>) -> TokenStream {
    let name = &plan.variant.ident;
    let binds = binds(&plan.fields);
    let list = quote!(variant.fields);
    let reads = plan.fields.iter().zip(&binds).map(|(field, bind)| field.decode(root, bind, &list));
    let value = construct(quote!(Self::#name), &plan.variant.fields, &binds);
    quote! {
        #(#reads)*
        #value
    }
}

/// A struct of one field that travels as that field.
fn transparent(
    input: &DeriveInput,
    options: &TypeOptions,
    fields: &Fields,
    plans: &[FieldPlan],
) -> Result<TokenStream> {
    let [plan] = plans else {
        return Err(Error::new(input.ident.span(), "a transparent struct has exactly one field"));
    };
    if plan.retired || plan.default.is_some() {
        return Err(Error::new(plan.span, "the field of a transparent struct is always there"));
    }
    let root = &options.root;
    let ty = &plan.ty;
    let member = member(fields, 0);
    let bind = format_ident!("field0");
    let checks = plan.checks(root, &bind);
    let value = construct(quote!(Self), fields, std::slice::from_ref(&bind));
    let header = header(input, root)?;
    Ok(quote! {
        #header {
            #[inline]
            fn encode(&self, out: &mut ::std::vec::Vec<u8>) {
                <#ty as #root::codec::Message>::encode(&self.#member, out);
            }

            #[inline]
            fn decode(
                d: &mut #root::codec::Decoder<'_>,
            ) -> ::core::result::Result<Self, #root::codec::DecodeError> {
                let #bind: #ty = #root::codec::Message::decode(d)?;
                #checks
                ::core::result::Result::Ok(#value)
            }

            fn shape(s: &mut #root::schema::SchemaBuilder) -> #root::schema::Shape {
                <#ty as #root::codec::Message>::shape(s)
            }
        }
    })
}

fn implement(input: &DeriveInput, options: &TypeOptions, bodies: Bodies) -> Result<TokenStream> {
    let root = &options.root;
    let header = header(input, root)?;
    let plain = match &options.name {
        Some(name) => name.value(),
        None => plain_name(&input.ident),
    };
    let parameters: Vec<_> = input.generics.type_params().map(|param| &param.ident).collect();
    let name = if parameters.is_empty() {
        quote!(#plain)
    } else {
        quote! {{
            let arguments = [#(<#parameters as #root::codec::Message>::shape(s)),*];
            &#root::schema::SchemaBuilder::generic_name(#plain, &arguments)
        }}
    };
    let Bodies { encode, decode, shape } = bodies;
    Ok(quote! {
        #header {
            fn encode(&self, out: &mut ::std::vec::Vec<u8>) {
                #encode
            }

            fn decode(
                d: &mut #root::codec::Decoder<'_>,
            ) -> ::core::result::Result<Self, #root::codec::DecodeError> {
                #decode
            }

            fn shape(s: &mut #root::schema::SchemaBuilder) -> #root::schema::Shape {
                let name = #name;
                s.named::<Self>(name, |s| {
                    let _ = &s;
                    #shape
                })
            }
        }
    })
}

/// `impl<T: Message> Message for Name<T>`.
fn header(input: &DeriveInput, root: &Path) -> Result<TokenStream> {
    if let Some(lifetime) = input.generics.lifetimes().next() {
        return Err(Error::new(
            lifetime.span(),
            "a message owns its data: use `String` for `&str`, `Bytes` for `&[u8]`",
        ));
    }
    let mut generics = input.generics.clone();
    for param in generics.type_params_mut() {
        param.bounds.push(syn::parse_quote!(#root::codec::Message));
    }
    let ident = &input.ident;
    let (impl_generics, type_generics, bounds) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #root::codec::Message for #ident #type_generics #bounds
    })
}

fn ours(attrs: &[Attribute]) -> impl Iterator<Item = &Attribute> {
    attrs.iter().filter(|attr| attr.path().is_ident("message"))
}

/// Reads `1..=100`, also as a string.
fn read_range(expr: Expr) -> Result<ExprRange> {
    let expr = match expr {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => text.parse::<Expr>()?,
        other => other,
    };
    match expr {
        Expr::Range(range) if range.start.is_some() || range.end.is_some() => Ok(range),
        other => Err(Error::new(other.span(), "write a range such as `1..=100` or `..=64`")),
    }
}

/// The range as people write it, without the spaces that tokens get.
fn range_text(range: &ExprRange) -> String {
    range.to_token_stream().to_string().replace(' ', "")
}

fn plain_name(ident: &Ident) -> String {
    ident.to_string().trim_start_matches("r#").to_owned()
}

fn binds(plans: &[FieldPlan]) -> Vec<Ident> {
    (0..plans.len()).map(|index| format_ident!("field{index}")).collect()
}

/// How to reach field `index` of a struct.
fn member(fields: &Fields, index: usize) -> TokenStream {
    let field = fields.iter().nth(index).expect("index is of these fields");
    match &field.ident {
        Some(ident) => ident.to_token_stream(),
        None => syn::Index::from(index).to_token_stream(),
    }
}

/// `Name { a: field0 }`, `Name(field0)` or `Name`, as a value or a pattern.
fn construct(name: TokenStream, fields: &Fields, binds: &[Ident]) -> TokenStream {
    match fields {
        Fields::Unit => name,
        Fields::Unnamed(_) => quote!(#name(#(#binds),*)),
        Fields::Named(fields) => {
            let idents = fields.named.iter().map(|field| &field.ident);
            quote!(#name { #(#idents: #binds),* })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the compiler says about a declaration.
    fn refusal(input: TokenStream) -> String {
        derive(input).expect_err("it should be refused").to_string()
    }

    #[test]
    fn numbers_of_variants_are_unique() {
        assert_eq!(
            refusal(quote!(
                enum E {
                    A,
                    #[message(id = 0)]
                    B,
                }
            )),
            "`B` and `A` both have number 0"
        );
        assert_eq!(
            refusal(quote!(
                enum E {
                    A = 4,
                    #[message(id = 3)]
                    B,
                    C,
                }
            )),
            "`C` and `A` both have number 4"
        );
        assert!(
            refusal(quote!(
                enum E {
                    A = -1,
                }
            ))
            .contains("must be a literal")
        );
        assert!(
            refusal(quote!(
                enum E {
                    #[message(id = 4294967296)]
                    A,
                }
            ))
            .contains("32 bits")
        );
        assert!(
            refusal(quote!(
                enum E {}
            ))
            .contains("without variants")
        );
    }

    #[test]
    fn fallbacks_are_single_and_small() {
        assert!(
            refusal(quote!(
                enum E {
                    #[message(fallback)]
                    A,
                    #[message(fallback)]
                    B,
                }
            ))
            .contains("only one")
        );
        assert!(
            refusal(quote!(
                enum E {
                    #[message(fallback)]
                    A(u64),
                }
            ))
            .contains("one `u32`")
        );
    }

    #[test]
    fn what_cannot_travel_is_refused() {
        assert!(refusal(quote!(union U { a: u8 })).contains("union cannot travel"));
        assert!(
            refusal(quote!(
                struct S<'a> {
                    a: &'a str,
                }
            ))
            .contains("owns its data")
        );
        assert!(
            refusal(quote!(
                #[message(transparent)]
                struct S(u8, u8);
            ))
            .contains("one field")
        );
        assert!(
            refusal(quote!(
                #[message(transparent)]
                enum E {
                    A,
                }
            ))
            .contains("only a struct")
        );
    }

    #[test]
    fn unknown_and_contradicting_options_are_refused() {
        assert!(
            refusal(quote!(
                #[message(color)]
                struct S;
            ))
            .contains("known on a type")
        );
        assert!(
            refusal(quote!(
                struct S {
                    #[message(rnage = 1..)]
                    a: u8,
                }
            ))
            .contains("on a field")
        );
        assert!(
            refusal(quote!(
                enum E {
                    #[message(color)]
                    A,
                }
            ))
            .contains("on a variant")
        );
        assert!(
            refusal(quote!(
                struct S {
                    #[message(range = 5)]
                    a: u8,
                }
            ))
            .contains("write a range")
        );
        assert!(
            refusal(quote!(
                struct S {
                    #[message(len = ..)]
                    a: u8,
                }
            ))
            .contains("write a range")
        );
        assert!(
            refusal(quote!(
                struct S {
                    #[message(retired, default)]
                    a: u8,
                }
            ))
            .contains("not read")
        );
        assert!(
            refusal(quote!(
                #[message(name = "a b")]
                struct S;
            ))
            .contains("letters, digits")
        );
    }
}
