//! Where the API listens on TCP: loopback, or further out only for who says so.

use std::net::SocketAddr;

use super::Fault;

/// How far away those who connect may be.
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// On this machine.
    #[default]
    Loopback,
    /// Anywhere: the token and all answers then travel unencrypted.
    Network,
}

/// An address to listen on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Where.
    pub address: SocketAddr,
    /// For whom.
    pub reach: Reach,
}

impl Place {
    /// Reads an address like `127.0.0.1:7780` or `[::1]:7780`.
    ///
    /// # Errors
    /// When it is none, or lies outside of what `reach` allows.
    pub fn parse(text: &str, reach: Reach) -> Result<Self, Fault> {
        let Ok(address) = text.parse::<SocketAddr>() else {
            return Err(Fault::usage(
                format!("{text:?} is not an address to listen on."),
                "Write it like 127.0.0.1:7780 or [::1]:7780: a number, not a name.",
            ));
        };
        if reach == Reach::Loopback && !address.ip().is_loopback() {
            return Err(Fault::refused(
                format!("{address} can be reached from other machines, and HTTP is not encrypted."),
                "Listen on 127.0.0.1 and come in through ssh or a web server that speaks TLS; \
                 or allow it explicitly, if the network is only yours.",
            ));
        }
        Ok(Self { address, reach })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_outside_of_this_machine_is_refused_unless_allowed() {
        for text in ["0.0.0.0:1", "[::]:1", "192.168.1.2:1", "[::ffff:127.0.0.1]:1"] {
            let fault = Place::parse(text, Reach::Loopback).expect_err(text);
            assert_eq!(fault.exit, 4, "{text}");
            assert!(Place::parse(text, Reach::Network).is_ok(), "{text}");
        }
        for text in ["127.0.0.1:7780", "127.9.9.9:1", "[::1]:7780"] {
            assert!(Place::parse(text, Reach::Loopback).is_ok(), "{text}");
        }
        for text in ["localhost:1", "127.0.0.1", "1", "", "127.0.0.1:99999"] {
            assert_eq!(Place::parse(text, Reach::Network).expect_err(text).exit, 2, "{text}");
        }
    }
}
