//! Acts of the access log by which space is given back (`docs/format.md`, "Giving space back").
//!
//! Pure layouts. Who honours them and how is [`crate::blind::release`]'s work.

use super::DEPS_MAX;
use super::codec::{DecodeError, Reader, Writer};
use crate::id::{LogId, PackId};

/// Packs that one release names: with both lists full a record has some 300 KiB, and a frame 1 MiB.
pub const RELEASE_PACKS_MAX: usize = 8192;

/// How far logs go: the last entry of each that is meant, ascending by log.
pub type Cut = Vec<(LogId, u64)>;

/// Asks every device that writes to acknowledge the entries up to a cut.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// The entries that are to be acknowledged.
    pub cut: Cut,
}

/// Lets go of packs, as far as entries up to a cut list them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Release {
    /// Listings beyond it are not meant: a pack that is listed again stays.
    pub cut: Cut,
    /// Which packs, ascending.
    pub packs: Vec<PackId>,
    /// Further ones that were added lately and need not be kept long, ascending, none of them above.
    pub young: Vec<PackId>,
}

impl Call {
    pub(super) fn encode(&self, writer: &mut Writer) {
        encode_cut(&self.cut, writer);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { cut: decode_cut(reader)? })
    }
}

impl Release {
    /// The last entry of a log whose listings are meant; 0 for none.
    #[must_use]
    pub fn covers(&self, log: &LogId) -> u64 {
        let at = self.cut.binary_search_by_key(log, |(log, _)| *log);
        at.ok().and_then(|at| self.cut.get(at)).map_or(0, |(_, seq)| *seq)
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        encode_cut(&self.cut, writer);
        for packs in [&self.packs, &self.young] {
            writer.count(packs.len());
            packs.iter().for_each(|pack| writer.fixed(&pack.0));
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let cut = decode_cut(reader)?;
        let (packs, young) = (decode_packs(reader)?, decode_packs(reader)?);
        let twice = young.iter().any(|pack| packs.binary_search(pack).is_ok());
        if twice || packs.is_empty() && young.is_empty() {
            return Err(DecodeError::Invalid { field: "released packs" });
        }
        Ok(Self { cut, packs, young })
    }
}

fn encode_cut(cut: &Cut, writer: &mut Writer) {
    writer.count(cut.len());
    for (log, seq) in cut {
        writer.fixed(&log.0);
        writer.u64(*seq);
    }
}

fn decode_cut(reader: &mut Reader<'_>) -> Result<Cut, DecodeError> {
    let field = "cut";
    let count = reader.count(DEPS_MAX, 40, field)?;
    let cut: Cut = (0..count)
        .map(|_| Ok((reader.log_id(field)?, reader.u64(field)?)))
        .collect::<Result<_, DecodeError>>()?;
    let ascending = cut.windows(2).all(|pair| pair[0].0 < pair[1].0);
    if !ascending || cut.iter().any(|(_, seq)| *seq == 0) {
        return Err(DecodeError::Invalid { field });
    }
    Ok(cut)
}

fn decode_packs(reader: &mut Reader<'_>) -> Result<Vec<PackId>, DecodeError> {
    let field = "released packs";
    let count = reader.count(RELEASE_PACKS_MAX, 32, field)?;
    let packs: Vec<PackId> = (0..count).map(|_| reader.pack_id(field)).collect::<Result<_, _>>()?;
    if packs.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(DecodeError::Invalid { field });
    }
    Ok(packs)
}

#[cfg(test)]
pub(crate) fn one_of_each() -> Vec<super::access::Act> {
    use super::access::Act;
    let cut = vec![(LogId([1; 32]), 3), (LogId([2; 32]), 1)];
    let (packs, young) = (vec![PackId([4; 32]), PackId([5; 32])], vec![PackId([3; 32])]);
    vec![Act::Call(Call { cut: cut.clone() }), Act::Release(Release { cut, packs, young })]
}
