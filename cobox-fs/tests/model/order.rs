//! The order in which ops take effect: an entry waits for what it builds on, clocks only grow and follow what was
//! seen, and a clock far ahead of ours waits. Each of these rules is broken once, and must be noticed.
//!
//! `COBOX_SOAK=n` plays n times as many histories; `COBOX_SEED=n` plays that one.

use std::collections::BTreeMap;

use cobox_fs::vfs::{CLOCK_AHEAD_MAX_MS, Cut, Kind, OrderRule, ROOT, SetAttr};
use cobox_store::blind::Batch;
use cobox_store::format::op::{Op, OpGroup};
use cobox_store::id::LogId;

use crate::home::{Device, deliver, deliver_all, deliver_log};
use crate::tree::{list, look};
use crate::{BY, Dice};

const HISTORIES: u64 = 4;
/// So many are played until a broken rule must have shown.
const HISTORIES_MAX: u64 = 12;
const DEVICES: usize = 3;
const STEPS: u64 = 60;
const HOUR_MS: u64 = 60 * 60 * 1000;
/// A wrong clock is so far ahead.
const WRONG_MS: u64 = 5 * HOUR_MS;

/// What a history shows that must not be.
type Broken = Result<(), String>;

struct World {
    devices: Vec<Device>,
    dice: Dice,
    broken: Option<OrderRule>,
    /// The device whose clock goes wrong in the middle of the history.
    wrong: usize,
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(since.expect("the clock is set").as_millis()).expect("fits")
}

impl World {
    fn new(seed: u64, broken: Option<OrderRule>) -> Self {
        let mut devices = vec![Device::new()];
        while devices.len() < DEVICES {
            let next = devices[0].recovered();
            devices.iter().for_each(|device| deliver(next.vfs().folder(), device.vfs().folder()));
            devices.push(next);
        }
        let mut dice = Dice::new(seed);
        let wrong = usize::try_from(dice.below(DEVICES as u64)).expect("fits");
        let mut world = Self { devices, dice, broken, wrong };
        (0..DEVICES).for_each(|on| world.break_rule(on));
        // Clocks that are within what is put up with.
        for on in 0..DEVICES {
            let ahead_ms = world.dice.below(CLOCK_AHEAD_MAX_MS - 60_000);
            world.set_clock(on, now_ms() + ahead_ms);
        }
        world
    }

    fn break_rule(&mut self, on: usize) {
        self.broken.into_iter().for_each(|rule| self.devices[on].vfs().break_order_rule(rule));
    }

    fn log(&self, on: usize) -> LogId {
        self.devices[on].vfs().folder().log()
    }

    /// From now on a device's ops are of this time, or later.
    fn set_clock(&mut self, on: usize, clock_ms: u64) {
        let vfs = self.devices[on].vfs();
        // Its next entry has what it knows in it.
        vfs.mkdir(ROOT, format!("clock of {on} {clock_ms}").as_bytes(), BY).expect("made");
        vfs.cut(Cut::Now).expect("cut");
        let folder = vfs.folder();
        let head = folder.store().log_head(folder.no(), folder.log()).expect("reads").expect("it wrote");
        let last = folder.store().entry(folder.no(), head.log, head.seq).expect("reads").expect("there");
        let body = folder.open_entry(&last).expect("opens");
        let hlc = (clock_ms << 16).max(body.hlc + 1);
        let groups = vec![OpGroup { hlc, ops: vec![Op::Ack] }];
        folder.write_entries(hlc, groups, body.deps, Batch::default()).expect("written");
        self.devices[on].restart();
        self.break_rule(on);
    }

    /// A change, which its own device must show at once.
    fn act(&mut self, on: usize) -> Broken {
        let mode = 0o600 + u32::try_from(self.dice.below(64)).expect("fits");
        let name = format!("f{}", self.dice.below(4)).into_bytes();
        let vfs = self.devices[on].vfs();
        let ino = match vfs.lookup(ROOT, &name) {
            Ok(attr) => attr.ino,
            Err(_) => vfs.mknod(ROOT, &name, Kind::File, BY, 0).map_err(|error| format!("{error:?}"))?.ino,
        };
        let change = SetAttr { mode: Some(mode), ..SetAttr::default() };
        let after = vfs.setattr(ino, &change).map_err(|error| format!("{error:?}"))?;
        let shown = vfs.getattr(ino, None).map_err(|error| format!("{error:?}"))?;
        if self.dice.below(3) == 0 {
            vfs.cut(Cut::Now).map_err(|error| format!("{error:?}"))?;
        }
        if after.perm != mode || shown.perm != mode {
            return Err(format!("{on} set {mode:o} and shows {:o}", shown.perm));
        }
        Ok(())
    }

    /// One log, without what it builds on, from whoever has it.
    fn hear(&mut self, on: usize) -> Broken {
        let from = (on + 1 + usize::try_from(self.dice.below(DEVICES as u64 - 1)).expect("fits")) % DEVICES;
        let of = (on + 1 + usize::try_from(self.dice.below(DEVICES as u64 - 1)).expect("fits")) % DEVICES;
        self.devices[from].vfs().cut(Cut::Now).map_err(|error| format!("{error:?}"))?;
        deliver_log(self.devices[from].vfs().folder(), self.devices[on].vfs().folder(), self.log(of));
        self.devices[on].vfs().catch_up().map_err(|error| format!("{error:?}"))?;
        Ok(())
    }

    fn meet_all(&mut self) -> Broken {
        for on in 0..DEVICES {
            self.devices[on].vfs().cut(Cut::Now).map_err(|error| format!("{error:?}"))?;
            for other in (0..DEVICES).filter(|other| *other != on) {
                deliver(self.devices[on].vfs().folder(), self.devices[other].vfs().folder());
            }
        }
        for on in 0..DEVICES {
            self.devices[on].vfs().catch_up().map_err(|error| format!("{error:?}"))?;
        }
        Ok(())
    }

    fn same_trees(&self, of: &[usize]) -> Broken {
        let looks = of.iter().map(|on| look(self.devices[*on].vfs(), &BTreeMap::new()));
        let looks: Vec<_> = looks.collect();
        if looks.windows(2).all(|two| two[0] == two[1]) { Ok(()) } else { Err("trees differ".into()) }
    }

    /// What every entry says that its author had applied has its own causes in it, and nobody whose clock is
    /// right wrote later than a clock that is right may be.
    fn check_entries(&self) -> Broken {
        let folder = self.devices[0].vfs().folder();
        let mut deps: BTreeMap<(LogId, u64), BTreeMap<LogId, u64>> = BTreeMap::new();
        for on in 0..DEVICES {
            let log = self.log(on);
            let head = folder.store().log_head(folder.no(), log).expect("reads").map_or(0, |head| head.seq);
            let mut before = 0;
            for seq in 1..=head {
                let entry = folder.store().entry(folder.no(), log, seq).expect("reads").expect("there");
                let body = folder.open_entry(&entry).expect("opens");
                let first = body.groups.first().map_or(body.hlc, |group| group.hlc);
                if first <= before && !body.groups.is_empty() {
                    return Err(format!("{on}: entry {seq} is not later than the one before"));
                }
                before = body.hlc.max(body.groups.last().map_or(0, OpGroup::hlc_last));
                if on != self.wrong && before >> 16 > now_ms() + CLOCK_AHEAD_MAX_MS {
                    return Err(format!("{on}: a wrong clock was caught"));
                }
                let heads = body.deps.iter().map(|dep| (dep.log, dep.seq));
                deps.insert((log, seq), heads.chain((seq > 1).then_some((log, seq - 1))).collect());
            }
        }
        for (entry, known) in &deps {
            for below in known.iter().filter_map(|(log, seq)| deps.get(&(*log, *seq))) {
                let missing = |(log, seq): (&LogId, &u64)| {
                    *log != entry.0 && known.get(log).is_none_or(|known| known < seq)
                };
                if below.iter().any(missing) {
                    return Err(format!("entry {} was made on effects without their causes", entry.1));
                }
            }
        }
        Ok(())
    }

    /// What the wrong clock wrote is held, and the others agree without it.
    fn check_held(&self, late: &[u8]) -> Broken {
        let right: Vec<usize> = (0..DEVICES).filter(|on| *on != self.wrong).collect();
        for on in &right {
            let vfs = self.devices[*on].vfs();
            let held = vfs.held_for_clock();
            if held.iter().map(|(log, _)| *log).ne([self.log(self.wrong)]) {
                return Err(format!("{on} holds {held:?}"));
            }
            if held.iter().any(|(_, ms)| *ms < now_ms() + WRONG_MS - HOUR_MS) {
                return Err(format!("{on} says {held:?}"));
            }
            if list(vfs, ROOT).iter().any(|(name, _)| name == late) {
                return Err(format!("{on} shows what comes from a clock that is far ahead"));
            }
        }
        self.same_trees(&right)
    }
}

/// Devices work and hear one another's logs in any order; one's clock goes wrong, and is right again at last.
fn history(seed: u64, broken: Option<OrderRule>) -> Broken {
    let mut world = World::new(seed, broken);
    for step in 0..STEPS {
        let on = usize::try_from(world.dice.below(DEVICES as u64)).expect("fits");
        if step == STEPS / 2 {
            world.set_clock(world.wrong, now_ms() + WRONG_MS);
        } else if world.dice.below(2) == 0 {
            world.act(on)?;
        } else {
            world.hear(on)?;
        }
    }
    let late = b"from a wrong clock";
    world.devices[world.wrong].vfs().mkdir(ROOT, late, BY).map_err(|error| format!("{error:?}"))?;
    world.meet_all()?;
    world.meet_all()?;
    world.check_entries()?;
    world.check_held(late)?;
    // Time goes on: all clocks pass what was held.
    let clock_ms = now_ms() + WRONG_MS + HOUR_MS;
    for on in 0..DEVICES {
        world.set_clock(on, clock_ms);
        world.devices[on].vfs().catch_up().map_err(|error| format!("{error:?}"))?;
    }
    world.meet_all()?;
    world.meet_all()?;
    for on in 0..DEVICES {
        if !world.devices[on].vfs().held_for_clock().is_empty() {
            return Err(format!("{on} still holds what its clock has passed"));
        }
        let names = list(world.devices[on].vfs(), ROOT);
        if !names.iter().any(|(name, _)| name == late) {
            return Err(format!("{on} dropped what it held"));
        }
    }
    world.same_trees(&(0..DEVICES).collect::<Vec<_>>())?;
    slept_through(&world)
}

/// A device that comes last and hears of everything at once sees the same tree.
fn slept_through(world: &World) -> Broken {
    let last = world.devices[0].recovered();
    deliver_all(world.devices[0].vfs().folder(), last.vfs().folder());
    if last.vfs().held_for_clock().is_empty() {
        return Err("a clock far ahead is not held where ours is right".into());
    }
    Ok(())
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn logs_heard_in_any_order_take_effect_in_the_order_of_causes_and_clocks() {
    let seeds = match number("COBOX_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + HISTORIES * number("COBOX_SOAK").unwrap_or(1),
    };
    for seed in seeds {
        if let Err(what) = history(seed, None) {
            panic!("seed {seed}: {what}");
        }
    }
}

#[test]
fn each_broken_rule_of_order_is_noticed() {
    for rule in [
        OrderRule::CausesFirst,
        OrderRule::ClockGrows,
        OrderRule::ClockFollows,
        OrderRule::FarAheadWaits,
        OrderRule::PassedIsTaken,
    ] {
        let noticed = (1..=HISTORIES_MAX).find_map(|seed| Some((seed, history(seed, Some(rule)).err()?)));
        println!("{rule:?}: {noticed:?}");
        assert!(noticed.is_some(), "no history notices that {rule:?} is broken");
    }
}
