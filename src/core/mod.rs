//! The pure core: what a correct worker decides, without a clock, randomness of its own, a runtime or a network.
//!
//! Times are durations since any fixed moment, randomness is a seeded [`rng::Rng`] passed in. The shells around it
//! (`aws`, `consumer`, `fleet`, `worker`) do as it says.

pub mod assignment;
pub mod checkpoint;
pub mod dead_letter;
pub mod desired_workers;
pub mod done_beyond;
pub mod filter;
pub mod group_lag;
pub mod halt;
pub mod lag;
pub mod lease;
pub mod liveness;
pub mod overload;
pub mod pacing;
pub mod record;
pub mod rng;
pub mod schedule;
pub mod sequence_number;
pub mod shard_graph;
pub mod throughput;
