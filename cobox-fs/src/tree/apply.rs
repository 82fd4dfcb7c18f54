//! One function for local and remote ops.

use super::dirs;
use super::listing::{insert_link, list, refresh_revived, refresh_versions, unlist};
use super::names::{RESERVED_NAME, first_link, fork_of, hard_link, ino_of, name_key};
use super::row::{Head, LinkRow, NodeRow, Placement, Row, RowKey, Seen, Stamped, Versions, XattrRow};
use super::tx::{Policy, Touched, Tx};
use cobox_store::Error;
use cobox_store::format::op::{AttrChange, Kind, Make, Op, is_legal_name};
use cobox_store::id::{Ino, LinkId, OpId};

/// Applies one op and returns what the kernel must forget.
///
/// Ops must come in causal order (those of one log in its order), each exactly once; any such order
/// gives the same tree. An op that names something unknown changes nothing.
///
/// # Errors
/// When the store cannot be read; then the transaction must be dropped.
pub fn apply(tx: &mut Tx<'_>, id: OpId, op: &Op, policy: &Policy) -> Result<Vec<Touched>, Error> {
    tx.touched.clear();
    match op {
        Op::Make(make) => apply_make(tx, id, make, policy)?,
        Op::Link { ino, parent, name } => apply_link(tx, id, *ino, (*parent, name), policy)?,
        Op::Move { link, parent, name, seen_dots } => {
            apply_move(tx, id, *link, (*parent, name), seen_dots, policy)?;
        }
        Op::Unlink { link, seen_dots, seen_heads, last } => {
            let heads = last.then_some(seen_heads.as_slice());
            apply_unlink(tx, id, *link, seen_dots, heads, policy)?;
        }
        Op::Revive { link } if policy.rules.revive_counts => {
            change_link(tx, id, *link, policy, |row| add_dot(row, id))?;
        }
        Op::Put { ino, parents, content, mtime_ns } => {
            let head =
                Head { id, content: content.clone(), mtime_ns: *mtime_ns, seen: Seen::Not, settled: None };
            apply_put(tx, *ino, parents, head, policy)?;
        }
        Op::Attr { ino, change } => apply_attr(tx, id, *ino, change, policy)?,
        Op::Xattr { ino, key, value } => apply_xattr(tx, id, *ino, key, value.as_deref(), policy)?,
        Op::Fork { ino, head } => apply_fork(tx, id, *ino, *head, policy)?,
        Op::Keep { ino, take, drop } => settle(tx, id, *ino, drop, Some(*take), policy)?,
        Op::Revive { .. } | Op::Ack | Op::Snap { .. } => {}
    }
    let mut touched = std::mem::take(&mut tx.touched);
    touched.sort_unstable();
    touched.dedup();
    Ok(touched)
}

/// Removes the rows of an inode that no other device has ever heard of: its `Make` and everything
/// after it were dropped before a cut. Its id may then be used again. What is alive, and a directory
/// that was ever moved, stays.
///
/// # Errors
/// When the store cannot be read.
pub fn forget_unpublished(tx: &mut Tx<'_>, ino: Ino) -> Result<(), Error> {
    let Some(node) = tx.node(ino)? else { return Ok(()) };
    let Some((_, link)) = node.unlinked.filter(|_| node.revived.is_none() && node.visible_children == 0)
    else {
        return Ok(());
    };
    let is_dir = node.kind == Kind::Dir;
    let gone = node.links.is_empty() || is_dir;
    let xattrs = node.xattrs.clone();
    if !gone || tx.link(link)?.is_some_and(|row| !row.dots.is_empty() || (is_dir && row.places.len() > 1)) {
        return Ok(());
    }
    for key in xattrs {
        tx.delete(RowKey::Xattr(ino, key));
    }
    tx.delete(RowKey::Link(link));
    tx.delete(RowKey::Node(ino));
    Ok(())
}

/// Whether something may stand there, as far as every device can tell alike.
fn is_place(tx: &mut Tx<'_>, (parent, name): (Ino, &[u8]), policy: &Policy) -> Result<bool, Error> {
    let reserved = parent == Ino::ROOT && name_key(name, policy.case) == RESERVED_NAME;
    let is_dir = tx.node(parent)?.is_some_and(|node| node.kind == Kind::Dir);
    Ok(is_dir && !reserved && is_legal_name(name))
}

fn apply_make(tx: &mut Tx<'_>, id: OpId, make: &Make, policy: &Policy) -> Result<(), Error> {
    if !is_place(tx, (make.parent, &make.name), policy)? {
        return Ok(());
    }
    let key = name_key(&make.name, policy.case);
    let ino = ino_of(&make.parent, make.kind, make.generation, &key);
    let link = first_link(&ino, &make.parent, &key);
    match tx.node_mut(ino)? {
        None => tx.put(RowKey::Node(ino), Row::Node(new_node(id, make))),
        Some(node) => {
            let change = AttrChange {
                mode: Some(make.mode),
                mtime_ns: Some(make.mtime_ns),
                uid: Some(make.uid),
                gid: Some(make.gid),
            };
            set_attrs(node, id, &change, policy);
            if id > node.made || !policy.rules.newest_make_wins {
                node.made = id;
                node.rdev = make.rdev;
                node.target.clone_from(&make.target);
            }
            node.touch(id);
            tx.touched.push(Touched::Inode(ino));
        }
    }
    if tx.link(link)?.is_none() {
        insert_link(tx, link, ino, make.kind);
    }
    let place = Placement { id, parent: make.parent, name: make.name.clone() };
    change_link(tx, id, link, policy, |row| {
        add_dot(row, id);
        if row.kind != Kind::Dir {
            add_place(row, place, policy);
        } else if row.places.first().is_none_or(|base| id < base.id || !policy.rules.oldest_spelling_counts) {
            // The oldest spelling of a directory's first name counts, wherever it was moved since.
            row.places.splice(..row.places.len().min(1), [place]);
        }
    })
}

fn new_node(id: OpId, make: &Make) -> Box<NodeRow> {
    Box::new(NodeRow {
        kind: make.kind,
        generation: make.generation,
        made: id,
        mode: Stamped { value: make.mode, id },
        mtime_ns: Stamped { value: make.mtime_ns, id },
        uid: Stamped { value: make.uid, id },
        gid: Stamped { value: make.gid, id },
        rdev: make.rdev,
        target: make.target.clone(),
        changed: id,
        ..*NodeRow::root()
    })
}

fn apply_link(tx: &mut Tx<'_>, id: OpId, ino: Ino, to: (Ino, &[u8]), policy: &Policy) -> Result<(), Error> {
    let Some(kind) = tx.node(ino)?.map(|node| node.kind) else { return Ok(()) };
    if kind == Kind::Dir || !is_place(tx, to, policy)? {
        return Ok(());
    }
    let link = hard_link(id);
    insert_link(tx, link, ino, kind);
    change_link(tx, id, link, policy, |row| {
        add_dot(row, id);
        add_place(row, Placement { id, parent: to.0, name: to.1.to_vec() }, policy);
    })
}

fn apply_move(
    tx: &mut Tx<'_>,
    id: OpId,
    link: LinkId,
    to: (Ino, &[u8]),
    seen: &[OpId],
    policy: &Policy,
) -> Result<(), Error> {
    let Some(kind) = tx.link(link)?.map(|row| row.kind) else { return Ok(()) };
    if !is_place(tx, to, policy)? {
        return Ok(());
    }
    change_link(tx, id, link, policy, |row| {
        remove_dots(row, seen, policy);
        add_dot(row, id);
        if kind != Kind::Dir {
            add_place(row, Placement { id, parent: to.0, name: to.1.to_vec() }, policy);
        }
    })?;
    if kind == Kind::Dir { dirs::replay_with(tx, id, link, to, policy) } else { Ok(()) }
}

/// `seen_heads` is `None` where the author knew of another name.
fn apply_unlink(
    tx: &mut Tx<'_>,
    id: OpId,
    link: LinkId,
    seen_dots: &[OpId],
    seen_heads: Option<&[OpId]>,
    policy: &Policy,
) -> Result<(), Error> {
    let Some(ino) = tx.link(link)?.map(|row| row.ino) else { return Ok(()) };
    let Some(node) = tx.node_mut(ino)? else { return Ok(()) };
    if node.unlinked.is_none_or(|(other, _)| id > other || !policy.rules.greatest_unlink_revives) {
        node.unlinked = Some((id, link));
    }
    if let Some(seen_heads) = seen_heads {
        node.last_unlinked = true;
        for head in node.heads.iter_mut().filter(|head| seen_heads.contains(&head.id)) {
            head.seen = Seen::ByLastUnlink;
        }
    }
    change_link(tx, id, link, policy, |row| remove_dots(row, seen_dots, policy))
}

/// Changes a link while it is in no slot, then lists what is to be seen.
fn change_link(
    tx: &mut Tx<'_>,
    id: OpId,
    link: LinkId,
    policy: &Policy,
    change: impl FnOnce(&mut LinkRow),
) -> Result<(), Error> {
    unlist(tx, link, id, policy)?;
    let Some(row) = tx.link_mut(link)? else { return Ok(()) };
    change(row);
    let (ino, live) = (row.ino, !row.dots.is_empty());
    if let Some(node) = tx.node_mut(ino)? {
        node.touch(id);
        match node.links.binary_search(&link) {
            Err(at) if live || node.kind == Kind::Dir => node.links.insert(at, link),
            Ok(at) if !live && node.kind != Kind::Dir => drop(node.links.remove(at)),
            _ => {}
        }
    }
    tx.touched.push(Touched::Inode(ino));
    refresh_revived(tx, ino, id, policy)?;
    list(tx, link, id, policy)
}

fn add_dot(row: &mut LinkRow, id: OpId) {
    if let Err(at) = row.dots.binary_search(&id) {
        row.dots.insert(at, id);
    }
}

fn remove_dots(row: &mut LinkRow, seen: &[OpId], policy: &Policy) {
    row.dots.retain(|dot| policy.rules.unseen_dots_stay && !seen.contains(dot));
    trim_places(row);
}

fn add_place(row: &mut LinkRow, place: Placement, policy: &Policy) {
    let at = row.places.partition_point(|other| other.id < place.id);
    let at = if policy.rules.newest_placement_wins { at } else { row.places.len() };
    row.places.insert(at, place);
    trim_places(row);
}

/// Keeps the placements of live dots and the greatest: no other can ever count again.
fn trim_places(row: &mut LinkRow) {
    if row.kind == Kind::Dir {
        return;
    }
    let newest = row.places.last().map(|place| place.id);
    let dots = &row.dots;
    row.places.retain(|place| Some(place.id) == newest || dots.contains(&place.id));
}

fn apply_put(tx: &mut Tx<'_>, ino: Ino, parents: &[OpId], head: Head, policy: &Policy) -> Result<(), Error> {
    let Some(node) = tx.node_mut(ino)?.filter(|node| node.kind == Kind::File) else { return Ok(()) };
    let (id, before) = (head.id, node.versions());
    node.heads.retain(|other| policy.rules.unseen_heads_stay && !parents.contains(&other.id));
    let at = node.heads.partition_point(|other| other.id < id);
    let change = AttrChange { mtime_ns: Some(head.mtime_ns), ..AttrChange::default() };
    node.heads.insert(at, head);
    set_attrs(node, id, &change, policy);
    finish_heads(tx, id, ino, before, policy)
}

fn finish_heads(tx: &mut Tx<'_>, id: OpId, ino: Ino, before: Versions, policy: &Policy) -> Result<(), Error> {
    if let Some(node) = tx.node_mut(ino)? {
        node.touch(id);
    }
    tx.touched.push(Touched::Inode(ino));
    refresh_revived(tx, ino, id, policy)?;
    refresh_versions(tx, ino, before, policy)
}

/// Takes heads out of a file, unless `take` names one as the head that stays.
fn settle(
    tx: &mut Tx<'_>,
    id: OpId,
    ino: Ino,
    heads: &[OpId],
    take: Option<OpId>,
    policy: &Policy,
) -> Result<(), Error> {
    let Some(node) = tx.node_mut(ino)? else { return Ok(()) };
    let before = node.versions();
    for head in &mut node.heads {
        if heads.contains(&head.id) && take != Some(head.id) && policy.rules.settled_heads_hide {
            head.settled = head.settled.max(Some(id));
        }
    }
    finish_heads(tx, id, ino, before, policy)
}

/// The new file has neither content nor name: the ops that follow in the group give both.
fn apply_fork(tx: &mut Tx<'_>, id: OpId, ino: Ino, head: OpId, policy: &Policy) -> Result<(), Error> {
    if tx.node(ino)?.is_none_or(|node| node.kind != Kind::File) {
        return Ok(());
    }
    settle(tx, id, ino, &[head], None, policy)?;
    let (fork, link) = fork_of(&ino, head);
    match tx.node_mut(fork)? {
        None => {
            // The attributes come with ops of their own, so those of the root stand in, set by nobody.
            let node = NodeRow { kind: Kind::File, made: id, changed: id, ..*NodeRow::root() };
            tx.put(RowKey::Node(fork), Row::Node(Box::new(node)));
        }
        Some(node) => node.made = node.made.max(id),
    }
    if tx.link(link)?.is_none() {
        insert_link(tx, link, fork, Kind::File);
    }
    change_link(tx, id, link, policy, |row| add_dot(row, id))
}

fn apply_attr(
    tx: &mut Tx<'_>,
    id: OpId,
    ino: Ino,
    change: &AttrChange,
    policy: &Policy,
) -> Result<(), Error> {
    let Some(node) = tx.node_mut(ino)? else { return Ok(()) };
    set_attrs(node, id, change, policy);
    node.touch(id);
    tx.touched.push(Touched::Inode(ino));
    Ok(())
}

fn set_attrs(node: &mut NodeRow, id: OpId, change: &AttrChange, policy: &Policy) {
    fn set<T: Copy>(field: &mut Stamped<T>, value: Option<T>, id: OpId, policy: &Policy) {
        match value {
            Some(value) if policy.rules.newest_attr_wins => field.set(value, id),
            Some(value) => *field = Stamped { value, id },
            None => {}
        }
    }
    set(&mut node.mode, change.mode, id, policy);
    set(&mut node.mtime_ns, change.mtime_ns, id, policy);
    set(&mut node.uid, change.uid, id, policy);
    set(&mut node.gid, change.gid, id, policy);
}

fn apply_xattr(
    tx: &mut Tx<'_>,
    id: OpId,
    ino: Ino,
    key: &[u8],
    value: Option<&[u8]>,
    policy: &Policy,
) -> Result<(), Error> {
    let older = tx.xattr(ino, key)?.is_some_and(|row| row.id > id && policy.rules.newest_xattr_wins);
    let Some(node) = tx.node_mut(ino)?.filter(|_| !older) else { return Ok(()) };
    match (node.xattrs.binary_search_by(|name| name.as_slice().cmp(key)), value) {
        (Err(at), Some(_)) => node.xattrs.insert(at, key.to_vec()),
        (Ok(at), None) => drop(node.xattrs.remove(at)),
        _ => {}
    }
    node.touch(id);
    tx.put(RowKey::Xattr(ino, key.to_vec()), Row::Xattr(XattrRow { id, value: value.map(<[u8]>::to_vec) }));
    tx.touched.push(Touched::Inode(ino));
    Ok(())
}
