//! What the benchmarks share: seeded data, medians, and the machine's load beside every figure.
//!
//! Nothing here decides a test: the programs print figures, people compare ratios within one run.

pub mod seeder;

use std::time::Instant;

/// Incompressible bytes that are the same for the same `seed`.
#[must_use]
pub fn random_bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_derive_key("cobox bench data")
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// MB/s (10^6 bytes) of `runs` runs of `work` over `bytes` bytes each: smallest, median, largest.
pub fn megabytes_per_second(runs: usize, bytes: usize, mut work: impl FnMut()) -> [f64; 3] {
    let mut rates: Vec<f64> = (0..runs.max(1))
        .map(|_| {
            let start = Instant::now();
            work();
            bytes as f64 / 1e6 / start.elapsed().as_secs_f64()
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    [rates[0], rates[rates.len() / 2], rates[rates.len() - 1]]
}

/// The one-minute load average, to be printed beside figures.
#[must_use]
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

/// Prints one figure: name, smallest, median and largest MB/s.
pub fn print_rate(name: &str, [least, median, most]: [f64; 3]) {
    println!("{name:<44} {least:>8.0} {median:>8.0} {most:>8.0} MB/s");
}
