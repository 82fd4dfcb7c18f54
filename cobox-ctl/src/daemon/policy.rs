//! What a folder should have: how many proved copies, and how old a proof may get.
//!
//! What an admin sets holds for everybody: it is a record of the access log. A device may want something else for
//! itself, which is kept there, sealed, and goes first. The rhythm of audits follows from the tolerance, so that one
//! number says it all.

use serde::{Deserialize, Serialize};

use cobox_store::format::access::Role;
use cobox_store::format::seeding::{COPIES_RANGE, CopiesPolicy, TOLERANCE_MS_RANGE};

use super::folder::FolderState;
use crate::control::PolicyFor;
use crate::exit::{Outcome, Problem};
use crate::report::PolicyOf;

/// The setting under which a folder's policy is kept, sealed.
const SETTING: &str = "policy";
/// Without a wish, a folder should exist in one proved copy besides this device's.
const COPIES: u32 = 1;
/// Without a wish, a proof counts for a week: a holiday without a device that challenges is not an alarm,
/// and a machine that is gone for longer than that is rarely back the next day.
const TOLERANCE_MS: u64 = 7 * DAY_MS;
/// A proof is renewed when a seventh of the tolerance has passed: daily, where it is a week.
const RENEWALS: u64 = 7;
/// It is late when two renewals did not come.
const RENEWALS_MISSED: u64 = 2;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A folder's wishes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Policy {
    /// Proved copies besides this device's.
    pub copies: u32,
    /// How long a proof counts.
    pub tolerance_ms: u64,
}

/// How old a proof is, in words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Age {
    /// Renewed as it should be.
    Fresh,
    /// It counts, and renewals did not come.
    Late,
    /// It counts no more.
    Expired,
}

impl Default for Policy {
    fn default() -> Self {
        Self { copies: COPIES, tolerance_ms: TOLERANCE_MS }
    }
}

impl Policy {
    /// After so long a proof is renewed.
    pub fn renewal_ms(&self) -> u64 {
        self.tolerance_ms / RENEWALS
    }

    /// After so long a proof is late, and a seeder that nobody heard of is silent.
    pub fn late_ms(&self) -> u64 {
        self.renewal_ms() * RENEWALS_MISSED
    }

    /// The age of a proof from `at_ms`. One from the future was kept under a clock that was wrong, and is
    /// worth no more than one that is as far away in the past.
    pub fn age(&self, at_ms: u64, now_ms: u64) -> Age {
        match now_ms.abs_diff(at_ms) {
            age if age <= self.late_ms() => Age::Fresh,
            age if age <= self.tolerance_ms => Age::Late,
            _ => Age::Expired,
        }
    }

    /// This with what is given changed.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn with(self, copies: Option<u32>, tolerance_ms: Option<u64>) -> Outcome<Self> {
        let new = Self {
            copies: copies.unwrap_or(self.copies),
            tolerance_ms: tolerance_ms.unwrap_or(self.tolerance_ms),
        };
        if !u8::try_from(new.copies).is_ok_and(|copies| COPIES_RANGE.contains(&copies)) {
            return Err(Problem::usage(
                format!("{} is no number of copies to aim at.", new.copies),
                format!("Give {} to {}.", COPIES_RANGE.start(), COPIES_RANGE.end()),
            ));
        }
        if !TOLERANCE_MS_RANGE.contains(&new.tolerance_ms) {
            return Err(Problem::usage(
                "A proof cannot count for so short or so long a time.",
                "Give a tolerance from 1h to 365d; the default is 7d.",
            ));
        }
        Ok(new)
    }
}

impl FolderState {
    /// What this folder should have.
    pub fn policy(&self) -> Policy {
        self.policy_and_whose().0
    }

    /// The same, and who said so.
    pub fn policy_and_whose(&self) -> (Policy, PolicyOf) {
        let own = || -> Option<Policy> {
            // Without a wish, and where it was taken back, there is no row or an empty one.
            let sealed =
                self.folder.store().setting(self.no(), SETTING).ok()?.filter(|row| !row.is_empty())?;
            let plain = self.folder.local().open(SETTING.as_bytes(), &sealed).ok()?;
            serde_json::from_slice(&plain).ok()
        };
        if let Some(own) = own() {
            return (own, PolicyOf::Device);
        }
        let group = self.folder.store().access(self.no()).ok().and_then(|access| access.policy);
        match group {
            Some(group) => {
                let policy = Policy { copies: u32::from(group.copies), tolerance_ms: group.tolerance_ms };
                (policy, PolicyOf::Folder)
            }
            None => (Policy::default(), PolicyOf::Nobody),
        }
    }

    /// Changes what this folder should have: for everybody where this device is an admin's, unless only it is meant.
    /// Durable on return.
    ///
    /// # Errors
    /// When the wish makes no sense, or the store fails.
    pub fn set_policy(&self, copies: Option<u32>, tolerance_ms: Option<u64>, whom: PolicyFor) -> Outcome<()> {
        if whom == PolicyFor::Nobody {
            return Ok(self.folder.store().setting_put(self.no(), SETTING, &[])?);
        }
        let policy = self.policy().with(copies, tolerance_ms)?;
        if whom == PolicyFor::Device || self.folder.role()? != Some(Role::Admin) {
            return self.keep_policy(&policy);
        }
        let group = CopiesPolicy {
            copies: u8::try_from(policy.copies).unwrap_or(*COPIES_RANGE.end()),
            tolerance_ms: policy.tolerance_ms,
        };
        if self.folder.store().access(self.no())?.policy != Some(group) {
            self.folder.want_copies(group)?;
        }
        Ok(self.folder.store().setting_put(self.no(), SETTING, &[])?)
    }

    fn keep_policy(&self, policy: &Policy) -> Outcome<()> {
        let plain = serde_json::to_vec(policy)
            .map_err(|error| Problem::failed(format!("The setting cannot be kept: {error}.")))?;
        let sealed = self.folder.local().seal(SETTING.as_bytes(), &plain);
        Ok(self.folder.store().setting_put(self.no(), SETTING, &sealed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proof_is_fresh_then_late_then_counts_no_more() {
        let policy = Policy::default();
        let at = 1_000 * DAY_MS;
        assert_eq!(policy.renewal_ms(), DAY_MS);
        for (days, age) in
            [(0, Age::Fresh), (2, Age::Fresh), (3, Age::Late), (7, Age::Late), (8, Age::Expired)]
        {
            assert_eq!(policy.age(at, at + days * DAY_MS), age, "{days} days later");
            assert_eq!(policy.age(at + days * DAY_MS, at), age, "a clock that was {days} days ahead");
        }
    }

    #[test]
    fn senseless_wishes_are_refused_and_the_rest_is_kept() {
        let policy = Policy::default().with(Some(3), None).expect("makes sense");
        assert_eq!((policy.copies, policy.tolerance_ms), (3, TOLERANCE_MS));
        let policy = policy.with(None, Some(DAY_MS)).expect("makes sense");
        assert_eq!((policy.copies, policy.tolerance_ms), (3, DAY_MS));
        for (copies, tolerance_ms) in
            [(Some(0), None), (Some(65), None), (None, Some(1000)), (None, Some(u64::MAX))]
        {
            assert!(policy.with(copies, tolerance_ms).is_err());
        }
    }
}
