//! Readers that wait for packs: whom they wait for, and what it costs others that they do.

mod common;

use std::time::Duration;

use cobox_net::sync::{Fetched, Input, TICK};
use cobox_store::format::address::SeederAddress;
use cobox_store::format::pack::PackRef;
use cobox_store::id::{KemKey, PackId, hash};
use common::puppet::{Stage, key, peer_of, tcp};

const SMALL_FLYING_MAX: usize = 128;

#[test]
fn pack_that_comes_has_one_folder_looked_at_in_which_a_reader_waits_however_many_do() {
    const PACKS: usize = 100;
    let device = key(1);
    let planned = [10, 60].map(|folders| {
        let mut stage = Stage::new(9_600, &[]);
        let mut all = Vec::new();
        for at in 0..folders {
            stage.another(9_601 + at, &[&device]);
            stage.entries_of_packs(&device, 4);
            stage.enter(&device);
            all.push(stage.no);
        }
        stage.pass(TICK);
        assert_eq!(stage.flying.len(), SMALL_FLYING_MAX, "all places are taken");
        for no in &all {
            let flying: Vec<PackId> = stage.flying.iter().map(|flight| flight.3).collect();
            let missing = stage.store.packs_missing(*no, None, 1000).expect("reads");
            let wanted = missing.iter().rfind(|pack| !flying.contains(&pack.id)).expect("more than may fly");
            stage.store.want(*no, wanted.id);
            stage.input(Input::Changed { no: *no });
        }
        let wanted = |stage: &Stage| all.iter().map(|no| stage.store.wants(*no).len()).sum::<usize>();
        assert_eq!(wanted(&stage), folders as usize);
        let before = stage.engine.work().planned;
        for _ in 0..PACKS {
            let (conn, session, no, pack) = stage.flying.pop_front().expect("all places are taken");
            stage.now += TICK / 1000;
            stage.input(Input::Fetched { conn, session, no, pack, how: Fetched::Done });
        }
        let planned = stage.engine.work().planned - before;
        // Each of them in turn, and before the others of the folders.
        let asked = |no| {
            stage.flying.iter().any(|flight| flight.2 == no && stage.store.wants(no).contains(&flight.3))
        };
        assert!(all.iter().all(|no| asked(*no)), "every reader's pack is on its way");
        planned
    });
    assert!(planned.iter().all(|planned| *planned <= 3 * PACKS as u64), "{planned:?} for {PACKS} packs");
}

#[test]
fn reader_waits_for_a_peer_that_hangs_up_and_is_called_again_and_for_none_that_is_not_there() {
    let (device, seeder) = (key(1), key(7));
    let peer = peer_of(&seeder);
    let mut stage = Stage::new(9_700, &[&device]);
    let address =
        SeederAddress { peer_id: peer.to_bytes(), kem: KemKey([1; 32]), addresses: vec![tcp(9, 1)] };
    let grant = stage.made.grant_with(&address, 1 << 40, [0; 80]);
    stage.store.access_add(stage.no, &grant).expect("an admin's");
    let (no, pack) = (stage.no, PackRef { id: PackId(hash(b"a pack")), size: 4096 });
    stage.entry_of_pack(&device, pack);
    let hang_up = || Input::HungUp { peer, error: "it hung up".to_owned() };
    stage.input(Input::Peers { no, peers: vec![(peer, vec![tcp(9, 1)])] });
    stage.store.want(no, pack.id);
    stage.input(Input::Changed { no });
    let waits = |stage: &Stage| stage.store.wants(no).contains(&pack.id);
    stage.input(hang_up());
    stage.pass(TICK);
    assert!(waits(&stage), "it is there, with a crowd at its door");
    stage.pass(Duration::from_millis(300));
    stage.input(Input::DialFailed { peer, error: "off".to_owned() });
    assert!(!waits(&stage), "nobody is there");

    // One that hangs up again and again is not waited for without end.
    stage.store.want(no, pack.id);
    let mut hung_up = 0;
    stage.input(Input::Seen { peer, addresses: vec![tcp(9, 2)] });
    for _ in 0..600 {
        let dials = stage.pass(TICK);
        if dials.iter().any(|output| matches!(output, cobox_net::sync::Output::Dial { .. })) {
            hung_up += 1;
            stage.input(hang_up());
        }
    }
    assert!((3..12).contains(&hung_up) && !waits(&stage), "{hung_up} times");
}
