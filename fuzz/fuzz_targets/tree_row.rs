//! Fuzzes the decoder `tree_row`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    cobox_fuzz::check("tree_row", bytes);
});
