//! A worker for DynamoDB Streams that scales by running more copies of it.
//!
//! Several processes divide the shards of a stream among themselves through leases in a DynamoDB table, as the
//! Kinesis Client Library does, checkpoint their progress, and take over from each other.
//!
//! ```no_run
//! use shardkeeper::{Options, StreamSelector, Worker, for_each};
//!
//! # async fn example() -> Result<(), shardkeeper::worker::Error> {
//! let options = Options::new("phone-audit", StreamSelector::Table("Phones".into()), "worker-1");
//! let worker = Worker::new(options, for_each(async |record| {
//!     println!("{}", record.view().json());
//!     Ok(())
//! }));
//! worker.run(async { drop(tokio::signal::ctrl_c().await) }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! DescribeStream -> `ShardGraph` -> leases -> assignment -> `ShardConsumer`: iterator -> GetRecords -> [`RecordBatch`]
//! -> [`RecordProcessor`] -> acknowledged positions -> [`Checkpointer`] -> lease row.
//!
//! - [`core`]: what a correct worker decides, without clock, runtime or network.
//! - [`aws`]: the calls: the stream, the lease table, the fleet table.
//! - [`consumer`]: reads the shards whose leases this worker holds, and hands their records to processors.
//! - [`fleet`]: who holds which lease: heartbeats, leader, assignment, hand-over.
//! - [`worker`]: wires all that together. [`metrics`]: what it counts.
//! - `cli`: the `shardkeeper` program.
//! - `local`: DynamoDB with Streams in this process, for demos, tests and load.

#![forbid(unsafe_code)]

pub mod aws;
#[cfg(feature = "cli")]
pub mod cli;
pub mod consumer;
pub mod core;
pub mod fleet;
#[cfg(feature = "local")]
pub mod local;
pub mod metrics;
pub mod worker;

pub use consumer::{
    BatchError, CheckpointError, Checkpointer, Checkpoints, CommitError, Committed, DeadLetterQueue, FailurePolicy,
    OnFailure, OnGap, ProcessRecordsInput, ProcessorFactory, RecordProcessor, ShardContext, for_each,
};
pub use core::filter::{Events, Filters, Pattern};
pub use core::record::{OwnedRecord, Record, RecordBatch};
pub use core::sequence_number::SequenceNumber;
pub use worker::{Options, Report, StreamSelector, Worker};
