//! The members of CreateTable and UpdateTable that define a table: attributes, keys, indexes and throughput.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::error::ServiceError;
use crate::index::{IndexProjection, Scope, SecondaryIndex};
use crate::request::{Parameters, missing};
use crate::table::{KeyAttribute, KeySchema};
use crate::tables::check_name;

pub(crate) const MAX_GLOBAL_INDEXES: usize = 20;
const MAX_LOCAL_INDEXES: usize = 5;

/// The types of key attributes by name.
pub(crate) type AttributeKinds = BTreeMap<String, String>;

/// `AttributeDefinitions`.
pub(crate) fn attribute_kinds(parameters: &Parameters<'_>) -> Result<Option<AttributeKinds>, ServiceError> {
    let Some(definitions) = parameters.list("AttributeDefinitions")? else {
        return Ok(None);
    };
    let mut kinds = AttributeKinds::new();
    for definition in definitions {
        let definition = Parameters::new(definition, &["AttributeName", "AttributeType"])?;
        definition.required("AttributeType")?;
        let kind = definition.choice("AttributeType", &["S", "N", "B"])?;
        kinds.insert(definition.required_text("AttributeName")?.to_owned(), kind.to_owned());
    }
    Ok(Some(kinds))
}

/// `KeySchema` of a table or an index.
pub(crate) fn key_schema(parameters: &Parameters<'_>, kinds: &AttributeKinds) -> Result<KeySchema, ServiceError> {
    let elements = parameters.list("KeySchema")?.ok_or_else(|| missing("KeySchema"))?;
    let mut attributes = Vec::new();
    for (element, wanted) in elements.iter().zip(["HASH", "RANGE"]) {
        let element = Parameters::new(element, &["AttributeName", "KeyType"])?;
        let name = element.required_text("AttributeName")?;
        if element.required_text("KeyType")? != wanted {
            return Err(invalid_key_schema(wanted));
        }
        let Some(kind) = kinds.get(name) else {
            return Err(invalid(format!(
                "Some index key attributes are not defined in AttributeDefinitions. Keys: [{name}], \
                 AttributeDefinitions: [{}]",
                names(kinds.keys())
            )));
        };
        attributes.push(KeyAttribute { name: name.to_owned(), kind: kind.clone() });
    }
    if elements.is_empty() || elements.len() > 2 {
        return Err(ServiceError::validation(
            "1 validation error detected: Value at 'keySchema' failed to satisfy constraint: Member must have length \
             between 1 and 2",
        ));
    }
    let mut attributes = attributes.into_iter();
    match (attributes.next(), attributes.next()) {
        (Some(hash), Some(range)) if hash.name == range.name => Err(ServiceError::validation(
            "Both the Hash Key and the Range Key element in the KeySchema have the same name",
        )),
        (Some(hash), range) => Ok(KeySchema { hash, range }),
        (None, _) => Err(invalid_key_schema("HASH")),
    }
}

/// `LocalSecondaryIndexes` and `GlobalSecondaryIndexes` of a new table.
pub(crate) fn indexes(
    parameters: &Parameters<'_>,
    kinds: &AttributeKinds,
    table: &KeySchema,
    on_demand: bool,
) -> Result<Vec<SecondaryIndex>, ServiceError> {
    let mut indexes = Vec::new();
    let mut index_names = BTreeSet::new();
    for (member, scope) in [("LocalSecondaryIndexes", Scope::Local), ("GlobalSecondaryIndexes", Scope::Global)] {
        let Some(list) = parameters.list(member)? else {
            continue;
        };
        let problem = match scope {
            _ if list.is_empty() => Some(format!("List of {member} is empty")),
            Scope::Local if table.range.is_none() => Some(
                "Table KeySchema does not have a range key, which is required when specifying a LocalSecondaryIndex"
                    .to_owned(),
            ),
            Scope::Local if list.len() > MAX_LOCAL_INDEXES => {
                Some(format!("Number of LocalSecondaryIndexes exceeds per-table limit of {MAX_LOCAL_INDEXES}"))
            }
            Scope::Global if list.len() > MAX_GLOBAL_INDEXES => {
                Some(format!("GlobalSecondaryIndex count exceeds the per-table limit of {MAX_GLOBAL_INDEXES}"))
            }
            _ => None,
        };
        if let Some(problem) = problem {
            return Err(invalid(problem));
        }
        for definition in list {
            let index = match scope {
                Scope::Local => local_index(definition, kinds, table)?,
                Scope::Global => global_index(definition, kinds, on_demand)?,
            };
            if !index_names.insert(index.name.clone()) {
                return Err(invalid(format!("Duplicate index name: {}", index.name)));
            }
            indexes.push(index);
        }
    }
    Ok(indexes)
}

/// Refuses definitions of attributes that are no key.
pub(crate) fn check_kinds_used(
    kinds: &AttributeKinds,
    table: &KeySchema,
    indexes: &[SecondaryIndex],
) -> Result<(), ServiceError> {
    let schemas = std::iter::once(table).chain(indexes.iter().map(|index| &index.schema));
    let used: BTreeSet<&String> = schemas.flat_map(KeySchema::attributes).map(|attribute| &attribute.name).collect();
    if used.len() == kinds.len() {
        return Ok(());
    }
    Err(invalid(if indexes.is_empty() {
        "Number of attributes in KeySchema does not exactly match number of attributes defined in AttributeDefinitions"
            .to_owned()
    } else {
        format!(
            "Some AttributeDefinitions are not used. AttributeDefinitions: [{}], keys used: [{}]",
            names(kinds.keys()),
            names(used)
        )
    }))
}

/// A global index, as CreateTable and UpdateTable define it.
pub(crate) fn global_index(
    definition: &Value,
    kinds: &AttributeKinds,
    on_demand: bool,
) -> Result<SecondaryIndex, ServiceError> {
    let known = ["IndexName", "KeySchema", "Projection", "ProvisionedThroughput", "OnDemandThroughput"];
    let members = Parameters::new(definition, &known)?;
    let name = index_name(&members)?;
    let schema = key_schema(&members, kinds)?;
    let projection = projection(&members)?;
    let throughput = throughput(&members)?;
    match (on_demand, throughput) {
        (false, None) => return Err(invalid(format!("ProvisionedThroughput is not specified for index: {name}"))),
        (true, Some(_)) => {
            return Err(invalid(format!(
                "ProvisionedThroughput should not be specified for index: {name} when BillingMode is PAY_PER_REQUEST"
            )));
        }
        _ => {}
    }
    Ok(SecondaryIndex::new(name, Scope::Global, schema, projection, throughput.unwrap_or_default()))
}

fn local_index(definition: &Value, kinds: &AttributeKinds, table: &KeySchema) -> Result<SecondaryIndex, ServiceError> {
    let members = Parameters::new(definition, &["IndexName", "KeySchema", "Projection"])?;
    let name = index_name(&members)?;
    let schema = key_schema(&members, kinds)?;
    if schema.range.is_none() {
        return Err(invalid(format!("Index KeySchema does not have a range key for index: {name}")));
    }
    if schema.hash.name != table.hash.name {
        return Err(invalid(format!(
            "Index KeySchema does not have the same leading hash key as table KeySchema for index: {name}. index hash \
             key: {}, table hash key: {}",
            schema.hash.name, table.hash.name
        )));
    }
    Ok(SecondaryIndex::new(name, Scope::Local, schema, projection(&members)?, (0, 0)))
}

pub(crate) fn index_name(members: &Parameters<'_>) -> Result<String, ServiceError> {
    let name = members.required_text("IndexName")?;
    check_name(name)?;
    Ok(name.to_owned())
}

fn projection(members: &Parameters<'_>) -> Result<IndexProjection, ServiceError> {
    let projection = Parameters::new(members.required("Projection")?, &["ProjectionType", "NonKeyAttributes"])?;
    let kind = projection.text("ProjectionType")?;
    let mut included = Vec::new();
    for name in projection.list("NonKeyAttributes")?.into_iter().flatten() {
        let name = name.as_str().unwrap_or_default().to_owned();
        if included.contains(&name) {
            return Err(invalid(format!("Duplicate non-key attribute: {name}")));
        }
        included.push(name);
    }
    match (kind, included.is_empty()) {
        (Some("ALL"), true) => Ok(IndexProjection::All),
        (Some("KEYS_ONLY"), true) => Ok(IndexProjection::KeysOnly),
        (Some("INCLUDE"), false) => Ok(IndexProjection::Include(included)),
        (Some("INCLUDE"), true) => Err(invalid("ProjectionType is INCLUDE, but NonKeyAttributes is not specified")),
        (Some(kind @ ("ALL" | "KEYS_ONLY")), false) => {
            Err(invalid(format!("ProjectionType is {kind}, but NonKeyAttributes is specified")))
        }
        (kind, _) => Err(invalid(format!("Unknown ProjectionType: {}", kind.unwrap_or("null")))),
    }
}

/// `ProvisionedThroughput`: read and write units.
pub(crate) fn throughput(parameters: &Parameters<'_>) -> Result<Option<(i64, i64)>, ServiceError> {
    let Some(throughput) = parameters.value("ProvisionedThroughput") else {
        return Ok(None);
    };
    let units = Parameters::new(throughput, &["ReadCapacityUnits", "WriteCapacityUnits"])?;
    let read = units.integer("ReadCapacityUnits")?;
    let write = units.integer("WriteCapacityUnits")?;
    match (read, write) {
        (Some(read), Some(write)) if read >= 1 && write >= 1 => Ok(Some((read, write))),
        _ => Err(ServiceError::validation(
            "1 validation error detected: Values at 'provisionedThroughput' failed to satisfy constraint: Members \
             must have value greater than or equal to 1",
        )),
    }
}

fn invalid_key_schema(wanted: &str) -> ServiceError {
    let place = if wanted == "HASH" { "first" } else { "second" };
    ServiceError::validation(format!("Invalid KeySchema: The {place} KeySchemaElement is not a {wanted} key type"))
}

fn invalid(problem: impl AsRef<str>) -> ServiceError {
    ServiceError::validation(format!("One or more parameter values were invalid: {}", problem.as_ref()))
}

fn names<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    names.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
