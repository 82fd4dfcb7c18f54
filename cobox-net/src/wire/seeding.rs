//! Frames about a seeder's owner, its agreements, and the codes it redeems (`docs/format.md`, section 14.2).

use std::ops::RangeInclusive;

use cobox_store::blind::owners::{ANSWER_BYTES_MAX, Outcome};
use cobox_store::format::agreement::TERMS_BYTES_MAX;
use cobox_store::format::command::{COMMAND_BYTES_MAX, Rank};
use cobox_store::format::seeding::SEED_REQUEST_BYTES_MAX;
use cobox_store::format::{DecodeError, Reader, Writer};
use cobox_store::id::ChainId;

use super::{QuestionId, SessionId};

/// The types of these frames.
pub const SEEDING_FRAMES: RangeInclusive<u8> = 55..=61;
/// A paper is terms, or a notice, with a signature and a head.
const PAPER_BYTES_MAX: usize = TERMS_BYTES_MAX + 256;
/// A claim: five keys, two signatures and a name.
const CLAIM_BYTES_MAX: usize = 512;

/// What a seeder says to a claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimAnswer {
    /// The code is not open.
    Refused,
    /// The device is an admin.
    Taken {
        /// Its registration.
        chain: ChainId,
        /// What it may order.
        rank: Rank,
        /// The last number that was taken.
        seq: u64,
    },
}

/// A frame of this kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SeedingFrame {
    /// What a seeder lays before a folder's device.
    Paper { session: SessionId, paper: Vec<u8> },
    /// A device asks to become an admin of the seeder.
    Claim { question: QuestionId, claim: Vec<u8> },
    /// The answer.
    Claimed { question: QuestionId, answer: ClaimAnswer },
    /// An admin's command.
    Command { question: QuestionId, command: Vec<u8> },
    /// What came of it.
    Obeyed { question: QuestionId, outcome: Outcome, text: String },
    /// A seeder with a code asks for a grant, and for the access log: a restricted session.
    RedeemSeed { session: SessionId, request: Vec<u8> },
    /// Passes such a request on to a member.
    SeedAsked { session: SessionId, request: Vec<u8> },
}

impl SeedingFrame {
    pub(super) fn encode(&self, w: &mut Writer) {
        let mut rest = |kind: u8, number: u32, bytes: &[u8]| {
            w.u8(kind);
            w.u32(number);
            w.fixed(bytes);
        };
        match self {
            Self::Paper { session, paper } => rest(55, session.0, paper),
            Self::Claim { question, claim } => rest(56, question.0, claim),
            Self::Claimed { question, answer } => match answer {
                ClaimAnswer::Refused => rest(57, question.0, &[0]),
                ClaimAnswer::Taken { chain, rank, seq } => {
                    rest(57, question.0, &[1]);
                    w.fixed(&chain.0);
                    w.u8(*rank as u8);
                    w.u64(*seq);
                }
            },
            Self::Command { question, command } => rest(58, question.0, command),
            Self::Obeyed { question, outcome, text } => {
                rest(59, question.0, &[*outcome as u8]);
                w.bytes32(text.as_bytes());
            }
            Self::RedeemSeed { session, request } => rest(60, session.0, request),
            Self::SeedAsked { session, request } => rest(61, session.0, request),
        }
    }

    pub(super) fn decode(kind: u8, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let number = r.u32("number")?;
        let (session, question) = (SessionId(number), QuestionId(number));
        Ok(match kind {
            55 => Self::Paper { session, paper: some(r, PAPER_BYTES_MAX)? },
            56 => Self::Claim { question, claim: some(r, CLAIM_BYTES_MAX)? },
            57 => {
                let answer = if r.flag("claimed")? {
                    ClaimAnswer::Taken {
                        chain: ChainId(r.array("claimed")?),
                        rank: Rank::from_byte(r.u8("claimed")?)?,
                        seq: r.u64("claimed")?,
                    }
                } else {
                    ClaimAnswer::Refused
                };
                Self::Claimed { question, answer }
            }
            58 => Self::Command { question, command: some(r, COMMAND_BYTES_MAX)? },
            59 => {
                let outcome = Outcome::from_byte(r.u8("outcome")?)?;
                let bytes = r.bytes32(ANSWER_BYTES_MAX, "answer")?;
                let text =
                    std::str::from_utf8(bytes).map_err(|_| DecodeError::Invalid { field: "answer" })?;
                Self::Obeyed { question, outcome, text: text.to_owned() }
            }
            60 => Self::RedeemSeed { session, request: some(r, SEED_REQUEST_BYTES_MAX)? },
            61 => Self::SeedAsked { session, request: some(r, SEED_REQUEST_BYTES_MAX)? },
            _ => return Err(DecodeError::Invalid { field: "frame type" }),
        })
    }
}

/// The rest of a frame, which is not empty.
fn some(r: &mut Reader<'_>, max: usize) -> Result<Vec<u8>, DecodeError> {
    let bytes = r.rest();
    if bytes.is_empty() || bytes.len() > max {
        return Err(DecodeError::Invalid { field: "frame" });
    }
    Ok(bytes.to_vec())
}
