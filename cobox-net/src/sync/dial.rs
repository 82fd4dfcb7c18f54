//! When to dial whom. Seeders are dialed until they answer, with growing pauses; of a folder's devices so
//! many that news goes round, and each of them sooner or later.
//!
//! A link to every device would make each change cost messages with the square of their number. A few links
//! each, drawn anew now and then, keep the devices connected and the cost of a change linear.

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
/// Devices of a folder that one is linked with before it dials no more: in a random graph of this degree
/// everybody is reached over a few hops, and some links may break (HyParView keeps five).
pub const LINKS: usize = 4;
/// An attempt that is older does not keep another device from being dialed.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often one link more is made, and one too many given up.
pub const SHUFFLE_EVERY: Duration = Duration::from_secs(60);
/// How long a link that was given up is not made again.
const REST: Duration = Duration::from_secs(120);
/// Addresses of one peer that are tried: what was seen, what the program named and what devices said, 16 of each.
const ADDRESSES_MAX: usize = 48;
/// News of where a peer is ends the pause before the next attempt, but not more often: anybody on the local network
/// can say something new all the time.
const HURRY_EVERY: Duration = Duration::from_secs(2);

/// Attempts in succession after which a peer that hangs up before a word was said is not about to answer any more: some
/// six seconds, in which a crowd of hundreds has come in (`doorway.rs`).
const HANG_UPS_MAX: u32 = 5;

/// What a peer is dialed for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// A link always.
    Always,
    /// One of the folder's devices, of which some suffice.
    Some,
}

#[derive(Debug)]
struct Wish {
    addresses: Vec<Vec<u8>>,
    want: Want,
}

/// One peer to dial.
#[derive(Debug, Default)]
struct Target {
    folders: BTreeMap<FolderNo, Wish>,
    /// Where it was seen on the local network.
    seen: Vec<Vec<u8>>,
    once: Option<(Instant, Vec<Vec<u8>>)>,
    attempt: u32,
    /// Whether there is news of where it is, and when such news counted last.
    hurry: bool,
    hurried_at: Option<Instant>,
    next_at: Option<Instant>,
    dialing_since: Option<Instant>,
    error: Option<String>,
    /// How often in succession it ended an attempt before a word was said: it is there.
    hang_ups: u32,
    /// When that ended the long pauses of one that was not there, last.
    back_at: Option<Instant>,
}

/// All peers to dial.
#[derive(Debug, Default)]
pub struct Dialer {
    targets: BTreeMap<PeerId, Target>,
    connections: BTreeMap<PeerId, u32>,
    /// Folders that may make one link more.
    extra: BTreeSet<FolderNo>,
    draw: u32,
    salt: [u8; 32],
}

impl Dialer {
    /// `salt` makes nodes that lost one seeder come back at different moments.
    #[must_use]
    pub fn new(salt: [u8; 32]) -> Self {
        Self { salt, ..Self::default() }
    }

    /// Replaces the peers of a folder.
    pub fn set(&mut self, no: FolderNo, peers: &[(PeerId, Vec<Vec<u8>>, Want)]) {
        let kept: BTreeSet<PeerId> = peers.iter().map(|(peer, _, _)| *peer).collect();
        for (_, target) in self.targets.iter_mut().filter(|(peer, _)| !kept.contains(*peer)) {
            target.folders.remove(&no);
        }
        for (peer, addresses, want) in peers {
            // One that was not known has no pause to end.
            let known = self.targets.contains_key(peer);
            let target = self.targets.entry(*peer).or_default();
            let fresh = target.folders.get(&no).is_none_or(|wish| wish.addresses != *addresses);
            target.folders.insert(no, Wish { addresses: addresses.clone(), want: *want });
            target.hurry |= known && fresh;
        }
        self.targets.retain(|_, target| !target.folders.is_empty() || target.once.is_some());
    }

    /// Dials `peer` now, and keeps trying until `until`.
    pub fn once(&mut self, peer: PeerId, addresses: Vec<Vec<u8>>, until: Instant) {
        let target = self.targets.entry(peer).or_default();
        let known = target.once.take().map(|(_, known)| known).unwrap_or_default();
        target.once = Some((until, if addresses.is_empty() { known } else { addresses }));
        target.next_at = None;
    }

    /// A peer was seen on the local network; whether it is one of those to dial.
    pub fn seen(&mut self, peer: PeerId, addresses: &[Vec<u8>]) -> bool {
        let Some(target) = self.targets.get_mut(&peer) else { return false };
        if target.seen != addresses {
            target.seen = addresses.to_vec();
            target.hurry = true;
        }
        !target.folders.is_empty()
    }

    /// A connection is up.
    pub fn up(&mut self, peer: PeerId) {
        *self.connections.entry(peer).or_default() += 1;
        if let Some(target) = self.targets.get_mut(&peer) {
            target.dialing_since = None;
            target.at_once();
            (target.error, target.hang_ups) = (None, 0);
        }
    }

    /// A connection ended.
    pub fn down(&mut self, peer: PeerId, now: Instant) {
        let left = self.connections.get(&peer).map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            self.connections.remove(&peer);
        } else {
            self.connections.insert(peer, left);
        }
        let salt = self.salt;
        if let Some(target) = self.targets.get_mut(&peer) {
            target.retry(peer, salt, now);
        }
    }

    /// An attempt failed.
    pub fn failed(&mut self, peer: PeerId, error: String, now: Instant) {
        let salt = self.salt;
        if let Some(target) = self.targets.get_mut(&peer) {
            (target.error, target.hang_ups) = (Some(error), 0);
            target.retry(peer, salt, now);
        }
    }

    /// A peer was reached, and hung up before a word was said: it may have a crowd at its door.
    pub fn hung_up(&mut self, peer: PeerId, error: String, now: Instant) {
        let salt = self.salt;
        if let Some(target) = self.targets.get_mut(&peer) {
            // One that was not there is back: it is called as soon as if it had been.
            if target.hang_ups == 0 && target.back_at.is_none_or(|at| now >= at + HURRY_EVERY) {
                (target.attempt, target.back_at) = (0, Some(now));
            }
            target.hang_ups = target.hang_ups.saturating_add(1);
            target.error = Some(error);
            target.retry(peer, salt, now);
        }
    }

    /// A link is given up: it is not made again for a while.
    pub fn rest(&mut self, peer: PeerId, now: Instant) {
        if let Some(target) = self.targets.get_mut(&peer) {
            target.next_at = Some(now + REST);
        }
    }

    /// Lets a folder make one link more than it has.
    pub fn one_more(&mut self, no: FolderNo) {
        self.extra.insert(no);
        self.draw = self.draw.wrapping_add(1);
    }

    /// Whom to dial now.
    pub fn due(&mut self, now: Instant) -> Vec<(PeerId, Vec<Vec<u8>>)> {
        for target in self.targets.values_mut() {
            target.once.take_if(|(until, _)| now > *until);
        }
        self.targets.retain(|_, target| !target.folders.is_empty() || target.once.is_some());
        let salt = self.salt;
        for (peer, target) in &mut self.targets {
            if target.dialing_since.is_some_and(|since| now > since + ATTEMPT_MAX) {
                (target.error, target.hang_ups) = (Some("nothing answers at its addresses".to_owned()), 0);
                target.retry(*peer, salt, now);
            }
        }
        for target in self.targets.values_mut() {
            if target.hurry && target.hurried_at.is_none_or(|at| now >= at + HURRY_EVERY) {
                (target.hurry, target.hurried_at) = (false, Some(now));
                target.at_once();
            }
        }
        let mut links = self.links(now);
        let mut ready: Vec<(u32, [u8; 32], PeerId)> = self
            .targets
            .iter()
            .filter(|(peer, target)| {
                let waits = target.next_at.is_some_and(|at| now < at) || target.dialing_since.is_some();
                !waits && !self.connections.contains_key(*peer)
            })
            .map(|(peer, target)| (target.attempt, self.drawn(peer), *peer))
            .collect();
        // Those first that failed least; among them at random, so that not everybody chooses the same.
        ready.sort_unstable();
        let mut due = Vec::new();
        for (_, _, peer) in ready {
            let Some(target) = self.targets.get_mut(&peer) else { continue };
            let short = |no: &FolderNo| {
                links.get(no).copied().unwrap_or(0) < LINKS + usize::from(self.extra.contains(no))
            };
            let wanted = target.once.is_some()
                || target.folders.iter().any(|(no, wish)| wish.want == Want::Always || short(no));
            let addresses = target.addresses();
            if wanted && !addresses.is_empty() {
                target.dialing_since = Some(now);
                for (no, _) in target.folders.iter().filter(|(_, wish)| wish.want == Want::Some) {
                    *links.entry(*no).or_default() += 1;
                }
                due.push((peer, addresses));
            }
        }
        due
    }

    /// Devices of each folder that are linked, or about to be.
    fn links(&mut self, now: Instant) -> BTreeMap<FolderNo, usize> {
        let mut links: BTreeMap<FolderNo, usize> = BTreeMap::new();
        for (peer, target) in &self.targets {
            let coming = target.dialing_since.is_some_and(|since| now < since + PATIENCE);
            if coming || self.connections.contains_key(peer) {
                for (no, _) in target.folders.iter().filter(|(_, wish)| wish.want == Want::Some) {
                    *links.entry(*no).or_default() += 1;
                }
            }
        }
        self.extra.retain(|no| links.get(no).copied().unwrap_or(0) <= LINKS);
        links
    }

    fn drawn(&self, peer: &PeerId) -> [u8; 32] {
        hash(&[&self.salt[..], peer.key(), &self.draw.to_le_bytes()].concat())
    }

    /// Devices of a folder that are connected.
    #[must_use]
    pub fn linked(&self, no: FolderNo) -> usize {
        let wanted = |target: &Target| target.folders.get(&no).is_some_and(|wish| wish.want == Want::Some);
        self.targets
            .iter()
            .filter(|(peer, target)| wanted(target) && self.connections.contains_key(*peer))
            .count()
    }

    /// Whether the peer is wanted for nothing but devices' links.
    #[must_use]
    pub fn is_spare(&self, peer: &PeerId) -> bool {
        self.targets.get(peer).is_some_and(|target| {
            target.once.is_none() && target.folders.values().all(|wish| wish.want == Want::Some)
        })
    }

    /// Why the last attempt failed.
    #[must_use]
    pub fn error(&self, peer: &PeerId) -> Option<&str> {
        self.targets.get(peer)?.error.as_deref()
    }

    /// Whether an attempt to reach the peer has no outcome yet: the first one since it was known, or since it
    /// was connected last, and a few more of one that hung up.
    #[must_use]
    pub fn is_reaching(&self, peer: &PeerId) -> bool {
        !self.connections.contains_key(peer)
            && self.targets.get(peer).is_some_and(|target| {
                // A device that is not dialed, because others are, is not about to answer.
                let tries = target.dialing_since.is_some()
                    || target.folders.values().any(|wish| wish.want == Want::Always)
                    || target.once.is_some();
                let again = (1..=HANG_UPS_MAX).contains(&target.hang_ups);
                tries && (target.error.is_none() || again) && !target.addresses().is_empty()
            })
    }

    /// Whether there is a connection with the peer.
    #[must_use]
    pub fn is_connected(&self, peer: &PeerId) -> bool {
        self.connections.contains_key(peer)
    }

    /// Whether the peer is one of those to dial.
    #[must_use]
    pub fn wants(&self, peer: &PeerId) -> bool {
        self.targets.contains_key(peer)
    }
}

impl Target {
    /// Forgets earlier failures.
    fn at_once(&mut self) {
        self.next_at = None;
        self.attempt = 0;
    }

    /// All its addresses, those seen last first.
    fn addresses(&self) -> Vec<Vec<u8>> {
        let mut all: Vec<Vec<u8>> = Vec::new();
        let once = self.once.iter().flat_map(|(_, addresses)| addresses);
        let wished = self.folders.values().flat_map(|wish| &wish.addresses);
        for address in self.seen.iter().chain(once).chain(wished) {
            if all.len() < ADDRESSES_MAX && !all.contains(address) {
                all.push(address.clone());
            }
        }
        all
    }

    /// Doubles the pause and adds up to a quarter of it, drawn from the peer and the attempt.
    fn retry(&mut self, peer: PeerId, salt: [u8; 32], now: Instant) {
        self.dialing_since = None;
        let pause = PAUSE_MIN.saturating_mul(1 << self.attempt.min(16)).min(PAUSE_MAX);
        let draw = hash(&[&salt[..], peer.key(), &self.attempt.to_le_bytes()].concat())[0];
        let next_at = now + pause + pause / 4 * u32::from(draw) / 256;
        // A link that was given up rests longer than that.
        self.next_at = Some(self.next_at.map_or(next_at, |at| at.max(next_at)));
        self.attempt = self.attempt.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(peer: PeerId) -> [(PeerId, Vec<Vec<u8>>, Want); 1] {
        [(peer, vec![vec![1]], Want::Always)]
    }

    #[test]
    fn peer_that_never_answers_is_dialed_ever_more_rarely_and_never_given_up() {
        let mut dialer = Dialer::new([1; 32]);
        let peer = PeerId::of_key([1; 32]);
        let start = Instant::now();
        dialer.set(FolderNo(1), &one(peer));
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
        dialer.set(FolderNo(1), &one(peer));
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

    #[test]
    fn peer_that_hangs_up_is_about_to_answer_for_some_attempts_and_one_that_is_not_there_is_not() {
        let mut dialer = Dialer::new([1; 32]);
        let (peer, mut now) = (PeerId::of_key([1; 32]), Instant::now());
        dialer.set(FolderNo(1), &one(peer));
        let (start, mut attempts) = (now, 0);
        while dialer.is_reaching(&peer) {
            if !dialer.due(now).is_empty() {
                attempts += 1;
                dialer.hung_up(peer, "it hung up".into(), now);
            }
            now += Duration::from_millis(50);
        }
        assert_eq!((attempts, dialer.error(&peer)), (HANG_UPS_MAX + 1, Some("it hung up")));
        assert!(now - start < Duration::from_secs(10), "{:?}", now - start);
        dialer.up(peer);
        dialer.down(peer, now);
        now += PAUSE_MAX;
        assert_eq!(dialer.due(now).len(), 1);
        dialer.hung_up(peer, "it hung up".into(), now);
        assert!(dialer.is_reaching(&peer), "it was there since");
        now += PAUSE_MAX;
        assert_eq!(dialer.due(now).len(), 1);
        dialer.failed(peer, "off".into(), now);
        assert!(!dialer.is_reaching(&peer));
    }

    #[test]
    fn peer_that_dialed_us_before_it_was_known_is_not_dialed() {
        let mut dialer = Dialer::new([1; 32]);
        let (peer, now) = (PeerId::of_key([1; 32]), Instant::now());
        dialer.up(peer);
        dialer.set(FolderNo(1), &one(peer));
        assert!(dialer.due(now).is_empty());
        dialer.down(peer, now);
        assert_eq!(dialer.due(now + PAUSE_MAX).len(), 1);
    }

    #[test]
    fn of_many_devices_some_are_linked_and_one_more_now_and_then() {
        let mut dialer = Dialer::new([1; 32]);
        let now = Instant::now();
        let devices: Vec<_> =
            (1..=20).map(|at| (PeerId::of_key([at; 32]), vec![vec![at]], Want::Some)).collect();
        dialer.set(FolderNo(1), &devices);
        let first: Vec<PeerId> = dialer.due(now).into_iter().map(|(peer, _)| peer).collect();
        assert_eq!(first.len(), LINKS);
        for peer in &first[1..] {
            dialer.up(*peer);
        }
        // One of them is off: the next one takes its place.
        dialer.failed(first[0], "off".into(), now);
        let next: Vec<PeerId> = dialer.due(now).into_iter().map(|(peer, _)| peer).collect();
        assert!(next.len() == 1 && !first.contains(&next[0]), "{next:?}");
        dialer.up(next[0]);
        assert!(dialer.due(now).is_empty());
        assert_eq!(dialer.linked(FolderNo(1)), LINKS);
        dialer.one_more(FolderNo(1));
        assert_eq!(dialer.due(now).len(), 1);
        assert!(dialer.due(now).is_empty());
    }

    #[test]
    fn peer_that_was_off_for_long_and_then_hangs_up_is_about_to_answer_and_is_dialed_soon() {
        let mut dialer = Dialer::new([1; 32]);
        let (peer, mut now) = (PeerId::of_key([1; 32]), Instant::now());
        dialer.set(FolderNo(1), &one(peer));
        for _ in 0..10 {
            now += PAUSE_MAX * 2;
            assert_eq!(dialer.due(now).len(), 1);
            dialer.failed(peer, "off".into(), now);
        }
        assert!(!dialer.is_reaching(&peer));
        // Its machine has started again, and everybody is at its door.
        now += PAUSE_MAX * 2;
        assert_eq!(dialer.due(now).len(), 1);
        dialer.hung_up(peer, "it hung up".into(), now);
        assert!(dialer.is_reaching(&peer));
        assert_eq!(dialer.due(now + PAUSE_MIN * 2).len(), 1);
    }

    #[test]
    fn peer_that_hangs_up_and_says_ever_new_addresses_is_not_about_to_answer_for_ever() {
        let mut dialer = Dialer::new([1; 32]);
        let (peer, mut now) = (PeerId::of_key([1; 32]), Instant::now());
        dialer.set(FolderNo(1), &one(peer));
        for round in 0..100u8 {
            dialer.seen(peer, &[vec![9, round]]);
            now += HURRY_EVERY;
            assert_eq!(dialer.due(now).len(), 1);
            dialer.hung_up(peer, "it hung up".into(), now);
        }
        assert!(!dialer.is_reaching(&peer));
    }

    #[test]
    fn peer_that_is_off_and_hangs_up_in_turn_is_dialed_no_more_often_than_one_with_news() {
        let mut dialer = Dialer::new([1; 32]);
        let (peer, start) = (PeerId::of_key([1; 32]), Instant::now());
        dialer.set(FolderNo(1), &one(peer));
        let mut attempts = 0;
        for step in 0..6000u32 {
            let now = start + Duration::from_millis(50) * step;
            if !dialer.due(now).is_empty() {
                attempts += 1;
                match attempts % 2 {
                    0 => dialer.failed(peer, "off".into(), now),
                    _ => dialer.hung_up(peer, "it hung up".into(), now),
                }
            }
        }
        // Some few in each two seconds.
        assert!(attempts < 150 * 4, "{attempts} in five minutes");
    }

    #[test]
    fn fresh_address_is_tried_at_once() {
        let mut dialer = Dialer::new([1; 32]);
        let (peer, now) = (PeerId::of_key([1; 32]), Instant::now());
        dialer.set(FolderNo(1), &one(peer));
        for _ in 0..10 {
            dialer.due(now);
            dialer.failed(peer, "off".into(), now);
        }
        assert!(dialer.due(now + PAUSE_MIN).is_empty());
        assert!(dialer.seen(peer, &[vec![9]]));
        assert_eq!(dialer.due(now + PAUSE_MIN), [(peer, vec![vec![9], vec![1]])]);
    }
}
