//! What a node refused since it began, counted by kind: for `/metrics`, and for whoever looks for an attack.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why something was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Refusal {
    /// A connection beyond what the node serves at once.
    Connection = 0,
    /// A frame that no honest peer sends; its connection was closed.
    Frame = 1,
    /// A session: the peer does not know the folder's secret, or is not listed.
    Session = 2,
    /// An entry: not genuine, or its author may not write.
    Entry = 3,
    /// An entry or a pack beyond the quota or the end of the grant, or beyond the disk.
    Quota = 4,
    /// A grant that is not taken.
    Grant = 5,
    /// A pack whose bytes were not the pack's.
    Pack = 6,
}

const NAMES: [&str; 7] = ["connection", "frame", "session", "entry", "quota", "grant", "pack"];

/// Counters of a node.
#[derive(Default, Debug)]
pub struct Tally([AtomicU64; NAMES.len()]);

impl Tally {
    /// Counts one.
    pub fn refuse(&self, why: Refusal) {
        if let Some(count) = self.0.get(why as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All counters, by name.
    #[must_use]
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        NAMES.into_iter().zip(&self.0).map(|(name, count)| (name, count.load(Ordering::Relaxed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_is_counted_under_its_own_name() {
        let tally = Tally::default();
        tally.refuse(Refusal::Connection);
        tally.refuse(Refusal::Pack);
        tally.refuse(Refusal::Pack);
        let counts = tally.counts();
        assert_eq!((counts[0], counts[6]), (("connection", 1), ("pack", 2)));
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 3);
    }
}
