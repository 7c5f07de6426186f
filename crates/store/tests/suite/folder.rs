use std::path::{Path, PathBuf};

/// A folder of its own for one test, gone with it.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folders = (0..).map(|n| parent.join(format!("{name}-{}-{n}", std::process::id())));
        let made = folders.into_iter().find(|path| std::fs::create_dir(path).is_ok());
        Folder(made.unwrap())
    }

    pub fn file(&self) -> PathBuf {
        self.0.join("store.redb")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
