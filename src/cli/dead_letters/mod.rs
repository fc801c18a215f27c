//! `shardkeeper dead-letters`: lists, shows, replays and purges dead letters.

mod replay;

use std::fmt::Write;

use anyhow::Context;

use super::args::dead_letters::{DeadLettersCommand, ListArgs, PurgeArgs, Selection, ShowArgs, StoreArgs};
use super::confirm::confirm;
use super::output;
use super::status::table::{aligned, columns};
use crate::admin::status::length;
use crate::consumer::WallClock;
use crate::dead_letters::letter::DeadLetter;
use crate::dead_letters::store::{LetterRef, LetterStore, StoredLetter};

/// The most characters of an error in a line of the list.
const LONGEST_ERROR: usize = 100;

/// Runs `shardkeeper dead-letters`.
///
/// # Errors
/// When letters cannot be read, deleted or replayed.
pub fn run(command: &DeadLettersCommand) -> Result<(), anyhow::Error> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let outcome = runtime.block_on(async {
        match command {
            DeadLettersCommand::List(args) => list(args).await,
            DeadLettersCommand::Show(args) => show(args).await,
            DeadLettersCommand::Replay(args) => replay::run(args).await,
            DeadLettersCommand::Purge(args) => purge(args).await,
        }
    });
    // A handler that hangs must not keep the process from ending.
    runtime.shutdown_background();
    outcome
}

async fn open(args: &StoreArgs) -> Result<LetterStore, anyhow::Error> {
    LetterStore::open(&args.from, &args.app.app, &args.aws.endpoints(None)).await
}

async fn open_read_only(args: &StoreArgs) -> Result<LetterStore, anyhow::Error> {
    LetterStore::open_read_only(&args.from, &args.app.app, &args.aws.endpoints(None)).await
}

/// Calls `visit` with the selected letters of the store, page by page; each shard's together and in order.
async fn visit_selected(
    store: &LetterStore,
    selection: &Selection,
    mut visit: impl FnMut(Vec<StoredLetter>) -> Result<(), anyhow::Error>,
) -> Result<(), anyhow::Error> {
    match selection {
        Selection::All => store.scan(None, &mut visit).await,
        Selection::Shard(shard) => store.scan(Some(shard), &mut visit).await,
        Selection::Ids(ids) => visit(store.find(ids).await?),
    }
}

async fn list(args: &ListArgs) -> Result<(), anyhow::Error> {
    let store = open_read_only(&args.store).await?;
    let now_ms = WallClock::System.now_ms();
    let mut count = 0;
    let selection = Selection::of_shard(args.shard.as_ref());
    visit_selected(&store, &selection, |page| {
        if page.is_empty() {
            return Ok(());
        }
        let is_first = count == 0;
        count += page.len();
        match args.output.json {
            true => output::print(&page.iter().filter_map(json_line).collect::<String>()),
            false => output::print(&lines(&page, now_ms, is_first)),
        }
    })
    .await?;
    if count == 0 {
        eprintln!("no dead letters{}", of_shard(&selection));
    }
    Ok(())
}

/// The letter as a line of JSON. Logs a warning about an unreadable one.
fn json_line(stored: &StoredLetter) -> Option<String> {
    match &stored.letter {
        Ok(letter) => Some(format!("{}\n", letter.to_json())),
        Err(reason) => {
            tracing::warn!(letter = stored.name(), reason, "dead letter cannot be read, skipped");
            None
        }
    }
}

fn lines(page: &[StoredLetter], now_ms: u64, has_header: bool) -> String {
    let rows = page.iter().map(|stored| match &stored.letter {
        Ok(letter) => [
            stored.name(),
            ago(letter.last_failed_ms, now_ms),
            letter.attempts.to_string(),
            letter.reason.as_str().to_owned(),
            first_line(&letter.error),
        ],
        Err(reason) => [stored.name(), "-".into(), "-".into(), "-".into(), format!("cannot be read: {reason}")],
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

async fn show(args: &ShowArgs) -> Result<(), anyhow::Error> {
    let store = open_read_only(&args.store).await?;
    let now_ms = WallClock::System.now_ms();
    visit_selected(&store, &Selection::of_ids(&args.ids), |page| {
        let texts = page.iter().filter_map(|stored| match (&stored.letter, args.output.json) {
            (Ok(letter), false) => Some(describe(letter, now_ms)),
            _ => json_line(stored),
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

async fn purge(args: &PurgeArgs) -> Result<(), anyhow::Error> {
    let store = open(&args.store).await?;
    let mut selected: Vec<LetterRef> = Vec::new();
    visit_selected(&store, &args.letters.selection(), |page| {
        selected.extend(page.iter().map(|stored| stored.at.clone()));
        let lines = page.iter().map(|stored| format!("{}\n", stored.name()));
        output::print(&lines.collect::<String>())
    })
    .await?;
    let letters = counted(selected.len());
    if selected.is_empty() {
        let of_shard = of_shard(&args.letters.selection());
        return output::print(&format!("no dead letters{of_shard}: nothing to delete\n"));
    }
    if args.dry_run {
        return output::print(&format!("dry run: {letters} would be deleted, and nothing is\n"));
    }
    if !args.yes {
        confirm(&format!("Delete {letters} for good?"), "deleted")?;
    }
    store.delete_all(&selected).await?;
    output::print(&format!("{letters} deleted\n"))
}

/// The words that tell a shard without letters from a store without any.
fn of_shard(selection: &Selection) -> String {
    match selection {
        Selection::Shard(shard) => format!(" of shard {shard}"),
        Selection::All | Selection::Ids(_) => String::new(),
    }
}

fn counted(letters: usize) -> String {
    match letters {
        1 => "1 dead letter".to_owned(),
        more => format!("{more} dead letters"),
    }
}
