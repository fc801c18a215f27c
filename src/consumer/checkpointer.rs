//! Checkpoints by hand: what a processor gets to say how far it has come.
//!
//! A write that was begun is seen through, also when the call that began it is given up: whoever comes next finds a row
//! whose content is known.

use std::future::Future;
use std::sync::Arc;

pub use super::lease_handle::Committed;
use super::lease_handle::{LeaseHandle, RefusedCommit, WriteError};
use crate::aws::lease_table::{MAX_WRITES, RefusedWrite, TransactWriteItem};
use crate::model::checkpoint::Checkpoint;
use crate::model::record::RecordBatch;
use crate::model::sequence_number::SequenceNumber;

/// Writes checkpoints of one shard, for processors that decide themselves when their work is durable.
#[derive(Clone, Debug)]
pub struct Checkpointer {
    /// None for records that are replayed: their place in the shard was checkpointed long ago.
    lease: Option<Arc<LeaseHandle>>,
}

/// Why a checkpoint was not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The position lies before the last checkpoint, or beyond what was handed to the processor.
    #[error("{position} lies outside of what may be checkpointed: from {from} to {to}")]
    OutOfRange {
        /// What was asked for.
        position: SequenceNumber,
        /// The last checkpoint.
        from: Checkpoint,
        /// The last record handed over.
        to: Checkpoint,
    },
    /// Another worker has the lease.
    #[error("the lease is lost")]
    LeaseLost,
    /// The lease table could not be written.
    #[error("{0}")]
    Failed(String),
}

/// Why a handler's writes were not committed with their records' position. Nothing of them was written.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The position's part of it: the lease is lost, or the records were never handed to this processor.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The service refused some of the handler's own writes; the lease is still held.
    #[error("{}", words(.0))]
    Refused(Vec<RefusedWrite>),
    /// Some of the records were committed before, the others not: take those that are left from
    /// [`Checkpointer::undone`].
    #[error("the records up to {0} are committed already, and those behind it are not")]
    Begun(Checkpoint),
    /// More writes than a transaction takes.
    #[error("a transaction takes {MAX_WRITES} writes beside the checkpoint, and these are {0}")]
    TooMany(usize),
}

/// The first of the refused writes in words.
fn words(refused: &[RefusedWrite]) -> String {
    let first = refused.first().map_or_else(String::new, |write| {
        let message = write.message.as_ref().map(|message| format!(" ({message})")).unwrap_or_default();
        format!(", the first of them number {}: {}{message}", write.index, write.code)
    });
    format!("{} of the transaction's writes were refused{first}", refused.len())
}

impl Checkpointer {
    pub(super) fn new(lease: Arc<LeaseHandle>) -> Self {
        Self { lease: Some(lease) }
    }

    /// Checkpoints of records that are replayed: nothing is written.
    pub(super) fn of_replay() -> Self {
        Self { lease: None }
    }

    /// Checkpoints everything that was handed to the processor so far. It is written when this returns.
    ///
    /// # Errors
    /// When the lease is lost or the lease table cannot be written.
    pub async fn checkpoint(&self) -> Result<(), CheckpointError> {
        let Some(lease) = &self.lease else { return Ok(()) };
        match lease.delivered() {
            Some(position) => write(lease, position).await,
            None => Ok(()),
        }
    }

    /// Checkpoints everything up to and including `position`. It is written when this returns.
    ///
    /// # Errors
    /// When `position` lies before the last checkpoint or beyond the last record handed over, the lease is lost, or
    /// the lease table cannot be written.
    pub async fn checkpoint_at(&self, position: &SequenceNumber) -> Result<(), CheckpointError> {
        let Some(lease) = &self.lease else { return Ok(()) };
        let from = lease.saved().await;
        let to = lease.delivered().map_or(Checkpoint::TrimHorizon, Checkpoint::At);
        let wanted = Checkpoint::At(position.clone());
        if wanted < from || wanted > to {
            return Err(CheckpointError::OutOfRange { position: position.clone(), from, to });
        }
        write(lease, position.clone()).await
    }

    /// Makes a handler's writes to DynamoDB and moves the checkpoint over the records that they come from, in one
    /// transaction: all of it happens, or nothing. So each record takes effect once, however often it is delivered.
    ///
    /// `records` are those that `writes` come from: some or all of a batch, in the shard's order, behind what was
    /// committed before; records that were left out of it are passed over with it. Whatever a handler does by other means is outside of the transaction, and so is a checkpoint by
    /// [`Checkpointer::checkpoint`]: records that it passes over count as committed. Automatic checkpoints
    /// ([`super::Checkpoints`]) move over nothing that `process_records` did not return `Ok` for. A worker that handles
    /// several items of a shard at once has no one position to commit, and is refused.
    ///
    /// The tables have to be in the account and region of the lease table (API reference, "TransactWriteItems"); at most
    /// [`MAX_WRITES`] writes, no two of one item, 4 MB in all. What other writers' transactions stand in the way of is
    /// tried again for a while.
    ///
    /// # Errors
    /// When the lease is lost, a write was refused (for its condition, say), or the records do not lie between the last
    /// checkpoint and the last record handed over. Nothing was written then, and nothing will be.
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
        let Some(lease) = &self.lease else {
            return Err(
                CheckpointError::Failed("a dead letter's record has no lease to be committed with".into()).into()
            );
        };
        let to = lease.delivered().map_or(Checkpoint::TrimHorizon, Checkpoint::At);
        if Checkpoint::At(last.clone()) > to {
            let from = lease.saved().await;
            return Err(CheckpointError::OutOfRange { position: last, from, to }.into());
        }
        let lease = Arc::clone(lease);
        let outcome = run_to_completion(async move { lease.commit(&first, &last, &writes).await }).await?;
        outcome.map_err(|error| match error {
            RefusedCommit::Lease(error) => CommitError::Checkpoint(error.into()),
            RefusedCommit::Writes(refused) => CommitError::Refused(refused),
            RefusedCommit::Begun(checkpoint) => CommitError::Begun(checkpoint),
        })
    }

    /// The records without those that the last checkpoint covers: what is left to do of a batch that failed halfway.
    pub async fn undone(&self, records: &RecordBatch) -> RecordBatch {
        let Some(lease) = &self.lease else { return records.clone() };
        match lease.saved().await.sequence_number() {
            Some(saved) => records.skip_through(saved),
            None => records.clone(),
        }
    }
}

async fn write(lease: &Arc<LeaseHandle>, position: SequenceNumber) -> Result<(), CheckpointError> {
    let lease = Arc::clone(lease);
    Ok(run_to_completion(async move { lease.checkpoint(position).await }).await??)
}

impl From<WriteError> for CheckpointError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Lost => Self::LeaseLost,
            WriteError::Table(error) => Self::Failed(error.to_string()),
        }
    }
}

/// Lets a write run to its end, also when whoever waits for it does so no more.
async fn run_to_completion<T: Send + 'static>(
    write: impl Future<Output = T> + Send + 'static,
) -> Result<T, CheckpointError> {
    tokio::spawn(write).await.map_err(|error| CheckpointError::Failed(format!("the write was cut off: {error}")))
}
