use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::shell::{has, run};

/// Where Debian puts Chromium.
pub const CHROMIUM: &str = "/usr/bin/chromium";

/// Packages' scripts ask this program whether a service may be started.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs what the tests need beyond Rust: Chromium and servers by `apt-get`, the MongoDB-compatible server by
/// `pip`, Node packages by `npm ci`. What is there already costs nothing.
pub fn install() -> anyhow::Result<()> {
    let mut packages = Vec::new();
    if !Path::new(CHROMIUM).exists() {
        packages.extend(["chromium", "fonts-dejavu-core"]);
    }
    // Building the client of etcd reads these.
    if !Path::new("/usr/include/google/protobuf/any.proto").exists() || !has("protoc") {
        packages.extend(["protobuf-compiler", "libprotobuf-dev"]);
    }
    let mut mongo = false;
    if servers::skipped() {
        println!("neither database nor message servers are installed");
    } else {
        let missing = servers::missing();
        packages.extend(missing.packages);
        mongo = missing.mongo;
    }
    if !packages.is_empty() {
        debian(&packages)?;
    }
    if mongo {
        install_mongo()?;
    }
    anyhow::ensure!(has("node") && has("npm"), "Node.js 20 or newer with npm is needed");
    run("sdk/typescript", "npm", &["ci", "--no-audit", "--no-fund"])?;
    run("samples/arena/browser", "npm", &["ci", "--no-audit", "--no-fund"])?;
    Ok(())
}

/// Installs packages without starting what they bring.
fn debian(packages: &[&str]) -> anyhow::Result<()> {
    let _policy = Policy::forbid_starting()?;
    run(".", "apt-get", &["update", "-q"])?;
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    run(".", "apt-get", &arguments)
}

/// While it lives, no package starts a service. What was there before comes back.
struct Policy {
    before: Option<PathBuf>,
}

impl Policy {
    fn forbid_starting() -> anyhow::Result<Self> {
        let kept = Path::new("/usr/sbin/policy-rc.d.before-mainstay");
        let before = Path::new(POLICY).exists().then(|| kept.to_path_buf());
        if let Some(kept) = &before {
            fs::rename(POLICY, kept)
                .context("installing packages needs root; MAINSTAY_SKIP_SERVERS=1 skips servers")?;
        }
        let this = Self { before };
        fs::write(POLICY, "#!/bin/sh\nexit 101\n")
            .context("installing packages needs root; MAINSTAY_SKIP_SERVERS=1 skips servers")?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        Ok(this)
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        let restored = match &self.before {
            Some(kept) => fs::rename(kept, POLICY),
            None => fs::remove_file(POLICY),
        };
        if let Err(error) = restored {
            eprintln!("{POLICY} could not be restored: {error}");
        }
    }
}

/// A Python environment in the build folder, made aside and renamed so that half a one is never used.
fn install_mongo() -> anyhow::Result<()> {
    let python = servers::python().context(
        "the MongoDB-compatible server of the tests needs Python 3.13 or newer with venv: install it, or skip all \
         tests that need servers with MAINSTAY_SKIP_SERVERS=1",
    )?;
    let cache = servers::cache();
    fs::create_dir_all(&cache)?;
    let (new, final_place) = (cache.join("mongo.new"), cache.join("mongo"));
    let _ = fs::remove_dir_all(&new);
    let python = python.to_str().context("path of Python")?;
    run(".", python, &["-m", "venv", new.to_str().context("path of the build folder")?])?;
    let pip = ["-m", "pip", "install", "-q", "--disable-pip-version-check"];
    let inside = new.join("bin/python");
    println!("$ {} {} {}", inside.display(), pip.join(" "), servers::MONGO_PACKAGE);
    let status = Command::new(&inside).args(pip).arg(servers::MONGO_PACKAGE).status()?;
    anyhow::ensure!(status.success(), "pip failed: {status}");
    fs::rename(&new, &final_place).context("Python environment")?;
    Ok(())
}
