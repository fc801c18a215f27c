//! The context of a shard's delivery, shared by its batch tasks: the processors, the limits on calls, and the channel
//! for reports.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use super::super::ConsumerDeps;
use super::super::checkpointer::Checkpointer;
use super::super::counters::Counters;
use super::super::failure::{BatchError, ReadAgain};
use super::super::lease_handle::LeaseHandle;
use super::super::limit::Permit;
use super::super::processor::{BoxError, ProcessRecordsInput, ProcessorFactory, RecordProcessor, ShardContext};
use super::super::status::ConsumerStatus;
use super::processor_pool::{PooledProcessor, ProcessorGuard, ProcessorPool, catch_panic};
use crate::model::backoff::Backoff;
use crate::model::blocked_record::RunningCall;
use crate::model::lease::LeaseLost;
use crate::model::record::RecordBatch;
use crate::options::WorkerOptions;
use crate::telemetry::spans;

/// The waits between attempts of `initialize` and `shard_ended`, which no failure policy covers.
const FIRST_RETRY_WAIT: Duration = Duration::from_millis(100);
const LONGEST_RETRY_WAIT: Duration = Duration::from_secs(30);
/// The time without a failure after which the next one is news.
const QUIET: Duration = Duration::from_secs(300);

pub(super) struct DeliveryContext<F: ProcessorFactory> {
    pub(super) deps: Arc<ConsumerDeps<F>>,
    pub(super) shard: ShardContext,
    pub(super) processors: Arc<ProcessorPool<F::Processor>>,
    pub(super) lease: Arc<LeaseHandle>,
    pub(super) checkpointer: Checkpointer,
    pub(super) status: Arc<ConsumerStatus>,
    pub(super) failures: FailureLog,
    /// Cancelled when no further attempt may begin.
    pub(super) leaving: CancellationToken,
    pub(super) reports: mpsc::UnboundedSender<BatchReport>,
    /// Whether records of different items may be processed at once, as the batcher has it.
    pub(super) by_key: AtomicBool,
}

/// The outcome for some records of a batch, by their range in it.
#[derive(Clone, Debug)]
pub(super) enum BatchReport {
    /// They are acknowledged.
    Done { batch: u64, range: Range<usize>, bytes: usize },
    /// They need not wait for the record of the batch that keeps failing.
    Requeued { batch: u64, range: Range<usize> },
    /// A record of a batch blocks the shard.
    Blocked,
}

/// The reason that a batch is left unfinished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interrupted {
    /// The consumer is leaving the shard.
    Leaving,
    LeaseLost,
}

impl From<LeaseLost> for Interrupted {
    fn from(LeaseLost: LeaseLost) -> Self {
        Self::LeaseLost
    }
}

impl<F: ProcessorFactory> DeliveryContext<F> {
    /// The worker's options, which may be others for the next attempt.
    pub(super) fn options(&self) -> Arc<WorkerOptions> {
        self.deps.live.now()
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.deps.counters
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.deps.options.clock.now_ms()
    }

    /// Whether records of different items may be processed at once.
    pub(super) fn is_by_key(&self) -> bool {
        self.by_key.load(Ordering::Relaxed)
    }

    pub(super) fn report(&self, report: BatchReport) {
        let _ = self.reports.send(report); // the receiver is gone when the consumer has ended
    }

    pub(super) fn try_take_processor(&self) -> Option<ProcessorGuard<F::Processor>> {
        self.processors.try_take()
    }

    pub(super) async fn take_processor(&self) -> Result<ProcessorGuard<F::Processor>, Interrupted> {
        self.unless_leaving(self.processors.take()).await
    }

    /// Takes a processor for records whose call hung before, by the limit on such calls alone: they may hang again, and hold
    /// up no others.
    pub(super) async fn take_processor_for_hung(&self) -> Result<ProcessorGuard<F::Processor>, Interrupted> {
        let permit = self.unless_leaving(self.deps.live.hung_calls().acquire()).await?;
        Ok(self.processors.take_with(permit))
    }

    /// Waits until the worker's limit on processor calls allows another one.
    pub(super) async fn permit(&self) -> Result<Permit, Interrupted> {
        let calls = self.deps.live.calls();
        if let Some(permit) = calls.try_acquire() {
            return Ok(permit);
        }
        let _waiting = self.status.permit_waits.start(());
        self.unless_leaving(calls.acquire()).await
    }

    /// Waits before another attempt, which is made at once when the options change.
    pub(super) async fn wait(&self, duration: Duration) -> Result<(), Interrupted> {
        let mut changes = self.deps.live.subscribe();
        let changed = async { drop(changes.changed().await) };
        let waited = async {
            tokio::select! {
                () = tokio::time::sleep(duration) => {}
                () = changed => {}
            }
        };
        self.unless_leaving(waited).await
    }

    /// Checks that an attempt may begin now.
    pub(super) fn check(&self) -> Result<(), Interrupted> {
        if self.leaving.is_cancelled() {
            return Err(Interrupted::Leaving);
        }
        Ok(self.lease.check()?)
    }

    /// Makes and initializes a processor, unless it is ready, retrying until it succeeds.
    pub(super) async fn initialize<'a>(
        &self,
        pooled: &'a mut PooledProcessor<F::Processor>,
        rng: &mut Rng,
    ) -> Result<&'a mut F::Processor, Interrupted> {
        let mut retry = Retry::new("initialize");
        while !pooled.is_initialized {
            let outcome = self.timed(self.other_call(), async {
                let processor = pooled.processor.get_or_insert_with(|| self.deps.factory.create(&self.shard));
                processor.initialize(&self.shard).await
            });
            let outcome = outcome.await;
            match outcome {
                Ok(()) => {
                    self.status.processing_failures.clear();
                    pooled.is_initialized = true;
                }
                Err(error) => self.retry(&mut retry, &error, rng).await?,
            }
        }
        Ok(pooled.processor.as_mut().expect("an initialized processor was made"))
    }

    /// Prepares a processor for its next call, retrying until it succeeds.
    pub(super) async fn prepare(&self, processor: &mut F::Processor, rng: &mut Rng) -> Result<(), Interrupted> {
        let mut retry = Retry::new("prepare");
        while let Err(error) =
            self.timed(self.other_call(), async { processor.prepare(&self.checkpointer).await }).await
        {
            self.retry(&mut retry, &error, rng).await?;
        }
        Ok(())
    }

    /// Tells processors that their shard has ended, retrying each until it succeeds.
    pub(super) async fn end_shard(
        &self,
        processors: &mut [PooledProcessor<F::Processor>],
        rng: &mut Rng,
    ) -> Result<(), Interrupted> {
        for processor in processors.iter_mut().filter_map(|pooled| pooled.processor.as_mut()) {
            let mut retry = Retry::new("shard_ended");
            loop {
                self.prepare(processor, rng).await?;
                self.lease.check()?;
                let ended = async { processor.shard_ended(&self.checkpointer).await };
                let Err(error) = self.timed(self.other_call(), ended).await else { break };
                self.retry(&mut retry, &error, rng).await?;
            }
            self.status.processing_failures.clear();
        }
        Ok(())
    }

    /// Tells idle processors that there is nothing to deliver. What fails comes again at the next interval.
    pub(super) async fn idle(&self, mut guards: Vec<ProcessorGuard<F::Processor>>) -> Result<(), LeaseLost> {
        for guard in &mut guards {
            let pooled = guard.get();
            let Some(processor) = pooled.processor.as_mut().filter(|_| pooled.is_initialized) else { continue };
            self.lease.check()?;
            let told = self.timed(self.other_call(), async { processor.idle(&self.checkpointer).await }).await;
            self.status.processing_failures.note(told.as_ref().err());
            if let Err(error) = told {
                tracing::warn!(shard = %self.shard.shard_id, call = "idle", %error, "processor failed, retrying");
            }
        }
        Ok(())
    }

    /// Runs a processor's last call, which cannot fail the consumer.
    pub(super) async fn farewell(&self, call: &'static str, last: impl Future<Output = ()>) {
        let last = async {
            last.await;
            Ok::<(), BoxError>(())
        };
        if let Err(error) = self.timed(self.other_call(), last).await {
            tracing::warn!(shard = %self.shard.shard_id, call, %error, "processor failed while the worker left its shard");
        }
    }

    /// Hands records to a processor, once, within this span. `permits` are those of the processor and, unless it is one for
    /// hung calls, of the worker.
    pub(super) async fn process(
        &self,
        processor: &mut F::Processor,
        records: &RecordBatch,
        attempt: u32,
        permits: (&mut Permit, Option<Permit>),
        span: &Span,
    ) -> Result<(), BatchError> {
        if !self.is_by_key()
            && let Some(through) = records.through().and_then(|through| through.parse().ok())
        {
            self.lease.set_delivered(through);
        }
        let created_ms = records.last().and_then(|record| record.created_ms());
        let input = ProcessRecordsInput {
            records: records.clone(),
            checkpointer: self.checkpointer.clone(),
            age: created_ms.map(|created_ms| Duration::from_millis(self.now_ms().saturating_sub(created_ms))),
            attempt,
            shard_id: self.shard.shard_id.clone(),
            leaving: self.leaving.clone(),
        };
        let started = Instant::now();
        let running = RunningCall {
            sequence_number: records.iter().next().map(|record| record.sequence_number().to_owned()),
            records: records.len() as u64,
            attempts: attempt.saturating_add(1),
            since_ms: self.now_ms(),
        };
        // Inside of the future, as a method that is no async fn may panic before it returns one.
        let call = async { processor.process_records(input).await };
        let call = self.timed(running, call).instrument(span.clone());
        let outcome = tokio::select! {
            biased;
            outcome = call => outcome,
            error = self.timed_out() => Err(error),
            error = self.hung(records.len(), permits) => Err(error),
        };
        if let Err(error) = &outcome {
            spans::fail(span, error);
        }
        if !outcome.as_ref().is_err_and(BatchError::is_timeout) {
            self.status.calls.end_silence();
        }
        if !outcome.as_ref().err().is_some_and(|error| error.is_timeout() || error.is_unavailable()) {
            self.deps.answered.send_modify(|calls| *calls += 1);
        }
        self.counters().call(records, attempt, outcome.is_ok(), started.elapsed(), self.deps.options.clock);
        outcome
    }

    async fn timed_out(&self) -> BatchError {
        let Some(limit) = self.options().failure.handler_timeout else { return std::future::pending().await };
        tokio::time::sleep(limit).await;
        BatchError::timed_out(limit)
    }

    /// Watches a call with so many records. Several are dropped when they hang, to be retried alone. A single one no longer
    /// counts among the other calls: it changes its permits for one of those for hung calls, and is dropped if there is
    /// none. It has as much time again, until the processor answers another call.
    async fn hung(&self, records: usize, (processor, worker): (&mut Permit, Option<Permit>)) -> BatchError {
        let Some(limit) = self.deps.options.stuck_after else { return std::future::pending().await };
        tokio::time::sleep(limit).await;
        if records > 1 && self.options().failure.bisect {
            return BatchError::hung(limit, false);
        }
        if let Some(worker) = worker {
            let Some(permit) = self.deps.live.hung_calls().try_acquire() else { return BatchError::hung(limit, false) };
            *processor = permit;
            drop(worker);
        }
        let mut answered = self.deps.answered.subscribe();
        let answers = tokio::time::timeout(limit, answered.changed()).await.is_ok();
        BatchError::hung(limit, answers)
    }

    /// Notes whether the last call failed, and whether it found the processor unavailable.
    pub(super) fn note_outcome(&self, error: Option<&BatchError>, is_unavailable: bool) {
        self.status.unavailability.note(error.filter(|_| is_unavailable));
        self.status.processing_failures.note(error.filter(|_| !is_unavailable));
    }

    /// A call without records.
    pub(super) fn other_call(&self) -> RunningCall {
        RunningCall::without_records(self.now_ms())
    }

    /// Shows a failure that no failure policy covers, and waits before the next attempt.
    async fn retry(&self, retry: &mut Retry, error: &BoxError, rng: &mut Rng) -> Result<(), Interrupted> {
        self.status.processing_failures.note(Some(error));
        if error.is::<ReadAgain>() {
            return Err(Interrupted::LeaseLost);
        }
        self.wait(retry.next(&self.shard, error, rng)).await
    }

    /// Runs a processor's call, which counts as in flight meanwhile.
    async fn timed<E: From<BoxError>>(
        &self,
        running: RunningCall,
        call: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let running = self.status.calls.start(running);
        let outcome = catch_panic(call).await;
        running.returned();
        outcome
    }

    async fn unless_leaving<T>(&self, wanted: impl Future<Output = T>) -> Result<T, Interrupted> {
        tokio::select! {
            biased;
            () = self.leaving.cancelled() => Err(Interrupted::Leaving),
            got = wanted => Ok(got),
        }
    }
}

/// The failed calls of a shard's processors, also those that the next attempt heals: few of them get a log line.
#[derive(Debug, Default)]
pub(super) struct FailureLog(Mutex<Option<(u32, Instant)>>);

impl FailureLog {
    /// Counts a failure. Returns the number since the last quiet time, if this one gets a log line.
    pub(super) fn note(&self) -> Option<u32> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.filter(|(_, at)| at.elapsed() < QUIET).map_or(0, |(count, _)| count);
        let count = before.saturating_add(1);
        *last = Some((count, Instant::now()));
        is_logged(count).then_some(count)
    }
}

/// The attempts of a processor call that no failure policy covers.
struct Retry {
    call: &'static str,
    attempts: u32,
    backoff: Backoff,
}

impl Retry {
    fn new(call: &'static str) -> Self {
        Self { call, attempts: 0, backoff: Backoff::new(FIRST_RETRY_WAIT, LONGEST_RETRY_WAIT) }
    }

    /// Logs a failed attempt and returns the wait before the next one.
    fn next(&mut self, shard: &ShardContext, error: &BoxError, rng: &mut Rng) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        let (call, attempts) = (self.call, self.attempts);
        if is_logged(attempts) {
            tracing::warn!(shard = %shard.shard_id, call, attempts, %error, "processor failed, retrying");
        }
        self.backoff.next(rng)
    }
}

/// Whether a series of failures gets a log line at this attempt: each time that their number has doubled.
pub(super) fn is_logged(attempts: u32) -> bool {
    attempts.is_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_are_logged_when_their_number_has_doubled_and_after_a_quiet_time() {
        let log = FailureLog::default();
        let logged: Vec<u32> = (0..100).filter_map(|_| log.note()).collect();
        assert_eq!(logged, [1, 2, 4, 8, 16, 32, 64]);
        tokio::time::advance(QUIET).await;
        assert_eq!(log.note(), Some(1));
    }
}
