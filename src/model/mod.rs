//! The decisions of a correct worker, without a clock, a runtime, a network or randomness of their own.
//!
//! Times are durations since any fixed moment, randomness is a seeded [`fastrand::Rng`] passed in. `aws`, `consumer`,
//! `coordination` and `worker` carry the decisions out.

pub mod app_lag;
pub mod assignment;
pub mod backoff;
pub mod batcher;
pub mod blocked_record;
pub mod checkpoint;
pub mod filter;
pub mod fleet_state;
pub mod fleet_view;
pub mod lag;
pub mod lease;
pub mod liveness;
#[cfg(feature = "cli")]
pub mod multilang;
pub mod out_of_order_acks;
pub mod overload;
pub mod polling;
pub mod record;
pub mod scaling;
pub mod sequence_number;
pub mod shard_directory;
pub mod shard_graph;
pub mod throughput;
pub mod worker_record;

use std::time::Duration;

/// A duration in whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// FNV-1a, 64 bits: a hash for texts that nobody chose in order to deceive.
pub(crate) fn fnv1a(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
