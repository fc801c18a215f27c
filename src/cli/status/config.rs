//! The options of `shardkeeper status`, and what they mean together.

use std::ffi::OsString;
use std::time::Duration;

use crate::cli::flags::SubCommand;
use crate::cli::layers::{Environment, Layers};
use crate::cli::logs::{self, LogConfig};
use crate::cli::mistakes::Mistakes;
use crate::cli::run_config::{self, APP, AwsOptions, ENDPOINT_URL, REGION, RUN, STREAMS_ENDPOINT_URL, Source};
use crate::cli::setting::{Reach, Setting};
use crate::cli::value;

/// Everything that a look at a fleet is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusConfig {
    /// The application.
    pub app: String,
    /// Which stream's shards are listed; none: the one that the application is bound to.
    pub source: Option<Source>,
    /// Whether the output is JSON.
    pub json: bool,
    /// The fleet's lease duration.
    pub lease_duration: Duration,
    /// Region and endpoints.
    pub aws: AwsOptions,
    /// Logs.
    pub logs: LogConfig,
}

const TABLE: Setting<String> = Setting::new("table", "NAME", value::table_name)
    .help("List the shards of this table's stream, rather than of the stream that the application is bound to.");

const STREAM_ARN: Setting<String> =
    Setting::new("stream-arn", "ARN", value::stream_arn).help("List the shards of this stream.");

const JSON: Setting<bool> = Setting::switch("json")
    .reach(Reach::Flag)
    .help("Print one JSON object for programs: its fields are named in docs/operations.md and stay.");

/// The lease duration that the fleet runs with, for those who look at it from outside.
pub const LEASE_DURATION: Setting<Duration> = run_config::LEASE_DURATION
    .help("The --lease-duration that the workers run with: what tells a late one from a dead one.");

/// The sub-command `status`.
pub const STATUS: SubCommand = SubCommand {
    name: "status",
    summary: "Show an application's workers and shards, and what waits for what",
    description: "Shows an application's workers, its leader, its shards, and what waits for what and why. It only \
                  reads. The workers' items hold no times, so it watches their heartbeats until each has changed or is \
                  overdue: up to three tenths of the lease duration, 1.5 s by default.",
    epilogue: "Exit codes: 0 the fleet was looked at, however it is, 64 wrong usage, 1 it could not be.\n\n\
               Example:\n  shardkeeper status --app phone-audit",
    table: &[
        &APP.about,
        &TABLE.about,
        &STREAM_ARN.about,
        &JSON.about,
        &LEASE_DURATION.about,
        &REGION.about,
        &ENDPOINT_URL.about,
        &STREAMS_ENDPOINT_URL.about,
        &logs::LEVEL.about,
        &logs::FORMAT.about,
    ],
    takes_layers: true,
    operands: None,
    children: &[],
};

/// What was typed for `shardkeeper status` becomes what it means.
///
/// # Errors
/// Every mistake in flags and environment.
pub fn read(arguments: &[OsString], environment: &Environment) -> Result<StatusConfig, Mistakes> {
    let mut layers = Layers::from_flags_and_environment(STATUS.table, RUN.table, arguments, environment);
    if layers.is_given(&TABLE.about) && layers.is_given(&STREAM_ARN.about) {
        let (table, stream) = (layers.place_of(&TABLE.about), layers.place_of(&STREAM_ARN.about));
        layers.add_mistake(format!("{table} and {stream}: both name a stream; give one of them"));
    }
    let table = layers.optional(&TABLE).map(Source::Table);
    let config = StatusConfig {
        app: layers.required(&APP),
        source: layers.optional(&STREAM_ARN).map(Source::StreamArn).or(table),
        json: layers.value(&JSON),
        lease_duration: layers.value(&LEASE_DURATION),
        aws: AwsOptions::from_layers(&mut layers),
        logs: LogConfig::from_layers(&mut layers),
    };
    layers.finish(config)
}
