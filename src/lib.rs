//! A worker for DynamoDB Streams that scales by running more copies of it.
//!
//! Several processes divide the shards of a stream among themselves through leases in a DynamoDB table, as the Kinesis
//! Client Library (KCL) does. They checkpoint their progress and take over from each other.
//!
//! # A closure
//!
//! A [`Worker`] needs the name of its application, a table, and something to do with each record:
//!
//! ```no_run
//! use shardkeeper::Worker;
//!
//! # async fn example() -> Result<(), shardkeeper::Error> {
//! let worker = Worker::builder("phone-audit", "Phones").for_each(async |record| println!("{}", record.json()));
//! worker.run(async { drop(tokio::signal::ctrl_c().await) }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The closure is called with one record after the other, in each shard's order. A record counts as done when the closure
//! returns; when it returns an error, of any type, the record is retried, as the [`FailurePolicy`] says. Every record is
//! delivered at least once. What the closure needs is given to it by [`with_state`](WorkerBuilder::with_state).
//!
//! # A processor
//!
//! A [`RecordProcessor`] gets batches, and the whole life cycle of a shard. One processor is made for each shard that
//! this worker reads:
//!
//! ```
//! use shardkeeper::{
//!     BatchError, BoxError, Checkpointer, ProcessRecordsInput, RecordProcessor, ShardContext,
//! };
//!
//! /// Counts records, and checkpoints when a count is stored.
//! struct Count {
//!     records: usize,
//! }
//!
//! impl RecordProcessor for Count {
//!     async fn initialize(&mut self, shard: &ShardContext) -> Result<(), BoxError> {
//!         println!("reading {} after {}", shard.shard_id, shard.checkpoint);
//!         Ok(())
//!     }
//!
//!     async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
//!         self.records += input.records.len();
//!         if self.records >= 1_000 {
//!             self.store(&input.checkpointer).await?;
//!         }
//!         Ok(())
//!     }
//!
//!     /// Another worker has the shard and counts from the last checkpoint.
//!     async fn lease_lost(&mut self) {
//!         self.records = 0;
//!     }
//!
//!     /// The shard has been split or rolled over. Its children start when this returns.
//!     async fn shard_ended(&mut self, checkpointer: &Checkpointer) -> Result<(), BoxError> {
//!         self.store(checkpointer).await
//!     }
//!
//!     /// The lease is about to go to another worker, or the program to end.
//!     async fn shutdown_requested(&mut self, checkpointer: &Checkpointer) {
//!         if let Err(error) = self.store(checkpointer).await {
//!             eprintln!("count not stored: {error}");
//!         }
//!     }
//! }
//!
//! impl Count {
//!     async fn store(&mut self, checkpointer: &Checkpointer) -> Result<(), BoxError> {
//!         println!("{} records", self.records); // in place of a write to a database
//!         checkpointer.checkpoint().await?;
//!         self.records = 0;
//!         Ok(())
//!     }
//! }
//!
//! # async fn example() -> Result<(), shardkeeper::Error> {
//! use shardkeeper::Worker;
//!
//! let builder = Worker::builder("count", "Phones").manual_checkpoints();
//! let worker = builder.processors(|_| Count { records: 0 });
//! worker.run(async { drop(tokio::signal::ctrl_c().await) }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! With [`Checkpoints::Automatic`], the default, a batch is checkpointed some time after `process_records` returned
//! `Ok`, and there is no need for a [`Checkpointer`]. [`Checkpointer::commit`] makes a processor's own writes to DynamoDB
//! and the checkpoint in one transaction, so that each record takes effect once.
//!
//! # Tests
//!
//! The crate `shardkeeper-local` is DynamoDB with Streams in memory. A worker reads from it as from the service, here up
//! to the records that are there:
//!
//! ```
//! use shardkeeper::{Worker, WorkerExit};
//! use shardkeeper_local::LocalService;
//! # use aws_sdk_dynamodb::types::*;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = LocalService::start().sdk_config();
//! let client = aws_sdk_dynamodb::Client::new(&config);
//! // … create the table "Phones" with a stream …
//! # client
//! #     .create_table()
//! #     .table_name("Phones")
//! #     .billing_mode(BillingMode::PayPerRequest)
//! #     .attribute_definitions(
//! #         AttributeDefinition::builder().attribute_name("id").attribute_type(ScalarAttributeType::S).build()?,
//! #     )
//! #     .key_schema(KeySchemaElement::builder().attribute_name("id").key_type(KeyType::Hash).build()?)
//! #     .stream_specification(
//! #         StreamSpecification::builder()
//! #             .stream_enabled(true)
//! #             .stream_view_type(StreamViewType::NewAndOldImages)
//! #             .build()?,
//! #     )
//! #     .send()
//! #     .await?;
//! client.put_item().table_name("Phones").item("id", AttributeValue::S("1".into())).send().await?;
//!
//! let worker = Worker::builder("test", "Phones").sdk_config(config).until_caught_up().for_each(async |_| ());
//! let report = worker.run(std::future::pending()).await?;
//! assert_eq!((report.ending, report.totals.records), (WorkerExit::CaughtUp, 1));
//! # Ok(())
//! # }
//! ```
//!
//! # Operation
//!
//! [`Worker::telemetry`] has the health and the gauges of a running worker, for the recorder of the `metrics` crate.
//! The program `shardkeeper` is this library behind a command line, with sinks, an admin server, and commands for the
//! leases and dead letters of a running application.
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
// `internals` makes private modules reachable, whose items need a comment only where name and type don't say it.
#![cfg_attr(feature = "internals", allow(missing_docs))]
// The program uses parts that the library alone does not; a build with `cli` finds dead code.
#![cfg_attr(not(feature = "cli"), allow(dead_code, unused_imports))]

#[cfg(feature = "cli")]
mod admin;
mod aws;
#[cfg(feature = "cli")]
mod cli;
mod consumer;
mod coordination;
mod dead_letters;
mod error;
mod model;
mod options;
mod retry;
mod shard_directory;
mod telemetry;
mod worker;

pub use aws::clients::{ConfigError, Endpoints, SdkConfig, StreamAccess};
#[cfg(feature = "serde_dynamo")]
pub use aws::record::DeserializeError;
pub use aws::sdk as aws_sdk;
pub use aws::stream::FindError;
pub use aws::transaction::Transaction;
pub use aws::{CallError, TableError, TableRole};
#[cfg(feature = "cli")]
#[doc(hidden)]
pub use cli::main;
pub use consumer::{
    BatchError, BoxError, BoxProcessor, CheckpointError, Checkpointer, CommitError, Committed, Counters, FailurePolicy,
    ForEach, HandlerOutcome, MAX_WRITES, OnFailure, PartialFailure, ProcessRecordsInput, ProcessorFactory, Projection,
    ReadAgain, RecordProcessor, RefusedWrite, ShardContext, Totals, TransactWriteItem, for_each,
};
#[doc(hidden)]
pub use consumer::{ForEachRecord, WallClock};
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
pub use options::{Checkpoints, OnGap, OptionsError, StartPosition, StreamSelector, WorkerOptions};
pub use telemetry::{Health, WorkerTelemetry};
pub use worker::{Error, Report, WithState, Worker, WorkerBuilder, WorkerHandle};

/// A harness for processors and a DynamoDB in memory, for tests. Behind the feature `testing`.
#[cfg(feature = "testing")]
pub mod testing {
    pub use shardkeeper_local::LocalService;

    pub use crate::consumer::harness::{Change, DeliveryError, Harness};
}

/// The worker's metrics, for a recorder of one's own.
pub mod metrics {
    pub use crate::telemetry::catalogue::describe;

    use crate::telemetry::catalogue::ALL;

    /// The histograms, each with the upper bounds of its buckets.
    pub fn buckets() -> impl Iterator<Item = (&'static str, &'static [f64])> {
        ALL.iter().filter(|metric| !metric.buckets.is_empty()).map(|metric| (metric.name, metric.buckets))
    }
}

/// The programs of README.md and docs/library.md, which are compiled with the tests.
#[cfg(all(doctest, feature = "testing", feature = "serde_dynamo"))]
mod documents {
    #[doc = include_str!("../README.md")]
    mod readme {}
    #[doc = include_str!("../docs/library.md")]
    mod library {}
}

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
    pub mod shard_directory {
        pub use crate::shard_directory::*;
    }
    pub mod telemetry {
        pub use crate::telemetry::*;
    }
    pub mod worker {
        pub use crate::worker::*;
    }
}
