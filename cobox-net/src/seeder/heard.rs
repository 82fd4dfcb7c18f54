//! When a seeder last heard of a folder's members, and when their silence is told to its owner.
//!
//! Kept in memory, and on the disk once an hour at the most: after a restart it is known to the hour. Silence is
//! counted only while the seeder runs and takes part, since it could not have heard anybody before.

use cobox_store::blind::Store;
use cobox_store::error::Result;
use cobox_store::format::{Reader, Writer};
use cobox_store::id::{FolderId, FolderNo};

use super::holding::Holding;
use crate::SessionState;
use crate::nearing::Told;
use crate::shown;
use crate::status::{NetStatus, PeerKind};

/// A folder's setting: u64, milliseconds since 1970.
const HEARD: &str = "seeder-heard";
/// How exactly that is on the disk: each time is a write.
const STEP_MS: u64 = 60 * 60 * 1000;
/// Proofs may be asked for late once; after so many rhythms without anybody it is silence.
const RHYTHMS: u64 = 2;

/// What a seeder remembers of a folder while it runs, to tell its owner once.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Watched {
    /// What was told of quota and end.
    pub limits: Told,
    /// When a member had a session open.
    heard_ms: Option<u64>,
    /// What of that is on the disk.
    kept_ms: Option<u64>,
    /// Since when somebody could have been heard.
    since_ms: Option<u64>,
    /// Whether it was told that nobody is.
    silent: bool,
}

impl Watched {
    fn is_silent(&self, audit_ms: u64, now_ms: u64) -> bool {
        let Some(since_ms) = self.since_ms.max(self.heard_ms) else { return false };
        now_ms.saturating_sub(since_ms) > audit_ms.saturating_mul(RHYTHMS)
    }

    /// What was told and holds, as words for programs.
    pub fn words(&self) -> Vec<&'static str> {
        let mut words = self.limits.words();
        words.extend(self.silent.then_some("silent"));
        words
    }
}

/// When members were last heard of by what is on the disk.
pub(super) fn kept(store: &Store, no: FolderNo) -> Result<Option<u64>> {
    let Some(bytes) = store.setting(no, HEARD)? else { return Ok(None) };
    let mut reader = Reader::new(&bytes);
    let heard_ms = reader.u64("heard")?;
    reader.finish()?;
    Ok(Some(heard_ms))
}

/// Whether a member's device is there; another seeder is not one.
pub(super) fn is_heard(status: &NetStatus) -> bool {
    let open = |peer: &&crate::PeerStatus| peer.session == SessionState::Open;
    status.peers.iter().filter(open).any(|peer| peer.kind == PeerKind::Member)
}

impl Holding {
    /// When a member of the folder was last heard of.
    pub(super) fn heard_ms(&self, no: FolderNo) -> Result<Option<u64>> {
        let heard_ms = self.watched.lock().get(&no).and_then(|watched| watched.heard_ms);
        heard_ms.map_or_else(|| kept(&self.store, no), |heard_ms| Ok(Some(heard_ms)))
    }

    /// A member has a session open.
    pub(super) fn hear(&self, no: FolderNo, now_ms: u64) -> Result<()> {
        let known = self.watched.lock().get(&no).and_then(|watched| watched.kept_ms);
        let before = known.map_or_else(|| kept(&self.store, no), |known| Ok(Some(known)))?;
        let keep = {
            let mut watched = self.watched.lock();
            let watched = watched.entry(no).or_default();
            (watched.heard_ms, watched.kept_ms) = (Some(now_ms), before);
            let keep = watched.kept_ms.is_none_or(|kept_ms| now_ms.abs_diff(kept_ms) >= STEP_MS);
            if keep {
                watched.kept_ms = Some(now_ms);
            }
            keep
        };
        if keep {
            let mut writer = Writer::new();
            writer.u64(now_ms);
            self.store.setting_put(no, HEARD, &writer.into_bytes())?;
        }
        Ok(())
    }

    /// Nobody can be heard for now: silence counts from here.
    pub(super) fn deafen(&self, no: FolderNo, now_ms: u64) {
        let mut watched = self.watched.lock();
        let watched = watched.entry(no).or_default();
        (watched.since_ms, watched.silent) = (Some(now_ms), false);
    }

    /// Warns the owner, once, of a folder whose members let the agreed rhythm of audits pass twice without a word.
    pub(super) fn look_at_silence(&self, no: FolderNo, folder: FolderId, now_ms: u64) -> Result<()> {
        let audit_ms = self.binding(no)?.map(|view| view.audit_ms);
        let (was, silent, heard_ms) = {
            let mut watched = self.watched.lock();
            let watched = watched.entry(no).or_default();
            watched.since_ms = watched.since_ms.or(Some(now_ms));
            let was = watched.silent;
            watched.silent = audit_ms.is_some_and(|audit_ms| watched.is_silent(audit_ms, now_ms));
            (was, watched.silent, watched.heard_ms)
        };
        if silent && !was {
            tracing::warn!(%folder, heard_ms, audit_ms, "no member of a folder was heard of for two agreed rhythms of audits");
        } else if was && !silent && heard_ms.is_some() {
            tracing::info!(%folder, "a member of a folder is heard of again");
        }
        Ok(())
    }

    /// Silence that was told, in a sentence.
    pub(super) fn silence_text(&self, no: FolderNo) -> Result<Option<String>> {
        if !self.watched.lock().get(&no).is_some_and(|watched| watched.silent) {
            return Ok(None);
        }
        let Some(view) = self.binding(no)? else { return Ok(None) };
        let since = match self.heard_ms(no)? {
            Some(heard_ms) => format!("since {}", shown::time(heard_ms)),
            None => "yet".to_owned(),
        };
        let ask = match view.member_contact.as_str() {
            "" => String::new(),
            contact => format!(": ask {contact}"),
        };
        let every = shown::span(view.audit_ms);
        Ok(Some(format!(
            "no member was heard of {since}, and proofs were to be asked for every {every}{ask}"
        )))
    }

    /// What was told of folders and holds, as words for programs.
    pub(super) fn told_words(&self) -> Vec<(FolderNo, &'static str)> {
        let watched = self.watched.lock();
        watched.iter().flat_map(|(no, watched)| watched.words().into_iter().map(|word| (*no, word))).collect()
    }
}

#[cfg(test)]
mod tests {
    use cobox_store::format::access::Act;

    use super::super::Accept;
    use super::super::limits::Limits;
    use super::super::testing::{Folder, Scene};
    use super::*;

    const HOUR: u64 = 60 * 60 * 1000;
    const DAY: u64 = 24 * HOUR;
    const START: u64 = 20_000 * DAY;

    fn agreed() -> (Scene, Folder, FolderNo) {
        let scene = Scene::new(Accept::Any);
        let mut folder = Folder::new(1).grant(&scene, Limits { quota_bytes: 200, until_ms: 0 });
        scene.offer(&folder);
        let signed = scene.signed(&folder, 100, HOUR);
        folder.sign(Act::Agree(signed));
        let no = scene.learn(&folder);
        (scene, folder, no)
    }

    #[test]
    fn members_that_miss_two_audits_are_told_once_until_they_speak() {
        let (scene, folder, no) = agreed();
        let holding = &scene.holding;
        let silent = |now_ms| {
            holding.look_at_silence(no, folder.id(), now_ms).expect("looks");
            holding.told_words().contains(&(no, "silent"))
        };
        // Audits are daily. Before the seeder ran nobody could be heard.
        assert!(!silent(START));
        assert!(!silent(START + 2 * DAY));
        assert!(silent(START + 2 * DAY + 1));
        assert!(holding.warnings(no).expect("reads").iter().any(|said| said.contains("heard of yet")));
        holding.hear(no, START + 3 * DAY).expect("notes");
        assert!(!silent(START + 5 * DAY));
        assert!(silent(START + 5 * DAY + 1));
        let said = holding.warnings(no).expect("reads");
        assert!(said.iter().any(|said| said.contains("every 1 day")), "{said:?}");
        // While it is paused it hears nobody.
        holding.deafen(no, START + 6 * DAY);
        assert!(!silent(START + 8 * DAY));
    }

    #[test]
    fn what_was_heard_is_on_the_disk_to_the_hour() {
        let (scene, _, no) = agreed();
        let holding = &scene.holding;
        assert_eq!(holding.heard_ms(no).expect("reads"), None);
        for (at_ms, on_disk) in [(START, START), (START + HOUR - 1, START), (START + HOUR, START + HOUR)] {
            holding.hear(no, at_ms).expect("notes");
            assert_eq!(holding.heard_ms(no).expect("reads"), Some(at_ms));
            assert_eq!(kept(&holding.store, no).expect("reads"), Some(on_disk));
        }
    }
}
