//! The operations on whole tables.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use serde_json::{Value, json};

use crate::definition::{
    MAX_GLOBAL_INDEXES, attribute_kinds, check_kinds_used, global_index, index_name, indexes, key_schema, throughput,
};
use crate::emulator::{Emulator, Reply, json_reply};
use crate::error::ServiceError;
use crate::index::{IndexStatus, Scope, SecondaryIndex};
use crate::options::LocalOptions;
use crate::request::{Parameters, missing};
use crate::stream::lifecycle::{Stream, StreamContext};
use crate::stream::record::ViewType;
use crate::table::{KeySchema, Table, TableSettings};
use crate::tags::read_tags;
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
            "GlobalSecondaryIndexes",
            "LocalSecondaryIndexes",
        ];
        let parameters = Parameters::new(body, &known)?;
        let name = table_name(&parameters)?;
        let kinds = attribute_kinds(&parameters)?.ok_or_else(|| missing("AttributeDefinitions"))?;
        let schema = key_schema(&parameters, &kinds)?;
        let throughput = throughput(&parameters)?;
        let mode = parameters.choice("BillingMode", &["PROVISIONED", "PAY_PER_REQUEST"])?;
        let on_demand = mode == "PAY_PER_REQUEST";
        check_throughput(on_demand, throughput)?;
        let tags = read_tags(&parameters)?;
        let indexes = indexes(&parameters, &kinds, &schema, on_demand)?;
        check_kinds_used(&kinds, &schema, &indexes)?;
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
            indexes,
            tags,
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
            "GlobalSecondaryIndexUpdates",
        ];
        let parameters = Parameters::new(body, &known)?;
        let name = table_name(&parameters)?;
        let table = self.table_for_control(name)?;
        let mode = parameters.text("BillingMode")?;
        let throughput = throughput(&parameters)?;
        let view = stream_specification(&parameters)?;
        let protection = parameters.flag("DeletionProtectionEnabled")?;
        let index_updates = parameters.list("GlobalSecondaryIndexUpdates")?.filter(|updates| !updates.is_empty());
        let has_setting = mode.is_some() || throughput.is_some() || view.is_some() || protection.is_some();
        if !has_setting && index_updates.is_none() {
            return Err(ServiceError::validation(
                "At least one of ProvisionedThroughput, BillingMode, UpdateStreamEnabled, GlobalSecondaryIndexUpdates \
                 or SSESpecification or ReplicaUpdates is required",
            ));
        }
        let mode = match mode {
            Some(_) => Some(parameters.choice("BillingMode", &["PROVISIONED", "PAY_PER_REQUEST"])?),
            None => None,
        };
        let index_changes = match index_updates {
            Some(updates) => index_changes(table, &parameters, updates)?,
            None => Vec::new(),
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
        let settled = now.plus(self.options.index_backfill);
        for change in index_changes {
            change.apply(&mut table, settled);
        }
        let description = self.describe(&table);
        self.tables.insert(name.to_owned(), table);
        self.plan();
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

    /// Completes the creation and deletion of indexes whose time has come.
    pub(super) fn settle_indexes(&mut self, now: Timestamp) {
        for table in self.tables.values_mut() {
            table.indexes.retain(|index| !matches!(index.status, IndexStatus::Deleting(gone) if gone <= now));
            for index in &mut table.indexes {
                if matches!(index.status, IndexStatus::Creating(active) if active <= now) {
                    index.status = IndexStatus::Active;
                }
            }
        }
    }

    /// The API's `TableDescription`.
    fn describe(&self, table: &Table) -> Value {
        let schemas = std::iter::once(&table.schema).chain(table.indexes.iter().map(|index| &index.schema));
        let kinds: BTreeMap<&str, &str> = schemas
            .flat_map(KeySchema::attributes)
            .map(|attribute| (attribute.name.as_str(), attribute.kind.as_str()))
            .collect();
        let definitions: Vec<Value> =
            kinds.iter().map(|(name, kind)| json!({"AttributeName": name, "AttributeType": kind})).collect();
        let all_active = table.indexes.iter().all(|index| index.status == IndexStatus::Active);
        let (read, write) = table.throughput;
        let mut description = json!({
            "AttributeDefinitions": definitions,
            "TableName": table.name,
            "KeySchema": table.schema.to_json(),
            "TableStatus": if all_active { "ACTIVE" } else { "UPDATING" },
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
        for (member, scope) in [("GlobalSecondaryIndexes", Scope::Global), ("LocalSecondaryIndexes", Scope::Local)] {
            let indexes = table.indexes.iter().filter(|index| index.scope == scope);
            let described: Vec<Value> = indexes.map(|index| index.to_json(&self.table_arn(&table.name))).collect();
            if !described.is_empty() {
                description[member] = described.into();
            }
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
    check_name(name)?;
    Ok(name)
}

/// Refuses what is no name of a table or an index.
pub(super) fn check_name(name: &str) -> Result<(), ServiceError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if (3..=255).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(ServiceError::validation(
        "Invalid table/index name.  Table/index names must be between 3 and 255 characters long, and may contain only \
         the characters a-z, A-Z, 0-9, '_', '-', and '.'",
    ))
}

/// A change of a table's global indexes.
enum IndexChange {
    Create(SecondaryIndex),
    Update(String, (i64, i64)),
    Delete(String),
}

impl IndexChange {
    fn read(update: &Value, table: &Table, parameters: &Parameters<'_>) -> Result<Self, ServiceError> {
        let members = Parameters::new(update, &["Create", "Update", "Delete"])?;
        if let Some(create) = members.value("Create") {
            let mut kinds = attribute_kinds(parameters)?.unwrap_or_default();
            for attribute in table.schema.attributes() {
                kinds.entry(attribute.name.clone()).or_insert_with(|| attribute.kind.clone());
            }
            return global_index(create, &kinds, table.on_demand).map(Self::Create);
        }
        if let Some(update) = members.value("Update") {
            let members = Parameters::new(update, &["IndexName", "ProvisionedThroughput"])?;
            let units = throughput(&members)?.ok_or_else(|| missing("ProvisionedThroughput"))?;
            return Ok(Self::Update(index_name(&members)?, units));
        }
        if let Some(delete) = members.value("Delete") {
            return Ok(Self::Delete(index_name(&Parameters::new(delete, &["IndexName"])?)?));
        }
        Err(ServiceError::validation(
            "One or more parameter values were invalid: One of GlobalSecondaryIndexUpdate.Update, \
             GlobalSecondaryIndexUpdate.Create, GlobalSecondaryIndexUpdate.Delete must not be null",
        ))
    }

    fn index_name(&self) -> &str {
        match self {
            Self::Create(index) => &index.name,
            Self::Update(name, _) | Self::Delete(name) => name,
        }
    }

    /// Creation and deletion last until `settled`.
    fn apply(self, table: &mut Table, settled: Timestamp) {
        match self {
            Self::Create(mut index) => {
                index.status = IndexStatus::Creating(settled);
                table.add_index(index);
            }
            Self::Update(name, units) => {
                for index in table.indexes.iter_mut().filter(|index| index.name == name) {
                    index.throughput = units;
                }
            }
            Self::Delete(name) => {
                for index in table.indexes.iter_mut().filter(|index| index.name == name) {
                    index.status = IndexStatus::Deleting(settled);
                }
            }
        }
    }
}

/// Reads and checks `GlobalSecondaryIndexUpdates`.
fn index_changes(
    table: &Table,
    parameters: &Parameters<'_>,
    updates: &[Value],
) -> Result<Vec<IndexChange>, ServiceError> {
    let changes: Vec<IndexChange> =
        updates.iter().map(|update| IndexChange::read(update, table, parameters)).collect::<Result<_, _>>()?;
    let mut names = BTreeSet::new();
    let mut online = table.indexes.iter().filter(|index| index.status != IndexStatus::Active).count();
    for change in &changes {
        let name = change.index_name();
        if !names.insert(name) {
            return Err(ServiceError::validation(format!(
                "One or more parameter values were invalid: Only one global secondary index update per index is \
                 allowed simultaneously. Index: {name}"
            )));
        }
        let current = table.index(name);
        match (change, current) {
            (IndexChange::Create(_), Some(_)) => {
                return Err(ServiceError::validation("Attempting to create an index which already exists"));
            }
            (IndexChange::Update(..) | IndexChange::Delete(_), current)
                if current.is_none_or(|index| index.scope == Scope::Local) =>
            {
                return Err(ServiceError::not_found("Requested resource not found"));
            }
            (IndexChange::Create(_) | IndexChange::Delete(_), _) => online += 1,
            (IndexChange::Update(..), _) => {}
        }
        if online > 1 {
            return Err(ServiceError::new(
                "LimitExceededException",
                "Subscriber limit exceeded: Only 1 online index can be created or deleted simultaneously per table",
            ));
        }
    }
    let global = table.indexes.iter().filter(|index| index.scope == Scope::Global).count();
    let created = changes.iter().filter(|change| matches!(change, IndexChange::Create(_))).count();
    if global + created > MAX_GLOBAL_INDEXES {
        return Err(ServiceError::new(
            "LimitExceededException",
            format!("GlobalSecondaryIndex count exceeds the per-table limit of {MAX_GLOBAL_INDEXES}"),
        ));
    }
    Ok(changes)
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
