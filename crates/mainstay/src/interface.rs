//! The promise to older peers, checked with a game's other tests.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use proto::schema::{Lock, Schema};

use crate::App;

/// The variable that lets [`check_interface`] write: `update`, or `break` to break older peers on
/// purpose.
const VARIABLE: &str = "MAINSTAY_INTERFACE";

/// Fails if the game no longer keeps what its `interface.lock` promises to older clients and
/// nodes: a method's id vanished or is used again, or its arguments changed. A game has one test
/// that calls this:
///
/// ```no_run
/// # let app = mainstay::App::new("bells");
/// mainstay::testkit::check_interface("interface.lock", &app);
/// ```
///
/// With `MAINSTAY_INTERFACE=update` it writes the lock instead, if all that changed is new. With
/// `MAINSTAY_INTERFACE=break` it writes it whatever changed: removed ids are retired for ever, and
/// older clients are told to update. `path` is taken from the package's folder.
///
/// # Panics
///
/// As said; with every change, and what to do about it.
pub fn check_interface(path: impl AsRef<Path>, app: &App) {
    let path = path.as_ref();
    let wish = std::env::var(VARIABLE).unwrap_or_default();
    let schema = app.schema().unwrap_or_else(|error| panic!("{error}"));
    if let Err(problem) = check(path, schema, &wish) {
        panic!("{}: {problem}", path.display());
    }
}

fn check(path: &Path, schema: Schema, wish: &str) -> Result<(), String> {
    let writes = match wish {
        "" => None,
        "update" => Some(false),
        "break" => Some(true),
        other => return Err(format!("{VARIABLE} is {other:?}: write `update` or `break`")),
    };
    let lock = match fs::read_to_string(path) {
        Ok(text) => Some(Lock::parse(&text).map_err(|error| error.to_string())?),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error.to_string()),
    };
    let next = match (lock, writes) {
        (Some(lock), None) => return lock.verify(&schema).map_err(|error| error.to_string()),
        (None, None) => {
            let write = format!("write it with `{VARIABLE}=update cargo test` and commit it");
            return Err(format!("there is no interface.lock yet: {write}"));
        }
        (None, Some(_)) => Lock::new(schema),
        (Some(lock), Some(accept_breaking)) => {
            if lock.verify(&schema).is_ok() {
                return Ok(());
            }
            lock.update(schema, accept_breaking).map_err(|error| error.to_string())?
        }
    };
    replace(path, next.render().as_bytes()).map_err(|error| format!("it is as it was: {error}"))
}

/// Writes the whole of a file or leaves it as it was: half a lock would promise less.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let draft = path.with_file_name(name);
    let written = fs::File::create(&draft).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let replaced = written.and_then(|()| fs::rename(&draft, path));
    if replaced.is_err() {
        let _ = fs::remove_file(&draft);
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prelude::*;

    mod first {
        use super::*;

        #[entity(root = crate::rt, name = "bell")]
        #[derive(Default)]
        pub struct Bell {}

        #[rpc(root = crate::rt)]
        impl Bell {
            #[request(client)]
            fn ring(&mut self) -> u64 {
                1
            }
        }
    }

    mod grown {
        use super::*;

        #[entity(root = crate::rt, name = "bell")]
        #[derive(Default)]
        pub struct Bell {}

        #[rpc(root = crate::rt)]
        impl Bell {
            #[request(client)]
            fn silence(&mut self) -> u64 {
                1
            }
            #[request(client)]
            fn ring(&mut self) -> u64 {
                1
            }
        }
    }

    mod shrunk {
        use super::*;

        #[entity(root = crate::rt, name = "bell")]
        #[derive(Default)]
        pub struct Bell {}

        #[rpc(root = crate::rt)]
        impl Bell {
            #[request(client)]
            fn silence(&mut self) -> u64 {
                1
            }
        }
    }

    fn schema<E: node::rt::Entity>() -> Schema {
        App::new("bells").entity::<E>().schema().unwrap()
    }

    /// Ids were given by position: reordering methods in one file broke every client in the field,
    /// and nothing said so before they called.
    #[test]
    fn a22_a_vanished_or_reused_id_fails_the_games_own_test() {
        let folder = std::env::temp_dir().join(format!("mainstay-lock-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("interface.lock");
        let check = |schema, wish| check(&path, schema, wish);
        let missing = check(schema::<first::Bell>(), "").unwrap_err();
        assert!(missing.contains("MAINSTAY_INTERFACE=update cargo test"), "{missing}");
        check(schema::<first::Bell>(), "update").unwrap();
        check(schema::<first::Bell>(), "").unwrap();
        // What is only new, in whatever order, is asked to be written down.
        let grown = check(schema::<grown::Bell>(), "").unwrap_err();
        assert!(grown.contains("out of date") && grown.contains("silence"), "{grown}");
        check(schema::<grown::Bell>(), "update").unwrap();
        // What vanished is not written by mistake.
        for wish in ["", "update"] {
            let gone = check(schema::<shrunk::Bell>(), wish).unwrap_err();
            assert!(gone.contains("ring") && gone.contains("MAINSTAY_INTERFACE=break"), "{gone}");
        }
        check(schema::<shrunk::Bell>(), "break").unwrap();
        check(schema::<shrunk::Bell>(), "").unwrap();
        // And its id stays retired.
        let again = check(schema::<grown::Bell>(), "update").unwrap_err();
        assert!(again.contains("reuses the id"), "{again}");
        assert!(check(schema::<grown::Bell>(), "yes").unwrap_err().contains("`update` or `break`"));
        fs::remove_dir_all(&folder).unwrap();
    }

    /// What a game stores, in its first release and in one that forgot what was there.
    mod stored {
        use super::*;

        pub mod first {
            #[derive(Default, macros::Document)]
            #[document(root = crate::rt, record = "guild", key = u64)]
            pub struct Guild {
                #[persist]
                pub title: String,
                #[persist]
                pub members: Vec<u64>,
            }
        }

        pub mod second {
            #[derive(Default, macros::Document)]
            #[document(root = crate::rt, record = "guild", key = u64)]
            pub struct Guild {
                #[persist]
                pub title: String,
            }
        }

        pub mod third {
            use super::*;

            #[derive(Default, macros::Document)]
            #[document(root = crate::rt, record = "guild", key = u64, version = 2, from = first::Guild)]
            pub struct Guild {
                #[persist]
                pub title: String,
            }

            impl From<first::Guild> for Guild {
                fn from(old: first::Guild) -> Self {
                    Guild { title: format!("{} ({})", old.title, old.members.len()) }
                }
            }
        }

        pub fn schema<R: node::data::Record>() -> Schema {
            App::new("guilds").record::<R>().schema().unwrap()
        }
    }

    #[test]
    fn f1_a_change_that_would_lose_what_is_stored_fails_the_games_own_test() {
        let folder = std::env::temp_dir().join(format!("mainstay-guild-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("interface.lock");
        let check = |schema, wish| check(&path, schema, wish);
        check(stored::schema::<stored::first::Guild>(), "update").unwrap();
        for wish in ["", "update"] {
            let lost = check(stored::schema::<stored::second::Guild>(), wish).unwrap_err();
            let says = "record/guild.members: was removed, and what is stored of it would be lost";
            assert!(lost.contains(says) && lost.contains("from = OldType"), "{lost}");
        }
        // With a step from the older type it is asked to be written down, and taken.
        let stepped = check(stored::schema::<stored::third::Guild>(), "").unwrap_err();
        assert!(stepped.contains("out of date") && stepped.contains("by steps"), "{stepped}");
        check(stored::schema::<stored::third::Guild>(), "update").unwrap();
        check(stored::schema::<stored::third::Guild>(), "").unwrap();
        fs::remove_dir_all(&folder).unwrap();
    }

    /// A disk that was full left half a lock, which promised less than the whole one.
    #[test]
    fn a_lock_that_cannot_be_written_stays_as_it_was() {
        let folder = std::env::temp_dir().join(format!("mainstay-kept-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("interface.lock");
        check(&path, schema::<first::Bell>(), "update").unwrap();
        let whole = fs::read(&path).unwrap();
        // The draft cannot be made.
        let draft = folder.join(format!("interface.lock.{}", std::process::id()));
        fs::create_dir(&draft).unwrap();
        let refused = check(&path, schema::<grown::Bell>(), "update").unwrap_err();
        assert!(refused.contains("it is as it was"), "{refused}");
        assert!(fs::read(&path).unwrap() == whole);
        fs::remove_dir(&draft).unwrap();
        check(&path, schema::<grown::Bell>(), "update").unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no draft is left");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_damaged_lock_fails_the_games_own_test() {
        let folder = std::env::temp_dir().join(format!("mainstay-torn-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("interface.lock");
        let schema = schema::<grown::Bell>();
        check(&path, schema.clone(), "update").unwrap();
        let whole = fs::read(&path).unwrap();
        let text = |bytes: &[u8]| {
            let text = std::str::from_utf8(bytes).ok()?;
            Lock::parse(text).ok().map(|lock| lock.render())
        };
        let original = text(&whole);
        let cuts = (0..whole.len()).map(|at| whole[..at].to_vec());
        let flips = (0..whole.len() * 8).map(|bit| {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        });
        for bytes in cuts.chain(flips) {
            // Only a comment or the end of the last line may differ.
            let is_harmless = text(&bytes) == original;
            fs::write(&path, &bytes).unwrap();
            let checked = check(&path, schema.clone(), "");
            let shown = String::from_utf8_lossy(&bytes).into_owned();
            assert!(checked.is_err() || is_harmless, "taken: {shown}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
