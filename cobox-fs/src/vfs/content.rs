//! Reading and changing the list of extents that a file's content is, whatever its form.
//!
//! A change costs what it changes: the nodes on the way to changed extents are written anew, all others
//! keep their chunks. Nothing here knows files or locks; chunks come and go through [`ChunkIo`].

use std::ops::Range;

use cobox_store::Error;
use cobox_store::format::content::{ChunkRef, Content, Extent, Node};
use cobox_store::format::pack::ChunkType;
use cobox_store::format::{DecodeError, EXTENTS_INLINE_MAX, TREE_FANOUT, TREE_HEIGHT_MAX};
use cobox_store::keyed::{End, Plain, SealedChunk};

/// How chunks are cut, sealed, stowed and read; a folder's methods, or a test's.
#[derive(Clone, Copy)]
pub struct ChunkIo<'a> {
    /// Plaintext of a chunk.
    pub read: &'a (dyn Fn(ChunkType, ChunkRef) -> Result<Plain, Error> + Sync),
    /// Seals a chunk; computes only.
    pub seal: &'a (dyn Fn(ChunkType, &[u8]) -> SealedChunk + Sync),
    /// Stores a sealed chunk.
    pub stow: &'a (dyn Fn(SealedChunk) -> Result<ChunkRef, Error> + Sync),
    /// Length of the next content-defined chunk.
    pub next_cut: &'a (dyn Fn(&[u8], End) -> Option<usize> + Sync),
}

/// New extents for a range of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Edit {
    /// Which bytes of the new file; in the old one they end at borders of extents, or in holes.
    pub range: Range<u64>,
    /// What they are now; as long as the range.
    pub extents: Vec<Extent>,
}

/// Whether a list is the last of its file, so that what lies behind its end belongs to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Last,
    Before,
}

/// Calls `visit` with start and extent of everything that overlaps `range`.
///
/// Inline content has no extents and visits nothing.
///
/// # Errors
/// When a node cannot be read or is not one.
pub fn extents_in(
    io: ChunkIo<'_>,
    content: &Content,
    range: Range<u64>,
    visit: &mut dyn FnMut(u64, Extent),
) -> Result<(), Error> {
    match content {
        Content::Inline(_) => {}
        Content::Extents(extents) => visit_list(extents, 0, &range, visit),
        Content::Tree { root, height, size } => visit_node(io, (*size, *root), *height, 0, &range, visit)?,
    }
    Ok(())
}

fn visit_list(extents: &[Extent], mut start: u64, range: &Range<u64>, visit: &mut dyn FnMut(u64, Extent)) {
    for extent in extents {
        let end = start + extent.len();
        if start < range.end && end > range.start {
            visit(start, *extent);
        }
        start = end;
    }
}

fn visit_node(
    io: ChunkIo<'_>,
    child: (u64, ChunkRef),
    height: u8,
    start: u64,
    range: &Range<u64>,
    visit: &mut dyn FnMut(u64, Extent),
) -> Result<(), Error> {
    match read_node(io, child, height)? {
        Node::Leaf(extents) => visit_list(&extents, start, range, visit),
        Node::Inner(children) => {
            let mut start = start;
            for (size, child) in children {
                let end = start + size;
                if start < range.end && end > range.start {
                    visit_node(io, (size, child), height - 1, start, range, visit)?;
                }
                start = end;
            }
        }
    }
    Ok(())
}

/// Reads the node that covers `size` bytes of a file by what stands above it: another member may have
/// written one that does not, and every offset behind it would be wrong.
pub(super) fn read_node(io: ChunkIo<'_>, (size, chunk): (u64, ChunkRef), height: u8) -> Result<Node, Error> {
    let node = Node::decode(&(io.read)(ChunkType::Node, chunk)?)?;
    if node.size() != size {
        return Err(DecodeError::Invalid { field: "extent node size" }.into());
    }
    match (&node, height) {
        (Node::Leaf(_), 1) => Ok(node),
        (Node::Inner(_), 2..) => Ok(node),
        _ => Err(DecodeError::Invalid { field: "extent node height" }.into()),
    }
}

fn write_node(io: ChunkIo<'_>, node: &Node) -> Result<(u64, ChunkRef), Error> {
    Ok((node.size(), (io.stow)((io.seal)(ChunkType::Node, &node.encode()))?))
}

/// Cuts `base` to `size` bytes and lays `edits` (ascending, disjoint) over it.
///
/// Together they cover `0..size`.
///
/// # Errors
/// When a chunk cannot be read or stored.
pub fn splice(io: ChunkIo<'_>, base: &Content, edits: &[Edit], size: u64) -> Result<Content, Error> {
    let content = match base {
        Content::Inline(_) => build(io, overlay(&[], 0, edits, Place::Last, size))?,
        Content::Extents(extents) => build(io, overlay(extents, 0, edits, Place::Last, size))?,
        Content::Tree { root, height, size: before } => {
            let children = replace(io, (*before, *root), *height, 0, edits, Place::Last, size)?;
            grow(io, children, *height)?
        }
    };
    debug_assert_eq!(content.size(), size);
    if content.size() == size { Ok(content) } else { Err(DecodeError::Invalid { field: "content" }.into()) }
}

/// The new list in place of `list`, which begins at `start` of the old file.
fn overlay(list: &[Extent], start: u64, edits: &[Edit], place: Place, size: u64) -> Vec<Extent> {
    let mut parts: Vec<(u64, Extent)> = Vec::with_capacity(list.len());
    let mut at = start;
    for extent in list {
        let end = at + extent.len();
        match extent {
            Extent::Hole { .. } => uncovered(at..end.min(size), edits, &mut parts),
            Extent::Data { .. } if end <= size && overlapping(edits, &(at..end)).is_empty() => {
                parts.push((at, *extent))
            }
            Extent::Data { .. } => {}
        }
        at = end;
    }
    let mine = |edit: &Edit| edit.range.start >= start && (edit.range.start < at || place == Place::Last);
    for edit in edits.iter().filter(|edit| mine(edit)) {
        let mut at = edit.range.start;
        for extent in &edit.extents {
            parts.push((at, *extent));
            at += extent.len();
        }
    }
    parts.sort_by_key(|(at, _)| *at);
    let mut result: Vec<Extent> = Vec::with_capacity(parts.len());
    for (_, extent) in parts {
        match (result.last_mut(), extent) {
            (Some(Extent::Hole { len }), Extent::Hole { len: more }) => *len += more,
            _ => result.push(extent),
        }
    }
    result
}

/// The edits that overlap `range`.
fn overlapping<'e>(edits: &'e [Edit], range: &Range<u64>) -> &'e [Edit] {
    let from = edits.partition_point(|edit| edit.range.end <= range.start);
    let to = edits.partition_point(|edit| edit.range.start < range.end);
    edits.get(from..to).unwrap_or(&[])
}

/// Adds the parts of the hole `range` that no edit covers.
fn uncovered(range: Range<u64>, edits: &[Edit], parts: &mut Vec<(u64, Extent)>) {
    let mut at = range.start;
    for edit in overlapping(edits, &range) {
        if edit.range.start > at {
            parts.push((at, Extent::Hole { len: edit.range.start - at }));
        }
        at = at.max(edit.range.end);
    }
    if at < range.end {
        parts.push((at, Extent::Hole { len: range.end - at }));
    }
}

/// The nodes in place of one node; none when nothing is left of it.
fn replace(
    io: ChunkIo<'_>,
    child: (u64, ChunkRef),
    height: u8,
    start: u64,
    edits: &[Edit],
    place: Place,
    size: u64,
) -> Result<Vec<(u64, ChunkRef)>, Error> {
    match read_node(io, child, height)? {
        Node::Leaf(extents) => write_leaves(io, &overlay(&extents, start, edits, place, size)),
        Node::Inner(children) => {
            let mut kept = Vec::with_capacity(children.len());
            let mut start = start;
            let count = children.len();
            for (index, (child_size, child)) in children.into_iter().enumerate() {
                let end = start + child_size;
                let place = if index + 1 == count { place } else { Place::Before };
                let behind = place == Place::Last && edits.last().is_some_and(|edit| edit.range.end > end);
                if end > size || behind || !overlapping(edits, &(start..end)).is_empty() {
                    kept.extend(replace(io, (child_size, child), height - 1, start, edits, place, size)?);
                } else {
                    kept.push((child_size, child));
                }
                start = end;
            }
            if kept.len() <= TREE_FANOUT {
                return if kept.is_empty() {
                    Ok(kept)
                } else {
                    Ok(vec![write_node(io, &Node::Inner(kept))?])
                };
            }
            write_inner(io, &kept)
        }
    }
}

/// Pieces of at most [`TREE_FANOUT`], of nearly the same length.
fn groups<T>(items: &[T]) -> impl Iterator<Item = &[T]> {
    let count = items.len().div_ceil(TREE_FANOUT).max(1);
    items.chunks(items.len().div_ceil(count).max(1))
}

fn write_leaves(io: ChunkIo<'_>, extents: &[Extent]) -> Result<Vec<(u64, ChunkRef)>, Error> {
    groups(extents).map(|group| write_node(io, &Node::Leaf(group.to_vec()))).collect()
}

fn write_inner(io: ChunkIo<'_>, children: &[(u64, ChunkRef)]) -> Result<Vec<(u64, ChunkRef)>, Error> {
    groups(children).map(|group| write_node(io, &Node::Inner(group.to_vec()))).collect()
}

/// The content of a whole list of extents.
fn build(io: ChunkIo<'_>, extents: Vec<Extent>) -> Result<Content, Error> {
    if extents.is_empty() {
        return Ok(Content::empty());
    }
    if extents.len() <= EXTENTS_INLINE_MAX {
        return Ok(Content::Extents(extents));
    }
    let leaves = write_leaves(io, &extents)?;
    grow(io, leaves, 1)
}

/// Puts roots over `nodes` of `height` until there is one, and drops roots that hold next to nothing.
fn grow(io: ChunkIo<'_>, mut nodes: Vec<(u64, ChunkRef)>, mut height: u8) -> Result<Content, Error> {
    while nodes.len() > 1 {
        nodes = write_inner(io, &nodes)?;
        height += 1;
    }
    let Some((size, mut root)) = nodes.pop() else {
        return Ok(Content::empty());
    };
    loop {
        match read_node(io, (size, root), height)? {
            Node::Inner(children) if children.len() == 1 => {
                root = children.first().expect("has one").1;
                height -= 1;
            }
            Node::Leaf(extents) if extents.len() <= EXTENTS_INLINE_MAX => {
                return Ok(Content::Extents(extents));
            }
            _ if height > TREE_HEIGHT_MAX => return Err(DecodeError::Invalid { field: "content" }.into()),
            _ => return Ok(Content::Tree { root, height, size }),
        }
    }
}

/// Bytes of the file that take space, as far as the first `leaves_max` leaves tell; the rest counts as data.
///
/// # Errors
/// When a node cannot be read.
pub fn allocated_bytes(io: ChunkIo<'_>, content: &Content, leaves_max: usize) -> Result<u64, Error> {
    let mut holes = 0;
    let reach = match content {
        Content::Tree { root, height, size } => {
            leaf_reach(io, (*size, *root), *height, leaves_max)?.min(*size)
        }
        _ => u64::MAX,
    };
    extents_in(io, content, 0..reach, &mut |_, extent| {
        if let Extent::Hole { len } = extent {
            // What another device wrote may claim holes larger than the file.
            holes = len.saturating_add(holes);
        }
    })?;
    Ok(content.size().saturating_sub(holes))
}

/// Where the first `leaves_max` leaves end at the least.
fn leaf_reach(io: ChunkIo<'_>, root: (u64, ChunkRef), height: u8, leaves_max: usize) -> Result<u64, Error> {
    let below = TREE_FANOUT.saturating_pow(u32::from(height.saturating_sub(2)));
    match read_node(io, root, height)? {
        Node::Leaf(_) => Ok(u64::MAX),
        Node::Inner(children) if children.len().saturating_mul(below) <= leaves_max => Ok(u64::MAX),
        Node::Inner(children) => Ok(children.iter().take(leaves_max / below).map(|(size, _)| *size).sum()),
    }
}
