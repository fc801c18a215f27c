//! Workers as processes, on the local service: what they do when things are wrong at the start, when calls fail, when
//! they are stopped, killed, paused or cut off, and when they share a stream.

#![cfg(all(unix, feature = "cli", feature = "local"))]

#[expect(dead_code, reason = "the configuration tests use more of it")]
mod support;

#[path = "support/dashboard.rs"]
mod dashboard;
#[path = "support/deliveries.rs"]
mod deliveries;
#[path = "support/link.rs"]
mod link;
#[path = "support/local_service.rs"]
mod local_service;
#[path = "support/patience.rs"]
mod patience;
#[path = "support/scene.rs"]
mod scene;
#[path = "support/tools.rs"]
mod tools;

#[path = "processes/concurrency.rs"]
mod concurrency;
#[path = "processes/endings.rs"]
mod endings;
#[path = "processes/failing_calls.rs"]
mod failing_calls;
#[path = "processes/filtering.rs"]
mod filtering;
#[path = "processes/fleets.rs"]
mod fleets;
#[path = "processes/handlers.rs"]
mod handlers;
#[path = "processes/lost_records.rs"]
mod lost_records;
#[path = "processes/partitions.rs"]
mod partitions;
#[path = "processes/prometheus.rs"]
mod prometheus;
#[path = "processes/rolling.rs"]
mod rolling;
#[path = "processes/sharing.rs"]
mod sharing;
#[path = "processes/starting.rs"]
mod starting;
#[path = "processes/stopping.rs"]
mod stopping;
#[path = "processes/tables.rs"]
mod tables;
