//! Stubs of entities and services.

use std::collections::{BTreeMap, BTreeSet};

use super::{Module, camel, limits, live, own_name, parameter, pascal};
use crate::schema::{Delivery, Field, Form, Interface, Method, Pattern, Presence, Shape};

impl Module<'_> {
    pub(super) fn put_stubs(&mut self, interface: &Interface, whole: &Interface) {
        let class = format!("{}Stub", pascal(&interface.name));
        let mut components: BTreeMap<&str, Vec<&Method>> = BTreeMap::new();
        let mut own = Vec::new();
        for method in interface.methods.values() {
            match method.path.split_once('.') {
                Some((field, _)) => components.entry(field).or_default().push(method),
                None => own.push(method),
            }
        }
        let what = if interface.form == Form::Service { "service" } else { "entity" };
        for (field, methods) in &components {
            let docs = format!("The component `{field}` of the {what} `{}`.", interface.name);
            let class = format!("{}{}Stub", pascal(&interface.name), pascal(field));
            self.put_class(&class, &docs, methods, &[], whole);
        }
        let taken: BTreeSet<_> = own.iter().map(|method| camel(&method.path)).collect();
        let fields: Vec<(String, String)> = components
            .keys()
            .map(|field| {
                let mut name = camel(field);
                while taken.contains(&name) {
                    name.push('_');
                }
                (name, format!("{}{}Stub", pascal(&interface.name), pascal(field)))
            })
            .collect();
        let docs = format!("Calls the {what} `{}` behind a stream.", interface.name);
        self.put_class(&class, &docs, &own, &fields, whole);
    }

    pub(super) fn put_class(
        &mut self,
        class: &str,
        docs: &str,
        methods: &[&Method],
        components: &[(String, String)],
        whole: &Interface,
    ) {
        self.import("type Stream");
        self.line(format!("/** {docs} */"));
        self.line(format!("export class {class} {{"));
        if !methods.is_empty() {
            self.line("  readonly #stream: Stream;");
        }
        for (name, class) in components {
            self.line(format!("  readonly {name}: {class};"));
        }
        self.line("\n  constructor(stream: Stream) {");
        if !methods.is_empty() {
            self.line("    this.#stream = stream;");
        }
        for (name, class) in components {
            self.line(format!("    this.{name} = new {class}(stream);"));
        }
        self.line("  }");
        for method in methods {
            self.line("");
            let deadline_ms = whole.methods[&method.path].deadline_ms;
            match method.pattern {
                Pattern::Request => self.put_request(method, deadline_ms),
                _ => self.put_tell(method),
            }
        }
        self.line("}\n");
    }

    /// `name: string, count: number`.
    pub(super) fn parameters(&mut self, args: &[Field]) -> Vec<String> {
        live(args).map(|arg| format!("{}: {}", parameter(arg), self.type_of(&arg.shape))).collect()
    }

    /// Statements that encode the arguments into `e`.
    pub(super) fn put_arguments(&mut self, args: &[Field]) {
        self.import("Encoder");
        self.line("    const e = new Encoder();");
        self.line(format!("    e.array({});", args.len()));
        for arg in args {
            let write = match arg.presence {
                Presence::Retired => "e.nil();".to_owned(),
                _ => self.write(&arg.shape, &parameter(arg)),
            };
            self.line(format!("    {write}"));
        }
    }

    pub(super) fn put_request(&mut self, method: &Method, deadline_ms: u32) {
        let options = self.helper("type CallOptions", "CallOptions", |_, _| {
            "/** How to make a request. */\nexport interface CallOptions {\n  deadlineMs?: number;\n  \
             signal?: AbortSignal;\n}\n"
                .into()
        });
        let answer = self.answer();
        let mut parameters = self.parameters(&method.args);
        parameters.push(format!("options?: {options}"));
        let reply = method.reply.clone().unwrap_or(Shape::Unit);
        let unit = reply == Shape::Unit;
        let ty = if unit { "void".into() } else { self.type_of(&reply) };
        let read = self.reader(&reply);
        let error = method.error.as_ref().map(|error| {
            let ty = self.type_of(error);
            (format!(", {}", self.reader(error)), format!(" Throws `Refused<{ty}>`."))
        });
        let (read_error, throws) = error.unwrap_or_default();
        let docs = format!("`{}`.{}{throws}", method.path, self.arg_limits(&method.args));
        self.line(format!("  /** {docs} */"));
        self.line(format!(
            "  async {}({}): Promise<{ty}> {{",
            camel(own_name(method)),
            parameters.join(", ")
        ));
        self.put_arguments(&method.args);
        let options = match deadline_ms {
            0 => "options".to_owned(),
            ms => format!("{{ deadlineMs: {ms}, ...options }}"),
        };
        let call = format!("this.#stream.request({:#010x}, e.bytes(), {options})", method.id.0);
        let result = if unit { "await" } else { "return" };
        self.line(format!("    {result} {answer}({call}, {read}{read_error});"));
        self.line("  }");
    }

    pub(super) fn put_tell(&mut self, method: &Method) {
        let parameters = self.parameters(&method.args).join(", ");
        let docs = format!("`{}`.{}", method.path, self.arg_limits(&method.args));
        self.line(format!("  /** {docs} */"));
        let (gives, result) = match &method.delivery {
            Delivery::Reliable => ("return ", "number"),
            Delivery::Latest(_) | Delivery::Unreliable => ("", "void"),
        };
        self.line(format!("  {}({parameters}): {result} {{", camel(own_name(method))));
        self.put_arguments(&method.args);
        let id = format!("{:#010x}", method.id.0);
        let options = match &method.delivery {
            Delivery::Reliable => String::new(),
            Delivery::Latest(Some(key)) => {
                let arg = method.args.iter().find(|arg| arg.name == *key);
                let write = arg.map(|arg| (self.writer(&arg.shape), parameter(arg)));
                let key_of = self.key_of();
                match write {
                    Some((write, value)) => {
                        format!(", {{ latest: {key_of}({id}, {write}, {value}) }}")
                    }
                    None => format!(", {{ latest: {id} }}"),
                }
            }
            Delivery::Latest(None) | Delivery::Unreliable => format!(", {{ latest: {id} }}"),
        };
        self.line(format!("    {gives}this.#stream.tell({id}, e.bytes(){options});"));
        self.line("  }");
    }

    pub(super) fn key_of(&mut self) -> String {
        self.helper("keyOf", "keyOf", |module, name| {
            module.import("Encoder");
            format!(
                "/** What tells messages of which only the newest matters apart. */\nfunction \
                 {name}<T>(method: number, write: (e: Encoder, value: T) => void, value: T): string \
                 {{\n  const e = new Encoder();\n  write(e, value);\n  return \
                 `${{method}}:${{e.bytes().join()}}`;\n}}\n"
            )
        })
    }

    pub(super) fn arg_limits(&self, args: &[Field]) -> String {
        let limits: Vec<_> = live(args)
            .filter_map(|arg| limits(arg).map(|limits| format!("`{}` {limits}", parameter(arg))))
            .collect();
        if limits.is_empty() { String::new() } else { format!(" {}.", limits.join(", ")) }
    }

    /// The class of errors that methods declare.
    pub(super) fn refused(&mut self) {
        self.helper("class Refused", "Refused", |_, _| {
            "/** A method's own error. */\nexport class Refused<E> extends Error {\n  readonly error: \
             E;\n\n  constructor(error: E) {\n    super(\"the method answered with its own \
             error\");\n    this.name = \"Refused\";\n    this.error = error;\n  }\n}\n"
                .into()
        });
    }

    /// The function that reads an answer.
    pub(super) fn answer(&mut self) -> String {
        let whole = self.whole();
        self.refused();
        self.helper("answer", "answer", |module, name| {
            module.import("CallError");
            module.import("Decoder");
            format!(
                "async function {name}<T, E>(\n  body: Promise<Uint8Array>,\n  read: (d: Decoder) \
                 => T,\n  readError?: (d: Decoder) => E,\n): Promise<T> {{\n  let bytes: \
                 Uint8Array;\n  try {{\n    bytes = await body;\n  }} catch (error) {{\n    if \
                 (readError && error instanceof CallError && error.problem === \"app\" && \
                 error.body) {{\n      throw new Refused({whole}(error.body, readError));\n    \
                 }}\n    throw error;\n  }}\n  return {whole}(bytes, read);\n}}\n"
            )
        })
    }

    /// The function that reads all of some bytes.
    pub(super) fn whole(&mut self) -> String {
        self.helper("whole", "whole", |module, name| {
            module.import("Decoder");
            format!(
                "function {name}<T>(bytes: Uint8Array, read: (d: Decoder) => T): T {{\n  const d = \
                 new Decoder(bytes);\n  const value = read(d);\n  d.end();\n  return value;\n}}\n"
            )
        })
    }
}
