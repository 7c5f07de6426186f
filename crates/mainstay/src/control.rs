//! How other programs of this machine ask a process how it is and tell it what to do: a port of the loopback
//! with a token, both in a file under `run` in the data folder.
//!
//! A thread of its own answers, so that it does so within a moment however busy the workers are.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io, thread};

use env::Random;
use serde_json::{Value, json};

/// Longest question or answer, in bytes.
const LINE_BYTES_MAX: u64 = 256 * 1024;
/// How long one side waits for the other.
const WAIT: Duration = Duration::from_secs(1);

const FOLDER: &str = "run";
const SUCCESSOR: &str = "+";

/// Answers a question: what is to be done, and to what.
pub(crate) type Answer = Box<dyn Fn(&str, &str) -> Value + Send>;

/// The open port. Dropping it takes the file away; the thread ends with the process.
#[derive(Debug)]
pub(crate) struct Control {
    data: PathBuf,
    name: String,
    file: PathBuf,
    text: String,
}

impl Control {
    /// Opens the port of the process called `name`.
    pub(crate) fn open(data: &Path, name: &str, answer: Answer) -> io::Result<Control> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut random = Random::from_os();
        let token = format!("{:016x}{:016x}", random.u64(), random.u64());
        let port = listener.local_addr()?.port();
        let text = json!({"pid": std::process::id(), "port": port, "token": token}).to_string();
        let file = file_of(data, name);
        write_private(&file, &text)?;
        thread::Builder::new().name("control".to_owned()).spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                // Whoever hangs up early has nothing to be told.
                let _ = serve(&stream, &token, &answer);
            }
        })?;
        Ok(Control { data: data.to_path_buf(), name: name.to_owned(), file, text })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // A successor may have written its own meanwhile, and this one may have been a successor.
        for file in [self.file.clone(), self.data.join(FOLDER).join(taken_by(&self.name))] {
            if fs::read_to_string(&file).is_ok_and(|text| text == self.text) {
                let _ = fs::remove_file(&file);
            }
        }
    }
}

/// How a process is called that is started beside the one called `name`, to take its place. No process in a
/// file can have this name.
pub(crate) fn successor_of(name: &str) -> String {
    format!("{name}{SUCCESSOR}")
}

fn taken_by(name: &str) -> String {
    format!("{}.json", name.trim_end_matches(SUCCESSOR))
}

/// The successor of the process called `name` is that process from now on.
pub(crate) fn take_place(data: &Path, name: &str) -> io::Result<()> {
    fs::rename(file_of(data, &successor_of(name)), file_of(data, name))
}

/// Forgets the port of a process that was killed.
pub(crate) fn forget(data: &Path, name: &str) {
    let _ = fs::remove_file(file_of(data, name));
}

fn file_of(data: &Path, name: &str) -> PathBuf {
    data.join(FOLDER).join(format!("{name}.json"))
}

/// Writes a file that only its owner may read, whole or not at all.
fn write_private(file: &Path, text: &str) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let draft = file.with_extension(format!("{}.new", std::process::id()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(&draft)?.write_all(text.as_bytes())?;
    fs::rename(&draft, file)
}

fn serve(stream: &TcpStream, token: &str, answer: &Answer) -> io::Result<()> {
    let question = read_line(stream)?;
    let text = |name: &str| question.get(name).and_then(Value::as_str).unwrap_or_default();
    let said = match text("token") == token {
        true => answer(text("do"), text("to")),
        false => json!({"error": "wrong token"}),
    };
    write_line(stream, &said)
}

fn read_line(stream: &TcpStream) -> io::Result<Value> {
    stream.set_read_timeout(Some(WAIT))?;
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line)?;
    serde_json::from_str(&line).map_err(io::Error::other)
}

fn write_line(mut stream: &TcpStream, value: &Value) -> io::Result<()> {
    stream.set_write_timeout(Some(WAIT))?;
    stream.write_all(format!("{value}\n").as_bytes())
}

/// Asks the process called `name` that keeps its things in `data`. `None` if there is none.
pub(crate) fn ask(data: &Path, name: &str, order: &str, to: &str) -> Option<Value> {
    let known: Value = serde_json::from_str(&fs::read_to_string(file_of(data, name)).ok()?).ok()?;
    let port = u16::try_from(known.get("port")?.as_u64()?).ok()?;
    let stream = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), WAIT).ok()?;
    write_line(&stream, &json!({"token": known.get("token")?, "do": order, "to": to})).ok()?;
    let said = read_line(&stream).ok()?;
    // Some other program has the port of one that is gone.
    said.get("error").is_none_or(|error| error != "wrong token").then_some(said)
}

/// The processes that have, or had, a port.
pub(crate) fn names(data: &Path) -> Vec<String> {
    let entries = fs::read_dir(data.join(FOLDER)).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_suffix(".json").map(str::to_owned)
    });
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shows_the_token_is_answered_and_the_file_goes_with_the_port() {
        let name = format!("mainstay-control-{}", std::process::id());
        let data = std::env::temp_dir().join(name);
        let answer = |order: &str, to: &str| json!({"did": format!("{order} {to}")});
        let control = Control::open(&data, "node-1", Box::new(answer)).unwrap();
        assert_eq!(names(&data), ["node-1"]);
        let said = ask(&data, "node-1", "drain", "x").unwrap();
        assert_eq!(said["did"], "drain x");
        assert!(ask(&data, "node-2", "drain", "x").is_none());
        let file = file_of(&data, "node-1");
        let forged = fs::read_to_string(&file).unwrap().replace("token\":\"", "token\":\"0");
        fs::write(&file, &forged).unwrap();
        assert!(ask(&data, "node-1", "drain", "x").is_none());
        fs::write(&file, &control.text).unwrap();
        // A successor takes the place, and then both take away what is theirs.
        let answer = |_: &str, _: &str| json!({"did": "more"});
        let next = Control::open(&data, &successor_of("node-1"), Box::new(answer)).unwrap();
        assert_eq!(names(&data), ["node-1", "node-1+"]);
        take_place(&data, "node-1").unwrap();
        drop(control);
        assert_eq!(ask(&data, "node-1", "drain", "x").unwrap()["did"], "more");
        drop(next);
        assert!(names(&data).is_empty());
        fs::remove_dir_all(&data).unwrap();
    }
}
