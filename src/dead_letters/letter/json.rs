//! A dead letter as JSON: one object, one line, the record in it as the service sent it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{DeadLetter, FailureLimit};

/// A text that is no dead letter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// It is not JSON, or lacks a member.
    #[error(transparent)]
    Malformed(#[from] serde_json::Error),
    /// A member has an unknown value.
    #[error("{0}")]
    Unknown(String),
}

/// All members but the record, which comes last, so that the start of a line says what happened.
#[derive(Serialize, Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    stream_arn: Cow<'a, str>,
    #[serde(borrow)]
    shard_id: Cow<'a, str>,
    #[serde(borrow)]
    sequence_number: Cow<'a, str>,
    event_id: Option<String>,
    reason: Cow<'a, str>,
    attempts: u32,
    error: String,
    created_ms: Option<u64>,
    first_failed_ms: u64,
    last_failed_ms: u64,
    worker: String,
}

#[derive(Deserialize)]
struct RecordOnly<'a> {
    #[serde(borrow)]
    record: &'a RawValue,
}

impl DeadLetter {
    /// One JSON object on one line: `id`, the letter's fields under their names, and last the record as it came. Line
    /// breaks between a record's tokens, which DynamoDB does not send, are dropped.
    pub fn to_json(&self) -> String {
        let mut json = self.open_head();
        json.push_str(r#","record":"#);
        // A line break inside a JSON string is always escaped.
        json.extend(self.record.split(['\n', '\r']));
        json.push('}');
        json
    }

    /// The same object with a member `record_in`, the JSON value `elsewhere`, instead of the record.
    pub fn to_json_without_record(&self, elsewhere: &str) -> String {
        let mut json = self.open_head();
        json.push_str(r#","record_in":"#);
        json.push_str(elsewhere);
        json.push('}');
        json
    }

    /// Reads the output of [`DeadLetter::to_json`]. Unknown members are ignored.
    ///
    /// # Errors
    /// When the text is not JSON, lacks a member or has an unknown value.
    pub fn from_json(text: &str) -> Result<Self, JsonError> {
        // Two passes, so that the record is not decoded: it may hold what serde_json would refuse.
        let head: Head<'_> = serde_json::from_str(text)?;
        let RecordOnly { record } = serde_json::from_str(text)?;
        let sequence_number = head.sequence_number.parse().map_err(|error| JsonError::Unknown(format!("{error}")))?;
        let reason = FailureLimit::from_word(&head.reason)
            .ok_or_else(|| JsonError::Unknown(format!("the reason {:?} is unknown", head.reason)))?;
        Ok(Self {
            stream_arn: head.stream_arn.into_owned(),
            shard_id: (*head.shard_id).into(),
            sequence_number,
            event_id: head.event_id,
            record: record.get().to_owned(),
            error: Self::cut_error(&head.error),
            reason,
            attempts: head.attempts,
            created_ms: head.created_ms,
            first_failed_ms: head.first_failed_ms,
            last_failed_ms: head.last_failed_ms,
            worker: head.worker,
        })
    }

    /// The object without its last member and its closing bracket.
    fn open_head(&self) -> String {
        let head = Head {
            id: self.id().to_string().into(),
            stream_arn: (&self.stream_arn).into(),
            shard_id: self.shard_id.as_str().into(),
            sequence_number: self.sequence_number.as_str().into(),
            event_id: self.event_id.clone(),
            reason: self.reason.as_str().into(),
            attempts: self.attempts,
            error: self.error.clone(),
            created_ms: self.created_ms,
            first_failed_ms: self.first_failed_ms,
            last_failed_ms: self.last_failed_ms,
            worker: self.worker.clone(),
        };
        let mut json = serde_json::to_string(&head).expect("strings and numbers are always JSON");
        json.pop();
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(record: &str) -> DeadLetter {
        let mut letter = DeadLetter::new(
            "arn:aws:dynamodb:eu-west-1:1:table/Phones/stream/x",
            "shardId-1".into(),
            "0042".parse().expect("a sequence number"),
            record,
            "line one\nline \"two\" \u{1F4A5}",
            7_000,
        );
        letter.event_id = Some("e-1".into());
        letter.reason = FailureLimit::Age;
        letter.attempts = 9;
        letter.created_ms = Some(5_000);
        letter.first_failed_ms = 6_000;
        letter.worker = "w-1".into();
        letter
    }

    #[test]
    fn a_letter_reads_back_with_its_record_byte_for_byte() {
        let record =
            r#"{"b" : 1.0e3,"a":"\u0041 \n \ud83d\udca5 \ud800","dynamodb":{"SequenceNumber":"0042","N":1e999}}"#;
        let written = letter(record);
        let json = written.to_json();
        assert!(!json.contains('\n'), "{json}");
        assert!(json.contains(&format!(r#","record":{record}}}"#)), "{json}");
        assert!(json.starts_with(r#"{"id":"shardId-1/0042","stream_arn":"#), "{json}");
        assert_eq!(DeadLetter::from_json(&json).expect("a letter"), written);
    }

    #[test]
    fn only_line_breaks_between_tokens_are_lost() {
        let json = letter("{\r\n  \"a\" : \"x\\ny\"\n}").to_json();
        let read = DeadLetter::from_json(&json).expect("a letter");
        assert_eq!(read.record, "{  \"a\" : \"x\\ny\"}");
    }

    #[test]
    fn a_letter_without_its_record_names_the_place_of_the_record() {
        let json = letter("{}").to_json_without_record(r#"{"table":"audit-DeadLetters"}"#);
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(value["record_in"]["table"], "audit-DeadLetters");
        assert_eq!((&value["record"], &value["attempts"]), (&serde_json::Value::Null, &9.into()));
        assert!(DeadLetter::from_json(&json).unwrap_err().to_string().contains("record"));
    }

    #[test]
    fn a_text_that_is_no_letter_is_refused_with_the_reason() {
        for (text, words) in [
            ("", "EOF"),
            ("{}", "missing field"),
            (&letter("{}").to_json().replace("age", "mood"), "the reason \"mood\" is unknown"),
            (&letter("{}").to_json().replace(r#"number":"0042"#, r#"number":"x"#), "not a sequence number"),
        ] {
            let error = DeadLetter::from_json(text).expect_err(text).to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
