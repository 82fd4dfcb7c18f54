//! Folders that a seeder is to hold no longer: since when, and why.
//!
//! Nothing is deleted here. What is written down is when the end was learned of, by the seeder's own clock,
//! so that data is kept for as long as it was promised from then on, whoever asked for the end.

use cobox_store::blind::Store;
use cobox_store::error::Result;
use cobox_store::format::{DecodeError, Reader, Writer};
use cobox_store::id::FolderNo;
use serde::{Deserialize, Serialize};

use super::keeping::UNSEEDED;

/// The setting of a folder that is left; empty once it is held again.
const SETTING: &str = "seeder-leaving";

/// Who ended it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// An admin of the folder took the grant back.
    Revoked,
    /// The seeder's owner or an admin of the seeder let it go.
    Unseeded,
    /// The grant or the agreement came to its end.
    Ended,
}

/// The end of a folder at this seeder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Leaving {
    /// When this seeder learned of it, milliseconds since 1970 by its own clock.
    pub since_ms: u64,
    /// Why.
    pub why: Why,
}

impl Leaving {
    /// The end that was written down for a folder.
    ///
    /// # Errors
    /// When the disk cannot be read, or changed it.
    pub fn read(store: &Store, no: FolderNo) -> Result<Option<Self>> {
        let Some(bytes) = store.setting(no, SETTING)?.filter(|bytes| !bytes.is_empty()) else {
            return Ok(None);
        };
        let mut reader = Reader::new(&bytes);
        let since_ms = reader.u64("leaving")?;
        let why = match reader.u8("leaving")? {
            0 => Why::Revoked,
            1 => Why::Unseeded,
            2 => Why::Ended,
            _ => return Err(DecodeError::Invalid { field: "leaving" }.into()),
        };
        reader.finish()?;
        Ok(Some(Self { since_ms, why }))
    }

    /// Writes the end down, unless one is; what stands afterwards. Durable on return.
    ///
    /// # Errors
    /// See [`cobox_store::blind::Db::commit`].
    pub fn note(store: &Store, no: FolderNo, now_ms: u64, why: Why) -> Result<Self> {
        if let Some(known) = Self::read(store, no)? {
            return Ok(known);
        }
        let mut writer = Writer::new();
        writer.u64(now_ms);
        writer.u8(why as u8);
        store.setting_put(no, SETTING, &writer.into_bytes())?;
        if why == Why::Unseeded {
            store.setting_put(no, UNSEEDED, &[1])?;
        }
        Ok(Self { since_ms: now_ms, why })
    }

    /// The folder is held again.
    ///
    /// # Errors
    /// See [`cobox_store::blind::Db::commit`].
    pub fn forget(store: &Store, no: FolderNo) -> Result<()> {
        match Self::read(store, no)? {
            Some(known) => {
                if known.why == Why::Unseeded {
                    store.setting_put(no, UNSEEDED, &[])?;
                }
                store.setting_put(no, SETTING, &[])
            }
            None => Ok(()),
        }
    }
}
