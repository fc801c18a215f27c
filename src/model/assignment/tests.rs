//! The properties that README.md promises, on generated fleets.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const NO_LIMIT: usize = usize::MAX;

fn member(id: &str) -> Member {
    Member { id: id.into(), leaving: false, overloaded: false, max_leases: None }
}

fn lease(number: usize, owner: Option<&str>) -> LeaseToPlace {
    LeaseToPlace {
        key: format!("s{number:05}").into(),
        owner: owner.map(Into::into),
        moving: None,
        placed: false,
        weight: None,
        avoid: Vec::new(),
    }
}

fn weighted(number: usize, owner: Option<&str>, kbps: f64) -> LeaseToPlace {
    LeaseToPlace { weight: Some(kbps), ..lease(number, owner) }
}

fn loads(leases: &[LeaseToPlace], members: &[Member]) -> Vec<u64> {
    let weights = weights(leases);
    let load = |member: &Member| {
        let owned = leases.iter().zip(&weights).filter(|(lease, _)| lease.owner.as_ref() == Some(&member.id));
        owned.map(|(_, weight)| weight).sum()
    };
    members.iter().map(load).collect()
}

fn apply(leases: &mut [LeaseToPlace], moves: &[Move]) {
    for step in moves {
        let (Move::Assign { lease, to } | Move::HandOff { lease, to, .. }) = step;
        let row = leases.iter_mut().find(|row| row.key == *lease).expect("a lease of the problem");
        if let Move::HandOff { from, .. } = step {
            assert_eq!(row.owner.as_ref(), Some(from), "a hand-off starts at the owner");
            assert!(row.moving.is_none(), "what moves is left alone");
        }
        row.owner = Some(to.clone());
    }
}

fn counts(leases: &[LeaseToPlace], members: &[Member]) -> Vec<usize> {
    members
        .iter()
        .map(|member| leases.iter().filter(|lease| lease.owner.as_ref() == Some(&member.id)).count())
        .collect()
}

#[test]
fn thirty_two_leases_on_three_workers_are_eleven_eleven_ten() {
    let mut leases: Vec<_> = (0..32).map(|number| lease(number, None)).collect();
    let members = ["a", "b", "c"].map(member);
    let moves = plan(&leases, &members, NO_LIMIT);
    apply(&mut leases, &moves);
    let mut counts = counts(&leases, &members);
    counts.sort_unstable();
    assert_eq!(counts, [10, 11, 11]);
}

#[test]
fn a_third_worker_takes_no_more_than_its_share() {
    let leases: Vec<_> = (0..32).map(|number| lease(number, Some(["a", "b"][number % 2]))).collect();
    let moves = plan(&leases, &["a", "b", "c"].map(member), NO_LIMIT);
    assert_eq!(moves.len(), 10, "two keep eleven each, the fewest moves there are: {moves:?}");
}

#[test]
fn a_leaving_worker_loses_everything_and_gets_nothing() {
    let mut leases: Vec<_> = (0..10).map(|number| lease(number, Some(["a", "b"][number % 2]))).collect();
    leases.push(lease(10, None));
    let members = [Member { leaving: true, ..member("a") }, member("b")];
    let moves = plan(&leases, &members, NO_LIMIT);
    apply(&mut leases, &moves);
    assert_eq!(counts(&leases, &members), [0, 11]);
}

#[test]
fn nothing_moves_when_there_is_nobody_to_move_it_to() {
    let leases: Vec<_> = (0..3).map(|number| lease(number, Some("a"))).collect();
    assert!(plan(&leases, &[Member { leaving: true, ..member("a") }], NO_LIMIT).is_empty());
    assert!(plan(&leases, &[], NO_LIMIT).is_empty());
}

#[test]
fn limits_are_kept_and_what_does_not_fit_stays_unowned() {
    let mut leases: Vec<_> = (0..10).map(|number| lease(number, None)).collect();
    let members = [Member { max_leases: Some(2), ..member("a") }, Member { max_leases: Some(3), ..member("b") }];
    let moves = plan(&leases, &members, NO_LIMIT);
    apply(&mut leases, &moves);
    assert_eq!(counts(&leases, &members), [2, 3]);
}

#[test]
fn hot_leases_are_spread_and_light_ones_fill_up() {
    let mut leases: Vec<_> =
        (0..12).map(|number| weighted(number, None, if number < 2 { 5000.0 } else { 500.0 })).collect();
    let members = ["a", "b"].map(member);
    let moves = plan(&leases, &members, NO_LIMIT);
    apply(&mut leases, &moves);
    assert_eq!(counts(&leases, &members), [6, 6]);
    let hot = leases[..2].iter().map(|lease| lease.owner.clone()).collect::<Vec<_>>();
    assert_ne!(hot[0], hot[1]);
}

#[test]
fn a_worker_with_a_hot_lease_gives_its_others_away() {
    let mut leases: Vec<_> = (0..6).map(|number| weighted(number, Some("a"), 1000.0)).collect();
    leases[0].weight = Some(6000.0);
    leases.extend((6..12).map(|number| weighted(number, Some("b"), 1000.0)));
    let members = ["a", "b"].map(member);
    let moves = plan(&leases, &members, NO_LIMIT);
    assert!(moves.len() <= 3, "{moves:?}");
    apply(&mut leases, &moves);
    let loads = loads(&leases, &members);
    assert!(loads[0].abs_diff(loads[1]) < AVERAGE, "{loads:?}");
}

#[test]
fn a_worker_that_has_nothing_but_idle_leases_beside_a_hot_one_is_left_in_peace() {
    let rates = [("a", 10_000.0), ("a", 0.0), ("b", 4_500.0), ("b", 4_000.0), ("b", 0.0)];
    let leases: Vec<_> =
        rates.iter().enumerate().map(|(number, (owner, rate))| weighted(number, Some(owner), *rate)).collect();
    let loads = loads(&leases, &["a", "b"].map(member));
    assert!(loads[0] * 10 > loads[1] * 11, "the loads differ, but the idle lease would not help: {loads:?}");
    assert_eq!(plan(&leases, &["a", "b"].map(member), NO_LIMIT), []);
}

#[test]
fn rates_that_sway_do_not_move_leases() {
    // Rates that change by a fifth each round, each lease's by its own.
    for round in 0..50_usize {
        let sway = |number: usize| 1000.0 + 200.0 * (((number * 7 + round * 13) % 11) as f64 / 5.0 - 1.0);
        let owner = |number: usize| ["a", "b", "c"][number % 3];
        let leases: Vec<_> = (0..32).map(|number| weighted(number, Some(owner(number)), sway(number))).collect();
        assert_eq!(plan(&leases, &["a", "b", "c"].map(member), NO_LIMIT), [], "round {round}");
    }
}

#[test]
fn a_third_worker_gets_its_share_of_leases_whose_rates_differ_a_little() {
    let rate = |number: usize| 1000.0 + ((number * 37) % 100) as f64;
    let mut leases: Vec<_> =
        (0..32).map(|number| weighted(number, Some(["a", "b"][number % 2]), rate(number))).collect();
    let members = ["a", "b", "c"].map(member);
    let moves = plan(&leases, &members, NO_LIMIT);
    assert_eq!(moves.len(), 10, "{moves:?}");
    apply(&mut leases, &moves);
    assert_eq!(counts(&leases, &members), [11, 11, 10]);
}

#[test]
fn a_placed_lease_stays_with_its_owner_until_the_owner_leaves() {
    let leases: Vec<LeaseToPlace> =
        (0..3).map(|number| LeaseToPlace { placed: true, ..lease(number, Some("a")) }).collect();
    let members = [member("a"), member("b")];
    assert_eq!(plan(&leases, &members, 10), []);
    let one_free = [LeaseToPlace { placed: false, ..leases[0].clone() }, leases[1].clone(), leases[2].clone()];
    assert_eq!(plan(&one_free, &members, 10).len(), 1, "the others are still evened out");
    let leaving = [Member { leaving: true, ..member("a") }, member("b")];
    assert_eq!(plan(&leases, &leaving, 10).len(), 3);
}

#[test]
fn an_overloaded_worker_keeps_what_it_has_and_gets_nothing_while_others_can() {
    let mut leases: Vec<_> = (0..6).map(|number| lease(number, Some(["a", "b"][usize::from(number > 1)]))).collect();
    leases.extend((6..9).map(|number| lease(number, None)));
    let members = [Member { overloaded: true, ..member("a") }, member("b")];
    let moves = plan(&leases, &members, NO_LIMIT);
    apply(&mut leases, &moves);
    assert_eq!(counts(&leases, &members), [2, 7]);
    let full = [members[0].clone(), Member { max_leases: Some(4), ..member("b") }];
    let unowned = [lease(0, None)];
    assert_eq!(plan(&unowned, &[full[0].clone()], NO_LIMIT).len(), 1, "a slow reader is better than none");
}

#[test]
fn a_lease_is_not_given_to_a_worker_that_hangs_on_it() {
    let mut stuck = LeaseToPlace { avoid: vec!["a".into()], ..lease(0, None) };
    let owned: Vec<_> = (1..5).map(|number| lease(number, Some("b"))).collect();
    let leases: Vec<_> = owned.iter().cloned().chain([stuck.clone()]).collect();
    let moves = plan(&leases, &["a", "b"].map(member), NO_LIMIT);
    assert!(moves.contains(&Move::Assign { lease: stuck.key.clone(), to: "b".into() }), "{moves:?}");
    stuck.avoid.push("b".into());
    assert_eq!(plan(&[stuck.clone()], &["a", "b"].map(member), NO_LIMIT), [], "it waits until a call returns");
    let owner = LeaseToPlace { owner: Some("b".into()), avoid: vec!["a".into()], ..stuck };
    assert_eq!(plan(&[owner], &[member("a"), Member { leaving: true, ..member("b") }], NO_LIMIT), []);
}

#[test]
fn a_worker_that_hangs_on_a_lease_gets_no_other_in_its_place() {
    let mut leases: Vec<_> = (0..4).map(|number| lease(number, Some(["a", "b"][number / 3]))).collect();
    leases[0].avoid.push("b".into());
    assert_eq!(plan(&leases, &["a", "b"].map(member), NO_LIMIT), []);
    leases[0].avoid.clear();
    assert_eq!(plan(&leases, &["a", "b"].map(member), NO_LIMIT).len(), 1);
}

/// Fleets whose leases deliver from nothing to very much, and some of which nobody knows how much.
fn weighted_problems() -> impl Strategy<Value = (Vec<LeaseToPlace>, Vec<Member>)> {
    let rate = prop_oneof![
        2 => Just(None),
        3 => (0.0..2.0_f64).prop_map(Some),
        3 => (0.0..2000.0_f64).prop_map(Some),
        1 => (5000.0..100_000.0_f64).prop_map(Some),
    ];
    (problems(), prop::collection::vec(rate, 80), 0..4_usize).prop_map(|((leases, members), rates, overloaded)| {
        let leases = leases.into_iter().zip(rates).map(|(lease, weight)| LeaseToPlace { weight, ..lease }).collect();
        let members = members.into_iter().enumerate();
        (
            leases,
            members.map(|(index, member)| Member { overloaded: index == overloaded && index > 0, ..member }).collect(),
        )
    })
}

fn problems() -> impl Strategy<Value = (Vec<LeaseToPlace>, Vec<Member>)> {
    let members = prop::collection::vec((any::<bool>(), prop::option::weighted(0.2, 0..20_usize)), 1..9);
    let owners = prop::collection::vec((0..12_usize, prop::bool::weighted(0.1)), 0..80);
    (members, owners).prop_map(|(members, owners)| {
        let members: Vec<_> = members
            .into_iter()
            .enumerate()
            .map(|(index, (leaving, max_leases))| Member {
                leaving: leaving && index > 0,
                max_leases,
                ..member(&format!("w{index}"))
            })
            .collect();
        let leases = owners
            .into_iter()
            .enumerate()
            .map(|(number, (owner, moving))| {
                let owner = members.get(owner).map(|member| member.id.as_str());
                LeaseToPlace { moving: owner.filter(|_| moving).map(Into::into), ..lease(number, owner) }
            })
            .collect();
        (leases, members)
    })
}

#[test]
fn hand_offs_that_hang_at_one_worker_hold_up_no_other() {
    let hangs = (0..4).map(|number| LeaseToPlace { moving: Some("bad".into()), ..lease(number, Some("new")) });
    let leases: Vec<_> = hangs.chain((4..8).map(|number| lease(number, Some("goes")))).collect();
    let goes = Member { leaving: true, ..member("goes") };
    let moves = plan(&leases, &[member("bad"), goes, member("new")], 4);
    let from_goes = moves.iter().filter(|step| matches!(step, Move::HandOff { from, .. } if *from == "goes".into()));
    assert_eq!(from_goes.count(), 4, "{moves:?}");
}

proptest! {
    #[test]
    fn carried_out_a_plan_is_even_within_limits_and_a_fixpoint((mut leases, members) in problems()) {
        for row in &mut leases {
            row.moving = None;
        }
        let moves = plan(&leases, &members, NO_LIMIT);
        apply(&mut leases, &moves);
        prop_assert!(plan(&leases, &members, NO_LIMIT).is_empty(), "planning its own result changes nothing");

        let counts = counts(&leases, &members);
        let free = |index: usize| members[index].max_leases.is_none_or(|limit| counts[index] < limit);
        let active: Vec<_> = (0..members.len()).filter(|index| !members[*index].leaving).collect();
        let some_free = active.iter().any(|index| free(*index));
        for &index in &active {
            let within = members[index].max_leases.is_none_or(|limit| counts[index] <= limit);
            prop_assert!(within || !some_free, "a lease above the limit stays only where nobody could take it");
            for &other in active.iter().filter(|other| free(**other)) {
                prop_assert!(counts[index] <= counts[other] + 1, "{counts:?}");
            }
        }
        if some_free {
            prop_assert!(leases.iter().all(|row| row.owner.is_some()));
            prop_assert!((0..members.len()).all(|index| !members[index].leaving || counts[index] == 0));
        }
    }

    #[test]
    fn no_lease_moves_twice_and_no_worker_both_gives_and_takes((leases, members) in problems()) {
        let mut moved = BTreeMap::new();
        let (mut givers, mut takers) = (Vec::new(), Vec::new());
        for step in plan(&leases, &members, NO_LIMIT) {
            let (Move::Assign { lease, to } | Move::HandOff { lease, to, .. }) = &step;
            prop_assert!(moved.insert(lease.clone(), ()).is_none());
            let row = leases.iter().find(|row| row.key == *lease).expect("a lease of the problem");
            prop_assert!(row.moving.is_none());
            if let Move::HandOff { from, .. } = &step {
                givers.push(from.clone());
            }
            takers.push(to.clone());
        }
        prop_assert!(givers.iter().all(|giver| !takers.contains(giver)), "the fewest moves there are");
    }

    #[test]
    fn no_more_leases_move_at_once_than_allowed((leases, members) in problems(), limit in 0..6_usize) {
        let moves = plan(&leases, &members, limit);
        for member in &members {
            let moving = leases.iter().filter(|lease| lease.moving.as_ref() == Some(&member.id)).count();
            let hand_offs = moves.iter().filter(|step| matches!(step, Move::HandOff { from, .. } if *from == member.id));
            let limit = if member.leaving { limit * LEAVING_FACTOR } else { limit };
            prop_assert!(hand_offs.count() <= limit.saturating_sub(moving));
        }
    }

    #[test]
    fn bounded_rounds_reach_the_same_balance((mut leases, members) in problems()) {
        for row in &mut leases {
            row.moving = None;
        }
        let mut rounds = 0;
        loop {
            let moves = plan(&leases, &members, 3);
            if moves.is_empty() { break; }
            apply(&mut leases, &moves);
            rounds += 1;
            prop_assert!(rounds < 100, "the rounds must end");
        }
        prop_assert!(plan(&leases, &members, NO_LIMIT).is_empty());
    }

    #[test]
    fn by_weight_a_plan_is_a_fixpoint_and_no_worker_far_above_another((mut leases, members) in weighted_problems()) {
        for row in &mut leases {
            row.moving = None;
        }
        let moves = plan(&leases, &members, NO_LIMIT);
        apply(&mut leases, &moves);
        prop_assert_eq!(plan(&leases, &members, NO_LIMIT), []);

        let (loads, counts, weights) = (loads(&leases, &members), counts(&leases, &members), weights(&leases));
        let heaviest = weights.iter().max().copied().unwrap_or_default();
        let staying = members.iter().filter(|member| !member.leaving).count() as u64;
        let fair = weights.iter().sum::<u64>() / staying;
        let is_free = |index: usize| {
            let member = &members[index];
            !member.leaving && !member.overloaded && member.max_leases.is_none_or(|limit| counts[index] < limit)
        };
        for free in (0..members.len()).filter(|index| is_free(*index)) {
            for &load in &loads {
                let difference = load.saturating_sub(loads[free]);
                prop_assert!(difference <= (heaviest * 3 / 2 + 2).max(fair / 10 + 2), "{loads:?}");
            }
            prop_assert!(leases.iter().all(|row| row.owner.is_some()));
        }
    }

    #[test]
    fn equal_weights_are_planned_as_counts((leases, members) in problems(), kbps in 0.0..1e6_f64) {
        let counted = plan(&leases, &members, NO_LIMIT);
        let leases: Vec<_> = leases.into_iter().map(|lease| LeaseToPlace { weight: Some(kbps), ..lease }).collect();
        prop_assert_eq!(plan(&leases, &members, NO_LIMIT), counted);
    }

    #[test]
    fn next_to_nothing_moves_no_lease_of_an_even_idle_fleet(
        rates in prop::collection::vec(prop::option::of(0.0..1.0_f64), 0..80),
        workers in 1..9_usize,
    ) {
        let members: Vec<_> = (0..workers).map(|index| member(&format!("w{index}"))).collect();
        let owner = |number: usize| Some(members[number % workers].id.clone());
        let leases = rates.iter().enumerate();
        let leases = leases.map(|(number, weight)| LeaseToPlace { weight: *weight, owner: owner(number), ..lease(number, None) });
        prop_assert_eq!(plan(&leases.collect::<Vec<_>>(), &members, NO_LIMIT), []);
    }

    #[test]
    fn by_weight_bounded_rounds_end_and_nothing_new_goes_where_it_must_not((mut leases, members) in weighted_problems()) {
        for row in &mut leases {
            row.moving = None;
        }
        let mut rounds = 0;
        loop {
            let moves = plan(&leases, &members, 2);
            if moves.is_empty() { break; }
            for step in &moves {
                let (Move::Assign { to, .. } | Move::HandOff { to, .. }) = step;
                let taker = members.iter().find(|member| member.id == *to).expect("a member");
                prop_assert!(!taker.leaving);
                let others = members.iter().any(|other| !other.leaving && !other.overloaded && other.max_leases.is_none());
                prop_assert!(!taker.overloaded || !others);
            }
            apply(&mut leases, &moves);
            rounds += 1;
            prop_assert!(rounds < 200, "the rounds must end");
        }
        prop_assert_eq!(plan(&leases, &members, NO_LIMIT), []);
    }
}
