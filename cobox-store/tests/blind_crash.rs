//! A store whose program is killed at any moment keeps all that it acknowledged.
//!
//! The test runs itself again as a child that writes packs, entries and slices and prints a line for
//! each thing that is durable. The parent kills it with SIGKILL, opens the store and looks.

mod folder;

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use cobox_store::blind::{PackState, PackStatus, Progress};
use cobox_store::format::SLICE_BYTES;
use cobox_store::format::pack::PackRef;
use cobox_store::format::proof::Outboard;
use cobox_store::id::{EntryHash, PackId};

use folder::{Dice, Folder};

const CHILD_DIR: &str = "COBOX_TEST_CRASH_DIR";
const CHILD_SEED: &str = "COBOX_TEST_CRASH_SEED";
const ROUNDS: u64 = 20;
/// Size classes on both sides of what goes through the write-ahead log.
const SIZES: [usize; 6] = [4096, 20480, 64 << 10, 256 << 10, 1 << 20, 6 << 20];

#[derive(Default)]
struct Acknowledged {
    packs: Vec<PackId>,
    entries: Vec<(u64, EntryHash)>,
    slices: HashMap<PackId, Vec<u64>>,
}

impl Acknowledged {
    fn note(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let id = |text: &str| PackId::from_hex(text).expect("the child prints ids");
        match words[..] {
            ["pack", pack] => self.packs.push(id(pack)),
            ["entry", seq, hash] => {
                self.entries
                    .push((seq.parse().expect("a number"), EntryHash::from_hex(hash).expect("a hash")));
            }
            ["slices", pack, ref indexes @ ..] => {
                let indexes = indexes.iter().map(|index| index.parse::<u64>().expect("a number"));
                self.slices.entry(id(pack)).or_default().extend(indexes);
            }
            _ => {}
        }
    }
}

#[test]
fn killed_at_any_moment_keeps_what_was_acknowledged() {
    if let Ok(dir) = std::env::var(CHILD_DIR) {
        let seed = std::env::var(CHILD_SEED).expect("the parent sets both").parse().expect("a number");
        write_until_killed(Path::new(&dir), seed);
    }
    let seed = std::env::var("COBOX_TEST_SEED").map_or(20_261_122, |text| text.parse().expect("a number"));
    println!("seed {seed}");
    let dir = tempfile::tempdir().expect("temporary folder");
    let mut known = Acknowledged::default();
    for round in 0..ROUNDS {
        let mut dice = Dice::new(seed, round);
        let wait = Duration::from_millis(20 + dice.below(330));
        run_child(dir.path(), seed ^ (round << 32), wait, &mut known);
        check(dir.path(), &known, round);
    }
    println!(
        "{} packs, {} entries, {} partial packs",
        known.packs.len(),
        known.entries.len(),
        known.slices.len()
    );
    assert!(known.entries.len() > 20 && !known.packs.is_empty(), "the child got to do something");
}

fn run_child(dir: &Path, seed: u64, wait: Duration, known: &mut Acknowledged) {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "killed_at_any_moment_keeps_what_was_acknowledged", "--nocapture"])
        .env(CHILD_DIR, dir)
        .env(CHILD_SEED, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("child starts");
    let lines = BufReader::new(child.stdout.take().expect("piped"));
    let reader = std::thread::spawn(move || lines.lines().map_while(Result::ok).collect::<Vec<String>>());
    // The moment of the kill is what the dice say: this wait is the experiment, not a synchronisation.
    std::thread::sleep(wait);
    child.kill().expect("child is killed");
    child.wait().expect("child ends");
    let lines = reader.join().expect("output is read");
    assert!(!lines.iter().any(|line| line.contains("panicked")), "{lines:?}");
    lines.iter().for_each(|line| known.note(line));
}

fn check(dir: &Path, known: &Acknowledged, round: u64) {
    let folder = Folder::open(dir);
    let (store, no) = (&folder.store, folder.no);
    let report = store.check_packs(no, &mut |_, _| ControlFlow::Continue(())).expect("checks");
    assert!(report.damaged.is_empty(), "round {round}: complete packs lack slices: {:?}", report.damaged);
    for pack in &known.packs {
        let status = store.pack_status(no, *pack).expect("reads");
        assert!(matches!(status, PackStatus::Complete(_)), "round {round}: pack {pack} is {status:?}");
    }
    for (pack, indexes) in &known.slices {
        let outboard = store.outboard(no, *pack).expect("reads").expect("outboard is there");
        for index in indexes {
            let slice = store.slice(no, *pack, *index).expect("reads").expect("slice is there");
            assert!(outboard.slice_matches(*index, &slice), "round {round}: slice {index} of {pack}");
        }
    }
    check_chain(&folder, known, round);
    let mut live = Vec::new();
    store.packs_live(no, &mut |pack, state| live.push((pack, state))).expect("scans");
    for (pack, state) in live {
        let complete = matches!(store.pack_status(no, pack.id).expect("reads"), PackStatus::Complete(_));
        assert_eq!(complete, state == PackState::Complete, "round {round}: pack {}", pack.id);
    }
}

fn check_chain(folder: &Folder, known: &Acknowledged, round: u64) {
    let (store, no, log) = (&folder.store, folder.no, folder.log());
    let head = store.log_head(no, log).expect("reads").map_or(0, |head| head.seq);
    let mut prev = EntryHash([0; 32]);
    let mut hashes = HashMap::new();
    for seq in 1..=head {
        let entry = store.entry(no, log, seq).expect("is genuine").expect("is there");
        assert_eq!(entry.header().prev, prev, "round {round}: entry {seq}");
        prev = entry.header().hash();
        hashes.insert(seq, prev);
    }
    for (seq, hash) in &known.entries {
        assert_eq!(hashes.get(seq), Some(hash), "round {round}: entry {seq}");
    }
    assert_eq!(store.entry(no, log, head + 1).expect("reads"), None);
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // One write for a line: the kill leaves whole lines only.
    out.write_all(format!("\n{line}\n").as_bytes()).and_then(|()| out.flush()).expect("the parent listens");
}

fn write_until_killed(dir: &Path, seed: u64) -> ! {
    let folder = Folder::open(dir);
    let mut dice = Dice::new(seed, 1);
    loop {
        let packs: Vec<(Outboard, Vec<u8>)> = (0..1 + dice.below(3))
            .map(|_| {
                let bytes = roll_pack(&mut dice);
                (Outboard::of(&bytes), bytes)
            })
            .collect();
        folder.store.packs_put(folder.no, &packs).expect("packs are stored");
        packs.iter().for_each(|(outboard, _)| say(&format!("pack {}", outboard.pack().id.to_hex())));
        let away = roll_pack(&mut dice);
        let away_outboard = Outboard::of(&away);
        let mut refs: Vec<PackRef> = packs.iter().map(|(outboard, _)| outboard.pack()).collect();
        refs.push(away_outboard.pack());
        let len = usize::try_from(dice.below(20_000)).expect("small");
        let entry = folder.next_entry(&refs, &dice.bytes(len));
        folder.store.entry_add(folder.no, &entry).expect("entry is stored");
        say(&format!("entry {} {}", entry.header().seq, entry.header().hash().to_hex()));
        receive_some(&folder, &mut dice, &away, away_outboard);
    }
}

fn roll_pack(dice: &mut Dice) -> Vec<u8> {
    let size = SIZES[usize::try_from(dice.below(SIZES.len() as u64)).expect("small")];
    dice.bytes(size)
}

fn receive_some(folder: &Folder, dice: &mut Dice, bytes: &[u8], outboard: Outboard) {
    let pack = outboard.pack();
    let mut receiver = folder.store.pack_receive(folder.no, pack, outboard).expect("reception begins");
    let slices: Vec<&[u8]> = bytes.chunks(SLICE_BYTES as usize).collect();
    let count = slices.len() as u64;
    let (first, taken) = (dice.below(count), 1 + dice.below(count));
    let mut indexes = Vec::new();
    for at in 0..taken {
        let index = (first + at) % count;
        let slice = slices[usize::try_from(index).expect("small")];
        receiver.put_slice(index, slice).expect("slice is taken");
        indexes.push(index.to_string());
    }
    let progress = receiver.flush().expect("slices are stored");
    say(&format!("slices {} {}", pack.id.to_hex(), indexes.join(" ")));
    if progress == Progress::Done {
        say(&format!("pack {}", pack.id.to_hex()));
    }
}
