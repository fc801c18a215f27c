//! Pages that decode, and bodies that are refused.

use bytes::Bytes;

use super::*;
use crate::model::sequence_number::SequenceNumber;

fn decode(body: &str) -> Result<Page, DecodeError> {
    Page::decode(Bytes::copy_from_slice(body.as_bytes()))
}

fn what(body: &str) -> &'static str {
    decode(body).expect_err(body).what()
}

fn number(digits: &str) -> SequenceNumber {
    digits.parse().expect("a sequence number")
}

/// A page of records with these sequence numbers.
fn page_of(numbers: &[&str]) -> RecordBatch {
    let record = |number: &&str| format!(r#"{{"dynamodb":{{"SequenceNumber":"{number}"}}}}"#);
    let records: Vec<String> = numbers.iter().map(record).collect();
    decode(&format!(r#"{{"Records":[{}]}}"#, records.join(","))).expect("a page").records
}

fn numbers(batch: &RecordBatch) -> Vec<&str> {
    batch.iter().map(|record| record.sequence_number()).collect()
}

const MODIFY: &str = r#"{"eventID":"e1","eventName":"MODIFY","eventVersion":"1.1","eventSource":"aws:dynamodb","awsRegion":"eu-central-1",
 "dynamodb":{"ApproximateCreationDateTime":1.7637276E9,"Keys":{"Company":{"S":"N\u00f6kia"},"Id":{"B":"AQI="}},
 "NewImage":{"Size":{"N":"5"},"x":{"L":[{"NULL":true}]}},"OldImage":{},"SequenceNumber":"000000000000000000341","SizeBytes":59,
 "StreamViewType":"NEW_AND_OLD_IMAGES"},"foreign":[{"a":1e3}]}"#;

#[test]
fn a_record_gives_all_that_the_service_sent() {
    let page = decode(&format!(r#"{{"NextShardIterator":"a\/b","Records":[ {MODIFY} ]}}"#)).unwrap();
    assert_eq!(page.next_shard_iterator.as_deref(), Some("a/b"));
    let record = page.records.first().unwrap();
    assert_eq!(record.json(), MODIFY);
    assert_eq!(page.records.bytes_len(), MODIFY.len());
    assert_eq!(record.event_id(), Some("e1"));
    assert_eq!(record.idempotency_key(), "e1");
    assert_eq!(record.event_name(), EventName::Modify);
    assert_eq!(record.event_version().as_deref(), Some("1.1"));
    assert_eq!(record.event_source().as_deref(), Some("aws:dynamodb"));
    assert_eq!(record.aws_region().as_deref(), Some("eu-central-1"));
    assert_eq!(record.stream_view_type().as_deref(), Some("NEW_AND_OLD_IMAGES"));
    assert_eq!(record.sequence_number(), "000000000000000000341");
    assert_eq!(record.created_at_secs(), Some(1_763_727_600.0));
    assert_eq!(record.size_bytes(), Some(59));
    assert_eq!(record.keys().get("Company").and_then(Value::as_s), Some("Nökia"));
    assert_eq!(record.keys().get("Id"), Some(&Value::B(vec![1, 2])));
    assert_eq!(record.keys_json(), Some(r#"{"Company":{"S":"N\u00f6kia"},"Id":{"B":"AQI="}}"#));
    let new_image = record.new_image().unwrap().unwrap();
    assert_eq!(new_image.get("x"), Some(&Value::L(vec![Value::Null])));
    assert_eq!(record.old_image_json(), Some("{}"));
    assert!(record.old_image().unwrap().unwrap().is_empty());
    assert_eq!(record.user_identity(), None);
    assert!(!record.is_ttl_delete());
}

#[test]
fn escapes_in_any_name_or_string_are_understood() {
    let body = r#"{"R\u0065cords":[{"\u0065ventID":"a\"b","eventName":"IN\u0053ERT","dynamodb":{"\u0053equenceNumber":"\u0031\u0032"}},
        {"dynamodb":{"SequenceNumber":"1\u0033"}}]}"#;
    let batch = decode(body).unwrap().records;
    let record = batch.first().unwrap();
    assert_eq!(record.event_id(), Some("a\"b"));
    assert_eq!(record.event_name(), EventName::Insert);
    assert_eq!(numbers(&batch), ["12", "13"]);
    assert!(record.json().ends_with(r#""\u0031\u0032"}}"#));
}

#[test]
fn absent_and_null_members_are_none() {
    for dynamodb in [
        r#"{"SequenceNumber":"1"}"#,
        r#"{"SequenceNumber":"1","Keys":null,"NewImage":null,"OldImage":null,"SizeBytes":null,"ApproximateCreationDateTime":null,"StreamViewType":null}"#,
    ] {
        let batch = decode(&format!(
            r#"{{"Records":[{{"dynamodb":{dynamodb},"eventID":null,"eventName":null,"userIdentity":null}}]}}"#
        ))
        .unwrap()
        .records;
        let record = batch.first().unwrap();
        assert_eq!(record.event_id(), None);
        assert_eq!(record.event_name(), EventName::Other);
        assert_eq!(record.created_at(), None);
        assert_eq!(record.size_bytes(), None);
        assert!(record.keys().is_empty());
        assert_eq!(record.keys_json(), None);
        assert_eq!(record.new_image(), Ok(None));
        assert_eq!(record.stream_view_type(), None);
        assert_eq!(record.user_identity(), None);
    }
}

#[test]
fn removals_by_time_to_live_are_recognised_in_both_spellings() {
    let remove = |identity: &str| {
        let body = format!(
            r#"{{"Records":[{{"eventName":"REMOVE","dynamodb":{{"SequenceNumber":"1"}},"userIdentity":{identity}}}]}}"#
        );
        decode(&body).unwrap().records.first().unwrap().is_ttl_delete()
    };
    assert!(remove(r#"{"principalId":"dynamodb.amazonaws.com","type":"Service"}"#));
    assert!(remove(r#"{"Type":"Service","PrincipalId":"dynamodb.amazonaws.com"}"#));
    assert!(!remove(r#"{"Type":"Service","PrincipalId":"other.amazonaws.com"}"#));
    assert!(!remove("{}"));
    assert!(!remove("null"));
}

#[test]
fn an_end_of_shard_is_never_read_out_of_a_broken_answer() {
    assert_eq!(decode(r#"{"Records":[]}"#).unwrap().next_shard_iterator, None);
    assert_eq!(decode(r#"{"Records":[],"NextShardIterator":null}"#).unwrap().next_shard_iterator, None);
    assert_eq!(what("{}"), "answer without records");
    assert_eq!(what(r#"{"NextShardIterator":"x"}"#), "answer without records");
    assert_eq!(what(r#"{"Records":null}"#), "expected an array of records");
    assert_eq!(what(r#"{"Records":{}}"#), "expected an array of records");
    assert_eq!(what(r#"{"Records":[],"NextShardIterator":""}"#), "empty NextShardIterator");
    assert_eq!(what(r#"{"Records":[],"NextShardIterator":7}"#), "expected a string");
    assert_eq!(what(""), "truncated json");
    assert_eq!(what("[]"), "expected an object");
    assert_eq!(what(r#"{"Records":[]}{}"#), "bytes after the end of the json");
}

#[test]
fn a_record_that_is_not_whole_is_an_error() {
    let of_record = |record: &str| what(&format!(r#"{{"Records":[{record}]}}"#));
    let of_stream_record = |members: &str| of_record(&format!(r#"{{"dynamodb":{{{members}}}}}"#));
    assert_eq!(of_record("null"), "expected a record");
    assert_eq!(of_record("{}"), "record without a sequence number");
    assert_eq!(of_record(r#"{"dynamodb":null}"#), "expected a stream record");
    assert_eq!(of_stream_record(r#""SequenceNumber":null"#), "record without a sequence number");
    assert_eq!(of_stream_record(r#""SequenceNumber":"""#), "malformed sequence number");
    assert_eq!(of_stream_record(r#""SequenceNumber":"1a""#), "malformed sequence number");
    assert_eq!(of_stream_record(r#""SequenceNumber":"1\u0061""#), "malformed sequence number");
    assert_eq!(of_stream_record(r#""SequenceNumber":1"#), "expected a string");
    assert_eq!(of_stream_record(r#""SequenceNumber":"1","SequenceNumber":"2""#), "member stands twice");
    assert_eq!(of_stream_record(r#""SequenceNumber":"1","Keys":{"a":{"S":1}}"#), "expected a string");
    assert_eq!(of_stream_record(r#""SequenceNumber":"1","NewImage":[]"#), "expected an item");
    assert_eq!(of_stream_record(r#""SequenceNumber":"1","SizeBytes":1.5"#), "expected a size in bytes");
}

#[test]
fn no_known_member_may_stand_twice() {
    let outside = ["eventID", "eventName", "eventVersion", "eventSource", "awsRegion"].map(|name| (name, r#""x""#));
    let inside =
        [("ApproximateCreationDateTime", "1"), ("SizeBytes", "1"), ("StreamViewType", r#""x""#), ("Keys", "{}")];
    for (name, value) in outside {
        let record = format!(r#"{{"{name}":{value},"dynamodb":{{"SequenceNumber":"1"}},"{name}":{value}}}"#);
        let error = decode(&format!(r#"{{"Records":[{record}]}}"#)).expect_err(name);
        assert!(error.to_string().starts_with("member stands twice"), "{name}: {error}");
    }
    for (name, value) in inside {
        let record = format!(r#"{{"dynamodb":{{"{name}":{value},"SequenceNumber":"1","{name}":{value}}}}}"#);
        let error = decode(&format!(r#"{{"Records":[{record}]}}"#)).expect_err(name);
        assert!(error.to_string().starts_with("member stands twice"), "{name}: {error}");
    }
}

#[test]
fn an_error_says_what_is_wrong_and_where() {
    let error = decode(r#"{"Records":[x]}"#).unwrap_err();
    assert_eq!(error.to_string(), "expected a record at byte 12");
    let error = Page::decode(Bytes::from_static(b"{\"Records\":[\xff]}")).unwrap_err();
    assert_eq!(error.to_string(), "invalid utf-8 at byte 12");
}

#[test]
fn an_image_that_is_json_but_no_item_fails_only_when_asked_for() {
    let batch =
        decode(r#"{"Records":[{"dynamodb":{"SequenceNumber":"1","NewImage":{"a":{"S":5}}}}]}"#).unwrap().records;
    let record = batch.first().unwrap();
    assert_eq!(record.new_image_json(), Some(r#"{"a":{"S":5}}"#));
    assert_eq!(record.new_image().unwrap_err().to_string(), "expected a string at byte 67");
}

#[test]
fn batches_are_cut_without_copying() {
    let batch = page_of(&["1", "2", "3", "4"]);
    assert_eq!(numbers(&batch.slice(1..3)), ["2", "3"]);
    assert_eq!(numbers(&batch.slice(1..3).slice(1..)), ["3"]);
    assert_eq!(numbers(&batch.slice(..=1)), ["1", "2"]);
    let (head, tail) = batch.split_at(1);
    assert_eq!((numbers(&head), numbers(&tail)), (vec!["1"], vec!["2", "3", "4"]));
    assert_eq!(tail.last().map(|record| record.sequence_number()), Some("4"));
    assert!(tail.get(3).is_none());
    assert!(batch.slice(4..).is_empty());
    assert!(RecordBatch::default().is_empty());
    let backwards: Vec<_> = tail.iter().rev().map(|record| record.sequence_number()).collect();
    assert_eq!(backwards, ["4", "3", "2"]);
    assert_eq!(tail.iter().len(), 3);
}

#[test]
fn skipping_goes_by_value_and_drops_no_record_above_the_position() {
    let batch = page_of(&["0099", "100", "101"]);
    assert_eq!(numbers(&batch.skip_through(&number("99"))), ["100", "101"]);
    assert_eq!(numbers(&batch.skip_through(&number("1"))), ["0099", "100", "101"]);
    assert!(batch.skip_through(&number("000101")).is_empty());
    assert_eq!(numbers(&page_of(&["1", "9", "2"]).skip_through(&number("5"))), ["9", "2"]);
}

#[test]
fn records_that_are_left_out_are_still_stood_for() {
    let batch = page_of(&["1", "2", "3", "4", "5", "6"]);
    let all = batch.clone().retain(|_| true);
    assert_eq!((numbers(&all).len(), all.left_out(), all.through()), (6, 0, Some("6")));
    assert_eq!(all.memory_bytes(), batch.memory_bytes());

    let mut asked = Vec::new();
    let chosen = batch.slice(..5).retain(|record| {
        asked.push(record.sequence_number().to_owned());
        ["2", "4"].contains(&record.sequence_number())
    });
    assert_eq!(asked, ["1", "2", "3", "4", "5"]);
    assert_eq!(numbers(&chosen), ["2", "4"]);
    assert_eq!((chosen.len(), chosen.iter().len(), chosen.left_out(), chosen.through()), (2, 2, 3, Some("5")));
    assert_eq!((chosen.first().unwrap().sequence_number(), chosen.last().unwrap().sequence_number()), ("2", "4"));
    assert!(chosen.get(2).is_none());
    assert_eq!(chosen.bytes_len(), 2 * batch.first().unwrap().json().len());
    let backwards: Vec<_> = chosen.iter().rev().map(|record| record.sequence_number()).collect();
    assert_eq!(backwards, ["4", "2"]);

    let none = batch.clone().retain(|_| false);
    assert!(none.is_empty() && none.first().is_none() && none.iter().next().is_none());
    assert_eq!((none.left_out(), none.through()), (6, Some("6")));
    assert_eq!(RecordBatch::default().through(), None);
}

#[test]
fn what_is_cut_out_of_a_choice_stands_for_its_part_of_the_page() {
    let chosen =
        page_of(&["1", "2", "3", "4", "5", "6"]).retain(|record| ["2", "4"].contains(&record.sequence_number()));
    let (head, tail) = chosen.split_at(1);
    assert_eq!((numbers(&head), head.through(), head.left_out()), (vec!["2"], Some("3"), 2));
    assert_eq!((numbers(&tail), tail.through(), tail.left_out()), (vec!["4"], Some("6"), 2));
    assert_eq!(numbers(&tail.slice(..1)), ["4"]);
    assert_eq!(numbers(&chosen.skip_through(&number("3"))), ["4"]);
    let (everything, nothing) = chosen.split_at(2);
    assert_eq!((numbers(&everything), numbers(&nothing)), (vec!["2", "4"], vec![]));
    assert_eq!((everything.through(), nothing.through()), (Some("6"), None));
    let fewer = chosen.retain(|record| record.sequence_number() == "4");
    assert_eq!((numbers(&fewer), fewer.through(), fewer.left_out()), (vec!["4"], Some("6"), 5));
}

#[test]
fn records_of_several_pages_make_a_batch_like_any_other() {
    let (first, second) = (page_of(&["1", "2", "3"]), page_of(&["4", "5"]));
    let pick = |batch: &RecordBatch, index| batch.get(index).unwrap().to_owned();
    let picked: RecordBatch = [pick(&first, 1), pick(&first, 2), pick(&second, 1)].into_iter().collect();
    assert_eq!(numbers(&picked), ["2", "3", "5"]);
    assert_eq!((picked.len(), picked.through(), picked.left_out()), (3, Some("5"), 0));
    assert_eq!(picked.bytes_len(), 3 * first.first().unwrap().json().len());
    let both = first.memory_bytes() + second.memory_bytes();
    assert!(picked.memory_bytes() >= both && picked.memory_bytes() < both + 100);
    assert_eq!(numbers(&picked.skip_through(&number("2"))), ["3", "5"]);
    let (head, tail) = picked.split_at(2);
    assert_eq!((numbers(&head), numbers(&tail.slice(..1))), (vec!["2", "3"], vec!["5"]));
    assert_eq!(numbers(&head.retain(|record| record.sequence_number() == "3")), ["3"]);
    assert_eq!(picked.iter().rev().map(|record| record.sequence_number()).collect::<Vec<_>>(), ["5", "3", "2"]);
    assert!(picked.get(3).is_none());
}

#[test]
fn an_owned_record_outlives_its_batch() {
    fn assert_shareable<T: Send + Sync + 'static>() {}
    assert_shareable::<RecordBatch>();
    assert_shareable::<OwnedRecord>();
    let owned = {
        let batch = page_of(&["7", "8"]);
        let by_reference = &batch.last().unwrap();
        by_reference.to_owned()
    };
    assert_eq!(owned.view().sequence_number(), "8");
}
