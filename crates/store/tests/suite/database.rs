//! Private servers for the tests, and a wire to them that can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
#[cfg(any(feature = "postgres", feature = "mysql"))]
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use store::*;

/// A database server of one kind.
pub enum Database {
    #[cfg(feature = "postgres")]
    Postgres(servers::Postgres),
    #[cfg(feature = "mysql")]
    Mysql(servers::Mariadb),
    #[cfg(feature = "redis")]
    Redis(servers::Redis),
    #[cfg(feature = "mongodb")]
    Mongodb(servers::Mongo),
}

/// Makes names of databases differ.
static NEXT: AtomicU32 = AtomicU32::new(0);

impl Database {
    #[cfg(feature = "postgres")]
    pub fn postgres() -> Self {
        Database::Postgres(servers::Postgres::start().unwrap())
    }

    #[cfg(feature = "mysql")]
    pub fn mysql() -> Self {
        Database::Mysql(servers::Mariadb::start().unwrap())
    }

    #[cfg(feature = "redis")]
    pub fn redis() -> Self {
        Database::Redis(servers::Redis::start().unwrap())
    }

    /// A server that is compatible with it.
    #[cfg(feature = "mongodb")]
    pub fn mongodb() -> Self {
        Database::Mongodb(servers::Mongo::start().unwrap())
    }

    pub fn instance(&self) -> &servers::Instance {
        match self {
            #[cfg(feature = "postgres")]
            Database::Postgres(server) => server,
            #[cfg(feature = "mysql")]
            Database::Mysql(server) => server,
            #[cfg(feature = "redis")]
            Database::Redis(server) => server,
            #[cfg(feature = "mongodb")]
            Database::Mongodb(server) => server,
        }
    }

    pub fn is_mysql(&self) -> bool {
        match self {
            #[cfg(feature = "postgres")]
            Database::Postgres(_) => false,
            #[cfg(feature = "mysql")]
            Database::Mysql(_) => true,
            #[cfg(any(feature = "redis", feature = "mongodb"))]
            _ => false,
        }
    }

    /// Whether much takes it longer than a test should.
    pub fn is_slow(&self) -> bool {
        match self {
            #[cfg(feature = "mongodb")]
            Database::Mongodb(_) => true,
            #[cfg(any(feature = "postgres", feature = "mysql", feature = "redis"))]
            _ => false,
        }
    }

    /// What is said to it with each commit, and only then as long as nothing is in doubt.
    pub fn commit_word(&self) -> &'static [u8] {
        match self {
            #[cfg(feature = "redis")]
            Database::Redis(_) => b"writer",
            #[cfg(feature = "mongodb")]
            Database::Mongodb(_) => b"commitTransaction",
            #[cfg(any(feature = "postgres", feature = "mysql"))]
            _ => b"COMMIT",
        }
    }

    /// The user that may do all.
    pub fn admin(&self) -> &'static str {
        if self.is_mysql() { "root" } else { "postgres" }
    }

    /// Runs a statement as the server's administrator.
    #[cfg(any(feature = "postgres", feature = "mysql"))]
    pub fn sql(&self, sql: &str) -> String {
        let port = self.instance().port().to_string();
        let mut command = match self {
            #[cfg(feature = "postgres")]
            Database::Postgres(_) => {
                let mut command = Command::new("psql");
                command.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-qAtc", sql]);
                command
            }
            #[cfg(feature = "mysql")]
            Database::Mysql(_) => {
                let mut command = Command::new("mariadb");
                command.args(["--no-defaults", "-h", "127.0.0.1", "-P", &port, "-u", "root"]);
                command.args(["-N", "-e", sql]);
                command
            }
            #[cfg(any(feature = "redis", feature = "mongodb"))]
            _ => panic!("it does not speak SQL"),
        };
        let output = command.output().unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A user who may do all in every database, and has to say a password.
    #[cfg(any(feature = "postgres", feature = "mysql"))]
    pub fn make_user(&self, user: &str, password: &str) {
        match self {
            #[cfg(feature = "postgres")]
            Database::Postgres(server) => {
                self.sql(&format!("CREATE USER {user} SUPERUSER PASSWORD '{password}'"));
                let access = server.folder().join("data/pg_hba.conf");
                let rest = std::fs::read_to_string(&access).unwrap();
                let line = format!("host all {user} 127.0.0.1/32 scram-sha-256\n");
                std::fs::write(&access, line + &rest).unwrap();
                self.sql("SELECT pg_reload_conf()");
            }
            #[cfg(feature = "mysql")]
            Database::Mysql(_) => {
                self.sql(&format!("CREATE USER {user} IDENTIFIED BY '{password}'"));
                self.sql(&format!("GRANT ALL ON *.* TO {user}"));
            }
            #[cfg(any(feature = "redis", feature = "mongodb"))]
            _ => panic!("it does not speak SQL"),
        }
    }

    /// A new database; its name.
    pub fn make(&self) -> String {
        let name = format!("case_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        match self {
            #[cfg(feature = "redis")]
            Database::Redis(_) => {}
            #[cfg(feature = "mongodb")]
            Database::Mongodb(_) => {}
            #[cfg(any(feature = "postgres", feature = "mysql"))]
            _ => drop(self.sql(&format!("CREATE DATABASE {name}"))),
        }
        name
    }

    /// The address of a database for a user, by `port`.
    pub fn url(&self, user: &str, port: u16, name: &str) -> String {
        // Not all have users.
        let _ = user;
        match self {
            #[cfg(feature = "postgres")]
            Database::Postgres(_) => format!("postgres://{user}@127.0.0.1:{port}/{name}"),
            #[cfg(feature = "mysql")]
            Database::Mysql(_) => format!("mysql://{user}@127.0.0.1:{port}/{name}"),
            #[cfg(feature = "redis")]
            Database::Redis(_) => format!("redis://127.0.0.1:{port}/?shard={name}"),
            #[cfg(feature = "mongodb")]
            Database::Mongodb(_) => {
                format!("mongodb://127.0.0.1:{port}/{name}?directConnection=true")
            }
        }
    }

    pub fn open_at(&self, url: &str, options: ServerOptions) -> Result<Store, OpenError> {
        match self {
            #[cfg(feature = "postgres")]
            Database::Postgres(_) => Store::postgres(url, options),
            #[cfg(feature = "mysql")]
            Database::Mysql(_) => Store::mysql(url, options),
            #[cfg(feature = "redis")]
            Database::Redis(_) => Store::redis(url, options),
            // The server of the tests is a single one that has transactions all the same.
            #[cfg(feature = "mongodb")]
            Database::Mongodb(_) => {
                Store::mongodb(url, ServerOptions { accept_loss: true, ..options })
            }
        }
    }

    /// A store in the database `name`, by `port`.
    pub fn open(&self, port: u16, name: &str) -> Store {
        self.open_at(&self.url(self.admin(), port, name), quick()).unwrap()
    }
}

/// Options of which no wait is longer than a test may take.
pub fn quick() -> ServerOptions {
    ServerOptions {
        open_wait: Duration::from_secs(30),
        reply_wait: Duration::from_secs(8),
        holder_wait: Duration::from_secs(1),
        away_wait: Duration::from_secs(60),
        pause_max: Duration::from_secs(1),
        ..ServerOptions::default()
    }
}

/// Tries until it is no longer in the way of others; panics after a minute.
pub fn patiently<T>(mut ask: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match ask() {
            Err(Error::Busy | Error::Unavailable(_)) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

/// What a wire does when a client sends a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trick {
    /// The connection breaks; the commit never arrives.
    CutBefore,
    /// The commit arrives, then the connection breaks before the answer.
    CutAfter,
    /// Nothing goes through any more, in neither direction, and nothing breaks.
    Freeze,
}

/// Forwards connections to a server. One trick at a time waits for the next commit; connections made
/// afterwards are forwarded again.
pub struct Wire {
    pub port: u16,
    trick: Arc<Mutex<Option<Trick>>>,
    /// Of frozen connections, so that they stay open.
    kept: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    pub fn to(database: &Database) -> Self {
        let (server, word) = (database.instance().port(), database.commit_word());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (trick, kept) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(Vec::new())));
        let wire = Wire { port, trick: Arc::clone(&trick), kept: Arc::clone(&kept) };
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", server)))
                else {
                    continue;
                };
                let (trick, kept) = (Arc::clone(&trick), Arc::clone(&kept));
                std::thread::spawn(move || forward((client, server), word, &trick, &kept));
            }
        });
        wire
    }

    pub fn play(&self, trick: Trick) {
        *self.trick.lock().unwrap() = Some(trick);
    }

    /// Whether the trick was played.
    pub fn is_played(&self) -> bool {
        self.trick.lock().unwrap().is_none()
    }

    /// Breaks what was frozen.
    pub fn thaw(&self) {
        for stream in self.kept.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn forward(
    (mut client, mut server): (TcpStream, TcpStream),
    word: &[u8],
    trick: &Mutex<Option<Trick>>,
    kept: &Mutex<Vec<TcpStream>>,
) {
    // What the server says goes to the client until a trick was played.
    let silent = Arc::new(Mutex::new(false));
    let back = {
        let silent = Arc::clone(&silent);
        let (mut server, mut client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut bytes = vec![0; 64 << 10];
            while let Ok(n @ 1..) = server.read(&mut bytes) {
                if !*silent.lock().unwrap() && client.write_all(&bytes[..n]).is_err() {
                    break;
                }
            }
            if !*silent.lock().unwrap() {
                let _ = client.shutdown(Shutdown::Both);
            }
        })
    };
    let mut bytes = vec![0; 1 << 20];
    while let Ok(n @ 1..) = client.read(&mut bytes) {
        let said = &bytes[..n];
        let is_commit = said.windows(word.len()).any(|window| window == word);
        let played = if is_commit { trick.lock().unwrap().take() } else { None };
        if played.is_some() {
            *silent.lock().unwrap() = true;
        }
        match played {
            Some(Trick::Freeze) => {
                let mut kept = kept.lock().unwrap();
                kept.push(client);
                kept.push(server);
                return;
            }
            Some(Trick::CutBefore) => break,
            Some(Trick::CutAfter) => {
                server.write_all(said).unwrap();
                // The server reads what came before the end, does it, and finds nobody to tell.
                let _ = server.shutdown(Shutdown::Write);
                drop(back.join());
                let _ = client.shutdown(Shutdown::Both);
                return;
            }
            None if server.write_all(said).is_err() => break,
            None => {}
        }
    }
    let _ = server.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Both);
}
