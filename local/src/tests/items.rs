//! Single items and batches of them.

use serde_json::{Value, json};

use super::{Fixture, ranged_table, simple_table};

fn fixture() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.ok("CreateTable", simple_table("Tab"));
    fixture
}

fn get(fixture: &mut Fixture, key: &str) -> Value {
    fixture.ok("GetItem", json!({"TableName": "Tab", "Key": {"k": {"S": key}}}))["Item"].clone()
}

#[test]
fn an_item_is_read_as_it_was_put_and_gone_once_deleted() {
    let mut fixture = fixture();
    let item = json!({"k": {"S": "a"}, "set": {"NS": ["1", "2"]}, "map": {"M": {"x": {"L": [{"BOOL": true}]}}}});
    fixture.ok("PutItem", json!({"TableName": "Tab", "Item": item}));
    assert_eq!(get(&mut fixture, "a"), item);
    let body = json!({"TableName": "Tab", "Key": {"k": {"S": "a"}}, "ReturnValues": "ALL_OLD"});
    assert_eq!(fixture.ok("DeleteItem", body.clone())["Attributes"], item);
    assert_eq!(fixture.ok("DeleteItem", body), json!({}));
    assert_eq!(get(&mut fixture, "a"), Value::Null);
}

#[test]
fn a_failed_condition_answers_with_the_item_where_that_is_wanted() {
    let mut fixture = fixture();
    fixture.put("a", 1);
    let mut body = json!({
        "TableName": "Tab",
        "Item": {"k": {"S": "a"}},
        "ConditionExpression": "attribute_not_exists(k)",
    });
    let (status, error) = fixture.raw("PutItem", &body);
    assert_eq!(status, 400);
    assert!(error["Item"].is_null());
    body["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD".into();
    let (_, error) = fixture.raw("PutItem", &body);
    assert_eq!(
        error,
        json!({
            "__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
            "message": "The conditional request failed",
            "Item": {"k": {"S": "a"}, "v": {"N": "1"}},
        })
    );
}

#[test]
fn an_update_makes_the_item_and_returns_what_is_asked() {
    let mut fixture = fixture();
    let update = |returned: &str| {
        json!({
            "TableName": "Tab",
            "Key": {"k": {"S": "a"}},
            "UpdateExpression": "ADD hits :one SET #o = :one",
            "ExpressionAttributeNames": {"#o": "other"},
            "ExpressionAttributeValues": {":one": {"N": "1"}},
            "ReturnValues": returned,
        })
    };
    let after = |hits: &str| json!({"hits": {"N": hits}, "other": {"N": "1"}});
    assert_eq!(fixture.ok("UpdateItem", update("ALL_OLD")), json!({}));
    assert_eq!(fixture.ok("UpdateItem", update("UPDATED_OLD"))["Attributes"], after("1"));
    assert_eq!(fixture.ok("UpdateItem", update("UPDATED_NEW"))["Attributes"], after("3"));
    assert_eq!(fixture.ok("UpdateItem", update("ALL_NEW"))["Attributes"]["k"], json!({"S": "a"}));
    assert_eq!(fixture.ok("UpdateItem", update("NONE")), json!({}));
}

#[test]
fn requests_that_do_not_fit_the_table_are_refused() {
    let mut fixture = fixture();
    fixture.ok("CreateTable", ranged_table("Ranged"));
    let put = |item: Value| json!({"TableName": "Ranged", "Item": item});
    let cases = [
        ("PutItem", put(json!({"k": {"S": "a"}})), "Missing the key r"),
        ("PutItem", put(json!({"k": {"S": "a"}, "r": {"S": "1"}})), "expected: N actual: S"),
        ("PutItem", put(json!({"k": {"S": ""}, "r": {"N": "1"}})), "empty string value. Key: k"),
        ("PutItem", put(json!({"k": {"S": "x".repeat(2049)}, "r": {"N": "1"}})), "2048 bytes"),
        (
            "PutItem",
            put(json!({"k": {"S": "a"}, "r": {"N": "1"}, "big": {"S": "x".repeat(410_000)}})),
            "exceeded the maximum allowed size",
        ),
        ("GetItem", json!({"TableName": "Ranged", "Key": {"k": {"S": "a"}}}), "does not match the schema"),
        (
            "PutItem",
            json!({"TableName": "Tab", "Item": {"k": {"S": "a"}}, "ReturnValues": "ALL_NEW"}),
            "Return values set to invalid value",
        ),
        (
            "PutItem",
            json!({"TableName": "Tab", "Item": {"k": {"S": "a"}}, "Surprise": {}}),
            "Surprise is not supported",
        ),
        (
            "UpdateItem",
            json!({"TableName": "Tab", "Key": {"k": {"S": "a"}}, "UpdateExpression": "SET k = :v",
                   "ExpressionAttributeValues": {":v": {"S": "b"}}}),
            "part of the key",
        ),
        (
            "DeleteItem",
            json!({"TableName": "Tab", "Key": {"k": {"S": "a"}}, "ExpressionAttributeValues": {":v": {"S": "b"}}}),
            "ConditionExpression is null",
        ),
    ];
    for (operation, body, part) in cases {
        fixture.refused(operation, body, "ValidationException", part);
    }
    let body = json!({"TableName": "None", "Item": {"k": {"S": "a"}}});
    fixture.refused("PutItem", body, "ResourceNotFoundException", "Requested resource not found");
    fixture.refused("ExecuteStatement", json!({}), "UnknownOperationException", "PartiQL");
    fixture.refused("ListBackups", json!({}), "UnknownOperationException", "ListBackups");
}

#[test]
fn costs_are_told_and_counted() {
    let mut fixture = fixture();
    let item = json!({"k": {"S": "a"}, "text": {"S": "x".repeat(5000)}});
    let put = fixture.ok("PutItem", json!({"TableName": "Tab", "Item": item, "ReturnConsumedCapacity": "TOTAL"}));
    assert_eq!(put["ConsumedCapacity"], json!({"TableName": "Tab", "CapacityUnits": 5.0}));
    let mut get = json!({"TableName": "Tab", "Key": {"k": {"S": "a"}}, "ReturnConsumedCapacity": "TOTAL"});
    assert_eq!(fixture.ok("GetItem", get.clone())["ConsumedCapacity"]["CapacityUnits"], 1.0);
    get["ConsistentRead"] = true.into();
    assert_eq!(fixture.ok("GetItem", get)["ConsumedCapacity"]["CapacityUnits"], 2.0);
    let stats = fixture.emulator.stats().to_json();
    assert_eq!(stats["units"]["Tab"], json!({"read": 3.0, "write": 5.0}));
    assert_eq!(stats["calls"]["GetItem"], 2);
}

#[test]
fn batches_write_and_read_many_items() {
    let mut fixture = fixture();
    fixture.put("gone", 1);
    let mut writes: Vec<Value> =
        (0..20).map(|index| json!({"PutRequest": {"Item": {"k": {"S": index.to_string()}}}})).collect();
    writes.push(json!({"DeleteRequest": {"Key": {"k": {"S": "gone"}}}}));
    let answer = fixture.ok("BatchWriteItem", json!({"RequestItems": {"Tab": writes}}));
    assert_eq!(answer["UnprocessedItems"], json!({}));
    let keys: Vec<Value> = ["0", "19", "gone"].iter().map(|key| json!({"k": {"S": key}})).collect();
    let answer = fixture.ok("BatchGetItem", json!({"RequestItems": {"Tab": {"Keys": keys}}}));
    assert_eq!(answer["Responses"]["Tab"], json!([{"k": {"S": "0"}}, {"k": {"S": "19"}}]));

    let twice = json!({"RequestItems": {"Tab": [writes[0], writes[0]]}});
    fixture.refused("BatchWriteItem", twice, "ValidationException", "duplicates");
    let many: Vec<Value> =
        (0..26).map(|index| json!({"DeleteRequest": {"Key": {"k": {"S": index.to_string()}}}})).collect();
    let many = json!({"RequestItems": {"Tab": many}});
    fixture.refused("BatchWriteItem", many, "ValidationException", "Too many items");
}
