//! The options of `shardkeeper run`.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgAction, Args};

use super::value::{
    self, DAY, HOUR, MILLISECOND, MINUTE, Patterns, SECOND, bytes, duration, format_bytes, format_duration, one_of,
    whole,
};
use super::{AppArgs, AwsArgs, FLEET, KclArgs, LogArgs, defaults};
use crate::cli::config::Sources;
use crate::cli::sinks::SinkArgs;
use crate::consumer::FailurePolicy;
use crate::dead_letters::target::DeadLetterTarget;
use crate::model::batcher::{MOST_BYTES, MOST_RECORDS};
use crate::model::filter::{Events, Filters};
use crate::model::scaling::ScalingOptions;
use crate::options::{Checkpoints, OnGap, StartPosition, StreamSelector, WorkerOptions};
use crate::worker::default_worker_id;

pub const READING: &str = "Source and destination of records";
pub const FAILURES: &str = "When records fail";

const EPILOGUE: &str = "Each option can also be an environment variable, or a key of the --config file; flags go before \
                        variables, variables before the file. Durations: 500ms, 5s, 2m, 4h. Sizes: 64MiB, 100MB.\n\n\
                        Exit codes: 0 done or asked to stop, 64 wrong usage or configuration, 1 a failure.\n\n\
                        Example:\n  shardkeeper run --table Phones --app phone-audit";

/// Read a stream, together with all other workers of the same application
///
/// Reads a DynamoDB stream, together with all other workers of the same application: each record is delivered at least
/// once, and in order for each item. Run it again, here or on another machine, and the workers share the shards.
#[derive(Args)]
#[command(after_help = EPILOGUE, next_line_help = true)]
pub struct RunArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    start: StartArgs,
    #[command(flatten)]
    pub sink: SinkArgs,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    failure: FailureArgs,
    #[command(flatten)]
    batch: BatchArgs,
    #[command(flatten)]
    pub app: AppArgs,
    #[command(flatten)]
    fleet: FleetArgs,
    #[command(flatten)]
    kcl: KclArgs,
    #[command(flatten)]
    pace: PaceArgs,
    #[command(flatten)]
    aws: AwsArgs,
    #[command(flatten)]
    pub admin: AdminArgs,
    #[command(flatten)]
    scaling: ScalingArgs,
    #[command(flatten)]
    pub program: ProgramArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Args)]
#[command(next_help_heading = READING)]
#[group(required = true, multiple = false)]
pub struct SourceArgs {
    /// The table whose stream is read, by its name, or by its ARN if it is in another account or region. Either this or
    /// --stream-arn must be given.
    #[arg(long, value_name = "NAME|ARN", value_parser = value::table, env = "SHARDKEEPER_TABLE")]
    table: Option<String>,
    /// The stream to read, by its ARN: for example an older stream of a table that has a newer one.
    #[arg(long, value_name = "ARN", value_parser = value::stream_arn, env = "SHARDKEEPER_STREAM_ARN")]
    stream_arn: Option<String>,
}

#[derive(Args)]
#[command(next_help_heading = READING)]
struct StartArgs {
    /// The position to begin at when the application has no progress yet: the oldest record that the service still has,
    /// the first record from now on, a time such as 2026-01-31T12:00:00Z, or an age such as 6h. What is older than 24
    /// hours is a gap.
    #[arg(long, value_name = "trim-horizon|latest|TIME|AGE", default_value = "trim-horizon", env = "SHARDKEEPER_START",
        value_parser = value::start_position)]
    start: StartPosition,
    /// Wait for a table that is missing or has no stream yet, for at most --start-timeout, rather than exit at once.
    #[arg(long, env = "SHARDKEEPER_WAIT_FOR_TABLE")]
    wait_for_table: bool,
    /// Exit once everything that was in the stream at the start is delivered and checkpointed.
    #[arg(long, env = "SHARDKEEPER_UNTIL_CAUGHT_UP")]
    until_caught_up: bool,
    /// When records were trimmed by the service before they were read: continue at the oldest one left, or stop there.
    #[arg(long, value_name = "continue|stop", default_value = "continue", env = "SHARDKEEPER_ON_GAP",
        value_parser = one_of(&[("continue", OnGap::Continue), ("stop", OnGap::Stop)]))]
    on_gap: OnGap,
}

#[derive(Args)]
#[command(next_help_heading = READING)]
struct FilterArgs {
    /// Deliver only records that match this pattern, in AWS Lambda's syntax for DynamoDB:
    /// {"dynamodb":{"NewImage":{"status":{"S":["paid"]}}}}. Given several times, one of them has to match; in the
    /// environment, several are a JSON array.
    #[arg(long, value_name = "PATTERN", env = "SHARDKEEPER_FILTER")]
    filter: Vec<Patterns>,
    /// Deliver only these kinds of changes: insert, modify, remove, with commas between them.
    #[arg(long, value_name = "LIST", env = "SHARDKEEPER_EVENTS")]
    events: Option<Events>,
    /// Leave out removals by time to live.
    #[arg(long, env = "SHARDKEEPER_SKIP_TTL_DELETES")]
    skip_ttl_deletes: bool,
    /// Leave out writes that a global table of version 2017.11.29 replicates from another region. The current version
    /// does not mark them.
    #[arg(long, env = "SHARDKEEPER_SKIP_REPLICATED")]
    skip_replicated: bool,
}

impl FilterArgs {
    fn filters(&self) -> Filters {
        let filters = Filters::new().skip_ttl_deletes(self.skip_ttl_deletes).skip_replicated(self.skip_replicated);
        let filters = match self.events {
            Some(events) => filters.events(events),
            None => filters,
        };
        self.filter.iter().flat_map(|patterns| &patterns.0).cloned().fold(filters, Filters::or)
    }
}

#[derive(Args)]
#[command(next_help_heading = FAILURES)]
struct FailureArgs {
    /// Retries of the same records before --on-failure applies: 0 to 10000; without it, forever.
    #[arg(long, value_name = "N", value_parser = whole(0..=10_000u32), env = "SHARDKEEPER_RETRY_ATTEMPTS")]
    retry_attempts: Option<u32>,
    /// The age from which on --on-failure applies to records that have failed: 1s to 24h; without it, none.
    #[arg(long, value_name = "DURATION", value_parser = duration(SECOND..=DAY), env = "SHARDKEEPER_MAX_RECORD_AGE")]
    max_record_age: Option<Duration>,
    /// Whether a batch that fails is cut in half again and again, until only the record at fault is left.
    #[arg(long, value_name = "true|false", value_parser = value::switch, action = ArgAction::Set,
        default_value = "true", env = "SHARDKEEPER_BISECT")]
    bisect: bool,
    /// The action when a limit is reached: the shard waits and retries, and nothing is lost; the record becomes a dead
    /// letter; or it is skipped, with a line in the log.
    #[arg(long, value_name = "halt|dead-letter|skip", default_value = "halt", env = "SHARDKEEPER_ON_FAILURE",
        value_parser = one_of(&[
            ("halt", OnFailure::Halt), ("dead-letter", OnFailure::DeadLetter), ("skip", OnFailure::Skip),
        ]))]
    on_failure: OnFailure,
    /// The place for records that --on-failure dead-letter sets aside: a DynamoDB table, the application's name and
    /// -DeadLetters; a file of this worker's own, a line of JSON each; or an SQS queue (a program built with the feature
    /// sqs).
    #[arg(long, value_name = "table|file:PATH|sqs:URL", value_parser = DeadLetterTarget::parse, default_value = "table",
        env = "SHARDKEEPER_DEAD_LETTERS")]
    dead_letters: DeadLetterTarget,
    /// Time that one delivery may take before it counts as failed: 10ms to 1h; without it, 15m for a handler over HTTP,
    /// as long as a Lambda function may run, and any time otherwise.
    #[arg(long, value_name = "DURATION", value_parser = duration(10 * MILLISECOND..=HOUR),
        env = "SHARDKEEPER_HANDLER_TIMEOUT")]
    handler_timeout: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    Halt,
    DeadLetter,
    Skip,
}

#[derive(Args)]
#[command(next_help_heading = "Batches and concurrency")]
struct BatchArgs {
    /// The most records of a batch: 1 to 10000; without it, 100 for a handler at a URL, else what the service sends at
    /// once, up to 1000.
    #[arg(long, value_name = "N", value_parser = whole(1..=MOST_RECORDS), env = "SHARDKEEPER_BATCH_SIZE")]
    batch_size: Option<usize>,
    /// The most bytes of a batch, up to 4MiB; a single record may be larger. Without it, 1MB for a handler over HTTP.
    #[arg(long, value_name = "SIZE", value_parser = bytes(1..=MOST_BYTES as u64), env = "SHARDKEEPER_BATCH_BYTES")]
    batch_bytes: Option<u64>,
    /// Time that a batch waits to fill up to --batch-size or --batch-bytes: 1ms to 5m; without it, not at all.
    #[arg(long, value_name = "DURATION", value_parser = duration(MILLISECOND..=5 * MINUTE),
        env = "SHARDKEEPER_BATCH_WINDOW")]
    batch_window: Option<Duration>,
    /// The most deliveries at once, of one shard and of all together. Records of one item stay in order and come one
    /// delivery after the other, those of different items do not. Without it, one for each shard.
    #[arg(long, value_name = "N", value_parser = value::count(), env = "SHARDKEEPER_CONCURRENCY")]
    concurrency: Option<usize>,
    /// The most deliveries of one shard at once, if that is less than --concurrency, or without any limit over all
    /// shards.
    #[arg(long, value_name = "N", value_parser = value::count(), env = "SHARDKEEPER_SHARD_CONCURRENCY")]
    shard_concurrency: Option<usize>,
}

#[derive(Args)]
#[command(next_help_heading = FLEET)]
struct FleetArgs {
    /// This worker's name, different from all others of the application; by default host name and process id. A worker
    /// that comes back under its old name resumes its work at once; the default does so in a container, where both parts
    /// stay the same.
    #[arg(long, value_name = "ID", value_parser = value::worker_id, default_value = default_worker_id(),
        hide_default_value = true, env = "SHARDKEEPER_WORKER_ID")]
    worker_id: String,
    /// Fail if the application's tables are missing, rather than create them (billed on demand).
    #[arg(long, env = "SHARDKEEPER_NO_CREATE_TABLES")]
    no_create_tables: bool,
    /// Time that a worker may be silent before others take its work over: 1s to 10m.
    #[arg(long, value_name = "DURATION", value_parser = duration(SECOND..=10 * MINUTE),
        default_value = format_duration(defaults().lease_duration), env = "SHARDKEEPER_LEASE_DURATION")]
    lease_duration: Duration,
    /// The most shards that this worker reads at once; without it, its fair share.
    #[arg(long, value_name = "N", value_parser = value::count(), env = "SHARDKEEPER_MAX_LEASES")]
    max_leases: Option<usize>,
    /// Time after which a delivery hangs: it no longer counts in --concurrency, and a shard without any answer for that long
    /// is given to another worker, if there is one: 1s to 1h; without it, any time.
    #[arg(long, value_name = "DURATION", value_parser = duration(SECOND..=HOUR), env = "SHARDKEEPER_STUCK_AFTER")]
    stuck_after: Option<Duration>,
    /// Time to finish and hand over work after SIGTERM or Ctrl-C: up to 1h.
    #[arg(long, value_name = "DURATION", value_parser = duration(Duration::ZERO..=HOUR),
        default_value = format_duration(defaults().drain_timeout), env = "SHARDKEEPER_DRAIN_TIMEOUT")]
    drain_timeout: Duration,
}

/// A page of GetRecords answers is up to 1 MB of records as the service counts them, and several times that as JSON.
const MIN_BUFFER_BYTES: u64 = 8 << 20;

#[derive(Args)]
#[command(next_help_heading = "Pace and limits")]
struct PaceArgs {
    /// Interval at which progress is written: what is delivered again after a crash is at most that much. 100ms to 10m.
    #[arg(long, value_name = "DURATION", value_parser = duration(100 * MILLISECOND..=10 * MINUTE),
        default_value = default_checkpoint_interval(), env = "SHARDKEEPER_CHECKPOINT_INTERVAL")]
    checkpoint_interval: Duration,
    /// Interval at which a shard without new records is polled: 50ms to 5m.
    #[arg(long, value_name = "DURATION", value_parser = duration(50 * MILLISECOND..=5 * MINUTE),
        default_value = format_duration(defaults().idle_poll), env = "SHARDKEEPER_IDLE_POLL")]
    idle_poll: Duration,
    /// Longest interval at which a shard is polled that has had no records for long: up to 5m; without it, that of
    /// --idle-poll. Between the two, the interval is a tenth of the time without a record.
    #[arg(long, value_name = "DURATION", value_parser = duration(50 * MILLISECOND..=5 * MINUTE),
        env = "SHARDKEEPER_IDLE_POLL_MAX")]
    idle_poll_max: Option<Duration>,
    /// Calls of DescribeStream a second: 1 to 10. The service allows ten a second for the whole account.
    #[arg(long, value_name = "N", value_parser = whole(1..=10u32),
        default_value = defaults().describe_stream_rate.to_string(), env = "SHARDKEEPER_DESCRIBE_STREAM_RATE")]
    describe_stream_rate: u32,
    /// Memory for records that are read and not yet delivered, over all shards; at least 8MiB.
    #[arg(long, value_name = "SIZE", value_parser = bytes(MIN_BUFFER_BYTES..=u64::MAX),
        default_value = format_bytes(defaults().buffer_bytes), env = "SHARDKEEPER_BUFFER_BYTES")]
    buffer_bytes: u64,
    /// Time to keep trying to reach the service at start, and with --wait-for-table to find the stream: 1s to 1h.
    #[arg(long, value_name = "DURATION", value_parser = duration(SECOND..=HOUR),
        default_value = format_duration(defaults().start_timeout), env = "SHARDKEEPER_START_TIMEOUT")]
    start_timeout: Duration,
}

const SEEN: &str = "Metrics and health";

#[derive(Args)]
#[command(next_help_heading = SEEN)]
pub struct AdminArgs {
    /// Serve a page for people (/), /metrics, /live, /ready, /status, /events and /worker on this IP address and port;
    /// port 0 is any free one. When the default is taken, by another worker here, this one runs without.
    #[arg(long, value_name = "ADDRESS|off", default_value = "127.0.0.1:9464", env = "SHARDKEEPER_METRICS_ADDR")]
    pub metrics_addr: MetricsAddr,
    /// Show the lag of each shard too, which is a new series for each every few hours.
    #[arg(long, env = "SHARDKEEPER_METRICS_PER_SHARD")]
    pub metrics_per_shard: bool,
    /// Time that a shard may be stalled, by its delivery or its reading, before /ready says so: 1s to 1h.
    #[arg(long, value_name = "DURATION", value_parser = duration(SECOND..=HOUR),
        default_value = format_duration(defaults().unready_after), env = "SHARDKEEPER_UNREADY_AFTER")]
    unready_after: Duration,
}

/// Address of the admin server; none: it is off.
#[derive(Clone)]
pub struct MetricsAddr(pub Option<SocketAddr>);

impl FromStr for MetricsAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let wrong = |_| format!("{text:?} is not an IP address and a port; write 127.0.0.1:9464 or [::1]:9464, or off");
        text.parse().map(Some).map(Self).map_err(wrong)
    }
}

#[derive(Args)]
#[command(next_help_heading = SEEN)]
struct ScalingArgs {
    /// For shardkeeper_desired_workers, by which a fleet can be scaled: never fewer than this.
    #[arg(long, value_name = "N", value_parser = value::count(),
        default_value = defaults().desired_workers.min.to_string(), env = "SHARDKEEPER_MIN_WORKERS")]
    min_workers: usize,
    /// And never more than this.
    #[arg(long, value_name = "N", value_parser = value::count(), env = "SHARDKEEPER_MAX_WORKERS")]
    max_workers: Option<usize>,
    /// For the same: bytes of records that one worker is expected to deliver in a second.
    #[arg(long, value_name = "SIZE", value_parser = bytes(1 << 10..=u64::MAX), default_value = default_capacity(),
        env = "SHARDKEEPER_WORKER_CAPACITY")]
    worker_capacity: u64,
    /// For the same: the time in which a backlog is to be worked off: 10s to 24h.
    #[arg(long, value_name = "DURATION", value_parser = duration(10 * SECOND..=DAY),
        default_value = format_duration(defaults().desired_workers.catch_up), env = "SHARDKEEPER_CATCH_UP_WITHIN")]
    catch_up_within: Duration,
}

#[derive(Args)]
#[command(next_help_heading = "The program")]
pub struct ProgramArgs {
    /// A TOML file of options: each option's name without its dashes is a key.
    #[arg(long, value_name = "FILE", value_parser = value::text, env = "SHARDKEEPER_CONFIG")]
    config: Option<String>,
    /// Read the --config file again when it changes, as at SIGHUP: the level of the log, filters, batches, concurrency
    /// and the handling of failures follow it at once, other options at the next start.
    #[arg(long, env = "SHARDKEEPER_WATCH_CONFIG")]
    pub watch_config: bool,
    /// Print the effective options as TOML, each with its origin, and exit.
    #[arg(long)]
    pub print_config: bool,
}

/// The options that a running worker takes from a file that is read again, by their ids.
const RELOADED: [&str; 16] = [
    "batch_bytes",
    "batch_size",
    "batch_window",
    "bisect",
    "concurrency",
    "dead_letters",
    "events",
    "filter",
    "handler_timeout",
    "log_level",
    "max_record_age",
    "on_failure",
    "retry_attempts",
    "shard_concurrency",
    "skip_replicated",
    "skip_ttl_deletes",
];

/// Whether a running worker takes the option from a file that is read again.
pub fn is_reloaded(id: &str) -> bool {
    RELOADED.contains(&id)
}

impl RunArgs {
    /// Whether this worker takes the option with this id from a file that is read again.
    pub fn reloads(&self, id: &str) -> bool {
        // Child processes are started with their limit.
        is_reloaded(id) && !(id == "handler_timeout" && self.sink.checkpoints_by_hand())
    }

    /// Finds combinations that make no sense.
    pub fn check(&self, sources: &mut Sources) {
        if self.program.watch_config && sources.files().is_empty() {
            let place = sources.place_of("watch_config");
            sources.add_mistake(format!("{place}: there is no file to watch; give --config too"));
        }
        let failure = &self.failure;
        let has_limit = failure.retry_attempts.is_some() || failure.max_record_age.is_some();
        if failure.on_failure != OnFailure::Halt && !has_limit {
            let place = sources.place_of("on_failure");
            sources.add_mistake(format!(
                "{place}: without a limit no record is given up; give --retry-attempts or --max-record-age too"
            ));
        }
        if failure.on_failure == OnFailure::DeadLetter
            && let Some(mistake) = failure.dead_letters.mistake_in_name(&self.app.app)
        {
            sources.add_mistake(format!("{}: {mistake}", sources.place_of("app")));
        }
        let (min, max) = (self.scaling.min_workers, self.scaling.max_workers);
        if let Some(max) = max.filter(|max| *max < min) {
            let (fewest, most) = (sources.place_of("min_workers"), sources.place_of("max_workers"));
            sources.add_mistake(format!("{most}: {max} is less than {min}, {fewest}"));
        }
        if let Err(error) = self.options().validate() {
            sources.add_mistake(format!("{}: {}", sources.place_of(error.option), error.reason));
        }
    }

    /// The worker's options, but for dead letters, which [`RunArgs::dead_letters`] says where to keep.
    pub fn options(&self) -> WorkerOptions {
        let Self { start, failure, batch, fleet, pace, .. } = self;
        let mut options = WorkerOptions::new(&self.app.app, self.stream(), &fleet.worker_id);
        options.endpoints = self.aws.endpoints(self.source.table.as_deref());
        options.start = start.start;
        options.create_tables = !fleet.no_create_tables;
        options.wait_for_table = start.wait_for_table;
        options.until_caught_up = start.until_caught_up;
        options.lease_duration = fleet.lease_duration;
        options.checkpoints = Checkpoints::Automatic { interval: pace.checkpoint_interval };
        options.failure = FailurePolicy {
            attempts: failure.retry_attempts.map(|retries| retries + 1),
            max_record_age: failure.max_record_age,
            bisect: failure.bisect,
            // Children have their own, for each answer.
            handler_timeout: self.handler_timeout().filter(|_| !self.sink.checkpoints_by_hand()),
            on_failure: match failure.on_failure {
                OnFailure::Skip => crate::consumer::OnFailure::Skip,
                OnFailure::Halt | OnFailure::DeadLetter => crate::consumer::OnFailure::Halt,
            },
            ..FailurePolicy::default()
        };
        options.concurrency = batch.concurrency;
        let of_all = batch.concurrency.filter(|_| !self.sink.checkpoints_by_hand());
        options.shard_concurrency = batch.shard_concurrency.or(of_all).unwrap_or(options.shard_concurrency);
        if self.sink.checkpoints_by_hand() {
            options.checkpoints = Checkpoints::Manual;
        }
        options.batch_size = batch.batch_size.or(self.sink.default_batch_size());
        let batch_bytes = batch.batch_bytes.and_then(|size| usize::try_from(size).ok());
        options.batch_bytes = batch_bytes.or(self.sink.default_batch_bytes());
        options.batch_window = batch.batch_window.unwrap_or(options.batch_window);
        options.idle_poll = pace.idle_poll;
        options.idle_poll_max = pace.idle_poll_max;
        options.describe_stream_rate = pace.describe_stream_rate;
        options.buffer_bytes = pace.buffer_bytes;
        options.max_leases = fleet.max_leases;
        options.stuck_after = fleet.stuck_after;
        options.unready_after = self.admin.unready_after;
        options.desired_workers = self.scaling.options();
        options.start_timeout = pace.start_timeout;
        options.drain_timeout = fleet.drain_timeout;
        options.on_gap = start.on_gap;
        options.filters = self.filter.filters();
        options.kcl_failover_time = self.kcl.kcl_failover_time;
        options
    }

    /// Time that one delivery may take.
    pub fn handler_timeout(&self) -> Option<Duration> {
        self.failure.handler_timeout.or(self.sink.default_handler_timeout())
    }

    fn stream(&self) -> StreamSelector {
        self.source.selector().unwrap_or_else(|| unreachable!("the source is required"))
    }

    /// The target of dead letters, if records are to become any.
    pub fn dead_letters(&self) -> Option<&DeadLetterTarget> {
        (self.failure.on_failure == OnFailure::DeadLetter).then_some(&self.failure.dead_letters)
    }
}

impl SourceArgs {
    fn selector(&self) -> Option<StreamSelector> {
        let arn = self.stream_arn.clone().map(StreamSelector::Arn);
        arn.or_else(|| self.table.clone().map(StreamSelector::Table))
    }
}

impl ScalingArgs {
    fn options(&self) -> ScalingOptions {
        #[expect(clippy::cast_precision_loss, reason = "bytes a second")]
        let capacity_kbps = self.worker_capacity as f64 / 1024.0;
        ScalingOptions { min: self.min_workers, max: self.max_workers, capacity_kbps, catch_up: self.catch_up_within }
    }
}

fn default_checkpoint_interval() -> String {
    match defaults().checkpoints {
        Checkpoints::Automatic { interval } => format_duration(interval),
        Checkpoints::Manual => unreachable!("the default is automatic"),
    }
}

fn default_capacity() -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number of KiB")]
    let kib = defaults().desired_workers.capacity_kbps as u64;
    format_bytes(kib * 1024)
}
