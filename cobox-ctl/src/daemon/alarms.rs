//! What a person must know of a folder at once: for `status` and `doctor`.

use cobox_store::keyed::Standing;

use super::folder::FolderState;
use crate::exit::Outcome;
use crate::report::Alarm;

impl FolderState {
    /// What is wrong with the folder's keys and with this device's place in it.
    pub fn alarms(&self) -> Outcome<Vec<Alarm>> {
        let mut alarms = Vec::new();
        let access = self.folder.store().access(self.no())?;
        let mut add = |what: &str, advice: String| alarms.push(Alarm { what: what.to_owned(), advice });
        if self.folder.standing() == Standing::RolledBack {
            let admin = access.role_of(&self.folder.log()) == Some(cobox_store::format::access::Role::Admin);
            add(SET_BACK, if admin { RESTART.to_owned() } else { RECOVER.to_owned() });
        } else if access.role_of(&self.folder.log()).is_none() {
            add(NOT_LISTED, RECOVER.to_owned());
        }
        if self.folder.store().equivocation(self.no(), self.folder.log())?.is_some() {
            add(SIGNED_TWICE, COPY_AWAY.to_owned());
        }
        if !access.odd_epochs.is_empty() {
            add(ODD_EPOCH, ODD_EPOCH_ADVICE.to_owned());
        }
        Ok(alarms)
    }
}

const SET_BACK: &str = "This device's store was set back to an older copy, or a copy of it is in use elsewhere: it \
     signs nothing more under its old key. What it had published comes back from seeders and other devices, and \
     what is written here is kept and waits.";
const RESTART: &str = "Make sure that no copy of this device runs, then restart the daemon (`cobox-ctl daemon stop`, \
     `cobox-ctl daemon start`): it goes on under a fresh key by itself.";
const RECOVER: &str = "Make sure that no copy of this device runs, then join again with the words: `cobox-ctl daemon \
     stop`, then `cobox-ctl recover --words-file FILE --seeder ADDR --label NAME` in this home. Nothing is lost by it.";
const NOT_LISTED: &str = "This device is not listed among the folder's devices: what is written here is kept, and is \
     not sent.";
const SIGNED_TWICE: &str = "Two different entries were signed with one number of this device's log: a copy of it was \
     in use at the same time.";
const COPY_AWAY: &str = "What was written here since is on this device only. Copy what changed to a place outside the \
     mount, move this home away, get the folder back with `cobox-ctl recover`, and copy it in again.";
const ODD_EPOCH: &str = "The folder's newest keys were not given to exactly its devices and members: somebody was left \
     out, or let in.";
const ODD_EPOCH_ADVICE: &str = "Ask the other admins which device began it. Until an admission or a removal begins new \
     keys, treat what is written as readable by a stranger.";
