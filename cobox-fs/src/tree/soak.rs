//! Random histories: any causal order of delivery gives the oracle's tree, and each broken rule shows.
//!
//! `COBOX_SOAK=n` plays n times as many; `COBOX_SEED=n` plays the one of that seed.

use super::conflicts::{self, Keep};
use super::names::CaseRule;
use super::ops::{self, NewNode, PosixError, Rename, XattrSet};
use super::oracle::picture;
use super::sim::{Device, Dice, World};
use super::{BROKEN_HEADS, HeadRules, Policy, Rules, Shown, Version, View};
use cobox_store::format::content::Content;
use cobox_store::format::op::{AttrChange, Kind, Op};
use cobox_store::id::{Ino, OpId};

const HISTORIES: u64 = 500;
/// Few names, so that devices meet; two spellings of one name among them.
/// Two spellings are one name; of the last one, no conflict name has room for all of it.
const NAMES: [&str; 7] = ["a", "b", "c.txt", "é", "e\u{301}", "d", LONG];
const LONG: &str = match std::str::from_utf8(&[b'l'; 255]) {
    Ok(text) => text,
    Err(_) => "l",
};

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("COBOX_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..HISTORIES * number("COBOX_SOAK").unwrap_or(1),
    }
}

/// A history of 2 to 5 devices that meet now and then.
fn history(seed: u64) -> World {
    let mut dice = Dice(seed.wrapping_mul(0x0100_0000_01b3).wrapping_add(seed));
    let devices = 2 + dice.roll(4);
    let mut world = World::new(devices);
    let case = if dice.roll(4) == 0 { CaseRule::Folded } else { CaseRule::Sensitive };
    for device in &mut world.devices {
        device.policy = Policy::new(case);
    }
    let steps = 30 + dice.roll(60);
    let mut disks: Vec<Device> = world.devices.clone();
    for _ in 0..steps {
        let on = dice.roll(devices);
        if world.removed.contains(&on) {
            continue;
        }
        match dice.roll(60) {
            0..15 => receive_some(&mut world, on, &mut dice),
            15 => disks[on] = world.devices[on].clone(),
            16 | 17 => world.crash_back_to(on, &disks[on]),
            18 => world.ahead_ms[on] = dice.roll(4) as u64 * dice.roll(3_600_000) as u64,
            19 if world.removed.len() + 2 < devices && dice.roll(4) == 0 => world.remove(on),
            _ => act(&mut world, on, &mut dice),
        }
    }
    world
}

fn receive_some(world: &mut World, on: usize, dice: &mut Dice) {
    let mut device = world.devices[on].clone();
    for _ in 0..1 + dice.roll(12) {
        let ready = world.ready(&device);
        if ready.is_empty() {
            break;
        }
        let log = *dice.pick(&ready);
        let number = device.applied[log];
        world.deliver(&mut device, log, number);
    }
    world.devices[on] = device;
}

/// One random call; what POSIX refuses changes nothing.
fn act(world: &mut World, on: usize, dice: &mut Dice) {
    let names = world.devices[on].names();
    let dirs: Vec<Ino> = std::iter::once(Ino::ROOT)
        .chain(names.iter().filter(|(_, shown)| shown.kind == Kind::Dir).map(|(_, shown)| shown.ino))
        .collect();
    let place = (*dice.pick(&dirs), dice.pick(&NAMES).as_bytes());
    // Clocks differ by up to a few steps, so that ids of different devices interleave.
    world.clock_ms += 3;
    let now = world.clock_ms;
    world.clock_ms -= dice.roll(12) as u64;
    if names.is_empty() || dice.roll(3) == 0 {
        create(world, on, dice, place);
    } else {
        let (parent, shown) = dice.pick(&names).clone();
        change(world, on, dice, (parent, &shown), place);
    }
    world.clock_ms = now;
}

fn ignore(result: Result<(), PosixError>) {
    if let Err(PosixError::Store(error)) = result {
        panic!("memory can be read: {error}");
    }
}

fn create(world: &mut World, on: usize, dice: &mut Dice, (parent, name): (Ino, &[u8])) {
    let kind = [Kind::Dir, Kind::Dir, Kind::File, Kind::File, Kind::Symlink][dice.roll(5)];
    let target = if kind == Kind::Symlink { vec![b'0' + dice.roll(9) as u8] } else { Vec::new() };
    let mode = if dice.roll(2) == 0 { 0o644 } else { 0o600 };
    let node = NewNode { kind, mode, mtime_ns: dice.roll(100) as i64, uid: 0, gid: 0, rdev: 0, target };
    // Whoever takes generations as it likes makes symbolic links with different targets that coincide.
    let own_generation = kind == Kind::Symlink && dice.roll(3) == 0;
    ignore(world.write_group(on, |view| {
        let mut made = ops::make(view, parent, name, node, &|_| false)?.0;
        for op in &mut made {
            if let (Op::Make(make), true) = (op, own_generation) {
                make.generation = 0;
            }
        }
        Ok(made)
    }));
}

fn change(world: &mut World, on: usize, dice: &mut Dice, (parent, shown): (Ino, &Shown), to: (Ino, &[u8])) {
    let from = (parent, shown.name.as_slice());
    let (ino, roll) = (shown.ino, dice.roll(100));
    let small = dice.roll(8) as u8;
    let notes = world.devices[on].notes();
    let result = world.write_group(on, |view| match roll {
        0..=34 => ops::rename(view, from, to, Rename::Replace),
        35..=39 => ops::rename(view, from, to, Rename::Exchange),
        40..=43 => {
            let how = if small & 1 == 0 { Keep::This } else { Keep::Both };
            conflicts::keep(view, (parent, from.1), &notes, how)
        }
        44..=59 if shown.kind == Kind::Dir => ops::rmdir(view, parent, from.1),
        44..=59 => ops::unlink(view, parent, from.1),
        60..=66 => ops::link(view, ino, to.0, to.1),
        67..=74 => ops::attr(
            view,
            ino,
            AttrChange {
                mode: (small & 1 == 0).then_some(0o700 + u32::from(small)),
                mtime_ns: (small & 2 == 0).then_some(i64::from(small)),
                uid: (small & 4 == 0).then_some(u32::from(small)),
                gid: None,
            },
        ),
        75..=79 if small == 0 => ops::remove_xattr(view, ino, b"user.k"),
        75..=79 => ops::set_xattr(view, ino, b"user.k", &[small], XattrSet::Any),
        _ => write(view, parent, shown, small),
    });
    ignore(result);
}

fn write(view: &View<'_>, parent: Ino, shown: &Shown, byte: u8) -> Result<Vec<Op>, PosixError> {
    if shown.version != Version::Winner {
        return ops::fork(view, shown, parent).map(|forked| forked.0);
    }
    let base: Vec<OpId> = view.content(shown.ino)?.iter().map(|head| head.id).collect();
    ops::put(view, shown.ino, &base, Content::Inline(vec![b'a' + byte % 4]), i64::from(byte))
}

/// A device that slept through the history and then hears everything in some order.
fn replayed(world: &World, rules: Rules, dice: &mut Dice) -> Device {
    let mut policy = world.devices[0].policy;
    policy.rules = rules;
    let mut device = Device::new(world.devices.len(), policy);
    world.catch_up(&mut device, dice);
    device
}

#[test]
fn histories_in_any_causal_order_give_the_oracles_tree() {
    let (mut ops, mut moves, mut skipped, mut met) = (0, 0, 0, std::collections::HashSet::new());
    for seed in seeds() {
        let mut world = history(seed);
        let mut dice = Dice(seed ^ 0xfeed);
        let expected = picture(&world.all_ops(), world.devices[0].policy.case);
        for device in &world.devices {
            device.check_invariants();
        }
        world.sync(&mut dice);
        world.devices.push(replayed(&world, Rules::default(), &mut dice));
        let told = world.devices.last().expect("the one that slept").conflicts();
        for (on, device) in world.devices.iter().enumerate() {
            device.check_invariants();
            if world.removed.contains(&on) {
                continue;
            }
            assert_eq!(world.lost_writes(on), [], "seed {seed}, device {on}: lost writes");
            assert_eq!(device.conflicts(), told, "seed {seed}, device {on}: everybody hears the same");
            met.extend(told.iter().map(|conflict| std::mem::discriminant(&conflict.what)));
            assert!(
                device.picture() == expected,
                "seed {seed}, device {on}: {:#?}\n{expected:#?}",
                device.picture()
            );
        }
        ops += world.all_ops().len();
        moves += world.devices[0].rows.keys().filter(|key| matches!(key, super::RowKey::DirMove(_))).count();
        skipped += expected.skipped.len();
    }
    assert!(met.len() == 5 || std::env::var("COBOX_SEED").is_ok(), "every kind of conflict is met");
    println!("seeds {:?}: {ops} ops, {moves} directory moves, {skipped} of them skipped", seeds());
}

#[test]
fn each_broken_rule_is_noticed() {
    let broken: [(&str, fn(&mut Rules)); 18] = [
        ("directory_keeps_name", |rules| rules.directory_keeps_name = false),
        ("oldest_directory_keeps_name", |rules| rules.oldest_directory_keeps_name = false),
        ("newest_keeps_name", |rules| rules.newest_keeps_name = false),
        ("oldest_spelling_counts", |rules| rules.oldest_spelling_counts = false),
        ("unseen_dots_stay", |rules| rules.unseen_dots_stay = false),
        ("unseen_heads_stay", |rules| rules.unseen_heads_stay = false),
        ("newest_attr_wins", |rules| rules.newest_attr_wins = false),
        ("newest_xattr_wins", |rules| rules.newest_xattr_wins = false),
        ("unseen_edit_revives", |rules| rules.unseen_edit_revives = false),
        ("last_is_needed", |rules| rules.last_is_needed = false),
        ("greatest_unlink_revives", |rules| rules.greatest_unlink_revives = false),
        ("child_keeps_directory", |rules| rules.child_keeps_directory = false),
        ("moves_replay_in_order", |rules| rules.moves_replay_in_order = false),
        ("cycles_are_skipped", |rules| rules.cycles_are_skipped = false),
        ("newest_placement_wins", |rules| rules.newest_placement_wins = false),
        ("newest_make_wins", |rules| rules.newest_make_wins = false),
        ("settled_heads_hide", |rules| rules.settled_heads_hide = false),
        ("revive_counts", |rules| rules.revive_counts = false),
    ];
    for (name, breaks) in broken {
        let mut rules = Rules::default();
        breaks(&mut rules);
        must_be_noticed(name, rules);
    }
    let broken_heads: [(&str, fn(&mut HeadRules)); 3] = [
        ("equal_collapse", |rules| rules.equal_collapse = false),
        ("newest_shows", |rules| rules.newest_shows = false),
        ("first_settled_shows", |rules| rules.first_settled_shows = false),
    ];
    for (name, breaks) in broken_heads {
        let mut rules = HeadRules::RIGHT;
        breaks(&mut rules);
        BROKEN_HEADS.set(rules);
        must_be_noticed(name, Rules::default());
        BROKEN_HEADS.set(HeadRules::RIGHT);
    }
}

/// Fails where no history ends otherwise for a device that goes by `rules`, or by this thread's rules of heads.
fn must_be_noticed(name: &str, rules: Rules) {
    let heads = BROKEN_HEADS.replace(HeadRules::RIGHT);
    let noticed = (0..4 * HISTORIES).find(|seed| {
        let world = history(*seed);
        let expected = picture(&world.all_ops(), world.devices[0].policy.case);
        BROKEN_HEADS.set(heads);
        let differs = replayed(&world, rules, &mut Dice(*seed)).picture() != expected;
        BROKEN_HEADS.set(HeadRules::RIGHT);
        differs
    });
    println!("{name}: seed {noticed:?}");
    assert!(noticed.is_some(), "no history notices that {name} is broken");
}
