//! The network of a simulation, as data.

/// Who is there and how they are connected. Devices come first, then seeders.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub devices: usize,
    pub seeders: usize,
    /// Who can dial whom, in that direction.
    pub dials: Vec<(usize, usize)>,
    /// Who sees whom on a local network, both ways.
    pub near: Vec<(usize, usize)>,
    /// Whom a device knows from the start, besides the seeders.
    pub hints: Vec<(usize, usize)>,
    /// How many of the devices that were admitted a node knows of at the start, itself among them; the rest it
    /// learns from its peers.
    pub knows: Vec<usize>,
}

impl World {
    pub fn nodes(&self) -> usize {
        self.devices + self.seeders
    }

    /// Devices on one local network.
    pub fn lan(devices: usize) -> Self {
        let pairs = |(one, other): (usize, usize)| (one != other).then_some((one, other));
        let all: Vec<(usize, usize)> = (0..devices)
            .flat_map(|one| (0..devices).map(move |other| (one, other)))
            .filter_map(pairs)
            .collect();
        Self { devices, dials: all.clone(), near: all, knows: vec![devices; devices], ..Self::default() }
    }
}
