//! The directions in which the parts of this package may name each other.
//!
//! Each folder or file directly under `src` is a part. The test reads every source file, leaves comments and strings
//! aside, resolves each path (`crate::…`, `self::…`, `super::…`, use trees, foreign crates) and refuses what the
//! tables below don't allow.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The parts, from the inside out, and whom each may name besides itself:
/// core <- aws <- consumer <- fleet <- worker <- cli, with the local service beside them on the core alone.
const PARTS: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("metrics", &[]),
    ("aws", &["core", "metrics"]),
    ("local", &["core"]),
    ("consumer", &["core", "metrics", "aws"]),
    ("fleet", &["core", "metrics", "aws", "consumer"]),
    ("worker", &["core", "metrics", "aws", "consumer", "fleet"]),
    ("cli", &["core", "metrics", "aws", "consumer", "fleet", "worker", "local"]),
];

/// Stand above the parts and may name them all.
const ROOTS: &[&str] = &["lib.rs", "main.rs"];

/// Crates that the core must not name: it has no runtime, no service and no chance of its own.
const FOREIGN_TO_CORE: &[&str] = &["tokio", "tokio_util", "rand"];

/// Where crates of the AWS SDK may be named, besides the part `aws`.
const AWS_OUTSIDE: &[&str] = &["local/connector.rs", "local/tests/shells.rs"];

#[test]
fn the_parts_name_each_other_only_inwards() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = rust_files(&src);
    assert!(files.len() > 5, "found hardly any source in {}", src.display());
    let mut broken = Vec::new();
    for file in files {
        let source = std::fs::read_to_string(&file).unwrap();
        let name = file.strip_prefix(&src).unwrap().to_str().unwrap();
        broken.extend(check(&name.replace('\\', "/"), &source));
    }
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// What `source`, the file `name` under `src`, names and must not.
fn check(name: &str, source: &str) -> Vec<String> {
    if ROOTS.contains(&name) {
        return Vec::new();
    }
    let module = module_of(name);
    let part = module[0].clone();
    let allowed: BTreeMap<&str, &[&str]> = PARTS.iter().copied().collect();
    let Some(may_name) = allowed.get(part.as_str()) else {
        return vec![format!("{name}: the part {part:?} has no place in this test's table")];
    };
    let mut broken = Vec::new();
    for (line, path) in paths(&tokens(source), &module) {
        let mistake = match path[0].as_str() {
            "crate" => wrong_part(&part, may_name, path.get(1)),
            foreign => wrong_crate(name, &part, foreign, &path),
        };
        if let Some(mistake) = mistake {
            let path = path.join("::");
            broken.push(format!("{name}:{line}: {path}: {mistake}"));
        }
    }
    broken
}

fn wrong_part(part: &str, may_name: &[&str], named: Option<&String>) -> Option<String> {
    let named = named?.as_str();
    if named == part || may_name.contains(&named) {
        return None;
    }
    match PARTS.iter().any(|(other, _)| *other == named) {
        true => Some(format!("{part} must not name {named}")),
        false => Some("name it by the part that it is in".to_string()),
    }
}

fn wrong_crate(name: &str, part: &str, foreign: &str, path: &[String]) -> Option<String> {
    let is_aws = foreign.starts_with("aws_");
    if is_aws && part != "aws" && !AWS_OUTSIDE.contains(&name) {
        return Some(format!("{part} must not name the AWS SDK"));
    }
    if part != "core" {
        return None;
    }
    if FOREIGN_TO_CORE.contains(&foreign) {
        return Some(format!("the core must not name {foreign}"));
    }
    // A clock can only be had through std::time, and lengths of time are all that the core wants of it.
    let names_time = foreign == "std" && path.get(1).is_some_and(|module| module == "time");
    let names_length = path.get(2).is_some_and(|item| item == "Duration");
    (names_time && !names_length).then(|| "of std::time the core has only Duration".to_string())
}

/// `core/record/mod.rs` is the module `core::record`.
fn module_of(name: &str) -> Vec<String> {
    let name = name.trim_end_matches(".rs").trim_end_matches("/mod");
    name.split('/').map(str::to_string).collect()
}

/// A token that paths are made of, or that delimits them, and its line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    line: usize,
    text: String,
}

/// Names, `::` and single punctuation marks; no comments, strings, characters or lifetimes.
fn tokens(source: &str) -> Vec<Token> {
    let text: Vec<char> = source.chars().collect();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < text.len() {
        let end = token_end(&text, at);
        let token: String = text[at..end].iter().collect();
        let first = text[at];
        let is_name = (first.is_alphabetic() || first == '_') && !token.ends_with(['"', '#', '\'']);
        let is_mark = token == "::" || (token.chars().count() == 1 && "{}()[],;*=<>!&|.:#".contains(first));
        let lines = token.matches('\n').count();
        if is_name || is_mark {
            found.push(Token { line, text: token });
        }
        line += lines;
        at = end;
    }
    found
}

/// Where the token ends that begins at `at`; a comment or a string is one token.
fn token_end(text: &[char], at: usize) -> usize {
    let next = |offset: usize| text.get(at + offset).copied().unwrap_or(' ');
    match (text[at], next(1)) {
        ('/', '/') => find(text, at, |c| c == '\n'),
        ('/', '*') => block_comment_end(text, at),
        ('"', _) => string_end(text, at),
        ('b' | 'c', '"') => string_end(text, at + 1),
        ('b', '\'') => character_end(text, at + 1),
        ('r', '"' | '#') => raw_string_end(text, at).unwrap_or_else(|| name_end(text, at + 2)),
        ('b' | 'c', 'r') => raw_string_end(text, at + 1).unwrap_or_else(|| name_end(text, at)),
        // A lifetime has no closing quote after its one letter.
        ('\'', '\\') => character_end(text, at),
        ('\'', _) if next(2) == '\'' => at + 3,
        (':', ':') => at + 2,
        (c, _) if c.is_alphanumeric() || c == '_' => name_end(text, at),
        _ => at + 1,
    }
}

fn find(text: &[char], from: usize, wanted: impl Fn(char) -> bool) -> usize {
    let found = text[from..].iter().position(|c| wanted(*c));
    found.map_or(text.len(), |offset| from + offset)
}

fn name_end(text: &[char], from: usize) -> usize {
    find(text, from, |c| !(c.is_alphanumeric() || c == '_')).max(from)
}

fn block_comment_end(text: &[char], at: usize) -> usize {
    let (mut depth, mut at) = (1, at + 2);
    while at < text.len() && depth > 0 {
        match (text[at], text.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    at
}

fn string_end(text: &[char], quote: usize) -> usize {
    let mut at = quote + 1;
    while at < text.len() && text[at] != '"' {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

fn character_end(text: &[char], quote: usize) -> usize {
    let mut at = quote + 1;
    while at < text.len() && text[at] != '\'' {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// The end of the raw string whose `r` is at `at`, if it is one.
fn raw_string_end(text: &[char], at: usize) -> Option<usize> {
    let hashes = text[at + 1..].iter().take_while(|c| **c == '#').count();
    if text.get(at + 1 + hashes) != Some(&'"') {
        return None;
    }
    let mut close = vec!['"'];
    close.extend(std::iter::repeat_n('#', hashes));
    let content = at + 2 + hashes;
    let length = text[content..].windows(close.len()).position(|window| window == close);
    Some(length.map_or(text.len(), |length| content + length + close.len()))
}

/// Every path in `tokens` with its line, from its root: `crate`, or a foreign crate (or a local name, which nothing
/// here forbids). `module` is the file's.
fn paths(tokens: &[Token], module: &[String]) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    // The module at this point, and the depth of braces at which each inline one began.
    let mut module = module.to_vec();
    let mut inline: Vec<usize> = Vec::new();
    let mut depth = 0;
    let mut at = 0;
    while at < tokens.len() {
        let text = |offset: usize| tokens.get(at + offset).map_or("", |token| token.text.as_str());
        match text(0) {
            "mod" if text(2) == "{" => {
                module.push(text(1).to_string());
                inline.push(depth);
                depth += 1;
                at += 3;
            }
            "{" => {
                depth += 1;
                at += 1;
            }
            "}" => {
                depth -= 1;
                if inline.last() == Some(&depth) {
                    inline.pop();
                    module.pop();
                }
                at += 1;
            }
            // `use` of a single name brings a whole crate in; elsewhere a path has at least two parts.
            "use" if text(1) != "<" => {
                let mut tree = Vec::new();
                at = use_tree(tokens, at + 1, Vec::new(), &mut tree);
                found.extend(tree.into_iter().map(|(line, path)| (line, resolve(path, &module))));
            }
            "extern" if text(1) == "crate" => {
                found.push((tokens[at].line, vec![text(2).to_string()]));
                at += 3;
            }
            name if is_name(name) && text(1) == "::" => {
                let line = tokens[at].line;
                let mut path = vec![name.to_string()];
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text == "::")
                    && tokens.get(at + 1).is_some_and(|token| is_name(&token.text))
                {
                    path.push(tokens[at + 1].text.clone());
                    at += 2;
                }
                found.push((line, resolve(path, &module)));
                // What follows a generic argument's `::` goes on with this path, and is none of its own.
                while tokens.get(at).is_some_and(|token| token.text == "::") {
                    at += 1;
                }
            }
            _ => at += 1,
        }
    }
    found
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Reads the use tree at `at` behind `prefix`; every path in it goes to `found`. The token behind it.
fn use_tree(tokens: &[Token], mut at: usize, prefix: Vec<String>, found: &mut Vec<(usize, Vec<String>)>) -> usize {
    let mut path = prefix;
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "::" => at += 1,
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    assert_ne!(tokens[at].text, ";", "line {}: no use tree", tokens[at].line);
                    at = use_tree(tokens, at, path.clone(), found);
                    if tokens.get(at).is_some_and(|token| token.text == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "as" => at += 2,
            "," | ";" | "}" => break,
            // A name, or a star.
            text => {
                path.push(text.to_string());
                at += 1;
            }
        }
    }
    let line = tokens.get(at.saturating_sub(1)).map_or(0, |token| token.line);
    if !path.is_empty() {
        found.push((line, path));
    }
    at
}

/// `path`, written in `module`, from its root.
fn resolve(path: Vec<String>, module: &[String]) -> Vec<String> {
    let mut parent = module;
    let mut rest = &path[..];
    while let Some(first) = rest.first() {
        match first.as_str() {
            "self" => {}
            "super" => parent = &parent[..parent.len().saturating_sub(1)],
            _ => break,
        }
        rest = &rest[1..];
    }
    if rest.len() == path.len() {
        return path;
    }
    let mut full = vec!["crate".to_string()];
    full.extend_from_slice(parent);
    full.extend_from_slice(rest);
    full
}

#[test]
fn an_outward_path_is_found_however_it_is_written() {
    for source in [
        "use crate::aws::client;",
        "use crate::{core::shard, aws::{client}};",
        "use super::super::aws;",
        "fn f() { crate::worker::start() }",
        "mod tests { use super::super::super::cli::run; }",
        "use tokio::time;",
        "use tokio as runtime;",
        "fn f() -> aws_sdk_dynamodb::Client { todo!() }",
        "use std::time::Instant;",
        "use std::{fmt, time::{Duration, SystemTime}};",
        "use std::time;",
        "use std::time::*;",
        "extern crate rand;",
        "use crate::Reexported;",
        "/* a /* nested */ comment */ use crate::cli;",
        "const C: char = '\"'; use crate::cli; const D: char = '\"';",
        "fn f<'a>(x: &'a str) { let y = r#\"quote \" \"#; crate::local::g(x) }",
    ] {
        let broken = check("core/shard.rs", source);
        assert_eq!(broken.len(), 1, "{source}: {broken:?}");
    }
}

#[test]
fn inward_paths_comments_and_strings_are_let_be() {
    for source in [
        "use crate::core::shard; use std::time::Duration;",
        "use super::checkpoint; mod tests { use super::*; use super::super::record; }",
        "// use crate::aws;\n/// [`crate::worker`]\n/* crate::cli */",
        "const A: &str = \"use crate::aws; \\\" tokio::spawn\"; const B: &[u8] = b\"crate::cli::x\";",
        "const A: &str = r#\"crate::aws \" tokio::spawn\"#; const B: &str = \"\n\ncrate::cli::x\";",
        "fn r#use() { let tokio = 1; let _ = tokio + 1; }",
        "fn f<'crate_>(c: char) -> bool { c == '\\'' || c == ':' }",
        "use std::fmt::{self, Display};",
    ] {
        assert_eq!(check("core/shard.rs", source), Vec::<String>::new(), "{source}");
    }
}

#[test]
fn each_part_is_held_to_its_own_row() {
    let is_refused = |name: &str, source: &str| !check(name, source).is_empty();
    assert!(is_refused("local/http.rs", "use crate::aws::client;"));
    assert!(is_refused("local/http.rs", "use aws_sdk_dynamodb::Client;"));
    assert!(!is_refused("local/connector.rs", "use aws_smithy_runtime_api::client;"));
    assert!(is_refused("worker/mod.rs", "use crate::cli::run_config::RunConfig;"));
    assert!(is_refused("fleet/mod.rs", "use aws_sdk_dynamodb::Client;"));
    assert!(!is_refused("aws/mod.rs", "use aws_sdk_dynamodb::Client; use crate::core::lease;"));
    assert!(is_refused("aws/mod.rs", "use crate::local;"));
    assert!(!is_refused("cli/demo.rs", "use crate::local::http; use crate::worker;"));
    assert!(is_refused("unheard_of.rs", ""));
    assert!(!is_refused("lib.rs", "pub use crate::worker::Worker;"));
}

#[test]
fn the_table_itself_points_inwards() {
    for (place, (part, may_name)) in PARTS.iter().enumerate() {
        for named in *may_name {
            let inner = PARTS[..place].iter().any(|(inner, _)| inner == named);
            assert!(inner, "{part} may name {named}, which is not further in");
        }
    }
}
