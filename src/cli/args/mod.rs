//! The command line: a struct for each sub-command, and the groups of options that they share.
//!
//! A field is an option: its doc comment is the help text, `env` makes it a variable and, in `run`, a key of the
//! configuration file, and a hidden one is a secret, which only the environment gives. [`super::config`] parses.

pub mod check;
pub mod dead_letters;
#[cfg(feature = "local")]
pub mod demo;
pub mod lease;
#[cfg(feature = "local")]
pub mod local;
pub mod multilang;
pub mod reference;
pub mod replay;
pub mod run;
pub mod status;
pub mod value;

use std::io::IsTerminal;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use self::value::{HOUR, MINUTE, SECOND, duration, format_duration, one_of};
use super::config::Sources;
use super::logs::{Filter, Format, LogConfig};
use crate::aws::clients::{Endpoints, StreamAccess};
use crate::aws::endpoint_url;
use crate::options::{StreamSelector, WorkerOptions};

/// Reads a DynamoDB stream with any number of workers: start more copies, and they divide its shards among themselves.
#[derive(Parser)]
#[command(name = "shardkeeper", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    Run(Box<run::RunArgs>),
    Check(Box<check::CheckArgs>),
    Multilang(Box<multilang::MultilangArgs>),
    #[cfg(feature = "local")]
    Local(local::LocalArgs),
    #[cfg(feature = "local")]
    Demo(demo::DemoArgs),
    Status(status::StatusArgs),
    /// Release, assign or reset leases by hand
    ///
    /// Changes leases by hand: takes them from dead workers, moves them between live ones, or has a shard read again
    /// from another position. Shows what it would write, asks, and refuses what would break an invariant.
    #[command(subcommand)]
    Lease(lease::LeaseCommand),
    Replay(replay::ReplayArgs),
    /// List, show, replay or purge dead-lettered records
    ///
    /// Dead letters are records that `shardkeeper run --on-failure dead-letter` stopped retrying: each holds the whole
    /// record, why and how often it failed, where and when. They stay until they are replayed or purged.
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLettersCommand),
    Completions(reference::CompletionsArgs),
    Man(reference::ManArgs),
    /// Print the JSON Schema of the configuration file
    ///
    /// Prints the JSON Schema of the --config file, by which editors complete its keys and programs check it before a
    /// worker does. A file names it in its first line: #:schema ./config-schema.json
    ConfigSchema,
}

impl Command {
    /// Finds combinations of values that make no sense.
    pub fn check(&self, sources: &mut Sources) {
        match self {
            Self::Run(args) => args.check(sources),
            Self::Check(args) => args.run.check(sources),
            Self::Multilang(args) => args.run.check(sources),
            Self::DeadLetters(command) => command.store().check(sources),
            _ => {}
        }
    }

    /// The options of the worker that the sub-command runs, if it runs one.
    pub fn worker(&self) -> Option<&run::RunArgs> {
        match self {
            Self::Run(args) => Some(args),
            Self::Multilang(args) => Some(&args.run),
            _ => None,
        }
    }

    /// The log of the sub-command, if it has one.
    pub fn logs(&self) -> Option<LogConfig> {
        let args = match self {
            Self::Run(args) => &args.log,
            Self::Check(args) => &args.run.log,
            Self::Multilang(args) => &args.run.log,
            #[cfg(feature = "local")]
            Self::Local(args) => &args.log,
            #[cfg(feature = "local")]
            Self::Demo(args) => &args.log,
            Self::Status(args) => &args.log,
            Self::Lease(command) => &command.args().change.log,
            Self::Replay(args) => &args.change.log,
            Self::DeadLetters(command) => &command.store().log,
            Self::Completions(_) | Self::Man(_) | Self::ConfigSchema => return None,
        };
        let for_stderr = if std::io::stderr().is_terminal() { Format::Human } else { Format::Json };
        Some(LogConfig { filter: args.log_level.clone(), format: args.log_format.unwrap_or(for_stderr) })
    }
}

/// The library's defaults, which are the program's.
fn defaults() -> WorkerOptions {
    WorkerOptions::new("", StreamSelector::Table(String::new()), "")
}

const FLEET: &str = "The fleet";

#[derive(Args)]
#[command(next_help_heading = FLEET)]
pub struct AppArgs {
    /// The application: workers of the same name share the work. Its progress is kept in a DynamoDB table of this name,
    /// and the workers meet in a second one, NAME-Fleet. Must be given.
    #[arg(long, value_name = "NAME", value_parser = value::application, env = "SHARDKEEPER_APP")]
    pub app: String,
}

#[derive(Args)]
#[command(next_help_heading = FLEET)]
pub struct LivenessArgs {
    /// The --lease-duration that the workers run with, by which a late one is told from a dead one.
    #[arg(long, value_name = "DURATION", value_parser = duration(SECOND..=10 * MINUTE),
        default_value = format_duration(defaults().lease_duration), env = "SHARDKEEPER_LEASE_DURATION")]
    pub lease_duration: Duration,
}

#[derive(Args)]
#[command(next_help_heading = FLEET)]
pub struct KclArgs {
    /// For a lease table that the Kinesis Client Library left: how long a lease must stay unchanged before its owner
    /// there counts as dead (that library's failoverTimeMillis): 1s to 1h.
    #[arg(long, value_name = "DURATION", value_parser = duration(SECOND..=HOUR),
        default_value = format_duration(defaults().kcl_failover_time), env = "SHARDKEEPER_KCL_FAILOVER_TIME")]
    pub kcl_failover_time: Duration,
}

#[derive(Clone, Args)]
#[command(next_help_heading = "AWS (the SDK's own variables and files work without these)")]
pub struct AwsArgs {
    /// The region, such as eu-west-1; otherwise AWS_REGION or the profile's.
    #[arg(long, value_name = "REGION", value_parser = value::region, env = "SHARDKEEPER_REGION")]
    region: Option<String>,
    /// The URL of DynamoDB, for local services and private endpoints; otherwise AWS_ENDPOINT_URL_DYNAMODB,
    /// AWS_ENDPOINT_URL or the region's. DynamoDB Streams is expected there too, unless the next says otherwise.
    #[arg(long, value_name = "URL", value_parser = endpoint_url::parse, env = "SHARDKEEPER_ENDPOINT_URL")]
    endpoint_url: Option<String>,
    /// The URL of DynamoDB Streams; otherwise AWS_ENDPOINT_URL_DYNAMODB_STREAMS, AWS_ENDPOINT_URL or the region's.
    #[arg(long, value_name = "URL", value_parser = endpoint_url::parse, env = "SHARDKEEPER_STREAMS_ENDPOINT_URL")]
    streams_endpoint_url: Option<String>,
    /// The region of the stream, if it is not that of the application's tables; otherwise that of --table's ARN.
    #[arg(long, value_name = "REGION", value_parser = value::region, env = "SHARDKEEPER_STREAM_REGION")]
    stream_region: Option<String>,
    /// A role to assume for calls on the stream and its table, for example in another account.
    #[arg(long, value_name = "ARN", value_parser = value::role_arn, env = "SHARDKEEPER_STREAM_ROLE_ARN")]
    stream_role_arn: Option<String>,
    /// The external id that this role's trust policy asks for.
    #[arg(long, value_name = "ID", value_parser = value::text, env = "SHARDKEEPER_STREAM_ROLE_EXTERNAL_ID")]
    stream_role_external_id: Option<String>,
    /// The name of this role's sessions, which the other account's CloudTrail shows; by default shardkeeper.
    #[arg(long, value_name = "NAME", value_parser = value::text, env = "SHARDKEEPER_STREAM_ROLE_SESSION_NAME")]
    stream_role_session_name: Option<String>,
}

impl AwsArgs {
    /// The places of the services, for a stream of `table`.
    pub fn endpoints(&self, table: Option<&str>) -> Endpoints {
        let of_table = || table.and_then(value::region_of).map(str::to_owned);
        Endpoints {
            stream: StreamAccess {
                region: self.stream_region.clone().or_else(of_table),
                role_arn: self.stream_role_arn.clone(),
                external_id: self.stream_role_external_id.clone(),
                session_name: self.stream_role_session_name.clone(),
            },
            region: self.region.clone(),
            url: self.endpoint_url.clone(),
            streams_url: self.streams_endpoint_url.clone(),
        }
    }
}

#[derive(Args)]
#[command(next_help_heading = "Logs")]
pub struct LogArgs {
    /// Level of the log on standard error: off, error, warn, info, debug or trace of shardkeeper itself (libraries log
    /// from warn on), or a filter such as info,aws_sdk_dynamodb=debug.
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "SHARDKEEPER_LOG_LEVEL")]
    log_level: Filter,
    /// The form of log lines; by default human on a terminal, json elsewhere.
    #[arg(long, value_name = "human|json", env = "SHARDKEEPER_LOG_FORMAT",
        value_parser = one_of(&[("human", Format::Human), ("json", Format::Json)]))]
    log_format: Option<Format>,
}
