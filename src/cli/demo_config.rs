//! The options of `shardkeeper demo`, and what they mean together.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::time::Duration;

use super::flags::SubCommand;
use super::layers::Layers;
use super::logs::{self, LogConfig};
use super::mistakes::Mistakes;
use super::setting::{Default, Kind, Setting};
use super::value;

/// Everything that the demonstration is told before it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoConfig {
    /// How long it takes.
    pub length: Duration,
    /// Worker processes at its start, from 1 to 16.
    pub workers: u32,
    /// Open shards of the stream, from 1 to 1000.
    pub shards: u32,
    /// How old a shard grows before it is closed and goes on in a child.
    pub rollover: Duration,
    /// Records written a second.
    pub records_per_second: NonZeroU32,
    /// Whether it goes on until it is interrupted, whatever `length` says.
    pub keep_going: bool,
    /// Logs.
    pub logs: LogConfig,
}

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

const FOR: Setting<Duration> = Setting::new("for", "DURATION", |text| value::duration(text, SECOND, DAY))
    .default(Default::Value("60s"))
    .help("How long it takes: 1s to 24h.");

const WORKERS: Setting<u32> = Setting::new("workers", "N", |text| value::whole(text, 1, 16))
    .kind(Kind::Integer)
    .default(Default::Value("3"))
    .help("How many worker processes there are at its start: 1 to 16.");

const SHARDS: Setting<u32> = Setting::new("shards", "N", |text| value::whole(text, 1, 1000))
    .kind(Kind::Integer)
    .default(Default::Value("8"))
    .help("How many open shards the stream has: 1 to 1000.");

const ROLLOVER: Setting<Duration> = Setting::new("rollover", "DURATION", |text| value::duration(text, SECOND, DAY))
    .default(Default::Value("20s"))
    .help("How old a shard grows before it is closed and goes on in a child: 1s to 24h.");

const RATE: Setting<NonZeroU32> = Setting::new("rate", "N", value::count)
    .kind(Kind::Integer)
    .default(Default::Value("50"))
    .help("How many records are written a second.");

const KEEP_GOING: Setting<bool> =
    Setting::switch("keep-going").help("Go on until Ctrl-C rather than end after --for, then say how it went.");

/// The sub-command `demo`.
pub const DEMO: SubCommand = SubCommand {
    name: "demo",
    summary: "Show it all on this machine: a stream, writers, workers, one of them killed; nothing to install",
    description: "Shows it all on this machine, with nothing to install: starts the local service, a writer and \
                  several worker processes, kills a worker and starts another, and checks in the end that every \
                  record arrived, in order.",
    epilogue: "Exit codes: 0 nothing missing and nothing out of order, 64 wrong usage, 1 otherwise.",
    table: &[
        &FOR.about,
        &WORKERS.about,
        &SHARDS.about,
        &ROLLOVER.about,
        &RATE.about,
        &KEEP_GOING.about,
        &logs::LEVEL.about,
        &logs::FORMAT.about,
    ],
    takes_layers: false,
    operands: None,
    children: &[],
};

/// What was typed for `shardkeeper demo` becomes what it means.
///
/// # Errors
/// Every mistake in the flags.
pub fn read(arguments: &[OsString]) -> Result<DemoConfig, Mistakes> {
    let mut layers = Layers::from_flags(DEMO.table, arguments);
    let config = DemoConfig {
        length: layers.value(&FOR),
        workers: layers.value(&WORKERS),
        shards: layers.value(&SHARDS),
        rollover: layers.value(&ROLLOVER),
        records_per_second: layers.value(&RATE),
        keep_going: layers.value(&KEEP_GOING),
        logs: LogConfig::from_layers(&mut layers),
    };
    layers.finish(config)
}
