//! Fuzzes the decoder `device_row`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    cobox_fuzz::check("device_row", bytes);
});
