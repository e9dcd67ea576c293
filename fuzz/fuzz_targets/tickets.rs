//! See `tickets` in `bodies.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::tickets(bytes));
