//! `#[test]` for games: a test against a simulated cluster.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::Parser;
use syn::spanned::Spanned;
use syn::{Error, Expr, ItemFn, LitInt, Path, Result};

/// Expands `#[mainstay::test(seed = 1, faults = Faults::network())] async fn name(cluster: ..)`.
pub fn expand(attr: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let function: ItemFn = syn::parse2(item)?;
    let mut root: Path = syn::parse_quote!(::mainstay::testkit);
    let mut seed: Option<LitInt> = None;
    let mut faults: Option<Expr> = None;
    let parser = syn::meta::parser(|meta| {
        if meta.path.is_ident("seed") {
            let number: LitInt = meta.value()?.parse()?;
            number.base10_parse::<u64>()?;
            seed = Some(number);
        } else if meta.path.is_ident("faults") {
            faults = Some(meta.value()?.parse()?);
        } else if meta.path.is_ident("root") {
            root = meta.value()?.call(Path::parse_mod_style)?;
        } else {
            return Err(meta.error("unknown option; known here: `seed = 1`, `faults = expression`"));
        }
        Ok(())
    });
    parser.parse2(attr)?;
    if function.sig.asyncness.is_none() {
        return Err(Error::new(
            function.sig.fn_token.span(),
            "a test against a cluster waits for answers: make it an `async fn`",
        ));
    }
    if function.sig.inputs.len() != 1 {
        return Err(Error::new(
            function.sig.ident.span(),
            "takes the cluster as its one argument: `cluster: Cluster`",
        ));
    }
    let option = |value: Option<TokenStream>| match value {
        Some(value) => quote!(::core::option::Option::Some(#value)),
        None => quote!(::core::option::Option::None),
    };
    let seed = option(seed.map(|seed| quote!(#seed)));
    let faults = option(faults.map(|faults| quote!(#faults)));
    let (attrs, name) = (&function.attrs, &function.sig.ident);
    let mut inner = function.clone();
    inner.attrs.clear();
    inner.vis = syn::Visibility::Inherited;
    let text = name.to_string();
    Ok(quote! {
        #(#attrs)*
        #[::core::prelude::v1::test]
        fn #name() {
            #inner
            #root::run_test(
                ::core::concat!(::core::module_path!(), "::", #text),
                #seed,
                #faults,
                #name,
            );
        }
    })
}
