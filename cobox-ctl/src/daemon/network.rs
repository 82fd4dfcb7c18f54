//! How this device meets the network: where it listens, whether it is found on the local network, and what it
//! remembers of a folder's devices.
//!
//! The settings are in `network.json` of the home; `COBOX_NETWORK` overrules them. The port that was used
//! last is used again where it is free, so that what others remember stays true over a restart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use cobox_net::wire::{Contact, decode_contacts};
use cobox_net::{Dialing, LanDiscovery, NetConfig, Node, PeerId};
use cobox_store::format::address::SeederAddress;
use cobox_store::format::invite::Hint;
use cobox_store::id::{KemKey, hex};
use cobox_store::keyed::Folder;
use serde::{Deserialize, Serialize};

use super::Daemon;
use super::folder::FolderState;
use crate::exit::{Outcome, Problem};

/// The settings under which a folder's devices are kept, sealed.
const CONTACTS: &str = "contacts";
const HINTS: &str = "invite hints";
/// The port of a first start, where it is free: beside the seeder's 7740, so that one rule of a firewall fits all.
const PORT: u16 = 7741;
/// How often it is looked whether something new is known of devices.
const KEEP_EVERY: Duration = Duration::from_secs(5);
/// Tries to find a port that both transports may have.
const PORT_TRIES: usize = 32;

/// How the device meets the network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSettings {
    /// `all`, `loopback`, or multiaddrs; nothing for a device that only dials.
    pub listen: Vec<String>,
    /// Whether devices on the local network find one another, by mDNS.
    pub mdns: bool,
    /// Whether others are called.
    pub dial: bool,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self { listen: vec!["all".to_owned()], mdns: true, dial: true }
    }
}

/// What an invite's code said of a peer.
#[derive(Serialize, Deserialize)]
struct KeptHint {
    peer: String,
    addresses: Vec<Vec<u8>>,
}

impl NetworkSettings {
    /// Reads them from the home, or from the environment.
    fn read(home: &Path) -> Outcome<Self> {
        if let Some(word) = std::env::var_os("COBOX_NETWORK").filter(|word| !word.is_empty()) {
            return match word.to_str() {
                Some("all") => Ok(Self::default()),
                Some("loopback") => Ok(Self { listen: vec!["loopback".to_owned()], mdns: false, dial: true }),
                Some("off") => Ok(Self { listen: Vec::new(), mdns: false, dial: false }),
                _ => Err(Problem::usage(
                    format!("COBOX_NETWORK cannot be {word:?}."),
                    "It is `all`, `loopback` or `off`.",
                )),
            };
        }
        let path = home.join("network.json");
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| {
                Problem::failed_with(
                    format!("{} is not understood: {error}.", path.display()),
                    "It looks like {\"listen\": [\"all\"], \"mdns\": true, \"dial\": true}; without the file this is what holds.",
                )
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Problem::failed(format!("{} cannot be read: {error}.", path.display()))),
        }
    }

    fn config(&self, port: u16) -> NetConfig {
        let listen = self.listen.iter().flat_map(|word| match word.as_str() {
            "all" => everywhere().iter().flat_map(|ip| on(*ip, port)).collect(),
            "loopback" => on(Ipv4Addr::LOCALHOST.into(), port),
            address => vec![address.to_owned()],
        });
        let lan = if self.mdns { LanDiscovery::On } else { LanDiscovery::Off };
        let dialing = if self.dial { Dialing::On } else { Dialing::Off };
        NetConfig { listen: listen.collect(), lan, dialing, ..NetConfig::default() }
    }

    fn port(&self, last: Option<u16>) -> Option<u16> {
        let places =
            match self.listen.iter().map(String::as_str).find(|word| ["all", "loopback"].contains(word)) {
                Some("all") => everywhere(),
                Some(_) => vec![Ipv4Addr::LOCALHOST.into()],
                None => return None,
            };
        let place = *places.first()?;
        // Many daemons of one machine share its loopback: there, each has a port of its own.
        let first = self.listen.iter().any(|word| word == "all").then_some(PORT);
        let any = || TcpListener::bind((place, 0)).ok()?.local_addr().ok().map(|address| address.port());
        let drawn = std::iter::repeat_with(any).take(PORT_TRIES).flatten();
        last.into_iter().chain(first).chain(drawn).find(|port| places.iter().all(|ip| is_free(*ip, *port)))
    }
}

/// Whether nobody listens there; libp2p would share a TCP port with whoever does.
fn is_free(ip: IpAddr, port: u16) -> bool {
    let place = SocketAddr::new(ip, port);
    TcpListener::bind(place).is_ok() && UdpSocket::bind(place).is_ok()
}

fn everywhere() -> Vec<IpAddr> {
    let v6: IpAddr = Ipv6Addr::UNSPECIFIED.into();
    // Not every machine speaks IPv6. Where it does, libp2p keeps the two apart.
    let speaks = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    [IpAddr::from(Ipv4Addr::UNSPECIFIED)].into_iter().chain(speaks.then_some(v6)).collect()
}

fn on(ip: IpAddr, port: u16) -> Vec<String> {
    let name = if ip.is_ipv4() { "ip4" } else { "ip6" };
    vec![format!("/{name}/{ip}/tcp/{port}"), format!("/{name}/{ip}/udp/{port}/quic-v1")]
}

/// How a device that is just being set up calls others: it listens nowhere yet.
///
/// # Errors
/// Where it is to call nobody.
pub(crate) fn only_dialing(home: &Path) -> Outcome<NetConfig> {
    if NetworkSettings::read(home)?.dial {
        return Ok(NetConfig::default());
    }
    Err(Problem::refused(
        "This device's network is off, so that no seeder can be asked.",
        "Unset COBOX_NETWORK where it says `off`, and leave `\"dial\": false` out of network.json.",
    ))
}

/// Starts the network of this home.
pub(super) fn start(
    home: &Path,
    start: impl Fn(NetConfig) -> cobox_net::error::Result<Node>,
) -> Outcome<Node> {
    let settings = NetworkSettings::read(home)?;
    let kept = home.join("port");
    let last = std::fs::read_to_string(&kept).ok().and_then(|text| text.trim().parse().ok());
    let port = settings.port(last);
    let node = start(settings.config(port.unwrap_or(0)))?;
    if port.is_some() && port != last {
        let text = format!("{}\n", port.unwrap_or_default());
        if let Err(error) = std::fs::write(&kept, text) {
            tracing::warn!(%error, "the port is not remembered");
        }
    }
    for address in node.listen_texts() {
        tracing::info!(address, "listening");
    }
    Ok(node)
}

/// Remembers where a recovering device found the folder's seeders: grants may name places where they were.
pub(crate) fn keep_found(folder: &Folder, found: &[SeederAddress]) -> Outcome<()> {
    let access = folder.store().access(folder.no())?;
    let granted = found.iter().filter(|address| access.seeder(&address.peer_id).is_some());
    let hint = |address: &SeederAddress| {
        let peer = *PeerId::from_bytes(&address.peer_id)?.key();
        Some(Hint { peer, addresses: address.addresses.clone() })
    };
    keep_hints(folder, &granted.filter_map(hint).collect::<Vec<_>>())
}

/// Remembers whom an invite's code named, as peers to dial.
pub(crate) fn keep_hints(folder: &Folder, hints: &[Hint]) -> Outcome<()> {
    let kept: Vec<KeptHint> = hints
        .iter()
        .map(|hint| KeptHint { peer: hex(&hint.peer), addresses: hint.addresses.clone() })
        .collect();
    let plain = serde_json::to_vec(&kept)
        .map_err(|error| Problem::failed(format!("The setting cannot be kept: {error}.")))?;
    let sealed = folder.local().seal(HINTS.as_bytes(), &plain);
    Ok(folder.store().setting_put(folder.no(), HINTS, &sealed)?)
}

fn read_sealed(folder: &Folder, name: &str) -> Option<Vec<u8>> {
    let sealed = folder.store().setting(folder.no(), name).ok()??;
    folder.local().open(name.as_bytes(), &sealed).ok()
}

impl FolderState {
    /// Where a seeder said last that it is, as far as that was kept.
    pub fn said_by(&self, seeder: PeerId) -> Vec<Vec<u8>> {
        let known = decode_contacts(&self.contacts.lock().1).unwrap_or_default();
        let own = |contact: &&Contact| contact.peer == seeder && contact.log.0 == *seeder.key();
        let newest = known.iter().filter(own).max_by_key(|contact| contact.said_ms);
        newest.map(|contact| contact.addresses.clone()).unwrap_or_default()
    }

    /// Peers that the invite's code named, and seeders that recovering found at the address that was given.
    pub fn hinted(&self) -> Vec<SeederAddress> {
        let plain = read_sealed(&self.folder, HINTS);
        let kept: Vec<KeptHint> =
            plain.and_then(|plain| serde_json::from_slice(&plain).ok()).unwrap_or_default();
        let address = |hint: KeptHint| {
            let key: [u8; 32] = cobox_store::id::unhex(&hint.peer)?.try_into().ok()?;
            let peer_id = cobox_net::PeerId::of_key(key).to_bytes();
            Some(SeederAddress { peer_id, kem: KemKey([0; 32]), addresses: hint.addresses })
        };
        kept.into_iter().filter_map(address).collect()
    }
}

impl Daemon {
    /// Tells the network what was known of a folder's devices when the daemon ran last.
    pub fn recall_contacts(&self, state: &FolderState) {
        if let Some(known) = read_sealed(&state.folder, CONTACTS) {
            self.node.recall(state.no(), &known);
            state.contacts.lock().1 = known;
        }
    }

    /// Keeps what is known of a folder's devices, if that changed.
    pub fn keep_contacts(&self, state: &FolderState) -> Outcome<()> {
        let mut kept = state.contacts.lock();
        if kept.0.is_some_and(|at| at.elapsed() < KEEP_EVERY) {
            return Ok(());
        }
        kept.0 = Some(Instant::now());
        let known = self.node.contacts(state.no())?;
        if known != kept.1 {
            let sealed = state.folder.local().seal(CONTACTS.as_bytes(), &known);
            state.folder.store().setting_put(state.no(), CONTACTS, &sealed)?;
            kept.1 = known;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_of_the_last_start_is_used_again_unless_somebody_has_it() {
        let settings = NetworkSettings { listen: vec!["loopback".to_owned()], mdns: false, dial: true };
        let first = settings.port(None).expect("loopback has free ports");
        assert_eq!(settings.port(Some(first)), Some(first));
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).expect("it was free a moment ago");
        let other = settings.port(Some(first)).expect("loopback has free ports");
        assert_ne!(other, first);
        drop(taken);
        assert_eq!(settings.port(Some(first)), Some(first));
    }

    #[test]
    fn settings_of_a_home_are_read_and_nonsense_is_said_to_be_so() {
        let home = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(NetworkSettings::read(home.path()).expect("default"), NetworkSettings::default());
        let write = |text: &str| std::fs::write(home.path().join("network.json"), text).expect("writes");
        write("{\"listen\": [\"/ip4/10.0.0.1/tcp/1\"], \"mdns\": false}");
        let read = NetworkSettings::read(home.path()).expect("reads");
        let config = read.config(0);
        assert_eq!((config.listen.len(), config.lan, config.dialing), (1, LanDiscovery::Off, Dialing::On));
        assert!(only_dialing(home.path()).is_ok());
        assert_eq!(read.port(None), None);
        write("{\"listen\": [], \"mdns\": false, \"dial\": false}");
        let config = NetworkSettings::read(home.path()).expect("reads").config(0);
        assert_eq!((config.listen.len(), config.lan, config.dialing), (0, LanDiscovery::Off, Dialing::Off));
        let Err(problem) = only_dialing(home.path()) else { panic!("nobody may be called") };
        assert!(problem.message.contains("network is off"), "{problem:?}");
        write("{\"listne\": []}");
        assert!(NetworkSettings::read(home.path()).expect_err("refused").message.contains("network.json"));
    }
}
