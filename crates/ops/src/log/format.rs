use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// `time level target: message field=value … at file:line`, the place for warnings and above, in a
/// form that editors and terminals make clickable.
pub(super) struct Lines {
    pub(super) colour: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let now = jiff::Timestamp::now();
        write!(out, "{now:.3} ")?;
        self.level(&mut out, *metadata.level())?;
        self.paint(&mut out, "2", format_args!("{}:", metadata.target()))?;
        let mut fields = Fields { message: String::new(), rest: String::new() };
        event.record(&mut fields);
        write!(out, " {}{}", fields.message, fields.rest)?;
        for span in context.event_scope().into_iter().flatten() {
            write!(out, " in {}", span.name())?;
            if let Some(fields) =
                span.extensions().get::<tracing_subscriber::fmt::FormattedFields<N>>()
                && !fields.is_empty()
            {
                write!(out, "{{{}}}", fields.fields)?;
            }
        }
        if *metadata.level() <= Level::WARN
            && let (Some(file), Some(line)) = (metadata.file(), metadata.line())
        {
            self.paint(&mut out, "2", format_args!(" at {file}:{line}"))?;
        }
        out.write_char('\n')
    }
}

impl Lines {
    fn level(&self, out: &mut Writer<'_>, level: Level) -> fmt::Result {
        let (name, colour) = match level {
            Level::ERROR => ("ERROR", "31;1"),
            Level::WARN => ("WARN ", "33"),
            Level::INFO => ("INFO ", "32"),
            Level::DEBUG => ("DEBUG", "34"),
            Level::TRACE => ("TRACE", "35"),
        };
        self.paint(out, colour, format_args!("{name}"))?;
        out.write_char(' ')
    }

    fn paint(&self, out: &mut Writer<'_>, colour: &str, text: fmt::Arguments<'_>) -> fmt::Result {
        if self.colour { write!(out, "\x1b[{colour}m{text}\x1b[0m") } else { write!(out, "{text}") }
    }
}

struct Fields {
    message: String,
    rest: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            one_line(&mut self.message, value);
        } else {
            let _ = write!(self.rest, " {}=", field.name());
            one_line(&mut self.rest, &format!("{value:?}"));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = format!("{value:?}");
        if field.name() == "message" {
            one_line(&mut self.message, &value);
        } else {
            let _ = write!(self.rest, " {}=", field.name());
            one_line(&mut self.rest, &value);
        }
    }
}

/// A player's text must not be able to forge a line or to reach the terminal's controls.
fn one_line(out: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn text_cannot_forge_lines_or_colours() {
        let mut out = String::new();
        super::one_line(&mut out, "hi\nERROR forged\x1b[31m");
        assert_eq!(out, "hi\\nERROR forged\\u{1b}[31m");
    }
}
