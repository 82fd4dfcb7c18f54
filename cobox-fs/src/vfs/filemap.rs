//! What an open or dirty file is made of, as pieces: the content it was based on, bytes written since,
//! and holes made since.
//!
//! Pure: no I/O and no lock. A snapshot shares the written bytes, so taking one is cheap and writers go
//! on; [`FileMap::rebase`] then replaces what the snapshot held by new content.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use cobox_store::format::content::Content;

/// Bytes that one buffer gathers before the next begins: keeps the copying of a growing buffer small
/// and lets a saved row stay below RocksDB's usual write buffer by far.
pub const SEGMENT_BYTES: usize = 1024 * 1024;
/// Written pieces shorter than this on average lie scattered: sealing writes the whole chunk around
/// each, which is as long as this.
const SCATTERED_BYTES: u64 = 64 * 1024;

/// Written bytes: a part of a shared buffer.
#[derive(Clone, Debug)]
pub struct MemSlice {
    data: Arc<Vec<u8>>,
    skip: usize,
    len: usize,
}

impl MemSlice {
    /// A buffer of its own.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len(), skip: 0, data: Arc::new(bytes) }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.data.get(self.skip..self.skip + self.len).unwrap_or(&[])
    }

    /// The part `range` of it; a small part of a large buffer gets its own, so that the large one can go.
    fn part(&self, range: Range<usize>) -> Self {
        let (skip, len) = (self.skip + range.start, range.end - range.start);
        if len < self.data.len() / 2 {
            return Self::new(self.data.get(skip..skip + len).unwrap_or(&[]).to_vec());
        }
        Self { data: Arc::clone(&self.data), skip, len }
    }
}

/// Where the bytes of a piece are.
#[derive(Clone, Debug)]
pub enum Source {
    /// At the same offsets of the base content.
    Base,
    /// Here.
    Mem(MemSlice),
    /// Nowhere: zeros.
    Hole,
}

/// A run of the file.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Bytes; never 0.
    pub len: u64,
    /// Where they are.
    pub source: Source,
    stamp: u64,
    saved: bool,
}

/// A file's pieces.
#[derive(Clone, Debug)]
pub struct FileMap {
    pieces: BTreeMap<u64, Piece>,
    /// Starts of the pieces that no durable row holds yet.
    unsaved: BTreeSet<u64>,
    base: Arc<Content>,
    size: u64,
    stamp: u64,
    mem_bytes: u64,
}

impl FileMap {
    /// A file that is just `base`.
    #[must_use]
    pub fn new(base: Arc<Content>) -> Self {
        let size = base.size();
        let (pieces, unsaved) = (BTreeMap::new(), BTreeSet::new());
        let mut map = Self { pieces, unsaved, base, size, stamp: 0, mem_bytes: 0 };
        map.insert(0, size, Source::Base, true);
        map
    }

    /// Bytes of the file.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What the pieces of kind [`Source::Base`] refer to.
    #[must_use]
    pub fn base(&self) -> &Arc<Content> {
        &self.base
    }

    /// Written bytes held in memory.
    #[must_use]
    pub fn mem_bytes(&self) -> u64 {
        self.mem_bytes
    }

    /// Grows with every change; equal stamps mean equal bytes.
    #[must_use]
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// The pieces in order.
    pub fn pieces(&self) -> impl Iterator<Item = (u64, &Piece)> {
        self.pieces.iter().map(|(start, piece)| (*start, piece))
    }

    /// Whether it is anything else than its base.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.size != self.base.size()
            || self.pieces.values().any(|piece| !matches!(piece.source, Source::Base))
    }

    /// Whether what was written lies in many short pieces.
    #[must_use]
    pub fn is_scattered(&self) -> bool {
        self.mem_bytes / SCATTERED_BYTES < self.pieces.len() as u64 / 2
    }

    /// Written bytes that no durable row holds yet.
    #[must_use]
    pub fn unsaved_bytes(&self) -> u64 {
        self.unsaved()
            .filter(|(_, piece)| matches!(piece.source, Source::Mem(_)))
            .map(|(_, piece)| piece.len)
            .sum()
    }

    /// The pieces that overlap `range`, clipped to it and to the file's end.
    #[must_use]
    pub fn pieces_in(&self, range: &Range<u64>) -> Vec<(u64, u64, Source)> {
        let end = range.end.min(self.size);
        let first = self.pieces.range(..=range.start).next_back().map_or(0, |(start, _)| *start);
        let mut found = Vec::new();
        for (start, piece) in self.pieces.range(first..) {
            if *start >= end {
                break;
            }
            let (from, to) = ((*start).max(range.start), (start + piece.len).min(end));
            if from >= to {
                continue;
            }
            let source = match &piece.source {
                Source::Mem(slice) => Source::Mem(MemSlice {
                    data: Arc::clone(&slice.data),
                    skip: slice.skip + index(from - start),
                    len: index(to - from),
                }),
                other => other.clone(),
            };
            found.push((from, to - from, source));
        }
        found
    }

    /// Writes `data` at `offset`; a gap before it becomes a hole.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let end = offset + data.len() as u64;
        self.stamp += 1;
        if offset > self.size {
            self.insert(self.size, offset - self.size, Source::Hole, false);
            self.size = offset;
        }
        if self.extend_last(offset, data) || self.overwrite_in_place(offset, data) {
            self.size = self.size.max(end);
            return;
        }
        // The buffer of a file that grows is not moved while it fills.
        let streams = offset == self.size && offset >= SEGMENT_BYTES as u64;
        self.clear(offset..end);
        for (nth, part) in data.chunks(SEGMENT_BYTES).enumerate() {
            let at = offset + (nth * SEGMENT_BYTES) as u64;
            let mut buffer = Vec::with_capacity(if streams { SEGMENT_BYTES } else { part.len() });
            buffer.extend_from_slice(part);
            self.insert(at, part.len() as u64, Source::Mem(MemSlice::new(buffer)), false);
        }
        self.size = self.size.max(end);
    }

    /// Appends to the buffer that ends at the file's end, if nobody else holds it.
    fn extend_last(&mut self, offset: u64, data: &[u8]) -> bool {
        if offset != self.size {
            return false;
        }
        let stamp = self.stamp;
        let Some((_, piece)) = self.pieces.iter_mut().next_back() else { return false };
        let Source::Mem(slice) = &mut piece.source else { return false };
        if piece.saved || slice.len + data.len() > SEGMENT_BYTES || slice.skip + slice.len != slice.data.len()
        {
            return false;
        }
        let Some(buffer) = Arc::get_mut(&mut slice.data) else { return false };
        buffer.extend_from_slice(data);
        slice.len += data.len();
        piece.len += data.len() as u64;
        piece.stamp = stamp;
        self.mem_bytes += data.len() as u64;
        true
    }

    /// Overwrites inside one buffer, if nobody else holds it.
    fn overwrite_in_place(&mut self, offset: u64, data: &[u8]) -> bool {
        let stamp = self.stamp;
        let Some((start, piece)) = self.pieces.range_mut(..=offset).next_back() else { return false };
        if piece.saved || offset + data.len() as u64 > start + piece.len {
            return false;
        }
        let Source::Mem(slice) = &mut piece.source else { return false };
        let from = slice.skip + index(offset - start);
        let Some(target) =
            Arc::get_mut(&mut slice.data).and_then(|buffer| buffer.get_mut(from..from + data.len()))
        else {
            return false;
        };
        target.copy_from_slice(data);
        piece.stamp = stamp;
        true
    }

    /// Makes the file `size` bytes long; what is new is a hole.
    pub fn truncate(&mut self, size: u64) {
        self.stamp += 1;
        if size < self.size {
            self.clear(size..self.size);
        } else if size > self.size {
            self.insert(self.size, size - self.size, Source::Hole, false);
        }
        self.size = size;
    }

    /// Makes a hole of the part of `range` that is inside the file.
    pub fn punch(&mut self, range: Range<u64>) {
        let end = range.end.min(self.size);
        if range.start < end {
            self.stamp += 1;
            self.clear(range.start..end);
            self.insert(range.start, end - range.start, Source::Hole, false);
        }
    }

    /// Replaces everything up to `settled` that is as old as `stamp` by `base`, which holds those bytes.
    pub fn rebase(&mut self, base: Arc<Content>, stamp: u64, settled: u64) {
        self.split(settled);
        let old = std::mem::take(&mut self.pieces);
        self.unsaved.clear();
        self.base = base;
        self.mem_bytes = 0;
        let mut run: Option<Range<u64>> = None;
        for (start, mut piece) in old {
            let end = start + piece.len;
            if piece.stamp <= stamp && end <= settled {
                run = Some(run.map_or(start, |run| run.start)..end);
                continue;
            }
            if let Some(run) = run.take() {
                self.insert(run.start, run.end - run.start, Source::Base, true);
            }
            // What was saved was saved against the old base.
            piece.saved = false;
            self.unsaved.insert(start);
            if let Source::Mem(slice) = &piece.source {
                self.mem_bytes += slice.len as u64;
            }
            self.pieces.insert(start, piece);
        }
        if let Some(run) = run {
            self.insert(run.start, run.end - run.start, Source::Base, true);
        }
    }

    /// The pieces that no durable row holds yet.
    pub fn unsaved(&self) -> impl Iterator<Item = (u64, &Piece)> {
        self.unsaved.iter().filter_map(|start| Some((*start, self.pieces.get(start)?)))
    }

    /// Notes that durable rows hold everything as old as `stamp`.
    pub fn mark_saved(&mut self, stamp: u64) {
        let pieces = &mut self.pieces;
        self.unsaved.retain(|start| match pieces.get_mut(start) {
            Some(piece) if piece.stamp <= stamp => {
                piece.saved = true;
                false
            }
            found => found.is_some(),
        });
    }

    /// Notes that no durable row holds anything any more.
    pub fn mark_unsaved(&mut self) {
        self.unsaved.clear();
        for (start, piece) in &mut self.pieces {
            piece.saved = matches!(piece.source, Source::Base);
            if !piece.saved {
                self.unsaved.insert(*start);
            }
        }
    }

    fn insert(&mut self, start: u64, len: u64, source: Source, saved: bool) {
        if len == 0 {
            return;
        }
        if let Source::Mem(slice) = &source {
            self.mem_bytes += slice.len as u64;
        }
        if saved {
            self.unsaved.remove(&start);
        } else {
            self.unsaved.insert(start);
        }
        self.pieces.insert(start, Piece { len, source, stamp: self.stamp, saved });
    }

    /// Removes the pieces of `range`.
    fn clear(&mut self, range: Range<u64>) {
        self.split(range.start);
        self.split(range.end);
        let gone: Vec<u64> = self.pieces.range(range).map(|(start, _)| *start).collect();
        for start in gone {
            self.unsaved.remove(&start);
            if let Some(Piece { source: Source::Mem(slice), .. }) = self.pieces.remove(&start) {
                self.mem_bytes -= slice.len as u64;
            }
        }
    }

    /// Makes a border between pieces at `at`.
    fn split(&mut self, at: u64) {
        let Some((start, piece)) = self.pieces.range_mut(..at).next_back() else { return };
        let left = at - *start;
        if left >= piece.len {
            return;
        }
        let right = piece.len - left;
        let (source, rest) = match &piece.source {
            Source::Mem(slice) => {
                let (middle, end) = (index(left), slice.len);
                (Source::Mem(slice.part(0..middle)), Source::Mem(slice.part(middle..end)))
            }
            other => (other.clone(), other.clone()),
        };
        let tail = Piece { len: right, source: rest, stamp: piece.stamp, saved: piece.saved };
        piece.len = left;
        piece.source = source;
        if !tail.saved {
            self.unsaved.insert(at);
        }
        self.pieces.insert(at, tail);
    }
}

/// Offsets inside one buffer fit memory.
fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("a buffer fits memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(map: &FileMap, base: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; index(map.size())];
        for (start, len, source) in map.pieces_in(&(0..map.size())) {
            let range = index(start)..index(start + len);
            match source {
                Source::Base => bytes[range.clone()].copy_from_slice(&base[range]),
                Source::Mem(slice) => bytes[range].copy_from_slice(slice.bytes()),
                Source::Hole => {}
            }
        }
        bytes
    }

    fn tiles(map: &FileMap) -> bool {
        let mut at = 0;
        let mut mem = 0;
        for (start, piece) in map.pieces() {
            if start != at || piece.len == 0 {
                return false;
            }
            if let Source::Mem(slice) = &piece.source {
                assert_eq!(slice.len as u64, piece.len);
                mem += piece.len;
            }
            at += piece.len;
        }
        let unsaved = map.pieces().filter(|(_, piece)| !piece.saved).map(|(start, _)| start);
        at == map.size() && mem == map.mem_bytes() && unsaved.eq(map.unsaved.iter().copied())
    }

    #[test]
    fn map_under_random_changes_equals_a_vector() {
        for seed in 0..60u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let mut base: Vec<u8> = (0..500).map(|_| u8::try_from(next(256)).expect("byte")).collect();
            let mut map = FileMap::new(Arc::new(Content::Inline(base.clone())));
            let mut model = base.clone();
            let mut snapshot: Option<(FileMap, Vec<u8>)> = None;
            for step in 0..300u64 {
                let offset = next(1200);
                let len = next(200);
                match next(10) {
                    8 => map.mark_saved(map.stamp() - map.stamp().min(next(3))),
                    9 => map.mark_unsaved(),
                    0..=3 => {
                        let data = vec![u8::try_from(step % 251).expect("byte"); index(len)];
                        map.write(offset, &data);
                        if len > 0 {
                            let end = index(offset + len);
                            if model.len() < end {
                                model.resize(end, 0);
                            }
                            model[index(offset)..end].copy_from_slice(&data);
                        }
                    }
                    4 => {
                        map.truncate(offset);
                        model.resize(index(offset), 0);
                    }
                    5 => {
                        map.punch(offset..offset + len);
                        let end = index(offset + len).min(model.len());
                        if index(offset) < end {
                            model[index(offset)..end].fill(0);
                        }
                    }
                    6 => snapshot = Some((map.clone(), model.clone())),
                    _ => {
                        if let Some((shot, bytes)) = snapshot.take() {
                            assert_eq!(bytes_of(&shot, &base), bytes, "seed {seed}: a snapshot changed");
                            base = bytes.clone();
                            map.rebase(Arc::new(Content::Inline(bytes)), shot.stamp(), shot.size());
                        }
                    }
                }
                assert!(tiles(&map), "seed {seed} step {step}");
                assert_eq!(bytes_of(&map, &base), model, "seed {seed} step {step}");
            }
        }
    }

    #[test]
    fn appends_share_one_buffer_until_it_is_saved() {
        let mut map = FileMap::new(Arc::new(Content::empty()));
        for _ in 0..100 {
            map.write(map.size(), b"line\n");
        }
        assert_eq!(map.pieces().count(), 1);
        map.mark_saved(map.stamp());
        assert_eq!(map.unsaved().count(), 0);
        map.write(map.size(), b"more");
        assert_eq!(map.pieces().count(), 2);
        assert_eq!(map.unsaved().count(), 1);
    }
}
