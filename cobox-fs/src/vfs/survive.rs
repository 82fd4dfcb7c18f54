//! Files that another device removed while they are open or dirty here: the edit survives.
//!
//! That unlink did not see what is written here, so the content is published and brings the file back.
//! A row written with the entry says so across a restart. It names the unlink: one made here later is
//! newer than all that were seen, and the file is gone for good.

use std::ops::ControlFlow;
use std::sync::Arc;

use cobox_store::Error;
use cobox_store::blind::Batch;
use cobox_store::blind::tables::{Table, key};
use cobox_store::format::op::Kind;
use cobox_store::format::{Reader, Writer};
use cobox_store::id::{Ino, OpId};

use super::Vfs;
use super::file::File;
use super::rows::Change;
use crate::tree::{Row, RowKey, View};

const VERSION: u8 = 1;

/// Whether what is written to a file is wanted by nobody: its last name went, here.
pub fn is_gone(view: &View<'_>, file: &File) -> Result<bool, Error> {
    // The row first: the note is made before the row is seen.
    Ok(view.is_dead(file.ino)? && !outlives(view, file.ino, file.inner().survives)?)
}

/// Whether the newest unlink of a file is among those that its content outlives.
pub fn outlives(view: &View<'_>, ino: Ino, survives: Option<OpId>) -> Result<bool, Error> {
    let unlinked = view.node(ino)?.and_then(|node| node.unlinked).map(|(id, _)| id);
    Ok(survives.is_some() && survives >= unlinked)
}

fn unlink_row(unlink: OpId) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u8(VERSION);
    writer.op_id(unlink);
    writer.into_bytes()
}

fn read_unlink(plain: &[u8]) -> Result<OpId, Error> {
    let mut reader = Reader::new(plain);
    reader.version(VERSION, "survives")?;
    let unlink = reader.op_id("survives")?;
    reader.finish()?;
    Ok(unlink)
}

impl Vfs {
    /// The open or dirty files that an entry removes, each with the unlink it outlives; adds their rows.
    ///
    /// The caller holds the sequencer and notes what it is told before the changes are seen.
    pub(super) fn survivors(
        &self,
        changes: &[Change],
        batch: &mut Batch,
    ) -> Result<Vec<(Arc<File>, OpId)>, Error> {
        let mut survivors = Vec::new();
        for (row_key, row) in changes {
            let (RowKey::Node(ino), Some(Row::Node(node))) = (row_key, row) else { continue };
            let dead = node.kind == Kind::File && node.links.is_empty() && node.revived.is_none();
            let Some((unlink, _)) = node.unlinked.filter(|_| dead) else { continue };
            let Some(file) = self.known_file(ino) else { continue };
            if self.view(|view| is_gone(view, &file))? {
                continue;
            }
            let stored = self.survives_key(ino);
            batch.put(&stored, &self.folder.local().seal(&stored, &unlink_row(unlink)));
            survivors.push((file, unlink));
        }
        Ok(survivors)
    }

    /// Which unlink a file outlives, as the last run left it.
    pub(super) fn survives_row(&self, ino: &Ino) -> Result<Option<OpId>, Error> {
        let stored = self.survives_key(ino);
        let Some(sealed) = self.folder.store().db().get(&stored)? else { return Ok(None) };
        read_unlink(&self.folder.local().open(&stored, &sealed)?).map(Some)
    }

    /// Adds the rows of files that outlive an unlink which has another id now.
    pub(super) fn stage_survives(&self, id: &dyn Fn(OpId) -> OpId, batch: &mut Batch) -> Result<(), Error> {
        let prefix = key(self.folder.no(), Table::Misc, b"survives");
        let mut sealed: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        self.folder.store().db().scan(&prefix, &[], &mut |rest, value| {
            sealed.push(([&prefix[..], rest].concat(), value.to_vec()));
            ControlFlow::Continue(())
        })?;
        for (stored, value) in sealed {
            let unlink = read_unlink(&self.folder.local().open(&stored, &value)?)?;
            batch.put(&stored, &self.folder.local().seal(&stored, &unlink_row(id(unlink))));
        }
        Ok(())
    }

    pub(super) fn survives_key(&self, ino: &Ino) -> Vec<u8> {
        key(self.folder.no(), Table::Misc, &[&b"survives"[..], &self.rows.hidden(ino)].concat())
    }
}
