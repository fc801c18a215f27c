//! Query and Scan, page by page.

use std::ops::Bound;

use serde_json::Value;

use crate::emulator::{Emulator, Reply};
use crate::error::ServiceError;
use crate::expression::{Condition, ExpressionKind, KeyCondition, Placeholders, Projection};
use crate::items::{CapacityDetail, capacity_detail, consumed, read_units};
use crate::request::Parameters;
use crate::stream::record::append;
use crate::table::{ItemKey, KeySchema, PartitionKey};
use crate::tables::table_name;
use crate::value::{AttributeValue, Item, item_from_json, item_size, write_item_json};

/// The bytes of items that end a page, filtered ones included.
const PAGE_BYTES: usize = 1024 * 1024;

/// The request of a Query or Scan.
struct ReadRequest<'a> {
    table: &'a str,
    filter: Option<Condition>,
    projection: Option<Projection>,
    key_condition: Option<KeyCondition>,
    limit: usize,
    start: Option<ItemKey>,
    count_only: bool,
    consistent: bool,
    detail: CapacityDetail,
}

/// A page as it grows.
struct PageBuilder<'a> {
    reading: &'a ReadRequest<'a>,
    schema: &'a KeySchema,
    items: Vec<u8>,
    count: usize,
    scanned: usize,
    bytes: usize,
    /// The key of the last item evaluated.
    last: Option<ItemKey>,
}

const COMMON: [&str; 11] = [
    "TableName",
    "FilterExpression",
    "ProjectionExpression",
    "ExpressionAttributeNames",
    "ExpressionAttributeValues",
    "Limit",
    "ExclusiveStartKey",
    "Select",
    "ConsistentRead",
    "ReturnConsumedCapacity",
    "IndexName",
];

impl Emulator {
    pub(super) fn query(&mut self, body: &Value) -> Reply {
        let mut known = COMMON.to_vec();
        known.extend(["KeyConditionExpression", "ScanIndexForward"]);
        let parameters = Parameters::new(body, &known)?;
        let forward = parameters.flag("ScanIndexForward")?.unwrap_or(true);
        let reading = self.read_reading(body, &parameters, true)?;
        let Some(condition) = &reading.key_condition else {
            return Err(ServiceError::validation(
                "Either the KeyConditions or KeyConditionExpression parameter must be specified in the request.",
            ));
        };
        let partition = PartitionKey::new(condition.hash().clone());
        if reading.start.as_ref().is_some_and(|start| start.partition != partition) {
            return Err(ServiceError::validation(
                "The provided starting key is outside query boundaries based on provided conditions",
            ));
        }
        let table = self.table_for_items(reading.table)?;
        let start = reading.start.as_ref().map(|start| &start.sort);
        let bounds = match (start, forward) {
            (None, _) => (Bound::Unbounded, Bound::Unbounded),
            (Some(start), true) => (Bound::Excluded(start), Bound::Unbounded),
            (Some(start), false) => (Bound::Unbounded, Bound::Excluded(start)),
        };
        let matching = table
            .partition(&partition)
            .into_iter()
            .flat_map(|items| items.range::<Option<AttributeValue>, _>(bounds))
            .filter(|(sort, _)| sort.as_ref().is_none_or(|sort| condition.matches_range(sort)))
            .map(|(_, item)| item);
        let mut page = PageBuilder::new(&reading, &table.schema);
        let ended = if forward { page.fill(matching)? } else { page.fill(matching.rev())? };
        let (body, units) = page.finish(ended);
        self.stats.units_of(reading.table).read += units;
        Ok(body.into())
    }

    pub(super) fn scan(&mut self, body: &Value) -> Reply {
        let mut known = COMMON.to_vec();
        known.extend(["Segment", "TotalSegments"]);
        let parameters = Parameters::new(body, &known)?;
        let (from, to) = segment(&parameters)?;
        let reading = self.read_reading(body, &parameters, false)?;
        let start = reading.start.as_ref();
        if start.is_some_and(|start| !(from..=to).contains(&start.partition.ring)) {
            return Err(ServiceError::validation(
                "The provided Exclusive start key does not map to the provided Segment and TotalSegments values.",
            ));
        }
        let table = self.table_for_items(reading.table)?;
        let mut page = PageBuilder::new(&reading, &table.schema);
        let ended = page.fill(table.items_after(from, to, start))?;
        let (body, units) = page.finish(ended);
        self.stats.units_of(reading.table).read += units;
        Ok(body.into())
    }

    fn read_reading<'a>(
        &self,
        body: &Value,
        parameters: &Parameters<'a>,
        is_query: bool,
    ) -> Result<ReadRequest<'a>, ServiceError> {
        let name = table_name(parameters)?;
        let table = self.table_for_items(name)?;
        if let Some(index) = parameters.text("IndexName")? {
            return Err(ServiceError::validation(format!("The table does not have the specified index: {index}")));
        }
        let schema = &table.schema;
        let placeholders = Placeholders::from_request(body)?;
        let filter_text = parameters.text("FilterExpression")?;
        let projection_text = parameters.text("ProjectionExpression")?;
        let key_text = if is_query { parameters.text("KeyConditionExpression")? } else { None };
        let missing: &[&str] = match (filter_text, key_text, is_query) {
            (None, None, true) => &["FilterExpression", "KeyConditionExpression"],
            (None, None, false) => &["FilterExpression"],
            _ => &[],
        };
        let has_expression = filter_text.is_some() || key_text.is_some() || projection_text.is_some();
        placeholders.check_wanted(has_expression, missing)?;
        let range_name = schema.range.as_ref().map(|range| range.name.as_str());
        let range_kind = schema.range.as_ref().map(|range| range.kind.as_str());
        let key_condition = match key_text {
            Some(text) => {
                let condition = KeyCondition::parse(text, &placeholders, &schema.hash.name, range_name)?;
                condition.check_types(&schema.hash.kind, range_kind)?;
                Some(condition)
            }
            None => None,
        };
        let filter = match filter_text {
            Some(text) => Some(Condition::parse(ExpressionKind::FilterExpression, text, &placeholders)?),
            None => None,
        };
        if let (Some(filter), true) = (&filter, is_query) {
            filter.check_no_keys(&schema.names())?;
        }
        let projection = match projection_text {
            Some(text) => Some(Projection::parse(text, &placeholders)?),
            None => None,
        };
        placeholders.check_all_used()?;
        let start = match parameters.value("ExclusiveStartKey") {
            Some(json) => Some(start_key(schema, json)?),
            None => None,
        };
        Ok(ReadRequest {
            table: name,
            filter,
            count_only: select(parameters, projection.is_some())?,
            projection,
            key_condition,
            limit: parameters.limit()?.unwrap_or(usize::MAX),
            start,
            consistent: parameters.flag("ConsistentRead")?.unwrap_or(false),
            detail: capacity_detail(parameters)?,
        })
    }
}

impl<'a> PageBuilder<'a> {
    fn new(reading: &'a ReadRequest<'a>, schema: &'a KeySchema) -> Self {
        Self { reading, schema, items: Vec::new(), count: 0, scanned: 0, bytes: 0, last: None }
    }

    /// Takes items until the page is full; true if none was left.
    fn fill<'i>(&mut self, items: impl Iterator<Item = &'i Item>) -> Result<bool, ServiceError> {
        for item in items {
            self.take(item)?;
            if self.scanned >= self.reading.limit || self.bytes >= PAGE_BYTES {
                self.last = Some(self.schema.key_of_item(item)?);
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn take(&mut self, item: &Item) -> Result<(), ServiceError> {
        self.scanned += 1;
        self.bytes += item_size(item);
        if let Some(filter) = &self.reading.filter
            && !filter.holds(Some(item))?
        {
            return Ok(());
        }
        self.count += 1;
        if self.reading.count_only {
            return Ok(());
        }
        if !self.items.is_empty() {
            self.items.push(b',');
        }
        match &self.reading.projection {
            Some(projection) => write_item_json(&projection.project(item), &mut self.items),
            None => write_item_json(item, &mut self.items),
        }
        Ok(())
    }

    /// The answer's JSON, and the read units it cost.
    fn finish(self, ended: bool) -> (Vec<u8>, f64) {
        let Self { reading, schema, items, count, scanned, bytes, last } = self;
        let mut out = Vec::with_capacity(items.len() + 256);
        append(&mut out, format_args!("{{\"Count\":{count},\"ScannedCount\":{scanned}"));
        if !reading.count_only {
            out.extend_from_slice(b",\"Items\":[");
            out.extend_from_slice(&items);
            out.push(b']');
        }
        if let (false, Some(last)) = (ended, &last) {
            out.extend_from_slice(b",\"LastEvaluatedKey\":");
            write_item_json(&schema.item_of_key(last), &mut out);
        }
        let units = read_units(bytes, reading.consistent);
        if let Some(consumed) = consumed(reading.detail, reading.table, units) {
            append(&mut out, format_args!(",\"ConsumedCapacity\":{consumed}"));
        }
        out.push(b'}');
        (out, units)
    }
}

fn start_key(schema: &KeySchema, json: &Value) -> Result<ItemKey, ServiceError> {
    let key = item_from_json(json)?;
    schema.key_of_request(&key).map_err(|_| ServiceError::validation("The provided starting key is invalid"))
}

/// Whether only counts are wanted; refuses the ways of `Select` that do not fit.
fn select(parameters: &Parameters<'_>, has_projection: bool) -> Result<bool, ServiceError> {
    let Some(given) = parameters.text("Select")? else {
        return Ok(false);
    };
    let ways = ["ALL_ATTRIBUTES", "SPECIFIC_ATTRIBUTES", "COUNT", "ALL_PROJECTED_ATTRIBUTES"];
    let way = parameters.choice("Select", &ways)?;
    match (way, has_projection) {
        ("SPECIFIC_ATTRIBUTES", false) => Err(ServiceError::validation(
            "Must specify the ProjectionExpression when choosing to get SPECIFIC_ATTRIBUTES",
        )),
        ("ALL_PROJECTED_ATTRIBUTES", _) => {
            Err(ServiceError::validation("ALL_PROJECTED_ATTRIBUTES can be used only when Querying using an IndexName"))
        }
        ("ALL_ATTRIBUTES" | "COUNT", true) => Err(ServiceError::validation(format!(
            "Cannot specify the ProjectionExpression when choosing to get {given}"
        ))),
        _ => Ok(way == "COUNT"),
    }
}

/// The part of the ring that a parallel scan's segment has.
fn segment(parameters: &Parameters<'_>) -> Result<(u64, u64), ServiceError> {
    let segment = parameters.integer("Segment")?;
    let total = parameters.integer("TotalSegments")?;
    let (segment, total) = match (segment, total) {
        (None, None) => return Ok((0, u64::MAX)),
        (Some(_), None) => {
            return Err(ServiceError::validation(
                "The TotalSegments parameter is required but was not present in the request when Segment parameter is \
                 present",
            ));
        }
        (None, Some(_)) => {
            return Err(ServiceError::validation(
                "The Segment parameter is required but was not present in the request when parameter TotalSegments is \
                 present",
            ));
        }
        (Some(segment), Some(total)) => (segment, total),
    };
    if !(1..=1_000_000).contains(&total) {
        return Err(ServiceError::validation(format!(
            "1 validation error detected: Value '{total}' at 'totalSegments' failed to satisfy constraint: Member must \
             have value between 1 and 1000000"
        )));
    }
    if !(0..total).contains(&segment) {
        return Err(ServiceError::validation(format!(
            "The Segment parameter is zero-based and must be less than parameter TotalSegments: Segment: {segment} is \
             not less than TotalSegments: {total}"
        )));
    }
    let ring = 1_i128 << 64;
    let bound = |index: i64| ring * i128::from(index) / i128::from(total);
    let place = |bound: i128| u64::try_from(bound).unwrap_or(u64::MAX);
    Ok((place(bound(segment)), place(bound(segment + 1) - 1)))
}
