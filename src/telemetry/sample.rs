//! The few figures of a worker and its fleet whose course people want to see.

use serde::Serialize;

use super::gauges::app_lag_ms;
use super::{WorkerTelemetry, lock};
use crate::model::app_lag::RETENTION_MS;
use crate::model::fleet_view::FleetView;
use crate::model::lag::Stage;
use crate::model::worker_record::{ObservedWorker, WorkerRecord};

/// The figures at one moment; `None` stands for what isn't known then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// The moment (ms since the epoch).
    pub at_ms: u64,
    /// This worker's lag.
    pub lag_ms: Option<u64>,
    /// The time until the oldest change of this worker's shards that is not checkpointed is trimmed.
    pub trim_headroom_ms: Option<u64>,
    /// The fleet's lag: the leader's figure on the leader, else the longest that a worker has reported.
    pub fleet_lag_ms: Option<u64>,
    /// The trim headroom of the fleet, from the same source.
    pub fleet_trim_headroom_ms: Option<u64>,
    /// Records that this worker has processed since its start.
    pub records: u64,
    /// The bytes of these records.
    pub bytes: u64,
    /// The number of live workers.
    pub workers: usize,
}

impl WorkerTelemetry {
    /// The figures as they are now, from memory.
    pub fn sample(&self) -> Sample {
        let now_ms = self.0.options.clock.now_ms();
        let totals = self.0.counters.totals();
        let lag_ms = |stage| self.waiting_since_ms(stage).map(|since| now_ms.saturating_sub(since));
        let left = |lag_ms: u64| RETENTION_MS.saturating_sub(lag_ms);
        let fleet = lock(&self.0.fleet);
        let view = fleet.as_ref().map(|fleet| fleet.view.borrow());
        let [fleet_lag_ms, fleet_unsaved_ms] = match (&*lock(&self.0.app), &view) {
            (Some(app), _) => app_lag_ms(app, now_ms).map(Some),
            (None, Some(view)) => [
                reported_lag_ms(view, now_ms, |record| record.unprocessed_since_ms),
                reported_lag_ms(view, now_ms, |record| record.unsaved_since_ms),
            ],
            (None, None) => [None, None],
        };
        Sample {
            at_ms: now_ms,
            lag_ms: lag_ms(Stage::Processed),
            trim_headroom_ms: lag_ms(Stage::Checkpointed).map(left),
            fleet_lag_ms,
            fleet_trim_headroom_ms: fleet_unsaved_ms.map(left),
            records: totals.records,
            bytes: totals.bytes,
            workers: view.map_or(0, |view| view.live().count()),
        }
    }
}

/// The longest lag that a worker has reported: a live one's when it reported it, a dead one's until now.
fn reported_lag_ms(view: &FleetView, now_ms: u64, since: impl Fn(&WorkerRecord) -> Option<u64>) -> Option<u64> {
    let lag_ms = |seen: &ObservedWorker| {
        let record = &seen.member.record;
        let reported_ms = if seen.is_alive { record.written_ms? } else { now_ms };
        Some(reported_ms.saturating_sub(since(record)?))
    };
    view.workers.iter().map(lag_ms).max_by_key(|lag_ms| lag_ms.unwrap_or(u64::MAX))?
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::model::worker_record::{Hints, Member};

    fn worker(is_alive: bool, written_ms: u64, unprocessed_since_ms: Option<u64>) -> ObservedWorker {
        let record = WorkerRecord { written_ms: Some(written_ms), unprocessed_since_ms, ..WorkerRecord::default() };
        let (inbox, placed) = (Hints::default(), BTreeSet::new());
        let member = Member { id: "w".into(), record, inbox, challenger: None, placed };
        ObservedWorker { member, is_alive, has_changed: true, still_for: Duration::ZERO }
    }

    #[test]
    fn the_longest_report_counts_a_dead_workers_grows_and_a_missing_one_leaves_the_lag_unknown() {
        let lag = |workers: Vec<ObservedWorker>| {
            let view = FleetView { workers, ..FleetView::default() };
            reported_lag_ms(&view, 20_000, |record| record.unprocessed_since_ms)
        };
        let (quick, slow) = (worker(true, 10_000, Some(9_000)), worker(true, 10_000, Some(5_000)));
        assert_eq!(lag(vec![quick.clone(), slow]), Some(5_000));
        assert_eq!(lag(vec![quick.clone(), worker(false, 10_000, Some(9_500))]), Some(10_500));
        assert_eq!(lag(vec![quick, worker(true, 10_000, None)]), None);
        assert_eq!(lag(vec![worker(true, 10_000, Some(u64::MAX))]), Some(0), "a worker without shards");
        assert_eq!(lag(Vec::new()), None);
    }
}
