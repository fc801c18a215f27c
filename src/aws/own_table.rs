//! A table of the application's own: created when it is missing, and waited for until it can be used.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TableDescription,
    TableStatus,
};

use super::calls::HealthInterceptor;
use super::item::Item;
use super::table_health::TableHealth;
use super::{CallError, TableError, TableRole};

/// The gaps between DescribeTable calls on a table that is being created: short at first, for local services are quick.
const FIRST_GAP: Duration = Duration::from_millis(20);
const LAST_GAP: Duration = Duration::from_secs(1);
/// The items of a page of a scan: so few that a page of a megabyte, which a slow link does not carry within the time-out
/// of short lease durations, is not asked for.
const SCAN_PAGE_ITEMS: i32 = 500;

/// The calls and errors that all tables share.
#[derive(Clone, Debug)]
pub(crate) struct OwnTable {
    pub(crate) client: Client,
    pub(crate) name: String,
    role: TableRole,
    /// The string hash key and, if there is a second one, the string sort key.
    pub(super) keys: &'static [&'static str],
}

impl OwnTable {
    pub(crate) fn new(client: Client, name: String, role: TableRole, keys: &'static [&'static str]) -> Self {
        Self { client, name, role, keys }
    }

    /// The same table; each call on it reports to `health` whether the table answers.
    #[must_use]
    pub(crate) fn with_health(self, health: &TableHealth) -> Self {
        let config = self.client.config().to_builder().interceptor(HealthInterceptor(health.clone())).build();
        Self { client: Client::from_conf(config), ..self }
    }

    /// Waits until the table is active; with `create`, creates it on demand when it is missing. Waits as long as the
    /// service takes: the caller sets the limit.
    ///
    /// # Errors
    /// [`TableError::Missing`] when it is missing and may not be created.
    pub(crate) async fn ensure(&self, create: bool) -> Result<(), TableError> {
        let mut gap = FIRST_GAP;
        let mut created = false;
        loop {
            match self.status().await? {
                Some(TableStatus::Active | TableStatus::Updating) => return Ok(()),
                Some(_) => {}
                None if created => {}
                None if create => {
                    self.create().await?;
                    created = true;
                    continue;
                }
                None => return Err(TableError::Missing { table: self.name.clone(), role: self.role }),
            }
            tokio::time::sleep(gap).await;
            gap = (gap * 2).min(LAST_GAP);
        }
    }

    /// Reads all items. An error means that some were not read.
    pub(crate) async fn scan(&self, mut read: impl FnMut(Item)) -> Result<(), TableError> {
        let mut start = None;
        loop {
            let call = self.client.scan().table_name(&self.name).consistent_read(true).limit(SCAN_PAGE_ITEMS);
            let page = call.set_exclusive_start_key(start).send().await.map_err(|error| self.error("Scan", &error))?;
            self.listed("Scan", page.items)?.into_iter().for_each(&mut read);
            start = page.last_evaluated_key.filter(|key| !key.is_empty());
            if start.is_none() {
                return Ok(());
            }
        }
    }

    pub(crate) async fn get(&self, key: HashMap<String, AttributeValue>) -> Result<Option<Item>, TableError> {
        let call = self.client.get_item().table_name(&self.name).consistent_read(true).set_key(Some(key));
        let answer = call.send().await.map_err(|error| self.error("GetItem", &error))?;
        Ok(answer.item)
    }

    /// The items of an answer, which lists them even when there are none.
    pub(crate) fn listed<T>(&self, operation: &'static str, items: Option<T>) -> Result<T, TableError> {
        let incomplete = || CallError::described(None, "the answer lists no items".into());
        let error = || TableError::Unavailable { operation, table: self.name.clone(), source: incomplete() };
        items.ok_or_else(error)
    }

    pub(crate) fn error<E>(&self, operation: &'static str, error: &SdkError<E>) -> TableError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        TableError::new(operation, self.role, &self.name, error)
    }

    /// The error of a call that the SDK could not put together.
    pub(crate) fn unbuildable(&self, operation: &'static str, error: &BuildError) -> TableError {
        TableError::Refused {
            operation,
            table: self.name.clone(),
            source: CallError::described(None, error.to_string()),
        }
    }

    /// Refuses a table that is there and has other keys. Calls on it would fail for reasons that mislead, or find nothing.
    /// A caller that may not describe it is left to them.
    ///
    /// # Errors
    /// [`TableError::Foreign`], and [`TableError::Unavailable`] without an answer.
    pub(crate) async fn check(&self) -> Result<(), TableError> {
        match self.status().await {
            Err(TableError::Refused { .. }) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    fn check_keys(&self, table: &TableDescription) -> Result<(), TableError> {
        let of_key = |key: &KeySchemaElement| {
            let mut definitions = table.attribute_definitions().iter();
            let definition = definitions.find(|definition| definition.attribute_name() == key.attribute_name());
            let kind = definition.map_or("?", |definition| definition.attribute_type().as_str());
            format!("{} ({kind})", key.attribute_name())
        };
        let found = table.key_schema().iter().map(of_key).collect::<Vec<_>>().join(", ");
        let wanted = self.keys.iter().map(|key| format!("{key} (S)")).collect::<Vec<_>>().join(", ");
        if found == wanted { Ok(()) } else { Err(TableError::Foreign { table: self.name.clone(), found, wanted }) }
    }

    /// The table's state; none when it is missing.
    pub(crate) async fn status(&self) -> Result<Option<TableStatus>, TableError> {
        let answer = self.client.describe_table().table_name(&self.name).send().await;
        match answer.map_err(|error| self.error("DescribeTable", &error)) {
            Ok(answer) => {
                let Some(table) = answer.table else { return Ok(None) };
                self.check_keys(&table)?;
                Ok(table.table_status)
            }
            Err(TableError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn create(&self) -> Result<(), TableError> {
        let unbuildable = |error: BuildError| self.unbuildable("CreateTable", &error);
        let (mut attributes, mut schema) = (Vec::new(), Vec::new());
        for (key, kind) in self.keys.iter().zip([KeyType::Hash, KeyType::Range]) {
            let attribute = AttributeDefinition::builder().attribute_name(*key).attribute_type(ScalarAttributeType::S);
            attributes.push(attribute.build().map_err(unbuildable)?);
            schema.push(KeySchemaElement::builder().attribute_name(*key).key_type(kind).build().map_err(unbuildable)?);
        }
        let call = self
            .client
            .create_table()
            .table_name(&self.name)
            .set_attribute_definitions(Some(attributes))
            .set_key_schema(Some(schema))
            .billing_mode(BillingMode::PayPerRequest);
        match call.send().await {
            Ok(_) => Ok(()),
            // Another worker was quicker.
            Err(error) if error.code() == Some("ResourceInUseException") => Ok(()),
            // Too many tables are being created at once: CreateTable is worth retrying.
            Err(error) => Err(self.error("CreateTable", &error)),
        }
    }
}
