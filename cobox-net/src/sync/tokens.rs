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
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(earned).min(self.pace.most);
            self.since = now;
        }
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }
}
