//! The checkpoints of a processor under test.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::checkpointer::{CheckpointError, CommitError, Committed};
use crate::aws::lease_table::TransactWriteItem;
use crate::model::checkpoint::Checkpoint;
use crate::model::sequence_number::SequenceNumber;

/// The checkpoints of a processor under test, in place of a lease.
#[derive(Clone, Debug, Default)]
pub(super) struct Journal(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    delivered: Option<SequenceNumber>,
    saved: Vec<SequenceNumber>,
    writes: Vec<TransactWriteItem>,
    is_lost: bool,
    fails: bool,
}

impl Journal {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_lease_lost(&self) -> bool {
        self.entries().is_lost
    }

    pub(super) fn lose_lease(&self, is_lost: bool) {
        self.entries().is_lost = is_lost;
    }

    pub(super) fn fail(&self, fails: bool) {
        self.entries().fails = fails;
    }

    pub(super) fn delivered(&self) -> Option<SequenceNumber> {
        self.entries().delivered.clone()
    }

    pub(super) fn set_delivered(&self, position: Option<SequenceNumber>) {
        self.entries().delivered = position;
    }

    pub(super) fn all_saved(&self) -> Vec<SequenceNumber> {
        self.entries().saved.clone()
    }

    pub(super) fn writes(&self) -> Vec<TransactWriteItem> {
        self.entries().writes.clone()
    }

    pub(super) fn saved(&self) -> Checkpoint {
        self.entries().saved.last().cloned().map_or(Checkpoint::TrimHorizon, Checkpoint::At)
    }

    pub(super) fn write(
        &self,
        position: SequenceNumber,
        writes: Vec<TransactWriteItem>,
    ) -> Result<(), CheckpointError> {
        let mut entries = self.entries();
        if entries.is_lost {
            return Err(CheckpointError::LeaseLost);
        }
        if entries.fails {
            return Err(CheckpointError::Failed("the test lets checkpoints fail".into()));
        }
        if entries.saved.last() != Some(&position) {
            entries.saved.push(position);
        }
        entries.writes.extend(writes);
        Ok(())
    }

    pub(super) fn commit(
        &self,
        first: &SequenceNumber,
        last: SequenceNumber,
        writes: Vec<TransactWriteItem>,
    ) -> Result<Committed, CommitError> {
        match self.saved() {
            Checkpoint::At(saved) if last <= saved => return Ok(Committed::Earlier),
            Checkpoint::At(saved) if *first <= saved => return Err(CommitError::Begun(Checkpoint::At(saved))),
            _ => {}
        }
        self.write(last, writes)?;
        Ok(Committed::Now)
    }
}
