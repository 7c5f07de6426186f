//! What watchers keep in the coordinator: `watch/STORE/failover`, `watch/STORE/primary`, and
//! `watch/STORE/vote/SERVER/WATCHER`. Pure.

use proto::Incarnation;
use serde_json::{Value, json};
use store::{Failover, Stage};

/// What all these keys begin with.
pub(super) const PREFIX: &str = "watch/";

const STAGES: [(&str, Stage); 3] =
    [("promoting", Stage::Promoting), ("done", Stage::Done), ("failed", Stage::Failed)];

/// Which key it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named<'a> {
    /// The last failover.
    Failover,
    /// What nodes are told.
    Primary,
    /// A watcher believes that a server is down.
    Vote { server: &'a str, watcher: Incarnation },
}

/// The store and what it is of it.
pub(super) fn read_key(key: &str) -> Option<(&str, Named<'_>)> {
    let mut parts = key.strip_prefix(PREFIX)?.split('/');
    let store = parts.next()?;
    let named = match (parts.next()?, parts.next(), parts.next()) {
        ("failover", None, None) => Named::Failover,
        ("primary", None, None) => Named::Primary,
        ("vote", Some(server), Some(watcher)) => {
            Named::Vote { server, watcher: Incarnation(watcher.parse().ok()?) }
        }
        _ => return None,
    };
    parts.next().is_none().then_some((store, named))
}

pub(super) fn failover_key(store: &str) -> String {
    format!("{PREFIX}{store}/failover")
}

pub(super) fn primary_key(store: &str) -> String {
    format!("{PREFIX}{store}/primary")
}

pub(super) fn vote_key(store: &str, server: &str, watcher: Incarnation) -> String {
    format!("{PREFIX}{store}/vote/{server}/{}", watcher.0)
}

pub(super) fn show_failover(failover: &Failover) -> Value {
    let stage = STAGES.iter().find(|(_, stage)| *stage == failover.stage);
    json!({
        "number": failover.number,
        "begun_by": failover.begun_by,
        "by": failover.by,
        "from": failover.from,
        "to": failover.to,
        "stage": stage.map(|(name, _)| *name),
        "left": failover.left,
    })
}

pub(super) fn read_failover(value: &[u8]) -> Option<Failover> {
    let value: Value = serde_json::from_slice(value).ok()?;
    let text = |name: &str| Some(value.get(name)?.as_str()?.to_owned());
    let number = |name: &str| value.get(name)?.as_u64();
    let stage = value.get("stage")?.as_str()?;
    let left = value.get("left")?.as_array()?.iter();
    Some(Failover {
        number: number("number")?,
        begun_by: number("begun_by")?,
        by: number("by")?,
        from: text("from")?,
        to: text("to")?,
        stage: STAGES.iter().find(|(name, _)| *name == stage)?.1,
        left: left.map(|name| Some(name.as_str()?.to_owned())).collect::<Option<_>>()?,
    })
}

pub(super) fn show_primary(primary: &str, failover: u64) -> Value {
    json!({"primary": primary, "failover": failover})
}

pub(super) fn read_primary(value: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(value).ok()?;
    Some(value.get("primary")?.as_str()?.to_owned())
}

/// What is wrong with a value, whoever wrote it.
pub(super) fn check(key: &str, value: &[u8]) -> Result<(), String> {
    let is_read = match read_key(key) {
        Some((_, Named::Failover)) => read_failover(value).is_some(),
        Some((_, Named::Primary)) => read_primary(value).is_some(),
        Some((_, Named::Vote { .. })) => true,
        None => return Err("no key of those who watch stores".to_owned()),
    };
    is_read.then_some(()).ok_or_else(|| "it is not what watchers write".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let failover = Failover {
            number: 3,
            begun_by: u64::MAX,
            by: 2,
            from: "a:1".to_owned(),
            to: "b:2".to_owned(),
            stage: Stage::Done,
            left: vec!["a:1".to_owned()],
        };
        let written = show_failover(&failover).to_string();
        assert_eq!(read_failover(written.as_bytes()), Some(failover));
        let written = show_primary("b:2", 3).to_string();
        assert_eq!(read_primary(written.as_bytes()).as_deref(), Some("b:2"));
        let vote = vote_key("store.shards.east", "[::1]:7", Incarnation(9));
        let named = Named::Vote { server: "[::1]:7", watcher: Incarnation(9) };
        assert_eq!(read_key(&vote), Some(("store.shards.east", named)));
        assert_eq!(read_key(&failover_key("store")), Some(("store", Named::Failover)));
        assert_eq!(read_key(&primary_key("store")), Some(("store", Named::Primary)));
    }

    #[test]
    fn x32_what_others_write_there_is_refused() {
        for (key, value) in [
            ("watch/store/primary", "b:2"),
            ("watch/store/failover", r#"{"number": 1}"#),
            ("watch/store/failover/more", "{}"),
            ("watch/store/vote/a:1/somebody", ""),
        ] {
            assert!(check(key, value.as_bytes()).is_err(), "{key}");
        }
        assert!(check("watch/store/vote/a:1/7", b"").is_ok());
    }
}
