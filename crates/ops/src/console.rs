use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use env::metrics::Registry;

/// Who may look.
#[derive(Clone, Debug, Default)]
pub struct ConsoleOptions {
    /// With a key, anybody who shows it as `Authorization: Bearer KEY` may look; without one, only
    /// this machine may.
    pub key: Option<String>,
}

/// Gives what the console shows, as JSON: see `docs/console.md` for the fields.
pub type State = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// `/console`, `/console/state.json` and `/metrics` (OpenMetrics text).
pub fn routes(state: State, metrics: Registry, options: ConsoleOptions) -> Router {
    let guard = from_fn(move |request: Request, next: Next| {
        let allowed = is_allowed(&options, &request);
        async move { if allowed { next.run(request).await } else { refuse() } }
    });
    Router::new()
        .route("/console", get(page))
        .route("/console/console.js", get(script))
        .route("/console/state.json", get(move || async move { Json(state()) }))
        .route("/metrics", get(move || async move { render(&metrics) }))
        .layer(guard)
}

fn is_allowed(options: &ConsoleOptions, request: &Request) -> bool {
    let here = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .is_some_and(|ConnectInfo(peer)| peer.ip().is_loopback());
    match &options.key {
        None => here && !is_proxied(request.headers()),
        Some(key) => shown_key(request.headers()).is_some_and(|shown| same(shown, key)),
    }
}

/// A proxy on this machine makes everybody look local; then a key is needed.
fn is_proxied(headers: &HeaderMap) -> bool {
    headers.contains_key("x-forwarded-for") || headers.contains_key("forwarded")
}

fn shown_key(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// Compares in time that depends on the lengths only.
fn same(shown: &str, key: &str) -> bool {
    let (shown, key) = (shown.as_bytes(), key.as_bytes());
    let differs = shown.iter().zip(key).fold(0, |differs, (a, b)| differs | (a ^ b));
    shown.len() == key.len() && differs == 0
}

fn refuse() -> Response {
    let help = "the console is open to this machine only, or to whoever shows its key\n\
                (set `console.key` in the cluster file, then send `Authorization: Bearer KEY`)\n";
    (StatusCode::FORBIDDEN, help).into_response()
}

async fn page() -> impl IntoResponse {
    const POLICY: HeaderValue = HeaderValue::from_static(
        "default-src 'self'; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    );
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(include_str!("console/console.html")))
}

async fn script() -> impl IntoResponse {
    const JAVASCRIPT: HeaderValue = HeaderValue::from_static("text/javascript; charset=utf-8");
    ([(header::CONTENT_TYPE, JAVASCRIPT)], include_str!("console/console.js"))
}

fn render(metrics: &Registry) -> impl IntoResponse + use<> {
    const OPEN_METRICS: HeaderValue =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(header::CONTENT_TYPE, OPEN_METRICS)], Extension(()), metrics.render_openmetrics())
}
