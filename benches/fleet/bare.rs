//! The loop that one would write by hand: the AWS SDK, a task a shard, GetRecords until nothing comes, and a count. It
//! has no leases, no checkpoints, no retries but the SDK's, and does nothing with the records.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use aws_sdk_dynamodbstreams::Client;
use aws_sdk_dynamodbstreams::types::ShardIteratorType;
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use tokio::task::JoinSet;

/// The first argument of this role.
pub const ROLE: &str = "as-bare-sdk-loop";

/// Reads the whole stream, and logs how many records there were as a worker does.
pub fn run(arguments: &[String]) -> Result<(), anyhow::Error> {
    let [url, arn] = arguments else { anyhow::bail!("{ROLE} takes a URL and a stream's ARN") };
    let records = tokio::runtime::Runtime::new()?.block_on(read(url, arn))?;
    eprintln!("{}", serde_json::json!({"message": "done", "records": records}));
    Ok(())
}

async fn read(url: &str, arn: &str) -> Result<u64, anyhow::Error> {
    let http =
        aws_smithy_http_client::Builder::new().tls_provider(tls::Provider::Rustls(CryptoMode::Ring)).build_https();
    let version = aws_config::BehaviorVersion::v2026_01_12();
    let config = aws_config::defaults(version).http_client(http).endpoint_url(url).load().await;
    let client = Client::new(&config);
    let records = Arc::new(AtomicU64::new(0));
    let mut shards = JoinSet::new();
    for shard in shard_ids(&client, arn).await? {
        let (client, arn, records) = (client.clone(), arn.to_owned(), Arc::clone(&records));
        shards.spawn(async move { read_shard(&client, &arn, &shard, &records).await });
    }
    while let Some(outcome) = shards.join_next().await {
        outcome??;
    }
    Ok(records.load(Ordering::Relaxed))
}

async fn shard_ids(client: &Client, arn: &str) -> Result<Vec<String>, anyhow::Error> {
    let (mut ids, mut after) = (Vec::new(), None);
    loop {
        let page = client.describe_stream().stream_arn(arn).set_exclusive_start_shard_id(after).send().await?;
        let page = page.stream_description.context("no description")?;
        ids.extend(page.shards.unwrap_or_default().into_iter().filter_map(|shard| shard.shard_id));
        after = page.last_evaluated_shard_id;
        if after.is_none() {
            return Ok(ids);
        }
    }
}

async fn read_shard(client: &Client, arn: &str, shard: &str, records: &AtomicU64) -> Result<(), anyhow::Error> {
    let iterator = client.get_shard_iterator().stream_arn(arn).shard_id(shard);
    let answer = iterator.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await?;
    let mut next = answer.shard_iterator;
    while let Some(iterator) = next {
        let page = client.get_records().shard_iterator(iterator).send().await?;
        if page.records().is_empty() {
            break;
        }
        records.fetch_add(page.records().len() as u64, Ordering::Relaxed);
        next = page.next_shard_iterator;
    }
    Ok(())
}
