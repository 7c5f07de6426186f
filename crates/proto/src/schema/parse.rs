//! Reads the text of `interface.lock`.

use super::{
    Callers, Delivery, Field, Form, Interface, Lock, LockError, Method, Pattern, Presence, Shape,
    StoredDocument, TypeBody, Variant,
};
use crate::id::{KindId, MethodId};

/// The client hash as the file states it, and its line.
type Stated = Option<(usize, u64)>;

pub(super) struct Parser<'a> {
    lines: std::iter::Enumerate<std::str::Lines<'a>>,
    /// Counted from 1.
    line: usize,
    lock: Lock,
    stated: Stated,
    open: Open,
}

/// What the next indented lines belong to.
enum Open {
    Nothing,
    Interface(String),
    Method(String, String),
    Type(String),
    Document(String),
}

impl<'a> Parser<'a> {
    pub fn new(text: &'a str) -> Self {
        Parser {
            lines: text.lines().enumerate(),
            line: 0,
            lock: Lock::default(),
            stated: None,
            open: Open::Nothing,
        }
    }

    pub fn lock(mut self) -> Result<(Lock, Stated), LockError> {
        while let Some((index, line)) = self.lines.next() {
            self.line = index + 1;
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            self.statement(word, rest)?;
        }
        Ok((self.lock, self.stated))
    }

    fn statement(&mut self, word: &str, rest: &str) -> Result<(), LockError> {
        match word {
            "client" => self.stated = Some((self.line, self.hex(rest)?)),
            "accept" => {
                let hash = self.hex(rest)?;
                self.lock.accepts.insert(hash);
            }
            "retired" => {
                let (path, id) = self.pair(rest)?;
                let id = MethodId(self.hex32(id)?);
                self.lock.retired.insert(path.to_owned(), id);
            }
            "document" => self.document(rest)?,
            "struct" => self.named(rest, TypeBody::Struct(Vec::new()))?,
            "enum" => {
                self.named(rest, TypeBody::Enum { variants: Vec::new(), fallback: None })?;
            }
            "variant" => {
                let (number, name) = self.pair(rest)?;
                let number = self.number(number)?;
                let error = self.error(format!("number {number} stands twice"));
                let variant = Variant { number, name: name.to_owned(), fields: Vec::new() };
                let variants = self.variants()?.0;
                if variants.iter().any(|known| known.number == number) {
                    return Err(error);
                }
                variants.push(variant);
            }
            "fallback" => {
                let number = self.number(rest)?;
                *self.variants()?.1 = Some(number);
            }
            "field" => {
                let field = self.field(rest)?;
                self.push_field(field)?;
            }
            "method" => self.method(rest)?,
            "alias" => self.alias(rest)?,
            _ => {
                if let Some(form) = Form::ALL.iter().find(|form| form.word() == word) {
                    return self.interface(*form, rest);
                }
                self.method_fact(word, rest)?;
            }
        }
        Ok(())
    }

    fn interface(&mut self, form: Form, rest: &str) -> Result<(), LockError> {
        let (name, id) = self.pair(rest)?;
        let kind = KindId::of(name);
        if self.hex32(id)? != kind.0 {
            return Err(self.error(format!("the id of {name} is {:08x}", kind.0)));
        }
        let interface = Interface {
            name: name.to_owned(),
            id: kind,
            form,
            aliases: Vec::new(),
            methods: Default::default(),
        };
        self.open = Open::Interface(name.to_owned());
        match self.lock.schema.interfaces.insert(name.to_owned(), interface) {
            None => Ok(()),
            Some(_) => Err(self.error(format!("{name} stands twice"))),
        }
    }

    fn method(&mut self, rest: &str) -> Result<(), LockError> {
        let words: Vec<&str> = rest.split_whitespace().collect();
        let [path, id, pattern, callers] = words[..] else {
            return Err(self.error("a method has path, id, pattern and callers"));
        };
        let pattern = Pattern::ALL.into_iter().find(|known| known.word() == pattern);
        let pattern = pattern.ok_or_else(|| self.error("this pattern is not known"))?;
        let mut method = Method::new(path, pattern);
        if self.hex32(id)? != method.id.0 {
            return Err(self.error(format!("the id of {path} is {:08x}", method.id.0)));
        }
        method.callers = self.callers(callers)?;
        let kind = match &self.open {
            Open::Interface(kind) | Open::Method(kind, _) => kind.clone(),
            _ => return Err(self.error("a method stands in an interface")),
        };
        let interface = self.lock.schema.interfaces.get_mut(&kind).expect("it is open");
        if interface.methods.insert(path.to_owned(), method).is_some() {
            return Err(self.error(format!("{path} stands twice")));
        }
        self.open = Open::Method(kind, path.to_owned());
        Ok(())
    }

    fn alias(&mut self, rest: &str) -> Result<(), LockError> {
        let alias = self.word(rest)?.to_owned();
        match &self.open {
            Open::Interface(kind) => {
                let interface = self.lock.schema.interfaces.get_mut(kind).expect("it is open");
                interface.aliases.push(alias);
            }
            _ => self.open_method()?.aliases.push(alias),
        }
        Ok(())
    }

    /// A line that belongs to the open method.
    fn method_fact(&mut self, word: &str, rest: &str) -> Result<(), LockError> {
        match word {
            "arg" => {
                let field = self.field(rest)?;
                self.open_method()?.args.push(field);
            }
            "reply" => {
                let shape = self.shape(rest)?;
                self.open_method()?.reply = Some(shape);
            }
            "error" => {
                let shape = self.shape(rest)?;
                self.open_method()?.error = Some(shape);
            }
            "latest" => {
                let key = (!rest.is_empty()).then(|| rest.to_owned());
                self.open_method()?.delivery = Delivery::Latest(key);
            }
            "unreliable" | "idempotent" if !rest.is_empty() => {
                return Err(self.error(format!("nothing stands after `{word}`")));
            }
            "unreliable" => self.open_method()?.delivery = Delivery::Unreliable,
            "level" => {
                let level = self.number(rest)?;
                let level = u8::try_from(level).map_err(|_| self.error("a level is 0 to 255"))?;
                self.open_method()?.level = level;
            }
            "deadline" => {
                let ms = self.number(rest)?;
                let ms = u32::try_from(ms).map_err(|_| self.error("a deadline fits 32 bits"))?;
                self.open_method()?.deadline_ms = ms;
            }
            "rate" => {
                let rate = self.word(rest)?.to_owned();
                self.open_method()?.rate = Some(rate);
            }
            "idempotent" => self.open_method()?.idempotent = true,
            other => return Err(self.error(format!("`{other}` is not known"))),
        }
        Ok(())
    }

    fn open_method(&mut self) -> Result<&mut Method, LockError> {
        match &self.open {
            Open::Method(kind, path) => {
                let interface = self.lock.schema.interfaces.get_mut(kind).expect("it is open");
                Ok(interface.methods.get_mut(path).expect("it is open"))
            }
            _ => Err(self.error("this line belongs to a method")),
        }
    }

    fn named(&mut self, rest: &str, body: TypeBody) -> Result<(), LockError> {
        let name = self.word(rest)?.to_owned();
        self.open = Open::Type(name.clone());
        match self.lock.schema.types.insert(name, body) {
            None => Ok(()),
            Some(_) => Err(self.error(format!("{rest} stands twice"))),
        }
    }

    fn document(&mut self, rest: &str) -> Result<(), LockError> {
        let words: Vec<&str> = rest.split_whitespace().collect();
        let [name, version, oldest] = words[..] else {
            return Err(
                self.error("a document has a name, its version and the oldest that is read")
            );
        };
        let version_of = |text| {
            let number = self.number(text)?;
            u32::try_from(number).map_err(|_| self.error("a version fits 32 bits"))
        };
        let (version, oldest) = (version_of(version)?, version_of(oldest)?);
        self.open = Open::Document(name.to_owned());
        let document = StoredDocument { version, oldest, fields: Vec::new() };
        match self.lock.schema.documents.insert(name.to_owned(), document) {
            None => Ok(()),
            Some(_) => Err(self.error(format!("{name} stands twice"))),
        }
    }

    fn variants(&mut self) -> Result<(&mut Vec<Variant>, &mut Option<u64>), LockError> {
        let error = self.error("this line belongs to an enum");
        let Open::Type(name) = &self.open else { return Err(error) };
        match self.lock.schema.types.get_mut(name) {
            Some(TypeBody::Enum { variants, fallback }) => Ok((variants, fallback)),
            _ => Err(error),
        }
    }

    fn push_field(&mut self, field: Field) -> Result<(), LockError> {
        let error = self.error("a field stands in a struct, variant or document");
        if let Open::Document(name) = &self.open {
            let document = self.lock.schema.documents.get_mut(name).ok_or(error)?;
            document.fields.push(field);
            return Ok(());
        }
        let Open::Type(name) = &self.open else { return Err(error) };
        match self.lock.schema.types.get_mut(name) {
            Some(TypeBody::Struct(fields)) => fields.push(field),
            Some(TypeBody::Enum { variants, .. }) => {
                variants.last_mut().ok_or(error)?.fields.push(field);
            }
            None => return Err(error),
        }
        Ok(())
    }

    fn field(&self, rest: &str) -> Result<Field, LockError> {
        let mut words = rest.split_whitespace();
        let (Some(name), Some(shape)) = (words.next(), words.next()) else {
            return Err(self.error("a field has a name and a type"));
        };
        let mut field = Field::new(name, self.shape(shape)?);
        for word in words {
            match word.split_once('=') {
                None if word == "default" => field.presence = Presence::Default,
                None if word == "retired" => field.presence = Presence::Retired,
                None if word == "finite" => field.finite = true,
                Some(("range", range)) => field.range = Some(range.to_owned()),
                Some(("len", len)) => field.len = Some(len.to_owned()),
                _ => return Err(self.error(format!("`{word}` is not known of a field"))),
            }
        }
        Ok(field)
    }

    fn callers(&self, words: &str) -> Result<Callers, LockError> {
        let mut callers = Callers::default();
        for word in words.split(',').filter(|word| *word != "nobody") {
            match word {
                "client" => callers.client = true,
                "server" => callers.server = true,
                "operator" => callers.operator = true,
                _ => return Err(self.error(format!("`{word}` is no caller"))),
            }
        }
        Ok(callers)
    }

    fn shape(&self, text: &str) -> Result<Shape, LockError> {
        Shape::parse(text).ok_or_else(|| self.error(format!("`{text}` is no type")))
    }

    fn word<'t>(&self, text: &'t str) -> Result<&'t str, LockError> {
        let is_word = !text.is_empty() && !text.contains(char::is_whitespace);
        if is_word { Ok(text) } else { Err(self.error("one word is wanted here")) }
    }

    fn pair<'t>(&self, text: &'t str) -> Result<(&'t str, &'t str), LockError> {
        let pair = text.split_once(' ');
        let (first, second) = pair.ok_or_else(|| self.error("two words are wanted here"))?;
        Ok((self.word(first)?, self.word(second)?))
    }

    fn number(&self, text: &str) -> Result<u64, LockError> {
        text.parse().map_err(|_| self.error(format!("`{text}` is no number")))
    }

    fn hex(&self, text: &str) -> Result<u64, LockError> {
        u64::from_str_radix(text, 16).map_err(|_| self.error(format!("`{text}` is no hash")))
    }

    fn hex32(&self, text: &str) -> Result<u32, LockError> {
        u32::from_str_radix(text, 16).map_err(|_| self.error(format!("`{text}` is no id")))
    }

    fn error(&self, what: impl Into<String>) -> LockError {
        LockError::Parse { line: self.line, what: what.into() }
    }
}
