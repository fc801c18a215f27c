//! `/worker`: this worker's readiness, and its figures of the last quarter of an hour, for a reader who has just arrived.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::options::WorkerOptions;
use crate::telemetry::{Sample, WorkerTelemetry};

/// The interval between two samples.
const INTERVAL: Duration = Duration::from_secs(5);
/// The number of samples that are kept: a quarter of an hour.
const KEPT: usize = 180;

/// The page, and what it is made of.
pub struct OwnPage {
    app: String,
    worker: String,
    telemetry: WorkerTelemetry,
    /// Oldest first.
    samples: Mutex<VecDeque<Sample>>,
}

/// The JSON of the page: fields may be added, none changes its meaning.
#[derive(Serialize)]
struct Page<'a> {
    app: &'a str,
    worker: &'a str,
    version: &'a str,
    not_ready_reasons: Vec<String>,
    interval_ms: u128,
    samples: &'a VecDeque<Sample>,
}

impl OwnPage {
    /// The page of a worker with these options, whose samples are taken from now on.
    pub fn start(options: &WorkerOptions, telemetry: WorkerTelemetry) -> Arc<Self> {
        let (app, worker) = (options.app.clone(), options.worker_id.clone());
        let page = Arc::new(Self { app, worker, telemetry, samples: Mutex::default() });
        let sampled = Arc::clone(&page);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(INTERVAL);
            loop {
                ticks.tick().await;
                push(&mut sampled.samples(), sampled.telemetry.sample());
            }
        });
        page
    }

    /// The page as it is now.
    pub fn json(&self) -> serde_json::Result<String> {
        let page = Page {
            app: &self.app,
            worker: &self.worker,
            version: env!("CARGO_PKG_VERSION"),
            not_ready_reasons: self.telemetry.health().not_ready_reasons,
            interval_ms: INTERVAL.as_millis(),
            samples: &self.samples(),
        };
        serde_json::to_string(&page)
    }

    fn samples(&self) -> MutexGuard<'_, VecDeque<Sample>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds a sample, and drops the oldest if they become too many.
fn push(samples: &mut VecDeque<Sample>, sample: Sample) {
    samples.push_back(sample);
    if samples.len() > KEPT {
        samples.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_an_hour_is_kept() {
        let mut samples = VecDeque::new();
        (0..1_000).for_each(|at_ms| push(&mut samples, Sample { at_ms, ..Sample::default() }));
        assert_eq!(INTERVAL * u32::try_from(samples.len()).unwrap(), Duration::from_secs(15 * 60));
        assert_eq!(samples[KEPT - 1].at_ms, 999);
    }
}
