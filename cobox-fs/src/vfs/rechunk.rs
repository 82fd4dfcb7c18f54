//! From pieces to extents: cuts what was written into chunks, and re-cuts only as much around it as is
//! needed until the old borders fit again.
//!
//! Works on a snapshot and holds no lock. A sequential write that is still going on leaves its last,
//! incomplete chunk where it is.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use cobox_store::Error;
use cobox_store::format::content::{ChunkRef, Content, Extent};
use cobox_store::format::pack::ChunkType;
use cobox_store::format::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, DecodeError, INLINE_BYTES_MAX};
use cobox_store::keyed::End;

use super::content::{ChunkIo, Edit, extents_in, splice};
use super::filemap::{FileMap, MemSlice, Source};
use super::lane::{Lane, Slot, Work, extent_of};

/// Shorter holes are stored as zeros: one file-system block.
const HOLE_BYTES_MIN: u64 = 4096;
/// Bytes that are cut before their chunks are handed over to be sealed: sixteen chunks, so that moving
/// what is left to a buffer of its own costs little.
const BATCH_BYTES: usize = 1024 * 1024;
/// From here on sealing uses more threads: starting one costs what sealing 50 KiB does.
const PARALLEL_BYTES: u64 = 512 * 1024;
/// When the old borders do not fit again after this much, the next one is forced.
const RESYNC_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How far extents are looked up at first: scattered changes are cut a few chunks at a time, and what
/// was looked up beyond is looked up again for the next. Doubled while a run goes on.
const LOOK_BYTES: u64 = 256 * 1024;
/// How far extents are looked up at a time at the most: five hundred small blocks.
const LOOK_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Where chunks end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alignment {
    /// Where the content says.
    ByContent,
    /// At multiples of this.
    Fixed(u64),
}

/// What to do with the incomplete chunk at the end of a file that still grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail {
    /// It becomes a short chunk.
    Take,
    /// It stays in memory.
    Leave,
}

/// Where a run of bytes is.
#[derive(Clone, Debug)]
pub enum Place {
    /// Zeros.
    Hole,
    /// Written and in memory.
    Mem(MemSlice),
    /// In inline content, from this offset on.
    Inline(Arc<Content>, usize),
    /// In a chunk of this many bytes, from this offset on.
    Chunk {
        /// Which chunk.
        chunk: ChunkRef,
        /// Bytes of the chunk before the run.
        skip: usize,
    },
}

/// A run of the file and where its bytes are.
#[derive(Clone, Debug)]
pub struct Span {
    /// Offset in the file.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Where they are.
    pub place: Place,
}

impl Span {
    /// The chunk that its bytes are in, if they are in one.
    pub(super) fn chunk(&self) -> Option<ChunkRef> {
        match self.place {
            Place::Chunk { chunk, .. } => Some(chunk),
            Place::Hole | Place::Mem(_) | Place::Inline(..) => None,
        }
    }
}

/// Finds where the bytes of `range` are, in order and without gaps.
///
/// # Errors
/// When a node of the extent tree cannot be read.
pub fn resolve(io: ChunkIo<'_>, map: &FileMap, range: &Range<u64>) -> Result<Vec<Span>, Error> {
    let mut spans = Vec::new();
    for (start, len, source) in map.pieces_in(range) {
        match source {
            Source::Mem(slice) => spans.push(Span { start, len, place: Place::Mem(slice) }),
            Source::Hole => spans.push(Span { start, len, place: Place::Hole }),
            Source::Base => resolve_base(io, map.base(), &(start..start + len), &mut spans)?,
        }
    }
    Ok(spans)
}

/// Like [`resolve`], for content that nobody has changed.
///
/// # Errors
/// When a node of the extent tree cannot be read.
pub fn resolve_base(
    io: ChunkIo<'_>,
    base: &Arc<Content>,
    range: &Range<u64>,
    spans: &mut Vec<Span>,
) -> Result<(), Error> {
    let end = range.end.min(base.size());
    if range.start >= end {
        return Ok(());
    }
    if let Content::Inline(_) = **base {
        let place = Place::Inline(Arc::clone(base), usize_of(range.start));
        spans.push(Span { start: range.start, len: end - range.start, place });
        return Ok(());
    }
    let mut covered = range.start;
    extents_in(io, base, range.start..end, &mut |at, extent| {
        let (from, to) = (at.max(range.start), (at + extent.len()).min(end));
        let place = match extent {
            Extent::Hole { .. } => Place::Hole,
            Extent::Data { chunk, .. } => Place::Chunk { chunk, skip: usize_of(from - at) },
        };
        covered = to;
        spans.push(Span { start: from, len: to - from, place });
    })?;
    if covered == end { Ok(()) } else { Err(DecodeError::Invalid { field: "content" }.into()) }
}

/// Appends the bytes of a span.
///
/// # Errors
/// When its chunk cannot be read or is shorter than its extent.
pub fn append(io: ChunkIo<'_>, span: &Span, bytes: &mut Vec<u8>) -> Result<(), Error> {
    append_by(span, bytes, |chunk, part, bytes| {
        let plain = (io.read)(ChunkType::Data, chunk)?;
        bytes.extend_from_slice(plain.get(part).ok_or_else(short)?);
        Ok(())
    })
}

/// Like [`append`], where `read` appends a part of a chunk's plaintext.
///
/// # Errors
/// When `read` fails, or inline content is shorter than its span.
pub fn append_by(
    span: &Span,
    bytes: &mut Vec<u8>,
    read: impl FnOnce(ChunkRef, Range<usize>, &mut Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    let len = usize_of(span.len);
    match &span.place {
        Place::Hole => bytes.resize(bytes.len() + len, 0),
        Place::Mem(slice) => bytes.extend_from_slice(slice.bytes()),
        Place::Inline(content, skip) => {
            let Content::Inline(inline) = &**content else { return Err(short()) };
            bytes.extend_from_slice(inline.get(*skip..skip + len).ok_or_else(short)?);
        }
        Place::Chunk { chunk, skip } => read(*chunk, *skip..skip + len, bytes)?,
    }
    Ok(())
}

/// What an extent says is not there.
pub(super) fn short() -> Error {
    DecodeError::Short { field: "chunk of an extent" }.into()
}

/// New content for a snapshot, and how far it reaches: up to the file's end, or less where a tail was
/// left.
///
/// # Errors
/// When chunks cannot be read or stored.
pub fn settle(
    io: ChunkIo<'_>,
    map: &FileMap,
    alignment: Alignment,
    tail: Tail,
) -> Result<(Content, u64), Error> {
    let size = map.size();
    if size <= INLINE_BYTES_MAX as u64 {
        let mut bytes = Vec::with_capacity(usize_of(size));
        for span in resolve(io, map, &(0..size))? {
            append(io, &span, &mut bytes)?;
        }
        return Ok((Content::Inline(bytes), size));
    }
    let runs = dirty_runs(map);
    let work = if runs.iter().map(|run| run.end - run.start).sum::<u64>() < PARALLEL_BYTES {
        Work::Little
    } else {
        Work::Much
    };
    let ((laid, settled), sealed) =
        Lane::run(io, work, |lane| cut_runs(io, lane, map, &runs, alignment, tail))?;
    let edits: Vec<Edit> = laid
        .into_iter()
        .map(|(range, laid)| Edit {
            range,
            extents: laid.into_iter().map(|laid| laid.extent(&sealed)).collect(),
        })
        .collect();
    Ok((splice(io, map.base(), &edits, settled)?, settled))
}

/// What is laid over a range of the file: its chunks are being sealed.
type LaidRange = (Range<u64>, Vec<Laid>);

/// Cuts the runs of a file anew; says what they become and how far that reaches.
fn cut_runs(
    io: ChunkIo<'_>,
    lane: &Lane<'_>,
    map: &FileMap,
    runs: &[Range<u64>],
    alignment: Alignment,
    tail: Tail,
) -> Result<(Vec<LaidRange>, u64), Error> {
    let mut cutter =
        Cutter { io, lane, map, alignment, tail, spans: VecDeque::new(), looked: 0, look: LOOK_BYTES };
    let mut edits: Vec<LaidRange> = Vec::new();
    let mut settled = map.size();
    for run in runs {
        let done = edits.last().map_or(0, |(range, _)| range.end);
        if run.end < done || (run.end == done && done > 0) {
            continue;
        }
        let start = cutter.start_of(run.start.max(done))?.max(done);
        // Only bytes in memory can stay behind.
        let floor = if matches!(**map.base(), Content::Inline(_)) { map.base().size() } else { run.start };
        let (laid, end) = cutter.run(start, run.end, floor)?;
        if end < run.end {
            settled = end;
        }
        if end > start {
            edits.push((start..end, laid));
        }
    }
    Ok((edits, settled))
}

/// A part of the new list of extents.
#[derive(Clone, Copy)]
enum Laid {
    Hole(u64),
    Chunk(Slot),
}

impl Laid {
    fn extent(self, sealed: &[Option<Extent>]) -> Extent {
        match self {
            Self::Hole(len) => Extent::Hole { len },
            Self::Chunk(slot) => extent_of(sealed, slot),
        }
    }
}

/// Runs of the file that are not the base's; a base that was cut short ends in an empty run.
fn dirty_runs(map: &FileMap) -> Vec<Range<u64>> {
    if matches!(**map.base(), Content::Inline(_)) {
        return std::iter::once(0..map.size()).collect();
    }
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut last_is_base = false;
    for (start, piece) in map.pieces() {
        last_is_base = matches!(piece.source, Source::Base);
        let end = start + piece.len;
        match runs.last_mut() {
            _ if last_is_base => {}
            Some(run) if run.end == start => run.end = end,
            _ => runs.push(start..end),
        }
    }
    if last_is_base && map.base().size() > map.size() {
        runs.push(map.size()..map.size());
    }
    runs
}

struct Cutter<'a> {
    io: ChunkIo<'a>,
    lane: &'a Lane<'a>,
    map: &'a FileMap,
    alignment: Alignment,
    tail: Tail,
    /// What lies ahead, up to `looked`.
    spans: VecDeque<Span>,
    looked: u64,
    /// How far to look next.
    look: u64,
}

/// Bytes that wait to be cut, and where chunks were cut already.
struct Buffer {
    bytes: Vec<u8>,
    /// Offset of `bytes` in the file.
    start: u64,
    /// Ends of chunks inside `bytes`.
    cuts: Vec<usize>,
    laid: Vec<Laid>,
}

impl Buffer {
    fn cut(&self) -> usize {
        self.cuts.last().copied().unwrap_or(0)
    }

    fn cut_at(&self) -> u64 {
        self.start + self.cut() as u64
    }

    fn fed(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl Cutter<'_> {
    /// Where cutting begins so that the byte at `at` can change: at a border of the old extents.
    fn start_of(&self, at: u64) -> Result<u64, Error> {
        let base = self.map.base();
        let aligned = match self.alignment {
            Alignment::Fixed(block) => at - at % block,
            Alignment::ByContent => at,
        };
        // Bytes between the border and the change come from the base, or were written as well.
        let mut start = aligned;
        extents_in(self.io, base, aligned..aligned + 1, &mut |from, extent| {
            if matches!(extent, Extent::Data { .. }) {
                start = from;
            }
        })?;
        if start == at && at > 0 && self.alignment == Alignment::ByContent {
            // A short chunk just before: the end of a file that grows by appending.
            extents_in(self.io, base, at - 1..at, &mut |from, extent| {
                if matches!(extent, Extent::Data { len, .. } if (len as usize) < CHUNK_BYTES_MIN)
                    && from + extent.len() == at
                {
                    start = from;
                }
            })?;
        }
        Ok(start)
    }

    /// Cuts from `start` on until everything before `end` is cut and an old border is met.
    fn run(&mut self, start: u64, end: u64, floor: u64) -> Result<(Vec<Laid>, u64), Error> {
        self.spans.clear();
        self.looked = start;
        self.look = LOOK_BYTES;
        let size = self.map.size();
        let mut dirty_end = end;
        let mut borders: VecDeque<u64> = VecDeque::new();
        let mut buffer = Buffer {
            bytes: Vec::with_capacity(usize_of(end.saturating_sub(start)).min(BATCH_BYTES) + CHUNK_BYTES_MAX),
            start,
            cuts: Vec::new(),
            laid: Vec::new(),
        };
        loop {
            if buffer.fed() >= dirty_end || buffer.bytes.len() - buffer.cut() >= CHUNK_BYTES_MAX {
                self.cut_all(&mut buffer, dirty_end, &borders)?;
            }
            let at = buffer.cut_at();
            while borders.front().is_some_and(|border| *border < at) {
                borders.pop_front();
            }
            if at >= dirty_end && (at >= size || borders.contains(&at)) {
                self.seal(&mut buffer)?;
                return Ok((buffer.laid, at));
            }
            let Some(span) = self.next_span()? else {
                let leave = self.tail == Tail::Leave && self.alignment == Alignment::ByContent;
                if leave && end == size && at >= floor {
                    self.seal(&mut buffer)?;
                    return Ok((buffer.laid, buffer.start));
                }
                self.cut_rest(&mut buffer)?;
                return Ok((buffer.laid, size));
            };
            let is_base = matches!(span.place, Place::Chunk { .. });
            if matches!(span.place, Place::Hole) && (span.len >= HOLE_BYTES_MIN || span.start >= dirty_end) {
                self.cut_rest(&mut buffer)?;
                if span.start >= dirty_end {
                    return Ok((buffer.laid, span.start));
                }
                buffer.laid.push(Laid::Hole(span.len));
                buffer.start = span.start + span.len;
                if buffer.start >= dirty_end && self.border_at(buffer.start)? {
                    return Ok((buffer.laid, buffer.start));
                }
                continue;
            }
            match &span.place {
                Place::Chunk { skip: 0, .. } => borders.push_back(span.start),
                _ if !is_base && span.start >= dirty_end => dirty_end = span.start + span.len,
                _ => {}
            }
            if is_base && self.ends_extent(&span)? {
                borders.push_back(span.start + span.len);
            }
            append(self.io, &span, &mut buffer.bytes)?;
        }
    }

    /// Whether an unchanged piece begins at `at` with a whole extent, or the file ends.
    fn border_at(&self, at: u64) -> Result<bool, Error> {
        if at >= self.map.size() {
            return Ok(true);
        }
        let spans = resolve(self.io, self.map, &(at..at + 1))?;
        Ok(match spans.first().map(|span| &span.place) {
            Some(Place::Chunk { skip, .. }) => *skip == 0,
            Some(Place::Hole) => true,
            _ => false,
        })
    }

    /// Whether what follows a span of the base is a border.
    fn ends_extent(&self, span: &Span) -> Result<bool, Error> {
        let at = span.start + span.len;
        match self.spans.front() {
            Some(next) => Ok(matches!(next.place, Place::Chunk { skip: 0, .. } | Place::Hole)),
            None => self.border_at(at),
        }
    }

    fn next_span(&mut self) -> Result<Option<Span>, Error> {
        if self.spans.is_empty() && self.looked < self.map.size() {
            let range = self.looked..self.looked.saturating_add(self.look).min(self.map.size());
            self.spans = resolve(self.io, self.map, &range)?.into();
            self.looked = range.end;
            self.look = (self.look * 2).min(LOOK_BYTES_MAX);
        }
        Ok(self.spans.pop_front())
    }

    /// Cuts as many chunks as the buffered bytes decide.
    fn cut_all(&self, buffer: &mut Buffer, dirty_end: u64, borders: &VecDeque<u64>) -> Result<(), Error> {
        loop {
            let at = buffer.cut_at();
            if at >= dirty_end && borders.contains(&at) {
                return Ok(());
            }
            let rest = buffer.bytes.get(buffer.cut()..).unwrap_or(&[]);
            let Some(len) = self.next_cut(rest, at, dirty_end, borders) else { return Ok(()) };
            buffer.cuts.push(buffer.cut() + len);
            if buffer.cut() >= BATCH_BYTES {
                self.seal(buffer)?;
            }
        }
    }

    fn next_cut(&self, rest: &[u8], at: u64, dirty_end: u64, borders: &VecDeque<u64>) -> Option<usize> {
        let end = at + rest.len() as u64;
        let border =
            borders.iter().copied().find(|border| *border >= dirty_end && *border > at && *border <= end);
        match self.alignment {
            Alignment::Fixed(block) => {
                let next = at - at % block + block;
                let cut = border.map_or(next, |border| border.min(next));
                (cut <= end).then(|| usize_of(cut - at))
            }
            Alignment::ByContent => {
                if let Some(border) = border
                    && at >= dirty_end.saturating_add(RESYNC_BYTES_MAX)
                    && border - at <= CHUNK_BYTES_MAX as u64
                {
                    return Some(usize_of(border - at));
                }
                (self.io.next_cut)(rest, End::More)
            }
        }
    }

    /// Cuts and seals all that is buffered: what follows is no data.
    fn cut_rest(&self, buffer: &mut Buffer) -> Result<(), Error> {
        while buffer.fed() > buffer.cut_at() {
            let at = buffer.cut_at();
            let rest = buffer.bytes.get(buffer.cut()..).unwrap_or(&[]);
            let whole = rest.len();
            let len = match self.alignment {
                Alignment::Fixed(block) => usize_of(block - at % block).min(whole),
                Alignment::ByContent => (self.io.next_cut)(rest, End::Last).unwrap_or(whole).clamp(1, whole),
            };
            buffer.cuts.push(buffer.cut() + len);
            if buffer.cut() >= BATCH_BYTES {
                self.seal(buffer)?;
            }
        }
        self.seal(buffer)
    }

    /// Hands over the chunks that were cut.
    fn seal(&self, buffer: &mut Buffer) -> Result<(), Error> {
        let cut = buffer.cut();
        if cut == 0 {
            return Ok(());
        }
        let bytes = if cut < BATCH_BYTES {
            // A buffer as long as the chunks: many short ones may wait to be sealed.
            let chunks = buffer.bytes.get(..cut).unwrap_or(&[]).to_vec();
            buffer.bytes.drain(..cut);
            chunks
        } else {
            let mut rest = Vec::with_capacity(BATCH_BYTES + CHUNK_BYTES_MAX);
            rest.extend_from_slice(buffer.bytes.get(cut..).unwrap_or(&[]));
            std::mem::replace(&mut buffer.bytes, rest)
        };
        let bytes = Arc::new(bytes);
        let mut from = 0;
        for to in buffer.cuts.drain(..) {
            buffer.laid.push(Laid::Chunk(self.lane.push(&bytes, from..to)?));
            from = to;
        }
        buffer.start += cut as u64;
        Ok(())
    }
}

fn usize_of(value: u64) -> usize {
    usize::try_from(value).expect("memory is addressed by 64 bits")
}

#[cfg(test)]
mod tests;
