use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::Grant;
use env::{Clock, Random, WallTime};
use proto::ticket::{Claims, TicketKeys};
use proto::{AccountId, SessionId};

/// Where bots get their tickets. Runs in a thread of its own and may block.
pub trait GrantSource: Send {
    /// A grant for bot `index`. Asked again for each login.
    ///
    /// # Errors
    ///
    /// Why there is none now; the bot asks again later.
    fn grant(&mut self, index: u32) -> Result<Grant, GrantError>;
}

/// Why there is no ticket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// The login service could not be reached or broke off: try again.
    #[error("the login service does not answer: {0}")]
    Io(#[from] std::io::Error),
    /// It answered with an error.
    #[error("the login service answered {status}: {text}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The start of what it said.
        text: String,
    },
    /// Its answer is no grant.
    #[error("the login service's answer is no grant: {0}")]
    Malformed(String),
    /// The address of the login service cannot be used.
    #[error("{0:?} is no address of a login service: write http://host:port")]
    Address(String),
}

/// Seals tickets itself, with the cluster's keys: for tests and benchmarks.
#[derive(Debug)]
pub struct KeyGrants {
    keys: TicketKeys,
    clock: Clock,
    random: Random,
    /// Bot `n` gets account `first_account + n`.
    first_account: u64,
    /// How long a ticket is good.
    life: Duration,
}

impl KeyGrants {
    /// Bot `n` plays account `first_account + n`.
    pub fn new(keys: TicketKeys, clock: Clock, first_account: u64) -> Self {
        let life = Duration::from_secs(300);
        KeyGrants { keys, clock, random: Random::from_os(), first_account, life }
    }
}

impl GrantSource for KeyGrants {
    fn grant(&mut self, index: u32) -> Result<Grant, GrantError> {
        let issued = self.clock.wall();
        let claims = Claims {
            account: AccountId(self.first_account + u64::from(index)),
            level: 0,
            name: format!("bot-{index}"),
            issued,
            expires: WallTime(issued.0 + self.life.as_millis() as u64),
        };
        Ok(self.keys.issue(&mut self.random, claims))
    }
}

/// Asks a login service for guest tickets: `POST /ticket/guest` over one kept connection.
///
/// A bot that logs in again shows the pass that it was given, and is the same guest as before.
#[derive(Debug)]
pub struct GuestGrants {
    authority: String,
    connection: Option<BufReader<TcpStream>>,
    wait: Duration,
    passes: BTreeMap<u32, String>,
}

/// The longest line of an HTTP head, the most lines, and the longest body that are read.
const LINE_BYTES_MAX: u64 = 8 * 1024;
const LINES_MAX: usize = 64;
const BODY_BYTES_MAX: usize = 16 * 1024;

impl GuestGrants {
    /// Asks the service at `url` (`http://host:port`).
    ///
    /// # Errors
    ///
    /// `Address` if that is no such URL.
    pub fn new(url: &str) -> Result<Self, GrantError> {
        let bad = || GrantError::Address(url.to_owned());
        let authority = url.strip_prefix("http://").ok_or_else(bad)?.trim_end_matches('/');
        if authority.is_empty() || authority.contains(['/', ' ', '\r', '\n']) {
            return Err(bad());
        }
        let has_port = authority.rsplit(']').next().is_some_and(|end| end.contains(':'));
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        Ok(GuestGrants {
            authority,
            connection: None,
            wait: Duration::from_secs(5),
            passes: BTreeMap::new(),
        })
    }

    fn connect(&mut self) -> Result<BufReader<TcpStream>, GrantError> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let mut last = std::io::Error::other("the host has no address");
        for address in self.authority.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, self.wait) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(self.wait))?;
                    stream.set_write_timeout(Some(self.wait))?;
                    return Ok(BufReader::new(stream));
                }
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }

    fn ask(&mut self, index: u32) -> Result<(u16, Vec<u8>), GrantError> {
        let mut connection = self.connect()?;
        let pass = self.passes.get(&index);
        let pass = pass.map_or(String::new(), |pass| format!("Authorization: Bearer {pass}\r\n"));
        let request = format!(
            "POST /ticket/guest?name=bot-{index} HTTP/1.1\r\nHost: {}\r\n{pass}Content-Length: 0\r\n\r\n",
            self.authority
        );
        connection.get_mut().write_all(request.as_bytes())?;
        let (status, length, keep) = read_head(&mut connection)?;
        let mut body = vec![0; length];
        connection.read_exact(&mut body)?;
        if keep {
            self.connection = Some(connection);
        }
        Ok((status, body))
    }
}

impl GrantSource for GuestGrants {
    fn grant(&mut self, index: u32) -> Result<Grant, GrantError> {
        let reused = self.connection.is_some();
        let (status, body) = match self.ask(index) {
            // The service may have closed the kept connection just then.
            Err(GrantError::Io(_)) if reused => self.ask(index)?,
            result => result?,
        };
        if status != 200 {
            let text = String::from_utf8_lossy(&body).chars().take(200).collect();
            return Err(GrantError::Refused { status, text });
        }
        let (grant, pass) = read_grant(&body)?;
        if let Some(pass) = pass {
            self.passes.insert(index, pass);
        }
        Ok(grant)
    }
}

/// The status, the length of the body, and whether the connection is kept.
fn read_head(connection: &mut BufReader<TcpStream>) -> Result<(u16, usize, bool), GrantError> {
    let malformed = |text: &str| GrantError::Malformed(text.to_owned());
    let mut line = || -> Result<String, GrantError> {
        let mut line = String::new();
        if connection.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        Ok(line.trim_end().to_owned())
    };
    let first = line()?;
    let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| malformed("no status line"))?;
    let (mut length, mut keep) = (None, true);
    for _ in 0..LINES_MAX {
        let field = line()?;
        if field.is_empty() {
            let length: usize = length.ok_or_else(|| malformed("no Content-Length"))?;
            if length > BODY_BYTES_MAX {
                return Err(malformed("the body is too long"));
            }
            return Ok((status, length, keep));
        }
        let (name, value) = field.split_once(':').ok_or_else(|| malformed("no header field"))?;
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok();
        } else if name.eq_ignore_ascii_case("connection") {
            keep = !value.trim().eq_ignore_ascii_case("close");
        }
    }
    Err(malformed("too many header fields"))
}

#[derive(serde::Deserialize)]
struct GrantText {
    ticket: String,
    secret: String,
    session: String,
    expires_ms: u64,
    #[serde(default)]
    pass: Option<String>,
}

fn read_grant(body: &[u8]) -> Result<(Grant, Option<String>), GrantError> {
    let malformed = |what: String| GrantError::Malformed(what);
    let text: GrantText =
        serde_json::from_slice(body).map_err(|error| malformed(error.to_string()))?;
    let ticket = STANDARD.decode(&text.ticket).map_err(|error| malformed(error.to_string()))?;
    let secret = STANDARD.decode(&text.secret).map_err(|error| malformed(error.to_string()))?;
    let secret = secret.try_into().map_err(|_| malformed("the secret has 32 bytes".into()))?;
    let session = read_session(&text.session).ok_or_else(|| malformed("no session id".into()))?;
    let grant = Grant { ticket, secret, session, expires: WallTime(text.expires_ms) };
    // It goes into a header, so it must not end one.
    let pass = text.pass.filter(|pass| pass.bytes().all(|byte| byte.is_ascii_graphic()));
    Ok((grant, pass))
}

fn read_session(text: &str) -> Option<SessionId> {
    let mut id = [0; 16];
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(SessionId(id))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers each request on each connection with the next of `answers`.
    fn serve(answers: Vec<String>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let mut answers = answers.into_iter().peekable();
            while answers.peek().is_some() {
                let (stream, _) = listener.accept().unwrap();
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).is_ok_and(|len| len > 0) {
                    if line.ends_with("\r\n\r\n") {
                        assert!(line.starts_with("POST /ticket/guest?name=bot-"), "{line}");
                        line.clear();
                        let Some(answer) = answers.next() else { return };
                        let _ = stream.get_mut().write_all(answer.as_bytes());
                        if answer.contains("close") || answer.is_empty() {
                            break;
                        }
                    }
                }
            }
        });
        url
    }

    fn http(status: &str, fields: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{fields}\r\n{body}", body.len())
    }

    #[test]
    fn guest_tickets_come_over_a_kept_connection() {
        let secret = STANDARD.encode([5; 32]);
        let body = format!(
            r#"{{"ticket":"AQID","secret":"{secret}","session":"{}","account":9,"expires_ms":77}}"#,
            "0f".repeat(16)
        );
        let good = http("200 OK", "", &body);
        let url = serve(vec![
            good.clone(),
            http("429 Too Many Requests", "", "wait"),
            http("200 OK", "connection: close\r\n", &body),
            // The kept connection is closed just when it is used again.
            good.clone(),
            String::new(),
            good,
            http("200 OK", "", "{}"),
            "nonsense\r\n\r\n".to_owned(),
        ]);
        let mut grants = GuestGrants::new(&url).unwrap();
        let grant = grants.grant(1).unwrap();
        assert_eq!((grant.ticket, grant.secret), (vec![1, 2, 3], [5; 32]));
        assert_eq!((grant.session, grant.expires), (SessionId([15; 16]), WallTime(77)));
        let refused = grants.grant(2).unwrap_err().to_string();
        assert_eq!(refused, "the login service answered 429: wait");
        assert!(grants.grant(3).is_ok());
        assert!(grants.grant(4).is_ok());
        assert!(grants.grant(5).is_ok());
        assert!(matches!(grants.grant(6), Err(GrantError::Malformed(_))));
        assert!(matches!(grants.grant(7), Err(GrantError::Malformed(_))));
    }

    #[test]
    fn addresses_of_login_services_are_checked() {
        assert!(GuestGrants::new("http://localhost").is_ok());
        assert_eq!(GuestGrants::new("http://[::1]").unwrap().authority, "[::1]:80");
        for bad in ["localhost:80", "https://a", "http://", "http://a/b"] {
            assert!(matches!(GuestGrants::new(bad), Err(GrantError::Address(_))), "{bad}");
        }
    }

    #[test]
    fn own_tickets_can_be_opened() {
        let keys = TicketKeys::new(vec![(1, [9; 32])]);
        let (clock, _) = Clock::manual(WallTime(1_000_000));
        let grant = KeyGrants::new(keys.clone(), clock, 100).grant(7).unwrap();
        let opened = keys.open_ticket(&grant.ticket, WallTime(1_000_001)).unwrap();
        assert_eq!(opened.claims.account, AccountId(107));
    }
}
