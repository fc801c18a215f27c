//! The ends of a worker within a program that continues: nothing of it runs on, its report says what is left undone, and
//! its handle and its metrics outlive it without a lie.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use shardkeeper::{BatchError, ProcessRecordsInput, RecordProcessor, Worker, WorkerBuilder, WorkerExit};
use shardkeeper_local::LocalService;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::Notes;

const LIMIT: Duration = Duration::from_secs(20);

/// Counts its calls, none of which returns.
#[derive(Clone, Default)]
struct Hangs {
    calls: Arc<AtomicUsize>,
}

impl RecordProcessor for Hangs {
    async fn process_records(&mut self, _: ProcessRecordsInput) -> Result<(), BatchError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        std::future::pending().await
    }
}

fn service() -> LocalService {
    let service = LocalService::start();
    service.create_table("Phones", &["id"]);
    service.put("Phones", &json!({"id": "1"}));
    service
}

fn builder(service: &LocalService, own_thread: bool) -> WorkerBuilder {
    Worker::builder("audit", "Phones").sdk_config(service.sdk_config()).configure(|options| {
        options.own_thread = own_thread;
        options.drain_timeout = Duration::from_millis(300);
    })
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < LIMIT, "{what} within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The holders of the processors: this test alone, once no task and no thread of the worker is left.
fn holders(processor: &Hangs) -> usize {
    Arc::strong_count(&processor.calls)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missed_drain_is_in_the_report_and_no_call_outlives_the_run() {
    for own_thread in [true, false] {
        let (service, hangs, stop) = (service(), Hangs::default(), CancellationToken::new());
        let processor = hangs.clone();
        let worker = builder(&service, own_thread).processors(move |_| processor.clone());
        let run = tokio::spawn(worker.run(stop.clone().cancelled_owned()));
        until("a call", || hangs.calls.load(Ordering::Relaxed) == 1).await;
        stop.cancel();
        let report = run.await.expect("no panic").expect("it stops");
        assert_eq!(holders(&hangs), 1, "nothing holds a processor any longer");
        assert_eq!((report.ending, report.undrained.len()), (WorkerExit::Stopped, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_run_ends_everything_without_a_write() {
    for own_thread in [true, false] {
        let (service, hangs) = (service(), Hangs::default());
        let processor = hangs.clone();
        let worker = builder(&service, own_thread).processors(move |_| processor.clone());
        let health = worker.telemetry();
        let run = tokio::spawn(worker.run(std::future::pending()));
        until("a call", || hangs.calls.load(Ordering::Relaxed) == 1).await;
        run.abort();
        until("the end of all tasks", || holders(&hangs) == 1).await;
        assert_eq!(health.health().not_ready_reasons, ["it has ended"]);
        let lease = &service.items("audit")[0];
        assert_eq!(lease["checkpoint"], "TRIM_HORIZON", "{lease}");
        assert!(lease["leaseOwner"].is_string(), "left to expire: {lease}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_stops_its_worker_and_tells_how_it_went() {
    let service = service();
    let handle = builder(&service, true).for_each(async |_| {}).spawn();
    let telemetry = handle.telemetry();
    until("a worker that is ready", || telemetry.health().is_ready()).await;
    assert!(handle.health().is_live());
    let report = handle.shutdown().await.expect("it stops");
    assert_eq!((report.ending, report.undrained), (WorkerExit::Stopped, Vec::new()));
    assert_eq!(telemetry.health().not_ready_reasons, ["it has ended"]);
    let ended_by_itself = builder(&service, true).until_caught_up().for_each(async |_| {}).spawn();
    assert_eq!(ended_by_itself.join().await.expect("it ends").ending, WorkerExit::CaughtUp);
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_of_one_process_have_metrics_of_their_own_until_they_end() {
    let service = service();
    service.create_table("Orders", &["id"]);
    let notes = Notes::default();
    let spawn = |app: &str, table: &str| {
        let builder = Worker::builder(app, table).worker_id("w").sdk_config(service.sdk_config());
        builder.for_each(async |_| {}).metrics_recorder(Arc::new(notes.clone())).spawn()
    };
    let (phones, orders) = (spawn("phones", "Phones"), spawn("orders", "Orders"));
    let held =
        |app: &str, table: &str| notes.value(&format!("shardkeeper_leases_held{{app={app},table={table},worker=w}}"));
    let shards = 4.0;
    until("all leases", || {
        phones.telemetry().record_gauges();
        orders.telemetry().record_gauges();
        held("phones", "Phones") == Some(shards) && held("orders", "Orders") == Some(shards)
    })
    .await;
    phones.shutdown().await.expect("it stops");
    assert!(held("phones", "Phones").is_some_and(f64::is_nan), "{:?}", held("phones", "Phones"));
    orders.telemetry().record_gauges();
    assert_eq!(held("orders", "Orders"), Some(shards));
    orders.shutdown().await.expect("it stops");
    let without_labels: Vec<_> = notes.names().into_iter().filter(|name| notes.value(name).is_some()).collect();
    assert_eq!(without_labels, [""; 0], "each series has the labels of its worker");
    let calls = "shardkeeper_api_calls_total{operation=GetRecords,outcome=ok,app=phones,table=Phones,worker=w}";
    assert!(notes.value(calls).is_some_and(|calls| calls > 0.0), "{calls}");
}
