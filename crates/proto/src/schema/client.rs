//! The part of a schema that clients see, and its hash.

use std::collections::BTreeSet;

use ring::digest::{SHA256, digest};

use super::{Callers, Field, Form, Interface, Method, Schema, TypeBody};

impl Schema {
    /// What clients see: methods that clients may call, all of client interfaces, and the types
    /// that these use. What only servers care about (callers, levels, rates, aliases) is left out.
    pub fn client_part(&self) -> Schema {
        let mut part = Schema::default();
        for (name, interface) in &self.interfaces {
            let methods = interface
                .methods
                .iter()
                .filter(|(_, method)| interface.form == Form::Client || method.callers.client);
            let methods = methods.map(|(path, method)| (path.clone(), seen_by_client(method)));
            let seen = Interface {
                aliases: Vec::new(),
                methods: methods.collect(),
                ..interface_head(interface)
            };
            if !seen.methods.is_empty() {
                part.interfaces.insert(name.clone(), seen);
            }
        }
        let mut names = BTreeSet::new();
        for method in part.interfaces.values().flat_map(|interface| interface.methods.values()) {
            method.for_each_name(&mut |name| {
                names.insert(name.to_owned());
            });
        }
        let mut open: Vec<String> = names.iter().cloned().collect();
        while let Some(name) = open.pop() {
            let Some(body) = self.types.get(&name) else { continue };
            body.for_each_name(&mut |inner| {
                if names.insert(inner.to_owned()) {
                    open.push(inner.to_owned());
                }
            });
            part.types.insert(name, body.clone());
        }
        part
    }

    /// The hash that client and gate compare at the handshake: the first 8 bytes of the SHA-256 of
    /// the [`client_part`](Self::client_part) in the text form of `interface.lock`, read as a
    /// little-endian number.
    pub fn interface_hash(&self) -> u64 {
        let hash = digest(&SHA256, self.client_part().to_text().as_bytes());
        let first = hash.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
        u64::from_le_bytes(*first)
    }
}

fn interface_head(interface: &Interface) -> Interface {
    Interface {
        name: interface.name.clone(),
        id: interface.id,
        form: interface.form,
        aliases: Vec::new(),
        methods: Default::default(),
    }
}

fn seen_by_client(method: &Method) -> Method {
    Method {
        callers: Callers { client: true, ..Callers::default() },
        level: 0,
        deadline_ms: 0,
        rate: None,
        aliases: Vec::new(),
        ..method.clone()
    }
}

impl Method {
    /// Calls `visit` with the names of all types that it mentions directly.
    pub fn for_each_name(&self, visit: &mut dyn FnMut(&str)) {
        names_of(&self.args, visit);
        for shape in self.reply.iter().chain(&self.error) {
            shape.for_each_name(visit);
        }
    }
}

impl TypeBody {
    /// Calls `visit` with the names of all types that it mentions directly.
    pub fn for_each_name(&self, visit: &mut dyn FnMut(&str)) {
        match self {
            TypeBody::Struct(fields) => names_of(fields, visit),
            TypeBody::Enum { variants, .. } => {
                variants.iter().for_each(|variant| names_of(&variant.fields, visit));
            }
        }
    }
}

fn names_of(fields: &[Field], visit: &mut dyn FnMut(&str)) {
    fields.iter().for_each(|field| field.shape.for_each_name(visit));
}
