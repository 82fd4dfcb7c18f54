//! Where a connection comes from: whoever comes often from one place has a share, and leaves room to others.

use std::net::IpAddr;

/// An IPv4 address, or the /64 of an IPv6 address, of which one host has all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Place {
    /// The address.
    V4([u8; 4]),
    /// The first half of the address.
    V6([u16; 4]),
    /// An address without IP: all of these share.
    Other,
}

impl Place {
    /// The place of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.octets()),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}
