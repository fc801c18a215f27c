//! The delivery of records in a simulation: several items at once, in batches of a size, filtered, and some
//! records that always fail and become dead letters.
//!
//!     SHARDKEEPER_SIM_SEEDS=17..18 SHARDKEEPER_SIM_TRACE=1 cargo test --test simulation delivery -- --nocapture

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use shardkeeper::internals::consumer::BoxError;
use shardkeeper::internals::dead_letters::letter::DeadLetter;
use shardkeeper::internals::model::filter::{Filters, Pattern};
use shardkeeper::{DeadLetterQueue, OnFailure, WorkerOptions};

use super::history::{Event, History};
use super::processor::Behavior;
use super::scenario::{Scenario, below, chance};

/// The number of seeds that every test run simulates.
const SEEDS: std::ops::Range<u64> = 0..24;

/// See the file's head. The default is what a worker does by default.
#[derive(Clone, Debug, Default)]
pub struct DeliveryScenario {
    /// The number of batches of a shard in flight at once; 0 stands for the worker's default.
    pub concurrency: usize,
    /// All calls of a worker at once.
    pub in_all: Option<usize>,
    pub batch_size: Option<usize>,
    pub batch_window: Duration,
    /// One record in so many always fails.
    pub poison_one_in: Option<u64>,
    pub attempts: u32,
    pub bisects: bool,
    pub handler_timeout: Option<Duration>,
    /// The share of attempts to keep a dead letter that fail.
    pub queue_fails: f64,
    /// Whether records are left out whose number ends in 7.
    pub filters: bool,
    /// Whether the filters leave all others out, and keep those.
    pub is_selective: bool,
    /// Whether the records that always fail stop their shard until the calm, and become no dead letters.
    pub halts: bool,
}

impl DeliveryScenario {
    /// The scenario of a seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0xDE11);
        let batch_size = [None, Some(1), Some(5), Some(50)][below(&mut rng, 4)];
        let window_ms = if batch_size.is_some() && chance(&mut rng, 0.3) { 300 } else { 0 };
        Self {
            concurrency: [1, 2, 4, 16][below(&mut rng, 4)],
            in_all: chance(&mut rng, 0.3).then_some(16),
            batch_size,
            batch_window: Duration::from_millis(window_ms),
            poison_one_in: Some(20 + rng.u64(..) % 60),
            attempts: 1 + u32::try_from(below(&mut rng, 4)).unwrap_or_default(),
            bisects: chance(&mut rng, 0.8),
            handler_timeout: chance(&mut rng, 0.3).then_some(Duration::from_secs(2)),
            queue_fails: [0.0, 0.3][below(&mut rng, 2)],
            filters: chance(&mut rng, 0.3),
            is_selective: false,
            halts: false,
        }
    }

    /// Whether processors always fail on this record.
    pub fn is_poison(&self, key: &str, number: u64) -> bool {
        let salt = key.bytes().fold(number, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        self.poison_one_in.is_some_and(|one_in| Rng::with_seed(salt).u64(..).is_multiple_of(one_in))
    }

    /// Whether the filters leave this record out.
    pub fn leaves_out(&self, number: u64) -> bool {
        self.filters && (number % 10 == 7) != self.is_selective
    }
}

impl Behavior {
    /// Tells a worker how its records are to be delivered.
    pub fn apply(&self, options: &mut WorkerOptions, process: usize, history: &History, seed: u64) {
        let delivery = &self.delivery;
        if delivery.concurrency == 0 {
            return;
        }
        options.shard_concurrency = delivery.concurrency;
        options.concurrency = delivery.in_all;
        options.batch_size = delivery.batch_size;
        options.batch_window = delivery.batch_window;
        options.failure.bisect = delivery.bisects;
        options.failure.handler_timeout = delivery.handler_timeout;
        options.failure.longest_wait = Duration::from_secs(1);
        if !delivery.halts {
            options.failure.attempts = Some(delivery.attempts);
            options.failure.on_failure = OnFailure::DeadLetter(Arc::new(Letters {
                process,
                history: history.clone(),
                behavior: self.clone(),
                rng: Mutex::new(Rng::with_seed(seed ^ 0x1E77E5)),
            }));
        }
        if delivery.filters {
            let kept = if delivery.is_selective { "7" } else { "012345689" };
            let suffixes: Vec<String> = kept.chars().map(|digit| format!(r#"{{"suffix":"{digit}"}}"#)).collect();
            let pattern = format!(r#"{{"dynamodb":{{"NewImage":{{"n":{{"N":[{}]}}}}}}}}"#, suffixes.join(","));
            options.filters = Filters::new().or(Pattern::parse(&pattern).expect("a pattern"));
        }
    }
}

/// A process's store of dead letters, durable for all processes.
struct Letters {
    process: usize,
    history: History,
    behavior: Behavior,
    rng: Mutex<Rng>,
}

impl DeadLetterQueue for Letters {
    fn put<'a>(&'a self, letter: &'a DeadLetter) -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send + 'a>> {
        Box::pin(async move {
            let (there, back, fails) = {
                let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
                (rng.f64(), rng.f64(), chance(&mut rng, self.behavior.delivery.queue_fails))
            };
            let is_calm = self.behavior.calm.load(Ordering::Relaxed);
            let longest = Duration::from_millis(if is_calm { 10 } else { 400 });
            let wait = |share: f64| tokio::time::sleep(longest.mul_f64(share));
            let note = Event::DeadLetter {
                process: self.process,
                shard: letter.shard_id.to_string(),
                position: letter.sequence_number.as_str().parse().expect("digits"),
                record: letter.record.clone(),
            };
            if self.behavior.forgets_letters {
                let history = self.history.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    history.note(note);
                });
                return Ok(());
            }
            // A crash may come before the letter is durable, and after it.
            wait(there).await;
            if fails && !is_calm && back < 0.5 {
                return Err("a simulated failure, before the letter was kept".into());
            }
            self.history.note(note);
            wait(back).await;
            if fails && !is_calm {
                return Err("a simulated failure, after the letter was kept".into());
            }
            Ok(())
        })
    }
}

#[test]
fn the_invariants_hold_with_every_way_of_delivery() {
    super::check(SEEDS.collect(), |seed| {
        let mut scenario = Scenario::new(seed, super::CHAOS_MS);
        scenario.delivery = DeliveryScenario::new(seed);
        super::simulate_scenario(&scenario, None)
    });
}
