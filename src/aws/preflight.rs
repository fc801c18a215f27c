//! The questions of a preflight: calls that need the permission of an action and change nothing, whatever they find.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{AttributeDefinition, AttributeValue, KeySchemaElement, KeyType, KeysAndAttributes};
use aws_sdk_dynamodb::types::{BillingMode, ScalarAttributeType};

use super::clients::Clients;
use super::own_table::OwnTable;
use super::service_clock::ServiceClock;
use super::{TableError, TableRole};

/// The value of each key in a call that may not find an item.
const NO_KEY: &str = "shardkeeper-check";

impl Clients {
    /// The same clients; each answer sets `clock`.
    #[must_use]
    pub fn with_clock(self, clock: &ServiceClock) -> Self {
        let of_tables = |client: aws_sdk_dynamodb::Client| {
            aws_sdk_dynamodb::Client::from_conf(client.config().to_builder().interceptor(clock.clone()).build())
        };
        let streams = self.streams.config().to_builder().interceptor(clock.clone()).build();
        Self {
            tables: of_tables(self.tables),
            source: of_tables(self.source),
            streams: aws_sdk_dynamodbstreams::Client::from_conf(streams),
        }
    }

    /// The regions of a global table's replicas. Its replication may read the stream too.
    ///
    /// # Errors
    /// When the table cannot be described.
    pub async fn replicas(&self, table: &str) -> Result<Vec<String>, TableError> {
        let answer = self.source.describe_table().table_name(table).send().await;
        let answer = answer.map_err(|error| TableError::new("DescribeTable", TableRole::Source, table, &error))?;
        let replicas = answer.table.and_then(|table| table.replicas).unwrap_or_default();
        Ok(replicas.into_iter().filter_map(|replica| replica.region_name).collect())
    }
}

impl OwnTable {
    /// Calls `action`, such as `PutItem`, in a way that neither finds nor changes anything.
    ///
    /// # Errors
    /// [`TableError::Refused`] without the permission, [`TableError::Missing`] with it and without a table.
    pub(crate) async fn probe(&self, action: &'static str) -> Result<(), TableError> {
        const NEVER: &str = "attribute_exists(#key) AND attribute_not_exists(#key)";
        let (client, name) = (&self.client, self.name.as_str());
        let first = self.keys.first().copied().unwrap_or_default();
        let key = || -> HashMap<String, AttributeValue> {
            self.keys.iter().map(|key| ((*key).to_owned(), AttributeValue::S(NO_KEY.to_owned()))).collect()
        };
        let outcome = match action {
            "BatchGetItem" => {
                let keys = KeysAndAttributes::builder().keys(key()).build();
                let keys = keys.map_err(|error| self.unbuildable("BatchGetItem", &error))?;
                let call = client.batch_get_item().request_items(name, keys).send().await;
                call.map(drop).map_err(|error| self.error(action, &error))
            }
            "CreateTable" => return self.probe_creation().await,
            "DeleteItem" => {
                let call = client.delete_item().table_name(name).set_key(Some(key())).condition_expression(NEVER);
                let call = call.expression_attribute_names("#key", first).send().await;
                call.map(drop).map_err(|error| self.error(action, &error))
            }
            "GetItem" => {
                let call = client.get_item().table_name(name).set_key(Some(key())).send().await;
                call.map(drop).map_err(|error| self.error(action, &error))
            }
            "PutItem" => {
                let call = client.put_item().table_name(name).set_item(Some(key())).condition_expression(NEVER);
                let call = call.expression_attribute_names("#key", first).send().await;
                call.map(drop).map_err(|error| self.error(action, &error))
            }
            "Scan" => {
                let call = client.scan().table_name(name).limit(1).send().await;
                call.map(drop).map_err(|error| self.error(action, &error))
            }
            "UpdateItem" => {
                let call = client.update_item().table_name(name).set_key(Some(key())).condition_expression(NEVER);
                let call = call.expression_attribute_names("#key", first).send().await;
                call.map(drop).map_err(|error| self.error(action, &error))
            }
            _ => {
                let call = client.describe_table().table_name(name).send().await;
                call.map(drop).map_err(|error| self.error(action, &error))
            }
        };
        match outcome {
            // The condition was evaluated, so the action is allowed.
            Err(TableError::Unavailable { source, .. }) if source.code() == Some("ConditionalCheckFailedException") => {
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Asks for a table whose key has no definition, which the service refuses to anyone who may create tables.
    async fn probe_creation(&self) -> Result<(), TableError> {
        let unbuildable = |error| self.unbuildable("CreateTable", &error);
        let definition = AttributeDefinition::builder().attribute_name("other");
        let definition = definition.attribute_type(ScalarAttributeType::S).build().map_err(unbuildable)?;
        let key = KeySchemaElement::builder().attribute_name("key").key_type(KeyType::Hash);
        let key = key.build().map_err(unbuildable)?;
        let call = self.client.create_table().table_name(&self.name).billing_mode(BillingMode::PayPerRequest);
        let call = call.attribute_definitions(definition).key_schema(key).send().await;
        match call.map(drop).map_err(|error| self.error("CreateTable", &error)) {
            Err(TableError::Refused { source, .. }) if source.code() == Some("ValidationException") => Ok(()),
            outcome => outcome,
        }
    }
}
