//! Fuzzes the decoder `short`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    cobox_fuzz::check("short", bytes);
});
