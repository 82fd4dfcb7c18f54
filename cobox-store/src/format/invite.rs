//! The code of an invite, and what a device that has one asks (`docs/format.md`, "Invites").
//!
//! Pure layouts. The code is a bearer secret: it has no `Debug`, and is cleared when dropped.

use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32m, Hrp};
use zeroize::{Zeroize as _, Zeroizing};

use super::access::{Device, Role, SEALED_LABEL_BYTES, SealedLabel};
use super::codec::{DecodeError, Reader, Writer};
use super::membership::{Redemption, redemption_bytes};
use crate::id::{FolderId, InviteKey, KemKey, LogId, MemberId};

/// What a bearer code is good for: it is what the code begins with, before the separating `1`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodeFor {
    /// Joining a folder as a device.
    Invite,
    /// Holding a folder as a seeder.
    Seed,
    /// Becoming an admin of a seeder. The folder's place has the first half of the `H` of the seeder's key.
    Claim,
}

impl CodeFor {
    fn hrp(self) -> Hrp {
        match self {
            Self::Invite => Hrp::parse_unchecked("cobox"),
            Self::Seed => Hrp::parse_unchecked("coboxseed"),
            Self::Claim => Hrp::parse_unchecked("coboxclaim"),
        }
    }
}

/// Bytes of the folder's id in a code: enough to tell folders apart.
pub const FOLDER_PREFIX_BYTES: usize = 16;
/// Peers that a code names.
pub const HINTS_MAX: usize = 4;
/// Addresses of one of them.
pub const HINT_ADDRESSES_MAX: usize = 4;
/// Bech32m's bound on a string is 1,023 characters of 5 bits; prefix and checksum take up to 17.
const CODE_BYTES_MAX: usize = 630;

/// Where somebody is who can pass a request on: an admin's device or a seeder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hint {
    /// Its Ed25519 libp2p key.
    pub peer: [u8; 32],
    /// Binary multiaddrs.
    pub addresses: Vec<Vec<u8>>,
}

/// What a code says.
#[derive(Clone, PartialEq, Eq)]
pub struct InviteCode {
    /// The first half of the folder's id.
    pub folder: [u8; FOLDER_PREFIX_BYTES],
    /// Whom to ask.
    pub hints: Vec<Hint>,
    /// What the invite's keys follow from.
    pub secret: Zeroizing<[u8; 16]>,
}

impl InviteCode {
    /// An invite's code as text, in lower case.
    ///
    /// # Errors
    /// When the hints do not fit.
    pub fn to_text(&self) -> Result<Zeroizing<String>, DecodeError> {
        self.to_text_for(CodeFor::Invite)
    }

    /// A code of any kind as text, in lower case.
    ///
    /// # Errors
    /// When the hints do not fit.
    pub fn to_text_for(&self, what: CodeFor) -> Result<Zeroizing<String>, DecodeError> {
        let mut writer = Writer::new();
        writer.u8(1);
        writer.fixed(&self.folder);
        writer.u8(u8::try_from(self.hints.len()).unwrap_or(u8::MAX));
        for hint in &self.hints {
            writer.fixed(&hint.peer);
            writer.u8(u8::try_from(hint.addresses.len()).unwrap_or(u8::MAX));
            for address in &hint.addresses {
                writer.u8(u8::try_from(address.len()).unwrap_or(u8::MAX));
                writer.fixed(address);
            }
        }
        writer.fixed(self.secret.as_ref());
        let bytes = Zeroizing::new(writer.into_bytes());
        let fits = bytes.len() <= CODE_BYTES_MAX && Self::decode(&bytes).is_ok();
        let text = bech32::encode::<Bech32m>(what.hrp(), &bytes).ok().filter(|_| fits);
        text.map(Zeroizing::new).ok_or(DecodeError::Invalid { field: "invite" })
    }

    /// Reads an invite's code as a person pasted it: in either case, with white space around or inside.
    ///
    /// # Errors
    /// When it is none, or was mistyped.
    pub fn from_text(text: &str) -> Result<Self, DecodeError> {
        Self::from_text_for(CodeFor::Invite, text)
    }

    /// Reads a code of one kind likewise.
    ///
    /// # Errors
    /// When it is none, of another kind, or was mistyped.
    pub fn from_text_for(what: CodeFor, text: &str) -> Result<Self, DecodeError> {
        let invalid = DecodeError::Invalid { field: "invite" };
        let text: Zeroizing<String> =
            Zeroizing::new(text.chars().filter(|letter| !letter.is_whitespace()).collect());
        let checked = CheckedHrpstring::new::<Bech32m>(&text).map_err(|_| invalid)?;
        if checked.hrp().to_lowercase() != what.hrp().to_lowercase() {
            return Err(invalid);
        }
        let bytes = Zeroizing::new(checked.byte_iter().collect::<Vec<u8>>());
        let code = Self::decode(&bytes)?;
        // Bits that fill the last letter have one spelling.
        if *code.to_text_for(what)? != text.to_ascii_lowercase() {
            return Err(invalid);
        }
        Ok(code)
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let field = "invite";
        let mut reader = Reader::new(bytes);
        reader.version(1, field)?;
        let folder = reader.array(field)?;
        let hints = short_list(&mut reader, HINTS_MAX, |reader| {
            let peer = reader.array(field)?;
            let addresses = short_list(reader, HINT_ADDRESSES_MAX, |reader| {
                let length = reader.u8(field)?;
                Ok(reader.fixed(usize::from(length), field)?.to_vec())
            })?;
            Ok(Hint { peer, addresses })
        })?;
        let mut secret: [u8; 16] = reader.array(field)?;
        reader.finish()?;
        let code = Self { folder, hints, secret: Zeroizing::new(secret) };
        secret.zeroize();
        Ok(code)
    }
}

fn short_list<T>(
    reader: &mut Reader<'_>,
    max: usize,
    mut item: impl FnMut(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = usize::from(reader.u8("invite")?);
    if count > max {
        return Err(DecodeError::Invalid { field: "invite" });
    }
    (0..count).map(|_| item(reader)).collect()
}

/// What a device that has a code asks of the folder's admins. Seeders pass it on and cannot read the
/// label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinRequest {
    /// The first half of the folder's id.
    pub folder: [u8; FOLDER_PREFIX_BYTES],
    /// The invite and its signature over the keys below.
    pub redemption: Redemption,
    /// The device's signing key.
    pub log: LogId,
    /// Its key for boxes.
    pub kem: KemKey,
    /// Its member.
    pub member: MemberId,
    /// The member's recovery key for boxes.
    pub recovery_kem: KemKey,
    /// What the device is called, sealed with the invite's label key.
    pub label: SealedLabel,
}

/// Bytes of a [`JoinRequest`].
pub const JOIN_REQUEST_BYTES: usize = 1 + FOLDER_PREFIX_BYTES + 32 + 64 + 4 * 32 + SEALED_LABEL_BYTES;

impl JoinRequest {
    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(1);
        writer.fixed(&self.folder);
        writer.fixed(&self.redemption.invite.0);
        writer.fixed(&self.redemption.signature);
        writer.fixed(&self.log.0);
        writer.fixed(&self.kem.0);
        writer.fixed(&self.member.0);
        writer.fixed(&self.recovery_kem.0);
        writer.fixed(&self.label);
        writer.into_bytes()
    }

    /// Reads what [`Self::encode`] wrote, and checks the invite's signature.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let field = "join request";
        let mut reader = Reader::new(bytes);
        reader.version(1, field)?;
        let request = Self {
            folder: reader.array(field)?,
            redemption: Redemption { invite: reader.invite_key(field)?, signature: reader.array(field)? },
            log: reader.log_id(field)?,
            kem: reader.kem_key(field)?,
            member: reader.member_id(field)?,
            recovery_kem: reader.kem_key(field)?,
            label: reader.array(field)?,
        };
        reader.finish()?;
        let device = request.device(Role::Read, request.label);
        if request.redemption.covers(request.padded_folder(), &device) {
            Ok(request)
        } else {
            Err(DecodeError::Invalid { field })
        }
    }

    /// What the invite's key signs.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        redemption_bytes(self.padded_folder(), &self.device(Role::Read, self.label))
    }

    /// The device as an admin lists it.
    #[must_use]
    pub fn device(&self, role: Role, label: SealedLabel) -> Device {
        Device {
            log: self.log,
            kem: self.kem,
            member: self.member,
            recovery_kem: self.recovery_kem,
            role,
            label,
        }
    }

    /// The part of the folder's id that is known, and zeros.
    #[must_use]
    pub fn padded_folder(&self) -> FolderId {
        let mut id = [0; 32];
        id[..FOLDER_PREFIX_BYTES].copy_from_slice(&self.folder);
        FolderId(id)
    }

    /// Which invite it redeems.
    #[must_use]
    pub fn invite(&self) -> InviteKey {
        self.redemption.invite
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    fn code() -> InviteCode {
        let hint = Hint { peer: [7; 32], addresses: vec![vec![4, 127, 0, 0, 1, 6, 30, 60]] };
        InviteCode { folder: [1; 16], hints: vec![hint], secret: Zeroizing::new([9; 16]) }
    }

    #[test]
    fn code_is_read_in_either_case_and_with_line_breaks() {
        let text = code().to_text().expect("fits");
        assert!(text.starts_with("cobox1"), "{}", text.len());
        for typed in [text.to_string(), text.to_uppercase(), format!(" {}\n{} ", &text[..30], &text[30..])] {
            assert!(InviteCode::from_text(&typed).expect("reads") == code());
        }
        let many = InviteCode { hints: vec![code().hints[0].clone(); HINTS_MAX + 1], ..code() };
        assert!(many.to_text().is_err());
    }

    #[test]
    fn code_of_one_kind_is_none_of_another() {
        for (what, other) in [
            (CodeFor::Invite, CodeFor::Seed),
            (CodeFor::Seed, CodeFor::Claim),
            (CodeFor::Claim, CodeFor::Invite),
        ] {
            let text = code().to_text_for(what).expect("fits");
            assert!(InviteCode::from_text_for(what, &text).expect("reads") == code());
            assert!(InviteCode::from_text_for(other, &text).is_err());
        }
    }

    #[test]
    fn code_with_any_letter_changed_is_refused() {
        let text = code().to_text().expect("fits");
        for at in 0..text.len() {
            let other = if text.as_bytes()[at] == b'q' { "p" } else { "q" };
            let mut typed = text.to_string();
            typed.replace_range(at..=at, other);
            assert!(InviteCode::from_text(&typed).is_err(), "letter {at}");
        }
        assert!(InviteCode::from_text("").is_err());
    }

    #[test]
    fn request_round_trips_and_any_change_of_its_keys_is_refused() {
        let key = SigningKey::from_bytes(&[5; 32]);
        let mut request = JoinRequest {
            folder: [1; 16],
            redemption: Redemption { invite: InviteKey(key.verifying_key().to_bytes()), signature: [0; 64] },
            log: LogId([2; 32]),
            kem: KemKey([3; 32]),
            member: MemberId([4; 32]),
            recovery_kem: KemKey([5; 32]),
            label: [6; SEALED_LABEL_BYTES],
        };
        request.redemption.signature = key.sign(&request.signed_bytes()).to_bytes();
        let bytes = request.encode();
        assert_eq!(bytes.len(), JOIN_REQUEST_BYTES);
        assert_eq!(JoinRequest::decode(&bytes), Ok(request));
        for at in 0..bytes.len() - SEALED_LABEL_BYTES {
            let mut bent = bytes.clone();
            bent[at] ^= 0x40;
            assert!(JoinRequest::decode(&bent).is_err(), "byte {at}");
        }
    }
}
