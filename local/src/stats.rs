//! Counters of calls, errors, capacity and records.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::policy::RequiredPermission;

/// Counts since the emulator began.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Calls that reached the service, by operation.
    pub calls: BTreeMap<String, u64>,
    /// Errors answered, by operation and error name.
    pub errors: BTreeMap<String, BTreeMap<String, u64>>,
    /// IAM permissions that callers with a policy required, by access key id: actions, each with its resources' ARNs.
    pub actions: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
    /// Capacity units by table, as ConsumedCapacity counts them.
    pub units: BTreeMap<String, Units>,
    /// Records written to streams.
    pub records_written: u64,
    /// Records answered to GetRecords, repeats included.
    pub records_served: u64,
}

/// The cost of a table's requests.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Units {
    /// Read units: half a one for each 4 KB, a whole one with strong consistency.
    pub read: f64,
    /// Write units: one for each KB, two in transactions.
    pub write: f64,
}

impl Stats {
    /// The counters as `GET /_local/stats` answers them.
    pub fn to_json(&self) -> Value {
        let units: serde_json::Map<String, Value> = self
            .units
            .iter()
            .map(|(table, units)| (table.clone(), json!({"read": units.read, "write": units.write})))
            .collect();
        json!({
            "calls": self.calls,
            "errors": self.errors,
            "actions": self.actions,
            "units": units,
            "records_written": self.records_written,
            "records_served": self.records_served,
        })
    }

    pub(crate) fn count_call(&mut self, operation: &str) {
        count(&mut self.calls, operation);
    }

    pub(crate) fn count_error(&mut self, operation: &str, code: &str) {
        match self.errors.get_mut(operation) {
            Some(codes) => count(codes, code),
            None => {
                let codes = BTreeMap::from([(code.to_owned(), 1)]);
                self.errors.insert(operation.to_owned(), codes);
            }
        }
    }

    pub(crate) fn note_permission(&mut self, caller: &str, permission: RequiredPermission) {
        let actions = self.actions.entry(caller.to_owned()).or_default();
        actions.entry(permission.action).or_default().insert(permission.resource);
    }

    pub(crate) fn units_of(&mut self, table: &str) -> &mut Units {
        self.units.entry(table.to_owned()).or_default()
    }
}

/// Adds one, without a new string where the name is known.
fn count(counters: &mut BTreeMap<String, u64>, name: &str) {
    match counters.get_mut(name) {
        Some(counter) => *counter += 1,
        None => {
            counters.insert(name.to_owned(), 1);
        }
    }
}
