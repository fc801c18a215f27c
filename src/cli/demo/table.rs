//! Requests to the local service: the table `Phones` with its stream, the writes, and a scan of the lease table.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::phone::{Event, PhoneKey};
use shardkeeper_local::{LocalService, Request};

/// The table's name.
pub const TABLE: &str = "Phones";
/// The name of the workers' application, and so of their lease table.
pub const APP: &str = "demo";

/// The attributes of a phone, besides its key and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phone {
    /// The price.
    pub price: u64,
    /// The number in stock.
    pub stock: u64,
    /// The color.
    pub color: &'static str,
}

/// Creates the table, with a stream that has both images.
///
/// # Errors
/// When the service refuses.
pub fn create(service: &LocalService) -> Result<(), anyhow::Error> {
    call(
        service,
        "CreateTable",
        &json!({
            "TableName": TABLE,
            "AttributeDefinitions": [
                {"AttributeName": "Company", "AttributeType": "S"},
                {"AttributeName": "Model", "AttributeType": "S"},
            ],
            "KeySchema": [
                {"AttributeName": "Company", "KeyType": "HASH"},
                {"AttributeName": "Model", "KeyType": "RANGE"},
            ],
            "BillingMode": "PAY_PER_REQUEST",
            "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        }),
    )?;
    Ok(())
}

/// Writes or removes a phone, on the condition that the table has its last version.
///
/// # Errors
/// When the service refuses: the table is not as the writer left it.
pub fn write(
    service: &LocalService,
    key: &PhoneKey,
    event: Event,
    version: u64,
    phone: &Phone,
) -> Result<(), anyhow::Error> {
    let (company, model) = (&*key.company, &*key.model);
    let keys = json!({"Company": {"S": company}, "Model": {"S": model}});
    let is_last = "Version = :last";
    let last = json!({"N": (version - 1).to_string()});
    match event {
        Event::Insert => call(
            service,
            "PutItem",
            &json!({
                "TableName": TABLE,
                "Item": {
                    "Company": {"S": company},
                    "Model": {"S": model},
                    "Version": {"N": version.to_string()},
                    "Price": {"N": phone.price.to_string()},
                    "Stock": {"N": phone.stock.to_string()},
                    "Color": {"S": phone.color},
                },
                "ConditionExpression": "attribute_not_exists(Company)",
            }),
        ),
        Event::Modify => call(
            service,
            "UpdateItem",
            &json!({
                "TableName": TABLE,
                "Key": keys,
                "UpdateExpression": "SET Version = :version, Price = :price, Stock = :stock",
                "ConditionExpression": is_last,
                "ExpressionAttributeValues": {
                    ":version": {"N": version.to_string()},
                    ":price": {"N": phone.price.to_string()},
                    ":stock": {"N": phone.stock.to_string()},
                    ":last": last,
                },
            }),
        ),
        Event::Remove => call(
            service,
            "DeleteItem",
            &json!({
                "TableName": TABLE,
                "Key": keys,
                "ConditionExpression": is_last,
                "ExpressionAttributeValues": {":last": last},
            }),
        ),
    }?;
    Ok(())
}

/// The number of unfinished shards that each worker holds, by the lease table. Empty while there is no lease table.
///
/// # Errors
/// When the service's answer cannot be read.
pub fn shards_held(service: &LocalService) -> Result<BTreeMap<String, usize>, anyhow::Error> {
    let mut held = BTreeMap::new();
    let mut request = json!({"TableName": APP, "ConsistentRead": true});
    loop {
        let answer = service.handle(&to_request("Scan", &request));
        if answer.status != 200 {
            return Ok(held);
        }
        let page: Value = serde_json::from_slice(&answer.body).context("cannot read the lease table")?;
        for lease in page["Items"].as_array().into_iter().flatten() {
            let text = |name: &str| lease[name]["S"].as_str();
            // While a lease is handed over, its old owner still reads the shard.
            let Some(holder) = text("checkpointOwner").or_else(|| text("leaseOwner")) else { continue };
            if text("checkpoint") != Some("SHARD_END") {
                *held.entry(holder.to_owned()).or_default() += 1;
            }
        }
        match page.get("LastEvaluatedKey") {
            Some(key) => request["ExclusiveStartKey"] = key.clone(),
            None => return Ok(held),
        }
    }
}

fn call(service: &LocalService, operation: &str, body: &Value) -> Result<(), anyhow::Error> {
    let answer = service.handle(&to_request(operation, body));
    if answer.status != 200 {
        bail!("the local service refused {operation}: {}", String::from_utf8_lossy(&answer.body));
    }
    Ok(())
}

fn to_request(operation: &str, body: &Value) -> Request {
    Request { target: format!("DynamoDB_20120810.{operation}"), body: body.to_string().into() }
}
