//! The verdict on a failed call: one table, by the error's class and the worker's phase.
//!
//! A fault that passes by itself is retried. One that somebody has to mend (permissions, credentials, a table) ends a
//! start at once, while the person who started the worker looks on. A running worker retries that too, for two minutes:
//! policies are replaced, keys are rotated and tables are restored in that time, and one odd answer must end nothing.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::aws::TableError;

/// The longest time for which a running worker's calls may be refused.
const LONGEST_SPELL: Duration = Duration::from_secs(120);
/// Refusals with less than this between them are one spell.
const SPELL_GAP: Duration = Duration::from_secs(10);

/// The class of a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// No answer, a throttled call, or a fault of the service.
    Unavailable,
    /// Permissions, credentials, or a request that the service takes for invalid.
    Refused,
    /// The table is not there.
    Missing,
    /// The table is another program's.
    Foreign,
}

/// The phase of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It looks for its tables and its stream.
    Starting,
    /// It works, or hands its leases over.
    Running,
}

/// The action of a worker after a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It retries.
    Retry,
    /// It retries for [`LONGEST_SPELL`], and is not ready meanwhile.
    RetryForAWhile,
    /// It ends.
    End,
}

impl Class {
    fn of(error: &TableError) -> Self {
        match error {
            TableError::Unavailable { .. } => Self::Unavailable,
            TableError::Refused { .. } => Self::Refused,
            TableError::Missing { .. } => Self::Missing,
            TableError::Foreign { .. } => Self::Foreign,
        }
    }
}

/// The verdict on an error of a table.
pub(crate) fn on_table_error(error: &TableError, phase: Phase) -> Verdict {
    verdict(Class::of(error), phase)
}

fn verdict(class: Class, phase: Phase) -> Verdict {
    match (class, phase) {
        (Class::Unavailable, _) => Verdict::Retry,
        (Class::Foreign, _) | (Class::Refused | Class::Missing, Phase::Starting) => Verdict::End,
        (Class::Refused | Class::Missing, Phase::Running) => Verdict::RetryForAWhile,
    }
}

/// The refusals that one loop of a running worker has met.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<Option<Spell>>);

#[derive(Clone, Copy, Debug)]
struct Spell {
    began: Instant,
    last: Instant,
}

impl Refusals {
    /// Whether the loop is to retry after this error.
    pub(crate) fn allow(&self, error: &TableError) -> bool {
        match on_table_error(error, Phase::Running) {
            Verdict::Retry => true,
            Verdict::End => false,
            Verdict::RetryForAWhile => {
                let now = Instant::now();
                let mut spell = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                let began = match *spell {
                    Some(spell) if spell.last + SPELL_GAP > now => spell.began,
                    _ => {
                        tracing::warn!(%error, "a call was refused, retrying");
                        now
                    }
                };
                *spell = Some(Spell { began, last: now });
                now - began < LONGEST_SPELL
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::aws::TableRole;

    #[test]
    fn each_class_has_its_verdict_in_each_phase() {
        use Verdict::{End, Retry, RetryForAWhile};
        for (class, starting, running) in [
            (Class::Unavailable, Retry, Retry),
            (Class::Refused, End, RetryForAWhile),
            (Class::Missing, End, RetryForAWhile),
            (Class::Foreign, End, End),
        ] {
            assert_eq!(verdict(class, Phase::Starting), starting, "{class:?}");
            assert_eq!(verdict(class, Phase::Running), running, "{class:?}");
        }
    }

    fn refused() -> TableError {
        TableError::Refused {
            operation: "UpdateItem",
            table: "app".into(),
            source: crate::aws::CallError::described(None, "no".into()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_borne_for_two_minutes() {
        let refusals = Refusals::default();
        for _ in 0..120 {
            assert!(refusals.allow(&refused()));
            advance(Duration::from_secs(1)).await;
        }
        assert!(!refusals.allow(&refused()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_between_refusals_begins_a_new_spell() {
        let refusals = Refusals::default();
        for _ in 0..100 {
            assert!(refusals.allow(&refused()));
            advance(Duration::from_secs(11)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_of_another_program_is_not_waited_for() {
        let foreign = TableError::Foreign { table: "app".into(), found: String::new(), wanted: String::new() };
        assert!(!Refusals::default().allow(&foreign));
        assert!(Refusals::default().allow(&TableError::Missing { table: "app".into(), role: TableRole::Leases }));
    }
}
