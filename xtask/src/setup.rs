use crate::shell::{has, run};

/// Where Debian puts Chromium.
pub const CHROMIUM: &str = "/usr/bin/chromium";

/// Installs what the tests need beyond Rust: Chromium by `apt-get`, Node packages by `npm ci`.
pub fn install() -> anyhow::Result<()> {
    if !std::path::Path::new(CHROMIUM).exists() {
        run(".", "apt-get", &["update", "-q"])?;
        run(
            ".",
            "apt-get",
            &["install", "-q", "-y", "--no-install-recommends", "chromium", "fonts-dejavu-core"],
        )?;
    }
    anyhow::ensure!(has("node") && has("npm"), "Node.js 20 or newer with npm is needed");
    run("sdk/typescript", "npm", &["ci", "--no-audit", "--no-fund"])?;
    run("samples/arena/browser", "npm", &["ci", "--no-audit", "--no-fund"])?;
    Ok(())
}
