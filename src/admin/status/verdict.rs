//! A fleet's state in one sentence, and what is wrong with it, the worst first.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{FleetStatus, length};
use crate::model::fleet_state::{ShardState, WorkerState};

/// The limits of the alerts ShardkeeperLagHigh and ShardkeeperTrimHeadroomLow, as shipped.
const MOST_LAG_MS: u64 = 5 * 60_000;
const LEAST_HEADROOM_MS: u64 = 6 * 3_600_000;

/// The gravity of a trouble, by whether its alert calls a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Page,
    Warn,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// Gravity.
    pub severity: Severity,
    /// The trouble, as a part of a sentence.
    pub text: String,
    /// The page of docs/runbooks that tells what to do.
    pub runbook: Option<&'static str>,
}

/// A fleet's state in a sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The sentence: all is well, or the worst trouble.
    pub text: String,
    /// Everything that is wrong, the worst first.
    pub troubles: Vec<Trouble>,
}

impl Verdict {
    /// Judges a status.
    pub(super) fn of(status: &FleetStatus) -> Self {
        let troubles = troubles(status);
        let text = match troubles.as_slice() {
            [] => all_is_well(status),
            [only] => format!("{}.", capitalized(&only.text)),
            [worst, rest @ ..] => {
                let more = if rest.len() == 1 { "one more trouble" } else { &format!("{} more troubles", rest.len()) };
                format!("{}, and {more}.", capitalized(&worst.text))
            }
        };
        Self { text, troubles }
    }

    /// The severity of the worst trouble.
    pub fn severity(&self) -> Option<Severity> {
        self.troubles.first().map(|trouble| trouble.severity)
    }
}

fn all_is_well(status: &FleetStatus) -> String {
    let live = status.workers.iter().filter(|worker| worker.state.is_alive()).count();
    let read = status.totals.shards.get(&ShardState::Reading).copied().unwrap_or_default();
    let reads = if live == 1 { "reads" } else { "read" };
    let lag = status.lag_at_most_ms.map_or_else(|| "unknown".to_owned(), |lag| format!("at most {}", length(lag)));
    format!("All is well: {} {reads} {}; the lag is {lag}.", counted(live, "worker"), counted(read, "shard"))
}

fn troubles(status: &FleetStatus) -> Vec<Trouble> {
    use Severity::{Page, Warn};
    let mut found = Vec::new();
    let mut add = |severity, text, runbook| found.push(Trouble { severity, text, runbook });
    let shards = |test: &dyn Fn(&super::ShardStatus) -> bool| status.shards.iter().filter(|shard| test(shard)).count();
    let is_any_alive = status.workers.iter().any(|worker| worker.state.is_alive());
    if status.kcl_workers.iter().any(|worker| worker.is_alive) {
        add(Warn, "workers of the Kinesis Client Library are alive on the lease table".to_owned(), None);
    } else if !is_any_alive {
        add(Page, "no worker is alive: nothing is read".to_owned(), Some("no-workers"));
    }
    if let Some(left) = status.trim_headroom_at_least_ms.filter(|left| *left < LEAST_HEADROOM_MS) {
        add(Page, format!("records may be lost in {}", length(left)), Some("trim-headroom-low"));
    }
    match shards(&|shard| shard.halted.is_some()) {
        0 => {}
        1 => add(Page, "1 shard waits at a record that keeps failing".to_owned(), Some("shards-halted")),
        count => add(Page, format!("{count} shards wait at records that keep failing"), Some("shards-halted")),
    }
    match shards(&|shard| shard.running_call.is_some()) {
        0 => {}
        1 => add(Page, "1 processor call does not return".to_owned(), Some("shards-stuck")),
        count => add(Page, format!("{count} processor calls do not return"), Some("shards-stuck")),
    }
    let stalled = status.shards.iter().filter_map(|shard| Some((shard.stall.as_ref()?, &shard.id)));
    if let Some((stall, id)) = stalled.min_by_key(|(stall, _)| stall.since_ms) {
        let others = match shards(&|shard| shard.stall.is_some()) - 1 {
            0 => String::new(),
            1 => "; 1 more shard makes none".to_owned(),
            count => format!("; {count} more shards make none"),
        };
        let text = format!("shard {id} makes no progress: {}{others}", stall.cause.words());
        add(Page, text, Some("shards-stuck"));
    }
    if let Some(lag) = status.lag_at_most_ms.filter(|lag| *lag > MOST_LAG_MS) {
        add(Page, format!("the lag may be {}", length(lag)), Some("lag-high"));
    }
    let is_late = |state| matches!(state, WorkerState::Silent | WorkerState::Dead);
    for worker in status.workers.iter().filter(|worker| is_late(worker.state)) {
        add(Warn, format!("worker {} shows no sign of life", worker.id), Some("heartbeat-late"));
    }
    let unread = [ShardState::Unowned, ShardState::OwnerSilent, ShardState::NoLease, ShardState::BrokenRow];
    let unfinished = status.shards.iter().filter(|shard| shard.state != ShardState::Finished);
    let unfinished: BTreeSet<&str> = unfinished.map(|shard| &*shard.id).collect();
    // A shard gets its lease at its parent's end at the latest: until then it waits for that, not for a reader.
    let waits_for_parent = |shard: &super::ShardStatus| {
        shard.state == ShardState::NoLease && shard.parents.iter().any(|parent| unfinished.contains(&**parent))
    };
    match shards(&|shard| unread.contains(&shard.state) && !waits_for_parent(shard)) {
        0 => {}
        count => {
            let have = if count == 1 { "has" } else { "have" };
            add(Warn, format!("{} {have} no reader", counted(count, "shard")), Some("shards-unowned"));
        }
    }
    if is_any_alive && status.leader.as_ref().is_none_or(|leader| !leader.is_alive) {
        add(Warn, "no live worker leads".to_owned(), Some("no-leader"));
    }
    if status.stream.is_disabled == Some(true) {
        add(Warn, "the stream is switched off".to_owned(), None);
    }
    found.sort_by_key(|trouble| trouble.severity);
    found
}

fn counted(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
