//! What servers tell and ask clients.

use super::{Module, camel, pascal};
use crate::schema::{Field, Interface, Method, Pattern, Presence, Shape};

impl Module<'_> {
    pub(super) fn put_handlers(&mut self, interface: &Interface) {
        let name = pascal(&interface.name);
        let (calls, pushes): (Vec<&Method>, Vec<&Method>) =
            interface.methods.values().partition(|method| method.pattern == Pattern::Call);
        self.line(format!("/** What servers tell a client by `{}`. */", interface.name));
        self.line(format!("export interface {name}Handlers {{"));
        for method in &pushes {
            let parameters = self.parameters(&method.args).join(", ");
            self.line(format!("  {}({parameters}): void;", camel(&method.path)));
        }
        self.line("}\n");
        if !pushes.is_empty() {
            self.put_listen(&name, &interface.name, &pushes);
        }
        if !calls.is_empty() {
            self.put_answers(&name, &interface.name, &calls);
        }
    }

    /// A handler `(body) => ..` that reads the arguments and passes them to `call`.
    pub(super) fn put_unpacking(&mut self, args: &[Field], call: &str, indent: &str) {
        self.import("Decoder");
        self.import("Fields");
        self.line(format!("{indent}const d = new Decoder(body);"));
        self.line(format!("{indent}const fields = Fields.begin(d);"));
        let mut values = Vec::new();
        for (at, arg) in args.iter().enumerate() {
            let read = self.field_read(arg);
            if arg.presence == Presence::Retired {
                self.line(format!("{indent}{read};"));
                continue;
            }
            self.line(format!("{indent}const arg{at} = {read};"));
            values.push(format!("arg{at}"));
        }
        self.line(format!("{indent}fields.end(d);"));
        self.line(format!("{indent}d.end();"));
        self.line(format!("{indent}{}", call.replace("$", &values.join(", "))));
    }

    pub(super) fn put_listen(&mut self, name: &str, interface: &str, pushes: &[&Method]) {
        self.import("type Stream");
        self.import("type Group");
        self.line(format!(
            "/** Handles what servers tell by `{interface}` on a stream or a group. Gives a \
             function that stops it. */"
        ));
        self.line(format!(
            "export function on{name}(from: Stream | Group, handlers: Partial<{name}Handlers>): () \
             => void {{"
        ));
        self.line("  const stops = [");
        for method in pushes {
            self.line(format!("    from.on({:#010x}, (body) => {{", method.id.0));
            let call = format!("handlers.{}?.($);", camel(&method.path));
            self.put_unpacking(&method.args, &call, "      ");
            self.line("    }),");
        }
        self.line("  ];\n  return () => stops.forEach((stop) => stop());\n}\n");
    }

    pub(super) fn put_answers(&mut self, name: &str, interface: &str, calls: &[&Method]) {
        self.import("type Stream");
        self.line(format!("/** What servers ask a client by `{interface}`. */"));
        self.line(format!("export interface {name}Answers {{"));
        for method in calls {
            let parameters = self.parameters(&method.args).join(", ");
            let reply = method.reply.clone().unwrap_or(Shape::Unit);
            let ty = if reply == Shape::Unit { "void".into() } else { self.type_of(&reply) };
            if let Some(error) = &method.error {
                let error = self.type_of(error);
                self.line(format!("  /** May throw `Refused<{error}>`. */"));
            }
            self.line(format!("  {}({parameters}): {ty} | Promise<{ty}>;", camel(&method.path)));
        }
        self.line("}\n");
        self.line(format!(
            "/** Publishes answers to what servers ask by `{interface}` on a stream. */"
        ));
        self.line(format!(
            "export function answer{name}(stream: Stream, answers: {name}Answers): void {{"
        ));
        for method in calls {
            self.put_answer(method);
        }
        self.line("}\n");
    }

    pub(super) fn put_answer(&mut self, method: &Method) {
        self.import("Encoder");
        let reply = method.reply.clone().unwrap_or(Shape::Unit);
        let indent = if method.error.is_some() { "      " } else { "    " };
        self.line(format!("  stream.answer({:#010x}, async (body) => {{", method.id.0));
        self.line("    const e = new Encoder();");
        if method.error.is_some() {
            self.line("    try {");
        }
        let call = match reply {
            Shape::Unit => format!("await answers.{}($);", camel(&method.path)),
            _ => format!("const value = await answers.{}($);", camel(&method.path)),
        };
        self.put_unpacking(&method.args, &call, indent);
        let write = self.write(&reply, "value");
        self.line(format!("{indent}{write}"));
        if let Some(error) = &method.error {
            self.import("AppError");
            self.refused();
            let writer = self.writer(error);
            let ty = self.type_of(error);
            self.line("    } catch (error) {");
            self.line("      if (!(error instanceof Refused)) throw error;");
            self.line("      const e = new Encoder();");
            self.line(format!("      {writer}(e, error.error as {ty});"));
            self.line("      throw new AppError(e.bytes());");
            self.line("    }");
        }
        self.line("    return e.bytes();\n  });");
    }
}
