//! A seeder under commands that no honest device sends: replayed, changed, expired, meant for another seeder,
//! of another registration. A real seeder, and an admin made of bare keys.

use cobox_net::wire::ClaimAnswer;
use cobox_net::{NetConfig, Node};
use cobox_store::blind::owners::Outcome;
use cobox_store::blind::{Store, StoreKind};
use cobox_store::format::command::{Claim, Command, Order, Rank};
use cobox_store::format::invite::{CodeFor, Hint, InviteCode};
use cobox_store::id::{AdminKey, ChainId, ClaimKey, derive};
use cobox_tests::process::Seeder;
use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

struct Admin {
    node: Node,
    hint: Hint,
    key: SigningKey,
    chain: ChainId,
    _dir: tempfile::TempDir,
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text.lines().last().unwrap_or_default()).expect("JSON")
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("fits")
}

impl Admin {
    /// Claims the seeder with the code of its console.
    fn claim(seeder: &Seeder) -> Self {
        let said = seeder.run(&["claim", "--json"]).ok();
        let code = json(&said.out)["code"].as_str().expect("a code").to_owned();
        let code = InviteCode::from_text_for(CodeFor::Claim, &code).expect("a code");
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = Store::create(&dir.path().join("store"), StoreKind::Device).expect("creates");
        let node = Node::start(store, Zeroizing::new([7; 32]), NetConfig::default()).expect("starts");
        let (hint, key) = (code.hints[0].clone(), SigningKey::from_bytes(&[9; 32]));
        let code = SigningKey::from_bytes(&derive("claim", &[code.secret.as_ref()]));
        let mut claim = Claim {
            seeder: hint.peer,
            claim: ClaimKey(code.verifying_key().to_bytes()),
            admin: AdminKey(key.verifying_key().to_bytes()),
            recovery: ClaimKey([0; 32]),
            name: "bare keys".into(),
            claim_signature: [0; 64],
            admin_signature: [0; 64],
        };
        // Another seeder's claim is no claim here.
        let mut foreign = Claim { seeder: [1; 32], ..claim.clone() };
        foreign.claim_signature = code.sign(&foreign.signed_bytes()).to_bytes();
        foreign.admin_signature = key.sign(&foreign.signed_bytes()).to_bytes();
        assert!(node.claim(&hint, foreign.encode()).is_err());
        claim.claim_signature = code.sign(&claim.signed_bytes()).to_bytes();
        claim.admin_signature = key.sign(&claim.signed_bytes()).to_bytes();
        let answer = node.claim(&hint, claim.encode()).expect("the code is open");
        let ClaimAnswer::Taken { chain, rank: Rank::Owner, seq: 0 } = answer else { panic!("{answer:?}") };
        // Asked again, because an answer may get lost, it says the same.
        assert_eq!(node.claim(&hint, claim.encode()).expect("known"), answer);
        Self { node, hint, key, chain, _dir: dir }
    }

    fn sign(&self, seq: u64, order: Order, change: impl Fn(&mut Command)) -> Vec<u8> {
        let mut command = Command {
            seeder: self.hint.peer,
            admin: AdminKey(self.key.verifying_key().to_bytes()),
            chain: self.chain,
            seq,
            issued_ms: now_ms(),
            expires_ms: now_ms() + 60_000,
            order,
            signature: [0; 64],
        };
        change(&mut command);
        command.signature = self.key.sign(&command.signed_bytes()).to_bytes();
        command.encode()
    }

    fn send(&self, command: &[u8]) -> (Outcome, String) {
        self.node.command(&self.hint, command.to_vec()).expect("it answers")
    }
}

#[test]
fn command_replayed_changed_expired_or_of_another_seeder_is_refused_and_logged_with_its_author() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut seeder = Seeder::new(dir.path(), "seeder");
    seeder.accept = "owner";
    seeder.start();
    let admin = Admin::claim(&seeder);

    let pause = admin.sign(1, Order::Pause, |_| ());
    let first = admin.send(&pause);
    assert_eq!(first.0, Outcome::Done, "{first:?}");
    let resume = admin.sign(2, Order::Resume, |_| ());
    assert_eq!(admin.send(&resume).0, Outcome::Done);
    // The first one again gets its answer, and the seeder is not paused by it.
    assert_eq!(admin.send(&pause), first);
    let status = json(&seeder.run(&["status", "--json"]).ok().out);
    assert_eq!(status["paused"], false, "{status}");

    let refused = |seq: u64, change: &dyn Fn(&mut Command), why: &str| {
        let (outcome, text) = admin.send(&admin.sign(seq, Order::Pause, change));
        assert_eq!(outcome, Outcome::Refused, "{text}");
        assert!(text.contains(why), "{why:?} is not in {text}");
    };
    refused(1, &|command| command.issued_ms += 1, "used before");
    refused(2, &|_| (), "used before");
    refused(9, &|command| command.expires_ms = 1, "time is over");
    refused(9, &|command| command.issued_ms += 3_600_000, "from the future");
    refused(9, &|command| command.seeder = [1; 32], "another seeder");
    refused(9, &|command| command.chain = ChainId([1; 16]), "earlier registration");
    // A bit that is not the admin's own.
    let mut bent = admin.sign(9, Order::Pause, |_| ());
    let last = bent.len() - 1;
    bent[last] ^= 1;
    assert_eq!(admin.send(&bent).0, Outcome::Refused);
    let status = json(&seeder.run(&["status", "--json"]).ok().out);
    assert_eq!(status["paused"], false, "none of them was obeyed: {status}");

    // Each is in the report with its author, and in the log.
    let report = json(&seeder.run(&["report", "--json"]).ok().out);
    let refusals = report["refused"].as_array().expect("a list");
    assert_eq!(refusals.len(), 8, "{report}");
    assert!(refusals.iter().skip(1).all(|refusal| refusal["name"] == "bare keys"), "{report}");
    let peer = admin.node.peer_id().to_string();
    assert!(refusals.iter().all(|refusal| refusal["peer"] == peer.as_str()), "{report}");
    let log = std::fs::read_to_string(seeder.data.with_extension("log")).expect("the log is there");
    assert!(log.matches("refused an order").count() >= 8, "{log}");
    let secret = json(&seeder.run(&["claim", "--reset", "--json"]).ok().out)["code"].clone();
    let secret = secret.as_str().expect("a code");
    let errors: Vec<&str> =
        log.lines().filter(|line| line.contains("WARN") || line.contains("INFO")).collect();
    assert!(errors.iter().all(|line| !line.contains(secret)), "a code never reaches the log");

    // What was done stands after a restart, and so do the numbers.
    seeder.kill();
    seeder.start();
    let after = admin.send(&admin.sign(3, Order::Status, |_| ()));
    assert_eq!(after.0, Outcome::Refused, "the console dismissed the owner: {after:?}");
    admin.node.shutdown();
}
