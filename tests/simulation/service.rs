//! The service of a simulation: the local service behind a simulated clock, a writer beside it, and a tap that knows
//! what the stream truly holds and every version of every lease row.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use shardkeeper_local::{Answer, Clock, LocalOptions, LocalService, Request, StreamAction, Timestamp};

use super::checker::Checker;
use super::history::{Author, Event, History, Ms, Row};
use super::process::EPOCH_MS;
use super::processor::read_record;

/// A record's position, key and number.
type SeenRecord = (u128, String, u64);

/// The table whose stream is read.
pub const TABLE: &str = "Things";
/// The application, and so the lease table.
pub const APP: &str = "app";

/// See the file's head.
pub struct Service {
    local: LocalService,
    now: Arc<AtomicU64>,
    history: History,
    /// The table's streams; the last is the newest.
    arns: Vec<String>,
    /// The streams that are gone.
    purged: BTreeSet<String>,
    /// The last number written for each key.
    numbers: BTreeMap<String, u64>,
    /// The tap's view of each shard: whether it is open, and the last position.
    shards: BTreeMap<String, Tapped>,
    rows: BTreeMap<String, Row>,
}

#[derive(Debug)]
struct Tapped {
    arn: String,
    is_open: bool,
    is_drained: bool,
    last: Option<u128>,
}

impl Service {
    pub fn new(options: LocalOptions, history: History) -> Self {
        let now = Arc::new(AtomicU64::new(0));
        let read = Arc::clone(&now);
        let clock = Clock::new(move || Timestamp::from_millis(EPOCH_MS + read.load(Ordering::Relaxed)));
        let local = LocalService::new(options, clock);
        let (numbers, shards, rows) = Default::default();
        let (arns, purged) = (Vec::new(), BTreeSet::new());
        let mut service = Self { local, now, history, arns, purged, numbers, shards, rows };
        service.make_table();
        service
    }

    fn make_table(&mut self) {
        let table = json!({
            "TableName": TABLE, "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
            "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        });
        let made = self.ask("DynamoDB_20120810.CreateTable", &table);
        self.add_stream(&made);
    }

    fn add_stream(&mut self, made: &Value) {
        let arn = made["TableDescription"]["LatestStreamArn"].as_str().expect("a stream");
        self.arns.push(arn.to_owned());
        self.tap_shards();
    }

    pub fn set_now(&self, now: Ms) {
        self.now.store(now, Ordering::Relaxed);
    }

    /// Writes the next number of a key, and lets the tap see it.
    pub fn write(&mut self, keys: &[String]) {
        for key in keys {
            let number = self.numbers.entry(key.clone()).or_default();
            *number += 1;
            let item = json!({"pk": {"S": key}, "n": {"N": number.to_string()}});
            self.ask("DynamoDB_20120810.PutItem", &json!({"TableName": TABLE, "Item": item}));
        }
        self.tap_records();
    }

    /// Splits, rolls over or trims a shard, or all that can be.
    pub fn change_shards(&mut self, action: StreamAction, shard: Option<&str>) {
        self.tap_records();
        let touched = self.local.change_shards(TABLE, action, shard).unwrap_or_default();
        for id in touched.iter().filter(|_| action == StreamAction::Trim) {
            if let Some(position) = self.shards.get(id).and_then(|shard| shard.last) {
                self.history.note(Event::Trimmed { shard: id.clone(), position });
            }
        }
        self.tap_shards();
    }

    /// Switches the stream off.
    pub fn disable_stream(&mut self) {
        self.tap_records();
        let off = json!({"TableName": TABLE, "StreamSpecification": {"StreamEnabled": false}});
        let _ = self.try_ask("DynamoDB_20120810.UpdateTable", &off);
        self.tap_shards();
    }

    /// Gives the table a new stream, if it has none.
    pub fn enable_stream(&mut self) {
        let on = json!({"StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES"});
        let on = json!({"TableName": TABLE, "StreamSpecification": on});
        if let Ok(made) = self.try_ask("DynamoDB_20120810.UpdateTable", &on) {
            self.add_stream(&made);
        }
    }

    /// Deletes the table and makes it anew.
    pub fn remake_table(&mut self) {
        self.tap_records();
        self.ask("DynamoDB_20120810.DeleteTable", &json!({"TableName": TABLE}));
        self.make_table();
    }

    /// Purges all streams but the newest.
    pub fn purge_streams(&mut self) {
        let Some((_, old)) = self.arns.split_last() else { return };
        self.purged.extend(old.iter().cloned());
        self.tap_shards();
    }

    /// Whether a call is about a stream that is gone.
    pub fn is_purged(&self, request: &Request) -> bool {
        if self.purged.is_empty() {
            return false;
        }
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let iterator = body["ShardIterator"].as_str().and_then(|iterator| iterator.split("|1|").next());
        let arn = body["StreamArn"].as_str().or(iterator);
        arn.is_some_and(|arn| self.purged.contains(arn))
    }

    /// Whether a shard is open.
    pub fn is_open(&self, shard: &str) -> bool {
        self.shards.get(shard).is_some_and(|shard| shard.is_open)
    }

    /// The open shards.
    pub fn open_shards(&self) -> Vec<String> {
        self.shards.iter().filter(|(_, shard)| shard.is_open).map(|(id, _)| id.clone()).collect()
    }

    /// All shards that are listed.
    pub fn all_shards(&self) -> Vec<String> {
        self.shards.keys().cloned().collect()
    }

    /// The rows of the lease table.
    pub fn rows(&self) -> &BTreeMap<String, Row> {
        &self.rows
    }

    /// The worker that leads the fleet, as far as the table says.
    pub fn leader(&self) -> Option<String> {
        let item = self.item(&format!("{APP}-Fleet"), "key", "leader")?;
        item["worker"]["S"].as_str().map(ToOwned::to_owned)
    }

    /// The number of items in the fleet table.
    pub fn fleet_items(&self) -> usize {
        let found = self.try_ask("DynamoDB_20120810.Scan", &json!({"TableName": format!("{APP}-Fleet")}));
        found.ok().and_then(|found| Some(found["Items"].as_array()?.len())).unwrap_or_default()
    }

    /// Carries a process's call out.
    pub fn carry(&mut self, process: usize, request: &Request) -> Answer {
        let answer = self.local.handle(request);
        if answer.status == 200 {
            self.note_writes(process, request);
        }
        answer
    }

    /// Deletes everything in the fleet table.
    pub fn empty_fleet_table(&mut self) {
        let table = format!("{APP}-Fleet");
        let Ok(found) = self.try_ask("DynamoDB_20120810.Scan", &json!({"TableName": table})) else { return };
        for item in found["Items"].as_array().into_iter().flatten() {
            let key = json!({"key": item["key"]});
            self.ask("DynamoDB_20120810.DeleteItem", &json!({"TableName": table, "Key": key}));
        }
    }

    /// Writes a lease row by hand: the one that is there, changed. Returns the row as it was.
    pub fn edit_row(&mut self, key: &str, edit: impl FnOnce(&mut Value)) -> Option<Value> {
        let before = self.item(APP, "leaseKey", key)?;
        let mut after = before.clone();
        edit(&mut after);
        self.ask("DynamoDB_20120810.PutItem", &json!({"TableName": APP, "Item": after}));
        self.note_row(key, Author::Operator);
        Some(before)
    }

    /// Sees new shards, and which are closed or gone.
    pub fn tap_shards(&mut self) {
        let mut listed = BTreeMap::new();
        for arn in self.arns.iter().filter(|arn| !self.purged.contains(*arn)) {
            self.list(arn, &mut listed);
        }
        let gone: Vec<String> = self.shards.keys().filter(|id| !listed.contains_key(*id)).cloned().collect();
        for shard in gone {
            self.shards.remove(&shard);
            self.history.note(Event::ShardGone { shard });
        }
        for (id, (arn, parent, is_open)) in listed {
            let known = self.shards.get(&id);
            if known.is_some_and(|known| known.is_open == is_open) {
                continue;
            }
            let (last, is_drained) = known.map_or((None, false), |known| (known.last, known.is_drained));
            let stream = self.arns.iter().position(|known| *known == arn).expect("a stream of the table");
            self.history.note(Event::Shard { shard: id.clone(), stream, parent, is_open });
            self.shards.insert(id, Tapped { arn, is_open, is_drained, last });
        }
    }

    /// Lists a stream's shards: each with its stream and parent, and whether it is open.
    fn list(&self, arn: &str, listed: &mut BTreeMap<String, (String, Option<String>, bool)>) {
        let mut start = Value::Null;
        loop {
            let mut request = json!({"StreamArn": arn});
            if !start.is_null() {
                request["ExclusiveStartShardId"] = start;
            }
            let Ok(page) = self.try_ask("DynamoDBStreams_20120810.DescribeStream", &request) else { return };
            let description = &page["StreamDescription"];
            for shard in description["Shards"].as_array().into_iter().flatten() {
                let id = shard["ShardId"].as_str().expect("an id").to_owned();
                let parent = shard["ParentShardId"].as_str().map(ToOwned::to_owned);
                let is_open = shard["SequenceNumberRange"]["EndingSequenceNumber"].is_null();
                listed.insert(id, (arn.to_owned(), parent, is_open));
            }
            start = description["LastEvaluatedShardId"].clone();
            if start.is_null() {
                break;
            }
        }
    }

    /// Sees what age has trimmed.
    pub fn tap_trimmed(&mut self) {
        self.local.tick();
        let shards: Vec<(String, u128)> =
            self.shards.iter().filter_map(|(id, shard)| Some((id.clone(), shard.last?))).collect();
        for (shard, last) in shards {
            let Some((records, _)) = self.page(&shard, None, 1) else { continue };
            let position = records.first().map_or(last, |(position, ..)| position - 1);
            self.history.note(Event::Trimmed { shard, position });
        }
        self.tap_shards();
    }

    /// Sees new records.
    fn tap_records(&mut self) {
        let wanted: Vec<String> =
            self.shards.iter().filter(|(_, shard)| !shard.is_drained).map(|(id, _)| id.clone()).collect();
        for id in wanted {
            while let Some(after) = self.shards.get(&id).map(|shard| shard.last) {
                let Some((records, ended)) = self.page(&id, after, 1000) else { break };
                let Some(shard) = self.shards.get_mut(&id) else { break };
                shard.last = records.last().map(|(position, ..)| *position).or(shard.last);
                shard.is_drained |= ended;
                let is_empty = records.is_empty();
                for (position, key, number) in records {
                    self.history.note(Event::Written { shard: id.clone(), position, key, number });
                }
                if is_empty || ended {
                    break;
                }
            }
        }
    }

    /// Records of a shard behind a position, and whether the shard ends with them.
    fn page(&self, shard: &str, after: Option<u128>, limit: u64) -> Option<(Vec<SeenRecord>, bool)> {
        let arn = &self.shards.get(shard)?.arn;
        let mut wanted = json!({"StreamArn": arn, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"});
        if let Some(after) = after {
            wanted["ShardIteratorType"] = "AFTER_SEQUENCE_NUMBER".into();
            wanted["SequenceNumber"] = format!("{after:021}").into();
        }
        let iterator = match self.try_ask("DynamoDBStreams_20120810.GetShardIterator", &wanted) {
            Ok(iterator) => iterator,
            Err(_) if after.is_some() => return self.page(shard, None, limit),
            Err(_) => return None,
        };
        let wanted = json!({"ShardIterator": iterator["ShardIterator"], "Limit": limit});
        let page = self.try_ask("DynamoDBStreams_20120810.GetRecords", &wanted).ok()?;
        let records = page["Records"].as_array()?.iter().map(read_record).collect();
        Some((records, page["NextShardIterator"].is_null()))
    }

    fn note_writes(&mut self, process: usize, request: &Request) {
        let is_write = matches!(request.operation(), "PutItem" | "UpdateItem" | "DeleteItem" | "TransactWriteItems");
        if !is_write {
            return;
        }
        let Ok(body) = serde_json::from_slice::<Value>(&request.body) else { return };
        let items = match body["TransactItems"].as_array() {
            Some(items) => items.iter().filter_map(|item| item.as_object()?.values().next()).cloned().collect(),
            None => vec![body],
        };
        for item in items {
            let key = if item["Item"].is_null() { &item["Key"] } else { &item["Item"] };
            if item["TableName"] == APP {
                let key = key["leaseKey"]["S"].as_str().expect("a lease key").to_owned();
                self.note_row(&key, Author::Process(process));
            } else if key["key"]["S"] == "leader" {
                let began = self.item(&format!("{APP}-Fleet"), "key", "leader");
                if began.is_some_and(|leader| leader["startedAt"]["N"].as_str().is_some_and(|at| at != "0")) {
                    self.history.checker(Checker::application_began);
                }
            } else if !item["Item"].is_null() {
                self.history.checker(|checker| checker.registered(process));
            }
        }
    }

    fn note_row(&mut self, key: &str, author: Author) {
        let row = self.item(APP, "leaseKey", key).as_ref().map(read_row);
        if row.as_ref() == self.rows.get(key) && author != Author::Operator {
            return; // a transaction that was sent again, and is carried out once
        }
        match &row {
            Some(row) => drop(self.rows.insert(key.to_owned(), row.clone())),
            None => drop(self.rows.remove(key)),
        }
        self.history.note(Event::Row { key: key.to_owned(), row, author });
    }

    fn item(&self, table: &str, key: &str, value: &str) -> Option<Value> {
        let wanted = json!({"TableName": table, "Key": {key: {"S": value}}, "ConsistentRead": true});
        let found = self.try_ask("DynamoDB_20120810.GetItem", &wanted).ok()?;
        found.get("Item").cloned()
    }

    fn ask(&self, target: &str, body: &Value) -> Value {
        self.try_ask(target, body).unwrap_or_else(|error| panic!("{target}: {error}"))
    }

    fn try_ask(&self, target: &str, body: &Value) -> Result<Value, String> {
        let request = Request { target: target.into(), body: body.to_string().into() };
        let answer = self.local.handle(&request);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        if answer.status == 200 { serde_json::from_str(&text).map_err(|error| error.to_string()) } else { Err(text) }
    }
}

fn read_row(item: &Value) -> Row {
    let text = |name: &str| item[name]["S"].as_str().map(ToOwned::to_owned);
    Row {
        owner: text("leaseOwner"),
        checkpoint_owner: text("checkpointOwner"),
        counter: item["leaseCounter"]["N"].as_str().and_then(|digits| digits.parse().ok()),
        checkpoint: text("checkpoint").unwrap_or_default(),
        done: text("shardkeeperDone"),
    }
}
