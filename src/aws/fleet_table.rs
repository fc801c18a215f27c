//! The fleet table, `<app>-Fleet`: workers, their leader, and hints between workers.
//!
//! Each worker has an item that it rewrites with each heartbeat; the leader's item also binds the application to its
//! stream. The table saves the lease table a write for each lease and interval. Its loss costs time, no records.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::item::{Item, count, flag, number, real_text, string, string_or_none, string_set, text, texts};
use super::own_table::OwnTable;
use super::service_clock::ServiceClock;
use super::table_health::TableHealth;
use super::{ErrorKind, TableError, TableRole};
use crate::model::lease::{ShardId, WorkerId};
use crate::model::worker_record::{Fleet, Hints, KEPT_ENDS, KclAlive, LeaderRecord, Member, WorkerEnd, WorkerRecord};

const KEY: &str = "key";
const LEADER: &str = "leader";
/// The item of the last workers' ends.
const ENDS: &str = "ends";
const WORKER_PREFIX: &str = "worker/";
/// DynamoDB's limit on an item leaves room for some thousand lease keys in an inbox; a longer list becomes
/// [`EVERYTHING`].
const INBOX_LIMIT: usize = 1000;
/// The hint that stands for the whole lease table.
const EVERYTHING: &str = "*";

/// The fleet table of an application.
#[derive(Clone, Debug)]
pub struct FleetTable(OwnTable);

/// An attribute of a worker's item. A value of `None` removes the attribute; `read` is called where it is present.
struct Attribute {
    name: &'static str,
    value: fn(&WorkerRecord) -> Option<AttributeValue>,
    read: fn(&mut WorkerRecord, &AttributeValue),
}

const fn attribute(
    name: &'static str,
    value: fn(&WorkerRecord) -> Option<AttributeValue>,
    read: fn(&mut WorkerRecord, &AttributeValue),
) -> Attribute {
    Attribute { name, value, read }
}

/// The whole of a worker's item but its key, inbox and challenger.
const ATTRIBUTES: [Attribute; 20] = [
    attribute("heartbeat", |worker| Some(number(worker.heartbeat)), |worker, value| set(&mut worker.heartbeat, value)),
    attribute(
        "incarnation",
        |worker| Some(string(&worker.incarnation)),
        |worker, value| worker.incarnation = text_of(value),
    ),
    attribute(
        "state",
        |worker| Some(string(if worker.leaving { "leaving" } else { "active" })),
        |worker, value| worker.leaving = text_of(value) == "leaving",
    ),
    attribute("version", |worker| Some(string(&worker.version)), |worker, value| worker.version = text_of(value)),
    attribute("leases", |worker| Some(number(worker.leases)), |worker, value| set(&mut worker.leases, value)),
    attribute(
        "digest",
        |worker| Some(string(format!("{:016x}", worker.digest))),
        |worker, value| worker.digest = u64::from_str_radix(&text_of(value), 16).unwrap_or_default(),
    ),
    attribute(
        "caughtUpTo",
        |worker| worker.caught_up_to_ms.map(number),
        |worker, value| worker.caught_up_to_ms = count_of(value),
    ),
    attribute(
        "unprocessedSince",
        |worker| worker.unprocessed_since_ms.map(number),
        |worker, value| worker.unprocessed_since_ms = count_of(value),
    ),
    attribute(
        "unsavedSince",
        |worker| worker.unsaved_since_ms.map(number),
        |worker, value| worker.unsaved_since_ms = count_of(value),
    ),
    attribute("kbps", |worker| Some(number(worker.kbps)), |worker, value| set(&mut worker.kbps, value)),
    attribute(
        "idlePolls",
        |worker| Some(number(worker.idle_polls_per_hour)),
        |worker, value| set(&mut worker.idle_polls_per_hour, value),
    ),
    attribute("maxLeases", |worker| worker.max_leases.map(number), |worker, value| worker.max_leases = count_of(value)),
    attribute(
        "overloaded",
        |worker| Some(AttributeValue::Bool(worker.overloaded)),
        |worker, value| worker.overloaded = value.as_bool().is_ok_and(|overloaded| *overloaded),
    ),
    attribute(
        "stuck",
        // DynamoDB refuses empty sets.
        |worker| (!worker.stuck.is_empty()).then(|| string_set(&worker.stuck)),
        |worker, value| worker.stuck = value.as_ss().into_iter().flatten().map(|key| key.as_str().into()).collect(),
    ),
    attribute("halted", |worker| json_map(&worker.blocked), |worker, value| worker.blocked = read_json_map(value)),
    attribute("calls", |worker| json_map(&worker.calls), |worker, value| worker.calls = read_json_map(value)),
    attribute("stalls", |worker| json_map(&worker.stalls), |worker, value| worker.stalls = read_json_map(value)),
    attribute(
        "leaseDuration",
        |worker| worker.lease_duration_ms.map(number),
        |worker, value| worker.lease_duration_ms = count_of(value),
    ),
    attribute(
        "drainTimeout",
        |worker| worker.drain_timeout_ms.map(number),
        |worker, value| worker.drain_timeout_ms = count_of(value),
    ),
    attribute("writtenAt", |worker| worker.written_ms.map(number), |worker, value| worker.written_ms = count_of(value)),
];

/// A map from shards to objects, each as JSON; none when it is empty.
fn json_map<T: Serialize>(map: &BTreeMap<ShardId, T>) -> Option<AttributeValue> {
    let json = |value| string(serde_json::to_string(value).unwrap_or_default());
    let entries = map.iter().map(|(shard, value)| (shard.to_string(), json(value)));
    (!map.is_empty()).then(|| AttributeValue::M(entries.collect()))
}

/// The map as it was written, less the entries of versions that write them otherwise.
fn read_json_map<T: DeserializeOwned>(value: &AttributeValue) -> BTreeMap<ShardId, T> {
    let read = |json: &AttributeValue| serde_json::from_str(json.as_s().ok()?).ok();
    let entries = value.as_m().into_iter().flatten();
    entries.filter_map(|(shard, json)| Some((shard.as_str().into(), read(json)?))).collect()
}

fn text_of(value: &AttributeValue) -> String {
    value.as_s().cloned().unwrap_or_default()
}

fn count_of(value: &AttributeValue) -> Option<u64> {
    value.as_n().ok().and_then(|digits| digits.parse().ok())
}

fn set(count: &mut u64, value: &AttributeValue) {
    *count = count_of(value).unwrap_or_default();
}

impl FleetTable {
    /// The fleet table of an application.
    pub fn new(client: Client, app: &str) -> Self {
        Self(OwnTable::new(client, format!("{app}-Fleet"), TableRole::Fleet, &[KEY]))
    }

    /// The same table; each call on it reports to `health` whether the table answers.
    #[must_use]
    pub fn with_health(self, health: &TableHealth) -> Self {
        Self(self.0.with_health(health))
    }

    /// Waits until the table can be used, and creates it when it is missing and `create` allows that.
    ///
    /// # Errors
    /// [`TableError::Missing`] when it is missing and may not be created.
    pub async fn ensure(&self, create: bool) -> Result<(), TableError> {
        self.0.ensure(create).await
    }

    /// Checks that the table, if it is there, has a fleet table's key.
    ///
    /// # Errors
    /// [`TableError::Foreign`] when it has another one.
    pub async fn check(&self) -> Result<(), TableError> {
        self.0.check().await
    }

    /// The table as such, for a preflight.
    #[cfg(feature = "cli")]
    pub(crate) fn own(&self) -> &OwnTable {
        &self.0
    }

    /// The whole fleet. Items that cannot be read are left out, as if their workers were dead.
    ///
    /// # Errors
    /// When a page of the scan failed for good.
    pub async fn scan(&self) -> Result<Fleet, TableError> {
        let mut fleet = Fleet::default();
        let read = |item: Item| match text(&item, KEY) {
            Some(LEADER) => fleet.leadership = Some(read_leader(&item)),
            Some(ENDS) => fleet.ends = read_ends(&item),
            _ => fleet.members.extend(read_member(&item)),
        };
        self.0.scan(read).await?;
        fleet.members.sort_by(|left, right| left.id.cmp(&right.id));
        Ok(fleet)
    }

    /// Registers a process under a worker id, if the item still shows the incarnation and heartbeat in `seen`. Returns
    /// whether it did.
    ///
    /// # Errors
    /// When it is not known whether the item was written.
    pub async fn register(
        &self,
        worker: &WorkerId,
        record: &WorkerRecord,
        seen: Option<(&str, u64)>,
    ) -> Result<bool, TableError> {
        let call = self.0.client.put_item().table_name(&self.0.name).set_item(Some(member_item(worker, record)));
        let call = match seen {
            None => call.condition_expression("attribute_not_exists(incarnation) OR incarnation = :mine"),
            Some((incarnation, heartbeat)) => call
                .condition_expression(
                    "attribute_not_exists(incarnation) OR incarnation = :mine OR \
                     (incarnation = :seen AND heartbeat = :heartbeat)",
                )
                .expression_attribute_values(":seen", string(incarnation))
                .expression_attribute_values(":heartbeat", number(heartbeat)),
        };
        let call = call.expression_attribute_values(":mine", string(&record.incarnation));
        match call.send().await {
            Ok(_) => Ok(true),
            Err(error) if ErrorKind::of(&error) == ErrorKind::ConditionFailed => Ok(false),
            Err(error) => Err(self.0.error("PutItem", &error)),
        }
    }

    /// Asks the process that may live under a worker id to answer with its next heartbeat.
    ///
    /// # Errors
    /// When the call failed for good.
    pub async fn challenge(&self, worker: &WorkerId, challenger: &str) -> Result<(), TableError> {
        let call = self
            .0
            .client
            .update_item()
            .table_name(&self.0.name)
            .set_key(Some(worker_key(worker)))
            .update_expression("SET challenger = :challenger")
            // An update of an item that is gone would create one without a worker.
            .condition_expression("attribute_exists(incarnation)")
            .expression_attribute_values(":challenger", string(challenger));
        match call.send().await {
            Ok(_) => Ok(()),
            Err(error) if ErrorKind::of(&error) == ErrorKind::ConditionFailed => Ok(()),
            Err(error) => Err(self.0.error("UpdateItem", &error)),
        }
    }

    /// Writes a heartbeat, which also answers a challenger, and returns the item as it is then. `None` when the item
    /// is gone or another process has taken the id.
    ///
    /// # Errors
    /// When it is not known whether the heartbeat was written.
    pub async fn heartbeat(&self, worker: &WorkerId, record: &WorkerRecord) -> Result<Option<Member>, TableError> {
        let (mut set, mut remove) = (Vec::new(), vec!["challenger".to_owned()]);
        let mut values = Item::from([(":mine".into(), string(&record.incarnation))]);
        let mut names = HashMap::new();
        for Attribute { name, value, .. } in ATTRIBUTES {
            match value(record) {
                Some(value) => {
                    set.push(format!("#{name} = :{name}"));
                    values.insert(format!(":{name}"), value);
                }
                None => remove.push(format!("#{name}")),
            }
            names.insert(format!("#{name}"), name.to_owned());
        }
        let call = self
            .0
            .client
            .update_item()
            .table_name(&self.0.name)
            .set_key(Some(worker_key(worker)))
            .update_expression(format!("SET {} REMOVE {}", set.join(", "), remove.join(", ")))
            .condition_expression("#incarnation = :mine")
            .set_expression_attribute_names(Some(names))
            .set_expression_attribute_values(Some(values))
            .return_values(ReturnValue::AllNew);
        match call.send().await {
            Ok(answer) => Ok(answer.attributes.as_ref().and_then(read_member)),
            Err(error) if ErrorKind::of(&error) == ErrorKind::ConditionFailed => Ok(None),
            Err(error) => Err(self.0.error("UpdateItem", &error)),
        }
    }

    /// One worker's item.
    ///
    /// # Errors
    /// When the call failed for good.
    pub async fn get(&self, worker: &WorkerId) -> Result<Option<Member>, TableError> {
        Ok(self.0.get(worker_key(worker)).await?.as_ref().and_then(read_member))
    }

    /// Adds lease rows to read to a worker's inbox. Hints to a worker without an item are dropped.
    ///
    /// # Errors
    /// When the call failed for good. Hints only save time.
    pub async fn hint(&self, worker: &WorkerId, hints: &Hints) -> Result<(), TableError> {
        if hints.is_empty() {
            return Ok(());
        }
        let mut keys: Vec<String> = hints.keys.iter().map(ToString::to_string).collect();
        if hints.everything || keys.len() > INBOX_LIMIT {
            keys = vec![EVERYTHING.into()];
        }
        let call = self
            .0
            .client
            .update_item()
            .table_name(&self.0.name)
            .set_key(Some(worker_key(worker)))
            .update_expression("ADD inbox :keys")
            .condition_expression("attribute_exists(#key)")
            .expression_attribute_names("#key", KEY)
            .expression_attribute_values(":keys", AttributeValue::Ss(keys));
        match call.send().await {
            Ok(_) => Ok(()),
            Err(error) if ErrorKind::of(&error) == ErrorKind::ConditionFailed => Ok(()),
            Err(error) => Err(self.0.error("UpdateItem", &error)),
        }
    }

    /// Takes hints out of a worker's own inbox. To be called *before* the rows are read: a later hint stays.
    ///
    /// # Errors
    /// When the call failed for good.
    pub async fn clear_inbox(&self, worker: &WorkerId, hints: &Hints) -> Result<(), TableError> {
        let mut keys: Vec<String> = hints.keys.iter().map(ToString::to_string).collect();
        if hints.everything {
            keys.push(EVERYTHING.into());
        }
        let call = self
            .0
            .client
            .update_item()
            .table_name(&self.0.name)
            .set_key(Some(worker_key(worker)))
            .update_expression("DELETE inbox :keys")
            .condition_expression("attribute_exists(incarnation)")
            .expression_attribute_values(":keys", AttributeValue::Ss(keys));
        match call.send().await {
            Ok(_) => Ok(()),
            Err(error) if ErrorKind::of(&error) == ErrorKind::ConditionFailed => Ok(()),
            Err(error) => Err(self.0.error("UpdateItem", &error)),
        }
    }

    /// Notes that an operator gives a lease to a worker, so that the leader leaves it there for a while.
    ///
    /// # Errors
    /// When the call failed for good.
    pub async fn place(&self, worker: &WorkerId, key: &ShardId) -> Result<(), TableError> {
        self.change_placed(worker, "ADD", [key]).await
    }

    /// Forgets that an operator gave these leases to a worker.
    ///
    /// # Errors
    /// When the call failed for good.
    pub async fn unplace(&self, worker: &WorkerId, keys: impl IntoIterator<Item = &ShardId>) -> Result<(), TableError> {
        self.change_placed(worker, "DELETE", keys).await
    }

    async fn change_placed(
        &self,
        worker: &WorkerId,
        action: &str,
        keys: impl IntoIterator<Item = &ShardId>,
    ) -> Result<(), TableError> {
        let call = self
            .0
            .client
            .update_item()
            .table_name(&self.0.name)
            .set_key(Some(worker_key(worker)))
            .update_expression(format!("{action} placed :keys"))
            .condition_expression("attribute_exists(incarnation)")
            .expression_attribute_values(":keys", string_set(keys));
        match call.send().await {
            Ok(_) => Ok(()),
            Err(error) if ErrorKind::of(&error) == ErrorKind::ConditionFailed => Ok(()),
            Err(error) => Err(self.0.error("UpdateItem", &error)),
        }
    }

    /// Removes the item of a worker that has left or died, if it still shows this incarnation and heartbeat. Returns
    /// whether it did.
    ///
    /// # Errors
    /// When the call failed for good.
    pub async fn remove(&self, worker: &WorkerId, incarnation: &str, heartbeat: u64) -> Result<bool, TableError> {
        let call = self
            .0
            .client
            .delete_item()
            .table_name(&self.0.name)
            .set_key(Some(worker_key(worker)))
            .condition_expression("incarnation = :seen AND heartbeat = :heartbeat")
            .expression_attribute_values(":seen", string(incarnation))
            .expression_attribute_values(":heartbeat", number(heartbeat));
        match call.send().await {
            Ok(_) => Ok(true),
            Err(error) if ErrorKind::of(&error) == ErrorKind::ConditionFailed => Ok(false),
            Err(error) => Err(self.0.error("DeleteItem", &error)),
        }
    }

    /// Writes the leader's item, if it is still of the term that was seen (`None`: absent). Returns whether it was
    /// written; an earlier write of the same record, whose answer was lost, counts.
    ///
    /// # Errors
    /// When it is not known whether the item was written.
    pub async fn write_leader(&self, wanted: &LeaderRecord, seen_term: Option<u64>) -> Result<bool, TableError> {
        let mut item = Item::from([
            (KEY.into(), string(LEADER)),
            ("incarnation".into(), string_or_none(&wanted.incarnation)),
            ("term".into(), number(wanted.term)),
            ("startedAt".into(), number(wanted.started_at_ms)),
            ("listed".into(), AttributeValue::Bool(wanted.initial_sync_done)),
        ]);
        if let Some(worker) = &wanted.worker {
            item.insert("worker".into(), string(worker.as_str()));
        }
        if let Some(arn) = &wanted.stream_arn {
            item.insert("streamArn".into(), string(arn));
        }
        if let Some(KclAlive { owner, lease, term, at_ms }) = &wanted.kcl_alive {
            item.insert("kclWorker".into(), string(owner.as_str()));
            item.insert("kclLease".into(), string(lease.as_str()));
            item.insert("kclTerm".into(), number(*term));
            item.extend(at_ms.map(|at_ms| ("kclAt".into(), number(at_ms))));
        }
        let call = self.0.client.put_item().table_name(&self.0.name).set_item(Some(item));
        let call = match seen_term {
            None => call.condition_expression("attribute_not_exists(#key)"),
            Some(term) => call
                .condition_expression("attribute_not_exists(#key) OR #term = :seen")
                .expression_attribute_names("#term", "term")
                .expression_attribute_values(":seen", number(term)),
        };
        match call.expression_attribute_names("#key", KEY).send().await {
            Ok(_) => Ok(true),
            Err(error) if ErrorKind::of(&error) == ErrorKind::ConditionFailed => {
                Ok(self.leader().await?.as_ref() == Some(wanted))
            }
            Err(error) => Err(self.0.error("PutItem", &error)),
        }
    }

    /// Keeps the end of a worker, among the last ones. Two that end at once may overwrite each other's: ends are for
    /// people.
    ///
    /// # Errors
    /// When a call failed for good.
    pub async fn keep_end(&self, end: &WorkerEnd) -> Result<(), TableError> {
        let key = Item::from([(KEY.into(), string(ENDS))]);
        let mut ends = self.0.get(key).await?.as_ref().map(read_ends).unwrap_or_default();
        ends.push(end.clone());
        let json = ends.iter().rev().take(KEPT_ENDS).rev().map(|end| serde_json::to_string(end).unwrap_or_default());
        let json = AttributeValue::L(json.map(string).collect());
        let item = Item::from([(KEY.into(), string(ENDS)), (ENDS.into(), json)]);
        let call = self.0.client.put_item().table_name(&self.0.name).set_item(Some(item));
        call.send().await.map(drop).map_err(|error| self.0.error("PutItem", &error))
    }

    /// The service's time of day (ms since the epoch, in whole seconds), if its answers tell it.
    ///
    /// # Errors
    /// When the call failed for good.
    pub async fn service_time_ms(&self) -> Result<Option<u64>, TableError> {
        let clock = ServiceClock::default();
        // A call that operators may make too.
        let call = self.0.client.scan().table_name(&self.0.name).limit(1);
        let call = call.customize().interceptor(clock.clone());
        call.send().await.map_err(|error| self.0.error("Scan", &error))?;
        Ok(clock.now_ms().and_then(|now_ms| now_ms.try_into().ok()))
    }

    /// The leader's item.
    ///
    /// # Errors
    /// When the call failed for good.
    pub async fn leader(&self) -> Result<Option<LeaderRecord>, TableError> {
        let key = Item::from([(KEY.into(), string(LEADER))]);
        Ok(self.0.get(key).await?.as_ref().map(read_leader))
    }
}

fn worker_key(worker: &WorkerId) -> Item {
    Item::from([(KEY.into(), string(format!("{WORKER_PREFIX}{worker}")))])
}

fn member_item(worker: &WorkerId, record: &WorkerRecord) -> Item {
    let mut item = worker_key(worker);
    item.extend(ATTRIBUTES.iter().filter_map(|Attribute { name, value, .. }| Some(((*name).into(), value(record)?))));
    item
}

fn read_member(item: &Item) -> Option<Member> {
    let id = text(item, KEY)?.strip_prefix(WORKER_PREFIX)?;
    count(item, "heartbeat").and(text(item, "incarnation"))?; // another item, or a broken one
    let mut record = WorkerRecord::default();
    for Attribute { name, read, .. } in ATTRIBUTES {
        if let Some(value) = item.get(name) {
            read(&mut record, value);
        }
    }
    let mut inbox = Hints::default();
    for key in texts(item, "inbox") {
        match key {
            EVERYTHING => inbox.everything = true,
            key => drop(inbox.keys.insert(key.into())),
        }
    }
    let challenger = text(item, "challenger").map(ToOwned::to_owned);
    let placed = texts(item, "placed").map(ShardId::from).collect();
    Some(Member { id: id.into(), record, inbox, challenger, placed })
}

fn read_leader(item: &Item) -> LeaderRecord {
    LeaderRecord {
        worker: text(item, "worker").map(WorkerId::from),
        incarnation: text(item, "incarnation").map(real_text).unwrap_or_default().to_owned(),
        term: count(item, "term").unwrap_or_default(),
        stream_arn: text(item, "streamArn").map(ToOwned::to_owned),
        started_at_ms: count(item, "startedAt").unwrap_or_default(),
        initial_sync_done: flag(item, "listed"),
        kcl_alive: read_kcl_alive(item),
    }
}

fn read_ends(item: &Item) -> Vec<WorkerEnd> {
    let ends = item.get(ENDS).and_then(|ends| ends.as_l().ok()).into_iter().flatten();
    ends.filter_map(|end| serde_json::from_str(end.as_s().ok()?).ok()).collect()
}

fn read_kcl_alive(item: &Item) -> Option<KclAlive> {
    let (owner, lease) = (text(item, "kclWorker")?.into(), text(item, "kclLease")?.into());
    Some(KclAlive { owner, lease, term: count(item, "kclTerm")?, at_ms: count(item, "kclAt") })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::blocked_record::{BlockedRecord, RunningCall, Stall, StallCause};

    #[test]
    fn a_worker_reads_its_item_as_it_wrote_it() {
        let halt = BlockedRecord {
            sequence_number: "007".into(),
            event_id: None,
            keys: r#"{"k":{"S":"x"}}"#.into(),
            error: "no \"room\"".into(),
            attempts: 12,
            since_ms: 1_700_000_000_003,
        };
        let stall = Stall { cause: StallCause::Reading, error: Some("no".into()), since_ms: 1_700_000_000_006 };
        let record = WorkerRecord {
            heartbeat: 7,
            incarnation: "i".into(),
            leaving: true,
            version: "0.1.0".into(),
            leases: 3,
            digest: u64::MAX - 5,
            caught_up_to_ms: Some(1_700_000_000_000),
            unprocessed_since_ms: Some(1_700_000_000_001),
            unsaved_since_ms: Some(1_700_000_000_002),
            kbps: 12,
            idle_polls_per_hour: 72_000,
            max_leases: Some(9),
            overloaded: true,
            stuck: BTreeSet::from(["shardId-9".into()]),
            blocked: BTreeMap::from([("shardId-8".into(), halt)]),
            lease_duration_ms: Some(5_000),
            drain_timeout_ms: Some(25_000),
            calls: BTreeMap::from([("shardId-7".into(), RunningCall::without_records(1_700_000_000_004))]),
            stalls: BTreeMap::from([("shardId-6".into(), stall)]),
            written_ms: Some(1_700_000_000_005),
        };
        let mut item = member_item(&"w/1".into(), &record);
        item.insert("placed".into(), AttributeValue::Ss(vec!["shardId-2".into()]));
        item.insert("inbox".into(), AttributeValue::Ss(vec!["shardId-1".into(), "*".into()]));
        let member = read_member(&item).expect("a worker");
        assert_eq!((member.id, member.record), ("w/1".into(), record));
        assert_eq!(member.placed, BTreeSet::from(["shardId-2".into()]));
        assert!(member.inbox.everything && member.inbox.keys.contains(&ShardId::from("shardId-1")));
    }
}
