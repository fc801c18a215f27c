//! DynamoDB Streams: the four operations of its API.

pub(crate) mod answer;
pub(crate) mod iterator;
pub(crate) mod lifecycle;
pub(crate) mod record;
pub(crate) mod shard;

use std::ops::Bound;

use serde_json::{Value, json};

use crate::emulator::{Emulator, Reply, json_reply};
use crate::error::ServiceError;
use crate::request::Parameters;
use crate::tables::table_name;
use crate::timestamp::Timestamp;
use answer::write_answer;
use iterator::ShardIterator;
use lifecycle::Stream;
use shard::{Page, PageSize, Shard};

/// An operator's change to shards outside their usual life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamAction {
    /// Closes the shard; two children share its keys.
    Split,
    /// Closes the shard; one child continues its keys.
    Rollover,
    /// Drops its records, as if their retention were over.
    Trim,
}

impl StreamAction {
    /// The action of this name: `split`, `rollover` or `trim`.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "split" => Self::Split,
            "rollover" => Self::Rollover,
            "trim" => Self::Trim,
            _ => return None,
        })
    }
}

impl Emulator {
    pub(super) fn list_streams(&mut self, body: &Value) -> Reply {
        let parameters = Parameters::new(body, &["TableName", "Limit", "ExclusiveStartStreamArn"])?;
        let table = match parameters.value("TableName") {
            Some(_) => Some(table_name(&parameters)?),
            None => None,
        };
        let start = parameters.text("ExclusiveStartStreamArn")?;
        if let Some(start) = start {
            check_stream_arn("exclusiveStartStreamArn", start)?;
        }
        let limit = page_limit(&parameters, 100)?;
        let after = start.map_or(Bound::Unbounded, Bound::Excluded);
        let mut streams = self
            .streams
            .range::<str, _>((after, Bound::Unbounded))
            .map(|(_, stream)| stream)
            .filter(|stream| table.is_none_or(|table| stream.table == table));
        let page: Vec<&Stream> = streams.by_ref().take(limit).collect();
        let more = streams.next().is_some();
        let listed: Vec<Value> = page
            .iter()
            .map(|stream| json!({"StreamArn": stream.arn, "TableName": stream.table, "StreamLabel": stream.label}))
            .collect();
        let mut answer = json!({"Streams": listed});
        if let (true, Some(last)) = (more, page.last()) {
            answer["LastEvaluatedStreamArn"] = last.arn.clone().into();
        }
        json_reply(&answer)
    }

    pub(super) fn describe_stream(&mut self, now: Timestamp, body: &Value) -> Reply {
        let known = ["StreamArn", "Limit", "ExclusiveStartShardId", "ShardFilter"];
        let parameters = Parameters::new(body, &known)?;
        let arn = stream_arn(&parameters)?;
        let start = parameters.text("ExclusiveStartShardId")?;
        if let Some(start) = start {
            check_length("exclusiveStartShardId", start, 28, 65)?;
        }
        let children_of = children_filter(&parameters)?;
        let limit = page_limit(&parameters, 100)?.min(self.options.page_shards);
        let per_second = self.options.describe_stream_per_second;
        let in_account = self.descriptions.allow(now, self.faults.streams.describe_per_second);
        let then = now.minus(self.faults.streams.stale_listing);
        let stream = self.streams.get_mut(arn).ok_or_else(|| stream_not_found(arn))?;
        if !in_account || !stream.descriptions.allow(now, per_second) {
            return Err(ServiceError::new("ThrottlingException", "Rate exceeded"));
        }

        let after = start.map_or(Bound::Unbounded, Bound::Excluded);
        let mut shards = stream
            .shards
            .range::<str, _>((after, Bound::Unbounded))
            .map(|(_, shard)| shard)
            .filter(|shard| shard.created <= then)
            .filter(|shard| children_of.is_none_or(|parent| shard.parent.as_deref() == Some(parent)));
        let page: Vec<&Shard> = shards.by_ref().take(limit).collect();
        let more = shards.next().is_some();
        let mut description = json!({
            "StreamArn": stream.arn,
            "StreamLabel": stream.label,
            "StreamStatus": if stream.enabled { "ENABLED" } else { "DISABLED" },
            "StreamViewType": stream.view.name(),
            "CreationRequestDateTime": stream.created.to_json(),
            "TableName": stream.table,
            "KeySchema": stream.schema.to_json(),
            "Shards": page.iter().map(|shard| shard.to_json(then)).collect::<Vec<_>>(),
        });
        if let (true, Some(last)) = (more, page.last()) {
            description["LastEvaluatedShardId"] = last.id.clone().into();
        }
        json_reply(&json!({"StreamDescription": description}))
    }

    pub(super) fn shard_iterator(&mut self, now: Timestamp, body: &Value) -> Reply {
        let known = ["StreamArn", "ShardId", "ShardIteratorType", "SequenceNumber", "Timestamp"];
        let parameters = Parameters::new(body, &known)?;
        let arn = stream_arn(&parameters)?;
        let shard_id = parameters.required_text("ShardId")?;
        check_length("shardId", shard_id, 28, 65)?;
        parameters.required("ShardIteratorType")?;
        let kinds = ["TRIM_HORIZON", "LATEST", "AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER", "AT_TIMESTAMP"];
        let kind = parameters.choice("ShardIteratorType", &kinds)?;
        let sequence = sequence_number(&parameters, kind)?;
        let time = timestamp(&parameters, kind, now)?;
        let stream = self.streams.get(arn).ok_or_else(|| stream_not_found(arn))?;
        let known_since = now.minus(self.faults.streams.young_shard);
        let shard = stream.shards.get(shard_id).filter(|shard| shard.created <= known_since);
        let shard = shard.ok_or_else(|| shard_not_found(shard_id))?;
        let position = match kind {
            "TRIM_HORIZON" => shard.horizon(),
            "LATEST" => stream.next_sequence,
            "AT_TIMESTAMP" => shard.position_at(time).unwrap_or(stream.next_sequence),
            "AT_SEQUENCE_NUMBER" => position_in(shard, sequence, stream.next_sequence)?,
            _ => position_in(shard, sequence, stream.next_sequence)? + 1,
        };
        let iterator = ShardIterator {
            stream_arn: arn.to_owned(),
            shard_id: shard_id.to_owned(),
            position,
            issued: now,
            empty_pages: self.faults.streams.empty_pages,
        };
        json_reply(&json!({"ShardIterator": iterator.encode()}))
    }

    pub(super) fn records(&mut self, now: Timestamp, body: &Value) -> Reply {
        let parameters = Parameters::new(body, &["ShardIterator", "Limit"])?;
        let text = parameters.required_text("ShardIterator")?;
        check_length("shardIterator", text, 1, 2048)?;
        let limit = page_limit(&parameters, 1000)?.min(self.options.page_records);
        let mut iterator =
            ShardIterator::decode(text).ok_or_else(|| ServiceError::validation("Invalid ShardIterator"))?;
        if iterator.issued.plus(self.options.iterator_ttl) < now {
            return Err(ServiceError::new(
                "ExpiredIteratorException",
                "The shard iterator has expired and can no longer be used to retrieve stream records. Iterators \
                 expire 15 minutes after they are retrieved, unless the service was told otherwise.",
            ));
        }
        let stream =
            self.streams.get_mut(&iterator.stream_arn).ok_or_else(|| stream_not_found(&iterator.stream_arn))?;
        let known_since = now.minus(self.faults.streams.young_shard);
        let shard = stream.shards.get_mut(&iterator.shard_id).filter(|shard| shard.created <= known_since);
        let shard = shard.ok_or_else(|| shard_not_found(&iterator.shard_id))?;
        if !shard.reads.allow(now, self.options.get_records_per_second) {
            return Err(ServiceError::new(
                "LimitExceededException",
                format!("Rate of GetRecords exceeded for shard {}", shard.id),
            ));
        }
        if shard.is_trimmed_at(iterator.position) {
            return Err(trimmed());
        }
        if let Some(left) = iterator.empty_pages.checked_sub(1) {
            iterator.empty_pages = left;
            iterator.issued = now;
            return Ok(write_answer(&Page { records: Vec::new(), next: None }, Some(&iterator)));
        }
        let size = PageSize { records: limit, bytes: self.options.page_bytes };
        if let Some(made) = shard.prepared.get(&iterator.position).filter(|_| limit == self.options.page_records) {
            self.stats.records_served += made.records;
            return Ok(made.body.clone());
        }
        let page = shard.page(iterator.position, &size);
        self.stats.records_served += page.records.len() as u64;
        let next = page.next.map(|position| {
            iterator.position = position;
            iterator.issued = now;
            &iterator
        });
        let missing = self.faults.streams.missing_next_iterator;
        let loses_next = missing > 0.0 && shard.closed.is_none() && self.fault_random.f64() < missing;
        Ok(write_answer(&page, next.filter(|_| !loses_next)))
    }
}

/// The position of a sequence number within the shard's range.
fn position_in(shard: &Shard, sequence: Option<u128>, next_sequence: u128) -> Result<u128, ServiceError> {
    let Some(sequence) = sequence else {
        return Err(invalid_sequence_number());
    };
    if shard.is_trimmed_at(sequence) {
        return Err(trimmed());
    }
    let newest = shard.closed.map_or(next_sequence - 1, |(_, ending)| ending);
    if sequence < shard.start || sequence > newest {
        return Err(invalid_sequence_number());
    }
    Ok(sequence)
}

/// The sequence number that goes with the kind of iterator; `None` for the kinds without one.
fn sequence_number(parameters: &Parameters<'_>, kind: &str) -> Result<Option<u128>, ServiceError> {
    let text = parameters.text("SequenceNumber")?;
    match (text, kind) {
        (None, "TRIM_HORIZON" | "LATEST" | "AT_TIMESTAMP") => Ok(None),
        (Some(_), "TRIM_HORIZON" | "LATEST" | "AT_TIMESTAMP") => Err(ServiceError::validation(
            "One or more parameter values were invalid: SequenceNumber should not be passed for this iterator type",
        )),
        (None, _) => Err(invalid_sequence_number()),
        (Some(text), _) => {
            check_length("sequenceNumber", text, 21, 40)?;
            if !text.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(invalid_sequence_number());
            }
            // A number too long for the type is beyond every number that was ever given.
            Ok(Some(text.parse().unwrap_or(u128::MAX)))
        }
    }
}

/// The time of an AT_TIMESTAMP iterator, in seconds with decimals; the other kinds have none.
fn timestamp(parameters: &Parameters<'_>, kind: &str, now: Timestamp) -> Result<Timestamp, ServiceError> {
    let invalid = |problem: &str| {
        ServiceError::validation(format!("One or more parameter values were invalid: Timestamp {problem}"))
    };
    match (parameters.number("Timestamp")?, kind) {
        (None, "AT_TIMESTAMP") => Err(invalid("is required for this iterator type")),
        (Some(seconds), "AT_TIMESTAMP") => match Timestamp::from_seconds(seconds) {
            time if time > now => Err(invalid("must not be in the future")),
            time => Ok(time),
        },
        (Some(_), _) => Err(invalid("should not be passed for this iterator type")),
        (None, _) => Ok(now),
    }
}

/// The `StreamArn` of a request.
fn stream_arn<'a>(parameters: &Parameters<'a>) -> Result<&'a str, ServiceError> {
    let arn = parameters.required_text("StreamArn")?;
    check_stream_arn("streamArn", arn)?;
    Ok(arn)
}

fn check_stream_arn(member: &str, arn: &str) -> Result<(), ServiceError> {
    check_length(member, arn, 37, 1024)?;
    let is_stream = arn.starts_with("arn:") && arn.contains(":table/") && arn.contains("/stream/");
    if is_stream { Ok(()) } else { Err(ServiceError::validation("Invalid StreamArn")) }
}

fn children_filter<'a>(parameters: &Parameters<'a>) -> Result<Option<&'a str>, ServiceError> {
    let Some(filter) = parameters.value("ShardFilter") else {
        return Ok(None);
    };
    let filter = Parameters::new(filter, &["Type", "ShardId"])?;
    filter.required("Type")?;
    filter.choice("Type", &["CHILD_SHARDS"])?;
    let parent = filter.required_text("ShardId")?;
    check_length("shardFilter.shardId", parent, 28, 65)?;
    Ok(Some(parent))
}

fn page_limit(parameters: &Parameters<'_>, most: usize) -> Result<usize, ServiceError> {
    match parameters.limit()? {
        None => Ok(most),
        Some(limit) if limit <= most => Ok(limit),
        Some(limit) => Err(ServiceError::validation(format!(
            "1 validation error detected: Value '{limit}' at 'limit' failed to satisfy constraint: Member must have \
             value less than or equal to {most}"
        ))),
    }
}

fn check_length(member: &str, text: &str, least: usize, most: usize) -> Result<(), ServiceError> {
    let bound = match text.len() {
        length if length < least => format!("greater than or equal to {least}"),
        length if length > most => format!("less than or equal to {most}"),
        _ => return Ok(()),
    };
    Err(ServiceError::validation(format!(
        "1 validation error detected: Value '{text}' at '{member}' failed to satisfy constraint: Member must have \
         length {bound}"
    )))
}

fn invalid_sequence_number() -> ServiceError {
    ServiceError::validation("One or more parameter values were invalid: Invalid SequenceNumber")
}

fn stream_not_found(arn: &str) -> ServiceError {
    ServiceError::not_found(format!("Requested resource not found: Stream: {arn} not found"))
}

fn shard_not_found(id: &str) -> ServiceError {
    ServiceError::not_found(format!("Requested resource not found: Shard: {id} not found"))
}

fn trimmed() -> ServiceError {
    ServiceError::new(
        "TrimmedDataAccessException",
        "The operation attempted to read past the oldest stream record in a shard.",
    )
}
