//! A seeder that is killed while it obeys does nothing twice, and answers for everything.
//!
//! The test runs itself again as a child that obeys one command on a store that stays. The child stops for good at
//! a line of its log, between the number on the disk and the deed or between the deed and the answer, and is
//! killed there with SIGKILL; or it is killed at any moment. Then the seeder begins anew, what the command did is
//! undone by hand, and the command is sent again, twice: a second execution would be seen.
//! `COBOX_SOAK` kills a thousand times at each of the three.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::time::Duration;

use cobox_store::format::command::Rank;
use cobox_store::id::ClaimKey;
use ed25519_dalek::{Signer as _, SigningKey};
use tracing::field::{Field, Visit};
use tracing::span;

use super::*;
use crate::node::NetConfig;
use crate::seeder::identity::Identity;
use crate::seeder::{Accept, open_store};

const NAME: &str = "seeder::orders::killed::seeder_killed_between_a_number_and_its_answer_never_obeys_twice";
const CHILD_DIR: &str = "COBOX_TEST_OBEY_DIR";
const CHILD_SEQ: &str = "COBOX_TEST_OBEY_SEQ";
const CHILD_DOES: &str = "COBOX_TEST_OBEY_DOES";

/// The number is on the disk, and nothing was done.
const TAKEN: &str = "obeying a command";
/// It was done, and the answer is not kept.
const DONE: &str = "a command was carried out";
/// The child waits nowhere.
const NOWHERE: &str = "nowhere";
/// The child is the seeder that begins anew.
const AGAIN: &str = "again";

const CHAIN: ChainId = ChainId([3; 16]);
/// A whole command takes some milliseconds from its arrival to its answer.
const ANY_MICROS: u64 = 12_000;

fn admin() -> SigningKey {
    SigningKey::from_bytes(&[2; 32])
}

/// The code that the command with this number opens: what it did, and what is taken back by hand.
fn effect(seq: u64) -> ClaimKey {
    let mut seed = [9; 32];
    seed[..8].copy_from_slice(&seq.to_le_bytes());
    ClaimKey(SigningKey::from_bytes(&seed).verifying_key().to_bytes())
}

fn command(seeder: [u8; 32], seq: u64) -> Vec<u8> {
    /// The parent and its children sign the same bytes, whatever the time is: it is good for as long as clocks go.
    const ALWAYS_MS: u64 = u64::MAX;
    let mut command = Command {
        seeder,
        admin: AdminKey(admin().verifying_key().to_bytes()),
        chain: CHAIN,
        seq,
        issued_ms: 1,
        expires_ms: ALWAYS_MS,
        order: Order::Invite {
            claim: effect(seq),
            rank: Rank::Watcher,
            expires_ms: ALWAYS_MS,
            name: "code".into(),
        },
        signature: [0; 64],
    };
    command.signature = admin().sign(&command.signed_bytes()).to_bytes();
    command.encode()
}

fn claimed(dir: &Path) {
    let code = SigningKey::from_bytes(&[1; 32]);
    let store = open_store(dir).expect("makes a store");
    let key = ClaimKey(code.verifying_key().to_bytes());
    let issuer = cobox_store::blind::owners::NO_ISSUER;
    let open =
        OpenClaim { key, rank: Rank::Owner, expires_ms: 0, name: "code".into(), secret: [0; 16], issuer };
    store.claim_open(&open, 1).expect("opens");
    let claim = Claim {
        seeder: [0; 32],
        claim: key,
        admin: AdminKey(admin().verifying_key().to_bytes()),
        recovery: ClaimKey([0; 32]),
        name: "laptop".into(),
        claim_signature: [0; 64],
        admin_signature: [0; 64],
    };
    assert!(matches!(store.claim_redeem(&claim, CHAIN, 1).expect("reads"), Claimed::Yes(_)));
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // One write for a line: the kill leaves whole lines only.
    out.write_all(format!("\n{line}\n").as_bytes()).and_then(|()| out.flush()).expect("the parent listens");
}

/// Stops the thread that writes a certain line to the log, for good.
struct StopAt(String);

impl tracing::Subscriber for StopAt {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Message(String);
        impl Visit for Message {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        if message.0 == self.0 {
            say("stopped");
            loop {
                std::thread::park();
            }
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// What the child does: the seeder, without the sockets.
fn child(dir: &Path, seq: u64, does: &str) {
    tracing::subscriber::set_global_default(StopAt(does.to_owned())).expect("the child has one test");
    let store = open_store(dir).expect("opens");
    let identity = Identity::open_or_create(dir).expect("reads");
    let (seed, seeder) = (identity.seed.clone(), *identity.peer().key());
    let holding = Holding::new(Arc::clone(&store), identity, Accept::Owner, dir).expect("opens");
    let orders = Orders::new(holding).expect("opens");
    let node = Node::start(Arc::clone(&store), seed, NetConfig::default()).expect("starts");
    let send = || {
        let ordered = Ordered::Command(command(seeder, seq));
        let answer = orders.answer(&node, node.peer_id(), QuestionId(1), ordered);
        let Some(SeedingFrame::Obeyed { outcome, .. }) = answer else { panic!("no answer") };
        outcome.word()
    };
    if does != AGAIN {
        say("ready");
        say(send());
        return;
    }
    let is_there = || store.claims().expect("reads").iter().any(|open| open.key == effect(seq));
    let Answer::Report { commands, .. } = orders.report().expect("reads") else { panic!("no report") };
    let reported = commands.iter().find(|known| known.seq == seq);
    let (before, reported) = (is_there(), reported.map_or("unknown", |known| &known.outcome));
    store.claim_void(effect(seq)).expect("undoes it");
    let (first, after, second) = (send(), is_there(), send());
    store.claim_void(effect(seq)).expect("undoes it");
    assert_eq!(first, second, "one answer");
    say(&format!("found {before} {reported} {first} {after} {}", is_there()));
}

fn start(dir: &Path, seq: u64, does: &str) -> (std::process::Child, impl Iterator<Item = String>) {
    let mut child = Process::new(std::env::current_exe().expect("this program"))
        .args(["--exact", NAME, "--nocapture"])
        .env(CHILD_DIR, dir)
        .env(CHILD_SEQ, seq.to_string())
        .env(CHILD_DOES, does)
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
    (child, lines)
}

fn expect(lines: &mut impl Iterator<Item = String>, word: &str) {
    let mut seen = Vec::new();
    for line in lines {
        if line == word {
            return;
        }
        seen.push(line);
    }
    panic!("{word:?} did not come: {seen:?}");
}

/// Whether the deed was done before the kill, what the report says, what comes back when the command is sent
/// again, and whether it was done then.
fn killed(dir: &Path, seq: u64, does: &str, micros: u64) -> (bool, String, String, bool) {
    let (mut child, mut lines) = start(dir, seq, does);
    expect(&mut lines, "ready");
    if does == NOWHERE {
        // The moment is what the dice say: this wait is the experiment, not a synchronisation.
        std::thread::sleep(Duration::from_micros(micros));
    } else {
        expect(&mut lines, "stopped");
    }
    child.kill().expect("is killed");
    child.wait().expect("ends");
    let (mut child, lines) = start(dir, seq, AGAIN);
    let lines: Vec<String> = lines.collect();
    assert!(child.wait().expect("ends").success(), "command {seq}: {lines:?}");
    let found = lines.iter().find_map(|line| line.strip_prefix("found "));
    let words: Vec<&str> = found.unwrap_or_default().split(' ').collect();
    let [before, reported, answered, after, later] = words[..] else { panic!("{lines:?}") };
    assert_eq!(later, "false", "command {seq} was carried out when it came for the third time");
    (before == "true", reported.to_owned(), answered.to_owned(), after == "true")
}

#[test]
fn seeder_killed_between_a_number_and_its_answer_never_obeys_twice() {
    let var = |name| std::env::var(name).ok();
    if let (Some(dir), Some(seq), Some(does)) = (var(CHILD_DIR), var(CHILD_SEQ), var(CHILD_DOES)) {
        return child(Path::new(&dir), seq.parse().expect("a number"), &does);
    }
    let rounds = if std::env::var_os("COBOX_SOAK").is_some() { 1000 } else { 8 };
    let seed = var("COBOX_SEED").and_then(|text| text.parse().ok()).unwrap_or(20_261_129_u64);
    println!("COBOX_SEED={seed}");
    let mut dice = blake3::Hasher::new_derive_key("kills").update(&seed.to_le_bytes()).finalize_xof();
    let dir = tempfile::tempdir().expect("temporary folder");
    claimed(dir.path());
    let (mut never, mut once, mut cut) = (0, 0, 0);
    for round in 0..rounds {
        // Nothing was done, and it is said.
        let taken = killed(dir.path(), 3 * round + 1, TAKEN, 0);
        assert_eq!(taken, (false, "interrupted".to_owned(), "interrupted".to_owned(), false));
        // It was done, and it is said that it may have been.
        let done = killed(dir.path(), 3 * round + 2, DONE, 0);
        assert_eq!(done, (true, "interrupted".to_owned(), "interrupted".to_owned(), false));
        // Whenever it was: done once, or reported as cut off.
        let mut word = [0; 8];
        dice.fill(&mut word);
        let micros = u64::from_le_bytes(word) % ANY_MICROS;
        let (before, reported, answered, after) = killed(dir.path(), 3 * round + 3, NOWHERE, micros);
        let lawful = match reported.as_str() {
            "unknown" => !before && answered == "done" && after,
            "done" => before && answered == "done" && !after,
            "interrupted" => answered == "interrupted" && !after,
            _ => false,
        };
        assert!(lawful, "round {round}, {micros} µs: {before} {reported} {answered} {after}");
        never += u64::from(reported == "unknown");
        once += u64::from(reported == "done");
        cut += u64::from(reported == "interrupted");
    }
    println!("{rounds} kills after a number was taken, {rounds} after the deed, {rounds} at any moment:");
    println!("of those {never} before the number, {cut} between it and the answer, {once} after the answer");
}
