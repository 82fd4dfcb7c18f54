//! One engine and a peer that proved the folder and works against it. Every word is spoken by the test, and only the
//! test moves the clock.

mod common;

use std::time::Duration;

use cobox_net::sync::{Input, Output, TICK};
use cobox_net::wire::Frame;
use cobox_store::format::entry::{Entry, LogHead};
use common::puppet::{Puppet, Stage, chain, key, log_of};

/// How the hostile peer answers when it is asked for entries.
#[derive(Clone, Copy, Debug)]
enum Stalling {
    /// Again and again with an entry that is here already.
    Known,
    /// One new entry now and then, and never an end.
    Drip,
    /// One new entry now and then, and the end after each.
    DripAndEnd,
    /// Not at all, while somebody else pushes entries of that log that are here.
    Silent,
}

/// Time until the engine has a log of 40 entries, of which an honest peer that comes later has all.
fn stalled_for(how: Stalling) -> Duration {
    let (writer, hostile, honest) = (key(50), key(51), key(52));
    let mut stage = Stage::new(1, &[&writer, &hostile, &honest]);
    let entries = chain(&stage.made, &writer, 40);
    stage.store.entry_add(stage.no, &entries[0]).expect("takes");
    let heads = vec![LogHead { log: log_of(&writer), seq: 40, hash: entries[39].header().hash() }];
    let hostile = stage.enter(&hostile);
    let asked = stage.say(&hostile, Frame::LogHeads { session: hostile.session, heads: heads.clone() });
    assert_eq!(hostile.asked(&asked), Some(2));
    let honest = stage.enter(&honest);
    let mut outputs = stage.say(&honest, Frame::LogHeads { session: honest.session, heads });
    let (began, mut ticks) = (stage.now, 0u64);
    let mut asked = true;
    while stage.reached(&writer) < 40 {
        assert!(ticks < 20 * 60 * 20, "{how:?}: stalled at {}", stage.reached(&writer));
        answer(&mut stage, &honest, &entries, outputs);
        stage.now += TICK;
        outputs = stage.input(Input::Tick);
        asked |= hostile.asked(&outputs).is_some();
        ticks += 1;
        // Each nine seconds: a second less than what a pull may stand still.
        if ticks.is_multiple_of(9 * 20) {
            outputs.extend(stall(&mut stage, how, (&hostile, &honest), &entries, &mut asked));
        }
    }
    stage.now - began
}

fn stall(
    stage: &mut Stage,
    how: Stalling,
    (hostile, honest): (&Puppet, &Puppet),
    entries: &[Entry],
    asked: &mut bool,
) -> Vec<Output> {
    let reached = stage.reached(&key(50));
    let next = &entries[usize::try_from(reached).expect("few")];
    match how {
        Stalling::Known => stage.say(hostile, hostile.entry(&entries[0])),
        Stalling::Silent => stage.say(honest, honest.entry(&entries[0])),
        Stalling::Drip => stage.say(hostile, hostile.entry(next)),
        Stalling::DripAndEnd if *asked => {
            *asked = false;
            let mut outputs = stage.say(hostile, hostile.entry(next));
            let end =
                Frame::EntriesEnd { session: hostile.session, log: log_of(&key(50)), next: reached + 2 };
            outputs.extend(stage.say(hostile, end));
            *asked |= hostile.asked(&outputs).is_some();
            outputs
        }
        Stalling::DripAndEnd => Vec::new(),
    }
}

/// An honest peer answers as soon as it is asked.
fn answer(stage: &mut Stage, honest: &Puppet, entries: &[Entry], outputs: Vec<Output>) {
    let Some(from) = honest.asked(&outputs) else { return };
    for entry in &entries[usize::try_from(from - 1).expect("few")..] {
        stage.say(honest, honest.entry(entry));
    }
    let end = Frame::EntriesEnd { session: honest.session, log: log_of(&key(50)), next: 41 };
    stage.say(honest, end);
}

#[test]
fn peer_that_answers_as_slowly_as_it_may_does_not_keep_entries_from_us() {
    // Nothing new for ten seconds ends a pull; whatever it brings, it ends after a minute.
    for (how, most_s) in
        [(Stalling::Known, 10), (Stalling::Silent, 10), (Stalling::Drip, 60), (Stalling::DripAndEnd, 10)]
    {
        let took = stalled_for(how);
        assert!(took <= Duration::from_secs(most_s + 1), "{how:?}: {took:?}");
    }
}
