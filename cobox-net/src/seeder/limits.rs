//! What a folder's owner-accepted limits are, and how a grant is held to them.
//!
//! Members write grants; what a seeder gives is for its owner to say. What the owner accepted is kept
//! beside the folder, and a newer grant can lower it but not raise it.

use cobox_store::blind::Store;
use cobox_store::error::Result;
use cobox_store::format::access::SeederGrant;
use cobox_store::format::agreement::Terms;
use cobox_store::format::{Reader, Writer};
use cobox_store::id::FolderNo;

/// Limits of a folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// For packs and entries together.
    pub quota_bytes: u64,
    /// The end, milliseconds since 1970; 0 for none.
    pub until_ms: u64,
}

/// Which limits of a folder are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// What the owner accepted.
    Accepted,
    /// What the owner refused last.
    Refused,
}

impl Kept {
    fn name(self) -> &'static str {
        match self {
            Self::Accepted => "seeder-accepted",
            Self::Refused => "seeder-refused",
        }
    }
}

impl Limits {
    /// Nothing is given.
    pub const NONE: Self = Self { quota_bytes: 0, until_ms: 0 };

    /// What a grant asks for.
    #[must_use]
    pub fn of(grant: &SeederGrant) -> Self {
        Self { quota_bytes: grant.quota_bytes, until_ms: grant.until_ms }
    }

    /// What terms say.
    #[must_use]
    pub fn of_terms(terms: &Terms) -> Self {
        Self { quota_bytes: terms.quota_bytes, until_ms: terms.until_ms }
    }

    /// When it ends, in words.
    #[must_use]
    pub fn end(self) -> String {
        match self.until_ms {
            0 => "without an end".to_owned(),
            ms => format!("until {}", crate::shown::time(ms)),
        }
    }

    /// Whether it ends earlier than that; 0 is no end.
    #[must_use]
    pub fn ends_before(self, until_ms: u64) -> bool {
        end(self.until_ms) < end(until_ms)
    }

    /// The lower of both.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        let until_ms = if end(self.until_ms) <= end(other.until_ms) { self.until_ms } else { other.until_ms };
        Self { quota_bytes: self.quota_bytes.min(other.quota_bytes), until_ms }
    }

    /// The limits that are kept for a folder.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn read(store: &Store, no: FolderNo, kept: Kept) -> Result<Option<Self>> {
        let Some(bytes) = store.setting(no, kept.name())? else { return Ok(None) };
        let mut reader = Reader::new(&bytes);
        let limits = Self { quota_bytes: reader.u64("quota")?, until_ms: reader.u64("until")? };
        reader.finish()?;
        Ok(Some(limits))
    }

    /// Keeps the limits for a folder; durable on return.
    ///
    /// # Errors
    /// See [`cobox_store::blind::Db::commit`].
    pub fn keep(self, store: &Store, no: FolderNo, kept: Kept) -> Result<()> {
        if Self::read(store, no, kept)? == Some(self) {
            return Ok(());
        }
        let mut writer = Writer::new();
        writer.u64(self.quota_bytes);
        writer.u64(self.until_ms);
        store.setting_put(no, kept.name(), &writer.into_bytes())
    }
}

/// No end is later than every end.
fn end(until_ms: u64) -> u64 {
    if until_ms == 0 { u64::MAX } else { until_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_of_two_limits_takes_each_part_and_no_end_is_the_latest() {
        let limits = |quota_bytes, until_ms| Limits { quota_bytes, until_ms };
        assert_eq!(limits(5, 0).min(limits(7, 9)), limits(5, 9));
        assert_eq!(limits(7, 8).min(limits(5, 0)), limits(5, 8));
        assert_eq!(limits(7, 0).min(limits(5, 0)), limits(5, 0));
    }
}
