//! The bearer token of the API on TCP: 32 random bytes in hex, in a file of mode 0600.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use zeroize::Zeroizing;

use super::Fault;

/// A token's letters with what an editor may add.
const FILE_BYTES_MAX: u64 = 256;
/// A shorter one could be guessed.
const LETTERS_MIN: usize = 32;

/// What a request must show. Only its hash is kept in memory.
#[derive(Clone)]
pub struct Token(blake3::Hash);

impl Token {
    /// Reads the token from a file, or makes the file on the first use.
    ///
    /// # Errors
    /// When others may read the file, or it cannot be read or made.
    pub fn open_or_create(path: &Path) -> Result<Self, Fault> {
        match std::fs::File::open(path) {
            Ok(file) => Self::read(path, file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::create(path),
            Err(error) => Err(unusable(path, &error)),
        }
    }

    fn read(path: &Path, file: std::fs::File) -> Result<Self, Fault> {
        let mode = file.metadata().map_err(|error| unusable(path, &error))?.mode();
        if mode & 0o077 != 0 {
            return Err(Fault::refused(
                format!("Others may read the API's token in {}.", path.display()),
                "Close it with `chmod 600` if nobody else can have read it, or remove it: a new one is made.",
            ));
        }
        let mut text = Zeroizing::new(String::new());
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(|error| unusable(path, &error))?;
        let text = text.trim();
        if text.len() < LETTERS_MIN {
            return Err(Fault::refused(
                format!("The API's token in {} is too short.", path.display()),
                "Remove the file: a new one is made.",
            ));
        }
        Ok(Self::of(text))
    }

    fn create(path: &Path) -> Result<Self, Fault> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bytes)
            .map_err(|_| Fault::failed("The system's random generator is not ready."))?;
        let text = Zeroizing::new(cobox_store::id::hex(&*bytes));
        let make = || -> std::io::Result<()> {
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(text.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()
        };
        make().map_err(|error| unusable(path, &error))?;
        Ok(Self::of(&text))
    }

    fn of(text: &str) -> Self {
        Self(blake3::hash(text.as_bytes()))
    }

    /// Whether an `Authorization` header shows it. Hashes are compared in constant time, so neither its
    /// letters nor its length can be found by measuring.
    #[must_use]
    pub fn is_shown_by(&self, header: &[u8]) -> bool {
        let Some((scheme, shown)) = header.split_at_checked(7) else { return false };
        scheme.eq_ignore_ascii_case(b"bearer ") && blake3::hash(shown.trim_ascii()) == self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

fn unusable(path: &Path, error: &std::io::Error) -> Fault {
    Fault::failed(format!("The API's token in {} cannot be used: {error}.", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn token_is_made_once_for_its_owner_alone_and_nothing_else_passes() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("api.token");
        let token = Token::open_or_create(&path).expect("made");
        let text = std::fs::read_to_string(&path).expect("reads");
        assert_eq!(std::fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        let again = Token::open_or_create(&path).expect("read");
        let header = format!("Bearer {}", text.trim());
        for token in [&token, &again] {
            assert!(token.is_shown_by(header.as_bytes()));
            assert!(token.is_shown_by(header.replace("Bearer", "bearer").as_bytes()));
            for wrong in ["", "Bearer", "Bearer ", text.trim(), &header[..header.len() - 1], "Basic YTpi"] {
                assert!(!token.is_shown_by(wrong.as_bytes()), "{wrong:?}");
            }
            assert!(!token.is_shown_by(format!("{header}0").as_bytes()));
        }
    }

    #[test]
    fn token_that_others_may_read_or_that_is_short_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("api.token");
        Token::open_or_create(&path).expect("made");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("sets the mode");
        assert_eq!(Token::open_or_create(&path).expect_err("open to a group").exit, 4);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("sets the mode");
        std::fs::write(&path, "secret\n").expect("writes");
        assert_eq!(Token::open_or_create(&path).expect_err("short").exit, 4);
    }
}
