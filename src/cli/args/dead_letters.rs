//! The options of `shardkeeper dead-letters`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::value::{self, HOUR, MILLISECOND, duration, whole};
use super::{AppArgs, AwsArgs, LogArgs};
use crate::cli::config::Sources;
use crate::cli::sinks::SinkArgs;
use crate::dead_letters::letter::LetterId;
use crate::dead_letters::target::DeadLetterTarget;
use crate::model::lease::ShardId;

const EPILOGUE: &str =
    "Exit codes: 0 done, 64 wrong usage, 1 something could not be read or written, or an ID names no letter.";
const REPLAY_EPILOGUE: &str = "The outcome of each letter goes to standard output; to standard error when the records themselves go to standard \
     output.\n\n\
     Exit codes: 0 all were replayed, 64 wrong usage, 1 some failed again or were held back, or something could not be \
     read or written.\n\n\
     Example:\n  shardkeeper dead-letters replay --app phone-audit --to http://localhost:8080/ --all";

#[derive(Subcommand)]
pub enum DeadLettersCommand {
    /// Show which letters there are, a line each
    ///
    /// Shows which letters there are, a line each; those of a shard together, in its order. With --json each line is the
    /// whole letter: so kept in a file, it can be read and replayed by --from file:PATH.
    #[command(after_help = EPILOGUE, next_line_help = true)]
    List(ListArgs),
    /// Show everything of some letters, their records included
    ///
    /// Shows everything of some letters, their records included.
    #[command(after_help = EPILOGUE, next_line_help = true)]
    Show(ShowArgs),
    /// Hand the records of letters to the handler again
    ///
    /// Hands the records of letters to the handler again, one after the other: the letters named, those of a --shard, or
    /// --all. A letter is deleted once its record succeeded, so the handler must be named: by --to or SHARDKEEPER_TO. For each item it proceeds by sequence number, and when a
    /// record fails again, the later ones of its item are held back; those of other items continue. If this is stopped at
    /// any moment no letter is lost, and the one that was under way may be handed over twice.
    #[command(after_help = REPLAY_EPILOGUE, next_line_help = true, mut_arg("to", |to| to.required(true).default_value(None)))]
    Replay(Box<ReplayArgs>),
    /// Delete letters for good
    ///
    /// Deletes letters for good: those named, those of a --shard, or --all. Says how many there are, and asks.
    #[command(after_help = EPILOGUE, next_line_help = true)]
    Purge(PurgeArgs),
}

impl DeadLettersCommand {
    pub fn store(&self) -> &StoreArgs {
        match self {
            Self::List(args) => &args.store,
            Self::Show(args) => &args.store,
            Self::Replay(args) => &args.store,
            Self::Purge(args) => &args.store,
        }
    }
}

#[derive(Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Only the letters of this shard.
    #[arg(long, value_name = "SHARD_ID", value_parser = shard)]
    pub shard: Option<ShardId>,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args)]
pub struct ShowArgs {
    /// Letters, by their ids as `dead-letters list` shows them: SHARD_ID/SEQUENCE_NUMBER.
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<LetterId>,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    pub letters: LetterArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub sink: SinkArgs,
    /// Retries of a record that fails before it stays a dead letter: 0 to 10000.
    #[arg(long, value_name = "N", value_parser = whole(0..=10_000u32), default_value = "2",
        env = "SHARDKEEPER_RETRY_ATTEMPTS")]
    pub retry_attempts: u32,
    /// Time that one delivery may take before it counts as failed: 10ms to 1h; without it, any time.
    #[arg(long, value_name = "DURATION", value_parser = duration(10 * MILLISECOND..=HOUR),
        env = "SHARDKEEPER_HANDLER_TIMEOUT")]
    pub handler_timeout: Option<Duration>,
    /// Say what would be done to which letters, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Report the outcome of each letter by a JSON object a line: its fields are named in docs/dead-letters.md.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct PurgeArgs {
    #[command(flatten)]
    pub letters: LetterArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Say what would be done to which letters, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Delete without asking; needed where there is no terminal to ask on.
    #[arg(long)]
    pub yes: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct LetterArgs {
    /// Letters, by their ids as `dead-letters list` shows them: SHARD_ID/SEQUENCE_NUMBER.
    #[arg(value_name = "ID")]
    ids: Vec<LetterId>,
    /// All letters, rather than those named.
    #[arg(long)]
    all: bool,
    /// Only the letters of this shard.
    #[arg(long, value_name = "SHARD_ID", value_parser = shard)]
    shard: Option<ShardId>,
}

#[derive(Args)]
pub struct OutputArgs {
    /// Print the whole letters for programs, a JSON object a line: its fields are named in docs/dead-letters.md and stay.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct StoreArgs {
    #[command(flatten)]
    pub app: AppArgs,
    /// The place of the letters: the workers' --dead-letters.
    #[arg(long, value_name = "table|file:PATH", value_parser = readable_target, default_value = "table",
        env = "SHARDKEEPER_DEAD_LETTERS")]
    pub from: DeadLetterTarget,
    #[command(flatten)]
    pub aws: AwsArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

impl StoreArgs {
    /// Finds combinations that make no sense.
    pub fn check(&self, sources: &mut Sources) {
        if let Some(mistake) = self.from.mistake_in_name(&self.app.app) {
            sources.add_mistake(format!("{}: {mistake}", sources.place_of("app")));
        }
    }
}

/// Letters that a command works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    All,
    Shard(ShardId),
    Ids(Vec<LetterId>),
}

impl Selection {
    pub fn of_shard(shard: Option<&ShardId>) -> Self {
        shard.cloned().map_or(Self::All, Self::Shard)
    }

    /// These letters, each once.
    pub fn of_ids(ids: &[LetterId]) -> Self {
        let mut letters = Vec::new();
        for id in ids {
            if !letters.contains(id) {
                letters.push(id.clone());
            }
        }
        Self::Ids(letters)
    }
}

impl LetterArgs {
    pub fn selection(&self) -> Selection {
        match &self.ids[..] {
            [] => Selection::of_shard(self.shard.as_ref()),
            ids => Selection::of_ids(ids),
        }
    }
}

fn shard(text: &str) -> Result<ShardId, String> {
    value::text(text).map(ShardId::from)
}

/// A place of dead letters, but for a queue, whose letters belong to its receivers.
fn readable_target(text: &str) -> Result<DeadLetterTarget, String> {
    match DeadLetterTarget::parse(text)? {
        #[cfg(feature = "sqs")]
        DeadLetterTarget::Sqs(_) => {
            Err("names a queue, whose letters are received from it; give --from table for those that were \
                              too large for a message"
                .to_owned())
        }
        place => Ok(place),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Command;
    use crate::cli::config;

    fn read(line: &str, variables: &[(&str, &str)]) -> Result<DeadLettersCommand, String> {
        let words = format!("shardkeeper dead-letters {line}");
        let app = [("SHARDKEEPER_APP", "audit")];
        let environment = app.iter().chain(variables).map(|(name, text)| ((*name).into(), (*text).into())).collect();
        match config::read(words.split(' ').map(Into::into), &environment) {
            Ok((cli, _)) => match cli.command {
                Command::DeadLetters(command) => Ok(command),
                _ => panic!("another sub-command"),
            },
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn letters_are_named_in_one_way() {
        let selection = |line| {
            Ok::<_, String>(match read(line, &[])? {
                DeadLettersCommand::Replay(args) => args.letters.selection(),
                DeadLettersCommand::Purge(args) => args.letters.selection(),
                DeadLettersCommand::Show(args) => Selection::of_ids(&args.ids),
                DeadLettersCommand::List(args) => Selection::of_shard(args.shard.as_ref()),
            })
        };
        let ids = ["s1/7", "s2/9"].map(|id| id.parse().unwrap());
        assert_eq!(selection("replay s1/7 --to null s2/9 s1/07"), Ok(Selection::Ids(ids.into())));
        assert_eq!(selection("purge --shard s1 --yes"), Ok(Selection::Shard("s1".into())));
        assert_eq!(selection("replay --all --to stdout"), Ok(Selection::All));
        assert_eq!(selection("list"), Ok(Selection::All));
        for line in ["replay --to null", "purge"] {
            assert!(selection(line).unwrap_err().contains("ID or --all or --shard SHARD_ID is missing"), "{line}");
        }
        for line in ["purge s1/7 --all", "replay --to null --all --shard s1"] {
            assert!(selection(line).unwrap_err().contains("exclude each other"), "{line}");
        }
        assert!(selection("show").unwrap_err().contains("<ID>"));
        assert!(selection("show s1").unwrap_err().contains("\"s1\" names no dead letter"));
        assert!(selection("list s1/7").unwrap_err().contains("unexpected argument"));
    }

    #[test]
    fn letters_are_replayed_only_to_a_handler_that_was_named() {
        let mistake = read("replay --all", &[]).err().expect("nobody said where the records go");
        assert!(mistake.contains("--to stdout|null|URL|multilang:COMMAND is missing"), "{mistake}");
        assert!(read("replay --all", &[("SHARDKEEPER_TO", "http://localhost:8080/")]).is_ok());
    }

    #[test]
    fn a_workers_environment_says_where_the_letters_are() {
        let from = |line, variables: &[_]| read(line, variables).map(|command| command.store().from.clone());
        let of_worker = [("SHARDKEEPER_DEAD_LETTERS", "file:/x")];
        assert_eq!(from("list", &[]), Ok(DeadLetterTarget::Table));
        assert_eq!(from("list", &of_worker), Ok(DeadLetterTarget::File("/x".into())));
        assert_eq!(from("list --from table", &of_worker), Ok(DeadLetterTarget::Table));
        let wrong = from("list", &[("SHARDKEEPER_DEAD_LETTERS", "x")]).unwrap_err();
        assert!(wrong.contains("SHARDKEEPER_DEAD_LETTERS (environment): \"x\" is no place"), "{wrong}");
    }

    #[cfg(feature = "sqs")]
    #[test]
    fn a_queue_is_no_place_to_list_letters_from() {
        let queue = "sqs:https://sqs.eu-west-1.amazonaws.com/1/letters";
        for (line, variables) in
            [(format!("list --from {queue}"), vec![]), ("list".to_owned(), vec![("SHARDKEEPER_DEAD_LETTERS", queue)])]
        {
            assert!(read(&line, &variables).err().unwrap().contains("names a queue"), "{line}");
        }
    }
}
