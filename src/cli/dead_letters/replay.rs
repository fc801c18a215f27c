//! `shardkeeper dead-letters replay`: hands records to the handler again, in the order of their items' changes.
//!
//! The first pass reads all selected letters and keeps only the key and the item of each. The second pass reads one
//! letter after the other again, hands its record over, and deletes the letter on success. If the program is stopped,
//! at most one record has been handed over whose letter is still there.

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{counted, of_shard, open, output, visit_selected};
use crate::cli::args::dead_letters::{ReplayArgs, Selection};
use crate::cli::signals;
use crate::cli::sinks::multilang::Children;
use crate::consumer::{FailurePolicy, ProcessorFactory, Replayer, StillFails, WallClock};
use crate::dead_letters::letter::{DeadLetter, ItemKey, LetterId};
use crate::dead_letters::store::{LetterRef, LetterStore, StoredLetter};
use crate::model::sequence_number::SequenceNumber;

/// Replays the selected letters.
///
/// # Errors
/// When something cannot be read or written, or not all letters could be replayed.
pub async fn run(args: &ReplayArgs) -> Result<(), anyhow::Error> {
    let store = open(&args.store).await?;
    let pending = read_pending(&store, &args.letters.selection()).await?;
    let report = Report { json: args.json, to_stderr: !args.dry_run && args.sink.is_stdout() };
    if pending.is_empty() {
        return report.summary(&format!("no dead letters{}: nothing to replay", of_shard(&args.letters.selection())));
    }
    if args.dry_run {
        pending.iter().try_for_each(|letter| report.outcome(letter, &Outcome::Planned))?;
        return report.summary(&format!("dry run: {} would be handed over in this order", counted(pending.len())));
    }
    let (stop, closed) = (CancellationToken::new(), CancellationToken::new());
    let signal = signals::first_stop().context("cannot listen for signals")?;
    let asked = stop.clone();
    tokio::spawn(async move {
        signal.await;
        asked.cancel();
    });
    let (attempts, handler_timeout) = (Some(args.retry_attempts + 1), args.handler_timeout);
    let policy = FailurePolicy { attempts, handler_timeout, ..FailurePolicy::default() };
    let children = Children::default();
    let factory = args.sink.open(&closed, handler_timeout, &children)?;
    let job = Job { store: &store, pending, policy, report: &report, stop: &stop, closed: &closed };
    let outcome = job.run(factory).await;
    children.end(args.sink.end_timeout()).await;
    let compacted = store.compact();
    if closed.is_cancelled() {
        return Err(output::Closed.into());
    }
    let totals = outcome?;
    compacted?;
    totals.report(&report)
}

/// A letter to be replayed.
struct PendingLetter {
    stream_arn: String,
    id: LetterId,
    at: LetterRef,
    item: ItemKey,
}

impl PendingLetter {
    fn order(&self) -> (&str, &SequenceNumber) {
        (&self.stream_arn, &self.id.sequence_number)
    }
}

/// The selected letters, in the order in which their records are to be handed over.
async fn read_pending(store: &LetterStore, selection: &Selection) -> Result<Vec<PendingLetter>, anyhow::Error> {
    let mut pending = Vec::new();
    visit_selected(store, selection, |page| {
        pending.extend(page.into_iter().filter_map(to_pending));
        Ok(())
    })
    .await?;
    // A later stream of a table has a later label, which ends its ARN.
    pending.sort_by(|one, other| one.order().cmp(&other.order()));
    Ok(pending)
}

fn to_pending(stored: StoredLetter) -> Option<PendingLetter> {
    let name = stored.name();
    let unreadable = |reason: String| tracing::error!(letter = name, reason, "dead letter cannot be read, skipped");
    let letter = stored.letter.map_err(unreadable).ok()?;
    // A letter without a readable key fails when its record is handed over, which reports what is wrong with it.
    let item = letter.item_key().unwrap_or_else(|_| ItemKey::unique_to(&letter));
    let id = letter.id();
    Some(PendingLetter { stream_arn: letter.stream_arn, id, at: stored.at, item })
}

struct Job<'a> {
    store: &'a LetterStore,
    pending: Vec<PendingLetter>,
    policy: FailurePolicy,
    report: &'a Report,
    stop: &'a CancellationToken,
    closed: &'a CancellationToken,
}

impl Job<'_> {
    async fn run(self, factory: impl ProcessorFactory) -> Result<Totals, anyhow::Error> {
        let Self { store, pending, policy, report, stop, closed } = self;
        let mut replayer = Replayer::new(factory, policy, WallClock::System, u64::from(std::process::id()));
        let mut totals = Totals { all: pending.len(), ..Totals::default() };
        let mut failed: BTreeSet<&ItemKey> = BTreeSet::new();
        for letter in &pending {
            if stop.is_cancelled() || closed.is_cancelled() {
                break;
            }
            let outcome = match failed.contains(&letter.item) {
                true => Outcome::HeldBack,
                false => replay(&mut replayer, store, letter, closed).await?,
            };
            if matches!(outcome, Outcome::FailedAgain { .. }) {
                failed.insert(&letter.item);
            }
            totals.count(&outcome);
            report.outcome(letter, &outcome)?;
        }
        replayer.finish().await;
        Ok(totals)
    }
}

/// Hands one record over, and deletes its letter on success.
async fn replay<F: ProcessorFactory>(
    replayer: &mut Replayer<F>,
    store: &LetterStore,
    pending: &PendingLetter,
    closed: &CancellationToken,
) -> Result<Outcome, anyhow::Error> {
    let Some(stored) = store.read(&pending.at).await? else { return Ok(Outcome::Gone) };
    let letter = match stored.letter {
        Ok(letter) => letter,
        Err(error) => return Ok(Outcome::FailedAgain { attempts: 0, error }),
    };
    match replayer.deliver(&letter).await {
        Ok(()) => {
            let stays = || format!("{} was processed, but could not be deleted: a replay repeats it", pending.id);
            store.delete(&pending.at).await.with_context(stays)?;
            Ok(Outcome::Replayed)
        }
        Err(StillFails { attempts, error }) => {
            // A closed standard output is no failure of the record.
            if attempts > 0 && !closed.is_cancelled() {
                store.replace(&failed_again(&letter, attempts, &error.to_string())).await?;
            }
            Ok(Outcome::FailedAgain { attempts, error: error.to_string() })
        }
    }
}

/// The letter with its latest failure.
fn failed_again(letter: &DeadLetter, attempts: u32, error: &str) -> DeadLetter {
    DeadLetter {
        error: DeadLetter::cut_error(error),
        attempts: letter.attempts.saturating_add(attempts),
        last_failed_ms: WallClock::System.now_ms(),
        ..letter.clone()
    }
}

/// The result of one letter's replay.
enum Outcome {
    /// Dry run.
    Planned,
    /// Processed and deleted.
    Replayed,
    /// Kept.
    FailedAgain { attempts: u32, error: String },
    /// Kept, because an earlier record of its item failed again.
    HeldBack,
    /// Replayed or purged by another process meanwhile.
    Gone,
}

impl Outcome {
    fn word(&self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Replayed => "replayed",
            Self::FailedAgain { .. } => "failed_again",
            Self::HeldBack => "held_back",
            Self::Gone => "gone",
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Planned => "would be handed over".to_owned(),
            Self::Replayed => "replayed".to_owned(),
            Self::FailedAgain { attempts: 1, error } => format!("failed again: {error}"),
            Self::FailedAgain { attempts, error } => format!("failed again, {attempts} times: {error}"),
            Self::HeldBack => "held back, because an earlier record of its item failed again".to_owned(),
            Self::Gone => "gone: another process replayed or purged it".to_owned(),
        }
    }
}

struct Report {
    json: bool,
    /// Standard output has the records.
    to_stderr: bool,
}

impl Report {
    fn outcome(&self, letter: &PendingLetter, outcome: &Outcome) -> Result<(), anyhow::Error> {
        let (id, stream_arn) = (letter.id.to_string(), &letter.stream_arn);
        if !self.json {
            return self.print(&format!("{id}: {}", outcome.words()));
        }
        let (attempts, error) = match outcome {
            Outcome::FailedAgain { attempts, error } => (Some(attempts), Some(error)),
            _ => (None, None),
        };
        let line = json!({
            "id": id, "stream_arn": stream_arn, "outcome": outcome.word(), "attempts": attempts, "error": error,
        });
        self.print(&line.to_string())
    }

    /// Prints a sentence about all letters, except in JSON, which has no field for it.
    fn summary(&self, text: &str) -> Result<(), anyhow::Error> {
        if self.json { Ok(()) } else { self.print(text) }
    }

    fn print(&self, line: &str) -> Result<(), anyhow::Error> {
        if self.to_stderr {
            eprintln!("{line}");
            return Ok(());
        }
        output::print(&format!("{line}\n"))
    }
}

#[derive(Default)]
struct Totals {
    all: usize,
    replayed: usize,
    failed: usize,
    held_back: usize,
    gone: usize,
}

impl Totals {
    fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Planned => {}
            Outcome::Replayed => self.replayed += 1,
            Outcome::FailedAgain { .. } => self.failed += 1,
            Outcome::HeldBack => self.held_back += 1,
            Outcome::Gone => self.gone += 1,
        }
    }

    fn report(&self, report: &Report) -> Result<(), anyhow::Error> {
        report.summary(&format!("{} replayed", counted(self.replayed)))?;
        let untouched = self.all - self.replayed - self.failed - self.held_back - self.gone;
        if untouched > 0 {
            bail!("stopped: {} were not reached, and are kept", counted(untouched));
        }
        if self.failed + self.held_back > 0 {
            bail!(
                "{} failed again and {} held back: all of them are kept",
                counted(self.failed),
                if self.held_back == 1 { "1 was".to_owned() } else { format!("{} were", self.held_back) }
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::consumer::{BatchError, ProcessRecordsInput, RecordProcessor, ShardContext};
    use crate::dead_letters::file::FileStore;

    /// Records the sequence numbers that it is given, and fails for those in `poison`.
    #[derive(Clone, Default)]
    struct Handler {
        seen: Arc<Mutex<Vec<String>>>,
        poison: Vec<&'static str>,
    }

    impl RecordProcessor for Handler {
        async fn process_records(&mut self, input: ProcessRecordsInput) -> Result<(), BatchError> {
            let number = input.records.first().expect("a record").sequence_number().to_owned();
            self.seen.lock().expect("no panic").push(number.clone());
            if self.poison.contains(&&*number) { Err("poison".into()) } else { Ok(()) }
        }
    }

    fn letter(shard: &str, number: &str, key: &str) -> DeadLetter {
        let record = format!(r#"{{"dynamodb":{{"Keys":{{"k":{{"S":"{key}"}}}},"SequenceNumber":"{number}"}}}}"#);
        let number = number.parse().expect("a sequence number");
        DeadLetter::new("arn:aws:dynamodb:r:1:table/T/stream/L", shard.into(), number, record, "no", 5)
    }

    async fn replay_all(store: &LetterStore, handler: Handler) -> Totals {
        let pending = read_pending(store, &Selection::All).await.expect("the letters can be read");
        let policy = FailurePolicy { attempts: Some(2), ..FailurePolicy::default() };
        let report = Report { json: false, to_stderr: true };
        let (stop, closed) = (CancellationToken::new(), CancellationToken::new());
        let job = Job { store, pending, policy, report: &report, stop: &stop, closed: &closed };
        job.run(move |_: &ShardContext| handler.clone()).await.expect("the store works")
    }

    #[tokio::test(start_paused = true)]
    async fn later_records_of_an_item_are_held_back_when_an_earlier_one_fails_and_other_items_are_replayed() {
        let path = std::env::temp_dir().join(format!("shardkeeper-replay-{}", std::process::id()));
        let file = FileStore::open(&path).expect("it opens");
        // The item `a` moved from one shard to its child, whose id comes first.
        for letter in
            [letter("s2", "9", "a"), letter("s1", "12", "a"), letter("s1", "10", "b"), letter("s2", "11", "c")]
        {
            file.keep(&letter).expect("it is kept");
        }
        let store = LetterStore::File(file.clone());
        let handler = Handler { poison: vec!["9"], ..Handler::default() };
        let totals = replay_all(&store, handler.clone()).await;
        assert_eq!(*handler.seen.lock().expect("no panic"), ["9", "9", "10", "11"]);
        assert_eq!((totals.replayed, totals.failed, totals.held_back, totals.gone), (2, 1, 1, 0));
        let left: Vec<String> = file.identities().iter().map(|(_, id)| id.to_string()).collect();
        assert_eq!(left, ["s1/12", "s2/9"]);
        let failed = file.read(&file.identities()[1]).expect("it reads").expect("it is there");
        assert_eq!((failed.attempts, failed.error.as_str(), failed.first_failed_ms), (3, "poison", 5));

        let mended = Handler::default();
        let totals = replay_all(&store, mended.clone()).await;
        assert_eq!(*mended.seen.lock().expect("no panic"), ["9", "12"]);
        assert_eq!((totals.replayed, file.identities().len()), (2, 0));
        for suffix in ["", ".lock"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
    }
}
