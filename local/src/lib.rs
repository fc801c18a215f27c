//! DynamoDB with sharded Streams in memory: a test server.
//!
//! Streams behave as in AWS: a table's stream has many shards, which roll over, split and are trimmed; calls are
//! rate-limited; any call can be made to fail. Answers are held to the official DynamoDB Local's and to AWS's
//! documentation by one suite of transcripts.
//!
//! # In a Rust test
//! Two lines give the AWS SDK a DynamoDB of its own. No socket is opened, and tests share nothing:
//! ```
//! use shardkeeper_local::LocalService;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let service = LocalService::start();
//! let dynamodb = aws_sdk_dynamodb::Client::new(&service.sdk_config());
//!
//! let tables = dynamodb.list_tables().send().await?;
//! assert!(tables.table_names().is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! # With faults
//! A [`FaultPlan`] makes a share of calls fail, until the next plan replaces it:
//! ```
//! # use shardkeeper_local::{Effect, FaultPlan, FaultRule, LocalService, ServiceError};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let service = LocalService::start();
//! # let dynamodb = aws_sdk_dynamodb::Client::new(&service.sdk_config());
//! let refused = Effect::Refuse(ServiceError::new("AccessDeniedException", "not today"));
//! service.set_faults(FaultPlan { rules: vec![FaultRule::new(1.0, refused)], ..FaultPlan::default() });
//! assert!(dynamodb.list_tables().send().await.is_err());
//!
//! service.set_faults(FaultPlan::default());
//! assert!(dynamodb.list_tables().send().await.is_ok());
//! assert_eq!(service.stats().errors["ListTables"]["AccessDeniedException"], 1);
//! # Ok(())
//! # }
//! ```
//! A rule may name operations and tables, and end after a time; [`StreamFaults`] are the weaknesses of the streams' API:
//! stale listings, shards that are not known yet, pages without successor. [`InMemoryClient::hook`] decides call by call. [`LocalService::change_shards`] splits, rolls over and trims
//! shards, and a [`Clock`] of the test's own makes 24 hours pass at once.
//!
//! # For other processes
//! [`LocalService::listen`] serves the same tables on a port of this machine:
//! ```
//! # use shardkeeper_local::LocalService;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let service = LocalService::start();
//! let server = service.listen().await?;
//! let endpoint_url = server.url(); // http://127.0.0.1:41234, until `server` is dropped
//! # assert!(endpoint_url.starts_with("http://127.0.0.1:"));
//! # Ok(())
//! # }
//! ```
//!
//! # Data that stays
//! [`LocalService::open`] and [`LocalService::save`] keep a snapshot of all tables and streams in a folder.
//!
//! # Control plane
//! A browser that opens the service's address sees its tables, and its streams with their shards and records. Beside the
//! API there are these requests; each is also a method of [`LocalService`]:
//!
//! | request | effect |
//! | --- | --- |
//! | `GET /_local/stats` | the counters of [`Stats`] as JSON |
//! | `GET /_local/faults` | the fault plan in force |
//! | `POST /_local/faults` | replaces the fault plan: see [`FaultPlan::from_json`]; `{}` ends all faults |
//! | `POST /_local/streams` | `{"table": "Phones", "action": "split"}` changes the shards of a table's latest stream. Actions: `split` and `rollover` (of the shard named by `"shard"`, else of every open shard), and `trim` (drops records as if their retention were over). Answers the shards it touched |
//! | `POST /_local/preload` | `{"table": "Phones", "records_per_shard": 1000, "keys_per_shard": 100, "value_bytes": 64, "value_attributes": 1, "first_version": 0, "pages_ahead": false}` writes made-up records to every open shard: see [`Preload`] |
//! | `POST /_local/tick` | carries out the roll-over, trimming and expiry that are due |
//!
//! # Left out
//! PartiQL, backups, imports, global tables and throttling by provisioned throughput. A request for any of them is
//! refused in the service's own error shape, with a message that says so. Signatures are not checked.
//!
//! # Layout
//! `Emulator` is the whole service as a deterministic state machine, `handle(now, request) -> answer`, without clock,
//! threads or randomness other than its seed. Equal calls in equal order get equal answers. [`LocalService`] shares one
//! between callers, gives it the time and carries out faults. Two transports reach it: [`InMemoryClient`] beneath the
//! SDK, and a [`Server`] over HTTP/1.1.

mod batch;
mod capacity;
mod compression;
mod connector;
mod definition;
mod emulator;
mod error;
mod expression;
mod faults;
mod hash;
mod index;
mod items;
mod limits;
mod number;
mod options;
mod page;
mod plain;
mod policy;
mod preload;
mod query;
mod request;
mod server;
mod service;
mod snapshot;
mod stats;
mod stream;
mod table;
mod tables;
mod tags;
#[cfg(test)]
mod tests;
mod timestamp;
mod transaction;
mod ttl;
mod value;

pub use connector::{Call, FaultHook, InMemoryClient};
pub use emulator::{Answer, Request};
pub use error::ServiceError;
pub use faults::{Effect, FaultPlan, FaultRule, InjectedFault, StreamFaults};
pub use options::LocalOptions;
pub use plain::attributes;
pub use policy::Policy;
pub use preload::Preload;
pub use server::Server;
pub use service::{Clock, LocalService, LostCall};
pub use stats::{Stats, Units};
pub use stream::StreamAction;
pub use timestamp::Timestamp;
