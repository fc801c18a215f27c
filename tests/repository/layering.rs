//! Directions in which the folders of `src` may name each other, as far as privacy doesn't enforce them.
//!
//! A search for paths outside of `//` comments: it finds slips, not tricks.

use std::path::{Path, PathBuf};

use crate::in_package;

/// Each folder or file of `src`, and the ones that it may name.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("retry", &["model"]),
    ("shard_directory", &["model", "aws", "retry", "telemetry"]),
    ("error", &["model", "aws"]),
    ("aws", &["model", "retry", "telemetry"]),
    ("options", &["model", "aws", "consumer"]),
    ("dead_letters", &["model", "aws", "retry"]),
    ("consumer", &["model", "aws", "retry", "error", "shard_directory", "telemetry", "options", "dead_letters"]),
    ("telemetry", &["model", "aws", "error", "consumer", "options"]),
    ("coordination", &["model", "aws", "retry", "error", "shard_directory", "consumer", "telemetry", "options"]),
    ("admin", &["model", "aws", "shard_directory", "coordination", "options"]),
    (
        "worker",
        &[
            "model",
            "aws",
            "retry",
            "error",
            "shard_directory",
            "consumer",
            "coordination",
            "telemetry",
            "dead_letters",
            "options",
        ],
    ),
    (
        "cli",
        &[
            "model",
            "aws",
            "retry",
            "error",
            "shard_directory",
            "consumer",
            "coordination",
            "telemetry",
            "dead_letters",
            "admin",
            "options",
            "worker",
        ],
    ),
];

/// Runtimes and clocks, neither of which the model has.
const FOREIGN_TO_MODEL: &[&str] = &["tokio", "tokio_util", "Instant", "SystemTime"];

/// The files that may name crates of the AWS SDK.
const ADAPTERS: &[&str] = &["src/aws/", "src/dead_letters/table.rs", "src/dead_letters/sqs.rs"];

#[test]
fn folders_name_each_other_only_as_the_table_says() {
    refuse("src", |file, path| {
        let part = file.split(['/', '.']).nth(1).expect("a file below src");
        let ["crate", named, ..] = path else { return false };
        let may_name = MAY_NAME.iter().find(|(name, _)| *name == part).map_or(&[][..], |(_, may_name)| may_name);
        let is_part = MAY_NAME.iter().any(|(name, _)| name == named);
        is_part && *named != part && !matches!(part, "lib" | "main") && !may_name.contains(named)
    });
}

#[test]
fn the_model_has_no_runtime_clock_or_unseeded_randomness() {
    refuse("src/model", |_, path| {
        let is_unseeded = matches!(path, ["fastrand", item, ..] if *item != "Rng");
        is_unseeded || path.iter().any(|segment| FOREIGN_TO_MODEL.contains(segment))
    });
}

#[test]
fn only_adapters_name_the_sdk() {
    refuse("src", |file, path| {
        path.len() > 1 && path[0].starts_with("aws_") && !ADAPTERS.iter().any(|allowed| file.starts_with(allowed))
    });
}

/// Fails with every path in the Rust files of `folder` that `is_wrong` for its file.
fn refuse(folder: &str, is_wrong: impl Fn(&str, &[&str]) -> bool) {
    let files = rust_files(&in_package(folder));
    assert!(files.len() > 5, "hardly any source in {folder}");
    let mut wrong = Vec::new();
    for file in files {
        let source = std::fs::read_to_string(&file).expect("a file of source");
        let name = file.strip_prefix(in_package("")).expect("a file of this package").to_str().expect("UTF-8");
        for (index, line) in source.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let paths = code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
            let wrong_here = paths.filter(|path| is_wrong(name, &path.split("::").collect::<Vec<_>>()));
            wrong.extend(wrong_here.map(|path| format!("{name}:{}: {path}", index + 1)));
        }
    }
    assert!(wrong.is_empty(), "named against the rules:\n{}", wrong.join("\n"));
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder of source").map(|entry| entry.expect("an entry").path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let files = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files.chain(folders.iter().flat_map(|folder| rust_files(folder))).collect()
}
