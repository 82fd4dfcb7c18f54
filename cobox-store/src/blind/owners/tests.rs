//! Owners and commands: what counts once, also where the program is cut off.

use std::collections::BTreeMap;
use std::sync::Arc;

use ed25519_dalek::{Signer as _, SigningKey};

use super::*;
use crate::blind::StoreKind;
use crate::format::command::Order;

const NOW: u64 = 1_800_000_000_000;

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn admin_of(key: &SigningKey) -> AdminKey {
    AdminKey(key.verifying_key().to_bytes())
}

fn claim_of(key: &SigningKey) -> ClaimKey {
    ClaimKey(key.verifying_key().to_bytes())
}

fn claim(code: &SigningKey, admin: &SigningKey, recovery: Option<&SigningKey>) -> Claim {
    Claim {
        seeder: [7; 32],
        claim: claim_of(code),
        admin: admin_of(admin),
        recovery: recovery.map_or(ClaimKey([0; 32]), claim_of),
        name: "laptop".into(),
        claim_signature: [0; 64],
        admin_signature: [0; 64],
    }
}

fn open(code: &SigningKey, rank: Rank, expires_ms: u64) -> OpenClaim {
    OpenClaim { key: claim_of(code), rank, expires_ms, name: "code".into(), secret: [0; 16] }
}

fn command(admin: &SigningKey, chain: ChainId, seq: u64, order: Order) -> Command {
    let mut command = Command {
        seeder: [7; 32],
        admin: admin_of(admin),
        chain,
        seq,
        issued_ms: NOW,
        expires_ms: NOW + 60_000,
        order,
        signature: [0; 64],
    };
    command.signature = admin.sign(&command.signed_bytes()).to_bytes();
    command
}

fn new_store() -> (tempfile::TempDir, Arc<Store>) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let store = Store::create(dir.path(), StoreKind::Seeder).expect("creates");
    (dir, store)
}

/// A store with one admin of that rank.
fn with_admin(rank: Rank) -> (tempfile::TempDir, Arc<Store>, SigningKey, ChainId) {
    let (dir, store) = new_store();
    let (code, admin, chain) = (key(1), key(2), ChainId([3; 16]));
    store.claim_open(&open(&code, rank, 0), NOW).expect("opens");
    let claimed = store.claim_redeem(&claim(&code, &admin, None), chain, NOW).expect("reads");
    assert!(matches!(claimed, Claimed::Yes(_)));
    (dir, store, admin, chain)
}

#[test]
fn code_makes_one_admin_and_the_same_device_is_told_again() {
    let (_dir, store) = new_store();
    let (code, first, second) = (key(1), key(2), key(3));
    store.claim_open(&open(&code, Rank::Owner, NOW), NOW).expect("opens");
    assert!(!store.has_owner().expect("reads"));
    let redeem = |admin: &SigningKey, chain: u8, now| {
        store.claim_redeem(&claim(&code, admin, None), ChainId([chain; 16]), now).expect("reads")
    };
    assert_eq!(redeem(&first, 1, NOW + 1), Claimed::No, "its time is over");
    let Claimed::Yes(admin) = redeem(&first, 1, NOW) else { panic!("open") };
    assert_eq!(redeem(&first, 2, NOW), Claimed::Yes(admin), "an answer may get lost");
    assert_eq!(redeem(&second, 3, NOW), Claimed::No);
    assert!(store.has_owner().expect("reads"));
    store.admin_dismiss(admin_of(&first)).expect("dismisses");
    assert_eq!(redeem(&first, 4, NOW), Claimed::No, "who was dismissed does not come back with it");
    assert!(!store.has_owner().expect("reads"));
}

#[test]
fn recovery_key_takes_the_place_of_the_lost_device() {
    let (_dir, store) = new_store();
    let (code, lost, words, fresh) = (key(1), key(2), key(3), key(4));
    store.claim_open(&open(&code, Rank::Owner, 0), NOW).expect("opens");
    let chain = ChainId([1; 16]);
    store.claim_redeem(&claim(&code, &lost, Some(&words)), chain, NOW).expect("reads");
    let again = claim(&words, &fresh, None);
    let other = ChainId([2; 16]);
    let Claimed::Yes(admin) = store.claim_redeem(&again, other, NOW).expect("reads") else { panic!("known") };
    assert_eq!((admin.rank, admin.recovery), (Some(Rank::Owner), claim_of(&words)));
    let order = command(&lost, chain, 1, Order::Pause);
    assert_eq!(store.command_begin(&order, NOW).expect("reads"), Begin::Refused(Refusal::Dismissed));
    // The same device again is the same admin, not another one.
    assert_eq!(store.claim_redeem(&again, ChainId([9; 16]), NOW).expect("reads"), Claimed::Yes(admin));
}

#[test]
fn command_that_should_not_be_obeyed_says_why() {
    let (_dir, store, admin, chain) = with_admin(Rank::Keeper);
    let begin = |command: &Command, now| store.command_begin(command, now).expect("reads");
    let refused = |why| Begin::Refused(why);
    let pause = command(&admin, chain, 1, Order::Pause);
    assert_eq!(begin(&command(&key(9), chain, 1, Order::Pause), NOW), refused(Refusal::Unknown));
    let other = ChainId([9; 16]);
    assert_eq!(begin(&command(&admin, other, 1, Order::Pause), NOW), refused(Refusal::OtherChain));
    assert_eq!(begin(&pause, NOW + 60_001), refused(Refusal::Expired));
    assert_eq!(begin(&pause, NOW - SKEW_MS - 1), refused(Refusal::Expired));
    assert_eq!(begin(&command(&admin, chain, 1, Order::Admins), NOW), refused(Refusal::OutOfScope));
    assert!(matches!(begin(&pause, NOW), Begin::Fresh(_)));
    store.command_finish(&pause, Outcome::Done, "paused").expect("writes");
    let Begin::Before(taken) = begin(&pause, NOW + 999_999) else { panic!("the answer is kept") };
    assert_eq!((taken.outcome, taken.text.as_str()), (Outcome::Done, "paused"));
    assert_eq!(begin(&command(&admin, chain, 1, Order::Resume), NOW), refused(Refusal::Replayed));
    assert!(matches!(begin(&command(&admin, chain, 5, Order::Resume), NOW), Begin::Fresh(_)));
    assert_eq!(begin(&command(&admin, chain, 3, Order::Resume), NOW), refused(Refusal::Replayed));
    store.admin_dismiss(admin_of(&admin)).expect("dismisses");
    assert_eq!(begin(&command(&admin, chain, 6, Order::Status), NOW), refused(Refusal::Dismissed));
    assert_eq!(begin(&pause, NOW), refused(Refusal::Dismissed));
}

#[test]
fn answers_are_kept_for_the_newest_commands_only() {
    let (_dir, store, admin, chain) = with_admin(Rank::Owner);
    for seq in 1..=ANSWERS_KEPT + 10 {
        let order = command(&admin, chain, seq, Order::Status);
        assert!(matches!(store.command_begin(&order, NOW).expect("reads"), Begin::Fresh(_)));
        store.command_finish(&order, Outcome::Done, "").expect("writes");
    }
    assert_eq!(store.commands().expect("reads").len() as u64, ANSWERS_KEPT);
    let first = command(&admin, chain, 1, Order::Status);
    assert_eq!(store.command_begin(&first, NOW).expect("reads"), Begin::Refused(Refusal::Replayed));
}

/// Where the program is cut off while it carries a command out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cut {
    BeforeDoing,
    AfterDoing,
    Never,
}

/// Orders that are cut off at every point and sent again: none is done twice, and each has an answer.
#[test]
fn command_cut_off_at_any_point_is_never_done_twice_and_always_answered() {
    let rounds: u64 = if std::env::var_os("COBOX_SOAK").is_some() { 1000 } else { 45 };
    let (dir, mut store, admin, chain) = with_admin(Rank::Owner);
    let mut done: BTreeMap<u64, u32> = BTreeMap::new();
    for seq in 1..=rounds {
        let cut = [Cut::BeforeDoing, Cut::AfterDoing, Cut::Never][usize::try_from(seq % 3).expect("small")];
        let order = command(&admin, chain, seq, Order::Pause);
        assert!(matches!(store.command_begin(&order, NOW).expect("reads"), Begin::Fresh(_)));
        if cut != Cut::BeforeDoing {
            *done.entry(seq).or_default() += 1;
        }
        if cut == Cut::Never {
            store.command_finish(&order, Outcome::Done, "done").expect("writes");
        }
        // The program is gone, and comes back; whoever gave the order sends it again.
        drop(store);
        store = Store::open(dir.path(), StoreKind::Seeder).expect("opens");
        let interrupted = store.commands_interrupted().expect("reads");
        assert_eq!(interrupted.len(), usize::from(cut != Cut::Never), "{cut:?}");
        match store.command_begin(&order, NOW).expect("reads") {
            Begin::Before(taken) if cut == Cut::Never => assert_eq!(taken.outcome, Outcome::Done),
            Begin::Before(taken) => assert_eq!(taken.outcome, Outcome::Interrupted, "{cut:?}"),
            other => panic!("{cut:?}: {other:?}"),
        }
    }
    assert!(done.values().all(|times| *times == 1), "{done:?}");
}
