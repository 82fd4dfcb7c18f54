//! Alarms on their way: each goes by every way that is configured, and is kept with its folder until it has arrived.
//!
//! Each way has a thread of its own, so that a web server that hangs holds up neither the mail nor whoever looks at the
//! copies. What cannot be delivered is tried again, ever more rarely, also after a restart, and given up after a
//! week. Of a folder the oldest goes first, so that who is told that all is well was told before that it was not. A crash
//! between the delivery and the note of it delivers twice, and a program that did its work and says that it failed, or
//! takes too long, gets the alarm again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::alarm::{Notice, Watch};
use super::folder::FolderState;
use super::{Daemon, TICK, now_ms};
use crate::exit::Outcome;
use crate::report::{Alarm, AlarmSettings};

/// Letters of one folder that are kept; an alarm is told once per change, so there are few.
const KEPT_MAX: usize = 64;
/// The pause after a way failed; it doubles.
const PAUSE_MIN: Duration = Duration::from_secs(30);
/// The longest pause: an alarm is with its person within the hour once the way works again.
const PAUSE_MAX: Duration = Duration::from_secs(60 * 60);
/// After so long an alarm is given up: nobody wants to hear of last month's.
const KEPT_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// But not before it was tried so often, which takes most of a day: a clock that was behind makes all alarms old at once.
const TRIES_MIN: u32 = 24;
/// An alarm that failed so often may be the reason itself: the next one is tried in the same moment.
const DOUBTED_AFTER: u32 = 3;
/// A way that is not configured for so long is meant to be gone: who writes the file anew may take it away for a moment.
pub(crate) const GONE_AFTER: Duration = Duration::from_secs(10 * 60);

/// How an alarm is told, besides the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    /// A program gets it.
    Program,
    /// A web address.
    Url,
    /// An e-mail address.
    Mail,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Program, Self::Url, Self::Mail];

    /// Where it leads, if it is configured.
    pub fn target(self, settings: &AlarmSettings) -> Option<String> {
        match self {
            Self::Program => settings.program.as_ref().map(|program| program.display().to_string()),
            Self::Url => settings.url.clone(),
            Self::Mail => settings.mail.clone(),
        }
    }
}

/// An alarm that has not arrived.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Letter {
    notice: Notice,
    way: Way,
    /// How often it was tried, or waited while an older one was.
    tried: u32,
    /// How often it failed while the way worked for others.
    #[serde(default)]
    passed: u32,
}

/// The letters of a folder, oldest first.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Outbox(Vec<Letter>);

impl Outbox {
    /// Takes an alarm for every way that is configured.
    pub fn post(&mut self, notice: &Notice, settings: &AlarmSettings) {
        for way in Way::ALL.into_iter().filter(|way| way.target(settings).is_some()) {
            self.0.push(Letter { notice: notice.clone(), way, tried: 0, passed: 0 });
        }
        let over = self.0.len().saturating_sub(KEPT_MAX);
        self.0.drain(..over).for_each(|letter| give_up(&letter));
    }

    /// What goes by a way, in this order.
    fn line(&self, way: Way) -> Vec<&Letter> {
        let mut line: Vec<&Letter> = self.0.iter().filter(|letter| letter.way == way).collect();
        line.sort_by_key(|letter| letter.passed);
        line
    }

    /// Forgets a letter that arrived.
    fn arrived(&mut self, letter: &Letter) {
        if let Some(at) = self.0.iter().position(|known| known == letter) {
            self.0.remove(at);
        }
    }

    /// Notes that a letter was refused by a way that works: others go before it from now on.
    fn refused(&mut self, letter: &Letter, now_ms: u64) {
        if let Some(known) = self.0.iter_mut().find(|known| *known == letter) {
            known.passed = known.passed.saturating_add(1);
            known.tried = known.tried.saturating_add(1);
        }
        self.let_go_of_old(now_ms);
    }

    /// Notes that nothing went by a way; whether anything waits for it.
    fn way_failed(&mut self, way: Way, now_ms: u64) -> bool {
        let mut any = false;
        for letter in self.0.iter_mut().filter(|letter| letter.way == way) {
            letter.tried = letter.tried.saturating_add(1);
            any = true;
        }
        self.let_go_of_old(now_ms);
        any
    }

    /// Only what just failed once more is too old: a clock that is set does not take what would arrive now.
    fn let_go_of_old(&mut self, now_ms: u64) {
        self.0.retain(|letter| {
            let kept = letter.tried < TRIES_MIN || now_ms.saturating_sub(letter.notice.time_ms) < KEPT_MS;
            if !kept {
                give_up(letter);
            }
            kept
        });
    }

    /// Lets go of all that waits for a way; whether there was any.
    fn lose_way(&mut self, way: Way) -> bool {
        let before = self.0.len();
        self.0.retain(|letter| {
            if letter.way == way {
                give_up(letter);
            }
            letter.way != way
        });
        self.0.len() < before
    }

    /// That some could not be delivered, for `status`.
    pub fn alarm(&self) -> Option<Alarm> {
        let late = self.0.iter().filter(|letter| letter.tried > 0).count();
        (late > 0).then(|| Alarm {
            what: format!(
                "{} not delivered yet.",
                crate::render::units::counted(
                    late as u64,
                    "alarm of this folder is",
                    "alarms of this folder are"
                )
            ),
            advice: "They are tried again; `cobox-ctl alarm test` says what is wrong.".to_owned(),
        })
    }
}

fn give_up(letter: &Letter) {
    let folder = letter.notice.folder_id.get(..8).unwrap_or(&letter.notice.folder_id);
    tracing::error!(folder, way = ?letter.way, "an alarm could not be delivered and is given up");
}

/// When a way is used again after it failed.
#[derive(Default)]
struct Pause {
    target: Option<String>,
    failed: u32,
    until: Option<Instant>,
    /// What failed last had failed before while the way worked: it holds up only itself.
    by_refused: bool,
    /// Since when the way is not configured while something waits for it.
    gone_since: Option<Instant>,
}

impl Pause {
    /// Whether the way may be used; another target has not failed yet.
    fn is_over(&mut self, target: &str, now: Instant) -> bool {
        if self.target.as_deref() != Some(target) {
            *self = Self { target: Some(target.to_owned()), ..Self::default() };
        }
        self.until.is_none_or(|until| now >= until)
    }

    fn note(&mut self, arrived: bool, now: Instant) {
        self.by_refused = false;
        if arrived {
            (self.failed, self.until) = (0, None);
            return;
        }
        self.until = Some(now + PAUSE_MIN.saturating_mul(1 << self.failed.min(16)).min(PAUSE_MAX));
        self.failed = self.failed.saturating_add(1);
    }

    /// Whether a way is gone for good that is not configured now.
    fn is_gone(&mut self, now: Instant) -> bool {
        now >= *self.gone_since.get_or_insert(now) + GONE_AFTER
    }
}

/// What came of a turn.
#[derive(PartialEq, Eq, Debug)]
enum Turn {
    /// There was nothing to do, or not now.
    Idle,
    /// The program ends, and nothing is known.
    CutOff,
    /// It is to be kept of which folders.
    Done(BTreeSet<usize>),
}

/// Delivers one letter of all folders by a way, or finds out that it cannot. `send` says `None` where it was cut off.
fn carry(
    folders: &[&Mutex<Watch>],
    way: Way,
    (pause, over): (&mut Pause, bool),
    (now, now_ms): (&dyn Fn() -> Instant, u64),
    send: &mut dyn FnMut(&Notice) -> Option<bool>,
) -> Turn {
    let line = |at: usize| -> Vec<Letter> {
        let watch = folders.get(at).map(|watch| watch.lock());
        watch.map(|watch| watch.outbox.line(way).into_iter().cloned().collect()).unwrap_or_default()
    };
    let note = |at: usize, how: &mut dyn FnMut(&mut Outbox)| {
        if let Some(watch) = folders.get(at) {
            how(&mut watch.lock().outbox);
        }
    };
    let first = |but: Option<usize>| {
        let others = (0..folders.len()).filter(|at| Some(*at) != but);
        let heads = others.filter_map(|at| line(at).into_iter().next().map(|letter| (at, letter)));
        heads.min_by_key(|(_, letter)| (letter.passed, letter.notice.time_ms))
    };
    let Some((at, letter)) = first(None) else { return Turn::Idle };
    let may = over || (pause.by_refused && letter.passed == 0);
    if !may {
        return Turn::Idle;
    }
    let Some(arrived) = send(&letter.notice) else { return Turn::CutOff };
    if arrived {
        pause.note(true, now());
        note(at, &mut |outbox| outbox.arrived(&letter));
        return Turn::Done([at].into());
    }
    // Is it the way, or the letter? Another folder's says, whose order does not matter, or else the one behind it.
    let second = || first(Some(at)).or_else(|| line(at).into_iter().nth(1).map(|next| (at, next)));
    if letter.tried >= DOUBTED_AFTER
        && let Some((other, next)) = second()
    {
        let Some(arrived) = send(&next.notice) else { return Turn::CutOff };
        if arrived {
            pause.note(true, now());
            note(other, &mut |outbox| outbox.arrived(&next));
            note(at, &mut |outbox| outbox.refused(&letter, now_ms));
            return Turn::Done([at, other].into());
        }
    }
    pause.note(false, now());
    pause.by_refused = letter.passed > 0;
    let mut waiting = BTreeSet::new();
    for at in 0..folders.len() {
        note(at, &mut |outbox| {
            if outbox.way_failed(way, now_ms) {
                waiting.insert(at);
            }
        });
    }
    Turn::Done(waiting)
}

/// Starts the threads that deliver.
pub(crate) fn start_tellers(daemon: &Arc<Daemon>) -> Outcome<Vec<JoinHandle<()>>> {
    let start = |way: Way| {
        let daemon = Arc::clone(daemon);
        super::chores::spawn("teller", move || {
            let mut pause = Pause::default();
            while !daemon.is_ending() {
                if !daemon.deliver_one(way, &mut pause) {
                    std::thread::park_timeout(TICK);
                }
            }
        })
    };
    Way::ALL.into_iter().map(start).collect()
}

impl Daemon {
    /// Delivers one alarm by one way; `false` where there is none, or none for now.
    fn deliver_one(&self, way: Way, pause: &mut Pause) -> bool {
        let waiting = |state: &Arc<FolderState>| !state.watch.lock().outbox.line(way).is_empty();
        let folders: Vec<Arc<FolderState>> = self.folders().into_iter().filter(waiting).collect();
        if folders.is_empty() {
            pause.gone_since = None;
            return false;
        }
        // Those that cannot be read are told of by whoever looks at the copies.
        let Ok(settings) = self.alarm_settings() else { return false };
        let Some(target) = way.target(&settings) else {
            if pause.is_gone(Instant::now()) {
                tracing::warn!(?way, "alarms waited for a way that is configured no more");
                folders
                    .iter()
                    .filter(|state| state.watch.lock().outbox.lose_way(way))
                    .for_each(|state| keep(state));
            }
            return false;
        };
        pause.gone_since = None;
        let over = pause.is_over(&target, Instant::now());
        let mut send = |notice: &Notice| {
            let sent = self.send(way, &settings, notice);
            if let Err(problem) = &sent {
                if self.is_ending() {
                    // It was cut off: the next start sends it.
                    return None;
                }
                tracing::warn!(problem, "an alarm was not delivered; it is tried again");
            }
            Some(sent.is_ok())
        };
        let watches: Vec<&Mutex<Watch>> = folders.iter().map(|state| &state.watch).collect();
        let turn = carry(&watches, way, (pause, over), (&Instant::now, now_ms()), &mut send);
        let Turn::Done(changed) = turn else { return false };
        changed.into_iter().filter_map(|at| folders.get(at)).for_each(|state| keep(state));
        true
    }
}

fn keep(state: &FolderState) {
    if let Err(problem) = state.keep_watch() {
        tracing::warn!(%problem, "which alarms were delivered is not kept: they may come twice");
    }
}

#[cfg(test)]
mod tests {
    use super::super::alarm::What;
    use super::*;

    fn notice(at_ms: u64) -> Notice {
        Notice {
            time_ms: at_ms,
            folder: "photos".into(),
            folder_id: "00".repeat(32),
            what: What::Red,
            text: format!("number {at_ms}"),
        }
    }

    fn by_url() -> AlarmSettings {
        AlarmSettings { url: Some("http://127.0.0.1/".into()), ..AlarmSettings::default() }
    }

    fn letters(of: &[&[u64]]) -> Vec<Mutex<Watch>> {
        let watch = |times: &&[u64]| {
            let watch = Mutex::new(Watch::default());
            times.iter().for_each(|at| watch.lock().outbox.post(&notice(*at), &by_url()));
            watch
        };
        of.iter().map(watch).collect()
    }

    /// Carries for so many hours; which letters arrive, in this order. `takes` is told the hour and the letter.
    fn arrive(folders: &[Mutex<Watch>], hours: u64, takes: &dyn Fn(u64, u64) -> bool) -> Vec<u64> {
        let (mut pause, start, mut arrived) = (Pause::default(), Instant::now(), Vec::new());
        let folders: Vec<&Mutex<Watch>> = folders.iter().collect();
        for step in 0..hours * 360 {
            let (hour, now) = (step / 360, start + Duration::from_secs(step * 10));
            let over = pause.is_over("here", now);
            let mut send = |notice: &Notice| {
                let taken = takes(hour, notice.time_ms);
                arrived.extend(taken.then_some(notice.time_ms));
                Some(taken)
            };
            carry(&folders, Way::Url, (&mut pause, over), (&|| now, step * 10_000), &mut send);
        }
        arrived
    }

    #[test]
    fn letter_that_waited_goes_before_what_was_written_since() {
        for off in 1..30 {
            let folders = letters(&[&[1]]);
            assert!(arrive(&folders, off, &|_, _| false).is_empty());
            // All is well again, and so is the way, some time later.
            folders[0].lock().outbox.post(&notice(2), &by_url());
            assert_eq!(arrive(&folders, 5, &|hour, _| hour >= 2), [1, 2], "off for {off} hours");
        }
    }

    #[test]
    fn letter_that_is_never_taken_does_not_stop_those_behind_it() {
        for folders in [letters(&[&[1, 2, 3]]), letters(&[&[1], &[2, 3]]), letters(&[&[2, 3], &[1]])] {
            assert_eq!(arrive(&folders, 1, &|_, letter| letter != 1), [2, 3]);
            let late: usize = folders.iter().filter(|watch| watch.lock().outbox.alarm().is_some()).count();
            assert_eq!(late, 1);
            // Nor what comes later, while it is tried ever more rarely.
            folders[0].lock().outbox.post(&notice(4), &by_url());
            assert_eq!(arrive(&folders, 1, &|_, letter| letter != 1), [4]);
            assert_eq!(arrive(&folders, 2, &|_, _| true), [1]);
        }
    }

    #[test]
    fn clock_that_jumps_gives_up_nothing_that_would_arrive() {
        let folders = letters(&[&[1, 2]]);
        assert!(arrive(&folders, 40, &|_, _| false).is_empty());
        let watches: Vec<&Mutex<Watch>> = folders.iter().collect();
        let (mut pause, now) = (Pause::default(), Instant::now());
        let later = 50 * 365 * 24 * 60 * 60 * 1000;
        for _ in 0..2 {
            carry(&watches, Way::Url, (&mut pause, true), (&|| now, later), &mut |_| Some(true));
        }
        assert_eq!(folders[0].lock().outbox, Outbox::default());
    }

    #[test]
    fn letters_are_bounded_and_given_up_when_they_are_old_and_were_tried_or_have_no_way() {
        let mut outbox = Outbox::default();
        (0..200).for_each(|at| outbox.post(&notice(at), &by_url()));
        assert_eq!(outbox.0.len(), KEPT_MAX);
        let first = outbox.line(Way::Url).first().map(|letter| letter.notice.time_ms);
        assert_eq!(first, Some(200 - KEPT_MAX as u64));
        assert_eq!(outbox.line(Way::Mail), Vec::<&Letter>::new());
        for _ in 1..TRIES_MIN {
            assert!(outbox.way_failed(Way::Url, KEPT_MS + 198));
        }
        assert_eq!(outbox.0.len(), KEPT_MAX);
        outbox.way_failed(Way::Url, KEPT_MS + 198);
        assert_eq!(outbox.0.len(), 1);
        assert!(!outbox.lose_way(Way::Mail) && outbox.lose_way(Way::Url));
        assert_eq!(outbox, Outbox::default());
    }

    #[test]
    fn way_that_is_not_configured_for_a_moment_is_not_gone() {
        let (mut pause, now) = (Pause::default(), Instant::now());
        assert!(!pause.is_gone(now) && !pause.is_gone(now + GONE_AFTER / 2));
        assert!(pause.is_gone(now + GONE_AFTER));
    }

    #[test]
    fn way_that_fails_is_used_ever_more_rarely_and_another_target_at_once() {
        let (mut pause, start) = (Pause::default(), Instant::now());
        let (mut now, mut tries) = (start, 0);
        while now < start + Duration::from_secs(24 * 3600) {
            if pause.is_over("here", now) {
                tries += 1;
                pause.note(false, now);
            }
            now += Duration::from_secs(10);
        }
        assert!((24..36).contains(&tries), "{tries}");
        assert!(!pause.is_over("here", now) && pause.is_over("there", now));
        pause.note(false, now);
        pause.note(true, now);
        assert!(pause.is_over("there", now));
    }
}
