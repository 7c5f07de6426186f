//! WebSocket (RFC 6455): the handshake and the frames, without sockets.
