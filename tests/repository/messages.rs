//! The log's sentences, as the source has them, against `docs/messages.md` and the rules for fields.

use std::collections::BTreeSet;
use std::path::Path;

use crate::in_package;

/// A call of one of `tracing`'s macros: the level, and the text between its parentheses.
struct Call {
    file: String,
    level: String,
    arguments: String,
}

impl Call {
    /// The message: the last string literal.
    fn message(&self) -> String {
        self.arguments.split('"').skip(1).step_by(2).last().unwrap_or_default().to_owned()
    }
}

/// The calls in the program, except those of tests and of the demonstration.
fn calls() -> Vec<Call> {
    let mut calls = Vec::new();
    visit(&in_package("src"), &mut calls);
    assert!(calls.len() > 60, "only {} calls were found", calls.len());
    calls
}

fn visit(path: &Path, calls: &mut Vec<Call>) {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).expect("a folder");
        entries.for_each(|entry| visit(&entry.expect("an entry").path(), calls));
        return;
    }
    let file = path.display().to_string();
    if file.contains("/demo/") || file.ends_with("/tests.rs") {
        return;
    }
    let text = std::fs::read_to_string(path).expect("it can be read");
    let source = text.split("#[cfg(test)]").next().unwrap_or_default();
    for part in source.split("tracing::").skip(1) {
        let Some((level, rest)) = part.split_once("!(") else { continue };
        if ["error", "warn", "info", "debug", "trace"].contains(&level) {
            calls.push(Call { file: file.clone(), level: level.to_owned(), arguments: arguments(rest).to_owned() });
        }
    }
}

/// The text up to the parenthesis that closes the call.
fn arguments(text: &str) -> &str {
    let (mut depth, mut in_literal) = (1, false);
    for (at, character) in text.char_indices() {
        match character {
            '"' => in_literal = !in_literal,
            '(' if !in_literal => depth += 1,
            ')' if !in_literal => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..at];
        }
    }
    panic!("a call without an end: {text:.80}")
}

#[test]
fn every_warning_and_error_is_documented_with_its_cure_and_no_other() {
    let logged: BTreeSet<(String, String)> = calls()
        .into_iter()
        .filter(|call| ["warn", "error"].contains(&&*call.level))
        .map(|call| (call.level.clone(), call.message()))
        .collect();
    let page = std::fs::read_to_string(in_package("docs/messages.md")).expect("the page");
    let mut documented = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with("| error |") || line.starts_with("| warn |")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        assert!(cells.len() == 5 && !cells[3].is_empty(), "{line}");
        documented.insert((cells[1].to_owned(), cells[2].to_owned()));
        for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().expect("a first part");
            assert!(in_package("docs").join(file).exists(), "{link} is missing");
        }
    }
    let missing: Vec<_> = logged.difference(&documented).collect();
    let gone: Vec<_> = documented.difference(&logged).collect();
    assert!(missing.is_empty() && gone.is_empty(), "docs/messages.md lacks {missing:?}, and has {gone:?} too many");
}

#[test]
fn no_field_of_a_log_line_is_in_rusts_debug_form() {
    for call in calls() {
        let fields = call.arguments.split('"').step_by(2).collect::<String>();
        let is_debug = fields.contains("= ?") || fields.split([',', '(']).any(|field| field.trim().starts_with('?'));
        assert!(!is_debug, "{}: {}", call.file, call.arguments);
    }
}

#[test]
fn every_kind_of_event_belongs_to_a_log_line_and_is_documented() {
    let messages: BTreeSet<String> = calls().iter().map(Call::message).collect();
    let page = std::fs::read_to_string(in_package("docs/operations.md")).expect("the page");
    for (sentence, kind) in shardkeeper::internals::cli::events::KINDS {
        assert!(messages.iter().any(|message| message.starts_with(sentence)), "no log line begins with {sentence:?}");
        assert!(page.contains(&format!("`{kind}`")), "docs/operations.md lacks the kind {kind}");
    }
}
