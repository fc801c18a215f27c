//! The fleet: how the workers of an application share its shards.
//!
//! Three tasks, which a slow or failing part of one cannot hold up in the others:
//!
//! - `membership`: this worker's item in the fleet table: heartbeats, which prove all its leases alive, and its inbox.
//! - `keeper`: the leases of this worker: starts, hands over and stops their consumers as the lease rows say.
//! - `leader`: watches the fleet; leads it when nobody else does: lists shards, makes leases, assigns them.
//!
//! Beside them, for people: [`status`] puts what the tables show into words, [`intervention`] decides what an operator
//! may do to a lease, and a [`FleetObserver`] looks at a fleet from outside. What a running worker shows of itself is on its
//! [`WorkerTelemetry`].
//!
//! The rows of the lease table decide; everything else only saves time.

mod discovery;
mod fleet_observer;
pub mod fleet_view;
pub(crate) mod heartbeat;
mod leader;
mod lease_manager;
mod overload_monitor;
mod watchdog;

use std::collections::BTreeSet;
use std::sync::Arc;

use fastrand::Rng;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub use self::discovery::{Listing, list};
pub use self::fleet_observer::FleetObserver;
pub use self::fleet_view::FleetView;
pub use crate::telemetry::WorkerTelemetry;

use self::heartbeat::{Membership, SharedWorkerRecord};
use self::leader::Leader;
use self::lease_manager::LeaseManager;
use crate::aws::TableError;
use crate::aws::fleet_table::FleetTable;
use crate::aws::lease_table::LeaseTable;
use crate::aws::stream::Stream;
use crate::consumer::{FatalError, LeaseDeadline, SpawnConsumer, WallClock};
use crate::model::lease::{Lease, ShardId, WorkerId};
use crate::model::worker_record::{Hints, LeaderRecord, WorkerRecord};
use crate::options::WorkerOptions;

/// The worker itself, among the others of its fleet.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The worker's id.
    pub worker: WorkerId,
    /// Tells this process from others of the same worker id.
    pub incarnation: String,
    /// Start of the worker (ms since the epoch).
    pub started_ms: u64,
}

/// Why a worker's part in its fleet ended without having been asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A consumer found something that the worker must stop for.
    #[error(transparent)]
    Consumer(#[from] FatalError),
    /// A worker of the Kinesis Client Library is at work on the lease table.
    #[error(
        "KCL worker \"{owner}\" is alive on this lease table (it renews lease {lease}): stop the KCL fleet first, or \
         use another --app"
    )]
    KclAlive {
        /// The owner.
        owner: WorkerId,
        /// A lease that it renews.
        lease: ShardId,
    },
    /// The application reads another stream.
    #[error(
        "application \"{app}\" reads another stream and has not finished it: {other}. Finish that one first \
         (--stream-arn {other} --until-caught-up), or use another --app for {wanted}"
    )]
    OtherStream {
        /// The application.
        app: String,
        /// The stream that it reads.
        other: String,
        /// The stream that was asked for.
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

/// How a worker's part in its fleet ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerExit {
    /// It was asked to stop.
    Stopped,
    /// Everything that was in the stream at the start is delivered and checkpointed.
    CaughtUp,
    /// The stream is switched off and everything in it is delivered.
    StreamEnded,
}

/// What the tasks tell the keeper.
#[derive(Debug)]
enum Notice {
    /// Lease rows may have changed.
    Look(Hints),
    /// This worker could not prove itself alive in time: all its leases may be others'.
    Lapsed,
    /// The stream is switched off and everything in it is delivered.
    StreamEnded,
}

/// The part of one worker in its fleet.
pub struct Coordinator {
    me: Identity,
    options: Arc<WorkerOptions>,
    stream: Stream,
    leases: LeaseTable,
    fleet: FleetTable,
    alive: LeaseDeadline,
    board: WorkerTelemetry,
    rng: Rng,
}

impl Coordinator {
    /// A worker's part in the fleet that the two tables hold.
    pub fn new(
        me: Identity,
        options: Arc<WorkerOptions>,
        stream: Stream,
        leases: LeaseTable,
        fleet: FleetTable,
        alive: LeaseDeadline,
        board: WorkerTelemetry,
        rng: Rng,
    ) -> Self {
        let (leases, fleet) = (leases.with_health(board.lease_table()), fleet.with_health(board.fleet_table()));
        Self { me, options, stream, leases, fleet, alive, board, rng }
    }

    /// Takes part in the fleet until `stop` says otherwise or the work is done; then hands all leases over.
    ///
    /// # Errors
    /// When going on is impossible. The leases are then left to expire, so that nothing is written in a state that
    /// nobody understands.
    pub async fn run(
        mut self,
        starter: Arc<dyn SpawnConsumer>,
        stop: watch::Receiver<bool>,
    ) -> Result<WorkerExit, Error> {
        let (notices, notice_receiver) = mpsc::unbounded_channel();
        let (view_sender, view) = watch::channel(FleetView::default());
        let presence = SharedWorkerRecord::new(WorkerRecord {
            incarnation: self.me.incarnation.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            max_leases: self.options.max_leases.map(|limit| limit as u64),
            ..WorkerRecord::default()
        });
        let membership = Membership {
            table: self.fleet.clone(),
            worker: self.me.worker.clone(),
            lease_duration: self.options.lease_duration,
            alive: self.alive.clone(),
            presence: presence.clone(),
            notices: notices.clone(),
            board: self.board.clone(),
        };
        membership.register().await?;
        self.board.set_working();
        let leader = Leader::new(
            self.me.clone(),
            Arc::clone(&self.options),
            self.stream.clone(),
            self.leases.clone(),
            self.fleet.clone(),
            presence.clone(),
            view_sender,
            notices,
            Arc::clone(&starter),
            self.board.clone(),
            self.rng.fork(),
        );
        let keeper = LeaseManager::new(
            self.me.clone(),
            Arc::clone(&self.options),
            self.leases.clone(),
            self.fleet.clone(),
            presence.clone(),
            view,
            starter,
            notice_receiver,
            self.board.clone(),
            self.rng.fork(),
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { ("heartbeat", Err(membership.run().await)) });
        tasks.spawn(async move { ("leader", Err(leader.run().await)) });
        tasks.spawn(async move { ("keeper", keeper.run(stop).await) });
        let ending = match tasks.join_next().await {
            Some(Ok((_, outcome))) => outcome,
            _ => Err(Error::TaskDied("coordination")),
        };
        tasks.shutdown().await;
        if ending.is_ok() {
            self.say_goodbye(&presence.get()).await;
        }
        ending
    }

    /// Takes this worker out of the fleet table; when that fails, the others find out by themselves.
    async fn say_goodbye(&self, presence: &WorkerRecord) {
        let goodbye = async {
            if let Some(seen) = self.fleet.leader().await?
                && seen.worker.as_ref() == Some(&self.me.worker)
                && seen.incarnation == presence.incarnation
            {
                let next =
                    LeaderRecord { worker: None, incarnation: String::new(), term: seen.term + 1, ..seen.clone() };
                self.fleet.write_leader(&next, Some(seen.term)).await?;
            }
            if let Some(member) = self.fleet.get(&self.me.worker).await?
                && member.record.incarnation == presence.incarnation
            {
                self.fleet.remove(&member.id, &member.record.incarnation, member.record.heartbeat).await?;
            }
            Ok::<_, TableError>(())
        };
        if let Err(error) = goodbye.await {
            tracing::debug!(%error, "leaving the fleet table failed");
        }
    }
}

/// Binds the application to its stream, or finds that it is bound to it, and returns the leader's item.
///
/// # Errors
/// [`Error::OtherStream`] when the application has unfinished leases of another stream.
pub async fn bind_stream(
    leases: &LeaseTable,
    fleet: &FleetTable,
    stream: &Stream,
    clock: WallClock,
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
        let wanted = LeaderRecord {
            worker: None,
            incarnation: String::new(),
            term: seen.as_ref().map_or(0, |seen| seen.term + 1),
            stream_arn: Some(stream.arn().to_owned()),
            started_at_ms: clock.now_ms(),
            initial_sync_done: false,
        };
        if fleet.write_leader(&wanted, seen.map(|seen| seen.term)).await? {
            return Ok(wanted);
        }
    }
}

/// The children ids of a finished row that are not among `known`.
fn other_children(row: &Lease, known: &[Lease]) -> BTreeSet<ShardId> {
    row.children.iter().filter(|child| !known.iter().any(|lease| lease.key == **child)).cloned().collect()
}
