use std::sync::Arc;

use env::Instant;
use transport::ws;

use crate::core::Core;
use crate::event::{Output, Transport};
use crate::{Address, CallError};

/// A [`Core`] together with the framing of its transport: bytes in and out are those of the
/// socket, whether TCP or WebSocket. As pure as the core.
#[derive(Debug)]
pub struct Line {
    core: Core,
    addresses: Arc<[Address]>,
    web_socket: Option<WebSocket>,
}

/// The connection can be used no longer: close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

#[derive(Debug)]
struct WebSocket {
    upgrade: ws::UpgradeOptions,
    nonce: [u8; 16],
    /// What has come of the server's answer; `None` once it is read.
    head: Option<Vec<u8>>,
    decoder: ws::Decoder,
    /// Framed bytes that have not been sent.
    out: Vec<u8>,
}

/// The longest message taken from a server. Its frames may be cut anywhere, so this limits nothing
/// but a length that would overflow.
const MESSAGE_BYTES_MAX: u32 = 1 << 30;

impl Line {
    /// Leads `core` to `addresses`, which are tried in turn.
    ///
    /// # Panics
    ///
    /// Without any address.
    pub fn new(core: Core, addresses: Arc<[Address]>) -> Self {
        assert!(!addresses.is_empty(), "a client needs an address");
        Line { core, addresses, web_socket: None }
    }

    /// The core, to look at.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// The core, to act on. Its inputs and outputs go through this value.
    pub fn core_mut(&mut self) -> &mut Core {
        &mut self.core
    }

    /// What has to be done next, or `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.core.poll_output();
        if let Some(Output::Connect { attempt }) = output {
            self.prepare(attempt);
        }
        output
    }

    /// The address for an attempt to connect.
    pub fn address(&self, attempt: u32) -> &Address {
        &self.addresses[(attempt as usize).wrapping_sub(1) % self.addresses.len()]
    }

    fn prepare(&mut self, attempt: u32) {
        self.web_socket = self.address(attempt).upgrade().map(|upgrade| WebSocket {
            upgrade,
            nonce: self.core.random().bytes(),
            head: Some(Vec::new()),
            decoder: ws::Decoder::new(ws::Role::Client, MESSAGE_BYTES_MAX),
            out: Vec::new(),
        });
    }

    /// The socket is connected to `address(attempt)`.
    pub fn handle_connected(&mut self, now: Instant, attempt: u32) {
        let authority = self.address(attempt).authority();
        match &mut self.web_socket {
            None => self.core.handle_connected(now, Transport::Tcp),
            Some(socket) => {
                socket.out = ws::request(&authority, &socket.upgrade, socket.nonce);
            }
        }
    }

    /// The socket was closed, or could not be connected.
    pub fn handle_closed(&mut self, now: Instant) {
        self.web_socket = None;
        self.core.handle_closed(now);
    }

    /// Bytes of the socket arrived. They are unmasked in place.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the server's WebSocket frames make no sense, or it closed that layer: close
    /// the socket and call [`handle_closed`](Self::handle_closed).
    pub fn handle_bytes(&mut self, now: Instant, bytes: &mut [u8]) -> Result<(), Broken> {
        let Some(socket) = &mut self.web_socket else {
            self.core.handle_bytes(now, bytes);
            return Ok(());
        };
        let Some(head) = &mut socket.head else {
            return self.handle_frames(now, bytes);
        };
        if head.len() + bytes.len() > ws::HEAD_BYTES_MAX + 64 * 1024 {
            return Err(Broken);
        }
        head.extend_from_slice(bytes);
        let used = match ws::check_answer(head, &socket.upgrade, socket.nonce) {
            Ok(None) => return Ok(()),
            Ok(Some(used)) => used,
            Err(_) => return Err(Broken),
        };
        let mut rest = head.split_off(used);
        socket.head = None;
        self.core.handle_connected(now, Transport::WebSocket);
        self.handle_frames(now, &mut rest)
    }

    fn handle_frames(&mut self, now: Instant, mut bytes: &mut [u8]) -> Result<(), Broken> {
        while let Some(socket) = &mut self.web_socket {
            match socket.decoder.next(&mut bytes) {
                Ok(None) => break,
                Ok(Some(ws::Piece::Data(data))) => self.core.handle_bytes(now, data),
                Ok(Some(ws::Piece::Ping(ping))) => {
                    let mask = self.core.random().bytes();
                    ws::put_pong(&mut socket.out, &ping, Some(mask));
                }
                Ok(Some(ws::Piece::Pong)) => {}
                Ok(Some(ws::Piece::Close(_))) | Err(_) => return Err(Broken),
            }
        }
        Ok(())
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.core.handle_timeout(now);
    }

    /// When `handle_timeout` has something to do; `None` if never.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.core.poll_timeout()
    }

    /// The bytes for the socket. Take out what was sent; come back when the socket takes more.
    pub fn outgoing(&mut self) -> &mut Vec<u8> {
        let Some(socket) = &mut self.web_socket else { return self.core.outgoing() };
        if socket.head.is_some() || !socket.out.is_empty() {
            return &mut socket.out;
        }
        let mask = self.core.random().bytes();
        let payload = self.core.outgoing();
        if !payload.is_empty() {
            ws::put_masked(&mut socket.out, payload, mask);
            payload.clear();
        }
        &mut socket.out
    }

    /// Whether bytes wait for the socket.
    pub fn has_outgoing(&self) -> bool {
        self.web_socket.as_ref().is_some_and(|socket| !socket.out.is_empty())
            || self.core.has_outgoing()
    }
}

/// The encoded argument list of a call: a tuple of the arguments, or `()`.
pub fn encode_args<A: proto::Message>(args: &A) -> Vec<u8> {
    const NIL: u8 = 0xc0;
    const EMPTY_LIST: u8 = 0x90;
    let mut body = proto::encode(args);
    if body == [NIL] {
        body[0] = EMPTY_LIST;
    }
    body
}

/// Reads an encoded answer.
///
/// # Errors
///
/// [`CallError::BadReply`] if it is none of type `R`.
pub fn decode_reply<R: proto::Message>(result: Result<Vec<u8>, CallError>) -> Result<R, CallError> {
    result.and_then(|body| proto::decode(&body).map_err(CallError::BadReply))
}

#[cfg(test)]
mod tests {
    use env::Random;

    use super::*;
    use crate::fake::{FakeServer, STREAM, method};
    use crate::{Event, Grant, Identity, Limits};

    const NOW: Instant = Instant::from_nanos(1_000_000_000);

    fn line() -> Line {
        let (session, expires) = (Default::default(), env::WallTime(u64::MAX));
        let grant = Grant { ticket: b"ada".to_vec(), secret: [7; 32], session, expires };
        let random = Random::from_seed(1);
        let mut core = Core::new(Identity::default(), Limits::default(), grant, random);
        core.start(NOW);
        Line::new(core, ["ws://game.example/play".parse().unwrap()].into())
    }

    /// What the line sends next.
    fn outgoing(line: &mut Line) -> Vec<u8> {
        while line.poll_output().is_some() {}
        std::mem::take(line.outgoing())
    }

    /// Connects `line` and gives the server's answer to its upgrade.
    fn upgrade(line: &mut Line) -> Vec<u8> {
        let attempt = match line.poll_output() {
            Some(Output::Connect { attempt }) => attempt,
            other => panic!("{other:?} instead of a connect"),
        };
        line.handle_connected(NOW, attempt);
        let request = outgoing(line);
        match ws::upgrade(&request, &ws::UpgradeOptions::default()) {
            ws::Answer::Upgrade { response, used } if used == request.len() => response,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn websocket_bytes_may_be_cut_anywhere() {
        for piece in [1, 2, 3, 7, usize::MAX] {
            let mut line = line();
            let response = upgrade(&mut line);
            let mut server = FakeServer::default();
            server.open(1, true);
            let mut decoder = ws::Decoder::new(ws::Role::Server, 64 * 1024);
            let mut down = response;
            for round in 0..50 {
                for bytes in std::mem::take(&mut down).chunks_mut(piece.min(4096)) {
                    line.handle_bytes(NOW, bytes).unwrap();
                }
                if round == 10 {
                    line.core_mut().request(NOW, STREAM, method::ECHO, b"hello", None).unwrap();
                    // A ping of the WebSocket layer is answered there.
                    down.extend_from_slice(&[0x89, 0x02, b'h', b'i']);
                }
                let mut up = outgoing(&mut line);
                let mut up = &mut up[..];
                while let Some(found) = decoder.next(&mut up).unwrap() {
                    if let ws::Piece::Data(data) = found {
                        server.handle_bytes(1, data);
                    }
                }
                let from = down.len();
                down.extend_from_slice(&server.take_output(1).0);
                ws::wrap_binary(&mut down, from);
            }
            let mut answered = false;
            while let Some(event) = line.core_mut().poll_event() {
                answered |=
                    matches!(event, Event::Reply { result: Ok(body), .. } if body == b"hello");
            }
            assert!(answered, "pieces of {piece} bytes");
        }
    }

    #[test]
    fn a_server_that_is_no_websocket_breaks_the_line() {
        let answers: [&[u8]; 3] = [
            b"HTTP/1.1 404 Not Found\r\n\r\n",
            b"MSY1 nonsense\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        ];
        for answer in answers {
            let mut line = line();
            upgrade(&mut line);
            assert_eq!(line.handle_bytes(NOW, &mut answer.to_vec()), Err(Broken));
            line.handle_closed(NOW);
            assert!(matches!(line.core_mut().poll_event(), Some(Event::Retry { attempt: 2, .. })));
        }
        let mut line = line();
        upgrade(&mut line);
        // A head that never ends is not collected for ever.
        let mut endless = vec![b'x'; 64 * 1024];
        let broken = (0..3).any(|_| line.handle_bytes(NOW, &mut endless) == Err(Broken));
        assert!(broken);
        let mut line = self::line();
        let mut response = upgrade(&mut line);
        // Masked frames never come from a server.
        response.extend_from_slice(&[0x82, 0x81, 1, 2, 3, 4, 5]);
        assert_eq!(line.handle_bytes(NOW, &mut response), Err(Broken));
    }
}
