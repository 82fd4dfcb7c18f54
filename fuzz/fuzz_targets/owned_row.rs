//! Fuzzes the decoder `owned_row`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    cobox_fuzz::check("owned_row", bytes);
});
