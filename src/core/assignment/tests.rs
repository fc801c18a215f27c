//! The properties that README.md promises, on generated fleets.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const NO_LIMIT: usize = usize::MAX;

fn member(id: &str) -> Member {
    Member { id: id.into(), leaving: false, max_leases: None }
}

fn lease(number: usize, owner: Option<&str>) -> LeaseToPlace {
    LeaseToPlace { key: format!("s{number:05}").into(), owner: owner.map(Into::into), moving: false }
}

fn apply(leases: &mut [LeaseToPlace], moves: &[Move]) {
    for step in moves {
        let (Move::Assign { lease, to } | Move::HandOff { lease, to, .. }) = step;
        let row = leases.iter_mut().find(|row| row.key == *lease).expect("a lease of the problem");
        if let Move::HandOff { from, .. } = step {
            assert_eq!(row.owner.as_ref(), Some(from), "a hand-off starts at the owner");
            assert!(!row.moving, "what moves is left alone");
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

fn problems() -> impl Strategy<Value = (Vec<LeaseToPlace>, Vec<Member>)> {
    let members = prop::collection::vec((any::<bool>(), prop::option::weighted(0.2, 0..20_usize)), 1..9);
    let owners = prop::collection::vec((0..12_usize, prop::bool::weighted(0.1)), 0..80);
    (members, owners).prop_map(|(members, owners)| {
        let members: Vec<_> = members
            .into_iter()
            .enumerate()
            .map(|(index, (leaving, max_leases))| Member {
                id: format!("w{index}").into(),
                leaving: leaving && index > 0,
                max_leases,
            })
            .collect();
        let leases = owners
            .into_iter()
            .enumerate()
            .map(|(number, (owner, moving))| {
                let owner = members.get(owner).map(|member| member.id.as_str());
                LeaseToPlace { moving: moving && owner.is_some(), ..lease(number, owner) }
            })
            .collect();
        (leases, members)
    })
}

proptest! {
    #[test]
    fn carried_out_a_plan_is_even_within_limits_and_a_fixpoint((mut leases, members) in problems()) {
        for row in &mut leases {
            row.moving = false;
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
            prop_assert!(!row.moving);
            if let Move::HandOff { from, .. } = &step {
                givers.push(from.clone());
            }
            takers.push(to.clone());
        }
        prop_assert!(givers.iter().all(|giver| !takers.contains(giver)), "the fewest moves there are");
    }

    #[test]
    fn no_more_leases_move_at_once_than_allowed((leases, members) in problems(), limit in 0..6_usize) {
        let moving = leases.iter().filter(|lease| lease.moving).count();
        let moves = plan(&leases, &members, limit);
        let hand_offs = moves.iter().filter(|step| matches!(step, Move::HandOff { .. })).count();
        prop_assert!(hand_offs <= limit.saturating_sub(moving));
    }

    #[test]
    fn bounded_rounds_reach_the_same_balance((mut leases, members) in problems()) {
        for row in &mut leases {
            row.moving = false;
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
}
