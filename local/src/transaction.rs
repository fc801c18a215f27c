//! All or nothing: TransactWriteItems and TransactGetItems.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::capacity::{CapacityDetail, Cost, read_units, tell_costs};
use crate::emulator::{Emulator, Reply, json_reply};
use crate::error::ServiceError;
use crate::items::{Action, PlannedWrite, WriteFailure, WriteKind, read_key, read_projection};
use crate::request::Parameters;
use crate::stream::record::WriteSource;
use crate::tables::table_name;
use crate::timestamp::Timestamp;
use crate::value::{item_size, item_to_json};

/// The most items in one transaction.
const MAX_ITEMS: usize = 100;
/// Life of a client token ("ClientRequestToken": 10 minutes).
const TOKEN_LIFE: Duration = Duration::from_secs(600);

/// Recent client tokens, each with its request and answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Tokens {
    known: BTreeMap<String, (Timestamp, Value, Bytes)>,
}

/// An action of a transaction that cannot be made.
struct Reason {
    code: &'static str,
    message: String,
    item: Option<Value>,
}

impl Tokens {
    /// The answer that the token's first request got, if that was the same request.
    fn answer(&mut self, now: Timestamp, token: &str, items: &Value) -> Result<Option<Bytes>, ServiceError> {
        self.known.retain(|_, (expiry, _, _)| *expiry > now);
        match self.known.get(token) {
            None => Ok(None),
            Some((_, known, answer)) if known == items => Ok(Some(answer.clone())),
            Some(_) => Err(ServiceError::new(
                "IdempotentParameterMismatchException",
                "The request uses the same client token as a previous, but non-identical request. Do not reuse a \
                 client token with different requests, unless the requests are identical",
            )),
        }
    }

    fn remember(&mut self, now: Timestamp, token: &str, items: &Value, answer: Bytes) {
        let entry = (now.plus(TOKEN_LIFE), items.clone(), answer);
        self.known.insert(token.to_owned(), entry);
    }
}

impl Emulator {
    pub(super) fn transact_write_items(&mut self, now: Timestamp, body: &Value) -> Reply {
        let known = ["TransactItems", "ClientRequestToken", "ReturnConsumedCapacity", "ReturnItemCollectionMetrics"];
        let parameters = Parameters::new(body, &known)?;
        let detail = CapacityDetail::read(&parameters)?;
        parameters.choice("ReturnItemCollectionMetrics", &["NONE", "SIZE"])?;
        let items = parameters.required("TransactItems")?;
        let token = parameters.text("ClientRequestToken")?;
        if let Some(token) = token {
            if !(1..=36).contains(&token.len()) {
                return Err(ServiceError::validation(
                    "1 validation error detected: Value at 'clientRequestToken' failed to satisfy constraint: Member \
                     must have length between 1 and 36",
                ));
            }
            if let Some(answer) = self.tokens.answer(now, token, items)? {
                return Ok(answer);
            }
        }
        let writes = self.read_writes(transact_items(&parameters)?)?;
        let answer = self.apply_writes(now, writes, detail)?;
        if let Some(token) = token {
            self.tokens.remember(now, token, items, answer.clone());
        }
        Ok(answer)
    }

    pub(super) fn transact_get_items(&mut self, body: &Value) -> Reply {
        let parameters = Parameters::new(body, &["TransactItems", "ReturnConsumedCapacity"])?;
        let detail = CapacityDetail::read(&parameters)?;
        let mut costs: BTreeMap<String, Cost> = BTreeMap::new();
        let mut responses = Vec::new();
        for entry in transact_items(&parameters)? {
            let get = Parameters::new(entry, &["Get"])?.required("Get")?;
            let known = ["TableName", "Key", "ProjectionExpression", "ExpressionAttributeNames"];
            let members = Parameters::new(get, &known)?;
            let name = table_name(&members)?;
            let projection = read_projection(get, &members)?;
            let table = self.table_for_items(name)?;
            let item = table.item(&read_key(table, &members)?);
            costs.entry(name.to_owned()).or_default().table += 2.0 * read_units(item.map_or(0, item_size), true);
            responses.push(match (item, &projection) {
                (None, _) => json!({}),
                (Some(item), None) => json!({"Item": item_to_json(item)}),
                (Some(item), Some(projection)) => {
                    json!({"Item": item_to_json(&projection.project(item))})
                }
            });
        }
        for (table, cost) in &costs {
            self.stats.units_of(table).read += cost.total();
        }
        let mut answer = Map::from_iter([("Responses".to_owned(), responses.into())]);
        tell_costs(detail, &costs, Some("ReadCapacityUnits"), &mut answer);
        json_reply(&answer.into())
    }

    fn read_writes(&self, entries: &[Value]) -> Result<Vec<PlannedWrite>, ServiceError> {
        let mut seen = BTreeSet::new();
        let mut writes = Vec::with_capacity(entries.len());
        for entry in entries {
            let write = self.read_write(entry)?;
            if !seen.insert((write.table.clone(), write.key.clone())) {
                return Err(ServiceError::validation(
                    "Transaction request cannot include multiple operations on one item",
                ));
            }
            writes.push(write);
        }
        Ok(writes)
    }

    fn read_write(&self, entry: &Value) -> Result<PlannedWrite, ServiceError> {
        let kinds: [(&str, WriteKind, &[&str]); 4] = [
            ("Put", WriteKind::Put, &["Item"]),
            ("Update", WriteKind::Update, &["Key", "UpdateExpression"]),
            ("Delete", WriteKind::Delete, &["Key"]),
            ("ConditionCheck", WriteKind::Check, &["Key"]),
        ];
        let members = Parameters::new(entry, &kinds.map(|(name, _, _)| name))?;
        let mut given = kinds.iter().filter_map(|(name, kind, own)| Some((members.value(name)?, *kind, *own)));
        let (Some((action, kind, own)), None) = (given.next(), given.next()) else {
            return Err(ServiceError::validation("TransactItems can only contain one of Check, Put, Update or Delete"));
        };
        let mut known = vec![
            "TableName",
            "ConditionExpression",
            "ExpressionAttributeNames",
            "ExpressionAttributeValues",
            "ReturnValuesOnConditionCheckFailure",
        ];
        known.extend_from_slice(own);
        let parameters = Parameters::new(action, &known)?;
        if kind == WriteKind::Check {
            parameters.required("ConditionExpression")?;
        }
        if kind == WriteKind::Update {
            parameters.required("UpdateExpression")?;
        }
        PlannedWrite::read(self, kind, action, &parameters)
    }

    /// Looks at every action first, then makes all of them or none.
    fn apply_writes(&mut self, now: Timestamp, writes: Vec<PlannedWrite>, detail: CapacityDetail) -> Reply {
        let mut reasons = Vec::with_capacity(writes.len());
        let mut planned = Vec::with_capacity(writes.len());
        for write in writes {
            let table = self.table_for_items(&write.table)?;
            match write.evaluate(table) {
                Ok(evaluated) => {
                    planned.push(evaluated);
                    reasons.push(None);
                }
                Err(failure) => reasons.push(Some(Reason::from(failure))),
            }
        }
        if reasons.iter().any(Option::is_some) {
            return Err(cancelled(&reasons));
        }
        let mut costs: BTreeMap<String, Cost> = BTreeMap::new();
        for (write, outcome) in planned {
            let table = self.table_for_items(&write.table)?;
            let cost = Cost::of_write(table, outcome.old.as_ref(), outcome.new.as_ref());
            costs.entry(write.table.clone()).or_default().add(&cost, 2.0);
            if !matches!(write.action, Action::Check) {
                self.replace_item(now, &write.table, &write.key, outcome.new, WriteSource::Request);
            }
        }
        for (table, cost) in &costs {
            self.stats.units_of(table).write += cost.total();
        }
        let mut answer = Map::new();
        tell_costs(detail, &costs, Some("WriteCapacityUnits"), &mut answer);
        json_reply(&answer.into())
    }
}

impl From<WriteFailure> for Reason {
    fn from(failure: WriteFailure) -> Self {
        match failure {
            WriteFailure::Condition(item) => Self {
                code: "ConditionalCheckFailed",
                message: "The conditional request failed".to_owned(),
                item: item.as_ref().map(item_to_json),
            },
            WriteFailure::Invalid(error) => {
                Self { code: "ValidationError", message: error.message().to_owned(), item: None }
            }
        }
    }
}

/// `TransactionCanceledException`, with a reason for each action in the request's order.
fn cancelled(reasons: &[Option<Reason>]) -> ServiceError {
    let codes: Vec<&str> = reasons.iter().map(|reason| reason.as_ref().map_or("None", |reason| reason.code)).collect();
    let listed: Vec<Value> = reasons
        .iter()
        .map(|reason| match reason {
            None => json!({"Code": "None"}),
            Some(reason) => {
                let mut listed = json!({"Code": reason.code, "Message": reason.message});
                if let Some(item) = &reason.item {
                    listed["Item"] = item.clone();
                }
                listed
            }
        })
        .collect();
    let message =
        format!("Transaction cancelled, please refer cancellation reasons for specific reasons [{}]", codes.join(", "));
    ServiceError::new("TransactionCanceledException", message).with("CancellationReasons", listed.into())
}

fn transact_items<'a>(parameters: &Parameters<'a>) -> Result<&'a Vec<Value>, ServiceError> {
    let items = parameters.list("TransactItems")?.ok_or_else(|| super::request::missing("TransactItems"))?;
    if items.is_empty() || items.len() > MAX_ITEMS {
        let bound = if items.is_empty() {
            "greater than or equal to 1".to_owned()
        } else {
            format!("less than or equal to {MAX_ITEMS}")
        };
        return Err(ServiceError::validation(format!(
            "1 validation error detected: Value at 'transactItems' failed to satisfy constraint: Member must have \
             length {bound}"
        )));
    }
    Ok(items)
}
