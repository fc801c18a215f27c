//! Writes items to a table of its own, rolls its shards over, and reads every record in order, parents before children.
//!
//! `cargo run -p shardkeeper-local --example follow_a_stream`

use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    StreamSpecification, StreamViewType,
};
use aws_sdk_dynamodbstreams::types::ShardIteratorType;
use shardkeeper_local::{LocalService, StreamAction};

type Error = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let service = LocalService::start();
    let dynamodb = aws_sdk_dynamodb::Client::new(&service.sdk_config());
    let streams = aws_sdk_dynamodbstreams::Client::new(&service.sdk_config());

    let stream_arn = create_table(&dynamodb).await?;
    for size in ["6.1", "6.3"] {
        for model in ["Pixel 9", "iPhone 16", "3310"] {
            let item = dynamodb.put_item().table_name("Phones").item("Model", AttributeValue::S(model.into()));
            item.item("Size", AttributeValue::N(size.into())).send().await?;
        }
        // Each open shard closes, and a child continues its keys.
        service.change_shards("Phones", StreamAction::Rollover, None)?;
    }

    let description = streams.describe_stream().stream_arn(&stream_arn).send().await?;
    // Shards are listed in the order of their creation.
    for shard in description.stream_description().ok_or("no description")?.shards() {
        let shard_id = shard.shard_id().ok_or("no id")?;
        let iterator = streams.get_shard_iterator().stream_arn(&stream_arn).shard_id(shard_id);
        let iterator = iterator.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await?;
        let page = streams.get_records().set_shard_iterator(iterator.shard_iterator).send().await?;
        println!("{shard_id}, child of {:?}", shard.parent_shard_id().unwrap_or("none"));
        for record in page.records() {
            println!("  {:?} {:?}", record.event_name(), record.dynamodb().and_then(|change| change.new_image()));
        }
    }
    Ok(())
}

async fn create_table(dynamodb: &aws_sdk_dynamodb::Client) -> Result<String, Error> {
    let attribute =
        AttributeDefinition::builder().attribute_name("Model").attribute_type(ScalarAttributeType::S).build()?;
    let key = KeySchemaElement::builder().attribute_name("Model").key_type(KeyType::Hash).build()?;
    let stream =
        StreamSpecification::builder().stream_enabled(true).stream_view_type(StreamViewType::NewImage).build()?;
    let created = dynamodb
        .create_table()
        .table_name("Phones")
        .attribute_definitions(attribute)
        .key_schema(key)
        .billing_mode(BillingMode::PayPerRequest)
        .stream_specification(stream)
        .send()
        .await?;
    let table = created.table_description().ok_or("no description")?;
    Ok(table.latest_stream_arn().ok_or("no stream")?.to_owned())
}
