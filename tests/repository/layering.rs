//! Directions in which the folders of `src` may name each other, as far as privacy doesn't enforce them.
//!
//! A search for words, with `//` comments left out: it finds slips, not tricks.

use std::path::{Path, PathBuf};

use crate::in_package;

/// Each folder or file of `src`, and the ones that it may name.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("aws", &["model", "telemetry"]),
    ("options", &["model", "aws", "consumer"]),
    ("dead_letters", &["model", "aws", "consumer"]),
    ("consumer", &["model", "aws", "telemetry", "options", "dead_letters"]),
    ("telemetry", &["model", "aws", "consumer", "options"]),
    ("coordination", &["model", "aws", "consumer", "telemetry", "options"]),
    ("admin", &["model", "aws", "coordination", "options"]),
    ("worker", &["model", "aws", "consumer", "coordination", "telemetry", "options"]),
    ("cli", &["model", "aws", "consumer", "coordination", "telemetry", "dead_letters", "admin", "options", "worker"]),
];

/// Runtimes and clocks, neither of which the model has.
const FOREIGN_TO_MODEL: &[&str] = &["tokio", "tokio_util", "Instant", "SystemTime"];

/// The files that may name crates of the AWS SDK.
const AWS: &[&str] =
    &["src/aws/", "src/dead_letters/table.rs", "src/dead_letters/sqs.rs", "local/src/connector.rs", "local/src/tests/"];

#[test]
fn folders_name_each_other_only_as_the_table_says() {
    refuse("src", |file, words| {
        let part = file.split(['/', '.']).nth(1).expect("a file below src");
        if matches!(part, "lib" | "main") {
            return Ok(());
        }
        let (_, may_name) = MAY_NAME.iter().find(|(name, _)| *name == part).ok_or("no row in the table")?;
        let named = words.windows(2).filter(|pair| pair[0] == "crate").map(|pair| pair[1]);
        let mut parts = named.filter(|name| *name != part && MAY_NAME.iter().any(|(other, _)| other == name));
        parts.find(|name| !may_name.contains(name)).map_or(Ok(()), |name| Err(format!("must not name {name}")))
    });
}

#[test]
fn the_model_has_no_runtime_clock_or_randomness_and_only_adapters_name_the_sdk() {
    refuse("src/model", |_, words| {
        let is_unseeded = |pair: &[&str]| pair[0] == "fastrand" && pair[1] != "Rng";
        match words.iter().find(|word| FOREIGN_TO_MODEL.contains(word)) {
            Some(word) => Err(format!("must not name {word}")),
            None if words.windows(2).any(is_unseeded) => Err("must not name fastrand's own generator".into()),
            None => Ok(()),
        }
    });
    let is_sdk =
        |word: &&&str| ["aws_sdk_", "aws_smithy_", "aws_config", "aws_types"].iter().any(|s| word.starts_with(s));
    for folder in ["src", "local/src"] {
        refuse(folder, |file, words| match words.iter().find(is_sdk) {
            Some(word) if !AWS.iter().any(|allowed| file.starts_with(allowed)) => Err(format!("must not name {word}")),
            _ => Ok(()),
        });
    }
}

/// Fails with every line in the Rust files of `folder` that `check` refuses by its words.
fn refuse(folder: &str, check: impl Fn(&str, &[&str]) -> Result<(), String>) {
    let files = rust_files(&in_package(folder));
    assert!(files.len() > 5, "hardly any source in {folder}");
    let mut refused = Vec::new();
    for file in files {
        let source = std::fs::read_to_string(&file).expect("a file of source");
        let name = file.strip_prefix(in_package("")).expect("a file of this package").to_str().expect("UTF-8");
        for (index, line) in source.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let words: Vec<&str> = code.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
            let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
            refused.extend(check(name, &words).err().map(|reason| format!("{name}:{}: {reason}", index + 1)));
        }
    }
    assert!(refused.is_empty(), "\n{}", refused.join("\n"));
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder of source").map(|entry| entry.expect("an entry").path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let files = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files.chain(folders.iter().flat_map(|folder| rust_files(folder))).collect()
}
