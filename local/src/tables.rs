//! The operations on whole tables.

use std::ops::Bound;

use serde_json::{Value, json};

use crate::emulator::{Emulator, Reply, json_reply};
use crate::error::ServiceError;
use crate::options::LocalOptions;
use crate::request::{Parameters, missing};
use crate::stream::lifecycle::{Stream, StreamContext};
use crate::stream::record::ViewType;
use crate::table::{KeyAttribute, KeySchema, Table, TableSettings};
use crate::timestamp::Timestamp;

impl Emulator {
    pub(super) fn create_table(&mut self, now: Timestamp, body: &Value) -> Reply {
        let known = [
            "TableName",
            "AttributeDefinitions",
            "KeySchema",
            "BillingMode",
            "ProvisionedThroughput",
            "StreamSpecification",
            "DeletionProtectionEnabled",
            "SSESpecification",
            "TableClass",
            "Tags",
        ];
        let parameters = Parameters::new(body, &known)?;
        let name = table_name(&parameters)?;
        let schema = key_schema(&parameters)?;
        let throughput = throughput(&parameters)?;
        let mode = parameters.choice("BillingMode", &["PROVISIONED", "PAY_PER_REQUEST"])?;
        let on_demand = mode == "PAY_PER_REQUEST";
        check_throughput(on_demand, throughput)?;
        let view = stream_specification(&parameters)?;
        let deletion_protection = parameters.flag("DeletionProtectionEnabled")?.unwrap_or(false);
        if self.tables.contains_key(name) {
            return Err(ServiceError::new("ResourceInUseException", format!("Table already exists: {name}")));
        }
        let mut table = Table::new(TableSettings {
            name: name.to_owned(),
            id: uuid(self.random.u64(..), self.random.u64(..)),
            schema,
            created: now,
            on_demand,
            throughput: throughput.unwrap_or_default(),
            deletion_protection,
        });
        if let Some(Some(view)) = view {
            self.enable_stream(now, &mut table, view);
        }
        let description = self.describe(&table);
        self.tables.insert(name.to_owned(), table);
        json_reply(&json!({"TableDescription": description}))
    }

    pub(super) fn describe_table(&mut self, body: &Value) -> Reply {
        let parameters = Parameters::new(body, &["TableName"])?;
        let table = self.table_for_control(table_name(&parameters)?)?;
        json_reply(&json!({"Table": self.describe(table)}))
    }

    pub(super) fn list_tables(&mut self, body: &Value) -> Reply {
        let parameters = Parameters::new(body, &["ExclusiveStartTableName", "Limit"])?;
        let limit = parameters.limit()?.unwrap_or(100);
        if limit > 100 {
            return Err(ServiceError::validation(format!(
                "1 validation error detected: Value '{limit}' at 'limit' failed to satisfy constraint: Member must \
                 have value less than or equal to 100"
            )));
        }
        let start = parameters.text("ExclusiveStartTableName")?;
        let after = start.map_or(Bound::Unbounded, Bound::Excluded);
        let mut names = self.tables.range::<str, _>((after, Bound::Unbounded)).map(|(name, _)| name);
        let page: Vec<&String> = names.by_ref().take(limit).collect();
        let mut answer = json!({"TableNames": page});
        if let (true, Some(last)) = (names.next().is_some(), page.last()) {
            answer["LastEvaluatedTableName"] = (*last).clone().into();
        }
        json_reply(&answer)
    }

    pub(super) fn update_table(&mut self, now: Timestamp, body: &Value) -> Reply {
        let known = [
            "TableName",
            "AttributeDefinitions",
            "BillingMode",
            "ProvisionedThroughput",
            "StreamSpecification",
            "DeletionProtectionEnabled",
            "TableClass",
        ];
        let parameters = Parameters::new(body, &known)?;
        let name = table_name(&parameters)?;
        self.table_for_control(name)?;
        let mode = parameters.text("BillingMode")?;
        let throughput = throughput(&parameters)?;
        let view = stream_specification(&parameters)?;
        let protection = parameters.flag("DeletionProtectionEnabled")?;
        if mode.is_none() && throughput.is_none() && view.is_none() && protection.is_none() {
            return Err(ServiceError::validation(
                "At least one of ProvisionedThroughput, BillingMode, UpdateStreamEnabled, GlobalSecondaryIndexUpdates \
                 or SSESpecification or ReplicaUpdates is required",
            ));
        }
        let mode = match mode {
            Some(_) => Some(parameters.choice("BillingMode", &["PROVISIONED", "PAY_PER_REQUEST"])?),
            None => None,
        };
        self.check_stream_change(name, view)?;
        let Some(mut table) = self.tables.remove(name) else {
            return Err(table_not_found(name));
        };
        table.on_demand = mode.map_or(table.on_demand, |mode| mode == "PAY_PER_REQUEST");
        table.throughput = throughput.unwrap_or(table.throughput);
        table.deletion_protection = protection.unwrap_or(table.deletion_protection);
        match view {
            Some(Some(view)) => self.enable_stream(now, &mut table, view),
            Some(None) => self.disable_stream(now, &mut table),
            None => {}
        }
        let description = self.describe(&table);
        self.tables.insert(name.to_owned(), table);
        json_reply(&json!({"TableDescription": description}))
    }

    pub(super) fn delete_table(&mut self, now: Timestamp, body: &Value) -> Reply {
        let parameters = Parameters::new(body, &["TableName"])?;
        let name = table_name(&parameters)?;
        if self.table_for_control(name)?.deletion_protection {
            return Err(ServiceError::validation(
                "Resource cannot be deleted as it is currently protected against deletion. Disable deletion \
                 protection first.",
            ));
        }
        let Some(mut table) = self.tables.remove(name) else {
            return Err(table_not_found(name));
        };
        if table.stream_enabled {
            self.disable_stream(now, &mut table);
        }
        self.plan();
        let mut description = self.describe(&table);
        description["TableStatus"] = "DELETING".into();
        json_reply(&json!({"TableDescription": description}))
    }

    /// The table that a control operation names.
    pub(super) fn table_for_control(&self, name: &str) -> Result<&Table, ServiceError> {
        self.tables.get(name).ok_or_else(|| table_not_found(name))
    }

    /// The table that an operation on items names.
    pub(super) fn table_for_items(&self, name: &str) -> Result<&Table, ServiceError> {
        self.tables.get(name).ok_or_else(|| ServiceError::not_found("Requested resource not found"))
    }

    fn check_stream_change(&self, name: &str, view: Option<Option<ViewType>>) -> Result<(), ServiceError> {
        let enabled = self.table_for_control(name)?.stream_enabled;
        match view {
            Some(Some(_)) if enabled => {
                Err(ServiceError::validation(format!("Table already has an enabled stream: TableName: {name}")))
            }
            Some(None) if !enabled => {
                Err(ServiceError::validation(format!("Table has no stream to disable: TableName: {name}")))
            }
            _ => Ok(()),
        }
    }

    /// Begins a new stream, with an ARN that no stream of this account had before.
    fn enable_stream(&mut self, now: Timestamp, table: &mut Table, view: ViewType) {
        let mut labelled = now;
        let (arn, label) = loop {
            let label = labelled.to_string();
            let arn = format!("{}/stream/{label}", self.table_arn(&table.name));
            if !self.streams.contains_key(&arn) {
                break (arn, label);
            }
            labelled = labelled.plus(std::time::Duration::from_millis(1));
        };
        table.stream_enabled = true;
        table.latest_stream = Some(arn.clone());
        let mut context = StreamContext { now, options: &self.options, random: &mut self.random };
        let stream = Stream::new(table, arn.clone(), label, view, &mut context);
        self.streams.insert(arn, stream);
        self.plan();
    }

    fn disable_stream(&mut self, now: Timestamp, table: &mut Table) {
        table.stream_enabled = false;
        if let Some(stream) = table.latest_stream.as_ref().and_then(|arn| self.streams.get_mut(arn)) {
            let mut context = StreamContext { now, options: &self.options, random: &mut self.random };
            stream.disable(&mut context);
        }
        self.plan();
    }

    pub(super) fn table_arn(&self, name: &str) -> String {
        let LocalOptions { region, account_id, .. } = &self.options;
        format!("arn:aws:dynamodb:{region}:{account_id}:table/{name}")
    }

    /// The API's `TableDescription`.
    fn describe(&self, table: &Table) -> Value {
        let definitions: Vec<Value> = table
            .schema
            .attributes()
            .map(|attribute| json!({"AttributeName": attribute.name, "AttributeType": attribute.kind}))
            .collect();
        let (read, write) = table.throughput;
        let mut description = json!({
            "AttributeDefinitions": definitions,
            "TableName": table.name,
            "KeySchema": table.schema.to_json(),
            "TableStatus": "ACTIVE",
            "CreationDateTime": table.created.to_json(),
            "ProvisionedThroughput": {
                "NumberOfDecreasesToday": 0,
                "ReadCapacityUnits": read,
                "WriteCapacityUnits": write,
            },
            "TableSizeBytes": table.bytes(),
            "ItemCount": table.item_count(),
            "TableArn": self.table_arn(&table.name),
            "TableId": table.id,
            "DeletionProtectionEnabled": table.deletion_protection,
        });
        if table.on_demand {
            description["BillingModeSummary"] = json!({
                "BillingMode": "PAY_PER_REQUEST",
                "LastUpdateToPayPerRequestDateTime": table.created.to_json(),
            });
        }
        if let Some(arn) = &table.latest_stream {
            let label = arn.rsplit_once("/stream/").map_or("", |(_, label)| label);
            description["LatestStreamArn"] = arn.clone().into();
            description["LatestStreamLabel"] = label.into();
            if let (true, Some(stream)) = (table.stream_enabled, self.streams.get(arn)) {
                description["StreamSpecification"] =
                    json!({"StreamEnabled": true, "StreamViewType": stream.view.name()});
            }
        }
        description
    }
}

/// The table's name, or the name within its ARN.
pub(super) fn table_name<'a>(parameters: &Parameters<'a>) -> Result<&'a str, ServiceError> {
    let given = parameters.required_text("TableName")?;
    let name = match given.rsplit_once(":table/") {
        Some((_, name)) if given.starts_with("arn:") => name,
        _ => given,
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if !(3..=255).contains(&name.len()) || !name.bytes().all(allowed) {
        return Err(ServiceError::validation(
            "Invalid table/index name.  Table/index names must be between 3 and 255 characters long, and may contain \
             only the characters a-z, A-Z, 0-9, '_', '-', and '.'",
        ));
    }
    Ok(name)
}

fn table_not_found(name: &str) -> ServiceError {
    ServiceError::not_found(format!("Requested resource not found: Table: {name} not found"))
}

/// `StreamSpecification`: absent, off (`Some(None)`), or on with a view type.
#[allow(clippy::option_option)] // three cases, and the two inner ones are what a stream can be
fn stream_specification(parameters: &Parameters<'_>) -> Result<Option<Option<ViewType>>, ServiceError> {
    let Some(specification) = parameters.value("StreamSpecification") else {
        return Ok(None);
    };
    let specification = Parameters::new(specification, &["StreamEnabled", "StreamViewType"])?;
    let enabled = specification.flag("StreamEnabled")?.ok_or_else(|| missing("StreamSpecification.streamEnabled"))?;
    let view = specification.text("StreamViewType")?;
    match (enabled, view) {
        (false, None) => Ok(Some(None)),
        (false, Some(_)) => Err(ServiceError::validation(
            "One or more parameter values were invalid: StreamViewType is not allowed when StreamEnabled is false",
        )),
        (true, None) => Err(ServiceError::validation(
            "One or more parameter values were invalid: StreamViewType is required when StreamEnabled is true",
        )),
        (true, Some(name)) => match ViewType::parse(name) {
            Some(view) => Ok(Some(Some(view))),
            None => Err(ServiceError::validation(format!(
                "1 validation error detected: Value '{name}' at 'streamSpecification.streamViewType' failed to \
                 satisfy constraint: Member must satisfy enum value set: [NEW_IMAGE, OLD_IMAGE, NEW_AND_OLD_IMAGES, \
                 KEYS_ONLY]"
            ))),
        },
    }
}

fn key_schema(parameters: &Parameters<'_>) -> Result<KeySchema, ServiceError> {
    let elements = parameters.list("KeySchema")?.ok_or_else(|| missing("KeySchema"))?;
    let definitions = parameters.list("AttributeDefinitions")?.ok_or_else(|| missing("AttributeDefinitions"))?;
    let mut kinds = std::collections::BTreeMap::new();
    for definition in definitions {
        let definition = Parameters::new(definition, &["AttributeName", "AttributeType"])?;
        definition.required("AttributeType")?;
        let kind = definition.choice("AttributeType", &["S", "N", "B"])?;
        kinds.insert(definition.required_text("AttributeName")?, kind);
    }
    let mut attributes = Vec::new();
    for (element, wanted) in elements.iter().zip(["HASH", "RANGE"]) {
        let element = Parameters::new(element, &["AttributeName", "KeyType"])?;
        let name = element.required_text("AttributeName")?;
        if element.required_text("KeyType")? != wanted {
            return Err(invalid_key_schema(wanted));
        }
        let Some(kind) = kinds.get(name) else {
            return Err(ServiceError::validation(format!(
                "One or more parameter values were invalid: Some index key attributes are not defined in \
                 AttributeDefinitions. Keys: [{name}], AttributeDefinitions: [{}]",
                kinds.keys().copied().collect::<Vec<_>>().join(", ")
            )));
        };
        attributes.push(KeyAttribute { name: name.to_owned(), kind: (*kind).to_owned() });
    }
    if elements.is_empty() || elements.len() > 2 {
        return Err(ServiceError::validation(
            "1 validation error detected: Value at 'keySchema' failed to satisfy constraint: Member must have length \
             between 1 and 2",
        ));
    }
    if kinds.len() != attributes.len() {
        return Err(ServiceError::validation(
            "One or more parameter values were invalid: Number of attributes in KeySchema does not exactly match \
             number of attributes defined in AttributeDefinitions",
        ));
    }
    let mut attributes = attributes.into_iter();
    match (attributes.next(), attributes.next()) {
        (Some(hash), range) => Ok(KeySchema { hash, range }),
        (None, _) => Err(invalid_key_schema("HASH")),
    }
}

fn invalid_key_schema(wanted: &str) -> ServiceError {
    let place = if wanted == "HASH" { "first" } else { "second" };
    ServiceError::validation(format!("Invalid KeySchema: The {place} KeySchemaElement is not a {wanted} key type"))
}

fn throughput(parameters: &Parameters<'_>) -> Result<Option<(i64, i64)>, ServiceError> {
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

fn check_throughput(on_demand: bool, throughput: Option<(i64, i64)>) -> Result<(), ServiceError> {
    let message = match (on_demand, throughput) {
        (false, None) => {
            "One or more parameter values were invalid: ReadCapacityUnits and WriteCapacityUnits must both be \
             specified when BillingMode is PROVISIONED"
        }
        (true, Some(_)) => {
            "One or more parameter values were invalid: Neither ReadCapacityUnits nor WriteCapacityUnits can be \
             specified when BillingMode is PAY_PER_REQUEST"
        }
        _ => return Ok(()),
    };
    Err(ServiceError::validation(message))
}

/// A random identifier in the form of a UUID of version 4.
fn uuid(high: u64, low: u64) -> String {
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 48 & 0x3fff | 0x8000,
        low & 0xffff_ffff_ffff
    )
}
