//! Merging again and again comes to rest, whatever is missing, and nobody's word is taken for what is in a pack.

use cobox_store::format::pack::{DirectoryRow, PackRef};
use cobox_store::id::PackId;

use super::super::home::{deliver_log, deliver_without};
use super::stories::{Story, lie, listed_by};
use super::*;

impl Story {
    /// How many packs device 0 makes in so many runs that no release follows.
    fn made_in(&mut self, runs: usize) -> usize {
        let before = self.0.merged;
        (0..runs).for_each(|_| self.0.merge(0));
        self.0.merged - before
    }

    fn covered(&self, at: usize) -> usize {
        self.0.vfs(at).survey_and_plan(0).expect("looks").1.covered.packs.len()
    }
}

/// The packs that a device listed, oldest first.
fn packs_of(story: &Story, at: usize) -> Vec<PackRef> {
    listed_by(story.0.vfs(at).folder()).into_iter().map(|(pack, _)| pack).collect()
}

#[test]
fn packs_are_not_merged_again_while_nobody_lets_go_of_the_old_ones() {
    let mut story = Story::new(1, None);
    for (name, number) in ["a", "b", "c", "d", "e", "f"].iter().zip(0..) {
        story.put(0, name, number);
        // Each time after the second there are two that can be merged.
        story.0.merge(0);
    }
    story.made_in(2);
    assert_eq!(story.made_in(5), 0, "what was merged is merged again");
    let merged = packs_of(&story, 0).len();
    assert_eq!(story.covered(0), merged - 1, "all but the last are covered");
}

#[test]
fn pack_of_which_something_is_not_here_has_nothing_written_again_for_its_sake() {
    let mut story = Story::new(2, None);
    story.put(1, "away", 2);
    story.put(0, "a", 0);
    story.put(0, "b", 1);
    // Device 0 knows of the other's pack and does not have it.
    let away = packs_of(&story, 1);
    let without: Vec<PackId> = away.iter().map(|pack| pack.id).collect();
    deliver_without(story.0.vfs(1).folder(), story.0.vfs(0).folder(), &without);
    story.0.vfs(0).catch_up().expect("applies");
    assert_eq!(story.made_in(1), 1, "its own two are merged");
    assert_eq!(story.made_in(4), 0);
    assert_eq!(story.covered(0), 2);
    // Once it is here it is like the others.
    story.0.settle();
    assert_eq!(story.made_in(1), 1);
    assert_eq!(story.made_in(4), 0);
    assert_eq!(story.lost(), None);
}

#[test]
fn packs_that_were_copied_before_a_crash_are_listed_and_not_copied_again() {
    let mut story = Story::new(1, None);
    story.put(0, "a", 0);
    story.put(0, "b", 1);
    let folder = story.0.vfs(0).folder();
    let rows: Vec<_> = listed_by(folder).into_iter().flat_map(|(_, rows)| rows).collect();
    let epoch = folder.merging_epoch().expect("reads").expect("there is one");
    let copied = folder.copy_chunks(epoch, &mut rows.into_iter()).expect("copies");
    assert_eq!(copied.len(), 1);
    // It ends here, before an entry lists what was copied.
    story.0.restart(0);
    assert_eq!(story.made_in(2), 0);
    assert_eq!(packs_of(&story, 0).last(), copied.first());
    assert_eq!(story.covered(0), 2);
    assert_eq!(story.lost(), None);
}

/// Ids of the packs that device 0 lets go of when it calls now and everybody answers.
fn released(story: &mut Story, copies: &Copies) -> Vec<PackId> {
    story.ask(0, copies);
    story.0.vfs(0).acknowledge().expect("answers");
    story.0.up(0);
    for at in 1..story.0.devices.len() {
        story.answer(at);
    }
    story.0.down(0);
    match story.0.vfs(0).release_dead().expect("releases") {
        Released::Done(packs) => packs.into_iter().map(|pack| pack.id).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_somebody_says_of_a_home_beside_what_is_needed_now_is_looked_at_too() {
    for lies in [false, true] {
        let mut story = Story::new(3, None);
        // One pack with two files, of which one is removed, and one to merge with.
        let (both, rows) = two_in_a_pack(&story);
        story.put(0, "other", 0);
        story.0.settle();
        story.unlink(0, "gone");
        assert_eq!(story.made_in(1), 1);
        story.0.settle();
        let merged = *packs_of(&story, 0).last().expect("it was merged");
        let known = listed_by(story.0.vfs(0).folder()).pop().expect("it was merged").1;
        let row = *rows.iter().find(|row| !known.contains(row)).expect("what was removed");
        if lies {
            // What would not fit into the pack is not even taken.
            lie(story.0.vfs(1).folder(), merged, DirectoryRow { len: 100, ..row });
            story.0.settle();
        }
        let proved = story.0.copies();
        let called = story.0.vfs(0).call_for_release(&proved).expect("calls");
        if lies {
            assert!(
                matches!(called, Called::Nothing(_)),
                "a pack that somebody lies of is a home: {called:?}"
            );
            continue;
        }
        story.0.vfs(0).acknowledge().expect("answers");
        // The same bytes come back before that device has heard of the call: it lists nothing again.
        story.put(2, "again", 2);
        story.0.up(0);
        (1..3).for_each(|at| story.answer(at));
        story.0.down(0);
        let gone = story.0.vfs(0).release_dead().expect("releases");
        assert!(!matches!(gone, Released::Done(packs) if packs.contains(&both)), "it is needed again");
        assert_eq!(story.lost(), None);
    }
}

#[test]
fn pack_that_was_listed_after_the_copies_were_proved_is_no_home() {
    let mut story = Story::new(2, None);
    story.put(0, "a", 1);
    let first = packs_of(&story, 0)[0].id;
    story.0.up(0);
    let proved = Copies::Proved(story.0.listed());
    // The other device had the same bytes and knew nothing of it.
    story.put(1, "b", 1);
    story.0.up(1);
    story.0.down(0);
    assert_eq!(story.covered(0), 1, "now two hold it");
    let called = story.0.vfs(0).call_for_release(&proved).expect("calls");
    assert!(matches!(called, Called::Nothing(_)), "{called:?}");
    let proved = Copies::Proved(story.0.listed());
    assert_eq!(released(&mut story, &proved), [first]);
    assert_eq!(story.lost(), None);
}

/// Device 0 writes two files, whose chunks lie in one pack.
fn two_in_a_pack(story: &Story) -> (PackRef, Vec<DirectoryRow>) {
    let vfs = story.0.vfs(0);
    for (name, number) in [(&b"stays"[..], 1), (b"gone", 2)] {
        vfs.mknod(ROOT, name, Kind::File, BY, 0).expect("makes");
        let fh = vfs.open_file(resolve(vfs, name), WRITE).expect("opens");
        vfs.write(fh, 0, &content(number)).expect("writes");
        vfs.flush(fh).expect("closes");
        vfs.release(fh).expect("closes");
    }
    vfs.cut(Cut::Now).expect("cut");
    listed_by(vfs.folder()).first().cloned().expect("a pack")
}

#[test]
fn chunk_that_somebody_says_lies_elsewhere_in_a_pack_is_read_where_it_is() {
    for (liar, reader) in [(1, 2), (2, 1)] {
        let mut story = Story::new(3, None);
        let (pack, rows) = two_in_a_pack(&story);
        assert!(rows.len() >= 2, "{rows:?}");
        story.put(0, "other", 0);
        story.0.up(0);
        story.0.down(liar);
        let from = story.0.vfs(liar).folder();
        lie(from, pack, *rows.last().expect("a chunk"));
        // The reader hears the lie before the truth.
        deliver_log(from, story.0.vfs(reader).folder(), from.log());
        story.0.vfs(reader).catch_up().expect("applies");
        story.0.settle();
        assert!(World::picture(story.0.vfs(reader)).is_ok());
        // The same of the pack that takes the place of the old ones, when they are gone.
        assert_eq!(story.made_in(1), 1);
        story.0.settle();
        let proved = story.0.copies();
        assert_eq!(released(&mut story, &proved).len(), 2);
        let (merged, rows) = listed_by(story.0.vfs(0).folder()).pop().expect("it was merged");
        lie(story.0.vfs(liar).folder(), merged, *rows.last().expect("a chunk"));
        assert_eq!(story.lost(), None);
    }
}
