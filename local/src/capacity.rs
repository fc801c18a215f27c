//! The cost of requests in capacity units, and how answers tell it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::error::ServiceError;
use crate::index::Scope;
use crate::request::Parameters;
use crate::table::Table;
use crate::value::{Item, item_size};

/// The `ReturnConsumedCapacity` of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum CapacityDetail {
    None,
    Total,
    Indexes,
}

/// Capacity units of one table and its indexes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cost {
    pub(crate) table: f64,
    pub(crate) indexes: BTreeMap<(Scope, String), f64>,
}

impl CapacityDetail {
    pub(crate) fn read(parameters: &Parameters<'_>) -> Result<Self, ServiceError> {
        let detail = parameters.choice("ReturnConsumedCapacity", &["NONE", "TOTAL", "INDEXES"])?;
        Ok(match detail {
            "TOTAL" => Self::Total,
            "INDEXES" => Self::Indexes,
            _ => Self::None,
        })
    }
}

impl Cost {
    /// The cost of a write: the table's, and that of every index whose entry it changes.
    pub(crate) fn of_write(table: &Table, old: Option<&Item>, new: Option<&Item>) -> Self {
        let bytes = old.map_or(0, item_size).max(new.map_or(0, item_size));
        let mut cost = Self { table: units(bytes, 1024), indexes: BTreeMap::new() };
        for index in &table.indexes {
            let entry = |item: &Item| {
                let key = index.schema.key_of_item(item).ok()?;
                Some((key, index.projected(&table.schema, item).into_owned()))
            };
            let units_of = |entry: &Item| units(item_size(entry), 1024);
            let changed = match (old.and_then(entry), new.and_then(entry)) {
                (None, None) => continue,
                (Some((_, entry)), None) | (None, Some((_, entry))) => units_of(&entry),
                (Some((_, old)), Some((_, new))) if old == new => continue,
                (Some((old_key, old)), Some((new_key, new))) if old_key == new_key => {
                    units_of(&old).max(units_of(&new))
                }
                // Another key is another entry: one is deleted and one is put.
                (Some((_, old)), Some((_, new))) => units_of(&old) + units_of(&new),
            };
            cost.indexes.insert((index.scope, index.name.clone()), changed);
        }
        cost
    }

    pub(crate) fn of_table(units: f64) -> Self {
        Self { table: units, indexes: BTreeMap::new() }
    }

    pub(crate) fn total(&self) -> f64 {
        self.table + self.indexes.values().sum::<f64>()
    }

    /// Adds `factor` times another cost: transactions cost double.
    pub(crate) fn add(&mut self, other: &Self, factor: f64) {
        self.table += factor * other.table;
        for (index, units) in &other.indexes {
            *self.indexes.entry(index.clone()).or_default() += factor * units;
        }
    }

    /// The `ConsumedCapacity` of one table, if it is wanted.
    pub(crate) fn to_json(&self, detail: CapacityDetail, table: &str) -> Option<Value> {
        let mut consumed = json!({"TableName": table, "CapacityUnits": self.total()});
        match detail {
            CapacityDetail::None => return None,
            CapacityDetail::Total => {}
            CapacityDetail::Indexes => {
                consumed["Table"] = json!({"CapacityUnits": self.table});
                for ((scope, index), units) in &self.indexes {
                    let member = match scope {
                        Scope::Global => "GlobalSecondaryIndexes",
                        Scope::Local => "LocalSecondaryIndexes",
                    };
                    consumed[member][index] = json!({"CapacityUnits": units});
                }
            }
        }
        Some(consumed)
    }
}

/// Adds the `ConsumedCapacity` of several tables to an answer, if it is wanted. Transactions tell their units by
/// `kind` too: ReadCapacityUnits or WriteCapacityUnits.
pub(crate) fn tell_costs(
    detail: CapacityDetail,
    costs: &BTreeMap<String, Cost>,
    kind: Option<&str>,
    answer: &mut Map<String, Value>,
) {
    let mut list: Vec<Value> = costs.iter().filter_map(|(table, cost)| cost.to_json(detail, table)).collect();
    if let Some(kind) = kind {
        list.iter_mut().for_each(|consumed| repeat_units(consumed, kind));
    }
    if !list.is_empty() {
        answer.insert("ConsumedCapacity".to_owned(), list.into());
    }
}

/// Repeats each `CapacityUnits` as a member of this name.
fn repeat_units(consumed: &mut Value, kind: &str) {
    let Value::Object(members) = consumed else {
        return;
    };
    if let Some(units) = members.get("CapacityUnits").cloned() {
        members.insert(kind.to_owned(), units);
    }
    members.values_mut().for_each(|member| repeat_units(member, kind));
}

/// Half a unit for each 4 KB, at least one of them; twice that with strong consistency.
pub(crate) fn read_units(bytes: usize, consistent: bool) -> f64 {
    let blocks = units(bytes, 4096);
    if consistent { blocks } else { blocks / 2.0 }
}

#[allow(clippy::cast_precision_loss)] // item sizes are far below 2^53
fn units(bytes: usize, block: usize) -> f64 {
    bytes.div_ceil(block).max(1) as f64
}
