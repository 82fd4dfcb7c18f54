//! Grants that wait for a seeder's owner, a file each.
//!
//! Anybody may offer one, so their number and bytes are bounded, and where there is no room the stranger that
//! fills most of it loses what it offered longest ago. Members offer again while they wait, which keeps
//! what is still wanted.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cobox_store::format::access::{Record, UnverifiedRecord};
use cobox_store::format::{Reader, Writer};
use cobox_store::id::FolderId;

use super::Failure;
use crate::peer_id::PeerId;

/// Grants that wait at the most: more than a person decides on.
pub const PENDING_MAX: usize = 64;
/// Of one peer: a member with several folders.
const PENDING_PER_PEER: usize = 8;
/// Bytes of all that wait: some of folders with thousands of devices.
const PENDING_BYTES_MAX: u64 = 64 << 20;
/// Bytes of a peer id, with its length, at the most.
const PEER_BYTES_MAX: u64 = 2 + 64;
/// An offer that is being written; no folder has this name.
const PART: &str = "offer.new";

/// The folder of waiting grants.
#[derive(Debug)]
pub struct Pending(PathBuf);

struct Waiting {
    folder: FolderId,
    from: Option<PeerId>,
    bytes: u64,
    offered: SystemTime,
}

impl Pending {
    /// Opens or makes it in a seeder's data folder.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(data: &Path) -> Result<Self, Failure> {
        let dir = data.join("pending");
        std::fs::create_dir_all(&dir)
            .map_err(|error| Failure::failed(format!("{} cannot be made: {error}.", dir.display())))?;
        Ok(Self(dir))
    }

    /// Keeps an offer, in place of an earlier one for its folder.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn keep(&self, folder: FolderId, from: PeerId, records: &[Record]) -> std::io::Result<()> {
        let mut writer = Writer::new();
        writer.bytes16(&from.to_bytes());
        records.iter().for_each(|record| writer.bytes32(&record.encode()));
        let bytes = writer.into_bytes();
        let waiting = self.waiting().into_iter().filter(|waiting| waiting.folder != folder).collect();
        for evicted in evict(waiting, from, bytes.len() as u64) {
            tracing::info!(folder = %evicted, "a grant that waited made room for another");
            std::fs::remove_file(self.path(evicted))?;
        }
        // Whole or not at all: a reader, or a power cut, finds the old one or the new one.
        let part = self.0.join(PART);
        std::fs::write(&part, bytes)?;
        std::fs::rename(part, self.path(folder))
    }

    /// Removes one that is settled.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&self, folder: FolderId) -> std::io::Result<()> {
        std::fs::remove_file(self.path(folder))
    }

    /// Who offered, and what.
    pub fn read(&self, folder: FolderId) -> Option<(PeerId, Vec<Record>)> {
        let bytes = std::fs::read(self.path(folder)).ok()?;
        let mut reader = Reader::new(&bytes);
        let from = PeerId::from_bytes(reader.bytes16(64, "peer").ok()?)?;
        let mut records = Vec::new();
        while reader.left() > 0 {
            let bytes = reader.bytes32(1 << 20, "record").ok()?;
            records.push(UnverifiedRecord::decode(bytes).ok()?.verify().ok()?);
        }
        Some((from, records))
    }

    /// The folders of all that wait.
    pub fn folders(&self) -> Vec<FolderId> {
        self.waiting().into_iter().map(|waiting| waiting.folder).collect()
    }

    fn path(&self, folder: FolderId) -> PathBuf {
        self.0.join(folder.to_hex())
    }

    fn waiting(&self) -> Vec<Waiting> {
        let Ok(files) = std::fs::read_dir(&self.0) else { return Vec::new() };
        let waiting = files.filter_map(|file| {
            let file = file.ok()?;
            let folder = FolderId::from_hex(file.file_name().to_str()?)?;
            let about = file.metadata().ok()?;
            let mut start = Vec::new();
            std::fs::File::open(file.path()).ok()?.take(PEER_BYTES_MAX).read_to_end(&mut start).ok()?;
            let from = Reader::new(&start).bytes16(64, "peer").ok().and_then(PeerId::from_bytes);
            let offered = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            Some(Waiting { folder, from, bytes: about.len(), offered })
        });
        waiting.collect()
    }
}

/// What makes room for one more offer of `from`.
fn evict(mut waiting: Vec<Waiting>, from: PeerId, bytes: u64) -> Vec<FolderId> {
    waiting.sort_by_key(|waiting| waiting.offered);
    let mut evicted = Vec::new();
    loop {
        let mut shares: HashMap<Option<PeerId>, usize> = HashMap::new();
        waiting.iter().for_each(|waiting| *shares.entry(waiting.from).or_default() += 1);
        let own = shares.get(&Some(from)).copied().unwrap_or(0);
        let total: u64 = waiting.iter().map(|waiting| waiting.bytes).sum();
        let full = waiting.len() >= PENDING_MAX || total.saturating_add(bytes) > PENDING_BYTES_MAX;
        let most = shares.values().max().copied().unwrap_or(0);
        let victim = |waiting: &Waiting| {
            if own >= PENDING_PER_PEER {
                waiting.from == Some(from)
            } else {
                full && shares.get(&waiting.from) == Some(&most)
            }
        };
        let Some(at) = waiting.iter().position(victim) else { return evicted };
        evicted.push(waiting.remove(at).folder);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn peer(number: u8) -> PeerId {
        PeerId::of_key([number; 32])
    }

    fn offer(number: u8, from: u8) -> Waiting {
        let offered = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(number));
        Waiting { folder: FolderId([number; 32]), from: Some(peer(from)), bytes: 1000, offered }
    }

    #[test]
    fn stranger_that_offers_much_loses_its_own_oldest_offers() {
        let mut waiting: Vec<Waiting> = (0..8).map(|number| offer(number, 1)).collect();
        waiting.push(offer(100, 2));
        assert_eq!(evict(waiting, peer(1), 1000), [FolderId([0; 32])]);
    }

    #[test]
    fn full_list_loses_the_oldest_offer_of_who_fills_most_of_it() {
        let many = u8::try_from(PENDING_MAX).expect("a small list");
        // The oldest is of a member with one folder; a stranger has seven.
        let full = || {
            (0..many).map(|number| offer(number, if (20..27).contains(&number) { 1 } else { 100 + number }))
        };
        assert_eq!(evict(full().collect(), peer(2), 1000), [FolderId([20; 32])]);
        assert_eq!(evict(full().skip(1).collect(), peer(2), 1000), []);
        let single = (0..many).map(|number| offer(number, 100 + number));
        assert_eq!(evict(single.collect(), peer(2), 1000), [FolderId([0; 32])]);
    }

    #[test]
    fn offers_of_many_bytes_leave_no_more_than_their_share() {
        let mut large = offer(1, 1);
        large.bytes = PENDING_BYTES_MAX - 10;
        assert_eq!(evict(vec![offer(2, 2), large], peer(3), 1000).len(), 1);
    }
}
