//! A dead letter: a whole record that the failure policy stopped retrying, with a description of its failure.

mod json;

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use crate::model::lease::ShardId;
use crate::model::record::{DecodeError, Page, RecordBatch};
use crate::model::sequence_number::SequenceNumber;

/// A record that could not be processed within the limits of the failure policy.
///
/// The stream, the shard and the sequence number are its identity: a record that is dead-lettered again, after a crash,
/// is the same dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The stream's ARN.
    pub stream_arn: String,
    /// The shard.
    pub shard_id: ShardId,
    /// The record's position in the shard.
    pub sequence_number: SequenceNumber,
    /// The service's id of the change, if the record has one.
    pub event_id: Option<String>,
    /// The record as JSON, byte for byte as the service sent it.
    pub record: String,
    /// The last error, cut to [`DeadLetter::MAX_ERROR_BYTES`].
    pub error: String,
    /// The limit that ended the attempts.
    pub reason: FailureLimit,
    /// Calls of the processor with the record.
    pub attempts: u32,
    /// The time of its change (ms since the epoch; the service gives whole seconds), if the record has one.
    pub created_ms: Option<u64>,
    /// The time of its first failure (ms since the epoch).
    pub first_failed_ms: u64,
    /// The time of its last failure (ms since the epoch).
    pub last_failed_ms: u64,
    /// The id of the worker that dead-lettered it.
    pub worker: String,
}

/// The reason that the attempts with a record ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureLimit {
    /// The most attempts.
    Attempts,
    /// The record's greatest age.
    Age,
    /// The processor's word that no retry would help.
    Rejected,
}

impl DeadLetter {
    /// The most that a letter keeps of an error's text.
    pub const MAX_ERROR_BYTES: usize = 4096;

    /// A letter of one attempt, which failed at `failed_ms`; its other fields can be set afterwards. For tests of a
    /// [`DeadLetterQueue`](crate::DeadLetterQueue).
    pub fn new(
        stream_arn: impl Into<String>,
        shard_id: ShardId,
        sequence_number: SequenceNumber,
        record: impl Into<String>,
        error: &str,
        failed_ms: u64,
    ) -> Self {
        Self {
            stream_arn: stream_arn.into(),
            shard_id,
            sequence_number,
            event_id: None,
            record: record.into(),
            error: Self::cut_error(error),
            reason: FailureLimit::Attempts,
            attempts: 1,
            created_ms: None,
            first_failed_ms: failed_ms,
            last_failed_ms: failed_ms,
            worker: String::new(),
        }
    }

    /// The part of an error's text that a letter keeps.
    pub(crate) fn cut_error(text: &str) -> String {
        text[..text.floor_char_boundary(Self::MAX_ERROR_BYTES)].to_owned()
    }

    /// The letter's name in its stream.
    pub fn id(&self) -> LetterId {
        LetterId { shard_id: self.shard_id.clone(), sequence_number: self.sequence_number.clone() }
    }

    /// The record as a batch of one, for a processor.
    ///
    /// # Errors
    /// When the kept text is not a record, or holds more than one.
    pub fn to_batch(&self) -> Result<RecordBatch, BadRecord> {
        let page = [r#"{"Records":["#, &self.record, "]}"].concat();
        let records = Page::decode(Bytes::from(page))?.records;
        if records.len() != 1 {
            return Err(BadRecord::Count(records.len()));
        }
        Ok(records)
    }

    /// The key of the item that the record changed.
    ///
    /// # Errors
    /// When the kept text is not a record.
    pub fn item_key(&self) -> Result<ItemKey, BadRecord> {
        let records = self.to_batch()?;
        let hash = records.first().map(|record| record.key_hash()).unwrap_or_default();
        // arn:aws:dynamodb:REGION:ACCOUNT:table/NAME/stream/LABEL: a table may have had several streams.
        let table = self.stream_arn.split("/stream/").next().unwrap_or_default();
        Ok(ItemKey(table.to_owned(), hash))
    }
}

/// An item's table and a hash of its primary key. Two items with the same hash only wait for each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ItemKey(String, u64);

impl ItemKey {
    /// The key of a letter that holds no readable record: no other letter has it.
    pub fn unique_to(letter: &DeadLetter) -> Self {
        Self(format!("{}/{}", letter.stream_arn, letter.id()), 0)
    }
}

/// A letter whose text is not one record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadRecord {
    /// The text is not a record.
    #[error("the kept text is not a record: {0}")]
    Malformed(#[from] DecodeError),
    /// The text holds no record, or more than one.
    #[error("the kept text holds {0} records, not one")]
    Count(usize),
}

/// A letter's name in its stream: `SHARD_ID/SEQUENCE_NUMBER`, both as in the worker's log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LetterId {
    /// The shard.
    pub shard_id: ShardId,
    /// The record's position in the shard.
    pub sequence_number: SequenceNumber,
}

/// A text that names no letter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no dead letter; write SHARD_ID/SEQUENCE_NUMBER, as `dead-letters list` shows it")]
pub struct BadLetterId(String);

impl FromStr for LetterId {
    type Err = BadLetterId;

    fn from_str(text: &str) -> Result<Self, BadLetterId> {
        let (shard, digits) = text.split_once('/').ok_or_else(|| BadLetterId(text.to_owned()))?;
        match digits.parse() {
            Ok(sequence_number) if !shard.is_empty() => Ok(Self { shard_id: shard.into(), sequence_number }),
            _ => Err(BadLetterId(text.to_owned())),
        }
    }
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.shard_id, self.sequence_number)
    }
}

impl FailureLimit {
    /// One word: `attempts` or `age`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::Age => "age",
            Self::Rejected => "rejected",
        }
    }

    /// The limit with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Attempts, Self::Age, Self::Rejected].into_iter().find(|reason| reason.as_str() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(stream: &str, record: &str) -> DeadLetter {
        let stream = format!("arn:aws:dynamodb:eu-west-1:1:table/Phones/stream/{stream}");
        let number = "0042".parse().expect("a sequence number");
        DeadLetter::new(stream, "shardId-1".into(), number, record, "no", 1)
    }

    #[test]
    fn an_id_reads_back_and_leading_zeros_name_the_same_letter() {
        let id = letter("1", "{}").id();
        assert_eq!(id.to_string(), "shardId-1/0042");
        assert_eq!(id.to_string().parse(), Ok(id.clone()));
        assert_eq!("shardId-1/42".parse(), Ok(id));
        for wrong in ["", "shardId-1", "/42", "shardId-1/", "shardId-1/x", "shardId-1/42/1"] {
            assert!(wrong.parse::<LetterId>().unwrap_err().to_string().contains("SHARD_ID/SEQUENCE_NUMBER"));
        }
    }

    #[test]
    fn the_changes_of_one_item_share_a_key_however_it_is_written() {
        let first =
            r#"{"dynamodb":{"SequenceNumber":"1","Keys":{"a":{"S":"x"},"b":{"N":"1"}},"NewImage":{"z":{"S":"1"}}}}"#;
        let again = r#"{"dynamodb":{"Keys":{"b":{"N":"1"},"a":{"S":"\u0078"}},"SequenceNumber":"2"}}"#;
        let other = r#"{"dynamodb":{"SequenceNumber":"1","Keys":{"a":{"N":"1"},"b":{"S":"x"}}}}"#;
        let key = |stream, record| letter(stream, record).item_key().expect("a record");
        assert_eq!(key("1", first), key("2", again));
        assert_ne!(key("1", first), key("1", other));
    }

    #[test]
    fn what_is_not_one_record_is_refused() {
        for text in ["", "[]", r#"{"dynamodb":{}}"#] {
            assert!(letter("1", text).to_batch().is_err(), "{text}");
        }
        let record = r#"{"dynamodb":{"SequenceNumber":"1"}}"#;
        let two = format!("{record},{record}");
        assert_eq!(letter("1", &two).to_batch().unwrap_err(), BadRecord::Count(2));
        let batch = letter("1", record).to_batch().expect("a record");
        assert_eq!(batch.first().map(|record| record.json().to_owned()), Some(record.to_owned()));
    }
}
