//! The sample as it is started, with bots that check every answer.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bots::{GuestGrants, Load, Options, Swarm};
use client::Address;

/// The sample's supervisor, which ends with its servers and processes when the test does.
struct Layout {
    child: Child,
    folder: std::path::PathBuf,
}

impl Layout {
    /// Starts it; gives the pages of its gates.
    fn start() -> (Layout, Vec<String>) {
        let name = format!("mainstay-reference-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let mut child = Command::new(env!("CARGO_BIN_EXE_reference"))
            .args(["--listen", "127.0.0.1:0", "--data"])
            .arg(&folder)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let layout = Layout { child, folder };
        let mut lines = output.lines().map(|line| line.expect("text"));
        let page = |line: &str| Some(line.split_once("is ready: ")?.1.trim().to_owned());
        let pages: Vec<String> = lines.by_ref().filter_map(|line| page(&line)).take(3).collect();
        assert_eq!(pages.len(), 3, "it ended before its gates were ready");
        // What it says is read until it ends: a full pipe would hold it up.
        std::thread::spawn(move || lines.for_each(drop));
        (layout, pages)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // As Ctrl-C does: it stops its processes and servers.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-INT", &pid]).status();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn the_arena_is_played_on_eight_processes_and_four_kinds_of_servers() {
    if servers::skipped() {
        return;
    }
    let (_layout, pages) = Layout::start();
    let play = |page: &String| {
        let authority = page.strip_prefix("http://").expect("a page").trim_end_matches('/');
        let load = Load::steady(8, Duration::from_secs(5));
        let options = Options::new(Address::tcp(authority), load);
        let grants = GuestGrants::new(page).expect("tickets");
        let bot = |_| -> Box<dyn bots::Script> { Box::new(arena::BotPlayer::new(50)) };
        Swarm::new(options, grants, bot).expect("bots").run(|_| {}).expect("they play")
    };
    std::thread::scope(|scope| {
        let crowds: Vec<_> = pages.iter().map(|page| scope.spawn(|| play(page))).collect();
        for crowd in crowds {
            let summary = crowd.join().expect("they play");
            assert!(summary.passed(), "{summary}");
            // Each sees twenty steps a second.
            assert!(summary.messages > 200, "{summary}");
        }
    });
}
