//! Every interleaving of a few calls: all histories of a bounded size, not a sample of them.
//!
//! Each device makes its calls in order, and hears the others' groups in any order that causality allows,
//! each group between any two calls. Every reached end must show the oracle's tree on all devices, lose no
//! write, and tell everybody the same. States that were reached before are not entered again: what follows
//! from a state depends on rows and logs alone. Each kind of conflict must be reached at least once, or
//! the model would say nothing.
//!
//! An enumerator of our own: `stateright` would bring an HTTP server for its explorer into the build, and
//! what is needed of it is the set of visited states below.
//!
//! `COBOX_SOAK` set plays all bounds; otherwise some that take seconds.

use super::conflicts::What;
use super::ops::{PosixError, Rename};
use super::oracle::picture;
use super::row::{Row, RowKey};
use super::short::Shorts;
use super::sim::{Device, Dice, World, Written};
use cobox_store::format::op::{AttrChange, Kind};
use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// One call of the alphabet; what is refused is a call without effect.
type Call = fn(&mut World, usize) -> Result<(), PosixError>;

/// The calls that conflict with one another on the tree of [`start`].
const ALPHABET: [(&str, Call); 14] = [
    ("write f", |world, on| world.try_write(on, "f", &format!("by {on}"))),
    ("unlink f", |world, on| world.try_unlink(on, "f")),
    ("mv f g", |world, on| world.try_rename(on, "f", "g", Rename::Replace)),
    ("mv f d/f", |world, on| world.try_rename(on, "f", "d/f", Rename::Replace)),
    ("rmdir d", |world, on| world.try_rmdir(on, "d")),
    ("mv d e/d", |world, on| world.try_rename(on, "d", "e/d", Rename::Replace)),
    ("mv e d/e", |world, on| world.try_rename(on, "e", "d/e", Rename::Replace)),
    ("mkdir g", |world, on| world.try_make(on, "g", Kind::Dir, "")),
    ("create g", |world, on| world.try_write(on, "g", &format!("by {on}"))),
    ("save f", |world, on| {
        world.try_write(on, "t", &format!("saved by {on}"))?;
        world.try_rename(on, "t", "f", Rename::Replace)
    }),
    ("ln f g", |world, on| world.try_link(on, "f", "g")),
    ("mv d g", |world, on| world.try_rename(on, "d", "g", Rename::Replace)),
    ("keep f", |world, on| world.try_keep(on, "f")),
    ("chmod f", |world, on| world.try_attr(on, "f", AttrChange { mode: Some(0o600), ..Default::default() })),
];

/// `f`, and two empty directories.
fn start(devices: usize) -> World {
    let mut world = World::new(devices);
    world.write(0, "f", "old");
    world.mkdir(0, "d");
    world.mkdir(0, "e");
    world.sync(&mut Dice(1));
    world
}

#[derive(Default)]
struct Found {
    states: usize,
    ends: usize,
    kinds: HashSet<std::mem::Discriminant<What>>,
}

struct Model {
    scripts: Vec<Vec<usize>>,
    seen: HashSet<u64>,
    found: Found,
}

fn fork(world: &World) -> World {
    let copy = |log: &Vec<Written>| {
        log.iter().map(|one| Written { group: one.group.clone(), deps: one.deps.clone() }).collect()
    };
    World {
        devices: world.devices.clone(),
        logs: world.logs.iter().map(copy).collect(),
        clock_ms: world.clock_ms,
        ahead_ms: world.ahead_ms.clone(),
        removed: world.removed.clone(),
    }
}

fn hash_of(world: &World, next: &[usize]) -> u64 {
    let mut hasher = DefaultHasher::new();
    next.hash(&mut hasher);
    world.clock_ms.hash(&mut hasher);
    for (device, log) in world.devices.iter().zip(&world.logs) {
        device.applied.hash(&mut hasher);
        device.hlc.hash(&mut hasher);
        for one in log {
            one.deps.hash(&mut hasher);
            one.group.hlc.hash(&mut hasher);
            one.group.ops.len().hash(&mut hasher);
        }
        rows_hash(&device.rows, &mut hasher);
    }
    hasher.finish()
}

fn rows_hash(rows: &BTreeMap<RowKey, Row>, hasher: &mut DefaultHasher) {
    for (key, row) in rows {
        key.hash(hasher);
        row.encode(&Shorts::default(), &mut Default::default()).hash(hasher);
    }
}

impl Model {
    fn play(scripts: Vec<Vec<usize>>) -> Found {
        let world = start(scripts.len());
        let next = vec![0; scripts.len()];
        let mut model = Self { scripts, seen: HashSet::new(), found: Found::default() };
        model.enter(&world, &next);
        model.found
    }

    fn enter(&mut self, world: &World, next: &[usize]) {
        if !self.seen.insert(hash_of(world, next)) {
            return;
        }
        self.found.states += 1;
        let mut is_end = true;
        for on in 0..world.devices.len() {
            if let Some(call) = self.scripts[on].get(next[on]) {
                is_end = false;
                let (mut after, mut next) = (fork(world), next.to_vec());
                if let Err(PosixError::Store(error)) = ALPHABET[*call].1(&mut after, on) {
                    panic!("memory can be read: {error}");
                }
                next[on] += 1;
                self.enter(&after, &next);
            }
            for log in world.ready(&world.devices[on]) {
                is_end = false;
                let mut after = fork(world);
                let mut device: Device = after.devices[on].clone();
                after.deliver(&mut device, log, world.devices[on].applied[log]);
                after.devices[on] = device;
                self.enter(&after, next);
            }
        }
        if is_end {
            self.check_end(world);
        }
    }

    fn check_end(&mut self, world: &World) {
        self.found.ends += 1;
        let names: Vec<Vec<&str>> =
            self.scripts.iter().map(|calls| calls.iter().map(|call| ALPHABET[*call].0).collect()).collect();
        let expected = picture(&world.all_ops(), world.devices[0].policy.case);
        let told = world.devices[0].conflicts();
        for (on, device) in world.devices.iter().enumerate() {
            device.check_invariants();
            assert!(device.picture() == expected, "{names:?}, device {on}: {:#?}", device.picture());
            assert_eq!(device.conflicts(), told, "{names:?}, device {on}");
        }
        assert_eq!(world.lost_writes(0), [], "{names:?}: lost writes");
        self.found.kinds.extend(told.iter().map(|conflict| std::mem::discriminant(&conflict.what)));
    }
}

/// Every choice of `len` letters out of `letters`.
fn words(letters: usize, len: usize) -> Vec<Vec<usize>> {
    let longer = |word: Vec<usize>| (0..letters).map(move |letter| [&word[..], &[letter]].concat());
    (0..len).fold(vec![Vec::new()], |words, _| words.into_iter().flat_map(longer).collect())
}

/// Every assignment of scripts of `calls[n]` letters to device n. What tells devices apart is their number, and it
/// decides nothing where no two ops have one clock: of assignments that differ by which of two devices with as many
/// calls has which script, one is played.
fn play_all(letters: usize, calls: &[usize]) -> Found {
    let mut total = Found::default();
    for word in words(letters, calls.iter().sum()) {
        let mut rest = word.as_slice();
        let mut scripts = Vec::new();
        for count in calls {
            let (script, after) = rest.split_at(*count);
            scripts.push(script.to_vec());
            rest = after;
        }
        let played = |two: &[Vec<usize>]| two[0].len() == two[1].len() && two[0] > two[1];
        if letters < ALPHABET.len() && scripts.windows(2).any(played) {
            continue;
        }
        let found = Model::play(scripts);
        total.states += found.states;
        total.ends += found.ends;
        total.kinds.extend(found.kinds);
    }
    println!("{letters} letters, calls {calls:?}: {} states, {} ends", total.states, total.ends);
    total
}

#[test]
fn every_interleaving_of_few_calls_gives_the_oracles_tree() {
    let all = std::env::var("COBOX_SOAK").is_ok();
    let letters = ALPHABET.len();
    // Two devices with one call each, three with one each: all of the alphabet. Deeper: its beginning.
    let mut bounds = vec![(letters, vec![1, 1]), (8, vec![1, 1, 1]), (5, vec![2, 2])];
    if all {
        bounds =
            vec![(letters, vec![1, 1, 1]), (letters, vec![2, 2]), (8, vec![2, 2, 1]), (4, vec![2, 2, 2])];
    }
    let mut kinds = HashSet::new();
    for (letters, calls) in bounds {
        kinds.extend(play_all(letters, &calls).kinds);
    }
    assert_eq!(kinds.len(), 5, "every kind of conflict is reached");
}
