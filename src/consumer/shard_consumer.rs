//! The consumer of one shard: from the lease to its end, loss or hand-over.
//!
//! It waits for the shard's parents, starts the reader, claims the lease, and leaves the rest to the delivery.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use super::ConsumerDeps;
use super::delivery::{Delivery, ReaderEvents};
use super::lease_handle::{Done, LeaseHandle, WriteError};
use super::processor::{ProcessorFactory, ShardContext};
use super::reader::{Reader, channel};
use super::status::ShardStatus;
use crate::aws::TableError;
use crate::model::lease::{Lease, ShardId};
use crate::model::polling::PollPacer;

/// How often a consumer looks whether its shard's parents are finished, when nobody tells it.
const PARENT_LOOK: Duration = Duration::from_secs(1);
/// What the coordinator wants of a consumer. A later wish takes the place of an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumerCommand {
    /// Read on.
    Run,
    /// Finish what is at hand, checkpoint, and hand the lease to its new owner.
    HandOver,
    /// Finish what is at hand, checkpoint, and give the lease up.
    Release,
    /// The lease is lost: stop, and write nothing.
    Stop,
}

/// How a consumer ended.
#[derive(Clone, Debug)]
pub enum Exit {
    /// The shard is read to its end; its children's leases, as far as they went to the parent's owner.
    Ended {
        /// The finished row.
        row: Lease,
        /// The children, owned by the row's owner.
        children: Vec<Lease>,
    },
    /// The lease was handed over or given up; the row as this worker left it.
    Released(Lease),
    /// The lease is lost.
    Lost,
    /// Something that the whole worker must stop for.
    Failed(Failure),
}

/// What a worker must stop for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The lease table is gone or refuses us.
    #[error("{0}")]
    LeaseTable(TableError),
    /// The stream is gone.
    #[error("the stream no longer exists: {0}")]
    StreamGone(String),
    /// Records were trimmed before they were read, and the worker is to stop at that.
    #[error("records of shard {0} were trimmed before they were read")]
    Gap(ShardId),
}

/// The consumer of one shard.
pub(super) struct ShardConsumer<F: ProcessorFactory> {
    pub(super) shared: Arc<ConsumerDeps<F>>,
    pub(super) lease: Lease,
    pub(super) wishes: watch::Receiver<ConsumerCommand>,
    /// Told when the parents should be looked at.
    pub(super) look: Arc<Notify>,
    pub(super) status: Arc<ShardStatus>,
    pub(super) rng: Rng,
}

impl<F: ProcessorFactory> ShardConsumer<F> {
    pub(super) async fn run(mut self) -> Exit {
        if let Err(exit) = self.wait_for_parents().await {
            return exit;
        }
        let context = ShardContext {
            shard_id: self.lease.key.clone(),
            stream_arn: self.shared.stream.arn().into(),
            checkpoint: self.lease.checkpoint.clone(),
        };
        let lease = Arc::new(LeaseHandle::new(
            self.lease.clone(),
            self.shared.worker.clone(),
            self.shared.table.clone(),
            self.shared.alive.clone(),
            Arc::clone(&self.status),
            self.rng.fork(),
        ));
        let reader = self.reader(); // fetches ahead, also of the claim
        match lease.claim().await {
            Ok(()) => {}
            Err(WriteError::Lost) => return Exit::Lost,
            Err(WriteError::Table(error)) => return Exit::Failed(Failure::LeaseTable(error)),
        }
        let (shared, wishes, done) = (self.shared.clone(), self.wishes.clone(), self.lease.done_beyond());
        Delivery::new(shared, context, lease, self.status.clone(), wishes, done, self.rng.fork()).run(reader).await
    }

    /// No record of a child before its parents' end is in the lease table: read there, strongly consistent.
    async fn wait_for_parents(&mut self) -> Result<(), Exit> {
        loop {
            let blocked = match self.unfinished_parent().await {
                Ok(parent) => parent.is_some(),
                Err(error) if error.is_transient() => true,
                Err(error) => return Err(Exit::Failed(Failure::LeaseTable(error))),
            };
            self.status.set_blocked(blocked);
            if !blocked {
                return Ok(());
            }
            let wait = PARENT_LOOK.mul_f64(1.0 - 0.2 * self.rng.f64());
            tokio::select! {
                biased;
                wish = wished(&mut self.wishes) => return Err(self.leave_unread(wish).await),
                () = self.look.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn unfinished_parent(&self) -> Result<Option<ShardId>, TableError> {
        for parent in &self.lease.parents {
            match self.shared.table.read(parent).await? {
                Some(Ok(row)) if !row.is_finished() => return Ok(Some(parent.clone())),
                Some(Err(bad)) => {
                    tracing::warn!(shard = %self.lease.key, %bad, "the shard waits for a parent whose lease is broken");
                    return Ok(Some(parent.clone()));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Gives a lease up of which nothing was read.
    async fn leave_unread(&mut self, wish: ConsumerCommand) -> Exit {
        let lease = LeaseHandle::new(
            self.lease.clone(),
            self.shared.worker.clone(),
            self.shared.table.clone(),
            self.shared.alive.clone(),
            Arc::clone(&self.status),
            self.rng.fork(),
        );
        give_up(&lease, wish, None).await
    }

    fn reader(&mut self) -> ReaderEvents {
        let (found, finds) = channel();
        let mut reader = Reader {
            stream: self.shared.stream.clone(),
            shard: self.lease.key.clone(),
            position: self.lease.checkpoint.clone(),
            latest_since_ms: self.shared.started_at_ms,
            not_before_ms: None,
            budget: self.shared.budget.clone(),
            pacer: PollPacer::new(self.shared.options.idle_poll),
            rng: self.rng.fork(),
            clock: self.shared.options.clock,
            status: Arc::clone(&self.status),
            found,
        };
        if self.lease.counter > 0 {
            // Only a lease that was never touched since it was made can begin at the newest record there is now.
            reader.seek_latest_by_time();
        }
        (AbortOnDropHandle::new(tokio::spawn(reader.run())), finds)
    }
}

/// Gives the lease up as it is wished for, with how far the shard is done.
pub(super) async fn give_up(lease: &LeaseHandle, wish: ConsumerCommand, done: Option<&Done>) -> Exit {
    let given = match wish {
        ConsumerCommand::HandOver => lease.transfer(done).await,
        ConsumerCommand::Release => lease.release(done).await,
        ConsumerCommand::Run | ConsumerCommand::Stop => return Exit::Lost,
    };
    match given {
        Ok(row) => Exit::Released(row),
        Err(WriteError::Lost) => Exit::Lost,
        Err(WriteError::Table(error)) => Exit::Failed(Failure::LeaseTable(error)),
    }
}

/// Waits for a wish other than to run on.
pub(super) async fn wished(wishes: &mut watch::Receiver<ConsumerCommand>) -> ConsumerCommand {
    match wishes.wait_for(|wish| *wish != ConsumerCommand::Run).await {
        Ok(wish) => *wish,
        Err(_) => ConsumerCommand::Stop, // the coordinator is gone
    }
}
