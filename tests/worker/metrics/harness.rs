//! Workers with the real SDK on the local service, in this process, on a paused clock, and a recorder that notes what
//! they show.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use serde_json::{Value, json};
use shardkeeper::internals::telemetry::WorkerTelemetry;
use shardkeeper::{BatchError, Error, ProcessRecordsInput, RecordProcessor, Report, ShardContext, WorkerOptions};
use shardkeeper_local::FaultPlan;
use shardkeeper_local::StreamAction;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::fleet::{Fleet, TABLE};

/// Notes the last value of each series, and which metrics were ever stepped, set or observed.
#[derive(Clone, Default)]
pub struct Notes(Arc<Mutex<BTreeMap<String, f64>>>);

struct Series {
    notes: Notes,
    name: String,
}

impl Notes {
    /// The names of all metrics of which there was something to see.
    pub fn names(&self) -> BTreeSet<String> {
        let notes = self.0.lock().expect("no panic");
        notes.keys().map(|name| name.split('{').next().unwrap_or_default().to_owned()).collect()
    }

    /// The value of a series: `name`, or `name{label=value,…}`.
    pub fn value(&self, series: &str) -> Option<f64> {
        self.0.lock().expect("no panic").get(series).copied()
    }

    fn series(&self, key: &Key) -> Arc<Series> {
        let labels: Vec<String> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name =
            if labels.is_empty() { key.name().to_owned() } else { format!("{}{{{}}}", key.name(), labels.join(",")) };
        Arc::new(Series { notes: self.clone(), name })
    }
}

impl Series {
    fn note(&self, change: impl FnOnce(f64) -> f64) {
        let mut notes = self.notes.0.lock().expect("no panic");
        let value = notes.entry(self.name.clone()).or_default();
        *value = change(*value);
    }
}

impl CounterFn for Series {
    fn increment(&self, step: u64) {
        self.note(|value| value + step as f64);
    }

    fn absolute(&self, total: u64) {
        self.note(|_| total as f64);
    }
}

impl GaugeFn for Series {
    fn increment(&self, step: f64) {
        self.note(|value| value + step);
    }

    fn decrement(&self, step: f64) {
        self.note(|value| value - step);
    }

    fn set(&self, now: f64) {
        self.note(|_| now);
    }
}

impl HistogramFn for Series {
    fn record(&self, observed: f64) {
        self.note(|_| observed);
    }
}

impl Recorder for Notes {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.series(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.series(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.series(key))
    }
}

/// A table with a stream, what was written to it and what was processed of it, in order.
#[derive(Clone)]
pub struct Harness {
    pub fleet: Fleet,
    /// When each record was written (ms since the epoch).
    written: Arc<Mutex<Vec<u64>>>,
    processed: Arc<Mutex<BTreeSet<u64>>>,
    hangs: Arc<AtomicBool>,
    goes_on: Arc<Notify>,
    fails_once: Arc<AtomicBool>,
}

/// Notes each record; hangs or fails when the harness says so.
struct Processor(Harness);

/// A worker that runs.
pub struct Running {
    pub board: WorkerTelemetry,
    pub task: JoinHandle<Result<Report, Error>>,
}

impl RecordProcessor for Processor {
    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        while self.0.hangs.load(Ordering::Relaxed) {
            self.0.goes_on.notified().await;
        }
        if self.0.fails_once.swap(false, Ordering::Relaxed) {
            return Err("not this time".into());
        }
        let mut processed = self.0.processed.lock().expect("no panic");
        for record in input.records.iter() {
            let key: Value = serde_json::from_str(record.json())?;
            let number = key["dynamodb"]["Keys"]["k"]["S"].as_str().and_then(|key| key.strip_prefix('k'));
            processed.insert(number.expect("a key").parse()?);
        }
        Ok(())
    }
}

impl Harness {
    pub fn new(shards: u32) -> Self {
        Self {
            fleet: Fleet::new(shards),
            written: Arc::default(),
            processed: Arc::default(),
            hangs: Arc::default(),
            goes_on: Arc::default(),
            fails_once: Arc::default(),
        }
    }

    /// Writes so many records now.
    pub fn write(&self, count: usize) {
        for _ in 0..count {
            let number = {
                let mut written = self.written.lock().expect("no panic");
                written.push(self.fleet.now_ms());
                written.len() - 1
            };
            self.fleet.put(&json!({"k": {"S": format!("k{number}")}}));
        }
    }

    /// The age of the oldest record that no processor has finished, by the service's own clock.
    pub fn true_lag(&self) -> Duration {
        let processed = self.processed.lock().expect("no panic");
        let written = self.written.lock().expect("no panic");
        let oldest = written.iter().enumerate().find(|(number, _)| !processed.contains(&(*number as u64)));
        oldest.map_or(Duration::ZERO, |(_, at)| Duration::from_millis(self.fleet.now_ms() - at))
    }

    /// Makes the processors hang, or lets them return.
    pub fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::Relaxed);
        self.goes_on.notify_waiters();
    }

    /// The next call of a processor fails.
    pub fn fail_once(&self) {
        self.fails_once.store(true, Ordering::Relaxed);
    }

    /// Replaces the plan of faults; `{}` ends them.
    pub fn faults(&self, plan: &Value) {
        self.fleet.service.set_faults(FaultPlan::from_json(plan).expect("a good plan"));
    }

    pub fn change_shards(&self, action: StreamAction) {
        self.fleet.service.change_shards(TABLE, action, None).expect("a table with a stream");
    }

    pub fn start_worker(&self, worker: &str, seed: u64) -> Running {
        let harness = self.clone();
        let factory = move |_: &ShardContext| Processor(harness.clone());
        let set = |options: &mut WorkerOptions| options.unready_after = Duration::from_secs(10);
        let worker = self.fleet.worker(worker, seed, self.fleet.client(), set, factory);
        Running { board: worker.telemetry(), task: tokio::task::spawn_local(worker.run(std::future::pending())) }
    }

    pub fn owned_by(&self, worker: &str) -> usize {
        self.fleet.owned_by(worker)
    }

    pub async fn until(&self, what: &str, limit: Duration, is_so: impl FnMut() -> bool) {
        self.fleet.until(what, limit, is_so).await;
    }
}
