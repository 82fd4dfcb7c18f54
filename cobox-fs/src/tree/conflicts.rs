//! What people should hear about after devices changed the same things: which versions, names, moves and
//! removals met, who made them and when.
//!
//! Everything here follows from the tree's state, and that from the ops alone, so every device that has
//! the same entries lists the same. [`Note`]s say where to look. Settling is a change like any other
//! ([`keep`]): it makes the state one that has nothing to tell.

use super::ops::{self, PosixError};
use super::row::{DirMoveRow, LinkRow, MoveEffect, Note, Row, RowKey, Seen, SlotHash};
use super::view::{Shown, Version, View};
use cobox_store::Error;
use cobox_store::format::SEEN_MAX;
use cobox_store::format::op::{Kind, Op};
use cobox_store::id::{Ino, LinkId, OpId};

/// Directories above a name that are shown; deeper paths begin with `…`.
const DEPTH_MAX: usize = 256;

/// Something that devices did at the same time, as it stands now.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Conflict {
    /// Where it is to be seen, from the root of the folder, without a slash in front.
    pub path: Vec<u8>,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum What {
    /// A file was changed on several devices: the version under its name first, then the others.
    Versions(Vec<VersionOf>),
    /// Several things were given one name: the one that has it first.
    Names(Vec<Named>),
    /// A directory was to be moved into itself, because the other one was moved at the same time.
    MoveSkipped {
        /// The op that was skipped.
        by: OpId,
        /// Where it was to go.
        wanted: Vec<u8>,
    },
    /// A file was removed and changed at the same time, and is there again.
    FileCameBack {
        /// The newest removal.
        removed: OpId,
        /// The changes that the removals did not know of, the newest first.
        changed: Vec<OpId>,
    },
    /// A directory was removed while something was put into it, and is there again.
    DirReturned {
        /// The newest removal.
        removed: OpId,
    },
}

/// One version of a file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct VersionOf {
    /// The name it is seen under, in the same directory.
    pub name: Vec<u8>,
    /// The op that wrote it.
    pub by: OpId,
    /// Its length.
    pub bytes: u64,
    /// Nanoseconds since 1970, as programs see it.
    pub mtime_ns: i64,
}

/// One of several things with one name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Named {
    /// The name it is seen under.
    pub name: Vec<u8>,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// The op that put it there.
    pub by: OpId,
}

/// What of a conflict is to stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// This one; the others go.
    This,
    /// All of them, each under a name of its own from now on.
    Both,
}

/// What the notes say, in the order of paths; a file with several names is told of once.
///
/// # Errors
/// When the store cannot be read.
pub fn conflicts(view: &View<'_>, notes: &[Note]) -> Result<Vec<Conflict>, Error> {
    let mut found = Vec::new();
    let mut notes = notes.to_vec();
    notes.sort_unstable();
    for note in notes {
        match note {
            Note::Slot(parent, hash) => of_slot(view, (parent, hash), &mut found)?,
            Note::Node(ino) => found.extend(of_node(view, ino)?),
            Note::Link(link) => found.extend(of_dir(view, link)?),
            Note::Move(id) => found.extend(of_move(view, id)?),
        }
    }
    found.sort();
    Ok(found)
}

fn of_slot(view: &View<'_>, (parent, hash): (Ino, SlotHash), found: &mut Vec<Conflict>) -> Result<(), Error> {
    let slot = view.slot_at(parent, hash)?;
    let shown = view.visible_names(parent, &slot)?;
    let above = path_of(view, parent)?;
    let placed = |shown: &Shown| slot.entries.iter().find(|entry| entry.link == shown.link);
    if slot.entries.len() > 1 {
        let named = shown.iter().filter(|shown| shown.version == Version::Winner).filter_map(|shown| {
            let by = placed(shown)?.placed;
            Some(Named { name: shown.name.clone(), is_dir: shown.kind == Kind::Dir, by })
        });
        let named: Vec<Named> = named.collect();
        let name = named.first().map(|first| first.name.clone()).unwrap_or_default();
        found.push(Conflict { path: join(&above, &name), what: What::Names(named) });
    }
    for file in shown.iter().filter(|shown| shown.version == Version::Winner) {
        let Some(node) = view.node(file.ino)?.filter(|node| node.shown_heads().len() > 1) else { continue };
        // Of a file with several names the first link tells, as slots have another order on each device.
        if node.links.first().copied().or(node.revived).is_some_and(|first| first != file.link) {
            continue;
        }
        let mut versions = Vec::new();
        for (nth, head) in node.shown_heads().into_iter().enumerate() {
            let is_it = |shown: &&Shown| {
                let version = if nth == 0 { Version::Winner } else { Version::Conflict(head.id) };
                shown.link == file.link && shown.version == version
            };
            let name = shown.iter().find(is_it).map(|shown| shown.name.clone()).unwrap_or_default();
            let (bytes, mtime_ns) = (head.content.size(), head.mtime_ns);
            versions.push(VersionOf { name, by: head.id, bytes, mtime_ns });
        }
        found.push(Conflict { path: join(&above, &file.name), what: What::Versions(versions) });
    }
    Ok(())
}

fn of_node(view: &View<'_>, ino: Ino) -> Result<Option<Conflict>, Error> {
    let Some(node) = view.node(ino)? else { return Ok(None) };
    let (Some(_), Some((removed, _))) = (node.revived, node.unlinked) else { return Ok(None) };
    let unseen = node.heads.iter().rev().filter(|head| head.seen == Seen::Not);
    let changed = unseen.map(|head| head.id).collect();
    let Some(path) = path_to(view, ino)? else { return Ok(None) };
    Ok(Some(Conflict { path, what: What::FileCameBack { removed, changed } }))
}

fn of_dir(view: &View<'_>, link: LinkId) -> Result<Option<Conflict>, Error> {
    let Some(row) = view.link(link)? else { return Ok(None) };
    let Some(node) = view.node(row.ino)? else { return Ok(None) };
    let (Some((removed, _)), Some(path)) = (node.unlinked, path_to(view, row.ino)?) else { return Ok(None) };
    Ok(Some(Conflict { path, what: What::DirReturned { removed } }))
}

fn of_move(view: &View<'_>, id: OpId) -> Result<Option<Conflict>, Error> {
    let Some((row, link)) = skipped(view, id)? else { return Ok(None) };
    if view.is_dead(link.ino)? {
        return Ok(None);
    }
    let wanted = join(&path_of(view, row.parent)?, &row.name);
    let Some(path) = path_to(view, link.ino)? else { return Ok(None) };
    Ok(Some(Conflict { path, what: What::MoveSkipped { by: id, wanted } }))
}

/// A skipped move and the link it was about. It is told of as long as that was not moved again.
fn skipped(view: &View<'_>, id: OpId) -> Result<Option<(DirMoveRow, LinkRow)>, Error> {
    let Some(Row::DirMove(row)) = view.row(&RowKey::DirMove(id))? else { return Ok(None) };
    let Some(link) = view.link(row.link)?.filter(|_| row.effect == MoveEffect::Skipped) else {
        return Ok(None);
    };
    let moved_again = link.places.get(1).is_some_and(|place| place.id > id);
    Ok((!moved_again).then_some((row, link)))
}

/// The path of a directory; of what is gone, as far as it can be told.
fn path_of(view: &View<'_>, dir: Ino) -> Result<Vec<u8>, Error> {
    Ok(if dir == Ino::ROOT { Vec::new() } else { path_to(view, dir)?.unwrap_or_default() })
}

/// The path of something, by its first visible name.
fn path_to(view: &View<'_>, mut ino: Ino) -> Result<Option<Vec<u8>>, Error> {
    let mut parts = Vec::new();
    while ino != Ino::ROOT {
        if parts.len() == DEPTH_MAX {
            parts.push("…".as_bytes().to_vec());
            break;
        }
        let Some((parent, raw)) = view.place(ino)? else { return Ok(None) };
        let names = view.visible_names(parent, &view.slot(parent, &raw)?)?;
        let shown = names.into_iter().find(|name| name.ino == ino && name.version == Version::Winner);
        parts.push(shown.map_or(raw, |shown| shown.name));
        ino = parent;
    }
    parts.reverse();
    Ok(Some(parts.join(&b'/')))
}

fn join(above: &[u8], name: &[u8]) -> Vec<u8> {
    if above.is_empty() { name.to_vec() } else { [above, b"/", name].concat() }
}

/// The ops that settle what `name` in `parent` has to tell; empty where it has nothing.
///
/// # Errors
/// ENOENT; ENOTEMPTY and EISDIR where keeping this one would remove a directory; or the store's.
pub fn keep(
    view: &View<'_>,
    (parent, name): (Ino, &[u8]),
    notes: &[Note],
    how: Keep,
) -> Result<Vec<Op>, PosixError> {
    let shown = view.lookup(parent, name)?.ok_or(PosixError::NoEntry)?;
    let mut ops = Vec::new();
    let link = view.link(shown.link)?.ok_or(PosixError::NoEntry)?;
    if shown.version == Version::Winner && link.dots.is_empty() {
        // It came back, and is wanted.
        ops.push(Op::Revive { link: shown.link });
    }
    let raw = link.place().ok_or(PosixError::NoEntry)?.name.clone();
    for note in notes {
        let Note::Move(id) = note else { continue };
        if skipped(view, *id)?.is_some_and(|(row, _)| row.link == shown.link) {
            // Where it is, is where it is to be.
            let at = Shown { name: raw.clone(), ..shown.clone() };
            ops.extend(own_name(view, parent, &at)?);
            break;
        }
    }
    ops.extend(keep_version(view, parent, &shown, how)?);
    let slot = view.slot(parent, &raw)?;
    let others = view.visible_names(parent, &slot)?;
    for other in others.iter().filter(|other| other.version == Version::Winner && other.link != shown.link) {
        match how {
            Keep::This if other.kind == Kind::Dir => return Err(PosixError::IsDir),
            Keep::This => ops.extend(ops::unlink(view, parent, &other.name)?),
            // Whoever has a name of its own keeps it.
            Keep::Both if other.name == raw => {}
            Keep::Both => ops.extend(own_name(view, parent, other)?),
        }
    }
    if how == Keep::Both && slot.entries.len() > 1 && shown.version == Version::Winner && shown.name != raw {
        ops.extend(own_name(view, parent, &shown)?);
    }
    Ok(ops)
}

/// The name that something is seen under becomes its own.
fn own_name(view: &View<'_>, parent: Ino, shown: &Shown) -> Result<Vec<Op>, PosixError> {
    let seen_dots = view.link(shown.link)?.ok_or(PosixError::NoEntry)?.dots;
    let seen_dots = seen_dots.into_iter().take(SEEN_MAX).collect();
    Ok(vec![Op::Move { link: shown.link, parent, name: shown.name.clone(), seen_dots }])
}

fn keep_version(view: &View<'_>, parent: Ino, shown: &Shown, how: Keep) -> Result<Vec<Op>, PosixError> {
    let node = view.node(shown.ino)?.ok_or(PosixError::NoEntry)?;
    let heads = node.shown_heads();
    let Some(first) = heads.first().filter(|_| heads.len() > 1) else { return Ok(Vec::new()) };
    let take = match shown.version {
        Version::Winner => first.id,
        Version::Conflict(head) => head,
    };
    if how == Keep::This {
        let kept = node.heads.iter().find(|head| head.id == take).ok_or(PosixError::NoEntry)?;
        let goes = |head: &&super::row::Head| head.settled.is_none() && head.content != kept.content;
        let drop = node.heads.iter().filter(goes).map(|head| head.id).take(SEEN_MAX).collect();
        return Ok(vec![Op::Keep { ino: shown.ino, take, drop }]);
    }
    let mut ops = Vec::new();
    let raw = view.link(shown.link)?.and_then(|row| row.place().map(|place| place.name.clone()));
    let slot = view.slot(parent, &raw.ok_or(PosixError::NoEntry)?)?;
    for other in view.visible_names(parent, &slot)? {
        let chosen = match (shown.version, other.version) {
            (_, Version::Winner) => false,
            (Version::Winner, Version::Conflict(_)) => other.link == shown.link,
            (Version::Conflict(_), Version::Conflict(_)) => other == *shown,
        };
        if chosen {
            ops.extend(ops::fork(view, &other, parent)?.0);
        }
    }
    Ok(ops)
}
