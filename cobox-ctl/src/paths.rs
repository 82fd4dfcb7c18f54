//! Where a member's device keeps its files.
//!
//! All below `$COBOX_HOME` where that is set; else in the XDG folders, each kind in its own.

use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::exit::{Exit, Outcome, Problem};

/// The places of one device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Paths {
    /// What a person would call "the home": it names the device in messages.
    pub home: PathBuf,
    /// The store with its key slots.
    pub store: PathBuf,
    /// The key file of a device without a passphrase.
    pub key: PathBuf,
    /// The control socket's folder.
    pub run: PathBuf,
    /// The daemon's log folder.
    pub log: PathBuf,
}

impl Paths {
    /// Reads the environment.
    ///
    /// # Errors
    /// When neither `COBOX_HOME` nor `HOME` says where to look.
    pub fn from_environment() -> Outcome<Self> {
        Self::from_lookup(&|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn from_lookup(get: &dyn Fn(&str) -> Option<OsString>) -> Outcome<Self> {
        if let Some(home) = get("COBOX_HOME") {
            let home = std::path::absolute(&home)
                .map_err(|error| Problem::failed(format!("COBOX_HOME cannot be used: {error}.")))?;
            return Ok(Self {
                store: home.join("store"),
                key: home.join("key"),
                run: home.join("run"),
                log: home.join("log"),
                home,
            });
        }
        let user = get("HOME").map(PathBuf::from);
        let xdg = |name: &str, below: &str| {
            get(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
                .or_else(|| Some(user.clone()?.join(below)))
                .map(|path| path.join("cobox"))
                .ok_or_else(|| {
                    Problem::new(
                        Exit::Usage,
                        "Neither COBOX_HOME nor HOME is set.",
                        "Set COBOX_HOME to the folder that this device may keep its state in.",
                    )
                })
        };
        let home = xdg("XDG_DATA_HOME", ".local/share")?;
        let log = xdg("XDG_STATE_HOME", ".local/state")?;
        // The runtime folder is the right place for a socket, but a machine without logind has none.
        let run =
            get("XDG_RUNTIME_DIR").map_or_else(|| log.join("run"), |path| PathBuf::from(path).join("cobox"));
        let key = xdg("XDG_CONFIG_HOME", ".config")?.join("key");
        Ok(Self { store: home.join("store"), key, run, log, home })
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run.join("control.sock")
    }

    /// The HTTP API's socket.
    #[must_use]
    pub fn api_socket(&self) -> PathBuf {
        self.run.join("api.sock")
    }

    /// The token of the HTTP API on TCP.
    #[must_use]
    pub fn api_token(&self) -> PathBuf {
        self.home.join("api.token")
    }

    /// Where the HTTP API answers on TCP.
    #[must_use]
    pub fn api_settings(&self) -> PathBuf {
        self.home.join("api.json")
    }

    /// The daemon's log.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.log.join("coboxd.log")
    }

    /// Is there while a device is being set up: what is in the store then is nobody's.
    #[must_use]
    pub fn unfinished(&self) -> PathBuf {
        self.home.join("unfinished")
    }

    /// Whether a device was set up here.
    #[must_use]
    pub fn has_device(&self) -> bool {
        cobox_store::keyed::Home::is_made(&self.store) && !self.unfinished().exists()
    }
}

/// Makes `dir` and what leads to it, and closes `dir` itself to everyone else.
///
/// # Errors
/// When it cannot be made.
pub fn private_dir(dir: &Path) -> Outcome<()> {
    let problem = |error: std::io::Error| {
        Problem::new(
            Exit::Failed,
            format!("{} cannot be made: {error}.", dir.display()),
            "Check who owns the folder above it, or set COBOX_HOME to another place.",
        )
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(problem)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(pairs: &[(&str, &str)]) -> Outcome<Paths> {
        let pairs: Vec<(String, OsString)> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
        Paths::from_lookup(&|wanted| {
            pairs.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
        })
    }

    #[test]
    fn cobox_home_holds_everything() {
        let paths = lookup(&[("COBOX_HOME", "/h"), ("HOME", "/u"), ("XDG_DATA_HOME", "/d")]).expect("found");
        for path in [&paths.store, &paths.key, &paths.run, &paths.log, &paths.socket(), &paths.log_file()] {
            assert!(path.starts_with("/h"), "{path:?}");
        }
    }

    #[test]
    fn without_cobox_home_the_xdg_folders_are_used() {
        let paths =
            lookup(&[("HOME", "/u"), ("XDG_RUNTIME_DIR", "/r"), ("XDG_STATE_HOME", "/s")]).expect("found");
        assert_eq!(paths.store, Path::new("/u/.local/share/cobox/store"));
        assert_eq!(paths.socket(), Path::new("/r/cobox/control.sock"));
        assert_eq!(paths.log_file(), Path::new("/s/cobox/coboxd.log"));
        assert_eq!(paths.key, Path::new("/u/.config/cobox/key"));
    }

    #[test]
    fn relative_xdg_folder_is_ignored_as_the_specification_says() {
        let paths = lookup(&[("HOME", "/u"), ("XDG_DATA_HOME", "d")]).expect("found");
        assert_eq!(paths.home, Path::new("/u/.local/share/cobox"));
    }

    #[test]
    fn environment_without_any_home_is_a_usage_error() {
        assert_eq!(lookup(&[]).expect_err("refused").code, Exit::Usage);
    }
}
