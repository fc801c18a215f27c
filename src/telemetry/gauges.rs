//! Gauges, each set from what is known at the moment of recording.
//!
//! A gauge whose value is no longer known becomes NaN, which the program's `/metrics` leaves out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{AppFigures, Fleet, Loop, Phase, WorkerTelemetry, lock};
use crate::aws::calls::IdlePolls;
use crate::consumer::ConsumerStatus;
use crate::model::app_lag::RETENTION_MS;
use crate::model::blocked_record::StallCause;
use crate::model::fleet_state::ShardState;
use crate::model::lag::Stage;
use crate::model::lease::ShardId;
use crate::telemetry::catalogue;

type Shards = BTreeMap<ShardId, Arc<ConsumerStatus>>;

/// The age of a leader's figures from which the lag grows by the rest.
const FIGURES_SLACK: Duration = Duration::from_secs(5);

/// State kept from one recording to the next.
#[derive(Debug, Default)]
pub(crate) struct RecordedGauges {
    /// The total wait of each shard's readers.
    waited: BTreeMap<ShardId, Duration>,
    /// The part of a second of waiting that was not yet counted.
    uncounted: Duration,
    /// Whether the application's figures were recorded.
    has_app: bool,
}

impl WorkerTelemetry {
    /// Sets all gauges to what they are now. The worker does so every few seconds, for whatever recorder is installed;
    /// the program also before each answer.
    pub fn record_gauges(&self) {
        if *lock(&self.0.phase) != Phase::Ended {
            self.scope().enter(|| self.record_all());
        }
    }

    /// Says of all gauges that their values are no longer known: the worker has ended.
    pub(crate) fn clear_gauges(&self) {
        self.scope().enter(|| catalogue::ALL.iter().for_each(|metric| metric.clear()));
    }

    fn record_all(&self) {
        let now_ms = self.0.options.clock.now_ms();
        let mut recorded = lock(&self.0.recorded);
        {
            let shards = lock(&self.0.shards);
            self.record_lags(&shards, now_ms);
            self.record_shards(&shards, &mut recorded);
        }
        if let Some(fleet) = &*lock(&self.0.fleet) {
            record_fleet(fleet);
        }
        let app = lock(&self.0.app).clone();
        self.record_app(app.as_ref(), now_ms, &mut recorded);
        self.record_worker();
    }

    /// The number of shards that this worker reads.
    pub fn shards(&self) -> usize {
        lock(&self.0.shards).len()
    }

    /// The lag of each shard that this worker reads, as far as it is known: `shardkeeper_shard_lag_seconds`.
    ///
    /// These are no gauges: shards come and go every few hours, and a recorder would keep showing the last value of
    /// one that is finished or another worker's.
    pub fn shard_lags(&self) -> Vec<(ShardId, Duration)> {
        let now_ms = self.0.options.clock.now_ms();
        let shards = lock(&self.0.shards);
        let lag = |status: &ConsumerStatus| {
            let since = status.waiting_since_ms(Stage::Processed, self.0.options.idle_poll)?;
            Some(Duration::from_millis(now_ms.saturating_sub(since)))
        };
        shards.iter().filter_map(|(shard, status)| Some((shard.clone(), lag(status)?))).collect()
    }

    fn record_lags(&self, shards: &Shards, now_ms: u64) {
        let stages = [
            (&catalogue::FETCH_LAG, Stage::Fetched),
            (&catalogue::LAG, Stage::Processed),
            (&catalogue::CHECKPOINT_LAG, Stage::Checkpointed),
        ];
        for (metric, stage) in stages {
            let since = shards.values().filter_map(|status| status.waiting_since_ms(stage, self.0.options.idle_poll));
            let mut lags: Vec<u64> = since.map(|since| now_ms.saturating_sub(since)).collect();
            lags.sort_unstable();
            let at = |share: usize| lags.get(lags.len().saturating_sub(1) * share / 100).copied().unwrap_or_default();
            for (stat, share) in catalogue::STAT.values.iter().zip([100, 50, 99]) {
                metric.set([*stat], seconds(at(share)));
            }
        }
    }

    fn record_shards(&self, shards: &Shards, recorded: &mut RecordedGauges) {
        let in_flight: u64 = shards.values().map(|status| status.lag(crate::model::lag::Lag::in_flight)).sum();
        catalogue::IN_FLIGHT_RECORDS.set([], count(in_flight));
        let mut stuck = StallCause::ALL.map(|cause| (cause, 0));
        for (trouble, _) in shards.values().filter_map(|status| status.stall(self.0.options.unready_after)) {
            stuck.iter_mut().filter(|(cause, _)| *cause == trouble).for_each(|(_, count)| *count += 1);
        }
        for (cause, number) in stuck {
            catalogue::SHARDS_STUCK.set([cause.word()], count(number));
        }
        let halted = shards.values().filter(|status| status.is_halted() && !status.is_processor_unavailable()).count();
        catalogue::SHARDS_HALTED.set([], count(halted as u64));
        let progress = shards.values().map(|status| status.progress_ms()).max();
        if let Some(progress_ms) = progress.filter(|progress_ms| *progress_ms > 0) {
            catalogue::LAST_PROGRESS.set([], seconds(progress_ms));
        }
        record_waits(shards, recorded);
    }

    fn record_app(&self, app: Option<&AppFigures>, now_ms: u64, recorded: &mut RecordedGauges) {
        let Some(app) = app else {
            if std::mem::take(&mut recorded.has_app) {
                clear_app();
            }
            return;
        };
        recorded.has_app = true;
        let [unprocessed_ms, unsaved_ms] = app_lag_ms(app, now_ms);
        catalogue::GROUP_LAG.set([], seconds(unprocessed_ms));
        let headroom_ms = RETENTION_MS.saturating_sub(unsaved_ms);
        catalogue::TRIM_HEADROOM.set([], seconds(headroom_ms));
        for state in ShardState::ALL {
            let number = app.shards.get(&state).copied().unwrap_or_default();
            catalogue::GROUP_SHARDS.set([state.word()], count(number as u64));
        }
        catalogue::DESIRED_WORKERS.set([], count(app.desired_workers as u64));
        catalogue::DISCOVERY_AGE.set([], app.listed.elapsed().as_secs_f64());
    }

    fn record_worker(&self) {
        let options = &self.0.options;
        if let Some(budget) = self.0.budget.get() {
            catalogue::BUFFERED.set([], count(budget.held_bytes()));
            catalogue::BUFFER_LIMIT.set([], count(budget.limit_bytes()));
        }
        catalogue::LEASE_DURATION.set([], options.lease_duration.as_secs_f64());
        if let Some(age) = self.heartbeat_age() {
            catalogue::HEARTBEAT_AGE.set([], age.as_secs_f64());
        }
        for which in Loop::ALL {
            if let Some((age, _)) = self.loop_age(which) {
                catalogue::LOOP_AGE.set([which.word()], age.as_secs_f64());
            }
        }
        catalogue::READY.set([], f64::from(u8::from(self.health().is_ready())));
        catalogue::START_TIME.set([], seconds(self.0.started_ms));
        catalogue::BUILD_INFO.set([env!("CARGO_PKG_VERSION")], 1.0);
    }
}

/// The application's lag by its leader's figures: to the oldest change that is not processed, and that is not
/// checkpointed.
pub(super) fn app_lag_ms(app: &AppFigures, now_ms: u64) -> [u64; 2] {
    // A leader that hangs knows of nothing that came since its last figures.
    let blind_ms = app.measured.elapsed().saturating_sub(FIGURES_SLACK).as_millis();
    let blind_ms = u64::try_from(blind_ms).unwrap_or(u64::MAX);
    let since = [app.lag_since.unprocessed_ms, app.lag_since.unsaved_ms];
    since.map(|since| since.map_or(0, |since| now_ms.saturating_sub(since)).max(blind_ms))
}

fn record_waits(shards: &Shards, recorded: &mut RecordedGauges) {
    for (key, status) in shards {
        let waited = status.waited();
        let before = recorded.waited.insert(key.clone(), waited).unwrap_or_default();
        recorded.uncounted += waited.saturating_sub(before);
    }
    recorded.waited.retain(|key, _| shards.contains_key(key));
    catalogue::BACKPRESSURE.add([], recorded.uncounted.as_secs());
    recorded.uncounted = Duration::from_nanos(recorded.uncounted.subsec_nanos().into());
}

fn record_fleet(fleet: &Fleet) {
    let flag = |is_so: bool| f64::from(u8::from(is_so));
    let (view, record) = (fleet.view.borrow(), fleet.record.borrow());
    let leases: u64 = view.live().map(|seen| seen.member.record.leases).sum();
    catalogue::LEASES_HELD.set([], count(record.leases));
    catalogue::FAIR_SHARE.set([], count(leases) / count(view.staying().count().max(1) as u64));
    catalogue::WORKERS_ALIVE.set([], count(view.live().count() as u64));
    catalogue::IS_LEADER.set([], flag(view.leader() == Some(&fleet.me)));
    catalogue::OVERLOADED.set([], flag(record.overloaded));
    let idle = IdlePolls::new(record.idle_polls_per_hour);
    catalogue::IDLE_POLLS.set([], count(idle.per_hour) / 3600.0);
    catalogue::IDLE_POLLS_COST.set([], idle.dollars_per_month);
}

/// Clears the gauges of a leader, which this worker no longer is.
fn clear_app() {
    for metric in
        [&catalogue::GROUP_LAG, &catalogue::TRIM_HEADROOM, &catalogue::DESIRED_WORKERS, &catalogue::DISCOVERY_AGE]
    {
        metric.set([], f64::NAN);
    }
    for state in ShardState::ALL {
        catalogue::GROUP_SHARDS.set([state.word()], f64::NAN);
    }
}

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "numbers of things, far below 2^53")]
fn count(number: u64) -> f64 {
    number as f64
}
