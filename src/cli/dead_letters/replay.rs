//! `shardkeeper dead-letters replay`: the records of letters, handed over again in the order of their items' changes.
//!
//! First it reads all letters selected and keeps of each only where it is and whose change it holds. Then it takes one
//! after the other: reads it again, hands it over, and deletes it when that went well. Stopped in between, it has at
//! worst handed one over whose letter is still there.

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::config::DeadLettersConfig;
use super::store::{Found, LetterRef, Store};
use super::{counted, output};
use crate::cli::run::{WithProcessors, with_processors};
use crate::cli::run_config::Sink;
use crate::cli::signals;
use crate::consumer::{FailurePolicy, ProcessorFactory, Replayer, StillFails, WallClock};
use crate::dead_letters::letter::{DeadLetter, ItemKey, LetterId};
use crate::model::sequence_number::SequenceNumber;

/// Replays what is selected.
///
/// # Errors
/// When something cannot be read or written, or not all letters could be replayed.
pub async fn run(
    config: &DeadLettersConfig,
    sink: &Sink,
    policy: FailurePolicy,
    dry_run: bool,
) -> Result<(), anyhow::Error> {
    let store = Store::open(&config.from, &config.app, &config.aws).await?;
    let turns = turns(&store, config).await?;
    let to_stderr = !dry_run && matches!(sink, Sink::Stdout);
    let report = Report { json: config.json, to_stderr };
    if turns.is_empty() {
        return report.remark("no dead letters: nothing to replay");
    }
    if dry_run {
        turns.iter().try_for_each(|turn| report.tell(&turn.id, &turn.stream_arn, &Outcome::Planned))?;
        return report.remark(&format!("dry run: {} would be handed over in this order", counted(turns.len())));
    }
    let (stop, closed) = (CancellationToken::new(), CancellationToken::new());
    let signal = signals::first_stop().context("cannot listen for signals")?;
    let asked = stop.clone();
    tokio::spawn(async move {
        signal.await;
        asked.cancel();
    });
    let job = Job { store: &store, turns, policy, report: &report, stop: &stop, closed: &closed };
    let outcome = with_processors(sink, &closed, job).await;
    let tidied = store.tidy();
    if closed.is_cancelled() {
        return Err(output::Closed.into());
    }
    let totals = outcome?;
    tidied?;
    totals.judge(&report)
}

/// A letter that waits for its turn.
struct Turn {
    stream_arn: String,
    id: LetterId,
    spot: LetterRef,
    /// Tells the changes of one item from those of others.
    item: ItemKey,
}

impl Turn {
    fn order(&self) -> (&str, &SequenceNumber) {
        (&self.stream_arn, &self.id.sequence_number)
    }
}

/// All letters selected, in the order in which they are to be handed over.
async fn turns(store: &Store, config: &DeadLettersConfig) -> Result<Vec<Turn>, anyhow::Error> {
    let mut turns = Vec::new();
    store
        .each(&config.selection, |page| {
            turns.extend(page.into_iter().filter_map(turn));
            Ok(())
        })
        .await?;
    // A later stream of a table has a later label, which ends its ARN.
    turns.sort_by(|one, other| one.order().cmp(&other.order()));
    Ok(turns)
}

fn turn(found: Found) -> Option<Turn> {
    let name = found.name();
    let unreadable = |reason: String| tracing::error!("passed over: {name} cannot be read: {reason}");
    let letter = found.letter.map_err(unreadable).ok()?;
    // A record without readable keys is nobody's but its own; handing it over tells what is wrong with it.
    let item = letter.item_key().unwrap_or_else(|_| ItemKey::of_none(&letter));
    let id = letter.id();
    Some(Turn { stream_arn: letter.stream_arn, id, spot: found.spot, item })
}

struct Job<'a> {
    store: &'a Store,
    turns: Vec<Turn>,
    policy: FailurePolicy,
    report: &'a Report,
    stop: &'a CancellationToken,
    closed: &'a CancellationToken,
}

impl WithProcessors for Job<'_> {
    type Output = Totals;

    async fn call(self, factory: impl ProcessorFactory) -> Result<Totals, anyhow::Error> {
        let Self { store, turns, policy, report, stop, closed } = self;
        let mut replayer = Replayer::new(factory, policy, WallClock::System, u64::from(std::process::id()));
        let mut totals = Totals { all: turns.len(), ..Totals::default() };
        let mut failed: BTreeSet<&ItemKey> = BTreeSet::new();
        for turn in &turns {
            if stop.is_cancelled() || closed.is_cancelled() {
                break;
            }
            let outcome = match failed.contains(&turn.item) {
                true => Outcome::HeldBack,
                false => take(&mut replayer, store, turn, closed).await?,
            };
            if matches!(outcome, Outcome::FailedAgain { .. }) {
                failed.insert(&turn.item);
            }
            totals.count(&outcome);
            report.tell(&turn.id, &turn.stream_arn, &outcome)?;
        }
        replayer.finish().await;
        Ok(totals)
    }
}

/// Hands one letter over, and deletes it when that went well.
async fn take<F: ProcessorFactory>(
    replayer: &mut Replayer<F>,
    store: &Store,
    turn: &Turn,
    closed: &CancellationToken,
) -> Result<Outcome, anyhow::Error> {
    let Some(found) = store.read(&turn.spot).await? else { return Ok(Outcome::Gone) };
    let letter = match found.letter {
        Ok(letter) => letter,
        Err(error) => return Ok(Outcome::FailedAgain { attempts: 0, error }),
    };
    match replayer.deliver(&letter).await {
        Ok(()) => {
            let id = &turn.id;
            let stays = || format!("{id} went well, but its letter could not be deleted: a replay repeats it");
            store.delete(&turn.spot).await.with_context(stays)?;
            Ok(Outcome::Replayed)
        }
        Err(StillFails { attempts, error }) => {
            // That standard output was closed is no failure of the record's.
            if attempts > 0 && !closed.is_cancelled() {
                store.replace(&failed_again(&letter, attempts, &error.to_string())).await?;
            }
            Ok(Outcome::FailedAgain { attempts, error: error.to_string() })
        }
    }
}

/// The letter with its latest failure.
fn failed_again(letter: &DeadLetter, attempts: u32, error: &str) -> DeadLetter {
    let now_ms = WallClock::System.now_ms();
    let mut latest = DeadLetter::new(
        &letter.stream_arn,
        letter.shard_id.clone(),
        letter.sequence_number.clone(),
        &letter.record,
        error,
        now_ms,
    );
    latest.event_id.clone_from(&letter.event_id);
    latest.reason = letter.reason;
    latest.attempts = letter.attempts.saturating_add(attempts);
    latest.created_ms = letter.created_ms;
    latest.first_failed_ms = letter.first_failed_ms;
    latest.worker.clone_from(&letter.worker);
    latest
}

/// What became of a letter.
enum Outcome {
    /// Its turn would come.
    Planned,
    /// Its record went well, and it is deleted.
    Replayed,
    /// It stays.
    FailedAgain { attempts: u32, error: String },
    /// It stays: an earlier record of its item failed again.
    HeldBack,
    /// Somebody else has replayed or purged it meanwhile.
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
            Self::Gone => "gone: somebody else replayed or purged it".to_owned(),
        }
    }
}

/// Where outcomes are told.
struct Report {
    json: bool,
    /// Standard output is for the records.
    to_stderr: bool,
}

impl Report {
    fn tell(&self, id: &LetterId, stream_arn: &str, outcome: &Outcome) -> Result<(), anyhow::Error> {
        if !self.json {
            return self.print(&format!("{id}: {}", outcome.words()));
        }
        let (attempts, error) = match outcome {
            Outcome::FailedAgain { attempts, error } => (Some(attempts), Some(error)),
            _ => (None, None),
        };
        let id = id.to_string();
        let line = json!({
            "id": id, "stream_arn": stream_arn, "outcome": outcome.word(), "attempts": attempts, "error": error,
        });
        self.print(&line.to_string())
    }

    /// Something about all letters, which JSON has no place for.
    fn remark(&self, text: &str) -> Result<(), anyhow::Error> {
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

    fn judge(&self, report: &Report) -> Result<(), anyhow::Error> {
        report.remark(&format!("{} replayed", counted(self.replayed)))?;
        let untouched = self.all - self.replayed - self.failed - self.held_back - self.gone;
        if untouched > 0 {
            bail!("stopped: {} were not reached and stay where they are", counted(untouched));
        }
        if self.failed + self.held_back > 0 {
            bail!(
                "{} failed again and {} held back: they stay where they are",
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

    /// Notes the sequence numbers it is handed, and fails for those of `poison`.
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

    async fn replay(store: &Store, handler: Handler) -> Totals {
        let config = match crate::cli::dead_letters::config::read(
            "replay",
            &["--all".into(), "--app".into(), "audit".into()],
            &crate::cli::layers::Environment::default(),
        ) {
            Ok(config) => config,
            Err(mistakes) => panic!("{mistakes}"),
        };
        let turns = turns(store, &config).await.expect("the letters can be read");
        let policy = FailurePolicy { attempts: Some(2), ..FailurePolicy::default() };
        let report = Report { json: false, to_stderr: true };
        let (stop, closed) = (CancellationToken::new(), CancellationToken::new());
        let job = Job { store, turns, policy, report: &report, stop: &stop, closed: &closed };
        job.call(move |_: &ShardContext| handler.clone()).await.expect("the store works")
    }

    #[tokio::test(start_paused = true)]
    async fn an_items_later_records_wait_for_an_earlier_one_that_fails_and_others_go_on() {
        let path = std::env::temp_dir().join(format!("shardkeeper-replay-{}", std::process::id()));
        let file = FileStore::open(&path).expect("it opens");
        // The item `a` moved from one shard to its child, whose id comes first.
        for letter in
            [letter("s2", "9", "a"), letter("s1", "12", "a"), letter("s1", "10", "b"), letter("s2", "11", "c")]
        {
            file.keep(&letter).expect("it is kept");
        }
        let store = Store::Held(file.clone());
        let handler = Handler { poison: vec!["9"], ..Handler::default() };
        let totals = replay(&store, handler.clone()).await;
        assert_eq!(*handler.seen.lock().expect("no panic"), ["9", "9", "10", "11"]);
        assert_eq!((totals.replayed, totals.failed, totals.held_back, totals.gone), (2, 1, 1, 0));
        let left: Vec<String> = file.identities().iter().map(|(_, id)| id.to_string()).collect();
        assert_eq!(left, ["s1/12", "s2/9"]);
        let failed = file.read(&file.identities()[1]).expect("it reads").expect("it is there");
        assert_eq!((failed.attempts, failed.error.as_str(), failed.first_failed_ms), (3, "poison", 5));

        let mended = Handler::default();
        let totals = replay(&store, mended.clone()).await;
        assert_eq!(*mended.seen.lock().expect("no panic"), ["9", "12"]);
        assert_eq!((totals.replayed, file.identities().len()), (2, 0));
        for suffix in ["", ".lock"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
    }
}
