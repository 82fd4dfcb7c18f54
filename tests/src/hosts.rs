//! Hosts of their own on one machine: network namespaces on a switch whose cables can be pulled.
//!
//! A [`Lan`] is a switch; each [`Host`] has one cable to it and an address in `10.77.0.0/24`, and no other
//! network at all. A host behind a [`Lan::nat_host`] reaches the others through a router that rewrites its
//! address, and nobody reaches it. Nothing appears in the machine's own network, and everything is removed
//! when the [`Lan`] is dropped, also after a panic. Programs are put into a host with [`Host::command`];
//! files, mounts and Unix sockets are those of the machine.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::process::run;

/// Hosts of one switch: their addresses end in 1 to 250.
const HOSTS_MAX: u8 = 250;
/// Where `ip netns` keeps names.
const NAMES: &str = "/run/netns";

static NEXT: AtomicU32 = AtomicU32::new(1);

/// A switch and the hosts on it.
pub struct Lan {
    prefix: String,
    switch: String,
    namespaces: Vec<String>,
    ports: u8,
}

/// A host: a network namespace with one cable.
#[derive(Clone, Debug)]
pub struct Host {
    namespace: String,
    switch: String,
    /// The end of its cable at the switch; its router's, where it is behind one.
    port: String,
    /// Its own address.
    pub address: Ipv4Addr,
}

/// Says that a test cannot run here, so that it is counted as skipped and not as passed.
fn skip(test: &str, why: &str) {
    // Not `println!`, which nobody sees of a test that passes; on a line of its own, to be counted.
    drop(std::io::stderr().write_all(format!("\nskipped: {test}: {why}\n").as_bytes()));
}

fn works(words: &[&str]) -> bool {
    let Some((program, arguments)) = words.split_first() else { return false };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn must(words: &[&str]) {
    let (program, arguments) = words.split_first().expect("a program");
    run(Command::new(program).args(arguments)).ok();
}

fn within(namespace: &str, words: &[&str]) -> Vec<String> {
    let inside = ["ip", "netns", "exec", namespace];
    inside.iter().chain(words).map(|word| (*word).to_owned()).collect()
}

fn must_in(namespace: &str, words: &[&str]) {
    let all = within(namespace, words);
    must(&all.iter().map(String::as_str).collect::<Vec<_>>());
}

fn works_in(namespace: &str, words: &[&str]) -> bool {
    let all = within(namespace, words);
    works(&all.iter().map(String::as_str).collect::<Vec<_>>())
}

impl Lan {
    /// A switch without hosts; `None`, said in a line of its own, where namespaces cannot be made.
    #[must_use]
    pub fn new(test: &str) -> Option<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("cobox-{}-{number}", std::process::id());
        let switch = format!("{prefix}-switch");
        if !works(&["ip", "netns", "add", &switch]) {
            skip(test, "no network namespace can be made here (it needs root and iproute2)");
            return None;
        }
        let lan = Self { prefix, namespaces: vec![switch.clone()], switch, ports: 0 };
        let bridge = ["ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0"];
        if !works_in(&lan.switch, &bridge) {
            skip(test, "this kernel has no bridges");
            return None;
        }
        must_in(&lan.switch, &["ip", "link", "set", "br0", "up"]);
        Some(lan)
    }

    /// Adds a host with a cable to the switch.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn host(&mut self, name: &str) -> Host {
        let namespace = self.namespace(name);
        let (port, address) = self.plug(&namespace, "eth0");
        // As on a host with a router, so that multicast has a way out.
        must_in(&namespace, &["ip", "route", "add", "default", "dev", "eth0"]);
        Host { namespace, switch: self.switch.clone(), port, address }
    }

    /// Adds a host behind a router of its own, which rewrites addresses: it reaches the others and they do not
    /// reach it. `None`, said in a line of its own, where nothing here rewrites addresses.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn nat_host(&mut self, test: &str, name: &str) -> Option<Host> {
        let router = self.namespace(&format!("{name}-router"));
        let (port, _) = self.plug(&router, "wan0");
        if !masquerade(&router) {
            skip(test, "neither nft nor iptables can rewrite addresses here");
            return None;
        }
        let namespace = self.namespace(name);
        let cable = ["ip", "link", "add", "eth0", "netns", &namespace, "type", "veth"];
        must(&[&cable[..], &["peer", "name", "lan0", "netns", &router]].concat());
        must_in(&router, &["ip", "addr", "add", "192.168.77.1/24", "dev", "lan0"]);
        must_in(&router, &["ip", "link", "set", "lan0", "up"]);
        must_in(&namespace, &["ip", "addr", "add", "192.168.77.2/24", "dev", "eth0"]);
        must_in(&namespace, &["ip", "link", "set", "eth0", "up"]);
        must_in(&namespace, &["ip", "route", "add", "default", "via", "192.168.77.1"]);
        let address = Ipv4Addr::new(192, 168, 77, 2);
        Some(Host { namespace, switch: self.switch.clone(), port, address })
    }

    /// Divides the switch: only hosts of one group reach one another. Hosts in no group stay together.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn partition(&self, groups: &[&[&Host]]) {
        for (at, group) in groups.iter().enumerate() {
            let bridge = format!("br{}", at + 1);
            // It may be there from an earlier division.
            let made = ["ip", "link", "add", bridge.as_str(), "type", "bridge", "mcast_snooping", "0"];
            works_in(&self.switch, &made);
            must_in(&self.switch, &["ip", "link", "set", &bridge, "up"]);
            for host in *group {
                must_in(&self.switch, &["ip", "link", "set", &host.port, "master", &bridge]);
            }
        }
    }

    /// Undoes [`Self::partition`].
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn join(&self) {
        for port in 1..=self.ports {
            must_in(&self.switch, &["ip", "link", "set", &format!("port{port}"), "master", "br0"]);
        }
    }

    fn namespace(&mut self, name: &str) -> String {
        let namespace = format!("{}-{name}", self.prefix);
        must(&["ip", "netns", "add", &namespace]);
        self.namespaces.push(namespace.clone());
        // Only IPv4, so that no address turns up later than its host.
        works_in(&namespace, &["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
        must_in(&namespace, &["ip", "link", "set", "lo", "up"]);
        namespace
    }

    /// Lays a cable from `namespace` to the switch.
    fn plug(&mut self, namespace: &str, device: &str) -> (String, Ipv4Addr) {
        assert!(self.ports < HOSTS_MAX, "the switch is full");
        self.ports += 1;
        let (port, address) = (format!("port{}", self.ports), Ipv4Addr::new(10, 77, 0, self.ports));
        let cable = ["ip", "link", "add", device, "netns", namespace, "type", "veth", "peer", "name"];
        must(&[&cable[..], &[&port, "netns", &self.switch]].concat());
        must_in(&self.switch, &["ip", "link", "set", &port, "master", "br0", "up"]);
        must_in(namespace, &["ip", "addr", "add", &format!("{address}/24"), "dev", device]);
        must_in(namespace, &["ip", "link", "set", device, "up"]);
        (port, address)
    }
}

fn masquerade(router: &str) -> bool {
    must_in(router, &["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
    let chain = "add chain ip nat post { type nat hook postrouting priority 100 ; }";
    let nft = works_in(router, &["nft", "add", "table", "ip", "nat"])
        && works_in(router, &["nft", chain])
        && works_in(router, &["nft", "add", "rule", "ip", "nat", "post", "oifname", "wan0", "masquerade"]);
    let rule = ["-t", "nat", "-A", "POSTROUTING", "-o", "wan0", "-j", "MASQUERADE"];
    nft || works_in(router, &[&["iptables"][..], &rule].concat())
}

impl Drop for Lan {
    fn drop(&mut self) {
        // Devices and rules go with the namespace; programs in it were ended by who started them.
        for namespace in self.namespaces.iter().rev() {
            works(&["ip", "netns", "del", namespace]);
        }
    }
}

impl Host {
    /// A program that runs in this host's network.
    #[must_use]
    pub fn command(&self, program: &std::path::Path) -> Command {
        // Not `ip netns exec`, which also hides the mounts that the program makes.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg(program);
        command
    }

    /// Pulls the cable: at the host too the link is down.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn cut(&self) {
        must_in(&self.switch, &["ip", "link", "set", &self.port, "down"]);
    }

    /// Plugs the cable in again.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn heal(&self) {
        must_in(&self.switch, &["ip", "link", "set", &self.port, "up"]);
    }

    /// Gives the host another address; the programs on it are not told.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn renumber(&mut self, last: u8) {
        let address = Ipv4Addr::new(10, 77, 1, last);
        must_in(&self.namespace, &["ip", "addr", "flush", "dev", "eth0"]);
        must_in(&self.namespace, &["ip", "addr", "add", &format!("{address}/16"), "dev", "eth0"]);
        must_in(&self.namespace, &["ip", "route", "replace", "default", "dev", "eth0"]);
        self.address = address;
    }

    /// Makes the cable slow in both directions; `false` where the kernel cannot.
    #[must_use]
    pub fn slow_down(&self, mbit_per_s: u32) -> bool {
        let rate = format!("{mbit_per_s}mbit");
        let shape = |device: &str| -> Vec<String> {
            let words = ["tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate", &rate];
            let rest = ["burst", "64kb", "latency", "50ms"];
            words.iter().chain(&rest).map(|word| (*word).to_owned()).collect()
        };
        let shaped = |namespace: &str, device: &str| {
            works_in(namespace, &shape(device).iter().map(String::as_str).collect::<Vec<_>>())
        };
        shaped(&self.namespace, "eth0") && shaped(&self.switch, &self.port)
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(NAMES).join(&self.namespace)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::process::until;

    fn reaches(from: &Host, to: &Host) -> bool {
        // A datagram asks for nothing to be installed: bash sends one and waits for an answer over TCP.
        let script = format!("exec 3<>/dev/tcp/{}/7", to.address);
        let mut command = from.command(Path::new("timeout"));
        command.args(["1", "bash", "-c", &script]).stdin(Stdio::null()).stderr(Stdio::piped());
        let said = run(&mut command);
        // Nobody listens: a host that is there refuses, one that is not there says nothing.
        said.err.contains("refused")
    }

    #[test]
    fn hosts_reach_one_another_until_their_cables_are_pulled() {
        let Some(mut lan) = Lan::new("hosts_reach_one_another_until_their_cables_are_pulled") else { return };
        let (a, b, c) = (lan.host("a"), lan.host("b"), lan.host("c"));
        // A neighbour that did not answer is asked again by the kernel after a while.
        let meet = |one: &Host, other: &Host| until("they reach one another", || reaches(one, other));
        meet(&a, &b);
        meet(&b, &a);
        meet(&c, &a);
        b.cut();
        assert!(!reaches(&a, &b));
        meet(&a, &c);
        b.heal();
        meet(&a, &b);
        lan.partition(&[&[&a, &b], &[&c]]);
        meet(&a, &b);
        assert!(!reaches(&a, &c) && !reaches(&c, &b));
        lan.join();
        meet(&a, &c);
        meet(&c, &b);
    }

    #[test]
    fn host_behind_a_router_reaches_and_is_not_reached() {
        let test = "host_behind_a_router_reaches_and_is_not_reached";
        let Some(mut lan) = Lan::new(test) else { return };
        let outside = lan.host("outside");
        let Some(inside) = lan.nat_host(test, "inside") else { return };
        assert!(reaches(&inside, &outside));
        assert!(!reaches(&outside, &inside));
    }

    #[test]
    fn hosts_are_gone_once_the_switch_is_dropped() {
        let Some(mut lan) = Lan::new("hosts_are_gone_once_the_switch_is_dropped") else { return };
        let path = lan.host("a").path();
        assert!(path.exists());
        drop(lan);
        assert!(!path.exists());
    }
}
