//! Fuzzes the decoding of GetRecords answers.
//!
//! Whatever the bytes: decoding never panics, gives no page that serde_json would not take as JSON, and gives the
//! values that the AWS SDK gives. From the repository's root, with cargo-fuzz installed:
//!
//!     cargo +nightly fuzz run decode fuzz/corpus/decode tests/data/get_records -- -max_len=4096 -max_total_time=60
//!
//! (The first folder, made by `mkdir -p`, receives what the fuzzer finds; the second holds the seeds.)

#![no_main]

#[path = "../../tests/worker/differential.rs"]
mod differential;
#[path = "../../tests/worker/sdk_decoding.rs"]
mod sdk_decoding;

use libfuzzer_sys::fuzz_target;
use sdk_decoding::SdkDecoder;

thread_local! {
    static DECODER: SdkDecoder = SdkDecoder::new();
}

fuzz_target!(|body: &[u8]| DECODER.with(|decoder| differential::assert_nothing_out_of_broken_json(decoder, body)));
