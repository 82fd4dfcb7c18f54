//! Devices of one folder, each on a host of its own and of another person, and a seeder where one is wanted.

use std::path::Path;

use tempfile::TempDir;

use crate::hosts::{Host, Lan};
use crate::process::{Device, Seeder, can_mount, until};
use crate::tree::{differences, tree};

/// What the folder is called everywhere.
pub const FOLDER: &str = "club";

/// The devices; fields are dropped in this order.
pub struct Group {
    /// The first one began the folder and is its admin; the others may write.
    pub devices: Vec<Device>,
    /// Their hosts, in the same order.
    pub hosts: Vec<Host>,
    /// The seeder, where there is one.
    pub seeder: Option<Seeder>,
    /// The switch between them.
    pub lan: Lan,
    /// Where everything lies.
    pub dir: TempDir,
}

impl Group {
    /// So many devices on one switch, joined and mounted, and no seeder; `None`, said in a line, where this
    /// machine has no namespaces or no FUSE.
    ///
    /// # Panics
    /// When they cannot be set up.
    #[must_use]
    pub fn new(test: &str, devices: usize) -> Option<Self> {
        let mut group = Self::alone(test)?;
        for _ in 1..devices {
            group.join();
        }
        Some(group)
    }

    /// The same with a seeder that holds the folder.
    ///
    /// # Panics
    /// When they cannot be set up.
    #[must_use]
    pub fn with_seeder(test: &str, devices: usize) -> Option<Self> {
        let mut group = Self::alone(test)?;
        group.add_seeder();
        for _ in 1..devices {
            group.join();
        }
        Some(group)
    }

    /// One device with the folder.
    ///
    /// # Panics
    /// When it cannot be set up.
    #[must_use]
    pub fn alone(test: &str) -> Option<Self> {
        if !can_mount(test) {
            return None;
        }
        let mut lan = Lan::new(test)?;
        let host = lan.host("host0");
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut group = Self { devices: Vec::new(), hosts: Vec::new(), seeder: None, lan, dir };
        let device = group.device(host);
        device.ctl(&["folder", "create", FOLDER]).ok();
        device.mount(FOLDER);
        group.devices.push(device);
        Some(group)
    }

    /// A device that is set up and started on a host, and in no folder.
    fn device(&mut self, host: Host) -> Device {
        let name = format!("device{}", self.hosts.len());
        let mut device = Device::set_up(self.dir.path(), &name).on(&host);
        device.start();
        self.hosts.push(host);
        device
    }

    /// Adds a seeder on a host of its own.
    ///
    /// # Panics
    /// When it does not take the folder.
    pub fn add_seeder(&mut self) {
        let host = self.lan.host("seeder");
        let mut seeder = Seeder::on(self.dir.path(), "seeder", &host);
        seeder.start();
        self.devices[0].ctl(&["seeder", "add", FOLDER, &seeder.address(), "--quota", "4G"]).ok();
        self.seeder = Some(seeder);
    }

    /// Adds a device on a host of its own: invited by the first, joined and mounted.
    ///
    /// # Panics
    /// When it cannot join.
    pub fn join(&mut self) {
        let host = self.lan.host(&format!("host{}", self.hosts.len()));
        self.join_on(host);
    }

    /// The same on a host that is there already.
    ///
    /// # Panics
    /// When it cannot join.
    pub fn join_on(&mut self, host: Host) {
        let code = self.invite();
        let device = self.device(host);
        device.ctl(&["folder", "join", &code]).ok();
        device.mount(FOLDER);
        self.devices.push(device);
    }

    /// A code to join with, good once.
    ///
    /// # Panics
    /// When the first device makes none.
    #[must_use]
    pub fn invite(&self) -> String {
        let said = self.devices[0].ctl(&["folder", "invite", FOLDER, "--role", "write"]).ok();
        said.out.lines().next().expect("a line").to_owned()
    }

    /// The mount of one device.
    #[must_use]
    pub fn mount(&self, at: usize) -> &Path {
        &self.devices[at].mount
    }

    /// Waits until all mounts show the same, content and metadata.
    ///
    /// # Panics
    /// When they do not within a minute; says what differs.
    pub fn until_equal(&self) {
        let mut last = Vec::new();
        let equal = || {
            let Ok(first) = tree(self.mount(0)) else { return false };
            last = (1..self.devices.len())
                .flat_map(|at| match tree(self.mount(at)) {
                    Ok(other) => differences(&first, &other),
                    Err(error) => vec![error.to_string()],
                })
                .collect();
            last.is_empty()
        };
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| until("equal mounts", equal)));
        assert!(waited.is_ok(), "the mounts differ: {last:#?}");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What the programs logged is lost with the folder otherwise.
            for at in 0..self.devices.len() {
                let said = self.devices[at].ctl(&["peers", FOLDER]);
                eprintln!("device{at}: {}{}", said.out, said.err);
                let log = std::fs::read_to_string(self.devices[at].home.with_extension("log"));
                let text = log.unwrap_or_default();
                let lines: Vec<&str> = text.lines().rev().take(30).collect();
                lines.iter().rev().for_each(|line| eprintln!("device{at}: {line}"));
            }
        }
    }
}
