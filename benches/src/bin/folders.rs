//! A seeder with many folders: start-up time, and memory when idle, during an audit and during a sync.
//!
//! Makes a store through the store's own API, small packs in many folders, and starts the seeder that ships on it.
//! `folders [FOLDERS PACKS]`, without arguments 1,000 with 80,000 and 10,000 with 10,000; `COBOX_SEEDER` names
//! the program. What 10,000,000 chunks are to a seeder is 80,000 packs of 125 chunks.

#[path = "../../../cobox-net/tests/common/mod.rs"]
mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use cobox_benches::load;
use cobox_benches::seeder::Seeder;
use cobox_net::seeder::identity::Identity;
use cobox_store::blind::{Store, StoreKind};
use cobox_store::format::entry::{Entry, Header};
use cobox_store::format::proof::Outboard;
use cobox_store::id::{EntryHash, EpochId, LogId, hash};
use common::{Made, Member, bytes};
use ed25519_dalek::Signer as _;

/// The smallest size class.
const PACK_BYTES: usize = 4096;
/// What a member writes while memory is watched.
const SYNC_BYTES: usize = 32 << 20;
const PACKS_PER_ENTRY: usize = 64;
const QUOTA_BYTES: u64 = 1 << 40;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<usize> =
        std::env::args().skip(1).map(|word| word.parse()).collect::<Result<_, _>>()?;
    match arguments[..] {
        [folders, packs] => measure(folders, packs),
        _ => measure(1000, 80_000).and_then(|()| measure(10_000, 10_000)),
    }
}

fn measure(folders: usize, packs: usize) -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("seeder");
    std::fs::create_dir(&data)?;
    let started = Instant::now();
    let first = make(&data, folders, packs.div_ceil(folders))?;
    println!(
        "load {}; {folders} folders, {packs} packs, made in {:.0} s",
        load(),
        started.elapsed().as_secs_f64()
    );
    let started = Instant::now();
    let seeder = Seeder::start(&data)?;
    println!("{:<44} {:>8.2} s", "start until the first status", started.elapsed().as_secs_f64());
    let wait = Duration::from_secs(10);
    for when in ["in the first 10 s", "in the next 10 s"] {
        let before = seeder.processor_s();
        std::thread::sleep(wait);
        let busy = (seeder.processor_s() - before) / wait.as_secs_f64();
        seeder.print_memory(&format!("memory {when}"));
        println!("{:<44} {:>8.1} % of a core", format!("processor {when}"), busy * 100.0);
    }
    let address = seeder.address()?;
    let peer = cobox_net::PeerId::from_bytes(&address.peer_id).ok_or("a peer id")?;
    let key = first.founder.clone();
    // The member has what the seeder has of its folder, so that it can audit.
    let mut member = Member::new(&first, &key, &[]);
    member.node.set_peers(member.no, vec![address]);
    for at in 0..packs.div_ceil(folders).div_ceil(PACKS_PER_ENTRY) {
        member.write(&entry_packs(0, at, packs.div_ceil(folders)));
    }
    member.wait_caught_up(peer);
    let started = Instant::now();
    for _ in 0..20 {
        member.node.audit(member.no, peer)?;
    }
    println!("{:<44} {:>8.1} a second", "audits", 20.0 / started.elapsed().as_secs_f64());
    seeder.print_memory("memory after audits");
    let started = Instant::now();
    for number in 0..SYNC_BYTES >> 21 {
        member.write(&[bytes(900 + number as u64, 2 << 20)]);
    }
    member.wait_caught_up(peer);
    println!(
        "{:<44} {:>8.0} MB/s",
        "sync of 32 MiB",
        SYNC_BYTES as f64 / 1e6 / started.elapsed().as_secs_f64()
    );
    seeder.print_memory("memory after a sync");
    Ok(())
}

/// The packs of one entry of a folder.
fn entry_packs(folder: usize, entry: usize, packs: usize) -> Vec<Vec<u8>> {
    let first = entry * PACKS_PER_ENTRY;
    let all = first..packs.min(first + PACKS_PER_ENTRY);
    all.map(|number| bytes((folder as u64) << 32 | number as u64, PACK_BYTES)).collect()
}

/// Makes the store; returns the first folder.
fn make(data: &Path, folders: usize, packs: usize) -> Result<Made, Failure> {
    let store = Store::create(data, StoreKind::Seeder)?;
    let identity = Identity::open_or_create(data).map_err(|failure| failure.text)?;
    let address = identity.address(Vec::new());
    let mut first = None;
    for folder in 0..folders {
        let mut made = Made::new(folder as u64);
        made.grant(&address, QUOTA_BYTES);
        let no = made.import(&store);
        store.quota_set(no, QUOTA_BYTES, 0)?;
        let mut prev = EntryHash([0; 32]);
        for at in 0..packs.div_ceil(PACKS_PER_ENTRY) {
            let packs = entry_packs(folder, at, packs);
            let made_packs: Vec<(Outboard, Vec<u8>)> =
                packs.into_iter().map(|bytes| (Outboard::of(&bytes), bytes)).collect();
            store.packs_put(no, &made_packs)?;
            // As `Member::write` makes it, so that the member's log is this one.
            let body = bytes(at as u64, 200);
            let header = Header {
                folder: made.id(),
                log: LogId(made.founder.verifying_key().to_bytes()),
                seq: at as u64 + 1,
                prev,
                access_heads: vec![made.epoch],
                epoch: EpochId(made.epoch.0),
                packs: made_packs.iter().map(|(outboard, _)| outboard.pack()).collect(),
                body_size: u32::try_from(body.len())?,
                body_hash: hash(&body),
            };
            prev = header.hash();
            let signature = made.founder.sign(&header.signed_bytes()).to_bytes();
            store.entry_add(no, &Entry::new(header, signature, body))?;
        }
        first.get_or_insert(made);
    }
    first.ok_or_else(|| "no folder was made".into())
}
