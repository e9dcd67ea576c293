//! See `queries` in `bodies.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::queries(bytes));
