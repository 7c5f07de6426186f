//! Reads methods and their attributes: pattern, callers, limits, arguments, result.

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote};
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, FnArg, GenericArgument, Path, PathArguments, ReceiverKind, Result,
    ReturnType, Signature, Type,
};

use crate::arg::{Arg, read_arg};
use crate::options::Options;

/// One remote method, timer or hook.
pub struct Method {
    pub ident: Ident,
    /// The name in schemas and ids: the identifier without `r#`.
    pub name: String,
    pub docs: Vec<Attribute>,
    pub role: Role,
    pub options: Options,
    pub is_async: bool,
    pub receiver: Receiver,
    /// Whether the first argument after the receiver is the context.
    pub takes_cx: bool,
    pub args: Vec<Arg>,
    pub output: Output,
}

/// What a marked method is.
pub enum Role {
    /// Callable from elsewhere, by the named patterns.
    Remote(Vec<Marked>),
    /// Runs when a timer fires.
    Timer,
    /// Runs at a point in the life of its entity.
    Hook,
    /// Hears what is published on topics.
    Event,
}

/// A pattern attribute as written.
pub struct Marked {
    pub pattern: PatternName,
    pub callers: Vec<(Caller, Span)>,
    pub span: Span,
}

/// The pattern attributes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PatternName {
    Tell,
    Request,
    Invoke,
    Sync,
    Multicast,
    Notify,
    Reply,
}

/// Who may call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    Client,
    Server,
    Operator,
}

/// How a method gets at its state.
pub enum Receiver {
    /// `&mut self`.
    Exclusive,
    /// `&self`.
    Shared,
    /// `this: This<Self>`.
    This,
    /// No receiver: a function of a client interface.
    None,
}

/// What a method gives back.
pub enum Output {
    Unit,
    Value(TokenStream),
    Fallible { ok: TokenStream, error: TokenStream },
}

impl PatternName {
    const ALL: [(&str, PatternName); 7] = [
        ("tell", PatternName::Tell),
        ("request", PatternName::Request),
        ("invoke", PatternName::Invoke),
        ("sync", PatternName::Sync),
        ("multicast", PatternName::Multicast),
        ("notify", PatternName::Notify),
        ("reply", PatternName::Reply),
    ];

    /// The variant in the runtime's `Pattern`.
    pub fn variant(self) -> Ident {
        let name = match self {
            PatternName::Tell => "Tell",
            PatternName::Request => "Request",
            PatternName::Invoke => "Invoke",
            PatternName::Sync => "Sync",
            PatternName::Multicast => "Multicast",
            PatternName::Notify => "Notify",
            PatternName::Reply => "Reply",
        };
        format_ident!("{name}")
    }

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, pattern)| *pattern == self).expect("all are listed").0
    }
}

impl Method {
    /// Whether someone waits for its answer.
    pub fn answers(&self) -> bool {
        self.pattern() != Some(PatternName::Tell)
            && matches!(&self.role, Role::Remote(marks) if !marks.is_empty())
    }

    /// The pattern that stands in the method's description: the first one marked, a request
    /// before an invoke.
    pub fn pattern(&self) -> Option<PatternName> {
        let Role::Remote(marks) = &self.role else { return None };
        marks
            .iter()
            .map(|mark| mark.pattern)
            .find(|pattern| *pattern == PatternName::Request)
            .or_else(|| marks.first().map(|mark| mark.pattern))
    }

    /// The variant of this method in the message and reply enums.
    pub fn variant(&self) -> Ident {
        Ident::new(&camel(&self.name), self.ident.span())
    }

    pub fn arg_idents(&self) -> Vec<&Ident> {
        self.args.iter().map(|arg| &arg.ident).collect()
    }

    pub fn arg_types(&self) -> Vec<&TokenStream> {
        self.args.iter().map(|arg| &arg.ty).collect()
    }

    /// Whether `caller` may call it by any of its patterns.
    pub fn allows(&self, caller: Caller) -> bool {
        let Role::Remote(marks) = &self.role else { return false };
        marks.iter().any(|mark| mark.callers.iter().any(|(one, _)| *one == caller))
    }

    /// The type that its answer carries.
    pub fn answer_type(&self) -> TokenStream {
        match &self.output {
            Output::Unit => quote!(()),
            Output::Value(ty) => ty.clone(),
            Output::Fallible { ok, error } => quote!(::core::result::Result<#ok, #error>),
        }
    }
}

/// Reads one method of an `#[rpc]` block or service. `None` if nothing marks it: a private helper.
///
/// Takes the attributes that are ours out of `attrs` and `sig`.
pub fn read(
    attrs: &mut Vec<Attribute>,
    sig: &mut Signature,
    owner: &Ident,
) -> Result<Option<Method>> {
    let mut marks = Vec::new();
    let mut role = None;
    let mut options = Options::default();
    let mut problem = None;
    let mut note = |error: Error| match &mut problem {
        None => problem = Some(error),
        Some(first) => first.combine(error),
    };
    attrs.retain(|attr| {
        let Some(name) = attr.path().get_ident().map(ToString::to_string) else { return true };
        let pattern = PatternName::ALL.iter().find(|(known, _)| *known == name);
        let read = match name.as_str() {
            "timer" | "hook" | "event" if role.is_some() => {
                Err(Error::new(attr.span(), "a method is a timer, a hook or an event: one of them"))
            }
            "event" => bare(attr).map(|()| role = Some(Role::Event)),
            "timer" => bare(attr).map(|()| role = Some(Role::Timer)),
            "hook" => bare(attr).map(|()| role = Some(Role::Hook)),
            "call" => Err(Error::new(
                attr.span(),
                "`call` belongs to a `#[client]` interface; on an entity or service write \
                 `#[request(client)]` or `#[invoke]`",
            )),
            _ => match pattern {
                Some((_, pattern)) => {
                    read_mark(*pattern, attr, &mut options).map(|mark| marks.push(mark))
                }
                None => return true,
            },
        };
        if let Err(error) = read {
            note(error);
        }
        false
    });
    if let Some(error) = problem {
        return Err(error);
    }
    let role = match (role, marks.is_empty()) {
        (None, true) => return Ok(None),
        (Some(role), true) => role,
        (None, false) => Role::Remote(marks),
        (Some(_), false) => {
            return Err(Error::new(
                sig.ident.span(),
                "a timer, hook or event runs by itself; for a method that is also called from \
                 elsewhere write a second one",
            ));
        }
    };
    let method = read_signature(attrs, sig, owner, role, options)?;
    check(&method, sig)?;
    Ok(Some(method))
}

/// Reads a function of a client interface, whose pattern is known already.
pub fn read_function(
    attrs: &[Attribute],
    sig: &mut Signature,
    owner: &Ident,
    options: Options,
) -> Result<Method> {
    read_signature(attrs, sig, owner, Role::Remote(Vec::new()), options)
}

fn bare(attr: &Attribute) -> Result<()> {
    attr.meta.require_path_only().map(drop).map_err(|_| {
        Error::new(attr.span(), "takes no arguments: write `#[timer]`, `#[hook]` or `#[event]`")
    })
}

/// Reads `#[request(client, deadline = "4s")]`: callers and options in any order.
fn read_mark(pattern: PatternName, attr: &Attribute, options: &mut Options) -> Result<Marked> {
    let mut callers = Vec::new();
    if !matches!(attr.meta, syn::Meta::Path(_)) {
        attr.parse_nested_meta(|meta| {
            let name = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
            let caller = match name.as_str() {
                "client" => Some(Caller::Client),
                "server" => Some(Caller::Server),
                "operator" => Some(Caller::Operator),
                _ => None,
            };
            match caller {
                Some(caller) if callers.iter().any(|(known, _)| *known == caller) => {
                    Err(meta.error("caller named twice"))
                }
                Some(caller) => {
                    callers.push((caller, meta.path.span()));
                    Ok(())
                }
                None => options.read(&name, &meta),
            }
        })?;
    }
    if callers.is_empty() {
        match pattern {
            PatternName::Tell => {
                return Err(Error::new(
                    attr.span(),
                    "who may call this? write `#[tell(client)]`, `#[tell(server)]` or \
                     `#[tell(client, server)]`; nothing is callable unless stated",
                ));
            }
            PatternName::Request => {
                return Err(Error::new(
                    attr.span(),
                    "who may call this? write `#[request(client)]` (a server's call is \
                     `#[invoke]`); nothing is callable unless stated",
                ));
            }
            PatternName::Invoke => callers.push((Caller::Server, attr.path().span())),
            _ => callers.push((Caller::Client, attr.path().span())),
        }
    }
    Ok(Marked { pattern, callers, span: attr.path().span() })
}

fn read_signature(
    attrs: &[Attribute],
    sig: &mut Signature,
    owner: &Ident,
    role: Role,
    options: Options,
) -> Result<Method> {
    if !sig.generics.params.is_empty() {
        return Err(Error::new(
            sig.generics.span(),
            "a remote method has one encoding, so it takes no type or lifetime parameters",
        ));
    }
    let name = plain_name(&sig.ident);
    let mut inputs = sig.inputs.iter_mut().peekable();
    let receiver = match inputs.peek() {
        Some(FnArg::Receiver(receiver)) => {
            let receiver = read_receiver(receiver)?;
            inputs.next();
            receiver
        }
        Some(FnArg::Typed(typed)) if last_segment(&typed.ty).is_some_and(|s| s == "This") => {
            inputs.next();
            Receiver::This
        }
        _ => Receiver::None,
    };
    let mut takes_cx = false;
    if let Some(FnArg::Typed(typed)) = inputs.peek()
        && is_cx(&typed.ty)
    {
        takes_cx = true;
        inputs.next();
    }
    let mut args = Vec::new();
    for input in inputs {
        match input {
            FnArg::Typed(typed) => args.push(read_arg(typed, owner, &role)?),
            FnArg::Receiver(receiver) => return Err(Error::new(receiver.span(), "misplaced self")),
        }
    }
    Ok(Method {
        ident: sig.ident.clone(),
        name,
        docs: docs_of(attrs),
        role,
        options,
        is_async: sig.asyncness.is_some(),
        receiver,
        takes_cx,
        args,
        output: read_output(&sig.output, owner)?,
    })
}

/// The doc comments among `attrs`.
pub fn docs_of(attrs: &[Attribute]) -> Vec<Attribute> {
    attrs.iter().filter(|attr| attr.path().is_ident("doc")).cloned().collect()
}

fn read_receiver(receiver: &syn::Receiver) -> Result<Receiver> {
    match &receiver.kind {
        ReceiverKind::Reference(_, _, Some(_)) => Ok(Receiver::Exclusive),
        ReceiverKind::Reference(_, _, None) => Ok(Receiver::Shared),
        _ => Err(Error::new(
            receiver.span(),
            "an entity stays where it is: take `&mut self`, or `this: This<Self>` in an \
             `interleave` method",
        )),
    }
}

fn read_output(output: &ReturnType, owner: &Ident) -> Result<Output> {
    let ReturnType::Type(_, ty) = output else { return Ok(Output::Unit) };
    match &**ty {
        Type::Tuple(tuple) if tuple.elems.is_empty() => return Ok(Output::Unit),
        Type::Reference(reference) => {
            return Err(Error::new(
                reference.span(),
                "an answer travels, so it is an owned value: clone what is borrowed",
            ));
        }
        Type::ImplTrait(ty) => {
            return Err(Error::new(ty.span(), "an answer needs one named type"));
        }
        Type::Path(path) => {
            if let Some(fallible) = read_fallible(&path.path, owner)? {
                return Ok(fallible);
            }
        }
        _ => {}
    }
    Ok(Output::Value(without_self(ty.to_token_stream(), owner)))
}

fn read_fallible(path: &Path, owner: &Ident) -> Result<Option<Output>> {
    let Some(last) = path.segments.last().filter(|segment| segment.ident == "Result") else {
        return Ok(None);
    };
    let types: Vec<TokenStream> = match &last.arguments {
        PathArguments::AngleBracketed(list) => list
            .args
            .iter()
            .filter_map(|arg| match arg {
                GenericArgument::Type(ty) => Some(without_self(ty.to_token_stream(), owner)),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    match <[TokenStream; 2]>::try_from(types) {
        Ok([ok, error]) => Ok(Some(Output::Fallible { ok, error })),
        Err(_) => Err(Error::new(
            path.span(),
            "write `Result<T, E>` with both types: callers see the error type `E`",
        )),
    }
}

/// Rules that need the whole method.
fn check(method: &Method, sig: &Signature) -> Result<()> {
    let marks: &[Marked] = match &method.role {
        Role::Remote(marks) => marks,
        Role::Timer | Role::Hook | Role::Event => &[],
    };
    let tells = marks.iter().any(|mark| mark.pattern == PatternName::Tell);
    if tells && !matches!(method.output, Output::Unit) {
        return Err(Error::new(
            sig.output.span(),
            "a tell has no answer: drop the return value, or make it a `request` or `invoke`",
        ));
    }
    if tells && marks.len() > 1 {
        return Err(Error::new(
            method.ident.span(),
            "a tell has no answer and a request or invoke has one: write two methods",
        ));
    }
    for (at, mark) in marks.iter().enumerate() {
        if marks[..at].iter().any(|other| other.pattern == mark.pattern) {
            let text = format!("`{}` is stated twice", mark.pattern.name());
            return Err(Error::new(mark.span, text));
        }
    }
    let reports = match &method.output {
        Output::Fallible { ok, .. } => ok.to_string() == "()",
        Output::Unit => true,
        Output::Value(_) => false,
    };
    if matches!(method.role, Role::Timer) && !reports {
        return Err(Error::new(
            sig.output.span(),
            "nobody waits for a timer: give nothing back, or `Result<(), E>` to have the error \
             reported",
        ));
    }
    if matches!(method.role, Role::Event)
        && (method.args.len() != 1 || !matches!(method.output, Output::Unit))
    {
        return Err(Error::new(
            method.ident.span(),
            "an event takes what was published, as its one argument, and gives nothing back",
        ));
    }
    if let Some(Some(key)) = &method.options.latest
        && !method.args.iter().any(|arg| arg.ident == *key)
    {
        return Err(Error::new(key.span(), "no argument has this name"));
    }
    if method.options.latest.is_some() && !tells {
        return Err(Error::new(
            method.ident.span(),
            "`latest` drops older messages, so nobody may wait for an answer: it goes with `tell`",
        ));
    }
    match (&method.receiver, &method.options.interleave) {
        (Receiver::This, None) => Err(Error::new(
            sig.inputs.span(),
            "`this: This<Self>` lets other turns run in between: mark the method `interleave`, or \
             take `&mut self`",
        )),
        (Receiver::This, Some(_)) => Ok(()),
        (_, Some(span)) => Err(Error::new(
            *span,
            "an `interleave` method shares its entity with other turns: take `this: This<Self>` \
             and use `this.with(|state| ..)`",
        )),
        (Receiver::None, None) => Err(Error::new(
            sig.ident.span(),
            "needs a receiver: `&mut self` (or `this: This<Self>` with `interleave`)",
        )),
        _ => Ok(()),
    }?;
    if method.options.interleave.is_some() && !method.is_async {
        return Err(Error::new(
            method.ident.span(),
            "`interleave` says what may happen at an await: make it an `async fn`",
        ));
    }
    Ok(())
}

/// Whether `ty` is `&mut Cx<..>` or `Cx<..>`.
pub fn is_cx(ty: &Type) -> bool {
    match ty {
        Type::Reference(reference) => is_cx(&reference.elem),
        other => last_segment(other).is_some_and(|segment| segment == "Cx"),
    }
}

fn last_segment(ty: &Type) -> Option<Ident> {
    match ty {
        Type::Path(path) => path.path.segments.last().map(|segment| segment.ident.clone()),
        _ => None,
    }
}

/// `tokens` with every `Self` replaced by `owner`, for use outside the impl block.
pub fn without_self(tokens: TokenStream, owner: &Ident) -> TokenStream {
    tokens
        .into_iter()
        .map(|tree| match tree {
            TokenTree::Ident(ident) if ident == "Self" => {
                TokenTree::Ident(Ident::new(&owner.to_string(), ident.span()))
            }
            TokenTree::Group(group) => {
                let mut inner =
                    proc_macro2::Group::new(group.delimiter(), without_self(group.stream(), owner));
                inner.set_span(group.span());
                TokenTree::Group(inner)
            }
            other => other,
        })
        .collect()
}

/// The identifier's text without `r#`.
pub fn plain_name(ident: &Ident) -> String {
    let text = ident.to_string();
    text.strip_prefix("r#").map(str::to_owned).unwrap_or(text)
}

/// `use_item` → `UseItem`.
pub fn camel(name: &str) -> String {
    name.split('_')
        .flat_map(|part| {
            let mut chars = part.chars();
            let first = chars.next().map(|c| c.to_ascii_uppercase());
            first.into_iter().chain(chars).collect::<Vec<_>>()
        })
        .collect()
}

/// `UseItem` → `use_item`.
pub fn snake(name: &str) -> String {
    let mut out = String::new();
    let chars: Vec<char> = name.chars().collect();
    for (at, c) in chars.iter().enumerate() {
        let starts_word = c.is_uppercase()
            && at > 0
            && (!chars[at - 1].is_uppercase()
                || chars.get(at + 1).is_some_and(|next| next.is_lowercase()));
        if starts_word && !out.ends_with('_') {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}
