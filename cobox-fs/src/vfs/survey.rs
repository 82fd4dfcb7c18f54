//! What of a folder's packs its tree reaches: every chunk of every version of every file that is not removed.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;

use cobox_store::Error;
use cobox_store::blind::tables::{Table, key};
use cobox_store::format::content::ChunkRef;
use cobox_store::format::entry::{Body, Entry};
use cobox_store::format::op::{Kind, Op};
use cobox_store::format::pack::{DirectoryRow, PackRef};
use cobox_store::format::release::Cut as LogCut;
use cobox_store::id::{EpochId, Ino, LogId, PackId};

use super::chunks::Chunks;
use super::sequencer::Sequencer;
use super::worn::Worn;
use super::{Cut, Errno, Vfs};
use crate::tree::{NodeRow, Row, RowKey};

/// How often the tree is tried to be seen with nothing on its way into an entry.
const QUIET_TRIES: usize = 20;

/// What a folder's packs hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Survey {
    /// Packs that entries list.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Bytes of chunks in them that something in the tree needs.
    pub live_bytes: u64,
    /// Packs of which nothing is needed.
    pub dead: Vec<DeadPack>,
    /// Packs of which less than half is needed, and something.
    pub half_dead_packs: u64,
    /// Their bytes that nothing needs.
    pub half_dead_bytes: u64,
    /// Packs of which something is needed and that are worth writing again.
    pub worn: Vec<Worn>,
}

/// A pack of which nothing is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeadPack {
    /// Which.
    pub pack: PackRef,
    /// Milliseconds since 1970, by its author's clock.
    pub added_ms: u64,
}

/// The last entry of a log in a cut; 0 for none.
pub(super) fn covers(cut: &LogCut, log: &LogId) -> u64 {
    let at = cut.binary_search_by_key(log, |(log, _)| *log);
    at.ok().and_then(|at| cut.get(at)).map_or(0, |(_, seq)| *seq)
}

/// Whether a file has no name any more; its row says so alone.
pub(super) fn is_dead_file(node: &NodeRow) -> bool {
    node.kind == Kind::File && node.links.is_empty() && node.revived.is_none()
}

impl Vfs {
    /// What the folder's packs hold, by this device's tree.
    ///
    /// # Errors
    /// `EBUSY` while programs write without a pause; `EIO` where a part of the tree is not on this device.
    pub fn survey(&self) -> Result<Survey, Errno> {
        let (cut, reached) = self.reach_at_a_cut()?;
        self.survey_of(&cut, &reached)
    }

    /// How far each log is applied; of our own, what was written.
    pub(super) fn cut_now(&self) -> Result<LogCut, Error> {
        let mut cut: BTreeMap<LogId, u64> =
            self.applied.lock().deps().into_iter().map(|head| (head.log, head.seq)).collect();
        if let Some(own) = self.folder.written()? {
            let seq = cut.entry(own.log).or_default();
            *seq = own.seq.max(*seq);
        }
        Ok(cut.into_iter().filter(|(_, seq)| *seq > 0).collect())
    }

    pub(super) fn opened(&self, log: LogId, seq: u64) -> Result<Option<(Entry, Body)>, Error> {
        let Some(entry) = self.folder.store().entry(self.folder.no(), log, seq)? else { return Ok(None) };
        let body = self.folder.open_entry(&entry)?;
        Ok(Some((entry, body)))
    }

    /// The chunks that the tree reaches at a moment at which entries hold all of it, and that moment.
    pub(super) fn reach_at_a_cut(&self) -> Result<(LogCut, Chunks), Errno> {
        for _ in 0..QUIET_TRIES {
            self.cut(Cut::Idle)?;
            let sequencer = self.sequencer.lock();
            if self.pending(1)?.is_empty() {
                let cut = self.cut_now()?;
                return Ok((cut, self.reach(sequencer, &mut |_| {})?));
            }
        }
        Err(Errno::EBUSY)
    }

    /// The chunks that the tree reaches at this moment: rows are read as they are now, also when the sequencer
    /// goes on.
    pub(super) fn reach(
        &self,
        sequencer: parking_lot::MutexGuard<'_, Sequencer>,
        visit: &mut dyn FnMut(ChunkRef),
    ) -> Result<Chunks, Error> {
        let prefix = key(self.folder.no(), Table::Node, b"");
        let (mut contents, mut problem, mut held) = (Vec::new(), None, Some(sequencer));
        self.folder.store().db().scan(&prefix, &[], &mut |rest, sealed| {
            held = None;
            let stored = [&prefix[..], rest].concat();
            match self.rows.read(&RowKey::Node(Ino::ROOT), &stored, sealed) {
                Ok(Row::Node(node)) if !is_dead_file(&node) => {
                    contents.extend(node.heads.into_iter().map(|head| head.content));
                }
                Ok(_) => {}
                Err(error) => problem = Some(error),
            }
            if problem.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        drop(held);
        if let Some(error) = problem {
            return Err(error);
        }
        let mut reached = Chunks::default();
        self.with_io(|io| contents.iter().try_for_each(|content| reached.take(io, content, visit)))?;
        Ok(reached)
    }

    /// Adds what contents in entries behind `from`, up to `to`, are made of, whatever became of them.
    pub(super) fn take_mentioned(
        &self,
        from: &LogCut,
        to: &LogCut,
        reached: &mut Chunks,
    ) -> Result<(), Errno> {
        for (log, last) in to {
            for seq in covers(from, log) + 1..=*last {
                let Some((_, body)) = self.opened(*log, seq)? else { return Err(Errno::EIO) };
                for op in body.groups.iter().flat_map(|group| &group.ops) {
                    if let Op::Put { content, .. } = op {
                        self.with_io(|io| reached.take(io, content, &mut |_| {}))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Tells of each pack that entries up to `cut` list, with the directory that they give it and their author's clock.
    pub(super) fn each_listing(
        &self,
        cut: &LogCut,
        visit: &mut dyn FnMut((LogId, u64), PackRef, &[DirectoryRow], (EpochId, u64)),
    ) -> Result<(), Errno> {
        for (log, last) in cut {
            for seq in 1..=*last {
                let Some((entry, body)) = self.opened(*log, seq)? else { return Err(Errno::EIO) };
                for (pack, directory) in entry.header().packs.iter().zip(&body.directories) {
                    let Some(directory) = directory else { continue };
                    visit((*log, seq), *pack, directory, (entry.header().epoch, body.hlc));
                }
            }
        }
        Ok(())
    }

    pub(super) fn live_packs(&self) -> Result<HashSet<PackId>, Error> {
        let mut live = HashSet::new();
        self.folder.store().packs_live(self.folder.no(), &mut |pack, _| {
            live.insert(pack.id);
        })?;
        Ok(live)
    }

    /// What the packs hold that entries up to `cut` list. Where several entries say what is in a pack, something in it
    /// is needed as soon as one of them says so: a wrong one can keep a pack, and not have it let go of.
    pub(super) fn survey_of(&self, cut: &LogCut, reached: &Chunks) -> Result<Survey, Errno> {
        let live = self.live_packs()?;
        let mut found: BTreeMap<PackId, Worn> = BTreeMap::new();
        self.each_listing(cut, &mut |_, pack, directory, (epoch, added_hlc)| {
            if !live.contains(&pack.id) {
                return;
            }
            let needed = || directory.iter().filter(|row| reached.has(&row.tag));
            let one = Worn {
                pack,
                added_hlc,
                epoch: Some(epoch),
                needed_bytes: needed().map(|row| u64::from(row.len)).sum(),
                needed_chunks: needed().count() as u64,
            };
            let known = found.entry(pack.id).or_insert(one);
            known.added_hlc = known.added_hlc.min(added_hlc);
            known.epoch = known.epoch.filter(|known| *known == epoch);
            known.needed_bytes = known.needed_bytes.max(one.needed_bytes);
            known.needed_chunks = known.needed_chunks.max(one.needed_chunks);
        })?;
        let (mut survey, limits) = (Survey::default(), self.limits());
        for known in found.into_values() {
            let (pack, needed_bytes) = (known.pack, known.needed_bytes);
            survey.packs += 1;
            survey.pack_bytes += pack.size;
            survey.live_bytes += needed_bytes;
            if needed_bytes == 0 {
                survey.dead.push(DeadPack { pack, added_ms: known.added_hlc >> 16 });
                continue;
            }
            if needed_bytes < pack.size / 2 {
                survey.half_dead_packs += 1;
                survey.half_dead_bytes += pack.size - needed_bytes;
            }
            if known.is_mostly_dead(&limits) || known.is_small(&limits) {
                survey.worn.push(known);
            }
        }
        Ok(survey)
    }
}
