use std::collections::{BTreeMap, BTreeSet};

use tables::{Item, nearest};

/// What a process with a certain role offers. A game names sets of these; the engine knows none
/// of the names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// Takes in clients.
    pub gate: bool,
    /// Is home to sessions.
    pub sessions: bool,
    /// The entity kinds and services it runs.
    pub entities: Kinds,
    /// Serves the game's HTTP routes.
    pub web: bool,
    /// Serves console and metrics.
    pub console: bool,
    /// Stands in front of the stores, for the other processes.
    pub data: bool,
    /// Watches the servers of stores.
    pub watcher: bool,
}

/// Which entity kinds and services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Kinds {
    /// None.
    #[default]
    None,
    /// Those with these names.
    Named(BTreeSet<String>),
    /// All that the game has.
    All,
}

/// The roles that a game declares, and the names of its kinds. More roles may be named in the
/// cluster file under `roles`.
#[derive(Clone, Debug, Default)]
pub struct Roles {
    roles: BTreeMap<String, Role>,
    kinds: BTreeSet<String>,
}

impl Role {
    /// Offers nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in clients too.
    pub fn gate(mut self) -> Self {
        self.gate = true;
        self
    }

    /// Is home to sessions too.
    pub fn sessions(mut self) -> Self {
        self.sessions = true;
        self
    }

    /// Runs the named kinds and services too.
    pub fn entities<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.entities.join(&Kinds::Named(names.into_iter().map(String::from).collect()));
        self
    }

    /// Runs all kinds and services.
    pub fn all_entities(mut self) -> Self {
        self.entities = Kinds::All;
        self
    }

    /// Serves the game's HTTP routes too.
    pub fn web(mut self) -> Self {
        self.web = true;
        self
    }

    /// Serves console and metrics too.
    pub fn console(mut self) -> Self {
        self.console = true;
        self
    }

    /// Stands in front of the stores too.
    pub fn data(mut self) -> Self {
        self.data = true;
        self
    }

    /// Watches the servers of stores too.
    pub fn watcher(mut self) -> Self {
        self.watcher = true;
        self
    }

    /// Whether it serves anything over HTTP.
    pub fn http(&self) -> bool {
        self.web || self.console
    }

    /// Offers also what `other` does.
    pub(super) fn join(&mut self, other: &Role) {
        self.gate |= other.gate;
        self.sessions |= other.sessions;
        self.web |= other.web;
        self.console |= other.console;
        self.data |= other.data;
        self.watcher |= other.watcher;
        self.entities.join(&other.entities);
    }
}

impl Kinds {
    /// Whether the kind called `name` is among them.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Kinds::None => false,
            Kinds::Named(names) => names.contains(name),
            Kinds::All => true,
        }
    }

    fn join(&mut self, other: &Kinds) {
        match (&mut *self, other) {
            (Kinds::All, _) | (_, Kinds::None) => {}
            (Kinds::Named(names), Kinds::Named(more)) => names.extend(more.iter().cloned()),
            (_, other) => *self = other.clone(),
        }
    }
}

impl Roles {
    /// A game with the kinds and services called `kinds`, and the roles `gate`, `node` (sessions
    /// and all kinds), `web`, `console`, `data` and `watcher`.
    pub fn standard<'a>(kinds: impl IntoIterator<Item = &'a str>) -> Self {
        let mut roles = Self::with_kinds(kinds);
        roles.add("gate", Role::new().gate());
        roles.add("node", Role::new().sessions().all_entities());
        roles.add("web", Role::new().web());
        roles.add("console", Role::new().console());
        roles.add("data", Role::new().data());
        roles.add("watcher", Role::new().watcher());
        roles
    }

    /// A game with the kinds and services called `kinds`, and no roles yet.
    pub fn with_kinds<'a>(kinds: impl IntoIterator<Item = &'a str>) -> Self {
        Roles { roles: BTreeMap::new(), kinds: kinds.into_iter().map(String::from).collect() }
    }

    /// Declares a role, in place of one with the same name.
    pub fn add(&mut self, name: &str, role: Role) -> &mut Self {
        self.roles.insert(name.to_string(), role);
        self
    }

    /// The names of all roles.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    /// The role called `name`.
    pub fn role(&self, name: &str) -> Option<&Role> {
        self.roles.get(name)
    }

    /// All roles together.
    pub(super) fn union(&self) -> Role {
        let mut all = Role::new();
        self.roles.values().for_each(|role| all.join(role));
        all
    }

    /// Reads the file's `roles` and adds them.
    pub(super) fn read(&mut self, item: &Item<'_>) {
        for (entry, item) in item.entries().unwrap_or_default() {
            let role = self.read_role(&item).unwrap_or_default();
            if self.roles.contains_key(&entry.name) {
                item.fail(format!("the game has a role {:?}: choose another name", entry.name));
            } else {
                self.roles.insert(entry.name.clone(), role);
            }
        }
    }

    fn read_role(&self, item: &Item<'_>) -> Option<Role> {
        let section = item.section()?;
        let flag = |name| section.item(name).and_then(|item| item.bool()).unwrap_or(false);
        let mut role = Role {
            gate: flag("gate"),
            sessions: flag("sessions"),
            entities: Kinds::None,
            web: flag("web"),
            console: flag("console"),
            data: flag("data"),
            watcher: flag("watcher"),
        };
        if let Some(item) = section.item("entities") {
            role.entities = self.read_kinds(&item).unwrap_or_default();
        }
        Some(role)
    }

    fn read_kinds(&self, item: &Item<'_>) -> Option<Kinds> {
        if item.value().as_text() == Some("all") {
            return Some(Kinds::All);
        }
        let mut names = BTreeSet::new();
        for item in item.list(1_024)? {
            let Some(name) = item.text() else { continue };
            if !self.kinds.contains(name) {
                let near = nearest(name, self.kinds.iter().map(String::as_str));
                let known: Vec<&str> = self.kinds.iter().map(String::as_str).collect();
                item.fail(match near {
                    Some(near) => format!("unknown kind {name:?}; did you mean {near:?}?"),
                    None => format!("unknown kind {name:?}; the game has {}", known.join(", ")),
                });
            }
            names.insert(name.to_string());
        }
        Some(Kinds::Named(names))
    }
}
