//! Fuzzes the decoder `invite_code`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    cobox_fuzz::check("invite_code", bytes);
});
