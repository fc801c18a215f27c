//! The dead letter table, `<app>-DeadLetters`: records that were given up, one item each.
//!
//! Hash key `shard`, the shard's id; sort key `position`, the sequence number padded so that the order of the texts is
//! that of the numbers, and behind it the stream's ARN. So a shard's letters are listed in order, and one that is put
//! again meets its own item.
//!
//! A record may be larger than an item can be: it may hold two images of an item that had the full size. Such a record
//! lies in several items of their own, the parts, under a hash key that holds a digest of its text. They are written
//! before the letter's item: a letter that can be seen is whole.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};

use crate::aws::{ErrorKind, TableError, tables};
use crate::dead_letters::letter::{DeadLetter, GaveUp, LetterId};
use crate::model::fnv1a;
use crate::model::lease::ShardId;
use crate::model::sequence_number::MAX_DIGITS;

type Item = HashMap<String, AttributeValue>;

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

/// Begins the hash key of a record's parts; no shard's id holds a slash.
const PARTS_PREFIX: &str = "parts/";
/// How much of a record one item holds, in bytes: an item has at most 409,600 with its names (developer guide,
/// "Limits"), and beside the record there is the error's text.
const PART_BYTES: usize = 350_000;
/// Stands for an empty text, which some versions of DynamoDB refuse.
const NO_TEXT: &str = "-";

/// The dead letter table of an application.
#[derive(Clone, Debug)]
pub struct DeadLetterTable {
    client: Client,
    name: String,
}

/// Where in the table a letter is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    shard: String,
    position: String,
}

/// An item of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub place: Place,
    /// The letter, or why the item cannot be read as one.
    pub letter: Result<DeadLetter, String>,
}

/// Some entries, and where the listing goes on.
#[derive(Clone, Debug)]
pub struct EntryPage {
    /// The entries; those of a shard stand together, in the shard's order. May be empty although others follow.
    pub entries: Vec<Entry>,
    /// Where the next page begins, if there is one.
    pub next: Option<Cursor>,
}

/// Where a listing goes on.
#[derive(Clone, Debug)]
pub struct Cursor(Item);

impl Place {
    /// Where a letter is, or would be.
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

    fn to_key(&self) -> Item {
        Item::from([(SHARD.into(), string(&self.shard)), (POSITION.into(), string(&self.position))])
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
    /// The dead letter table of an application.
    pub fn new(client: Client, app: &str) -> Self {
        Self { client, name: format!("{app}-DeadLetters") }
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
        tables::ensure(&self.client, &self.name, &[SHARD, POSITION], create).await
    }

    /// Keeps a letter. One that is there already keeps its record and the time of its first failure, and takes over
    /// the rest.
    ///
    /// # Errors
    /// When it is not known whether the letter is kept.
    pub async fn put(&self, letter: &DeadLetter) -> Result<(), TableError> {
        let place = Place::of(letter);
        if letter.record.len() <= PART_BYTES {
            self.write(&place, letter, vec![(RECORD, string(&letter.record))]).await?;
            return Ok(());
        }
        while !self.update(&place, letter).await? {
            let digest = digest(&letter.record);
            let parts = split(&letter.record);
            for (number, part) in parts.iter().enumerate() {
                self.put_part(&place.parts_key(&digest), number, part).await?;
            }
            let kept = vec![
                (RECORD_PARTS, number(parts.len())),
                (RECORD_BYTES, number(letter.record.len())),
                (RECORD_DIGEST, string(&digest)),
            ];
            let item = self.write(&place, letter, kept).await?;
            if text(&item, RECORD_DIGEST) == Some(&*digest) {
                return Ok(());
            }
            // Another worker has put the same letter meanwhile, and the service wrote its record in another way.
            self.delete_parts(&place, &digest, parts.len()).await?;
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
                let call = self.client.scan().table_name(&self.name).consistent_read(true);
                let call =
                    call.filter_expression("attribute_not_exists(#part)").expression_attribute_names("#part", PART);
                let page =
                    call.set_exclusive_start_key(start).send().await.map_err(|error| self.error("Scan", &error))?;
                (page.items, page.last_evaluated_key)
            }
            Some(shard) => self.query(shard.as_str(), None, start).await?,
        };
        let mut entries = Vec::new();
        for item in items.unwrap_or_default() {
            entries.extend(self.read_entry(item).await?);
        }
        Ok(EntryPage { entries, next: next.filter(|key| !key.is_empty()).map(Cursor) })
    }

    /// The letters that this id names: one, unless the application has read several streams whose shards share a name.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn find(&self, id: &LetterId) -> Result<Vec<Entry>, TableError> {
        let (mut entries, mut start) = (Vec::new(), None);
        loop {
            let (items, next) = self.query(id.shard_id.as_str(), Some(position_prefix(id)), start).await?;
            for item in items.unwrap_or_default() {
                entries.extend(self.read_entry(item).await?);
            }
            start = next.filter(|key| !key.is_empty());
            if start.is_none() {
                return Ok(entries);
            }
        }
    }

    /// What is at this place, if anything.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn read(&self, place: &Place) -> Result<Option<Entry>, TableError> {
        let call = self.client.get_item().table_name(&self.name).consistent_read(true);
        let answer = call.set_key(Some(place.to_key())).send().await.map_err(|error| self.error("GetItem", &error))?;
        match answer.item {
            Some(item) => self.read_entry(item).await,
            None => Ok(None),
        }
    }

    /// Takes a letter out. Says whether it was there.
    ///
    /// # Errors
    /// When it is not known whether it is out.
    pub async fn delete(&self, place: &Place) -> Result<bool, TableError> {
        let call = self.client.delete_item().table_name(&self.name).set_key(Some(place.to_key()));
        let answer = call.return_values(ReturnValue::AllOld).send().await;
        let answer = answer.map_err(|error| self.error("DeleteItem", &error))?;
        let Some(item) = answer.attributes.filter(|item| !item.is_empty()) else { return Ok(false) };
        if let (Some(digest), Some(count)) = (text(&item, RECORD_DIGEST), count(&item, RECORD_PARTS)) {
            self.delete_parts(place, digest, usize::try_from(count).unwrap_or_default()).await?;
        }
        Ok(true)
    }

    /// Writes what is new of a letter that is there; says whether it is.
    async fn update(&self, place: &Place, letter: &DeadLetter) -> Result<bool, TableError> {
        let update = Update::of(letter, Vec::new());
        let call = self.client.update_item().table_name(&self.name).set_key(Some(place.to_key()));
        let call = call.update_expression(update.expression).set_expression_attribute_values(Some(update.values));
        let names = update.names.into_iter().chain([("#shard".to_owned(), SHARD.to_owned())]).collect();
        let call = call.set_expression_attribute_names(Some(names)).condition_expression("attribute_exists(#shard)");
        match call.send().await {
            Ok(_) => Ok(true),
            Err(error) if ErrorKind::of(&error) == ErrorKind::ConditionFailed => Ok(false),
            Err(error) => Err(self.error("UpdateItem", &error)),
        }
    }

    /// Writes a letter whose record is in, or described by, the attributes `kept`, where these are not there yet.
    /// Returns the item as it is now, if the record is only described.
    async fn write(
        &self,
        place: &Place,
        letter: &DeadLetter,
        kept: Vec<(&'static str, AttributeValue)>,
    ) -> Result<Item, TableError> {
        // A record that was sent whole need not come back.
        let wanted = if kept.iter().any(|(name, _)| *name == RECORD) { ReturnValue::None } else { ReturnValue::AllNew };
        let update = Update::of(letter, kept);
        let call = self.client.update_item().table_name(&self.name).set_key(Some(place.to_key()));
        let call = call.update_expression(update.expression).set_expression_attribute_values(Some(update.values));
        let call = call.set_expression_attribute_names(Some(update.names)).return_values(wanted);
        let answer = call.send().await.map_err(|error| self.error("UpdateItem", &error))?;
        Ok(answer.attributes.unwrap_or_default())
    }

    async fn put_part(&self, key: &str, number: usize, part: &str) -> Result<(), TableError> {
        let item = Item::from([
            (SHARD.into(), string(key)),
            (POSITION.into(), string(part_position(number))),
            (PART.into(), string(part)),
        ]);
        let call = self.client.put_item().table_name(&self.name).set_item(Some(item));
        call.send().await.map_err(|error| self.error("PutItem", &error)).map(drop)
    }

    async fn delete_parts(&self, place: &Place, digest: &str, count: usize) -> Result<(), TableError> {
        let key = place.parts_key(digest);
        for number in 0..count {
            let call = self.client.delete_item().table_name(&self.name);
            let call = call.key(SHARD, string(&key)).key(POSITION, string(part_position(number)));
            call.send().await.map_err(|error| self.error("DeleteItem", &error))?;
        }
        Ok(())
    }

    /// A page of one hash key's items, whose sort key begins with `prefix`.
    async fn query(
        &self,
        shard: &str,
        prefix: Option<String>,
        start: Option<Item>,
    ) -> Result<(Option<Vec<Item>>, Option<Item>), TableError> {
        let call = self.client.query().table_name(&self.name).consistent_read(true).set_exclusive_start_key(start);
        let call =
            call.expression_attribute_names("#shard", SHARD).expression_attribute_values(":shard", string(shard));
        let call = match prefix {
            None => call.key_condition_expression("#shard = :shard"),
            Some(prefix) => call
                .key_condition_expression("#shard = :shard AND begins_with(#position, :prefix)")
                .expression_attribute_names("#position", POSITION)
                .expression_attribute_values(":prefix", string(prefix)),
        };
        let page = call.send().await.map_err(|error| self.error("Query", &error))?;
        Ok((page.items, page.last_evaluated_key))
    }

    async fn read_entry(&self, mut item: Item) -> Result<Option<Entry>, TableError> {
        let Some(place) = Place::of_item(&item) else { return Ok(None) };
        let parts = count(&item, RECORD_PARTS);
        let letter = match (item.remove(RECORD), text(&item, RECORD_DIGEST)) {
            (Some(AttributeValue::S(record)), _) => read_letter(&item, record),
            (None, Some(digest)) => match self.read_parts(&place.parts_key(digest), parts.unwrap_or_default()).await? {
                Ok(record) if count(&item, RECORD_BYTES) == u64::try_from(record.len()).ok() => {
                    read_letter(&item, record)
                }
                Ok(record) => Err(format!("of its record's parts there are {} bytes", record.len())),
                Err(reason) => Err(reason),
            },
            _ => Err("it has no record".to_owned()),
        };
        Ok(Some(Entry { place, letter }))
    }

    /// The text of a record that lies in parts; in words what is wrong with them.
    async fn read_parts(&self, key: &str, wanted: u64) -> Result<Result<String, String>, TableError> {
        let (mut record, mut found, mut start) = (String::new(), 0, None);
        loop {
            let (items, next) = self.query(key, None, start).await?;
            for item in items.unwrap_or_default() {
                record.push_str(text(&item, PART).unwrap_or_default());
                found += 1;
            }
            start = next.filter(|key| !key.is_empty());
            if start.is_none() {
                let is_whole = found == wanted;
                return Ok(if is_whole {
                    Ok(record)
                } else {
                    Err(format!("of its record's {wanted} parts there are {found}"))
                });
            }
        }
    }

    fn error<E, R>(&self, operation: &'static str, error: &SdkError<E, R>) -> TableError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: std::fmt::Debug,
    {
        TableError::new(operation, &self.name, error)
    }
}

/// What an UpdateItem takes.
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

fn read_letter(item: &Item, record: String) -> Result<DeadLetter, String> {
    let needed = |name: &str| text(item, name).ok_or_else(|| format!("it has no {name}"));
    let shard: ShardId = needed(SHARD)?.into();
    let digits = needed(SEQUENCE_NUMBER)?;
    let sequence_number = digits.parse().map_err(|error| format!("{error}"))?;
    let error = needed(ERROR).map(real_text)?;
    let last_failed_ms = count(item, LAST_FAILED_AT).ok_or_else(|| format!("it has no {LAST_FAILED_AT}"))?;
    let mut letter = DeadLetter::new(needed(STREAM_ARN)?, shard, sequence_number, record, error, last_failed_ms);
    let reason = needed(REASON)?;
    letter.reason = GaveUp::from_word(reason).ok_or_else(|| format!("{reason:?} is no reason to give a record up"))?;
    letter.event_id = text(item, EVENT_ID).map(|id| real_text(id).to_owned());
    letter.attempts = count(item, ATTEMPTS).and_then(|count| count.try_into().ok()).unwrap_or(1);
    letter.created_ms = count(item, CREATED_AT);
    letter.first_failed_ms = count(item, FIRST_FAILED_AT).unwrap_or(last_failed_ms);
    letter.worker = text(item, WORKER).map(real_text).unwrap_or_default().to_owned();
    Ok(letter)
}

/// What the sort keys of the letters with this id begin with.
fn position_prefix(id: &LetterId) -> String {
    let digits = id.sequence_number.as_str().trim_start_matches('0');
    format!("{digits:0>MAX_DIGITS$}/")
}

fn part_position(number: usize) -> String {
    format!("{number:08}")
}

/// The record's parts, each as long as an item allows.
fn split(record: &str) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), record);
    while !rest.is_empty() {
        let (part, after) = rest.split_at(rest.floor_char_boundary(PART_BYTES));
        parts.push(part);
        rest = after;
    }
    parts
}

/// Tells two ways of writing a record apart.
fn digest(record: &str) -> String {
    format!("{:016x}", fnv1a(record))
}

fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name).and_then(|value| value.as_s().ok()).map(String::as_str)
}

fn count(item: &Item, name: &str) -> Option<u64> {
    item.get(name).and_then(|value| value.as_n().ok()).and_then(|digits| digits.parse().ok())
}

fn string(value: impl AsRef<str>) -> AttributeValue {
    AttributeValue::S(value.as_ref().to_owned())
}

fn string_or_none(value: &str) -> AttributeValue {
    string(if value.is_empty() { NO_TEXT } else { value })
}

fn real_text(text: &str) -> &str {
    if text == NO_TEXT { "" } else { text }
}

fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
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
        let position = |number: &str| Place::of(&letter(number)).position;
        assert!(position("900") < position("1000"));
        assert!(position("99") < position(&"1".repeat(MAX_DIGITS)));
        assert_eq!(position("000341"), position("341"));
        assert!(position("341").starts_with(&position_prefix(&letter("0341").id())));
        assert!(!position("3410").starts_with(&position_prefix(&letter("341").id())));
        assert_eq!(position("0"), format!("{}/arn:aws:dynamodb:r:1:table/T/stream/L", "0".repeat(MAX_DIGITS)));
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
        item.extend(Place::of(&letter("1")).to_key());
        assert_eq!(read_letter(&item, "{}".into()), Ok(letter("1")));
        item.insert(REASON.into(), string("mood"));
        assert!(read_letter(&item, "{}".into()).unwrap_err().contains("\"mood\""));
        item.remove(STREAM_ARN);
        assert_eq!(read_letter(&item, "{}".into()).unwrap_err(), "it has no streamArn");
    }
}
