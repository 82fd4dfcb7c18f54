//! Files that will be read soon because those before them were: their packs are asked for before somebody waits.
//!
//! Who copies a directory out of a mount reads its files in the order in which they are listed, one after the other. On
//! a device that has names only, each small file would wait for its pack by itself. What is asked for here nobody
//! waits for, and it comes after what somebody does.

use std::time::{Duration, Instant};

use cobox_store::Error;
use cobox_store::blind::PackStatus;
use cobox_store::format::content::{ChunkRef, Content, Extent};
use cobox_store::format::op::Kind;
use cobox_store::id::Ino;

use super::Vfs;
use crate::tree::row::SlotHash;
use crate::tree::{Row, RowKey, names};

/// Files that are asked for at a time.
const FILES: usize = 128;
/// Their bytes: what one pack of the usual size holds, and so little that a reader who stops has lost nothing.
const BYTES: u64 = 8 * 1024 * 1024;
/// A reader who pauses longer is another one.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Where in which directory a reader waited last, and up to where files beside it were asked for.
pub struct Waited {
    dir: Ino,
    at: SlotHash,
    asked: SlotHash,
    when: Instant,
}

impl Waited {
    /// Whether a reader who waits at `at` goes on with what `before` tells of; up to where it was served then.
    fn goes_on(before: Option<&Self>, dir: Ino, at: SlotHash) -> Option<SlotHash> {
        before
            .filter(|before| before.dir == dir && before.at < at && before.when.elapsed() < PAUSE_MAX)
            .map(|before| before.asked)
    }
}

impl Vfs {
    /// A reader waits for the file `ino`. If it waited for one before it in the same directory, asks for those that
    /// follow.
    pub(super) fn ask_beside(&self, ino: Ino) {
        if let Err(error) = self.try_ask_beside(ino) {
            tracing::debug!(%error, "files beside one that is read were not asked for");
        }
    }

    fn try_ask_beside(&self, ino: Ino) -> Result<(), Error> {
        let Some(node) = self.view(|view| view.node(ino))? else { return Ok(()) };
        let Some(link) = node.links.first() else { return Ok(()) };
        let Some(Row::Link(row)) = self.rows.get(&RowKey::Link(*link))? else { return Ok(()) };
        let Some(place) = row.place() else { return Ok(()) };
        let name_key = names::name_key(&place.name, self.policy.case);
        let (dir, at) = (place.parent, SlotHash(self.folder.local().name_hash(&place.parent, &name_key)));
        let mut waited = self.waited.lock();
        let before = Waited::goes_on(waited.as_ref(), dir, at);
        let asked = before.map_or(at, |asked| asked.max(at));
        *waited = Some(Waited { dir, at, asked, when: Instant::now() });
        if before.is_none() || asked > at {
            return Ok(());
        }
        drop(waited);
        let (slots, mut bytes) = (self.rows.slots(dir, at.0, FILES)?, 0);
        for (hash, slot) in slots {
            if hash <= at {
                continue;
            }
            for entry in slot.entries.iter().filter(|entry| entry.kind == Kind::File) {
                if let Some(node) = self.view(|view| view.node(entry.ino))? {
                    bytes += node.shown_content().size();
                    self.want_absent(&node.shown_content())?;
                }
            }
            if let Some(waited) = self.waited.lock().as_mut().filter(|waited| waited.dir == dir) {
                waited.asked = waited.asked.max(hash);
            }
            if bytes >= BYTES {
                break;
            }
        }
        Ok(())
    }

    fn want_absent(&self, content: &Content) -> Result<(), Error> {
        let chunks: Vec<ChunkRef> = match content {
            Content::Inline(_) => Vec::new(),
            Content::Extents(extents) => {
                let data = |extent: &Extent| {
                    if let Extent::Data { chunk, .. } = extent { Some(*chunk) } else { None }
                };
                extents.iter().filter_map(data).collect()
            }
            // Where it begins; what follows is asked for as it is read.
            Content::Tree { root, .. } => vec![*root],
        };
        let (store, no) = (self.folder.store(), self.folder.no());
        for chunk in chunks {
            let Some(pack) = self.folder.pack_of(chunk)? else { continue };
            if matches!(store.pack_status(no, pack)?, PackStatus::Missing(_)) {
                store.want(no, pack);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reader_who_goes_on_in_one_directory_is_served_ahead_and_another_is_not() {
        let slot = |byte| SlotHash([byte; 16]);
        let dir = Ino([1; 16]);
        assert_eq!(Waited::goes_on(None, dir, slot(5)), None);
        let before = Waited { dir, at: slot(5), asked: slot(9), when: Instant::now() };
        assert_eq!(Waited::goes_on(Some(&before), dir, slot(7)), Some(slot(9)));
        assert_eq!(Waited::goes_on(Some(&before), dir, slot(5)), None);
        assert_eq!(Waited::goes_on(Some(&before), dir, slot(4)), None);
        assert_eq!(Waited::goes_on(Some(&before), Ino([2; 16]), slot(7)), None);
    }
}
