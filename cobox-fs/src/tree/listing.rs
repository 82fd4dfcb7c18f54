//! Which links a slot lists, kept up as links come and go, and the counts of visible children that
//! make a directory visible. A change climbs the tree only as far as visibility changes.

use super::row::{LinkRow, Listed, NodeRow, Row, RowKey, SlotEntry, Versions};
use super::tx::{Policy, Touched, Tx};
use cobox_store::Error;
use cobox_store::format::op::Kind;
use cobox_store::id::{Ino, LinkId, OpId};

impl NodeRow {
    pub(crate) fn versions(&self) -> Versions {
        if self.heads.len() > 1 && self.shown_heads().len() > 1 { Versions::Several } else { Versions::One }
    }

    pub(crate) fn touch(&mut self, id: OpId) {
        self.changed = self.changed.max(id);
    }

    /// Whether a file that has no live link must come back.
    fn outlives_unlink(&self, policy: &Policy) -> bool {
        let said_last = self.last_unlinked || !policy.rules.last_is_needed;
        let all_seen = self.heads.iter().all(|head| head.seen == super::row::Seen::ByLastUnlink);
        !(said_last && (all_seen || !policy.rules.unseen_edit_revives))
    }
}

/// Whether a link is to be seen.
fn is_due(tx: &mut Tx<'_>, link: LinkId, policy: &Policy) -> Result<bool, Error> {
    let Some(row) = tx.link(link)? else {
        return Ok(false);
    };
    if row.place().is_none() {
        return Ok(false);
    }
    if !row.dots.is_empty() {
        return Ok(true);
    }
    let ino = row.ino;
    let Some(node) = tx.node(ino)? else {
        return Ok(false);
    };
    Ok(match node.kind {
        Kind::Dir => node.visible_children > 0 && policy.rules.child_keeps_directory,
        _ => node.revived == Some(link),
    })
}

/// Takes a link out of its slot, and its directories out of theirs where they are dead and now empty.
pub(crate) fn unlist(tx: &mut Tx<'_>, mut link: LinkId, id: OpId, policy: &Policy) -> Result<(), Error> {
    loop {
        let Some(row) = tx.link(link)? else { return Ok(()) };
        if row.listed == Listed::No {
            return Ok(());
        }
        let Some((parent, name)) = set_listed(tx, link, Listed::No)? else { return Ok(()) };
        let hash = tx.slot_hash(&parent, &name, policy);
        let slot = tx.slot_mut(parent, hash)?;
        let removed =
            slot.entries.iter().position(|entry| entry.link == link).map(|at| slot.entries.remove(at));
        if slot.entries.is_empty() {
            tx.delete(RowKey::Dirent(parent, hash));
        }
        let is_dir = removed.is_some_and(|entry| entry.kind == Kind::Dir);
        let Some(above) = count_child(tx, parent, name, id, |node| {
            node.visible_children = node.visible_children.saturating_sub(1);
            node.visible_dirs = node.visible_dirs.saturating_sub(u64::from(is_dir));
        })?
        else {
            return Ok(());
        };
        if is_due(tx, above, policy)? {
            return Ok(());
        }
        link = above;
    }
}

/// Puts a link into its slot if it is due, and its directories into theirs where they were not.
pub(crate) fn list(tx: &mut Tx<'_>, mut link: LinkId, id: OpId, policy: &Policy) -> Result<(), Error> {
    loop {
        if tx.link(link)?.is_none_or(|row| row.listed == Listed::Yes) || !is_due(tx, link, policy)? {
            return Ok(());
        }
        let Some(entry) = slot_entry(tx, link)? else { return Ok(()) };
        let Some((parent, name)) = set_listed(tx, link, Listed::Yes)? else { return Ok(()) };
        let hash = tx.slot_hash(&parent, &name, policy);
        let is_dir = entry.kind == Kind::Dir;
        let slot = tx.slot_mut(parent, hash)?;
        let at = slot.entries.partition_point(|other| other.link < link);
        slot.entries.insert(at, entry);
        let Some(above) = count_child(tx, parent, name, id, |node| {
            node.visible_children += 1;
            node.visible_dirs += u64::from(is_dir);
        })?
        else {
            return Ok(());
        };
        link = above;
    }
}

fn slot_entry(tx: &mut Tx<'_>, link: LinkId) -> Result<Option<SlotEntry>, Error> {
    let Some(LinkRow { ino, kind, .. }) = tx.link(link)? else { return Ok(None) };
    let (ino, kind) = (*ino, *kind);
    let versions = tx.node(ino)?.map_or(Versions::One, NodeRow::versions);
    Ok(tx.link(link)?.and_then(LinkRow::place).map(|place| SlotEntry {
        link,
        ino,
        kind,
        name: place.name.clone(),
        placed: place.id,
        versions,
    }))
}

fn set_listed(tx: &mut Tx<'_>, link: LinkId, listed: Listed) -> Result<Option<(Ino, Vec<u8>)>, Error> {
    let Some(row) = tx.link_mut(link)? else { return Ok(None) };
    row.listed = listed;
    Ok(row.place().map(|place| (place.parent, place.name.clone())))
}

/// Changes a directory's counts; returns its own link, `None` for the root.
fn count_child(
    tx: &mut Tx<'_>,
    parent: Ino,
    name: Vec<u8>,
    id: OpId,
    change: impl FnOnce(&mut NodeRow),
) -> Result<Option<LinkId>, Error> {
    tx.touched.push(Touched::Inode(parent));
    tx.touched.push(Touched::Name { parent, name });
    let Some(node) = tx.node_mut(parent)? else { return Ok(None) };
    change(node);
    node.entries_changed = node.entries_changed.max(id);
    Ok(node.links.first().copied())
}

/// Settles whether a file without live links comes back, after its links or heads changed.
pub(crate) fn refresh_revived(tx: &mut Tx<'_>, ino: Ino, id: OpId, policy: &Policy) -> Result<(), Error> {
    let Some(node) = tx.node(ino)? else { return Ok(()) };
    if node.kind == Kind::Dir {
        return Ok(());
    }
    let before = node.revived;
    let comes_back = node.links.is_empty() && node.outlives_unlink(policy);
    let after = node.unlinked.filter(|_| comes_back).map(|(_, link)| link);
    if before == after {
        return Ok(());
    }
    if let Some(node) = tx.node_mut(ino)? {
        node.revived = after;
    }
    if let Some(link) = before
        && !is_due(tx, link, policy)?
    {
        unlist(tx, link, id, policy)?;
    }
    match after {
        Some(link) => list(tx, link, id, policy),
        None => Ok(()),
    }
}

/// Tells the slots of a file whether it shows one version or several.
pub(crate) fn refresh_versions(
    tx: &mut Tx<'_>,
    ino: Ino,
    before: Versions,
    policy: &Policy,
) -> Result<(), Error> {
    let Some(node) = tx.node(ino)? else { return Ok(()) };
    let versions = node.versions();
    if versions == before && versions == Versions::One {
        return Ok(());
    }
    let links: Vec<LinkId> = node.links.iter().copied().chain(node.revived).collect();
    for link in links {
        let Some(row) = tx.link(link)?.filter(|row| row.listed == Listed::Yes) else { continue };
        let Some(place) = row.place() else { continue };
        let (parent, name) = (place.parent, place.name.clone());
        let hash = tx.slot_hash(&parent, &name, policy);
        if let Some(entry) = tx.slot_mut(parent, hash)?.entries.iter_mut().find(|entry| entry.link == link) {
            entry.versions = versions;
        }
        tx.touched.push(Touched::Inode(parent));
        tx.touched.push(Touched::Name { parent, name });
    }
    Ok(())
}

/// Inserts a row that did not exist.
pub(crate) fn insert_link(tx: &mut Tx<'_>, link: LinkId, ino: Ino, kind: Kind) {
    let row = LinkRow { ino, kind, listed: Listed::No, dots: Vec::new(), places: Vec::new() };
    tx.put(RowKey::Link(link), Row::Link(row));
}
