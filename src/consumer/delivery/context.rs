//! What the units of one shard share while they are worked on: the processors, the limits on calls, and the way to tell
//! what became of them.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::ConsumerDeps;
use super::super::checkpointer::Checkpointer;
use super::super::failure::{BatchError, FailurePolicy};
use super::super::lease_handle::LeaseHandle;
use super::super::processor::{ProcessRecordsInput, ProcessorFactory, RecordProcessor, ShardContext};
use super::super::reader::seconds_to_ms;
use super::super::status::ShardStatus;
use super::processor_pool::{ProcessorGuard, ProcessorPool, catch_panic};
use crate::model::record::RecordBatch;

/// See the file's head.
pub(super) struct DeliveryContext<F: ProcessorFactory> {
    pub(super) shared: Arc<ConsumerDeps<F>>,
    pub(super) context: ShardContext,
    pub(super) slots: Arc<ProcessorPool<F::Processor>>,
    pub(super) lease: Arc<LeaseHandle>,
    pub(super) checkpointer: Checkpointer,
    pub(super) status: Arc<ShardStatus>,
    /// Cancelled when no further attempt is to begin.
    pub(super) leaving: CancellationToken,
    pub(super) reports: mpsc::UnboundedSender<Report>,
}

/// What became of some records of a unit, by their places in it.
#[derive(Clone, Debug)]
pub(super) enum Report {
    /// They are done with.
    Done { unit: u64, places: Range<usize>, bytes: usize },
    /// They need not wait for the unit's record that keeps failing.
    GivenBack { unit: u64, places: Range<usize> },
    /// This worker may no longer deliver.
    LeaseLost,
}

/// Why a unit is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// The consumer ends.
    Leaving,
    /// This worker may no longer deliver.
    LeaseLost,
}

impl<F: ProcessorFactory> DeliveryContext<F> {
    pub(super) fn policy(&self) -> &FailurePolicy {
        &self.shared.options.failure
    }

    /// Whether records of different items may be worked on at once.
    pub(super) fn is_by_key(&self) -> bool {
        self.shared.options.shard_concurrency > 1
    }

    pub(super) fn report(&self, report: Report) {
        let _ = self.reports.send(report); // nobody listens when the consumer is gone
    }

    pub(super) fn make(&self) -> F::Processor {
        self.shared.factory.create(&self.context)
    }

    /// Waits for a processor.
    pub(super) async fn hand(&self) -> Result<ProcessorGuard<F::Processor>, Left> {
        self.unless_leaving(self.slots.take(|| self.make())).await
    }

    /// Waits until the worker's limit allows another call.
    pub(super) async fn permit(&self) -> Result<Option<OwnedSemaphorePermit>, Left> {
        let Some(calls) = &self.shared.calls else { return Ok(None) };
        if let Ok(permit) = Arc::clone(calls).try_acquire_owned() {
            return Ok(Some(permit));
        }
        let permit = self.unless_leaving(Arc::clone(calls).acquire_owned()).await?;
        Ok(permit.ok())
    }

    /// Waits some time before another attempt.
    pub(super) async fn wait(&self, length: Duration) -> Result<(), Left> {
        self.unless_leaving(tokio::time::sleep(length)).await
    }

    /// Makes sure that an attempt may begin now. After a pause of the process the deadline may have passed: others may
    /// be reading.
    pub(super) fn check(&self) -> Result<(), Left> {
        if self.leaving.is_cancelled() {
            return Err(Left::Leaving);
        }
        if self.lease.is_alive() { Ok(()) } else { Err(Left::LeaseLost) }
    }

    /// Hands records to a processor, once.
    pub(super) async fn call(
        &self,
        processor: &mut F::Processor,
        records: &RecordBatch,
        attempt: u32,
    ) -> Result<(), BatchError> {
        if !self.is_by_key()
            && let Some(through) = records.through().and_then(|through| through.parse().ok())
        {
            self.lease.set_delivered(through);
        }
        let created = records.last().and_then(|record| record.created_at()).map(seconds_to_ms);
        let input = ProcessRecordsInput {
            records: records.clone(),
            checkpointer: self.checkpointer.clone(),
            age: created
                .map(|created| Duration::from_millis(self.shared.options.clock.now_ms().saturating_sub(created))),
            attempt,
        };
        let started = Instant::now();
        let outcome = {
            let _call = self.status.calls.start();
            let call = catch_panic(processor.process_records(input));
            match self.policy().handler_timeout {
                None => call.await,
                Some(limit) => tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
                    Err(format!("the call took longer than the handler's timeout, {limit:?}").into())
                }),
            }
        };
        self.status.retrying.note(outcome.is_err());
        self.shared.counters.call(records, attempt, outcome.is_ok(), started.elapsed(), self.shared.options.clock);
        outcome
    }

    async fn unless_leaving<T>(&self, wanted: impl Future<Output = T>) -> Result<T, Left> {
        tokio::select! {
            biased;
            () = self.leaving.cancelled() => Err(Left::Leaving),
            got = wanted => Ok(got),
        }
    }
}
