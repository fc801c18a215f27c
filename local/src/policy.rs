//! IAM identity policies, which calls are held to as the real service holds them to a role's.
//!
//! Calls are what the "Service Authorization Reference" makes of them: a transaction needs the action of each of its
//! parts, a batch its own for every table, GetRecords the stream of its iterator.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::emulator::Request;
use crate::error::ServiceError;
use crate::request::Parameters;

/// An identity policy: whatever it does not allow is refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    statements: Vec<Statement>,
    /// As it was given.
    document: Value,
}

/// A permission that a call requires: an action, as `dynamodb:GetItem`, on a resource's ARN.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequiredPermission {
    pub(crate) action: String,
    pub(crate) resource: String,
}

#[derive(Clone, Debug, PartialEq)]
struct Statement {
    actions: Vec<String>,
    resources: Vec<String>,
}

impl Policy {
    /// Reads a policy document whose statements have `Sid`, `Effect` (only `Allow`), `Action` and `Resource`, the last
    /// two with the wildcards `*` and `?`.
    ///
    /// # Errors
    /// Anything else that IAM knows and this does not, such as `Deny` or `Condition`, as a ValidationException: it
    /// would be understood wrongly.
    pub fn from_json(json: &Value) -> Result<Self, ServiceError> {
        let members = Parameters::new(json, &["Version", "Id", "Statement"])?;
        let one_or_many = match members.required("Statement")? {
            Value::Array(statements) => statements.iter().collect(),
            one => vec![one],
        };
        let statements = one_or_many.into_iter().map(Statement::from_json).collect::<Result<_, _>>()?;
        Ok(Self { statements, document: json.clone() })
    }

    /// The document as it was given.
    pub fn to_json(&self) -> &Value {
        &self.document
    }

    /// The refusal of a call that needs something which no statement allows.
    pub(crate) fn refusal(&self, required: &BTreeSet<RequiredPermission>) -> Option<ServiceError> {
        let missing =
            required.iter().find(|permission| !self.statements.iter().any(|statement| statement.allows(permission)))?;
        let RequiredPermission { action, resource } = missing;
        let message = format!(
            "User is not authorized to perform: {action} on resource: {resource} because no identity-based policy \
             allows the {action} action"
        );
        Some(ServiceError::new("AccessDeniedException", message))
    }
}

impl Statement {
    fn from_json(json: &Value) -> Result<Self, ServiceError> {
        let members = Parameters::new(json, &["Sid", "Effect", "Action", "Resource"])?;
        if members.required_text("Effect")? != "Allow" {
            return Err(ServiceError::validation("Effect must be Allow: everything else is refused as it is"));
        }
        Ok(Self { actions: words(&members, "Action")?, resources: words(&members, "Resource")? })
    }

    fn allows(&self, permission: &RequiredPermission) -> bool {
        // IAM takes the case of actions as equal, that of resources not.
        let action = permission.action.to_ascii_lowercase();
        self.actions.iter().any(|pattern| matches(&pattern.to_ascii_lowercase(), &action))
            && self.resources.iter().any(|pattern| matches(pattern, &permission.resource))
    }
}

/// The permissions that a call requires. `table_arn` makes a table's ARN of its name. A body that cannot be read
/// requires none: the service refuses it anyway.
pub(crate) fn required_permissions(
    request: &Request,
    table_arn: impl Fn(&str) -> String,
) -> BTreeSet<RequiredPermission> {
    let operation = request.operation();
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let required =
        |action: &str, resource: String| RequiredPermission { action: format!("dynamodb:{action}"), resource };
    let text = |member: &str| body[member].as_str().unwrap_or_default();
    match operation {
        "TransactWriteItems" => parts(&body)
            .map(|(kind, part)| {
                let action = match kind {
                    "Put" => "PutItem",
                    "Update" => "UpdateItem",
                    "Delete" => "DeleteItem",
                    _ => "ConditionCheckItem",
                };
                required(action, table_arn(part["TableName"].as_str().unwrap_or_default()))
            })
            .collect(),
        "TransactGetItems" => parts(&body)
            .map(|(_, part)| required("GetItem", table_arn(part["TableName"].as_str().unwrap_or_default())))
            .collect(),
        "BatchGetItem" | "BatchWriteItem" => {
            let tables = body["RequestItems"].as_object().into_iter().flatten();
            tables.map(|(table, _)| required(operation, table_arn(table))).collect()
        }
        "ListTables" | "ListStreams" | "DescribeLimits" | "DescribeEndpoints" => {
            BTreeSet::from([required(operation, "*".to_owned())])
        }
        "GetRecords" => {
            // An iterator begins with its stream's ARN.
            let arn = text("ShardIterator").split('|').next().unwrap_or_default();
            BTreeSet::from([required(operation, arn.to_owned())])
        }
        "Query" | "Scan" if !text("IndexName").is_empty() => {
            let index = format!("{}/index/{}", table_arn(text("TableName")), text("IndexName"));
            BTreeSet::from([required(operation, index)])
        }
        "TagResource" | "UntagResource" | "ListTagsOfResource" => {
            BTreeSet::from([required(operation, text("ResourceArn").to_owned())])
        }
        _ if request.is_for_streams() => BTreeSet::from([required(operation, text("StreamArn").to_owned())]),
        _ => BTreeSet::from([required(operation, table_arn(text("TableName")))]),
    }
}

/// The names of the tables that a call touches, itself or by a stream or an index.
pub(crate) fn tables(request: &Request) -> BTreeSet<String> {
    let table_of = |permission: RequiredPermission| {
        let (_, rest) = permission.resource.split_once("table/")?;
        Some(rest.split('/').next().unwrap_or(rest).to_owned())
    };
    let table_arn = |name: &str| match name.rsplit_once("table/") {
        Some((_, name)) => format!("table/{name}"),
        None => format!("table/{name}"),
    };
    required_permissions(request, table_arn).into_iter().filter_map(table_of).collect()
}

/// The parts of a transaction, each with its kind.
fn parts(body: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let entries = body["TransactItems"].as_array().into_iter().flatten();
    entries.filter_map(Value::as_object).flatten().map(|(kind, part)| (kind.as_str(), part))
}

/// A member that holds one string or a list of them.
fn words(members: &Parameters<'_>, name: &str) -> Result<Vec<String>, ServiceError> {
    let wrong = || ServiceError::validation(format!("{name} must be a string or a list of strings"));
    let list = match members.required(name)? {
        Value::Array(list) => list.clone(),
        one => vec![json!(one)],
    };
    list.iter().map(|word| word.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
}

/// Whether `text` matches `pattern`, in which `*` means any characters and `?` one.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut seen) = (0, 0);
    // The place of the last star, and the place up to which it was last taken to reach.
    let mut star: Option<(usize, usize)> = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[seen] => (at, seen) = (at + 1, seen + 1),
            _ => {
                let Some((back, reach)) = star else { return false };
                star = Some((back, reach + 1));
                (at, seen) = (back + 1, reach + 1);
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn required_for(target: &str, body: &Value) -> Vec<String> {
        let request = Request { target: target.to_owned(), body: body.to_string().into() };
        let required = required_permissions(&request, |name| format!("arn:{name}"));
        required.into_iter().map(|permission| format!("{} {}", permission.action, permission.resource)).collect()
    }

    #[test]
    fn wildcards_stand_for_any_characters_and_for_one() {
        for (pattern, text, is_match) in [
            ("*", "", true),
            ("arn:*:table/T", "arn:aws:table/T", true),
            ("arn:*:table/T", "arn:aws:table/Type", false),
            ("table/T/stream/*", "table/T/stream/2026", true),
            ("table/T/stream/*", "table/T", false),
            ("*ab", "aab", true),
            ("a*b*c", "abxbxc", true),
            ("a*b*c", "abxbx", false),
            ("T?", "T1", true),
            ("T?", "T", false),
        ] {
            assert_eq!(matches(pattern, text), is_match, "{pattern} {text}");
        }
    }

    #[test]
    fn a_call_needs_its_own_action_a_transaction_that_of_each_part_and_a_batch_its_tables() {
        let item = required_for("DynamoDB_20120810.GetItem", &json!({"TableName": "T"}));
        assert_eq!(item, ["dynamodb:GetItem arn:T"]);
        let query = required_for("DynamoDB_20120810.Query", &json!({"TableName": "T", "IndexName": "I"}));
        assert_eq!(query, ["dynamodb:Query arn:T/index/I"]);
        let transaction = json!({"TransactItems": [
            {"Put": {"TableName": "T"}}, {"Put": {"TableName": "T"}}, {"ConditionCheck": {"TableName": "U"}},
        ]});
        let transaction = required_for("DynamoDB_20120810.TransactWriteItems", &transaction);
        assert_eq!(transaction, ["dynamodb:ConditionCheckItem arn:U", "dynamodb:PutItem arn:T"]);
        let batch = required_for("DynamoDB_20120810.BatchGetItem", &json!({"RequestItems": {"T": {}, "U": {}}}));
        assert_eq!(batch, ["dynamodb:BatchGetItem arn:T", "dynamodb:BatchGetItem arn:U"]);
        let page = json!({"ShardIterator": "arn:T/stream/L|1|AAAA"});
        assert_eq!(required_for("DynamoDBStreams_20120810.GetRecords", &page), ["dynamodb:GetRecords arn:T/stream/L"]);
    }

    #[test]
    fn what_no_statement_allows_is_refused_with_its_name() {
        let policy = Policy::from_json(&json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": ["dynamodb:getitem", "dynamodb:PutItem"], "Resource": "arn:T"},
        ]}));
        let policy = policy.expect("a good policy");
        let refusal = |action: &str, resource: &str| {
            policy.refusal(&BTreeSet::from([RequiredPermission {
                action: action.to_owned(),
                resource: resource.to_owned(),
            }]))
        };
        assert_eq!(refusal("dynamodb:GetItem", "arn:T"), None);
        let refused = refusal("dynamodb:PutItem", "arn:U").expect("another table");
        assert_eq!(refused.code(), "AccessDeniedException");
        assert!(refused.message().contains("dynamodb:PutItem on resource: arn:U"), "{refused}");
        assert!(refusal("dynamodb:Scan", "arn:T").is_some());
    }

    #[test]
    fn a_policy_with_more_than_is_understood_is_not_taken() {
        for statement in [
            json!({"Effect": "Deny", "Action": "*", "Resource": "*"}),
            json!({"Effect": "Allow", "NotAction": "*", "Resource": "*"}),
            json!({"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {}}),
            json!({"Effect": "Allow", "Action": [1], "Resource": "*"}),
        ] {
            assert!(Policy::from_json(&json!({"Statement": statement})).is_err(), "{statement}");
        }
    }
}
