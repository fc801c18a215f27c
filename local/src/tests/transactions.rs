//! Transactions: all or nothing.

use std::time::Duration;

use serde_json::{Value, json};

use super::Fixture;

fn put(key: &str) -> Value {
    json!({"Put": {"TableName": "Tab", "Item": {"k": {"S": key}}}})
}

fn check(key: &str, condition: &str) -> Value {
    json!({"ConditionCheck": {
        "TableName": "Tab",
        "Key": {"k": {"S": key}},
        "ConditionExpression": condition,
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }})
}

#[test]
fn every_action_is_made_and_recorded_in_order() {
    let mut fixture = Fixture::new();
    let arn = fixture.table();
    fixture.put("gone", 1);
    let items = json!([
        put("new"),
        {"Update": {"TableName": "Tab", "Key": {"k": {"S": "made"}}, "UpdateExpression": "SET v = :v",
                    "ExpressionAttributeValues": {":v": {"N": "7"}}}},
        {"Delete": {"TableName": "Tab", "Key": {"k": {"S": "gone"}}}},
        check("absent", "attribute_not_exists(k)"),
    ]);
    let body = json!({"TransactItems": items, "ReturnConsumedCapacity": "TOTAL"});
    let answer = fixture.ok("TransactWriteItems", body);
    assert_eq!(
        answer["ConsumedCapacity"],
        json!([{"TableName": "Tab", "CapacityUnits": 8.0, "WriteCapacityUnits": 8.0}])
    );
    let mut records = fixture.read_all(&arn);
    records.sort_by_key(|record| record["dynamodb"]["SequenceNumber"].to_string());
    let events: Vec<_> = records.iter().map(|record| record["eventName"].clone()).collect();
    assert_eq!(events, ["INSERT", "INSERT", "INSERT", "REMOVE"]);
}

#[test]
fn one_failed_condition_cancels_all_with_a_reason_for_each() {
    let mut fixture = Fixture::new();
    let arn = fixture.table();
    fixture.put("there", 1);
    let items = json!([put("new"), check("there", "attribute_not_exists(k)"), put("other")]);
    let (status, error) = fixture.raw("TransactWriteItems", &json!({"TransactItems": items}));
    assert_eq!(status, 400);
    assert_eq!(
        error["message"],
        "Transaction cancelled, please refer cancellation reasons for specific reasons [None, \
         ConditionalCheckFailed, None]"
    );
    assert_eq!(
        error["CancellationReasons"],
        json!([
            {"Code": "None"},
            {"Code": "ConditionalCheckFailed", "Message": "The conditional request failed",
             "Item": {"k": {"S": "there"}, "v": {"N": "1"}}},
            {"Code": "None"},
        ])
    );
    assert_eq!(fixture.ok("Scan", json!({"TableName": "Tab"}))["Count"], 1);
    assert_eq!(fixture.read_all(&arn).len(), 1);
}

#[test]
fn a_client_token_makes_a_request_count_once_for_ten_minutes() {
    let mut fixture = Fixture::new();
    fixture.table();
    let add = |amount: &str| {
        json!({"ClientRequestToken": "token", "TransactItems": [{"Update": {
            "TableName": "Tab", "Key": {"k": {"S": "a"}}, "UpdateExpression": "ADD v :v",
            "ExpressionAttributeValues": {":v": {"N": amount}}}}]})
    };
    let value = |fixture: &mut Fixture| {
        fixture.ok("GetItem", json!({"TableName": "Tab", "Key": {"k": {"S": "a"}}}))["Item"]["v"]["N"].clone()
    };
    fixture.ok("TransactWriteItems", add("1"));
    fixture.ok("TransactWriteItems", add("1"));
    assert_eq!(value(&mut fixture), "1");
    fixture.refused("TransactWriteItems", add("2"), "IdempotentParameterMismatchException", "same client token");
    fixture.pass(Duration::from_secs(601));
    fixture.ok("TransactWriteItems", add("1"));
    assert_eq!(value(&mut fixture), "2");
}

#[test]
fn transactions_that_do_not_fit_are_refused() {
    let mut fixture = Fixture::new();
    fixture.table();
    let cases = [
        (json!([]), "length greater than or equal to 1"),
        (json!(vec![put("a"); 101]), "length less than or equal to 100"),
        (json!([put("a"), put("a")]), "multiple operations on one item"),
        (json!([{}]), "one of Check, Put, Update or Delete"),
        (json!([{"Put": {"TableName": "Tab", "Item": {}}}]), "Missing the key k"),
    ];
    for (items, part) in cases {
        fixture.refused("TransactWriteItems", json!({"TransactItems": items}), "ValidationException", part);
    }
}

#[test]
fn reads_of_a_transaction_come_back_in_order() {
    let mut fixture = Fixture::new();
    fixture.table();
    fixture.put("a", 1);
    let get = |key: &str| json!({"Get": {"TableName": "Tab", "Key": {"k": {"S": key}}}});
    let answer = fixture.ok("TransactGetItems", json!({"TransactItems": [get("none"), get("a")]}));
    assert_eq!(answer["Responses"], json!([{}, {"Item": {"k": {"S": "a"}, "v": {"N": "1"}}}]));
}
