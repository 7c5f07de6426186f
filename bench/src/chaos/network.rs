//! Each process in a network namespace of its own, all joined by a bridge, so that one direction between two of
//! them can be cut: what one sends to the other goes to a hardware address that nobody has.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const BRIDGE: &str = "chaos";
/// Has no place on the bridge.
const NOBODY: &str = "02:00:00:00:00:99";
/// Ports that the system gives in the namespaces: apart from each other and from those of the outer one, so that
/// a port of the loopback of one of them is free outside.
const PORTS_FIRST: u16 = 61_000;
const PORTS_EACH: u16 = 250;
/// How long the other side of a relay has.
const RELAY_WAIT: Duration = Duration::from_secs(1);

/// Which of the two that are joined: a process by its place in the list, or a server by its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Process(usize),
    Server(usize),
}

impl Place {
    pub fn address(self) -> Ipv4Addr {
        match self {
            Place::Process(at) => Ipv4Addr::new(10, 77, 0, 101 + at as u8),
            Place::Server(at) => Ipv4Addr::new(10, 77, 0, 1 + at as u8),
        }
    }
}

/// The namespaces of a run. The outer one is this process's own, in which servers, players and the supervisor are.
pub struct Network {
    inner: Vec<Namespace>,
}

/// A namespace lives as long as what holds it.
struct Namespace {
    holder: Child,
}

/// Whether this process may have a network of its own; if not, why.
pub fn check() -> anyhow::Result<()> {
    for program in ["ip", "unshare", "nsenter"] {
        let found = Command::new(program).arg("--version").output();
        let found = found.is_ok_and(|output| output.status.success() || program == "ip");
        ensure!(found, "one-way cuts need the program `{program}` (iproute2, util-linux)");
    }
    let allowed = Command::new("unshare").args(["--net", "true"]).output()?;
    ensure!(
        allowed.status.success(),
        "one-way cuts need network namespaces, which only root may make: {}; `--no-cuts` goes without",
        String::from_utf8_lossy(&allowed.stderr).trim()
    );
    Ok(())
}

impl Network {
    /// Makes a namespace for each process. This process is in a network that is its own already.
    pub fn join(processes: usize, servers: usize) -> anyhow::Result<Network> {
        ip(&["link", "set", "lo", "up"])?;
        ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["link", "set", BRIDGE, "up"])?;
        for at in 0..servers {
            let address = format!("{}/24", Place::Server(at).address());
            ip(&["addr", "add", &address, "dev", BRIDGE])?;
        }
        let inner = (0..processes).map(Namespace::new).collect::<anyhow::Result<Vec<_>>>()?;
        let network = Network { inner };
        for (at, namespace) in network.inner.iter().enumerate() {
            let outside = format!("chaos{at}");
            let holder = namespace.holder.id().to_string();
            let link = ["link", "add", &outside, "type", "veth", "peer", "name", "eth0", "netns"];
            ip(&[&link[..], &[&holder]].concat())?;
            ip(&["link", "set", &outside, "master", BRIDGE, "up"])?;
            let address = format!("{}/24", Place::Process(at).address());
            network.ip(at, &["addr", "add", &address, "dev", "eth0"])?;
            network.ip(at, &["link", "set", "eth0", "up"])?;
            network.ip(at, &["link", "set", "lo", "up"])?;
            let first = PORTS_FIRST + at as u16 * PORTS_EACH;
            let ports = format!("{first} {}", first + PORTS_EACH - 1);
            let file = "/proc/sys/net/ipv4/ip_local_port_range";
            network.run(at, &["sh", "-c", &format!("echo {ports} > {file}")])?;
        }
        Ok(network)
    }

    /// What names the namespace of a process for [`enter`].
    pub fn path(&self, process: usize) -> PathBuf {
        format!("/proc/{}/ns/net", self.inner[process].holder.id()).into()
    }

    /// From now on nothing that `from` sends reaches `to`. The other way is open.
    pub fn cut(&self, from: Place, to: Place) -> anyhow::Result<()> {
        let address = to.address().to_string();
        match from {
            Place::Process(at) => {
                let neighbor = ["neigh", "replace", &address, "lladdr", NOBODY, "dev", "eth0"];
                self.ip(at, &[&neighbor[..], &["nud", "permanent"]].concat())
            }
            Place::Server(_) => ip(&rule("add", &from.address().to_string(), &address)),
        }
    }

    /// Undoes [`cut`](Self::cut).
    pub fn heal(&self, from: Place, to: Place) -> anyhow::Result<()> {
        let address = to.address().to_string();
        match from {
            Place::Process(at) => self.ip(at, &["neigh", "del", &address, "dev", "eth0"]),
            Place::Server(_) => ip(&rule("del", &from.address().to_string(), &address)),
        }
    }

    fn ip(&self, process: usize, words: &[&str]) -> anyhow::Result<()> {
        self.run(process, &[&["ip"], words].concat())
    }

    fn run(&self, process: usize, words: &[&str]) -> anyhow::Result<()> {
        let net = format!("--net={}", self.path(process).display());
        done(Command::new("nsenter").arg(net).args(words))
    }
}

fn rule<'a>(what: &'a str, from: &'a str, to: &'a str) -> [&'a str; 7] {
    ["rule", what, "from", from, "to", to, "blackhole"]
}

impl Namespace {
    fn new(_at: usize) -> anyhow::Result<Namespace> {
        // It ends when its input does, so with this process, however that ends.
        let holder = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare")?;
        let mut namespace = Namespace { holder };
        // What comes back has gone through `cat`, which is in the namespace.
        let pipes = (namespace.holder.stdin.as_mut(), namespace.holder.stdout.as_mut());
        let (Some(input), Some(output)) = pipes else { bail!("no pipes") };
        input.write_all(b"\n")?;
        BufReader::new(output).read_line(&mut String::new())?;
        Ok(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Moves this thread, and those that it will start, into the namespace at `path`.
pub fn enter(path: &Path) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("entering {}", path.display()))
}

/// Lets this namespace reach the loopback of another one: one question and one answer, a line each, as processes
/// are asked how they are. Whatever port a process has its questions come to, as `port` finds it, is open here.
pub fn relay(path: PathBuf, port: impl Fn() -> Option<u16> + Send + 'static) {
    let path = Arc::new(path);
    std::thread::spawn(move || {
        let mut open = Vec::new();
        loop {
            if let Some(port) = port().filter(|port| !open.contains(port))
                && let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            {
                open.push(port);
                let path = path.clone();
                std::thread::spawn(move || {
                    while let Ok((stream, _)) = listener.accept() {
                        let path = path.clone();
                        std::thread::spawn(move || answer(stream, &path, port));
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
}

fn answer(mut asker: TcpStream, path: &Path, port: u16) -> anyhow::Result<()> {
    enter(path)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut process = TcpStream::connect_timeout(&address, RELAY_WAIT)?;
    let pass = |from: &TcpStream, to: &mut TcpStream| -> anyhow::Result<()> {
        from.set_read_timeout(Some(RELAY_WAIT))?;
        let mut line = Vec::new();
        BufReader::new(from).read_until(b'\n', &mut line)?;
        Ok(to.write_all(&line)?)
    };
    pass(&asker, &mut process)?;
    pass(&process, &mut asker)
}

fn ip(words: &[&str]) -> anyhow::Result<()> {
    done(Command::new("ip").args(words))
}

fn done(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", said.trim());
    Ok(())
}
