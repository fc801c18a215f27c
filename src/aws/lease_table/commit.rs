//! A lease's write and a handler's own, in one transaction: the position moves if and only if the writes are made.

use std::collections::HashMap;

use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::AttributeValue;
pub use aws_sdk_dynamodb::types::TransactWriteItem;

use super::{LeaseTable, Outcome, condition_failed, resolve};
use crate::aws::{CallError, ErrorKind, TableError};
use crate::model::lease::{Lease, Transition};

/// The most writes of a handler in one transaction: the service takes 100 (API reference, "TransactWriteItems"), and
/// one is the lease's.
pub const MAX_WRITES: usize = 99;

/// The code of a write that did not cause the cancellation.
const NO_REASON: &str = "None";

/// The outcome of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub enum CommitOutcome {
    /// Applied; the row as it is now.
    Applied(Lease),
    /// Not applied, since the row was not as expected. Holds the row as it is now, if it is there and can be read.
    Conflict(Option<Lease>),
    /// Not applied, since these of the handler's writes were refused.
    Refused(Vec<RefusedWrite>),
}

/// A handler's write that the service refused, and with it the whole transaction.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RefusedWrite {
    /// The index among the handler's writes.
    pub index: usize,
    /// The service's word for the reason, such as `ConditionalCheckFailed` (API reference, "CancellationReason").
    pub code: String,
    /// The service's further words.
    pub message: Option<String>,
    /// The item as it is, where the condition failed and the write asked for it by
    /// `ReturnValuesOnConditionCheckFailure`.
    pub item: Option<HashMap<String, AttributeValue>>,
}

impl RefusedWrite {
    /// Whether the write's own condition failed.
    pub fn is_condition(&self) -> bool {
        self.code == "ConditionalCheckFailed"
    }

    /// Whether retrying the same write may help.
    pub fn is_transient(&self) -> bool {
        matches!(self.code.as_str(), "TransactionConflict" | "ProvisionedThroughputExceeded" | "ThrottlingError")
    }
}

impl LeaseTable {
    /// Writes a transition together with a handler's writes: all of it, if the row is still as it was seen, or nothing.
    ///
    /// The row decides what happened when an answer was lost, as for [`LeaseTable::apply`]; so the transition must move
    /// the checkpoint, for a row that is moved is the proof that the handler's writes are made.
    ///
    /// # Errors
    /// When it is not known whether the transaction happened: it may yet. Commit the same again, or read the row.
    pub async fn commit(
        &self,
        transition: &Transition,
        writes: &[TransactWriteItem],
    ) -> Result<CommitOutcome, TableError> {
        let lease = TransactWriteItem::builder().update(self.update(transition)?).build();
        let items = std::iter::once(lease).chain(writes.iter().cloned()).collect();
        let turn = self.turns.acquire().await;
        let call = self.table.client.transact_write_items().set_transact_items(Some(items)).send().await;
        drop(turn);
        let error = match call {
            Ok(_) => return Ok(CommitOutcome::Applied(transition.after.clone())),
            Err(error) => error,
        };
        let row = match error.as_service_error() {
            Some(TransactWriteItemsError::TransactionCanceledException(canceled)) => {
                let (of_lease, of_writes) = match canceled.cancellation_reasons() {
                    [of_lease, of_writes @ ..] => (Some(of_lease), of_writes),
                    [] => (None, [].as_slice()),
                };
                if condition_failed(of_lease) {
                    self.row_of(of_lease, &transition.before.key).await?
                } else {
                    let is_fine = of_lease.and_then(|reason| reason.code.as_deref()) == Some(NO_REASON);
                    let refused = refused(of_writes);
                    if is_fine && !refused.is_empty() {
                        return Ok(CommitOutcome::Refused(refused));
                    }
                    // Somebody was writing the row at the same moment.
                    return Err(self.unavailable(CallError::new(&error)));
                }
            }
            _ => {
                // The handler's tables are as likely to be meant as the lease's own.
                if matches!(ErrorKind::of(&error), ErrorKind::NotFound | ErrorKind::Refused) {
                    let (operation, table) = ("TransactWriteItems", self.table.name.clone());
                    return Err(TableError::Refused { operation, table, source: CallError::new(&error) });
                }
                let row = self.read_valid(&transition.before.key).await?;
                if row.as_ref() == Some(&transition.before) {
                    return Err(self.unavailable(CallError::new(&error))); // not yet done, but it may be on its way
                }
                row
            }
        };
        Ok(match resolve(transition, row) {
            Outcome::Applied(row) => CommitOutcome::Applied(row),
            Outcome::Conflict(row) => CommitOutcome::Conflict(row),
        })
    }

    fn unavailable(&self, source: CallError) -> TableError {
        TableError::Unavailable { operation: "TransactWriteItems", table: self.table.name.clone(), source }
    }
}

fn refused(reasons: &[aws_sdk_dynamodb::types::CancellationReason]) -> Vec<RefusedWrite> {
    let refused = |(index, reason): (usize, &aws_sdk_dynamodb::types::CancellationReason)| {
        let code = reason.code.clone().filter(|code| code != NO_REASON)?;
        Some(RefusedWrite { index, code, message: reason.message.clone(), item: reason.item.clone() })
    };
    reasons.iter().enumerate().filter_map(refused).collect()
}
