//! The task of one batch, from the first attempt until every record is done: attempts with backoff, bisecting to find
//! the record that fails, and the failure policy's action on it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::super::counters::Outcome;
use super::super::failure::{BatchError, FailurePolicy, OnFailure};
use super::super::processor::ProcessorFactory;
use super::context::{BatchReport, DeliveryContext, Interrupted, is_logged};
use super::processor_pool::ProcessorGuard;
use crate::dead_letters::letter::{DeadLetter, FailureLimit};
use crate::dead_letters::queue::DeadLetterQueue;
use crate::model::backoff::Backoff;
use crate::model::batcher::Unit;
use crate::model::blocked_record::{BlockedRecord, shown};
use crate::model::lease::LeaseLost;
use crate::model::record::{Record, RecordBatch};
use crate::model::sequence_number::compare_digits;
use crate::telemetry::spans;

/// The failures after which a record without a limit on attempts is shown as blocking its shard.
const BLOCKED_AFTER: u32 = 3;
/// The time for which records are not at fault for calls that take too long while the processor answers no other call:
/// enough for an orchestrator to replace a handler that hangs.
const SILENCE: Duration = Duration::from_secs(300);

pub(super) struct BatchTask<F: ProcessorFactory> {
    ctx: Arc<DeliveryContext<F>>,
    batch: Unit,
    /// The processor; returned to the pool before a wait.
    processor: Option<ProcessorGuard<F::Processor>>,
    rng: Rng,
    /// The records that are not done, the first sub-batch last.
    sub_batches: Vec<SubBatch>,
}

/// Records of a batch that are tried together.
#[derive(Clone, Debug)]
struct SubBatch {
    range: Range<usize>,
    /// The failures of exactly these records.
    attempts: u32,
    /// The calls since the last failure or cut that the processor was unavailable for.
    unavailable: u32,
    /// The calls with these records, alone or among others.
    calls: u32,
    /// The last of these calls in a trace.
    last_call: Span,
    first_failed_ms: Option<u64>,
    /// The end of the first call that took too long, and the calls that the worker's processors had answered by then.
    timed_out: Option<(Instant, u64)>,
    backoff: Backoff,
    /// Whether they are shown as blocking the shard.
    is_blocked: bool,
}

impl SubBatch {
    fn new(range: Range<usize>, policy: &FailurePolicy) -> Self {
        let backoff = Backoff::new(policy.first_wait, policy.longest_wait);
        Self {
            range,
            attempts: 0,
            unavailable: 0,
            calls: 0,
            last_call: Span::none(),
            first_failed_ms: None,
            timed_out: None,
            backoff,
            is_blocked: false,
        }
    }

    fn len(&self) -> usize {
        self.range.len()
    }

    /// Splits off the records after the first `len`: a sub-batch with the same calls so far and no attempts.
    fn split_off(&mut self, len: usize, policy: &FailurePolicy) -> Self {
        let middle = self.range.start + len;
        let rest = Self {
            calls: self.calls,
            last_call: self.last_call.clone(),
            first_failed_ms: self.first_failed_ms,
            timed_out: self.timed_out,
            ..Self::new(middle..self.range.end, policy)
        };
        self.range.end = middle;
        rest
    }
}

impl<F: ProcessorFactory> BatchTask<F> {
    pub(super) fn new(
        ctx: Arc<DeliveryContext<F>>,
        batch: Unit,
        processor: ProcessorGuard<F::Processor>,
        rng: Rng,
    ) -> Self {
        let sub_batches = vec![SubBatch::new(0..batch.records.len(), &ctx.options().failure)];
        Self { ctx, batch, processor: Some(processor), rng, sub_batches }
    }

    /// Processes the batch until all of it is done, the consumer leaves the shard or the lease is lost.
    pub(super) async fn run(mut self) -> Result<(), LeaseLost> {
        let span = spans::batch(&self.ctx.shard.shard_id, &self.batch.records);
        let finished = self.process().instrument(span).await;
        self.ctx.status.clear_blocked_record(self.batch.id);
        match finished {
            Err(Interrupted::LeaseLost) => Err(LeaseLost),
            Err(Interrupted::Leaving) | Ok(()) => Ok(()),
        }
    }

    async fn process(&mut self) -> Result<(), Interrupted> {
        while let Some(mut sub_batch) = self.sub_batches.pop() {
            let outcome = self.attempt(&mut sub_batch).await?;
            let is_unavailable = outcome.as_ref().err().is_some_and(|error| self.is_unavailable(&mut sub_batch, error));
            self.ctx.note_outcome(outcome.as_ref().err(), is_unavailable);
            match outcome {
                Ok(()) => {
                    if sub_batch.is_blocked {
                        self.ctx.status.clear_blocked_record(self.batch.id);
                        tracing::info!(shard = %self.ctx.shard.shard_id, "blocked record succeeded, shard resumed");
                    }
                    self.done(sub_batch.range, Outcome::Ok);
                }
                Err(error) if error.is_timeout() && sub_batch.len() > 1 && self.ctx.options().failure.bisect => {
                    self.try_alone(sub_batch, &error).await?;
                }
                Err(error) if is_unavailable => self.unavailable(sub_batch, &error).await?,
                Err(error) => self.failed(sub_batch, &error).await?,
            }
        }
        Ok(())
    }

    fn records(&self, sub_batch: &SubBatch) -> RecordBatch {
        self.batch.records.slice(sub_batch.range.clone())
    }

    /// Whether a failed call tells of the processor, and not of the records. One that took too long may be the fault of
    /// either: of the records, if the processor answers other calls meanwhile.
    fn is_unavailable(&self, sub_batch: &mut SubBatch, error: &BatchError) -> bool {
        if error.is_timeout() {
            let answered = *self.ctx.deps.answered.borrow();
            let (first, answered_by_then) = *sub_batch.timed_out.get_or_insert_with(|| (Instant::now(), answered));
            return !error.is_proved_timeout() && answered == answered_by_then && first.elapsed() < SILENCE;
        }
        error.is_unavailable()
    }

    /// Calls a processor with the records, once; initializes it first if it is new.
    async fn attempt(&mut self, sub_batch: &mut SubBatch) -> Result<Result<(), BatchError>, Interrupted> {
        let has_hung = sub_batch.timed_out.is_some();
        let mut guard = match self.processor.take().filter(|_| !has_hung) {
            Some(guard) => guard,
            None if has_hung => self.ctx.take_processor_for_hung().await?,
            None => self.ctx.take_processor().await?,
        };
        let (pooled, permit) = guard.parts();
        let processor = self.ctx.initialize(pooled, &mut self.rng).await?;
        self.ctx.prepare(processor, &mut self.rng).await?;
        let worker_permit = if has_hung { None } else { Some(self.ctx.permit().await?) };
        self.ctx.check()?;
        let records = self.records(sub_batch);
        let span = spans::deliver(records.len(), sub_batch.calls, &sub_batch.last_call);
        let permits = (permit, worker_permit);
        let outcome = self.ctx.process(processor, &records, sub_batch.calls, permits, &span).await;
        sub_batch.calls = sub_batch.calls.saturating_add(1);
        sub_batch.last_call = span;
        self.processor = Some(guard);
        Ok(outcome)
    }

    /// Takes records as done, rejected or to be retried, each as the processor named it.
    async fn partly_failed(&mut self, failed: SubBatch, error: &BatchError) -> Result<(), Interrupted> {
        let ctx = Arc::clone(&self.ctx);
        let options = ctx.options();
        let policy = &options.failure;
        let (halts, records) = (matches!(policy.on_failure, OnFailure::Halt), self.batch.records.clone());
        let named = |index: usize| records.get(index).and_then(|record| error.of_record(&record.position()));
        let first_failed_ms = failed.first_failed_ms.unwrap_or_else(|| ctx.now_ms());
        let part = |range| SubBatch {
            range,
            attempts: failed.attempts.saturating_add(1),
            unavailable: 0,
            first_failed_ms: Some(first_failed_ms),
            is_blocked: false,
            ..failed.clone()
        };
        let (mut retried, mut ended): (Vec<SubBatch>, Vec<(SubBatch, FailureLimit)>) = Default::default();
        for index in failed.range.clone() {
            let one = part(index..index + 1);
            match named(index) {
                None => self.done(one.range, Outcome::Ok),
                Some(record) if record.is_rejected && !halts => ended.push((one, FailureLimit::Rejected)),
                Some(_) => match (self.limit(&one, policy).filter(|_| !halts), retried.last_mut()) {
                    (Some(reason), _) => ended.push((one, reason)),
                    (None, Some(run)) if run.range.end == index => run.range.end = index + 1,
                    (None, _) => retried.push(one),
                },
            }
        }
        ctx.check()?; // no attempt will follow here
        for (one, reason) in ended {
            let cause = named(one.range.start).map(|record| record.source.to_string()).unwrap_or_default();
            self.discard(&one, reason, policy, &cause.into()).await?;
        }
        if retried.is_empty() {
            return Ok(());
        }
        self.sub_batches.extend(retried.into_iter().rev());
        let Some(mut first) = self.sub_batches.pop() else { return Ok(()) };
        self.requeue_rest();
        self.show(&mut first, policy, error);
        let wait = first.backoff.next(&mut self.rng);
        self.retry_after(first, wait).await
    }

    /// Retries each record of a call that took too long by itself. Bisecting would cost as much time again with each cut. No
    /// record is at fault yet.
    async fn try_alone(&mut self, mut slow: SubBatch, error: &BatchError) -> Result<(), Interrupted> {
        let ctx = Arc::clone(&self.ctx);
        let options = ctx.options();
        ctx.counters().bisect();
        slow.first_failed_ms.get_or_insert_with(|| ctx.now_ms());
        self.log_failure(&slow, slow.len(), error);
        while slow.len() > 1 {
            self.sub_batches.push(slow.split_off(slow.len() - 1, &options.failure));
        }
        let wait = slow.backoff.next(&mut self.rng);
        self.retry_after(slow, wait).await
    }

    /// Decides what follows on a failure, and waits before the next attempt if there is to be one.
    async fn failed(&mut self, mut failed: SubBatch, error: &BatchError) -> Result<(), Interrupted> {
        let ctx = Arc::clone(&self.ctx);
        let options = ctx.options();
        let policy = &options.failure;
        let records = self.records(&failed);
        if records.iter().any(|record| error.of_record(&record.position()).is_some()) {
            return self.partly_failed(failed, error).await;
        }
        let culprit = error.failed_from().and_then(|position| {
            records.iter().position(|record| compare_digits(record.sequence_number(), position.as_str()).is_eq())
        });
        if let Some(index) = culprit.filter(|index| *index > 0) {
            let rest = failed.split_off(index, policy);
            self.done(std::mem::replace(&mut failed, rest).range, Outcome::Ok);
        }
        ctx.check()?; // no attempt will follow here, and the call may have stopped for that
        failed.attempts = failed.attempts.saturating_add(1);
        failed.unavailable = 0;
        failed.first_failed_ms.get_or_insert_with(|| ctx.now_ms());
        let is_at_limit = self.limit(&failed, policy).is_some();
        let bisect_at = match culprit {
            _ if failed.len() == 1 => None,
            // Only the first record is known to have failed.
            Some(_) if policy.bisect || is_at_limit => Some(1),
            None if policy.bisect => Some(failed.len() / 2),
            _ => None,
        };
        if let Some(len) = bisect_at {
            self.sub_batches.push(failed.split_off(len, policy));
            ctx.counters().bisect();
        }
        if bisect_at.is_some() && culprit.is_none() {
            self.log_failure(&failed, records.len(), error);
            // A smaller batch has not failed yet: the search for the failing record should not wait ever longer.
            failed.attempts = 0;
            failed.backoff = Backoff::new(policy.first_wait, policy.longest_wait);
        } else if let Some(reason) =
            self.limit(&failed, policy).filter(|_| !matches!(policy.on_failure, OnFailure::Halt))
        {
            return self.discard(&failed, reason, policy, error).await;
        } else {
            self.requeue_rest();
            self.show(&mut failed, policy, error);
        }
        let wait = failed.backoff.next(&mut self.rng);
        self.retry_after(failed, wait).await
    }

    /// Waits until the processor may be available again. The records keep their attempts, together as they are.
    async fn unavailable(&mut self, mut waiting: SubBatch, error: &BatchError) -> Result<(), Interrupted> {
        let ctx = Arc::clone(&self.ctx);
        let options = ctx.options();
        let policy = &options.failure;
        waiting.unavailable = waiting.unavailable.saturating_add(1);
        waiting.first_failed_ms.get_or_insert_with(|| ctx.now_ms());
        if self.is_too_old(&waiting, policy) && !matches!(policy.on_failure, OnFailure::Halt) {
            return self.discard(&waiting, FailureLimit::Age, policy, error).await;
        }
        let (shard, attempts) = (&ctx.shard.shard_id, waiting.unavailable);
        if is_logged(attempts) {
            tracing::warn!(%shard, records = waiting.len(), attempts, %error, "processor unavailable, retrying");
        }
        if attempts >= BLOCKED_AFTER
            && let Some(record) = self.batch.records.get(waiting.range.start)
        {
            waiting.is_blocked = true;
            self.show_blocked(&waiting, &record, &format!("the processor is unavailable: {error}"));
        }
        if error.is_timeout() {
            self.requeue_rest();
        }
        let wait = policy.wait_after(error, waiting.backoff.next(&mut self.rng));
        self.retry_after(waiting, wait).await
    }

    /// Lets the records have their next attempt after `wait`, and others the processor meanwhile.
    async fn retry_after(&mut self, sub_batch: SubBatch, wait: Duration) -> Result<(), Interrupted> {
        self.sub_batches.push(sub_batch);
        self.processor = None;
        self.ctx.wait(wait).await
    }

    /// The limit of the failure policy that the sub-batch has reached, if any.
    fn limit(&self, sub_batch: &SubBatch, policy: &FailurePolicy) -> Option<FailureLimit> {
        if policy.attempts.is_some_and(|most| sub_batch.attempts >= most) {
            return Some(FailureLimit::Attempts);
        }
        self.is_too_old(sub_batch, policy).then_some(FailureLimit::Age)
    }

    /// Whether each record of the sub-batch is older than the failure policy's limit.
    fn is_too_old(&self, sub_batch: &SubBatch, policy: &FailurePolicy) -> bool {
        let newest = self.batch.records.get(sub_batch.range.end - 1);
        let created_ms = newest.and_then(|newest| newest.created_ms());
        let age_ms = created_ms.map(|created_ms| u128::from(self.ctx.now_ms().saturating_sub(created_ms)));
        policy.max_record_age.zip(age_ms).is_some_and(|(most, age_ms)| age_ms > most.as_millis())
    }

    /// Requeues the records after the failed ones, so that those of other items need not wait for them.
    fn requeue_rest(&mut self) {
        if self.ctx.is_by_key() {
            // The last ones first, each before those that are back already.
            for sub_batch in self.sub_batches.drain(..) {
                self.ctx.report(BatchReport::Requeued { batch: self.batch.id, range: sub_batch.range });
            }
        }
    }

    /// Shows a failure in the log and, once it blocks the shard, in the status.
    fn show(&self, failed: &mut SubBatch, policy: &FailurePolicy, error: &BatchError) {
        self.log_failure(failed, failed.len(), error);
        let Some(record) = self.batch.records.get(failed.range.start) else { return };
        let has_no_limit = policy.attempts.is_none();
        if self.limit(failed, policy).is_none() && !(has_no_limit && failed.attempts >= BLOCKED_AFTER) {
            return;
        }
        if !failed.is_blocked {
            failed.is_blocked = true;
            let (shard, position) = (&self.ctx.shard.shard_id, record.sequence_number());
            let keys = record.keys_json().unwrap_or_default();
            tracing::error!(%shard, position, keys, %error, "record keeps failing, shard blocked");
        }
        self.show_blocked(failed, &record, &error.to_string());
    }

    /// Logs the failure of a call with so many records, of which these are the first.
    fn log_failure(&self, first: &SubBatch, records: usize, error: &BatchError) {
        let (Some(failures), Some(record)) = (self.ctx.failures.note(), self.batch.records.get(first.range.start))
        else {
            return;
        };
        let (shard, position, attempts) = (&self.ctx.shard.shard_id, record.sequence_number(), first.attempts);
        tracing::warn!(%shard, position, records, attempts, failures, %error, "processor failed, retrying");
    }

    fn show_blocked(&self, failed: &SubBatch, record: &Record<'_>, error: &str) {
        let blocked = BlockedRecord {
            sequence_number: record.sequence_number().to_owned(),
            event_id: record.event_id().map(ToOwned::to_owned),
            keys: shown(record.keys_json().unwrap_or_default()),
            error: shown(error),
            attempts: failed.calls,
            since_ms: failed.first_failed_ms.unwrap_or_default(),
        };
        self.ctx.status.set_blocked_record(self.batch.id, blocked);
        self.ctx.report(BatchReport::Blocked);
    }

    /// Skips or dead-letters records that have reached a limit.
    async fn discard(
        &mut self,
        failed: &SubBatch,
        reason: FailureLimit,
        policy: &FailurePolicy,
        error: &BatchError,
    ) -> Result<(), Interrupted> {
        self.processor = None;
        let (ctx, records) = (Arc::clone(&self.ctx), self.batch.records.clone());
        for index in failed.range.clone() {
            let Some(record) = records.get(index) else { continue };
            let (shard, position) = (&ctx.shard.shard_id, record.sequence_number());
            let (keys, calls) = (record.keys_json().unwrap_or_default(), failed.calls);
            let is_kept = match &policy.on_failure {
                OnFailure::DeadLetter(queue) => {
                    self.dead_letter(Arc::clone(queue), policy, failed, &record, reason, error).await?
                }
                OnFailure::Skip | OnFailure::Halt => false,
            };
            let reason = reason.as_str();
            let outcome = if is_kept {
                tracing::warn!(%shard, position, keys, calls, reason, %error, "record dead-lettered");
                Outcome::DeadLettered
            } else {
                tracing::error!(%shard, position, keys, calls, reason, %error, "record skipped");
                Outcome::Skipped
            };
            self.done(index..index + 1, outcome);
        }
        Ok(())
    }

    /// Puts a record's dead letter, retrying until it is durable. Returns whether it is: the policy may come to be one
    /// that skips. To another queue it changes at once.
    async fn dead_letter(
        &mut self,
        mut queue: Arc<dyn DeadLetterQueue>,
        policy: &FailurePolicy,
        failed: &SubBatch,
        record: &Record<'_>,
        reason: FailureLimit,
        error: &BatchError,
    ) -> Result<bool, Interrupted> {
        let letter = self.letter(failed, record, reason, error);
        let ctx = Arc::clone(&self.ctx);
        let mut backoff = Backoff::new(policy.first_wait, policy.longest_wait);
        let mut attempts: u32 = 0;
        loop {
            ctx.check()?;
            let outcome = queue.put(&letter).await;
            // The processor's part is over.
            ctx.status.processing_failures.clear();
            ctx.status.unavailability.clear();
            ctx.status.dead_letter_failures.note(outcome.as_ref().err());
            let Err(error) = outcome else {
                ctx.status.clear_blocked_record(self.batch.id);
                return Ok(true);
            };
            attempts = attempts.saturating_add(1);
            ctx.counters().dead_letter_failed();
            self.requeue_rest();
            if is_logged(attempts) {
                let (shard, position) = (&letter.shard_id, &letter.sequence_number);
                tracing::error!(%shard, %position, attempts, %error, "writing a dead letter failed, retrying");
            }
            if attempts >= BLOCKED_AFTER {
                self.show_blocked(failed, record, &format!("its dead letter cannot be written: {error}"));
            }
            ctx.wait(backoff.next(&mut self.rng)).await?;
            match &ctx.options().failure.on_failure {
                OnFailure::DeadLetter(newest) => queue = Arc::clone(newest),
                // The letter is on its way, and its shard waits for it.
                OnFailure::Halt => {}
                OnFailure::Skip => {
                    ctx.status.dead_letter_failures.clear();
                    ctx.status.clear_blocked_record(self.batch.id);
                    return Ok(false);
                }
            }
        }
    }

    fn letter(&self, failed: &SubBatch, record: &Record<'_>, reason: FailureLimit, error: &BatchError) -> DeadLetter {
        let ctx = &self.ctx;
        let position = record.position();
        let (shard, now_ms) = (ctx.shard.shard_id.clone(), ctx.now_ms());
        let arn = ctx.shard.stream_arn.to_string();
        let mut letter = DeadLetter::new(arn, shard, position, record.json(), &error.to_string(), now_ms);
        letter.event_id = record.event_id().map(ToOwned::to_owned);
        letter.reason = reason;
        letter.attempts = failed.calls;
        letter.created_ms = record.created_ms();
        letter.first_failed_ms = failed.first_failed_ms.unwrap_or(now_ms);
        letter.worker = ctx.deps.worker.to_string();
        letter
    }

    /// Counts and reports records that are done.
    fn done(&self, range: Range<usize>, outcome: Outcome) {
        let records = self.batch.records.slice(range.clone());
        let bytes = records.bytes_len();
        self.ctx.status.calls.end_silence();
        self.ctx.counters().done(&records, bytes, outcome);
        self.ctx.report(BatchReport::Done { batch: self.batch.id, range, bytes });
    }
}
