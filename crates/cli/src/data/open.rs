use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use mainstay::StartError;
use mainstay::config::{Config, Input, Keys, Process, StorePlace, Vault};
use mainstay::env::Random;
use mainstay::store::{Key, NodeBeat, OpenError, Store};

/// A node that lives beats once a second.
const BEAT_WAIT: Duration = Duration::from_millis(2_500);

/// Which store.
#[derive(clap::Args)]
pub struct Where {
    /// The cluster file that names the store.
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// Whose store, if the cluster file has several processes. Where it has data processes, the store
    /// is reached through those, unless one of them is named: then as that one has it, which must not run
    /// if the store is for one process.
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

/// How a store is reached.
enum Way {
    /// It is opened here.
    Own(StorePlace),
    /// Through the data processes that this process uses, by the cluster's keys and under that name.
    Served(Box<Process>, Keys, String),
}

impl Way {
    /// Opens a store that must be there.
    fn open(&self) -> anyhow::Result<Store> {
        match self {
            Way::Own(place) => {
                must_be_there(place)?;
                open(place)
            }
            Way::Served(process, keys, name) => {
                mainstay::open_served_store(process, keys, name).context(SERVED)
            }
        }
    }
}

/// What to do where data processes do not answer.
const SERVED: &str = "the cluster file has data processes in front of its stores: start one, or name one \
                      that does not run by --process, to open its stores here";

impl Where {
    /// Opens a store that must be there.
    pub fn open(&self) -> anyhow::Result<Store> {
        self.chosen(self.way()?)
    }

    /// As [`open`](Self::open), for what is done with one shard at a time.
    pub fn open_one(&self) -> anyhow::Result<Store> {
        one(self.open()?)
    }

    /// All shards of a store that has several.
    pub fn open_set(&self) -> anyhow::Result<Store> {
        let store = own(&self.way()?)?;
        ensure!(!store.shards().is_empty(), "the store has no shards, so it has no slots");
        Ok(store)
    }

    fn chosen(&self, way: Way) -> anyhow::Result<Store> {
        let Some(name) = &self.shard else { return way.open() };
        let store = way.open()?;
        let number = shard(&store, name)?;
        match way {
            Way::Own(_) => Ok(store.shards()[number].1.clone()),
            Way::Served(process, keys, of) => {
                Way::Served(process, keys, format!("{of}/{name}")).open()
            }
        }
    }

    /// Opens a store, made if it is not there.
    pub fn open_or_make(&self) -> anyhow::Result<Store> {
        match self.way()? {
            Way::Own(place) => {
                let store = open(&place)?;
                let Some(name) = &self.shard else { return one(store) };
                one(store.shards()[shard(&store, name)?].1.clone())
            }
            way @ Way::Served(..) => own(&way),
        }
    }

    /// Opens the further stores of the game, shard by shard: those that the cluster file names, and these.
    pub fn open_further(&self, named: &[String]) -> anyhow::Result<Vec<Store>> {
        let mut ways = self.further()?;
        for named in named {
            ways.push(Way::Own(place_of(named)?));
        }
        let mut stores = Vec::new();
        for way in ways {
            let store = way.open()?;
            let names = store.shard_names().wait()?;
            match way {
                Way::Served(process, keys, of) if !names.is_empty() => {
                    for name in names {
                        let name = format!("{of}/{name}");
                        stores.push(Way::Served(process.clone(), keys.clone(), name).open()?);
                    }
                }
                _ if names.is_empty() => stores.push(store),
                _ => stores.extend(store.shards().iter().map(|(_, shard)| shard.clone())),
            }
        }
        Ok(stores)
    }

    /// Makes sure that no node writes to the store: the row of one that was killed may be there still.
    pub fn quiet(&self, store: &Store) -> anyhow::Result<Vec<NodeBeat>> {
        let before = store.nodes().wait()?;
        // An embedded store is for one process, and that is we.
        let is_ours = matches!(self.way()?, Way::Own(place) if place.is_for_one_process());
        if before.is_empty() || is_ours {
            return Ok(before);
        }
        std::thread::sleep(BEAT_WAIT);
        let after = store.nodes().wait()?;
        if let Some(moved) = after.iter().find(|node| !before.contains(node)) {
            bail!("node {} uses the store now: stop it, then try again", moved.incarnation);
        }
        Ok(after)
    }

    /// The process of the cluster file whose stores are meant, and the cluster's keys if it has them through
    /// data processes.
    fn process_of(&self, file: &Path) -> anyhow::Result<(Process, Option<Keys>)> {
        let roles = arena::app().role_names();
        let hint = "this command knows the arena's roles only; for the cluster file of another \
                    game, name its store by --store";
        let config = Config::check(file, &roles).map_err(anyhow::Error::new).context(hint)?;
        // All that use data processes have the same stores.
        let uses = || config.processes.iter().find(|process| !process.data_processes.is_empty());
        let process = match self.process.as_deref() {
            None if uses().is_some() => uses().expect("just found"),
            name => config.choose(name).map_err(anyhow::Error::msg)?,
        };
        if process.data_processes.is_empty() {
            return Ok((process.clone(), None));
        }
        let keys = config.keys.resolve(&Vault::system(), &process.data, &mut Random::from_os());
        let keys = keys.map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            anyhow::anyhow!(lines.join("\n"))
        })?;
        Ok((process.clone(), Some(keys)))
    }

    /// The stores that the cluster file names beside the default one.
    fn further(&self) -> anyhow::Result<Vec<Way>> {
        let Some(file) = &self.cluster else { return Ok(Vec::new()) };
        let (process, keys) = self.process_of(file)?;
        let way = |(name, place): &(String, StorePlace)| match &keys {
            Some(keys) => Way::Served(Box::new(process.clone()), keys.clone(), name.clone()),
            None => Way::Own(place.clone()),
        };
        Ok(process.stores.iter().map(way).collect())
    }

    fn way(&self) -> anyhow::Result<Way> {
        if let Some(file) = &self.cluster {
            return Ok(match self.process_of(file)? {
                (process, Some(keys)) => Way::Served(Box::new(process), keys, String::new()),
                (process, None) => Way::Own(process.store),
            });
        }
        Ok(Way::Own(match &self.store {
            Some(named) => place_of(named)?,
            None => StorePlace::Embedded(self.data.join("local.store")),
        }))
    }

    /// Opens another store, made if it is not there and `make`; `None`: it is not there. It must not be the
    /// one that is named here.
    pub fn open_other(&self, named: &str, make: bool) -> anyhow::Result<Option<Store>> {
        let place = place_of(named)?;
        ensure!(
            !matches!(self.way()?, Way::Own(own) if own == place),
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

/// Opens a store that is opened here, and no other.
fn own(way: &Way) -> anyhow::Result<Store> {
    match way {
        Way::Own(_) => way.open(),
        Way::Served(..) => bail!(
            "this is for whoever has the store itself: name a data process of the cluster file by --process"
        ),
    }
}

/// The number of the shard of that name.
pub fn shard(store: &Store, name: &str) -> anyhow::Result<usize> {
    let names = store.shard_names().wait()?;
    ensure!(!names.is_empty(), "the store has no shards");
    let near = mainstay::config::nearest(name, names.iter().map(String::as_str));
    names.iter().position(|known| known == name).with_context(|| match near {
        Some(near) => format!("there is no shard {name:?}; did you mean {near:?}?"),
        None => format!("there is no shard {name:?}; there are {}", names.join(", ")),
    })
}

fn one(store: Store) -> anyhow::Result<Store> {
    let names = store.shard_names().wait()?;
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
