use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;

/// A file that is part of the program.
#[derive(Clone, Copy, Debug)]
pub struct Asset {
    /// Path it is served under, such as `/` or `/arena.js`.
    pub path: &'static str,
    /// Its media type, such as `text/html; charset=utf-8`.
    pub media_type: &'static str,
    /// Its content.
    pub bytes: &'static [u8],
}

/// Routes that serve `assets`. Scripts may come from the page's own origin only.
pub fn assets(assets: &'static [Asset]) -> Router {
    assets.iter().fold(Router::new(), |router, asset| {
        router.route(asset.path, get(move || async move { serve(asset) }))
    })
}

fn serve(asset: &'static Asset) -> impl IntoResponse {
    const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; \
                          style-src 'self' 'unsafe-inline'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.media_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, asset.bytes)
}
