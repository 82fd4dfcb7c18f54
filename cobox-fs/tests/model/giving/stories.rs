//! Stories, one for each rule of giving space back: with the rule nothing is lost, and without it a file is.

use std::sync::Arc;

use cobox_store::format::pack::{ChunkType, DirectoryRow, PackRef};
use cobox_store::id::ChunkTag;
use cobox_store::keyed::Folder;

use super::*;

/// A world without chance: two or three devices, and what they do in turn.
pub(super) struct Story(pub(super) World);

impl Story {
    pub(super) fn new(devices: usize, rule: Option<Rule>) -> Self {
        Self(World::new(1, devices, rule))
    }

    pub(super) fn put(&mut self, at: usize, name: &str, number: u64) {
        let vfs = self.0.vfs(at);
        let _ = vfs.mknod(ROOT, name.as_bytes(), Kind::File, BY, 0);
        let fh = vfs.open_file(resolve(vfs, name.as_bytes()), WRITE).expect("opens");
        vfs.write(fh, 0, &content(number)).expect("writes");
        vfs.flush(fh).expect("closes");
        vfs.release(fh).expect("closes");
        vfs.cut(Cut::Idle).expect("cut");
    }

    pub(super) fn rename(&mut self, at: usize, from: &str, to: &str) {
        let vfs = self.0.vfs(at);
        vfs.rename(ROOT, from.as_bytes(), ROOT, to.as_bytes(), RenameFlags::Replace).expect("renames");
        vfs.cut(Cut::Idle).expect("cut");
    }

    pub(super) fn unlink(&mut self, at: usize, name: &str) {
        self.0.vfs(at).unlink(ROOT, name.as_bytes()).expect("removes");
        self.0.vfs(at).cut(Cut::Idle).expect("cut");
    }

    pub(super) fn ask(&mut self, at: usize, copies: &Copies) {
        let called = self.0.vfs(at).call_for_release(copies).expect("calls");
        assert!(matches!(called, Called::Out(_)), "{called:?}");
    }

    /// Two small files of device 0, each in a pack of its own, whose chunks it also puts into one pack.
    pub(super) fn merged(devices: usize, rule: Option<Rule>) -> Self {
        let mut story = Self::new(devices, rule);
        story.put(0, "f", 2);
        story.put(0, "z", 1);
        story.0.settle();
        story.0.merge(0);
        assert_eq!(story.0.merged, 1, "two packs became one");
        story.0.settle();
        story
    }

    /// Device 0 calls, and answers itself.
    pub(super) fn call(&mut self) {
        self.ask(0, &Copies::Lacking);
        self.0.vfs(0).acknowledge().expect("answers");
        self.0.up(0);
    }

    pub(super) fn answer(&mut self, at: usize) {
        self.0.down(at);
        assert!(self.0.vfs(at).acknowledge().expect("answers"), "device {at} has nothing to answer");
        self.0.up(at);
    }

    /// Device 0 hears what there is and releases what it may.
    pub(super) fn release(&mut self) {
        self.0.down(0);
        self.0.release(0);
        self.0.up(0);
    }

    /// What is lost at the end, with everybody and with a device that begins with the seeder.
    pub(super) fn lost(mut self) -> Option<String> {
        self.0.settle();
        for at in 0..self.0.devices.len() {
            self.0.vfs(at).drop_released().expect("lets go").expect("nothing is being written");
        }
        self.0.settle();
        let fresh = self.0.devices[0].alone();
        self.0.devices.push(fresh);
        let last = self.0.devices.len() - 1;
        self.0.up(last);
        self.0.down(last);
        (0..=last)
            .find_map(|at| World::picture(self.0.vfs(at)).err().map(|lost| format!("device {at}: {lost}")))
    }
}

/// A file is written and removed, and everybody knows.
fn buried(devices: usize, rule: Option<Rule>) -> Story {
    let mut story = Story::new(devices, rule);
    story.put(0, "f", 2);
    story.0.settle();
    story.unlink(0, "f");
    story
}

/// What is lost in the story of a rule.
fn lost_in(rule: Rule, broken: Option<Rule>) -> Option<String> {
    let story = match rule {
        Rule::ListAgain => {
            let mut story = buried(2, broken);
            story.0.settle();
            story.call();
            story.answer(1);
            // The same bytes, which it still has, and nobody has heard of it yet.
            story.put(1, "g", 2);
            story.release();
            story
        }
        Rule::AllAnswer => {
            let mut story = buried(2, broken);
            story.rename(1, "f", "h");
            story.call();
            story.release();
            story
        }
        Rule::ComebackIsVoid => {
            let mut story = buried(3, broken);
            story.rename(1, "f", "h");
            story.call();
            story.0.up(1);
            story.answer(2);
            // Removed again by the one who brought it back; the third has seen it, and moves it on.
            story.unlink(1, "h");
            story.answer(1);
            story.rename(2, "h", "k");
            story.release();
            story
        }
        Rule::MentionedStays => {
            let mut story = buried(3, broken);
            story.0.settle();
            story.call();
            story.0.down(1);
            story.put(1, "g", 2);
            story.0.up(1);
            story.answer(2);
            story.unlink(1, "g");
            story.answer(1);
            story.rename(2, "g", "k");
            story.release();
            story
        }
        Rule::DeadIsNotReached => {
            let mut story = Story::new(2, broken);
            story.put(0, "f", LARGE);
            story.0.settle();
            let vfs = Arc::clone(story.0.vfs(1));
            let fh = vfs.open_file(resolve(&vfs, b"f"), WRITE).expect("opens");
            vfs.write(fh, 10, b"changed").expect("writes");
            story.unlink(0, "f");
            story.call();
            story.answer(1);
            story.release();
            // The edit outlives the removal, with all that it left as it was.
            vfs.flush(fh).expect("closes");
            vfs.release(fh).expect("closes");
            vfs.cut(Cut::Idle).expect("cut");
            drop(vfs);
            story
        }
        Rule::AcknowledgeApplied => return None,
        Rule::GiveWay => two_release_at_once(broken),
        Rule::FreshCatchesUp => fresh_behind(broken),
    };
    story.lost()
}

/// Ann lets go of a pack because another holds the same; Bob of that other, because he knows of nobody who needs it;
/// and a third device has brought the bytes back, with the pack that Ann lets go of.
fn two_release_at_once(broken: Option<Rule>) -> Story {
    let mut story = Story::merged(3, broken);
    let proved = Copies::Proved(story.0.listed());
    story.ask(0, &proved);
    story.unlink(1, "f");
    story.unlink(1, "z");
    story.ask(1, &proved);
    story.0.vfs(1).acknowledge().expect("answers");
    story.0.up(1);
    story.answer(2);
    story.put(2, "g", 2);
    story.0.up(0);
    story.answer(0);
    story.answer(1);
    story.0.release(1);
    story.answer(2);
    story.0.down(0);
    story.0.release(0);
    story.0.up(1);
    story.0.up(0);
    story
}

/// A device that nobody knows of yet has the entries before the removal only.
fn fresh_behind(broken: Option<Rule>) -> Story {
    let mut story = Story::new(1, broken);
    story.put(0, "f", 2);
    let fresh = {
        let from = story.0.vfs(0).folder();
        let known = from.written().expect("reads").expect("it wrote").seq;
        let (store, no) = (Arc::clone(from.store()), from.no());
        let entries: Vec<_> = (1..=known)
            .map(|seq| store.entry(no, from.log(), seq).expect("reads").expect("is there"))
            .collect();
        story.unlink(0, "f");
        story.call();
        let fresh = story.0.devices[0].alone();
        let to = fresh.vfs().folder();
        for entry in &entries {
            to.store().entry_add(to.no(), entry).expect("is taken");
        }
        // The bytes are still somewhere: a device that was away had them.
        carry(story.0.vfs(0).folder().store(), story.0.vfs(0).folder().no(), to.store(), to.no());
        fresh
    };
    story.release();
    story.0.devices.push(fresh);
    story.0.break_rule(1);
    let vfs = story.0.vfs(1);
    vfs.catch_up().expect("applies");
    assert_eq!(vfs.is_behind(), broken != Some(Rule::FreshCatchesUp));
    let renamed = vfs.rename(ROOT, b"f", ROOT, b"h", RenameFlags::Replace);
    assert_eq!(renamed.is_ok(), broken == Some(Rule::FreshCatchesUp), "{renamed:?}");
    story
}

/// All but [`Rule::AcknowledgeApplied`], which has no story yet.
const RULES: [Rule; 7] = [
    Rule::ListAgain,
    Rule::DeadIsNotReached,
    Rule::AllAnswer,
    Rule::MentionedStays,
    Rule::ComebackIsVoid,
    Rule::FreshCatchesUp,
    Rule::GiveWay,
];

#[test]
fn each_rule_of_giving_space_back_keeps_a_file_that_is_lost_without_it() {
    let mut wrong = Vec::new();
    for rule in RULES {
        let (with, without) = (lost_in(rule, None), lost_in(rule, Some(rule)));
        println!("{rule:?}: with it {with:?}, without it {without:?}");
        wrong.extend(with.map(|lost| format!("with {rule:?} {lost}")));
        if without.is_none() {
            wrong.push(format!("nothing is lost without {rule:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn merged_packs_take_the_place_of_small_ones_and_a_device_with_the_seeder_alone_reads_all() {
    let mut story = Story::new(2, None);
    let names = ["a", "b", "c", "d", "e", "f"];
    for (name, number) in names.iter().zip(0..) {
        story.put(0, name, number);
    }
    story.0.settle();
    story.0.merge(0);
    // The daemon is killed before anything else; nothing is merged twice.
    story.0.restart(0);
    story.0.merge(0);
    assert_eq!(story.0.merged, 1);
    story.0.settle();
    let live = |world: &World| {
        let mut packs = 0;
        world.seeder.packs_live(world.no, &mut |_, _| packs += 1).expect("reads");
        packs
    };
    assert_eq!(live(&story.0), 7);
    // Before copies are proved nothing goes.
    assert!(matches!(story.0.vfs(0).call_for_release(&Copies::Lacking), Ok(Called::Nothing(_))));
    let proved = story.0.copies();
    story.ask(0, &proved);
    story.0.vfs(0).acknowledge().expect("answers");
    story.0.up(0);
    story.0.restart(0);
    story.answer(1);
    story.release();
    assert_eq!((story.0.released, live(&story.0)), (6, 1));
    story.0.settle();
    for at in 0..2 {
        let freed = story.0.vfs(at).drop_released().expect("lets go").expect("nothing is being written");
        assert_eq!(freed.packs, 6, "device {at}");
    }
    // Who writes the same bytes again finds them in the pack that stayed.
    story.put(1, "again", 3);
    story.0.settle();
    assert_eq!(live(&story.0), 1);
    story.0.check(1);
}

/// Packs that a device's own entries list, oldest first, with what they say of them.
pub(super) fn listed_by(folder: &Folder) -> Vec<(PackRef, Vec<DirectoryRow>)> {
    let (store, no, log) = (folder.store(), folder.no(), folder.log());
    let last = store.log_head(no, log).expect("reads").map_or(0, |head| head.seq);
    let mut listed = Vec::new();
    for seq in 1..=last {
        let entry = store.entry(no, log, seq).expect("reads").expect("is there");
        let body = folder.open_entry(&entry).expect("opens");
        let said = entry.header().packs.iter().zip(body.directories);
        listed.extend(said.filter_map(|(pack, rows)| rows.map(|rows| (*pack, rows))));
    }
    listed
}

/// A device says of a pack that it holds one chunk and nothing else.
pub(super) fn lie(folder: &Folder, pack: PackRef, row: DirectoryRow) {
    folder.lie_about(pack, row);
    let nothing = cobox_store::blind::Batch::default();
    let now_ms = std::time::UNIX_EPOCH.elapsed().expect("it is later").as_millis();
    let now_ms = u64::try_from(now_ms).expect("it is not that late");
    folder.write_entries(now_ms << 16, Vec::new(), Vec::new(), nothing).expect("lies");
}

#[test]
fn pack_that_another_device_lists_with_a_wrong_directory_is_not_taken_for_dead() {
    // Which of two devices has the lower log is chance: each lies of the other once.
    for liar in 0..2 {
        let mut story = Story::new(2, None);
        let honest = 1 - liar;
        story.put(honest, "f", 2);
        story.put(liar, "x", 1);
        story.0.settle();
        story.unlink(liar, "x");
        let (from, to) = (story.0.vfs(honest).folder(), story.0.vfs(liar).folder());
        let pack = listed_by(from).first().expect("a pack").0;
        let row = DirectoryRow { chunk_type: ChunkType::Data, tag: ChunkTag([9; 32]), len: 100 };
        lie(to, pack, row);
        story.0.settle();
        let survey = story.0.vfs(0).survey().expect("looks");
        assert!(survey.dead.iter().all(|dead| dead.pack.id != pack.id), "the liar is device {liar}");
    }
}
