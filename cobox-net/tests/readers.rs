//! Readers that wait for packs: what it costs others that they do.

mod common;

use cobox_net::sync::{Fetched, Input, TICK};
use cobox_store::id::PackId;
use common::puppet::{Stage, key};

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
