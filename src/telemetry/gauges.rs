//! The board as metrics: every gauge is set from what is known at the moment of looking.
//!
//! A gauge whose value is no longer known becomes NaN, which the program's `/metrics` leaves out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{FleetFigures, Group, Loop, WorkerTelemetry, lock};
use crate::consumer::{ConsumerStatus, StallCause};
use crate::model::app_lag::RETENTION_MS;
use crate::model::fleet_state::ShardState;
use crate::model::lag::Stage;
use crate::model::lease::ShardId;
use crate::telemetry::catalogue;

type Shards = BTreeMap<ShardId, Arc<ConsumerStatus>>;

/// How old a leader's look at the application may be before the lag grows by the rest.
const LOOK_SLACK: Duration = Duration::from_secs(5);

/// What is remembered from one drawing to the next.
#[derive(Debug, Default)]
pub(crate) struct RecordedGauges {
    /// How long the readers of each shard had waited in all.
    waited: BTreeMap<ShardId, Duration>,
    /// What of a second of waiting was not yet counted.
    uncounted: Duration,
    /// Whether the application's figures were shown.
    has_group: bool,
}

impl WorkerTelemetry {
    /// Sets all gauges to what they are now. The worker does so each second, for whatever recorder is installed; the
    /// program besides before each answer.
    pub fn draw(&self) {
        let now_ms = self.0.options.clock.now_ms();
        let mut drawn = lock(&self.0.drawn);
        {
            let shards = lock(&self.0.shards);
            self.draw_lags(&shards, now_ms);
            self.draw_shards(&shards, &mut drawn);
        }
        draw_fleet(*lock(&self.0.fleet));
        let group = lock(&self.0.group).clone();
        self.draw_group(group.as_ref(), now_ms, &mut drawn);
        self.draw_worker();
    }

    /// The lag of each shard that this worker reads, as far as it is known: [`catalogue::SHARD_LAG`].
    ///
    /// These are no gauges: shards come and go every few hours, and a recorder would go on showing the last value of
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

    fn draw_lags(&self, shards: &Shards, now_ms: u64) {
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

    fn draw_shards(&self, shards: &Shards, drawn: &mut RecordedGauges) {
        let in_flight: u64 = shards.values().map(|status| status.lag(crate::model::lag::Lag::in_flight)).sum();
        catalogue::IN_FLIGHT_RECORDS.set([], count(in_flight));
        let mut stuck = [(StallCause::Processor, 0), (StallCause::Retrying, 0), (StallCause::Reading, 0)];
        for (trouble, _) in shards.values().filter_map(|status| status.stall(self.0.options.unready_after)) {
            stuck.iter_mut().filter(|(cause, _)| *cause == trouble).for_each(|(_, count)| *count += 1);
        }
        for (cause, number) in stuck {
            catalogue::SHARDS_STUCK.set([cause.word()], count(number));
        }
        let halted = shards.values().filter(|status| status.is_halted()).count();
        catalogue::SHARDS_HALTED.set([], count(halted as u64));
        let progress = shards.values().map(|status| status.progress_ms()).max();
        if let Some(progress_ms) = progress.filter(|progress_ms| *progress_ms > 0) {
            catalogue::LAST_PROGRESS.set([], seconds(progress_ms));
        }
        draw_waits(shards, drawn);
    }

    fn draw_group(&self, group: Option<&Group>, now_ms: u64, drawn: &mut RecordedGauges) {
        let Some(group) = group else {
            if std::mem::take(&mut drawn.has_group) {
                draw_no_group();
            }
            return;
        };
        drawn.has_group = true;
        // A leader that looks no more knows of nothing that came since.
        let blind_ms = group.looked.elapsed().saturating_sub(LOOK_SLACK).as_millis();
        let blind_ms = u64::try_from(blind_ms).unwrap_or(u64::MAX);
        let lag_ms = |since: Option<u64>| since.map_or(0, |since| now_ms.saturating_sub(since)).max(blind_ms);
        catalogue::GROUP_LAG.set([], seconds(lag_ms(group.since.unprocessed_ms)));
        let headroom_ms = RETENTION_MS.saturating_sub(lag_ms(group.since.unsaved_ms));
        catalogue::TRIM_HEADROOM.set([], seconds(headroom_ms));
        for state in ShardState::ALL {
            let number = group.shards.get(&state).copied().unwrap_or_default();
            catalogue::GROUP_SHARDS.set([state.word()], count(number as u64));
        }
        catalogue::DESIRED_WORKERS.set([], count(group.desired_workers as u64));
        if let Some(listed) = group.listed {
            catalogue::DISCOVERY_AGE.set([], listed.elapsed().as_secs_f64());
        }
    }

    fn draw_worker(&self) {
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

fn draw_waits(shards: &Shards, drawn: &mut RecordedGauges) {
    for (key, status) in shards {
        let waited = status.waited();
        let before = drawn.waited.insert(key.clone(), waited).unwrap_or_default();
        drawn.uncounted += waited.saturating_sub(before);
    }
    drawn.waited.retain(|key, _| shards.contains_key(key));
    catalogue::BACKPRESSURE.add([], drawn.uncounted.as_secs());
    drawn.uncounted = Duration::from_nanos(drawn.uncounted.subsec_nanos().into());
}

fn draw_fleet(figures: FleetFigures) {
    let flag = |is_so: bool| f64::from(u8::from(is_so));
    catalogue::LEASES_HELD.set([], count(figures.leases_held as u64));
    catalogue::FAIR_SHARE.set([], figures.fair_share);
    catalogue::WORKERS_ALIVE.set([], count(figures.workers_alive as u64));
    catalogue::IS_LEADER.set([], flag(figures.is_leader));
    catalogue::OVERLOADED.set([], flag(figures.is_overloaded));
}

/// What only a leader knows, and this worker is none any more.
fn draw_no_group() {
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
