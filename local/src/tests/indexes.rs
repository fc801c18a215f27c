//! Secondary indexes.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::Fixture;
use crate::LocalOptions;

/// A table `Tab` with the key `k`, and the index `byG` of `g` and `h`.
fn create(fixture: &mut Fixture) {
    fixture.ok(
        "CreateTable",
        json!({
            "TableName": "Tab",
            "AttributeDefinitions": [
                {"AttributeName": "k", "AttributeType": "S"},
                {"AttributeName": "g", "AttributeType": "S"},
                {"AttributeName": "h", "AttributeType": "N"},
            ],
            "KeySchema": [{"AttributeName": "k", "KeyType": "HASH"}],
            "BillingMode": "PAY_PER_REQUEST",
            "GlobalSecondaryIndexes": [{
                "IndexName": "byG",
                "KeySchema": [{"AttributeName": "g", "KeyType": "HASH"}, {"AttributeName": "h", "KeyType": "RANGE"}],
                "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["x"]},
            }],
        }),
    );
}

/// All items of a reading, page by page.
fn read_all(fixture: &mut Fixture, operation: &str, mut request: Value) -> Vec<Value> {
    let mut items = Vec::new();
    loop {
        let page = fixture.ok(operation, request.clone());
        items.extend(page["Items"].as_array().expect("a list").iter().cloned());
        match &page["LastEvaluatedKey"] {
            Value::Null => return items,
            key => request["ExclusiveStartKey"] = key.clone(),
        }
    }
}

/// A write of the key `k0` to `k9`: nothing deletes it, else its `g`, `h` and `x`.
type Write = (u8, Option<(Option<u8>, Option<u8>, Option<u8>)>);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// An index has the projection of exactly those items that have its key, in the order of its sort key, whatever
    /// was written before, and each page leads to the next.
    #[test]
    fn an_index_has_what_its_table_has(
        writes in prop::collection::vec(
            (0..10_u8, prop::option::of((prop::option::of(0..3_u8), prop::option::of(0..4_u8), prop::option::of(0..3_u8)))),
            0..60,
        ),
        limit in 1..5_u8,
        forward in any::<bool>(),
    ) {
        let mut fixture = Fixture::new();
        create(&mut fixture);
        let mut model: BTreeMap<String, Value> = BTreeMap::new();
        for (key, content) in &writes as &Vec<Write> {
            let key = format!("k{key}");
            match content {
                None => {
                    fixture.ok("DeleteItem", json!({"TableName": "Tab", "Key": {"k": {"S": key}}}));
                    model.remove(&key);
                }
                Some((g, h, x)) => {
                    let mut item = json!({"k": {"S": key}, "y": {"S": "not projected"}});
                    for (name, kind, value) in [("g", "S", g), ("h", "N", h), ("x", "S", x)] {
                        if let Some(value) = value {
                            item[name] = json!({kind: value.to_string()});
                        }
                    }
                    fixture.ok("PutItem", json!({"TableName": "Tab", "Item": item}));
                    model.insert(key, item);
                }
            }
        }
        let mut wanted: Vec<Value> =
            model.into_values().filter(|item| !item["g"].is_null() && !item["h"].is_null()).collect();
        for item in &mut wanted {
            item.as_object_mut().expect("an item").remove("y");
        }
        let mut scanned = read_all(&mut fixture, "Scan", json!({"TableName": "Tab", "IndexName": "byG", "Limit": limit}));
        let by_key = |item: &Value| item["k"]["S"].to_string();
        scanned.sort_by_key(by_key);
        prop_assert_eq!(&scanned, &wanted);

        wanted.retain(|item| item["g"]["S"] == "1");
        wanted.sort_by_key(|item| item["h"]["N"].to_string());
        let query = json!({
            "TableName": "Tab",
            "IndexName": "byG",
            "KeyConditionExpression": "g = :g",
            "ExpressionAttributeValues": {":g": {"S": "1"}},
            "Limit": limit,
            "ScanIndexForward": forward,
        });
        let mut queried = read_all(&mut fixture, "Query", query);
        if !forward {
            queried.reverse();
        }
        let sorts = |items: &[Value]| items.iter().map(|item| item["h"]["N"].to_string()).collect::<Vec<_>>();
        prop_assert_eq!(sorts(&queried), sorts(&wanted));
        queried.sort_by_key(by_key);
        wanted.sort_by_key(by_key);
        prop_assert_eq!(queried, wanted);
    }
}

#[test]
fn an_index_is_backfilled_before_it_is_read_and_only_one_at_a_time() {
    let backfill = Duration::from_secs(30);
    let mut fixture = Fixture::with(LocalOptions { index_backfill: backfill, ..LocalOptions::default() });
    fixture.ok("CreateTable", super::simple_table("Tab"));
    fixture.put("a", 1);
    fixture.ok("PutItem", json!({"TableName": "Tab", "Item": {"k": {"S": "b"}, "v": {"S": "no number"}}}));
    let create = |name: &str| {
        json!({
            "TableName": "Tab",
            "AttributeDefinitions": [{"AttributeName": "v", "AttributeType": "N"}],
            "GlobalSecondaryIndexUpdates": [{"Create": {
                "IndexName": name,
                "KeySchema": [{"AttributeName": "v", "KeyType": "HASH"}],
                "Projection": {"ProjectionType": "ALL"},
            }}],
        })
    };
    let described = fixture.ok("UpdateTable", create("byV"));
    assert_eq!(described["TableDescription"]["GlobalSecondaryIndexes"][0]["IndexStatus"], "CREATING");
    let scan = json!({"TableName": "Tab", "IndexName": "byV"});
    fixture.refused("Scan", scan.clone(), "ValidationException", "backfilling");
    fixture.refused("UpdateTable", create("byW"), "LimitExceededException", "Only 1 online index");
    fixture.put("c", 2);
    fixture.pass(backfill);
    let page = fixture.ok("Scan", scan.clone());
    assert_eq!(page["Count"], 2, "the item of another type is left out: {page}");

    let delete = json!({"TableName": "Tab", "GlobalSecondaryIndexUpdates": [{"Delete": {"IndexName": "byV"}}]});
    let described = fixture.ok("UpdateTable", delete);
    assert_eq!(described["TableDescription"]["TableStatus"], "UPDATING");
    fixture.refused("Scan", scan, "ValidationException", "does not have the specified index");
    fixture.pass(backfill);
    let described = fixture.ok("DescribeTable", json!({"TableName": "Tab"}));
    assert!(described["Table"]["GlobalSecondaryIndexes"].is_null());
    assert_eq!(described["Table"]["AttributeDefinitions"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_table_has_at_most_twenty_global_and_five_local_indexes() {
    let mut fixture = Fixture::new();
    let table = |member: &str, count: usize| {
        let mut table = super::ranged_table("Tab");
        let index = |number: usize| {
            let key = json!([{"AttributeName": "k", "KeyType": "HASH"}, {"AttributeName": "r", "KeyType": "RANGE"}]);
            json!({"IndexName": format!("index{number}"), "KeySchema": key, "Projection": {"ProjectionType": "ALL"}})
        };
        table[member] = (0..count).map(index).collect();
        table
    };
    fixture.refused("CreateTable", table("GlobalSecondaryIndexes", 21), "ValidationException", "limit of 20");
    fixture.refused("CreateTable", table("LocalSecondaryIndexes", 6), "ValidationException", "limit of 5");
    let mut most = table("GlobalSecondaryIndexes", 20);
    most["LocalSecondaryIndexes"] = table("LocalSecondaryIndexes", 5)["LocalSecondaryIndexes"].take();
    fixture.refused("CreateTable", most.clone(), "ValidationException", "Duplicate index name");
    most["LocalSecondaryIndexes"] = Value::Null;
    let described = fixture.ok("CreateTable", most);
    assert_eq!(described["TableDescription"]["GlobalSecondaryIndexes"].as_array().map(Vec::len), Some(20));
}
