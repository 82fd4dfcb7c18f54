//! What one seeder takes in from 1, 4 and 16 members at once, each with a folder of its own; how many proofs it
//! gives in a second; and how fast it reads what it holds.
//!
//! The members have no keys and live in this process; the seeder is the one that ships (`COBOX_SEEDER`). All share
//! this machine's cores, so the seeder's processor time a gigabyte says more than the rate.

#[path = "../../../cobox-net/tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use cobox_benches::load;
use cobox_benches::seeder::Seeder;
use cobox_net::PeerId;
use cobox_net::seeder::commands::{Answer, Request, ask_running};
use cobox_store::format::PROOF_SAMPLES;
use cobox_store::format::address::SeederAddress;
use common::{Made, Member, bytes};

/// What all members together send.
const TOTAL_BYTES: usize = 512 << 20;
/// The size that members aim at.
const PACK_BYTES: usize = 8 << 20;
const QUOTA_BYTES: u64 = 1 << 40;
const AUDITS: usize = 20;
const LIMIT: Duration = Duration::from_secs(300);

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    for members in [1, 4, 16] {
        measure(members)?;
    }
    Ok(())
}

/// A member with everything it will send, and no connection yet.
fn member(number: usize, members: usize, address: &SeederAddress) -> Member {
    let mut made = Made::new((members * 100 + number) as u64);
    made.grant(address, QUOTA_BYTES);
    let key = made.founder.clone();
    let mut member = Member::new(&made, &key, &[]);
    for pack in 0..TOTAL_BYTES / PACK_BYTES / members {
        member.write(&[bytes(((members * 100 + number) << 16 | pack) as u64, PACK_BYTES)]);
    }
    member
}

fn measure(count: usize) -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("seeder");
    std::fs::create_dir(&data)?;
    let seeder = Seeder::start(&data)?;
    let address = seeder.address()?;
    let peer = PeerId::from_bytes(&address.peer_id).ok_or("a peer id")?;
    let members: Vec<Member> = (0..count).map(|number| member(number, count, &address)).collect();
    println!("load {}; {count} members at once, {} MiB in all", load(), TOTAL_BYTES >> 20);
    let (started, busy) = (Instant::now(), seeder.processor_s());
    for member in &members {
        member.node.set_peers(member.no, vec![address.clone()]);
    }
    while !members.iter().all(|member| member.peer(peer).is_some_and(|status| status.is_caught_up())) {
        if started.elapsed() > LIMIT {
            return Err("the seeder has not caught up".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let seconds = started.elapsed().as_secs_f64();
    let per_gb = (seeder.processor_s() - busy) / (TOTAL_BYTES as f64 / 1e9);
    println!("{:<44} {:>8.0} MB/s", "taken in, stored and synced", TOTAL_BYTES as f64 / 1e6 / seconds);
    println!("{:<44} {per_gb:>8.2} s a GB", "the seeder's processor time");
    seeder.print_memory("its memory");
    audits(&seeder, &members, peer)?;
    scrub(&seeder, &data)
}

/// All members ask at once.
fn audits(seeder: &Seeder, members: &[Member], peer: PeerId) -> Result<(), Failure> {
    let (started, busy) = (Instant::now(), seeder.processor_s());
    let each = AUDITS.div_ceil(members.len());
    std::thread::scope(|scope| {
        let asking: Vec<_> = members
            .iter()
            .map(|member| {
                scope.spawn(move || (0..each).try_for_each(|_| member.node.audit(member.no, peer).map(drop)))
            })
            .collect();
        asking
            .into_iter()
            .try_for_each(|asked| asked.join().map_err(|_| "an audit panicked")?.map_err(Failure::from))
    })?;
    let proofs = (each * members.len() * PROOF_SAMPLES) as f64;
    println!("{:<44} {:>8.0} a second", "proofs", proofs / started.elapsed().as_secs_f64());
    println!(
        "{:<44} {:>8.1} ms a thousand",
        "the seeder's processor time",
        (seeder.processor_s() - busy) * 1e6 / proofs
    );
    Ok(())
}

fn scrub(seeder: &Seeder, data: &std::path::Path) -> Result<(), Failure> {
    let (started, busy) = (Instant::now(), seeder.processor_s());
    let answer = ask_running(data, &Request::Scrub).map_err(|failure| failure.text)?;
    let Some(Answer::Scrub { bytes, damaged, .. }) = answer else { return Err("no answer".into()) };
    if !damaged.is_empty() {
        return Err("something is damaged".into());
    }
    let megabytes = bytes as f64 / 1e6;
    println!("{:<44} {:>8.0} MB/s", "scrub", megabytes / started.elapsed().as_secs_f64());
    println!("{:<44} {:>8.2} s a GB", "its processor time", (seeder.processor_s() - busy) / megabytes * 1e3);
    Ok(())
}
