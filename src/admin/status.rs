//! The status of a fleet from its tables, in words for people and fields for programs.
//!
//! Pure: rows, the fleet as observed and a listing of the stream's shards in; a [`FleetStatus`] out, whose JSON form is
//! stable: fields may be added, none changes its meaning. Names are snake_case, times and lengths of time are in
//! milliseconds, and what isn't known is `null`.

mod builder;
mod changes;
mod kcl;
mod verdict;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use self::builder::StatusBuilder;
pub use self::changes::changes;
pub use self::kcl::{KclDeparture, KclInputs, KclWorkerStatus, foreign_leases};
pub use self::verdict::{Severity, Trouble, Verdict};
use crate::aws::calls::IdlePolls;
use crate::aws::lease_table::BadRow;
use crate::model::app_lag::RETENTION_MS;
use crate::model::blocked_record::{BlockedRecord, RunningCall, Stall};
use crate::model::fleet_state::{ShardState, WorkerState};
use crate::model::fleet_view::FleetView;
use crate::model::lease::Lease;
use crate::model::shard_directory::Listing;
use crate::model::worker_record::WorkerEnd;

/// An outsider's knowledge of a fleet.
#[derive(Clone, Copy, Debug)]
pub struct StatusInputs<'a> {
    /// The application.
    pub app: &'a str,
    /// All rows of the lease table.
    pub rows: &'a [Result<Lease, BadRow>],
    /// The fleet table, as observed.
    pub view: &'a FleetView,
    /// The lives of lease owners outside the fleet table.
    pub kcl: &'a KclInputs,
    /// The stream that was listed; without one, shards are known by their leases alone.
    pub stream_arn: Option<&'a str>,
    /// The stream's shards; none when they could not be listed.
    pub listing: Option<&'a Listing>,
    /// The fleet's lease duration.
    pub lease_duration: Duration,
    /// The time of day (ms since the epoch), for lag alone.
    pub now_ms: u64,
}

/// A fleet at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FleetStatus {
    /// The application.
    pub app: String,
    /// The stream.
    pub stream: StreamStatus,
    /// The leader; none when nobody has led yet or the last one has left.
    pub leader: Option<LeaderStatus>,
    /// Counts.
    pub totals: Totals,
    /// The workers, by id.
    pub workers: Vec<WorkerStatus>,
    /// The shards that have a lease or should have one, by id.
    pub shards: Vec<ShardStatus>,
    /// The greatest lag that the application can have, over all unfinished shards, with or without a reader.
    pub lag_at_most_ms: Option<u64>,
    /// The time for which no undelivered record is trimmed.
    pub trim_headroom_at_least_ms: Option<u64>,
    /// The polls of shards without records by all live workers, and their cost.
    pub idle_polls: IdlePolls,
    /// The last ends of workers, oldest first.
    pub ends: Vec<WorkerEnd>,
    /// Workers of the Kinesis Client Library on the lease table, by id.
    pub kcl_workers: Vec<KclWorkerStatus>,
    /// The last time that this fleet left because of one.
    pub left_for_kcl: Option<KclDeparture>,
    /// Shards that wait, with the reasons; empty when everything that can be read is being read.
    pub waits: Vec<Wait>,
    /// Troubles of the fleet as a whole.
    pub remarks: Vec<String>,
    /// All that in a sentence, and what is wrong.
    pub verdict: Verdict,
}

/// The stream of an application.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StreamStatus {
    /// The stream that was listed.
    pub arn: Option<String>,
    /// The stream that the application is bound to.
    pub bound_arn: Option<String>,
    /// Whether it is switched off: nothing is added to it, and its records stay readable for a day.
    pub is_disabled: Option<bool>,
    /// Number of shards that it lists.
    pub listed_shards: Option<usize>,
    /// Number of these that are open.
    pub open_shards: Option<usize>,
}

/// The leader.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LeaderStatus {
    /// The worker.
    pub worker: String,
    /// Raised by each change of leader.
    pub term: u64,
    /// Whether that worker, as the same process, shows signs of life.
    pub is_alive: bool,
}

/// Counts by state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Workers; states that no worker is in are left out.
    pub workers: BTreeMap<WorkerState, usize>,
    /// Shards; states that no shard is in are left out.
    pub shards: BTreeMap<ShardState, usize>,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorkerStatus {
    /// Its id.
    pub id: String,
    /// State.
    pub state: WorkerState,
    /// Whether it leads.
    pub is_leader: bool,
    /// Its version.
    pub version: String,
    /// Number of unfinished shards that it owns, by the lease rows.
    pub shards: usize,
    /// The most it will hold.
    pub max_leases: Option<u64>,
    /// The sum of its shards' throughput (KiB a second) as far as the rows say.
    pub throughput_kbps: Option<f64>,
    /// Everything created before this moment (ms since the epoch) in its shards is delivered and checkpointed.
    pub caught_up_to_ms: Option<u64>,
    /// The time since then, by the clock of the reader.
    pub lag_ms: Option<u64>,
    /// The time of its last heartbeat, by its own clock (ms since the epoch).
    pub last_heartbeat_ms: Option<u64>,
    /// The time for which its heartbeat was seen unchanged, in this reading.
    pub heartbeat_still_ms: u64,
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShardStatus {
    /// Its id, which is its lease's key.
    pub id: String,
    /// State.
    pub state: ShardState,
    /// Its lease's owner; during a hand-off the new one.
    pub owner: Option<String>,
    /// The worker that reads it until the hand-off is done.
    pub handed_over_by: Option<String>,
    /// The checkpoint, in KCL's notation.
    pub checkpoint: Option<String>,
    /// The shards that it continues.
    pub parents: Vec<String>,
    /// The lease's counter.
    pub counter: Option<u64>,
    /// Its throughput (KiB a second), as far as the row says.
    pub throughput_kbps: Option<f64>,
    /// The greatest lag that it can have, by its owner's report on all its shards together.
    pub lag_at_most_ms: Option<u64>,
    /// The time for which none of its undelivered records is trimmed, by its owner's report on all its shards together.
    pub trim_headroom_at_least_ms: Option<u64>,
    /// The record that keeps failing and that it waits for, by its owner's report.
    pub halted: Option<BlockedRecord>,
    /// The processor call that has not returned for ten seconds or longer, by its owner's report.
    pub running_call: Option<RunningCall>,
    /// Another cause of its making no progress, by its owner's report.
    pub stall: Option<Stall>,
}

/// A shard that isn't being read, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wait {
    /// The shard.
    pub shard: String,
    /// Its state.
    pub state: ShardState,
    /// The shard it waits for.
    pub for_shard: Option<String>,
    /// The worker it waits for.
    pub for_worker: Option<String>,
    /// All that in a sentence.
    pub text: String,
}

impl FleetStatus {
    /// Makes the status from its inputs.
    pub fn new(inputs: &StatusInputs) -> Self {
        let builder = StatusBuilder::new(inputs);
        let workers = builder.workers();
        let (shards, waits) = builder.shards(&workers);
        let mut totals = Totals::default();
        workers.iter().for_each(|worker| *totals.workers.entry(worker.state).or_default() += 1);
        shards.iter().for_each(|shard| *totals.shards.entry(shard.state).or_default() += 1);
        let stream = builder.stream();
        let leader = builder.leader();
        let since = builder.lag_since();
        let age_ms = |moment: u64| inputs.now_ms.saturating_sub(moment);
        let trim_headroom_at_least_ms =
            since.and_then(|since| since.unsaved_ms).map(|moment| RETENTION_MS.saturating_sub(age_ms(moment)));
        let remarks = builder.remarks(&stream, leader.as_ref(), trim_headroom_at_least_ms);
        let mut status = Self {
            app: inputs.app.to_owned(),
            stream,
            leader,
            totals,
            workers,
            shards,
            lag_at_most_ms: since.and_then(|since| since.unprocessed_ms).map(age_ms),
            trim_headroom_at_least_ms,
            idle_polls: builder.idle_polls(),
            ends: inputs.view.ends.clone(),
            kcl_workers: builder.kcl_workers(),
            left_for_kcl: builder.left_for_kcl(),
            waits,
            remarks,
            verdict: Verdict::default(),
        };
        status.verdict = Verdict::of(&status);
        status
    }
}

/// A length of time in words, rounded down to one unit.
pub fn length(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..10 => format!("{}.{}s", seconds, ms % 1000 / 100),
        10..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        _ => format!("{}h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::blocked_record::StallCause;
    use crate::model::checkpoint::Checkpoint;
    use crate::model::lease::{ShardId, WorkerId};
    use crate::model::shard_graph::{Shard, ShardGraph};
    use crate::model::worker_record::{Hints, LeaderRecord, Member, ObservedWorker, WorkerRecord, digest};

    const LEASE_DURATION: Duration = Duration::from_secs(5);

    fn row(key: &str, owner: Option<&str>, checkpoint: &str, parents: &[&str]) -> Result<Lease, BadRow> {
        let parents = parents.iter().map(|id| ShardId::from(*id)).collect();
        let mut lease = Lease::new(key.into(), parents, Checkpoint::parse(checkpoint).unwrap());
        lease.owner = owner.map(WorkerId::from);
        Ok(lease)
    }

    fn worker(id: &str, still_ms: u64, owned: &[&str]) -> ObservedWorker {
        let keys: Vec<ShardId> = owned.iter().map(|key| ShardId::from(*key)).collect();
        let record = WorkerRecord {
            incarnation: "i".into(),
            version: "0.1.0".into(),
            caught_up_to_ms: Some(9_000),
            leases: keys.len() as u64,
            digest: digest(&keys),
            ..WorkerRecord::default()
        };
        let still_for = Duration::from_millis(still_ms);
        ObservedWorker {
            member: Member {
                id: id.into(),
                record,
                inbox: Hints::default(),
                challenger: None,
                placed: BTreeSet::new(),
            },
            is_alive: still_for < LEASE_DURATION,
            has_changed: still_ms < 1000,
            still_for,
        }
    }

    fn view(workers: Vec<ObservedWorker>, leader: &str) -> FleetView {
        let leadership = LeaderRecord {
            worker: Some(leader.into()),
            incarnation: "i".into(),
            term: 3,
            stream_arn: Some("arn".into()),
            started_at_ms: 0,
            initial_sync_done: true,
            kcl_alive: None,
        };
        FleetView { workers, leadership: Some(leadership), reads: 2, ..FleetView::default() }
    }

    fn status(rows: &[Result<Lease, BadRow>], view: &FleetView, listing: Option<&Listing>) -> FleetStatus {
        FleetStatus::new(&StatusInputs {
            app: "audit",
            rows,
            view,
            kcl: &KclInputs::default(),
            stream_arn: Some("arn"),
            listing,
            lease_duration: LEASE_DURATION,
            now_ms: 10_000,
        })
    }

    fn wait_of<'a>(status: &'a FleetStatus, shard: &str) -> &'a str {
        &status.waits.iter().find(|wait| wait.shard == shard).expect("the shard waits").text
    }

    fn state_of(status: &FleetStatus, shard: &str) -> ShardState {
        status.shards.iter().find(|status| status.id == shard).expect("a shard").state
    }

    #[test]
    fn a_healthy_fleet_waits_for_nothing_and_its_lag_is_its_workers() {
        let rows = [row("s1", Some("a"), "5", &["s0"]), row("s0", Some("b"), "SHARD_END", &[])];
        let fleet = view(vec![worker("a", 0, &["s1"]), worker("b", 100, &[])], "a");
        let status = status(&rows, &fleet, None);
        assert_eq!(status.waits, []);
        assert_eq!(status.remarks, [""; 0]);
        assert_eq!(status.totals.shards, [(ShardState::Reading, 1), (ShardState::Finished, 1)].into());
        let lags: Vec<_> = status.shards.iter().map(|shard| shard.lag_at_most_ms).collect();
        assert_eq!(lags, [None, Some(1_000)], "a finished shard has no lag");
        assert_eq!((status.workers[0].shards, status.workers[1].shards), (1, 0));
    }

    #[test]
    fn polls_of_idle_shards_are_summed_over_the_live_workers_and_priced() {
        let idle = |id: &str, still_ms| {
            let mut worker = worker(id, still_ms, &[]);
            worker.member.record.idle_polls_per_hour = 1_000_000;
            worker
        };
        let fleet = view(vec![idle("a", 0), idle("b", 100), idle("dead", 60_000)], "a");
        let IdlePolls { per_hour, dollars_per_month } = status(&[], &fleet, None).idle_polls;
        assert_eq!(per_hour, 2_000_000);
        assert!((dollars_per_month - 292.0).abs() < 1e-6, "{dollars_per_month}");
    }

    #[test]
    fn each_shard_that_is_not_read_says_what_it_waits_for() {
        let broken = BadRow { key: "bad".into(), reason: "attribute checkpoint is missing".into() };
        let mut moving = row("moving", Some("b"), "1", &[]).unwrap();
        moving.checkpoint_owner = Some("a".into());
        let rows = [
            row("parent", Some("a"), "1", &[]),
            row("child", Some("b"), "TRIM_HORIZON", &["parent"]),
            row("grandchild", None, "TRIM_HORIZON", &["child"]),
            row("free", None, "1", &[]),
            row("lost", Some("c"), "1", &[]),
            row("foreign", Some("kcl"), "1", &[]),
            row("below", Some("a"), "TRIM_HORIZON", &["bad"]),
            Ok(moving),
            Err(broken),
        ];
        let fleet = view(vec![worker("a", 0, &[]), worker("b", 0, &[]), worker("c", 1_500, &[])], "a");
        let status = status(&rows, &fleet, None);
        assert_eq!(wait_of(&status, "child"), "shard child waits for its parent parent, which worker a reads");
        assert!(wait_of(&status, "grandchild").ends_with("parent child, which itself waits for its parent"));
        assert!(wait_of(&status, "below").ends_with("whose lease cannot be read"));
        assert!(wait_of(&status, "free").ends_with("the leader a is to assign it"));
        assert!(wait_of(&status, "lost").contains("owner c shows no sign of life"));
        assert!(wait_of(&status, "foreign").ends_with("owner kcl is not in the fleet table"));
        assert!(wait_of(&status, "bad").starts_with("lease of bad cannot be read: attribute checkpoint is missing"));
        assert!(wait_of(&status, "moving").contains("from worker a to b"));
        assert_eq!(state_of(&status, "moving"), ShardState::HandingOver);
        assert_eq!(status.totals.workers[&WorkerState::Silent], 1);
    }

    #[test]
    fn a_shard_that_waits_for_a_record_says_which_and_why() {
        let halt = BlockedRecord {
            sequence_number: "77".into(),
            event_id: Some("e-1".into()),
            keys: r#"{"k":{"S":"x"}}"#.into(),
            error: "the handler answered 500".into(),
            attempts: 12,
            since_ms: 4_000,
        };
        let mut owner = worker("a", 0, &["s"]);
        owner.member.record.blocked.insert("s".into(), halt.clone());
        let status = status(&[row("s", Some("a"), "1", &[])], &view(vec![owner], "a"), None);
        assert_eq!(status.shards[0].halted, Some(halt));
        assert_eq!(
            wait_of(&status, "s"),
            "shard s waits for record 77 (event e-1, key {\"k\":{\"S\":\"x\"}}), which worker a has tried 12 times in 6 s: \
             the handler answered 500"
        );
        assert_eq!(state_of(&status, "s"), ShardState::Reading);
    }

    #[test]
    fn a_call_that_does_not_return_names_its_record_and_holds_up_its_children() {
        let call = RunningCall { sequence_number: Some("77".into()), records: 3, attempts: 2, since_ms: 4_000 };
        let mut owner = worker("a", 0, &["s"]);
        owner.member.record.calls.insert("s".into(), call.clone());
        let mut moving = row("s", Some("b"), "1", &[]).unwrap();
        moving.checkpoint_owner = Some("a".into());
        let child = row("child", Some("b"), "TRIM_HORIZON", &["s"]);
        let fleet = view(vec![owner, worker("b", 0, &[])], "a");
        let status = |parent| status(&[parent, child.clone()], &fleet, None);
        let reading = status(row("s", Some("a"), "1", &[]));
        assert_eq!(reading.shards[1].running_call, Some(call));
        let hangs = "worker a's processor call has not returned for 6 s (attempt 2, 3 records from 77)";
        assert_eq!(wait_of(&reading, "s"), format!("shard s waits: {hangs}"));
        assert!(wait_of(&reading, "child").ends_with(&format!("which worker a reads; {hangs}")));
        assert!(wait_of(&status(Ok(moving)), "s").ends_with(&format!("has delivered what it holds; {hangs}")));
    }

    #[test]
    fn a_shard_whose_reading_fails_tells_the_services_words_and_is_not_called_well() {
        let stall = Stall { cause: StallCause::Reading, error: Some("refused: no".into()), since_ms: 4_000 };
        let mut owner = worker("a", 0, &["s", "t"]);
        let stalls = ["s", "t"].map(|id| (id.into(), stall.clone()));
        owner.member.record.stalls.extend(stalls);
        let rows = ["s", "t"].map(|id| row(id, Some("a"), "1", &[]));
        let both = status(&rows, &view(vec![owner.clone()], "a"), None);
        assert_eq!(both.shards[0].stall, Some(stall));
        let words = "worker a has made no progress with it for 6 s: reading it keeps failing: refused: no";
        assert_eq!(wait_of(&both, "s"), format!("shard s waits: {words}"));
        assert_eq!(both.verdict.text, "Shard s makes no progress: reading it keeps failing; 1 more shard makes none.");
        assert_eq!(both.verdict.troubles[0].runbook, Some("shards-stuck"));

        let child = row("child", Some("a"), "TRIM_HORIZON", &["s"]);
        owner.member.record.calls.insert("t".into(), RunningCall::without_records(4_000));
        let [s, t] = rows;
        let one = status(&[s, t, child], &view(vec![owner], "a"), None);
        assert!(wait_of(&one, "child").ends_with(&format!("which worker a reads; {words}")));
        assert_eq!(one.shards[2].stall, None, "its call tells already");
    }

    #[test]
    fn a_stopped_fleet_is_remarked_upon() {
        let rows = [row("s", Some("a"), "1", &[])];
        let status = status(&rows, &FleetView::default(), None);
        assert_eq!(status.remarks, ["no worker is alive: nothing is read"]);
        assert_eq!(state_of(&status, "s"), ShardState::OwnerSilent);
    }

    #[test]
    fn a_dead_fleet_tells_how_long_its_records_are_safe() {
        const HOUR_MS: u64 = 3_600_000;
        let created_ms = 1_700_000_000_000;
        let key = format!("shardId-{created_ms:020}-x");
        let rows = [row(&key, None, "1", &[]), row("shardId-00000001600000000000-y", None, "SHARD_END", &[])];
        let remarks = |now_ms| {
            let inputs = StatusInputs {
                app: "audit",
                rows: &rows,
                view: &FleetView::default(),
                kcl: &KclInputs::default(),
                stream_arn: None,
                listing: None,
                lease_duration: LEASE_DURATION,
                now_ms,
            };
            FleetStatus::new(&inputs).remarks
        };
        let left = &remarks(created_ms + 21 * HOUR_MS - 60_000)[1];
        assert!(left.starts_with("no undelivered record is trimmed within the next 3 h 1 min"), "{left}");
        assert!(remarks(created_ms + 30 * HOUR_MS)[1].contains("records may be lost already"));
    }

    #[test]
    fn a_shard_that_no_worker_may_take_says_so() {
        let rows = [row("owned", Some("a"), "1", &[]), row("free", None, "1", &[])];
        let mut full = worker("a", 0, &["owned"]);
        full.member.record.max_leases = Some(1);
        let text = |workers| wait_of(&status(&rows, &view(workers, "a"), None), "free").to_owned();
        assert!(text(vec![full.clone()]).contains("all have as many leases as --max-leases allows"));
        assert!(text(vec![full.clone(), worker("b", 0, &[])]).ends_with("the leader a is to assign it"));
        let mut leaving = worker("b", 0, &[]);
        leaving.member.record.leaving = true;
        let mut hung = worker("c", 0, &[]);
        hung.member.record.stuck.insert("free".into());
        assert!(text(vec![full, leaving, hung]).ends_with(
            "a has as many leases as --max-leases allows, b is leaving, c released it because its processor hung"
        ));
    }

    #[test]
    fn the_dead_are_told_from_the_silent_by_the_lease_duration() {
        let fleet = view(vec![worker("a", 5_000, &[]), worker("b", 1_500, &[]), worker("c", 1_499, &[])], "a");
        let status = status(&[], &fleet, None);
        let states: Vec<_> = status.workers.iter().map(|worker| worker.state).collect();
        assert_eq!(states, [WorkerState::Dead, WorkerState::Silent, WorkerState::Active]);
        assert_eq!(status.leader.map(|leader| leader.is_alive), Some(false));
        assert!(status.remarks[0].starts_with("no live worker leads"));
    }

    #[test]
    fn listed_shards_without_a_lease_and_a_disabled_stream_show() {
        let shard = |id: &str, parent: Option<&str>| Shard {
            id: id.into(),
            parent: parent.map(Into::into),
            closed: false,
            ending: None,
        };
        let graph = ShardGraph::from_iter([shard("s0", None), shard("s1", Some("s0"))]);
        let listing = Listing::new(graph, true, (Duration::ZERO, Duration::ZERO), 1, None);
        let fleet = view(vec![worker("a", 0, &["s0"])], "a");
        let status = status(&[row("s0", Some("a"), "1", &[])], &fleet, Some(&listing));
        assert_eq!(state_of(&status, "s1"), ShardState::NoLease);
        assert_eq!((status.stream.is_disabled, status.stream.listed_shards), (Some(true), Some(2)));
        assert!(status.remarks[0].starts_with("the stream is switched off"));
    }

    #[test]
    fn the_json_form_keeps_its_names() {
        let fleet = view(vec![worker("a", 0, &["s"])], "a");
        let json = serde_json::to_value(status(&[row("s", Some("a"), "TRIM_HORIZON", &[])], &fleet, None)).unwrap();
        assert_eq!(json["leader"], serde_json::json!({"worker": "a", "term": 3, "is_alive": true}));
        assert_eq!(json["totals"], serde_json::json!({"workers": {"active": 1}, "shards": {"reading": 1}}));
        assert_eq!(json["shards"][0]["checkpoint"], "TRIM_HORIZON");
        assert_eq!(json["workers"][0]["lag_ms"], 1_000);
    }
}
