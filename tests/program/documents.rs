//! The program's commands in the documents: each is one that the program understands as it is written.
//!
//! `run` prints its configuration instead of running; what looks at a fleet or changes it meets a service on which there
//! is none. Both find every mistake of usage. The walk through getting-started.md runs that page's commands for good.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::local_service::LocalService;
use crate::support::{finish, shardkeeper};

/// A line of a document that begins with the program's name.
struct Line {
    place: String,
    words: Vec<String>,
    /// Whether a worker's variables are around it.
    in_container: bool,
}

fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md")];
    for folder in ["docs", "docs/runbooks"] {
        let entries =
            std::fs::read_dir(root.join(folder)).expect("a folder").map(|entry| entry.expect("an entry").path());
        pages.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    pages
}

/// The commands of a page: lines of code blocks, and code in sentences if it has options.
fn lines(page: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(page).expect("a page").replace("\\\n", " ");
    let mut commands: Vec<String> = Vec::new();
    let (blocks, prose): (Vec<_>, Vec<_>) = text.split("```").enumerate().partition(|(at, _)| at % 2 == 1);
    commands.extend(blocks.iter().flat_map(|(_, block)| block.lines()).map(str::to_owned));
    for (_, text) in prose {
        let is_block = |line: &&str| line.starts_with("    ");
        commands.extend(text.lines().filter(is_block).map(str::to_owned));
        let sentences: String = text.lines().filter(|line| !is_block(line)).collect::<Vec<_>>().join(" ");
        let spans = sentences.split('`').skip(1).step_by(2).filter(|span| span.contains(" --"));
        commands.extend(spans.map(|span| span.split_whitespace().collect::<Vec<_>>().join(" ")));
    }
    commands.iter().filter_map(|command| parse(page, command)).collect()
}

fn parse(page: &Path, command: &str) -> Option<Line> {
    let command = command.trim();
    if command.starts_with("shardkeeper = ") {
        return None; // a dependency
    }
    let start = ["shardkeeper ", "cargo run -- ", "cargo run --release -- ", "-- shardkeeper "];
    let rest = start.iter().find_map(|start| match start.starts_with("--") {
        true => command.split_once(start).map(|(_, rest)| rest),
        false => command.strip_prefix(start),
    })?;
    let rest = rest.split(" #").next()?.split(" | ").next()?.split(" > ").next()?;
    let word = |word: &str| match word {
        "…" | "URL" => "http://localhost:8080/".to_owned(),
        "SHARD" | "SHARD_ID" | "SHARD_ID…" | "shardId-…" => "shardId-1".to_owned(),
        "ID…" => "shardId-1/7".to_owned(),
        word => word.to_owned(),
    };
    // A quotation is one word.
    let parts = rest.split('\'').enumerate().map(|(at, part)| match at % 2 {
        0 => part.split_whitespace().map(word).collect(),
        _ => vec![part.to_owned()],
    });
    let in_container = command.starts_with("kubectl");
    Some(Line { place: format!("{}: {command}", page.display()), words: parts.flatten().collect(), in_container })
}

#[test]
fn every_command_in_the_documents_is_one_that_the_program_understands() {
    let service = LocalService::start("");
    let (mut understood, mut left_out) = (0, 0);
    let mut mistakes = Vec::new();
    for Line { place, words, in_container } in pages().iter().flat_map(|page| lines(page)) {
        // These stay in the foreground, and have tests of their own.
        if ["local", "demo"].contains(&&*words[0]) || words.iter().any(|word| word == "…]") {
            left_out += 1;
            continue;
        }
        let mut command = shardkeeper();
        command
            .args(&words)
            .stdin(Stdio::null())
            .env("SHARDKEEPER_APP", "phone-audit")
            .env("SHARDKEEPER_TABLE", "Phones");
        command.env("AWS_ENDPOINT_URL", service.url()).env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", "local").env("AWS_SECRET_ACCESS_KEY", "local");
        if words[0] == "run" && !words.contains(&"--print-config".to_owned()) {
            command.arg("--print-config");
        }
        if in_container {
            command.env("SHARDKEEPER_TO", "null");
        }
        let finished = finish(&mut command);
        understood += 1;
        if finished.code == 64 {
            mistakes.push(format!("{place}\n{}", finished.stderr));
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
    assert!(understood >= 40 && left_out <= 5, "{understood} commands understood, {left_out} left out");
}
