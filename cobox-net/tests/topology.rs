//! Engines in any arrangement: devices with devices, chains, seeders that only some reach, divisions and restarts.
//! Each seed is one arrangement and one history; at its end everybody who is connected, over whomever, must
//! hold everything. `COBOX_SOAK` asks for fifty times as many seeds, `COBOX_SEED` for one.

mod common;

use std::sync::Arc;
use std::time::Duration;

use cobox_net::sync::{LINKS, TICK};
use cobox_store::blind::Store;
use common::sim::{Rng, Sim, World, stores};

const SEEDS: u64 = 200;
const DEVICES_MAX: usize = 6;
const SEEDERS_MAX: usize = 2;
/// Long enough for the longest pauses, some times over.
const SETTLE: Duration = Duration::from_secs(900);

/// A tree over all nodes, each of its links known to who can dial it; and some links more, which may not be.
fn world(rng: &mut Rng) -> World {
    let devices = 2 + rng.index(DEVICES_MAX - 1);
    let seeders = rng.index(SEEDERS_MAX + 1);
    let mut world = World { devices, seeders, ..World::default() };
    world.knows = (0..world.nodes())
        .map(|at| {
            // A device knows at least of itself; a seeder was granted before the devices came.
            let least = if at < devices { at + 1 } else { 1 };
            least + rng.index(devices - least + 1)
        })
        .collect();
    // Devices among themselves, then each seeder with a device: seeders wait to be dialed.
    for at in 1..world.nodes() {
        let other = rng.index(at.min(devices));
        let (from, to) = if at < devices && rng.one_in(2) { (other, at) } else { (at, other) };
        let (from, to) = if at >= devices { (other, at) } else { (from, to) };
        world.dials.push((from, to));
        if to < devices {
            if rng.one_in(2) {
                world.near.extend([(from, to), (to, from)]);
            } else {
                world.hints.push((from, to));
            }
        }
    }
    for _ in 0..rng.index(2 * world.nodes()) {
        let (from, to) = (rng.index(world.nodes()), rng.index(world.nodes()));
        if from != to && from < devices {
            world.dials.push((from, to));
        }
    }
    world
}

/// An admin, a writer, one who is removed; a seeder that withholds records, and an honest one.
const REMOVED: usize = 2;
const WITHHOLDING: usize = 3;
const HONEST: usize = 4;

fn withheld(seed: u64, all: &[Arc<Store>]) {
    let nodes = all[..3].iter().chain(&all[DEVICES_MAX..DEVICES_MAX + 2]).cloned().collect();
    // The removed device reaches nobody but the seeder that helps it; the writer reaches both seeders.
    let dials = vec![(REMOVED, WITHHOLDING), (1, WITHHOLDING), (1, HONEST), (0, HONEST)];
    let mut sim =
        Sim::new(seed, World { devices: 3, seeders: 2, dials, knows: vec![3; 5], ..World::default() }, nodes);
    sim.write(REMOVED);
    let both = |sim: &Sim| (0..2).all(|at| sim.has(at, REMOVED) == 1);
    for _ in 0..900 {
        sim.run_for(Duration::from_secs(1));
        if both(&sim) {
            break;
        }
    }
    assert!(both(&sim), "seed {seed}: the first entry did not arrive");
    sim.withholding.push(WITHHOLDING);
    assert_eq!(sim.remove(REMOVED), 1);
    // Past the seeder that keeps it to itself, the others learn of it.
    sim.run_for(Duration::from_secs(60));
    assert!([1, HONEST].iter().all(|at| sim.knows_what(0, *at)), "seed {seed}: the removal is not known");
    assert!(!sim.knows_what(0, WITHHOLDING) && !sim.knows_what(0, REMOVED));
    for _ in 0..5 {
        sim.write(REMOVED);
        let ms = sim.rng.below(4000);
        sim.run_for(Duration::from_millis(ms));
        if sim.rng.one_in(3) {
            let at = [1, HONEST][sim.rng.index(2)];
            sim.restart(at);
        }
    }
    sim.run_for(SETTLE);
    assert_eq!(sim.has(WITHHOLDING, REMOVED), 6, "seed {seed}: the attack did not take place");
    for at in [0, 1, HONEST] {
        assert_eq!(sim.has(at, REMOVED), 1, "seed {seed}: node {at} took what came after the removal");
    }
    // Whoever still takes part gets everything, past the seeder that withholds.
    sim.write(0);
    sim.write(1);
    sim.run_for(SETTLE);
    assert!([0, 1, HONEST].iter().all(|at| sim.has(*at, 0) == 1 && sim.has(*at, 1) == 1), "seed {seed}");
}

#[test]
fn removal_that_a_seeder_withholds_is_learned_past_it_and_nobody_takes_what_came_after() {
    let dir = common::memory_dir();
    let all = stores(dir.path(), DEVICES_MAX, SEEDERS_MAX);
    for seed in common::seeds(8) {
        withheld(seed, &all);
    }
}

fn history(seed: u64, all: &[Arc<Store>]) -> [u8; 32] {
    let world = world(&mut Rng::new(!seed));
    let chosen = all[..world.devices].iter().chain(&all[DEVICES_MAX..DEVICES_MAX + world.seeders]);
    let mut sim = Sim::new(seed, world.clone(), chosen.cloned().collect());
    // A hint names an address that a restart may change; one that is not near would be lost for good. Who
    // gave it stays where it is.
    let stays = |at: usize| world.hints.iter().any(|(_, to)| *to == at);
    for _ in 0..14 {
        match sim.rng.below(9) {
            0..=3 => {
                let at = sim.rng.index(world.devices);
                sim.write(at);
            }
            4 => {
                let at = sim.rng.index(world.nodes());
                if !stays(at) {
                    sim.restart(at);
                }
            }
            5 => {
                let side = (0..world.nodes()).map(|_| sim.rng.below(2) as u8).collect();
                sim.divide(side);
            }
            6 => sim.heal(),
            7 => {
                let (at, still) = (sim.rng.index(world.nodes()), sim.rng.one_in(2));
                sim.stand_still(at, still);
                let wisher = sim.rng.index(world.devices);
                if let Some(pack) = sim.packs().last().copied() {
                    sim.wish(wisher, pack);
                }
            }
            _ => {
                let all = sim.connections();
                if !all.is_empty() {
                    let id = all[sim.rng.index(all.len())];
                    sim.cut(id);
                }
            }
        }
        let ms = sim.rng.below(2500);
        sim.run_for(Duration::from_millis(ms));
    }
    sim.heal();
    (0..world.nodes()).for_each(|at| sim.stand_still(at, false));
    sim.breaks = 0;
    let lacking = sim.settle(SETTLE);
    assert!(lacking.is_none(), "COBOX_SEED={seed}: {}; {world:?}", lacking.unwrap_or_default());
    sim.digest()
}

#[test]
fn histories_in_any_topology_end_with_everybody_holding_everything() {
    let all = |dir: &std::path::Path| stores(dir, DEVICES_MAX, SEEDERS_MAX);
    common::play(common::seeds(SEEDS), all, |seed, all| {
        history(seed, all);
    });
}

#[test]
fn history_of_one_seed_goes_the_same_way_each_time() {
    let run = |seed| {
        let dir = common::memory_dir();
        history(seed, &stores(dir.path(), DEVICES_MAX, SEEDERS_MAX))
    };
    for seed in [3, 5, 8] {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

/// A reader, who holds nothing, and three seeders, who hold everything.
fn reader_and_seeders(seed: u64, dir: &std::path::Path, packs: usize, size: usize) -> Sim {
    let dials = vec![(1, 2), (1, 3), (1, 4), (0, 2), (0, 3), (0, 4)];
    let world = World { devices: 2, seeders: 3, dials, knows: vec![2; 5], ..World::default() };
    let mut sim = Sim::new(seed, world, stores(dir, 2, 3));
    sim.breaks = 0;
    sim.stand_still(1, true);
    (0..packs).for_each(|_| sim.write_of(0, size));
    sim.run_for(Duration::from_secs(30));
    let packs = sim.packs().to_vec();
    assert!((2..5).all(|at| packs.iter().all(|pack| sim.holds(at, *pack))), "the seeders have not got them");
    assert!(packs.iter().all(|pack| !sim.holds(1, *pack)), "the reader has got something");
    sim
}

#[test]
fn reader_waits_seconds_for_a_seeder_that_stands_still_where_others_have_the_pack() {
    let dir = common::memory_dir();
    for (seed, size) in [(1, 4096), (2, 4096), (3, 1 << 20), (4, 1 << 20)] {
        let mut sim = reader_and_seeders(seed, &dir.path().join(seed.to_string()), 1, 4096);
        sim.stand_still(1, false);
        sim.run_for(Duration::from_secs(300));
        assert!((2..5).all(|at| sim.linked(1, at)), "seed {seed}: the reader has not met them all");
        sim.stand_still(1, true);
        (0..60).for_each(|_| sim.write_of(0, size));
        sim.run_for(Duration::from_secs(30));
        sim.stand_still(1, false);
        let owed = (0..100).any(|_| {
            sim.run_for(TICK);
            sim.owes(2, 1)
        });
        assert!(owed, "seed {seed}: nothing was asked of it");
        sim.stand_still(2, true);
        let packs = sim.packs().to_vec();
        packs.iter().for_each(|pack| sim.wish(1, *pack));
        sim.run_for(Duration::from_secs(15));
        let lacks = packs.iter().filter(|pack| !sim.holds(1, **pack)).count();
        assert_eq!(lacks, 0, "seed {seed}: {lacks} of {} have not come", packs.len());
        assert!(sim.let_go > 0, "seed {seed}: it owed nothing when it stopped");
    }
}

#[test]
fn pack_that_only_a_seeder_that_stands_still_has_comes_when_it_goes_on() {
    let dir = common::memory_dir();
    // In one of these the seeder stops between the entry and its pack.
    let stopped = (0..20).find_map(|seed| {
        let mut sim = reader_and_seeders(seed, &dir.path().join(seed.to_string()), 1, 4096);
        [3, 4].into_iter().for_each(|at| sim.stand_still(at, true));
        sim.stand_still(1, false);
        while sim.has(1, 0) == 0 {
            sim.run_for(TICK);
        }
        sim.stand_still(2, true);
        (!sim.holds(1, sim.packs()[0])).then_some(sim)
    });
    let mut sim = stopped.expect("one of twenty");
    let pack = sim.packs()[0];
    sim.wish(1, pack);
    sim.run_for(Duration::from_secs(20));
    assert!(!sim.holds(1, pack), "nobody can have sent it");
    sim.stand_still(2, false);
    sim.run_for(Duration::from_secs(5));
    assert!(sim.holds(1, pack), "nobody asked again");
}

/// What one small change costs among devices that are linked: links, frames and bytes.
fn cost(devices: usize, dir: &std::path::Path) -> (usize, u64, u64) {
    let mut sim = Sim::new(77, World::lan(devices), stores(&dir.join(devices.to_string()), devices, 0));
    sim.breaks = 0;
    sim.write_of(0, 4096);
    assert_eq!(sim.settle(SETTLE), None);
    // Some rounds of giving links up and making others.
    sim.run_for(Duration::from_secs(300));
    let links = sim.count();
    sim.run_for(Duration::from_secs(5));
    assert_eq!(sim.sent, (0, 0), "devices that have nothing to say say nothing");
    sim.count();
    sim.write_of(devices / 2, 4096);
    sim.run_for(Duration::from_secs(5));
    assert_eq!(sim.lacking(), None);
    (links, sim.sent.0, sim.sent.1)
}

#[test]
fn change_costs_messages_in_proportion_to_the_devices() {
    let dir = common::memory_dir();
    let sizes = [2, 4, 8, 16];
    let costs: Vec<(usize, u64, u64)> = sizes.iter().map(|devices| cost(*devices, dir.path())).collect();
    for (devices, (links, frames, bytes)) in sizes.iter().zip(&costs) {
        println!("{devices} devices, {links} links: {frames} frames, {bytes} bytes for one small change");
        // Each device has a bounded number of links, and each link carries a head in both directions.
        assert!(*links <= devices * (LINKS + 1), "{devices} devices: {links} links");
        assert!(*frames <= 4 * (*links as u64 + *devices as u64), "{devices} devices: {frames} frames");
    }
    let ((_, few, few_bytes), (_, many, many_bytes)) = (costs[2], costs[3]);
    assert!(many <= few * 5 / 2 && many_bytes <= few_bytes * 5 / 2, "twice the devices: {costs:?}");
}
