//! What is MongoDB's alone.

use store::*;

use crate::database::quick;

#[test]
fn mongodb_without_a_replica_set_is_refused() {
    if servers::skipped() {
        return;
    }
    let server = servers::Mongo::start().unwrap();
    match Store::mongodb(&server.url(), quick()) {
        Err(OpenError::NotDurable { reason, .. }) => assert!(reason.contains("--replSet")),
        other => panic!("{other:?}"),
    }
    for url in ["nonsense", "mongodb+srv://example.com/"] {
        let malformed = Store::mongodb(url, quick());
        assert!(matches!(malformed, Err(OpenError::Malformed(_))), "{malformed:?}");
    }
}
