//! Owners and commands: what counts once, also where the program is cut off.

use std::collections::BTreeMap;
use std::sync::Arc;

use ed25519_dalek::{Signer as _, SigningKey};

use super::*;
use crate::blind::StoreKind;
use crate::format::codec::Writer;
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
    OpenClaim {
        key: claim_of(code),
        rank,
        expires_ms,
        name: "code".into(),
        secret: [0; 16],
        issuer: AdminKey([9; 32]),
    }
}

fn of_console(code: &SigningKey) -> OpenClaim {
    OpenClaim {
        secret: code.to_bytes()[..16].try_into().expect("half"),
        issuer: NO_ISSUER,
        ..open(code, Rank::Owner, 0)
    }
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

#[test]
fn reset_leaves_no_admin_and_no_code_but_the_fresh_one() {
    let (dir, store, thief, _) = with_admin(Rank::Owner);
    // Owner codes that whoever took the seeder opened for later, and one of before issuers were kept.
    let hidden = [key(20), key(21)];
    store
        .claim_open(&OpenClaim { issuer: admin_of(&thief), ..open(&hidden[0], Rank::Owner, 0) }, NOW)
        .expect("opens");
    store
        .claim_open(&OpenClaim { issuer: NO_ISSUER, ..open(&hidden[1], Rank::Owner, 0) }, NOW)
        .expect("opens");
    assert!(store.claim_console(of_console(&key(30))).expect("reads").is_none(), "it has an owner");
    let gone = store.owners_reset(&of_console(&key(31))).expect("writes");
    assert_eq!(gone.iter().map(|admin| admin.key).collect::<Vec<_>>(), [admin_of(&thief)]);
    drop(store);
    let store = Store::open(dir.path(), StoreKind::Seeder).expect("opens");
    for code in &hidden {
        let redeemed =
            store.claim_redeem(&claim(code, &key(22), None), ChainId([5; 16]), NOW).expect("reads");
        assert_eq!(redeemed, Claimed::No);
    }
    // The fresh code is the console's, the same until it is used or there is another reset.
    let shown = || store.claim_console(of_console(&key(40))).expect("reads").map(|open| open.key);
    assert_eq!(shown(), Some(claim_of(&key(31))));
    store.owners_reset(&of_console(&key(32))).expect("writes");
    assert_eq!(shown(), Some(claim_of(&key(32))));
    let old = store.claim_redeem(&claim(&key(31), &key(33), None), ChainId([6; 16]), NOW).expect("reads");
    assert_eq!(old, Claimed::No, "a code that somebody saw before the reset");
}

#[test]
fn dismissal_closes_the_codes_that_the_admin_opened_and_no_others() {
    let (_dir, store, admin, _) = with_admin(Rank::Owner);
    let (words, fresh) = (key(50), key(51));
    let mine = |code: &SigningKey, admin: &SigningKey| {
        let open = OpenClaim { issuer: admin_of(admin), ..open(code, Rank::Owner, NOW + 9) };
        store.claim_open(&open, NOW).expect("opens");
    };
    mine(&key(10), &admin);
    mine(&key(11), &key(3));
    assert!(store.admin_dismiss(admin_of(&admin)).expect("writes"));
    let left = || store.claims().expect("reads").into_iter().map(|open| open.key).collect::<Vec<_>>();
    assert_eq!(left(), [claim_of(&key(11))]);
    // A device that was lost is dismissed by whoever takes its place with the words.
    let redeem = |code: &SigningKey, admin: &SigningKey, recovery: Option<&SigningKey>| {
        store.claim_redeem(&claim(code, admin, recovery), ChainId([4; 16]), NOW).expect("reads")
    };
    assert!(matches!(redeem(&key(11), &key(12), Some(&words)), Claimed::Yes(_)));
    mine(&key(13), &key(12));
    assert!(matches!(redeem(&words, &fresh, None), Claimed::Yes(_)));
    assert_eq!(left(), []);
}

#[test]
fn admins_that_come_and_go_never_fill_the_list() {
    let (_dir, store, owner, _) = with_admin(Rank::Owner);
    let numbered = |number: usize| {
        let mut seed = [77; 32];
        seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
        SigningKey::from_bytes(&seed)
    };
    let join = |number: usize| {
        let (code, admin) = (numbered(2 * number), numbered(2 * number + 1));
        store.claim_open(&open(&code, Rank::Keeper, NOW + 1_000), NOW).expect("opens");
        let chain = ChainId([number as u8; 16]);
        (admin.clone(), store.claim_redeem(&claim(&code, &admin, None), chain, NOW + number as u64))
    };
    for number in 0..ADMINS_MAX + 10 {
        let (admin, joined) = join(number);
        assert!(matches!(joined, Ok(Claimed::Yes(_))), "{number}: {joined:?}");
        let order = command(&admin, ChainId([number as u8; 16]), 1, Order::Status);
        assert!(matches!(store.command_begin(&order, NOW).expect("reads"), Begin::Fresh(_)));
        assert!(store.admin_dismiss(admin_of(&admin)).expect("writes"));
        let refused = store.command_begin(&order, NOW).expect("reads");
        assert_eq!(refused, Begin::Refused(Refusal::Dismissed));
    }
    // The newest are remembered; the first is unknown, with all that was kept of it.
    let admins = store.admins().expect("reads");
    assert_eq!(admins.len(), DISMISSED_KEPT + 1);
    assert_eq!(store.commands().expect("reads").len(), DISMISSED_KEPT);
    let order = command(&numbered(1), ChainId([0; 16]), 1, Order::Status);
    assert_eq!(store.command_begin(&order, NOW).expect("reads"), Begin::Refused(Refusal::Unknown));
    let again = store.claim_redeem(&claim(&numbered(0), &numbered(1), None), ChainId([9; 16]), NOW);
    assert_eq!(again.expect("reads"), Claimed::No);
    // Those that are there do count.
    let joined: Vec<_> = (200..200 + ADMINS_MAX).map(|number| join(number).1).collect();
    let full = joined.iter().filter(|joined| matches!(joined, Err(Error::TooMany { .. }))).count();
    assert_eq!(full, 1, "the owner has a place");
    assert!(store.admins().expect("reads").iter().any(|admin| admin.key == admin_of(&owner)));
}

#[test]
fn code_for_a_lower_rank_takes_nothing_from_whoever_redeems_it() {
    let (_dir, store, owner, chain) = with_admin(Rank::Owner);
    assert!(matches!(
        store.command_begin(&command(&owner, chain, 5, Order::Status), NOW).expect("reads"),
        Begin::Fresh(_)
    ));
    let words = key(60);
    for (code, recovery) in [(key(61), Some(&words)), (key(62), None)] {
        store.claim_open(&open(&code, Rank::Watcher, NOW + 9), NOW).expect("opens");
        let redeemed =
            store.claim_redeem(&claim(&code, &owner, recovery), ChainId([8; 16]), NOW).expect("reads");
        let Claimed::Yes(admin) = redeemed else { panic!("it was open") };
        assert_eq!((admin.rank, admin.chain, admin.seq), (Some(Rank::Owner), chain, 5));
        assert_eq!(admin.recovery, claim_of(&words));
        assert!(!store.claims().expect("reads").iter().any(|open| open.key == claim_of(&code)), "it is used");
    }
    // A command that was taken before is not taken again.
    let before = store.command_begin(&command(&owner, chain, 5, Order::Status), NOW).expect("reads");
    assert!(matches!(before, Begin::Before(_)));
}

#[test]
fn console_gets_its_code_however_many_others_are_open() {
    let (_dir, store) = new_store();
    for number in 0..CLAIMS_MAX {
        let code = key(u8::try_from(100 + number).expect("few"));
        store.claim_open(&open(&code, Rank::Keeper, NOW), NOW).expect("opens");
    }
    let full = store.claim_open(&open(&key(90), Rank::Keeper, NOW), NOW);
    assert!(matches!(full, Err(Error::TooMany { .. })));
    assert!(store.claim_console(of_console(&key(91))).expect("writes").is_some());
    store.claim_open(&open(&key(92), Rank::Keeper, NOW + 9), NOW + 1).expect("those that expired are gone");
}

#[test]
fn code_of_before_issuers_were_kept_is_read_and_written_anew() {
    let mut old = Writer::new();
    old.u8(1);
    old.u8(3);
    old.u64(NOW);
    old.fixed(&[0; 16]);
    old.bytes16(b"code");
    let code = claim_of(&key(1));
    let read = rows::decode_claim(&code.0, &old.into_bytes()).expect("reads");
    assert!(read == OpenClaim { issuer: NO_ISSUER, ..open(&key(1), Rank::Owner, NOW) });
    assert!(rows::decode_claim(&code.0, &rows::encode_claim(&read)).expect("reads") == read);
}
