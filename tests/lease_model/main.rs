//! The lease protocol, checked exhaustively: every order of steps, of faults and of late writes, at small sizes.
//!
//! The rows change by the worker's own code (`core::lease`); who changes them when is [`protocol`], a model. What is
//! proved, and what is not, is in docs/protocol.md.
//!
//! `cargo test --test lease_model` checks the small sizes, some 220,000 states. Larger ones by hand:
//! `SHARDKEEPER_MODEL=large cargo test --release --test lease_model`, 4.1 million states in two minutes or so.

mod checker;
mod protocol;
mod row;

use checker::{Fault, Model, Report, check};
use protocol::{
    BACK, EARLY_CHILD, ENDLESS_HAND_OFF, LOST_SHARD, LOST_TENANCY, Protocol, Rules, Size, TWO_OWNERS, UNDELIVERED,
};

/// More states than this are a mistake in a size.
const MOST_STATES: usize = 12_000_000;

const SMALLEST: Size =
    Size { records: 1, crashes: 0, lapses: 0, losses: 0, moves: 0, in_flight: 2, has_namesake: false };
/// Large enough for most forbidden things to happen.
const TRICKY: Size = Size { records: 2, lapses: 1, losses: 1, moves: 1, ..SMALLEST };

fn is_large() -> bool {
    std::env::var("SHARDKEEPER_MODEL").is_ok_and(|size| size == "large")
}

fn assert_sound(model: &impl Model, name: &str, size: Size) {
    let Report { states, steps, fault } = check(model, MOST_STATES);
    println!("{name}, {size:?}: {states} states, {steps} steps");
    if let Some(Fault { rule, trace }) = fault {
        panic!("{name}, {size:?}: {rule}, after\n  {}", trace.join("\n  "));
    }
}

fn assert_sound_with_two_workers(sizes: &[Size]) {
    sizes.iter().for_each(|&size| assert_sound(&Protocol::<2, 1> { size, rules: Rules::ALL }, "two workers", size));
}

#[track_caller]
fn assert_caught(model: &impl Model, rules: &[&str]) {
    let fault = check(model, MOST_STATES).fault.expect("the missing rule has consequences");
    println!("{}, after\n  {}", fault.rule, fault.trace.join("\n  "));
    assert!(rules.contains(&fault.rule), "{}", fault.rule);
}

#[track_caller]
fn assert_needed(rules: Rules, size: Size, consequences: &[&str]) {
    assert_caught(&Protocol::<2, 1> { size, rules }, consequences);
}

#[test]
fn the_rules_hold_through_pauses_hand_offs_and_lost_answers() {
    assert_sound_with_two_workers(&[TRICKY]);
    if is_large() {
        assert_sound_with_two_workers(&[
            Size { lapses: 1, losses: 1, moves: 2, ..SMALLEST },
            Size { lapses: 2, losses: 1, moves: 1, ..SMALLEST },
            Size { lapses: 1, losses: 2, moves: 1, in_flight: 3, ..SMALLEST },
        ]);
    }
}

#[test]
fn the_rules_hold_through_crashes_and_restarts() {
    assert_sound_with_two_workers(&[
        Size { crashes: 1, lapses: 1, losses: 1, ..SMALLEST },
        Size { crashes: 1, losses: 1, moves: 1, ..SMALLEST },
    ]);
    if is_large() {
        assert_sound_with_two_workers(&[
            Size { crashes: 1, ..TRICKY },
            Size { crashes: 2, lapses: 1, losses: 1, moves: 1, ..SMALLEST },
        ]);
    }
}

#[test]
fn the_rules_hold_from_a_parent_to_its_child() {
    let assert_sound_family =
        |size| assert_sound(&Protocol::<2, 2> { size, rules: Rules::ALL }, "two workers, parent and child", size);
    assert_sound_family(Size { lapses: 1, losses: 1, ..SMALLEST });
    assert_sound_family(Size { crashes: 1, losses: 1, ..SMALLEST });
    assert_sound_family(Size { losses: 1, moves: 1, ..SMALLEST });
    if is_large() {
        assert_sound_family(Size { crashes: 1, lapses: 1, losses: 1, ..SMALLEST });
        assert_sound_family(Size { lapses: 1, losses: 1, moves: 1, ..SMALLEST });
    }
}

#[test]
fn the_rules_hold_with_three_workers() {
    let assert_sound_trio = |size| assert_sound(&Protocol::<3, 1> { size, rules: Rules::ALL }, "three workers", size);
    assert_sound_trio(Size { lapses: 1, moves: 1, ..SMALLEST });
    if is_large() {
        assert_sound_trio(Size { crashes: 1, lapses: 1, losses: 1, ..SMALLEST });
        assert_sound_trio(Size { lapses: 1, losses: 1, moves: 1, ..SMALLEST });
        assert_sound_trio(Size { crashes: 1, lapses: 1, losses: 1, moves: 1, ..SMALLEST });
    }
}

// Each rule is needed: without it the checker finds what it prevents.

#[test]
fn a_checkpoint_without_its_counter_condition_is_caught() {
    let rules = Rules { checkpoint_needs_counter: false, ..Rules::ALL };
    assert_needed(rules, TRICKY, &[LOST_TENANCY, BACK]);
}

#[test]
fn a_checkpoint_that_does_not_raise_the_counter_is_caught() {
    assert_needed(Rules { checkpoint_raises_counter: false, ..Rules::ALL }, TRICKY, &[BACK]);
}

#[test]
fn a_take_over_before_the_lapse_is_caught() {
    assert_needed(Rules { take_over_needs_lapse: false, ..Rules::ALL }, TRICKY, &[TWO_OWNERS]);
}

#[test]
fn a_proof_of_death_older_than_the_row_is_caught() {
    assert_needed(Rules { proof_follows_row: false, ..Rules::ALL }, TRICKY, &[TWO_OWNERS]);
}

#[test]
fn a_start_without_a_claim_is_caught() {
    assert_needed(Rules { start_claims: false, ..Rules::ALL }, TRICKY, &[TWO_OWNERS]);
}

#[test]
fn a_claim_that_outlives_its_term_is_caught() {
    assert_needed(Rules { claim_keeps_term: false, ..Rules::ALL }, TRICKY, &[TWO_OWNERS]);
}

#[test]
fn a_new_owner_that_starts_during_the_hand_off_is_caught() {
    assert_needed(Rules { new_owner_waits: false, ..Rules::ALL }, TRICKY, &[TWO_OWNERS]);
}

#[test]
fn a_transfer_that_does_not_look_for_its_hand_off_is_caught() {
    let rules = Rules { transfer_needs_hand_off: false, ..Rules::ALL };
    assert_needed(rules, TRICKY, &[LOST_TENANCY, BACK]);
}

#[test]
fn a_hand_off_forced_while_the_old_owner_reads_is_caught() {
    let size = Size { moves: 2, ..SMALLEST };
    assert_needed(Rules { force_needs_stop: false, ..Rules::ALL }, size, &[TWO_OWNERS]);
}

#[test]
fn adopting_any_row_that_names_the_worker_is_caught() {
    assert_needed(Rules { adopts_hand_offs_only: false, ..Rules::ALL }, TRICKY, &[LOST_TENANCY]);
}

#[test]
fn a_child_that_does_not_look_at_its_parent_is_caught() {
    let rules = Rules { child_waits: false, ..Rules::ALL };
    assert_caught(&Protocol::<2, 2> { size: SMALLEST, rules }, &[EARLY_CHILD]);
}

#[test]
fn a_consumer_that_acknowledges_too_early_is_caught() {
    let rules = Rules { checkpoints_acknowledged: false, ..Rules::ALL };
    assert_needed(rules, SMALLEST, &[UNDELIVERED]);
}

#[test]
fn a_hand_off_that_nobody_passes_on_is_caught() {
    let rules = Rules { passes_on: false, ..Rules::ALL };
    assert_needed(rules, Size { crashes: 1, moves: 1, ..SMALLEST }, &[ENDLESS_HAND_OFF]);
}

#[test]
fn leases_of_the_dead_that_nobody_takes_are_caught() {
    // The worker gave the lease up and no leader gives it away.
    let rules = Rules { leader_assigns: false, ..Rules::ALL };
    assert_needed(rules, SMALLEST, &[LOST_SHARD]);
}

/// A limit that docs/protocol.md names: the table tells workers apart by their ids alone.
#[test]
fn two_processes_under_one_id_are_beyond_the_protocol() {
    let size = Size { has_namesake: true, ..SMALLEST };
    assert_caught(&Protocol::<3, 1> { size, rules: Rules::ALL }, &[TWO_OWNERS]);
}
