//! What a device says of itself to who proved the folder: its peer id and where it listens, signed with its
//! key of that folder (`docs/format.md` §14.5). Others pass it on unchanged.

use std::net::{IpAddr, SocketAddr};

use cobox_store::format::access::{ADDRESS_BYTES_MAX, ADDRESSES_MAX};
use cobox_store::format::{DecodeError, Reader, Writer};
use cobox_store::id::{FolderId, LogId};
use ed25519_dalek::{Signature, VerifyingKey};

use crate::peer_id::PeerId;
use crate::sync::signed_bytes;

/// Contacts in one frame, and those that are kept of a folder: its peers.
pub const CONTACTS_MAX: usize = 64;
/// Devices of a folder of which a seeder keeps that they came: far more than a folder has peers.
pub const CAME_MAX: usize = 1024;
/// The type of [`super::Frame::Contacts`].
pub(super) const CONTACTS: u8 = 40;
/// Key, log, time, an empty list and the signature.
const CONTACT_BYTES_MIN: usize = 32 + 32 + 8 + 2 + 64;
/// What the signed text begins with; a session's transcript begins with 1.
const KIND: u8 = 2;
/// Codes of the multiaddr table; those above 127 as variable-length numbers of two bytes.
const IP4: u8 = 4;
const IP6: u8 = 41;
const TCP: u8 = 6;
const UDP_1: u8 = 0x91;
const UDP_2: u8 = 0x02;
const QUIC_1: u8 = 0xcd;
const QUIC_2: u8 = 0x03;

/// Where one device or seeder of a folder is, by its own word.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Contact {
    /// The device on the network.
    pub peer: PeerId,
    /// The device in the folder; of a seeder, the key of its peer id.
    pub log: LogId,
    /// When it said so, by its own clock; a later word replaces an earlier one.
    pub said_ms: u64,
    /// Where it listens, as binary multiaddrs; none where it does not.
    pub addresses: Vec<Vec<u8>>,
    /// By `log`, over [`Contact::signed_text`].
    pub signature: [u8; 64],
}

/// What a program keeps of where a folder's devices are.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Whereabouts {
    /// What devices and seeders said of themselves.
    pub contacts: Vec<Contact>,
    /// Of a seeder: the devices that dialed it, and when what it said of itself then was said.
    pub came: Vec<(LogId, u64)>,
}

impl Contact {
    /// What the device signs, in a session's context.
    #[must_use]
    pub fn signed_text(&self, folder: FolderId) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(KIND);
        w.fixed(&folder.0);
        self.encode_unsigned(&mut w);
        w.into_bytes()
    }

    /// Whether the device itself said this, in this folder.
    #[must_use]
    pub fn is_genuine(&self, folder: FolderId) -> bool {
        let signature = Signature::from_bytes(&self.signature);
        VerifyingKey::from_bytes(&self.log.0)
            .is_ok_and(|key| key.verify_strict(&signed_bytes(&self.signed_text(folder)), &signature).is_ok())
    }

    fn encode_unsigned(&self, w: &mut Writer) {
        w.fixed(self.peer.key());
        w.fixed(&self.log.0);
        w.u64(self.said_ms);
        w.count(self.addresses.len());
        self.addresses.iter().for_each(|address| w.bytes16(address));
    }
}

/// IP and port of a binary multiaddr of one of the two forms that are dialed: `/ip4|ip6/…/tcp/…` and
/// `/ip4|ip6/…/udp/…/quic-v1`. `None` for any other: a name, a relay, a path.
#[must_use]
pub fn place(address: &[u8]) -> Option<SocketAddr> {
    let (ip, rest): (IpAddr, &[u8]) = match address.split_first()? {
        (&IP4, rest) => rest.split_first_chunk::<4>().map(|(ip, rest)| (IpAddr::from(*ip), rest))?,
        (&IP6, rest) => rest.split_first_chunk::<16>().map(|(ip, rest)| (IpAddr::from(*ip), rest))?,
        _ => return None,
    };
    match *rest {
        [TCP, high, low] => Some(SocketAddr::new(ip, u16::from_be_bytes([high, low]))),
        [UDP_1, UDP_2, high, low, QUIC_1, QUIC_2] => {
            Some(SocketAddr::new(ip, u16::from_be_bytes([high, low])))
        }
        _ => None,
    }
}

/// A list as it stands in the frame, and in what a program keeps.
#[must_use]
pub fn encode_contacts(contacts: &[Contact]) -> Vec<u8> {
    let mut w = Writer::new();
    encode_list(&mut w, contacts);
    w.into_bytes()
}

/// Reads what [`encode_contacts`] wrote.
///
/// # Errors
/// On anything no writer produces.
pub fn decode_contacts(bytes: &[u8]) -> Result<Vec<Contact>, DecodeError> {
    let mut r = Reader::new(bytes);
    let contacts = decode_list(&mut r)?;
    r.finish()?;
    Ok(contacts)
}

/// What a seeder keeps of a folder (`docs/format.md` §15.7).
#[must_use]
pub fn encode_whereabouts(known: &Whereabouts) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(1);
    encode_list(&mut w, &known.contacts);
    w.count(known.came.len());
    for (log, said_ms) in &known.came {
        w.fixed(&log.0);
        w.u64(*said_ms);
    }
    w.into_bytes()
}

/// Reads what [`encode_whereabouts`] wrote.
///
/// # Errors
/// On anything no writer produces.
pub fn decode_whereabouts(bytes: &[u8]) -> Result<Whereabouts, DecodeError> {
    let mut r = Reader::new(bytes);
    r.version(1, "whereabouts")?;
    let contacts = decode_list(&mut r)?;
    let count = r.count(CAME_MAX, 40, "whereabouts")?;
    let came = (0..count)
        .map(|_| Ok((r.log_id("whereabouts")?, r.u64("whereabouts")?)))
        .collect::<Result<_, DecodeError>>()?;
    r.finish()?;
    Ok(Whereabouts { contacts, came })
}

/// What a seeder said of itself last (`docs/format.md` §15.7): where it is, and when it said so.
#[must_use]
pub fn encode_word(addresses: &[Vec<u8>], said_ms: u64) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(1);
    w.u64(said_ms);
    w.count(addresses.len());
    addresses.iter().for_each(|address| w.bytes16(address));
    w.into_bytes()
}

/// Reads what [`encode_word`] wrote.
///
/// # Errors
/// On anything no writer produces.
pub fn decode_word(bytes: &[u8]) -> Result<(Vec<Vec<u8>>, u64), DecodeError> {
    let mut r = Reader::new(bytes);
    r.version(1, "word")?;
    let said_ms = r.u64("word")?;
    let addresses = decode_addresses(&mut r)?;
    r.finish()?;
    Ok((addresses, said_ms))
}

pub(super) fn encode_list(w: &mut Writer, contacts: &[Contact]) {
    w.count(contacts.len());
    for contact in contacts {
        contact.encode_unsigned(w);
        w.fixed(&contact.signature);
    }
}

pub(super) fn decode_list(r: &mut Reader<'_>) -> Result<Vec<Contact>, DecodeError> {
    let count = r.count(CONTACTS_MAX, CONTACT_BYTES_MIN, "contacts")?;
    (0..count).map(|_| decode_one(r)).collect()
}

fn decode_one(r: &mut Reader<'_>) -> Result<Contact, DecodeError> {
    let (peer, log, said_ms) = (PeerId::of_key(r.array("contact")?), r.log_id("contact")?, r.u64("contact")?);
    let addresses = decode_addresses(r)?;
    Ok(Contact { peer, log, said_ms, addresses, signature: r.array("contact")? })
}

fn decode_addresses(r: &mut Reader<'_>) -> Result<Vec<Vec<u8>>, DecodeError> {
    let count = r.count(ADDRESSES_MAX, 2, "contact addresses")?;
    (0..count).map(|_| Ok(r.bytes16(ADDRESS_BYTES_MAX, "contact address")?.to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    fn contact(folder: FolderId) -> Contact {
        let key = SigningKey::from_bytes(&[7; 32]);
        let mut contact = Contact {
            peer: PeerId::of_key([1; 32]),
            log: LogId(key.verifying_key().to_bytes()),
            said_ms: 5,
            addresses: vec![vec![4, 10, 0, 0, 1, 6, 30, 60]],
            signature: [0; 64],
        };
        contact.signature = key.sign(&signed_bytes(&contact.signed_text(folder))).to_bytes();
        contact
    }

    #[test]
    fn contact_that_was_changed_or_is_of_another_folder_is_not_genuine() {
        let (here, elsewhere) = (FolderId([1; 32]), FolderId([2; 32]));
        let contact = contact(here);
        assert!(contact.is_genuine(here) && !contact.is_genuine(elsewhere));
        for changed in [
            Contact { peer: PeerId::of_key([2; 32]), ..contact.clone() },
            Contact { said_ms: 6, ..contact.clone() },
            Contact { addresses: vec![], ..contact.clone() },
            Contact { log: LogId([1; 32]), ..contact.clone() },
        ] {
            assert!(!changed.is_genuine(here), "{changed:?}");
        }
    }

    #[test]
    fn place_is_read_of_the_two_forms_that_are_dialed_and_of_no_other() {
        let tcp = [&[4, 10, 0, 0, 1, 6][..], &4001u16.to_be_bytes()].concat();
        let quic = [&[4, 10, 0, 0, 1, 0x91, 2][..], &4001u16.to_be_bytes(), &[0xcd, 3]].concat();
        let six = [&[41, 0x20, 1][..], &[0; 13], &[9, 6], &4001u16.to_be_bytes()].concat();
        for address in [&tcp, &quic] {
            assert_eq!(place(address), Some("10.0.0.1:4001".parse().expect("an address")));
        }
        assert_eq!(place(&six), Some("[2001::9]:4001".parse().expect("an address")));
        let name = [&[54, 4][..], b"host", &tcp[5..]].concat();
        let longer = [&tcp[..], &[0x91, 2, 0, 1]].concat();
        for other in [&[][..], &tcp[..7], &quic[..9], &six[..17], &name, &longer, &[4], &[6, 0, 1]] {
            assert_eq!(place(other), None, "{other:?}");
        }
    }

    #[test]
    fn what_a_seeder_keeps_of_places_comes_back_and_nothing_else_is_read() {
        let contacts = vec![contact(FolderId([1; 32])); 2];
        let known = Whereabouts { contacts, came: vec![(LogId([4; 32]), 7)] };
        let bytes = encode_whereabouts(&known);
        assert_eq!(decode_whereabouts(&bytes).expect("reads"), known);
        let word = encode_word(&[vec![4, 10, 0, 0, 1, 6, 30, 60]], 9);
        assert_eq!(decode_word(&word).expect("reads"), (vec![vec![4, 10, 0, 0, 1, 6, 30, 60]], 9));
        for bytes in [&bytes, &word] {
            let bent = [&[2][..], &bytes[1..]].concat();
            for other in [&bytes[..bytes.len() - 1], &[&bytes[..], &[0]].concat(), &bent] {
                assert!(decode_whereabouts(other).is_err() && decode_word(other).is_err());
            }
        }
    }

    #[test]
    fn kept_contacts_come_back_and_nothing_else_is_read() {
        let contacts = vec![contact(FolderId([1; 32])); 2];
        let bytes = encode_contacts(&contacts);
        assert_eq!(decode_contacts(&bytes).expect("reads"), contacts);
        assert!(decode_contacts(&bytes[..bytes.len() - 1]).is_err());
        assert!(decode_contacts(&[&bytes[..], &[0]].concat()).is_err());
        let many = encode_contacts(&vec![contacts[0].clone(); CONTACTS_MAX + 1]);
        assert!(decode_contacts(&many).is_err());
    }
}
