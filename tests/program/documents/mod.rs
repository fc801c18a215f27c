//! The documents' commands, run as they are written: the blocks of each page in their order, on a local service.
//!
//! A comment before a block, `<!-- test: … -->`, prepares it or says why it can't run. Commands in sentences have parts
//! left out, so only their form is checked.

mod page;
pub mod world;

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use self::page::{Block, blocks, commands, pages, spans};
use self::world::{APP, Ran, TABLE, World};
use crate::support::{finish, shardkeeper};
use crate::walkthrough;

/// Languages whose blocks are no commands.
const LANGUAGES: [(&str, &str); 5] = [
    ("rust", "is Rust: the crate's own tests compile the library's page, the others are parts of programs"),
    ("rust,no_run", "is a program that the crate's own tests compile"),
    ("java", "is a part of a program"),
    ("text", "is output, or a formula"),
    ("", "is output"),
];

/// Languages whose blocks Python reads, as far as they are whole.
const PARSERS: [(&str, &str); 3] = [
    ("toml", "import sys, tomllib; tomllib.loads(sys.argv[1])"),
    ("yaml", "import sys, yaml; yaml.safe_load(sys.argv[1])"),
    ("hcl", "import sys, hcl2; hcl2.loads(sys.argv[1] + '\\n')"),
];

/// A page's run: the world so far, and a line for each command that did not run.
struct Run {
    path: String,
    world: Option<World>,
    ran: usize,
    parsed: usize,
    skipped: Vec<String>,
    failed: Vec<String>,
}

#[test]
fn every_block_of_the_documents_runs_as_it_is_written() {
    let Some(path) = walkthrough::tools() else { return };
    let path = path.into_string().expect("a PATH in UTF-8");
    let only = std::env::var("SHARDKEEPER_TEST_PAGE").unwrap_or_default();
    let (mut ran, mut parsed, mut skipped, mut failed) = (0, 0, Vec::new(), Vec::new());
    for page in pages().iter().filter(|page| page.display().to_string().contains(&only)) {
        let mut run =
            Run { path: path.clone(), world: None, ran: 0, parsed: 0, skipped: Vec::new(), failed: Vec::new() };
        blocks(page).iter().for_each(|block| run.block(block));
        ran += run.ran;
        parsed += run.parsed;
        skipped.extend(run.skipped);
        failed.extend(run.failed);
    }
    // Past the test's captured output: the record of what the documents' check covers.
    let mut record = format!("documents: {ran} commands run, {parsed} parsed, {} left out:\n", skipped.len());
    skipped.iter().for_each(|line| record.push_str(&format!("  {line}\n")));
    std::io::stderr().write_all(record.as_bytes()).expect("standard error");
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert!(!only.is_empty() || ran >= 60, "{ran} commands");
}

impl Run {
    fn block(&mut self, block: &Block) {
        let Block { place, language, text, directive } = block;
        if let Some(reason) = &directive.skip {
            return self.skipped.push(format!("{place}: {reason}"));
        }
        if language == "json" {
            match serde_json::from_str::<serde_json::Value>(text) {
                Ok(_) => self.ran += 1,
                Err(error) => self.failed.push(format!("{place}: {error}")),
            }
            return;
        }
        if let Some((_, parser)) = PARSERS.iter().find(|(name, _)| name == language) {
            return match self.world().python(parser, text) {
                Ok(()) => self.parsed += 1,
                Err(error) => self.failed.push(format!("{place}: {error}")),
            };
        }
        if language == "python" {
            return match self.world().python(text, "") {
                Ok(()) => self.ran += 1,
                Err(error) => self.failed.push(format!("{place}: {error}")),
            };
        }
        if let Some((_, reason)) = LANGUAGES.iter().find(|(name, _)| name == language) {
            return self.skipped.push(format!("{place}: {reason}"));
        }
        assert_eq!(language, "sh", "{place}");
        if directive.is_afresh {
            self.world = None;
        }
        let steps = || directive.steps.iter().map(String::as_str);
        if !directive.has_alternatives {
            steps().for_each(|step| self.prepare(place, step));
        }
        for command in commands(text) {
            if directive.has_alternatives {
                self.world = None;
                steps().for_each(|step| self.prepare(place, step));
            }
            match self.world().run(&command) {
                Ok(Ran::Done) => self.ran += 1,
                Ok(Ran::Parsed) => self.parsed += 1,
                Ok(Ran::Skipped(reason)) => self.skipped.push(format!("{place}: {command}: {reason}")),
                Err(error) => self.failed.push(format!("{place}: {error}")),
            }
        }
    }

    fn prepare(&mut self, place: &str, step: &str) {
        if let Err(error) = self.world().step(step) {
            self.failed.push(format!("{place}: before it, {error}"));
        }
    }

    fn world(&mut self) -> &mut World {
        self.world.get_or_insert_with(|| World::new(&self.path))
    }
}

/// The commands in the blocks of a page, in their order.
pub fn commands_of(page: &str) -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    blocks(&page).iter().filter(|block| block.language == "sh").flat_map(|block| commands(&block.text)).collect()
}

/// The words of a command in a sentence, if it is one of the program's with options.
fn words(span: &str) -> Option<Vec<String>> {
    let rest = span.strip_prefix("shardkeeper ").filter(|rest| rest.contains(" --") || rest.starts_with("--"))?;
    let rest = rest.split(" | ").next()?;
    let word = |word: &str| match word {
        "…" | "URL" => "http://localhost:8080/".to_owned(),
        "SHARD" | "SHARD_ID" | "SHARD_ID…" | "shardId-…" => "shardId-1".to_owned(),
        "ID…" => "shardId-1/7".to_owned(),
        word => word.to_owned(),
    };
    Some(rest.split(' ').map(word).collect())
}

#[test]
fn every_command_in_a_sentence_is_one_that_the_program_understands() {
    let service = crate::support::local_service::LocalService::start("");
    let (mut understood, mut mistakes) = (0, Vec::new());
    for (page, span) in pages().iter().flat_map(|page| spans(page).into_iter().map(move |span| (page, span))) {
        let Some(words) = words(&span) else { continue };
        if ["local", "demo"].contains(&&*words[0]) {
            continue; // these stay in the foreground
        }
        let mut command = shardkeeper();
        command.args(&words).stdin(Stdio::null()).env("SHARDKEEPER_APP", APP).env("SHARDKEEPER_TABLE", TABLE);
        command.env("AWS_ENDPOINT_URL", service.url()).env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", "local").env("AWS_SECRET_ACCESS_KEY", "local");
        if words[0] == "run" && !words.iter().any(|word| word == "--print-config") {
            command.arg("--print-config");
        }
        let finished = finish(&mut command);
        understood += 1;
        if finished.code == 64 {
            mistakes.push(format!("{}: {span}\n{}", page.display(), finished.stderr));
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
    assert!(understood >= 8, "{understood} commands understood");
}
