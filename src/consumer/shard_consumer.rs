//! The consumer of one shard, from the lease to its end, loss, release or hand-off.
//!
//! It waits for the shard's parents, starts the reader, claims the lease and hands over to the [delivery](Delivery).

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::{Notify, watch};

use super::ConsumerDeps;
use super::delivery::Delivery;
use super::lease_handle::{LeaseHandle, Progress, WriteError};
use super::processor::{ProcessorFactory, ShardContext};
use super::reader::Reader;
use super::status::ConsumerStatus;
use crate::aws::TableError;
use crate::error::Refusals;
use crate::model::lease::{Lease, ShardId};

/// The interval at which a consumer reads its shard's parents, unless it is told to earlier.
const PARENT_POLL: Duration = Duration::from_secs(1);

/// The coordinator's command to a consumer, the more urgent ones later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConsumerCommand {
    /// Keep delivering.
    Run,
    /// Finish the calls in flight, checkpoint, and hand the lease off to its new owner.
    HandOff,
    /// Finish the calls in flight, checkpoint, and release the lease.
    Release,
    /// Drop the calls in flight, whose processor hangs, and release the lease with what is done.
    Surrender,
    /// Stop at once, without writing anything: the lease is lost. Calls in flight are dropped where they wait.
    Abort,
}

/// The end of a consumer.
#[derive(Clone, Debug)]
pub enum ConsumerExit {
    /// The shard is read to its end.
    Ended {
        /// The finished row.
        row: Lease,
        /// The leases of the children that went to the row's owner.
        children: Vec<Lease>,
    },
    /// The lease was released or handed off; the row as this worker left it.
    Released(Lease),
    /// Another worker may hold the lease.
    LeaseLost,
    /// The worker cannot continue.
    Failed(FatalError),
}

/// An error that the whole worker must stop for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FatalError {
    /// The lease table is missing or refuses this worker.
    #[error(transparent)]
    LeaseTable(TableError),
    /// The stream is gone.
    #[error("the stream no longer exists: {0}")]
    StreamGone(String),
    /// Records were trimmed before they were read, and the worker is told to stop at gaps.
    #[error("records of shard {0} were trimmed before they were read; --on-gap continue accepts the loss")]
    Gap(ShardId),
}

impl From<WriteError> for ConsumerExit {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::LeaseLost(_) => Self::LeaseLost,
            WriteError::Table(error) => Self::Failed(FatalError::LeaseTable(error)),
        }
    }
}

pub(super) struct ShardConsumer<F: ProcessorFactory> {
    pub(super) deps: Arc<ConsumerDeps<F>>,
    pub(super) lease: Lease,
    pub(super) commands: watch::Receiver<ConsumerCommand>,
    /// Notified when the parents should be read at once.
    pub(super) parents_changed: Arc<Notify>,
    pub(super) status: Arc<ConsumerStatus>,
    pub(super) rng: Rng,
}

impl<F: ProcessorFactory> ShardConsumer<F> {
    pub(super) async fn run(mut self) -> ConsumerExit {
        match self.consume().await {
            Ok(exit) | Err(exit) => exit,
        }
    }

    async fn consume(&mut self) -> Result<ConsumerExit, ConsumerExit> {
        // Calls of the SDK are large futures, and made once: boxed, they take no room while the shard is read.
        Box::pin(self.wait_for_parents()).await?;
        let shard = ShardContext {
            shard_id: self.lease.key.clone(),
            stream_arn: self.deps.stream.arn().into(),
            checkpoint: self.lease.checkpoint.clone(),
        };
        let lease = Arc::new(self.lease_handle());
        let (key, position) = (self.lease.key.clone(), self.lease.checkpoint.clone());
        // It reads ahead while the lease is claimed.
        let reader =
            Reader::start(&self.deps, key, position, self.lease.since_ms, Arc::clone(&self.status), self.rng.fork());
        tokio::select! {
            biased;
            _ = aborted(&mut self.commands) => return Err(ConsumerExit::LeaseLost),
            claimed = Box::pin(lease.claim()) => claimed?,
        }
        let (deps, status, commands) = (self.deps.clone(), self.status.clone(), self.commands.clone());
        let acknowledged = self.lease.done_beyond();
        let delivery = Delivery::new(deps, shard, lease, status, commands, acknowledged, self.rng.fork());
        Ok(delivery.run(reader).await)
    }

    /// Waits until the parents are finished, by strongly consistent reads of their rows: no record of a child may be
    /// delivered before that.
    async fn wait_for_parents(&mut self) -> Result<(), ConsumerExit> {
        let refusals = Refusals::default();
        loop {
            let is_blocked = match self.unfinished_parent().await {
                Ok(parent) => parent.is_some(),
                Err(error) if refusals.allow(&error) => true,
                Err(error) => return Err(ConsumerExit::Failed(FatalError::LeaseTable(error))),
            };
            self.status.set_blocked_on_parent(is_blocked);
            if !is_blocked {
                return Ok(());
            }
            let wait = PARENT_POLL.mul_f64(1.0 - 0.2 * self.rng.f64());
            tokio::select! {
                biased;
                command = commanded(&mut self.commands) => {
                    return Err(leave(&self.lease_handle(), command, None).await);
                }
                () = self.parents_changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn unfinished_parent(&self) -> Result<Option<ShardId>, TableError> {
        for parent in &self.lease.parents {
            match self.deps.table.read(parent).await? {
                Some(Ok(row)) if !row.is_finished() => return Ok(Some(parent.clone())),
                Some(Err(bad)) => {
                    tracing::warn!(shard = %self.lease.key, %bad, "lease of a parent is broken, shard waits");
                    return Ok(Some(parent.clone()));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn lease_handle(&mut self) -> LeaseHandle {
        LeaseHandle::new(&self.deps, self.lease.clone(), Arc::clone(&self.status), self.rng.fork())
    }
}

/// Gives the lease away as commanded, with the shard's progress.
pub(super) async fn leave(lease: &LeaseHandle, command: ConsumerCommand, progress: Option<&Progress>) -> ConsumerExit {
    let written = match command {
        ConsumerCommand::HandOff => lease.transfer(progress).await,
        ConsumerCommand::Release | ConsumerCommand::Surrender => lease.release(progress).await,
        ConsumerCommand::Run | ConsumerCommand::Abort => return ConsumerExit::LeaseLost,
    };
    written.map_or_else(ConsumerExit::from, ConsumerExit::Released)
}

/// Waits for a command other than [`ConsumerCommand::Run`].
pub(super) async fn commanded(commands: &mut watch::Receiver<ConsumerCommand>) -> ConsumerCommand {
    match commands.wait_for(|command| *command != ConsumerCommand::Run).await {
        Ok(command) => *command,
        Err(_) => ConsumerCommand::Abort, // the coordinator is gone
    }
}

/// Waits for a command that drops the calls in flight.
pub(super) async fn aborted(commands: &mut watch::Receiver<ConsumerCommand>) -> ConsumerCommand {
    match commands.wait_for(|command| *command >= ConsumerCommand::Surrender).await {
        Ok(command) => *command,
        Err(_) => ConsumerCommand::Abort, // the coordinator is gone
    }
}
