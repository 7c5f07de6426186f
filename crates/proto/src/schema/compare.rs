//! Holds two schemas against each other: what changed, and what that breaks.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;

use super::{
    Field, Form, Interface, Method, Presence, Schema, Shape, StoredDocument, TypeBody, Variant,
};

/// One difference between two releases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where: `Counter.add`, `Item.count`.
    pub place: String,
    /// What changed; if it breaks something, also what to do instead.
    pub what: String,
    /// Whether peers, clients or documents of the older release no longer work.
    pub breaking: bool,
    /// Whether clients can see the place.
    pub client: bool,
    /// Whether something callable is gone, and nothing else: who calls it where it is not there is told so.
    pub absent: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// All changes from `old` to `new`.
///
/// Two adjacent releases run side by side in one cluster and each may read what the other wrote,
/// so a change is judged in both directions.
pub fn compare(old: &Schema, new: &Schema) -> Vec<Change> {
    let mut client_types: BTreeSet<String> = old.client_part().types.into_keys().collect();
    client_types.extend(new.client_part().types.into_keys());
    let mut comparison = Comparison {
        old,
        new,
        client_types,
        is_client: false,
        changes: Vec::new(),
        seen: BTreeSet::new(),
        open: VecDeque::new(),
    };
    comparison.interfaces();
    comparison.documents();
    for name in old.types.keys().filter(|name| new.types.contains_key(*name)) {
        comparison.pair(name, name);
    }
    comparison.types();
    let mut changes = comparison.changes;
    changes.dedup();
    changes
}

struct Comparison<'a> {
    old: &'a Schema,
    new: &'a Schema,
    client_types: BTreeSet<String>,
    /// Whether clients can see what is looked at now.
    is_client: bool,
    changes: Vec<Change>,
    /// Pairs of types, old and new name, that stand for each other. Names do not travel, so a
    /// renamed type is compared with what it was.
    seen: BTreeSet<(String, String)>,
    open: VecDeque<(String, String)>,
}

impl Comparison<'_> {
    fn breaking(&mut self, place: &str, what: impl Into<String>) {
        self.note(place, what, true);
    }

    fn fine(&mut self, place: &str, what: impl Into<String>) {
        self.note(place, what, false);
    }

    fn absent(&mut self, place: &str, what: impl Into<String>) {
        self.note(place, what, true);
        self.changes.last_mut().expect("it was just noted").absent = true;
    }

    fn note(&mut self, place: &str, what: impl Into<String>, breaking: bool) {
        let (place, what, client) = (place.to_owned(), what.into(), self.is_client);
        self.changes.push(Change { place, what, breaking, client, absent: false });
    }

    fn interfaces(&mut self) {
        for (name, old) in &self.old.interfaces {
            self.is_client = shows_to_clients(old);
            let Some(new) = self.new.interface(name) else {
                let fix = "keep it, or give its successor `alias = \"..\"`";
                self.absent(name, format!("{} was removed: {fix}", old.form.word()));
                continue;
            };
            if new.name != *name {
                self.fine(name, format!("is called {} now", new.name));
            }
            if new.form != old.form {
                let (was, is) = (old.form.word(), new.form.word());
                self.breaking(name, format!("{was} became {is}: choose another name"));
            }
            self.interface(old, new);
        }
        for (name, new) in &self.new.interfaces {
            let known = self.old.interfaces.contains_key(name)
                || new.aliases.iter().any(|alias| self.old.interfaces.contains_key(alias));
            if !known {
                self.is_client = shows_to_clients(new);
                self.fine(name, format!("{} is new", new.form.word()));
            }
        }
    }

    fn interface(&mut self, old: &Interface, new: &Interface) {
        self.aliases(&old.name, &old.aliases, &new.aliases, &new.name);
        for (path, method) in &old.methods {
            self.is_client = old.form == Form::Client || method.callers.client;
            let place = format!("{}.{path}", old.name);
            match new.method_by_id(method.id) {
                Some(found) => self.method(&place, method, found),
                None => self
                    .absent(&place, "was removed: keep it, or give its successor `alias = \"..\"`"),
            }
        }
        for (path, method) in &new.methods {
            let known = old.methods.contains_key(path)
                || method.aliases.iter().any(|alias| old.methods.contains_key(alias));
            if !known {
                self.is_client = new.form == Form::Client || method.callers.client;
                self.fine(&format!("{}.{path}", new.name), "is new");
            }
        }
    }

    fn aliases(&mut self, place: &str, old: &[String], new: &[String], name: &str) {
        for alias in old.iter().filter(|alias| !new.contains(alias) && *alias != name) {
            self.breaking(
                place,
                format!("alias {alias} was removed, which peers and documents may still use"),
            );
        }
    }

    fn method(&mut self, place: &str, old: &Method, new: &Method) {
        if old.path != new.path {
            self.fine(place, format!("is called {} now", new.path));
        }
        self.aliases(place, &old.aliases, &new.aliases, &new.path);
        if old.pattern != new.pattern {
            let (was, is) = (old.pattern.word(), new.pattern.word());
            self.breaking(place, format!("{was} became {is}: add a new method instead"));
        }
        let callers = [
            ("client", old.callers.client, new.callers.client),
            ("server", old.callers.server, new.callers.server),
            ("operator", old.callers.operator, new.callers.operator),
        ];
        for (word, was, is) in callers {
            match (was, is) {
                (true, false) => self.breaking(place, format!("a {word} may no longer call it")),
                (false, true) => self.fine(place, format!("a {word} may call it now")),
                _ => {}
            }
        }
        self.fields(place, "argument", &old.args, &new.args);
        self.answer(place, "reply", old.reply.as_ref(), new.reply.as_ref());
        self.answer(place, "error", old.error.as_ref(), new.error.as_ref());
        if old.idempotent && !new.idempotent {
            self.breaking(place, "is no longer idempotent, but older callers repeat it");
        }
        if old.level != new.level {
            self.fine(place, format!("level {} became {}", old.level, new.level));
        }
        let quiet = (&old.delivery, old.deadline_ms, &old.rate, old.idempotent)
            != (&new.delivery, new.deadline_ms, &new.rate, new.idempotent);
        if quiet {
            self.fine(place, "delivery, deadline, rate or idempotence changed");
        }
    }

    fn answer(&mut self, place: &str, noun: &str, old: Option<&Shape>, new: Option<&Shape>) {
        match (old, new) {
            (None, None) => {}
            (Some(old), Some(new)) => {
                if !self.same(old, new) {
                    self.breaking(
                        place,
                        format!("its {noun} was {old} and is {new}: add a new method instead"),
                    );
                }
            }
            (None, Some(new)) => {
                self.breaking(
                    place,
                    format!("has a {noun} ({new}) that older callers do not know"),
                );
            }
            (Some(old), None) => {
                self.breaking(place, format!("has no {noun} ({old}) any more"));
            }
        }
    }

    /// Whether values of both types have the same bytes; notes pairs of named types.
    fn same(&mut self, old: &Shape, new: &Shape) -> bool {
        match (old, new) {
            (Shape::Named(old), Shape::Named(new)) => {
                // Two names that both still exist are two types.
                if old != new && self.new.types.contains_key(old) {
                    return false;
                }
                self.pair(old, new);
                true
            }
            (Shape::Option(old), Shape::Option(new))
            | (Shape::List(old), Shape::List(new))
            | (Shape::Set(old), Shape::Set(new)) => self.same(old, new),
            (Shape::Array(old, n), Shape::Array(new, m)) => n == m && self.same(old, new),
            (Shape::Map(old_key, old), Shape::Map(new_key, new)) => {
                self.same(old_key, new_key) && self.same(old, new)
            }
            (Shape::Tuple(old), Shape::Tuple(new)) => {
                old.len() == new.len() && old.iter().zip(new).all(|(old, new)| self.same(old, new))
            }
            // A reference is an entity id; the kind may have been renamed.
            (Shape::Reference(old), Shape::Reference(new)) => {
                old == new || self.new.interface(old).is_some_and(|found| found.name == *new)
            }
            (old, new) => old == new,
        }
    }

    fn pair(&mut self, old: &str, new: &str) {
        let pair = (old.to_owned(), new.to_owned());
        if self.seen.insert(pair.clone()) {
            self.open.push_back(pair);
        }
    }

    /// What the last release stored must be read by this one.
    fn documents(&mut self) {
        self.is_client = false;
        for (name, old) in &self.old.documents {
            match self.new.documents.get(name) {
                Some(new) => self.document(name, old, new),
                None => self.breaking(
                    name,
                    "was removed: what is stored of it would be read by nobody any more; keep it",
                ),
            }
        }
        for name in self.new.documents.keys().filter(|n| !self.old.documents.contains_key(*n)) {
            self.fine(name, "document is new");
        }
    }

    fn document(&mut self, place: &str, old: &StoredDocument, new: &StoredDocument) {
        let (was, is) = (old.version, new.version);
        if is < was {
            self.breaking(
                place,
                format!("version {was} became {is}: documents of {was} are refused"),
            );
        } else if was < new.oldest {
            let what = "name the older type with `#[document(version = .., from = OldType)]`";
            self.breaking(place, format!("no step leads from version {was} to {is}: {what}"));
        } else if is > was {
            self.fine(place, format!("version {was} became {is}, by steps"));
        } else {
            self.stored_fields(place, &old.fields, &new.fields);
        }
    }

    fn stored_fields(&mut self, place: &str, old: &[Field], new: &[Field]) {
        let fix = "raise the version, with a step from the older type (`from = OldType`)";
        for (index, was) in old.iter().enumerate() {
            let place = format!("{place}.{}", was.name);
            let Some(is) = new.get(index) else {
                self.breaking(
                    &place,
                    format!("was removed, and what is stored of it would be lost: {fix}"),
                );
                continue;
            };
            let moved = was.name != is.name
                && (new.iter().any(|field| field.name == was.name)
                    || old.iter().any(|field| field.name == is.name));
            if moved {
                let what = "new fields go to the end, and none changes its place";
                self.breaking(&place, format!("{} stands in its place: {what}; or {fix}", is.name));
                return;
            }
            if was.name != is.name {
                self.fine(&place, format!("is called {} now", is.name));
            }
            if !self.same(&was.shape, &is.shape) {
                let (was, is) = (&was.shape, &is.shape);
                self.breaking(
                    &place,
                    format!("was {was} and is {is}, as which it cannot be read: {fix}"),
                );
            }
            self.limit(&place, "range", was.range.as_deref(), is.range.as_deref());
            self.limit(&place, "len", was.len.as_deref(), is.len.as_deref());
            if is.finite && !was.finite {
                self.breaking(
                    &place,
                    format!("refuses NaN and infinities, which may be stored: {fix}"),
                );
            }
        }
        for is in new.iter().skip(old.len()) {
            self.fine(&format!("{place}.{}", is.name), "field is new");
        }
    }

    fn types(&mut self) {
        let (old_types, new_types) = (&self.old.types, &self.new.types);
        while let Some((old_name, new_name)) = self.open.pop_front() {
            self.is_client =
                self.client_types.contains(&old_name) || self.client_types.contains(&new_name);
            let place = &old_name;
            if old_name != new_name {
                self.fine(place, format!("is called {new_name} now"));
            }
            match (old_types.get(&old_name), new_types.get(&new_name)) {
                (Some(TypeBody::Struct(old)), Some(TypeBody::Struct(new))) => {
                    self.fields(place, "field", old, new);
                }
                (
                    Some(TypeBody::Enum { variants: old, fallback: old_fallback }),
                    Some(TypeBody::Enum { variants: new, fallback: new_fallback }),
                ) => self.variants(place, (old, *old_fallback), (new, *new_fallback)),
                (Some(_), Some(_)) => {
                    self.breaking(place, "a struct became an enum or the other way round");
                }
                _ => {}
            }
        }
    }

    fn fields(&mut self, place: &str, noun: &str, old: &[Field], new: &[Field]) {
        for (index, was) in old.iter().enumerate() {
            let place = format!("{place}.{}", was.name);
            match new.get(index) {
                None => self.breaking(
                    &place,
                    format!("{noun} was removed: keep its place with #[message(retired)]"),
                ),
                Some(is) => {
                    let moved = was.name != is.name
                        && (new.iter().any(|field| field.name == was.name)
                            || old.iter().any(|field| field.name == is.name));
                    if moved {
                        self.breaking(
                            &place,
                            format!(
                                "{noun} {} stands in its place: new ones go to the end, and none \
                                 changes its place",
                                is.name
                            ),
                        );
                        return;
                    }
                    self.field(&place, noun, was, is);
                }
            }
        }
        for is in new.iter().skip(old.len()) {
            let place = format!("{place}.{}", is.name);
            if is.presence == Presence::Required {
                self.breaking(
                    &place,
                    format!("{noun} is new and older writers do not have it: give it a default"),
                );
            } else {
                self.fine(&place, format!("{noun} is new"));
            }
        }
    }

    fn field(&mut self, place: &str, noun: &str, was: &Field, is: &Field) {
        match (was.presence, is.presence) {
            (Presence::Retired, Presence::Retired) => return,
            (Presence::Retired, _) => {
                self.breaking(
                    place,
                    format!("{} takes the place of a retired {noun}: go to the end", is.name),
                );
                return;
            }
            (Presence::Required, Presence::Retired) => {
                self.breaking(
                    place,
                    format!(
                        "{noun} is retired, but the last release cannot do without it: release it \
                         with a default first"
                    ),
                );
                return;
            }
            (Presence::Default, Presence::Retired) => {
                self.fine(place, format!("{noun} is retired"));
                return;
            }
            (Presence::Default, Presence::Required) => {
                self.breaking(place, format!("{noun} lost its default, older writers may lack it"));
            }
            (Presence::Required, Presence::Default) => {
                self.fine(place, format!("{noun} has a default now"));
            }
            _ => {}
        }
        if was.name != is.name {
            self.fine(place, format!("is called {} now", is.name));
        }
        if !self.same(&was.shape, &is.shape) {
            self.breaking(
                place,
                format!("was {} and is {}: retire it and add a new one", was.shape, is.shape),
            );
        }
        self.limit(place, "range", was.range.as_deref(), is.range.as_deref());
        self.limit(place, "len", was.len.as_deref(), is.len.as_deref());
        match (was.finite, is.finite) {
            (false, true) => {
                self.breaking(place, "refuses NaN and infinities, older writers do not")
            }
            (true, false) => self.fine(place, "takes NaN and infinities now"),
            _ => {}
        }
    }

    /// A narrower limit refuses what older writers send; a wider one is refused by older readers
    /// only when it is used, which the game can hold back until the release is final.
    fn limit(&mut self, place: &str, noun: &str, was: Option<&str>, is: Option<&str>) {
        if was == is {
            return;
        }
        let show = |limit: Option<&str>| limit.unwrap_or("unlimited").to_owned();
        let text = format!("{noun} was {} and is {}", show(was), show(is));
        let wider = match (was, is) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(was), Some(is)) => is_wider(was, is),
        };
        if wider {
            self.fine(place, text);
        } else {
            self.breaking(place, format!("{text}: older writers send more"));
        }
    }

    fn variants(
        &mut self,
        place: &str,
        (old, old_fallback): (&[Variant], Option<u64>),
        (new, new_fallback): (&[Variant], Option<u64>),
    ) {
        for was in old {
            let place = format!("{place}::{}", was.name);
            let Some(is) = new.iter().find(|is| is.number == was.number) else {
                self.breaking(&place, format!("number {} was removed: keep it", was.number));
                continue;
            };
            let taken = was.name != is.name
                && (new.iter().any(|other| other.name == was.name)
                    || old.iter().any(|other| other.name == is.name));
            if taken {
                self.breaking(
                    &place,
                    format!("its number {} is {}'s now: give each its old id", was.number, is.name),
                );
                continue;
            }
            if was.name != is.name {
                self.fine(&place, format!("is called {} now", is.name));
            }
            self.fields(&place, "field", &was.fields, &is.fields);
        }
        for is in new.iter().filter(|is| old.iter().all(|was| was.number != is.number)) {
            let place = format!("{place}::{}", is.name);
            if old_fallback.is_some() || Some(is.number) == new_fallback {
                self.fine(&place, "is new");
            } else {
                self.breaking(
                    &place,
                    "is new, and the last release has no fallback for it: release the enum with \
                     a #[message(fallback)] variant first",
                );
            }
        }
        match (old_fallback, new_fallback) {
            (Some(was), None) => {
                self.breaking(place, format!("its fallback {was} was removed"));
            }
            (Some(was), Some(is)) if was != is => {
                self.breaking(place, format!("its fallback was {was} and is {is}"));
            }
            (None, Some(_)) => self.fine(place, "has a fallback now"),
            _ => {}
        }
    }
}

fn shows_to_clients(interface: &Interface) -> bool {
    interface.form == Form::Client || interface.methods.values().any(|method| method.callers.client)
}

/// Whether range `is` holds all of range `was`. Ranges that are no plain numbers are wider only
/// if they are equal.
fn is_wider(was: &str, is: &str) -> bool {
    match (bounds(was), bounds(is)) {
        (Some(was), Some(is)) => is.0 <= was.0 && is.1 >= was.1,
        _ => false,
    }
}

/// Lowest and highest value of `1..=100`, `1..`, `..=9`; of `1..9` the end counts as just below.
fn bounds(text: &str) -> Option<(f64, (f64, bool))> {
    let (low, high) = text.split_once("..")?;
    let number = |text: &str| text.replace('_', "").parse::<f64>().ok();
    let low = if low.is_empty() { f64::NEG_INFINITY } else { number(low)? };
    let high = match high.strip_prefix('=') {
        Some(high) => (number(high)?, true),
        None if high.is_empty() => (f64::INFINITY, true),
        None => (number(high)?, false),
    };
    Some((low, high))
}
