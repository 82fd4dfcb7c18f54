//! Fuzzes the decoder `seed_request`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    cobox_fuzz::check("seed_request", bytes);
});
