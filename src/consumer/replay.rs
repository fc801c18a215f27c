//! The replay of dead letters to a processor.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::checkpointer::Checkpointer;
use super::clock::WallClock;
use super::delivery::catch_panic;
use super::failure::{BatchError, FailurePolicy};
use super::processor::{ProcessRecordsInput, ProcessorFactory, RecordProcessor, ShardContext};
use crate::dead_letters::letter::DeadLetter;
use crate::model::backoff::Backoff;
use crate::model::checkpoint::Checkpoint;
use crate::model::lease::ShardId;

/// Delivers the records of dead letters to processors without a worker: one at a time, under a failure policy, each
/// shard's to a processor of its own.
///
/// It neither reads nor deletes letters. Its caller delivers each item's letters in the order of its changes, and deletes
/// a letter once it is delivered.
pub struct Replayer<F: ProcessorFactory> {
    factory: F,
    policy: FailurePolicy,
    clock: WallClock,
    rng: Rng,
    processors: BTreeMap<(String, ShardId), F::Processor>,
    /// The first of the last calls in a row that found the processor unavailable.
    unavailable_since: Option<Instant>,
}

/// The duration for which a processor may be unavailable without an attempt being counted: a person waits for the replay.
const UNAVAILABLE_LIMIT: Duration = Duration::from_secs(60);

/// The failure of all attempts that the policy allows.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct StillFails {
    /// The attempts of this replay.
    pub attempts: u32,
    /// The last error.
    pub error: BatchError,
}

impl<F: ProcessorFactory> Replayer<F> {
    /// A replayer to processors of `factory`. Of `policy` it takes the attempts (one, if there is no limit), the waits and
    /// the handler timeout, but not the maximum age, which every dead letter may have passed.
    pub fn new(factory: F, policy: FailurePolicy, clock: WallClock, seed: u64) -> Self {
        Self { factory, policy, clock, rng: Rng::with_seed(seed), processors: BTreeMap::new(), unavailable_since: None }
    }

    /// Delivers a letter's record, retrying until it succeeds. While the processor is unavailable, for a minute at most, no
    /// attempt is counted.
    ///
    /// # Errors
    /// When all attempts that the policy allows have failed, or the letter holds no record.
    pub async fn deliver(&mut self, letter: &DeadLetter) -> Result<(), StillFails> {
        let records = letter.to_batch().map_err(|error| StillFails { attempts: 0, error: error.into() })?;
        let limit = self.policy.attempts.unwrap_or(1).max(1);
        let mut backoff = Backoff::new(self.policy.first_wait, self.policy.longest_wait);
        let (mut attempt, mut counted) = (0, 0);
        loop {
            let input = ProcessRecordsInput {
                records: records.clone(),
                checkpointer: Checkpointer::of_replay(),
                age: letter.created_ms.map(|ms| Duration::from_millis(self.clock.now_ms().saturating_sub(ms))),
                attempt,
                shard_id: letter.shard_id.clone(),
                leaving: CancellationToken::new(),
            };
            let Err(error) = self.call(letter, input).await else { return Ok(()) };
            attempt += 1;
            let is_spared = error.is_unavailable()
                && self.unavailable_since.get_or_insert_with(Instant::now).elapsed() < UNAVAILABLE_LIMIT;
            counted += u32::from(!is_spared);
            if counted >= limit {
                return Err(StillFails { attempts: attempt, error });
            }
            tracing::debug!(letter = %letter.id(), %error, attempt, "processor failed, retrying");
            tokio::time::sleep(self.policy.wait_after(&error, backoff.next(&mut self.rng))).await;
        }
    }

    /// Ends the processors' lives after the last letter.
    pub async fn finish(self) {
        for mut processor in self.processors.into_values() {
            processor.shutdown_requested(&Checkpointer::of_replay()).await;
        }
    }

    async fn call(&mut self, letter: &DeadLetter, input: ProcessRecordsInput) -> Result<(), BatchError> {
        let limit = self.policy.handler_timeout;
        let key = (letter.stream_arn.clone(), letter.shard_id.clone());
        let mut processor = match self.processors.remove(&key) {
            Some(processor) => processor,
            None => {
                let shard = ShardContext {
                    shard_id: letter.shard_id.clone(),
                    stream_arn: letter.stream_arn.as_str().into(),
                    checkpoint: Checkpoint::TrimHorizon,
                };
                let mut processor = self.factory.create(&shard);
                catch_panic(processor.initialize(&shard)).await?;
                processor
            }
        };
        catch_panic(processor.prepare(&input.checkpointer)).await?;
        let call = catch_panic(async { processor.process_records(input).await });
        let outcome = match limit {
            None => call.await,
            Some(limit) => tokio::time::timeout(limit, call)
                .await
                .unwrap_or_else(|_| Err(format!("the processor did not finish within {limit:?}").into())),
        };
        self.processors.insert(key, processor);
        if !outcome.as_ref().err().is_some_and(BatchError::is_unavailable) {
            self.unavailable_since = None;
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const RECORD: &str = r#"{"dynamodb":{"SequenceNumber":"7","Keys":{"key":{"S":"a"}}}}"#;

    /// The outcomes of a processor's first calls; the others succeed.
    type Script = Arc<Mutex<Vec<&'static str>>>;

    /// The records of the calls, each with its earlier attempts.
    type Seen = Arc<Mutex<Vec<(String, u32)>>>;

    struct Scripted {
        script: Script,
        seen: Seen,
    }

    impl RecordProcessor for Scripted {
        async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
            let record = input.records.first().expect("a record").json().to_owned();
            self.seen.lock().expect("no panic").push((record, input.attempt));
            let what = self.script.lock().expect("no panic").pop();
            match what {
                Some("busy") => Err(BatchError::unavailable("busy", Some(Duration::from_secs(2)))),
                Some("panic") => panic!("poison"),
                Some("hang") => std::future::pending().await,
                Some(words) => Err(words.into()),
                None => Ok(input.checkpointer.checkpoint().await?),
            }
        }
    }

    fn replayer(script: &[&'static str]) -> (Replayer<impl ProcessorFactory>, Seen) {
        let script: Script = Arc::new(Mutex::new(script.iter().rev().copied().collect()));
        let seen = Seen::default();
        let to_see = Arc::clone(&seen);
        let factory = move |_: &ShardContext| Scripted { script: Arc::clone(&script), seen: Arc::clone(&to_see) };
        let policy =
            FailurePolicy { attempts: Some(3), handler_timeout: Some(Duration::from_secs(9)), ..Default::default() };
        (Replayer::new(factory, policy, WallClock::System, 1), seen)
    }

    fn letter(record: &str) -> DeadLetter {
        let number = "7".parse().expect("a sequence number");
        DeadLetter::new("arn:aws:dynamodb:r:1:table/T/stream/L", "shardId-1".into(), number, record, "no", 5)
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_is_tried_as_often_as_the_policy_allows_through_errors_panics_and_hanging_calls() {
        let (mut replayer, seen) = replayer(&["panic", "hang"]);
        replayer.deliver(&letter(RECORD)).await.expect("the third attempt goes well");
        let seen = std::mem::take(&mut *seen.lock().expect("no panic"));
        assert_eq!(seen, [0, 1, 2].map(|attempt| (RECORD.to_owned(), attempt)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unavailable_processor_is_waited_for_as_it_asks_but_for_a_minute_only() {
        let (mut spared, seen) = replayer(&["busy"; 9]);
        let started = Instant::now();
        spared.deliver(&letter(RECORD)).await.expect("it is available again");
        assert_eq!(seen.lock().expect("no panic").len(), 10);
        assert!(started.elapsed() >= Duration::from_secs(18), "{:?}", started.elapsed());
        let (mut replayer, _) = replayer(&["busy"; 99]);
        replayer.deliver(&letter(RECORD)).await.expect_err("a minute is over");
        assert!(replayer.deliver(&letter(RECORD)).await.expect_err("it is still away").attempts == 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_again_says_how_often_and_why() {
        let (mut replayer, seen) = replayer(&["one", "two", "hang"]);
        let error = replayer.deliver(&letter(RECORD)).await.expect_err("no attempt is left");
        assert_eq!((error.attempts, error.to_string().as_str()), (3, "the processor did not finish within 9s"));
        replayer.deliver(&letter(RECORD)).await.expect("the next one goes well");
        assert_eq!(seen.lock().expect("no panic").len(), 4);
    }

    #[tokio::test]
    async fn a_letter_without_a_record_is_handed_to_nobody() {
        let (mut replayer, seen) = replayer(&[]);
        let error = replayer.deliver(&letter("{}")).await.expect_err("there is no record");
        assert_eq!(error.attempts, 0);
        assert!(error.to_string().contains("not a record"), "{error}");
        assert!(seen.lock().expect("no panic").is_empty());
    }
}
