//! Every interleaving of a few calls: all histories of a bounded size, not a sample of them.
//!
//! Each device makes its calls in order, and hears the others' groups in any order that causality allows, each group
//! between any two calls. To hear something changes nothing but the device that hears it. So when it heard makes no
//! difference, only what it had heard at each of its calls and in which order: a history is the order of the calls, and
//! with each call what its device knew. All histories are played, and in each of them every way to hear: for each set
//! of groups that a device can have heard, all that it can have heard last must lead to the very same rows, whoever it is.
//! At the end of each history, and so of each of its beginnings, there must be the oracle's tree and no lost write.
//! Each kind of conflict must be reached at least once, or the model would say nothing.
//!
//! What was found out in one history about a set of groups holds in all others, and is not looked at again.
//!
//! A call that is refused, or does nothing, is a shorter history. What tells devices apart is their number, and it
//! decides nothing where no two ops have one clock: where devices have as many calls, one with a lower number begins
//! first, unless the whole alphabet is played.
//!
//! An enumerator of our own: `stateright` would bring an HTTP server for its explorer into the build, and would go
//! through each moment of hearing as a state of its own.
//!
//! `COBOX_SOAK` set plays all bounds, which takes some 700 seconds of one core; otherwise some that take seconds.
//!
//! | calls | letters | histories | different ends | sets that somebody heard | ways into them |
//! |---|---|---|---|---|---|
//! | 1, 1, 1 | all 14 | 92,583 | 36,027 | 177,204 | 343,512 |
//! | 2, 2 | all 14 | 814,180 | 255,284 | 648,136 | 1,116,644 |
//! | 2, 2, 1 | the first 8 | 5,817,442 | 797,354 | 1,989,669 | 4,533,422 |
//! | 2, 2, 2 | [`FILE`] | 5,397,940 | 895,209 | 1,975,057 | 4,478,788 |
//! | 2, 2, 2 | [`DIRECTORIES`] | 921,691 | 69,914 | 173,418 | 438,424 |
//! | 3, 2, 1 | [`FILE`] | 11,349,656 | 2,240,561 | 4,768,513 | 10,468,361 |
//! | 3, 2, 1 | [`DIRECTORIES`] | 1,174,294 | 139,195 | 362,697 | 858,669 |
//! | 4, 1, 1 | [`FILE`] | 859,635 | 230,746 | 512,673 | 1,071,903 |
//! | 4, 1, 1 | [`DIRECTORIES`] | 32,763 | 8,331 | 22,607 | 48,377 |

use super::Rules;
use super::conflicts::What;
use super::ops::{PosixError, Rename};
use super::oracle::picture;
use super::row::{NodeRow, Row};
use super::short::Shorts;
use super::sim::{Device, Dice, World, Written};
use cobox_store::format::Writer;
use cobox_store::format::op::{AttrChange, Kind};
use cobox_store::id::OpId;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

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

/// What becomes of a file and its name.
const FILE: Range<usize> = 0..4;
/// What becomes of directories, and of a file that goes into one.
const DIRECTORIES: Range<usize> = 3..8;

/// The ways in which three devices share six calls, where each has one.
const SIX_CALLS: [&[usize]; 3] = [&[2, 2, 2], &[3, 2, 1], &[4, 1, 1]];

/// `f`, and two empty directories.
fn start(devices: usize) -> World {
    let mut world = World::new(devices);
    world.write(0, "f", "old");
    world.mkdir(0, "d");
    world.mkdir(0, "e");
    world.sync(&mut Dice(1));
    world
}

/// How many groups of each log somebody heard.
type Cut = [usize; DEVICES_MAX];

const DEVICES_MAX: usize = 3;
/// Who plays for longer says how far it is.
const SILENT_FOR: Duration = Duration::from_secs(10);
/// Histories of so many calls are the beginnings that threads share out.
const SHARED_CALLS: usize = 2;

/// A group with the hash of who said what.
struct Said {
    written: Written,
    hash: u64,
}

/// A set of groups that somebody may have heard.
#[derive(Clone)]
struct Known {
    /// The sum of their hashes.
    set: u64,
    /// The rows of whoever heard them, once somebody asked.
    device: Option<Arc<Device>>,
}

/// What was found out in other histories, by the hashes of what was heard.
#[derive(Default)]
struct Memory {
    /// The rows that follow from a set.
    rows: HashMap<u64, u64>,
    /// Sets with what was heard last, where that was seen to lead to those rows.
    steps: HashSet<(u64, u64)>,
    /// Sets that were checked as ends.
    ends: HashSet<u64>,
}

/// What was called so far, and what can be known of it.
#[derive(Clone)]
struct History {
    calls: Vec<(usize, &'static str, Cut)>,
    logs: Vec<Vec<Arc<Said>>>,
    /// The sets of groups that causality allows somebody to have heard.
    known: BTreeMap<Cut, Known>,
    /// What each device knew at its last call.
    at: Vec<Cut>,
    /// How many calls each may still make.
    left: Vec<usize>,
    clock_ms: u64,
}

#[derive(Default)]
struct Found {
    /// Histories that ended and were checked; each goes through all those that begin it.
    histories: u64,
    /// Different ends among them.
    ends: u64,
    /// Different sets of groups that a device may have heard.
    states: u64,
    /// Ways into them: what was heard last.
    steps: u64,
    kinds: HashSet<std::mem::Discriminant<What>>,
}

impl Found {
    fn add(&mut self, other: Self) {
        self.histories += other.histories;
        self.ends += other.ends;
        self.states += other.states;
        self.steps += other.steps;
        self.kinds.extend(other.kinds);
    }
}

/// How much is played: calls of a part of the alphabet, so many by each device.
#[derive(Clone)]
struct Bounds {
    letters: Range<usize>,
    calls: &'static [usize],
}

impl Bounds {
    fn name(&self) -> String {
        let (first, last) = (ALPHABET[self.letters.start].0, ALPHABET[self.letters.end - 1].0);
        format!("calls {:?} of {} letters, {first} to {last}", self.calls, self.letters.len())
    }

    /// Whether a device may begin, where those of lower numbers with as many calls do first.
    fn may_begin(&self, on: usize, left: &[usize]) -> bool {
        let untouched = |device: usize| left[device] == self.calls[device];
        let earlier = |device: usize| self.calls[device] == self.calls[on] && untouched(device);
        self.letters.len() == ALPHABET.len() || !untouched(on) || !(0..on).any(earlier)
    }
}

struct Model {
    bounds: Bounds,
    history: History,
    /// Beginnings of so many calls are put aside, to be played by others.
    stop_at: usize,
    beginnings: Vec<History>,
    memory: Memory,
    found: Found,
}

fn cut(heard: &[usize]) -> Cut {
    let mut cut = [0; DEVICES_MAX];
    cut[..heard.len()].copy_from_slice(heard);
    cut
}

fn is_within(less: &Cut, more: &Cut) -> bool {
    less.iter().zip(more).all(|(less, more)| less <= more)
}

fn said(on: usize, written: Written) -> Arc<Said> {
    let mut bytes = Writer::new();
    written.group.encode(&mut bytes);
    let mut hasher = DefaultHasher::new();
    (on, bytes.into_bytes()).hash(&mut hasher);
    Arc::new(Said { written, hash: hasher.finish() })
}

/// Takes out of the rows what may differ after a race, and decides nothing.
fn forget_local(device: &mut Device) {
    for row in device.rows.values_mut() {
        let local = |node: &NodeRow| (node.entries_changed, node.changed) != (OpId::ZERO, OpId::ZERO);
        if !matches!(&**row, Row::Node(node) if local(node)) {
            continue;
        }
        if let Row::Node(node) = Arc::make_mut(row) {
            (node.entries_changed, node.changed) = (OpId::ZERO, OpId::ZERO);
        }
    }
}

fn rows_hash(device: &Device) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (key, row) in &device.rows {
        key.hash(&mut hasher);
        row.encode(&Shorts::default(), &mut Default::default()).hash(&mut hasher);
    }
    hasher.finish()
}

impl History {
    fn start(bounds: &Bounds) -> Self {
        let world = start(bounds.calls.len());
        let devices = world.devices;
        let at = cut(&devices[0].applied);
        assert!(devices.iter().all(|device| cut(&device.applied) == at), "they begin alike");
        let mut one = devices[0].clone();
        forget_local(&mut one);
        let log = |(on, log): (usize, Vec<Written>)| log.into_iter().map(|one| said(on, one)).collect();
        Self {
            calls: Vec::new(),
            logs: world.logs.into_iter().enumerate().map(log).collect(),
            known: BTreeMap::from([(at, Known { set: 0, device: Some(Arc::new(one)) })]),
            at: vec![at; devices.len()],
            left: bounds.calls.to_vec(),
            clock_ms: world.clock_ms,
        }
    }

    /// All that was said.
    fn end(&self) -> Cut {
        cut(&self.logs.iter().map(Vec::len).collect::<Vec<_>>())
    }

    /// What a device may know at its next call: what it knew at the last one, and all that it said itself.
    fn may_know(&self, on: usize) -> Vec<Cut> {
        let may = |cut: &&Cut| cut[on] == self.logs[on].len() && is_within(&self.at[on], cut);
        self.known.keys().filter(may).copied().collect()
    }

    /// The rows of whoever heard so much.
    fn device(&mut self, knows: &Cut) -> Arc<Device> {
        if let Some(device) = &self.known[knows].device {
            return Arc::clone(device);
        }
        let (before, log) = self.ways(knows)[0];
        let device = Arc::new(self.hear(&before, log));
        self.known.get_mut(knows).expect("was there").device = Some(Arc::clone(&device));
        device
    }

    /// What may have been heard last by who heard so much: what it had heard before, and of which log.
    fn ways(&self, knows: &Cut) -> Vec<(Cut, usize)> {
        let before = |log: usize| {
            let mut before = *knows;
            before[log] = before[log].checked_sub(1)?;
            self.known.contains_key(&before).then_some((before, log))
        };
        (0..self.logs.len()).filter_map(before).collect()
    }

    /// The rows after the next group of a log.
    fn hear(&mut self, before: &Cut, log: usize) -> Device {
        let mut device = Device::clone(&self.device(before));
        device.apply_group(log, &self.logs[log][before[log]].written.group);
        device.applied[log] += 1;
        forget_local(&mut device);
        device
    }

    /// What a device says in a call when it knows so much, and the clock after it.
    fn said(&mut self, on: usize, knows: &Cut, call: Call) -> (Vec<Written>, u64) {
        let device = self.device(knows);
        let mut world = World::new(0);
        world.devices = (0..self.logs.len()).map(|_| Device::new(0, device.policy)).collect();
        world.devices[on] = Device::clone(&device);
        world.logs = self.logs.iter().map(|_| Vec::new()).collect();
        world.clock_ms = self.clock_ms;
        if let Err(PosixError::Store(error)) = call(&mut world, on) {
            panic!("memory can be read: {error}");
        }
        (world.logs.swap_remove(on), world.clock_ms)
    }

    /// Takes a group in: everybody who knows what it was based on may hear it at any time. Returns what can be
    /// known since.
    fn take(&mut self, on: usize, written: Written, memory: &mut Memory) -> Vec<Cut> {
        let (number, based_on, group) = (self.logs[on].len(), cut(&written.deps), said(on, written));
        let hash = group.hash;
        self.logs[on].push(group);
        let ready = |(cut, _): &(&Cut, &Known)| cut[on] == number && is_within(&based_on, cut);
        let mut new: Vec<(Cut, u64)> =
            self.known.iter().filter(ready).map(|(cut, known)| (*cut, known.set)).collect();
        new.sort_by_key(|(cut, _)| cut.iter().sum::<usize>());
        for (cut, set) in &mut new {
            cut[on] += 1;
            *set = set.wrapping_add(hash);
            self.learn(*cut, *set, memory);
        }
        new.into_iter().map(|(cut, _)| cut).collect()
    }

    /// Whoever heard so much has the same rows, whatever it heard last.
    fn learn(&mut self, knows: Cut, set: u64, memory: &mut Memory) {
        let mut heard: Option<Device> = None;
        for (before, log) in self.ways(&knows) {
            if !memory.steps.insert((set, self.logs[log][before[log]].hash)) {
                continue;
            }
            let device = self.hear(&before, log);
            let same = match &heard {
                Some(heard) => heard.rows == device.rows && heard.hlc == device.hlc,
                None => {
                    let rows = rows_hash(&device);
                    *memory.rows.entry(set).or_insert(rows) == rows
                }
            };
            assert!(same, "{:?}: it matters to who heard {knows:?} that log {log} came last", self.calls);
            heard.get_or_insert(device);
        }
        self.known.insert(knows, Known { set, device: heard.map(Arc::new) });
    }

    /// The same as it was before a call.
    fn forget(&mut self, on: usize, said_before: usize, new: &[Cut]) {
        self.logs[on].truncate(said_before);
        new.iter().for_each(|cut| drop(self.known.remove(cut)));
    }

    /// A world in which one device heard all.
    fn world(&mut self) -> World {
        let copy = |said: &Arc<Said>| {
            let Written { group, deps } = &said.written;
            Written { group: group.clone(), deps: deps.clone() }
        };
        let mut world = World::new(0);
        world.devices = vec![Device::clone(&self.device(&self.end()))];
        world.logs = self.logs.iter().map(|log| log.iter().map(copy).collect()).collect();
        world
    }
}

impl Model {
    fn new(bounds: Bounds, history: History, stop_at: usize) -> Self {
        let (beginnings, memory) = (Vec::new(), Memory::default());
        Self { bounds, history, stop_at, beginnings, memory, found: Found::default() }
    }

    /// Plays all that may follow.
    fn go_on(&mut self) {
        if self.history.calls.len() == self.stop_at {
            self.beginnings.push(self.history.clone());
            return;
        }
        for on in 0..self.history.logs.len() {
            if self.history.left[on] == 0 || !self.bounds.may_begin(on, &self.history.left) {
                continue;
            }
            for knows in self.history.may_know(on) {
                for letter in self.bounds.letters.clone() {
                    self.call(on, knows, letter);
                }
            }
        }
    }

    fn call(&mut self, on: usize, knows: Cut, letter: usize) {
        let (name, call) = ALPHABET[letter];
        let (written, clock_ms) = self.history.said(on, &knows, call);
        if written.is_empty() {
            return;
        }
        let (before, said_before) =
            ((self.history.at[on], self.history.clock_ms), self.history.logs[on].len());
        self.history.calls.push((on, name, knows));
        let mut new = Vec::new();
        for group in written {
            new.extend(self.history.take(on, group, &mut self.memory));
        }
        self.history.at[on] = knows;
        self.history.at[on][on] = self.history.logs[on].len();
        self.history.clock_ms = clock_ms;
        self.history.left[on] -= 1;
        self.check_end();
        self.go_on();
        self.history.left[on] += 1;
        (self.history.at[on], self.history.clock_ms) = before;
        self.history.forget(on, said_before, &new);
        self.history.calls.pop();
    }

    /// What was looked at, each once.
    fn count(&mut self) {
        let Memory { rows, steps, ends } = &self.memory;
        let [rows, steps, ends] = [rows.len(), steps.len(), ends.len()].map(|count| count as u64);
        (self.found.states, self.found.steps, self.found.ends) = (rows, steps, ends);
    }

    fn check_end(&mut self) {
        self.found.histories += 1;
        // What devices knew at their calls makes no difference to the end where they said the same.
        if !self.memory.ends.insert(self.history.known[&self.history.end()].set) {
            return;
        }
        let world = self.history.world();
        let (device, names) = (&world.devices[0], &self.history.calls);
        device.check_invariants();
        let expected = picture(&world.all_ops(), device.policy.case);
        assert!(device.picture() == expected, "{names:?}: {:#?}", device.picture());
        assert_eq!(world.lost_writes(0), [], "{names:?}: lost writes");
        let told = device.conflicts();
        self.found.kinds.extend(told.iter().map(|conflict| std::mem::discriminant(&conflict.what)));
    }
}

/// Plays all histories within the bounds, on all cores, and says how far it is.
fn play_all(bounds: &Bounds) -> Found {
    let (began, name) = (Instant::now(), bounds.name());
    let mut first = Model::new(bounds.clone(), History::start(bounds), SHARED_CALLS);
    first.go_on();
    first.count();
    let (beginnings, next, done) = (first.beginnings, AtomicUsize::new(0), AtomicUsize::new(0));
    let total = Mutex::new(first.found);
    let play = || {
        while let Some(beginning) = beginnings.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut model = Model::new(bounds.clone(), beginning.clone(), usize::MAX);
            model.go_on();
            model.count();
            total.lock().expect("nobody panicked").add(model.found);
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            let tenths = |done: usize| done * 10 / beginnings.len();
            if tenths(done) > tenths(done - 1) && began.elapsed() > SILENT_FOR {
                println!(
                    "{name}: {done} of {} beginnings, {} s",
                    beginnings.len(),
                    began.elapsed().as_secs()
                );
            }
        }
    };
    std::thread::scope(|scope| {
        let others = std::thread::available_parallelism().map_or(0, |cores| cores.get() - 1);
        (0..others).for_each(|_| drop(scope.spawn(play)));
        play();
    });
    let total = total.into_inner().expect("nobody panicked");
    let Found { histories, ends, states, steps, .. } = &total;
    let seconds = began.elapsed().as_secs();
    println!("{name}: {histories} histories, {ends} ends, {states} states, {steps} steps, {seconds} s");
    total
}

#[test]
fn every_interleaving_of_few_calls_gives_the_oracles_tree() {
    let all = 0..ALPHABET.len();
    // Two devices with one call each, three with one each: all of the alphabet. Deeper: parts of it.
    let mut bounds: Vec<(Range<usize>, &[usize])> =
        vec![(all.clone(), &[1, 1]), (0..8, &[1, 1, 1]), (0..5, &[2, 2])];
    if std::env::var("COBOX_SOAK").is_ok() {
        bounds = vec![(all.clone(), &[1, 1, 1]), (all, &[2, 2]), (0..8, &[2, 2, 1])];
        // Six calls in every way that three devices can share them: on a file and its names, and on directories.
        for calls in SIX_CALLS {
            bounds.extend([(FILE, calls), (DIRECTORIES, calls)]);
        }
    }
    let mut kinds = HashSet::new();
    for (letters, calls) in bounds {
        kinds.extend(play_all(&Bounds { letters, calls }).kinds);
    }
    assert_eq!(kinds.len(), 5, "every kind of conflict is reached");
}

#[test]
fn broken_rule_shows_in_a_history_of_two_calls() {
    let broken: [(&str, fn(&mut Rules)); 6] = [
        ("newest_keeps_name", |rules| rules.newest_keeps_name = false),
        ("unseen_heads_stay", |rules| rules.unseen_heads_stay = false),
        ("newest_attr_wins", |rules| rules.newest_attr_wins = false),
        ("unseen_edit_revives", |rules| rules.unseen_edit_revives = false),
        ("child_keeps_directory", |rules| rules.child_keeps_directory = false),
        ("cycles_are_skipped", |rules| rules.cycles_are_skipped = false),
    ];
    for (name, breaks) in broken {
        let bounds = Bounds { letters: 0..ALPHABET.len(), calls: &[1, 1] };
        let mut history = History::start(&bounds);
        for device in history.known.values_mut().filter_map(|known| known.device.as_mut()) {
            breaks(&mut Arc::make_mut(device).policy.rules);
        }
        let play = AssertUnwindSafe(|| Model::new(bounds, history, usize::MAX).go_on());
        assert!(catch_unwind(play).is_err(), "no history notices that {name} is broken");
    }
}
