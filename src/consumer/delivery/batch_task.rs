//! One unit, from its first attempt until each of its records is done with: attempts with backoff between them, cutting
//! the batch to find the record that fails, and what the failure policy says then.

use std::ops::Range;
use std::sync::Arc;

use fastrand::Rng;

use super::super::counters::Outcome;
use super::super::failure::{BatchError, FailurePolicy, OnFailure};
use super::super::processor::{ProcessorFactory, RecordProcessor};
use super::super::reader::seconds_to_ms;
use super::Retry;
use super::context::{DeliveryContext, Left, Report};
use super::processor_pool::{ProcessorGuard, catch_panic};
use crate::dead_letters::letter::{DeadLetter, FailureLimit};
use crate::dead_letters::queue::DeadLetterQueue;
use crate::model::batcher::Unit;
use crate::model::blocked_record::BlockedRecord;
use crate::model::polling::Backoff;
use crate::model::record::{Record, RecordBatch};
use crate::model::sequence_number::compare_digits;

/// Without a limit on attempts, a record that has failed this often is shown as what its shard waits for.
const SHOWN_AFTER: u32 = 3;

/// See the file's head.
pub(super) struct BatchTask<F: ProcessorFactory> {
    desk: Arc<DeliveryContext<F>>,
    unit: Unit,
    /// The processor, while no wait is in sight.
    hand: Option<ProcessorGuard<F::Processor>>,
    rng: Rng,
    /// What is not done with, the first part last.
    parts: Vec<Part>,
}

/// Records that are tried together.
#[derive(Clone, Debug)]
struct Part {
    places: Range<usize>,
    /// How often they failed as they are.
    attempts: u32,
    /// How often they were handed over, also among others.
    calls: u32,
    first_failed_ms: Option<u64>,
    backoff: Backoff,
    /// Whether they are shown as what the shard waits for.
    is_halted: bool,
}

impl Part {
    fn new(places: Range<usize>, policy: &FailurePolicy) -> Self {
        let backoff = Backoff::new(policy.first_wait, policy.longest_wait);
        Self { places, attempts: 0, calls: 0, first_failed_ms: None, backoff, is_halted: false }
    }

    fn len(&self) -> usize {
        self.places.len()
    }

    /// Cuts off what follows on the first `len` records: a part of its own, with the same past and attempts of its own.
    fn split_off(&mut self, len: usize, policy: &FailurePolicy) -> Self {
        let cut = self.places.start + len;
        let rest = Self {
            calls: self.calls,
            first_failed_ms: self.first_failed_ms,
            ..Self::new(cut..self.places.end, policy)
        };
        self.places.end = cut;
        rest
    }
}

impl<F: ProcessorFactory> BatchTask<F> {
    pub(super) fn new(desk: Arc<DeliveryContext<F>>, unit: Unit, hand: ProcessorGuard<F::Processor>, rng: Rng) -> Self {
        let parts = vec![Part::new(0..unit.records.len(), desk.policy())];
        Self { desk, unit, hand: Some(hand), rng, parts }
    }

    /// Works on the unit until all of it is done with, or the consumer ends.
    pub(super) async fn run(mut self) {
        let settled = self.settle().await;
        self.desk.status.clear_halt(self.unit.id);
        if settled == Err(Left::LeaseLost) {
            self.desk.report(Report::LeaseLost);
        }
    }

    async fn settle(&mut self) -> Result<(), Left> {
        while let Some(mut part) = self.parts.pop() {
            let records = self.records(&part);
            let outcome = self.attempt(&records, part.calls).await?;
            part.calls = part.calls.saturating_add(1);
            match outcome {
                Ok(()) => {
                    if part.is_halted {
                        self.desk.status.clear_halt(self.unit.id);
                        tracing::info!(shard = %self.desk.context.shard_id, "the record that failed is done, going on");
                    }
                    self.done(part.places, Outcome::Ok);
                }
                Err(error) => self.failed(part, &error).await?,
            }
        }
        Ok(())
    }

    fn records(&self, part: &Part) -> RecordBatch {
        self.unit.records.slice(part.places.clone())
    }

    /// One call of a processor, made ready first if it is new.
    async fn attempt(&mut self, records: &RecordBatch, calls: u32) -> Result<Result<(), BatchError>, Left> {
        let mut hand = match self.hand.take() {
            Some(hand) => hand,
            None => self.desk.hand().await?,
        };
        let slot = hand.slot();
        if !slot.is_initialized {
            let mut retry = Retry::new("initialize", self.desk.context.shard_id.clone());
            loop {
                let call = slot.processor.initialize(&self.desk.context);
                let initialized = {
                    let _call = self.desk.status.calls.start();
                    catch_panic(call).await
                };
                let Err(error) = initialized else { break };
                self.desk.wait(retry.next(&error, &mut self.rng)).await?;
            }
            slot.is_initialized = true;
        }
        let permit = self.desk.permit().await?;
        self.desk.check()?;
        let outcome = self.desk.call(&mut slot.processor, records, calls).await;
        drop(permit);
        self.hand = Some(hand);
        Ok(outcome)
    }

    /// Decides what follows on a failure, and waits before the next attempt, if there is to be one.
    async fn failed(&mut self, mut part: Part, error: &BatchError) -> Result<(), Left> {
        let desk = Arc::clone(&self.desk);
        let policy = desk.policy();
        let records = self.records(&part);
        let culprit = error.failed_from().and_then(|position| {
            records.iter().position(|record| compare_digits(record.sequence_number(), position.as_str()).is_eq())
        });
        if let Some(index) = culprit.filter(|index| *index > 0) {
            let rest = part.split_off(index, policy);
            self.done(std::mem::replace(&mut part, rest).places, Outcome::Ok);
        }
        part.attempts = part.attempts.saturating_add(1);
        part.first_failed_ms.get_or_insert_with(|| desk.shared.options.clock.now_ms());
        let is_at_limit = self.limit(&part).is_some();
        let cut = match culprit {
            _ if part.len() == 1 => None,
            // Only the first is known to have failed.
            Some(_) if policy.bisect || is_at_limit => Some(1),
            None if policy.bisect => Some(part.len() / 2),
            _ => None,
        };
        if let Some(len) = cut {
            self.parts.push(part.split_off(len, policy));
            desk.shared.counters.bisect();
        }
        if cut.is_some() && culprit.is_none() {
            // Another batch, which has not failed yet: the search for the record at fault takes no ever longer waits.
            part.attempts = 0;
            part.backoff = Backoff::new(policy.first_wait, policy.longest_wait);
        } else if let Some(reason) =
            self.limit(&part).filter(|_| !matches!(policy.on_failure, OnFailure::BlockedRecord))
        {
            return self.give_up(&part, reason, error).await;
        } else {
            self.give_rest_back(&part);
            self.show(&mut part, error);
        }
        let wait = part.backoff.next(&mut self.rng);
        self.parts.push(part);
        self.hand = None;
        desk.wait(wait).await
    }

    /// The limit that the part has reached, if it has reached one.
    fn limit(&self, part: &Part) -> Option<FailureLimit> {
        let policy = self.desk.policy();
        if policy.attempts.is_some_and(|most| part.attempts >= most) {
            return Some(FailureLimit::Attempts);
        }
        let newest = self.unit.records.get(part.places.end - 1)?;
        let created_ms = newest.created_at().map(seconds_to_ms)?;
        let age_ms = u128::from(self.desk.shared.options.clock.now_ms().saturating_sub(created_ms));
        policy.max_record_age.filter(|most| age_ms > most.as_millis()).map(|_| FailureLimit::Age)
    }

    /// The unit's other records need not wait for the part: those of other items go on.
    fn give_rest_back(&mut self, part: &Part) {
        let Some(last) = self.parts.first().filter(|_| self.desk.is_by_key()) else { return };
        let places = part.places.end..last.places.end;
        self.parts.clear();
        self.desk.report(Report::GivenBack { unit: self.unit.id, places });
    }

    /// Shows what is waited for, in the status and the log.
    fn show(&self, part: &mut Part, error: &BatchError) {
        let Some(record) = self.unit.records.get(part.places.start) else { return };
        let (shard, attempts) = (&self.desk.context.shard_id, part.attempts);
        let position = record.sequence_number();
        let is_stuck = self.limit(part).is_some() || self.desk.policy().attempts.is_none() && attempts >= SHOWN_AFTER;
        // The first few of a series, then ever fewer: a log line each time the count doubles.
        if attempts.is_power_of_two() {
            tracing::warn!(%shard, position, records = part.len(), attempts, %error, "the processor failed, trying again");
        }
        if !is_stuck {
            return;
        }
        let keys = record.keys_json().unwrap_or_default();
        if !part.is_halted {
            part.is_halted = true;
            tracing::error!(%shard, position, keys, %error, "a record keeps failing: what follows it waits");
        }
        self.show_halt(part, &record, &error.to_string());
    }

    fn show_halt(&self, part: &Part, record: &Record<'_>, error: &str) {
        let halt = BlockedRecord {
            sequence_number: record.sequence_number().to_owned(),
            event_id: record.event_id().map(ToOwned::to_owned),
            keys: cut(record.keys_json().unwrap_or_default()),
            error: cut(error),
            attempts: part.calls,
            since_ms: part.first_failed_ms.unwrap_or_default(),
        };
        self.desk.status.set_halt(self.unit.id, halt);
    }

    /// Does with the part's records what the policy says of those that are given up.
    async fn give_up(&mut self, part: &Part, reason: FailureLimit, error: &BatchError) -> Result<(), Left> {
        self.hand = None;
        let (desk, records) = (Arc::clone(&self.desk), self.unit.records.clone());
        for place in part.places.clone() {
            let Some(record) = records.get(place) else { continue };
            let (shard, position) = (&desk.context.shard_id, record.sequence_number());
            let (keys, calls) = (record.keys_json().unwrap_or_default(), part.calls);
            let outcome = match &desk.policy().on_failure {
                OnFailure::DeadLetter(queue) => {
                    self.keep(&**queue, part, &record, reason, error).await?;
                    tracing::warn!(%shard, position, keys, calls, ?reason, %error, "a record became a dead letter");
                    Outcome::DeadLettered
                }
                OnFailure::Skip | OnFailure::BlockedRecord => {
                    tracing::error!(%shard, position, keys, calls, ?reason, %error, "a record is passed over");
                    Outcome::Skipped
                }
            };
            self.done(place..place + 1, outcome);
        }
        Ok(())
    }

    fn letter(&self, part: &Part, record: &Record<'_>, reason: FailureLimit, error: &BatchError) -> DeadLetter {
        let desk = &self.desk;
        let now_ms = desk.shared.options.clock.now_ms();
        DeadLetter {
            stream_arn: desk.context.stream_arn.to_string(),
            shard_id: desk.context.shard_id.clone(),
            sequence_number: record
                .sequence_number()
                .parse()
                .expect("positions are checked when their page is decoded"),
            event_id: record.event_id().map(ToOwned::to_owned),
            record: record.json().to_owned(),
            error: DeadLetter::cut_error(&error.to_string()),
            reason,
            attempts: part.calls,
            created_ms: record.created_at().map(seconds_to_ms),
            first_failed_ms: part.first_failed_ms.unwrap_or(now_ms),
            last_failed_ms: now_ms,
            worker: desk.shared.worker.to_string(),
        }
    }

    /// Puts a record's letter until it is durable.
    async fn keep(
        &mut self,
        queue: &dyn DeadLetterQueue,
        part: &Part,
        record: &Record<'_>,
        reason: FailureLimit,
        error: &BatchError,
    ) -> Result<(), Left> {
        let letter = self.letter(part, record, reason, error);
        let desk = Arc::clone(&self.desk);
        let mut backoff = Backoff::new(desk.policy().first_wait, desk.policy().longest_wait);
        let mut attempts: u32 = 0;
        loop {
            desk.check()?;
            let Err(error) = queue.put(&letter).await else {
                desk.status.clear_halt(self.unit.id);
                return Ok(());
            };
            attempts = attempts.saturating_add(1);
            desk.shared.counters.dead_letter_failed();
            self.give_rest_back(part);
            if attempts.is_power_of_two() {
                let (shard, position) = (&letter.shard_id, &letter.sequence_number);
                tracing::error!(%shard, %position, attempts, %error, "a dead letter cannot be kept, trying again");
            }
            if attempts >= SHOWN_AFTER {
                self.show_halt(part, record, &format!("its dead letter cannot be kept: {error}"));
            }
            desk.wait(backoff.next(&mut self.rng)).await?;
        }
    }

    /// Some records are done with.
    fn done(&self, places: Range<usize>, outcome: Outcome) {
        let records = self.unit.records.slice(places.clone());
        let bytes = records.bytes_len();
        self.desk.shared.counters.done(&records, bytes, outcome);
        self.desk.report(Report::Done { unit: self.unit.id, places, bytes });
    }
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(BlockedRecord::SHOWN_BYTES)].to_owned()
}
