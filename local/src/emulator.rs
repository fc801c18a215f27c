//! The whole service as a deterministic state machine: one request in, one answer out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use serde_json::Value;

use crate::error::ServiceError;
use crate::faults::{Effect, FaultPlan, InjectedFault};
use crate::index::SecondaryIndex;
use crate::limits::RateLimit;
use crate::options::LocalOptions;
use crate::policy;
use crate::stats::Stats;
use crate::stream::StreamAction;
use crate::stream::lifecycle::{Stream, StreamContext};
use crate::stream::record::{Change, WriteSource};
use crate::table::{ItemKey, Table};
use crate::timestamp::Timestamp;
use crate::transaction::Tokens;
use crate::value::Item;

/// A call as it reaches the service by any transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The `x-amz-target` header, as `DynamoDB_20120810.PutItem`.
    pub target: String,
    /// The JSON body.
    pub body: Bytes,
}

/// An answer, before a transport carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The JSON body.
    pub body: Bytes,
    /// The value of the `x-amzn-requestid` header, new for each answer.
    pub request_id: String,
}

/// The body of a good answer, or the error in its place.
pub(crate) type Reply = Result<Bytes, ServiceError>;

/// All tables and streams.
///
/// Equal options and equal calls at equal times give equal answers, to the byte.
#[derive(Debug)]
pub struct Emulator {
    pub(super) options: LocalOptions,
    pub(super) random: Rng,
    pub(super) tables: BTreeMap<String, Table>,
    /// By ARN; a stream outlives its table for the retention time.
    pub(super) streams: BTreeMap<String, Stream>,
    pub(super) tokens: Tokens,
    pub(super) stats: Stats,
    pub(super) faults: FaultPlan,
    /// The time at which the plan was set.
    faults_since: Timestamp,
    /// DescribeStream calls of the account.
    pub(super) descriptions: RateLimit,
    /// Apart from `random`, so that faults change no id.
    pub(super) fault_random: Rng,
    /// The latest time seen: it never moves back.
    clock: Timestamp,
    /// No roll-over, trimming or expiry is due before this time.
    next_event: Timestamp,
    pub(super) next_ttl_sweep: Timestamp,
}

impl Request {
    /// The operation's name: what follows the dot of the target.
    pub fn operation(&self) -> &str {
        self.target.rsplit('.').next().unwrap_or_default()
    }

    /// Whether the call goes to the streams' API rather than to the tables'.
    pub fn is_for_streams(&self) -> bool {
        self.target.starts_with("DynamoDBStreams_")
    }
}

impl Emulator {
    /// An emulator without tables.
    pub fn new(options: LocalOptions) -> Self {
        Self {
            random: Rng::with_seed(options.seed),
            fault_random: Rng::with_seed(!options.seed),
            options,
            tables: BTreeMap::new(),
            streams: BTreeMap::new(),
            tokens: Tokens::default(),
            stats: Stats::default(),
            faults: FaultPlan::default(),
            faults_since: Timestamp::default(),
            descriptions: RateLimit::default(),
            clock: Timestamp::default(),
            next_event: Timestamp::default(),
            next_ttl_sweep: Timestamp::default(),
        }
    }

    /// An emulator that continues from a snapshot's time.
    pub(super) fn restored(options: LocalOptions, clock: Timestamp, random: Rng) -> Self {
        Self { clock, random, ..Self::new(options) }
    }

    pub(super) fn clock(&self) -> Timestamp {
        self.clock
    }

    /// Carries out one call at the time `now`; a time before an earlier call's counts as that one.
    pub fn handle(&mut self, now: Timestamp, request: &Request) -> Answer {
        self.tick(now);
        let operation = request.operation();
        self.stats.count_call(operation);
        let reply = self.dispatch(self.clock, request);
        self.answer(operation, reply)
    }

    /// The answer that refuses a call with `error`, which counts as this operation's.
    pub fn refuse(&mut self, operation: &str, error: ServiceError) -> Answer {
        self.stats.count_call(operation);
        self.answer(operation, Err(error))
    }

    /// Carries out the roll-over, trimming and expiry due by `now`. Cheap when nothing is due.
    pub fn tick(&mut self, now: Timestamp) {
        self.clock = self.clock.max(now);
        if self.clock < self.next_event {
            return;
        }
        self.sweep_expired(self.clock);
        self.settle_indexes(self.clock);
        let mut context = StreamContext { now: self.clock, options: &self.options, random: &mut self.random };
        for stream in self.streams.values_mut() {
            stream.advance(&mut context);
        }
        self.streams.retain(|_, stream| !stream.is_gone());
        self.plan();
    }

    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The fault plan in force.
    pub fn faults(&self) -> &FaultPlan {
        &self.faults
    }

    pub fn set_faults(&mut self, now: Timestamp, faults: FaultPlan) {
        self.clock = self.clock.max(now);
        self.faults_since = self.clock;
        self.faults = faults;
    }

    /// Draws the fault of one call from the plan; the service carries it out. `caller` is the access key id that signed
    /// the call.
    pub fn draw_fault(&mut self, now: Timestamp, request: &Request, caller: Option<&str>) -> InjectedFault {
        let names_tables = self.faults.rules.iter().any(|rule| !rule.tables.is_empty());
        let tables = if names_tables { policy::tables(request) } else { BTreeSet::new() };
        let age = Duration::from_millis(now.as_millis().saturating_sub(self.faults_since.as_millis()));
        let mut fault = self.faults.draw(request, &tables, age, &mut self.fault_random);
        if let (Effect::None, Some(refusal)) =
            (&fault.effect, caller.and_then(|caller| self.refusal_by_policy(request, caller)))
        {
            fault.effect = Effect::Refuse(refusal);
        }
        fault
    }

    /// Holds a call to its caller's policy, if there is one, and records the permissions it required.
    fn refusal_by_policy(&mut self, request: &Request, caller: &str) -> Option<ServiceError> {
        let policy = self.faults.policies.get(caller)?;
        let required = policy::required_permissions(request, |name| self.table_arn(name));
        let refusal = policy.refusal(&required);
        for permission in required {
            self.stats.note_permission(caller, permission);
        }
        refusal
    }

    /// Changes the shards of a table's latest stream: the named one, or all that the action fits. Answers the ids of
    /// the shards that were touched.
    ///
    /// # Errors
    /// No such table, stream or shard; a split or roll-over of a closed shard.
    pub fn change_shards(
        &mut self,
        now: Timestamp,
        table: &str,
        action: StreamAction,
        shard: Option<&str>,
    ) -> Result<Vec<String>, ServiceError> {
        self.tick(now);
        let arn = self
            .tables
            .get(table)
            .and_then(|table| table.latest_stream.clone())
            .ok_or_else(|| ServiceError::not_found(format!("Table {table} has no stream")))?;
        let stream =
            self.streams.get_mut(&arn).ok_or_else(|| ServiceError::not_found(format!("Stream {arn} not found")))?;
        let mut context = StreamContext { now: self.clock, options: &self.options, random: &mut self.random };
        let touched = stream.act(action, shard, &mut context);
        self.plan();
        touched
    }

    /// Puts `new` where the key's item is, or removes that, and writes the change to the table's stream.
    /// The table must exist. Answers what was there.
    pub(super) fn replace_item(
        &mut self,
        now: Timestamp,
        table: &str,
        key: &ItemKey,
        new: Option<Item>,
        source: WriteSource,
    ) -> Option<Item> {
        let table = self.tables.get_mut(table)?;
        if let (true, Some(arn)) = (table.stream_enabled, &table.latest_stream)
            && let Some(stream) = self.streams.get_mut(arn)
        {
            let change = Change { old: table.item(key), new: new.as_ref(), source };
            let mut context = StreamContext { now, options: &self.options, random: &mut self.random };
            if stream.append(key.partition.ring, &change, &mut context) {
                self.stats.records_written += 1;
                self.next_event = self.next_event.min(stream.next_event);
            }
        }
        table.replace(key, new)
    }

    /// Finds the next time at which something is due.
    pub(super) fn plan(&mut self) {
        let has_ttl = self.tables.values().any(|table| table.ttl.is_some());
        let sweep = if has_ttl { self.next_ttl_sweep } else { Timestamp::from_millis(u64::MAX) };
        let streams = self.streams.values().map(|stream| stream.next_event);
        let indexes = self.tables.values().flat_map(|table| &table.indexes).filter_map(SecondaryIndex::next_event);
        self.next_event = streams.chain(indexes).min().unwrap_or(sweep).min(sweep);
    }

    /// 52 letters and digits, as the service's request ids have.
    fn request_id(&mut self) -> String {
        const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let mut id = String::with_capacity(52);
        while id.len() < 52 {
            let bits = self.random.u64(..);
            for shift in 0..12 {
                let index = usize::try_from(bits >> (5 * shift) & 31).unwrap_or(0);
                id.push(char::from(ALPHABET[index]));
            }
        }
        id.truncate(52);
        id
    }

    fn answer(&mut self, operation: &str, reply: Reply) -> Answer {
        let request_id = self.request_id();
        match reply {
            Ok(body) => Answer { status: 200, body, request_id },
            Err(error) => {
                self.stats.count_error(operation, error.code());
                Answer { status: error.status(), body: error.to_json().to_string().into(), request_id }
            }
        }
    }

    fn dispatch(&mut self, now: Timestamp, request: &Request) -> Reply {
        let body: Value = match serde_json::from_slice(&request.body) {
            Ok(body) => body,
            Err(error) => {
                let message = format!("The request body is not JSON: {error}");
                return Err(ServiceError::new("SerializationException", message));
            }
        };
        match request.target.as_str() {
            "DynamoDB_20120810.PutItem" => self.put_item(now, &body),
            "DynamoDB_20120810.GetItem" => self.get_item(&body),
            "DynamoDB_20120810.UpdateItem" => self.update_item(now, &body),
            "DynamoDB_20120810.DeleteItem" => self.delete_item(now, &body),
            "DynamoDB_20120810.BatchWriteItem" => self.batch_write_item(now, &body),
            "DynamoDB_20120810.BatchGetItem" => self.batch_get_item(&body),
            "DynamoDB_20120810.Query" => self.query(&body),
            "DynamoDB_20120810.Scan" => self.scan(&body),
            "DynamoDB_20120810.TransactWriteItems" => self.transact_write_items(now, &body),
            "DynamoDB_20120810.TransactGetItems" => self.transact_get_items(&body),
            "DynamoDB_20120810.CreateTable" => self.create_table(now, &body),
            "DynamoDB_20120810.DescribeTable" => self.describe_table(&body),
            "DynamoDB_20120810.ListTables" => self.list_tables(&body),
            "DynamoDB_20120810.UpdateTable" => self.update_table(now, &body),
            "DynamoDB_20120810.DeleteTable" => self.delete_table(now, &body),
            "DynamoDB_20120810.DescribeTimeToLive" => self.describe_time_to_live(&body),
            "DynamoDB_20120810.UpdateTimeToLive" => self.update_time_to_live(now, &body),
            "DynamoDB_20120810.TagResource" => self.tag_resource(&body),
            "DynamoDB_20120810.UntagResource" => self.untag_resource(&body),
            "DynamoDB_20120810.ListTagsOfResource" => self.list_tags_of_resource(&body),
            "DynamoDB_20120810.DescribeLimits" => self.describe_limits(&body),
            "DynamoDB_20120810.DescribeEndpoints" => self.describe_endpoints(&body),
            "DynamoDB_20120810.DescribeContinuousBackups" => self.describe_continuous_backups(&body),
            "DynamoDBStreams_20120810.ListStreams" => self.list_streams(&body),
            "DynamoDBStreams_20120810.DescribeStream" => self.describe_stream(now, &body),
            "DynamoDBStreams_20120810.GetShardIterator" => self.shard_iterator(now, &body),
            "DynamoDBStreams_20120810.GetRecords" => self.records(now, &body),
            other => {
                let is_partiql =
                    matches!(request.operation(), "ExecuteStatement" | "BatchExecuteStatement" | "ExecuteTransaction");
                let message = if is_partiql {
                    format!("PartiQL is not supported by the local service: {other}")
                } else {
                    format!("The local service has no operation {other}")
                };
                Err(ServiceError::new("UnknownOperationException", message))
            }
        }
    }
}

/// A good answer out of JSON.
pub(crate) fn json_reply(json: &Value) -> Reply {
    Ok(json.to_string().into())
}
