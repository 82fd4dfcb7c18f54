//! What an engine does with fetches whose session has ended: what comes of them, how they end, and what they hold
//! meanwhile.

mod common;

use cobox_net::sync::{Fetched, Input, TICK};
use cobox_net::wire::Frame;
use common::puppet::{Stage, key};

const SMALL_FLYING_MAX: usize = 128;

#[test]
fn packs_that_come_after_their_session_ended_settle_their_folder_with_the_next_tick() {
    for cut in [false, true] {
        let device = key(1);
        let mut stage = Stage::new(9_300, &[]);
        for seed in 9_301..9_320 {
            stage.another(seed, &[]);
        }
        stage.another(9_320, &[&device]);
        stage.entries_of_packs(&device, 4);
        let peer = stage.enter(&device);
        stage.pass(TICK);
        let asked = std::mem::take(&mut stage.flying);
        assert_eq!(asked.len(), SMALL_FLYING_MAX);
        if cut {
            stage.input(Input::Down { conn: peer.conn });
        } else {
            stage.say(&peer, Frame::Close { session: peer.session });
        }
        let before = stage.engine.work().settled;
        for (conn, session, no, pack) in asked {
            stage.input(Input::Fetched { conn, session, no, pack, how: Fetched::Done });
        }
        assert_eq!(stage.engine.work().settled - before, 0, "cut: {cut}");
        stage.pass(TICK);
        assert_eq!(stage.engine.work().settled - before, 1, "cut: {cut}: that folder alone");
    }
}
