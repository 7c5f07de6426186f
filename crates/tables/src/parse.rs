use std::sync::Arc;

use crate::expand::expand;
use crate::{Data, Place, Problem, Value};

#[cfg(test)]
mod tests;

/// What a file may cost. A file that exceeds a limit is refused with the place where it does.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of the file, and of all texts after macros were replaced.
    pub bytes_max: usize,
    /// Objects and lists within each other, and macros that use macros.
    pub depth_max: usize,
    /// Values of the file, after macros were replaced.
    pub values_max: usize,
}

impl Default for Limits {
    /// 16 MiB, 64 deep, 2,000,000 values.
    fn default() -> Self {
        Limits { bytes_max: 16 << 20, depth_max: 64, values_max: 2_000_000 }
    }
}

/// Reads a file of enhanced JSON: JSON with `//` and `/* */` comments, trailing commas and
/// macros.
///
/// An optional object `"$MACRO$"` in the root names macros. A text that is `"$NAME$"` stands for
/// the macro's value, of whatever type; within other text `$NAME$` is replaced by the text of
/// that value. `$$` is a dollar. Macros may use each other in any order. `source` is the name
/// that errors show.
///
/// # Errors
/// The first thing wrong, with line and column.
pub fn parse(source: &str, bytes: &[u8], limits: &Limits) -> Result<Value, Problem> {
    let source: Arc<str> = source.into();
    if bytes.len() > limits.bytes_max {
        let message = format!("{} bytes exceed the limit of {}", bytes.len(), limits.bytes_max);
        return Err(Problem { place: Place::at(source, 1, 1), path: String::new(), message });
    }
    let (text, bad) = match std::str::from_utf8(bytes) {
        Ok(text) => (text, false),
        // The part before is read all the same: it may hold the earlier error.
        Err(error) => {
            let good = &bytes[..error.valid_up_to()];
            (std::str::from_utf8(good).expect("valid up to there"), true)
        }
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser = Parser { source, rest: text, line: 1, column: 1, bad, limits, values: 0 };
    let raw = parser.file()?;
    expand(raw, limits)
}

/// Reads a single setting of a source without lines, such as an environment variable: enhanced
/// JSON if it is any, else the text as it stands.
///
/// So `12` is a number, `true` a boolean, `[1, 2]` a list, `4s` a text and `"12"` a text too.
/// There are no macros here: a dollar is a dollar.
pub fn setting(source: &str, text: &str) -> Value {
    let place = Place::whole(source);
    match parse(source, text.replace('$', "$$").as_bytes(), &Limits::default()) {
        Ok(mut value) => {
            strip_lines(&mut value, &place);
            value
        }
        Err(_) => Value::new(place, Data::Text(text.to_string())),
    }
}

fn strip_lines(value: &mut Value, place: &Place) {
    value.place = place.clone();
    match &mut value.data {
        Data::List(items) => items.iter_mut().for_each(|item| strip_lines(item, place)),
        Data::Map(map) => map.iter_mut().for_each(|entry| {
            entry.place = place.clone();
            strip_lines(&mut entry.value, place);
        }),
        _ => {}
    }
}

/// A value before macros are replaced.
pub(crate) struct Raw {
    pub place: Place,
    pub data: RawData,
}

pub(crate) enum RawData {
    /// Anything without parts.
    Plain(Data),
    Text(Template),
    List(Vec<Raw>),
    Map(Vec<(Place, Template, Raw)>),
}

/// Text with macros in it.
pub(crate) struct Template {
    pub parts: Vec<Part>,
}

pub(crate) enum Part {
    Text(String),
    Macro { name: String, place: Place },
}

struct Parser<'a> {
    source: Arc<str>,
    rest: &'a str,
    line: u32,
    column: u32,
    /// What follows `rest` is not UTF-8.
    bad: bool,
    limits: &'a Limits,
    values: usize,
}

impl Parser<'_> {
    fn file(&mut self) -> Result<Raw, Problem> {
        self.space()?;
        let value = self.value(0)?;
        self.space()?;
        match self.peek() {
            Some(char) => Err(self.problem(format!("{char:?} after the end of the value"))),
            None if self.bad => Err(self.ended("the file")),
            None => Ok(value),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Raw, Problem> {
        let place = self.place();
        self.values += 1;
        if self.values > self.limits.values_max {
            return Err(self.problem(format!("more than {} values", self.limits.values_max)));
        }
        if depth > self.limits.depth_max {
            return Err(self.problem(format!("nested deeper than {}", self.limits.depth_max)));
        }
        let data = match self.peek() {
            Some('{') => self.map(depth)?,
            Some('[') => self.list(depth)?,
            Some('"') => RawData::Text(self.text()?),
            Some('-' | '0'..='9') => RawData::Plain(self.number()?),
            Some('a'..='z' | 'A'..='Z' | '_') => RawData::Plain(self.word()?),
            Some(char) => {
                return Err(self.problem(format!("{char:?} does not begin a value")));
            }
            None => return Err(self.ended("where a value should be")),
        };
        Ok(Raw { place, data })
    }

    fn map(&mut self, depth: usize) -> Result<RawData, Problem> {
        let begun = self.place();
        self.bump();
        let mut entries: Vec<(Place, Template, Raw)> = Vec::new();
        loop {
            self.space()?;
            match self.peek() {
                Some('}') => break,
                Some('"') => {}
                Some(char) => {
                    return Err(self.problem(format!("{char:?} where a \"key\" or }} should be")));
                }
                None => return Err(self.unclosed("object", &begun)),
            }
            let place = self.place();
            let name = self.text()?;
            self.space()?;
            match self.peek() {
                Some(':') => self.bump(),
                Some(char) => return Err(self.problem(format!("{char:?} where : should be"))),
                None => return Err(self.unclosed("object", &begun)),
            }
            self.space()?;
            if self.peek().is_none() {
                return Err(self.unclosed("object", &begun));
            }
            entries.push((place, name, self.value(depth + 1)?));
            if !self.separator('}', "object", &begun)? {
                break;
            }
        }
        self.bump();
        Ok(RawData::Map(entries))
    }

    fn list(&mut self, depth: usize) -> Result<RawData, Problem> {
        let begun = self.place();
        self.bump();
        let mut items = Vec::new();
        loop {
            self.space()?;
            match self.peek() {
                Some(']') => break,
                Some(_) => items.push(self.value(depth + 1)?),
                None => return Err(self.unclosed("list", &begun)),
            }
            if !self.separator(']', "list", &begun)? {
                break;
            }
        }
        self.bump();
        Ok(RawData::List(items))
    }

    /// Reads a comma. `false` if the end `close` stands there instead.
    fn separator(&mut self, close: char, what: &str, begun: &Place) -> Result<bool, Problem> {
        self.space()?;
        match self.peek() {
            Some(',') => {
                self.bump();
                Ok(true)
            }
            Some(char) if char == close => Ok(false),
            Some(char) => Err(self.problem(format!("{char:?} where , or {close} should be"))),
            None => Err(self.unclosed(what, begun)),
        }
    }

    fn text(&mut self) -> Result<Template, Problem> {
        let begun = self.place();
        self.bump();
        let mut parts = Vec::new();
        let mut plain = String::new();
        loop {
            match self.peek() {
                Some('"') => break,
                Some('\\') => plain.push(self.escape()?),
                Some('$') if self.rest.starts_with("$$") => {
                    self.bump();
                    self.bump();
                    plain.push('$');
                }
                Some('$') => {
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(self.macro_use()?);
                }
                Some(char) if char < ' ' => {
                    return Err(self.problem(format!("{char:?} in a text: write it as an escape")));
                }
                Some(char) => {
                    plain.push(char);
                    self.bump();
                }
                None => return Err(self.unclosed("text", &begun)),
            }
        }
        self.bump();
        if !plain.is_empty() || parts.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Template { parts })
    }

    fn macro_use(&mut self) -> Result<Part, Problem> {
        let place = self.place();
        self.bump();
        let named = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        let end = self.rest.find(|c| !named(c)).unwrap_or(self.rest.len());
        let name = self.rest[..end].to_string();
        (0..name.chars().count()).for_each(|_| self.bump());
        if self.peek() != Some('$') {
            let shown = name.chars().take(40).collect::<String>();
            let message = format!("missing closing $ after \"${shown}\"; a dollar is written $$");
            return Err(Problem { place, path: String::new(), message });
        }
        self.bump();
        Ok(Part::Macro { name, place })
    }

    fn escape(&mut self) -> Result<char, Problem> {
        let place = self.place();
        self.bump();
        let Some(char) = self.peek() else { return Err(self.ended("inside a text")) };
        self.bump();
        Ok(match char {
            '"' | '\\' | '/' => char,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => return self.unicode(place),
            char => {
                let message =
                    format!("\\{char} is no escape: \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\u");
                return Err(Problem { place, path: String::new(), message });
            }
        })
    }

    /// Four hexadecimal digits, or twice as many for a surrogate pair.
    fn unicode(&mut self, place: Place) -> Result<char, Problem> {
        let wrong = |message: &str| Problem {
            place: place.clone(),
            path: String::new(),
            message: message.to_string(),
        };
        let four = |parser: &mut Self| {
            let digits = parser.rest.get(..4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
            let digits = digits.ok_or_else(|| wrong("\\u needs four hexadecimal digits"))?;
            let code = u32::from_str_radix(digits, 16).expect("four hexadecimal digits");
            (0..4).for_each(|_| parser.bump());
            Ok(code)
        };
        let first = four(self)?;
        let code = if (0xd800..0xdc00).contains(&first) {
            if !self.rest.starts_with("\\u") {
                return Err(wrong("half of a surrogate pair"));
            }
            self.bump();
            self.bump();
            let second = four(self)?;
            if !(0xdc00..0xe000).contains(&second) {
                return Err(wrong("half of a surrogate pair"));
            }
            0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
        } else {
            first
        };
        char::from_u32(code).ok_or_else(|| wrong("half of a surrogate pair"))
    }

    fn number(&mut self) -> Result<Data, Problem> {
        let place = self.place();
        let numeric = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_');
        let end = self.rest.find(|c| !numeric(c)).unwrap_or(self.rest.len());
        let text = &self.rest[..end];
        let wrong = |message: String| Problem { place, path: String::new(), message };
        let data = match shape(text) {
            Some(Shape::Int) => text.parse().ok().map(Data::Int),
            Some(Shape::Float) => {
                text.parse().ok().filter(|float: &f64| float.is_finite()).map(Data::Float)
            }
            None => {
                let shown: String = text.chars().take(40).collect();
                return Err(wrong(format!("{shown} is no number of JSON")));
            }
        };
        let data = data.ok_or_else(|| wrong("a number too great to hold".to_string()))?;
        (0..end).for_each(|_| self.bump());
        Ok(data)
    }

    fn word(&mut self) -> Result<Data, Problem> {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        let end = self.rest.find(|c| !part(c)).unwrap_or(self.rest.len());
        let data = match &self.rest[..end] {
            "null" => Data::Null,
            "true" => Data::Bool(true),
            "false" => Data::Bool(false),
            word => {
                let shown: String = word.chars().take(40).collect();
                let message = format!("{shown} is no value: texts stand in \"quotes\"");
                return Err(self.problem(message));
            }
        };
        (0..end).for_each(|_| self.bump());
        Ok(data)
    }

    /// Skips white space and comments.
    fn space(&mut self) -> Result<(), Problem> {
        loop {
            match self.peek() {
                Some(' ' | '\t' | '\n' | '\r') => self.bump(),
                Some('/') if self.rest.starts_with("//") => {
                    while self.peek().is_some_and(|char| char != '\n') {
                        self.bump();
                    }
                }
                Some('/') if self.rest.starts_with("/*") => {
                    let begun = self.place();
                    self.bump();
                    self.bump();
                    while !self.rest.starts_with("*/") {
                        if self.peek().is_none() {
                            return Err(self.unclosed("comment", &begun));
                        }
                        self.bump();
                    }
                    self.bump();
                    self.bump();
                }
                _ => return Ok(()),
            }
        }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn bump(&mut self) {
        let mut chars = self.rest.chars();
        match chars.next() {
            Some('\n') => {
                self.line += 1;
                self.column = 1;
            }
            Some(_) => self.column += 1,
            None => {}
        }
        self.rest = chars.as_str();
    }

    fn place(&self) -> Place {
        Place::at(self.source.clone(), self.line, self.column)
    }

    fn problem(&self, message: String) -> Problem {
        Problem { place: self.place(), path: String::new(), message }
    }

    fn ended(&self, what: &str) -> Problem {
        if self.bad {
            return self.problem("bytes that are not UTF-8".to_string());
        }
        self.problem(format!("the file ends {what}"))
    }

    fn unclosed(&self, what: &str, begun: &Place) -> Problem {
        self.ended(&format!("inside the {what} begun at {}:{}", begun.line(), begun.column()))
    }
}

enum Shape {
    Int,
    Float,
}

/// Holds a number against the grammar of JSON (RFC 8259, section 6).
fn shape(text: &str) -> Option<Shape> {
    let digits = |text: &str| -> Option<usize> {
        let count = text.bytes().take_while(u8::is_ascii_digit).count();
        (count > 0).then_some(count)
    };
    let mut rest = text.strip_prefix('-').unwrap_or(text);
    let whole = digits(rest)?;
    if whole > 1 && rest.starts_with('0') {
        return None;
    }
    rest = &rest[whole..];
    let mut shape = Shape::Int;
    if let Some(fraction) = rest.strip_prefix('.') {
        rest = &fraction[digits(fraction)?..];
        shape = Shape::Float;
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        rest = &exponent[digits(exponent)?..];
        shape = Shape::Float;
    }
    rest.is_empty().then_some(shape)
}
