//! Fuzzes the decoder `pending_row`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    cobox_fuzz::check("pending_row", bytes);
});
