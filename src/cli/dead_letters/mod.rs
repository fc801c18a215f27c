//! `shardkeeper dead-letters`: records that were given up, listed, shown, handed over again, or deleted.
//!
//! - [`place`]: where letters are kept, as `run` and these commands are told
//! - [`mod@file`]: the store in a file; the one in a table is [`crate::dead_letters::table`]
//! - `store`: either of them, for these commands
//! - `replay`: handing over again

pub mod config;
pub mod place;
mod replay;
mod store;

use std::fmt::Write;

use anyhow::Context;

use self::config::{DeadLettersConfig, Request};
use self::store::{Found, LetterRef, Store};
use super::confirm::confirm;
use super::output;
use super::status::table::{aligned, columns, length};
use crate::consumer::{FailurePolicy, WallClock};
use crate::dead_letters::letter::DeadLetter;

/// How much of an error a line of the list shows, in characters.
const LONGEST_ERROR: usize = 100;

/// Does what `shardkeeper dead-letters` is for, as `config` says.
///
/// # Errors
/// When letters cannot be read, deleted or replayed.
pub fn run(config: &DeadLettersConfig) -> Result<(), anyhow::Error> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let outcome = runtime.block_on(async {
        match &config.request {
            Request::List => list(config).await,
            Request::Show => show(config).await,
            Request::Purge { dry_run, yes } => purge(config, *dry_run, *yes).await,
            Request::Replay { sink, retries, handler_timeout, dry_run } => {
                let (attempts, handler_timeout) = (Some(retries + 1), *handler_timeout);
                let policy = FailurePolicy { attempts, handler_timeout, ..FailurePolicy::default() };
                replay::run(config, sink, policy, *dry_run).await
            }
        }
    });
    // A handler that hangs must not keep the process from ending.
    runtime.shutdown_background();
    outcome
}

async fn list(config: &DeadLettersConfig) -> Result<(), anyhow::Error> {
    let store = Store::look(&config.from, &config.app, &config.aws).await?;
    let now_ms = WallClock::System.now_ms();
    let mut count = 0;
    store
        .each(&config.selection, |page| {
            if page.is_empty() {
                return Ok(());
            }
            let is_first = count == 0;
            count += page.len();
            match config.json {
                true => output::print(&page.iter().filter_map(json_line).collect::<String>()),
                false => output::print(&lines(&page, now_ms, is_first)),
            }
        })
        .await?;
    if count == 0 {
        eprintln!("no dead letters");
    }
    Ok(())
}

/// The letter as a line of JSON. What cannot be read is told on standard error.
fn json_line(found: &Found) -> Option<String> {
    match &found.letter {
        Ok(letter) => Some(format!("{}\n", letter.to_json())),
        Err(reason) => {
            tracing::warn!("passed over: {} cannot be read: {reason}", found.name());
            None
        }
    }
}

fn lines(page: &[Found], now_ms: u64, has_header: bool) -> String {
    let rows = page.iter().map(|found| match &found.letter {
        Ok(letter) => [
            found.name(),
            ago(letter.last_failed_ms, now_ms),
            letter.attempts.to_string(),
            letter.reason.as_str().to_owned(),
            first_line(&letter.error),
        ],
        Err(reason) => [found.name(), "-".into(), "-".into(), "-".into(), format!("cannot be read: {reason}")],
    });
    let text = columns(&["ID", "FAILED", "ATTEMPTS", "LIMIT", "ERROR"], rows);
    match has_header {
        true => text,
        false => text.split_once('\n').map_or(String::new(), |(_, rows)| rows.to_owned()),
    }
}

fn ago(ms: u64, now_ms: u64) -> String {
    format!("{} ago", length(now_ms.saturating_sub(ms)))
}

fn first_line(error: &str) -> String {
    let line = error.lines().next().unwrap_or_default();
    let short: String = line.chars().take(LONGEST_ERROR).collect();
    if short.len() < error.len() { format!("{short} …") } else { short }
}

async fn show(config: &DeadLettersConfig) -> Result<(), anyhow::Error> {
    let store = Store::look(&config.from, &config.app, &config.aws).await?;
    let now_ms = WallClock::System.now_ms();
    store
        .each(&config.selection, |page| {
            let texts = page.iter().filter_map(|found| match (&found.letter, config.json) {
                (Ok(letter), false) => Some(describe(letter, now_ms)),
                _ => json_line(found),
            });
            output::print(&texts.collect::<String>())
        })
        .await
}

fn describe(letter: &DeadLetter, now_ms: u64) -> String {
    let time = |ms: u64| format!("{} ({ms} ms since 1970)", ago(ms, now_ms));
    let fields = [
        ("id", letter.id().to_string()),
        ("stream", letter.stream_arn.clone()),
        ("event id", letter.event_id.clone().unwrap_or_else(|| "-".into())),
        ("created", letter.created_ms.map_or_else(|| "-".into(), time)),
        ("failed first", time(letter.first_failed_ms)),
        ("failed last", time(letter.last_failed_ms)),
        ("attempts", letter.attempts.to_string()),
        ("limit", letter.reason.as_str().to_owned()),
        ("worker", letter.worker.clone()),
    ];
    let fields = fields.map(|(name, value)| [name.to_owned(), value]);
    let mut text = aligned(fields.iter().map(|field| field.as_slice()).collect());
    let _ = writeln!(text, "error\n{}\nrecord\n{}\n", letter.error, letter.record);
    text
}

async fn purge(config: &DeadLettersConfig, dry_run: bool, yes: bool) -> Result<(), anyhow::Error> {
    let store = Store::open(&config.from, &config.app, &config.aws).await?;
    let mut spots: Vec<LetterRef> = Vec::new();
    store
        .each(&config.selection, |page| {
            spots.extend(page.iter().map(|found| found.spot.clone()));
            let lines = page.iter().map(|found| format!("{}\n", found.name()));
            output::print(&lines.collect::<String>())
        })
        .await?;
    let letters = counted(spots.len());
    if spots.is_empty() {
        return output::print("no dead letters: nothing to delete\n");
    }
    if dry_run {
        return output::print(&format!("dry run: {letters} would be deleted, and nothing is\n"));
    }
    if !yes {
        confirm(&format!("Delete {letters} for good?"), "deleted")?;
    }
    store.delete_all(&spots).await?;
    output::print(&format!("{letters} deleted\n"))
}

fn counted(letters: usize) -> String {
    match letters {
        1 => "1 dead letter".to_owned(),
        more => format!("{more} dead letters"),
    }
}
