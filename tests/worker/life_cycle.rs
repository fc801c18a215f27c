//! Processors that panic outside of `process_records`, and stops between two records. A worker with the real SDK on the
//! local service, in this process, on a paused clock.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use shardkeeper::{
    BatchError, BoxError, Checkpointer, Checkpoints, OwnedRecord, ProcessRecordsInput, RecordProcessor, ShardContext,
    WorkerOptions, for_each,
};
use tokio_util::sync::CancellationToken;

use crate::fleet::Fleet;

const LIMIT: Duration = Duration::from_secs(60);

/// Counts the records, and panics at its end.
struct PanicsAtTheEnd(Arc<AtomicUsize>);

impl RecordProcessor for PanicsAtTheEnd {
    async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
        self.0.fetch_add(input.records.len(), Ordering::Relaxed);
        Ok(())
    }

    async fn shutdown_requested(&mut self, _: &Checkpointer) {
        panic!("the processor's last call");
    }
}

fn write(fleet: &Fleet, count: usize) {
    for key in 0..count {
        fleet.put(&json!({"k": {"S": format!("k{key}")}}));
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_factory_that_panics_is_retried_by_the_same_consumer() {
    let fleet = Fleet::new(1);
    write(&fleet, 3);
    let (panics, delivered) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let processed = Arc::clone(&delivered);
    let factory = move |_: &ShardContext| {
        assert!(panics.fetch_add(1, Ordering::Relaxed) >= 8, "the factory panics at first");
        PanicsAtTheEnd(Arc::clone(&processed))
    };
    let by_hand = |options: &mut WorkerOptions| options.checkpoints = Checkpoints::Manual;
    tokio::task::spawn_local(fleet.worker("w", 1, fleet.client(), by_hand, factory).run(std::future::pending()));
    fleet.until("delivered", LIMIT, || delivered.load(Ordering::Relaxed) == 3).await;
    let counter = fleet.leases()[0]["leaseCounter"]["N"].as_str().and_then(|n| n.parse::<u32>().ok());
    assert!(counter.is_some_and(|counter| counter < 8), "each panic took the lease anew: {counter:?}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_panic_in_the_last_call_keeps_the_checkpoint_and_the_release() {
    let fleet = Fleet::new(1);
    write(&fleet, 3);
    let delivered = Arc::new(AtomicUsize::new(0));
    let (processed, stop) = (Arc::clone(&delivered), CancellationToken::new());
    let factory = move |_: &ShardContext| PanicsAtTheEnd(Arc::clone(&processed));
    let seldom = |options: &mut WorkerOptions| {
        options.checkpoints = Checkpoints::Automatic { interval: Duration::from_secs(3600) };
    };
    let worker = fleet.worker("w", 1, fleet.client(), seldom, factory);
    let run = tokio::task::spawn_local(worker.run(stop.clone().cancelled_owned()));
    fleet.until("delivered", LIMIT, || delivered.load(Ordering::Relaxed) == 3).await;
    stop.cancel();
    run.await.expect("no panic").expect("it stops");
    let lease = &fleet.leases()[0];
    assert!(lease["leaseOwner"].is_null(), "{lease}");
    assert!(lease["checkpoint"]["S"].as_str().is_some_and(|text| text.parse::<u128>().is_ok()), "{lease}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_closure_gets_no_record_after_the_worker_was_told_to_stop() {
    let fleet = Fleet::new(1);
    write(&fleet, 10);
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let stop = CancellationToken::new();
    for worker in ["w1", "w2"] {
        let (records, stopping) = (Arc::clone(&seen), stop.clone());
        let factory = for_each(move |record: OwnedRecord| {
            let (records, stopping) = (Arc::clone(&records), stopping.clone());
            async move {
                records.lock().expect("no panic").push(record.view().sequence_number().to_owned());
                if !stopping.is_cancelled() {
                    stopping.cancel();
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Ok::<(), BoxError>(())
            }
        });
        let until = match worker {
            "w1" => stop.clone(),
            _ => CancellationToken::new(),
        };
        let run = fleet.worker(worker, 1, fleet.client(), |_| {}, factory).run(until.cancelled_owned());
        let run = tokio::task::spawn_local(run);
        if worker == "w1" {
            run.await.expect("no panic").expect("it stops");
            assert_eq!(seen.lock().expect("no panic").len(), 1, "the rest of the page is the next owner's");
        }
    }
    fleet.until("delivered", LIMIT, || seen.lock().expect("no panic").len() >= 10).await;
    let mut all = seen.lock().expect("no panic").clone();
    all.sort();
    all.dedup();
    assert_eq!((all.len(), seen.lock().expect("no panic").len()), (10, 10), "nothing twice");
}
