//! Frames of the bulk streams: asks for slices of packs, and the slices (`docs/format.md`, section 14.3).

use cobox_store::format::pack::{PackRef, is_size_class};
use cobox_store::format::proof::slice_count;
use cobox_store::format::{DecodeError, Reader, SLICE_BYTES, Writer};

use super::SessionId;

/// A bulk stream, opened by the side that asks for packs.
pub const BULK_PROTOCOL: &str = "/cobox/bulk/1";
/// Slices in one bulk frame: 256 KiB keep the cost of a frame invisible and a stream responsive.
pub const FRAME_SLICES_MAX: u64 = 4;
/// Bytes before the slices in [`BulkFrame::Slices`]: type, ask, first slice.
pub const SLICES_OFFSET: usize = 1 + 4 + 2;
/// A bulk frame at the most.
pub const BULK_BYTES_MAX: usize = SLICES_OFFSET + (FRAME_SLICES_MAX * SLICE_BYTES) as usize;

/// A frame of a bulk stream, borrowed from the bytes it came in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BulkFrame<'a> {
    /// Asks for slices of a pack, and for its outboard first.
    Ask(Ask),
    /// The chaining values of the pack.
    Outboard { ask: u32, values: &'a [u8] },
    /// Whole slices from `first` on; only a pack's last slice is short.
    Slices { ask: u32, first: u16, bytes: &'a [u8] },
    /// All that was asked for has been sent.
    Done { ask: u32 },
    /// The sender does not have (all of) it.
    NotHere { ask: u32 },
}

/// Whether the asker lacks the outboard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutboardWish {
    /// Send it first.
    Send,
    /// It is known.
    Skip,
}

/// A request for slices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask {
    /// The asker's number, fresh on the stream.
    pub ask: u32,
    /// In which folder.
    pub session: SessionId,
    /// Which pack.
    pub pack: PackRef,
    /// Whether the outboard is wanted.
    pub outboard: OutboardWish,
    /// The first slice.
    pub first: u16,
    /// How many; 1 or more.
    pub count: u16,
}

impl BulkFrame<'_> {
    /// The bytes after the length.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        match self {
            Self::Ask(ask) => {
                w.u8(1);
                w.u32(ask.ask);
                w.u32(ask.session.0);
                w.fixed(&ask.pack.id.0);
                w.u64(ask.pack.size);
                w.u8(u8::from(ask.outboard == OutboardWish::Send));
                w.u16(ask.first);
                w.u16(ask.count);
            }
            Self::Outboard { ask, values } => {
                w.u8(2);
                w.u32(*ask);
                w.fixed(values);
            }
            Self::Slices { ask, first, bytes } => {
                w.fixed(&slices_head(*ask, *first));
                w.fixed(bytes);
            }
            Self::Done { ask } => {
                w.u8(4);
                w.u32(*ask);
            }
            Self::NotHere { ask } => {
                w.u8(5);
                w.u32(*ask);
            }
        }
        w.into_bytes()
    }
}

/// What stands before the bytes of [`BulkFrame::Slices`], so that they are sent without being copied.
#[must_use]
pub fn slices_head(ask: u32, first: u16) -> [u8; SLICES_OFFSET] {
    let mut head = [0; SLICES_OFFSET];
    head[0] = 3;
    head[1..5].copy_from_slice(&ask.to_le_bytes());
    head[5..].copy_from_slice(&first.to_le_bytes());
    head
}

/// Reads the bytes after the length of a bulk frame.
///
/// # Errors
/// On anything no writer produces.
pub fn decode_bulk(bytes: &[u8]) -> Result<BulkFrame<'_>, DecodeError> {
    let mut r = Reader::new(bytes);
    if bytes.len() > BULK_BYTES_MAX {
        return Err(DecodeError::Invalid { field: "bulk frame" });
    }
    let kind = r.u8("frame type")?;
    let ask = r.u32("ask")?;
    let frame = match kind {
        1 => {
            let session = SessionId(r.u32("session")?);
            let pack = PackRef { id: r.pack_id("pack")?, size: r.u64("pack")? };
            let outboard = if r.flag("outboard")? { OutboardWish::Send } else { OutboardWish::Skip };
            let (first, count) = (r.u16("slices")?, r.u16("slices")?);
            let end = u64::from(first) + u64::from(count);
            if !is_size_class(pack.size) || count == 0 || end > slice_count(pack.size) {
                return Err(DecodeError::Invalid { field: "slices" });
            }
            BulkFrame::Ask(Ask { ask, session, pack, outboard, first, count })
        }
        2 => BulkFrame::Outboard { ask, values: r.rest() },
        3 => {
            let first = r.u16("slices")?;
            let slices = r.rest();
            if slices.is_empty() {
                return Err(DecodeError::Invalid { field: "slices" });
            }
            BulkFrame::Slices { ask, first, bytes: slices }
        }
        4 => BulkFrame::Done { ask },
        5 => BulkFrame::NotHere { ask },
        _ => return Err(DecodeError::Invalid { field: "frame type" }),
    };
    r.finish()?;
    Ok(frame)
}
