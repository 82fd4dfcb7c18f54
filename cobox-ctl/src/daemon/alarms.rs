//! What a person must know of a folder at once: for `status` and `doctor`.

use std::time::Duration;

use cobox_fs::vfs::CLOCK_AHEAD_MAX_MS;
use cobox_net::shown;
use cobox_store::blind::{Access, InviteState};
use cobox_store::format::access::Role;
use cobox_store::keyed::Standing;

use super::folder::FolderState;
use super::now_ms;
use crate::exit::Outcome;
use crate::render::units::span;
use crate::report::Alarm;

/// What a reader wrote while it was more than that.
const UNSENT: &str =
    "This device may only read the folder, and what it wrote before and had not sent stays on it alone.";
const UNSENT_ADVICE: &str = "Copy it elsewhere, or ask an admin to let you write again, and it is sent:";

impl FolderState {
    /// What is wrong with the folder's keys and with this device's place in it.
    pub fn alarms(&self) -> Outcome<Vec<Alarm>> {
        let mut alarms = Vec::new();
        let access = self.folder.store().access(self.no())?;
        let mut add = |what: String, advice: String| alarms.push(Alarm { what, advice });
        let role = access.role_of(&self.folder.log());
        if role.is_none() {
            add(NOT_LISTED.to_owned(), self.way_back(&access));
        } else if self.folder.standing() == Standing::RolledBack {
            let writes = role >= Some(Role::Write);
            add(SET_BACK.to_owned(), if writes { CLOSE.to_owned() } else { RECOVER.to_owned() });
        }
        if role == Some(Role::Read) && self.has_unsent()? {
            add(
                UNSENT.to_owned(),
                format!("{UNSENT_ADVICE} `cobox-ctl member role {} MEMBER write`.", self.folder.name()),
            );
        }
        if self.vfs().map(|vfs| vfs.is_stale()).transpose()?.unwrap_or(false) {
            add(STALE.to_owned(), CLOSE.to_owned());
        }
        let branches = self.folder.store().branches(self.no())?;
        for log in access.devices.keys().filter(|log| branches.is_forked(log)) {
            let label = self.folder.label_of(log).unwrap_or_else(|| String::from("a device"));
            let label = shown::name(label.as_bytes());
            let id = log.to_string();
            add(
                format!("{label} ({id}) was in use as two copies at once. {COPIES}"),
                format!("{COPIES_ADVICE} `cobox-ctl device remove {} {id}`.", self.folder.name()),
            );
        }
        for (log, clock_ms) in self.vfs().map(|vfs| vfs.held_for_clock()).unwrap_or_default() {
            let label =
                self.folder.label_of(&branches.origin(&log)).unwrap_or_else(|| String::from("a device"));
            let label = shown::name(label.as_bytes());
            let ahead = span(Duration::from_millis(clock_ms.saturating_sub(now_ms())));
            let until = cobox_net::shown::time(clock_ms.saturating_sub(CLOCK_AHEAD_MAX_MS));
            add(
                format!("The clock of {label} is {ahead} ahead: its changes are held here until {until}."),
                format!("{HELD_ADVICE} {label}."),
            );
        }
        if let Some(ahead_ms) = self.our_clock_ahead()? {
            add(
                format!(
                    "The clock of this device is {} ahead of its seeders'.",
                    span(Duration::from_millis(ahead_ms))
                ),
                CLOCK_ADVICE.to_owned(),
            );
        }
        // Until the code would have been worth nothing anyway: `member list` tells it for good.
        let clashed = access.invites.values().filter(|(_, state)| *state == InviteState::Clashed);
        if clashed.map(|(open, _)| open.expires_ms).max().is_some_and(|expires_ms| now_ms() <= expires_ms) {
            add(CLASHED.to_owned(), CLASHED_ADVICE.to_owned());
        }
        if !access.odd_epochs.is_empty() {
            add(ODD_EPOCH.to_owned(), ODD_EPOCH_ADVICE.to_owned());
        }
        Ok(alarms)
    }
}

impl FolderState {
    /// What to do on a device that was removed. The words list it again only while its person is a member.
    pub fn way_back(&self, access: &Access) -> String {
        let old = access.former.get(&self.folder.log());
        if old.is_some_and(|device| access.members.contains_key(&device.member)) {
            return RECOVER.to_owned();
        }
        format!(
            "Ask an admin for a new invite: `cobox-ctl folder join` with its code goes on here, with all that was written. Or copy \
             what you need, and let go of the rest with `cobox-ctl folder leave {} --force`.",
            self.folder.name()
        )
    }

    /// How far this device's clock was ahead when seeders last proved something, by all of their clocks.
    fn our_clock_ahead(&self) -> Outcome<Option<u64>> {
        let now = now_ms();
        let receipts = self.folder.store().receipts(self.no())?;
        // What came later than now came before the clock was set right.
        let known = receipts.iter().filter(|kept| kept.at_ms <= now);
        let least = known.map(|kept| kept.at_ms.saturating_sub(kept.receipt.time_ms)).min();
        Ok(least.filter(|ahead_ms| *ahead_ms > CLOCK_AHEAD_MAX_MS))
    }
}

const HELD_ADVICE: &str =
    "Nothing is lost. Set the clock of that device right, or this one's if it is wrong:";
const CLOCK_ADVICE: &str = "Others hold back what is written here until their clocks come near. Set this machine's clock \
     right (`timedatectl set-ntp true`).";
const SET_BACK: &str = "This device's store was set back to an older copy, or a copy of it is in use elsewhere: it \
     signs nothing more under its old key. What it had published comes back from seeders and other devices, and \
     what is written here is kept and waits.";
const CLOSE: &str = "It goes on by itself as soon as no program uses the mount: close them, or leave the directory. \
     Nothing is lost by it.";
const STALE: &str = "A device was in use as two copies, and the tree here was made from one of them: it is made anew \
     as soon as no program uses the mount, and until then nothing that others write is shown here.";
const RECOVER: &str = "Make sure that no copy of this device runs, then join again with the words: `cobox-ctl daemon \
     stop`, then `cobox-ctl recover --words-file FILE --seeder ADDR --label NAME` in this home. Nothing is lost by it.";
const NOT_LISTED: &str = "This device is not listed among the folder's devices: what is written here is kept, and is \
     not sent.";
const COPIES: &str = "What both wrote is kept, and each copy goes on as a device of its own.";
const COPIES_ADVICE: &str = "If nobody copied that device or restored its disk, somebody has its keys: remove its person's \
     devices. Else take the old entry out of the list once every copy has been online:";
const CLASHED: &str = "The code of an invite was used by two devices at the same time: neither was let in, and the keys \
     were changed.";
const CLASHED_ADVICE: &str = "Somebody else has seen the code: invite again, and send the new code another way. \
     `cobox-ctl folder invite FOLDER --list` says which one it was.";
const ODD_EPOCH: &str = "The folder's newest keys were not given to exactly its devices and members: somebody was left \
     out, or let in.";
const ODD_EPOCH_ADVICE: &str = "Ask the other admins which device began it. Until an admission or a removal begins new \
     keys, treat what is written as readable by a stranger.";
