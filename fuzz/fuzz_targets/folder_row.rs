//! Fuzzes the decoder `folder_row`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    cobox_fuzz::check("folder_row", bytes);
});
