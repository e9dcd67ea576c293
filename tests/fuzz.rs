//! The bodies of the fuzz targets, on a budget: every input of the corpus, and random ones.
//! `LOCKSTEP_FUZZ_CASES` sets how many random inputs each body gets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../fuzz/bodies.rs"]
#[allow(unreachable_pub, reason = "for libFuzzer it is a library")]
mod bodies;

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Random inputs of each body if the environment does not say otherwise.
const CASES: u32 = 400;

/// Runs a body on its corpus, then on random bytes of up to `len`.
fn run(target: &str, len: usize, body: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&corpus).unwrap() {
        body(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0, "{} is empty", corpus.display());

    let cases = match std::env::var("LOCKSTEP_FUZZ_CASES") {
        Ok(text) => text.parse().expect("LOCKSTEP_FUZZ_CASES is a number"),
        Err(_) => CASES,
    };
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    runner
        .run(&vec(any::<u8>(), 0..len), |bytes| {
            body(&bytes);
            Ok(())
        })
        .unwrap();
}

#[test]
fn datagrams_of_every_kind_leave_the_bystander_alone() {
    run("datagrams", 2000, bodies::datagrams);
}

#[test]
fn packets_mean_the_same_however_the_stream_is_cut() {
    run("packets", 3000, bodies::packets);
}

#[test]
fn queries_are_legal_or_refused_with_a_reason() {
    run("queries", 300, bodies::queries);
}

#[test]
fn no_ticket_but_the_one_that_was_signed_is_let_in() {
    run("tickets", 600, bodies::tickets);
}

#[test]
fn no_frame_is_read_from_a_journal_that_was_not_written() {
    run("journals", 1500, bodies::journals);
}
