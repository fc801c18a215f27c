//! The life of shards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Fixture, text};
use crate::{LocalOptions, Preload, StreamAction};

const HOUR: Duration = Duration::from_secs(3600);

fn is_open(shard: &Value) -> bool {
    shard["SequenceNumberRange"]["EndingSequenceNumber"].is_null()
}

fn number(value: &Value) -> u128 {
    text(value).parse().expect("a sequence number")
}

/// Keys in the order of their records' shards, each with its values in order.
fn values_by_key(records: &[Value]) -> BTreeMap<String, Vec<String>> {
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in records {
        let image = &record["dynamodb"]["NewImage"];
        values.entry(text(&image["k"]["S"])).or_default().push(text(&image["v"]["N"]));
    }
    values
}

#[test]
fn a_new_stream_has_its_shards_named_by_time_and_all_open() {
    let mut fixture = Fixture::new();
    let arn = fixture.table();
    let shards = fixture.shards(&arn);
    assert_eq!(shards.len(), 4);
    for shard in &shards {
        let id = text(&shard["ShardId"]);
        assert!(id.starts_with("shardId-00000001795346529400-"), "{id}");
        assert_eq!(id.len(), "shardId-".len() + 20 + 1 + 8);
        assert!(is_open(shard));
        assert!(shard["ParentShardId"].is_null());
        assert!(text(&shard["SequenceNumberRange"]["StartingSequenceNumber"]).len() >= 21);
    }
}

#[test]
fn a_key_stays_in_its_lineage_and_keys_spread_over_the_shards() {
    let mut fixture = Fixture::new();
    let arn = fixture.table();
    for value in 0..100 {
        fixture.put(&format!("key{}", value % 20), value);
    }
    let mut shard_of = BTreeMap::new();
    let mut used = BTreeSet::new();
    for shard in fixture.shards(&arn) {
        let id = text(&shard["ShardId"]);
        for record in fixture.read_shard(&arn, &id).0 {
            let key = text(&record["dynamodb"]["Keys"]["k"]["S"]);
            used.insert(id.clone());
            assert_eq!(shard_of.entry(key).or_insert(id.clone()), &id);
        }
    }
    assert_eq!(shard_of.len(), 20);
    assert!(used.len() >= 3, "20 keys over 4 shards");
}

#[test]
fn an_old_shard_closes_and_one_child_goes_on() {
    let mut fixture = Fixture::new();
    let arn = fixture.table();
    for value in 0..40 {
        if value == 20 {
            fixture.pass(4 * HOUR);
        }
        fixture.put(&format!("key{}", value % 10), value);
    }
    let shards = fixture.shards(&arn);
    assert_eq!(shards.len(), 8);
    let (parents, children) = shards.split_at(4);
    let by_id: BTreeMap<_, _> = parents.iter().map(|shard| (text(&shard["ShardId"]), shard)).collect();
    let mut heirs = BTreeSet::new();
    for child in children {
        assert!(is_open(child));
        let parent = by_id[&text(&child["ParentShardId"])];
        assert!(!is_open(parent));
        let end = number(&parent["SequenceNumberRange"]["EndingSequenceNumber"]);
        assert!(end < number(&child["SequenceNumberRange"]["StartingSequenceNumber"]));
        assert!(heirs.insert(text(&child["ParentShardId"])), "one child each");
    }
    let values = values_by_key(&fixture.read_all(&arn));
    assert_eq!(values["key3"], ["3", "13", "23", "33"]);
}

#[test]
fn the_last_page_of_a_closed_shard_has_its_records_and_no_next_iterator() {
    let mut fixture = Fixture::with(LocalOptions { initial_shards: 1, ..LocalOptions::default() });
    let arn = fixture.table();
    fixture.put("a", 1);
    let shard = text(&fixture.shards(&arn)[0]["ShardId"]);
    let open = fixture.iterator(&arn, &shard, "TRIM_HORIZON");
    let page = fixture.ok("GetRecords", json!({"ShardIterator": open}));
    let after_all = text(&page["NextShardIterator"]);

    fixture.emulator.change_shards(fixture.now, "Tab", StreamAction::Rollover, None).expect("open shards");
    let page = fixture.ok("GetRecords", json!({"ShardIterator": open}));
    assert_eq!(page["Records"].as_array().map(Vec::len), Some(1));
    assert!(page["NextShardIterator"].is_null());
    let page = fixture.ok("GetRecords", json!({"ShardIterator": after_all}));
    assert_eq!(page, json!({"Records": []}));
    let latest = fixture.iterator(&arn, &shard, "LATEST");
    let page = fixture.ok("GetRecords", json!({"ShardIterator": latest}));
    assert_eq!(page, json!({"Records": []}));
}

#[test]
fn a_split_gives_two_children_that_share_the_keys() {
    let mut fixture = Fixture::with(LocalOptions { initial_shards: 1, ..LocalOptions::default() });
    let arn = fixture.table();
    for value in 0..60 {
        if value == 30 {
            let parent = text(&fixture.shards(&arn)[0]["ShardId"]);
            let act = StreamAction::Split;
            fixture.emulator.change_shards(fixture.now, "Tab", act, Some(&parent)).expect("an open shard");
            let again = fixture.emulator.change_shards(fixture.now, "Tab", act, Some(&parent));
            assert!(again.is_err(), "a closed shard does not split");
        }
        fixture.put(&format!("key{}", value % 15), value);
    }
    let shards = fixture.shards(&arn);
    let parent = shards.iter().find(|shard| shard["ParentShardId"].is_null()).expect("the first shard");
    let filter = json!({"Type": "CHILD_SHARDS", "ShardId": parent["ShardId"]});
    let answer = fixture.ok("DescribeStream", json!({"StreamArn": arn, "ShardFilter": filter}));
    let children = answer["StreamDescription"]["Shards"].as_array().expect("a list").clone();
    assert_eq!(children.len(), 2);
    let of_parent = fixture.read_shard(&arn, &text(&parent["ShardId"])).0;
    let mut all = values_by_key(&of_parent);
    for child in &children {
        assert_eq!(child["ParentShardId"], parent["ShardId"]);
        let records = fixture.read_shard(&arn, &text(&child["ShardId"])).0;
        assert!(!records.is_empty(), "each child has some of the keys");
        for (key, values) in values_by_key(&records) {
            all.entry(key).or_default().extend(values);
        }
    }
    assert_eq!(all["key7"], ["7", "22", "37", "52"]);
    assert_eq!(all.values().map(Vec::len).sum::<usize>(), 60);
}

#[test]
fn shards_are_listed_by_pages_of_a_hundred() {
    let mut fixture = Fixture::with(LocalOptions { initial_shards: 250, ..LocalOptions::default() });
    let arn = fixture.table();
    let first = fixture.ok("DescribeStream", json!({"StreamArn": arn}));
    assert_eq!(first["StreamDescription"]["Shards"].as_array().map(Vec::len), Some(100));
    let small = fixture.ok("DescribeStream", json!({"StreamArn": arn, "Limit": 7}));
    let last = &small["StreamDescription"]["LastEvaluatedShardId"];
    assert_eq!(&small["StreamDescription"]["Shards"][6]["ShardId"], last);
    let ids: BTreeSet<_> = fixture.shards(&arn).iter().map(|shard| text(&shard["ShardId"])).collect();
    assert_eq!(ids.len(), 250);
}

#[test]
fn records_go_after_a_day_then_the_closed_shards() {
    let mut fixture = Fixture::with(LocalOptions { initial_shards: 1, ..LocalOptions::default() });
    let arn = fixture.table();
    let shard = text(&fixture.shards(&arn)[0]["ShardId"]);
    fixture.put("a", 1);
    fixture.pass(HOUR);
    fixture.put("a", 2);
    let first = fixture.read_all(&arn).remove(0);
    let number = first["dynamodb"]["SequenceNumber"].clone();

    fixture.pass(23 * HOUR);
    let (left, ended) = fixture.read_shard(&arn, &shard);
    assert!(ended);
    assert_eq!(values_by_key(&left)["a"], ["2"]);
    for kind in ["AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"] {
        let body = json!({"StreamArn": arn, "ShardId": shard, "ShardIteratorType": kind, "SequenceNumber": number});
        fixture.refused("GetShardIterator", body, "TrimmedDataAccessException", "oldest stream record");
    }

    fixture.pass(25 * HOUR);
    let ids: Vec<_> = fixture.shards(&arn).iter().map(|shard| text(&shard["ShardId"])).collect();
    assert!(!ids.contains(&shard), "a closed shard without records is gone");
    let body = json!({"StreamArn": arn, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"});
    fixture.refused("GetShardIterator", body, "ResourceNotFoundException", &shard);
}

#[test]
fn an_iterator_whose_records_are_trimmed_meanwhile_says_so() {
    let mut fixture = Fixture::with(LocalOptions {
        initial_shards: 1,
        rollover: None,
        iterator_ttl: 100 * HOUR,
        ..LocalOptions::default()
    });
    let arn = fixture.table();
    fixture.put("a", 1);
    let shard = text(&fixture.shards(&arn)[0]["ShardId"]);
    let iterator = fixture.iterator(&arn, &shard, "TRIM_HORIZON");
    let page = fixture.ok("GetRecords", json!({"ShardIterator": iterator}));
    fixture.pass(25 * HOUR);
    fixture.refused("GetRecords", json!({"ShardIterator": iterator}), "TrimmedDataAccessException", "oldest");
    fixture.ok("GetRecords", json!({"ShardIterator": page["NextShardIterator"]}));
    assert_eq!(fixture.read_all(&arn).len(), 0);
}

#[test]
fn a_disabled_stream_is_read_to_its_end_for_a_day() {
    let mut fixture = Fixture::new();
    let arn = fixture.table();
    fixture.put("a", 1);
    fixture.ok("UpdateTable", json!({"TableName": "Tab", "StreamSpecification": {"StreamEnabled": false}}));
    fixture.pass(23 * HOUR);
    let answer = fixture.ok("DescribeStream", json!({"StreamArn": arn}));
    assert_eq!(answer["StreamDescription"]["StreamStatus"], "DISABLED");
    let shards = fixture.shards(&arn);
    assert_eq!(shards.len(), 4, "a disabled stream gets no new shards");
    assert!(!shards.iter().any(is_open));
    assert_eq!(fixture.read_all(&arn).len(), 1);
    fixture.pass(2 * HOUR);
    fixture.refused("DescribeStream", json!({"StreamArn": arn}), "ResourceNotFoundException", "not found");
    assert_eq!(fixture.ok("ListStreams", json!({})), json!({"Streams": []}));
}

#[test]
fn sequence_numbers_may_grow_longer() {
    let mut fixture = Fixture::with(LocalOptions {
        initial_shards: 1,
        first_sequence_number: 999_999_999_999_999_999_998,
        ..LocalOptions::default()
    });
    let arn = fixture.table();
    for value in 0..4 {
        fixture.put("a", value);
    }
    let lengths: Vec<usize> =
        fixture.read_all(&arn).iter().map(|record| text(&record["dynamodb"]["SequenceNumber"]).len()).collect();
    assert_eq!(lengths, [21, 22, 22, 22]);
}

#[test]
fn preloaded_records_are_in_the_shards_of_their_keys_and_in_order() {
    let mut fixture = Fixture::new();
    let arn = fixture.table();
    let mut preload = Preload {
        records_per_shard: 1200,
        keys_per_shard: 10,
        value_bytes: 10,
        value_attributes: 1,
        first_version: 0,
        pages_ahead: false,
    };
    let written = fixture.emulator.preload(fixture.now, "Tab", &preload);
    assert_eq!(written, Ok(4800));
    fixture.emulator.change_shards(fixture.now, "Tab", StreamAction::Split, None).expect("open shards");
    preload.first_version = 120;
    preload.keys_per_shard = 5;
    preload.records_per_shard = 10;
    assert_eq!(fixture.emulator.preload(fixture.now, "Tab", &preload), Ok(80));
    let shards = fixture.shards(&arn);
    assert_eq!(shards.len(), 12);
    let parents = shards.iter().filter(|shard| !is_open(shard));
    for parent in parents.map(|shard| text(&shard["ShardId"])) {
        let (records, ended) = fixture.read_shard(&arn, &parent);
        assert!(ended);
        assert_eq!(records.len(), 1200);
        let values = values_by_key(&records);
        assert_eq!(values.len(), 10);
        for values in values.values() {
            let wanted: Vec<String> = (0..120).map(|version| version.to_string()).collect();
            assert_eq!(*values, wanted);
        }
    }
}

#[test]
fn pages_made_ahead_are_those_that_would_be_made_when_asked_for() {
    let preload = Preload {
        records_per_shard: 2500,
        keys_per_shard: 10,
        value_bytes: 10,
        value_attributes: 3,
        first_version: 0,
        pages_ahead: false,
    };
    let read = |pages_ahead| {
        let mut fixture = Fixture::new();
        let arn = fixture.table();
        fixture.emulator.preload(fixture.now, "Tab", &Preload { pages_ahead, ..preload.clone() }).expect("a stream");
        let first = fixture.shards(&arn)[0].clone();
        let id = text(&first["ShardId"]);
        // A page that was made before must not hide later records.
        fixture
            .emulator
            .preload(fixture.now, "Tab", &Preload { first_version: 250, ..preload.clone() })
            .expect("a stream");
        let (open, _) = fixture.read_shard(&arn, &id);
        fixture.emulator.change_shards(fixture.now, "Tab", StreamAction::Trim, Some(&id)).expect("a shard");
        let (trimmed, _) = fixture.read_shard(&arn, &id);
        (open, trimmed)
    };
    let (open, trimmed) = read(true);
    assert_eq!((open.len(), trimmed.len()), (5000, 0));
    let image = &open[0]["dynamodb"]["NewImage"];
    assert_eq!((text(&image["pad"]["S"]), text(&image["pad3"]["S"])), ("xxxx".to_owned(), "xxx".to_owned()));
    assert_eq!((open, trimmed), read(false));
}
