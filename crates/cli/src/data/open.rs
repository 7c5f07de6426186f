use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use mainstay::StartError;
use mainstay::config::{Config, Input, Process, StorePlace};
use mainstay::store::{Key, NodeBeat, OpenError, Store};

/// A node that lives beats once a second.
const BEAT_WAIT: Duration = Duration::from_millis(2_500);

/// Which store.
#[derive(clap::Args)]
pub struct Where {
    /// The cluster file that names the store.
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// Whose store, if the cluster file has several processes and names no store for all.
    #[arg(long, value_name = "NAME", requires = "cluster")]
    process: Option<String>,
    /// The store itself, as a cluster file would name it: `embedded:data/local.store`,
    /// `sqlite:data/game.sqlite`, or the whole value, such as `{"sqlite": "data/game.sqlite"}`.
    #[arg(long, value_name = "STORE", conflicts_with = "cluster")]
    store: Option<String>,
    /// One shard of a store that has several.
    #[arg(long, value_name = "NAME")]
    shard: Option<String>,
    /// The data folder of a game without a cluster file.
    #[arg(long, value_name = "FOLDER", default_value = "data")]
    data: PathBuf,
}

impl Where {
    /// Opens a store that must be there.
    pub fn open(&self) -> anyhow::Result<Store> {
        let place = self.place()?;
        must_be_there(&place)?;
        self.chosen(open(&place)?)
    }

    /// As [`open`](Self::open), for what is done with one shard at a time.
    pub fn open_one(&self) -> anyhow::Result<Store> {
        one(self.open()?)
    }

    /// All shards of a store that has several.
    pub fn open_set(&self) -> anyhow::Result<Store> {
        let place = self.place()?;
        must_be_there(&place)?;
        let store = open(&place)?;
        ensure!(!store.shards().is_empty(), "the store has no shards, so it has no slots");
        Ok(store)
    }

    fn chosen(&self, store: Store) -> anyhow::Result<Store> {
        let Some(name) = &self.shard else { return Ok(store) };
        Ok(store.shards()[shard(&store, name)?].1.clone())
    }

    /// Opens a store, made if it is not there.
    pub fn open_or_make(&self) -> anyhow::Result<Store> {
        one(self.chosen(open(&self.place()?)?)?)
    }

    /// Opens the further stores of the game, shard by shard: those that the cluster file names, and these.
    pub fn open_further(&self, named: &[String]) -> anyhow::Result<Vec<Store>> {
        let mut places = self.further()?;
        for named in named {
            places.push(place_of(named)?);
        }
        let mut stores = Vec::new();
        for place in &places {
            must_be_there(place)?;
            let store = open(place)?;
            match store.shards() {
                [] => stores.push(store),
                shards => stores.extend(shards.iter().map(|(_, shard)| shard.clone())),
            }
        }
        Ok(stores)
    }

    /// Makes sure that no node writes to the store: the row of one that was killed may be there still.
    pub fn quiet(&self, store: &Store) -> anyhow::Result<Vec<NodeBeat>> {
        let before = store.nodes().wait()?;
        // An embedded store is for one process, and that is we.
        if before.is_empty() || self.place()?.is_for_one_process() {
            return Ok(before);
        }
        std::thread::sleep(BEAT_WAIT);
        let after = store.nodes().wait()?;
        if let Some(moved) = after.iter().find(|node| !before.contains(node)) {
            bail!("node {} uses the store now: stop it, then try again", moved.incarnation);
        }
        Ok(after)
    }

    fn process_of(&self, file: &Path) -> anyhow::Result<Process> {
        let roles = arena::app().role_names();
        let hint = "this command knows the arena's roles only; for the cluster file of another \
                    game, name its store by --store";
        let config = Config::check(file, &roles).map_err(anyhow::Error::new).context(hint)?;
        Ok(config.choose(self.process.as_deref()).map_err(anyhow::Error::msg)?.clone())
    }

    /// The stores that the cluster file names beside the default one.
    fn further(&self) -> anyhow::Result<Vec<StorePlace>> {
        let Some(file) = &self.cluster else { return Ok(Vec::new()) };
        Ok(self.process_of(file)?.stores.into_iter().map(|(_, place)| place).collect())
    }

    fn place(&self) -> anyhow::Result<StorePlace> {
        if let Some(file) = &self.cluster {
            return Ok(self.process_of(file)?.store);
        }
        let Some(named) = &self.store else {
            return Ok(StorePlace::Embedded(self.data.join("local.store")));
        };
        place_of(named)
    }

    /// Opens another store, made if it is not there and `make`; `None`: it is not there. It must not be the
    /// one that is named here.
    pub fn open_other(&self, named: &str, make: bool) -> anyhow::Result<Option<Store>> {
        let place = place_of(named)?;
        ensure!(
            place != self.place()?,
            "`{named}` is the store itself: name another one, such as embedded:archive.store"
        );
        if !make && must_be_there(&place).is_err() {
            return Ok(None);
        }
        Ok(Some(one(open(&place)?)?))
    }
}

/// Reads the name of a store as a cluster file would.
fn place_of(named: &str) -> anyhow::Result<StorePlace> {
    let value = match named.split_once(':') {
        Some((kind, rest)) if !named.trim_start().starts_with('{') => {
            format!("{{{kind:?}: {rest:?}}}")
        }
        _ => named.to_owned(),
    };
    // Read by the cluster file's own reader, so that it knows every kind of store.
    let text = format!(
        "{{\"cluster\": \"data\", \"store\": {value},\n\
         \"processes\": {{\"local\": {{\"roles\": [\"node\"]}}}}}}"
    );
    let input = Input::of_text("", &text);
    let config = Config::from_input(&input, &arena::app().role_names());
    let config =
        config.map_err(anyhow::Error::new).with_context(|| format!("`{named}` names no store"))?;
    Ok(config.processes[0].store.clone())
}

/// The number of the shard of that name.
pub fn shard(store: &Store, name: &str) -> anyhow::Result<usize> {
    let names: Vec<&str> = store.shards().iter().map(|(name, _)| name.as_str()).collect();
    ensure!(!names.is_empty(), "the store has no shards");
    let near = mainstay::config::nearest(name, names.iter().copied());
    names.iter().position(|known| *known == name).with_context(|| match near {
        Some(near) => format!("there is no shard {name:?}; did you mean {near:?}?"),
        None => format!("there is no shard {name:?}; there are {}", names.join(", ")),
    })
}

fn one(store: Store) -> anyhow::Result<Store> {
    let names: Vec<&str> = store.shards().iter().map(|(name, _)| name.as_str()).collect();
    ensure!(names.is_empty(), "the store has the shards {}: name one by --shard", names.join(", "));
    Ok(store)
}

fn must_be_there(place: &StorePlace) -> anyhow::Result<()> {
    match place {
        StorePlace::Embedded(file) | StorePlace::Sqlite(file) => ensure!(
            file.exists(),
            "there is no store {}: name yours by --data, --store or --cluster",
            file.display()
        ),
        // One that is new has nothing yet.
        StorePlace::Shards(shards) => {
            let mut there = shards.iter().map(|(_, place)| must_be_there(place));
            if !there.clone().any(|there| there.is_ok()) {
                return there.next().unwrap_or(Ok(()));
            }
        }
        _ => {}
    }
    Ok(())
}

fn open(place: &StorePlace) -> anyhow::Result<Store> {
    ensure!(*place != StorePlace::Memory, "a store in memory ends with its process");
    mainstay::open_store(place).map_err(|error| match error {
        StartError::Store(OpenError::InUse(path)) => {
            anyhow::anyhow!("{path} is in use: stop the server that has it open, then try again")
        }
        other => anyhow::Error::new(other),
    })
}

/// `avatar/7`, `avatar/0x..`, or the 32 hexadecimal digits of a key.
pub fn entity(text: &str) -> anyhow::Result<Key> {
    if let Some((kind, key)) = text.split_once('/') {
        let number = match key.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => key.parse().ok(),
        };
        let number = number.with_context(|| format!("`{key}` is no key: write a number"))?;
        return Ok(Key(u128::from(kind_id(kind)) << 64 | u128::from(number)));
    }
    let key = (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten();
    key.map(Key).with_context(|| {
        format!("`{text}` names no entity: write KIND/NUMBER, such as avatar/7, or 32 hex digits")
    })
}

pub fn kind_id(name: &str) -> u32 {
    mainstay::proto::name_hash(name)
}

/// A key as `entity` reads it, with the name of its kind if the arena has it.
pub fn shown(key: Key) -> String {
    let kind = (key.0 >> 64) as u32;
    let names = ["avatar", "lobby", "field"];
    match names.into_iter().find(|name| kind_id(name) == kind && key.0 >> 96 == 0) {
        Some(name) => format!("{name}/{}", key.0 as u64),
        None => key.to_string(),
    }
}

pub fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
