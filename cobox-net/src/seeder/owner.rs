//! How a seeder gets an owner: a code that is shown at its console, and that a member's device redeems.

use cobox_store::blind::Store;
use cobox_store::blind::owners::{NO_ISSUER, OpenClaim};
use cobox_store::format::command::Rank;
use cobox_store::format::invite::{CodeFor, FOLDER_PREFIX_BYTES, HINT_ADDRESSES_MAX, Hint, InviteCode};
use cobox_store::id::{ClaimKey, derive, hash};
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use super::Failure;
use crate::peer_id::PeerId;

/// What the console's code is called in lists.
const CONSOLE: &str = "console";

/// The key of a claim code.
#[must_use]
pub fn claim_key(secret: &[u8; 16]) -> SigningKey {
    SigningKey::from_bytes(&Zeroizing::new(derive("claim", &[secret])))
}

/// What a claim code says of its seeder, where an invite's names its folder.
#[must_use]
pub fn claim_about(seeder: PeerId) -> [u8; FOLDER_PREFIX_BYTES] {
    let mut about = [0; FOLDER_PREFIX_BYTES];
    about.copy_from_slice(&hash(seeder.key())[..FOLDER_PREFIX_BYTES]);
    about
}

/// A code as text.
///
/// # Errors
/// When the addresses do not fit.
pub fn claim_text(
    seeder: PeerId,
    addresses: &[Vec<u8>],
    secret: &[u8; 16],
) -> Result<Zeroizing<String>, Failure> {
    let addresses = short(addresses);
    let code = InviteCode {
        folder: claim_about(seeder),
        hints: vec![Hint { peer: *seeder.key(), addresses }],
        secret: Zeroizing::new(*secret),
    };
    code.to_text_for(CodeFor::Claim)
        .map_err(|_| Failure::failed("The seeder's addresses do not fit into a code."))
}

/// How a code is used: a command line is seen by everybody on the machine, so it goes to standard input.
#[must_use]
pub fn claim_hint(code: &str) -> String {
    format!(
        "Whoever runs `cobox-ctl seeder claim -` first, on any machine, and pastes this line there, owns the seeder:\n{code}"
    )
}

/// The first few addresses that others can use: those of this machine alone only where there are no others.
fn short(addresses: &[Vec<u8>]) -> Vec<Vec<u8>> {
    // A binary multiaddr begins with its protocol: 4 is IPv4, 41 (0x29) IPv6.
    const LOOPBACK_V6: [u8; 17] = [0x29, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let is_local = |address: &Vec<u8>| address.starts_with(&[4, 127]) || address.starts_with(&LOOPBACK_V6);
    let (local, mut usable): (Vec<_>, Vec<_>) = addresses.iter().cloned().partition(is_local);
    if usable.is_empty() {
        usable = local;
    }
    usable.truncate(HINT_ADDRESSES_MAX);
    usable
}

/// Whether whoever has the console may become the owner although there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Console {
    /// Only where nobody owns the seeder.
    First,
    /// In any case: all admins are dismissed, and every code that is open is void.
    Reset,
}

/// The secret of the console's code, the same until it was used or the seeder was reset; `None` where the seeder
/// has an owner.
///
/// # Errors
/// When the store cannot be read or written.
pub fn console_secret(store: &Store, how: Console) -> Result<Option<Zeroizing<[u8; 16]>>, Failure> {
    let mut secret = Zeroizing::new([0; 16]);
    getrandom::fill(secret.as_mut()).map_err(|_| Failure::failed("The system gives no random numbers."))?;
    let fresh = OpenClaim {
        key: ClaimKey(claim_key(&secret).verifying_key().to_bytes()),
        rank: Rank::Owner,
        expires_ms: 0,
        name: CONSOLE.to_owned(),
        secret: *secret,
        issuer: NO_ISSUER,
    };
    if how == Console::Reset {
        for admin in store.owners_reset(&fresh)? {
            tracing::warn!(admin = %admin.key, name = admin.name, "an admin was dismissed at the console");
        }
        return Ok(Some(secret));
    }
    Ok(store.claim_console(fresh)?.map(|open| Zeroizing::new(open.secret)))
}

#[cfg(test)]
mod tests {
    use cobox_store::blind::StoreKind;

    use super::*;

    #[test]
    fn code_of_the_console_is_the_same_until_it_is_used_and_again_after_a_reset() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let store = Store::create(dir.path(), StoreKind::Seeder).expect("creates");
        let secret = console_secret(&store, Console::First).expect("makes").expect("nobody owns it");
        assert_eq!(console_secret(&store, Console::First).expect("reads"), Some(secret.clone()));
        let text = claim_text(PeerId::of_key([7; 32]), &[vec![4, 127, 0, 0, 1, 6, 30, 60]], &secret);
        let text = text.expect("fits");
        assert!(text.starts_with("coboxclaim1"), "{}", text.len());
        let code = InviteCode::from_text_for(CodeFor::Claim, &text).expect("reads");
        assert_eq!((*code.secret, code.folder), (*secret, claim_about(PeerId::of_key([7; 32]))));
        let reset = console_secret(&store, Console::Reset).expect("makes").expect("always one");
        assert_ne!(reset, secret, "whoever saw the code before the reset has nothing");
        assert_eq!(console_secret(&store, Console::First).expect("reads"), Some(reset));
        assert_eq!(store.claims().expect("reads").len(), 1);
    }
}
