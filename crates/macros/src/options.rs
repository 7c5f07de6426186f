//! The options of a pattern attribute, and the texts for spans of time and rates.

use proc_macro2::{Ident, Span};
use syn::meta::ParseNestedMeta;
use syn::spanned::Spanned;
use syn::{Error, LitInt, LitStr, Result};

/// What the pattern attributes of one method say besides pattern and callers.
#[derive(Default)]
pub struct Options {
    pub deadline_ms: Option<u32>,
    pub level: u8,
    pub rate: Option<Rate>,
    pub interleave: Option<Span>,
    pub idempotent: bool,
    /// Only the newest is kept: of the method, or per value of the named argument.
    pub latest: Option<Option<Ident>>,
    pub unreliable: bool,
    pub aliases: Vec<LitStr>,
}

/// At most `count` calls in `per_ms`.
#[derive(Clone, Copy)]
pub struct Rate {
    pub count: u32,
    pub per_ms: u32,
}

const KNOWN: &str = "known here: the callers `client`, `server`, `operator`, and `deadline = \
     \"4s\"`, `level = 1`, `rate = \"30/s\"`, `interleave`, `idempotent`, `latest`, `alias = \
     \"old_name\"`";

impl Options {
    /// Reads the option `name`, whose value follows in `meta`.
    pub fn read(&mut self, name: &str, meta: &ParseNestedMeta<'_>) -> Result<()> {
        match name {
            "deadline" => {
                let text: LitStr = meta.value()?.parse()?;
                self.deadline_ms = Some(duration_ms(&text)?);
            }
            "level" => {
                let number: LitInt = meta.value()?.parse()?;
                self.level = number.base10_parse()?;
            }
            "rate" => {
                let text: LitStr = meta.value()?.parse()?;
                self.rate = Some(rate(&text)?);
            }
            "alias" => {
                let text: LitStr = meta.value()?.parse()?;
                if text.value().is_empty() {
                    return Err(Error::new(text.span(), "the former name is missing"));
                }
                self.aliases.push(text);
            }
            "interleave" => self.interleave = Some(meta.path.span()),
            "idempotent" => self.idempotent = true,
            "latest" => self.latest = Some(read_key(meta)?),
            "unreliable" => self.unreliable = true,
            _ => return Err(meta.error(format!("unknown option; {KNOWN}"))),
        }
        Ok(())
    }
}

/// The argument in `latest(id)`, or none.
fn read_key(meta: &ParseNestedMeta<'_>) -> Result<Option<Ident>> {
    if !meta.input.peek(syn::token::Paren) {
        return Ok(None);
    }
    let inner;
    syn::parenthesized!(inner in meta.input);
    inner.parse().map(Some)
}

/// Reads `"250ms"`, `"4s"`, `"2m"` or `"1h"` to milliseconds.
pub fn duration_ms(text: &LitStr) -> Result<u32> {
    let value = text.value();
    parse_duration(&value)
        .filter(|ms| *ms > 0)
        .ok_or_else(|| Error::new(text.span(), "write a span of time such as \"250ms\" or \"4s\""))
}

fn parse_duration(text: &str) -> Option<u32> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (count, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    count.parse::<u32>().ok()?.checked_mul(factor)
}

/// Reads `"30/s"`, `"100/m"` or `"5/10s"`.
fn rate(text: &LitStr) -> Result<Rate> {
    let value = text.value();
    let parsed = value.split_once('/').and_then(|(count, per)| {
        let per = per.trim();
        let per_ms = if per.starts_with(|c: char| c.is_ascii_digit()) {
            parse_duration(per)?
        } else {
            parse_duration(&format!("1{per}"))?
        };
        let count = count.trim().parse::<u32>().ok()?;
        (count > 0 && per_ms > 0).then_some(Rate { count, per_ms })
    });
    parsed.ok_or_else(|| Error::new(text.span(), "write a rate such as \"30/s\" or \"5/10s\""))
}
