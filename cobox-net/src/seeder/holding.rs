//! What a seeder holds: which grants it takes, its folders' secrets and peers, and what people may ask.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cobox_store::blind::kembox::Purpose;
use cobox_store::blind::{Access, STORE, Store};
use cobox_store::format::Writer;
use cobox_store::format::access::{Act, Record, SeederGrant};
use cobox_store::format::address::SeederAddress;
use cobox_store::format::agreement::Terms;
use cobox_store::id::{EpochId, FolderId, FolderNo, InviteKey};
use parking_lot::Mutex;

use super::heard::Watched;
use super::identity::Identity;
use super::leaving::{Leaving, Why};
use super::limits::{Kept, Limits};
use super::pending::Pending;
use super::rules::Accept;
use super::{Exit, Failure};
use crate::node::{Node, SwarmKey};
use crate::peer_id::PeerId;
use crate::shown;
use crate::sync::Keep;
use crate::wire::GrantAnswer;

/// How often expired grants and new records are looked for when nothing wakes us.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How often it is looked whether devices are somewhere else.
const KEEP_EVERY: Duration = Duration::from_secs(2);

/// Setting of the store while the seeder is paused.
const PAUSED: &str = "seeder-paused";

/// Whether a pause begins or ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pause {
    /// Nothing is sent or taken from now on.
    Begin,
    /// It goes on.
    End,
}

/// A seeder's state beside the store.
pub struct Holding {
    pub store: Arc<Store>,
    pub identity: Identity,
    /// Its folder, where its address is kept for who asks while it does not run.
    pub(super) data: PathBuf,
    pub(super) accept: Accept,
    pub(super) pending: Pending,
    /// Swarm secrets of epochs, and that there is none: opening a box costs far more than finding it here.
    opened: Mutex<HashMap<(FolderNo, EpochId), Option<SwarmKey>>>,
    pub(super) node: Mutex<Option<Node>>,
    /// What is remembered of each folder to warn its owner once.
    pub(super) watched: Mutex<HashMap<FolderNo, Watched>>,
    /// Held while terms are signed: several threads see the same proposal, and one of them signs it.
    pub(super) signing: Mutex<()>,
    /// Held while a pause begins or ends, and while a folder is given to the node: no folder takes part in a pause.
    turning: Mutex<()>,
    /// Why the grants of codes wait for the owner, by code.
    pub(super) unseen: Mutex<BTreeMap<InviteKey, String>>,
}

/// A grant that waits for the owner.
#[derive(Debug, Clone)]
pub struct PendingGrant {
    pub folder: FolderId,
    /// Who offered it; `None` for a higher limit of a folder that is held: any member may have written it.
    pub from: Option<PeerId>,
    pub limits: Limits,
    /// The terms that taking it signs.
    pub terms: Option<Terms>,
}

/// Letters of a folder's id in a [`PendingGrant::id`].
const ID_FOLDER_LETTERS: usize = 16;
/// Letters of the terms' hash there: a member who may try offers cannot find others with the same 64 bits.
const ID_TERMS_LETTERS: usize = 16;

impl PendingGrant {
    /// What its owner names it by: folder and terms, so that what is accepted is what was shown.
    #[must_use]
    pub fn id(&self) -> String {
        let folder = self.folder.to_hex();
        format!("{}-{}", folder.get(..ID_FOLDER_LETTERS).unwrap_or(&folder), self.digest())
    }

    fn digest(&self) -> String {
        let mut writer = Writer::new();
        writer.fixed(&self.folder.0);
        writer.bytes16(&self.from.map(|peer| peer.to_bytes()).unwrap_or_default());
        writer.u64(self.limits.quota_bytes);
        writer.u64(self.limits.until_ms);
        if let Some(terms) = &self.terms {
            writer.fixed(&terms.hash().0);
        }
        let mut hash = cobox_store::id::hex(&cobox_store::id::hash(&writer.into_bytes()));
        hash.truncate(ID_TERMS_LETTERS);
        hash
    }

    /// Who offered it, in words.
    #[must_use]
    pub fn asker(&self) -> String {
        self.from.map_or_else(|| "a member of a folder that is held".to_owned(), |peer| peer.to_string())
    }

    fn changed(&self) -> Failure {
        Failure {
            exit: Exit::Refused,
            text: format!(
                "Nothing was accepted: offered now are {} {}, asked for by {}. To accept that, name it: {}",
                shown::bytes(self.limits.quota_bytes),
                self.limits.end(),
                self.asker(),
                self.id()
            ),
            missing: false,
        }
    }
}

/// How a decision of the owner ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is held from now on, within these limits.
    Accepted(FolderId, Limits),
    /// It was refused, and whoever offered it is told.
    Refused(FolderId),
    /// The folder was accepted before, and no more is asked for.
    Before(FolderId),
}

impl Holding {
    pub fn new(
        store: Arc<Store>,
        identity: Identity,
        accept: Accept,
        data: &Path,
    ) -> Result<Arc<Self>, Failure> {
        let pending = Pending::open(data)?;
        let opened = Mutex::default();
        let (node, watched, signing) = (Mutex::new(None), Mutex::default(), Mutex::default());
        let (turning, unseen) = (Mutex::default(), Mutex::default());
        Ok(Arc::new(Self {
            store,
            identity,
            data: data.to_owned(),
            accept,
            pending,
            opened,
            node,
            watched,
            signing,
            turning,
            unseen,
        }))
    }

    /// Gives every folder to the node, and keeps giving what changes.
    pub fn attach(self: &Arc<Self>, node: &Node) {
        *self.node.lock() = Some(node.clone());
        for (no, _) in self.store.folders().unwrap_or_default() {
            self.refresh(no);
        }
    }

    /// Lets the node go, so that it can end.
    pub fn detach(&self) {
        *self.node.lock() = None;
    }

    /// Follows access logs: new epochs bring new secrets, new grants bring new quotas and peers. Returns
    /// when `stop` says so.
    pub fn follow(&self, stop: &dyn Fn() -> bool) {
        let mut known: BTreeMap<FolderNo, Vec<cobox_store::id::RecordHash>> = BTreeMap::new();
        let (mut looked, mut kept) = (None::<std::time::Instant>, None::<std::time::Instant>);
        while !stop() {
            let seen = self.store.watch().seen();
            if looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
                looked = Some(std::time::Instant::now());
                self.look_at_limits();
            }
            if kept.is_none_or(|kept| kept.elapsed() >= KEEP_EVERY) {
                kept = Some(std::time::Instant::now());
                self.keep_places(Keep::Due);
            }
            for (no, _) in self.store.folders().unwrap_or_default() {
                let Ok(access) = self.store.access(no) else { continue };
                if known.get(&no) != Some(&access.heads) {
                    known.insert(no, access.heads.clone());
                    self.refresh(no);
                }
            }
            let _ = self.store.watch().wait(seen, LOOK_EVERY.min(Duration::from_millis(500)));
        }
        self.keep_last_places();
    }

    /// Whether the seeder takes part in nothing for now.
    pub fn is_paused(&self) -> bool {
        self.store.setting(STORE, PAUSED).is_ok_and(|set| set.is_some_and(|set| !set.is_empty()))
    }

    /// Stops taking part, or goes on; durable on return.
    pub(super) fn pause(&self, pause: Pause, node: &Node) -> cobox_store::error::Result<()> {
        let turning = self.turning.lock();
        self.store.setting_put(STORE, PAUSED, if pause == Pause::Begin { &[1] } else { &[] })?;
        let folders = self.store.folders()?;
        if pause == Pause::Begin {
            folders.iter().for_each(|(no, _)| node.remove_folder(*no));
            return Ok(());
        }
        drop(turning);
        folders.iter().for_each(|(no, _)| self.refresh(*no));
        Ok(())
    }

    /// Opens the folder's swarm secrets and gives them to the node.
    pub(super) fn refresh(&self, no: FolderNo) {
        let Ok(access) = self.store.access(no) else { return };
        let me = self.identity.peer().to_bytes();
        let (grant, kept) = match (access.seeder(&me), access.revoked_seeder(&me)) {
            (Some(grant), _) => (grant, self.stay(no, &access, grant)),
            (None, Some((_, grant))) => (grant, self.leave(no, Why::Revoked)),
            (None, None) => return,
        };
        if let Err(error) = kept {
            tracing::warn!(folder = %access.folder, %error, "the quota cannot be set");
        }
        let Some(node) = self.node.lock().clone() else { return };
        // A pause that begins from here on waits until the folder is there to be taken out.
        let _turning = self.turning.lock();
        if self.is_paused() {
            return;
        }
        let secrets = self.secrets(no, &access, grant);
        if secrets.is_empty() {
            tracing::warn!(folder = %access.folder, "no swarm secret of the folder opens");
            return;
        }
        node.seed_folder(no, secrets);
        self.recall_places(no, &node);
        let others = access.seeders.iter().filter(|(_, other)| other.peer_id != me);
        let peers = others
            .map(|(_, other)| SeederAddress {
                peer_id: other.peer_id.clone(),
                kem: other.kem,
                addresses: other.addresses.clone(),
            })
            .collect();
        node.set_peers(no, peers);
        node.lay_papers(no, self.papers(no, &access));
    }

    fn stay(&self, no: FolderNo, access: &Access, grant: &SeederGrant) -> cobox_store::error::Result<()> {
        let granted = Limits::of(grant);
        let granted = self.agreed_limits(no, access)?.map_or(granted, |agreed| granted.min(agreed));
        match Leaving::read(&self.store, no)? {
            // The owner let it go; what members grant does not bring it back.
            Some(Leaving { why: Why::Unseeded, .. }) => return Ok(()),
            // Its time stays over until there is more time: when the end was learned of must not move.
            Some(Leaving { why: Why::Ended, .. })
                if granted.until_ms != 0 && granted.until_ms <= crate::driver::now_ms() =>
            {
                return Ok(());
            }
            Some(_) => Leaving::forget(&self.store, no)?,
            None => {}
        }
        self.take_by_rule(no, access, granted)?;
        self.limit(no, granted)
    }

    /// Takes nothing more into a folder, and keeps what is here.
    pub(super) fn leave(&self, no: FolderNo, why: Why) -> cobox_store::error::Result<()> {
        if Leaving::read(&self.store, no)?.is_some() {
            return Ok(());
        }
        let leaving = Leaving::note(&self.store, no, crate::driver::now_ms(), why)?;
        if why == Why::Unseeded {
            self.note_let_go(no)?;
        }
        let quota_bytes = self.store.usage(no)?.quota_bytes.unwrap_or(0);
        self.store.quota_set(no, quota_bytes, leaving.since_ms.max(1))?;
        tracing::info!(no = no.0, ?why, "a folder is to be held no longer: what is here stays for now");
        Ok(())
    }

    /// Newest first: boxes of later epochs, then the grant's own.
    fn secrets(&self, no: FolderNo, access: &Access, grant: &SeederGrant) -> Vec<SwarmKey> {
        let own = self.identity.kem.public();
        let mut found: Vec<(bool, EpochId, SwarmKey)> = Vec::new();
        let open =
            |aad: &[u8; 32], sealed| self.identity.kem.open(Purpose::Swarm, access.folder, aad, sealed).ok();
        let mut opened = self.opened.lock();
        for (epoch, (record, _)) in &access.epochs {
            let secret = opened.entry((no, *epoch)).or_insert_with(|| {
                let mut boxes = record.swarm_boxes.iter().filter(|key_box| key_box.recipient == own);
                // The record that begins an epoch cannot name its own id.
                boxes.find_map(|key_box| open(&record.commit, &key_box.sealed))
            });
            if let Some(secret) = secret {
                found.push((!access.epoch_heads.contains(epoch), *epoch, secret.clone()));
            }
        }
        drop(opened);
        let granted = access.seeders.iter().map(|(_, granted)| granted);
        let revoked = access.revoked.iter().map(|(_, granted)| granted);
        for granted in granted.chain(revoked).filter(|other| other.peer_id == grant.peer_id) {
            let epoch = granted.swarm_epoch;
            if let Some(secret) = open(&epoch.0, &granted.swarm_box) {
                found.push((!access.epoch_heads.contains(&epoch), epoch, secret));
            }
        }
        found.sort_by_key(|(old, epoch, _)| (*old, *epoch));
        let mut secrets: Vec<SwarmKey> = Vec::new();
        for (_, _, secret) in found {
            if !secrets.iter().any(|known| **known == *secret) {
                secrets.push(secret);
            }
        }
        secrets
    }

    /// Decides on an offered grant.
    pub fn decide(&self, from: PeerId, records: Vec<Record>) -> Option<(FolderId, GrantAnswer)> {
        let folder = records.first()?.folder();
        let Some(grant) = self.check(folder, &records) else { return Some((folder, GrantAnswer::Refused)) };
        let offer = self.offered(folder, from, &records)?;
        let held = self.store.folder_no(folder).ok();
        let given = self.given(held).ok()?;
        let let_go = held.map(|no| self.is_let_go(no)).transpose().ok()?.unwrap_or(false);
        let fresh = held.is_none() || (self.accept == Accept::Any && !let_go);
        if fresh && self.accept.takes(offer.limits, offer.terms.as_ref(), given, crate::driver::now_ms()) {
            let answer = self.import_or_refuse(&records, Some(offer.limits));
            if let (GrantAnswer::Accepted, Some(terms), Ok(no)) =
                (answer, &offer.terms, self.store.folder_no(folder))
                && let Err(error) = self.sign(no, terms)
            {
                tracing::warn!(%error, "terms cannot be signed");
            }
            return Some((folder, answer));
        }
        if self.store.folder_no(folder).is_ok() {
            return Some((folder, self.import_or_refuse(&records, None)));
        }
        tracing::info!(%folder, quota = grant.quota_bytes, "a grant waits for the owner");
        match self.pending.keep(folder, self.first_asker(folder, from, &grant), &records) {
            Ok(()) => Some((folder, GrantAnswer::Pending)),
            Err(error) => {
                tracing::warn!(%error, "a grant cannot be kept");
                Some((folder, GrantAnswer::Refused))
            }
        }
    }

    /// Who is shown as the asker of an offer: whoever made it first, as long as its terms are the same. Several
    /// members and seeders offer one grant, and its id must not change with each of them.
    fn first_asker(&self, folder: FolderId, from: PeerId, grant: &SeederGrant) -> PeerId {
        let waiting = self.pending.read(folder).and_then(|(first, records)| {
            (Limits::of(&self.check(folder, &records)?) == Limits::of(grant)).then_some(first)
        });
        waiting.unwrap_or(from)
    }

    /// The grant to us in these records, if its box opens; all records are of one folder.
    fn check(&self, folder: FolderId, records: &[Record]) -> Option<SeederGrant> {
        let me = self.identity.peer().to_bytes();
        if !records.iter().all(|record| record.folder() == folder) {
            return None;
        }
        records.iter().rev().filter_map(|record| record.content().act.grant()).find_map(|grant| {
            let ours = grant.peer_id == me && grant.kem == self.identity.kem.public();
            let opens = || {
                let kem = &self.identity.kem;
                kem.open(Purpose::Swarm, folder, &grant.swarm_epoch.0, &grant.swarm_box).is_ok()
            };
            (ours && opens()).then(|| grant.clone())
        })
    }

    /// What these records ask for: terms where some were proposed, else what the grant says.
    fn offered(&self, folder: FolderId, from: PeerId, records: &[Record]) -> Option<PendingGrant> {
        let grant = self.check(folder, records)?;
        let terms = records.iter().rev().find_map(|record| match &record.content().act {
            Act::Propose(terms) if terms.seeder == grant.peer_id => Some(terms.clone()),
            _ => None,
        });
        let limits = terms.as_ref().map_or_else(|| Limits::of(&grant), Limits::of_terms);
        Some(PendingGrant { folder, from: Some(from), limits, terms })
    }

    /// The limits of the grant to us in these records.
    pub(super) fn asked_by(&self, folder: FolderId, records: &[Record]) -> Option<Limits> {
        self.check(folder, records).map(|grant| Limits::of(&grant))
    }

    fn import_or_refuse(&self, records: &[Record], accepted: Option<Limits>) -> GrantAnswer {
        self.import(records, accepted).unwrap_or_else(|error| {
            tracing::warn!(%error, "a grant cannot be taken");
            GrantAnswer::Refused
        })
    }

    /// Takes records, and what the owner accepted with them. Refused are those that grant us nothing.
    pub(super) fn import(
        &self,
        records: &[Record],
        accepted: Option<Limits>,
    ) -> cobox_store::error::Result<GrantAnswer> {
        let Some((genesis, rest)) = records.split_first() else {
            return Err(cobox_store::Error::Premature);
        };
        let no = self.store.folder_add(genesis)?;
        if let Some(accepted) = accepted {
            accepted.keep(&self.store, no, Kept::Accepted)?;
        }
        for record in rest {
            self.store.access_add(no, record)?;
        }
        let granted = self.store.access(no)?.seeder(&self.identity.peer().to_bytes()).is_some();
        self.refresh(no);
        Ok(if granted { GrantAnswer::Accepted } else { GrantAnswer::Refused })
    }

    /// The one folder whose id begins so.
    ///
    /// # Errors
    /// When not exactly one does.
    pub fn folder_named(&self, start: &str) -> Result<FolderId, Failure> {
        let all = self.store.folders()?.into_iter().map(|(_, folder)| folder);
        let mut fitting = all.filter(|folder| !start.is_empty() && folder.to_hex().starts_with(start));
        match (fitting.next(), fitting.next()) {
            (Some(folder), None) => Ok(folder),
            _ => Err(Failure::missing(format!(
                "No single folder's id begins with {start:?}. See: cobox-seeder status"
            ))),
        }
    }

    /// Grants that wait.
    pub fn list_pending(&self) -> Vec<PendingGrant> {
        let offers = self.pending.folders().into_iter().filter_map(|folder| {
            let (from, records) = self.pending.read(folder)?;
            self.offered(folder, from, &records)
        });
        let mut list: Vec<PendingGrant> = offers.collect();
        for (no, folder) in self.store.folders().unwrap_or_default() {
            if list.iter().any(|pending| pending.folder == folder) {
                continue;
            }
            let terms =
                self.store.access(no).and_then(|access| self.waiting_terms(no, &access)).ok().flatten();
            let limits = terms.as_ref().map(Limits::of_terms).or_else(|| self.raise(no));
            if let Some(limits) = limits {
                list.push(PendingGrant { folder, from: None, limits, terms });
            }
        }
        list.sort_by_key(|pending| pending.folder);
        list
    }

    /// Takes or refuses a pending grant. To take one, `id` is its whole [`PendingGrant::id`]: what changed
    /// since it was listed has another. To refuse, the beginning of the folder's id does.
    ///
    /// # Errors
    /// When not exactly one grant fits, its terms are others by now, or it could not be taken.
    pub fn settle(&self, id: &str, answer: GrantAnswer) -> Result<Settled, Failure> {
        let (start, terms) = id.split_once('-').map_or((id, None), |(start, terms)| (start, Some(terms)));
        let all = self.list_pending();
        let fits = |folder: &FolderId| !start.is_empty() && folder.to_hex().starts_with(start);
        let mut fitting = all.iter().filter(|pending| fits(&pending.folder));
        let (Some(pending), None) = (fitting.next(), fitting.next()) else {
            let held = self.store.folders()?;
            let mut held = held.iter().map(|(_, folder)| *folder).filter(fits);
            return match (all.iter().any(|pending| fits(&pending.folder)), held.next(), held.next()) {
                (false, Some(folder), None) if answer == GrantAnswer::Accepted => Ok(Settled::Before(folder)),
                _ => Err(Failure::missing(format!(
                    "No single pending grant is named {id:?}. See: cobox-seeder pending"
                ))),
            };
        };
        if answer == GrantAnswer::Accepted && terms != Some(pending.digest().as_str()) {
            return Err(pending.changed());
        }
        match pending.from {
            Some(from) => self.settle_offer(from, pending, answer)?,
            None => self.settle_raise(pending, answer)?,
        }
        Ok(match answer {
            GrantAnswer::Accepted => Settled::Accepted(pending.folder, pending.limits),
            _ => Settled::Refused(pending.folder),
        })
    }

    fn settle_offer(&self, from: PeerId, pending: &PendingGrant, answer: GrantAnswer) -> Result<(), Failure> {
        let folder = pending.folder;
        let mut taken = answer;
        if answer == GrantAnswer::Accepted {
            // Another offer may have come since it was listed a moment ago.
            let offered = self
                .pending
                .read(folder)
                .and_then(|(from, records)| Some((self.offered(folder, from, &records)?, records)));
            let Some((now, records)) = offered else {
                return Err(Failure::failed("The grant is not there any more. See: cobox-seeder pending"));
            };
            if now.digest() != pending.digest() {
                return Err(now.changed());
            }
            // Where the store fails, the grant goes on waiting.
            taken = self.import(&records, Some(pending.limits))?;
            if let (GrantAnswer::Accepted, Some(terms)) = (taken, &pending.terms) {
                let no = self.store.folder_no(folder)?;
                self.sign(no, terms)?;
                self.refresh(no);
            }
        }
        if let Err(error) = self.pending.remove(folder) {
            tracing::warn!(%error, "a settled grant cannot be removed");
        }
        if let Some(node) = self.node.lock().clone() {
            node.grant_decided(from, folder, taken);
        }
        if taken != answer {
            return Err(Failure {
                exit: Exit::Refused,
                text: "Nothing was accepted: the grant does not hold, since whoever wrote it may not grant, or took it back."
                    .to_owned(), missing: false });
        }
        Ok(())
    }

    /// Raises what a held folder may take, or remembers that the owner did not want to.
    fn settle_raise(&self, pending: &PendingGrant, answer: GrantAnswer) -> Result<(), Failure> {
        let no = self.store.folder_no(pending.folder)?;
        let accepted = answer == GrantAnswer::Accepted;
        match &pending.terms {
            Some(terms) if accepted => self.sign(no, terms)?,
            Some(terms) => self.decline(no, terms)?,
            None => {}
        }
        if accepted || pending.terms.is_none() {
            let kept = if accepted { Kept::Accepted } else { Kept::Refused };
            pending.limits.keep(&self.store, no, kept)?;
        }
        if accepted {
            Leaving::forget(&self.store, no)?;
        } else if self.is_let_go(no)? {
            self.note_let_go(no)?;
        }
        self.refresh(no);
        Ok(())
    }
}
