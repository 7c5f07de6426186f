//! Arguments and their limits.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::spanned::Spanned;
use syn::{Attribute, Error, Expr, ExprLit, ExprRange, Lit, Pat, PatType, Result, Token, Type};

use crate::method::{Role, is_cx, plain_name, without_self};

/// One argument.
pub struct Arg {
    pub ident: Ident,
    pub name: String,
    pub ty: TokenStream,
    pub range: Option<ExprRange>,
    pub len: Option<ExprRange>,
    pub finite: bool,
    /// What it is if a caller of an earlier release did not have it.
    pub default: Option<TokenStream>,
    /// Whether the method takes it by reference; only hooks do.
    pub by_reference: bool,
}

/// Reads one argument and takes `#[arg(..)]` out of its attributes.
pub fn read_arg(typed: &mut PatType, owner: &Ident, role: &Role) -> Result<Arg> {
    let Pat::Ident(pattern) = &*typed.pat else {
        return Err(Error::new(
            typed.pat.span(),
            "a remote argument needs a plain name: it appears in the schema and in stubs",
        ));
    };
    match &*typed.ty {
        ty if is_cx(ty) => {
            return Err(Error::new(ty.span(), "the context comes right after the receiver"));
        }
        Type::Reference(reference) if !matches!(role, Role::Hook) => {
            return Err(Error::new(
                reference.span(),
                "a remote argument travels, so it is an owned value: `String` for `&str`, \
                 `Vec<T>` for `&[T]`",
            ));
        }
        Type::ImplTrait(ty) => {
            return Err(Error::new(ty.span(), "a remote argument needs one named type"));
        }
        _ => {}
    }
    let name = plain_name(&pattern.ident);
    let name = name.trim_start_matches('_').to_owned();
    let mut arg = Arg {
        ident: format_ident!("{}", pattern.ident),
        name: if name.is_empty() { "value".to_owned() } else { name },
        ty: without_self(typed.ty.to_token_stream(), owner),
        range: None,
        len: None,
        finite: false,
        default: None,
        by_reference: matches!(&*typed.ty, Type::Reference(_)),
    };
    let mut problem = Ok(());
    typed.attrs.retain(|attr| {
        if !attr.path().is_ident("arg") {
            return true;
        }
        if problem.is_ok() {
            problem = read_arg_attribute(attr, &mut arg);
        }
        false
    });
    problem.map(|()| arg)
}

/// Reads `#[arg(range = 1..=100, len = ..=64, finite, default = 1)]`.
fn read_arg_attribute(attr: &Attribute, arg: &mut Arg) -> Result<()> {
    attr.parse_nested_meta(|meta| {
        let slot = if meta.path.is_ident("range") {
            &mut arg.range
        } else if meta.path.is_ident("len") {
            &mut arg.len
        } else if meta.path.is_ident("finite") {
            arg.finite = true;
            return Ok(());
        } else if meta.path.is_ident("default") {
            arg.default = Some(if meta.input.peek(Token![=]) {
                meta.value()?.parse::<Expr>()?.into_token_stream()
            } else {
                quote!(::core::default::Default::default())
            });
            return Ok(());
        } else {
            return Err(meta.error(
                "unknown; known on an argument: `range = 1..=100`, `len = ..=64`, `finite`, \
                 `default`, `default = ..`",
            ));
        };
        let expr: Expr = meta.value()?.parse()?;
        // As text too, so that it reads like the derive's.
        let expr = match expr {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => text.parse()?,
            other => other,
        };
        match expr {
            Expr::Range(range) if range.start.is_some() || range.end.is_some() => {
                *slot = Some(range);
                Ok(())
            }
            other => Err(Error::new(other.span(), "write a range such as `1..=100` or `..=64`")),
        }
    })
}
