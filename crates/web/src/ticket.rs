use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use env::{Clock, Instant, Random};
use proto::AccountId;
use proto::ticket::{Claims, Grant, TicketKeys};
use serde::{Deserialize, Serialize};

/// How guests are let in.
#[derive(Clone, Debug)]
pub struct GuestOptions {
    /// How long a ticket is good for.
    pub ticket_life: Duration,
    /// Tickets per second for one address, on average.
    pub per_second: f64,
    /// Tickets that one address may take at once.
    pub burst: f64,
    /// Addresses remembered for the limit; beyond it the longest unseen is forgotten.
    pub addresses_max: usize,
    /// Longest name, in characters.
    pub name_chars_max: usize,
}

impl Default for GuestOptions {
    /// 60 s tickets, 5 a second and 20 at once for an address, 24 characters.
    fn default() -> Self {
        GuestOptions {
            ticket_life: Duration::from_secs(60),
            per_second: 5.0,
            burst: 20.0,
            addresses_max: 10_000,
            name_chars_max: 24,
        }
    }
}

/// Issues tickets to anybody who asks: for demos and first steps, not for a game with accounts.
#[derive(Clone)]
pub struct Guests(Arc<Inner>);

struct Inner {
    keys: TicketKeys,
    clock: Clock,
    options: GuestOptions,
    state: Mutex<Limiter>,
}

struct Limiter {
    random: Random,
    buckets: BTreeMap<IpAddr, Bucket>,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// A grant as JSON text; bytes are base64.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GrantText {
    /// Shown to the gate.
    pub ticket: String,
    /// Proves that the ticket is one's own; never sent to a gate.
    pub secret: String,
    /// The session's id, in hex.
    pub session: String,
    /// End of the ticket's life, wall-clock milliseconds.
    pub expires_ms: u64,
    /// Shown at the next login, it gives the same account again: whoever has it is that player.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pass: String,
}

impl GrantText {
    /// Writes a grant as text.
    pub fn new(grant: &Grant) -> Self {
        GrantText {
            ticket: STANDARD.encode(&grant.ticket),
            secret: STANDARD.encode(grant.secret),
            session: grant.session.to_string(),
            expires_ms: grant.expires.0,
            pass: String::new(),
        }
    }
}

impl Guests {
    /// Issues tickets sealed with `keys`.
    pub fn new(keys: TicketKeys, clock: Clock, random: Random, options: GuestOptions) -> Self {
        let state = Mutex::new(Limiter { random, buckets: BTreeMap::new() });
        Guests(Arc::new(Inner { keys, clock, options, state }))
    }

    fn take(&self, address: IpAddr) -> bool {
        let (now, options) = (self.0.clock.now(), &self.0.options);
        let mut state = self.0.state.lock().expect("no panic while held");
        if state.buckets.len() >= options.addresses_max && !state.buckets.contains_key(&address) {
            let oldest = state.buckets.iter().min_by_key(|(_, bucket)| bucket.at);
            if let Some(oldest) = oldest.map(|(address, _)| *address) {
                state.buckets.remove(&oldest);
            }
        }
        let new = Bucket { tokens: options.burst, at: now };
        let bucket = state.buckets.entry(address).or_insert(new);
        let earned = (now - bucket.at).as_secs_f64() * options.per_second;
        bucket.tokens = (bucket.tokens + earned).min(options.burst);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    /// A ticket and a pass for `account`, or for a new guest.
    fn issue(&self, name: &str, account: Option<AccountId>) -> GrantText {
        let issued = self.0.clock.wall();
        let mut state = self.0.state.lock().expect("no panic while held");
        // Guests get random accounts with the top bit set, apart from numbered ones.
        let account = account.unwrap_or_else(|| AccountId(state.random.u64() | 1 << 63));
        let claims = Claims {
            account,
            level: 0,
            name: name.to_owned(),
            issued,
            expires: env::WallTime(issued.0 + self.0.options.ticket_life.as_millis() as u64),
        };
        let grant = self.0.keys.issue(&mut state.random, claims);
        let pass = STANDARD.encode(self.0.keys.seal_pass(&mut state.random, account));
        GrantText { pass, ..GrantText::new(&grant) }
    }
}

#[derive(Deserialize)]
struct Ask {
    #[serde(default)]
    name: String,
}

#[derive(Serialize)]
struct Fault {
    error: &'static str,
    message: String,
}

/// `POST /ticket/guest?name=…` answers with a [`GrantText`].
///
/// With the header `Authorization: Bearer PASS` the guest is the one who was given that pass
/// before. A pass that does not open is refused with `bad_pass`: it never makes somebody new.
pub fn guest_routes(guests: Guests) -> Router {
    Router::new().route("/ticket/guest", post(grant)).with_state(guests)
}

async fn grant(
    State(guests): State<Guests>,
    Extension(ConnectInfo(peer)): Extension<ConnectInfo<SocketAddr>>,
    Query(ask): Query<Ask>,
    headers: HeaderMap,
) -> Response {
    let name = ask.name.trim();
    if name.chars().count() > guests.0.options.name_chars_max || name.chars().any(char::is_control)
    {
        let message =
            format!("a name has at most {} printable characters", guests.0.options.name_chars_max);
        return fault(StatusCode::BAD_REQUEST, "bad_name", message);
    }
    // Bots of this machine are many; the limit is for strangers.
    if !peer.ip().is_loopback() && !guests.take(peer.ip()) {
        let message = "too many tickets for this address: wait a few seconds".to_owned();
        return fault(StatusCode::TOO_MANY_REQUESTS, "too_many", message);
    }
    let account = match returning(&guests.0.keys, &headers) {
        Ok(account) => account,
        Err(reason) => {
            let message = format!("{reason}; without a pass you are a new guest");
            return fault(StatusCode::FORBIDDEN, "bad_pass", message);
        }
    };
    let name = if name.is_empty() { "guest" } else { name };
    ([(header::CACHE_CONTROL, "no-store")], Json(guests.issue(name, account))).into_response()
}

/// The account of the pass that is shown, if one is.
fn returning(keys: &TicketKeys, headers: &HeaderMap) -> Result<Option<AccountId>, String> {
    let Some(shown) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let pass = shown.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
    let pass = pass.ok_or("the pass is not a bearer token")?;
    let pass = STANDARD.decode(pass.trim()).map_err(|_| "the pass is not base64")?;
    keys.open_pass(&pass).map(Some).map_err(|error| format!("the pass is refused: {error}"))
}

fn fault(status: StatusCode, error: &'static str, message: String) -> Response {
    (status, Json(Fault { error, message })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn a_guest_with_a_pass_is_the_same_account_and_a_bad_pass_is_refused() {
        let keys = TicketKeys::new(vec![(1, [3; 32])]);
        let (clock, _) = Clock::manual(env::WallTime(1_000_000));
        let random = Random::from_seed(1);
        let guests = Guests::new(keys.clone(), clock.clone(), random, GuestOptions::default());
        let account = |text: &GrantText| {
            let ticket = STANDARD.decode(&text.ticket).unwrap();
            keys.open_ticket(&ticket, clock.wall()).unwrap().claims.account
        };
        let (ann, bob) = (guests.issue("ann", None), guests.issue("bob", None));
        assert_ne!(account(&ann), account(&bob));
        let back = returning(&keys, &shown(&format!("Bearer {}", ann.pass))).unwrap();
        assert_eq!(back, Some(account(&ann)));
        let again = guests.issue("ann", back);
        assert_eq!(account(&again), account(&ann));
        assert_ne!(again.session, ann.session);
        assert_eq!(returning(&keys, &HeaderMap::new()), Ok(None));
        let strangers = TicketKeys::new(vec![(1, [4; 32])]);
        for (keys, text) in [
            (&strangers, format!("Bearer {}", ann.pass)),
            (&keys, format!("Bearer {}", ann.ticket)),
            (&keys, "Bearer ?".to_owned()),
            (&keys, format!("Basic {}", ann.pass)),
        ] {
            assert!(returning(keys, &shown(&text)).is_err(), "{text}");
        }
    }
}
