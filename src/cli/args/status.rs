//! The options of `shardkeeper status`.

use std::time::Duration;

use clap::Args;

use super::value::{self, HOUR, SECOND, duration};
use super::{AppArgs, AwsArgs, LivenessArgs, LogArgs};
use crate::options::StreamSelector;

const EPILOGUE: &str = "Exit codes: 0 the fleet could be read, however it is, 64 wrong usage, 1 it could not be.\n\n\
                        Example:\n  shardkeeper status --app phone-audit --watch";

/// Show an application's workers and shards, and what waits for what
///
/// Shows an application's workers, its leader, its shards, and what waits for what and why. It only reads. The workers'
/// items hold no times, so it watches their heartbeats until each has changed or is overdue: up to three tenths of the
/// lease duration, 1.5 s by default.
#[derive(Args)]
#[command(after_help = EPILOGUE, next_line_help = true)]
pub struct StatusArgs {
    #[command(flatten)]
    pub app: AppArgs,
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub form: FormArgs,
    /// The time from one look of --watch to the next; longer for fleets of thousands of shards.
    #[arg(long, value_name = "DURATION", value_parser = duration(SECOND..=HOUR), default_value = "2s")]
    pub interval: Duration,
    #[command(flatten)]
    pub liveness: LivenessArgs,
    #[command(flatten)]
    pub aws: AwsArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Args)]
#[group(multiple = false)]
pub struct FormArgs {
    /// Print one JSON object for programs: its fields are named in docs/operations.md and stay.
    #[arg(long)]
    pub json: bool,
    /// Look again and again, until q or Ctrl-C: full screen on a terminal (in color, unless NO_COLOR is set), else a line
    /// for each look with its events below.
    #[arg(long)]
    pub watch: bool,
}

#[derive(Args)]
#[group(multiple = false)]
pub struct SourceArgs {
    /// List the shards of this table's stream, rather than of the stream that the application is bound to.
    #[arg(long, value_name = "NAME|ARN", value_parser = value::table, env = "SHARDKEEPER_TABLE")]
    table: Option<String>,
    /// List the shards of this stream.
    #[arg(long, value_name = "ARN", value_parser = value::stream_arn, env = "SHARDKEEPER_STREAM_ARN")]
    stream_arn: Option<String>,
}

impl SourceArgs {
    pub fn table(&self) -> Option<&str> {
        self.table.as_deref()
    }

    pub fn selector(&self) -> Option<StreamSelector> {
        let arn = self.stream_arn.clone().map(StreamSelector::Arn);
        arn.or_else(|| self.table.clone().map(StreamSelector::Table))
    }
}
