//! The dashboard, the rules, the runbooks and the compose file hold together, and with the program's metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;
use shardkeeper::internals::telemetry::catalogue::{ALL, Audience, Kind};

use crate::in_package;
use crate::support::dashboard::{dashboard, panels, queries};

const RULES: &str = "observability/prometheus/rules.yml";

fn read(path: &str) -> String {
    let path = in_package(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The expressions of the dashboard and of the rules, in one text each.
fn expressions() -> [String; 2] {
    [queries(&dashboard()).join("\n"), read(RULES)]
}

/// The words in a text that begin like the program's metrics, as the list names them.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let metrics = words.filter(|word| word.starts_with("shardkeeper_"));
    metrics
        .map(|word| {
            let histogram = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| word.strip_suffix(suffix));
            let is_histogram =
                |name: &&str| ALL.iter().any(|metric| metric.name == *name && metric.kind == Kind::Histogram);
            histogram.filter(is_histogram).unwrap_or(word).to_owned()
        })
        .collect()
}

/// The values after `key:` in a YAML text.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let lines = text.lines().map(|line| line.trim().trim_start_matches("- "));
    lines.filter_map(|line| line.strip_prefix(key)?.strip_prefix(':').map(str::trim)).collect()
}

#[test]
fn every_metric_that_the_dashboard_and_the_rules_name_exists() {
    let known: BTreeSet<String> = ALL.iter().map(|metric| metric.name.to_owned()).collect();
    for text in expressions() {
        let named = metrics_in(&text);
        assert!(named.len() > 5, "hardly any metric was found: {named:?}");
        let unknown: Vec<_> = named.difference(&known).collect();
        assert!(unknown.is_empty(), "not among the program's metrics: {unknown:?}");
    }
}

#[test]
fn every_metric_is_on_the_dashboard_or_said_to_be_for_debugging() {
    let rules = read(RULES);
    let shown = metrics_in(&queries(&dashboard()).join("\n"));
    // A panel may show a recorded series; then what that is made of counts as shown.
    let recorded = metrics_in(&rules);
    for metric in ALL {
        let is_recorded = recorded.contains(metric.name)
            && queries(&dashboard()).iter().any(|query| query.contains(&metric.name.replacen('_', ":", 1)));
        let is_shown = shown.contains(metric.name) || is_recorded;
        let is_for_debugging = metric.audience == Audience::Debugging;
        assert!(is_shown != is_for_debugging, "{}: shown {is_shown}, for debugging {is_for_debugging}", metric.name);
    }
}

#[test]
fn every_recorded_series_that_the_dashboard_reads_is_recorded() {
    let recorded: BTreeSet<String> = values(&read(RULES), "record").into_iter().map(str::to_owned).collect();
    let dashboard = queries(&dashboard()).join("\n");
    let words = dashboard.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let read: BTreeSet<&str> = words.filter(|word| word.starts_with("shardkeeper:")).collect();
    assert!(!read.is_empty());
    for series in read {
        assert!(recorded.contains(series), "{series} is not recorded");
    }
}

#[test]
fn label_values_in_queries_are_ones_that_the_metric_has() {
    let mut compared = 0;
    for text in expressions() {
        for metric in ALL {
            for (at, _) in text.match_indices(metric.name) {
                let Some(matchers) = text[at + metric.name.len()..].strip_prefix('{') else { continue };
                let matchers = &matchers[..matchers.find('}').expect("a closing brace")];
                for label in metric.labels.iter().filter(|label| !label.values.is_empty()) {
                    let Some((_, rest)) = matchers.split_once(label.name) else { continue };
                    let value = rest.split('"').nth(1).expect("a value in quotes");
                    for value in value.split('|') {
                        assert!(label.values.contains(&value), "{} has no {}={value:?}", metric.name, label.name);
                        compared += 1;
                    }
                }
            }
        }
    }
    assert!(compared > 3, "{compared} label values were found");
}

#[test]
fn every_panel_says_what_it_shows_and_in_which_unit() {
    let dashboard = dashboard();
    let mut ids = BTreeSet::new();
    let mut cells = BTreeMap::new();
    let panels = panels(&dashboard);
    assert!(panels.len() > 30, "{} panels", panels.len());
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}: its id is taken");
        let description = panel["description"].as_str().unwrap_or_default();
        assert!(description.ends_with('.'), "{title}: {description:?}");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has no unit");
        assert!(panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()), "{title} shows nothing");
        let place = |name: &str| panel["gridPos"][name].as_u64().expect("a place");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(x < 24, "{title} is beyond the right edge");
                assert_eq!(cells.insert((x, y), title), None, "{title} lies over another panel");
            }
        }
    }
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let rules = read(RULES);
    let alerts = values(&rules, "alert");
    let runbooks = values(&rules, "runbook");
    assert_eq!(alerts.len(), runbooks.len());
    let mut pages = BTreeSet::new();
    for (alert, runbook) in alerts.iter().zip(&runbooks) {
        let page = read(runbook);
        assert!(page.starts_with(&format!("# {alert}\n")), "{runbook} is not about {alert}");
        for part in ["## What it means", "## What to look at", "## What to do"] {
            assert!(page.contains(part), "{runbook} has no {part:?}");
        }
        pages.insert(in_package(runbook));
    }
    // The list of all, by what they call for.
    let list = read("docs/runbooks/README.md");
    for (alert, runbook) in alerts.iter().zip(&runbooks) {
        let rule = rules.split(&format!("- alert: {alert}\n")).nth(1).expect("a rule");
        let severity = rule.split("severity: ").nth(1).and_then(|rest| rest.lines().next()).expect("a severity");
        let page = runbook.trim_start_matches("docs/runbooks/");
        assert!(list.contains(&format!("| [{alert}]({page}) | {severity} |")), "no {severity} {alert} in the list");
    }
    pages.insert(in_package("docs/runbooks/README.md"));
    for page in std::fs::read_dir(in_package("docs/runbooks")).expect("the folder is there") {
        let page = page.expect("an entry").path();
        assert!(pages.contains(&page), "{} belongs to no alert", page.display());
    }
}

#[test]
fn inhibition_rules_name_alerts_that_exist_and_none_inhibits_itself() {
    let rules = read(RULES);
    let alerts: BTreeSet<&str> = values(&rules, "alert").into_iter().collect();
    let text = read("observability/prometheus/alertmanager.yml");
    let named = |part: &str| -> BTreeSet<String> {
        let words = part.split(|c: char| !c.is_ascii_alphanumeric());
        words.filter(|word| word.starts_with("Shardkeeper")).map(str::to_owned).collect()
    };
    let inhibitions: Vec<&str> = text.split("- source_matchers:").skip(1).collect();
    assert!(inhibitions.len() >= 5, "{} rules", inhibitions.len());
    for inhibition in inhibitions {
        let (sources, targets) = inhibition.split_once("target_matchers:").expect("targets");
        let (sources, targets) = (named(sources), named(targets));
        assert!(!sources.is_empty() && !targets.is_empty(), "{inhibition}");
        assert!(sources.iter().chain(&targets).all(|alert| alerts.contains(&**alert)), "{inhibition}");
        assert!(sources.is_disjoint(&targets), "{inhibition}");
    }
}

#[test]
fn links_of_runbooks_lead_somewhere() {
    for page in std::fs::read_dir(in_package("docs/runbooks")).expect("the folder is there") {
        let page = page.expect("an entry").path();
        let text = std::fs::read_to_string(&page).expect("it can be read");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = page.with_file_name(link.split('#').next().unwrap_or(link));
            assert!(target.exists(), "{}: {link}", page.display());
        }
    }
}

#[test]
fn what_the_compose_file_mounts_is_there_and_its_versions_are_pinned() {
    let compose = read("docker-compose.yml");
    let mounts: Vec<&str> = compose.lines().filter_map(|line| line.trim().strip_prefix("- ./")).collect();
    assert!(mounts.len() >= 4, "{mounts:?}");
    for mount in mounts {
        let source = mount.split(':').next().unwrap_or(mount);
        assert!(in_package(source).exists(), "{source} is missing");
    }
    let images = values(&compose, "image");
    assert!(images.len() >= 5);
    for image in images {
        let version = image.split_once(':').map(|(_, version)| version);
        assert!(version.is_some_and(|version| version != "latest"), "{image} is not pinned");
    }
}

#[test]
fn the_rules_and_their_unit_tests_pass_promtool() {
    let Some(promtool) = crate::support::tools::find("promtool") else { return };
    let folder = in_package("observability/prometheus");
    for arguments in [
        ["check", "rules", "rules.yml"],
        ["check", "rules", "kcl.yml"],
        ["test", "rules", "rules_test.yml"],
        ["test", "rules", "kcl_test.yml"],
        ["check", "config", "prometheus.yml"],
    ] {
        let output = Command::new(&promtool).args(arguments).current_dir(&folder).output().expect("promtool runs");
        assert!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_page_of_kcl_metrics_and_its_rules_name_the_same_series_and_only_metrics_that_exist() {
    let (page, rules) = (read("docs/kcl-metrics.md"), read("observability/prometheus/kcl.yml"));
    let tests = read("observability/prometheus/kcl_test.yml");
    let recorded = values(&rules, "record");
    assert!(recorded.len() >= 15, "{recorded:?}");
    for series in recorded {
        let suffix = series.split("_Success").nth(1).map(|rest| format!("`…_Success{rest}`"));
        let is_named = page.contains(&format!("`{series}`")) || suffix.is_some_and(|suffix| page.contains(&suffix));
        assert!(is_named, "the page lacks {series}");
        assert!(tests.contains(&format!("expr: {series}\n")), "kcl_test.yml lacks {series}");
    }
    let metrics = read("docs/metrics.md");
    for text in [&page, &rules] {
        let names = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for name in names.filter(|name| name.starts_with("shardkeeper_")) {
            let name = name.trim_end_matches("_sum").trim_end_matches("_count");
            assert!(metrics.contains(&format!("`{name}`")), "there is no metric {name}");
        }
    }
}

/// The metrics of KCL 3.5's workers and leaders, from its source: what its classes hand to `addData`, `addSuccess`,
/// `addLatency` and `addCount`. `X.Success` and `X.Time` are those of `addSuccessAndLatency`.
const KCL_METRICS: [&str; 38] = [
    "BlockOnParentShardTask",
    "CurrentLeases",
    "DataBytesProcessed",
    "ExpiredIterator",
    "ExpiredLeases",
    "KinesisDataFetcher.getRecords.Success",
    "KinesisDataFetcher.getRecords.Time",
    "LeaderDecider:IsLeader",
    "LeaseAssignmentManager",
    "LeaseSpillover",
    "LeasesToTake",
    "LostLeases",
    "MillisBehindLatest",
    "NeededLeases",
    "NumOfLeasesReassignment",
    "NumStreamsToSync",
    "NumStreamsWithPartialLeases",
    "NumWorkers",
    "PeriodicShardSyncManager",
    "ProcessTask",
    "ApplicationTracker",
    "RecordProcessor.processRecords.Time",
    "RecordsProcessed",
    "RenewAllLeases",
    "RenewLease.Success",
    "RenewLease.Time",
    "ShardSyncTask",
    "Success",
    "SyncShards.Success",
    "TakeLease.Success",
    "TakeLeases",
    "TakenLeases",
    "Time",
    "TotalLeases",
    "UntakenLeases",
    "UpdateLease.Success",
    "UpdateLease.Time",
    "VeryOldLeases",
];

#[test]
fn names_on_the_page_of_kcl_metrics_are_kcl_s() {
    let page = read("docs/kcl-metrics.md");
    let cells = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('|').next());
    let named: BTreeSet<&str> = cells.flat_map(|cell| cell.trim().trim_matches('`').split('`').step_by(2)).collect();
    assert_eq!(named, KCL_METRICS.into());
}

#[test]
fn the_dashboard_is_what_grafana_imports() {
    let dashboard: Value = dashboard();
    for key in ["uid", "title", "schemaVersion", "templating", "panels"] {
        assert!(!dashboard[key].is_null(), "no {key}");
    }
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let names: Vec<&str> = variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
    assert_eq!(names, ["datasource", "app", "table"]);
}
