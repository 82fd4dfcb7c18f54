//! One release at a time: of two that different admins make, the later knows the earlier and all that it was made of.
//!
//! Packs that hold the same chunks can take one another's place only because of this
//! (`docs/decisions/0020-packs-are-merged-by-copying.md`). Called by `release.rs`, which keeps this device from
//! answering anybody meanwhile.

use std::collections::BTreeSet;

use cobox_store::format::release::Cut as LogCut;
use cobox_store::id::LogId;

use super::release::{Calling, Rule};
use super::survey::covers;
use super::{Errno, Vfs};

impl Vfs {
    /// Whether this device answered, after it called, another's call that comes before its own: that device may
    /// have released meanwhile what this one relies on, or the other way round (decision 0020).
    pub(super) fn gave_way(&self, calling: &Calling) -> Result<bool, Errno> {
        let own = self.folder.log();
        if !self.keeps(Rule::GiveWay) {
            return Ok(false);
        }
        if self.folder.author_of(&calling.call)? != Some(own) {
            return Ok(true);
        }
        let access = self.folder.store().access(self.folder.no())?;
        for (record, call) in &access.calls {
            if self.folder.author_of(record)? == Some(own)
                || self.folder.builds_on(&[calling.call], record)?
            {
                continue;
            }
            let comes_first = *record < calling.call || self.folder.builds_on(&[*record], &calling.call)?;
            let other = Calling { call: *record, cut: call.cut.clone() };
            let answer = if comes_first { self.answer_of(&other, own)? } else { None };
            if answer.is_some_and(|seq| seq > covers(&calling.cut, &own)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Logs of which entries are not applied here that releases speak of.
    pub(super) fn lacks_of_releases(&self, now: &LogCut) -> Result<Vec<LogId>, Errno> {
        let mut lacking = BTreeSet::new();
        for release in self.folder.store().access(self.folder.no())?.releases.values() {
            let asked = self.asked(&release.cut)?.unwrap_or_default();
            lacking.extend(asked.iter().filter(|(log, seq)| covers(now, log) < *seq).map(|(log, _)| *log));
        }
        Ok(lacking.into_iter().collect())
    }
}
