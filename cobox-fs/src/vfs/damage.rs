//! Which files damage is in: for people, who know files and not packs.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use cobox_store::format::content::{ChunkRef, Content, Extent};
use cobox_store::format::op::Kind;
use cobox_store::id::{Ino, PackId};

use super::{Errno, Vfs, content};
use crate::tree::names;
use crate::tree::{Shown, Version};

/// Slots that are read at a time, in each directory on the way: what a walk keeps in memory.
const SLOTS_READ: usize = 256;

/// What damage is to a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Harm {
    /// It needs bytes that were damaged, and all of them are here again.
    Mended,
    /// Some of its bytes are not sound on this device.
    Damaged,
}

/// Slices in which damage was found, ascending, by pack.
pub type HurtSlices = BTreeMap<PackId, Vec<u64>>;

/// A directory that is being walked.
struct Walk {
    dir: Ino,
    path: Vec<u8>,
    /// Where its slots go on; `None` after the last.
    from: Option<[u8; 16]>,
    /// Those of its names that were read and not looked at.
    names: Vec<Shown>,
}

impl Vfs {
    /// Calls `visit` with the path, from the root and without a slash before it, of each file whose content
    /// needs one of the slices `hurt`: what was found damaged, and may have been fetched again since; and whether it
    /// was. A file of the same packs whose bytes are not here counts as damaged as well. Memory depends on the depth of
    /// the tree.
    ///
    /// # Errors
    /// `EIO` when the tree cannot be read.
    pub fn files_hurt(
        &self,
        hurt: &HurtSlices,
        visit: &mut dyn FnMut(&[u8], Harm) -> ControlFlow<()>,
    ) -> Result<(), Errno> {
        let mut way = vec![Walk { dir: Ino::ROOT, path: Vec::new(), from: Some([0; 16]), names: Vec::new() }];
        while let Some(walk) = way.last_mut() {
            let Some(shown) = walk.names.pop() else {
                let Some(from) = walk.from else {
                    way.pop();
                    continue;
                };
                (walk.names, walk.from) = self.page(walk.dir, from)?;
                continue;
            };
            let mut path = walk.path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&shown.name);
            match shown.kind {
                Kind::Dir => {
                    way.push(Walk { dir: shown.ino, path, from: Some([0; 16]), names: Vec::new() });
                }
                Kind::File => {
                    let harm = self.harm_to(&shown, hurt)?;
                    if harm.is_some_and(|harm| visit(&path, harm).is_break()) {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Some names of a directory, and where they go on.
    fn page(&self, dir: Ino, from: [u8; 16]) -> Result<(Vec<Shown>, Option<[u8; 16]>), Errno> {
        let slots = self.rows.slots(dir, from, SLOTS_READ)?;
        let next = slots.last().and_then(|(last, _)| u128::from_be_bytes(last.0).checked_add(1));
        let next = next.filter(|_| slots.len() == SLOTS_READ).map(u128::to_be_bytes);
        let mut found = Vec::new();
        for (_, slot) in &slots {
            found.extend(self.view(|view| view.visible_names(dir, slot))?);
        }
        found.retain(|shown| dir != Ino::ROOT || shown.name != names::RESERVED_NAME);
        Ok((found, next))
    }

    fn content_shown(&self, shown: &Shown) -> Result<Option<Content>, Errno> {
        Ok(match shown.version {
            Version::Winner => self.view(|view| view.node(shown.ino))?.map(|node| node.shown_content()),
            Version::Conflict(head) => self.view(|view| view.head(shown.ino, head))?.map(|head| head.content),
        })
    }

    fn harm_to(&self, shown: &Shown, hurt: &HurtSlices) -> Result<Option<Harm>, Errno> {
        let Some(content) = self.content_shown(shown)? else { return Ok(None) };
        let mut worst = match &content {
            Content::Tree { root, .. } => self.harm_in(*root, hurt)?,
            _ => None,
        };
        if worst == Some(Harm::Damaged) {
            return Ok(worst);
        }
        let mut problem = None;
        let read = self.with_io(|io| {
            content::extents_in(io, &content, 0..content.size(), &mut |_, extent| {
                if let (Extent::Data { chunk, .. }, false) = (extent, worst == Some(Harm::Damaged)) {
                    match self.harm_in(chunk, hurt) {
                        Ok(found) => worst = worst.max(found),
                        Err(error) => problem = Some(error),
                    }
                }
            })
        });
        match (problem, read) {
            (Some(error), _) => Err(error),
            // A node that cannot be read is damage as far as this device knows, or lies elsewhere.
            (None, Err(cobox_store::Error::PackDamaged(_))) => Ok(Some(Harm::Damaged)),
            (None, _) => Ok(worst),
        }
    }

    fn harm_in(&self, chunk: ChunkRef, hurt: &HurtSlices) -> Result<Option<Harm>, Errno> {
        let Some((pack, needed)) = self.folder.slices_of(chunk)? else { return Ok(None) };
        let Some(slices) = hurt.get(&pack) else { return Ok(None) };
        if !self.folder.is_whole_here(chunk)? {
            return Ok(Some(Harm::Damaged));
        }
        Ok(slices.iter().any(|index| needed.contains(index)).then_some(Harm::Mended))
    }
}
