//! A steady flow of records, each with the moment at which it was written, and what became of them.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ChildStdout;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::json;

use super::service::{Client, TABLE};
use super::workers::each_line;

/// BatchWriteItem takes no more.
const BATCH: u64 = 25;
/// Fills an item up to some 300 bytes.
const PAD: usize = 200;

/// Writes items at a rate until it is stopped.
pub struct Flow {
    stop: Arc<AtomicBool>,
    writer: JoinHandle<Result<BTreeMap<u64, u64>, anyhow::Error>>,
}

/// A record that came out.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// When it was written, since the scenario's start.
    pub written: Duration,
    /// When it came out, on the same clock.
    pub arrived: Duration,
    /// Which item it is of.
    pub key: u64,
    /// Which of the item's versions, from 1.
    pub version: u64,
    /// Whether its shard is one whose processor takes its time.
    pub is_slow: bool,
}

/// All records that came out, from all readers.
#[derive(Clone)]
pub struct Deliveries {
    start: Instant,
    all: Arc<Mutex<Vec<Delivery>>>,
}

/// Times from the writing of records to their delivery.
#[derive(Clone, Debug, Default)]
pub struct Delays {
    /// A record each, the shortest first.
    sorted: Vec<Duration>,
    /// The number of repeated deliveries in the measured time.
    pub again: usize,
}

impl Flow {
    /// Begins to write `per_second` items over `keys` keys in turn.
    pub fn start(mut client: Client, deliveries: &Deliveries, per_second: u64, keys: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, start) = (Arc::clone(&stop), deliveries.start);
        let writer = std::thread::spawn(move || {
            let mut versions: BTreeMap<u64, u64> = BTreeMap::new();
            let (began, pad) = (start.elapsed(), "x".repeat(PAD));
            for batch in 0_u64.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let due = began
                    + Duration::from_secs(1) * u32::try_from(batch * BATCH / per_second).unwrap_or(0)
                    + Duration::from_secs_f64((batch * BATCH % per_second) as f64 / per_second as f64);
                std::thread::sleep(due.saturating_sub(start.elapsed()));
                let written_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
                let put = |turn: u64| {
                    let key = turn % keys;
                    let version = *versions.entry(key).and_modify(|version| *version += 1).or_insert(1);
                    json!({"PutRequest": {"Item": {
                        "key": {"S": format!("key-{key:08}")},
                        "version": {"N": version.to_string()},
                        "written": {"N": written_us.to_string()},
                        "pad": {"S": pad},
                    }}})
                };
                let puts: Vec<_> = (batch * BATCH..(batch + 1) * BATCH).map(put).collect();
                client.call("BatchWriteItem", &json!({"RequestItems": {TABLE: puts}}))?;
            }
            Ok(versions)
        });
        Self { stop, writer }
    }

    /// Stops writing, and waits until everything written has come out: once, or more often.
    pub fn finish(self, deliveries: &Deliveries, limit: Duration) -> Result<Balance, anyhow::Error> {
        self.stop.store(true, Ordering::Relaxed);
        let Ok(written) = self.writer.join() else { bail!("the writer panicked") };
        let written = written?;
        let start = Instant::now();
        loop {
            let balance = deliveries.balance(&written);
            if balance.missing == 0 {
                return Ok(balance);
            }
            if start.elapsed() > limit {
                bail!("{} of {} records did not come out within {limit:?}", balance.missing, balance.written);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The records written against the records delivered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Balance {
    /// Records written.
    pub written: u64,
    /// Of these, records that have not come out.
    pub missing: u64,
}

impl Deliveries {
    /// None yet.
    pub fn new() -> Self {
        Self { start: Instant::now(), all: Arc::default() }
    }

    /// The time on the clock of these deliveries.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Takes in what a reader prints, until it ends.
    pub fn read(&self, pipe: ChildStdout) {
        let (start, all) = (self.start, Arc::clone(&self.all));
        each_line(pipe, move |line| {
            let arrived = start.elapsed();
            let number = |name: &[u8]| number_behind(line, name);
            // A line that lacks something is missed as a record at the end.
            if let (Some(key), Some(version), Some(written)) =
                (number(b"{\"S\":\"key-"), number(b"\"version\":{\"N\":\""), number(b"\"written\":{\"N\":\""))
            {
                let written = Duration::from_micros(written);
                let is_slow = line.starts_with(b"slow ");
                let delivery = Delivery { written, arrived, key, version, is_slow };
                all.lock().unwrap_or_else(PoisonError::into_inner).push(delivery);
            }
        });
    }

    /// The delays of the first deliveries of records that were written in a time and that `wanted` lets pass.
    pub fn delays(&self, from: Duration, to: Duration, wanted: impl Fn(&Delivery) -> bool) -> Delays {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.sort_by_key(|delivery| delivery.arrived);
        let (mut seen, mut delays) = (BTreeSet::new(), Delays::default());
        let is_within = |moment: Duration| moment >= from && moment < to;
        for delivery in &all {
            let is_first = seen.insert((delivery.key, delivery.version));
            if !is_first && is_within(delivery.arrived) {
                delays.again += 1;
            }
            if is_first && is_within(delivery.written) && wanted(delivery) {
                delays.sorted.push(delivery.arrived.saturating_sub(delivery.written));
            }
        }
        delays.sorted.sort_unstable();
        delays
    }

    fn balance(&self, written: &BTreeMap<u64, u64>) -> Balance {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen: Vec<(u64, u64)> = all.iter().map(|delivery| (delivery.key, delivery.version)).collect();
        seen.sort_unstable();
        seen.dedup();
        let written = written.values().sum();
        Balance { written, missing: written - (seen.len() as u64).min(written) }
    }
}

impl Delays {
    /// Their number.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// The delay that this part of the records stayed below or at, in milliseconds.
    pub fn quantile_ms(&self, part: f64) -> Result<f64, anyhow::Error> {
        let last = self.sorted.len().checked_sub(1).context("no record came out in the time that was measured")?;
        let index = (part * last as f64).round() as usize;
        Ok(self.sorted[index.min(last)].as_secs_f64() * 1000.0)
    }
}

/// The decimal number that stands behind a text.
fn number_behind(line: &[u8], text: &[u8]) -> Option<u64> {
    let rest = &line[memchr::memmem::find(line, text)? + text.len()..];
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(None, |number, digit| Some(number.unwrap_or(0) * 10 + u64::from(digit - b'0')))
}
