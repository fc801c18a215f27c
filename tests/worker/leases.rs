//! Leases on their way to workers and from them: by hints that get lost, to workers that leave, and many at once.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use shardkeeper::{
    BatchError, Error, ProcessRecordsInput, RecordProcessor, Report, ShardContext, StartPosition, WorkerOptions,
};
use shardkeeper_local::{Effect, FaultPlan, InMemoryClient, InjectedFault, LocalOptions, StreamAction};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::fleet::{EPOCH_MS, Fleet, TABLE};

const LIMIT: Duration = Duration::from_secs(60);

/// Notes the shard of each record that it gets.
struct Noting(Arc<Mutex<BTreeSet<String>>>, String);

impl RecordProcessor for Noting {
    async fn process_records(&mut self, _: ProcessRecordsInput) -> Result<(), BatchError> {
        self.0.lock().expect("no panic").insert(self.1.clone());
        Ok(())
    }
}

struct Running {
    /// The shards of which a record was delivered.
    read: Arc<Mutex<BTreeSet<String>>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<Report, Error>>,
}

impl Running {
    fn has_read(&self) -> usize {
        self.read.lock().expect("no panic").len()
    }
}

fn start(fleet: &Fleet, id: &str, seed: u64) -> Running {
    start_with(fleet, id, seed, |_| {})
}

fn start_with(fleet: &Fleet, id: &str, seed: u64, change: impl FnOnce(&mut WorkerOptions)) -> Running {
    start_on(fleet, fleet.client(), id, seed, change)
}

fn start_on(
    fleet: &Fleet,
    client: InMemoryClient,
    id: &str,
    seed: u64,
    change: impl FnOnce(&mut WorkerOptions),
) -> Running {
    let read: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let (stop, stopped) = oneshot::channel();
    let noted = Arc::clone(&read);
    let factory = move |shard: &ShardContext| Noting(Arc::clone(&noted), shard.shard_id.to_string());
    let set = |options: &mut WorkerOptions| {
        options.describe_stream_rate = 9;
        change(options);
    };
    let worker = fleet.worker(id, seed, client, set, factory);
    let task = tokio::task::spawn_local(worker.run(async { drop(stopped.await) }));
    Running { read, stop, task }
}

fn faults(fleet: &Fleet, plan: &Value) {
    fleet.service.set_faults(FaultPlan::from_json(plan).expect("a good plan"));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_lease_whose_hint_was_lost_is_read_while_all_shards_roll_over_time_and_again() {
    let fleet = Fleet::new(8);
    let leader = start(&fleet, "leader", 1);
    fleet.until("the leader has all", LIMIT, || fleet.owned_by("leader") == 8).await;
    let other = start(&fleet, "other", 2);
    fleet.until("half of them have moved", LIMIT, || fleet.owned_by("other") == 4).await;
    // As if the leader had given the other a lease, and the hint had been lost.
    let rows = fleet.leases();
    let is_leaders = |row: &&Value| row["leaseOwner"]["S"] == "leader" && row["checkpoint"]["S"] != "SHARD_END";
    let key = rows.iter().find(is_leaders).expect("it has four")["leaseKey"].clone();
    give(&fleet, &key, "other");
    let given = key["S"].as_str().expect("a key").to_owned();
    let is_open = |shard: &&String| **shard != given;
    let given_at = Instant::now();
    for round in 0.. {
        if other.read.lock().expect("no panic").contains(&given) {
            break;
        }
        assert!(given_at.elapsed() < LIMIT, "the lease is not read");
        let open: Vec<String> = open_shards(&fleet).iter().filter(is_open).cloned().collect();
        for shard in open {
            fleet.service.change_shards(TABLE, StreamAction::Rollover, Some(&shard)).expect("it is open");
        }
        (0..64).for_each(|item| fleet.put(&json!({"k": {"S": format!("{round}-{item}")}})));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    leader.task.abort();
    other.task.abort();
}

/// Writes a lease as a leader that assigns it, without a hint to its owner.
fn give(fleet: &Fleet, key: &Value, to: &str) {
    let request = json!({
        "TableName": "app", "Key": {"leaseKey": key}, "UpdateExpression": "SET leaseOwner = :to ADD leaseCounter :one",
        "ExpressionAttributeValues": {":to": {"S": to}, ":one": {"N": "1"}},
    });
    fleet.call("UpdateItem", &request);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_lease_that_a_leader_assigns_to_a_worker_which_is_just_leaving_is_released() {
    let fleet = Fleet::new(2);
    let worker = start_with(&fleet, "w", 1, |options| options.max_leases = Some(1));
    fleet.until("it has all that it may have", LIMIT, || fleet.owned_by("w") == 1).await;
    let has_two = || fleet.leases().len() == 2;
    fleet.until("both shards have leases", LIMIT, has_two).await;
    let rows = fleet.leases();
    let unowned = rows.iter().find(|row| row.get("leaseOwner").is_none()).expect("it may have one");
    worker.stop.send(()).expect("it runs");
    give(&fleet, &unowned["leaseKey"], "w");
    worker.task.await.expect("no panic").expect("no error");
    assert_eq!(fleet.owned_by("w"), 0, "all are released");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_second_process_with_a_workers_id_is_refused_however_far_away_the_tables_are() {
    let fleet = Fleet::new(1);
    // So long that heartbeats tell little.
    let set = |options: &mut WorkerOptions| options.lease_duration = Duration::from_secs(60);
    let worker = start_with(&fleet, "w", 1, set);
    fleet.until("it reads", LIMIT, || fleet.owned_by("w") == 1).await;
    faults(&fleet, &json!({"latency_ms": {"*": 200}}));
    // At each time between two reads of the first process.
    for step in 0..8 {
        let second = start_with(&fleet, "w", 2 + step, set);
        let refused = second.task.await.expect("no panic").expect_err("the id is taken");
        assert!(refused.to_string().contains("in use"), "{refused}");
        assert!(!worker.task.is_finished(), "the first process works on");
        tokio::time::sleep(Duration::from_millis(60 * step)).await;
    }
    worker.task.abort();
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_worker_of_the_last_stream_does_not_lead_an_application_that_is_bound_to_the_next() {
    let fleet = Fleet::new(1);
    let worker = start(&fleet, "w", 1);
    fleet.until("it leads and reads", LIMIT, || fleet.owned_by("w") == 1).await;
    // As the first worker of the next stream leaves the leader's item: bound, and vacant.
    let bind = json!({
        "TableName": "app-Fleet", "Key": {"key": {"S": "leader"}},
        "UpdateExpression": "SET streamArn = :next ADD #t :one REMOVE worker", "ExpressionAttributeNames": {"#t": "term"},
        "ExpressionAttributeValues": {":next": {"S": "arn:next"}, ":one": {"N": "1"}},
    });
    fleet.call("UpdateItem", &bind);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let leader = fleet.call("GetItem", &json!({"TableName": "app-Fleet", "Key": {"key": {"S": "leader"}}}));
    assert_eq!(leader["Item"]["streamArn"]["S"], "arn:next", "{leader}");
    worker.task.abort();
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_family_that_is_trimmed_between_two_pages_of_a_listing_is_not_taken_for_new() {
    trim_a_family_during_a_listing(false).await;
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_family_that_is_trimmed_between_two_pages_of_a_leaders_first_listing_is_not_taken_for_new() {
    trim_a_family_during_a_listing(true).await;
}

/// Has a root and its child be trimmed while a listing has shown the root alone, after both were read, and asserts that
/// neither gets a lease again. `begins`: the listing is the first one of a new leader.
async fn trim_a_family_during_a_listing(begins: bool) {
    const RETENTION: Duration = Duration::from_secs(150);
    let options = LocalOptions { initial_shards: 1, page_shards: 1, retention: RETENTION, ..LocalOptions::default() };
    let fleet = Fleet::with(options);
    fleet.put(&json!({"k": {"S": "root"}}));
    for generation in ["child", "grandchild"] {
        fleet.service.change_shards(TABLE, StreamAction::Rollover, None).expect("a table with a stream");
        fleet.put(&json!({"k": {"S": generation}}));
    }
    let trimmed_ms = fleet.now_ms() + u64::try_from(RETENTION.as_millis()).expect("short") + 5_000;
    // Lets first pages through, and others after the family's time.
    let is_torn = Arc::new(AtomicBool::new(false));
    let client = || {
        let is_torn = Arc::clone(&is_torn);
        fleet.client().hook(move |call| {
            let is_later_page = call.request.target.ends_with("DescribeStream")
                && String::from_utf8_lossy(&call.request.body).contains("ExclusiveStartShardId");
            let is_lost = is_torn.load(Relaxed) && is_later_page && call.now.as_millis() < trimmed_ms;
            is_lost.then(|| InjectedFault { effect: Effect::LoseCall, ..InjectedFault::default() })
        })
    };
    let mut worker = start_on(&fleet, client(), "w", 1, |_| {});
    fleet.until("the family is read", LIMIT, || worker.has_read() == 3).await;
    let family = fleet.keys();
    fleet.until("finished leases are deleted", LIMIT, || fleet.keys().len() == 1).await;
    is_torn.store(true, Relaxed);
    if begins {
        worker.task.abort();
        worker = start_on(&fleet, client(), "w", 2, |_| {});
    }
    let left = fleet.keys();
    assert!(
        left.is_subset(&family) && fleet.now_ms() + 65_000 < trimmed_ms,
        "a listing begins before the family's time"
    );
    while fleet.now_ms() < trimmed_ms + 60_000 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(
            fleet.keys(),
            left,
            "made again {} ms after the family's time",
            fleet.now_ms().saturating_sub(trimmed_ms)
        );
    }
    worker.task.abort();
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_new_application_reads_its_first_shards_while_others_are_listed_wherever_it_starts() {
    const SHARDS: usize = 40;
    for start in [StartPosition::TrimHorizon, StartPosition::Latest, StartPosition::At(an_hour_before())] {
        // One page a second.
        let options = LocalOptions { initial_shards: 40, page_shards: 1, ..LocalOptions::default() };
        let fleet = Fleet::with(options);
        let set = |options: &mut WorkerOptions| (options.start, options.describe_stream_rate) = (start, 1);
        let worker = start_with(&fleet, "w", 1, set);
        let mut item = 0;
        let mut reads = |count: usize| {
            item += 1;
            fleet.put(&json!({"k": {"S": item.to_string()}}));
            worker.has_read() >= count
        };
        fleet.until("the first are read", Duration::from_secs(20), || reads(1)).await;
        assert!(fleet.leases().len() < SHARDS, "{start:?}: all are listed");
        fleet.until("all are read", LIMIT * 2, || reads(SHARDS)).await;
        worker.task.abort();
    }
}

fn an_hour_before() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(EPOCH_MS) - Duration::from_secs(3600)
}

fn open_shards(fleet: &Fleet) -> BTreeSet<String> {
    let arn = fleet.call("DescribeTable", &json!({"TableName": TABLE}))["Table"]["LatestStreamArn"].clone();
    let (mut open, mut start) = (BTreeSet::new(), Value::Null);
    loop {
        let mut request = json!({"StreamArn": arn});
        if !start.is_null() {
            request["ExclusiveStartShardId"] = start;
        }
        let description = fleet.call("DescribeStream", &request)["StreamDescription"].clone();
        for shard in description["Shards"].as_array().expect("shards") {
            if shard["SequenceNumberRange"].get("EndingSequenceNumber").is_none() {
                open.insert(shard["ShardId"].as_str().expect("an id").to_owned());
            }
        }
        start = description.get("LastEvaluatedShardId").cloned().unwrap_or_default();
        if start.is_null() {
            return open;
        }
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_worker_that_comes_back_to_many_leases_takes_them_back_many_at_once_and_is_heard_meanwhile() {
    const SHARDS: usize = 200;
    let fleet = Fleet::new(SHARDS.try_into().expect("a small number"));
    let first = start(&fleet, "w", 1);
    fleet.until("it has all", LIMIT, || fleet.owned_by("w") == SHARDS).await;
    (0..SHARDS * 8).for_each(|item| fleet.put(&json!({"k": {"S": item.to_string()}})));
    fleet.until("it reads them all", LIMIT, || first.has_read() == SHARDS).await;
    first.task.abort();
    (0..SHARDS * 8).for_each(|item| fleet.put(&json!({"k": {"S": item.to_string()}})));

    // One after the other, they would take 80 s.
    faults(&fleet, &json!({"latency_ms": {"UpdateItem": 400}}));
    let second = start(&fleet, "w", 2);
    fleet.until("it reads them all again", Duration::from_secs(20), || second.has_read() == SHARDS).await;
    second.task.abort();

    (0..SHARDS * 8).for_each(|item| fleet.put(&json!({"k": {"S": item.to_string()}})));
    let third = start(&fleet, "w", 3);
    fleet.until("some are taken back", LIMIT, || third.has_read() > 0).await;
    assert!(third.has_read() < SHARDS, "it has them all before it is asked to stop");
    let asked = Instant::now();
    third.stop.send(()).expect("it runs");
    third.task.await.expect("no panic").expect("no error");
    assert!(asked.elapsed() < Duration::from_secs(20), "left after {:?}", asked.elapsed());
    assert_eq!(fleet.owned_by("w"), 0, "all are released");
}
