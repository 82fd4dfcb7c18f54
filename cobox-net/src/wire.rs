//! Every sent byte: frames of the control stream and of the bulk streams (`docs/format.md`, "Wire").
//!
//! Pure codecs. A frame is `u32 length ‖ type ‖ fields`; the length does not count itself. Control frames
//! are at most [`FRAME_BYTES_MAX`] long, bulk frames [`BULK_BYTES_MAX`]. An unknown type is refused, and
//! what decodes re-encodes to the same bytes. The version of the wire is in the streams' protocol names.

use cobox_store::format::access::BOX_BYTES;
use cobox_store::format::entry::LogHead;
use cobox_store::format::invite::JOIN_REQUEST_BYTES;
use cobox_store::format::locator::LOCATOR_BYTES_MAX;
use cobox_store::format::proof::{Challenge, LeafProof};
use cobox_store::format::{DEPS_MAX, DecodeError, HEADS_MAX, PROOF_SAMPLES, Reader, Writer};
use cobox_store::id::{FolderId, LocatorId, LogId, MemberId, PackId, RecordHash};

mod bulk;
mod contact;
mod seeding;

pub use bulk::{
    Ask, BULK_BYTES_MAX, BULK_PROTOCOL, BulkFrame, FRAME_SLICES_MAX, OutboardWish, SLICES_OFFSET,
    decode_bulk, slices_head,
};
pub use contact::{
    CAME_MAX, CONTACTS_MAX, Contact, Whereabouts, decode_contacts, decode_whereabouts, decode_word,
    encode_contacts, encode_whereabouts, encode_word, place,
};

pub use seeding::{ClaimAnswer, SEEDING_FRAMES, SeedingFrame};

/// The control stream, one per connection, opened by the dialer.
pub const CONTROL_PROTOCOL: &str = "/cobox/control/1";
/// A control frame at the most: an entry with its header, or half a thousand proofs.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Packs in one [`Frame::Have`].
pub const HAVE_MAX: usize = 4096;
/// Records in one frame.
pub const RECORDS_MAX: usize = 4096;
/// Bytes of records in one frame, unless it is a single record: leaves room for the frame's head.
pub const RECORDS_BYTES: usize = 512 * 1024;
/// The type of [`Frame::Equivocation`].
const EQUIVOCATION: u8 = 33;
/// Proofs in one frame: 256 of at most 1.5 KiB.
pub const PROOFS_MAX: usize = 256;

/// The number of a folder's session on one connection; the opener chooses it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u32);

/// The number of a question on one connection; the asker chooses it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QuestionId(pub u32);

/// Whether more frames of one list follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// More follow.
    More,
    /// This is the last.
    Last,
}

/// Who speaks in a session, proved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Proof {
    /// A seeder: the connection's own peer id is its key.
    Seeder,
    /// A member's device.
    Member {
        /// Its key of the folder.
        log: LogId,
        /// By that key over the transcript.
        signature: [u8; 64],
    },
}

/// What a seeder's owner says to a grant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum GrantAnswer {
    /// The folder is held from now on.
    Accepted = 0,
    /// The owner has to say yes first.
    Pending = 1,
    /// No.
    Refused = 2,
}

/// What a peer says to a locator question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LocatorAnswer {
    /// Stored.
    Stored,
    /// There is none under the id.
    None,
    /// Not from you.
    Refused,
    /// Here it is, encoded.
    Found(Vec<u8>),
}

/// A frame of the control stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// The first frame in each direction.
    Hello { nonce: [u8; 32] },
    /// Opens a folder's session: the folder under a fresh blinded id, and proof of the swarm secret.
    Open { session: SessionId, blinded: [u8; 32], proof: [u8; 32] },
    /// The other side knows the secret too, and who it is.
    Accept { session: SessionId, proof: [u8; 32], who: Proof },
    /// Who the opener is.
    Confirm { session: SessionId, who: Proof },
    /// The one answer to anything that does not hold.
    Refuse { session: SessionId },
    /// The folder is not synced here any more.
    Close { session: SessionId },
    /// Heads of the sender's access log.
    AccessHeads { session: SessionId, heads: Vec<RecordHash> },
    /// Asks for the records that these heads do not cover.
    AccessWant { session: SessionId, have: Vec<RecordHash> },
    /// Records, parents before children.
    Records { session: SessionId, part: Part, records: Vec<Vec<u8>> },
    /// The sender holds these logs up to these entries.
    LogHeads { session: SessionId, heads: Vec<LogHead> },
    /// Asks for the entries of a log from `from` on.
    EntriesWant { session: SessionId, log: LogId, from: u64 },
    /// One entry, asked for or pushed.
    Entry { session: SessionId, entry: Vec<u8> },
    /// The answer to `EntriesWant` ends; the next one to ask for is `next`.
    EntriesEnd { session: SessionId, log: LogId, next: u64 },
    /// Live packs that the sender lacks; `full`: and will lack until there is room.
    Behind { session: SessionId, packs: u64, bytes: u64, full: bool },
    /// Packs that the sender was asked for before and has now.
    Have { session: SessionId, packs: Vec<PackId> },
    /// Asks for proofs.
    Challenge { session: SessionId, question: QuestionId, challenge: Challenge },
    /// Proofs for the samples from `first` on; `None` where the sender cannot.
    Proofs { session: SessionId, question: QuestionId, first: u16, proofs: Vec<Option<LeafProof>> },
    /// The signed end of an answer to `Challenge`.
    Receipt { session: SessionId, question: QuestionId, receipt: Vec<u8> },
    /// A member asks a seeder to hold a folder: the access log from genesis to the grant.
    GrantOffer { session: SessionId, part: Part, records: Vec<Vec<u8>> },
    /// The seeder's answer.
    GrantAnswer { folder: FolderId, answer: GrantAnswer },
    /// Leaves a locator.
    LocatorPut { question: QuestionId, locator: Vec<u8> },
    /// Asks for a locator.
    LocatorGet { question: QuestionId, id: LocatorId },
    /// The answer to either.
    Locator { question: QuestionId, answer: LocatorAnswer },
    /// Opens a restricted session with a recovery key: the answer is the access log.
    Recover { session: SessionId, folder: FolderId, member: MemberId, signature: [u8; 64] },
    /// Opens a restricted session with an invite's key, and asks for a device to be let in.
    Redeem { session: SessionId, signature: [u8; 64], request: Vec<u8> },
    /// Passes such a request on to a member.
    JoinAsked { session: SessionId, request: Vec<u8> },
    /// The request was passed on; ask again.
    JoinWait { session: SessionId },
    /// About a seeder's owner, its agreements and the codes it redeems.
    Seeding(SeedingFrame),
    /// Proof that a log forked: it is closed.
    Equivocation { session: SessionId, proof: Vec<u8> },
    /// Which devices of the folder the sender knows, and where, each in the device's own words.
    Contacts { session: SessionId, contacts: Vec<Contact> },
}

impl Frame {
    /// The bytes after the length.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        match self {
            Self::Hello { nonce } => {
                w.u8(1);
                w.fixed(nonce);
            }
            Self::Open { session, blinded, proof } => {
                head(&mut w, 2, *session);
                w.fixed(blinded);
                w.fixed(proof);
            }
            Self::Accept { session, proof, who } => {
                head(&mut w, 3, *session);
                w.fixed(proof);
                who.encode(&mut w);
            }
            Self::Confirm { session, who } => {
                head(&mut w, 4, *session);
                who.encode(&mut w);
            }
            Self::Refuse { session } => head(&mut w, 5, *session),
            Self::Close { session } => head(&mut w, 6, *session),
            Self::AccessHeads { session, heads } => {
                head(&mut w, 7, *session);
                hashes(&mut w, heads);
            }
            Self::AccessWant { session, have } => {
                head(&mut w, 8, *session);
                hashes(&mut w, have);
            }
            Self::Records { session, part, records } => {
                head(&mut w, 9, *session);
                encode_records(&mut w, *part, records);
            }
            Self::LogHeads { session, heads } => {
                head(&mut w, 10, *session);
                encode_heads(&mut w, heads);
            }
            Self::EntriesWant { session, log, from } => {
                head(&mut w, 11, *session);
                w.fixed(&log.0);
                w.u64(*from);
            }
            Self::Entry { session, entry } => {
                head(&mut w, 12, *session);
                w.fixed(entry);
            }
            Self::EntriesEnd { session, log, next } => {
                head(&mut w, 13, *session);
                w.fixed(&log.0);
                w.u64(*next);
            }
            Self::Behind { session, packs, bytes, full } => {
                head(&mut w, 14, *session);
                w.u64(*packs);
                w.u64(*bytes);
                w.u8(u8::from(*full));
            }
            Self::Have { session, packs } => {
                head(&mut w, 15, *session);
                w.count(packs.len());
                packs.iter().for_each(|pack| w.fixed(&pack.0));
            }
            other => other.encode_rare(&mut w),
        }
        w.into_bytes()
    }

    fn encode_rare(&self, w: &mut Writer) {
        match self {
            Self::Challenge { session, question, challenge } => {
                head(w, 16, *session);
                w.u32(question.0);
                challenge.encode(w);
            }
            Self::Proofs { session, question, first, proofs } => {
                head(w, 17, *session);
                w.u32(question.0);
                w.u16(*first);
                w.count(proofs.len());
                for proof in proofs {
                    w.u8(u8::from(proof.is_some()));
                    proof.iter().for_each(|proof| proof.encode(w));
                }
            }
            Self::Receipt { session, question, receipt } => {
                head(w, 18, *session);
                w.u32(question.0);
                w.fixed(receipt);
            }
            Self::GrantOffer { session, part, records } => {
                head(w, 19, *session);
                encode_records(w, *part, records);
            }
            Self::GrantAnswer { folder, answer } => {
                w.u8(20);
                w.fixed(&folder.0);
                w.u8(*answer as u8);
            }
            Self::LocatorPut { question, locator } => {
                w.u8(21);
                w.u32(question.0);
                w.fixed(locator);
            }
            Self::LocatorGet { question, id } => {
                w.u8(22);
                w.u32(question.0);
                w.fixed(&id.0);
            }
            Self::Locator { question, answer } => {
                w.u8(23);
                w.u32(question.0);
                match answer {
                    LocatorAnswer::Stored => w.u8(0),
                    LocatorAnswer::None => w.u8(1),
                    LocatorAnswer::Refused => w.u8(2),
                    LocatorAnswer::Found(bytes) => {
                        w.u8(3);
                        w.fixed(bytes);
                    }
                }
            }
            Self::Recover { session, folder, member, signature } => {
                head(w, 24, *session);
                w.fixed(&folder.0);
                w.fixed(&member.0);
                w.fixed(signature);
            }
            other => other.encode_join(w),
        }
    }

    fn encode_join(&self, w: &mut Writer) {
        match self {
            Self::Redeem { session, signature, request } => {
                head(w, 25, *session);
                w.fixed(signature);
                w.fixed(request);
            }
            Self::JoinAsked { session, request } => {
                head(w, 26, *session);
                w.fixed(request);
            }
            Self::JoinWait { session } => head(w, 27, *session),
            Self::Seeding(frame) => frame.encode(w),
            Self::Equivocation { session, proof } => rest(w, EQUIVOCATION, *session, proof),
            Self::Contacts { session, contacts } => {
                head(w, contact::CONTACTS, *session);
                contact::encode_list(w, contacts);
            }
            _ => unreachable!("encode handles the frequent frames"),
        }
    }
}

/// Reads the bytes after the length of a control frame.
///
/// # Errors
/// On anything no writer produces.
pub fn decode_frame(bytes: &[u8]) -> Result<Frame, DecodeError> {
    let mut r = Reader::new(bytes);
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(DecodeError::Invalid { field: "frame" });
    }
    let kind = r.u8("frame type")?;
    let frame = match kind {
        1 => Frame::Hello { nonce: r.array("hello")? },
        20..=23 => decode_question(kind, &mut r)?,
        kind if SEEDING_FRAMES.contains(&kind) => Frame::Seeding(SeedingFrame::decode(kind, &mut r)?),
        2..=27 | EQUIVOCATION | contact::CONTACTS => {
            let session = SessionId(r.u32("session")?);
            if kind <= 15 {
                decode_session(kind, session, &mut r)?
            } else {
                decode_rare(kind, session, &mut r)?
            }
        }
        _ => return Err(DecodeError::Invalid { field: "frame type" }),
    };
    r.finish()?;
    Ok(frame)
}

fn decode_session(kind: u8, session: SessionId, r: &mut Reader<'_>) -> Result<Frame, DecodeError> {
    Ok(match kind {
        2 => Frame::Open { session, blinded: r.array("open")?, proof: r.array("open")? },
        3 => Frame::Accept { session, proof: r.array("accept")?, who: Proof::decode(r)? },
        4 => Frame::Confirm { session, who: Proof::decode(r)? },
        5 => Frame::Refuse { session },
        6 => Frame::Close { session },
        7 => Frame::AccessHeads { session, heads: decode_hashes(r)? },
        8 => Frame::AccessWant { session, have: decode_hashes(r)? },
        9 => {
            let (part, records) = decode_records(r)?;
            Frame::Records { session, part, records }
        }
        10 => Frame::LogHeads { session, heads: decode_heads(r)? },
        11 => Frame::EntriesWant { session, log: r.log_id("log")?, from: r.u64("from")? },
        12 => Frame::Entry { session, entry: r.rest().to_vec() },
        13 => Frame::EntriesEnd { session, log: r.log_id("log")?, next: r.u64("next")? },
        14 => Frame::Behind {
            session,
            packs: r.u64("behind")?,
            bytes: r.u64("behind")?,
            full: r.flag("behind")?,
        },
        15 => {
            let count = r.count(HAVE_MAX, PackId::LEN, "have")?;
            let packs = (0..count).map(|_| r.pack_id("have")).collect::<Result<_, _>>()?;
            Frame::Have { session, packs }
        }
        _ => return Err(DecodeError::Invalid { field: "frame type" }),
    })
}

fn decode_rare(kind: u8, session: SessionId, r: &mut Reader<'_>) -> Result<Frame, DecodeError> {
    Ok(match kind {
        16 => Frame::Challenge {
            session,
            question: QuestionId(r.u32("question")?),
            challenge: Challenge::decode(r)?,
        },
        17 => {
            let question = QuestionId(r.u32("question")?);
            let first = r.u16("proofs")?;
            let count = r.count(PROOFS_MAX, 1, "proofs")?;
            let proofs = (0..count)
                .map(|_| r.flag("proofs")?.then(|| LeafProof::decode(r)).transpose())
                .collect::<Result<_, _>>()?;
            if usize::from(first) + count > PROOF_SAMPLES {
                return Err(DecodeError::Invalid { field: "proofs" });
            }
            Frame::Proofs { session, question, first, proofs }
        }
        18 => {
            Frame::Receipt { session, question: QuestionId(r.u32("question")?), receipt: r.rest().to_vec() }
        }
        19 => {
            let (part, records) = decode_records(r)?;
            Frame::GrantOffer { session, part, records }
        }
        24 => Frame::Recover {
            session,
            folder: r.folder_id("folder")?,
            member: r.member_id("member")?,
            signature: r.array("signature")?,
        },
        25 => Frame::Redeem {
            session,
            signature: r.array("signature")?,
            request: r.fixed(JOIN_REQUEST_BYTES, "join request")?.to_vec(),
        },
        26 => Frame::JoinAsked { session, request: r.fixed(JOIN_REQUEST_BYTES, "join request")?.to_vec() },
        27 => Frame::JoinWait { session },
        EQUIVOCATION => Frame::Equivocation { session, proof: r.rest().to_vec() },
        contact::CONTACTS => Frame::Contacts { session, contacts: contact::decode_list(r)? },
        _ => return Err(DecodeError::Invalid { field: "frame type" }),
    })
}

fn decode_question(kind: u8, r: &mut Reader<'_>) -> Result<Frame, DecodeError> {
    if kind == 20 {
        let folder = r.folder_id("folder")?;
        let answer = match r.u8("answer")? {
            0 => GrantAnswer::Accepted,
            1 => GrantAnswer::Pending,
            2 => GrantAnswer::Refused,
            _ => return Err(DecodeError::Invalid { field: "answer" }),
        };
        return Ok(Frame::GrantAnswer { folder, answer });
    }
    let question = QuestionId(r.u32("question")?);
    Ok(match kind {
        21 => Frame::LocatorPut { question, locator: locator_bytes(r)? },
        22 => Frame::LocatorGet { question, id: LocatorId(r.array("locator id")?) },
        _ => {
            let answer = match r.u8("answer")? {
                0 => LocatorAnswer::Stored,
                1 => LocatorAnswer::None,
                2 => LocatorAnswer::Refused,
                3 => LocatorAnswer::Found(locator_bytes(r)?),
                _ => return Err(DecodeError::Invalid { field: "answer" }),
            };
            Frame::Locator { question, answer }
        }
    })
}

fn locator_bytes(r: &mut Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    // The clear fields around a locator's sealed part are shorter than this.
    const AROUND: usize = 256;
    let bytes = r.rest();
    if bytes.is_empty() || bytes.len() > LOCATOR_BYTES_MAX + AROUND {
        return Err(DecodeError::Invalid { field: "locator" });
    }
    Ok(bytes.to_vec())
}

impl Proof {
    fn encode(&self, w: &mut Writer) {
        match self {
            Self::Seeder => w.u8(0),
            Self::Member { log, signature } => {
                w.u8(1);
                w.fixed(&log.0);
                w.fixed(signature);
            }
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match r.u8("proof")? {
            0 => Ok(Self::Seeder),
            1 => Ok(Self::Member { log: r.log_id("proof")?, signature: r.array("proof")? }),
            _ => Err(DecodeError::Invalid { field: "proof" }),
        }
    }
}

fn head(w: &mut Writer, kind: u8, session: SessionId) {
    w.u8(kind);
    w.u32(session.0);
}

/// A frame of a session and of bytes to its end.
fn rest(w: &mut Writer, kind: u8, session: SessionId, bytes: &[u8]) {
    head(w, kind, session);
    w.fixed(bytes);
}

fn hashes(w: &mut Writer, list: &[RecordHash]) {
    w.count(list.len());
    list.iter().for_each(|hash| w.fixed(&hash.0));
}

fn decode_hashes(r: &mut Reader<'_>) -> Result<Vec<RecordHash>, DecodeError> {
    let count = r.count(HEADS_MAX, RecordHash::LEN, "access heads")?;
    (0..count).map(|_| r.record_hash("access heads")).collect()
}

fn encode_heads(w: &mut Writer, heads: &[LogHead]) {
    w.count(heads.len());
    for log_head in heads {
        w.fixed(&log_head.log.0);
        w.u64(log_head.seq);
        w.fixed(&log_head.hash.0);
    }
}

fn decode_heads(r: &mut Reader<'_>) -> Result<Vec<LogHead>, DecodeError> {
    let count = r.count(DEPS_MAX, 72, "log heads")?;
    (0..count)
        .map(|_| {
            Ok(LogHead {
                log: r.log_id("log heads")?,
                seq: r.u64("log heads")?,
                hash: r.entry_hash("log heads")?,
            })
        })
        .collect()
}

fn encode_records(w: &mut Writer, part: Part, records: &[Vec<u8>]) {
    w.u8(u8::from(part == Part::Last));
    w.count(records.len());
    records.iter().for_each(|record| w.bytes32(record));
}

fn decode_records(r: &mut Reader<'_>) -> Result<(Part, Vec<Vec<u8>>), DecodeError> {
    let part = if r.flag("records")? { Part::Last } else { Part::More };
    let count = r.count(RECORDS_MAX, 4 + BOX_BYTES, "records")?;
    let records = (0..count)
        .map(|_| Ok(r.bytes32(FRAME_BYTES_MAX, "records")?.to_vec()))
        .collect::<Result<_, DecodeError>>()?;
    Ok((part, records))
}

/// Cuts encoded records into lists that fit a frame each; at least one list, the last one marked.
#[must_use]
pub fn split_records(records: Vec<Vec<u8>>) -> Vec<(Part, Vec<Vec<u8>>)> {
    let mut lists: Vec<Vec<Vec<u8>>> = vec![Vec::new()];
    let mut bytes = 0;
    for record in records {
        let last = lists.last_mut().expect("there is always a list");
        if !last.is_empty() && (bytes + record.len() > RECORDS_BYTES || last.len() == RECORDS_MAX) {
            bytes = record.len();
            lists.push(vec![record]);
        } else {
            bytes += record.len();
            last.push(record);
        }
    }
    let end = lists.len() - 1;
    lists
        .into_iter()
        .enumerate()
        .map(|(at, list)| (if at == end { Part::Last } else { Part::More }, list))
        .collect()
}

#[cfg(test)]
mod tests;
