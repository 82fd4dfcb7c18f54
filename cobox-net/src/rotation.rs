//! One after the other: whose turn is next among those who wait.

use std::collections::BTreeMap;
use std::ops::Bound;

/// The one behind `last`, or the first again behind the greatest; it is `last` from now on. `None` where nobody waits.
pub fn next_behind<K: Ord + Copy, V>(waiting: &BTreeMap<K, V>, last: &mut Option<K>) -> Option<K> {
    let behind = last.map_or(Bound::Unbounded, Bound::Excluded);
    let next = waiting.range((behind, Bound::Unbounded)).next().or_else(|| waiting.first_key_value());
    let next = *next?.0;
    *last = Some(next);
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_turn_and_who_comes_or_goes_moves_nobody_back() {
        let mut waiting: BTreeMap<u8, ()> = [(2, ()), (5, ()), (9, ())].into();
        let mut last = None;
        let mut next = |waiting: &BTreeMap<u8, ()>| next_behind(waiting, &mut last);
        assert_eq!([next(&waiting), next(&waiting)], [Some(2), Some(5)]);
        waiting.remove(&5);
        waiting.insert(7, ());
        assert_eq!([next(&waiting), next(&waiting), next(&waiting)], [Some(7), Some(9), Some(2)]);
        waiting.clear();
        assert_eq!(next(&waiting), None);
    }
}
