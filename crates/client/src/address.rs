use std::fmt;
use std::str::FromStr;

use transport::ws;

/// Where a gate listens: `tcp://host:port`, or `ws://host:port/path` (path `/play` by default).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
    /// The path of a WebSocket; `None` for plain TCP.
    path: Option<String>,
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address of a gate: {problem}")]
pub struct AddressError {
    text: String,
    problem: &'static str,
}

impl Address {
    /// Plain TCP at `authority` (`host:port`). One that is none fails when it is connected to.
    pub fn tcp(authority: impl AsRef<str>) -> Self {
        Self::lenient("tcp", authority.as_ref(), None)
    }

    /// A WebSocket at `/play` of `authority` (`host:port`, port 80 by default). One that is none
    /// fails when it is connected to.
    pub fn websocket(authority: impl AsRef<str>) -> Self {
        Self::lenient("ws", authority.as_ref(), Some("/play".to_owned()))
    }

    fn lenient(scheme: &str, authority: &str, path: Option<String>) -> Self {
        let parsed = format!("{scheme}://{authority}").parse();
        // No host is called so and no port is 0: resolving it fails and names it.
        parsed.unwrap_or_else(|_| Address { host: authority.to_owned(), port: 0, path })
    }

    /// The host name or IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the upgrade to WebSocket asks for; `None` for plain TCP.
    pub(crate) fn upgrade(&self) -> Option<ws::UpgradeOptions> {
        let path = self.path.clone()?;
        Some(ws::UpgradeOptions { path, ..ws::UpgradeOptions::default() })
    }

    /// Host and port as URLs and `Host` fields show them.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            None => write!(f, "tcp://{}", self.authority()),
            Some(path) => write!(f, "ws://{}{path}", self.authority()),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = |problem| AddressError { text: text.to_owned(), problem };
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| error("write tcp://host:port or ws://host:port/play"))?;
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let path = match (scheme, path) {
            ("tcp", "" | "/") => None,
            ("tcp", _) => return Err(error("tcp has no path")),
            ("ws", "" | "/") => Some("/play".to_owned()),
            ("ws", path) if path.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Some(path.to_owned())
            }
            ("ws", _) => return Err(error("the path has characters that must be escaped")),
            ("wss", _) => return Err(error("TLS is not spoken yet: use ws or tcp")),
            _ => return Err(error("only tcp and ws are spoken")),
        };
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) =
                    rest.split_once(']').ok_or_else(|| error("a bracket is not closed"))?;
                (host, rest.strip_prefix(':'))
            }
            None => match authority.rsplit_once(':') {
                Some((host, _)) if host.contains(':') => {
                    return Err(error("write IPv6 addresses in brackets"));
                }
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = match (port, &path) {
            (Some(port), _) => port.parse().map_err(|_| error("the port is no number"))?,
            (None, Some(_)) => 80,
            (None, None) => return Err(error("the port is missing")),
        };
        let host_ok = |host: &str| !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic());
        if !host_ok(host) || port == 0 {
            return Err(error("the host is missing or the port is 0"));
        }
        Ok(Address { host: host.to_owned(), port, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_made_of_authorities() {
        assert_eq!(Address::tcp("[::1]:70").to_string(), "tcp://[::1]:70");
        assert_eq!(Address::websocket("a").to_string(), "ws://a:80/play");
        assert_eq!(Address::tcp("a b").port(), 0);
    }

    #[test]
    fn addresses_are_read_and_shown() {
        let show = |text: &str| match text.parse::<Address>() {
            Ok(address) => address.to_string(),
            Err(error) => error.to_string(),
        };
        let lines: Vec<_> = [
            "tcp://127.0.0.1:7000",
            "ws://game.example",
            "ws://[::1]:8080/other",
            "tcp://game.example",
            "tcp://::1:70",
            "tcp://a:99999",
            "wss://a",
            "a:70",
            "tcp://:70",
            "tcp://a:70/x",
        ]
        .map(show)
        .join("\n")
        .lines()
        .map(str::to_owned)
        .collect();
        expect_test::expect![[r#"
            tcp://127.0.0.1:7000
            ws://game.example:80/play
            ws://[::1]:8080/other
            "tcp://game.example" is no address of a gate: the port is missing
            "tcp://::1:70" is no address of a gate: write IPv6 addresses in brackets
            "tcp://a:99999" is no address of a gate: the port is no number
            "wss://a" is no address of a gate: TLS is not spoken yet: use ws or tcp
            "a:70" is no address of a gate: write tcp://host:port or ws://host:port/play
            "tcp://:70" is no address of a gate: the host is missing or the port is 0
            "tcp://a:70/x" is no address of a gate: tcp has no path"#]]
        .assert_eq(&lines.join("\n"));
    }
}
