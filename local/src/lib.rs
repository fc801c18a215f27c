//! The local service: DynamoDB with Streams in this process, for demos, tests and load.
//!
//! # Layout
//! [`World`] is the whole service as a deterministic state machine: `handle(now, request) -> answer`. It has no
//! clock, no threads and no randomness but its seed; equal calls in equal order give equal answers. Around it:
//! - [`LocalService`] is a cheap handle to one shared world with a [`Clock`]; it carries out injected faults.
//! - [`http`] serves it over HTTP/1.1; [`connector`] puts it beneath the real SDK without a socket.
//! - [`faults`] says what may go wrong on the way; [`stats`] counts what happened.
//!
//! Inside the world: `table` holds items, `items`, `batch`, `query`, `transaction` and `ttl` are the operations on
//! them, `tables` those on whole tables, `stream` the shards and their records. `request` reads parameters, `error`
//! has the service's errors, `limits` the rate limits.
//!
//! # What it leaves out
//! Indexes, PartiQL, backups, imports, tags, global tables, the legacy parameters (`Expected`, `AttributeUpdates`,
//! `KeyConditions` and their kin) and provisioned throughput. What is left out is refused, in the service's own
//! error shape, with a message that says so. Credentials are not checked.
//!
//! # Control plane
//! Served by [`http`] beside the API, each also a method of [`LocalService`]:
//! - `GET /_local/stats`: the counters of [`stats::Stats`] as JSON.
//! - `GET /_local/faults`: the fault plan in force. `POST /_local/faults` replaces it: see
//!   [`faults::FaultPlan::from_json`]; `{}` ends all faults. Its `policies` hold callers to
//!   what IAM would let them do.
//! - `POST /_local/streams`: `{"table": "Phones", "action": "split"}` changes the shards of a table's latest
//!   stream. Actions: `split` and `rollover` (of the shard named by `"shard"`, else of every open shard), and `trim`
//!   (drops the records of that shard, or of all, as if their retention were over). The answer lists the shards
//!   that were touched.
//! - `POST /_local/preload`: `{"table": "Phones", "records_per_shard": 1000, "keys_per_shard": 100, "value_bytes": 64,
//!   "value_attributes": 1, "first_version": 0, "pages_ahead": false}` writes made-up records to every open shard of a table's stream: see [`Preload`].
//! - `POST /_local/tick`: brings roll-over, trimming and expiry up to the service's clock.

pub mod connector;
pub mod faults;
pub mod http;
pub mod stats;

mod batch;
mod error;
mod expression;
mod items;
mod limits;
mod number;
mod options;
mod policy;
mod preload;
mod query;
mod random;
mod request;
mod service;
mod stream;
mod table;
mod tables;
#[cfg(test)]
mod tests;
mod timestamp;
mod transaction;
mod ttl;
mod value;
mod world;

pub use error::ServiceError;
pub use options::LocalOptions;
pub use policy::Policy;
pub use preload::Preload;
pub use service::{Clock, LocalService, LostCall};
pub use stream::StreamAction;
pub use timestamp::Timestamp;
pub use world::{Answer, Request, World};
