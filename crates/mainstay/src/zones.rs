//! `GET /zones`: the zones that players choose from.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use cluster::{Cluster, Zone, ZoneOptions, Zones};
use env::Clock;
use serde_json::{Value, json};
use web::axum::Router;
use web::axum::http::header::CONTENT_TYPE;
use web::axum::routing::get;

/// How often the registry is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The route. It is answered from what was known half a second ago at most, whoever asks how often.
pub(crate) fn route(cluster: &Cluster, clock: &Clock, names: &[String]) -> Router {
    let mut zones = Zones::new(cluster, names.to_vec(), ZoneOptions::default());
    let shown = Arc::new(Mutex::new(text(&zones.look(clock.now()))));
    let (weak, clock) = (Arc::downgrade(&shown), clock.clone());
    let name = "zones".to_owned();
    let looks = thread::Builder::new().name(name).spawn(move || {
        while let Some(shown) = weak.upgrade() {
            *shown.lock().unwrap_or_else(PoisonError::into_inner) = text(&zones.look(clock.now()));
            drop(shown);
            thread::sleep(LOOK_EVERY);
        }
    });
    if let Err(error) = looks {
        tracing::error!(%error, "zones stay as they are shown now");
    }
    let answer = move || {
        let text = shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        async move { ([(CONTENT_TYPE, "application/json")], text) }
    };
    Router::new().route("/zones", get(answer))
}

fn text(zones: &[Zone]) -> String {
    let zones = zones.iter().map(|zone| {
        json!({
            "name": zone.name,
            "state": zone.state.word(),
            "load": (zone.load * 100.0).round() / 100.0,
            "sessions": zone.sessions,
        })
    });
    json!({ "zones": zones.collect::<Vec<Value>>() }).to_string()
}
