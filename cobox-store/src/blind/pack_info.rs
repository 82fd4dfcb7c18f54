//! The row that says how much of a pack is here, and under which ordinal.

use super::have::Have;
use super::ordinals::Ordinal;
use super::store::Store;
use super::tables::{Table, key};
use crate::error::Result;
use crate::format::codec::{DecodeError, Reader, Writer};
use crate::format::pack::is_size_class;
use crate::id::{FolderNo, PackId};

/// How much of a pack is here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Some slices, perhaps none yet.
    Partial(Have),
    /// All slices.
    Complete,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PackInfo {
    pub(super) size: u64,
    pub(super) ordinal: Ordinal,
    pub(super) state: State,
}

impl PackInfo {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(1);
        writer.u64(self.size);
        writer.u64(self.ordinal.0);
        match &self.state {
            State::Complete => writer.u8(1),
            State::Partial(have) => {
                writer.u8(0);
                have.encode(&mut writer);
            }
        }
        writer.into_bytes()
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let field = "pack info";
        let mut reader = Reader::new(bytes);
        reader.version(1, field)?;
        let (size, ordinal) = (reader.u64(field)?, Ordinal(reader.u64(field)?));
        if !is_size_class(size) {
            return Err(DecodeError::Invalid { field });
        }
        let complete = reader.flag(field)?;
        let state = if complete { State::Complete } else { State::Partial(Have::decode(&mut reader, size)?) };
        reader.finish()?;
        Ok(Self { size, ordinal, state })
    }

    pub(super) fn has(&self, index: u64) -> bool {
        match &self.state {
            State::Complete => true,
            State::Partial(have) => have.contains(index),
        }
    }
}

pub(super) fn info_key(no: FolderNo, pack: PackId) -> Vec<u8> {
    key(no, Table::PackInfo, &pack.0)
}

impl Store {
    pub(super) fn pack_info(&self, no: FolderNo, pack: PackId) -> Result<Option<PackInfo>> {
        let row = self.db().get(&info_key(no, pack))?;
        Ok(row.map(|bytes| PackInfo::decode(&bytes)).transpose()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pack_info_of_every_state_round_trips() {
        let mut have = Have::none(1 << 20);
        have.insert(3);
        for state in [State::Complete, State::Partial(have)] {
            let info = PackInfo { size: 1 << 20, ordinal: Ordinal(9), state };
            assert_eq!(PackInfo::decode(&info.encode()), Ok(info.clone()));
            assert!(info.has(3));
            assert!(PackInfo::decode(&info.encode()[1..]).is_err());
        }
    }
}
