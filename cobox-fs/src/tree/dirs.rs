//! Moves of directories: replayed in the order of their ids, so that every device skips the same ones.
//!
//! Source: Kleppmann et al., "A highly-available move operation for replicated trees", IEEE TPDS 33(7),
//! 2022. Moves with a greater id than the new one are undone, the new one is done, they are redone.

use super::listing::{list, unlist};
use super::row::{DirMoveRow, MoveEffect, Placement, Row, RowKey};
use super::tx::{Policy, Touched, Tx};
use cobox_store::Error;
use cobox_store::id::{Ino, LinkId, OpId};

/// Takes the move `id` of the directory behind `link` into the replay.
pub(crate) fn replay_with(
    tx: &mut Tx<'_>,
    id: OpId,
    link: LinkId,
    to: (Ino, &[u8]),
    policy: &Policy,
) -> Result<(), Error> {
    let mut later = Vec::new();
    let mut cursor = tx.newest_dir_move()?;
    while let Some(other) = cursor.filter(|other| *other > id && policy.rules.moves_replay_in_order) {
        later.push(other);
        cursor = tx.dir_move(other)?.and_then(|row| row.previous);
    }
    if cursor == Some(id) {
        return Ok(());
    }
    let mut links = vec![link];
    for other in &later {
        links.extend(tx.dir_move(*other)?.map(|row| row.link));
    }
    links.sort_unstable();
    links.dedup();
    for link in &links {
        // What is `..` in it may be another directory.
        if let Some(ino) = tx.link(*link)?.map(|row| row.ino) {
            tx.touched.push(Touched::Inode(ino));
        }
        unlist(tx, *link, id, policy)?;
    }
    for other in &later {
        undo(tx, *other)?;
    }
    let (parent, name) = (to.0, to.1.to_vec());
    let row = DirMoveRow { link, parent, name, previous: cursor, effect: MoveEffect::Skipped };
    tx.put(RowKey::DirMove(id), Row::DirMove(row));
    match later.last() {
        Some(next) => {
            if let Some(row) = tx.dir_move_mut(*next)? {
                row.previous = Some(id);
            }
        }
        None => tx.put(RowKey::NewestDirMove, Row::NewestDirMove(id)),
    }
    redo(tx, id, policy)?;
    for other in later.iter().rev() {
        redo(tx, *other, policy)?;
    }
    for link in &links {
        list(tx, *link, id, policy)?;
    }
    Ok(())
}

fn undo(tx: &mut Tx<'_>, id: OpId) -> Result<(), Error> {
    let Some(row) = tx.dir_move(id)? else { return Ok(()) };
    let (link, effect) = (row.link, row.effect.clone());
    let Some(row) = tx.link_mut(link)? else { return Ok(()) };
    match effect {
        MoveEffect::Skipped => {}
        MoveEffect::First => row.places.truncate(1),
        MoveEffect::Replaced(place) => {
            row.places.truncate(1);
            row.places.push(place);
        }
    }
    Ok(())
}

fn redo(tx: &mut Tx<'_>, id: OpId, policy: &Policy) -> Result<(), Error> {
    let Some(row) = tx.dir_move(id)? else { return Ok(()) };
    let (link, place) = (row.link, Placement { id, parent: row.parent, name: row.name.clone() });
    let Some(ino) = tx.link(link)?.map(|row| row.ino) else { return Ok(()) };
    let skip = policy.rules.cycles_are_skipped && is_inside(tx, place.parent, ino)?;
    let effect = match tx.link_mut(link)? {
        Some(row) if !skip => {
            let before = row.places.get(1).cloned();
            row.places.truncate(1);
            row.places.push(place);
            before.map_or(MoveEffect::First, MoveEffect::Replaced)
        }
        _ => MoveEffect::Skipped,
    };
    if let Some(row) = tx.dir_move_mut(id)? {
        row.effect = effect;
    }
    Ok(())
}

/// Whether `inner` is `outer` or stands below it.
fn is_inside(tx: &mut Tx<'_>, mut inner: Ino, outer: Ino) -> Result<bool, Error> {
    while inner != outer {
        let Some(link) = tx.node(inner)?.and_then(|node| node.links.first().copied()) else {
            return Ok(false);
        };
        let Some(parent) = tx.link(link)?.and_then(|row| row.place()).map(|place| place.parent) else {
            return Ok(false);
        };
        inner = parent;
    }
    Ok(true)
}
