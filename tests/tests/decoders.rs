//! Every decoder of stored and sent bytes under seeded mutations of valid encodings: it never panics,
//! and whatever it reads it encodes to the same bytes. Signed layouts are verified too: no mutation passes.
//!
//! `COBOX_SEED` repeats a run, `COBOX_SOAK=1` multiplies the counts by twenty.

#[path = "../../fuzz/src/lib.rs"]
mod decoders;
#[path = "decoders/rows.rs"]
mod rows;
#[path = "decoders/samples.rs"]
mod samples;
#[path = "decoders/sessions.rs"]
mod sessions;

use cobox_store::format::access::UnverifiedRecord;
use cobox_store::format::agreement::Paper;
use cobox_store::format::command::{Claim, UnverifiedCommand};
use cobox_store::format::entry::UnverifiedEntry;
use cobox_store::format::equivocation::UnverifiedEquivocation;
use cobox_store::format::locator::UnverifiedLocator;
use cobox_store::format::receipt::UnverifiedReceipt;
use cobox_store::format::seeding::SeedRequest;
use decoders::{DECODERS, check};

/// Mutations of each decoder's samples.
const MUTATIONS: u64 = 100_000;
/// Mutations of each signed layout whose signature is checked: one costs as much as fifty decodings.
const FORGERIES: u64 = 20_000;

/// A small generator (SplitMix64, Steele et al. 2014), so that a seed gives one run on any machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Valid encodings of every layout.
fn samples() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    [samples::samples(), rows::samples()].concat()
}

fn seed() -> u64 {
    let seed = std::env::var("COBOX_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_122);
    println!("COBOX_SEED={seed}");
    seed
}

fn times(count: u64) -> u64 {
    if std::env::var_os("COBOX_SOAK").is_some() { count * 20 } else { count }
}

/// One way to spoil `bytes`; `other` is another valid encoding to take pieces from.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(bytes.len());
    let len = random.below(bytes.len() - at).min(1 + random.below(64));
    match random.below(9) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next() as u8,
        2 => bytes.truncate(at),
        3 => bytes.push(random.next() as u8),
        4 => drop(bytes.drain(at..at + len)),
        5 => {
            let piece = bytes[at..at + len].to_vec();
            bytes.splice(at..at, piece);
        }
        6 => {
            let from = random.below(other.len());
            let piece = &other[from..(from + 1 + random.below(64)).min(other.len())];
            bytes.splice(at..at + len.min(piece.len()), piece.iter().copied());
        }
        // Lengths and counts are two or four bytes: the greatest and the next ones.
        7 => bytes[at..].iter_mut().take(2 + 2 * random.below(2)).for_each(|byte| *byte = 0xff),
        _ => bytes[at] = bytes[at].wrapping_add(1),
    }
}

#[test]
fn decoder_of_every_layout_takes_its_samples() {
    for (name, list) in samples() {
        assert!(!list.is_empty(), "{name}");
        for bytes in list {
            assert!(check(name, &bytes), "{name} refuses its own sample");
        }
    }
    let named: Vec<&str> = samples().into_iter().map(|(name, _)| name).collect();
    assert_eq!(named, DECODERS.map(|(name, _)| name), "a decoder without samples, or the other way round");
}

#[test]
fn decoder_under_seeded_mutations_never_panics_and_re_encodes() {
    let mut random = Random(seed());
    let mut total = 0;
    for (name, list) in samples() {
        let mut read = 0;
        // These check a signature while they read, which costs as much as fifty decodings.
        let signed = ["join_request", "paper", "claim", "command", "seed_request"].contains(&name);
        let rounds = times(if signed { MUTATIONS / 20 } else { MUTATIONS });
        for round in 0..rounds {
            let mut bytes = list[random.below(list.len())].clone();
            let other = &list[random.below(list.len())];
            for _ in 0..=random.below(3) {
                if bytes.is_empty() {
                    break;
                }
                mutate(&mut bytes, other, &mut random);
            }
            read += u64::from(check(name, &bytes));
            total += 1;
            if round == 0 {
                check(name, &[]);
            }
        }
        println!("{name}: {read} of {rounds} mutations were well formed");
    }
    println!("{total} mutations");
}

#[test]
fn signed_layout_under_seeded_mutations_never_verifies() {
    type Verified = fn(&[u8]) -> bool;
    let layouts: [(&str, Verified); 9] = [
        ("entry", |bytes| UnverifiedEntry::decode(bytes).is_ok_and(|read| read.verify().is_ok())),
        ("equivocation", |bytes| {
            UnverifiedEquivocation::decode(bytes).is_ok_and(|read| read.verify().is_ok())
        }),
        ("record", |bytes| UnverifiedRecord::decode(bytes).is_ok_and(|read| read.verify().is_ok())),
        ("locator", |bytes| UnverifiedLocator::decode(bytes).is_ok_and(|read| read.verify().is_ok())),
        ("receipt", |bytes| UnverifiedReceipt::decode(bytes).is_ok_and(|read| read.verify().is_ok())),
        ("paper", |bytes| {
            // Whoever declines signs nothing: it is said on a connection that names the seeder.
            Paper::decode(bytes).is_ok_and(|paper| !matches!(paper, Paper::Declined(_) | Paper::Held(_)))
        }),
        ("claim", |bytes| Claim::decode(bytes).is_ok()),
        ("command", |bytes| UnverifiedCommand::decode(bytes).is_ok_and(|read| read.verify().is_ok())),
        ("seed_request", |bytes| SeedRequest::decode(bytes).is_ok()),
    ];
    let mut random = Random(seed());
    let all = samples();
    for (name, verified) in layouts {
        let (_, list) = all.iter().find(|(known, _)| *known == name).expect("it has samples");
        let list: Vec<_> = list.iter().filter(|bytes| verified(bytes)).cloned().collect();
        assert!(!list.is_empty(), "{name}: no sample verifies");
        for _ in 0..times(FORGERIES) {
            let original = &list[random.below(list.len())];
            let mut bytes = original.clone();
            // Most mutations break the layout; bits flipped in place reach the signature.
            if random.below(4) == 0 {
                mutate(&mut bytes, &list[random.below(list.len())], &mut random);
            } else {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
            assert!(list.contains(&bytes) || !verified(&bytes), "{name}: a forgery verifies");
        }
    }
}

/// Layouts whose vectors are made here, with their names in `docs/vectors`.
const VECTORS: [(&str, &str); 8] = [
    ("receipt", "receipt"),
    ("frame", "frame"),
    ("bulk_frame", "bulk frame"),
    ("slots", "slots"),
    ("paper", "paper"),
    ("claim", "claim"),
    ("command", "command"),
    ("seed_request", "seed request"),
];

/// The vectors of one layout: its samples, and each of them cut short, lengthened and of another type.
fn vectors(name: &str, layout: &str) -> String {
    let (_, list) = samples().into_iter().find(|(known, _)| *known == name).expect("it has samples");
    let mut cases = Vec::new();
    let mut add = |title: String, bytes: &[u8]| {
        // Where a field runs to the end of the bytes, a longer or shorter one is another valid field.
        let accept = check(name, bytes);
        cases.push(format!(
            "    {{ \"name\": \"{title}\", \"accept\": {accept}, \"hex\": \"{}\" }}",
            cobox_store::id::hex(bytes)
        ));
    };
    for (at, bytes) in list.iter().enumerate() {
        add(format!("{layout} {at}"), bytes);
        add(format!("{layout} {at}, cut short"), &bytes[..bytes.len() - 1]);
        add(format!("{layout} {at}, one byte more"), &[bytes, &[0][..]].concat());
        add(format!("{layout} {at}, first byte unknown"), &[&[0xee], &bytes[1..]].concat());
    }
    format!(
        "{{\n  \"kind\": \"layout\",\n  \"layout\": \"{layout}\",\n  \"cases\": [\n{}\n  ]\n}}\n",
        cases.join(",\n")
    )
}

#[test]
fn vectors_of_sent_layouts_are_the_written_ones() {
    for (name, layout) in VECTORS {
        written_is(&layout.replace(' ', "-"), &vectors(name, layout));
    }
}

#[test]
fn vectors_of_sessions_are_the_written_ones() {
    written_is("session", &sessions::vectors());
}

fn written_is(name: &str, made: &str) {
    // At run time: checkouts that share a target folder may run what another one compiled.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let path = std::path::Path::new(&package).join(format!("../docs/vectors/{name}.json"));
    if std::env::var_os("COBOX_WRITE_VECTORS").is_some() {
        std::fs::write(&path, made).expect("the vectors can be written");
    }
    let written = std::fs::read_to_string(&path).expect("the vectors are in docs/vectors");
    assert!(written == made, "{name}: the format changed; COBOX_WRITE_VECTORS=1 writes the new vectors");
}
