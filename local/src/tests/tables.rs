//! Whole tables: made, described, listed, changed, deleted.

use serde_json::json;

use super::{Bench, ranged_table, simple_table, text};

#[test]
fn a_table_is_described_as_it_was_made() {
    let mut bench = Bench::new();
    bench.ok("CreateTable", ranged_table("Phones"));
    let answer = bench.ok("DescribeTable", json!({"TableName": "Phones"}));
    let table = &answer["Table"];
    assert_eq!(table["TableStatus"], "ACTIVE");
    assert_eq!(table["TableArn"], "arn:aws:dynamodb:us-east-1:000000000000:table/Phones");
    assert_eq!(table["KeySchema"][1], json!({"AttributeName": "r", "KeyType": "RANGE"}));
    assert_eq!(table["AttributeDefinitions"][1], json!({"AttributeName": "r", "AttributeType": "N"}));
    assert_eq!(table["BillingModeSummary"]["BillingMode"], "PAY_PER_REQUEST");
    assert!(table["StreamSpecification"].is_null());
    assert_eq!(table["CreationDateTime"], json!(1_795_346_529.4));
}

#[test]
fn a_table_that_does_not_fit_is_refused() {
    let mut bench = Bench::new();
    bench.ok("CreateTable", simple_table("Tab"));
    bench.refused("CreateTable", simple_table("Tab"), "ResourceInUseException", "Tab");
    let changed = |member: &str, value| {
        let mut table = simple_table("Other");
        table[member] = value;
        table
    };
    let cases = [
        (changed("TableName", json!("x")), "between 3 and 255"),
        (changed("TableName", json!("a b c")), "between 3 and 255"),
        (changed("KeySchema", json!([{"AttributeName": "k", "KeyType": "RANGE"}])), "not a HASH"),
        (changed("KeySchema", json!([{"AttributeName": "z", "KeyType": "HASH"}])), "Keys: [z]"),
        (
            changed(
                "AttributeDefinitions",
                json!([{"AttributeName": "k", "AttributeType": "S"}, {"AttributeName": "z", "AttributeType": "S"}]),
            ),
            "does not exactly match",
        ),
        (changed("BillingMode", json!("PROVISIONED")), "must both be specified"),
        (changed("StreamSpecification", json!({"StreamEnabled": true})), "StreamViewType is required"),
        (changed("StreamSpecification", json!({"StreamEnabled": true, "StreamViewType": "ALL"})), "'ALL'"),
        (changed("GlobalSecondaryIndexes", json!([])), "GlobalSecondaryIndexes is not supported"),
    ];
    for (body, part) in cases {
        bench.refused("CreateTable", body, "ValidationException", part);
    }
    assert_eq!(bench.ok("ListTables", json!({}))["TableNames"], json!(["Tab"]));
}

#[test]
fn tables_are_listed_by_pages() {
    let mut bench = Bench::new();
    for name in ["ccc", "aaa", "bbb"] {
        bench.ok("CreateTable", simple_table(name));
    }
    let first = bench.ok("ListTables", json!({"Limit": 2}));
    assert_eq!(first, json!({"TableNames": ["aaa", "bbb"], "LastEvaluatedTableName": "bbb"}));
    let last = bench.ok("ListTables", json!({"ExclusiveStartTableName": "bbb", "Limit": 2}));
    assert_eq!(last, json!({"TableNames": ["ccc"]}));
}

#[test]
fn a_deleted_table_is_gone_and_its_stream_stays() {
    let mut bench = Bench::new();
    let arn = bench.table();
    bench.put("a", 1);
    bench.ok("DeleteTable", json!({"TableName": "Tab"}));
    let body = json!({"TableName": "Tab"});
    bench.refused("DescribeTable", body.clone(), "ResourceNotFoundException", "Tab");
    bench.refused("DeleteTable", body, "ResourceNotFoundException", "Tab");
    let description = bench.ok("DescribeStream", json!({"StreamArn": arn}));
    assert_eq!(description["StreamDescription"]["StreamStatus"], "DISABLED");
    assert_eq!(bench.read_all(&arn).len(), 1);
}

#[test]
fn deletion_protection_protects() {
    let mut bench = Bench::new();
    bench.ok("CreateTable", simple_table("Tab"));
    let protect = |on| json!({"TableName": "Tab", "DeletionProtectionEnabled": on});
    bench.ok("UpdateTable", protect(true));
    bench.refused("DeleteTable", json!({"TableName": "Tab"}), "ValidationException", "protected");
    bench.ok("UpdateTable", protect(false));
    bench.ok("DeleteTable", json!({"TableName": "Tab"}));
}

#[test]
fn a_stream_turned_on_again_has_a_new_arn_and_the_old_one_stays_readable() {
    let mut bench = Bench::new();
    let first = bench.table();
    bench.put("a", 1);
    let on = json!({"TableName": "Tab", "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "KEYS_ONLY"}});
    let off = json!({"TableName": "Tab", "StreamSpecification": {"StreamEnabled": false}});
    bench.refused("UpdateTable", on.clone(), "ValidationException", "already has an enabled stream");
    bench.ok("UpdateTable", off.clone());
    bench.refused("UpdateTable", off, "ValidationException", "no stream to disable");
    bench.put("a", 2);
    let answer = bench.ok("UpdateTable", on);
    let second = text(&answer["TableDescription"]["LatestStreamArn"]);
    assert_ne!(first, second);
    bench.put("a", 3);

    let old: Vec<_> = bench.read_all(&first);
    assert_eq!(old.len(), 1);
    let new = bench.read_all(&second);
    assert_eq!(new.len(), 1);
    assert!(new[0]["dynamodb"]["NewImage"].is_null(), "the new stream has keys only");
    let streams = bench.ok("ListStreams", json!({"TableName": "Tab"}));
    assert_eq!(streams["Streams"].as_array().map(Vec::len), Some(2));
}

#[test]
fn time_to_live_removes_what_is_over_in_the_services_name() {
    let mut bench = Bench::new();
    let arn = bench.table();
    let second = bench.now.as_secs();
    for (key, expiry) in [("over", second), ("soon", second + 100), ("ancient", 1)] {
        bench.put(key, expiry);
    }
    let on = json!({"TableName": "Tab", "TimeToLiveSpecification": {"Enabled": true, "AttributeName": "v"}});
    bench.ok("UpdateTimeToLive", on.clone());
    bench.refused("UpdateTimeToLive", on, "ValidationException", "already enabled");
    let described = bench.ok("DescribeTimeToLive", json!({"TableName": "Tab"}));
    assert_eq!(described["TimeToLiveDescription"]["TimeToLiveStatus"], "ENABLED");

    bench.pass(std::time::Duration::from_secs(2));
    let left = bench.ok("Scan", json!({"TableName": "Tab"}));
    assert_eq!(left["Count"], 2, "{left}");
    let removed: Vec<_> = bench.read_all(&arn).into_iter().filter(|record| record["eventName"] == "REMOVE").collect();
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0]["userIdentity"], json!({"type": "Service", "principalId": "dynamodb.amazonaws.com"}));
    assert_eq!(removed[0]["dynamodb"]["Keys"], json!({"k": {"S": "over"}}));

    // An expiry that moved is the one that counts.
    bench.put("soon", second + 1000);
    bench.pass(std::time::Duration::from_secs(200));
    assert_eq!(bench.ok("Scan", json!({"TableName": "Tab"}))["Count"], 2);
}
