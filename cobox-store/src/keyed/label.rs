//! Names of folders and devices in the access log, sealed for members (`docs/format.md`, "Labels").

use zeroize::Zeroizing;

use super::aead;
use super::secret::Secret32;
use crate::error::{Error, Result};
use crate::format::SUITE;
use crate::format::access::{LABEL_PLAIN_BYTES, SealedLabel};
use crate::format::membership::WRAPPED_LABEL_KEY_BYTES;
use crate::id::InviteKey;

const LABEL_CONTEXT: &[u8] = b"cobox/v1/label";
/// Before an invite's label key.
const INVITE_LABEL_CONTEXT: &[u8] = b"cobox/v1/invite label";
/// A label's text at the most.
pub const LABEL_BYTES_MAX: usize = LABEL_PLAIN_BYTES - 1;

/// What a label names; part of its associated data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum LabelOf {
    /// A folder.
    Folder = 0,
    /// A device.
    Device = 1,
}

/// Seals labels of one folder. The genesis record carries labels before its first epoch exists, so the
/// key follows from the first epoch's secret alone.
pub struct LabelKey(Secret32);

impl LabelKey {
    /// `DK("label", E0)`.
    #[must_use]
    pub fn new(first_epoch: &Secret32) -> Self {
        Self(Secret32::derived("label", &[first_epoch.expose()]))
    }

    /// The key of one invite's joining device.
    pub(super) fn of_invite(key: Secret32) -> Self {
        Self(key)
    }

    /// Seals an invite's key, so that members can read what its joining device is called.
    pub(super) fn wrap(&self, invite: InviteKey, key: &Self) -> [u8; WRAPPED_LABEL_KEY_BYTES] {
        let sealed = aead::seal(self.0.expose(), &invite_aad(invite), key.0.expose());
        sealed.try_into().expect("32 bytes and the overhead")
    }

    /// Opens what [`Self::wrap`] made.
    ///
    /// # Errors
    /// [`Error::Sealed`].
    pub(super) fn unwrap(&self, invite: InviteKey, wrapped: &[u8; WRAPPED_LABEL_KEY_BYTES]) -> Result<Self> {
        let plain = Zeroizing::new(aead::open(self.0.expose(), &invite_aad(invite), wrapped)?);
        let mut bytes: [u8; 32] = plain.as_slice().try_into().map_err(|_| Error::Sealed)?;
        Ok(Self(Secret32::take(&mut bytes)))
    }

    /// Seals `text`, cut at a character to [`LABEL_BYTES_MAX`] bytes.
    #[must_use]
    pub fn seal(&self, of: LabelOf, text: &str) -> SealedLabel {
        let sealed = aead::seal(self.0.expose(), &aad(of), &padded(text));
        sealed.try_into().expect("the plaintext is padded to one length")
    }

    /// Opens what [`Self::seal`] made.
    ///
    /// # Errors
    /// [`Error::Sealed`].
    pub fn open(&self, of: LabelOf, sealed: &SealedLabel) -> Result<String> {
        let plain = aead::open(self.0.expose(), &aad(of), sealed)?;
        let (len, text) = plain.split_first().ok_or(Error::Sealed)?;
        let (text, padding) = text.split_at_checked(usize::from(*len)).ok_or(Error::Sealed)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(Error::Sealed);
        }
        String::from_utf8(text.to_vec()).map_err(|_| Error::Sealed)
    }

    #[cfg(test)]
    pub(super) fn seal_at(&self, of: LabelOf, text: &str, nonce: &[u8; 24]) -> Vec<u8> {
        aead::seal_at(self.0.expose(), &aad(of), nonce, &padded(text))
    }
}

fn invite_aad(invite: InviteKey) -> Vec<u8> {
    [INVITE_LABEL_CONTEXT, &[SUITE], &invite.0].concat()
}

fn aad(of: LabelOf) -> Vec<u8> {
    [LABEL_CONTEXT, &[SUITE, of as u8]].concat()
}

fn padded(text: &str) -> [u8; LABEL_PLAIN_BYTES] {
    let text = &text[..text.floor_char_boundary(LABEL_BYTES_MAX)];
    let mut plain = [0; LABEL_PLAIN_BYTES];
    plain[0] = u8::try_from(text.len()).expect("at most 127");
    plain[1..=text.len()].copy_from_slice(text.as_bytes());
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_round_trips_and_is_cut_at_a_character() {
        let key = LabelKey::new(&Secret32::take(&mut [1; 32]));
        for text in ["", "laptop", "Rechner von Jürgen", &"x".repeat(127)] {
            assert_eq!(key.open(LabelOf::Device, &key.seal(LabelOf::Device, text)).expect("opens"), text);
        }
        let long = "ü".repeat(100);
        let opened = key.open(LabelOf::Device, &key.seal(LabelOf::Device, &long)).expect("opens");
        assert_eq!(opened, "ü".repeat(63));
    }

    #[test]
    fn label_of_another_purpose_or_bent_is_refused() {
        let key = LabelKey::new(&Secret32::take(&mut [1; 32]));
        let mut sealed = key.seal(LabelOf::Device, "laptop");
        assert!(key.open(LabelOf::Folder, &sealed).is_err());
        sealed[30] ^= 1;
        assert!(key.open(LabelOf::Device, &sealed).is_err());
    }
}
