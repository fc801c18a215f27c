//! Records as AWS Lambda hands them to a function that is subscribed to a stream.
//!
//! Lambda's event is the service's records with little added and less changed: each record says which stream it is
//! from, and an identity's members begin with small letters (Lambda developer guide, "Using AWS Lambda with Amazon
//! DynamoDB"; DynamoDB developer guide, "DynamoDB Streams and Time to Live"). So the service's bytes go into the event
//! as they came, but for those places.

use super::{Record, RecordBatch};

/// Whole numbers up to here are exact in the numbers that JSON's readers have.
const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;

/// Makes the events of one stream.
#[derive(Clone, Debug)]
pub struct LambdaEvents {
    /// The end of each record: the member that names the stream, and the bracket.
    ending: String,
}

impl LambdaEvents {
    /// Events of the stream with this ARN.
    pub fn new(stream_arn: &str) -> Self {
        let arn = serde_json::Value::from(stream_arn);
        Self { ending: format!(",\"eventSourceARN\":{arn}}}") }
    }

    /// The event of a batch: `{"Records":[…]}`, in UTF-8.
    ///
    /// `ApproximateCreationDateTime` is in seconds, as the API has it, and written without fraction and exponent where
    /// it is whole: a service may write 1.48E9, which not every language takes for the whole number that it is.
    pub fn event(&self, records: &RecordBatch) -> Vec<u8> {
        const START: &[u8] = b"{\"Records\":[";
        let size = START.len() + records.bytes_len() + records.len() * (self.ending.len() + 16) + 2;
        let mut event = Vec::with_capacity(size);
        event.extend_from_slice(START);
        for (index, record) in records.iter().enumerate() {
            if index > 0 {
                event.push(b',');
            }
            self.write(&record, &mut event);
        }
        event.extend_from_slice(b"]}");
        event
    }

    fn write(&self, record: &Record<'_>, event: &mut Vec<u8>) {
        write_changed(record, time_change(record), event);
        // A record is an object with a member at least, that of its sequence number: a comma may follow it.
        event.pop();
        event.extend_from_slice(self.ending.as_bytes());
    }
}

/// Writes a record as the DynamoDB Streams Kinesis Adapter hands it to processors in other languages: its time is in
/// whole milliseconds, and an identity's members begin with small letters (`RecordObjectMapper`).
#[cfg(feature = "cli")]
pub fn write_adapter_json(record: &Record<'_>, json: &mut Vec<u8>) {
    let time = record.created_ms().zip(time_place(record)).map(|(created_ms, (start, end, _))| Change {
        start,
        end,
        text: created_ms.to_string(),
    });
    write_changed(record, time, json);
}

/// Writes a record with the changes that both forms have, and its time changed so.
fn write_changed(record: &Record<'_>, time: Option<Change>, event: &mut Vec<u8>) {
    let json = record.json();
    let mut changes = identity_changes(record);
    changes.extend(time);
    changes.sort_by_key(|change| change.start);
    let mut copied = 0;
    for change in changes {
        event.extend_from_slice(&json.as_bytes()[copied..change.start]);
        event.extend_from_slice(change.text.as_bytes());
        copied = change.end;
    }
    event.extend_from_slice(&json.as_bytes()[copied..]);
}

/// A part of a record's JSON, by bytes from its start, and what stands there in the event.
struct Change {
    start: usize,
    end: usize,
    text: String,
}

/// The record's time, where it is a whole number that is not written like one.
fn time_change(record: &Record<'_>) -> Option<Change> {
    let (start, end, number) = time_place(record)?;
    if number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: f64 = number.parse().ok()?;
    let is_whole = seconds.fract() == 0.0 && seconds.abs() < LARGEST_EXACT;
    is_whole.then(|| Change { start, end, text: format!("{}", seconds as i64) })
}

/// The place and the text of the record's time.
///
/// The page was checked as a whole, so an error can only mean that there is no such member, here and below.
fn time_place<'a>(record: &Record<'a>) -> Option<(usize, usize, &'a str)> {
    let (mut scanner, base) = record.scanner();
    scanner.enter_member("dynamodb").ok()??;
    scanner.enter_member("ApproximateCreationDateTime").ok()??;
    scanner.peek().ok()?;
    let start = scanner.at();
    let number = scanner.number().ok()?;
    Some((start - base, scanner.at() - base, number))
}

/// The members of the record's identity that begin with a capital letter, as in the API's model.
fn identity_changes(record: &Record<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    let Some((mut scanner, base)) = record.identity_scanner() else { return changes };
    let mut pass = || {
        let mut first = true;
        scanner.open(b'{', "expected an identity")?;
        while let Some(name) = scanner.next_member(&mut first)? {
            let small = match &*scanner.value_of(name)? {
                "PrincipalId" => Some("principalId"),
                "Type" => Some("type"),
                _ => None,
            };
            let change = |text: &str| Change { start: name.start - base, end: name.end - base, text: text.to_owned() };
            changes.extend(small.map(change));
            scanner.skip_value()?;
        }
        Ok::<(), super::DecodeError>(())
    };
    let passed = pass();
    debug_assert!(passed.is_ok(), "identities are checked when their page is decoded");
    changes
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;
    use crate::model::record::Page;

    const ARN: &str = "arn:aws:dynamodb:eu-west-1:123456789012:table/Phones/stream/2026-01-31T12:00:00.000";

    fn event(records: &str) -> String {
        let page = Page::decode(Bytes::from(format!(r#"{{"Records":[{records}]}}"#))).expect("a page");
        String::from_utf8(LambdaEvents::new(ARN).event(&page.records)).expect("utf-8")
    }

    #[test]
    fn a_record_goes_into_the_event_byte_for_byte_with_its_stream() {
        let record = r#"{"eventID":"e","dynamodb" : {"ApproximateCreationDateTime":1428537600,"Keys":{"Id":{"N":"101"}},
            "NewImage":{"a":{"S":"\u00e9\"}"}},"SequenceNumber":"111","SizeBytes":26}, "new":[1e3]}"#;
        let whole = record.strip_suffix('}').expect("an object");
        let expected =
            format!(r#"{{"Records":[{whole},"eventSourceARN":"{ARN}"}},{whole},"eventSourceARN":"{ARN}"}}]}}"#);
        assert_eq!(event(&format!("{record},{record}")), expected);
    }

    #[test]
    fn no_records_are_an_event_without_records() {
        assert_eq!(event(""), r#"{"Records":[]}"#);
    }

    #[test]
    fn whole_seconds_are_written_as_whole_numbers_and_others_are_left_alone() {
        for (sent, expected) in [
            ("1428537600", "1428537600"),
            ("1428537600.0", "1428537600"),
            ("1.4285376E9", "1428537600"),
            ("1.4285376005E9", "1.4285376005E9"),
            ("null", "null"),
        ] {
            let sent = format!(r#"{{"dynamodb":{{"ApproximateCreationDateTime": {sent} ,"SequenceNumber":"1"}}}}"#);
            let expected = format!(r#""ApproximateCreationDateTime": {expected} ,"#);
            assert!(event(&sent).contains(&expected), "{sent}: {}", event(&sent));
        }
    }

    #[cfg(feature = "cli")]
    #[test]
    fn the_adapters_form_has_milliseconds_and_keeps_the_other_bytes() {
        let identity = r#""userIdentity":{"PrincipalId":"p","Type":"Service"}"#;
        for (sent, expected) in [("1428537600", "1428537600000"), ("1.4285376E9", "1428537600000")] {
            let time = |number: &str| format!(r#""ApproximateCreationDateTime" : {number} ,"SequenceNumber":"1""#);
            let record = format!(r#"{{"eventID":"e","dynamodb":{{{}}},{identity}}}"#, time(sent));
            let page = Page::decode(Bytes::from(format!(r#"{{"Records":[{record}]}}"#))).expect("a page");
            let mut json = Vec::new();
            write_adapter_json(&page.records.first().expect("a record"), &mut json);
            let identity = identity.replace("PrincipalId", "principalId").replace("Type", "type");
            let expected = format!(r#"{{"eventID":"e","dynamodb":{{{}}},{identity}}}"#, time(expected));
            assert_eq!(String::from_utf8(json).unwrap(), expected);
        }
    }

    #[test]
    fn an_identity_has_lambdas_spelling_wherever_it_stands() {
        let identity = r#""userIdentity":{"PrincipalId":"dynamodb.amazonaws.com","Type":"Service","extra":{"Type":1}}"#;
        let stream_record = r#""dynamodb":{"ApproximateCreationDateTime":1.5E9,"SequenceNumber":"1"}"#;
        for record in [format!("{{{identity},{stream_record}}}"), format!("{{{stream_record},{identity}}}")] {
            let event: Value = serde_json::from_str(&event(&record)).expect("json");
            let expected = json!({"principalId": "dynamodb.amazonaws.com", "type": "Service", "extra": {"Type": 1}});
            assert_eq!(event["Records"][0]["userIdentity"], expected);
            assert_eq!(event["Records"][0]["dynamodb"]["ApproximateCreationDateTime"], 1_500_000_000);
            assert_eq!(event["Records"][0]["eventSourceARN"], ARN);
        }
    }
}
