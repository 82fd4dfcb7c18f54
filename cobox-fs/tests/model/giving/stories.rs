//! Stories, one for each rule of giving space back: with the rule nothing is lost, and without it a file is.

use std::sync::Arc;

use super::*;

/// A world without chance: two or three devices, and what they do in turn.
struct Story(World);

impl Story {
    fn new(devices: usize, rule: Option<Rule>) -> Self {
        Self(World::new(1, devices, rule))
    }

    fn put(&mut self, at: usize, name: &str, number: u64) {
        let vfs = self.0.vfs(at);
        let _ = vfs.mknod(ROOT, name.as_bytes(), Kind::File, BY, 0);
        let fh = vfs.open_file(resolve(vfs, name.as_bytes()), WRITE).expect("opens");
        vfs.write(fh, 0, &content(number)).expect("writes");
        vfs.flush(fh).expect("closes");
        vfs.release(fh).expect("closes");
        vfs.cut(Cut::Idle).expect("cut");
    }

    fn rename(&mut self, at: usize, from: &str, to: &str) {
        let vfs = self.0.vfs(at);
        vfs.rename(ROOT, from.as_bytes(), ROOT, to.as_bytes(), RenameFlags::Replace).expect("renames");
        vfs.cut(Cut::Idle).expect("cut");
    }

    fn unlink(&mut self, at: usize, name: &str) {
        self.0.vfs(at).unlink(ROOT, name.as_bytes()).expect("removes");
        self.0.vfs(at).cut(Cut::Idle).expect("cut");
    }

    /// Device 0 calls, and answers itself.
    fn call(&mut self) {
        let called = self.0.vfs(0).call_for_release().expect("calls");
        assert!(matches!(called, Called::Out(_)), "{called:?}");
        self.0.vfs(0).acknowledge().expect("answers");
        self.0.up(0);
    }

    fn answer(&mut self, at: usize) {
        self.0.down(at);
        assert!(self.0.vfs(at).acknowledge().expect("answers"), "device {at} has nothing to answer");
        self.0.up(at);
    }

    /// Device 0 hears what there is and releases what it may.
    fn release(&mut self) {
        self.0.down(0);
        self.0.release(0);
        self.0.up(0);
    }

    /// What is lost at the end, with everybody and with a device that begins with the seeder.
    fn lost(mut self) -> Option<String> {
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
        Rule::FreshCatchesUp => fresh_behind(broken),
    };
    story.lost()
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
const RULES: [Rule; 6] = [
    Rule::ListAgain,
    Rule::DeadIsNotReached,
    Rule::AllAnswer,
    Rule::MentionedStays,
    Rule::ComebackIsVoid,
    Rule::FreshCatchesUp,
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
