//! Members that are slow on purpose, on many connections at once: they ask for large packs and read a byte now and
//! then, and begin large frames that they never end.

use cobox_net::wire::{Ask, BulkFrame, OutboardWish};
use cobox_store::format::pack::PackRef;
use cobox_store::format::proof::slice_count;

use super::session::{MANY, SESSION, enter_all, persons, send};
use super::*;

/// The largest there are: for all connections whole ones would not fit into the memory that a seeder may take.
const LARGE_BYTES: usize = 16 << 20;
/// Asks on each connection.
const ASKS: u32 = 60;
/// A byte is read, and one is sent, this often.
const DRIP: Duration = Duration::from_millis(200);
/// What stands still for 30 seconds is ended; with the time that it takes to notice.
const END_WAIT: Duration = Duration::from_secs(75);

/// Reads and writes a byte now and then, until the other side has enough of it.
async fn dawdle((stranger, mut control): (Stranger, SubstreamBox), packs: Vec<PackRef>) {
    let Some(mut bulk) = stranger.protocol(BULK_PROTOCOL).await else { return };
    for (number, pack) in (0..ASKS).zip(packs.iter().cycle()) {
        let count = u16::try_from(slice_count(pack.size)).expect("at most 256");
        let ask =
            Ask { ask: number, session: SESSION, pack: *pack, outboard: OutboardWish::Send, first: 0, count };
        if send(&mut bulk, &BulkFrame::Ask(ask).encode()).await.is_none() {
            return;
        }
    }
    let mut begun = control.write_all(&length(900_000)).await;
    while begun.is_ok() {
        tokio::time::sleep(DRIP).await;
        begun = control.write_all(&[0]).await;
        if control.flush().await.is_err() || !matches!(bulk.read(&mut [0]).await, Ok(1)) {
            return;
        }
    }
}

#[test]
fn members_that_read_and_write_a_byte_now_and_then_are_ended_and_keep_nobody_waiting() {
    let rig = Rig::new();
    let mut other = rig.member(11, 1 << 30);
    let (mut founder, hostile) = persons(&rig, 12);
    let packs = founder.write(&[bytes(121, LARGE_BYTES), bytes(122, LARGE_BYTES)]);
    founder.wait_caught_up(rig.peer);
    let alone = rig.rate(&mut other, 11);
    let runtime = runtime();
    let entered = runtime.block_on(enter_all(&rig, &hostile));
    assert_eq!(entered.len(), MANY, "the attack did not take place");
    let slow: Vec<_> = entered.into_iter().map(|peer| runtime.spawn(dawdle(peer, packs.clone()))).collect();
    let crowded = rig.rate(&mut other, 13);
    println!("{alone:.0} MB/s alone, {crowded:.0} MB/s beside them: {:.0} %", 100.0 * crowded / alone);
    assert!(slow.iter().all(|one| !one.is_finished()), "they had gone before it was measured");
    assert!(other.node.audit(other.no, rig.peer).is_ok(), "it proves nothing any more");
    let ended =
        runtime.block_on(async { tokio::time::timeout(END_WAIT, futures::future::join_all(slow)).await });
    assert!(ended.is_ok(), "what stands still is kept");
    rig.assert_sound();
}
