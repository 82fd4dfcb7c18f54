//! Which entries list a pack, and whether the pack is live: whether one of them does so beyond what releases
//! let go of. Every change of either comes through here, so that the order of arrival does not matter.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::batch::{Batch, Durability};
use super::branches::Branches;
use super::pack_info::State;
use super::packs::size_row;
use super::retention::{HOLD_MS, HOLD_YOUNG_MS, Hold};
use super::store::{Added, Store};
use super::tables::{Table, key};
use crate::error::{Error, Result};
use crate::format::access::{Act, Record};
use crate::format::codec::{DecodeError, Reader, Writer};
use crate::format::pack::PackRef;
use crate::format::release::Release;
use crate::id::{FolderNo, LogId, PackId, RecordHash};

/// The setting that says that the rows of [`Table::Listed`] are there for all entries.
pub(super) const LISTED: &[u8] = b"listed";

/// That entries of a log list a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Listing {
    pub(super) size: u64,
    /// The last entry that does.
    pub(super) seq: u64,
    /// When this store saw the first one, by its hold clock.
    pub(super) seen_ms: u64,
}

impl Listing {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        [self.size, self.seq, self.seen_ms].into_iter().for_each(|number| writer.u64(number));
        writer.into_bytes()
    }

    fn decode(bytes: &[u8]) -> std::result::Result<Self, DecodeError> {
        let field = "listing";
        let mut reader = Reader::new(bytes);
        let listing = Self { size: reader.u64(field)?, seq: reader.u64(field)?, seen_ms: reader.u64(field)? };
        reader.finish()?;
        Ok(listing)
    }
}

fn listing_key(no: FolderNo, pack: PackId, log: &LogId) -> Vec<u8> {
    key(no, Table::Listed, &[&pack.0[..], &log.0].concat())
}

impl Store {
    /// Notes that an entry lists a pack, and what follows. Says whether the pack is live because of it.
    pub(super) fn stage_listing(
        &self,
        no: FolderNo,
        (log, seq): (LogId, u64),
        pack: PackRef,
        batch: &mut Batch,
    ) -> Result<Added> {
        let mut listings = self.listings(no, pack.id)?;
        if listings.values().any(|known| known.size != pack.size) {
            return Err(Error::PackDamaged(pack.id));
        }
        let seen_ms = self.hold_now_ms();
        let listing = listings.entry(log).or_insert(Listing { size: pack.size, seq, seen_ms });
        listing.seq = listing.seq.max(seq);
        batch.put(&listing_key(no, pack.id, &log), &listing.encode());
        match self.live_size(no, pack.id)? {
            Some(size) if size == pack.size => return Ok(Added::Known),
            Some(_) => return Err(Error::PackDamaged(pack.id)),
            None => {}
        }
        let info = self.pack_info(no, pack.id)?;
        if info.as_ref().is_some_and(|info| info.size != pack.size) {
            return Err(Error::PackDamaged(pack.id));
        }
        let branches = self.branches(no)?;
        if !is_listed(&listings, &self.releases_of(no, pack.id)?, &branches) {
            return Ok(Added::Known);
        }
        batch.put(&key(no, Table::Live, &pack.id.0), &size_row(pack));
        batch.delete(&key(no, Table::Released, &pack.id.0));
        if info.is_none_or(|info| info.state != State::Complete) {
            batch.put(&key(no, Table::Missing, &pack.id.0), &size_row(pack));
        }
        Ok(Added::New)
    }

    /// A pack's size, and the last entry of a log that lists it (0 for none), where any entry lists it.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn listed(&self, no: FolderNo, pack: PackId, log: LogId) -> Result<Option<(u64, u64)>> {
        let listings = self.listings(no, pack)?;
        let size = listings.values().next().map(|listing| listing.size);
        Ok(size.map(|size| (size, listings.get(&log).map_or(0, |listing| listing.seq))))
    }

    /// Bytes of packs that were let go of and that others may still keep, as far as one can know who does not know their
    /// clocks: those are taken to run half of the time.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn kept_elsewhere(&self, no: FolderNo, now_ms: u64) -> Result<u64> {
        let (access, mut named) = (self.access(no)?, BTreeSet::new());
        for record in self.access_records(no)? {
            let Some(release) = access.releases.get(&record.hash()) else { continue };
            let ago_ms = now_ms.saturating_sub(record.content().issued_ms);
            let old = release.packs.iter().filter(|_| ago_ms < 2 * HOLD_MS);
            named.extend(old.chain(release.young.iter().filter(|_| ago_ms < 2 * HOLD_YOUNG_MS)).copied());
        }
        let mut bytes = 0u64;
        for pack in named {
            if self.live_size(no, pack)?.is_none() {
                let size = self.listings(no, pack)?.values().next().map_or(0, |listing| listing.size);
                bytes = bytes.saturating_add(size);
            }
        }
        Ok(bytes)
    }

    /// Makes the rows of a pack agree with which entries list it, which releases name it and what is here.
    pub(super) fn settle_pack(&self, no: FolderNo, pack: PackId) -> Result<()> {
        let _held = self.ordinals.lock();
        let listings = self.listings(no, pack)?;
        let (releases, branches) = (self.releases_of(no, pack)?, self.branches(no)?);
        let info = self.pack_info(no, pack)?;
        let row = |table| key(no, table, &pack.0);
        let mut batch = Batch::default();
        let size = listings.values().next().map(|listing| listing.size);
        match size.filter(|_| is_listed(&listings, &releases, &branches)) {
            Some(size) => {
                let size = size_row(PackRef { id: pack, size });
                let whole = info.is_some_and(|info| info.state == State::Complete);
                if !self.db().contains(&row(Table::Live))? {
                    batch.put(&row(Table::Live), &size);
                    batch.delete(&row(Table::Released));
                    self.logs.totals.lock().remove(&no);
                }
                match (whole, self.db().contains(&row(Table::Missing))?) {
                    (true, true) => batch.delete(&row(Table::Missing)),
                    (false, false) => batch.put(&row(Table::Missing), &size),
                    _ => {}
                }
            }
            None => {
                if self.db().contains(&row(Table::Live))? {
                    for table in [Table::Live, Table::Missing, Table::Damaged] {
                        batch.delete(&row(table));
                    }
                }
                // Also one whose release came before the entry that listed it.
                if let Some(info) = info.filter(|_| !listings.is_empty())
                    && !self.db().contains(&row(Table::Released))?
                {
                    let hold = self.hold_for(pack, &listings, &releases);
                    batch.put(&row(Table::Released), &Hold { size: info.size, ..hold }.encode());
                }
                self.logs.totals.lock().remove(&no);
            }
        }
        if batch.is_empty() { Ok(()) } else { self.db().commit(batch, Durability::Unsynced) }
    }

    /// Entries that list a pack, by their logs.
    fn listings(&self, no: FolderNo, pack: PackId) -> Result<BTreeMap<LogId, Listing>> {
        let (mut listings, mut wrong) = (BTreeMap::new(), Ok(()));
        self.db().scan(&key(no, Table::Listed, &pack.0), &[], &mut |log, value| {
            match (log.try_into(), Listing::decode(value)) {
                (Ok(log), Ok(listing)) => {
                    listings.insert(LogId(log), listing);
                }
                _ => wrong = Err(DecodeError::Invalid { field: "listing" }),
            }
            ControlFlow::Continue(())
        })?;
        wrong?;
        Ok(listings)
    }

    /// Releases that count and name a pack.
    fn releases_of(&self, no: FolderNo, pack: PackId) -> Result<Vec<Arc<Release>>> {
        let mut records = Vec::new();
        self.db().scan(&key(no, Table::Named, &pack.0), &[], &mut |record, _| {
            records.extend(record.try_into().map(RecordHash));
            ControlFlow::Continue(())
        })?;
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let access = self.access(no)?;
        Ok(records.iter().filter_map(|record| access.releases.get(record).cloned()).collect())
    }

    /// What follows for packs from a record that was taken: a release, or one that may make releases count or
    /// not count any more.
    pub(super) fn settle_releases(&self, no: FolderNo, record: &Record) -> Result<()> {
        match &record.content().act {
            Act::Release(release) => {
                self.ensure_listed(no)?;
                self.settle_named(no, release)
            }
            Act::RemoveDevice { .. } | Act::RemoveMember { .. } | Act::SetRole { .. } => {
                for record in self.access_records(no)? {
                    if let Act::Release(release) = &record.content().act {
                        self.settle_named(no, release)?;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn settle_named(&self, no: FolderNo, release: &Release) -> Result<()> {
        release.packs.iter().chain(&release.young).try_for_each(|pack| self.settle_pack(no, *pack))
    }

    /// Makes the rows of all packs agree that any release names.
    pub(super) fn settle_all_named(&self, no: FolderNo) -> Result<()> {
        let mut named = BTreeSet::new();
        self.db().scan(&key(no, Table::Named, &[]), &[], &mut |rest, _| {
            named.extend(rest.first_chunk().copied().map(PackId));
            ControlFlow::Continue(())
        })?;
        if named.is_empty() {
            return Ok(());
        }
        self.ensure_listed(no)?;
        named.into_iter().try_for_each(|pack| self.settle_pack(no, pack))
    }

    /// Makes the listings of entries that an earlier program stored without them.
    fn ensure_listed(&self, no: FolderNo) -> Result<()> {
        let done = key(no, Table::BlindSetting, LISTED);
        if self.db().contains(&done)? {
            return Ok(());
        }
        let mut batch = Batch::default();
        for head in self.log_heads(no)? {
            for (pack, listing) in self.listed_by(no, head.log, head.seq)? {
                batch.put(&listing_key(no, pack, &head.log), &listing.encode());
            }
        }
        batch.put(&done, &[]);
        self.db().commit(batch, Durability::Synced)
    }

    /// Packs that the first `seq` entries of a log list.
    fn listed_by(&self, no: FolderNo, log: LogId, seq: u64) -> Result<BTreeMap<PackId, Listing>> {
        let mut listed = BTreeMap::new();
        let seen_ms = self.hold_now_ms();
        for seq in 1..=seq {
            for pack in self
                .entry_unchecked(no, log, seq)?
                .map(|entry| entry.header().packs.clone())
                .unwrap_or_default()
            {
                listed.insert(pack.id, Listing { size: pack.size, seq, seen_ms });
            }
        }
        Ok(listed)
    }

    /// Adds that entries of a log beyond `seq` list no packs.
    pub(super) fn stage_unlisted(
        &self,
        no: FolderNo,
        (log, seq): (LogId, u64),
        packs: &BTreeSet<PackId>,
        batch: &mut Batch,
    ) -> Result<()> {
        let before = self.listed_by(no, log, seq)?;
        for pack in packs {
            let row = listing_key(no, *pack, &log);
            match before.get(pack) {
                Some(listing) => batch.put(&row, &listing.encode()),
                None => batch.delete(&row),
            }
        }
        Ok(())
    }

    /// Adds that a branch lists a pack which its log listed so far.
    pub(super) fn stage_listed(
        &self,
        no: FolderNo,
        (log, seq): (LogId, u64),
        pack: PackRef,
        batch: &mut Batch,
    ) {
        let listing = Listing { size: pack.size, seq, seen_ms: self.hold_now_ms() };
        batch.put(&listing_key(no, pack.id, &log), &listing.encode());
    }

    /// Forgets that entries of a log beyond `seq` list packs, and settles those.
    pub(super) fn unlist_beyond(
        &self,
        no: FolderNo,
        (log, seq): (LogId, u64),
        packs: &BTreeSet<PackId>,
    ) -> Result<()> {
        if packs.is_empty() {
            return Ok(());
        }
        self.ensure_listed(no)?;
        let mut batch = Batch::default();
        self.stage_unlisted(no, (log, seq), packs, &mut batch)?;
        self.db().commit(batch, Durability::Synced)?;
        packs.iter().try_for_each(|pack| self.settle_pack(no, *pack))
    }
}

/// Whether entries list the pack beyond what releases let go of: no release that names it covers all of its
/// listings. Two that cover them only together are about different moments, and count for nothing. Nor does one
/// whose cut reaches into branches: one copy of a device answered for both.
fn is_listed(listings: &BTreeMap<LogId, Listing>, releases: &[Arc<Release>], branches: &Branches) -> bool {
    let beyond = |release: &Arc<Release>| {
        let cuts_branches = branches.iter().any(|(_, branch)| release.covers(&branch.log) >= branch.from);
        cuts_branches || listings.iter().any(|(log, listing)| release.covers(log) < listing.seq)
    };
    !listings.is_empty() && releases.iter().all(beyond)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::super::packs::PackStatus;
    use super::super::store::StoreKind;
    use super::super::testing::{Author, Founder, add_device, device_of, new_store, pack_bytes, sign_record};
    use super::*;
    use crate::format::access::Role;
    use crate::format::entry::{Entry, LogHead};
    use crate::format::proof::Outboard;

    /// A folder with two writers and an admin beside the founder, and its packs.
    struct World {
        founder: Founder,
        writer: SigningKey,
        admin: SigningKey,
        records: Vec<Record>,
        packs: Vec<(Outboard, Vec<u8>)>,
    }

    impl World {
        fn new() -> (Self, Author, Author) {
            let founder = Founder::new(1);
            let (_dir, scratch, no) = new_store(&founder);
            let author = Author::new(&founder, &scratch, no);
            let (writer, admin) = (SigningKey::from_bytes(&[50; 32]), SigningKey::from_bytes(&[51; 32]));
            let device = device_of(&writer, 60, Role::Write);
            let first = add_device(&founder.key, &founder, &author.heads(), device);
            scratch.access_add(no, &first).expect("admitted");
            let device = device_of(&admin, 61, Role::Admin);
            let second = add_device(&founder.key, &founder, &[first.hash()], device);
            scratch.access_add(no, &second).expect("admitted");
            let records = scratch.access_records(no).expect("reads")[1..].to_vec();
            let packs = (0..4).map(|seed| pack_bytes(seed, 4096)).map(|bytes| (Outboard::of(&bytes), bytes));
            let other = author.with_key(writer.clone());
            (Self { founder, writer, admin, records, packs: packs.collect() }, author, other)
        }

        fn store(&self) -> (tempfile::TempDir, Arc<Store>, FolderNo) {
            let (dir, store, no) = new_store(&self.founder);
            for record in &self.records {
                store.access_add(no, record).expect("admitted");
            }
            store.packs_put(no, &self.packs).expect("puts");
            (dir, store, no)
        }

        fn refs(&self, which: &[usize]) -> Vec<PackRef> {
            which.iter().map(|at| self.packs[*at].0.pack()).collect()
        }

        fn release(&self, key: &SigningKey, mut cut: Vec<(LogId, u64)>, which: &[usize]) -> Record {
            cut.sort_unstable();
            let mut packs: Vec<PackId> = self.refs(which).iter().map(|pack| pack.id).collect();
            packs.sort_unstable();
            let act = Act::Release(Release { cut, packs, young: vec![] });
            let parent = self.records.last().expect("some").hash();
            sign_record(key, &self.founder, &[parent], act)
        }

        /// Which of the packs are live, and which are kept though they were released.
        fn state(&self, store: &Store, no: FolderNo) -> (Vec<usize>, Vec<usize>) {
            let all = || 0..self.packs.len();
            let id = |at: usize| self.packs[at].0.pack().id;
            let live = all().filter(|at| store.live_size(no, id(*at)).expect("reads").is_some()).collect();
            let row = |at: usize| key(no, Table::Released, &id(at).0);
            let held = all().filter(|at| store.db().contains(&row(*at)).expect("reads")).collect();
            (live, held)
        }
    }

    #[test]
    fn what_others_may_still_keep_is_what_was_released_lately_and_is_not_live_again() {
        let (world, mut author, mut other) = World::new();
        let (_dir, store, no) = world.store();
        store.entry_add(no, &author.write(&world.refs(&[0, 1, 2]), b"first")).expect("adds");
        store.entry_add(no, &other.write(&world.refs(&[2]), b"lists one again")).expect("adds");
        let release = world.release(&world.admin, vec![(author.log(), 1)], &[0, 1, 2]);
        store.access_add(no, &release).expect("admitted");
        let released_ms = release.content().issued_ms;
        for (ago_ms, bytes) in [(0, 8192), (2 * HOLD_MS - 1, 8192), (2 * HOLD_MS, 0)] {
            assert_eq!(store.kept_elsewhere(no, released_ms + ago_ms).expect("reads"), bytes);
        }
        // A clock that is behind takes nothing for gone.
        assert_eq!(store.kept_elsewhere(no, 0).expect("reads"), 8192);
    }

    enum News<'a> {
        Entry(&'a Entry),
        Record(&'a Record),
    }

    #[test]
    fn release_and_entries_in_any_order_leave_the_same_packs_live() {
        let (world, mut author, mut other) = World::new();
        let first = author.write(&world.refs(&[0, 1, 2]), b"first");
        let second = author.write(&world.refs(&[1, 3]), b"lists one again");
        let theirs = other.write(&world.refs(&[2]), b"lists another");
        let release = world.release(&world.admin, vec![(author.log(), 1)], &[0, 1, 2]);
        let news = [News::Entry(&first), News::Entry(&second), News::Entry(&theirs), News::Record(&release)];
        let mut orders = 0;
        for order in 0..24usize {
            // The order-th permutation of four.
            let mut left = vec![0, 1, 2, 3];
            let picks = [order / 6, order / 2 % 3, order % 2, 0];
            let turn: Vec<usize> = picks.iter().map(|pick| left.remove(*pick)).collect();
            let place = |what: usize| turn.iter().position(|at| *at == what);
            if place(0) > place(1) {
                continue;
            }
            orders += 1;
            let (dir, store, no) = world.store();
            for at in turn {
                match &news[at] {
                    News::Entry(entry) => store.entry_add(no, entry).map(drop),
                    News::Record(record) => store.access_add(no, record).map(drop),
                }
                .expect("is taken");
            }
            assert_eq!(world.state(&store, no), (vec![1, 2, 3], vec![0]), "order {order}");
            let usage = store.usage(no).expect("counts");
            assert_eq!((usage.packs, usage.pack_bytes, usage.held_bytes), (3, 3 * 4096, 4096));
            drop(store);
            let store = Store::open(dir.path(), StoreKind::Seeder).expect("opens");
            assert_eq!(world.state(&store, no), (vec![1, 2, 3], vec![0]));
        }
        assert_eq!(orders, 12);
    }

    #[test]
    fn release_that_reaches_into_branches_counts_for_nothing_whichever_comes_first() {
        let (world, mut author, _) = World::new();
        let shared = author.write(&world.refs(&[0, 3]), b"before the device was copied");
        let theirs = author.alike().write(&[], b"moves what pack 0 holds, which it lists nowhere");
        let ours = author.write(&world.refs(&[1]), b"answers for both");
        let late = world.release(&world.admin, vec![(author.log(), 2)], &[0, 1]);
        // What both copies answered before they were two is let go of for good.
        let early = world.release(&world.admin, vec![(author.log(), 1)], &[3]);
        let (entries, records) = ([&theirs, &ours], [&late, &early]);
        let news: Vec<News> =
            entries.into_iter().map(News::Entry).chain(records.into_iter().map(News::Record)).collect();
        for order in 0..24usize {
            let mut left = vec![0, 1, 2, 3];
            let picks = [order / 6, order / 2 % 3, order % 2, 0];
            let (dir, store, no) = world.store();
            store.entry_add(no, &shared).expect("adds");
            for at in picks.iter().map(|pick| left.remove(*pick)) {
                match &news[at] {
                    News::Entry(entry) => store.entry_add(no, entry).map(drop),
                    News::Record(record) => store.access_add(no, record).map(drop),
                }
                .expect("is taken");
            }
            assert_eq!(world.state(&store, no), (vec![0, 1], vec![3]), "order {order}");
            assert_eq!(store.usage(no).expect("counts").packs, 2, "order {order}");
            drop(store);
            let store = Store::open(dir.path(), StoreKind::Seeder).expect("opens");
            assert_eq!(world.state(&store, no), (vec![0, 1], vec![3]));
        }
    }

    #[test]
    fn released_pack_that_is_listed_again_is_live_and_whole_at_once() {
        let (world, mut author, mut other) = World::new();
        let (_dir, store, no) = world.store();
        store.entry_add(no, &author.write(&world.refs(&[0, 1]), b"")).expect("adds");
        let release = world.release(&world.admin, vec![(author.log(), 1)], &[0, 1]);
        store.access_add(no, &release).expect("admitted");
        assert_eq!(world.state(&store, no), (vec![], vec![0, 1]));
        let pack = world.refs(&[0])[0];
        assert_eq!(store.pack_status(no, pack.id).expect("reads"), PackStatus::Complete(pack));
        store.entry_add(no, &other.write(&[pack], b"needs it")).expect("adds");
        assert_eq!(world.state(&store, no), (vec![0], vec![1]));
        assert!(store.packs_missing(no, None, 9).expect("scans").is_empty());
        store.retention_advance(u64::MAX).expect("goes on");
        for _ in 0..super::super::HOLD_MS / super::super::retention::ADVANCE_MS_MAX {
            store.retention_advance(u64::MAX).expect("goes on");
        }
        assert_eq!(store.pack_status(no, pack.id).expect("reads"), PackStatus::Complete(pack));
        let gone = world.refs(&[1])[0].id;
        assert_eq!(store.pack_status(no, gone).expect("reads"), PackStatus::Unknown);
    }

    #[test]
    fn writer_cannot_release_and_a_dismissed_admins_release_is_undone() {
        let (mut world, mut author, _) = World::new();
        let (_dir, store, no) = world.store();
        let entry = author.write(&world.refs(&[0, 1]), b"");
        store.entry_add(no, &entry).expect("adds");
        let cut = vec![(author.log(), 1)];
        let theirs = world.release(&world.writer, cut.clone(), &[0]);
        assert!(matches!(store.access_add(no, &theirs), Err(Error::Access { .. })));
        let release = world.release(&world.admin, cut.clone(), &[0, 1]);
        store.access_add(no, &release).expect("admitted");
        assert_eq!(world.state(&store, no), (vec![], vec![0, 1]));
        // The founder dismisses the admin, without having seen what it released.
        let last = LogHead {
            log: LogId(world.admin.verifying_key().to_bytes()),
            seq: 0,
            hash: crate::id::EntryHash([0; 32]),
        };
        let parent = world.records.last().expect("some").hash();
        let removal = sign_record(&world.founder.key, &world.founder, &[parent], Act::RemoveDevice { last });
        store.access_add(no, &removal).expect("admitted");
        assert_eq!(world.state(&store, no), (vec![0, 1], vec![]));
        // Nor does a release count that comes later, back-dated as it may be.
        let late = world.release(&world.admin, cut, &[0]);
        assert!(store.access_add(no, &late).is_ok(), "it was an admin by what it builds on");
        assert_eq!(world.state(&store, no), (vec![0, 1], vec![]));
        world.records.push(removal);
        let own = world.release(&world.founder.key, vec![(author.log(), 1)], &[1]);
        store.access_add(no, &own).expect("admitted");
        assert_eq!(world.state(&store, no), (vec![0], vec![1]));
    }

    #[test]
    fn release_that_a_crash_left_without_effect_has_it_after_the_next_opening() {
        let (world, mut author, _) = World::new();
        let (dir, store, no) = world.store();
        store.entry_add(no, &author.write(&world.refs(&[0]), b"")).expect("adds");
        let release = world.release(&world.admin, vec![(author.log(), 1)], &[0]);
        let mut batch = Batch::default();
        let position = store.access_records(no).expect("reads").len() as u64;
        super::super::access::stage_record(no, position, &release, &mut batch);
        super::super::effects::stage_effects(no, &release, &mut batch);
        store.db().commit(batch, Durability::Synced).expect("commits");
        drop(store);
        let store = Store::open(dir.path(), StoreKind::Seeder).expect("opens");
        assert_eq!(world.state(&store, no), (vec![], vec![0]));
    }

    #[test]
    fn store_of_an_earlier_program_learns_what_its_entries_list() {
        let (world, mut author, _) = World::new();
        let (_dir, store, no) = world.store();
        store.entry_add(no, &author.write(&world.refs(&[0, 1]), b"")).expect("adds");
        store.entry_add(no, &author.write(&world.refs(&[1]), b"")).expect("adds");
        let mut batch = Batch::default();
        batch.delete_prefix(&key(no, Table::Listed, &[]));
        batch.delete(&key(no, Table::BlindSetting, LISTED));
        store.db().commit(batch, Durability::Synced).expect("commits");
        let release = world.release(&world.admin, vec![(author.log(), 1)], &[0, 1]);
        store.access_add(no, &release).expect("admitted");
        assert_eq!(world.state(&store, no), (vec![1], vec![0]));
    }
}
