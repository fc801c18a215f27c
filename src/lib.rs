//! A worker for DynamoDB Streams that scales by running more copies of it.

#![forbid(unsafe_code)]

pub mod aws;
#[cfg(feature = "cli")]
pub mod cli;
pub mod consumer;
pub mod core;
pub mod fleet;
#[cfg(feature = "local")]
pub mod local;
