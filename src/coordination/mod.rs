//! Coordination: the workers of an application share its shards.
//!
//! Three tasks, so that a slow or failing part of one cannot hold up the others:
//!
//! - `heartbeat`: this worker's record in the fleet table: heartbeats, which prove all its leases alive, and its inbox.
//! - `lease_manager`: the leases of this worker: starts, hands over and stops their consumers as the lease rows say.
//! - `leader`: observes the fleet; leads it when nobody else does: lists shards, makes leases, assigns them.
//!
//! A fourth one lets [`WorkerTelemetry`] observe them, a fifth one serves the [`ShardDirectory`]. The rows of the lease table decide; everything else only saves
//! time.

mod discovery;
mod fleet_observer;
mod heartbeat;
mod leader;
mod lease_manager;
mod overload_monitor;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub use self::fleet_observer::FleetObserver;
use self::heartbeat::{HeartbeatTask, SharedWorkerRecord};
use self::leader::Leader;
use self::lease_manager::LeaseManager;
use crate::aws::TableError;
use crate::aws::fleet_table::FleetTable;
use crate::aws::lease_table::LeaseTable;
use crate::aws::stream::Stream;
use crate::consumer::{FatalError, LeaseDeadline, SpawnConsumer};
use crate::error::Refusals;
use crate::model::app_lag::RETENTION_MS;
use crate::model::fleet_view::FleetView;
use crate::model::lease::{ShardId, WorkerId};
use crate::model::millis;
use crate::model::worker_record::{Hints, LeaderRecord, WorkerEnd, WorkerRecord};
use crate::options::{OnGap, StartPosition, WorkerOptions};
use crate::shard_directory::ShardDirectory;
use crate::telemetry::scope::inherit;
use crate::telemetry::{WorkerTelemetry, catalogue};
/// The worker itself, among the others of its fleet.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Worker id.
    pub worker: WorkerId,
    /// Tells this process from others of the same worker id.
    pub incarnation: String,
    /// Start of the worker (ms since the epoch).
    pub started_ms: u64,
}

/// Reasons why a worker leaves its fleet without having been asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A consumer met an error that ends the worker.
    #[error(transparent)]
    Consumer(#[from] FatalError),
    /// A worker of the Kinesis Client Library is at work on the lease table.
    #[error(
        "KCL worker \"{owner}\" is alive on this lease table (it works on lease {lease}), so all workers of this fleet have \
         released theirs: stop the KCL fleet first, or choose another application"
    )]
    KclAlive {
        /// Owner of the lease.
        owner: WorkerId,
        /// Lease that it renews or has taken.
        lease: ShardId,
    },
    /// The fleet table did not take this worker's item in time.
    #[error(
        "could not join the fleet within {0:?}: the fleet table takes no write of this worker's item (see its throttling)"
    )]
    NotJoined(Duration),
    /// The start is older than the records that the service keeps, and the worker is told to stop at gaps.
    #[error(
        "the start is {0:?} ago, and DynamoDB keeps a stream's records for 24 hours: start later, or allow the gap"
    )]
    StartTrimmed(Duration),
    /// The application reads another stream.
    #[error(
        "application \"{app}\" reads another stream and has not finished it: {other}. Read that one \
         until it is caught up first, or choose another application for {wanted}"
    )]
    OtherStream {
        /// Application.
        app: String,
        /// Stream that it reads.
        other: String,
        /// Stream that was asked for.
        wanted: String,
    },
    /// Another process has taken this worker's id.
    #[error("another process has taken over the worker id \"{0}\"; each worker needs an id of its own")]
    Replaced(WorkerId),
    /// One of the tables failed for good.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A task of this worker died.
    #[error("the {0} task died; this is a fault of shardkeeper")]
    TaskDied(&'static str),
    /// Another live process uses this worker's id.
    #[error("worker id \"{0}\" is in use by another live process; each worker needs an id of its own")]
    WorkerIdInUse(WorkerId),
}

/// The end of a worker that was not ended by an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerExit {
    /// It was asked to stop.
    Stopped,
    /// Everything that was in the stream at the start is delivered and checkpointed.
    CaughtUp,
    /// The stream is switched off and everything in it is delivered.
    StreamEnded,
}

impl Error {
    /// Whether the leases may be handed over first: the rows are understood, and this worker's.
    fn allows_drain(&self) -> bool {
        match self {
            Self::Consumer(FatalError::LeaseTable(_) | FatalError::Gap(_)) | Self::KclAlive { .. } | Self::Table(_) => {
                true
            }
            Self::Consumer(FatalError::StreamGone(_))
            | Self::NotJoined(_)
            | Self::OtherStream { .. }
            | Self::Replaced(_)
            | Self::StartTrimmed(_)
            | Self::TaskDied(_)
            | Self::WorkerIdInUse(_) => false,
        }
    }
}

impl WorkerExit {
    /// The ending as a word for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::CaughtUp => "caught_up",
            Self::StreamEnded => "stream_ended",
        }
    }
}

/// The time that a failed worker may take to leave the reason of its end behind.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The most bytes of that reason.
const LONGEST_REASON: usize = 500;

/// The end of a worker's part in its fleet.
struct Departure {
    exit: Result<WorkerExit, Error>,
    /// Whether the lease manager has drained.
    is_over: bool,
    /// Whether no consumer runs any longer, so that others may have the leases at once.
    holds_nothing: bool,
}

impl From<Error> for Departure {
    fn from(error: Error) -> Self {
        Self { exit: Err(error), is_over: false, holds_nothing: false }
    }
}

/// News for the lease manager from the other tasks.
#[derive(Debug)]
enum Notice {
    /// Lease rows may have changed.
    LeasesChanged(Hints),
    /// This worker could not prove itself alive in time: others may own all its leases.
    Expired,
    /// The stream is switched off and everything in it is delivered.
    StreamEnded,
    /// Another task has met an error that ends the worker.
    Failed(Error),
}

/// The parts that the tasks of one worker share.
#[derive(Clone)]
struct Deps {
    me: Identity,
    options: Arc<WorkerOptions>,
    stream: Stream,
    leases: LeaseTable,
    fleet: FleetTable,
    directory: ShardDirectory,
    record: SharedWorkerRecord,
    spawner: Arc<dyn SpawnConsumer>,
    telemetry: WorkerTelemetry,
}

/// One worker's part in its fleet.
pub struct Coordinator {
    pub me: Identity,
    pub options: Arc<WorkerOptions>,
    pub stream: Stream,
    pub leases: LeaseTable,
    pub fleet: FleetTable,
    pub directory: ShardDirectory,
    pub alive: LeaseDeadline,
    pub telemetry: WorkerTelemetry,
    pub rng: Rng,
}

impl Coordinator {
    /// Takes part in the fleet until `stop` says otherwise or the work is done; then hands all leases over.
    ///
    /// # Errors
    /// When the worker cannot continue. It hands its leases over first, but for errors after which nobody understands the
    /// state of the rows: then they are left to expire.
    pub async fn run(
        mut self,
        spawner: Arc<dyn SpawnConsumer>,
        stop: watch::Receiver<bool>,
    ) -> Result<WorkerExit, Error> {
        let alive = self.alive;
        let (notices, notice_receiver) = mpsc::unbounded_channel();
        let (view_sender, view) = watch::channel(FleetView::default());
        let record = SharedWorkerRecord::new(WorkerRecord {
            incarnation: self.me.incarnation.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            max_leases: self.options.max_leases.map(|limit| limit as u64),
            lease_duration_ms: u64::try_from(self.options.lease_duration.as_millis()).ok(),
            drain_timeout_ms: u64::try_from(self.options.drain_timeout.as_millis()).ok(),
            ..WorkerRecord::default()
        });
        let deps = Deps {
            me: self.me,
            options: self.options,
            stream: self.stream,
            leases: self.leases,
            fleet: self.fleet,
            directory: self.directory,
            record,
            spawner,
            telemetry: self.telemetry,
        };
        let heartbeat = HeartbeatTask {
            deps: deps.clone(),
            alive: alive.clone(),
            notices: notices.clone(),
            refusals: Refusals::default(),
        };
        let mut asked = stop.clone();
        let asked = async { drop(asked.wait_for(|stop| *stop).await) };
        tokio::select! {
            biased;
            () = asked => {
                deps.say_goodbye(WorkerExit::Stopped.as_str()).await; // the item may be there already
                return Ok(WorkerExit::Stopped);
            }
            joined = tokio::time::timeout(deps.options.start_timeout, heartbeat.register()) => {
                joined.unwrap_or(Err(Error::NotJoined(deps.options.start_timeout)))?;
            }
        }
        deps.telemetry.set_working();
        let telemetry = deps.telemetry.clone();
        telemetry.follow_fleet(deps.me.worker.clone(), view.clone(), deps.record.subscribe());
        let failures = notices.clone();
        let leader = Leader::new(deps.clone(), view_sender, notices, self.rng.fork());
        let lease_manager = LeaseManager::new(deps.clone(), view, notice_receiver, self.rng.fork());
        let mut tasks = JoinSet::new();
        let (directory, stream) = (deps.directory.clone(), deps.stream.clone());
        let (rate, rng) = (deps.options.describe_stream_rate, self.rng.fork());
        tasks.spawn(inherit(async move { match directory.serve(&stream, rate, rng).await {} }));
        tasks.spawn(inherit(async move { Departure::from(heartbeat.run().await) }));
        tasks.spawn(inherit(async move { Departure::from(leader.run().await) }));
        tasks.spawn(inherit(async move { lease_manager.run(stop).await }));
        tasks.spawn(inherit(async move { match telemetry.run().await {} }));
        let departure = loop {
            match tasks.join_next().await {
                // The lease manager drains, and ends with the error.
                Some(Ok(Departure { exit: Err(error), is_over: false, .. }))
                    if error.allows_drain() && failures.send(Notice::Failed(error.clone())).is_ok() => {}
                Some(Ok(departure)) => break departure,
                _ => break Error::TaskDied("coordination").into(),
            }
        };
        tasks.shutdown().await;
        alive.end_epoch(); // calls that could not be dropped begin no other record
        let reason = match &departure.exit {
            Ok(ending) => ending.as_str().to_owned(),
            Err(error) => error.to_string(),
        };
        // Without a goodbye the others wait until the last heartbeat proves nothing any longer.
        if departure.holds_nothing {
            deps.say_goodbye(&reason).await;
        } else {
            let kept = tokio::time::timeout(LAST_WORDS, deps.keep_end(&reason)).await;
            tracing::debug!(is_kept = matches!(kept, Ok(Ok(()))), "keeping the reason of the end");
        }
        departure.exit
    }
}

impl Deps {
    /// Takes this worker out of the fleet table; when that fails, the others find out by themselves.
    async fn say_goodbye(&self, reason: &str) {
        let record = self.record.get();
        let goodbye = async {
            if let Some(seen) = self.fleet.leader().await?
                && seen.worker.as_ref() == Some(&self.me.worker)
                && seen.incarnation == record.incarnation
            {
                let next =
                    LeaderRecord { worker: None, incarnation: String::new(), term: seen.term + 1, ..seen.clone() };
                self.fleet.write_leader(&next, Some(seen.term)).await?;
            }
            if let Some(member) = self.fleet.get(&self.me.worker).await?
                && member.record.incarnation == record.incarnation
            {
                self.fleet.remove(&member.id, &member.record.incarnation, member.record.heartbeat).await?;
                self.keep_end(reason).await?;
            }
            Ok::<_, TableError>(())
        };
        if let Err(error) = goodbye.await {
            tracing::debug!(%error, "leaving the fleet table failed");
        }
    }

    /// Keeps the reason of this worker's end in the fleet table, for those who find the fleet gone.
    async fn keep_end(&self, reason: &str) -> Result<(), TableError> {
        let end = WorkerEnd {
            worker: self.me.worker.to_string(),
            at_ms: Some(self.options.clock.now_ms()),
            was_found_dead: false,
            leases: self.record.get().leases,
            reason: reason[..reason.floor_char_boundary(LONGEST_REASON)].to_owned(),
        };
        self.fleet.keep_end(&end).await
    }
}

/// Binds the application to its stream, unless it is bound to it already, and returns the leader's record.
///
/// # Errors
/// [`Error::OtherStream`] when the application has unfinished leases of another stream.
pub async fn bind_stream(
    leases: &LeaseTable,
    fleet: &FleetTable,
    stream: &Stream,
    options: &WorkerOptions,
) -> Result<LeaderRecord, Error> {
    loop {
        let seen = fleet.leader().await?;
        let bound = seen.as_ref().and_then(|seen| seen.stream_arn.as_deref());
        if let (Some(seen), true) = (&seen, bound == Some(stream.arn())) {
            return Ok(seen.clone());
        }
        if let Some(other) = bound
            && leases.scan().await?.iter().any(|row| row.as_ref().map_or(true, |row| !row.is_finished()))
        {
            return Err(Error::OtherStream {
                app: leases.name().to_owned(),
                other: other.to_owned(),
                wanted: stream.arn().to_owned(),
            });
        }
        let now_ms = fleet.service_time_ms().await?.unwrap_or_else(|| options.clock.now_ms());
        let started_at_ms = match options.start {
            StartPosition::At(time) => start_at(time, now_ms, options.on_gap)?,
            StartPosition::Latest | StartPosition::TrimHorizon => now_ms,
        };
        let wanted = LeaderRecord {
            worker: None,
            incarnation: String::new(),
            term: seen.as_ref().map_or(0, |seen| seen.term + 1),
            stream_arn: Some(stream.arn().to_owned()),
            started_at_ms,
            initial_sync_done: false,
            kcl_alive: None,
        };
        if fleet.write_leader(&wanted, seen.map(|seen| seen.term)).await? {
            return Ok(wanted);
        }
    }
}

/// The start time (ms since the epoch). The service does not tell that what was asked for is trimmed, so it is told here.
fn start_at(time: SystemTime, now_ms: u64, on_gap: OnGap) -> Result<u64, Error> {
    let start_ms = time.duration_since(UNIX_EPOCH).map_or(0, millis);
    let age = Duration::from_millis(now_ms.saturating_sub(start_ms));
    if age > Duration::from_millis(RETENTION_MS) {
        if on_gap == OnGap::Stop {
            return Err(Error::StartTrimmed(age));
        }
        catalogue::DATA_GAPS.inc(["trimmed"]);
        tracing::error!(
            cause = "trimmed",
            from_ms = start_ms,
            to = "the oldest record",
            "gap: the start is older than the records that the service keeps"
        );
    }
    Ok(start_ms)
}
