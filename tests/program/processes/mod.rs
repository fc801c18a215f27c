//! Workers as processes, on the local service: what they do when things are wrong at the start, when calls fail, when
//! they are stopped, killed, paused or cut off, and when they share a stream.

mod concurrency;
mod endings;
mod failing_calls;
mod filtering;
mod fleets;
mod handlers;
mod hanging_handlers;
mod lost_records;
mod partitions;
mod prometheus;
mod rolling;
mod sharing;
mod standard_output;
mod starting;
mod stopping;
mod tables;
