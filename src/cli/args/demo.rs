//! The options of `shardkeeper demo`.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::Args;

use super::LogArgs;
use super::value::{DAY, SECOND, duration, whole};

/// Show it all on this machine: a stream, writers, workers, one of them killed; nothing to install
///
/// Shows it all on this machine, with nothing to install: starts the local service, a writer and several worker
/// processes, kills a worker and starts another, and checks in the end that every record arrived, in order.
#[derive(Args)]
#[command(
    after_help = "Exit codes: 0 nothing missing and nothing out of order, 64 wrong usage, 1 otherwise.",
    next_line_help = true
)]
pub struct DemoArgs {
    /// Length of the demonstration: 1s to 24h.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration(SECOND..=DAY), default_value = "60s")]
    pub length: Duration,
    /// Worker processes at its start: 1 to 16.
    #[arg(long, value_name = "N", value_parser = whole(1..=16u32), default_value = "3")]
    pub workers: u32,
    /// Open shards of the stream: 1 to 1000.
    #[arg(long, value_name = "N", value_parser = whole(1..=1000u32), default_value = "8")]
    pub shards: u32,
    /// Age at which a shard is closed and continues in a child: 1s to 24h.
    #[arg(long, value_name = "DURATION", value_parser = duration(SECOND..=DAY), default_value = "20s")]
    pub rollover: Duration,
    /// Records written a second.
    #[arg(long, value_name = "N", value_parser = whole(NonZeroU32::MIN..=NonZeroU32::MAX), default_value = "50")]
    pub rate: NonZeroU32,
    /// Run until Ctrl-C rather than end after --for, then say how it went.
    #[arg(long)]
    pub keep_going: bool,
    /// Open the page of the first worker in the browser: it shows the fleet, the kill and the take-over as they happen.
    #[arg(long)]
    pub open: bool,
    #[command(flatten)]
    pub log: LogArgs,
}
