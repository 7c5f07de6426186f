use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The folder of an embedded coordinator.
#[derive(Clone, Debug)]
pub(crate) struct Place(PathBuf);

/// Where the host listens, and what shows it that one may come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub socket: SocketAddr,
    pub token: String,
}

impl Place {
    /// The folder at `path`, made if it is not there.
    pub fn open(path: &Path) -> io::Result<Place> {
        fs::create_dir_all(path)?;
        Ok(Place(path.to_path_buf()))
    }

    /// The lock of who hosts; `None` while another process has it. The system takes it from a
    /// process that ends, however it ends.
    pub fn try_lock(&self) -> io::Result<Option<File>> {
        let options = OpenOptions::new().create(true).truncate(false).write(true).clone();
        let file = options.open(self.0.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// Where the host was last.
    pub(super) fn read_address(&self) -> io::Result<Address> {
        let text = fs::read_to_string(self.0.join("address"))?;
        let mut words = text.split_whitespace();
        let (socket, token) = (words.next().and_then(|word| word.parse().ok()), words.next());
        match (socket, token) {
            (Some(socket), Some(token)) => Ok(Address { socket, token: token.to_owned() }),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the address cannot be read")),
        }
    }

    /// Says where the host is now, to the same user of this machine alone.
    pub(super) fn write_address(&self, address: &Address) -> io::Result<()> {
        let new = self.0.join("address.new");
        // Made anew: an old one might be open to others.
        drop(fs::remove_file(&new));
        let mut options = OpenOptions::new();
        options.create_new(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&new)?;
        // What is written is of no use to anybody but while this host lives, so it need not be synced.
        file.write_all(format!("{} {}\n", address.socket, address.token).as_bytes())?;
        drop(file);
        fs::rename(new, self.0.join("address"))
    }

    pub fn state(&self) -> PathBuf {
        self.0.join("state")
    }
}
