use env::{FastMap, Instant};
use proto::Incarnation;
use transport::memory::End;
use transport::{Board, Event, Sockets, Token, Write};

use crate::{LinkId, Mesh, Output};

/// Most bytes that a pipe between two workers of one process holds each way.
const PIPE_BYTES_MAX: usize = 1024 * 1024;

/// Moves bytes between the links of one worker's [`Mesh`] and its [`Sockets`].
///
/// Gates and nodes drive their meshes with it alike: events of sockets go to
/// [`handle_event`](Self::handle_event), and once a turn [`flush`](Self::flush) does what the
/// mesh wants. Nodes of the same process are reached by pipes over a [`Board`].
#[derive(Debug)]
pub struct Wires {
    board: Board,
    links: FastMap<Token, LinkId>,
    wires: FastMap<LinkId, Wire>,
}

#[derive(Clone, Copy, Debug)]
struct Wire {
    token: Token,
    /// The socket takes no more; it will say when it does.
    is_blocked: bool,
}

/// What an event was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Not about a link.
    Other,
    /// It is done with.
    Done,
    /// Read from the token and hand what comes to [`Mesh::next_frame`] for the link. When reading
    /// says that the socket is closed, call [`Wires::handle_closed`].
    Readable(Token, LinkId),
}

/// Whether a node can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerChange {
    /// Frames to and from the node go through.
    Up(Incarnation),
    /// What was sent to the node and not answered may be lost, as may be what it sent.
    Down(Incarnation),
}

impl Wires {
    /// Without links. `board` is that of the process.
    pub fn new(board: Board) -> Self {
        Wires { board, links: FastMap::default(), wires: FastMap::default() }
    }

    /// Takes a connection that came in on the mesh's own port. Closes it if a limit is reached.
    pub fn accept(&mut self, now: Instant, mesh: &mut Mesh, sockets: &mut Sockets, token: Token) {
        match mesh.handle_accepted(now) {
            Ok(link) => self.insert(token, link),
            Err(error) => {
                tracing::warn!(%error, "a link is refused");
                sockets.close(token);
            }
        }
    }

    /// Takes a pipe that another worker of this process has dialed.
    pub fn accept_pipe(&mut self, now: Instant, mesh: &mut Mesh, sockets: &mut Sockets, end: End) {
        match sockets.adopt_pipe(end) {
            Ok(token) => self.accept(now, mesh, sockets, token),
            Err(error) => tracing::warn!(%error, "a pipe is refused"),
        }
    }

    /// The link that a socket carries.
    pub fn link(&self, token: Token) -> Option<LinkId> {
        self.links.get(&token).copied()
    }

    /// How many links have a socket.
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// Whether there are no links.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Whether a socket has not taken everything that was to be written.
    pub fn is_blocked(&self) -> bool {
        self.wires.values().any(|wire| wire.is_blocked)
    }

    /// Takes an event of the sockets, if it is about a link.
    pub fn handle_event(
        &mut self,
        now: Instant,
        mesh: &mut Mesh,
        sockets: &mut Sockets,
        event: &Event,
    ) -> Heard {
        let token = match event {
            Event::Readable(token) | Event::Writable(token) | Event::Connected(token) => *token,
            Event::ConnectFailed(token, _) => *token,
            Event::Accepted { .. } | Event::Woken | Event::Timer => return Heard::Other,
        };
        let Some(link) = self.link(token) else { return Heard::Other };
        match event {
            Event::Readable(_) => return Heard::Readable(token, link),
            Event::Connected(_) => mesh.handle_connected(now, link),
            Event::ConnectFailed(_, error) => {
                tracing::debug!(%error, "a link cannot be made");
                self.remove(link);
                mesh.handle_connect_failed(now, link);
            }
            _ => {
                if let Some(wire) = self.wires.get_mut(&link) {
                    wire.is_blocked = false;
                }
                self.write(now, mesh, sockets, link);
            }
        }
        Heard::Done
    }

    /// The socket of a link is closed or broken.
    pub fn handle_closed(
        &mut self,
        now: Instant,
        mesh: &mut Mesh,
        sockets: &mut Sockets,
        token: Token,
    ) {
        sockets.close(token);
        if let Some(link) = self.link(token) {
            self.remove(link);
            mesh.handle_closed(now, link);
        }
    }

    /// Does what the mesh wants done: dials, writes, closes. `changed` hears of nodes that come
    /// and go.
    pub fn flush(
        &mut self,
        now: Instant,
        mesh: &mut Mesh,
        sockets: &mut Sockets,
        mut changed: impl FnMut(PeerChange),
    ) {
        while let Some(output) = mesh.poll_output() {
            match output {
                Output::Flush(link) => self.write(now, mesh, sockets, link),
                Output::Close(link) => {
                    if let Some(wire) = self.remove(link) {
                        sockets.close(wire.token);
                    }
                }
                Output::Dial { link, to, address } => {
                    let token = match address {
                        Some(address) => sockets.connect(address).ok(),
                        None => self
                            .board
                            .dial(to.0, mesh.me().worker, PIPE_BYTES_MAX)
                            .and_then(|end| sockets.adopt_pipe(end).ok()),
                    };
                    match token {
                        Some(token) => {
                            self.insert(token, link);
                            if address.is_none() {
                                mesh.handle_connected(now, link);
                            }
                        }
                        None => mesh.handle_connect_failed(now, link),
                    }
                }
                Output::PeerUp(node) => changed(PeerChange::Up(node)),
                Output::PeerDown(node) => changed(PeerChange::Down(node)),
            }
        }
    }

    fn write(&mut self, now: Instant, mesh: &mut Mesh, sockets: &mut Sockets, link: LinkId) {
        let Some(wire) = self.wires.get_mut(&link) else { return };
        if wire.is_blocked {
            return;
        }
        match sockets.write(wire.token, mesh.output(link)) {
            Write::All => {}
            Write::Partial => wire.is_blocked = true,
            Write::Closed(_) => {
                let token = wire.token;
                self.handle_closed(now, mesh, sockets, token);
            }
        }
    }

    fn insert(&mut self, token: Token, link: LinkId) {
        self.links.insert(token, link);
        self.wires.insert(link, Wire { token, is_blocked: false });
    }

    fn remove(&mut self, link: LinkId) -> Option<Wire> {
        let wire = self.wires.remove(&link)?;
        self.links.remove(&wire.token);
        Some(wire)
    }
}
