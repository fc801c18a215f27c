//! A fleet's status as text: aligned columns, one line per worker and shard.

use std::fmt::Write;

use crate::admin::status::{
    FleetStatus, KclDeparture, KclWorkerStatus, ShardStatus, Trouble, Verdict, WorkerStatus, length,
};
use crate::model::fleet_state::ShardState;
use crate::model::worker_record::WorkerEnd;

/// The whole status.
pub fn render(status: &FleetStatus, now_ms: u64) -> String {
    let mut text = summary(status, now_ms);
    if !status.workers.is_empty() {
        let header = ["WORKER", "STATE", "VERSION", "SHARDS", "KB/S", "LAG", "LAST HEARTBEAT"];
        let rows = status.workers.iter().map(|seen| worker(seen, now_ms));
        text.push('\n');
        text.push_str(&columns(&header, rows));
    }
    if !status.kcl_workers.is_empty() {
        let header = ["KCL WORKER", "STATE", "SHARDS", "LAST METRICS"];
        text.push('\n');
        text.push_str(&columns(&header, status.kcl_workers.iter().map(|worker| kcl_worker(worker, now_ms))));
    }
    if !status.shards.is_empty() {
        let header = ["SHARD", "STATE", "WORKER", "CHECKPOINT", "PARENT", "LAG AT MOST"];
        let rows = status.shards.iter().map(shard);
        text.push('\n');
        text.push_str(&columns(&header, rows));
    }
    if !status.ends.is_empty() {
        let header = ["ENDED", "WHEN", "SHARDS", "REASON"];
        text.push('\n');
        text.push_str(&columns(&header, status.ends.iter().rev().map(|end| ended(end, now_ms))));
    }
    if !status.waits.is_empty() {
        text.push_str("\nWAITING\n");
        status.waits.iter().for_each(|wait| line(&mut text, "  ", &wait.text));
    }
    if !status.remarks.is_empty() {
        text.push_str("\nNOTE\n");
        status.remarks.iter().for_each(|remark| line(&mut text, "  ", remark));
    }
    text
}

fn line(text: &mut String, before: &str, content: &str) {
    text.push_str(before);
    text.push_str(content);
    text.push('\n');
}

fn summary(status: &FleetStatus, now_ms: u64) -> String {
    let stream = &status.stream;
    let name = stream.arn.as_deref().or(stream.bound_arn.as_deref()).unwrap_or("unknown");
    let mut about_stream = name.to_owned();
    if let Some(is_disabled) = stream.is_disabled {
        let _ = write!(about_stream, " ({}", if is_disabled { "switched off" } else { "on" });
        if let (Some(listed), Some(open)) = (stream.listed_shards, stream.open_shards) {
            let _ = write!(about_stream, "; {listed} shards listed, {open} open");
        }
        about_stream.push(')');
    }
    let leader = match &status.leader {
        None => "none".to_owned(),
        Some(leader) => {
            let life = if leader.is_alive { "" } else { ", no sign of life" };
            format!("{} (term {}{life})", leader.worker, leader.term)
        }
    };
    let workers = counted(status.workers.len(), status.totals.workers.iter().map(|(state, n)| (state.word(), *n)));
    let shards = counted(status.shards.len(), status.totals.shards.iter().map(|(state, n)| (state.words(), *n)));
    let behind = match (status.lag_at_most_ms, status.trim_headroom_at_least_ms) {
        (Some(lag), Some(left)) => format!("at most {}; nothing is trimmed for {}", length(lag), length(left)),
        _ => "unknown".to_owned(),
    };
    let mut lines = vec![["application".to_owned(), status.app.clone()]];
    lines.extend(verdict(&status.verdict));
    lines.extend([
        ["stream".to_owned(), about_stream],
        ["leader".to_owned(), leader],
        ["workers".to_owned(), workers],
        ["shards".to_owned(), shards],
        ["behind".to_owned(), behind],
    ]);
    if let (Some(left), true) = (&status.left_for_kcl, status.workers.is_empty()) {
        let when = left.at_ms.map(|moment| format!("{} ago, ", length(now_ms.saturating_sub(moment))));
        let KclDeparture { worker, shard, .. } = left;
        let reason = format!("because KCL worker {worker} was alive on the lease table, at work on {shard}");
        lines.push(["left".to_owned(), format!("{}{reason}", when.unwrap_or_default())]);
    }
    aligned(lines.iter().map(|line| line.as_slice()).collect())
}

/// That all is well, or a line for each trouble.
fn verdict(verdict: &Verdict) -> Vec<[String; 2]> {
    let trouble = |trouble: &Trouble| match trouble.runbook {
        Some(runbook) => format!("{}: see docs/runbooks/{runbook}.md", trouble.text),
        None => trouble.text.clone(),
    };
    let mut texts: Vec<String> = verdict.troubles.iter().map(trouble).collect();
    if texts.is_empty() {
        texts.push(verdict.text.clone());
    }
    let names = std::iter::once("verdict").chain(std::iter::repeat(""));
    names.zip(texts).map(|(name, text)| [name.to_owned(), text]).collect()
}

/// `3: 2 reading, 1 finished`.
fn counted<'a>(total: usize, states: impl Iterator<Item = (&'a str, usize)>) -> String {
    let states: Vec<String> = states.map(|(state, count)| format!("{count} {state}")).collect();
    match states.is_empty() {
        true => "none".to_owned(),
        false => format!("{total}: {}", states.join(", ")),
    }
}

fn worker(worker: &WorkerStatus, now_ms: u64) -> [String; 7] {
    let leads = if worker.is_leader { " (leader)" } else { "" };
    let shards = match worker.max_leases {
        Some(limit) => format!("{} of at most {limit}", worker.shards),
        None => worker.shards.to_string(),
    };
    [
        format!("{}{leads}", worker.id),
        worker.state.word().to_owned(),
        worker.version.clone(),
        shards,
        known(worker.throughput_kbps.map(|rate| format!("{rate:.1}")), worker.shards > 0),
        known(worker.lag_ms.map(length), worker.shards > 0),
        match worker.state.is_alive() {
            true => format!("{} ago", length(worker.heartbeat_still_ms)),
            false => match worker.last_heartbeat_ms {
                Some(moment) => format!("{} ago", length(now_ms.saturating_sub(moment))),
                None => format!("none for {}", length(worker.heartbeat_still_ms)),
            },
        },
    ]
}

fn kcl_worker(worker: &KclWorkerStatus, now_ms: u64) -> [String; 4] {
    let leads = if worker.is_leader { " (leader)" } else { "" };
    [
        format!("{}{leads}", worker.id),
        if worker.is_alive { "alive" } else { "silent" }.to_owned(),
        worker.shards.len().to_string(),
        known(worker.last_metrics_ms.map(|moment| format!("{} ago", length(now_ms.saturating_sub(moment)))), false),
    ]
}

fn ended(end: &WorkerEnd, now_ms: u64) -> [String; 4] {
    let when = end.at_ms.map(|moment| format!("{} ago", length(now_ms.saturating_sub(moment))));
    let reason = if end.was_found_dead { format!("found dead: {}", end.reason) } else { end.reason.clone() };
    [end.worker.clone(), known(when, true), end.leases.to_string(), reason]
}

fn shard(shard: &ShardStatus) -> [String; 6] {
    let has_lag = shard.state != ShardState::Finished;
    let owner = known(shard.owner.clone(), false);
    let reader = match &shard.handed_over_by {
        Some(from) => format!("{from} -> {owner}"),
        None => owner,
    };
    let parents = (!shard.parents.is_empty()).then(|| shard.parents.join(" "));
    [
        shard.id.clone(),
        shard.state.words().to_owned(),
        reader,
        known(shard.checkpoint.clone(), shard.state == ShardState::BrokenRow),
        known(parents, false),
        known(shard.lag_at_most_ms.map(length), has_lag),
    ]
}

/// A value; without one, whether there is one that is not known.
fn known(value: Option<String>, exists: bool) -> String {
    value.unwrap_or_else(|| if exists { "unknown" } else { "-" }.to_owned())
}

/// A table with a header, each column as wide as its widest cell.
pub fn columns<const N: usize>(header: &[&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut all = vec![header.map(str::to_owned)];
    all.extend(rows);
    aligned(all.iter().map(|row| row.as_slice()).collect())
}

/// A table without a header: two spaces between columns, none at the end of a line.
pub fn aligned(lines: Vec<&[String]>) -> String {
    let columns = lines.iter().map(|line| line.len()).max().unwrap_or(0);
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::Severity;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["a".to_owned(), "long cell".to_owned(), "x".to_owned()],
            ["äöü".to_owned(), "-".to_owned(), "-".to_owned()],
        ];
        let text = columns(&["N", "STATE", "LAG"], rows.into_iter());
        assert_eq!(text, "N    STATE      LAG\na    long cell  x\näöü  -          -\n");
    }

    #[test]
    fn each_trouble_has_a_line_with_its_runbook() {
        let trouble = |text: &str, runbook| Trouble { severity: Severity::Warn, text: text.to_owned(), runbook };
        let troubles =
            vec![trouble("no live worker leads", Some("no-leader")), trouble("the stream is switched off", None)];
        let lines = verdict(&Verdict { text: String::new(), troubles });
        let text = aligned(lines.iter().map(|line| line.as_slice()).collect());
        assert_eq!(
            text,
            "verdict  no live worker leads: see docs/runbooks/no-leader.md\n         the stream is switched off\n"
        );
        let well = Verdict { text: "All is well.".to_owned(), troubles: Vec::new() };
        assert_eq!(verdict(&well), [["verdict".to_owned(), "All is well.".to_owned()]]);
    }

    #[test]
    fn what_is_not_known_is_told_from_what_there_is_not() {
        let columns = |state, lag_at_most_ms| {
            let shard = ShardStatus {
                id: "s".into(),
                state,
                owner: None,
                handed_over_by: None,
                checkpoint: Some("5".into()),
                parents: Vec::new(),
                counter: Some(1),
                throughput_kbps: None,
                lag_at_most_ms,
                trim_headroom_at_least_ms: None,
                halted: None,
                running_call: None,
                stall: None,
            };
            super::shard(&shard)[2..].to_vec()
        };
        assert_eq!(columns(ShardState::Unowned, None), ["-", "5", "-", "unknown"]);
        assert_eq!(columns(ShardState::Reading, Some(1_500)), ["-", "5", "-", "1.5s"]);
        assert_eq!(columns(ShardState::Finished, None), ["-", "5", "-", "-"]);
    }

    #[test]
    fn durations_are_rounded_down_to_one_unit() {
        let lengths: Vec<String> = [0, 1_490, 9_999, 10_000, 125_000, 7_200_000].into_iter().map(length).collect();
        assert_eq!(lengths, ["0.0s", "1.4s", "9.9s", "10s", "2m", "2h"]);
    }
}
