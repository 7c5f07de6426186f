use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// A build that processes are started from.
///
/// It stays what it was when its file is replaced by another one: a process that crashes comes back as it was,
/// and a newer build comes when somebody orders it. Where the system gives no way to that, the path is used.
#[derive(Clone, Debug)]
pub(super) struct Program {
    path: PathBuf,
    file: Option<Arc<File>>,
}

impl Program {
    /// The build that the file at `path` is now.
    pub fn open(path: &Path) -> io::Result<Program> {
        let mut file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
        }
        let mut head = [0; 2];
        // A script is opened once more by whoever runs it.
        let is_script = file.read(&mut head)? == 2 && &head == b"#!";
        let file = (cfg!(target_os = "linux") && !is_script).then(|| Arc::new(file));
        Ok(Program { path: path.to_path_buf(), file })
    }

    /// The build that this process was started from.
    pub fn own() -> io::Result<Program> {
        Program::open(&std::env::current_exe()?)
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How it is started.
    pub fn command(&self) -> Command {
        #[cfg(target_os = "linux")]
        if let Some(file) = &self.file {
            use std::os::fd::AsRawFd;
            use std::os::unix::process::CommandExt;
            let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
            command.arg0(&self.path);
            return command;
        }
        Command::new(&self.path)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// The file of a running game was replaced; when a process of it crashed, it came back as the new build, which
    /// nobody had ordered yet.
    #[test]
    fn a_build_stays_what_it_was_when_its_file_is_replaced() {
        let name = format!("mainstay-program-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let replace = |from: &str| {
            let _ = std::fs::remove_file(&path);
            std::fs::copy(from, &path).unwrap();
        };
        replace("/bin/true");
        let old = Program::open(&path).unwrap();
        replace("/bin/false");
        let new = Program::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for _ in 0..2 {
            assert!(old.command().status().unwrap().success());
            assert!(!new.command().status().unwrap().success());
        }
        assert!(Program::open(&path).is_err());
        assert!(Program::open(&std::env::temp_dir()).is_err());
    }
}
