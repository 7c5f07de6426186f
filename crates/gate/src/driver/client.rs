use proto::{Reader, put_blob};
use transport::ws::{self, Decoder, Role};
use transport::{Sniff, Token, sniff};

/// Longest WebSocket message taken, in bytes. Frames inside have their own limit.
const MESSAGE_BYTES_MAX: u32 = 1024 * 1024;

/// Answers to pings are left out while this much waits to be written.
const PONG_WIRE_BYTES_MAX: usize = 4096;

/// Limits of what is read of a client that comes from another gate.
const DECODER_BYTES_MAX: usize = 64;
const WIRE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A client's socket.
pub(crate) struct Client {
    pub(crate) token: Token,
    pub(crate) speech: Speech,
    /// What the socket did not take yet; empty as long as it takes everything.
    pub(crate) wire: Vec<u8>,
    /// To be closed when everything is written.
    pub(crate) is_closing: bool,
}

/// What a socket speaks.
pub(crate) enum Speech {
    /// Not known yet; the bytes so far.
    Unknown(Vec<u8>),
    Plain,
    WebSocket(Box<Decoder>),
}

/// What the first bytes of a connection ask for.
pub(crate) enum Opening {
    /// More bytes are needed.
    More,
    /// Frames follow after so many bytes.
    Frames(usize),
    /// Frames in WebSocket messages follow after so many bytes; the answer to send first.
    Messages(usize, Vec<u8>),
    /// Somebody else serves it.
    Http,
    /// The answer to send before closing.
    Refuse(Vec<u8>),
    /// Not for us: close.
    Garbage,
}

impl Client {
    pub(crate) fn new(token: Token) -> Self {
        let speech = Speech::Unknown(Vec::new());
        Client { token, speech, wire: Vec::new(), is_closing: false }
    }

    pub(crate) fn is_web(&self) -> bool {
        matches!(self.speech, Speech::WebSocket(_))
    }

    /// Appends what the next gate must know of it beside what the gate's core knows. `false` if it cannot
    /// go there now.
    pub(crate) fn save(&self, out: &mut Vec<u8>) -> bool {
        let mut decoder = Vec::new();
        let speaks = match &self.speech {
            Speech::Unknown(_) => false,
            Speech::Plain => true,
            Speech::WebSocket(reader) => reader.save(&mut decoder),
        };
        if speaks && !self.is_closing {
            put_blob(out, &decoder);
            put_blob(out, &self.wire);
        }
        speaks && !self.is_closing
    }

    /// A client that comes from another gate, by what [`save`](Self::save) gave there.
    pub(crate) fn restore(token: Token, r: &mut Reader<'_>) -> Option<Client> {
        let speech = match r.blob(DECODER_BYTES_MAX).ok()? {
            [] => Speech::Plain,
            saved => {
                let reader = Decoder::restore(Role::Server, MESSAGE_BYTES_MAX, saved)?;
                Speech::WebSocket(Box::new(reader))
            }
        };
        let wire = r.blob(WIRE_BYTES_MAX).ok()?.to_vec();
        Some(Client { token, speech, wire, is_closing: false })
    }

    /// Appends the answer to a ping, unless the client does not read.
    pub(crate) fn put_pong(&mut self, ping: &ws::Control) {
        if self.wire.len() < PONG_WIRE_BYTES_MAX {
            ws::put_pong(&mut self.wire, ping, None);
        }
    }
}

/// Decides what to do by all the bytes that came so far.
pub(crate) fn open(head: &[u8], options: &ws::UpgradeOptions) -> Opening {
    match sniff(head) {
        Sniff::More => Opening::More,
        Sniff::Preface(used) => Opening::Frames(used),
        Sniff::Unknown => Opening::Garbage,
        Sniff::Http => match ws::upgrade(head, options) {
            ws::Answer::More => Opening::More,
            ws::Answer::Http => Opening::Http,
            ws::Answer::Upgrade { response, used } => Opening::Messages(used, response),
            ws::Answer::Refuse { response, .. } => Opening::Refuse(response),
        },
    }
}

pub(crate) fn decoder() -> Box<Decoder> {
    Box::new(Decoder::new(Role::Server, MESSAGE_BYTES_MAX))
}
