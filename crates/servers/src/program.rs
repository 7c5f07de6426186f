use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;

/// What must be installed into [`cache`]`/mongo` with `pip`.
pub const MONGO_PACKAGE: &str = "mongoeco[wire]==4.11.0";

/// Programs and the Debian package of each.
const PROGRAMS: [(&str, &str); 9] = [
    ("initdb", "postgresql"),
    ("pg_basebackup", "postgresql"),
    ("mariadbd", "mariadb-server"),
    ("redis-server", "redis-server"),
    ("redis-sentinel", "redis-sentinel"),
    ("etcd", "etcd-server"),
    ("nats-server", "nats-server"),
    ("rabbitmq-server", "rabbitmq-server"),
    // Not started here: the stock client of MQTT that tests run.
    ("mosquitto_sub", "mosquitto-clients"),
];

/// What is not there of what this crate starts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Debian packages.
    pub packages: Vec<&'static str>,
    /// Whether [`MONGO_PACKAGE`] is missing.
    pub mongo: bool,
}

/// Looks for every program.
pub fn missing() -> Missing {
    let mut packages: Vec<_> = PROGRAMS
        .iter()
        .filter(|(program, _)| find(program).is_err())
        .map(|(_, package)| *package)
        .collect();
    packages.dedup();
    Missing { packages, mongo: !mongo_python().exists() }
}

/// Where prepared data folders and the Python environment are kept: `servers` in the build folder.
pub fn cache() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let profile = program.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
    profile.and_then(Path::parent).unwrap_or(&std::env::temp_dir()).join("servers")
}

/// The Python of the environment that has the MongoDB-compatible server.
pub(crate) fn mongo_python() -> PathBuf {
    cache().join("mongo/bin/python")
}

/// A Python of version 3.13 or newer.
pub fn python() -> Option<PathBuf> {
    let mut candidates = vec![PathBuf::from("python3.13"), PathBuf::from("python3.14")];
    candidates.push(PathBuf::from("python3"));
    let home = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".pyenv")));
    if let Some(versions) = home.and_then(|home| home.join("versions").read_dir().ok()) {
        candidates.extend(versions.flatten().map(|version| version.path().join("bin/python3")));
    }
    let test = "import sys, venv; sys.exit(sys.version_info < (3, 13))";
    candidates.into_iter().find(|python| {
        Command::new(python).args(["-c", test]).output().is_ok_and(|done| done.status.success())
    })
}

/// Finds a server's program where packages put it, newest version first, then in `PATH`.
pub(crate) fn find(program: &str) -> Result<PathBuf, Error> {
    let mut folders: Vec<PathBuf> = Vec::new();
    if let Ok(versions) = Path::new("/usr/lib/postgresql").read_dir() {
        let mut versions: Vec<_> = versions.flatten().map(|entry| entry.path()).collect();
        let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
        versions.sort_by_key(|path| std::cmp::Reverse(number(path)));
        folders.extend(versions.into_iter().map(|version| version.join("bin")));
    }
    folders.extend(["/usr/lib/rabbitmq/bin", "/usr/sbin", "/usr/bin"].map(PathBuf::from));
    if let Some(path) = std::env::var_os("PATH") {
        folders.extend(std::env::split_paths(&path));
    }
    let found = folders.into_iter().map(|folder| folder.join(program)).find(|path| path.is_file());
    found.ok_or_else(|| Error::Missing(program.to_owned()))
}
