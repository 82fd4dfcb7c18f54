//! Secrets in memory: zeroized when dropped, without `Debug`; and the member's words.
//!
//! A [`MemberSecret`] exists while words are shown or typed in, and no device keeps it. What devices
//! keep is derived from it (`docs/format.md`, "Words").

use bip39::{Language, Mnemonic};
use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::{Zeroize as _, Zeroizing};

use crate::blind::kembox::KemSecret;
use crate::error::{Error, Result, WordsFault};
use crate::id::{KemKey, LocatorId, MemberId, derive, hash};

/// Words of a member's secret: 256 bits and 8 of checksum, 11 bits a word.
pub const WORDS: usize = 24;

/// What is signed to open a session is this and the hash of its transcript.
pub(super) const SESSION_CONTEXT: &[u8] = b"cobox/v1/session";

/// Thirty-two secret bytes.
#[derive(Clone)]
pub struct Secret32(Zeroizing<[u8; 32]>);

impl Secret32 {
    /// Takes over `bytes`, and clears the caller's copy.
    #[must_use]
    pub fn take(bytes: &mut [u8; 32]) -> Self {
        let secret = Self(Zeroizing::new(*bytes));
        bytes.zeroize();
        secret
    }

    /// `DK(purpose, parts…)` as a secret.
    #[must_use]
    pub fn derived(purpose: &str, parts: &[&[u8]]) -> Self {
        Self::take(&mut derive(purpose, parts))
    }

    /// Fresh from the operating system.
    ///
    /// # Errors
    /// [`Error::Random`].
    pub fn random() -> Result<Self> {
        let mut secret = Self(Zeroizing::new([0; 32]));
        getrandom::fill(secret.0.as_mut()).map_err(|_| Error::Random)?;
        Ok(secret)
    }

    /// The bytes, for a primitive that needs them.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A member: 32 random bytes that people keep as 24 words. No device keeps them.
pub struct MemberSecret(Secret32);

/// What proves to one folder that a person is its member, when all devices are lost.
pub struct RecoveryKeys {
    /// Signs the record that admits a new device.
    pub sign: SigningKey,
    /// Opens the boxes of epochs.
    pub kem: KemSecret,
}

impl RecoveryKeys {
    /// The member's name in the folder.
    #[must_use]
    pub fn member(&self) -> MemberId {
        MemberId(self.sign.verifying_key().to_bytes())
    }

    /// Signs a session's transcript as the member, which opens the access log and nothing else.
    #[must_use]
    pub fn sign_session(&self, transcript: &[u8]) -> [u8; 64] {
        self.sign.sign(&[SESSION_CONTEXT, &hash(transcript)].concat()).to_bytes()
    }

    /// The member's key for boxes.
    #[must_use]
    pub fn kem_key(&self) -> KemKey {
        self.kem.public()
    }
}

/// What finds and opens a member's locator; devices keep it.
pub struct LocatorKeys {
    /// Seed of the key that signs the locator and names it.
    pub sign_seed: Secret32,
    /// Seals its inside.
    pub seal: Secret32,
}

impl LocatorKeys {
    /// The signing key.
    #[must_use]
    pub fn sign(&self) -> SigningKey {
        SigningKey::from_bytes(self.sign_seed.expose())
    }

    /// Under which id seeders keep the member's locator.
    #[must_use]
    pub fn id(&self) -> LocatorId {
        crate::format::locator::locator_id(&self.sign().verifying_key().to_bytes())
    }
}

impl MemberSecret {
    /// A new member.
    ///
    /// # Errors
    /// [`Error::Random`].
    pub fn generate() -> Result<Self> {
        Secret32::random().map(Self)
    }

    /// The 24 BIP-39 words, separated by single spaces.
    #[must_use]
    pub fn words(&self) -> Zeroizing<String> {
        let mnemonic =
            Mnemonic::from_entropy_in(Language::English, self.0.expose()).expect("32 bytes are 24 words");
        // Room for the longest phrase (24 words of 8 letters), so that no copy stays behind on growth.
        let mut text = Zeroizing::new(String::with_capacity(WORDS * 9));
        for word in mnemonic.words() {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
        }
        text
    }

    /// Reads 24 words in any case, with any white space between them, and with or without the numbers that they are
    /// shown with.
    ///
    /// # Errors
    /// [`Error::Words`].
    pub fn from_words(text: &str) -> Result<Self> {
        let mut lower = Zeroizing::new(String::with_capacity(text.len()));
        let is_number = |letter: char| letter.is_ascii_digit() || matches!(letter, '.' | ')');
        for word in text.split_whitespace().map(|word| word.trim_start_matches(is_number)) {
            if !word.is_empty() {
                let space = if lower.is_empty() { "" } else { " " };
                lower.push_str(space);
                lower.extend(word.chars().map(|letter| letter.to_ascii_lowercase()));
            }
        }
        let count = lower.split_whitespace().count();
        if count != WORDS {
            return Err(Error::Words(WordsFault::Count(count)));
        }
        let mnemonic = Mnemonic::parse_in_normalized(Language::English, &lower).map_err(|fault| {
            Error::Words(match fault {
                bip39::Error::UnknownWord(at) => WordsFault::Unknown(at + 1),
                _ => WordsFault::Checksum,
            })
        })?;
        let (entropy, _) = mnemonic.to_entropy_array();
        let entropy = Zeroizing::new(entropy);
        let mut bytes: [u8; 32] = entropy[..32].try_into().expect("33 bytes hold 32");
        Ok(Self(Secret32::take(&mut bytes)))
    }

    /// The member's keys for the folder of number `index`.
    #[must_use]
    pub fn recovery(&self, index: u32) -> RecoveryKeys {
        let part = index.to_le_bytes();
        let sign = Secret32::derived("recovery sign", &[self.0.expose(), &part]);
        let kem = Secret32::derived("recovery kem", &[self.0.expose(), &part]);
        RecoveryKeys { sign: SigningKey::from_bytes(sign.expose()), kem: KemSecret::from_seed(kem.expose()) }
    }

    /// The member's locator keys.
    #[must_use]
    pub fn locator(&self) -> LocatorKeys {
        LocatorKeys {
            sign_seed: Secret32::derived("locator sign", &[self.0.expose()]),
            seal: Secret32::derived("locator seal", &[self.0.expose()]),
        }
    }

    /// A member of known bytes.
    #[cfg(test)]
    pub(super) fn fixed(mut bytes: [u8; 32]) -> Self {
        Self(Secret32::take(&mut bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip_in_any_spelling() {
        let secret = MemberSecret::generate().expect("randomness");
        let words = secret.words();
        assert_eq!(words.split(' ').count(), WORDS);
        let spelled = words.to_uppercase().replace(' ', " \n\t ");
        let read = MemberSecret::from_words(&spelled).expect("the same words");
        assert_eq!(read.0.expose(), secret.0.expose());
    }

    #[test]
    fn words_that_are_wrong_are_refused() {
        let words = MemberSecret::fixed([7; 32]).words();
        let mut list: Vec<&str> = words.split(' ').collect();
        let swapped = if list[3] == "zoo" { "zone" } else { "zoo" };
        list[3] = swapped;
        let fault = |text: &str| match MemberSecret::from_words(text) {
            Err(Error::Words(fault)) => fault,
            _ => panic!("they are taken, or refused for something else"),
        };
        assert_eq!(fault(&list.join(" ")), WordsFault::Checksum);
        assert_eq!(fault(&list[..23].join(" ")), WordsFault::Count(23));
        list[3] = "zooo";
        assert_eq!(fault(&list.join(" ")), WordsFault::Unknown(4));
        // Twelve valid words are a phrase, but not ours.
        let twelve =
            "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
        assert_eq!(fault(twelve), WordsFault::Count(12));
        assert_eq!(fault(""), WordsFault::Count(0));
    }

    #[test]
    fn recovery_keys_of_two_indices_differ() {
        let secret = MemberSecret::fixed([7; 32]);
        assert_ne!(secret.recovery(0).member(), secret.recovery(1).member());
        assert_eq!(secret.recovery(5).member(), MemberSecret::fixed([7; 32]).recovery(5).member());
    }
}
