//! Whether a worker gets on: judged by what it does, not by what it says.

use std::time::Duration;

use super::{Loop, Phase, WorkerTelemetry, lock};

/// How long a loop of the coordination may take to come round. Its calls are cut off at half a lease duration, and it
/// makes several one after the other.
const LOOP_LIMIT: Duration = Duration::from_secs(4);
/// How long all calls on a table may go wrong.
const TABLE_LIMIT: Duration = Duration::from_secs(2);
/// How long ago the lease table may have answered before it is asked.
const PROBE_AFTER: Duration = Duration::from_millis(1_500);
/// How long an answer to that is waited for.
const PROBE_WAIT: Duration = Duration::from_millis(1_500);
/// A loop that has not come round for this long will not by itself.
pub const LONGEST_LOOP: Duration = Duration::from_secs(300);
/// The most shards that are named one by one.
const MOST_NAMED: usize = 10;

/// How a worker is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// What keeps it from being ready, a sentence each.
    pub complaints: Vec<String>,
    /// What it will not recover from by itself, a sentence each.
    pub hopeless: Vec<String>,
}

impl Health {
    /// Whether it gets on.
    pub fn is_ready(&self) -> bool {
        self.complaints.is_empty()
    }

    /// Whether it gets on or may yet.
    pub fn is_live(&self) -> bool {
        self.hopeless.is_empty()
    }
}

impl WorkerTelemetry {
    /// How the worker is, as far as is known without asking anybody.
    pub fn health(&self) -> Health {
        let mut complaints = Vec::new();
        match *lock(&self.0.phase) {
            Phase::Starting => complaints.push("it is starting: the tables and the stream are looked for".to_owned()),
            Phase::Leaving => complaints.push("it is leaving: its leases go to others".to_owned()),
            Phase::Working => {
                self.judge_heartbeat(&mut complaints);
                self.judge_loops(&mut complaints);
                self.judge_tables(&mut complaints);
                self.judge_shards(&mut complaints);
            }
        }
        let stuck_loop = |which: &Loop| self.loop_age(*which).is_some_and(|(_, overdue)| overdue >= LONGEST_LOOP);
        let hopeless = Loop::ALL.into_iter().filter(stuck_loop);
        let hopeless = hopeless.map(|which| format!("the {} loop hangs", which.word())).collect();
        Health { complaints, hopeless }
    }

    /// How the worker is; a lease table that nobody has called for a while is called first. Takes up to some 1.5 s.
    pub async fn examine(&self) -> Health {
        let answers = &self.0.lease_table;
        let is_silent = || answers.silent_for().is_none_or(|silent| silent >= PROBE_AFTER);
        let was_failing = answers.failing_for().is_some();
        if is_silent() && *lock(&self.0.phase) == Phase::Working {
            self.0.probe.notify_one();
            let answered = async {
                while is_silent() && (was_failing || answers.failing_for().is_none()) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            let _ = tokio::time::timeout(PROBE_WAIT, answered).await;
        }
        self.health()
    }

    fn judge_heartbeat(&self, complaints: &mut Vec<String>) {
        let lease_duration = self.0.options.lease_duration;
        match self.heartbeat_age() {
            None => complaints.push("it has not proved itself alive in the fleet table yet".to_owned()),
            Some(age) if age >= lease_duration.mul_f64(0.6) => complaints.push(format!(
                "its last heartbeat in the fleet table is {:.1} s old; at {:.1} s its leases go to others",
                age.as_secs_f64(),
                lease_duration.as_secs_f64()
            )),
            Some(_) => {}
        }
    }

    fn judge_loops(&self, complaints: &mut Vec<String>) {
        let limit = LOOP_LIMIT.max(self.0.options.lease_duration.mul_f64(0.8));
        for which in Loop::ALL {
            if let Some((age, _)) = self.loop_age(which).filter(|(_, overdue)| *overdue >= limit) {
                let (word, age) = (which.word(), age.as_secs_f64());
                complaints.push(format!("the {word} loop has not come round for {age:.1} s"));
            }
        }
    }

    fn judge_tables(&self, complaints: &mut Vec<String>) {
        for (name, answers) in [("lease", &self.0.lease_table), ("fleet", &self.0.fleet_table)] {
            if let Some((lasts, reason)) = answers.failing_for().filter(|(lasts, _)| *lasts >= TABLE_LIMIT) {
                let lasts = lasts.as_secs_f64();
                complaints.push(format!("every call on the {name} table has failed for {lasts:.1} s: {reason}"));
            }
        }
    }

    fn judge_shards(&self, complaints: &mut Vec<String>) {
        let stuck = self.stuck_shards();
        complaints.extend(stuck.iter().take(MOST_NAMED).cloned());
        if stuck.len() > MOST_NAMED {
            complaints.push(format!("and {} shards more", stuck.len() - MOST_NAMED));
        }
    }

    fn stuck_shards(&self) -> Vec<String> {
        let limit = self.0.options.unready_after;
        let shards = lock(&self.0.shards);
        let stuck = shards.iter().filter_map(|(shard, status)| Some((shard, status.stall(limit)?)));
        stuck
            .map(|(shard, (trouble, lasts))| {
                let lasts = lasts.as_secs_f64();
                format!("shard {shard} has stood still for {lasts:.1} s: {}", trouble.words())
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::{Instant, advance};

    use super::*;
    use crate::consumer::{ConsumerStatus, Counters, LeaseDeadline};
    use crate::model::checkpoint::Checkpoint;
    use crate::model::lease::Lease;
    use crate::options::{StreamSelector, WorkerOptions};

    const LEASE_DURATION: Duration = Duration::from_secs(5);

    fn board() -> (WorkerTelemetry, LeaseDeadline) {
        let mut options = WorkerOptions::new("app", StreamSelector::Table("Things".into()), "worker");
        options.lease_duration = LEASE_DURATION;
        let alive = LeaseDeadline::new();
        (WorkerTelemetry::new(Arc::new(options), alive.clone(), Counters::default()), alive)
    }

    fn beat_all(board: &WorkerTelemetry) {
        Loop::ALL.into_iter().for_each(|which| board.beat(which, Instant::now()));
    }

    /// Everything goes well for so many seconds.
    async fn work(board: &WorkerTelemetry, alive: &LeaseDeadline, seconds: u32) {
        for _ in 0..seconds {
            alive.extend_to(Instant::now() + LEASE_DURATION);
            beat_all(board);
            board.lease_table().good();
            advance(Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_is_ready_while_it_works_and_not_while_it_comes_or_goes() {
        let (board, alive) = board();
        assert!(board.health().complaints[0].starts_with("it is starting"));
        board.set_working();
        assert!(board.health().complaints[0].contains("not proved itself alive"));
        work(&board, &alive, 3).await;
        assert_eq!(board.health(), Health::default());
        board.set_leaving();
        assert!(board.health().complaints[0].starts_with("it is leaving"));
        assert!(board.health().is_live());
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_hangs_shows_within_five_seconds_and_is_given_up_on_much_later() {
        let (board, alive) = board();
        board.set_working();
        work(&board, &alive, 2).await;
        for second in 2..400 {
            alive.extend_to(Instant::now() + LEASE_DURATION);
            board.beat(Loop::Heartbeat, Instant::now());
            board.beat(Loop::Leader, Instant::now());
            advance(Duration::from_secs(1)).await;
            let health = board.health();
            assert_eq!(health.is_ready(), second < 4, "{second} {health:?}");
            assert_eq!(health.is_live(), second < 300, "{second} {health:?}");
        }
        board.beat(Loop::LeaseManager, Instant::now());
        assert_eq!(board.health(), Health::default());
    }

    #[tokio::test(start_paused = true)]
    async fn heartbeats_that_do_not_arrive_show_before_the_leases_are_gone() {
        let (board, alive) = board();
        board.set_working();
        work(&board, &alive, 2).await;
        for _ in 0..3 {
            beat_all(&board);
            advance(Duration::from_secs(1)).await;
        }
        assert!(alive.is_held(alive.epoch()));
        assert!(board.health().complaints[0].contains("last heartbeat"), "{:?}", board.health());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_table_that_fails_shows_until_it_answers() {
        let (board, alive) = board();
        board.set_working();
        work(&board, &alive, 1).await;
        board.lease_table().failed("no_answer");
        assert!(board.health().is_ready(), "one call may fail");
        advance(TABLE_LIMIT).await;
        assert!(board.health().complaints[0].ends_with("no_answer"), "{:?}", board.health());
        board.lease_table().good();
        assert!(board.health().is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_table_that_was_not_called_for_a_while_is_called_when_somebody_asks() {
        let (board, alive) = board();
        board.set_working();
        work(&board, &alive, 2).await;
        let asked = board.clone();
        let keeper = tokio::spawn(async move {
            asked.probe_wanted().await;
            asked.lease_table().failed("refused");
        });
        advance(PROBE_AFTER).await;
        beat_all(&board);
        board.examine().await;
        keeper.await.expect("it was asked");
        assert!(board.lease_table().failing_for().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_shard_that_stands_still_is_named() {
        let (board, alive) = board();
        board.set_working();
        let row = Lease::new("shardId-1".into(), Default::default(), Checkpoint::TrimHorizon);
        let status = Arc::new(ConsumerStatus::of(&row, 0, 0));
        board.begin(row.key.clone(), Arc::clone(&status));
        let call = status.calls.start();
        work(&board, &alive, 61).await;
        assert!(board.health().complaints[0].starts_with("shard shardId-1 has stood still for 61"));
        drop(call);
        assert!(board.health().is_ready());
    }
}
