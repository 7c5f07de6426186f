use std::io;
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, watch};

/// Limits of the HTTP server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections served at a time; further ones are closed at once.
    pub connections_max: usize,
    /// Longest request body, in bytes.
    pub body_bytes_max: usize,
    /// Longest request head, in bytes.
    pub head_bytes_max: usize,
    /// How long a request head may take, and how long a connection may idle between requests.
    pub head_wait: Duration,
    /// How long stopping waits for requests under way.
    pub stop_wait: Duration,
}

impl Default for Options {
    /// 1,024 connections, 1 MiB bodies, 16 KiB heads within 5 s, 5 s to stop.
    fn default() -> Self {
        Options {
            connections_max: 1024,
            body_bytes_max: 1 << 20,
            head_bytes_max: 16 * 1024,
            head_wait: Duration::from_secs(5),
            stop_wait: Duration::from_secs(5),
        }
    }
}

/// A connection was not taken: too many are open, or the server is stopping.
#[derive(Debug, thiserror::Error)]
#[error("http server is full or stopping; the connection was closed")]
pub struct Refused;

/// Serves connections that somebody else accepted, on a thread of its own.
///
/// A cheap clone; the server stops when [`stop`](Server::stop) is called.
#[derive(Clone, Debug)]
pub struct Server {
    queue: mpsc::Sender<(TcpStream, Vec<u8>)>,
    open: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    connections_max: usize,
}

impl Server {
    /// Starts the thread. Handlers may extract `ConnectInfo<SocketAddr>`.
    ///
    /// # Errors
    ///
    /// If the thread or its runtime cannot be made.
    pub fn start(router: Router, options: Options) -> io::Result<(Server, JoinHandle<()>)> {
        let (queue, connections) = mpsc::channel(256);
        let (stop, stopped) = watch::channel(false);
        let open = Arc::new(AtomicUsize::new(0));
        let server =
            Server { queue, open: open.clone(), stop, connections_max: options.connections_max };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let router = router.layer(DefaultBodyLimit::max(options.body_bytes_max));
        let thread = std::thread::Builder::new().name("web".to_owned()).spawn(move || {
            let loop_ = Loop { router, options, open, stopped };
            runtime.block_on(loop_.run(connections));
        })?;
        Ok((server, thread))
    }

    /// Hands over a connection with the bytes that were read from it already. Never blocks.
    ///
    /// # Errors
    ///
    /// `Refused` if too many are open; the connection is closed.
    pub fn serve(&self, stream: TcpStream, read: Vec<u8>) -> Result<(), Refused> {
        if self.open.load(Ordering::Relaxed) >= self.connections_max {
            return Err(Refused);
        }
        self.queue.try_send((stream, read)).map_err(|_| Refused)
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Stops: no new connections, requests under way may finish within the limit.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}

struct Loop {
    router: Router,
    options: Options,
    open: Arc<AtomicUsize>,
    stopped: watch::Receiver<bool>,
}

impl Loop {
    async fn run(self, mut connections: mpsc::Receiver<(TcpStream, Vec<u8>)>) {
        let mut stopped = self.stopped.clone();
        loop {
            let next = tokio::select! {
                () = until_stopped(&mut stopped) => None,
                next = connections.recv() => next,
            };
            let Some((stream, read)) = next else { break };
            if let Err(error) = self.spawn(stream, read) {
                tracing::debug!(%error, "http connection could not be taken over");
            }
        }
        let deadline = tokio::time::Instant::now() + self.options.stop_wait;
        while self.open.load(Ordering::Relaxed) > 0 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn spawn(&self, stream: TcpStream, read: Vec<u8>) -> io::Result<()> {
        let peer = stream.peer_addr()?;
        stream.set_nonblocking(true)?;
        let stream = Prefixed { read, at: 0, stream: tokio::net::TcpStream::from_std(stream)? };
        let router = self.router.clone().layer(axum::Extension(ConnectInfo(peer)));
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.options.head_wait)
            .max_buf_size(self.options.head_bytes_max.max(8192));
        let (open, mut stopped) = (self.open.clone(), self.stopped.clone());
        open.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            let service = TowerToHyperService::new(router);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => {}
                () = until_stopped(&mut stopped) => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
            open.fetch_sub(1, Ordering::Relaxed);
        });
        Ok(())
    }
}

async fn until_stopped(stopped: &mut watch::Receiver<bool>) {
    // An error means that the server itself is gone.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// A stream whose first bytes were read by somebody else.
struct Prefixed {
    read: Vec<u8>,
    at: usize,
    stream: tokio::net::TcpStream,
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = &self.read[self.at..];
        if rest.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, into);
        }
        let len = rest.len().min(into.remaining());
        into.put_slice(&rest[..len]);
        self.at += len;
        if self.at == self.read.len() {
            self.read = Vec::new();
            self.at = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
