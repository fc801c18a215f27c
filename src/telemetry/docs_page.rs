//! The list of metrics as a page for people: `docs/metrics.md`.

use std::fmt::Write;

use metrics::Unit;

use super::catalogue::{ALL, Audience, Kind, Label, Metric, Shown, Topic};

/// The text above the tables.
const OPENING: &str = "# Metrics

<!-- Made from src/telemetry/catalogue.rs: SHARDKEEPER_WRITE_DOCS=1 cargo test --lib telemetry -->

`shardkeeper run` serves these on `/metrics`, in Prometheus' text format. Each has the labels `app` and `table` besides
those named here. Under **for**, *debugging* marks what is not on the dashboard. Counters and histograms with fixed label
values start at zero; a gauge is there once its value is known, and goes when it no longer is. Counters hold whole
numbers, so those of seconds move a second at a time. In a
program of your own: [library.md](library.md#metrics-and-tracing). How lag is measured: [operations.md](operations.md#lag).
";

/// The topics, in the dashboard's order, with their headings.
const TOPICS: [(Topic, &str); 8] = [
    (Topic::Worker, "The worker"),
    (Topic::Lag, "Lag"),
    (Topic::Throughput, "Throughput"),
    (Topic::Processor, "The processor"),
    (Topic::Leases, "Leases"),
    (Topic::Shards, "Shards"),
    (Topic::Api, "Calls of the services"),
    (Topic::Resources, "Resources"),
];

/// The page.
fn markdown() -> String {
    let mut page = OPENING.to_owned();
    for (topic, heading) in TOPICS {
        let _ = write!(page, "\n## {heading}\n\n| metric | kind | unit | labels | shown | for | |\n");
        page.push_str("| --- | --- | --- | --- | --- | --- | --- |\n");
        ALL.iter().filter(|metric| metric.topic == topic).for_each(|metric| line(&mut page, metric));
    }
    page
}

fn line(page: &mut String, metric: &Metric) {
    let labels: Vec<String> = metric.labels.iter().map(label).collect();
    let _ = writeln!(
        page,
        "| `{}` | {} | {} | {} | {} | {} | {} |",
        metric.name,
        kind(metric.kind),
        unit(metric.unit),
        labels.join("; "),
        shown(metric.shown),
        audience(metric.audience),
        metric.help,
    );
}

fn label(label: &Label) -> String {
    match label.values {
        [] => format!("`{}`", label.name),
        values => format!("`{}`: {}", label.name, values.join(", ")),
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}

fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Count => "",
        unit => unit.as_str(),
    }
}

fn shown(shown: Shown) -> &'static str {
    match shown {
        Shown::Always => "always",
        Shown::ByLeader => "by the leader",
        Shown::OnEvent => "when it happens",
        Shown::PerShard => "with `--metrics-per-shard`",
        Shown::ByProgram => "by the program",
    }
}

fn audience(audience: Audience) -> &'static str {
    match audience {
        Audience::Dashboard => "",
        Audience::Debugging => "debugging",
    }
}

mod tests {
    use std::path::Path;

    use super::*;

    /// With `SHARDKEEPER_WRITE_DOCS` set it writes the page.
    #[test]
    fn the_page_in_docs_is_made_from_this_list() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
        if std::env::var_os("SHARDKEEPER_WRITE_DOCS").is_some() {
            std::fs::write(&path, markdown()).expect("the page can be written");
        }
        let written = std::fs::read_to_string(&path).expect("docs/metrics.md is there");
        assert!(
            written == markdown(),
            "docs/metrics.md is out of date: SHARDKEEPER_WRITE_DOCS=1 cargo test --lib telemetry"
        );
    }

    #[test]
    fn every_metric_is_on_the_page() {
        let page = markdown();
        for metric in ALL {
            assert!(page.contains(&format!("| `{}` |", metric.name)), "{}", metric.name);
        }
    }
}
