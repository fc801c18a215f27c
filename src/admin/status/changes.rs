//! The events between two looks at a fleet, as far as the two statuses differ by them.

use std::collections::BTreeMap;

use super::{FleetStatus, ShardStatus};
use crate::model::fleet_state::ShardState;

/// The events that lead from one status to a later one, in sentences.
pub fn changes(before: &FleetStatus, now: &FleetStatus) -> Vec<String> {
    let mut found = Vec::new();
    of_workers(before, now, &mut found);
    of_shards(before, now, &mut found);
    found
}

fn of_workers(before: &FleetStatus, now: &FleetStatus, found: &mut Vec<String>) {
    let known: BTreeMap<&str, _> = before.workers.iter().map(|worker| (worker.id.as_str(), worker.state)).collect();
    for worker in &now.workers {
        match known.get(worker.id.as_str()) {
            None => found.push(format!("worker {} joined", worker.id)),
            Some(state) if *state != worker.state => {
                found.push(format!("worker {} is {}, was {}", worker.id, worker.state.word(), state.word()));
            }
            Some(_) => {}
        }
    }
    for end in now.ends.iter().filter(|end| !before.ends.contains(end)) {
        let ended = if end.was_found_dead { "was found dead" } else { "ended" };
        found.push(format!("worker {} {ended}: {}", end.worker, end.reason));
    }
    let told = |id: &str| now.ends.iter().any(|end| end.worker == id && !before.ends.contains(end));
    let is_there = |id: &str| now.workers.iter().any(|worker| worker.id == id);
    for id in known.keys().filter(|id| !is_there(id) && !told(id)) {
        found.push(format!("worker {id} left"));
    }
    let leader = |status: &FleetStatus| status.leader.as_ref().map(|leader| (leader.worker.clone(), leader.term));
    if let Some((worker, term)) = leader(now).filter(|now| Some(now) != leader(before).as_ref()) {
        found.push(format!("worker {worker} leads (term {term})"));
    }
}

fn of_shards(before: &FleetStatus, now: &FleetStatus, found: &mut Vec<String>) {
    let known: BTreeMap<&str, &ShardStatus> = before.shards.iter().map(|shard| (shard.id.as_str(), shard)).collect();
    for shard in &now.shards {
        let id = &shard.id;
        let Some(was) = known.get(id.as_str()) else {
            found.push(format!("shard {id} is new"));
            continue;
        };
        let is_finished = shard.state == ShardState::Finished;
        if is_finished && was.state != ShardState::Finished {
            found.push(format!("shard {id} is finished"));
        }
        match (reader(was), reader(shard)) {
            (old, new) if old == new || is_finished => {}
            (None, Some(new)) => found.push(format!("worker {new} took shard {id}")),
            (Some(old), None) => found.push(format!("shard {id} has no owner, was {old}'s")),
            (Some(old), Some(new)) => found.push(format!("worker {new} took shard {id} from {old}")),
            (None, None) => {}
        }
        match (&was.halted, &shard.halted) {
            (None, Some(halted)) => found.push(format!("shard {id} waits at a record: {}", halted.error)),
            (Some(_), None) => found.push(format!("shard {id} waits at its record no longer")),
            _ => {}
        }
        match (&was.running_call, &shard.running_call) {
            (None, Some(_)) => found.push(format!("a processor call of shard {id} does not return")),
            (Some(_), None) => found.push(format!("the processor call of shard {id} is over")),
            _ => {}
        }
        match (&was.stall, &shard.stall) {
            (None, Some(stall)) => found.push(format!("shard {id} makes no progress: {}", stall.cause.words())),
            (Some(_), None) => found.push(format!("shard {id} is stalled no longer")),
            _ => {}
        }
    }
}

/// The worker that reads a shard: during a hand-off the old owner.
fn reader(shard: &ShardStatus) -> Option<&str> {
    shard.handed_over_by.as_deref().or(shard.owner.as_deref())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::admin::status::builder::without_row;
    use crate::admin::status::{LeaderStatus, StreamStatus, Totals, Verdict, WorkerStatus};
    use crate::aws::calls::IdlePolls;
    use crate::model::fleet_state::WorkerState;
    use crate::model::worker_record::WorkerEnd;

    fn worker(id: &str, state: WorkerState) -> WorkerStatus {
        WorkerStatus {
            id: id.into(),
            state,
            is_leader: false,
            version: "1".into(),
            shards: 1,
            max_leases: None,
            throughput_kbps: None,
            caught_up_to_ms: None,
            lag_ms: None,
            last_heartbeat_ms: None,
            heartbeat_still_ms: 0,
        }
    }

    fn shard(id: &str, state: ShardState, owner: Option<&str>, handed_over_by: Option<&str>) -> ShardStatus {
        ShardStatus {
            owner: owner.map(Into::into),
            handed_over_by: handed_over_by.map(Into::into),
            ..without_row(&id.into(), state, &BTreeSet::new())
        }
    }

    fn status(leader: (&str, u64), workers: Vec<WorkerStatus>, shards: Vec<ShardStatus>) -> FleetStatus {
        let leader = LeaderStatus { worker: leader.0.into(), term: leader.1, is_alive: true };
        let stream =
            StreamStatus { arn: None, bound_arn: None, is_disabled: None, listed_shards: None, open_shards: None };
        let read = shards.iter().filter(|shard| shard.state == ShardState::Reading).count();
        let totals = Totals { workers: BTreeMap::new(), shards: BTreeMap::from([(ShardState::Reading, read)]) };
        FleetStatus {
            app: "audit".into(),
            stream,
            leader: Some(leader),
            totals,
            workers,
            shards,
            lag_at_most_ms: Some(1_200),
            trim_headroom_at_least_ms: Some(86_000_000),
            idle_polls: IdlePolls::default(),
            ends: Vec::new(),
            waits: Vec::new(),
            kcl_workers: Vec::new(),
            left_for_kcl: None,
            remarks: Vec::new(),
            verdict: Verdict::default(),
        }
    }

    #[test]
    fn takes_hand_offs_and_ends_are_told_once() {
        use ShardState::{Finished, HandingOver, Reading, Unowned};
        use WorkerState::{Active, Silent};
        let before = status(
            ("a", 1),
            vec![worker("a", Active), worker("b", Active), worker("d", Active)],
            vec![
                shard("s1", Reading, Some("a"), None),
                shard("s2", Reading, Some("b"), None),
                shard("s3", Unowned, None, None),
                shard("s4", Reading, Some("b"), None),
            ],
        );
        let mut now = status(
            ("b", 2),
            vec![worker("b", Silent), worker("c", Active)],
            vec![
                shard("s1", Reading, Some("b"), None),
                shard("s2", HandingOver, Some("c"), Some("b")),
                shard("s3", Reading, Some("c"), None),
                shard("s4", Finished, Some("b"), None),
                shard("s5", Reading, Some("b"), None),
            ],
        );
        let reason = "no heartbeat for 5.0 s".to_owned();
        now.ends = vec![WorkerEnd { worker: "a".into(), at_ms: None, was_found_dead: true, leases: 1, reason }];
        assert_eq!(
            changes(&before, &now),
            [
                "worker b is silent, was active",
                "worker c joined",
                "worker a was found dead: no heartbeat for 5.0 s",
                "worker d left",
                "worker b leads (term 2)",
                "worker b took shard s1 from a",
                "worker c took shard s3",
                "shard s4 is finished",
                "shard s5 is new",
            ]
        );
        assert_eq!(changes(&now, &now), [""; 0]);
    }

    #[test]
    fn the_verdict_is_a_sentence_and_names_the_worst_first() {
        let well = status(
            ("a", 1),
            vec![worker("a", WorkerState::Active)],
            vec![shard("s1", ShardState::Reading, Some("a"), None)],
        );
        let verdict = Verdict::of(&well);
        assert_eq!(verdict.text, "All is well: 1 worker reads 1 shard; the lag is at most 1.2s.");
        assert_eq!(verdict.severity(), None);

        let mut ill = well;
        ill.workers.push(worker("b", WorkerState::Silent));
        ill.shards.push(shard("s2", ShardState::OwnerSilent, Some("b"), None));
        let waiting = ShardStatus { parents: vec!["s1".into()], ..shard("s3", ShardState::NoLease, None, None) };
        ill.shards.push(waiting);
        ill.lag_at_most_ms = Some(600_000);
        let verdict = Verdict::of(&ill);
        assert_eq!(verdict.text, "The lag may be 10m, and 2 more troubles.");
        assert!(verdict.troubles.iter().any(|trouble| trouble.text == "1 shard has no reader"), "the other one waits");
        let runbooks: Vec<_> = verdict.troubles.iter().filter_map(|trouble| trouble.runbook).collect();
        assert_eq!(runbooks, ["lag-high", "heartbeat-late", "shards-unowned"]);
        for runbook in runbooks {
            let page = format!("{}/docs/runbooks/{runbook}.md", env!("CARGO_MANIFEST_DIR"));
            assert!(std::path::Path::new(&page).exists(), "{page}");
        }
    }
}
