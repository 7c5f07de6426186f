use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use env::Instant;
use proto::Incarnation;
use proto::schema::Schema;

use crate::keys::{Keys, NODE_PREFIX};
use crate::wire::decode_node;
use crate::{Change, Key, NodeInfo};

/// Most texts of declarations kept; nodes of one release share one.
const SCHEMAS_MAX: usize = 16;

/// The nodes that the keys of a coordinator list. Pure.
///
/// A coordinator that comes back with a loss (emptied, restored, another host) lists them one by
/// one as they register again. Until then those it listed before stay in view, so that nothing
/// moves for it.
#[derive(Debug)]
pub(crate) struct View {
    grace: Duration,
    listed: BTreeMap<Arc<str>, (u64, Arc<NodeInfo>)>,
    /// Listed no more, until when they are shown.
    missed: BTreeMap<Incarnation, (Arc<NodeInfo>, Instant)>,
    schemas: Vec<(String, Arc<Schema>)>,
}

impl View {
    pub fn new(grace: Duration) -> Self {
        View { grace, listed: BTreeMap::new(), missed: BTreeMap::new(), schemas: Vec::new() }
    }

    /// Looks at all nodes again: everything was read anew.
    pub fn handle_all(&mut self, now: Instant, keys: &Keys) -> Vec<Arc<NodeInfo>> {
        let before = std::mem::take(&mut self.listed);
        for (name, key) in keys.range(NODE_PREFIX) {
            match before.get(name).filter(|(changed, _)| *changed == key.changed) {
                Some(known) => drop(self.listed.insert(name.clone(), known.clone())),
                None => self.list(name, key),
            }
        }
        for (name, (_, info)) in before {
            if !self.listed.contains_key(&name) {
                self.missed.insert(info.incarnation, (info, now + self.grace));
            }
        }
        self.nodes()
    }

    /// Looks at what has changed after the revision `known`. Gives all nodes if any did.
    pub fn handle_changes(&mut self, known: u64, changes: &[Change]) -> Option<Vec<Arc<NodeInfo>>> {
        let mut any = false;
        let news = changes.iter().filter(|change| change.revision > known);
        for change in news.filter(|change| change.key.starts_with(NODE_PREFIX)) {
            any = true;
            match &change.now {
                Some(key) => self.list(&change.key, key),
                None => drop(self.listed.remove(&change.key)),
            }
        }
        any.then(|| self.nodes())
    }

    fn list(&mut self, name: &Arc<str>, key: &Key) {
        let schemas = &mut self.schemas;
        match decode_node(&key.value, |text| schema(schemas, text)) {
            Ok(info) => drop(self.listed.insert(name.clone(), (key.changed, Arc::new(info)))),
            Err(error) => {
                self.listed.remove(name);
                tracing::warn!(%name, %error, "a listed node cannot be read");
            }
        }
    }

    /// Ends the view of nodes that did not come back. Gives the rest if some did not.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Vec<Arc<NodeInfo>>> {
        let before = self.missed.len();
        self.missed.retain(|_, (_, until)| *until > now);
        (self.missed.len() != before).then(|| self.nodes())
    }

    /// When [`handle_timeout`](Self::handle_timeout) has work.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.missed.values().map(|(_, until)| *until).min()
    }

    fn nodes(&mut self) -> Vec<Arc<NodeInfo>> {
        let listed = &self.listed;
        let is_back = |missed: &NodeInfo| listed.values().any(|(_, info)| info.name == missed.name);
        self.missed.retain(|_, (info, _)| !is_back(info));
        let missed = self.missed.values().map(|(info, _)| info);
        self.listed.values().map(|(_, info)| info).chain(missed).cloned().collect()
    }
}

fn schema(known: &mut Vec<(String, Arc<Schema>)>, text: &str) -> Option<Arc<Schema>> {
    if let Some((_, schema)) = known.iter().find(|(other, _)| other == text) {
        return Some(schema.clone());
    }
    let schema = Arc::new(Schema::from_text(text).ok()?);
    if known.len() >= SCHEMAS_MAX {
        known.remove(0);
    }
    known.push((text.to_owned(), schema.clone()));
    Some(schema)
}
