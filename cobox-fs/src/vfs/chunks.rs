//! Which chunks contents are made of: the nodes of their trees as well as the data.

use std::collections::HashSet;

use cobox_store::Error;
use cobox_store::format::content::{ChunkRef, Content, Extent, Node};

use super::content::{ChunkIo, read_node};

/// Chunks, by the first half of their tags: a chunk that is not meant may be among them with a chance of
/// one in 2⁶⁴ for each pair, and then it is kept.
#[derive(Default)]
pub struct Chunks(HashSet<u128>);

pub(super) fn short(tag: &cobox_store::id::ChunkTag) -> u128 {
    let (half, _) = tag.0.split_first_chunk().expect("a tag has 32 bytes");
    u128::from_le_bytes(*half)
}

impl Chunks {
    /// Whether a chunk is among them.
    #[must_use]
    pub fn has(&self, tag: &cobox_store::id::ChunkTag) -> bool {
        self.0.contains(&short(tag))
    }

    /// Takes all chunks of a content, and tells those that are new.
    ///
    /// # Errors
    /// [`Error::Absent`] where a node of the tree is not on this device; or when it cannot be read.
    pub fn take(
        &mut self,
        io: ChunkIo<'_>,
        content: &Content,
        visit: &mut dyn FnMut(ChunkRef),
    ) -> Result<(), Error> {
        match content {
            Content::Inline(_) => Ok(()),
            Content::Extents(extents) => {
                self.take_extents(extents, visit);
                Ok(())
            }
            Content::Tree { root, height, size } => self.take_node(io, (*size, *root), *height, visit),
        }
    }

    fn take_extents(&mut self, extents: &[Extent], visit: &mut dyn FnMut(ChunkRef)) {
        for extent in extents {
            if let Extent::Data { chunk, .. } = extent
                && self.0.insert(short(&chunk.tag))
            {
                visit(*chunk);
            }
        }
    }

    fn take_node(
        &mut self,
        io: ChunkIo<'_>,
        child: (u64, ChunkRef),
        height: u8,
        visit: &mut dyn FnMut(ChunkRef),
    ) -> Result<(), Error> {
        // What stands below a node that was seen was seen with it.
        if self.0.contains(&short(&child.1.tag)) {
            return Ok(());
        }
        match read_node(io, child, height)? {
            Node::Leaf(extents) => self.take_extents(&extents, visit),
            Node::Inner(children) => {
                for child in children {
                    self.take_node(io, child, height.saturating_sub(1), visit)?;
                }
            }
        }
        self.0.insert(short(&child.1.tag));
        visit(child.1);
        Ok(())
    }
}

/// Nodes of trees on one level, and data below the lowest.
#[derive(Default)]
struct Level {
    nodes: Vec<(u64, ChunkRef)>,
    data: Vec<ChunkRef>,
}

impl Level {
    fn add(&mut self, content: &Content, height: u8) {
        match content {
            Content::Extents(extents) if height == 0 => self.data.extend(data_of(extents)),
            Content::Tree { root, height: at, size } if *at == height => self.nodes.push((*size, *root)),
            _ => {}
        }
    }

    /// The next lower level of those nodes that the other side does not have.
    fn descend(self, io: ChunkIo<'_>, others: &HashSet<ChunkRef>, height: u8) -> Result<Self, Error> {
        let mut below = Self::default();
        for (size, chunk) in self.nodes {
            if others.contains(&chunk) {
                continue;
            }
            match read_node(io, (size, chunk), height)? {
                Node::Leaf(extents) => below.data.extend(data_of(&extents)),
                Node::Inner(children) => below.nodes.extend(children),
            }
        }
        Ok(below)
    }

    fn refs(&self) -> HashSet<ChunkRef> {
        self.nodes.iter().map(|(_, chunk)| *chunk).collect()
    }
}

fn data_of(extents: &[Extent]) -> impl Iterator<Item = ChunkRef> + '_ {
    extents
        .iter()
        .filter_map(|extent| if let Extent::Data { chunk, .. } = extent { Some(*chunk) } else { None })
}

/// Chunks of `content` that none of `others` is known to have: costs what is different, not what is large. It may
/// name some that they do have, elsewhere.
///
/// # Errors
/// When a node cannot be read.
pub fn beyond(io: ChunkIo<'_>, content: &Content, others: &[Content]) -> Result<Vec<ChunkRef>, Error> {
    let height_of = |content: &Content| if let Content::Tree { height, .. } = content { *height } else { 0 };
    let top = others.iter().chain([content]).map(height_of).max().unwrap_or(0);
    let (mut mine, mut theirs) = (Level::default(), Level::default());
    let mut found = Vec::new();
    for height in (0..=top).rev() {
        mine.add(content, height);
        others.iter().for_each(|other| theirs.add(other, height));
        if height == 0 {
            break;
        }
        let (own, known) = (mine.refs(), theirs.refs());
        found.extend(own.difference(&known));
        mine = mine.descend(io, &known, height)?;
        theirs = theirs.descend(io, &own, height)?;
    }
    let known: HashSet<ChunkRef> = theirs.data.into_iter().collect();
    let own: HashSet<ChunkRef> = mine.data.into_iter().collect();
    found.extend(own.difference(&known));
    Ok(found)
}
