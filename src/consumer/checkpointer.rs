//! Checkpoints by hand: what a processor gets to say how far it has come.

use std::sync::Arc;

use super::held_lease::{HeldLease, WriteError};
use crate::core::checkpoint::Checkpoint;
use crate::core::sequence_number::SequenceNumber;

/// Writes checkpoints of one shard, for processors that decide themselves when their work is durable.
#[derive(Clone, Debug)]
pub struct Checkpointer {
    /// None for records that are replayed: their place in the shard was checkpointed long ago.
    lease: Option<Arc<HeldLease>>,
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

impl Checkpointer {
    pub(super) fn new(lease: Arc<HeldLease>) -> Self {
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
}

async fn write(lease: &HeldLease, position: SequenceNumber) -> Result<(), CheckpointError> {
    lease.checkpoint(position).await.map_err(|error| match error {
        WriteError::Lost => CheckpointError::LeaseLost,
        WriteError::Table(error) => CheckpointError::Failed(error.to_string()),
    })
}
