//! Secrets in memory: zeroized when dropped, without `Debug`, never compared except in constant time.


use zeroize::{Zeroize as _, Zeroizing};

use crate::error::{Error, Result};

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
pub struct MemberSecret(pub(super) Secret32);

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
        todo!()
    }

    /// Reads 24 words in any case and with any white space between them.
    ///
    /// # Errors
    /// [`Error::Words`].
    pub fn from_words(text: &str) -> Result<Self> {
        let _ = text;
        todo!()
    }
}

