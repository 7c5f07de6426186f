//! The log of a whole process. It is one per process, so this file holds one test.

use std::path::PathBuf;

use ops::log::{Log, LogError, Options, RollOptions};

fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("mainstay-log-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

fn written(folder: &PathBuf) -> String {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let texts = entries.map(|entry| std::fs::read_to_string(entry.path()).unwrap());
    texts.collect()
}

#[test]
fn levels_change_places_are_told_and_the_last_lines_are_written() {
    let folder = folder();
    let files = RollOptions {
        folder: folder.clone(),
        name: "test".to_owned(),
        file_bytes_max: 1 << 20,
        files_max: 3,
    };
    let mut options = Options { console: false, files: Some(files), ..Options::default() };
    options.levels = "gate=loud".to_owned();
    assert!(matches!(Log::start(&options), Err(LogError::Levels(_))));
    options.levels = "info,quiet=error".to_owned();
    let log = Log::start(&options).unwrap();
    assert!(matches!(Log::start(&options), Err(LogError::Started)));

    tracing::info!(players = 3, "first");
    tracing::debug!("not yet");
    tracing::warn!(target: "quiet", "never");
    tracing::warn!("look here");
    let line = line!() - 1;
    log.set_levels("debug").unwrap();
    tracing::debug!("now it is");
    assert!(log.set_levels("gate=louder").is_err());
    tracing::debug!("and stays");
    log.flush();
    let text = written(&folder);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[0].contains("INFO") && lines[0].ends_with("first players=3"), "{text}");
    let place = format!("log.rs:{line}");
    assert!(lines[1].contains("look here at ") && lines[1].ends_with(&place), "{text}");
    assert!(lines[2].contains("now it is") && lines[3].contains("and stays"), "{text}");

    // A panic is written before its thread ends, whatever still waits in the queue.
    for n in 0..1_000 {
        tracing::info!("line {n} before the end");
    }
    let panicked = std::thread::spawn(|| panic!("out of cards")).join();
    assert!(panicked.is_err());
    let text = written(&folder);
    assert!(text.contains("line 999 before the end"), "the last lines are there");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.contains("out of cards") && last.contains("log.rs:"), "{last}");

    tracing::info!("at the very end");
    assert_eq!(log.lost(), 0);
    drop(log);
    assert!(written(&folder).ends_with("at the very end\n"));
    std::fs::remove_dir_all(folder).unwrap();
}
