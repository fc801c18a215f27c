//! The fleet table, `<app>-Fleet`: who is there, who leads, and hints between workers.
//!
//! One item a worker, rewritten each heartbeat, and one for the leader, which also binds the application to its
//! stream. It saves the lease table a write for each lease and interval; losing it loses nothing but time.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};

use super::calls::HealthInterceptor;
use super::table_health::TableHealth;
use super::{ErrorKind, TableError, tables};
use crate::model::blocked_record::BlockedRecord;
use crate::model::lease::{ShardId, WorkerId};
use crate::model::worker_record::{Fleet, Hints, LeaderRecord, Member, WorkerRecord};

type Item = HashMap<String, AttributeValue>;

const KEY: &str = "key";
const LEADER: &str = "leader";
const WORKER_PREFIX: &str = "worker/";
/// DynamoDB's limit on an item leaves room for some thousand lease keys in an inbox; a worker that has more to look
/// at looks at everything.
const INBOX_LIMIT: usize = 1000;
/// The hint to look at the whole lease table.
const EVERYTHING: &str = "*";

/// The fleet table of an application.
#[derive(Clone, Debug)]
pub struct FleetTable {
    client: Client,
    name: String,
}

impl FleetTable {
    /// The fleet table of an application.
    pub fn new(client: Client, app: &str) -> Self {
        Self { client, name: format!("{app}-Fleet") }
    }

    /// The same table; whether it answers is noted in `answers`.
    #[must_use]
    pub fn watched(self, answers: &TableHealth) -> Self {
        let config = self.client.config().to_builder().interceptor(HealthInterceptor(answers.clone())).build();
        Self { client: Client::from_conf(config), ..self }
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes sure that the table can be used, and makes it when it is missing and `create` allows that.
    ///
    /// # Errors
    /// [`TableError::Missing`] when it is missing and may not be made.
    pub async fn ensure(&self, create: bool) -> Result<(), TableError> {
        tables::ensure(&self.client, &self.name, &[KEY], create).await
    }

    /// Everything in the table. Items that cannot be read are passed over, as if their workers were dead.
    ///
    /// # Errors
    /// When a page of the scan failed for good.
    pub async fn scan(&self) -> Result<Fleet, TableError> {
        let mut fleet = Fleet::default();
        let mut start = None;
        loop {
            let call = self.client.scan().table_name(&self.name).consistent_read(true);
            let page = call.set_exclusive_start_key(start).send().await.map_err(|error| self.error("Scan", &error))?;
            for item in page.items.unwrap_or_default() {
                match text(&item, KEY) {
                    Some(LEADER) => fleet.leadership = Some(read_leadership(&item)),
                    _ => fleet.members.extend(read_member(&item)),
                }
            }
            start = page.last_evaluated_key.filter(|key| !key.is_empty());
            if start.is_none() {
                fleet.members.sort_by(|left, right| left.id.cmp(&right.id));
                return Ok(fleet);
            }
        }
    }

    /// Takes a worker id for a new process: on the condition that the item is as it was seen, `seen` being the
    /// incarnation and heartbeat in it. Says whether it was.
    ///
    /// # Errors
    /// When it is not known whether the item was written.
    pub async fn register(
        &self,
        worker: &WorkerId,
        presence: &WorkerRecord,
        seen: Option<(&str, u64)>,
    ) -> Result<bool, TableError> {
        let mut item = Item::from([(KEY.into(), string(worker_key(worker)))]);
        item.extend(presence_attributes(presence).into_iter().map(|(name, value)| (name.to_owned(), value)));
        let call = self.client.put_item().table_name(&self.name).set_item(Some(item));
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
        let call = call.expression_attribute_values(":mine", string(&presence.incarnation));
        match call.send().await {
            Ok(_) => Ok(true),
            Err(error) if ErrorKind::of(&error) == ErrorKind::ConditionFailed => Ok(false),
            Err(error) => Err(self.error("PutItem", &error)),
        }
    }

    /// Asks the process that may live under a worker id to answer, by its next look at its item.
    ///
    /// # Errors
    /// When the call failed for good.
    pub async fn challenge(&self, worker: &WorkerId, challenger: &str) -> Result<(), TableError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.name)
            .key(KEY, string(worker_key(worker)))
            .update_expression("SET challenger = :challenger")
            // An update of an item that is gone would make one that shows no worker.
            .condition_expression("attribute_exists(incarnation)")
            .expression_attribute_values(":challenger", string(challenger));
        match call.send().await {
            Ok(_) => Ok(()),
            Err(error) if ErrorKind::of(&error) == ErrorKind::ConditionFailed => Ok(()),
            Err(error) => Err(self.error("UpdateItem", &error)),
        }
    }

    /// Writes a heartbeat, which also answers a challenger, and returns the item as it is then. Nothing when the
    /// item is gone or another process has taken the id.
    ///
    /// # Errors
    /// When it is not known whether the heartbeat was written.
    pub async fn heartbeat(&self, worker: &WorkerId, presence: &WorkerRecord) -> Result<Option<Member>, TableError> {
        let mut set = Vec::new();
        let mut values = Item::from([(":mine".into(), string(&presence.incarnation))]);
        let mut names = HashMap::new();
        for (name, value) in presence_attributes(presence) {
            set.push(format!("#{name} = :{name}"));
            names.insert(format!("#{name}"), name.to_owned());
            values.insert(format!(":{name}"), value);
        }
        let mut remove = vec!["challenger"];
        let unknown = [
            ("caughtUpTo", presence.caught_up_to_ms.is_none()),
            ("halted", presence.blocked.is_empty()),
            ("stuck", presence.stuck.is_empty()),
            ("unprocessedSince", presence.unprocessed_since_ms.is_none()),
            ("unsavedSince", presence.unsaved_since_ms.is_none()),
        ];
        remove.extend(unknown.iter().filter(|(_, is_absent)| *is_absent).map(|(name, _)| *name));
        let call = self
            .client
            .update_item()
            .table_name(&self.name)
            .key(KEY, string(worker_key(worker)))
            .update_expression(format!("SET {} REMOVE {}", set.join(", "), remove.join(", ")))
            .condition_expression("#incarnation = :mine")
            .set_expression_attribute_names(Some(names))
            .set_expression_attribute_values(Some(values))
            .return_values(ReturnValue::AllNew);
        match call.send().await {
            Ok(answer) => Ok(answer.attributes.as_ref().and_then(read_member)),
            Err(error) if ErrorKind::of(&error) == ErrorKind::ConditionFailed => Ok(None),
            Err(error) => Err(self.error("UpdateItem", &error)),
        }
    }

    /// One worker's item.
    ///
    /// # Errors
    /// When the call failed for good.
    pub async fn look(&self, worker: &WorkerId) -> Result<Option<Member>, TableError> {
        let call = self.client.get_item().table_name(&self.name).consistent_read(true);
        let call = call.key(KEY, string(worker_key(worker)));
        let answer = call.send().await.map_err(|error| self.error("GetItem", &error))?;
        Ok(answer.item.as_ref().and_then(read_member))
    }

    /// Tells a worker to look at some lease rows. A hint to a worker that isn't there goes nowhere.
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
            .client
            .update_item()
            .table_name(&self.name)
            .key(KEY, string(worker_key(worker)))
            .update_expression("ADD inbox :keys")
            .condition_expression("attribute_exists(#key)")
            .expression_attribute_names("#key", KEY)
            .expression_attribute_values(":keys", AttributeValue::Ss(keys));
        match call.send().await {
            Ok(_) => Ok(()),
            Err(error) if ErrorKind::of(&error) == ErrorKind::ConditionFailed => Ok(()),
            Err(error) => Err(self.error("UpdateItem", &error)),
        }
    }

    /// Takes hints out of a worker's own inbox. To be called *before* the rows are read: a hint that comes in
    /// between stays.
    ///
    /// # Errors
    /// When the call failed for good.
    pub async fn clear(&self, worker: &WorkerId, hints: &Hints) -> Result<(), TableError> {
        let mut keys: Vec<String> = hints.keys.iter().map(ToString::to_string).collect();
        if hints.everything {
            keys.push(EVERYTHING.into());
        }
        let call = self
            .client
            .update_item()
            .table_name(&self.name)
            .key(KEY, string(worker_key(worker)))
            .update_expression("DELETE inbox :keys")
            .condition_expression("attribute_exists(incarnation)")
            .expression_attribute_values(":keys", AttributeValue::Ss(keys));
        match call.send().await {
            Ok(_) => Ok(()),
            Err(error) if ErrorKind::of(&error) == ErrorKind::ConditionFailed => Ok(()),
            Err(error) => Err(self.error("UpdateItem", &error)),
        }
    }

    /// Removes the item of a worker that has left or died: if it still shows this incarnation and heartbeat.
    ///
    /// # Errors
    /// When the call failed for good.
    pub async fn remove(&self, worker: &WorkerId, incarnation: &str, heartbeat: u64) -> Result<bool, TableError> {
        let call = self
            .client
            .delete_item()
            .table_name(&self.name)
            .key(KEY, string(worker_key(worker)))
            .condition_expression("incarnation = :seen AND heartbeat = :heartbeat")
            .expression_attribute_values(":seen", string(incarnation))
            .expression_attribute_values(":heartbeat", number(heartbeat));
        match call.send().await {
            Ok(_) => Ok(true),
            Err(error) if ErrorKind::of(&error) == ErrorKind::ConditionFailed => Ok(false),
            Err(error) => Err(self.error("DeleteItem", &error)),
        }
    }

    /// Writes the leader's item, on the condition that it is still of the term that was seen (`None`: not there).
    /// Says whether it was; a write of our own whose answer was lost counts as one.
    ///
    /// # Errors
    /// When it is not known whether the item was written.
    pub async fn write_leadership(&self, wanted: &LeaderRecord, seen_term: Option<u64>) -> Result<bool, TableError> {
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
        let call = self.client.put_item().table_name(&self.name).set_item(Some(item));
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
                Ok(self.leadership().await?.as_ref() == Some(wanted))
            }
            Err(error) => Err(self.error("PutItem", &error)),
        }
    }

    /// The leader's item.
    ///
    /// # Errors
    /// When the call failed for good.
    pub async fn leadership(&self) -> Result<Option<LeaderRecord>, TableError> {
        let call = self.client.get_item().table_name(&self.name).consistent_read(true).key(KEY, string(LEADER));
        let answer = call.send().await.map_err(|error| self.error("GetItem", &error))?;
        Ok(answer.item.as_ref().map(read_leadership))
    }

    fn error<E, R>(&self, operation: &'static str, error: &aws_sdk_dynamodb::error::SdkError<E, R>) -> TableError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: std::fmt::Debug,
    {
        TableError::new(operation, &self.name, error)
    }
}

fn worker_key(worker: &WorkerId) -> String {
    format!("{WORKER_PREFIX}{worker}")
}

fn presence_attributes(presence: &WorkerRecord) -> Vec<(&'static str, AttributeValue)> {
    let state = if presence.leaving { "leaving" } else { "active" };
    let mut attributes = vec![
        ("heartbeat", number(presence.heartbeat)),
        ("incarnation", string(&presence.incarnation)),
        ("state", string(state)),
        ("version", string(&presence.version)),
        ("leases", number(presence.leases)),
        ("overloaded", AttributeValue::Bool(presence.overloaded)),
        ("digest", string(format!("{:016x}", presence.digest))),
        ("kbps", number(presence.kbps)),
    ];
    let moments = [
        ("caughtUpTo", presence.caught_up_to_ms),
        ("unprocessedSince", presence.unprocessed_since_ms),
        ("unsavedSince", presence.unsaved_since_ms),
    ];
    attributes.extend(moments.into_iter().filter_map(|(name, moment)| Some((name, number(moment?)))));
    if !presence.stuck.is_empty() {
        attributes.push(("stuck", AttributeValue::Ss(presence.stuck.iter().map(ToString::to_string).collect())));
    }
    if !presence.blocked.is_empty() {
        let text = |halt: &BlockedRecord| serde_json::to_string(halt).unwrap_or_default();
        let halted = presence.blocked.iter().map(|(shard, halt)| (shard.to_string(), string(text(halt))));
        attributes.push(("halted", AttributeValue::M(halted.collect())));
    }
    if let Some(limit) = presence.max_leases {
        attributes.push(("maxLeases", number(limit)));
    }
    attributes
}

fn read_member(item: &Item) -> Option<Member> {
    let id = text(item, KEY)?.strip_prefix(WORKER_PREFIX)?;
    let record = WorkerRecord {
        heartbeat: count(item, "heartbeat")?,
        incarnation: text(item, "incarnation")?.to_owned(),
        leaving: text(item, "state") == Some("leaving"),
        version: text(item, "version").unwrap_or_default().to_owned(),
        leases: count(item, "leases").unwrap_or_default(),
        digest: text(item, "digest").and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or_default(),
        caught_up_to_ms: count(item, "caughtUpTo"),
        unprocessed_since_ms: count(item, "unprocessedSince"),
        unsaved_since_ms: count(item, "unsavedSince"),
        kbps: count(item, "kbps").unwrap_or_default(),
        max_leases: count(item, "maxLeases"),
        overloaded: item.get("overloaded").and_then(|value| value.as_bool().ok()).copied().unwrap_or_default(),
        stuck: texts(item, "stuck").map(ShardId::from).collect(),
        blocked: halted(item),
    };
    let mut inbox = Hints::default();
    for key in texts(item, "inbox") {
        match key {
            EVERYTHING => inbox.everything = true,
            key => drop(inbox.keys.insert(key.into())),
        }
    }
    let challenger = text(item, "challenger").map(ToOwned::to_owned);
    Some(Member { id: id.into(), record, inbox, challenger })
}

fn halted(item: &Item) -> BTreeMap<ShardId, BlockedRecord> {
    let halted = item.get("halted").and_then(|halted| halted.as_m().ok());
    let read = |(shard, halt): (&String, &AttributeValue)| {
        Some((ShardId::from(shard.as_str()), serde_json::from_str(halt.as_s().ok()?).ok()?))
    };
    halted.into_iter().flatten().filter_map(read).collect()
}

fn read_leadership(item: &Item) -> LeaderRecord {
    LeaderRecord {
        worker: text(item, "worker").map(WorkerId::from),
        incarnation: text(item, "incarnation").filter(|text| *text != NO_TEXT).unwrap_or_default().to_owned(),
        term: count(item, "term").unwrap_or_default(),
        stream_arn: text(item, "streamArn").map(ToOwned::to_owned),
        started_at_ms: count(item, "startedAt").unwrap_or_default(),
        initial_sync_done: item.get("listed").and_then(|listed| listed.as_bool().ok()).copied().unwrap_or_default(),
    }
}

/// Stands for an empty text, which some versions of DynamoDB refuse.
const NO_TEXT: &str = "-";

fn string_or_none(value: &str) -> AttributeValue {
    string(if value.is_empty() { NO_TEXT } else { value })
}

fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name).and_then(|value| value.as_s().ok()).map(String::as_str)
}

fn texts<'a>(item: &'a Item, name: &str) -> impl Iterator<Item = &'a str> {
    item.get(name).and_then(|value| value.as_ss().ok()).into_iter().flatten().map(String::as_str)
}

fn count(item: &Item, name: &str) -> Option<u64> {
    item.get(name).and_then(|value| value.as_n().ok()).and_then(|digits| digits.parse().ok())
}

fn string(value: impl AsRef<str>) -> AttributeValue {
    AttributeValue::S(value.as_ref().to_owned())
}

fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

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
        let presence = WorkerRecord {
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
            max_leases: Some(9),
            overloaded: true,
            stuck: BTreeSet::from(["shardId-9".into()]),
            blocked: BTreeMap::from([("shardId-8".into(), halt)]),
        };
        let mut item = Item::from([(KEY.into(), string(worker_key(&"w/1".into())))]);
        item.extend(presence_attributes(&presence).into_iter().map(|(name, value)| (name.to_owned(), value)));
        item.insert("inbox".into(), AttributeValue::Ss(vec!["shardId-1".into(), "*".into()]));
        let member = read_member(&item).expect("a worker");
        assert_eq!((member.id, member.record), ("w/1".into(), presence));
        assert!(member.inbox.everything && member.inbox.keys.contains(&ShardId::from("shardId-1")));
    }
}
