//! Which files damage is in: for people, who know files and not packs.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use cobox_store::format::content::{Content, Extent};
use cobox_store::format::op::Kind;
use cobox_store::id::{Ino, PackId};

use super::{Errno, Vfs, content};
use crate::tree::names;
use crate::tree::{Shown, Version};

/// Slots that are read at a time, in each directory on the way: what a walk keeps in memory.
const SLOTS_READ: usize = 256;

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
    /// needs bytes of `packs` that are not sound on this device. Memory depends on the depth of the tree.
    ///
    /// # Errors
    /// `EIO` when the tree cannot be read.
    pub fn files_without(
        &self,
        packs: &BTreeSet<PackId>,
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
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
                Kind::File if self.lacks(&shown, packs)? && visit(&path).is_break() => return Ok(()),
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

    fn lacks(&self, shown: &Shown, packs: &BTreeSet<PackId>) -> Result<bool, Errno> {
        let Some(content) = self.content_shown(shown)? else { return Ok(false) };
        if let Content::Tree { root, .. } = &content
            && self.is_hurt(*root, packs)?
        {
            return Ok(true);
        }
        let (mut hurt, mut problem) = (false, None);
        let read = self.with_io(|io| {
            content::extents_in(io, &content, 0..content.size(), &mut |_, extent| {
                if let (Extent::Data { chunk, .. }, false) = (extent, hurt) {
                    match self.is_hurt(chunk, packs) {
                        Ok(found) => hurt = found,
                        Err(error) => problem = Some(error),
                    }
                }
            })
        });
        match problem {
            Some(error) => Err(error),
            // A node that cannot be read is damage as far as this device knows, or lies elsewhere.
            None => Ok(hurt || matches!(read, Err(cobox_store::Error::PackDamaged(_)))),
        }
    }

    fn is_hurt(
        &self,
        chunk: cobox_store::format::content::ChunkRef,
        packs: &BTreeSet<PackId>,
    ) -> Result<bool, Errno> {
        let of_them = self.folder.pack_of(chunk)?.is_some_and(|pack| packs.contains(&pack));
        Ok(of_them && !self.folder.is_whole_here(chunk)?)
    }
}
