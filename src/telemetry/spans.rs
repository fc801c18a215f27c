//! The spans of a worker's work, for a tracer that a program may install: a page's fetch, a batch with its deliveries, a
//! checkpoint.
//!
//! They have a target of their own, so that log lines look as they do without them. Without a tracer they cost a
//! comparison each.

use std::fmt::Display;

use tracing::{Span, field, trace_span};

use crate::model::lease::ShardId;
use crate::model::record::RecordBatch;

/// The target of all spans.
pub const TARGET: &str = "otel::shardkeeper";

/// The fetch of a page.
pub(crate) fn fetch(shard: &ShardId) -> Span {
    trace_span!(target: TARGET, "fetch", %shard, records = field::Empty, otel.status_code = field::Empty, error = field::Empty)
}

/// A batch, from its first delivery until all of its records are done.
pub(crate) fn batch(shard: &ShardId, records: &RecordBatch) -> Span {
    let first = records.iter().next().map(|record| field::display(record.sequence_number().to_owned()));
    trace_span!(target: TARGET, "batch", %shard, records = records.len(), first)
}

/// A call of the processor, linked to the call `before` with its records; `attempt` is the number of earlier calls.
pub(crate) fn deliver(records: usize, attempt: u32, before: &Span) -> Span {
    let span = trace_span!(target: TARGET, "deliver", otel.kind = "client", records, attempt, otel.status_code = field::Empty, error = field::Empty);
    span.follows_from(before);
    span
}

/// A checkpoint's way into the lease table.
pub(crate) fn checkpoint(shard: &ShardId) -> Span {
    trace_span!(target: TARGET, "checkpoint", %shard, otel.status_code = field::Empty, error = field::Empty)
}

/// Marks a span whose work failed.
pub(crate) fn fail(span: &Span, error: &impl Display) {
    span.record("otel.status_code", "ERROR").record("error", field::display(error));
}
