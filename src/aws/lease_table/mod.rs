//! The lease table: KCL's rows in DynamoDB, one a shard, every write conditional.
//!
//! Attributes and types are KCL's to the letter (`DynamoDBLeaseSerializer`), so that a stopped KCL fleet and this
//! worker can take over from each other. Attributes without a use here are neither read nor written, and so survive;
//! KCL's pending checkpoints go with the checkpoint that they were prepared for, as in KCL. Two attributes are our own,
//! `shardkeeperDone` and `shardkeeperSince`, which KCL's workers leave alone.
//! Reads are strongly consistent: a stale row could start a child before its parent's end, or at an old checkpoint.

mod commit;
mod kcl_signs;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, KeysAndAttributes, Put, ReturnValuesOnConditionCheckFailure, Update,
};
use tokio::sync::Semaphore;

pub use self::commit::{CommitOutcome, MAX_WRITES, RefusedWrite, TransactWriteItem};
pub use self::kcl_signs::{KclSign, KclSignKind};
use super::clients::MAX_CALLS_IN_FLIGHT;
use super::item::{Item, number, string, string_set};
use super::own_table::OwnTable;
use super::table_health::TableHealth;
use super::{ErrorKind, TableError, TableRole};
use crate::model::checkpoint::Checkpoint;
use crate::model::lease::{Lease, ShardId, Transition, WorkerId};

const KEY: &str = "leaseKey";
const OWNER: &str = "leaseOwner";
const CHECKPOINT_OWNER: &str = "checkpointOwner";
const COUNTER: &str = "leaseCounter";
const CHECKPOINT: &str = "checkpoint";
const SUB_SEQUENCE_NUMBER: &str = "checkpointSubSequenceNumber";
const PENDING_CHECKPOINT: [&str; 3] =
    ["pendingCheckpoint", "pendingCheckpointSubSequenceNumber", "pendingCheckpointState"];
const OWNER_SWITCHES: &str = "ownerSwitchesSinceCheckpoint";
const PARENTS: &str = "parentShardId";
const CHILDREN: &str = "childShardIds";
const THROUGHPUT: &str = "throughputKBps";
const ENTITY_TYPE: &str = "entityType";
/// Ours, not KCL's.
const DONE: &str = "shardkeeperDone";
/// Ours, not KCL's.
const SINCE: &str = "shardkeeperSince";

/// The most keys that one BatchGetItem takes.
const READ_CHUNK: usize = 100;
/// The wait before keys are asked for again that the service did not get to.
const UNPROCESSED_WAIT: Duration = Duration::from_millis(50);

/// The lease table of an application.
#[derive(Clone, Debug)]
pub struct LeaseTable {
    table: OwnTable,
    /// The calls on single rows that may be under way: thousands of shards that start or stop at once would otherwise
    /// open a connection each.
    turns: Arc<Semaphore>,
}

/// A row that cannot be read as a lease: its shard waits until somebody has repaired it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lease {key} cannot be read: {reason}")]
pub struct BadRow {
    /// The lease's key.
    pub key: ShardId,
    /// The fault of the row.
    pub reason: String,
}

/// The outcome of a conditional write.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Applied; the row as it is now.
    Applied(Lease),
    /// Not applied, since the row was not as expected. Holds the row as it is now, if it is there and can be read.
    Conflict(Option<Lease>),
}

/// The outcome of the end of a shard.
#[derive(Clone, Debug, PartialEq)]
pub enum EndOutcome {
    /// The parent is finished. Its children's rows, as far as this call made or took them.
    Applied {
        /// The finished parent.
        parent: Lease,
        /// The children that belong to the owner the call named.
        children: Vec<Lease>,
    },
    /// The parent's row was not as expected.
    Conflict(Option<Lease>),
}

impl LeaseTable {
    /// The table of this name.
    pub fn new(client: Client, name: impl Into<String>) -> Self {
        let turns = Arc::new(Semaphore::new(MAX_CALLS_IN_FLIGHT));
        Self { table: OwnTable::new(client, name.into(), TableRole::Leases, &[KEY]), turns }
    }

    /// The same table; each call on it reports to `health` whether the table answers.
    #[must_use]
    pub fn with_health(self, health: &TableHealth) -> Self {
        Self { table: self.table.with_health(health), ..self }
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.table.name
    }

    /// Waits until the table can be used, and creates it when it is missing and `create` allows that.
    ///
    /// # Errors
    /// [`TableError::Missing`] when it is missing and may not be created.
    pub async fn ensure(&self, create: bool) -> Result<(), TableError> {
        self.table.ensure(create).await
    }

    /// Checks that the table, if it is there, has a lease table's key.
    ///
    /// # Errors
    /// [`TableError::Foreign`] when it has another one.
    pub async fn check(&self) -> Result<(), TableError> {
        self.table.check().await
    }

    /// The table as such, for a preflight.
    #[cfg(feature = "cli")]
    pub(crate) fn own(&self) -> &OwnTable {
        &self.table
    }

    /// All rows.
    ///
    /// # Errors
    /// When a page of the scan failed for good; part of a table is never returned as the whole.
    pub async fn scan(&self) -> Result<Vec<Result<Lease, BadRow>>, TableError> {
        Ok(self.scan_with_signs().await?.0)
    }

    /// All rows, and the signs of life that KCL 3.5 keeps among them.
    ///
    /// # Errors
    /// As [`LeaseTable::scan`].
    pub async fn scan_with_signs(&self) -> Result<(Vec<Result<Lease, BadRow>>, Vec<KclSign>), TableError> {
        let (mut rows, mut signs) = (Vec::new(), Vec::new());
        let read = |item: Item| match kcl_signs::read_sign(&item) {
            Some(sign) => signs.push(sign),
            None => rows.extend(read_row(&item)),
        };
        self.table.scan(read).await?;
        Ok((rows, signs))
    }

    /// One row, if it is there.
    ///
    /// # Errors
    /// When the call failed for good.
    pub async fn read(&self, key: &ShardId) -> Result<Option<Result<Lease, BadRow>>, TableError> {
        let _turn = self.turns.acquire().await;
        Ok(self.table.get(key_item(key)).await?.as_ref().and_then(read_row))
    }

    /// Some rows, as far as they are there.
    ///
    /// # Errors
    /// When a call failed for good.
    pub async fn read_many(&self, keys: &BTreeSet<ShardId>) -> Result<Vec<Result<Lease, BadRow>>, TableError> {
        let mut rows = Vec::new();
        let keys: Vec<Item> = keys.iter().map(key_item).collect();
        for chunk in keys.chunks(READ_CHUNK) {
            let mut left = chunk.to_vec();
            while !left.is_empty() {
                let wanted = KeysAndAttributes::builder().set_keys(Some(left)).consistent_read(true).build();
                let wanted = wanted.map_err(|error| self.table.unbuildable("BatchGetItem", &error))?;
                let call = self.table.client.batch_get_item().request_items(&self.table.name, wanted);
                let answer = call.send().await.map_err(|error| self.table.error("BatchGetItem", &error))?;
                let mut tables = self.table.listed("BatchGetItem", answer.responses)?;
                rows.extend(tables.remove(&self.table.name).unwrap_or_default().iter().filter_map(read_row));
                left = answer
                    .unprocessed_keys
                    .and_then(|mut tables| tables.remove(&self.table.name))
                    .map(|rest| rest.keys)
                    .unwrap_or_default();
                if !left.is_empty() {
                    tokio::time::sleep(UNPROCESSED_WAIT).await;
                }
            }
        }
        Ok(rows)
    }

    /// Creates a row, unless there is one for this shard.
    ///
    /// # Errors
    /// When it is not known whether the row was created.
    pub async fn create(&self, lease: &Lease) -> Result<Outcome, TableError> {
        let turn = self.turns.acquire().await;
        let call = self
            .table
            .client
            .put_item()
            .table_name(&self.table.name)
            .set_item(Some(new_item(lease)))
            .condition_expression("attribute_not_exists(leaseKey)")
            .send()
            .await;
        drop(turn);
        match call {
            Ok(_) => Ok(Outcome::Applied(lease.clone())),
            Err(error) if ErrorKind::of(&error) == ErrorKind::ConditionFailed => {
                let row = self.read_valid(&lease.key).await?;
                Ok(match row {
                    Some(row) if row == *lease => Outcome::Applied(row),
                    row => Outcome::Conflict(row),
                })
            }
            Err(error) => Err(self.table.error("PutItem", &error)),
        }
    }

    /// Writes a transition, if the row is still as it was seen.
    ///
    /// A write whose answer was lost, or which the client sent twice, is told from a conflict by what the row holds.
    ///
    /// # Errors
    /// When it is not known whether the write happened: it may yet. Apply the same transition again, or read the row.
    pub async fn apply(&self, transition: &Transition) -> Result<Outcome, TableError> {
        let change = Change::new(transition);
        let turn = self.turns.acquire().await;
        let call = self
            .table
            .client
            .update_item()
            .table_name(&self.table.name)
            .key(KEY, string(transition.before.key.as_str()))
            .update_expression(change.update)
            .condition_expression(change.condition)
            .set_expression_attribute_values(Some(change.values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        drop(turn);
        let row = match call {
            Ok(_) => return Ok(Outcome::Applied(transition.after.clone())),
            Err(error) if ErrorKind::of(&error) == ErrorKind::ConditionFailed => {
                let item = error.as_service_error().and_then(|error| match error {
                    aws_sdk_dynamodb::operation::update_item::UpdateItemError::ConditionalCheckFailedException(
                        failed,
                    ) => failed.item(),
                    _ => None,
                });
                match item {
                    Some(item) => read_row(item).and_then(Result::ok),
                    None => self.read_valid(&transition.before.key).await?,
                }
            }
            Err(error) => {
                let error = self.table.error("UpdateItem", &error);
                if !error.is_transient() {
                    return Err(error); // it did not happen
                }
                let row = self.read_valid(&transition.before.key).await?;
                if row.as_ref() == Some(&transition.before) {
                    return Err(error); // not yet done, but the write may be on its way
                }
                row
            }
        };
        Ok(resolve(transition, row))
    }

    /// Ends a shard: in one transaction the parent's end with its children's ids, and the children's leases, owned
    /// by `owner`. Children that have a lease already are taken when nobody owns them, and left alone otherwise.
    ///
    /// A service without transactions gets the same writes one by one, the children's first: a child waits for its
    /// parent's end anyway.
    ///
    /// # Errors
    /// When it is not known whether the end was written. Calling again settles it.
    pub async fn end_shard(
        &self,
        parent: &Transition,
        children: &[Lease],
        owner: &WorkerId,
    ) -> Result<EndOutcome, TableError> {
        let mut wanted: Vec<ChildWrite> =
            children.iter().map(|child| ChildWrite::Make(child.clone().owned_by(owner))).collect();
        loop {
            let call = self.table.client.transact_write_items();
            let call = call.transact_items(TransactWriteItem::builder().update(self.update(parent)?).build());
            let mut items = Vec::new();
            for child in &wanted {
                items.push(self.child_item(child)?);
            }
            let call = items.into_iter().fold(call, |call, item| call.transact_items(item));
            let turn = self.turns.acquire().await;
            let ended = call.send().await;
            drop(turn);
            let error = match ended {
                Ok(_) => {
                    let children = wanted.into_iter().map(ChildWrite::into_lease).collect();
                    return Ok(EndOutcome::Applied { parent: parent.after.clone(), children });
                }
                Err(error) if ErrorKind::of(&error) == ErrorKind::UnknownOperation => {
                    return self.end_by_single_writes(parent, &wanted, owner).await;
                }
                Err(error) => error,
            };
            let reasons = match error.as_service_error() {
                Some(TransactWriteItemsError::TransactionCanceledException(canceled)) => {
                    canceled.cancellation_reasons().to_vec()
                }
                _ => Vec::new(),
            };
            let parent_failed = condition_failed(reasons.first());
            let failed: Vec<usize> =
                (0..wanted.len()).filter(|index| condition_failed(reasons.get(index + 1))).collect();
            if !parent_failed && !failed.is_empty() {
                for index in failed.into_iter().rev() {
                    let row = self.row_of(reasons.get(index + 1), wanted[index].key()).await?;
                    match row.filter(|row| row.owner.is_none() && !row.is_finished()) {
                        Some(row) => wanted[index] = ChildWrite::Take(row.assign(owner)),
                        None => drop(wanted.remove(index)),
                    }
                }
                continue;
            }
            let row = self.row_of(reasons.first().filter(|_| parent_failed), &parent.before.key).await?;
            if !parent_failed && row.as_ref() == Some(&parent.before) {
                return Err(self.table.error("TransactWriteItems", &error));
            }
            return self.ended(resolve(parent, row), owner).await;
        }
    }

    async fn end_by_single_writes(
        &self,
        parent: &Transition,
        children: &[ChildWrite],
        owner: &WorkerId,
    ) -> Result<EndOutcome, TableError> {
        for child in children {
            let outcome = match child {
                ChildWrite::Make(lease) => self.create(lease).await?,
                ChildWrite::Take(transition) => self.apply(transition).await?,
            };
            if let Outcome::Conflict(Some(row)) = outcome
                && row.owner.is_none()
                && !row.is_finished()
            {
                self.apply(&row.assign(owner)).await?;
            }
        }
        let outcome = self.apply(parent).await?;
        self.ended(outcome, owner).await
    }

    async fn ended(&self, outcome: Outcome, owner: &WorkerId) -> Result<EndOutcome, TableError> {
        Ok(match outcome {
            Outcome::Applied(parent) => {
                let children = self.owned_of(&parent.children, owner).await?;
                EndOutcome::Applied { parent, children }
            }
            Outcome::Conflict(row) => EndOutcome::Conflict(row),
        })
    }

    /// Deletes a finished row, if it is still as it was seen.
    ///
    /// # Errors
    /// When it is not known whether the row was deleted.
    pub async fn delete(&self, lease: &Lease) -> Result<bool, TableError> {
        let call = self
            .table
            .client
            .delete_item()
            .table_name(&self.table.name)
            .key(KEY, string(lease.key.as_str()))
            .condition_expression("leaseCounter = :counter AND checkpoint = :checkpoint")
            .expression_attribute_values(":counter", number(lease.counter))
            .expression_attribute_values(":checkpoint", string(lease.checkpoint.as_str()))
            .send()
            .await;
        match call {
            Ok(_) => Ok(true),
            Err(error) if ErrorKind::of(&error) == ErrorKind::ConditionFailed => Ok(false),
            Err(error) => Err(self.table.error("DeleteItem", &error)),
        }
    }

    async fn read_valid(&self, key: &ShardId) -> Result<Option<Lease>, TableError> {
        Ok(self.read(key).await?.and_then(Result::ok))
    }

    /// The row that a failed condition showed, or, where the service doesn't show it, a read of it.
    async fn row_of(&self, reason: Option<&CancellationReason>, key: &ShardId) -> Result<Option<Lease>, TableError> {
        match reason.and_then(|reason| reason.item.as_ref()) {
            Some(item) if !item.is_empty() => Ok(read_row(item).and_then(Result::ok)),
            _ => self.read_valid(key).await,
        }
    }

    /// The unfinished ones of `children` that belong to `owner`.
    async fn owned_of(&self, children: &BTreeSet<ShardId>, owner: &WorkerId) -> Result<Vec<Lease>, TableError> {
        let mut owned = Vec::new();
        for child in children {
            owned.extend(self.read_valid(child).await?);
        }
        owned.retain(|lease| lease.owner.as_ref() == Some(owner) && !lease.is_finished());
        Ok(owned)
    }

    fn update(&self, transition: &Transition) -> Result<Update, TableError> {
        let change = Change::new(transition);
        Update::builder()
            .table_name(&self.table.name)
            .key(KEY, string(transition.before.key.as_str()))
            .update_expression(change.update)
            .condition_expression(change.condition)
            .set_expression_attribute_values(Some(change.values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build()
            .map_err(|error| self.table.unbuildable("TransactWriteItems", &error))
    }

    fn child_item(&self, child: &ChildWrite) -> Result<TransactWriteItem, TableError> {
        let item = TransactWriteItem::builder();
        Ok(match child {
            ChildWrite::Take(transition) => item.update(self.update(transition)?).build(),
            ChildWrite::Make(lease) => {
                let put = Put::builder()
                    .table_name(&self.table.name)
                    .set_item(Some(new_item(lease)))
                    .condition_expression("attribute_not_exists(leaseKey)")
                    .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
                    .build()
                    .map_err(|error| self.table.unbuildable("TransactWriteItems", &error))?;
                item.put(put).build()
            }
        })
    }
}

/// The write that gives a child its owner at the parent's end.
enum ChildWrite {
    Make(Lease),
    Take(Transition),
}

impl ChildWrite {
    fn key(&self) -> &ShardId {
        match self {
            Self::Make(lease) => &lease.key,
            Self::Take(transition) => &transition.before.key,
        }
    }

    fn into_lease(self) -> Lease {
        match self {
            Self::Make(lease) => lease,
            Self::Take(transition) => transition.after,
        }
    }
}

/// Decides by the row found whether an unconfirmed write has happened.
fn resolve(transition: &Transition, row: Option<Lease>) -> Outcome {
    match row {
        Some(row) if transition.is_done_in(&row) || Transition::met_hand_off(&transition.after, &row) => {
            Outcome::Applied(row)
        }
        row => Outcome::Conflict(row),
    }
}

fn condition_failed(reason: Option<&CancellationReason>) -> bool {
    reason.and_then(|reason| reason.code.as_deref()) == Some("ConditionalCheckFailed")
}

/// A transition as an update expression.
struct Change {
    update: String,
    condition: String,
    values: Item,
}

impl Change {
    fn new(transition: &Transition) -> Self {
        let (before, after) = (&transition.before, &transition.after);
        let mut set = vec![format!("{COUNTER} = :counter")];
        let mut remove = Vec::new();
        let mut values =
            Item::from([(":counter".into(), number(after.counter)), (":seen_counter".into(), number(before.counter))]);
        let mut put = |name: &str, value: AttributeValue| {
            set.push(format!("{name} = :{name}"));
            values.insert(format!(":{name}"), value);
        };
        if after.checkpoint != before.checkpoint {
            put(CHECKPOINT, string(after.checkpoint.as_str()));
            put(SUB_SEQUENCE_NUMBER, number(0));
            remove.extend(PENDING_CHECKPOINT); // of a KCL worker, for a position that is past
        }
        if after.owner_switches != before.owner_switches {
            put(OWNER_SWITCHES, number(after.owner_switches));
        }
        if after.children != before.children {
            put(CHILDREN, string_set(&after.children));
        }
        if let Some(rate) = after.throughput_kbps.filter(|_| after.throughput_kbps != before.throughput_kbps) {
            put(THROUGHPUT, rate_number(rate));
        }
        match after.since_ms.filter(|_| after.checkpoint.is_start()) {
            None if before.since_ms.is_some() => remove.push(SINCE),
            Some(since_ms) if before.since_ms != Some(since_ms) => put(SINCE, number(since_ms)),
            _ => {}
        }
        match &after.done {
            done if *done == before.done => {}
            Some(done) => put(DONE, string(done)),
            None => remove.push(DONE),
        }
        for (name, old, new) in [
            (OWNER, &before.owner, &after.owner),
            (CHECKPOINT_OWNER, &before.checkpoint_owner, &after.checkpoint_owner),
        ] {
            match new {
                _ if old == new => {}
                Some(owner) => put(name, string(owner.as_str())),
                None => remove.push(name),
            }
        }
        let mut condition = format!("{COUNTER} = :seen_counter");
        for (name, seen) in [(OWNER, &before.owner), (CHECKPOINT_OWNER, &before.checkpoint_owner)] {
            match seen {
                Some(owner) => {
                    condition.push_str(&format!(" AND {name} = :seen_{name}"));
                    values.insert(format!(":seen_{name}"), string(owner.as_str()));
                }
                None => condition.push_str(&format!(" AND attribute_not_exists({name})")),
            }
        }
        let mut update = format!("SET {}", set.join(", "));
        if !remove.is_empty() {
            update.push_str(&format!(" REMOVE {}", remove.join(", ")));
        }
        Self { update, condition, values }
    }
}

/// A new row as KCL's adapter makes it; every shard has the hash keys "0" and "1", for KCL wants the first smaller.
fn new_item(lease: &Lease) -> Item {
    let mut item = Item::from([
        (KEY.into(), string(lease.key.as_str())),
        (COUNTER.into(), number(lease.counter)),
        (CHECKPOINT.into(), string(lease.checkpoint.as_str())),
        (SUB_SEQUENCE_NUMBER.into(), number(0)),
        (OWNER_SWITCHES.into(), number(lease.owner_switches)),
        ("startingHashKey".into(), string("0")),
        ("endingHashKey".into(), string("1")),
    ]);
    if let Some(owner) = &lease.owner {
        item.insert(OWNER.into(), string(owner.as_str()));
    }
    if let Some(since_ms) = lease.since_ms {
        item.insert(SINCE.into(), number(since_ms));
    }
    if let Some(rate) = lease.throughput_kbps {
        item.insert(THROUGHPUT.into(), rate_number(rate));
    }
    if !lease.parents.is_empty() {
        item.insert(PARENTS.into(), string_set(&lease.parents));
    }
    item
}

/// Reads a row; nothing for an item that is no lease (KCL 3.5 keeps others in the same table).
fn read_row(item: &Item) -> Option<Result<Lease, BadRow>> {
    if item.get(ENTITY_TYPE).is_some_and(|kind| kind.as_s().is_ok_and(|kind| kind != "LEASE")) {
        return None;
    }
    let key = item.get(KEY).and_then(|key| key.as_s().ok())?;
    let key = ShardId::from(key.as_str());
    Some(read_lease(&key, item).map_err(|reason| BadRow { key, reason }))
}

fn read_lease(key: &ShardId, item: &Item) -> Result<Lease, String> {
    let text = |name: &str| match item.get(name) {
        None => Ok(None),
        Some(AttributeValue::S(text)) if !text.is_empty() => Ok(Some(text.as_str())),
        Some(other) => Err(format!("attribute {name} is {}, not a text", shape(other))),
    };
    let count = |name: &str| match item.get(name) {
        Some(AttributeValue::N(digits)) => {
            digits.parse::<u64>().map_err(|_| format!("attribute {name} is {digits:?}, not a count"))
        }
        Some(other) => Err(format!("attribute {name} is {}, not a number", shape(other))),
        None => Err(format!("attribute {name} is missing")),
    };
    let set = |name: &str| match item.get(name) {
        None => Ok(BTreeSet::new()),
        Some(AttributeValue::Ss(ids)) => Ok(ids.iter().map(|id| ShardId::from(id.as_str())).collect()),
        Some(other) => Err(format!("attribute {name} is {}, not a set of texts", shape(other))),
    };
    let checkpoint = text(CHECKPOINT)?.ok_or_else(|| format!("attribute {CHECKPOINT} is missing"))?;
    Ok(Lease {
        key: key.clone(),
        owner: text(OWNER)?.map(WorkerId::from),
        checkpoint_owner: text(CHECKPOINT_OWNER)?.map(WorkerId::from),
        counter: count(COUNTER)?,
        checkpoint: Checkpoint::parse(checkpoint).map_err(|error| format!("attribute {CHECKPOINT}: {error}"))?,
        owner_switches: count(OWNER_SWITCHES)?,
        parents: set(PARENTS)?,
        children: set(CHILDREN)?,
        throughput_kbps: item.get(THROUGHPUT).and_then(|rate| rate.as_n().ok()).and_then(|rate| rate.parse().ok()),
        since_ms: item.get(SINCE).and_then(|since| since.as_n().ok()).and_then(|since| since.parse().ok()),
        done: item.get(DONE).and_then(|done| done.as_s().ok()).cloned(),
    })
}

fn shape(value: &AttributeValue) -> String {
    match value {
        AttributeValue::S(text) => format!("the text {:?}", text.chars().take(40).collect::<String>()),
        AttributeValue::N(digits) => format!("the number {digits}"),
        AttributeValue::Ss(_) => "a set of texts".into(),
        AttributeValue::Null(_) => "null".into(),
        _ => "of another type".into(),
    }
}

/// At most six digits behind the point, as KCL writes it.
fn rate_number(rate: f64) -> AttributeValue {
    AttributeValue::N(format!("{rate:.6}"))
}

fn key_item(key: &ShardId) -> Item {
    Item::from([(KEY.into(), string(key.as_str()))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::fleet_table::FleetTable;
    use crate::aws::scripted::{Answer, Service, keys};

    fn lease() -> Lease {
        let parents = BTreeSet::from([ShardId::from("shardId-0")]);
        Lease::new("shardId-1".into(), parents, Checkpoint::TrimHorizon)
    }

    #[test]
    fn a_row_as_kcl_leaves_it_is_read_and_what_is_foreign_is_passed_over() {
        let mut item = new_item(&lease().owned_by(&"kcl-worker".into()));
        item.insert("entityType".into(), string("LEASE"));
        item.insert(THROUGHPUT.into(), AttributeValue::N("1.2E-4".into()));
        item.insert("pendingCheckpoint".into(), string("123"));
        item.insert("pendingCheckpointState".into(), AttributeValue::B(vec![1].into()));
        item.insert(CHILDREN.into(), AttributeValue::Ss(vec!["shardId-2".into()]));
        let read = read_row(&item).expect("a lease").expect("readable");
        assert_eq!(read.owner, Some("kcl-worker".into()));
        assert_eq!(read.throughput_kbps, Some(1.2e-4));
        assert_eq!(read.children, BTreeSet::from(["shardId-2".into()]));
    }

    #[test]
    fn items_of_other_kinds_are_no_leases() {
        let item = Item::from([(KEY.into(), string("Leader")), ("entityType".into(), string("LEADER"))]);
        assert_eq!(read_row(&item), None);
    }

    #[test]
    fn nonsense_in_a_row_is_named() {
        for (name, value, word) in [
            (CHECKPOINT, Some(string("SHARD_EDN")), "SHARD_EDN"),
            (CHECKPOINT, Some(number(5)), "not a text"),
            (COUNTER, Some(string("x")), "not a number"),
            (COUNTER, Some(AttributeValue::N("-1".into())), "not a count"),
            (OWNER, Some(string("")), "not a text"),
            (PARENTS, Some(string("shardId-0")), "not a set"),
            (CHECKPOINT, None, "missing"),
        ] {
            let mut item = new_item(&lease());
            match value {
                Some(value) => drop(item.insert(name.into(), value)),
                None => drop(item.remove(name)),
            }
            let bad = read_row(&item).expect("a lease").expect_err("nonsense");
            assert!(bad.reason.contains(word) && bad.to_string().contains("shardId-1"), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_table_that_is_gone_is_told_by_its_role_with_what_to_do() {
        const GONE: Answer = Answer::Response {
            status: 400,
            headers: &[],
            body: r#"{"__type":"com.amazonaws#ResourceNotFoundException","message":"Requested resource not found"}"#,
        };
        let clients = Service::default().clients([GONE, GONE], keys());
        let leases = LeaseTable::new(clients.tables.clone(), "app").scan().await.expect_err("it is gone").to_string();
        assert!(leases.starts_with("lease table app does not exist: restore it from a backup, or start"), "{leases}");
        let fleet = FleetTable::new(clients.tables, "app").scan().await.expect_err("it is gone").to_string();
        assert!(fleet.starts_with("fleet table app-Fleet does not exist: start the workers again"), "{fleet}");
    }

    #[test]
    fn a_write_names_only_what_it_changes() {
        let owned = lease().owned_by(&"a".into());
        let moved = owned.checkpoint(&"a".into(), Checkpoint::parse("7").expect("digits")).expect("holder");
        let change = Change::new(&moved);
        assert_eq!(
            change.update,
            "SET leaseCounter = :counter, checkpoint = :checkpoint, \
             checkpointSubSequenceNumber = :checkpointSubSequenceNumber \
             REMOVE pendingCheckpoint, pendingCheckpointSubSequenceNumber, pendingCheckpointState"
        );
        assert_eq!(
            change.condition,
            "leaseCounter = :seen_counter AND leaseOwner = :seen_leaseOwner AND attribute_not_exists(checkpointOwner)"
        );
    }

    #[test]
    fn the_throughput_goes_with_a_checkpoint_when_it_has_changed_and_starts_with_a_child() {
        let owned = Lease { throughput_kbps: Some(12.3), ..lease().owned_by(&"a".into()) };
        assert_eq!(new_item(&owned)[THROUGHPUT], AttributeValue::N("12.300000".into()));
        let moved = owned.checkpoint(&"a".into(), Checkpoint::parse("7").expect("digits")).expect("holder");
        for (measured, is_written) in [(None, false), (Some(12.3), false), (Some(12.4), true)] {
            let change = Change::new(&moved.clone().with_throughput(measured));
            assert_eq!(change.update.contains(THROUGHPUT), is_written, "{measured:?}");
        }
    }

    #[test]
    fn what_is_done_beyond_a_checkpoint_is_written_read_and_removed() {
        let done = Some("7 9 12".to_owned());
        let owned = lease().owned_by(&"a".into());
        let seven = owned.checkpoint(&"a".into(), Checkpoint::parse("7").expect("digits")).expect("holder").after;
        let kept = Transition { before: seven.clone(), after: Lease { done: done.clone(), ..seven.clone() } };
        let change = Change::new(&kept);
        assert!(change.update.ends_with("shardkeeperDone = :shardkeeperDone"), "{}", change.update);
        let mut item = new_item(&seven);
        item.insert(DONE.into(), change.values[":shardkeeperDone"].clone());
        let read = read_row(&item).expect("a lease").expect("readable");
        assert_eq!((&read.done, read.done_beyond().is_some()), (&done, true));
        let moved = read.checkpoint(&"a".into(), Checkpoint::parse("8").expect("digits")).expect("holder");
        assert!(Change::new(&moved).update.ends_with(", shardkeeperDone"));
    }

    #[test]
    fn the_time_of_a_checkpoint_is_written_read_and_removed_with_it() {
        let reset = lease().reset(Checkpoint::AtTimestamp, Some(1_791_316_726_480));
        let change = Change::new(&reset);
        assert_eq!(change.values[":shardkeeperSince"], AttributeValue::N("1791316726480".into()));
        let mut item = new_item(&reset.after);
        assert_eq!(read_row(&item).expect("a lease").expect("readable").since_ms, Some(1_791_316_726_480));
        item.insert(OWNER.into(), string("a"));
        let owned = read_row(&item).expect("a lease").expect("readable");
        let moved = owned.checkpoint(&"a".into(), Checkpoint::parse("7").expect("digits")).expect("holder");
        assert!(Change::new(&moved).update.ends_with(", shardkeeperSince"), "{}", Change::new(&moved).update);
    }

    #[test]
    fn a_released_row_loses_its_owner_attribute() {
        let owned = lease().owned_by(&"a".into());
        let released = owned.release(&"a".into(), Checkpoint::TrimHorizon).expect("holder");
        assert!(Change::new(&released).update.ends_with("REMOVE leaseOwner"));
    }

    #[tokio::test]
    async fn answers_without_members_are_no_empty_table_and_no_missing_row() {
        let service = Service::default();
        let answers = ["", "{}", "", "{}", "", "{}"].map(Answer::ok);
        let table = LeaseTable::new(service.clients(answers, keys()).tables, "app");
        for _ in 0..2 {
            assert!(table.scan().await.is_err_and(|error| error.is_transient()));
        }
        for _ in 0..2 {
            assert!(
                table.read_many(&[ShardId::from("shardId-1")].into()).await.is_err_and(|error| error.is_transient())
            );
        }
        assert!(table.read(&"shardId-1".into()).await.is_err_and(|error| error.is_transient()));
        assert_eq!(table.read(&"shardId-1".into()).await, Ok(None), "as the service says it");
    }

    #[tokio::test]
    async fn a_scan_asks_for_small_pages() {
        let service = Service::default();
        let pages = [r#"{"Items":[],"LastEvaluatedKey":{"leaseKey":{"S":"s"}}}"#, r#"{"Items":[]}"#].map(Answer::ok);
        let table = LeaseTable::new(service.clients(pages, keys()).tables, "app");
        assert_eq!(table.scan().await, Ok(Vec::new()));
        for page in 0..2 {
            let (_, _, body) = service.request(page);
            assert!(String::from_utf8_lossy(&body).contains(r#""Limit":500"#));
        }
    }
}
