//! Whether a server answers its protocol: the least of each that tells a ready server from a starting one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(5);

fn connect(port: u16) -> Option<TcpStream> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let stream = TcpStream::connect_timeout(&address, WAIT).ok()?;
    stream.set_read_timeout(Some(WAIT)).ok()?;
    stream.set_write_timeout(Some(WAIT)).ok()?;
    Some(stream)
}

/// Sends `request` and gives what comes first.
fn ask(port: u16, request: &[u8]) -> Option<Vec<u8>> {
    let mut stream = connect(port)?;
    stream.write_all(request).ok()?;
    let mut buffer = vec![0; 4096];
    let read = stream.read(&mut buffer).ok()?;
    buffer.truncate(read);
    Some(buffer)
}

fn starts(port: u16, request: &[u8], with: &[u8]) -> bool {
    ask(port, request).is_some_and(|answer| answer.starts_with(with))
}

/// Start-up message of protocol 3.0; a starting server answers with an error (`E`), a ready one with `R`.
pub(crate) fn postgres(port: u16) -> bool {
    let body = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
    let mut message = (body.len() as u32 + 4).to_be_bytes().to_vec();
    message.extend_from_slice(body);
    starts(port, &message, b"R")
}

/// The greeting: a packet header of four bytes, then protocol version 10.
pub(crate) fn mariadb(port: u16) -> bool {
    ask(port, b"").is_some_and(|answer| answer.get(4) == Some(&10))
}

/// A starting server answers `-LOADING`; one that wants a password first is ready.
pub(crate) fn redis(port: u16) -> bool {
    let answer = ask(port, b"PING\r\n").unwrap_or_default();
    answer.starts_with(b"+PONG") || answer.starts_with(b"-NOAUTH")
}

pub(crate) fn etcd(port: u16) -> bool {
    let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let Some(mut stream) = connect(port) else { return false };
    let mut answer = String::new();
    stream.write_all(request).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.contains("\"health\":\"true\"")
}

pub(crate) fn nats(port: u16) -> bool {
    ask(port, b"")
        .is_some_and(|answer| String::from_utf8_lossy(&answer).contains("\"jetstream\":true"))
}

/// The greeting, with or without JetStream.
pub(crate) fn nats_core(port: u16) -> bool {
    starts(port, b"", b"INFO")
}

/// Protocol header of AMQP 0-9-1; the answer is a method frame.
pub(crate) fn rabbitmq(port: u16) -> bool {
    starts(port, b"AMQP\0\0\x09\x01", &[1])
}

/// `OP_MSG` with `{ping: 1, $db: "admin"}`; the answer is another `OP_MSG`.
pub(crate) fn mongo(port: u16) -> bool {
    let mut document = b"\x10ping\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0".to_vec();
    document.splice(0..0, (document.len() as u32 + 4).to_le_bytes());
    let mut message = Vec::new();
    for word in [21 + document.len() as u32, 1, 0, 2013, 0] {
        message.extend_from_slice(&word.to_le_bytes());
    }
    message.push(0);
    message.extend_from_slice(&document);
    ask(port, &message).is_some_and(|answer| answer.get(12..16) == Some(&2013_u32.to_le_bytes()))
}
