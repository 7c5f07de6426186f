use std::path::{Path, PathBuf};

use super::ConfigError;

/// The texts that a configuration is read from.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// The cluster file: its path and content.
    pub file: Option<(PathBuf, Vec<u8>)>,
    /// Names and values of the environment; only `MAINSTAY_` ones count.
    pub environment: Vec<(String, String)>,
    /// `path.of.keys=value` of the command line, in order; the last one wins.
    pub settings: Vec<String>,
}

/// Read as far as this; parsing then refuses it for its size.
const FILE_BYTES_MAX: u64 = (16 << 20) + 1;

impl Input {
    /// The file at `path`, this process's environment, and `settings`.
    ///
    /// # Errors
    /// [`ConfigError::Read`].
    pub fn of_process(path: Option<&Path>, settings: &[String]) -> Result<Input, ConfigError> {
        let file = path.map(read).transpose()?;
        let vars = std::env::vars_os();
        let environment = vars.filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Ok(Input { file, environment: environment.collect(), settings: settings.to_vec() })
    }

    /// The file at `path` alone.
    ///
    /// # Errors
    /// [`ConfigError::Read`].
    pub fn of_file(path: &Path) -> Result<Input, ConfigError> {
        Ok(Input { file: Some(read(path)?), ..Input::default() })
    }

    /// A file that is at hand as text.
    pub fn of_text(name: &str, text: &str) -> Input {
        Input { file: Some((name.into(), text.into())), ..Input::default() }
    }
}

fn read(path: &Path) -> Result<(PathBuf, Vec<u8>), ConfigError> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|error| ConfigError::Read { path: path.to_path_buf(), error })?;
    Ok((path.to_path_buf(), bytes))
}
