//! How near a grant is to its limits, and what of that is news: the same for members and seeders.
//!
//! Pure: what is used, the limits and a time in; sentences, and what was not told yet, out.

use serde::{Deserialize, Serialize};

use crate::shown;

/// Where nothing was agreed, an end is told of so long before.
const NOTICE_MS_DEFAULT: u64 = 30 * 24 * 60 * 60 * 1000;
/// What is told of: so much of the quota in percent, the highest first.
const LEVELS: [u64; 2] = [95, 80];
/// A level is told again only after the quota was so much emptier, in percent, so that a use around it is told once.
const SLACK: u64 = 5;

/// How full something is.
#[must_use]
pub fn percent(used: u64, quota: u64) -> u64 {
    let full = u128::from(used) * 100 / u128::from(quota.max(1));
    u64::try_from(full).unwrap_or(u64::MAX)
}

/// What is used of a grant, and its limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limited {
    /// Bytes that count against the quota.
    pub used: u64,
    /// How much may be stored.
    pub quota_bytes: u64,
    /// When it ends, in milliseconds since 1970; 0 for no end.
    pub ends_ms: u64,
    /// The agreed span of notice, from which on before the end it is told.
    pub notice_ms: Option<u64>,
}

/// How near the end is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// There is none, or there is time.
    #[default]
    Far,
    /// It comes within the span of notice.
    Near,
    /// It has come.
    Over,
}

/// What is news of a grant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// So much of the quota is used, in percent: 80 or 95.
    Level(u64),
    /// The end comes, or has come.
    End(Ending),
}

impl Limited {
    /// How much of the quota is used.
    #[must_use]
    pub fn percent(&self) -> u64 {
        percent(self.used, self.quota_bytes)
    }

    fn level(&self) -> u64 {
        LEVELS.into_iter().find(|level| self.percent() >= *level).unwrap_or(0)
    }

    fn ending(&self, now_ms: u64) -> Ending {
        let notice_ms = self.notice_ms.unwrap_or(NOTICE_MS_DEFAULT);
        match self.ends_ms {
            0 => Ending::Far,
            ends_ms if now_ms >= ends_ms => Ending::Over,
            ends_ms if now_ms.saturating_add(notice_ms) >= ends_ms => Ending::Near,
            _ => Ending::Far,
        }
    }

    /// The quota in a sentence, where it is nearly used.
    #[must_use]
    pub fn quota_text(&self) -> Option<String> {
        let level = self.level();
        let (percent, used, quota) =
            (self.percent(), shown::bytes(self.used), shown::bytes(self.quota_bytes));
        let more = if level >= 95 { "; what does not fit is refused" } else { "" };
        (level > 0).then(|| format!("{percent} % of the quota are used: {used} of {quota}{more}"))
    }

    /// The end in a sentence, where it comes or has come.
    #[must_use]
    pub fn end_text(&self, now_ms: u64) -> Option<String> {
        match self.ending(now_ms) {
            Ending::Far => None,
            Ending::Near => Some(format!("it ends {}", shown::time(self.ends_ms))),
            Ending::Over => Some(format!("it ended {}", shown::time(self.ends_ms))),
        }
    }

    /// What both sides are warned of: 80 and 95 % of the quota, and an end that comes, from the span of notice
    /// before it on.
    #[must_use]
    pub fn warnings(&self, now_ms: u64) -> Vec<String> {
        self.quota_text().into_iter().chain(self.end_text(now_ms)).collect()
    }
}

/// What was told of a grant.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Told {
    /// The highest level of the quota; 0 for none.
    level: u64,
    ending: Ending,
    /// Which end that was.
    ends_ms: u64,
}

impl Told {
    /// Says what is news, once per level and end, and remembers it.
    pub fn look(&mut self, limited: &Limited, now_ms: u64) -> Vec<News> {
        let mut news = Vec::new();
        let level = limited.level();
        if level > self.level {
            news.push(News::Level(level));
        }
        if level > self.level || limited.percent().saturating_add(SLACK) < self.level {
            self.level = level;
        }
        let ending = limited.ending(now_ms);
        let other = self.ends_ms != limited.ends_ms;
        if ending > self.ending || (other && ending == Ending::Near) {
            news.push(News::End(ending));
        }
        if ending > self.ending || other {
            (self.ending, self.ends_ms) = (ending, limited.ends_ms);
        }
        news
    }

    /// What was told and holds, as words for programs: `quota-80`, `quota-95`, `ends`, `ended`.
    #[must_use]
    pub fn words(&self) -> Vec<&'static str> {
        let quota = match self.level {
            0 => None,
            level if level >= 95 => Some("quota-95"),
            _ => Some("quota-80"),
        };
        let end = match self.ending {
            Ending::Far => None,
            Ending::Near => Some("ends"),
            Ending::Over => Some("ended"),
        };
        quota.into_iter().chain(end).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3_600_000;

    fn limited(used: u64, ends_ms: u64, notice_ms: Option<u64>) -> Limited {
        Limited { used, quota_bytes: 1000, ends_ms, notice_ms }
    }

    #[test]
    fn both_sides_are_warned_at_80_and_95_percent_and_before_the_end() {
        let said = |used, ends_ms, notice| limited(used, ends_ms, notice).warnings(100 * DAY);
        assert!(said(799, 0, None).is_empty());
        assert!(said(800, 0, None)[0].starts_with("80 %"));
        assert!(!said(949, 0, None)[0].contains("refused"));
        assert!(said(950, 0, None)[0].contains("refused"));
        assert!(said(0, 131 * DAY, None).is_empty());
        assert!(said(0, 130 * DAY, None)[0].starts_with("it ends"));
        assert!(said(0, 130 * DAY, Some(5 * DAY)).is_empty());
        assert!(said(0, 100 * DAY, Some(0))[0].starts_with("it ended"));
        assert_eq!(percent(u64::MAX, 1), u64::MAX);
    }

    #[test]
    fn level_is_news_once_and_again_after_there_was_room() {
        let mut told = Told::default();
        let mut look = |used| told.look(&limited(used, 0, None), DAY);
        assert!(look(799).is_empty());
        assert_eq!(look(800), [News::Level(80)]);
        for used in [820, 790, 810, 760, 949] {
            assert!(look(used).is_empty(), "{used}");
        }
        assert_eq!(look(960), [News::Level(95)]);
        assert!(look(930).is_empty());
        assert!(look(970).is_empty());
        assert!(look(100).is_empty());
        assert_eq!(look(990), [News::Level(95)]);
        assert_eq!(told.words(), ["quota-95"]);
    }

    #[test]
    fn end_is_news_when_it_nears_and_when_it_came_and_another_end_is_another() {
        let mut told = Told::default();
        let mut look = |ends_ms, now_ms| told.look(&limited(0, ends_ms, Some(10 * DAY)), now_ms);
        assert!(look(100 * DAY, 89 * DAY).is_empty());
        assert_eq!(look(100 * DAY, 90 * DAY), [News::End(Ending::Near)]);
        assert!(look(100 * DAY, 99 * DAY).is_empty());
        assert!(look(200 * DAY, 99 * DAY).is_empty());
        assert_eq!(look(105 * DAY, 99 * DAY), [News::End(Ending::Near)]);
        assert_eq!(look(105 * DAY, 105 * DAY), [News::End(Ending::Over)]);
        assert!(look(105 * DAY, 200 * DAY).is_empty());
        assert_eq!(told.words(), ["ended"]);
    }
}
