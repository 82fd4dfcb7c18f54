//! When people are told that a folder's copies are not what they should be: once per change.
//!
//! Pure: the state of the copies and a time in, notices out. What is told is remembered with the folder, so
//! that a restart repeats nothing. A moment of trouble is no news (each write makes a copy incomplete until
//! it is sent and proved): it is told once it lasts, counted only while this device is awake and looking.

use std::collections::BTreeMap;

use cobox_net::nearing::{Limited, News, Told};
use serde::{Deserialize, Serialize};

use super::agreements::{LIMIT_ADVICE, limited};
use super::folder::FolderState;
use super::outbox::Outbox;
use super::policy::Policy;
use crate::exit::Outcome;
use crate::render::health::{Light, judge};
use crate::render::units::{counted, time};
use crate::report::{Alarm, AlarmSettings, FolderReport, Holding, SeederReport};

/// The setting under which it is remembered what was told, sealed.
const SETTING: &str = "alarms told";
/// Trouble that lasts so long is told, unless the member set another span.
pub(crate) const ALARM_AFTER_MS: u64 = 30 * 60 * 1000;
/// A longer pause between two looks means that this device slept, and could not have heard anybody.
const AWAKE_GAP_MS: u64 = 5 * 60 * 1000;
/// How exactly it is remembered when a seeder was heard of: each time is a write to the disk.
const HEARD_STEP_MS: u64 = 10 * 60 * 1000;

/// What is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum What {
    /// Fewer copies are proved or claimed than there should be.
    Red,
    /// Enough copies are claimed; not all are proved, or their proofs are late.
    Amber,
    /// All is as it should be again.
    Green,
    /// Nobody heard of a seeder for long.
    Silent,
    /// It is heard of again.
    Heard,
    /// 80 or 95 % of what a seeder may store are used.
    Quota,
    /// A grant or an agreement comes to its end, or has.
    Ends,
}

/// Something to tell.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Notice {
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// Of which folder.
    pub folder: String,
    /// Its id in hex.
    pub folder_id: String,
    /// What.
    pub what: What,
    /// For people.
    pub text: String,
}

/// What is remembered of a folder.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Watch {
    /// What was told last of the copies; nothing is like green.
    told: Option<ToldCopies>,
    /// By peer id.
    seeders: BTreeMap<String, Heard>,
    /// What was told of each grant's quota and end.
    #[serde(default)]
    limits: BTreeMap<String, Told>,
    /// What was told and has not arrived everywhere.
    #[serde(default)]
    pub outbox: Outbox,
    #[serde(skip)]
    awake: Option<Awake>,
    /// Whether it could not be kept when it changed last.
    #[serde(skip)]
    unkept: bool,
    /// The light that is worse than what was told, and since when.
    #[serde(skip)]
    worse: Option<(Light, u64)>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct ToldCopies {
    light: Light,
    since_ms: u64,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Heard {
    at_ms: u64,
    /// Since when it was told to be silent.
    silent_ms: Option<u64>,
}

/// This device looks without a gap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Awake {
    since_ms: u64,
    last_ms: u64,
}

impl Watch {
    /// What is wrong and was told.
    pub fn alarms(&self) -> Vec<Alarm> {
        let alarm = |since_ms, what| Alarm { what, advice: format!("It is so since {}.", time(since_ms)) };
        let copies = self.told.iter().filter(|told| told.light != Light::Green);
        let copies = copies.map(|told| alarm(told.since_ms, told.text.clone()));
        let silent = self.seeders.iter().filter_map(|(peer_id, heard)| {
            heard.silent_ms.map(|since_ms| alarm(since_ms, silent(peer_id, heard.at_ms)))
        });
        copies.chain(silent).chain(self.outbox.alarm()).collect()
    }

    /// When a seeder was last heard of.
    pub fn heard_at(&self, peer_id: &str) -> Option<u64> {
        self.seeders.get(peer_id).map(|heard| heard.at_ms)
    }

    /// Looks at a folder, and says what is new. `after_ms` is how long trouble lasts before it is told.
    pub fn look(
        &mut self,
        folder: &FolderReport,
        policy: &Policy,
        after_ms: u64,
        now_ms: u64,
    ) -> Vec<Notice> {
        let awake = match self.awake {
            Some(awake) if now_ms.abs_diff(awake.last_ms) <= AWAKE_GAP_MS => awake.since_ms.min(now_ms),
            _ => {
                self.worse = None;
                now_ms
            }
        };
        self.awake = Some(Awake { since_ms: awake, last_ms: now_ms });
        let mut notices = Vec::new();
        let mut tell = |what, text: String| {
            notices.push(Notice {
                time_ms: now_ms,
                folder: folder.name.clone(),
                folder_id: folder.id.clone(),
                what,
                text,
            });
        };
        if let Some((what, text)) = self.look_at_copies(folder, after_ms, now_ms) {
            tell(what, format!("{}: {text}", folder.name));
        }
        self.seeders.retain(|known, _| folder.seeders.iter().any(|seeder| seeder.peer_id == *known));
        let long_awake = now_ms.saturating_sub(awake) >= after_ms;
        for seeder in &folder.seeders {
            if let Some((what, text)) = self.look_at_seeder(seeder, policy, long_awake, now_ms) {
                tell(what, format!("{}: {text}", folder.name));
            }
        }
        notices
    }

    /// Says what is new of the seeders' quotas and of their ends: each level and each end once.
    pub fn look_at_limits(
        &mut self,
        folder: &FolderReport,
        grants: &[(String, Limited)],
        now_ms: u64,
    ) -> Vec<Notice> {
        self.limits.retain(|known, _| grants.iter().any(|(peer_id, _)| peer_id == known));
        let mut notices = Vec::new();
        for (peer_id, limited) in grants {
            let told = self.limits.entry(peer_id.clone()).or_default();
            for news in told.look(limited, now_ms) {
                let (what, said) = match news {
                    News::Level(_) => (What::Quota, limited.quota_text()),
                    News::End(_) => (What::Ends, limited.end_text(now_ms)),
                };
                let said = said.unwrap_or_default();
                let text = format!("{}: with the seeder {peer_id}: {said}. {LIMIT_ADVICE}", folder.name);
                let (folder, folder_id) = (folder.name.clone(), folder.id.clone());
                notices.push(Notice { time_ms: now_ms, folder, folder_id, what, text });
            }
        }
        notices
    }

    fn look_at_copies(
        &mut self,
        folder: &FolderReport,
        after_ms: u64,
        now_ms: u64,
    ) -> Option<(What, String)> {
        let mut health = judge(folder);
        // What is written to all the time is never proved to the last byte, and no trouble: it is proved each minute.
        let following = folder.seeders.iter().filter(|seeder| seeder.holding == Holding::Following).count();
        let proved = folder.copies_proved.saturating_sub(folder.copies_late);
        let held = proved.saturating_add(u32::try_from(following).unwrap_or(u32::MAX));
        if health.light == Light::Amber && held >= folder.copies_wanted {
            (health.light, health.copies) = (Light::Green, held);
        }
        let told = self.told.as_ref().map_or(Light::Green, |told| told.light);
        if health.light <= told {
            self.worse = None;
            // What is better and not well yet is no news: the alarm holds until all is well.
            if health.light != Light::Green || told == Light::Green {
                return None;
            }
            self.told = None;
            let text = format!(
                "all is well again, {} of {} copies are proved.",
                health.copies, health.copies_wanted
            );
            return Some((What::Green, text));
        }
        let since_ms = match self.worse {
            // From amber to red the time goes on: it is trouble all along.
            Some((_, since_ms)) => since_ms.min(now_ms),
            None => now_ms,
        };
        self.worse = Some((health.light, since_ms));
        if now_ms.saturating_sub(since_ms) < after_ms {
            return None;
        }
        self.worse = None;
        let text = copies_text(folder);
        self.told = Some(ToldCopies { light: health.light, since_ms, text: text.clone() });
        Some((if health.light == Light::Red { What::Red } else { What::Amber }, text))
    }

    fn look_at_seeder(
        &mut self,
        seeder: &SeederReport,
        policy: &Policy,
        long_awake: bool,
        now_ms: u64,
    ) -> Option<(What, String)> {
        let heard =
            self.seeders.entry(seeder.peer_id.clone()).or_insert(Heard { at_ms: now_ms, silent_ms: None });
        if seeder.link == "connected" {
            if now_ms.abs_diff(heard.at_ms) >= HEARD_STEP_MS || heard.silent_ms.is_some() {
                heard.at_ms = now_ms;
            }
            let was_silent = heard.silent_ms.take().is_some();
            return was_silent
                .then(|| (What::Heard, format!("the seeder {} is heard of again.", seeder.peer_id)));
        }
        if heard.silent_ms.is_some() || !long_awake || now_ms.abs_diff(heard.at_ms) <= policy.late_ms() {
            return None;
        }
        heard.silent_ms = Some(now_ms);
        Some((What::Silent, silent(&seeder.peer_id, heard.at_ms)))
    }
}

fn silent(peer_id: &str, heard_ms: u64) -> String {
    format!("The seeder {peer_id} was not heard of since {}: ask its owner.", time(heard_ms))
}

/// What is wrong with the copies, and what to do.
fn copies_text(folder: &FolderReport) -> String {
    let health = judge(folder);
    let name = &folder.name;
    if health.packs_lost > 0 {
        return format!(
            "{} not whole on this device, and no seeder is known to hold it all. Connect a seeder or a device that does.",
            counted(health.packs_lost, "pack is", "packs are")
        );
    }
    let counted = format!("{} of {} copies are proved", health.copies, health.copies_wanted);
    let seeders = u32::try_from(folder.seeders.len()).unwrap_or(u32::MAX);
    if seeders < health.copies_wanted {
        let who = match seeders {
            0 => "no seeder".to_owned(),
            1 => "only one seeder".to_owned(),
            many => format!("only {many} seeders"),
        };
        return format!(
            "{counted}, and it has {who}. Add one with `cobox-ctl seeder add {name} ADDR --quota 50G`."
        );
    }
    if folder.copies_late > 0 && health.light == Light::Amber {
        return format!(
            "{counted}, and {} of the proofs are late. Check that the seeders are reachable.",
            folder.copies_late
        );
    }
    format!("{counted}. `cobox-ctl status {name}` says what each seeder lacks.")
}

impl FolderState {
    /// Remembers what was told before the daemon started.
    pub fn recall_watch(&self) {
        let read = || {
            let sealed = self.folder.store().setting(self.no(), SETTING).ok()??;
            let plain = self.folder.local().open(SETTING.as_bytes(), &sealed).ok()?;
            serde_json::from_slice(&plain).ok()
        };
        *self.watch.lock() = read().unwrap_or_default();
    }

    /// Looks at the folder's copies; what is new is remembered with what is to be delivered of it, so that it is told once
    /// and not lost.
    pub fn look(&self, report: &FolderReport, settings: &AlarmSettings, now_ms: u64) -> Outcome<Vec<Notice>> {
        let policy = self.policy();
        let grants: Vec<_> =
            limited(self)?.into_iter().map(|(peer, near)| (peer.to_string(), near)).collect();
        let (notices, same) = {
            let mut watch = self.watch.lock();
            let kept = |watch: &Watch| (watch.told.clone(), watch.seeders.clone(), watch.limits.clone());
            let before = kept(&watch);
            let mut notices = watch.look(report, &policy, settings.after_ms, now_ms);
            notices.extend(watch.look_at_limits(report, &grants, now_ms));
            notices.iter().for_each(|notice| watch.outbox.post(notice, settings));
            let same = before == kept(&watch) && notices.is_empty() && !watch.unkept;
            (notices, same)
        };
        // A full disk keeps nobody from hearing of it.
        if !same && let Err(problem) = self.keep_watch() {
            tracing::warn!(%problem, "what was told is not kept: it may be told again after a restart");
        }
        Ok(notices)
    }

    /// Keeps what was told and what is on its way.
    pub fn keep_watch(&self) -> Outcome<()> {
        // Who keeps it last keeps the newest.
        let _turn = self.keeping_watch.lock();
        let watch = self.watch.lock().clone();
        let plain = serde_json::to_vec(&watch).expect("what is remembered is plain data");
        let sealed = self.folder.local().seal(SETTING.as_bytes(), &plain);
        let kept = self.folder.store().setting_put(self.no(), SETTING, &sealed);
        self.watch.lock().unkept = kept.is_err();
        Ok(kept?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::LocalReport;

    const MINUTE: u64 = 60_000;
    const DAY: u64 = 24 * 60 * MINUTE;
    const START: u64 = 20_000 * DAY;

    fn folder(holding: Holding, link: &str) -> FolderReport {
        let seeder = SeederReport {
            peer_id: "12D3".into(),
            address: String::new(),
            quota_bytes: 1,
            until_ms: 0,
            link: link.into(),
            problem: None,
            rtt_ms: None,
            path: None,
            told: false,
            entries_behind: 0,
            packs_to_send: 0,
            bytes_to_send: 0,
            bytes_sent: 0,
            rate: 0,
            holding,
            proved_at_ms: None,
            gone_ms: None,
            heard_at_ms: None,
            place: None,
            organisation: None,
            contact: None,
            agreement: None,
        };
        FolderReport {
            conflicts: None,
            name: "photos".into(),
            id: String::new(),
            removed: false,
            mount: None,
            local: LocalReport::default(),
            devices: Vec::new(),
            seeders: vec![seeder],
            copies_claimed: u32::from(
                holding.is_proved() || matches!(holding, Holding::Claimed | Holding::Following),
            ),
            copies_proved: u32::from(holding.is_proved()),
            copies_late: u32::from(holding == Holding::Late),
            copies_wanted: 1,
            policy_of: crate::report::PolicyOf::Nobody,
            tolerance_ms: 7 * DAY,
            alarms: Vec::new(),
            proved_at_ms: None,
        }
    }

    /// Looks each minute from `from` on, and collects what is told.
    fn looks(watch: &mut Watch, report: &FolderReport, from: u64, minutes: u64) -> Vec<What> {
        (0..minutes)
            .flat_map(|at| watch.look(report, &Policy::default(), ALARM_AFTER_MS, from + at * MINUTE))
            .map(|notice| notice.what)
            .collect()
    }

    #[test]
    fn folder_below_its_target_is_told_once_when_it_lasts_and_once_when_it_is_well() {
        let mut watch = Watch::default();
        let (good, bad) = (folder(Holding::Proved, "connected"), folder(Holding::Behind, "connected"));
        assert!(looks(&mut watch, &good, START, 5).is_empty());
        // Each write makes a copy incomplete for a moment.
        assert!(looks(&mut watch, &bad, START + 5 * MINUTE, 20).is_empty());
        assert!(looks(&mut watch, &good, START + 25 * MINUTE, 1).is_empty());
        assert_eq!(looks(&mut watch, &bad, START + 26 * MINUTE, 200), [What::Red]);
        assert_eq!(watch.alarms().len(), 1);
        // Half way back is no news, nor is falling back again.
        let claimed = folder(Holding::Claimed, "connected");
        assert!(looks(&mut watch, &claimed, START + 226 * MINUTE, 90).is_empty());
        assert!(looks(&mut watch, &bad, START + 316 * MINUTE, 90).is_empty());
        assert_eq!(looks(&mut watch, &good, START + 406 * MINUTE, 90), [What::Green]);
        assert!(watch.alarms().is_empty());
    }

    #[test]
    fn folder_that_is_written_to_all_day_with_a_seeder_that_follows_is_no_alarm() {
        let mut watch = Watch::default();
        let busy = folder(Holding::Following, "connected");
        assert_eq!(judge(&busy).light, Light::Amber);
        assert!(looks(&mut watch, &busy, START, 600).is_empty());
        let mut wanted = busy.clone();
        wanted.copies_wanted = 2;
        assert_eq!(looks(&mut watch, &wanted, START + 600 * MINUTE, 60), [What::Red]);
        assert_eq!(looks(&mut watch, &busy, START + 660 * MINUTE, 2), [What::Green]);
    }

    #[test]
    fn late_proof_is_amber_and_then_red() {
        let mut watch = Watch::default();
        assert_eq!(looks(&mut watch, &folder(Holding::Late, "connected"), START, 90), [What::Amber]);
        let expired = folder(Holding::Expired, "connected");
        assert_eq!(looks(&mut watch, &expired, START + 90 * MINUTE, 90), [What::Red]);
    }

    #[test]
    fn silent_seeder_is_told_once_and_again_when_it_speaks() {
        let mut watch = Watch::default();
        let off = folder(Holding::Proved, "offline");
        let minutes = Policy::default().late_ms() / MINUTE + 3;
        assert_eq!(looks(&mut watch, &off, START, minutes), [What::Silent]);
        let later = START + minutes * MINUTE;
        assert!(looks(&mut watch, &off, later, 100).is_empty());
        assert_eq!(watch.heard_at("12D3"), Some(START));
        let on = folder(Holding::Proved, "connected");
        assert_eq!(looks(&mut watch, &on, later + 100 * MINUTE, 3), [What::Heard]);
    }

    #[test]
    fn device_that_slept_gives_its_seeders_time_to_answer() {
        let mut watch = Watch::default();
        assert!(looks(&mut watch, &folder(Holding::Proved, "connected"), START, 3).is_empty());
        let woken = START + 30 * DAY;
        assert!(looks(&mut watch, &folder(Holding::Expired, "offline"), woken, 5).is_empty());
        assert!(looks(&mut watch, &folder(Holding::Proved, "connected"), woken + 5 * MINUTE, 60).is_empty());
        // One that stays away is told.
        let told = looks(&mut watch, &folder(Holding::Expired, "offline"), woken + 60 * DAY, 60);
        assert_eq!(told, [What::Red, What::Silent]);
    }

    #[test]
    fn quota_and_end_are_told_once_per_level_also_after_a_restart() {
        let mut watch = Watch::default();
        let report = folder(Holding::Proved, "connected");
        let look = |watch: &mut Watch, used, ends_ms, now_ms| -> Vec<What> {
            let near = Limited { used, quota_bytes: 1000, ends_ms, notice_ms: Some(5 * DAY) };
            let told = watch.look_at_limits(&report, &[("12D3".to_owned(), near)], now_ms);
            assert!(told.iter().all(|notice| notice.text.starts_with("photos: with the seeder 12D3: ")));
            told.into_iter().map(|notice| notice.what).collect()
        };
        let end = START + 10 * DAY;
        assert!(look(&mut watch, 700, end, START).is_empty());
        assert_eq!(look(&mut watch, 800, end, START), [What::Quota]);
        assert!(look(&mut watch, 810, end, START).is_empty());
        assert_eq!(look(&mut watch, 950, end, START + 5 * DAY), [What::Quota, What::Ends]);
        let text = serde_json::to_string(&watch).expect("JSON");
        let mut again: Watch = serde_json::from_str(&text).expect("JSON");
        assert!(look(&mut again, 960, end, START + 6 * DAY).is_empty());
        assert_eq!(look(&mut again, 960, end, end), [What::Ends]);
        assert!(look(&mut again, 960, end, end + DAY).is_empty());
    }

    #[test]
    fn what_was_told_survives_a_restart() {
        let mut watch = Watch::default();
        let bad = folder(Holding::Behind, "connected");
        assert_eq!(looks(&mut watch, &bad, START, 60), [What::Red]);
        let text = serde_json::to_string(&watch).expect("JSON");
        let mut again: Watch = serde_json::from_str(&text).expect("JSON");
        assert!(looks(&mut again, &bad, START + 60 * MINUTE, 100).is_empty());
        let good = folder(Holding::Proved, "connected");
        assert_eq!(looks(&mut again, &good, START + 160 * MINUTE, 2), [What::Green]);
    }
}
