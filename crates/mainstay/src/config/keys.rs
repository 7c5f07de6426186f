use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use env::Random;
use proto::ticket::derived_key;
use tables::{Item, Limits, Place, Problem, Problems, Value};

/// A secret, or where it is to be found. Never shown.
#[derive(Clone)]
pub struct Secret {
    source: Source,
    place: Place,
    path: String,
}

#[derive(Clone, PartialEq, Eq)]
enum Source {
    Literal(String),
    Environment(String),
    File(PathBuf),
}

/// Where the keys of a cluster are to be found.
#[derive(Clone, Debug, Default)]
pub struct KeyRefs {
    /// Number and key of tickets and resume tokens; the first seals, all open.
    pub tickets: Vec<(u8, Secret)>,
    /// The key by which nodes know each other.
    pub mesh: Option<Secret>,
    /// What a remote visitor of the console must show.
    pub console: Option<Secret>,
    /// Whose copy of the cluster they are for.
    pub(super) developer: Option<String>,
}

/// The keys of a cluster. Never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keys {
    /// Number and key of tickets and resume tokens; the first seals, all open.
    pub tickets: Vec<(u8, [u8; 32])>,
    /// The key by which nodes know each other; without one only the loopback may be bound.
    pub mesh: Option<[u8; 32]>,
    /// What a remote visitor of the console must show; without one only this machine may look.
    pub console: Option<String>,
}

type Lookup = Box<dyn Fn(&str) -> Option<String>>;
type Read = Box<dyn Fn(&Path) -> io::Result<String>>;

/// What secrets are taken from: environment and files, or texts of a test.
pub struct Vault {
    environment: Lookup,
    file: Read,
}

/// The longest secret.
const SECRET_BYTES_MAX: usize = 4_096;
/// Old keys kept for opening.
const RING_MAX: usize = 16;
const KEPT: &str = "keys.json";

impl KeyRefs {
    /// Reads the file's `keys`. Paths of secrets are taken from `folder`.
    pub(super) fn read(item: &Item<'_>, folder: &Path) -> Option<KeyRefs> {
        let section = item.section()?;
        let mut refs = KeyRefs::default();
        if let Some(ring) = section.item("tickets").and_then(|item| item.list(RING_MAX)) {
            for item in ring {
                let Some(entry) = item.section() else { continue };
                let id = entry.need("id").and_then(|item| item.int(0..=u8::MAX));
                let key = entry.need("key").and_then(|item| Secret::read(&item, folder));
                let (Some(id), Some(key)) = (id, key) else { continue };
                if refs.tickets.iter().any(|(other, _)| *other == id) {
                    item.fail(format!("the key number {id} is given twice"));
                }
                key.check_literal(&item);
                refs.tickets.push((id, key));
            }
        }
        if let Some(item) = section.item("mesh") {
            refs.mesh = Secret::read(&item, folder);
            refs.mesh.iter().for_each(|key| key.check_literal(&item));
        }
        refs.console = section.item("console").and_then(|item| Secret::read(&item, folder));
        Some(refs)
    }

    /// Fetches the keys.
    ///
    /// Those of tickets and mesh that the file does not name are made once and kept in
    /// `keys.json` of the folder `data`, readable by its owner alone. A developer's copy of the
    /// cluster has keys of its own, which are derived from those that the file names: processes,
    /// data processes and players of one do not get into another.
    ///
    /// # Errors
    /// Every secret that cannot be found or is malformed, and the kept file if it cannot be read
    /// or written.
    pub fn resolve(
        &self,
        vault: &Vault,
        data: &Path,
        random: &mut Random,
    ) -> Result<Keys, Vec<Problem>> {
        let problems = Problems::new();
        let mut keys = Keys::default();
        for (id, secret) in &self.tickets {
            secret.key(vault, &problems).into_iter().for_each(|key| keys.tickets.push((*id, key)));
        }
        keys.mesh = self.mesh.as_ref().and_then(|secret| secret.key(vault, &problems));
        if let Some(name) = &self.developer {
            let named = keys.tickets.iter_mut().map(|(_, key)| key).chain(&mut keys.mesh);
            named.for_each(|key| *key = derived_key(key, name));
        }
        keys.console = self.console.as_ref().and_then(|secret| secret.fetch(vault, &problems));
        if self.tickets.is_empty() || self.mesh.is_none() {
            match Keys::kept(data, random) {
                Ok(kept) => {
                    if self.tickets.is_empty() {
                        keys.tickets = kept.tickets;
                    }
                    if self.mesh.is_none() {
                        keys.mesh = kept.mesh;
                    }
                }
                Err(error) => {
                    let place = Place::whole(&data.join(KEPT).display().to_string());
                    problems.add_at(&place, "", format!("keys cannot be kept here: {error}"));
                }
            }
        }
        if problems.is_empty() { Ok(keys) } else { Err(problems.into_vec()) }
    }
}

/// What to do about a file of keys that cannot be used.
const RESTORE: &str = "restore it from a backup, or remove it and let all players log in anew";

/// CRC-32 (IEEE) over both keys: a flipped digit would give other keys, which nobody notices.
fn checksum(tickets: &[u8; 32], mesh: &[u8; 32]) -> u32 {
    let mut sum = !0u32;
    for byte in tickets.iter().chain(mesh) {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
        }
    }
    !sum
}

impl Keys {
    /// By which data processes and those who use them know each other: that of the mesh, or the first of
    /// tickets where all are on one machine and share the keys in its folder.
    pub fn data(&self) -> &[u8] {
        let key = self.mesh.as_ref().or(self.tickets.first().map(|(_, key)| key));
        key.map_or(&[][..], |key| &key[..])
    }

    /// The keys kept in `keys.json` of `folder`, made on first use. If several processes come
    /// first at once, all get the keys of one of them.
    ///
    /// # Errors
    /// If the folder or file cannot be made or read, or holds no keys.
    pub fn kept(folder: &Path, random: &mut Random) -> io::Result<Keys> {
        let path = folder.join(KEPT);
        match std::fs::read(&path) {
            Ok(bytes) => return Self::parse_kept(&path, &bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        std::fs::create_dir_all(folder)?;
        let (tickets, mesh) = (random.bytes::<32>(), random.bytes::<32>());
        let text = format!(
            "// Made by Mainstay. Whoever reads this can play as anybody.\n\
             {{\"tickets\": \"{}\", \"mesh\": \"{}\", \"check\": \"{:08x}\"}}\n",
            hex(&tickets),
            hex(&mesh),
            checksum(&tickets, &mesh)
        );
        let draft = folder.join(format!("{KEPT}.{:016x}", random.u64()));
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let written = options.open(&draft).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        // A link fails where a rename would replace what another process has just begun to use.
        let linked = written.and_then(|()| std::fs::hard_link(&draft, &path));
        let removed = std::fs::remove_file(&draft);
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => removed?,
        }
        // Nothing is signed by keys whose name may not outlive a power cut.
        #[cfg(unix)]
        std::fs::File::open(folder)?.sync_all()?;
        Self::parse_kept(&path, &std::fs::read(&path)?)
    }

    fn parse_kept(path: &Path, bytes: &[u8]) -> io::Result<Keys> {
        let wrong = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
        let value = tables::parse(&path.display().to_string(), bytes, &Limits::default())
            .map_err(|problem| wrong(problem.to_string()))?;
        let text = |name: &str| value.get(name).and_then(Value::as_text).unwrap_or_default();
        let key = |name: &str| {
            parse_key(text(name))
                .ok_or_else(|| wrong(format!("{}: no key {name:?}: {RESTORE}", path.display())))
        };
        let (tickets, mesh) = (key("tickets")?, key("mesh")?);
        let members = value.as_map().map_or(0, |entries| entries.len());
        // Files of the first releases have no checksum.
        let fits = match text("check") {
            "" => members == 2,
            sum => members == 3 && *sum == format!("{:08x}", checksum(&tickets, &mesh)),
        };
        if !fits {
            return Err(wrong(format!("{} is damaged: {RESTORE}", path.display())));
        }
        Ok(Keys { tickets: vec![(1, tickets)], mesh: Some(mesh), console: None })
    }
}

/// By where it is to be found, wherever the file says so.
impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        self.source == other.source
    }
}

impl Eq for Secret {}

impl Secret {
    pub(super) fn read(item: &Item<'_>, folder: &Path) -> Option<Secret> {
        let (place, path) = (item.place().clone(), item.path().to_string());
        if let Some(text) = item.value().as_text() {
            return Some(Secret { source: Source::Literal(text.to_string()), place, path });
        }
        if item.value().as_map().is_none() {
            item.fail("a secret is {\"env\": \"NAME\"}, {\"file\": \"path\"} or a text");
            return None;
        }
        let section = item.section()?;
        let name = section.item("env").and_then(|item| item.text());
        let file = section.item("file").and_then(|item| item.text());
        let source = match (name, file) {
            (Some(name), None) => Source::Environment(name.to_string()),
            (None, Some(file)) => Source::File(folder.join(file)),
            _ => {
                item.fail("a secret is either {\"env\": \"NAME\"} or {\"file\": \"path\"}");
                return None;
            }
        };
        Some(Secret { source, place, path })
    }

    /// A key in the file itself can be checked at once.
    fn check_literal(&self, item: &Item<'_>) {
        if let Source::Literal(text) = &self.source
            && parse_key(text).is_none()
        {
            item.fail(NO_KEY);
        }
    }

    fn key(&self, vault: &Vault, problems: &Problems) -> Option<[u8; 32]> {
        let text = self.fetch(vault, problems)?;
        let key = parse_key(&text);
        if key.is_none() {
            let message = format!("{}: {NO_KEY}", self.whence());
            problems.add_at(&self.place, &self.path, message);
        }
        key
    }

    fn fetch(&self, vault: &Vault, problems: &Problems) -> Option<String> {
        let told = |message| problems.add_at(&self.place, &self.path, message);
        self.reveal(vault).map_err(told).ok()
    }

    /// The secret, or what is missing where it should be.
    pub(super) fn reveal(&self, vault: &Vault) -> Result<String, String> {
        let fetched = match &self.source {
            Source::Literal(text) => Ok(text.clone()),
            Source::Environment(name) => (vault.environment)(name).ok_or("is not set".to_string()),
            Source::File(path) => (vault.file)(path).map_err(|error| error.to_string()),
        };
        let fetched =
            fetched.map(|text| text.trim().to_string()).and_then(|text| match text.len() {
                0 => Err("is empty".to_string()),
                1..=SECRET_BYTES_MAX => Ok(text),
                _ => Err(format!("is longer than {SECRET_BYTES_MAX} bytes")),
            });
        fetched.map_err(|error| format!("{} {error}", self.whence()))
    }

    /// Where the secret is, without telling it.
    fn whence(&self) -> String {
        match &self.source {
            Source::Literal(_) => "the text".to_string(),
            Source::Environment(name) => format!("the environment variable {name}"),
            Source::File(path) => format!("the file {}", path.display()),
        }
    }
}

impl Vault {
    /// This process's environment, and files.
    pub fn system() -> Vault {
        Vault::new(
            |name| std::env::var(name).ok(),
            |path| {
                use io::Read;
                let mut text = String::new();
                let file = std::fs::File::open(path)?;
                file.take(SECRET_BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
                Ok(text)
            },
        )
    }

    /// Secrets from elsewhere: `environment` by name, `file` by path.
    pub fn new(
        environment: impl Fn(&str) -> Option<String> + 'static,
        file: impl Fn(&Path) -> io::Result<String> + 'static,
    ) -> Vault {
        Vault { environment: Box::new(environment), file: Box::new(file) }
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.whence())
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<u8> = self.tickets.iter().map(|(id, _)| *id).collect();
        f.debug_struct("Keys")
            .field("tickets", &ids)
            .field("mesh", &self.mesh.is_some())
            .field("console", &self.console.is_some())
            .finish()
    }
}

const NO_KEY: &str = "a key is 64 hexadecimal digits (openssl rand -hex 32)";

fn parse_key(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut key = [0; 32];
    for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).expect("hexadecimal digits");
        *byte = u8::from_str_radix(pair, 16).expect("hexadecimal digits");
    }
    Some(key)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
