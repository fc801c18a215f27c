//! Reads and writes of single items, and the planning of writes, which transactions share.

use serde_json::Value;

use crate::capacity::{CapacityDetail, Cost, read_units};
use crate::emulator::{Emulator, Reply};
use crate::error::ServiceError;
use crate::expression::{Condition, ExpressionKind, Placeholders, Projection, Update, legacy};
use crate::request::Parameters;
use crate::stream::record::{WriteSource, append};
use crate::table::{ItemKey, Table, check_item_size};
use crate::tables::table_name;
use crate::timestamp::Timestamp;
use crate::value::{Item, item_from_json, item_size, item_to_json, write_item_json};

/// A write checked against its table's schema, but not yet against its item.
pub(super) struct PlannedWrite {
    pub(super) table: String,
    pub(super) key: ItemKey,
    pub(super) action: Action,
    condition: Option<Condition>,
    /// Whether a failed condition answers with the item that failed it.
    wants_item_on_failure: bool,
}

pub(super) enum Action {
    Put(Item),
    Update(Option<Update>),
    Delete,
    /// Checks the condition only.
    Check,
}

/// The kinds of write, by the names that the API has for them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteKind {
    Put,
    Update,
    Delete,
    Check,
}

/// The refusal of a write.
pub(super) enum WriteFailure {
    /// The condition does not hold; with the item, where the request wanted it.
    Condition(Option<Item>),
    /// The request does not fit the item.
    Invalid(ServiceError),
}

/// An item before and after a write.
pub(super) struct Outcome {
    pub(super) old: Option<Item>,
    pub(super) new: Option<Item>,
}

impl PlannedWrite {
    /// Reads a write out of a request's members.
    pub(super) fn read(
        emulator: &Emulator,
        kind: WriteKind,
        body: &Value,
        parameters: &Parameters<'_>,
    ) -> Result<Self, ServiceError> {
        let name = table_name(parameters)?;
        legacy::check_not_mixed(
            parameters,
            &["AttributeUpdates", "Expected", "ConditionalOperator"],
            &["UpdateExpression", "ConditionExpression"],
        )?;
        let placeholders = Placeholders::from_request(body)?;
        let condition_text = parameters.text("ConditionExpression")?;
        let update_text = match kind {
            WriteKind::Update => parameters.text("UpdateExpression")?,
            _ => None,
        };
        let has_expression = condition_text.is_some() || update_text.is_some();
        let missing: &[&str] = match kind {
            _ if has_expression => &[],
            WriteKind::Update => &["UpdateExpression", "ConditionExpression"],
            _ => &["ConditionExpression"],
        };
        placeholders.check_wanted(has_expression, missing)?;
        let update = match update_text {
            Some(text) => Some(Update::parse(text, &placeholders)?),
            None => legacy::attribute_updates(parameters)?,
        };
        let condition = match condition_text {
            Some(text) => Some(Condition::parse(ExpressionKind::ConditionExpression, text, &placeholders)?),
            None => legacy::expected(parameters)?,
        };
        placeholders.check_all_used()?;
        let on_failure = parameters.choice("ReturnValuesOnConditionCheckFailure", &["NONE", "ALL_OLD"])?;

        let table = emulator.table_for_items(name)?;
        if let Some(update) = &update {
            update.check_keys(&table.schema.names())?;
        }
        let (key, action) = match kind {
            WriteKind::Put => {
                let item = item_from_json(parameters.required("Item")?)?;
                let key = table.schema.key_of_item(&item)?;
                check_item_size(&item, "Item size has exceeded the maximum allowed size")?;
                (key, Action::Put(item))
            }
            other => {
                let key = read_key(table, parameters)?;
                let action = match other {
                    WriteKind::Update => Action::Update(update),
                    WriteKind::Delete => Action::Delete,
                    WriteKind::Put | WriteKind::Check => Action::Check,
                };
                (key, action)
            }
        };
        Ok(Self { table: name.to_owned(), key, action, condition, wants_item_on_failure: on_failure == "ALL_OLD" })
    }

    /// Checks the condition and works out what the item becomes; writes nothing.
    pub(super) fn evaluate(self, table: &Table) -> Result<(Self, Outcome), WriteFailure> {
        if let Action::Put(item) = &self.action
            && let Some(unfit) = table.unfit_index_key(item)
        {
            return Err(WriteFailure::Invalid(unfit.in_put()));
        }
        let old = table.item(&self.key);
        if let Some(condition) = &self.condition {
            let holds = condition.holds(old).map_err(|error| WriteFailure::Invalid(error.into()))?;
            if !holds {
                let item = old.filter(|_| self.wants_item_on_failure).cloned();
                return Err(WriteFailure::Condition(item));
            }
        }
        let old = old.cloned();
        let new = match &self.action {
            Action::Put(item) => Some(item.clone()),
            Action::Delete => None,
            Action::Check => old.clone(),
            Action::Update(update) => Some(self.updated(table, update.as_ref(), old.as_ref())?),
        };
        Ok((self, Outcome { old, new }))
    }

    fn updated(&self, table: &Table, update: Option<&Update>, old: Option<&Item>) -> Result<Item, WriteFailure> {
        let base = old.map_or_else(|| table.schema.item_of_key(&self.key), Clone::clone);
        let Some(update) = update else {
            return Ok(base);
        };
        let new = update.apply(&base, &table.schema.names()).map_err(|error| WriteFailure::Invalid(error.into()))?;
        check_item_size(&new, "Item size to update has exceeded the maximum allowed size")
            .map_err(WriteFailure::Invalid)?;
        // An attribute that was unfit before its index was created may stay.
        let changed = |name: &str| new.get(name) != base.get(name);
        if let Some(unfit) = table.unfit_index_key(&new).filter(|unfit| changed(unfit.name())) {
            return Err(WriteFailure::Invalid(unfit.in_update()));
        }
        Ok(new)
    }
}

impl From<WriteFailure> for ServiceError {
    fn from(failure: WriteFailure) -> Self {
        match failure {
            WriteFailure::Invalid(error) => error,
            WriteFailure::Condition(None) => Self::condition_failed(),
            WriteFailure::Condition(Some(item)) => Self::condition_failed().with("Item", item_to_json(&item)),
        }
    }
}

impl Emulator {
    pub(super) fn put_item(&mut self, now: Timestamp, body: &Value) -> Reply {
        self.write_item(now, WriteKind::Put, &["Item"], body)
    }

    pub(super) fn update_item(&mut self, now: Timestamp, body: &Value) -> Reply {
        self.write_item(now, WriteKind::Update, &["Key", "UpdateExpression", "AttributeUpdates"], body)
    }

    pub(super) fn delete_item(&mut self, now: Timestamp, body: &Value) -> Reply {
        self.write_item(now, WriteKind::Delete, &["Key"], body)
    }

    pub(super) fn get_item(&mut self, body: &Value) -> Reply {
        let known = [
            "TableName",
            "Key",
            "ConsistentRead",
            "AttributesToGet",
            "ProjectionExpression",
            "ExpressionAttributeNames",
            "ReturnConsumedCapacity",
        ];
        let parameters = Parameters::new(body, &known)?;
        let name = table_name(&parameters)?;
        let detail = CapacityDetail::read(&parameters)?;
        let projection = read_projection(body, &parameters)?;
        let consistent = parameters.flag("ConsistentRead")?.unwrap_or(false);
        let table = self.table_for_items(name)?;
        let key = read_key(table, &parameters)?;
        let item = table.item(&key);
        let units = read_units(item.map_or(0, item_size), consistent);
        let mut out = Vec::with_capacity(64 + 2 * item.map_or(0, item_size));
        out.push(b'{');
        if let Some(item) = item {
            out.extend_from_slice(b"\"Item\":");
            match &projection {
                Some(projection) => write_item_json(&projection.project(item), &mut out),
                None => write_item_json(item, &mut out),
            }
        }
        let cost = Cost::of_table(units);
        self.stats.units_of(name).read += units;
        Ok(finish(out, cost.to_json(detail, name).as_ref()))
    }

    fn write_item(&mut self, now: Timestamp, kind: WriteKind, own: &[&str], body: &Value) -> Reply {
        let mut known = vec![
            "TableName",
            "ConditionExpression",
            "Expected",
            "ConditionalOperator",
            "ExpressionAttributeNames",
            "ExpressionAttributeValues",
            "ReturnValues",
            "ReturnValuesOnConditionCheckFailure",
            "ReturnConsumedCapacity",
            "ReturnItemCollectionMetrics",
        ];
        known.extend_from_slice(own);
        let parameters = Parameters::new(body, &known)?;
        let detail = CapacityDetail::read(&parameters)?;
        parameters.choice("ReturnItemCollectionMetrics", &["NONE", "SIZE"])?;
        let wanted = return_values(&parameters, kind)?;
        let write = PlannedWrite::read(self, kind, body, &parameters)?;
        let table = self.table_for_items(&write.table)?;
        let (write, outcome) = write.evaluate(table)?;
        let cost = Cost::of_write(table, outcome.old.as_ref(), outcome.new.as_ref());
        let attributes = returned(wanted, &write, &outcome);
        self.replace_item(now, &write.table, &write.key, outcome.new, WriteSource::Request);
        self.stats.units_of(&write.table).write += cost.total();

        let mut out = vec![b'{'];
        if let Some(attributes) = attributes.filter(|attributes| !attributes.is_empty()) {
            out.extend_from_slice(b"\"Attributes\":");
            write_item_json(&attributes, &mut out);
        }
        Ok(finish(out, cost.to_json(detail, &write.table).as_ref()))
    }
}

/// The members of `Attributes` that a write answers with.
fn returned(wanted: &str, write: &PlannedWrite, outcome: &Outcome) -> Option<Item> {
    let touched = |item: Option<&Item>| match (&write.action, item) {
        (Action::Update(Some(update)), Some(item)) => Some(update.project_touched(item)),
        _ => None,
    };
    match wanted {
        "ALL_OLD" => outcome.old.clone(),
        "ALL_NEW" => outcome.new.clone(),
        "UPDATED_OLD" => touched(outcome.old.as_ref()),
        "UPDATED_NEW" => touched(outcome.new.as_ref()),
        _ => None,
    }
}

fn return_values(parameters: &Parameters<'_>, kind: WriteKind) -> Result<&'static str, ServiceError> {
    let all = ["NONE", "ALL_OLD", "UPDATED_OLD", "ALL_NEW", "UPDATED_NEW"];
    let wanted = parameters.choice("ReturnValues", &all)?;
    if kind != WriteKind::Update && !matches!(wanted, "NONE" | "ALL_OLD") {
        return Err(ServiceError::validation("Return values set to invalid value"));
    }
    Ok(wanted)
}

/// The `Key` member, which must be a whole key of the table.
pub(super) fn read_key(table: &Table, parameters: &Parameters<'_>) -> Result<ItemKey, ServiceError> {
    let key = item_from_json(parameters.required("Key")?)?;
    table.schema.key_of_request(&key)
}

/// The `ProjectionExpression` of a request that has no other expression, or its `AttributesToGet`.
pub(super) fn read_projection(body: &Value, parameters: &Parameters<'_>) -> Result<Option<Projection>, ServiceError> {
    legacy::check_not_mixed(parameters, &["AttributesToGet"], &["ProjectionExpression"])?;
    let placeholders = Placeholders::from_request(body)?;
    let text = parameters.text("ProjectionExpression")?;
    placeholders.check_wanted(text.is_some(), &[])?;
    let projection = match text {
        Some(text) => Some(Projection::parse(text, &placeholders)?),
        None => legacy::attributes_to_get(parameters)?,
    };
    placeholders.check_all_used()?;
    Ok(projection)
}

/// Ends an answer that is an open object, with its cost if wanted.
fn finish(mut out: Vec<u8>, consumed: Option<&Value>) -> bytes::Bytes {
    if let Some(consumed) = consumed {
        let comma = if out.len() > 1 { "," } else { "" };
        append(&mut out, format_args!("{comma}\"ConsumedCapacity\":{consumed}"));
    }
    out.push(b'}');
    out.into()
}
