use std::collections::BTreeMap;

use crate::parse::{Limits, Part, Raw, RawData, Template};
use crate::value::Entry;
use crate::{Data, Map, Place, Problem, Value, nearest};

const BLOCK: &str = "$MACRO$";

/// Replaces all macros of a file by their values and takes the macro block out.
pub(crate) fn expand(mut raw: Raw, limits: &Limits) -> Result<Value, Problem> {
    let mut expander =
        Expander { macros: BTreeMap::new(), using: Vec::new(), limits, values: 0, bytes: 0 };
    if let RawData::Map(entries) = &mut raw.data
        && let Some(at) = entries.iter().position(|(_, name, _)| name.is_macro_block())
    {
        let (_, _, block) = entries.remove(at);
        expander.collect(block)?;
        let names: Vec<String> = expander.macros.keys().cloned().collect();
        // Also those that nobody uses: an error in one of them is an error.
        for name in names {
            expander.resolve(&name, &raw.place, 0)?;
        }
        expander.values = 0;
        expander.bytes = 0;
    }
    expander.value(raw, 0)
}

struct Expander<'a> {
    macros: BTreeMap<String, Macro>,
    /// The macros being resolved, outermost first.
    using: Vec<String>,
    limits: &'a Limits,
    values: usize,
    bytes: usize,
}

enum Macro {
    Written(Raw),
    Resolving,
    Known(Value),
}

impl Template {
    /// In the file the block's name reads as a use of the macro called `MACRO`.
    fn is_macro_block(&self) -> bool {
        matches!(&self.parts[..], [Part::Macro { name, .. }] if name == "MACRO")
    }
}

impl Expander<'_> {
    fn collect(&mut self, block: Raw) -> Result<(), Problem> {
        let RawData::Map(entries) = block.data else {
            return Err(problem(&block.place, format!("{BLOCK} must be an object")));
        };
        for (place, name, value) in entries {
            let [Part::Text(name)] = &name.parts[..] else {
                return Err(problem(&place, "the name of a macro holds no macro".to_string()));
            };
            let named = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
            if name.is_empty() || !name.chars().all(named) {
                let message = format!("{name:?} is no name for a macro: letters, digits, _ - .");
                return Err(problem(&place, message));
            }
            if self.macros.insert(name.clone(), Macro::Written(value)).is_some() {
                return Err(problem(&place, format!("the macro {name} is defined twice")));
            }
        }
        Ok(())
    }

    /// Makes the macro's value known.
    fn resolve(&mut self, name: &str, place: &Place, depth: usize) -> Result<(), Problem> {
        let Some(slot) = self.macros.get_mut(name) else {
            let near = nearest(name, self.macros.keys().map(String::as_str));
            let hint = match near {
                Some(near) => format!("; did you mean ${near}$?"),
                None if self.macros.is_empty() => format!("; this file has no {BLOCK} block"),
                None => "; a dollar is written $$".to_string(),
            };
            return Err(problem(place, format!("unknown macro ${name}${hint}")));
        };
        match std::mem::replace(slot, Macro::Resolving) {
            Macro::Known(value) => *slot = Macro::Known(value),
            Macro::Written(raw) => {
                self.using.push(name.to_string());
                let value = self.value(raw, depth)?;
                self.using.pop();
                self.macros.insert(name.to_string(), Macro::Known(value));
            }
            Macro::Resolving => {
                let from = self.using.iter().position(|other| other == name).unwrap_or(0);
                let ring = self.using[from..].join(" -> ");
                return Err(problem(place, format!("macros loop: {ring} -> {name}")));
            }
        }
        Ok(())
    }

    fn value(&mut self, raw: Raw, depth: usize) -> Result<Value, Problem> {
        let Raw { place, data } = raw;
        self.count(&place, depth)?;
        let data = match data {
            RawData::Plain(data) => data,
            RawData::Text(template) => match &template.parts[..] {
                [Part::Macro { name, place: at }] => {
                    // It stands for one value, which is counted as it is copied.
                    self.values -= 1;
                    let value = self.macro_value(name, at, depth)?;
                    return Ok(Value { place, data: value.data });
                }
                _ => Data::Text(self.text(template, depth)?),
            },
            RawData::List(items) => {
                let items = items.into_iter().map(|item| self.value(item, depth + 1));
                Data::List(items.collect::<Result<_, _>>()?)
            }
            RawData::Map(entries) => {
                let mut map = Map::default();
                for (at, name, value) in entries {
                    if name.is_macro_block() {
                        let message = format!("{BLOCK} stands once, in the outermost object");
                        return Err(problem(&at, message));
                    }
                    let name = self.text(name, depth)?;
                    let value = self.value(value, depth + 1)?;
                    if let Some(Entry { place: first, .. }) = map.entry(&name) {
                        let (line, column) = (first.line(), first.column());
                        let message = format!("the key {name:?} stands at {line}:{column} already");
                        return Err(problem(&at, message));
                    }
                    map.insert(name, at, value);
                }
                Data::Map(map)
            }
        };
        Ok(Value { place, data })
    }

    /// A copy of a macro's value.
    fn macro_value(&mut self, name: &str, place: &Place, depth: usize) -> Result<Value, Problem> {
        self.resolve(name, place, depth + 1)?;
        // Taken out while it is copied, so that the copy can be counted.
        let slot = self.macros.get_mut(name).expect("resolved");
        let Macro::Known(value) = std::mem::replace(slot, Macro::Resolving) else {
            unreachable!("resolved")
        };
        let counted = self.count_copy(&value, place, depth);
        let copy = counted.map(|()| value.clone());
        self.macros.insert(name.to_string(), Macro::Known(value));
        copy
    }

    fn text(&mut self, template: Template, depth: usize) -> Result<String, Problem> {
        let mut text = String::new();
        for part in template.parts {
            let before = text.len();
            match part {
                Part::Text(plain) => text.push_str(&plain),
                Part::Macro { name, place } => {
                    let value = self.macro_value(&name, &place, depth)?;
                    match value.data {
                        Data::Text(inner) => text.push_str(&inner),
                        Data::List(_) | Data::Map(_) => {
                            let message =
                                format!("${name}$ is {}: it cannot stand in text", value.kind());
                            return Err(problem(&place, message));
                        }
                        _ => text.push_str(&value.to_string()),
                    }
                    self.bytes += text.len() - before;
                    self.check_bytes(&place)?;
                }
            }
        }
        Ok(text)
    }

    fn count_copy(&mut self, value: &Value, place: &Place, depth: usize) -> Result<(), Problem> {
        self.count(place, depth)?;
        match &value.data {
            Data::List(items) => {
                items.iter().try_for_each(|item| self.count_copy(item, place, depth + 1))
            }
            Data::Map(map) => map.iter().try_for_each(|entry| {
                self.bytes += entry.name.len();
                self.count_copy(&entry.value, place, depth + 1)
            }),
            Data::Text(text) => {
                self.bytes += text.len();
                self.check_bytes(place)
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, place: &Place, depth: usize) -> Result<(), Problem> {
        self.values += 1;
        let Limits { depth_max, values_max, .. } = *self.limits;
        if self.values > values_max {
            return Err(problem(place, format!("macros make more than {values_max} values")));
        }
        if depth > depth_max {
            return Err(problem(place, format!("macros nest deeper than {depth_max}")));
        }
        Ok(())
    }

    fn check_bytes(&self, place: &Place) -> Result<(), Problem> {
        let bytes_max = self.limits.bytes_max;
        if self.bytes > bytes_max {
            return Err(problem(place, format!("macros make more than {bytes_max} bytes of text")));
        }
        Ok(())
    }
}

fn problem(place: &Place, message: String) -> Problem {
    Problem { place: place.clone(), path: String::new(), message }
}
