//! Tables of our own: made when they are missing, and waited for until they can be used.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TableStatus,
};

use super::{TableError, describe};

/// The gaps between looks at a table that is being made: short at first, for local services are quick.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LAST_LOOK: Duration = Duration::from_secs(1);

/// Makes sure that the table is there and active; with `create`, makes it when it is missing: on demand, with the
/// string hash key and, if there is a second one, the string sort key in `keys`. Waits as long as the service takes; the caller sets the limit.
pub(crate) async fn ensure(client: &Client, table: &str, keys: &[&str], create: bool) -> Result<(), TableError> {
    let mut look = FIRST_LOOK;
    let mut created = false;
    loop {
        match status(client, table).await? {
            Some(TableStatus::Active | TableStatus::Updating) => return Ok(()),
            Some(_) => {}
            None if created => {}
            None if create => {
                self::create(client, table, keys).await?;
                created = true;
                continue;
            }
            None => return Err(TableError::Missing { table: table.to_owned() }),
        }
        tokio::time::sleep(look).await;
        look = (look * 2).min(LAST_LOOK);
    }
}

async fn status(client: &Client, table: &str) -> Result<Option<TableStatus>, TableError> {
    let answer = client.describe_table().table_name(table).send().await;
    match answer.map_err(|error| TableError::new("DescribeTable", table, &error)) {
        Ok(answer) => Ok(answer.table.and_then(|table| table.table_status)),
        Err(TableError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn create(client: &Client, table: &str, keys: &[&str]) -> Result<(), TableError> {
    let refused = |error: aws_sdk_dynamodb::error::BuildError| TableError::Refused {
        operation: "CreateTable",
        table: table.to_owned(),
        reason: error.to_string(),
    };
    let (mut attributes, mut schema) = (Vec::new(), Vec::new());
    for (key, kind) in keys.iter().zip([KeyType::Hash, KeyType::Range]) {
        let attribute = AttributeDefinition::builder().attribute_name(*key).attribute_type(ScalarAttributeType::S);
        attributes.push(attribute.build().map_err(refused)?);
        schema.push(KeySchemaElement::builder().attribute_name(*key).key_type(kind).build().map_err(refused)?);
    }
    let answer = client
        .create_table()
        .table_name(table)
        .set_attribute_definitions(Some(attributes))
        .set_key_schema(Some(schema))
        .billing_mode(BillingMode::PayPerRequest)
        .send()
        .await;
    match answer {
        Ok(_) => Ok(()),
        // Another worker was quicker.
        Err(error) if error.code() == Some("ResourceInUseException") => Ok(()),
        Err(error) if error.code() == Some("LimitExceededException") => {
            Err(TableError::Unavailable { operation: "CreateTable", table: table.to_owned(), reason: describe(&error) })
        }
        Err(error) => Err(TableError::new("CreateTable", table, &error)),
    }
}
