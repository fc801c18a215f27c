//! Whole tables: made, described, listed, changed, deleted.

use serde_json::json;

use super::{Fixture, ranged_table, simple_table, text};

#[test]
fn a_table_is_described_as_it_was_made() {
    let mut fixture = Fixture::new();
    fixture.ok("CreateTable", ranged_table("Phones"));
    let answer = fixture.ok("DescribeTable", json!({"TableName": "Phones"}));
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
    let mut fixture = Fixture::new();
    fixture.ok("CreateTable", simple_table("Tab"));
    fixture.refused("CreateTable", simple_table("Tab"), "ResourceInUseException", "Tab");
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
        (changed("GlobalSecondaryIndexes", json!([])), "List of GlobalSecondaryIndexes is empty"),
    ];
    for (body, part) in cases {
        fixture.refused("CreateTable", body, "ValidationException", part);
    }
    assert_eq!(fixture.ok("ListTables", json!({}))["TableNames"], json!(["Tab"]));
}

#[test]
fn tables_are_listed_by_pages() {
    let mut fixture = Fixture::new();
    for name in ["ccc", "aaa", "bbb"] {
        fixture.ok("CreateTable", simple_table(name));
    }
    let first = fixture.ok("ListTables", json!({"Limit": 2}));
    assert_eq!(first, json!({"TableNames": ["aaa", "bbb"], "LastEvaluatedTableName": "bbb"}));
    let last = fixture.ok("ListTables", json!({"ExclusiveStartTableName": "bbb", "Limit": 2}));
    assert_eq!(last, json!({"TableNames": ["ccc"]}));
}

#[test]
fn a_deleted_table_is_gone_and_its_stream_stays() {
    let mut fixture = Fixture::new();
    let arn = fixture.table();
    fixture.put("a", 1);
    fixture.ok("DeleteTable", json!({"TableName": "Tab"}));
    let body = json!({"TableName": "Tab"});
    fixture.refused("DescribeTable", body.clone(), "ResourceNotFoundException", "Tab");
    fixture.refused("DeleteTable", body, "ResourceNotFoundException", "Tab");
    let description = fixture.ok("DescribeStream", json!({"StreamArn": arn}));
    assert_eq!(description["StreamDescription"]["StreamStatus"], "DISABLED");
    assert_eq!(fixture.read_all(&arn).len(), 1);
}

#[test]
fn deletion_protection_protects() {
    let mut fixture = Fixture::new();
    fixture.ok("CreateTable", simple_table("Tab"));
    let protect = |on| json!({"TableName": "Tab", "DeletionProtectionEnabled": on});
    fixture.ok("UpdateTable", protect(true));
    fixture.refused("DeleteTable", json!({"TableName": "Tab"}), "ValidationException", "protected");
    fixture.ok("UpdateTable", protect(false));
    fixture.ok("DeleteTable", json!({"TableName": "Tab"}));
}

#[test]
fn a_stream_turned_on_again_has_a_new_arn_and_the_old_one_stays_readable() {
    let mut fixture = Fixture::new();
    let first = fixture.table();
    fixture.put("a", 1);
    let on = json!({"TableName": "Tab", "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "KEYS_ONLY"}});
    let off = json!({"TableName": "Tab", "StreamSpecification": {"StreamEnabled": false}});
    fixture.refused("UpdateTable", on.clone(), "ValidationException", "already has an enabled stream");
    fixture.ok("UpdateTable", off.clone());
    fixture.refused("UpdateTable", off, "ValidationException", "no stream to disable");
    fixture.put("a", 2);
    let answer = fixture.ok("UpdateTable", on);
    let second = text(&answer["TableDescription"]["LatestStreamArn"]);
    assert_ne!(first, second);
    fixture.put("a", 3);

    let old: Vec<_> = fixture.read_all(&first);
    assert_eq!(old.len(), 1);
    let new = fixture.read_all(&second);
    assert_eq!(new.len(), 1);
    assert!(new[0]["dynamodb"]["NewImage"].is_null(), "the new stream has keys only");
    let streams = fixture.ok("ListStreams", json!({"TableName": "Tab"}));
    assert_eq!(streams["Streams"].as_array().map(Vec::len), Some(2));
}

#[test]
fn time_to_live_removes_what_is_over_in_the_services_name() {
    let mut fixture = Fixture::new();
    let arn = fixture.table();
    let second = fixture.now.as_secs();
    for (key, expiry) in [("over", second), ("soon", second + 100), ("ancient", 1)] {
        fixture.put(key, expiry);
    }
    let on = json!({"TableName": "Tab", "TimeToLiveSpecification": {"Enabled": true, "AttributeName": "v"}});
    fixture.ok("UpdateTimeToLive", on.clone());
    fixture.refused("UpdateTimeToLive", on, "ValidationException", "already enabled");
    let described = fixture.ok("DescribeTimeToLive", json!({"TableName": "Tab"}));
    assert_eq!(described["TimeToLiveDescription"]["TimeToLiveStatus"], "ENABLED");

    fixture.pass(std::time::Duration::from_secs(2));
    let left = fixture.ok("Scan", json!({"TableName": "Tab"}));
    assert_eq!(left["Count"], 2, "{left}");
    let removed: Vec<_> = fixture.read_all(&arn).into_iter().filter(|record| record["eventName"] == "REMOVE").collect();
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0]["userIdentity"], json!({"type": "Service", "principalId": "dynamodb.amazonaws.com"}));
    assert_eq!(removed[0]["dynamodb"]["Keys"], json!({"k": {"S": "over"}}));

    // An expiry that moved is the one that counts.
    fixture.put("soon", second + 1000);
    fixture.pass(std::time::Duration::from_secs(200));
    assert_eq!(fixture.ok("Scan", json!({"TableName": "Tab"}))["Count"], 2);
}
