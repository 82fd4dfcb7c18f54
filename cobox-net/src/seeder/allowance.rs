//! What a folder may take of a seeder: what its owner or rule accepted, what members granted, what is given
//! to others.

use cobox_store::blind::Access;
use cobox_store::error::Result;
use cobox_store::id::FolderNo;

use super::holding::Holding;
use super::keeping::UNSEEDED;
use super::leaving::{Leaving, Why};
use super::limits::{Kept, Limits};
use super::rules::{Accept, Given};
use crate::shown;

/// What becomes of a grant whose size nobody saw.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Unseen {
    /// It is taken.
    Taken,
    /// It is shown to the owner first, for this reason.
    Waits(String),
}

impl Holding {
    /// Takes what a held folder asks for now, where the owner's rule allows it.
    pub(super) fn take_by_rule(&self, no: FolderNo, access: &Access, granted: Limits) -> Result<()> {
        let now_ms = crate::driver::now_ms();
        if let Some(terms) = self.waiting_terms(no, access)? {
            let limits = Limits::of_terms(&terms);
            if self.accept.takes(limits, Some(&terms), self.given(Some(no))?, now_ms) {
                limits.keep(&self.store, no, Kept::Accepted)?;
                return self.sign(no, &terms);
            }
        }
        let accepted = self.accepted(no)?;
        if matches!(self.accept, Accept::Rule(_))
            && accepted.min(granted) != granted
            && self.accept.takes(granted, None, self.given(Some(no))?, now_ms)
        {
            granted.keep(&self.store, no, Kept::Accepted)?;
        }
        Ok(())
    }

    /// What is given to all folders but one. One that is let go counts until it is gone: its bytes are here, and
    /// what was accepted for it is taken again where members grant more time.
    pub(super) fn given(&self, but: Option<FolderNo>) -> Result<Given> {
        let mut given = Given { folders: 0, bytes: 0 };
        for (no, _) in self.store.folders()? {
            if Some(no) == but {
                continue;
            }
            let usage = self.store.usage(no)?;
            let used = usage.pack_bytes.saturating_add(usage.entry_bytes);
            let bytes = match Leaving::read(&self.store, no)? {
                // Nothing that members do brings it back.
                Some(Leaving { why: Why::Unseeded, .. }) => used,
                _ => self.accepted(no)?.quota_bytes.max(used),
            };
            given.folders += 1;
            given.bytes = given.bytes.saturating_add(bytes);
        }
        Ok(given)
    }

    /// Whether what a seed code grants may be taken, which nobody has seen before; a sentence where not.
    pub(super) fn takes_unseen(&self, granted: Limits, held: Option<FolderNo>) -> Result<Unseen> {
        // The owner accepted as much before, seeing it.
        let accepted = held.map(|no| self.accepted(no)).transpose()?;
        if accepted.is_some_and(|accepted| accepted.min(granted) == granted) {
            return Ok(Unseen::Taken);
        }
        let now_ms = crate::driver::now_ms();
        let given = self.given(held)?;
        let said = |of: &str| {
            Unseen::Waits(format!(
                "The code grants {}, {}, which is more than {of}. Nothing is taken yet: `cobox-seeder pending` shows it, and `accept` takes it.",
                shown::bytes(granted.quota_bytes),
                granted.end(),
            ))
        };
        Ok(match &self.accept {
            Accept::Any => Unseen::Taken,
            Accept::Rule(_) if self.accept.takes(granted, None, given, now_ms) => Unseen::Taken,
            Accept::Rule(_) => said("this seeder's rule allows"),
            Accept::Owner => {
                let used = held.map(|no| self.store.usage(no)).transpose()?;
                let used = used.map_or(0, |usage| usage.pack_bytes.saturating_add(usage.entry_bytes));
                if granted.quota_bytes <= self.store.disk()?.free_bytes.saturating_add(used) {
                    Unseen::Taken
                } else {
                    said("is free on this disk")
                }
            }
        })
    }

    /// Holds a folder to what its owner accepted and its newest grant says, whichever is less.
    pub(super) fn limit(&self, no: FolderNo, granted: Limits) -> Result<()> {
        let accepted = match &self.accept {
            Accept::Any => granted,
            Accept::Owner | Accept::Rule(_) => self.accepted(no)?,
        };
        accepted.keep(&self.store, no, Kept::Accepted)?;
        let limits = accepted.min(granted);
        if limits != granted {
            tracing::info!(no = no.0, granted = granted.quota_bytes, "a higher limit waits for the owner");
        }
        self.store.quota_set(no, limits.quota_bytes, limits.until_ms)
    }

    /// Whether the owner let a folder go: what members grant does not bring it back.
    pub(super) fn is_let_go(&self, no: FolderNo) -> Result<bool> {
        Ok(matches!(Leaving::read(&self.store, no)?, Some(Leaving { why: Why::Unseeded, .. })))
    }

    /// Notes that the owner let a folder go knowing the grant that it has now, or refused it since.
    pub(super) fn note_let_go(&self, no: FolderNo) -> Result<()> {
        let record = self.grant_record(&*self.store.access(no)?);
        self.store.setting_put(no, UNSEEDED, &record)
    }

    /// The record of the newest grant to this seeder; one byte where there is none.
    fn grant_record(&self, access: &Access) -> Vec<u8> {
        let newest = access.seeder(&self.identity.peer().to_bytes());
        let found = access.seeders.iter().rev().find(|(_, grant)| Some(grant) == newest);
        found.map_or_else(|| vec![1], |(record, _)| record.0.to_vec())
    }

    /// What the owner accepted: nothing, when a crash came between the folder and its acceptance.
    pub(super) fn accepted(&self, no: FolderNo) -> Result<Limits> {
        if let Some(accepted) = Limits::read(&self.store, no, Kept::Accepted)? {
            return Ok(accepted);
        }
        let usage = self.store.usage(no)?;
        // A folder that was taken before acceptances were kept has its quota alone.
        Ok(usage.quota_bytes.map_or(Limits::NONE, |quota_bytes| Limits {
            quota_bytes,
            until_ms: usage.until_ms.unwrap_or(0),
        }))
    }

    /// What the newest grant of a held folder asks for beyond what its owner accepted; of one that the owner let go,
    /// what a grant asks for that came since.
    pub(super) fn raise(&self, no: FolderNo) -> Option<Limits> {
        let access = self.store.access(no).ok()?;
        let granted = Limits::of(access.seeder(&self.identity.peer().to_bytes())?);
        if self.is_let_go(no).ok()? {
            let known = self.store.setting(no, UNSEEDED).ok()?.unwrap_or_default();
            return (known != self.grant_record(&access)).then_some(granted);
        }
        let granted = self.within_terms(no, &access, granted).ok()?;
        let accepted = self.accepted(no).ok()?;
        let refused = Limits::read(&self.store, no, Kept::Refused).ok()?;
        (accepted.min(granted) != granted && refused != Some(granted)).then_some(granted)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rules::Rule;
    use super::super::testing::{Folder, Scene};
    use super::super::{Accept, Exit};
    use super::*;
    use crate::wire::GrantAnswer;

    fn rule(total_bytes_max: u64, folders_max: usize) -> Accept {
        Accept::Rule(Rule {
            folder_bytes_max: 100,
            total_bytes_max,
            folders_max,
            days_max: None,
            place: String::new(),
            organisation: String::new(),
            contact: String::new(),
        })
    }

    fn endless(quota_bytes: u64) -> Limits {
        Limits { quota_bytes, until_ms: 0 }
    }

    /// Two folders of 100 bytes are let go for this reason; what becomes of a third.
    fn third_after(accept: Accept, why: Why) -> GrantAnswer {
        let scene = Scene::new(accept);
        for number in [1, 2] {
            let folder = Folder::new(number).grant(&scene, endless(100));
            assert_eq!(scene.offer(&folder), GrantAnswer::Accepted);
            let no = scene.holding.store.folder_no(folder.id()).expect("held");
            scene.holding.leave(no, why).expect("writes");
        }
        scene.offer(&Folder::new(3).grant(&scene, endless(100)))
    }

    #[test]
    fn folder_that_leaves_counts_until_it_is_gone() {
        for why in [Why::Revoked, Why::Ended] {
            assert_eq!(third_after(rule(299, 9), why), GrantAnswer::Pending, "{why:?}");
            assert_eq!(third_after(rule(300, 9), why), GrantAnswer::Accepted, "{why:?}");
        }
        // What its owner let go comes back for nobody: its bytes count, of which there are none here.
        assert_eq!(third_after(rule(100, 9), Why::Unseeded), GrantAnswer::Accepted);
        for why in [Why::Revoked, Why::Ended, Why::Unseeded] {
            assert_eq!(third_after(rule(999, 2), why), GrantAnswer::Pending, "{why:?}");
        }
    }

    #[test]
    fn seed_code_for_more_than_may_be_taken_unseen_waits_for_the_owner() {
        let vast = 1 << 60;
        for (accept, small, large) in [(rule(250, 2), 100, 101), (Accept::Owner, 1 << 20, vast)] {
            let scene = Scene::new(accept);
            let holding = &scene.holding;
            let folder = Folder::new(1).grant(&scene, endless(small));
            holding.import_granted(&folder.records).expect("it is taken");
            let no = holding.store.folder_no(folder.id()).expect("held");
            let quota = |no| holding.store.usage(no).expect("reads").quota_bytes;
            assert_eq!(quota(no), Some(small));

            let folder = Folder::new(2).grant(&scene, endless(large));
            let refused = holding.import_granted(&folder.records).expect_err("it is too much");
            assert!(refused.exit == Exit::Refused && refused.text.contains("accept"), "{refused:?}");
            let no = holding.store.folder_no(folder.id()).expect("it is known");
            assert_eq!(quota(no), Some(0), "nothing is taken");
            let waiting = holding.list_pending();
            assert_eq!(
                waiting.iter().map(|one| (one.folder, one.limits)).collect::<Vec<_>>(),
                [(folder.id(), endless(large))]
            );
            holding.settle(&waiting[0].id(), GrantAnswer::Accepted).expect("the owner has seen it");
            assert_eq!(quota(no), Some(large));
            holding.import_granted(&folder.records).expect("it was accepted");
            assert_eq!(quota(no), Some(large));
        }
        let scene = Scene::new(Accept::Any);
        let folder = Folder::new(1).grant(&scene, endless(vast));
        scene.holding.import_granted(&folder.records).expect("anything is taken");
    }
}
