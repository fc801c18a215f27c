//! The dead letter table, `<app>-DeadLetters`: one item per letter.
//!
//! The hash key `shard` is the shard's id. The sort key `position` is the sequence number, padded so that texts sort as
//! numbers do, followed by the stream's ARN. So a shard's letters are listed in order, and a letter that is put again
//! updates its own item.
//!
//! A record may exceed the largest item: it may hold two images of an item of full size. Such a record is split into
//! parts, which are items under a hash key with a digest of the record's text. They are written before the letter's
//! item, so a visible letter is whole.

use std::collections::HashMap;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use aws_smithy_runtime::client::retries::RetryPartition;

use super::letter::{DeadLetter, FailureLimit, LetterId};
use super::queue::{DeadLetterQueue, PrepareError, QueueFuture};
use crate::aws::calls::MetricsInterceptor;
use crate::aws::item::{Item, count, number, real_text, string, string_or_none, text};
use crate::aws::own_table::OwnTable;
use crate::aws::{ErrorKind, TableError, TableRole};
use crate::model::fnv1a;
use crate::model::lease::ShardId;

const SHARD: &str = "shard";
const POSITION: &str = "position";
const STREAM_ARN: &str = "streamArn";
const SEQUENCE_NUMBER: &str = "sequenceNumber";
const EVENT_ID: &str = "eventId";
const RECORD: &str = "record";
const RECORD_PARTS: &str = "recordParts";
const RECORD_BYTES: &str = "recordBytes";
const RECORD_DIGEST: &str = "recordDigest";
const ERROR: &str = "error";
const REASON: &str = "reason";
const ATTEMPTS: &str = "attempts";
const CREATED_AT: &str = "createdAt";
const FIRST_FAILED_AT: &str = "firstFailedAt";
const LAST_FAILED_AT: &str = "lastFailedAt";
const WORKER: &str = "worker";
const PART: &str = "part";

/// The start of the hash key of a record's parts; no shard's id holds a slash.
const PARTS_PREFIX: &str = "parts/";
/// The most bytes of a record in one item: an item has at most 409,600 with its names (developer guide, "Limits"), and
/// holds the error's text beside the record.
const PART_BYTES: usize = 350_000;
/// The limit for one attempt at a call. It may be longer than the worker's other calls have: no lease depends on it, and a
/// record of full size is written, or read, in one call.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// The dead letter table of an application.
#[derive(Clone, Debug)]
pub struct DeadLetterTable(OwnTable);

/// The primary key of a letter's item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterKey {
    shard: String,
    position: String,
}

/// An item of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The item's key.
    pub key: LetterKey,
    /// The letter, or the reason why the item cannot be read as one.
    pub letter: Result<DeadLetter, String>,
}

/// A page of a listing.
#[derive(Clone, Debug)]
pub struct EntryPage {
    /// The entries, each shard's together and in the shard's order. May be empty although others follow.
    pub entries: Vec<Entry>,
    /// The start of the next page, if there is one.
    pub next: Option<Cursor>,
}

/// The start of a page of a listing.
#[derive(Clone, Debug)]
pub struct Cursor(Item);

impl LetterKey {
    /// The key of this letter's item.
    pub fn of(letter: &DeadLetter) -> Self {
        let position = format!("{}{}", position_prefix(&letter.id()), letter.stream_arn);
        Self { shard: letter.shard_id.to_string(), position }
    }

    /// The hash key.
    pub fn shard(&self) -> &str {
        &self.shard
    }

    /// The sort key.
    pub fn position(&self) -> &str {
        &self.position
    }

    fn to_item(&self) -> Item {
        Item::from([(SHARD.into(), string(&self.shard)), (POSITION.into(), string(&self.position))])
    }

    /// The id of the letter with this key; nothing when it is the key of no letter.
    #[cfg(feature = "cli")]
    pub(super) fn letter_id(&self) -> Option<LetterId> {
        let digits = self.position.split('/').next()?.trim_start_matches('0');
        let digits = if digits.is_empty() { "0" } else { digits };
        Some(LetterId { shard_id: self.shard.as_str().into(), sequence_number: digits.parse().ok()? })
    }

    fn of_item(item: &Item) -> Option<Self> {
        Some(Self { shard: text(item, SHARD)?.to_owned(), position: text(item, POSITION)?.to_owned() })
    }

    /// The hash key of the parts of a record with this digest.
    fn parts_key(&self, digest: &str) -> String {
        format!("{PARTS_PREFIX}{}/{}/{digest}", self.shard, self.position)
    }
}

impl DeadLetterTable {
    /// The part of the table's name behind the application's.
    pub(super) const SUFFIX: &str = "-DeadLetters";

    /// The dead letter table of an application.
    pub fn new(client: Client, app: &str) -> Self {
        Self(OwnTable::new(client, format!("{app}{}", Self::SUFFIX), TableRole::DeadLetters, &[SHARD, POSITION]))
    }

    /// The same, with a client of its own, whose time-outs leave time for records of full size.
    pub fn from_config(config: &SdkConfig, app: &str) -> Self {
        let config = aws_sdk_dynamodb::config::Builder::from(config)
            .timeout_config(timeouts())
            .retry_config(RetryConfig::standard().with_initial_backoff(Duration::from_millis(25)))
            .retry_partition(RetryPartition::new("dead-letters"))
            .interceptor(MetricsInterceptor);
        Self::new(Client::from_conf(config.build()), app)
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Waits until the table can be used; with `create`, makes it when it is missing.
    ///
    /// # Errors
    /// [`TableError::Missing`] when it is missing and `create` is false.
    pub async fn ensure(&self, create: bool) -> Result<(), TableError> {
        self.0.ensure(create).await
    }

    /// Checks that the table, if it is there, has a dead letter table's keys.
    ///
    /// # Errors
    /// [`TableError::Foreign`] when it has others.
    #[cfg(feature = "cli")]
    pub async fn check(&self) -> Result<(), TableError> {
        self.0.check().await
    }

    /// Calls `action`, such as `PutItem`, without an effect.
    ///
    /// # Errors
    /// [`TableError::Refused`] without the permission, [`TableError::Missing`] with it and without a table.
    #[cfg(feature = "cli")]
    pub async fn probe(&self, action: &'static str) -> Result<(), TableError> {
        self.0.probe(action).await
    }

    /// Keeps a letter. A letter that is there already keeps its record and the time of its first failure; the rest is
    /// replaced.
    ///
    /// # Errors
    /// When it is not known whether the letter is kept.
    pub async fn put(&self, letter: &DeadLetter) -> Result<(), TableError> {
        let key = LetterKey::of(letter);
        if letter.record.len() <= PART_BYTES {
            self.write(&key, letter, vec![(RECORD, string(&letter.record))]).await?;
            return Ok(());
        }
        while !self.update(&key, letter).await? {
            let digest = digest(&letter.record);
            let parts = split(&letter.record);
            for (number, part) in parts.iter().enumerate() {
                self.put_part(&key.parts_key(&digest), number, part).await?;
            }
            let kept = vec![
                (RECORD_PARTS, number(parts.len())),
                (RECORD_BYTES, number(letter.record.len())),
                (RECORD_DIGEST, string(&digest)),
            ];
            let item = self.write(&key, letter, kept).await?;
            if text(&item, RECORD_DIGEST) == Some(&*digest) {
                return Ok(());
            }
            // Another worker has put the same letter meanwhile, with a record that the service wrote differently.
            self.delete_parts(&key, &digest, parts.len()).await?;
        }
        Ok(())
    }

    /// A page of the table, or of one shard's letters.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn page(&self, shard: Option<&ShardId>, from: Option<Cursor>) -> Result<EntryPage, TableError> {
        let start = from.map(|Cursor(key)| key);
        let (items, next) = match shard {
            None => {
                let call = self.0.client.scan().table_name(&self.0.name).consistent_read(true);
                let call =
                    call.filter_expression("attribute_not_exists(#part)").expression_attribute_names("#part", PART);
                let page =
                    call.set_exclusive_start_key(start).send().await.map_err(|error| self.0.error("Scan", &error))?;
                (self.0.listed("Scan", page.items)?, page.last_evaluated_key)
            }
            Some(shard) => self.query(shard.as_str(), None, start).await?,
        };
        let mut entries = Vec::new();
        for item in items {
            entries.extend(self.read_entry(item).await?);
        }
        Ok(EntryPage { entries, next: next.filter(|key| !key.is_empty()).map(Cursor) })
    }

    /// The letters with this id: one, unless the application has read several streams whose shards share a name.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn find(&self, id: &LetterId) -> Result<Vec<Entry>, TableError> {
        let (mut entries, mut start) = (Vec::new(), None);
        loop {
            let (items, next) = self.query(id.shard_id.as_str(), Some(position_prefix(id)), start).await?;
            for item in items {
                entries.extend(self.read_entry(item).await?);
            }
            start = next.filter(|key| !key.is_empty());
            if start.is_none() {
                return Ok(entries);
            }
        }
    }

    /// The entry with this key, if there is one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn read(&self, key: &LetterKey) -> Result<Option<Entry>, TableError> {
        match self.0.get(key.to_item()).await? {
            Some(item) => self.read_entry(item).await,
            None => Ok(None),
        }
    }

    /// Deletes a letter. Returns whether it was there.
    ///
    /// # Errors
    /// When it is not known whether it is deleted.
    pub async fn delete(&self, key: &LetterKey) -> Result<bool, TableError> {
        let call = self.0.client.delete_item().table_name(&self.0.name).set_key(Some(key.to_item()));
        let answer = call.return_values(ReturnValue::AllOld).send().await;
        let answer = answer.map_err(|error| self.0.error("DeleteItem", &error))?;
        let Some(item) = answer.attributes.filter(|item| !item.is_empty()) else { return Ok(false) };
        if let (Some(digest), Some(count)) = (text(&item, RECORD_DIGEST), count(&item, RECORD_PARTS)) {
            self.delete_parts(key, digest, usize::try_from(count).unwrap_or_default()).await?;
        }
        Ok(true)
    }

    /// Updates a letter that is there, except its record. Returns whether it is there.
    async fn update(&self, key: &LetterKey, letter: &DeadLetter) -> Result<bool, TableError> {
        let update = Update::of(letter, Vec::new());
        let call = self.0.client.update_item().table_name(&self.0.name).set_key(Some(key.to_item()));
        let call = call.update_expression(update.expression).set_expression_attribute_values(Some(update.values));
        let names = update.names.into_iter().chain([("#shard".to_owned(), SHARD.to_owned())]).collect();
        let call = call.set_expression_attribute_names(Some(names)).condition_expression("attribute_exists(#shard)");
        match call.send().await {
            Ok(_) => Ok(true),
            Err(error) if ErrorKind::of(&error) == ErrorKind::ConditionFailed => Ok(false),
            Err(error) => Err(self.0.error("UpdateItem", &error)),
        }
    }

    /// Writes a letter whose record is in, or described by, the attributes `kept`; of these, sets only missing ones.
    /// Returns the item as it is now, if the record is only described.
    async fn write(
        &self,
        key: &LetterKey,
        letter: &DeadLetter,
        kept: Vec<(&'static str, AttributeValue)>,
    ) -> Result<Item, TableError> {
        // A record that was sent whole need not come back.
        let wanted = if kept.iter().any(|(name, _)| *name == RECORD) { ReturnValue::None } else { ReturnValue::AllNew };
        let update = Update::of(letter, kept);
        let call = self.0.client.update_item().table_name(&self.0.name).set_key(Some(key.to_item()));
        let call = call.update_expression(update.expression).set_expression_attribute_values(Some(update.values));
        let call = call.set_expression_attribute_names(Some(update.names)).return_values(wanted);
        let answer = call.send().await.map_err(|error| self.0.error("UpdateItem", &error))?;
        Ok(answer.attributes.unwrap_or_default())
    }

    async fn put_part(&self, key: &str, number: usize, part: &str) -> Result<(), TableError> {
        let item = Item::from([
            (SHARD.into(), string(key)),
            (POSITION.into(), string(part_position(number))),
            (PART.into(), string(part)),
        ]);
        let call = self.0.client.put_item().table_name(&self.0.name).set_item(Some(item));
        call.send().await.map_err(|error| self.0.error("PutItem", &error)).map(drop)
    }

    async fn delete_parts(&self, key: &LetterKey, digest: &str, count: usize) -> Result<(), TableError> {
        let parts_key = key.parts_key(digest);
        for number in 0..count {
            let call = self.0.client.delete_item().table_name(&self.0.name);
            let call = call.key(SHARD, string(&parts_key)).key(POSITION, string(part_position(number)));
            call.send().await.map_err(|error| self.0.error("DeleteItem", &error))?;
        }
        Ok(())
    }

    /// A page of one hash key's items whose sort keys begin with `prefix`.
    async fn query(
        &self,
        shard: &str,
        prefix: Option<String>,
        start: Option<Item>,
    ) -> Result<(Vec<Item>, Option<Item>), TableError> {
        let call = self.0.client.query().table_name(&self.0.name).consistent_read(true).set_exclusive_start_key(start);
        let call =
            call.expression_attribute_names("#shard", SHARD).expression_attribute_values(":shard", string(shard));
        let call = match prefix {
            None => call.key_condition_expression("#shard = :shard"),
            Some(prefix) => call
                .key_condition_expression("#shard = :shard AND begins_with(#position, :prefix)")
                .expression_attribute_names("#position", POSITION)
                .expression_attribute_values(":prefix", string(prefix)),
        };
        let page = call.send().await.map_err(|error| self.0.error("Query", &error))?;
        Ok((self.0.listed("Query", page.items)?, page.last_evaluated_key))
    }

    async fn read_entry(&self, mut item: Item) -> Result<Option<Entry>, TableError> {
        let Some(key) = LetterKey::of_item(&item) else { return Ok(None) };
        let parts = count(&item, RECORD_PARTS);
        let letter = match (item.remove(RECORD), text(&item, RECORD_DIGEST)) {
            (Some(AttributeValue::S(record)), _) => read_letter(&item, record),
            (None, Some(digest)) => match self.read_parts(&key.parts_key(digest), parts.unwrap_or_default()).await? {
                Ok(record) if count(&item, RECORD_BYTES) == u64::try_from(record.len()).ok() => {
                    read_letter(&item, record)
                }
                Ok(record) => Err(format!("its record's parts have {} bytes", record.len())),
                Err(reason) => Err(reason),
            },
            _ => Err("it has no record".to_owned()),
        };
        Ok(Some(Entry { key, letter }))
    }

    /// The text of a record that was split, or what is wrong with its parts.
    async fn read_parts(&self, key: &str, wanted: u64) -> Result<Result<String, String>, TableError> {
        let (mut record, mut found, mut start) = (String::new(), 0, None);
        loop {
            let (items, next) = self.query(key, None, start).await?;
            for item in items {
                record.push_str(text(&item, PART).unwrap_or_default());
                found += 1;
            }
            start = next.filter(|key| !key.is_empty());
            if start.is_none() {
                let is_whole = found == wanted;
                return Ok(if is_whole {
                    Ok(record)
                } else {
                    Err(format!("it has {found} of its record's {wanted} parts"))
                });
            }
        }
    }
}

impl DeadLetterQueue for DeadLetterTable {
    fn prepare(&self, create: bool) -> QueueFuture<'_, PrepareError> {
        Box::pin(async move { Ok(self.ensure(create).await?) })
    }

    fn put<'a>(&'a self, letter: &'a DeadLetter) -> QueueFuture<'a> {
        Box::pin(async move { Ok(self.put(letter).await?) })
    }
}

/// The arguments of an UpdateItem.
struct Update {
    expression: String,
    names: HashMap<String, String>,
    values: Item,
}

impl Update {
    /// Sets a letter's attributes; those in `kept`, and the time of the first failure, only where they are missing.
    fn of(letter: &DeadLetter, kept: Vec<(&'static str, AttributeValue)>) -> Self {
        let new = [
            (STREAM_ARN, string(&letter.stream_arn)),
            (SEQUENCE_NUMBER, string(letter.sequence_number.as_str())),
            (ERROR, string_or_none(&letter.error)),
            (REASON, string(letter.reason.as_str())),
            (ATTEMPTS, number(letter.attempts)),
            (LAST_FAILED_AT, number(letter.last_failed_ms)),
            (WORKER, string_or_none(&letter.worker)),
        ];
        let optional = [
            letter.event_id.as_ref().map(|id| (EVENT_ID, string_or_none(id))),
            letter.created_ms.map(|created| (CREATED_AT, number(created))),
        ];
        let mut update = Self { expression: "SET ".into(), names: HashMap::new(), values: Item::new() };
        for (name, value) in new.into_iter().chain(optional.into_iter().flatten()) {
            update.set(name, value, false);
        }
        for (name, value) in kept.into_iter().chain([(FIRST_FAILED_AT, number(letter.first_failed_ms))]) {
            update.set(name, value, true);
        }
        update
    }

    fn set(&mut self, name: &str, value: AttributeValue, if_missing: bool) {
        if !self.names.is_empty() {
            self.expression.push_str(", ");
        }
        self.expression.push_str(&match if_missing {
            true => format!("#{name} = if_not_exists(#{name}, :{name})"),
            false => format!("#{name} = :{name}"),
        });
        self.names.insert(format!("#{name}"), name.to_owned());
        self.values.insert(format!(":{name}"), value);
    }
}

/// The time-outs of calls for dead letters.
pub(super) fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .operation_attempt_timeout(CALL_LIMIT)
        .operation_timeout(CALL_LIMIT * 2)
        .build()
}

fn read_letter(item: &Item, record: String) -> Result<DeadLetter, String> {
    let lacks = |name: &str| format!("it has no {name}");
    let needed = |name: &str| text(item, name).ok_or_else(|| lacks(name));
    let sequence_number = needed(SEQUENCE_NUMBER)?.parse().map_err(|error| format!("{error}"))?;
    let known =
        |reason: &str| FailureLimit::from_word(reason).ok_or_else(|| format!("its reason {reason:?} is unknown"));
    let last_failed_ms = count(item, LAST_FAILED_AT).ok_or_else(|| lacks(LAST_FAILED_AT))?;
    Ok(DeadLetter {
        stream_arn: needed(STREAM_ARN)?.to_owned(),
        shard_id: needed(SHARD)?.into(),
        sequence_number,
        event_id: text(item, EVENT_ID).map(|id| real_text(id).to_owned()),
        record,
        error: DeadLetter::cut_error(needed(ERROR).map(real_text)?),
        reason: needed(REASON).and_then(known)?,
        attempts: count(item, ATTEMPTS).and_then(|count| count.try_into().ok()).unwrap_or(1),
        created_ms: count(item, CREATED_AT),
        first_failed_ms: count(item, FIRST_FAILED_AT).unwrap_or(last_failed_ms),
        last_failed_ms,
        worker: text(item, WORKER).map(real_text).unwrap_or_default().to_owned(),
    })
}

/// The start of the sort keys of the letters with this id.
fn position_prefix(id: &LetterId) -> String {
    format!("{}/", id.sequence_number.padded())
}

fn part_position(number: usize) -> String {
    format!("{number:08}")
}

fn split(record: &str) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), record);
    while !rest.is_empty() {
        let (part, after) = rest.split_at(rest.floor_char_boundary(PART_BYTES));
        parts.push(part);
        rest = after;
    }
    parts
}

/// A digest that differs between two texts of the same record.
fn digest(record: &str) -> String {
    format!("{:016x}", fnv1a(record))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(number: &str) -> DeadLetter {
        let number = number.parse().expect("a sequence number");
        DeadLetter::new("arn:aws:dynamodb:r:1:table/T/stream/L", "shardId-1".into(), number, "{}", "no", 5)
    }

    #[test]
    fn positions_sort_as_sequence_numbers_do_and_forget_leading_zeros() {
        let position = |number: &str| LetterKey::of(&letter(number)).position;
        assert!(position("900") < position("1000"));
        assert!(position("99") < position(&"1".repeat(40)));
        assert!(position(&"9".repeat(40)) < position(&"1".repeat(56)));
        assert_eq!(position("000341"), position("341"));
        assert!(position("341").starts_with(&position_prefix(&letter("0341").id())));
        assert!(!position("3410").starts_with(&position_prefix(&letter("341").id())));
        assert_eq!(position("0"), format!("{}/arn:aws:dynamodb:r:1:table/T/stream/L", "0".repeat(40)));
    }

    #[test]
    fn a_split_record_is_whole_again_and_no_part_is_too_long() {
        let record = "é💥x".repeat(200_000);
        let parts = split(&record);
        assert!(parts.len() == 4 && parts.iter().all(|part| part.len() <= PART_BYTES));
        assert_eq!(parts.concat(), record);
        assert_eq!(split(&"x".repeat(PART_BYTES + 1)).len(), 2);
    }

    #[test]
    fn an_item_that_lacks_something_says_what() {
        let full = Update::of(&letter("1"), Vec::new());
        let mut item: Item = full.values.into_iter().map(|(name, value)| (name[1..].to_owned(), value)).collect();
        item.extend(LetterKey::of(&letter("1")).to_item());
        assert_eq!(read_letter(&item, "{}".into()), Ok(letter("1")));
        item.insert(REASON.into(), string("mood"));
        assert!(read_letter(&item, "{}".into()).unwrap_err().contains("\"mood\""));
        item.remove(STREAM_ARN);
        assert_eq!(read_letter(&item, "{}".into()).unwrap_err(), "it has no streamArn");
    }
}
