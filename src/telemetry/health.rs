//! A worker's health, by its deeds: heartbeats that arrive, loops that come round, tables that answer, shards that move.

use std::time::Duration;

use super::{Loop, Phase, WorkerTelemetry, lock};
use crate::model::blocked_record::StallCause;
use crate::model::lease::ShardId;

/// The time that a loop of the coordination may take to come round. Its calls are cut off at half a lease duration, and
/// it makes several one after the other.
const LOOP_LIMIT: Duration = Duration::from_secs(4);
/// The time for which all calls on a table may fail.
const TABLE_LIMIT: Duration = Duration::from_secs(2);
/// The age of the lease table's last answer from which it is called.
const PROBE_AFTER: Duration = Duration::from_millis(1_500);
/// The time that it has to answer.
const PROBE_WAIT: Duration = Duration::from_millis(1_500);
/// A loop that is overdue by this will not recover by itself.
const LONGEST_LOOP: Duration = Duration::from_secs(300);
/// The most shards that are named one by one.
const MOST_NAMED: usize = 10;

/// A worker's health.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Reasons why it is not ready, a sentence each.
    pub not_ready_reasons: Vec<String>,
    /// Reasons why it will not recover by itself, a sentence each.
    pub not_live_reasons: Vec<String>,
}

impl Health {
    /// Whether it works.
    pub fn is_ready(&self) -> bool {
        self.not_ready_reasons.is_empty()
    }

    /// Whether it works or may yet recover.
    pub fn is_live(&self) -> bool {
        self.not_live_reasons.is_empty()
    }
}

impl WorkerTelemetry {
    /// The worker's health, as far as is known without a call.
    pub fn health(&self) -> Health {
        let mut not_ready_reasons = Vec::new();
        match *lock(&self.0.phase) {
            Phase::Starting => {
                not_ready_reasons.push("it is starting: the tables and the stream are looked for".to_owned())
            }
            Phase::Leaving => not_ready_reasons.push("it is leaving: its leases go to others".to_owned()),
            Phase::Ended => not_ready_reasons.push("it has ended".to_owned()),
            Phase::Working => {
                self.check_heartbeat(&mut not_ready_reasons);
                self.check_loops(&mut not_ready_reasons);
                self.check_tables(&mut not_ready_reasons);
                self.check_shards(&mut not_ready_reasons);
            }
        }
        let not_live_reasons = self.overdue_loops(LONGEST_LOOP);
        let not_live_reasons =
            not_live_reasons.into_iter().map(|which| format!("the {} loop hangs", which.word())).collect();
        Health { not_ready_reasons, not_live_reasons }
    }

    /// Whether no loop of the coordination is overdue by `limit`. Before the first round there is none.
    pub fn loops_come_round(&self, limit: Duration) -> bool {
        self.overdue_loops(limit).is_empty()
    }

    fn overdue_loops(&self, limit: Duration) -> Vec<Loop> {
        let is_overdue = |which: &Loop| self.loop_age(*which).is_some_and(|(_, overdue)| overdue >= limit);
        Loop::ALL.into_iter().filter(is_overdue).collect()
    }

    /// The worker's health; calls the lease table first, if no one has for a while. Takes up to some 1.5 s.
    pub async fn probe(&self) -> Health {
        let answers = &self.0.lease_table;
        let is_due = || answers.silent_for().is_none_or(|silent| silent >= PROBE_AFTER);
        if let Some(table) = self.0.probe.get()
            && *lock(&self.0.phase) == Phase::Working
        {
            let probe = async {
                let table = table.lock().await;
                if is_due() {
                    // The outcome is noted by the table's client.
                    let _ = table.read(&ShardId::from("-")).await;
                }
            };
            let _ = tokio::time::timeout(PROBE_WAIT, probe).await;
        }
        self.health()
    }

    fn check_heartbeat(&self, not_ready_reasons: &mut Vec<String>) {
        let lease_duration = self.0.options.lease_duration;
        match self.heartbeat_age() {
            None => not_ready_reasons.push("it has not proved itself alive in the fleet table yet".to_owned()),
            Some(age) => not_ready_reasons.extend(late_heartbeat(age, lease_duration)),
        }
    }

    fn check_loops(&self, not_ready_reasons: &mut Vec<String>) {
        let limit = LOOP_LIMIT.max(self.0.options.lease_duration.mul_f64(0.8));
        for which in Loop::ALL {
            if let Some((age, _)) = self.loop_age(which).filter(|(_, overdue)| *overdue >= limit) {
                let (word, age) = (which.word(), age.as_secs_f64());
                not_ready_reasons.push(format!("the {word} loop has not come round for {age:.1} s"));
            }
        }
    }

    fn check_tables(&self, not_ready_reasons: &mut Vec<String>) {
        for (name, answers) in [("lease", &self.0.lease_table), ("fleet", &self.0.fleet_table)] {
            if let Some((lasts, reason)) = answers.failing_for().filter(|(lasts, _)| *lasts >= TABLE_LIMIT) {
                let lasts = lasts.as_secs_f64();
                not_ready_reasons.push(format!("every call on the {name} table has failed for {lasts:.1} s: {reason}"));
            }
        }
    }

    fn check_shards(&self, not_ready_reasons: &mut Vec<String>) {
        let stuck = self.stuck_shards();
        not_ready_reasons.extend(stuck.iter().take(MOST_NAMED).cloned());
        if stuck.len() > MOST_NAMED {
            not_ready_reasons.push(format!("and {} more shards", stuck.len() - MOST_NAMED));
        }
    }

    fn stuck_shards(&self) -> Vec<String> {
        let limit = self.0.options.unready_after;
        let shards = lock(&self.0.shards);
        let stuck = shards.iter().filter_map(|(shard, status)| Some((shard, status, status.stall(limit)?)));
        stuck
            .map(|(shard, status, (trouble, lasts))| {
                let lasts = lasts.as_secs_f64();
                let record = status.long_call(limit).filter(|_| trouble == StallCause::Processor);
                let record = record.and_then(|call| Some((call.sequence_number?, call.attempts)));
                let record = record.map(|(position, attempts)| format!(" (record {position}, attempt {attempts})"));
                let error = status.last_error(trouble).map(|error| format!(": {error}")).unwrap_or_default();
                let (trouble, record) = (trouble.words(), record.unwrap_or_default());
                format!("shard {shard} has made no progress for {lasts:.1} s: {trouble}{record}{error}")
            })
            .collect()
    }
}

/// The reason for which a heartbeat of this age makes a worker unready, if it is late.
fn late_heartbeat(age: Duration, lease_duration: Duration) -> Option<String> {
    let (age_s, limit_s) = (age.as_secs_f64(), lease_duration.as_secs_f64());
    if age >= lease_duration {
        Some(format!("its last heartbeat in the fleet table is {age_s:.1} s old: its leases ran out at {limit_s:.1} s"))
    } else if age >= lease_duration.mul_f64(0.6) {
        Some(format!(
            "its last heartbeat in the fleet table is {age_s:.1} s old; at {limit_s:.1} s its leases go to others"
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::{Instant, advance};

    use super::*;
    use crate::consumer::{ConsumerStatus, Counters, LeaseDeadline};
    use crate::model::blocked_record::RunningCall;
    use crate::model::checkpoint::Checkpoint;
    use crate::model::lease::Lease;
    use crate::options::{StreamSelector, WorkerOptions};

    const LEASE_DURATION: Duration = Duration::from_secs(5);

    fn telemetry() -> (WorkerTelemetry, LeaseDeadline) {
        let mut options = WorkerOptions::new("app", StreamSelector::Table("Things".into()), "worker");
        options.lease_duration = LEASE_DURATION;
        let alive = LeaseDeadline::new(options.clock);
        (WorkerTelemetry::new(Arc::new(options), alive.clone(), Counters::default()), alive)
    }

    fn tick_all(telemetry: &WorkerTelemetry) {
        Loop::ALL.into_iter().for_each(|which| telemetry.loop_tick(which, Instant::now()));
    }

    /// Lets everything go well for so many seconds.
    async fn work(telemetry: &WorkerTelemetry, alive: &LeaseDeadline, seconds: u32) {
        for _ in 0..seconds {
            alive.extend_to(alive.now() + LEASE_DURATION);
            tick_all(telemetry);
            telemetry.lease_table().good();
            advance(Duration::from_secs(1)).await;
        }
    }

    #[test]
    fn a_late_heartbeat_says_whether_the_leases_are_lost_already() {
        let reason = |age_ms| late_heartbeat(Duration::from_millis(age_ms), LEASE_DURATION);
        assert_eq!(reason(2_900), None);
        assert!(reason(3_000).is_some_and(|reason| reason.ends_with("3.0 s old; at 5.0 s its leases go to others")));
        assert!(reason(27_200).is_some_and(|reason| reason.ends_with("27.2 s old: its leases ran out at 5.0 s")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_is_ready_while_it_works_and_not_while_it_comes_or_goes() {
        let (telemetry, alive) = telemetry();
        assert!(telemetry.health().not_ready_reasons[0].starts_with("it is starting"));
        telemetry.set_working();
        assert!(telemetry.health().not_ready_reasons[0].contains("not proved itself alive"));
        work(&telemetry, &alive, 3).await;
        assert_eq!(telemetry.health(), Health::default());
        telemetry.set_leaving();
        assert!(telemetry.health().not_ready_reasons[0].starts_with("it is leaving"));
        assert!(telemetry.health().is_live());
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_hangs_is_not_ready_within_five_seconds_and_not_live_much_later() {
        let (telemetry, alive) = telemetry();
        telemetry.set_working();
        work(&telemetry, &alive, 2).await;
        for second in 2..400 {
            alive.extend_to(alive.now() + LEASE_DURATION);
            telemetry.loop_tick(Loop::Heartbeat, Instant::now());
            telemetry.loop_tick(Loop::Leader, Instant::now());
            advance(Duration::from_secs(1)).await;
            let health = telemetry.health();
            assert_eq!(health.is_ready(), second < 4, "{second} {health:?}");
            assert_eq!(health.is_live(), second < 300, "{second} {health:?}");
        }
        telemetry.loop_tick(Loop::LeaseManager, Instant::now());
        assert_eq!(telemetry.health(), Health::default());
    }

    #[tokio::test(start_paused = true)]
    async fn heartbeats_that_do_not_arrive_show_before_the_leases_are_gone() {
        let (telemetry, alive) = telemetry();
        telemetry.set_working();
        work(&telemetry, &alive, 2).await;
        for _ in 0..3 {
            tick_all(&telemetry);
            advance(Duration::from_secs(1)).await;
        }
        assert!(alive.is_held(alive.epoch()));
        assert!(telemetry.health().not_ready_reasons[0].contains("last heartbeat"), "{:?}", telemetry.health());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_table_that_fails_shows_until_it_answers() {
        let (telemetry, alive) = telemetry();
        telemetry.set_working();
        work(&telemetry, &alive, 1).await;
        telemetry.lease_table().failed("no_answer");
        assert!(telemetry.health().is_ready(), "one call may fail");
        advance(TABLE_LIMIT).await;
        assert!(telemetry.health().not_ready_reasons[0].ends_with("no_answer"), "{:?}", telemetry.health());
        telemetry.lease_table().good();
        assert!(telemetry.health().is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_shard_is_named() {
        let (telemetry, alive) = telemetry();
        telemetry.set_working();
        let row = Lease::new("shardId-1".into(), Default::default(), Checkpoint::TrimHorizon);
        let status = Arc::new(ConsumerStatus::of(&row, 0, 0));
        telemetry.begin(row.key.clone(), Arc::clone(&status));
        let call = status.calls.start(RunningCall::without_records(0));
        work(&telemetry, &alive, 61).await;
        assert!(telemetry.health().not_ready_reasons[0].starts_with("shard shardId-1 has made no progress for 61"));
        drop(call);
        assert!(telemetry.health().is_ready());
    }
}
