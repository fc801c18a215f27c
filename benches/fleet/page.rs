//! docs/benchmarks.md and its plots.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;

use super::plot::{self, Group};
use super::report::{Machine, Outcome, figure_text};

const INTRODUCTION: &str = "\
# Benchmarks

For those who choose or size a worker: its throughput, cost, delays and gaps, measured beside a loop on the AWS SDK.
Written by `cargo bench --bench fleet -- --write-docs`; don't edit. Run it on your own machine: it needs nothing else.

The bench runs real processes on one machine: `shardkeeper run`, the local service (`shardkeeper local`) and, for
comparison, a hand-written loop on the AWS SDK for Rust: a task a shard, GetRecords, and a count, without leases,
checkpoints or retries ([benches/fleet/bare.rs](../benches/fleet/bare.rs)). CPU time and peak memory (VmHWM) are the
kernel's figures for the whole process from its start to its end. The service returns pages that were made ahead; the
tables show its remaining part of the CPU time. All calls are plain HTTP over loopback: TLS costs both readers more, the
limits of the real service (some 2 to 5 MB a second for each shard) hold for both, and neither shows here. Compare the
ratios within a run, not the figures of different machines.
";

/// Writes the page and its plots.
pub fn write(machine: &Machine, outcomes: &[Outcome]) -> Result<(), anyhow::Error> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    std::fs::create_dir_all(docs.join("img"))?;
    let mut page = INTRODUCTION.to_owned();
    let _ = writeln!(
        page,
        "\nMeasured on {}, {}, {} build, shared with the service.",
        machine.cpu, machine.kernel, machine.build
    );
    for (file, alt, svg) in plots(outcomes) {
        std::fs::write(docs.join("img").join(file), svg).with_context(|| format!("cannot write docs/img/{file}"))?;
        let _ = writeln!(page, "\n![{alt}](img/{file})");
    }
    for outcome in outcomes {
        section(&mut page, outcome);
    }
    std::fs::write(docs.join("benchmarks.md"), page).context("cannot write docs/benchmarks.md")
}

fn section(page: &mut String, outcome: &Outcome) {
    let mut title = outcome.title.to_owned();
    title[..1].make_ascii_uppercase();
    let _ = writeln!(page, "\n## {title}\n\n`--scenario {}`: {}\n", outcome.name, outcome.setup);
    let labels: Vec<&str> = outcome.runs.iter().map(|run| run.label.as_str()).collect();
    let _ = writeln!(page, "| | {} |", labels.join(" | "));
    let _ = writeln!(page, "| --- |{}", " ---: |".repeat(labels.len()));
    for name in outcome.figure_names() {
        let unit = outcome.unit_of(name);
        let unit = if unit.is_empty() { String::new() } else { format!(", {unit}") };
        let figures: Vec<String> = outcome.runs.iter().map(|run| figure_text(run, name)).collect();
        let _ = writeln!(page, "| {name}{unit} | {} |", figures.join(" | "));
    }
    if !outcome.goals.is_empty() {
        page.push_str("\nGoals:\n\n");
    }
    for goal in &outcome.goals {
        let _ = writeln!(page, "- {}", goal.text());
    }
}

fn plots(outcomes: &[Outcome]) -> Vec<(&'static str, &'static str, String)> {
    let find = |name: &str| outcomes.iter().find(|outcome| outcome.name == name);
    let backlogs: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.name.starts_with("backlog")).collect();
    let groups = |figure: &str| -> Vec<Group> {
        let group = |outcome: &&Outcome| Group {
            label: outcome.title.trim_start_matches("a backlog of ").to_owned(),
            bars: outcome.runs.iter().map(|run| (run.label.clone(), run.value(figure))).collect(),
        };
        backlogs.iter().map(group).collect()
    };
    let mut plots = Vec::new();
    if !backlogs.is_empty() {
        let cpu = plot::bars("CPU time a record", "µs", &groups("CPU a record"));
        plots.push(("benchmarks-cpu.svg", "CPU time a record, beside the SDK loop", cpu));
        let speed = plot::bars("Records a second from a backlog, one process", "", &groups("records a second"));
        plots.push(("benchmarks-speed.svg", "Records a second, beside the SDK loop", speed));
    }
    if let Some(changes) = find("changes") {
        let longest = |run: &super::report::Run| (run.label.clone(), run.value("delay, longest"));
        let group = Group { label: String::new(), bars: changes.runs.iter().map(longest).collect() };
        let svg = plot::bars("Longest wait of a record", "ms", &[group]);
        plots.push(("benchmarks-changes.svg", "Longest wait of a record when the fleet changes", svg));
    }
    if let Some(live) = find("live") {
        let svg = plot::curves("Records that have come out, by the time since they were written", &live.curves);
        plots.push(("benchmarks-delay.svg", "Distribution of the delivery delay", svg));
    }
    if let Some(slow) = find("slow-processor") {
        let svg = plot::curves("The same, with and without a slow processor in one of the shards", &slow.curves);
        plots.push(("benchmarks-slow.svg", "Distribution of the delivery delay beside a slow processor", svg));
    }
    plots
}
