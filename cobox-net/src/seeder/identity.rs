//! A seeder's identity: two random seeds in a file of its own, and the address made of them.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use cobox_store::blind::kembox::KemSecret;
use cobox_store::format::access::ADDRESSES_MAX;
use cobox_store::format::address::SeederAddress;
use zeroize::Zeroizing;

use super::Failure;
use crate::peer_id::PeerId;

/// Two seeds of 32 bytes: the peer id's, then the box key's.
const IDENTITY_BYTES: usize = 64;

/// The keys of a seeder.
pub struct Identity {
    /// Of the libp2p peer id.
    pub seed: Zeroizing<[u8; 32]>,
    /// Opens the boxes of swarm secrets.
    pub kem: KemSecret,
}

fn identity_path(data: &Path) -> PathBuf {
    data.join("identity")
}

fn addresses_path(data: &Path) -> PathBuf {
    data.join("addresses")
}

impl Identity {
    /// Whether a data folder has one.
    pub fn exists(data: &Path) -> bool {
        identity_path(data).exists()
    }

    /// Reads the identity, or makes one in a data folder that has none.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn open_or_create(data: &Path) -> Result<Self, Failure> {
        if !Self::exists(data) {
            let mut bytes = Zeroizing::new([0; IDENTITY_BYTES]);
            getrandom::fill(&mut bytes[..])
                .map_err(|_| Failure::failed("the system gives no random numbers"))?;
            let part = data.join("identity.new");
            let write = || -> std::io::Result<()> {
                let mut file =
                    File::options().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
                file.write_all(&bytes[..])?;
                file.sync_all()?;
                std::fs::rename(&part, identity_path(data))?;
                File::open(data)?.sync_all()
            };
            write().map_err(|error| Failure::failed(format!("The identity cannot be written: {error}.")))?;
        }
        Self::open(data)
    }

    /// Reads the identity.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(data: &Path) -> Result<Self, Failure> {
        let path = identity_path(data);
        let mut bytes = Zeroizing::new([0; IDENTITY_BYTES]);
        let read = || -> std::io::Result<bool> {
            let mut file = File::open(&path)?;
            match file.read_exact(&mut bytes[..]) {
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
                Err(error) => Err(error),
                Ok(()) => Ok(file.read(&mut [0])? == 0),
            }
        };
        let mut read = read;
        match read() {
            Ok(true) => {}
            Ok(false) => {
                return Err(Failure::failed(format!(
                    "{} is not a whole identity of a seeder. Put it back from a copy; without it this box is a stranger to those \
                     whose folders it holds.",
                    path.display()
                )));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Failure::failed(format!(
                    "There is no seeder in {}. Start one with: cobox-seeder run --data {}",
                    data.display(),
                    data.display()
                )));
            }
            Err(error) => {
                return Err(Failure::failed(format!("{} cannot be read: {error}.", path.display())));
            }
        }
        let (seed, kem) = bytes.split_at(32);
        let mut kem_seed = Zeroizing::new([0; 32]);
        kem_seed.copy_from_slice(kem);
        let mut peer_seed = Zeroizing::new([0; 32]);
        peer_seed.copy_from_slice(seed);
        Ok(Self { seed: peer_seed, kem: KemSecret::from_seed(&kem_seed) })
    }

    /// The peer id.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        crate::swarm::peer_of_seed(&self.seed)
    }

    /// The address with these multiaddresses.
    #[must_use]
    pub fn address(&self, mut addresses: Vec<Vec<u8>>) -> SeederAddress {
        addresses.truncate(ADDRESSES_MAX);
        SeederAddress { peer_id: self.peer().to_bytes(), kem: self.kem.public(), addresses }
    }
}

/// Keeps the address, so that it can be printed while the seeder does not run.
///
/// # Errors
/// When the file cannot be written.
pub fn save_address(data: &Path, address: &SeederAddress) -> Result<(), Failure> {
    let write = || -> std::io::Result<()> {
        let part = data.join("addresses.new");
        std::fs::write(&part, address.to_text())?;
        std::fs::rename(&part, addresses_path(data))
    };
    write().map_err(|error| Failure::failed(format!("The address cannot be written: {error}.")))
}

/// The address that was kept.
///
/// # Errors
/// When the seeder has never run here.
pub fn saved_address(data: &Path) -> Result<SeederAddress, Failure> {
    let text = std::fs::read_to_string(addresses_path(data)).map_err(|_| {
        Failure::failed(format!(
            "The seeder in {} has not listened yet. Start it with: cobox-seeder run --data {}",
            data.display(),
            data.display()
        ))
    })?;
    SeederAddress::from_text(&text)
        .map_err(|_| Failure::failed("The kept address is damaged. Run the seeder again."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_kept_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("temporary folder");
        let first = Identity::open_or_create(dir.path()).expect("creates");
        let again = Identity::open_or_create(dir.path()).expect("opens");
        assert_eq!(first.peer(), again.peer());
        assert_eq!(first.kem.public(), again.kem.public());
        let mode = std::fs::metadata(identity_path(dir.path())).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
