//! When to dial whom: configured peers are dialed until they answer, with growing pauses.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use cobox_store::id::{FolderNo, hash};

use crate::peer_id::PeerId;

/// The first pause after a connection ended or an attempt failed.
pub const PAUSE_MIN: Duration = Duration::from_millis(200);
/// The longest pause: a seeder that comes back is found within half a minute.
pub const PAUSE_MAX: Duration = Duration::from_secs(30);
/// An attempt that is neither up nor failed after this long counts as failed.
const ATTEMPT_MAX: Duration = Duration::from_secs(20);

/// One peer to dial.
#[derive(Debug, Default)]
struct Target {
    addresses: Vec<Vec<u8>>,
    folders: BTreeSet<FolderNo>,
    until: Option<Instant>,
    connections: u32,
    attempt: u32,
    next_at: Option<Instant>,
    dialing_since: Option<Instant>,
    error: Option<String>,
}

/// All peers to dial.
#[derive(Debug, Default)]
pub struct Dialer {
    targets: BTreeMap<PeerId, Target>,
    salt: [u8; 32],
}

impl Dialer {
    /// `salt` makes nodes that lost one seeder come back at different moments.
    #[must_use]
    pub fn new(salt: [u8; 32]) -> Self {
        Self { targets: BTreeMap::new(), salt }
    }

    /// Replaces the peers of a folder.
    pub fn set(&mut self, no: FolderNo, peers: &[(PeerId, Vec<Vec<u8>>)]) {
        for target in self.targets.values_mut() {
            target.folders.remove(&no);
        }
        for (peer, addresses) in peers {
            let target = self.targets.entry(*peer).or_default();
            if target.addresses != *addresses {
                target.addresses.clone_from(addresses);
                target.next_at = None;
                target.attempt = 0;
            }
            target.folders.insert(no);
        }
        self.targets.retain(|_, target| !target.folders.is_empty() || target.until.is_some());
    }

    /// Dials `peer` now, and keeps trying until `until`.
    pub fn once(&mut self, peer: PeerId, addresses: Vec<Vec<u8>>, until: Instant) {
        let target = self.targets.entry(peer).or_default();
        if !addresses.is_empty() {
            target.addresses = addresses;
        }
        target.until = Some(until);
        target.next_at = None;
    }

    /// A connection is up.
    pub fn up(&mut self, peer: PeerId) {
        if let Some(target) = self.targets.get_mut(&peer) {
            target.connections += 1;
            target.dialing_since = None;
            target.attempt = 0;
            target.error = None;
        }
    }

    /// A connection ended.
    pub fn down(&mut self, peer: PeerId, now: Instant) {
        let salt = self.salt;
        if let Some(target) = self.targets.get_mut(&peer) {
            target.connections = target.connections.saturating_sub(1);
            target.retry(peer, salt, now);
        }
    }

    /// An attempt failed.
    pub fn failed(&mut self, peer: PeerId, error: String, now: Instant) {
        let salt = self.salt;
        if let Some(target) = self.targets.get_mut(&peer) {
            target.error = Some(error);
            target.retry(peer, salt, now);
        }
    }

    /// Whom to dial now.
    pub fn due(&mut self, now: Instant) -> Vec<(PeerId, Vec<Vec<u8>>)> {
        self.targets.retain(|_, target| {
            let over = target.until.is_some_and(|until| now > until);
            if over {
                target.until = None;
            }
            !target.folders.is_empty() || target.until.is_some()
        });
        let salt = self.salt;
        let mut due = Vec::new();
        for (peer, target) in &mut self.targets {
            if target.dialing_since.is_some_and(|since| now > since + ATTEMPT_MAX) {
                target.error = Some("nothing answers at its addresses".to_owned());
                target.retry(*peer, salt, now);
            }
            let ready = target.next_at.is_none_or(|at| now >= at);
            if target.connections == 0
                && target.dialing_since.is_none()
                && ready
                && !target.addresses.is_empty()
            {
                target.dialing_since = Some(now);
                due.push((*peer, target.addresses.clone()));
            }
        }
        due
    }

    /// Why the peer is not connected.
    #[must_use]
    pub fn error(&self, peer: &PeerId) -> Option<&str> {
        self.targets.get(peer)?.error.as_deref()
    }

    /// Whether an attempt to reach the peer has no outcome yet: the first one since it was known, or since it
    /// was connected last.
    #[must_use]
    pub fn is_reaching(&self, peer: &PeerId) -> bool {
        self.targets.get(peer).is_some_and(|target| {
            target.connections == 0 && target.error.is_none() && !target.addresses.is_empty()
        })
    }

    /// Whether the peer is one of those to dial.
    #[must_use]
    pub fn wants(&self, peer: &PeerId) -> bool {
        self.targets.contains_key(peer)
    }
}

impl Target {
    /// Doubles the pause and adds up to a quarter of it, drawn from the peer and the attempt.
    fn retry(&mut self, peer: PeerId, salt: [u8; 32], now: Instant) {
        self.dialing_since = None;
        let pause = PAUSE_MIN.saturating_mul(1 << self.attempt.min(16)).min(PAUSE_MAX);
        let draw = hash(&[&salt[..], peer.key(), &self.attempt.to_le_bytes()].concat())[0];
        self.next_at = Some(now + pause + pause / 4 * u32::from(draw) / 256);
        self.attempt = self.attempt.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_that_never_answers_is_dialed_ever_more_rarely_and_never_given_up() {
        let mut dialer = Dialer::new([1; 32]);
        let peer = PeerId::of_key([1; 32]);
        let start = Instant::now();
        dialer.set(FolderNo(1), &[(peer, vec![vec![1]])]);
        let mut attempts = Vec::new();
        for step in 0..6000u64 {
            let now = start + Duration::from_millis(step * 50);
            if !dialer.due(now).is_empty() {
                attempts.push(step * 50);
                dialer.failed(peer, "off".into(), now);
            }
        }
        assert!(attempts.len() > 10 && attempts.len() < 25, "{attempts:?}");
        let last_gap = attempts[attempts.len() - 1] - attempts[attempts.len() - 2];
        assert!((30_000..=38_000).contains(&last_gap), "{last_gap}");
        assert_eq!(dialer.error(&peer), Some("off"));
    }

    #[test]
    fn peer_that_is_connected_is_not_dialed() {
        let mut dialer = Dialer::new([1; 32]);
        let (peer, now) = (PeerId::of_key([1; 32]), Instant::now());
        dialer.set(FolderNo(1), &[(peer, vec![vec![1]])]);
        assert_eq!(dialer.due(now).len(), 1);
        assert_eq!(dialer.due(now).len(), 0);
        assert!(dialer.is_reaching(&peer));
        dialer.up(peer);
        assert!(!dialer.is_reaching(&peer));
        assert_eq!(dialer.due(now + PAUSE_MAX * 3).len(), 0);
        dialer.down(peer, now + PAUSE_MAX * 3);
        assert!(dialer.is_reaching(&peer), "it may come back at once");
        assert_eq!(dialer.due(now + PAUSE_MAX * 4).len(), 1);
        dialer.failed(peer, "off".into(), now + PAUSE_MAX * 4);
        assert!(!dialer.is_reaching(&peer));
    }
}
