//! The options of `shardkeeper local`, and what they mean together.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use super::flags::SubCommand;
use super::layers::Layers;
use super::logs::{self, LogConfig};
use super::mistakes::Mistakes;
use super::setting::{Default, Kind, Setting};
use super::value;

/// Everything that the local service is told before it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalConfig {
    /// Where it listens; port 0 stands for any free one.
    pub address: SocketAddr,
    /// Open shards of a new stream, from 1 to 10000.
    pub shards: u32,
    /// How old a shard grows before it is closed and goes on in a child.
    pub rollover: Duration,
    /// How long a record is kept.
    pub retention: Duration,
    /// How long a shard iterator can be used.
    pub iterator_ttl: Duration,
    /// GetRecords calls allowed a second, for each shard; none: no limit.
    pub get_records_per_second: Option<NonZeroU32>,
    /// DescribeStream calls allowed a second; none: no limit.
    pub describe_stream_per_second: Option<NonZeroU32>,
    /// What its random choices follow from; none: a new one each time.
    pub seed: Option<u64>,
    /// What time it is there.
    pub clock: ClockStart,
    /// Logs.
    pub logs: LogConfig,
}

/// What time it is at the local service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockStart {
    /// The machine's time.
    Real,
    /// This time at start, in milliseconds since 1970, and then as fast as the machine's.
    At {
        /// Milliseconds since 1970-01-01T00:00:00Z.
        epoch_ms: u64,
    },
}

const MILLISECOND: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// 9999-12-31T23:59:59.999Z, the last time with a four-digit year.
const LATEST_EPOCH_MS: u64 = 253_402_300_799_999;

const PORT: Setting<u16> = Setting::new("port", "PORT", |text| value::whole(text, 0, u16::MAX))
    .kind(Kind::Integer)
    .default(Default::Value("8000"))
    .help("The port to listen on; 0 takes any free one and says which.");

const HOST: Setting<IpAddr> = Setting::new("host", "ADDRESS", value::ip_address)
    .default(Default::Value("127.0.0.1"))
    .help("The IP address to listen on; 0.0.0.0 lets other machines in.");

const SHARDS: Setting<u32> = Setting::new("shards", "N", |text| value::whole(text, 1, 10_000))
    .kind(Kind::Integer)
    .default(Default::Value("4"))
    .help("How many open shards a table's stream has: 1 to 10000.");

const ROLLOVER: Setting<Duration> = Setting::new("rollover", "DURATION", a_while)
    .default(Default::Value("4h"))
    .help("How old a shard grows before it is closed and goes on in a child.");

const RETENTION: Setting<Duration> =
    Setting::new("retention", "DURATION", a_while).default(Default::Value("24h")).help("How long a record is kept.");

const ITERATOR_TTL: Setting<Duration> = Setting::new("iterator-ttl", "DURATION", a_while)
    .default(Default::Value("15m"))
    .help("How long a shard iterator can be used.");

const GET_RECORDS_PER_SECOND: Setting<NonZeroU32> = Setting::new("get-records-per-second", "N", value::count)
    .kind(Kind::Integer)
    .help("How many GetRecords calls a second each shard allows; without it, any number.");

const DESCRIBE_STREAM_PER_SECOND: Setting<NonZeroU32> = Setting::new("describe-stream-per-second", "N", value::count)
    .kind(Kind::Integer)
    .help("How many DescribeStream calls a second are allowed; without it, any number.");

const SEED: Setting<u64> = Setting::new("seed", "N", |text| value::whole(text, 0, u64::MAX))
    .kind(Kind::Integer)
    .help("Makes the same calls get the same answers each time, for tests.");

const CLOCK: Setting<ClockStart> =
    Setting::new("clock", "real|EPOCH_MS", parse_clock).default(Default::Value("real")).help(
        "What time it is there at start: the machine's, or this many milliseconds since 1970. It then runs in real \
         time.",
    );

/// The sub-command `local`.
pub const LOCAL: SubCommand = SubCommand {
    name: "local",
    summary: "Serve DynamoDB with Streams on this machine, in memory, for trials and tests",
    description: "Serves DynamoDB with Streams on this machine, for trials and tests: many shards, roll-over, \
                  trimming and limits as in the real service. Data lives in memory and ends with the process.",
    epilogue: "Durations: 500ms, 5s, 2m, 4h.\n\n\
               Example:\n  shardkeeper local --shards 8 --rollover 1m",
    table: &[
        &PORT.about,
        &HOST.about,
        &SHARDS.about,
        &ROLLOVER.about,
        &RETENTION.about,
        &ITERATOR_TTL.about,
        &GET_RECORDS_PER_SECOND.about,
        &DESCRIBE_STREAM_PER_SECOND.about,
        &SEED.about,
        &CLOCK.about,
        &logs::LEVEL.about,
        &logs::FORMAT.about,
    ],
    takes_layers: false,
    operands: None,
    children: &[],
};

/// What was typed for `shardkeeper local` becomes what it means.
///
/// # Errors
/// Every mistake in the flags.
pub fn read(arguments: &[OsString]) -> Result<LocalConfig, Mistakes> {
    let mut layers = Layers::from_flags(LOCAL.table, arguments);
    let config = LocalConfig {
        address: SocketAddr::new(layers.value(&HOST), layers.value(&PORT)),
        shards: layers.value(&SHARDS),
        rollover: layers.value(&ROLLOVER),
        retention: layers.value(&RETENTION),
        iterator_ttl: layers.value(&ITERATOR_TTL),
        get_records_per_second: layers.optional(&GET_RECORDS_PER_SECOND),
        describe_stream_per_second: layers.optional(&DESCRIBE_STREAM_PER_SECOND),
        seed: layers.optional(&SEED),
        clock: layers.value(&CLOCK),
        logs: LogConfig::from_layers(&mut layers),
    };
    layers.finish(config)
}

fn a_while(text: &str) -> Result<Duration, String> {
    value::duration(text, MILLISECOND, LONGEST)
}

fn parse_clock(text: &str) -> Result<ClockStart, String> {
    if text == "real" {
        return Ok(ClockStart::Real);
    }
    value::whole(text, 0, LATEST_EPOCH_MS)
        .map(|epoch_ms| ClockStart::At { epoch_ms })
        .map_err(|error| format!("{error}; write real, or milliseconds since 1970"))
}
