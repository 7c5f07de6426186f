use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use crate::ListenOptions;

/// Open ports by the addresses they were asked for: of a process that outlives those who accept there, so that
/// between two of them clients wait instead of being refused. A cheap clone of the same ports.
#[derive(Clone, Debug, Default)]
pub struct Listeners(Vec<(SocketAddr, Arc<TcpListener>)>);

impl Listeners {
    /// Opens `address` once for each of `threads` that will accept there. With port 0 the system chooses, and
    /// all have the same.
    ///
    /// # Errors
    ///
    /// `AddrInUse` and the like, as the system says.
    pub fn open(&mut self, address: SocketAddr, threads: u8) -> io::Result<SocketAddr> {
        let mut opened = address;
        let mut ports = Vec::new();
        for _ in 0..threads.max(1) {
            let port = crate::sockets::open_port(opened, ListenOptions::default())?;
            opened = port.local_addr()?;
            ports.push((address, Arc::new(port)));
        }
        self.0.extend(ports);
        Ok(opened)
    }

    /// Whether `address` is among them.
    pub fn has(&self, address: SocketAddr) -> bool {
        self.0.iter().any(|(asked, _)| *asked == address)
    }

    /// Forgets those that `keep` does not want. What others hold of them stays open.
    pub fn retain(&mut self, keep: impl Fn(SocketAddr) -> bool) {
        self.0.retain(|(asked, _)| keep(*asked));
    }

    /// The ports of `address` that fall to one of `threads` threads. With fewer ports than threads some share one;
    /// none is left without a thread.
    ///
    /// # Errors
    ///
    /// What the system says if it has no descriptor left.
    pub fn share(
        &self,
        address: SocketAddr,
        thread: u8,
        threads: u8,
    ) -> io::Result<Vec<TcpListener>> {
        let ports: Vec<_> = self.0.iter().filter(|(asked, _)| *asked == address).collect();
        let (thread, threads) = (usize::from(thread), usize::from(threads.max(1)));
        let falls = |at: &usize| match ports.len() < threads {
            true => *at == thread % ports.len(),
            false => at % threads == thread,
        };
        (0..ports.len()).filter(falls).map(|at| ports[at].1.try_clone()).collect()
    }

    /// Gives them to another process, over a Unix socket.
    ///
    /// # Errors
    ///
    /// What the system says.
    #[cfg(unix)]
    pub fn send(&self, to: impl std::os::fd::AsFd) -> io::Result<()> {
        use std::os::fd::AsFd;
        for part in self.0.chunks(crate::pass::PASSED_MAX) {
            let addresses: Vec<String> = part.iter().map(|(asked, _)| asked.to_string()).collect();
            let ports: Vec<_> = part.iter().map(|(_, port)| port.as_fd()).collect();
            crate::pass::send(&to, addresses.join(" ").as_bytes(), &ports)?;
        }
        crate::pass::send(&to, b"", &[])
    }

    /// Takes what [`send`](Self::send) gives. Waits for it.
    ///
    /// # Errors
    ///
    /// What the system says, or `InvalidData` if something else was sent.
    #[cfg(unix)]
    pub fn receive(from: impl std::os::fd::AsFd) -> io::Result<Listeners> {
        let mut all = Vec::new();
        while let Some((body, ports)) = crate::pass::receive(&from)? {
            let text = String::from_utf8_lossy(&body);
            let addresses: Vec<SocketAddr> =
                text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            if addresses.len() != ports.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "each port has an address"));
            }
            if ports.is_empty() {
                break;
            }
            let ports = ports.into_iter().map(|port| Arc::new(TcpListener::from(port)));
            all.extend(addresses.into_iter().zip(ports));
        }
        Ok(Listeners(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn each_port_falls_to_a_thread_however_many_there_are() {
        let mut listeners = Listeners::default();
        listeners.open(ANY, 3).unwrap();
        let counts = |threads: u8| -> Vec<usize> {
            (0..threads).map(|at| listeners.share(ANY, at, threads).unwrap().len()).collect()
        };
        assert_eq!(counts(1), [3]);
        assert_eq!(counts(2), [2, 1]);
        assert_eq!(counts(3), [1, 1, 1]);
        assert_eq!(counts(5), [1, 1, 1, 1, 1]);
        assert!(listeners.share("127.0.0.1:1".parse().unwrap(), 0, 2).unwrap().is_empty());
    }

    /// A connect in the time between two processes that accept is answered by the later one.
    #[cfg(unix)]
    #[test]
    fn a_port_that_was_handed_over_keeps_who_waits_there() {
        use std::net::TcpStream;
        use std::os::unix::net::UnixStream;
        let mut listeners = Listeners::default();
        let address = listeners.open(ANY, 2).unwrap();
        let early = TcpStream::connect(address).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        listeners.send(&ours).unwrap();
        drop(ours);
        let taken = Listeners::receive(&theirs).unwrap();
        drop(listeners);
        let ports = taken.share(ANY, 0, 1).unwrap();
        assert_eq!((ports.len(), ports[0].local_addr().unwrap()), (2, address));
        let late = TcpStream::connect(address).unwrap();
        // Which of the ports has whom is the system's choice.
        let mut peers: Vec<SocketAddr> = ports
            .iter()
            .flat_map(|port| std::iter::from_fn(|| port.accept().ok()))
            .map(|a| a.1)
            .collect();
        peers.sort();
        let mut asked = [early.local_addr().unwrap(), late.local_addr().unwrap()];
        asked.sort();
        assert_eq!(peers, asked);
        // After the last word nothing is waited for; what is no such message is refused.
        assert!(Listeners::receive(&theirs).unwrap().0.is_empty());
        let (ours, theirs) = UnixStream::pair().unwrap();
        crate::pass::send(&ours, b"127.0.0.1:1", &[]).unwrap();
        assert!(Listeners::receive(&theirs).is_err());
    }
}
