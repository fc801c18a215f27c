//! The table of dead letters, on the local service and on the official DynamoDB Local: what is put is there, once and
//! byte for byte, whatever its size, and what is deleted leaves nothing behind.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use shardkeeper::internals::dead_letters::letter::{DeadLetter, FailureLimit};
use shardkeeper::internals::dead_letters::table::{DeadLetterTable, Entry, LetterKey};

use crate::support::http::good;
use crate::support::sdk;
use crate::support::services::Service;

const ARN: &str = "arn:aws:dynamodb:us-east-1:000000000000:table/Phones/stream/2026-01-31T12:00:00.000";
const APP: &str = "audit";

#[tokio::test]
async fn the_local_service_keeps_dead_letters() {
    check(&Service::shardkeeper_local("")).await;
}

#[tokio::test]
async fn dynamodb_local_keeps_dead_letters() {
    if let Some(service) = Service::dynamodb_local() {
        check(&service).await;
    }
}

async fn check(service: &Service) {
    let table = DeadLetterTable::new(sdk::tables(&service.url()), APP);
    let missing = table.ensure(false).await.expect_err("it is not there yet");
    assert!(missing.to_string().starts_with("dead-letter table audit-DeadLetters does not exist: start"), "{missing}");
    table.ensure(true).await.expect("it is made");
    table.ensure(false).await.expect("it is there");

    a_letter_put_again_is_the_same_one(service, &table).await;
    a_record_larger_than_an_item_is_whole(service, &table).await;
    two_workers_at_once_leave_one_whole_letter(service, &table).await;
    a_large_table_is_listed_in_pages_and_a_shard_in_order(service, &table).await;
    what_is_no_letter_is_listed_and_can_be_deleted(service, &table).await;
}

async fn a_letter_put_again_is_the_same_one(service: &Service, table: &DeadLetterTable) {
    let mut letter = letter("shardId-1", "000000000000000000341", r#"{ "b" : "\u0041é\n" , "a":1e3}"#);
    letter.event_id = Some("event-1".into());
    letter.created_ms = Some(4_000);
    letter.first_failed_ms = 5_000;
    table.put(&letter).await.expect("it is kept");
    assert_eq!(all(table).await, [letter.clone()]);

    let mut again = letter.clone();
    again.record = r#"{"a":1e3,"b":"Aé\n"}"#.into();
    (again.first_failed_ms, again.last_failed_ms, again.attempts) = (8_000, 9_000, 12);
    (again.error, again.worker, again.reason) = ("worse".into(), "w-2".into(), FailureLimit::Age);
    table.put(&again).await.expect("it is kept");
    let kept = all(table).await;
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!((&kept[0].record, kept[0].first_failed_ms), (&letter.record, 5_000), "as it was first");
    (again.record, again.first_failed_ms) = (letter.record.clone(), 5_000);
    assert_eq!(kept[0], again, "the rest as it is now");

    assert_eq!(
        table.read(&LetterKey::of(&letter)).await.expect("it reads").and_then(|entry| entry.letter.ok()),
        Some(again)
    );
    let found = table.find(&"shardId-1/341".parse().expect("an id")).await.expect("it reads");
    assert_eq!(found.len(), 1);
    assert!(table.find(&"shardId-1/3410".parse().expect("an id")).await.expect("it reads").is_empty());
    assert!(table.delete(&LetterKey::of(&letter)).await.expect("it is deleted"));
    assert!(!table.delete(&LetterKey::of(&letter)).await.expect("it was deleted"));
    assert_eq!(items(service).len(), 0);
}

async fn a_record_larger_than_an_item_is_whole(service: &Service, table: &DeadLetterTable) {
    // Two images of 400 KB each, in JSON that takes several bytes for some of theirs.
    let image = "é\\u0000💥x".repeat(60_000);
    let record = format!(r#"{{"dynamodb":{{"SequenceNumber":"77","NewImage":"{image}","OldImage":"{image}"}}}}"#);
    assert!(record.len() > 1_500_000);
    let mut large = letter("shardId-1", "77", &record);
    large.error = "e".repeat(DeadLetter::MAX_ERROR_BYTES);
    table.put(&large).await.expect("it is kept");
    assert!(all(table).await == [large.clone()], "not byte for byte");
    let parts = items(service).len() - 1;
    assert!(parts >= 5, "{parts}");

    large.attempts = 9;
    let mut again = large.clone();
    again.record = record.replace('{', "{ ");
    table.put(&again).await.expect("it is kept");
    assert!(all(table).await == [large.clone()], "the record is as it was first, the rest is new");
    assert_eq!(items(service).len(), parts + 1, "nothing is kept twice");

    // A part that is gone makes no shorter record.
    let part = items(service).into_iter().find(|item| item["shard"]["S"].as_str() != Some("shardId-1"));
    let part = part.expect("a part");
    let key = json!({"TableName": table.name(), "Key": {"shard": part["shard"], "position": part["position"]}});
    good(service.address, "DeleteItem", &key);
    let entries = entries(table).await;
    let reason = entries[0].letter.as_ref().expect_err("it is not whole");
    assert!(reason.contains(&format!("it has {} of its record's {parts} parts", parts - 1)), "{reason}");

    assert!(table.delete(&LetterKey::of(&large)).await.expect("it is deleted"));
    assert_eq!(items(service).len(), 0, "no part is left behind");
}

async fn two_workers_at_once_leave_one_whole_letter(service: &Service, table: &DeadLetterTable) {
    for round in 0..5 {
        let record =
            |space: &str| format!(r#"{{"dynamodb":{space}{{"SequenceNumber":"5"}},"x":"{}"}}"#, "y".repeat(900_000));
        let (one, other) = (letter("shardId-1", "5", &record("")), letter("shardId-1", "5", &record("  ")));
        let (first, second) = tokio::join!(table.put(&one), table.put(&other));
        first.and(second).expect("both say that it is kept");
        let kept = all(table).await;
        assert!(kept.len() == 1 && (kept[0].record == one.record || kept[0].record == other.record), "round {round}");
        assert_eq!(items(service).len(), 1 + 3, "round {round}");
        table.delete(&LetterKey::of(&one)).await.expect("it is deleted");
        assert_eq!(items(service).len(), 0, "round {round}");
    }
}

async fn a_large_table_is_listed_in_pages_and_a_shard_in_order(service: &Service, table: &DeadLetterTable) {
    let record = format!(r#"{{"dynamodb":{{"SequenceNumber":"1"}},"x":"{}"}}"#, "y".repeat(200_000));
    let letters: Vec<DeadLetter> = (0..14)
        .map(|index| {
            letter(["shardId-1", "shardId-2"][index % 2], &(10_usize.pow(7) - index * 700_000).to_string(), &record)
        })
        .collect();
    for letter in &letters {
        table.put(letter).await.expect("it is kept");
    }
    let (mut next, mut pages, mut found) = (None, 0, BTreeSet::new());
    loop {
        let page = table.page(None, next).await.expect("it reads");
        pages += 1;
        found.extend(page.entries.iter().map(|entry| entry.letter.as_ref().expect("a letter").id().to_string()));
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    assert!(pages > 2, "2.8 MB are more than two pages");
    assert_eq!(found, letters.iter().map(|letter| letter.id().to_string()).collect());

    let shard = "shardId-2".into();
    let page = table.page(Some(&shard), None).await.expect("it reads");
    let numbers: Vec<_> =
        page.entries.iter().map(|entry| entry.letter.as_ref().expect("a letter").sequence_number.clone()).collect();
    assert!(numbers.is_sorted() && numbers.len() > 3, "{numbers:?}");
    assert!(page.entries.iter().all(|entry| entry.key.shard() == "shardId-2"));
    for letter in &letters {
        table.delete(&LetterKey::of(letter)).await.expect("it is deleted");
    }
    assert_eq!(items(service).len(), 0);
}

async fn what_is_no_letter_is_listed_and_can_be_deleted(service: &Service, table: &DeadLetterTable) {
    let item = json!({"shard": {"S": "shardId-1"}, "position": {"S": "somewhere"}, "record": {"S": "{}"}});
    good(service.address, "PutItem", &json!({"TableName": table.name(), "Item": item}));
    let entries = entries(table).await;
    assert_eq!(entries[0].letter, Err("it has no sequenceNumber".to_owned()));
    assert!(table.delete(&entries[0].key).await.expect("it is deleted"));
}

fn letter(shard: &str, number: &str, record: &str) -> DeadLetter {
    DeadLetter::new(ARN, shard.into(), number.parse().expect("a sequence number"), record, "no", 7_000)
}

async fn entries(table: &DeadLetterTable) -> Vec<Entry> {
    let (mut entries, mut next) = (Vec::new(), None);
    loop {
        let page = table.page(None, next).await.expect("it reads");
        entries.extend(page.entries);
        next = page.next;
        if next.is_none() {
            return entries;
        }
    }
}

async fn all(table: &DeadLetterTable) -> Vec<DeadLetter> {
    entries(table).await.into_iter().map(|entry| entry.letter.expect("a letter")).collect()
}

/// Every item of the table, as the service has it.
fn items(service: &Service) -> Vec<Value> {
    let mut request = json!({"TableName": format!("{APP}-DeadLetters"), "ConsistentRead": true});
    let mut items = Vec::new();
    loop {
        let mut page = good(service.address, "Scan", &request);
        items.extend(page["Items"].as_array().expect("items").iter().cloned());
        match page["LastEvaluatedKey"].take() {
            Value::Null => return items,
            key => request["ExclusiveStartKey"] = key,
        }
    }
}
