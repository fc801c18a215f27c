//! Query and Scan of tables and indexes, page by page.

use std::ops::Bound;

use serde_json::Value;

use crate::capacity::{CapacityDetail, Cost, read_units};
use crate::emulator::{Emulator, Reply};
use crate::error::ServiceError;
use crate::expression::{Condition, ExpressionKind, KeyCondition, Placeholders, Projection, legacy};
use crate::index::{IndexEntry, IndexProjection, IndexStatus, Scope, SecondaryIndex};
use crate::request::Parameters;
use crate::stream::record::append;
use crate::table::{ItemKey, KeySchema, PartitionKey, Table};
use crate::tables::table_name;
use crate::value::{AttributeValue, Item, item_from_json, item_size, write_item_json};

/// The bytes of items that end a page, filtered ones included.
const PAGE_BYTES: usize = 1024 * 1024;

/// The request of a Query or Scan.
struct ReadRequest<'a> {
    table: &'a Table,
    index: Option<&'a SecondaryIndex>,
    filter: Option<Condition>,
    projection: Option<Projection>,
    key_condition: Option<KeyCondition>,
    limit: usize,
    start: Option<StartKey>,
    content: Content,
    consistent: bool,
    detail: CapacityDetail,
}

/// The ExclusiveStartKey.
enum StartKey {
    Table(ItemKey),
    Index((PartitionKey, IndexEntry)),
}

/// The content of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Count,
    /// Items as the table or the index has them.
    Items,
    /// Whole items of the table, for each entry of a local index that has less.
    Fetched,
}

/// A page as it grows.
struct PageBuilder<'a> {
    request: &'a ReadRequest<'a>,
    items: Vec<u8>,
    count: usize,
    scanned: usize,
    bytes: usize,
    /// The units for items that are fetched from the table.
    fetched: f64,
    /// The key of the last item evaluated.
    last: Option<Item>,
}

const COMMON: [&str; 13] = [
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
    "AttributesToGet",
    "ConditionalOperator",
];

impl StartKey {
    fn partition(&self) -> &PartitionKey {
        match self {
            Self::Table(key) => &key.partition,
            Self::Index((partition, _)) => partition,
        }
    }

    fn sort(&self) -> Option<&AttributeValue> {
        match self {
            Self::Table(key) => key.sort.as_ref(),
            Self::Index((_, entry)) => entry.sort.as_ref(),
        }
    }
}

impl Emulator {
    pub(super) fn query(&mut self, body: &Value) -> Reply {
        let mut known = COMMON.to_vec();
        known.extend(["KeyConditionExpression", "ScanIndexForward", "KeyConditions", "QueryFilter"]);
        let parameters = Parameters::new(body, &known)?;
        let forward = parameters.flag("ScanIndexForward")?.unwrap_or(true);
        let request = self.read_request(body, &parameters, true)?;
        let Some(condition) = &request.key_condition else {
            return Err(ServiceError::validation(
                "Either the KeyConditions or KeyConditionExpression parameter must be specified in the request.",
            ));
        };
        let partition = PartitionKey::new(condition.hash().clone());
        if let Some(start) = &request.start {
            if start.partition() != &partition {
                return Err(ServiceError::validation(
                    "The provided starting key is outside query boundaries based on provided conditions",
                ));
            }
            if start.sort().is_some_and(|sort| !condition.matches_range(sort)) {
                return Err(ServiceError::validation(
                    "The provided starting key does not match the range key predicate",
                ));
            }
        }
        let in_range = |sort: Option<&AttributeValue>| sort.is_none_or(|sort| condition.matches_range(sort));
        let mut page = PageBuilder::new(&request);
        let table = request.table;
        let ended = match (request.index, &request.start) {
            (None, start) => {
                let start = match start {
                    Some(StartKey::Table(key)) => Some(&key.sort),
                    _ => None,
                };
                let items = table.partition(&partition).into_iter();
                let items = items.flat_map(|items| items.range::<Option<AttributeValue>, _>(bounds(start, forward)));
                page.fill_in(forward, items.filter(|(sort, _)| in_range(sort.as_ref())).map(|(_, item)| item))
            }
            (Some(index), start) => {
                let start = match start {
                    Some(StartKey::Index((_, entry))) => Some(entry),
                    _ => None,
                };
                let entries = index.partition(&partition).into_iter();
                let entries = entries.flat_map(|entries| entries.range::<IndexEntry, _>(bounds(start, forward)));
                let entries = entries.filter(|entry| in_range(entry.sort.as_ref()));
                page.fill_in(forward, entries.filter_map(|entry| table.item(&entry.base)))
            }
        }?;
        self.answer_page(page.finish(ended), &parameters)
    }

    pub(super) fn scan(&mut self, body: &Value) -> Reply {
        let mut known = COMMON.to_vec();
        known.extend(["Segment", "TotalSegments", "ScanFilter"]);
        let parameters = Parameters::new(body, &known)?;
        let (from, to) = segment(&parameters)?;
        let request = self.read_request(body, &parameters, false)?;
        if request.start.as_ref().is_some_and(|start| !(from..=to).contains(&start.partition().ring)) {
            return Err(ServiceError::validation(
                "The provided Exclusive start key does not map to the provided Segment and TotalSegments values.",
            ));
        }
        let mut page = PageBuilder::new(&request);
        let ended = match (request.index, &request.start) {
            (None, Some(StartKey::Table(start))) => page.fill(request.table.items_after(from, to, Some(start))),
            (None, _) => page.fill(request.table.items_after(from, to, None)),
            (Some(index), Some(StartKey::Index(start))) => {
                page.fill(index.items_after(request.table, from, to, Some(start)))
            }
            (Some(index), _) => page.fill(index.items_after(request.table, from, to, None)),
        }?;
        self.answer_page(page.finish(ended), &parameters)
    }

    fn answer_page(&mut self, (body, cost): (Vec<u8>, Cost), parameters: &Parameters<'_>) -> Reply {
        self.stats.units_of(table_name(parameters)?).read += cost.total();
        Ok(body.into())
    }

    fn read_request<'a>(
        &'a self,
        body: &Value,
        parameters: &Parameters<'_>,
        is_query: bool,
    ) -> Result<ReadRequest<'a>, ServiceError> {
        let table = self.table_for_items(table_name(parameters)?)?;
        let consistent = parameters.flag("ConsistentRead")?.unwrap_or(false);
        let index = match parameters.text("IndexName")? {
            Some(name) => Some(readable_index(table, name, consistent)?),
            None => None,
        };
        let schema = index.map_or(&table.schema, |index| &index.schema);
        let filter_member = if is_query { "QueryFilter" } else { "ScanFilter" };
        legacy::check_not_mixed(
            parameters,
            &["AttributesToGet", filter_member, "ConditionalOperator"],
            &["ProjectionExpression", "FilterExpression", "KeyConditionExpression"],
        )?;
        legacy::check_not_mixed(parameters, &["KeyConditions"], &["KeyConditionExpression"])?;
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
            Some(text) => Some(KeyCondition::parse(text, &placeholders, &schema.hash.name, range_name)?),
            None if is_query => legacy::key_conditions(parameters, &schema.hash.name, range_name)?,
            None => None,
        };
        if let Some(condition) = &key_condition {
            condition.check_types(&schema.hash.kind, range_kind)?;
        }
        let filter = match filter_text {
            Some(text) => Some(Condition::parse(ExpressionKind::FilterExpression, text, &placeholders)?),
            None => legacy::filter(parameters, filter_member)?,
        };
        if let (Some(filter), true) = (&filter, is_query) {
            let member = if filter_text.is_some() { "Filter Expression" } else { filter_member };
            filter.check_no_keys(member, &schema.names())?;
        }
        let projection = match projection_text {
            Some(text) => Some(Projection::parse(text, &placeholders)?),
            None => legacy::attributes_to_get(parameters)?,
        };
        placeholders.check_all_used()?;
        if let (Some(filter), Some(index)) = (&filter, index) {
            let missing = missing_attributes(index, &table.schema, filter.attributes());
            if !missing.is_empty() {
                return Err(ServiceError::validation(format!(
                    "One or more parameter values were invalid: Secondary index {} does not project one or more filter \
                     attributes: [{}]",
                    index.name,
                    missing.join(", ")
                )));
            }
        }
        let content = content(parameters, &table.schema, index, projection.as_ref())?;
        let start = match parameters.value("ExclusiveStartKey") {
            Some(json) => Some(start_key(&table.schema, index, json)?),
            None => None,
        };
        Ok(ReadRequest {
            table,
            index,
            filter,
            projection,
            key_condition,
            limit: parameters.limit()?.unwrap_or(usize::MAX),
            start,
            content,
            consistent,
            detail: CapacityDetail::read(parameters)?,
        })
    }
}

impl<'a> PageBuilder<'a> {
    fn new(request: &'a ReadRequest<'a>) -> Self {
        Self { request, items: Vec::new(), count: 0, scanned: 0, bytes: 0, fetched: 0.0, last: None }
    }

    fn fill_in<'i>(
        &mut self,
        forward: bool,
        items: impl DoubleEndedIterator<Item = &'i Item>,
    ) -> Result<bool, ServiceError> {
        if forward { self.fill(items) } else { self.fill(items.rev()) }
    }

    /// Takes items until the page is full; true if none was left.
    fn fill<'i>(&mut self, items: impl Iterator<Item = &'i Item>) -> Result<bool, ServiceError> {
        for item in items {
            self.take(item)?;
            if self.scanned >= self.request.limit || self.bytes >= PAGE_BYTES {
                let schema = &self.request.table.schema;
                self.last = Some(match self.request.index {
                    Some(index) => index.key_item(schema, item),
                    None => schema.project(item),
                });
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn take(&mut self, item: &Item) -> Result<(), ServiceError> {
        let ReadRequest { table, index, filter, projection, content, consistent, .. } = self.request;
        let entry = index.map(|index| index.projected(&table.schema, item));
        let entry = entry.as_deref().unwrap_or(item);
        self.scanned += 1;
        self.bytes += item_size(entry);
        if let Some(filter) = filter
            && !filter.holds(Some(entry))?
        {
            return Ok(());
        }
        self.count += 1;
        let shown = match content {
            Content::Count => return Ok(()),
            Content::Items => entry,
            Content::Fetched => {
                self.fetched += read_units(item_size(item), *consistent);
                item
            }
        };
        if !self.items.is_empty() {
            self.items.push(b',');
        }
        match projection {
            Some(projection) => write_item_json(&projection.project(shown), &mut self.items),
            None => write_item_json(shown, &mut self.items),
        }
        Ok(())
    }

    /// The answer's JSON and its cost.
    fn finish(self, ended: bool) -> (Vec<u8>, Cost) {
        let Self { request, items, count, scanned, bytes, fetched, last } = self;
        let mut out = Vec::with_capacity(items.len() + 256);
        append(&mut out, format_args!("{{\"Count\":{count},\"ScannedCount\":{scanned}"));
        if request.content != Content::Count {
            out.extend_from_slice(b",\"Items\":[");
            out.extend_from_slice(&items);
            out.push(b']');
        }
        if let (false, Some(last)) = (ended, &last) {
            out.extend_from_slice(b",\"LastEvaluatedKey\":");
            write_item_json(last, &mut out);
        }
        let units = read_units(bytes, request.consistent);
        let cost = match request.index {
            None => Cost::of_table(units),
            Some(index) => {
                Cost { table: fetched, indexes: [((index.scope, index.name.clone()), units)].into_iter().collect() }
            }
        };
        if let Some(consumed) = cost.to_json(request.detail, &request.table.name) {
            append(&mut out, format_args!(",\"ConsumedCapacity\":{consumed}"));
        }
        out.push(b'}');
        (out, cost)
    }
}

/// The part of a partition behind the start, in the direction of reading.
fn bounds<T>(start: Option<&T>, forward: bool) -> (Bound<&T>, Bound<&T>) {
    match (start, forward) {
        (None, _) => (Bound::Unbounded, Bound::Unbounded),
        (Some(start), true) => (Bound::Excluded(start), Bound::Unbounded),
        (Some(start), false) => (Bound::Unbounded, Bound::Excluded(start)),
    }
}

fn readable_index<'a>(table: &'a Table, name: &str, consistent: bool) -> Result<&'a SecondaryIndex, ServiceError> {
    let Some(index) = table.index(name) else {
        return Err(ServiceError::validation(format!("The table does not have the specified index: {name}")));
    };
    match index.status {
        IndexStatus::Active if consistent && index.scope == Scope::Global => {
            Err(ServiceError::validation("Consistent reads are not supported on global secondary indexes"))
        }
        IndexStatus::Active => Ok(index),
        IndexStatus::Creating(_) => {
            Err(ServiceError::validation(format!("Cannot read from backfilling global secondary index: {name}")))
        }
        IndexStatus::Deleting(_) => {
            Err(ServiceError::validation(format!("The table does not have the specified index: {name}")))
        }
    }
}

fn start_key(schema: &KeySchema, index: Option<&SecondaryIndex>, json: &Value) -> Result<StartKey, ServiceError> {
    let key = item_from_json(json)?;
    match index {
        Some(index) => index.start_entry(schema, &key).map(StartKey::Index),
        None => {
            let key = schema.key_of_request(&key);
            key.map(StartKey::Table).map_err(|_| ServiceError::validation("The provided starting key is invalid"))
        }
    }
}

/// The names that an index does not have, without repeats.
fn missing_attributes<'n>(
    index: &SecondaryIndex,
    schema: &KeySchema,
    names: impl Iterator<Item = &'n str>,
) -> Vec<&'n str> {
    let mut missing: Vec<&str> = names.filter(|name| !index.projects(schema, name)).collect();
    missing.sort_unstable();
    missing.dedup();
    missing
}

/// The content that `Select` and the projection ask for; refuses the ways of `Select` that do not fit.
fn content(
    parameters: &Parameters<'_>,
    schema: &KeySchema,
    index: Option<&SecondaryIndex>,
    projection: Option<&Projection>,
) -> Result<Content, ServiceError> {
    let given = parameters.text("Select")?;
    let ways = ["ALL_ATTRIBUTES", "SPECIFIC_ATTRIBUTES", "COUNT", "ALL_PROJECTED_ATTRIBUTES"];
    let way = match given {
        Some(_) => parameters.choice("Select", &ways)?,
        None if projection.is_some() => "SPECIFIC_ATTRIBUTES",
        None if index.is_some() => "ALL_PROJECTED_ATTRIBUTES",
        None => "ALL_ATTRIBUTES",
    };
    let refusal = match (way, projection, index) {
        ("SPECIFIC_ATTRIBUTES", None, _) => {
            "Must specify the ProjectionExpression when choosing to get SPECIFIC_ATTRIBUTES".to_owned()
        }
        ("ALL_PROJECTED_ATTRIBUTES", _, None) => {
            "ALL_PROJECTED_ATTRIBUTES can be used only when Querying using an IndexName".to_owned()
        }
        ("ALL_ATTRIBUTES" | "COUNT" | "ALL_PROJECTED_ATTRIBUTES", Some(_), _) => {
            let member = ["ProjectionExpression", "AttributesToGet"];
            let member = member.into_iter().find(|name| parameters.value(name).is_some()).unwrap_or_default();
            let way = if way == "COUNT" && member == "AttributesToGet" { "only the Count" } else { way };
            format!("Cannot specify the {member} when choosing to get {way}")
        }
        _ => String::new(),
    };
    if !refusal.is_empty() {
        return Err(ServiceError::validation(refusal));
    }
    let Some(index) = index.filter(|index| !matches!(index.projection, IndexProjection::All)) else {
        return Ok(if way == "COUNT" { Content::Count } else { Content::Items });
    };
    let missing = missing_attributes(index, schema, projection.into_iter().flat_map(Projection::attributes));
    let fetches = way == "ALL_ATTRIBUTES" || !missing.is_empty();
    match (way, fetches, index.scope) {
        ("COUNT", ..) => Ok(Content::Count),
        (_, false, _) => Ok(Content::Items),
        (_, true, Scope::Local) => Ok(Content::Fetched),
        ("ALL_ATTRIBUTES", true, Scope::Global) => Err(ServiceError::validation(format!(
            "One or more parameter values were invalid: Select type ALL_ATTRIBUTES is not supported for global \
             secondary index {} because its projection type is not ALL",
            index.name
        ))),
        (_, true, Scope::Global) => Err(ServiceError::validation(format!(
            "One or more parameter values were invalid: Global secondary index {} does not project [{}]",
            index.name,
            missing.join(", ")
        ))),
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
