//! Pages for newcomers: the options, metrics and messages that they name are the program's.

use std::collections::BTreeSet;
use std::path::Path;

use shardkeeper::internals::telemetry::catalogue;

use crate::in_package;
use crate::support::{finish, shardkeeper};

const PAGES: [&str; 5] =
    ["from-kcl.md", "from-lambda.md", "from-redpanda-connect.md", "troubleshooting.md", "versions.md"];

fn page(name: &str) -> String {
    std::fs::read_to_string(in_package("docs").join(name)).expect("the page")
}

/// The words of a text that begin with `prefix`.
fn words<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || "-_".contains(character);
    text.match_indices(prefix).filter_map(move |(at, _)| {
        let is_begin = !text[..at].ends_with(is_part);
        let end = text[at..].find(|character| !is_part(character)).map_or(text.len(), |length| at + length);
        (is_begin && end > at + prefix.len()).then_some(&text[at..end])
    })
}

#[test]
fn every_option_that_the_pages_name_is_one_of_the_programs() {
    let mut known = BTreeSet::new();
    let commands: [&[&str]; 4] = [&["run"], &["check"], &["status"], &["lease", "assign"]];
    for command in commands {
        let help = finish(shardkeeper().args(command).arg("--help")).stdout;
        known.extend(words(&help, "--").map(str::to_owned));
    }
    assert!(known.len() > 60, "{known:?}");
    // kubectl's.
    known.extend(["--previous", "--container"].map(str::to_owned));
    let mut named = 0;
    for name in PAGES {
        let text = page(name);
        for option in words(&text, "--").filter(|option| option.starts_with('-') && *option != "---") {
            if option.trim_start_matches('-').is_empty() {
                continue; // a table's rule
            }
            named += 1;
            assert!(known.contains(option), "{name}: {option} is no option");
        }
    }
    assert!(named > 80, "only {named} options were found");
}

#[test]
fn every_metric_that_the_pages_name_is_in_the_catalogue() {
    let known: BTreeSet<&str> = catalogue::ALL.iter().map(|metric| metric.name).collect();
    for name in PAGES {
        let text = page(name);
        for metric in words(&text, "shardkeeper_") {
            assert!(known.contains(metric), "{name}: {metric} is no metric");
        }
    }
}

#[test]
fn every_link_of_the_pages_leads_to_a_file() {
    for name in PAGES {
        let text = page(name);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            assert!(file.starts_with("https://") || in_package("docs").join(file).exists(), "{name}: {link}");
        }
    }
}

#[test]
fn every_message_of_the_troubleshooting_page_is_in_the_source() {
    let source = literals(&in_package("src"));
    let text = page("troubleshooting.md");
    let mut messages = 0;
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let message = row.split('`').nth(1).expect("a span");
        // Other programs' words and names of places.
        if ["/ready", "shardkeeper status", "Init:Error"].contains(&message) {
            continue;
        }
        messages += 1;
        assert!(source.contains(message), "no message of the program says {message:?}");
    }
    assert!(messages > 20, "only {messages} messages were found");
}

/// The source's text with each placeholder as `{}`, and literals that span lines in one.
fn literals(path: &Path) -> String {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).expect("a folder");
        return entries.map(|entry| literals(&entry.expect("an entry").path())).collect();
    }
    let text = std::fs::read_to_string(path).expect("it can be read").replace("\\\"", "\"");
    let mut joined = String::new();
    for part in text.split("\\\n") {
        joined.push_str(if joined.is_empty() { part } else { part.trim_start() });
    }
    let mut plain = String::new();
    let mut rest = joined.as_str();
    while let Some((before, after)) = rest.split_once('{') {
        plain.push_str(before);
        let end = after.find(|character: char| !(character.is_alphanumeric() || "_:.?".contains(character)));
        match end.filter(|end| after[*end..].starts_with('}')) {
            Some(end) => {
                plain.push_str("{}");
                rest = &after[end + 1..];
            }
            None => {
                plain.push('{');
                rest = after;
            }
        }
    }
    plain + rest
}
