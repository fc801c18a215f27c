//! Checkpoints by hand, for processors that decide themselves when their work is durable.
//!
//! A write runs to completion even if its caller is cancelled, so the row's content is always known; only the end of the
//! worker cuts it off.

use std::future::Future;
use std::sync::Arc;

#[cfg(feature = "testing")]
use super::journal::Journal;
pub use super::lease_handle::Committed;
use super::lease_handle::{LeaseHandle, RefusedCommit, WriteError};
use super::lifetime::Lifetime;
use crate::aws::TableError;
use crate::aws::lease_table::{MAX_WRITES, RefusedWrite, TransactWriteItem};
use crate::model::checkpoint::Checkpoint;
use crate::model::lease::LeaseLost;
use crate::model::record::RecordBatch;
use crate::model::sequence_number::SequenceNumber;

/// Writes the checkpoints of one shard. Clones write to the same lease.
#[derive(Clone, Debug)]
pub struct Checkpointer(Target);

/// The place that checkpoints go to.
#[derive(Clone, Debug)]
enum Target {
    Lease(Arc<LeaseHandle>),
    /// Nowhere: dead letters are replayed, whose records' positions were checkpointed long ago.
    Replay,
    /// A test's list.
    #[cfg(feature = "testing")]
    Journal(Journal),
}

/// The reason that a checkpoint was not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The position lies before the last checkpoint, or beyond what was handed to the processor.
    #[error("{position} is outside of the range that may be checkpointed: from {from} to {to}")]
    OutOfRange {
        /// The position asked for.
        position: SequenceNumber,
        /// The last checkpoint.
        from: Checkpoint,
        /// The last record handed to the processor.
        to: Checkpoint,
    },
    /// Another worker holds the lease, or this one missed its heartbeat deadline.
    #[error("the lease is lost")]
    LeaseLost,
    /// The lease table could not be written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// There is nothing to checkpoint, or no lease to do it with.
    #[error("{0}")]
    Failed(String),
}

/// The reason that a handler's writes were not committed with their records' position. None of them was made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The checkpoint could not be moved: the lease is lost, or the records were never handed to this processor.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// DynamoDB refused some of the handler's writes. The lease is still held.
    #[error("{}", describe(.0))]
    Refused(Vec<RefusedWrite>),
    /// Some of the records were committed before and the others were not: commit those that
    /// [`Checkpointer::undone`] returns.
    #[error("the records up to {0} are committed already, and those after it are not")]
    Begun(Checkpoint),
    /// More than [`MAX_WRITES`] writes.
    #[error("a transaction takes at most {MAX_WRITES} writes beside the checkpoint, got {0}")]
    TooMany(usize),
}

fn describe(refused: &[RefusedWrite]) -> String {
    let first = refused.first().map_or_else(String::new, |write| {
        let message = write.message.as_ref().map(|message| format!(" ({message})")).unwrap_or_default();
        format!(", the first of them number {}: {}{message}", write.index, write.code)
    });
    format!("{} of the transaction's writes were refused{first}", refused.len())
}

impl Checkpointer {
    pub(super) fn new(lease: Arc<LeaseHandle>) -> Self {
        Self(Target::Lease(lease))
    }

    /// A checkpointer for replayed dead letters, which writes nothing.
    pub(super) fn of_replay() -> Self {
        Self(Target::Replay)
    }

    /// A checkpointer for tests, which keeps a journal.
    #[cfg(feature = "testing")]
    pub(super) fn of_test(journal: Journal) -> Self {
        Self(Target::Journal(journal))
    }

    pub(super) fn is_lease_lost(&self) -> bool {
        match &self.0 {
            Target::Lease(lease) => lease.check().is_err(),
            Target::Replay => false,
            #[cfg(feature = "testing")]
            Target::Journal(journal) => journal.is_lease_lost(),
        }
    }

    /// The last record handed to the processor.
    fn delivered(&self) -> Option<SequenceNumber> {
        match &self.0 {
            Target::Lease(lease) => lease.delivered(),
            Target::Replay => None,
            #[cfg(feature = "testing")]
            Target::Journal(journal) => journal.delivered(),
        }
    }

    /// The last checkpoint.
    async fn saved(&self) -> Checkpoint {
        match &self.0 {
            Target::Lease(lease) => lease.saved().await,
            Target::Replay => Checkpoint::TrimHorizon,
            #[cfg(feature = "testing")]
            Target::Journal(journal) => journal.saved(),
        }
    }

    /// Checkpoints every record handed to the processor so far. The checkpoint is durable when this returns.
    ///
    /// # Errors
    /// When the lease is lost or the lease table cannot be written.
    pub async fn checkpoint(&self) -> Result<(), CheckpointError> {
        match self.delivered() {
            Some(position) => self.write(position).await,
            None => Ok(()),
        }
    }

    /// Checkpoints every record up to and including `position`. The checkpoint is durable when this returns.
    ///
    /// # Errors
    /// When `position` lies before the last checkpoint or beyond the last record handed to the processor, the lease is
    /// lost, or the lease table cannot be written.
    pub async fn checkpoint_at(&self, position: &SequenceNumber) -> Result<(), CheckpointError> {
        if matches!(self.0, Target::Replay) {
            return Ok(());
        }
        let from = self.saved().await;
        let to = self.delivered().map_or(Checkpoint::TrimHorizon, Checkpoint::At);
        let wanted = Checkpoint::At(position.clone());
        if wanted < from || wanted > to {
            return Err(CheckpointError::OutOfRange { position: position.clone(), from, to });
        }
        self.write(position.clone()).await
    }

    async fn write(&self, position: SequenceNumber) -> Result<(), CheckpointError> {
        match &self.0 {
            Target::Lease(lease) => {
                let (lease, lifetime) = (Arc::clone(lease), lease.lifetime());
                Ok(run_to_completion(lifetime, async move { lease.checkpoint(position).await }).await??)
            }
            Target::Replay => Ok(()),
            #[cfg(feature = "testing")]
            Target::Journal(journal) => journal.write(position, Vec::new()),
        }
    }

    /// Makes a handler's writes to DynamoDB and moves the checkpoint over the records that they come from, in one
    /// transaction: all of it happens, or nothing. So each record takes effect once, however often it is delivered.
    ///
    /// `records` are the records that `writes` come from: some or all of a batch, in the shard's order, after those
    /// committed before. Records that are left out before the last of them count as committed too.
    ///
    /// Effects other than `writes` are outside of the transaction, and so is [`Checkpointer::checkpoint`]: the records
    /// that it covers count as committed. Automatic checkpoints ([`Checkpoints`](crate::Checkpoints)) cover only records
    /// for which `process_records` returned `Ok`. A worker that handles several items of a shard at once has no single
    /// position to commit, so it is refused.
    ///
    /// The tables must be in the account and region of the lease table (API reference, TransactWriteItems). A
    /// transaction takes at most [`MAX_WRITES`] writes, each of a different item, and 4 MB in all. A conflict with
    /// another writer's transaction is retried a few times.
    ///
    /// ```no_run
    /// use shardkeeper::{BatchError, ProcessRecordsInput, TransactWriteItem};
    ///
    /// /// One write for the whole batch, in place of one for each record.
    /// async fn count(input: ProcessRecordsInput, write: TransactWriteItem) -> Result<(), BatchError> {
    ///     input.checkpointer.commit(&input.records, vec![write]).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// When the lease is lost, a write was refused (for its condition, say), or the records do not lie between the last
    /// checkpoint and the last record handed to the processor. Nothing was written then, and nothing will be.
    pub async fn commit(
        &self,
        records: &RecordBatch,
        writes: Vec<TransactWriteItem>,
    ) -> Result<Committed, CommitError> {
        if writes.len() > MAX_WRITES {
            return Err(CommitError::TooMany(writes.len()));
        }
        let position = |digits: &str| digits.parse::<SequenceNumber>().ok();
        let first = records.first().and_then(|record| position(record.sequence_number()));
        let last = records.through().and_then(position);
        let (Some(first), Some(last)) = (first, last) else {
            return Err(CheckpointError::Failed("there is no record to commit".into()).into());
        };
        if matches!(self.0, Target::Replay) {
            return Err(CheckpointError::Failed("a replayed dead letter has no lease to commit with".into()).into());
        }
        let to = self.delivered().map_or(Checkpoint::TrimHorizon, Checkpoint::At);
        if Checkpoint::At(last.clone()) > to {
            let from = self.saved().await;
            return Err(CheckpointError::OutOfRange { position: last, from, to }.into());
        }
        let lease = match &self.0 {
            Target::Lease(lease) => Arc::clone(lease),
            Target::Replay => unreachable!("it is refused above"),
            #[cfg(feature = "testing")]
            Target::Journal(journal) => return journal.commit(&first, last, writes),
        };
        let lifetime = lease.lifetime().clone();
        let outcome = run_to_completion(&lifetime, async move { lease.commit(&first, &last, &writes).await }).await?;
        outcome.map_err(|error| match error {
            RefusedCommit::Lease(error) => CommitError::Checkpoint(error.into()),
            RefusedCommit::Writes(refused) => CommitError::Refused(refused),
            RefusedCommit::Begun(checkpoint) => CommitError::Begun(checkpoint),
        })
    }

    /// Returns the records that the last checkpoint does not cover: the rest of a batch that failed halfway.
    pub async fn undone(&self, records: &RecordBatch) -> RecordBatch {
        match self.saved().await.sequence_number() {
            Some(saved) => records.skip_through(saved),
            None => records.clone(),
        }
    }
}

impl From<LeaseLost> for CheckpointError {
    fn from(LeaseLost: LeaseLost) -> Self {
        Self::LeaseLost
    }
}

impl From<WriteError> for CheckpointError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::LeaseLost(lost) => lost.into(),
            WriteError::Table(error) => Self::Table(error),
        }
    }
}

/// Runs a write to completion, even if the caller is cancelled.
async fn run_to_completion<T: Send + 'static>(
    lifetime: &Lifetime,
    write: impl Future<Output = T> + Send + 'static,
) -> Result<T, CheckpointError> {
    let written = tokio::spawn(lifetime.bind(write)).await.ok().flatten();
    written.ok_or_else(|| CheckpointError::Failed("the write was cut off by the end of the worker".into()))
}
