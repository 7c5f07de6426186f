use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use mainstay::Exit;

/// The checkout that this command was built from: until the crates are published, new games
/// depend on it.
const CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

const SDK: &str = include_str!("../../../sdk/typescript/dist/mainstay.js");

#[derive(clap::Args)]
pub struct New {
    /// Folder to make; its last part is the package's name.
    path: PathBuf,
    /// What to start from.
    #[arg(long, value_enum, default_value_t = Template::Hello)]
    template: Template,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Template {
    /// A bell that everybody can ring: entity, page, test.
    Hello,
    /// The arena: scene, replication, bots.
    Arena,
}

/// Files of a template: path in the package, content.
type Files = &'static [(&'static str, &'static str)];

macro_rules! files {
    ($folder:literal: $($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!($folder, $path)))),*]
    };
}

const HELLO: Files = files!("../templates/hello/": "src/main.rs", "src/lib.rs", "web/index.html", "web/hello.js", "tests/bell.rs", "interface.lock");

const ARENA: Files = files!("../../../samples/arena/":
    "src/lib.rs", "src/main.rs", "src/avatar.rs", "src/bot.rs", "src/field.rs", "src/lobby.rs",
    "src/messages.rs", "src/parcels.rs", "src/rules.rs", "src/wallet.rs", "src/web.rs", "src/world.rs", "src/world/saved.rs",
    "tests/play.rs", "interface.lock",
    "web/index.html", "web/arena.css", "web/arena.js", "web/view.js",
);

impl New {
    pub fn run(self) -> anyhow::Result<Exit> {
        let path = std::path::absolute(&self.path)?;
        let name = path.file_name().and_then(|name| name.to_str()).context("a path with a name")?;
        check_name(name)?;
        ensure!(!path.exists(), "{} exists already: choose another name", path.display());
        let checkout = fs::canonicalize(CHECKOUT).with_context(|| {
            format!("the checkout {CHECKOUT} is gone: build this command again")
        })?;
        let files = match self.template {
            Template::Hello => HELLO,
            Template::Arena => ARENA,
        };
        let package = name.replace('-', "_");
        for (file, content) in files {
            let content = match self.template {
                Template::Hello => content.replace("hello::", &format!("{package}::")),
                Template::Arena => content
                    .replace("arena::", &format!("{package}::"))
                    .replace("../../../sdk/typescript/dist/mainstay.js", "../web/mainstay.js"),
            };
            write(&path.join(file), &content)?;
        }
        write(&path.join("web/mainstay.js"), SDK)?;
        write(&path.join("Cargo.toml"), &manifest(name, &checkout))?;
        write(&path.join(".gitignore"), "/target\n/data\n")?;
        println!("{} is ready:\n", path.display());
        println!("  cd {}", self.path.display());
        println!("  cargo run --release    # then open the address it prints");
        println!("  cargo test             # its game in a simulated cluster");
        Ok(Exit::Well)
    }
}

fn check_name(name: &str) -> anyhow::Result<()> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(good) {
        bail!(
            "`{name}` is no package name: use small letters, digits, `-` and `_`, a letter first"
        );
    }
    let taken = ["mainstay", "test", "core", "std", "proc-macro"];
    ensure!(
        !taken.contains(&name),
        "a package called `{name}` would hide another: choose another name"
    );
    Ok(())
}

fn manifest(name: &str, checkout: &Path) -> String {
    let facade = checkout.join("crates/mainstay");
    // A debug-quoted path is a valid TOML string.
    format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\npublish = false\n\n\
         [dependencies]\nmainstay = {{ path = {:?} }}\n\n\
         [profile.dev]\ndebug = \"line-tables-only\"\n\n\
         # Not part of any workspace around it.\n[workspace]\n",
        facade.display().to_string()
    )
}

fn write(path: &Path, content: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All files below `folder`, by their paths in the package at `root`.
    fn list(root: &Path, folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                list(root, &path, found);
            } else {
                found.push(path.strip_prefix(root).unwrap().display().to_string());
            }
        }
    }

    #[test]
    fn templates_have_all_files_of_their_games() {
        for (files, root) in [(HELLO, "templates/hello"), (ARENA, "../../samples/arena")] {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root).canonicalize().unwrap();
            let mut found = vec!["interface.lock".to_owned()];
            for folder in ["src", "web", "tests"] {
                list(&root, &root.join(folder), &mut found);
            }
            found.sort_unstable();
            let mut listed: Vec<&str> = files.iter().map(|(path, _)| *path).collect();
            listed.sort_unstable();
            assert_eq!(listed, found, "{}", root.display());
        }
    }
}
