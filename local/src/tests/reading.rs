//! Query and Scan.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Fixture, ranged_table, text};

/// The table `Ranged` with the sort keys 0 to 9 under `a`, and three other partitions.
fn fixture() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.ok("CreateTable", ranged_table("Ranged"));
    let keys = (0..10).map(|sort| ("a", sort)).chain([("b", 1), ("c", 1), ("d", 1)]);
    for (key, sort) in keys {
        let item = json!({"k": {"S": key}, "r": {"N": sort.to_string()}, "even": {"BOOL": sort % 2 == 0}});
        fixture.ok("PutItem", json!({"TableName": "Ranged", "Item": item}));
    }
    fixture
}

fn query(condition: &str, values: Value) -> Value {
    json!({"TableName": "Ranged", "KeyConditionExpression": condition, "ExpressionAttributeValues": values})
}

fn sorts(answer: &Value) -> Vec<&str> {
    let items = answer["Items"].as_array().expect("a list");
    items.iter().filter_map(|item| item["r"]["N"].as_str()).collect()
}

#[test]
fn a_query_reads_a_partition_in_the_order_of_numbers_both_ways() {
    let mut fixture = fixture();
    let ten = json!({"TableName": "Ranged", "Item": {"k": {"S": "a"}, "r": {"N": "10"}}});
    fixture.ok("PutItem", ten);
    let mut request = query("k = :k AND r > :r", json!({":k": {"S": "a"}, ":r": {"N": "7"}}));
    assert_eq!(sorts(&fixture.ok("Query", request.clone())), ["8", "9", "10"]);
    request["ScanIndexForward"] = false.into();
    assert_eq!(sorts(&fixture.ok("Query", request)), ["10", "9", "8"]);
}

#[test]
fn pages_meet_without_gap_or_overlap_also_under_a_filter() {
    let mut fixture = fixture();
    for forward in [true, false] {
        let mut request = query("k = :k", json!({":k": {"S": "a"}, ":yes": {"BOOL": true}}));
        request["FilterExpression"] = "even = :yes".into();
        request["Limit"] = 3.into();
        request["ScanIndexForward"] = forward.into();
        let mut seen = Vec::new();
        let mut scanned = 0;
        loop {
            let page = fixture.ok("Query", request.clone());
            seen.extend(sorts(&page).into_iter().map(str::to_owned));
            scanned += page["ScannedCount"].as_u64().expect("a count");
            if page["LastEvaluatedKey"].is_null() {
                break;
            }
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"].clone();
        }
        let mut wanted = vec!["0", "2", "4", "6", "8"];
        if !forward {
            wanted.reverse();
        }
        assert_eq!(seen, wanted);
        assert_eq!(scanned, 10);
    }
}

#[test]
fn a_count_has_no_items() {
    let mut fixture = fixture();
    let mut request = query("k = :k", json!({":k": {"S": "a"}}));
    request["Select"] = "COUNT".into();
    assert_eq!(fixture.ok("Query", request), json!({"Count": 10, "ScannedCount": 10}));
}

#[test]
fn segments_of_a_scan_share_out_all_items() {
    let mut fixture = fixture();
    for index in 0..200 {
        let item = json!({"k": {"S": format!("more-{index}")}, "r": {"N": "0"}});
        fixture.ok("PutItem", json!({"TableName": "Ranged", "Item": item}));
    }
    let mut seen = BTreeSet::new();
    let mut busy = 0;
    for segment in 0..4 {
        let mut request = json!({"TableName": "Ranged", "Segment": segment, "TotalSegments": 4, "Limit": 7});
        let before = seen.len();
        loop {
            let page = fixture.ok("Scan", request.clone());
            for item in page["Items"].as_array().expect("a list") {
                let key = (text(&item["k"]["S"]), text(&item["r"]["N"]));
                assert!(seen.insert(key), "an item twice: {item}");
            }
            if page["LastEvaluatedKey"].is_null() {
                break;
            }
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"].clone();
        }
        busy += usize::from(seen.len() > before);
    }
    assert_eq!(seen.len(), 213);
    assert_eq!(busy, 4, "each segment has some of them");
}

#[test]
fn a_page_ends_after_a_megabyte() {
    let mut fixture = fixture();
    for index in 0..5 {
        let item = json!({"k": {"S": "big"}, "r": {"N": index.to_string()}, "x": {"S": "y".repeat(300_000)}});
        fixture.ok("PutItem", json!({"TableName": "Ranged", "Item": item}));
    }
    let page = fixture.ok("Query", query("k = :k", json!({":k": {"S": "big"}})));
    assert_eq!(page["Count"], 4);
    assert_eq!(page["LastEvaluatedKey"], json!({"k": {"S": "big"}, "r": {"N": "3"}}));
}

#[test]
fn readings_that_make_no_sense_are_refused() {
    let mut fixture = fixture();
    let scan = |member: &str, value: Value| {
        let mut request = json!({"TableName": "Ranged"});
        request[member] = value;
        request
    };
    let cases = [
        ("Query", json!({"TableName": "Ranged"}), "must be specified"),
        ("Query", query("r = :r", json!({":r": {"N": "1"}})), "missed key schema element: k"),
        ("Query", query("k = :k", json!({":k": {"N": "1"}})), "type"),
        ("Scan", scan("Limit", json!(0)), "greater than or equal to 1"),
        ("Scan", scan("Segment", json!(0)), "TotalSegments parameter is required"),
        ("Scan", scan("IndexName", json!("byColour")), "byColour"),
        ("Scan", scan("ExclusiveStartKey", json!({"k": {"S": "a"}})), "starting key is invalid"),
        ("Scan", scan("QueryFilter", json!({})), "QueryFilter is not supported"),
    ];
    for (operation, body, part) in cases {
        fixture.refused(operation, body, "ValidationException", part);
    }
}
