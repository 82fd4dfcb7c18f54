//! Connections on which no folder was opened: how many there may be, and for how long.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::state::Connection;
use super::{Conn, Engine, Output, Place, Side, asks};
use crate::tally::Refusal;

/// A connection on which no folder was opened is closed after this long.
pub(super) const STRANGER_WAIT: Duration = Duration::from_secs(30);
/// Connections on which nothing was opened: twice as many as grants that may wait, since members are strangers
/// for a moment too. The one that was idle longest gives way, so that a crowd takes neither memory nor places.
const STRANGERS_MAX: usize = 128;
impl Engine {
    /// Closes one stranger's connection where there are too many: of the place with the most the one that was idle for
    /// longest, and among places with as many rather one of which nothing is looked for.
    pub(super) fn drop_stranger(&mut self) {
        let asking: BTreeSet<Conn> = self.asks.iter().filter_map(asks::Pending::conn).collect();
        let strangers = || {
            self.conns.iter().filter(|(conn, connection)| {
                let ours = connection.side == Side::Dialer || asking.contains(conn);
                connection.sessions.is_empty() && !ours && !self.dialer.wants(&connection.peer)
            })
        };
        let mut of_place: BTreeMap<Place, usize> = BTreeMap::new();
        strangers().for_each(|(_, connection)| *of_place.entry(connection.place).or_default() += 1);
        let idlest = |(conn, connection): &(&Conn, &Connection)| {
            let count = of_place.get(&connection.place).copied();
            (Reverse(count), self.knocks.waits(**conn), connection.used_at, **conn)
        };
        if of_place.values().sum::<usize>() > STRANGERS_MAX
            && let Some((conn, _)) = strangers().min_by_key(idlest)
        {
            let conn = *conn;
            self.tally.refuse(Refusal::Connection);
            self.out.push(Output::Close { conn });
        }
    }

    /// Closes those on which nothing happened for a while.
    pub(super) fn close_idle_strangers(&mut self, now: Instant) {
        let asking: BTreeSet<Conn> = self.asks.iter().filter_map(asks::Pending::conn).collect();
        let strangers: Vec<Conn> = self
            .conns
            .iter()
            .filter(|(conn, connection)| {
                let idle = connection.sessions.is_empty() && now > connection.used_at + STRANGER_WAIT;
                // Who waits for a decision looks again more rarely than that.
                let waits = !connection.undecided.is_empty();
                idle && !waits && !asking.contains(conn) && !self.dialer.wants(&connection.peer)
            })
            .map(|(conn, _)| *conn)
            .collect();
        self.out.extend(strangers.into_iter().map(|conn| Output::Close { conn }));
    }
}
