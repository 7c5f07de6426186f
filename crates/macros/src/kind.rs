//! What the attribute of a kind says besides its fields.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::meta::ParseNestedMeta;
use syn::parse::Parser;
use syn::spanned::Spanned;
use syn::{Error, LitInt, LitStr, Path, Result, Token, token};

use crate::method::{plain_name, snake};

/// What the attribute says about a kind.
pub struct Kind {
    pub root: Path,
    pub name: Option<LitStr>,
    class: &'static str,
    aliases: Vec<LitStr>,
    /// How far its names reach, as it was written.
    scope: Option<Ident>,
    create: Option<Path>,
    on_panic: &'static str,
    mailbox_max: u32,
    calls_max: u32,
    turns_max: u32,
    in_flight_max: u32,
    steps_per_second: u32,
    /// Where `document` stands.
    pub document: Option<proc_macro2::Span>,
    store: Option<LitStr>,
}

impl Kind {
    /// Reads `#[entity(room, name = "arena", mailbox_max = 64)]`.
    pub fn read(attr: TokenStream, class: &'static str) -> Result<Self> {
        let mut kind = Kind {
            root: crate::default_root(),
            name: None,
            class,
            aliases: Vec::new(),
            scope: None,
            create: None,
            on_panic: "Restart",
            mailbox_max: 0,
            calls_max: 0,
            turns_max: 0,
            in_flight_max: 0,
            steps_per_second: 0,
            document: None,
            store: None,
        };
        syn::meta::parser(|meta| kind.option(&meta)).parse2(attr)?;
        if let (Some(span), "Room") = (kind.document, kind.class) {
            return Err(Error::new(span, "a room ends with its node: it has no document"));
        }
        if let (Some(scope), "Room") = (&kind.scope, kind.class) {
            let problem = "a room is where it was made: choose its zone as it is placed, `cx.placing().zone(..)`";
            return Err(Error::new(scope.span(), problem));
        }
        if let (Some(store), None) = (&kind.store, kind.document) {
            return Err(Error::new(store.span(), "what has no `document` is kept in no store"));
        }
        Ok(kind)
    }

    fn option(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        let word = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
        let is_entity = self.class != "Service";
        match word.as_str() {
            "root" => self.root = meta.value()?.call(Path::parse_mod_style)?,
            "name" => self.name = Some(kind_name(meta)?),
            "alias" => self.aliases.push(kind_name(meta)?),
            "room" | "spawned" if is_entity => self.class = "Room",
            "singleton" if is_entity => self.class = "Singleton",
            "zone" | "channel" | "global" => self.scope(meta)?,
            "document" if is_entity => self.document = Some(meta.path.span()),
            "store" if is_entity => self.store = Some(kind_name(meta)?),
            "create" => self.create = Some(meta.value()?.call(Path::parse_mod_style)?),
            "mailbox_max" => self.mailbox_max = number(meta)?,
            "calls_max" => self.calls_max = number(meta)?,
            "turns_max" => self.turns_max = number(meta)?,
            "in_flight_max" => self.in_flight_max = number(meta)?,
            "steps_per_second" if is_entity => self.steps_per_second = rate(meta)?,
            "on_panic" => {
                let policy: Ident = meta.value()?.parse()?;
                self.on_panic = match policy.to_string().as_str() {
                    "restart" => "Restart",
                    "remove" => "Remove",
                    _ => return Err(Error::new(policy.span(), "write `restart` or `remove`")),
                };
            }
            _ => {
                return Err(meta.error(
                    "unknown option; known here: `name = \"..\"`, `alias = \"..\"`, `room`, \
                     `singleton`, `zone`, `channel`, `global`, `document`, `store = \"..\"`, `create = path`, `mailbox_max = 64`, `calls_max = 16`, \
                     `turns_max = 16`, `in_flight_max = 888`, `steps_per_second = 20`, `on_panic = restart`, `root = path`",
                ));
            }
        }
        Ok(())
    }

    /// Reads `zone`, `channel` or `global`.
    fn scope(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        let word = meta.path.require_ident()?;
        if meta.input.peek(Token![=]) || meta.input.peek(token::Paren) {
            let problem = match word.to_string().as_str() {
                "global" => "`global` takes no argument".to_owned(),
                word => format!(
                    "`{word}` takes no argument: each {word} has its own, and the cluster file says of which \
                     {word}s a process is"
                ),
            };
            return Err(meta.error(problem));
        }
        if let Some(other) = &self.scope {
            let problem =
                format!("it is `{other}` already: write one of `zone`, `channel`, `global`");
            return Err(meta.error(problem));
        }
        self.scope = Some(word.clone());
        Ok(())
    }

    /// The kind's name: as stated, or the type's in snake case.
    pub fn name_of(&self, ident: &Ident) -> String {
        match &self.name {
            Some(name) => name.value(),
            None => snake(&plain_name(ident)),
        }
    }

    /// An expression of type `KindInfo`.
    pub fn info(&self, name: &str, hooks: &TokenStream) -> TokenStream {
        let Kind { root, aliases, mailbox_max, calls_max, turns_max, in_flight_max, .. } = self;
        let steps_per_second = self.steps_per_second as u16;
        let class = format_ident!("{}", self.class);
        let scope = self.scope.as_ref().map(ToString::to_string);
        let scope = format_ident!(
            "{}",
            match scope.as_deref() {
                Some("zone") => "Zone",
                Some("channel") => "Channel",
                _ => "Global",
            }
        );
        let on_panic = format_ident!("{}", self.on_panic);
        let document = self.document.is_some();
        let store = self.store.as_ref().map(LitStr::value).unwrap_or_default();
        quote! {
            #root::KindInfo {
                aliases: &[#(#aliases),*],
                methods: &__TABLE,
                hooks: #hooks,
                scope: #root::Scope::#scope,
                document: #document,
                store: #store,
                on_panic: #root::OnPanic::#on_panic,
                mailbox_max: #mailbox_max,
                calls_max: #calls_max,
                turns_max: #turns_max,
                in_flight_max: #in_flight_max,
                steps_per_second: #steps_per_second,
                ..#root::KindInfo::new(#name, #root::Class::#class)
            }
        }
    }

    /// Refuses a scene without a step hook and the other way round.
    pub fn check_steps(&self, ident: &Ident, hooks: &TokenStream) -> TokenStream {
        let root = &self.root;
        let is_scene = self.steps_per_second > 0;
        quote_spanned! {ident.span()=>
            const _: () = ::core::assert!(
                (#hooks).has(#root::Hooks::STEP) == #is_scene,
                "a scene has both `steps_per_second = ..` on the type and `#[hook] fn step(..)`"
            );
        }
    }

    /// The `create` function of `Entity`.
    pub fn create(&self, ident: &Ident) -> TokenStream {
        let body = match (&self.create, self.class) {
            (Some(path), _) => quote!(::core::option::Option::Some(#path(__key))),
            (None, "Room") => quote!(::core::option::Option::None),
            // Whoever has no `Default` is made by a factory given to the app.
            (None, _) => {
                let root = &self.root;
                quote! {
                    #[allow(unused_imports)]
                    use #root::{MakeByDefault as _, MakeNothing as _};
                    (&#root::Make::<#ident>::new()).make()
                }
            }
        };
        quote! {
            fn create(__key: u64) -> ::core::option::Option<Self> { #body }
        }
    }
}

fn kind_name(meta: &ParseNestedMeta<'_>) -> Result<LitStr> {
    let name: LitStr = meta.value()?.parse()?;
    if name.value().is_empty() || name.value().len() > 64 {
        return Err(Error::new(name.span(), "a name has 1 to 64 bytes"));
    }
    Ok(name)
}

fn number(meta: &ParseNestedMeta<'_>) -> Result<u32> {
    let number: LitInt = meta.value()?.parse()?;
    match number.base10_parse()? {
        0 => Err(Error::new(number.span(), "nothing would get in: leave it out or raise it")),
        number => Ok(number),
    }
}

fn rate(meta: &ParseNestedMeta<'_>) -> Result<u32> {
    let number: LitInt = meta.value()?.parse()?;
    match number.base10_parse()? {
        rate @ 1..=128 => Ok(rate),
        _ => Err(Error::new(number.span(), "a scene runs at 1 to 128 steps per second")),
    }
}
