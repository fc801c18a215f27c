//! Records of a stream, decoded from a GetRecords answer without building maps.
//!
//! [`Page::decode`] goes over an answer's body once: it checks all of it, notes where each record, its keys and its
//! images are, and keeps the bytes. A [`RecordBatch`] is a run of those records or a choice of them, a [`Record`] a view
//! of one: metadata and keys at hand, images ([`Item`]s of [`Value`]s) decoded when asked for, and the service's own JSON
//! always there to be passed along.
//!
//! - `scan`: the JSON scanner that the rest stands on
//! - `page`: the pass over a body and the index that it leaves; `summary`: facts of its records
//! - `batch`, `view`: batches and records as processors see them
//! - `lambda_event`: the event that AWS Lambda makes of records
//! - `value`: attribute values; `key`: a number for a primary key

mod batch;
mod error;
mod key;
mod lambda_event;
mod page;
pub(in crate::model) mod scan;
mod summary;
mod value;
mod view;

pub use batch::{RecordBatch, Records};
pub use error::DecodeError;
pub use lambda_event::LambdaEvents;
#[cfg(feature = "cli")]
pub use lambda_event::write_adapter_json;
pub use page::Page;
pub use summary::PageSummary;
pub use value::{Item, Value};
pub use view::{EventName, OwnedRecord, Record, UserIdentity, ViewType};

#[cfg(test)]
mod tests;
