//! Random operations on both services, whose answers, items, indexes and stream records must be alike.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use fastrand::Rng;
use serde_json::{Value, json};

use crate::all_records;
use crate::services::Service;
use crate::wait::eventually;
use crate::wire::{Answer, call, good};

const OPERATIONS: usize = 200;

/// Runs the operations of one seed on a table of its own.
pub fn check(services: [&Service; 2], seed: u64) {
    let mut random = Rng::with_seed(seed);
    let table = format!("Random{seed}");
    let streams = services.map(|service| {
        let created = good(service.address, "CreateTable", &definition(&table));
        created["TableDescription"]["LatestStreamArn"].clone()
    });
    let scans = ["", "byG", "local"].map(|index| {
        let scan = if index.is_empty() { json!({}) } else { json!({"IndexName": index}) };
        ("Scan", with_table(scan, &table))
    });
    let operations = (0..OPERATIONS).map(|_| operation(&table, &mut random)).chain(scans);
    let mut differences = Vec::new();
    for (number, (operation, body)) in operations.enumerate() {
        let answers = services.map(|service| answer(service.address, operation, &body));
        if answers[0] != answers[1] {
            let [ours, official] = answers;
            differences.push(format!("{number}: {operation} {body}\n  {ours:?}\n  {official:?}"));
        }
    }
    assert!(differences.is_empty(), "seed {seed}:\n{}", differences.join("\n"));
    let written = records_by_key(services[0], &streams[0]);
    eventually("both streams have the same records", || {
        (records_by_key(services[1], &streams[1]) == written).then_some(())
    });
}

fn definition(table: &str) -> Value {
    let key = |hash: &str, range: &str| json!([{"AttributeName": hash, "KeyType": "HASH"}, {"AttributeName": range, "KeyType": "RANGE"}]);
    let kinds = [("k", "S"), ("r", "N"), ("g", "S"), ("h", "N")];
    let definitions = kinds.map(|(name, kind)| json!({"AttributeName": name, "AttributeType": kind}));
    json!({
        "TableName": table,
        "AttributeDefinitions": definitions,
        "KeySchema": key("k", "r"),
        "BillingMode": "PAY_PER_REQUEST",
        "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        "GlobalSecondaryIndexes": [{
            "IndexName": "byG",
            "KeySchema": key("g", "h"),
            "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["x"]},
        }],
        "LocalSecondaryIndexes": [{
            "IndexName": "local",
            "KeySchema": key("k", "h"),
            "Projection": {"ProjectionType": "KEYS_ONLY"},
        }],
    })
}

fn operation(table: &str, random: &mut Rng) -> (&'static str, Value) {
    match random.u32(..12) {
        0..3 => {
            let mut put = json!({"Item": item(random), "ReturnValues": "ALL_OLD", "ReturnConsumedCapacity": "INDEXES"});
            maybe_condition(&mut put, random);
            ("PutItem", with_table(put, table))
        }
        3..6 => {
            let mut update = update(random);
            update["ReturnValues"] = pick(random, &["NONE", "ALL_OLD", "UPDATED_OLD", "ALL_NEW", "UPDATED_NEW"]).into();
            update["ReturnConsumedCapacity"] = "INDEXES".into();
            ("UpdateItem", with_table(update, table))
        }
        6 => {
            let mut delete =
                json!({"Key": key(random), "ReturnValues": "ALL_OLD", "ReturnConsumedCapacity": "INDEXES"});
            maybe_condition(&mut delete, random);
            ("DeleteItem", with_table(delete, table))
        }
        7 => {
            let actions: Vec<Value> = distinct_keys(random)
                .into_iter()
                .map(|key| {
                    let mut action = json!({"Key": key, "TableName": table});
                    maybe_condition(&mut action, random);
                    if random.bool() {
                        action["UpdateExpression"] = "ADD n :one".into();
                        action["ExpressionAttributeValues"][":one"] = json!({"N": "1"});
                        json!({"Update": action})
                    } else {
                        json!({"Delete": action})
                    }
                })
                .collect();
            ("TransactWriteItems", json!({"TransactItems": actions}))
        }
        8 => {
            let writes: Vec<Value> = distinct_keys(random)
                .into_iter()
                .map(|key| {
                    let mut new = item(random);
                    new["k"] = key["k"].clone();
                    new["r"] = key["r"].clone();
                    let put = json!({"PutRequest": {"Item": new}});
                    if random.bool() { put } else { json!({"DeleteRequest": {"Key": key}}) }
                })
                .collect();
            ("BatchWriteItem", json!({"RequestItems": {table: writes}}))
        }
        9 => {
            let query = json!({
                "KeyConditionExpression": "k = :k AND r >= :r",
                "ExpressionAttributeValues": {":k": key(random)["k"], ":r": {"N": random.u32(..3).to_string()}},
                "ScanIndexForward": random.bool(),
                "Limit": random.u32(1..4),
            });
            ("Query", with_table(query, table))
        }
        10 => {
            let query = json!({
                "IndexName": "byG",
                "KeyConditionExpression": "g = :g AND h BETWEEN :low AND :high",
                "FilterExpression": "attribute_exists(x) OR k = :a",
                "ExpressionAttributeValues": {
                    ":g": {"S": pick(random, &["p", "q"])}, ":low": {"N": "0"}, ":high": {"N": random.u32(..5).to_string()},
                    ":a": {"S": "a"},
                },
            });
            ("Query", with_table(query, table))
        }
        _ => {
            let query = json!({
                "IndexName": "local",
                "KeyConditions": {"k": {"ComparisonOperator": "EQ", "AttributeValueList": [key(random)["k"]]}},
                "Select": pick(random, &["ALL_ATTRIBUTES", "ALL_PROJECTED_ATTRIBUTES", "COUNT"]),
                "ConsistentRead": random.bool(),
            });
            ("Query", with_table(query, table))
        }
    }
}

fn update(random: &mut Rng) -> Value {
    let mut update = json!({"Key": key(random)});
    let (expression, values) = match random.u32(..9) {
        0 => ("SET x = :v", json!({":v": {"S": random.u32(..3).to_string()}})),
        1 => ("REMOVE g, m.a", json!({})),
        2 => ("ADD n :one", json!({":one": {"N": "1"}})),
        3 => ("SET h = if_not_exists(h, :zero) + :one", json!({":zero": {"N": "0"}, ":one": {"N": "1"}})),
        4 => ("SET g = :g REMOVE x", json!({":g": {"S": pick(random, &["p", "q"])}})),
        5 => ("ADD ss :ss", json!({":ss": {"SS": [pick(random, &["i", "j"])]}})),
        6 => ("DELETE ss :ss", json!({":ss": {"SS": [pick(random, &["i", "j"])]}})),
        7 => ("SET m = :m", json!({":m": {"M": {"a": {"L": [{"BOOL": true}]}}}})),
        _ => {
            update["AttributeUpdates"] = json!({
                "n": {"Action": "ADD", "Value": {"N": "2"}},
                "x": {"Action": pick(random, &["PUT", "DELETE"])},
            });
            if update["AttributeUpdates"]["x"]["Action"] == "PUT" {
                update["AttributeUpdates"]["x"]["Value"] = json!({"S": "legacy"});
            }
            if random.bool() {
                update["Expected"] = json!({"n": {"ComparisonOperator": "NOT_NULL"}});
            }
            return update;
        }
    };
    update["UpdateExpression"] = expression.into();
    if values != json!({}) {
        update["ExpressionAttributeValues"] = values;
    }
    maybe_condition(&mut update, random);
    update
}

fn maybe_condition(request: &mut Value, random: &mut Rng) {
    let condition = match random.u32(..8) {
        0 => "attribute_not_exists(k)",
        1 => "attribute_exists(k) AND NOT contains(ss, x)",
        2 => "n < h OR size(ss) > r",
        3 => "g IN (x, k) OR attribute_type(h, :type)",
        _ => return,
    };
    request["ConditionExpression"] = condition.into();
    if condition.contains(":type") {
        request["ExpressionAttributeValues"][":type"] = json!({"S": "N"});
    }
}

fn item(random: &mut Rng) -> Value {
    let mut item = key(random);
    let values = [
        ("g", json!({"S": pick(random, &["p", "q"])})),
        ("h", json!({"N": random.u32(..4).to_string()})),
        ("x", json!({"S": random.u32(..3).to_string()})),
        ("n", json!({"N": format!("-{}.5e{}", random.u32(..9), random.u32(..30))})),
        ("m", json!({"M": {"a": {"NULL": true}}})),
    ];
    for (name, value) in values {
        if random.bool() {
            item[name] = value;
        }
    }
    item
}

fn key(random: &mut Rng) -> Value {
    json!({"k": {"S": pick(random, &["a", "b", "c"])}, "r": {"N": random.u32(..3).to_string()}})
}

fn distinct_keys(random: &mut Rng) -> Vec<Value> {
    let keys: BTreeMap<String, Value> = (0..3).map(|_| key(random)).map(|key| (key.to_string(), key)).collect();
    keys.into_values().collect()
}

fn pick(random: &mut Rng, words: &[&'static str]) -> &'static str {
    words[random.usize(..words.len())]
}

fn with_table(mut body: Value, table: &str) -> Value {
    body["TableName"] = table.into();
    body
}

/// An answer without what no service promises: the wording of errors, the order of sets, scans and equal sort keys, and
/// whether a page that ends a query has a last key. Also without the cost of global indexes: DynamoDB Local counts an
/// item that has only one attribute of the index's key. The transcripts have exact costs.
fn answer(address: SocketAddr, operation: &str, request: &Value) -> (u16, Value) {
    let Answer { status, mut body } = match operation {
        "Query" => query(address, request),
        _ => call(address, operation, request),
    };
    if status != 200 {
        return (status, body["__type"].take());
    }
    sort_sets(&mut body);
    let in_order = request.get("ScanIndexForward").is_some();
    if let (false, Some(items)) = (in_order, body.get_mut("Items").and_then(Value::as_array_mut)) {
        items.sort_by_key(Value::to_string);
    }
    if let Some(cost) = body.get_mut("ConsumedCapacity").and_then(Value::as_object_mut) {
        cost.remove("GlobalSecondaryIndexes");
        cost.remove("CapacityUnits");
    }
    (status, body)
}

/// The answer to a query, as one that has all its pages; none may be longer than the limit.
fn query(address: SocketAddr, request: &Value) -> Answer {
    let mut request = request.clone();
    let mut whole = call(address, "Query", &request);
    let limit = request["Limit"].as_u64().unwrap_or(u64::MAX);
    let mut key = whole.body["LastEvaluatedKey"].take();
    while key.is_object() {
        request["ExclusiveStartKey"] = key;
        let mut page = good(address, "Query", &request);
        assert!(page["ScannedCount"].as_u64().is_some_and(|scanned| scanned <= limit), "{page}");
        key = page["LastEvaluatedKey"].take();
        for count in ["Count", "ScannedCount"] {
            whole.body[count] = (whole.body[count].as_u64().unwrap_or(0) + page[count].as_u64().unwrap_or(0)).into();
        }
        let items = page["Items"].as_array_mut().map(std::mem::take).unwrap_or_default();
        whole.body["Items"].as_array_mut().expect("items").extend(items);
    }
    whole
}

fn sort_sets(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match (name.as_str(), member) {
                    ("SS", Value::Array(set)) => set.sort_by_key(Value::to_string),
                    (_, member) => sort_sets(member),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(sort_sets),
        _ => {}
    }
}

/// The changes of each item, in order.
fn records_by_key(service: &Service, stream: &Value) -> BTreeMap<String, Vec<Value>> {
    let mut records = all_records(service.address, &json!({"StreamArn": stream}), 0);
    sort_sets(&mut records);
    let mut by_key: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for record in records["Records"].as_array().expect("records") {
        let change = &record["dynamodb"];
        let seen = json!([record["eventName"], change["OldImage"], change["NewImage"], change["SizeBytes"]]);
        by_key.entry(change["Keys"].to_string()).or_default().push(seen);
    }
    by_key
}
