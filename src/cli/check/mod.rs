//! `shardkeeper check`: the steps of a worker's start that write nothing, and a try of each permission and place that the
//! worker needs later.

mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::time::Instant;

use self::report::Report;
use super::args::check::CheckArgs;
use super::args::run::RunArgs;
use super::output;
use crate::aws::TableError;
use crate::aws::clients::{self, Clients, SdkConfig};
use crate::aws::fleet_table::FleetTable;
use crate::aws::lease_table::{KclSign, LeaseTable};
use crate::aws::service_clock::ServiceClock;
use crate::aws::stream::{self, Described, Stream};
use crate::aws::{credentials, stream::FindError};
use crate::consumer::{Counters, WallClock};
use crate::dead_letters::table::DeadLetterTable;
use crate::dead_letters::target::DeadLetterTarget;
use crate::model::checkpoint::Checkpoint;
use crate::model::lease::{Lease, ShardId, WorkerId};
use crate::model::record::ViewType;
use crate::options::{StreamSelector, WorkerOptions};
use crate::worker::{Error, StartError, Startup};

/// The actions of a worker on each table: those of deploy/iam.
const LEASE_ACTIONS: &[&str] =
    &["DescribeTable", "BatchGetItem", "DeleteItem", "GetItem", "PutItem", "Scan", "UpdateItem"];
const FLEET_ACTIONS: &[&str] = &["DescribeTable", "DeleteItem", "GetItem", "PutItem", "Scan", "UpdateItem"];
const DEAD_LETTER_ACTIONS: &[&str] = &["DescribeTable", "DeleteItem", "PutItem", "UpdateItem"];
/// The difference of clocks from which on lags are wrong, and the one near which signatures are refused (AWS: 5 minutes).
const CLOCK_WARNING: Duration = Duration::from_secs(10);
const CLOCK_FAILURE: Duration = Duration::from_secs(4 * 60);
/// The limit of a handler's answer to an event without records.
const HANDLER_LIMIT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The age up to which a KCL worker's metrics tell that it may be alive: three of its intervals.
const KCL_METRICS_YOUNG_MS: u64 = 90_000;

/// Runs `shardkeeper check`.
///
/// # Errors
/// When a worker could not start.
pub fn run(args: &CheckArgs) -> Result<(), anyhow::Error> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let report = runtime.block_on(check(&args.run));
    runtime.shutdown_background();
    output::print(&if args.json { report.to_json() } else { report.to_string() })?;
    match report.failures() {
        0 => Ok(()),
        1 => Err(anyhow!("a worker cannot run with these options: 1 check failed")),
        count => Err(anyhow!("a worker cannot run with these options: {count} checks failed")),
    }
}

async fn check(args: &RunArgs) -> Report {
    let (mut report, options) = (Report::default(), Arc::new(args.options()));
    check_handler(args, &options, &mut report).await;
    let config = match clients::load(&options.endpoints).await {
        Ok(config) => config,
        Err(error) => {
            report.failure("credentials", error);
            return report;
        }
    };
    match credentials::check(&config).await {
        Ok(found) => {
            let key = found.access_key_id();
            let end = key.char_indices().nth_back(3).map_or(key, |(start, _)| &key[start..]);
            let account = found.account_id().map(|id| format!(" of account {}", id.as_str())).unwrap_or_default();
            report.ok("credentials", format!("access key …{end}{account}"));
        }
        Err(error) => {
            report.failure("credentials", error);
            return report;
        }
    }
    let clock = ServiceClock::default();
    let table_timeout = clients::table_timeout(options.lease_duration);
    let clients = clients::clients(&config, &options.endpoints, table_timeout, "check").with_clock(&clock);
    let check = Check {
        options: &options,
        leases: LeaseTable::new(clients.tables.clone(), &options.app),
        fleet: FleetTable::new(clients.tables.clone(), &options.app),
        clients: &clients,
        counters: Counters::default(),
    };
    check.stream(&mut report).await;
    check.tables(&mut report).await;
    check.kcl_fleet(&mut report).await;
    check_dead_letters(args, &options, &config, &mut report).await;
    check_clock(&clock, &mut report);
    report
}

struct Check<'a> {
    options: &'a Arc<WorkerOptions>,
    clients: &'a Clients,
    leases: LeaseTable,
    fleet: FleetTable,
    counters: Counters,
}

impl Check<'_> {
    /// The stream that a worker would read, its records' content, and the permissions on it.
    async fn stream(&self, report: &mut Report) {
        let startup = Startup::for_preflight(Arc::clone(self.options), self.clients, &self.counters);
        let newest = match startup.find_arn().await {
            Ok(arn) => arn,
            Err(StartError::Fatal(Error::NoStream(error))) if startup.waits_for(&error) => {
                let limit = self.options.start_timeout.as_secs();
                return report.warning("stream", format!("a worker would wait for it for {limit} s: {error}"));
            }
            Err(error) => return report.failure("stream", error),
        };
        let arn = match startup.stream_to_read(newest.clone(), &self.leases, &self.fleet).await {
            Ok((arn, None)) => arn,
            Ok((arn, Some(lost))) => {
                let count = lost.unfinished.len();
                report.warning(
                    "stream",
                    format!("{} is gone, and {count} of its shards were not read to their end", lost.arn),
                );
                arn
            }
            Err(StartError::Fatal(error @ Error::ForeignTable { .. })) => {
                report.failure("lease table", error);
                newest
            }
            // The table's own check says so.
            Err(_) => newest,
        };
        let stream = startup.stream(arn);
        let described = match startup.describe(&stream).await {
            Ok(described) => described,
            Err(StartError::Fatal(Error::NoStream(FindError::Refused(reason)))) => {
                return report.failure("permissions", denied("DescribeStream", stream.arn(), &reason.to_string()));
            }
            Err(error) => return report.failure("stream", error),
        };
        match described.disabled {
            true => report.warning(
                "stream",
                format!(
                    "{} is switched off: it gets no new records, and keeps those that it has for a day",
                    stream.arn()
                ),
            ),
            false => report.ok("stream", stream.arn()),
        }
        match startup.check_filters(&stream, &described) {
            Err(error) => report.failure("filters", error),
            Ok(()) => match described.layout.view_type {
                Some(ViewType::KeysOnly) => report.warning(
                    "view type",
                    "KEYS_ONLY: records hold the keys of what changed, and no image; switch the stream on with another \
                     view type if the handler reads images",
                ),
                Some(view_type) => report.ok("view type", view_type.as_str()),
                None => report.warning("view type", "the service names none that is known"),
            },
        }
        for difference in self.options.filters.differences_from_lambda() {
            report.warning("filters", difference);
        }
        self.permissions_on(&stream, &described, report).await;
        if let StreamSelector::Table(table) = &self.options.stream {
            match self.clients.replicas(table).await {
                Ok(replicas) if replicas.is_empty() => {}
                Ok(replicas) => report.warning(
                    "other readers",
                    format!(
                        "the table is replicated to {}: a shard takes two readers, and replication of version 2017.11.29 \
                         is one of them",
                        replicas.join(", ")
                    ),
                ),
                Err(error) => report.failure("stream", error),
            }
        }
    }

    async fn permissions_on(&self, stream: &Stream, described: &Described, report: &mut Report) {
        let arn = stream.arn();
        let Some(shard) = described.shards.iter().rfind(|shard| !shard.closed).or(described.shards.last()) else {
            return report.warning("permissions", format!("GetRecords on {arn} was not tried: no shard is listed yet"));
        };
        let iterator = match stream.shard_iterator(&shard.id, &Checkpoint::TrimHorizon, 0).await {
            Ok(iterator) => iterator,
            Err(stream::Error::Refused(reason)) => {
                return report.failure("permissions", denied("GetShardIterator", arn, &reason.to_string()));
            }
            Err(error) => return report.failure("stream", format!("GetShardIterator on {arn} failed: {error}")),
        };
        match stream.records(&iterator, 1).await {
            Ok(_) => report.ok("permissions", format!("DescribeStream, GetShardIterator and GetRecords on {arn}")),
            Err(stream::Error::Refused(reason)) => {
                report.failure("permissions", denied("GetRecords", arn, &reason.to_string()))
            }
            Err(stream::Error::Throttled(reason)) => report.warning(
                "other readers",
                format!(
                    "GetRecords on {arn} is throttled: other programs read the stream; a shard takes two ({reason})"
                ),
            ),
            Err(error) => report.failure("stream", format!("GetRecords on {arn} failed: {error}")),
        }
    }

    /// The application's two tables, and the permissions on them.
    async fn tables(&self, report: &mut Report) {
        let tables =
            [("lease table", self.leases.own(), LEASE_ACTIONS), ("fleet table", self.fleet.own(), FLEET_ACTIONS)];
        let mut found = Vec::new();
        for (kind, table, actions) in tables {
            if let Err(error) = table.check().await {
                report.failure(kind, error);
                continue; // every try of an action would fail by it
            }
            let (mut allowed, mut is_missing) = (Vec::new(), false);
            for action in actions.iter().copied() {
                let outcome = table.probe(action).await;
                is_missing |= matches!(outcome, Err(TableError::Missing { .. }));
                allowed.extend(is_allowed(action, &table.name, outcome, report).then_some(action));
            }
            if is_missing && self.options.create_tables {
                let outcome = table.probe("CreateTable").await;
                allowed.extend(is_allowed("CreateTable", &table.name, outcome, report).then_some("CreateTable"));
            }
            if !allowed.is_empty() {
                report.ok("permissions", format!("{} on {}", allowed.join(", "), table.name));
            }
            found.push((kind, table, is_missing));
        }
        for (kind, table, is_missing) in found {
            let name = table.name.as_str();
            match table.status().await {
                Ok(_) if !is_missing => report.ok(kind, name),
                Ok(_) if self.options.create_tables => {
                    report.ok(kind, format!("{name} does not exist, and the worker will create it"));
                }
                Ok(_) => report.failure(kind, Error::NoTable(name.to_owned())),
                // Said with the permissions.
                Err(TableError::Refused { .. }) => {}
                Err(error) => report.failure(kind, error),
            }
        }
    }

    /// Watches leases whose owners are no workers of this program. A Kinesis Client Library that is alive renews its own
    /// several times in its failover time.
    async fn kcl_fleet(&self, report: &mut Report) {
        let Ok(fleet) = self.fleet_members().await else { return };
        let Ok(first) = self.foreign_leases(&fleet).await else { return };
        if first.is_empty() {
            return;
        }
        let latest = Instant::now() + self.options.kcl_failover_time;
        while Instant::now() < latest {
            tokio::time::sleep(POLL_INTERVAL).await;
            let Ok(now) = self.foreign_leases(&fleet).await else { return };
            let renewed =
                now.iter().find(|(key, (_, counter))| first.get(*key).is_some_and(|(_, before)| before != counter));
            if let Some((shard, (owner, _))) = renewed {
                return report.failure(
                    "KCL fleet",
                    format!(
                        "worker {owner} of the Kinesis Client Library is alive and renews lease {shard}: stop that fleet \
                         first, or use another --app"
                    ),
                );
            }
        }
        let owners: BTreeSet<&WorkerId> = first.values().map(|(owner, _)| owner).collect();
        let owners = owners.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        report
            .ok("KCL fleet", format!("{} leases of {owners}, who do not renew them, will be taken over", first.len()));
        match self.leases.kcl_signs().await {
            Ok(signs) => signs.iter().for_each(|sign| warn_of_kcl(sign, report)),
            Err(TableError::Refused { operation, table, source }) => {
                report.warning("permissions", denied(operation, &format!("table {table}"), &source.to_string()));
            }
            Err(error) => report.warning("KCL fleet", error),
        }
    }

    async fn fleet_members(&self) -> Result<BTreeSet<WorkerId>, TableError> {
        match self.fleet.scan().await {
            Ok(fleet) => Ok(fleet.members.into_iter().map(|member| member.id).collect()),
            Err(TableError::Missing { .. }) => Ok(BTreeSet::new()),
            Err(error) => Err(error),
        }
    }

    async fn foreign_leases(
        &self,
        members: &BTreeSet<WorkerId>,
    ) -> Result<BTreeMap<ShardId, (WorkerId, u64)>, TableError> {
        let foreign = |row: Lease| {
            let holder = row.holder().filter(|holder| !members.contains(*holder)).cloned()?;
            Some((row.key, (holder, row.counter)))
        };
        Ok(self.leases.scan().await?.into_iter().flatten().filter_map(foreign).collect())
    }
}

/// Warns of a KCL worker whose metrics are so young that it may be alive, though its leases are quiet.
fn warn_of_kcl(sign: &KclSign, report: &mut Report) {
    let age_ms = sign.written_ms.map(|written| WallClock::System.now_ms().saturating_sub(written));
    if let Some(age_ms) = age_ms.filter(|age_ms| *age_ms <= KCL_METRICS_YOUNG_MS) {
        let (writer, age_s) = (&sign.writer, age_ms / 1000);
        report.warning(
            "KCL fleet",
            format!(
                "worker {writer} of the Kinesis Client Library wrote its metrics {age_s} s ago: a shardkeeper worker takes \
                 no lease before it has watched them for 35 s, and leaves if they change"
            ),
        );
    }
}

/// Whether a probe was allowed; if not, the report says so.
fn is_allowed(action: &str, table: &str, outcome: Result<(), TableError>, report: &mut Report) -> bool {
    match outcome {
        Ok(()) | Err(TableError::Missing { .. }) => true,
        Err(TableError::Refused { source, .. }) => {
            report.failure("permissions", denied(action, &format!("table {table}"), &source.to_string()));
            false
        }
        Err(error) => {
            report.failure("permissions", error);
            false
        }
    }
}

fn denied(action: &str, resource: &str, reason: &str) -> String {
    format!("dynamodb:{action} on {resource} is refused: allow it, as deploy/iam does ({reason})")
}

async fn check_handler(args: &RunArgs, options: &WorkerOptions, report: &mut Report) {
    let limit = options.failure.handler_timeout.unwrap_or(HANDLER_LIMIT).min(HANDLER_LIMIT);
    match args.sink.probe(limit).await {
        None => {}
        Some(Ok(())) => report.ok("handler", "it accepts an event without records"),
        Some(Err(error)) => report.failure("handler", format!("{error:#}; start it, or correct --to")),
    }
}

async fn check_dead_letters(args: &RunArgs, options: &WorkerOptions, config: &SdkConfig, report: &mut Report) {
    const NAME: &str = "dead letters";
    match args.dead_letters() {
        None => {}
        Some(DeadLetterTarget::Table) => {
            let table = DeadLetterTable::from_config(config, &options.app);
            if let Err(error) = table.check().await {
                return report.failure(NAME, error);
            }
            let (mut is_complete, mut is_missing) = (true, false);
            for action in DEAD_LETTER_ACTIONS.iter().copied() {
                let outcome = table.probe(action).await;
                is_missing |= matches!(outcome, Err(TableError::Missing { .. }));
                is_complete &= is_allowed(action, table.name(), outcome, report);
            }
            if is_missing && options.create_tables {
                is_complete &= is_allowed("CreateTable", table.name(), table.probe("CreateTable").await, report);
            }
            match (is_missing, options.create_tables) {
                (true, false) => report.failure(NAME, Error::NoTable(table.name().to_owned())),
                (true, true) if is_complete => {
                    report.ok(NAME, format!("{} does not exist, and the worker will create it", table.name()));
                }
                (false, _) if is_complete => report.ok(NAME, table.name()),
                _ => {}
            }
        }
        Some(DeadLetterTarget::File(path)) => match try_file(path) {
            Ok(()) => report.ok(NAME, path.display()),
            Err(error) => report.failure(NAME, format!("cannot write {}: {error}", path.display())),
        },
        #[cfg(feature = "sqs")]
        Some(target @ DeadLetterTarget::Sqs(_)) => match target.open(&options.app, &options.endpoints).await {
            Ok(queue) => match queue.prepare(false).await {
                Ok(()) => report.ok(NAME, target),
                Err(error) => report.failure(NAME, error),
            },
            Err(error) => report.failure(NAME, format!("{error:#}")),
        },
    }
}

/// Opens a file for writing, and removes it if it was not there before.
fn try_file(path: &Path) -> io::Result<()> {
    match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            OpenOptions::new().append(true).create_new(true).open(path)?;
            std::fs::remove_file(path)
        }
        outcome => outcome.map(drop),
    }
}

fn check_clock(clock: &ServiceClock, report: &mut Report) {
    let Some(service_ms) = clock.now_ms() else {
        return report.warning("clock", "not compared: no answer of the service showed its time");
    };
    let own_ms = i64::try_from(WallClock::System.now_ms()).unwrap_or(i64::MAX);
    let off = Duration::from_millis(own_ms.abs_diff(service_ms));
    let way = if own_ms > service_ms { "ahead of" } else { "behind" };
    let message = format!("{} s {way} the service's", off.as_secs());
    match off {
        _ if off >= CLOCK_FAILURE => report.failure(
            "clock",
            format!("{message}: signatures are refused from five minutes on; synchronize this machine's clock"),
        ),
        _ if off >= CLOCK_WARNING => {
            report.warning(
                "clock",
                format!("{message}: ages and lags are wrong by it; synchronize this machine's clock"),
            );
        }
        _ => report.ok("clock", message),
    }
}
