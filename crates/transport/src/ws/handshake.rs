use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

/// The longest head of an upgrade request or answer, in bytes.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;

/// The most header fields of an upgrade request or answer.
pub const HEADERS_MAX: usize = 64;

/// What a server takes upgrades for.
#[derive(Clone, Debug)]
pub struct UpgradeOptions {
    /// The path, without query.
    pub path: String,
    /// The subprotocol that both must name.
    pub protocol: String,
    /// The origins that browsers may come from, as `https://game.example`; empty lets all in.
    /// Requests without an origin do not come from a browser's page and are let in.
    pub origins: Vec<String>,
}

impl Default for UpgradeOptions {
    /// `/play`, `mainstay.1`, any origin.
    fn default() -> Self {
        let (path, protocol) = ("/play".into(), "mainstay.1".into());
        UpgradeOptions { path, protocol, origins: Vec::new() }
    }
}

/// What to do with a connection that speaks HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// More of the head is needed. The caller keeps what came, and the time.
    More,
    /// No upgrade for us: hand the socket to the HTTP server with all bytes read so far.
    Http,
    /// Send `response`; frames follow after the first `used` bytes of the input.
    Upgrade {
        /// The whole answer.
        response: Vec<u8>,
        /// How long the request was.
        used: usize,
    },
    /// Send `response` and close.
    Refuse {
        /// The status code, for counters.
        status: u16,
        /// The whole answer.
        response: Vec<u8>,
    },
}

/// Reads the head of a request, all of it that has arrived.
///
/// Anything but a request for our path goes to the HTTP server as soon as the path is known.
pub fn upgrade(head: &[u8], options: &UpgradeOptions) -> Answer {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(&head[..head.len().min(HEAD_BYTES_MAX)]);
    let path = request.path.map(|target| target.split('?').next().unwrap_or(target));
    if path.is_some_and(|path| path != options.path) {
        return Answer::Http;
    }
    let used = match parsed {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) if head.len() < HEAD_BYTES_MAX => return Answer::More,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return refuse(431, "Request Header Fields Too Large", "the head is too long");
        }
        Err(_) => return refuse(400, "Bad Request", "this is not HTTP/1.1"),
    };
    let fields = Fields(request.headers);
    if !fields.lists("upgrade", "websocket") {
        return Answer::Http;
    }
    match check_request(&request, options) {
        Ok(key) => {
            let response = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\
                 Sec-WebSocket-Protocol: {}\r\n\r\n",
                accept_of(key),
                options.protocol,
            );
            Answer::Upgrade { response: response.into_bytes(), used }
        }
        Err(answer) => answer,
    }
}

/// The key of a good request, or what to answer to a bad one.
fn check_request<'h>(
    request: &httparse::Request<'_, 'h>,
    options: &UpgradeOptions,
) -> Result<&'h str, Answer> {
    let fields = Fields(request.headers);
    let bad = |text| Err(refuse(400, "Bad Request", text));
    if request.method != Some("GET") || request.version != Some(1) {
        return bad("an upgrade is a GET of HTTP/1.1");
    }
    if fields.one("host").is_none() || !fields.lists("connection", "upgrade") {
        return bad("Host and Connection: Upgrade are needed");
    }
    if fields.one("sec-websocket-version") != Some("13") {
        let text = "only version 13 is spoken";
        return Err(answer(426, "Upgrade Required", "Sec-WebSocket-Version: 13\r\n", text));
    }
    let Some(key) = fields.one("sec-websocket-key") else {
        return bad("one Sec-WebSocket-Key is needed");
    };
    if !STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16) {
        return bad("Sec-WebSocket-Key is not 16 bytes in base64");
    }
    if let Some(origin) = fields.any("origin") {
        let is_known = |known: &String| known.eq_ignore_ascii_case(origin);
        if !options.origins.is_empty() && !options.origins.iter().any(is_known) {
            return Err(refuse(403, "Forbidden", "this origin may not play here"));
        }
    }
    if !fields.lists("sec-websocket-protocol", &options.protocol) {
        let text = "the client and this server speak no common subprotocol";
        return Err(refuse(400, "Bad Request", text));
    }
    Ok(key)
}

fn refuse(status: u16, name: &str, text: &str) -> Answer {
    answer(status, name, "", text)
}

fn answer(status: u16, name: &str, fields: &str, text: &str) -> Answer {
    let response = format!(
        "HTTP/1.1 {status} {name}\r\n{fields}Content-Type: text/plain\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{text}\n",
        text.len() + 1,
    );
    Answer::Refuse { status, response: response.into_bytes() }
}

/// Header fields, looked up by lower-case names.
#[derive(Clone, Copy)]
struct Fields<'a, 'h>(&'a [httparse::Header<'h>]);

impl<'a, 'h> Fields<'a, 'h> {
    fn all(self, name: &'a str) -> impl Iterator<Item = &'h str> + 'a {
        let named = self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        named.filter_map(|field| std::str::from_utf8(field.value).ok()).map(str::trim)
    }

    /// The value of a field that may stand there once only.
    fn one(self, name: &'a str) -> Option<&'h str> {
        let mut all = self.all(name);
        all.next().filter(|_| all.next().is_none())
    }

    fn any(self, name: &'a str) -> Option<&'h str> {
        self.all(name).next()
    }

    /// Whether a field that holds a list holds `item`.
    fn lists(self, name: &'a str, item: &str) -> bool {
        let mut items = self.all(name).flat_map(|value| value.split(',')).map(str::trim);
        items.any(|found| found.eq_ignore_ascii_case(item))
    }
}

/// The answer to a key (RFC 6455, 4.2.2).
fn accept_of(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

/// Why a server's answer to an upgrade is no upgrade.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The server answered with another status: its text may say why.
    #[error("the server answered with status {0} instead of 101")]
    Status(u16),
    /// What came is no HTTP, or too long.
    #[error("the server's answer is not HTTP")]
    NotHttp,
    /// A field that must be there is missing or wrong.
    #[error("the server's answer has a wrong or no {0}")]
    Field(&'static str),
}

/// A client's request. `nonce` must be 16 fresh random bytes; `host` is what the URL says.
pub fn request(host: &str, options: &UpgradeOptions, nonce: [u8; 16]) -> Vec<u8> {
    let UpgradeOptions { path, protocol, origins } = options;
    let origin = origins.first().map(|origin| format!("Origin: {origin}\r\n")).unwrap_or_default();
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {}\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: {protocol}\r\n{origin}\r\n",
        STANDARD.encode(nonce),
    )
    .into_bytes()
}

/// Reads a server's answer, all of it that has arrived: how long it is, or `None` if more is
/// needed.
///
/// # Errors
///
/// See [`UpgradeError`]: close the connection.
pub fn check_answer(
    head: &[u8],
    options: &UpgradeOptions,
    nonce: [u8; 16],
) -> Result<Option<usize>, UpgradeError> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let used = match response.parse(&head[..head.len().min(HEAD_BYTES_MAX)]) {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) if head.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) | Err(_) => return Err(UpgradeError::NotHttp),
    };
    match response.code {
        Some(101) => {}
        Some(status) => return Err(UpgradeError::Status(status)),
        None => return Err(UpgradeError::NotHttp),
    }
    let fields = Fields(response.headers);
    if !fields.lists("upgrade", "websocket") || !fields.lists("connection", "upgrade") {
        return Err(UpgradeError::Field("Upgrade"));
    }
    if fields.one("sec-websocket-accept") != Some(&accept_of(&STANDARD.encode(nonce))) {
        return Err(UpgradeError::Field("Sec-WebSocket-Accept"));
    }
    if fields.one("sec-websocket-protocol") != Some(&options.protocol) {
        return Err(UpgradeError::Field("Sec-WebSocket-Protocol"));
    }
    if fields.any("sec-websocket-extensions").is_some() {
        return Err(UpgradeError::Field("Sec-WebSocket-Extensions"));
    }
    Ok(Some(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "GET /play?x=1 HTTP/1.1\r\nHost: game.example\r\nUpgrade: WebSocket\r\n\
        Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat, mainstay.1\r\n\
        Origin: https://game.example\r\n\r\n";

    fn status(head: &str, options: &UpgradeOptions) -> String {
        match upgrade(head.as_bytes(), options) {
            Answer::Refuse { status, response } => {
                let text = String::from_utf8(response).unwrap();
                assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
                assert!(text.contains("Connection: close\r\n"), "{text}");
                status.to_string()
            }
            Answer::Upgrade { .. } => "101".into(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn the_example_of_the_rfc_is_answered() {
        let mut bytes = GOOD.as_bytes().to_vec();
        bytes.extend_from_slice(b"\x82\x80first frame");
        let Answer::Upgrade { response, used } = upgrade(&bytes, &UpgradeOptions::default()) else {
            panic!()
        };
        assert_eq!(used, GOOD.len());
        let text = String::from_utf8(response).unwrap();
        assert!(text.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{text}");
        assert!(text.contains("Sec-WebSocket-Protocol: mainstay.1\r\n"), "{text}");
    }

    #[test]
    fn every_prefix_asks_for_more() {
        for end in 0..GOOD.len() {
            assert_eq!(
                upgrade(&GOOD.as_bytes()[..end], &UpgradeOptions::default()),
                Answer::More,
                "{end}"
            );
        }
    }

    #[test]
    fn bad_requests_get_the_right_status() {
        let options =
            UpgradeOptions { origins: vec!["https://game.example".into()], ..Default::default() };
        let with = |from: &str, to: &str| {
            assert!(GOOD.contains(from));
            status(&GOOD.replace(from, to), &options)
        };
        assert_eq!(status(GOOD, &options), "101");
        assert_eq!(with("Origin: https://game.example\r\n", ""), "101");
        assert_eq!(with("Origin: https://game", "Origin: https://evil"), "403");
        assert_eq!(with("Origin: https://game.example", "Origin: null"), "403");
        assert_eq!(with("Version: 13", "Version: 8"), "426");
        assert_eq!(with("Sec-WebSocket-Version: 13\r\n", ""), "426");
        assert_eq!(with("GET", "POST"), "400");
        assert_eq!(with("HTTP/1.1", "HTTP/1.0"), "400");
        assert_eq!(with("keep-alive, Upgrade", "close"), "400");
        assert_eq!(with("Host: game.example\r\n", ""), "400");
        assert_eq!(with("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="), "400");
        assert_eq!(
            with("Sec-WebSocket-Key: ", "Sec-WebSocket-Key: x\r\nSec-WebSocket-Key: "),
            "400"
        );
        assert_eq!(with("chat, mainstay.1", "chat"), "400");
        assert_eq!(with("Host: ", "Ho\0st: "), "400");
        assert_eq!(with("Host: ", &format!("X: {}\r\nHost: ", "y".repeat(9000))), "431");
        assert_eq!(with("Host: ", &format!("{}Host: ", "X: y\r\n".repeat(70))), "431");
    }

    #[test]
    fn other_requests_go_to_the_http_server() {
        let options = UpgradeOptions::default();
        assert_eq!(status("GET /health HT", &options), "Http");
        assert_eq!(status("POST /login HTTP/1.1\r\nHost: x\r\n\r\n", &options), "Http");
        let long = format!("GET /x HTTP/1.1\r\nCookie: {}", "y".repeat(9000));
        assert_eq!(status(&long, &options), "Http");
        let plain = GOOD.replace("Upgrade: WebSocket\r\n", "");
        assert_eq!(status(&plain, &options), "Http");
        // A path that never ends does not wait for ever.
        assert_eq!(status(&format!("GET /{}", "y".repeat(9000)), &options), "431");
    }

    #[test]
    fn client_and_server_agree() {
        let options = UpgradeOptions::default();
        let nonce = *b"the sample nonce";
        let head = request("game.example", &options, nonce);
        let Answer::Upgrade { response, used } = upgrade(&head, &options) else { panic!() };
        assert_eq!(used, head.len());
        for end in 0..response.len() {
            assert_eq!(check_answer(&response[..end], &options, nonce), Ok(None));
        }
        assert_eq!(check_answer(&response, &options, nonce), Ok(Some(response.len())));
        let wrong = check_answer(&response, &options, [0; 16]);
        assert_eq!(wrong, Err(UpgradeError::Field("Sec-WebSocket-Accept")));
        let refused = b"HTTP/1.1 403 Forbidden\r\n\r\n";
        assert_eq!(check_answer(refused, &options, nonce), Err(UpgradeError::Status(403)));
        assert_eq!(check_answer(b"SSH-2.0\r\n", &options, nonce), Err(UpgradeError::NotHttp));
    }
}
