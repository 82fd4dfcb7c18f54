//! The patrol: reads everything that lies in a folder a little at a time, so that damage is found while
//! another holder still has what is lost. Needs no key.
//!
//! A round visits every complete pack, slice by slice, and then every row. Where it stands is kept, so that
//! a restart goes on with the round. Damaged slices leave their pack, which is missing again and fetched
//! from another holder like any that never came. How fast and how often is the caller's choice; so is the time.

use std::ops::ControlFlow;

use super::batch::{Batch, Durability};
use super::scrub::CheckReport;
use super::store::Store;
use super::tables::{Table, key};
use crate::error::{Error, Result};
use crate::format::codec::{DecodeError, Reader, Writer};
use crate::id::{FolderNo, PackId};

const SETTING: &str = "patrol";
const VERSION: u8 = 1;
/// A cursor is a pack id, or a key of a row: table, log id, number, hash of a name.
const CURSOR_BYTES_MAX: usize = 1024;

/// What the patrol of a folder has seen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Patrol {
    /// Rounds that were finished.
    pub rounds: u64,
    /// When the last round began, milliseconds since 1970 by this machine's clock; 0 for never.
    pub began_ms: u64,
    /// When the last finished round ended; 0 for never.
    pub ended_ms: u64,
    /// Packs that were read in the round that began last.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What stands in the way of reading all rows, as of the round that ended last.
    pub rows: Rows,
    at: Cursor,
}

/// Whether the rows of a folder could be read to their end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rows {
    /// They could, or nobody looked yet.
    #[default]
    Sound,
    /// A part of the database's own rows is damaged: no other holder can mend that in place.
    Damaged,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
enum Cursor {
    /// Between rounds.
    #[default]
    Rest,
    /// Packs, from this key on.
    Packs(Vec<u8>),
    /// Rows, from this key on.
    Rows(Vec<u8>),
}

/// What one step of a patrol did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// No round is due.
    Rest,
    /// Something was read.
    Read {
        /// How much.
        bytes: u64,
        /// Packs in which damage was found.
        damaged: Vec<PackId>,
    },
}

/// Damage of a folder's packs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Damage {
    /// Packs in which damage was found, ever.
    pub found: u64,
    /// Those of them that no other holder has mended yet.
    pub unmended: u64,
}

impl Patrol {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(VERSION);
        for number in [self.rounds, self.began_ms, self.ended_ms, self.packs, self.bytes] {
            writer.u64(number);
        }
        writer.u8(u8::from(self.rows == Rows::Damaged));
        let (phase, from): (u8, &[u8]) = match &self.at {
            Cursor::Rest => (0, &[]),
            Cursor::Packs(from) => (1, from),
            Cursor::Rows(from) => (2, from),
        };
        writer.u8(phase);
        writer.bytes16(from);
        writer.into_bytes()
    }

    fn decode(bytes: &[u8]) -> std::result::Result<Self, DecodeError> {
        let field = "patrol";
        let mut reader = Reader::new(bytes);
        reader.version(VERSION, field)?;
        let mut patrol = Self {
            rounds: reader.u64(field)?,
            began_ms: reader.u64(field)?,
            ended_ms: reader.u64(field)?,
            packs: reader.u64(field)?,
            bytes: reader.u64(field)?,
            rows: if reader.flag(field)? { Rows::Damaged } else { Rows::Sound },
            at: Cursor::Rest,
        };
        let phase = reader.u8(field)?;
        let from = reader.bytes16(CURSOR_BYTES_MAX, field)?.to_vec();
        patrol.at = match phase {
            0 if from.is_empty() => Cursor::Rest,
            1 => Cursor::Packs(from),
            2 => Cursor::Rows(from),
            _ => return Err(DecodeError::Invalid { field }),
        };
        reader.finish()?;
        Ok(patrol)
    }

    /// Whether a round goes on, or one is due: a clock that was set back does not put it off.
    #[must_use]
    pub fn is_due(&self, every_ms: u64, now_ms: u64) -> bool {
        self.at != Cursor::Rest || self.ended_ms == 0 || now_ms.abs_diff(self.ended_ms) >= every_ms
    }
}

impl Store {
    /// What the patrol of a folder has seen so far.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn patrol(&self, no: FolderNo) -> Result<Patrol> {
        let row = self.setting(no, SETTING)?;
        // Where it cannot be understood a round is due.
        Ok(row.and_then(|bytes| Patrol::decode(&bytes).ok()).unwrap_or_default())
    }

    /// Damage of a folder's packs.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn damage(&self, no: FolderNo) -> Result<Damage> {
        let mut damage = Damage { found: self.damage_found(no)?, unmended: 0 };
        self.db().scan(&key(no, Table::Damaged, &[]), &[], &mut |_, _| {
            damage.unmended += 1;
            ControlFlow::Continue(())
        })?;
        Ok(damage)
    }

    /// Ends a round whose packs were read in one go by [`Self::check_packs`]: reads the rows, and notes when it was. A
    /// round under way is over with it.
    ///
    /// # Errors
    /// When the disk cannot be read at all, or the database not written.
    pub fn patrol_ended(
        &self,
        no: FolderNo,
        report: &CheckReport,
        began_ms: u64,
        ended_ms: u64,
    ) -> Result<Patrol> {
        let _turn = self.patrolling.lock();
        let mut patrol = self.patrol(no)?;
        self.patrol_rows(no, &[], u64::MAX, &mut patrol)?;
        (patrol.began_ms, patrol.packs, patrol.bytes) = (began_ms, report.packs, report.bytes);
        (patrol.at, patrol.rounds, patrol.ended_ms) = (Cursor::Rest, patrol.rounds + 1, ended_ms.max(1));
        self.patrol_keep(no, &patrol)?;
        Ok(patrol)
    }

    fn patrol_keep(&self, no: FolderNo, patrol: &Patrol) -> Result<()> {
        let mut batch = Batch::default();
        batch.put(&key(no, Table::BlindSetting, SETTING.as_bytes()), &patrol.encode());
        // Unsynced: power loss costs the round a few packs that are read twice.
        self.db().commit(batch, Durability::Unsynced)
    }

    /// Reads on for about `budget_bytes`, if a round goes on or `every_ms` have passed since the last one.
    /// Damaged packs lose the slices that are, and are missing again.
    ///
    /// # Errors
    /// When the disk cannot be read at all, or the database not written.
    pub fn patrol_step(&self, no: FolderNo, every_ms: u64, now_ms: u64, budget_bytes: u64) -> Result<Step> {
        let _turn = self.patrolling.lock();
        let mut patrol = self.patrol(no)?;
        if !patrol.is_due(every_ms, now_ms) {
            return Ok(Step::Rest);
        }
        let (mut bytes, mut damaged) = (0, Vec::new());
        match std::mem::take(&mut patrol.at) {
            Cursor::Rest => {
                (patrol.began_ms, patrol.packs, patrol.bytes) = (now_ms, 0, 0);
                patrol.at = Cursor::Packs(Vec::new());
            }
            Cursor::Packs(from) => {
                let (read, next) = self.patrol_packs(no, from, budget_bytes, &mut patrol, &mut damaged)?;
                (bytes, patrol.at) = (read, next);
            }
            Cursor::Rows(from) => {
                let (read, next) = self.patrol_rows(no, &from, budget_bytes, &mut patrol)?;
                (bytes, patrol.at) = (read, next);
                if patrol.at == Cursor::Rest {
                    patrol.rounds += 1;
                    patrol.ended_ms = now_ms.max(1);
                }
            }
        }
        self.patrol_keep(no, &patrol)?;
        Ok(Step::Read { bytes, damaged })
    }

    fn patrol_packs(
        &self,
        no: FolderNo,
        from: Vec<u8>,
        budget_bytes: u64,
        patrol: &mut Patrol,
        damaged: &mut Vec<PackId>,
    ) -> Result<(u64, Cursor)> {
        let page = self.page(no, &from)?;
        let (mut read, mut next) = (0, None);
        for id in &page {
            if read >= budget_bytes {
                break;
            }
            // The least key after this one.
            next = Some([&id.0[..], &[0]].concat());
            let Some((pack, unsound)) = self.check_pack(no, *id)? else { continue };
            read += pack.size;
            patrol.packs += 1;
            patrol.bytes += pack.size;
            if !unsound.is_empty() {
                damaged.push(pack.id);
                self.pack_mark_damaged(no, pack.id)?;
            }
        }
        Ok((read, next.map_or(Cursor::Rows(Vec::new()), Cursor::Packs)))
    }

    fn patrol_rows(
        &self,
        no: FolderNo,
        from: &[u8],
        budget_bytes: u64,
        patrol: &mut Patrol,
    ) -> Result<(u64, Cursor)> {
        let (mut read, mut next) = (0, None);
        let scanned = self.db().scan(&no.0.to_be_bytes(), from, &mut |row_key, value| {
            read += (row_key.len() + value.len()) as u64;
            if read < budget_bytes {
                return ControlFlow::Continue(());
            }
            next = Some([row_key, &[0]].concat());
            ControlFlow::Break(())
        });
        match scanned {
            Ok(()) => {
                let ended = next.is_none();
                if ended {
                    patrol.rows = Rows::Sound;
                }
                let next = next.filter(|from| from.len() <= CURSOR_BYTES_MAX);
                Ok((read, next.map_or(Cursor::Rest, Cursor::Rows)))
            }
            Err(Error::Db(failure)) if failure.is_damage() => {
                patrol.rows = Rows::Damaged;
                tracing::error!(folder = no.0, %failure, "rows of the database are damaged");
                Ok((read, Cursor::Rest))
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::damage::bend;
    use super::super::store::StoreKind;
    use super::super::testing::{Author, Founder, new_store, pack_bytes};
    use super::*;
    use crate::format::proof::Outboard;

    const WEEK_MS: u64 = 7 * 24 * 3600 * 1000;

    /// Steps until the round that is due ends; what it found.
    fn round(store: &Store, no: FolderNo, now_ms: u64) -> Vec<PackId> {
        let (before, mut found) = (store.patrol(no).expect("reads").rounds, Vec::new());
        while store.patrol(no).expect("reads").rounds == before {
            match store.patrol_step(no, WEEK_MS, now_ms, 1 << 19).expect("reads") {
                Step::Rest => panic!("no round is due"),
                Step::Read { damaged, .. } => found.extend(damaged),
            }
        }
        found
    }

    #[test]
    fn patrol_reads_everything_once_a_round_and_goes_on_after_a_restart() {
        let founder = Founder::new(1);
        let (dir, store, no) = new_store(&founder);
        let mut author = Author::new(&founder, &store, no);
        let packs: Vec<_> = (0..6)
            .map(|seed| pack_bytes(seed, if seed % 2 == 0 { 1 << 20 } else { 4096 }))
            .map(|bytes| (Outboard::of(&bytes), bytes))
            .collect();
        let refs: Vec<_> = packs.iter().map(|(outboard, _)| outboard.pack()).collect();
        store.packs_put(no, &packs).expect("puts");
        store.entry_add(no, &author.write(&refs, b"")).expect("adds");
        for _ in 0..3 {
            store.patrol_step(no, WEEK_MS, 1_000, 1 << 19).expect("reads");
        }
        let half = store.patrol(no).expect("reads");
        assert!(half.packs > 0 && half.packs < 6, "{half:?}");
        drop(store);
        let store = Store::open(dir.path(), StoreKind::Seeder).expect("opens");
        assert_eq!(store.patrol(no).expect("reads"), half);
        assert!(round(&store, no, 2_000).is_empty());
        let whole = store.patrol(no).expect("reads");
        assert_eq!((whole.packs, whole.bytes, whole.rounds), (6, (3 << 20) + 3 * 4096, 1));
        assert_eq!((whole.began_ms, whole.ended_ms, whole.rows), (1_000, 2_000, Rows::Sound));
        assert_eq!(store.patrol_step(no, WEEK_MS, WEEK_MS, 1).expect("reads"), Step::Rest);
        let ordinal = store.pack_info(no, refs[2].id).expect("reads").expect("is there").ordinal;
        bend(store.db(), ordinal, 3);
        assert_eq!(round(&store, no, WEEK_MS + 2_000), [refs[2].id]);
        assert_eq!(store.packs_missing(no, None, 9).expect("scans"), [refs[2]]);
        assert_eq!(store.damage(no).expect("reads"), Damage { found: 1, unmended: 1 });
        store.packs_put(no, &packs).expect("heals");
        assert_eq!(store.damage(no).expect("reads"), Damage { found: 1, unmended: 0 });
        // A clock that was set back by a month does not put the next round off.
        assert!(round(&store, no, 1).is_empty());
        assert_eq!(store.patrol(no).expect("reads").rounds, 3);
    }

    #[test]
    fn packs_that_were_all_read_at_once_end_a_round() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let mut author = Author::new(&founder, &store, no);
        let bytes = pack_bytes(1, 1 << 20);
        let outboard = Outboard::of(&bytes);
        store.entry_add(no, &author.write(&[outboard.pack()], b"")).expect("adds");
        store.packs_put(no, &[(outboard, bytes)]).expect("puts");
        // A round has just begun.
        store.patrol_step(no, WEEK_MS, 1_000, 1).expect("reads");
        let report = store.check_packs(no, &mut |_, _| ControlFlow::Continue(())).expect("reads");
        store.patrol_ended(no, &report, 2_000, 3_000).expect("writes");
        let patrol = store.patrol(no).expect("reads");
        assert_eq!((patrol.began_ms, patrol.ended_ms, patrol.rounds), (2_000, 3_000, 1));
        assert_eq!((patrol.packs, patrol.bytes, patrol.rows), (1, 1 << 20, Rows::Sound));
        assert_eq!(store.patrol_step(no, WEEK_MS, 4_000, 1).expect("reads"), Step::Rest);
    }

    #[test]
    fn patrol_row_of_every_phase_round_trips() {
        for at in [Cursor::Rest, Cursor::Packs(vec![7; 33]), Cursor::Rows(vec![])] {
            let patrol = Patrol { rounds: 3, rows: Rows::Damaged, at, ..Patrol::default() };
            assert_eq!(Patrol::decode(&patrol.encode()), Ok(patrol.clone()));
            assert!(Patrol::decode(&patrol.encode()[1..]).is_err());
        }
    }
}
