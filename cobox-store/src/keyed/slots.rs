//! Unlocking a device: its random master key, wrapped by a passphrase or a key file.
//!
//! The file `slots` in the device's folder holds the wrapped keys; a key file keeps 32 random bytes that
//! only its owner can read, for machines that start unattended.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

use super::aead;
use super::random::random;
use super::secret::Secret32;
use crate::error::{Error, Result};
use crate::format::slots::{Slot, SlotKind, decode_slots, encode_slots};

const SLOTS_FILE: &str = "slots";
/// A slots file of the most slots is far smaller.
const SLOTS_FILE_BYTES_MAX: u64 = 4096;

/// How the key slots are opened.
pub enum Unlock {
    /// Something a person types.
    Passphrase(Zeroizing<String>),
    /// A file with 32 random bytes that only its owner can read; made where it is missing at set-up.
    KeyFile(PathBuf),
}

/// What guessing a passphrase costs; kept in the slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PassphraseCost {
    memory_kib: u32,
    passes: u32,
}

impl PassphraseCost {
    /// 64 MiB and three passes: RFC 9106, section 4, second recommendation, with one lane.
    pub const STANDARD: Self = Self { memory_kib: 64 * 1024, passes: 3 };

    /// As cheap as Argon2 allows. Only tests may use it.
    #[doc(hidden)]
    #[must_use]
    pub const fn cheapest_for_tests() -> Self {
        Self { memory_kib: 8, passes: 1 }
    }
}

/// Makes the slots file of a new device; it is there wholly or not at all.
pub(super) fn create(dir: &Path, master: &Secret32, unlock: &Unlock, cost: PassphraseCost) -> Result<()> {
    let kind = match unlock {
        Unlock::Passphrase(_) => {
            SlotKind::Passphrase { salt: random(), memory_kib: cost.memory_kib, passes: cost.passes }
        }
        Unlock::KeyFile(path) => {
            create_key_file(path)?;
            SlotKind::KeyFile
        }
    };
    let slot = wrap(kind, master, unlock, &random())?;
    write_whole(dir, SLOTS_FILE, &encode_slots(&[slot]))
}

/// Finds the master key.
pub(super) fn open(dir: &Path, unlock: &Unlock) -> Result<Secret32> {
    let slots = read_slots(dir)?;
    for slot in &slots {
        let fits = matches!(
            (slot.kind, unlock),
            (SlotKind::Passphrase { .. }, Unlock::Passphrase(_)) | (SlotKind::KeyFile, Unlock::KeyFile(_))
        );
        if !fits {
            continue;
        }
        let key = wrapping_key(slot.kind, unlock)?;
        if let Ok(plain) = aead::open(key.expose(), &slot.kind.associated_data(), &slot.wrapped) {
            let plain = Zeroizing::new(plain);
            let mut bytes: [u8; 32] = plain.as_slice().try_into().map_err(|_| Error::WrongKey)?;
            return Ok(Secret32::take(&mut bytes));
        }
    }
    Err(Error::WrongKey)
}

/// Whether there is a device at `dir`.
pub(super) fn exist(dir: &Path) -> bool {
    dir.join(SLOTS_FILE).exists()
}

/// Whether no slot opens without a person.
pub(super) fn need_passphrase(dir: &Path) -> Result<bool> {
    Ok(!read_slots(dir)?.iter().any(|slot| slot.kind == SlotKind::KeyFile))
}

pub(super) fn wrap(kind: SlotKind, master: &Secret32, unlock: &Unlock, nonce: &[u8; 24]) -> Result<Slot> {
    let key = wrapping_key(kind, unlock)?;
    let wrapped = aead::seal_at(key.expose(), &kind.associated_data(), nonce, master.expose());
    Ok(Slot { kind, wrapped: wrapped.try_into().expect("32 bytes and the overhead") })
}

fn wrapping_key(kind: SlotKind, unlock: &Unlock) -> Result<Secret32> {
    match (kind, unlock) {
        (SlotKind::Passphrase { salt, memory_kib, passes }, Unlock::Passphrase(text)) => {
            let params = Params::new(memory_kib, passes, 1, Some(32)).map_err(|_| Error::WrongKey)?;
            let mut key = Zeroizing::new([0; 32]);
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                .hash_password_into(text.as_bytes(), &salt, key.as_mut())
                .map_err(|_| Error::WrongKey)?;
            Ok(Secret32::take(&mut key))
        }
        (SlotKind::KeyFile, Unlock::KeyFile(path)) => {
            Ok(Secret32::derived("key file slot", &[read_key_file(path)?.expose()]))
        }
        _ => Err(Error::WrongKey),
    }
}

fn read_slots(dir: &Path) -> Result<Vec<Slot>> {
    let path = dir.join(SLOTS_FILE);
    let mut bytes = Vec::new();
    let file = File::open(&path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::NotAStore { path: dir.to_owned() },
        _ => Error::Io { path: path.clone(), source },
    })?;
    file.take(SLOTS_FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|source| Error::Io { path, source })?;
    Ok(decode_slots(&bytes)?)
}

fn create_key_file(path: &Path) -> Result<()> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match made {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(io(error)),
    };
    file.write_all(Secret32::random()?.expose()).and_then(|()| file.sync_all()).map_err(io)?;
    // The name, too: a store whose key file is gone is lost.
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)
}

fn read_key_file(path: &Path) -> Result<Secret32> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    if meta.mode() & 0o077 != 0 {
        return Err(Error::KeyFileMode { path: path.to_owned() });
    }
    let mut bytes = Zeroizing::new([0; 32]);
    if meta.len() != 32 || file.read_exact(bytes.as_mut()).is_err() {
        return Err(Error::WrongKey);
    }
    Ok(Secret32::take(&mut bytes))
}

/// Writes a file beside its place, syncs it, and moves it there.
fn write_whole(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let (path, beside) = (dir.join(name), dir.join(format!("{name}.new")));
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|source| Error::Io { path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn passphrase(text: &str) -> Unlock {
        Unlock::Passphrase(Zeroizing::new(text.into()))
    }

    #[test]
    fn passphrase_opens_and_a_wrong_one_does_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let master = Secret32::random().expect("randomness");
        create(dir.path(), &master, &passphrase("right"), PassphraseCost::cheapest_for_tests())
            .expect("made");
        assert_eq!(open(dir.path(), &passphrase("right")).expect("opens").expose(), master.expose());
        assert!(matches!(open(dir.path(), &passphrase("wrong")), Err(Error::WrongKey)));
        assert!(matches!(open(dir.path(), &Unlock::KeyFile(dir.path().join("key"))), Err(Error::WrongKey)));
        assert!(need_passphrase(dir.path()).expect("readable"));
    }

    #[test]
    fn slots_with_any_byte_bent_do_not_open() {
        let dir = tempfile::tempdir().expect("a folder");
        let master = Secret32::random().expect("randomness");
        create(dir.path(), &master, &passphrase("p"), PassphraseCost::cheapest_for_tests()).expect("made");
        let path = dir.path().join(SLOTS_FILE);
        let bytes = fs::read(&path).expect("readable");
        // Memory and passes are skipped: some bent values are legal and only slow.
        for at in (0..21).chain(29..bytes.len()) {
            let mut bent = bytes.clone();
            bent[at] ^= 1;
            fs::write(&path, bent).expect("writable");
            assert!(open(dir.path(), &passphrase("p")).is_err(), "byte {at}");
        }
    }

    #[test]
    fn key_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let (master, file) = (Secret32::random().expect("randomness"), dir.path().join("key"));
        let unlock = Unlock::KeyFile(file.clone());
        create(dir.path(), &master, &unlock, PassphraseCost::STANDARD).expect("made");
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(open(dir.path(), &unlock).expect("opens").expose(), master.expose());
        assert!(!need_passphrase(dir.path()).expect("readable"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("ours");
        assert!(matches!(open(dir.path(), &unlock), Err(Error::KeyFileMode { .. })));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("ours");
        fs::write(&file, [9; 32]).expect("writable");
        assert!(matches!(open(dir.path(), &unlock), Err(Error::WrongKey)));
    }

    #[test]
    fn standard_cost_is_what_the_format_promises() {
        assert_eq!(PassphraseCost::STANDARD, PassphraseCost { memory_kib: 65536, passes: 3 });
    }
}
