//! Short spellings in rows: numbers without leading zeros, ids that stand near others, and a table of the epochs and
//! logs that a folder's rows name again and again.
//!
//! Rows are local and there are several for each file, so their bytes count. The table only grows: a number
//! once given stays. What it does not know is spelled in full.

use std::collections::{BTreeSet, HashMap};

use cobox_store::format::content::{ChunkRef, Content, Extent};
use cobox_store::format::{
    CHUNK_BYTES_MAX, DecodeError, EXTENTS_INLINE_MAX, INLINE_BYTES_MAX, Reader, TREE_HEIGHT_MAX, Writer,
};
use cobox_store::id::{EpochId, OpId};

/// Beyond so many, new ones are spelled in full: the table is in memory.
pub const SHORT_MAX: usize = 4096;

/// Noted of what has no number, at once: an entry may name some ten thousand epochs that nobody ever made, and what is
/// named often comes again.
pub const UNKNOWN_MAX: usize = 256;

/// Something that rows name often.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Long {
    /// An epoch.
    Epoch(EpochId),
    /// The number of a log.
    Log(u64),
}

impl Long {
    /// The row of the table.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(1);
        match self {
            Self::Epoch(epoch) => {
                writer.u8(0);
                writer.fixed(&epoch.0);
            }
            Self::Log(number) => {
                writer.u8(1);
                writer.u64(*number);
            }
        }
        writer.into_bytes()
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// On anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let field = "short number";
        let mut reader = Reader::new(bytes);
        reader.version(1, field)?;
        let long = match reader.u8(field)? {
            0 => Self::Epoch(reader.epoch_id(field)?),
            1 => Self::Log(reader.u64(field)?),
            _ => return Err(DecodeError::Invalid { field }),
        };
        reader.finish()?;
        Ok(long)
    }
}

/// What rows were spelled with in full for want of a number, up to [`UNKNOWN_MAX`].
#[derive(Default, Debug)]
pub struct Unknown(BTreeSet<Long>);

impl Unknown {
    /// Notes one, once.
    pub fn note(&mut self, long: Long) {
        if self.0.len() < UNKNOWN_MAX {
            self.0.insert(long);
        }
    }

    /// Notes those of another one, too.
    pub fn merge(&mut self, other: Self) {
        other.0.into_iter().for_each(|long| self.note(long));
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl IntoIterator for Unknown {
    type Item = Long;
    type IntoIter = std::collections::btree_set::IntoIter<Long>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The table: number n stands for the n-th, from 1.
#[derive(Clone, Default, Debug)]
pub struct Shorts {
    by_number: HashMap<u64, Long>,
    numbers: HashMap<Long, u64>,
    last: u64,
}

impl Shorts {
    /// Notes that `number` stands for `long`.
    pub fn insert(&mut self, number: u64, long: Long) {
        self.by_number.insert(number, long);
        self.numbers.insert(long, number);
        self.last = self.last.max(number);
    }

    /// The numbers that the next ones get, in order; none when there are enough.
    pub fn free(&self) -> impl Iterator<Item = u64> + use<> {
        (self.last.saturating_add(1)..).take(SHORT_MAX.saturating_sub(self.by_number.len()))
    }

    /// Whether it has a number.
    #[must_use]
    pub fn knows(&self, long: &Long) -> bool {
        self.numbers.contains_key(long)
    }
}

/// Writes a row.
pub struct Speller<'a> {
    pub(super) writer: Writer,
    shorts: &'a Shorts,
    /// The op id before: the next one is near it.
    near: OpId,
    unknown: &'a mut Unknown,
}

impl<'a> Speller<'a> {
    /// Writes with the numbers of `shorts`; what has none, and could get one, is noted in `unknown`.
    pub(super) fn new(shorts: &'a Shorts, unknown: &'a mut Unknown) -> Self {
        Self { writer: Writer::new(), shorts, near: OpId::ZERO, unknown }
    }

    pub(super) fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.writer.u8(0x80 | (value & 0x7f) as u8);
            value >>= 7;
        }
        self.writer.u8(value as u8);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.writer.fixed(bytes);
    }

    fn short(&mut self, long: Long) -> u64 {
        let number = self.shorts.numbers.get(&long).copied();
        if number.is_none() && self.shorts.by_number.len() < SHORT_MAX {
            self.unknown.note(long);
        }
        number.unwrap_or(0)
    }

    /// An op id that later ones are near.
    pub(super) fn op_id(&mut self, id: OpId) {
        let number = self.short(Long::Log(id.log));
        self.number(number);
        if number == 0 {
            self.writer.u64(id.log);
        }
        self.writer.u64(id.hlc);
        self.near = id;
    }

    /// An op id near the one before it.
    pub(super) fn op_id_near(&mut self, id: OpId) {
        let (ahead, behind) = (id.hlc.wrapping_sub(self.near.hlc), self.near.hlc.wrapping_sub(id.hlc));
        let same_log = id.log == self.near.log;
        if same_log && ahead < 1 << 61 {
            self.number(ahead << 2);
        } else if same_log && behind < 1 << 61 {
            self.number(behind << 2 | 1);
        } else {
            self.number(2);
            self.op_id(id);
        }
        self.near = id;
    }

    fn chunk(&mut self, chunk: ChunkRef) {
        let number = self.short(Long::Epoch(chunk.epoch));
        self.number(number);
        if number == 0 {
            self.writer.fixed(&chunk.epoch.0);
        }
        self.writer.fixed(&chunk.tag.0);
    }

    pub(super) fn content(&mut self, content: &Content) {
        match content {
            Content::Inline(bytes) => {
                self.writer.u8(0);
                self.bytes(bytes);
            }
            Content::Extents(extents) => {
                self.writer.u8(1);
                self.number(extents.len() as u64);
                for extent in extents {
                    match extent {
                        Extent::Hole { len } => {
                            self.number(0);
                            self.number(*len);
                        }
                        Extent::Data { len, chunk } => {
                            self.number(u64::from(*len));
                            self.chunk(*chunk);
                        }
                    }
                }
            }
            Content::Tree { root, height, size } => {
                self.writer.u8(2);
                self.chunk(*root);
                self.writer.u8(*height);
                self.number(*size);
            }
        }
    }
}

/// Reads what a [`Speller`] wrote.
pub struct Spelled<'a, 'b> {
    pub(super) reader: &'a mut Reader<'b>,
    shorts: &'a Shorts,
    near: OpId,
}

impl<'a, 'b> Spelled<'a, 'b> {
    pub(super) fn new(reader: &'a mut Reader<'b>, shorts: &'a Shorts) -> Self {
        Self { reader, shorts, near: OpId::ZERO }
    }

    pub(super) fn number(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.reader.u8(field)?;
            let part = u64::from(byte & 0x7f);
            // No number has two spellings, and none is longer than 64 bits.
            if (byte == 0 && shift > 0) || (part << shift) >> shift != part {
                break;
            }
            value |= part << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::Invalid { field })
    }

    pub(super) fn narrow<T: TryFrom<u64>>(&mut self, field: &'static str) -> Result<T, DecodeError> {
        T::try_from(self.number(field)?).map_err(|_| DecodeError::Invalid { field })
    }

    /// How many follow, each at least `item_bytes` long.
    pub(super) fn count(
        &mut self,
        max: usize,
        item_bytes: usize,
        field: &'static str,
    ) -> Result<usize, DecodeError> {
        let count: usize = self.narrow(field)?;
        if count > max {
            return Err(DecodeError::Invalid { field });
        }
        if count.saturating_mul(item_bytes) > self.reader.left() {
            return Err(DecodeError::Short { field });
        }
        Ok(count)
    }

    pub(super) fn bytes(&mut self, max: usize, field: &'static str) -> Result<&'b [u8], DecodeError> {
        let len = self.count(max, 1, field)?;
        self.reader.fixed(len, field)
    }

    fn long(&self, number: u64, field: &'static str) -> Result<Long, DecodeError> {
        self.shorts.by_number.get(&number).copied().ok_or(DecodeError::Invalid { field })
    }

    pub(super) fn op_id(&mut self, field: &'static str) -> Result<OpId, DecodeError> {
        let log = match self.number(field)? {
            0 => self.reader.u64(field)?,
            number => match self.long(number, field)? {
                Long::Log(log) => log,
                Long::Epoch(_) => return Err(DecodeError::Invalid { field }),
            },
        };
        self.near = OpId { hlc: self.reader.u64(field)?, log };
        Ok(self.near)
    }

    pub(super) fn op_id_near(&mut self, field: &'static str) -> Result<OpId, DecodeError> {
        let number = self.number(field)?;
        let (by, log) = (number >> 2, self.near.log);
        self.near = match number & 3 {
            0 => OpId { hlc: self.near.hlc.wrapping_add(by), log },
            1 if by > 0 => OpId { hlc: self.near.hlc.wrapping_sub(by), log },
            2 if by == 0 => return self.op_id(field),
            _ => return Err(DecodeError::Invalid { field }),
        };
        Ok(self.near)
    }

    fn chunk(&mut self, field: &'static str) -> Result<ChunkRef, DecodeError> {
        let epoch = match self.number(field)? {
            0 => self.reader.epoch_id(field)?,
            number => match self.long(number, field)? {
                Long::Epoch(epoch) => epoch,
                Long::Log(_) => return Err(DecodeError::Invalid { field }),
            },
        };
        Ok(ChunkRef { epoch, tag: self.reader.chunk_tag(field)? })
    }

    pub(super) fn content(&mut self) -> Result<Content, DecodeError> {
        let field = "content";
        let invalid = DecodeError::Invalid { field };
        match self.reader.u8(field)? {
            0 => Ok(Content::Inline(self.bytes(INLINE_BYTES_MAX, field)?.to_vec())),
            1 => {
                let count = self.count(EXTENTS_INLINE_MAX, 2, field)?;
                let mut extents: Vec<Extent> = Vec::with_capacity(count);
                let mut total = 0u64;
                for _ in 0..count {
                    let extent = match self.narrow::<u32>(field)? {
                        0 => Extent::Hole { len: self.number(field)? },
                        len => Extent::Data { len, chunk: self.chunk(field)? },
                    };
                    let holes =
                        matches!((extents.last(), &extent), (Some(Extent::Hole { .. }), Extent::Hole { .. }));
                    let long = matches!(extent, Extent::Data { len, .. } if len as usize > CHUNK_BYTES_MAX);
                    total = total
                        .checked_add(extent.len())
                        .filter(|sum| *sum <= i64::MAX as u64)
                        .ok_or(invalid)?;
                    if extent.is_empty() || holes || long {
                        return Err(invalid);
                    }
                    extents.push(extent);
                }
                if extents.is_empty() { Err(invalid) } else { Ok(Content::Extents(extents)) }
            }
            2 => {
                let (root, height, size) = (self.chunk(field)?, self.reader.u8(field)?, self.number(field)?);
                if height == 0 || height > TREE_HEIGHT_MAX || size > i64::MAX as u64 {
                    return Err(invalid);
                }
                Ok(Content::Tree { root, height, size })
            }
            _ => Err(invalid),
        }
    }
}

#[cfg(test)]
mod tests {
    use cobox_store::id::ChunkTag;

    use super::*;

    fn spell(shorts: &Shorts, write: impl FnOnce(&mut Speller<'_>)) -> (Vec<u8>, Vec<Long>) {
        let mut unknown = Unknown::default();
        let mut speller = Speller::new(shorts, &mut unknown);
        write(&mut speller);
        (std::mem::take(&mut speller.writer).into_bytes(), unknown.into_iter().collect())
    }

    #[test]
    fn epochs_by_the_thousand_are_noted_up_to_a_bound_and_not_at_all_once_the_table_is_full() {
        let content = |from: u32| {
            let extent = |number: u32| {
                let mut epoch = [0; 32];
                epoch[..4].copy_from_slice(&number.to_be_bytes());
                Extent::Data { len: 9, chunk: ChunkRef { epoch: EpochId(epoch), tag: ChunkTag([9; 32]) } }
            };
            Content::Extents((from..from + EXTENTS_INLINE_MAX as u32).map(extent).collect())
        };
        let mut shorts = Shorts::default();
        let mut unknown = Unknown::default();
        let mut named = 0;
        while named < 20_000 {
            let mut speller = Speller::new(&shorts, &mut unknown);
            speller.content(&content(named));
            named += EXTENTS_INLINE_MAX as u32;
        }
        assert_eq!(unknown.len(), UNKNOWN_MAX);
        let mut more = Unknown::default();
        Speller::new(&shorts, &mut more).content(&content(named));
        unknown.merge(more);
        assert_eq!(unknown.len(), UNKNOWN_MAX);
        while let Some(number) = shorts.free().next() {
            shorts.insert(number, Long::Log(number));
        }
        assert_eq!(shorts.free().count(), 0);
        let (bytes, noted) = spell(&shorts, |speller| speller.content(&content(0)));
        assert!(noted.is_empty());
        assert_eq!(read(&shorts, &bytes, |spelled| spelled.content()), Ok(content(0)), "and nothing is lost");
    }

    fn read<R>(shorts: &Shorts, bytes: &[u8], take: impl FnOnce(&mut Spelled<'_, '_>) -> R) -> R {
        let mut reader = Reader::new(bytes);
        let value = take(&mut Spelled::new(&mut reader, shorts));
        reader.finish().expect("nothing is left");
        value
    }

    #[test]
    fn numbers_have_one_spelling_each() {
        let shorts = Shorts::default();
        for value in [0, 1, 127, 128, 300, 1 << 35, u64::MAX - 1, u64::MAX] {
            let (bytes, _) = spell(&shorts, |speller| speller.number(value));
            assert_eq!(read(&shorts, &bytes, |spelled| spelled.number("n")), Ok(value));
        }
        for longer in [&[0x80, 0x00][..], &[0xff, 0x80, 0x00], &[0xff; 10], &[0xff; 11]] {
            let mut reader = Reader::new(longer);
            assert!(Spelled::new(&mut reader, &shorts).number("n").is_err(), "{longer:x?}");
        }
        let mut reader = Reader::new(&[0xff]);
        assert!(Spelled::new(&mut reader, &shorts).number("n").is_err());
    }

    #[test]
    fn op_ids_in_any_order_and_of_any_log_read_back() {
        let mut shorts = Shorts::default();
        shorts.insert(1, Long::Log(7));
        let ids = [(900, 7), (900, 7), (905, 7), (2, 7), (2, 8), (u64::MAX, 8), (0, 8), (1 << 62, 7)];
        let ids = ids.map(|(hlc, log)| OpId { hlc, log });
        let (bytes, unknown) = spell(&shorts, |speller| {
            speller.op_id(ids[0]);
            ids[1..].iter().for_each(|id| speller.op_id_near(*id));
        });
        assert_eq!(unknown, [Long::Log(8)]);
        let found = read(&shorts, &bytes, |spelled| {
            let first = spelled.op_id("id");
            let rest = ids[1..].iter().map(|_| spelled.op_id_near("id"));
            std::iter::once(first).chain(rest.collect::<Vec<_>>()).collect::<Result<Vec<_>, _>>()
        });
        assert_eq!(found.expect("reads"), ids);
        // What the table knows is short.
        assert_eq!(spell(&shorts, |speller| speller.op_id(ids[0])).0.len(), 9);
    }

    #[test]
    fn content_of_every_kind_reads_back_with_and_without_a_table() {
        let chunk = |byte| ChunkRef { epoch: EpochId([byte; 32]), tag: ChunkTag([9; 32]) };
        let data = |len, byte| Extent::Data { len, chunk: chunk(byte) };
        let mut shorts = Shorts::default();
        let contents = [
            Content::empty(),
            Content::Inline(vec![7; 1024]),
            Content::Extents(vec![data(5, 1), Extent::Hole { len: 1 << 40 }, data(262_144, 2), data(6, 1)]),
            Content::Tree { root: chunk(1), height: 2, size: 1 << 33 },
        ];
        for _ in 0..2 {
            for content in &contents {
                let (bytes, _) = spell(&shorts, |speller| speller.content(content));
                let found = read(&shorts, &bytes, |spelled| spelled.content());
                assert_eq!(found.as_ref(), Ok(content));
            }
            shorts.insert(1, Long::Epoch(EpochId([1; 32])));
        }
        let one = Content::Extents(vec![data(5, 1)]);
        assert_eq!(spell(&shorts, |speller| speller.content(&one)).0.len(), 1 + 1 + 1 + 1 + 32);
    }

    #[test]
    fn content_that_no_writer_makes_is_refused() {
        let shorts = Shorts::default();
        let hole = |len| Extent::Hole { len };
        let long = Extent::Data {
            len: CHUNK_BYTES_MAX as u32 + 1,
            chunk: ChunkRef { epoch: EpochId([1; 32]), tag: ChunkTag([1; 32]) },
        };
        for extents in [vec![], vec![hole(0)], vec![hole(1), hole(1)], vec![hole(u64::MAX)], vec![long]] {
            let (bytes, _) = spell(&shorts, |speller| speller.content(&Content::Extents(extents)));
            let mut reader = Reader::new(&bytes);
            assert!(Spelled::new(&mut reader, &shorts).content().is_err());
        }
        // A number that the table does not have.
        let mut reader = Reader::new(&[1, 1, 5, 3]);
        assert!(Spelled::new(&mut reader, &shorts).content().is_err());
    }

    #[test]
    fn table_rows_read_back() {
        for long in [Long::Epoch(EpochId([3; 32])), Long::Log(u64::MAX)] {
            assert_eq!(Long::decode(&long.encode()), Ok(long));
        }
        assert!(Long::decode(&[1, 2]).is_err());
    }
}
