//! Many items in one call, each on its own: BatchWriteItem and BatchGetItem.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::capacity::{CapacityDetail, Cost, read_units, tell_costs};
use crate::emulator::{Emulator, Reply, json_reply};
use crate::error::ServiceError;
use crate::items::read_projection;
use crate::request::Parameters;
use crate::stream::record::WriteSource;
use crate::table::{ItemKey, Table, check_item_size};
use crate::timestamp::Timestamp;
use crate::value::{Item, item_from_json, item_size, item_to_json};

/// The most writes in a BatchWriteItem, and keys in a BatchGetItem.
const MAX_WRITES: usize = 25;
const MAX_KEYS: usize = 100;
/// The most bytes of items that a BatchGetItem answers with; the other keys come back unprocessed.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

impl Emulator {
    pub(super) fn batch_write_item(&mut self, now: Timestamp, body: &Value) -> Reply {
        let known = ["RequestItems", "ReturnConsumedCapacity", "ReturnItemCollectionMetrics"];
        let parameters = Parameters::new(body, &known)?;
        let detail = CapacityDetail::read(&parameters)?;
        parameters.choice("ReturnItemCollectionMetrics", &["NONE", "SIZE"])?;
        let by_table = request_items(&parameters)?;
        let total: usize = by_table.values().map(|list| list.as_array().map_or(0, Vec::len)).sum();
        if total > MAX_WRITES {
            return Err(ServiceError::validation("Too many items requested for the BatchWriteItem call"));
        }
        let mut writes = Vec::with_capacity(total);
        let mut seen = BTreeSet::new();
        for (name, list) in by_table {
            let table = self.table_for_items(name)?;
            let list = list.as_array().filter(|list| !list.is_empty()).ok_or_else(|| {
                ServiceError::validation(format!(
                    "The batch write request list for a table cannot be null or empty: {name}"
                ))
            })?;
            for request in list {
                let (key, item) = read_write(table, request)?;
                if !seen.insert((name, key.clone())) {
                    return Err(duplicates());
                }
                writes.push((name, key, item));
            }
        }
        let mut costs: BTreeMap<String, Cost> = BTreeMap::new();
        for (name, key, new) in writes {
            let table = self.table_for_items(name)?;
            let cost = Cost::of_write(table, table.item(&key), new.as_ref());
            costs.entry(name.clone()).or_default().add(&cost, 1.0);
            self.replace_item(now, name, &key, new, WriteSource::Request);
        }
        for (table, cost) in &costs {
            self.stats.units_of(table).write += cost.total();
        }
        let mut answer = Map::from_iter([("UnprocessedItems".to_owned(), json!({}))]);
        tell_costs(detail, &costs, None, &mut answer);
        json_reply(&answer.into())
    }

    pub(super) fn batch_get_item(&mut self, body: &Value) -> Reply {
        let parameters = Parameters::new(body, &["RequestItems", "ReturnConsumedCapacity"])?;
        let detail = CapacityDetail::read(&parameters)?;
        let by_table = request_items(&parameters)?;
        let mut responses = Map::new();
        let mut unprocessed = Map::new();
        let mut costs: BTreeMap<String, Cost> = BTreeMap::new();
        let mut bytes = 0;
        let mut keys_seen = 0;
        for (name, request) in by_table {
            let read = self.read_batch(name, request)?;
            keys_seen += read.keys.len();
            if keys_seen > MAX_KEYS {
                return Err(ServiceError::validation("Too many items requested for the BatchGetItem call"));
            }
            let mut items = Vec::new();
            let mut left = Vec::new();
            for (json, item) in read.keys {
                if bytes > MAX_ANSWER_BYTES {
                    left.push(json.clone());
                    continue;
                }
                let size = item.as_ref().map_or(0, item_size);
                bytes += size;
                costs.entry(name.clone()).or_default().table += read_units(size, read.consistent);
                if let Some(item) = item {
                    items.push(match &read.projection {
                        Some(projection) => item_to_json(&projection.project(&item)),
                        None => item_to_json(&item),
                    });
                }
            }
            responses.insert(name.clone(), items.into());
            if !left.is_empty() {
                let mut rest = request.clone();
                rest["Keys"] = left.into();
                unprocessed.insert(name.clone(), rest);
            }
        }
        for (table, cost) in &costs {
            self.stats.units_of(table).read += cost.total();
        }
        let mut answer = Map::from_iter([
            ("Responses".to_owned(), responses.into()),
            ("UnprocessedKeys".to_owned(), unprocessed.into()),
        ]);
        tell_costs(detail, &costs, None, &mut answer);
        json_reply(&answer.into())
    }

    fn read_batch<'a>(&self, name: &str, request: &'a Value) -> Result<BatchRead<'a>, ServiceError> {
        let known = ["Keys", "ConsistentRead", "AttributesToGet", "ProjectionExpression", "ExpressionAttributeNames"];
        let parameters = Parameters::new(request, &known)?;
        let table = self.table_for_items(name)?;
        let projection = read_projection(request, &parameters)?;
        let consistent = parameters.flag("ConsistentRead")?.unwrap_or(false);
        let list = parameters.list("Keys")?.filter(|keys| !keys.is_empty()).ok_or_else(|| {
            ServiceError::validation(format!(
                "The list of keys in RequestItems for BatchGetItem is required: {name} has empty list"
            ))
        })?;
        let mut seen = BTreeSet::new();
        let mut keys = Vec::with_capacity(list.len());
        for json in list {
            let key = table.schema.key_of_request(&item_from_json(json)?)?;
            keys.push((json, table.item(&key).cloned()));
            if !seen.insert(key) {
                return Err(duplicates());
            }
        }
        Ok(BatchRead { keys, projection, consistent })
    }
}

/// The part of a BatchGetItem for one table: each key as given, with its item.
struct BatchRead<'a> {
    keys: Vec<(&'a Value, Option<Item>)>,
    projection: Option<super::expression::Projection>,
    consistent: bool,
}

fn request_items<'a>(parameters: &Parameters<'a>) -> Result<&'a Map<String, Value>, ServiceError> {
    parameters.map("RequestItems")?.filter(|items| !items.is_empty()).ok_or_else(|| {
        ServiceError::validation(
            "1 validation error detected: Value '{}' at 'requestItems' failed to satisfy constraint: Member must \
                 have length greater than or equal to 1",
        )
    })
}

/// One `PutRequest` or `DeleteRequest`.
fn read_write(table: &Table, request: &Value) -> Result<(ItemKey, Option<Item>), ServiceError> {
    let parameters = Parameters::new(request, &["PutRequest", "DeleteRequest"])?;
    match (parameters.value("PutRequest"), parameters.value("DeleteRequest")) {
        (Some(put), None) => {
            let item = item_from_json(Parameters::new(put, &["Item"])?.required("Item")?)?;
            check_item_size(&item, "Item size has exceeded the maximum allowed size")?;
            if let Some(unfit) = table.unfit_index_key(&item) {
                return Err(unfit.in_put());
            }
            Ok((table.schema.key_of_item(&item)?, Some(item)))
        }
        (None, Some(delete)) => {
            let key = super::items::read_key(table, &Parameters::new(delete, &["Key"])?)?;
            Ok((key, None))
        }
        _ => Err(ServiceError::validation("A write request must have exactly one of PutRequest and DeleteRequest")),
    }
}

fn duplicates() -> ServiceError {
    ServiceError::validation("Provided list of item keys contains duplicates")
}
