//! The fate of records whose handler fails, and the order of items when several are worked on at once: workers
//! with the real SDK on the local service, in this process, on a paused clock.

mod harness;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use harness::{Harness, Letters, Seen};
use shardkeeper::internals::consumer::BoxError;
use shardkeeper::{BatchError, FailurePolicy, OnFailure, ProcessRecordsInput};

/// The handler answers with an error whenever this number is in the batch.
const POISON: u32 = 4_321;

fn policy(on_failure: OnFailure, attempts: Option<u32>) -> FailurePolicy {
    let mut policy = FailurePolicy::default();
    (policy.on_failure, policy.attempts) = (on_failure, attempts);
    policy
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn one_poison_record_of_ten_thousand_becomes_one_dead_letter_and_all_others_are_delivered() {
    let harness = Harness::new();
    harness.write(100, 10_000);
    let letters = Letters::default();
    harness.fail_on([POISON]);
    // A letter that cannot be kept at first is kept later, and nothing is acknowledged before.
    letters.refuse(3);
    let worker = harness.start("w", |options| {
        options.failure = policy(OnFailure::DeadLetter(Arc::new(letters.clone())), Some(3));
        options.until_caught_up = true;
    });
    let report = worker.await.expect("no panic").expect("no error");
    let all: BTreeSet<u32> = (0..10_000).filter(|number| *number != POISON).collect();
    assert!(harness.delivered() == all, "{} delivered", harness.delivered().len());
    let letters = letters.kept();
    assert_eq!(letters.len(), 1);
    let letter = letters.values().next().expect("one");
    assert_eq!(letter.record, harness.record(POISON), "byte for byte");
    assert_eq!(
        (letter.reason, letter.worker.as_str()),
        (shardkeeper::internals::dead_letters::letter::FailureLimit::Attempts, "w")
    );
    assert!(letter.attempts > 3 && letter.error.contains("poison") && letter.event_id.is_some(), "{letter:?}");
    assert_eq!((report.totals.records, report.totals.dead_lettered), (9_999, 1));
    assert!(harness.is_in_order(), "first deliveries of each item");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_record_that_is_skipped_is_counted_and_the_age_of_records_is_a_limit_too() {
    let harness = Harness::new();
    harness.write(10, 500);
    harness.fail_on([100, 200]);
    let worker = harness.start("w", |options| {
        options.failure = policy(OnFailure::Skip, None);
        options.failure.max_record_age = Some(Duration::from_secs(60));
        options.until_caught_up = true;
    });
    let started = tokio::time::Instant::now();
    let report = worker.await.expect("no panic").expect("no error");
    assert_eq!((report.totals.records, report.totals.skipped), (498, 2));
    assert!(started.elapsed() > Duration::from_secs(50), "not before its age: {:?}", started.elapsed());
    assert!(!harness.delivered().contains(&100) && harness.delivered().len() == 498);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_halted_shard_waits_visibly_while_others_go_on_and_goes_on_by_itself() {
    let harness = Harness::with_shards(2);
    harness.write(50, 1_000);
    harness.fail_on([500]);
    let worker = harness.start("w", |options| options.failure = policy(OnFailure::Halt, Some(4)));
    let (stuck, other) = harness.shards_with_and_without(500);
    let is_waiting = || {
        let before = stuck.iter().take_while(|number| **number != 500).count();
        harness.delivered().is_superset(&other.iter().copied().collect())
            && stuck[..before].iter().all(|number| harness.delivered().contains(number))
    };
    harness.until("all but what waits", Duration::from_secs(60), is_waiting).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    let behind = stuck.iter().skip_while(|number| **number != 500);
    assert!(behind.clone().all(|number| !harness.delivered().contains(number)), "in the shard's order");
    let shown = harness.halted("w");
    assert_eq!(shown.len(), 1, "one shard waits: {shown:?}");
    assert_eq!(shown[0]["sequence_number"], harness.position(500));
    assert!(shown[0]["error"] == "poison" && shown[0]["keys"].as_str().is_some_and(|keys| keys.contains("item-000")));
    harness.write_more(50, 1_000, 100);
    let later = || other.iter().chain(&harness.numbers_of_other(500)).all(|n| harness.delivered().contains(n));
    harness.until("the other shard's new records", Duration::from_secs(60), later).await;
    harness.fail_on([]);
    harness.until("everything", Duration::from_secs(60), || harness.delivered().len() == 1_100).await;
    harness.until("nothing waits", Duration::from_secs(5), || harness.halted("w").is_empty()).await;
    assert!(!worker.is_finished() && harness.is_in_order());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn by_item_a_stuck_record_holds_up_its_own_item_alone() {
    let harness = Harness::new();
    harness.write(100, 3_000);
    harness.fail_on([150]);
    let letters = Letters::default();
    let worker = harness.start("w", |options| {
        options.shard_concurrency = 4;
        options.failure = policy(OnFailure::Halt, None);
    });
    // Item 50's records are 50, 150, 250, …
    let held_up: BTreeSet<u32> = (150..3_000).step_by(100).collect();
    let others: BTreeSet<u32> = (0..3_000).filter(|number| !held_up.contains(number)).collect();
    harness.until("all other items", Duration::from_secs(120), || harness.delivered() == others).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let (checkpoint, done) = harness.lease();
    assert_eq!(checkpoint, harness.position(149), "the checkpoint passes no hole");
    let done = done.expect("what is done beyond it is kept with the lease");
    assert!(done.starts_with(&checkpoint) && done.len() < 1_000, "{done}");
    worker.abort(); // a crash: nothing is written any more
    let _ = worker.await;
    let before = harness.seen().len();

    harness.fail_on([]);
    let next = harness.start("x", |options| options.shard_concurrency = 4);
    harness.until("what was held up", Duration::from_secs(120), || harness.delivered().len() == 3_000).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let again: BTreeSet<u32> = harness.seen()[before..].iter().map(|seen| seen.number).collect();
    assert_eq!(again, held_up, "a take-over repeats nothing that was done");
    assert_eq!(harness.lease(), (harness.position(2_999), None));
    assert!(harness.is_in_order() && letters.kept().is_empty() && !next.is_finished());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_checkpoint_that_somebody_else_has_moved_makes_what_was_done_beyond_the_old_one_void() {
    let harness = Harness::new();
    harness.write(10, 100);
    harness.fail_on([5]);
    let worker = harness.start("w", |options| options.shard_concurrency = 2);
    let is_kept = || harness.lease().1.is_some_and(|done| done.contains(' ')) && harness.delivered().len() == 90;
    harness.until("all other items, written down", Duration::from_secs(60), is_kept).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    worker.abort();
    let _ = worker.await;
    let before = harness.seen().len();
    // As a KCL worker would: it knows its own attributes alone.
    harness.move_checkpoint(7);
    harness.fail_on([]);
    harness.start("x", |_| {});
    harness.until("the rest", Duration::from_secs(60), || harness.seen()[before..].len() == 92).await;
    let again: Vec<u32> = harness.seen()[before..].iter().map(|seen| seen.number).collect();
    assert_eq!(again, (8..100).collect::<Vec<_>>(), "everything behind the checkpoint");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn work_by_item_is_as_many_times_faster_as_there_are_hands_and_keeps_each_items_order() {
    let mut took = Vec::new();
    for concurrency in [1, 100] {
        let harness = Harness::new();
        harness.write(100, 10_000);
        harness.take(Duration::from_millis(5));
        let started = tokio::time::Instant::now();
        let worker = harness.start("w", |options| {
            options.shard_concurrency = concurrency;
            options.concurrency = Some(concurrency);
            options.until_caught_up = true;
        });
        worker.await.expect("no panic").expect("no error");
        took.push(started.elapsed());
        assert_eq!((harness.seen().len(), harness.delivered().len()), (10_000, 10_000));
        assert!(harness.is_in_order());
        assert_eq!(harness.most_at_once(), concurrency, "calls at once");
        assert_eq!(harness.most_at_once_of_an_item(), 1);
    }
    // The clock is simulated: this is arithmetic, not the machine's speed.
    assert!(took[1] * 10 < took[0], "{took:?}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_workers_limit_holds_over_all_its_shards() {
    let harness = Harness::with_shards(6);
    harness.write(100, 2_000);
    harness.take(Duration::from_millis(5));
    let worker = harness.start("w", |options| {
        (options.shard_concurrency, options.concurrency) = (5, Some(7));
        options.until_caught_up = true;
    });
    worker.await.expect("no panic").expect("no error");
    assert_eq!((harness.delivered().len(), harness.most_at_once()), (2_000, 7));
    assert!(harness.is_in_order());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn batches_keep_to_their_size_and_wait_for_their_window() {
    let harness = Harness::new();
    harness.write(10, 95);
    let worker = harness.start("w", |options| {
        options.batch_size = Some(20);
        options.batch_window = Duration::from_secs(30);
    });
    harness.until("the full batches", Duration::from_secs(20), || harness.seen().len() == 80).await;
    assert_eq!(harness.batches(), [20, 20, 20, 20]);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(harness.seen().len(), 80, "the last is filling");
    harness.until("the last batch", Duration::from_secs(25), || harness.seen().len() == 95).await;
    assert_eq!(harness.batches(), [20, 20, 20, 20, 15]);
    assert!(!worker.is_finished());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_call_that_lasts_too_long_or_panics_has_failed_and_its_record_is_found() {
    let harness = Harness::new();
    harness.write(10, 200);
    let letters = Letters::default();
    harness.handle(|input: &ProcessRecordsInput, numbers: &[u32]| {
        let (hangs, panics) = (numbers.contains(&50), numbers.contains(&120));
        let _ = input;
        async move {
            assert!(!panics, "a meant panic at 120");
            if hangs {
                std::future::pending::<()>().await;
            }
            Ok::<(), BatchError>(())
        }
    });
    let worker = harness.start("w", |options| {
        options.failure = policy(OnFailure::DeadLetter(Arc::new(letters.clone())), Some(2));
        options.failure.handler_timeout = Some(Duration::from_secs(5));
        options.until_caught_up = true;
    });
    worker.await.expect("no panic").expect("no error");
    let errors: Vec<(String, String)> =
        letters.kept().into_values().map(|letter| (letter.record, letter.error)).collect();
    let [(hung, timeout), (panicked, panic)] = &errors[..] else { panic!("{errors:?}") };
    assert_eq!((hung, panicked), (&harness.record(50), &harness.record(120)));
    assert!(timeout.contains("timeout") && panic.contains("a meant panic at 120"), "{timeout}, {panic}");
    assert_eq!(harness.delivered().len(), 198);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_unavailable_processor_costs_no_record_an_attempt_and_is_asked_as_seldom_as_it_wants() {
    for shard_concurrency in [1, 4] {
        let harness = Harness::new();
        harness.write(10, 200);
        let letters = Letters::default();
        let started = tokio::time::Instant::now();
        let (back, calls) = (Duration::from_secs(20), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&calls);
        harness.handle(move |_: &ProcessRecordsInput, numbers: &[u32]| {
            let is_poison = numbers.contains(&50);
            let is_away = started.elapsed() < back;
            count.fetch_add(usize::from(is_away), Ordering::Relaxed);
            async move {
                match (is_away, is_poison) {
                    (true, _) => Err(BatchError::unavailable("busy", Some(Duration::from_secs(2)))),
                    (false, true) => Err(BatchError::from(BoxError::from("poison"))),
                    (false, false) => Ok(()),
                }
            }
        });
        let worker = harness.start("w", |options| {
            options.shard_concurrency = shard_concurrency;
            options.failure = policy(OnFailure::DeadLetter(Arc::new(letters.clone())), Some(3));
            options.until_caught_up = true;
        });
        harness.until("the status to say so", back, || !harness.halted("w").is_empty()).await;
        let error = harness.halted("w")[0]["error"].to_string();
        assert!(error.contains("the processor is unavailable: busy"), "{error}");
        worker.await.expect("no panic").expect("no error");
        assert_eq!(letters.kept().len(), 1, "the record that is at fault");
        assert_eq!(letters.kept().values().next().expect("one").record, harness.record(50));
        assert_eq!(harness.delivered().len(), 199);
        let calls = calls.load(Ordering::Relaxed);
        assert!((1..=11 * shard_concurrency).contains(&calls), "{calls} calls while it was away");
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_handler_that_answers_no_call_for_a_while_costs_no_record_an_attempt() {
    for shard_concurrency in [1, 4] {
        let harness = Harness::new();
        harness.write(10, 200);
        let letters = Letters::default();
        let started = tokio::time::Instant::now();
        harness.handle(move |_: &ProcessRecordsInput, numbers: &[u32]| {
            let hangs = started.elapsed() < Duration::from_secs(120);
            let is_poison = numbers.contains(&50);
            async move {
                match (hangs, is_poison) {
                    (true, _) => std::future::pending().await,
                    (false, true) => Err(BatchError::from(BoxError::from("poison"))),
                    (false, false) => Ok(()),
                }
            }
        });
        let worker = harness.start("w", |options| {
            options.shard_concurrency = shard_concurrency;
            options.failure = policy(OnFailure::DeadLetter(Arc::new(letters.clone())), Some(2));
            options.failure.handler_timeout = Some(Duration::from_secs(5));
            options.until_caught_up = true;
        });
        harness.until("the status to say so", Duration::from_secs(110), || !harness.halted("w").is_empty()).await;
        let error = harness.halted("w")[0]["error"].to_string();
        assert!(error.contains("the processor is unavailable"), "{error}");
        worker.await.expect("no panic").expect("no error");
        let errors: Vec<String> = letters.kept().into_values().map(|letter| letter.error).collect();
        assert_eq!(errors, ["poison"]);
        assert_eq!(harness.delivered().len(), 199);
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_record_whose_calls_take_too_long_while_others_are_answered_is_at_fault() {
    let harness = Harness::with_shards(2);
    harness.write(50, 1_000);
    let letters = Letters::default();
    harness.handle(|_: &ProcessRecordsInput, numbers: &[u32]| {
        let hangs = numbers.contains(&500);
        async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if hangs {
                std::future::pending::<()>().await;
            }
            Ok::<(), BatchError>(())
        }
    });
    let worker = harness.start("w", |options| {
        options.batch_size = Some(10);
        options.failure = policy(OnFailure::DeadLetter(Arc::new(letters.clone())), Some(2));
        options.failure.handler_timeout = Some(Duration::from_secs(5));
        options.until_caught_up = true;
    });
    harness.until("its dead letter", Duration::from_secs(200), || letters.kept().len() == 1).await;
    worker.await.expect("no panic").expect("no error");
    assert_eq!(letters.kept().values().next().expect("one").record, harness.record(500));
    assert_eq!(harness.delivered().len(), 999);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn records_before_the_one_that_failed_are_not_repeated_and_without_bisecting_it_is_given_up_alone() {
    for bisect in [true, false] {
        let harness = Harness::new();
        harness.write(1, 100);
        harness.handle(|input: &ProcessRecordsInput, numbers: &[u32]| {
            let failed = numbers.iter().position(|number| *number == 60);
            let position = failed.and_then(|place| input.records.get(place)?.sequence_number().parse().ok());
            async move {
                match position {
                    Some(position) => Err(BatchError::from_record(position, BoxError::from("poison"))),
                    None => Ok(()),
                }
            }
        });
        let worker = harness.start("w", |options| {
            options.failure = policy(OnFailure::Skip, Some(3));
            options.failure.bisect = bisect;
            options.until_caught_up = true;
        });
        let report = worker.await.expect("no panic").expect("no error");
        assert_eq!((report.totals.records, report.totals.skipped), (99, 1), "bisect: {bisect}");
        let calls: Vec<Seen> = harness.seen().into_iter().filter(|seen| seen.number == 59).collect();
        assert_eq!(calls.len(), 1, "59 came before the failure");
        let failures = harness.calls_with(60);
        assert_eq!(failures, 3, "as many as the policy allows");
    }
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused_at_the_start() {
    use shardkeeper::{Checkpoints, StreamSelector, Worker, WorkerOptions, for_each};
    let refusals: [fn(&mut WorkerOptions); 5] = [
        |options| (options.shard_concurrency, options.checkpoints) = (2, Checkpoints::Manual),
        |options| (options.shard_concurrency, options.concurrency) = (3, Some(2)),
        |options| options.batch_window = Duration::from_secs(1),
        |options| options.batch_size = Some(0),
        |options| options.failure.attempts = Some(0),
    ];
    for refusal in refusals {
        let mut options = WorkerOptions::new("app", StreamSelector::Table("Things".into()), "w");
        refusal(&mut options);
        let worker = Worker::new(options, for_each(async |_| {}));
        assert!(matches!(worker.run(std::future::pending()).await, Err(shardkeeper::Error::Options(_))));
    }
}
