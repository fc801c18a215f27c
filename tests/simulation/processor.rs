//! The processors of the simulated workers: they write down what they are given, and are slow, fail, panic or hang as
//! their behavior has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use shardkeeper::{
    BatchError, BoxError, Checkpointer, ProcessRecordsInput, ProcessorFactory, RecordProcessor, ShardContext,
};

use super::delivery::DeliveryScenario;
use super::history::{Event, History};

/// The words of panics that are meant.
pub const MEANT_PANIC: &str = "a simulated panic";

/// Faults and delays of processors. The shares are of calls.
#[derive(Clone, Debug)]
pub struct Behavior {
    /// The most that a record takes.
    pub slowest_record: Duration,
    pub fails: f64,
    pub panics: f64,
    pub hangs: f64,
    /// The longest that a call hangs; without one, it never returns.
    pub longest_hang: Option<Duration>,
    /// Whether processors checkpoint by hand, some batches at once.
    pub checkpoints_by_hand: bool,
    /// Set when all behaviors end.
    pub calm: Arc<AtomicBool>,
    /// Records that a faulty processor passes over, one in so many; for a planted bug.
    pub passes_over: Option<u64>,
    /// Filters, dead letters and poison records.
    pub delivery: DeliveryScenario,
    /// Whether dead letters are said to be kept before they are; for a planted bug.
    pub forgets_letters: bool,
}

/// Makes the processors of one process.
pub struct Recorders {
    process: usize,
    history: History,
    behavior: Behavior,
    seed: u64,
    made: AtomicU64,
}

impl Recorders {
    pub fn new(process: usize, history: History, behavior: Behavior, seed: u64) -> Self {
        Self { process, history, behavior, seed, made: AtomicU64::new(0) }
    }
}

impl ProcessorFactory for Recorders {
    type Processor = Recorder;

    fn create(&self, shard: &ShardContext) -> Recorder {
        let made = self.made.fetch_add(1, Ordering::Relaxed);
        Recorder {
            process: self.process,
            shard: shard.shard_id.to_string(),
            history: self.history.clone(),
            behavior: self.behavior.clone(),
            rng: Rng::with_seed(self.seed ^ made.wrapping_mul(0x9E37_79B9)),
            number: made,
            calls: 0,
            unsaved: Vec::new(),
        }
    }
}

/// The processor of one shard.
pub struct Recorder {
    process: usize,
    shard: String,
    history: History,
    behavior: Behavior,
    rng: Rng,
    /// Names it in its process.
    number: u64,
    calls: u64,
    /// Records that are worked on and not yet acknowledged, where checkpoints are written by hand.
    unsaved: Vec<u128>,
}

/// The identity of a record.
struct Seen {
    position: u128,
    key: String,
    number: u64,
}

impl RecordProcessor for Recorder {
    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        let records: Vec<Seen> = input.records.iter().map(|record| seen(record.json())).collect();
        let positions: Vec<u128> = records.iter().map(|record| record.position).collect();
        let (process, shard) = (self.process, self.shard.clone());
        self.calls += 1;
        let call = self.number << 32 | self.calls;
        let _under_way = UnderWay { history: self.history.clone(), process, call };
        self.history.note(Event::Began { process, shard: shard.clone(), call, positions: positions.clone() });
        let trouble = self.draw_trouble(records.len());
        for (index, Seen { position, key, number }) in records.into_iter().enumerate() {
            if !self.behavior.slowest_record.is_zero() && !self.is_calm() {
                tokio::time::sleep(self.behavior.slowest_record.mul_f64(self.rng.f64())).await;
            }
            match trouble {
                Some((at, StallCause::Error)) if at == index => return Err("a simulated failure".into()),
                Some((at, StallCause::Panic)) if at == index => std::panic::panic_any(MEANT_PANIC),
                Some((at, StallCause::Hang)) if at == index => self.hang().await,
                _ => {}
            }
            if self.behavior.delivery.is_poison(&key, number) && !(self.behavior.delivery.halts && self.is_calm()) {
                return Err(self.fail_from(&positions, index));
            }
            let is_passed_over =
                self.behavior.passes_over.is_some_and(|one_in| self.rng.u64(..).is_multiple_of(one_in));
            if !is_passed_over {
                self.history.note(Event::Delivered { process, shard: shard.clone(), position, key, number });
            }
        }
        if !self.behavior.checkpoints_by_hand {
            self.history.note(Event::Acknowledged { process, shard, positions });
            return Ok(());
        }
        self.unsaved.extend(positions);
        if self.rng.f64() < 0.3 {
            self.save(&input.checkpointer).await;
        }
        Ok(())
    }

    async fn shard_ended(&mut self, checkpointer: &Checkpointer) -> Result<(), BoxError> {
        self.save(checkpointer).await;
        Ok(())
    }

    async fn shutdown_requested(&mut self, checkpointer: &Checkpointer) {
        self.save(checkpointer).await;
    }
}

/// A call, while it lasts.
struct UnderWay {
    history: History,
    process: usize,
    call: u64,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.history.checker(|checker| checker.call_ended(self.process, self.call));
    }
}

#[derive(Clone, Copy)]
enum StallCause {
    Error,
    Panic,
    Hang,
}

impl Recorder {
    /// A poison record's failure: at times of the whole batch, at times with the word that what came before is done.
    fn fail_from(&mut self, positions: &[u128], index: usize) -> BatchError {
        if self.rng.f64() < 0.5 {
            return "poison in this batch".into();
        }
        let (process, shard) = (self.process, self.shard.clone());
        self.history.note(Event::Acknowledged { process, shard, positions: positions[..index].to_vec() });
        let position = positions[index].to_string().parse().expect("digits");
        BatchError::from_record(position, "poison")
    }

    fn is_calm(&self) -> bool {
        self.behavior.calm.load(Ordering::Relaxed)
    }

    fn draw_trouble(&mut self, records: usize) -> Option<(usize, StallCause)> {
        let (draw, place) = (self.rng.f64(), self.rng.u64(..));
        if self.is_calm() {
            return None;
        }
        let Behavior { fails, panics, hangs, .. } = self.behavior;
        let trouble = match draw {
            draw if draw < fails => StallCause::Error,
            draw if draw < fails + panics => StallCause::Panic,
            draw if draw < fails + panics + hangs => StallCause::Hang,
            _ => return None,
        };
        let place = usize::try_from(place % records as u64).unwrap_or_default();
        Some((place, trouble))
    }

    /// Makes what was worked on durable, and checkpoints it.
    async fn save(&mut self, checkpointer: &Checkpointer) {
        let Some(last) = self.unsaved.last().copied() else { return };
        let (process, shard, positions) = (self.process, self.shard.clone(), std::mem::take(&mut self.unsaved));
        self.history.note(Event::Acknowledged { process, shard, positions });
        // A lost lease and a table that cannot be written leave the position behind: the records come again.
        let _ = checkpointer.checkpoint_at(&last.to_string().parse().expect("digits")).await;
    }

    async fn hang(&mut self) {
        let Some(longest) = self.behavior.longest_hang else { std::future::pending().await };
        let mut left = longest.mul_f64(self.rng.f64());
        while !left.is_zero() && !self.is_calm() {
            let step = left.min(Duration::from_millis(500));
            tokio::time::sleep(step).await;
            left -= step;
        }
    }
}

fn seen(json: &str) -> Seen {
    let (position, key, number) = read_record(&serde_json::from_str(json).expect("a record is JSON"));
    Seen { position, key, number }
}

/// The position, key and number of a record.
pub fn read_record(record: &serde_json::Value) -> (u128, String, u64) {
    let parts = &record["dynamodb"];
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    (
        text(&parts["SequenceNumber"]).parse().expect("digits"),
        text(&parts["Keys"]["pk"]["S"]),
        text(&parts["NewImage"]["n"]["N"]).parse().expect("digits"),
    )
}
