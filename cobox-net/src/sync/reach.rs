//! Which addresses of others are dialed at all. What a device says of where it is, and what a stranger says on the
//! local network, may be anything: nobody makes a device knock at its own doors, or at a whole network's.

use std::net::{IpAddr, SocketAddr};

use crate::wire::place;

/// Addresses of one peer that are dialed by one source's word: two transports on some cards.
pub(super) const SAID_MAX: usize = 16;

/// From where an address came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// A device said so, over whomever.
    Far,
    /// It was heard on the local network.
    Lan,
}

/// Those of `said` that may be dialed, each once and at most [`SAID_MAX`]. `own` is where we listen: a device that listens on
/// its own machine alone has its peers there, and no other has.
pub(super) fn dialable(said: &[Vec<u8>], source: Source, own: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for address in said {
        let fits = place(address).is_some_and(|place| may_be_dialed(place, source, own));
        if fits && kept.len() < SAID_MAX && !kept.contains(address) {
            kept.push(address.clone());
        }
    }
    kept
}

fn may_be_dialed(place: SocketAddr, source: Source, own: &[Vec<u8>]) -> bool {
    // An IPv4 address in an IPv6 one's clothes is what it is.
    let ip = place.ip().to_canonical();
    let linked = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    let nobody = place.port() == 0 || ip.is_unspecified() || ip.is_multicast() || broadcast;
    let here = |address: &Vec<u8>| crate::wire::place(address).is_some_and(|own| own.ip().is_loopback());
    let alone = !own.is_empty() && own.iter().all(here);
    !nobody && (alone || !ip.is_loopback()) && (source == Source::Lan || !linked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(ip: &str, port: u16) -> Vec<u8> {
        let (code, ip) = match ip.parse().expect("an address") {
            IpAddr::V4(ip) => (4, ip.octets().to_vec()),
            IpAddr::V6(ip) => (41, ip.octets().to_vec()),
        };
        [&[code][..], &ip, &[6], &port.to_be_bytes()].concat()
    }

    #[test]
    fn address_of_no_one_place_is_not_dialed_and_loopback_only_by_who_is_there_alone() {
        let (near, alone) = ([tcp("192.168.1.5", 7741)], [tcp("127.0.0.1", 7741)]);
        let far = |ip: &str, own: &[Vec<u8>]| !dialable(&[tcp(ip, 1)], Source::Far, own).is_empty();
        for ip in ["10.1.2.3", "192.0.2.1", "2001:db8::1", "fd00::1"] {
            assert!(far(ip, &near) && far(ip, &alone) && far(ip, &[]), "{ip}");
        }
        for ip in [
            "0.0.0.0",
            "::",
            "224.0.0.251",
            "ff02::fb",
            "255.255.255.255",
            "::ffff:0.0.0.0",
            "169.254.169.254",
        ] {
            assert!(!far(ip, &near) && !far(ip, &alone), "{ip}");
        }
        for ip in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(!far(ip, &near) && !far(ip, &[]) && far(ip, &alone), "{ip}");
        }
        assert!(dialable(&[tcp("10.0.0.1", 0)], Source::Far, &near).is_empty());
        assert_eq!(dialable(&[tcp("fe80::1", 1)], Source::Lan, &near).len(), 1);
        assert!(dialable(&[tcp("fe80::1", 1)], Source::Far, &near).is_empty());
        let many: Vec<Vec<u8>> = (1..=100).map(|port| tcp("10.0.0.1", port)).collect();
        assert_eq!(dialable(&many, Source::Far, &near), many[..SAID_MAX]);
        assert_eq!(dialable(&vec![tcp("10.0.0.1", 1); 5], Source::Far, &near).len(), 1);
    }
}
