//! Random access logs: every order of arrival gives one state, and who was dismissed stays dismissed.
//!
//! `COBOX_SOAK=n` plays n times as many; `COBOX_SEED=n` plays the one of that seed. Signatures are made
//! up: the resolver takes records whose signatures were checked.

use std::collections::BTreeSet;

use super::access::{Access, AccessLog, InviteState};
use crate::format::access::{
    Act, BOX_BYTES, Device, KeyBox, NewEpoch, Record, Role, SEALED_LABEL_BYTES, Unsigned,
};
use crate::format::entry::LogHead;
use crate::format::membership::{OpenInvite, Redemption, WRAPPED_LABEL_KEY_BYTES};
use crate::id::{EntryHash, FolderId, InviteKey, KemKey, LogId, MemberId, RecordHash};

/// Of each property; `make soak` plays twenty times as many.
const DAGS: u64 = 5_000;

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("COBOX_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..DAGS * number("COBOX_SOAK").unwrap_or(1),
    }
}

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mixed = mixed ^ mixed >> 31;
        usize::try_from(mixed % below.max(1) as u64).expect("below a usize")
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len())]
    }
}

fn log(number: u8) -> LogId {
    LogId([number; 32])
}

/// The member of person `number`; the key is none of a device's.
fn member(number: u8) -> MemberId {
    MemberId([number | 0x80; 32])
}

fn device(number: u8, person: u8, role: Role) -> Device {
    Device {
        log: log(number),
        kem: KemKey([number; 32]),
        member: member(person),
        recovery_kem: KemKey([person | 0x80; 32]),
        role,
        label: [0; SEALED_LABEL_BYTES],
    }
}

fn add(number: u8, role: Role) -> Act {
    Act::AddDevice { device: device(number, number, role) }
}

fn remove(person: u8) -> Act {
    Act::RemoveMember { member: member(person), logs: vec![] }
}

fn set_role(person: u8, role: Role) -> Act {
    Act::SetRole { member: member(person), role, logs: vec![] }
}

fn open(number: u8, role: Role) -> Act {
    let label_key = [0; WRAPPED_LABEL_KEY_BYTES];
    Act::OpenInvite(OpenInvite { invite: InviteKey([number; 32]), role, expires_ms: 0, label_key })
}

fn redeem(invite: u8, number: u8, role: Role) -> Act {
    let redemption = Redemption { invite: InviteKey([invite; 32]), signature: [0; 64] };
    Act::Redeem { device: device(number, number, role), redemption }
}

fn vouch(number: u8, seq: u64) -> Act {
    Act::Vouch { last: LogHead { log: log(number), seq, hash: EntryHash([1; 32]) } }
}

fn epoch(recipients: &[u8]) -> Act {
    let sealed = |number: &u8| KeyBox { recipient: KemKey([*number; 32]), sealed: [0; BOX_BYTES] };
    Act::NewEpoch(NewEpoch {
        commit: [0; 32],
        boxes: recipients.iter().map(sealed).collect(),
        swarm_boxes: vec![],
        previous: vec![],
    })
}

fn record(folder: FolderId, author: [u8; 32], parents: &[RecordHash], act: Act, time: u64) -> Record {
    let mut parents = parents.to_vec();
    parents.sort_unstable();
    parents.dedup();
    Record::new(Unsigned { folder, parents, author, issued_ms: time, act }, [0; 64])
}

/// All records there are, and somebody's replica.
struct World {
    genesis: Record,
    log: AccessLog,
    all: Vec<Record>,
    time: u64,
}

impl World {
    /// Person 1 founds the folder.
    fn new() -> Self {
        let act = Act::Genesis {
            nonce: [0; 32],
            fold_case: false,
            unicode: [17, 0],
            device: device(1, 1, Role::Admin),
            name: [0; SEALED_LABEL_BYTES],
        };
        let genesis = record(FolderId([0; 32]), log(1).0, &[], act, 0);
        Self { log: AccessLog::new(genesis.clone()), all: vec![genesis.clone()], genesis, time: 0 }
    }

    fn make(&mut self, author: [u8; 32], parents: &[RecordHash], act: Act) -> Record {
        self.time += 1;
        record(self.genesis.folder(), author, parents, act, self.time)
    }

    /// Device `number` does something on top of `parents`; `None` where that is refused.
    fn try_at(&mut self, number: u8, parents: &[RecordHash], act: Act) -> Option<RecordHash> {
        let made = self.make([number; 32], parents, act);
        self.log.admit(&made).ok()?;
        self.log.insert(made.clone());
        self.all.push(made.clone());
        Some(made.hash())
    }

    fn at(&mut self, number: u8, parents: &[RecordHash], act: Act) -> RecordHash {
        self.try_at(number, parents, act).expect("permitted")
    }

    /// On top of everything.
    fn act(&mut self, number: u8, act: Act) -> RecordHash {
        let heads = self.heads();
        self.at(number, &heads, act)
    }

    fn heads(&mut self) -> Vec<RecordHash> {
        self.log.resolved().heads.clone()
    }

    fn state(&mut self) -> Access {
        (*self.log.resolved()).clone()
    }

    fn role(&mut self, number: u8) -> Option<Role> {
        self.log.resolved().role_of(&log(number))
    }
}

/// A replica to which the records come in another causal order.
fn replay(records: &[Record], dice: &mut Dice) -> AccessLog {
    let mut replica = AccessLog::new(records[0].clone());
    let mut here = BTreeSet::from([records[0].hash()]);
    let mut left: Vec<&Record> = records[1..].iter().collect();
    while !left.is_empty() {
        let ready: Vec<usize> = (0..left.len())
            .filter(|at| left[*at].content().parents.iter().all(|parent| here.contains(parent)))
            .collect();
        let next = left.swap_remove(dice.pick(&ready));
        replica.admit(next).expect("what one replica admits all do");
        replica.insert(next.clone());
        here.insert(next.hash());
        if dice.roll(4) == 0 {
            replica.resolved();
        }
    }
    replica
}

/// Something that somebody may or may not be allowed.
fn any_act(dice: &mut Dice) -> Act {
    let who = u8::try_from(1 + dice.roll(7)).expect("small");
    let role = dice.pick(&[Role::Read, Role::Write, Role::Admin, Role::Admin]);
    match dice.roll(11) {
        0..=2 => add(who, role),
        3 => remove(who),
        4 => Act::RemoveDevice { last: LogHead { log: log(who), seq: 0, hash: EntryHash([0; 32]) } },
        5 => set_role(who, role),
        6 => open(u8::try_from(20 + dice.roll(3)).expect("small"), role),
        7 => redeem(u8::try_from(20 + dice.roll(3)).expect("small"), who, role),
        8 => Act::VoidInvite { invite: InviteKey([u8::try_from(20 + dice.roll(3)).expect("small"); 32]) },
        9 => vouch(who, 1 + dice.roll(3) as u64),
        _ => epoch(&[who]),
    }
}

#[test]
fn records_in_any_causal_order_give_one_state() {
    let (mut admitted, mut refused, mut bounds) = (0, 0, 0);
    for seed in seeds() {
        let mut dice = Dice(seed);
        let mut world = group();
        for _ in 0..24 {
            let author = u8::try_from(1 + dice.roll(7)).expect("small");
            let known: Vec<RecordHash> = world.all.iter().map(Record::hash).collect();
            let heads = world.heads();
            let parents = match dice.roll(3) {
                0 => heads,
                1 => vec![dice.pick(&known)],
                _ => vec![dice.pick(&known), dice.pick(&heads)],
            };
            let act = any_act(&mut dice);
            let author = if dice.roll(12) == 0 { member(author).0 } else { [author; 32] };
            let made = world.make(author, &parents, act);
            if world.log.admit(&made).is_ok() {
                bounds += usize::from(matches!(made.content().act, Act::RemoveMember { .. }));
                world.log.insert(made.clone());
                world.all.push(made);
                admitted += 1;
            } else {
                refused += 1;
                // A replica that knows only what the record builds on refuses it too.
                let mut past: BTreeSet<RecordHash> = made.content().parents.iter().copied().collect();
                for other in world.all.iter().rev() {
                    if past.contains(&other.hash()) {
                        past.extend(other.content().parents.iter().copied());
                    }
                }
                let known: Vec<Record> =
                    world.all.iter().filter(|other| past.contains(&other.hash())).cloned().collect();
                assert!(replay(&known, &mut dice).admit(&made).is_err(), "seed {seed}");
            }
        }
        let state = world.state();
        for _ in 0..2 {
            assert_eq!(*replay(&world.all, &mut dice).resolved(), state, "seed {seed}");
        }
    }
    // One history that is played again need not exercise all.
    assert!(
        seeds().count() < 1_000 || (admitted > refused / 10 && bounds > 100),
        "{admitted} admitted, {refused} refused, {bounds} removals"
    );
}

/// Founder 1, admins 2 and 3, writer 4, reader 5; all know all.
fn group() -> World {
    let mut world = World::new();
    for (number, role) in [(2, Role::Admin), (3, Role::Admin), (4, Role::Write), (5, Role::Read)] {
        world.act(1, add(number, role));
    }
    world
}

#[test]
fn dismissed_admin_cannot_turn_it_around_with_records_of_an_old_past() {
    let mut tried = 0;
    for seed in seeds() {
        let mut dice = Dice(seed ^ 0x5eed);
        let mut world = group();
        let invite_used = dice.roll(2) == 0;
        if invite_used {
            world.act(2, open(20, Role::Write));
            world.act(1, redeem(20, 6, Role::Write));
        }
        world.act(2, epoch(&[1, 2, 3, 4, 5]));
        // Admin 2 goes, by the founder or by a younger admin; the others hear of it first.
        let remover = dice.pick(&[1, 3]);
        let known: Vec<Record> = world.all.clone();
        world.act(remover, remove(2));
        for witness in [3, 4, 1].into_iter().filter(|witness| *witness != remover) {
            world.act(witness, vouch(2, 4));
        }
        let before = world.state();
        // Devices and records of the dismissed: 2, its recovery key, and whom it lists now.
        let mut base: Vec<RecordHash> = known.iter().map(Record::hash).collect();
        let mine = |dice: &mut Dice| match dice.roll(5) {
            0..=2 => [2; 32],
            3 => member(2).0,
            _ => [u8::try_from(30 + dice.roll(3)).expect("small"); 32],
        };
        for _ in 0..14 {
            let author = mine(&mut dice);
            let parents = [dice.pick(&base), dice.pick(&base)];
            let puppet = u8::try_from(30 + dice.roll(3)).expect("small");
            let act = match dice.roll(9) {
                0 | 1 => add(puppet, Role::Admin),
                2 => Act::AddDevice { device: device(puppet, 2, Role::Admin) },
                3 | 4 => remove(dice.pick(&[1, 3, 4, 5, 6])),
                5 => set_role(dice.pick(&[1, 3, 4]), Role::Read),
                6 => Act::VoidInvite { invite: InviteKey([20; 32]) },
                7 => vouch(2, 99),
                _ => epoch(&[2, 30]),
            };
            let made = world.make(author, &parents, act);
            if world.log.admit(&made).is_ok() {
                tried += 1;
                base.push(made.hash());
                world.log.insert(made.clone());
                world.all.push(made);
            }
        }
        let after = world.state();
        assert_eq!(after.devices, before.devices, "seed {seed}");
        assert_eq!(after.members, before.members, "seed {seed}");
        assert_eq!(after.ends.get(&log(2)), before.ends.get(&log(2)), "seed {seed}");
        assert_eq!(after.invites, before.invites, "seed {seed}");
        assert!(after.sealing.is_empty(), "seed {seed}: an epoch of the dismissed would be sealed with");
    }
    assert!(seeds().count() < 1_000 || tried > 100, "{tried} records of the dismissed were well formed");
}

#[test]
fn concurrent_acts_of_a_removed_admin_fall_with_all_that_builds_on_them() {
    let mut world = group();
    let base = world.heads();
    let added = world.at(2, &base, add(7, Role::Admin));
    let child = world.at(7, &[added], add(8, Role::Write));
    assert_eq!(world.role(8), Some(Role::Write));
    world.at(1, &base, remove(2));
    assert_eq!((world.role(2), world.role(7), world.role(8)), (None, None, None));
    // Who stays may say how far the work of those that fell was taken.
    let heads = world.heads();
    assert!(heads.contains(&child));
    world.act(4, vouch(8, 3));
    assert_eq!(world.state().ends.get(&log(8)).map(|end| end.seq), Some(3));
}

#[test]
fn device_lists_another_of_its_own_person_at_its_own_role_and_no_other() {
    let mut world = group();
    let heads = world.heads();
    let own = |number, role| Act::AddDevice { device: device(number, 4, role) };
    assert!(world.try_at(4, &heads, own(7, Role::Admin)).is_none(), "not above its role");
    assert!(world.try_at(4, &heads, own(7, Role::Read)).is_none(), "nor below");
    assert!(world.try_at(4, &heads, add(7, Role::Write)).is_none(), "of nobody else");
    assert!(world.try_at(5, &heads, own(7, Role::Write)).is_none(), "nor for somebody else");
    world.at(4, &heads, own(7, Role::Write));
    world.at(5, &heads, Act::AddDevice { device: device(8, 5, Role::Read) });
    assert_eq!((world.role(7), world.role(8)), (Some(Role::Write), Some(Role::Read)));
    // What it does counts as its person's: with the person it goes.
    world.act(1, remove(4));
    assert_eq!((world.role(4), world.role(7)), (None, None));
}

#[test]
fn device_that_was_removed_or_demoted_meanwhile_lists_nobody() {
    let gone = || Act::RemoveDevice { last: LogHead { log: log(4), seq: 0, hash: EntryHash([0; 32]) } };
    for (act, stays) in [(gone(), None), (remove(4), None), (set_role(4, Role::Read), None)] {
        for listed_first in [false, true] {
            let mut world = group();
            let base = world.heads();
            let list = |world: &mut World| {
                world.at(4, &base, Act::AddDevice { device: device(7, 4, Role::Write) });
            };
            if listed_first {
                list(&mut world);
            }
            world.at(1, &base, act.clone());
            if !listed_first {
                list(&mut world);
            }
            assert_eq!(world.role(7), stays, "{act:?}");
        }
    }
}

#[test]
fn removal_by_a_removed_admin_counts_where_somebody_had_built_on_it() {
    let mut world = group();
    let base = world.heads();
    let first = world.at(2, &base, remove(4));
    let vouched = world.at(5, &[first], vouch(4, 1));
    world.at(1, &base, remove(2));
    assert_eq!((world.role(2), world.role(4)), (None, None));
    assert!(world.heads().contains(&vouched));
    // Without the vouch it does not.
    let mut world = group();
    let base = world.heads();
    world.at(2, &base, remove(4));
    world.at(1, &base, remove(2));
    assert_eq!((world.role(2), world.role(4)), (None, Some(Role::Write)));
}

#[test]
fn of_two_admins_who_remove_one_another_the_elder_stands() {
    let mut world = group();
    let base = world.heads();
    world.at(3, &base, remove(2));
    world.at(2, &base, remove(3));
    assert_eq!((world.role(2), world.role(3)), (Some(Role::Admin), None));
    // Unless somebody both knew had heard of the younger's removal first.
    let mut world = group();
    let base = world.heads();
    let removal = world.at(3, &base, remove(2));
    world.at(4, &[removal], vouch(2, 1));
    world.at(2, &base, remove(3));
    assert_eq!((world.role(2), world.role(3)), (None, Some(Role::Admin)));
}

#[test]
fn lower_role_ends_the_log_and_a_higher_one_lets_it_go_on() {
    let mut world = group();
    let hash = EntryHash([1; 32]);
    let last = LogHead { log: log(4), seq: 5, hash };
    world.act(1, Act::SetRole { member: member(4), role: Role::Read, logs: vec![last] });
    let state = world.state();
    assert!(state.admits(&log(4), 5, &hash) && !state.admits(&log(4), 6, &hash));
    assert!(!state.admits(&log(4), 5, &EntryHash([2; 32])) && !state.admits(&log(5), 1, &hash));
    world.act(1, set_role(4, Role::Write));
    assert!(world.state().admits(&log(4), 6, &hash));
    let heads = world.heads();
    assert!(world.try_at(4, &heads, set_role(4, Role::Admin)).is_none());
}

#[test]
fn invite_is_redeemed_once_and_a_double_use_lets_nobody_in() {
    let mut world = group();
    world.act(2, open(20, Role::Write));
    let base = world.heads();
    assert!(world.try_at(1, &base, redeem(20, 6, Role::Admin)).is_none(), "not the invite's role");
    assert!(world.try_at(4, &base, redeem(20, 6, Role::Write)).is_none(), "no admin");
    let used = world.at(1, &base, redeem(20, 6, Role::Write));
    assert_eq!(world.role(6), Some(Role::Write));
    assert!(world.try_at(1, &[used], redeem(20, 7, Role::Write)).is_none(), "used");
    // Another admin let in somebody else at the same time.
    world.at(2, &base, redeem(20, 7, Role::Write));
    assert_eq!((world.role(6), world.role(7)), (None, None));
    let state = world.state();
    assert_eq!(state.invites[&InviteKey([20; 32])].1, InviteState::Clashed);
    assert_eq!(state.former.len(), 2);
    // The same device by two admins is no double use.
    let mut world = group();
    world.act(2, open(20, Role::Write));
    let base = world.heads();
    world.at(1, &base, redeem(20, 6, Role::Write));
    world.at(2, &base, redeem(20, 6, Role::Write));
    assert_eq!(world.role(6), Some(Role::Write));
}

#[test]
fn void_beside_a_redemption_counts_and_one_after_it_does_not() {
    let mut world = group();
    world.act(2, open(20, Role::Read));
    let base = world.heads();
    world.at(1, &base, redeem(20, 6, Role::Read));
    let void = || Act::VoidInvite { invite: InviteKey([20; 32]) };
    world.act(2, void());
    assert_eq!(world.role(6), Some(Role::Read));
    world.at(3, &base, void());
    assert_eq!(world.role(6), None);
    let heads = world.heads();
    assert!(world.try_at(1, &heads, redeem(20, 7, Role::Read)).is_none());
}

#[test]
fn nothing_is_sealed_with_an_epoch_that_the_removed_know() {
    let mut world = group();
    // For the founder alone, and wrapped under the next one.
    world.act(1, epoch(&[1]));
    let first = world.act(1, epoch(&[1, 2, 3, 4, 5]));
    assert_eq!(world.state().epoch().map(|id| id.0), Some(first.0));
    world.act(1, remove(2));
    assert_eq!(world.state().epoch(), None);
    let next = world.act(4, epoch(&[1, 3, 4, 5]));
    assert_eq!(world.state().epoch().map(|id| id.0), Some(next.0));
    assert_eq!(world.state().epochs.len(), 3, "the earlier ones stay readable");
}

#[test]
fn founders_recovery_key_acts_when_no_admin_is_left() {
    let mut world = World::new();
    world.act(1, add(4, Role::Write));
    let heads = world.heads();
    let founder = member(1).0;
    let early = world.make(founder, &heads, add(9, Role::Admin));
    assert!(world.log.admit(&early).is_err());
    let end = LogHead { log: log(1), seq: 0, hash: EntryHash([0; 32]) };
    world.act(1, Act::RemoveDevice { last: end });
    let heads = world.heads();
    let late = world.make(founder, &heads, add(9, Role::Admin));
    world.log.admit(&late).expect("nobody else could");
    world.log.insert(late);
    assert_eq!(world.role(9), Some(Role::Admin));
}
