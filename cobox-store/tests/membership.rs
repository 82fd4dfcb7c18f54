//! Inviting, joining and removing, through the public interface: two homes of two people, and a loop that
//! copies instead of a network.

use std::path::Path;
use std::sync::Arc;

use cobox_store::Error;
use cobox_store::blind::{Batch, InviteState};
use cobox_store::format::access::Role;
use cobox_store::format::invite::{InviteCode, JoinRequest};
use cobox_store::format::op::{Op, OpGroup};
use cobox_store::keyed::{Admission, Folder, Home, InviteKeys, MemberSecret, PassphraseCost, Unlock};
use zeroize::Zeroizing;

const HOUR_MS: u64 = 3_600_000;

fn home(dir: &Path, name: &str) -> Arc<Home> {
    let unlock = Unlock::Passphrase(Zeroizing::new("pass".into()));
    let secret = MemberSecret::generate().expect("random");
    Home::init_at_cost(&dir.join(name), name, &unlock, &secret, PassphraseCost::cheapest_for_tests())
        .expect("a home")
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    u64::try_from(since.as_millis()).expect("fits")
}

/// Gives `to` the access log and, as far as it takes them, the entries of `from`. Says how many it refused.
fn carry(from: &Folder, to: &Folder) -> usize {
    for record in from.store().access_records(from.no()).expect("reads") {
        to.store().access_add(to.no(), &record).expect("admitted");
    }
    to.tend().expect("tends");
    show(from, to)
}

/// Shows `to` the entries of `from`, and no record of the access log. Says how many it refused.
fn show(from: &Folder, to: &Folder) -> usize {
    let mut refused = 0;
    for head in from.store().log_heads(from.no()).expect("reads") {
        for seq in 1..=head.seq {
            let entry = from.store().entry(from.no(), head.log, seq).expect("reads").expect("there");
            refused += usize::from(to.store().entry_add(to.no(), &entry).is_err());
        }
    }
    refused
}

fn write(folder: &Folder, hlc: u64) -> Result<u64, Error> {
    let groups = vec![OpGroup { hlc, ops: vec![Op::Ack] }];
    folder.write_entries(hlc, groups, vec![], Batch::default()).map(|head| head.seq)
}

/// Ann's folder, and Bob in it.
fn joined(ann: &Home, bob: &Home, role: Role) -> (Arc<Folder>, Arc<Folder>, InviteCode) {
    let folder = ann.folder_create("club").expect("creates");
    let code = folder.invite(role, now_ms() + HOUR_MS).expect("invites");
    let code = InviteCode::from_text(&code.to_text().expect("fits")).expect("reads");
    let request = bob.join_request(&code).expect("asks");
    assert!(bob.join_request(&code).expect("asks again").log == request.log, "the same device");
    let request = JoinRequest::decode(&request.encode()).expect("decodes");
    assert_eq!(folder.admit(&request).expect("lets in"), Admission::New);
    assert_eq!(folder.admit(&request).expect("knows"), Admission::Known);
    let records = folder.store().access_records(folder.no()).expect("reads");
    let theirs = bob.join_finish(&code, None, &records).expect("joins").expect("has keys");
    (folder, theirs, code)
}

#[test]
fn invited_device_reads_and_writes_and_knows_the_names() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (ann, bob) = (home(dir.path(), "ann"), home(dir.path(), "bob"));
    let (folder, theirs, code) = joined(&ann, &bob, Role::Write);
    assert_eq!(theirs.name(), "club");
    assert_eq!(folder.label_of(&theirs.log()).as_deref(), Some("bob"));
    assert_eq!(theirs.label_of(&folder.log()).as_deref(), Some("ann"));
    write(&folder, 1 << 20).expect("writes");
    write(&theirs, 2 << 20).expect("writes");
    assert_eq!((carry(&folder, &theirs), carry(&theirs, &folder)), (0, 0));
    for (reader, log) in [(&folder, theirs.log()), (&theirs, folder.log())] {
        let entry = reader.store().entry(reader.no(), log, 1).expect("reads").expect("there");
        reader.open_entry(&entry).expect("opens");
    }
    // Joining once more gives the same folder; the code lets nobody else in.
    let records = folder.store().access_records(folder.no()).expect("reads");
    let again = bob.join_finish(&code, Some("other"), &records).expect("joins").expect("has keys");
    assert_eq!(again.no(), theirs.no());
    let eve = home(dir.path(), "eve");
    let late = eve.join_request(&code).expect("asks");
    assert!(matches!(folder.admit(&late), Err(Error::InviteSpent)));
    assert!(matches!(eve.join_finish(&code, None, &records), Err(Error::NotAMember)));
    assert!(eve.folders().expect("reads").is_empty());
    // A folder that Bob makes has recovery keys of its own.
    assert_ne!(bob.folder_create("own").expect("creates").index(), theirs.index());
}

#[test]
fn invite_that_expired_is_taken_back_when_somebody_comes_with_it() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (ann, bob) = (home(dir.path(), "ann"), home(dir.path(), "bob"));
    let folder = ann.folder_create("club").expect("creates");
    let code = folder.invite(Role::Read, now_ms() - 1).expect("invites");
    let request = bob.join_request(&code).expect("asks");
    assert!(matches!(folder.admit(&request), Err(Error::InviteSpent)));
    let access = folder.store().access(folder.no()).expect("reads");
    assert_eq!(access.invites[&InviteKeys::of(&code).invite()].1, InviteState::Void);
    assert!(matches!(folder.void_invite(InviteKeys::of(&code).invite()), Err(Error::InviteSpent)));
}

#[test]
fn reader_writes_nothing_and_a_lower_role_ends_the_log() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (ann, bob) = (home(dir.path(), "ann"), home(dir.path(), "bob"));
    let (folder, theirs, _) = joined(&ann, &bob, Role::Read);
    assert!(matches!(write(&theirs, 1 << 20), Err(Error::NotPermitted { .. })));
    assert!(matches!(theirs.invite(Role::Read, 0), Err(Error::NotPermitted { .. })));
    let access = folder.store().access(folder.no()).expect("reads");
    let member = access.devices[&theirs.log()].member;
    folder.set_role(member, Role::Write).expect("promotes");
    carry(&folder, &theirs);
    write(&theirs, 2 << 20).expect("writes");
    carry(&theirs, &folder);
    folder.set_role(member, Role::Read).expect("demotes");
    // It has not heard of it yet, and writes on: nobody takes that.
    write(&theirs, 3 << 20).expect("writes");
    assert_eq!(carry(&theirs, &folder), 1);
    carry(&folder, &theirs);
    assert!(write(&theirs, 4 << 20).is_err());
    assert_eq!(folder.role().expect("reads"), Some(Role::Admin));
}

#[test]
fn removed_device_cannot_read_what_is_written_later_and_its_entries_are_refused() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (ann, bob, cat) = (home(dir.path(), "ann"), home(dir.path(), "bob"), home(dir.path(), "cat"));
    let (folder, theirs, _) = joined(&ann, &bob, Role::Write);
    let code = folder.invite(Role::Write, now_ms() + HOUR_MS).expect("invites");
    folder.admit(&cat.join_request(&code).expect("asks")).expect("lets in");
    let records = folder.store().access_records(folder.no()).expect("reads");
    let cats = cat.join_finish(&code, None, &records).expect("joins").expect("has keys");
    carry(&folder, &theirs);
    write(&theirs, 1 << 20).expect("writes");
    carry(&theirs, &folder);
    // Cat has one entry more of Bob's than Ann when Ann removes him.
    write(&theirs, 2 << 20).expect("writes");
    carry(&theirs, &cats);
    let member = folder.store().access(folder.no()).expect("reads").devices[&theirs.log()].member;
    folder.remove_member(member).expect("removes");
    assert!(matches!(folder.remove_member(member), Err(Error::NotAMember)));
    write(&theirs, 3 << 20).expect("Bob does not know yet");
    assert_eq!(carry(&theirs, &folder), 2, "Ann takes nothing beyond what she had");
    carry(&folder, &cats);
    assert_eq!(carry(&cats, &folder), 0, "until Cat vouches for what she had");
    assert_eq!(carry(&theirs, &folder), 1);
    assert_eq!(carry(&theirs, &cats), 1);
    write(&folder, 4 << 20).expect("writes");
    let head = folder.store().log_head(folder.no(), folder.log()).expect("reads").expect("wrote");
    let entry = folder.store().entry(folder.no(), folder.log(), head.seq).expect("reads").expect("there");
    carry(&folder, &theirs);
    assert!(matches!(theirs.open_entry(&entry), Err(Error::UnknownEpoch(_))));
    assert!(write(&theirs, 5 << 20).is_err());
    carry(&folder, &cats);
    cats.open_entry(&entry).expect("those who stay read on");
    write(&cats, 6 << 20).expect("and write");
    let access = folder.store().access(folder.no()).expect("reads");
    assert!(!access.devices.contains_key(&theirs.log()) && access.former.contains_key(&theirs.log()));
    assert_eq!(theirs.role().expect("reads"), None);
}

#[test]
fn removal_that_a_seeder_withholds_holds_back_what_builds_on_it_and_counts_when_it_comes() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (ann, bob, cat) = (home(dir.path(), "ann"), home(dir.path(), "bob"), home(dir.path(), "cat"));
    let (folder, theirs, _) = joined(&ann, &bob, Role::Write);
    let code = folder.invite(Role::Write, now_ms() + HOUR_MS).expect("invites");
    folder.admit(&cat.join_request(&code).expect("asks")).expect("lets in");
    let records = folder.store().access_records(folder.no()).expect("reads");
    let cats = cat.join_finish(&code, None, &records).expect("joins").expect("has keys");
    carry(&folder, &theirs);
    write(&theirs, 1 << 20).expect("writes");
    assert_eq!((carry(&theirs, &folder), carry(&theirs, &cats)), (0, 0));
    let member = folder.store().access(folder.no()).expect("reads").devices[&theirs.log()].member;
    folder.remove_member(member).expect("removes");
    write(&folder, 2 << 20).expect("writes under the new keys");
    write(&theirs, 3 << 20).expect("Bob is on the seeder's side");
    // The seeder keeps the removal from Cat, and shows her what Bob goes on writing: she cannot know.
    assert_eq!(show(&theirs, &cats), 0);
    // But nothing that was written since the removal: that names the records it builds on.
    assert_eq!(show(&folder, &cats), 1);
    assert_eq!(cats.store().log_head(cats.no(), folder.log()).expect("reads"), None);
    // What she writes meanwhile is hers all the same.
    write(&cats, 4 << 20).expect("writes");
    // The removal comes another way. She vouches for what she had of Bob's, and takes no more of it.
    assert_eq!(carry(&folder, &cats), 0);
    write(&theirs, 5 << 20).expect("writes on");
    assert_eq!(show(&theirs, &cats), 1);
    assert_eq!(carry(&cats, &folder), 0, "what she vouched for comes with it");
    assert_eq!(show(&theirs, &folder), 1);
    let head = |of: &Folder, log| of.store().log_head(of.no(), log).expect("reads").map(|head| head.seq);
    for log in [folder.log(), theirs.log(), cats.log()] {
        assert_eq!(head(&folder, log), head(&cats, log), "both have the same");
    }
    assert_eq!(head(&folder, theirs.log()), Some(2));
}

#[test]
fn code_used_by_two_at_once_lets_nobody_in_and_the_keys_change() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (ann, bob, cat, eve) =
        (home(dir.path(), "ann"), home(dir.path(), "bob"), home(dir.path(), "cat"), home(dir.path(), "eve"));
    let (folder, second, _) = joined(&ann, &bob, Role::Admin);
    let code = folder.invite(Role::Write, now_ms() + HOUR_MS).expect("invites");
    carry(&folder, &second);
    // Two admins that do not hear of one another let in two people with one code.
    let lets_in = |admin: &Folder, newcomer: &Home| {
        admin.admit(&newcomer.join_request(&code).expect("asks")).expect("lets in");
        let records = admin.store().access_records(admin.no()).expect("reads");
        newcomer.join_finish(&code, None, &records).expect("joins").expect("has keys")
    };
    let (cats, eves) = (lets_in(&folder, &cat), lets_in(&second, &eve));
    write(&cats, 1 << 20).expect("nobody has heard of the other yet");
    carry(&second, &folder);
    carry(&folder, &second);
    for admin in [&folder, &second] {
        let access = admin.store().access(admin.no()).expect("reads");
        assert_eq!(access.invites[&InviteKeys::of(&code).invite()].1, InviteState::Clashed);
        assert_eq!(access.devices.len(), 2, "neither is in");
        assert_eq!(carry(&cats, admin), 1, "what they write is refused");
    }
    write(&folder, 2 << 20).expect("writes");
    let entry = folder.store().entry(folder.no(), folder.log(), 1).expect("reads").expect("there");
    for outsider in [&cats, &eves] {
        carry(&folder, outsider);
        assert!(matches!(outsider.open_entry(&entry), Err(Error::UnknownEpoch(_))));
        assert!(write(outsider, 3 << 20).is_err());
    }
    carry(&folder, &second);
    second.open_entry(&entry).expect("who belongs here reads on");
    // And a third who comes with that code is not let in.
    let late = home(dir.path(), "dan").join_request(&code).expect("asks");
    assert!(matches!(folder.admit(&late), Err(Error::InviteSpent)));
}
