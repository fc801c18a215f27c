//! A worker for DynamoDB Streams that scales by running more copies of it.
//!
//! Several processes divide the shards of a stream among themselves through leases in a DynamoDB table, as the
//! Kinesis Client Library does, checkpoint their progress, and take over from each other.
//!
//! ```no_run
//! use shardkeeper::{StreamSelector, Worker, WorkerOptions, for_each};
//!
//! # async fn example() -> Result<(), shardkeeper::Error> {
//! let options = WorkerOptions::new("phone-audit", StreamSelector::Table("Phones".into()), "worker-1");
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
//! - `model`: the decisions of a correct worker, without clock, runtime or network.
//! - `aws`: the calls: the stream, the lease table, the fleet table.
//! - `consumer`: reads the shards whose leases this worker holds, and hands their records to processors.
//! - `coordination`: who holds which lease: heartbeats, leader, assignment, hand-offs.
//! - `telemetry`: metrics, gauges and health of a running worker.
//! - `dead_letters`: records that the failure policy stopped retrying, and the places that keep them.
//! - `admin`: an operator's view of a fleet, and lease changes by hand.
//! - `worker`: wires all that together.
//! - `cli`: the `shardkeeper` program.

#![forbid(unsafe_code)]

#[cfg(feature = "cli")]
mod admin;
mod aws;
#[cfg(feature = "cli")]
mod cli;
mod consumer;
mod coordination;
mod dead_letters;
mod model;
mod options;
mod telemetry;
mod worker;

pub use aws::TableError;
pub use aws::clients::{ConfigError, Endpoints, SdkConfig};
pub use aws::stream::FindError;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub use cli::main;
pub use consumer::{
    BatchError, BoxError, CheckpointError, Checkpointer, CommitError, Committed, Counters, FailurePolicy, ForEach,
    ForEachRecord, MAX_WRITES, OnFailure, ProcessRecordsInput, ProcessorFactory, RecordProcessor, RefusedWrite,
    ShardContext, Totals, TransactWriteItem, WallClock, for_each,
};
pub use coordination::{Error as CoordinationError, WorkerExit};
pub use dead_letters::letter::{DeadLetter, FailureLimit};
pub use dead_letters::queue::{DeadLetterQueue, PrepareError, QueueFuture};
#[cfg(feature = "sqs")]
pub use dead_letters::sqs::SqsQueue;
pub use dead_letters::table::DeadLetterTable;
pub use model::checkpoint::Checkpoint;
pub use model::filter::{Error as FilterError, Events, Filters, Pattern};
pub use model::lease::ShardId;
pub use model::record::{
    DecodeError, EventName, Item, OwnedRecord, Record, RecordBatch, Records, UserIdentity, Value, ViewType,
};
pub use model::scaling::ScalingOptions;
pub use model::sequence_number::SequenceNumber;
pub use options::{Checkpoints, OnGap, OptionsError, StreamSelector, WorkerOptions};
pub use telemetry::{Health, WorkerTelemetry};
pub use worker::{Error, Report, Worker};

/// The private modules, for this package's own tests and benches. Not covered by semantic versioning.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    #[cfg(feature = "cli")]
    pub mod admin {
        pub use crate::admin::*;
    }
    pub mod aws {
        pub use crate::aws::*;
    }
    #[cfg(feature = "cli")]
    pub mod cli {
        pub use crate::cli::*;
    }
    pub mod consumer {
        pub use crate::consumer::*;
    }
    pub mod coordination {
        pub use crate::coordination::*;
    }
    pub mod dead_letters {
        pub use crate::dead_letters::*;
    }
    pub mod model {
        pub use crate::model::*;
    }
    pub mod telemetry {
        pub use crate::telemetry::*;
    }
    pub mod worker {
        pub use crate::worker::*;
    }
}
