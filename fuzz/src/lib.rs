//! Every decoder of stored and sent bytes as one kind of function: read, and encode again.
//!
//! `tests/tests/decoders.rs` includes this file too, so that the fuzz targets and the seeded mutations
//! of `make test` drive the same list.

use cobox_fs::tree::row::{Note, SlotHash};
use cobox_fs::tree::short::{Long, Shorts, Unknown};
use cobox_fs::tree::{Row, RowKey};
use cobox_net::wire;
use cobox_store::format::access::UnverifiedRecord;
use cobox_store::format::address::SeederAddress;
use cobox_store::format::agreement::Paper;
use cobox_store::format::command::{Claim, UnverifiedCommand};
use cobox_store::format::content::{Content, Node};
use cobox_store::format::device::{DeviceRow, FolderRow, MARK_BYTES, Mark, PendingRow, TagRow};
use cobox_store::format::entry::{Body, UnverifiedEntry};
use cobox_store::format::equivocation::UnverifiedEquivocation;
use cobox_store::format::invite::{InviteCode, JoinRequest};
use cobox_store::format::locator::{UnverifiedLocator, decode_folders, encode_folders};
use cobox_store::format::op::OpGroup;
use cobox_store::format::owned::OwnedRow;
use cobox_store::format::pack::{Footer, PackRef, decode_directory, encode_directory};
use cobox_store::format::proof::{Challenge, LeafProof, Outboard};
use cobox_store::format::receipt::UnverifiedReceipt;
use cobox_store::format::seeding::SeedRequest;
use cobox_store::format::slots::{decode_slots, encode_slots};
use cobox_store::format::{DecodeError, PACK_BYTES_MAX, Reader, Writer};
use cobox_store::id::{EpochId, Ino, LinkId, OpId, PackId};

/// Reads bytes and encodes what it read; `None` where they are refused.
pub type Decoder = fn(&[u8]) -> Option<Vec<u8>>;

/// All decoders by name.
pub const DECODERS: [(&str, Decoder); 34] = [
    ("entry", entry),
    ("equivocation", equivocation),
    ("body", body),
    ("record", record),
    ("group", group),
    ("content", content),
    ("node", node),
    ("directory", directory),
    ("footer", footer),
    ("outboard", outboard),
    ("proof", proof),
    ("challenge", challenge),
    ("locator", locator),
    ("folders", folders),
    ("address", address),
    ("address_text", address_text),
    ("invite_code", invite_code),
    ("join_request", join_request),
    ("receipt", receipt),
    ("frame", frame),
    ("bulk_frame", bulk_frame),
    ("slots", slots),
    ("mark", mark),
    ("device_row", device_row),
    ("folder_row", folder_row),
    ("tag_row", tag_row),
    ("pending_row", pending_row),
    ("paper", paper),
    ("claim", claim),
    ("command", command),
    ("seed_request", seed_request),
    ("owned_row", owned_row),
    ("short", short),
    ("tree_row", tree_row),
];

/// Drives the decoder `name` with `bytes`: it must not panic, and what it reads it must encode to the
/// same bytes.
///
/// # Panics
/// When it does not, or there is no such decoder.
pub fn check(name: &str, bytes: &[u8]) -> bool {
    let (_, decoder) = DECODERS.iter().find(|(known, _)| *known == name).expect("a decoder of the list");
    match decoder(bytes) {
        None => false,
        Some(again) => {
            assert!(again == bytes, "{name} read what it does not write");
            true
        }
    }
}

fn entry(bytes: &[u8]) -> Option<Vec<u8>> {
    UnverifiedEntry::decode(bytes).ok().map(|entry| entry.encode())
}

fn equivocation(bytes: &[u8]) -> Option<Vec<u8>> {
    UnverifiedEquivocation::decode(bytes).ok().map(|proof| proof.encode())
}

fn body(bytes: &[u8]) -> Option<Vec<u8>> {
    Body::decode(bytes).ok().map(|body| body.encode())
}

fn record(bytes: &[u8]) -> Option<Vec<u8>> {
    UnverifiedRecord::decode(bytes).ok().map(|record| record.encode())
}

/// Reads a layout that stands inside others, to the end of the bytes.
fn whole<T>(
    bytes: &[u8],
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
    write: impl FnOnce(&T, &mut Writer),
) -> Option<Vec<u8>> {
    let mut reader = Reader::new(bytes);
    let value = read(&mut reader).ok()?;
    reader.finish().ok()?;
    let mut writer = Writer::new();
    write(&value, &mut writer);
    Some(writer.into_bytes())
}

fn group(bytes: &[u8]) -> Option<Vec<u8>> {
    whole(bytes, OpGroup::decode, OpGroup::encode)
}

fn content(bytes: &[u8]) -> Option<Vec<u8>> {
    whole(bytes, Content::decode, Content::encode)
}

fn node(bytes: &[u8]) -> Option<Vec<u8>> {
    Node::decode(bytes).ok().map(|node| node.encode())
}

fn directory(bytes: &[u8]) -> Option<Vec<u8>> {
    whole(bytes, decode_directory, |rows, writer| encode_directory(rows, writer))
}

fn footer(bytes: &[u8]) -> Option<Vec<u8>> {
    Footer::decode(bytes, PACK_BYTES_MAX).ok().map(|footer| footer.encode())
}

/// The pack's id and size stand in front, as nothing in an outboard says them.
fn outboard(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader::new(bytes);
    let pack = PackRef { id: PackId(reader.array("pack").ok()?), size: reader.u64("size").ok()? };
    let outboard = Outboard::decode(pack, reader.rest()).ok()?;
    let mut writer = Writer::new();
    writer.fixed(&pack.id.0);
    writer.u64(pack.size);
    writer.fixed(&outboard.encode());
    Some(writer.into_bytes())
}

fn proof(bytes: &[u8]) -> Option<Vec<u8>> {
    whole(bytes, LeafProof::decode, LeafProof::encode)
}

fn challenge(bytes: &[u8]) -> Option<Vec<u8>> {
    whole(bytes, Challenge::decode, Challenge::encode)
}

fn locator(bytes: &[u8]) -> Option<Vec<u8>> {
    UnverifiedLocator::decode(bytes).ok().map(|locator| locator.encode())
}

fn folders(bytes: &[u8]) -> Option<Vec<u8>> {
    decode_folders(bytes).ok().map(|folders| encode_folders(&folders))
}

fn address(bytes: &[u8]) -> Option<Vec<u8>> {
    SeederAddress::decode(bytes).ok().map(|address| address.encode())
}

/// Text may come in either case and with white space around it, so it is compared in its one spelling.
fn address_text(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let written = SeederAddress::from_text(text).ok()?.to_text();
    assert_eq!(written, text.trim().to_ascii_lowercase(), "an address has two spellings");
    Some(bytes.to_vec())
}

/// As with addresses, and line breaks may stand inside.
fn invite_code(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let written = InviteCode::from_text(text).ok()?.to_text().ok()?;
    let typed: String = text.chars().filter(|letter| !letter.is_whitespace()).collect();
    assert_eq!(*written, typed.to_ascii_lowercase(), "a code has two spellings");
    Some(bytes.to_vec())
}

fn join_request(bytes: &[u8]) -> Option<Vec<u8>> {
    JoinRequest::decode(bytes).ok().map(|request| request.encode())
}

fn receipt(bytes: &[u8]) -> Option<Vec<u8>> {
    UnverifiedReceipt::decode(bytes).ok().map(|receipt| receipt.encode())
}

fn frame(bytes: &[u8]) -> Option<Vec<u8>> {
    wire::decode_frame(bytes).ok().map(|frame| frame.encode())
}

fn bulk_frame(bytes: &[u8]) -> Option<Vec<u8>> {
    wire::decode_bulk(bytes).ok().map(|frame| frame.encode())
}

fn slots(bytes: &[u8]) -> Option<Vec<u8>> {
    decode_slots(bytes).ok().map(|slots| encode_slots(&slots))
}

fn mark(bytes: &[u8]) -> Option<Vec<u8>> {
    let bytes: &[u8; MARK_BYTES] = bytes.try_into().ok()?;
    Mark::decode(bytes).map(|mark| mark.encode().to_vec())
}

fn device_row(bytes: &[u8]) -> Option<Vec<u8>> {
    DeviceRow::decode(bytes).ok().map(|row| row.encode().to_vec())
}

fn folder_row(bytes: &[u8]) -> Option<Vec<u8>> {
    FolderRow::decode(bytes).ok().map(|row| row.encode().to_vec())
}

fn tag_row(bytes: &[u8]) -> Option<Vec<u8>> {
    TagRow::decode(bytes).ok().map(|row| row.encode())
}

fn pending_row(bytes: &[u8]) -> Option<Vec<u8>> {
    PendingRow::decode(bytes).ok().map(|row| row.encode())
}

fn paper(bytes: &[u8]) -> Option<Vec<u8>> {
    Paper::decode(bytes).ok().map(|paper| paper.encode())
}

fn claim(bytes: &[u8]) -> Option<Vec<u8>> {
    Claim::decode(bytes).ok().map(|claim| claim.encode())
}

fn command(bytes: &[u8]) -> Option<Vec<u8>> {
    UnverifiedCommand::decode(bytes).ok()?.verify().ok().map(|command| command.encode())
}

fn seed_request(bytes: &[u8]) -> Option<Vec<u8>> {
    SeedRequest::decode(bytes).ok().map(|request| request.encode())
}

fn owned_row(bytes: &[u8]) -> Option<Vec<u8>> {
    OwnedRow::decode(bytes).ok().map(|row| row.encode().to_vec())
}

fn short(bytes: &[u8]) -> Option<Vec<u8>> {
    Long::decode(bytes).ok().map(|long| long.encode())
}

/// What rows of the tree may be spelled with: the second byte of [`tree_row`] says how many of them are known.
pub fn shorts(known: u8) -> Shorts {
    let mut shorts = Shorts::default();
    for number in 1..=u64::from(known) {
        let epoch = [u8::try_from(number).unwrap_or(u8::MAX); 32];
        let long = if number % 2 == 0 { Long::Log(number) } else { Long::Epoch(EpochId(epoch)) };
        shorts.insert(number, long);
    }
    shorts
}

/// A row of the tree, after a byte that says of which kind and one for [`shorts`].
///
/// A row has several spellings: that of the first version, and those with a table that knew less. So what was read must
/// be read again from what is written anew, whose spelling is the only one for that table.
fn tree_row(bytes: &[u8]) -> Option<Vec<u8>> {
    let [kind, known, row @ ..] = bytes else { return None };
    let (ino, id) = (Ino([1; 16]), OpId { hlc: 5, log: 6 });
    let key = match kind {
        0 => RowKey::Node(ino),
        1 => RowKey::Link(LinkId([2; 16])),
        2 => RowKey::Dirent(ino, SlotHash([3; 16])),
        3 => RowKey::Xattr(ino, b"user.name".to_vec()),
        4 => RowKey::DirMove(id),
        5 => RowKey::NewestDirMove,
        6 => RowKey::Note(Note::from_row(row).ok()?),
        _ => return None,
    };
    let shorts = shorts(*known);
    let spell = |row: &Row| row.encode(&shorts, &mut Unknown::default());
    let read = Row::decode(&key, row, &shorts).ok()?;
    let anew = spell(&read);
    let again = Row::decode(&key, &anew, &shorts).expect("what is written is read");
    assert_eq!(again, read, "another row was written");
    assert_eq!(spell(&again), anew, "a row has two spellings");
    Some(bytes.to_vec())
}
