//! Whole fleets of real workers, simulated: the real SDK over a network in memory, every clock and every chance from
//! one seed, everything that can go wrong going wrong, and a checker of the invariants beside it.
//!
//!     cargo test --test simulation                                          the seeds of every test run
//!     SHARDKEEPER_SIM_SEEDS=1000..2000 cargo test --profile sim --test simulation invariants -- --nocapture
//!                                                                           others, optimised, with a report
//!     SHARDKEEPER_SIM_SEEDS=17..18 SHARDKEEPER_SIM_TRACE=1 cargo test --test simulation invariants -- --nocapture
//!                                                                           one, with each event printed
//!
//! A seed that fails prints its replay command. Seeds that once failed are kept in `seeds.txt` and run first.

mod bugs;
mod checker;
mod delivery;
mod faults;
mod field;
mod history;
mod network;
mod process;
mod processor;
mod report;
mod scenario;
mod service;
mod simulation;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, Once, PoisonError};

use bugs::Bug;
use checker::Rule;
use processor::MEANT_PANIC;
use report::Report;
use scenario::Scenario;
use simulation::{Outcome, run};

/// The seeds of every test run, besides the kept ones.
const SEEDS: Range<u64> = 0..64;
/// In how many seeds a planted bug is looked for: some show only when several things come together.
const BUG_SEEDS: Range<u64> = 0..200;
/// The length of the chaos in each.
const CHAOS_MS: u64 = 18_000;
/// Seeds are shared by this many threads.
const THREADS: usize = 2;

#[test]
fn the_invariants_hold_under_every_seed() {
    let kept = kept_seeds();
    let others = SEEDS.filter(|seed| !kept.contains(seed));
    check(kept.iter().copied().chain(others).collect(), simulate);
}

/// Simulates these seeds, or those that the environment names, and fails if one of them does.
fn check(seeds: VecDeque<u64>, simulate: impl Fn(u64) -> Outcome + Sync) {
    let mut seeds = match std::env::var("SHARDKEEPER_SIM_SEEDS") {
        Ok(range) => parse_range(&range).collect(),
        Err(_) => seeds,
    };
    let count = seeds.len();
    let seeds = Mutex::new(std::mem::take(&mut seeds));
    let failures = Mutex::new(Vec::new());
    let report = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min(count) {
            scope.spawn(|| {
                while let Some(seed) = take(&seeds) {
                    let outcome = simulate(seed);
                    lock(&report).add(&outcome.report);
                    if outcome.violation.is_some() {
                        lock(&failures).push(describe(seed, &outcome));
                    }
                }
            });
        }
    });
    println!("{}", lock(&report));
    let failures = lock(&failures);
    assert!(failures.is_empty(), "{} of {count} seeds failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn one_seed_gives_one_trace() {
    for seed in [3, 11] {
        let (first, second) = (simulate(seed), simulate(seed));
        assert_eq!(first.report.calls, second.report.calls, "seed {seed}");
        let differs = first.recent.iter().zip(&second.recent).find(|(first, second)| first != second);
        assert_eq!(first.hash, second.hash, "seed {seed}: {differs:?}");
    }
    assert_ne!(simulate(3).hash, simulate(11).hash);
}

#[test]
fn writes_without_a_condition_are_found() {
    assert_found(Bug::UnconditionalWrites, Rule::CounterNotRaised, &[Rule::CheckpointBack]);
}

#[test]
fn checkpoints_ahead_of_what_is_done_are_found() {
    assert_found(Bug::HastyCheckpoints, Rule::CheckpointAhead, &[Rule::Lost]);
}

#[test]
fn children_that_start_before_their_parents_end_are_found() {
    // Without its parent's name, a child's lease also fails to keep its parent's from being deleted.
    assert_found(Bug::OrphanedChildren, Rule::ChildBeforeParent, &[Rule::WronglyDeleted]);
}

#[test]
fn deliveries_after_the_deadline_are_found() {
    // A worker that slow also settles late, and is told that its id is taken.
    let late = [Rule::NotLive, Rule::Restless, Rule::WorkerFailed, Rule::Uneven, Rule::Lost];
    assert_found(Bug::SlowClocks, Rule::TwoOwners, &late);
}

#[test]
fn records_that_are_passed_over_are_found() {
    assert_found(Bug::SkippedRecords, Rule::OutOfOrder, &[Rule::Lost]);
}

#[test]
fn take_overs_by_a_proof_older_than_the_row_are_found() {
    assert_found(Bug::StaleProofs, Rule::TwoOwners, &[]);
}

#[test]
fn starts_that_do_not_wait_for_their_claim_are_found() {
    // A worker that lost such a lease waits for its row to show a claim that never reached the table.
    assert_found(Bug::UnclaimedStarts, Rule::TwoOwners, &[Rule::Lost]);
}

#[test]
fn acknowledgements_before_a_dead_letter_is_durable_are_found() {
    assert_found(Bug::EarlyDeadLetters, Rule::CheckpointAhead, &[Rule::DeadLetters, Rule::Lost, Rule::OutOfOrder]);
}

#[test]
fn two_calls_at_once_with_one_item_are_found() {
    assert_found(Bug::SplitItems, Rule::TwoOfAKey, &[Rule::OutOfOrder]);
}

#[test]
fn checkpoints_that_pass_a_hole_are_found() {
    assert_found(Bug::PassedHoles, Rule::CheckpointAhead, &[]);
}

/// Asserts that with this bug put in a seed fails by the rule that the bug breaks, and none before by others than
/// those that follow from it; and that this seed fails by the bug alone.
fn assert_found(bug: Bug, rule: Rule, following: &[Rule]) {
    for seed in BUG_SEEDS {
        let mut scenario = Scenario::new(seed, CHAOS_MS);
        bug.sharpen(&mut scenario);
        let Some(violation) = simulate_scenario(&scenario, Some(bug)).violation else { continue };
        if violation.rule == rule {
            let without = simulate_scenario(&scenario, None).violation;
            assert!(without.is_none(), "seed {seed} without {bug:?}: {without:?}");
            eprintln!("{bug:?} was found by seed {seed}");
            return;
        }
        assert!(following.contains(&violation.rule), "seed {seed}, {bug:?}: {violation}");
    }
    panic!("{bug:?} was not found");
}

fn simulate(seed: u64) -> Outcome {
    simulate_scenario(&Scenario::new(seed, CHAOS_MS), None)
}

fn simulate_scenario(scenario: &Scenario, bug: Option<Bug>) -> Outcome {
    keep_meant_panics_quiet();
    // A thread of its own for each: the SDK draws its jitter from a generator of the thread.
    let simulated = std::thread::scope(|scope| scope.spawn(|| run(scenario, bug)).join());
    simulated.unwrap_or_else(|_| panic!("the simulation of seed {} panicked", scenario.seed))
}

fn describe(seed: u64, outcome: &Outcome) -> String {
    let violation = outcome.violation.as_ref().map(ToString::to_string).unwrap_or_default();
    let next = seed + 1;
    let mut words = format!(
        "seed {seed}: {violation}\n  replay: SHARDKEEPER_SIM_SEEDS={seed}..{next} SHARDKEEPER_SIM_TRACE=1 cargo test \
         --test simulation invariants -- --nocapture"
    );
    if std::env::var_os("SHARDKEEPER_SIM_RECENT").is_some() {
        for line in &outcome.recent {
            words.push_str("\n    ");
            words.push_str(line);
        }
    }
    words
}

fn kept_seeds() -> Vec<u64> {
    let lines = include_str!("seeds.txt").lines();
    lines.filter_map(|line| line.split('#').next()?.trim().parse().ok()).collect()
}

fn parse_range(text: &str) -> Range<u64> {
    let ends = text.split_once("..").and_then(|(from, to)| Some(from.trim().parse().ok()?..to.trim().parse().ok()?));
    ends.unwrap_or_else(|| panic!("SHARDKEEPER_SIM_SEEDS is from..to, not {text:?}"))
}

fn take(seeds: &Mutex<VecDeque<u64>>) -> Option<u64> {
    lock(seeds).pop_front()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep_meant_panics_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        #[cfg(feature = "cli")]
        if std::env::var_os("SHARDKEEPER_SIM_TRACE").is_some() {
            let logs = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).without_time();
            let logs = logs.with_env_filter("shardkeeper=debug").with_writer(std::io::stdout);
            let _ = logs.try_init();
        }
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload().downcast_ref::<&str>() != Some(&MEANT_PANIC) {
                others(panic);
            }
        }));
    });
}
