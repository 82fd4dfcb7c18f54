//! What memory a process takes, as the kernel counts it.

/// A field of `/proc/PID/status` that is in KiB: `VmRSS` now, `VmHWM` at its highest.
///
/// # Panics
/// When the process does not run.
#[must_use]
pub fn resident_bytes(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with(field)).expect("the field is there");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number");
    kib << 10
}
