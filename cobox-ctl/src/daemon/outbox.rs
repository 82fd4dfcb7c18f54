//! Alarms on their way: each goes by every way that is configured, and is kept with its folder until it has arrived.
//!
//! Each way has a thread of its own, so that a web server that hangs holds up neither the mail nor whoever looks at the
//! copies. What cannot be delivered is tried again, ever more rarely, also after a restart, and given up after a
//! week. A crash between the delivery and the note of it delivers twice, and a program that did its work and says that it
//! failed gets the alarm again.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::alarm::Notice;
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
    tried: u32,
}

/// The letters of a folder, oldest first.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Outbox(Vec<Letter>);

impl Outbox {
    /// Takes an alarm for every way that is configured.
    pub fn post(&mut self, notice: &Notice, settings: &AlarmSettings) {
        for way in Way::ALL.into_iter().filter(|way| way.target(settings).is_some()) {
            self.0.push(Letter { notice: notice.clone(), way, tried: 0 });
        }
        let over = self.0.len().saturating_sub(KEPT_MAX);
        self.0.drain(..over).for_each(|letter| give_up(&letter));
    }

    /// What goes by a way next: what was tried least, so that one that is never taken does not stop the others.
    fn next(&self, way: Way) -> Option<&Letter> {
        self.0.iter().filter(|letter| letter.way == way).min_by_key(|letter| letter.tried)
    }

    /// Notes how it went; the letter may have been given up meanwhile.
    fn note(&mut self, letter: &Letter, arrived: bool) {
        let Some(at) = self.0.iter().position(|known| known == letter) else { return };
        if arrived {
            self.0.remove(at);
        } else if let Some(known) = self.0.get_mut(at) {
            known.tried = known.tried.saturating_add(1);
        }
    }

    /// Lets go of what is too old, and of what has no way any more; whether there was any.
    fn tidy(&mut self, settings: &AlarmSettings, now_ms: u64) -> bool {
        let before = self.0.len();
        self.0.retain(|letter| {
            let young = now_ms.saturating_sub(letter.notice.time_ms) < KEPT_MS;
            if !young {
                give_up(letter);
            }
            young && letter.way.target(settings).is_some()
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
        if arrived {
            (self.failed, self.until) = (0, None);
            return;
        }
        self.until = Some(now + PAUSE_MIN.saturating_mul(1 << self.failed.min(16)).min(PAUSE_MAX));
        self.failed = self.failed.saturating_add(1);
    }
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
        let waiting = |state: &Arc<FolderState>| state.watch.lock().outbox.next(way).is_some();
        let folders: Vec<Arc<FolderState>> = self.folders().into_iter().filter(waiting).collect();
        if folders.is_empty() {
            return false;
        }
        // Those that cannot be read are told of by whoever looks at the copies.
        let Ok(settings) = self.alarm_settings() else { return false };
        for state in &folders {
            let gone = state.watch.lock().outbox.tidy(&settings, now_ms());
            if gone {
                keep(state);
            }
        }
        let Some(target) = way.target(&settings) else { return false };
        if !pause.is_over(&target, Instant::now()) {
            return false;
        }
        let of = |state: Arc<FolderState>| {
            let letter = state.watch.lock().outbox.next(way).cloned()?;
            Some((letter.tried, letter.notice.time_ms, state, letter))
        };
        let next = folders.into_iter().filter_map(of).min_by_key(|(tried, time_ms, ..)| (*tried, *time_ms));
        let Some((_, _, state, letter)) = next else { return false };
        let sent = self.send(way, &settings, &letter.notice);
        if self.is_ending() && sent.is_err() {
            // It was cut off: the next start sends it.
            return false;
        }
        pause.note(sent.is_ok(), Instant::now());
        if let Err(problem) = &sent {
            tracing::warn!(problem, "an alarm was not delivered; it is tried again");
        }
        state.watch.lock().outbox.note(&letter, sent.is_ok());
        keep(&state);
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

    #[test]
    fn letter_that_is_never_taken_does_not_stop_those_behind_it() {
        let mut outbox = Outbox::default();
        (1..=3).for_each(|at| outbox.post(&notice(at), &by_url()));
        let mut order = Vec::new();
        for _ in 0..6 {
            let letter = outbox.next(Way::Url).expect("one waits").clone();
            order.push(letter.notice.time_ms);
            outbox.note(&letter, letter.notice.time_ms != 1);
        }
        assert_eq!(order[..3], [1, 2, 3]);
        assert_eq!(order[3..], [1, 1, 1]);
        assert!(outbox.alarm().is_some_and(|alarm| alarm.what.starts_with("1 alarm ")));
        assert_eq!(outbox.next(Way::Mail), None);
    }

    #[test]
    fn letters_are_bounded_and_given_up_when_they_are_old_or_have_no_way() {
        let mut outbox = Outbox::default();
        (0..200).for_each(|at| outbox.post(&notice(at), &by_url()));
        assert_eq!(outbox.0.len(), KEPT_MAX);
        assert_eq!(outbox.next(Way::Url).map(|letter| letter.notice.time_ms), Some(200 - KEPT_MAX as u64));
        assert!(!outbox.tidy(&by_url(), KEPT_MS));
        assert!(outbox.tidy(&by_url(), KEPT_MS + 198));
        assert_eq!(outbox.0.len(), 1);
        assert!(outbox.tidy(&AlarmSettings::default(), KEPT_MS));
        assert_eq!(outbox, Outbox::default());
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
