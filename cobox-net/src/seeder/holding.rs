//! What a seeder holds: which grants it takes, its folders' secrets and peers, and what people may ask.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cobox_store::blind::kembox::Purpose;
use cobox_store::blind::{Access, Store};
use cobox_store::format::Writer;
use cobox_store::format::access::{Act, Record, SeederGrant};
use cobox_store::format::address::SeederAddress;
use cobox_store::id::{EpochId, FolderId, FolderNo};
use parking_lot::Mutex;

use super::identity::Identity;
use super::limits::{Kept, Limits};
use super::pending::Pending;
use super::{Accept, Exit, Failure};
use crate::node::{Node, SwarmKey};
use crate::peer_id::PeerId;
use crate::shown;
use crate::wire::GrantAnswer;

/// How often expired grants and new records are looked for when nothing wakes us.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A seeder's state beside the store.
pub struct Holding {
    pub store: Arc<Store>,
    pub identity: Identity,
    accept: Accept,
    pending: Pending,
    /// Swarm secrets of epochs, and that there is none: opening a box costs far more than finding it here.
    opened: Mutex<HashMap<(FolderNo, EpochId), Option<SwarmKey>>>,
    node: Mutex<Option<Node>>,
}

/// A grant that waits for the owner.
#[derive(Debug, Clone)]
pub struct PendingGrant {
    pub folder: FolderId,
    /// Who offered it; `None` for a higher limit of a folder that is held: any member may have written it.
    pub from: Option<PeerId>,
    pub limits: Limits,
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
        format!("{}-{}", folder.get(..ID_FOLDER_LETTERS).unwrap_or(&folder), self.terms())
    }

    fn terms(&self) -> String {
        let mut writer = Writer::new();
        writer.fixed(&self.folder.0);
        writer.bytes16(&self.from.map(|peer| peer.to_bytes()).unwrap_or_default());
        writer.u64(self.limits.quota_bytes);
        writer.u64(self.limits.until_ms);
        let mut hash = cobox_store::id::hex(&cobox_store::id::hash(&writer.into_bytes()));
        hash.truncate(ID_TERMS_LETTERS);
        hash
    }

    /// When it ends, in words.
    #[must_use]
    pub fn end(&self) -> String {
        match self.limits.until_ms {
            0 => "without an end".to_owned(),
            ms => format!("until {}", shown::time(ms)),
        }
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
                self.end(),
                self.asker(),
                self.id()
            ),
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
        Ok(Arc::new(Self { store, identity, accept, pending, opened, node: Mutex::new(None) }))
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
        while !stop() {
            let seen = self.store.watch().seen();
            for (no, _) in self.store.folders().unwrap_or_default() {
                let Ok(access) = self.store.access(no) else { continue };
                if known.get(&no) != Some(&access.heads) {
                    known.insert(no, access.heads.clone());
                    self.refresh(no);
                }
            }
            let _ = self.store.watch().wait(seen, LOOK_EVERY.min(Duration::from_millis(500)));
        }
    }

    /// Opens the folder's swarm secrets and gives them to the node.
    fn refresh(&self, no: FolderNo) {
        let Ok(access) = self.store.access(no) else { return };
        let me = self.identity.peer().to_bytes();
        let Some(grant) = access.seeder(&me) else { return };
        if let Err(error) = self.limit(no, Limits::of(grant)) {
            tracing::warn!(folder = %access.folder, %error, "the quota cannot be set");
        }
        let Some(node) = self.node.lock().clone() else { return };
        let secrets = self.secrets(no, &access, grant);
        if secrets.is_empty() {
            tracing::warn!(folder = %access.folder, "no swarm secret of the folder opens");
            return;
        }
        node.seed_folder(no, secrets);
        let others = access.seeders.iter().filter(|(_, other)| other.peer_id != me);
        let peers = others
            .map(|(_, other)| SeederAddress {
                peer_id: other.peer_id.clone(),
                kem: other.kem,
                addresses: other.addresses.clone(),
            })
            .collect();
        node.set_peers(no, peers);
    }

    /// Holds a folder to what its owner accepted and its newest grant says, whichever is less.
    fn limit(&self, no: FolderNo, granted: Limits) -> cobox_store::error::Result<()> {
        let accepted = match self.accept {
            Accept::Any => granted,
            Accept::Owner => self.accepted(no)?,
        };
        accepted.keep(&self.store, no, Kept::Accepted)?;
        let limits = accepted.min(granted);
        if limits != granted {
            tracing::info!(no = no.0, granted = granted.quota_bytes, "a higher limit waits for the owner");
        }
        self.store.quota_set(no, limits.quota_bytes, limits.until_ms)
    }

    /// What the owner accepted: nothing, when a crash came between the folder and its acceptance.
    fn accepted(&self, no: FolderNo) -> cobox_store::error::Result<Limits> {
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

    /// What the newest grant of a held folder asks for beyond what its owner accepted.
    fn raise(&self, no: FolderNo) -> Option<Limits> {
        let access = self.store.access(no).ok()?;
        let granted = Limits::of(access.seeder(&self.identity.peer().to_bytes())?);
        let accepted = self.accepted(no).ok()?;
        let refused = Limits::read(&self.store, no, Kept::Refused).ok()?;
        (accepted.min(granted) != granted && refused != Some(granted)).then_some(granted)
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
        for (_, granted) in access.seeders.iter().filter(|(_, other)| other.peer_id == grant.peer_id) {
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
        if self.accept == Accept::Any {
            return Some((folder, self.import_or_refuse(&records, Some(Limits::of(&grant)))));
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
        records.iter().rev().find_map(|record| match &record.content().act {
            Act::GrantSeeder(grant) if grant.peer_id == me && grant.kem == self.identity.kem.public() => {
                let opens = self
                    .identity
                    .kem
                    .open(Purpose::Swarm, folder, &grant.swarm_epoch.0, &grant.swarm_box)
                    .is_ok();
                opens.then(|| grant.clone())
            }
            _ => None,
        })
    }

    fn import_or_refuse(&self, records: &[Record], accepted: Option<Limits>) -> GrantAnswer {
        self.import(records, accepted).unwrap_or_else(|error| {
            tracing::warn!(%error, "a grant cannot be taken");
            GrantAnswer::Refused
        })
    }

    /// Takes records, and what the owner accepted with them. Refused are those that grant us nothing.
    fn import(
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

    /// Grants that wait.
    pub fn list_pending(&self) -> Vec<PendingGrant> {
        let offers = self.pending.folders().into_iter().filter_map(|folder| {
            let (from, records) = self.pending.read(folder)?;
            let grant = self.check(folder, &records)?;
            Some(PendingGrant { folder, from: Some(from), limits: Limits::of(&grant) })
        });
        let mut list: Vec<PendingGrant> = offers.collect();
        for (no, folder) in self.store.folders().unwrap_or_default() {
            if !list.iter().any(|pending| pending.folder == folder)
                && let Some(limits) = self.raise(no)
            {
                list.push(PendingGrant { folder, from: None, limits });
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
                _ => Err(Failure::failed(format!(
                    "No single pending grant is named {id:?}. See: cobox-seeder pending"
                ))),
            };
        };
        if answer == GrantAnswer::Accepted && terms != Some(pending.terms().as_str()) {
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
            let offered = self.pending.read(folder).and_then(|(from, records)| {
                let limits = Limits::of(&self.check(folder, &records)?);
                Some((PendingGrant { folder, from: Some(from), limits }, records))
            });
            let Some((now, records)) = offered else {
                return Err(Failure::failed("The grant is not there any more. See: cobox-seeder pending"));
            };
            if now.terms() != pending.terms() {
                return Err(now.changed());
            }
            // Where the store fails, the grant goes on waiting.
            taken = self.import(&records, Some(pending.limits))?;
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
                    .to_owned(),
            });
        }
        Ok(())
    }

    /// Raises what a held folder may take, or remembers that the owner did not want to.
    fn settle_raise(&self, pending: &PendingGrant, answer: GrantAnswer) -> Result<(), Failure> {
        let no = self.store.folder_no(pending.folder)?;
        let kept = if answer == GrantAnswer::Accepted { Kept::Accepted } else { Kept::Refused };
        pending.limits.keep(&self.store, no, kept)?;
        self.refresh(no);
        Ok(())
    }
}
