//! The zones and channels that this process hosts.

use proto::{Namespace, Scope};

/// What is local is hosted for these.
#[derive(Debug)]
pub(crate) struct Namespaces {
    zones: Vec<Namespace>,
    channels: Vec<Namespace>,
}

impl Namespaces {
    /// Those with these names.
    pub fn new(zones: &[String], channels: &[String]) -> Self {
        let numbers = |scope, names: &[String]| match names {
            [] => vec![Namespace::NONE],
            names => names.iter().map(|name| Namespace::of(scope, name)).collect(),
        };
        Namespaces {
            zones: numbers(Scope::Zone, zones),
            channels: numbers(Scope::Channel, channels),
        }
    }

    /// All of a scope.
    pub fn all(&self, scope: Scope) -> &[Namespace] {
        match scope {
            Scope::Global => &[Namespace::NONE],
            Scope::Zone => &self.zones,
            Scope::Channel => &self.channels,
        }
    }

    /// The only one of a scope; [`Namespace::NOWHERE`] if there are several.
    pub fn only(&self, scope: Scope) -> Namespace {
        match self.all(scope) {
            [only] => *only,
            _ => Namespace::NOWHERE,
        }
    }

    /// Whether `within` is one of them.
    pub fn has(&self, scope: Scope, within: Namespace) -> bool {
        self.all(scope).contains(&within)
    }
}
