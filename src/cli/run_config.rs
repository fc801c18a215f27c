//! The settings of `shardkeeper run`, and what they mean together.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use super::delivery_config::{self, DeliveryConfig};
use super::flags::SubCommand;
use super::layers::{Environment, Layers};
use super::logs::{self, LogConfig};
use super::mistakes::Mistakes;
use super::setting::{Default, Kind, Reach, Setting};
use super::sinks::http::{Headers, HttpTarget, HttpUrl, Secret};
use super::value;
use crate::aws::clients::Endpoints;
use crate::model::filter::{Events, Filters, Pattern};
use crate::model::scaling::ScalingOptions;

/// Everything that a worker is told before it starts. Valid throughout: each value is in its range, and they agree.
#[derive(Debug, Clone, PartialEq)]
pub struct RunConfig {
    /// Which stream is read.
    pub source: Source,
    /// The application's name: that of its lease table and, with `-Fleet` behind it, of its fleet table. From 3 to
    /// 249 characters that may name a table.
    pub app: String,
    /// This worker's name in both tables.
    pub worker_id: String,
    /// Where a shard is begun that has no lease yet.
    pub start: StartAt,
    /// Where records go.
    pub sink: Sink,
    /// What happens when the service trimmed records before they were read.
    pub on_gap: OnGap,
    /// Which records are delivered.
    pub filters: Filters,
    /// How records come, and what follows when they fail.
    pub delivery: DeliveryConfig,
    /// Whether the worker ends once it has delivered what was in the stream at its start.
    pub until_caught_up: bool,
    /// Whether missing tables may be created.
    pub create_tables: bool,
    /// How long a worker may be silent before its leases are taken.
    pub lease_duration: Duration,
    /// How often progress is written to the lease table.
    pub checkpoint_interval: Duration,
    /// How long a shard is left alone that has had no records for a while.
    pub idle_poll: Duration,
    /// Bytes of records held in memory, over all shards.
    pub buffer_bytes: u64,
    /// The most leases that this worker holds; none: no limit.
    pub max_leases: Option<NonZeroU32>,
    /// How long one call of a processor may last before its shard goes to another worker; none: any time.
    pub stuck_after: Option<Duration>,
    /// How long to keep trying to reach the service at start.
    pub start_timeout: Duration,
    /// How long to finish and hand over work after being asked to stop.
    pub drain_timeout: Duration,
    /// How long the lease of a worker that isn't in the fleet table must stand still before its owner counts as dead.
    pub kcl_failover_time: Duration,
    /// How long a shard may stand still before the worker says that it is not ready.
    pub unready_after: Duration,
    /// Where metrics, health and status are served; none: nowhere.
    pub metrics_addr: Option<SocketAddr>,
    /// Whether that address was asked for: then the worker cannot do without it.
    pub needs_metrics_addr: bool,
    /// Whether each shard's lag is a series of its own.
    pub metrics_per_shard: bool,
    /// What bounds the number of workers that are said to be wanted, and by what it is judged.
    pub desired_workers: ScalingOptions,
    /// Region and endpoints, where they are not left to the AWS SDK's own variables and files.
    pub aws: AwsOptions,
    /// Logs.
    pub logs: LogConfig,
}

/// How the stream is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The current stream of this table.
    Table(String),
    /// The stream with this ARN.
    StreamArn(String),
}

/// Where a shard is begun that has no lease yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// At the oldest record that the service still has.
    TrimHorizon,
    /// After what is there now.
    Latest,
}

/// Where records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// Standard output, a line of JSON a record.
    Stdout,
    /// Nowhere; they are only counted.
    Null,
    /// A handler, a batch a request.
    Http(Box<HttpTarget>),
}

/// What `--to` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum To {
    Stdout,
    Null,
    Http(HttpUrl),
}

/// What happens when the service trimmed records before they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnGap {
    /// Go on from the oldest record there is.
    Continue,
    /// Leave the shard where it is.
    Stop,
}

/// What of the AWS SDK's configuration was given by name here.
#[derive(Debug, Clone, PartialEq, Eq, std::default::Default)]
pub struct AwsOptions {
    /// The region.
    pub region: Option<String>,
    /// DynamoDB's endpoint, and that of its streams unless the next says otherwise.
    pub endpoint_url: Option<String>,
    /// The endpoint of DynamoDB Streams.
    pub streams_endpoint_url: Option<String>,
}

impl AwsOptions {
    /// What `layers` say about region and endpoints.
    pub(super) fn from_layers(layers: &mut Layers) -> AwsOptions {
        AwsOptions {
            region: layers.optional(&REGION),
            endpoint_url: layers.optional(&ENDPOINT_URL),
            streams_endpoint_url: layers.optional(&STREAMS_ENDPOINT_URL),
        }
    }

    /// The same, as the clients take it.
    pub fn endpoints(&self) -> Endpoints {
        Endpoints {
            region: self.region.clone(),
            url: self.endpoint_url.clone(),
            streams_url: self.streams_endpoint_url.clone(),
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

const READING: &str = "What to read, and where it goes";
const FLEET: &str = "The fleet";
const PACE: &str = "Pace and limits";
const AWS: &str = "AWS (the SDK's own variables and files work without these)";
const SEEN: &str = "Metrics and health";
const PROGRAM: &str = "The program";

/// A page of GetRecords answers is up to 1 MB of records as the service counts them, and several times that as JSON.
const MIN_BUFFER_BYTES: u64 = 8 << 20;

const TABLE: Setting<String> = Setting::new("table", "NAME", value::table_name)
    .group(READING)
    .help("The table whose stream is read. Either this or --stream-arn must be given.");

const STREAM_ARN: Setting<String> = Setting::new("stream-arn", "ARN", value::stream_arn)
    .group(READING)
    .help("The stream to read, by its ARN: for example an older stream of a table that has a newer one.");

const START: Setting<StartAt> = Setting::new("start", "trim-horizon|latest", |text| {
    value::one_of(text, &[("trim-horizon", StartAt::TrimHorizon), ("latest", StartAt::Latest)])
})
.group(READING)
.default(Default::Value("trim-horizon"))
.help(
    "Where to begin when the application has no progress yet: at the oldest record that the service still has, or \
     after what is there now.",
);

pub(super) const TO: Setting<To> = Setting::new("to", "stdout|null|URL", |text| match text {
    "stdout" => Ok(To::Stdout),
    "null" => Ok(To::Null),
    url if url.contains("://") => HttpUrl::parse(url).map(To::Http),
    other => Err(format!("{other:?} is not one of: stdout, null, or a handler's URL (http://…, https://…)")),
})
.group(READING)
.default(Default::Value("stdout"))
.help(
    "Where records go: a line of JSON each on standard output, as the service sent it; nowhere but the count; or to a \
     handler at an http:// or https:// URL, which gets a batch a POST, in the shape of a Lambda function's event.",
);

pub(super) const HTTP_HEADER_FILE: Setting<Headers> = Setting::new("http-header-file", "FILE", |path| {
    Headers::parse(&value::content_of(path)?).map_err(|message| format!("{path:?}: {message}"))
})
.group(READING)
.help("A file of headers for each request to a handler, one a line (Authorization: Bearer …).");

pub(super) const HTTP_HEADERS: Setting<Headers> = Setting::new("http-headers", "HEADERS", Headers::parse)
    .group(READING)
    .reach(Reach::Environment)
    .help("The same headers, one a line, in the environment.");

pub(super) const HTTP_SECRET_FILE: Setting<Secret> = Setting::new("http-secret-file", "FILE", |path| {
    Secret::parse(&value::content_of(path)?).map_err(|message| format!("{path:?}: {message}"))
})
.group(READING)
.help(
    "A file with the secret by which each request to a handler is signed: the HMAC-SHA256 of its body, in the header \
     X-Shardkeeper-Signature. The secret itself can also be in the environment, as SHARDKEEPER_HTTP_SECRET.",
);

pub(super) const HTTP_SECRET: Setting<Secret> = Setting::new("http-secret", "SECRET", Secret::parse)
    .group(READING)
    .reach(Reach::Environment)
    .help("The secret by which requests to a handler are signed, in the environment.");

const UNTIL_CAUGHT_UP: Setting<bool> = Setting::switch("until-caught-up")
    .group(READING)
    .help("Exit once everything that was in the stream at the start is delivered and checkpointed.");

const ON_GAP: Setting<OnGap> = Setting::new("on-gap", "continue|stop", |text| {
    value::one_of(text, &[("continue", OnGap::Continue), ("stop", OnGap::Stop)])
})
.group(READING)
.default(Default::Value("continue"))
.help("When records were trimmed by the service before they were read: go on at the oldest one left, or stop there.");

const FILTER: Setting<Vec<Pattern>> =
    Setting::new("filter", "PATTERN", value::filters).group(READING).kind(Kind::List).help(
        "Deliver only records that match this pattern, in AWS Lambda's syntax for DynamoDB: \
         {\"dynamodb\":{\"NewImage\":{\"status\":{\"S\":[\"paid\"]}}}}. Given several times, one of them has to match; \
         in the environment, several are a JSON array.",
    );

const EVENTS: Setting<Events> = Setting::new("events", "LIST", |text| text.parse())
    .group(READING)
    .help("Deliver only these kinds of changes: insert, modify, remove, with commas between them.");

const SKIP_TTL_DELETES: Setting<bool> =
    Setting::switch("skip-ttl-deletes").group(READING).help("Leave out removals by time to live.");

const SKIP_REPLICATED: Setting<bool> = Setting::switch("skip-replicated").group(READING).help(
    "Leave out writes that a global table of version 2017.11.29 replicates from another region. The current version \
     does not mark them.",
);

pub(super) const APP: Setting<String> =
    Setting::new("app", "NAME", value::application).group(FLEET).default(Default::Required).help(
        "The application: workers of the same name share the work. Its progress is kept in a DynamoDB table of this \
         name, and the workers meet in a second one, NAME-Fleet.",
    );

const WORKER_ID: Setting<String> = Setting::new("worker-id", "ID", value::worker_id)
    .group(FLEET)
    .default(Default::Described("host name and process id"))
    .help(
        "This worker's name, different from all others of the application. A worker that comes back under its old \
         name goes on with its work at once; the default does so in a container, where both parts stay the same.",
    );

const NO_CREATE_TABLES: Setting<bool> = Setting::switch("no-create-tables")
    .group(FLEET)
    .help("Fail if the application's tables are missing, rather than create them (billed on demand).");

pub(super) const LEASE_DURATION: Setting<Duration> =
    Setting::new("lease-duration", "DURATION", |text| value::duration(text, SECOND, 10 * MINUTE))
        .group(FLEET)
        .default(Default::Value("5s"))
        .help("How long a worker may be silent before others take its work over: 1s to 10m.");

const MAX_LEASES: Setting<NonZeroU32> = Setting::new("max-leases", "N", value::count)
    .group(FLEET)
    .kind(Kind::Integer)
    .help("The most shards that this worker reads at once; without it, its fair share.");

const STUCK_AFTER: Setting<Duration> =
    Setting::new("stuck-after", "DURATION", |text| value::duration(text, SECOND, HOUR)).group(FLEET).help(
        "How long the delivery of a batch may take before its shard is given to another worker, if there is one: 1s \
         to 1h; without it, any time.",
    );

const DRAIN_TIMEOUT: Setting<Duration> =
    Setting::new("drain-timeout", "DURATION", |text| value::duration(text, Duration::ZERO, HOUR))
        .group(FLEET)
        .default(Default::Value("25s"))
        .help("How long to finish and hand over work after SIGTERM or Ctrl-C: up to 1h.");

pub(super) const KCL_FAILOVER_TIME: Setting<Duration> = Setting::new("kcl-failover-time", "DURATION", |text| {
    value::duration(text, SECOND, HOUR)
})
.group(FLEET)
.default(Default::Value("10s"))
.help(
    "For a lease table that the Kinesis Client Library left: how long a lease must stand still before its owner \
     there counts as dead (that library's failoverTimeMillis): 1s to 1h.",
);

const CHECKPOINT_INTERVAL: Setting<Duration> = Setting::new("checkpoint-interval", "DURATION", |text| {
    value::duration(text, Duration::from_millis(100), 10 * MINUTE)
})
.group(PACE)
.default(Default::Value("5s"))
.help("How often progress is written: what is delivered again after a crash is at most that much. 100ms to 10m.");

const IDLE_POLL: Setting<Duration> =
    Setting::new("idle-poll", "DURATION", |text| value::duration(text, Duration::from_millis(50), 5 * MINUTE))
        .group(PACE)
        .default(Default::Value("1s"))
        .help("How often a shard without new records is asked: 50ms to 5m.");

const BUFFER_BYTES: Setting<u64> = Setting::new("buffer-bytes", "SIZE", |text| value::bytes(text, MIN_BUFFER_BYTES))
    .group(PACE)
    .kind(Kind::Size)
    .default(Default::Value("128MiB"))
    .help("Memory for records that are read and not yet delivered, over all shards; at least 8MiB.");

const START_TIMEOUT: Setting<Duration> =
    Setting::new("start-timeout", "DURATION", |text| value::duration(text, SECOND, HOUR))
        .group(PACE)
        .default(Default::Value("60s"))
        .help("How long to keep trying to reach the service at start before giving up: 1s to 1h.");

pub(super) const REGION: Setting<String> = Setting::new("region", "REGION", value::region)
    .group(AWS)
    .help("The region, such as eu-west-1; otherwise AWS_REGION or the profile's.");

pub(super) const ENDPOINT_URL: Setting<String> = Setting::new("endpoint-url", "URL", value::url).group(AWS).help(
    "Where DynamoDB is, for local services and private endpoints; otherwise AWS_ENDPOINT_URL_DYNAMODB, \
         AWS_ENDPOINT_URL or the region's. DynamoDB Streams is looked for there too, unless the next says otherwise.",
);

pub(super) const STREAMS_ENDPOINT_URL: Setting<String> = Setting::new("streams-endpoint-url", "URL", value::url)
    .group(AWS)
    .help("Where DynamoDB Streams is; otherwise AWS_ENDPOINT_URL_DYNAMODB_STREAMS, AWS_ENDPOINT_URL or the region's.");

const METRICS_ADDR: Setting<Option<SocketAddr>> =
    Setting::new("metrics-addr", "ADDRESS|off", value::socket_address_or_off)
        .group(SEEN)
        .default(Default::Value("127.0.0.1:9464"))
        .help(
            "Serve /metrics, /live, /ready and /status on this IP address and port; port 0 is any free one. When the \
             default is taken, by another worker here, this one goes on without.",
        );

const METRICS_PER_SHARD: Setting<bool> = Setting::switch("metrics-per-shard")
    .group(SEEN)
    .help("Show the lag of each shard too, which is a new series for each every few hours.");

const UNREADY_AFTER: Setting<Duration> =
    Setting::new("unready-after", "DURATION", |text| value::duration(text, SECOND, HOUR))
        .group(SEEN)
        .default(Default::Value("1m"))
        .help("How long a shard may stand still, by its delivery or its reading, before /ready says so: 1s to 1h.");

const MIN_WORKERS: Setting<NonZeroU32> = Setting::new("min-workers", "N", value::count)
    .group(SEEN)
    .kind(Kind::Integer)
    .default(Default::Value("1"))
    .help("For shardkeeper_desired_workers, by which a fleet can be scaled: never fewer than this.");

const MAX_WORKERS: Setting<NonZeroU32> =
    Setting::new("max-workers", "N", value::count).group(SEEN).kind(Kind::Integer).help("And never more than this.");

const WORKER_CAPACITY: Setting<u64> = Setting::new("worker-capacity", "SIZE", |text| value::bytes(text, 1 << 10))
    .group(SEEN)
    .kind(Kind::Size)
    .default(Default::Value("10MiB"))
    .help("For the same: bytes of records that one worker is expected to deliver in a second.");

const CATCH_UP_WITHIN: Setting<Duration> =
    Setting::new("catch-up-within", "DURATION", |text| value::duration(text, 10 * SECOND, 24 * HOUR))
        .group(SEEN)
        .default(Default::Value("10m"))
        .help("For the same: in what time a backlog is to be worked off: 10s to 24h.");

const CONFIG: Setting<String> = Setting::new("config", "FILE", value::text)
    .group(PROGRAM)
    .reach(Reach::FlagAndEnvironment)
    .help("A TOML file of settings: each option's name without its dashes is a key.");

const PRINT_CONFIG: Setting<bool> = Setting::switch("print-config")
    .group(PROGRAM)
    .reach(Reach::Flag)
    .help("Print the effective settings as TOML, each with where it came from, and exit.");

/// The sub-command `run`.
pub const RUN: SubCommand = SubCommand {
    name: "run",
    summary: "Read a stream, together with all other workers of the same application",
    description: "Reads a DynamoDB stream, together with all other workers of the same application: each record is \
                  delivered at least once, and in order for each item. Run it again, here or on another machine, \
                  and the workers share the shards.",
    epilogue: "Each option can also be an environment variable, or a key of the --config file; flags go before \
               variables, variables before the file. Durations: 500ms, 5s, 2m, 4h. Sizes: 64MiB, 100MB.\n\n\
               Exit codes: 0 done or asked to stop, 64 wrong usage or configuration, 1 a failure.\n\n\
               Example:\n  shardkeeper run --table Phones --app phone-audit",
    table: &[
        &TABLE.about,
        &STREAM_ARN.about,
        &START.about,
        &TO.about,
        &HTTP_HEADER_FILE.about,
        &HTTP_HEADERS.about,
        &HTTP_SECRET_FILE.about,
        &HTTP_SECRET.about,
        &UNTIL_CAUGHT_UP.about,
        &ON_GAP.about,
        &FILTER.about,
        &EVENTS.about,
        &SKIP_TTL_DELETES.about,
        &SKIP_REPLICATED.about,
        &delivery_config::RETRY_ATTEMPTS.about,
        &delivery_config::MAX_RECORD_AGE.about,
        &delivery_config::BISECT.about,
        &delivery_config::ON_FAILURE.about,
        &delivery_config::DEAD_LETTERS.about,
        &delivery_config::HANDLER_TIMEOUT.about,
        &delivery_config::BATCH_SIZE.about,
        &delivery_config::BATCH_BYTES.about,
        &delivery_config::BATCH_WINDOW.about,
        &delivery_config::CONCURRENCY.about,
        &delivery_config::SHARD_CONCURRENCY.about,
        &APP.about,
        &WORKER_ID.about,
        &NO_CREATE_TABLES.about,
        &LEASE_DURATION.about,
        &MAX_LEASES.about,
        &STUCK_AFTER.about,
        &DRAIN_TIMEOUT.about,
        &KCL_FAILOVER_TIME.about,
        &CHECKPOINT_INTERVAL.about,
        &IDLE_POLL.about,
        &BUFFER_BYTES.about,
        &START_TIMEOUT.about,
        &REGION.about,
        &ENDPOINT_URL.about,
        &STREAMS_ENDPOINT_URL.about,
        &METRICS_ADDR.about,
        &METRICS_PER_SHARD.about,
        &UNREADY_AFTER.about,
        &MIN_WORKERS.about,
        &MAX_WORKERS.about,
        &WORKER_CAPACITY.about,
        &CATCH_UP_WITHIN.about,
        &CONFIG.about,
        &PRINT_CONFIG.about,
        &logs::LEVEL.about,
        &logs::FORMAT.about,
    ],
    takes_layers: true,
    operands: None,
    children: &[],
};

/// What `shardkeeper run` was asked to do.
#[derive(Debug, Clone, PartialEq)]
pub enum RunRequest {
    /// Run a worker.
    Run(Box<RunConfig>),
    /// Print this text, the effective configuration.
    PrintConfig(String),
}

/// What was typed for `shardkeeper run` becomes what it means.
///
/// # Errors
/// Every mistake in flags, environment and file.
pub fn read(arguments: &[OsString], environment: &Environment) -> Result<RunRequest, Mistakes> {
    let mut layers = Layers::from_everywhere(RUN.table, arguments, environment, &CONFIG);
    layers.assume(&WORKER_ID, default_worker_id(environment));
    let config = read_layers(&mut layers);
    if let Some(mistake) = config.delivery.mistake_in_name(&config.app) {
        layers.add_mistake(format!("{}: {mistake}", layers.place_of(&APP.about)));
    }
    let request = match layers.value(&PRINT_CONFIG) {
        true => RunRequest::PrintConfig(layers.to_toml()),
        false => RunRequest::Run(Box::new(config)),
    };
    layers.finish(request)
}

/// What `layers` mean, good only if they note no mistake.
fn read_layers(layers: &mut Layers) -> RunConfig {
    RunConfig {
        source: read_source(layers),
        app: layers.required(&APP),
        worker_id: layers.required(&WORKER_ID),
        start: layers.value(&START),
        sink: read_sink(layers),
        on_gap: layers.value(&ON_GAP),
        filters: read_filters(layers),
        delivery: DeliveryConfig::from_layers(layers),
        until_caught_up: layers.value(&UNTIL_CAUGHT_UP),
        create_tables: !layers.value(&NO_CREATE_TABLES),
        lease_duration: layers.value(&LEASE_DURATION),
        checkpoint_interval: layers.value(&CHECKPOINT_INTERVAL),
        idle_poll: layers.value(&IDLE_POLL),
        buffer_bytes: layers.value(&BUFFER_BYTES),
        max_leases: layers.optional(&MAX_LEASES),
        stuck_after: layers.optional(&STUCK_AFTER),
        start_timeout: layers.value(&START_TIMEOUT),
        drain_timeout: layers.value(&DRAIN_TIMEOUT),
        kcl_failover_time: layers.value(&KCL_FAILOVER_TIME),
        unready_after: layers.value(&UNREADY_AFTER),
        needs_metrics_addr: layers.is_given(&METRICS_ADDR.about),
        metrics_addr: layers.value(&METRICS_ADDR),
        metrics_per_shard: layers.value(&METRICS_PER_SHARD),
        desired_workers: read_desired_workers(layers),
        aws: AwsOptions::from_layers(layers),
        logs: LogConfig::from_layers(layers),
    }
}

fn read_filters(layers: &mut Layers) -> Filters {
    let patterns = layers.optional(&FILTER).unwrap_or_default();
    let mut filters = Filters::new()
        .skip_ttl_deletes(layers.value(&SKIP_TTL_DELETES))
        .skip_replicated(layers.value(&SKIP_REPLICATED));
    if let Some(events) = layers.optional(&EVENTS) {
        filters = filters.events(events);
    }
    patterns.into_iter().fold(filters, Filters::or)
}

fn read_desired_workers(layers: &mut Layers) -> ScalingOptions {
    let number = |count: NonZeroU32| usize::try_from(count.get()).unwrap_or(usize::MAX);
    let (min, max) = (number(layers.value(&MIN_WORKERS)), layers.optional(&MAX_WORKERS).map(number));
    if let Some(max) = max.filter(|max| *max < min) {
        let (fewest, most) = (layers.place_of(&MIN_WORKERS.about), layers.place_of(&MAX_WORKERS.about));
        layers.add_mistake(format!("{most}: {max} is less than {min}, {fewest}"));
    }
    let capacity = layers.value(&WORKER_CAPACITY);
    #[expect(clippy::cast_precision_loss, reason = "bytes a second")]
    let capacity_kbps = capacity as f64 / 1024.0;
    ScalingOptions { min, max, capacity_kbps, catch_up: layers.value(&CATCH_UP_WITHIN) }
}

pub(super) fn read_sink(layers: &mut Layers) -> Sink {
    let headers = either(layers, &HTTP_HEADER_FILE, &HTTP_HEADERS).unwrap_or_default();
    let secret = either(layers, &HTTP_SECRET_FILE, &HTTP_SECRET);
    match layers.value(&TO) {
        To::Stdout => Sink::Stdout,
        To::Null => Sink::Null,
        To::Http(url) => Sink::Http(Box::new(HttpTarget { url, headers, secret })),
    }
}

/// What one of two settings gives that give the same.
fn either<T>(layers: &mut Layers, one: &Setting<T>, other: &Setting<T>) -> Option<T> {
    if layers.is_given(&one.about) && layers.is_given(&other.about) {
        let (place, other) = (layers.place_of(&one.about), layers.place_of(&other.about));
        layers.add_mistake(format!("{place} and {other}: both say the same thing; give one of them"));
    }
    let given = layers.optional(one);
    given.or(layers.optional(other))
}

fn read_source(layers: &mut Layers) -> Source {
    let given = (layers.is_given(&TABLE.about), layers.is_given(&STREAM_ARN.about));
    match given {
        (true, true) => {
            let table = layers.place_of(&TABLE.about);
            let stream = layers.place_of(&STREAM_ARN.about);
            layers.add_mistake(format!("{table} and {stream}: both name what to read; give one of them"));
        }
        (false, false) => layers.missing(&[&TABLE.about, &STREAM_ARN.about]),
        _ => {}
    }
    let table = layers.optional(&TABLE);
    match layers.optional(&STREAM_ARN) {
        Some(arn) => Source::StreamArn(arn),
        None => Source::Table(table.unwrap_or_default()),
    }
}

/// Host name and process id: different for all processes on a machine, and the same again when a container restarts,
/// where the host name is the pod's and the process always has the same id.
fn default_worker_id(environment: &Environment) -> String {
    let host = host_name(environment).unwrap_or_else(|| "worker".to_string());
    format!("{host}-{}", std::process::id())
}

fn host_name(environment: &Environment) -> Option<String> {
    let from_variable = environment.value("HOSTNAME").map(str::to_string);
    let from_kernel = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let from_command = || {
        let output = std::process::Command::new("hostname").output().ok()?;
        String::from_utf8(output.stdout).ok()
    };
    let name = from_variable.or_else(from_kernel).or_else(from_command)?;
    let is_allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let name: String = name.trim().chars().filter(is_allowed).take(200).collect();
    (!name.is_empty()).then_some(name)
}
