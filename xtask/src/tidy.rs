//! House rules that no compiler checks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::shell::{read, root};

/// Lines of one Rust file.
const FILE_LINES_MAX: usize = 1000;

/// Runs every check and reports all that is wrong at once.
pub fn check() -> anyhow::Result<()> {
    let mut faults = Vec::new();
    crate_table(&mut faults)?;
    lengths(&mut faults)?;
    protocol(&mut faults)?;
    status(&mut faults)?;
    if faults.is_empty() {
        println!("tidy");
        return Ok(());
    }
    bail!("{} faults:\n  {}", faults.len(), faults.join("\n  "));
}

/// The table in `ARCHITECTURE.md` names each crate and every crate of ours that it uses.
fn crate_table(faults: &mut Vec<String>) -> anyhow::Result<()> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    let mut drawn: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if let [_, level, name, _, uses, _] = cells[..]
            && level.parse::<u32>().is_ok()
        {
            let uses = uses.split(',').map(|cell| cell.trim().to_owned());
            let uses = uses.filter(|cell| !cell.is_empty()).collect();
            drawn.insert(name.trim_matches('`').to_owned(), uses);
        }
    }
    for (name, uses) in real_edges()? {
        let Some(allowed) = drawn.get(&name) else {
            faults.push(format!("ARCHITECTURE.md: crate `{name}` is not in the table"));
            continue;
        };
        for extra in uses.difference(allowed) {
            faults.push(format!("crate `{name}` uses `{extra}`, which the table does not draw"));
        }
        for missing in allowed.difference(&uses) {
            faults.push(format!("the table draws `{name}` -> `{missing}`, which is not used"));
        }
    }
    Ok(())
}

fn real_edges() -> anyhow::Result<BTreeMap<String, BTreeSet<String>>> {
    let metadata = read("cargo", &["metadata", "--format-version=1", "--no-deps"])?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().context("cargo metadata")?;
    let in_crates = |package: &&serde_json::Value| {
        package["manifest_path"].as_str().is_some_and(|path| path.contains("/crates/"))
    };
    let name = |package: &serde_json::Value| package["name"].as_str().unwrap_or("").to_owned();
    let ours: BTreeSet<_> = packages.iter().map(name).collect();
    let mut edges = BTreeMap::new();
    for package in packages.iter().filter(in_crates) {
        let dependencies = package["dependencies"].as_array().context("cargo metadata")?;
        let uses = dependencies
            .iter()
            .filter(|edge| edge["kind"].is_null())
            .map(name)
            .filter(|edge| ours.contains(edge));
        edges.insert(name(package), uses.collect());
    }
    Ok(edges)
}

fn lengths(faults: &mut Vec<String>) -> anyhow::Result<()> {
    for path in files(&root(), "rs")? {
        let lines = fs::read_to_string(&path)?.lines().count();
        if lines > FILE_LINES_MAX {
            faults.push(format!("{}: {lines} lines are more than 1000", short(&path)));
        }
    }
    Ok(())
}

/// Every head byte of the wire module stands in `docs/protocol.md`.
fn protocol(faults: &mut Vec<String>) -> anyhow::Result<()> {
    let document = fs::read_to_string(root().join("docs/protocol.md")).context("protocol.md")?;
    let source = fs::read_to_string(root().join("crates/proto/src/frame.rs"))?;
    for line in source.lines() {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("pub const ")
            && let Some((name, value)) = rest.split_once(": u8 = 0x")
        {
            let value = format!("0x{}", value.trim_end_matches(';'));
            if name != "HEAD_FLAGS" && !document.contains(&format!("`{value}`")) {
                faults.push(format!("docs/protocol.md: head {value} ({name}) is not described"));
            }
        }
    }
    Ok(())
}

/// How many rows each area has; ids are never renumbered.
const AREAS: [(char, u32); 17] = [
    ('A', 44),
    ('B', 21),
    ('C', 18),
    ('D', 19),
    ('E', 14),
    ('F', 26),
    ('G', 21),
    ('H', 11),
    ('I', 16),
    ('J', 41),
    ('K', 18),
    ('L', 7),
    ('M', 8),
    ('N', 12),
    ('O', 12),
    ('P', 28),
    ('X', 44),
];

/// `docs/status.md` has each row once; one that `works` names tests that exist or a command.
fn status(faults: &mut Vec<String>) -> anyhow::Result<()> {
    let text = fs::read_to_string(root().join("docs/status.md")).context("docs/status.md")?;
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if let [_, id, state, shown, _] = cells[..]
            && id.len() > 1
            && id[1..].parse::<u32>().is_ok()
            && rows.insert(id.to_owned(), (state.to_owned(), shown.to_owned())).is_some()
        {
            faults.push(format!("docs/status.md: {id} stands there twice"));
        }
    }
    for (area, count) in AREAS {
        for number in 1..=count {
            if !rows.contains_key(&format!("{area}{number}")) {
                faults.push(format!("docs/status.md: {area}{number} is missing"));
            }
        }
    }
    let known = test_names()?;
    for (id, (state, shown)) in rows {
        match state.as_str() {
            "works" => shown_by(&id, &shown, &known, faults),
            "partly" | "not yet" => {}
            other => faults.push(format!("docs/status.md: {id} is `{other}`: no such state")),
        }
    }
    Ok(())
}

fn shown_by(id: &str, shown: &str, known: &BTreeSet<String>, faults: &mut Vec<String>) {
    let quoted: Vec<_> = shown.split('`').skip(1).step_by(2).collect();
    if quoted.is_empty() {
        faults.push(format!("docs/status.md: {id} works, but names no test and no command"));
    }
    for name in quoted {
        let is_command = name.contains(' ');
        if !is_command && !known.contains(name) {
            faults.push(format!("docs/status.md: {id} names the test `{name}`: no such function"));
        }
    }
}

/// Names of all functions in Rust files and of all tests in TypeScript and JavaScript files.
fn test_names() -> anyhow::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for path in files(&root(), "rs")? {
        for line in fs::read_to_string(path)?.lines() {
            let Some((_, rest)) = line.split_once("fn ") else { continue };
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            names.insert(rest[..end.unwrap_or(rest.len())].to_owned());
        }
    }
    for extension in ["ts", "mjs"] {
        for path in files(&root(), extension)? {
            for line in fs::read_to_string(path)?.lines() {
                if let Some(rest) = line.trim().strip_prefix("test(\"")
                    && let Some((name, _)) = rest.split_once('"')
                {
                    names.insert(name.to_owned());
                }
            }
        }
    }
    Ok(names)
}

fn files(folder: &Path, extension: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        if name.starts_with('.') || name == "target" || name == "node_modules" {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path, extension)?);
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn short(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
