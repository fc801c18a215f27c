//! The options of `shardkeeper lease`.

use clap::{Args, Subcommand};

use super::value::Moment;
use super::{AppArgs, AwsArgs, KclArgs, LivenessArgs, LogArgs, value};
use crate::admin::lease_ops::Request;
use crate::model::checkpoint::Checkpoint;
use crate::model::lease::ShardId;

const EPILOGUE: &str = "Whether a worker is alive is found out by watching it, for up to the lease duration. Nothing is \
                        written if any of the shards is refused, and each row only if it is still as it was shown.\n\n\
                        Exit codes: 0 done, or nothing to do, 64 wrong usage, 1 refused or failed.";

#[derive(Subcommand)]
pub enum LeaseCommand {
    /// Take leases from their owner, for the leader to assign again
    ///
    /// Takes leases from their owner, for the leader to assign again. Refused while the owner is alive: the shard would
    /// have two readers for a moment.
    #[command(after_help = EPILOGUE, next_line_help = true)]
    Release(LeaseArgs),
    /// Give leases to a worker; a live owner hands them over
    ///
    /// Gives leases to a worker. A live owner hands them over: it delivers what it holds, and nothing is delivered twice.
    #[command(after_help = EPILOGUE, next_line_help = true)]
    Assign {
        /// The worker that is to read the shards: its id, as `shardkeeper status` shows it. Must be given.
        #[arg(long, value_name = "WORKER", value_parser = value::worker_id)]
        to: String,
        #[command(flatten)]
        lease: LeaseArgs,
    },
    /// Move checkpoints: back to deliver again, or forward to skip
    ///
    /// Moves checkpoints: back, to have records delivered again, or forward, to skip some. Refused while a live worker
    /// holds the lease: stop the workers first. A shard is read after its parent's end, so to have a line of shards again
    /// in order, reset all of them at once.
    #[command(after_help = EPILOGUE, next_line_help = true)]
    Reset {
        /// The position to read from: the oldest record that the service still has, the first record from now on or since
        /// a time (2026-01-31T12:00:00Z) or an age (6h), or behind the record with this sequence number. shard-end skips
        /// whatever is left in the shard. Must be given.
        #[arg(long, value_name = "trim-horizon|latest|TIME|AGE|SEQUENCE_NUMBER", value_parser = position)]
        at: Position,
        #[command(flatten)]
        lease: LeaseArgs,
    },
}

#[derive(Args)]
pub struct LeaseArgs {
    /// The shards, by their ids, as `shardkeeper status` shows them.
    #[arg(required = true, value_name = "SHARD_ID")]
    pub shards: Vec<ShardId>,
    /// Do what is refused because it would break an invariant; some refusals stand all the same.
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// The options of every command that writes to leases.
#[derive(Args)]
pub struct ChangeArgs {
    #[command(flatten)]
    pub app: AppArgs,
    /// Say what would be written, and write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Write without asking; needed where there is no terminal to ask on.
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub liveness: LivenessArgs,
    #[command(flatten)]
    pub kcl: KclArgs,
    #[command(flatten)]
    pub aws: AwsArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

impl LeaseCommand {
    pub fn args(&self) -> &LeaseArgs {
        match self {
            Self::Release(lease) | Self::Assign { lease, .. } | Self::Reset { lease, .. } => lease,
        }
    }

    /// Whether the change depends on the time of day.
    pub fn asks_for_time(&self) -> bool {
        matches!(self, Self::Reset { at: Position::Latest | Position::Since(_), .. })
    }

    /// The change, asked for at `now_ms` (ms since the epoch).
    pub fn request(&self, now_ms: u64) -> Request {
        match self {
            Self::Release(_) => Request::Release,
            Self::Assign { to, .. } => Request::Assign { to: to.as_str().into() },
            Self::Reset { at, .. } => match at {
                Position::Latest => Request::Reset { at: Checkpoint::Latest, since_ms: Some(now_ms) },
                Position::Since(moment) => {
                    Request::Reset { at: Checkpoint::AtTimestamp, since_ms: Some(moment.ms(now_ms)) }
                }
                // What is trimmed by now is not wanted.
                Position::Fixed(at) => Request::Reset { at: at.clone(), since_ms: at.is_start().then_some(now_ms) },
            },
        }
    }
}

/// The position of a reset.
#[derive(Clone, Debug)]
pub enum Position {
    Fixed(Checkpoint),
    Latest,
    Since(Moment),
}

fn position(text: &str) -> Result<Position, String> {
    match text {
        "trim-horizon" => return Ok(Position::Fixed(Checkpoint::TrimHorizon)),
        "latest" => return Ok(Position::Latest),
        "shard-end" => return Ok(Position::Fixed(Checkpoint::ShardEnd)),
        _ => {}
    }
    let number = text.parse().map(Checkpoint::At).map(Position::Fixed).ok();
    number.or_else(|| Moment::read(text).map(Position::Since)).ok_or_else(|| {
        format!(
            "{text:?} is no position in a shard; write trim-horizon, latest, shard-end, a time such as \
             2026-01-31T12:00:00Z, an age such as 6h, or a sequence number"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Command;
    use crate::cli::config;

    fn read(line: &str) -> Result<LeaseCommand, String> {
        let words = format!("shardkeeper lease {line}");
        let environment = [("SHARDKEEPER_TO".into(), "null".into()), ("SHARDKEEPER_APP".into(), "audit".into())];
        match config::read(words.split(' ').map(Into::into), &environment.into()) {
            Ok((cli, _)) => match cli.command {
                Command::Lease(command) => Ok(command),
                _ => panic!("another sub-command"),
            },
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn shards_stand_anywhere_among_the_flags() {
        let command = read("assign s1 --to w-1 s2 --yes s3 --app=other --force").unwrap();
        assert_eq!(command.request(0), Request::Assign { to: "w-1".into() });
        let args = command.args();
        assert_eq!(args.shards, ["s1".into(), "s2".into(), "s3".into()]);
        assert!(args.change.yes && args.force && !args.change.dry_run);
        assert_eq!(args.change.app.app, "other");
    }

    #[test]
    fn a_workers_environment_names_the_application_and_not_the_taker() {
        let mistakes = read("assign s1").err().unwrap();
        assert!(mistakes.contains("--to WORKER is missing"), "{mistakes}");
        assert_eq!(read("release s1").unwrap().args().change.app.app, "audit");
    }

    #[test]
    fn positions_are_words_or_sequence_numbers() {
        for (text, position, since_ms) in [
            ("latest", "LATEST", Some(7_200_000)),
            ("shard-end", "SHARD_END", None),
            ("0123", "0123", None),
            ("1h", "AT_TIMESTAMP", Some(3_600_000)),
            ("1970-01-01T00:00:05Z", "AT_TIMESTAMP", Some(5_000)),
        ] {
            let at = Checkpoint::parse(position).unwrap();
            let command = read(&format!("reset s --at {text}")).unwrap();
            assert_eq!(command.request(7_200_000), Request::Reset { at, since_ms });
        }
        assert!(read("reset --at soon s").err().unwrap().contains("\"soon\" is no position"));
        assert!(read("reset --at latest").err().unwrap().contains("<SHARD_ID>"));
    }
}
