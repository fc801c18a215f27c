//! The options of `shardkeeper local`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::LogArgs;
use super::value::{self, DAY, MILLISECOND, duration, whole};

const YEAR: Duration = Duration::from_secs(365 * DAY.as_secs());
/// 9999-12-31T23:59:59.999Z, the last time with a four-digit year.
const LATEST_EPOCH_MS: u64 = 253_402_300_799_999;

const EPILOGUE: &str = "Durations: 500ms, 5s, 2m, 4h.\n\nExample:\n  shardkeeper local --shards 8 --rollover 1m";

/// Serve DynamoDB with Streams on this machine, in memory, for trials and tests
///
/// Serves DynamoDB with Streams on this machine, for trials and tests: many shards, roll-over, trimming and limits as in
/// the real service. Data lives in memory and ends with the process, unless --data keeps it.
#[derive(Args)]
#[command(after_help = EPILOGUE, next_line_help = true)]
pub struct LocalArgs {
    /// The port to listen on; 0 takes any free one and says which.
    #[arg(long, value_name = "PORT", value_parser = whole(0..=u16::MAX), default_value = "8000")]
    pub port: u16,
    /// The IP address to listen on; 0.0.0.0 lets other machines in.
    #[arg(long, value_name = "ADDRESS", value_parser = ip_address, default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Open shards of a table's stream: 1 to 10000.
    #[arg(long, value_name = "N", value_parser = whole(1..=10_000u32), default_value = "4")]
    pub shards: u32,
    /// Age at which a shard is closed and continues in a child.
    #[arg(long, value_name = "DURATION", value_parser = duration(MILLISECOND..=YEAR), default_value = "4h")]
    pub rollover: Duration,
    /// Time that a record is kept.
    #[arg(long, value_name = "DURATION", value_parser = duration(MILLISECOND..=YEAR), default_value = "24h")]
    pub retention: Duration,
    /// Time that a shard iterator can be used.
    #[arg(long, value_name = "DURATION", value_parser = duration(MILLISECOND..=YEAR), default_value = "15m")]
    pub iterator_ttl: Duration,
    /// GetRecords calls a second that each shard allows; without it, any number.
    #[arg(long, value_name = "N", value_parser = whole(1..=u32::MAX))]
    pub get_records_per_second: Option<u32>,
    /// DescribeStream calls a second that are allowed; without it, any number.
    #[arg(long, value_name = "N", value_parser = whole(1..=u32::MAX))]
    pub describe_stream_per_second: Option<u32>,
    /// Makes the same calls get the same answers each time, for tests.
    #[arg(long, value_name = "N", value_parser = whole(0..=u64::MAX))]
    pub seed: Option<u64>,
    /// The time there at start: the machine's, or this many milliseconds since 1970. It then runs in real time.
    #[arg(long, value_name = "real|EPOCH_MS", value_parser = clock, default_value = "real")]
    pub clock: ClockStart,
    /// Folder to keep the data in: loaded at start, saved each ten seconds and at the end. Without it, data ends with the
    /// process.
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub log: LogArgs,
}

/// The local service's time at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockStart {
    Real,
    At { epoch_ms: u64 },
}

fn ip_address(text: &str) -> Result<IpAddr, String> {
    if text == "localhost" {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    text.parse().map_err(|_| format!("{text:?} is not an IP address; write 127.0.0.1 or 0.0.0.0"))
}

fn clock(text: &str) -> Result<ClockStart, String> {
    if text == "real" {
        return Ok(ClockStart::Real);
    }
    value::parse_whole(text, &(0..=LATEST_EPOCH_MS))
        .map(|epoch_ms| ClockStart::At { epoch_ms })
        .map_err(|error| format!("{error}; write real, or milliseconds since 1970"))
}
