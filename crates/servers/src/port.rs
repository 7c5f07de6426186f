use std::fs::{self, File};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::error::Error;

/// Below what Linux gives to outgoing connections, so that a port stays free while its server is down.
const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

/// Only spreads the search; which port comes out makes no difference.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// A loopback port that no other [`Port`] of this user holds, in any process.
#[derive(Debug)]
pub(crate) struct Port {
    pub number: u16,
    _lock: File,
}

impl Port {
    pub fn reserve() -> Result<Self, Error> {
        let user = rustix::process::geteuid().as_raw();
        let folder = std::env::temp_dir().join(format!("mainstay-ports-{user}"));
        fs::create_dir_all(&folder).map_err(Error::system("folder of port locks"))?;
        let start = (std::process::id() as u16).wrapping_mul(61);
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = FIRST + start.wrapping_add(step) % COUNT;
            let lock = File::create(folder.join(number.to_string()))
                .map_err(Error::system("lock of a port"))?;
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        Err(Error::system("free loopback port")(std::io::ErrorKind::AddrInUse.into()))
    }
}
