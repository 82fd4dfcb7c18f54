//! Agreements (`docs/format.md`, "Agreements"): what a seeder holds for a folder, until when, with what
//! notice, as one text that both sides sign.
//!
//! Pure layouts. The seeder signs [`Terms`]; the folder's side signs the access record that holds them. What
//! they mean together is [`crate::blind::access`]'s work.

use ed25519_dalek::{Signature, VerifyingKey};

use super::access::PEER_ID_BYTES_MAX;
use super::codec::{DecodeError, Reader, Writer};
use super::receipt::peer_key;
use crate::id::{FolderId, TermsHash, hash};

/// What a seeder signs is this and the hash of the terms.
pub const TERMS_CONTEXT: &[u8] = b"cobox/v1/agreement";
/// What a seeder signs to end an agreement is this and the hash of the notice.
pub const NOTICE_CONTEXT: &[u8] = b"cobox/v1/notice";
/// A place, an organisation, a contact: a line of a letter.
pub const TERMS_TEXT_BYTES_MAX: usize = 200;
/// Terms, encoded, at the most.
pub const TERMS_BYTES_MAX: usize = 2 + 32 + 2 + PEER_ID_BYTES_MAX + 5 * 8 + 4 * (2 + TERMS_TEXT_BYTES_MAX);
/// The shortest time between two audits: below it a member would load the seeder for nothing.
pub const AUDIT_MS_MIN: u64 = 60_000;
/// The longest: a proof that is older says little.
pub const AUDIT_MS_MAX: u64 = 365 * DAY_MS;
/// The longest notice.
pub const NOTICE_MS_MAX: u64 = 3_660 * DAY_MS;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What both sides agree on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Terms {
    /// For which folder.
    pub folder: FolderId,
    /// Who holds it: the libp2p peer id (multihash bytes) of an Ed25519 key.
    pub seeder: Vec<u8>,
    /// How much, a hard limit.
    pub quota_bytes: u64,
    /// From when, milliseconds since 1970.
    pub from_ms: u64,
    /// Until when; 0 for no end.
    pub until_ms: u64,
    /// How long before its end a side says so.
    pub notice_ms: u64,
    /// How often members challenge the seeder.
    pub audit_ms: u64,
    /// Where the seeder stands.
    pub place: String,
    /// Who runs it.
    pub organisation: String,
    /// How to reach them.
    pub contact: String,
    /// How to reach the people whose folder it is.
    pub member_contact: String,
}

impl Terms {
    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(1);
        writer.u8(super::SUITE);
        writer.fixed(&self.folder.0);
        writer.bytes16(&self.seeder);
        for number in [self.quota_bytes, self.from_ms, self.until_ms, self.notice_ms, self.audit_ms] {
            writer.u64(number);
        }
        for text in [&self.place, &self.organisation, &self.contact, &self.member_contact] {
            writer.bytes16(text.as_bytes());
        }
        writer.into_bytes()
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// On anything no writer produces, and on terms that make no sense.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let field = "terms";
        let mut reader = Reader::new(bytes);
        reader.version(1, field)?;
        reader.suite()?;
        let terms = Self {
            folder: reader.folder_id(field)?,
            seeder: reader.bytes16(PEER_ID_BYTES_MAX, field)?.to_vec(),
            quota_bytes: reader.u64(field)?,
            from_ms: reader.u64(field)?,
            until_ms: reader.u64(field)?,
            notice_ms: reader.u64(field)?,
            audit_ms: reader.u64(field)?,
            place: text(&mut reader)?,
            organisation: text(&mut reader)?,
            contact: text(&mut reader)?,
            member_contact: text(&mut reader)?,
        };
        reader.finish()?;
        if terms.is_sound() { Ok(terms) } else { Err(DecodeError::Invalid { field }) }
    }

    /// Whether anybody could mean this.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let texts = [&self.place, &self.organisation, &self.contact, &self.member_contact];
        peer_key(&self.seeder).is_some()
            && self.quota_bytes > 0
            && (self.until_ms == 0 || self.until_ms > self.from_ms)
            && self.notice_ms <= NOTICE_MS_MAX
            && (AUDIT_MS_MIN..=AUDIT_MS_MAX).contains(&self.audit_ms)
            && texts.into_iter().all(|text| is_line(text))
    }

    /// The name of these terms: what both sides compare.
    #[must_use]
    pub fn hash(&self) -> TermsHash {
        TermsHash(hash(&self.encode()))
    }

    /// What the seeder signs.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        [TERMS_CONTEXT, &self.hash().0].concat()
    }

    /// Whether the seeder signed them.
    #[must_use]
    pub fn signed(&self, signature: &[u8; 64]) -> bool {
        verifies(&self.seeder, &self.signed_bytes(), signature)
    }
}

/// Text that cannot pretend to be other lines of a document, or to run the other way.
fn is_line(text: &str) -> bool {
    let misleads = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.len() <= TERMS_TEXT_BYTES_MAX && text.trim() == text && !text.chars().any(misleads)
}

fn text(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    let bytes = reader.bytes16(TERMS_TEXT_BYTES_MAX, "terms")?;
    let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Invalid { field: "terms" })?;
    Ok(text.to_owned())
}

fn verifies(seeder: &[u8], bytes: &[u8], signature: &[u8; 64]) -> bool {
    let key = peer_key(seeder).and_then(|key| VerifyingKey::from_bytes(&key).ok());
    key.is_some_and(|key| key.verify_strict(bytes, &Signature::from_bytes(signature)).is_ok())
}

/// Terms that the seeder signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedTerms {
    /// What.
    pub terms: Terms,
    /// By the seeder's key.
    pub signature: [u8; 64],
}

impl SignedTerms {
    /// `terms bytes16 ‖ signature`.
    pub fn encode(&self, writer: &mut Writer) {
        writer.bytes16(&self.terms.encode());
        writer.fixed(&self.signature);
    }

    /// Reads what [`Self::encode`] wrote, without checking the signature.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let terms = Terms::decode(reader.bytes16(TERMS_BYTES_MAX, "terms")?)?;
        Ok(Self { terms, signature: reader.array("terms")? })
    }

    /// Whether the seeder signed.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.terms.signed(&self.signature)
    }
}

/// Which side ends an agreement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The folder's; the record that holds the notice is its signature.
    Folder,
    /// The seeder's, with its signature.
    Seeder([u8; 64]),
}

/// The end of an agreement, said in advance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// Of which folder.
    pub folder: FolderId,
    /// With which seeder: its peer id.
    pub seeder: Vec<u8>,
    /// Which terms.
    pub terms: TermsHash,
    /// When it ends, milliseconds since 1970.
    pub at_ms: u64,
    /// Who says so.
    pub by: Side,
}

impl Notice {
    fn encode_start(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(1);
        writer.u8(super::SUITE);
        writer.fixed(&self.folder.0);
        writer.bytes16(&self.seeder);
        writer.fixed(&self.terms.0);
        writer.u64(self.at_ms);
        writer.into_bytes()
    }

    /// The whole encoding.
    pub fn encode(&self, writer: &mut Writer) {
        writer.fixed(&self.encode_start());
        match self.by {
            Side::Folder => writer.u8(0),
            Side::Seeder(signature) => {
                writer.u8(1);
                writer.fixed(&signature);
            }
        }
    }

    /// Reads what [`Self::encode`] wrote, without checking a signature.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let field = "notice";
        reader.version(1, field)?;
        reader.suite()?;
        Ok(Self {
            folder: reader.folder_id(field)?,
            seeder: reader.bytes16(PEER_ID_BYTES_MAX, field)?.to_vec(),
            terms: TermsHash(reader.array(field)?),
            at_ms: reader.u64(field)?,
            by: if reader.flag(field)? { Side::Seeder(reader.array(field)?) } else { Side::Folder },
        })
    }

    /// What the seeder signs.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        [NOTICE_CONTEXT, &hash(&self.encode_start())].concat()
    }

    /// Whether the seeder signed, where it is the seeder's.
    #[must_use]
    pub fn holds(&self) -> bool {
        match &self.by {
            Side::Folder => true,
            Side::Seeder(signature) => verifies(&self.seeder, &self.signed_bytes(), signature),
        }
    }
}

/// What a seeder lays before the folder's devices, until the access log has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Paper {
    /// Terms that it signed: an answer to a proposal, or a proposal of its own.
    Signed(SignedTerms),
    /// It ends the agreement.
    Ends(Notice),
    /// It does not take what was proposed.
    Declined(TermsHash),
    /// Its owner let the folder go, or holds it (again).
    Held(Held),
}

/// Whether a seeder's owner wants to hold a folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    /// It is held.
    On,
    /// The owner let it go: nothing new is taken, and what is there is deleted no earlier than this, in milliseconds
    /// since 1970.
    Until(u64),
}

impl Paper {
    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        match self {
            Self::Signed(signed) => {
                writer.u8(1);
                signed.encode(&mut writer);
            }
            Self::Ends(notice) => {
                writer.u8(2);
                notice.encode(&mut writer);
            }
            Self::Declined(terms) => {
                writer.u8(3);
                writer.fixed(&terms.0);
            }
            Self::Held(held) => {
                writer.u8(4);
                writer.u64(match held {
                    Held::On => 0,
                    Held::Until(gone_ms) => (*gone_ms).max(1),
                });
            }
        }
        writer.into_bytes()
    }

    /// Reads what [`Self::encode`] wrote, and checks the seeder's signature.
    ///
    /// # Errors
    /// On anything no writer produces.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let field = "paper";
        let mut reader = Reader::new(bytes);
        let paper = match reader.u8(field)? {
            1 => Self::Signed(SignedTerms::decode(&mut reader)?),
            2 => Self::Ends(Notice::decode(&mut reader)?),
            3 => Self::Declined(TermsHash(reader.array(field)?)),
            4 => Self::Held(match reader.u64(field)? {
                0 => Held::On,
                gone_ms => Held::Until(gone_ms),
            }),
            _ => return Err(DecodeError::Invalid { field }),
        };
        reader.finish()?;
        let holds = match &paper {
            Self::Signed(signed) => signed.holds(),
            Self::Ends(notice) => notice.by != Side::Folder && notice.holds(),
            Self::Declined(_) | Self::Held(_) => true,
        };
        if holds { Ok(paper) } else { Err(DecodeError::Invalid { field }) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::super::receipt::peer_id_of;
    use super::*;

    pub(crate) fn key() -> SigningKey {
        SigningKey::from_bytes(&[21; 32])
    }

    pub(crate) fn terms() -> Terms {
        Terms {
            folder: FolderId([1; 32]),
            seeder: peer_id_of(&key().verifying_key().to_bytes()),
            quota_bytes: 50_000_000_000,
            from_ms: 1_795_000_000_000,
            until_ms: 1_826_000_000_000,
            notice_ms: 30 * DAY_MS,
            audit_ms: DAY_MS,
            place: "Leipzig".into(),
            organisation: "Kollektiv Süd".into(),
            contact: "box@example.org".into(),
            member_contact: String::new(),
        }
    }

    pub(crate) fn signed() -> SignedTerms {
        let terms = terms();
        let signature = key().sign(&terms.signed_bytes()).to_bytes();
        SignedTerms { terms, signature }
    }

    pub(crate) fn notice() -> Notice {
        let terms = terms();
        let mut notice = Notice {
            folder: terms.folder,
            seeder: terms.seeder.clone(),
            terms: terms.hash(),
            at_ms: terms.until_ms - 5,
            by: Side::Folder,
        };
        notice.by = Side::Seeder(key().sign(&notice.signed_bytes()).to_bytes());
        notice
    }

    #[test]
    fn papers_round_trip_and_any_bit_flipped_is_refused() {
        for paper in [Paper::Signed(signed()), Paper::Ends(notice())] {
            let bytes = paper.encode();
            assert_eq!(Paper::decode(&bytes), Ok(paper));
            for at in 0..bytes.len() {
                let mut bent = bytes.clone();
                bent[at] ^= 0x10;
                assert!(Paper::decode(&bent).is_err(), "byte {at}");
            }
        }
        let declined = Paper::Declined(TermsHash([4; 32]));
        assert_eq!(Paper::decode(&declined.encode()), Ok(declined));
        for held in [Held::On, Held::Until(1_790_000_000_000)] {
            assert_eq!(Paper::decode(&Paper::Held(held).encode()), Ok(Paper::Held(held)));
        }
    }

    #[test]
    fn terms_that_nobody_can_mean_are_refused() {
        let sound = terms();
        assert_eq!(Terms::decode(&sound.encode()), Ok(sound.clone()));
        let place = |place: &str| Terms { place: place.into(), ..sound.clone() };
        for bad in [
            Terms { quota_bytes: 0, ..sound.clone() },
            Terms { until_ms: sound.from_ms, ..sound.clone() },
            Terms { audit_ms: 0, ..sound.clone() },
            Terms { notice_ms: u64::MAX, ..sound.clone() },
            Terms { seeder: vec![1, 2], ..sound.clone() },
            place("here\nUntil: never"),
            place("\u{202e}ereh"),
            place(" here"),
            place(&"x".repeat(TERMS_TEXT_BYTES_MAX + 1)),
        ] {
            assert!(Terms::decode(&bad.encode()).is_err(), "{bad:?}");
        }
        assert!(Terms { until_ms: 0, ..sound }.is_sound(), "an agreement may have no end");
    }
}
