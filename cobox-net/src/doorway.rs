//! Who may come in at once, and which one of those who are at the door gives way to a newcomer.
//!
//! Where the oldest always gave way, a crowd of honest peers that comes back at one moment would end what is nearly done,
//! again and again; and where nobody did, whoever stands in the door would keep all others out. So one that stands still
//! gives way, and one of a place that has more than the newcomer's; where there is neither, the newcomer is refused and
//! comes again. Used for handshakes (`handshakes.rs`) and for connections that have said nothing yet (`swarm.rs`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::sync::Place;

/// How wide a door is.
#[derive(Clone, Copy, Debug)]
pub struct Width {
    /// So many at once.
    pub most: usize,
    /// Of them from one place.
    pub per_place: usize,
    /// Whoever takes longer stands still, where others wait.
    pub patience: Duration,
}

/// Those at the door, by their numbers: who came first has the lowest.
pub struct Doorway<T> {
    width: Width,
    all: BTreeMap<u64, (Place, Instant, T)>,
    of_place: BTreeMap<Place, BTreeSet<u64>>,
    next: u64,
}

impl<T> Doorway<T> {
    /// An empty one.
    pub fn new(width: Width) -> Self {
        Self { width, all: BTreeMap::new(), of_place: BTreeMap::new(), next: 0 }
    }

    /// How many there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Takes another one in: its number, and who gave way. Where it is refused it is given back.
    pub fn begin(&mut self, place: Place, one: T, now: Instant) -> Result<(u64, Option<T>), T> {
        let own = self.of_place.get(&place);
        let count = own.map_or(0, BTreeSet::len);
        let full = count >= self.width.per_place || self.all.len() >= self.width.most;
        let spare = if count >= self.width.per_place {
            own.and_then(BTreeSet::first).copied().filter(|oldest| self.stands_still(*oldest, now))
        } else if full {
            self.spare(count, now)
        } else {
            None
        };
        if full && spare.is_none() {
            return Err(one);
        }
        let gone = spare.and_then(|spare| self.end(spare));
        let number = self.next;
        self.next += 1;
        self.all.insert(number, (place, now, one));
        self.of_place.entry(place).or_default().insert(number);
        Ok((number, gone))
    }

    fn stands_still(&self, number: u64, now: Instant) -> bool {
        self.all.get(&number).is_some_and(|(_, since, _)| now.duration_since(*since) > self.width.patience)
    }

    /// Which one gives way to one of a place that has `own`.
    fn spare(&self, own: usize, now: Instant) -> Option<u64> {
        let most = |of: &&BTreeSet<u64>| (of.len(), Reverse(of.first().copied()));
        let still = |of: &&BTreeSet<u64>| of.first().is_some_and(|oldest| self.stands_still(*oldest, now));
        if let Some(of) = self.of_place.values().filter(still).max_by_key(most) {
            return of.first().copied();
        }
        // Its newest, so that the others of that place are done all the same.
        let of = self.of_place.values().max_by_key(most)?;
        if of.len() > own + 1 { of.last().copied() } else { None }
    }

    /// One is in, or has gone.
    pub fn end(&mut self, number: u64) -> Option<T> {
        let (place, _, one) = self.all.remove(&number)?;
        if let Some(of) = self.of_place.get_mut(&place) {
            of.remove(&number);
            if of.is_empty() {
                self.of_place.remove(&place);
            }
        }
        Some(one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::SILENT;

    const WIDTH: Width = SILENT;
    const ROUND: Duration = Duration::from_millis(100);

    fn place(host: usize) -> Place {
        let [high, low] = u16::try_from(host).expect("few").to_be_bytes();
        Place::V4([192, 0, high, low])
    }

    /// Who wants to come in, and what has become of them.
    struct Crowd {
        door: Doorway<usize>,
        now: Instant,
        /// Those at the door: their numbers there, and in which round they came.
        here: BTreeMap<usize, (u64, usize)>,
        round: usize,
    }

    impl Crowd {
        fn new() -> Self {
            Self { door: Doorway::new(WIDTH), now: Instant::now(), here: BTreeMap::new(), round: 0 }
        }

        /// Somebody comes.
        fn come(&mut self, who: usize, from: Place) -> bool {
            let Ok((number, gone)) = self.door.begin(from, who, self.now) else { return false };
            assert!(self.door.len() <= WIDTH.most);
            gone.and_then(|gone| self.here.remove(&gone));
            self.here.insert(who, (number, self.round));
            true
        }

        /// Time passes: who has come says its word after so many rounds. Those who have.
        fn pass(&mut self, takes: usize) -> Vec<usize> {
            self.round += 1;
            self.now += ROUND;
            let round = self.round;
            let speaks = |(who, (number, since)): (&usize, &(u64, usize))| {
                (*since + takes <= round).then_some((*who, *number))
            };
            let spoken: Vec<(usize, u64)> = self.here.iter().filter_map(speaks).collect();
            for (who, number) in &spoken {
                self.here.remove(who);
                self.door.end(*number);
            }
            spoken.into_iter().map(|(who, _)| who).collect()
        }
    }

    /// How many rounds it takes until so many peers have all spoken, which takes three of them after each has come, and who
    /// was sent away comes again in the next.
    fn rounds(peers: usize, from: &dyn Fn(usize) -> Place) -> usize {
        let mut crowd = Crowd::new();
        let mut waiting: BTreeSet<usize> = (0..peers).collect();
        while !waiting.is_empty() {
            for peer in &waiting {
                if !crowd.here.contains_key(peer) {
                    crowd.come(*peer, from(*peer));
                }
            }
            for peer in crowd.pass(3) {
                waiting.remove(&peer);
            }
            assert!(crowd.round < 1000, "{} are still waiting", waiting.len());
        }
        crowd.round
    }

    #[test]
    fn crowd_of_honest_devices_that_comes_back_at_once_has_all_spoken_as_fast_as_there_is_room() {
        let apart = rounds(300, &place);
        assert!(apart <= 3 * 300usize.div_ceil(WIDTH.most), "{apart} rounds");
        let office = rounds(300, &|_| place(1));
        assert!(office <= 3 * 300usize.div_ceil(WIDTH.per_place), "{office} rounds for one office");
        let mixed = rounds(300, &|peer| place(if peer < 150 { peer / 50 } else { peer }));
        assert!(mixed <= 3 * 10, "{mixed} rounds");
    }

    #[test]
    fn strangers_that_say_nothing_from_a_few_places_keep_no_honest_device_out() {
        let mut crowd = Crowd::new();
        let (mut spoken, mut stranger) = (0, 1000);
        for round in 0..100 {
            for _ in 0..200 {
                crowd.come(stranger, place(stranger % 16));
                stranger += 1;
            }
            assert!(crowd.come(round, place(100 + round)), "round {round}");
            // Strangers do not speak: they are given up here before they could.
            let all = crowd.here.clone();
            crowd.here.retain(|who, _| *who < 1000);
            spoken += crowd.pass(3).len();
            crowd.here.extend(all.into_iter().filter(|(who, _)| *who >= 1000));
        }
        assert!(spoken >= 95, "{spoken} of 100");
    }

    #[test]
    fn strangers_that_say_nothing_from_many_places_leave_room_for_some_in_each_second() {
        let mut crowd = Crowd::new();
        let (mut came, mut stranger) = (0, 1000);
        for round in 0..300 {
            for at in 0..20 {
                crowd.come(stranger, place(1000 + stranger % 500));
                stranger += 1;
                // Honest ones try as often as strangers do.
                came += usize::from(crowd.come(20 * round + at + 1_000_000, place(2000 + at)));
            }
            crowd.pass(1000);
        }
        let seconds = 300 * ROUND.as_millis() as usize / 1000;
        assert!(came >= 10 * seconds, "{came} in {seconds} s");
    }

    #[test]
    fn those_who_have_ended_are_not_kept() {
        let mut door = Doorway::new(WIDTH);
        let now = Instant::now();
        for host in 0..1000 {
            let (number, gone) = door.begin(place(host), host, now).expect("there is room");
            assert_eq!((gone, door.end(number)), (None, Some(host)));
        }
        assert!(door.all.is_empty() && door.of_place.is_empty());
    }

    #[test]
    fn newcomer_is_refused_where_all_may_be_honest_and_comes_in_where_one_stands_still() {
        let mut door = Doorway::new(WIDTH);
        let now = Instant::now();
        for host in 0..WIDTH.most {
            door.begin(place(host), host, now).expect("there is room");
        }
        assert_eq!(door.begin(place(100), 100, now), Err(100));
        let late = now + WIDTH.patience + Duration::from_millis(1);
        let gone = door.begin(place(100), 100, late).map(|(_, gone)| gone);
        assert_eq!((gone, door.len()), (Ok(Some(0)), WIDTH.most), "the oldest");
    }
}
