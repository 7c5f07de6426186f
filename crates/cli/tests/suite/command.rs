use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A folder of its own for one test, gone with it.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folders = (0..).map(|n| parent.join(format!("{name}-{}-{n}", std::process::id())));
        let made = folders.into_iter().find(|path| std::fs::create_dir(path).is_ok());
        Folder(made.unwrap())
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_mainstay"))
}

/// Runs the command to its end: whether it went well, and what it said.
pub fn mainstay(words: &[&str]) -> (bool, String) {
    let Output { status, stdout, stderr } = command().args(words).output().unwrap();
    let said = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (status.success(), said.concat())
}

/// As `mainstay`, for what must go well.
pub fn well(words: &[&str]) -> String {
    let (went_well, said) = mainstay(words);
    assert!(went_well, "{words:?}: {said}");
    said
}

/// A server that runs; killed when it is dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Server {
    pub fn start(words: &[&str]) -> Server {
        let mut child =
            command().args(words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, rest) = line.split_once("http://")?;
            rest.trim_end_matches('/').parse().ok()
        });
        // Nobody reads on, and it has little more to say.
        std::thread::spawn(move || lines.count());
        Server { child, address: address.expect("it says where it listens") }
    }

    /// As `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks for a guest ticket, with a pass if there is one: status and body.
    pub fn ticket(&self, name: &str, pass: Option<&str>) -> (u16, serde_json::Value) {
        ticket(self.address, name, pass).unwrap()
    }
}

/// Asks a gate for a guest ticket.
pub fn ticket(
    address: SocketAddr,
    name: &str,
    pass: Option<&str>,
) -> std::io::Result<(u16, serde_json::Value)> {
    let mut stream = TcpStream::connect(address)?;
    let pass = pass.map(|pass| format!("Authorization: Bearer {pass}\r\n"));
    let request = format!(
        "POST /ticket/guest?name={name} HTTP/1.1\r\nHost: test\r\n{}Content-Length: 0\r\n\
         Connection: close\r\n\r\n",
        pass.unwrap_or_default()
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::InvalidData)?;
    Ok((head[9..12].parse().unwrap(), serde_json::from_str(body)?))
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
