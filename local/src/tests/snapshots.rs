//! Data that outlives the process.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Fixture, text};
use crate::{LocalOptions, StreamAction, snapshot};

/// A folder of the test's own, which ends with this value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("shardkeeper-local-{}-{name}", std::process::id()));
        // Leftovers of an interrupted run with the same id are none of this one's.
        let _ = fs::remove_dir_all(&folder);
        Self(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("shardkeeper-local.jsonl")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The fixture after a restart on what it saved.
fn restarted(fixture: &Fixture, folder: &Folder) -> Fixture {
    fs::create_dir_all(&folder.0).expect("a folder");
    snapshot::save(&folder.0, &fixture.emulator.snapshot()).expect("saved");
    let emulator = snapshot::load(&folder.0, LocalOptions::default()).expect("loaded");
    Fixture { emulator, now: fixture.now }
}

/// A table with an index, tags, expiry, and a stream that has closed and trimmed shards.
fn filled() -> (Fixture, String) {
    let mut fixture = Fixture::new();
    let mut table = super::simple_table("Tab");
    table["StreamSpecification"] = json!({"StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES"});
    table["Tags"] = json!([{"Key": "team", "Value": "a"}]);
    let definitions = table["AttributeDefinitions"].as_array_mut().expect("a list");
    definitions.push(json!({"AttributeName": "v", "AttributeType": "N"}));
    table["GlobalSecondaryIndexes"] = json!([{
        "IndexName": "byV",
        "KeySchema": [{"AttributeName": "v", "KeyType": "HASH"}],
        "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["x"]},
    }]);
    let created = fixture.ok("CreateTable", table);
    let arn = text(&created["TableDescription"]["LatestStreamArn"]);
    let expiry = json!({"Enabled": true, "AttributeName": "expires"});
    fixture.ok("UpdateTimeToLive", json!({"TableName": "Tab", "TimeToLiveSpecification": expiry}));
    for value in 0..50 {
        fixture.put(&format!("key{}", value % 20), value);
    }
    fixture.emulator.change_shards(fixture.now, "Tab", StreamAction::Trim, None).expect("trimmed");
    fixture.pass(Duration::from_secs(1));
    for value in 50..80 {
        fixture.put(&format!("key{}", value % 20), value);
    }
    fixture.emulator.change_shards(fixture.now, "Tab", StreamAction::Split, None).expect("split");
    let soon = (fixture.now.as_secs() + 60).to_string();
    let item = json!({"k": {"S": "\u{1f600}\""}, "b": {"B": "AQ=="}, "v": {"N": "1"}, "expires": {"N": soon}});
    fixture.ok("PutItem", json!({"TableName": "Tab", "Item": item}));
    (fixture, arn)
}

/// All that callers can see.
fn seen(fixture: &mut Fixture, arn: &str) -> Vec<Value> {
    let mut seen = vec![
        fixture.ok("DescribeTable", json!({"TableName": "Tab"})),
        fixture.ok("Scan", json!({"TableName": "Tab"})),
        fixture.ok("Scan", json!({"TableName": "Tab", "IndexName": "byV"})),
        fixture.ok("DescribeTimeToLive", json!({"TableName": "Tab"})),
        fixture.ok("ListTagsOfResource", json!({"ResourceArn": "arn:aws:dynamodb:r:0:table/Tab"})),
        fixture.ok("ListStreams", json!({})),
    ];
    seen.extend(fixture.shards(arn));
    seen.extend(fixture.read_all(arn));
    seen
}

#[test]
fn a_restart_changes_nothing_that_callers_see() {
    let folder = Folder::new("restart");
    let (mut fixture, arn) = filled();
    let open = fixture.shards(&arn).pop().expect("a shard");
    let iterator = fixture.iterator(&arn, &text(&open["ShardId"]), "LATEST");
    let mut after = restarted(&fixture, &folder);
    assert_eq!(seen(&mut after, &arn), seen(&mut fixture, &arn));

    // Old iterators work, records continue in order, and what is due comes.
    after.ok("GetRecords", json!({"ShardIterator": iterator}));
    let sequences = |records: &[Value]| {
        records.iter().map(|record| text(&record["dynamodb"]["SequenceNumber"])).collect::<Vec<_>>()
    };
    let before = after.read_all(&arn);
    after.put("key1", 1000);
    after.pass(Duration::from_secs(62));
    let records = after.read_all(&arn);
    let added: Vec<&Value> = records.iter().filter(|record| !before.contains(record)).collect();
    let names: Vec<&Value> = added.iter().map(|record| &record["eventName"]).collect();
    assert_eq!((names.len(), names.contains(&&json!("MODIFY")), names.contains(&&json!("REMOVE"))), (2, true, true));
    let newest = sequences(&before).into_iter().max().expect("records");
    assert!(added.iter().all(|record| text(&record["dynamodb"]["SequenceNumber"]) > newest));
    assert!(added.iter().all(|record| before.iter().all(|old| old["eventID"] != record["eventID"])));
}

#[test]
fn a_folder_without_a_snapshot_is_an_empty_service() {
    let folder = Folder::new("empty");
    let emulator = snapshot::load(&folder.0, LocalOptions::default()).expect("nothing to load");
    assert!(emulator.tables.is_empty());
    assert!(folder.0.is_dir());
}

#[test]
fn a_snapshot_is_taken_whole_or_refused() {
    let folder = Folder::new("damaged");
    let (fixture, _) = filled();
    restarted(&fixture, &folder);
    let whole = fs::read_to_string(folder.file()).expect("a snapshot");
    let refusal = |text: &str| {
        fs::write(folder.file(), text).expect("written");
        snapshot::load(&folder.0, LocalOptions::default()).expect_err("refused").to_string()
    };
    let lines: Vec<&str> = whole.lines().collect();
    for kept in 0..lines.len() {
        let error = refusal(&lines[..kept].join("\n"));
        assert!(error.contains("is no whole snapshot"), "{kept} lines: {error}");
    }
    let missing_line: Vec<&str> = [&lines[..5], &lines[6..]].concat();
    assert!(refusal(&missing_line.join("\n")).contains("is no whole snapshot"));
    assert!(refusal(&whole.replace("shardkeeper-local 1", "shardkeeper-local 2")).contains("its format is"));
    assert!(refusal(&whole[..whole.len() / 2]).contains("line "));

    // A write that broke off lies beside the snapshot and is no part of it.
    fs::write(folder.file(), &whole).expect("written");
    fs::write(folder.0.join("shardkeeper-local.jsonl.unfinished"), "{").expect("written");
    assert!(snapshot::load(&folder.0, LocalOptions::default()).is_ok());
}
