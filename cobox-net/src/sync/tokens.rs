//! How much may be asked or told on one connection: so much in one go, and from then on at a steady pace. Reckoned from the
//! engine's time alone. Each kind has its own, so that who asks much of one is not refused another.

use std::time::{Duration, Instant};

/// So many in one go, and one more each time so much has passed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    most: u32,
    every: Duration,
}

/// What is heard of a peer.
pub(super) const HEARD: Pace = Pace { most: 64, every: Duration::from_millis(250) };
/// What is said to one of what it does not wait for. So much less that it is not too much either where all that was said in
/// half a minute comes at one moment: a connection on which nothing moves for so long has ended.
pub(super) const SAID: Pace = Pace { most: 32, every: Duration::from_secs(1) };

/// What is left.
pub(super) struct Tokens {
    pace: Pace,
    left: u32,
    since: Instant,
}

impl Tokens {
    /// All of them.
    pub fn full(pace: Pace, now: Instant) -> Self {
        Self { pace, left: pace.most, since: now }
    }

    /// Takes one; `false` where there is none.
    pub fn take(&mut self, now: Instant) -> bool {
        let earned = now.duration_since(self.since).as_millis() / self.pace.every.as_millis();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        let left = self.left.saturating_add(earned);
        // What is left of an interval counts for the next one.
        self.since = if left < self.pace.most { self.since + self.pace.every * earned } else { now };
        self.left = left.min(self.pace.most);
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }

    /// Gives back one that was taken for nothing.
    pub fn give_back(&mut self) {
        self.left = self.left.saturating_add(1).min(self.pace.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_keeps_the_pace_is_heard_whenever_it_speaks() {
        let start = Instant::now();
        let mut tokens = Tokens::full(HEARD, start);
        (0..HEARD.most).for_each(|_| assert!(tokens.take(start)));
        assert!(!tokens.take(start));
        // Three times in 998 ms, which is less often than each 250 ms.
        let mut now = start;
        for round in 0..1000 {
            now += Duration::from_millis(499);
            (0..1 + round % 2).for_each(|_| assert!(tokens.take(now), "{round}"));
        }
    }

    #[test]
    fn who_was_silent_for_long_may_say_no_more_in_one_go_than_at_first() {
        let start = Instant::now();
        let mut tokens = Tokens::full(HEARD, start);
        for later in [Duration::from_millis(100), Duration::from_secs(3600)] {
            let granted = (0..1000).filter(|_| tokens.take(start + later)).count();
            assert_eq!(granted, HEARD.most as usize);
        }
    }
}
