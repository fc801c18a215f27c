//! The options of `shardkeeper replay`.

use clap::Args;

use super::lease::ChangeArgs;
use super::value::{DAY, Moment};

const EPILOGUE: &str = "Afterwards start the workers: they deliver each shard again from its oldest record, parents before their children.\n\n\
                        Exit codes: 0 done, or nothing to do, 64 wrong usage, 1 refused or failed.\n\n\
                        Examples:\n  shardkeeper replay --app phone-audit --from beginning --dry-run\n  \
                        shardkeeper replay --app phone-audit --from 2026-01-31T12:00:00Z";

/// Deliver everything again that the stream still has, from its beginning or from a time on
///
/// Moves all shards that the stream still has back to their oldest record, those included whose lease was deleted because
/// they had been read. Refused while a worker is alive: stop the application's workers first. Shows each lease that it
/// would write, and asks.
#[derive(Args)]
#[command(after_help = EPILOGUE, next_line_help = true)]
pub struct ReplayArgs {
    /// The first change to deliver again: the oldest in the stream, the first after a time (RFC 3339), or the first of the
    /// last hours or minutes (such as 6h). A shard that was open at that time is read from its beginning, up to some four
    /// hours earlier. Must be given.
    #[arg(long, value_name = "beginning|TIME|AGE", value_parser = replay_from)]
    pub from: ReplayFrom,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// The first change of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayFrom {
    Beginning,
    Since(Moment),
}

impl ReplayFrom {
    /// The time (ms since the epoch) before which nothing needs to be delivered again.
    pub fn time_ms(self, now_ms: u64) -> u64 {
        match self {
            Self::Beginning => 0,
            Self::Since(moment) => moment.ms(now_ms),
        }
    }
}

fn replay_from(text: &str) -> Result<ReplayFrom, String> {
    if text == "beginning" {
        return Ok(ReplayFrom::Beginning);
    }
    // DynamoDB keeps records for a day.
    let is_kept = |moment: &Moment| !matches!(moment, Moment::Age(age) if *age > DAY);
    Moment::read(text).filter(is_kept).map(ReplayFrom::Since).ok_or_else(|| {
        format!(
            "{text:?} is no time; write beginning, a time such as 2026-01-31T12:00:00Z, or an age from 1m to 24h such as 6h"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_begins_at_the_beginning_a_time_or_an_age() {
        assert_eq!(replay_from("beginning"), Ok(ReplayFrom::Beginning));
        assert_eq!(replay_from("1970-01-01T01:00:00+01:00").map(|from| from.time_ms(9)), Ok(0));
        assert_eq!(replay_from("1970-01-02T00:00:00.5Z").map(|from| from.time_ms(9)), Ok(86_400_500));
        assert_eq!(replay_from("2h").map(|from| from.time_ms(7_200_003)), Ok(3));
        for text in ["", "latest", "25h", "5", "2026-01-31"] {
            assert!(replay_from(text).unwrap_err().contains("is no time"), "{text}");
        }
    }
}
